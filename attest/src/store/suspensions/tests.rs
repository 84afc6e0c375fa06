use coffer_evidence::HostData;
use coffer_manifest::Enrollment;

use super::super::tests::{facts, file, record, store};
use super::*;

const ONE: HostData = HostData::new([1; 32]);
const TWO: HostData = HostData::new([2; 32]);

fn names() -> (ProjectName, SiteName) {
    ("demo".parse().unwrap(), "site-1".parse().unwrap())
}

const fn by_eve(reason: &str, now: u64) -> Change<'_> {
    Change { by: "eve", reason, now }
}

fn enrolled() -> (tempfile::TempDir, Store) {
    let (dir, mut store) = store();
    store.enroll(&file(record("site-1", 1)), false, "ada", 10).unwrap();
    (dir, store)
}

fn release(at: u64) -> Entry {
    Entry::new(at, Event::Release, "id", "ok", String::new(), Subject::default())
}

#[test]
fn a_suspension_lasts_until_it_is_resumed_and_is_recorded() {
    let (_dir, mut store) = enrolled();
    let (project, site) = names();
    assert!(store.record_while_active(&ONE, &facts(), release(11)).unwrap());
    store.suspend(&project, &site, by_eve("audit", 12)).unwrap();
    let stands = store.site(&ONE).unwrap().unwrap().stands;
    assert_eq!(stands.suspended, Some(Suspended { at: 12, by: "eve".into(), reason: "audit".into() }));
    assert!(!stands.counts(13) && stands.standing == Standing::Active);
    assert!(!store.record_while_active(&ONE, &facts(), release(13)).unwrap());
    assert_eq!(store.suspended_sites().unwrap(), 1);
    store.resume(&project, &site, by_eve("all well", 14)).unwrap();
    assert!(store.record_while_active(&ONE, &facts(), release(15)).unwrap());
    assert_eq!(store.suspended_sites().unwrap(), 0);
    let entries = store.entries_of(&project, &site, 10).unwrap();
    let told: Vec<_> = entries.iter().map(|entry| (entry.event, entry.id.as_str(), entry.detail.as_str())).collect();
    assert_eq!(told[..2], [(Event::Resume, "eve", "all well"), (Event::Suspend, "eve", "audit")]);
    assert!(store.check_audit().unwrap().0 > 3);
}

#[test]
fn what_cannot_be_suspended_or_resumed_is_named() {
    let (_dir, mut store) = enrolled();
    let (project, site) = names();
    let nobody = "site-9".parse().unwrap();
    assert!(matches!(store.suspend(&project, &nobody, by_eve("x", 11)), Err(SuspendError::NotActive { .. })));
    assert!(matches!(store.resume(&project, &site, by_eve("x", 11)), Err(SuspendError::NotSuspended { .. })));
    assert!(matches!(store.suspend(&project, &site, by_eve("two\nlines", 11)), Err(SuspendError::Reason(_))));
    store.suspend(&project, &site, by_eve("x", 12)).unwrap();
    let again = store.suspend(&project, &site, by_eve("y", 13)).unwrap_err().to_string();
    assert_eq!(again, "site `demo/site-1` is suspended since 1970-01-01T00:00:12Z, by `eve`: x");
    assert!(matches!(store.resume(&project, &site, by_eve("", 13)), Err(SuspendError::Reason(_))));
    store.revoke(&project, &site, None, "eve", "stolen", 14).unwrap();
    assert!(matches!(store.resume(&project, &site, by_eve("x", 15)), Err(SuspendError::NotActive { .. })));
    assert!(matches!(store.suspend(&project, &site, by_eve("x", 15)), Err(SuspendError::NotActive { .. })));
    assert_eq!(store.suspended_sites().unwrap(), 0, "what is revoked is not counted");
    // Nothing of what was refused is in the log: enrolled, suspended, revoked.
    assert_eq!(store.check_audit().unwrap().0, 3);
}

#[test]
fn a_successor_of_a_suspended_site_is_suspended_and_both_come_back() {
    let (_dir, mut store) = enrolled();
    let (project, site) = names();
    store.suspend(&project, &site, by_eve("x", 11)).unwrap();
    let successor = Enrollment { supersedes: Some(ONE), overlap_seconds: Some(100), ..record("site-1", 2) };
    store.enroll(&file(successor), false, "ada", 12).unwrap();
    for host_data in [ONE, TWO] {
        assert!(!store.record_while_active(&host_data, &facts(), release(13)).unwrap());
    }
    store.resume(&project, &site, by_eve("x", 14)).unwrap();
    for host_data in [ONE, TWO] {
        assert!(store.record_while_active(&host_data, &facts(), release(15)).unwrap());
    }
    store.suspend(&project, &site, by_eve("x", 16)).unwrap();
    let withdrawn = store.withdrawals("a", 1, 0, 16).unwrap().entries;
    assert_eq!(withdrawn.len(), 2, "every config of the site: {withdrawn:?}");
}

#[test]
fn a_suspension_is_of_one_site_only() {
    let (_dir, mut store) = enrolled();
    let (project, site) = names();
    store.enroll(&file(record("site-2", 2)), false, "ada", 10).unwrap();
    store.suspend(&project, &site, by_eve("x", 11)).unwrap();
    assert!(store.record_while_active(&TWO, &facts(), release(12)).unwrap());
    assert!(store.sites().unwrap().iter().all(|row| row.stands.suspended.is_some() == (row.record.host_data == ONE)));
}

#[test]
fn a_suspension_is_changed_by_nothing_but_its_end() {
    let (_dir, mut store) = enrolled();
    let (project, site) = names();
    store.suspend(&project, &site, by_eve("x", 11)).unwrap();
    assert!(store.db.execute("UPDATE suspensions SET at = 99", []).is_err());
}
