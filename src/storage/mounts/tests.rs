//! Real mounts of a tmpfs in the place of NFS, through stand-ins for `mount` and `umount`.

use super::*;
use crate::storage::testing::Nfs;
use std::time::Duration;

fn wanted(nfs: &Nfs, directory: &str, place: &str) -> Wanted {
    Wanted {
        export: Export::new("10.0.0.1", directory, &[]).unwrap(),
        target: nfs.root().join(place),
        patience: Patience::Soft,
    }
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it does not happen");
}

fn is_mounted(path: &Path) -> bool {
    mounted_at(path).unwrap().is_some()
}

fn count(nfs: &Nfs, start: &str) -> usize {
    nfs.log().iter().filter(|line| line.starts_with(start)).count()
}

#[tokio::test]
async fn one_mount_serves_all_and_ends_with_the_last() {
    let Some(nfs) = Nfs::new().await else { return };
    let want = wanted(&nfs, "/e", "a");
    let (one, two, three) = tokio::join!(
        nfs.mounts.acquire(want.clone()),
        nfs.mounts.acquire(want.clone()),
        nfs.mounts.acquire(want.clone())
    );
    let (one, two, three) = (one.unwrap(), two.unwrap(), three.unwrap());
    assert_eq!(mounted_at(one.path()).unwrap().unwrap().source, "10.0.0.1:/e");
    let target = want.target.display();
    let expected =
        format!("mount -t nfs -o nodev,nosuid,noexec,soft,timeo=300,retrans=3 10.0.0.1:/e {target}");
    assert_eq!(nfs.log(), [expected]);
    drop(one);
    two.release().await.unwrap();
    assert!(is_mounted(&want.target));
    three.release().await.unwrap();
    assert!(!want.target.exists());
    assert_eq!(count(&nfs, "umount"), 1);
}

#[tokio::test]
async fn whoever_comes_while_it_is_unmounted_gets_a_fresh_mount() {
    let mount = "exec /bin/mount -t tmpfs \"$5\" \"$6\"";
    let Some(nfs) = Nfs::with(mount, "sleep 0.2; exec /bin/umount \"$@\"").await else { return };
    let want = wanted(&nfs, "/e", "a");
    let first = nfs.mounts.acquire(want.clone()).await.unwrap();
    drop(first);
    until(|| count(&nfs, "umount") == 1).await;
    let second = nfs.mounts.acquire(want.clone()).await.unwrap();
    assert!(is_mounted(second.path()));
    assert_eq!(count(&nfs, "mount"), 2);
    second.release().await.unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_fails_alone() {
    // The export /dead hangs; a hard mount of NFS does not end by itself.
    let mount = "case \"$5\" in *dead) sleep 600;; esac; exec /bin/mount -t tmpfs \"$5\" \"$6\"";
    let Some(nfs) = Nfs::with(mount, "exec /bin/umount \"$@\"").await else { return };
    let dead = tokio::spawn({
        let (mounts, want) = (nfs.mounts.clone(), wanted(&nfs, "/dead", "dead"));
        async move { mounts.acquire(want).await }
    });
    until(|| count(&nfs, "mount") == 1).await;
    let alive = nfs.mounts.acquire(wanted(&nfs, "/alive", "alive")).await.unwrap();
    assert!(is_mounted(alive.path()));
    assert!(!dead.is_finished());
    let error = dead.await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with("10.0.0.1 did not answer within 2 s"), "{error}");
    alive.release().await.unwrap();
}

#[tokio::test]
async fn what_mount_says_is_passed_on_to_all_who_wait() {
    let mount = "echo 'mount.nfs: access denied by server' >&2; exit 32";
    let Some(nfs) = Nfs::with(mount, "exit 1").await else { return };
    let want = wanted(&nfs, "/e", "a");
    let (one, two) = tokio::join!(nfs.mounts.acquire(want.clone()), nfs.mounts.acquire(want));
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert!(error.to_string().ends_with("mount.nfs: access denied by server"), "{error}");
    }
    // A program that lies is found out.
    let Some(nfs) = Nfs::with("exit 0", "exit 1").await else { return };
    let error = nfs.mounts.acquire(wanted(&nfs, "/e", "a")).await.unwrap_err();
    assert!(matches!(error, MountError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn a_busy_directory_stays_mounted_and_is_taken_over_later() {
    let Some(nfs) = Nfs::new().await else { return };
    let want = wanted(&nfs, "/e", "a");
    let mount = nfs.mounts.acquire(want.clone()).await.unwrap();
    let open = std::fs::File::create(mount.path().join("image.iso")).unwrap();
    let error = mount.release().await.unwrap_err();
    assert!(matches!(error, MountError::Busy { .. }), "{error}");
    assert_eq!(count(&nfs, "umount"), 4);
    drop(open);
    let again = nfs.mounts.acquire(want.clone()).await.unwrap();
    assert!(again.path().join("image.iso").exists());
    assert_eq!(count(&nfs, "mount"), 1);
    again.release().await.unwrap();
    assert!(!want.target.exists());
}

#[tokio::test]
async fn a_silent_server_is_detached() {
    let umount = "case \"$1\" in -l) exec /bin/umount \"$@\";; esac; sleep 600";
    let Some(nfs) = Nfs::with("exec /bin/mount -t tmpfs \"$5\" \"$6\"", umount).await else { return };
    let want = wanted(&nfs, "/e", "a");
    nfs.mounts.acquire(want.clone()).await.unwrap().release().await.unwrap();
    assert!(!is_mounted(&want.target));
    assert_eq!(count(&nfs, "umount -l"), 1);
}

#[tokio::test]
async fn a_directory_with_another_export_is_not_touched() {
    let Some(nfs) = Nfs::new().await else { return };
    let mount = nfs.mounts.acquire(wanted(&nfs, "/one", "a")).await.unwrap();
    let error = nfs.mounts.acquire(wanted(&nfs, "/two", "a")).await.unwrap_err();
    assert!(matches!(&error, MountError::Occupied { by, .. } if by == "10.0.0.1:/one"), "{error}");
    // The same for what somebody else has mounted there.
    mount.leave_mounted();
    let error = nfs.mounts.acquire(wanted(&nfs, "/two", "a")).await.unwrap_err();
    assert!(matches!(&error, MountError::Occupied { by, .. } if by == "10.0.0.1:/one"), "{error}");
    assert_eq!(count(&nfs, "umount"), 0);
}

#[tokio::test]
async fn a_mount_that_vanished_is_made_again_and_old_guards_do_not_end_it() {
    let Some(nfs) = Nfs::new().await else { return };
    let want = wanted(&nfs, "/e", "a");
    let old = nfs.mounts.acquire(want.clone()).await.unwrap();
    rustix::mount::unmount(old.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    let new = nfs.mounts.acquire(want.clone()).await.unwrap();
    assert!(is_mounted(new.path()));
    old.release().await.unwrap();
    assert!(is_mounted(new.path()));
    new.release().await.unwrap();
    assert!(!is_mounted(&want.target));
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_nothing_mounted() {
    let mount = "sleep 0.3; exec /bin/mount -t tmpfs \"$5\" \"$6\"";
    let Some(nfs) = Nfs::with(mount, "exec /bin/umount \"$@\"").await else { return };
    let waiting = tokio::spawn({
        let (mounts, want) = (nfs.mounts.clone(), wanted(&nfs, "/e", "a"));
        async move { mounts.acquire(want).await }
    });
    until(|| count(&nfs, "mount") == 1).await;
    waiting.abort();
    until(|| count(&nfs, "umount") == 1).await;
    until(|| !nfs.root().join("a").exists()).await;
}
