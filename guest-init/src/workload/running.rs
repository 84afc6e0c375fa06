//! One life of the workload: its namespaces' init and what is said to it. There may be several lives in one boot, one after the other.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;

use coffer_manifest::SiteConfig;
use coffer_sys::process;

use super::message::{Inbox, Message, MessageError};
use super::{End, INIT_ROLE, WorkloadError, doing, os_str, send_site};

/// The init's process and our end of its socket. Nothing of the workload outlives this value.
pub struct Running {
    _init: Init,
    control: UnixStream,
    inbox: Inbox,
    started: bool,
    end: Option<End>,
}

/// What has become of it since it was looked at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// The workload's program runs.
    Started,
    /// The init has nothing more to say.
    Ended,
}

impl Running {
    /// Starts the workload; gives also the reading end of its output.
    ///
    /// # Errors
    /// See [`WorkloadError`].
    pub fn start(site: &SiteConfig) -> Result<(Self, io::PipeReader), WorkloadError> {
        let (output, output_end) = io::pipe().map_err(doing("make a pipe"))?;
        let (control, control_end) = UnixStream::pair().map_err(doing("make a socket pair"))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(os_str(INIT_ROLE))
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(control_end)))
            .stdout(output_end.try_clone().map_err(doing("copy a pipe"))?)
            .stderr(output_end);
        let init = Init(in_pid_namespace(command)?);
        send_site(&control, site)?;
        let inbox = control.try_clone().and_then(Inbox::new).map_err(doing("set up a socket"))?;
        Ok((Self { _init: init, control, inbox, started: false, end: None }, output))
    }

    /// Takes what the init says, without waiting.
    ///
    /// # Errors
    /// [`WorkloadError::NotStarted`], [`WorkloadError::Silent`]: there was no workload. [`WorkloadError::Message`].
    pub fn news(&mut self) -> Result<News, WorkloadError> {
        match self.inbox.next()? {
            Some(Message::Started) => {
                self.started = true;
                Ok(News::Started)
            }
            Some(Message::Failed(text)) => Err(WorkloadError::NotStarted(text)),
            Some(Message::Ended(end)) => {
                self.end = Some(end);
                Ok(News::Ended)
            }
            Some(Message::Stop) => Err(MessageError.into()),
            None if !self.inbox.is_closed() => Ok(News::None),
            None if self.started => Ok(News::Ended),
            None => Err(WorkloadError::Silent),
        }
    }

    /// Has the init pass on the stop signal. If it is gone, its end of the socket is closed, which the next look sees.
    pub fn stop(&mut self) {
        let _ = self.control.write_all(&Message::Stop.to_bytes());
    }

    /// What to poll.
    pub fn source(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Kills whatever is left, and says how the workload ended: by signal 9 if nobody could tell.
    pub fn end(self) -> End {
        self.end.unwrap_or(End::Signal(9))
    }
}

/// The first process of a pid namespace, and with it everything in there.
struct Init(Child);

impl Drop for Init {
    fn drop(&mut self) {
        // The kernel ends everything in a pid namespace whose init ends, and wait(2) returns when all of it is gone. Both fail only
        // if the init has ended and is reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `command` as the first process of a new pid namespace.
///
/// From a thread of its own: unshare(2) changes, for the calling thread and for good, where its children go; that thread could neither
/// start another thread nor unshare again (clone(2), pid_namespaces(7)). This one ends here, so each life has a new namespace.
fn in_pid_namespace(mut command: Command) -> Result<Child, WorkloadError> {
    let start = move || {
        process::unshare_pid().map_err(doing("make a pid namespace"))?;
        command.spawn().map_err(doing("start the workload's init"))
    };
    let thread = thread::Builder::new().name("start".into()).spawn(start).map_err(doing("start a thread"))?;
    // A panic has ended the guest.
    thread.join().unwrap_or(Err(WorkloadError::Silent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::read_link;

    /// As often as a quarantine asks for it, and with threads started in between.
    #[test]
    fn each_life_has_a_pid_namespace_of_its_own_and_takes_it_along() {
        let ours = read_link("/proc/self/ns/pid").expect("readable");
        let mut seen = vec![ours.clone()];
        for _ in 0..3 {
            let mut command = Command::new("sh");
            command.args(["-c", "sleep 1000 & readlink /proc/self/ns/pid; echo $$ $!; wait"]).stdout(Stdio::piped());
            let mut child = match in_pid_namespace(command) {
                Err(WorkloadError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                    eprintln!("skipped: needs the right to make a pid namespace");
                    return;
                }
                other => other.expect("starts"),
            };
            let mut lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().expect("piped")));
            let _ = lines.next().expect("a line").expect("readable");
            assert_eq!(lines.next().expect("a line").expect("readable"), "1 2", "the first process, and its first child");
            let namespace = read_link(format!("/proc/{}/ns/pid", child.id())).expect("readable");
            assert!(!seen.contains(&namespace), "{namespace:?} was there before");
            seen.push(namespace);
            drop(Init(child));
            assert!(lines.next().is_none(), "the pipe's last writer, the orphan, is gone");
            assert_eq!(read_link("/proc/self/ns/pid_for_children").expect("readable"), ours, "this thread's children stay here");
            thread::spawn(|| ()).join().expect("a thread can still be started");
        }
    }
}
