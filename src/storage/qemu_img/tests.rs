//! On the real program, on real files. The tests of what fails late or hangs use a stand-in script.

use super::*;
use crate::commands::testing::script;
use crate::storage::testing::{qemu_img, skipped, until_gone};

const MIB: u64 = 1024 * 1024;
const LONG: Duration = Duration::from_secs(120);

fn qcow2(path: &Path) -> Target<'_> {
    Target::new(path, ImageFormat::Qcow2)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn images_are_made_and_described() {
    let Some(images) = qemu_img() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (base, top, raw) =
        (directory.path().join("a,b"), directory.path().join("top"), directory.path().join("raw"));
    images.create(qcow2(&base), 10 * MIB).await.unwrap();
    images.create_over(qcow2(&top), Source::new(&base, ImageFormat::Qcow2), Some(20 * MIB)).await.unwrap();
    let info = images.info(&top, None, Access::Shared).await.unwrap();
    assert_eq!((info.format.as_str(), info.virtual_size), ("qcow2", 20 * MIB));
    assert_eq!((info.backing.as_ref(), info.backing_format.as_deref()), (Some(&base), Some("qcow2")));
    let chain = images.backing_chain(&top).await.unwrap();
    assert_eq!(chain.iter().map(|image| image.virtual_size).collect::<Vec<_>>(), [20 * MIB, 10 * MIB]);

    images
        .create(Target { provisioning: Provisioning::Fat, ..Target::new(&raw, ImageFormat::Raw) }, MIB)
        .await
        .unwrap();
    let info = images.info(&raw, Some(ImageFormat::Raw), Access::Exclusive).await.unwrap();
    assert_eq!((info.virtual_size, info.backing), (MIB, None));
    assert!(info.actual_size >= MIB);
}

#[tokio::test]
async fn a_copy_is_flat_and_has_the_content() {
    let Some(images) = qemu_img() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (raw, base, top, copy) = (
        directory.path().join("raw"),
        directory.path().join("base"),
        directory.path().join("top,1"),
        directory.path().join("copy"),
    );
    let content: Vec<u8> = (0..MIB).map(|at| (at / 4096) as u8).collect();
    std::fs::write(&raw, &content).unwrap();
    images.convert(Source::new(&raw, ImageFormat::Raw), qcow2(&base), LONG).await.unwrap();
    images.create_over(qcow2(&top), Source::new(&base, ImageFormat::Qcow2), None).await.unwrap();
    let from = Source::new(&top, ImageFormat::Qcow2);
    let room = images.measure(from, ImageFormat::Raw).await.unwrap();
    assert_eq!(room.fully_allocated, MIB);
    images.convert(from, Target::new(&copy, ImageFormat::Raw), LONG).await.unwrap();
    assert!(std::fs::read(&copy).unwrap() == content);
}

#[tokio::test]
async fn encrypted_images_open_with_their_passphrase_only() {
    let Some(images) = qemu_img() else { return };
    let directory = tempfile::tempdir().unwrap();
    let key = Secret::new("canary-passphrase");
    for format in [ImageFormat::Qcow2, ImageFormat::Raw] {
        let secret = directory.path().join(format!("secret.{}", format.as_str()));
        let plain = directory.path().join(format!("plain.{}", format.as_str()));
        let target = Target { passphrase: Some(&key), ..Target::new(&secret, format) };
        images.create(target, 20 * MIB).await.unwrap();
        let source = Source { passphrase: Some(&key), ..Source::new(&secret, format) };
        images.convert(source, Target::new(&plain, ImageFormat::Raw), LONG).await.unwrap();
        // The size of a raw image has its header in it.
        let seen = if format == ImageFormat::Raw { 4 * MIB } else { 20 * MIB };
        assert_eq!(std::fs::metadata(&plain).unwrap().len(), seen, "{format:?}");
        std::fs::remove_file(&plain).unwrap();
        let wrong = Secret::new("another");
        let source = Source { passphrase: Some(&wrong), ..source };
        let error = images.convert(source, Target::new(&plain, ImageFormat::Raw), LONG).await.unwrap_err();
        assert!(
            matches!(&error, QemuImgError::Convert { reason, .. } if reason.contains("Invalid password")),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("another"));
        assert!(!plain.exists());
        let error = images.convert(source, target, LONG).await.unwrap_err();
        assert!(matches!(error, QemuImgError::TwoSecrets { .. }), "{error}");
        assert!(images.info(&secret, None, Access::Shared).await.unwrap().encrypted);
    }
}

#[tokio::test]
async fn sizes_change_and_shrinking_has_to_be_asked_for() {
    let Some(images) = qemu_img() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v");
    images.create(qcow2(&path), 10 * MIB).await.unwrap();
    let image = Source::new(&path, ImageFormat::Qcow2);
    images.resize(image, 20 * MIB, Shrink::Refuse).await.unwrap();
    let error = images.resize(image, 5 * MIB, Shrink::Refuse).await.unwrap_err();
    assert!(matches!(&error, QemuImgError::Resize { reason, .. } if reason.contains("--shrink")), "{error}");
    images.resize(image, 5 * MIB, Shrink::Allow).await.unwrap();
    assert_eq!(images.info(&path, None, Access::Shared).await.unwrap().virtual_size, 5 * MIB);
}

#[tokio::test]
async fn snapshots_inside_an_image_come_and_go() {
    let Some(images) = qemu_img() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("v"), directory.path().join("copy"));
    images.create(qcow2(&path), MIB).await.unwrap();
    images.create_snapshot(&path, "s1").await.unwrap();
    let listed = images.snapshots(&path).await.unwrap();
    assert_eq!(listed.iter().map(|snapshot| snapshot.name.as_str()).collect::<Vec<_>>(), ["s1"]);
    let of = |snapshot| Source { snapshot: Some(snapshot), ..Source::new(&path, ImageFormat::Qcow2) };
    images.convert(of("s1"), qcow2(&copy), LONG).await.unwrap();
    std::fs::remove_file(&copy).unwrap();
    assert!(images.convert(of("s2"), qcow2(&copy), LONG).await.is_err());
    assert!(images.delete_snapshot(&path, "s1", LONG).await.unwrap());
    assert!(!images.delete_snapshot(&path, "s1", LONG).await.unwrap());
}

#[tokio::test]
async fn a_base_is_renamed_in_the_header_and_a_top_is_merged() {
    let Some(images) = qemu_img() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (base, moved, top) =
        (directory.path().join("base"), directory.path().join("moved"), directory.path().join("top"));
    images.create(qcow2(&base), MIB).await.unwrap();
    images.create_over(qcow2(&top), Source::new(&base, ImageFormat::Qcow2), None).await.unwrap();
    std::fs::rename(&base, &moved).unwrap();
    images.rebase_unsafe(&top, &moved, ImageFormat::Qcow2).await.unwrap();
    assert_eq!(images.info(&top, None, Access::Shared).await.unwrap().backing, Some(moved.clone()));
    images.commit(&top, &moved, LONG).await.unwrap();
    let error = images.commit(&top, &base, LONG).await.unwrap_err();
    assert!(matches!(error, QemuImgError::Commit { .. }), "{error}");
}

#[tokio::test]
async fn damage_and_leaks_are_reports_and_not_failures() {
    let Some(images) = qemu_img() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v");
    images.create(qcow2(&path), MIB).await.unwrap();
    let image = Source::new(&path, ImageFormat::Qcow2);
    let report = images.check(image, None, LONG).await.unwrap();
    assert_eq!((report.corruptions, report.leaks, report.check_errors), (0, 0, 0));
    // A reference count for a cluster that nothing refers to: entry 10 of the block in cluster 2.
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(11 * 65536).unwrap();
    file.write_all_at(&[0, 1], 2 * 65536 + 2 * 10).unwrap();
    drop(file);
    let report = images.check(image, None, LONG).await.unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 1), "{}", report.json);
    images.check(image, Some(Repair::Leaks), LONG).await.unwrap();
    assert_eq!(images.check(image, None, LONG).await.unwrap().leaks, 0);
    let absent = Source::new(Path::new("/no/such/image"), ImageFormat::Qcow2);
    assert!(matches!(images.check(absent, None, LONG).await.unwrap_err(), QemuImgError::Check { .. }));
}

#[tokio::test]
async fn an_image_that_somebody_writes_to_is_locked() {
    let Some(images) = qemu_img() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v");
    images.create(qcow2(&path), MIB).await.unwrap();
    assert!(!images.is_locked(&path).await.unwrap());
    let Some(qemu_io) = find_program("qemu-io") else {
        skipped("qemu-io is not installed");
        return;
    };
    // Holds the image open until it is killed: its input never ends.
    let (opened, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let line = format!("(echo 'write 0 512'; sleep 600) | {} -f qcow2 {}", qemu_io.display(), path.display());
    let holder = Program::new("/bin/sh").arg("-c").arg(line).on_stdout(move |piece| {
        let _ = opened.send(piece.len());
    });
    let holder = tokio::spawn(holder.run());
    seen.recv().await.unwrap();
    assert!(images.is_locked(&path).await.unwrap());
    assert!(images.info(&path, None, Access::Shared).await.is_ok());
    let error =
        images.resize(Source::new(&path, ImageFormat::Qcow2), 2 * MIB, Shrink::Refuse).await.unwrap_err();
    assert!(matches!(error, QemuImgError::Locked { .. }), "{error}");
    holder.abort();
}

#[tokio::test]
async fn what_could_not_be_finished_is_deleted_and_what_was_there_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    // Writes a beginning into its last argument, then fails.
    let body = "for last; do :; done; echo half > \"$last\"; echo 'qemu-img: x' >&2\n\
                echo 'qemu-img: error while writing at byte 0: No space left on device' >&2; exit 1";
    let images = QemuImg::at(script(directory.path(), "fails", body).await, Disks::default());
    let place = tempfile::tempdir().unwrap();
    let (new, old) = (place.path().join("new"), place.path().join("old"));
    std::fs::write(&old, "old").unwrap();
    let source = Source::new(Path::new("/x"), ImageFormat::Raw);
    for path in [&new, &old] {
        let error = images.convert(source, qcow2(path), LONG).await.unwrap_err();
        assert!(matches!(error, QemuImgError::NoSpace { .. }), "{error}");
    }
    assert_eq!(names(place.path()), ["old"]);
}

#[tokio::test]
async fn a_copy_that_is_given_up_is_killed_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let body = "for last; do :; done; echo half > \"$last\"; printf '    (1.00/100%%)\\r'; sleep 600";
    let images = QemuImg::at(script(directory.path(), "hangs", body).await, Disks::default());
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("new");
    let target = path.clone();
    let handle = images.clone();
    let running = tokio::spawn(async move {
        handle.convert(Source::new(Path::new("/x"), ImageFormat::Raw), qcow2(&target), LONG).await
    });
    let begun = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, begun).await.unwrap();
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    until_gone(&path).await;
    let late = Duration::from_millis(300);
    let source = Source::new(Path::new("/x"), ImageFormat::Raw);
    let error = images.convert(source, qcow2(&path), late).await.unwrap_err();
    assert!(matches!(error, QemuImgError::Run { .. }), "{error}");
    until_gone(&path).await;
}

#[tokio::test]
async fn a_host_too_busy_to_measure_its_speed_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let tried = directory.path().join("tried");
    // Fails as QEMU does under load, twice.
    let body = format!(
        "echo >> '{0}'; test \"$(wc -l < '{0}')\" -gt 2 && exit 0\n\
         echo 'qemu-img: x: Unable to get accurate CPU usage' >&2; exit 1",
        tried.display()
    );
    let images = QemuImg::at(script(directory.path(), "busy", &body).await, Disks::default());
    images.create(qcow2(&directory.path().join("new")), MIB).await.unwrap();
    assert_eq!(std::fs::read_to_string(&tried).unwrap().lines().count(), 3);
}

#[tokio::test]
async fn paths_that_qemu_would_take_for_protocols_are_refused() {
    let images = QemuImg::at("/bin/false".into(), Disks::default());
    let error = images.info(Path::new("nbd:x"), None, Access::Shared).await.unwrap_err();
    assert!(matches!(error, QemuImgError::Path { .. }), "{error}");
    let missing = QemuImg { program: None, disks: Disks::default() };
    let error = missing.info(Path::new("/x"), None, Access::Shared).await.unwrap_err();
    assert!(matches!(error, QemuImgError::Missing), "{error}");
}

#[test]
fn the_last_words_are_those_of_the_error() {
    let reason = |text: &str, code| {
        reason(&Output {
            code,
            signal: None,
            stdout: Vec::new(),
            stderr: text.as_bytes().to_vec(),
            truncated: false,
        })
    };
    let shrink = "qemu-img: Use the --shrink option.\nqemu-img: warning: Shrinking deletes.\n";
    assert_eq!(reason(shrink, Some(1)), "Use the --shrink option.");
    let locked = "qemu-img: Could not open 'v': Failed to get shared \"write\" lock\nIs another process using the image [v]?\n";
    assert!(reason(locked, Some(1)).contains("lock"));
    assert_eq!(reason("", Some(7)), "it ended with code 7");
    assert_eq!(reason(&"x".repeat(9999), Some(1)).len(), 300);
}
