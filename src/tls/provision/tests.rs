use std::fs;
use std::os::unix::fs::PermissionsExt;

use p12_keystore::{KeyStore, KeyStoreEntry};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::*;
use crate::tls::material::{Material, Trust};
use crate::tls::testing::{Authority, Provisioned, Validity};

const JAVA_CSR: &[u8] = include_bytes!("../../../tests/data/tls/java-host.csr");
const KEY: &str = include_str!("../../../tests/data/tls/host-key.pkcs8.pem");
const OTHER_KEY_PKCS1: &str = include_str!("../../../tests/data/tls/other-key.pkcs1.pem");
const PASSPHRASE: &str = "k3y store pass";

/// A directory as it is after `setup_keystore`, without the seconds that takes.
fn requested() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(PENDING_KEY_FILE), KEY).unwrap();
    dir
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn requested_addresses(request: &X509CertificationRequest<'_>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for extension in request.requested_extensions().unwrap() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            for name in &names.general_names {
                let GeneralName::IPAddress(bytes) = name else { panic!("{name:?}") };
                found.push(bytes.to_vec());
            }
        }
    }
    found
}

#[test]
fn request_has_the_shape_of_the_java_agents() {
    let dir = tempfile::tempdir().unwrap();
    let all = ["127.0.0.1", "10.99.0.2", "169.254.0.1", "::1", "fe80::1"].map(|a| a.parse().unwrap());
    let CsrPem(text) = setup_keystore(dir.path(), "vm", &all).unwrap();
    assert!(text.starts_with("-----BEGIN NEW CERTIFICATE REQUEST-----\n"), "{text}");
    assert!(text.ends_with("-----END NEW CERTIFICATE REQUEST-----\n"), "{text}");
    assert_eq!(fs::read_to_string(dir.path().join(REQUEST_FILE)).unwrap(), text);

    let plain = |text: &str| text.replace("NEW CERTIFICATE REQUEST", "CERTIFICATE REQUEST");
    let ours = CertificateSigningRequestDer::from_pem_slice(plain(&text).as_bytes()).unwrap();
    let java = plain(std::str::from_utf8(JAVA_CSR).unwrap());
    let java = CertificateSigningRequestDer::from_pem_slice(java.as_bytes()).unwrap();
    let (_, ours) = X509CertificationRequest::from_der(&ours).unwrap();
    let (_, java) = X509CertificationRequest::from_der(&java).unwrap();
    let (mine, theirs) = (&ours.certification_request_info, &java.certification_request_info);
    assert_eq!(mine.subject.as_raw(), theirs.subject.as_raw());
    assert_eq!(mine.subject_pki.algorithm, theirs.subject_pki.algorithm);
    assert_eq!(
        mine.subject_pki.subject_public_key.data.len(),
        theirs.subject_pki.subject_public_key.data.len()
    );
    assert_eq!(ours.signature_algorithm, java.signature_algorithm);
    assert_eq!(requested_addresses(&ours), requested_addresses(&java));
}

#[test]
fn the_key_in_use_survives_a_request() {
    let host = Provisioned::by(&Authority::new("ours"));
    let before = Material::load(host.dir()).unwrap().summary().unwrap();
    setup_keystore(host.dir(), "host1.example", &[]).unwrap();
    assert_eq!(Material::load(host.dir()).unwrap().summary().unwrap(), before);
    assert_eq!(mode(&host.dir().join(PENDING_KEY_FILE)), 0o600);
    assert_eq!(mode(&host.dir().join(REQUEST_FILE)), 0o600);
}

#[test]
fn unfit_host_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", "two words", "line\nbreak", &"a".repeat(MAX_HOSTNAME + 1)] {
        assert!(
            matches!(setup_keystore(dir.path(), name, &[]), Err(ProvisionError::Hostname(_))),
            "{name:?}"
        );
    }
    assert_eq!(names(dir.path()), [] as [String; 0]);
}

#[test]
fn certificate_for_the_pending_key_is_installed() {
    let (dir, authority) = (requested(), Authority::new("ours"));
    let leaf = authority.issue_to(KEY);
    let installed =
        install_certificate(dir.path(), &leaf.pem, &authority.pem(), Some(""), PASSPHRASE).unwrap();
    assert_eq!(installed.authorities, 1);
    assert_eq!(names(dir.path()), [CA_FILE, CERTIFICATE_FILE, KEYSTORE_FILE, KEY_FILE]);
    for (file, expected) in
        [(CA_FILE, 0o640), (CERTIFICATE_FILE, 0o640), (KEY_FILE, 0o640), (KEYSTORE_FILE, 0o600)]
    {
        assert_eq!(mode(&dir.path().join(file)), expected, "{file}");
    }
    let material = Material::load(dir.path()).unwrap();
    assert_eq!(material.trust(), &Trust::Authorities(vec![authority.der()]));
    assert_eq!(material.summary().unwrap(), installed.certificate);
    assert_eq!(material.notes(), [] as [String; 0]);
    // A repeated command, after its answer got lost.
    install_certificate(dir.path(), &leaf.pem, &authority.pem(), None, PASSPHRASE).unwrap();
}

#[test]
fn given_keys_are_taken_in_pkcs8_and_pkcs1() {
    let authority = Authority::new("ours");
    let pkcs8 =
        rsa::RsaPrivateKey::from_pkcs1_pem(OTHER_KEY_PKCS1).unwrap().to_pkcs8_pem(LineEnding::LF).unwrap();
    for (given, for_rcgen) in [(KEY, KEY), (OTHER_KEY_PKCS1, pkcs8.as_str())] {
        let dir = tempfile::tempdir().unwrap();
        let leaf = authority.issue_to(for_rcgen);
        install_certificate(dir.path(), &leaf.pem, &authority.pem(), Some(given), PASSPHRASE).unwrap();
        assert!(Material::load(dir.path()).unwrap().identity().is_some());
        assert_eq!(fs::read_to_string(dir.path().join(KEY_FILE)).unwrap(), given);
    }
}

#[test]
fn nothing_is_touched_when_the_parts_do_not_fit() {
    let (authority, other) = (Authority::new("ours"), Authority::new("other"));
    let fitting = authority.issue_to(KEY).pem;
    let foreign = authority.issue("host", Validity::Current).pem;
    type Case<'a> = (&'a str, String, Option<&'a str>, &'a str);
    let cases: [Case<'_>; 6] = [
        (&foreign, authority.pem(), None, "another key"),
        (&fitting, other.pem(), None, "not issued by"),
        ("junk", authority.pem(), None, "certificate sent by the server cannot be used"),
        (&fitting, "junk".to_owned(), None, "CA certificates sent by the server"),
        (&fitting, authority.pem(), Some("junk"), "private key sent by the server"),
        (&fitting, authority.pem(), Some(OTHER_KEY_PKCS1), "another key"),
    ];
    for (certificate, ca, key, expected) in cases {
        let dir = requested();
        let error = install_certificate(dir.path(), certificate, &ca, key, PASSPHRASE).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(names(dir.path()), [PENDING_KEY_FILE]);
    }
    let dir = requested();
    let error = install_certificate(dir.path(), &fitting, &authority.pem(), None, "").unwrap_err();
    assert!(matches!(error, ProvisionError::NoPassphrase));
    assert_eq!(names(dir.path()), [PENDING_KEY_FILE]);
}

#[test]
fn an_installation_that_stops_anywhere_leaves_an_identity() {
    let authority = Authority::new("ours");
    for blocked in [CERTIFICATE_FILE, KEY_FILE, CA_FILE, KEYSTORE_FILE] {
        let host = Provisioned::by(&authority);
        fs::write(host.dir().join(PENDING_KEY_FILE), KEY).unwrap();
        // The file lies behind a link under a name so long that no temporary name fits beside it:
        // exactly this write fails, also for root.
        let (name, long) = (host.dir().join(blocked), host.dir().join(blocked.to_owned() + &"x".repeat(240)));
        fs::write(&long, fs::read(&name).unwrap_or_default()).unwrap();
        let _ = fs::remove_file(&name);
        std::os::unix::fs::symlink(&long, &name).unwrap();
        let leaf = authority.issue_to(KEY);
        let error =
            install_certificate(host.dir(), &leaf.pem, &authority.pem(), None, PASSPHRASE).unwrap_err();
        assert!(error.to_string().contains(blocked), "{error}");
        let material = Material::load(host.dir()).unwrap();
        assert!(material.identity().is_some(), "{blocked}: {:?}", material.notes());
    }
}

#[test]
fn keystore_holds_key_and_authorities() {
    let (dir, one, two) = (requested(), Authority::new("one"), Authority::new("two"));
    let leaf = one.issue_to(KEY);
    install_certificate(dir.path(), &leaf.pem, &(one.pem() + &two.pem()), None, PASSPHRASE).unwrap();
    let bytes = fs::read(dir.path().join(KEYSTORE_FILE)).unwrap();
    let store = KeyStore::from_pkcs12(&bytes, PASSPHRASE).unwrap();
    let Some(KeyStoreEntry::PrivateKeyChain(entry)) = store.entry("cloud") else { panic!("no key") };
    assert_eq!(entry.chain()[0].as_der(), leaf.certificate.as_ref());
    assert_eq!(entry.key(), PrivatePkcs8KeyDer::from_pem_slice(KEY.as_bytes()).unwrap().secret_pkcs8_der());
    for (alias, authority) in [("cloudca.1", &one), ("cloudca.2", &two)] {
        let Some(KeyStoreEntry::Certificate(entry)) = store.entry(alias) else { panic!("no {alias}") };
        assert_eq!(entry.as_der(), authority.der().as_ref());
    }
    assert!(KeyStore::from_pkcs12(&bytes, "wrong").is_err());
}

/// What the Java agent would see, asked from Java itself where it is installed; the layout is asserted
/// without it in `keystore_holds_key_and_authorities`.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test may start keytool itself")]
fn keytool_lists_the_entries_under_the_type_name_java_asks_for() {
    if !Path::new("/usr/bin/keytool").exists() {
        return;
    }
    let (dir, authority) = (requested(), Authority::new("ours"));
    let leaf = authority.issue_to(KEY);
    install_certificate(dir.path(), &leaf.pem, &authority.pem(), None, PASSPHRASE).unwrap();
    let output = std::process::Command::new("/usr/bin/keytool")
        .args(["-J-Duser.language=en", "-list", "-storetype", "JKS", "-storepass", PASSPHRASE, "-keystore"])
        .arg(dir.path().join(KEYSTORE_FILE))
        .output()
        .unwrap();
    let listing = String::from_utf8_lossy(&output.stdout);
    let has = |alias: &str, kind: &str| {
        listing.lines().any(|line| line.starts_with(&format!("{alias},")) && line.contains(kind))
    };
    assert!(has("cloud", "PrivateKeyEntry") && has("cloudca.1", "trustedCertEntry"), "{listing}");
}
