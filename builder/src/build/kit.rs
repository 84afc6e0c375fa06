//! The kit as a tar: the same files give the same bytes, whoever owns them and whenever they were written.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use coffer_manifest::User;
use tar::{Builder, EntryType, Header};
use zeroize::Zeroizing;

use super::BuildError;
use crate::plan::{Kit, sorted};

/// Packs every directory of the kit. Names are paths in the container without the leading `/`; owner is the workload.
///
/// Files are 0600 or, where the owner may execute them, 0700; directories 0700; all times 0.
///
/// # Errors
/// [`BuildError::Read`] for a file that cannot be read, or that changed its kind since the plan was made.
pub fn pack(kit: &Kit, user: &User) -> Result<Zeroizing<Vec<u8>>, BuildError> {
    // Large enough from the start: a buffer that grows leaves copies of what it held.
    let mut tar = Builder::new(Vec::with_capacity(usize::try_from(kit.tar_bytes).unwrap_or(0)));
    for (target, dir) in &kit.dirs {
        let name = PathBuf::from(target.trim_start_matches('/'));
        add_dir(&mut tar, &name, dir, user)?;
    }
    let bytes = tar.into_inner().map_err(|source| BuildError::Read { path: "kit".into(), source })?;
    Ok(Zeroizing::new(bytes))
}

fn add_dir(tar: &mut Builder<Vec<u8>>, name: &Path, dir: &Path, user: &User) -> Result<(), BuildError> {
    let fail = |source| BuildError::Read { path: dir.to_owned(), source };
    let mut header = header(EntryType::Directory, 0o700, 0, user);
    tar.append_data(&mut header, name.join(""), std::io::empty()).map_err(fail)?;
    for path in sorted(dir).map_err(fail)? {
        let name = name.join(path.file_name().unwrap_or_default());
        let found = fs::symlink_metadata(&path).map_err(|source| BuildError::Read { path: path.clone(), source })?;
        if found.is_dir() {
            add_dir(tar, &name, &path, user)?;
        } else {
            add_file(tar, &name, &path, user)?;
        }
    }
    Ok(())
}

fn add_file(tar: &mut Builder<Vec<u8>>, name: &Path, path: &Path, user: &User) -> Result<(), BuildError> {
    let fail = |source| BuildError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(fail)?;
    let found = file.metadata().map_err(fail)?;
    if !found.is_file() {
        return Err(fail(std::io::Error::other("is not a regular file any more")));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0)));
    file.read_to_end(&mut bytes).map_err(fail)?;
    let mode = if found.permissions().mode() & 0o100 == 0 { 0o600 } else { 0o700 };
    let mut header = header(EntryType::Regular, mode, bytes.len() as u64, user);
    tar.append_data(&mut header, name, bytes.as_slice()).map_err(fail)
}

fn header(kind: EntryType, mode: u32, size: u64, user: &User) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(u64::from(user.uid));
    header.set_gid(u64::from(user.gid));
    header.set_mtime(0);
    header.set_size(size);
    header
}
