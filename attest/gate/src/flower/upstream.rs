//! Connections to the SuperLink, and what passes between two HTTP messages: bodies as they come, headers of the message alone.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// On the network of the SuperLink's host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers that are of a connection and not of a message (RFC 9110, section 7.6.1), and those that the gate writes itself.
const OF_A_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::CONTENT_LENGTH,
];

/// The SuperLink cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// No connection, or no TLS under the pinned authority.
    #[error("cannot connect to the SuperLink at {address}: {source}")]
    Connect {
        /// Where it should be.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// It does not speak HTTP.
    #[error("the SuperLink at {address} ends the connection: {source}")]
    Http {
        /// Where it is.
        address: String,
        /// The cause.
        source: hyper::Error,
    },
}

/// Where the SuperLink is and how it proves itself.
#[derive(Clone)]
pub struct SuperLink {
    /// `host:port`.
    pub address: String,
    /// In its certificate.
    pub name: ServerName<'static>,
    /// Trusts its authority alone.
    pub tls: TlsConnector,
    /// gRPC's HTTP/2, or HTTP/1.1.
    pub http2: bool,
}

/// A connection that was open when it was last looked at.
pub enum Sender {
    /// HTTP/1.1.
    One(http1::SendRequest<Passing>),
    /// HTTP/2.
    Two(http2::SendRequest<Passing>),
}

impl SuperLink {
    /// A new connection.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn connect(&self) -> Result<Sender, UpstreamError> {
        let connect = |source| UpstreamError::Connect { address: self.address.clone(), source };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            self.tls.connect(self.name.clone(), stream).await
        });
        let stream = opened.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(connect)?;
        let http = |source| UpstreamError::Http { address: self.address.clone(), source };
        if self.http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(http)?;
            // Ends with its sender, or with the SuperLink; whoever sends is told.
            tokio::spawn(connection);
            Ok(Sender::Two(sender))
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
            tokio::spawn(connection);
            Ok(Sender::One(sender))
        }
    }

    /// Sends over `open`, or over a new connection where that is none or was closed before a byte of the request was sent.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn send(&self, open: &mut Option<Sender>, request: Request<Passing>) -> Result<Response<Incoming>, UpstreamError> {
        let http = |source| UpstreamError::Http { address: self.address.clone(), source };
        let reused = open.as_ref().is_some_and(|sender| !sender.is_closed());
        let mut sender = match open.take() {
            Some(sender) if reused => sender,
            _ => self.connect().await?,
        };
        let answered = match sender.send(request).await {
            Ok(response) => Ok(response),
            Err((source, Some(request))) if reused => {
                tracing::debug!(error = %source, "the SuperLink had closed an idle connection");
                sender = self.connect().await?;
                sender.send(request).await.map_err(|(source, _)| source)
            }
            Err((source, _)) => Err(source),
        };
        *open = Some(sender);
        answered.map_err(http)
    }
}

type Unsent = (hyper::Error, Option<Request<Passing>>);

impl Sender {
    /// For another request at the same time, where the protocol has that.
    pub fn share(&self) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Two(sender) => Some(Self::Two(sender.clone())),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Passing>) -> Result<Response<Incoming>, Unsent> {
        let sent = match self {
            Self::One(sender) => {
                if let Err(error) = sender.ready().await {
                    return Err((error, Some(request)));
                }
                sender.try_send_request(request).await
            }
            Self::Two(sender) => {
                if let Err(error) = sender.ready().await {
                    return Err((error, Some(request)));
                }
                sender.try_send_request(request).await
            }
        };
        sent.map_err(|mut error| {
            let request = error.take_message();
            (error.into_error(), request)
        })
    }
}

/// Takes out the headers that are of a connection, those that `Connection` names among them.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_A_CONNECTION) {
        headers.remove(name);
    }
    // The last ones tell a server behind a proxy on its machine where a call comes from: it would believe whoever writes them.
    for name in ["keep-alive", "proxy-connection", "forwarded", "x-forwarded-for", "x-forwarded-proto"] {
        headers.remove(name);
    }
}

/// A body on its way: never whole in memory.
pub enum Passing {
    /// As it comes from the other side.
    On(Incoming),
    /// One that the gate has whole: its bytes, then its trailers.
    Own(Option<Bytes>, Option<HeaderMap>),
}

impl Passing {
    /// Text of the gate's own.
    pub fn own(text: impl Into<Bytes>) -> Self {
        Self::Own(Some(text.into()), None)
    }

    /// Nothing.
    pub const fn empty() -> Self {
        Self::Own(None, None)
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::On(body) => Pin::new(body).poll_frame(context),
            Self::Own(bytes, trailers) => {
                let frame = bytes.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::On(body) => body.is_end_stream(),
            Self::Own(bytes, trailers) => bytes.is_none() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::On(body) => body.size_hint(),
            Self::Own(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

/// The connection to the SuperLink that belongs to one connection of a client.
#[derive(Clone, Default)]
pub struct Link(Arc<Mutex<Option<Sender>>>);

impl Link {
    /// Sends a request and keeps the connection for the next. Over HTTP/1.1 requests of one client come one after the other; should two
    /// meet, the second gets a connection of its own.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn send(&self, superlink: &SuperLink, request: Request<Passing>) -> Result<Response<Incoming>, UpstreamError> {
        let mut open = {
            let mut kept = self.kept();
            match kept.as_ref().and_then(Sender::share) {
                Some(shared) => Some(shared),
                None => kept.take(),
            }
        };
        let answer = superlink.send(&mut open, request).await;
        *self.kept() = open;
        answer
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Sender>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_connection_stay_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
            ("proxy-connection", "keep-alive"),
            ("x-forwarded-for", "192.0.2.1"),
            ("flwr-timestamp", "now"),
        ] {
            headers.append(name, value.parse().expect("a value"));
        }
        headers.append("content-length", "7".parse().expect("a value"));
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["flwr-timestamp"]);
    }
}
