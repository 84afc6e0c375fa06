//! The accept loop: TLS, HTTP/1.1 with bounds on everything a peer can make us hold, graceful stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::config::Limits;
use crate::http::{Held, SourceBound, SourceShare};

/// A TLS handshake takes two round trips; a peer that needs longer holds a connection for nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The whole request head; also the longest a kept-alive connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
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
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, limits: Limits, mut stop: Stop) -> io::Result<()> {
    let bound = SourceBound::new(limits.requests_per_second_per_source, limits.burst_per_source, Instant::now());
    let share = SourceShare::new(limits.connections.div_ceil(SOURCE_SHARE));
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(limits.connections as usize));
    let graceful = GracefulShutdown::new();
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
                    tokio::spawn(connection(stream, peer, acceptor.clone(), router.clone(), graceful.watcher(), place));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests in flight did not end within {} s", STOP_TIMEOUT.as_secs());
    }
    Ok(())
}

/// What a connection takes up. Fields drop in this order: when the slot is free, so is the source's share.
struct Place {
    _held: Held,
    _slot: OwnedSemaphorePermit,
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    _place: Place,
) {
    // Small answers; without this each waits for an ACK.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake timed out"),
    };
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}
