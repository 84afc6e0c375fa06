//! Namespaces, signals and signal masks.

use std::io;
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd};

/// Makes the calling thread's next child the first process of a new pid namespace; later ones join it. Once per thread, which
/// afterwards can start no other thread (clone(2), pid_namespaces(7)): call it from one that has nothing else to do.
///
/// # Errors
/// What unshare(2) says; `EINVAL` in a thread that has done so before.
pub fn unshare_pid() -> io::Result<()> {
    unshare(libc::CLONE_NEWPID)
}

/// Gives this process its own mount, ipc, uts and cgroup namespaces.
///
/// # Errors
/// What unshare(2) says; `EINVAL` if the process has more than one thread.
pub fn unshare_mount_ipc_uts() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP)
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers; none of the flags used here changes the file descriptor table or the address space.
    if unsafe { libc::unshare(flags) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Blocks SIGCHLD and returns a non-blocking, close-on-exec descriptor that becomes readable when a child changes state.
///
/// # Errors
/// What sigprocmask(2) and signalfd(2) say.
pub fn child_events() -> io::Result<OwnedFd> {
    let mut set = empty_set();
    // SAFETY: `set` is an initialised signal set and SIGCHLD a valid signal number.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    mask(libc::SIG_BLOCK, &set)?;
    // SAFETY: -1 asks for a new descriptor; `set` is initialised.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Unblocks every signal: a blocked set would be inherited by the program executed next.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn unblock_signals() -> io::Result<()> {
    mask(libc::SIG_SETMASK, &empty_set())
}

/// Sends a signal, real-time ones included, which safe wrappers have no names for.
///
/// # Errors
/// What kill(2) says; `EINVAL` for a number that is no signal or a process id that names a group or everybody.
pub fn kill(process: u32, signal: u8) -> io::Result<()> {
    match i32::try_from(process) {
        // SAFETY: no pointers; a positive process id names one process.
        Ok(process) if process > 0 => match unsafe { libc::kill(process, signal.into()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        },
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: `sigset_t` is plain data, and sigemptyset initialises it in any case.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is writable.
    unsafe { libc::sigemptyset(&raw mut set) };
    set
}

fn mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is initialised; the old set is not asked for.
    let code = unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_child_event_is_readable_while_blocked() {
        let mut file = std::fs::File::from(child_events().expect("signalfd"));
        assert!(file.read(&mut [0; 128]).is_err(), "nothing is pending yet");
        // A real child's signal could go to another thread of the test runner, which ignores it.
        // SAFETY: raise(3) takes no pointers; SIGCHLD is blocked in this thread.
        assert_eq!(unsafe { libc::raise(libc::SIGCHLD) }, 0);
        let mut info = [0; 128];
        assert_eq!(file.read(&mut info).expect("one signal is pending"), 128);
        assert_eq!(info[..4], (libc::SIGCHLD as u32).to_ne_bytes());
        unblock_signals().expect("mask");
    }

    #[test]
    fn a_signal_goes_to_one_process_or_none() {
        assert!(kill(0, 0).is_err(), "0 would be the whole group");
        assert!(kill(u32::MAX, 0).is_err(), "-1 would be everybody");
        assert!(kill(std::process::id(), 200).is_err(), "no such signal");
        kill(std::process::id(), 0).expect("0 only asks whether the process is there");
    }
}
