//! Every transition, on a clock of the tests' own.

use proptest::prelude::*;

use super::*;

/// A machine and its clock.
struct Run {
    supervision: Supervision,
    now: Instant,
}

impl Run {
    fn new(action: FailureAction) -> Self {
        Self { supervision: Supervision::new(action), now: Instant::now() }
    }

    fn on(&mut self, event: Event) -> Option<Act> {
        self.supervision.on(event, self.now)
    }

    /// Lets `seconds` pass.
    fn after(&mut self, seconds: u64, event: Event) -> Option<Act> {
        self.now += Duration::from_secs(seconds);
        self.on(event)
    }

    /// Refused, stopped within a second, in quarantine.
    fn quarantined() -> Self {
        let mut run = Self::new(FailureAction::StopJob);
        assert_eq!(run.on(no("revoked")), Some(Act::Stop));
        assert_eq!(run.after(1, Event::Ended), Some(Act::Quarantine));
        run
    }
}

fn refusal(code: &str) -> Refusal {
    Refusal { code: code.into(), id: "r-1".into() }
}

fn no(code: &str) -> Event {
    Event::Refused(refusal(code))
}

fn off(code: &str) -> Option<Act> {
    Some(Act::PowerOff(Last::Refused(refusal(code))))
}

const OFF: Option<Act> = Some(Act::PowerOff(Last::Ended));
const ACTIONS: [FailureAction; 3] = [FailureAction::StopJob, FailureAction::Shutdown, FailureAction::None];

#[test]
fn a_workload_that_ends_by_itself_ends_the_guest() {
    for action in ACTIONS {
        let mut run = Run::new(action);
        assert_eq!(run.on(Event::Affirmed), None);
        assert_eq!(run.after(10_000, Event::Tick), None);
        assert_eq!(run.on(Event::Ended), OFF);
        for event in [Event::Affirmed, no("revoked"), Event::Ended, Event::Button, Event::Tick] {
            assert_eq!(run.after(10_000, event), None, "over is over");
        }
    }
}

#[test]
fn the_button_stops_the_workload_and_kills_it_after_its_time() {
    for action in ACTIONS {
        let mut run = Run::new(action);
        assert_eq!(run.on(Event::Button), Some(Act::Stop));
        assert_eq!(run.supervision.due(), Some(run.now + STOP_PATIENCE));
        assert_eq!(run.on(Event::Button), None, "one signal is enough");
        assert_eq!(run.after(7, Event::Tick), None);
        assert_eq!(run.on(no("revoked")), None, "it is stopping");
        assert_eq!(run.on(Event::Affirmed), None);
        assert_eq!(run.after(1, Event::Tick), Some(Act::Kill));
        assert_eq!(run.after(1, Event::Tick), None, "killed once");
        assert_eq!(run.on(Event::Ended), OFF);
    }
}

#[test]
fn none_only_reports_and_shutdown_powers_off_at_once() {
    let mut run = Run::new(FailureAction::None);
    for _ in 0..100 {
        assert_eq!(run.after(60, no("revoked")), None);
        assert_eq!(run.on(Event::Tick), None);
    }
    assert_eq!(run.on(Event::Ended), OFF);

    let mut run = Run::new(FailureAction::Shutdown);
    assert_eq!(run.on(no("site_suspended")), off("site_suspended"));
    assert_eq!(run.on(Event::Ended), None);
}

#[test]
fn stop_job_waits_in_quarantine_for_fifteen_minutes_and_powers_off_with_the_last_refusal() {
    let mut run = Run::quarantined();
    assert_eq!(run.supervision.due(), Some(run.now + QUARANTINE - Duration::from_secs(1)), "counted from the refusal");
    for _ in 0..14 {
        assert_eq!(run.after(60, no("site_suspended")), Some(Act::StayInQuarantine));
        assert_eq!(run.on(Event::Tick), None);
    }
    assert_eq!(run.after(58, Event::Tick), None);
    assert_eq!(run.after(1, Event::Tick), off("site_suspended"));
}

#[test]
fn an_affirmed_guest_starts_its_workload_again_with_all_of_its_rights() {
    let mut run = Run::quarantined();
    assert_eq!(run.after(60, Event::Affirmed), Some(Act::Start));
    assert_eq!(run.supervision.due(), None);
    assert_eq!(run.on(Event::Affirmed), None);
    // A refusal after that begins a quarantine of its own.
    assert_eq!(run.after(10_000, no("revoked")), Some(Act::Stop));
    assert_eq!(run.on(Event::Ended), Some(Act::Quarantine));
    assert_eq!(run.supervision.due(), Some(run.now + QUARANTINE));
    assert_eq!(run.after(899, Event::Tick), None);
    assert_eq!(run.after(1, Event::Tick), off("revoked"));
}

#[test]
fn a_workload_that_does_not_stop_is_killed_before_its_quarantine() {
    let mut run = Run::new(FailureAction::StopJob);
    assert_eq!(run.on(no("revoked")), Some(Act::Stop));
    assert_eq!(run.after(8, Event::Tick), Some(Act::Kill));
    assert_eq!(run.on(Event::Ended), Some(Act::Quarantine));
    assert_eq!(run.supervision.due(), Some(run.now + QUARANTINE - Duration::from_secs(8)));
}

/// A service that changes its mind while the workload stops: what it said last counts when the workload has stopped, not before.
#[test]
fn flapping_answers_neither_start_two_workloads_nor_forget_the_last_word() {
    let mut run = Run::new(FailureAction::StopJob);
    assert_eq!(run.on(no("revoked")), Some(Act::Stop));
    for _ in 0..3 {
        assert_eq!(run.after(1, Event::Affirmed), None);
        assert_eq!(run.after(1, no("policy")), None);
    }
    assert_eq!(run.on(Event::Ended), Some(Act::Quarantine));

    let mut run = Run::new(FailureAction::StopJob);
    assert_eq!(run.on(no("revoked")), Some(Act::Stop));
    assert_eq!(run.after(1, Event::Affirmed), None);
    assert_eq!(run.after(1, Event::Ended), Some(Act::Start), "nothing to wait for");
    assert_eq!(run.on(no("revoked")), Some(Act::Stop));
}

#[test]
fn the_button_ends_a_quarantine_and_what_leads_to_it() {
    let mut run = Run::quarantined();
    assert_eq!(run.after(5, Event::Button), OFF);

    let mut run = Run::new(FailureAction::StopJob);
    assert_eq!(run.on(no("revoked")), Some(Act::Stop));
    let kill_at = run.supervision.due();
    assert_eq!(run.after(1, Event::Button), None, "it has its signal");
    assert_eq!(run.supervision.due(), kill_at, "and no more time for it");
    assert_eq!(run.on(Event::Affirmed), None);
    assert_eq!(run.on(Event::Ended), OFF, "no quarantine, and no second start");
}

#[test]
fn a_stop_that_outlasts_the_quarantine_has_none() {
    let mut run = Run::new(FailureAction::StopJob);
    assert_eq!(run.on(no("revoked")), Some(Act::Stop));
    assert_eq!(run.after(QUARANTINE.as_secs(), Event::Ended), OFF);
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![Just(Event::Affirmed), Just(no("revoked")), Just(Event::Ended), Just(Event::Tick), Just(Event::Button),];
    proptest::collection::vec((0u64..400, event), 0..40)
}

proptest! {
    /// Whatever happens in whatever order: a workload is started only when none runs and nobody says no, and a refused one is off,
    /// stopped or stopping.
    #[test]
    fn no_order_of_events_runs_two_workloads_or_a_refused_one(action in 0usize..3, events in events()) {
        let mut run = Run::new(ACTIONS[action]);
        let (mut runs, mut refused, mut stopping, mut over) = (true, false, false, false);
        for (seconds, event) in events {
            match &event {
                Event::Affirmed => refused = false,
                Event::Refused(_) => refused = true,
                // Only what runs can end.
                Event::Ended if !runs => continue,
                Event::Ended => runs = false,
                _ => {}
            }
            let quiet = over;
            let act = run.after(seconds, event.clone());
            prop_assert!(!quiet || act.is_none());
            match act {
                Some(Act::Stop) => {
                    prop_assert!(runs && !stopping);
                    stopping = true;
                }
                Some(Act::Kill) => prop_assert!(runs && stopping),
                Some(Act::Start) => {
                    prop_assert!(!runs && !refused);
                    (runs, stopping) = (true, false);
                }
                Some(Act::Quarantine | Act::StayInQuarantine) => prop_assert!(!runs && refused),
                Some(Act::PowerOff(_)) => (over, runs) = (true, false),
                None => {}
            }
            if refused && ACTIONS[action] != FailureAction::None {
                prop_assert!(!runs || stopping || over, "{event:?}");
            }
        }
    }
}
