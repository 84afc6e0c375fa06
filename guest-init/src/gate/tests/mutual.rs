//! Sites that ask for an attested aggregator.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coffer_manifest::{Role, SiteConfig};
use coffer_token::lease::{Answer, MAX_FRAME_BYTES, to_frame};
use coffer_token::{AGGREGATOR_ROLE, Claims, CofferClaims, GpuVerdict, Hex, Jkt, Signer, Subject, Typ, UnixTime, Version1};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::double::{Authority, Gate, Guest, NAME, admitted, assert_reset, authority, eventually, site, token};
use crate::keys::BootKeys;
use crate::standing::{Lease, Token};

const KEY_SERVICE: &str = "kbs.demo.test";

fn signer(byte: u8) -> Signer {
    Signer::from_bytes(&[byte; 32]).expect("a scalar")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The claims of the attested gate whose node key is `node`.
fn aggregator(node: Jkt) -> Subject {
    Subject {
        issuer: "https://attest.demo.test".into(),
        audience: "demo".into(),
        token_id: "t-1".into(),
        issued_at: UnixTime(now()),
        lifetime_seconds: 60,
        confirmation: Some(Jkt::new([3; 32])),
        tee_pubkey: None,
        coffer: CofferClaims {
            v: Version1,
            project: "demo".into(),
            site: "superlink".into(),
            role: AGGREGATOR_ROLE.into(),
            host_data: Hex([4; 32]),
            launch_digest: Hex([5; 48]),
            base_svn: 1,
            root_of_trust: "amd-sev-snp".into(),
            instance: Hex([6; 32]),
            family: "genoa".into(),
            node_jkt: Some(node),
            gpu: GpuVerdict::None,
            purpose: "renew".into(),
        },
    }
}

fn signed(signer: &Signer, subject: Subject) -> String {
    signer.sign(Typ::Job, &Claims::affirming(subject)).expect("signs")
}

/// This guest's own token.
fn own(keys: &BootKeys) -> Token {
    let mut subject = aggregator(Jkt::new([9; 32]));
    subject.confirmation = Jkt::of_ec_point("P-384", &keys.tls.public().to_sec1());
    subject.coffer = CofferClaims { role: "client".into(), site: "site-1".into(), node_jkt: None, ..subject.coffer };
    Token { text: signed(&signer(1), subject), ..token("") }
}

/// A key service that publishes keys, and counts how often it is asked.
struct KeyService {
    address: SocketAddr,
    keys: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
    /// Raised: it hangs up on everybody.
    down: Arc<AtomicBool>,
}

fn key_service(authority: &Authority, first: &Signer) -> KeyService {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let keys = Arc::new(Mutex::new(first.jwks().to_bytes().expect("keys")));
    let asked = Arc::new(AtomicUsize::new(0));
    let mut config: ServerConfig = authority.server.clone();
    config.alpn_protocols.clear();
    let config = Arc::new(config);
    let down = Arc::new(AtomicBool::new(false));
    let service = KeyService { address, keys: keys.clone(), asked: asked.clone(), down: down.clone() };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if down.load(Ordering::SeqCst) {
                continue;
            }
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).expect("a connection"), stream);
            let mut request = [0; 4096];
            let Ok(read) = tls.read(&mut request) else { continue };
            assert!(request[..read].starts_with(b"GET /.well-known/jwks.json HTTP/1.1\r\n"));
            asked.fetch_add(1, Ordering::SeqCst);
            let body = keys.lock().expect("whole").clone();
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = tls.write_all(&[head.as_bytes(), &body].concat());
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    });
    service
}

/// A site that asks for an attested gate.
fn attested_site(authority: &Authority, gate: &Gate, service_authority: &Authority, service: SocketAddr) -> SiteConfig {
    let mut site = site(authority, &[gate.address]);
    site.gate.as_mut().expect("a gate").attested = true;
    site.key_service.ca = vec![service_authority.ca.clone()];
    site.key_service.tls_name = KEY_SERVICE.into();
    site.key_service.urls = vec![format!("https://{service}")];
    site
}

fn with_token(gate_token: Option<String>) -> Answer {
    match admitted(60) {
        Answer::Admitted { lease_seconds, .. } => Answer::Admitted { lease_seconds, gate_token },
        refused @ Answer::Refused { .. } => refused,
    }
}

/// A gate that shows this as its own token, in greetings and in answers.
fn showing(authority: &Authority, token: Option<String>) -> Arc<Gate> {
    let greeting = token.clone();
    let gate = Gate::start(&authority.server, move |_, _| with_token(token.clone()));
    gate.greets(greeting);
    gate
}

struct Scene {
    gate: Arc<Gate>,
    guest: Guest,
    service: KeyService,
}

/// The endpoint of an attested site, at a gate that shows what `shows` makes of its own key.
fn scene(shows: impl Fn(Jkt, &Token) -> Option<String>) -> Scene {
    scene_of(shows, None)
}

/// The same, where these words may take the greeting's place.
fn scene_of(shows: impl Fn(Jkt, &Token) -> Option<String>, words: Option<Vec<u8>>) -> Scene {
    let (authority, mut service_authority) = (authority(NAME), authority(KEY_SERVICE));
    service_authority.server = without_client_keys(&service_authority);
    let keys = BootKeys::generate().expect("keys");
    let own = own(&keys);
    let shown = shows(authority.key, &own);
    let gate = showing(&authority, shown);
    if let Some(words) = words {
        *gate.greeting.lock().expect("whole") = words;
    }
    let service = key_service(&service_authority, &signer(1));
    let site = attested_site(&authority, &gate, &service_authority, service.address);
    let guest = Guest::start_with(&site, keys, own);
    Scene { gate, guest, service }
}

/// The same certificate for a server that asks for no key of its clients.
fn without_client_keys(authority: &Authority) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(authority.server.cert_resolver.clone())
}

#[test]
fn an_attested_gate_gets_the_workloads_bytes() {
    assert_eq!(AGGREGATOR_ROLE, Role::Superlink.name());
    let Scene { guest, service, .. } = scene(|key, _| Some(signed(&signer(1), aggregator(key))));
    guest.await_leased();
    drop(guest.connect_through());
    drop(guest.connect_through());
    assert_eq!(service.asked.load(Ordering::SeqCst), 1, "the keys are fetched once");
}

/// A good certificate is not enough: who shows no good token of its own has not received a single byte.
#[test]
fn nobody_else_passes_as_the_aggregator() {
    let change = |change: fn(&mut Subject)| {
        move |key: Jkt| {
            let mut subject = aggregator(key);
            change(&mut subject);
            Some(signed(&signer(1), subject))
        }
    };
    type Shows = Box<dyn Fn(Jkt, &Token) -> Option<String>>;
    let cases: Vec<(&str, Shows)> = vec![
        ("shows no token", Box::new(|_, _| None)),
        // A site's own token, to the site itself or to another.
        ("for role `client`", Box::new(|_, own| Some(own.text.clone()))),
        ("for role `client`", Box::new(move |key, _| change(|subject| subject.coffer.role = "client".into())(key))),
        ("for role `server`", Box::new(move |key, _| change(|subject| subject.coffer.role = "server".into())(key))),
        ("of project `other`", Box::new(move |key, _| change(|subject| subject.coffer.project = "other".into())(key))),
        // A genuine token of the aggregator, copied by somebody who has a certificate of the gate's authority.
        ("names node key", Box::new(|_, _| Some(signed(&signer(1), aggregator(Jkt::new([8; 32])))))),
        ("names node key none", Box::new(move |key, _| change(|subject| subject.coffer.node_jkt = None)(key))),
        ("issued by", Box::new(move |key, _| change(|subject| subject.issuer = "https://evil.test".into())(key))),
        ("is for `other`", Box::new(move |key, _| change(|subject| subject.audience = "other".into())(key))),
        ("root of trust", Box::new(move |key, _| change(|subject| subject.coffer.root_of_trust = "simulated:00".into())(key))),
        ("expired", Box::new(move |key, _| change(|subject| subject.issued_at = UnixTime(now() - 61))(key))),
        ("unknown key", Box::new(|key, _| Some(signed(&signer(2), aggregator(key))))),
        ("not a compact JWS", Box::new(|_, _| Some("token".into()))),
    ];
    for (expected, shows) in cases {
        let Scene { gate, guest, .. } = scene(shows);
        guest.await_lease(|lease| matches!(lease, Lease::None(why) if why.contains(expected)));
        guest.assert_refuses();
        assert_eq!(gate.heard.load(Ordering::SeqCst), 0, "{expected}");
    }
}

/// Silence, an answer before there was a question, and what is no frame at all: nothing is said to any of it.
#[test]
fn what_is_no_greeting_gets_no_byte() {
    let long = (MAX_FRAME_BYTES as u32 + 1).to_be_bytes().to_vec();
    let early = to_frame(&with_token(Some(signed(&signer(1), aggregator(Jkt::new([8; 32])))))).expect("a frame");
    let cases = [(vec![], "timed out"), (early, "frame does not parse"), (long, "frame is"), (b"HTTP/1.1 200 OK\r\n".to_vec(), "frame is")];
    for (words, expected) in cases {
        let Scene { gate, guest, .. } = scene_of(|key, _| Some(signed(&signer(1), aggregator(key))), Some(words));
        guest.await_lease(|lease| matches!(lease, Lease::None(why) if why.contains(expected)));
        guest.assert_refuses();
        assert_eq!(gate.heard.load(Ordering::SeqCst), 0, "{expected}");
    }
}

#[test]
fn every_connection_and_every_renewal_is_checked() {
    let Scene { gate, guest, .. } = scene(|key, _| Some(signed(&signer(1), aggregator(key))));
    guest.await_leased();
    let stream = guest.connect_through();
    // Whoever greets on the next connection is not the aggregator: no byte for it.
    let heard = gate.heard.load(Ordering::SeqCst);
    let greeting = std::mem::take(&mut *gate.greeting.lock().expect("whole"));
    gate.greets(None);
    let mut refused = guest.connect();
    let _ = refused.write_all(b"secret");
    assert_reset(&refused);
    assert_eq!(gate.heard.load(Ordering::SeqCst), heard);
    // Who greets as the aggregator and answers as somebody else gets none of the workload's.
    *gate.greeting.lock().expect("whole") = greeting;
    gate.answers(|_, _| with_token(None));
    let mut refused = guest.connect();
    let _ = refused.write_all(b"secret");
    assert_reset(&refused);
    assert_eq!(gate.got.load(Ordering::SeqCst), 1, "only the byte of the first connection");
    // Nor does who answers the next renewal: what there is ends.
    let newer = Token { text: own(&guest.keys).text, ..token("") };
    guest.standing.renewed(newer);
    assert_reset(&stream);
    guest.await_lease(|lease| matches!(lease, Lease::None(why) if why.contains("shows no token")));
    guest.assert_refuses();
}

#[test]
fn a_new_key_of_the_service_is_fetched_but_not_again_and_again() {
    let Scene { guest, service, .. } = scene(|key, _| Some(signed(&signer(2), aggregator(key))));
    guest.await_lease(|lease| matches!(lease, Lease::None(why) if why.contains("unknown key")));
    eventually("it is tried again", || matches!(guest.standing.now().lease, Lease::None(why) if why.contains("so soon again")));
    assert_eq!(service.asked.load(Ordering::SeqCst), 1);
    *service.keys.lock().expect("whole") = signer(2).jwks().to_bytes().expect("keys");
    guest.await_leased();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(service.asked.load(Ordering::SeqCst), 2);
    drop(guest.connect_through());
}

/// Whoever has a token key that leaked signs as they like; the service has taken it back, and guests that run for months hear of it.
#[test]
fn a_key_that_the_service_has_taken_back_signs_for_no_gate_any_more() {
    let Scene { guest, service, .. } = scene(|key, _| Some(signed(&signer(1), aggregator(key))));
    guest.await_leased();
    *service.keys.lock().expect("whole") = signer(2).jwks().to_bytes().expect("keys");
    let stream = guest.connect_through();
    eventually("a renewal is refused", || {
        guest.standing.renewed(Token { text: own(&guest.keys).text, ..token("") });
        thread::sleep(Duration::from_millis(300));
        matches!(guest.standing.now().lease, Lease::None(why) if why.contains("unknown key") || why.contains("so soon again"))
    });
    assert_reset(&stream);
    guest.assert_refuses();
    assert_eq!(service.asked.load(Ordering::SeqCst), 2);
}

/// A service that is away for a while takes nobody's gate away; but what it has taken back meanwhile is not believed for ever.
#[test]
fn keys_that_nobody_confirms_are_believed_for_so_long_and_no_longer() {
    let Scene { guest, service, .. } = scene(|key, _| Some(signed(&signer(1), aggregator(key))));
    guest.await_leased();
    let since = Instant::now();
    service.down.store(true, Ordering::SeqCst);
    eventually("renewals are refused", || {
        guest.standing.renewed(Token { text: own(&guest.keys).text, ..token("") });
        thread::sleep(Duration::from_millis(100));
        matches!(guest.standing.now().lease, Lease::None(why) if why.starts_with("the key service's keys"))
    });
    // Renewals went on past KEYS_LIFE of the tests, to KEYS_LAST.
    assert!((5..12).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
    guest.assert_refuses();
    service.down.store(false, Ordering::SeqCst);
    guest.await_leased();
}

#[test]
fn keys_come_from_the_pinned_service_only() {
    // Somebody else's authority at the service's address.
    let (authority, mut of_the_site, mut impostor) = (authority(NAME), authority(KEY_SERVICE), authority(KEY_SERVICE));
    for authority in [&mut of_the_site, &mut impostor] {
        authority.server = without_client_keys(authority);
    }
    let service = key_service(&impostor, &signer(1));
    let keys = BootKeys::generate().expect("keys");
    let (own, shown) = (own(&keys), signed(&signer(1), aggregator(authority.key)));
    let gate = showing(&authority, Some(shown));
    let guest = Guest::start_with(&attested_site(&authority, &gate, &of_the_site, service.address), keys, own);
    guest.await_lease(|lease| matches!(lease, Lease::None(why) if why.contains("keys") && why.contains("certificate")));
    assert_eq!(service.asked.load(Ordering::SeqCst), 0);
    guest.assert_refuses();
}
