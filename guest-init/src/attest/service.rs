//! One connection to the key service, and what its answers mean for the boot.

use std::io;
use std::time::Instant;

use coffer_manifest::SiteConfig;
use coffer_protocol::ErrorInformation;

use super::verdict::VerdictError;
use crate::http::{Connection, HttpError, Request, Response};
use crate::network;
use crate::tls::{TlsStream, Trust, is_refused_certificate};

/// The longest refusal read, in bytes; see [`ErrorInformation`].
const MAX_REFUSAL_BYTES: usize = 8 * 1024;

/// Reason codes that say nothing about this guest: the service restarted, or the evidence took too long.
const STALE_CHALLENGE: [&str; 2] = ["challenge_epoch", "challenge_expired"];

/// The service did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The URL in the site config is not `https://host:port`.
    #[error("`{url}` is not https://host:port")]
    Url {
        /// The URL.
        url: String,
    },
    /// No connection.
    #[error("{0}")]
    Connect(#[source] io::Error),
    /// The connection broke, or what came over it is no HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The service is overloaded or broken, or still fetches what it needs to judge this evidence.
    #[error("HTTP status {status}{because}")]
    Unwell {
        /// 429 or 5xx.
        status: u16,
        /// `: <code> (<id>)`, if it says one.
        because: String,
    },
    /// The service says no.
    #[error("refused: {code} ({id})")]
    Refused {
        /// Its reason code.
        code: String,
        /// The id under which its log says everything.
        id: String,
    },
    /// The service says no in words of its own, as stock services do.
    #[error("key service refused with HTTP status {status}: {detail}")]
    RefusedInWords {
        /// 4xx.
        status: u16,
        /// Its words, shortened to 200 characters.
        detail: String,
    },
    /// The token does not read.
    #[error(transparent)]
    Verdict(#[from] VerdictError),
}

impl ServiceError {
    /// Whether trying again later can help: the service was not there or not well, or the challenge went stale on the way.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Http(_) | Self::Unwell { .. } => true,
            Self::Refused { code, .. } => STALE_CHALLENGE.contains(&code.as_str()),
            _ => false,
        }
    }

    /// Whether somebody else answered.
    pub fn is_refused_certificate(&self) -> bool {
        matches!(self, Self::Connect(error) if is_refused_certificate(error))
    }
}

/// A connection, opened again when the service closes it between two requests.
pub struct Service<'a> {
    site: &'a SiteConfig,
    trust: &'a Trust,
    address: Address<'a>,
    deadline: Instant,
    connection: Connection<TlsStream>,
    cookie: Option<String>,
}

impl<'a> Service<'a> {
    /// Connects to the service at `url`; everything said over the connection ends at `deadline`.
    pub fn connect(site: &'a SiteConfig, trust: &'a Trust, url: &'a str, deadline: Instant) -> Result<Self, ServiceError> {
        let address = Address::parse(url)?;
        let connection = dial(site, trust, &address, deadline)?;
        Ok(Self { site, trust, address, deadline, connection, cookie: None })
    }

    /// The body of a 200 answer to a GET.
    pub fn get(&mut self, path: &str, max_body: usize) -> Result<Vec<u8>, ServiceError> {
        self.call("GET", path, &[], max_body)
    }

    /// The body of a 200 answer to a POST of JSON.
    pub fn post(&mut self, path: &str, body: &[u8], max_body: usize) -> Result<Vec<u8>, ServiceError> {
        self.call("POST", path, body, max_body)
    }

    fn call(&mut self, method: &'static str, path: &str, body: &[u8], max_body: usize) -> Result<Vec<u8>, ServiceError> {
        let cookie = self.cookie.clone();
        let request = Request { method, path, host: self.address.authority, cookie: cookie.as_deref(), body };
        let response = self.connection.send(&request, max_body.max(MAX_REFUSAL_BYTES))?;
        if let Some(cookie) = &response.cookie {
            self.cookie = Some(cookie.clone());
        }
        if response.closes {
            self.connection = dial(self.site, self.trust, &self.address, self.deadline)?;
        }
        accept(response)
    }
}

fn dial(site: &SiteConfig, trust: &Trust, address: &Address<'_>, deadline: Instant) -> Result<Connection<TlsStream>, ServiceError> {
    let addresses = network::resolve(site, address.host, address.port).map_err(ServiceError::Connect)?;
    trust.connect(&addresses, deadline).map(Connection::new).map_err(ServiceError::Connect)
}

/// A body, or what its refusal means.
fn accept(response: Response) -> Result<Vec<u8>, ServiceError> {
    let status = response.status;
    if status == 200 {
        return Ok(response.body);
    }
    let information = ErrorInformation::parse(&response.body).ok();
    let refusal = information.as_ref().and_then(ErrorInformation::refusal);
    if status == 429 || status >= 500 {
        let because = refusal.map(|refusal| format!(": {} ({})", refusal.code(), refusal.id())).unwrap_or_default();
        return Err(ServiceError::Unwell { status, because });
    }
    match refusal {
        Some(refusal) => Err(ServiceError::Refused { code: refusal.code().to_owned(), id: refusal.id().to_owned() }),
        None => {
            let detail = information.map(|information| information.detail.chars().take(200).collect()).unwrap_or_default();
            Err(ServiceError::RefusedInWords { status, detail })
        }
    }
}

/// The parts of `https://host:port`.
#[derive(Debug, PartialEq, Eq)]
struct Address<'a> {
    authority: &'a str,
    host: &'a str,
    port: u16,
}

impl<'a> Address<'a> {
    fn parse(url: &'a str) -> Result<Self, ServiceError> {
        let refuse = || ServiceError::Url { url: url.to_owned() };
        let authority = url.strip_prefix("https://").ok_or_else(refuse)?.trim_end_matches('/');
        let clean = authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
        let bare_host = || match authority.ends_with(']') || !authority.contains(':') {
            true => Some((authority, 443)),
            false => None,
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !authority.ends_with(']') => (host, port.parse().map_err(|_| refuse())?),
            _ => bare_host().ok_or_else(refuse)?,
        };
        if host.is_empty() || !clean { Err(refuse()) } else { Ok(Self { authority, host, port }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response { status, cookie: None, body: body.as_bytes().to_vec(), closes: false }
    }

    #[test]
    fn urls_give_host_and_port() {
        let parts = |url| Address::parse(url).map(|a| (a.host, a.port)).ok();
        assert_eq!(parts("https://10.0.2.2:8999"), Some(("10.0.2.2", 8999)));
        assert_eq!(parts("https://kbs.demo.test/"), Some(("kbs.demo.test", 443)));
        assert_eq!(parts("https://[fd00::1]:8999"), Some(("[fd00::1]", 8999)));
        assert_eq!(parts("https://[fd00::1]"), Some(("[fd00::1]", 443)));
        for bad in ["http://a:1", "https://", "https://a:x", "https://a:99999", "https://a:1/path", "https://a b:1", "https://a\r\n:1"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn refusals_are_final_and_illness_passes() {
        let refusal = r#"{"type":"https://github.com/confidential-containers/kbs/errors/AttestationError","detail":"host_data: ab-1"}"#;
        let error = accept(response(401, refusal)).expect_err("refused");
        assert!(matches!(&error, ServiceError::Refused { code, id } if code == "host_data" && id == "ab-1"), "{error}");
        assert!(!error.is_passing());
        for stale in STALE_CHALLENGE {
            let refusal = refusal.replace("host_data", stale);
            assert!(accept(response(401, &refusal)).expect_err("stale").is_passing(), "{stale}");
        }
        let words = r#"{"type":"x","detail":"Access denied by policy"}"#;
        assert!(matches!(accept(response(403, words)), Err(ServiceError::RefusedInWords { status: 403, .. })));
        assert!(matches!(accept(response(404, "<html>")), Err(ServiceError::RefusedInWords { status: 404, .. })));
        for status in [429, 500, 503] {
            let error = accept(response(status, "<html>")).expect_err("unwell");
            assert!(error.is_passing() && error.to_string() == format!("HTTP status {status}"), "{error}");
            let error = accept(response(status, &refusal.replace("host_data", "collateral_pending"))).expect_err("unwell");
            assert!(error.is_passing() && error.to_string() == format!("HTTP status {status}: collateral_pending (ab-1)"), "{error}");
        }
        assert_eq!(accept(response(200, "x")).expect("fine"), b"x");
    }
}
