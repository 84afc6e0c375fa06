//! The directories a spec names: `user_config`, which must hold no key, and `kit`, which may.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

use crate::fault::{Fault, SpecError};
use crate::spec::Source;

/// All kits of a site together, in bytes: the guest opens them in memory.
pub const MAX_KIT_BYTES: u64 = 64 << 20;

/// What every tar entry costs beside its contents: header, padding, and a second header for a long name.
const TAR_ENTRY_BYTES: u64 = 3 * 512;

/// The two empty blocks at the end of a tar, and the entries of the kits' own directories.
const TAR_END_BYTES: u64 = 64 * 1024;

/// Where the guest mounts something of its own.
const TAKEN: [&str; 9] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/applog", "/user_config", "/user_data", "/etc/hosts"];

/// A folder of `/user_config`.
#[derive(Debug)]
pub struct Folder {
    /// Below `/user_config`.
    pub name: String,
    /// On this machine.
    pub dir: PathBuf,
}

/// What is sealed for the workload.
#[derive(Debug)]
pub struct Kit {
    /// Absolute path in the container → directory here; no path lies in another.
    pub dirs: BTreeMap<String, PathBuf>,
    /// At most what its tar takes, in bytes.
    pub tar_bytes: u64,
}

/// Names that only private keys have, and endings of files that hold them in binary.
const KEY_NAMES: [&str; 4] = ["id_rsa", "id_ecdsa", "id_ed25519", "id_dsa"];
const KEY_ENDINGS: [&str; 5] = [".key", ".p12", ".pfx", ".jks", ".keystore"];

/// What a private key looks like in a file. PEM of any kind ends its first line with `PRIVATE KEY-----`.
const KEY_MARKS: [(&[u8], &str); 4] = [
    (b"PRIVATE KEY-----", "a PEM or OpenSSH key block"),
    (b"PuTTY-User-Key-File", "a PuTTY key"),
    (b"AGE-SECRET-KEY-1", "an age key"),
    (b"PGP PRIVATE KEY BLOCK", "an OpenPGP key"),
];

/// The folders of `user_config`, none of which holds a private key.
pub fn user_config(source: &Source, given: &BTreeMap<String, Spanned<String>>) -> Result<Vec<Folder>, SpecError> {
    let mut folders = Vec::new();
    for (name, path) in given {
        let field = format!("user_config.{name}");
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !(1..=63).contains(&name.len()) || name.starts_with('.') || !name.bytes().all(fits) {
            return Err(source.refuse(path, field, Fault::FolderName { got: name.clone() }));
        }
        let dir = directory(source, path, &field)?;
        for_each_file(&dir, &mut |file, _| no_private_key(file)).map_err(|fault| source.refuse(path, field, fault))?;
        folders.push(Folder { name: name.clone(), dir });
    }
    Ok(folders)
}

/// The kit: plain directories and files only, of bounded size.
pub fn kit(source: &Source, given: &BTreeMap<String, Spanned<String>>) -> Result<Option<Kit>, SpecError> {
    let mut dirs: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut total = 0;
    for (target, path) in given {
        let field = format!("kit.{target}");
        if !is_plain_path(target) {
            return Err(source.refuse(path, field, Fault::KitPath { got: target.clone() }));
        }
        if let Some(taken) = TAKEN.into_iter().find(|taken| within(target, taken)) {
            return Err(source.refuse(path, field, Fault::KitPathTaken { got: target.clone(), taken }));
        }
        if let Some(outer) = dirs.keys().find(|outer| within(target, outer)) {
            return Err(source.refuse(path, field, Fault::KitNested { got: target.clone(), outer: outer.clone() }));
        }
        let dir = directory(source, path, &field)?;
        for_each_file(&dir, &mut |_, size| {
            total += size.next_multiple_of(512) + TAR_ENTRY_BYTES;
            Ok(())
        })
        .map_err(|fault| source.refuse(path, field.clone(), fault))?;
        if total > MAX_KIT_BYTES {
            return Err(source.refuse(path, field, Fault::KitTooLarge { got: total, most: MAX_KIT_BYTES }));
        }
        dirs.insert(target.clone(), dir);
    }
    Ok((!dirs.is_empty()).then_some(Kit { dirs, tar_bytes: total + TAR_END_BYTES }))
}

fn within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_plain_path(text: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    text.len() <= 255 && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain))
}

fn directory(source: &Source, given: &Spanned<String>, field: &str) -> Result<PathBuf, SpecError> {
    let dir = source.path(given, field)?;
    match fs::metadata(&dir) {
        Ok(found) if found.is_dir() => Ok(dir),
        Ok(_) => Err(source.refuse(given, field, Fault::NotADirectory { path: dir })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(source.refuse(given, field, Fault::NoDirectory { path: dir })),
        Err(error) => Err(source.refuse(given, field, Fault::Walk { path: dir, error: error.to_string() })),
    }
}

/// Calls `look` with each regular file and its size, sorted by path. Directories are counted as files of size 0.
fn for_each_file(dir: &Path, look: &mut dyn FnMut(&Path, u64) -> Result<(), Fault>) -> Result<(), Fault> {
    for path in sorted(dir).map_err(|error| Fault::Walk { path: dir.to_owned(), error: error.to_string() })? {
        let found = fs::symlink_metadata(&path).map_err(|error| Fault::Walk { path: path.clone(), error: error.to_string() })?;
        if path.file_name().is_none_or(|name| name.to_str().is_none()) {
            return Err(Fault::FileName { path });
        }
        if found.is_dir() {
            look(&path, 0)?;
            for_each_file(&path, look)?;
        } else if found.is_file() {
            look(&path, found.len())?;
        } else {
            return Err(Fault::SpecialFile { path });
        }
    }
    Ok(())
}

/// The entries of a directory in the order of their bytes.
pub fn sorted(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

fn no_private_key(path: &Path) -> Result<(), Fault> {
    let refuse = |found| Err(Fault::PrivateKey { path: path.to_owned(), found });
    let found = fs::symlink_metadata(path);
    if found.is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if KEY_NAMES.contains(&name.as_str()) {
        return refuse("its name");
    }
    if KEY_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        return refuse("its name's ending");
    }
    match key_mark(path) {
        Ok(Some(mark)) => refuse(mark),
        Ok(None) => Ok(()),
        Err(error) => Err(Fault::Walk { path: path.to_owned(), error: error.to_string() }),
    }
}

/// The first key mark in a file, read in pieces that overlap by more than the longest mark.
fn key_mark(path: &Path) -> std::io::Result<Option<&'static str>> {
    const KEEP: usize = 64;
    let mut file = File::open(path)?;
    let mut window = vec![0; 256 * 1024];
    let mut kept = 0;
    loop {
        let read = file.read(&mut window[kept..])?;
        if read == 0 {
            return Ok(None);
        }
        let held = kept + read;
        for (mark, name) in KEY_MARKS {
            if window[..held].windows(mark.len()).any(|piece| piece == mark) {
                return Ok(Some(name));
            }
        }
        kept = held.min(KEEP);
        window.copy_within(held - kept..held, 0);
    }
}
