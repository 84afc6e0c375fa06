//! *Now* at the gate: the service's clock, carried on by this machine's monotonic one.
//!
//! Tokens are judged by the clock that dated them. This machine's own wall clock counts only until the service was first heard, and not
//! where it is behind what the service said before a restart: a clock that was set back makes no expired token good.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coffer_token::UnixTime;

/// One moment, on both clocks that count.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic: what leases end by.
    pub at: Instant,
    /// The service's: what tokens are judged by.
    pub unix: UnixTime,
}

/// What the service's clock said, and when.
#[derive(Debug, Clone, Copy)]
struct Heard {
    unix: u64,
    at: Instant,
}

/// The service's clock, as far as it was heard.
#[derive(Debug)]
pub struct Clock {
    /// The service's time when it was last kept: nothing is earlier.
    floor: u64,
    heard: Mutex<Option<Heard>>,
}

impl Clock {
    /// Never heard yet by this process; `floor` is what was kept of it before, Unix seconds.
    #[must_use]
    pub const fn new(floor: u64) -> Self {
        Self { floor, heard: Mutex::new(None) }
    }

    /// What the next process may take for its floor: the service's time, and where that was not heard the floor there was.
    #[must_use]
    pub fn kept(&self) -> u64 {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if heard { self.now().unix.0 } else { self.floor }
    }

    /// The service said, in a statement it signed when answering, that it was `unix`; the answer was here at `at`.
    pub fn hear(&self, unix: u64, at: Instant) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Heard { unix, at });
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Now {
        self.at(Instant::now(), system())
    }

    /// A moment; `system` is what the wall clock says then.
    #[must_use]
    pub fn at(&self, at: Instant, system: u64) -> Now {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let unix =
            heard.map_or(system.max(self.floor), |heard| heard.unix.saturating_add(at.saturating_duration_since(heard.at).as_secs()));
        Now { at, unix: UnixTime(unix) }
    }

    /// By how many seconds the wall clock is ahead of the service's; `None` as long as that was never heard.
    #[must_use]
    pub fn ahead_seconds(&self) -> Option<i64> {
        let system = system();
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?;
        let service = self.at(Instant::now(), system).unix.0;
        i64::try_from(system).ok().zip(i64::try_from(service).ok()).map(|(system, service)| system - service)
    }
}

/// Seconds since 1970 by the wall clock; a clock before that reads as 0, which makes every token one from the future.
fn system() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_795_400_000;

    #[test]
    fn the_wall_clock_counts_until_the_service_was_heard_and_never_after() {
        let (clock, start) = (Clock::new(0), Instant::now());
        assert_eq!(clock.at(start, T).unix, UnixTime(T));
        assert_eq!(clock.ahead_seconds(), None);
        clock.hear(T + 3600, start);
        for wall in [0, T - 3600, T, T + 7200] {
            assert_eq!(clock.at(start + Duration::from_secs(5), wall).unix, UnixTime(T + 3605), "wall clock {wall}");
        }
        // The service was an hour off and was put right.
        clock.hear(T + 10, start + Duration::from_secs(10));
        assert_eq!(clock.at(start + Duration::from_secs(11), 0).unix, UnixTime(T + 11));
        assert!(clock.ahead_seconds().is_some());
    }

    #[test]
    fn a_wall_clock_set_back_over_a_restart_is_not_believed() {
        let (clock, start) = (Clock::new(T), Instant::now());
        for (wall, expected) in [(0, T), (T - 3600, T), (T, T), (T + 60, T + 60)] {
            assert_eq!(clock.at(start, wall).unix, UnixTime(expected), "wall clock {wall}");
        }
        assert_eq!(clock.kept(), T, "a wall clock is not what is kept");
        // The service itself was ahead before the restart, and was put right.
        clock.hear(T - 3600, start);
        assert_eq!(clock.at(start, T).unix, UnixTime(T - 3600));
        assert!((T - 3600..T - 3540).contains(&clock.kept()));
    }
}
