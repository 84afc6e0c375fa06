//! Sealed secrets as PID 1 receives them.
#![no_main]

use coffer_fuzz::{captured_bodies, plant};
use coffer_protocol::{Jwe, SealRandom, TeeKey, open, seal};
use libfuzzer_sys::fuzz_target;

const SECRET: [u8; 32] = [0x5A; 32];

fuzz_target!(init: plant([sealed().to_bytes()].into_iter().chain(captured_bodies(&["kbs/get-resource-ec256.jsonl"]))), |bytes: &[u8]| {
    let Ok(jwe) = Jwe::parse(bytes) else { return };
    let Ok(plaintext) = open(&jwe, &key()) else { return };
    assert_eq!(jwe, sealed(), "only what was sealed to this key opens, member for member");
    assert_eq!(plaintext.as_slice(), SECRET);
    assert_eq!(Jwe::parse(&jwe.to_bytes()).expect("what we write, we read"), jwe);
});

fn key() -> TeeKey {
    TeeKey::from_random(&[7; 32]).expect("a scalar")
}

fn sealed() -> Jwe {
    let random = SealRandom { ephemeral: [8; 66], content_key: [9; 32], iv: [10; 12] };
    seal(&SECRET, &key().public().into(), &random).expect("seals")
}
