//! Two hosts with a wire between them, each with a libvirtd that takes guests from the other, an agent,
//! and a simulated server.

use super::cage::{Cage, runtime};
use super::host::Host;
use super::{on_own_thread, skip};

/// The interface that the hosts reach each other by.
pub const WIRE: &str = "wire0";

pub struct Side<'a> {
    pub cage: &'a Cage,
    pub host: Host,
    /// Its address on the wire.
    pub address: &'static str,
}

/// What is special about the first host.
#[derive(Debug, Default)]
pub struct First<'a> {
    /// Go into agent.properties.
    pub lines: &'a [(&'a str, &'a str)],
    /// The step in which its agent fails, such as `kill:3`.
    pub fault: Option<&'a str>,
}

/// Runs a test between two hosts.
pub fn with_two_hosts(special: &First<'_>, test: impl AsyncFnOnce(&mut Side<'_>, &mut Side<'_>) + Send) {
    let mut cages = Vec::new();
    for _ in 0..2 {
        on_own_thread(|| cages.push(Cage::open_to_others()));
    }
    on_own_thread(|| match (&cages[0], &cages[1]) {
        (Ok(first), Ok(second)) => runtime().block_on(wire(first, second)),
        (Err(reason), _) | (_, Err(reason)) => skip(reason),
    });
    on_own_thread(|| {
        let (Ok(first), Ok(second)) = (&cages[0], &cages[1]) else { return };
        runtime().block_on(async {
            let mut first = Side::up(first, "10.77.0.1", special).await;
            let mut second = Side::up(second, "10.77.0.2", &First::default()).await;
            test(&mut first, &mut second).await;
        });
    });
}

async fn wire(first: &Cage, second: &Cage) {
    let init = second.init();
    let pair = ["ip", "link", "add", WIRE, "type", "veth", "peer", "name", WIRE, "netns", &init];
    first.run(&pair).await.unwrap();
    for (cage, address) in [(first, "10.77.0.1/24"), (second, "10.77.0.2/24")] {
        cage.run(&["ip", "address", "add", address, "dev", WIRE]).await.unwrap();
        cage.run(&["ip", "link", "set", WIRE, "up"]).await.unwrap();
    }
}

impl<'a> Side<'a> {
    /// What this thread starts from then on is on that host.
    async fn up(cage: &'a Cage, address: &'static str, special: &First<'_>) -> Side<'a> {
        cage.enter();
        let mut host = Host::new(cage).await;
        host.node.set("hypervisor.type", "qemu");
        for (key, value) in special.lines {
            host.node.set(key, value);
        }
        if let Some(fault) = special.fault {
            let wish = ["env".to_owned(), format!("AGENT_FAULT={fault}")];
            host.node.launched_by([&wish[..], &cage.launcher()].concat());
        }
        host.register().await;
        Side { cage, host, address }
    }

    /// Starts another agent after the first has ended.
    pub async fn restart_agent(&mut self) {
        self.host.node.kill().await;
        self.cage.enter();
        self.host.node.launched_by(self.cage.launcher());
        self.host.register().await;
    }

    pub async fn has_device(&self, name: &str) -> bool {
        self.cage.run(&["ip", "link", "show", "dev", name]).await.is_ok()
    }

    /// Whether libvirt has a guest of that name, running or not.
    pub async fn state(&self, guest: &str) -> Option<String> {
        self.cage.run(&["virsh", "-q", "-c", "qemu:///system", "domstate", guest]).await.ok()
    }

    pub async fn xml(&self, guest: &str) -> String {
        self.cage.virsh(&["dumpxml", "--security-info", guest]).await
    }
}
