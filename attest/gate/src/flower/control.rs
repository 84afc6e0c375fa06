//! The Control front: between `flwr run` and the SuperLink's Control API, so that a run starts only when the required sites hold a lease.
//!
//! gRPC over HTTP/2 up to Flower 1.39, HTTP/1.1 from 1.40. Every Control call goes on as it is, who may make which is Flower's to say;
//! StartRun is held against `[runs] require`, and calls of Fleet and Runtime never pass here.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::fleet::{is_call, problem, short, to_superlink};
use super::protobuf;
use super::rule::grpc_message;
use super::runs::Runs;
use super::upstream::{Link, Passing, SuperLink, strip};

/// Of people and their scripts.
const CONNECTIONS: usize = 256;

/// For TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// For the head of a request, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// How often an HTTP/2 client is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(60);

/// How long the rest of a refused request is read for, so that its sender gets to the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest answer to StartRun, in bytes; those of Flower have some ten.
const ANSWER_BYTES: usize = 64 * 1024;

/// Whoever reaches the front could make an unattested key known, or burn a site's: an unregistered key never comes back.
const NODES_ARE_OURS: &str =
    "coffer-gate registers nodes itself, from attested keys; another node is registered at the SuperLink's own port";

/// gRPC services of Control: `Exec` up to Flower 1.20, `Control` since.
const SERVICES: [&str; 2] = ["/flwr.proto.Control/", "/flwr.proto.Exec/"];

/// The same over HTTP.
const PREFIX: &str = "/v1/control/";

/// gRPC status codes (gRPC over HTTP/2, Status codes).
#[derive(Debug, Clone, Copy)]
enum Status {
    /// Which `flwr` up to 1.25 prints with its message; it shows a stack trace for others.
    PermissionDenied = 7,
    /// Which `flwr` from 1.26 prints as it is.
    FailedPrecondition = 9,
    /// No such call.
    Unimplemented = 12,
    /// The SuperLink does not answer.
    Unavailable = 14,
}

/// What stands in front of the SuperLink's Control API.
pub struct Control {
    /// With the certificate that Flower's clients trust.
    pub tls: TlsAcceptor,
    /// Where calls go.
    pub superlink: SuperLink,
    /// Decides, and keeps what was started.
    pub runs: Arc<Runs>,
    /// Whether `flwr` prints FAILED_PRECONDITION as it is.
    pub prints_precondition: bool,
}

/// What a call does.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    /// Starts a run now.
    StartRun,
    /// Starts runs later, when nobody can hold them against the rule.
    StartAutomation,
    /// Makes a node key known, or unknown for ever.
    ChangeNodes,
    /// Anything else of Control's.
    Other,
}

impl Control {
    /// Serves until the process ends.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let front = Arc::clone(&self);
                    tokio::spawn(async move {
                        front.connection(stream, peer).await;
                        drop(turn);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the Control front cannot accept");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.tls.accept(stream)).await else {
            tracing::debug!(%peer, "no TLS at the Control front");
            return;
        };
        let link = Link::default();
        let http2 = self.superlink.http2;
        let service = service_fn(move |request| {
            let (front, link) = (Arc::clone(&self), link.clone());
            async move { Ok::<_, Infallible>(front.answer(request, &link, peer).await) }
        });
        let stream = TokioIo::new(stream);
        let ended = if http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY);
            builder.serve_connection(stream, service).await
        } else {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            builder.serve_connection(stream, service).await
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection of the Control front ends");
        }
    }

    async fn answer(&self, request: Request<Incoming>, link: &Link, peer: SocketAddr) -> Response<Passing> {
        let path = request.uri().path().to_owned();
        let Some(call) = call(request.method(), request.uri().query(), &path, self.superlink.http2) else {
            tracing::warn!(%peer, path = short(&path), "refused a call that is none of Control's");
            drain(request.into_body()).await;
            return self.refusal(Status::Unimplemented, StatusCode::NOT_FOUND, "the gate's Control front takes Control calls only");
        };
        let refused = match call {
            Call::StartRun => self.runs.may_start().err().map(|shortfall| format!("coffer-gate starts no run: {shortfall}")),
            Call::StartAutomation if self.runs.need_sites() => {
                Some("coffer-gate starts no run: automations start runs when no gate can look".to_owned())
            }
            Call::ChangeNodes => Some(NODES_ARE_OURS.to_owned()),
            Call::StartAutomation | Call::Other => None,
        };
        if let Some(why) = refused {
            tracing::info!(%peer, path = short(&path), %why, "a Control call is refused");
            drain(request.into_body()).await;
            return self.refused(&why);
        }
        self.forward(request, link, &path, call == Call::StartRun).await
    }

    async fn forward(&self, request: Request<Incoming>, link: &Link, path: &str, starts: bool) -> Response<Passing> {
        let (mut head, body) = request.into_parts();
        if starts {
            // The answer is read: it must not be compressed.
            head.headers.remove("grpc-accept-encoding");
            head.headers.remove(header::ACCEPT_ENCODING);
        }
        let (superlink, link, runs) = (self.superlink.clone(), link.clone(), Arc::clone(&self.runs));
        let request = to_superlink(&superlink, path, head.headers, body);
        let asked = async move {
            let (head, body) = link.send(&superlink, request).await.map_err(|error| error.to_string())?.into_parts();
            let body =
                if starts && head.status == StatusCode::OK { note_run(body, &runs, superlink.http2).await? } else { Passing::On(body) };
            Ok((head, body))
        };
        // A task of its own where a run starts: it is looked after also where its client does not wait for the answer.
        let asked = if starts { tokio::spawn(asked).await.unwrap_or_else(|error| Err(error.to_string())) } else { asked.await };
        match asked {
            Ok((mut head, body)) => {
                strip(&mut head.headers);
                head.version = if self.superlink.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
                Response::from_parts(head, body)
            }
            Err(error) => self.unreachable(&error, path),
        }
    }

    fn refused(&self, why: &str) -> Response<Passing> {
        let status = if self.prints_precondition { Status::FailedPrecondition } else { Status::PermissionDenied };
        self.refusal(status, StatusCode::PRECONDITION_FAILED, why)
    }

    fn unreachable(&self, error: &str, path: &str) -> Response<Passing> {
        tracing::warn!(path = short(path), error, "a Control call is not answered");
        self.refusal(Status::Unavailable, StatusCode::BAD_GATEWAY, "the gate does not reach the SuperLink")
    }

    /// An error in Flower's form: a gRPC status without a message, or JSON with `detail`.
    fn refusal(&self, status: Status, http: StatusCode, text: &str) -> Response<Passing> {
        if !self.superlink.http2 {
            return problem(http, text, false);
        }
        let mut response = Response::new(Passing::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(status as u16));
        if let Ok(message) = HeaderValue::from_str(&grpc_message(text)) {
            headers.insert("grpc-message", message);
        }
        response
    }
}

/// What a call does, if it is one of Control's.
fn call(method: &Method, query: Option<&str>, path: &str, grpc: bool) -> Option<Call> {
    if method != Method::POST || query.is_some() {
        return None;
    }
    let name = if grpc {
        let name = SERVICES.iter().find_map(|service| path.strip_prefix(service))?;
        (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(name)?
    } else {
        is_call(path, PREFIX).then(|| &path[PREFIX.len()..])?
    };
    Some(match name {
        "StartRun" | "start-run" => Call::StartRun,
        "StartAutomation" | "start-automation" => Call::StartAutomation,
        "RegisterNode" | "register-node" | "UnregisterNode" | "unregister-node" => Call::ChangeNodes,
        _ => Call::Other,
    })
}

/// Reads the answer to StartRun and keeps the run.
async fn note_run(body: Incoming, runs: &Runs, grpc: bool) -> Result<Passing, String> {
    let read = Limited::new(body, ANSWER_BYTES).collect().await;
    let read = read.map_err(|error| format!("the answer to StartRun is not read, this run is not looked after: {error}"))?;
    let (trailers, bytes) = (read.trailers().cloned(), read.to_bytes());
    match if grpc { protobuf::run_id_of_grpc(&bytes) } else { protobuf::run_id(&bytes) } {
        Ok(Some(run)) => runs.started(run),
        // A gRPC error is an answer without a message, a run that was not made one without an id: Flower says why.
        Ok(None) => {}
        Err(protobuf::Unreadable) if bytes.is_empty() => {}
        Err(protobuf::Unreadable) => tracing::warn!("the answer to StartRun has no run id: this run is not looked after"),
    }
    Ok(Passing::Own((!bytes.is_empty()).then_some(bytes), trailers))
}

/// Reads what a client is still sending: clients of HTTP/1.1 look for an answer when they have sent everything.
async fn drain(body: Incoming) {
    let mut body = std::pin::pin!(body);
    let all = async { while let Some(Ok(_)) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {} };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, all).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_control_pass_and_no_others() {
        let grpc = |path: &str| call(&Method::POST, None, path, true);
        assert_eq!(grpc("/flwr.proto.Exec/StartRun"), Some(Call::StartRun));
        assert_eq!(grpc("/flwr.proto.Control/StartRun"), Some(Call::StartRun));
        assert_eq!(grpc("/flwr.proto.Control/StartAutomation"), Some(Call::StartAutomation));
        assert_eq!(grpc("/flwr.proto.Control/RegisterNode"), Some(Call::ChangeNodes));
        assert_eq!(grpc("/flwr.proto.Control/UnregisterNode"), Some(Call::ChangeNodes));
        assert_eq!(grpc("/flwr.proto.Control/StopRun"), Some(Call::Other));
        for path in
            ["/flwr.proto.Fleet/PullMessages", "/flwr.proto.Control/", "/flwr.proto.Control/A/B", "/flwr.proto.ServerAppIo/GetNodes", "/"]
        {
            assert_eq!(grpc(path), None, "{path}");
        }
        let http = |path: &str| call(&Method::POST, None, path, false);
        assert_eq!(http("/v1/control/start-run"), Some(Call::StartRun));
        assert_eq!(http("/v1/control/start-automation"), Some(Call::StartAutomation));
        assert_eq!(http("/v1/control/register-node"), Some(Call::ChangeNodes));
        assert_eq!(http("/v1/control/unregister-node"), Some(Call::ChangeNodes));
        assert_eq!(http("/v1/control/list-runs"), Some(Call::Other));
        for path in [
            "/v1/fleet/pull-messages",
            "/v1/runtime/start-automation",
            "/v1/control/../fleet/x",
            "/v1/control/Start-Run",
            "/v1/control/start-run/",
        ] {
            assert_eq!(http(path), None, "{path}");
        }
        assert_eq!(call(&Method::GET, None, "/v1/control/list-runs", false), None);
        assert_eq!(call(&Method::POST, Some("a"), "/v1/control/list-runs", false), None);
    }
}
