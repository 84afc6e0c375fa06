use coffer_token::{UnixTime, Withdrawn};

use super::*;
use crate::admission::proof::tests::proof;

const T: u64 = 1_795_400_000;
const FREQUENCY: u64 = 120;

/// A gate whose clocks are numbers.
struct Gate {
    leases: Leases,
    start: Instant,
}

impl Gate {
    fn new() -> Self {
        let instances = Instances { burst: 2, every: Duration::from_secs(300) };
        Self { leases: Leases::new(Duration::from_secs(FREQUENCY), instances), start: Instant::now() }
    }

    /// So many seconds after the start, when the service's clock says so much.
    fn at(&self, monotonic: u64, unix: u64) -> Now {
        Now { at: self.start + Duration::from_secs(monotonic), unix: UnixTime(unix) }
    }

    fn admit(&self, proof: &Proof, now: Now) -> Result<u64, Reason> {
        match self.leases.prepare(proof, now)? {
            Step::Extend => self.leases.extend(proof, now).map(|(_, left)| left.as_secs()),
            Step::Begin(leased) => self.leases.install(&leased, proof, now).map(|left| left.as_secs()),
        }
    }

    fn of(&self, site: &str) -> Option<Arc<Leased>> {
        self.leases.views().into_iter().map(|view| view.leased).find(|leased| leased.site == site)
    }
}

fn withdrawal(withdrawn: Withdrawn, at: u64) -> Withdrawal {
    Withdrawal { number: 1, at, code: "site_suspended".into(), withdrawn }
}

#[test]
fn a_lease_ends_check_frequency_after_its_newest_token_was_issued() {
    let gate = Gate::new();
    assert_eq!(gate.admit(&proof("site-1", 1, T), gate.at(10, T + 10)), Ok(FREQUENCY - 10));
    let leased = gate.of("site-1").expect("leased");
    assert_eq!(gate.leases.expire(gate.at(119, 0).at), Some(gate.at(120, 0).at));
    assert_eq!(gate.admit(&proof("site-1", 1, T + 60), gate.at(61, T + 61)), Ok(FREQUENCY - 1));
    assert_eq!(gate.admit(&proof("site-1", 1, T), gate.at(62, T + 62)), Ok(FREQUENCY - 2), "an older token takes nothing away");
    assert_eq!(gate.leases.expire(gate.at(179, 0).at), Some(gate.at(180, 0).at));
    assert_eq!(leased.over(), None);
    assert_eq!(gate.leases.expire(gate.at(180, 0).at), None);
    assert_eq!(leased.over(), Some(Reason::LeaseOver));
    // A token as old as that begins nothing.
    assert_eq!(gate.admit(&proof("site-1", 1, T + 60), gate.at(181, T + 180)), Err(Reason::TokenOld));
}

#[test]
fn a_clock_that_jumps_an_hour_moves_no_lease() {
    for jump in [-3600_i64, 3600] {
        let gate = Gate::new();
        gate.admit(&proof("site-1", 1, T), gate.at(0, T)).expect("admitted");
        let jumped = T.checked_add_signed(jump).expect("a time");
        // The service's clock now says something else; the lease does not care, and a renewal counts by the new clock.
        assert_eq!(gate.leases.expire(gate.at(60, jumped + 60).at), Some(gate.at(120, 0).at), "{jump}");
        let renewed = gate.admit(&proof("site-1", 1, jumped + 80), gate.at(80, jumped + 80));
        assert_eq!(renewed, Ok(FREQUENCY), "{jump}");
        let end = 200;
        assert_eq!(gate.leases.expire(gate.at(end - 1, 0).at), Some(gate.at(end, 0).at), "{jump}");
        assert_eq!(gate.leases.expire(gate.at(end, 0).at), None, "{jump}");
        // And connecting anew begins a lease by the new clock.
        assert_eq!(gate.admit(&proof("site-1", 1, jumped + end), gate.at(end, jumped + end)), Ok(FREQUENCY), "{jump}");
    }
}

/// A site that is started again while the SuperLink is away is let in when that is back, however often it tried meanwhile.
#[test]
fn attempts_that_come_to_nothing_use_up_no_change_of_instance() {
    let gate = Gate::new();
    gate.admit(&proof("site-1", 1, T), gate.at(0, T)).expect("admitted");
    for second in 1..50 {
        let step = gate.leases.prepare(&proof("site-1", 2, T), gate.at(second, T + second));
        assert!(matches!(step, Ok(Step::Begin(_))), "{step:?}");
    }
    gate.admit(&proof("site-1", 2, T), gate.at(50, T + 50)).expect("admitted");
}

#[test]
fn a_renewal_keeps_key_and_config() {
    let gate = Gate::new();
    let first = proof("site-1", 1, T);
    gate.admit(&first, gate.at(0, T)).expect("admitted");
    let other_key = Proof { jkt: Jkt::new([9; 32]), issued_at: T + 1, ..first.clone() };
    assert_eq!(gate.admit(&other_key, gate.at(1, T + 1)), Err(Reason::RenewalChanged));
    let other_config = Proof { host_data: Hex([9; 32]), issued_at: T + 1, ..first.clone() };
    assert_eq!(gate.admit(&other_config, gate.at(1, T + 1)), Err(Reason::RenewalChanged));
    assert_eq!(gate.of("site-1").expect("leased").over(), None, "who tries that ends nobody's lease");
    assert_eq!(gate.admit(&proof("site-1", 1, T + 1), gate.at(1, T + 1)), Ok(FREQUENCY));
}

#[test]
fn the_newer_instance_replaces_the_older_for_good_at_a_bounded_rate() {
    let gate = Gate::new();
    let mut changes = gate.leases.changes();
    gate.admit(&proof("site-1", 1, T), gate.at(0, T)).expect("admitted");
    let older = gate.of("site-1").expect("leased");
    gate.admit(&proof("site-1", 2, T), gate.at(1, T + 1)).expect("admitted");
    assert_eq!(older.over(), Some(Reason::Replaced));
    // The clone keeps coming, with newer tokens too, and does not flap.
    for second in 2..50 {
        assert_eq!(gate.admit(&proof("site-1", 1, T + second), gate.at(second, T + second)), Err(Reason::Replaced));
    }
    assert_eq!(gate.of("site-1").expect("leased").instance, Hex([2; 32]));
    gate.admit(&proof("site-1", 3, T + 50), gate.at(50, T + 50)).expect("the second change of a burst of two");
    assert_eq!(gate.admit(&proof("site-1", 4, T + 51), gate.at(51, T + 51)), Err(Reason::InstanceRate));
    gate.admit(&proof("site-2", 9, T + 51), gate.at(51, T + 51)).expect("another site has a bound of its own");
    gate.admit(&proof("site-1", 4, T + 400), gate.at(400, T + 400)).expect("after a while");
    let codes: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok())
        .map(|change| match change {
            Change::Admitted(leased) => (leased.instance.0[0], "admitted"),
            Change::Ended { leased, code } => (leased.instance.0[0], code),
        })
        .collect();
    let expected = [(1, "admitted"), (1, "replaced"), (2, "admitted"), (2, "replaced"), (3, "admitted"), (9, "admitted")];
    assert_eq!(codes[..6], expected);
}

#[test]
fn an_older_instance_does_not_come_back_after_the_lease_nor_after_a_restart() {
    let gate = Gate::new();
    gate.admit(&proof("site-1", 1, T), gate.at(0, T)).expect("admitted");
    gate.leases.expire(gate.at(FREQUENCY, 0).at);
    gate.admit(&proof("site-1", 2, T + 200), gate.at(200, T + 200)).expect("admitted");
    gate.leases.expire(gate.at(400, 0).at);
    assert_eq!(gate.admit(&proof("site-1", 1, T + 400), gate.at(400, T + 400)), Err(Reason::Replaced));
    let restarted = Gate::new();
    restarted.leases.restore(gate.leases.past(), restarted.at(0, T + 401));
    assert_eq!(restarted.admit(&proof("site-1", 1, T + 401), restarted.at(0, T + 401)), Err(Reason::Replaced));
    restarted.admit(&proof("site-1", 2, T + 401), restarted.at(0, T + 401)).expect("the newest");
}

#[test]
fn what_is_withdrawn_ends_at_once_and_only_a_newer_token_begins_again() {
    let kinds = |p: &Proof| {
        [
            Withdrawn::Site { host_data: p.host_data },
            Withdrawn::Instance { host_data: p.host_data, instance: p.instance },
            Withdrawn::Image { launch_digest: p.launch_digest },
            Withdrawn::TokenKey { kid: p.kid.clone() },
        ]
    };
    for kind in kinds(&proof("site-1", 1, T)) {
        let gate = Gate::new();
        let bystander = Proof { host_data: Hex([8; 32]), launch_digest: Hex([8; 48]), kid: "key-2".into(), ..proof("site-2", 8, T) };
        gate.admit(&proof("site-1", 1, T), gate.at(0, T)).expect("admitted");
        gate.admit(&bystander, gate.at(0, T)).expect("admitted");
        let leased = gate.of("site-1").expect("leased");
        assert!(gate.leases.withdraw(&[withdrawal(kind.clone(), T + 5)], gate.at(5, T + 5)));
        assert_eq!(leased.over(), Some(Reason::Withdrawn), "{kind:?}");
        assert!(gate.of("site-2").is_some(), "{kind:?}: one bad site ends nobody else's lease");
        for replayed in [T, T + 5] {
            assert_eq!(gate.admit(&proof("site-1", 1, replayed), gate.at(6, T + 6)), Err(Reason::Withdrawn), "{kind:?}");
        }
        assert!(!gate.leases.withdraw(&[withdrawal(kind.clone(), T + 5)], gate.at(7, T + 7)), "no news");
        let restarted = Gate::new();
        restarted.leases.restore(gate.leases.past(), restarted.at(0, T + 7));
        assert_eq!(restarted.admit(&proof("site-1", 1, T + 5), restarted.at(0, T + 7)), Err(Reason::Withdrawn), "{kind:?}");
        assert_eq!(gate.admit(&proof("site-1", 1, T + 7), gate.at(7, T + 7)), Ok(FREQUENCY), "{kind:?}");
    }
}

#[test]
fn a_withdrawal_that_comes_while_flower_is_asked_counts() {
    let gate = Gate::new();
    let token = proof("site-1", 1, T);
    let Ok(Step::Begin(leased)) = gate.leases.prepare(&token, gate.at(0, T)) else { panic!("a lease begins") };
    gate.leases.withdraw(&[withdrawal(Withdrawn::Site { host_data: token.host_data }, T)], gate.at(1, T + 1));
    assert_eq!(gate.leases.install(&leased, &token, gate.at(2, T + 2)), Err(Reason::Withdrawn));
    assert!(gate.leases.views().is_empty());
}

#[test]
fn a_cut_ends_the_lease_and_keeps_the_site_out_as_long_over_a_restart() {
    let gate = Gate::new();
    gate.admit(&proof("site-1", 1, T), gate.at(0, T)).expect("admitted");
    let leased = gate.of("site-1").expect("leased");
    assert!(gate.leases.cut("site-1", T + 600) && !gate.leases.cut("site-9", T + 600));
    assert_eq!(leased.over(), Some(Reason::Cut));
    assert_eq!(gate.admit(&proof("site-1", 1, T + 10), gate.at(10, T + 10)), Err(Reason::Cut));
    let restarted = Gate::new();
    restarted.leases.restore(gate.leases.past(), restarted.at(0, T + 11));
    assert_eq!(restarted.admit(&proof("site-1", 1, T + 11), restarted.at(0, T + 11)), Err(Reason::Cut));
    assert!(restarted.leases.lift("site-1") && !restarted.leases.lift("site-1"));
    restarted.admit(&proof("site-1", 1, T + 12), restarted.at(1, T + 12)).expect("lifted");
    gate.admit(&proof("site-1", 1, T + 600), gate.at(600, T + 600)).expect("over by itself");
    assert_eq!(gate.leases.cuts(gate.at(600, T + 600)), []);
}

#[test]
fn a_node_key_that_is_shown_later_joins_the_lease() {
    let gate = Gate::new();
    gate.admit(&proof("site-1", 1, T), gate.at(0, T)).expect("admitted");
    let first = gate.of("site-1").expect("leased");
    let secret = p384::SecretKey::from_slice(&[7; 48]).expect("a scalar");
    let node = NodeKey::from_sec1(&secret.public_key().to_sec1_bytes()).expect("a point");
    let with_node = Proof { node: Some(node.clone()), issued_at: T + 1, ..proof("site-1", 1, T) };
    gate.admit(&with_node, gate.at(1, T + 1)).expect("admitted");
    assert_eq!(first.over(), None);
    let second = gate.of("site-1").expect("leased");
    assert_eq!(second.node, Some(node));
    gate.leases.cut("site-1", T + 60);
    assert_eq!((first.over(), second.over()), (Some(Reason::Cut), Some(Reason::Cut)), "both are one lease");
}
