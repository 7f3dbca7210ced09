//! From exec to the registration on the wire, and to Ready.
//!
//! A fresh host each time, with RSA keys as real hosts have them. The files are in the page cache
//! from the first run on; that one is not counted.

use crate::figures::{Figure, Samples, Verdict};
use crate::place::{self, POOL, Place, TEST_DRIVER};
use crate::{Failure, Figures};
use cloudstack_agent::host::exec::{Program, find_program};
use cloudstack_agent::hypervisor::Hypervisor;
use cloudstack_agent::sim::{KeyKind, Pki, SimConfig, SimEvent, SimServer};
use std::sync::Arc;
use std::time::Duration;

pub const SYSTEM: &str = "qemu:///system";
const LIMIT: Duration = Duration::from_secs(30);
const JAVA: &str = "2350 ms";

/// Milliseconds from exec.
struct Times {
    registered: f64,
    ready: f64,
}

pub async fn run(place: &Place, runs: usize) -> Figures {
    let pki = Arc::new(Pki::new(KeyKind::Rsa)?);
    let config = SimConfig { pki: Some(pki), ..place::server(Duration::from_secs(60)) };
    let server = SimServer::start(config).await?;
    let mut figures = times(place, &server, TEST_DRIVER, runs, 60.0).await?;
    if has_system_libvirt().await {
        let found = times(place, &server, SYSTEM, runs, 100.0).await;
        remove_pool().await;
        figures.extend(found?);
    } else {
        figures.push(
            Figure::new(name(SYSTEM), format!("skipped: no {SYSTEM}"))
                .target("100 ms", Verdict::None)
                .java(JAVA),
        );
    }
    Ok(figures)
}

fn name(uri: &str) -> String {
    format!("exec to StartupRoutingCommand on the wire, {uri}")
}

async fn times(
    place: &Place,
    server: &SimServer,
    uri: &str,
    runs: usize,
    target: f64,
) -> Result<Vec<Figure>, Failure> {
    one(place, server, uri).await?;
    let mut all = Vec::new();
    for _ in 0..runs {
        all.push(one(place, server, uri).await?);
    }
    let registered = Samples::new(all.iter().map(|times| times.registered).collect());
    let ready = Samples::new(all.iter().map(|times| times.ready).collect());
    Ok(vec![
        Figure::new(name(uri), registered.spread(0, "ms"))
            .target(format!("{target} ms"), Verdict::of(registered.median() <= target))
            .java(JAVA),
        Figure::new(format!("exec to Ready, {uri}"), ready.spread(0, "ms")),
    ])
}

async fn one(place: &Place, server: &SimServer, uri: &str) -> Result<Times, Failure> {
    let host = place.host(server, uri)?;
    let mut events = server.events();
    let begin = server.now();
    let agent = place.start(&host)?;
    let missing = |what: &str| format!("{what} did not come within {LIMIT:?}; agent: {}", agent.last_words());
    let startup = events
        .until(LIMIT, |r| matches!(&r.event, SimEvent::Startup { guid, .. } if *guid == host.guid))
        .await
        .ok_or_else(|| missing("The registration"))?;
    let ready = events
        .until(LIMIT, |r| r.connection == startup.connection && matches!(r.event, SimEvent::Ready { .. }))
        .await
        .ok_or_else(|| missing("Ready"))?;
    let since = |at: Duration| at.saturating_sub(begin).as_secs_f64() * 1e3;
    Ok(Times { registered: since(startup.at), ready: since(ready.at) })
}

pub async fn has_system_libvirt() -> bool {
    let hypervisor = Hypervisor::spawn(SYSTEM);
    tokio::time::timeout(Duration::from_secs(3), hypervisor.connected()).await.is_ok()
}

/// The pool lives in the daemon and would outlast the benchmark.
pub async fn remove_pool() {
    if let Some(virsh) = find_program("virsh") {
        // Nothing is there to remove if no run got that far.
        let _ = Program::new(virsh).args(["-c", SYSTEM, "pool-destroy", POOL]).run().await;
    }
}
