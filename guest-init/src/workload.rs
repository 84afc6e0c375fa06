//! Step 8 of the boot: the workload, from its start to its end.
//!
//! Three processes, each with a clean memory of its own:
//! PID 1 *supervises*: it keeps the log, the lease, the power button and the key service's last word. It starts, by executing itself again under another
//! name, the *init* of the workload's namespaces, which holds no secret, becomes process 1 in there, and so can reap orphans
//! and pass on the stop signal (a workload that were process 1 itself would not feel a SIGTERM it has no handler for). That
//! starts, again by executing itself, a process that gives up its rights and *becomes* the workload.
//! A Unix socket joins each pair; what is said over it is in [`Message`].

mod exec;
mod init;
mod log;
mod message;
mod running;
mod supervisor;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use coffer_manifest::{DocumentError, SiteConfig};

use self::log::Log;
use self::message::MessageError;
use self::supervisor::Supervisor;
use crate::button::PowerButton;
use crate::network::Network;
use crate::root::Root;
use crate::standing::Standing;

pub use self::exec::run_exec;
pub use self::init::run_init;

/// argv[0] of the first process in the workload's namespaces.
pub const INIT_ROLE: &[u8] = b"coffer-workload-init";
/// argv[0] of the process that becomes the workload.
pub const EXEC_ROLE: &[u8] = b"coffer-workload-exec";

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

/// Why the guest is to be powered off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The workload ended, of itself or because the power button was pressed.
    Ended(End),
    /// The key service refuses this guest, and its time to wait is over.
    Refused {
        /// The service's reason code.
        code: String,
        /// The id its log has.
        id: String,
    },
}

/// Starts the workload and stays with it until the guest is to be powered off: the workload has ended, the power button was pressed,
/// or the key service refuses this guest and `failure_action` says so.
///
/// # Errors
/// See [`WorkloadError`]; only for what happens before a workload runs.
pub fn supervise(
    site: &SiteConfig,
    root: Root,
    network: &mut Network,
    button: PowerButton,
    standing: Arc<Standing>,
) -> Result<Outcome, WorkloadError> {
    Supervisor::start(site, Log::new(root.workload_log), button, standing)?.watch(network)
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
