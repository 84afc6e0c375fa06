//! A container archive as `docker save` writes it, verified and flattened into one tree.

mod archive;
mod blob;
mod config;
mod error;
mod flatten;
mod layer;
mod pax;
mod tree;
mod user;
mod write;

use std::path::Path;

use coffer_manifest::User;
pub use config::{ConfigError, ImageConfig};
pub use error::ContainerError;
pub use tree::{EntryKind, ExtraKind, ExtraPath};
pub use user::UserError;

/// Disk space a build needs, in bytes. An estimate: a gzip file does not say for sure how large it unpacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceNeed {
    /// In the scratch directory: decompressed layers (none for a plain archive of plain layers) and the file system image.
    pub scratch: u64,
    /// In the output directory: `crypt_root.qcow2` without its kit.
    pub output: u64,
}

/// An image: its config, and the tree its layers make. Holding one means that every digest in the archive was right.
#[derive(Debug)]
pub struct Container {
    config: ImageConfig,
    tree: tree::Tree,
    layers: Vec<blob::Blob>,
}

impl Container {
    /// Estimates the space [`Self::open`] and a root build take, from headers alone.
    ///
    /// # Errors
    /// [`ContainerError::Read`] if the archive cannot be read, [`ContainerError::Tar`] if it is no archive.
    pub fn space_needed(archive: &Path) -> Result<SpaceNeed, ContainerError> {
        archive::space_needed(archive)
    }

    /// Reads an archive: verifies the config's and the layers' digests, and flattens the layers.
    ///
    /// Compressed layers are decompressed once, into unnamed files in `scratch`, which vanish with the value (or with the
    /// process). Uncompressed layers of an uncompressed archive stay where they are: `archive` must not change meanwhile.
    ///
    /// # Errors
    /// See [`ContainerError`]: one variant per rule.
    pub fn open(archive: &Path, scratch: &Path) -> Result<Self, ContainerError> {
        let read = archive::read(archive, scratch)?;
        let tree = flatten::flatten(&read.layers)?;
        Ok(Self { config: read.config, tree, layers: read.layers })
    }

    /// The image's config.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// What lies at an absolute path, symbolic links followed inside the image; `None` if nothing does.
    #[must_use]
    pub fn kind(&self, path: &str) -> Option<EntryKind> {
        self.tree.find(path.as_bytes()).map(|id| self.tree.kind(id))
    }

    /// Resolves a user as OCI runtimes do: `""` (root), `name`, `uid`, `name:group`, `uid:gid`, from the image's own
    /// `/etc/passwd` and `/etc/group`. Supplementary groups are those of the named or found user, none if a group is given.
    ///
    /// # Errors
    /// See [`UserError`].
    pub fn user(&self, spec: &str) -> Result<User, UserError> {
        user::resolve(self, spec)
    }

    /// Contents of a regular file of at most `limit` bytes; `None` if there is no such file.
    ///
    /// # Errors
    /// [`ContainerError::TooLarge`], or [`ContainerError::Read`] if the archive cannot be read any more.
    pub fn read_file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ContainerError> {
        flatten::read_file(&self.tree, &self.layers, path, limit)
    }

    /// Adds directories and empty files where the image has none, in order; parents are made as needed.
    ///
    /// A dangling symbolic link in the place of the last component is replaced. What is there already stays as it is.
    ///
    /// # Errors
    /// [`ContainerError::ExtraPath`] where the image has something of another kind.
    pub fn ensure(&mut self, extra: &[ExtraPath]) -> Result<(), ContainerError> {
        extra.iter().try_for_each(|path| self.tree.ensure(path))
    }

    /// Sum of the sizes of all regular files, in bytes.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.tree.content_bytes()
    }

    /// Writes the flattened tree as one tar: sorted by path, the same bytes for the same image.
    ///
    /// # Errors
    /// [`ContainerError`] where the archive cannot be read or the output not be written.
    pub fn write_tar(&self, out: impl std::io::Write) -> Result<(), ContainerError> {
        write::write_tar(&self.tree, &self.layers, out)
    }
}
