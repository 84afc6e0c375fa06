use coffer_manifest::disk::RootSecret;
use coffer_manifest::{Enrollment, EnrollmentFile, KitKey, OpenRisks, ResourcePath, Role, SecretName, Secrets};
use tempfile::TempDir;

use super::*;

pub(super) fn record(site: &str, host: u8) -> Enrollment {
    Enrollment {
        kind: Default::default(),
        host_data: HostData::new([host; 32]),
        project: "demo".parse().unwrap(),
        site: site.parse().unwrap(),
        role: Role::Client,
        site_svn: 1,
        base_svn: 1,
        root_of_trust: RootOfTrust::AmdSevSnp,
        launch_digests: vec![coffer_evidence::LaunchDigest::new([1; 48])],
        token_expiration: 300,
        open_risks: OpenRisks { aml: "restricted".to_owned() },
        supersedes: None,
        overlap_seconds: None,
        author_key_digest: None,
        minimum_guest_svn: None,
        chip_ids: Vec::new(),
        tcb_floor: None,
    }
}

pub(super) fn file(record: Enrollment) -> EnrollmentFile {
    EnrollmentFile { record, secrets: Secrets { root: RootSecret::new([0xa5; 32]), kit: Some(KitKey::new([0x5a; 32])) } }
}

pub(super) fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("db"), Kek::generate().unwrap(), RootOfTrust::AmdSevSnp, None).unwrap();
    (dir, store)
}

use coffer_evidence::HostData;

/// What was verified of some guest: nothing that is revoked.
pub(super) fn facts() -> coffer_kbs_policy::EvidenceFacts {
    let fixture: serde_json::Value = serde_json::from_str(include_str!("../../../kbs-policy/fixtures/release.json")).unwrap();
    serde_json::from_value(fixture["input"]["evidence"].clone()).unwrap()
}

#[test]
fn a_name_is_given_once_even_after_revocation() {
    let (_dir, mut store) = store();
    let (project, site) = ("demo".parse().unwrap(), "site-1".parse().unwrap());
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    let again = store.enroll(&file(record("site-1", 1)), false, "ada", 11);
    assert!(matches!(again, Err(EnrollError::HostDataTaken { .. })), "{again:?}");
    let other = store.enroll(&file(record("site-1", 2)), false, "ada", 11);
    assert!(matches!(other, Err(EnrollError::NameTaken { revoked: false, .. })), "{other:?}");
    store.revoke(&project, &site, None, "ada", "gone", 12).unwrap();
    let after = store.enroll(&file(record("site-1", 2)), false, "ada", 13);
    assert!(matches!(after, Err(EnrollError::NameTaken { revoked: true, .. })), "{after:?}");
    let revived = store.enroll(&file(Enrollment { supersedes: Some(HostData::new([1; 32])), ..record("site-1", 2) }), false, "ada", 13);
    assert!(matches!(revived, Err(EnrollError::Supersedes { .. })), "{revived:?}");
    let twice = store.revoke(&project, &site, None, "ada", "gone", 14);
    assert!(matches!(twice, Err(RevokeError::NotActive { .. })), "{twice:?}");
}

#[test]
fn superseding_revokes_the_old_config_and_destroys_its_secrets() {
    let (_dir, mut store) = store();
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    let lower = Enrollment { supersedes: Some(HostData::new([1; 32])), site_svn: 0, ..record("site-1", 2) };
    assert!(matches!(store.enroll(&file(lower), false, "ada", 11), Err(EnrollError::SiteSvn { got: 0, active: 1 })));
    store.enroll(&file(Enrollment { supersedes: Some(HostData::new([1; 32])), ..record("site-1", 2) }), false, "ada", 11).unwrap();
    let old = store.site(&HostData::new([1; 32])).unwrap().unwrap();
    assert!(matches!(old.stands.standing, Standing::Revoked { revoked_at: 11, .. }), "{old:?}");
    let path = |host| ResourcePath {
        project: "demo".parse().unwrap(),
        site: "site-1".parse().unwrap(),
        host_data: HostData::new([host; 32]),
        secret: SecretName::Kit,
    };
    assert!(matches!(store.secret(&path(1)).unwrap(), SecretState::Absent));
    let kept = store.secret(&path(2)).unwrap();
    assert_eq!(format!("{kept:?}"), "Present(<32 bytes redacted>)");
    assert!(matches!(kept, SecretState::Present(s) if s.as_slice() == [0x5a; 32]));
}

/// A successor of the config whose HOST_DATA is `old` repeated.
fn successor(old: u8, new: u8, svn: u32, overlap_seconds: Option<u32>) -> EnrollmentFile {
    let supersedes = Some(HostData::new([old; 32]));
    file(Enrollment { supersedes, site_svn: svn, overlap_seconds, ..record("site-1", new) })
}

fn standing(store: &Store, host: u8) -> Standing {
    store.site(&HostData::new([host; 32])).unwrap().unwrap().stands.standing
}

fn release(at: u64) -> Entry {
    Entry::new(at, Event::Release, "id", "ok", String::new(), Subject::default())
}

#[test]
fn an_overlap_lets_both_configs_count_and_ends_by_itself() {
    let (_dir, mut store) = store();
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    store.enroll(&successor(1, 2, 2, Some(100)), false, "eve", 20).unwrap();
    assert_eq!(standing(&store, 1), Standing::Superseded { overlap_until: 120 });
    let stands = store.site(&HostData::new([1; 32])).unwrap().unwrap().stands;
    assert!(stands.counts(119) && !stands.counts(120));
    assert_eq!(standing(&store, 2), Standing::Active);
    let (old, new) = (HostData::new([1; 32]), HostData::new([2; 32]));
    assert!(store.record_while_active(&old, &facts(), release(119)).unwrap());
    assert!(store.record_while_active(&new, &facts(), release(119)).unwrap());
    // Not a second later, whether or not somebody has written it down yet.
    assert!(!store.record_while_active(&old, &facts(), release(120)).unwrap());
    assert_eq!(store.end_overlaps(119).unwrap(), 0);
    let path =
        |host_data| ResourcePath { project: "demo".parse().unwrap(), site: "site-1".parse().unwrap(), host_data, secret: SecretName::Root };
    assert!(matches!(store.secret(&path(old)).unwrap(), SecretState::Present(_)));
    assert_eq!(store.end_overlaps(120).unwrap(), 1);
    assert_eq!(store.end_overlaps(500).unwrap(), 0);
    let Standing::Revoked { revoked_at: 120, revoked_by, revoked_why } = standing(&store, 1) else { panic!("{:?}", standing(&store, 1)) };
    assert_eq!((revoked_by.as_str(), revoked_why.contains(&new.to_string())), ("eve", true), "{revoked_why}");
    assert!(matches!(store.secret(&path(old)).unwrap(), SecretState::Absent));
    assert!(matches!(store.secret(&path(new)).unwrap(), SecretState::Present(_)));
    store.check_audit().unwrap();
}

#[test]
fn an_overlap_is_bounded_and_needs_a_predecessor() {
    let (_dir, mut store) = store();
    let alone = Enrollment { overlap_seconds: Some(5), ..record("site-1", 1) };
    assert!(matches!(store.enroll(&file(alone), false, "ada", 10), Err(EnrollError::Field { field: "overlap_seconds", got: 5, .. })));
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    for seconds in [0, 30 * 86_400 + 1, u32::MAX] {
        let refused = store.enroll(&successor(1, 2, 2, Some(seconds)), false, "ada", 11);
        assert!(matches!(refused, Err(EnrollError::Field { field: "overlap_seconds", .. })), "{refused:?}");
    }
    store.enroll(&successor(1, 2, 2, Some(30 * 86_400)), false, "ada", 11).unwrap();
    // What is superseded is not superseded again, and cannot be prolonged.
    let again = store.enroll(&successor(1, 3, 3, Some(50)), false, "ada", 12);
    assert!(matches!(again, Err(EnrollError::Supersedes { .. })), "{again:?}");
    assert!(store.db.execute("UPDATE sites SET overlap_until = 99999999 WHERE overlap_until IS NOT NULL", []).is_err());
    assert!(store.db.execute("UPDATE sites SET overlap_until = NULL", []).is_err());
}

#[test]
fn roll_back_goes_forward_while_the_old_one_still_runs() {
    let (_dir, mut store) = store();
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    store.enroll(&successor(1, 2, 2, Some(1000)), false, "ada", 20).unwrap();
    store.enroll(&successor(2, 3, 3, None), false, "ada", 30).unwrap();
    assert!(matches!(standing(&store, 2), Standing::Revoked { revoked_at: 30, .. }));
    assert_eq!((standing(&store, 1), standing(&store, 3)), (Standing::Superseded { overlap_until: 1020 }, Standing::Active));
}

#[test]
fn revoking_a_site_revokes_what_overlaps_and_revoking_a_config_only_that() {
    let (project, site) = ("demo".parse().unwrap(), "site-1".parse().unwrap());
    let overlapping = || {
        let (dir, mut store) = store();
        store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
        store.enroll(&successor(1, 2, 2, Some(1000)), false, "ada", 20).unwrap();
        (dir, store)
    };
    let (_dir, mut all) = overlapping();
    assert_eq!(all.revoke(&project, &site, None, "ada", "gone", 30).unwrap(), HostData::new([2; 32]));
    assert!([1, 2].iter().all(|host| matches!(standing(&all, *host), Standing::Revoked { revoked_at: 30, .. })));
    assert!(matches!(all.revoke(&project, &site, None, "ada", "gone", 31), Err(RevokeError::NotActive { .. })));
    let (_dir, mut old) = overlapping();
    assert_eq!(old.revoke(&project, &site, Some(HostData::new([1; 32])), "ada", "done", 30).unwrap(), HostData::new([1; 32]));
    assert_eq!(standing(&old, 2), Standing::Active);
    let unknown = old.revoke(&project, &site, Some(HostData::new([1; 32])), "ada", "again", 31);
    assert!(matches!(unknown, Err(RevokeError::OtherConfig { .. })), "{unknown:?}");
    let (_dir, mut new) = overlapping();
    new.revoke(&project, &site, Some(HostData::new([2; 32])), "ada", "bad", 30).unwrap();
    assert_eq!(standing(&new, 1), Standing::Superseded { overlap_until: 1020 });
    assert_eq!(new.revoke(&project, &site, None, "ada", "gone", 31).unwrap(), HostData::new([1; 32]));
}

#[test]
fn a_new_service_takes_a_successor_whose_predecessor_it_never_had() {
    let (_dir, mut store) = store();
    store.enroll(&file(record("site-2", 9)), false, "ada", 9).unwrap();
    let foreign = store.enroll(&successor(9, 2, 2, None), false, "ada", 10);
    assert!(matches!(foreign, Err(EnrollError::Supersedes { .. })), "another site's config: {foreign:?}");
    store.enroll(&successor(1, 2, 2, Some(100)), false, "ada", 10).unwrap();
    assert_eq!(standing(&store, 2), Standing::Active);
    let entries = store.entries_of(&"demo".parse().unwrap(), &"site-1".parse().unwrap(), 5).unwrap();
    assert!(entries[0].detail.ends_with("which was never enrolled here"), "{}", entries[0].detail);
    // The predecessor's own file comes too late: its name is taken, and its counter too low.
    let old = store.enroll(&file(record("site-1", 1)), false, "ada", 11);
    assert!(matches!(old, Err(EnrollError::NameTaken { revoked: false, .. })), "{old:?}");
    let reversed = store.enroll(&successor(2, 1, 1, None), false, "ada", 11);
    assert!(matches!(reversed, Err(EnrollError::SiteSvn { got: 1, active: 2 })), "{reversed:?}");
}

#[test]
fn records_of_another_root_or_with_open_aml_are_refused() {
    let (_dir, mut store) = store();
    let foreign = Enrollment { root_of_trust: format!("simulated:{}", "ab".repeat(32)).parse().unwrap(), ..record("s", 1) };
    assert!(matches!(store.enroll(&file(foreign), true, "ada", 1), Err(EnrollError::RootOfTrust { .. })));
    for aml in ["unrestricted", "unknown", ""] {
        let open = Enrollment { open_risks: OpenRisks { aml: aml.to_owned() }, ..record("s", 1) };
        assert!(matches!(store.enroll(&file(open), false, "ada", 1), Err(EnrollError::AmlRisk { .. })), "{aml}");
    }
    let none = Enrollment { launch_digests: Vec::new(), ..record("s", 1) };
    assert!(matches!(store.enroll(&file(none), false, "ada", 1), Err(EnrollError::Field { got: 0, .. })));
    let long = Enrollment { token_expiration: 601, ..record("s", 1) };
    assert!(matches!(store.enroll(&file(long), false, "ada", 1), Err(EnrollError::Field { got: 601, .. })));
    let open = Enrollment { open_risks: OpenRisks { aml: "unrestricted".to_owned() }, ..record("s", 1) };
    store.enroll(&file(open), true, "ada", 1).unwrap();
}

#[test]
fn the_database_keeps_its_promises_against_its_own_connection() {
    let (_dir, mut store) = store();
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    for sql in [
        "DELETE FROM sites",
        "UPDATE sites SET record = x'00'",
        "UPDATE sites SET site = 'other'",
        "UPDATE secrets SET sealed = x'00'",
        "UPDATE audit SET entry = '{}'",
        "DELETE FROM audit",
    ] {
        assert!(store.db.execute(sql, []).is_err(), "{sql}");
    }
    store.revoke(&"demo".parse().unwrap(), &"site-1".parse().unwrap(), None, "ada", "x", 11).unwrap();
    assert!(store.db.execute("UPDATE sites SET revoked_at = NULL", []).is_err());
}

#[test]
fn nothing_is_recorded_as_released_after_a_revocation() {
    let (_dir, mut store) = store();
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    let host_data = HostData::new([1; 32]);
    let entry = |at| Entry::new(at, Event::Release, "id", "ok", String::new(), Subject::default());
    assert!(store.record_while_active(&host_data, &facts(), entry(11)).unwrap());
    store.revoke(&"demo".parse().unwrap(), &"site-1".parse().unwrap(), None, "ada", "x", 12).unwrap();
    assert!(!store.record_while_active(&host_data, &facts(), entry(13)).unwrap());
    assert!(!store.record_while_active(&HostData::new([2; 32]), &facts(), entry(13)).unwrap());
    assert_eq!(store.check_audit().unwrap().0, 3);
}

#[test]
fn a_nonce_is_spent_once_and_kinds_do_not_mix() {
    let (_dir, store) = store();
    assert!(store.spend("challenge", &[1; 32], 100).unwrap());
    assert!(!store.spend("challenge", &[1; 32], 100).unwrap());
    assert!(store.spend("admin", &[1; 32], 100).unwrap());
    assert_eq!(store.forget(100).unwrap(), 0);
    assert_eq!(store.forget(101).unwrap(), 2);
}

#[test]
fn an_edited_audit_log_is_noticed() {
    let (_dir, store) = store();
    for at in 1..=3 {
        store.record(Entry::new(at, Event::Refuse, "id", "code", String::new(), Subject::default())).unwrap();
    }
    let (count, head) = store.check_audit().unwrap();
    assert_eq!(count, 3);
    assert_ne!(head.as_bytes(), &[0; 32]);
    store.db.execute_batch("DROP TRIGGER audit_is_append_only_u; DROP TRIGGER audit_is_append_only_d").unwrap();
    store.db.execute("UPDATE audit SET entry = replace(entry, '\"code\":\"code\"', '\"code\":\"edit\"') WHERE seq = 2", []).unwrap();
    assert!(matches!(store.check_audit(), Err(StoreError::AuditBroken { seq: 2 })));
    store.db.execute("DELETE FROM audit WHERE seq = 2", []).unwrap();
    assert!(matches!(store.check_audit(), Err(StoreError::AuditBroken { seq: 3 })));
}

#[test]
fn the_epoch_rises_and_keys_open_only_under_their_key_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let kek = Kek::generate().unwrap();
    let bytes = *kek.expose();
    let keyfile = dir.path().join("kek");
    crate::layout::write_new(&keyfile, 0o600, &bytes).unwrap();
    let store = Store::create(&path, kek, RootOfTrust::AmdSevSnp, None).unwrap();
    assert!(matches!(store.key(ServiceKey::Cookie), Err(StoreError::KeyMissing { .. })));
    store.put_key(ServiceKey::Cookie, b"private").unwrap();
    assert!(store.put_key(ServiceKey::Cookie, b"another").is_err());
    assert_eq!(store.raise_epoch(1000).unwrap(), 1000);
    drop(store);
    let store = Store::open(&path, Kek::read(&keyfile).unwrap()).unwrap();
    assert_eq!(store.raise_epoch(1000).unwrap(), 1001);
    assert_eq!(store.raise_epoch(7).unwrap(), 1002);
    assert_eq!(store.raise_epoch(2000).unwrap(), 2000);
    assert_eq!(store.key(ServiceKey::Cookie).unwrap().as_slice(), b"private");
    drop(store);
    let store = Store::open(&path, Kek::generate().unwrap()).unwrap();
    assert!(matches!(store.key(ServiceKey::Cookie), Err(StoreError::Seal(SealError::Open { .. }))));
}

#[test]
fn no_secret_lies_in_the_file_in_the_clear() {
    let (dir, mut store) = store();
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    drop(store);
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(32).any(|w| w == [0xa5; 32] || w == [0x5a; 32]));
    }
}
