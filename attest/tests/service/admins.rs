//! Who may call what: scopes, tenants, and what is left of an admin who was revoked.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::{Service, host_data};
use crate::trust::{Caller, fails, json as run_json, public_half, run, told, unbounded, works};

const SCOPES: [&str; 8] = ["enroll", "revoke", "read", "policy", "collateral", "audit", "admin", "keys"];

/// Every route of admins: method, path, a body that parses, the scope it needs.
fn routes(service: &Service) -> Vec<(&'static str, String, String, &'static str)> {
    let file = service.enrollment_file(service.record("site-7", host_data("site-7")));
    let enrollment: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let reason = json!({ "reason": "test" }).to_string();
    let kid = "6_Wj_nmVPFYtU8uKQPXN66l7Gk9DxRK8aI5GObxJPz0";
    let public = fs::read_to_string(public_half(&Caller::new_key(service, "spare"))).unwrap();
    let get = |path: &str, scope| ("GET", path.to_owned(), String::new(), scope);
    vec![
        get("/coffer/v1/sites", "read"),
        get("/coffer/v1/sites/demo/site-1", "read"),
        get("/coffer/v1/revocations", "read"),
        get("/coffer/v1/revocations?after=1", "read"),
        get("/coffer/v1/revocations/export", "read"),
        get("/coffer/v1/status", "read"),
        get("/coffer/v1/policy", "read"),
        get("/coffer/v1/projects/demo/policy", "read"),
        get("/coffer/v1/refusals/0123456789abcdef", "read"),
        get("/coffer/v1/collateral", "collateral"),
        get("/coffer/v1/admins", "admin"),
        get("/coffer/v1/keys", "keys"),
        get("/coffer/v1/audit", "audit"),
        get("/coffer/v1/audit/head", "audit"),
        ("POST", "/coffer/v1/sites".into(), json!({ "accept_aml_risk": false, "enrollment": enrollment }).to_string(), "enroll"),
        ("POST", "/coffer/v1/sites/demo/site-9/revoke".into(), reason.clone(), "revoke"),
        ("POST", "/coffer/v1/sites/demo/site-9/suspend".into(), reason.clone(), "revoke"),
        ("POST", "/coffer/v1/sites/demo/site-9/resume".into(), reason.clone(), "revoke"),
        (
            "POST",
            "/coffer/v1/revocations".into(),
            json!({ "kind": "image", "value": "ab".repeat(48), "reason": "x" }).to_string(),
            "revoke",
        ),
        ("POST", "/coffer/v1/admins".into(), json!({ "name": "spare", "public_key": public, "scopes": ["admin"] }).to_string(), "admin"),
        ("POST", "/coffer/v1/admins/nobody/revoke".into(), reason.clone(), "admin"),
        ("POST", "/coffer/v1/keys/rotate".into(), json!({ "delay_seconds": 300 }).to_string(), "keys"),
        ("POST", format!("/coffer/v1/keys/{kid}/retire"), reason, "keys"),
    ]
}

#[test]
fn every_route_takes_its_own_scope_and_no_other() {
    let service = unbounded();
    service.enrolled_guest("site-1");
    let client = service.client();
    let routes = routes(&service);
    for scope in SCOPES {
        let admin = Caller::added(&service, &format!("only-{scope}"), scope, &[]);
        for (method, path, body, needs) in &routes {
            let answer = admin.call(&client, method, path, body);
            let refused = answer.status == 403 && told(&answer).1 == "admin_scope";
            assert_eq!(refused, scope != *needs, "{scope}: {method} {path} answers {}", answer.status);
        }
    }
    // What works with its scope does not work without any signature, nor for an unregistered key.
    let stranger = Caller { signer: coffer_token::admin::AdminSigner::from_random(&[9; 48]).unwrap(), key: service.path() };
    for (method, path, body, _) in &routes {
        client.send(method, path, &[], body.as_bytes()).unwrap().expect_refusal(401, "admin_auth_missing");
        stranger.call(&client, method, path, body).expect_refusal(401, "admin_auth");
    }
}

#[test]
fn an_admin_of_one_project_sees_nothing_of_another() {
    let service = Service::simulated();
    service.enrolled_guest("site-1");
    let mut foreign = service.record("site-2", host_data("site-2"));
    foreign.project = "other".parse().unwrap();
    service.enroll(foreign);
    let (client, first) = (service.client(), Caller::first(&service));
    let tom = Caller::added(&service, "tom", &SCOPES.join(","), &["--project", "demo"]);
    let same = |path: &str, absent: &str, method: &str, body: &str| {
        let (there, not) = (tom.call(&client, method, path, body), tom.call(&client, method, absent, body));
        let text =
            |answer: &crate::support::Answer| answer.json()["detail"].as_str().unwrap().replace("site-2", "SITE").replace("site-8", "SITE");
        assert_eq!((there.status, text(&there)), (not.status, text(&not)), "{path}");
        assert!(there.status >= 400, "{path}");
    };
    let reason = json!({ "reason": "test" }).to_string();
    same("/coffer/v1/sites/other/site-2", "/coffer/v1/sites/other/site-8", "GET", "");
    same("/coffer/v1/sites/other/site-2/revoke", "/coffer/v1/sites/other/site-8/revoke", "POST", &reason);
    let enroll = |site: &str| {
        let mut record = service.record(site, host_data(&format!("{site} of tom")));
        record.project = "other".parse().unwrap();
        let file: Value = serde_json::from_slice(&fs::read(service.enrollment_file(record)).unwrap()).unwrap();
        json!({ "accept_aml_risk": false, "enrollment": file }).to_string()
    };
    for site in ["site-2", "site-8"] {
        assert_eq!(told(&tom.call(&client, "POST", "/coffer/v1/sites", &enroll(site))), (403, "admin_project".to_owned()));
    }
    assert_eq!(told(&tom.call(&client, "POST", "/coffer/v1/admins/ada/revoke", &reason)), (404, "no_such_admin".to_owned()));
    assert_eq!(told(&tom.call(&client, "POST", "/coffer/v1/admins/nobody/revoke", &reason)), (404, "no_such_admin".to_owned()));
    // What is the whole service's is not a project's.
    for (method, path, body) in [
        ("GET", "/coffer/v1/status", ""),
        ("GET", "/coffer/v1/keys", ""),
        ("GET", "/coffer/v1/audit", ""),
        ("GET", "/coffer/v1/audit/head", ""),
        ("GET", "/coffer/v1/revocations/export", ""),
        ("POST", "/coffer/v1/keys/rotate", r#"{"delay_seconds":1}"#),
        ("POST", "/coffer/v1/revocations", &json!({ "kind": "image", "value": "ab".repeat(48), "reason": "x" }).to_string()),
    ] {
        assert_eq!(told(&tom.call(&client, method, path, body)), (403, "admin_project".to_owned()), "{path}");
    }
    // Lists have what is theirs and no more.
    works(&service, &["revoke", "image", &"cd".repeat(48), "--reason", "old"]);
    works(&service, &["revoke", "site", "other/site-2", "--reason", "other"]);
    let names = |answer: crate::support::Answer, of: &str| -> Vec<String> {
        answer.json().as_array().unwrap().iter().map(|item| item.pointer(of).unwrap().as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(tom.call(&client, "GET", "/coffer/v1/sites", ""), "/record/site"), ["site-1"]);
    assert_eq!(names(tom.call(&client, "GET", "/coffer/v1/admins", ""), "/name"), ["tom"]);
    let seen = tom.call(&client, "GET", "/coffer/v1/revocations", "").json();
    assert_eq!(seen["entries"].as_array().unwrap().iter().map(|entry| entry["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["image"]);
    assert_eq!(first.call(&client, "GET", "/coffer/v1/revocations", "").json()["entries"].as_array().unwrap().len(), 2);
    // At home tom does as ada does, and gives no more than he has.
    let key = Caller::new_key(&service, "tim");
    let add = |more: &[&str]| {
        let public = public_half(&key);
        tom.run(&service, &[&["admin", "add", "tim", "--public-key", public.to_str().unwrap(), "--scopes", "read"], more].concat())
    };
    fails(&add(&[]), 3, &["admin_grant", "the whole service"]);
    fails(&add(&["--project", "other"]), 3, &["admin_grant", "project `other`"]);
    assert!(add(&["--project", "demo"]).status.success());
    assert!(tom.run(&service, &["site", "revoke", "demo/site-1", "--reason", "mine"]).status.success());
}

#[test]
fn a_revoked_admin_is_refused_at_the_next_call_and_for_good() {
    let service = Service::simulated();
    let eve = Caller::added(&service, "eve", "read,audit", &[]);
    assert_eq!(fs::metadata(&eve.key).unwrap().permissions().mode() & 0o777, 0o600);
    let client = service.client();
    assert_eq!(eve.call(&client, "GET", "/coffer/v1/sites", "").status, 200);
    works(&service, &["revoke", "admin", "eve", "--reason", "left"]);
    assert_eq!(told(&eve.call(&client, "GET", "/coffer/v1/sites", "")), (403, "admin_revoked".to_owned()));
    fails(&eve.run(&service, &["site", "list"]), 3, &["admin_revoked"]);
    // Her key still signs: that it was used is on record.
    let entry: Value = works(&service, &["audit", "export"]).lines().last().map(|line| serde_json::from_str(line).unwrap()).unwrap();
    assert_eq!((entry["entry"]["code"].as_str(), entry["entry"]["id"].as_str()), (Some("admin_revoked"), Some("eve")));
    // Neither the name nor the key is given again.
    let add = |name: &str, key: &std::path::Path| {
        run(&service, &["admin", "add", name, "--public-key", public_half(key).to_str().unwrap(), "--scopes", "read"])
    };
    fails(&add("eve", &Caller::new_key(&service, "eve2")), 3, &["admin_taken", "one who is revoked"]);
    fails(&add("ewa", &eve.key), 3, &["admin_taken", "`eve`"]);
    fails(&run(&service, &["revoke", "admin", "eve", "--reason", "again"]), 3, &["already_revoked"]);
    let listed = works(&service, &["admin", "list"]);
    assert!(listed.lines().any(|line| line.starts_with("eve  revoked 20")), "{listed}");
    fails(
        &run(&service, &["admin", "add", "x", "--public-key", eve.key.to_str().unwrap(), "--scopes", "read"]),
        1,
        &["not a P-384 public key", "hint: "],
    );
    fails(&run(&service, &["admin", "add", "x", "--public-key", "x", "--scopes", "everything"]), 2, &["possible values"]);
}

#[test]
fn the_last_keeper_needs_a_successor_and_the_machines_owner_can_always_begin_again() {
    let mut service = Service::simulated();
    fails(&run(&service, &["revoke", "admin", "ada", "--reason", "left"]), 3, &["last_admin", "successor"]);
    let bob = Caller::added(&service, "bob", "admin,read", &[]);
    assert!(bob.run(&service, &["revoke", "admin", "ada", "--reason", "left"]).status.success());
    fails(&run(&service, &["site", "list"]), 3, &["admin_revoked"]);
    fails(&bob.run(&service, &["revoke", "admin", "bob", "--reason", "left"]), 3, &["last_admin"]);

    // Bob's key is stolen as well. Whoever owns the machine stops the service and begins again.
    let key = Caller::new_key(&service, "new");
    let public = public_half(&key);
    let recover =
        |service: &Service| run(service, &["admin", "recover", "new", "--public-key", public.to_str().unwrap(), "--revoke", "bob"]);
    fails(&recover(&service), 1, &["in use by another process"]);
    service.stop();
    let done = recover(&service);
    assert!(done.status.success(), "{}", crate::support::stderr(&done));
    fails(&recover(&service), 1, &["was given already"]);
    service.start();
    fails(&bob.run(&service, &["site", "list"]), 3, &["admin_revoked"]);
    fs::copy(&key, service.path().join("admin.key")).unwrap();
    assert_eq!(run_json(&service, &["revocations", "list"])["number"], 2);
    assert!(works(&service, &["admin", "list"]).contains("new  active  whole service  enroll,"));
}
