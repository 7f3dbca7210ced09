//! What the node and its guests do: facts, power states, counters. Questions only.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::error::{HypervisorError, Object, Result};
use super::libvirt::{capabilities, domain};
use super::{CAPABILITIES_GRACE, Hypervisor, POWER_DEADLINE, QUERY_DEADLINE, SAMPLE_DEADLINE, checked};
use super::{CapabilitiesState, DomainPower, DomainSample, DomainSummary, NodeFacts};

/// Guests sampled at once; below the number of call slots, so that other calls get through.
const SAMPLERS: usize = 2;

impl Hypervisor {
    /// The node as libvirt sees it. The capabilities are read once per connection; if libvirt has
    /// not told them within `CAPABILITIES_GRACE`, the facts come without (`capabilities: Pending`).
    pub async fn node_facts(&self) -> Result<NodeFacts> {
        let link = self.link()?;
        let quick = self.call("reading the node facts", QUERY_DEADLINE, capabilities::read_quick).await?;
        let mut slow = link.slow.subscribe();
        let known = tokio::time::timeout(CAPABILITIES_GRACE, slow.wait_for(Option::is_some)).await;
        let slow = known.ok().and_then(|known| known.ok().and_then(|value| value.clone()));
        Ok(NodeFacts {
            hostname: quick.hostname,
            cpu_sockets: quick.node.sockets,
            numa_nodes: quick.node.nodes,
            cpus: quick.node.cpus,
            mhz: quick.node.mhz,
            memory_kib: quick.node.memory,
            tsc_hz: slow.as_ref().and_then(|s| s.capabilities.tsc_hz),
            // A QEMU driver without hvm guests does not exist; registration does not wait for proof.
            supports_hvm: slow.as_ref().is_none_or(|s| s.capabilities.supports_hvm),
            // The node info has the machine name in "model".
            arch: slow.as_ref().map_or(quick.node.model, |s| s.capabilities.arch.clone()),
            libvirt_version: link.libvirt_version.clone(),
            hypervisor_version: slow
                .as_ref()
                .map_or_else(|| capabilities::UNKNOWN.to_owned(), |s| s.hypervisor_version.clone()),
            capabilities: if slow.is_some() { CapabilitiesState::Known } else { CapabilitiesState::Pending },
        })
    }

    /// The state of every domain, running or defined: all of them, or an error.
    pub async fn power_states(&self) -> Result<Vec<DomainPower>> {
        self.call("listing guests", POWER_DEADLINE, domain::power_states).await
    }

    /// `None` if libvirt has no domain of that name.
    pub async fn domain(&self, name: &str) -> Result<Option<DomainSummary>> {
        let name = checked(Object::Guest, name)?;
        self.call("looking up a guest", QUERY_DEADLINE, move |link| domain::summary(link, &name)).await
    }

    /// Counters of the running guests among `names`. Guests that are missing or stopped, or whose
    /// counters cannot be read, are left out; but an error if nothing was read of any guest, since
    /// an empty answer would say that none of them runs.
    pub async fn domain_samples(&self, names: &[String]) -> Result<BTreeMap<String, DomainSample>> {
        self.link()?;
        let mut samples = BTreeMap::new();
        let mut failure = None;
        let mut tasks = JoinSet::new();
        let mut names = names.iter();
        loop {
            while tasks.len() < SAMPLERS
                && let Some(name) = names.next()
            {
                let (this, name) = (self.clone(), name.clone());
                tasks.spawn(async move {
                    let sample = this.domain_sample(&name).await;
                    (name, sample)
                });
            }
            match tasks.join_next().await {
                None => break,
                Some(Ok((name, Ok(Some(sample))))) => {
                    samples.insert(name, sample);
                }
                Some(Ok((_, Ok(None)))) => {}
                // The other guests would fare no better.
                Some(Ok((
                    _,
                    Err(error @ (HypervisorError::NotConnected { .. } | HypervisorError::AllStuck { .. })),
                ))) => return Err(error),
                Some(Ok((name, Err(error)))) => {
                    tracing::debug!(guest = name, %error, "No statistics");
                    failure.get_or_insert(error);
                }
                Some(Err(error)) => tracing::debug!(%error, "A statistics task failed"),
            }
        }
        match failure {
            Some(error) if samples.is_empty() => Err(error),
            Some(_) | None => Ok(samples),
        }
    }

    async fn domain_sample(&self, name: &str) -> Result<Option<DomainSample>> {
        let name = checked(Object::Guest, name)?;
        self.call("reading guest counters", SAMPLE_DEADLINE, move |link| domain::sample(link, &name)).await
    }
}
