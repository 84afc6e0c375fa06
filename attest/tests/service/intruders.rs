//! Who wants what is not theirs: strangers, guests of another tenant, admins of one project, tokens for one thing.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use coffer_evidence::{ChipId, Family, LaunchDigest};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Guest, ROOT_SECRET, Raw, Service, TLS_NAME, simulator};
use crate::trust::{Caller, told, unbounded, works};

fn document() -> Value {
    json!({
        "type": "coffer/project-policy/v1",
        "reference_values": {
            "families": { "genoa": { "tcb_floor": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 } } },
        },
        "stock_resources": [{ "path": "disk/key1", "sites": ["site-1"], "writable": true }],
    })
}

fn bearer(service: &Service, scope: &str) -> String {
    works(service, &["admin", "bearer", "--project", "demo", "--scope", scope]).trim().to_owned()
}

fn with_token(client: &Client, token: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    client.send(method, path, &[("authorization", &format!("Bearer {token}"))], body).unwrap()
}

/// Entries of the audit log.
fn recorded(service: &Service, admin: &Caller) -> u64 {
    admin.call(&service.client(), "GET", "/coffer/v1/status", "").json()["audit"]["seq"].as_u64().unwrap()
}

#[test]
fn a_processor_that_hides_its_name_cannot_silence_the_site_it_names() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    // Genuine hardware in a stranger's hands: any HOST_DATA, its own image, no chip id.
    let stranger = Guest::new(&simulator(Family::Genoa).asp, LaunchDigest::new([0xEE; 48]), guest.host_data());
    let codes: Vec<String> =
        (0..70).map(|_| stranger.attest_with(&client, |fields| fields.chip_id = ChipId::new([0; 64])).answer.refusal().2).collect();
    assert_eq!(codes[0], "masked_chip", "{codes:?}");
    assert_eq!(codes[69], "site_rate", "the stranger itself is bounded: {codes:?}");
    let own = guest.attest(&client);
    assert_eq!(own.open(&client.get(&guest.resource("site-1", ""), Some(own.session()))), ROOT_SECRET);
}

#[test]
fn no_way_of_writing_a_path_leads_to_anothers_secret() {
    let service = Service::simulated();
    let (guest, other) = (service.enrolled_guest("site-1"), service.enrolled_guest("site-2"));
    let client = service.client();
    let own = guest.attest(&client);
    let (mine, theirs) = (guest.host_data(), other.host_data());
    let before = service.show("demo/site-2");
    for path in [
        format!("demo/site-2/{theirs}"),
        format!("demo/site%2D2/{theirs}"),
        format!("demo/site-1%2F..%2Fsite-2/{theirs}"),
        format!("demo/site-1/{mine}%2F..%2F..%2Fsite-2%2F{theirs}"),
        format!("demo/site-2/{theirs}%00"),
        format!("demo/site-2/{theirs}.root"),
        format!("demo/site-2/{}", theirs.to_string().to_uppercase()),
        format!("demo%2Fsite-2/{theirs}/x"),
        format!("%2e%2e/site-2/{theirs}"),
        format!("demo/site-2/{theirs}?x={mine}"),
        format!("demo/site-2/{mine}"),
        format!("other/site-1/{mine}"),
        "%1b%5D0%3Bx/disk/key1".to_owned(),
        "demo/%ff/key1".to_owned(),
    ] {
        let answer = client.get(&format!("/kbs/v0/resource/{path}"), Some(own.session()));
        assert!(matches!(answer.status, 403 | 404), "{path}: {}", answer.status);
        answer.refusal();
    }
    assert_eq!(service.show("demo/site-2")["decisions"], before["decisions"], "nothing of it is in the other site's records");
    assert_eq!(own.open(&client.get(&guest.resource("site-1", ""), Some(own.session()))), ROOT_SECRET);
}

#[test]
fn a_tenants_admin_writes_nothing_into_anothers_records() {
    let service = unbounded();
    service.enrolled_guest("site-1");
    let client = service.client();
    let eve = Caller::added(&service, "eve", "revoke,read", &["--project", "other"]);
    let before = service.show("demo/site-1");
    for _ in 0..60 {
        let answer = eve.call(&client, "POST", "/coffer/v1/sites/demo/site-1/revoke", &json!({ "reason": "mine now" }).to_string());
        assert_eq!(told(&answer).1, "not_active");
    }
    assert_eq!(service.show("demo/site-1"), before);
    // It is in the log all the same, as what eve's own project has to answer for.
    let log = works(&service, &["audit", "export"]);
    let line = log.lines().rfind(|line| line.contains("not_active")).unwrap();
    assert!(line.contains("\"project\":\"other\"") && line.contains("demo/site-1"), "{line}");
}

#[test]
fn a_revoked_admins_calls_do_not_fill_the_log() {
    let service = unbounded_but_for_sites();
    let client = service.client();
    let (ada, mallory) = (Caller::first(&service), Caller::added(&service, "mallory", "read", &[]));
    works(&service, &["revoke", "admin", "mallory", "--reason", "left"]);
    let before = recorded(&service, &ada);
    let codes: Vec<String> = (0..100)
        .map(|_| {
            let answer = mallory.call(&client, "GET", "/coffer/v1/sites", "");
            answer.json()["detail"].as_str().unwrap().split(':').next().unwrap().to_owned()
        })
        .collect();
    assert_eq!((codes[0].as_str(), codes[99].as_str()), ("admin_revoked", "site_rate"));
    let grown = recorded(&service, &ada) - before;
    assert!(grown < 80, "{grown} entries");
}

fn unbounded_but_for_sites() -> Service {
    Service::edited("burst_per_source = 500", "burst_per_source = 100000")
}

#[test]
fn a_stranger_has_no_megabytes_read() {
    let service = Service::simulated();
    let mut raw = Raw::connect(&service);
    let head = format!(
        "POST /coffer/v1/collateral HTTP/1.1\r\nhost: {TLS_NAME}\r\nauthorization: Bearer e30.e30.e30\r\ncontent-length: 4000000\r\n\r\n"
    );
    raw.write(head.as_bytes());
    raw.write(&[b'x'; 1000]);
    // Not `slow`, which is what it would hear in the end.
    raw.read().expect("an answer before the body is there").expect_refusal(401, "admin_auth");
}

#[test]
fn a_call_is_signed_with_its_body_whatever_is_read_first() {
    let service = Service::simulated();
    let (client, ada) = (service.client(), Caller::first(&service));
    let call =
        coffer_token::admin::Call { audience: TLS_NAME, method: "POST", path: "/coffer/v1/keys/rotate", body: b"{\"delay_seconds\":300}" };
    let token = ada.signer.sign(&call, "one-call", coffer_token::UnixTime(crate::support::now()), 60).unwrap();
    with_token(&client, &token, "POST", call.path, b"{\"delay_seconds\":0}").expect_refusal(401, "admin_auth");
    with_token(&client, &token, "POST", call.path, b"").expect_refusal(401, "admin_auth");
    with_token(&client, &token, "POST", "/coffer/v1/keys/x/retire", call.body).expect_refusal(401, "admin_auth");
    assert_eq!(with_token(&client, &token, "POST", call.path, call.body).status, 201);
    with_token(&client, &token, "POST", call.path, call.body).expect_refusal(401, "admin_replay");
}

#[test]
fn a_peer_that_does_not_read_loses_its_place() {
    let service = Service::edited("burst_per_source = 500", "burst_per_source = 1000000");
    let mut raw = Raw::connect(&service);
    raw.give_up_writing_after(Duration::from_secs(40));
    // Asks for more than any buffer on the way holds, and reads none of it.
    let ask = format!("GET /.well-known/jwks.json HTTP/1.1\r\nhost: {TLS_NAME}\r\n\r\n").repeat(400);
    let begun = Instant::now();
    let ended = loop {
        if let Err(ended) = raw.try_write(ask.as_bytes()) {
            break ended;
        }
    };
    assert!(matches!(ended.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "it is the service that hangs up: {ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(35), "{:?}", begun.elapsed());
}

#[test]
fn who_tries_anothers_policy_to_death_stops_their_own_trial_only() {
    let service = Service::simulated();
    service.enrolled_guest("site-1");
    let guest = service.enrolled_guest("site-2");
    let doubled: String = (1..=40).map(|n| format!("x{n} := concat(\"\", [x{0}, x{0}])\n", n - 1)).collect();
    let text = format!(
        "package coffer.token\ndefault allow := false\nx0 := input.seed\n{doubled}allow if input.evidence.family == \"genoa\"\n\
         allow if count(x40) > 3\n"
    );
    let mut shared = document();
    shared["rego"] = json!({ "token": text });
    service.set_policy(&["--project", "demo"], 0, &shared);
    let (client, eve) = (service.client(), Caller::added(&service, "eve", "policy", &["--project", "other"]));
    shared["rego"]["fixtures"] = json!([{ "question": "token", "input": { "seed": "aaaaaaaa" }, "allow": true }]);
    let body = json!({ "replaces": 0, "reason": "test", "document": shared }).to_string();
    let tried = eve.call(&client, "POST", "/coffer/v1/projects/other/policy", &body);
    assert_eq!(told(&tried), (400, "policy_document".to_owned()));
    let why = tried.json()["detail"].as_str().unwrap().to_owned();
    assert!(why.contains("the evaluator ended") || why.contains("no answer within"), "{why}");
    guest.attest(&client).token();
}

#[test]
fn a_bearer_token_for_values_changes_neither_rego_nor_who_gets_what() {
    let service = Service::simulated();
    let rego = "package coffer.release\ndefault allow := false\nallow if input.evidence.family == \"genoa\"\n";
    let mut narrow = document();
    narrow["rego"] = json!({ "release": rego });
    service.set_policy(&["--project", "demo"], 0, &narrow);
    let (client, values, both) = (service.client(), bearer(&service, "reference-value"), bearer(&service, "reference-value,policy"));
    let send = |token: &str, document: &Value| {
        let payload = BASE64.encode(json!({ "coffer/project-policy/v1": document }).to_string().as_bytes());
        let body = json!({ "version": "0.1.0", "type": "sample", "payload": payload }).to_string();
        with_token(&client, token, "POST", "/kbs/v0/reference-value", body.as_bytes())
    };
    let mut wider = narrow.clone();
    wider["rego"] = json!({});
    assert_eq!(told(&send(&values, &wider)), (403, "bearer_scope".to_owned()));
    let mut wider = narrow.clone();
    wider["stock_resources"][0]["sites"] = json!(["site-1", "site-2"]);
    assert_eq!(told(&send(&values, &wider)), (403, "bearer_scope".to_owned()));
    let mut higher = narrow.clone();
    higher["reference_values"]["families"]["genoa"]["tcb_floor"]["snp"] = json!(24);
    let answer = send(&values, &higher);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(send(&both, &wider).status, 200);
}

#[test]
fn no_token_of_one_kind_opens_what_is_anothers() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    service.set_policy(&["--project", "demo"], 0, &document());
    let client = service.client();
    let (job, kbs, admin) =
        (guest.attest(&client).token(), guest.attest_as_stock(&client).token(), bearer(&service, "set-resource,policy"));
    let resource = guest.resource("site-1", "");
    for token in [&job, &admin] {
        with_token(&client, token, "GET", &resource, b"").expect_refusal(401, "token");
    }
    for token in [&job, &kbs] {
        with_token(&client, token, "POST", "/kbs/v0/resource/demo/disk/key1", b"mine").expect_refusal(401, "admin_auth");
    }
    for token in [&job, &kbs, &admin] {
        with_token(&client, token, "GET", "/coffer/v1/sites", b"").expect_refusal(401, "admin_auth");
    }
    // Nor what another header says: no algorithm, another type, another key.
    for header in [
        json!({ "alg": "none", "typ": "coffer-admin-bearer+jwt", "kid": "x" }),
        json!({ "alg": "HS256", "typ": "coffer-admin-bearer+jwt", "kid": "x" }),
        json!({ "alg": "ES256", "typ": "coffer-admin-bearer+jwt", "kid": "../../x" }),
    ] {
        let (_, rest) = admin.split_once('.').unwrap();
        let forged = format!("{}.{rest}", BASE64URL_NOPAD.encode(header.to_string().as_bytes()));
        with_token(&client, &forged, "POST", "/kbs/v0/resource/demo/disk/key1", b"mine").expect_refusal(401, "admin_auth");
    }
}

#[test]
fn a_session_ends_with_the_lists_and_the_rego_that_let_it_in() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    service.set_policy(&["--project", "demo"], 0, &document());
    let client = service.client();
    let open = guest.attest(&client);
    assert_eq!(client.get(&guest.resource("site-1", ""), Some(open.session())).status, 200);
    let mut other = document();
    other["rego"] = json!({ "token": "package coffer.token\ndefault allow := false\nallow if input.evidence.family == \"turin\"\n" });
    service.set_policy(&["--project", "demo"], 1, &other);
    client.get(&guest.resource("site-1", ""), Some(open.session())).expect_refusal(401, "values_changed");
    guest.attest(&client).answer.expect_refusal(403, "policy");
}

#[test]
fn a_dry_run_ends_and_there_is_one_at_a_time() {
    let service = Service::edited("burst_per_site = 60", "burst_per_site = 1000");
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    for _ in 0..150 {
        guest.attest(&client).token();
    }
    // Compares all pairs of a long list, as long as a decision may take, for a guest of this site; the questions at upload it answers at once.
    let slow = format!(
        "package coffer.token\ndefault allow := false\nn := split(sprintf(\"%4000d\", [1]), \"\")\nallow if {{\n input.evidence.host_data == \"{}\"\n \
         count([1 | some a in n; some b in n; a == b]) > 3\n}}\n",
        guest.host_data()
    );
    let mut document = document();
    document["rego"] = json!({ "token": slow });
    let body = json!({ "last": 10_000, "document": document }).to_string();
    let tom = Caller::added(&service, "tom", "policy", &["--project", "demo"]);
    let begun = Instant::now();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let call = || tom.call(&service.client(), "POST", "/coffer/v1/projects/demo/policy/dry-run", &body);
        let all: Vec<_> = (0..8).map(|_| scope.spawn(call)).collect();
        std::thread::sleep(Duration::from_millis(500));
        let waited = Instant::now();
        guest.attest(&client).token();
        assert!(waited.elapsed() < Duration::from_secs(5), "a guest waited {:?}", waited.elapsed());
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    let one = answers.iter().find(|answer| answer.status == 200).unwrap().json();
    let count = |name: &str| one[name].as_u64().unwrap();
    assert!(count("made_again") > 0 && count("left_out") > 0 && count("made_again") + count("left_out") == 150, "{one}");
    let done = answers.iter().filter(|answer| answer.status == 200).count();
    let busy = answers.iter().filter(|answer| answer.status == 503).count();
    assert!(done >= 1 && busy >= 1 && done + busy == 8, "{done} done, {busy} busy");
    guest.attest(&client).token();
}
