//! Passphrases of encrypted volumes, which libvirt keeps in memory for the guests.

use uuid::Uuid;

use super::error::Result;
use super::libvirt::secrets;
use super::{CHANGE_DEADLINE, Existence, Hypervisor, QUERY_DEADLINE, plain};

/// Bytes that are overwritten when they are not needed any more.
pub(super) struct Wiped(pub Vec<u8>);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.fill(0);
        // Without a reader the compiler may leave the writing out.
        std::hint::black_box(&self.0);
    }
}

impl Hypervisor {
    /// Gives libvirt the passphrase of the volume at `path` under that id. It is never told again
    /// and does not outlive libvirt; a value that it had before is replaced.
    pub async fn define_secret(&self, uuid: Uuid, path: &str, value: Vec<u8>) -> Result<()> {
        let value = Wiped(value);
        let path = plain("The path of a volume", path)?;
        let define = move |link: &_| secrets::define(link, uuid, &path, &value);
        self.call("defining a secret", CHANGE_DEADLINE, define).await
    }

    pub async fn undefine_secret(&self, uuid: Uuid) -> Result<Existence> {
        self.call("removing a secret", QUERY_DEADLINE, move |link| secrets::undefine(link, uuid)).await
    }

    /// Ids of all secrets with what they are for.
    pub async fn secrets(&self) -> Result<Vec<(Uuid, String)>> {
        self.call("listing secrets", QUERY_DEADLINE, secrets::list).await
    }
}
