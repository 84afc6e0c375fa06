//! Sealed secrets as PID 1 receives them, and sealing to whatever key a client brings.
#![no_main]

use coffer_fuzz::{captured_bodies, plant, vectors};
use coffer_protocol::{ClientKey, Jwe, SealRandom, TeeKey, open, seal};
use libfuzzer_sys::fuzz_target;

const SECRET: [u8; 32] = [0x5A; 32];

const FLOWS: [&str; 3] = ["kbs/get-resource-ec256.jsonl", "kbs/real-kbs-ec521.jsonl", "kbs/real-kbs-rsa.jsonl"];
const KEYS: [&str; 3] = ["kbs/tee-key-ec256.TEST.jwk.json", "kbs/tee-key-ec521.TEST.jwk.json", "kbs/tee-key-rsa.TEST.jwk.json"];

fuzz_target!(init: plant([sealed().to_bytes()].into_iter().chain(public_keys()).chain(captured_bodies(&FLOWS))), |bytes: &[u8]| {
    if let Ok(to) = serde_json::from_slice(bytes).map_err(drop).and_then(|jwk| ClientKey::from_jwk(&jwk).map_err(drop)) {
        // Any key that is taken can be sealed to, in the one spelling of the header that stock clients can open.
        let jwe = seal(&SECRET, &to, &random()).expect("seals");
        assert_eq!(Jwe::parse(&jwe.to_bytes()).expect("what we write, we read"), jwe);
        let header = data_encoding::BASE64URL_NOPAD.decode(jwe.protected.as_bytes()).expect("base64url");
        assert!(header.starts_with(b"{\"alg\":\"") && !header.contains(&b' '), "{}", header.escape_ascii());
    }
    let Ok(jwe) = Jwe::parse(bytes) else { return };
    let Ok(plaintext) = open(&jwe, &key()) else { return };
    assert_eq!(jwe, sealed(), "only what was sealed to this key opens, member for member");
    assert_eq!(plaintext.as_slice(), SECRET);
    assert_eq!(Jwe::parse(&jwe.to_bytes()).expect("what we write, we read"), jwe);
});

fn key() -> TeeKey {
    TeeKey::from_random(&[7; 32]).expect("a scalar")
}

fn random() -> SealRandom {
    SealRandom { ephemeral: [8; 66], content_key: [9; 32], iv: [10; 12] }
}

fn sealed() -> Jwe {
    seal(&SECRET, &key().public().into(), &random()).expect("seals")
}

/// The public halves of the published test keys, as clients send them.
fn public_keys() -> Vec<Vec<u8>> {
    let algs = ["ECDH-ES+A256KW", "ECDH-ES+A256KW", "RSA-OAEP-256"];
    let public = |(bytes, alg): (Vec<u8>, &str)| {
        let mut jwk: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        let members = jwk.as_object_mut().expect("an object");
        members.retain(|name, _| ["kty", "crv", "x", "y", "n", "e"].contains(&name.as_str()));
        members.insert("alg".into(), alg.into());
        jwk.to_string().into_bytes()
    };
    vectors(&KEYS).into_iter().zip(algs).map(public).collect()
}
