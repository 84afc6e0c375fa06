//! The ioctls and system calls of PID 1 that no safe crate offers. The only `unsafe` in the repository.
//!
//! What rustix wraps safely (mounts, modules, identities, reboot) is called from there directly; here is the rest: device
//! mapper, interface configuration, `/dev/sev-guest`, signal masks and namespaces.
#![expect(unsafe_code, reason = "raw ioctls and system calls; each block says why it is sound")]

pub mod dm;
pub mod net;
pub mod process;
pub mod sev;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Calls `ioctl(fd, request, argument)` and turns -1 into the error.
///
/// # Safety
/// `argument` must point to memory that the kernel may read and write for as many bytes as `request` says, laid out as
/// that request documents.
unsafe fn ioctl(fd: BorrowedFd<'_>, request: u64, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: the file descriptor is borrowed, so it is open; the caller vouches for `argument`.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, argument) };
    if code == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `_IOWR(group, number, size)` of `asm-generic/ioctl.h`: direction 3 in bits 30–31, size in 16–29, group in 8–15.
const fn iowr(group: u8, number: u8, size: usize) -> u64 {
    (3 << 30) | ((size as u64) << 16) | ((group as u64) << 8) | number as u64
}
