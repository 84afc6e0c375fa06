//! The admin's side of the wire: HTTPS to one pinned service, every call signed.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use coffer_protocol::ErrorInformation;
use coffer_token::UnixTime;
use coffer_token::admin::{AdminSigner, Call};
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::cli::Access;
use crate::clock::unix_now;
use crate::config::Config;
use crate::failure::{Exit, Failure, OrFail};
use crate::kek::random;
use crate::layout::{Layout, read_private, read_small};
use crate::reason::Reason;
use crate::tls::{certificates, client_config};

/// An answer takes milliseconds; a service that needs this long is not there.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Long enough for clocks that differ a little.
const CALL_LIFETIME_S: u64 = 120;
/// A list of some ten thousand sites.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// A pinned service and an admin's key.
#[derive(Debug)]
pub struct Client {
    service: Pinned,
    signer: AdminSigner,
}

/// A service that is who it says it is, and nobody's key.
#[derive(Debug)]
pub struct Pinned {
    agent: ureq::Agent,
    url: String,
    tls_name: String,
    port: u16,
}

/// Goes to one address, whatever the name: the certificate, not the resolver, says who that is.
#[derive(Debug)]
struct Addresses(Vec<SocketAddr>);

impl Resolver for Addresses {
    fn resolve(&self, _: &Uri, _: &ureq::config::Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        for address in self.0.iter().take(MAX_ADDRESSES) {
            addresses.push(*address);
        }
        Ok(addresses)
    }
}

/// What ureq's list holds.
const MAX_ADDRESSES: usize = 16;

impl Client {
    /// Connects nothing yet; reads the key and the CA.
    ///
    /// # Errors
    /// Files that do not read, a URL that does not resolve.
    pub fn new(access: &Access) -> Result<Self, Failure> {
        let Target { url, tls_name, ca, admin_key } = target(access)?;
        let service = Pinned::new(url, tls_name, &ca)?;
        let pem = read_private(&admin_key).or_fail("cannot use the admin key")?;
        let pem = std::str::from_utf8(&pem).or_fail("cannot use the admin key")?;
        let signer = AdminSigner::from_pem(pem).or_fail(&format!("cannot use the admin key {}", admin_key.display()))?;
        Ok(Self { service, signer })
    }

    /// Reads.
    ///
    /// # Errors
    /// See [`Self::call`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(&Method::GET, path, &[])
    }

    /// Changes.
    ///
    /// # Errors
    /// See [`Self::call`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, Failure> {
        self.call(&Method::POST, path, body)
    }

    /// Signs and sends one call.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] without an answer, [`Exit::Refused`] with a refusal.
    fn call<T: DeserializeOwned>(&self, method: &Method, path: &str, body: &[u8]) -> Result<T, Failure> {
        let call = Call { audience: &self.service.tls_name, method: method.as_str(), path, body };
        let id = data_encoding::HEXLOWER.encode(&random::<16>().or_fail("cannot sign")?);
        let token = self.signer.sign(&call, &id, UnixTime(unix_now()), CALL_LIFETIME_S).or_fail("cannot sign")?;
        self.service.send(method, path, &[("authorization", &format!("Bearer {token}")), ("content-type", "application/json")], body)
    }
}

impl Pinned {
    /// Connects nothing yet; reads the CA. Without a name, the certificate must have the host in `url`.
    ///
    /// # Errors
    /// A file that does not read, a URL that does not resolve.
    pub fn new(url: String, tls_name: Option<String>, ca: &Path) -> Result<Self, Failure> {
        let (host, port) = host_and_port(&url)?;
        let addresses = (host.as_str(), port).to_socket_addrs().map(Iterator::collect).map_err(|e| unreachable(&url, &e))?;
        let roots = certificates(ca).or_fail("cannot use the CA")?;
        let config = ureq::Agent::config_builder()
            .tls_config(client_config(&roots))
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            .build();
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), Addresses(addresses));
        Ok(Self { agent, tls_name: tls_name.unwrap_or(host), url, port })
    }

    /// The name that its certificate must have.
    #[must_use]
    pub fn tls_name(&self) -> &str {
        &self.tls_name
    }

    /// Reads what anybody may.
    ///
    /// # Errors
    /// As for an admin's call.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(&Method::GET, path, &[], &[])
    }

    fn send<T: DeserializeOwned>(&self, method: &Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<T, Failure> {
        let mut request = Request::builder().method(method).uri(format!("https://{}:{}{path}", self.tls_name, self.port));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.to_vec()).or_fail("cannot make a request")?;
        // A GET with a body, even an empty one, is not something ureq sends.
        let answer = match *method {
            Method::GET => self.agent.run(request.map(|_| ())),
            _ => self.agent.run(request),
        };
        let mut answer = answer.map_err(|e| unreachable(&self.url, &e))?;
        let status = answer.status();
        let bytes = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec().map_err(|e| unreachable(&self.url, &e))?;
        if !status.is_success() {
            return Err(refused(&self.url, status.as_u16(), &bytes));
        }
        serde_json::from_slice(&bytes).or_fail("cannot read the service's answer")
    }
}

struct Target {
    url: String,
    tls_name: Option<String>,
    ca: std::path::PathBuf,
    admin_key: std::path::PathBuf,
}

/// Where the service of a folder listens, and the name in its certificate.
///
/// # Errors
/// If it does not run.
pub fn listening(dir: &Path) -> Result<(String, String), Failure> {
    let layout = Layout::new(dir);
    let config = Config::read(&layout.config()).or_fail("cannot read the settings")?;
    let noted = read_small(&layout.listening()).map_err(|e| {
        Failure::new(format!("the service of {} does not run: {e}", dir.display()))
            .exit(Exit::Unreachable)
            .hint(format!("coffer-attest serve --dir {} --listen ADDRESS:PORT", dir.display()))
    })?;
    Ok((String::from_utf8_lossy(&noted).trim().to_owned(), config.tls_name))
}

fn target(access: &Access) -> Result<Target, Failure> {
    if let (Some(url), Some(ca), Some(admin_key)) = (&access.url, &access.ca, &access.admin_key) {
        let tls_name = access.tls_name.clone();
        return Ok(Target { url: url.clone(), tls_name, ca: ca.clone(), admin_key: admin_key.clone() });
    }
    let Some(dir) = &access.dir else {
        return Err(Failure::new("no service named").hint("give --dir, or --url with --ca and --admin-key"));
    };
    let (url, tls_name) = listening(dir)?;
    let layout = Layout::new(dir);
    Ok(Target { url, tls_name: Some(tls_name), ca: layout.tls_ca(), admin_key: layout.admin_key() })
}

fn host_and_port(url: &str) -> Result<(String, u16), Failure> {
    let refuse = || Failure::new(format!("`{url}` is not a URL of the form https://HOST:PORT"));
    let uri: Uri = url.parse().map_err(|_| refuse())?;
    if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(refuse());
    }
    let host = uri.host().ok_or_else(refuse)?.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, uri.port_u16().unwrap_or(443)))
}

fn unreachable(url: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("cannot reach {url}: {error}"))
        .exit(Exit::Unreachable)
        .hint("does the service run there, and is the CA the one its `init` made?")
}

fn refused(url: &str, status: u16, body: &[u8]) -> Failure {
    let detail = ErrorInformation::parse(body).map_or_else(|_| "no reason given".to_owned(), |information| information.detail);
    let failure = Failure::new(format!("{url} refuses with {status}: {detail}")).exit(Exit::Refused);
    let remedy = detail.split(':').next().and_then(Reason::of_code).map(Reason::remedy);
    // What the service tells an admin may have a hint of its own.
    match remedy.filter(|_| !detail.contains("\nhint: ")) {
        Some(remedy) => failure.hint(remedy),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_https_host_and_port() {
        assert_eq!(host_and_port("https://127.0.0.1:8999").unwrap(), ("127.0.0.1".to_owned(), 8999));
        assert_eq!(host_and_port("https://[::1]:8999/").unwrap(), ("::1".to_owned(), 8999));
        assert_eq!(host_and_port("https://attest.example").unwrap(), ("attest.example".to_owned(), 443));
        for bad in ["http://a:1", "a:1", "https://a/b", "https://a?b", "", "https://"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
