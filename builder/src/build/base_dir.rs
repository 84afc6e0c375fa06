//! A base as `coffer base build` left it, checked against its own description.

use std::fs;
use std::path::{Path, PathBuf};

use coffer_manifest::{Base, BaseRoot, LaunchDigest, decode};

use super::{BuildError, seal};

/// The files of a base, beside `base.json`.
pub const FILES: [&str; 3] = ["OVMF.amdsev.fd", "initrd.img", "vmlinuz"];

/// A base whose files are those its `base.json` lists.
pub struct BaseDir {
    /// Where it lies.
    pub dir: PathBuf,
    /// What it says.
    pub base: Base,
    /// The bytes of `base.json`.
    pub bytes: Vec<u8>,
}

impl BaseDir {
    /// Reads `base.json` and hashes the files beside it.
    ///
    /// # Errors
    /// [`BuildError::Base`] for a missing or differing file, [`BuildError::Document`] for the description itself.
    pub fn open(dir: &Path) -> Result<Self, BuildError> {
        let refuse = |what: String| BuildError::Base { dir: dir.to_owned(), what };
        let bytes = fs::read(dir.join("base.json")).map_err(|error| refuse(format!("base.json: {error}")))?;
        let base: Base = decode(&bytes).map_err(|error| refuse(format!("base.json: {error}")))?;
        if base.launch_digests.is_empty() {
            return Err(refuse("base.json lists no launch digest".to_owned()));
        }
        for name in FILES {
            let expected = base.files.get(name).ok_or_else(|| refuse(format!("base.json does not list {name}")))?;
            let got = seal::digest_of(&dir.join(name)).map_err(|error| refuse(format!("{name}: {error}")))?;
            if got != expected.sha256 {
                return Err(refuse(format!("{name} has SHA-256 {got}, base.json says {}", expected.sha256)));
            }
        }
        Ok(Self { dir: dir.to_owned(), base, bytes })
    }

    /// What it measures to, for every shape, each once, sorted.
    pub fn launch_digests(&self) -> Vec<LaunchDigest> {
        let mut digests: Vec<_> = self.base.launch_digests.iter().map(|shape| shape.digest).collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    }

    /// Which PID 1 it holds.
    pub const fn root(&self) -> BaseRoot {
        self.base.root
    }
}
