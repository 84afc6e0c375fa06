//! Bearer tokens of stock admin tools: any text, and any header and claims under a signature that holds.
//!
//! Input: a header, a line feed, a payload; the target signs them with the service's key.
#![no_main]

use coffer_fuzz::plant;
use coffer_token::bearer::{BearerClaims, BearerScope, MAX_BEARER_SECONDS, check};
use coffer_token::{Expectation, Jkt, MAX_SKEW_SECONDS, Signer, UnixTime, Usage, Version1};
use data_encoding::BASE64URL_NOPAD;
use libfuzzer_sys::fuzz_target;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::Value;

const KEY: [u8; 32] = [1; 32];
const NOW: UnixTime = UnixTime(1_795_400_000);
const ISSUER: &str = "https://attest.demo.test";

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let keys = Signer::from_bytes(&KEY).expect("a scalar").jwks();
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(check(text, &keys, ISSUER, NOW).is_err(), "nothing in a seed is signed");
    }
    let split = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, payload) = (&bytes[..split], bytes.get(split + 1..).unwrap_or_default());
    // A signature takes most of the time: only for what would be looked at.
    if serde_json::from_slice::<Value>(header).is_err() || serde_json::from_slice::<Value>(payload).is_err() {
        return;
    }
    let input = format!("{}.{}", BASE64URL_NOPAD.encode(header), BASE64URL_NOPAD.encode(payload));
    let signature: Signature = SigningKey::from_slice(&KEY).expect("a scalar").sign(input.as_bytes());
    let token = format!("{input}.{}", BASE64URL_NOPAD.encode(&signature.to_bytes()));
    let Ok(checked) = check(&token, &keys, ISSUER, NOW) else { return };
    let said: Value = serde_json::from_slice(payload).expect("claims are JSON");
    assert_eq!(serde_json::to_value(checked.claims()).expect("encodes"), said, "claims say what the payload says, all of it");
    let (iat, exp) = (checked.claims().iat, checked.claims().exp);
    assert!(iat <= NOW.0 + MAX_SKEW_SECONDS && exp > NOW.0 && exp - iat <= MAX_BEARER_SECONDS, "{iat} {exp}");
    assert!(!checked.claims().scopes.is_empty() && checked.claims().iss == ISSUER && checked.claims().aud == ISSUER);
    let expected = Expectation { issuer: ISSUER, audience: ISSUER, root_of_trust: "amd-sev-snp", usage: Usage::KeyService };
    assert!(coffer_token::check(&token, &keys, &expected, NOW).is_err(), "it is no token of a guest");
});

fn made() -> Vec<Vec<u8>> {
    let claims = BearerClaims {
        v: Version1,
        iss: ISSUER.into(),
        aud: ISSUER.into(),
        jti: "b-1".into(),
        iat: NOW.0,
        exp: NOW.0 + MAX_BEARER_SECONDS,
        project: "demo".into(),
        scopes: BearerScope::ALL.to_vec(),
        admin: Jkt::new([7; 32]),
    };
    let token = Signer::from_bytes(&KEY).expect("a scalar").sign_bearer(&claims).expect("signs");
    let parts: Vec<_> = token.split('.').map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).expect("base64url")).collect();
    vec![[&parts[0][..], b"\n", &parts[1]].concat()]
}
