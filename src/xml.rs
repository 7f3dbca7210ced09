//! XML as a tree of elements: read within bounds, built and written with every value escaped. No I/O.
//!
//! libvirt's language, and that of metalink files. What is read comes from others, so size, depth and
//! element count are bounded. Characters that XML 1.0 cannot carry (NUL, most control characters) are
//! left out when writing: escaping does not make them legal.

use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use std::fmt;
use thiserror::Error;

/// The capabilities of a large host are some 200 KiB.
pub(crate) const MAX_BYTES: usize = 8 * 1024 * 1024;
pub(crate) const MAX_DEPTH: usize = 64;
pub(crate) const MAX_ELEMENTS: usize = 200_000;

#[derive(Debug, Error)]
pub enum XmlError {
    #[error("The XML is not well formed")]
    Malformed(#[from] quick_xml::Error),
    #[error("The XML is larger, deeper or has more elements than any real one")]
    TooLarge,
    #[error("The XML ends early or has no root element")]
    Truncated,
    #[error("The XML has more than one root element, or text behind it")]
    Trailing,
    #[error("The root element is <{found}>, not <{wanted}>")]
    WrongRoot { wanted: &'static str, found: String },
}

/// An element with everything in it. Text is that of the element alone, trimmed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    attributes: Vec<(String, String)>,
    pub children: Vec<Element>,
    pub text: String,
}

impl Element {
    /// An empty element; add to it with [`Element::with`], [`Element::child`], [`Element::content`].
    pub fn new(name: &str) -> Element {
        Element { name: name.to_owned(), ..Element::default() }
    }

    /// Adds an attribute. The value is escaped when it is written.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Element {
        self.attributes.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds an attribute if there is a value.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<impl fmt::Display>) -> Element {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    #[must_use]
    pub fn child(mut self, child: Element) -> Element {
        self.children.push(child);
        self
    }

    #[must_use]
    pub fn child_some(self, child: Option<Element>) -> Element {
        self.children(child)
    }

    #[must_use]
    pub fn children(mut self, children: impl IntoIterator<Item = Element>) -> Element {
        self.children.extend(children);
        self
    }

    /// Sets the text of the element. It is written before the children.
    #[must_use]
    pub fn content(mut self, text: impl fmt::Display) -> Element {
        self.text = text.to_string();
        self
    }

    /// Gives an attribute another value, or adds it.
    pub fn set(&mut self, name: &str, value: impl fmt::Display) {
        match self.attributes.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value.to_string(),
            None => self.attributes.push((name.to_owned(), value.to_string())),
        }
    }

    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Like [`Element::at`], to change what is there.
    pub fn at_mut(&mut self, path: &str) -> Option<&mut Element> {
        path.split('/').try_fold(self, |element, name| element.children.iter_mut().find(|c| c.name == name))
    }

    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first element along a path such as `target/path`.
    pub fn at(&self, path: &str) -> Option<&Element> {
        path.split('/').try_fold(self, |element, name| element.children.iter().find(|c| c.name == name))
    }

    /// Text along a path; `None` if empty.
    pub fn text_at(&self, path: &str) -> Option<String> {
        self.at(path).map(|element| element.text.clone()).filter(|text| !text.is_empty())
    }

    pub fn attribute_at(&self, path: &str, name: &str) -> Option<String> {
        self.at(path)?.attribute(name).map(str::to_owned)
    }
}

/// Reads a document into its root element.
pub fn parse(text: &str) -> Result<Element, XmlError> {
    if text.len() > MAX_BYTES {
        return Err(XmlError::TooLarge);
    }
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let mut elements = 0;
    loop {
        let closed = match reader.read_event()? {
            Event::Start(start) => {
                elements += 1;
                if open.len() >= MAX_DEPTH || elements > MAX_ELEMENTS {
                    return Err(XmlError::TooLarge);
                }
                open.push(element(&start)?);
                None
            }
            Event::Empty(start) => {
                elements += 1;
                if elements > MAX_ELEMENTS {
                    return Err(XmlError::TooLarge);
                }
                Some(element(&start)?)
            }
            Event::End(_) => open.pop(),
            Event::Text(piece) => {
                append(&mut open, &piece.xml10_content());
                None
            }
            Event::CData(piece) => {
                append(&mut open, &piece.xml10_content());
                None
            }
            Event::GeneralRef(reference) => {
                match reference.resolve_char_ref()? {
                    Some(character) => append(&mut open, character.encode_utf8(&mut [0; 4])),
                    None => append(&mut open, resolve_predefined_entity(&reference).unwrap_or_default()),
                }
                None
            }
            Event::Eof => return Err(XmlError::Truncated),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => None,
        };
        if let Some(mut done) = closed {
            done.text = done.text.trim().to_owned();
            match open.last_mut() {
                Some(parent) => parent.children.push(done),
                None => return at_end(reader).map(|()| done),
            }
        }
    }
}

/// Behind the root element nothing may follow but blanks and comments: what somebody else appended
/// would be lost unseen.
fn at_end(mut reader: Reader<&[u8]>) -> Result<(), XmlError> {
    loop {
        match reader.read_event()? {
            Event::Eof => return Ok(()),
            Event::Comment(_) | Event::PI(_) => {}
            Event::Text(text) if text.xml10_content().trim().is_empty() => {}
            _ => return Err(XmlError::Trailing),
        }
    }
}

fn element(start: &BytesStart<'_>) -> Result<Element, XmlError> {
    let mut attributes = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(quick_xml::Error::from)?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0)?;
        attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
    }
    let name = start.name().as_ref().to_owned();
    Ok(Element { name, attributes, ..Element::default() })
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

impl fmt::Display for Element {
    /// One line, without a declaration, as libvirt takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}", self.name)?;
        for (name, value) in &self.attributes {
            write!(f, " {name}='{}'", legal(value))?;
        }
        if self.text.is_empty() && self.children.is_empty() {
            return f.write_str("/>");
        }
        write!(f, ">{}", legal(&self.text))?;
        for child in &self.children {
            child.fmt(f)?;
        }
        write!(f, "</{}>", self.name)
    }
}

fn legal(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r')).collect();
    escape(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let tree = Element::new("a")
            .with("x", "'\"<&>\u{e9}")
            .with_some("none", None::<&str>)
            .child(Element::new("b").content("1 < 2 & 3"))
            .child_some(None)
            .child(Element::new("c"));
        let text = tree.to_string();
        assert_eq!(parse(&text).unwrap(), tree, "{text}");
        assert!(text.ends_with("<c/></a>"), "{text}");
    }

    #[test]
    fn characters_that_xml_cannot_carry_are_left_out() {
        assert_eq!(Element::new("a").with("x", "1\0\u{1b}2").to_string(), "<a x='12'/>");
    }

    #[test]
    fn nothing_follows_the_root_element() {
        for text in ["<a/><b/>", "<a></a>x", "<a/></a>", "<a/>&lt;", "<a/><![CDATA[x]]>"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("<?xml version='1.0'?>\n<a/>\n<!-- end -->\n").unwrap(), Element::new("a"));
    }

    #[test]
    fn parts_can_be_changed() {
        let mut tree = parse("<a><b><c x='1'/></b></a>").unwrap();
        tree.at_mut("b/c").unwrap().set("x", 2);
        tree.at_mut("b/c").unwrap().set("y", "3");
        assert_eq!(tree.to_string(), "<a><b><c x='2' y='3'/></b></a>");
    }
}
