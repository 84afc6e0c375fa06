//! Getting, keeping and losing a lease.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use coffer_token::Jkt;
use coffer_token::lease::{NodeKey, Open};

use super::double::{Gate, Guest, NAME, admitted, assert_reset, authority, eventually, refused, site, token};
use crate::standing::Lease;

#[test]
fn a_lease_opens_the_port_and_tunnels_are_this_boots() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |_, _| admitted(60));
    let guest = Guest::start(&site(&authority, &[gate.address]));
    guest.await_leased();
    let _through = guest.connect_through();

    let hellos = gate.hellos.lock().expect("whole").clone();
    let node = NodeKey::from_sec1(&guest.keys.node.public().to_sec1()).expect("a point");
    assert_eq!((hellos[0].open, hellos[0].token.as_str(), hellos[0].node.as_ref()), (Open::Lease, "t-1", Some(&node)));
    assert_eq!((hellos[1].open, hellos[1].token.as_str(), hellos[1].node.as_ref()), (Open::Tunnel, "t-1", None));
    let peer = gate.peer.lock().expect("whole").clone().expect("a raw public key");
    let boot = guest.keys.tls.public().to_sec1();
    assert_eq!(&peer[peer.len() - boot.len()..], boot, "the connection's key is the one that tokens are bound to");
    assert_eq!(peer.len(), 120, "and nothing but a key");
}

#[test]
fn newer_tokens_are_shown_on_the_same_connection() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |_, _| admitted(2));
    let guest = Guest::start(&site(&authority, &[gate.address]));
    guest.await_leased();
    let stream = guest.connect_through();
    // Longer than one lease.
    for number in 2..8 {
        guest.standing.renewed(token(&format!("t-{number}")));
        eventually("the renewal arrives", || gate.renewals.lock().expect("whole").len() == number - 1);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(gate.hellos(Open::Lease), 1);
    assert_eq!(gate.renewals.lock().expect("whole").last().map(String::as_str), Some("t-7"));
    stream.set_nonblocking(true).expect("nonblocking");
    assert!(stream.peek(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "still open");
}

#[test]
fn a_lease_that_is_not_renewed_ends_here_too() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |_, _| admitted(1));
    let guest = Guest::start(&site(&authority, &[gate.address]));
    guest.await_leased();
    let (stream, since) = (guest.connect_through(), Instant::now());
    gate.answers(|_, _| refused("token_old", 60));
    assert_reset(&stream);
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    guest.await_lease(|lease| matches!(lease, Lease::Refused { code, .. } if code == "token_old"));
    guest.assert_refuses();
}

#[test]
fn a_refusal_keeps_the_port_closed_and_asks_the_service_where_it_has_the_say() {
    for (code, asks) in [("token_expired", true), ("withdrawn", true), ("cut", false), ("replaced", false), ("of_a_newer_gate", false)] {
        let authority = authority(NAME);
        let gate = Gate::start(&authority.server, move |_, _| refused(code, 60));
        let guest = Guest::start(&site(&authority, &[gate.address]));
        guest.assert_refuses();
        guest.await_lease(|lease| *lease == Lease::Refused { code: code.into(), id: "g-1".into() });
        guest.assert_refuses();
        let state = guest.standing.wait(guest.standing.now().serial, Duration::from_millis(100));
        assert_eq!(state.asked, asks, "{code}");
        assert_eq!(gate.hellos(Open::Lease), 1, "{code}: tried again only after its time");
    }
}

#[test]
fn a_newer_token_is_tried_before_the_time() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |_, token| if token == "t-2" { admitted(60) } else { refused("withdrawn", 60) });
    let guest = Guest::start(&site(&authority, &[gate.address]));
    guest.await_lease(|lease| matches!(lease, Lease::Refused { .. }));
    let since = Instant::now();
    guest.standing.renewed(token("t-2"));
    guest.await_leased();
    assert!(since.elapsed() < Duration::from_secs(5));
    drop(guest.connect_through());
}

#[test]
fn a_cut_resets_the_workload_and_closes_the_port_within_a_second() {
    for last_word in [Some(refused("cut", 60)), None] {
        let authority = authority(NAME);
        let gate = Gate::start(&authority.server, |_, _| admitted(60));
        let guest = Guest::start(&site(&authority, &[gate.address]));
        guest.await_leased();
        let streams = [guest.connect_through(), guest.connect_through()];
        gate.answers(|_, _| refused("cut", 60));
        let since = Instant::now();
        gate.cut(last_word);
        streams.iter().for_each(assert_reset);
        guest.await_lease(|lease| matches!(lease, Lease::Refused { code, .. } if code == "cut"));
        guest.assert_refuses();
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    }
}

#[test]
fn a_gate_that_only_ends_the_lease_takes_the_tunnels_with_it() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |open, token| match (open, token) {
        (Open::Lease, "t-2") => refused("lease_over", 60),
        _ => admitted(60),
    });
    let guest = Guest::start(&site(&authority, &[gate.address]));
    guest.await_leased();
    let stream = guest.connect_through();
    guest.standing.renewed(token("t-2"));
    assert_reset(&stream);
    guest.await_lease(|lease| matches!(lease, Lease::Refused { .. }));
    guest.assert_refuses();
}

#[test]
fn a_restarted_gate_leases_again_with_the_same_token() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |_, _| admitted(60));
    let guest = Guest::start(&site(&authority, &[gate.address]));
    for round in 1..4 {
        guest.await_leased();
        let stream = guest.connect_through();
        gate.set_down(true);
        assert_reset(&stream);
        guest.await_lease(|lease| matches!(lease, Lease::None(_)));
        guest.assert_refuses();
        gate.set_down(false);
        eventually("leased again", || gate.hellos(Open::Lease) > round);
    }
    guest.await_leased();
    drop(guest.connect_through());
}

#[test]
fn a_guest_that_the_service_refused_shows_nothing_any_more() {
    let authority = authority(NAME);
    let gate = Gate::start(&authority.server, |_, _| admitted(60));
    let guest = Guest::start(&site(&authority, &[gate.address]));
    guest.await_leased();
    let stream = guest.connect_through();
    guest.standing.refused("site_suspended", "r-1");
    assert_reset(&stream);
    guest.await_lease(|lease| matches!(lease, Lease::None(_)));
    guest.assert_refuses();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(gate.hellos(Open::Lease), 1);
    guest.standing.renewed(token("t-2"));
    guest.await_leased();
    drop(guest.connect_through());
}

#[test]
fn addresses_are_tried_in_order_and_tunnels_go_where_the_lease_is() {
    let authority = authority(NAME);
    let dead = SocketAddr::from(([127, 0, 0, 1], 1));
    let (gate, spare) = (Gate::start(&authority.server, |_, _| admitted(60)), Gate::start(&authority.server, |_, _| admitted(60)));
    let guest = Guest::start(&site(&authority, &[dead, gate.address, spare.address]));
    guest.await_leased();
    drop(guest.connect_through());
    assert_eq!((gate.hellos(Open::Lease), gate.hellos(Open::Tunnel), spare.hellos.lock().expect("whole").len()), (1, 1, 0));
}

#[test]
fn what_the_site_config_cannot_mean_ends_the_boot() {
    let authority = authority(NAME);
    let keys = crate::keys::BootKeys::generate().expect("keys");
    let standing = crate::standing::Standing::new(token("t-1"), true);
    let refusal = |change: &dyn Fn(&mut coffer_manifest::Gate)| {
        let mut site = site(&authority, &[SocketAddr::from(([127, 0, 0, 1], 1))]);
        change(site.gate.as_mut().expect("a gate"));
        super::super::start(&site, &keys, &standing).expect_err("no gate").to_string()
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let _held = std::net::TcpListener::bind(("127.0.0.1", taken)).expect("held");
    assert!(refusal(&|gate| gate.workload.port = taken).contains("cannot reserve 127.0.0.1"));
    assert!(refusal(&|gate| gate.ca = vec!["AAAA".into()]).contains("gate.ca[0] is no certificate authority"));
    assert!(refusal(&|gate| gate.ca.clear()).contains("gate.ca has 0 certificates"));
    assert!(refusal(&|gate| gate.tls_name = "a b".into()).contains("gate.tls_name `a b` is no DNS name"));
    assert!(refusal(&|gate| gate.addresses = vec!["gate".into()]).contains("`gate`, which is not host:port"));
    assert!(refusal(&|gate| gate.addresses.clear()).contains("gate.addresses is empty"));
}

#[test]
fn a_site_without_a_gate_has_none() {
    let site = crate::workload::tests::site("amd-sev-snp");
    let keys = crate::keys::BootKeys::generate().expect("keys");
    let standing = crate::standing::Standing::new(token("t-1"), false);
    super::super::start(&site, &keys, &standing).expect("nothing to do");
    assert_eq!(standing.now().lease, Lease::NoGate);
    assert!(Jkt::of_ec_point("P-384", &keys.tls.public().to_sec1()).is_some());
}
