//! The HTTP client of downloads: one GET on a connection of its own, redirects only as asked.
//!
//! Each read has a timeout; the deadline of the whole is the caller's. Answers are bounded in the size
//! of their head, and bodies come in pieces, so a server can neither fill memory nor hold on for ever.

use super::url::{resolve, shown};
use crate::tls::download::{DownloadTls, DownloadTlsError};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What browsers follow.
const MOST_REDIRECTS: usize = 10;
const BUFFER: usize = 64 * 1024;
const MOST_HEADERS: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0} is not an http or https URL")]
    Url(String),
    #[error("{0:?} cannot be a header of the request")]
    Header(String),
    #[error("{host} cannot be reached")]
    Connect { host: String, source: io::Error },
    #[error("{host} did not {what} within {} ms", after.as_millis())]
    Timeout { host: String, what: &'static str, after: Duration },
    #[error(transparent)]
    Tls(#[from] DownloadTlsError),
    #[error("{host} does not speak HTTP, or broke off")]
    Protocol { host: String, source: hyper::Error },
    #[error("{host} answered with status {status}, 200 was expected")]
    Status { host: String, status: u16 },
    #[error("{host} redirects to {to}, and this template was registered without following redirects")]
    Redirect { host: String, to: String },
    #[error("{host} redirects more than {MOST_REDIRECTS} times")]
    Redirects { host: String },
    #[error("{host} sent more than {limit} bytes")]
    TooLarge { host: String, limit: usize },
    #[error("{host} broke off after {received} bytes, and cannot go on from there")]
    NoResume { host: String, received: u64, source: Box<HttpError> },
}

impl HttpError {
    /// Whether the connection broke, rather than the server having said something.
    pub fn is_interruption(&self) -> bool {
        matches!(self, HttpError::Connect { .. } | HttpError::Timeout { .. } | HttpError::Protocol { .. })
    }
}

/// How to ask.
#[derive(Clone)]
pub struct Settings {
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
    pub follow_redirects: bool,
    /// May hold credentials.
    pub headers: BTreeMap<String, String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&String> = self.headers.keys().collect();
        f.debug_struct("Settings")
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("follow_redirects", &self.follow_redirects)
            .field("headers", &names)
            .finish()
    }
}

/// From where to go on, and by what to recognise that the file is still the same.
#[derive(Debug, Clone)]
pub(super) struct Resume {
    pub from: u64,
    pub validator: HeaderValue,
}

pub(super) struct Client {
    settings: Settings,
    headers: HeaderMap,
    /// Directory of own certificates; read when a connection needs it.
    store: PathBuf,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Ends the task of a connection with what it is for.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer with status 200 or 206, its body still to be read.
pub(super) struct Response {
    pub status: StatusCode,
    /// Of what follows.
    pub length: Option<u64>,
    /// A strong one; with it the transfer can be resumed.
    pub validator: Option<HeaderValue>,
    /// First byte of a part.
    pub range_start: Option<u64>,
    pub host: String,
    body: Incoming,
    read_timeout: Duration,
    _connection: Connection,
}

impl Response {
    /// The next piece of the body, `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = within(self.read_timeout, &self.host, "send", self.body.frame()).await?;
            match frame {
                None => return Ok(None),
                Some(Err(source)) => return Err(HttpError::Protocol { host: self.host.clone(), source }),
                // Trailers are of no interest.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
            }
        }
    }
}

async fn within<T>(
    limit: Duration,
    host: &str,
    what: &'static str,
    work: impl Future<Output = T>,
) -> Result<T, HttpError> {
    tokio::time::timeout(limit, work).await.map_err(|_| HttpError::Timeout {
        host: host.to_owned(),
        what,
        after: limit,
    })
}

impl Client {
    pub fn new(settings: &Settings, store: PathBuf) -> Result<Client, HttpError> {
        Ok(Client { headers: headers(&settings.headers)?, settings: settings.clone(), store })
    }

    /// Asks for a URL and reads the head of the answer.
    pub async fn get(&self, url: &Uri, resume: Option<&Resume>) -> Result<Response, HttpError> {
        let mut url = url.clone();
        let mut headers = self.headers.clone();
        for _ in 0..=MOST_REDIRECTS {
            let response = self.once(&url, &headers, resume).await?;
            let (answer, host) = match response {
                Answer::Body(response) => return Ok(*response),
                Answer::Redirect { to, host } => (to, host),
            };
            let next = resolve(&url, &answer).ok_or_else(|| HttpError::Url(shown(&answer)))?;
            if !self.settings.follow_redirects {
                return Err(HttpError::Redirect { host, to: next.host().unwrap_or_default().to_owned() });
            }
            // Credentials are for the server they were given for.
            if next.authority().map(Authority::as_str) != url.authority().map(Authority::as_str)
                || next.scheme() != url.scheme()
            {
                for name in [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION] {
                    headers.remove(name);
                }
            }
            url = next;
        }
        Err(HttpError::Redirects { host: url.host().unwrap_or_default().to_owned() })
    }

    async fn once(
        &self,
        url: &Uri,
        headers: &HeaderMap,
        resume: Option<&Resume>,
    ) -> Result<Answer, HttpError> {
        let host = url.host().unwrap_or_default().to_owned();
        let stream = self.connect(url, &host).await?;
        let wait = self.settings.read_timeout;
        let protocol = |source| HttpError::Protocol { host: host.clone(), source };
        let handshake = http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream));
        let (mut sender, connection) = within(wait, &host, "answer", handshake).await?.map_err(protocol)?;
        let connection = Connection(tokio::spawn(async move {
            // Its error arrives at the body, too.
            let _ = connection.await;
        }));
        let request = request(url, &host, headers, resume)?;
        let response =
            within(wait, &host, "answer", sender.send_request(request)).await?.map_err(protocol)?;
        let (head, body) = response.into_parts();
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        match head.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                let length = text(header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
                Ok(Answer::Body(Box::new(Response {
                    status: head.status,
                    length,
                    validator: validator(&head.headers),
                    range_start: text(header::CONTENT_RANGE).and_then(range_start),
                    host,
                    body,
                    read_timeout: wait,
                    _connection: connection,
                })))
            }
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
                if text(header::LOCATION).is_some() =>
            {
                Ok(Answer::Redirect { to: text(header::LOCATION).unwrap_or_default().to_owned(), host })
            }
            status => Err(HttpError::Status { host, status: status.as_u16() }),
        }
    }

    async fn connect(&self, url: &Uri, host: &str) -> Result<Box<dyn Stream>, HttpError> {
        let secure = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(HttpError::Url(shown(&url.to_string()))),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let limit = self.settings.connect_timeout;
        let stream = within(limit, host, "accept a connection", TcpStream::connect((bare, port)))
            .await?
            .map_err(|source| HttpError::Connect { host: format!("{host}:{port}"), source })?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let tls = DownloadTls::load(&self.store)?;
        Ok(Box::new(within(limit, host, "complete the TLS handshake", tls.connect(stream, bare)).await??))
    }
}

enum Answer {
    Body(Box<Response>),
    Redirect { to: String, host: String },
}

fn request(
    url: &Uri,
    host: &str,
    headers: &HeaderMap,
    resume: Option<&Resume>,
) -> Result<Request<Empty<Bytes>>, HttpError> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let named = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let mut builder = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(header::HOST, named)
        .header(header::USER_AGENT, concat!("cloudstack-agent/", env!("CARGO_PKG_VERSION")))
        // The checksum is that of the file as it is.
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close");
    if let Some(resume) = resume {
        builder = builder
            .header(header::RANGE, format!("bytes={}-", resume.from))
            .header(header::IF_RANGE, resume.validator.clone());
    }
    let mut request = builder.body(Empty::new()).map_err(|_| HttpError::Url(shown(&url.to_string())))?;
    request.headers_mut().extend(headers.clone());
    Ok(request)
}

/// Headers that the server wants to have sent; those that belong to the connection are passed over.
fn headers(given: &BTreeMap<String, String>) -> Result<HeaderMap, HttpError> {
    let own = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::RANGE,
        header::IF_RANGE,
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in given.iter().take(MOST_HEADERS) {
        let bad = || HttpError::Header(name.chars().take(80).collect());
        let parsed = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
        if !own.contains(&parsed) {
            headers.insert(parsed, HeaderValue::try_from(value.as_str()).map_err(|_| bad())?);
        }
    }
    Ok(headers)
}

/// An entity tag that is not weak, else the date; RFC 9110, 13.1.5.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let tag = headers.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    tag.or_else(|| headers.get(header::LAST_MODIFIED)).cloned()
}

/// `bytes FIRST-LAST/SIZE`
fn range_start(text: &str) -> Option<u64> {
    text.trim().strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_connection_stay_ours_and_bad_ones_are_refused() {
        let given = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        assert_eq!(headers(&given("X-Token", "1")).unwrap().len(), 1);
        assert!(headers(&given("Connection", "keep-alive")).unwrap().is_empty());
        for (name, value) in [("a b", "1"), ("a", "1\r\nHost: x"), ("", "")] {
            assert!(headers(&given(name, value)).is_err(), "{name}");
        }
        let settings = Settings {
            connect_timeout: Duration::ZERO,
            read_timeout: Duration::ZERO,
            follow_redirects: false,
            headers: given("Authorization", "canary"),
        };
        assert!(!format!("{settings:?}").contains("canary"));
    }

    #[test]
    fn ranges_and_validators_are_read() {
        assert_eq!(range_start("bytes 100-199/200"), Some(100));
        assert_eq!(range_start("bytes */200"), None);
        let weak = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("W/\"1\""))]);
        assert_eq!(validator(&weak), None);
    }
}
