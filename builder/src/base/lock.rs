//! `base.lock`: every input of a base, pinned by SHA-256.

use std::fmt::Write;

use coffer_manifest::Sha256Digest;
use serde::Deserialize;

use super::error::BaseError;

/// The lock this build of `coffer` was released with.
const COMPILED_IN: &str = include_str!("../../base.lock");

/// What a base is made from.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseLock {
    /// Format number, always 1.
    lock: u32,
    /// Debian's kernel image package.
    pub kernel: PinnedPackage,
    /// Debian's package of `OVMF.amdsev.fd`.
    pub firmware: PinnedFirmware,
}

/// One .deb.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedPackage {
    /// Package name.
    pub package: String,
    /// Debian version.
    pub version: String,
    /// Of the .deb.
    pub sha256: Sha256Digest,
}

/// One .deb and the firmware image inside it, so that either can be given as a file.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFirmware {
    /// Package name.
    pub package: String,
    /// Debian version.
    pub version: String,
    /// Of the .deb.
    pub sha256: Sha256Digest,
    /// Of `OVMF.amdsev.fd`.
    pub image_sha256: Sha256Digest,
}

impl PinnedFirmware {
    /// The .deb alone.
    pub fn as_package(&self) -> PinnedPackage {
        PinnedPackage { package: self.package.clone(), version: self.version.clone(), sha256: self.sha256 }
    }
}

impl BaseLock {
    /// The lock compiled into this program.
    ///
    /// # Errors
    /// [`BaseError::Lock`] never in a build whose tests passed.
    pub fn compiled_in() -> Result<Self, BaseError> {
        Self::parse("the compiled-in base.lock", COMPILED_IN)
    }

    /// Reads a lock; `name` is what errors call it.
    ///
    /// # Errors
    /// [`BaseError::Lock`] for anything but format 1 with exactly its keys.
    pub fn parse(name: &str, text: &str) -> Result<Self, BaseError> {
        let refuse = |why: String| BaseError::Lock { name: name.to_owned(), why };
        let lock: Self = toml::from_str(text).map_err(|e| refuse(e.message().to_owned()))?;
        if lock.lock != 1 {
            return Err(refuse(format!("lock = {} is not supported; this build reads 1", lock.lock)));
        }
        Ok(lock)
    }

    /// A lock of these two packages.
    pub const fn new(kernel: PinnedPackage, firmware: PinnedFirmware) -> Self {
        Self { lock: 1, kernel, firmware }
    }

    /// The file's text: what [`BaseLock::parse`] reads, with comments.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# Every input of a base, pinned. `coffer base lock --update` writes this file anew; it is compiled into `coffer`.\n\
             lock = 1\n\n# Debian trixie and trixie-security; sha256 of the .deb.\n[kernel]\n",
        );
        let mut package = |package: &PinnedPackage, more: &str| {
            let PinnedPackage { package, version, sha256 } = package;
            // Writing to a string cannot fail.
            let _ = write!(text, "package = \"{package}\"\nversion = \"{version}\"\nsha256 = \"{sha256}\"\n{more}");
        };
        package(&self.kernel, "\n# Debian sid; sha256 of the .deb, and of the OVMF.amdsev.fd inside it.\n[firmware]\n");
        package(&self.firmware.as_package(), &format!("image_sha256 = \"{}\"\n", self.firmware.image_sha256));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_lock_is_what_render_writes() {
        assert_eq!(BaseLock::compiled_in().unwrap().render(), COMPILED_IN);
    }

    #[test]
    fn other_formats_and_unknown_keys_are_refused() {
        for (from, to, text) in [
            ("lock = 1", "lock = 2", "lock = 2 is not supported; this build reads 1"),
            ("image_sha256", "image_sha512", "unknown field `image_sha512`"),
            ("sha256 = \"e", "sha256 = \"x", "not lower-case hexadecimal"),
            ("[kernel]", "[kernel2]", "unknown field `kernel2`"),
        ] {
            let error = BaseLock::parse("base.lock", &COMPILED_IN.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
