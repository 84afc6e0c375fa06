//! The audit log outside the service: what an auditor can tell from an export, a kept head and nothing else.

use std::fs;
use std::process::Output;

use coffer_token::{AuditHead, Jwks, StatementKind};
use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Service, program, stderr};
use crate::trust::{back_up, beside, fails, json, restore, run, serve, works};

fn verify(args: &[&str]) -> Output {
    program(&[&["audit", "verify"], args].concat())
}

/// Head, keys and log, as an operator keeps them elsewhere.
fn keep(service: &Service) -> [String; 3] {
    let path = |name: &str| beside(service, name).to_str().unwrap().to_owned();
    let [head, keys, log] = [path("head.jws"), path("keys.json"), path("log.jsonl")];
    works(service, &["audit", "head", "--to", &head]);
    works(service, &["keys", "export", "--to", &keys]);
    works(service, &["audit", "export", "--to", &log]);
    [head, keys, log]
}

#[test]
fn an_export_is_whole_and_every_change_to_it_is_named() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    for _ in 0..3 {
        guest.attest(&service.client()).token();
    }
    let [head, keys, log] = keep(&service);
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() >= 5);
    let set = Jwks::parse(&fs::read(&keys).unwrap()).unwrap();
    let statement: AuditHead = set.check_statement(&fs::read_to_string(&head).unwrap(), StatementKind::AuditHead).unwrap();
    assert_eq!(statement.seq, lines.len() as u64);
    let whole = verify(&[&log, "--head", &head, "--jwks", &keys, "--json"]);
    let said: Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!(
        (said["first"].as_u64(), said["last"].as_u64(), said["digest"].as_str()),
        (Some(1), Some(statement.seq), Some(statement.digest.to_string().as_str()))
    );
    // From the middle on, to the terminal.
    let rest = works(&service, &["audit", "export", "--from", "3"]);
    assert_eq!(rest.lines().collect::<Vec<_>>(), lines[2..]);

    let changed = beside(&service, "changed.jsonl");
    let changed = changed.to_str().unwrap();
    let check = |lines: &[&str], head: Option<&str>| {
        fs::write(changed, lines.join("\n")).unwrap();
        match head {
            Some(head) => verify(&[changed, "--head", head, "--jwks", &keys]),
            None => verify(&[changed]),
        }
    };
    let enrolled = lines.iter().position(|line| line.contains("accept_aml_risk=false")).unwrap();
    let edited = lines[enrolled].replace("accept_aml_risk=false", "accept_aml_risk=true_");
    let says = format!("entry {} was edited", enrolled + 1);
    fails(&check(&[&lines[..enrolled], &[edited.as_str()]].concat(), None), 1, &[&says]);
    fails(&check(&[lines[0], lines[2]], None), 1, &["entry 3 comes where 2 should be"]);
    fails(&check(&[lines[0], "{}"], None), 1, &["line 2 is no entry of an audit log"]);
    fails(&check(&lines[..3], Some(&head)), 1, &["the end was cut off"]);
    fails(&verify(&[&log, "--head", &head]), 1, &["nothing to check its signature with", "hint: "]);
    fails(&verify(&[]), 2, &["<FILE>"]);
    let other = Service::simulated();
    let [foreign, _, _] = keep(&other);
    fails(&verify(&[&log, "--head", &foreign, "--jwks", &keys]), 1, &["not in the key set"]);
    // A bearer token or a list of revocations is no head.
    works(&service, &["revocations", "export", "--to", changed]);
    fails(&verify(&[&log, "--head", changed, "--jwks", &keys]), 1, &["is of type `coffer-revocations+jwt`"]);
}

/// Somebody with the database cuts off the newest rows: the chain itself stays whole, the kept head does not fit any more.
#[test]
fn a_log_whose_end_was_cut_off_contradicts_the_kept_head_and_is_not_served() {
    let mut service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    guest.attest(&service.client()).token();
    let [head, keys, _] = keep(&service);
    service.stop();
    let dir = service.path();
    let dir = dir.to_str().unwrap();
    assert!(verify(&["--dir", dir, "--head", &head]).status.success());
    let backup = back_up(&service);

    let db = Connection::open(service.path().join("coffer-attest.db")).unwrap();
    let guard: String = db.query_row("SELECT sql FROM sqlite_master WHERE name = 'audit_is_append_only_d'", [], |row| row.get(0)).unwrap();
    db.execute_batch("DROP TRIGGER audit_is_append_only_d; DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)").unwrap();
    db.execute_batch(&guard).unwrap();
    drop(db);
    let whole = verify(&["--dir", dir]);
    assert!(whole.status.success(), "without a head there is nothing to see: {}", stderr(&whole));
    fails(&verify(&["--dir", dir, "--head", &head]), 1, &["the end was cut off"]);
    fails(&verify(&["--dir", dir, "--head", &head, "--jwks", &keys]), 1, &["the end was cut off"]);
    fails(&serve(&service, &["--audit-head", &head]), 5, &["is missing", "hint: "]);
    restore(&service, &backup);
    service.start_with(&["--audit-head", &head]);

    // A newer head, and an older database with more written after it: another history.
    guest.attest(&service.client()).token();
    works(&service, &["audit", "head", "--to", &head]);
    service.stop();
    restore(&service, &backup);
    service.start();
    works(&service, &["revoke", "image", &"ab".repeat(48), "--reason", "written anew"]);
    service.stop();
    fails(&verify(&["--dir", dir, "--head", &head]), 1, &["the log was written anew"]);
    fails(&serve(&service, &["--audit-head", &head]), 5, &["the kept head"]);
}

#[test]
fn the_log_of_the_service_holds_its_heads() {
    let mut service = Service::simulated();
    service.enrolled_guest("site-1");
    let keys = Jwks::parse(&service.client().get("/.well-known/jwks.json", None).body).unwrap();
    service.stop();
    let heads: Vec<AuditHead> = service
        .log()
        .lines()
        .filter_map(|line| line.split_once("audit head seq=").and_then(|(_, rest)| rest.split_once("head=\"")))
        .map(|(_, rest)| keys.check_statement(rest.split('"').next().unwrap(), StatementKind::AuditHead).unwrap())
        .collect();
    assert!(matches!(&heads[..], [first, last] if last.seq == first.seq + 1), "at start and at the end: {heads:?}");
}

#[test]
fn status_says_what_an_operator_asks_first() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let client = service.client();
    for _ in 0..2 {
        guest.attest_with(&client, |f| f.vmpl = 1).answer.expect_refusal(403, "vmpl");
    }
    works(&service, &["revoke", "image", &"ab".repeat(48), "--reason", "old"]);
    let status = json(&service, &["status"]);
    assert_eq!((status["refusals"]["vmpl"].as_u64(), status["revocation"].as_u64()), (Some(2), Some(1)), "{status}");
    assert_eq!(status["audit"]["seq"], json(&service, &["audit", "head"])["seq"]);
    assert_eq!(status["token_keys"][0]["state"], "signing");
    assert!(status["uptime_seconds"].as_u64().unwrap() < 600 && status["epoch"].as_u64().unwrap() > 0);
    let text = works(&service, &["status"]);
    assert!(text.contains("revocations    1\n") && text.contains("       2  vmpl\n"), "{text}");
    fails(&run(&service, &["status", "--after", "1"]), 2, &["--after"]);
}
