//! Stock admin tools: `kbs-client`'s captured calls with a bearer token of ours, and every refusal of theirs.

use std::fs;

use coffer_token::UnixTime;
use coffer_token::admin::{AdminSigner, Call};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Guest, ROOT_SECRET, Service, TLS_NAME, now, program, stderr};

const RESOURCE: &str = "/kbs/v0/resource/demo/disk/key1";

/// Genoa, and one resource for one site.
fn document() -> Value {
    json!({
        "type": "coffer/project-policy/v1",
        "reference_values": {
            "families": { "genoa": { "tcb_floor": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 } } },
        },
        "stock_resources": [
            { "path": "disk/key1", "sites": ["site-1"], "writable": true },
            { "path": "disk/fixed", "sites": ["site-1"] },
        ],
    })
}

fn bearer(service: &Service, more: &[&str]) -> String {
    let dir = service.path();
    let issued = program(&[&["admin", "bearer", "--project", "demo", "--dir", dir.to_str().unwrap()], more].concat());
    assert!(issued.status.success(), "{}", stderr(&issued));
    String::from_utf8(issued.stdout).unwrap().trim().to_owned()
}

fn all(service: &Service) -> String {
    bearer(service, &["--scope", "set-resource,policy,reference-value"])
}

fn send(client: &Client, token: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    client.send(method, path, &[("authorization", &format!("Bearer {token}"))], body).unwrap()
}

/// A refusal that is told in full: code and text.
#[track_caller]
fn told(answer: &Answer, status: u16, code: &str, says: &str) {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, status, "{text}");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with(&format!("{code}: ")) && detail.contains(says), "{detail}");
}

/// Where `default` of the capture becomes our project.
fn captured() -> Option<Vec<(String, String, String)>> {
    let path = system_tests::vectors::path("kbs/real-kbs-admin-and-get.jsonl")?;
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| line["request"][name].as_str().unwrap().to_owned();
        (text("method"), text("path").replace("/resource/default/", "/resource/demo/"), text("body"))
    };
    Some(fs::read_to_string(path).unwrap().lines().map(read).collect())
}

#[test]
fn captured_admin_calls_set_what_an_attested_stock_client_then_gets() {
    let Some(calls) = captured() else { return };
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    service.set_policy(&["--project", "demo"], 0, &document());
    let (client, token) = (service.client(), all(&service));
    let session = guest.attest_as_stock(&client);
    client.get(RESOURCE, Some(session.session())).expect_refusal(404, "no_such_resource");

    let mut outcomes = Vec::new();
    for (method, path, body) in
        calls.iter().filter(|(method, path, _)| method == "POST" && !path.ends_with("/auth") && !path.ends_with("/attest"))
    {
        outcomes.push((path.as_str(), send(&client, &token, method, path, body.as_bytes()).status));
    }
    // `svn` is the sample attester's: no report has one.
    assert_eq!(outcomes, [(RESOURCE, 200), ("/kbs/v0/resource-policy", 200), ("/kbs/v0/reference-value", 400)]);

    let session = guest.attest_as_stock(&client);
    let by_cookie = client.get(RESOURCE, Some(session.session()));
    assert_eq!(session.open(&by_cookie), b"disk-key-0123456789");
    let by_token = send(&client, &session.token(), "GET", RESOURCE, &[]);
    assert_eq!(session.open(&by_token), b"disk-key-0123456789");
    // Our own guests may have it as well, and keep what is theirs.
    let own = guest.attest(&client);
    assert_eq!(own.open(&client.get(RESOURCE, Some(own.session()))), b"disk-key-0123456789");
    assert_eq!(own.open(&client.get(&guest.resource("site-1", ""), Some(own.session()))), ROOT_SECRET);
}

#[test]
fn a_stock_resource_goes_to_listed_sites_of_its_project_and_to_nobody_else() {
    let service = Service::simulated();
    let (one, two) = (service.enrolled_guest("site-1"), service.enrolled_guest("site-2"));
    let mut other = service.record("site-1", crate::support::host_data("of another project"));
    other.project = "other".parse().unwrap();
    let foreign = Guest::new(&crate::support::simulator(coffer_evidence::Family::Genoa).asp, crate::support::BASE, other.host_data);
    service.enroll(other);
    service.set_policy(&["--project", "demo"], 0, &document());
    let (client, token) = (service.client(), all(&service));
    assert_eq!(send(&client, &token, "POST", RESOURCE, b"first").status, 200);
    assert_eq!(send(&client, &token, "POST", RESOURCE, b"second").status, 200, "versioned overwrite");

    client.get(RESOURCE, None).expect_refusal(401, "not_attested");
    let session = two.attest_as_stock(&client);
    client.get(RESOURCE, Some(session.session())).expect_refusal(403, "resource_path");
    let session = foreign.attest_as_stock(&client);
    client.get(RESOURCE, Some(session.session())).expect_refusal(403, "resource_path");
    client.get("/kbs/v0/resource/other/disk/key1", Some(session.session())).expect_refusal(404, "no_such_resource");
    let session = one.attest_as_stock(&client);
    for (path, code) in
        [("demo/disk/key", "no_such_resource"), ("demo/disk/key11", "no_such_resource"), ("demo/dis/key1", "no_such_resource")]
    {
        client.get(&format!("/kbs/v0/resource/{path}"), Some(session.session())).expect_refusal(404, code);
    }
    assert_eq!(session.open(&client.get(RESOURCE, Some(session.session()))), b"second");

    // Taken from the list, and gone at the next request.
    let mut fewer = document();
    fewer["stock_resources"][0]["sites"] = json!(["site-2"]);
    service.set_policy(&["--project", "demo"], 1, &fewer);
    client.get(RESOURCE, Some(session.session())).expect_refusal(403, "resource_path");
    service.set_policy(&["--project", "demo"], 2, &document());

    assert_eq!(send(&client, &token, "DELETE", RESOURCE, &[]).status, 200);
    client.get(RESOURCE, Some(session.session())).expect_refusal(404, "no_such_resource");
    told(&send(&client, &token, "DELETE", RESOURCE, &[]), 404, "no_such_resource", "never set, or is destroyed");
    assert_eq!(send(&client, &token, "POST", RESOURCE, b"third").status, 200);
    assert_eq!(session.open(&client.get(RESOURCE, Some(session.session()))), b"third");
}

#[test]
fn set_resource_writes_only_what_the_document_lists_as_writable() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    service.set_policy(&["--project", "demo"], 0, &document());
    let (client, token) = (service.client(), all(&service));
    let own = guest.resource("site-1", "");
    let kit = guest.resource("site-1", ".kit");
    for (path, code, says) in [
        (own.as_str(), "not_writable", "64 hexadecimal digits"),
        (kit.as_str(), "not_writable", "64 hexadecimal digits"),
        ("/kbs/v0/resource/demo/disk/fixed", "not_writable", "does not list stock resource `disk/fixed` as writable"),
        ("/kbs/v0/resource/demo/disk/key2", "not_writable", "as writable"),
        ("/kbs/v0/resource/demo/disk/key", "not_writable", "as writable"),
        ("/kbs/v0/resource/other/disk/key1", "bearer_scope", "the path is of `other`"),
    ] {
        for method in ["POST", "DELETE"] {
            told(&send(&client, &token, method, path, b"x"), 403, code, says);
        }
    }
    let session = guest.attest(&client);
    assert_eq!(session.open(&client.get(&own, Some(session.session()))), ROOT_SECRET);
    let long = vec![0; (1 << 20) + 1];
    send(&client, &token, "POST", RESOURCE, &long).expect_refusal(413, "body_too_large");
}

#[test]
fn a_bearer_token_is_for_one_project_for_named_calls_and_not_for_long() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    service.set_policy(&["--project", "demo"], 0, &document());
    let client = service.client();
    let set_only = bearer(&service, &["--scope", "set-resource", "--ttl", "60"]);
    let policy_only = bearer(&service, &["--scope", "policy"]);
    let rego = json!({ "policy": BASE64URL_NOPAD.encode(b"package policy\ndefault allow := false\n") }).to_string();
    told(&send(&client, &set_only, "POST", "/kbs/v0/resource-policy", rego.as_bytes()), 403, "bearer_scope", "this call needs policy");
    told(&send(&client, &set_only, "POST", "/kbs/v0/reference-value", b"{}"), 403, "bearer_scope", "this call needs reference-value");
    told(&send(&client, &set_only, "GET", "/kbs/v0/resource-policy", &[]), 403, "bearer_scope", "this call needs policy");
    told(&send(&client, &policy_only, "POST", RESOURCE, b"x"), 403, "bearer_scope", "this call needs set-resource");

    // No other token passes as one, and it passes as no other.
    let job = guest.attest(&client);
    let stock = guest.attest_as_stock(&client);
    let admin = AdminSigner::from_pem(&fs::read_to_string(service.path().join("admin.key")).unwrap()).unwrap();
    let call = Call { audience: TLS_NAME, method: "POST", path: RESOURCE, body: b"x" };
    let signed = admin.sign(&call, "1", UnixTime(now()), 60).unwrap();
    for token in [job.token().as_str(), stock.token().as_str(), signed.as_str(), "", "a.b.c"] {
        let (status, _, code) = send(&client, token, "POST", RESOURCE, b"x").refusal();
        assert!(status == 401 && matches!(code.as_str(), "admin_auth" | "admin_auth_missing"), "{status} {code}");
    }
    client.post(RESOURCE, None, b"x").expect_refusal(401, "admin_auth_missing");
    send(&client, &set_only, "GET", RESOURCE, &[]).expect_refusal(401, "token");
    send(&client, &set_only, "GET", "/coffer/v1/sites", &[]).expect_refusal(401, "admin_auth");

    // An hour at most, by our command and by the service.
    let dir = service.path();
    let long = program(&["admin", "bearer", "--project", "demo", "--scope", "policy", "--ttl", "3601", "--dir", dir.to_str().unwrap()]);
    assert_eq!(long.status.code(), Some(2), "{}", stderr(&long));
    let path = "/coffer/v1/projects/demo/bearer";
    for (n, body) in [json!({ "scopes": ["policy"], "ttl_seconds": 3601 }), json!({ "scopes": [], "ttl_seconds": 60 })].iter().enumerate() {
        let body = body.to_string();
        let call = Call { audience: TLS_NAME, method: "POST", path, body: body.as_bytes() };
        let token = admin.sign(&call, &format!("long-{n}"), UnixTime(now()), 60).unwrap();
        told(&send(&client, &token, "POST", path, body.as_bytes()), 400, "malformed", "lives 1 to 3600 seconds");
    }
    let brief = bearer(&service, &["--scope", "set-resource", "--ttl", "1"]);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    send(&client, &brief, "POST", RESOURCE, b"x").expect_refusal(401, "admin_auth");
}

#[test]
fn a_bearer_token_is_revoked_with_the_admin_who_asked_for_it() {
    let service = Service::simulated();
    service.set_policy(&["--project", "demo"], 0, &document());
    let key = service.path().join("bob.key");
    assert!(program(&["admin", "new-key", key.to_str().unwrap()]).status.success());
    let (dir, public) = (service.path(), format!("{}.pub", key.display()));
    let dir = dir.to_str().unwrap();
    let added = program(&["admin", "add", "bob", "--public-key", &public, "--scopes", "policy", "--project", "demo", "--dir", dir]);
    assert!(added.status.success(), "{}", stderr(&added));
    let ca = service.path().join("tls/ca.pem");
    let as_bob = |project: &str| {
        let access = ["--url", &service.url, "--tls-name", TLS_NAME, "--ca", ca.to_str().unwrap(), "--admin-key", key.to_str().unwrap()];
        program(&[&["admin", "bearer", "--project", project, "--scope", "set-resource"], &access[..]].concat())
    };
    let foreign = as_bob("other");
    assert_eq!(foreign.status.code(), Some(3), "{}", stderr(&foreign));
    let token = String::from_utf8(as_bob("demo").stdout).unwrap().trim().to_owned();
    let client = service.client();
    assert_eq!(send(&client, &token, "POST", RESOURCE, b"x").status, 200);
    let revoked = program(&["revoke", "admin", "bob", "--reason", "left", "--dir", dir]);
    assert!(revoked.status.success(), "{}", stderr(&revoked));
    told(&send(&client, &token, "POST", RESOURCE, b"y"), 403, "admin_revoked", "admin `bob` was revoked");
}

#[test]
fn a_stock_resource_policy_narrows_and_every_other_form_is_told_what_to_send() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    service.set_policy(&["--project", "demo"], 0, &document());
    let (client, token) = (service.client(), all(&service));
    assert_eq!(send(&client, &token, "POST", RESOURCE, b"s").status, 200);
    let policy = |text: &str| {
        let body = json!({ "policy": BASE64URL_NOPAD.encode(text.as_bytes()) }).to_string();
        send(&client, &token, "POST", "/kbs/v0/resource-policy", body.as_bytes())
    };
    let attestation = |kind: &str, id: &str, text: &str| {
        let body = json!({ "type": kind, "policy_id": id, "policy": BASE64URL_NOPAD.encode(text.as_bytes()) }).to_string();
        send(&client, &token, "POST", "/kbs/v0/attestation-policy", body.as_bytes())
    };
    assert_eq!(send(&client, &token, "GET", "/kbs/v0/resource-policy", &[]).json(), json!([]));
    let session = guest.attest_as_stock(&client);
    let get = || client.get(RESOURCE, Some(session.session()));
    assert_eq!(get().status, 200);

    // In the stock service's own words, with its input and its data.
    let affirming = "package policy\nimport rego.v1\ndefault allow = false\nallow if {\n  data[\"resource-path\"][1] == \"disk\"\n  \
                     input.submods.cpu0[\"ear.status\"] == \"affirming\"\n  \
                     input.submods.cpu0[\"ear.veraison.annotated-evidence\"].snp.policy_debug_allowed == false\n}\n";
    assert_eq!(policy(affirming).status, 200);
    assert_eq!(get().status, 200);
    assert_eq!(policy(&affirming.replace("\"disk\"", "\"other\"")).status, 200);
    get().expect_refusal(403, "policy");
    assert_eq!(policy("package policy\ndefault allow = false\n").status, 200);
    get().expect_refusal(403, "policy");
    // It is asked about stock resources only.
    assert_eq!(client.get(&guest.resource("site-1", ""), Some(session.session())).status, 200);
    assert_eq!(send(&client, &token, "GET", "/kbs/v0/resource-policy", &[]).json(), json!(["resource-policy"]));

    // Our own form, where the built-in one is asked too.
    assert_eq!(policy("package coffer.release\ndefault allow := false\n").status, 200);
    client.get(&guest.resource("site-1", ""), Some(session.session())).expect_refusal(403, "policy");
    assert_eq!(attestation("rego", "default_cpu", "package coffer.token\ndefault allow := false\n").status, 200);
    guest.attest_as_stock(&client).answer.expect_refusal(403, "policy");

    told(&policy("package policy\ndefault allow = true\n"), 400, "policy_document", "does not deny the empty input");
    told(&policy("package other\n"), 400, "stock_form", "send `package policy`");
    told(&policy("allow := true\n"), 400, "stock_form", "package `(none)`");
    told(&send(&client, &token, "POST", "/kbs/v0/resource-policy", b"{\"policy\":\"*\"}"), 400, "stock_form", "base64url");
    told(&send(&client, &token, "POST", "/kbs/v0/resource-policy", b"nonsense"), 400, "stock_form", "");
    let trust = "package policy\ntrust_claims := {\"executables\": 3}\n";
    told(&attestation("rego", "default_cpu", trust), 400, "stock_form", "`reference_values`");
    told(&attestation("rego", "default_gpu", trust), 400, "stock_form", "`default_cpu`");
    told(&attestation("cel", "default_cpu", trust), 400, "stock_form", "type `rego`");
}

#[test]
fn stock_reference_values_are_exact_lists_that_narrow() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    service.set_policy(&["--project", "demo"], 0, &document());
    let (client, token) = (service.client(), all(&service));
    let register = |value: &Value| {
        let payload = BASE64.encode(value.to_string().as_bytes());
        let body = json!({ "version": "0.1.0", "type": "sample", "payload": payload }).to_string();
        send(&client, &token, "POST", "/kbs/v0/reference-value", body.as_bytes())
    };
    let query = |name: &str| send(&client, &token, "GET", &format!("/kbs/v0/reference-value/{name}"), &[]);
    assert_eq!(register(&json!({ "snp_bootloader": [10], "snp_smt_enabled": true })).status, 200);
    guest.attest(&client).token();
    assert_eq!(query("snp_bootloader").json(), json!([10]));
    assert_eq!(register(&json!({ "snp_bootloader": [11] })).status, 200);
    guest.attest(&client).answer.expect_refusal(403, "stock_reference_value");
    assert_eq!(query("snp_smt_enabled").json(), json!([true]), "the other list stays");
    told(&query("svn"), 404, "no_such_policy", "`svn`");
    told(&register(&json!({ "svn": ["1"] })), 400, "stock_form", "lists under snp_launch_measurement, snp_bootloader");
    told(&register(&json!({ "snp_bootloader": [] })), 400, "stock_form", "lists 0 values");

    // A whole document under its own name.
    assert_eq!(register(&json!({ "coffer/project-policy/v1": document() })).status, 200);
    guest.attest(&client).token();
    assert_eq!(query("coffer/project-policy/v1").json()["stock_resources"][0]["path"], "disk/key1");
    let mut later = document();
    later["type"] = json!("coffer/project-policy/v2");
    told(&register(&json!({ "coffer/project-policy/v1": later })), 400, "policy_document", "this build reads");
    let history = service.policy(&["history", "--project", "demo"]);
    let text = String::from_utf8(history.stdout).unwrap();
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.contains("ada (bearer "), "{text}");
}
