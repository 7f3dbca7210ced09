//! The node as libvirt knows it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use virt::connect::NodeInfo;

use super::link::{Lease, Link, SlowFacts};
use super::pool::CallPool;
use super::refused;
use crate::errors::chain;
use crate::hypervisor::error::{HypervisorError, Result};
use crate::hypervisor::types::dotted_version;
use crate::hypervisor::xml;

/// In the place of a version that is not known yet.
pub const UNKNOWN: &str = "unknown";

/// A probe of QEMU without usable KVM takes 8 to 12 s, and there may be one per question.
const LEARN_DEADLINE: Duration = Duration::from_secs(60);
const LEARN_AGAIN: Duration = Duration::from_secs(30);

/// What libvirt tells at once.
#[derive(Debug, Clone)]
pub struct QuickFacts {
    pub hostname: String,
    pub node: NodeInfo,
}

/// Reads the hypervisor version and the capabilities of a new connection; tries again until it
/// succeeds or the connection is gone.
pub async fn learn(pool: CallPool, link: Weak<Link>) {
    loop {
        let Some(strong) = link.upgrade() else { return };
        let read = pool.call(LEARN_DEADLINE, move || read_slow(&Lease::take(&strong)?)).await;
        let Some(strong) = link.upgrade() else { return };
        match read {
            Ok(Ok(facts)) => {
                strong.slow.send_replace(Some(Arc::new(facts)));
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "Cannot read the capabilities of the hypervisor");
            }
            Err(error) => tracing::warn!(?error, "libvirt does not tell the capabilities of the hypervisor"),
        }
        drop(strong);
        tokio::time::sleep(LEARN_AGAIN).await;
    }
}

fn read_slow(link: &Lease) -> Result<SlowFacts> {
    let connect = link.connect()?;
    let version = connect.hyp_version().map_err(refused("reading the version", "the hypervisor"))?;
    let text = connect.capabilities().map_err(refused("reading the capabilities", "the hypervisor"))?;
    let capabilities =
        xml::capabilities(&text).map_err(|source| HypervisorError::Xml { what: "capabilities", source })?;
    Ok(SlowFacts { hypervisor_version: dotted_version(version), capabilities })
}

pub fn read_quick(link: &Lease) -> Result<QuickFacts> {
    let connect = link.connect()?;
    let hostname = match link.hostname.get() {
        Some(known) => known.clone(),
        None => {
            let read = connect.hostname().map_err(refused("reading the host name", "the node"))?;
            link.hostname.get_or_init(|| read).clone()
        }
    };
    let node = connect.node_info().map_err(refused("reading the node information", "the node"))?;
    Ok(QuickFacts { hostname, node })
}
