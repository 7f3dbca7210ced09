//! `keystore-setup` and `keystore-cert-import`: what a management server calls over ssh, before it adds a
//! host, to give it a certificate. Same arguments, files and exit codes as the scripts of cloudstack-common,
//! without `keytool`: [`crate::tls::provision`] makes key, request and keystore.
//!
//! Unlike the scripts, the key in use stays until its successor has a certificate, private keys are for
//! their owner and QEMU's group only, and nothing is replaced unless all parts fit together.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apply::{ApplyError, StepError, apply, edit_properties};
use super::gather::gather;
use super::planning::{self, Certificates, Task, conf};
use super::root::{ReadError, Root};
use crate::config::{Properties, Secret};
use crate::host::identity;
use crate::tls::provision::{self, Installed, KEYSTORE_FILE, ProvisionError, REQUEST_FILE};

const PASSPHRASE: &str = "keystore.passphrase";
const CERTIFICATE_FILE: &str = "cloud.crt";
const CA_FILE: &str = "cloud.ca.crt";
const KEY_FILE: &str = "cloud.key";
/// Of the resolver, which is asked for the host's full name.
const NAME_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    #[error("{} has another name than {name}, the only one that is known: use it", path.display())]
    FileName { path: PathBuf, name: &'static str },
    #[error("{} is not in the directory of the keystore: name files of one directory", .0.display())]
    OtherDirectory(PathBuf),
    #[error("The keystore password is not one plain word of at most 256 characters: give another")]
    Passphrase,
    #[error("There is no keystore.passphrase in {}: run keystore-setup first", .0.display())]
    NoPassphrase(PathBuf),
    #[error("There is no {}, and no text for it: give the certificate", .0.display())]
    NoText(PathBuf),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("Cannot store the keystore password")]
    Store(#[source] StepError),
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    #[error("Cannot set owner and mode of {}: run as root", path.display())]
    Rights { path: PathBuf, source: io::Error },
}

/// Arguments of `keystore-setup`, in order. How long the certificate holds is the server's decision.
#[derive(Debug, Clone)]
pub struct SetupRequest {
    pub properties: PathBuf,
    pub keystore: PathBuf,
    /// Taken only if the properties have none.
    pub passphrase: Secret,
    pub csr: PathBuf,
}

/// Makes a key and returns the request for its certificate, which is what goes to stdout.
pub async fn setup(root: &Root, request: &SetupRequest) -> Result<String, KeystoreError> {
    let directory = directory_of(&request.keystore, &[(&request.csr, REQUEST_FILE)])?;
    if passphrase(root, &request.properties)?.is_none() {
        let new = request.passphrase.expose();
        if !provision::is_plain_passphrase(new) {
            return Err(KeystoreError::Passphrase);
        }
        edit_properties(root, &request.properties, |file| file.set(PASSPHRASE, new))
            .map_err(KeystoreError::Store)?;
    }
    let name = identity::full_name(NAME_DEADLINE).await;
    let csr = provision::setup_keystore(&root.at(directory), &name, &identity::addresses())?;
    set_mode(&root.at(&request.properties), 0o600)?;
    Ok(csr.0)
}

/// Arguments of `keystore-cert-import`, in order. The password among them is ignored, as the script does:
/// that of the properties counts.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    pub properties: PathBuf,
    pub keystore: PathBuf,
    pub certificate_file: PathBuf,
    /// Encoded PEM; empty: the file has it.
    pub certificate: String,
    pub ca_file: PathBuf,
    pub ca: String,
    pub key_file: PathBuf,
    /// Encoded PEM; empty: the key of the last request.
    pub key: Secret,
}

/// What an import has done.
#[derive(Debug)]
pub struct Imported {
    pub installed: Installed,
    /// Why libvirt does not use the certificate. No reason to fail: the agent does.
    pub libvirt: Option<ApplyError>,
    /// Problems that kept libvirt's configuration from being touched.
    pub problems: Vec<String>,
}

/// Installs a certificate and, on a host with libvirt, makes libvirt and QEMU use it.
pub async fn import(root: &Root, request: &ImportRequest) -> Result<Imported, KeystoreError> {
    let files = [
        (&request.certificate_file, CERTIFICATE_FILE),
        (&request.ca_file, CA_FILE),
        (&request.key_file, KEY_FILE),
    ];
    let directory = directory_of(&request.keystore, &files)?;
    let passphrase = passphrase(root, &request.properties)?
        .ok_or_else(|| KeystoreError::NoPassphrase(request.properties.clone()))?;
    let certificate = text_or_file(root, &request.certificate, &request.certificate_file)?;
    let ca = text_or_file(root, &request.ca, &request.ca_file)?;
    let key = Secret::new(decoded(request.key.expose()));
    let place = root.at(directory);
    let installed = provision::install_certificate(
        &place,
        &certificate,
        &ca,
        Some(key.expose()).filter(|key| !key.trim().is_empty()),
        passphrase.expose(),
    )?;
    if !root.exists("/etc/libvirt/libvirtd.conf") {
        return Ok(Imported { installed, libvirt: None, problems: Vec::new() });
    }
    give_to_qemu(root, &place)?;
    let (libvirt, problems) = secure_libvirt(root).await?;
    Ok(Imported { installed, libvirt, problems })
}

async fn secure_libvirt(root: &Root) -> Result<(Option<ApplyError>, Vec<String>), KeystoreError> {
    let facts = gather(root).await?;
    let plan = planning::plan(&Task::SecureLibvirt(Certificates::Renewed), &facts);
    let outcome = apply(root, &plan).await;
    Ok((outcome.err(), plan.problems))
}

/// In the texts of the server's command line `^` is a line end and `~` a blank.
fn decoded(text: &str) -> String {
    let mut text = text.replace('^', "\n").replace('~', " ");
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn text_or_file(root: &Root, text: &str, file: &Path) -> Result<String, KeystoreError> {
    let text = decoded(text);
    if !text.trim().is_empty() {
        return Ok(text);
    }
    root.text(file)?.ok_or_else(|| KeystoreError::NoText(file.to_owned()))
}

/// The directory of the keystore, if all files are in it under the names that everybody expects.
fn directory_of<'a>(
    keystore: &'a Path,
    files: &[(&PathBuf, &'static str)],
) -> Result<&'a Path, KeystoreError> {
    let directory = keystore.parent().unwrap_or(Path::new("."));
    let all = files.iter().map(|(path, name)| (path.as_path(), *name));
    for (path, name) in [(keystore, KEYSTORE_FILE)].into_iter().chain(all) {
        if path.file_name() != Some(name.as_ref()) {
            return Err(KeystoreError::FileName { path: path.to_owned(), name });
        }
        if path.parent() != Some(directory) {
            return Err(KeystoreError::OtherDirectory(path.to_owned()));
        }
    }
    Ok(directory)
}

fn passphrase(root: &Root, path: &Path) -> Result<Option<Secret>, KeystoreError> {
    let bytes = root.bytes(path)?.unwrap_or_default();
    let file = Properties::parse(&bytes)
        .map_err(|source| KeystoreError::Store(StepError::Properties { path: path.to_owned(), source }))?;
    Ok(file.get(PASSPHRASE).filter(|value| !value.trim().is_empty()).map(Secret::new))
}

/// QEMU reads the key for consoles with TLS, under its own user.
fn give_to_qemu(root: &Root, directory: &Path) -> Result<(), KeystoreError> {
    let configured = root.text("/etc/libvirt/qemu.conf")?.unwrap_or_default();
    let Some(group) = conf::get(&configured, "group").map(conf::unquoted) else { return Ok(()) };
    let Some(id) = group_id(&root.text("/etc/group")?.unwrap_or_default(), group) else { return Ok(()) };
    for file in [CERTIFICATE_FILE, CA_FILE, KEY_FILE] {
        let path = directory.join(file);
        chown(&path, None, Some(id)).map_err(|source| KeystoreError::Rights { path, source })?;
    }
    Ok(())
}

fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

fn set_mode(path: &Path, mode: u32) -> Result<(), KeystoreError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| KeystoreError::Rights { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
