//! A project's rego that takes what it can get: its own project is refused, nobody else notices.

use std::time::{Duration, Instant};

use coffer_evidence::Family;
use serde_json::{Value, json};

use crate::support::{BASE, Guest, Service, host_data, simulator, stderr};

const PROJECT: [&str; 2] = ["--project", "demo"];

fn document(token: &str) -> Value {
    json!({
        "type": "coffer/project-policy/v1",
        "reference_values": {
            "families": { "genoa": { "tcb_floor": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 } } },
        },
        "rego": { "token": token },
    })
}

/// Forty rules, each made of the one before it.
fn chain(first: &str, next: impl Fn(&str) -> String) -> String {
    (1..=40).fold(format!("x0 := {first}\n"), |text, n| text + &format!("x{n} := {}\n", next(&format!("x{}", n - 1))))
}

/// Rego that needs far more memory or time than there is, and what makes it do so.
fn greedy() -> [(&'static str, String, &'static str); 5] {
    [
        ("text that doubles", chain("\"aaaaaaaa\"", |x| format!("concat(\"\", [{x}, {x}])")), "count(x40) > 3"),
        ("a list that doubles", chain("[1]", |x| format!("array.concat({x}, {x})")), "count(x40) > 3"),
        (
            "a tree to compare",
            chain("[1]", |x| format!("[{x}, {x}]")) + &chain("[1]", |x| format!("[{x}, {x}]")).replace('x', "y"),
            "x40 == y40",
        ),
        ("a number that squares", chain("3", |x| format!("{x} * {x}")), "x40 > 3"),
        ("a wide number", String::new(), "count(sprintf(\"%900000000d\", [1])) > 3"),
    ]
}

#[test]
fn rego_without_end_is_refused_at_upload_and_the_service_goes_on() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    for (name, rules, greed) in greedy() {
        let text = format!("package coffer.token\ndefault allow := false\n{rules}allow if {greed}\n");
        let file = service.file("policy.json", document(&text).to_string().as_bytes());
        let begun = Instant::now();
        let set = service.policy(&[&["set", &file, "--replaces", "0", "--reason", "test"], &PROJECT[..]].concat());
        assert!(matches!(set.status.code(), Some(1 | 3)), "{name}: {}: {}", set.status, stderr(&set));
        assert!(stderr(&set).contains("bounds") || stderr(&set).contains("time limit"), "{name}: {}", stderr(&set));
        assert!(begun.elapsed() < Duration::from_secs(20), "{name} took {:?}", begun.elapsed());
        assert_eq!(service.client().get("/healthz", None).status, 200, "{name}");
    }
    guest.attest(&service.client()).token();
    assert!(rss_kib(&service) < 200 << 10, "{} KiB", rss_kib(&service));
}

/// Harmless to everybody but one site, so that it passes its tests at upload.
#[test]
fn rego_that_loses_itself_later_decides_nothing_and_keeps_nobody_waiting() {
    let service = Service::simulated();
    let guest = service.enrolled_guest("site-1");
    let mut other = service.record("site-1", host_data("another project's"));
    other.project = "other".parse().unwrap();
    let foreign = Guest::new(&simulator(Family::Genoa).asp, BASE, other.host_data);
    service.enroll(other);
    let (_, rules, greed) = &greedy()[2];
    let text = format!(
        "package coffer.token\ndefault allow := false\n{rules}allow if {{ input.evidence.host_data == \"{}\"; {greed} }}\n",
        guest.host_data()
    );
    service.set_policy(&PROJECT, 0, &document(&text));
    let client = service.client();
    guest.attest(&client).answer.expect_refusal(403, "policy");
    let entry = service.last_decision("demo/site-1");
    assert!(entry["detail"].as_str().unwrap().contains("no answer within 2000 ms"), "{entry}");
    let begun = Instant::now();
    guest.attest(&client).answer.expect_refusal(403, "policy");
    foreign.attest(&client).token();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

fn rss_kib(service: &Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
