//! `/run/coffer/attest.sock`: where the workload reads its job token and how it stands. HTTP/1.1, one request per connection. It gives
//! out what renewal and the gate's client have put into the standing, and nothing else: no report, no key, no signature.

mod request;

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use coffer_manifest::User;
use rustix::fs::{AtFlags, Gid, Mode, Uid, chmodat, chownat};
use serde_json::{Value, json};

use self::request::{Asked, Unanswered, head_length, parse};
use crate::root::tree::{Tree, TreeError, proc_path};
use crate::standing::{Lease, Standing, State, Verdict};

/// The folder of the agent in the container. A memory file system of PID 1's.
pub const FOLDER: &str = "run/coffer";
/// The socket in it.
const SOCKET: &str = "attest.sock";
/// How many connections are served at once; further ones wait. Only the workload can connect, so it only keeps itself waiting.
const WORKERS: usize = 4;
/// How long a connection may take, from its start to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait when the kernel gives no connection: no memory, or no descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// The workload cannot be given its socket.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its folder in the container's root.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The socket or a thread.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn doing(what: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::Io { what, source }
}

/// Opens the socket in the container whose root is `tree`, for `user` (and root) alone, and answers on it for as long as the guest runs.
///
/// # Errors
/// See [`AgentError`].
pub fn start(tree: &Tree, user: &User, standing: &Arc<Standing>) -> Result<(), AgentError> {
    let listener = listen(tree, user)?;
    let listener = Arc::new(listener);
    for _ in 0..WORKERS {
        let (listener, standing) = (listener.clone(), standing.clone());
        let serve = move || {
            loop {
                match listener.accept() {
                    // A peer that goes away or takes too long is not answered; there is nobody to tell.
                    Ok((stream, _)) => drop(answer(stream, &standing)),
                    Err(_) => thread::sleep(PAUSE),
                }
            }
        };
        thread::Builder::new().name("agent".into()).spawn(serve).map_err(doing("start a thread"))?;
    }
    Ok(())
}

fn listen(tree: &Tree, user: &User) -> Result<UnixListener, AgentError> {
    let folder = tree.folder(FOLDER)?;
    // The folder is root's, and no workload runs yet: nobody changes what the name means between these calls.
    let listener = UnixListener::bind(format!("{}/{SOCKET}", proc_path(&folder))).map_err(doing("open attest.sock"))?;
    chmodat(&folder, SOCKET, Mode::from_raw_mode(0o600), AtFlags::empty())
        .and_then(|()| chownat(&folder, SOCKET, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)), AtFlags::SYMLINK_NOFOLLOW))
        .map_err(|errno| doing("give attest.sock to the workload")(errno.into()))?;
    Ok(listener)
}

fn answer(mut stream: UnixStream, standing: &Standing) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let asked = match read_head(&mut stream, deadline)? {
        Ok(head) => parse(&head),
        Err(too_long) => Err(too_long),
    };
    let response = match asked {
        Ok(Asked::Token) => token(&standing.now()),
        Ok(Asked::Status) => Response { status: "200 OK", more: "", body: status(&standing.now(), Instant::now()) },
        Err(why) => unanswered(why),
    };
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(&response.to_bytes())
}

/// Everything up to the empty line, and no more than the limit. What follows a head is not read: no request here has a body.
fn read_head(stream: &mut UnixStream, deadline: Instant) -> io::Result<Result<Vec<u8>, Unanswered>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        match head_length(&head) {
            Ok(Some(length)) => {
                head.truncate(length);
                return Ok(Ok(head));
            }
            Ok(None) => {}
            Err(too_long) => return Ok(Err(too_long)),
        }
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => head.extend_from_slice(&chunk[..length]),
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

struct Response {
    status: &'static str,
    /// Further header lines.
    more: &'static str,
    body: Value,
}

impl Response {
    fn to_bytes(&self) -> Vec<u8> {
        let body = format!("{}\n", self.body);
        let head = "Content-Type: application/json\r\nCache-Control: no-store\r\nConnection: close";
        format!("HTTP/1.1 {}\r\n{head}\r\n{}Content-Length: {}\r\n\r\n{body}", self.status, self.more, body.len()).into_bytes()
    }
}

fn token(state: &State) -> Response {
    let body = match (&state.token, &state.verdict) {
        (Some(token), _) => {
            let body = json!({ "token": token.text, "issued_at": token.issued_at, "expires_at": token.expires_at });
            return Response { status: "200 OK", more: "", body };
        }
        (None, Verdict::Refused { code, id }) => json!({ "code": code, "id": id }),
        // Nothing but a refusal takes a token away.
        (None, _) => json!({ "code": "no_token" }),
    };
    Response { status: "503 Service Unavailable", more: "", body }
}

fn status(state: &State, now: Instant) -> Value {
    let verdict = match &state.verdict {
        Verdict::Affirmed => json!({ "state": "affirmed" }),
        Verdict::Unreached(why) => json!({ "state": "unreached", "why": why }),
        Verdict::Refused { code, id } => json!({ "state": "refused", "code": code, "id": id }),
    };
    let lease = match &state.lease {
        Lease::NoGate => json!({ "state": "no_gate" }),
        Lease::Until(until) if *until > now => json!({ "state": "leased", "seconds": (*until - now).as_secs() }),
        Lease::Until(_) => json!({ "state": "none", "why": "over" }),
        Lease::None(why) => json!({ "state": "none", "why": why }),
        Lease::Refused { code, id } => json!({ "state": "refused", "code": code, "id": id }),
    };
    let token = state.token.as_ref().map(|token| json!({ "issued_at": token.issued_at, "expires_at": token.expires_at }));
    json!({ "verdict": verdict, "lease": lease, "token": token })
}

fn unanswered(why: Unanswered) -> Response {
    let (status, more, code) = match why {
        Unanswered::Malformed => ("400 Bad Request", "", "malformed"),
        Unanswered::NoSuchPath => ("404 Not Found", "", "no_such_path"),
        Unanswered::NoSuchMethod => ("405 Method Not Allowed", "Allow: GET\r\n", "no_such_method"),
        Unanswered::TooLong => ("431 Request Header Fields Too Large", "", "head_too_large"),
    };
    Response { status, more, body: json!({ "code": code }) }
}

#[cfg(test)]
mod tests;
