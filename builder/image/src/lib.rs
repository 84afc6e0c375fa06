//! Container layers, root file system, dm-verity, LUKS2, qcow2, cpio: bytes in, bytes out.
//!
//! ```text
//! docker-archive ─ container::Container::open ─┬─ config(), user(), kind()        what a site config needs
//!                                              └─ root::build_root ── squashfs → verity → XTS → crypt_root.qcow2
//! directory ────── sidecar::build_sidecar ─────── applog.qcow2, user_config.qcow2, user_data.qcow2
//! stopped bundle ─ sidecar::read_files    ─────── the site's own logs
//! ```
//!
//! Nothing here needs root, a loop device or a daemon. Memory is bounded by the number of files, not by their size.
#![forbid(unsafe_code)]

pub mod container;
pub mod cpio;
pub mod luks2;
pub mod qcow2;
pub mod root;
pub mod run;
pub mod sidecar;
pub mod squashfs;
pub mod verity;
pub mod xts;
