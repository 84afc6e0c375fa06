//! What stock clients and the stock service really said, read by this crate.

use std::collections::BTreeMap;
use std::fs;

use coffer_protocol::{
    Attestation, Challenge, ErrorInformation, Jwe, JweError, JwkError, MessageError, Request, RuntimeDataError, SealRandom, Tee, TeeKey,
    TeePublicKey, TokenResponse, open, seal,
};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const FLOWS: [&str; 12] = [
    "attest-initdata",
    "attest-with-sample-device",
    "deny-401",
    "deny-403",
    "get-resource-ec256",
    "get-resource-ec521",
    "get-resource-rsa",
    "notfound-404",
    "real-kbs-admin-and-get",
    "real-kbs-ec256",
    "real-kbs-ec521",
    "real-kbs-rsa",
];

#[derive(Deserialize)]
struct Exchange {
    request: Sent,
    response: Answered,
}

#[derive(Deserialize)]
struct Sent {
    method: String,
    path: String,
    body: String,
}

#[derive(Deserialize)]
struct Answered {
    status: u16,
    body: String,
}

fn flow(name: &str) -> Option<Vec<Exchange>> {
    let path = system_tests::vectors::path(&format!("kbs/{name}.jsonl"))?;
    let text = fs::read_to_string(path).expect("readable");
    Some(text.lines().map(|line| serde_json::from_str(line).expect("an exchange")).collect())
}

/// All exchanges of all flows, each with its flow's name; none where there are no vectors.
fn exchanges() -> Vec<(&'static str, Exchange)> {
    FLOWS.iter().filter_map(|name| Some((*name, flow(name)?))).flat_map(|(name, flow)| flow.into_iter().map(move |e| (name, e))).collect()
}

fn test_key() -> Option<TeeKey> {
    let path = system_tests::vectors::path("kbs/tee-key-ec256.TEST.jwk.json")?;
    let jwk: Value = serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON");
    let d = BASE64URL_NOPAD.decode(jwk["d"].as_str().expect("text").as_bytes()).expect("base64url");
    Some(TeeKey::from_random(&d.try_into().expect("32 bytes")).expect("a key"))
}

fn is_attest(exchange: &Exchange) -> bool {
    exchange.request.path == "/kbs/v0/attest"
}

#[test]
fn every_jwe_to_the_test_key_opens() {
    let (Some(key), Some(flow)) = (test_key(), flow("real-kbs-ec256")) else { return };
    let jwes: Vec<_> = flow.iter().filter(|e| e.response.body.contains("\"protected\"")).collect();
    assert_eq!(jwes.len(), 2, "one by cookie, one by bearer token");
    for exchange in jwes {
        let jwe = Jwe::parse(exchange.response.body.as_bytes()).expect("parses");
        assert_eq!(open(&jwe, &key).expect("opens").as_slice(), b"disk-key-0123456789");
        assert_eq!(jwe.to_bytes(), exchange.response.body.as_bytes(), "same member order and spacing");
    }
}

#[test]
fn jwes_to_other_keys_are_refused_by_name() {
    let Some(key) = test_key() else { return };
    for (name, other_key) in
        [("get-resource-ec256", true), ("real-kbs-admin-and-get", true), ("real-kbs-ec521", false), ("real-kbs-rsa", false)]
    {
        let flow = flow(name).expect("the vectors are here");
        let mut seen = 0;
        for exchange in flow.iter().filter(|e| e.response.body.contains("\"protected\"")) {
            let refused = open(&Jwe::parse(exchange.response.body.as_bytes()).expect("parses"), &key).expect_err(name);
            match refused {
                JweError::Unwrap => assert!(other_key, "{name}"),
                JweError::Ephemeral(JwkError::Unsupported { member: "crv", got, .. }) => {
                    assert_eq!((got.as_str(), other_key), ("P-521", false))
                }
                JweError::Header(_) => assert_eq!(name, "real-kbs-rsa", "an RSA header has no epk"),
                other => panic!("{name}: {other}"),
            }
            seen += 1;
        }
        assert!(seen > 0, "{name} has a JWE");
    }
}

/// Serialises a protected header the way the stock client does for its associated data: `alg`, `enc`, then the rest sorted.
fn as_the_stock_client(protected: &str) -> String {
    #[derive(Serialize, Deserialize)]
    struct Protected {
        alg: String,
        enc: String,
        #[serde(flatten)]
        other: BTreeMap<String, Value>,
    }
    let text = BASE64URL_NOPAD.decode(protected.as_bytes()).expect("base64url");
    let parsed: Protected = serde_json::from_slice(&text).expect("a header");
    BASE64URL_NOPAD.encode(&serde_json::to_vec(&parsed).expect("encodes"))
}

#[test]
fn a_stock_client_authenticates_our_header() {
    let key = TeeKey::from_random(&[7; 32]).expect("a key");
    for seed in 1..20 {
        let random = SealRandom { ephemeral: [seed; 32], content_key: [seed; 32], iv: [seed; 12] };
        let jwe = seal(b"secret", &key.public(), &random).expect("seals");
        assert_eq!(as_the_stock_client(&jwe.protected), jwe.protected);
    }
    for (name, exchange) in exchanges() {
        if exchange.response.body.contains("\"protected\"") {
            let jwe = Jwe::parse(exchange.response.body.as_bytes()).expect("parses");
            assert_eq!(as_the_stock_client(&jwe.protected), jwe.protected, "{name}: the model of the client is right");
        }
    }
}

/// The sample attester's evidence repeats the hash it was given, so each capture is a known answer.
#[test]
fn runtime_data_hashes_to_what_the_stock_client_computed() {
    let mut seen = 0;
    for (name, exchange) in exchanges().into_iter().filter(|(_, e)| is_attest(e)) {
        let Ok(attestation) = Attestation::parse(exchange.request.body.as_bytes()) else { continue };
        let evidence: Value = serde_json::from_str(attestation.primary_evidence.get()).expect("JSON");
        let expected = BASE64.decode(evidence["report_data"].as_str().expect("text").as_bytes()).expect("base64");
        let ours = attestation.runtime_data.report_data(&attestation.additional_evidence).expect("hashes");
        assert_eq!(ours.as_bytes()[..48], expected, "{name}");
        assert_eq!(ours.as_bytes()[48..], [0; 16]);
        assert!(attestation.runtime_data.coffer().is_none());
        assert_eq!(attestation.init_data.is_some(), name == "attest-initdata");
        assert_eq!(attestation.additional_evidence.is_empty(), name != "attest-with-sample-device");
        seen += 1;
    }
    assert!(seen == 0 || seen > 8, "{seen} attestations in the captures");
}

#[test]
fn the_published_answer() {
    let Some(flow) = flow("get-resource-ec256") else { return };
    let exchange = flow.iter().find(|e| is_attest(e)).expect("has one");
    let attestation = Attestation::parse(exchange.request.body.as_bytes()).expect("parses");
    let hash = attestation.runtime_data.report_data("").expect("hashes");
    assert_eq!(
        HEXLOWER.encode(&hash.as_bytes()[..48]),
        "9e9c0752362d28ad0b9edfa08b9f051682470362ee977b0b8512a41af96bd4c9f4fd54b7fc6d8d751cf7815cc490a43c"
    );
    assert_eq!(attestation.runtime_data.nonce().to_string(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
}

#[test]
fn keys_of_later_issues_are_refused_by_name() {
    for (name, member, value) in [("get-resource-ec521", "crv", "P-521"), ("get-resource-rsa", "kty", "RSA")] {
        let Some(flow) = flow(name) else { return };
        let exchange = flow.iter().find(|e| is_attest(e)).expect("has one");
        let refused = Attestation::parse(exchange.request.body.as_bytes()).expect_err(name);
        let MessageError::RuntimeData(RuntimeDataError::TeePublicKey(JwkError::Unsupported { member: which, got, .. })) = refused else {
            panic!("{name}: {refused}");
        };
        assert_eq!((which, got.as_str()), (member, value));
    }
}

#[test]
fn stock_requests_and_answers_parse() {
    let mut nonce = None;
    for (name, exchange) in exchanges() {
        let (sent, answered) = (&exchange.request, &exchange.response);
        match (sent.path.as_str(), answered.status) {
            ("/kbs/v0/auth", 200) => {
                let request = Request::parse(sent.body.as_bytes()).expect(name);
                assert_eq!(request, Request { tee: Tee::Other("sample".into()), coffer: false });
                let challenge = Challenge::parse(answered.body.as_bytes()).expect(name);
                assert!(!challenge.coffer);
                nonce = Some(challenge.nonce);
            }
            ("/kbs/v0/attest", 200) => {
                TokenResponse::parse(answered.body.as_bytes()).expect(name);
                if let Ok(attestation) = Attestation::parse(sent.body.as_bytes()) {
                    assert_eq!(Some(*attestation.runtime_data.nonce()), nonce, "{name}");
                }
            }
            (_, 400..) => {
                let error = ErrorInformation::parse(answered.body.as_bytes()).expect(name);
                assert!(error.kind.starts_with("https://github.com/confidential-containers/kbs/errors/"), "{name}");
                assert_eq!(error.refusal(), None, "a stock detail is prose");
            }
            _ => assert!(["GET", "POST"].contains(&sent.method.as_str())),
        }
    }
}

#[test]
fn the_test_key_is_the_one_in_the_capture() {
    let (Some(key), Some(flow)) = (test_key(), flow("real-kbs-ec256")) else { return };
    let exchange = flow.iter().find(|e| is_attest(e)).expect("has one");
    let attestation = Attestation::parse(exchange.request.body.as_bytes()).expect("parses");
    assert_eq!(attestation.runtime_data.tee_pubkey(), &key.public());
    assert_eq!(TeePublicKey::from_jwk(&key.public().to_jwk()).as_ref(), Ok(&key.public()));
}
