//! Transfer objects: what commands carry about storage and guests, as it is on the wire.
//!
//! Fields have the names of the Java classes; every field may be absent. Nothing here acts. Values
//! that a class declares as the interface `DataTO` or `DataStoreTO` come in a one-member wrapper named
//! by their class ([`data::Data`], [`store::Store`]); those declared with their own class do not.

pub mod answers;
pub mod data;
pub mod disk;
pub mod echo;
pub mod host;
pub mod nic;
pub mod passphrase;
pub mod store;
pub mod vm;
pub mod vm_snapshot;

pub use data::{Data, SnapshotObject, TemplateObject, VolumeObject};
pub use disk::DiskTo;
pub use echo::Echo;
pub use host::HostTo;
pub use nic::NicTo;
pub use passphrase::Passphrase;
pub use store::{NfsStore, PrimaryStore, StorageFiler, Store};
pub use vm::{Era, VirtualMachineTo};
pub use vm_snapshot::VmSnapshotTo;
