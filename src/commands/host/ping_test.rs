//! `com.cloud.agent.api.PingTestCommand`: can this host reach another one, or a router its guest?
//! Asked when the server finds out whether a silent host or guest is dead.

use crate::commands::network::router::Router;
use crate::commands::{Command, Ctx, Fault, NoFields, Reply};
use crate::host::exec::{Program, find_program};
use crate::host::nic;
use crate::wire::lenient;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of one question to one address.
const DEADLINE: Duration = Duration::from_secs(10);
/// Seconds that an address has for its reply.
const REPLY_WITHIN: &str = "5";

#[derive(Debug, serde::Deserialize)]
pub struct PingTestCommand {
    #[serde(default, rename = "_computingHostIp", deserialize_with = "lenient::or_default")]
    pub host_ip: String,
    #[serde(default, rename = "_routerIp", deserialize_with = "lenient::or_default")]
    pub router_ip: String,
    /// Of the guest, behind the router.
    #[serde(default, rename = "_privateIp", deserialize_with = "lenient::or_default")]
    pub private_ip: String,
}

/// Whether somebody answered, and the text if not.
type Reached = Result<(), String>;

impl Command for PingTestCommand {
    type Answer = NoFields;

    async fn handle(self, ctx: Ctx) -> Result<Reply<NoFields>, Fault> {
        let ping = || find_program("ping").ok_or_else(|| Fault::new("ping is not installed on this host"));
        let reached = if !self.host_ip.is_empty() {
            let host = address(&self.host_ip)?;
            let gateway = nic::default_gateway(Path::new("/")).map(IpAddr::V4);
            ping_host(&Pinger(ping()?), host, gateway).await?
        } else if !self.router_ip.is_empty() && !self.private_ip.is_empty() {
            let (router_ip, guest) = (address(&self.router_ip)?, address(&self.private_ip)?);
            let router = Router::at(&ctx, &self.router_ip)?;
            match Pinger(ping()?).answers(router_ip).await? {
                false => Err(format!("Router {router_ip} does not answer ping")),
                true => ping_through(&router, guest, DEADLINE.min(ctx.deadline)).await?,
            }
        } else {
            return Err(Fault::new("routerip and private ip is null"));
        };
        Ok(match reached {
            Ok(()) => Reply::done(),
            Err(why) => Reply::failed(NoFields {}, why),
        })
    }
}

fn address(text: &str) -> Result<IpAddr, Fault> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(60).collect();
        Fault::new(format!("{shown:?} in the command is not an IP address"))
    })
}

/// The ping program of this host.
struct Pinger(PathBuf);

impl Pinger {
    async fn answers(&self, address: IpAddr) -> Result<bool, Fault> {
        let arguments = ["-n", "-c", "1", "-W", REPLY_WITHIN, &address.to_string()];
        Ok(Program::new(&self.0).args(arguments).deadline(DEADLINE).run().await?.success())
    }
}

/// If the host is silent the gateway tells whether that is its fault or this host's.
async fn ping_host(pinger: &Pinger, host: IpAddr, gateway: Option<IpAddr>) -> Result<Reached, Fault> {
    if pinger.answers(host).await? {
        return Ok(Ok(()));
    }
    Ok(Err(match gateway {
        None => format!("{host} does not answer ping; this host has no default route to compare with"),
        Some(gateway) if pinger.answers(gateway).await? => format!("{host} does not answer ping"),
        Some(gateway) => {
            format!(
                "Neither {host} nor the default gateway {gateway} answers ping: the network of this host may be down"
            )
        }
    }))
}

/// From inside the router: by ping, else by ARP for guests that drop pings.
async fn ping_through(router: &Router, guest: IpAddr, deadline: Duration) -> Result<Reached, Fault> {
    let guest = guest.to_string();
    if router.run(&["ping", "-n", "-c", "1", "-W", REPLY_WITHIN, &guest], deadline).await?.success() {
        return Ok(Ok(()));
    }
    let route = router.run(&["ip", "-o", "route", "get", &guest], deadline).await?.text();
    if let Some(device) = device_of(&route) {
        let arp =
            router.run(&["arping", "-c", "1", "-w", REPLY_WITHIN, "-I", device, &guest], deadline).await?;
        if arp.success() {
            return Ok(Ok(()));
        }
    }
    Ok(Err(format!("Guest {guest} answers neither ping nor ARP from its router")))
}

/// The device in the output of `ip route get`.
fn device_of(route: &str) -> Option<&str> {
    let mut words = route.split_whitespace();
    words.find(|word| *word == "dev")?;
    words.next().filter(|name| name.len() <= 15 && name.starts_with(|c: char| c.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::{Bench, script};
    use serde_json::json;

    const CLASS: &str = "com.cloud.agent.api.PingTestCommand";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_silent_host_is_told_from_a_silent_network() {
        let directory = tempfile::tempdir().unwrap();
        // Answers for the last argument.
        let body =
            r#"for last in "$@"; do :; done; case $last in 10.0.0.1|10.0.0.254) exit 0;; esac; exit 1"#;
        let pinger = Pinger(script(directory.path(), "ping", body).await);
        assert_eq!(ping_host(&pinger, ip("10.0.0.1"), None).await.unwrap(), Ok(()));
        let silent = ping_host(&pinger, ip("10.0.0.2"), Some(ip("10.0.0.254"))).await.unwrap().unwrap_err();
        assert_eq!(silent, "10.0.0.2 does not answer ping");
        let down = ping_host(&pinger, ip("10.0.0.2"), Some(ip("10.0.0.3"))).await.unwrap().unwrap_err();
        assert!(down.contains("network of this host"), "{down}");
        assert!(ping_host(&pinger, ip("10.0.0.2"), None).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn guests_that_drop_pings_are_found_by_arp() {
        let directory = tempfile::tempdir().unwrap();
        let body = r#"case "$*" in
            *"-- ping"*10.1.1.1) exit 0;;
            *"-- ip -o route get"*) echo "10.1.1.2 dev eth0 src 10.1.1.254 uid 0";;
            *"-- arping -c 1 -w 5 -I eth0 10.1.1.2") exit 0;;
            *) exit 1;; esac"#;
        let ssh = script(directory.path(), "ssh", body).await;
        let router = Router::with_program(ssh, ip("169.254.1.1"));
        assert_eq!(ping_through(&router, ip("10.1.1.1"), DEADLINE).await.unwrap(), Ok(()));
        assert_eq!(ping_through(&router, ip("10.1.1.2"), DEADLINE).await.unwrap(), Ok(()));
        assert!(ping_through(&router, ip("10.1.1.3"), DEADLINE).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn addresses_are_checked_first() {
        let mut bench = Bench::new().await;
        for (fields, why) in [
            (json!({}), "routerip and private ip is null"),
            (json!({"_routerIp": "169.254.1.1"}), "routerip and private ip is null"),
            (json!({"_computingHostIp": "-f 10.0.0.1"}), "not an IP address"),
            (json!({"_routerIp": "169.254.1.1", "_privateIp": "10.1.1.1;id"}), "not an IP address"),
        ] {
            let (class, fields) = bench.answer(CLASS, fields).await;
            assert_eq!((class.as_str(), &fields["result"]), ("com.cloud.agent.api.Answer", &json!(false)));
            assert!(fields["details"].as_str().unwrap().contains(why), "{fields}");
        }
    }

    #[test]
    fn the_device_is_the_word_after_dev() {
        assert_eq!(device_of("10.1.1.2 via 10.1.1.1 dev eth2 src 10.1.1.9"), Some("eth2"));
        assert_eq!(device_of("unreachable"), None);
        assert_eq!(device_of("x dev -I"), None);
        assert_eq!(device_of("x dev"), None);
    }
}
