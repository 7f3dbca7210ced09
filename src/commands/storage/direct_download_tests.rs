//! Tests of the four direct downloads, from the wire to the volume.

use super::*;
use crate::commands::testing::Bench;
use serde_json::{Value, json};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const POOL: &str = "5f8a1c1e-9d2b-4d6f-8a83-0c1d2e3f4a5b";

/// A host with one pool of files, which is a real directory.
async fn host(pool: &Path) -> Bench {
    let node = format!(
        "<node><cpu><mhz>1</mhz><model>x86_64</model><active>1</active><nodes>1</nodes><sockets>1</sockets>\
         <cores>1</cores><threads>1</threads></cpu><memory>1024</memory><pool type='dir'><name>images</name>\
         <uuid>{POOL}</uuid><target><path>{}</path></target></pool></node>",
        pool.display()
    );
    let bench = Bench::with_node(&node).await;
    let properties = format!("{}\n{LOCATION}={}\n", bench.properties(), pool.display());
    std::fs::write(bench.dir().join("agent.properties"), properties).unwrap();
    bench.ctx.services.config.reload().await;
    bench
}

/// Answers each request with one file.
async fn serve(file: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/t", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len());
            let _ = stream.write_all(&[head.as_bytes(), &file].concat()).await;
        }
    });
    url
}

fn class(kind: &str) -> String {
    format!("org.apache.cloudstack.agent.directdownload.{kind}DirectDownloadCommand")
}

fn command(url: &str, format: &str, pool_type: &str) -> Value {
    json!({"url": url, "templateId": 210, "destPool": {"uuid": POOL, "poolType": pool_type, "path": "/x"},
        "headers": {}, "connectTimeout": 5000, "soTimeout": 5000, "format": format, "followRedirects": false})
}

#[tokio::test]
async fn a_template_lands_in_its_pool() {
    let pool = tempfile::tempdir().unwrap();
    let mut bench = host(pool.path()).await;
    let url = serve(b"content".to_vec()).await;
    for kind in ["Http", "Https"] {
        let (answer, fields) = bench.answer(&class(kind), command(&url, "ISO", "Filesystem")).await;
        assert_eq!(answer, ANSWER);
        assert_eq!((&fields["result"], &fields["templateSize"]), (&json!(true), &json!(7)), "{fields}");
        assert_eq!(fields["retryOnOtherHosts"], false);
        let name = fields["installPath"].as_str().unwrap();
        assert!(name.ends_with(".iso"));
        assert_eq!(std::fs::read(pool.path().join(name)).unwrap(), b"content");
    }
}

#[tokio::test]
async fn failures_say_whether_another_host_may_help() {
    let pool = tempfile::tempdir().unwrap();
    let mut bench = host(pool.path()).await;
    let url = serve(b"content".to_vec()).await;
    let mut wrong = command(&url, "ISO", "Filesystem");
    wrong["checksum"] = json!("0".repeat(32));
    let mut lost = command(&url, "ISO", "Filesystem");
    lost["destPool"]["uuid"] = json!("00000000-0000-0000-0000-000000000000");
    for (kind, command, retry, text) in [
        ("Http", command(&url, "QCOW2", "Filesystem"), true, "The downloaded file is not a valid QCOW2."),
        (
            "Http",
            command("http://127.0.0.1:1/t", "ISO", "SharedMountPoint"),
            true,
            "Unable to download template",
        ),
        ("Http", wrong, false, "Checksum validation failed"),
        ("Http", lost, true, "00000000"),
        ("Http", command(&url, "ISO", "RBD"), false, "\"RBD\""),
        ("Metalink", command(&url, "ISO", "Filesystem"), true, "is not a metalink file"),
        ("Nfs", command("nfs://127.0.0.1/none/t", "ISO", "NetworkFilesystem"), true, "cannot mount"),
        ("Nfs", command("nfs://", "ISO", "NetworkFilesystem"), true, "Unable to create direct downloader"),
    ] {
        let (answer, fields) = bench.answer(&class(kind), command).await;
        assert_eq!(answer, ANSWER);
        assert_eq!(
            (&fields["result"], &fields["retryOnOtherHosts"]),
            (&json!(false), &json!(retry)),
            "{fields}"
        );
        assert_eq!(fields["templateSize"], 0);
        assert!(fields["details"].as_str().unwrap().contains(text), "{fields}");
        assert_eq!(std::fs::read_dir(pool.path()).unwrap().count(), 0, "{text}");
    }
}

#[test]
fn credentials_are_not_shown() {
    let fields = json!({"url": "http://u:canary@h/t", "headers": {"Authorization": "canary"}});
    let command: DirectDownload = serde_json::from_value(fields).unwrap();
    assert!(!format!("{command:?}").contains("canary"));
}

#[test]
fn timeouts_are_milliseconds_with_the_default_of_the_java_agent() {
    assert_eq!(timeout(Some(100)), Duration::from_millis(100));
    for none in [None, Some(0), Some(-1)] {
        assert_eq!(timeout(none), Duration::from_secs(5));
    }
}
