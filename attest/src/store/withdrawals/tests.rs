use coffer_manifest::{ProjectName, SiteName};
use coffer_token::RevocationKind;
use serde_json::json;

use super::super::tests::{facts, file, record, store};
use super::super::{Event, Seen, Subject};
use super::*;

fn refuse(store: &Store, host: u8, instance: u32, at: u64) {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&instance.to_be_bytes());
    let refused = RefusedInstance { host_data: HostData::new([host; 32]), instance: ReportId::new(id) };
    let entry = Entry::new(at, Event::Refuse, "id", "tcb_floor", String::new(), Subject::default());
    store.record_refusal(entry, Some(refused)).unwrap();
}

fn saw(store: &Store, host: u8, instance: u32, at: u64) {
    let (project, site): (ProjectName, SiteName) = ("demo".parse().unwrap(), "site-1".parse().unwrap());
    let mut value = serde_json::to_value(facts()).unwrap();
    value["host_data"] = json!(HostData::new([host; 32]).to_string());
    value["report_id"] = json!(format!("{instance:08x}{}", "0".repeat(56)));
    let facts = serde_json::from_value(value).unwrap();
    store.saw(&Seen { project: &project, site: &site, facts: &facts, node: None, at }).unwrap();
}

fn list(store: &Store, after: u64) -> WithdrawalList {
    let list = store.withdrawals("https://a.test", 7, after, 99).unwrap();
    list.check_form().unwrap();
    list
}

fn withdraw_site(store: &Store, host: u8, now: u64) {
    withdraw(&store.db, Withdrawn::Site { host_data: Hex([host; 32]) }, "revoked", now).unwrap();
}

#[test]
fn numbers_are_never_given_twice_and_one_thing_has_one_row() {
    let (_dir, store) = store();
    assert_eq!((list(&store, 0).number, list(&store, 0).entries.len()), (0, 0));
    for now in 10..13 {
        withdraw_site(&store, 1, now);
    }
    withdraw_site(&store, 2, 13);
    let all = list(&store, 0);
    assert_eq!((all.number, all.epoch, all.iat, all.entries.len()), (4, 7, 99, 2));
    assert_eq!((all.entries[0].number, all.entries[0].at), (3, 12));
    assert_eq!(store.forget_withdrawals(13 + WITHDRAWALS_KEPT_SECONDS).unwrap(), 1);
    assert_eq!(store.forget_withdrawals(14 + WITHDRAWALS_KEPT_SECONDS).unwrap(), 1);
    assert_eq!((list(&store, 0).number, list(&store, 0).entries.len()), (4, 0), "the newest number stays known");
    withdraw_site(&store, 2, 20_000);
    assert_eq!(list(&store, 4).entries[0].number, 5);
}

#[test]
fn a_long_list_comes_in_stretches() {
    let (_dir, store) = store();
    store.db.pragma_update(None, "synchronous", "OFF").unwrap();
    let count = u64::try_from(MAX_WITHDRAWALS_PER_LIST).unwrap() + 3;
    store
        .together(|store| {
            (0..count).try_for_each(|n| withdraw(&store.db, Withdrawn::TokenKey { kid: n.to_string() }, "token_key_leaked", 5))
        })
        .unwrap();
    let first = list(&store, 0);
    assert!(first.is_partial() && first.number == count);
    let rest = list(&store, first.entries.last().unwrap().number);
    assert_eq!((rest.entries.len(), rest.is_partial()), (3, false));
}

/// A clock that was ahead and has been set back signed tokens of the future; a withdrawal covers them.
#[test]
fn a_withdrawal_covers_the_newest_token_whatever_the_clock_says() {
    let (_dir, store) = store();
    saw(&store, 1, 1, 5000);
    withdraw_site(&store, 1, 1400);
    withdraw_site(&store, 2, 1400);
    withdraw(&store.db, Withdrawn::TokenKey { kid: "k".into() }, "token_key_leaked", 1400).unwrap();
    let at: Vec<_> = list(&store, 0).entries.iter().map(|entry| entry.at).collect();
    assert_eq!(at, [5000, 1400, 1400 + WITHDRAWALS_KEPT_SECONDS], "who has a token key writes what time they like");
    // It is kept as long as any other.
    assert_eq!(store.forget_withdrawals(1401 + WITHDRAWALS_KEPT_SECONDS).unwrap(), 3);
}

#[test]
fn a_refused_instance_is_withdrawn_once_and_again_after_it_was_given_another_token() {
    let (_dir, store) = store();
    saw(&store, 1, 1, 100);
    refuse(&store, 1, 1, 110);
    refuse(&store, 1, 1, 111);
    let one = list(&store, 0);
    assert_eq!((one.number, one.entries.len(), one.entries[0].at, one.entries[0].code.as_str()), (1, 1, 110, "tcb_floor"));
    saw(&store, 1, 1, 120);
    refuse(&store, 1, 1, 130);
    let again = list(&store, 1);
    assert_eq!((again.number, again.entries.len(), again.entries[0].at), (2, 1, 130));
}

/// Whoever owns a processor can have guests refused without end, and choose their HOST_DATA.
#[test]
fn refused_strangers_push_out_one_another_and_nobody_else() {
    let (_dir, mut store) = store();
    store.db.pragma_update(None, "synchronous", "OFF").unwrap();
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    saw(&store, 1, 1, 11);
    refuse(&store, 1, 1, 12);
    let (project, site) = ("demo".parse().unwrap(), "site-1".parse().unwrap());
    store.suspend(&project, &site, super::super::Change { by: "ada", reason: "x", now: 13 }).unwrap();
    store.revoke_value(RevocationKind::Image, &"ab".repeat(48), "x", "ada", 14).unwrap();
    for n in 2..MAX_STRANGERS + 100 {
        refuse(&store, 1, n, 15);
    }
    let all = list(&store, 0).entries;
    assert_eq!(all.len(), 3 + MAX_STRANGERS as usize);
    let own = Withdrawn::Instance { host_data: Hex([1; 32]), instance: Hex(std::array::from_fn(|n| u8::from(n == 3))) };
    assert_eq!(all[0].withdrawn, own);
    assert_eq!((all[1].code.as_str(), all[2].code.as_str()), ("site_suspended", "launch_digest_revoked"));
    assert_eq!(all.last().map(|newest| newest.number), Some(list(&store, 0).number));
}

#[test]
fn a_refusal_and_its_withdrawal_are_recorded_together_or_not_at_all() {
    let (_dir, store) = store();
    store.db.execute_batch("DROP TABLE withdrawals").unwrap();
    let entry = Entry::new(5, Event::Refuse, "id", "tcb_floor", String::new(), Subject::default());
    let refused = RefusedInstance { host_data: HostData::new([1; 32]), instance: ReportId::new([2; 32]) };
    assert!(store.record_refusal(entry, Some(refused)).is_err());
    assert_eq!(store.check_audit().unwrap().0, 0);
}
