//! Joined, abandoned and late downloads; disks that are full; memory.

use super::server::{Page, Server};
use super::*;
use std::io::Write;

#[tokio::test]
async fn two_requests_for_one_template_are_one_download() {
    let image = image(&[]).await;
    let (open, gate) = watch::channel(false);
    let server = Server::start([("/t", Page::Gated { file: image, gate })]).await;
    let place = Place::new();
    let request = place.request(&server.url("/t"));
    let first = tokio::spawn({
        let (downloads, request) = (place.downloads.clone(), request.clone());
        async move { downloads.fetch(request).await.unwrap() }
    });
    while server.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = place.downloads.fetch(request.clone());
    let third = tokio::spawn({
        let (downloads, request) = (place.downloads.clone(), request.clone());
        async move { downloads.fetch(request).await }
    });
    // One that goes away does not take the others along.
    third.abort();
    let opening = async {
        open.send_replace(true);
    };
    let (second, ()) = tokio::join!(second, opening);
    assert_eq!(first.await.unwrap(), second.unwrap());
    assert_eq!(server.requests().len(), 1);
    // Once it is over, the next one is a new one.
    let again = place.downloads.fetch(request).await.unwrap();
    assert_eq!(server.requests().len(), 2);
    assert_eq!(names(place.pool.path()).len(), 2);
    assert!(names(place.pool.path()).contains(&again.name));
}

#[tokio::test]
async fn a_download_that_nobody_waits_for_ends_and_leaves_nothing() {
    let server = Server::start([("/t", Page::Endless)]).await;
    let place = Place::new();
    let request = place.request(&server.url("/t"));
    let downloads = place.downloads.clone();
    let waiting = tokio::spawn(async move { downloads.fetch(request).await });
    let template = place.temporary.path().join("template");
    while !template.exists() {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    let _ = waiting.await;
    let gone = async {
        while template.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    place.nothing_is_left();
}

#[tokio::test]
async fn the_deadline_ends_a_download() {
    let (_open, gate) = watch::channel(false);
    let server = Server::start([("/t", Page::Gated { file: vec![1], gate })]).await;
    let place = Place::new();
    let request = Request { deadline: Duration::from_millis(100), ..place.request(&server.url("/t")) };
    let (text, retry) = place.failure(request).await;
    assert!(text.contains("did not arrive within") && retry, "{text}");
}

#[tokio::test]
async fn a_temporary_location_that_is_missing_is_named() {
    let place = Place::new();
    let request = Request { temporary: "/no/such/place".into(), ..place.request("http://127.0.0.1:1/t") };
    let (text, retry) = place.failure(request).await;
    let expected =
        "The temporary location path for downloading templates does not exist: /no/such/place on this host";
    assert!(text.starts_with(expected) && retry, "{text}");
}

/// A file system of a few megabytes, gone with this value.
struct Small(tempfile::TempDir);

impl Small {
    async fn mount() -> Option<Small> {
        let point = tempfile::tempdir().unwrap();
        let program = Program::new(find_program("mount").unwrap());
        let mount = program.args(["-t", "tmpfs", "-o", "size=4m", "small"]).arg(point.path());
        mount.run().await.unwrap().success().then_some(Small(point))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_wherever_it_is_noticed() {
    let Some(small) = Small::mount().await else {
        // Not through the macros, whose output the test runner keeps to itself.
        let line = "\nSKIPPED: a_full_disk_is_an_error_wherever_it_is_noticed: mounting a tmpfs needs root\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    };
    let bomb = packed("gzip", &vec![0; 64 << 20]).await;
    let pages = [
        ("/large", Page::Zeros(1 << 40)),
        ("/unmeasured", Page::Unmeasured(vec![0; 8 << 20])),
        ("/bomb", Page::File(bomb)),
        ("/fits", Page::Zeros(8 << 20)),
    ];
    let server = Server::start(pages).await;
    let place = Place::new();
    let raw = |path: &str| Request { format: Format::Raw, ..place.request(&server.url(path)) };
    for path in ["/large", "/unmeasured"] {
        let request = Request { temporary: small.0.path().to_owned(), ..raw(path) };
        let (text, retry) = place.failure(request).await;
        let expected = "Not enough space on the defined temporary location to download the template 202";
        assert!(text.starts_with(expected) && retry, "{text}");
        assert_eq!(names(small.0.path()), [""; 0]);
    }
    for path in ["/bomb", "/fits"] {
        let request = Request { pool: small.0.path().to_owned(), ..raw(path) };
        let (text, retry) = place.failure(request).await;
        assert!(text.starts_with("Not enough space in the pool for the template 202") && retry, "{text}");
        assert_eq!(names(small.0.path()), [""; 0]);
    }
    // What fits goes from one file system into the other.
    let image = image(&[]).await;
    let server = Server::start([("/t", Page::File(image.clone()))]).await;
    let request = Request { pool: small.0.path().to_owned(), ..place.request(&server.url("/t")) };
    let fetched = place.downloads.fetch(request).await.unwrap();
    assert!(std::fs::read(small.0.path().join(&fetched.name)).unwrap() == image);
    assert_eq!(names(place.temporary.path()), [""; 0]);
}
