//! How this host calls itself: its full name and all its addresses, as certificate requests have them.

use std::net::IpAddr;
use std::time::Duration;

use sysinfo::Networks;

use super::exec::{Program, find_program};
use super::os;

/// `hostname --fqdn`, else the kernel's node name: a resolver that does not answer costs `deadline`.
pub async fn full_name(deadline: Duration) -> String {
    let Some(program) = find_program("hostname") else { return os::hostname() };
    match Program::new(program).arg("--fqdn").deadline(deadline).max_output(1_024).run().await {
        Ok(output) if output.success() && !output.text().trim().is_empty() => output.text().trim().to_owned(),
        _ => os::hostname(),
    }
}

/// All addresses of this host, in a stable order. The server adds those it knows, so that a request
/// without any is still worth sending.
pub fn addresses() -> Vec<IpAddr> {
    let networks = Networks::new_with_refreshed_list()
        .inspect_err(|error| tracing::warn!(%error, "The addresses of this host cannot be listed"));
    let networks = networks.iter().flat_map(|networks| networks.values());
    let mut found: Vec<IpAddr> =
        networks.flat_map(|network| network.ip_networks().iter().map(|ip| ip.addr)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_host_has_a_name_and_addresses() {
        assert!(!full_name(Duration::from_secs(5)).await.is_empty());
        assert!(addresses().iter().any(IpAddr::is_loopback));
    }
}
