//! What stock clients were seen to send, replayed request by request; evidence, nonce and path are substituted.

use std::fs;

use coffer_evidence::{Family, HostData, ReportData};
use coffer_protocol::{Attestation, Jwe};
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use sha2::{Digest as _, Sha384};

use crate::support::stock::StockKey;
use crate::support::{Answer, BASE, Client, Guest, ROOT_SECRET, Service, simulator};

struct Exchange {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    /// What the other service answered.
    status: u64,
}

fn exchanges(file: &str) -> Option<Vec<Exchange>> {
    let path = system_tests::vectors::path(&format!("kbs/{file}"))?;
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let request = &line["request"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Exchange {
            method: text(&request["method"]),
            path: text(&request["path"]),
            headers: request["headers"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            body: text(&request["body"]),
            status: line["response"]["status"].as_u64().unwrap(),
        }
    };
    Some(fs::read_to_string(path).unwrap().lines().map(read).collect())
}

/// Plays a capture against the service, as the client would: our nonce, our cookie, our token, evidence from `guest`.
struct Player<'a> {
    client: Client,
    guest: &'a Guest,
    asp: &'a coffer_simulator::Asp,
    resource: String,
    nonce: String,
    cookie: Option<String>,
    token: String,
}

impl Player<'_> {
    fn play(&mut self, exchange: &Exchange) -> Answer {
        let path = if exchange.path.contains("/resource/") { self.resource.clone() } else { exchange.path.clone() };
        let body = match exchange.path.as_str() {
            "/kbs/v0/auth" => exchange.body.replace(r#""tee":"sample""#, r#""tee":"snp""#),
            "/kbs/v0/attest" => self.attestation(&exchange.body),
            _ => exchange.body.clone(),
        };
        let mut headers = Vec::new();
        for (name, value) in &exchange.headers {
            match name.as_str() {
                "host" | "content-length" => {}
                // A jar sends what it was last given.
                "cookie" => headers.extend(self.cookie.as_ref().map(|cookie| (name.clone(), format!("kbs-session-id={cookie}")))),
                "authorization" => headers.push((name.clone(), format!("Bearer {}", self.token))),
                _ => headers.push((name.clone(), value.clone())),
            }
        }
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = self.client.send(&exchange.method, &path, &headers, body.as_bytes()).unwrap();
        if let Some(cookie) = &answer.cookie {
            self.cookie = Some(cookie.clone());
        }
        if answer.status == 200 && exchange.path == "/kbs/v0/auth" {
            self.nonce = answer.json()["nonce"].as_str().unwrap().to_owned();
        }
        if answer.status == 200 && exchange.path == "/kbs/v0/attest" {
            self.token = answer.json()["token"].as_str().unwrap().to_owned();
        }
        answer
    }

    /// The captured text with our nonce and the simulator's evidence over exactly that text.
    fn attestation(&self, captured: &str) -> String {
        let mut body: Value = serde_json::from_str(captured).unwrap();
        let old = body["runtime-data"]["nonce"].as_str().unwrap().to_owned();
        let text = captured.replace(&old, &self.nonce);
        let parsed = Attestation::parse(text.as_bytes()).unwrap();
        let report_data = parsed.runtime_data.report_data(&parsed.additional_evidence).unwrap();
        let evidence = self.asp.evidence(&self.guest.guest, ReportData::new(*report_data.as_bytes())).unwrap();
        body = serde_json::from_str(&text).unwrap();
        body["tee-evidence"]["primary_evidence"] = evidence.to_stock_value().unwrap();
        body.to_string()
    }
}

fn player<'a>(service: &Service, guest: &'a Guest, resource: String) -> Player<'a> {
    let asp = &crate::support::simulator(coffer_evidence::Family::Genoa).asp;
    Player { client: service.client(), guest, asp, resource, nonce: String::new(), cookie: None, token: String::new() }
}

/// The cookie form and the bearer form, against the real service's captures of every kind of key; what the client does with its own
/// key, by its own rule, opens what we seal.
#[test]
fn a_stock_client_gets_its_secret_by_cookie_and_by_bearer_token() {
    for kind in ["ec256", "ec521", "rsa"] {
        let Some(capture) = exchanges(&format!("real-kbs-{kind}.jsonl")) else { return };
        let key = fs::read(system_tests::vectors::path(&format!("kbs/tee-key-{kind}.TEST.jwk.json")).unwrap()).unwrap();
        let key = StockKey::from_jwk(&serde_json::from_slice(&key).unwrap());
        let service = Service::simulated();
        let guest = service.enrolled_guest("site-1");
        let mut player = player(&service, &guest, guest.resource("site-1", ""));
        let answers: Vec<_> = capture.iter().map(|exchange| player.play(exchange)).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) =
            (answers.iter().map(|a| u64::from(a.status)).collect(), capture.iter().map(|e| e.status).collect());
        assert_eq!(ours, theirs, "{kind}");
        answers[0].expect_refusal(401, "not_attested");
        let mut released = 0;
        for (n, answer) in answers.iter().enumerate().filter(|(n, _)| capture[*n].method == "GET" && *n > 0) {
            assert_eq!(answer.content_type, "application/json");
            assert_eq!(key.open(&answer.body), ROOT_SECRET, "{kind}, answer {n}");
            released += 1;
        }
        assert_eq!(released, 2, "{kind}: one by cookie, one by bearer token");
    }
}

/// The mock's captures end with the first secret; their keys are gone, so only the form of the answer can be looked at.
#[test]
fn the_other_captured_flows_run_to_their_end() {
    for (file, alg) in [
        ("get-resource-ec256.jsonl", "ECDH-ES+A256KW"),
        ("get-resource-ec521.jsonl", "ECDH-ES+A256KW"),
        ("get-resource-rsa.jsonl", "RSA-OAEP-256"),
        ("real-kbs-admin-and-get.jsonl", "ECDH-ES+A256KW"),
    ] {
        let Some(capture) = exchanges(file) else { return };
        let service = Service::simulated();
        let guest = service.enrolled_guest("site-1");
        let mut player = player(&service, &guest, guest.resource("site-1", ""));
        let mut released = 0;
        // What the client says; the admin's calls are another program's.
        for exchange in capture.iter().filter(|e| e.headers.iter().any(|(n, v)| n == "user-agent" && v.starts_with("attestation-agent"))) {
            let answer = player.play(exchange);
            let attested = exchange.headers.iter().any(|(n, _)| n == "cookie" || n == "authorization");
            match (exchange.method.as_str(), attested) {
                ("GET", false) => answer.expect_refusal(401, "not_attested"),
                ("GET", true) => {
                    let jwe = Jwe::parse(&answer.body).unwrap();
                    let header = String::from_utf8(BASE64URL_NOPAD.decode(jwe.protected.as_bytes()).unwrap()).unwrap();
                    assert!(header.starts_with(&format!(r#"{{"alg":"{alg}","enc":"A256GCM""#)), "{file}: {header}");
                    released += 1;
                }
                _ => assert_eq!(answer.status, 200, "{file}: {}", String::from_utf8_lossy(&answer.body)),
            }
        }
        assert!(released > 0, "{file}");
    }
}

/// A client that meets 401 after attesting does the whole handshake three times. It must get through all nine requests, and every
/// 401 must be one it can read. Here it is denied by a revocation, which we answer with 403: a client stops there.
#[test]
fn the_storm_of_nine_requests_is_survived_and_answered_with_403() {
    let Some(capture) = exchanges("deny-401.jsonl") else { return };
    assert_eq!(capture.len(), 9);
    let service = Service::simulated();
    let (guest, other) = (service.enrolled_guest("site-1"), service.enrolled_guest("site-2"));
    let mut player = player(&service, &guest, other.resource("site-2", ""));
    let answers: Vec<_> = capture.iter().map(|exchange| player.play(exchange)).collect();
    answers[0].expect_refusal(401, "not_attested");
    for round in answers[1..].chunks(3) {
        assert_eq!(round[0].status, 200);
        if let [_, attested, asked] = round {
            assert_eq!(attested.status, 200);
            asked.expect_refusal(403, "resource_path");
        }
    }
    // Afterwards the guest still gets what is its own.
    player.resource = guest.resource("site-1", "");
    assert_eq!(player.play(&capture[3]).status, 200);
}

#[test]
fn the_same_storm_without_a_challenge_is_answered_401_each_time() {
    let Some(capture) = exchanges("deny-401.jsonl") else { return };
    let service = Service::simulated();
    let client = service.client();
    for exchange in capture.iter().filter(|exchange| exchange.path != "/kbs/v0/auth") {
        let headers: Vec<_> =
            exchange.headers.iter().filter(|(n, _)| n == "cookie" || n == "content-type").map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let answer = client.send(&exchange.method, &exchange.path, &headers, exchange.body.as_bytes()).unwrap();
        let (status, kind, _) = answer.refusal();
        let expected = if exchange.method == "GET" { "TokenNotFound" } else { "AttestationError" };
        assert_eq!((status, kind.as_str()), (401, expected));
    }
}

/// First requests of clients that were told 403 and 404 at once; ours does not say what exists before it knows who asks.
#[test]
fn nothing_is_told_before_attestation_and_missing_is_404_after() {
    for file in ["deny-403.jsonl", "notfound-404.jsonl"] {
        let Some(capture) = exchanges(file) else { return };
        let service = Service::simulated();
        let guest = service.enrolled_guest("site-1");
        let mut player = player(&service, &guest, "/kbs/v0/resource/default/disk/key1".to_owned());
        player.play(&capture[0]).expect_refusal(401, "not_attested");
        player.cookie = Some(guest.attest_as_stock(&player.client).session().to_owned());
        let asked = exchanges("deny-401.jsonl").unwrap().remove(3);
        player.play(&asked).expect_refusal(403, "resource_path");
        player.resource = guest.resource("site-1", ".none");
        player.play(&asked).expect_refusal(404, "no_such_resource");
    }
}

/// The captured init-data is taken where HOST_DATA is its digest, as its algorithm and the stock host cut it, and nowhere else.
#[test]
fn init_data_counts_where_host_data_is_its_digest() {
    let Some(capture) = exchanges("attest-initdata.jsonl") else { return };
    let attest = capture.iter().find(|exchange| exchange.path == "/kbs/v0/attest").unwrap();
    let sent: Value = serde_json::from_str(&attest.body).unwrap();
    let digest: [u8; 48] = Sha384::digest(sent["init-data"]["body"].as_str().unwrap()).into();
    let service = Service::simulated();
    let bound = Guest::new(&simulator(Family::Genoa).asp, BASE, HostData::new(digest[..32].try_into().unwrap()));
    service.enroll(service.record("site-1", bound.host_data()));
    let other = service.enrolled_guest("site-2");
    for (guest, code) in [(&bound, None), (&other, Some("init_data"))] {
        let mut player = player(&service, guest, guest.resource("site-1", ""));
        let answers: Vec<_> = capture.iter().map(|exchange| player.play(exchange)).collect();
        match code {
            None => assert_eq!(answers[1].status, 200, "{}", String::from_utf8_lossy(&answers[1].body)),
            Some(code) => answers[1].expect_refusal(403, code),
        }
    }
}

#[test]
fn device_evidence_is_refused_by_name() {
    let Some(capture) = exchanges("attest-with-sample-device.jsonl") else { return };
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let mut player = player(&service, &guest, guest.resource("site-1", ""));
    let answers: Vec<_> = capture.iter().map(|exchange| player.play(exchange)).collect();
    answers[1].expect_refusal(403, "additional_evidence");
}

/// As captured, without any credential, a stock admin's calls are refused; with a bearer token: `stock_admin`.
#[test]
fn stock_admin_calls_without_a_token_are_refused() {
    let Some(capture) = exchanges("real-kbs-admin-and-get.jsonl") else { return };
    let service = Service::simulated();
    let client = service.client();
    let mut seen = 0;
    for exchange in capture.iter().filter(|e| e.method == "POST" && !e.path.ends_with("/auth") && !e.path.ends_with("/attest")) {
        client.post(&exchange.path, None, exchange.body.as_bytes()).expect_refusal(401, "admin_auth_missing");
        seen += 1;
    }
    assert!(seen >= 3, "{seen}");
}
