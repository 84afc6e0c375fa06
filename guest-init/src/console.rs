//! PID 1's own lines: on the console, and in `/applog/boot.log`. The workload's output never comes here.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};

use crate::boot::Failure;

/// How long a line may get. Some of its words come from the network.
const MAX_LINE_CHARS: usize = 600;
/// How long a line may wait for the console. That is the host's: one that takes nothing must not keep a refused workload running.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(2);
/// How much of the boot log is kept until `/applog` is mounted, and written there at most. A host that lets its guest
/// wait for a key service for a day makes some thousand lines.
const MAX_BOOT_LOG_BYTES: usize = 1024 * 1024;

/// A part of the boot. Printed when it is finished, and in the `failed` line when it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Stage {
    /// Pseudo file systems, modules, site config against HOST_DATA.
    Config,
    /// Interface and address.
    Network,
    /// Challenge, evidence, token, secrets.
    Attest,
    /// Volume key, dm-crypt, dm-verity.
    Unlock,
    /// Root file system, overlay, kit, the other disks.
    Root,
    /// The workload runs.
    Workload,
}

impl Stage {
    const ALL: [Self; 6] = [Self::Config, Self::Network, Self::Attest, Self::Unlock, Self::Root, Self::Workload];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Network => "network",
            Self::Attest => "attest",
            Self::Unlock => "unlock",
            Self::Root => "root",
            Self::Workload => "workload",
        })
    }
}

/// The stage being worked on; read by the panic hook.
static CURRENT: AtomicU8 = AtomicU8::new(Stage::Config as u8);
/// Whether the last line has been printed.
static OVER: AtomicBool = AtomicBool::new(false);
static BOOT_LOG: Mutex<BootLog> = Mutex::new(BootLog { lines: Vec::new(), file: None, written: 0 });

struct BootLog {
    lines: Vec<u8>,
    file: Option<File>,
    written: usize,
}

/// Prints `coffer-init: <text>`, text shortened and its control characters escaped.
pub fn line(text: &str) {
    if OVER.load(Ordering::Relaxed) {
        return;
    }
    print(text);
}

/// The same, and nothing after it, whatever the threads that keep token and lease still have to say.
pub fn last(text: &str) {
    if !OVER.swap(true, Ordering::Relaxed) {
        print(text);
    }
}

/// The same, for what a gate or a service makes us say as often as it likes: it does not fill the boot log's second half, so that there is
/// always room for what became of the workload.
pub fn repeated(text: &str) {
    if !OVER.load(Ordering::Relaxed) {
        print_up_to(text, MAX_BOOT_LOG_BYTES / 2);
    }
}

/// The same on the console only: what is said every minute of a long run would fill the boot log.
pub fn passing(text: &str) {
    if !OVER.load(Ordering::Relaxed) {
        show(&format!("coffer-init: {}\n", printable(text)));
    }
}

fn print(text: &str) {
    print_up_to(text, MAX_BOOT_LOG_BYTES);
}

fn print_up_to(text: &str, boot_log_bytes: usize) {
    let line = format!("coffer-init: {}\n", printable(text));
    show(&line);
    BOOT_LOG.lock().unwrap_or_else(PoisonError::into_inner).append(line.as_bytes(), boot_log_bytes);
}

fn show(line: &str) {
    // O_NOCTTY: PID 1 must not get a controlling terminal, whose keys would be signals from the host.
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    // A guest without a console still has its boot log.
    match OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open("/dev/console") {
        Ok(console) => write_within(&console, line.as_bytes(), CONSOLE_PATIENCE),
        Err(_) => drop(std::io::stdout().write_all(line.as_bytes())),
    }
}

/// Writes as much as `to`, which does not block, takes in this time; the rest is lost.
fn write_within(mut to: &File, mut bytes: &[u8], patience: Duration) {
    let deadline = Instant::now() + patience;
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(written @ 1..) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return;
                }
                let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
                // Fails only for want of kernel memory or by a signal; then it is tried again, until the deadline.
                let _ = poll(&mut [PollFd::new(to, PollFlags::OUT)], Some(&timeout));
            }
            Ok(_) | Err(_) => return,
        }
    }
}

/// Prints that `stage` is finished, with the seconds since the kernel started.
pub fn finished(stage: Stage) {
    line(&format!("stage={stage} t={:.2}", seconds_since_start()));
    if let Some(next) = Stage::ALL.get(stage as usize + 1) {
        CURRENT.store(*next as u8, Ordering::Relaxed);
    }
}

/// Prints the one line of a boot that ends here.
pub fn failed(failure: &Failure) {
    line(&failure.to_string());
}

/// The stage being worked on.
pub fn current() -> Stage {
    Stage::ALL.get(usize::from(CURRENT.load(Ordering::Relaxed))).copied().unwrap_or(Stage::Workload)
}

/// Seconds since the kernel started (CLOCK_BOOTTIME).
fn seconds_since_start() -> f64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// From now on lines go to `file` too, beginning with those printed so far.
pub fn log_to(file: File) {
    let mut log = BOOT_LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = std::mem::take(&mut log.lines);
    log.file = Some(file);
    log.written = 0;
    log.append(&lines, MAX_BOOT_LOG_BYTES);
}

/// Closes the boot log, so that its file system can be unmounted.
pub fn close_log() {
    let mut log = BOOT_LOG.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = log.file.take() {
        // A full or failing disk loses its log, nothing else.
        let _ = file.sync_all();
    }
}

impl BootLog {
    /// Unless the log would be longer than so many bytes.
    fn append(&mut self, bytes: &[u8], limit: usize) {
        if self.written + bytes.len() > limit {
            return;
        }
        self.written += bytes.len();
        match &mut self.file {
            // See close_log.
            Some(file) => drop(file.write_all(bytes)),
            None => self.lines.extend_from_slice(bytes),
        }
    }
}

/// `text` without control characters, so that nobody's words move a terminal's cursor or make a second line.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (count, c) in text.chars().enumerate() {
        if count == MAX_LINE_CHARS {
            shown.push('…');
            break;
        }
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hold_no_control_characters() {
        assert_eq!(printable("a\nb\x1b[2J"), "a\\nb\\u{1b}[2J");
        assert!(printable(&"x".repeat(5000)).chars().count() <= MAX_LINE_CHARS + 1);
    }

    #[test]
    fn what_others_repeat_leaves_room_in_the_boot_log() {
        let mut log = BootLog { lines: Vec::new(), file: None, written: 0 };
        for _ in 0..100_000 {
            log.append(&[b'x'; 100], MAX_BOOT_LOG_BYTES / 2);
        }
        log.append(b"last", MAX_BOOT_LOG_BYTES);
        assert!(log.lines.ends_with(b"xlast") && log.lines.len() <= MAX_BOOT_LOG_BYTES / 2 + 4);
    }

    #[test]
    fn a_console_that_takes_nothing_is_waited_for_a_moment_only() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).expect("nonblocking");
        let console = File::from(std::os::fd::OwnedFd::from(writer));
        let (line, since) = (vec![b'x'; 1 << 20], Instant::now());
        write_within(&console, &line, Duration::from_millis(200));
        let took = since.elapsed();
        assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
        // One that is only slow gets all of it.
        let slow = std::thread::spawn(move || {
            let mut got = 0;
            while let Ok(read @ 1..) = std::io::Read::read(&mut reader, &mut [0; 4096]) {
                got += read;
            }
            got
        });
        write_within(&console, &line, Duration::from_secs(20));
        drop(console);
        assert!(slow.join().expect("no panic") > line.len());
    }

    #[test]
    fn stages_keep_their_order() {
        for (index, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, index, "{stage}");
        }
    }
}
