//! Waiting for sockets and for other threads at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};

/// A flag one can poll (eventfd(2)): once raised it is readable until it is cleared.
pub struct Event(OwnedFd);

impl Event {
    /// A flag that is down.
    ///
    /// # Errors
    /// What eventfd(2) says.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Raises it.
    pub fn raise(&self) {
        // Fails only where the counter is at its end, and then it is raised.
        let _ = write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Takes it down.
    pub fn clear(&self) {
        // Fails only where it is down already.
        let _ = read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `fds` has what it is polled for, or until `deadline`.
///
/// # Errors
/// What poll(2) says, except that an interrupted wait is a short one.
pub fn wait(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let timeout = deadline.map(|deadline| {
        // One millisecond more than is left, so that a wait that ends in time ends after the deadline.
        let left = deadline.saturating_duration_since(Instant::now()).saturating_add(Duration::from_millis(1));
        Timespec { tv_sec: left.as_secs().min(3600) as i64, tv_nsec: left.subsec_nanos().into() }
    });
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::PollFlags;

    use super::*;

    #[test]
    fn a_flag_stays_up_until_it_is_cleared() {
        let event = Event::new().expect("an event");
        let soon = || Some(Instant::now() + Duration::from_millis(20));
        let is_up = |event: &Event| {
            let mut fds = [PollFd::new(event, PollFlags::IN)];
            wait(&mut fds, soon()).expect("polls");
            fds[0].revents().contains(PollFlags::IN)
        };
        assert!(!is_up(&event));
        event.raise();
        event.raise();
        assert!(is_up(&event) && is_up(&event));
        event.clear();
        event.clear();
        assert!(!is_up(&event));
    }
}
