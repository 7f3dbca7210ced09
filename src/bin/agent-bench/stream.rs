//! A template of two gigabytes is downloaded: what the agent holds of it in memory.

use crate::figures::{Figure, Verdict};
use crate::guests::{Asker, create_image};
use crate::machine::Memory;
use crate::place::{POOL, Place, TEST_DRIVER};
use crate::{Failure, Figures};
use cloudstack_agent::sim::edge::EdgeZone;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LOOK: Duration = Duration::from_millis(20);

pub async fn run(place: &Place) -> Figures {
    let served = place.fresh("served")?.join("template.qcow2");
    create_image(&served, "2G", &["-o", "preallocation=falloc"]).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/template.qcow2", listener.local_addr()?);
    let server = tokio::spawn(serve(listener, served.clone()));
    let temporary = place.fresh("temporary")?;
    let properties = format!("direct.download.temporary.download.location={}\n", temporary.display());
    let asker = Asker::start(place, TEST_DRIVER, &properties).await?;
    let zone = EdgeZone { pool: POOL.parse()?, directory: place.images(), bridge: String::new() };
    let pid = asker.agent.pid();
    let looks = tokio::spawn(async move {
        let mut most = 0;
        loop {
            match Memory::of(pid) {
                Ok(memory) => most = most.max(memory.rss),
                Err(_) => return most,
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    let begin = Instant::now();
    asker.ask(&zone.download(&url, 2 << 30)).await?;
    let took = begin.elapsed().as_secs_f64();
    // Its end ends the looks.
    drop(asker);
    let most = looks.await? as f64 / 1024.0;
    server.abort();
    std::fs::remove_file(served)?;
    Ok(vec![
        Figure::new("RSS while a template of 2 GB is downloaded, most", format!("{most:.1} MB"))
            .target("30 MB", Verdict::of(most < 30.0)),
        Figure::new("download of that template from this machine", format!("{took:.1} s")),
    ])
}

async fn serve(listener: TcpListener, file: PathBuf) {
    while let Ok((stream, _)) = listener.accept().await {
        let file = file.clone();
        // A client that goes away is the client's affair.
        tokio::spawn(async move { answer(stream, file).await.ok() });
    }
}

async fn answer(mut stream: TcpStream, file: PathBuf) -> Result<(), Failure> {
    let mut request = vec![0; 4096];
    let read = stream.read(&mut request).await?;
    let mut file = File::open(file).await?;
    let length = file.metadata().await?.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    if !request.get(..read).unwrap_or_default().starts_with(b"HEAD") {
        tokio::io::copy(&mut file, &mut stream).await?;
    }
    Ok(stream.shutdown().await?)
}
