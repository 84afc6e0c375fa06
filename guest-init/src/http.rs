//! The little of HTTP/1.1 (RFC 9112) that a key service needs: one request, one answer, every length bounded.

use std::io::{self, BufRead, BufReader, Read, Write};

/// The longest status line plus headers read, in bytes.
const MAX_HEAD_BYTES: u64 = 16 * 1024;

/// The other side does not speak the HTTP we do.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection failed.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// The status line, a header or a chunk is malformed.
    #[error("answer is no HTTP/1.1: malformed {what}")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// Longer than anybody needs.
    #[error("answer has {what} of more than {max} bytes")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// The limit.
        max: u64,
    },
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// 200 and so on.
    pub status: u16,
    /// `name=value` of the first Set-Cookie header.
    pub cookie: Option<String>,
    /// The body, whole.
    pub body: Vec<u8>,
    /// The server closes the connection after this answer.
    pub closes: bool,
}

/// One connection; any number of requests, one after the other.
pub struct Connection<S>(BufReader<S>);

/// A request. Everything in it is ours: it is not escaped.
pub struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Absolute path.
    pub path: &'a str,
    /// `host[:port]`.
    pub host: &'a str,
    /// `name=value` of the session cookie.
    pub cookie: Option<&'a str>,
    /// JSON, empty for none.
    pub body: &'a [u8],
}

impl<S: Read + Write> Connection<S> {
    /// Speaks HTTP over `stream`.
    pub fn new(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// Sends `request` and reads the answer, its body at most `max_body` bytes.
    ///
    /// # Errors
    /// See [`HttpError`]; after one the connection is of no more use.
    pub fn send(&mut self, request: &Request<'_>, max_body: usize) -> Result<Response, HttpError> {
        let Request { method, path, host, body, .. } = request;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: coffer-init\r\nAccept: application/json\r\n");
        if let Some(cookie) = request.cookie {
            head.push_str(&format!("Cookie: {cookie}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let stream = self.0.get_mut();
        stream.write_all(&[head.as_bytes(), body].concat())?;
        stream.flush()?;
        read_response(&mut self.0, max_body)
    }
}

/// How long a body is.
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

fn read_response(reader: &mut impl BufRead, max_body: usize) -> Result<Response, HttpError> {
    let mut budget = MAX_HEAD_BYTES;
    let status = parse_status(&read_line(reader, &mut budget)?)?;
    let mut cookie = None;
    let mut framing = Framing::UntilClose;
    let mut closes = false;
    loop {
        let line = read_line(reader, &mut budget)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or(HttpError::Malformed { what: "header" })?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = value.parse().map_err(|_| HttpError::Malformed { what: "content-length" })?;
                // RFC 9112 section 6.3: with both headers, chunked counts.
                if !matches!(framing, Framing::Chunked) {
                    framing = Framing::Length(length);
                }
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => framing = Framing::Chunked,
            "transfer-encoding" => return Err(HttpError::Malformed { what: "transfer-encoding" }),
            "connection" => closes |= value.eq_ignore_ascii_case("close"),
            "set-cookie" if cookie.is_none() => cookie = Some(parse_cookie(value)?),
            _ => {}
        }
    }
    let body = if matches!(status, 204 | 304) { Vec::new() } else { read_body(reader, &framing, max_body)? };
    closes |= matches!(framing, Framing::UntilClose);
    Ok(Response { status, cookie, body, closes })
}

/// A line without its CRLF, taken off `budget`.
fn read_line(reader: &mut impl BufRead, budget: &mut u64) -> Result<String, HttpError> {
    let mut line = Vec::new();
    let read = reader.by_ref().take(*budget).read_until(b'\n', &mut line)?;
    *budget -= read as u64;
    match line.strip_suffix(b"\n") {
        Some(text) => {
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            String::from_utf8(text.to_vec()).map_err(|_| HttpError::Malformed { what: "header" })
        }
        None if *budget == 0 => Err(HttpError::TooLong { what: "headers", max: MAX_HEAD_BYTES }),
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

fn parse_status(line: &str) -> Result<u16, HttpError> {
    let malformed = HttpError::Malformed { what: "status line" };
    let Some(rest) = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 ")) else {
        return Err(malformed);
    };
    match rest.get(..3).and_then(|code| code.parse().ok()) {
        Some(code) if (200..600).contains(&code) => Ok(code),
        _ => Err(malformed),
    }
}

/// `name=value` of a Set-Cookie; refuses what could not go back in a Cookie header.
fn parse_cookie(value: &str) -> Result<String, HttpError> {
    let pair = value.split(';').next().unwrap_or_default().trim();
    let clean = pair.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if clean && pair.contains('=') { Ok(pair.to_owned()) } else { Err(HttpError::Malformed { what: "cookie" }) }
}

fn read_body(reader: &mut impl BufRead, framing: &Framing, max: usize) -> Result<Vec<u8>, HttpError> {
    let too_long = || HttpError::TooLong { what: "a body", max: max as u64 };
    let mut body = Vec::new();
    match framing {
        Framing::Length(length) => {
            if *length > max as u64 {
                return Err(too_long());
            }
            read_exactly(reader, *length, &mut body)?;
        }
        Framing::UntilClose => {
            reader.take(max as u64 + 1).read_to_end(&mut body)?;
            if body.len() > max {
                return Err(too_long());
            }
        }
        Framing::Chunked => {
            // Chunk lines and trailers share the head's limit, so that empty extensions cannot go on for ever.
            let mut budget = MAX_HEAD_BYTES;
            loop {
                let line = read_line(reader, &mut budget)?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size = u32::from_str_radix(digits, 16).map_err(|_| HttpError::Malformed { what: "chunk" })?;
                if size == 0 {
                    while !read_line(reader, &mut budget)?.is_empty() {}
                    break;
                }
                if body.len() as u64 + u64::from(size) > max as u64 {
                    return Err(too_long());
                }
                read_exactly(reader, size.into(), &mut body)?;
                if !read_line(reader, &mut budget)?.is_empty() {
                    return Err(HttpError::Malformed { what: "chunk" });
                }
            }
        }
    }
    Ok(body)
}

fn read_exactly(reader: &mut impl BufRead, length: u64, into: &mut Vec<u8>) -> Result<(), HttpError> {
    let read = reader.take(length).read_to_end(into)?;
    if read as u64 == length { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Response, HttpError> {
        read_response(&mut text.as_bytes(), 100)
    }

    #[test]
    fn three_framings_give_one_body() {
        let length = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nSet-Cookie: kbs-session-id=ab12; Secure\r\n\r\nhello";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n";
        let close = "HTTP/1.0 200 OK\r\n\r\nhello";
        for text in [length, chunked, close] {
            assert_eq!(read(text).expect("parses").body, b"hello", "{text}");
        }
        assert!(!read(length).expect("parses").closes && read(close).expect("parses").closes);
        assert!(read("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").expect("parses").closes);
        assert_eq!(read(length).expect("parses").cookie.as_deref(), Some("kbs-session-id=ab12"));
        assert_eq!(read("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").expect("parses").status, 404);
    }

    #[test]
    fn lengths_are_bounded() {
        let endless_head = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(20_000));
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\n\r\n{}", "z".repeat(101)),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n",
            &endless_head,
        ] {
            assert!(matches!(read(text), Err(HttpError::TooLong { .. })), "{}", text.len());
        }
    }

    #[test]
    fn what_is_no_http_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nset-cookie: a=b c\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhello\r\n",
        ] {
            assert!(matches!(read(text), Err(HttpError::Malformed { .. })), "{text}");
        }
        assert!(matches!(read("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"), Err(HttpError::Io(_))));
    }

    proptest! {
        #[test]
        fn reading_is_total(bytes: Vec<u8>) {
            let _ = read_response(&mut bytes.as_slice(), 100);
        }

        #[test]
        fn headers_are_total(tail: Vec<u8>) {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            bytes.extend_from_slice(&tail);
            if let Ok(response) = read_response(&mut bytes.as_slice(), 100) {
                prop_assert!(response.body.len() <= 100);
            }
        }
    }
}
