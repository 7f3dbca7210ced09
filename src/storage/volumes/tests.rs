//! On real images.

use super::testing::leftover;
use super::*;
use crate::storage::pools::PoolKind;
use crate::storage::qemu_img::QemuImgError;
use crate::storage::testing::{Small, qemu_img, run};
use std::fs;
use uuid::Uuid;

const MIB: u64 = 1024 * 1024;
const LONG: Duration = Duration::from_secs(120);

struct Bench {
    volumes: Volumes,
    images: QemuImg,
    pool: Pool,
    _directory: Option<tempfile::TempDir>,
}

impl Bench {
    fn new() -> Option<Bench> {
        let directory = tempfile::tempdir().unwrap();
        let mut bench = Bench::at(directory.path())?;
        bench._directory = Some(directory);
        Some(bench)
    }

    fn at(directory: &Path) -> Option<Bench> {
        let images = qemu_img()?;
        let pool = Pool {
            uuid: Uuid::nil(),
            kind: PoolKind::Filesystem,
            local_path: directory.to_owned(),
            format: ImageFormat::Qcow2,
        };
        let volumes = Volumes::new(images.clone(), Disks::default());
        Some(Bench { volumes, images, pool, _directory: None })
    }

    fn new_volume<'a>(&'a self, name: &'a VolumeName, size: u64) -> NewVolume<'a> {
        NewVolume {
            pool: &self.pool,
            name,
            format: ImageFormat::Qcow2,
            size,
            provisioning: Provisioning::Thin,
            passphrase: None,
        }
    }

    /// A template with a MiB of content.
    async fn template(&self) -> VolumeName {
        let raw = self.pool.local_path.join("raw");
        fs::write(&raw, vec![7; MIB as usize]).unwrap();
        let path = self.pool.local_path.join("template");
        let target = Target::new(&path, ImageFormat::Qcow2);
        self.images.convert(Source::new(&raw, ImageFormat::Raw), target, LONG).await.unwrap();
        fs::remove_file(raw).unwrap();
        name("template")
    }

    async fn content(&self, path: &Path) -> Vec<u8> {
        let copy = tempfile::tempdir().unwrap();
        let raw = copy.path().join("raw");
        let target = Target::new(&raw, ImageFormat::Raw);
        self.images.convert(Source::new(path, ImageFormat::Qcow2), target, LONG).await.unwrap();
        fs::read(raw).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.pool.local_path).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

#[tokio::test]
async fn an_empty_volume_is_made_once() {
    let Some(bench) = Bench::new() else { return };
    let v = name("v");
    let made = bench.volumes.create_empty(bench.new_volume(&v, 10 * MIB + 1)).await.unwrap();
    assert_eq!((made.virtual_size, made.format), (10 * MIB + 512, ImageFormat::Qcow2));
    assert_eq!(bench.volumes.create_empty(bench.new_volume(&v, 10 * MIB + 1)).await.unwrap(), made);
    let error = bench.volumes.create_empty(bench.new_volume(&v, MIB)).await.unwrap_err();
    assert!(matches!(error, VolumeError::Exists { .. }), "{error}");
    let raw = NewVolume { format: ImageFormat::Raw, ..bench.new_volume(&v, 10 * MIB) };
    let error = bench.volumes.create_empty(raw).await.unwrap_err();
    assert!(matches!(error, VolumeError::Exists { .. }), "{error}");
    assert_eq!(bench.files(), ["v"]);
}

#[tokio::test]
async fn a_root_disk_is_an_overlay_or_a_copy() {
    let Some(bench) = Bench::new() else { return };
    let template = bench.template().await;
    let base = bench.pool.volume(&template);
    let (thin, full, fat) = (name("thin"), name("full"), name("fat"));
    let made = bench.volumes.clone_from_template(&template, bench.new_volume(&thin, 5 * MIB), false, LONG);
    let made = made.await.unwrap();
    assert_eq!((made.virtual_size, made.backing.as_ref()), (5 * MIB, Some(&base)));
    let again = bench.volumes.clone_from_template(&template, bench.new_volume(&thin, 5 * MIB), false, LONG);
    assert_eq!(again.await.unwrap(), made);
    // Never smaller than the template.
    let made =
        bench.volumes.clone_from_template(&template, bench.new_volume(&full, 1), true, LONG).await.unwrap();
    assert_eq!((made.virtual_size, made.backing), (MIB, None));
    let new = NewVolume { provisioning: Provisioning::Fat, ..bench.new_volume(&fat, 3 * MIB) };
    let made = bench.volumes.clone_from_template(&template, new, false, LONG).await.unwrap();
    assert_eq!((made.virtual_size, made.backing), (3 * MIB, None));
    for copy in [&thin, &full, &fat] {
        assert!(bench.content(&bench.pool.volume(copy)).await[..MIB as usize].iter().all(|byte| *byte == 7));
    }
    let (no, x) = (name("no"), name("x"));
    let error = bench.volumes.clone_from_template(&no, bench.new_volume(&x, 1), false, LONG).await;
    assert!(error.unwrap_err().to_string().contains("not found"));
}

#[tokio::test]
async fn what_others_are_based_on_is_not_deleted() {
    let Some(bench) = Bench::new() else { return };
    let template = bench.template().await;
    let (base, v) = (bench.pool.volume(&template), name("v"));
    bench.volumes.clone_from_template(&template, bench.new_volume(&v, MIB), false, LONG).await.unwrap();
    let root = &bench.pool.local_path;
    let error = bench.volumes.delete(root, &base).await.unwrap_err();
    assert!(matches!(&error, VolumeError::InUse { by, .. } if *by == bench.pool.volume(&v)), "{error}");
    // Nor is it replaced.
    let other = bench.pool.local_path.join("v");
    let roots = [root.as_path()];
    let copy = Copy { existing: Existing::Replace, ..Copy::new(&other, &roots, &base, ImageFormat::Qcow2) };
    let error = bench.volumes.copy(copy, LONG).await.unwrap_err();
    assert!(matches!(error, VolumeError::InUse { .. }), "{error}");
    bench.volumes.delete(root, &bench.pool.volume(&v)).await.unwrap();
    bench.volumes.delete(root, &base).await.unwrap();
    bench.volumes.delete(root, &base).await.unwrap();
    assert!(bench.files().is_empty());
}

#[tokio::test]
async fn a_backing_file_named_relatively_counts_too() {
    let Some(bench) = Bench::new() else { return };
    let template = bench.template().await;
    let path = bench.pool.local_path.join("v");
    let path = path.to_str().unwrap();
    run(&["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "template", path]).await.unwrap();
    let error =
        bench.volumes.delete(&bench.pool.local_path, &bench.pool.volume(&template)).await.unwrap_err();
    assert!(matches!(error, VolumeError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn a_copy_is_kept_if_it_is_complete_and_replaced_if_it_is_not() {
    let Some(bench) = Bench::new() else { return };
    let template = bench.template().await;
    let (from, to) = (bench.pool.volume(&template), bench.pool.local_path.join("sub/dir/copy"));
    let roots = [bench.pool.local_path.as_path()];
    let copy = Copy::new(&from, &roots, &to, ImageFormat::Qcow2);
    let made = bench.volumes.copy(copy, LONG).await.unwrap();
    assert!(!made.kept);
    assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
    assert!(bench.volumes.copy(copy, LONG).await.unwrap().kept);
    // As the Java agent leaves it when it is killed.
    fs::OpenOptions::new().write(true).open(&to).unwrap().set_len(300_000).unwrap();
    let again = bench.volumes.copy(copy, LONG).await.unwrap();
    assert!(!again.kept);
    assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
    let larger = Copy { size: Some(4 * MIB), existing: Existing::Replace, ..copy };
    assert_eq!(bench.volumes.copy(larger, LONG).await.unwrap().facts.virtual_size, 4 * MIB);
    assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn images_that_refer_to_files_elsewhere_are_not_read() {
    let Some(bench) = Bench::new() else { return };
    let secret = tempfile::tempdir().unwrap();
    let file = secret.path().join("shadow");
    fs::write(&file, vec![b's'; 4096]).unwrap();
    let evil = bench.pool.local_path.join("evil");
    let to = bench.pool.local_path.join("copy");
    let link = bench.pool.local_path.join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let escaped = format!(
        "{}/../{}/shadow",
        bench.pool.local_path.display(),
        secret.path().file_name().unwrap().to_str().unwrap()
    );
    let roots = [bench.pool.local_path.as_path()];
    for backing in [file.to_str().unwrap(), link.to_str().unwrap(), &escaped, "json:{\"driver\":\"null-co\"}"]
    {
        let path = evil.to_str().unwrap();
        run(&["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, path, "1M"])
            .await
            .unwrap();
        let copy = Copy::new(&evil, &roots, &to, ImageFormat::Qcow2);
        let error = bench.volumes.copy(copy, LONG).await.unwrap_err();
        assert!(matches!(error, VolumeError::Outside { .. }), "{backing}: {error}");
        let (template, new) = (name("evil"), name("v"));
        let error = bench.volumes.clone_from_template(&template, bench.new_volume(&new, MIB), false, LONG);
        assert!(matches!(error.await.unwrap_err(), VolumeError::Outside { .. }), "{backing}");
        assert_eq!(bench.files(), ["evil", "link"]);
    }
}

#[tokio::test]
async fn a_missing_backing_format_is_noted() {
    let Some(bench) = Bench::new() else { return };
    let template = bench.template().await;
    let v = name("v");
    bench.volumes.clone_from_template(&template, bench.new_volume(&v, MIB), false, LONG).await.unwrap();
    let path = bench.pool.volume(&v);
    assert!(!bench.volumes.fix_backing_format(&path).await.unwrap());
    // Today's qemu-img does not make such images: the length of the header extension's text is put to 0.
    let mut bytes = fs::read(&path).unwrap();
    let extension = 0xE279_2ACA_u32.to_be_bytes();
    let at = bytes.windows(4).position(|window| window == extension).unwrap();
    bytes[at..at + 4].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    fs::write(&path, &bytes).unwrap();
    assert_eq!(bench.volumes.inspect(&path, None).await.unwrap().backing_format, None);
    assert!(bench.volumes.fix_backing_format(&path).await.unwrap());
    let fixed = bench.volumes.inspect(&path, None).await.unwrap();
    assert_eq!(
        (fixed.backing_format.as_deref(), fixed.backing),
        (Some("qcow2"), Some(bench.pool.volume(&template)))
    );
    assert!(!bench.volumes.fix_backing_format(&bench.pool.volume(&template)).await.unwrap());
}

#[tokio::test]
async fn sizes_change_upwards() {
    let Some(bench) = Bench::new() else { return };
    let v = name("v");
    let path = bench.volumes.create_empty(bench.new_volume(&v, 2 * MIB)).await.unwrap().path;
    let image = Source::new(&path, ImageFormat::Qcow2);
    let grown = bench.volumes.resize(image, 4 * MIB, Shrink::Refuse).await.unwrap();
    assert_eq!(grown.virtual_size, 4 * MIB);
    assert_eq!(bench.volumes.resize(image, 4 * MIB, Shrink::Refuse).await.unwrap(), grown);
    let error = bench.volumes.resize(image, MIB, Shrink::Refuse).await.unwrap_err();
    assert!(error.to_string().contains("would shrink the volume"), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_called_by_its_name_and_nothing_is_left() {
    let Some(small) = Small::of("4m").await else { return };
    let Some(bench) = Bench::new() else { return };
    let Some(target) = Bench::at(small.directory.path()) else { return };
    let template = bench.template().await;
    let large = bench.pool.local_path.join("large");
    fs::write(&large, vec![7; 8 * MIB as usize]).unwrap();
    let roots = [bench.pool.local_path.as_path()];
    let to = target.pool.local_path.join("copy");
    // Foreseen.
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let copy = Copy { format: Some(ImageFormat::Raw), ..Copy::new(&large, &roots, &to, format) };
        let error = target.volumes.copy(copy, LONG).await.unwrap_err();
        assert!(matches!(error, VolumeError::Space { .. }), "{error}");
    }
    let v = name("v");
    let fat = NewVolume { provisioning: Provisioning::Fat, ..target.new_volume(&v, 8 * MIB) };
    assert!(matches!(target.volumes.create_empty(fat).await.unwrap_err(), VolumeError::Space { .. }));
    // Met on the way.
    let over = Target { provisioning: Provisioning::Fat, ..Target::new(&to, ImageFormat::Raw) };
    let error = target.images.create(over, 8 * MIB).await.unwrap_err();
    assert!(matches!(error, QemuImgError::NoSpace { .. }), "{error}");
    let error = target.volumes.copy_file(&large, &to, LONG).await.unwrap_err();
    assert!(matches!(error, VolumeError::Full { .. }), "{error}");
    fs::remove_file(&to).unwrap();
    // What fits is copied.
    let from = bench.pool.volume(&template);
    let copy = Copy::new(&from, &roots, &to, ImageFormat::Qcow2);
    target.volumes.copy(copy, LONG).await.unwrap();
    assert_eq!(target.files(), ["copy"]);
}

#[tokio::test]
async fn what_an_earlier_life_left_is_swept_away() {
    let Some(bench) = Bench::new() else { return };
    let root = bench.pool.local_path.clone();
    fs::create_dir(root.join(SNAPSHOTS)).unwrap();
    let old = [root.join(leftover("v")), root.join(SNAPSHOTS).join(leftover("s"))];
    let kept = [root.join("v"), root.join(".v.partial-00000000-00000000-0")];
    for path in old.iter().chain(&kept) {
        fs::write(path, "x").unwrap();
    }
    assert_eq!(bench.volumes.sweep(&root).await.unwrap(), 2);
    assert_eq!(bench.volumes.sweep(&root).await.unwrap(), 0);
    assert!(old.iter().all(|path| !path.exists()) && kept.iter().all(|path| path.exists()));
    assert_eq!(bench.volumes.sweep(Path::new("/no/such/pool")).await.unwrap(), 0);
}

#[tokio::test]
async fn encrypted_volumes_are_made_and_grown() {
    let Some(bench) = Bench::new() else { return };
    let key = Secret::new("canary-passphrase");
    for (format, v) in [(ImageFormat::Qcow2, name("q")), (ImageFormat::Raw, name("r"))] {
        let new = NewVolume { format, passphrase: Some(&key), ..bench.new_volume(&v, 20 * MIB) };
        let made = bench.volumes.create_empty(new).await.unwrap();
        assert_eq!(bench.volumes.create_empty(new).await.unwrap(), made);
        let image = Source { passphrase: Some(&key), ..Source::new(&made.path, format) };
        let size = 30 * MIB;
        assert_eq!(bench.volumes.resize(image, size, Shrink::Refuse).await.unwrap().virtual_size, size);
    }
}
