//! The gate's own job token, where the gate runs in a confidential VM: guests that ask for an attested gate see it on each connection.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use coffer_token::{Jkt, UnixTime};
use data_encoding::BASE64URL_NOPAD;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;

use crate::service::clock::Clock;

/// Between two looks: PID 1 renews at two thirds of a token's life, which is minutes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long PID 1 may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer read, in bytes.
const MAX_BODY_BYTES: usize = 32 * 1024;

/// `GET /v1/token`, as PID 1 answers it.
#[derive(Deserialize)]
struct Answer {
    token: String,
    expires_at: u64,
}

/// The newest token.
#[derive(Debug)]
pub struct Attested {
    socket: PathBuf,
    /// Of the certificate that guests see.
    key: Jkt,
    clock: Arc<Clock>,
    newest: RwLock<Option<(String, UnixTime)>>,
}

/// No token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum AttestedError {
    #[error("cannot reach {socket}: {source}")]
    Connect { socket: String, source: std::io::Error },
    #[error("PID 1 does not answer: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("PID 1 does not answer well: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("PID 1 has no token: {0}")]
    Status(StatusCode),
    #[error("PID 1's answer does not parse: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the token names node key {got:?}, the gate's certificate has {expected}; hint: [attested] node_key is this boot's")]
    Key { got: Option<Jkt>, expected: Jkt },
}

impl Attested {
    /// None yet. `key` is that of the gate's certificate.
    #[must_use]
    pub fn new(socket: PathBuf, key: Jkt, clock: Arc<Clock>) -> Self {
        Self { socket, key, clock, newest: RwLock::new(None) }
    }

    /// The newest token, while it has not expired.
    #[must_use]
    pub fn token(&self) -> Option<String> {
        let now = self.clock.now().unix;
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        newest.as_ref().filter(|(_, expires)| *expires > now).map(|(token, _)| token.clone())
    }

    /// Keeps it fresh, as long as the gate runs.
    pub async fn keep(self: Arc<Self>) {
        let mut failing = None;
        loop {
            let looked = tokio::time::timeout(PATIENCE, self.look()).await;
            let failed = match looked {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(crate::failure::chain(&error)),
                Err(_) => Some(format!("PID 1 has not answered within {} s", PATIENCE.as_secs())),
            };
            if failed != failing {
                match &failed {
                    Some(error) => tracing::warn!(error, "the gate has no new token of its own"),
                    None => tracing::info!("the gate has a token of its own"),
                }
                failing = failed;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Result<(), AttestedError> {
        let failed = |source| AttestedError::Connect { socket: self.socket.display().to_string(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(failed)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get("/v1/token").header(HOST, "localhost").body(Empty::<Bytes>::new());
        let request = request.map_err(|error| AttestedError::Body(error.into()))?;
        let driver = tokio::spawn(connection);
        let answered = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await.map_err(AttestedError::Body)?;
            Ok::<_, AttestedError>((status, body.to_bytes()))
        };
        let answered = answered.await;
        driver.abort();
        let (status, body) = answered?;
        if status != StatusCode::OK {
            return Err(AttestedError::Status(status));
        }
        let Answer { token, expires_at } = serde_json::from_slice(&body)?;
        let got = node_jkt(&token);
        if got != Some(self.key) {
            return Err(AttestedError::Key { got, expected: self.key });
        }
        *self.newest.write().unwrap_or_else(PoisonError::into_inner) = Some((token, UnixTime(expires_at)));
        Ok(())
    }
}

/// The node key that a token names. Guests check the token; this only finds out early what they would refuse.
fn node_jkt(token: &str) -> Option<Jkt> {
    #[derive(Deserialize)]
    struct Payload {
        coffer: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        node_jkt: Option<Jkt>,
    }
    let payload = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    serde_json::from_slice::<Payload>(&payload).ok()?.coffer.node_jkt
}
