//! Where a base's inputs come from: files, the cache, or the mirror; held against base.lock.

use std::fs;
use std::path::{Path, PathBuf};

use coffer_manifest::Sha256Digest;

use super::apt::{Apt, Suites};
use super::error::BaseError;
use super::firmware;
use super::lock::{BaseLock, PinnedFirmware, PinnedPackage};
use crate::ui::Ui;

/// How inputs are found.
pub struct Source {
    /// A kernel package given as a file.
    pub kernel_deb: Option<PathBuf>,
    /// A firmware image or package given as a file.
    pub ovmf: Option<PathBuf>,
    /// Ask no mirror.
    pub offline: bool,
    /// Take other versions than the pinned ones, and say so.
    pub unlocked: bool,
    /// Keeps every package fetched, as `<sha256>.deb`.
    pub cache: PathBuf,
    /// Where differences from base.lock are told.
    pub ui: Ui,
}

/// One input's bytes, and what errors call it.
pub struct Input {
    /// File name or package and version.
    pub name: String,
    /// Contents.
    pub data: Vec<u8>,
}

impl Source {
    /// The kernel package.
    ///
    /// # Errors
    /// [`BaseError::NotPinned`], [`BaseError::Gone`], [`BaseError::Offline`] and apt's.
    pub fn kernel(&self, lock: &BaseLock) -> Result<Input, BaseError> {
        match &self.kernel_deb {
            Some(path) => {
                let input = read(path)?;
                self.hold_against(&input, &lock.kernel, lock.kernel.sha256)?;
                Ok(input)
            }
            None => self.package(&lock.kernel, Suites::Trixie, "--kernel-deb"),
        }
    }

    /// The firmware image.
    ///
    /// # Errors
    /// As [`Source::kernel`], and those of [`firmware::from_deb`].
    pub fn firmware(&self, lock: &BaseLock) -> Result<Input, BaseError> {
        let pinned = lock.firmware.as_package();
        let package = match &self.ovmf {
            Some(path) => {
                let input = read(path)?;
                if !input.data.starts_with(b"!<arch>") {
                    // A file that is no firmware at all gets that error, not one about digests.
                    firmware::check(&input.name, &input.data)?;
                    self.hold_against(&input, &pinned, lock.firmware.image_sha256)?;
                    return Ok(input);
                }
                self.hold_against(&input, &pinned, pinned.sha256)?;
                input
            }
            None => self.package(&pinned, Suites::Sid, "--ovmf")?,
        };
        Ok(Input { data: firmware::from_deb(&package.name, &package.data)?, name: package.name })
    }

    /// A pinned package from cache or mirror; with `unlocked`, the mirror's newest where the pinned one is gone.
    fn package(&self, pinned: &PinnedPackage, suites: Suites, option: &'static str) -> Result<Input, BaseError> {
        let name = format!("{} {}", pinned.package, pinned.version);
        if let Some(data) = self.cached(pinned.sha256) {
            return Ok(Input { name, data });
        }
        if self.offline {
            let (package, version) = (pinned.package.clone(), pinned.version.clone());
            return Err(BaseError::Offline { package, version, option, cache: self.cache.clone() });
        }
        self.ui.say(format_args!("fetching {name}"));
        let scratch = Scratch::new(&self.cache)?;
        let apt = Apt::new(scratch.0.clone(), suites)?;
        if apt.has(&pinned.package, &pinned.version)? {
            let input = Input { name, data: apt.download(&pinned.package, &pinned.version)? };
            self.hold_against(&input, pinned, pinned.sha256)?;
            self.keep(&input)?;
            return Ok(input);
        }
        let newest = apt.newest()?;
        let newest_name = format!("{} {}", newest.package, newest.version);
        if !self.unlocked {
            let (package, version) = (pinned.package.clone(), pinned.version.clone());
            return Err(BaseError::Gone { package, version, newest: newest_name });
        }
        self.ui.warn(format_args!("NOT THE PINNED INPUT: base.lock pins {name}, the mirror has only {newest_name}, which is taken"));
        let input = Input { name: newest_name, data: apt.download(&newest.package, &newest.version)? };
        self.keep(&input)?;
        Ok(input)
    }

    /// Requires the pinned digest, or says loudly that it is another.
    fn hold_against(&self, input: &Input, pinned: &PinnedPackage, expected: Sha256Digest) -> Result<(), BaseError> {
        let got = Sha256Digest::of(&input.data);
        if got == expected {
            return Ok(());
        }
        let (name, pinned) = (input.name.clone(), format!("{} {}", pinned.package, pinned.version));
        if !self.unlocked {
            return Err(BaseError::NotPinned { name, pinned, got, expected });
        }
        self.ui
            .warn(format_args!("NOT THE PINNED INPUT: base.lock pins {pinned} with sha256 {expected}, {name} with sha256 {got} is taken"));
        Ok(())
    }

    fn cached(&self, digest: Sha256Digest) -> Option<Vec<u8>> {
        let data = fs::read(self.cache.join(format!("{digest}.deb"))).ok()?;
        (Sha256Digest::of(&data) == digest).then_some(data)
    }

    fn keep(&self, input: &Input) -> Result<(), BaseError> {
        let path = self.cache.join(format!("{}.deb", Sha256Digest::of(&input.data)));
        let beside = self.cache.join(format!(".{}.partial", std::process::id()));
        let refuse = |error| BaseError::File { action: "write", path: path.clone(), error };
        fs::write(&beside, &input.data).map_err(refuse)?;
        fs::rename(&beside, &path).map_err(refuse)
    }
}

/// Pins what the mirror has now.
///
/// # Errors
/// Those of [`Apt`] and [`firmware::from_deb`].
pub fn newest_lock(cache: &Path, ui: Ui) -> Result<BaseLock, BaseError> {
    let fetch = |suites| {
        let scratch = Scratch::new(cache)?;
        let apt = Apt::new(scratch.0.clone(), suites)?;
        let newest = apt.newest()?;
        ui.say(format_args!("fetching {} {}", newest.package, newest.version));
        let data = apt.download(&newest.package, &newest.version)?;
        let pinned = PinnedPackage { package: newest.package, version: newest.version, sha256: Sha256Digest::of(&data) };
        Ok::<_, BaseError>((pinned, data))
    };
    let (kernel, _) = fetch(Suites::Trixie)?;
    let (PinnedPackage { package, version, sha256 }, data) = fetch(Suites::Sid)?;
    let image_sha256 = Sha256Digest::of(&firmware::from_deb(&package, &data)?);
    Ok(BaseLock::new(kernel, PinnedFirmware { package, version, sha256, image_sha256 }))
}

/// A directory below the cache that goes when this goes.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: &Path) -> Result<Self, BaseError> {
        let path = cache.join(format!("apt-{}", std::process::id()));
        // Leftovers of an earlier process with this number.
        drop(fs::remove_dir_all(&path));
        let refuse = |error| BaseError::File { action: "create", path: path.clone(), error };
        fs::create_dir_all(&path).map_err(refuse)?;
        // apt runs its checks in that directory, wherever we were started.
        Ok(Self(fs::canonicalize(&path).map_err(refuse)?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Reads a file named on the command line.
///
/// # Errors
/// [`BaseError::File`].
pub fn read(path: &Path) -> Result<Input, BaseError> {
    let data = fs::read(path).map_err(|error| BaseError::File { action: "read", path: path.to_owned(), error })?;
    Ok(Input { name: path.display().to_string(), data })
}
