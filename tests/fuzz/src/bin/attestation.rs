//! `POST /kbs/v0/attest`: the largest thing a stranger may send, runtime-data and evidence included.
#![no_main]

use coffer_evidence::{HostData, Report, SnpEvidence};
use coffer_fuzz::{captured_bodies, plant};
use coffer_protocol::{
    Attestation, BoundKeys, ClientKey, KeySet, Nonce, P384Key, Purpose, ReceivedRuntimeData, RuntimeData, TeeKey, X25519Key, attestation_body,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

const FLOWS: [&str; 6] = [
    "kbs/get-resource-ec256.jsonl",
    "kbs/real-kbs-ec256.jsonl",
    "kbs/real-kbs-ec521.jsonl",
    "kbs/real-kbs-rsa.jsonl",
    "kbs/attest-initdata.jsonl",
    "kbs/attest-with-sample-device.jsonl",
];

fuzz_target!(init: plant(made().into_iter().chain(captured_bodies(&FLOWS))), |bytes: &[u8]| {
    if let Ok(attestation) = Attestation::parse(bytes) {
        let _ = attestation.runtime_data.report_data(&attestation.additional_evidence).expect("strings encode");
        if let Some(init_data) = &attestation.init_data {
            assert!(!init_data.is_bound_by(&HostData::new([0; 32])), "a text with this digest is not found by fuzzing");
        }
        let _ = SnpEvidence::from_json(attestation.primary_evidence.get().as_bytes());
    }
    // runtime-data alone: what a report binds does not depend on how its text is written.
    let Ok(raw) = serde_json::from_slice::<Box<RawValue>>(bytes) else { return };
    let Ok(received) = ReceivedRuntimeData::parse(&raw) else { return };
    let value: Value = serde_json::from_str(raw.get()).expect("runtime-data is JSON");
    for text in [value.to_string(), serde_json::to_string_pretty(&value).expect("encodes")] {
        // White space may make it too long.
        let Ok(again) = ReceivedRuntimeData::parse(&RawValue::from_string(text).expect("JSON")) else { return };
        assert_eq!(again, received);
        assert_eq!(again.report_data("x").expect("encodes"), received.report_data("x").expect("encodes"));
    }
    assert_ne!(received.report_data("x").expect("encodes"), received.report_data("y").expect("encodes"));
    // What was understood, written by us, is understood alike; its hash differs where the client had members of its own.
    let mut ours = value;
    ours["tee-pubkey"] = received.tee_pubkey().to_jwk();
    if let ClientKey::P256(key) = received.tee_pubkey() {
        ours = RuntimeData { nonce: *received.nonce(), tee_pubkey: key.clone(), coffer: received.coffer().cloned() }.to_json();
    }
    let ours = RawValue::from_string(ours.to_string()).expect("JSON");
    let again = ReceivedRuntimeData::parse(&ours).expect("what we write, we read");
    assert_eq!((again.nonce(), again.tee_pubkey(), again.coffer()), (received.nonce(), received.tee_pubkey(), received.coffer()));
});

fn made() -> Vec<Vec<u8>> {
    let key = |byte: u8| P384Key::from_sec1(&[[4].as_slice(), &[byte; 96]].concat()).expect("right size");
    let keys = KeySet { tls: key(1), node: Some(key(2)), wg: Some(X25519Key::new([3; 32])) };
    let tee_pubkey = TeeKey::from_random(&[7; 32]).expect("a scalar").public();
    let mut report = [0; Report::LEN];
    report[0] = 3;
    let evidence = SnpEvidence { report: Report::parse(&report).expect("version 3"), certificates: Vec::new() };
    let evidence = evidence.to_raw_value().expect("fits");
    let both = [None, Some(BoundKeys { purpose: Purpose::Boot, keys })].map(|coffer| {
        let data = RuntimeData { nonce: Nonce::new([1; 32]), tee_pubkey: tee_pubkey.clone(), coffer };
        [data.to_json().to_string().into_bytes(), attestation_body(&data, &evidence, "").expect("fits")]
    });
    both.concat()
}
