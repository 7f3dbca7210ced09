use super::*;
use crate::metrics::http::fetch;
use crate::status::board::Board;
use crate::status::fetch::FetchError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(20);

struct Served {
    dir: tempfile::TempDir,
    config: ConfigStore,
    board: Board,
    task: JoinHandle<()>,
}

impl Served {
    async fn start() -> Served {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("agent.properties"), "guid=g\n").unwrap();
        let config = ConfigStore::spawn(dir.path().join("agent.properties"));
        let board = Board::new();
        // No owners yet: the agent waits for its configuration.
        let source = Source { board: board.clone(), owners: watch::channel(None).1 };
        let task = tokio::spawn(serve(dir.path().to_owned(), source, config.clone()));
        let served = Served { dir, config, board, task };
        served.until("the socket", |served| served.path().exists()).await;
        served
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(SOCKET_NAME)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Served) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{what} did not come"));
    }

    async fn listen_on(&self, address: &str) {
        let text = format!("guid=g\nmetrics.listen={address}\n");
        std::fs::write(self.dir.path().join("agent.properties"), text).unwrap();
        let _ = self.config.reload().await;
    }

    fn complaint(&self) -> Option<String> {
        let checks = self.board.snapshot().checks;
        checks.into_iter().find(|check| check.id == CHECK).map(|check| check.summary)
    }

    /// Sends bytes as they are; gives what comes back until the end of the stream.
    async fn raw(&self, request: &[u8]) -> String {
        talk(UnixStream::connect(self.path()).await.unwrap(), request).await
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> String {
    // The answer may come, and the stream end, before all is sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("it is not closed");
    String::from_utf8(answer).unwrap()
}

async fn over_tcp(address: &str) -> std::io::Result<String> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
    Ok(talk(TcpStream::connect(address).await?, request.as_bytes()).await)
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_page_makes_the_round_trip_and_the_socket_goes_with_the_agent() {
    let served = Served::start().await;
    served
        .until("its mode", |served| {
            std::fs::metadata(served.path()).unwrap().permissions().mode() & 0o777 == 0o660
        })
        .await;
    let page = fetch(&served.path(), LONG).await.unwrap();
    assert!(page.contains("cloudstack_agent_session_state{state=\"idle\"} 1\n"), "{page}");
    served.task.abort();
    let path = served.path();
    let _ = served.task.await;
    assert!(!path.exists());
    assert!(matches!(fetch(&path, LONG).await, Err(FetchError::NoSocket { .. })));
}

#[tokio::test]
async fn a_leftover_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET_NAME);
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    bind(&path).unwrap();
}

#[tokio::test]
async fn one_request_one_answer_then_the_end() {
    let served = Served::start().await;
    let ask = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = served.raw(format!("{ask}{ask}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1);
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    let old = served.raw(b"GET /metrics HTTP/1.0\r\n\r\n").await;
    assert!(old.contains(" 200 OK") && old.contains("cloudstack_agent_build_info"), "{old}");
    let head = served.raw(b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(head.contains(" 200 OK") && !head.contains("cloudstack_agent"), "{head}");
}

#[tokio::test]
async fn other_requests_are_refused() {
    let served = Served::start().await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("GET /metrics/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "405"),
        ("DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("status\n", "400"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\r\n\r\n", "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
    ] {
        let answer = served.raw(request.as_bytes()).await;
        assert!(
            answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request:?}: {answer}"
        );
        assert!(!answer.contains("cloudstack_agent"), "{request:?}: {answer}");
    }
    assert!(fetch(&served.path(), LONG).await.is_ok());
}

#[tokio::test]
async fn endless_requests_end_early() {
    let served = Served::start().await;
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1 << 20));
    let many_headers = format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-Junk: y\r\n".repeat(100_000));
    let body = format!(
        "GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n{}",
        "z".repeat(1 << 20)
    );
    for request in [long_path, many_headers] {
        let answer = served.raw(request.as_bytes()).await;
        assert!(!answer.contains("cloudstack_agent"), "{answer}");
    }
    // A body is nobody's business: the answer comes without it.
    let _ = served.raw(body.as_bytes()).await;
    assert!(fetch(&served.path(), LONG).await.is_ok());
}

#[tokio::test]
async fn the_ninth_client_is_closed_and_later_ones_are_served_again() {
    let served = Served::start().await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CLIENTS {
        idle.push(UnixStream::connect(served.path()).await.unwrap());
    }
    assert_eq!(served.raw(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await, "");
    drop(idle);
    let again = async {
        while fetch(&served.path(), LONG).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, again).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_asks_is_closed_at_the_deadline() {
    let (mut client, server) = tokio::io::duplex(64);
    let source = Source { board: Board::new(), owners: watch::channel(None).1 };
    let started = tokio::time::Instant::now();
    client.write_all(b"GET /metrics HT").await.unwrap();
    http::serve(server, source).await;
    assert_eq!(started.elapsed(), http::CLIENT_DEADLINE);
}

#[tokio::test]
async fn tcp_only_if_the_configuration_says_so_and_for_as_long() {
    let served = Served::start().await;
    let (first, second) = (free_address(), free_address());
    served.listen_on(&first).await;
    let comes = |address: String| async move {
        let page = async {
            loop {
                match over_tcp(&address).await {
                    Ok(page) => return page,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(LONG, page).await.unwrap()
    };
    assert!(comes(first.clone()).await.contains("cloudstack_agent_build_info"));
    served.listen_on(&second).await;
    assert!(comes(second.clone()).await.contains("cloudstack_agent_build_info"));
    assert!(over_tcp(&first).await.is_err(), "the old address is still open");
    served.listen_on("").await;
    let closed = async {
        while over_tcp(&second).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, closed).await.unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_a_warning() {
    let served = Served::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    served.listen_on(&address).await;
    served.until("the warning", |served| served.complaint().is_some()).await;
    assert!(served.complaint().unwrap().contains(&address));
    assert!(fetch(&served.path(), LONG).await.is_ok());
    served.listen_on("").await;
    served.until("its end", |served| served.complaint().is_none()).await;
}
