//! A small real guest: one disk, one network interface, a VNC display.

use super::cage::Cage;
use crate::harness::LIMIT;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A guest that behaves: at a key or the power button it powers the machine off, and it gives up PCI
/// devices that are to be unplugged.
#[rustfmt::skip]
const BOOT_SECTOR: [u8; 60] = [
    0xfb, // sti
    0xba, 0x02, 0x06, // mov dx, 602h: enable register of power management of machine type pc
    0xb8, 0x00, 0x01, // mov ax, 100h: the power button
    0xef, // out dx, ax
    0xf4, // hlt: until the next tick of the clock
    0xb4, 0x01, // mov ah, 1
    0xcd, 0x16, // int 16h: is there a key?
    0x75, 0x22, // jnz off
    0xba, 0x00, 0x06, // mov dx, 600h: its status register
    0xed, // in ax, dx
    0xf6, 0xc4, 0x01, // test ah, 1: was the power button pressed?
    0x75, 0x19, // jnz off
    0x66, 0x31, 0xc0, // xor eax, eax
    0xba, 0x10, 0xae, // mov dx, 0ae10h: select the first PCI bus
    0x66, 0xef, // out dx, eax
    0xba, 0x04, 0xae, // mov dx, 0ae04h: slots whose device is to go
    0x66, 0xed, // in eax, dx
    0x66, 0x85, 0xc0, // test eax, eax
    0x74, 0xde, // jz loop
    0xba, 0x08, 0xae, // mov dx, 0ae08h: let the device of the first go
    0x66, 0xef, // out dx, eax
    0xeb, 0xd7, // jmp loop
    0xba, 0x04, 0x06, // mov dx, 604h: control register of power management
    0xb8, 0x00, 0x20, // mov ax, 2000h: soft off
    0xef, // out dx, ax
    0xfa, 0xf4, 0xeb, 0xfd, // cli; hlt, for ever
];
const DISK_SIZE: u64 = 4 * 1024 * 1024;

pub struct Guest<'a> {
    cage: &'a Cage,
    pub name: String,
    pub mac: String,
    /// Its network interface on the host.
    pub tap: String,
    pub disk: PathBuf,
}

/// Writes a disk from which a guest boots that behaves.
pub async fn boot_disk(cage: &Cage, disk: &Path) {
    let raw = disk.with_extension("raw");
    let mut sectors = vec![0; usize::try_from(DISK_SIZE).unwrap()];
    sectors[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    sectors[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(&raw, sectors).unwrap();
    let words = ["qemu-img", "convert", "-O", "qcow2", raw.to_str().unwrap(), disk.to_str().unwrap()];
    cage.run(&words).await.unwrap();
    std::fs::remove_file(raw).unwrap();
}

impl<'a> Guest<'a> {
    /// Makes the disk in `directory`. No other guest of this test run has its name.
    pub async fn new(cage: &'a Cage, directory: &Path) -> Guest<'a> {
        static GUESTS: AtomicU8 = AtomicU8::new(1);
        let number = GUESTS.fetch_add(1, Ordering::Relaxed);
        let disk = directory.join(format!("disk-{number}"));
        boot_disk(cage, &disk).await;
        Guest {
            cage,
            name: format!("i-2-{number}-VM"),
            mac: format!("02:00:4c:7f:00:{number:02x}"),
            tap: format!("tap{number}"),
            disk,
        }
    }

    /// Takes what it boots from: it then never reacts to anything.
    pub async fn forgets_everything(&self) {
        let disk = self.disk.to_str().unwrap();
        self.cage.run(&["qemu-img", "create", "-q", "-f", "qcow2", disk, "4M"]).await.unwrap();
    }

    /// What libvirt starts it from.
    pub fn xml(&self) -> String {
        let Guest { name, mac, tap, disk, .. } = self;
        let disk = disk.display();
        format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>\
             <target dev='vda' bus='virtio'/></disk>\
             <interface type='ethernet'><mac address='{mac}'/><target dev='{tap}'/><model type='rtl8139'/></interface>\
             <graphics type='vnc' autoport='yes' listen='127.0.0.1'/><memballoon model='virtio'/>\
             </devices></domain>"
        )
    }

    /// Starts it as a transient guest, as the agent's guests are.
    pub async fn start(&self) {
        self.start_as(&self.xml()).await;
    }

    /// The same with its XML changed.
    pub async fn start_as(&self, xml: &str) {
        let file = self.cage.file(&format!("/run/{}.xml", self.name));
        std::fs::write(file, xml).unwrap();
        self.cage.virsh(&["create", &format!("/run/{}.xml", self.name)]).await;
    }

    /// Waits until its boot sector runs: from then on it only waits for a key.
    pub async fn boots(&self) {
        let booted = async {
            while self.counter(&["domblkstat", &self.name, "vda"], "rd_req").await == 0 {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(LIMIT, booted).await.expect("the guest does not boot");
    }

    /// A line `... name value` of what virsh prints.
    pub async fn counter(&self, words: &[&str], name: &str) -> u64 {
        let printed = self.cage.virsh(words).await;
        let line = printed.lines().find(|line| line.split_whitespace().rev().nth(1) == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {printed}"))
            .split_whitespace()
            .last()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Sends it a packet of that many bytes of payload, and waits until it has got it. Its network
    /// card takes packets even though the boot sector does nothing with them.
    pub async fn gets_a_packet(&self, payload: usize) {
        let number = self.tap.trim_start_matches("tap");
        let (address, everybody) = (format!("10.83.{number}.1"), format!("10.83.{number}.255"));
        self.cage
            .run(&["ip", "addr", "add", &format!("{address}/24"), "broadcast", &everybody, "dev", &self.tap])
            .await
            .unwrap();
        let socket = std::net::UdpSocket::bind((address, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(&vec![0; payload], (everybody, 9)).unwrap();
        let got = async {
            while self.counter(&["domifstat", &self.name, &self.tap], "rx_bytes").await < payload as u64 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LIMIT, got).await.expect("the guest gets no packet");
    }

    /// Powers off from the inside.
    pub async fn shuts_itself_down(&self) {
        let gone = async {
            // A key pressed too early is lost.
            while self.cage.virsh(&["list", "--name"]).await.lines().any(|name| name == self.name) {
                let _ = self
                    .cage
                    .run(&["virsh", "-q", "-c", "qemu:///system", "send-key", &self.name, "KEY_ENTER"])
                    .await;
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(LIMIT, gone).await.expect("the guest does not shut down");
    }

    /// Its QEMU dies.
    pub async fn crash(&self) {
        let pid =
            std::fs::read_to_string(self.cage.file(&format!("/run/libvirt/qemu/{}.pid", self.name))).unwrap();
        self.cage.run(&["sh", "-c", &format!("kill -9 {}", pid.trim())]).await.unwrap();
    }

    pub async fn virsh(&self, command: &str) {
        self.cage.virsh(&[command, &self.name]).await;
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        // A guest left over would show in the pings of other tests of the same cage.
        let launcher = self.cage.launcher();
        let mut virsh = std::process::Command::new(&launcher[0]);
        virsh.args(&launcher[1..]).args([
            "timeout",
            "5",
            "virsh",
            "-q",
            "-c",
            "qemu:///system",
            "destroy",
            &self.name,
        ]);
        let _ = virsh.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
    }
}
