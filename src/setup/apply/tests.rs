use super::*;
use crate::setup::gather::gather;
use crate::setup::planning::{Placement, Task, plan};
use crate::setup::testing::Scratch;
use crate::setup::undo::undo_last;
use std::os::unix::fs::PermissionsExt;

const PROPERTIES: &str = "etc/cloudstack/agent/agent.properties";

fn task(secure: bool) -> Task {
    Task::AddHost(Placement {
        servers: "10.0.0.5@static".to_owned(),
        zone: "1".to_owned(),
        pod: "2".to_owned(),
        cluster: "3".to_owned(),
        hypervisor: "kvm".to_owned(),
        guid: "8f337c97-3339-3d70-9388-3bd28ddb6588".to_owned(),
        private_nic: "cloudbr1".to_owned(),
        public_nic: "cloudbr0".to_owned(),
        guest_nic: "cloudbr0".to_owned(),
        secure,
    })
}

async fn planned(host: &Scratch, task: &Task) -> Plan {
    let mut facts = gather(&host.root()).await.unwrap();
    facts.is_root = true;
    plan(task, &facts)
}

async fn set_up(host: &Scratch, task: &Task) -> Result<Applied, ApplyError> {
    apply(&host.root(), &planned(host, task).await).await
}

/// Leaves the scratch host as a registered agent would.
fn register(host: &Scratch) {
    host.write("run/cloudstack-agent/status.json", r#"{"session": {"state": "registered"}}"#);
}

#[tokio::test]
async fn a_host_is_set_up_once_and_can_go_back() {
    let host = Scratch::ubuntu().with_certificates();
    let before = host.snapshot();
    let applied = set_up(&host, &task(true)).await.unwrap();
    assert!(applied.steps > 10, "{applied:?}");
    let properties = host.read(PROPERTIES);
    assert!(properties.contains("\nhost.reserved.mem.mb=512\n! kept as it is\nown.key = with   blanks\n"));
    assert!(properties.contains("\nhost=10.0.0.5@static\nport=8250\nzone=1\n"), "{properties}");
    assert_eq!(host.read("units/libvirtd.socket"), "inactive enabled\n");
    assert!(host.path("units/libvirtd.socket.masked").exists());
    assert_eq!(host.read("units/libvirtd.service"), "active enabled\n");
    assert_eq!(host.read("units/cloudstack-agent.service"), "active enabled\n");
    assert!(host.read("ufw-rules").contains("allow 16514/tcp"));
    assert!(host.read("etc/modules-load.d/cloudstack-agent.conf").contains("br_netfilter"));
    let link = std::fs::read_link(host.path("etc/pki/libvirt/private/serverkey.pem")).unwrap();
    assert_eq!(link, Path::new("/etc/cloudstack/agent/cloud.key"));
    assert!(host.calls().len() > 5);

    // Nothing is left to do.
    register(&host);
    let after = host.snapshot();
    assert_eq!(set_up(&host, &task(true)).await.unwrap(), Applied { steps: 0, record: None });
    assert_eq!((host.calls(), host.snapshot()), (Vec::<String>::new(), after));

    let restored = undo_last(&host.root()).await.unwrap().unwrap();
    assert_eq!(restored.failures, Vec::<String>::new());
    let mut now = host.snapshot();
    // A loaded module does no harm, and the agent that was started is not stopped.
    now.retain(|(name, _)| !name.starts_with("run/cloudstack-agent"));
    let agent = |files: &mut Vec<(String, String)>| {
        files.retain(|(name, _)| name != "units/cloudstack-agent.service");
    };
    let mut before = before;
    agent(&mut before);
    agent(&mut now);
    assert_eq!(now, before);
    assert_eq!(host.read("units/cloudstack-agent.service"), "active disabled\n");
    let calls = host.calls();
    let at = |call: &str| calls.iter().position(|found| found == call).unwrap_or_else(|| panic!("{calls:?}"));
    assert!(at("systemctl unmask libvirtd.socket") < at("systemctl start libvirtd.socket"));
    assert!(at("systemctl stop libvirtd.service") < at("systemctl start libvirtd.socket"));
    assert!(at("systemctl start libvirtd.socket") < at("systemctl restart libvirtd.service"));
    assert_eq!(undo_last(&host.root()).await.unwrap(), None);
}

#[tokio::test]
async fn a_failed_step_takes_the_others_back() {
    let host = Scratch::ubuntu().with_certificates();
    let before = host.snapshot();
    host.write("broken", "libvirtd.service\n");
    let error = set_up(&host, &task(true)).await.unwrap_err();
    let ApplyError::Step { what, source, restored } = error else { panic!() };
    assert_eq!(what, "run systemctl restart libvirtd.service");
    assert!(
        matches!(*source, StepError::Failed { ref output, .. } if output.contains("failed.")),
        "{source:?}"
    );
    // What failed fails on the way back too, and everything else is restored all the same.
    assert_eq!(restored.failures.len(), 1, "{restored:?}");
    std::fs::remove_file(host.path("broken")).unwrap();
    host.write("units/libvirtd.service", "active enabled\n");
    assert_eq!(host.snapshot(), before);
    assert_eq!(undo_last(&host.root()).await.unwrap(), None, "it is taken back already");
    set_up(&host, &task(true)).await.unwrap();
}

#[tokio::test]
async fn later_changes_by_others_survive_the_way_back() {
    let host = Scratch::ubuntu().with_certificates();
    let qemu = host.read("etc/libvirt/qemu.conf");
    set_up(&host, &task(true)).await.unwrap();
    let edited = format!("{}\nmax_files=1\n", host.read("etc/libvirt/qemu.conf"));
    host.write("etc/libvirt/qemu.conf", &edited);
    // As the agent does when it has registered.
    let properties = host.read(PROPERTIES);
    host.write(PROPERTIES, &format!("{properties}LibvirtComputingResource.id=7\n"));
    let restored = undo_last(&host.root()).await.unwrap().unwrap();
    assert_eq!(restored.failures.len(), 1, "{restored:?}");
    let told = &restored.failures[0];
    assert!(told.contains("was changed since") && told.contains("before/etc/libvirt/qemu.conf"), "{told}");
    assert_eq!(host.read("etc/libvirt/qemu.conf"), edited);
    let kept = host.read("var/lib/cloudstack-agent/setup/run-0001/before/etc/libvirt/qemu.conf");
    assert_eq!(kept, qemu);
    let properties = host.read(PROPERTIES);
    assert!(properties.contains("LibvirtComputingResource.id=7") && properties.contains("host=localhost"));
}

#[tokio::test]
async fn an_operators_own_files_are_kept() {
    let host = Scratch::ubuntu().with_certificates();
    host.write("etc/pki/CA/cacert.pem", "own CA\n");
    let place = host.path("etc/pki/libvirt/servercert.pem");
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/own/cert.pem", &place).unwrap();
    set_up(&host, &task(true)).await.unwrap();
    assert_eq!(std::fs::read_link(&place).unwrap(), Path::new("/etc/cloudstack/agent/cloud.crt"));
    undo_last(&host.root()).await.unwrap().unwrap();
    assert_eq!(host.read("etc/pki/CA/cacert.pem"), "own CA\n");
    assert_eq!(std::fs::read_link(&place).unwrap(), Path::new("/own/cert.pem"));
}

#[tokio::test]
async fn runs_are_taken_back_one_after_the_other() {
    let host = Scratch::ubuntu();
    set_up(&host, &task(false)).await.unwrap();
    let first = host.read(PROPERTIES);
    let Task::AddHost(mut elsewhere) = task(false) else { panic!() };
    elsewhere.zone = "9".to_owned();
    set_up(&host, &Task::AddHost(elsewhere)).await.unwrap();
    assert!(host.read(PROPERTIES).contains("zone=9"));
    undo_last(&host.root()).await.unwrap().unwrap();
    assert_eq!(host.read(PROPERTIES), first);
    undo_last(&host.root()).await.unwrap().unwrap();
    assert!(host.read(PROPERTIES).contains("zone=default"));
    assert_eq!(undo_last(&host.root()).await.unwrap(), None);
}

#[tokio::test]
async fn problems_change_nothing_and_two_at_once_are_refused() {
    let host = Scratch::ubuntu();
    let before = host.snapshot();
    let error = set_up(&host, &task(true)).await.unwrap_err();
    assert!(matches!(error, ApplyError::Problems), "there are no certificates: {error:?}");
    assert_eq!(host.snapshot(), before);
    let _other = Records::open(&host.root()).unwrap();
    let error = set_up(&host, &task(false)).await.unwrap_err();
    assert!(matches!(error, ApplyError::Record(RecordError::Busy)), "{error:?}");
    assert_eq!(host.snapshot(), before);
}

#[tokio::test]
async fn records_are_for_root_only() {
    let host = Scratch::ubuntu();
    let record = set_up(&host, &task(false)).await.unwrap().record.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&record), mode(&record.join("record.json"))), (0o700, 0o600));
    assert_eq!(mode(&record.join("before").join(PROPERTIES)), 0o600);
}
