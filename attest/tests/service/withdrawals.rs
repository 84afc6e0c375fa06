//! What gates are told, and how soon: each thing that takes back what was given is in the list before its own call is answered.

use std::thread;
use std::time::{Duration, Instant};

use coffer_evidence::{Family, KeyDigest, ReportFields};
use coffer_token::{Hex, Jwks, StatementKind, Withdrawal, WithdrawalList, Withdrawn};
use serde_json::json;

use crate::support::{Answer, BASE, Guest, Service, host_data, simulator};
use crate::trust::{back_up, json as run_json, restore, works};

/// How long a gate may wait for what it is told.
const AT_ONCE: Duration = Duration::from_millis(200);

/// Reads a list whose signature and form are checked on the way.
#[track_caller]
pub fn read(service: &Service, answer: &Answer) -> WithdrawalList {
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/jose"), "{}", String::from_utf8_lossy(&answer.body));
    let keys = Jwks::parse(&service.client().get("/.well-known/jwks.json", None).body).unwrap();
    let list: WithdrawalList = keys.check_statement(std::str::from_utf8(&answer.body).unwrap(), StatementKind::Withdrawals).unwrap();
    list.check_form().unwrap();
    list
}

/// The list after a number.
#[track_caller]
pub fn list(service: &Service, query: &str) -> WithdrawalList {
    read(service, &service.client().get(&format!("/coffer/v1/withdrawals{query}"), None))
}

fn site(guest: &Guest) -> Withdrawn {
    Withdrawn::Site { host_data: Hex(*guest.host_data().as_bytes()) }
}

fn instance(guest: &Guest) -> Withdrawn {
    Withdrawn::Instance { host_data: Hex(*guest.host_data().as_bytes()), instance: Hex(*guest.guest.report_id.as_bytes()) }
}

fn brief(entries: &[Withdrawal]) -> Vec<(&str, Withdrawn)> {
    entries.iter().map(|entry| (entry.code.as_str(), entry.withdrawn.clone())).collect()
}

/// A gate that waits: what it hears, and how long after `cause` was begun and after it was done.
fn pushed(service: &Service, cause: impl FnOnce()) -> (WithdrawalList, Duration, Duration) {
    let after = list(service, "").number;
    thread::scope(|scope| {
        let gate = scope.spawn(move || {
            let answer = service.client().get(&format!("/coffer/v1/withdrawals?after={after}&wait=25"), None);
            (answer, Instant::now())
        });
        while run_json(service, &["status"])["waiting"] != 1 {
            thread::sleep(Duration::from_millis(10));
        }
        let begun = Instant::now();
        cause();
        let done = Instant::now();
        let (answer, heard) = gate.join().unwrap();
        (read(service, &answer), heard - begun, heard.saturating_duration_since(done))
    })
}

#[test]
fn a_waiting_gate_hears_of_a_suspension_within_200_ms() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let token_at = crate::support::now();
    guest.attest(&service.client()).token();
    // The command itself, which starts a process and makes a TLS connection, is in the first figure.
    let (told, _, after) = pushed(&service, || _ = works(&service, &["site", "suspend", "demo/site-1", "--reason", "x"]));
    assert_eq!(brief(&told.entries), [("site_suspended", site(&guest))]);
    assert!(told.entries[0].at >= token_at && told.iat >= told.entries[0].at);
    assert!(after <= AT_ONCE, "heard {after:?} after it was done");
}

#[test]
fn whatever_takes_a_site_back_is_in_the_list() {
    let service = Service::simulated();
    let (one, two) = (service.enrolled_guest("site-1"), service.enrolled_guest("site-2"));
    assert_eq!(list(&service, "").number, 0);
    let mut next = service.record("site-1", host_data("site-1, second config"));
    next.supersedes = Some(one.host_data());
    service.enroll(next);
    works(&service, &["revoke", "site", "demo/site-2", "--reason", "stolen"]);
    let all = list(&service, "");
    assert_eq!(brief(&all.entries), [("revoked", site(&one)), ("revoked", site(&two))]);
    assert_eq!(brief(&list(&service, &format!("?after={}", all.entries[0].number)).entries), [("revoked", site(&two))]);
    assert!(list(&service, &format!("?after={}", all.number)).entries.is_empty());
}

#[test]
fn the_end_of_an_overlap_is_in_the_list() {
    let service = Service::simulated();
    let one = service.enrolled_guest("site-1");
    let mut next = service.record("site-1", host_data("site-1, second config"));
    (next.supersedes, next.overlap_seconds) = (Some(one.host_data()), Some(2));
    service.enroll(next);
    let begun = Instant::now();
    assert_eq!(list(&service, "").number, 0, "both may run");
    let told = read(&service, &service.client().get("/coffer/v1/withdrawals?after=0&wait=20", None));
    assert_eq!(brief(&told.entries), [("revoked", site(&one))]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    one.attest(&service.client()).answer.expect_refusal(403, "revoked");
}

#[test]
fn a_revoked_chip_or_key_withdraws_the_instances_that_rest_on_it_an_image_itself() {
    const ID_KEY: KeyDigest = KeyDigest::new([0x1d; 48]);
    let service = Service::simulated();
    let (one, two) = (service.enrolled_guest("site-1"), service.enrolled_guest("site-2"));
    let client = service.client();
    one.attest(&client).token();
    two.attest_with(&client, |fields: &mut ReportFields| fields.id_key_digest = ID_KEY).token();
    works(&service, &["revoke", "key", &ID_KEY.to_string(), "--reason", "leaked"]);
    assert_eq!(brief(&list(&service, "").entries), [("key_revoked", instance(&two))]);
    works(&service, &["revoke", "image", &BASE.to_string(), "--reason", "old"]);
    let image = Withdrawn::Image { launch_digest: Hex(*BASE.as_bytes()) };
    assert_eq!(brief(&list(&service, "").entries)[1], ("launch_digest_revoked", image));
    let chip = simulator(Family::Genoa).asp.platform().chip_id.to_string();
    let after = list(&service, "").number;
    works(&service, &["revoke", "chip", &chip, "--reason", "stolen"]);
    let mut told: Vec<String> = list(&service, &format!("?after={after}")).entries.iter().map(|e| format!("{:?}", e.withdrawn)).collect();
    told.sort();
    let mut expected = [instance(&one), instance(&two)].map(|withdrawn| format!("{withdrawn:?}"));
    expected.sort();
    assert_eq!(told, expected);
}

/// Whoever has a leaked key writes what time they like into a token.
#[test]
fn a_leaked_token_key_is_withdrawn_with_all_it_may_still_sign() {
    let service = Service::simulated();
    let kid = run_json(&service, &["keys", "list"])[0]["kid"].as_str().unwrap().to_owned();
    works(&service, &["keys", "retire", &kid, "--now", "--reason", "leaked"]);
    let told = list(&service, "");
    assert_eq!(brief(&told.entries), [("token_key_leaked", Withdrawn::TokenKey { kid })]);
    assert!(told.entries[0].at >= told.iat + 3600);
}

/// Anybody with a processor can start a guest under somebody's HOST_DATA and have it refused.
#[test]
fn an_attackers_refused_evidence_withdraws_its_own_instance_and_nobody_elses() {
    let service = Service::simulated();
    let honest = service.enrolled_guest("site-1");
    let client = service.client();
    honest.attest(&client).token();
    let attacker = Guest::new(&simulator(Family::Genoa).asp, BASE, honest.host_data());
    assert_ne!(attacker.guest.report_id, honest.guest.report_id);
    for _ in 0..3 {
        attacker.attest_with(&client, |fields| fields.vmpl = 1).answer.expect_refusal(403, "vmpl");
    }
    let told = list(&service, "");
    assert_eq!(brief(&told.entries), [("vmpl", instance(&attacker))]);
    assert_eq!(told.number, 1, "once, however often it asks");
    honest.attest(&client).token();
}

#[test]
fn evidence_without_a_signature_or_for_another_challenge_withdraws_nothing() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    guest.attest(&client).token();
    let replayed = |asp: &coffer_simulator::Asp, _| asp.evidence(&guest.guest, coffer_evidence::ReportData::new([7; 64])).unwrap();
    guest.attest_as(&client, true, replayed).answer.expect_refusal(403, "report_data");
    let forged = guest.attest_as(&client, true, |asp, report_data| {
        let mut evidence = asp.evidence(&guest.guest, report_data).unwrap();
        let mut bytes = *evidence.report.as_bytes();
        bytes[0x2A0] ^= 1;
        evidence.report = coffer_evidence::Report::parse(&bytes).unwrap();
        evidence
    });
    forged.answer.expect_refusal(403, "signature");
    assert_eq!(list(&service, "").number, 0);
}

#[test]
fn a_refused_renewal_withdraws_the_instance_at_once() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    guest.attest(&client).token();
    let (told, heard, _) = pushed(&service, || {
        guest.attest_with(&client, |fields| fields.vmpl = 1).answer.expect_refusal(403, "vmpl");
    });
    assert_eq!(brief(&told.entries), [("vmpl", instance(&guest))]);
    assert!(heard <= AT_ONCE, "{heard:?}");
}

#[test]
fn a_wait_ends_by_itself_by_a_stop_and_not_for_who_has_no_place() {
    let mut service = Service::simulated();
    let client = service.client();
    let begun = Instant::now();
    assert!(read(&service, &client.get("/coffer/v1/withdrawals?after=0&wait=1", None)).entries.is_empty());
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // A number of another epoch is answered at once: whoever has it must begin again.
    let begun = Instant::now();
    assert_eq!(read(&service, &client.get("/coffer/v1/withdrawals?after=9&wait=25", None)).number, 0);
    assert!(begun.elapsed() < Duration::from_secs(5));
    for query in ["?after=1&wait=26", "?after=1&wait=", "?wait=1", "?after=1&wait=1&wait=1"] {
        client.get(&format!("/coffer/v1/withdrawals{query}"), None).expect_refusal(400, "malformed");
    }

    let ask = || service.client().get("/coffer/v1/withdrawals?after=0&wait=25", None);
    let waiting: Vec<_> = thread::scope(|scope| {
        let places: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
        while run_json(&service, &["status"])["waiting"] != 16 {
            thread::sleep(Duration::from_millis(10));
        }
        let begun = Instant::now();
        assert_eq!(ask().status, 200);
        assert!(begun.elapsed() < Duration::from_secs(5), "no place, so answered at once");
        // Nobody who waits keeps others from being served.
        assert_eq!(service.client().get("/healthz", None).status, 200);
        works(&service, &["revoke", "image", &"ab".repeat(48), "--reason", "x"]);
        places.into_iter().map(|place| place.join().unwrap()).collect()
    });
    assert!(waiting.iter().all(|answer| read(&service, answer).number == 1), "all of them hear of it");

    let asks = service.client();
    let gate = thread::spawn(move || asks.get("/coffer/v1/withdrawals?after=1&wait=25", None).status);
    while run_json(&service, &["status"])["waiting"] != 1 {
        thread::sleep(Duration::from_millis(10));
    }
    let begun = Instant::now();
    service.stop();
    assert!(begun.elapsed() < Duration::from_secs(3), "a gate that waits does not hold up the stop: {:?}", begun.elapsed());
    assert_eq!(gate.join().unwrap(), 200);
}

/// A restored backup does not know what was withdrawn since, and gives its numbers again: the epoch says so.
#[test]
fn a_restored_backup_begins_a_new_epoch_and_an_import_withdraws_anew() {
    let mut service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    works(&service, &["revoke", "image", &"ab".repeat(48), "--reason", "x"]);
    let before = list(&service, "");
    service.stop();
    let backup = back_up(&service);
    service.start();
    let restarted = list(&service, "");
    assert!(restarted.epoch > before.epoch, "{} after {}", restarted.epoch, before.epoch);
    assert_eq!(restarted.entries, before.entries, "what is withdrawn outlives a restart");
    works(&service, &["revoke", "site", "demo/site-1", "--reason", "stolen"]);
    let kept = crate::trust::beside(&service, "revocations.jws");
    works(&service, &["revocations", "export", "--to", kept.to_str().unwrap()]);
    let newest = list(&service, "");
    assert_eq!(newest.number, 2);
    service.stop();

    // An epoch is a second at least: nobody restores faster.
    thread::sleep(Duration::from_secs(2));
    restore(&service, &backup);
    service.start();
    let restored = list(&service, "");
    assert!(restored.epoch > newest.epoch && restored.number == 1);
    // The danger: it gives tokens again. What they are worth ends with the import.
    guest.attest(&service.client()).token();
    service.stop();
    works(&service, &["revocations", "import", kept.to_str().unwrap()]);
    service.start();
    let imported = list(&service, "?after=1");
    assert_eq!(brief(&imported.entries), [("revoked", site(&guest))]);
    assert!(imported.entries[0].at >= crate::support::now() - 60 && imported.epoch > restored.epoch);
}

#[test]
fn the_list_says_nothing_of_reasons_and_no_other_statement_passes_for_it() {
    let service = Service::simulated();
    service.enrolled_guest("site-1");
    works(&service, &["site", "suspend", "demo/site-1", "--reason", "a private reason"]);
    let client = service.client();
    let text = String::from_utf8(client.get("/coffer/v1/withdrawals", None).body).unwrap();
    let payload = data_encoding::BASE64URL_NOPAD.decode(text.split('.').nth(1).unwrap().as_bytes()).unwrap();
    let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload["iss"], json!("https://attest.demo.test"));
    assert!(!payload.to_string().contains("private") && !payload.to_string().contains("ada"), "{payload}");
    let keys = Jwks::parse(&client.get("/.well-known/jwks.json", None).body).unwrap();
    let revocations = String::from_utf8(client.get("/coffer/v1/revocation-list", None).body).unwrap();
    assert!(keys.check_statement::<WithdrawalList>(&revocations, StatementKind::Withdrawals).is_err());
}
