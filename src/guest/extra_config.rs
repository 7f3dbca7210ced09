//! Raw XML that a server's administrator gives to a guest (`extraConfig`): checked, then merged.
//!
//! The reference agent pastes it into the domain behind the uuid. Of an element that comes twice libvirt
//! takes the first, so there it wins over all but name, uuid, description and the processor. It does
//! here too, but as one element of each kind.

use crate::xml::{self, Element, XmlError};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum ExtraConfigError {
    #[error("Extra config {key:?} of the guest is no usable XML: correct the setting of the VM")]
    Malformed { key: String, source: XmlError },
    #[error(
        "Extra config {key:?} of the guest has text outside of any element: correct the setting of the VM"
    )]
    StrayText { key: String },
    #[error("Extra config of the guest is larger than {MAX_BYTES} bytes: shorten the setting of the VM")]
    TooLarge,
}

/// Far more than any real one.
const MAX_BYTES: usize = 256 * 1024;
const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// Elements to be merged into a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtraConfig(Vec<Element>);

impl ExtraConfig {
    /// Fragments by key, in the order in which they apply.
    pub fn parse<'a>(
        fragments: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<ExtraConfig, ExtraConfigError> {
        let mut elements = Vec::new();
        let mut bytes = 0;
        for (key, text) in fragments {
            bytes += text.len();
            if bytes > MAX_BYTES {
                return Err(ExtraConfigError::TooLarge);
            }
            // The prefix is declared by whoever uses it, or by the domain.
            let root = format!("<extra xmlns:qemu='{QEMU_NAMESPACE}'>{text}</extra>");
            let root = xml::parse(&root)
                .map_err(|source| ExtraConfigError::Malformed { key: key.to_owned(), source })?;
            if !root.text.is_empty() {
                return Err(ExtraConfigError::StrayText { key: key.to_owned() });
            }
            elements.extend(root.children);
        }
        Ok(ExtraConfig(elements))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the elements into a domain: those that it has already are merged, the others come last.
    #[must_use]
    pub(super) fn merge_into(&self, mut domain: Element) -> Element {
        if self.0.iter().any(uses_qemu_namespace) {
            domain.set("xmlns:qemu", QEMU_NAMESPACE);
        }
        for extra in &self.0 {
            match extra.name.as_str() {
                "name" | "uuid" | "description" => {}
                name => match domain.children.iter_mut().find(|child| child.name == name) {
                    Some(own) if name == "cpu" => *own = merged(own, extra),
                    Some(own) => *own = merged(extra, own),
                    None => domain.children.push(extra.clone()),
                },
            }
        }
        domain
    }
}

/// One element of two; what both have, the first one decides.
fn merged(first: &Element, second: &Element) -> Element {
    let mut result = first.clone();
    for (name, value) in second.attributes() {
        if result.attribute(name).is_none() {
            result.set(name, value);
        }
    }
    if result.text.is_empty() {
        result.text.clone_from(&second.text);
    }
    result.children.extend(second.children.iter().cloned());
    result
}

fn uses_qemu_namespace(element: &Element) -> bool {
    element.name.starts_with("qemu:") || element.children.iter().any(uses_qemu_namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> Element {
        xml::parse(
            "<domain><name>n</name><memory>1</memory><cpu><topology sockets='1'/></cpu>\
             <devices><serial/></devices></domain>",
        )
        .unwrap()
    }

    fn merge(text: &str) -> String {
        ExtraConfig::parse([("extraconfig-1", text)]).unwrap().merge_into(domain()).to_string()
    }

    #[test]
    fn the_extra_config_wins_but_for_the_name_and_the_processor() {
        assert_eq!(
            merge(
                "<name>evil</name><memory unit='b'>2</memory><memoryBacking><hugepages/></memoryBacking>\
                 <cpu mode='host-model'><cache mode='emulate'/></cpu><devices><rng/></devices>"
            ),
            "<domain><name>n</name><memory unit='b'>2</memory>\
             <cpu mode='host-model'><topology sockets='1'/><cache mode='emulate'/></cpu>\
             <devices><rng/><serial/></devices><memoryBacking><hugepages/></memoryBacking></domain>"
        );
    }

    #[test]
    fn command_lines_of_qemu_get_their_namespace() {
        let xml = merge("<qemu:commandline><qemu:arg value='-x'/></qemu:commandline>");
        assert!(xml.starts_with("<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"), "{xml}");
        assert!(
            xml.ends_with("<qemu:commandline><qemu:arg value='-x'/></qemu:commandline></domain>"),
            "{xml}"
        );
        assert!(!merge("<memoryBacking/>").contains("qemu"));
    }

    #[test]
    fn what_is_no_xml_is_refused() {
        for text in ["<a>", "</extra><x>", "</domain><domain>", "<a></b>", "<a x=1/>", "words", "<a/>&lt;"] {
            let error = ExtraConfig::parse([("extraconfig-1", text)]).unwrap_err();
            assert!(error.to_string().contains("extraconfig-1"), "{text}: {error}");
        }
        let long = format!("<a>{}</a>", "x".repeat(MAX_BYTES));
        assert!(matches!(ExtraConfig::parse([("k", long.as_str())]), Err(ExtraConfigError::TooLarge)));
        assert!(ExtraConfig::parse([("k", " \n")]).unwrap().is_empty());
    }
}
