//! `com.cloud.agent.api.GetVmIpAddressCommand`: which address has a guest on a network where the server
//! does not hand them out?
//!
//! Asked are the guest agent, the DHCP servers of libvirt and the neighbour table, and at last, with the
//! tools of libguestfs, what a DHCP client has noted on the guest's disk.

use super::guest_files;
use crate::commands::{Command, Ctx, Fault, NoFields, Reply};
use crate::hypervisor::{AddressSource, InterfaceAddresses};
use crate::wire::lenient;
use std::net::{IpAddr, Ipv4Addr};

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetVmIpAddressCommand {
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_name: String,
    /// `10.1.1.0/24`
    #[serde(default, deserialize_with = "lenient::or_default")]
    vm_network_cidr: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    windows: bool,
    /// Of the card in question (4.20).
    #[serde(default, deserialize_with = "lenient::or_default")]
    mac_address: String,
}

impl Command for GetVmIpAddressCommand {
    type Answer = NoFields;

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let wanted = self.wanted()?;
        let (hypervisor, name) = (&ctx.services.hypervisor, self.vm_name.as_str());
        if hypervisor.state(name).await?.is_none() {
            return Err(Fault::new(format!("Guest {name} does not exist on this host")));
        }
        for source in [AddressSource::Agent, AddressSource::Lease, AddressSource::Arp] {
            match hypervisor.interface_addresses(name, source).await {
                Ok(interfaces) => {
                    if let Some(address) = wanted.among(&interfaces) {
                        return Ok(Reply::done().details(address.to_string()));
                    }
                }
                Err(error) => {
                    let reason = crate::errors::chain(&error);
                    tracing::debug!(guest = name, ?source, "No addresses of the guest: {reason}");
                }
            }
        }
        let mut reason = "nobody on this host knows it, install qemu-guest-agent in the guest".to_owned();
        if let Some(network) = wanted.network {
            match guest_files::addresses(hypervisor.uri(), name, self.windows).await {
                Ok(addresses) => {
                    if let Some(address) = addresses.into_iter().rfind(|address| network.has(*address)) {
                        return Ok(Reply::done().details(address.to_string()));
                    }
                }
                Err(fault) => reason = format!("{reason} ({fault})"),
            }
        }
        Err(Fault::new(format!("The address of guest {name} is not known: {reason}")))
    }
}

impl GetVmIpAddressCommand {
    fn wanted(&self) -> Result<Wanted, Fault> {
        let given = |text: &str| Some(text.trim().to_ascii_lowercase()).filter(|text| !text.is_empty());
        let network = match given(&self.vm_network_cidr) {
            None => None,
            Some(text) => Some(Network::parse(&text).ok_or_else(|| {
                let shown: String = text.chars().take(40).collect();
                Fault::new(format!("{shown:?} is not an IPv4 network such as 10.1.1.0/24"))
            })?),
        };
        let mac = given(&self.mac_address);
        if network.is_none() && mac.is_none() {
            return Err(Fault::new("The command names neither a network nor a network card of the guest"));
        }
        Ok(Wanted { mac, network })
    }
}

#[derive(Debug, Clone, Copy)]
struct Network {
    address: u32,
    mask: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = text.split_once('/')?;
        let address: Ipv4Addr = address.parse().ok()?;
        let prefix: u32 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        Some(Network { address: u32::from(address) & mask, mask })
    }

    fn has(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask == self.address
    }
}

struct Wanted {
    mac: Option<String>,
    network: Option<Network>,
}

impl Wanted {
    fn among(&self, interfaces: &[InterfaceAddresses]) -> Option<Ipv4Addr> {
        let of_card = |interface: &&InterfaceAddresses| self.mac.is_none() || interface.mac == self.mac;
        let all = interfaces.iter().filter(of_card).flat_map(|interface| &interface.addresses);
        let v4 = all.filter_map(|(address, _)| match address {
            IpAddr::V4(address) if !address.is_loopback() => Some(*address),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        });
        v4.into_iter().find(|address| self.network.is_none_or(|network| network.has(*address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use serde_json::{Value, json};

    const CLASS: &str = "com.cloud.agent.api.GetVmIpAddressCommand";

    async fn ask(fields: Value) -> (bool, String) {
        let mut bench = Bench::with_node(super::super::node::XML).await;
        let (class, answer) = bench.answer(CLASS, fields).await;
        assert_eq!(class, "com.cloud.agent.api.Answer");
        (answer["result"] == true, answer["details"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn the_address_is_found_by_card_or_network() {
        // libvirt's test driver makes addresses up.
        let (found, address) = ask(json!({"vmName": "i-2-3-VM", "macAddress": "02:00:4c:9b:00:01"})).await;
        assert!(found, "{address}");
        let cidr = format!("{address}/24");
        for fields in [
            json!({"vmName": "i-2-3-VM", "vmNetworkCidr": cidr}),
            json!({"vmName": "i-2-3-VM", "vmNetworkCidr": cidr, "macAddress": "02:00:4C:9B:00:01"}),
        ] {
            assert_eq!(ask(fields).await, (true, address.clone()));
        }
    }

    #[tokio::test]
    async fn what_is_not_known_is_said() {
        for (fields, words) in [
            (json!({"vmName": "i-2-3-VM", "macAddress": "02:00:00:00:00:01"}), "install qemu-guest-agent"),
            (json!({"vmName": "i-2-3-VM"}), "names neither"),
            (json!({"vmName": "i-2-3-VM", "vmNetworkCidr": "10.0.0.0"}), "is not an IPv4 network"),
            (json!({"vmName": "gone", "vmNetworkCidr": "10.0.0.0/8"}), "does not exist"),
        ] {
            let (found, details) = ask(fields).await;
            assert!(!found && details.contains(words), "{details}");
        }
    }

    #[test]
    fn networks_and_cards_choose() {
        let interface = |mac: &str, addresses: &[&str]| InterfaceAddresses {
            name: "eth0".into(),
            mac: Some(mac.into()),
            addresses: addresses.iter().map(|address| (address.parse().unwrap(), 24)).collect(),
        };
        let all = [interface("a", &["127.0.0.1", "fe80::1", "10.0.0.5"]), interface("b", &["10.1.1.7"])];
        let pick = |mac: Option<&str>, network: Option<&str>| {
            let network = network.map(|text| Network::parse(text).unwrap());
            Wanted { mac: mac.map(str::to_owned), network }.among(&all).map(|address| address.to_string())
        };
        assert_eq!(pick(Some("b"), None).as_deref(), Some("10.1.1.7"));
        assert_eq!(pick(None, Some("10.1.1.0/24")).as_deref(), Some("10.1.1.7"));
        assert_eq!(pick(None, Some("0.0.0.0/0")).as_deref(), Some("10.0.0.5"));
        assert_eq!(pick(Some("a"), Some("10.1.1.0/24")), None);
        assert!(Network::parse("10.0.0.0/33").is_none());
    }
}
