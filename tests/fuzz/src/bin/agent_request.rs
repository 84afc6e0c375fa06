//! Requests of a workload over attest.sock, as PID 1 reads them.
#![no_main]

use coffer_fuzz::plant;
use libfuzzer_sys::fuzz_target;

use crate::request::{Asked, MAX_HEAD_BYTES, Unanswered, head_length, parse};

#[path = "../../../../guest-init/src/agent/request.rs"]
#[allow(dead_code)]
mod request;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    // However the bytes come in, the same head is found.
    let whole = head_length(bytes);
    let cuts = (0..bytes.len()).step_by(1 + bytes.len() / 64).chain([bytes.len()]);
    let piecewise = cuts.map(|end| head_length(&bytes[..end])).find(|found| *found != Ok(None)).unwrap_or(Ok(None));
    match whole {
        Ok(Some(length)) => {
            assert!(length <= MAX_HEAD_BYTES && piecewise == whole);
            let head = &bytes[..length];
            match parse(head) {
                Ok(asked) => {
                    let path = match asked {
                        Asked::Token => "/v1/token",
                        Asked::Status => "/v1/status",
                    };
                    assert!(head.starts_with(format!("GET {path} HTTP/1.").as_bytes()), "{asked:?}");
                }
                Err(why) => assert_ne!(why, Unanswered::TooLong),
            }
        }
        Ok(None) => assert!(bytes.len() < MAX_HEAD_BYTES && piecewise == whole),
        Err(why) => assert!(why == Unanswered::TooLong && piecewise == whole && bytes.len() >= MAX_HEAD_BYTES),
    }
    let _ = parse(bytes);
});

fn made() -> [&'static [u8]; 4] {
    [
        b"GET /v1/token HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n",
        b"GET /v1/status HTTP/1.0\r\n\r\n",
        b"POST /v1/token HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /v1/report HTTP/1.1\r\nX: \t\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ]
}
