//! The real service and the real gate: sites prove themselves on a simulated processor, and what the service decides reaches the gate.

use std::time::{Duration, Instant};

use coffer_evidence::{GuestPolicy, HostData};
use coffer_manifest::{Role, Sha256Digest};
use coffer_token::lease::Answer;
use serde_json::Value;

use crate::support::{BASE, Boot, BootKey, Gate, Guest, Service, Settings, Wire, eventually, now, processor, refusal};

const SECOND: Duration = Duration::from_secs(1);

/// A site that came in with what the service gave it.
struct Inside {
    guest: Guest,
    token: String,
    lease: Wire,
    tunnel: Wire,
}

impl Inside {
    #[track_caller]
    fn come(gate: &Gate, service: &Service, guest: Guest) -> Self {
        let token = service.token(&guest);
        let lease = gate.door.leased(&guest.boot, &token);
        let mut tunnel = gate.door.tunneled(&guest.boot, &token);
        assert_eq!(tunnel.echo(b"hello").unwrap(), b"hello");
        Self { guest, token, lease, tunnel }
    }

    /// Cut by RST within a second, told why, and kept out with the token it has.
    #[track_caller]
    fn is_cut(&mut self, gate: &Gate, since: Instant) {
        self.tunnel.reset(Duration::from_secs(5));
        let after = since.elapsed();
        assert!(after < SECOND, "{after:?}");
        let Answer::Refused { code, id, .. } = self.lease.answer().unwrap() else { panic!("not the end of a lease") };
        assert_eq!(code, "withdrawn");
        gate.logged(&["refused", "what=\"lease\"", &id, "withdrawn"]);
        assert_eq!(gate.door.refusal(&self.guest.boot, &self.token).0, "withdrawn");
    }

    #[track_caller]
    fn is_in(&mut self, service: &Service) {
        assert_eq!(self.tunnel.echo(b"still here").unwrap(), b"still here");
        let answer = self.lease.renew(&service.token(&self.guest));
        assert!(matches!(answer, Answer::Admitted { .. }), "{answer:?}");
    }
}

fn next_second() {
    let then = now();
    while now() <= then {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A gate that has heard from its service: whatever happens from here on is pushed.
fn gate_of(service: &Service) -> Gate {
    let gate = Gate::of_service(service);
    in_touch(&gate);
    gate
}

fn in_touch(gate: &Gate) {
    eventually("the gate's first look at withdrawals", Duration::from_secs(10), || {
        (gate.status()["service"]["reached"] == Value::Bool(true)).then_some(())
    });
}

#[test]
fn a_suspended_site_is_cut_within_a_second_and_resumed_it_comes_back_with_a_new_token() {
    let service = Service::start();
    let gate = gate_of(&service);
    let mut inside = Inside::come(&gate, &service, service.enrolled("site-1"));
    let mut other = Inside::come(&gate, &service, service.enrolled("site-2"));
    let since = Instant::now();
    service.works(&["site", "suspend", "demo/site-1", "--reason", "test"]);
    inside.is_cut(&gate, since);
    gate.logged(&["site_suspended", "site-1"]);
    let refused = service.attest(&inside.guest, |_| ());
    assert_eq!(refused, Err((403, "site_suspended".into())));
    other.is_in(&service);

    next_second();
    service.works(&["site", "resume", "demo/site-1", "--reason", "test"]);
    assert_eq!(gate.door.refusal(&inside.guest.boot, &inside.token).0, "withdrawn", "the old token stays worth nothing");
    let guest = inside.guest.clone();
    Inside::come(&gate, &service, guest).is_in(&service);
    other.is_in(&service);
}

#[test]
fn revoked_superseded_and_leaked_is_cut_within_a_second() {
    let service = Service::start();
    let gate = gate_of(&service);

    let mut revoked = Inside::come(&gate, &service, service.enrolled("site-1"));
    let since = Instant::now();
    service.works(&["site", "revoke", "demo/site-1", "--reason", "test"]);
    revoked.is_cut(&gate, since);

    let mut superseded = Inside::come(&gate, &service, service.enrolled("site-2"));
    let host_data = HostData::new(*Sha256Digest::of(b"the next config of site-2").as_bytes());
    let mut record = service.record("demo", "site-2", Role::Client, host_data);
    record.supersedes = Some(HostData::new(superseded.guest.boot.host_data.0));
    record.site_svn = 2;
    let since = Instant::now();
    service.enroll(record);
    superseded.is_cut(&gate, since);
    Inside::come(&gate, &service, Guest::boot("site-2", host_data)).is_in(&service);

    let mut leaked = Inside::come(&gate, &service, service.enrolled("site-3"));
    let keys: Value = serde_json::from_str(&service.works(&["keys", "list", "--json"])).unwrap();
    let kid = keys[0]["kid"].as_str().unwrap().to_owned();
    service.works(&["keys", "rotate", "--delay", "0"]);
    let since = Instant::now();
    service.works(&["keys", "retire", &kid, "--now", "--reason", "leaked"]);
    leaked.tunnel.reset(Duration::from_secs(5));
    assert!(since.elapsed() < SECOND, "{:?}", since.elapsed());
    let (code, _) = gate.door.refusal(&leaked.guest.boot, &leaked.token);
    assert!(["withdrawn", "token_key"].contains(&code.as_str()), "{code}");
    let guest = leaked.guest.clone();
    Inside::come(&gate, &service, guest).is_in(&service);
}

#[test]
fn a_revoked_chip_or_image_cuts_everybody_on_it() {
    for (kind, value) in [("chip", processor().platform().chip_id.to_string()), ("image", BASE.to_string())] {
        let service = Service::start();
        let gate = gate_of(&service);
        let mut sites = ["site-1", "site-2"].map(|site| Inside::come(&gate, &service, service.enrolled(site)));
        let since = Instant::now();
        service.works(&["revoke", kind, &value, "--reason", "stolen"]);
        for site in &mut sites {
            site.is_cut(&gate, since);
        }
        assert!(service.attest(&sites[0].guest, |_| ()).is_err());
    }
}

/// The site's own evidence is refused: it is cut. Somebody else's is, under its HOST_DATA: it is not.
#[test]
fn refused_evidence_cuts_the_boot_it_is_of_and_no_other() {
    let service = Service::start();
    let gate = gate_of(&service);
    let mut inside = Inside::come(&gate, &service, service.enrolled("site-1"));
    // A machine anywhere with the site's HOST_DATA, and a base of its own: the report is genuine, the boot is another.
    let stranger = inside.guest.again();
    let refused = service.attest(&stranger, |fields| fields.measurement = coffer_evidence::LaunchDigest::new([0xEE; 48]));
    assert!(matches!(refused, Err((403, _))), "{refused:?}");
    let refused = service.attest(&stranger, |fields| fields.policy = GuestPolicy(0xB_0000));
    assert!(matches!(refused, Err((403, _))), "{refused:?}");
    std::thread::sleep(SECOND);
    inside.is_in(&service);

    let since = Instant::now();
    let refused = service.attest(&inside.guest, |fields| fields.policy = GuestPolicy(0xB_0000));
    assert!(matches!(refused, Err((403, _))), "{refused:?}");
    inside.is_cut(&gate, since);
    // Well again, it comes back.
    next_second();
    let guest = inside.guest.clone();
    Inside::come(&gate, &service, guest).is_in(&service);
}

#[test]
fn what_another_role_project_or_root_was_given_opens_no_gate() {
    let service = Service::start();
    let gate = gate_of(&service);
    for (guest, code) in [
        (service.enrolled_as("other", "site-1", Role::Client), "project"),
        (service.enrolled_as("demo", "aggregator", Role::Superlink), "role"),
        (service.enrolled_as("demo", "server", Role::Server), "role"),
    ] {
        assert_eq!(gate.door.refusal(&guest.boot, &service.token(&guest)).0, code);
    }
    let guest = service.enrolled("site-1");
    let token = service.token(&guest);
    // Another service's gate, whose service has the same name; and another service's site at this gate.
    let other = Service::start();
    let elsewhere = gate_of(&other);
    assert_eq!(elsewhere.door.refusal(&guest.boot, &token).0, "token_key");
    let theirs = other.enrolled("site-1");
    assert_eq!(gate.door.refusal(&theirs.boot, &other.token(&theirs)).0, "token_key");
    assert_eq!(gate.door.tunneled(&guest.boot, &token).echo(b"through").unwrap(), b"through");
    assert_eq!(gate.upstream.connections(), 1);
}

/// Evidence binds the keys of its own boot: who relays it, from wherever, gets no token for a key of theirs.
#[test]
fn relayed_evidence_gives_no_token_for_another_key_and_the_token_of_the_right_one_is_of_no_use() {
    let service = Service::start();
    let gate = gate_of(&service);
    let guest = service.enrolled("site-1");
    let thief = BootKey::generate();
    let refused = service.attest_relayed(&guest, &thief);
    assert!(matches!(&refused, Err((403, _))), "{refused:?}");
    // Whoever carries the guest's own messages along gets to read its token at most.
    let token = service.attest_relayed(&guest, &guest.boot.key).unwrap();
    let relay = Boot { key: thief, ..guest.boot.clone() };
    assert_eq!(gate.door.refusal(&relay, &token).0, "not_the_key");
    gate.door.tunneled(&guest.boot, &token);
}

/// A site booted twice: the newer boot has the lease, by what the service says of both.
#[test]
fn a_clone_on_another_machine_and_its_original_do_not_share_a_lease() {
    let service = Service::start();
    let gate = gate_of(&service);
    let mut first = Inside::come(&gate, &service, service.enrolled("site-1"));
    let mut second = Inside::come(&gate, &service, first.guest.again());
    first.tunnel.reset(Duration::from_secs(5));
    assert_eq!(refusal(&first.lease.answer().unwrap()).0, "replaced");
    assert_eq!(gate.door.refusal(&first.guest.boot, &service.token(&first.guest)).0, "replaced");
    second.is_in(&service);
}

/// With the service gone leases go on to their end; what it took back while the gate was away is known before anybody is let in.
#[test]
fn neither_a_restart_of_the_service_nor_of_the_gate_loses_what_was_taken_back() {
    let mut service = Service::start();
    let mut gate = gate_of(&service);
    let mut inside = Inside::come(&gate, &service, service.enrolled("site-1"));
    let mut suspended = Inside::come(&gate, &service, service.enrolled("site-2"));
    service.down();
    std::thread::sleep(SECOND);
    assert_eq!(inside.tunnel.echo(b"nobody is asked").unwrap(), b"nobody is asked");
    gate.door.tunneled(&inside.guest.boot, &inside.token);
    service.up();
    inside.is_in(&service);
    // It is heard again, in its new epoch.
    service.works(&["site", "suspend", "demo/site-2", "--reason", "test"]);
    suspended.tunnel.reset(Duration::from_secs(15));

    gate.down();
    service.works(&["site", "suspend", "demo/site-1", "--reason", "while the gate was down"]);
    gate.up();
    assert_eq!(gate.door.refusal(&inside.guest.boot, &inside.token).0, "withdrawn");
    assert_eq!(gate.door.refusal(&suspended.guest.boot, &suspended.token).0, "withdrawn");
    next_second();
    service.works(&["site", "resume", "demo/site-1", "--reason", "test"]);
    let guest = inside.guest.clone();
    let mut inside = Inside::come(&gate, &service, guest);

    // Leases are rebuilt from tokens: whoever has a good one is in again without asking the service.
    gate.kill();
    inside.tunnel.end(Duration::from_secs(5));
    gate.up();
    let token = service.token(&inside.guest);
    let mut again = gate.door.tunneled(&inside.guest.boot, &token);
    assert_eq!(again.echo(b"back").unwrap(), b"back");
    assert_eq!(gate.door.refusal(&suspended.guest.boot, &suspended.token).0, "withdrawn");
}

/// The gate goes by the service's clock: it does not matter by how much its own is off, nor in which direction.
#[test]
fn clocks_an_hour_apart_shut_nobody_out_and_keep_nobody_in() {
    for (service_ahead, gate_ahead) in [(None, Some(3600)), (None, Some(-3600)), (Some(-3600), None)] {
        let service = Service::ahead(service_ahead);
        let gate = Gate::of_service_with(&service, &Settings { ahead: gate_ahead, check_frequency: 60, ..Settings::default() });
        in_touch(&gate);
        let mut inside = Inside::come(&gate, &service, service.enrolled("site-1"));
        inside.is_in(&service);
        let since = Instant::now();
        service.works(&["site", "suspend", "demo/site-1", "--reason", "test"]);
        inside.is_cut(&gate, since);
        let off = gate.status()["service"]["clock_ahead_seconds"].as_i64().unwrap();
        let expected = gate_ahead.unwrap_or(0) - service_ahead.unwrap_or(0);
        assert!((expected - 2..=expected + 2).contains(&off), "{off}, expected {expected}");
    }
}
