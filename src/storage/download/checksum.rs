//! Checksums as servers write them: `{SHA-256}hex`, or bare hex, which means MD5.

use md5::Md5;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha224, Sha256, Sha384, Sha512};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Algorithm {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    /// By the names of servers and of metalink files, which spell them in several ways.
    fn named(name: &str) -> Option<Algorithm> {
        match name.trim().to_ascii_lowercase().replace('-', "").as_str() {
            "md5" => Some(Algorithm::Md5),
            "sha1" | "sha" => Some(Algorithm::Sha1),
            "sha224" => Some(Algorithm::Sha224),
            "sha256" => Some(Algorithm::Sha256),
            "sha384" => Some(Algorithm::Sha384),
            "sha512" => Some(Algorithm::Sha512),
            _ => None,
        }
    }

    fn hasher(self) -> Box<dyn DynDigest + Send> {
        match self {
            Algorithm::Md5 => Box::<Md5>::default(),
            Algorithm::Sha1 => Box::<Sha1>::default(),
            Algorithm::Sha224 => Box::<Sha224>::default(),
            Algorithm::Sha256 => Box::<Sha256>::default(),
            Algorithm::Sha384 => Box::<Sha384>::default(),
            Algorithm::Sha512 => Box::<Sha512>::default(),
        }
    }
}

/// What a download must add up to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Checksum {
    algorithm: Algorithm,
    /// Lower case.
    hex: String,
}

impl Checksum {
    /// `None` if the text names no algorithm that is known, or has the wrong length for it.
    pub fn parse(text: &str) -> Option<Checksum> {
        match text.trim().strip_prefix('{').map(|rest| rest.split_once('}')) {
            Some(Some((name, hex))) => Checksum::of(name, hex),
            Some(None) => None,
            None => Checksum::of("MD5", text),
        }
    }

    /// From the two parts, as in metalink files.
    pub fn of(algorithm: &str, hex: &str) -> Option<Checksum> {
        let algorithm = Algorithm::named(algorithm)?;
        let hex = hex.trim().to_ascii_lowercase();
        let fits = hex.len() == algorithm.hasher().output_size() * 2
            && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
        fits.then_some(Checksum { algorithm, hex })
    }

    /// The more bits, the better; for a choice between several.
    pub fn strength(&self) -> usize {
        self.hex.len()
    }

    pub fn start(&self) -> Sum {
        Sum { wanted: self.hex.clone(), hasher: self.algorithm.hasher() }
    }
}

/// A checksum in the making.
pub struct Sum {
    wanted: String,
    hasher: Box<dyn DynDigest + Send>,
}

impl Sum {
    pub fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    pub fn fits(self) -> bool {
        let found: String = self.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        found == self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(text: &str) -> bool {
        let mut sum = Checksum::parse(text).unwrap().start();
        sum.add(b"a");
        sum.add(b"bc");
        sum.fits()
    }

    #[test]
    fn all_algorithms_know_abc() {
        for text in [
            "900150983cd24fb0d6963f7d28e17f72",
            "{MD5}900150983CD24FB0D6963F7D28E17F72",
            "{SHA-1}a9993e364706816aba3e25717850c26c9cd0d89d",
            "{SHA-224}23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
            "{SHA-256}ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "{SHA-384}cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            "{SHA-512}ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ] {
            assert!(fits(text), "{text}");
        }
        assert!(!fits("900150983cd24fb0d6963f7d28e17f73"));
    }

    #[test]
    fn what_is_no_checksum_is_refused() {
        for text in ["{SHA-256}abc", "{CRC}00", "{MD5", "zz0150983cd24fb0d6963f7d28e17f72", "abc"] {
            assert_eq!(Checksum::parse(text), None, "{text}");
        }
    }
}
