//! Step 6 of the boot, without GPUs: the kit's files, into the container's writable layer, which is memory.

use std::io::{self, Read};
use std::path::{Component, Path};

use tar::{Archive, EntryType};
use zeroize::Zeroizing;

use crate::root::tree::{Access, Tree, TreeError};

/// The largest file taken out of a kit; the whole tar is bounded before it gets here.
const MAX_FILE_BYTES: u64 = 80 << 20;

/// A kit does not unpack.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// Not a tar.
    #[error("kit is no readable tar: {0}")]
    Tar(#[from] io::Error),
    /// A path that is absolute, or climbs.
    #[error("kit has a file named `{path}`; names are relative and without `..`")]
    Path {
        /// The name, shortened to 200 characters.
        path: String,
    },
    /// Something other than a file or a folder.
    #[error("kit has `{path}`, which is neither a file nor a folder")]
    Kind {
        /// Its name.
        path: String,
    },
    /// The container's tree does not take it.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Unpacks `tar`, whose names are paths in the container, with the owners and permissions it states.
pub fn unpack(tar: &[u8], tree: &Tree) -> Result<(), KitError> {
    for entry in Archive::new(tar).entries()? {
        let mut entry = entry?;
        let path = plain_path(&entry.path()?)?;
        let header = entry.header();
        let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let access = Access { mode: header.mode()?, uid: id(header.uid()?)?, gid: id(header.gid()?)? };
        match header.entry_type() {
            EntryType::Directory => tree.make_folder(&path, access)?,
            EntryType::Regular => {
                let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(entry.size().min(MAX_FILE_BYTES)).unwrap_or(0)));
                entry.by_ref().take(MAX_FILE_BYTES).read_to_end(&mut content)?;
                tree.write(&path, &content, access)?;
            }
            _ => return Err(KitError::Kind { path }),
        }
    }
    Ok(())
}

/// `path` as text, if it is relative, not empty, and made of plain names.
fn plain_path(path: &Path) -> Result<String, KitError> {
    let refuse = || KitError::Path { path: path.to_string_lossy().chars().take(200).collect() };
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str().filter(|n| !n.contains('\0')).ok_or_else(refuse)?),
            _ => return Err(refuse()),
        }
    }
    if parts.is_empty() { Err(refuse()) } else { Ok(parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("mkdir");
        let tree = Tree::open(&root.to_string_lossy()).expect("opens");
        (dir, tree)
    }

    /// One entry, its name written as it is: the tar crate refuses to write bad ones.
    fn tar(kind: EntryType, name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o600);
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut tar = header.as_bytes().to_vec();
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
        tar
    }

    #[test]
    fn files_and_folders_arrive() {
        let (dir, tree) = tree();
        unpack(&tar(EntryType::Directory, "etc/kit/", b""), &tree).expect("folder");
        unpack(&tar(EntryType::Regular, "etc/kit/key", b"secret"), &tree).expect("file");
        assert_eq!(fs::read(dir.path().join("root/etc/kit/key")).expect("read"), b"secret");
    }

    #[test]
    fn paths_that_leave_are_refused() {
        let (dir, tree) = tree();
        for name in ["/etc/passwd", "../out", "a/../../out", "..", "./", ""] {
            assert!(unpack(&tar(EntryType::Regular, name, b"x"), &tree).is_err(), "{name}");
        }
        assert!(!dir.path().join("out").exists());
    }

    #[test]
    fn links_and_devices_are_refused() {
        let (_dir, tree) = tree();
        for kind in [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Block, EntryType::Fifo] {
            assert!(matches!(unpack(&tar(kind, "x", b""), &tree), Err(KitError::Kind { .. })), "{kind:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn unpacking_is_total_and_stays_inside(name in "[./a-c]{0,40}", noise: Vec<u8>) {
            let (dir, tree) = tree();
            let _ = unpack(&tar(EntryType::Regular, &name, b"x"), &tree);
            let _ = unpack(&noise, &tree);
            let names: Vec<_> = fs::read_dir(dir.path()).expect("readable").flatten().map(|e| e.file_name()).collect();
            prop_assert_eq!(names, ["root"]);
        }
    }
}
