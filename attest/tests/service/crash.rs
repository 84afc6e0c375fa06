//! What a crash may cost: nothing that anybody was told.
//!
//! SIGKILL takes the process and leaves the kernel its page cache, so this shows that answers come after what they rest on and
//! that nothing is half written. That an answer also waits for the disk is shown where the disk can be held: `store::flush`.

use std::collections::HashMap;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use coffer_evidence::{Family, ReportData};
use coffer_protocol::{BoundKeys, Challenge, Jwe, KeySet, Purpose, Request, RuntimeData, TeeKey, TokenResponse, attestation_body, open};
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use crate::support::{Client, Guest, ROOT_SECRET, Service, program, random, simulator, stderr};

/// What one client was given before the service was gone.
#[derive(Default)]
struct Received {
    /// Attestations by the id in their token, and how many secrets came after each.
    secrets: HashMap<String, usize>,
    /// Challenges that were answered, and with what.
    answered: Vec<(String, Vec<u8>)>,
}

/// Attests and fetches until the service is gone.
fn keep_asking(client: &Client, guest: &Guest, site: &str, received: &Mutex<Received>) {
    while ask(client, guest, site, received).is_some() {}
}

/// One boot; none if the service has gone away in the middle.
fn ask(client: &Client, guest: &Guest, site: &str, received: &Mutex<Received>) -> Option<()> {
    let challenge = client.send("POST", "/kbs/v0/auth", &[], &Request::body(true)).ok()?;
    assert_eq!(challenge.status, 200, "{}", String::from_utf8_lossy(&challenge.body));
    let cookie = challenge.cookie?;
    let (body, tee_key) = evidence(guest, &Challenge::parse(&challenge.body).unwrap());
    let header = |cookie: &str| format!("kbs-session-id={cookie}");
    let answer = client.send("POST", "/kbs/v0/attest", &[("cookie", &header(&cookie))], &body).ok()?;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let id = token_id(&TokenResponse::parse(&answer.body).unwrap().token);
    {
        let mut received = received.lock().unwrap();
        received.secrets.insert(id.clone(), 0);
        received.answered.push((cookie, body));
    }
    for _ in 0..3 {
        let session = header(answer.cookie.as_ref()?);
        let released = client.send("GET", &guest.resource(site, ""), &[("cookie", &session)], &[]).ok()?;
        let secret = open(&Jwe::parse(&released.body).unwrap(), &tee_key).unwrap();
        assert_eq!(secret.as_slice(), ROOT_SECRET);
        *received.lock().unwrap().secrets.get_mut(&id).unwrap() += 1;
    }
    Some(())
}

fn evidence(guest: &Guest, challenge: &Challenge) -> (Vec<u8>, TeeKey) {
    let tee_key = TeeKey::from_random(&random()).unwrap();
    let bound = BoundKeys { purpose: Purpose::Boot, keys: KeySet { tls: guest.tls_key().clone(), node: None, wg: None } };
    let runtime_data = RuntimeData { nonce: challenge.nonce, tee_pubkey: tee_key.public(), coffer: Some(bound) };
    let report_data = ReportData::new(*runtime_data.report_data("").unwrap().as_bytes());
    let evidence = simulator(Family::Genoa).asp.evidence(&guest.guest, report_data).unwrap();
    (attestation_body(&runtime_data, &evidence.to_raw_value().unwrap(), "").unwrap(), tee_key)
}

fn token_id(token: &str) -> String {
    let payload = BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap();
    serde_json::from_slice::<Value>(&payload).unwrap()["jti"].as_str().unwrap().to_owned()
}

#[test]
fn after_kill_9_under_load_the_log_has_all_that_was_given_and_no_challenge_counts_again() {
    let limits = "burst_per_source = 500\nwaiting = 512\ndecisions_per_minute_per_site = 10\nburst_per_site = 60";
    let more = "burst_per_source = 100000\nwaiting = 512\ndecisions_per_minute_per_site = 100000\nburst_per_site = 100000";
    let mut service = Service::edited(limits, more);
    let guests: Vec<_> = (0..4).map(|n| (format!("site-{n}"), service.enrolled_guest(&format!("site-{n}")))).collect();
    let unanswered = service.client().post("/kbs/v0/auth", None, &Request::body(true));
    let clients: Vec<_> = guests.iter().map(|_| (service.client(), Mutex::new(Received::default()))).collect();
    thread::scope(|scope| {
        for ((client, received), (site, guest)) in clients.iter().zip(&guests) {
            scope.spawn(move || keep_asking(client, guest, site, received));
        }
        thread::sleep(Duration::from_millis(1500));
        service.kill();
    });

    service.start();
    let dir = service.path();
    let exported = program(&["audit", "export", "--dir", dir.to_str().unwrap()]);
    assert!(exported.status.success(), "{}", stderr(&exported));
    let mut recorded: HashMap<(String, String), usize> = HashMap::new();
    for line in String::from_utf8(exported.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        // An exported line is the entry, or holds it.
        let entry = line.get("entry").unwrap_or(&line);
        let word = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        *recorded.entry((word("event"), word("id"))).or_default() += 1;
    }
    let client = service.client();
    let (mut tokens, mut secrets) = (0, 0);
    for (_, received) in &clients {
        let received = received.lock().unwrap();
        for (id, count) in &received.secrets {
            assert_eq!(recorded.get(&("attest".to_owned(), id.clone())), Some(&1), "token {id} is not in the audit log");
            let released = recorded.get(&("release".to_owned(), id.clone())).copied().unwrap_or(0);
            assert!(released >= *count, "{count} secrets came after attestation {id}, the audit log has {released}");
            (tokens, secrets) = (tokens + 1, secrets + count);
        }
        for (cookie, body) in received.answered.iter().rev().take(20) {
            client.post("/kbs/v0/attest", Some(cookie), body).expect_refusal(401, "challenge_epoch");
        }
    }
    assert!(tokens >= 8 && secrets >= 8, "{tokens} tokens and {secrets} secrets are too few to show anything");
    let (body, _) = evidence(&guests[0].1, &Challenge::parse(&unanswered.body).unwrap());
    client.post("/kbs/v0/attest", unanswered.cookie.as_deref(), &body).expect_refusal(401, "challenge_epoch");

    service.stop();
    let checked = program(&["audit", "verify", "--dir", dir.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", stderr(&checked));
}
