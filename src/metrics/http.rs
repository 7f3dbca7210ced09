//! HTTP/1.1 on one connection: one request, one answer. What a client sends is bounded in size and
//! time, and nothing of it but method and path is looked at.

use super::Source;
use super::page::CONTENT_TYPE;
use crate::status::fetch::{FetchError, connect};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE as TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// From connect to close.
pub const CLIENT_DEADLINE: Duration = Duration::from_secs(5);
/// Longest request line and headers; the least that hyper takes.
const MAX_REQUEST: usize = 8 * 1024;
/// Longest page that is read.
const MAX_PAGE: usize = 4 * 1024 * 1024;

const PATH: &str = "/metrics";

/// Answers one request and closes.
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, source: Source) {
    let answer = service_fn(|request: Request<Incoming>| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &source).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        // `nc -N` and the like close their half first.
        .half_close(true)
        .max_buf_size(MAX_REQUEST)
        // The deadline below is for everything.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), answer);
    // A client that left, stalls or sends nonsense costs its own connection, nothing else.
    let _ = tokio::time::timeout(CLIENT_DEADLINE, connection).await;
}

async fn answer(method: &Method, path: &str, source: &Source) -> Response<Full<Bytes>> {
    match (method, path) {
        (&Method::GET | &Method::HEAD, PATH) => match source.page().await.text() {
            Ok(page) => response(StatusCode::OK, CONTENT_TYPE, page),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        },
        (_, PATH) => {
            let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "ask with GET\n".into());
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refusal
        }
        _ => response(StatusCode::NOT_FOUND, "text/plain", format!("only {PATH} is here\n")),
    }
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(TYPE, HeaderValue::from_static(kind));
    response
}

/// Asks the agent behind the socket `path` for a page; ends within `deadline` whatever happens.
pub async fn fetch(path: &Path, deadline: Duration) -> Result<String, FetchError> {
    match tokio::time::timeout(deadline, exchange(path)).await {
        Ok(result) => result,
        Err(_) => Err(FetchError::Timeout { path: path.to_owned(), deadline }),
    }
}

async fn exchange(path: &Path) -> Result<String, FetchError> {
    let broken = |source: io::Error| FetchError::Broken { path: path.to_owned(), source };
    let stream = connect(path).await?;
    let client = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await;
    let (mut client, connection) = client.map_err(|error| broken(io::Error::other(error)))?;
    let conversation = async {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = hyper::Uri::from_static(PATH);
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        let response = client.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_PAGE).collect().await.map_err(io::Error::other)?;
        let text = String::from_utf8(body.to_bytes().into()).map_err(io::Error::other)?;
        Ok::<_, io::Error>((status, text))
    };
    // The connection does the reading and writing for the conversation; it ends after it or fails it.
    let (_, answer) = tokio::join!(connection, conversation);
    match answer.map_err(broken)? {
        (StatusCode::OK, page) => Ok(page),
        (status, text) => {
            let reason = crate::status::human::clean(&format!("{status}: {text}"));
            Err(FetchError::Refused { reason })
        }
    }
}
