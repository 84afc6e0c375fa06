//! What is taken back, by the service or by the gate's operator, ends connections at once and keeps old tokens out.

use std::time::{Duration, Instant};

use coffer_token::{Hex, Withdrawn};

use crate::support::{Boot, Gate, Issuer, Wire, eventually, now, random, refusal};

const SECOND: Duration = Duration::from_secs(1);

/// A site that is in, with a lease connection and two tunnels that carry bytes.
struct Inside {
    boot: Boot,
    token: String,
    lease: Wire,
    tunnels: [Wire; 2],
}

impl Inside {
    fn come(gate: &Gate, issuer: &Issuer, boot: Boot) -> Self {
        let token = issuer.token(&boot);
        let lease = gate.door.leased(&boot, &token);
        let mut tunnels = [gate.door.tunneled(&boot, &token), gate.door.tunneled(&boot, &token)];
        for tunnel in &mut tunnels {
            assert_eq!(tunnel.echo(b"hello").unwrap(), b"hello");
        }
        Self { boot, token, lease, tunnels }
    }

    /// All its connections are cut: RST for the workload's, a last word for the guest. How long after `since`.
    #[track_caller]
    fn is_cut(&mut self, since: Instant, code: &str) -> Duration {
        for tunnel in &mut self.tunnels {
            tunnel.reset(Duration::from_secs(5));
        }
        let after = since.elapsed();
        assert_eq!(refusal(&self.lease.answer().unwrap()).0, code);
        after
    }

    #[track_caller]
    fn is_in(&mut self) {
        for tunnel in &mut self.tunnels {
            assert_eq!(tunnel.echo(b"still here").unwrap(), b"still here");
        }
    }
}

/// Waits for the next second: what is issued then is newer than what was taken back before.
fn next_second() {
    let then = now();
    while now() <= then {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_the_service_takes_back_is_cut_within_a_second_and_nothing_else_is() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer).in_touch(&issuer);
    let mut bystander = Inside::come(&gate, &issuer, Boot::of("bystander"));
    for (site, code) in [("site-a", "site_suspended"), ("site-b", "site_revoked"), ("site-c", "chip_revoked")] {
        let boot = Boot::of(site);
        let mut inside = Inside::come(&gate, &issuer, boot.clone());
        let withdrawn = match code {
            "chip_revoked" => Withdrawn::Instance { host_data: boot.host_data, instance: boot.instance },
            _ => Withdrawn::Site { host_data: boot.host_data },
        };
        let since = Instant::now();
        issuer.withdraw(code, withdrawn);
        let after = inside.is_cut(since, "withdrawn");
        assert!(after < SECOND, "{code}: {after:?}");
        gate.logged(&[code, site]);
        // Whoever shows the old token is refused, whichever second it is now.
        assert_eq!(gate.door.refusal(&boot, &inside.token).0, "withdrawn");
        next_second();
        assert_eq!(gate.door.refusal(&boot, &inside.token).0, "withdrawn");
        // What was issued after it is worth something again.
        Inside::come(&gate, &issuer, boot).is_in();
        bystander.is_in();
    }
}

#[test]
fn an_image_or_a_token_key_that_is_taken_back_cuts_everybody_who_rests_on_it() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer).in_touch(&issuer);
    for (code, withdrawn) in [
        ("launch_digest_revoked", Withdrawn::Image { launch_digest: Hex([0xB0; 48]) }),
        ("token_key_revoked", Withdrawn::TokenKey { kid: issuer.kid() }),
    ] {
        let (one, other) = (Boot::of("site-1"), Boot::of("site-2"));
        let mut inside = [Inside::come(&gate, &issuer, one), Inside::come(&gate, &issuer, other)];
        let since = Instant::now();
        issuer.withdraw(code, withdrawn);
        for site in &mut inside {
            let after = site.is_cut(since, "withdrawn");
            assert!(after < SECOND, "{code}: {after:?}");
            assert_eq!(gate.door.refusal(&site.boot, &site.token).0, "withdrawn");
        }
        next_second();
    }
    let boot = Boot::of("site-1");
    let old = issuer.token(&boot);
    issuer.change_key();
    assert_ne!(issuer.token(&boot), old);
    Inside::come(&gate, &issuer, boot).is_in();
}

/// Anybody with a machine of their own can put another site's HOST_DATA into a report and have it refused: an instance of theirs falls.
#[test]
fn refused_evidence_of_another_instance_cuts_nobody() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer).in_touch(&issuer);
    let mut inside = Inside::come(&gate, &issuer, Boot::of("site-1"));
    let lists = issuer.lists();
    issuer.withdraw("launch_digest", Withdrawn::Instance { host_data: inside.boot.host_data, instance: Hex(random()) });
    issuer.withdraw("launch_digest", Withdrawn::Instance { host_data: Hex(random()), instance: inside.boot.instance });
    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: Hex(random()) });
    eventually("the gate's look at them", Duration::from_secs(5), || (issuer.lists() > lists + 1).then_some(()));
    inside.is_in();
    let token = issuer.token(&inside.boot);
    assert!(matches!(inside.lease.renew(&token), coffer_token::lease::Answer::Admitted { .. }));
}

/// One thousand and some of them come in several stretches.
#[test]
fn many_withdrawals_at_once_are_all_heard() {
    let issuer = Issuer::start();
    for _ in 0..1500 {
        issuer.withdraw("site_revoked", Withdrawn::Site { host_data: Hex(random()) });
    }
    let boot = Boot::of("site-1");
    let old = issuer.token(&boot);
    issuer.withdraw("site_revoked", Withdrawn::Site { host_data: boot.host_data });
    let gate = Gate::of(&issuer).in_touch(&issuer);
    assert_eq!(gate.door.refusal(&boot, &old).0, "withdrawn");
    let mut other = Inside::come(&gate, &issuer, Boot::of("site-2"));
    issuer.withdraw("site_revoked", Withdrawn::Site { host_data: other.boot.host_data });
    other.is_cut(Instant::now(), "withdrawn");
}

#[test]
fn the_operator_cuts_a_site_for_a_while_or_until_they_lift_it_whatever_restarts() {
    let issuer = Issuer::start();
    let mut gate = Gate::of(&issuer).in_touch(&issuer);
    let (boot, bystander) = (Boot::of("site-1"), Boot::of("site-2"));
    let mut inside = Inside::come(&gate, &issuer, boot.clone());
    let mut other = Inside::come(&gate, &issuer, bystander.clone());
    let since = Instant::now();
    gate.works(&["cut", "site-1"]);
    let after = inside.is_cut(since, "cut");
    assert!(after < SECOND, "{after:?}");
    gate.logged(&["cut", "site-1"]);
    assert_eq!((&gate.status()["gone"][0]["site"], &gate.status()["gone"][0]["last"]), (&"site-1".into(), &"cut".into()));
    next_second();
    assert_eq!(gate.door.refusal(&boot, &issuer.token(&boot)).0, "cut");
    other.is_in();

    gate.down();
    gate.up();
    assert_eq!(gate.door.refusal(&boot, &issuer.token(&boot)).0, "cut");
    Inside::come(&gate, &issuer, bystander).is_in();
    gate.works(&["cut", "site-1", "--lift"]);
    let mut back = Inside::come(&gate, &issuer, boot.clone());
    back.is_in();

    gate.works(&["cut", "site-1", "--for", "2s"]);
    let cut = Instant::now();
    back.is_cut(Instant::now(), "cut");
    assert_eq!(gate.door.refusal(&boot, &issuer.token(&boot)).0, "cut");
    eventually("the end of the cut", Duration::from_secs(10), || {
        matches!(gate.door.tunnel(&boot, &issuer.token(&boot)).1, coffer_token::lease::Answer::Admitted { .. }).then_some(())
    });
    assert!(cut.elapsed() > SECOND, "{:?}", cut.elapsed());
}

/// A site may be kept out before it was ever seen, and one that the gate does not know is no mistake of the gate's.
#[test]
fn a_cut_holds_for_a_site_that_was_never_here() {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer);
    gate.works(&["cut", "site-7"]);
    let boot = Boot::of("site-7");
    assert_eq!(gate.door.refusal(&boot, &issuer.token(&boot)).0, "cut");
    let wrong = gate.run(&["cut", "no/site"]);
    assert!(!wrong.status.success());
}
