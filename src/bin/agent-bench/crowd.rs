//! Many guests: on libvirt's test driver, so that only the agent counts.

use crate::figures::{Figure, Samples, Verdict};
use crate::guests::{Asker, create_image};
use crate::place::{POOL, Place};
use crate::{Failure, Figures};
use cloudstack_agent::sim::edge::{self, EdgeZone, GuestParts, Volume};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

const ASKED: usize = 100;
const STARTED: usize = 50;
const AT_ONCE: usize = 10;
const MIB: u64 = 1 << 20;

pub async fn run(place: &Place, runs: usize) -> Figures {
    let mut figures = statistics(place, runs).await?;
    figures.extend(starts(place).await?);
    Ok(figures)
}

fn name(number: usize) -> String {
    format!("i-2-{number}-VM")
}

/// Statistics of many guests at a time.
async fn statistics(place: &Place, runs: usize) -> Figures {
    let asker = Asker::start(place, &node(place, "asked", 1..ASKED + 1)?, "").await?;
    let names: Vec<String> = (1..=ASKED).map(name).collect();
    let zone = zone(place)?;
    let mut times = Vec::new();
    for run in 0..=runs {
        let answers = asker.ask(&zone.statistics(&names)).await?;
        let told = answers.field(0, "vmStatsMap").and_then(|map| map.as_object().map(|map| map.len()));
        if told != Some(ASKED) {
            return Err(format!("Statistics of {told:?} instead of {ASKED} guests").into());
        }
        if run > 0 {
            times.push(answers.latency.as_secs_f64() * 1e3);
        }
    }
    let times = Samples::new(times);
    let figure =
        Figure::new(format!("GetVmStatsCommand of {ASKED} guests, test driver"), times.spread(1, "ms"))
            .target("20 ms", Verdict::of(times.median() <= 20.0));
    Ok(vec![figure])
}

/// Many guests, some at a time.
async fn starts(place: &Place) -> Figures {
    let asker = Arc::new(Asker::start(place, &node(place, "started", 0..0)?, "").await?);
    let zone = Arc::new(zone(place)?);
    let mut waiting = Vec::new();
    for number in 1..=STARTED {
        let root = Volume::root(MIB);
        create_image(&place.images().join(&root.uuid), "1M", &[]).await?;
        waiting.push((name(number), root));
    }
    let one = |(name, root): (String, Volume)| {
        let (asker, zone) = (asker.clone(), zone.clone());
        async move {
            let (uuid, volumes) = (edge::id(), [root]);
            let parts = GuestParts {
                name: &name,
                uuid: &uuid,
                volumes: &volumes,
                config_drive: false,
                nics: 0,
                memory_mib: 1,
            };
            let answers = asker.ask(&zone.start(&zone.guest(parts))).await?;
            Ok::<_, Failure>(answers.latency.as_secs_f64() * 1e3)
        }
    };
    let begin = Instant::now();
    let mut under_way = JoinSet::new();
    let mut times = Vec::new();
    for guest in waiting {
        if under_way.len() >= AT_ONCE
            && let Some(time) = under_way.join_next().await
        {
            times.push(time??);
        }
        under_way.spawn(one(guest));
    }
    while let Some(time) = under_way.join_next().await {
        times.push(time??);
    }
    let whole = begin.elapsed().as_secs_f64() * 1e3;
    let (answered, slowest) = (times.len(), Samples::new(times).max());
    let told = format!("{whole:.0} ms in all, slowest answer {slowest:.0} ms, {answered} answers");
    Ok(vec![
        Figure::new(format!("{STARTED} guests started, {AT_ONCE} at a time, test driver"), told)
            .target("no answer lost", Verdict::of(answered == STARTED)),
    ])
}

fn zone(place: &Place) -> Result<EdgeZone, Failure> {
    Ok(EdgeZone { pool: POOL.parse()?, directory: place.images(), bridge: String::new() })
}

/// A hypervisor within the process, with guests that run.
fn node(place: &Place, file: &str, guests: std::ops::Range<usize>) -> Result<String, Failure> {
    let mut text = "<node><cpu><mhz>2600</mhz><model>x86_64</model><active>4</active><nodes>1</nodes><sockets>1</sockets>\
        <cores>4</cores><threads>1</threads></cpu><memory>67108864</memory>"
        .to_owned();
    for number in guests {
        let name = name(number);
        write!(
            text,
            "<domain type='test'><name>{name}</name><memory>131072</memory><vcpu>1</vcpu><os><type>hvm</type></os>\
             <devices><disk type='file' device='disk'><source file='/images/{name}'/><target dev='vda'/></disk>\
             <interface type='bridge'><source bridge='br0'/><target dev='tap{number}'/></interface></devices></domain>"
        )?;
    }
    text.push_str("</node>");
    let path = place.fresh("node")?.join(format!("{file}.xml"));
    std::fs::write(&path, text)?;
    Ok(format!("test://{}", path.display()))
}
