//! What images are made of, in types.

use crate::config::Secret;
use std::path::Path;

/// What CloudStack reckons with in front of the data of raw encrypted images.
const LUKS_HEADER: u64 = 16 * 1024 * 1024;

/// The formats that volumes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    Qcow2,
    Raw,
}

impl ImageFormat {
    /// By its name in CloudStack or in QEMU.
    pub fn named(name: &str) -> Option<ImageFormat> {
        match name.to_ascii_lowercase().as_str() {
            "qcow2" => Some(ImageFormat::Qcow2),
            "raw" => Some(ImageFormat::Raw),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Raw => "raw",
        }
    }

    /// QEMU's driver: encrypted raw images have one of their own.
    pub(super) fn driver(self, encrypted: bool) -> &'static str {
        match self {
            ImageFormat::Raw if encrypted => "luks",
            other => other.as_str(),
        }
    }

    pub(super) fn key_option(self) -> &'static str {
        match self {
            ImageFormat::Qcow2 => "encrypt.key-secret",
            ImageFormat::Raw => "key-secret",
        }
    }
}

/// How much of an image is allocated when it is made: CloudStack's provisioning types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provisioning {
    #[default]
    Thin,
    Sparse,
    Fat,
}

impl Provisioning {
    /// By its name in CloudStack; thin if there is none.
    pub fn named(name: &str) -> Provisioning {
        match name.to_ascii_lowercase().as_str() {
            "sparse" => Provisioning::Sparse,
            "fat" => Provisioning::Fat,
            _ => Provisioning::Thin,
        }
    }

    fn preallocation(self, format: ImageFormat) -> &'static str {
        match (self, format) {
            (Provisioning::Fat, _) => "full",
            (Provisioning::Sparse, ImageFormat::Qcow2) => "metadata",
            // Raw images have no metadata.
            (Provisioning::Sparse, ImageFormat::Raw) | (Provisioning::Thin, _) => "off",
        }
    }
}

/// An image that is read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub path: &'a Path,
    pub format: ImageFormat,
    pub passphrase: Option<&'a Secret>,
    /// A snapshot inside the image instead of its present content.
    pub snapshot: Option<&'a str>,
}

impl<'a> Source<'a> {
    pub fn new(path: &'a Path, format: ImageFormat) -> Source<'a> {
        Source { path, format, passphrase: None, snapshot: None }
    }
}

/// An image that is made.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub path: &'a Path,
    pub format: ImageFormat,
    pub provisioning: Provisioning,
    pub passphrase: Option<&'a Secret>,
}

impl<'a> Target<'a> {
    pub fn new(path: &'a Path, format: ImageFormat) -> Target<'a> {
        Target { path, format, provisioning: Provisioning::Thin, passphrase: None }
    }

    pub(super) fn options(&self) -> String {
        let mut options = format!("preallocation={}", self.provisioning.preallocation(self.format));
        match (self.passphrase, self.format) {
            (None, _) => {}
            (Some(_), ImageFormat::Qcow2) => {
                options.push_str(",encrypt.format=luks,encrypt.key-secret=sec0");
            }
            (Some(_), ImageFormat::Raw) => options.push_str(",key-secret=sec0"),
        }
        options
    }

    /// What a guest sees of `size` bytes: as in CloudStack, a raw encrypted image has room for its header
    /// in its size.
    pub fn payload(&self, size: u64) -> u64 {
        size.saturating_sub(if self.driver() == "luks" { LUKS_HEADER } else { 0 })
    }

    pub(super) fn driver(&self) -> &'static str {
        self.format.driver(self.passphrase.is_some())
    }
}

/// Whether an image is opened beside a guest that has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads past locks.
    Shared,
    /// Fails if somebody writes to the image.
    Exclusive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shrink {
    Refuse,
    Allow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    Leaks,
    All,
}
