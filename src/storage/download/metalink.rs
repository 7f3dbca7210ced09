//! Metalink files (RFC 5854 and the older version 3): where else a file is, and what it adds up to.

use super::checksum::Checksum;
use crate::xml::{self, Element, XmlError};

/// Mirrors that are tried; a file may list hundreds.
const MOST_URLS: usize = 16;
const DEEPEST: usize = 8;

#[derive(Debug, PartialEq, Eq)]
pub struct Metalink {
    /// Best first. Torrents are left out.
    pub urls: Vec<String>,
    /// The strongest of those that are understood.
    pub checksum: Option<Checksum>,
}

impl Metalink {
    pub fn parse(text: &str) -> Result<Metalink, XmlError> {
        let root = xml::parse(text)?;
        let (mut urls, mut checksum) = (Vec::new(), None::<Checksum>);
        collect(&root, 0, &mut urls, &mut checksum);
        // A stable sort: equals stay in the order of the file.
        urls.sort_by_key(|(priority, _)| *priority);
        let urls = urls.into_iter().map(|(_, url)| url).take(MOST_URLS).collect();
        Ok(Metalink { urls, checksum })
    }
}

fn collect(element: &Element, depth: usize, urls: &mut Vec<(u32, String)>, checksum: &mut Option<Checksum>) {
    // Hashes of pieces are for parts of the file.
    if depth > DEEPEST || element.name == "pieces" {
        return;
    }
    match element.name.as_str() {
        "url" if !element.text.is_empty() && !element.text.ends_with(".torrent") => {
            let priority = element.attribute("priority").and_then(|number| number.trim().parse().ok());
            urls.push((priority.unwrap_or(u32::MAX), element.text.clone()));
        }
        "hash" => {
            let kind = element.attribute("type").unwrap_or("MD5");
            let found = Checksum::of(kind, &element.text);
            if found.as_ref().map(Checksum::strength) > checksum.as_ref().map(Checksum::strength) {
                *checksum = found;
            }
        }
        _ => {}
    }
    for child in &element.children {
        collect(child, depth + 1, urls, checksum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_in_order_of_priority_and_the_strongest_hash_counts() {
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let text = format!(
            "<metalink xmlns='urn:ietf:params:xml:ns:metalink'><file name='t'>\
             <hash type='md5'>900150983cd24fb0d6963f7d28e17f72</hash><hash type='sha-256'>{sha}</hash>\
             <hash type='unheard-of'>00</hash><pieces length='1' type='sha-512'><hash>00</hash></pieces>\
             <url>http://last/t</url><url priority='2'>http://b/t</url><url priority='1'>http://a/t</url>\
             <url priority='0'>http://a/t.torrent</url></file></metalink>"
        );
        let read = Metalink::parse(&text).unwrap();
        assert_eq!(read.urls, ["http://a/t", "http://b/t", "http://last/t"]);
        assert_eq!(read.checksum, Checksum::of("SHA-256", sha));
        assert!(Metalink::parse("<metalink>").is_err());
    }
}
