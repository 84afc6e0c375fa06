//! The first process of the workload's namespaces: makes the container's root its `/`, starts the workload, reaps.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use coffer_manifest::SiteConfig;
use coffer_sys::process::{self, child_events};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_move, mount_remount, unmount};
use rustix::process::{DumpableBehavior, WaitOptions, chdir, chroot, set_dumpable_behavior, wait};
use rustix::system::sethostname;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use super::message::{Inbox, Message};
use super::{EXEC_ROLE, End, WorkloadError, doing, os_str, receive_site, send_site};
use crate::root::ROOT;

/// Parts of /proc that tell about the machine or change it. Files are covered by /dev/null, folders by an empty file system.
const MASKED: [&str; 8] = ["acpi", "asound", "kcore", "keys", "latency_stats", "scsi", "sched_debug", "timer_list"];
/// Parts of /proc that may be read.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
const HARMLESS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// What of an error of the last step before the workload is passed on.
const MAX_CAUSE_BYTES: u64 = 1024;

/// The init's whole life. Never returns: as process 1 of its namespace it takes everything in there with it.
pub fn run_init() -> ! {
    let code = match receive_site("/dev/null") {
        Ok((control, site)) => match run(&control, &site) {
            Ok(end) => tell(&control, &Message::Ended(end)),
            Err(error) => tell(&control, &Message::Failed(error.to_string())),
        },
        // Without the socket there is nobody to tell.
        Err(_) => 1,
    };
    std::process::exit(code)
}

fn tell(mut control: &UnixStream, message: &Message) -> i32 {
    i32::from(control.write_all(&message.to_bytes()).is_err())
}

fn run(control: &UnixStream, site: &SiteConfig) -> Result<End, WorkloadError> {
    process::unshare_mount_ipc_uts().map_err(doing("make the workload's namespaces"))?;
    sethostname(site.site.as_str().as_bytes()).map_err(|errno| doing("set the host name")(errno.into()))?;
    mount_proc().map_err(|errno| doing("mount /proc")(errno.into()))?;
    enter_root().map_err(|errno| doing("enter the container's root")(errno.into()))?;

    let events = child_events().map_err(doing("watch for children"))?;
    let (workload, cause) = start(site)?;
    give_up_rights().map_err(|errno| doing("give up rights")(errno.into()))?;
    if !cause.is_empty() {
        return Err(WorkloadError::NotStarted(cause));
    }
    tell(control, &Message::Started);
    attend(control, &events, workload, site.container.stop_signal)
}

/// A /proc of the workload's own processes, at its place in the container's root.
fn mount_proc() -> Result<(), Errno> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let proc = format!("{ROOT}/proc");
    mount("proc", &proc, "proc", HARMLESS, c"")?;
    for name in READ_ONLY {
        let path = format!("{proc}/{name}");
        match mount_bind(&path, &path) {
            Ok(()) => mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY | HARMLESS, c"")?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    for name in MASKED {
        let path = format!("{proc}/{name}");
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => mount("tmpfs", &path, "tmpfs", HARMLESS | MountFlags::RDONLY, c"size=0")?,
            Ok(_) => mount_bind(format!("{ROOT}/dev/null"), &path)?,
            Err(_) => {}
        }
    }
    Ok(())
}

/// Makes the container's root `/`, and lets go of everything that is PID 1's.
fn enter_root() -> Result<(), Errno> {
    chdir(ROOT)?;
    for path in ["/sys", "/dev", "/run", "/tmp", "/proc"] {
        unmount(path, UnmountFlags::DETACH)?;
    }
    // pivot_root does not work on the initrd's root file system. Nothing can climb out either way: `..` of the new root's
    // top leads to itself, and the capability for another chroot is given up.
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")
}

/// Starts the process that becomes the workload. Returns its id, and why it did not become it: empty if it did.
fn start(site: &SiteConfig) -> Result<(u32, String), WorkloadError> {
    let (socket, socket_end) = UnixStream::pair().map_err(doing("make a socket pair"))?;
    let child = Command::new("/proc/self/exe")
        .arg0(os_str(EXEC_ROLE))
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(socket_end)))
        .spawn()
        .map_err(doing("start the workload's process"))?;
    send_site(&socket, site)?;
    let mut cause = String::new();
    // The other end closes when the workload's program is executed.
    socket.take(MAX_CAUSE_BYTES).read_to_string(&mut cause).map_err(doing("hear from the workload's process"))?;
    Ok((child.id(), cause))
}

/// From here on this process only reaps and signals.
fn give_up_rights() -> Result<(), Errno> {
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let kill = CapabilitySet::KILL;
    set_capabilities(None, CapabilitySets { effective: kill, permitted: kill, inheritable: CapabilitySet::empty() })
}

/// Reaps every orphan until the workload itself has ended.
fn attend(control: &UnixStream, events: &OwnedFd, workload: u32, stop_signal: u8) -> Result<End, WorkloadError> {
    let mut inbox = Inbox::new(control.try_clone().map_err(doing("copy a socket"))?).map_err(doing("set up a socket"))?;
    loop {
        let mut fds = [PollFd::new(events, PollFlags::IN), PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(doing("wait for events")(errno.into())),
        }
        // One read takes the one pending SIGCHLD; several children may be behind it.
        let _ = rustix::io::read(events, &mut [0; 128]);
        if let Some(end) = reap(workload) {
            return Ok(end);
        }
        while let Some(message) = inbox.next()? {
            if message == Message::Stop {
                process::kill(workload, stop_signal).map_err(doing("signal the workload"))?;
            }
        }
        if inbox.is_closed() {
            return Err(doing("hear from PID 1")(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Reaps whoever has ended; says how, if the workload is among them.
fn reap(workload: u32) -> Option<End> {
    let mut end = None;
    while let Ok(Some((process, status))) = wait(WaitOptions::NOHANG) {
        if process.as_raw_pid().unsigned_abs() == workload {
            end = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Some(End::Exit(code)),
                (None, Some(signal)) => Some(End::Signal(signal)),
                (None, None) => None,
            };
        }
    }
    end
}
