//! The domain XML of captured guests beside that of the Java agent: the same but for what is listed.

use crate::captured_guests::captures;
use cloudstack_agent::guest::domain_xml;
use cloudstack_agent::xml::Element;
use std::collections::BTreeSet;

/// What this agent writes otherwise on purpose. Each changes the Java agent's element; `true` keeps it.
/// Besides, two `<devices>` were made one when the document was read.
struct Repair {
    reason: &'static str,
    element: &'static str,
    apply: fn(&mut Element) -> bool,
}

const REPAIRS: [Repair; 5] = [
    Repair {
        reason: "no <emulator> is the default emulator too, and passes libvirt's schema",
        element: "emulator",
        apply: |emulator| !emulator.text.is_empty(),
    },
    Repair {
        reason: "a CD-ROM without a disc has no source: an empty file name passes no schema",
        element: "source",
        apply: |source| source.attribute("file") != Some(""),
    },
    Repair {
        reason: "QEMU gets the same empty boot code by enabled='no', without an empty file name",
        element: "rom",
        apply: |rom| {
            if (rom.attribute("bar"), rom.attribute("file")) == (Some("off"), Some("")) {
                *rom = Element::new("rom").with("enabled", "no");
            }
            true
        },
    },
    Repair {
        reason: "statistics every 0 seconds are none; libvirt drops the element itself, its schema forbids it",
        element: "stats",
        apply: |stats| stats.attribute("period") != Some("0"),
    },
    Repair {
        reason: "virtio channels are on virtio-serial anyway; the schema wants all of an address or nothing",
        element: "address",
        apply: |address| address.attribute("type") != Some("virtio-serial"),
    },
];

/// Documents whose command was not captured. They hold nothing that the others do not.
const DOCUMENTS_ALONE: [&str; 7] = [
    "4.22-i-2-18-VM-69826.xml",
    "i-1-10-VM-12.xml",
    "i-1-12-VM-13.xml",
    "i-1-4-VM-4.xml",
    "i-1-5-VM-5.xml",
    "i-1-5-VM-6.xml",
    "sg-i-2-18-VM.xml",
];
/// Guests whose document was not captured: its VLAN could not be made there.
const COMMANDS_ALONE: [&str; 1] = ["i-1-2-VM"];

/// Applies the repairs below an element; notes which were needed.
fn repair(element: &mut Element, used: &mut BTreeSet<&'static str>) {
    let mut children = std::mem::take(&mut element.children);
    children.retain_mut(|child| {
        repair(child, used);
        let before = child.clone();
        let repairs = REPAIRS.iter().filter(|repair| repair.element == before.name);
        let keep = repairs.clone().all(|repair| (repair.apply)(child));
        if !keep || *child != before {
            used.extend(repairs.map(|repair| repair.reason));
        }
        keep
    });
    element.children = children;
}

/// Order counts among elements of the same name only, and not among attributes.
fn canonical(element: &Element) -> Element {
    let mut attributes: Vec<_> = element.attributes().collect();
    attributes.sort_unstable();
    let mut children: Vec<Element> = element.children.iter().map(canonical).collect();
    children.sort_by(|a, b| a.name.cmp(&b.name));
    let bare = Element::new(&element.name).content(&element.text);
    attributes.into_iter().fold(bare, |element, (name, value)| element.with(name, value)).children(children)
}

/// One line for each element, indented.
fn lines(element: &Element, depth: usize, out: &mut Vec<String>) {
    let mut bare = element.clone();
    bare.children.clear();
    out.push(format!("{}{bare}", "  ".repeat(depth)));
    for child in &element.children {
        lines(child, depth + 1, out);
    }
}

fn text(element: &Element) -> Vec<String> {
    let mut out = Vec::new();
    lines(&canonical(element), 0, &mut out);
    out
}

#[test]
fn captured_guests_are_made_as_the_java_agent_made_them() {
    let captures = captures();
    let mut used = BTreeSet::new();
    for guest in &captures.pairs {
        let built = guest.build("");
        assert_eq!(built.remarks, Vec::<String>::new(), "{}", guest.file);
        let mut theirs = guest.theirs.clone();
        repair(&mut theirs, &mut used);
        let (ours, theirs) = (text(&domain_xml::domain(&built.spec)), text(&theirs));
        let missing: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
        let extra: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
        assert_eq!(ours, theirs, "{}\nmissing {missing:#?}\ntoo much {extra:#?}", guest.file);
    }
    assert!(captures.pairs.len() >= 20, "{} pairs are left", captures.pairs.len());
    for repair in REPAIRS {
        assert!(used.contains(repair.reason), "no document needs it any more: {}", repair.reason);
    }
}

#[test]
fn no_capture_is_left_out_silently() {
    let captures = captures();
    assert_eq!(captures.documents_alone, DOCUMENTS_ALONE.into_iter().map(str::to_owned).collect());
    assert_eq!(captures.commands_alone, COMMANDS_ALONE.into_iter().map(str::to_owned).collect());
}

#[test]
fn the_comparison_sees_order_of_same_elements_text_and_attributes() {
    let parse = |text: &str| cloudstack_agent::xml::parse(text).unwrap();
    let theirs = text(&parse("<a><b x='1' y='2'/><c>t</c><b x='2'/></a>"));
    assert_eq!(theirs, text(&parse("<a><c>t</c><b y='2' x='1'/><b x='2'/></a>")));
    for other in [
        "<a><b x='2'/><b x='1' y='2'/><c>t</c></a>",
        "<a><b x='1' y='2'/><b x='2'/><c>u</c></a>",
        "<a><b x='1' y='2'/><b x='2'/></a>",
        "<a><b x='1'/><b x='2'/><c>t</c></a>",
    ] {
        assert_ne!(theirs, text(&parse(other)), "{other}");
    }
}
