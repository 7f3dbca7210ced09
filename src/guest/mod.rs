//! What a guest is, as plain values, and its domain XML. Pure: no I/O, no wire types, no libvirt.
//!
//! `com.cloud.hypervisor.kvm.resource.LibvirtVMDef` and `LibvirtComputingResource.createVMFromSpec`,
//! without what does harm there: one `<cpu>`, one `<devices>`, no empty `file=''`, every value escaped.
//!
//! ```text
//!   GuestSpec ── domain_xml ──▶ <domain>          rules: bus (where a disk goes, what it is called),
//!     ├ disks ── disks ───────▶ <disk>                   cpu (topology, shares, quota),
//!     ├ nics  ── nics ────────▶ <interface>              nics (model of a network card)
//!     └ rest  ── devices ─────▶ everything else
//! ```

pub mod bus;
pub mod cpu;
pub mod devices;
pub mod disks;
pub mod domain_xml;
pub mod extra_config;
pub mod moved;
pub mod nics;
pub mod released;
pub mod spec;

pub use bus::DiskBus;
pub use extra_config::ExtraConfigError;
pub use nics::{Nic, NicModel, OvsPort};
pub use spec::GuestSpec;
