//! The guest's clock. Its RTC is the host's, so it is only trusted forwards to a floor, until the key service has said what time it is.
//! Nothing ends or lives on by it: leases and tokens end by the gate's and the service's clocks, schedules run on the monotonic one.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// How far the clock may be from the service's before it is set: the seconds a handshake itself takes.
const SLACK_SECONDS: u64 = 10;

/// Moves the clock up to `not_before` if the host's RTC is behind it: a floor, so that certificates and tokens that had
/// expired when the site was built stay expired.
pub fn raise_to(not_before: u64) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now < not_before { set(not_before) } else { Ok(()) }
}

/// Takes the service's time, the only word about the time that does not come from the host: at the first token, and at each later
/// one, because a host can move its guest's clock.
pub fn follow(issued_at: u64) -> io::Result<()> {
    let now = u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0);
    if is_off(now, issued_at) { set(issued_at) } else { Ok(()) }
}

const fn is_off(now: u64, issued_at: u64) -> bool {
    now.abs_diff(issued_at) > SLACK_SECONDS
}

fn set(seconds: u64) -> io::Result<()> {
    let tv_sec = i64::try_from(seconds).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec: 0 })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_a_host_moved_is_set_and_one_that_a_handshake_is_behind_is_not() {
        let hour = 3600;
        for (now, issued_at, off) in
            [(100, 100, false), (110, 100, false), (90, 100, false), (111, 100, true), (100 + hour, 100, true), (0, hour, true)]
        {
            assert_eq!(is_off(now, issued_at), off, "{now} {issued_at}");
        }
        assert!(set(u64::MAX).is_err(), "no time of this kernel");
    }
}
