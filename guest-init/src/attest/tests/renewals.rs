//! Later handshakes of the same boot.

use super::*;

/// A boot and what its service saw of each handshake: purpose and keys.
fn booted(
    mut change: impl FnMut(&str, usize) -> Option<Answer> + Send + 'static,
) -> (Attester, Arc<Mutex<Vec<coffer_protocol::BoundKeys>>>) {
    let authority = authority();
    let bound = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut say, mut attests) = (bound.clone(), genuine(SECRET.to_vec()), 0);
    let service = Service::start(&authority, move |path, body| {
        if path == "/kbs/v0/attest" {
            attests += 1;
            let attestation = Attestation::parse(body).expect("an attestation");
            seen.lock().expect("whole").push(attestation.runtime_data.coffer().expect("bound keys").clone());
        }
        change(path, attests).unwrap_or_else(|| say(path, body))
    });
    let mut site = site(&authority, &[&service.url], 5);
    site.gate = Some(crate::workload::tests::gate());
    let mut attester = attester(&site).expect("an attester");
    attester.boot(&mut PowerButton::open()).expect("boots");
    (attester, bound)
}

#[test]
fn a_renewal_binds_the_keys_of_the_boot_and_asks_for_a_token_only() {
    let fetched = Arc::new(Mutex::new(0));
    let count = fetched.clone();
    let (mut attester, bound) = booted(move |path, _| {
        *count.lock().expect("whole") += usize::from(path.starts_with("/kbs/v0/resource"));
        None
    });
    assert_eq!(*fetched.lock().expect("whole"), 1, "the root secret, at boot");
    for _ in 0..2 {
        let token = attester.renew().expect("renewed");
        assert_eq!(token.expires_at - token.issued_at, 300);
    }
    assert_eq!(*fetched.lock().expect("whole"), 1, "no key is asked for again");
    let bound = bound.lock().expect("whole");
    let [first, second, third] = &bound[..] else { panic!("{} handshakes", bound.len()) };
    assert_eq!((first.purpose, second.purpose, third.purpose), (Purpose::Boot, Purpose::Renew, Purpose::Renew));
    assert!(first.keys.node.is_some(), "this site has a gate");
    assert!(first.keys == second.keys && second.keys == third.keys, "the keys of one boot");
}

#[test]
fn a_refusal_is_the_services_judgement_and_shows_code_and_id() {
    let (mut attester, _) = booted(|path, attests| (path == "/kbs/v0/attest" && attests == 2).then(|| refusal(403, "revoked")));
    assert_eq!(attester.renew(), Err(NotRenewed::Refused { code: "revoked".into(), id: "id-1".into() }));
    assert!(attester.renew().is_ok(), "asked again, it may say something else");
}

/// None of these says anything about this guest: the workload must not be stopped for them.
#[test]
fn limits_illness_stale_challenges_and_words_are_no_refusal() {
    let says: [(u16, &str); 9] = [
        (429, "site_rate"),
        (429, "rate_limited"),
        (503, "busy"),
        (503, "collateral_pending"),
        (500, "internal"),
        (401, "challenge_epoch"),
        (403, "collateral_missing"),
        (403, "signature"),
        (503, "revoked"),
    ];
    for (status, code) in says {
        let (mut attester, _) = booted(move |path, attests| (path == "/kbs/v0/attest" && attests > 1).then(|| refusal(status, code)));
        match attester.renew() {
            Err(NotRenewed::Unreached { why, .. }) => assert!(why.contains(code), "{why}"),
            other => panic!("{status} {code}: {other:?}"),
        }
    }
    let prose = br#"{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"Access denied by policy"}"#;
    let (mut attester, _) = booted(move |path, attests| (path == "/kbs/v0/attest" && attests > 1).then(|| (403, prose.to_vec())));
    assert!(matches!(attester.renew(), Err(NotRenewed::Unreached { .. })));
}

/// Whoever terminates the connection can say `revoked`: without the pinned certificate nobody listens.
#[test]
fn a_refusal_of_somebody_else_is_no_refusal() {
    let (mut attester, _) = booted(|_, _| None);
    let impostor = Service::start(&authority(), |_, _| refusal(403, "revoked"));
    Arc::make_mut(&mut attester.site).key_service.urls = vec![impostor.url.clone()];
    match attester.renew() {
        Err(NotRenewed::Unreached { url, why }) => assert!(url == impostor.url && why.contains("certificate"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(impostor.paths().is_empty(), "nothing was said to it");
}

#[test]
fn a_service_that_is_away_is_unreached_and_the_next_url_is_asked() {
    let (mut attester, _) = booted(|_, _| None);
    let there = attester.site.key_service.urls[0].clone();
    let away = closed_port();
    Arc::make_mut(&mut attester.site).key_service.urls = vec![away.clone()];
    match attester.renew() {
        Err(NotRenewed::Unreached { url, why }) => assert!(url == away && why.contains("refused"), "{why}"),
        other => panic!("{other:?}"),
    }
    Arc::make_mut(&mut attester.site).key_service.urls = vec![away, there];
    assert!(attester.renew().is_ok());
}

#[test]
fn a_service_that_no_longer_binds_keys_is_not_believed() {
    let (mut attester, _) = booted(|path, attests| {
        let stock = || (200, Challenge { nonce: Nonce::new([7; 32]), coffer: false }.to_bytes());
        (path == "/kbs/v0/auth" && attests == 1).then(stock)
    });
    assert!(matches!(attester.renew(), Err(NotRenewed::Unreached { why, .. }) if why.contains("bound keys")));
}

/// The thread as the boot starts it: a token that lives three seconds is renewed while we watch, and a refusal is in the standing.
#[test]
fn the_thread_renews_and_reports() {
    use crate::standing::{Standing, Verdict};
    let (attester, _) = booted(|path, attests| (path == "/kbs/v0/attest" && attests > 2).then(|| refusal(403, "policy")));
    let first = crate::standing::Token { text: "a.b.c".into(), issued_at: 0, expires_at: 2 };
    let standing = Standing::new(first.clone(), true);
    crate::renewal::start(attester, standing.clone(), &first).expect("a thread");
    let renewed = standing.wait(1, Duration::from_secs(20));
    assert_eq!(renewed.verdict, Verdict::Affirmed);
    assert!(renewed.token.expect("a token").issued_at > 0);
    standing.ask();
    let mut state = standing.now();
    let began = Instant::now();
    while state.token.is_some() && began.elapsed() < Duration::from_secs(30) {
        state = standing.wait(state.serial, Duration::from_secs(30));
    }
    assert_eq!(state.verdict, Verdict::Refused { code: "policy".into(), id: "id-1".into() });
    assert!(began.elapsed() > Duration::from_secs(3), "asked for, but not at once: {:?}", began.elapsed());
}
