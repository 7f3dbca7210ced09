//! What a guest's definition depends on of this host.

use crate::commands::Ctx;
use crate::commands::vm::guest_spec::{HostFacts, UefiFiles};
use crate::config::{Config, Properties};
use crate::hypervisor::Connection;

/// Beside agent.properties.
const UEFI_PROPERTIES: &str = "uefi.properties";
/// Absent in kernels without a switch for it.
const IO_URING_SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";
const LIBVIRT_WITH_IO_URING: u64 = 6_003_000;
const QEMU_WITH_IO_URING: u64 = 5_000_000;

/// The facts as of now; all of them are known already or are small files.
pub(in crate::commands) async fn gather(ctx: &Ctx, config: &Config) -> HostFacts {
    let (libvirt_version, qemu_version) = match &ctx.services.hypervisor.status().borrow().connection {
        Connection::Connected { libvirt_version, hypervisor_version, .. } => {
            (number(libvirt_version), number(hypervisor_version))
        }
        Connection::Connecting { .. } | Connection::Lost { .. } => (0, 0),
    };
    let capacity = ctx.services.identity.borrow().as_ref().map_or(0, |known| known.cpu_capacity_mhz);
    let new_enough = libvirt_version >= LIBVIRT_WITH_IO_URING && qemu_version >= QEMU_WITH_IO_URING;
    HostFacts {
        cpu_capacity_mhz: capacity,
        libvirt_version,
        qemu_version,
        io_uring: new_enough && io_uring_is_on().await,
        emulator: None,
        uefi: uefi(config).await,
    }
}

/// "7.2.1" as libvirt counts versions; 0 for what is none.
fn number(dotted: &str) -> u64 {
    let mut parts = dotted.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0).min(999);
    next() * 1_000_000 + next() * 1_000 + next()
}

async fn io_uring_is_on() -> bool {
    let switch = tokio::fs::read_to_string(IO_URING_SWITCH).await;
    switch.map_or(true, |text| text.trim() == "0")
}

async fn uefi(config: &Config) -> UefiFiles {
    let path = config.dir().join(UEFI_PROPERTIES);
    let Ok(bytes) = tokio::fs::read(&path).await else { return UefiFiles::default() };
    match Properties::parse(&bytes) {
        Ok(properties) => UefiFiles::read(|key| properties.get(key)),
        Err(error) => {
            tracing::warn!(path = %path.display(), "Not read: {}", crate::errors::chain(&error));
            UefiFiles::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;

    #[test]
    fn versions_are_numbers() {
        for (text, expected) in
            [("7.2.1", 7_002_001), ("9.0.0", 9_000_000), ("unknown", 0), ("10.0", 10_000_000)]
        {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn firmware_is_found_beside_the_configuration() {
        let bench = Bench::new().await;
        let path = bench.dir().join(UEFI_PROPERTIES);
        assert_eq!(gather(&bench.ctx, &bench.config()).await.uefi, UefiFiles::default());
        std::fs::write(path, "guest.loader.secure=/fw/secure.fd\nguest.nvram.path=/nvram/\n").unwrap();
        let facts = gather(&bench.ctx, &bench.config()).await;
        assert_eq!(facts.uefi.loader_secure.as_deref(), Some("/fw/secure.fd"));
        assert!(facts.libvirt_version >= 5_000_000, "{facts:?}");
    }
}
