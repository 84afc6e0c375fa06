//! Sparse qcow2 images, written in one pass, and read without trusting them.

use std::fs::File;
use std::io;
use std::path::Path;

/// A qcow2 image could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Qcow2Error {
    /// Reading or writing failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A qcow2 image (version 2 or 3, no backing file, no encryption, no compression), opened for reading.
#[derive(Debug)]
pub struct Reader {
    file: File,
}

impl Reader {
    /// Opens an image.
    ///
    /// # Errors
    /// See [`Qcow2Error`].
    pub fn open(path: &Path) -> Result<Self, Qcow2Error> {
        let file = File::open(path).map_err(|source| Qcow2Error::Io { what: "open qcow2 image", source })?;
        Ok(Self { file })
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        let _ = &self.file;
        unimplemented!()
    }

    /// Reads exactly `out.len()` bytes of the disk at `offset`.
    ///
    /// # Errors
    /// See [`Qcow2Error`]; reading past the end is an error.
    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<(), Qcow2Error> {
        let _ = (out, offset);
        unimplemented!()
    }
}
