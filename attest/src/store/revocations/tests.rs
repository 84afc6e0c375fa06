//! Revocations, admins and token keys as the database keeps them.

use coffer_evidence::HostData;
use coffer_manifest::{Enrollment, RootOfTrust};
use coffer_token::{RevocationKind, RevocationList};

use super::super::tests::{facts, file, record, store};
use super::super::{Admin, AdminError, EnrollError, Entry, Event, KeyError, Scope, Site, Standing, Store, Subject};
use super::{ImportError, RevocationError, SUPERSEDED};
use crate::kek::Kek;
use crate::token_keys::KeyState;

const CHIP: &str = "11223344556677880000000000000000000000000000000000000000000000000000000000000000\
                    000000000000000000000000000000000000000000000000";

fn admin(name: &str, project: Option<&str>, scopes: &[Scope]) -> Admin {
    Admin {
        kid: coffer_token::Jkt::of_ec("P-384", name.as_bytes(), &[1]).to_string(),
        name: name.to_owned(),
        public: "-".to_owned(),
        scopes: scopes.to_vec(),
        project: project.map(|project| project.parse().unwrap()),
        added_at: 1,
        added_by: "init".to_owned(),
        revoked_at: None,
    }
}

fn list(store: &Store) -> RevocationList {
    store.revocations().load().list("https://a.test", 0, true, 99)
}

fn is_active(site: Option<Site>) -> bool {
    site.unwrap().stands.standing == Standing::Active
}

#[test]
fn numbers_run_without_gaps_over_every_kind_and_nothing_is_revoked_twice() {
    let (_dir, mut store) = store();
    store.add_token_key(1, 1).unwrap();
    for (name, scopes) in [("ada", &Scope::ALL[..]), ("bob", &Scope::ALL)] {
        store.add_admin(&admin(name, None, scopes), None).unwrap();
    }
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    store.enroll(&file(Enrollment { supersedes: Some(HostData::new([1; 32])), ..record("site-1", 2) }), false, "ada", 11).unwrap();
    store.revoke_value(RevocationKind::Chip, CHIP, "leaked", "ada", 12).unwrap();
    store.revoke_value(RevocationKind::Image, &"ab".repeat(48), "old", "ada", 13).unwrap();
    store.revoke_value(RevocationKind::Key, &"cd".repeat(48), "stolen", "ada", 14).unwrap();
    store.revoke_admin("bob", "left", &admin("ada", None, &Scope::ALL), 15).unwrap();
    let kid = store.token_keys().unwrap().signer(15).unwrap().kid().to_owned();
    store.retire_token_key(&kid, "leaked", "ada", 16).unwrap();
    store.revoke(&"demo".parse().unwrap(), &"site-1".parse().unwrap(), None, "ada", "gone", 17).unwrap();

    let list = list(&store);
    list.check_form().unwrap();
    let kinds: Vec<_> = list.entries.iter().map(|entry| entry.kind.name()).collect();
    assert_eq!(kinds, ["site", "chip", "image", "key", "admin", "token-key", "site"]);
    assert_eq!(list.entries[0].reason.as_deref(), Some(format!("superseded by {}", HostData::new([2; 32])).as_str()));
    assert_eq!(list.entries[6].name.as_deref(), Some("demo/site-1"));
    let again = store.revoke_value(RevocationKind::Chip, CHIP, "again", "ada", 18);
    assert!(matches!(again, Err(RevocationError::Already { number: 2, .. })), "{again:?}");
    assert_eq!(store.revocations().load().number(), 7, "a refusal takes no number");
    let (entries, _) = store.check_audit().unwrap();
    assert_eq!(entries, 11, "two admins, two enrollments, seven revocations");
}

#[test]
fn values_are_what_reports_show() {
    let (_dir, mut store) = store();
    for (kind, value) in [
        (RevocationKind::Chip, "1122334455667788".to_owned()),
        (RevocationKind::Chip, CHIP.replace('1', "A")),
        (RevocationKind::Image, "ab".repeat(32)),
        (RevocationKind::Key, "xy".repeat(48)),
    ] {
        let refused = store.revoke_value(kind, &value, "why", "ada", 1);
        assert!(matches!(refused, Err(RevocationError::Value { .. })), "{refused:?}");
    }
    let zeros = store.revoke_value(RevocationKind::Chip, &"0".repeat(128), "why", "ada", 1);
    assert!(matches!(zeros, Err(RevocationError::Zeros { .. })), "{zeros:?}");
    for reason in ["", "a\nb", &"x".repeat(1001)] {
        let refused = store.revoke_value(RevocationKind::Chip, CHIP, reason, "ada", 1);
        assert!(matches!(refused, Err(RevocationError::Reason { .. })), "{refused:?}");
    }
}

/// After a restore, the record that took a config's place is known by the reason of that config's revocation.
#[test]
fn nobody_writes_the_words_of_a_succession_to_have_a_revoked_name_again() {
    let (_dir, mut store) = store();
    let reason = format!("{SUPERSEDED}{}", HostData::new([2; 32]));
    let image = store.revoke_value(RevocationKind::Image, &"ab".repeat(48), &reason, "ada", 1);
    assert!(matches!(image, Err(RevocationError::OurWords)), "{image:?}");
    let (project, site) = ("demo".parse().unwrap(), "site-1".parse().unwrap());
    let site = store.revoke(&project, &site, None, "ada", &reason, 1);
    assert!(matches!(&site, Err(crate::store::RevokeError::Reason(RevocationError::OurWords))), "{site:?}");
}

#[test]
fn the_list_keeps_its_promises_against_its_own_connection() {
    let (_dir, mut store) = store();
    store.add_token_key(1, 1).unwrap();
    store.add_admin(&admin("ada", None, &Scope::ALL), None).unwrap();
    store.revoke_value(RevocationKind::Chip, CHIP, "leaked", "ada", 12).unwrap();
    for sql in [
        "DELETE FROM revocations",
        "UPDATE revocations SET value = 'x'",
        "INSERT INTO revocations (number, kind, value, at) VALUES (3, 'chip', 'x', 1)",
        "DELETE FROM admins",
        "UPDATE admins SET scopes = '[]'",
        "DELETE FROM token_keys",
        "UPDATE token_keys SET jwks = ''",
    ] {
        assert!(store.db.execute(sql, []).is_err(), "{sql}");
    }
}

#[test]
fn an_imported_list_brings_a_backup_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("db"), dir.path().join("backup"));
    let mut store = Store::create(&path, Kek::generate().unwrap(), RootOfTrust::AmdSevSnp, None).unwrap();
    let kek = Kek::generate().unwrap();
    store.rewrap(kek).unwrap();
    let kek_file = dir.path().join("kek");
    crate::layout::write_new(&kek_file, 0o600, store.kek.expose()).unwrap();
    store.add_token_key(1, 1).unwrap();
    store.add_admin(&admin("ada", None, &Scope::ALL), None).unwrap();
    store.add_admin(&admin("bob", None, &Scope::ALL), None).unwrap();
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    store.enroll(&file(record("site-2", 3)), false, "ada", 10).unwrap();
    store.revoke_value(RevocationKind::Image, &"ab".repeat(48), "old", "ada", 11).unwrap();
    drop(store);
    std::fs::copy(&path, &backup).unwrap();
    let open = |path| Store::open(path, Kek::read(&kek_file).unwrap()).unwrap();

    let mut store = open(&path);
    let successor = Enrollment { supersedes: Some(HostData::new([1; 32])), ..record("site-1", 2) };
    store.enroll(&file(successor.clone()), false, "ada", 12).unwrap();
    store.revoke(&"demo".parse().unwrap(), &"site-2".parse().unwrap(), None, "ada", "gone", 13).unwrap();
    store.enroll(&file(record("site-9", 9)), false, "ada", 13).unwrap();
    store.revoke(&"demo".parse().unwrap(), &"site-9".parse().unwrap(), None, "ada", "gone", 13).unwrap();
    store.revoke_value(RevocationKind::Chip, CHIP, "leaked", "ada", 14).unwrap();
    store.revoke_admin("bob", "left", &admin("ada", None, &Scope::ALL), 15).unwrap();
    store.add_admin(&admin("eve", None, &Scope::ALL), None).unwrap();
    store.revoke_admin("eve", "thief", &admin("ada", None, &Scope::ALL), 15).unwrap();
    let kid = store.token_keys().unwrap().signer(15).unwrap().kid().to_owned();
    store.retire_token_key(&kid, "leaked", "ada", 16).unwrap();
    let newest = list(&store);
    drop(store);

    let mut restored = open(&backup);
    assert!(is_active(restored.site(&HostData::new([3; 32])).unwrap()), "the backup has what was revoked since");
    let mut forked = newest.clone();
    forked.entries[0].value = "ef".repeat(48);
    assert!(matches!(restored.import_revocations(&[forked], "import", 20), Err(ImportError::Fork { number: 1, .. })));
    let late = RevocationList { after: 4, entries: newest.entries[4..].to_vec(), ..newest.clone() };
    assert!(matches!(restored.import_revocations(&[late], "import", 20), Err(ImportError::Gap { after: 4, have: 1 })));
    assert_eq!(restored.revocations().load().number(), 1, "a refused list changes nothing");

    assert_eq!(restored.import_revocations(std::slice::from_ref(&newest), "import", 20).unwrap(), newest.number - 1);
    assert_eq!(list(&restored).entries, newest.entries);
    for host in [1, 3] {
        assert!(!is_active(restored.site(&HostData::new([host; 32])).unwrap()), "{host}");
    }
    assert_eq!(restored.admin(&admin("bob", None, &[]).kid).unwrap().unwrap().revoked_at, Some(15));
    let ring = restored.token_keys().unwrap();
    assert!(ring.find(&kid).unwrap().leaked_at.is_some() && ring.signer(20).unwrap().kid() != kid);
    // What the backup never had is a tombstone all the same.
    let taken = restored.enroll(&file(record("site-9", 9)), false, "ada", 21);
    assert!(matches!(taken, Err(EnrollError::HostDataTaken { .. })), "{taken:?}");
    let renamed = restored.enroll(&file(record("site-9", 8)), false, "ada", 21);
    assert!(matches!(renamed, Err(EnrollError::NameTaken { revoked: true, .. })), "{renamed:?}");
    let eve = restored.add_admin(&admin("eve", None, &Scope::ALL), None);
    assert!(matches!(eve, Err(AdminError::NameTaken { revoked: true, .. })), "{eve:?}");
    // The config that took another's place after the backup is enrolled again from its file; nothing else is.
    let other = Enrollment { supersedes: Some(HostData::new([1; 32])), ..record("site-1", 7) };
    assert!(matches!(restored.enroll(&file(other), false, "ada", 21), Err(EnrollError::Supersedes { .. })));
    restored.enroll(&file(successor), false, "ada", 21).unwrap();
    assert!(is_active(restored.site(&HostData::new([2; 32])).unwrap()));
    assert_eq!(restored.import_revocations(&[newest], "import", 22).unwrap(), 0, "twice is once");
    restored.check_audit().unwrap();
}

#[test]
fn nobody_gives_what_they_do_not_have_and_the_last_keeper_stays() {
    let (_dir, mut store) = store();
    let ada = admin("ada", None, &Scope::ALL);
    let tenant = admin("tom", Some("demo"), &[Scope::Admin, Scope::Read]);
    store.add_admin(&ada, None).unwrap();
    store.add_admin(&tenant, Some(&ada)).unwrap();
    let grants = [
        (admin("x", Some("demo"), &[Scope::Read]), true),
        (admin("y", Some("demo"), &[Scope::Enroll]), false),
        (admin("y", None, &[Scope::Read]), false),
        (admin("y", Some("other"), &[Scope::Read]), false),
    ];
    for (new, fits) in grants {
        let given = store.add_admin(&new, Some(&tenant));
        assert!(if fits { given.is_ok() } else { matches!(given, Err(AdminError::Grant { .. })) }, "{new:?}: {given:?}");
    }
    assert!(matches!(store.add_admin(&admin("z", None, &[]), Some(&ada)), Err(AdminError::NoScope { .. })));
    assert!(matches!(store.add_admin(&admin("a b", None, &[Scope::Read]), Some(&ada)), Err(AdminError::Name { .. })));
    assert!(matches!(store.add_admin(&admin("x", None, &[Scope::Read]), Some(&ada)), Err(AdminError::NameTaken { revoked: false, .. })));
    let same_key = Admin { name: "w".to_owned(), ..ada.clone() };
    assert!(matches!(store.add_admin(&same_key, Some(&ada)), Err(AdminError::KeyTaken { .. })));

    assert!(matches!(store.revoke_admin("ada", "x", &tenant, 5), Err(AdminError::Unknown { .. })), "another tenant's does not exist");
    assert!(matches!(store.revoke_admin("nobody", "x", &ada, 5), Err(AdminError::Unknown { .. })));
    assert!(matches!(store.revoke_admin("ada", "x", &ada, 5), Err(AdminError::Last { .. })));
    assert_eq!(store.admin(&ada.kid).unwrap().unwrap().revoked_at, None, "nothing of it stays");
    store.add_admin(&admin("bob", None, &[Scope::Admin]), Some(&ada)).unwrap();
    store.revoke_admin("ada", "left", &ada, 6).unwrap();
    assert!(matches!(store.add_admin(&ada, None), Err(AdminError::NameTaken { revoked: true, .. })));
    // Stolen keys of everybody: the machine's owner starts anew.
    store.recover_admin(&admin("new", None, &Scope::ALL), &["bob".to_owned()], 7).unwrap();
    assert_eq!(store.admin(&admin("bob", None, &[]).kid).unwrap().unwrap().revoked_at, Some(7));
}

#[test]
fn token_keys_rotate_retire_and_forget() {
    let (_dir, mut store) = store();
    let states = |store: &Store, now| store.token_keys().unwrap().status(now).into_iter().map(|key| key.state).collect::<Vec<_>>();
    let sealed =
        |store: &Store| store.db.query_row("SELECT count(*) FROM token_keys WHERE sealed IS NOT NULL", [], |row| row.get::<_, i64>(0));
    let first = store.add_token_key(1000, 1000).unwrap();
    let second = store.rotate_token_key(300, "ada", 2000).unwrap();
    let early = store.rotate_token_key(300, "ada", 2100);
    assert!(matches!(early, Err(KeyError::Pending { signs_from: 2300, .. })), "{early:?}");
    assert_eq!(states(&store, 2299), [KeyState::Signing, KeyState::Next]);
    assert_eq!(states(&store, 2300), [KeyState::Retiring, KeyState::Signing]);
    assert_eq!(store.forget_old_token_keys(2929).unwrap(), 0);
    assert_eq!(store.forget_old_token_keys(2930).unwrap(), 1, "its last token has expired");
    assert_eq!((states(&store, 2930), sealed(&store).unwrap()), (vec![KeyState::Retired, KeyState::Signing], 1));

    // The next key is published and the one that signs leaks: the next signs at once.
    let third = store.rotate_token_key(300, "ada", 3000).unwrap();
    store.retire_token_key(&second, "leaked", "ada", 3010).unwrap();
    let ring = store.token_keys().unwrap();
    assert_eq!(ring.signer(3010).unwrap().kid(), third);
    assert!(ring.published(3010).all(|key| key.kid == third));
    // No next key: one is made.
    store.retire_token_key(&third, "leaked too", "ada", 3020).unwrap();
    let ring = store.token_keys().unwrap();
    let fourth = ring.signer(3020).unwrap().kid().to_owned();
    assert!(![&first, &second, &third].contains(&&fourth));
    for gone in [&first, &second, &third] {
        assert!(matches!(store.retire_token_key(gone, "again", "ada", 3030), Err(KeyError::Retired { .. })), "{gone}");
    }
    assert!(matches!(store.retire_token_key("nothing", "x", "ada", 3030), Err(KeyError::Unknown { .. })));
    // A retiring key that leaks takes nobody else with it.
    let fifth = store.rotate_token_key(0, "ada", 4000).unwrap();
    store.retire_token_key(&fourth, "leaked", "ada", 4001).unwrap();
    assert_eq!(store.token_keys().unwrap().signer(4001).unwrap().kid(), fifth);
}

#[test]
fn a_new_key_file_opens_everything_and_the_old_one_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old_file) = (dir.path().join("db"), dir.path().join("old"));
    let old = Kek::generate().unwrap();
    crate::layout::write_new(&old_file, 0o600, old.expose()).unwrap();
    let mut store = Store::create(&path, old, RootOfTrust::AmdSevSnp, None).unwrap();
    let kid = store.add_token_key(1, 1).unwrap();
    store.put_key(super::super::ServiceKey::Cookie, &[7; 32]).unwrap();
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    let new_file = dir.path().join("new");
    crate::layout::write_new(&new_file, 0o600, Kek::generate().unwrap().expose()).unwrap();
    assert_eq!(store.rewrap(Kek::read(&new_file).unwrap()).unwrap(), 4, "token key, cookie key, root secret, kit");
    assert!(store.db.execute("UPDATE secrets SET sealed = x'00'", []).is_err(), "the guards are back");
    drop(store);
    let store = Store::open(&path, Kek::read(&new_file).unwrap()).unwrap();
    assert_eq!(store.key(super::super::ServiceKey::Cookie).unwrap().as_slice(), [7; 32]);
    assert_eq!(store.token_keys().unwrap().signer(1).unwrap().kid(), kid);
    let path_of = |secret| coffer_manifest::ResourcePath {
        project: "demo".parse().unwrap(),
        site: "site-1".parse().unwrap(),
        host_data: HostData::new([1; 32]),
        secret,
    };
    for secret in [coffer_manifest::SecretName::Root, coffer_manifest::SecretName::Kit] {
        assert!(matches!(store.secret(&path_of(secret)).unwrap(), super::super::SecretState::Present(_)));
    }
    drop(store);
    let store = Store::open(&path, Kek::read(&old_file).unwrap()).unwrap();
    assert!(store.key(super::super::ServiceKey::Cookie).is_err() && store.token_keys().is_err());
    assert!(store.secret(&path_of(coffer_manifest::SecretName::Root)).is_err());
}

/// The last question before something leaves is asked under the same lock as the change.
#[test]
fn nothing_is_recorded_for_a_revoked_chip_image_or_key() {
    for kind in [RevocationKind::Chip, RevocationKind::Image, RevocationKind::Key] {
        let (_dir, mut store) = store();
        store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
        let mut json = serde_json::to_value(facts()).unwrap();
        json["chip_id"] = serde_json::json!(CHIP);
        json["launch_digest"] = serde_json::json!("ab".repeat(48));
        json["id_key_digest"] = serde_json::json!("cd".repeat(48));
        let facts: coffer_kbs_policy::EvidenceFacts = serde_json::from_value(json).unwrap();
        let entry = |at| Entry::new(at, Event::Release, "id", "ok", String::new(), Subject::default());
        assert!(store.record_while_active(&HostData::new([1; 32]), &facts, entry(11)).unwrap());
        let value = match kind {
            RevocationKind::Chip => CHIP.to_owned(),
            RevocationKind::Image => "ab".repeat(48),
            _ => "cd".repeat(48),
        };
        store.revoke_value(kind, &value, "why", "ada", 12).unwrap();
        assert!(!store.record_while_active(&HostData::new([1; 32]), &facts, entry(13)).unwrap(), "{kind}");
    }
}
