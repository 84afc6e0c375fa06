//! Step 8 of the boot: the workload, from its start to its end.
//!
//! Three processes, each with a clean memory of its own:
//! PID 1 *supervises*: it keeps the log, the lease and the power button. It starts, by executing itself again under another
//! name, the *init* of the workload's namespaces, which holds no secret, becomes process 1 in there, and so can reap orphans
//! and pass on the stop signal (a workload that were process 1 itself would not feel a SIGTERM it has no handler for). That
//! starts, again by executing itself, a process that gives up its rights and *becomes* the workload.
//! A Unix socket joins each pair; what is said over it is in [`Message`].

mod exec;
mod init;
mod log;
mod message;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coffer_manifest::{DocumentError, SiteConfig};
use coffer_sys::process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use self::log::Log;
use self::message::{Inbox, Message, MessageError};
use crate::button::PowerButton;
use crate::console::{self, Stage};
use crate::network::Network;
use crate::root::Root;

pub use self::exec::run_exec;
pub use self::init::run_init;

/// argv[0] of the first process in the workload's namespaces.
pub const INIT_ROLE: &[u8] = b"coffer-workload-init";
/// argv[0] of the process that becomes the workload.
pub const EXEC_ROLE: &[u8] = b"coffer-workload-exec";
/// How long the workload may take to stop. With what follows (sync, unmount) the guest is off within ten seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// How often the loop looks around when nothing happens.
const IDLE: Duration = Duration::from_secs(60);

/// The workload could not be run.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The site config does not encode.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A helper said something else than it should.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A helper's report that the workload does not start.
    #[error("{0}")]
    NotStarted(String),
    /// A helper ended without a word.
    #[error("the workload's init ended before the workload started")]
    Silent,
}

fn doing(what: &'static str) -> impl FnOnce(io::Error) -> WorkloadError {
    move |source| WorkloadError::Io { what, source }
}

/// How the workload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit={code}"),
            Self::Signal(signal) => write!(f, "signal={signal}"),
        }
    }
}

/// Starts the workload and stays with it until it ends, of itself or because the power button was pressed.
///
/// # Errors
/// See [`WorkloadError`]; only for what happens before the workload runs.
pub fn supervise(site: &SiteConfig, root: Root, network: &mut Network, button: PowerButton) -> Result<End, WorkloadError> {
    let (output, output_end) = io::pipe().map_err(doing("make a pipe"))?;
    let (control, control_end) = UnixStream::pair().map_err(doing("make a socket pair"))?;
    process::unshare_pid().map_err(doing("make a pid namespace"))?;
    let mut init = Command::new("/proc/self/exe")
        .arg0(os_str(INIT_ROLE))
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(control_end)))
        .stdout(output_end.try_clone().map_err(doing("copy a pipe"))?)
        .stderr(output_end)
        .spawn()
        .map_err(doing("start the workload's init"))?;
    send_site(&control, site)?;

    let mut supervisor = Supervisor {
        inbox: Inbox::new(control.try_clone().map_err(doing("copy a socket"))?).map_err(doing("set up a socket"))?,
        control,
        log: Log::new(output, root.workload_log).map_err(doing("set up the workload's log"))?,
        button,
        kill_at: None,
        started: false,
        end: None,
    };
    let watched = supervisor.watch(network);
    // Whatever happened: nothing of the workload outlives this. Both fail only if the init has ended and is reaped.
    let _ = init.kill();
    let _ = init.wait();
    supervisor.log.drain();
    watched?;
    // Killed after STOP_PATIENCE, together with the init that could have told how it ended.
    Ok(supervisor.end.unwrap_or(End::Signal(9)))
}

struct Supervisor {
    control: UnixStream,
    inbox: Inbox,
    log: Log,
    button: PowerButton,
    kill_at: Option<Instant>,
    started: bool,
    end: Option<End>,
}

impl Supervisor {
    /// Until the workload has ended, or has had its time to stop.
    fn watch(&mut self, network: &mut Network) -> Result<(), WorkloadError> {
        loop {
            self.sleep(network.due())?;
            self.log.pump();
            network.keep();
            if !self.read_messages()? {
                return if self.started { Ok(()) } else { Err(WorkloadError::Silent) };
            }
            if self.button.was_pressed() && self.kill_at.is_none() {
                console::line("power button: stopping the workload");
                self.kill_at = Some(Instant::now() + STOP_PATIENCE);
                // If the init is gone, its end of the socket closes, which the next round sees.
                let _ = self.control.write_all(&Message::Stop.to_bytes());
            }
            if self.kill_at.is_some_and(|deadline| Instant::now() >= deadline) {
                console::line("the workload did not stop in time, it is killed");
                return Ok(());
            }
        }
    }

    /// Waits until there is something to do.
    fn sleep(&self, network_due: Option<Instant>) -> Result<(), WorkloadError> {
        let due = [network_due, self.kill_at].into_iter().flatten().min();
        let left = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()).min(IDLE));
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let sources = [Some(self.control.as_fd()), self.log.source()].into_iter().flatten();
        let mut fds: Vec<_> = sources.chain(self.button.devices()).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(doing("wait for events")(errno.into())),
        }
    }

    /// Takes what the init says; false when it has nothing more to say.
    fn read_messages(&mut self) -> Result<bool, WorkloadError> {
        while let Some(message) = self.inbox.next()? {
            match message {
                Message::Started => {
                    self.started = true;
                    console::finished(Stage::Workload);
                }
                Message::Failed(text) => return Err(WorkloadError::NotStarted(text)),
                Message::Ended(end) => {
                    self.end = Some(end);
                    return Ok(false);
                }
                Message::Stop => return Err(MessageError.into()),
            }
        }
        Ok(!self.inbox.is_closed())
    }
}

fn os_str(role: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(role)
}

/// Hands the site config to a helper: u32 length, little-endian, then its canonical bytes.
fn send_site(mut to: &UnixStream, site: &SiteConfig) -> Result<(), WorkloadError> {
    let bytes = site.to_bytes()?;
    let length = (bytes.len() as u32).to_le_bytes();
    to.write_all(&[&length[..], &bytes].concat()).map_err(doing("hand over the site config"))
}

/// Takes the socket a helper was given as its standard input, and reads the site config from it. /dev/null takes its place.
fn receive_site(null: &str) -> Result<(UnixStream, SiteConfig), WorkloadError> {
    let control = io::stdin().as_fd().try_clone_to_owned().map_err(doing("take over the socket"))?;
    let null = File::open(null).map_err(doing("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(|errno| doing("close standard input")(errno.into()))?;
    let mut control = UnixStream::from(control);
    let mut length = [0; 4];
    let mut read = |into: &mut [u8]| io::Read::read_exact(&mut control, into).map_err(doing("read the site config"));
    read(&mut length)?;
    let mut bytes = vec![0; (u32::from_le_bytes(length) as usize).min(coffer_manifest::MAX_DOCUMENT_BYTES)];
    read(&mut bytes)?;
    let site = SiteConfig::from_bytes(&bytes)?;
    Ok((control, site))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small valid site config.
    pub(crate) fn site(root_of_trust: &str) -> SiteConfig {
        let text = serde_json::json!({
            "type": "coffer/site/v1",
            "root_of_trust": root_of_trust,
            "project": "demo",
            "site": "site-1",
            "role": "client",
            "site_svn": 0,
            "not_before": 0,
            "disk_format": 1,
            "disk_uuid": "00000000-0000-4000-8000-000000000000",
            "root_hash": "11".repeat(32),
            "root_blocks": 1,
            "key_check": "22".repeat(32),
            "key_service": { "kind": "coffer", "urls": ["https://10.0.2.2:8999"], "tls_name": "kbs.demo.test", "ca": [] },
            "container": {
                "image": "33".repeat(32),
                "command": ["true"],
                "env": [],
                "workdir": "/",
                "user": { "uid": 1000, "gid": 1000, "groups": [] },
                "stop_signal": 15,
            },
            "network": { "allowed_ports": [], "allowed_out_ports": [], "hosts_entries": {} },
            "attestation": {
                "token_expiration": 60, "check_frequency": 120, "failure_action": "stop_job", "retry_for": 300, "issuers": [],
            },
        });
        serde_json::from_value(text).expect("a valid site config")
    }

    /// A gate of it.
    pub(crate) fn gate() -> coffer_manifest::Gate {
        let text = serde_json::json!({
            "addresses": ["10.0.2.2:9443"], "tls_name": "gate.demo.test", "ca": [],
            "workload": { "name": "superlink.demo.test", "port": 9092 }, "attested": false,
        });
        serde_json::from_value(text).expect("a valid gate")
    }

    #[test]
    fn ends_print_as_the_console_has_them() {
        assert_eq!(End::Exit(3).to_string(), "exit=3");
        assert_eq!(End::Signal(15).to_string(), "signal=15");
    }
}
