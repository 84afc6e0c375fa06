//! Session cookies at the service: any text, and any state under the service's own seal.
#![no_main]

use coffer_fuzz::plant;
use coffer_kbs_policy::EvidenceFacts;
use coffer_protocol::Nonce;
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::session::{Attested, Challenged, CookieKey, Sealed, find_cookie, set_cookie};

#[path = "../../../../attest/src/kek.rs"]
#[allow(dead_code)]
mod kek;
#[path = "../../../../attest/src/layout.rs"]
#[allow(dead_code)]
mod layout;
#[path = "../../../../attest/src/session.rs"]
#[allow(dead_code)]
mod session;

const KEY: CookieKey = CookieKey::new([3; 32]);
const EPOCH: u64 = 4;
const NOW: u64 = 100;

/// Any JSON under the seal of a challenge, or of an attested session.
#[derive(Serialize, Deserialize)]
struct AnyChallenged(Value);
#[derive(Serialize, Deserialize)]
struct AnyAttested(Value);

impl Sealed for AnyChallenged {
    const KIND: &'static str = Challenged::KIND;
    fn bounds(&self) -> (u64, u64) {
        (EPOCH, u64::MAX)
    }
}

impl Sealed for AnyAttested {
    const KIND: &'static str = Attested::KIND;
    fn bounds(&self) -> (u64, u64) {
        (EPOCH, u64::MAX)
    }
}

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(KEY.open::<Challenged>(text, EPOCH, NOW).is_err() && KEY.open::<Attested>(text, EPOCH, NOW).is_err(), "nobody sealed it");
        if let Some(value) = find_cookie(text) {
            assert!(text.contains(value) && !value.contains(';'), "{value}");
            assert_eq!(find_cookie(&set_cookie(value, 60)), Some(value), "a header has one reading");
        }
    }
    let Ok(state) = serde_json::from_slice::<Value>(bytes) else { return };
    if let Ok(cookie) = KEY.seal(&AnyChallenged(state.clone())) {
        assert!(KEY.open::<Attested>(&cookie, EPOCH, NOW).is_err(), "a challenge is no attested session");
        if let Ok(challenged) = KEY.open::<Challenged>(&cookie, EPOCH, NOW) {
            assert!(challenged.epoch == EPOCH && challenged.expires_at > NOW, "{challenged:?}");
            assert!(KEY.open::<Challenged>(&cookie, EPOCH + 1, NOW).is_err() && KEY.open::<Challenged>(&cookie, EPOCH, challenged.expires_at).is_err());
        }
    }
    if let Ok(cookie) = KEY.seal(&AnyAttested(state)) {
        assert!(KEY.open::<Challenged>(&cookie, EPOCH, NOW).is_err(), "an attested session is no challenge");
        if let Ok(attested) = KEY.open::<Attested>(&cookie, EPOCH, NOW) {
            assert!(attested.epoch == EPOCH && attested.expires_at > NOW, "{attested:?}");
            let again = KEY.seal(&attested).expect("what was read can be sealed");
            assert_eq!(KEY.open::<Attested>(&again, EPOCH, NOW), Ok(attested));
        }
    }
});

fn made() -> Vec<Vec<u8>> {
    let challenged = Challenged { epoch: EPOCH, expires_at: NOW + 60, nonce: Nonce::new([9; 32]), coffer: true };
    let hex = |bytes: usize| "0a".repeat(bytes);
    let facts = serde_json::json!({
        "root_of_trust": "amd-sev-snp", "family": "genoa", "chip_id": hex(64), "host_data": hex(32), "launch_digest": hex(48),
        "report_id": hex(32), "report_version": 3, "guest_svn": 0, "author_key_digest": null, "debug_allowed": false,
        "migration_allowed": false, "smt_allowed": true, "single_socket": false, "abi_major": 1, "abi_minor": 58, "platform_info": 1,
        "reported_tcb": { "fmc": null, "bootloader": 9, "tee": 0, "snp": 21, "microcode": 72 },
        "launch_mit_vector": null, "current_mit_vector": null,
    });
    assert!(EvidenceFacts::deserialize(&facts).is_ok(), "the seed has today's members");
    let coffer = serde_json::json!({
        "v": 1, "project": "demo", "site": "site-1", "role": "client", "host_data": hex(32), "launch_digest": hex(48), "base_svn": 1,
        "root_of_trust": "amd-sev-snp", "instance": hex(32), "family": "genoa", "gpu": "none", "purpose": "boot",
    });
    let attested = serde_json::json!({
        "epoch": EPOCH, "expires_at": NOW + 300, "tee_pubkey": { "kty": "EC" }, "coffer": coffer, "facts": facts, "values_tag": hex(8),
        "id": "a-1",
    });
    assert!(Attested::deserialize(&attested).is_ok(), "the seed has today's members");
    // The largest key a client may have.
    let mut rsa = attested.clone();
    rsa["tee_pubkey"] = serde_json::json!({ "alg": "RSA-OAEP-256", "e": "AQAB", "kty": "RSA", "n": "_".repeat(683) });
    assert!(Attested::deserialize(&rsa).is_ok(), "the seed has today's members");
    let header = format!("a=b; kbs-session-id={}; c=d", "A".repeat(60));
    vec![serde_json::to_vec(&challenged).expect("encodes"), attested.to_string().into_bytes(), rsa.to_string().into_bytes(), header.into_bytes()]
}
