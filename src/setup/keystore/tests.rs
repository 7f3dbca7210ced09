use super::*;
use crate::setup::testing::Scratch;
use crate::tls::Material;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

const DIRECTORY: &str = "etc/cloudstack/agent";

fn path(file: &str) -> PathBuf {
    Path::new("/").join(DIRECTORY).join(file)
}

fn setup_request(passphrase: &str) -> SetupRequest {
    SetupRequest {
        properties: path("agent.properties"),
        keystore: path("cloud.jks"),
        passphrase: Secret::new(passphrase),
        csr: path("cloud.csr"),
    }
}

/// As a management server writes it into a command line.
fn encoded(pem: &str) -> String {
    pem.replace('\n', "^").replace(' ', "~")
}

fn import_request(certificate: &str, ca: &str) -> ImportRequest {
    ImportRequest {
        properties: path("agent.properties"),
        keystore: path("cloud.jks"),
        certificate_file: path("cloud.crt"),
        certificate: encoded(certificate),
        ca_file: path("cloud.ca.crt"),
        ca: encoded(ca),
        key_file: path("cloud.key"),
        key: Secret::new(""),
    }
}

/// What a server does with a request: certificate and CA, in PEM.
fn signed(host: &Scratch) -> (String, String) {
    let requested = KeyPair::from_pem(&host.read(&format!("{DIRECTORY}/cloud.key.new"))).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(DnType::CommonName, "ca");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = authority.self_signed(&key).unwrap().pem();
    let certificate = CertificateParams::new(vec!["vm".into()]).unwrap();
    (certificate.signed_by(&requested, &Issuer::new(authority, key)).unwrap().pem(), ca)
}

fn mode(host: &Scratch, file: &str) -> u32 {
    let metadata = fs::metadata(host.path(&format!("{DIRECTORY}/{file}"))).unwrap();
    metadata.permissions().mode() & 0o777
}

#[tokio::test]
async fn a_host_gets_its_certificate_and_libvirt_uses_it() {
    let host = Scratch::ubuntu();
    let csr = setup(&host.root(), &setup_request("canary7c1")).await.unwrap();
    assert!(csr.starts_with("-----BEGIN NEW CERTIFICATE REQUEST-----\n"), "{csr}");
    assert_eq!(host.read(&format!("{DIRECTORY}/cloud.csr")), csr);
    let properties = host.read(&format!("{DIRECTORY}/agent.properties"));
    assert!(properties.ends_with("\nkeystore.passphrase=canary7c1\n"), "{properties}");
    assert_eq!((mode(&host, "agent.properties"), mode(&host, "cloud.csr")), (0o600, 0o600));

    let (certificate, ca) = signed(&host);
    let imported = import(&host.root(), &import_request(&certificate, &ca)).await.unwrap();
    assert_eq!(imported.installed.authorities, 1);
    let material = Material::load(&host.path(DIRECTORY)).unwrap();
    assert!(material.identity().is_some(), "{:?}", material.notes());
    assert_eq!(["cloud.jks", "cloud.key", "cloud.crt"].map(|file| mode(&host, file)), [0o600, 0o640, 0o640]);
    if rustix::process::geteuid().is_root() {
        assert!(imported.libvirt.is_none() && imported.problems.is_empty(), "{imported:?}");
        assert!(host.read("etc/libvirt/libvirtd.conf").contains("\nlisten_tls=1\n"));
        assert!(host.calls().contains(&"systemctl restart libvirtd.service".to_owned()));
        // Renewed: nothing to edit, but libvirt has to read the new files.
        setup(&host.root(), &setup_request("ignored")).await.unwrap();
        let (certificate, ca) = signed(&host);
        import(&host.root(), &import_request(&certificate, &ca)).await.unwrap();
        assert_eq!(host.calls(), ["systemctl restart libvirtd.service"]);
    }
}

#[tokio::test]
async fn a_given_key_and_files_already_written_are_taken() {
    let host = Scratch::bare();
    host.write(&format!("{DIRECTORY}/agent.properties"), "keystore.passphrase=old\n");
    setup(&host.root(), &setup_request("new")).await.unwrap();
    let (certificate, ca) = signed(&host);
    let key = host.read(&format!("{DIRECTORY}/cloud.key.new"));
    fs::remove_file(host.path(&format!("{DIRECTORY}/cloud.key.new"))).unwrap();
    host.write(&format!("{DIRECTORY}/cloud.crt"), &certificate);
    let mut request = import_request("", &ca);
    request.key = Secret::new(encoded(&key));
    import(&host.root(), &request).await.unwrap();
    assert_eq!(host.read(&format!("{DIRECTORY}/cloud.key")), key);
    assert_eq!(host.read(&format!("{DIRECTORY}/cloud.ca.crt")), ca);
    assert_eq!(host.read(&format!("{DIRECTORY}/agent.properties")), "keystore.passphrase=old\n");
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing() {
    let host = Scratch::bare();
    for bad in ["", "a b", "$(id)", "x\ny"] {
        let error = setup(&host.root(), &setup_request(bad)).await.unwrap_err();
        assert!(matches!(error, KeystoreError::Passphrase), "{error:?}");
    }
    let error = import(&host.root(), &import_request("x", "y")).await.unwrap_err();
    assert!(matches!(error, KeystoreError::NoPassphrase(_)), "{error:?}");
    assert_eq!(host.snapshot(), []);

    let mut odd = setup_request("plain");
    odd.csr = path("other.csr");
    let error = setup(&host.root(), &odd).await.unwrap_err();
    assert!(matches!(error, KeystoreError::FileName { name: "cloud.csr", .. }), "{error:?}");
    odd.csr = PathBuf::from("/tmp/cloud.csr");
    let error = setup(&host.root(), &odd).await.unwrap_err();
    assert!(matches!(error, KeystoreError::OtherDirectory(_)), "{error:?}");

    host.write(&format!("{DIRECTORY}/agent.properties"), "keystore.passphrase=old\n");
    let error = import(&host.root(), &import_request("", "")).await.unwrap_err();
    assert!(matches!(error, KeystoreError::NoText(_)), "{error:?}");
    let error = import(&host.root(), &import_request("nonsense", "nonsense")).await.unwrap_err();
    assert!(matches!(error, KeystoreError::Provision(_)), "{error:?}");
    assert_eq!(host.snapshot().len(), 1);
}

#[test]
fn groups_are_found_by_their_whole_name() {
    let groups = "root:x:0:\nkvm:x:108:\nlibvirt-qemu:x:64055:libvirt-qemu\n";
    assert_eq!(group_id(groups, "libvirt-qemu"), Some(64055));
    assert_eq!(group_id(groups, "libvirt"), None);
}
