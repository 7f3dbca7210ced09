//! `com.cloud.agent.api.to.VirtualMachineTO`: a guest as the server wants it.
//!
//! Several members were renamed over the versions and some came later. Both spellings are read, and
//! which of them were there tells the server's version, on which a few rules depend.

use super::{DiskTo, NicTo};
use crate::commands::secret;
use crate::config::Secret;
use crate::wire::lenient;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Maps whose values may be null.
type TextMap = BTreeMap<String, Option<String>>;

/// Versions of the server between which the agent's rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Era {
    V4_19,
    V4_20,
    V4_21,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineTo {
    #[serde(default, deserialize_with = "lenient::int")]
    pub id: i64,
    /// The internal name: `i-2-10-VM`, `r-5-VM`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub name: String,
    /// `User`, `DomainRouter`, `ConsoleProxy`, `SecondaryStorageVm`, ...
    #[serde(default, deserialize_with = "lenient::or_default", rename = "type")]
    pub kind: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub uuid: String,
    #[serde(default, deserialize_with = "lenient::int")]
    pub cpus: i64,
    /// MHz of each vCPU.
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub speed: Option<i64>,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub min_speed: Option<i64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::int")]
    pub min_ram: i64,
    #[serde(default, deserialize_with = "lenient::int")]
    pub max_ram: i64,
    #[serde(default)]
    pub arch: Option<String>,
    /// Display name of the operating system.
    #[serde(default)]
    pub os: Option<String>,
    /// The same as this hypervisor calls it.
    #[serde(default)]
    pub platform_emulator: Option<String>,
    /// What a system VM gets told; has keys and passwords in it.
    #[serde(default = "secret::none", deserialize_with = "secret::text")]
    pub boot_args: Secret,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub limit_cpu_use: bool,
    /// Fraction of a core per vCPU.
    #[serde(default)]
    pub cpu_quota_percentage: Option<f64>,
    #[serde(default = "secret::none", deserialize_with = "secret::text")]
    pub vnc_password: Secret,
    #[serde(default, deserialize_with = "lenient::opt_int")]
    pub vcpu_max_limit: Option<i64>,
    /// From 4.21 on what `params` was before.
    #[serde(default)]
    details: Option<TextMap>,
    #[serde(default)]
    params: Option<TextMap>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub disks: Vec<DiskTo>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub nics: Vec<NicTo>,
    #[serde(default)]
    pub gpu_device: Option<GpuDeviceTo>,
    /// `PRIMARY`, `SECONDARY` or `HOST`.
    #[serde(default)]
    pub config_drive_location: Option<String>,
    /// Raw XML by key.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub extra_config: TextMap,
    #[serde(default)]
    pub metadata_manufacturer: Option<String>,
    #[serde(default)]
    pub metadata_product_name: Option<String>,
    #[serde(default)]
    network_id_to_network_name_map: Option<TextMap>,
}

/// `com.cloud.agent.api.to.GPUDeviceTO` as of 4.21: devices of the host for the guest.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuDeviceTo {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub gpu_devices: Vec<VgpuTypesInfo>,
}

/// `com.cloud.agent.api.VgpuTypesInfo`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VgpuTypesInfo {
    /// `PCI` or `MDEV`.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub device_type: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub bus_address: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub vendor_id: String,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub model_name: String,
    #[serde(default, deserialize_with = "lenient::flag")]
    pub display: bool,
}

impl VirtualMachineTo {
    /// Not a system VM.
    pub fn is_user(&self) -> bool {
        self.kind.eq_ignore_ascii_case("User")
    }

    /// A detail of the VM, its template or its service offering; blank ones count as absent.
    pub fn detail(&self, key: &str) -> Option<&str> {
        let details = self.details.as_ref().or(self.params.as_ref())?;
        details.get(key)?.as_deref().map(str::trim).filter(|value| !value.is_empty())
    }

    /// Whether there is such a detail, with or without a value.
    pub fn has_detail(&self, key: &str) -> bool {
        self.details.as_ref().or(self.params.as_ref()).is_some_and(|details| details.contains_key(key))
    }

    pub fn era(&self) -> Era {
        let of_nics = self.nics.iter().map(NicTo::era).max().unwrap_or(Era::V4_19);
        let own = if self.details.is_some() {
            Era::V4_21
        } else if self.metadata_manufacturer.is_some() || self.network_id_to_network_name_map.is_some() {
            Era::V4_20
        } else {
            Era::V4_19
        };
        own.max(of_nics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(json: &str) -> VirtualMachineTo {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn details_are_found_under_both_names() {
        for (json, era) in [
            (r#"{"params":{"a":" x ","b":null}}"#, Era::V4_19),
            (r#"{"params":{"a":"x","b":""},"networkIdToNetworkNameMap":{"204":"n"}}"#, Era::V4_20),
            (r#"{"params":{"a":"x","b":null},"nics":[{"networkId":204}]}"#, Era::V4_20),
            (r#"{"details":{"a":"x","b":null},"params":{"a":"no"}}"#, Era::V4_21),
        ] {
            let vm = vm(json);
            assert_eq!((vm.detail("a"), vm.detail("b"), vm.era()), (Some("x"), None, era), "{json}");
            assert!(vm.has_detail("b") && !vm.has_detail("c"), "{json}");
        }
        assert_eq!(vm("{}").detail("a"), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        let vm = vm(r#"{"vncPassword":"canary1","bootArgs":"keystore_password=canary2"}"#);
        assert!(!format!("{vm:?}").contains("canary"));
    }
}
