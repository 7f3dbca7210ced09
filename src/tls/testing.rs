//! Authorities, hosts and servers for the tests of this folder. ECDSA keys: RSA ones take seconds.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rsa::RsaPrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use time::{Duration, OffsetDateTime};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoClientAuth, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion, version,
};

use super::client::{client_config, provider};
use super::material::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, Material};

#[derive(Clone, Copy)]
pub(crate) enum Validity {
    Past,
    Current,
    Future,
}

/// A certificate with its key.
pub(crate) struct Leaf {
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    pub key: KeyPair,
}

/// A certificate authority shaped like the built-in one of the server.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::valid(name, Validity::Current)
    }

    pub fn valid(name: &str, validity: Validity) -> Self {
        let mut params = params(name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { params, key, certificate }
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub fn subject_der(&self) -> Vec<u8> {
        super::certificate::parse(&self.der()).unwrap().subject().as_raw().to_vec()
    }

    /// The same name and key in another certificate.
    pub fn reissued(&self) -> CertificateDer<'static> {
        let mut params = self.params.clone();
        params.serial_number = Some(SerialNumber::from(4_711u64));
        params.self_signed(&self.key).unwrap().der().clone()
    }

    /// The CA certificate itself, as the built-in CA plugin presents it on port 8250.
    pub fn as_leaf(&self) -> Leaf {
        let key = KeyPair::from_pem(&self.key.serialize_pem()).unwrap();
        Leaf { certificate: self.der(), pem: self.pem(), key }
    }

    pub fn issue(&self, name: &str, validity: Validity) -> Leaf {
        self.sign(&params(name, validity), KeyPair::generate().unwrap())
    }

    pub fn issue_for_clients(&self, name: &str) -> Leaf {
        let mut params = params(name, Validity::Current);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, KeyPair::generate().unwrap())
    }

    /// A certificate for the public half of a PKCS#8 private key.
    pub fn issue_to(&self, key_pem: &str) -> Leaf {
        self.sign(&params("host", Validity::Current), KeyPair::from_pem(key_pem).unwrap())
    }

    fn sign(&self, params: &CertificateParams, key: KeyPair) -> Leaf {
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        Leaf { certificate: certificate.der().clone(), pem: certificate.pem(), key }
    }
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let offset = Duration::days(match validity {
        Validity::Past => -20,
        Validity::Current => 0,
        Validity::Future => 20,
    });
    let now = OffsetDateTime::now_utc();
    params.not_before = now + offset - Duration::days(5);
    params.not_after = now + offset + Duration::days(5);
    params
}

/// A configuration directory of a host.
pub(crate) struct Provisioned {
    dir: tempfile::TempDir,
}

impl Provisioned {
    pub fn by(authority: &Authority) -> Self {
        let host = Self::trusting_only(authority);
        let leaf = authority.issue("host", Validity::Current);
        fs::write(host.dir().join(CERTIFICATE_FILE), &leaf.pem).unwrap();
        fs::write(host.dir().join(KEY_FILE), leaf.key.serialize_pem()).unwrap();
        host
    }

    pub fn trusting_only(authority: &Authority) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CA_FILE), authority.pem()).unwrap();
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

pub(crate) fn other_key_pem() -> String {
    KeyPair::generate().unwrap().serialize_pem()
}

/// A self-signed X.509 version 1 certificate with its RSA key.
pub(crate) fn version_1_ca() -> Leaf {
    let pem = include_str!("../../tests/data/tls/v1-ca.crt").to_owned();
    let certificate = super::certificate::from_pem(pem.as_bytes()).unwrap().remove(0);
    let key = KeyPair::from_pem(include_str!("../../tests/data/tls/host-key.pkcs8.pem")).unwrap();
    Leaf { certificate, pem, key }
}

pub(crate) fn other_rsa_key() -> KeyPair {
    let pkcs1 = include_str!("../../tests/data/tls/other-key.pkcs1.pem");
    let key = RsaPrivateKey::from_pkcs1_pem(pkcs1).unwrap().to_pkcs8_pem(LineEnding::LF).unwrap();
    KeyPair::from_pem(&key).unwrap()
}

pub(crate) enum ClientAuth<'a> {
    None,
    RequiredFrom(&'a Authority),
}

pub(crate) fn server_config(leaf: Leaf, auth: ClientAuth<'_>) -> ServerConfig {
    server_config_for(&[&version::TLS12], leaf, auth)
}

pub(crate) fn server_config_for(
    versions: &[&'static SupportedProtocolVersion],
    leaf: Leaf,
    auth: ClientAuth<'_>,
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let builder = match auth {
        ClientAuth::None => builder.with_client_cert_verifier(Arc::new(NoClientAuth)),
        ClientAuth::RequiredFrom(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    // Through a resolver, which takes any certificate: old ones, and ones that do not fit the key.
    let certified = CertifiedKey::new(vec![leaf.certificate], key);
    builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
}

pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// Client and server after a handshake in memory.
pub(crate) fn connected_pair(authority: &Authority) -> (Connection, Connection) {
    let host = Provisioned::by(authority);
    let config: Arc<ClientConfig> = client_config(&Material::load(host.dir()).unwrap()).unwrap();
    let name = "server.example".try_into().unwrap();
    let mut client = Connection::from(ClientConnection::new(config, name).unwrap());
    let config = Arc::new(server_config(authority.as_leaf(), ClientAuth::None));
    let mut server = Connection::from(ServerConnection::new(config).unwrap());
    while client.is_handshaking() || server.is_handshaking() {
        transfer(&mut client, &mut server);
        transfer(&mut server, &mut client);
    }
    (client, server)
}

fn transfer(from: &mut Connection, to: &mut Connection) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().unwrap();
    }
}
