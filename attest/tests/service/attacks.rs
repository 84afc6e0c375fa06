//! Attacks that must fail without a boot: the simulator signs whatever a test asks for.

use std::thread;

use coffer_evidence::{Family, GuestPolicy, LaunchDigest, ReportFields, SnpEvidence, TcbVersion, UnixTime};
use coffer_protocol::{Jwe, open};
use coffer_simulator::{Asp, Platform, Vcek, VcekSpec};

use crate::support::{BASE, Guest, ROOT_SECRET, Service, host_data, simulator};

/// A report that is wrong in one place, honestly signed; the service must say why, keep the secret and write it down.
#[test]
fn a_report_that_is_wrong_in_one_place_is_refused_and_recorded() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    type Change = fn(&mut ReportFields);
    let attacks: [(&str, Change, &str); 6] = [
        ("debug_policy", |f| f.policy = GuestPolicy(f.policy.0 | 1 << 19), "policy"),
        ("migration_policy", |f| f.policy = GuestPolicy(f.policy.0 | 1 << 18), "policy"),
        ("vmpl", |f| f.vmpl = 1, "1"),
        ("tcb_order", |f| f.committed_tcb.snp -= 1, "committed"),
        ("tcb_floor", |f| f.launch_tcb.microcode -= 1, "launch"),
        ("launch_digest", |f| f.measurement = LaunchDigest::new([0xB1; 48]), "b1b1"),
    ];
    for (code, change, says) in attacks {
        let handshake = guest.attest_with(&client, change);
        handshake.answer.expect_refusal(403, code);
        assert!(handshake.answer.cookie.is_none(), "{code}: a refused guest got a session");
        let entry = service.last_decision("demo/site-1");
        assert_eq!((entry["event"].as_str(), entry["code"].as_str()), (Some("refuse"), Some(code)), "{entry}");
        assert_eq!(entry["id"].as_str(), Some(handshake.answer.refusal_id().as_str()));
        assert!(entry["detail"].as_str().unwrap().contains(says), "{entry}");
        let told = String::from_utf8(handshake.answer.body.clone()).unwrap();
        assert!(!told.contains("expected") && told.len() < 200, "a peer is told too much: {told}");
        client.get(&guest.resource("site-1", ""), Some(&handshake.challenge_cookie)).expect_refusal(401, "not_attested");
    }
    guest.attest(&client).token();
}

#[test]
fn an_unenrolled_host_data_is_refused() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let changed = guest.attest_with(&client, |f| f.host_data = host_data("a changed site config"));
    changed.answer.expect_refusal(403, "host_data");
    assert!(service.log().contains(&changed.answer.refusal_id()));
    guest.attest(&client).token();
}

#[test]
fn a_site_config_runs_only_on_the_base_it_was_enrolled_with() {
    let service = Service::simulated();
    let (first, second) = (LaunchDigest::new([1; 48]), LaunchDigest::new([2; 48]));
    let asp = &simulator(Family::Genoa).asp;
    for (site, base) in [("site-1", first), ("site-2", second)] {
        let mut record = service.record(site, host_data(site));
        record.launch_digests = vec![base];
        service.enroll(record);
    }
    let client = service.client();
    Guest::new(asp, second, host_data("site-1")).attest(&client).answer.expect_refusal(403, "launch_digest");
    Guest::new(asp, first, host_data("site-1")).attest(&client).token();
}

/// The chip itself runs old firmware, and its VCEK says so: nothing contradicts, but it is not enough.
#[test]
fn an_old_tcb_is_refused() {
    let service = Service::simulated();
    service.enrolled_guest("site-1");
    let simulator = simulator(Family::Genoa);
    let mut platform = Platform::random(Family::Genoa).unwrap();
    platform.tcb = TcbVersion { snp: platform.tcb.snp - 1, ..platform.tcb };
    let vcek = Vcek::issue(&VcekSpec::of(&platform, UnixTime(crate::support::now())), &simulator.hierarchy.ask).unwrap();
    let old = Asp::from_parts(platform, simulator.asp.ark().to_vec(), simulator.asp.ask().to_vec(), vcek);
    let old: &'static Asp = Box::leak(Box::new(old));
    Guest::new(old, BASE, host_data("site-1")).attest(&service.client()).answer.expect_refusal(403, "tcb_floor");
    assert!(service.last_decision("demo/site-1")["detail"].as_str().unwrap().contains("reported"));
}

#[test]
fn milan_is_refused_even_where_its_root_is_believed() {
    let service = Service::believing(Family::Milan);
    let guest = Guest::new(&simulator(Family::Milan).asp, BASE, host_data("site-1"));
    service.enroll(service.record("site-1", guest.host_data()));
    guest.attest(&service.client()).answer.expect_refusal(403, "family");
    assert!(service.last_decision("demo/site-1")["detail"].as_str().unwrap().contains("milan"));
}

#[test]
fn evidence_is_good_for_one_challenge_and_a_challenge_for_one_attempt() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let first = guest.attest(&client);
    first.token();
    let again = client.post("/kbs/v0/attest", Some(&first.challenge_cookie), &first.attest_body);
    again.expect_refusal(401, "challenge_spent");

    // A failed attempt spends the challenge as well.
    let failed = guest.attest_with(&client, |f| f.vmpl = 1);
    failed.answer.expect_refusal(403, "vmpl");
    client.post("/kbs/v0/attest", Some(&failed.challenge_cookie), &failed.attest_body).expect_refusal(401, "challenge_spent");

    // Recorded evidence against a fresh challenge.
    let fresh = client.post("/kbs/v0/auth", None, &coffer_protocol::Request::body(true)).cookie.unwrap();
    client.post("/kbs/v0/attest", Some(&fresh), &first.attest_body).expect_refusal(401, "nonce");
    // The same evidence under the fresh nonce.
    let recorded = std::cell::RefCell::new(None);
    guest.attest_as(&client, true, |asp, report_data| {
        let evidence = asp.evidence(&guest.guest, report_data).unwrap();
        *recorded.borrow_mut() = Some(evidence.clone());
        evidence
    });
    let before = service.show("demo/site-1")["decisions"].as_array().unwrap().len();
    let replayed = guest.attest_as(&client, true, |_, _| recorded.take().unwrap());
    replayed.answer.expect_refusal(403, "report_data");
    // Whoever repeats a report is not the guest it is about: the log has it, the site's history has not.
    let told = replayed.answer.refusal_id();
    assert!(service.log().contains(&told), "{told}");
    assert_eq!(service.show("demo/site-1")["decisions"].as_array().unwrap().len(), before);
}

#[test]
fn cookies_are_neither_forged_nor_mixed_up() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let accepted = guest.attest(&client);
    let path = guest.resource("site-1", "");
    client.get(&path, Some(&accepted.challenge_cookie)).expect_refusal(401, "not_attested");
    client.post("/kbs/v0/attest", Some(accepted.session()), &accepted.attest_body).expect_refusal(401, "challenge_unreadable");
    client.post("/kbs/v0/attest", None, &accepted.attest_body).expect_refusal(401, "no_challenge");
    client.get(&path, Some("0123456789abcdef0123456789abcdef")).expect_refusal(401, "not_attested");
    let mut forged = accepted.session().to_owned().into_bytes();
    let middle = forged.len() / 2;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    client.get(&path, Some(&String::from_utf8(forged).unwrap())).expect_refusal(401, "not_attested");

    // A stolen session buys ciphertext for the key of the guest it was stolen from.
    let stolen = client.get(&path, Some(accepted.session()));
    let thief = guest.attest(&client);
    assert!(open(&Jwe::parse(&stolen.body).unwrap(), &thief.tee_key).is_err());
    assert_eq!(accepted.open(&stolen), ROOT_SECRET);
}

#[test]
fn of_many_attempts_at_once_on_one_challenge_one_is_heard() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let challenge = guest.attest_with(&client, |f| f.vmpl = 1);
    challenge.answer.expect_refusal(403, "vmpl");
    let fresh = client.post("/kbs/v0/auth", None, &coffer_protocol::Request::body(true));
    let cookie = fresh.cookie.clone().unwrap();
    let body = &challenge.attest_body;
    let codes: Vec<String> = thread::scope(|scope| {
        let attempts: Vec<_> = (0..8)
            .map(|_| {
                let (service, cookie) = (&service, &cookie);
                scope.spawn(move || service.client().post("/kbs/v0/attest", Some(cookie), body).refusal().2)
            })
            .collect();
        attempts.into_iter().map(|attempt| attempt.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| *code == "nonce").count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| *code == "challenge_spent").count(), 7, "{codes:?}");
}

#[test]
fn keys_are_bound_where_they_were_asked_for_and_nowhere_else() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    for (asked, brought, code) in [(true, false, "bound_keys_missing"), (false, true, "bound_keys_unasked")] {
        let donor = guest.attest_as(&client, brought, |asp, report_data| asp.evidence(&guest.guest, report_data).unwrap());
        let fresh = client.post("/kbs/v0/auth", None, &coffer_protocol::Request::body(asked));
        let nonce = coffer_protocol::Challenge::parse(&fresh.body).unwrap().nonce;
        let body = String::from_utf8(donor.attest_body.clone()).unwrap().replace(&donor.nonce.to_string(), &nonce.to_string());
        client.post("/kbs/v0/attest", Some(&fresh.cookie.unwrap()), body.as_bytes()).expect_refusal(401, code);
    }
}

#[test]
fn simulated_evidence_is_nothing_to_a_production_service() {
    let service = Service::production();
    let guest = Guest::new(&simulator(Family::Genoa).asp, BASE, host_data("site-1"));
    service.enroll(service.record("site-1", guest.host_data()));
    guest.attest(&service.client()).answer.expect_refusal(403, "chain");
    // Not authenticated: counted and logged, but no entry that could be held against the site.
    assert_eq!(service.last_decision("demo/site-1")["event"], "enroll");
    // Nor can a site that is built for a simulator be enrolled.
    let mut simulated = service.record("site-2", host_data("site-2"));
    simulated.root_of_trust = format!("simulated:{}", "ab".repeat(32)).parse().unwrap();
    let file = service.enrollment_file(simulated);
    let refused = service.site(&["enroll", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(crate::support::stderr(&refused).contains("root_of_trust"), "{}", crate::support::stderr(&refused));
}

#[test]
fn genuine_evidence_is_nothing_to_a_simulated_service_and_passes_all_but_the_challenge_in_production() {
    let Some(path) = system_tests::vectors::path("snp/wire/genoa-v3-vcek.json") else { return };
    let text = std::fs::read(path).unwrap();
    let genuine = || SnpEvidence::from_json(&text).unwrap();
    let report = genuine().report;
    for (service, code) in [(Service::simulated(), "chain"), (Service::production(), "report_data")] {
        let mut record = service.record("site-1", report.fields().host_data);
        record.launch_digests = vec![report.fields().measurement];
        service.enroll(record);
        let guest = Guest::new(&simulator(Family::Genoa).asp, BASE, host_data("site-1"));
        guest.attest_as(&service.client(), false, |_, _| genuine()).answer.expect_refusal(403, code);
        // Anybody can send a report that lies in a public repository: neither service holds it against the site.
        assert_eq!(service.last_decision("demo/site-1")["event"], "enroll");
    }
}

/// A revocation that has been answered is the last word: the log shows nothing given out after it.
#[test]
fn nothing_is_given_out_after_a_revocation_however_busy_the_service_is() {
    let service = Service::edited("second_per_source = 50\nburst_per_source = 500", "second_per_source = 10000\nburst_per_source = 10000");
    let guest = service.enrolled_guest("site-1");
    let session = guest.attest(&service.client());
    let path = guest.resource("site-1", "");
    thread::scope(|scope| {
        for n in 0..6 {
            let (service, guest, session, path) = (&service, &guest, &session, &path);
            scope.spawn(move || {
                let client = service.client();
                let give = || if n % 2 == 0 { guest.attest(&client).answer } else { client.get(path, Some(session.session())) };
                while give().status == 200 {}
            });
        }
        thread::sleep(std::time::Duration::from_millis(200));
        assert!(service.site(&["revoke", "demo/site-1", "--reason", "stolen"]).status.success());
    });
    let shown = service.show("demo/site-1");
    let newest_first: Vec<_> = shown["decisions"].as_array().unwrap().iter().map(|d| d["event"].as_str().unwrap()).collect();
    let revoked = newest_first.iter().position(|event| *event == "revoke").unwrap();
    assert!(newest_first[..revoked].iter().all(|event| *event == "refuse"), "{newest_first:?}");
    assert!(newest_first[revoked..].contains(&"release"), "{newest_first:?}");
}

#[test]
fn a_revoked_site_gets_nothing_not_even_in_a_session_that_is_open() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let open_session = guest.attest(&client);
    let stock = guest.attest_as_stock(&client);
    let revoked = service.site(&["revoke", "demo/site-1", "--reason", "stolen"]);
    assert!(revoked.status.success(), "{}", crate::support::stderr(&revoked));
    let path = guest.resource("site-1", "");
    client.get(&path, Some(open_session.session())).expect_refusal(403, "revoked");
    let bearer = format!("Bearer {}", stock.token());
    client.send("GET", &path, &[("authorization", &bearer)], &[]).unwrap().expect_refusal(403, "revoked");
    guest.attest(&client).answer.expect_refusal(403, "revoked");
    let entry = service.last_decision("demo/site-1");
    assert!(entry["detail"].as_str().unwrap().contains("stolen"), "{entry}");
}
