//! What refusals, the power button and the workload's own end lead to: a state machine without clock or system calls. The supervisor
//! (`workload/supervisor.rs`) tells it what happens and does what it says.

use std::time::{Duration, Instant};

use coffer_manifest::FailureAction;

/// How long the workload may take to stop. With what follows (sync, unmount) the guest is off within ten seconds.
pub const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// How long after the refusal that stopped the workload the guest waits to be allowed again.
pub const QUARANTINE: Duration = Duration::from_secs(15 * 60);

/// The service's no, in its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason code.
    pub code: String,
    /// Id in the service's log.
    pub id: String,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The service said yes.
    Affirmed,
    /// The service said no.
    Refused(Refusal),
    /// No process of the workload is left.
    Ended,
    /// Somebody pressed the power button.
    Button,
    /// Time has passed.
    Tick,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Send the workload its stop signal.
    Stop,
    /// Kill it: its time is over.
    Kill,
    /// It has stopped; say so and wait to be allowed again.
    Quarantine,
    /// Refused once more; say when the next attempt is.
    StayInQuarantine,
    /// Start it again.
    Start,
    /// Cut the power.
    PowerOff(Last),
}

/// Why the power is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Last {
    /// The workload ended, of itself or because of the button.
    Ended,
    /// The service says no, and the site config asks for no more patience.
    Refused(Refusal),
}

/// Where a workload that was started stands.
#[derive(Debug)]
pub struct Supervision {
    action: FailureAction,
    phase: Phase,
    /// The service's last word, if it was a no.
    refusal: Option<Refusal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// It has its stop signal.
    Stopping {
        /// None once it was killed.
        kill_at: Option<Instant>,
        /// When a quarantine that follows is over; none where the button stopped it.
        until: Option<Instant>,
    },
    Quarantined {
        until: Instant,
    },
    Over,
}

impl Supervision {
    /// Of a workload that runs.
    #[must_use]
    pub const fn new(action: FailureAction) -> Self {
        Self { action, phase: Phase::Running, refusal: None }
    }

    /// When [`Event::Tick`] is next of use.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopping { kill_at, .. } => kill_at,
            Phase::Quarantined { until } => Some(until),
            Phase::Running | Phase::Over => None,
        }
    }

    /// Takes an event; says what to do, if anything.
    pub fn on(&mut self, event: Event, now: Instant) -> Option<Act> {
        match event {
            Event::Affirmed => self.affirmed(),
            Event::Refused(refusal) => self.refused(refusal, now),
            Event::Ended => self.ended(now),
            Event::Button => self.button(now),
            Event::Tick => self.tick(now),
        }
    }

    fn affirmed(&mut self) -> Option<Act> {
        self.refusal = None;
        match self.phase {
            Phase::Quarantined { .. } => {
                self.phase = Phase::Running;
                Some(Act::Start)
            }
            // While it stops there is nothing to start yet: `ended` looks at the last word.
            _ => None,
        }
    }

    fn refused(&mut self, refusal: Refusal, now: Instant) -> Option<Act> {
        self.refusal = Some(refusal.clone());
        match (self.phase, self.action) {
            (Phase::Running, FailureAction::StopJob) => {
                self.phase = Phase::Stopping { kill_at: Some(now + STOP_PATIENCE), until: Some(now + QUARANTINE) };
                Some(Act::Stop)
            }
            (Phase::Running, FailureAction::Shutdown) => self.power_off(Last::Refused(refusal)),
            (Phase::Quarantined { .. }, _) => Some(Act::StayInQuarantine),
            (Phase::Running, FailureAction::None) | (Phase::Stopping { .. } | Phase::Over, _) => None,
        }
    }

    fn ended(&mut self, now: Instant) -> Option<Act> {
        match (self.phase, &self.refusal) {
            // Stopped by a refusal that has been taken back since.
            (Phase::Stopping { until: Some(_), .. }, None) => {
                self.phase = Phase::Running;
                Some(Act::Start)
            }
            (Phase::Stopping { until: Some(until), .. }, Some(_)) if now < until => {
                self.phase = Phase::Quarantined { until };
                Some(Act::Quarantine)
            }
            (Phase::Running | Phase::Stopping { .. }, _) => self.power_off(Last::Ended),
            (Phase::Quarantined { .. } | Phase::Over, _) => None,
        }
    }

    fn button(&mut self, now: Instant) -> Option<Act> {
        match self.phase {
            Phase::Running => {
                self.phase = Phase::Stopping { kill_at: Some(now + STOP_PATIENCE), until: None };
                Some(Act::Stop)
            }
            // It has its signal and its time already; what changes is what comes after.
            Phase::Stopping { kill_at, until: Some(_) } => {
                self.phase = Phase::Stopping { kill_at, until: None };
                None
            }
            Phase::Quarantined { .. } => self.power_off(Last::Ended),
            Phase::Stopping { until: None, .. } | Phase::Over => None,
        }
    }

    fn tick(&mut self, now: Instant) -> Option<Act> {
        match (self.phase, &self.refusal) {
            (Phase::Stopping { kill_at: Some(kill_at), until }, _) if now >= kill_at => {
                self.phase = Phase::Stopping { kill_at: None, until };
                Some(Act::Kill)
            }
            (Phase::Quarantined { until }, Some(refusal)) if now >= until => {
                let last = Last::Refused(refusal.clone());
                self.power_off(last)
            }
            _ => None,
        }
    }

    fn power_off(&mut self, last: Last) -> Option<Act> {
        self.phase = Phase::Over;
        Some(Act::PowerOff(last))
    }
}

#[cfg(test)]
mod tests;
