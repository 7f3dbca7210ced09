//! What the commands of a guest's life take on a real libvirt with QEMU: in total, and the agent's
//! own share.
//!
//! The share is the round trip less what the agent's metrics say it spent in calls to libvirt and
//! in programs such as qemu-img.

use crate::child::Child;
use crate::figures::{Figure, Samples, Verdict};
use crate::place::{self, Host, POOL, Place};
use crate::startup::{SYSTEM, has_system_libvirt, remove_pool};
use crate::{Failure, Figures};
use cloudstack_agent::host::exec::{Program, find_program};
use cloudstack_agent::sim::edge::{self, EdgeZone, GuestParts, Request, Volume};
use cloudstack_agent::sim::{Answers, SimEvent, SimServer};
use cloudstack_agent::wire::{Element, Flags};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Has no port but the guest's, so that nothing leaves the machine.
const BRIDGE: &str = "agentbench0";
const GUEST: &str = "i-2-990001-VM";
const MIB: u64 = 1 << 20;
/// As large as those that servers send.
const CONFIG_DRIVE: usize = 480 * 1024;
const LIMIT: Duration = Duration::from_secs(60);

/// A registered agent whose server asks for the life of a guest.
pub struct Asker {
    pub server: SimServer,
    pub host: Host,
    pub agent: Child,
    pub id: i64,
}

impl Asker {
    /// Starts a server and one agent, with more lines in agent.properties.
    pub async fn start(place: &Place, uri: &str, properties: &str) -> Result<Asker, Failure> {
        let server = SimServer::start(place::server(Duration::from_secs(600))).await?;
        let host = place.host(&server, uri)?;
        let file = host.dir.join("agent.properties");
        let cache = host.dir.join("cache");
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("{text}host.cache.location={}\n{properties}", cache.display()))?;
        let agent = place.start(&host)?;
        let ready = server.events().until(LIMIT, |r| matches!(r.event, SimEvent::Ready { .. })).await;
        match ready.map(|recorded| recorded.event) {
            Some(SimEvent::Ready { host_id }) => Ok(Asker { server, host, agent, id: host_id }),
            _ => Err(format!("The agent did not become Ready: {}", agent.last_words()).into()),
        }
    }

    /// Sends one command, which must succeed.
    pub async fn ask(&self, request: &Request) -> Result<Answers, Failure> {
        let element = Element::new(&request.class, &request.fields)?;
        let sent = self.server.send(self.id, vec![element], Flags::STOP_ON_ERROR);
        let answers = tokio::time::timeout(LIMIT, sent).await??;
        if answers.result(0) == Some(true) {
            return Ok(answers);
        }
        let details = answers.details(0).unwrap_or_default();
        Err(format!("{} failed: {details}", request.class).into())
    }

    /// The same; gives milliseconds in total, and those of the agent itself.
    async fn timed(&self, request: &Request) -> Result<Times, Failure> {
        let socket = self.host.dir.join("run/metrics.sock");
        let before = elsewhere(&socket).await?;
        let total = self.ask(request).await?.latency.as_secs_f64();
        let elsewhere = elsewhere(&socket).await? - before;
        Ok(Times { total: total * 1e3, own: (total - elsewhere).max(0.0) * 1e3 })
    }
}

struct Times {
    total: f64,
    own: f64,
}

/// Seconds that the agent has spent so far in calls to libvirt and in programs.
async fn elsewhere(socket: &Path) -> Result<f64, Failure> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let sums =
        ["cloudstack_agent_libvirt_call_duration_seconds_sum", "cloudstack_agent_program_seconds_total"];
    let of = |name: &str| {
        let values = text.lines().filter(|line| line.starts_with(name));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    Ok(sums.into_iter().map(of).sum())
}

/// Kinds of commands whose times are told, in the order of the table.
#[derive(Default)]
struct Life {
    copy: Vec<Times>,
    drive: Vec<Times>,
    start: Vec<Times>,
    statistics: Vec<Times>,
    resize: Vec<Times>,
    stop: Vec<Times>,
}

pub async fn run(place: &Place, runs: usize) -> Figures {
    if !has_system_libvirt().await {
        return Ok(vec![Figure::new("commands of a guest's life", format!("skipped: no {SYSTEM}"))]);
    }
    // Without a bridge the guest has no interface.
    let nics = u8::from(ip(&["link", "add", BRIDGE, "up", "type", "bridge"]).await);
    let outcome = live(place, runs, nics).await;
    ip(&["link", "del", BRIDGE]).await;
    remove_pool().await;
    Ok(table(&outcome?, nics))
}

async fn ip(words: &[&str]) -> bool {
    match find_program("ip") {
        Some(ip) => Program::new(ip).args(words).run().await.is_ok_and(|ended| ended.success()),
        None => false,
    }
}

async fn live(place: &Place, runs: usize, nics: u8) -> Result<Life, Failure> {
    let zone = EdgeZone { pool: POOL.parse()?, directory: place.images(), bridge: BRIDGE.to_owned() };
    let asker = Asker::start(place, SYSTEM, "hypervisor.type=qemu\n").await?;
    let template = edge::id();
    create_image(&place.images().join(&template), "64M", &[]).await?;
    let drive = "A".repeat(CONFIG_DRIVE / 3 * 4);
    let mut life = Life::default();
    for run in 0..=runs {
        let mut times = Life::default();
        once(&asker, &zone, &template, &drive, nics, &mut times).await?;
        // The first fills caches.
        if run > 0 {
            life.add(times);
        }
    }
    Ok(life)
}

/// One guest from its volume to its end.
async fn once(
    asker: &Asker,
    zone: &EdgeZone,
    template: &str,
    drive: &str,
    nics: u8,
    times: &mut Life,
) -> Result<(), Failure> {
    let (uuid, root) = (edge::id(), Volume::root(64 * MIB));
    times.copy.push(asker.timed(&zone.clone_template(template, &root, GUEST)).await?);
    times.drive.push(asker.timed(&zone.make_config_drive(GUEST, drive)).await?);
    let volumes = std::slice::from_ref(&root);
    let parts = GuestParts { name: GUEST, uuid: &uuid, volumes, config_drive: true, nics, memory_mib: 128 };
    times.start.push(asker.timed(&zone.start(&zone.guest(parts))).await?);
    times.statistics.push(asker.timed(&zone.statistics(&[GUEST.to_owned()])).await?);
    times.stop.push(asker.timed(&zone.stop(GUEST, true)).await?);
    times.resize.push(asker.timed(&zone.resize(&root, 128 * MIB, "")).await?);
    asker.ask(&zone.delete_volume(&root, GUEST)).await?;
    asker.ask(&zone.drop_config_drive(GUEST)).await?;
    Ok(())
}

impl Life {
    fn add(&mut self, other: Life) {
        let Life { copy, drive, start, statistics, resize, stop } = other;
        self.copy.extend(copy);
        self.drive.extend(drive);
        self.start.extend(start);
        self.statistics.extend(statistics);
        self.resize.extend(resize);
        self.stop.extend(stop);
    }
}

/// Makes an empty qcow2 image.
pub async fn create_image(path: &Path, size: &str, options: &[&str]) -> Result<(), Failure> {
    let program = find_program("qemu-img").ok_or("qemu-img is not installed (apt install qemu-utils)")?;
    let create = Program::new(program)
        .args(["create", "-q", "-f", "qcow2"])
        .args(options.iter().copied())
        .arg(path)
        .arg(size);
    let ended = create.run().await?;
    if ended.success() {
        Ok(())
    } else {
        Err(format!("qemu-img create: {}", String::from_utf8_lossy(&ended.stderr).trim()).into())
    }
}

fn table(life: &Life, nics: u8) -> Vec<Figure> {
    let total = |times: &[Times]| Samples::new(times.iter().map(|t| t.total).collect());
    let own = |times: &[Times]| Samples::new(times.iter().map(|t| t.own).collect());
    let whole = |name: &str, times: &[Times], target: f64, java: &str| {
        let samples = total(times);
        Figure::new(name, samples.spread(1, "ms"))
            .target(format!("{target} ms"), Verdict::of(samples.median() <= target))
            .java(java)
    };
    let share = |name: &str, times: &[Times]| {
        let samples = own(times);
        Figure::new(format!("{name}, the agent's own share"), samples.spread(1, "ms"))
            .target("5 ms", Verdict::of(samples.median() <= 5.0))
    };
    let plain =
        |name: &str, times: &[Times], java: &str| Figure::new(name, total(times).spread(1, "ms")).java(java);
    let card = if nics == 0 { ", no bridge could be made: without a network card" } else { "" };
    vec![
        whole(&format!("StartCommand{card}"), &life.start, 250.0, "500 ms"),
        share("StartCommand", &life.start),
        plain("StopCommand, forced", &life.stop, "-"),
        share("StopCommand", &life.stop),
        whole("CopyCommand template to volume", &life.copy, 40.0, "66 ms"),
        share("CopyCommand", &life.copy),
        plain("ResizeVolumeCommand of a stopped guest", &life.resize, "-"),
        share("ResizeVolumeCommand", &life.resize),
        whole("HandleConfigDriveIsoCommand, 480 KB", &life.drive, 5.0, "19 ms"),
        whole("GetVmStatsCommand of 1 guest", &life.statistics, 3.0, "72 ms"),
    ]
}
