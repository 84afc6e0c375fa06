//! The end of a bundle: every file is read once, for its digest in manifest.json and its copy in `<site>.tgz`.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use coffer_manifest::{Bundle, BundleFile, Content, HostData, Sha256Digest, SiteConfig, encode};
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::BuildError;

/// Bytes held between disk and hash.
const BUFFER_BYTES: usize = 1 << 20;
/// gzip's number for Unix in its header; fixed, so that the same files give the same archive.
const GZIP_UNIX: u8 = 3;

/// A file of the bundle and, if it is a disk that somebody writes, the size of that disk in bytes.
pub struct Member {
    /// Name in the bundle's directory.
    pub name: Cow<'static, str>,
    /// `Some` for `mutable` members of the manifest.
    pub disk_bytes: Option<u64>,
}

/// Writes `manifest.json` into `dir` and the whole of `dir` into `tgz`, under the directory's own name.
///
/// gzip here is a container, not a compressor: blocks are stored, because ciphertext does not shrink.
///
/// # Errors
/// [`BuildError::Read`], [`BuildError::Write`], [`BuildError::Document`].
pub fn seal(dir: &Path, tgz: &Path, members: &[Member], site: &SiteConfig, host_data: HostData) -> Result<(), BuildError> {
    let fail = |source| BuildError::Write { path: tgz.to_owned(), source };
    let root = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let time = site.not_before;
    let out = BufWriter::with_capacity(BUFFER_BYTES, File::create_new(tgz).map_err(fail)?);
    let mut tar = Builder::new(GzBuilder::new().operating_system(GZIP_UNIX).write(out, Compression::none()));
    append(&mut tar, &format!("{root}/"), EntryType::Directory, 0o755, 0, time, &mut io::empty()).map_err(fail)?;
    let mut files = Vec::new();
    for member in members {
        let content = add(&mut tar, dir, &root, member, time)?;
        files.push(BundleFile { path: member.name.clone().into_owned(), content });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let manifest = Bundle { kind: Default::default(), project: site.project.clone(), site: site.site.clone(), host_data, files };
    let bytes = encode(&manifest).map_err(BuildError::Document)?;
    super::write_file(&dir.join("manifest.json"), &bytes, 0o644)?;
    let name = format!("{root}/manifest.json");
    append(&mut tar, &name, EntryType::Regular, 0o644, bytes.len() as u64, time, &mut bytes.as_slice()).map_err(fail)?;
    let finish = |tar: Builder<GzEncoder<BufWriter<File>>>| tar.into_inner()?.finish()?.flush();
    finish(tar).map_err(fail)
}

type Archive = Builder<GzEncoder<BufWriter<File>>>;

fn add(tar: &mut Archive, dir: &Path, root: &str, member: &Member, time: u64) -> Result<Content, BuildError> {
    let path = dir.join(&*member.name);
    let fail = |source| BuildError::Read { path: path.clone(), source };
    make_readable(&path).map_err(fail)?;
    let file = File::open(&path).map_err(fail)?;
    let found = file.metadata().map_err(fail)?;
    let mode = if found.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
    let mut hashed = Hashed { file, digest: member.disk_bytes.is_none().then(Sha256::new) };
    let name = format!("{root}/{}", member.name);
    append(tar, &name, EntryType::Regular, mode, found.len(), time, &mut hashed).map_err(fail)?;
    Ok(match (hashed.digest, member.disk_bytes) {
        (Some(digest), _) => Content::Fixed { size: found.len(), sha256: Sha256Digest::new(digest.finalize().into()) },
        (None, bytes) => Content::Mutable { format: "qcow2".to_owned(), virtual_size: bytes.unwrap_or(0) },
    })
}

fn append(tar: &mut Archive, name: &str, kind: EntryType, mode: u32, size: u64, time: u64, bytes: &mut dyn Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(time);
    header.set_size(size);
    tar.append_data(&mut header, name, bytes)
}

/// A file that is hashed while it is read.
struct Hashed {
    file: File,
    digest: Option<Sha256>,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if let Some(digest) = &mut self.digest {
            digest.update(&buffer[..read]);
        }
        Ok(read)
    }
}

/// SHA-256 of a whole file.
///
/// # Errors
/// What reading gives.
pub fn digest_of(path: &Path) -> io::Result<Sha256Digest> {
    let mut hashed = Hashed { file: File::open(path)?, digest: Some(Sha256::new()) };
    let mut buffer = vec![0; BUFFER_BYTES];
    while hashed.read(&mut buffer)? != 0 {}
    Ok(Sha256Digest::new(hashed.digest.unwrap_or_default().finalize().into()))
}

/// Copies a file, readable by all, executable by all if its owner may; on file systems that share blocks it costs none.
///
/// # Errors
/// [`BuildError::Write`].
pub fn copy(from: &Path, to: &Path) -> Result<(), BuildError> {
    let copied = fs::copy(from, to).and_then(|_| make_readable(to));
    copied.map_err(|source| BuildError::Write { path: to.to_owned(), source })
}

/// 0755 for what its owner may execute, 0644 for anything else: modes do not depend on the builder's umask.
fn make_readable(path: &Path) -> io::Result<()> {
    let executable = fs::metadata(path)?.permissions().mode() & 0o100 != 0;
    fs::set_permissions(path, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))
}
