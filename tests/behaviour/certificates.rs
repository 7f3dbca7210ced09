//! Provisioned hosts: both sides know each other, and a new certificate is taken over in one clean
//! change of connections.

use crate::harness::{LIMIT, Node, all, closed, command, config, connections, flawless, ready, seen};
use cloudstack_agent::sim::{
    ClientCertificate, Ending, KeyKind, Pki, Script, SimConfig, SimEvent, SimServer, Status, Validity,
};
use cloudstack_agent::wire::{Element, Flags};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const HERE: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)];
const PASSPHRASE: &str = "canary4711";

async fn strict_server(pki: &Arc<Pki>) -> SimServer {
    let settings = SimConfig {
        pki: Some(Arc::clone(pki)),
        client_certificate: ClientCertificate::Need,
        ..config(Script::default())
    };
    SimServer::start(settings).await.unwrap()
}

/// A host without the marks that `--status` warns about.
fn tidy_node(server: &SimServer) -> Node {
    let node = Node::new(server.address());
    let text: String = node
        .properties()
        .lines()
        .filter(|line| !line.starts_with("own.key"))
        .map(|l| format!("{l}\n"))
        .collect();
    node.write(&text);
    node
}

#[tokio::test]
async fn a_provisioned_host_is_healthy() {
    for kind in [KeyKind::Rsa, KeyKind::Ecdsa] {
        let pki = Arc::new(Pki::new(kind).unwrap());
        let server = strict_server(&pki).await;
        let mut node = tidy_node(&server);
        let own = pki.issue("kvm1", &HERE, Validity::Days(365)).unwrap();
        pki.provision(&node.config_dir(), &own).unwrap();
        node.start();
        ready(&server, 1).await;
        let session = node.is_registered().await.session;
        assert!(!session.unverified_tls);
        let shown = seen(&server, |event| matches!(event, SimEvent::Handshake(_))).await.event;
        assert!(
            matches!(&shown, SimEvent::Handshake(a) if a.client_certificate && a.protocol == "TLSv1_2"),
            "{shown}"
        );
        let certified = node.wait_for("the certificate", |status| status.certificate.is_some()).await;
        let certificate = certified.certificate.unwrap();
        assert_eq!(certificate.subject, "CN=kvm1");
        assert!((363..=365).contains(&certificate.days_left), "{}", certificate.days_left);
        let run = node.ask(&["--json"]).await;
        assert_eq!(run.code, 0, "{}", run.stdout);
        assert_eq!(node.stop().await, Some(0));
        flawless(&server);
    }
}

#[tokio::test]
async fn an_expired_certificate_is_told() {
    let pki = Arc::new(Pki::new(KeyKind::Ecdsa).unwrap());
    let server = strict_server(&pki).await;
    let mut node = tidy_node(&server);
    let old = pki.issue("kvm1", &HERE, Validity::Expired).unwrap();
    pki.provision(&node.config_dir(), &old).unwrap();
    node.start();
    let failed = node.wait_for("a failure", |status| status.session.last_error.is_some()).await.session;
    let text = format!("{}: {}", failed.last_error.unwrap(), failed.remedy.unwrap());
    assert!(text.contains("certificate") && text.contains("provision"), "{text}");
    // Corrected on disk: the next attempt reads the files again.
    let new = pki.issue("kvm1", &HERE, Validity::Days(90)).unwrap();
    pki.provision(&node.config_dir(), &new).unwrap();
    ready(&server, 1).await;
    flawless(&server);
}

async fn ask(server: &SimServer, command: Element) -> Value {
    let waiting = server.send(1, vec![command], Flags::STOP_ON_ERROR);
    let answers = tokio::time::timeout(LIMIT, waiting).await.expect("no answer").unwrap();
    assert_eq!(answers.elements.len(), 1);
    let fields: Value = answers.elements[0].read().unwrap();
    json!({"class": answers.elements[0].class, "fields": fields})
}

#[tokio::test]
async fn a_new_certificate_is_taken_over_in_one_clean_change() {
    let pki = Arc::new(Pki::new(KeyKind::Ecdsa).unwrap());
    let settings = SimConfig { pki: Some(Arc::clone(&pki)), ..config(Script::default()) };
    let server = SimServer::start(settings).await.unwrap();
    let mut node = Node::registered(&server).await;
    let pid = node.pid();
    let package = "org.apache.cloudstack.ca.";

    let fields = json!({"validityDays": 365, "keystorePassword": PASSPHRASE, "handleByAgent": true,
        "accessDetails": {}, "wait": 60});
    let made = ask(&server, command(&format!("{package}SetupKeyStoreCommand"), fields)).await;
    assert_eq!(made["class"], format!("{package}SetupKeystoreAnswer"));
    assert_eq!(made["fields"]["result"], true, "{made}");
    let request = made["fields"]["csr"].as_str().unwrap();
    let certificate = pki.sign(request, Validity::Days(365)).unwrap();

    let fields = json!({"certificate": certificate, "privateKey": "", "caCertificates": pki.ca_pem(),
        "handleByAgent": true, "accessDetails": {}, "wait": 60});
    let installed = ask(&server, command(&format!("{package}SetupCertificateCommand"), fields)).await;
    assert_eq!(installed["class"], format!("{package}SetupCertificateAnswer"));
    assert_eq!(installed["fields"]["result"], true, "{installed}");
    for (file, mode) in
        [("cloud.key", 0o640), ("cloud.crt", 0o644), ("cloud.ca.crt", 0o644), ("cloud.jks", 0o600)]
    {
        let metadata = std::fs::metadata(node.config_dir().join(file)).unwrap();
        assert!(metadata.len() > 0, "{file} is empty");
        assert_eq!(metadata.permissions().mode() & 0o777 & !mode, 0, "{file} is too open");
    }
    assert_eq!(node.value("keystore.passphrase").as_deref(), Some(PASSPHRASE));

    ready(&server, 2).await;
    let goodbye = seen(&server, |event| matches!(event, SimEvent::Shutdown { .. })).await;
    let SimEvent::Shutdown { reason, detail } = &goodbye.event else { unreachable!() };
    assert_eq!((goodbye.connection, reason.as_str()), (1, "sig.kill"));
    assert_eq!(detail.as_deref(), Some("Restarting due to new X509 certificates"));
    assert!(matches!(closed(&server, 1).await.event, SimEvent::Closed { by: Ending::Shutdown, .. }));
    use Status::{Connecting, Disconnected, Up};
    assert_eq!(server.hosts()[0].history(), [Connecting, Up, Disconnected, Connecting, Up]);

    let shown: Vec<bool> = all(&server, |event| matches!(event, SimEvent::Handshake(_)))
        .into_iter()
        .map(|recorded| matches!(recorded.event, SimEvent::Handshake(agreed) if agreed.client_certificate))
        .collect();
    assert_eq!(shown, [false, true], "the new connection shows the new certificate");
    let status = node.is_registered().await;
    assert!(!status.session.unverified_tls);
    assert_eq!((node.pid(), connections(&server)), (pid, 2));

    let log: String = node.log().iter().map(|line| format!("{}\n", line.fields)).collect();
    let page = node.ask(&["--json"]).await.stdout;
    for secret in [PASSPHRASE, "PRIVATE KEY"] {
        assert!(!log.contains(secret) && !page.contains(secret), "a secret is shown");
    }
    // Neither two registrations at once nor a hasty return nor an answer of a wrong class.
    flawless(&server);
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_changes_nothing() {
    let pki = Arc::new(Pki::new(KeyKind::Ecdsa).unwrap());
    let server = strict_server(&pki).await;
    let mut node = tidy_node(&server);
    let own = pki.issue("kvm1", &HERE, Validity::Days(365)).unwrap();
    pki.provision(&node.config_dir(), &own).unwrap();
    node.set("keystore.passphrase", PASSPHRASE);
    node.start();
    ready(&server, 1).await;
    let other = pki.issue("kvm1", &HERE, Validity::Days(365)).unwrap();
    let fields = json!({"certificate": other.certificate, "privateKey": "", "caCertificates": pki.ca_pem(),
        "handleByAgent": true, "accessDetails": {}});
    let refused = ask(&server, command("org.apache.cloudstack.ca.SetupCertificateCommand", fields)).await;
    assert_eq!(refused["class"], "org.apache.cloudstack.ca.SetupCertificateAnswer");
    assert_eq!(refused["fields"]["result"], false, "{refused}");
    let kept = std::fs::read_to_string(node.config_dir().join("cloud.crt")).unwrap();
    assert_eq!(kept, own.certificate);
    assert_eq!(connections(&server), 1);
    flawless(&server);
}
