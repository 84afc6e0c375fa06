use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::claims::{CofferClaims, GpuVerdict, Hex, Subject, Version1};
use crate::key::Signer;

const NOW: UnixTime = UnixTime(1_795_400_000);

fn signer() -> Signer {
    Signer::from_bytes(&[1; 32]).expect("a scalar")
}

fn jkt() -> Jkt {
    Jkt::new([3; 32])
}

fn coffer() -> CofferClaims {
    CofferClaims {
        v: Version1,
        project: "demo".into(),
        site: "site-1".into(),
        role: "client".into(),
        host_data: Hex([4; 32]),
        launch_digest: Hex([5; 48]),
        base_svn: 1,
        root_of_trust: "amd-sev-snp".into(),
        instance: Hex([6; 32]),
        family: "genoa".into(),
        node_jkt: None,
        gpu: GpuVerdict::None,
        purpose: "boot".into(),
    }
}

fn subject() -> Subject {
    Subject {
        issuer: "https://attest.demo.test".into(),
        audience: "demo".into(),
        token_id: "t-1".into(),
        issued_at: NOW,
        lifetime_seconds: 300,
        confirmation: Some(jkt()),
        tee_pubkey: None,
        coffer: coffer(),
    }
}

fn stock_subject() -> Subject {
    Subject { confirmation: None, tee_pubkey: Some(json!({ "kty": "EC" })), ..subject() }
}

fn expectation() -> Expectation<'static> {
    Expectation {
        issuer: "https://attest.demo.test",
        audience: "demo",
        root_of_trust: "amd-sev-snp",
        usage: Usage::Job { project: "demo", role: "client", peer: jkt() },
    }
}

fn job(subject: Subject) -> String {
    signer().sign(Typ::Job, &Claims::affirming(subject)).expect("signs")
}

fn checked(token: &str) -> Result<Checked<Claims>, Reject> {
    check(token, &signer().jwks(), &expectation(), NOW)
}

/// Signs any header and payload with the real key, as a careless issuer would.
fn forge(header: &Value, payload: &Value) -> String {
    use p256::ecdsa::signature::Signer as _;
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let input = format!("{}.{}", encode(header), encode(payload));
    let key = p256::ecdsa::SigningKey::from_slice(&[1; 32]).expect("a scalar");
    let signature: p256::ecdsa::Signature = key.sign(input.as_bytes());
    compact::finish(input, &signature.to_bytes())
}

fn header() -> Value {
    json!({ "alg": "ES256", "typ": "coffer-job+jwt", "kid": signer().kid() })
}

fn payload() -> Value {
    serde_json::to_value(Claims::affirming(subject())).expect("encodes")
}

/// `value` with the member at `pointer` set, or removed where `to` is `None`.
fn changed(mut value: Value, pointer: &str, to: Option<Value>) -> Value {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let object = value.pointer_mut(parent).expect("exists").as_object_mut().expect("an object");
    match to {
        Some(to) => object.insert(name.into(), to),
        None => object.remove(name),
    };
    value
}

#[test]
fn an_honest_token_passes() {
    let token = job(subject());
    let checked = checked(&token).expect("passes");
    assert_eq!(checked.claims().coffer(), &coffer());
    assert_eq!(checked.claims().confirmation(), Some(jkt()));
    assert_eq!((checked.claims().issued_at(), checked.claims().expires_at()), (NOW, UnixTime(NOW.0 + 300)));
    assert_eq!((checked.claims().token_id(), checked.claims().tee_pubkey()), ("t-1", None));
    assert!(token.len() < 2048, "{} bytes", token.len());
    assert!(checked_forged(&header(), &payload()).is_ok(), "forge() makes the same token");
}

fn checked_forged(header: &Value, payload: &Value) -> Result<Checked<Claims>, Reject> {
    checked(&forge(header, payload))
}

#[test]
fn claims_are_golden() {
    let text = serde_json::to_string(&Claims::affirming(subject())).expect("encodes");
    let expected = concat!(
        r#"{"eat_profile":"tag:github.com,2023:veraison/ear","iss":"https://attest.demo.test","aud":"demo","jti":"t-1","#,
        r#""iat":1795400000,"exp":1795400300,"cnf":{"jkt":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM"},"#,
        r#""ear.verifier-id":{"developer":"coffer","build":"coffer-attest "#,
        env!("CARGO_PKG_VERSION"),
        r#""},"submods":{"cpu0":{"ear.status":"affirming","ear.trustworthiness-vector":"#,
        r#"{"instance-identity":2,"configuration":2,"executables":3,"hardware":2}}},"coffer":{"v":1,"project":"demo","#,
        r#""site":"site-1","role":"client","host_data":"0404040404040404040404040404040404040404040404040404040404040404","#,
        r#""launch_digest":"050505050505050505050505050505050505050505050505050505050505050505050505050505050505050505050505","#,
        r#""base_svn":1,"root_of_trust":"amd-sev-snp","#,
        r#""instance":"0606060606060606060606060606060606060606060606060606060606060606","family":"genoa","gpu":"none","purpose":"boot"}}"#,
    );
    assert_eq!(text, expected);
    let simulated = CofferClaims { root_of_trust: "simulated:00".into(), ..coffer() };
    let text = serde_json::to_string(&Claims::affirming(Subject { coffer: simulated, ..subject() })).expect("encodes");
    assert!(!text.contains("hardware"), "a simulator affirms no hardware: {text}");
}

#[test]
fn headers_are_compared_never_obeyed() {
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" });
    for (pointer, to, expected) in [
        ("/alg", Some(json!("none")), "token has alg `none`, expected `ES256`"),
        ("/alg", Some(json!("None")), "token has alg `None`, expected `ES256`"),
        ("/alg", Some(json!("HS256")), "token has alg `HS256`, expected `ES256`"),
        ("/alg", Some(json!("ES384")), "token has alg `ES384`, expected `ES256`"),
        ("/alg", Some(json!("RS256")), "token has alg `RS256`, expected `ES256`"),
        ("/alg", Some(json!("es256")), "token has alg `es256`, expected `ES256`"),
        ("/alg", None, "missing field `alg`"),
        ("/typ", Some(json!("JWT")), "token has typ `JWT`, expected `coffer-job+jwt`"),
        ("/typ", Some(json!("coffer-kbs+jwt")), "token has typ `coffer-kbs+jwt`, expected `coffer-job+jwt`"),
        ("/typ", Some(json!("coffer-admin+jwt")), "token has typ `coffer-admin+jwt`"),
        ("/typ", Some(json!("COFFER-JOB+JWT")), "token has typ `COFFER-JOB+JWT`"),
        ("/typ", None, "missing field `typ`"),
        ("/kid", Some(json!("other")), "unknown key `other`"),
        ("/kid", Some(json!("")), "unknown key ``"),
        ("/kid", None, "missing field `kid`"),
        ("/jwk", Some(jwk), "unknown field `jwk`"),
        ("/jku", Some(json!("https://evil.test/jwks")), "unknown field `jku`"),
        ("/x5c", Some(json!([])), "unknown field `x5c`"),
        ("/x5u", Some(json!("https://evil.test")), "unknown field `x5u`"),
        ("/crit", Some(json!(["b64"])), "unknown field `crit`"),
        ("/b64", Some(json!(false)), "unknown field `b64`"),
        ("/zip", Some(json!("DEF")), "unknown field `zip`"),
    ] {
        let refused = checked_forged(&changed(header(), pointer, to.clone()), &payload()).expect_err(expected).to_string();
        assert!(refused.contains(expected), "{pointer} {to:?}: {refused}");
    }
}

/// A rejection's name, without its values.
fn name(reject: &Reject) -> String {
    format!("{reject:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

#[test]
fn each_rule_has_its_rejection() {
    let later = |seconds: u64| json!(NOW.0 + seconds);
    for (pointer, to, expected) in [
        ("/iss", Some(json!("https://evil.test")), "Issuer"),
        ("/aud", Some(json!("other")), "Audience"),
        ("/aud", Some(json!(["demo"])), "Claims"),
        ("/aud", Some(json!(["demo", "other"])), "Claims"),
        ("/exp", Some(later(601)), "Form"),
        ("/exp", Some(later(0)), "Form"),
        ("/exp", Some(json!(NOW.0 - 1)), "Form"),
        ("/exp", Some(json!(u64::MAX)), "Form"),
        ("/exp", Some(json!(-1)), "Claims"),
        ("/exp", Some(json!(1.5)), "Claims"),
        ("/exp", Some(json!("1795400300")), "Claims"),
        ("/exp", None, "Claims"),
        ("/iat", None, "Claims"),
        ("/jti", None, "Claims"),
        ("/iss", None, "Claims"),
        ("/aud", None, "Claims"),
        ("/cnf", None, "Form"),
        ("/cnf", Some(json!({})), "Claims"),
        ("/cnf", Some(json!({ "jwk": {} })), "Claims"),
        ("/cnf/jkt", Some(json!("AA")), "Claims"),
        ("/cnf/jkt", Some(json!(Jkt::new([9; 32]).to_string())), "Confirmation"),
        ("/eat_profile", Some(json!("tag:github.com,2024:confidential-containers/Trustee")), "Form"),
        ("/submods/cpu0/ear.status", Some(json!("warning")), "Claims"),
        ("/submods/cpu0/ear.status", Some(json!("contraindicated")), "Claims"),
        ("/submods/cpu0", None, "Claims"),
        ("/submods/gpu0", Some(json!({})), "Claims"),
        ("/nbf", Some(later(0)), "Claims"),
        ("/coffer", None, "Claims"),
        ("/coffer/v", Some(json!(2)), "Claims"),
        ("/coffer/v", None, "Claims"),
        ("/coffer/extra", Some(json!(1)), "Claims"),
        ("/coffer/host_data", Some(json!("04")), "Claims"),
        ("/coffer/host_data", Some(json!("0A".repeat(32))), "Claims"),
        ("/coffer/gpu", Some(json!("ready")), "Claims"),
        ("/coffer/project", Some(json!("other")), "Project"),
        ("/coffer/role", Some(json!("server")), "Role"),
        ("/coffer/role", None, "Claims"),
        ("/coffer/root_of_trust", Some(json!("simulated:ff")), "RootOfTrust"),
    ] {
        let refused = checked_forged(&header(), &changed(payload(), pointer, to.clone())).expect_err(pointer);
        assert_eq!(name(&refused), expected, "{pointer} {to:?}: {refused}");
    }
}

#[test]
fn time() {
    let token = job(subject());
    let at = |now: u64| check(&token, &signer().jwks(), &expectation(), UnixTime(now)).map(|_| ()).map_err(|reject| name(&reject));
    assert_eq!(at(NOW.0 - MAX_SKEW_SECONDS), Ok(()));
    assert_eq!(at(NOW.0 - MAX_SKEW_SECONDS - 1), Err("Future".into()));
    assert_eq!(at(NOW.0 + 299), Ok(()));
    assert_eq!(at(NOW.0 + 300), Err("Expired".into()));
    assert_eq!(at(u64::MAX), Err("Expired".into()));
    assert_eq!(at(0), Err("Future".into()));
}

#[test]
fn only_the_configured_key_signs() {
    let token = job(subject());
    let other = Signer::from_bytes(&[2; 32]).expect("a scalar");
    assert!(matches!(check(&token, &other.jwks(), &expectation(), NOW), Err(Reject::UnknownKey { .. })));

    // Another key under the known key's id.
    let (head, rest) = token.split_once('.').expect("three parts");
    let stolen_id = other.sign(Typ::Job, &Claims::affirming(subject())).expect("signs");
    let signature = stolen_id.rsplit_once('.').expect("three parts").1;
    let payload = rest.split_once('.').expect("three parts").0;
    assert!(matches!(checked(&format!("{head}.{payload}.{signature}")), Err(Reject::Signature)));
}

#[test]
fn a_changed_token_does_not_verify() {
    let token = job(subject());
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let raw = BASE64URL_NOPAD.decode(signature.as_bytes()).expect("base64url");
    for (text, expected) in [
        (format!("{signed}."), "Signature"),
        (format!("{signed}.{}", BASE64URL_NOPAD.encode(&[0; 64])), "Signature"),
        (format!("{signed}.{}", BASE64URL_NOPAD.encode(&raw[..63])), "Signature"),
        (format!("{signed}.{}", BASE64URL_NOPAD.encode(&[raw.as_slice(), &[0]].concat())), "Signature"),
        (signed.to_owned(), "Malformed"),
        (format!("{token}.x"), "Malformed"),
        (format!("{token}="), "Malformed"),
        (format!("{token} "), "Malformed"),
        (format!(" {token}"), "Malformed"),
        (token.replacen('.', "..", 1), "Malformed"),
        (String::new(), "Malformed"),
        ("..".into(), "Header"),
        ("x".repeat(MAX_TOKEN_BYTES + 1), "TooLong"),
    ] {
        let refused = checked(&text).expect_err(expected);
        assert_eq!(name(&refused), expected, "{refused}");
    }
}

#[test]
fn repeated_claims_are_refused() {
    let twice = payload().to_string().replacen('{', "{\"aud\":\"demo\",", 1);
    let input = compact::signing_input(ALG, Typ::Job.name(), signer().kid(), twice.as_bytes());
    let key = p256::ecdsa::SigningKey::from_slice(&[1; 32]).expect("a scalar");
    let signature: p256::ecdsa::Signature = p256::ecdsa::signature::Signer::sign(&key, input.as_bytes());
    let refused = checked(&compact::finish(input, &signature.to_bytes())).expect_err("repeated");
    assert!(refused.to_string().contains("duplicate field `aud`"), "{refused}");
}

#[test]
fn a_stock_token_opens_no_gate_and_a_job_token_no_key_service() {
    let stock = signer().sign(Typ::Kbs, &Claims::affirming(stock_subject())).expect("signs");
    let key_service = Expectation { usage: Usage::KeyService, ..expectation() };
    let keys = signer().jwks();
    let read = check(&stock, &keys, &key_service, NOW).expect("passes");
    assert_eq!(read.claims().tee_pubkey(), Some(&json!({ "kty": "EC" })));
    assert!(matches!(checked(&stock), Err(Reject::Typ { .. })));
    assert!(matches!(check(&job(subject()), &keys, &key_service, NOW), Err(Reject::Typ { .. })));
}

fn aggregator() -> Subject {
    Subject { coffer: CofferClaims { role: AGGREGATOR_ROLE.into(), node_jkt: Some(Jkt::new([8; 32])), ..coffer() }, ..subject() }
}

#[test]
fn only_the_aggregators_own_token_passes_as_its() {
    let keys = signer().jwks();
    let passes = |subject: Subject, peer_node: Jkt, now: UnixTime| {
        let expected = Expectation { usage: Usage::Aggregator { project: "demo", peer_node }, ..expectation() };
        check(&job(subject), &keys, &expected, now).map(|_| ()).map_err(|reject| name(&reject))
    };
    let node = Jkt::new([8; 32]);
    assert_eq!(passes(aggregator(), node, NOW), Ok(()));
    let with = |change: &dyn Fn(&mut CofferClaims)| {
        let mut subject = aggregator();
        change(&mut subject.coffer);
        subject
    };
    for (subject, expected) in [
        // A site's token, even where its node key is the peer's.
        (with(&|coffer| coffer.role = "client".into()), "Role"),
        (with(&|coffer| coffer.role = "server".into()), "Role"),
        (with(&|coffer| coffer.project = "other".into()), "Project"),
        (with(&|coffer| coffer.root_of_trust = "simulated:00".into()), "RootOfTrust"),
        (with(&|coffer| coffer.node_jkt = None), "Node"),
        (with(&|coffer| coffer.node_jkt = Some(jkt())), "Node"),
        (Subject { issuer: "https://evil.test".into(), ..aggregator() }, "Issuer"),
        (Subject { audience: "other".into(), ..aggregator() }, "Audience"),
    ] {
        assert_eq!(passes(subject, node, NOW), Err(expected.into()));
    }
    // A gate that copied the token has another key, whatever `cnf` says.
    assert_eq!(passes(aggregator(), jkt(), NOW), Err("Node".into()));
    assert_eq!(passes(aggregator(), node, UnixTime(NOW.0 + 300)), Err("Expired".into()));
    let expected = Expectation { usage: Usage::Aggregator { project: "demo", peer_node: node }, ..expectation() };
    let stock = signer().sign(Typ::Kbs, &Claims::affirming(Subject { coffer: aggregator().coffer, ..stock_subject() })).expect("signs");
    assert!(matches!(check(&stock, &keys, &expected, NOW), Err(Reject::Typ { .. })));
    // And the aggregator's opens no gate.
    assert!(matches!(checked(&job(aggregator())), Err(Reject::Role { .. })));
}

#[test]
fn the_issuer_signs_no_unusable_token() {
    let sign = |typ, subject| signer().sign(typ, &Claims::affirming(subject)).map_err(|error| error.to_string());
    let life = |lifetime_seconds| Subject { lifetime_seconds, ..subject() };
    assert!(sign(Typ::Job, life(600)).is_ok());
    assert!(sign(Typ::Job, life(601)).expect_err("too long").contains("expected 1 to 600 seconds"));
    assert!(sign(Typ::Job, life(0)).is_err());
    assert!(sign(Typ::Job, life(u64::MAX)).is_err());
    assert!(sign(Typ::Job, stock_subject()).expect_err("unbound").contains("no cnf"));
    assert!(sign(Typ::Kbs, subject()).expect_err("bound").contains("has a cnf"));
}

#[test]
fn a_stock_kbs_token_is_refused() {
    // The shape of a stock service's header: its key comes along.
    let header = json!({ "typ": "JWT", "alg": "ES256", "jwk": { "kty": "EC" } });
    assert!(matches!(checked_forged(&header, &payload()), Err(Reject::Header(_))));
}

proptest! {
    #[test]
    fn never_panics(text in "[ -~]{0,200}", header in "[ -~]{0,80}", payload in "[ -~]{0,80}") {
        let _ = checked(&text);
        let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let built = format!("{}.{}.{}", encode(&header), encode(&payload), encode("x"));
        prop_assert!(checked(&built).is_err());
    }

    #[test]
    fn any_changed_character_is_noticed(at: prop::sample::Index, to in "[A-Za-z0-9_.-]") {
        let token = job(subject());
        let at = at.index(token.len());
        let mut changed = token.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != token);
        prop_assert!(checked(&changed).is_err());
    }
}
