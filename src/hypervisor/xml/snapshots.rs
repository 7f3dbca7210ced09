//! What libvirt is told of snapshots, and what it tells of them.

use super::rooted;
use crate::xml::{Element, XmlError, parse};

/// What the agent needs of a snapshot's XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotDescription {
    pub parent: Option<String>,
    /// Seconds since 1970.
    pub creation_time: Option<u64>,
}

pub fn snapshot(text: &str) -> Result<SnapshotDescription, XmlError> {
    let root = rooted(text, "domainsnapshot")?;
    Ok(SnapshotDescription {
        parent: root.text_at("parent/name"),
        creation_time: root.text_at("creationTime").and_then(|time| time.parse().ok()),
    })
}

fn named(name: &str) -> Element {
    Element::new("domainsnapshot").child(Element::new("name").content(name))
}

/// A snapshot of memory and disks, inside the disk images.
pub fn memory_snapshot(name: &str) -> String {
    named(name).child(Element::new("memory").with("snapshot", "internal")).to_string()
}

/// A snapshot that puts a guest on overlays: each disk by its target, with the file over it if it is to
/// get one. All others stay as they are.
pub fn overlay_snapshot<'a>(disks: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let disk = |(target, overlay): (&str, Option<&str>)| {
        let element = Element::new("disk").with("name", target);
        match overlay {
            None => element.with("snapshot", "no"),
            Some(file) => element
                .with("snapshot", "external")
                .child(Element::new("driver").with("type", "qcow2"))
                .child(Element::new("source").with("file", file)),
        }
    };
    Element::new("domainsnapshot")
        .child(Element::new("memory").with("snapshot", "no"))
        .child(Element::new("disks").children(disks.into_iter().map(disk)))
        .to_string()
}

/// A snapshot inside the images of a guest that libvirt is to learn of again; `domain` is the guest as it
/// is now, with passwords. `created` is in seconds since 1970.
pub fn known_snapshot(
    name: &str,
    parent: Option<&str>,
    created: i64,
    domain: &str,
) -> Result<String, XmlError> {
    let parent = parent.map(|parent| Element::new("parent").child(Element::new("name").content(parent)));
    Ok(named(name)
        .child(Element::new("state").content("running"))
        .child_some(parent)
        .child(Element::new("creationTime").content(created))
        .child(parse(domain)?)
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_that_get_no_overlay_are_named_as_such() {
        let disks = [("vda", None), ("vdb", Some("/p/a'b"))];
        assert_eq!(
            overlay_snapshot(disks),
            "<domainsnapshot><memory snapshot='no'/><disks><disk name='vda' snapshot='no'/>\
             <disk name='vdb' snapshot='external'><driver type='qcow2'/><source file='/p/a&apos;b'/></disk>\
             </disks></domainsnapshot>"
        );
    }

    #[test]
    fn a_snapshot_that_is_told_again_reads_back() {
        let domain = "<domain type='kvm'><name>i-2-3-VM</name></domain>";
        let text = known_snapshot("s", Some("p"), 7, domain).unwrap();
        assert!(text.contains(domain), "{text}");
        let read = snapshot(&text).unwrap();
        assert_eq!((read.parent.as_deref(), read.creation_time), (Some("p"), Some(7)));
        assert!(known_snapshot("s", None, 7, "<domain>").is_err());
    }
}
