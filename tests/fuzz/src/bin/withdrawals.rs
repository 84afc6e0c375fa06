//! What a gate reads of a service that takes something back: any text, and any payload under a signature that holds.
//!
//! Input: a byte, then a statement's text, or a payload that the target signs.
#![no_main]

use std::collections::BTreeSet;

use coffer_fuzz::plant;
use coffer_token::{Hex, MAX_WITHDRAWALS_PER_LIST, Signer, StatementKind, Version1, Withdrawal, WithdrawalList, Withdrawn};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let Some((what, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let signer = Signer::from_bytes(&[7; 32]).expect("a scalar");
    let read = |text: &str| signer.jwks().check_statement::<WithdrawalList>(text, StatementKind::Withdrawals).ok();
    if what % 2 == 0 {
        assert!(read(text).is_none(), "nothing in a seed is signed");
        return;
    }
    let Ok(payload) = serde_json::from_str::<&RawValue>(text) else { return };
    let of_another_kind = signer.sign_statement(StatementKind::Revocations, &payload).expect("serializes");
    assert!(read(&of_another_kind).is_none(), "a list of another kind");
    let Some(list) = read(&signer.sign_statement(StatementKind::Withdrawals, &payload).expect("serializes")) else { return };
    let again = signer.sign_statement(StatementKind::Withdrawals, &list).expect("serializes");
    assert_eq!(read(&again).as_ref(), Some(&list), "what was read is what is written");
    if list.check_form().is_err() {
        return;
    }
    let numbers: BTreeSet<u64> = list.entries.iter().map(|entry| entry.number).collect();
    assert!(numbers.len() == list.entries.len() && numbers.len() <= MAX_WITHDRAWALS_PER_LIST);
    assert!(numbers.iter().all(|number| (list.after + 1..=list.number).contains(number)), "{numbers:?}");
    assert_eq!(list.is_partial(), numbers.last().is_some_and(|last| *last < list.number));
});

fn made() -> Vec<Vec<u8>> {
    let kinds = [
        Withdrawn::Site { host_data: Hex([1; 32]) },
        Withdrawn::Instance { host_data: Hex([1; 32]), instance: Hex([2; 32]) },
        Withdrawn::Image { launch_digest: Hex([3; 48]) },
        Withdrawn::TokenKey { kid: "k".to_owned() },
    ];
    let entry = |(number, withdrawn)| Withdrawal { number, at: 1_795_400_000, code: "site_suspended".to_owned(), withdrawn };
    let list = |number, after, entries: Vec<Withdrawal>| {
        let iss = "https://a.test".to_owned();
        let list = WithdrawalList { v: Version1, iss, epoch: 1_795_400_000, iat: 1_795_400_001, number, after, entries };
        [b"\x01", serde_json::to_string(&list).expect("encodes").as_bytes()].concat()
    };
    let entries: Vec<_> = (3..).step_by(2).zip(kinds).map(entry).collect();
    vec![b"\x00a.b.c".to_vec(), list(9, 2, entries.clone()), list(20, 2, entries), list(0, 0, Vec::new())]
}
