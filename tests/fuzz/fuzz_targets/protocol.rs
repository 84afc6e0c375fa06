//! KBS messages and JWEs, from either side of a connection.
#![no_main]

use coffer_protocol::{ErrorInformation, Jwe, P384Key, TeePublicKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = coffer_protocol::Request::parse(bytes);
    let _ = coffer_protocol::Challenge::parse(bytes);
    let _ = coffer_protocol::Attestation::parse(bytes);
    let _ = coffer_protocol::TokenResponse::parse(bytes);
    if let Ok(error) = ErrorInformation::parse(bytes) {
        let _ = error.refusal();
    }
    if let Ok(jwe) = Jwe::parse(bytes) {
        let again = Jwe::parse(&jwe.to_bytes()).expect("what we write, we read");
        assert_eq!(again.to_bytes(), jwe.to_bytes());
    }
    if let Ok(value) = serde_json::from_slice(bytes) {
        let _ = TeePublicKey::from_jwk(&value);
    }
    let _ = P384Key::from_sec1(bytes);
});
