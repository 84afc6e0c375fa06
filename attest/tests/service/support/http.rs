//! HTTPS to one pinned service, whatever the answer.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use coffer_protocol::ErrorInformation;
use serde_json::Value;
use ureq::http::{Request, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

#[derive(Debug)]
struct Pinned(SocketAddr);

impl Resolver for Pinned {
    fn resolve(&self, _: &Uri, _: &ureq::config::Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(self.0);
        Ok(addresses)
    }
}

pub struct Client {
    agent: ureq::Agent,
    base: String,
}

pub struct Answer {
    pub status: u16,
    pub content_type: String,
    /// Our cookie's value, if one was set.
    pub cookie: Option<String>,
    pub retry_after: Option<String>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(url: &str, ca: &Path, tls_name: &str) -> Self {
        let authority = url.strip_prefix("https://").unwrap();
        let address = authority.to_socket_addrs().unwrap().next().unwrap();
        let pem = std::fs::read(ca).unwrap();
        let roots: Vec<Certificate<'static>> = parse_pem(&pem)
            .map(|item| match item.unwrap() {
                PemItem::Certificate(certificate) => certificate,
                _ => panic!("no certificate"),
            })
            .collect();
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = ureq::Agent::config_builder().tls_config(tls).http_status_as_error(false).proxy(None).build();
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), Pinned(address));
        Self { agent, base: format!("https://{tls_name}:{}", address.port()) }
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = if method == "GET" {
            self.agent.run(request.body(()).unwrap())?
        } else {
            self.agent.run(request.body(body.to_vec()).unwrap())?
        };
        let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let cookie = header("set-cookie").map(|line| {
            let first = line.split(';').next().unwrap();
            first.strip_prefix("kbs-session-id=").unwrap().to_owned()
        });
        let (status, content_type) = (answer.status().as_u16(), header("content-type").unwrap_or_default());
        Ok(Answer { status, content_type, cookie, retry_after: header("retry-after"), body: answer.body_mut().read_to_vec()? })
    }

    pub fn get(&self, path: &str, cookie: Option<&str>) -> Answer {
        let cookie = cookie.map(|value| format!("kbs-session-id={value}"));
        let headers: Vec<_> = cookie.iter().map(|value| ("cookie", value.as_str())).collect();
        self.send("GET", path, &headers, &[]).unwrap()
    }

    pub fn post(&self, path: &str, cookie: Option<&str>, body: &[u8]) -> Answer {
        let cookie = cookie.map(|value| format!("kbs-session-id={value}"));
        let headers: Vec<_> = cookie.iter().map(|value| ("cookie", value.as_str())).collect();
        self.send("POST", path, &headers, body).unwrap()
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// `(status, error name, reason code)` of a refusal, whose form is checked on the way.
    pub fn refusal(&self) -> (u16, String, String) {
        assert_eq!(self.content_type, "application/problem+json", "{}", String::from_utf8_lossy(&self.body));
        let information = ErrorInformation::parse(&self.body).unwrap();
        let name = information.kind.strip_prefix("https://github.com/confidential-containers/kbs/errors/").unwrap().to_owned();
        let refusal = information.refusal().unwrap_or_else(|| panic!("`{}` is not `<code>: <id>`", information.detail));
        assert_eq!(refusal.id().len(), 16);
        (self.status, name, refusal.code().to_owned())
    }

    /// The id of a refusal.
    pub fn refusal_id(&self) -> String {
        ErrorInformation::parse(&self.body).unwrap().refusal().unwrap().id().to_owned()
    }

    /// Panics unless this is a refusal with this status and code.
    #[track_caller]
    pub fn expect_refusal(&self, status: u16, code: &str) {
        let (got, _, got_code) = self.refusal();
        assert_eq!((got, got_code.as_str()), (status, code));
    }
}
