//! One site, one boot, one lease: what a renewal keeps, what a clone gets, how a lease ends by itself.

use std::time::{Duration, Instant};

use coffer_token::lease::{Answer, Hello, Open, Renewal};
use coffer_token::{Hex, Subject, UnixTime, Version1};

use crate::support::{Boot, End, Gate, Issuer, Settings, random, refusal};

#[test]
fn a_renewal_keeps_key_site_config_and_boot() {
    type Change = fn(&mut Subject);
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let changes: [(&str, &str, Change); 5] = [
        ("site-a", "renewal_changed", |s| s.coffer.site = "site-9".into()),
        ("site-b", "renewal_changed", |s| s.coffer.host_data = Hex([9; 32])),
        ("site-c", "renewal_changed", |s| s.coffer.instance = Hex([9; 32])),
        ("site-d", "not_the_key", |s| s.confirmation = Some(crate::support::BootKey::generate().jkt())),
        ("site-e", "project", |s| s.coffer.project = "other".into()),
    ];
    for (site, code, change) in changes {
        let boot = Boot::of(site);
        let mut lease = gate.door.leased(&boot, &issuer.token(&boot));
        let (got, id) = refusal(&lease.renew(&issuer.token_with(&boot, change)));
        assert_eq!(got, code, "{site}: {}", gate.log());
        gate.logged(&[&id, code]);
        assert_eq!(lease.end(Duration::from_secs(5)).0, End::Closed, "a refusal is the last word");
        // Whose renewal was none has not lost what it had.
        gate.door.tunneled(&boot, &issuer.token(&boot));
    }
    let leases = gate.status()["leases"].as_array().unwrap().clone();
    assert!(leases.iter().all(|lease| lease["site"] != "site-9"), "{leases:?}");
}

#[test]
fn a_lease_ends_with_a_reset_when_no_newer_token_comes() {
    let issuer = Issuer::start();
    let gate = Gate::with(&issuer, &Settings { check_frequency: 3, ..Settings::default() });
    let (late, kept) = (Boot::of("site-late"), Boot::of("site-kept"));
    let begun = Instant::now();
    let mut lease = gate.door.leased(&late, &issuer.token(&late));
    let mut tunnels = [gate.door.tunneled(&late, &issuer.token(&late)), gate.door.tunneled(&late, &issuer.token(&late))];
    let mut other = gate.door.leased(&kept, &issuer.token(&kept));
    let mut through = gate.door.tunneled(&kept, &issuer.token(&kept));
    while begun.elapsed() < Duration::from_millis(1800) {
        std::thread::sleep(Duration::from_millis(300));
        assert!(matches!(other.renew(&issuer.token(&kept)), Answer::Admitted { .. }));
        assert_eq!(tunnels[0].echo(b"early").unwrap(), b"early");
    }
    for tunnel in &mut tunnels {
        tunnel.reset(Duration::from_secs(5));
    }
    // iat counts whole seconds, so a lease of 3 s may be up to one shorter.
    let lasted = begun.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_millis(4200)).contains(&lasted), "{lasted:?}");
    assert_eq!(refusal(&lease.answer().unwrap()).0, "lease_over");
    gate.logged(&["lease_over", "site-late"]);
    // The operator was told, with both numbers.
    gate.logged(&["leases end before tokens do", "site-late", "check_frequency=3"]);
    assert_eq!(through.echo(b"the other goes on").unwrap(), b"the other goes on");
    // And it comes back with a newer token.
    let mut again = gate.door.tunneled(&late, &issuer.token(&late));
    assert_eq!(again.echo(b"back").unwrap(), b"back");
}

/// A lease is counted from when its token was issued, so that an old token gives a short one and a token shown twice gives no more.
#[test]
fn a_token_gives_a_lease_from_its_own_time_and_not_from_when_it_is_shown() {
    let issuer = Issuer::start();
    let gate = Gate::with(&issuer, &Settings { check_frequency: 60, ..Settings::default() });
    let boot = Boot::of("site-1");
    let seconds = |answer: &Answer| match answer {
        Answer::Admitted { lease_seconds, .. } => *lease_seconds,
        Answer::Refused { .. } => panic!("{answer:?}"),
    };
    let old = issuer.token_with(&boot, |s| s.issued_at = UnixTime(s.issued_at.0 - 40));
    let (mut lease, answer) = gate.door.lease(&boot, &old);
    assert!((15..=20).contains(&seconds(&answer)), "{answer:?}");
    let fresh = issuer.token(&boot);
    assert!((55..=60).contains(&seconds(&lease.renew(&fresh))));
    // An older one does not take away what the newer gave.
    assert!((50..=60).contains(&seconds(&lease.renew(&old))));
    // One that lives longer than a lease, but is older than one.
    let (_, answer) = gate.door.tunnel(&Boot::of("site-2"), &issuer.token_with(&Boot::of("site-2"), |_| ()));
    drop(answer);
    let late = Boot::of("site-3");
    let (_, answer) = gate.door.tunnel(&late, &issuer.token_with(&late, |s| s.issued_at = UnixTime(s.issued_at.0 - 61)));
    assert_eq!(refusal(&answer).0, "token_old");
}

#[test]
fn of_two_boots_of_one_site_the_newer_replaces_the_older_and_the_older_does_not_come_back() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let older = Boot::of("site-1");
    let newer = older.again();
    let mut lease = gate.door.leased(&older, &issuer.token(&older));
    let mut tunnel = gate.door.tunneled(&older, &issuer.token(&older));
    assert_eq!(tunnel.echo(b"first").unwrap(), b"first");

    let begun = Instant::now();
    let mut second = gate.door.tunneled(&newer, &issuer.token(&newer));
    tunnel.reset(Duration::from_secs(5));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(refusal(&lease.answer().unwrap()).0, "replaced");
    assert_eq!(second.echo(b"second").unwrap(), b"second");
    // However often the older tries, with whatever newer token, the newer stays.
    for _ in 0..5 {
        assert_eq!(gate.door.refusal(&older, &issuer.token(&older)).0, "replaced");
    }
    assert_eq!(second.echo(b"undisturbed").unwrap(), b"undisturbed");
    let leases = gate.status()["leases"].as_array().unwrap().clone();
    assert_eq!(leases.len(), 1, "{leases:?}");
    assert_eq!(leases[0]["instance"], newer.instance.to_string());
}

/// Whoever boots a site config over and over replaces it a few times, and then has to wait.
#[test]
fn boots_of_one_site_replace_each_other_at_a_bounded_rate() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let mut boot = Boot::of("site-1");
    gate.door.tunneled(&boot, &issuer.token(&boot));
    let mut replaced = 0;
    let (mut last, code, retry) = loop {
        let next = boot.again();
        let (wire, answer) = gate.door.tunnel(&next, &issuer.token(&next));
        match answer {
            Answer::Admitted { .. } => {
                replaced += 1;
                boot = next;
                assert!(replaced < 100, "nobody ever has to wait");
                drop(wire);
            }
            Answer::Refused { code, retry_after_seconds, .. } => {
                break (gate.door.tunneled(&boot, &issuer.token(&boot)), code, retry_after_seconds);
            }
        }
    };
    assert_eq!(code, "instance_rate");
    assert!(retry > 0 && replaced > 0, "{retry} {replaced}");
    assert_eq!(last.echo(b"in peace").unwrap(), b"in peace");
    // Another site's boots have their own rate.
    let other = Boot::of("site-2");
    gate.door.tunneled(&other, &issuer.token(&other));
    let next = other.again();
    gate.door.tunneled(&next, &issuer.token(&next));
}

/// Two clones under two site configs are two boots of the site as well: the site has one lease.
#[test]
fn another_site_config_of_the_site_replaces_too() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let older = Boot::of("site-1");
    let newer = Boot { host_data: Hex(random()), ..older.again() };
    let mut tunnel = gate.door.tunneled(&older, &issuer.token(&older));
    let _second = gate.door.tunneled(&newer, &issuer.token(&newer));
    tunnel.reset(Duration::from_secs(5));
}

/// A lease connection that hangs up says nothing about the boot: tunnels stay until the lease ends.
#[test]
fn a_lost_lease_connection_cuts_nothing_and_a_new_one_goes_on() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let boot = Boot::of("site-1");
    let lease = gate.door.leased(&boot, &issuer.token(&boot));
    let mut tunnel = gate.door.tunneled(&boot, &issuer.token(&boot));
    drop(lease);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(tunnel.echo(b"still").unwrap(), b"still");
    let mut again = gate.door.leased(&boot, &issuer.token(&boot));
    assert!(matches!(again.renew(&issuer.token(&boot)), Answer::Admitted { .. }));
    assert_eq!(tunnel.echo(b"still").unwrap(), b"still");
    // Several renewals sent at once are answered one for one.
    let three = [issuer.token(&boot), issuer.token(&boot), issuer.token(&boot)];
    let frames: Vec<u8> =
        three.iter().flat_map(|token| coffer_token::lease::to_frame(&Renewal { token: token.clone() }).unwrap()).collect();
    again.write(&frames).unwrap();
    for _ in 0..3 {
        assert!(matches!(again.answer().unwrap(), Answer::Admitted { .. }));
    }
}

/// Words out of place end their connection and nothing else.
#[test]
fn a_second_hello_or_an_unknown_word_ends_its_connection_only() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let boot = Boot::of("site-1");
    let mut tunnel = gate.door.tunneled(&boot, &issuer.token(&boot));
    let mut lease = gate.door.leased(&boot, &issuer.token(&boot));
    lease.send(&Hello { v: Version1, open: Open::Lease, token: issuer.token(&boot), node: None }).unwrap();
    assert_eq!(refusal(&lease.answer().unwrap()).0, "malformed");
    assert_eq!(tunnel.echo(b"not concerned").unwrap(), b"not concerned");
}
