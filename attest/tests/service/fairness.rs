//! One bad source, or one bad site, does not stop the others.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use coffer_evidence::{Family, UnixTime};
use coffer_protocol::{Challenge, Request};
use coffer_simulator::{Asp, Platform, Vcek, VcekSpec};

use crate::support::{BASE, Guest, Raw, Service, host_data, now, simulator};

/// Another processor of the same authority.
fn other_processor() -> &'static Asp {
    let simulator = simulator(Family::Genoa);
    let platform = Platform::random(Family::Genoa).unwrap();
    let vcek = Vcek::issue(&VcekSpec::of(&platform, UnixTime(now())), &simulator.hierarchy.ask).unwrap();
    Box::leak(Box::new(Asp::from_parts(platform, simulator.asp.ark().to_vec(), simulator.asp.ask().to_vec(), vcek)))
}

fn decisions(service: &Service, site: &str) -> usize {
    service.show(site)["decisions"].as_array().unwrap().len()
}

/// A site that boots again and again, with evidence that is accepted, is put off; its history stops growing, another site's
/// handshake is none the worse, and what it holds already is put off too.
#[test]
fn a_site_that_attests_too_often_is_put_off_and_leaves_no_more_traces() {
    let service =
        Service::edited("decisions_per_minute_per_site = 10\nburst_per_site = 60", "decisions_per_minute_per_site = 1\nburst_per_site = 6");
    let (bad, good) = (service.enrolled_guest("site-1"), service.enrolled_guest("site-2"));
    let client = service.client();
    let session = bad.attest(&client);
    let answers: Vec<_> = (0..20).map(|_| bad.attest(&client).answer).collect();
    let accepted = answers.iter().filter(|answer| answer.status == 200).count();
    assert!((5..=6).contains(&accepted), "{accepted} more were accepted");
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.expect_refusal(429, "site_rate");
        assert_eq!(answer.retry_after.as_deref(), Some("10"));
    }
    let grown = decisions(&service, "demo/site-1");
    client.get(&bad.resource("site-1", ""), Some(session.session())).expect_refusal(429, "site_rate");
    bad.attest(&client).answer.expect_refusal(429, "site_rate");
    assert_eq!(decisions(&service, "demo/site-1"), grown);
    assert!(!service.log().contains("site_rate"), "a flood fills the log");
    let session = good.attest(&client);
    assert_eq!(client.get(&good.resource("site-2", ""), Some(session.session())).status, 200);
}

/// Whoever has a genuine processor can launch a guest with anybody's HOST_DATA. Refusals count against the processor, so it can
/// neither fill the audit log nor use up what a site of another processor may cause.
#[test]
fn refused_evidence_counts_against_its_processor_and_not_against_the_site_it_names() {
    let service =
        Service::edited("decisions_per_minute_per_site = 10\nburst_per_site = 60", "decisions_per_minute_per_site = 1\nburst_per_site = 6");
    let victim = service.enrolled_guest("site-1");
    let client = service.client();
    let attacker = other_processor();
    let told: Vec<_> = (0..20)
        .map(|n| {
            // Another base under the victim's HOST_DATA, and site configs that nobody enrolled.
            let host_data = if n % 2 == 0 { victim.host_data() } else { host_data(&format!("made up {n}")) };
            let launched = Guest::new(attacker, coffer_evidence::LaunchDigest::new([0xEE; 48]), host_data);
            launched.attest(&client).answer.refusal()
        })
        .collect();
    let put_off = told.iter().filter(|(status, _, code)| (*status, code.as_str()) == (429, "site_rate")).count();
    assert!((13..=14).contains(&put_off), "{told:?}");
    assert!(told.iter().all(|(_, _, code)| ["launch_digest", "host_data", "site_rate"].contains(&code.as_str())), "{told:?}");
    let session = victim.attest(&client);
    assert_eq!(client.get(&victim.resource("site-1", ""), Some(session.session())).status, 200);
    // Evidence that proves nothing is bound by its source only, and costs no processor anything.
    let mut replayed = None;
    victim.attest_as(&client, true, |asp, data| {
        let evidence = asp.evidence(&victim.guest, data).unwrap();
        replayed = Some(evidence.clone());
        evidence
    });
    for _ in 0..20 {
        victim.attest_as(&client, true, |_, _| replayed.clone().unwrap()).answer.expect_refusal(403, "report_data");
    }
}

/// The longest that an honest handshake may take beside the flood, in a debug-free build on two busy cores. Without the queue it
/// would wait for whatever the flood has sent.
const PATIENCE: Duration = Duration::from_secs(5);

/// One source floods the service over many connections with evidence that has to be verified. Another source's handshakes go
/// through, each within a bound, and none of them is told that the service is busy.
#[test]
fn a_flood_from_one_source_leaves_the_others_their_turn() {
    let limits = "requests_per_second_per_source = 100000\nburst_per_source = 100000\nwaiting = 8\n";
    let service = Service::edited("requests_per_second_per_source = 50\nburst_per_source = 500\nwaiting = 512\n", limits);
    let honest = service.enrolled_guest("site-1");
    let flooding = Guest::new(other_processor(), BASE, host_data("nobody's"));
    let (stop, sent, busy) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..48 {
            scope.spawn(|| flood(&service, &flooding, &stop, &sent, &busy));
        }
        // The flood is on before anybody is timed.
        let begun = Instant::now();
        while busy.load(Ordering::Relaxed) == 0 && begun.elapsed() < Duration::from_secs(30) {
            thread::sleep(Duration::from_millis(20));
        }
        let mut slowest = Duration::ZERO;
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..10 {
                let begun = Instant::now();
                let mut honest_source = Raw::from(&service, "127.0.0.20").expect("a connection");
                handshake(&mut honest_source, &honest);
                slowest = slowest.max(begun.elapsed());
            }
        }));
        stop.store(true, Ordering::Relaxed);
        println!(
            "flood: {} requests, {} told busy; slowest honest handshake {slowest:?}",
            sent.load(Ordering::Relaxed),
            busy.load(Ordering::Relaxed)
        );
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        assert!(slowest < PATIENCE, "an honest handshake took {slowest:?}");
    });
    assert!(busy.load(Ordering::Relaxed) > 0, "48 connections at once did not fill a queue of 8");
}

fn flood(service: &Service, guest: &Guest, stop: &AtomicBool, sent: &AtomicUsize, busy: &AtomicUsize) {
    let Ok(mut raw) = Raw::from(service, "127.0.0.21") else { return };
    // Made once: a replayed answer is verified up to its signature, as an attacker would have it.
    let (cookie, challenge) = challenged(&mut raw);
    let (_, body) = guest.answer(&challenge, |asp, data| asp.evidence(&guest.guest, data).unwrap());
    let text = String::from_utf8(body).unwrap();
    let (mut cookie, old) = (cookie, challenge.nonce.to_string());
    let mut nonce = old.clone();
    while !stop.load(Ordering::Relaxed) {
        let body = text.replace(&old, &nonce);
        let Some(answer) = raw.call("POST", "/kbs/v0/attest", Some(&cookie), body.as_bytes()) else { return };
        sent.fetch_add(1, Ordering::Relaxed);
        if answer.status == 503 {
            answer.expect_refusal(503, "busy");
            assert_eq!(answer.retry_after.as_deref(), Some("1"));
            busy.fetch_add(1, Ordering::Relaxed);
        }
        let challenge;
        (cookie, challenge) = challenged(&mut raw);
        nonce = challenge.nonce.to_string();
    }
}

fn challenged(raw: &mut Raw) -> (String, Challenge) {
    let answer = raw.call("POST", "/kbs/v0/auth", None, &Request::body(false)).expect("an answer");
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    (answer.cookie.clone().unwrap(), Challenge::parse(&answer.body).unwrap())
}

fn handshake(raw: &mut Raw, guest: &Guest) {
    let (cookie, challenge) = challenged(raw);
    let (_, body) = guest.answer(&challenge, |asp, data| asp.evidence(&guest.guest, data).unwrap());
    let answer = raw.call("POST", "/kbs/v0/attest", Some(&cookie), &body).expect("an answer");
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let released = raw.call("GET", &guest.resource("site-1", ""), answer.cookie.as_deref(), &[]).expect("an answer");
    assert_eq!(released.status, 200, "{}", String::from_utf8_lossy(&released.body));
}
