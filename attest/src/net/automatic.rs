//! What hyper answers by itself, before the service has heard of a request: bytes that are no HTTP, a head that is too long.
//!
//! Those answers have no body, and a KBS client reports an answer without one as a parse error. So they are replaced on their way
//! out by the RFC 7807 form that every other refusal has.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

/// How a status line of hyper's begins.
const STATUS_LINE: &[u8] = b"HTTP/1.1 ";
/// How a head ends.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What hyper means by an answer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unheard {
    /// 400: no HTTP.
    Malformed,
    /// 414: a longer target than HTTP has names for.
    UriTooLong,
    /// 431: more, or longer, header lines than are read.
    HeadTooLarge,
}

/// Makes the whole answer, head and body.
pub type Answer = Box<dyn Fn(Unheard) -> Vec<u8> + Send>;

/// A connection that replaces hyper's own answers.
pub struct Automatic<S> {
    inner: S,
    answer: Answer,
    /// What goes out instead of what hyper wrote, and how much of it has.
    instead: Vec<u8>,
    sent: usize,
    /// How many bytes of hyper's it stands for.
    stands_for: usize,
}

impl<S> Automatic<S> {
    /// Wraps a connection.
    pub fn new(inner: S, answer: Answer) -> Self {
        Self { inner, answer, instead: Vec::new(), sent: 0, stands_for: 0 }
    }

    /// The connection itself.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Read + Unpin> Read for Automatic<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: Write + Unpin> Write for Automatic<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_empty() {
            let Some((before, unheard)) = split(buf) else { return Pin::new(&mut this.inner).poll_write(cx, buf) };
            this.instead = [before, &(this.answer)(unheard)].concat();
            (this.sent, this.stands_for) = (0, buf.len());
        }
        while this.sent < this.instead.len() {
            let n = ready!(Pin::new(&mut this.inner).poll_write(cx, &this.instead[this.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.sent += n;
        }
        this.instead.clear();
        Poll::Ready(Ok(this.stands_for))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The bytes before an answer of hyper's own, and what that answer means.
///
/// hyper writes one only as the last thing on a connection: a head with `content-length: 0` and no content type. Every refusal of
/// the service has both a body and a type, so none is mistaken for it.
fn split(written: &[u8]) -> Option<(&[u8], Unheard)> {
    if !written.ends_with(HEAD_END) {
        return None;
    }
    let at = written.windows(STATUS_LINE.len()).rposition(|window| window == STATUS_LINE)?;
    let (before, head) = written.split_at(at);
    let unheard = match head.get(STATUS_LINE.len()..STATUS_LINE.len() + 3)? {
        b"400" => Unheard::Malformed,
        b"414" => Unheard::UriTooLong,
        b"431" => Unheard::HeadTooLarge,
        _ => return None,
    };
    let has = |line: &[u8]| head.to_ascii_lowercase().windows(line.len()).any(|window| window == line);
    (has(b"\r\ncontent-length: 0\r\n") && !has(b"\r\ncontent-type:")).then_some((before, unheard))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";

    #[test]
    fn hypers_own_answers_are_told_from_the_services() {
        assert_eq!(split(OWN), Some((&b""[..], Unheard::HeadTooLarge)));
        let after_another = [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", OWN].concat();
        assert_eq!(split(&after_another).map(|(before, _)| before.len()), Some(after_another.len() - OWN.len()));
        for service in [
            &b"HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: 90\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 400",
            b"\r\n\r\n",
            b"",
        ] {
            assert_eq!(split(service), None, "{}", service.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn splitting_never_panics(bytes: Vec<u8>, text in "(HTTP/1.1 |[0-9]{3}|\r\n|content-length: 0){0,12}") {
            let _ = split(&bytes);
            let _ = split(text.as_bytes());
        }
    }
}
