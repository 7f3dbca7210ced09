//! A libvirtd that dies, hangs or is not there yet: the session with the server goes on, and what
//! is not known is left out or refused in words, never made up.

use crate::harness::{self, LIMIT, Run};
use crate::real::cage::{Cage, Kvm};
use crate::real::guest::Guest;
use crate::real::host::Host;
use crate::real::in_own_cage;
use cloudstack_agent::sim::SimEvent;
use cloudstack_agent::status::checks::CheckResult;
use cloudstack_agent::status::snapshot::{SessionState, Status};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Longest time that `agent --status` may take, whatever libvirt does.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// Threads of the agent, whatever libvirt does.
const THREADS: usize = 14;
/// Between two looks at the threads.
const LOOK: Duration = Duration::from_millis(20);

async fn answering(cage: &Cage) {
    cage.start_libvirtd();
    timeout(LIMIT, cage.answers()).await.expect("libvirtd does not start");
}

fn complains_of_libvirt(status: &Status) -> bool {
    status.checks.iter().any(|check| check.id == "libvirt" && check.result == CheckResult::Fail)
}

/// Waits for three pings in a row without a report.
async fn pings_without_report(host: &Host) {
    let mut mark = host.mark();
    host.ping(mark, "without a report", |ping| ping.report.is_none()).await;
    for _ in 0..2 {
        mark = host.mark();
        let ping = host.ping(mark, "of any kind", |_| true).await;
        assert_eq!(ping.report, None, "made up a report");
    }
}

#[test]
fn the_session_outlives_a_restart_of_libvirt() {
    in_own_cage(Kvm::Absent, async |cage| {
        answering(cage).await;
        let host = Host::up(cage).await;
        let guest = Guest::new(cage, &host.node.path("pool")).await;
        guest.start().await;
        host.ping(0, "with the guest", |ping| ping.state(&guest.name).is_some()).await;

        cage.kill_libvirtd();
        pings_without_report(&host).await;
        host.node.wait_for("libvirt's failure", complains_of_libvirt).await;
        let told = host.node.ask(&[]).await;
        assert_eq!(told.code, 2, "{}", told.stdout);
        assert!(
            told.stdout.contains("REGISTERED") && told.stdout.contains("not connected to qemu:///system")
        );
        let (_, answer) = host.ask("CheckVirtualMachineCommand", json!({"vmName": guest.name})).await;
        assert_eq!((&answer["result"], answer.get("state")), (&json!(false), None), "{answer}");
        assert!(answer["details"].as_str().unwrap().contains("No connection to libvirt"), "{answer}");

        let mark = host.mark();
        answering(cage).await;
        let ping = host.ping(mark, "with a report again", |ping| ping.report.is_some()).await;
        assert_eq!(ping.state(&guest.name), Some("PowerOn"), "the guest has never stopped");
        host.node.wait_for("libvirt's recovery", |status| !complains_of_libvirt(status)).await;
        assert_eq!(
            host.good("CheckVirtualMachineCommand", json!({"vmName": guest.name})).await["state"],
            "PowerOn"
        );
        host.undisturbed();
    });
}

#[test]
fn the_session_outlives_a_libvirt_that_hangs() {
    in_own_cage(Kvm::Absent, async |cage| {
        answering(cage).await;
        let host = Host::up(cage).await;
        let guest = Guest::new(cage, &host.node.path("pool")).await;
        guest.start().await;
        host.ping(0, "with the guest", |ping| ping.state(&guest.name).is_some()).await;

        cage.hang_libvirtd();
        let question = json!({"vmName": guest.name});
        let asked = host.ask("CheckVirtualMachineCommand", question.clone());
        let ((_, answer), ()) = tokio::join!(asked, async {
            pings_without_report(&host).await;
            status_at_once(&host).await;
        });
        let sentence = "libvirt did not finish looking up a guest within 10 s";
        assert_eq!((&answer["result"], answer.get("state")), (&json!(false), None), "{answer}");
        assert!(answer["details"].as_str().unwrap().contains(sentence), "{answer}");
        host.node.wait_for("libvirt's failure", complains_of_libvirt).await;
        let told = status_at_once(&host).await;
        assert_eq!(told.code, 2, "{}", told.stdout);
        assert!(
            told.stdout.contains("REGISTERED") && told.stdout.contains("NOT connected"),
            "{}",
            told.stdout
        );
        let (_, answer) = host.ask("CheckVirtualMachineCommand", question.clone()).await;
        assert!(answer["details"].as_str().unwrap().contains("No connection to libvirt"), "{answer}");

        let mark = host.mark();
        cage.resume_libvirtd();
        let ping = host.ping(mark, "with a report again", |ping| ping.report.is_some()).await;
        assert_eq!(ping.state(&guest.name), Some("PowerOn"), "the guest has never stopped");
        host.node.wait_for("libvirt's recovery", |status| !complains_of_libvirt(status)).await;
        assert_eq!(host.good("CheckVirtualMachineCommand", question).await["state"], "PowerOn");
        host.undisturbed();
    });
}

/// `agent --status`, which waits for nobody.
async fn status_at_once(host: &Host) -> Run {
    let started = Instant::now();
    let told = host.node.ask(&[]).await;
    assert!(started.elapsed() < STATUS_LIMIT, "took {:?}", started.elapsed());
    told
}

#[test]
fn a_host_registers_when_libvirt_comes() {
    in_own_cage(Kvm::Absent, async |cage| {
        let mut host = Host::new(cage).await;
        host.node.start();
        let status =
            host.node.wait_for("the wait for libvirt", |status| status.session.waiting_for.is_some()).await;
        assert!(status.session.waiting_for.unwrap().contains("qemu:///system"));
        assert_eq!(status.session.state, SessionState::Idle);
        assert_eq!(harness::connections(&host.server), 0, "nothing to register yet");
        let told = host.node.ask(&[]).await;
        assert_eq!(told.code, 2, "{}", told.stdout);
        assert!(told.stdout.contains("libvirt"), "{}", told.stdout);

        answering(cage).await;
        host.registered().await;
        assert_eq!(harness::all(&host.server, |event| matches!(event, SimEvent::Ready { .. })).len(), 1);
        host.undisturbed();
    });
}

#[test]
fn questions_to_a_hung_libvirt_cost_few_threads_and_have_an_answer() {
    in_own_cage(Kvm::Absent, async |cage| {
        answering(cage).await;
        let mut host = Host::up(cage).await;
        let guest = Guest::new(cage, &host.node.path("pool")).await;
        guest.start().await;
        let question = json!({"vmNames": [guest.name]});
        let answer = host.good("GetVmStatsCommand", question.clone()).await;
        assert!(answer["vmStatsMap"].get(&guest.name).is_some(), "{answer}");

        cage.hang_libvirtd();
        let flood: Vec<_> = (0..200).map(|_| host.send("GetVmStatsCommand", question.clone())).collect();
        let process = host.node.pid().unwrap();
        let answers = timeout(LIMIT, async {
            let mut answers = Vec::new();
            for answer in flood {
                answers.push(answer.await.unwrap());
            }
            host.node.wait_for("libvirt's failure", complains_of_libvirt).await;
            answers
        });
        tokio::pin!(answers);
        let mut look = tokio::time::interval(LOOK);
        let answers = loop {
            tokio::select! {
                answers = &mut answers => break answers.expect("not all questions are answered"),
                _ = look.tick() => within_limits(&threads(process)),
            }
        };
        for answer in answers {
            // An empty map would say that the guest does not run.
            assert_eq!((answer.result(0), answer.field(0, "vmStatsMap")), (Some(false), None));
            let details = answer.details(0).unwrap();
            let reasons = [
                "did not finish",
                "call slots are stuck",
                "Too many libvirt calls",
                "No connection to libvirt",
            ];
            assert!(reasons.iter().any(|reason| details.contains(reason)), "{details}");
        }
        assert!(host.pings().iter().filter(|ping| ping.report.is_none()).count() > 10, "pings went on");

        let mark = host.mark();
        cage.resume_libvirtd();
        let recovered = host.ping(mark, "with a report again", |ping| ping.report.is_some());
        cage.with_service_manager(recovered).await;
        let answer = host.good("GetVmStatsCommand", question).await;
        assert!(answer["vmStatsMap"].get(&guest.name).is_some(), "{answer}");
        within_limits(&threads(process));
        host.undisturbed();
    });
}

/// Names of the threads of a process.
fn threads(process: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    // One that ends meanwhile has no name any more.
    tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok()).collect()
}

fn within_limits(threads: &[String]) {
    let count = |prefix: &str| threads.iter().filter(|name| name.starts_with(prefix)).count();
    // Main and two workers, and three for files and names.
    assert!(count("agent") <= 6, "{threads:?}");
    // The one that made the pool ends when it has had nothing to do for a while.
    let others = ["libvirt-events", "libvirt-open", "libvirt-close", "libvirt-sto"].map(count);
    let calls = count("libvirt-") - others.iter().sum::<usize>();
    assert!(
        calls <= 6 && count("libvirt-sto") <= 1 && count("libvirt-open") <= 2 && threads.len() <= THREADS,
        "{threads:?}"
    );
}
