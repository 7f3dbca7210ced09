//! A real libvirtd with real QEMU guests, locked away from the machine's own.
//!
//! ```text
//!   test process            cage: own mounts, processes, network (launch.sh is its init)
//!   ────────────            ─────────────────────────────────────────────────────────────
//!   test's thread ─ setns ─▶ network: SimServer listens on the cage's 127.0.0.1
//!                  └ spawns ▶ libvirtd ── /run/libvirt ── agent, virsh
//!                               └ QEMU guests
//! ```
//!
//! Where that is impossible (not root, programs missing, namespaces forbidden) the tests say
//! `SKIPPED` with the reason on stderr and count themselves; with `REQUIRE_LIBVIRT=1` they fail
//! instead.
#![allow(clippy::disallowed_methods)]

pub mod cage;
pub mod edge;
pub mod guest;
pub mod host;
pub mod pair;
pub mod replay;
pub mod scene;
pub mod traces;
pub mod whole;

use cage::Cage;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs a test in the cage that all tests of well-behaved libvirt share; its libvirtd runs.
pub fn with_libvirt(test: impl AsyncFnOnce(&Cage) + Send) {
    on_own_thread(|| match shared() {
        Ok(cage) => cage.play(test),
        Err(reason) => skip(reason),
    });
}

/// The same outside of the cage: the test may start threads, and reaches what is inside by files
/// and sockets.
pub fn beside_libvirt(test: impl AsyncFnOnce(&Cage) + Send) {
    // To make the cage a thread has to enter it.
    on_own_thread(|| {
        shared();
    });
    on_own_thread(|| match shared() {
        Ok(cage) => cage.watch(test),
        Err(reason) => skip(reason),
    });
}

/// The same with a second cage, whose libvirtd is that of another host.
pub fn beside_two_libvirts(test: impl AsyncFnOnce(&Cage, &Cage) + Send) {
    let mut second = None;
    on_own_thread(|| {
        if shared().is_ok() {
            second = Some(Cage::with_libvirtd());
        }
    });
    on_own_thread(|| match (shared(), &second) {
        (Ok(first), Some(Ok(second))) => first.watch(async |first| test(first, second).await),
        (Err(reason), _) | (_, Some(Err(reason))) => skip(reason),
        (Ok(_), None) => unreachable!("made above"),
    });
}

fn shared() -> &'static Result<Cage, String> {
    static SHARED: OnceLock<Result<Cage, String>> = OnceLock::new();
    SHARED.get_or_init(Cage::with_libvirtd)
}

/// Runs a test in a cage of its own, in which libvirtd was not started yet.
pub fn in_own_cage(kvm: cage::Kvm, test: impl AsyncFnOnce(&Cage) + Send) {
    on_own_thread(|| match Cage::new(kvm) {
        Ok(cage) => cage.play(test),
        Err(reason) => skip(&reason),
    });
}

/// The same with its libvirtd running: nobody else's guests are there, and it may be killed.
pub fn alone_with_libvirt(test: impl AsyncFnOnce(&Cage) + Send) {
    in_own_cage(cage::Kvm::Absent, async |cage| {
        cage.start_libvirtd();
        let answers = tokio::time::timeout(crate::harness::LIMIT, cage.answers());
        answers.await.expect("libvirtd does not start");
        test(cage).await;
    });
}

/// Entering a cage changes the thread for good, which the test runner's threads must not suffer.
fn on_own_thread(work: impl FnOnce() + Send) {
    let name = std::thread::current().name().unwrap_or("real libvirt").to_owned();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, work).unwrap();
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Counts and tells a test that cannot run here. Past the test runner, which would swallow it.
fn skip(reason: &str) {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default();
    assert!(std::env::var_os("REQUIRE_LIBVIRT").is_none(), "{test} cannot run here: {reason}");
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let line = format!("\nSKIPPED: {test}: {reason}\nSKIPPED: {count} tests against a real libvirt so far\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
