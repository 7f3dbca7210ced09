//! The control network: a bridge without an uplink on which system VMs have link-local addresses, so
//! that the host reaches them before they have any other. The host has the first address. Mirrors
//! `LibvirtComputingResource.createControlNetwork`.

use super::error::NetworkError;
use super::ip;
use super::links::Links;
use crate::host::nic;
use std::net::Ipv4Addr;

/// `control.cidr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    fn parse(text: &str) -> Option<Cidr> {
        let (address, prefix) = text.trim().split_once('/')?;
        let address: Ipv4Addr = address.parse().ok()?;
        let prefix = prefix.parse().ok().filter(|prefix| (1..=30).contains(prefix))?;
        let mask = mask(prefix);
        Some(Cidr { network: Ipv4Addr::from(u32::from(address) & mask), prefix })
    }

    /// The host's.
    fn first(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network).saturating_add(1))
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// For prefixes from 1 to 32.
fn mask(prefix: u8) -> u32 {
    u32::MAX << (32 - u32::from(prefix))
}

/// Makes what is missing of the control network. Starts no process if nothing is.
pub(super) async fn ensure(links: &Links, bridge: &str, cidr: &str) -> Result<(), NetworkError> {
    let cidr = Cidr::parse(cidr).ok_or_else(|| NetworkError::ControlCidr { cidr: cidr.to_owned() })?;
    if links.exists(bridge) && !links.is_bridge(bridge) {
        return Err(NetworkError::NotABridge { name: bridge.to_owned(), traffic: "control" });
    }
    let failed = |source| NetworkError::Control {
        bridge: bridge.to_owned(),
        cidr: cidr.to_string(),
        source: Box::new(source),
    };
    let commands = missing(links, bridge, cidr);
    if commands.is_empty() {
        return Ok(());
    }
    ip::run(&commands).await.map_err(failed)?;
    tracing::info!(bridge, %cidr, changes = commands.len(), "Control network is ready");
    Ok(())
}

fn missing(links: &Links, bridge: &str, cidr: Cidr) -> Vec<String> {
    let host = cidr.first();
    let mut commands = Vec::new();
    if !links.exists(bridge) {
        commands.push(format!("link add name {bridge} type bridge"));
    }
    if !links.is_up(bridge) {
        commands.push(format!("link set dev {bridge} up"));
    }
    if !nic::has_address(links.root(), bridge, host) {
        commands.push(format!("address add {host}/{} dev {bridge}", cidr.prefix));
    }
    let routes = std::fs::read_to_string(links.root().join("proc/thread-self/net/route")).unwrap_or_default();
    let devices = devices_with_route(&routes, cidr);
    // Distributions give link-local addresses to a physical interface: system VMs are not there.
    for device in devices.iter().filter(|device| *device != bridge && super::names::checked(device).is_ok()) {
        tracing::info!(device, %cidr, "Route of the control network is taken from this device");
        commands.push(format!("route del {cidr} dev {device}"));
    }
    // With the address comes its route, but not to a bridge that lost it.
    if !commands.is_empty() || !devices.iter().any(|device| device == bridge) {
        commands.push(format!("route replace {cidr} dev {bridge} src {host}"));
    }
    commands
}

/// Devices of the routes to exactly this network, from the text of /proc/net/route.
fn devices_with_route(table: &str, cidr: Cidr) -> Vec<String> {
    let wanted = (cidr.network, Ipv4Addr::from(mask(cidr.prefix)));
    let routes = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let device = fields.next()?;
        let destination = address(fields.next()?)?;
        let mask = address(fields.nth(5)?)?;
        ((destination, mask) == wanted).then(|| device.to_owned())
    });
    routes.collect()
}

/// The kernel prints an address as a number in its own byte order.
fn address(hex: &str) -> Option<Ipv4Addr> {
    u32::from_str_radix(hex, 16).ok().map(|number| Ipv4Addr::from(number.to_ne_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_is_the_hosts() {
        let cidr = Cidr::parse("169.254.3.7/16").unwrap();
        assert_eq!(
            (cidr.to_string().as_str(), cidr.first()),
            ("169.254.0.0/16", Ipv4Addr::new(169, 254, 0, 1))
        );
        for bad in
            ["", "169.254.0.0", "169.254.0.0/0", "169.254.0.0/31", "169.254.0.0/33", "fe80::/64", "a/16"]
        {
            assert_eq!(Cidr::parse(bad), None, "{bad}");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn only_routes_to_the_whole_network_count() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
            eth0\t0000FEA9\t00000000\t0001\t0\t0\t1002\t0000FFFF\t0\t0\t0\n\
            eth1\t0000FEA9\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            cloud0\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\nbad\n";
        let cidr = Cidr::parse("169.254.0.0/16").unwrap();
        assert_eq!(devices_with_route(table, cidr), ["eth0", "cloud0"]);
        assert!(devices_with_route("", cidr).is_empty());
    }
}
