//! A TCP connection under TLS: read in large pieces, and closed with RST where it is cut.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Where much comes, it is read in such pieces: rustls asks for 4 KiB at a time, and one copy costs less than sixteen system calls.
const MUCH: usize = 64 * 1024;
/// Where little comes. A thousand connections that say little hold no more than this each.
const LITTLE: usize = 4 * 1024;
/// So many small reads in a row are little.
const SMALL_READS: u32 = 64;

/// Makes the connection end with RST when it is dropped.
#[derive(Debug, Clone, Default)]
pub struct Reset(Arc<AtomicBool>);

impl Reset {
    /// From now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One connection.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    reset: Reset,
    buffer: Vec<u8>,
    /// How many reads in a row would have fitted a small buffer.
    small_reads: u32,
    /// What of the buffer is not read yet.
    unread: std::ops::Range<usize>,
}

impl Socket {
    /// Takes a connection. Small writes leave at once.
    #[must_use]
    pub fn new(tcp: TcpStream) -> Self {
        Self::that_ends_with(tcp, Reset::default())
    }

    /// One that is reset when another is.
    #[must_use]
    pub fn that_ends_with(tcp: TcpStream, reset: Reset) -> Self {
        // Fails where the connection is gone already, which the first read will say.
        let _ = tcp.set_nodelay(true);
        Self { tcp, reset, buffer: vec![0; LITTLE], small_reads: 0, unread: 0..0 }
    }

    /// The handle that outlives what the socket is wrapped in.
    #[must_use]
    pub fn reset(&self) -> Reset {
        self.reset.clone()
    }

    /// Makes the empty buffer as large as the last reads were.
    fn fit(&mut self) {
        let last = self.unread.end;
        if self.buffer.len() == LITTLE && last == LITTLE {
            self.buffer = vec![0; MUCH];
        }
        self.small_reads = if last < LITTLE { self.small_reads.saturating_add(1) } else { 0 };
        if self.buffer.len() == MUCH && self.small_reads > SMALL_READS {
            self.buffer = vec![0; LITTLE];
        }
        self.unread = 0..0;
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut into = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut into))?;
        let read = into.filled().len();
        self.unread = 0..read;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.0.load(Ordering::Relaxed) {
            // Fails where the connection is gone already.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unread.is_empty() {
            if buf.remaining() >= this.buffer.len() {
                return Pin::new(&mut this.tcp).poll_read(cx, buf);
            }
            this.fit();
            ready!(this.poll_fill(cx))?;
        }
        let count = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.buffer[this.unread.start..this.unread.start + count]);
        this.unread.start += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
