//! Answers of whoever terminates the key service's connection, as PID 1 reads them.
#![no_main]

use std::io::{self, Read, Write};

use coffer_fuzz::plant;
use libfuzzer_sys::fuzz_target;

use crate::http::{Connection, Request, Response};

#[path = "../../../../guest-init/src/http.rs"]
#[allow(dead_code)]
mod http;

const MAX_BODY_BYTES: usize = 200;
/// Enough answers on one connection to see one end where the next begins.
const REQUESTS: usize = 4;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let whole = answers(bytes, usize::MAX);
    for answer in whole.iter().flatten() {
        assert!((200..600).contains(&answer.status), "{answer:?}");
        assert!(answer.body.len() <= MAX_BODY_BYTES, "bounded");
        if let Some(cookie) = &answer.cookie {
            assert!(cookie.contains('=') && cookie.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';'), "goes back as it is: {cookie}");
        }
    }
    // Where the network cuts the bytes makes no difference.
    assert_eq!(answers(bytes, 1), whole);
    assert_eq!(answers(bytes, 7), whole);
});

/// What a connection gives, up to and with the first error.
fn answers(incoming: &[u8], step: usize) -> Vec<Result<Response, String>> {
    let mut connection = Connection::new(Peer { incoming, step });
    let mut answers = Vec::new();
    for _ in 0..REQUESTS {
        let request = Request { method: "POST", path: "/kbs/v0/auth", host: "a.test", cookie: None, body: b"{}" };
        let answer = connection.send(&request, MAX_BODY_BYTES).map_err(|error| error.to_string());
        let over = answer.as_ref().map_or(true, |answer| answer.closes);
        answers.push(answer);
        if over {
            break;
        }
    }
    answers
}

/// Takes everything, says what it was given, a few bytes at a time.
struct Peer<'a> {
    incoming: &'a [u8],
    step: usize,
}

impl Read for Peer<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.step.min(out.len());
        self.incoming.read(&mut out[..length])
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn made() -> [&'static [u8]; 4] {
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nSet-Cookie: kbs-session-id=ab12; Secure\r\n\r\nhelloHTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n",
        b"HTTP/1.0 404 Not Found\r\nConnection: close\r\n\r\nhello",
        b"HTTP/1.1 304 x\n\nHTTP/1.1 500 \r\ncontent-length:0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ]
}
