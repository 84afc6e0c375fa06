//! Who may come in: a current job token of this gate's service, project and role, presented by the key it is bound to.

use coffer_token::lease::{Hello, NodeKey, Open};
use coffer_token::{Subject, Typ, UnixTime, Version1};
use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use crate::support::{Boot, BootKey, Gate, Issuer, ROOT, Settings, refusal};

/// The gate refuses this token of this boot on both kinds of connection, and its log has the refusal with site and key.
#[track_caller]
fn refused(gate: &Gate, boot: &Boot, token: &str, code: &str) {
    let (got, id) = gate.door.refusal(boot, token);
    assert_eq!(got, code, "log: {}", gate.log());
    let line = gate.logged(&[&id, code]);
    assert!(line.contains(&boot.key.jkt().to_string()), "the key that came is named: {line}");
    assert_eq!(gate.upstream.connections(), 0, "nothing was opened for it");
}

#[test]
fn a_site_with_its_own_token_and_key_comes_through() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let boot = Boot::of("site-1");
    let token = issuer.token(&boot);
    let mut lease = gate.door.leased(&boot, &token);
    let mut tunnel = gate.door.tunneled(&boot, &token);
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    for part in bytes.chunks(200_000) {
        assert!(tunnel.echo(part).unwrap() == part, "bytes come back as they went");
    }
    assert!(matches!(lease.renew(&issuer.token(&boot)), coffer_token::lease::Answer::Admitted { lease_seconds: 1..=60, .. }));
    let line = gate.logged(&["admitted", "site-1"]);
    assert!(line.contains(&boot.key.jkt().to_string()), "{line}");
    assert!(!gate.log().contains(&token) && !gate.log().contains(token.rsplit('.').next().unwrap()), "no token is in the log");
}

#[test]
fn a_stolen_token_is_nothing_without_its_key() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let boot = Boot::of("site-1");
    let token = issuer.token(&boot);
    let thief = Boot { key: BootKey::generate(), ..boot.clone() };
    refused(&gate, &thief, &token, "not_the_key");
    // While its owner is in, neither: and the owner does not notice.
    let mut lease = gate.door.leased(&boot, &token);
    let mut tunnel = gate.door.tunneled(&boot, &token);
    let (code, _) = gate.door.refusal(&thief, &token);
    assert_eq!(code, "not_the_key");
    assert_eq!(tunnel.echo(b"still here").unwrap(), b"still here");
    assert!(matches!(lease.renew(&issuer.token(&boot)), coffer_token::lease::Answer::Admitted { .. }));
}

#[test]
fn what_is_not_for_this_gate_is_refused_by_name() {
    type Change = fn(&mut Subject);
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let boot = Boot::of("site-1");
    let changes: [(&str, Change); 9] = [
        ("project", |s| s.coffer.project = "other".into()),
        ("project", |s| s.coffer.project = "demo ".into()),
        ("role", |s| s.coffer.role = "server".into()),
        ("role", |s| s.coffer.role = "superlink".into()),
        ("token_issuer", |s| s.issuer = "https://attest.demo.test/".into()),
        ("token_audience", |s| s.audience = "another-gate".into()),
        ("root_of_trust", |s| s.coffer.root_of_trust = format!("simulated:{}", "ab".repeat(32))),
        ("token_expired", |s| s.issued_at = UnixTime(s.issued_at.0 - 301)),
        ("token_future", |s| s.issued_at = UnixTime(s.issued_at.0 + 3600)),
    ];
    for (code, change) in changes {
        refused(&gate, &boot, &issuer.token_with(&boot, change), code);
    }
}

/// One token may go through the gate of the project it is of, and through no other's.
#[test]
fn a_simulated_gate_takes_its_own_simulators_tokens_only() {
    let issuer = Issuer::start();
    let own = format!("simulated:{}", "cd".repeat(32));
    let gate = Gate::with(&issuer, &Settings { root_of_trust: own.clone(), ..Settings::default() });
    let boot = Boot::of("site-1");
    refused(&gate, &boot, &issuer.token_with(&boot, |s| s.coffer.root_of_trust = ROOT.into()), "root_of_trust");
    refused(
        &gate,
        &boot,
        &issuer.token_with(&boot, |s| s.coffer.root_of_trust = format!("simulated:{}", "ce".repeat(32))),
        "root_of_trust",
    );
    gate.door.tunneled(&boot, &issuer.token_with(&boot, |s| s.coffer.root_of_trust = own));
}

#[test]
fn tokens_of_other_kinds_and_of_other_hands_are_refused() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let boot = Boot::of("site-1");
    let good = issuer.token(&boot);
    let stock = issuer.signed(Typ::Kbs, &boot, |subject| subject.confirmation = None);
    refused(&gate, &boot, &stock, "token_malformed");
    // Another service's: it says of itself that it is this one.
    let stranger = Issuer::start();
    refused(&gate, &boot, &stranger.token(&boot), "token_key");
    // The same with the id of this service's key.
    refused(&gate, &boot, &signed_by_another(&good, None), "token_signature");
    // A signature of nobody's, another algorithm.
    let (signed, _) = good.rsplit_once('.').unwrap();
    refused(&gate, &boot, &format!("{signed}.{}", BASE64URL_NOPAD.encode(&[0; 64])), "token_signature");
    refused(&gate, &boot, &signed_by_another(&good, Some(("alg", "none"))), "token_malformed");
    refused(&gate, &boot, &signed_by_another(&good, Some(("jwk", "{}"))), "token_malformed");
    for junk in ["", "x", "a.b.c", &good.replace('.', ""), &"x".repeat(9000), &format!("{good}.{good}")] {
        refused(&gate, &boot, junk, "token_malformed");
    }
    // What is left out of a token, byte by byte, makes it no better.
    for cut in (1..good.len()).step_by(97) {
        let (got, _) = gate.door.refusal(&boot, &good[..cut]);
        assert!(["token_malformed", "token_signature"].contains(&got.as_str()), "{cut}: {got}");
    }
}

/// The claims of a token under another signature, whose key is nobody's; with one more or another word in the header.
fn signed_by_another(token: &str, header: Option<(&str, &str)>) -> String {
    let mut parts = token.split('.');
    let decode = |part: Option<&str>| BASE64URL_NOPAD.decode(part.unwrap().as_bytes()).unwrap();
    let mut head: serde_json::Value = serde_json::from_slice(&decode(parts.next())).unwrap();
    if let Some((name, value)) = header {
        head[name] = value.into();
    }
    let input = format!("{}.{}", BASE64URL_NOPAD.encode(head.to_string().as_bytes()), parts.next().unwrap());
    let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    format!("{input}.{}", BASE64URL_NOPAD.encode(key.sign(&random, input.as_bytes()).unwrap().as_ref()))
}

/// A key that the service learns of later is fetched when a token names it, and old ones go on.
#[test]
fn a_change_of_the_services_key_shuts_nobody_out() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let (old, new) = (Boot::of("site-1"), Boot::of("site-2"));
    let before = issuer.token(&old);
    gate.door.tunneled(&old, &before);
    issuer.change_key();
    gate.door.tunneled(&new, &issuer.token(&new));
    gate.door.tunneled(&old, &before);
}

/// Only TLS 1.3 under our protocol's name, with a P-384 key and no other, gets as far as a first word.
#[test]
fn the_door_is_one_kind_of_tls_with_one_kind_of_key() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let boot = Boot::of("site-1");
    let token = issuer.token(&boot);
    let hello = Hello { v: Version1, open: Open::Tunnel, token: token.clone(), node: None };
    let alpn: &[&[u8]] = &[b"coffer-gate/1"];
    let tls13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
    for (what, key, alpn, versions) in [
        ("no key", None, alpn, tls13),
        ("a P-256 key", Some(BootKey::of(&rcgen::PKCS_ECDSA_P256_SHA256)), alpn, tls13),
        ("an Ed25519 key", Some(BootKey::of(&rcgen::PKCS_ED25519)), alpn, tls13),
        ("no protocol", Some(boot.key.clone()), &[], tls13),
        ("another protocol", Some(boot.key.clone()), &[b"h2"], tls13),
    ] {
        let opened = gate.door.open_with(key.as_ref(), alpn, versions);
        let answered = opened.and_then(|mut wire| wire.send(&hello).and_then(|()| wire.answer()));
        assert!(answered.is_err(), "{what}: {answered:?}");
    }
    // The gate says so at once: not for want of something that only TLS 1.3 has.
    let older = gate.door.open_with(Some(&boot.key), alpn, &[&rustls::version::TLS12]).map(|_| ()).unwrap_err();
    assert!(older.to_string().contains("ProtocolVersion"), "{older}");
    assert_eq!(gate.upstream.connections(), 0);
    gate.door.tunneled(&boot, &token);
}

/// The node key that a guest names has to be the one its evidence was bound to.
#[test]
fn a_node_key_that_was_not_attested_is_refused() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let boot = Boot { node: Some(BootKey::generate().as_node()), ..Boot::of("site-1") };
    let token = issuer.token(&boot);
    let with = |node: Option<NodeKey>| {
        let hello = Hello { v: Version1, open: Open::Lease, token: token.clone(), node };
        gate.door.hello(&boot.key, &hello).unwrap().1
    };
    assert_eq!(refusal(&with(Some(BootKey::generate().as_node()))).0, "node_key");
    let unbound = Boot { node: None, ..boot.clone() };
    let hello = Hello { v: Version1, open: Open::Lease, token: issuer.token(&unbound), node: boot.node.clone() };
    assert_eq!(refusal(&gate.door.hello(&boot.key, &hello).unwrap().1).0, "node_key");
    assert!(matches!(with(boot.node.clone()), coffer_token::lease::Answer::Admitted { .. }));
}
