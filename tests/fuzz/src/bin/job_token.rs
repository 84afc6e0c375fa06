//! Tokens as a relying party meets them: any text, and any header and claims under a signature that holds.
//!
//! Input: a header, a line feed, a payload; the target signs them with the issuer's key.
#![no_main]

use coffer_fuzz::plant;
use coffer_token::{
    Claims, CofferClaims, Expectation, GpuVerdict, Hex, Jkt, MAX_LIFETIME_SECONDS, MAX_SKEW_SECONDS, Signer, Subject, Typ, UnixTime, Usage,
    Version1, check,
};
use data_encoding::BASE64URL_NOPAD;
use libfuzzer_sys::fuzz_target;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::Value;

const ISSUER_KEY: [u8; 32] = [1; 32];
const NOW: UnixTime = UnixTime(1_795_400_000);
const PEER: Jkt = Jkt::new([3; 32]);

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let issuer = Signer::from_bytes(&ISSUER_KEY).expect("a scalar");
    let job = Expectation {
        issuer: "https://attest.demo.test",
        audience: "demo",
        root_of_trust: "amd-sev-snp",
        usage: Usage::Job { project: "demo", role: "client", peer: PEER },
    };
    let aggregator = Expectation { usage: Usage::Aggregator { project: "demo", peer_node: PEER }, ..job };
    let key_service = Expectation { usage: Usage::KeyService, ..job };
    if let Ok(text) = std::str::from_utf8(bytes) {
        // Nothing in a seed is signed, and nobody finds a signature by mutation.
        for expected in [job, aggregator, key_service] {
            assert!(check(text, &issuer.jwks(), &expected, NOW).is_err());
        }
    }
    let split = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, payload) = (&bytes[..split], bytes.get(split + 1..).unwrap_or_default());
    let token = sign(header, payload);
    let stranger = Signer::from_bytes(&[2; 32]).expect("a scalar").jwks();
    let mut taken = 0;
    for expected in [job, aggregator, key_service] {
        assert!(check(&token, &stranger, &expected, NOW).is_err(), "another's key takes nothing");
        let Ok(checked) = check(&token, &issuer.jwks(), &expected, NOW) else { continue };
        taken += 1;
        let claims = checked.claims();
        let (from, to) = (claims.issued_at().0, claims.expires_at().0);
        assert!(from <= NOW.0 + MAX_SKEW_SECONDS && to > NOW.0 && to - from <= MAX_LIFETIME_SECONDS, "{from} to {to}");
        assert_eq!((claims.issuer(), claims.audience()), (job.issuer, job.audience));
        assert_eq!(claims.coffer().root_of_trust, job.root_of_trust);
        match expected.usage {
            Usage::Job { .. } => assert_eq!(claims.confirmation(), Some(PEER), "a job token belongs to its peer"),
            Usage::Aggregator { .. } => {
                assert_eq!((claims.coffer().role.as_str(), claims.coffer().node_jkt), ("superlink", Some(PEER)), "an aggregator names its node key");
            }
            Usage::KeyService => assert_eq!(claims.confirmation(), None, "a stock client's token is nobody's"),
        }
        let header: Value = serde_json::from_slice(header).expect("a header is JSON");
        assert_eq!((&header["alg"], &header["kid"]), (&"ES256".into(), &issuer.kid().into()));
        let said: Value = serde_json::from_slice(payload).expect("claims are JSON");
        assert_eq!(serde_json::to_value(claims).expect("encodes"), without_nulls(said), "claims say what the payload says, all of it");
    }
    assert!(taken <= 1, "a token serves one use");
});

fn sign(header: &[u8], payload: &[u8]) -> String {
    let input = format!("{}.{}", BASE64URL_NOPAD.encode(header), BASE64URL_NOPAD.encode(payload));
    let signature: Signature = SigningKey::from_slice(&ISSUER_KEY).expect("a scalar").sign(input.as_bytes());
    format!("{input}.{}", BASE64URL_NOPAD.encode(&signature.to_bytes()))
}

/// An optional member may be null instead of absent; what a JWK holds is left as it is.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().filter(|(_, member)| !member.is_null());
            kept.map(|(name, member)| if name == "tee-pubkey" { (name, member) } else { (name, without_nulls(member)) }).collect()
        }
        other => other,
    }
}

fn made() -> Vec<Vec<u8>> {
    let issuer = Signer::from_bytes(&ISSUER_KEY).expect("a scalar");
    let coffer = CofferClaims {
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
        node_jkt: Some(PEER),
        gpu: GpuVerdict::None,
        purpose: "boot".into(),
    };
    let forms = [
        (Typ::Job, "client", Some(PEER), None),
        (Typ::Job, "superlink", Some(PEER), None),
        (Typ::Kbs, "client", None, Some(serde_json::json!({ "kty": "EC" }))),
    ];
    let parts = forms.map(|(typ, role, confirmation, tee_pubkey)| {
        let claims = Claims::affirming(Subject {
            issuer: "https://attest.demo.test".into(),
            audience: "demo".into(),
            token_id: "t-1".into(),
            issued_at: NOW,
            lifetime_seconds: 300,
            confirmation,
            tee_pubkey,
            coffer: CofferClaims { role: role.into(), ..coffer.clone() },
        });
        let token = issuer.sign(typ, &claims).expect("signs");
        let parts: Vec<_> = token.split('.').map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).expect("base64url")).collect();
        [&parts[0][..], b"\n", &parts[1]].concat()
    });
    parts.into()
}
