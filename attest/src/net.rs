//! The accept loop: TLS, HTTP/1.1 with bounds on everything a peer can make us hold, graceful stop.

mod automatic;
mod patient;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::config::Limits;
use crate::http::{Held, Service, SourceBound, SourceShare};
use crate::reason::Reason;
use automatic::{Automatic, Unheard};
use patient::Patient;

/// A TLS handshake takes two round trips; a peer that needs longer holds a connection for nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The whole request head; also the longest a kept-alive connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a peer may take nothing of what is sent to it. A line that is down for a moment comes back sooner.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a peer that was too slow may take to hear so.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Request line and headers. Two cookies of 4 KiB and a token of 4 KiB fit several times.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Header lines. Stock clients send six.
const MAX_HEADERS: usize = 64;
/// How long requests in flight may take once a stop was asked for.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// After an error of accept(2) itself, such as no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One source holds at most one in this many of the connections there may be, rounded up: hundreds of sites may sit behind one
/// address, and each needs one for some seconds.
const SOURCE_SHARE: u32 = 4;

/// SIGTERM and SIGINT, caught from the moment this exists: make it before telling anybody that the service is up.
#[derive(Debug)]
pub struct Stop {
    term: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Serves `router` until it is asked to stop, then finishes what is in flight.
///
/// A source that opens connections faster than it may send requests, or holds its share of them, is hung up on before TLS, whose
/// handshake costs more than most requests.
///
/// # Errors
/// If the bound on connections cannot be kept, which does not happen.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: Arc<Service>,
    router: Router,
    limits: Limits,
    mut stop: Stop,
) -> io::Result<()> {
    let bound = SourceBound::new(limits.requests_per_second_per_source, limits.burst_per_source, Instant::now());
    let share = SourceShare::new(limits.connections.div_ceil(SOURCE_SHARE));
    let slots = Arc::new(Semaphore::new(limits.connections as usize));
    let (stopping, stopped) = watch::channel(false);
    let serving = Arc::clone(&service);
    let shared = Shared { acceptor: TlsAcceptor::from(tls), service, router, stopped };
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot.map_err(io::Error::other)?,
            () = stop.asked() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.asked() => break,
        };
        match accepted {
            Ok((_, peer)) if !bound.allow(peer.ip(), Instant::now()) => {}
            Ok((stream, peer)) => {
                if let Some(held) = share.take(peer.ip()) {
                    let place = Place { _held: held, _slot: slot };
                    tokio::spawn(connection(stream, peer, shared.clone(), place));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    serving.end_waiting();
    // Connections that are idle end at once, the others after what they are at; then every slot is free.
    let _ = stopping.send(true);
    if tokio::time::timeout(STOP_TIMEOUT, slots.acquire_many(limits.connections)).await.is_err() {
        tracing::warn!("requests in flight did not end within {} s", STOP_TIMEOUT.as_secs());
    }
    Ok(())
}

/// What every connection needs.
#[derive(Clone)]
struct Shared {
    acceptor: TlsAcceptor,
    service: Arc<Service>,
    router: Router,
    stopped: watch::Receiver<bool>,
}

/// What a connection takes up. Fields drop in this order: when the slot is free, so is the source's share.
struct Place {
    _held: Held,
    _slot: OwnedSemaphorePermit,
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Shared, _place: Place) {
    let Shared { acceptor, service, router, mut stopped } = shared;
    // Small answers; without this each waits for an ACK.
    let _ = stream.set_nodelay(true);
    let stream = Patient::new(stream, WRITE_TIMEOUT);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake timed out"),
    };
    let respond = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request.map(Body::new))
    });
    let unheard = Arc::clone(&service);
    let stream = Automatic::new(TokioIo::new(stream), Box::new(move |what| unheard.refuse_unheard(reason(what), peer)));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(stream, respond);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = until(&mut stopped) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let Err(error) = ended else { return };
    tracing::debug!(%peer, %error, "connection ended early");
    let parts = connection.into_parts();
    // An idle connection that is closed was not refused anything.
    if error.is_timeout() && !parts.read_buf.is_empty() {
        let mut stream = parts.io.into_inner().into_inner();
        let answer = service.refuse_unheard(Reason::Slow, peer);
        let farewell = async {
            stream.write_all(&answer).await?;
            stream.shutdown().await
        };
        // Whether a peer that is too slow hears it is the peer's affair.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
    }
}

/// Waits for the stop; a sender that is gone is one.
async fn until(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

const fn reason(unheard: Unheard) -> Reason {
    match unheard {
        Unheard::Malformed => Reason::MalformedHttp,
        Unheard::UriTooLong => Reason::UriTooLong,
        Unheard::HeadTooLarge => Reason::HeadTooLarge,
    }
}
