//! Signed admin calls: any text, and any header and claims under a signature that holds.
//!
//! Input: a header, a line feed, a payload; the target signs them with the admin's key.
#![no_main]

use coffer_fuzz::plant;
use coffer_token::admin::{AdminSigner, Call, MAX_LIFETIME_SECONDS, check, named_key};
use coffer_token::{Hex, MAX_SKEW_SECONDS, UnixTime};
use data_encoding::BASE64URL_NOPAD;
use libfuzzer_sys::fuzz_target;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const ADMIN_KEY: [u8; 48] = [1; 48];
const NOW: UnixTime = UnixTime(1_795_400_000);
const CALL: Call<'static> = Call { audience: "attest.demo.test", method: "POST", path: "/admin/v1/sites?x=1", body: b"{}" };

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let admin = AdminSigner::from_random(&ADMIN_KEY).expect("a scalar").public();
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(check(text, &admin, &CALL, NOW).is_err(), "nothing in a seed is signed");
        let _ = named_key(text);
    }
    let split = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, payload) = (&bytes[..split], bytes.get(split + 1..).unwrap_or_default());
    let input = format!("{}.{}", BASE64URL_NOPAD.encode(header), BASE64URL_NOPAD.encode(payload));
    // A signature takes most of the time: only for what would be looked at.
    let Ok(kid) = named_key(&format!("{input}.")) else { return };
    let signature: Signature = SigningKey::from_slice(&ADMIN_KEY).expect("a scalar").sign(input.as_bytes());
    let token = format!("{input}.{}", BASE64URL_NOPAD.encode(&signature.to_bytes()));
    assert_eq!(named_key(&token).expect("as before"), kid);

    let Ok(checked) = check(&token, &admin, &CALL, NOW) else { return };
    assert_eq!(kid, admin.id());
    let said: Value = serde_json::from_slice(payload).expect("claims are JSON");
    assert_eq!(serde_json::to_value(checked.claims()).expect("encodes"), said, "claims say what the payload says, all of it");
    let times = (said["iat"].as_u64().expect("a number"), said["exp"].as_u64().expect("a number"));
    assert!(times.0 <= NOW.0 + MAX_SKEW_SECONDS && times.1 > NOW.0 && times.1 - times.0 <= MAX_LIFETIME_SECONDS, "{times:?}");
    let body = Hex::<32>(Sha256::digest(CALL.body).into()).to_string();
    for (member, value) in [("aud", CALL.audience), ("method", CALL.method), ("path", CALL.path), ("body_sha256", body.as_str())] {
        assert_eq!(said[member], value, "it stands for this call");
    }
    let other = Call { path: "/admin/v1/sites", ..CALL };
    assert!(check(&token, &admin, &other, NOW).is_err(), "and for no other");
});

fn made() -> Vec<Vec<u8>> {
    let token = AdminSigner::from_random(&ADMIN_KEY).expect("a scalar").sign(&CALL, "c-1", NOW, 60).expect("signs");
    let parts: Vec<_> = token.split('.').map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).expect("base64url")).collect();
    vec![[&parts[0][..], b"\n", &parts[1]].concat()]
}
