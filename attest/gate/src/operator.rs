//! `gate.sock`: how `status` and `cut` ask a running gate. One line of JSON each way; who may open the socket may ask.

pub mod metrics;
pub mod status;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::gate::Gate;
use crate::operator::status::Status;

/// The longest question, in bytes.
const MAX_REQUEST_BYTES: u64 = 4096;
/// How long either side waits for the other.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A snapshot.
    Status,
    /// To keep a site out.
    Cut {
        /// Its name.
        site: String,
        /// For how long.
        seconds: u64,
    },
    /// To let a site in again.
    Lift {
        /// Its name.
        site: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// The snapshot.
    Status(Box<Status>),
    /// It is done, and kept over a restart.
    Done {
        /// Cut: whether the site had a lease. Lift: whether it was kept out.
        was: bool,
    },
    /// It is not.
    Refused {
        /// Why.
        detail: String,
    },
}

/// Makes the socket, for the owner of the process alone.
///
/// # Errors
/// Of the operating system; `AddrInUse` where another gate answers there.
pub async fn bind(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another gate runs on this folder"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The folder is the owner's alone (0700), so that nobody comes before the mode is set.
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers for as long as the gate runs.
pub async fn serve(gate: Arc<Gate>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(timeout(PATIENCE, exchange(Arc::clone(&gate), stream)))),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn exchange(gate: Arc<Gate>, stream: UnixStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_REQUEST_BYTES)).read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => answer(&gate, request).await,
        Err(error) => Response::Refused { detail: format!("request does not parse: {error}") },
    };
    let mut bytes = serde_json::to_vec(&response)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

async fn answer(gate: &Gate, request: Request) -> Response {
    let (leases, clock) = (&gate.admission.leases, &gate.admission.clock);
    let was = match request {
        Request::Status => return Response::Status(Box::new(Status::of(gate))),
        Request::Cut { site, .. } | Request::Lift { site } if !is_site_name(&site) => {
            return Response::Refused { detail: format!("`{site}` is no name of a site; hint: the site alone, without its project") };
        }
        Request::Cut { site, seconds } => {
            tracing::info!(%site, seconds, code = "cut", "the operator keeps a site out");
            leases.cut(&site, clock.now().unix.0.saturating_add(seconds))
        }
        Request::Lift { site } => {
            tracing::info!(%site, "the operator lets a site in again");
            leases.lift(&site)
        }
    };
    match gate.state.save(leases, &gate.admission.keys, clock).await {
        Ok(()) => Response::Done { was },
        Err(error) => {
            tracing::error!(%error, "what must survive a restart is not kept");
            Response::Refused { detail: format!("done, but a restart would forget it: {}", crate::failure::chain(&error)) }
        }
    }
}

/// As project.yml has them: letters, digits, `-`, `_`, `.`; at most 64.
fn is_site_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Asks a running gate.
///
/// # Errors
/// If none answers.
pub async fn ask(path: &Path, request: &Request) -> io::Result<Response> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        stream.write_all(&bytes).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(serde_json::from_slice(&answer)?)
    };
    timeout(PATIENCE, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sites_are_names() {
        assert!(is_site_name("site-1") && is_site_name("a.b_C"));
        for name in ["", "no/site", "a b", "é", "a\n", &"x".repeat(65)] {
            assert!(!is_site_name(name), "{name}");
        }
    }

    #[test]
    fn questions_have_one_form() {
        let cut = Request::Cut { site: "site-1".into(), seconds: 600 };
        let text = serde_json::to_string(&cut).expect("JSON");
        assert_eq!(text, r#"{"cut":{"site":"site-1","seconds":600}}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).expect("a request"), cut);
        assert!(serde_json::from_str::<Request>(r#"{"cut":{"site":"site-1","seconds":600,"more":1}}"#).is_err());
    }
}
