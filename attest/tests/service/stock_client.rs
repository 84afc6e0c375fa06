//! A client that behaves as stock clients do (facts, section 1.7), written from that description: a cookie jar, the resource first,
//! a handshake on 401, up to three of them, a full stop on 403 and 404, and the bearer form.

use std::convert::Infallible;

use coffer_evidence::ReportData;
use coffer_protocol::{Attestation, ErrorInformation};
use data_encoding::BASE64URL_NOPAD;
use rsa::rand_core::{TryCryptoRng, TryRng, UnwrapErr};
use serde_json::{Value, json};

use crate::support::stock::StockKey;
use crate::support::{Answer, Client, Guest, ROOT_SECRET, Service, random};

/// How often a stock client goes through a handshake before it gives up.
const ROUNDS: usize = 3;

struct StockClient<'a> {
    client: Client,
    guest: &'a Guest,
    key: StockKey,
    /// The jar: the newest cookie, whatever it is for.
    cookie: Option<String>,
    /// Requests made.
    requests: usize,
    init_data: Value,
}

impl<'a> StockClient<'a> {
    fn new(service: &Service, guest: &'a Guest, key: StockKey) -> Self {
        Self { client: service.client(), guest, key, cookie: None, requests: 0, init_data: Value::Null }
    }

    fn send(&mut self, method: &str, path: &str, bearer: Option<&str>, body: &[u8]) -> Answer {
        self.requests += 1;
        let mut headers = vec![("accept", "*/*".to_owned()), ("user-agent", "attestation-agent-kbs-client/0.1.0".to_owned())];
        if method == "POST" {
            headers.push(("content-type", "application/json".to_owned()));
        }
        match (bearer, &self.cookie) {
            (Some(token), _) => headers.push(("authorization", format!("Bearer {token}"))),
            (None, Some(cookie)) => headers.push(("cookie", format!("kbs-session-id={cookie}"))),
            (None, None) => {}
        }
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = self.client.send(method, path, &headers, body).unwrap();
        if let Some(cookie) = &answer.cookie {
            self.cookie = Some(cookie.clone());
        }
        answer
    }

    /// Gets a resource by its session: the resource, or the text that the client prints.
    fn get(&mut self, path: &str) -> Result<Vec<u8>, String> {
        for round in 0..=ROUNDS {
            let answer = self.send("GET", path, None, &[]);
            match answer.status {
                200 => return Ok(self.key.open(&answer.body)),
                401 if round < ROUNDS => drop(self.handshake()?),
                _ => return Err(said(&answer)),
            }
        }
        Err("gave up".to_owned())
    }

    /// One RCAR handshake; the token.
    fn handshake(&mut self) -> Result<String, String> {
        let request = json!({ "version": "0.4.0", "tee": "snp", "extra-params": { "supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"] } });
        let challenge = self.send("POST", "/kbs/v0/auth", None, request.to_string().as_bytes());
        if challenge.status != 200 {
            return Err(said(&challenge));
        }
        let challenge = challenge.json();
        assert_eq!(challenge["extra-params"], "", "a stock client hears of no extension");
        let body = self.attestation(challenge["nonce"].as_str().unwrap());
        let answer = self.send("POST", "/kbs/v0/attest", None, body.as_bytes());
        match answer.status {
            200 => Ok(answer.json()["token"].as_str().unwrap().to_owned()),
            _ => Err(said(&answer)),
        }
    }

    fn attestation(&self, nonce: &str) -> String {
        let body = |evidence: Value| {
            let tee_evidence = json!({ "primary_evidence": evidence, "additional_evidence": "" });
            let runtime_data = json!({ "nonce": nonce, "tee-pubkey": self.key.public() });
            json!({ "init-data": self.init_data, "runtime-data": runtime_data, "tee-evidence": tee_evidence }).to_string()
        };
        let hashed = Attestation::parse(body(json!({})).as_bytes()).unwrap().runtime_data.report_data("").unwrap();
        let report_data = ReportData::new(*hashed.as_bytes());
        body(self.guest.asp().evidence(&self.guest.guest, report_data).unwrap().to_stock_value().unwrap())
    }
}

/// What the client prints; it cannot print what is no ErrorInformation.
fn said(answer: &Answer) -> String {
    ErrorInformation::parse(&answer.body).unwrap_or_else(|e| panic!("{}: {e}", answer.status)).detail
}

struct Random;

impl TryRng for Random {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes(random()))
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes(random()))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            [*byte] = random();
        }
        Ok(())
    }
}

impl TryCryptoRng for Random {}

fn p256() -> StockKey {
    StockKey::P256(p256::SecretKey::from_slice(&random::<32>()).unwrap())
}

fn keys() -> Vec<(&'static str, StockKey)> {
    let mut scalar = random::<66>();
    scalar[0] = 0;
    let p521 = StockKey::P521(p521::SecretKey::from_slice(&scalar).unwrap());
    let rsa = StockKey::Rsa(Box::new(rsa::RsaPrivateKey::new(&mut UnwrapErr(Random), 2048).unwrap()));
    vec![("P-256", p256()), ("P-521", p521), ("RSA", rsa)]
}

#[test]
fn stock_clients_with_every_kind_of_key_get_their_secret_in_both_forms() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let path = guest.resource("site-1", "");
    for (kind, key) in keys() {
        let mut client = StockClient::new(&service, &guest, key);
        assert_eq!(client.get(&path).as_deref(), Ok(&ROOT_SECRET[..]), "{kind}");
        assert_eq!(client.requests, 4, "{kind}: asked, challenged, attested, got");
        assert_eq!(client.get(&path).as_deref(), Ok(&ROOT_SECRET[..]), "{kind}: the session lasts");
        assert_eq!(client.requests, 5);
        let token = client.handshake().unwrap();
        client.cookie = None;
        let answer = client.send("GET", &path, Some(&token), &[]);
        assert_eq!(client.key.open(&answer.body), ROOT_SECRET, "{kind}: by bearer token");
    }
}

/// A client that is denied must stop: 403 and 404 make it, and it prints the detail.
#[test]
fn a_stock_client_that_is_denied_stops_at_once_and_prints_why() {
    let service = Service::simulated();
    let (guest, other) = (service.enrolled_guest("site-1"), service.enrolled_guest("site-2"));
    for (path, says) in [
        (other.resource("site-2", ""), "resource_path: "),
        (guest.resource("site-1", ".none"), "no_such_resource: "),
        ("/kbs/v0/resource/default/disk/key1".to_owned(), "resource_path: "),
    ] {
        let mut client = StockClient::new(&service, &guest, p256());
        let told = client.get(&path).unwrap_err();
        assert!(told.starts_with(says), "{told}");
        assert_eq!(client.requests, 4, "one handshake, not three");
    }
    // Refused evidence: the client ends with the first handshake.
    let stranger = Guest::new(guest.asp(), crate::support::BASE, crate::support::host_data("nobody's"));
    let mut client = StockClient::new(&service, &stranger, p256());
    let told = client.get(&stranger.resource("site-1", "")).unwrap_err();
    assert!(told.starts_with("host_data: "), "{told}");
    assert_eq!(client.requests, 3);
}

/// A client whose session never counts (its jar is broken, or a proxy strips cookies) goes round three times: nine requests and one.
#[test]
fn a_client_that_storms_is_answered_each_time_and_another_is_not_disturbed() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let path = guest.resource("site-1", "");
    let mut client = StockClient::new(&service, &guest, p256());
    for round in 0..=ROUNDS {
        client.cookie = None;
        client.send("GET", &path, None, &[]).expect_refusal(401, "not_attested");
        if round < ROUNDS {
            client.handshake().unwrap();
        }
    }
    assert_eq!(client.requests, 10);
    assert_eq!(StockClient::new(&service, &guest, p256()).get(&path).as_deref(), Ok(&ROOT_SECRET[..]));
}

/// Older clients, and those with other keys, are told what is spoken here.
#[test]
fn a_client_that_speaks_otherwise_is_told_what_is_spoken() {
    let service = Service::simulated();
    let client = service.client();
    for version in ["0.1.0", "0.1.1", "0.2.0", "0.3.0", "0.5.0", "1.0.0", "0.4", "garbage", ""] {
        let body = json!({ "version": version, "tee": "snp", "extra-params": "" }).to_string();
        let answer = client.post("/kbs/v0/auth", None, body.as_bytes());
        answer.expect_refusal(400, "protocol_version");
        assert!(said(&answer).contains("than 0.4"), "{}", said(&answer));
    }
    for version in ["0.4.0", "0.4.1", "0.4.9"] {
        let body = json!({ "version": version, "tee": "snp", "extra-params": "" }).to_string();
        assert_eq!(client.post("/kbs/v0/auth", None, body.as_bytes()).status, 200, "{version}");
    }
    let guest = service.enrolled_guest("site-1");
    let good = StockClient::new(&service, &guest, p256()).attestation(&format!("{}=", "A".repeat(43)));
    let with_key = |key: Value| {
        let mut body: Value = serde_json::from_str(&good).unwrap();
        body["runtime-data"]["tee-pubkey"] = key;
        body.to_string()
    };
    for (key, named) in [
        (json!({ "kty": "RSA", "alg": "RSA1_5", "n": "_".repeat(342), "e": "AQAB" }), "alg `RSA1_5`"),
        (json!({ "kty": "RSA", "alg": "RSA-OAEP-256", "n": BASE64URL_NOPAD.encode(&[255; 128]), "e": "AQAB" }), "1024 bits"),
        (json!({ "kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": "AA" }), "ML-KEM-768+A192KW"),
        (json!({ "kty": "EC", "crv": "P-384", "alg": "ECDH-ES+A256KW", "x": "AA", "y": "AA" }), "crv `P-384`"),
    ] {
        let answer = client.post("/kbs/v0/attest", None, with_key(key).as_bytes());
        answer.expect_refusal(400, "tee_pubkey");
        assert!(said(&answer).contains("RSA-OAEP-256"), "{}", said(&answer));
        assert!(service.log().contains(named), "the log names {named}");
    }
}

/// The largest key a client may have still gives a session that fits a cookie, and a token that fits a header.
#[test]
fn an_rsa_4096_client_gets_a_session_that_fits() {
    let service = Service::simulated();
    let guest = service.enrolled_guest(&"s".repeat(63));
    let path = guest.resource(&"s".repeat(63), "");
    let key = StockKey::Rsa(Box::new(rsa::RsaPrivateKey::new(&mut UnwrapErr(Random), 4096).unwrap()));
    let mut client = StockClient::new(&service, &guest, key);
    let token = client.handshake().unwrap();
    assert!(client.cookie.as_ref().unwrap().len() < 4000, "{}", client.cookie.as_ref().unwrap().len());
    assert!(token.len() < 4096, "{}", token.len());
    assert_eq!(client.get(&path).as_deref(), Ok(&ROOT_SECRET[..]));
    assert_eq!(
        client.key.open(&client.client.send("GET", &path, &[("authorization", &format!("Bearer {token}"))], &[]).unwrap().body),
        ROOT_SECRET
    );
}

/// Of eight answers to one challenge, all of them good, one is heard; the others may start over at once. And a session that is
/// attested answers no second challenge by the first one's cookie, nor by its own.
#[test]
fn concurrent_and_repeated_answers_to_one_challenge_are_heard_once() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let challenge = client.post("/kbs/v0/auth", None, &coffer_protocol::Request::body(false));
    let cookie = challenge.cookie.clone().unwrap();
    let challenge = coffer_protocol::Challenge::parse(&challenge.body).unwrap();
    let bodies: Vec<_> = (0..8).map(|_| guest.answer(&challenge, |asp, data| asp.evidence(&guest.guest, data).unwrap()).1).collect();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let calls: Vec<_> = bodies
            .iter()
            .map(|body| {
                let (service, cookie) = (&service, &cookie);
                scope.spawn(move || service.client().post("/kbs/v0/attest", Some(cookie), body))
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.expect_refusal(401, "challenge_spent");
    }
    let attested = answers.iter().find(|answer| answer.status == 200).unwrap();
    client.post("/kbs/v0/attest", Some(&cookie), &bodies[0]).expect_refusal(401, "challenge_spent");
    client.post("/kbs/v0/attest", attested.cookie.as_deref(), &bodies[0]).expect_refusal(401, "challenge_unreadable");
    assert_eq!(client.get(&guest.resource("site-1", ""), attested.cookie.as_deref()).status, 200, "the session is none the worse");
}
