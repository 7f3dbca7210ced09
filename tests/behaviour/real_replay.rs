//! The captured requests of real servers, played to the agent on a real libvirtd with QEMU: lives of
//! guests from template to last file. Each answer must be like the captured one of the reference agent
//! in class, result, member names and JSON types, and nothing may be left at the end.

use crate::real::cage::Kvm;
use crate::real::edge::{self, Edge};
use crate::real::in_own_cage;
use crate::real::replay::{POOLS, Replay, host, serve, traces};

/// Volumes of the system VMs of 4.19.1, all in the second pool.
const SYSTEM_VMS: [(&str, &str); 4] = [
    ("v-9-VM", "5f72b533-6045-4df2-964a-595eb3b5e583"),
    ("r-11-VM", "7e07d628-2e79-4752-89f8-e1cfeb8308b8"),
    ("r-13-VM", "2c0aa296-9ca6-479b-bb82-c6c914007339"),
    ("r-15-VM", "833ea76f-a071-4de1-92a3-7a12bbf18272"),
];
/// Of a guest that had gone again.
const GONE: (&str, &str) = ("r-10-VM", "00510f33-e3d5-411e-a8a4-231c86a602f7");
/// Those in the third pool.
const R19: (&str, &str) = ("r-19-VM", "35be17a2-f428-4152-b5eb-d413fbe1aa3f");
const V17: (&str, &str) = ("v-17-VM", "5358ffd7-154b-4176-9c84-1a9bee67d15a");
const V8: (&str, &str) = ("v-8-VM", "631a1243-75d7-4e05-bbee-3f326ea57bed");
const R7: (&str, &str) = ("r-7-VM", "52e36480-52b6-4435-a2b2-74b2c3734731");

/// Users' guests of 4.19.1 with their root volumes.
const I2: (&str, &str) = ("i-1-2-VM", "1f33f75e-20bd-4c63-8c53-53cdf09daf72");
const I3: (&str, &str) = ("i-1-3-VM", "e4fa3a82-6790-4fbe-a2e8-faa3a50424d0");
const I4: (&str, &str) = ("i-1-4-VM", "22149f16-c6d5-44cb-bd2c-4e670a8190ad");
/// Its start was not captured.
const I5: (&str, &str) = ("i-1-5-VM", "0fb6b1c4-54e0-4c0b-9d8e-7f1ab3ad6c05");

/// Templates, by what the captured agent called them.
const USERS: &str = "c6ee599a-ad88-4d3a-b892-5a4719f3b9eb";
const SYSTEM: [&str; 3] = [
    "78890520-11da-4f7f-950d-e1d4ace66828",
    "24cef3fd-b31c-48a8-a427-728d58a156e6",
    "fe9e6960-7c44-43c4-a9c2-3180ced8eb65",
];
const DISC: &str = "9e7fb1c3-790b-4c93-88c7-3c9fcce7d0e3.iso";

/// What to change in a text about the pool `from` so that it is about another.
fn moved(from: usize, to: usize) -> [(&'static str, &'static str); 2] {
    [(POOLS[from].0, POOLS[to].0), (POOLS[from].1, POOLS[to].1)]
}

async fn runs(edge: &Edge<'_>, guest: &str) {
    assert!(edge.runs(guest).await, "{guest} does not run");
}

/// Pools, templates, the root volumes of all guests.
async fn storage_of_4_19(edge: &Edge<'_>, replay: &mut Replay<'_>) {
    for command in
        ["CheckNetworkCommand", "CleanupNetworkRulesCmd", "SetHostParamsCommand", "GetHostStatsCommand"]
    {
        replay.plays_all(command).await;
    }
    replay.plays("CreateStoragePoolCommand", "").await;
    replay.plays("ModifyStoragePoolCommand", r#""add":true"#).await;
    replay.plays_all("GetStorageStatsCommand").await;
    // The server was not up when the first one was captured.
    replay.plays("CheckUrlCommand", "tiny.qcow2").await;
    serve(edge).await;
    replay.plays_all("CheckUrlCommand").await;
    replay.plays_all("HttpDirectDownloadCommand").await;
    for pool in [1, 2] {
        let changes = [&moved(0, pool)[..], &[(SYSTEM[0], SYSTEM[pool])]].concat();
        replay.retells("HttpDirectDownloadCommand", r#""templateId":3"#, &changes).await;
    }
    replay.plays_all("CopyCommand").await;
    for (guest, volume) in [I3, I4, I5] {
        replay.retells("CopyCommand", I2.1, &[(I2.1, volume), (I2.0, guest)]).await;
    }
    for (guest, volume) in SYSTEM_VMS.into_iter().chain([GONE]) {
        replay.retells("CopyCommand", V8.1, &[(V8.1, volume), (V8.0, guest)]).await;
    }
    for (guest, volume) in [R19, V17] {
        let changes = [(SYSTEM[1], SYSTEM[2]), (V8.1, volume), (V8.0, guest)];
        replay.retells("CopyCommand", V8.1, &[&moved(1, 2)[..], &changes].concat()).await;
    }
}

/// Two that the captured host could not start.
async fn guests_that_did_not_start(edge: &Edge<'_>, replay: &mut Replay<'_>) {
    replay.plays("HandleConfigDriveIsoCommand", I2.0).await;
    replay.retells("HandleConfigDriveIsoCommand", I2.0, &[(I2.0, I3.0)]).await;
    for guest in [I2.0, I3.0] {
        // The second time it runs already.
        for _ in 0..2 {
            replay.plays("StartCommand", guest).await;
            runs(edge, guest).await;
        }
    }
    replay.retells("StopCommand", I4.0, &[(I4.0, I2.0)]).await;
    replay.plays("StopCommand", I3.0).await;
    // Not here at all.
    replay.plays("StopCommand", "i-1-1-VM").await;
    replay.plays("DeleteCommand", I2.1).await;
    replay.retells("DeleteCommand", I2.1, &[(I2.1, I3.1), (I2.0, I3.0)]).await;
    for (guest, _) in [I2, I3] {
        replay.retells("HandleConfigDriveIsoCommand", I4.0, &[(I4.0, guest)]).await;
    }
}

/// The guest of which most was captured.
async fn life_of_i_1_4(edge: &Edge<'_>, replay: &mut Replay<'_>) {
    replay.retells("HandleConfigDriveIsoCommand", I2.0, &[(I2.0, I4.0)]).await;
    replay.plays("StartCommand", I4.0).await;
    runs(edge, I4.0).await;
    for command in ["GetVmStatsCommand", "GetVmDiskStatsCommand", "GetVmNetworkStatsCommand"] {
        replay.plays(command, I4.0).await;
    }
    replay.plays("GetVolumeStatsCommand", I4.1).await;
    replay.plays("CreateObjectCommand", "VolumeObjectTO").await;
    replay.plays("AttachCommand", I4.0).await;
    replay.plays("ResizeVolumeCommand", "").await;
    for command in ["CreateVMSnapshotCommand", "RevertToVMSnapshotCommand", "DeleteVMSnapshotCommand"] {
        replay.plays(command, I4.0).await;
        runs(edge, I4.0).await;
    }
    replay.plays("CreateObjectCommand", "SnapshotObjectTO").await;
    replay.plays("DeleteCommand", "SnapshotObjectTO").await;
    // The guest does not give it up, here as there.
    replay.plays("DettachCommand", I4.0).await;
    replay.plays("RebootCommand", I4.0).await;
    for command in ["GetVmDiskStatsCommand", "GetVmNetworkStatsCommand"] {
        replay.plays(command, I4.0).await;
    }
    replay.plays("StopCommand", I4.0).await;
    replay.plays("DeleteCommand", "VolumeObjectTO").await;
    replay.retells("DeleteCommand", I2.1, &[(I2.1, I4.1), (I2.0, I4.0)]).await;
    replay.plays("HandleConfigDriveIsoCommand", I4.0).await;
}

/// The one with a disc from shared storage.
async fn life_of_i_1_5(replay: &mut Replay<'_>) {
    let id = edge::id();
    let changes = [
        (I4.0, I5.0),
        (I4.1, I5.1),
        ("2af90b76-b28d-418f-a6f6-c8696971a2f4", id.as_str()),
        ("1e:00:1d:00:00:35", "1e:00:c7:00:00:34"),
    ];
    replay.retells("HandleConfigDriveIsoCommand", I2.0, &[(I2.0, I5.0)]).await;
    replay.retells("StartCommand", I4.0, &changes).await;
    replay.plays("GetVncPortCommand", I5.0).await;
    replay.plays("GetVmNetworkStatsCommand", I5.0).await;
    replay.plays("AttachCommand", I5.0).await;
    replay.retells("StopCommand", I4.0, &changes).await;
    replay.retells("DeleteCommand", I2.1, &[(I2.1, I5.1), (I2.0, I5.0)]).await;
    replay.retells("HandleConfigDriveIsoCommand", I4.0, &changes).await;
}

async fn system_vms(edge: &Edge<'_>, replay: &mut Replay<'_>) {
    replay.plays("StartCommand", V8.0).await;
    runs(edge, V8.0).await;
    replay.plays("StopCommand", V8.0).await;
    replay.plays("StartCommand", V8.0).await;
    replay.retells("StopCommand", V8.0, &[]).await;

    // Answers to these were not captured.
    for guest in [R7.0, V17.0] {
        let (class, answer) = replay.plays_unanswered("StartCommand", guest).await;
        assert_eq!((class.as_str(), answer["vm"]["name"].as_str()), ("StartAnswer", Some(guest)), "{answer}");
        runs(edge, guest).await;
    }
    replay.plays("GetVmStatsCommand", R7.0).await;
    replay.plays("StopCommand", R7.0).await;

    replay.plays("StartCommand", SYSTEM_VMS[0].0).await;
    replay.plays("GetVmStatsCommand", SYSTEM_VMS[0].0).await;
    replay.plays("StartCommand", "r-11-VM").await;
    replay.plays("GetVolumeStatsCommand", SYSTEM_VMS[1].1).await;
    replay.plays("StopCommand", "r-11-VM").await;
    replay.plays("StartCommand", "r-11-VM").await;
    for guest in ["r-13-VM", "r-15-VM", "r-19-VM"] {
        replay.plays("StartCommand", guest).await;
        runs(edge, guest).await;
    }
    // The last one was captured as a failure.
    for guest in ["r-15-VM", "r-13-VM", "r-13-VM"] {
        replay.plays("PlugNicCommand", guest).await;
    }
    let cards = edge.cage.virsh(&["domiflist", "r-13-VM"]).await;
    assert_eq!(cards.lines().filter(|line| line.contains("vnet")).count(), 3, "{cards}");
    replay.plays("GetVolumeStatsCommand", GONE.1).await;
    for (guest, _) in SYSTEM_VMS.into_iter().chain([R19, V17]) {
        replay.retells("StopCommand", "r-7-VM", &[("r-7-VM", guest)]).await;
    }
}

async fn nothing_of_4_19_stays(replay: &mut Replay<'_>) {
    let deleted = |volume, guest, pool| [&[(I2.1, volume), (I2.0, guest)], &moved(0, pool)[..]].concat();
    for (guest, volume) in SYSTEM_VMS.into_iter().chain([GONE, V8]) {
        replay.retells("DeleteCommand", I2.1, &deleted(volume, guest, 1)).await;
    }
    replay.retells("DeleteCommand", I2.1, &[(I2.1, R7.1), (I2.0, R7.0)]).await;
    for (guest, volume) in [R19, V17] {
        replay.retells("DeleteCommand", I2.1, &deleted(volume, guest, 2)).await;
    }
    replay.plays("DestroyCommand", SYSTEM[2]).await;
    for (template, pool) in [(USERS, 0), (SYSTEM[0], 0), (SYSTEM[1], 1)] {
        let changes = [&moved(2, pool)[..], &[(SYSTEM[2], template)]].concat();
        replay.retells("DestroyCommand", SYSTEM[2], &changes).await;
    }
    let shared = [
        (SYSTEM[2], DISC),
        (POOLS[2].0, "9572a059-c161-4d90-8fb4-2cc51dcc2325"),
        (POOLS[2].1, "/mnt/smp"),
        ("\"Filesystem\"", "\"SharedMountPoint\""),
    ];
    replay.retells("DestroyCommand", SYSTEM[2], &shared).await;
    replay.plays("ModifyStoragePoolCommand", r#""add":false"#).await;
    replay.plays("DeleteStoragePoolCommand", "").await;
    replay.plays("MaintainCommand", "").await;
}

#[test]
fn the_captured_guests_of_4_19_live_as_with_the_reference_agent() {
    in_own_cage(Kvm::Absent, async |cage| {
        let edge = host(cage).await;
        let before = traces(&edge).await;
        let mut replay = Replay::of(&edge, "4.19.1");
        storage_of_4_19(&edge, &mut replay).await;
        guests_that_did_not_start(&edge, &mut replay).await;
        life_of_i_1_4(&edge, &mut replay).await;
        life_of_i_1_5(&mut replay).await;
        system_vms(&edge, &mut replay).await;
        nothing_of_4_19_stays(&mut replay).await;
        replay.is_complete();
        assert_eq!(traces(&edge).await, before);
        edge.host.undisturbed();
    });
}

#[test]
fn the_captured_guest_of_4_22_lives_as_with_the_reference_agent() {
    in_own_cage(Kvm::Absent, async |cage| {
        let edge = host(cage).await;
        let before = traces(&edge).await;
        let mut replay = Replay::of(&edge, "4.22");
        let (guest, data) = ("i-1-1-VM", "VolumeObjectTO");
        for command in
            ["CheckNetworkCommand", "CleanupNetworkRulesCmd", "SetHostParamsCommand", "GetHostStatsCommand"]
        {
            replay.plays(command, "").await;
        }
        serve(&edge).await;
        for command in
            ["CheckUrlCommand", "HttpDirectDownloadCommand", "GetStorageStatsCommand", "CopyCommand"]
        {
            replay.plays(command, "").await;
        }
        replay.plays("HandleConfigDriveIsoCommand", r#""create":true"#).await;
        replay.plays("StartCommand", r#""deployvm""#).await;
        runs(&edge, guest).await;
        for command in ["GetVmStatsCommand", "GetVmDiskStatsCommand", "GetVmNetworkStatsCommand"] {
            replay.plays(command, guest).await;
        }
        replay.plays("CreateObjectCommand", data).await;
        replay.plays("AttachCommand", guest).await;
        replay.plays("ResizeVolumeCommand", guest).await;
        for command in ["CreateVMSnapshotCommand", "RevertToVMSnapshotCommand", "DeleteVMSnapshotCommand"] {
            replay.plays(command, guest).await;
            runs(&edge, guest).await;
        }
        replay.plays("CreateObjectCommand", "SnapshotObjectTO").await;
        replay.plays("DeleteCommand", "SnapshotObjectTO").await;
        replay.plays("CreateDiskOnlyVmSnapshotCommand", guest).await;
        replay.plays("MergeDiskOnlyVmSnapshotCommand", guest).await;
        replay.plays("RebootCommand", guest).await;
        replay.plays("StopCommand", guest).await;

        replay.plays("StartCommand", guest).await;
        runs(&edge, guest).await;
        for command in ["GetVmDiskStatsCommand", "GetVmNetworkStatsCommand"] {
            replay.plays(command, guest).await;
        }
        replay.retells("StopCommand", guest, &[]).await;
        replay.plays_all("DeleteCommand").await;
        replay.plays("HandleConfigDriveIsoCommand", r#""create":false"#).await;
        replay.plays("DestroyCommand", "").await;
        replay.is_complete();
        assert_eq!(traces(&edge).await, before);
        edge.host.undisturbed();
    });
}
