//! Policies as data: set, kept, tried, rolled back; what is refused leaves the old one in force.

use std::fs;
use std::process::Output;
use std::thread;

use coffer_evidence::Family;
use coffer_token::UnixTime;
use coffer_token::admin::{AdminSigner, Call};
use serde_json::{Value, json};

use crate::support::{Answer, BASE, Guest, Service, TLS_NAME, host_data, now, program, simulator, stderr};

const PROJECT: [&str; 2] = ["--project", "demo"];

/// Genoa at what the simulator reports, with this microcode.
fn document(microcode: u8) -> Value {
    json!({
        "type": "coffer/project-policy/v1",
        "reference_values": {
            "families": { "genoa": { "tcb_floor": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": microcode } } },
        },
    })
}

fn with_release(text: &str) -> Value {
    let mut document = document(84);
    document["rego"] = json!({ "release": text });
    document
}

fn show(service: &Service, more: &[&str]) -> Value {
    let shown = service.policy(&[&["show", "--json"], more].concat());
    assert!(shown.status.success(), "{}", stderr(&shown));
    serde_json::from_slice(&shown.stdout).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(output: &Output, code: i32, says: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    assert!(stderr(output).contains(says), "{}", stderr(output));
}

#[test]
fn a_policy_takes_effect_at_the_next_handshake_and_only_in_its_project() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let mut other = service.record("site-1", host_data("another project's"));
    other.project = "other".parse().unwrap();
    let foreign = Guest::new(&simulator(Family::Genoa).asp, BASE, other.host_data);
    service.enroll(other);
    let client = service.client();
    guest.attest(&client).token();
    assert_eq!(show(&service, &PROJECT)["source"], "default");

    let set = service.set_policy(&PROJECT, 0, &document(85));
    assert_eq!((&set["version"], &set["weaker"]), (&json!(1), &json!([])));
    guest.attest(&client).answer.expect_refusal(403, "tcb_floor");
    foreign.attest(&client).token();

    let set = service.set_policy(&PROJECT, 1, &document(84));
    assert_eq!(set["version"], 2);
    assert_eq!(set["weaker"], json!(["genoa: floor of microcode falls from 85 to 84"]));
    guest.attest(&client).token();
    let history = said(&service.policy(&[&["history"], &PROJECT[..]].concat()));
    assert!(history.starts_with("2  ") && history.lines().count() == 2 && history.contains("  ada  "), "{history}");
}

#[test]
fn a_change_names_the_version_it_replaces_and_of_many_at_once_one_counts() {
    let service = Service::simulated();
    service.set_policy(&PROJECT, 0, &document(84));
    let file = service.file("p.json", document(80).to_string().as_bytes());
    let set = |replaces: &str| service.policy(&[&["set", &file, "--replaces", replaces, "--reason", "r"], &PROJECT[..]].concat());
    refused(&set("0"), 3, "policy_conflict: the policy of project `demo` is at version 1, the change is to version 0");
    refused(&set("2"), 3, "policy_conflict");
    let done: Vec<_> = thread::scope(|scope| {
        let racing: Vec<_> = (0..6).map(|_| scope.spawn(|| set("1").status.code())).collect();
        racing.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(done.iter().filter(|code| **code == Some(0)).count(), 1, "{done:?}");
    assert!(done.iter().all(|code| matches!(code, Some(0 | 3))), "{done:?}");
    assert_eq!(show(&service, &PROJECT)["version"], 2);
}

#[test]
fn every_version_is_kept_and_an_older_one_comes_back_as_a_new_one() {
    let mut service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    service.set_policy(&PROJECT, 0, &document(84));
    service.set_policy(&PROJECT, 1, &document(85));
    guest.attest(&service.client()).answer.expect_refusal(403, "tcb_floor");
    let back = service.policy(&[&["rollback", "--to", "1", "--replaces", "2", "--reason", "too strict"], &PROJECT[..]].concat());
    assert_eq!(said(&back), "version 3 is in force\nweaker: genoa: floor of microcode falls from 85 to 84\n");
    guest.attest(&service.client()).token();
    refused(&service.policy(&[&["rollback", "--to", "9", "--replaces", "3", "--reason", "r"], &PROJECT[..]].concat()), 3, "no_such_policy");
    service.stop();
    service.start();
    let shown = show(&service, &PROJECT);
    assert_eq!((&shown["version"], &shown["reason"]), (&json!(3), &json!("back to version 1: too strict")));
    assert_eq!(shown["document"], show(&service, &[&PROJECT[..], &["--version", "1"]].concat())["document"]);
    let floor = &show(&service, &[&PROJECT[..], &["--version", "2"]].concat())["document"]["reference_values"]["families"]["genoa"];
    assert_eq!(floor["tcb_floor"]["microcode"], 85);
    guest.attest(&service.client()).token();
}

#[test]
fn a_refused_document_leaves_the_old_one_in_force() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    service.set_policy(&PROJECT, 0, &document(84));
    let milan = json!({ "tcb_floor": { "bootloader": 4, "tee": 0, "snp": 24, "microcode": 219 } });
    let later = {
        let mut later = document(84);
        later["type"] = json!("coffer/project-policy/v2");
        later
    };
    let risky = {
        let mut risky = document(84);
        risky["reference_values"]["families"]["milan"] = milan;
        risky
    };
    let fixture = {
        let mut fixture = with_release("package coffer.release\ndefault allow := false\nallow if input.evidence.family == \"turin\"\n");
        fixture["rego"]["fixtures"] = json!([{ "question": "release", "input": { "evidence": { "family": "genoa" } }, "allow": true }]);
        fixture
    };
    for (document, says) in [
        (later, "this build reads `coffer/project-policy/v1`"),
        (risky, "arXiv 2605.12990"),
        (fixture, "fixture 1 of release.rego: allow is false, the fixture says true"),
        (with_release("package coffer.release\ndefault allow := true\n"), "does not deny the empty input"),
        (with_release("package coffer.release\ndefault allow := false\nallow if not input.x\n"), "does not deny the empty input"),
        (with_release("package coffer.release\ndefault allow := false\nallow if http.send({\"url\": \"http://x\"}).body\n"), "http."),
        (with_release("nonsense"), "does not compile"),
    ] {
        // The command says so before anything is sent; the service says so to whoever sends it all the same.
        let file = service.file("p.json", document.to_string().as_bytes());
        refused(&service.policy(&[&["set", &file, "--replaces", "1", "--reason", "r"], &PROJECT[..]].concat()), 1, says);
        let body = json!({ "replaces": 1, "reason": "r", "document": document }).to_string();
        let answer = call(&service, "POST", "/coffer/v1/projects/demo/policy", body.as_bytes());
        let text = String::from_utf8(answer.body.clone()).unwrap();
        assert_eq!(answer.status, 400, "{text}");
        // JSON has escaped the quotes of what is said.
        assert!(text.contains("policy_document") && answer.json()["detail"].as_str().unwrap().contains(says), "{text}");
    }
    assert_eq!(show(&service, &PROJECT)["version"], 1);
    guest.attest(&service.client()).token();
}

/// A call signed with the first admin's key.
fn call(service: &Service, method: &str, path: &str, body: &[u8]) -> Answer {
    let admin = AdminSigner::from_pem(&fs::read_to_string(service.path().join("admin.key")).unwrap()).unwrap();
    let id = data_encoding::HEXLOWER.encode(&crate::support::random::<16>());
    let token = admin.sign(&Call { audience: TLS_NAME, method, path, body }, &id, UnixTime(now()), 60).unwrap();
    service.client().send(method, path, &[("authorization", &format!("Bearer {token}"))], body).unwrap()
}

#[test]
fn milan_is_taken_only_by_name_of_its_risk_and_the_risk_is_printed() {
    let service = Service::believing(Family::Milan);
    let guest = Guest::new(&simulator(Family::Milan).asp, BASE, host_data("site-1"));
    service.enroll(service.record("site-1", guest.host_data()));
    guest.attest(&service.client()).answer.expect_refusal(403, "family");
    let mut document = document(84);
    document["reference_values"]["families"]["milan"] = json!({
        "tcb_floor": { "bootloader": 4, "tee": 0, "snp": 24, "microcode": 219 }, "risk_accepted": "arXiv 2605.12990",
    });
    let file = service.file("p.json", document.to_string().as_bytes());
    let set = service.policy(&[&["set", &file, "--replaces", "0", "--reason", "an old host"], &PROJECT[..]].concat());
    let text = said(&set);
    assert!(text.contains("weaker: milan is taken now: arXiv 2605.12990 extracts its VCEK seed"), "{text}{}", stderr(&set));
    guest.attest(&service.client()).token();
}

#[test]
fn rego_of_a_project_narrows_what_it_releases() {
    let service = Service::simulated();
    let (one, two) = (service.enrolled_guest("site-1"), service.enrolled_guest("site-2"));
    let text = "package coffer.release\ndefault allow := false\nallow if input.enrollment.site == \"site-2\"\n";
    service.set_policy(&PROJECT, 0, &with_release(text));
    let client = service.client();
    let session = one.attest(&client);
    client.get(&one.resource("site-1", ""), Some(session.session())).expect_refusal(403, "policy");
    let session = two.attest(&client);
    assert_eq!(client.get(&two.resource("site-2", ""), Some(session.session())).status, 200);
    client.get(&one.resource("site-1", ""), Some(session.session())).expect_refusal(403, "resource_path");
}

#[test]
fn a_dry_run_says_what_would_come_out_otherwise_and_changes_nothing() {
    let service = Service::simulated();
    let (one, two) = (service.enrolled_guest("site-1"), service.enrolled_guest("site-2"));
    let client = service.client();
    let session = one.attest(&client);
    assert_eq!(client.get(&one.resource("site-1", ""), Some(session.session())).status, 200);
    two.attest(&client).token();
    one.attest_with(&client, |f| f.vmpl = 1).answer.expect_refusal(403, "vmpl");
    one.attest_with(&client, |f| f.launch_tcb.microcode = 80).answer.expect_refusal(403, "tcb_floor");
    // Nothing that is not authenticated is kept.
    one.attest_with(&client, |f| f.report_data = coffer_evidence::ReportData::new([9; 64])).answer.expect_refusal(403, "report_data");

    let dry = |document: &Value, more: &[&str]| -> Value {
        let file = service.file("d.json", document.to_string().as_bytes());
        let run = service.policy(&[&["dry-run", &file, "--json"], more].concat());
        assert!(run.status.success(), "{}", stderr(&run));
        serde_json::from_slice(&run.stdout).unwrap()
    };
    let codes = |run: &Value| -> Vec<String> {
        let line = |change: &Value| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            format!("{} {}->{}", text(&change["site"]), text(&change["before"]["code"]), text(&change["after"]["code"]))
        };
        run["changes"].as_array().unwrap().iter().map(line).collect()
    };
    // Nothing changes: the same values.
    let run = dry(&document(84), &PROJECT);
    assert_eq!((&run["made_again"], &run["changes"]), (&json!(5), &json!([])), "{run}");
    // Lower: the old firmware passes, VMPL 1 does not.
    let run = dry(&document(80), &PROJECT);
    assert_eq!(codes(&run), ["site-1 tcb_floor->ok"]);
    assert_eq!(run["weaker"], json!(["genoa: floor of microcode falls from 84 to 80"]));
    // Higher: everybody is refused, and the secret that was released with them.
    let run = dry(&document(85), &PROJECT);
    assert_eq!(codes(&run), ["site-2 ok->tcb_floor", "site-1 ok->tcb_floor", "site-1 ok->tcb_floor"]);
    let detail = run["changes"][1]["after"]["detail"].as_str().unwrap();
    assert!(detail.starts_with("its attestation: ") && run["changes"][1]["asked"] == one.resource("site-1", "")[17..], "{run}");
    // Rego: the release alone.
    let text = "package coffer.release\ndefault allow := false\nallow if input.enrollment.site == \"site-2\"\n";
    assert_eq!(codes(&dry(&with_release(text), &PROJECT)), ["site-1 ok->policy"]);
    // The newest two only.
    assert_eq!(dry(&document(85), &[&PROJECT[..], &["--last", "2"]].concat())["changes"], json!([]));
    // The default decides about this project as long as it has no document of its own.
    assert_eq!(dry(&document(85), &["--default"])["changes"].as_array().unwrap().len(), 3);
    let file = service.file("d.json", document(85).to_string().as_bytes());
    let lines = said(&service.policy(&[&["dry-run", &file], &PROJECT[..]].concat()));
    assert!(
        lines.contains("demo/site-2  token  ok -> tcb_floor") && lines.ends_with("3 of 5 decisions would come out otherwise; 0 left out\n"),
        "{lines}"
    );

    assert_eq!(show(&service, &PROJECT)["source"], "default");
    service.set_policy(&PROJECT, 0, &document(84));
    let run = dry(&document(85), &["--default"]);
    assert_eq!((&run["made_again"], &run["left_out"]), (&json!(0), &json!(5)), "{run}");
}

#[test]
fn a_revoked_sites_decisions_are_made_again_as_it_stood_then() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    guest.attest(&service.client()).token();
    thread::sleep(std::time::Duration::from_millis(1100));
    let revoked = service.site(&["revoke", "demo/site-1", "--reason", "gone"]);
    assert!(revoked.status.success(), "{}", stderr(&revoked));
    let file = service.file("d.json", document(85).to_string().as_bytes());
    let run = service.policy(&[&["dry-run", &file], &PROJECT[..]].concat());
    assert!(said(&run).contains("ok -> tcb_floor"), "{}{}", said(&run), stderr(&run));
}

#[test]
fn a_production_service_refuses_everything_until_somebody_decides() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("service");
    let made = program(&["init", "--dir", target.to_str().unwrap(), "--root-of-trust", "amd-sev-snp", "--tls-name", "a.test"]);
    assert!(said(&made).contains("no evidence is accepted until a policy says what is enough"), "{}", said(&made));
    let config = target.join("coffer-attest.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("audience = \"coffer\"\n", "audience = \"coffer\"\nfamilies = [\"genoa\"]\n")).unwrap();
    let served = program(&["serve", "--dir", target.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    refused(&served, 1, "`families` is no setting of the service, policies have it");
    assert!(stderr(&served).contains("coffer-attest policy set FILE --default"), "{}", stderr(&served));
}

#[test]
fn the_default_lists_no_resources_and_tenants_change_their_own_policy_only() {
    let service = Service::simulated();
    let mut document = document(84);
    document["stock_resources"] = json!([{ "path": "disk/key1", "sites": [] }]);
    let file = service.file("p.json", document.to_string().as_bytes());
    refused(
        &service.policy(&["set", &file, "--default", "--replaces", "1", "--reason", "r"]),
        3,
        "the default document lists stock resources",
    );

    // An admin of another project.
    let key = service.path().join("tenant.key");
    let made = program(&["admin", "new-key", key.to_str().unwrap()]);
    assert!(made.status.success(), "{}", stderr(&made));
    let dir = service.path();
    let public = format!("{}.pub", key.display());
    let added = program(&[
        "admin",
        "add",
        "tina",
        "--public-key",
        &public,
        "--scopes",
        "read,policy",
        "--project",
        "other",
        "--dir",
        dir.to_str().unwrap(),
    ]);
    assert!(added.status.success(), "{}", stderr(&added));
    let ca = service.path().join("tls/ca.pem");
    let as_tina = |args: &[&str]| {
        let access = ["--url", &service.url, "--tls-name", TLS_NAME, "--ca", ca.to_str().unwrap(), "--admin-key", key.to_str().unwrap()];
        program(&[&["policy"], args, &access].concat())
    };
    for (args, says) in [
        (vec!["set", &file, "--project", "demo", "--replaces", "0", "--reason", "r"], "admin_project"),
        (vec!["set", &file, "--default", "--replaces", "1", "--reason", "r"], "admin_project"),
        (vec!["dry-run", &file, "--project", "demo"], "admin_project"),
        (vec!["show", "--project", "demo"], "admin_project"),
        (vec!["history", "--project", "demo"], "admin_project"),
    ] {
        refused(&as_tina(&args), 3, says);
    }
    let set = as_tina(&["set", &file, "--project", "other", "--replaces", "0", "--reason", "r"]);
    assert!(set.status.success(), "{}", stderr(&set));
    assert!(as_tina(&["show", "--default"]).status.success());
}

#[test]
fn what_is_shown_can_be_edited_and_set() {
    let service = Service::simulated();
    let shown = service.policy(&[&["show"], &PROJECT[..]].concat());
    assert!(stderr(&shown).contains("the service's default policy"), "{}", stderr(&shown));
    let file = service.file("p.json", &shown.stdout);
    let set = service.policy(&[&["set", &file, "--replaces", "0", "--reason", "our own"], &PROJECT[..]].concat());
    assert_eq!(said(&set), "version 1 is in force\n", "{}", stderr(&set));
    let shown = service.policy(&[&["show"], &PROJECT[..]].concat());
    assert!(stderr(&shown).contains("by ada: our own"), "{}", stderr(&shown));
}
