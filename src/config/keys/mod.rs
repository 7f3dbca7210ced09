//! Every key of `agent.properties`: type, default, and when an edit takes effect.
//!
//! The keys are those of `com.cloud.agent.properties.AgentProperties`, those that other Java classes read,
//! and those that the agent itself writes. The one place where a default is written down.

mod table;

pub use table::KEYS;

use super::value;
use std::net::IpAddr;

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// What a missing or blank value means; `None`: nothing, or something found out at run time.
    pub default: Option<&'static str>,
    /// First CloudStack release that knows the key; `4.19` stands for 4.19 and older.
    pub since: &'static str,
    pub reload: Reload,
    /// One sentence.
    pub doc: &'static str,
}

/// What a value has to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Text that must not be shown.
    Secret,
    /// 32-bit whole number.
    Integer,
    /// 64-bit whole number.
    Long,
    Boolean,
    Path,
    /// Comma-separated paths.
    PathList,
    /// Comma-separated UUIDs.
    UuidList,
    /// Comma-separated management servers, `@algorithm` behind.
    ServerList,
    /// Network in `address/prefix` notation.
    Cidr,
    /// Name of a network interface.
    Device,
    /// Address and port to listen on.
    Socket,
}

/// When an edited value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// At its next use.
    Live,
    /// At the next registration with a management server.
    NextSession,
    /// Only after a restart of the agent; until then the old value stays in force.
    Restart,
}

/// The key with exactly this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Kind {
    /// What a correct value is, for error messages: "expected ...".
    pub fn expected(self) -> &'static str {
        match self {
            Kind::Text | Kind::Secret => "text",
            Kind::Integer => "a whole number from -2147483648 to 2147483647",
            Kind::Long => "a whole number of at most 64 bits",
            Kind::Boolean => "true, yes, y, on or 1, or false, no, n, off or 0",
            Kind::Path => "a path",
            Kind::PathList => "paths separated by commas",
            Kind::UuidList => "UUIDs (8-4-4-4-12 hexadecimal digits) separated by commas",
            Kind::ServerList => "host names or addresses separated by commas, optionally @algorithm behind",
            Kind::Cidr => "a network as address/prefix length, such as 169.254.0.0/16",
            Kind::Device => "an interface name of 1 to 15 characters without blanks and slashes",
            Kind::Socket => "an address of this host and a port, such as 127.0.0.1:9250 or [::1]:9250",
        }
    }

    /// Whether a value (not blank) is of this kind.
    pub fn accepts(self, text: &str) -> bool {
        match self {
            Kind::Text | Kind::Secret => true,
            Kind::Integer => text.parse::<i32>().is_ok(),
            Kind::Long => text.parse::<i64>().is_ok(),
            Kind::Boolean => value::boolean(text).is_some(),
            Kind::Path => !text.contains('\0'),
            Kind::PathList => value::list(text).iter().all(|path| !path.is_empty() && !path.contains('\0')),
            Kind::UuidList => value::list(text).iter().all(|uuid| value::uuid(uuid).is_some()),
            Kind::ServerList => super::ServerList::parse(text).is_some(),
            Kind::Cidr => is_cidr(text),
            Kind::Device => value::is_device_name(text),
            Kind::Socket => value::socket(text).is_some(),
        }
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let longest = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    prefix.parse::<u8>().is_ok_and(|prefix| prefix <= longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_found_exactly() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        assert!(KEYS.iter().all(|key| find(key.name) == Some(key)));
        assert_eq!(find("hos"), None);
        assert_eq!(find("Host"), None);
    }

    #[test]
    fn every_default_is_of_its_kind() {
        for key in KEYS {
            assert!(key.default.is_none_or(|default| key.kind.accepts(default)), "{key:?}");
        }
    }

    #[test]
    fn every_key_is_documented_by_one_sentence_and_dated_by_a_release() {
        for key in KEYS {
            assert!(key.doc.ends_with('.') && key.doc.len() > 15 && !key.doc.contains(". "), "{key:?}");
            assert!(["4.19", "4.20", "4.20.2", "4.21", "4.22"].contains(&key.since), "{key:?}");
        }
    }

    #[test]
    fn identity_network_storage_and_hypervisor_need_a_restart() {
        for name in [
            "guid",
            "private.network.device",
            "public.network.device",
            "guest.network.device",
            "local.storage.path",
            "local.storage.uuid",
            "hypervisor.uri",
        ] {
            assert_eq!(find(name).map(|key| key.reload), Some(Reload::Restart), "{name}");
        }
        for name in ["host", "agent.health.check.script.path", "ping.retries", "backoff.seconds"] {
            assert_eq!(find(name).map(|key| key.reload), Some(Reload::Live), "{name}");
        }
    }

    #[test]
    fn kinds_tell_right_from_wrong() {
        for (kind, right, wrong) in [
            (Kind::Integer, "-1", "2147483648"),
            (Kind::Long, "2147483648", "1.5"),
            (Kind::Boolean, "YES", "maybe"),
            (Kind::Path, "/a b", "/a\0"),
            (Kind::PathList, "/a, /b", "/a,,/b"),
            (Kind::UuidList, "8f337c97-3339-3d70-9388-3bd28ddb6588", "8f337c9733393d7093883bd28ddb6588"),
            (Kind::ServerList, "a,b@static", "@host@"),
            (Kind::Cidr, "169.254.0.0/16", "169.254.0.0/33"),
            (Kind::Cidr, "fe80::/10", "169.254.0.0"),
            (Kind::Device, "cloudbr1.2049", "a/b"),
            (Kind::Device, "cloudbr0", "sixteencharacter"),
            (Kind::Socket, "[::1]:9250", "localhost:9250"),
            (Kind::Socket, "127.0.0.1:9250", "127.0.0.1:0"),
        ] {
            assert!(kind.accepts(right), "{kind:?} {right}");
            assert!(!kind.accepts(wrong), "{kind:?} {wrong}");
        }
    }
}
