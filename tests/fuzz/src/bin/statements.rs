//! What a service says about itself: signed lists of revocations and audit heads, and its audit log line by line.
//!
//! Input: a byte that says what it is, then a statement's text, a payload that the target signs, or lines of an exported log.
#![no_main]

use coffer_fuzz::plant;
use coffer_token::{AuditHead, Hex, Revocation, RevocationKind, RevocationList, Signer, StatementKind, Version1};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

#[allow(dead_code, reason = "the program uses all of it")]
#[path = "../../../../attest/src/command/audit_chain.rs"]
mod chain;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let Some((what, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match what % 4 {
        0 => for kind in StatementKind::ALL {
            assert!(signer().jwks().check_statement::<serde_json::Value>(text, kind).is_err(), "nothing in a seed is signed");
        },
        1 => list(text),
        2 => drop(signed::<AuditHead>(text, StatementKind::AuditHead)),
        _ => log(text),
    }
});

fn signer() -> Signer {
    Signer::from_bytes(&[7; 32]).expect("a scalar")
}

/// What a reader gets of a payload that the service signed; the other kind of reader gets nothing.
fn signed<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(payload: &str, kind: StatementKind) -> Option<T> {
    let raw: &RawValue = serde_json::from_str(payload).ok()?;
    let text = signer().sign_statement(kind, &raw).expect("serializes");
    for other in StatementKind::ALL.into_iter().filter(|other| *other != kind) {
        assert!(signer().jwks().check_statement::<serde_json::Value>(&text, other).is_err(), "of another kind");
    }
    let read: T = signer().jwks().check_statement(&text, kind).ok()?;
    let again = signer().sign_statement(kind, &read).expect("serializes");
    assert_eq!(signer().jwks().check_statement::<T>(&again, kind).expect("as before"), read);
    Some(read)
}

fn list(payload: &str) {
    let Some(list) = signed::<RevocationList>(payload, StatementKind::Revocations) else { return };
    if list.check_form().is_err() {
        return;
    }
    for (place, entry) in (list.after..).skip(1).zip(&list.entries) {
        assert!(entry.number == place && entry.number <= list.number && entry.kind.fits(&entry.value), "{entry:?}");
    }
    let end = list.after + list.entries.len() as u64;
    assert_eq!(list.has_more(), end < list.number);
}

fn log(text: &str) {
    let mut chain = chain::Chain::expecting(None);
    let mut count = 0;
    for line in text.lines() {
        if chain.push(line).is_err() {
            return;
        }
        count += 1;
    }
    let (first, last, _) = chain.finish().expect("no head to contradict");
    assert!(count == 0 || last - first + 1 == count, "{first} to {last} in {count} lines");
}

fn made() -> Vec<Vec<u8>> {
    let entry = |number, kind: RevocationKind, value: String| Revocation {
        number,
        kind,
        value,
        at: 1_795_400_000,
        name: Some("demo/site-1".to_owned()),
        by: Some("ada".to_owned()),
        reason: Some("lost".to_owned()),
    };
    let entries = vec![entry(1, RevocationKind::Site, "ab".repeat(32)), entry(2, RevocationKind::Chip, "cd".repeat(64))];
    let list = RevocationList { v: Version1, iss: "https://a.test".to_owned(), iat: 1_795_400_000, number: 2, after: 0, entries };
    let head = AuditHead { v: Version1, iss: "https://a.test".to_owned(), at: 1_795_400_000, seq: 2, digest: Hex([1; 32]) };
    let mut log = String::new();
    let mut prev = coffer_manifest::Sha256Digest::new([0; 32]);
    for seq in 1..4 {
        let entry = format!(r#"{{"at":{seq},"prev":"{prev}","seq":{seq}}}"#);
        prev = coffer_manifest::Sha256Digest::of(entry.as_bytes());
        log.push_str(&format!("{{\"digest\":\"{prev}\",\"entry\":{entry}}}\n"));
    }
    let tagged = |tag: u8, text: &str| [&[tag], text.as_bytes()].concat();
    vec![
        tagged(0, "a.b.c"),
        tagged(1, &serde_json::to_string(&list).expect("encodes")),
        tagged(2, &serde_json::to_string(&head).expect("encodes")),
        tagged(3, &log),
    ]
}
