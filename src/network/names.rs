//! Names of the bridges and devices that belong to a network id. They are known to operators and
//! to the Java agent, which must find its own bridges again: `br<pif>-<id>` over `<pif>.<id>` for a VLAN,
//! `brvx-<id>` over `vxlan<id>` for a VXLAN.

use super::error::NetworkError;

/// Longest interface name of Linux (IFNAMSIZ less the NUL).
const LONGEST: usize = 15;
/// In CloudStack's terms no VLAN at all; the scripts of the Java agent pass it over.
pub(super) const TRUNK: u16 = 4095;
const MAX_VXLAN: u32 = (1 << 24) - 1;

/// Checks a name from the server or the configuration: it becomes part of paths and of the input of
/// `ip`, to which blanks, quotes and a leading dash mean something.
pub(super) fn checked(name: &str) -> Result<&str, NetworkError> {
    let sound = (1..=LONGEST).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if sound { Ok(name) } else { Err(NetworkError::Name { name: name.chars().take(40).collect() }) }
}

/// What tells a network apart from the others on the same wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Vlan(u16),
    Vxlan(u32),
}

impl Tag {
    pub(super) fn id(self) -> u32 {
        match self {
            Tag::Vlan(id) => id.into(),
            Tag::Vxlan(id) => id,
        }
    }

    /// `VLAN 100`, for messages.
    pub(super) fn title(self) -> String {
        match self {
            Tag::Vlan(id) => format!("VLAN {id}"),
            Tag::Vxlan(id) => format!("VXLAN {id}"),
        }
    }

    fn check(self) -> Result<(), NetworkError> {
        match self {
            Tag::Vlan(1..=TRUNK) | Tag::Vxlan(1..=MAX_VXLAN) => Ok(()),
            Tag::Vlan(id) => Err(NetworkError::Id { kind: "VLAN", id: id.into(), allowed: "1 to 4094" }),
            Tag::Vxlan(id) => Err(NetworkError::Id { kind: "VXLAN", id, allowed: "1 to 16777215" }),
        }
    }
}

/// A bridge and the tagged device that connects it to the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vnet {
    pub tag: Tag,
    /// The device that the tagged one is made on.
    pub pif: String,
    pub uplink: String,
    pub bridge: String,
}

impl Vnet {
    pub(super) fn new(pif: &str, tag: Tag) -> Result<Vnet, NetworkError> {
        tag.check()?;
        let pif = checked(pif)?.to_owned();
        let (uplink, bridge) = match tag {
            Tag::Vlan(id) => (format!("{pif}.{id}"), format!("br{pif}-{id}")),
            Tag::Vxlan(id) => (format!("vxlan{id}"), format!("brvx-{id}")),
        };
        // The bridge's name is never the shorter one.
        if bridge.len() > LONGEST {
            return Err(NetworkError::NameTooLong { name: bridge, pif, id: tag.id() });
        }
        Ok(Vnet { tag, pif, uplink, bridge })
    }

    /// Multicast group of a VXLAN: its id in the lower 24 bits.
    pub(super) fn group(id: u32) -> String {
        format!("239.{}.{}.{}", (id >> 16) & 0xff, (id >> 8) & 0xff, id & 0xff)
    }
}

/// A bridge that, by its name, was made for a network id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    pub id: u32,
    /// `vx` for VXLAN; `None` in names of the oldest kind.
    pif: Option<String>,
}

impl Made {
    /// Reads `br<pif>-<id>`, `brvx-<id>` and `cloudVirBr<id>`.
    pub(super) fn by_name(bridge: &str) -> Option<Made> {
        if let Some(id) = bridge.strip_prefix("cloudVirBr") {
            return Some(Made { id: number(id)?, pif: None });
        }
        let (pif, id) = bridge.strip_prefix("br")?.rsplit_once('-')?;
        let pif = checked(pif).ok()?.to_owned();
        Some(Made { id: number(id)?, pif: Some(pif) })
    }

    /// Whether a port is the tagged device that belongs to the name.
    pub(super) fn is_uplink(&self, port: &str) -> bool {
        if port.strip_prefix("vxlan").and_then(number) == Some(self.id) {
            return self.pif.as_deref().is_none_or(|pif| pif == "vx");
        }
        match port.rsplit_once('.') {
            Some((pif, id)) => {
                number(id) == Some(self.id) && self.pif.as_deref().is_none_or(|own| own == pif)
            }
            None => false,
        }
    }

    /// The interface that the name promises, if it is one.
    pub(super) fn pif(&self) -> Option<&str> {
        self.pif.as_deref().filter(|pif| *pif != "vx")
    }

    pub(super) fn is_vxlan(&self) -> bool {
        self.pif.as_deref() == Some("vx")
    }
}

fn number(text: &str) -> Option<u32> {
    // Without sign and leading zeros: a name that this agent would have made.
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_kind() {
        let vlan = Vnet::new("eth1", Tag::Vlan(512)).unwrap();
        assert_eq!((vlan.uplink.as_str(), vlan.bridge.as_str()), ("eth1.512", "breth1-512"));
        let vxlan = Vnet::new("cloudbr0", Tag::Vxlan(16_777_215)).unwrap();
        assert_eq!((vxlan.uplink.as_str(), vxlan.bridge.as_str()), ("vxlan16777215", "brvx-16777215"));
        assert_eq!(Vnet::group(5000), "239.0.19.136");
        assert_eq!(Vnet::group(0x01_02_03), "239.1.2.3");
    }

    #[test]
    fn names_and_ids_have_limits() {
        let fails = |pif: &str, tag| Vnet::new(pif, tag).unwrap_err().to_string();
        let long = fails("enp129s0f1", Tag::Vlan(1000));
        assert!(long.contains("brenp129s0f1-1000") && long.contains("15 characters"), "{long}");
        assert!(Vnet::new("enp12s0f1", Tag::Vlan(100)).is_ok());
        assert!(fails("eth0", Tag::Vlan(0)).contains("1 to 4094"));
        assert!(fails("eth0", Tag::Vlan(4096)).contains("VLAN"));
        assert!(fails("eth0", Tag::Vxlan(1 << 24)).contains("VXLAN"));
        assert!(Vnet::new("eth0", Tag::Vlan(TRUNK)).is_ok());
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in ["", ".", "..", "-force", "a b", "a/b", "a\nb", "a\"b", "a#b", "ä", "sixteen-letters-"] {
            assert!(checked(name).is_err(), "{name:?}");
        }
        for name in ["cloudbr0", "br-lan", "eth0.100", "bond_1"] {
            assert_eq!(checked(name).unwrap(), name);
        }
    }

    #[test]
    fn made_bridges_are_known_by_name() {
        let vlan = Made::by_name("breth1-512").unwrap();
        assert_eq!((vlan.id, vlan.pif()), (512, Some("eth1")));
        assert!(vlan.is_uplink("eth1.512"));
        for other in ["eth2.512", "eth1.51", "eth1.0512", "vxlan512", "vnet0", "eth1"] {
            assert!(!vlan.is_uplink(other), "{other}");
        }
        let vxlan = Made::by_name("brvx-5000").unwrap();
        assert!(vxlan.is_vxlan() && vxlan.is_uplink("vxlan5000") && !vxlan.is_uplink("vxlan500"));
        let old = Made::by_name("cloudVirBr77").unwrap();
        assert!(old.is_uplink("eth0.77") && old.is_uplink("vxlan77") && !old.is_uplink("eth0.7"));
        for plain in
            ["cloudbr0", "cloud0", "br0", "br-lan", "br-5", "breth0-", "breth0-01", "virbr0", "cloudVirBr"]
        {
            assert_eq!(Made::by_name(plain), None, "{plain}");
        }
    }
}
