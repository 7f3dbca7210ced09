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
