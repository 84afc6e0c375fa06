//! GET over one kept-alive connection, TLS to the pinned authority and nothing else.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::ServiceUrl;

/// The longest answer read, in bytes: a list of a thousand withdrawals takes a tenth of it.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// No answer, or another one than expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// TCP or TLS.
    #[error("cannot reach {url}: {source}")]
    Connect {
        /// Where.
        url: String,
        /// The cause.
        source: std::io::Error,
    },
    /// HTTP.
    #[error("{url} does not answer: {source}")]
    Exchange {
        /// Where.
        url: String,
        /// The cause.
        source: hyper::Error,
    },
    /// The answer's body.
    #[error("{url} does not answer to its end: {source}")]
    Body {
        /// Where.
        url: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// In time.
    #[error("{url} has not answered within {seconds} s")]
    Timeout {
        /// Where.
        url: String,
        /// How long it had.
        seconds: u64,
    },
    /// Not 200.
    #[error("{url}{path} answers {status}")]
    Status {
        /// Where.
        url: String,
        /// What was asked for.
        path: String,
        /// Its answer.
        status: StatusCode,
    },
}

/// One connection at a time to one of the service's addresses.
pub struct Link {
    urls: Vec<ServiceUrl>,
    /// Which of them; counts on without end.
    at: usize,
    name: ServerName<'static>,
    tls: TlsConnector,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

impl Link {
    /// Connects when it is first needed.
    #[must_use]
    pub fn new(urls: Vec<ServiceUrl>, name: ServerName<'static>, tls: Arc<ClientConfig>) -> Self {
        Self { urls, at: 0, name, tls: TlsConnector::from(tls), sender: None }
    }

    /// Where it goes now.
    #[must_use]
    pub fn url(&self) -> &str {
        self.target().as_str()
    }

    /// The next address, after a failure.
    pub fn next(&mut self) {
        self.sender = None;
        self.at = self.at.wrapping_add(1);
    }

    /// The body of a 200.
    ///
    /// # Errors
    /// See [`HttpError`]; the connection is given up then.
    pub async fn get(&mut self, path: &str, patience: Duration) -> Result<Bytes, HttpError> {
        let kept = self.sender.as_ref().is_some_and(SendRequest::is_ready);
        let done = match self.exchange_within(path, patience).await {
            // The service may have closed what was kept: worth a second attempt at once.
            Err(HttpError::Exchange { .. }) if kept => {
                self.sender = None;
                self.exchange_within(path, patience).await
            }
            done => done,
        };
        done.inspect_err(|_| self.sender = None)
    }

    fn target(&self) -> &ServiceUrl {
        &self.urls[self.at % self.urls.len()]
    }

    async fn exchange_within(&mut self, path: &str, patience: Duration) -> Result<Bytes, HttpError> {
        let done = tokio::time::timeout(patience, self.exchange(path)).await;
        done.unwrap_or_else(|_| Err(HttpError::Timeout { url: self.url().to_owned(), seconds: patience.as_secs() }))
    }

    async fn exchange(&mut self, path: &str) -> Result<Bytes, HttpError> {
        let url = self.url().to_owned();
        let failed = |source| HttpError::Exchange { url: url.clone(), source };
        let mut sender = match self.sender.take() {
            Some(sender) if sender.is_ready() => sender,
            _ => self.connect().await?,
        };
        let authority = self.target().authority().to_owned();
        // Both are made of what the settings' parser let through and of numbers.
        let request = Request::get(path).header(HOST, authority).body(Empty::new());
        let request = request.map_err(|source| HttpError::Body { url: url.clone(), source: source.into() })?;
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
        let body = body.map_err(|source| HttpError::Body { url: url.clone(), source })?.to_bytes();
        if status != StatusCode::OK {
            return Err(HttpError::Status { url, path: path.split('?').next().unwrap_or_default().to_owned(), status });
        }
        self.sender = Some(sender);
        Ok(body)
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, HttpError> {
        let target = self.target();
        let failed = |source| HttpError::Connect { url: target.as_str().to_owned(), source };
        let tcp = match target.host.parse::<IpAddr>() {
            Ok(address) => TcpStream::connect((address, target.port)).await,
            Err(_) => TcpStream::connect((target.host.as_str(), target.port)).await,
        };
        let tcp = tcp.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let stream = self.tls.connect(self.name.clone(), tcp).await.map_err(failed)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| HttpError::Exchange { url: target.as_str().to_owned(), source })?;
        // Ends with the sender; what ends it otherwise the next request says.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}
