//! From a container to `crypt_root.qcow2`: disk format 1 in one call.

use std::io;
use std::path::Path;

use coffer_manifest::disk::{DiskUuid, RootHash, RootSecret};
use coffer_manifest::{KitRef, SealedKit};

use crate::container::{Container, ContainerError};
use crate::run::RunError;

/// What a root disk is made of.
#[derive(Clone, Copy)]
pub struct RootRequest<'a> {
    /// The flattened image; call [`Container::ensure`] first for mount points that must exist.
    pub container: &'a Container,
    /// A directory for the file system image on its way; nothing is left in it.
    pub scratch: &'a Path,
    /// Where the disk goes. Written beside and renamed; an existing file is replaced.
    pub out: &'a Path,
    /// `root_drive_size` × 2^30, in bytes.
    pub virtual_size: u64,
    /// S.
    pub secret: &'a RootSecret,
    /// disk_uuid.
    pub uuid: &'a DiskUuid,
    /// Placed after the dm-crypt segment.
    pub kit: Option<&'a SealedKit>,
}

/// What a site config says about a root disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuiltRoot {
    /// dm-verity root hash.
    pub root_hash: RootHash,
    /// 4096-byte blocks of the file system.
    pub root_blocks: u64,
    /// Where the kit lies.
    pub kit: Option<KitRef>,
    /// Bytes of the disk that are in use: the end of the kit or of the segment.
    pub used_bytes: u64,
}

/// A root disk could not be built. No partial file is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// The container could not be read.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// `tar2sqfs` failed or is missing.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The disk is too small.
    #[error("root disk is {size} bytes but its contents need {needed} bytes\nhint: set `root_drive_size` to {} or more", needed.div_ceil(1 << 30))]
    TooSmall {
        /// Virtual size asked for, in bytes.
        size: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// Reading or writing failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes `crypt_root.qcow2`. The same container, secret, uuid and kit give the same bytes.
///
/// # Errors
/// See [`RootError`].
pub fn build_root(request: RootRequest<'_>) -> Result<BuiltRoot, RootError> {
    let _ = request;
    unimplemented!()
}
