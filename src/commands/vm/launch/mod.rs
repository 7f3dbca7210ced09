//! What has to be there before a guest can run here: its disks and discs as files, passphrases in
//! libvirt, bridges for its cards, facts of the host. Not commands: they are made from these.

pub(in crate::commands) mod cards;
pub(in crate::commands) mod definition;
pub(in crate::commands) mod discs;
pub(in crate::commands) mod facts;
pub(in crate::commands) mod hooks;
pub(in crate::commands) mod media;
pub(in crate::commands) mod system_vm;
