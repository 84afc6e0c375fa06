//! A suspended site gets nothing, whatever it asks for and however it comes; and everything again once it is resumed.

use coffer_evidence::Family;
use coffer_protocol::{P384Key, Purpose};
use coffer_token::Jkt;
use serde_json::{Value, json};

use crate::support::{BASE, Guest, ROOT_SECRET, Service, host_data, simulator};
use crate::trust::{Caller, fails, json as run_json, run, told, unbounded, works};
use crate::withdrawals::list;

const SITE: &str = "demo/site-1";

fn suspend(service: &Service) {
    assert_eq!(works(service, &["site", "suspend", SITE, "--reason", "logs look odd"]), "suspended demo/site-1\n");
}

fn resume(service: &Service) {
    assert_eq!(works(service, &["site", "resume", SITE, "--reason", "all well"]), "resumed demo/site-1\n");
}

fn node_key() -> P384Key {
    // Like any bound key: the service names it, nobody signs with it here.
    P384Key::from_sec1(&[[4].as_slice(), &[7; 96]].concat()).unwrap()
}

#[test]
fn a_suspended_site_gets_no_token_and_no_secret_not_even_in_a_session_that_is_open() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let (open, stock) = (guest.attest(&client), guest.attest_as_stock(&client));
    let path = guest.resource("site-1", "");
    let bearer = format!("Bearer {}", stock.token());
    let by_token = || client.send("GET", &path, &[("authorization", &bearer)], &[]).unwrap();
    assert_eq!(open.open(&client.get(&path, Some(open.session()))), ROOT_SECRET);
    suspend(&service);
    for _ in 0..2 {
        guest.attest(&client).answer.expect_refusal(403, "site_suspended");
        guest.attest_as_stock(&client).answer.expect_refusal(403, "site_suspended");
        client.get(&path, Some(open.session())).expect_refusal(403, "site_suspended");
        by_token().expect_refusal(403, "site_suspended");
    }
    let entry = service.last_decision(SITE);
    assert_eq!((entry["event"].as_str(), entry["code"].as_str()), (Some("refuse"), Some("site_suspended")), "{entry}");
    assert!(entry["detail"].as_str().unwrap().contains("by `ada`: logs look odd"), "{entry}");
    let id = guest.attest(&client).answer.refusal_id();
    let why = works(&service, &["explain", &id]);
    assert!(why.contains("coffer-attest site resume demo/site-1 --reason TEXT") && why.contains("logs look odd"), "{why}");
    // It is withdrawn as a site, once: its retries say nothing new to gates.
    assert_eq!(list(&service, "").number, 1);

    resume(&service);
    assert_eq!(open.open(&client.get(&path, Some(open.session()))), ROOT_SECRET);
    assert_eq!(stock.open(&by_token()), ROOT_SECRET);
    guest.attest(&client).token();
}

#[test]
fn every_purpose_is_refused() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1").with_purpose(Purpose::Renew);
    let client = service.client();
    guest.attest(&client).token();
    suspend(&service);
    guest.attest(&client).answer.expect_refusal(403, "site_suspended");
    let entry = service.last_decision(SITE);
    assert_eq!(entry["host_data"], json!(guest.host_data()));
    let guest = guest.with_purpose(Purpose::Boot);
    guest.attest(&client).answer.expect_refusal(403, "site_suspended");
}

#[test]
fn stock_resources_are_withheld_as_well() {
    let service = Service::simulated();
    let document = json!({
        "type": "coffer/project-policy/v1",
        "reference_values": {
            "families": { "genoa": { "tcb_floor": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 } } },
        },
        "stock_resources": [{ "path": "disk/key1", "sites": ["site-1"], "writable": true }],
    });
    service.set_policy(&["--project", "demo"], 0, &document);
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let token = works(&service, &["admin", "bearer", "--project", "demo", "--scope", "set-resource"]);
    let header = format!("Bearer {}", token.trim());
    let path = "/kbs/v0/resource/demo/disk/key1";
    assert_eq!(client.send("POST", path, &[("authorization", &header)], b"a resource").unwrap().status, 200);
    let session = guest.attest_as_stock(&client);
    assert_eq!(session.open(&client.get(path, Some(session.session()))), b"a resource");
    suspend(&service);
    client.get(path, Some(session.session())).expect_refusal(403, "site_suspended");
    resume(&service);
    assert_eq!(session.open(&client.get(path, Some(session.session()))), b"a resource");
}

#[test]
fn a_suspension_is_of_the_site_not_of_its_config_and_lasts_over_a_restart() {
    let mut service = Service::simulated();
    let first = service.enrolled_guest("site-1");
    let other = service.enrolled_guest("site-2");
    suspend(&service);
    let second = Guest::new(&simulator(Family::Genoa).asp, BASE, host_data("site-1, second config"));
    let mut next = service.record("site-1", second.host_data());
    (next.supersedes, next.overlap_seconds) = (Some(first.host_data()), Some(600));
    service.enroll(next);
    service.stop();
    service.start();
    let client = service.client();
    for guest in [&first, &second] {
        guest.attest(&client).answer.expect_refusal(403, "site_suspended");
    }
    other.attest(&client).token();
    resume(&service);
    for guest in [&first, &second] {
        guest.attest(&client).token();
    }
    // What is revoked stays revoked, and is told so.
    suspend(&service);
    works(&service, &["site", "revoke", SITE, "--reason", "stolen"]);
    first.attest(&client).answer.expect_refusal(403, "revoked");
    fails(&run(&service, &["site", "resume", SITE, "--reason", "x"]), 3, &["not_active"]);
}

#[test]
fn what_cannot_be_suspended_or_resumed_is_named_and_recorded() {
    let service = Service::simulated();
    service.enrolled_guest("site-1");
    let call = |verb: &str, site: &str, reason: &str| run(&service, &["site", verb, site, "--reason", reason]);
    fails(&call("resume", SITE, "x"), 3, &["not_suspended", "is not suspended", "hint: "]);
    fails(&call("suspend", "demo/site-9", "x"), 3, &["not_active"]);
    fails(&call("suspend", SITE, ""), 3, &["revocation_value"]);
    fails(&call("suspend", SITE, "two\nlines"), 3, &["revocation_value"]);
    fails(&call("suspend", "site-1", "x"), 1, &["is not `<project>/<site>`"]);
    fails(&run(&service, &["site", "suspend", SITE]), 2, &["--reason"]);
    suspend(&service);
    fails(&call("suspend", SITE, "x"), 3, &["already_suspended", "by `ada`: logs look odd"]);
    let entry = service.last_decision(SITE);
    assert_eq!((entry["event"].as_str(), entry["code"].as_str()), (Some("refuse"), Some("already_suspended")), "{entry}");
}

#[test]
fn it_shows_wherever_sites_show() {
    let service = Service::simulated();
    service.enrolled_guest("site-1");
    assert!(!works(&service, &["site", "list"]).contains("suspended"));
    suspend(&service);
    assert!(works(&service, &["site", "list"]).contains("demo/site-1  active, suspended  "));
    let shown = works(&service, &["site", "show", SITE]);
    assert!(shown.contains(" by=ada: logs look odd") && shown.contains("  suspended at=20"), "{shown}");
    let config = service.show(SITE)["configs"][0].clone();
    assert_eq!((&config["standing"], &config["suspended"]["by"]), (&json!("active"), &json!("ada")), "{config}");
    assert_eq!(run_json(&service, &["status"])["suspended"], 1);
    resume(&service);
    assert_eq!(service.show(SITE)["configs"][0].get("suspended"), None);
    let events: Vec<Value> = service.show(SITE)["decisions"].as_array().unwrap().iter().map(|entry| entry["event"].clone()).collect();
    assert_eq!(events, ["resume", "suspend", "enroll"]);
}

#[test]
fn an_admin_of_another_project_neither_suspends_nor_learns_that_there_is_a_site() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let tenant = Caller::added(&service, "tia", "revoke,read", &["--project", "other"]);
    let own = Caller::added(&service, "dora", "revoke", &["--project", "demo"]);
    let path = |verb: &str, site: &str| format!("/coffer/v1/sites/demo/{site}/{verb}");
    let body = json!({ "reason": "x" }).to_string();
    let there = told(&tenant.call(&client, "POST", &path("suspend", "site-1"), &body));
    assert_eq!(there, told(&tenant.call(&client, "POST", &path("suspend", "site-9"), &body)));
    assert_eq!(there, (409, "not_active".to_owned()));
    guest.attest(&client).token();
    assert_eq!(own.call(&client, "POST", &path("suspend", "site-1"), &body).status, 200);
    assert_eq!(told(&tenant.call(&client, "POST", &path("resume", "site-1"), &body)), (409, "not_active".to_owned()));
    guest.attest(&client).answer.expect_refusal(403, "site_suspended");
    assert_eq!(own.call(&client, "POST", &path("resume", "site-1"), &body).status, 200);
}

/// As for a revocation: the log shows nothing given out between the suspension's answer and its end.
#[test]
fn nothing_is_given_out_after_a_suspension_however_busy_the_service_is() {
    let service = unbounded();
    let guest = service.enrolled_guest("site-1");
    let session = guest.attest(&service.client());
    let path = guest.resource("site-1", "");
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (service, guest, session, path) = (&service, &guest, &session, &path);
            scope.spawn(move || {
                let client = service.client();
                let give = || if n % 2 == 0 { guest.attest(&client).answer } else { client.get(path, Some(session.session())) };
                let begun = std::time::Instant::now();
                while give().status != 403 {
                    assert!(begun.elapsed().as_secs() < 20, "still given out");
                }
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        suspend(&service);
    });
    let file = crate::trust::beside(&service, "log.jsonl");
    works(&service, &["audit", "export", "--to", file.to_str().unwrap()]);
    let text = std::fs::read_to_string(&file).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["entry"]["event"].clone()).collect();
    let suspended = events.iter().position(|event| event == "suspend").unwrap();
    let given = |event: &Value| event == "attest" || event == "release";
    assert!(events[..suspended].iter().any(given) && !events[suspended..].iter().any(given));
}

/// A dry run asks about the record as it stood: a suspension of later changes no old decision.
#[test]
fn a_dry_run_makes_decisions_again_as_of_before_the_suspension() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    guest.attest(&service.client()).token();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    suspend(&service);
    let families = json!({ "genoa": { "tcb_floor": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 85 } } });
    let stricter = json!({ "type": "coffer/project-policy/v1", "reference_values": { "families": families } });
    let file = service.file("stricter.json", stricter.to_string().as_bytes());
    let tried = service.policy(&["dry-run", &file, "--project", "demo", "--json"]);
    let tried: Value = serde_json::from_slice(&tried.stdout).unwrap();
    let change = &tried["changes"][0];
    assert_eq!((&change["before"]["code"], &change["after"]["code"]), (&json!("ok"), &json!("tcb_floor")), "{tried}");
}

/// A guest that runs has its secrets. Whoever gets hold of a renewal gets none.
#[test]
fn a_renewal_gives_a_token_and_opens_nothing() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1").with_purpose(Purpose::Renew);
    let client = service.client();
    let renewed = guest.attest(&client);
    let claims = renewed.token().split('.').nth(1).map(|part| data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["coffer"]["purpose"], "renew", "{claims}");
    assert_eq!(renewed.answer.cookie, None);
    let path = guest.resource("site-1", "");
    client.get(&path, None).expect_refusal(401, "not_attested");
    client.get(&path, Some(&renewed.challenge_cookie)).expect_refusal(401, "not_attested");
    let bearer = format!("Bearer {}", renewed.token());
    client.send("GET", &path, &[("authorization", &bearer)], &[]).unwrap().expect_refusal(401, "token");
    let guest = guest.with_purpose(Purpose::Boot);
    let booted = guest.attest(&client);
    assert_eq!(booted.open(&client.get(&path, Some(booted.session()))), ROOT_SECRET);
}

#[test]
fn node_keys_are_in_the_token_in_the_log_and_in_what_is_shown_of_the_site() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1").with_node(node_key());
    let client = service.client();
    let token = guest.attest(&client).token();
    let claims = data_encoding::BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let jkt = Jkt::of_ec_point("P-384", &node_key().to_sec1()).unwrap().to_string();
    assert_eq!(claims["coffer"]["node_jkt"], json!(jkt));
    let guest = guest.with_purpose(Purpose::Renew);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    guest.attest(&client).token();
    let shown = service.show(SITE);
    let [instance] = &shown["instances"].as_array().unwrap()[..] else { panic!("{shown}") };
    assert_eq!(instance["instance"], json!(guest.guest.report_id.to_string()));
    assert_eq!((&instance["node_jkt"], &instance["node_key"]), (&json!(jkt), &serde_json::to_value(node_key()).unwrap()));
    assert!(instance["first_seen"].as_u64() < instance["last_seen"].as_u64(), "{instance}");
    assert!(shown["decisions"][0]["detail"].as_str().unwrap().ends_with(&format!(" node={jkt}")), "{shown}");
    assert!(works(&service, &["site", "show", SITE]).contains(&format!(" node={jkt}\n")));
    // A guest without one, and a stock client, which no gate takes.
    let without = service.enrolled_guest("site-2");
    without.attest(&client).token();
    without.attest_as_stock(&client).token();
    let shown = service.show("demo/site-2");
    assert_eq!((shown["instances"].as_array().unwrap().len(), shown["instances"][0].get("node_jkt")), (1, None));
}
