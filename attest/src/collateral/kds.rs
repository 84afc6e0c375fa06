//! AMD's key server, or a mirror of it: one request, one bounded answer. Nothing it says is believed here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::header::RETRY_AFTER;
use ureq::http::{HeaderMap, StatusCode, Uri};

use super::bundle::MAX_FILE_BYTES;
use super::key::Request;
use crate::tls::{TlsError, certificates, client_config};

/// AMD's own.
pub const PUBLIC_URL: &str = "https://kdsintf.amd.com";
/// The roots this operating system believes for public hosts, as Debian's `ca-certificates` writes them.
pub const PUBLIC_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// From the request to the end of the answer. AMD's answers take a second or two.
const TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where collateral is fetched from, if at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KdsConfig {
    /// Whether this service makes outgoing connections. Closed unless the operator opens it.
    pub enabled: bool,
    /// `https://HOST[:PORT]`, without a path.
    pub url: String,
    /// PEM file of the authorities that may have certified the server.
    pub ca: PathBuf,
}

impl Default for KdsConfig {
    fn default() -> Self {
        Self { enabled: false, url: PUBLIC_URL.to_owned(), ca: PathBuf::from(PUBLIC_CA) }
    }
}

/// The key server's settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KdsError {
    /// Not an address of a server.
    #[error("`{url}` is not of the form https://HOST[:PORT]")]
    Url {
        /// What the settings say.
        url: String,
    },
    /// No authority, or no readable file.
    #[error("authorities for {url}: {source}")]
    Ca {
        /// The server.
        url: String,
        /// What is wrong with the file.
        source: TlsError,
    },
    /// A file without a certificate in it.
    #[error("{ca} holds no certificate, so {url} cannot be told from an impostor")]
    NoCa {
        /// The file.
        ca: String,
        /// The server.
        url: String,
    },
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200 and these bytes, at most [`MAX_FILE_BYTES`].
    Found(Vec<u8>),
    /// 404, or 400: no such chip or TCB.
    Absent,
    /// 429; how long to wait, if it said so in seconds.
    Throttled(Option<Duration>),
    /// Anything else, or nothing.
    Unwell(String),
}

/// A client of one server.
#[derive(Debug)]
pub struct Kds {
    agent: ureq::Agent,
    url: String,
}

impl Kds {
    /// Connects nothing yet.
    ///
    /// # Errors
    /// See [`KdsError`].
    pub fn new(url: &str, ca: &Path) -> Result<Self, KdsError> {
        check_url(url)?;
        let roots = certificates(ca).map_err(|source| KdsError::Ca { url: url.to_owned(), source })?;
        if roots.is_empty() {
            return Err(KdsError::NoCa { ca: ca.display().to_string(), url: url.to_owned() });
        }
        let tls = client_config(&roots);
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("coffer-attest/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(TIMEOUT))
            .build();
        Ok(Self { agent: config.new_agent(), url: url.trim_end_matches('/').to_owned() })
    }

    /// The server's address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks, and waits for the whole answer: never on a thread that a guest waits for.
    #[must_use]
    pub fn get(&self, request: &Request) -> Answer {
        let unwell = |error: ureq::Error| Answer::Unwell(error.to_string());
        let mut answer = match self.agent.get(format!("{}{}", self.url, request.path())).call() {
            Ok(answer) => answer,
            Err(error) => return unwell(error),
        };
        match answer.status() {
            StatusCode::OK => match answer.body_mut().with_config().limit(MAX_FILE_BYTES as u64).read_to_vec() {
                Ok(bytes) => Answer::Found(bytes),
                Err(error) => unwell(error),
            },
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Answer::Absent,
            StatusCode::TOO_MANY_REQUESTS => Answer::Throttled(retry_after(answer.headers())),
            status => Answer::Unwell(format!("HTTP status {}", status.as_u16())),
        }
    }
}

/// Whether the settings name a server and nothing behind it.
///
/// # Errors
/// [`KdsError::Url`].
pub fn check_url(url: &str) -> Result<(), KdsError> {
    let uri: Option<Uri> = url.parse().ok();
    let fits = uri.is_some_and(|uri| {
        let host = uri.host().is_some_and(|host| !host.is_empty());
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        uri.scheme_str() == Some("https") && host && bare && !uri.authority().is_some_and(|a| a.as_str().contains('@'))
    });
    if fits { Ok(()) } else { Err(KdsError::Url { url: url.to_owned() }) }
}

/// Seconds (RFC 9110, 10.2.3). A date is passed over: the growing pause of a server that says nothing is as good.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_https_and_a_host() {
        for good in [PUBLIC_URL, "https://127.0.0.1:8443", "https://mirror.example/", "https://[::1]:1"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in ["http://a", "a", "", "https://", "https://a/b", "https://a?b", "https://u:p@a", "ftp://a"] {
            assert!(matches!(check_url(bad), Err(KdsError::Url { .. })), "{bad}");
        }
    }

    #[test]
    fn without_authorities_there_is_no_client() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        assert!(matches!(Kds::new(PUBLIC_URL, &ca), Err(KdsError::Ca { .. })));
        std::fs::write(&ca, "no PEM").unwrap();
        assert!(matches!(Kds::new(PUBLIC_URL, &ca), Err(KdsError::NoCa { .. })));
    }

    #[test]
    fn waiting_times_are_seconds() {
        let says = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(says("30"), Some(Duration::from_secs(30)));
        assert_eq!(says(" 7 "), Some(Duration::from_secs(7)));
        for other in ["", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "99999999999999999999999"] {
            assert_eq!(says(other), None, "{other}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
