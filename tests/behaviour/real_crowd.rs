//! Many commands at the same time, on a real libvirtd with QEMU.

use crate::harness::LIMIT;
use crate::real::alone_with_libvirt;
use crate::real::edge::{self, Edge};
use crate::real::traces::Traces;
use cloudstack_agent::sim::edge::{GuestParts, Request, Volume};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
const GUESTS: usize = 10;

/// Sends all requests at once; all answers have to be good.
async fn all(edge: &Edge<'_>, requests: impl IntoIterator<Item = Request>) {
    let mut answers = JoinSet::new();
    for request in requests {
        answers.spawn(edge.host.send(&request.class, request.fields));
    }
    while let Some(answer) = timeout(LIMIT, answers.join_next()).await.expect("an answer is missing") {
        let answer = answer.unwrap().unwrap();
        let fields: Value = answer.elements[0].read().unwrap();
        assert_eq!(fields["result"], true, "{fields}");
    }
}

fn guest(edge: &Edge<'_>, name: &str, root: &Volume) -> Value {
    let (uuid, volumes) = (edge::id(), std::slice::from_ref(root));
    let parts = GuestParts { name, uuid: &uuid, volumes, config_drive: false, nics: 1, memory_mib: 16 };
    edge.zone().guest(parts)
}

#[test]
fn many_guests_start_and_stop_at_once_while_the_host_goes_on_telling() {
    alone_with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let zone = edge.zone();
        let before = Traces::of_host(&edge).await;
        let names: Vec<String> = (0..GUESTS).map(|_| edge::guest_name()).collect();
        let roots: Vec<Volume> = names.iter().map(|_| Volume::root(8 * MIB)).collect();
        let pairs = || names.iter().zip(&roots);
        all(&edge, pairs().map(|(name, root)| zone.create_volume(root, name))).await;

        let mark = edge.host.mark();
        let starts = all(&edge, pairs().map(|(name, root)| zone.start(&guest(&edge, name, root))));
        let telling = async {
            edge.host.ping(mark, "while guests start", |_| true).await;
            edge.asked(zone.statistics(&names)).await;
        };
        tokio::join!(starts, telling);
        let answer = edge.asked(zone.statistics(&names)).await;
        let running = |name: &&String| answer["vmStatsMap"][name.as_str()]["numCPUs"] == 1;
        assert_eq!(names.iter().filter(running).count(), GUESTS, "{answer}");
        let mark = edge.host.mark();
        let everyone = edge.host.ping(mark, "with all guests", |ping| {
            names.iter().all(|name| ping.state(name) == Some("PowerOn"))
        });
        everyone.await;

        let mark = edge.host.mark();
        let stops = all(&edge, names.iter().map(|name| zone.stop(name, true)));
        tokio::join!(stops, async {
            edge.host.ping(mark, "while guests stop", |_| true).await;
        });
        all(&edge, pairs().map(|(name, root)| zone.delete_volume(root, name))).await;
        assert_eq!(Traces::of_host(&edge).await, before);
        edge.host.undisturbed();
    });
}

#[test]
fn commands_for_one_guest_run_in_the_order_of_their_arrival() {
    alone_with_libvirt(async |cage| {
        let edge = Edge::up(cage).await;
        let zone = edge.zone();
        let (name, root) = (edge::guest_name(), Volume::root(8 * MIB));
        edge.asked(zone.create_volume(&root, &name)).await;
        let vm = guest(&edge, &name, &root);
        let before = Traces::of_host(&edge).await;
        for _ in 0..3 {
            all(&edge, [zone.start(&vm), zone.stop(&name, true)]).await;
            assert_eq!(Traces::of_host(&edge).await, before, "the guest outlives its stop");
        }
        all(&edge, [zone.start(&vm), zone.stop(&name, true), zone.start(&vm)]).await;
        assert!(edge.runs(&name).await);
        edge.asked(zone.stop(&name, true)).await;
        assert_eq!(Traces::of_host(&edge).await, before);
        edge.host.undisturbed();
    });
}
