//! The clear disks of a bundle: qcow2 holding ext4, made without root.

use std::path::Path;

use coffer_manifest::disk::DiskUuid;

/// What a clear disk is made of.
#[derive(Clone, Copy, Debug)]
pub struct SidecarRequest<'a> {
    /// Where the disk goes. Written beside and renamed.
    pub out: &'a Path,
    /// For the raw image on its way; nothing is left in it.
    pub scratch: &'a Path,
    /// ext4 label: `applog`, `user_config`, `user_data`; at most 16 bytes.
    pub label: &'a str,
    /// Virtual size in bytes; a multiple of 2^20.
    pub virtual_size: u64,
    /// UUID of the file system and seed of its directory hashes.
    pub uuid: &'a DiskUuid,
    /// Directory whose contents the disk holds at its root; `None` for an empty disk.
    ///
    /// Everything becomes root's, with the permission bits as they are and a fixed time.
    pub source: Option<&'a Path>,
}

/// Makes one clear disk. The same contents give the same bytes.
///
/// # Errors
/// See [`SidecarError`].
pub fn build_sidecar(request: SidecarRequest<'_>) -> Result<(), SidecarError> {
    let _ = request;
    unimplemented!()
}

/// A clear disk could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SidecarError {
    /// A tool of e2fsprogs failed or is missing.
    #[error(transparent)]
    Run(#[from] crate::run::RunError),
    /// The disk image could not be written.
    #[error(transparent)]
    Qcow2(#[from] crate::qcow2::Qcow2Error),
}
