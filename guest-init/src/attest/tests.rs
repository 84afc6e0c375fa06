//! The handshake against a key service made for the occasion: real TLS, real messages, real JWE; no hardware.

mod renewals;
mod stock;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use coffer_manifest::KeyServiceKind;
use coffer_protocol::{Attestation, Challenge, ErrorInformation, ErrorKind, Nonce, Refusal, SealRandom, TokenResponse, seal};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair as CertificateKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::keys::BootKeys;
use crate::report::{Evidence, ReportError};

const NAME: &str = "kbs.demo.test";
const SECRET: [u8; 32] = [0x5e; 32];

/// A certificate authority and a server certificate of its making.
struct Authority {
    ca: String,
    server: Arc<ServerConfig>,
}

fn authority() -> Authority {
    let ca_key = CertificateKey::generate().expect("a key");
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).expect("a CA");
    let issuer = Issuer::new(params, ca_key);
    let key = CertificateKey::generate().expect("a key");
    let leaf = CertificateParams::new(vec![NAME.into()]).expect("parameters").signed_by(&key, &issuer).expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(leaf.der().to_vec())], key)
        .expect("a server");
    Authority { ca: BASE64.encode(ca.der()), server: Arc::new(server) }
}

/// What the service says to one request: status and body.
type Answer = (u16, Vec<u8>);

/// A service that answers by `answer(path, body)` until its thread is dropped with the test.
struct Service {
    url: String,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn start(authority: &Authority, mut answer: impl FnMut(&str, &[u8]) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let paths = Arc::new(Mutex::new(Vec::new()));
        let (config, seen) = (authority.server.clone(), paths.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).expect("a connection"), stream);
                while let Some((path, body)) = read_request(&mut tls) {
                    let (status, body) = answer(&path, &body);
                    seen.lock().expect("whole").push(path);
                    let head = format!("HTTP/1.1 {status} X\r\nSet-Cookie: kbs-session-id=ab\r\nContent-Length: {}\r\n\r\n", body.len());
                    if tls.write_all(&[head.as_bytes(), &body].concat()).is_err() {
                        break;
                    }
                }
            }
        });
        Self { url, paths }
    }

    fn paths(&self) -> Vec<String> {
        self.paths.lock().expect("whole").clone()
    }
}

fn read_request(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().expect("a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head.split(' ').nth(1)?.to_owned(), body))
}

/// Answers as coffer-attest would, and checks that the evidence is over this very runtime-data.
fn genuine(secret: Vec<u8>) -> impl FnMut(&str, &[u8]) -> Answer + Send {
    let mut client = None;
    move |path, body| match path {
        "/kbs/v0/auth" => {
            assert!(coffer_protocol::Request::parse(body).expect("a request").coffer);
            (200, Challenge { nonce: Nonce::new([7; 32]), coffer: true }.to_bytes())
        }
        "/kbs/v0/attest" => {
            let attestation = Attestation::parse(body).expect("an attestation");
            let evidence = coffer_evidence::SnpEvidence::from_json(attestation.primary_evidence.get().as_bytes()).expect("evidence");
            let expected = attestation.runtime_data.report_data("").expect("hashes");
            assert_eq!(evidence.report.fields().report_data.as_bytes(), expected.as_bytes());
            let bound = attestation.runtime_data.coffer().expect("bound keys");
            assert_ne!(bound.purpose, Purpose::Gpu);
            client = Some(attestation.runtime_data.tee_pubkey().clone());
            (200, TokenResponse { token: token() }.to_bytes())
        }
        _ => {
            let random = SealRandom { ephemeral: [1; 66], content_key: [2; 32], iv: [3; 12] };
            (200, seal(&secret, client.as_ref().expect("attested"), &random).expect("seals").to_bytes())
        }
    }
}

/// Issued now: the handshake would otherwise set this machine's clock.
fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = format!(r#"{{"iat":{now},"exp":{},"submods":{{"cpu0":{{"ear.status":"affirming"}}}}}}"#, now + 300);
    format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()))
}

fn refusal(status: u16, code: &str) -> Answer {
    let refusal = Refusal::new(code, "id-1").expect("well-formed");
    (status, serde_json::to_vec(&ErrorInformation::new(ErrorKind::AttestationError, &refusal)).expect("JSON"))
}

struct Reports;

impl ReportSource for Reports {
    fn report(&mut self, report_data: &[u8; 64]) -> Result<Evidence, ReportError> {
        let mut report = vec![0; 1184];
        report[0] = 3;
        report[0x50..0x90].copy_from_slice(report_data);
        Evidence::parse(&report, &[], report_data)
    }
}

fn site(authority: &Authority, urls: &[&str], retry_for: u32) -> SiteConfig {
    let mut site = crate::workload::tests::site("amd-sev-snp");
    site.key_service.ca = vec![authority.ca.clone()];
    site.key_service.urls = urls.iter().map(|url| (*url).to_owned()).collect();
    site.attestation.retry_for = retry_for;
    site
}

fn attester(site: &SiteConfig) -> Result<Attester, Failure> {
    let keys = BootKeys::generate().expect("keys").bound(site);
    Attester::new(Arc::new(site.clone()), HostData::new([9; 32]), Box::new(Reports), keys)
}

fn run(site: &SiteConfig) -> Result<Secrets, String> {
    let released = attester(site).and_then(|mut attester| attester.boot(&mut PowerButton::open()));
    released.map(|(secrets, _)| secrets).map_err(|failure| failure.to_string())
}

fn failure(site: &SiteConfig) -> String {
    run(site).map(|_| "secrets").expect_err("must fail")
}

#[test]
fn a_genuine_service_gives_both_secrets_over_one_connection() {
    let authority = authority();
    let service = Service::start(&authority, genuine(SECRET.to_vec()));
    let mut site = site(&authority, &[&service.url], 5);
    site.kit = Some(coffer_manifest::KitRef { offset: 0, size: 1, digest: coffer_manifest::Sha256Digest::of(b"") });
    let secrets = run(&site).expect("released");
    assert_eq!(secrets.root.expose(), &SECRET);
    assert!(secrets.kit.is_some());
    let resource = format!("/kbs/v0/resource/demo/site-1/{}", "09".repeat(32));
    assert_eq!(service.paths(), ["/kbs/v0/auth", "/kbs/v0/attest", &resource, &format!("{resource}.kit")]);
}

#[test]
fn an_authenticated_refusal_is_final_and_shows_code_and_id() {
    let authority = authority();
    let mut say = genuine(SECRET.to_vec());
    let service = Service::start(&authority, move |path, body| match path {
        "/kbs/v0/attest" => refusal(403, "launch_digest"),
        _ => say(path, body),
    });
    assert_eq!(failure(&site(&authority, &[&service.url], 60)), "failed stage=attest cause=launch_digest id=id-1");
    assert_eq!(service.paths(), ["/kbs/v0/auth", "/kbs/v0/attest"], "refused once, asked once");
}

#[test]
fn a_service_that_does_not_bind_keys_is_refused() {
    let authority = authority();
    let service = Service::start(&authority, |_, _| (200, Challenge { nonce: Nonce::new([7; 32]), coffer: false }.to_bytes()));
    let text = failure(&site(&authority, &[&service.url], 60));
    assert!(text.contains("does not confirm bound keys"), "{text}");
}

#[test]
fn an_ill_service_is_asked_again() {
    let authority = authority();
    let mut say = genuine(SECRET.to_vec());
    let mut ill = VecDeque::from([503, 429]);
    let service = Service::start(&authority, move |path, body| match ill.pop_front() {
        Some(status) => (status, b"<html>".to_vec()),
        None => say(path, body),
    });
    assert_eq!(run(&site(&authority, &[&service.url], 30)).expect("released").root.expose(), &SECRET);
    assert_eq!(service.paths()[..3], ["/kbs/v0/auth", "/kbs/v0/auth", "/kbs/v0/auth"]);
}

/// A service that lacks this chip's certificate says so at once, and is asked again with a new challenge while it fetches.
#[test]
fn a_service_that_fetches_a_certificate_is_asked_again_and_named_where_it_takes_too_long() {
    let authority = authority();
    let mut say = genuine(SECRET.to_vec());
    let mut pending = 2;
    let service = Service::start(&authority, move |path, body| match path {
        "/kbs/v0/attest" if pending > 0 => {
            pending -= 1;
            refusal(503, "collateral_pending")
        }
        _ => say(path, body),
    });
    assert_eq!(run(&site(&authority, &[&service.url], 30)).expect("released").root.expose(), &SECRET);
    let round = ["/kbs/v0/auth", "/kbs/v0/attest"];
    assert_eq!(service.paths()[..6], [round, round, round].concat(), "each round has a challenge of its own");

    let mut say = genuine(SECRET.to_vec());
    let never = Service::start(&authority, move |path, body| match path {
        "/kbs/v0/attest" => refusal(503, "collateral_pending"),
        _ => say(path, body),
    });
    let text = failure(&site(&authority, &[&never.url], 1));
    assert!(text.contains("HTTP status 503: collateral_pending (id-1)"), "{text}");
}

#[test]
fn the_second_url_serves_when_the_first_is_down() {
    let authority = authority();
    let service = Service::start(&authority, genuine(SECRET.to_vec()));
    assert!(run(&site(&authority, &[&closed_port(), &service.url], 5)).is_ok());
}

#[test]
fn another_authority_or_name_is_not_the_key_service() {
    let (ours, theirs) = (authority(), authority());
    let impostor = Service::start(&theirs, genuine(SECRET.to_vec()));
    let text = failure(&site(&ours, &[&impostor.url], 60));
    assert!(text.contains("is not this site's key service: invalid peer certificate"), "{text}");
    assert!(impostor.paths().is_empty(), "nothing was said to it");

    let mut other_name = site(&theirs, &[&impostor.url], 60);
    other_name.key_service.tls_name = "other.demo.test".into();
    let text = failure(&other_name);
    assert!(text.contains("is not this site's key service"), "{text}");
}

#[test]
fn giving_up_comes_in_time_and_names_the_url() {
    let authority = authority();
    let url = closed_port();
    let began = Instant::now();
    let text = failure(&site(&authority, &[&url], 2));
    let took = began.elapsed();
    assert!(text.contains(&url) && text.contains("not reached within 2 s") && text.contains("refused"), "{text}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_secret_of_another_length_is_no_secret() {
    let authority = authority();
    let service = Service::start(&authority, genuine(SECRET[..31].to_vec()));
    let text = failure(&site(&authority, &[&service.url], 60));
    assert!(text.contains("31 bytes, expected 32") && !text.contains("5e"), "{text}");
}

#[test]
fn pauses_are_between_half_and_whole() {
    for _ in 0..100 {
        let pause = jittered(LAST_PAUSE);
        assert!(pause >= LAST_PAUSE / 2 && pause <= LAST_PAUSE, "{pause:?}");
    }
}

/// A URL nobody listens at.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("https://{}", listener.local_addr().expect("an address"))
}
