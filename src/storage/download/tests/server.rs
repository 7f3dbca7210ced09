//! A template server for tests: plain TCP or TLS, one small script per path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What a path answers.
#[derive(Clone)]
pub enum Page {
    /// The file, with Content-Length, an entity tag and ranges.
    File(Vec<u8>),
    /// As a file, but the connection breaks after so many bytes of each answer.
    Cut {
        file: Vec<u8>,
        after: usize,
    },
    /// The same from a server that knows neither tags nor ranges.
    CutPlain {
        file: Vec<u8>,
        after: usize,
    },
    /// As a file, but an answer from the beginning stops after so many bytes, without an end.
    Stall {
        file: Vec<u8>,
        after: usize,
    },
    /// Until it is closed; no Content-Length.
    Endless,
    /// The file without its length.
    Unmeasured(Vec<u8>),
    /// Claims a length and sends nothing before the gate opens.
    Gated {
        file: Vec<u8>,
        gate: watch::Receiver<bool>,
    },
    /// So many bytes of zeros.
    Zeros(u64),
    Redirect(String),
    Status(u16),
}

/// Requests as they came: first line and headers, in lower case.
pub type Log = Arc<Mutex<Vec<String>>>;

pub struct Server {
    pub port: u16,
    pub log: Log,
}

impl Server {
    pub async fn start(pages: impl IntoIterator<Item = (&'static str, Page)>) -> Server {
        Server::listen(pages, None).await
    }

    pub async fn with_tls(
        pages: impl IntoIterator<Item = (&'static str, Page)>,
        acceptor: crate::tls::download::testing::Acceptor,
    ) -> Server {
        Server::listen(pages, Some(acceptor)).await
    }

    async fn listen(
        pages: impl IntoIterator<Item = (&'static str, Page)>,
        acceptor: Option<crate::tls::download::testing::Acceptor>,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Log::default();
        let pages: Arc<BTreeMap<String, Page>> =
            Arc::new(pages.into_iter().map(|(path, page)| (path.to_owned(), page)).collect());
        let seen = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (pages, seen, acceptor) = (Arc::clone(&pages), Arc::clone(&seen), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, &pages, &seen).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => serve(stream, &pages, &seen).await,
                            Err(_) => Ok(()),
                        },
                    }
                });
            }
        });
        Server { port, log }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn requests(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    pages: &BTreeMap<String, Page>,
    seen: &Log,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let request = request.to_lowercase();
    seen.lock().unwrap().push(request.clone());
    let page = pages.get(&path).cloned().unwrap_or(Page::Status(404));
    let from = request
        .split("range: bytes=")
        .nth(1)
        .and_then(|rest| rest.split('-').next())
        .and_then(|start| start.parse::<usize>().ok());
    answer(&mut stream, page, from).await?;
    stream.shutdown().await
}

fn head(file: &[u8], from: Option<usize>, named: bool) -> (String, Vec<u8>) {
    let tag = if named { "ETag: \"1\"\r\n" } else { "" };
    match from.filter(|_| named) {
        Some(from) => {
            let rest = &file[from..];
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", file.len() - 1, file.len());
            (
                format!("HTTP/1.1 206 Partial\r\n{tag}{range}Content-Length: {}\r\n\r\n", rest.len()),
                rest.to_vec(),
            )
        }
        None => (format!("HTTP/1.1 200 OK\r\n{tag}Content-Length: {}\r\n\r\n", file.len()), file.to_vec()),
    }
}

async fn answer<W: AsyncWrite + Unpin>(to: &mut W, page: Page, from: Option<usize>) -> std::io::Result<()> {
    match page {
        Page::File(file) => {
            let (head, body) = head(&file, from, true);
            to.write_all(head.as_bytes()).await?;
            to.write_all(&body).await
        }
        Page::Cut { ref file, after } | Page::CutPlain { ref file, after } => {
            let (head, body) = head(file, from, matches!(page, Page::Cut { .. }));
            to.write_all(head.as_bytes()).await?;
            to.write_all(&body[..after.min(body.len())]).await
        }
        Page::Stall { file, after } => {
            let (head, body) = head(&file, from, true);
            to.write_all(head.as_bytes()).await?;
            if from.is_some() {
                return to.write_all(&body).await;
            }
            to.write_all(&body[..after]).await?;
            to.flush().await?;
            std::future::pending().await
        }
        Page::Unmeasured(file) => {
            to.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            to.write_all(&file).await
        }
        Page::Endless => {
            to.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                to.write_all(&[7; 65536]).await?;
            }
        }
        Page::Gated { file, mut gate } => {
            let _ = gate.wait_for(|open| *open).await;
            let (head, body) = head(&file, from, true);
            to.write_all(head.as_bytes()).await?;
            to.write_all(&body).await
        }
        Page::Zeros(count) => {
            to.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n").as_bytes()).await?;
            let block = vec![0; 1 << 16];
            for _ in 0..count / (1 << 16) {
                to.write_all(&block).await?;
            }
            Ok(())
        }
        Page::Redirect(target) => {
            let text = format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
            to.write_all(text.as_bytes()).await
        }
        Page::Status(status) => {
            to.write_all(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").as_bytes()).await
        }
    }
}
