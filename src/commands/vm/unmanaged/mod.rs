//! Guests that CloudStack does not know: told to the server for import, or left to their owner.

pub mod get_remote_vms;
pub mod get_unmanaged_instances;
mod instance;
pub mod prepare_unmanage_vm_instance;
#[cfg(test)]
mod tests;
pub mod unmanage_instance;
