//! A directory tree that is not trusted to keep its paths inside itself: symbolic links are followed as the container
//! would follow them, with the tree as `/`.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, mkdirat, open, openat, openat2, unlinkat};
use rustix::io::Errno;

/// The root of such a tree.
pub struct Tree(OwnedFd);

/// What a path in a tree did not allow.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} /{path} in the container's root: {errno}")]
pub struct TreeError {
    what: &'static str,
    path: String,
    errno: Errno,
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// `..` and symbolic links stay in the tree; links like /proc/self/fd/N are not followed at all.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Who owns a file, and who may do what with it.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
}

impl Access {
    /// root's, with these permission bits.
    pub const fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}

impl Tree {
    /// Opens the tree at `path`, a path of our own.
    pub fn open(path: &str) -> Result<Self, TreeError> {
        open(path, FOLDER, Mode::empty()).map(Self).map_err(|errno| TreeError { what: "open", path: path.into(), errno })
    }

    /// Opens a folder; makes it and its parents (root's, 0755) where they are missing.
    pub fn folder(&self, path: &str) -> Result<OwnedFd, TreeError> {
        let fail = |errno| TreeError { what: "make folder", path: path.to_owned(), errno };
        let mut folder = openat2(&self.0, ".", FOLDER, Mode::empty(), INSIDE).map_err(fail)?;
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if matches!(part, "." | "..") {
                return Err(fail(Errno::INVAL));
            }
            so_far.push_str(part);
            folder = match openat2(&self.0, so_far.as_str(), FOLDER, Mode::empty(), INSIDE) {
                Err(Errno::NOENT) => {
                    mkdirat(&folder, part, Mode::from_raw_mode(0o755)).map_err(fail)?;
                    openat2(&self.0, so_far.as_str(), FOLDER, Mode::empty(), INSIDE)
                }
                other => other,
            }
            .map_err(fail)?;
            so_far.push('/');
        }
        Ok(folder)
    }

    /// Makes a folder with this access, or gives an existing one this access.
    pub fn make_folder(&self, path: &str, access: Access) -> Result<(), TreeError> {
        let fail = |errno| TreeError { what: "make folder", path: path.to_owned(), errno };
        let handle = self.folder(path)?;
        // A PATH handle cannot change its file; the same folder, opened for reading, can.
        let folder = openat(&handle, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
        set(&folder, access).map_err(fail)
    }

    /// Writes a file, in place of whatever has its name.
    pub fn write(&self, path: &str, content: &[u8], access: Access) -> Result<(), TreeError> {
        let fail = |errno| TreeError { what: "write", path: path.to_owned(), errno };
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if matches!(name, "" | "." | "..") {
            return Err(fail(Errno::INVAL));
        }
        let folder = self.folder(parent)?;
        match unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&folder, name, flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
        let mut file = File::from(file);
        file.write_all(content).map_err(|error| fail(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        set(&file, access).map_err(fail)
    }
}

fn set(file: &impl AsFd, access: Access) -> Result<(), Errno> {
    fchown(file, Some(Uid::from_raw(access.uid)), Some(Gid::from_raw(access.gid)))?;
    fchmod(file, Mode::from_raw_mode(access.mode & 0o777))
}

/// A path that names an open folder, for mount(2).
pub fn proc_path(folder: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", folder.as_raw_fd())
}

/// Opens a regular file for writing in a folder somebody else filled: an existing link, device or FIFO is refused.
pub fn open_log(folder: &str, name: &str) -> Result<File, Errno> {
    let folder = openat(CWD, folder, FOLDER, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let strict = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = openat2(&folder, name, flags, Mode::from_raw_mode(0o644), strict)?;
    let file = File::from(file);
    let kind = file.metadata().map_err(|_| Errno::IO)?;
    // Only now: truncating a device or somebody's hard-linked file is not ours to do.
    if !kind.is_file() || std::os::unix::fs::MetadataExt::nlink(&kind) != 1 {
        return Err(Errno::INVAL);
    }
    file.set_len(0).map_err(|_| Errno::IO)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mine(mode: u32) -> Access {
        Access { mode, uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
    }

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().expect("tempdir");
        let tree = Tree::open(&dir.path().to_string_lossy()).expect("opens");
        (dir, tree)
    }

    #[test]
    fn files_land_where_the_container_would_see_them() {
        let (dir, tree) = tree();
        fs::create_dir(dir.path().join("real")).expect("mkdir");
        // Absolute, and climbing out: both mean the tree's own /real.
        symlink("/real", dir.path().join("absolute")).expect("symlink");
        symlink("../../../real", dir.path().join("climbing")).expect("symlink");
        tree.write("absolute/a", b"1", mine(0o640)).expect("writes");
        tree.write("/climbing/sub/b", b"2", mine(0o600)).expect("writes");
        assert_eq!(fs::read(dir.path().join("real/a")).expect("read"), b"1");
        assert_eq!(fs::read(dir.path().join("real/sub/b")).expect("read"), b"2");
        let mode = fs::metadata(dir.path().join("real/a")).expect("stat").permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
    }

    #[test]
    fn what_has_the_name_is_replaced_not_followed() {
        let (dir, tree) = tree();
        let outside = dir.path().join("outside");
        fs::write(&outside, "keep").expect("write");
        symlink(&outside, dir.path().join("hosts")).expect("symlink");
        tree.write("hosts", b"new", mine(0o644)).expect("writes");
        assert_eq!(fs::read(&outside).expect("read"), b"keep");
        assert!(fs::symlink_metadata(dir.path().join("hosts")).expect("stat").is_file());
    }

    #[test]
    fn dots_are_no_names() {
        let (_dir, tree) = tree();
        for path in ["../x", "a/../x", "a/.", "a/..", ""] {
            assert!(tree.write(path, b"", mine(0o600)).is_err(), "{path}");
        }
    }

    #[test]
    fn a_log_is_a_plain_file_of_ours() {
        let (dir, _) = tree();
        let folder = dir.path().to_string_lossy().into_owned();
        open_log(&folder, "boot.log").expect("new");
        fs::write(dir.path().join("boot.log"), "old").expect("write");
        open_log(&folder, "boot.log").expect("again");
        assert_eq!(fs::read(dir.path().join("boot.log")).expect("read"), b"");

        let target = dir.path().join("target");
        fs::write(&target, "keep").expect("write");
        symlink(&target, dir.path().join("link")).expect("symlink");
        fs::hard_link(&target, dir.path().join("hard")).expect("link");
        rustix::fs::mkfifoat(CWD, dir.path().join("fifo"), Mode::from_raw_mode(0o600)).expect("mkfifo");
        for name in ["link", "hard", "fifo", "../target"] {
            assert!(open_log(&folder, name).is_err(), "{name}");
        }
        assert_eq!(fs::read(&target).expect("read"), b"keep");
    }
}
