//! The clear disks of a bundle: qcow2 holding ext4, made without root, and read back without mounting.
//!
//! e2fsprogs does the work: `mke2fs` fills a file system from a directory, `debugfs` makes its owners and times those of
//! nobody in particular, and reads files back. Neither needs root or a loop device.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use coffer_manifest::disk::DiskUuid;
use rustix::fs::SeekFrom;

use crate::qcow2::{Qcow2Error, Reader, Writer};
use crate::run::{Invocation, RunError, Tool};

const MKE2FS: Tool = Tool { program: "mke2fs", package: "e2fsprogs" };
const DEBUGFS: Tool = Tool { program: "debugfs", package: "e2fsprogs" };

/// Time of every inode and of the file system: 2020-01-01T00:00:00Z. Zero would make e2fsprogs read the clock.
const FIXED_TIME: &str = "1577836800";
/// How much is copied at a time, in bytes.
const COPY_BYTES: usize = 1 << 20;

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

/// A clear disk could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SidecarError {
    /// A tool of e2fsprogs failed or is missing.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The disk image could not be written or read.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// A file name cannot be handed to `debugfs`.
    #[error("cannot put {path:?} on a disk: its name has a quote or a line break\nhint: rename it")]
    Name {
        /// The file.
        path: PathBuf,
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

fn failed(what: &'static str) -> impl Fn(io::Error) -> SidecarError {
    move |source| SidecarError::Io { what, source }
}

/// Makes one clear disk. The same contents give the same bytes.
///
/// # Errors
/// See [`SidecarError`].
pub fn build_sidecar(request: SidecarRequest<'_>) -> Result<(), SidecarError> {
    let scratch = tempfile::tempdir_in(request.scratch).map_err(failed("create a scratch directory"))?;
    let raw = scratch.path().join("ext4");
    make_file_system(&raw, request)?;
    if let Some(source) = request.source {
        make_anonymous(&raw, source, scratch.path())?;
    }
    let directory = request.out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = tempfile::Builder::new()
        .prefix(".disk-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)
        .map_err(failed("create a disk"))?;
    to_qcow2(&raw, beside.as_file(), request.virtual_size)?;
    beside.persist(request.out).map_err(|error| SidecarError::Io { what: "rename a disk", source: error.error })?;
    Ok(())
}

fn make_file_system(raw: &Path, request: SidecarRequest<'_>) -> Result<(), SidecarError> {
    let file = File::create_new(raw).map_err(failed("create a raw disk"))?;
    file.set_len(request.virtual_size).map_err(failed("create a raw disk"))?;
    let uuid = request.uuid.to_string();
    // Without a journal a read-only mount never has to write, and `debugfs` sees what the guest last synced.
    let extended = format!("hash_seed={uuid},root_owner=0:0,lazy_itable_init=0,nodiscard");
    let mut mke2fs = Invocation::new(MKE2FS)
        .env("E2FSPROGS_FAKE_TIME", FIXED_TIME)
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-O", "^has_journal,^resize_inode"])
        .args(["-L", request.label, "-U", &uuid, "-E", &extended]);
    if let Some(source) = request.source {
        mke2fs = mke2fs.args(["-d".as_ref(), source.as_os_str()]);
    }
    mke2fs.args([raw]).run()?;
    Ok(())
}

/// Takes the builder's user, group and clock out of every inode.
fn make_anonymous(raw: &Path, source: &Path, scratch: &Path) -> Result<(), SidecarError> {
    let mut commands = String::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let text = relative.to_str().filter(|text| !text.contains(['"', '\n', '\r']));
        let name = text.ok_or_else(|| SidecarError::Name { path: relative.clone() })?;
        for (field, value) in [("uid", "0"), ("gid", "0")] {
            commands += &format!("sif \"/{name}\" {field} {value}\n");
        }
        for field in ["atime", "mtime", "ctime", "crtime"] {
            commands += &format!("sif \"/{name}\" {field} @{FIXED_TIME}\n");
            commands += &format!("sif \"/{name}\" {field}_extra 0\n");
        }
        let here = source.join(&relative);
        if fs::symlink_metadata(&here).map_err(failed("read a folder"))?.is_dir() {
            for entry in fs::read_dir(&here).map_err(failed("read a folder"))? {
                pending.push(relative.join(entry.map_err(failed("read a folder"))?.file_name()));
            }
        }
    }
    let script = scratch.join("commands");
    fs::write(&script, commands).map_err(failed("write debugfs commands"))?;
    let done = Invocation::new(DEBUGFS)
        .env("E2FSPROGS_FAKE_TIME", FIXED_TIME)
        .args(["-w".as_ref(), "-f".as_ref(), script.as_os_str(), raw.as_os_str()])
        .run();
    done?;
    Ok(())
}

/// Copies what is not a hole.
fn to_qcow2(raw: &Path, out: &File, virtual_size: u64) -> Result<(), SidecarError> {
    let raw = File::open(raw).map_err(failed("read a raw disk"))?;
    let ranges = data_ranges(&raw, virtual_size).map_err(failed("read a raw disk"))?;
    let disk = Writer::create(out, virtual_size, &ranges)?;
    let mut buffer = vec![0; COPY_BYTES];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let len = buffer.len().min((range.end - at) as usize);
            raw.read_exact_at(&mut buffer[..len], at).map_err(failed("read a raw disk"))?;
            disk.write_all_at(&buffer[..len], at)?;
            at += len as u64;
        }
    }
    Ok(disk.finish()?)
}

/// The 4096-byte blocks that are not zeros: what the file system, not what the machine's own one, keeps as data.
fn data_ranges(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    const BLOCK: u64 = 4096;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut block = [0; BLOCK as usize];
    let mut at = 0;
    while at < size {
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(found) => at = found / BLOCK * BLOCK,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        }
        let hole = rustix::fs::seek(file, SeekFrom::Hole(at))?.min(size);
        while at < hole {
            let len = BLOCK.min(size - at) as usize;
            file.read_exact_at(&mut block[..len], at)?;
            if block[..len].iter().any(|byte| *byte != 0) {
                match ranges.last_mut() {
                    Some(last) if last.end == at => last.end = at + len as u64,
                    _ => ranges.push(at..at + len as u64),
                }
            }
            at += len as u64;
        }
    }
    Ok(ranges)
}

/// Reads files from the root of a clear disk of a stopped bundle, each up to `limit` bytes; a missing one is `None`.
///
/// The disk was in the hands of the host and of the workload: what it holds is data, and a longer file is cut short.
///
/// # Errors
/// See [`SidecarError`].
pub fn read_files(disk: &Path, scratch: &Path, names: &[&str], limit: u64) -> Result<Vec<Option<Vec<u8>>>, SidecarError> {
    let scratch = tempfile::tempdir_in(scratch).map_err(failed("create a scratch directory"))?;
    let raw = scratch.path().join("ext4");
    Reader::open(disk)?.copy_to(&mut File::create_new(&raw).map_err(failed("create a raw disk"))?)?;
    names.iter().map(|name| read_one(&raw, scratch.path(), name, limit)).collect()
}

fn read_one(raw: &Path, scratch: &Path, name: &str, limit: u64) -> Result<Option<Vec<u8>>, SidecarError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(SidecarError::Name { path: name.into() });
    }
    let copy = scratch.join(name);
    let request = [b"dump \"/", name.as_bytes(), b"\" \"", copy.as_os_str().as_bytes(), b"\""].concat();
    let request = String::from_utf8(request).map_err(|_| SidecarError::Name { path: copy.clone() })?;
    Invocation::new(DEBUGFS).args(["-R".as_ref(), request.as_ref(), raw.as_os_str()]).run()?;
    // debugfs says "File not found" and ends well: whether there is a copy is the answer.
    match File::open(&copy) {
        Ok(file) => {
            let mut out = Vec::new();
            file.take(limit).read_to_end(&mut out).map_err(failed("read a copied file"))?;
            Ok(Some(out))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SidecarError::Io { what: "read a copied file", source }),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("nvflare/startup kit")).unwrap();
        fs::write(root.join("nvflare/startup kit/fed.json"), "{}").unwrap();
        fs::write(root.join("hello"), vec![7; 100_000]).unwrap();
        fs::set_permissions(root.join("hello"), fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("hello", root.join("link")).unwrap();
    }

    fn build(dir: &Path, source: Option<&Path>, name: &str) -> PathBuf {
        let out = dir.join(name);
        let uuid = DiskUuid::from_random([5; 16]);
        build_sidecar(SidecarRequest { out: &out, scratch: dir, label: "user_config", virtual_size: 1 << 30, uuid: &uuid, source })
            .unwrap();
        out
    }

    #[test]
    fn same_contents_same_bytes_nobodys_and_readable() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        tree(&a);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        tree(&b);
        std::os::unix::fs::chown(b.join("hello"), Some(1234), Some(99)).ok();
        let (one, two) = (build(dir.path(), Some(&a), "one.qcow2"), build(dir.path(), Some(&b), "two.qcow2"));
        assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap(), "same bytes");
        assert!(fs::metadata(&one).unwrap().len() < 64 << 20, "sparse");
        let check = Command::new("qemu-img").args(["check"]).arg(&one).output().unwrap();
        assert!(check.status.success(), "{check:?}");

        let read = read_files(&one, dir.path(), &["hello", "missing", "nvflare"], 1000).unwrap();
        assert_eq!(read[0].as_deref(), Some(&[7; 1000][..]));
        assert_eq!(read[1], None);
        assert!(read_files(&one, dir.path(), &["../etc\"passwd"], 1).is_err());

        let raw = dir.path().join("raw");
        Reader::open(&one).unwrap().copy_to(&mut File::create(&raw).unwrap()).unwrap();
        let fsck = Command::new("/sbin/e2fsck").args(["-fn"]).arg(&raw).output().unwrap();
        assert!(fsck.status.success(), "{fsck:?}");
        let stat = Command::new("/sbin/debugfs").args(["-R", "stat /hello"]).arg(&raw).output().unwrap();
        let stat = String::from_utf8_lossy(&stat.stdout).into_owned();
        assert!(stat.contains("Mode:  0640") && stat.contains("User:     0   Group:     0"), "{stat}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5, "nothing is left over");
    }

    #[test]
    fn empty_disks_and_odd_names() {
        let dir = tempfile::tempdir().unwrap();
        let disk = build(dir.path(), None, "applog.qcow2");
        assert_eq!(Reader::open(&disk).unwrap().virtual_size(), 1 << 30);
        let odd = dir.path().join("odd");
        fs::create_dir(&odd).unwrap();
        fs::write(odd.join("a\"b"), "").unwrap();
        let uuid = DiskUuid::from_random([5; 16]);
        let out = dir.path().join("bad.qcow2");
        let request = SidecarRequest { out: &out, scratch: dir.path(), label: "x", virtual_size: 1 << 30, uuid: &uuid, source: Some(&odd) };
        assert!(matches!(build_sidecar(request), Err(SidecarError::Name { .. })));
        assert!(!out.exists());
    }
}
