//! Revocation reaches every call at once, the list says so to everybody, and a restored backup does not undo it.

use std::fs;
use std::thread;

use coffer_evidence::{Family, KeyDigest, ReportFields};
use coffer_token::{Jwks, RevocationList, StatementKind};
use serde_json::json;

use crate::support::{BASE, ROOT_SECRET, Service, simulator};
use crate::trust::{Caller, back_up, beside, fails, json as run_json, restore, run, serve, told, unbounded, works};

const IDLE: fn(&mut ReportFields) = |_| ();
const ID_KEY: KeyDigest = KeyDigest::new([0x1d; 48]);

fn chip() -> String {
    simulator(Family::Genoa).asp.platform().chip_id.to_string()
}

/// The public list, whose signature and form are checked on the way.
fn list(service: &Service, query: &str) -> RevocationList {
    let client = service.client();
    let keys = Jwks::parse(&client.get("/.well-known/jwks.json", None).body).unwrap();
    let answer = client.get(&format!("/coffer/v1/revocation-list{query}"), None);
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/jose"));
    let list: RevocationList = keys.check_statement(std::str::from_utf8(&answer.body).unwrap(), StatementKind::Revocations).unwrap();
    list.check_form().unwrap();
    list
}

#[test]
fn a_revoked_chip_image_or_key_gets_nothing_not_even_in_a_session_that_is_open() {
    type Change = fn(&mut ReportFields);
    let with_id_key: Change = |fields| fields.id_key_digest = ID_KEY;
    for (kind, value, code, change) in [
        ("chip", chip(), "chip_revoked", IDLE),
        ("image", BASE.to_string(), "launch_digest_revoked", IDLE),
        ("key", ID_KEY.to_string(), "key_revoked", with_id_key),
    ] {
        let service = Service::simulated();
        let guest = service.enrolled_guest("site-1");
        let client = service.client();
        let open_session = guest.attest_with(&client, change);
        let stock = guest.attest_as(&client, false, |asp, report_data| {
            let mut fields = asp.fields(&guest.guest, report_data, 0);
            change(&mut fields);
            asp.evidence_of(&fields).unwrap()
        });
        let path = guest.resource("site-1", "");
        let bearer = format!("Bearer {}", stock.token());
        let by_token = || client.send("GET", &path, &[("authorization", &bearer)], &[]).unwrap();
        let waiting = client.post("/kbs/v0/auth", None, &coffer_protocol::Request::body(true));
        assert_eq!(waiting.status, 200, "a challenge is nobody's yet");
        assert_eq!(open_session.open(&client.get(&path, Some(open_session.session()))), ROOT_SECRET);
        assert_eq!(stock.open(&by_token()), ROOT_SECRET);

        let done = run_json(&service, &["revoke", kind, &value, "--reason", "seen at an auction"]);
        assert_eq!((done["number"].as_u64(), done["kind"].as_str(), done["value"].as_str()), (Some(1), Some(kind), Some(value.as_str())));
        client.get(&path, Some(open_session.session())).expect_refusal(403, code);
        by_token().expect_refusal(403, code);
        guest.attest_with(&client, change).answer.expect_refusal(403, code);
        let entry = service.last_decision("demo/site-1");
        assert_eq!((entry["event"].as_str(), entry["code"].as_str()), (Some("refuse"), Some(code)), "{entry}");
        // Another chip, image or key is none of it: the site itself stands.
        assert_eq!(service.show("demo/site-1")["configs"][0]["standing"], "active");
    }
}

/// As for a site: the log shows nothing given out after the revocation was answered.
#[test]
fn nothing_is_given_out_after_a_chip_or_image_revocation_however_busy_the_service_is() {
    for (kind, value) in [("chip", chip()), ("image", BASE.to_string())] {
        let service = unbounded();
        let guest = service.enrolled_guest("site-1");
        let session = guest.attest(&service.client());
        let stock = guest.attest_as_stock(&service.client());
        let path = guest.resource("site-1", "");
        let bearer = format!("Bearer {}", stock.token());
        thread::scope(|scope| {
            for n in 0..6 {
                let (service, guest, session, path, bearer) = (&service, &guest, &session, &path, &bearer);
                scope.spawn(move || {
                    let client = service.client();
                    let give = || match n % 3 {
                        0 => guest.attest(&client).answer,
                        1 => client.get(path, Some(session.session())),
                        _ => client.send("GET", path, &[("authorization", bearer)], &[]).unwrap(),
                    };
                    let begun = std::time::Instant::now();
                    while give().status != 403 {
                        assert!(begun.elapsed().as_secs() < 20, "still given out");
                    }
                });
            }
            thread::sleep(std::time::Duration::from_millis(200));
            works(&service, &["revoke", kind, &value, "--reason", "stolen"]);
        });
        let file = beside(&service, "log.jsonl");
        works(&service, &["audit", "export", "--to", file.to_str().unwrap()]);
        let text = fs::read_to_string(&file).unwrap();
        let entries: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let revoked = entries.iter().position(|line| line["entry"]["event"] == "revoke").unwrap();
        let given = |line: &serde_json::Value| matches!(line["entry"]["event"].as_str(), Some("attest" | "release"));
        assert!(entries[..revoked].iter().any(given), "nothing was given out before it");
        assert!(!entries[revoked..].iter().any(given), "{kind}: given out after its revocation");
    }
}

#[test]
fn the_list_is_signed_numbered_and_says_no_more_than_strangers_need() {
    let service = Service::simulated();
    service.enrolled_guest("site-1");
    assert_eq!((list(&service, "").number, list(&service, "").entries.len()), (0, 0));
    works(&service, &["revoke", "site", "demo/site-1", "--reason", "a private reason"]);
    works(&service, &["revoke", "chip", &chip(), "--reason", "a private reason"]);
    works(&service, &["revoke", "image", &"ab".repeat(48), "--reason", "a private reason"]);
    let all = list(&service, "");
    assert_eq!((all.number, all.iss.as_str()), (3, "https://attest.demo.test"));
    let kinds: Vec<_> = all.entries.iter().map(|entry| entry.kind.name()).collect();
    assert_eq!(kinds, ["site", "chip", "image"]);
    assert!(all.entries.iter().all(|entry| entry.reason.is_none() && entry.by.is_none() && entry.name.is_none()));
    let rest = list(&service, "?after=2");
    assert_eq!((rest.number, rest.after, rest.entries.len(), rest.entries[0].number), (3, 2, 1, 3));
    assert_eq!(list(&service, "?after=3").entries.len(), 0);
    assert_eq!(list(&service, "?after=18446744073709551615").entries.len(), 0);
    for query in ["?after=", "?after=x", "?after=-1", "?after=18446744073709551616", "?before=1", "?after=1&after=2"] {
        service.client().get(&format!("/coffer/v1/revocation-list{query}"), None).expect_refusal(400, "malformed");
    }
    // Admins are told in full.
    let shown = run_json(&service, &["revocations", "list"]);
    assert_eq!((shown["entries"][0]["name"].as_str(), shown["entries"][0]["by"].as_str()), (Some("demo/site-1"), Some("ada")));
    let text = works(&service, &["revocations", "list", "--after", "2"]);
    assert!(text.starts_with("3  ") && text.contains("  image  ") && text.ends_with("by ada: a private reason\n"), "{text}");
}

#[test]
fn what_cannot_be_revoked_is_named() {
    let service = Service::simulated();
    service.enrolled_guest("site-1");
    let revoke = |kind: &str, value: &str| run(&service, &["revoke", kind, value, "--reason", "test"]);
    works(&service, &["revoke", "chip", &chip(), "--reason", "test"]);
    fails(&revoke("chip", &chip()), 3, &["already_revoked", "number 1"]);
    fails(&revoke("chip", &"0".repeat(128)), 3, &["revocation_value"]);
    fails(&revoke("chip", &chip()[..16]), 3, &["revocation_value"]);
    fails(&revoke("image", &"AB".repeat(48)), 3, &["revocation_value"]);
    fails(&revoke("key", "demo"), 3, &["revocation_value"]);
    fails(&revoke("site", "demo/site-9"), 3, &["not_active"]);
    fails(&revoke("admin", "nobody"), 3, &["no_such_admin"]);
    fails(&revoke("platform", "x"), 2, &["possible values"]);
    fails(&run(&service, &["revoke", "chip", &chip()]), 2, &["--reason"]);
    fails(&run(&service, &["revoke", "image", &"ab".repeat(48), "--reason", "two\nlines"]), 3, &["revocation_value"]);
    fails(&run(&service, &["revoke", "site", "demo/site-1", "--reason", ""]), 3, &["revocation_value"]);
    // Sites and admins have routes of their own, with checks of their own.
    let body = json!({ "kind": "site", "value": "ab".repeat(32), "reason": "test" }).to_string();
    let answer = Caller::first(&service).call(&service.client(), "POST", "/coffer/v1/revocations", &body);
    assert_eq!(told(&answer), (400, "revocation_value".to_owned()));
    assert_eq!(list(&service, "").number, 1);
}

#[test]
fn a_restored_backup_is_not_served_before_it_knows_what_was_revoked_since() {
    let mut service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    works(&service, &["revoke", "image", &"ab".repeat(48), "--reason", "old"]);
    service.stop();
    let backup = back_up(&service);
    service.start();
    works(&service, &["revoke", "site", "demo/site-1", "--reason", "stolen"]);
    works(&service, &["revoke", "chip", &chip(), "--reason", "stolen"]);
    let (file, keys) = (beside(&service, "revocations.jws"), beside(&service, "keys.json"));
    let (file, keys) = (file.to_str().unwrap(), keys.to_str().unwrap());
    let said = works(&service, &["revocations", "export", "--to", file]);
    assert!(said.contains("serve --min-revocation 3"), "{said}");
    works(&service, &["keys", "export", "--to", keys]);
    service.stop();

    restore(&service, &backup);
    fails(&serve(&service, &["--min-revocation", "3"]), 5, &["goes up to revocation 1, expected at least 3", "hint: "]);
    // The attack this is about: the same backup without the number.
    service.start();
    guest.attest(&service.client()).token();
    fails(&run(&service, &["revocations", "import", file]), 1, &["in use by another process"]);
    service.stop();

    // Only this service's own list, whole and unchanged, is taken over.
    let text = fs::read_to_string(file).unwrap();
    let forged = beside(&service, "forged.jws");
    let try_import = |text: &str| {
        fs::write(&forged, text).unwrap();
        run(&service, &["revocations", "import", forged.to_str().unwrap()])
    };
    let middle = text.len() / 2;
    let flipped: String = text.char_indices().map(|(at, c)| if at == middle { if c == 'A' { 'B' } else { 'A' } } else { c }).collect();
    fails(&try_import(&flipped), 1, &["forged.jws"]);
    fails(&try_import(""), 1, &["it is empty"]);
    let other = Service::simulated();
    let foreign = works(&other, &["revocations", "export"]);
    fails(&try_import(&foreign), 1, &["not in the key set", "hint: "]);

    let json_said = run_json(&service, &["revocations", "import", file]);
    assert_eq!((json_said["added"].as_u64(), json_said["number"].as_u64()), (Some(2), Some(3)));
    let verify = |more: &[&str]| crate::support::program(&[&["revocations", "verify", file], more].concat());
    let checked = verify(&["--jwks", keys]);
    assert!(String::from_utf8_lossy(&checked.stdout).contains("whole: revocations 1 to 3"), "{}", crate::support::stderr(&checked));
    fails(&verify(&["--jwks", keys, "--min", "4"]), 5, &["goes up to 3, expected at least 4"]);
    fails(&verify(&[]), 2, &["--jwks"]);
    assert!(verify(&["--dir", service.path().to_str().unwrap()]).status.success());
    service.start();
    guest.attest(&service.client()).answer.expect_refusal(403, "chip_revoked");
    assert_eq!(service.show("demo/site-1")["configs"][0]["standing"], "revoked");
    assert_eq!(list(&service, "").number, 3);
    assert_eq!(run_json(&service, &["revocations", "list"])["entries"][1]["reason"], "stolen");
}

/// What was verified under other values is not enough any more: neither a cookie nor a stock token outlives a raised floor.
#[test]
fn a_session_ends_when_the_reference_values_change() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let path = guest.resource("site-1", "");
    let document = |microcode: u8| {
        let floor = json!({ "bootloader": 10, "tee": 0, "snp": 23, "microcode": microcode });
        json!({ "type": "coffer/project-policy/v1", "reference_values": { "families": { "genoa": { "tcb_floor": floor } } } })
    };
    let (session, stock) = (guest.attest(&client), guest.attest_as_stock(&client));
    let bearer = format!("Bearer {}", stock.token());
    let fetch = || {
        let by_token = client.send("GET", &path, &[("authorization", &bearer)], &[]).unwrap();
        [client.get(&path, Some(session.session())), by_token]
    };
    assert!(fetch().iter().all(|answer| answer.status == 200));
    service.set_policy(&["--project", "demo"], 0, &document(85));
    for answer in fetch() {
        answer.expect_refusal(401, "values_changed");
    }
    // Another try meets the new values.
    guest.attest(&client).answer.expect_refusal(403, "tcb_floor");
    service.set_policy(&["--project", "demo"], 1, &document(84));
    let again = guest.attest(&client);
    assert_eq!(again.open(&client.get(&path, Some(again.session()))), ROOT_SECRET);
}
