//! Downloads from a real server on this machine into real directories. After each failure nothing may
//! be left in either.

mod limits;
mod server;

use super::*;
use crate::errors::chain;
use crate::host::exec::{Program, find_program};
use crate::tls::download as certificates;
use server::{Page, Server};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub struct Place {
    pub temporary: tempfile::TempDir,
    pub pool: tempfile::TempDir,
    store: tempfile::TempDir,
    pub downloads: Downloads,
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

impl Place {
    pub fn new() -> Place {
        let store = tempfile::tempdir().unwrap();
        let downloads = Downloads::new(store.path().to_owned());
        Place {
            temporary: tempfile::tempdir().unwrap(),
            pool: tempfile::tempdir().unwrap(),
            store,
            downloads,
        }
    }

    pub fn request(&self, url: &str) -> Request {
        Request {
            source: Source::Http,
            url: url.to_owned(),
            checksum: String::new(),
            http: HttpSettings {
                connect_timeout: Duration::from_secs(5),
                read_timeout: Duration::from_secs(5),
                follow_redirects: false,
                headers: BTreeMap::new(),
            },
            format: Format::Qcow2,
            template_id: 202,
            temporary: self.temporary.path().to_owned(),
            pool: self.pool.path().to_owned(),
            deadline: Duration::from_secs(60),
        }
    }

    pub fn nothing_is_left(&self) {
        assert_eq!(names(self.temporary.path()), [""; 0], "temporary location");
        assert_eq!(names(self.pool.path()), [""; 0], "pool");
    }

    /// The text of the failure, and whether another host should try.
    pub async fn failure(&self, request: Request) -> (String, bool) {
        let error = self.downloads.fetch(request).await.unwrap_err();
        self.nothing_is_left();
        (chain(&*error), error.retry_on_other_hosts())
    }

    /// The content of the volume, and its name. It is alone in its pool, which is then emptied.
    pub async fn success(&self, request: Request) -> (Fetched, Vec<u8>) {
        let fetched = self.downloads.fetch(request).await.unwrap();
        assert_eq!(names(self.temporary.path()), [""; 0]);
        assert_eq!(names(self.pool.path()), [fetched.name.as_str()]);
        let path = self.pool.path().join(&fetched.name);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o644);
        let content = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        (fetched, content)
    }

    fn check(&self, url: &str, format: Format) -> UrlCheck {
        let request = self.request(url);
        UrlCheck {
            source: if url.ends_with(".metalink") { Source::Metalink } else { Source::Http },
            url: request.url,
            http: request.http,
            format,
            temporary: request.temporary,
            deadline: request.deadline,
        }
    }
}

pub async fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Program::new(find_program(program).unwrap()).args(arguments).run().await.unwrap();
    assert!(output.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// An image made by qemu-img, of 64 MiB for its guest.
pub async fn image(options: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let path = path.to_str().unwrap();
    let arguments = [&["create", "-q", "-f", "qcow2"], options, &[path, "64M"]].concat();
    run("qemu-img", &arguments).await;
    std::fs::read(path).unwrap()
}

async fn packed(program: &str, content: &[u8]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t");
    std::fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap();
    if program == "zip" {
        return run("zip", &["-q", "-j", "-", path]).await;
    }
    run(program, &["-c", path]).await
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let sum = sha2::Sha256::digest(bytes);
    format!("{{SHA-256}}{}", sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[tokio::test]
async fn a_template_arrives_whole_and_named_anew() {
    let image = image(&[]).await;
    let server =
        Server::start([("/t", Page::File(image.clone())), ("/u", Page::Unmeasured(image.clone()))]).await;
    let place = Place::new();
    let mut names = Vec::new();
    for (path, checksum) in [("/t", String::new()), ("/t", sha256(&image)), ("/u", sha256(&image))] {
        let mut request = Request { checksum, ..place.request(&server.url(path)) };
        request.http.headers.insert("X-Token".into(), "abc".into());
        let (fetched, content) = place.success(request).await;
        assert!(content == image);
        assert_eq!(fetched.virtual_size, 64 << 20);
        assert!(fetched.name.parse::<uuid::Uuid>().is_ok());
        names.push(fetched.name);
    }
    names.dedup();
    assert_eq!(names.len(), 3);
    assert!(server.requests().iter().all(|request| request.contains("x-token: abc")));
}

#[tokio::test]
async fn raw_and_iso_are_taken_as_they_are() {
    let content = packed("gzip", b"not an image").await;
    let server = Server::start([("/t", Page::File(content.clone()))]).await;
    let place = Place::new();
    let iso = Request { format: Format::Iso, ..place.request(&server.url("/t")) };
    let (fetched, stored) = place.success(iso).await;
    assert!(fetched.name.ends_with(".iso") && stored == content);
    assert_eq!(fetched.virtual_size, content.len() as u64);
    let raw = Request { format: Format::Raw, ..place.request(&server.url("/t")) };
    let (fetched, stored) = place.success(raw).await;
    assert_eq!((fetched.virtual_size, stored.as_slice()), (12, b"not an image".as_slice()));
}

#[tokio::test]
async fn packed_templates_are_unpacked_and_sized_from_afar() {
    let image = image(&[]).await;
    let place = Place::new();
    for program in ["gzip", "bzip2", "xz", "zip"] {
        let file = packed(program, &image).await;
        let server = Server::start([("/t", Page::File(file.clone()))]).await;
        // The checksum is that of the packed file.
        let request = Request { checksum: sha256(&file), ..place.request(&server.url("/t")) };
        let (fetched, content) = place.success(request).await;
        assert!(content == image && fetched.virtual_size == 64 << 20, "{program}");
        let check = place.check(&server.url("/t"), Format::Qcow2);
        assert_eq!(place.downloads.check_url(check).await.unwrap(), 64 << 20, "{program}");
        let half = file[..file.len() / 2].to_vec();
        let server = Server::start([("/t", Page::File(half))]).await;
        let (text, retry) = place.failure(place.request(&server.url("/t"))).await;
        assert!(text.contains("cannot be unpacked") && retry, "{program}: {text}");
    }
}

#[tokio::test]
async fn redirects_are_followed_only_as_asked() {
    let image = image(&[]).await;
    let elsewhere = Server::start([("/t", Page::File(image))]).await;
    let pages = [
        ("/a", Page::Redirect("b".into())),
        ("/b", Page::Redirect(elsewhere.url("/t"))),
        ("/loop", Page::Redirect("/loop".into())),
        ("/ftp", Page::Redirect("ftp://127.0.0.1/t".into())),
    ];
    let server = Server::start(pages).await;
    let place = Place::new();
    let request = |path: &str, follow| {
        let mut request = place.request(&server.url(path));
        request.http.follow_redirects = follow;
        request.http.headers.insert("Authorization".into(), "Basic abc".into());
        request
    };
    place.success(request("/a", true)).await;
    assert!(server.requests().iter().all(|request| request.contains("authorization: basic abc")));
    assert!(!elsewhere.requests()[0].contains("authorization"), "credentials are for one server");
    let (text, retry) = place.failure(request("/a", false)).await;
    assert!(text.contains("without following redirects") && retry, "{text}");
    let (text, _) = place.failure(request("/loop", true)).await;
    assert!(text.contains("redirects more than 10 times"), "{text}");
    let (text, _) = place.failure(request("/ftp", true)).await;
    assert!(text.contains("ftp://127.0.0.1/t is not an http or https URL"), "{text}");
}

#[tokio::test]
async fn an_interrupted_transfer_goes_on_where_it_was() {
    let image: Vec<u8> = image(&[]).await;
    let third = image.len() / 3 + 1;
    let pages = [
        ("/t", Page::Cut { file: image.clone(), after: third }),
        ("/plain", Page::CutPlain { file: image.clone(), after: third }),
        ("/stuck", Page::Cut { file: image.clone(), after: 1 }),
    ];
    let server = Server::start(pages).await;
    let place = Place::new();
    let request = Request { checksum: sha256(&image), ..place.request(&server.url("/t")) };
    let (_, content) = place.success(request).await;
    assert!(content == image);
    let stalled = Server::start([("/t", Page::Stall { file: image.clone(), after: third })]).await;
    let mut request = Request { checksum: sha256(&image), ..place.request(&stalled.url("/t")) };
    request.http.read_timeout = Duration::from_millis(200);
    place.success(request).await;
    assert_eq!(stalled.requests().len(), 2);
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(
        requests[1].contains(&format!("range: bytes={third}-")) && requests[1].contains("if-range: \"1\"")
    );
    let (text, retry) = place.failure(place.request(&server.url("/plain"))).await;
    assert!(text.contains(&format!("127.0.0.1 broke off after {third} bytes")) && retry, "{text}");
    let (text, _) = place.failure(place.request(&server.url("/stuck"))).await;
    assert!(text.contains("broke off after 6 bytes"), "{text}");
}

#[tokio::test]
async fn a_wrong_checksum_is_tried_three_times_and_never_elsewhere() {
    let image = image(&[]).await;
    let server = Server::start([("/t", Page::File(image))]).await;
    let place = Place::new();
    for checksum in [sha256(b"other"), "0".repeat(32)] {
        let asked = server.requests().len();
        let request = Request { checksum, ..place.request(&server.url("/t")) };
        let (text, retry) = place.failure(request).await;
        assert!(text.starts_with("Checksum validation failed") && !retry, "{text}");
        assert_eq!(server.requests().len() - asked, 3);
    }
    let request = Request { checksum: "{CRC}00".into(), ..place.request(&server.url("/t")) };
    let (text, retry) = place.failure(request).await;
    assert!(text.starts_with("Unable to create direct downloader") && !retry, "{text}");
}

#[tokio::test]
async fn images_that_lead_to_other_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = format!("data_file={}", directory.path().join("data").display());
    let hostile = [
        image(&["-u", "-b", "/etc/shadow", "-F", "raw"]).await,
        image(&["-o", &data]).await,
        b"<html>Not here</html>".to_vec(),
        Vec::new(),
    ];
    for (number, file) in hostile.into_iter().enumerate() {
        let gzipped = packed("gzip", &file).await;
        let server = Server::start([("/t", Page::File(file)), ("/t.gz", Page::File(gzipped))]).await;
        let place = Place::new();
        for path in ["/t", "/t.gz"] {
            let (text, retry) = place.failure(place.request(&server.url(path))).await;
            assert!(
                text.starts_with("The downloaded file is not a valid QCOW2.") && retry,
                "{number}: {text}"
            );
            let check = place.check(&server.url(path), Format::Qcow2);
            assert!(place.downloads.check_url(check).await.is_err(), "{number}");
        }
        if number < 2 {
            let raw = Request { format: Format::Raw, ..place.request(&server.url("/t")) };
            let (text, _) = place.failure(raw).await;
            assert!(text.starts_with("The downloaded file is not a valid QCOW2."), "{text}");
        }
    }
}

#[tokio::test]
async fn servers_that_fail_are_named() {
    let place = Place::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server::start([("/500", Page::Status(500))]).await;
    let nowhere = format!("http://127.0.0.1:{closed}/t");
    for (url, expected) in [
        (server.url("/absent"), "127.0.0.1 answered with status 404".to_owned()),
        (server.url("/500"), "127.0.0.1 answered with status 500".into()),
        (nowhere, format!("127.0.0.1:{closed} cannot be reached")),
        ("http://no-such-host.invalid/t".into(), "no-such-host.invalid:80 cannot be reached".into()),
        ("file:///etc/passwd".into(), "Unable to create direct downloader".into()),
        ("ftp://h/t".into(), "ftp://h/t is not an http or https URL".into()),
    ] {
        let (text, retry) = place.failure(place.request(&url)).await;
        assert!(text.contains(&expected) && retry, "{url}: {text}");
        let check = place.check(&url, Format::Qcow2);
        let text = chain(&*place.downloads.check_url(check).await.unwrap_err());
        assert!(text.contains(&expected), "{url}: {text}");
    }
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut request = place.request(&format!("http://{}/t", silent.local_addr().unwrap()));
    request.http.read_timeout = Duration::from_millis(50);
    let (text, _) = place.failure(request).await;
    assert!(text.contains("127.0.0.1 did not answer within 50 ms"), "{text}");
}

#[tokio::test]
async fn https_needs_a_chain_to_what_is_trusted_but_no_name() {
    let image = image(&[]).await;
    let authority = certificates::testing::Own::new();
    let server = Server::with_tls([("/t", Page::File(image.clone()))], authority.acceptor()).await;
    let place = Place::new();
    // The certificate names another host.
    let url = format!("https://127.0.0.1:{}/t", server.port);
    let (text, retry) = place.failure(place.request(&url)).await;
    assert!(text.contains("neither a CA of the system nor among the direct download certificates"), "{text}");
    assert!(retry && text.len() < 600, "{text}");
    certificates::install(place.store.path(), "mirror", &authority.pem()).unwrap();
    let (_, content) = place.success(place.request(&url)).await;
    assert!(content == image);
    let size = place.downloads.check_url(place.check(&url, Format::Raw)).await.unwrap();
    assert_eq!(size, image.len() as u64);
    certificates::revoke(place.store.path(), "mirror").unwrap();
    place.failure(place.request(&url)).await;
}

#[tokio::test]
async fn metalinks_lead_to_the_first_mirror_that_works() {
    let image = image(&[]).await;
    let mirror =
        Server::start([("/t", Page::File(image.clone())), ("/bad", Page::File(b"x".to_vec()))]).await;
    let sum = sha256(&image);
    let sum = sum.trim_start_matches("{SHA-256}");
    let file = |urls: &str| {
        let text = format!("<metalink><file><hash type='sha-256'>{sum}</hash>{urls}</file></metalink>");
        Page::File(text.into_bytes())
    };
    let good = format!(
        "<url priority='3'>{}</url><url priority='2'>{}</url><url priority='1'>{}</url>",
        mirror.url("/t"),
        mirror.url("/bad"),
        mirror.url("/absent")
    );
    let pages = [
        ("/a.metalink", file(&good)),
        ("/none.metalink", file("")),
        ("/b.metalink", Page::File(b"<x".to_vec())),
    ];
    let server = Server::start(pages).await;
    let place = Place::new();
    let request = |path| Request { source: Source::Metalink, ..place.request(&server.url(path)) };
    let (_, content) = place.success(request("/a.metalink")).await;
    assert!(content == image);
    let check = place.check(&server.url("/a.metalink"), Format::Qcow2);
    assert_eq!(place.downloads.check_url(check).await.unwrap(), 64 << 20);
    let (text, _) = place.failure(request("/none.metalink")).await;
    assert!(text.contains("names no URL"), "{text}");
    let (text, _) = place.failure(request("/b.metalink")).await;
    assert!(text.contains("is not a metalink file"), "{text}");
}

#[tokio::test]
async fn nfs_that_cannot_be_mounted_is_an_error_and_leaves_no_mount_point() {
    let place = Place::new();
    let request = Request { source: Source::Nfs, ..place.request("nfs://127.0.0.1/no/such/t") };
    let (text, retry) = place.failure(request).await;
    assert!(text.contains("cannot mount 127.0.0.1:/no/such") && retry, "{text}");
    let request = Request { source: Source::Nfs, ..place.request("nfs://127.0.0.1/../t") };
    place.failure(request).await;
}
