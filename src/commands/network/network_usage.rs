//! `com.cloud.agent.api.NetworkUsageCommand`: traffic through a router, as it counts it itself.
//!
//! Asked every 30 s and more per router and public interface, and once per router start to set the
//! counting up. The answer is always true: servers take false for a broken router. What went wrong
//! is in the details; the counters are then 0, which servers know from routers that started anew.

use super::router::Router;
use crate::commands::{Command, Ctx, Fault, Reply};
use crate::wire::lenient;
use std::net::IpAddr;
use std::time::Duration;

/// Longest that a router may take.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkUsageCommand {
    /// Link-local address of the router.
    #[serde(default, rename = "privateIP", deserialize_with = "lenient::or_default")]
    pub private_ip: String,
    #[serde(default, rename = "domRName")]
    pub router_name: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub option: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub for_vpc: bool,
    /// Public address that a VPC router counts for.
    #[serde(default, rename = "gatewayIP", deserialize_with = "lenient::or_default")]
    pub gateway_ip: String,
    #[serde(default, rename = "vpcCIDR", deserialize_with = "lenient::or_default")]
    pub vpc_cidr: String,
}

/// Bytes.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkUsageAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    router_name: Option<String>,
    bytes_sent: u64,
    bytes_received: u64,
}

/// What is made of the script's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// It is the counters.
    Read,
    /// It goes into the details.
    SetUp,
}

impl NetworkUsageCommand {
    /// The script in the router with its arguments.
    fn script(&self) -> Result<(Purpose, Vec<&str>), Fault> {
        if !self.for_vpc {
            let script = "/opt/cloud/bin/netusage.sh";
            return Ok(match self.option.as_str() {
                "create" => (Purpose::SetUp, vec![script, "-c"]),
                _ => (Purpose::Read, vec![script, "-g"]),
            });
        }
        if self.gateway_ip.parse::<IpAddr>().is_err() {
            return Err(Fault::new("gatewayIP of the command is not an IP address"));
        }
        let (purpose, option) = match self.option.as_str() {
            "get" => (Purpose::Read, "-g"),
            "vpn" => (Purpose::Read, "-n"),
            "create" => (Purpose::SetUp, "-c"),
            "reset" => (Purpose::SetUp, "-r"),
            "remove" => (Purpose::SetUp, "-d"),
            _ => {
                return Err(Fault::new(
                    "option of the command is not one of get, vpn, create, reset, remove",
                ));
            }
        };
        let mut script = vec!["/opt/cloud/bin/vpc_netusage.sh", "-l", self.gateway_ip.as_str(), option];
        if self.option == "create" {
            if !is_cidr(&self.vpc_cidr) {
                return Err(Fault::new("vpcCIDR of the command is not a network"));
            }
            script.extend(["-v", self.vpc_cidr.as_str()]);
        }
        Ok((purpose, script))
    }

    fn answer(self, sent: u64, received: u64) -> NetworkUsageAnswer {
        NetworkUsageAnswer { router_name: self.router_name, bytes_sent: sent, bytes_received: received }
    }
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, prefix)| {
        address.parse::<IpAddr>().is_ok() && prefix.parse::<u8>().is_ok_and(|prefix| prefix <= 128)
    })
}

/// `sent:received:sent:received...`, summed up. Half a pair at the end does not count.
fn sums(text: &str) -> Option<(u64, u64)> {
    let text = text.trim().trim_end_matches(':');
    if text.is_empty() {
        return Some((0, 0));
    }
    let numbers: Vec<u64> = text.split(':').map(|word| word.trim().parse().ok()).collect::<Option<_>>()?;
    let mut total = (0_u64, 0_u64);
    for pair in numbers.chunks_exact(2) {
        if let [sent, received] = pair {
            total = (total.0.saturating_add(*sent), total.1.saturating_add(*received));
        }
    }
    Some(total)
}

/// Counters and details.
async fn ask(
    router: &Router,
    purpose: Purpose,
    script: &[&str],
    deadline: Duration,
) -> Result<(u64, u64, String), Fault> {
    let output = router.run(script, deadline).await?;
    let text = output.text();
    if !output.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(Fault::new(format!(
            "The router's script failed with code {:?}: {text} {errors}",
            output.code
        )));
    }
    match purpose {
        Purpose::SetUp => Ok((0, 0, text.lines().next().unwrap_or_default().trim().to_owned())),
        Purpose::Read => match sums(&text) {
            Some((sent, received)) => Ok((sent, received, String::new())),
            None => Err(Fault::new("The router's counters are not numbers")),
        },
    }
}

impl Command for NetworkUsageCommand {
    type Answer = NetworkUsageAnswer;
    const ANSWER: &'static str = "com.cloud.agent.api.NetworkUsageAnswer";

    async fn handle(self, ctx: Ctx) -> Result<Reply<NetworkUsageAnswer>, Fault> {
        // Ends before the command does, so that the answer can still be a true one.
        let deadline = DEADLINE.min(ctx.deadline.mul_f32(0.9));
        let asked = async {
            let (purpose, script) = self.script()?;
            let router = Router::at(&ctx, &self.private_ip)?;
            ask(&router, purpose, &script, deadline).await
        };
        let (sent, received, details) = match asked.await {
            Ok(known) => known,
            Err(fault) => {
                tracing::debug!(router = ?self.router_name, "No network usage: {fault}");
                (0, 0, fault.text().to_owned())
            }
        };
        Ok(Reply::ok(self.answer(sent, received)).details(details))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::{Bench, script};
    use serde_json::{Value, json};
    use std::net::Ipv4Addr;

    const CLASS: &str = "com.cloud.agent.api.NetworkUsageCommand";

    fn command(fields: Value) -> NetworkUsageCommand {
        serde_json::from_value(fields).unwrap()
    }

    #[test]
    fn scripts_are_those_that_routers_have() {
        let captured = command(json!({"privateIP": "169.254.40.187", "domRName": "r-11-VM", "option": "get",
            "forVpc": false, "gatewayIP": "10.1.1.1"}));
        assert_eq!(captured.script().unwrap(), (Purpose::Read, vec!["/opt/cloud/bin/netusage.sh", "-g"]));
        let create = command(json!({"option": "create", "forVpc": false}));
        assert_eq!(create.script().unwrap(), (Purpose::SetUp, vec!["/opt/cloud/bin/netusage.sh", "-c"]));
        let vpc = |option: &str| {
            command(json!({"privateIP": "169.254.54.11", "option": option, "forVpc": true,
                "gatewayIP": "10.99.0.165", "vpcCIDR": "10.2.0.0/16"}))
        };
        let of = |command: &NetworkUsageCommand| command.script().unwrap().1.join(" ");
        assert_eq!(of(&vpc("create")), "/opt/cloud/bin/vpc_netusage.sh -l 10.99.0.165 -c -v 10.2.0.0/16");
        assert_eq!(of(&vpc("get")), "/opt/cloud/bin/vpc_netusage.sh -l 10.99.0.165 -g");
        assert_eq!(vpc("vpn").script().unwrap().0, Purpose::Read);
        assert_eq!(vpc("reset").script().unwrap().0, Purpose::SetUp);
        assert!(vpc("addVif").script().is_err());
        let odd = json!({"option": "create", "forVpc": true, "gatewayIP": "10.0.0.1", "vpcCIDR": "1/$(id)"});
        assert!(command(odd).script().is_err());
        assert!(command(json!({"option": "get", "forVpc": true, "gatewayIP": "x"})).script().is_err());
    }

    #[test]
    fn counters_are_summed_in_pairs() {
        assert_eq!(sums("1:2:30:40:\n"), Some((31, 42)));
        assert_eq!(sums("0:0:0:0"), Some((0, 0)));
        assert_eq!(sums("1:2:3"), Some((1, 2)));
        assert_eq!(sums(""), Some((0, 0)));
        assert_eq!(sums("1:x"), None);
        assert_eq!(sums(&format!("{0}:1:{0}:1", u64::MAX)), Some((u64::MAX, 2)));
    }

    #[tokio::test]
    async fn counters_come_from_the_router() {
        let directory = tempfile::tempdir().unwrap();
        let ssh = script(
            directory.path(),
            "ssh",
            "case \"$*\" in *-g) echo 5:7:;; *-c) echo done; echo more;; *) exit 2;; esac",
        )
        .await;
        let router = Router::with_program(ssh, Ipv4Addr::LOCALHOST.into());
        let read = ask(&router, Purpose::Read, &["n", "-g"], DEADLINE).await.unwrap();
        assert_eq!(read, (5, 7, String::new()));
        let set_up = ask(&router, Purpose::SetUp, &["n", "-c"], DEADLINE).await.unwrap();
        assert_eq!(set_up, (0, 0, "done".into()));
        assert!(ask(&router, Purpose::Read, &["n", "-x"], DEADLINE).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_router_gives_zeros_and_the_reason() {
        let mut bench = Bench::new().await;
        for address in ["127.0.0.1", "not-an-address"] {
            let command =
                json!({"privateIP": address, "domRName": "r-1-VM", "option": "get", "forVpc": false});
            let (class, fields) = bench.answer(CLASS, command).await;
            assert_eq!(
                (class.as_str(), &fields["result"]),
                ("com.cloud.agent.api.NetworkUsageAnswer", &json!(true))
            );
            assert_eq!((&fields["bytesSent"], &fields["bytesReceived"]), (&json!(0), &json!(0)));
            assert!(!fields["details"].as_str().unwrap().is_empty());
        }
    }
}
