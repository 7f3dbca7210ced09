//! Which names look like CloudStack's. What an operator has put on the host does not.

use uuid::Uuid;

/// `i-2-7-VM`, `r-4-VM`, `s-1-VM`, `v-2-VM`, with an instance name in the place of `VM`.
pub fn is_guest(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let number =
        |part: &&&str| !part.is_empty() && part.len() <= 19 && part.bytes().all(|b| b.is_ascii_digit());
    let numbers = match parts.as_slice() {
        ["i", numbers @ .., instance] if numbers.len() == 2 && is_instance(instance) => numbers,
        ["r" | "s" | "v", numbers @ .., instance] if numbers.len() == 1 && is_instance(instance) => numbers,
        _ => return false,
    };
    numbers.iter().filter(number).count() == numbers.len()
}

fn is_instance(text: &str) -> bool {
    !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// With dashes, 36 characters.
pub fn is_uuid(name: &str) -> bool {
    name.len() == 36 && Uuid::try_parse(name).is_ok()
}

/// A disk, template or ISO in a pool: an id, with an ending or without.
pub fn is_volume(name: &str) -> bool {
    is_uuid(name.split_once('.').map_or(name, |(stem, _)| stem))
}

/// The guest or id that a file with an ending is named after.
pub fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// A config drive.
pub fn is_config_drive(name: &str) -> bool {
    name.ends_with(".iso") && is_guest(stem(name))
}

/// UEFI variables: named after the guest's id or, by libvirt, its name.
pub fn is_nvram(name: &str) -> bool {
    let stem = stem(name);
    let name_only = stem.strip_suffix("_VARS").unwrap_or(stem);
    is_uuid(name_only) || is_guest(name_only)
}

/// A file that the agent writes before it has its final name.
pub fn is_unfinished(name: &str) -> bool {
    let download = name.starts_with(".download-") && name.ends_with(".part");
    download || (name.starts_with('.') && name.contains(".partial-"))
}

/// A bridge of a network id, with what connects it to the wire.
pub fn uplink(bridge: &str) -> Option<String> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some(id) = bridge.strip_prefix("brvx-") {
        return number(id).then(|| format!("vxlan{id}"));
    }
    let (pif, id) = bridge.strip_prefix("br")?.rsplit_once('-')?;
    (!pif.is_empty() && number(id)).then(|| format!("{pif}.{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cloudstack_are_told_from_those_of_people() {
        for name in ["i-2-7-VM", "r-4-VM", "s-1-VM", "v-12-VM", "i-2-7-prod"] {
            assert!(is_guest(name), "{name}");
        }
        for name in ["i-2-VM", "r-4", "x-4-VM", "i-2-7-", "r-a-VM", "r--VM", "router", "i-2-7-8-VM", ""] {
            assert!(!is_guest(name), "{name}");
        }
        let id = "0b3d1f5e-8a35-4c11-9d6b-3f0d8a1f2c11";
        assert!(is_volume(id) && is_volume(&format!("{id}.iso")) && is_volume(&format!("{id}.qcow2")));
        assert!(!is_volume("debian-12.qcow2") && !is_volume(&id.replace('-', "")) && !is_volume("x"));
        assert!(is_nvram(&format!("{id}.fd")) && is_nvram("i-2-7-VM_VARS.fd") && !is_nvram("web_VARS.fd"));
        assert!(is_config_drive("i-2-7-VM.iso") && !is_config_drive("debian.iso"));
        assert!(is_unfinished(".download-kvm1.00ff.part") && is_unfinished(&format!(".{id}.partial-a-b-0")));
        assert!(!is_unfinished("x.partial-a-b-0") && !is_unfinished(id));
    }

    #[test]
    fn bridges_of_network_ids_are_known_with_their_uplinks() {
        assert_eq!(uplink("breth0-100").as_deref(), Some("eth0.100"));
        assert_eq!(uplink("brbond-1-7").as_deref(), Some("bond-1.7"));
        assert_eq!(uplink("brvx-5000").as_deref(), Some("vxlan5000"));
        for name in ["cloudbr0", "br0", "br-1", "br-lan", "brvx-", "virbr0"] {
            assert_eq!(uplink(name), None, "{name}");
        }
    }
}
