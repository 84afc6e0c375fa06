//! The short KBS messages, from either side of a connection, and what PID 1 reads from a token.
#![no_main]

use coffer_fuzz::{captured_bodies, plant};
use coffer_protocol::{Challenge, ErrorInformation, Nonce, Refusal, Request, TokenResponse};
use libfuzzer_sys::fuzz_target;

#[path = "../../../../guest-init/src/attest/verdict.rs"]
#[allow(dead_code)]
mod verdict;

const FLOWS: [&str; 4] = ["kbs/get-resource-ec256.jsonl", "kbs/real-kbs-ec256.jsonl", "kbs/deny-403.jsonl", "kbs/notfound-404.jsonl"];

fuzz_target!(init: plant(made().into_iter().chain(captured_bodies(&FLOWS))), |bytes: &[u8]| {
    let _ = Request::parse(bytes);
    if let Ok(challenge) = Challenge::parse(bytes) {
        assert_eq!(Challenge::parse(&challenge.to_bytes()).expect("what we write, we read"), challenge);
    }
    if let Ok(answer) = TokenResponse::parse(bytes) {
        assert_eq!(TokenResponse::parse(&answer.to_bytes()).expect("what we write, we read"), answer);
        see(&answer.token);
    }
    if let Ok(error) = ErrorInformation::parse(bytes) {
        // PID 1 prints both on a console.
        if let Some(refusal) = error.refusal() {
            assert_eq!(Refusal::new(refusal.code(), refusal.id()), Some(refusal.clone()));
            let text = refusal.to_string();
            assert!(error.detail == text || error.detail.strip_prefix(&text).is_some_and(|words| words.starts_with(" (")), "{error:?}");
            assert!(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) && text.len() <= 130);
        }
    }
    // Tokens are base64url, which mutation hardly ever gets right: the bytes as a payload.
    see(&format!("e30.{}.c2ln", data_encoding::BASE64URL_NOPAD.encode(bytes)));
});

/// The status goes to the console too.
fn see(token: &str) {
    if let Ok(verdict) = verdict::Verdict::read(token) {
        assert!(!verdict.status.is_empty() && verdict.status.bytes().all(|byte| byte.is_ascii_lowercase()), "{verdict:?}");
    }
}

fn made() -> Vec<Vec<u8>> {
    let challenge = |coffer| Challenge { nonce: Nonce::new([7; 32]), coffer }.to_bytes();
    let error = br#"{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"launch_digest: 7f-1"}"#;
    let words = br#"{"type":"x","detail":"protocol_version: 7f-1 (speaks another version)"}"#;
    let claims = br#"{"iat":7,"exp":9,"submods":{"cpu0":{"ear.status":"affirming"}}}"#;
    let request = |version: &str| String::from_utf8(Request::body(false)).expect("text").replace("0.4.0", version).into_bytes();
    let made = [challenge(true), challenge(false), error.to_vec(), words.to_vec(), claims.to_vec(), request("0.4.17"), request("0.3.0")];
    [Request::body(true), Request::body(false)].into_iter().chain(made).collect()
}
