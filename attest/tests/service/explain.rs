//! What stands behind a code and an id: for admins, and each for their own.

use std::process::Output;

use coffer_evidence::Family;
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use crate::support::{BASE, Guest, Raw, Service, program, simulator, stderr};

fn explain(service: &Service, id: &str, more: &[&str]) -> Output {
    let dir = service.path();
    program(&[&["explain", id, "--dir", dir.to_str().unwrap()], more].concat())
}

#[track_caller]
fn explained(service: &Service, id: &str) -> Value {
    let output = explain(service, id, &["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn unknown(output: &Output) {
    assert_eq!(output.status.code(), Some(3), "{}", stderr(output));
    assert!(stderr(output).contains("no_such_refusal"), "{}", stderr(output));
}

#[test]
fn a_refusal_tells_rule_values_site_and_where_to_change_it() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let refused = guest.attest_with(&client, |f| f.measurement = coffer_evidence::LaunchDigest::new([0xB1; 48])).answer;
    refused.expect_refusal(403, "launch_digest");
    let id = refused.refusal_id();
    let said = explained(&service, &id);
    assert_eq!(
        (said["outcome"].as_str(), said["code"].as_str(), said["id"].as_str()),
        (Some("refused"), Some("launch_digest"), Some(id.as_str()))
    );
    assert_eq!((said["project"].as_str(), said["site"].as_str()), (Some("demo"), Some("site-1")));
    assert_eq!(said["host_data"], guest.host_data().to_string());
    assert!(said["got"].as_str().unwrap().contains(&"b1".repeat(48)), "{said}");
    assert!(said["expected"].as_str().unwrap().contains(&BASE.to_string()), "{said}");
    assert!(said["note"].as_str().unwrap().starts_with("authenticated") && said["authenticated"] == true, "{said}");
    let passed: Vec<&str> = said["passed"].as_array().unwrap().iter().map(|rule| rule.as_str().unwrap()).collect();
    assert!(passed.contains(&"signature") && passed.contains(&"host_data") && !passed.contains(&"launch_digest"), "{passed:?}");
    assert_eq!(said["entries"][0]["id"], id.as_str());
    assert!(said["at"].as_u64().unwrap().abs_diff(crate::support::now()) < 60);

    let text = String::from_utf8(explain(&service, &id, &[]).stdout).unwrap();
    assert!(text.starts_with(&format!("refused launch_digest id={id}\n")), "{text}");
    for line in ["  expected  ", "  got       ", "  site      demo/site-1\n", "  remedy    "] {
        assert!(text.contains(line), "{text}");
    }
    // The command is whole: typed as it stands, it works.
    let command = text.lines().filter_map(|line| line.trim().strip_prefix("$ ")).find(|line| line.contains("site show")).unwrap();
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    assert!(program(&words).status.success(), "{command}");
}

#[test]
fn the_id_of_an_attestation_tells_what_was_verified_and_released() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let accepted = guest.attest(&client);
    assert_eq!(client.get(&guest.resource("site-1", ""), Some(accepted.session())).status, 200);
    let payload = accepted.token().split('.').nth(1).map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    let said = explained(&service, claims["jti"].as_str().unwrap());
    assert_eq!((said["outcome"].as_str(), said["code"].as_str()), (Some("accepted"), Some("ok")));
    let events: Vec<&str> = said["entries"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["attest", "release"]);
    assert!(said["passed"].as_array().unwrap().len() > 40, "{said}");
    assert!(said["detail"].as_str().unwrap().contains("purpose=boot"), "{said}");
}

/// Anybody can repeat a report or send nonsense: it is explained while it is remembered, and held against nobody.
#[test]
fn what_anybody_can_have_sent_is_marked_and_kept_in_memory_only() {
    let mut service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let before = service.show("demo/site-1")["decisions"].as_array().unwrap().len();
    let replayed = guest.attest_with(&client, |f| f.report_data = coffer_evidence::ReportData::new([7; 64])).answer;
    replayed.expect_refusal(403, "report_data");
    let stranger = client.post("/kbs/v0/auth", None, br#"{"version":"0.4.0","tee":"tdx","extra-params":""}"#);
    stranger.expect_refusal(400, "tee");
    for (answer, expected, got) in [(&replayed, "", "0707"), (&stranger, "snp", "tdx")] {
        let said = explained(&service, &answer.refusal_id());
        assert_eq!(said["note"], "not authenticated: anybody can have sent this; not in the audit log");
        assert_eq!((said["authenticated"].as_bool(), said["source"].as_str()), (Some(false), Some("127.0.0.1")));
        assert!(said["expected"].as_str().unwrap().contains(expected) && said["got"].as_str().unwrap().contains(got), "{said}");
        assert!(said["project"].is_null() && said["entries"].as_array().unwrap().is_empty(), "{said}");
    }
    assert_eq!(service.show("demo/site-1")["decisions"].as_array().unwrap().len(), before);
    let id = stranger.refusal_id();
    service.stop();
    service.start();
    unknown(&explain(&service, &id, &[]));
}

#[test]
fn an_unknown_id_says_what_that_can_mean() {
    let service = Service::simulated();
    for id in ["0123456789abcdef", "0123", "ada", "0123456789abcdeg", "0123456789abcdef0"] {
        let output = explain(&service, id, &[]);
        unknown(&output);
        assert!(stderr(&output).contains("forgotten at a restart"), "{}", stderr(&output));
    }
    let open = service.client().get("/coffer/v1/refusals/0123456789abcdef", None);
    open.expect_refusal(401, "admin_auth_missing");
}

#[test]
fn an_admin_of_one_project_sees_no_other_projects_refusals() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let own = guest.attest_with(&client, |f| f.vmpl = 1).answer.refusal_id();
    let other = Guest::new(&simulator(Family::Genoa).asp, BASE, crate::support::host_data("elsewhere"));
    let mut record = service.record("site-9", other.host_data());
    record.project = "other".parse().unwrap();
    service.enroll(record);
    let foreign = other.attest_with(&client, |f| f.vmpl = 1).answer.refusal_id();
    let anybody = client.post("/kbs/v0/attest", None, b"{}").refusal_id();

    let dir = service.path();
    let key = dir.join("tenant.key");
    let (dir, key) = (dir.to_str().unwrap(), key.to_str().unwrap());
    let made = program(&["admin", "new-key", key]);
    assert!(made.status.success(), "{}", stderr(&made));
    let public = format!("{key}.pub");
    let added = program(&["admin", "add", "tess", "--public-key", &public, "--scopes", "read", "--project", "demo", "--dir", dir]);
    assert!(added.status.success(), "{}", stderr(&added));
    let ca = service.path().join("tls/ca.pem");
    let ask = |id: &str| {
        let access = ["--url", &service.url, "--tls-name", crate::support::TLS_NAME, "--ca", ca.to_str().unwrap(), "--admin-key", key];
        program(&[&["explain", id], &access[..]].concat())
    };
    let seen = ask(&own);
    assert!(seen.status.success(), "{}", stderr(&seen));
    let text = String::from_utf8(seen.stdout).unwrap();
    assert!(text.contains("demo/site-1"), "{text}");
    for id in [foreign.as_str(), anybody.as_str(), "0123456789abcdef"] {
        unknown(&ask(id));
    }
    // Both are there, for who runs the service.
    assert_eq!(explained(&service, &foreign)["project"], "other");
    assert_eq!(explained(&service, &anybody)["authenticated"], false);
}

#[test]
fn a_flood_from_one_address_hides_no_refusal_of_another() {
    let service = Service::simulated();
    let quiet = Raw::from(&service, "127.0.0.7").unwrap().call("GET", "/kbs/v0/resource/a/b/c", None, &[]).unwrap().refusal_id();
    let client = service.client();
    let first = client.get("/kbs/v0/resource/a/b/c", None).refusal_id();
    for _ in 0..600 {
        let (status, _, code) = client.get("/kbs/v0/resource/a/b/c", None).refusal();
        assert!(matches!((status, code.as_str()), (401, "not_attested") | (429, "rate_limited")), "{status} {code}");
    }
    // Our own commands come from the flooding address: half a second is some 25 requests of its bound.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(explained(&service, &quiet)["source"], "127.0.0.7");
    unknown(&explain(&service, &first, &[]));
}
