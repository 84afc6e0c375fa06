//! From a container to `crypt_root.qcow2`: disk format 1 in one call.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use coffer_manifest::disk::{BLOCK_BYTES, DATA_OFFSET, DiskUuid, RootHash, RootSecret, segment_bytes};
use coffer_manifest::{KitRef, SealedKit};

use crate::container::{Container, ContainerError};
use crate::qcow2::{Qcow2Error, Writer};
use crate::run::RunError;
use crate::xts::{UNIT_BYTES, Xts};
use crate::{luks2, squashfs, verity};

/// Blocks one worker takes at a time: 2 MiB.
const CHUNK_BLOCKS: u64 = 512;
/// Of SHA-256.
const DIGEST_BYTES: usize = 32;
/// A block, for slicing.
const BLOCK: usize = BLOCK_BYTES as usize;

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
    /// The disk image could not be written.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
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
    let file_system = squashfs::make(request.container, request.scratch)?;
    encrypt_root(&file_system, request)
}

/// Puts a finished file system image on a disk: the half of [`build_root`] that knows nothing of containers.
fn encrypt_root(file_system: &File, request: RootRequest<'_>) -> Result<BuiltRoot, RootError> {
    let io = |what| move |source| RootError::Io { what, source };
    let bytes = file_system.metadata().map_err(io("read the file system image"))?.len();
    // Two blocks at least: see verity::Tree::new.
    let root_blocks = bytes.div_ceil(BLOCK_BYTES).max(2);
    file_system.set_len(root_blocks * BLOCK_BYTES).map_err(io("pad the file system image"))?;

    let segment_end = DATA_OFFSET + segment_bytes(root_blocks);
    let kit = request.kit.map(|kit| KitRef { offset: segment_end, size: kit.bytes.len() as u64, digest: kit.digest });
    let used_bytes = kit.map_or(segment_end, |kit| kit.offset + kit.size);
    if used_bytes > request.virtual_size {
        return Err(RootError::TooSmall { size: request.virtual_size, needed: used_bytes });
    }

    let directory = request.out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = tempfile::Builder::new()
        .prefix(".crypt_root-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(directory)
        .map_err(io("create the root disk"))?;
    let disk = Writer::create(beside.as_file(), request.virtual_size, &[0..luks2::HEADER_BYTES, DATA_OFFSET..used_bytes])?;
    disk.write_all_at(&luks2::header(request.secret, request.uuid, segment_bytes(root_blocks)), 0)?;
    let xts = Xts::new(&request.secret.volume_key(request.uuid));
    let root_hash = Segment { file_system, root_blocks, xts: &xts, disk: &disk }.write()?;
    if let Some((kit, place)) = request.kit.zip(kit) {
        disk.write_all_at(&kit.bytes, place.offset)?;
    }
    disk.finish()?;
    beside.persist(request.out).map_err(|error| RootError::Io { what: "rename the root disk", source: error.error })?;
    Ok(BuiltRoot { root_hash, root_blocks, kit, used_bytes })
}

/// The dm-crypt segment being written: data, superblock, tree.
struct Segment<'a> {
    file_system: &'a File,
    root_blocks: u64,
    xts: &'a Xts,
    disk: &'a Writer<'a>,
}

impl Segment<'_> {
    /// Reads each data block once, on all cores: hashes it, encrypts it, writes it. Then the tree.
    fn write(&self) -> Result<RootHash, RootError> {
        let digests = Mutex::new(vec![0; self.root_blocks as usize * DIGEST_BYTES]);
        let next = AtomicU64::new(0);
        let work = || -> Result<(), RootError> {
            loop {
                let first = next.fetch_add(CHUNK_BLOCKS, Ordering::Relaxed);
                if first >= self.root_blocks {
                    return Ok(());
                }
                match self.write_chunk(first) {
                    Ok(found) => {
                        let at = first as usize * DIGEST_BYTES;
                        let mut digests = digests.lock().unwrap_or_else(PoisonError::into_inner);
                        digests[at..at + found.len()].copy_from_slice(&found);
                    }
                    Err(error) => {
                        // The other workers have nothing left to do either.
                        next.store(self.root_blocks, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let count = std::thread::available_parallelism().map_or(1, usize::from);
            let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let tree = verity::Tree::new(digests.into_inner().unwrap_or_else(PoisonError::into_inner));
        let mut behind = verity::superblock(self.root_blocks);
        behind.extend_from_slice(&tree.bytes);
        self.encrypt_and_write(&mut behind, self.root_blocks)?;
        Ok(tree.root_hash)
    }

    /// One chunk of data; returns its blocks' digests.
    fn write_chunk(&self, first: u64) -> Result<Vec<u8>, RootError> {
        let mut chunk = vec![0; CHUNK_BLOCKS.min(self.root_blocks - first) as usize * BLOCK];
        self.file_system
            .read_exact_at(&mut chunk, first * BLOCK_BYTES)
            .map_err(|source| RootError::Io { what: "read the file system image", source })?;
        let digests = verity::digests(&chunk);
        self.encrypt_and_write(&mut chunk, first)?;
        Ok(digests)
    }

    /// `first` counts blocks from the start of the segment.
    fn encrypt_and_write(&self, blocks: &mut [u8], first: u64) -> Result<(), RootError> {
        self.xts.encrypt(blocks, BLOCK, first * (BLOCK_BYTES / UNIT_BYTES));
        Ok(self.disk.write_all_at(blocks, DATA_OFFSET + first * BLOCK_BYTES)?)
    }
}
