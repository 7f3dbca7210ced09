use super::*;
use crate::xml::{MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS};

const CAPABILITIES: &str = r#"<?xml version="1.0"?>
<capabilities>
  <host>
    <uuid>b919d6a5-45c2-4ab3-8b4e-2a4f1b4cb0f6</uuid>
    <cpu>
      <arch>x86_64</arch>
      <model>Skylake-Server-IBRS</model>
      <counter name='acpi' frequency='1'/>
      <counter name='tsc' frequency='2593904000' scaling='no'/>
    </cpu>
  </host>
  <guest><os_type>xen</os_type></guest>
  <guest><os_type>hvm</os_type><arch name='x86_64'/></guest>
</capabilities>"#;

const DOMAIN: &str = r#"<domain type='kvm' id='3'>
  <name>r-4-VM</name>
  <devices>
    <disk type='file' device='disk'>
      <source file='/var/lib/libvirt/images/a&amp;b' index='2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>
    <disk type='network' device='disk'>
      <source protocol='rbd' name='pool/image'><host name='mon' port='6789'/></source>
      <target dev='vdb' bus='a-bus-of-the-future'/>
    </disk>
    <disk type='block' device='lun'><source dev='/dev/dm-7'/><target dev='sda'/></disk>
    <interface type='bridge'>
      <mac address='02:00:4C:9B:00:01'/><source bridge='cloudbr1'/><target dev='vnet0'/>
    </interface>
    <interface type='network'>
      <mac address='0e:00:a9:fe:01:02'/><source network='default'/>
    </interface>
    <graphics type='vnc' port='5903' autoport='yes' listen='10.1.1.20'/>
    <memballoon model='virtio'/>
  </devices>
</domain>"#;

#[test]
fn capabilities_have_arch_tsc_and_hvm() {
    let read = capabilities(CAPABILITIES).unwrap();
    assert_eq!(
        read,
        HostCapabilities { arch: "x86_64".to_owned(), tsc_hz: Some(2_593_904_000), supports_hvm: true }
    );
    let bare = capabilities("<capabilities><host/></capabilities>").unwrap();
    assert_eq!(bare, HostCapabilities { arch: String::new(), tsc_hz: None, supports_hvm: false });
}

#[test]
fn a_domain_has_disks_interfaces_and_display() {
    let read = domain(DOMAIN).unwrap();
    let disks: Vec<_> =
        read.disks.iter().map(|d| (d.device, d.target.as_str(), d.source.as_deref())).collect();
    assert_eq!(
        disks,
        [
            (DiskDevice::Disk, "vda", Some("/var/lib/libvirt/images/a&b")),
            (DiskDevice::Cdrom, "hdc", None),
            (DiskDevice::Disk, "vdb", Some("pool/image")),
            (DiskDevice::Disk, "sda", Some("/dev/dm-7")),
        ]
    );
    assert_eq!(read.interfaces[0].mac, "02:00:4c:9b:00:01");
    assert_eq!(read.interfaces[0].target.as_deref(), Some("vnet0"));
    assert_eq!(read.interfaces[0].source.as_deref(), Some("cloudbr1"));
    assert_eq!(read.interfaces[1].target, None);
    assert_eq!(read.vnc_port, Some(5903));
    assert_eq!(read.balloon.as_deref(), Some("virtio"));
}

#[test]
fn an_unassigned_display_has_no_port() {
    let text = "<domain><devices><graphics type='vnc' port='-1'/></devices></domain>";
    assert_eq!(domain(text).unwrap().vnc_port, None);
}

#[test]
fn a_network_pool_has_its_source() {
    let text = "<pool type='netfs'><source><host name='nfs1'/><dir path='/export/p'/></source>\
                <target><path>/mnt/x</path></target></pool>";
    let read = pool(text).unwrap();
    assert_eq!(read.kind, "netfs");
    assert_eq!(read.source_host.as_deref(), Some("nfs1"));
    assert_eq!(read.source_dir.as_deref(), Some("/export/p"));
    assert_eq!(read.path.as_deref(), Some("/mnt/x"));
}

#[test]
fn a_written_pool_reads_back_with_any_path() {
    let uuid = Uuid::from_u128(7);
    let path = "/srv/a <b> & 'c' \"d\"";
    let text = dir_pool(uuid, path);
    assert_eq!(pool(&text).unwrap().path.as_deref(), Some(path));
    assert_eq!(parse(&text).unwrap().text_at("name"), Some(uuid.to_string()));
    assert_eq!(parse(&text).unwrap().children.len(), 3);
}

#[test]
fn text_joins_references_and_sections() {
    let read = parse("<a> x&#65;&amp;<![CDATA[<y>]]> </a>").unwrap();
    assert_eq!(read.text, "xA&<y>");
}

#[test]
fn broken_and_hostile_documents_are_errors() {
    assert!(matches!(domain("<domain>"), Err(XmlError::Truncated)));
    assert!(matches!(domain(""), Err(XmlError::Truncated)));
    assert!(matches!(domain("<a></b>"), Err(XmlError::Malformed(_))));
    assert!(matches!(domain("<pool/>"), Err(XmlError::WrongRoot { wanted: "domain", .. })));
    let deep = "<a>".repeat(MAX_DEPTH + 1);
    assert!(matches!(parse(&deep), Err(XmlError::TooLarge)));
    let wide = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS + 1));
    assert!(matches!(parse(&wide), Err(XmlError::TooLarge)));
    assert!(matches!(parse(&" ".repeat(MAX_BYTES + 1)), Err(XmlError::TooLarge)));
}

const RUNNING: &str = r#"<domain type='kvm' id='3'>
  <name>i-2-7-VM</name><uuid>b919d6a5-45c2-4ab3-8b4e-2a4f1b4cb0f6</uuid>
  <maxMemory slots='16' unit='KiB'>4194304</maxMemory>
  <memory unit='KiB'>1048576</memory><currentMemory unit='MiB'>512</currentMemory>
  <vcpu placement='static' current='2'>8</vcpu>
  <cputune><shares>1000</shares></cputune>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' secure='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram>/var/lib/libvirt/qemu/nvram/x.fd</nvram></os>
  <cpu mode='host-model'><topology sockets='2' dies='1' cores='4' threads='1'/></cpu>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/p/top' index='1'><encryption format='luks'>
        <secret type='passphrase' uuid='7c0f5a51-0d4c-4ac3-9a3e-000000000001'/></encryption></source>
      <backingStore type='file'><format type='qcow2'/><source file='/p/middle'/>
        <backingStore type='file'><source file='/p/base'/><backingStore/></backingStore></backingStore>
      <target dev='vda' bus='virtio'/><serial>0123</serial>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='pool/image'><host name='mon1' port='6789'/><host name='mon2'/></source>
      <target dev='sda' bus='scsi'/>
    </disk>
    <disk type='file' device='cdrom'><source file=''/><target dev='hdc' bus='ide'/><readonly/></disk>
    <disk type='vhostuser'><source type='unix' path='/s'/><target dev='vdz'/></disk>
    <interface type='bridge'>
      <mac address='02:00:4C:9B:00:01'/><source bridge='cloudbr1'/><target dev='vnet0'/>
      <model type='virtio'/><vlan><tag id='42'/></vlan><link state='down'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x1f' function='0x0'/>
    </interface>
    <interface type='a-kind-of-the-future'><mac address='02:00:4c:9b:00:02'/></interface>
    <graphics type='vnc' port='5903' passwd='secret'/>
  </devices>
</domain>"#;

#[test]
fn a_running_guest_is_described_in_full() {
    let read = domain(RUNNING).unwrap();
    assert_eq!((read.name.as_str(), read.uuid.map(|u| u.as_u128() >> 96)), ("i-2-7-VM", Some(0xb919_d6a5)));
    assert_eq!((read.memory_kib, read.max_memory_kib, read.memory_slots), (524_288, 1_048_576, Some(16)));
    assert_eq!((read.vcpus, read.max_vcpus, read.cpu_shares), (2, 8, Some(1000)));
    assert_eq!(read.cores_per_socket, Some(4));
    assert_eq!(read.machine.as_deref(), Some("pc-q35-7.2"));
    assert_eq!((read.loader.as_deref(), read.secure_boot), (Some("/usr/share/OVMF/OVMF_CODE.fd"), true));
    assert_eq!(read.nvram.as_deref(), Some("/var/lib/libvirt/qemu/nvram/x.fd"));
    assert_eq!(read.vnc_password.as_ref().map(|hidden| hidden.expose()), Some("secret"));
    assert!(!format!("{read:?}").contains("\"secret\""), "{read:?}");
}

#[test]
fn disks_have_their_layers_servers_and_secrets() {
    let disks = domain(RUNNING).unwrap().disks;
    assert_eq!(
        disks.iter().map(|disk| disk.target.as_str()).collect::<Vec<_>>(),
        ["vda", "sda", "hdc", "vdz"]
    );
    let [file, network, drive, odd] = disks.as_slice() else { panic!("{disks:?}") };
    assert_eq!(file.backing, ["/p/middle", "/p/base"]);
    assert_eq!(
        (&file.kind, file.bus.as_deref(), file.format.as_deref()),
        (&DiskKind::File, Some("virtio"), Some("qcow2"))
    );
    assert_eq!((file.serial.as_deref(), file.cache.as_deref()), (Some("0123"), Some("none")));
    assert_eq!(file.secret.map(|secret| secret.as_u128() & 0xff), Some(1));
    assert_eq!((&network.kind, network.protocol.as_deref()), (&DiskKind::Network, Some("rbd")));
    assert_eq!(network.hosts, [("mon1".to_owned(), Some(6789)), ("mon2".to_owned(), None)]);
    assert_eq!((drive.source.as_deref(), drive.readonly), (None, true));
    assert_eq!(odd.kind, DiskKind::Other("vhostuser".to_owned()));
}

#[test]
fn interfaces_have_slot_tag_and_link() {
    let interfaces = domain(RUNNING).unwrap().interfaces;
    let first = &interfaces[0];
    assert_eq!((first.kind.as_str(), first.model.as_deref()), ("bridge", Some("virtio")));
    assert_eq!(first.pci, Some(PciAddress { domain: 0, bus: 0, slot: 31, function: 0 }));
    assert_eq!((first.vlan, first.link_up), (Some(42), Some(false)));
    assert_eq!((interfaces[1].mac.as_str(), interfaces[1].link_up), ("02:00:4c:9b:00:02", None));
}

#[test]
fn a_network_pool_is_written_with_its_options() {
    let mut wanted = NetfsPool {
        uuid: Uuid::from_u128(7),
        host: "nfs1".to_owned(),
        export: "/export/a&b".to_owned(),
        target: "/mnt/x".to_owned(),
        options: vec!["vers=4.1".to_owned(), "nconnect=4".to_owned()],
    };
    let text = netfs_pool(&wanted);
    let read = pool(&text).unwrap();
    assert_eq!(
        (read.source_host.as_deref(), read.source_dir.as_deref()),
        (Some("nfs1"), Some("/export/a&b"))
    );
    let root = parse(&text).unwrap();
    let options = root.at("fs:mount_opts").unwrap();
    let names: Vec<_> = options.all("fs:option").filter_map(|option| option.attribute("name")).collect();
    assert_eq!(names, ["vers=4.1", "nconnect=4"]);
    wanted.options.clear();
    assert!(!netfs_pool(&wanted).contains("fs:"));
}

#[test]
fn a_secret_is_ephemeral_and_private() {
    let text = volume_secret(Uuid::from_u128(7), "/p/<v>");
    let root = parse(&text).unwrap();
    assert_eq!((root.attribute("ephemeral"), root.attribute("private")), (Some("yes"), Some("yes")));
    assert_eq!(secret_usage(&text).as_deref(), Some("/p/<v>"));
}

#[test]
fn small_documents_are_read() {
    let text = "<volume><target><format type='qcow2'/></target></volume>";
    assert_eq!(volume_format(text).as_deref(), Some("qcow2"));
    let text =
        "<domainsnapshot><creationTime>12</creationTime><parent><name>p</name></parent></domainsnapshot>";
    let read = snapshot(text).unwrap();
    assert_eq!(read, SnapshotDescription { parent: Some("p".to_owned()), creation_time: Some(12) });
}
