//! A guest's document when its owner takes it over: without what the agent would have kept for it.

use crate::xml::{self, Element, XmlError};

/// Leaves out CD-ROM drives whose image is a config drive of that name, such as `i-2-3-VM.iso`.
pub fn without_config_drive(document: &str, image: &str) -> Result<String, XmlError> {
    let mut domain = xml::parse(document)?;
    let is_drive = |device: &Element| {
        let file = device.at("source").and_then(|source| source.attribute("file"));
        device.name == "disk"
            && device.attribute("device") == Some("cdrom")
            && file.is_some_and(|file| file.rsplit('/').next() == Some(image))
    };
    if let Some(devices) = domain.at_mut("devices") {
        devices.children.retain(|device| !is_drive(device));
    }
    Ok(domain.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_config_drive_goes() {
        let disk = |device: &str, file: &str| {
            format!("<disk type='file' device='{device}'><source file='{file}'/><target dev='x'/></disk>")
        };
        let (root, iso) = (disk("disk", "/pool/i-2-3-VM.iso"), disk("cdrom", "/mnt/x.iso"));
        let empty = "<disk type='file' device='cdrom'><target dev='hdc'/></disk>";
        let drive = disk("cdrom", "/var/cache/cloud/config/configdrive/i-2-3-VM.iso");
        let document = |drive: &str| format!("<domain><devices>{root}{iso}{drive}{empty}</devices></domain>");
        assert_eq!(without_config_drive(&document(&drive), "i-2-3-VM.iso").unwrap(), document(""));
        assert_eq!(without_config_drive("<domain/>", "x.iso").unwrap(), "<domain/>");
    }
}
