use coffer_kbs_policy::EvidenceFacts;
use serde_json::{Value, json};

use super::super::tests::{facts, store};
use super::*;

fn names() -> (ProjectName, SiteName) {
    ("demo".parse().unwrap(), "site-1".parse().unwrap())
}

fn of(instance: u32, changed: &Value) -> EvidenceFacts {
    let mut value = serde_json::to_value(facts()).unwrap();
    value["host_data"] = json!("a1".repeat(32));
    value["report_id"] = json!(format!("{instance:064x}"));
    value["chip_id"] = json!("c1".repeat(64));
    for (name, member) in changed.as_object().unwrap() {
        value[name] = member.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn saw(store: &Store, facts: &EvidenceFacts, node: Option<&BoundNode>, at: u64) {
    let (project, site) = &names();
    store.saw(&Seen { project, site, facts, node, at }).unwrap();
}

fn node(byte: u8) -> BoundNode {
    BoundNode { jkt: Jkt::of_ec("P-384", &[byte; 48], &[byte; 48]), jwk: format!(r#"{{"kty":"EC","x":"{byte}"}}"#) }
}

#[test]
fn a_renewal_is_the_same_instance_and_shows_its_newest_node_key() {
    let (_dir, store) = store();
    let (project, site) = names();
    saw(&store, &of(1, &json!({})), Some(&node(1)), 10);
    saw(&store, &of(1, &json!({})), Some(&node(2)), 20);
    saw(&store, &of(1, &json!({})), Some(&node(2)), 15);
    saw(&store, &of(2, &json!({})), None, 30);
    let known = store.instances(&project, &site, 9).unwrap();
    let brief: Vec<_> = known.iter().map(|one| (one.first_seen, one.last_seen, one.node_jkt.clone())).collect();
    assert_eq!(brief, [(30, 30, None), (10, 20, Some(node(2).jkt.to_string()))]);
    assert_eq!(known[1].node_key.as_ref().unwrap().get(), node(2).jwk);
    assert!(store.instances(&project, &"site-2".parse().unwrap(), 9).unwrap().is_empty());
}

#[test]
fn the_newest_are_kept_and_those_that_a_lease_may_rest_on() {
    let (_dir, store) = store();
    let (project, site) = names();
    for n in 0..40 {
        saw(&store, &of(n, &json!({})), None, 10 + u64::from(n));
    }
    assert_eq!(store.instances(&project, &site, 99).unwrap().len(), 40, "a lease may rest on any of them");
    saw(&store, &of(99, &json!({})), None, 10_000);
    let known = store.instances(&project, &site, 99).unwrap();
    assert_eq!((known.len(), known[0].last_seen, known[15].last_seen), (KEPT_INSTANCES as usize, 10_000, 35));
}

#[test]
fn a_revoked_chip_or_key_withdraws_the_instances_that_rest_on_it_and_no_others() {
    let (_dir, mut store) = store();
    let (author, id) = ("ab".repeat(48), "cd".repeat(48));
    saw(&store, &of(1, &json!({})), None, 1000);
    saw(&store, &of(2, &json!({ "chip_id": "c2".repeat(64) })), None, 1000);
    saw(&store, &of(3, &json!({ "chip_id": "c2".repeat(64), "author_key_digest": author })), None, 1000);
    saw(&store, &of(4, &json!({ "chip_id": "c2".repeat(64), "author_key_digest": author, "id_key_digest": id })), None, 1000);
    let withdrawn = |store: &Store, after: u64| {
        let list = store.withdrawals("a", 1, after, 2000).unwrap();
        let instance = |entry: &coffer_token::Withdrawal| match &entry.withdrawn {
            Withdrawn::Instance { host_data, instance } => {
                assert_eq!(host_data.0, [0xa1; 32]);
                u32::from(instance.0[31])
            }
            other => panic!("{other:?}"),
        };
        let mut found: Vec<_> = list.entries.iter().map(|entry| (instance(entry), entry.code.clone())).collect();
        found.sort();
        (found, list.number)
    };
    store.revoke_value(RevocationKind::Key, &id, "x", "ada", 2000).unwrap();
    let (found, number) = withdrawn(&store, 0);
    assert_eq!(found, [(4, "key_revoked".to_owned())]);
    store.revoke_value(RevocationKind::Key, &author, "x", "ada", 2000).unwrap();
    let (found, number) = withdrawn(&store, number);
    assert_eq!(found, [(3, "key_revoked".to_owned()), (4, "key_revoked".to_owned())]);
    store.revoke_value(RevocationKind::Chip, &"c1".repeat(64), "x", "ada", 2000).unwrap();
    let (found, number) = withdrawn(&store, number);
    assert_eq!(found, [(1, "chip_revoked".to_owned())]);
    // Nothing rests on it any more.
    store.revoke_value(RevocationKind::Chip, &"c2".repeat(64), "x", "ada", 1001 + WITHDRAWALS_KEPT_SECONDS).unwrap();
    assert_eq!(withdrawn(&store, number).0, []);
}
