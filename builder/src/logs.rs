//! `coffer logs`: the console and the workload's log of a stopped bundle, without root.

use std::fs::{self, File};
use std::io::{ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};

use coffer_image::sidecar::{SidecarError, read_files};
use rustix::fs::{FlockOperation, flock};

use crate::failure::{Exit, Failure, Hint};
use crate::ui::Ui;

/// How much of a log is printed, in bytes. PID 1 caps the workload's log far below.
const MAX_LOG_BYTES: u64 = 256 << 20;
/// PID 1's own lines and the workload's output, at the root of `applog.qcow2`.
const DISK: &str = "applog.qcow2";
const DISK_LOGS: [&str; 2] = ["boot.log", WORKLOAD_LOG];
const WORKLOAD_LOG: &str = "workload.log";

/// The logs cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogsError {
    /// Not a bundle, or not readable.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// The VM is on.
    #[error("{} is in use: the VM is running", path.display())]
    Running { path: PathBuf },
    /// The disk does not hold what a guest writes.
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: SidecarError },
    /// No workload ever ran, or none that wrote.
    #[error("{} has no log of a workload yet", path.display())]
    NoWorkload { path: PathBuf },
    /// No log at all.
    #[error("{} has no logs yet", path.display())]
    Empty { path: PathBuf },
}

impl Hint for LogsError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { .. } => "give the directory `cvm_<id>` that was started".to_owned(),
            Self::Running { .. } => "stop it first, or read boot.log in its run directory".to_owned(),
            Self::Empty { .. } => "start it with ./launch_vm.sh; `--run-dir` says where its boot.log is, if not in `run`".to_owned(),
            Self::NoWorkload { path } => format!("`coffer logs {}` shows how far the VM came, if it was started", path.display()),
            Self::Disk { .. } => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Read { .. } | Self::Disk { .. } => Exit::Failed,
            _ => Exit::Input,
        }
    }
}

/// Prints the console, or PID 1's own log where there is none, then the workload's log; headings go to stderr.
///
/// # Errors
/// See [`LogsError`].
pub fn run(ui: Ui, bundle: &Path, run_dir: Option<&Path>) -> Result<(), Failure> {
    let disk = bundle.join(DISK);
    refuse_running(&disk)?;
    let console = run_dir.map_or_else(|| bundle.join("run"), Path::to_owned).join("boot.log");
    let mut logs = vec![(console.display().to_string(), read_console(&console)?)];
    let found = read_files(&disk, &std::env::temp_dir(), &DISK_LOGS, MAX_LOG_BYTES);
    let found = found.map_err(|source| LogsError::Disk { path: disk.clone(), source })?;
    logs.extend(DISK_LOGS.iter().map(|name| format!("{DISK}:{name}")).zip(found));
    if logs.first().is_some_and(|(_, console)| console.is_some()) {
        // The console has PID 1's lines too, and what the kernel said around them.
        logs.remove(1);
    }
    if logs.iter().all(|(_, bytes)| bytes.as_ref().is_none_or(Vec::is_empty)) {
        return Err(LogsError::Empty { path: bundle.to_owned() }.into());
    }
    for (name, bytes) in &logs {
        let Some(bytes) = bytes else { continue };
        ui.say(format_args!("==> {name} <=="));
        print(ui, bytes);
    }
    Ok(())
}

/// Prints the workload's log alone.
///
/// # Errors
/// See [`LogsError`].
pub fn workload(ui: Ui, bundle: &Path) -> Result<(), Failure> {
    let disk = bundle.join(DISK);
    refuse_running(&disk)?;
    let found = read_files(&disk, &std::env::temp_dir(), &[WORKLOAD_LOG], MAX_LOG_BYTES);
    let found = found.map_err(|source| LogsError::Disk { path: disk, source })?;
    match found.into_iter().next().flatten() {
        Some(bytes) => print(ui, &bytes),
        None => return Err(LogsError::NoWorkload { path: bundle.to_owned() }.into()),
    }
    Ok(())
}

fn print(ui: Ui, bytes: &[u8]) {
    ui.raw(&if std::io::stdout().is_terminal() { harmless(bytes) } else { bytes.to_vec() });
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        ui.raw(b"\n");
    }
}

/// launch_vm.sh, and QEMU after it, hold a lock on the disk the guest writes.
fn refuse_running(disk: &Path) -> Result<(), LogsError> {
    let fail = |source| LogsError::Read { path: disk.to_owned(), source };
    let file = File::open(disk).map_err(fail)?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LogsError::Running { path: disk.to_owned() }),
        Err(error) => Err(fail(error.into())),
    }
}

fn read_console(path: &Path) -> Result<Option<Vec<u8>>, LogsError> {
    let fail = |source| LogsError::Read { path: path.to_owned(), source };
    match fs::File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(MAX_LOG_BYTES).read_to_end(&mut bytes).map_err(fail)?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(error)),
    }
}

/// Logs are the host's and the workload's bytes: on a terminal they must not move its cursor or change its state.
fn harmless(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_sees_no_control_characters() {
        assert_eq!(harmless(b"a\x1b[2Jb\r\n\tc\x07\xff"), "a[2Jb\n\tc\u{fffd}".as_bytes());
    }
}
