//! What the tests of copies have in common: real images, and secondary storage that is a tmpfs whose
//! content comes from a directory and goes back there.

use crate::commands::testing::Bench;
use crate::journal::faults::Fault;
use crate::storage::testing::{Nfs, qemu_img, run};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// With a MiB of content.
pub async fn filled(path: &Path, size: &str) {
    let raw = path.with_file_name("raw");
    std::fs::write(&raw, vec![7; 1 << 20]).unwrap();
    let [raw_, path_] = [raw.to_str().unwrap(), path.to_str().unwrap()];
    run(&["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw_, path_]).await.unwrap();
    run(&["qemu-img", "resize", "-q", "-f", "qcow2", path_, size]).await.unwrap();
    std::fs::remove_file(raw).unwrap();
}

pub async fn overlay(path: &Path, base: &Path) {
    let [path, base] = [path.to_str().unwrap(), base.to_str().unwrap()];
    run(&["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path]).await.unwrap();
}

/// Starts a guest that writes to `top`, which is based on `base` as far as libvirt tells.
pub async fn guest_over(bench: &Bench, name: &str, top: &Path, base: &Path) {
    let xml = format!(
        "<domain type='test'><name>{name}</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os>\
         <devices><disk type='file' device='disk'><source file='{}'/><backingStore type='file'>\
         <format type='qcow2'/><source file='{}'/><backingStore/></backingStore><target dev='vda' bus='virtio'/></disk>\
         </devices></domain>",
        top.display(),
        base.display()
    );
    bench.ctx.services.hypervisor.start_domain(name, &xml, Duration::from_secs(60)).await.unwrap();
}

/// An error and a crash at each step of the journal.
pub fn interruptions(steps: u64) -> impl Iterator<Item = Fault> {
    (1..=steps).flat_map(|at| [Fault::Error { at }, Fault::Crash { at }])
}

/// Secondary storage with a directory's content.
pub struct Secondary {
    pub nfs: Nfs,
    pub content: tempfile::TempDir,
}

impl Secondary {
    pub async fn new() -> Option<Secondary> {
        qemu_img()?;
        let content = tempfile::tempdir().unwrap();
        let path = content.path().display();
        let mount = format!("/bin/mount -t tmpfs -o size=64m \"$5\" \"$6\" && exec cp -a '{path}/.' \"$6\"");
        let umount = format!(
            "for last; do :; done\nfind '{path}' -mindepth 1 -delete\ncp -a \"$last/.\" '{path}' && exec /bin/umount \"$@\""
        );
        let nfs = Nfs::with(&mount, &umount).await?;
        Some(Secondary { nfs, content })
    }

    pub fn store(&self) -> Value {
        json!({"com.cloud.agent.api.to.NfsTO": {"_url": "nfs://10.0.0.1/export/secondary", "_role": "Image"}})
    }

    /// Paths of its files.
    pub fn files(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut directories = vec![self.content.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                } else {
                    let path = entry.path();
                    all.push(path.strip_prefix(self.content.path()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        all.sort();
        all
    }

    /// Whether it has no files, and no directories of volumes and templates; those above may stay.
    pub fn is_empty(&self) -> bool {
        self.files().is_empty()
            && ["volumes/5", "volumes/2/5", "template/tmpl/2/9"]
                .iter()
                .all(|path| !self.content.path().join(path).exists())
    }

    /// Moves a file to the top: the stand-in has the same content at every directory that is mounted.
    pub fn flatten(&self, path: &str) {
        let from = self.content.path().join(path);
        std::fs::rename(&from, self.content.path().join(from.file_name().unwrap())).unwrap();
    }

    pub fn is_unmounted(&self) -> bool {
        std::fs::read_dir(self.nfs.root()).map_or(true, |mut entries| entries.next().is_none())
    }
}
