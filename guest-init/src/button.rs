//! The power button: how a host asks for an orderly stop (QMP `system_powerdown`, ACPI, input event).

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

/// `struct input_event` of `include/uapi/linux/input.h` on x86-64: 16 bytes time, u16 type, u16 code, i32 value.
const EVENT_BYTES: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// How many events are looked at in one turn; a host could send keys without end.
const EVENTS_PER_TURN: usize = 64;

/// Every input device of the guest. A host without one can still cut the power.
pub struct PowerButton(Vec<File>);

impl PowerButton {
    /// Opens what there is.
    pub fn open() -> Self {
        Self::open_in(Path::new("/dev/input"))
    }

    fn open_in(folder: &Path) -> Self {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let events = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("event"));
        let open = |entry: fs::DirEntry| OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(entry.path()).ok();
        Self(events.filter_map(open).collect())
    }

    /// Waits for `patience`, or until the button is pressed; says whether it was.
    pub fn wait(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            if self.was_pressed() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut fds: Vec<_> = self.devices().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            // An error only wakes us early: the deadline still holds.
            let _ = poll(&mut fds, Some(&timeout));
        }
    }

    /// What to poll.
    pub fn devices(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd)
    }

    /// Whether the button has been pressed since the last call.
    pub fn was_pressed(&mut self) -> bool {
        let mut pressed = false;
        self.0.retain_mut(|device| {
            let mut event = [0; EVENT_BYTES];
            for _ in 0..EVENTS_PER_TURN {
                match device.read(&mut event) {
                    Ok(EVENT_BYTES) => pressed |= is_press(&event),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                    // Unplugged, or no input device after all: polling it would never rest.
                    _ => return false,
                }
            }
            true
        });
        pressed
    }
}

fn is_press(event: &[u8; EVENT_BYTES]) -> bool {
    let half = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    half(16) == EV_KEY && half(18) == KEY_POWER && value == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> [u8; EVENT_BYTES] {
        let mut event = [0; EVENT_BYTES];
        event[16..18].copy_from_slice(&kind.to_ne_bytes());
        event[18..20].copy_from_slice(&code.to_ne_bytes());
        event[20..].copy_from_slice(&value.to_ne_bytes());
        event
    }

    #[test]
    fn only_pressing_the_power_key_counts() {
        assert!(is_press(&event(EV_KEY, KEY_POWER, 1)));
        assert!(!is_press(&event(EV_KEY, KEY_POWER, 0)), "release");
        assert!(!is_press(&event(EV_KEY, 30, 1)), "another key");
        assert!(!is_press(&event(0, KEY_POWER, 1)), "no key at all");
    }

    #[test]
    fn presses_are_found_among_other_events() {
        let dir = tempfile::tempdir().expect("tempdir");
        let events = [event(EV_KEY, 30, 1), event(EV_KEY, KEY_POWER, 1), event(0, 0, 0)].concat();
        fs::write(dir.path().join("event0"), events).expect("write");
        fs::write(dir.path().join("mouse0"), event(EV_KEY, KEY_POWER, 1)).expect("write");
        let mut button = PowerButton::open_in(dir.path());
        assert_eq!(button.devices().count(), 1);
        assert!(button.was_pressed());
        assert!(!button.was_pressed());
        let mut none = PowerButton::open_in(Path::new("/nonexistent"));
        let began = Instant::now();
        assert!(!none.wait(Duration::from_millis(30)));
        assert!(began.elapsed() >= Duration::from_millis(30));
    }
}
