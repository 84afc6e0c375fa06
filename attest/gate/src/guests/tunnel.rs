//! The workload's bytes, both ways: to the SuperLink as they are, or to what ends Flower's own TLS.

use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admission::sites::Site;
use crate::flower::Flower;
use crate::gate::Gate;
use crate::guests::socket::{Reset, Socket};
use crate::leases::Leased;

/// How long the SuperLink may take to accept a connection. It is on this machine or beside it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A direction's buffer where much flows: eight TLS records, encrypted and written at once.
const MUCH: usize = 128 * 1024;
/// Where little does.
const LITTLE: usize = 8 * 1024;
/// So many small transfers in a row are little.
const SMALL_TRANSFERS: u32 = 64;
/// How often within the idle timeout is looked whether anything has flowed.
const IDLE_LOOKS: u32 = 4;

/// The SuperLink's end of a tunnel; `None` where Flower's TLS ends here and each call finds its own way.
///
/// # Errors
/// If it does not accept connections.
pub async fn connect(gate: &Gate, reset: &Reset) -> io::Result<Option<Socket>> {
    if gate.admission.flower.terminates() {
        return Ok(None);
    }
    let connecting = TcpStream::connect(gate.config.flower.fleet.as_str());
    let tcp = timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(Some(Socket::that_ends_with(tcp, reset.clone())))
}

/// Carries bytes until both sides are done, one of them fails, or nothing flows for too long.
pub async fn carry<S>(gate: &Gate, leased: &Arc<Leased>, site: &Arc<Site>, guest: S, upstream: Option<Socket>, reset: &Reset)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    carry_within(gate.idle_timeout(), &gate.admission.flower, leased, site, guest, upstream, reset).await;
}

async fn carry_within<S>(
    idle_timeout: Duration,
    flower: &Flower,
    leased: &Arc<Leased>,
    site: &Arc<Site>,
    guest: S,
    upstream: Option<Socket>,
    reset: &Reset,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let meter = Arc::new(Meter { site: Arc::clone(site), flowed: AtomicU64::new(0) });
    // Pinned here: on timeout the connections are closed after `reset` is set and not before.
    let mut carried = pin!(async {
        match upstream {
            Some(mut upstream) => {
                let mut guest = guest;
                copy(&mut guest, &mut upstream, &meter).await.inspect_err(|_| reset.set())
            }
            None => flower.serve_fleet(Arc::clone(leased), Metered { inner: guest, meter: Arc::clone(&meter) }).await,
        }
    });
    let ended = tokio::select! {
        ended = &mut carried => ended,
        () = meter.idle(idle_timeout) => Err(io::ErrorKind::TimedOut.into()),
    };
    let bytes = meter.flowed.load(Ordering::Relaxed);
    if let Err(error) = ended {
        // Whoever is left hears it the same way.
        reset.set();
        tracing::debug!(site = %site.name, bytes, %error, "tunnel ended early");
    } else {
        tracing::debug!(site = %site.name, bytes, "tunnel ended");
    }
}

/// Counts what flows through one tunnel.
struct Meter {
    site: Arc<Site>,
    flowed: AtomicU64,
}

impl Meter {
    fn up(&self, count: usize) {
        self.site.bytes_up.fetch_add(count as u64, Ordering::Relaxed);
        self.flowed.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn down(&self, count: usize) {
        self.site.bytes_down.fetch_add(count as u64, Ordering::Relaxed);
        self.flowed.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Waits until nothing has flowed for so long, give or take a look.
    async fn idle(&self, limit: Duration) {
        let (mut seen, mut looks) = (self.flowed.load(Ordering::Relaxed), 0);
        while looks < IDLE_LOOKS {
            tokio::time::sleep(limit / IDLE_LOOKS).await;
            let now = self.flowed.load(Ordering::Relaxed);
            looks = if now == seen { looks + 1 } else { 0 };
            seen = now;
        }
    }
}

async fn copy<A, B>(guest: &mut A, upstream: &mut B, meter: &Meter) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Pipe::new(), Pipe::new());
    std::future::poll_fn(|cx| {
        let sent = up.poll(cx, &mut *guest, &mut *upstream, |count| meter.up(count))?;
        let received = down.poll(cx, &mut *upstream, &mut *guest, |count| meter.down(count))?;
        if sent.is_ready() && received.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction.
struct Pipe {
    buffer: Vec<u8>,
    /// What of the buffer is read and not yet written.
    held: Range<usize>,
    small: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes flow; all that was written has left.
    Clean,
    /// Bytes flow; some may still be in the writer's own buffer.
    Unflushed,
    /// The reader has said that it is done.
    Ending,
    /// The writer has been told.
    Done,
}

impl Pipe {
    fn new() -> Self {
        Self { buffer: vec![0; LITTLE], held: 0..0, small: 0, state: State::Clean }
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W, count: impl Fn(usize)) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.state == State::Done {
                return Poll::Ready(Ok(()));
            }
            self.fill(cx, from)?;
            if !self.held.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.held.clone()]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                count(written);
                self.wrote(written);
                continue;
            }
            match self.state {
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Done;
                }
                State::Unflushed => {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.state = State::Clean;
                    return Poll::Pending;
                }
                State::Clean | State::Done => return Poll::Pending,
            }
        }
    }

    /// Reads what is there, as far as there is room: the more is written at once, the less it costs.
    fn fill(&mut self, cx: &mut Context<'_>, from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        while self.state != State::Ending && self.held.end < self.buffer.len() {
            let mut into = ReadBuf::new(&mut self.buffer[self.held.end..]);
            match Pin::new(&mut *from).poll_read(cx, &mut into) {
                Poll::Ready(read) => {
                    read?;
                    match into.filled().len() {
                        0 => self.state = State::Ending,
                        count => self.held.end += count,
                    }
                }
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn wrote(&mut self, count: usize) {
        self.held.start += count;
        if self.state == State::Clean {
            self.state = State::Unflushed;
        }
        if self.held.is_empty() {
            let full = self.held.end == self.buffer.len();
            self.small = if self.held.end < LITTLE { self.small.saturating_add(1) } else { 0 };
            if full && self.buffer.len() == LITTLE {
                self.buffer = vec![0; MUCH];
            } else if self.small > SMALL_TRANSFERS && self.buffer.len() == MUCH {
                self.buffer = vec![0; LITTLE];
            }
            self.held = 0..0;
        }
    }
}

/// A guest's stream, with its bytes counted.
struct Metered<S> {
    inner: S,
    meter: Arc<Meter>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.meter.up(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.meter.down(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
        self.meter.down(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use coffer_token::UnixTime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::TcpListener;

    use super::*;
    use crate::admission::proof::tests::proof;
    use crate::admission::sites::Sites;
    use crate::config::Limits;
    use crate::flower::config;
    use crate::leases::{Instances, Leases, Step};
    use crate::service::clock::Now;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    fn meter() -> Meter {
        Meter { site: Sites::new(Limits::default()).of("site-1"), flowed: AtomicU64::new(0) }
    }

    #[test]
    fn every_byte_comes_through_in_order_both_ways_and_is_counted() {
        run(async {
            let (guest, mut inside) = duplex(5000);
            let (upstream, mut outside) = duplex(3000);
            let meter = meter();
            let bytes: Vec<u8> = (0..=255).cycle().take(1_000_003).collect();
            let (mut guest_read, mut guest_write) = tokio::io::split(guest);
            let (mut up_read, mut up_write) = tokio::io::split(upstream);
            let send = async {
                guest_write.write_all(&bytes).await.unwrap();
                guest_write.shutdown().await.unwrap();
            };
            let echo = async {
                let mut got = Vec::new();
                up_read.read_to_end(&mut got).await.unwrap();
                // The guest's end is closed; the other still carries.
                up_write.write_all(&got[..700_001]).await.unwrap();
                up_write.shutdown().await.unwrap();
            };
            let mut back = Vec::new();
            let (copied, (), (), read) =
                tokio::join!(copy(&mut inside, &mut outside, &meter), send, echo, guest_read.read_to_end(&mut back));
            copied.unwrap();
            read.unwrap();
            assert!(back == bytes[..700_001]);
            let counted = (meter.site.bytes_up.load(Ordering::Relaxed), meter.site.bytes_down.load(Ordering::Relaxed));
            assert_eq!(counted, (1_000_003, 700_001));
        });
    }

    #[test]
    fn a_tunnel_without_a_byte_is_idle_after_its_time_and_not_before() {
        run(async {
            let meter = meter();
            let limit = Duration::from_millis(200);
            let begun = Instant::now();
            let flow = async {
                for _ in 0..6 {
                    tokio::time::sleep(limit / 2).await;
                    meter.up(1);
                }
            };
            let (idle_at, ()) = tokio::join!(
                async {
                    meter.idle(limit).await;
                    begun.elapsed()
                },
                flow
            );
            assert!((limit * 4 - limit / 4..limit * 6).contains(&idle_at), "{idle_at:?}");
        });
    }

    /// The two ends of a TCP connection.
    async fn pair(reset: &Reset) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Socket::that_ends_with(near.unwrap(), reset.clone()), far.unwrap().0)
    }

    #[test]
    fn an_idle_tunnel_is_reset_at_both_ends_and_one_with_a_byte_now_and_then_is_not() {
        run(async {
            let flower: config::Flower = toml::from_str("mode = 'passthrough'\nfleet = '127.0.0.1:9'").unwrap();
            let leases = Arc::new(Leases::new(Duration::from_secs(60), Instances { burst: 1, every: Duration::from_secs(60) }));
            let flower = Flower::start(&flower, &config::Runs::absent(), Arc::clone(&leases)).await.unwrap();
            let now = Now { at: Instant::now(), unix: UnixTime(5) };
            let Ok(Step::Begin(leased)) = leases.prepare(&proof("site-1", 1, 5), now) else { panic!("no lease") };
            let (site, reset, limit) = (Sites::new(Limits::default()).of("site-1"), Reset::default(), Duration::from_millis(200));
            let ((inside, mut guest), (outside, mut upstream)) = (pair(&reset).await, pair(&reset).await);
            let begun = Instant::now();
            let carried = async {
                timeout(limit * 40, carry_within(limit, &flower, &leased, &site, inside, Some(outside), &reset)).await.unwrap();
                begun.elapsed()
            };
            let flow = async {
                for _ in 0..6 {
                    tokio::time::sleep(limit / 2).await;
                    guest.write_all(b"a").await.unwrap();
                }
            };
            let (after, ()) = tokio::join!(carried, flow);
            assert!(after >= limit * 7 / 2, "{after:?}");
            for end in [&mut guest, &mut upstream] {
                assert_eq!(end.read_to_end(&mut Vec::new()).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            }
        });
    }
}
