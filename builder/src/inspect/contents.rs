//! The files of a bundle, from its directory or its archive, each read once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Component, Path};

use coffer_manifest::{MAX_DOCUMENT_BYTES, Sha256Digest};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

use super::InspectError;

/// Bytes held between disk and hash.
const BUFFER_BYTES: usize = 1 << 20;
/// A bundle has a dozen files, and two for each launch digest with an ID block, of which a service takes 256; an archive with more
/// was not made by a builder.
const MAX_FILES: usize = 544;
/// Where launch_vm.sh puts a run's files: not part of the bundle.
const RUN_DIR: &str = "run";

/// One file.
#[derive(Debug)]
pub struct Found {
    /// Bytes.
    pub size: u64,
    /// Of all of it.
    pub sha256: Sha256Digest,
    /// Its beginning: one byte more than a document may have, so that a longer one is seen to be longer.
    pub head: Vec<u8>,
}

/// A bundle's directory.
#[derive(Debug)]
pub struct Contents {
    /// Name of the directory.
    pub name: String,
    /// By name; bundles have no subdirectories.
    pub files: BTreeMap<String, Found>,
}

impl Contents {
    /// Reads a directory, or an archive that holds one.
    ///
    /// # Errors
    /// [`InspectError::Read`], [`InspectError::Entry`].
    pub fn read(path: &Path) -> Result<Self, InspectError> {
        let fail = |source| InspectError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(fail)?.is_dir() { read_dir(path) } else { read_archive(path) }
    }
}

fn read_dir(path: &Path) -> Result<Contents, InspectError> {
    let fail = |source| InspectError::Read { path: path.to_owned(), source };
    let real = fs::canonicalize(path).map_err(fail)?;
    let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&real).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(fail)?;
        if kind.is_dir() && file == RUN_DIR {
            continue;
        }
        if !kind.is_file() || files.len() == MAX_FILES {
            return Err(InspectError::Entry { path: path.to_owned(), entry: file.escape_debug().to_string() });
        }
        let opened = File::open(entry.path()).map_err(fail)?;
        files.insert(file, digest(opened).map_err(fail)?);
    }
    Ok(Contents { name, files })
}

/// Entries are `cvm_<id>/` and `cvm_<id>/<file>`; anything else was not written by a builder.
fn read_archive(path: &Path) -> Result<Contents, InspectError> {
    let fail = |source| InspectError::Read { path: path.to_owned(), source };
    let file = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(fail)?);
    let mut archive = Archive::new(GzDecoder::new(file));
    let mut contents = Contents { name: String::new(), files: BTreeMap::new() };
    // Raw: a builder's names and sizes fit into plain headers. Otherwise a few packed bytes could be a name of many gigabytes,
    // which the library would read into memory.
    for entry in archive.entries().map_err(fail)?.raw(true) {
        let mut entry = entry.map_err(fail)?;
        let inside = entry.path().map_err(fail)?.into_owned();
        let refuse = || InspectError::Entry { path: path.to_owned(), entry: inside.to_string_lossy().escape_debug().to_string() };
        let mut parts = inside.components().map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        });
        let dir = parts.next().flatten().ok_or_else(refuse)?;
        if contents.name.is_empty() {
            contents.name = dir.to_owned();
        }
        let (name, rest) = (parts.next(), parts.next());
        match (entry.header().entry_type(), name, rest) {
            (EntryType::Directory, None, None) if dir == contents.name => {}
            (EntryType::Regular, Some(Some(name)), None) if dir == contents.name && contents.files.len() < MAX_FILES => {
                let name = name.to_owned();
                let found = digest(&mut entry).map_err(fail)?;
                if contents.files.insert(name, found).is_some() {
                    return Err(refuse());
                }
            }
            _ => return Err(refuse()),
        }
    }
    Ok(contents)
}

fn digest(mut from: impl Read) -> std::io::Result<Found> {
    let mut hash = Sha256::new();
    let (mut size, mut head) = (0, Vec::new());
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(Found { size, sha256: Sha256Digest::new(hash.finalize().into()), head });
        }
        let bytes = &buffer[..read];
        let wanted = (MAX_DOCUMENT_BYTES + 1).saturating_sub(head.len()).min(read);
        head.extend_from_slice(&bytes[..wanted]);
        hash.update(bytes);
        size += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    fn read(bytes: &[u8]) -> Result<Contents, InspectError> {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(bytes).expect("writes");
        Contents::read(file.path())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        out.write_all(bytes).expect("memory");
        out.finish().expect("memory")
    }

    /// A bundle's archive, as far as this reader cares.
    fn good() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for name in ["cvm_0123456789ab/site.json", "cvm_0123456789ab/vmlinuz"] {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(3);
            tar.append_data(&mut header, name, &b"abc"[..]).expect("memory");
        }
        tar.into_inner().expect("memory")
    }

    #[test]
    fn a_good_archive_is_read() {
        let contents = read(&gzip(&good())).expect("reads");
        assert_eq!(contents.name, "cvm_0123456789ab");
        assert_eq!(contents.files["vmlinuz"].size, 3);
        assert_eq!(contents.files["vmlinuz"].sha256, Sha256Digest::of(b"abc"));
    }

    #[test]
    fn names_that_do_not_fit_a_header_are_not_read() {
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader, EntryType::XGlobalHeader] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_path("cvm_0123456789ab/long").expect("fits");
            header.set_size(16 << 20);
            header.set_cksum();
            let tar = [header.as_bytes().as_slice(), &vec![0; 16 << 20], &good()].concat();
            assert!(matches!(read(&gzip(&tar)), Err(InspectError::Entry { .. })), "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_is_total(bytes: Vec<u8>) {
            drop(read(&bytes));
            drop(read(&gzip(&bytes)));
        }

        /// Whatever byte of the tar is changed: an error, or files of one directory.
        #[test]
        fn changed_archives_are_read_or_refused(at in any::<proptest::sample::Index>(), byte: u8) {
            let mut tar = good();
            let at = at.index(tar.len());
            tar[at] = byte;
            if let Ok(contents) = read(&gzip(&tar)) {
                prop_assert!(contents.files.len() <= 2);
                prop_assert!(contents.files.keys().all(|name| !name.contains('/') && name != ".."));
            }
        }
    }
}
