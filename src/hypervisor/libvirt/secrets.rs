//! Blocking operations on libvirt's secrets; each runs on a pool thread.

use uuid::Uuid;
use virt::error::ErrorNumber;

use super::link::{Lease, is_not_found};
use super::refused;
use crate::hypervisor::error::Result;
use crate::hypervisor::secrets::Wiped;
use crate::hypervisor::types::Existence;
use crate::hypervisor::xml;

pub fn define(link: &Lease, uuid: Uuid, path: &str, value: &Wiped) -> Result<()> {
    let text = xml::volume_secret(uuid, path);
    let defined = link.connect()?.define_secret_xml(&text, 0);
    let secret = defined.map_err(refused("defining the secret", path))?;
    secret.set_value(&value.0, 0).map_err(refused("setting the value of the secret", path))
}

pub fn undefine(link: &Lease, uuid: Uuid) -> Result<Existence> {
    let id = uuid.to_string();
    let removed = link.connect()?.lookup_secret_by_uuid(uuid).and_then(|secret| secret.undefine());
    match removed {
        Ok(()) => Ok(Existence::Done),
        Err(error) if is_not_found(&error, ErrorNumber::NoSecret) => Ok(Existence::Absent),
        Err(error) => Err(refused("removing the secret", &id)(error)),
    }
}

pub fn list(link: &Lease) -> Result<Vec<(Uuid, String)>> {
    let reading = "listing the secrets";
    let secrets = link.connect()?.list_all_secrets(0).map_err(refused(reading, "the node"))?;
    let mut all = Vec::with_capacity(secrets.len());
    for secret in secrets {
        // By its document: the crate frees a string of libvirt's when asked for the usage.
        let text = secret.xml_desc(0).map_err(refused(reading, "the node"))?;
        let uuid = secret.uuid().map_err(refused(reading, "the node"))?;
        all.push((uuid, xml::secret_usage(&text).unwrap_or_default()));
    }
    Ok(all)
}
