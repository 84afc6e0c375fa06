//! What lasts and what does not; and where secrets are not.

use std::fs;
use std::path::Path;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

use crate::support::{KIT_KEY, ROOT_SECRET, Service};

#[test]
fn a_restart_ends_sessions_and_keeps_tokens_sites_and_the_audit_log() {
    let mut service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let path = guest.resource("site-1", "");
    let stock = guest.attest_as_stock(&client);
    let waiting = client.post("/kbs/v0/auth", None, &coffer_protocol::Request::body(true)).cookie.unwrap();
    let jwks = client.get("/.well-known/jwks.json", None).body;
    assert_eq!(stock.open(&client.get(&path, Some(stock.session()))), ROOT_SECRET);
    service.stop();
    service.start();

    let client = service.client();
    assert_eq!(client.get("/.well-known/jwks.json", None).body, jwks);
    client.get(&path, Some(stock.session())).expect_refusal(401, "not_attested");
    client.post("/kbs/v0/attest", Some(&waiting), &stock.attest_body).expect_refusal(401, "challenge_epoch");
    client.post("/kbs/v0/attest", Some(&stock.challenge_cookie), &stock.attest_body).expect_refusal(401, "challenge_epoch");
    let bearer = format!("Bearer {}", stock.token());
    let released = client.send("GET", &path, &[("authorization", &bearer)], &[]).unwrap();
    assert_eq!(stock.open(&released), ROOT_SECRET);
    assert_eq!(service.show("demo/site-1")["decisions"].as_array().unwrap().len(), 4);
    let log = service.log();
    let epochs: Vec<u64> = log.lines().filter_map(|line| line.split_once(" epoch=")).map(|(_, n)| n.parse().unwrap()).collect();
    assert!(matches!(epochs[..], [before, after] if before < after), "{log}");
}

#[test]
fn a_service_whose_audit_log_was_edited_does_not_start() {
    let mut service = Service::simulated();
    service.enrolled_guest("site-1");
    service.stop();
    let path = service.path().join("coffer-attest.db");
    let bytes = fs::read(&path).unwrap();
    let (from, to) = (b"accept_aml_risk=false", b"accept_aml_risk=maybe");
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    let mut edited = bytes.clone();
    edited[at..at + to.len()].copy_from_slice(to);
    fs::write(&path, edited).unwrap();
    let dir = service.path();
    let refused = crate::support::program(&["serve", "--dir", dir.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = crate::support::stderr(&refused);
    assert!(text.contains("does not follow from the one before it") && text.contains("hint: "), "{text}");
}

/// Every way a 32-byte secret might have been written down.
fn spellings(secret: &[u8; 32]) -> Vec<Vec<u8>> {
    let (plain, url) = (BASE64.encode(secret), BASE64URL_NOPAD.encode(secret));
    let numbers = secret.iter().map(u8::to_string).collect::<Vec<_>>();
    vec![
        secret.to_vec(),
        HEXLOWER.encode(secret).into_bytes(),
        HEXUPPER.encode(secret).into_bytes(),
        plain.into_bytes(),
        url.into_bytes(),
        numbers.join(",").into_bytes(),
        numbers.join(", ").into_bytes(),
    ]
}

fn assert_clean(place: &str, bytes: &[u8], needles: &[Vec<u8>]) {
    for needle in needles {
        assert!(!bytes.windows(needle.len()).any(|w| w == needle), "{place} holds a secret");
    }
}

fn every_file(dir: &Path, visit: &mut dyn FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            every_file(&path, visit);
        } else {
            visit(&path, &fs::read(&path).unwrap());
        }
    }
}

#[test]
fn secrets_are_in_no_file_no_log_no_argument_and_no_answer() {
    let mut service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    let handshake = guest.attest(&client);
    for suffix in ["", ".kit"] {
        let answer = client.get(&guest.resource("site-1", suffix), Some(handshake.session()));
        handshake.open(&answer);
    }
    guest.attest_with(&client, |f| f.vmpl = 1).answer.expect_refusal(403, "vmpl");
    let needles: Vec<_> = [&ROOT_SECRET, &KIT_KEY].into_iter().flat_map(spellings).collect();

    let process = format!("/proc/{}", service.pid());
    for file in ["cmdline", "environ"] {
        match fs::read(format!("{process}/{file}")) {
            Ok(bytes) => assert_clean(file, &bytes, &needles),
            // The process is not dumpable: only root reads this.
            Err(error) => assert_eq!((file, error.kind()), ("environ", std::io::ErrorKind::PermissionDenied)),
        }
    }
    assert_clean("site show", service.show("demo/site-1").to_string().as_bytes(), &needles);
    assert_clean("token", handshake.token().as_bytes(), &needles);
    // While it runs, with its write-ahead log, and after it has stopped and tidied up.
    for state in ["running", "stopped"] {
        let mut files = 0;
        every_file(&service.path(), &mut |path, bytes| {
            assert_clean(&format!("{} ({state})", path.display()), bytes, &needles);
            files += 1;
        });
        assert!(files >= 7, "{files}");
        if state == "running" {
            service.stop();
        }
    }
    assert_clean("log", service.log().as_bytes(), &needles);
    // The check itself sees: the enrollment file does hold them.
    let enrollment = service.enrollment_file(service.record("site-1", guest.host_data()));
    let bytes = fs::read(enrollment).unwrap();
    assert!(needles.iter().any(|needle| bytes.windows(needle.len()).any(|w| w == needle)));
}
