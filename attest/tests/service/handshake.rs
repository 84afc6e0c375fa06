//! What must work: a guest proves itself and gets its secrets and a token that a gate can check.

use coffer_token::{Expectation, Jkt, Jwks, Usage, check};

use crate::support::{KIT_KEY, ROOT_SECRET, Service, TLS_NAME, now};

fn keys(service: &Service) -> Jwks {
    Jwks::parse(&service.client().get("/.well-known/jwks.json", None).body).unwrap()
}

#[test]
fn a_guest_gets_its_secrets_and_a_bound_job_token() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    client.get(&guest.resource("site-1", ""), None).expect_refusal(401, "not_attested");

    let handshake = guest.attest(&client);
    let root = client.get(&guest.resource("site-1", ""), Some(handshake.session()));
    assert_eq!(handshake.open(&root), ROOT_SECRET);
    let kit = client.get(&guest.resource("site-1", ".kit"), Some(handshake.session()));
    assert_eq!(handshake.open(&kit), KIT_KEY);

    let jkt = Jkt::of_ec_point("P-384", &guest.tls_key().to_sec1()).expect("a point");
    let root_of_trust = service.root_of_trust.to_string();
    let issuer = format!("https://{TLS_NAME}");
    let usage = Usage::Job { project: "demo", role: "client", peer: jkt };
    let expected = Expectation { issuer: &issuer, audience: "coffer", root_of_trust: &root_of_trust, usage };
    let checked = check(&handshake.token(), &keys(&service), &expected, coffer_token::UnixTime(now())).unwrap();
    let claims = checked.claims();
    let coffer = claims.coffer();
    assert_eq!((coffer.site.as_str(), coffer.purpose.as_str(), coffer.family.as_str()), ("site-1", "boot", "genoa"));
    assert_eq!(coffer.host_data.0, *guest.host_data().as_bytes());
    assert_eq!(coffer.launch_digest.0, *guest.guest.launch_digest.as_bytes());
    assert_eq!(coffer.instance.0, *guest.guest.report_id.as_bytes());
    assert_eq!(claims.expires_at().0 - claims.issued_at().0, 300);
    assert!(claims.tee_pubkey().is_none());

    let shown = service.show("demo/site-1");
    let events: Vec<_> = shown["decisions"].as_array().unwrap().iter().map(|d| d["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["release", "release", "attest", "enroll"]);
}

#[test]
fn a_job_token_is_no_bearer_token_and_a_stock_token_no_job_token() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let path = guest.resource("site-1", "");
    let job = guest.attest(&client);
    let bearer = |token: &str| client.send("GET", &path, &[("authorization", &format!("Bearer {token}"))], &[]).unwrap();
    bearer(&job.token()).expect_refusal(401, "token");

    let stock = guest.attest_as_stock(&client);
    assert_eq!(stock.open(&bearer(&stock.token())), ROOT_SECRET);
    let jkt = Jkt::of_ec_point("P-384", &guest.tls_key().to_sec1()).expect("a point");
    let root_of_trust = service.root_of_trust.to_string();
    let issuer = format!("https://{TLS_NAME}");
    let usage = Usage::Job { project: "demo", role: "client", peer: jkt };
    let expected = Expectation { issuer: &issuer, audience: "coffer", root_of_trust: &root_of_trust, usage };
    let refused = check(&stock.token(), &keys(&service), &expected, coffer_token::UnixTime(now())).unwrap_err();
    assert!(refused.to_string().contains("expected `coffer-job+jwt`"), "{refused}");
}

#[test]
fn after_attestation_missing_is_404_and_foreign_is_403() {
    let service = Service::simulated();
    let (guest, other) = (service.enrolled_guest("site-1"), service.enrolled_guest("site-2"));
    let client = service.client();
    let session = guest.attest(&client);
    for (path, status, code) in [
        (other.resource("site-2", ""), 403, "resource_path"),
        (other.resource("site-1", ""), 403, "resource_path"),
        (guest.resource("site-2", ""), 403, "resource_path"),
        (guest.resource("site-1", "").replace("/demo/", "/other/"), 403, "resource_path"),
        (guest.resource("site-1", ".other"), 404, "no_such_resource"),
        ("/kbs/v0/resource/default/disk/key1".to_owned(), 403, "resource_path"),
        ("/kbs/v0/resource/demo/site-1/%ff".to_owned(), 404, "no_such_resource"),
        (guest.resource("site-1", "").replace("demo/site-1", "x/demo%2Fsite-1"), 404, "no_such_resource"),
        (guest.resource("site-1", "%2E%2E"), 404, "no_such_resource"),
        (
            guest.resource("site-1", "").to_uppercase().replace("/KBS/V0/RESOURCE/DEMO/SITE-1", "/kbs/v0/resource/demo/site-1"),
            404,
            "no_such_resource",
        ),
        ("/kbs/v0/resource/demo/site-1".to_owned(), 404, "no_such_path"),
    ] {
        let answer = client.get(&path, Some(session.session()));
        answer.expect_refusal(status, code);
        // Every refusal of an attested guest is in the log of its own site, whatever it asked for.
        if code != "no_such_path" {
            let entry = service.last_decision("demo/site-1");
            assert_eq!((entry["code"].as_str(), entry["id"].as_str()), (Some(code), Some(answer.refusal_id().as_str())), "{path}");
        }
    }
}

#[test]
fn what_a_client_cannot_speak_is_refused_by_name() {
    let service = Service::simulated();
    let client = service.client();
    for (body, code) in [
        (r#"{"version":"0.2.0","tee":"snp","extra-params":""}"#, "protocol_version"),
        (r#"{"version":"0.5.0","tee":"snp","extra-params":""}"#, "protocol_version"),
        (r#"{"version":"0.4.0","tee":"tdx","extra-params":""}"#, "tee"),
        (r#"{"version":"0.4.0","tee":"sample","extra-params":""}"#, "tee"),
        (r#"{"version":"0.4.0","tee":"snp","extra-params":{"coffer":2}}"#, "coffer_version"),
        (r#"{"version":"0.4.0","tee":"snp","extra-params":{"supported-hash-algorithms":["sha512"]}}"#, "hash_algorithm"),
        (r#"{"version":"0.4.0","tee":"snp","extra-params":"","more":1}"#, "malformed"),
        ("", "malformed"),
    ] {
        client.post("/kbs/v0/auth", None, body.as_bytes()).expect_refusal(400, code);
    }
    client.post("/kbs/v0/auth", None, &vec![b' '; 9000]).expect_refusal(413, "body_too_large");
    client.send("PUT", "/kbs/v0/resource/demo/site-1/x", &[], b"secret").unwrap().expect_refusal(405, "no_such_method");
    client.post("/kbs/v0/other-plugin", None, b"{}").expect_refusal(404, "no_such_path");
    client.get("/kbs/v0/auth", None).expect_refusal(405, "no_such_method");
    assert_eq!(client.get("/healthz", None).json()["status"], "ok");
}

/// Clients bound what they read of a header; stock jars keep 4096 bytes of a cookie.
#[test]
fn a_session_fits_a_cookie() {
    let service = Service::simulated();
    let guest = service.enrolled_guest(&"s".repeat(63));
    let handshake = guest.attest(&service.client());
    assert!(handshake.session().len() < 3800, "{}", handshake.session().len());
}
