//! A connection whose peer takes what is sent to it, or loses it.
//!
//! Heads and bodies have an end of their own; without this, a peer that asks and does not read would keep its place for good.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream of which no write waits longer than `patience` for the peer to take anything.
pub struct Patient<S> {
    inner: S,
    patience: Duration,
    end: Pin<Box<Sleep>>,
    waits: bool,
}

impl<S> Patient<S> {
    /// Wraps a stream, within a runtime with a clock.
    pub fn new(inner: S, patience: Duration) -> Self {
        Self { inner, patience, end: Box::pin(sleep(patience)), waits: false }
    }

    /// Passes an answer on; one that has to wait for the peer becomes an error in the end.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, answer: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if answer.is_ready() {
            self.waits = false;
            return answer;
        }
        if !self.waits {
            self.waits = true;
            self.end.as_mut().reset(Instant::now() + self.patience);
        }
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not take its answers"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let answer = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.bounded(cx, answer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let answer = Pin::new(&mut self.inner).poll_flush(cx);
        self.bounded(cx, answer)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let answer = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.bounded(cx, answer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn a_peer_that_does_not_read_loses_its_connection() {
        run(async {
            let (service, _peer) = duplex(64);
            let mut service = Patient::new(service, Duration::from_millis(50));
            service.write_all(&[1; 64]).await.unwrap();
            let begun = Instant::now();
            let given_up = service.write_all(&[1; 64]).await.unwrap_err();
            assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
            assert!(begun.elapsed() >= Duration::from_millis(50));
        });
    }

    #[test]
    fn one_that_reads_slowly_keeps_it_as_long_as_it_reads() {
        run(async {
            let (service, mut peer) = duplex(64);
            let mut service = Patient::new(service, Duration::from_millis(500));
            let reader = async {
                let (mut taken, mut some) = (0, [0; 64]);
                while taken < 20 * 64 {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    taken += peer.read(&mut some).await.unwrap();
                }
            };
            // Longer than its patience in all.
            let (written, ()) = tokio::join!(service.write_all(&[1; 20 * 64]), reader);
            written.unwrap();
        });
    }
}
