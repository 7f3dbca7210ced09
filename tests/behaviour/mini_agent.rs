//! The smallest thing that can register: enough to test the simulator, and to misbehave on demand.

use crate::golden;
use cloudstack_agent::sim::Pki;
use cloudstack_agent::wire::frame::{self, FrameDecoder, MessageAssembler};
use cloudstack_agent::wire::{Element, Flags, Header, Message};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    SupportedProtocolVersion,
};

pub const LIMIT: Duration = Duration::from_secs(20);

/// Accepts exactly one certificate as the server's.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.0 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = ring::default_provider().signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, dss, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = ring::default_provider().signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, dss, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// TLS settings of a client that trusts `pki` only, with `identity` as its certificate.
pub fn tls(
    pki: &Pki,
    version: &'static SupportedProtocolVersion,
    identity: Option<&cloudstack_agent::sim::Identity>,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(pki.ca_der())));
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    })
}

pub struct MiniAgent {
    pub tcp: TcpStream,
    tls: ClientConnection,
    frames: FrameDecoder,
    assembler: MessageAssembler,
    sequence: i64,
    pub guid: String,
}

impl MiniAgent {
    pub async fn dial(address: SocketAddr, tls: Arc<ClientConfig>) -> std::io::Result<MiniAgent> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("management.example").unwrap();
        let stream = TlsConnector::from(tls).connect(name, tcp).await?;
        let (tcp, tls) = stream.into_inner();
        Ok(MiniAgent {
            tcp,
            tls,
            frames: FrameDecoder::default(),
            assembler: MessageAssembler::default(),
            sequence: 0,
            guid: "0-LibvirtComputingResource".to_owned(),
        })
    }

    pub async fn put(&mut self, bytes: &[u8]) {
        let chunks = bytes.len().div_ceil(16_384);
        for (n, chunk) in bytes.chunks(16_384).enumerate() {
            self.tls.writer().write_all(chunk).unwrap();
            let mut record = Vec::new();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut record).unwrap();
            }
            let mut framed = frame::header(record.len(), n + 1 < chunks).to_vec();
            framed.extend(record);
            self.tcp.write_all(&framed).await.unwrap();
        }
    }

    pub async fn request(&mut self, elements: Vec<Element>, host_id: Option<i64>, flags: Flags) {
        let header = Header::request(self.sequence, host_id, flags);
        self.sequence += 1;
        self.put(&Message { header, elements }.encode().unwrap()).await;
    }

    /// The next message; `None` once the server closed.
    pub async fn next(&mut self) -> Option<Message> {
        let raw = tokio::time::timeout(LIMIT, self.next_raw()).await.expect("the server stays silent")?;
        Some(Message::decode(&raw).unwrap())
    }

    /// The next message as bytes.
    pub async fn next_raw(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 16_384];
        loop {
            while let Some(frame) = self.frames.next_frame().unwrap() {
                let mut sealed = frame.sealed.as_slice();
                let mut plain = Vec::new();
                while !sealed.is_empty() {
                    self.tls.read_tls(&mut sealed).unwrap();
                    let state = self.tls.process_new_packets().unwrap();
                    let start = plain.len();
                    plain.resize(start + state.plaintext_bytes_to_read(), 0);
                    self.tls.reader().read_exact(&mut plain[start..]).unwrap();
                }
                if let Some(raw) = self.assembler.push(&plain, frame.more).unwrap() {
                    return Some(raw);
                }
            }
            match self.tcp.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.frames.push(&buffer[..n]),
            }
        }
    }

    /// Sends the captured startup request under this agent's guid.
    pub async fn startup(&mut self) {
        let first = golden::captured(golden::REGISTRATION_4_19).remove(0);
        let mut elements = Message::decode(&first.bytes()).unwrap().elements;
        for element in &mut elements {
            let mut fields: Value = element.read().unwrap();
            fields["guid"] = json!(self.guid);
            *element = Element::new(&element.class, &fields).unwrap();
        }
        self.request(elements, None, Flags::default()).await;
    }

    pub async fn ping(&mut self, said: i64) {
        let fields = json!({
            "_hostVmStateReport": {"i-2-3-VM": {"state": "PowerOn", "host": "kvm1"}},
            "_gatewayAccessible": true, "_vnetAccessible": true,
            "hostType": "Routing", "hostId": said, "outOfBand": false,
            "contextMap": {}, "wait": 0, "bypassHostMaintenance": false,
        });
        let ping = Element::new("com.cloud.agent.api.PingRoutingCommand", &fields).unwrap();
        self.request(vec![ping], Some(said), Flags::STOP_ON_ERROR).await;
    }

    /// Answers every command of `request` as a good agent would.
    pub async fn answer(&mut self, request: &Message) {
        let elements = request.elements.iter().map(good_answer).collect();
        let message = Message { header: request.header.response(), elements };
        self.put(&message.encode().unwrap()).await;
    }

    /// Registers and answers until the second ReadyCommand was answered; gives the host id. `None`
    /// if the server closed before.
    pub async fn register(&mut self) -> Option<i64> {
        self.startup().await;
        loop {
            let message = self.next().await?;
            if !message.header.is_request() {
                continue;
            }
            self.answer(&message).await;
            let fields: Value = message.elements[0].read().unwrap();
            if message.elements[0].simple_name() == "ReadyCommand" && fields.get("msHostList").is_some() {
                return fields["hostId"].as_i64();
            }
        }
    }

    /// Like [`MiniAgent::next`], past everything that is not of `class`; commands are answered.
    pub async fn next_of(&mut self, class: &str) -> Option<Message> {
        loop {
            let message = self.next().await?;
            if message.elements[0].simple_name() == class {
                return Some(message);
            }
            if message.header.is_request() {
                self.answer(&message).await;
            }
        }
    }
}

/// An answer with result true of the class that the server expects.
pub fn good_answer(command: &Element) -> Element {
    let class = match command.simple_name() {
        "CheckNetworkCommand" => "CheckNetworkAnswer",
        "ReadyCommand" => "ReadyAnswer",
        "CheckHealthCommand" => "CheckHealthAnswer",
        "GetHostStatsCommand" => "GetHostStatsAnswer",
        "GetStorageStatsCommand" => "GetStorageStatsAnswer",
        _ => "Answer",
    };
    answer(class, json!({"result": true}))
}

/// An answer of `class` with the common tail.
pub fn answer(class: &str, mut fields: Value) -> Element {
    fields["contextMap"] = json!({});
    fields["wait"] = json!(0);
    fields["bypassHostMaintenance"] = json!(false);
    Element::new(&format!("com.cloud.agent.api.{class}"), &fields).unwrap()
}
