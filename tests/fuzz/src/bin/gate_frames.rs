//! What a guest and a gate say to each other: any bytes as a stream of frames, as a gate reads it.
//!
//! Input: frames, the first a hello, then renewals; as greetings and answers too, for a guest reads those.
#![no_main]

use coffer_fuzz::plant;
use coffer_token::Version1;
use coffer_token::lease::{
    Answer, FRAME_HEADER_BYTES, Greeting, Hello, MAX_FRAME_BYTES, NodeKey, Open, Renewal, frame_length, from_frame, to_frame,
};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let mut rest = bytes;
    while let Some((header, tail)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let Ok(length) = frame_length(*header) else { return };
        assert!(length <= MAX_FRAME_BYTES);
        let Some((body, tail)) = tail.split_at_checked(length) else { return };
        if let Some(hello) = read::<Hello>(body)
            && let Some(node) = &hello.node
            && let Ok(point) = node.to_sec1()
        {
            // One key, one form: whoever shows it in another has another thumbprint.
            assert_eq!(NodeKey::from_sec1(&point).expect("a point"), *node);
            assert!(node.thumbprint().is_ok());
        }
        read::<Renewal>(body);
        read::<Greeting>(body);
        read::<Answer>(body);
        rest = tail;
    }
});

/// What was read is what is sent again.
fn read<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(body: &[u8]) -> Option<T> {
    let message: T = from_frame(body).ok()?;
    if let Ok(frame) = to_frame(&message) {
        assert_eq!(from_frame::<T>(&frame[FRAME_HEADER_BYTES..]).expect("as it was sent"), message);
    }
    Some(message)
}

fn made() -> Vec<Vec<u8>> {
    let secret = p384::SecretKey::from_slice(&[7; 48]).expect("a scalar");
    let node = NodeKey::from_sec1(&secret.public_key().to_sec1_bytes()).expect("a point");
    let hello = |open, node| to_frame(&Hello { v: Version1, open, token: "a.b.c".into(), node }).expect("a frame");
    let renewal = to_frame(&Renewal { token: "d.e.f".into() }).expect("a frame");
    let greeting = to_frame(&Greeting { v: Version1, gate_token: Some("g.h.i".into()) }).expect("a frame");
    let admitted = to_frame(&Answer::Admitted { lease_seconds: 90, gate_token: Some("g.h.i".into()) }).expect("a frame");
    let refused = Answer::Refused { code: "cut".into(), detail: "kept out".into(), id: "g-1".into(), retry_after_seconds: 60 };
    let refused = to_frame(&refused).expect("a frame");
    vec![
        [hello(Open::Lease, Some(node)), renewal.clone(), renewal].concat(),
        hello(Open::Tunnel, None),
        [greeting, admitted, refused].concat(),
    ]
}
