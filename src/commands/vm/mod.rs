//! Commands about guests.

pub mod check_virtual_machine;
pub mod create_vm_snapshot;
pub mod delete_vm_snapshot;
pub mod freeze_thaw_vm;
pub mod get_vm_disk_stats;
pub mod get_vm_ip_address;
pub mod get_vm_network_stats;
pub mod get_vm_stats;
pub mod get_vnc_port;
mod guest_files;
pub mod guest_spec;
pub(super) mod launch;
mod leftovers;
pub mod moving;
pub mod reboot;
pub mod restore_vm_snapshot;
pub mod revert_to_vm_snapshot;
pub mod scale_vm;
pub mod start;
pub mod stop;
#[cfg(test)]
mod testing;
pub mod unmanaged;
mod vm_snapshots;

use super::fault::{Fault, fault_from};
use crate::hypervisor::HypervisorError;
use crate::wire::lenient;
use guest_spec::GuestSpecError;

fault_from!(GuestSpecError, HypervisorError);

/// The fields that the three statistics commands for guests have in common.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestNames {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub vm_names: Vec<String>,
    /// Name of this host; the answers to two of the commands give it back.
    #[serde(default)]
    pub host_name: Option<String>,
}

#[cfg(test)]
pub(super) mod node {
    //! A hypervisor with two guests, one of them stopped.

    /// libvirt's test driver counts bytes on interfaces and blocks only for running guests.
    pub const XML: &str = r#"<node>
  <cpu><mhz>2600</mhz><model>x86_64</model><active>4</active><nodes>1</nodes><sockets>1</sockets>
    <cores>4</cores><threads>1</threads></cpu>
  <memory>8388608</memory>
  <domain type='test'>
    <name>i-2-3-VM</name><memory>524288</memory><currentMemory>262144</currentMemory><vcpu>2</vcpu>
    <os><type>hvm</type></os>
    <devices>
      <disk type='file' device='disk'><source file='/var/lib/libvirt/images/vol-1'/><target dev='vda'/></disk>
      <disk type='file' device='cdrom'><target dev='hdc'/><readonly/></disk>
      <interface type='bridge'><mac address='02:00:4C:9B:00:01'/><source bridge='br0'/><target dev='vtap7'/></interface>
      <graphics type='vnc' port='5907'/>
    </devices>
  </domain>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <test:runstate>5</test:runstate>
    <name>i-2-4-VM</name><memory>524288</memory><vcpu>1</vcpu><os><type>hvm</type></os>
  </domain>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <test:runstate>3</test:runstate>
    <name>i-2-5-VM</name><memory>524288</memory><vcpu>1</vcpu><os><type>hvm</type></os>
  </domain>
</node>"#;
}
