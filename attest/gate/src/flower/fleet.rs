//! The Fleet front of `mode = "terminate"`: Flower's TLS ends here, and only a leased site's own Fleet calls go on to the SuperLink.
//!
//! From Flower 1.40 the SuperLink has one port for Fleet, Control and Runtime, so somebody must look at each call. What a call proves is
//! Flower's to check; its signature covers a timestamp only, so whoever ends the TLS could repeat it for 305 s: this gate is inside the
//! trust boundary.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::node_key::http_header;
use super::runs::Runs;
use super::upstream::{Link, Passing, SuperLink, strip};
use crate::leases::Leased;
use crate::rate::Bucket;

/// Where Fleet calls are, and nothing else.
const PREFIX: &str = "/v1/fleet/";

/// Asks for work; refused while runs are paused. Nodes stay online by `send-node-heartbeat`.
const PULL: &str = "/v1/fleet/pull-messages";

/// The header in which a call names its node key.
const PUBLIC_KEY: &str = "flwr-public-key";

/// For Flower's handshake inside a tunnel.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A node polls every 3 s and its heartbeat comes every 30 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// A call's head has some 600 bytes.
const HEAD_BYTES: usize = 32 * 1024;

/// What stands in front of the SuperLink's Fleet API.
pub struct Fleet {
    /// With the certificate that Flower's clients trust.
    pub tls: TlsAcceptor,
    /// Where calls go.
    pub superlink: SuperLink,
    /// Whether runs are paused.
    pub runs: Arc<Runs>,
    /// How many lines of refused calls the log takes.
    pub lines: Mutex<Bucket>,
}

/// So many refused calls are logged at once, then two a second: a site makes as many as it likes.
pub fn lines_of_calls() -> Mutex<Bucket> {
    Mutex::new(Bucket::new(200, Duration::from_millis(500), Instant::now()))
}

impl Fleet {
    /// Serves one tunnel of a leased site until either side closes it. Whoever holds the lease drops the future when it ends.
    ///
    /// # Errors
    /// What ended it, other than an orderly close.
    pub async fn serve<S>(&self, leased: Arc<Leased>, stream: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let node = leased.node.as_ref().and_then(|node| http_header(node).ok());
        let key = node.and_then(|text| HeaderValue::from_str(&text).ok()).ok_or_else(|| io::Error::other("the lease has no node key"))?;
        let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.tls.accept(stream)).await;
        let stream = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let call = Calls { fleet: self, leased: &leased, key: &key, link: Link::default() };
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service_fn(|request| call.answer(request)))
            .await
            .map_err(io::Error::other)
    }
}

/// The calls of one connection.
struct Calls<'a> {
    fleet: &'a Fleet,
    leased: &'a Leased,
    key: &'a HeaderValue,
    link: Link,
}

impl Calls<'_> {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Passing>, Infallible> {
        let path = request.uri().path().to_owned();
        Ok(match admit(request.method(), request.uri(), request.headers(), self.key) {
            Err(Refusal::Path) => {
                self.warn(&path, "refused a call that is none of Fleet's");
                problem(StatusCode::NOT_FOUND, "Not Found", true)
            }
            Err(Refusal::Key) => {
                self.warn(&path, "refused a call of another node key than the attested one");
                problem(StatusCode::UNAUTHORIZED, "Invalid SuperNode authentication", true)
            }
            Ok(()) if path == PULL && self.fleet.runs.are_paused() => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "runs are paused until the required sites hold a lease", false)
            }
            Ok(()) => self.forward(request, &path).await,
        })
    }

    fn warn(&self, path: &str, what: &str) {
        if self.fleet.lines.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            tracing::warn!(site = %self.leased.site, key = %self.leased.jkt, path = short(path), "{what}");
        }
    }

    async fn forward(&self, request: Request<Incoming>, path: &str) -> Response<Passing> {
        let (head, body) = request.into_parts();
        let mut onward = to_superlink(&self.fleet.superlink, path, head.headers, body);
        // Again: a call that names it in `Connection` as well has just lost it.
        onward.headers_mut().insert(PUBLIC_KEY, self.key.clone());
        match self.link.send(&self.fleet.superlink, onward).await {
            Ok(response) => to_client(response),
            Err(error) => {
                self.warn(path, &format!("a Fleet call is not answered: {error}"));
                problem(StatusCode::BAD_GATEWAY, "the gate does not reach the SuperLink", false)
            }
        }
    }
}

/// As much of a path as a line of the log takes.
pub fn short(path: &str) -> &str {
    path.char_indices().nth(100).map_or(path, |(end, _)| &path[..end])
}

/// Why a call does not go on.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// Not Fleet's.
    Path,
    /// Not the attested node's.
    Key,
}

/// Whether a call is a Fleet call of this node. The path is compared as it was sent: one word of lower-case letters and hyphens, so that
/// there is nothing to normalise, to decode or to climb out of.
fn admit(method: &Method, uri: &Uri, headers: &HeaderMap, key: &HeaderValue) -> Result<(), Refusal> {
    if method != Method::POST || uri.query().is_some() || !is_call(uri.path(), PREFIX) {
        return Err(Refusal::Path);
    }
    let mut named = headers.get_all(PUBLIC_KEY).iter();
    match (named.next(), named.next()) {
        (Some(named), None) if named == key => Ok(()),
        _ => Err(Refusal::Key),
    }
}

/// Whether a path is this prefix and one word.
pub fn is_call(path: &str, prefix: &str) -> bool {
    let word = path.strip_prefix(prefix).unwrap_or_default();
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

/// The message for the SuperLink: its path as it was checked, the SuperLink's own name, no header of the client's connection.
pub fn to_superlink(superlink: &SuperLink, path: &str, mut headers: HeaderMap, body: Incoming) -> Request<Passing> {
    strip(&mut headers);
    headers.remove(header::HOST);
    let mut request = Request::new(Passing::On(body));
    *request.method_mut() = Method::POST;
    *request.version_mut() = if superlink.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let authority = superlink.address.as_str();
    if superlink.http2 {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    } else if let Ok(host) = HeaderValue::from_str(authority) {
        headers.insert(header::HOST, host);
    }
    let absolute = if superlink.http2 { format!("https://{authority}{path}") } else { path.to_owned() };
    // The path was checked and the address is `host:port`; a request to `/` is what the SuperLink would not know.
    *request.uri_mut() = absolute.parse().unwrap_or_default();
    *request.headers_mut() = headers;
    request
}

/// The SuperLink's answer for a client.
pub fn to_client(response: Response<Incoming>) -> Response<Passing> {
    let (mut head, body) = response.into_parts();
    strip(&mut head.headers);
    head.version = Version::HTTP_11;
    Response::from_parts(head, Passing::On(body))
}

/// An error in Flower's form: JSON with `detail`, as its HTTP routes answer.
pub fn problem(status: StatusCode, detail: &str, close: bool) -> Response<Passing> {
    let body = serde_json::json!({ "detail": detail }).to_string();
    let mut response = Response::new(Passing::own(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> HeaderValue {
        HeaderValue::from_static("S0VZ")
    }

    fn asked(method: Method, uri: &str, keys: &[&'static str]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append(PUBLIC_KEY, HeaderValue::from_static(key));
        }
        admit(&method, &uri.parse().expect(uri), &headers, &key())
    }

    #[test]
    fn only_fleet_calls_pass_however_a_path_is_written() {
        for call in ["register-node", "activate-node", "send-node-heartbeat", "pull-messages", "push-object"] {
            assert_eq!(asked(Method::POST, &format!("/v1/fleet/{call}"), &["S0VZ"]), Ok(()), "{call}");
        }
        assert_eq!(asked(Method::POST, "https://superlink:8000/v1/fleet/get-run", &["S0VZ"]), Ok(()));
        for path in [
            "/",
            "/v1/fleet/",
            "/v1/fleet",
            "/v1/control/start-run",
            "/v1/runtime/get-nodes",
            "/v1/fleet/../control/start-run",
            "/v1/fleet/..%2fcontrol/start-run",
            "/v1/fleet/%2e%2e/control/stop-run",
            "//v1/fleet/get-run",
            "/v1//fleet/get-run",
            "/v1/fleet/get-run/",
            "/v1/fleet/get-run?x=/v1/control/stop-run",
            "/v1/fleet/get-run;x",
            "/V1/FLEET/get-run",
            "/v1/fleet/get_run",
            "/v1/fleet/pull-messages%00",
            "/v1/fleet/pull%2dmessages",
            "/docs",
            "/openapi.json",
            "https://evil/v1/control/stop-run",
        ] {
            assert_eq!(asked(Method::POST, path, &["S0VZ"]), Err(Refusal::Path), "{path}");
        }
        for method in [Method::GET, Method::PUT, Method::CONNECT, Method::OPTIONS] {
            assert_eq!(asked(method, "/v1/fleet/get-run", &["S0VZ"]), Err(Refusal::Path));
        }
    }

    #[test]
    fn a_call_names_the_attested_key_once() {
        let path = "/v1/fleet/pull-messages";
        for keys in [[].as_slice(), &["QU5PVEhFUg=="], &["S0VZ", "S0VZ"], &["QU5PVEhFUg==", "S0VZ"], &["S0VZ, QU5P"], &["s0vz"], &[""]] {
            assert_eq!(asked(Method::POST, path, keys), Err(Refusal::Key), "{keys:?}");
        }
    }
}
