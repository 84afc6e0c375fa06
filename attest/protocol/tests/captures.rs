//! What stock clients and the stock service really said, read by this crate.

#[path = "support/stock.rs"]
mod stock;

use std::fs;

use coffer_evidence::HostData;
use coffer_protocol::{
    Attestation, Challenge, ClientKey, ErrorInformation, Jwe, JweError, JwkError, Request, SealRandom, Tee, TeeKey, TokenResponse, open,
    seal,
};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha384};
use stock::StockKey;

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

/// The private JWK of a published test key: `ec256`, `ec521`, `rsa`.
fn jwk(name: &str) -> Option<Value> {
    let path = system_tests::vectors::path(&format!("kbs/tee-key-{name}.TEST.jwk.json"))?;
    Some(serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON"))
}

fn test_key() -> Option<TeeKey> {
    let jwk = jwk("ec256")?;
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

/// The model of the client opens what the real service sealed for the real client, so it may judge what we seal.
#[test]
fn stock_clients_of_every_kind_open_what_the_stock_service_and_what_we_seal() {
    for name in ["ec256", "ec521", "rsa"] {
        let (Some(jwk), Some(flow)) = (jwk(name), flow(&format!("real-kbs-{name}"))) else { return };
        let key = StockKey::from_jwk(&jwk);
        let answers: Vec<_> = flow.iter().filter(|e| e.response.body.contains("\"protected\"")).collect();
        assert_eq!(answers.len(), 2, "{name}: one by cookie, one by bearer token");
        for answer in answers {
            assert_eq!(key.open(answer.response.body.as_bytes()), b"disk-key-0123456789", "{name}");
        }
        let sent = flow.iter().find(|e| is_attest(e)).expect("has one");
        let attestation = Attestation::parse(sent.request.body.as_bytes()).expect("parses");
        let public = attestation.runtime_data.tee_pubkey();
        assert_eq!(public, &ClientKey::from_jwk(&key.public()).expect("a key"), "{name}: the capture has this key's public half");
        for seed in 1..20 {
            let random = SealRandom { ephemeral: [seed; 66], content_key: [seed; 32], iv: [seed; 12] };
            let secret = vec![seed; usize::from(seed) * 7];
            assert_eq!(key.open(&seal(&secret, public, &random).expect("seals").to_bytes()), secret, "{name}");
        }
    }
}

/// The header we write is, byte for byte, of the shape that the real service wrote: same members, same order, same widths.
#[test]
fn our_headers_have_the_shape_of_the_stock_services() {
    for name in ["ec256", "ec521", "rsa"] {
        let Some(flow) = flow(&format!("real-kbs-{name}")) else { return };
        let sent = flow.iter().find(|e| is_attest(e)).expect("has one");
        let attestation = Attestation::parse(sent.request.body.as_bytes()).expect("parses");
        let random = SealRandom { ephemeral: [1; 66], content_key: [2; 32], iv: [3; 12] };
        let ours = seal(b"disk-key-0123456789", attestation.runtime_data.tee_pubkey(), &random).expect("seals");
        let answer = flow.iter().find(|e| e.response.body.contains("\"protected\"")).expect("has one");
        let theirs = Jwe::parse(answer.response.body.as_bytes()).expect("parses");
        assert_eq!(ours.to_bytes().len(), answer.response.body.len(), "{name}");
        assert_eq!(shape(&ours.protected), shape(&theirs.protected), "{name}");
        assert_eq!(ours.encrypted_key.len(), theirs.encrypted_key.len(), "{name}");
    }
}

/// A header's text with the values of `x` and `y` blanked.
fn shape(protected: &str) -> String {
    let text = String::from_utf8(BASE64URL_NOPAD.decode(protected.as_bytes()).expect("base64url")).expect("text");
    let header: Value = serde_json::from_str(&text).expect("JSON");
    let blank = |text: String, name: &str| match header["epk"][name].as_str() {
        Some(value) => text.replace(value, &"_".repeat(value.len())),
        None => text,
    };
    blank(blank(text, "x"), "y")
}

#[test]
#[should_panic(expected = "aes-256-gcm decrypt failed")]
fn the_model_of_the_client_fails_on_another_order_of_members() {
    let key = StockKey::P256(p256::SecretKey::from_slice(&[7; 32]).expect("a scalar"));
    let random = SealRandom { ephemeral: [8; 66], content_key: [9; 32], iv: [10; 12] };
    let jwe = seal(b"secret", &ClientKey::from_jwk(&key.public()).expect("a key"), &random).expect("seals");
    let text = String::from_utf8(BASE64URL_NOPAD.decode(jwe.protected.as_bytes()).expect("base64url")).expect("text");
    let swapped = text.replacen(r#""crv":"P-256","kty":"EC""#, r#""kty":"EC","crv":"P-256""#, 1);
    assert_ne!(swapped, text);
    // Sealed under the swapped text, as a service would that writes `kty` first: the client writes it back and cannot decrypt.
    let protected = BASE64URL_NOPAD.encode(swapped.as_bytes());
    let cipher = <aes_gcm::Aes256Gcm as aes_gcm::aead::KeyInit>::new(&[9; 32].into());
    let payload = aes_gcm::aead::Payload { msg: b"secret", aad: protected.as_bytes() };
    let sealed = aes_gcm::aead::Aead::encrypt(&cipher, &[10; 12].into(), payload).expect("seals");
    let (ciphertext, tag) = sealed.split_at(6);
    let (ciphertext, tag) = (BASE64URL_NOPAD.encode(ciphertext), BASE64URL_NOPAD.encode(tag));
    key.open(&Jwe { protected, ciphertext, tag, ..jwe }.to_bytes());
}

/// The sample attester's evidence repeats the hash it was given, so each capture is a known answer.
#[test]
fn runtime_data_hashes_to_what_the_stock_client_computed() {
    let mut seen = 0;
    for (name, exchange) in exchanges().into_iter().filter(|(_, e)| is_attest(e)) {
        let attestation = Attestation::parse(exchange.request.body.as_bytes()).expect(name);
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

/// Each capture's key is of the kind its name says, and what we write of it is what the client wrote.
#[test]
fn the_captured_keys_are_read_by_kind() {
    for (flow, kind) in exchanges().into_iter().filter(|(_, e)| is_attest(e)).map(|(name, exchange)| {
        let attestation = Attestation::parse(exchange.request.body.as_bytes()).expect(name);
        let sent: Value = serde_json::from_str(&exchange.request.body).expect("JSON");
        assert_eq!(attestation.runtime_data.tee_pubkey().to_jwk(), sent["runtime-data"]["tee-pubkey"], "{name}");
        (name, attestation.runtime_data.tee_pubkey().clone())
    }) {
        let expected = match flow {
            "get-resource-ec521" | "real-kbs-ec521" => matches!(kind, ClientKey::P521(_)),
            "get-resource-rsa" | "real-kbs-rsa" => matches!(kind, ClientKey::Rsa(_)),
            _ => matches!(kind, ClientKey::P256(_)),
        };
        assert!(expected, "{flow}: {kind:?}");
    }
}

/// A stock host puts the initdata's digest into HOST_DATA, by the algorithm that the text names, cut to 32 bytes.
#[test]
fn captured_initdata_is_bound_by_its_digest() {
    let Some(flow) = flow("attest-initdata") else { return };
    let sent = flow.iter().find(|e| is_attest(e)).expect("has one");
    let init_data = Attestation::parse(sent.request.body.as_bytes()).expect("parses").init_data.expect("has one");
    assert!(init_data.body.contains("algorithm = \"sha384\""), "{}", init_data.body);
    let digest: [u8; 48] = Sha384::digest(init_data.body.as_bytes()).into();
    let host_data = HostData::new(digest[..32].try_into().expect("32 bytes"));
    assert!(init_data.is_bound_by(&host_data));
    assert!(!init_data.is_bound_by(&HostData::new([0; 32])));
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
                let attestation = Attestation::parse(sent.body.as_bytes()).expect(name);
                assert_eq!(Some(*attestation.runtime_data.nonce()), nonce, "{name}");
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
    assert_eq!(attestation.runtime_data.tee_pubkey(), &ClientKey::from(key.public()));
}
