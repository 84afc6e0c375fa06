//! Where the gate's files lie, and how they are written: private, whole, never over one another by mistake.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// No file of the gate's own is larger; a larger one is a mistake in a path.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// A file or folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The operating system refuses.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A secret file that others may read.
    #[error("{path} has mode {mode:04o}, expected 0600: others could read it\nhint: chmod 600 {path}")]
    Mode {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Absurdly large.
    #[error("{path} is larger than {most} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// What is read at most.
        most: u64,
    },
    /// `init` never writes over a gate.
    #[error("{path} exists already\nhint: a gate is never written over; name another folder, or remove this one yourself")]
    Exists {
        /// The folder.
        path: String,
    },
}

/// The folder `init` makes and everything else reads.
#[derive(Debug, Clone)]
pub struct Layout(PathBuf);

impl Layout {
    /// A gate folder, existing or not.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Settings, TOML.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join("coffer-gate.toml")
    }

    /// The authority that guests pin, PEM.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.0.join("tls/ca.pem")
    }

    /// Its private key, PEM, 0600.
    #[must_use]
    pub fn ca_key(&self) -> PathBuf {
        self.0.join("tls/ca.key")
    }

    /// The key service's authority, PEM, relative to the folder.
    #[must_use]
    pub fn service_ca_name() -> &'static str {
        "tls/service-ca.pem"
    }

    /// What must survive a restart, JSON, 0600.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// Where `status` and `cut` ask, 0600.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.0.join("gate.sock")
    }
}

/// A folder being made beside its final name; dropped before [`Self::finish`] it disappears again.
pub struct NewFolder {
    staging: PathBuf,
    target: PathBuf,
    done: bool,
}

impl NewFolder {
    /// Makes `<target>.new-<pid>` with mode 0700.
    ///
    /// # Errors
    /// [`LayoutError::Exists`] if the target is there already.
    pub fn begin(target: &Path) -> Result<Self, LayoutError> {
        if fs::symlink_metadata(target).is_ok() {
            return Err(LayoutError::Exists { path: target.display().to_string() });
        }
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".new-{}", std::process::id()));
        let staging = PathBuf::from(name);
        private_folder(&staging)?;
        Ok(Self { staging, target: target.to_owned(), done: false })
    }

    /// The folder while it is being filled.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::new(&self.staging)
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// [`LayoutError::Exists`] if somebody else was faster.
    pub fn finish(mut self) -> Result<Layout, LayoutError> {
        if fs::symlink_metadata(&self.target).is_ok() {
            return Err(LayoutError::Exists { path: self.target.display().to_string() });
        }
        fs::rename(&self.staging, &self.target).map_err(io_error("rename to", &self.target))?;
        self.done = true;
        Ok(Layout::new(&self.target))
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.done {
            // Nothing sensible is left to do if the removal fails too; the folder's name says what it is.
            let _ = fs::remove_dir_all(&self.staging);
        }
    }
}

/// Makes a folder with mode 0700.
///
/// # Errors
/// See [`LayoutError::Io`].
pub fn private_folder(path: &Path) -> Result<(), LayoutError> {
    DirBuilder::new().mode(0o700).create(path).map_err(io_error("create folder", path))
}

/// Writes a file that must not exist yet, and syncs it.
///
/// # Errors
/// See [`LayoutError::Io`].
pub fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), LayoutError> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(io_error("create", path))?;
    file.write_all(bytes).map_err(io_error("write", path))?;
    file.sync_all().map_err(io_error("sync", path))
}

/// Writes a file beside its name and renames it. What a crash left of an earlier attempt is written over.
///
/// # Errors
/// See [`LayoutError::Io`].
pub fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), LayoutError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &beside)(error)),
        _ => {}
    }
    write_new(&beside, mode, bytes)?;
    fs::rename(&beside, path).map_err(io_error("rename to", path))
}

/// Reads a small file.
///
/// # Errors
/// See [`LayoutError`].
pub fn read_small(path: &Path) -> Result<Zeroizing<Vec<u8>>, LayoutError> {
    read_up_to(path, MAX_FILE_BYTES)
}

fn read_up_to(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, LayoutError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(path).map_err(io_error("open", path))?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > most {
        return Err(LayoutError::TooLarge { path: path.display().to_string(), most });
    }
    Ok(bytes)
}

/// Reads a small file that only its owner may read.
///
/// # Errors
/// [`LayoutError::Mode`] if group or others have any right on it.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, LayoutError> {
    read_private_up_to(path, MAX_FILE_BYTES)
}

/// The same of a file that grows with the sites there are.
///
/// # Errors
/// As for [`read_private`].
pub fn read_private_up_to(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, LayoutError> {
    let mode = fs::metadata(path).map_err(io_error("open", path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(LayoutError::Mode { path: path.display().to_string(), mode });
    }
    read_up_to(path, most)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.display().to_string();
    move |source| LayoutError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_folder_is_refused_and_an_unfinished_one_disappears() {
        let base = tempfile::tempdir().unwrap();
        assert!(matches!(NewFolder::begin(base.path()), Err(LayoutError::Exists { .. })));
        let begun = NewFolder::begin(&base.path().join("d")).unwrap();
        write_new(&begun.layout().state(), 0o600, b"s").unwrap();
        drop(begun);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_key_file_others_can_read_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("k");
        write_new(&path, 0o600, b"k").unwrap();
        read_private(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read_private(&path), Err(LayoutError::Mode { mode: 0o640, .. })));
    }

    #[test]
    fn what_a_crash_left_beside_a_file_is_in_nobodys_way() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("state.json");
        fs::write(base.path().join("state.json.new"), b"half").unwrap();
        replace(&path, 0o600, b"whole").unwrap();
        replace(&path, 0o600, b"newer").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }
}
