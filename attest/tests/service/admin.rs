//! Admin calls: signed by a registered key, over this very request, once, and not for long.

use std::fs;

use coffer_token::UnixTime;
use coffer_token::admin::{AdminSigner, Call};
use serde_json::json;

use crate::support::{Answer, Client, Service, TLS_NAME, host_data, now};

const SITES: &str = "/coffer/v1/sites";

fn signer(service: &Service) -> AdminSigner {
    AdminSigner::from_pem(&fs::read_to_string(service.path().join("admin.key")).unwrap()).unwrap()
}

fn send(client: &Client, token: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    client.send(method, path, &[("authorization", &format!("Bearer {token}"))], body).unwrap()
}

#[test]
fn a_call_counts_only_as_it_was_signed() {
    let service = Service::simulated();
    let (client, admin) = (service.client(), signer(&service));
    let call = |audience, method, path, body| Call { audience, method, path, body };
    let sign = |call: &Call<'_>, at: u64, id: &str| admin.sign(call, id, UnixTime(at), 60).unwrap();
    let list = call(TLS_NAME, "GET", SITES, &b""[..]);

    client.get(SITES, None).expect_refusal(401, "admin_auth_missing");
    send(&client, "", "GET", SITES, &[]).expect_refusal(401, "admin_auth_missing");
    send(&client, "a.b.c", "GET", SITES, &[]).expect_refusal(401, "admin_auth");
    send(&client, &sign(&list, now() - 100, "1"), "GET", SITES, &[]).expect_refusal(401, "admin_auth");
    send(&client, &sign(&list, now() + 100, "2"), "GET", SITES, &[]).expect_refusal(401, "admin_auth");
    for (n, other) in [
        call("attest.other.test", "GET", SITES, b""),
        call(TLS_NAME, "POST", SITES, b""),
        call(TLS_NAME, "GET", "/coffer/v1/sites/demo/site-1", b""),
        call(TLS_NAME, "GET", "/coffer/v1/sites?all", b""),
        call(TLS_NAME, "GET", SITES, b"{}"),
    ]
    .iter()
    .enumerate()
    {
        send(&client, &sign(other, now(), &format!("other-{n}")), "GET", SITES, &[]).expect_refusal(401, "admin_auth");
    }
    let stranger = AdminSigner::from_random(&[9; 48]).unwrap();
    let forged = stranger.sign(&list, "3", UnixTime(now()), 60).unwrap();
    send(&client, &forged, "GET", SITES, &[]).expect_refusal(401, "admin_auth");

    let good = sign(&list, now(), "4");
    assert_eq!(send(&client, &good, "GET", SITES, &[]).status, 200);
    send(&client, &good, "GET", SITES, &[]).expect_refusal(401, "admin_replay");
}

#[test]
fn a_call_for_one_site_does_not_move_to_another() {
    let service = Service::simulated();
    service.enrolled_guest("site-1");
    service.enrolled_guest("site-2");
    let (client, admin) = (service.client(), signer(&service));
    let body = json!({ "reason": "test" }).to_string();
    let path = "/coffer/v1/sites/demo/site-1/revoke";
    let token = admin.sign(&Call { audience: TLS_NAME, method: "POST", path, body: body.as_bytes() }, "1", UnixTime(now()), 60).unwrap();
    let elsewhere = "/coffer/v1/sites/demo/site-2/revoke";
    send(&client, &token, "POST", elsewhere, body.as_bytes()).expect_refusal(401, "admin_auth");
    let longer = json!({ "reason": "another" }).to_string();
    send(&client, &token, "POST", path, longer.as_bytes()).expect_refusal(401, "admin_auth");
    assert_eq!(send(&client, &token, "POST", path, body.as_bytes()).status, 200);
    assert_eq!(service.show("demo/site-2")["configs"][0]["standing"], "active");
    assert_eq!(service.show("demo/site-1")["configs"][0]["standing"], "revoked");
}

#[test]
fn an_enrollment_that_does_not_parse_is_not_quoted() {
    let service = Service::simulated();
    let (client, admin) = (service.client(), signer(&service));
    let secret = "5e".repeat(32);
    let record = serde_json::to_value(service.record("site-1", host_data("site-1"))).unwrap();
    for (n, enrollment) in [
        json!({ "record": record, "secrets": secret }),
        json!({ "record": secret, "secrets": { "root": "" } }),
        json!({ "record": record, "secrets": { "root": secret, "more": secret } }),
        json!({ "record": record, "secrets": { "root": &secret[1..] } }),
        json!(secret),
    ]
    .iter()
    .enumerate()
    {
        let body = json!({ "accept_aml_risk": false, "enrollment": enrollment }).to_string();
        let call = Call { audience: TLS_NAME, method: "POST", path: SITES, body: body.as_bytes() };
        let token = admin.sign(&call, &format!("bad-{n}"), UnixTime(now()), 60).unwrap();
        let answer = send(&client, &token, "POST", SITES, body.as_bytes());
        let text = String::from_utf8(answer.body.clone()).unwrap();
        assert_eq!(answer.status, 400, "{text}");
        assert!(text.contains("malformed") && !text.contains(&secret[..16]), "{text}");
    }
    assert!(!service.log().contains(&secret[..16]));
}
