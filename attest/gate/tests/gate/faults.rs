//! No fault spreads: a service that is gone, a gate that restarts, one site that misbehaves, many that come at once.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coffer_token::lease::{Answer, Hello, Open, to_frame};
use coffer_token::{Version1, Withdrawn};

use crate::support::{Boot, Gate, Issuer, Settings, Wire, eventually, refusal};

#[test]
fn with_the_service_gone_leases_go_on_to_their_end_and_new_ones_begin() {
    let issuer = Issuer::start();
    let gate = Gate::with(&issuer, &Settings { check_frequency: 4, ..Settings::default() }).in_touch(&issuer);
    let (before, after) = (Boot::of("site-1"), Boot::of("site-2"));
    let mut tunnel = gate.door.tunneled(&before, &issuer.token(&before));
    issuer.set_down(true);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        assert_eq!(tunnel.echo(b"nobody is asked").unwrap(), b"nobody is asked");
        // Tokens are checked against the keys the gate has.
        let mut second = gate.door.tunneled(&after, &issuer.token(&after));
        assert_eq!(second.echo(b"neither here").unwrap(), b"neither here");
        std::thread::sleep(Duration::from_millis(250));
    }
    let boot = Boot::of("site-3");
    gate.door.tunneled(&boot, &issuer.token(&boot)).reset(Duration::from_secs(6));
    tunnel.reset(Duration::from_secs(1));
    assert!(begun.elapsed() < Duration::from_secs(8));
    // Back, it is heard, and what it took back meanwhile counts.
    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: after.host_data });
    let token = issuer.token(&after);
    issuer.restart();
    issuer.set_down(false);
    eventually("the suspension", Duration::from_secs(20), || {
        // Ten a second are what one site may.
        std::thread::sleep(Duration::from_millis(150));
        // Until then it is admitted, or by and by too old.
        let (_, answer) = gate.door.tunnel(&after, &token);
        matches!(&answer, Answer::Refused { code, .. } if code == "withdrawn").then_some(())
    });
    gate.door.tunneled(&before, &issuer.token(&before));
}

/// A service where as many wait as may answers at once: the gate asks again soon, and not without end.
#[test]
fn a_service_that_holds_no_request_open_is_polled_and_not_flooded() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer).in_touch(&issuer);
    let boot = Boot::of("site-1");
    let mut tunnel = gate.door.tunneled(&boot, &issuer.token(&boot));
    issuer.answer_at_once();
    let before = issuer.lists();
    std::thread::sleep(Duration::from_secs(5));
    let asked = issuer.lists() - before;
    assert!((3..40).contains(&asked), "{asked} times in five seconds");
    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: boot.host_data });
    let after = tunnel.reset(Duration::from_secs(5));
    assert!(after < Duration::from_secs(3), "{after:?}");
}

/// What is pushed may be lost without a sign, as behind a middlebox that forgets silent connections: the poll hears it all the same.
#[test]
fn a_withdrawal_whose_push_is_lost_is_heard_by_the_poll() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer).in_touch(&issuer);
    let boot = Boot::of("site-1");
    let mut tunnel = gate.door.tunneled(&boot, &issuer.token(&boot));
    issuer.push_nothing();
    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: boot.host_data });
    // Four and a half seconds are the longest pause between two polls.
    tunnel.reset(Duration::from_secs(6));
    assert_eq!(gate.door.refusal(&boot, &issuer.token_with(&boot, |s| s.issued_at.0 -= 10)).0, "withdrawn");
}

/// Numbers of another epoch mean nothing: a restarted service counts anew, and nothing is missed nor counted twice.
#[test]
fn a_restarted_service_is_read_from_the_beginning() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer).in_touch(&issuer);
    for _ in 0..5 {
        issuer.withdraw("site_suspended", Withdrawn::Site { host_data: Boot::of("somebody").host_data });
    }
    gate.logged(&["site_suspended"]);
    let boots = [Boot::of("site-1"), Boot::of("site-2")];
    let mut tunnels = boots.each_ref().map(|boot| gate.door.tunneled(boot, &issuer.token(boot)));
    issuer.restart();
    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: boots[0].host_data });
    let after = tunnels[0].reset(Duration::from_secs(5));
    assert!(after < Duration::from_secs(2), "{after:?}");
    assert_eq!(tunnels[1].echo(b"not concerned").unwrap(), b"not concerned");
}

/// Without ever having heard from its service a gate knows no key, says so, and lets nobody in; as soon as it has, it does.
#[test]
fn a_gate_that_never_reached_its_service_lets_nobody_in() {
    let issuer = Issuer::start();
    issuer.set_down(true);
    let gate = Gate::of(&issuer);
    let boot = Boot::of("site-1");
    let token = issuer.token(&boot);
    assert_eq!(gate.door.refusal(&boot, &token).0, "no_keys");
    issuer.set_down(false);
    eventually("the first keys", Duration::from_secs(20), || {
        matches!(gate.door.tunnel(&boot, &token).1, Answer::Admitted { .. }).then_some(())
    });
}

/// What was taken back before the gate restarts stays so, even if the service is gone by then.
#[test]
fn a_restarted_gate_without_its_service_lets_no_suspended_site_in() {
    let issuer = Issuer::start();
    let mut gate = Gate::of(&issuer).in_touch(&issuer);
    let boot = Boot::of("site-1");
    let token = issuer.token(&boot);
    let mut tunnel = gate.door.tunneled(&boot, &token);
    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: boot.host_data });
    tunnel.reset(Duration::from_secs(5));
    assert_eq!(gate.door.refusal(&boot, &token).0, "withdrawn");
    issuer.set_down(true);
    for hard in [false, true] {
        if hard {
            gate.kill()
        } else {
            gate.down()
        }
        gate.up();
        let (code, _) = gate.door.refusal(&boot, &token);
        assert!(["withdrawn", "no_keys"].contains(&code.as_str()), "{code}");
    }
}

#[test]
fn the_services_clock_counts_however_far_it_is_from_the_gates() {
    for ahead in [3600, -3600, 86_400 * 400] {
        let issuer = Issuer::start();
        issuer.set_ahead(ahead);
        let gate = Gate::with(&issuer, &Settings { check_frequency: 3, ..Settings::default() }).in_touch(&issuer);
        let (boot, begun) = (Boot::of("site-1"), Instant::now());
        let mut tunnel = gate.door.tunneled(&boot, &issuer.token(&boot));
        assert_eq!(tunnel.echo(b"on time").unwrap(), b"on time");
        let stale = issuer.token_with(&boot, |s| s.issued_at.0 -= 301);
        assert_eq!(gate.door.refusal(&boot, &stale).0, "token_expired");
        tunnel.reset(Duration::from_secs(6));
        // `iat` counts whole seconds, so a lease of 3 s may be up to one shorter.
        let lasted = begun.elapsed();
        assert!((Duration::from_millis(1900)..Duration::from_millis(4500)).contains(&lasted), "{ahead}: {lasted:?}");
    }
}

/// The service's clock is put right by an hour while sites are in: leases last as long as they were given for.
#[test]
fn a_jump_of_the_services_clock_neither_ends_nor_stretches_a_lease() {
    let issuer = Issuer::start();
    let gate = Gate::with(&issuer, &Settings { check_frequency: 5, ..Settings::default() }).in_touch(&issuer);
    for ahead in [3600, 0, -3600] {
        let boot = Boot::of(&format!("site{ahead}"));
        let mut tunnel = gate.door.tunneled(&boot, &issuer.token(&boot));
        let begun = Instant::now();
        issuer.set_ahead(ahead);
        issuer.withdraw("site_suspended", Withdrawn::Site { host_data: Boot::of("somebody").host_data });
        while begun.elapsed() < Duration::from_secs(3) {
            assert_eq!(tunnel.echo(b"as given").unwrap(), b"as given");
            std::thread::sleep(Duration::from_millis(200));
        }
        tunnel.reset(Duration::from_secs(4));
        // And new tokens, by the new clock, are good.
        gate.door.tunneled(&boot, &issuer.token(&boot));
    }
}

/// How long one echo takes a site, over and over, until told to stop.
fn latencies(tunnel: &mut Wire, until: impl Fn() -> bool) -> Vec<Duration> {
    let mut all = Vec::new();
    while !until() {
        let begun = Instant::now();
        assert_eq!(tunnel.echo(&[7; 512]).unwrap(), [7; 512]);
        all.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    all.sort_unstable();
    all
}

#[track_caller]
fn percentile(sorted: &[Duration], of_thousand: usize) -> Duration {
    sorted[(sorted.len() * of_thousand / 1000).min(sorted.len() - 1)]
}

#[test]
fn a_site_that_flaps_as_fast_as_it_can_does_not_hold_another_up() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let calm = Boot::of("calm");
    let mut tunnel = gate.door.tunneled(&calm, &issuer.token(&calm));
    let flapping = Boot::of("flapping");
    let (stop, flaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let measured = std::thread::scope(|scope| {
        for n in 0..2 {
            let (gate, issuer, flapping, stop, flaps) = (&gate, &issuer, &flapping, &stop, &flaps);
            scope.spawn(move || {
                let token = issuer.token(flapping);
                while !stop.load(Ordering::SeqCst) {
                    let open = if n == 0 { Open::Tunnel } else { Open::Lease };
                    let hello = Hello { v: Version1, open, token: token.clone(), node: None };
                    if gate.door.hello(&flapping.key, &hello).is_ok() {
                        flaps.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        let begun = Instant::now();
        let measured = latencies(&mut tunnel, || begun.elapsed() > Duration::from_secs(3));
        stop.store(true, Ordering::SeqCst);
        measured
    });
    assert!(flaps.load(Ordering::SeqCst) > 50, "{}", flaps.load(Ordering::SeqCst));
    let (median, worst) = (percentile(&measured, 500), percentile(&measured, 990));
    println!("{} flaps; the other's echo took {median:?} at the median, {worst:?} at p99", flaps.load(Ordering::SeqCst));
    assert!(worst < Duration::from_millis(500), "{worst:?} at p99");
    // New connections of others are let in as well.
    gate.door.tunneled(&calm, &issuer.token(&calm));
}

/// One site may hold so many connections and no more; what it holds does not count against another.
#[test]
fn a_site_that_holds_a_thousand_connections_leaves_the_others_theirs() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let (greedy, calm) = (Boot::of("greedy"), Boot::of("calm"));
    let mut tunnel = gate.door.tunneled(&calm, &issuer.token(&calm));
    let token = issuer.token(&greedy);
    let hello = Hello { v: Version1, open: Open::Tunnel, token, node: None };
    let (mut held, mut codes) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        match gate.door.hello(&greedy.key, &hello) {
            Ok((wire, Answer::Admitted { .. })) => held.push(wire),
            Ok((_, answer)) => codes.push(refusal(&answer).0),
            Err(_) => {}
        }
    }
    println!("{} connections held, {} refused", held.len(), codes.len());
    assert!(!held.is_empty() && held.len() < 1000, "{} are held", held.len());
    assert!(codes.iter().all(|code| code == "site_connections" || code == "site_rate"), "{:?}", codes.last());
    assert_eq!(tunnel.echo(b"as ever").unwrap(), b"as ever");
    gate.door.tunneled(&calm, &issuer.token(&calm));
    // Whoever lets go gets a place again.
    drop(held);
    eventually("a place", Duration::from_secs(10), || {
        matches!(gate.door.hello(&greedy.key, &hello), Ok((_, Answer::Admitted { .. }))).then_some(())
    });
}

/// Half-open connections (the peer vanished without a word) and those that never say anything are not counted as sites.
#[test]
fn connections_whose_peer_never_speaks_are_given_up() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let calm = Boot::of("calm");
    let mut tunnel = gate.door.tunneled(&calm, &issuer.token(&calm));
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(&gate.door.address).unwrap()).collect();
    let spoke: Vec<Wire> = (0..20).map(|_| gate.door.open(&calm.key).unwrap()).collect();
    assert_eq!(tunnel.echo(b"as ever").unwrap(), b"as ever");
    for mut wire in spoke {
        wire.end(Duration::from_secs(30));
    }
    for mut socket in silent {
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let end = std::io::Read::read(&mut socket, &mut [0; 64]);
        assert!(!matches!(&end, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock), "still there");
    }
    assert_eq!(tunnel.echo(b"as ever").unwrap(), b"as ever");
}

/// Whatever the SuperLink does, a lease stays: it is what the gate knows of the site.
#[test]
fn a_superlink_that_is_gone_is_named_and_costs_nobody_a_lease() {
    let issuer = Issuer::start();
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = Gate::leading_to(&issuer, &nowhere.to_string());
    let boot = Boot::of("site-1");
    let mut lease = gate.door.leased(&boot, &issuer.token(&boot));
    let (_, answer) = gate.door.tunnel(&boot, &issuer.token(&boot));
    assert_eq!(refusal(&answer).0, "superlink_unreachable");
    assert!(matches!(lease.renew(&issuer.token(&boot)), Answer::Admitted { .. }));
}

/// Five hundred sites, each with a lease connection and a tunnel, all renewing; then one of them is suspended and all others go on.
#[test]
fn long_five_hundred_sites_at_once() {
    const SITES: usize = 500;
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer).in_touch(&issuer);
    let boots: Vec<Boot> = (0..SITES).map(|n| Boot::of(&format!("site-{n:03}"))).collect();
    let begun = Instant::now();
    let mut inside: Vec<(Wire, Wire)> = boots
        .iter()
        .map(|boot| {
            let token = issuer.token(boot);
            (gate.door.leased(boot, &token), gate.door.tunneled(boot, &token))
        })
        .collect();
    println!("{SITES} sites came in within {:?}", begun.elapsed());
    assert_eq!(gate.status()["leases"].as_array().unwrap().len(), SITES);
    for _ in 0..3 {
        let mut answers = Vec::new();
        for (boot, (lease, tunnel)) in boots.iter().zip(&mut inside) {
            let token = issuer.token(boot);
            let begun = Instant::now();
            assert!(matches!(lease.renew(&token), Answer::Admitted { .. }));
            answers.push(begun.elapsed());
            assert_eq!(tunnel.echo(boot.site.as_bytes()).unwrap(), boot.site.as_bytes());
        }
        answers.sort_unstable();
        println!("renewals answered after {:?} at the median, {:?} at p99", percentile(&answers, 500), percentile(&answers, 990));
    }
    let begun = Instant::now();
    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: boots[250].host_data });
    inside[250].1.reset(Duration::from_secs(5));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    for (n, (_, tunnel)) in inside.iter_mut().enumerate().filter(|(n, _)| *n != 250) {
        assert_eq!(tunnel.echo(boots[n].site.as_bytes()).unwrap(), boots[n].site.as_bytes());
    }
    // All at once: every connection of every site.
    let begun = Instant::now();
    issuer.withdraw("token_key_revoked", Withdrawn::TokenKey { kid: issuer.kid() });
    for (n, (_, tunnel)) in inside.iter_mut().enumerate().filter(|(n, _)| *n != 250) {
        tunnel.reset(Duration::from_secs(5));
        assert!(begun.elapsed() < Duration::from_secs(2), "site {n}: {:?}", begun.elapsed());
    }
    println!("all of them cut within {:?}", begun.elapsed());
}

/// A peer that is gone without a word holds its tunnel for so long, and a workload that says little keeps its own.
#[test]
fn long_a_tunnel_is_reset_when_nothing_has_flowed_for_the_idle_timeout() {
    let issuer = Issuer::start();
    let edits = vec![("idle_timeout = 300", "idle_timeout = 60".to_owned())];
    let gate = Gate::with(&issuer, &Settings { check_frequency: 300, edits, ..Settings::default() }).in_touch(&issuer);
    let boot = Boot::of("site-1");
    let token = issuer.token(&boot);
    let (mut silent, mut quiet) = (gate.door.tunneled(&boot, &token), gate.door.tunneled(&boot, &token));
    let talking = std::thread::spawn(move || {
        for _ in 0..5 {
            std::thread::sleep(Duration::from_secs(20));
            assert_eq!(quiet.echo(b"a").unwrap(), b"a");
        }
    });
    let after = silent.reset(Duration::from_secs(100));
    assert!((Duration::from_secs(59)..Duration::from_secs(80)).contains(&after), "{after:?}");
    talking.join().unwrap();
}

/// A first word in pieces, one byte each, all within the time there is, is a first word.
#[test]
fn a_first_word_in_pieces_is_understood() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    let boot = Boot::of("site-1");
    let hello = to_frame(&Hello { v: Version1, open: Open::Tunnel, token: issuer.token(&boot), node: None }).unwrap();
    let mut wire = gate.door.open(&boot.key).unwrap();
    for byte in hello {
        wire.write(&[byte]).unwrap();
    }
    assert!(matches!(wire.answer().unwrap(), Answer::Admitted { .. }));
    assert_eq!(wire.echo(b"through").unwrap(), b"through");
}
