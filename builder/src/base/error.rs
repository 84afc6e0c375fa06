//! Everything that can go wrong with a base: one variant per rule, and what the reader can do. A flat table.

use std::io;
use std::path::PathBuf;

use coffer_image::cpio::CpioError;
use coffer_manifest::{DocumentError, Sha256Digest};
use coffer_measure::{FirmwareError, MeasureError, UnknownCpuModel};

use super::deb::DebError;
use crate::failure::{Exit, Hint};

/// Why a base was not built, measured or locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// A file cannot be read, written, renamed or removed.
    #[error("cannot {action} {}: {error}", path.display())]
    File { action: &'static str, path: PathBuf, error: io::Error },
    /// A base.lock is not one.
    #[error("{name}: {why}")]
    Lock { name: String, why: String },
    /// A file is not the pinned one.
    #[error("{name} is not the {pinned} that base.lock pins: its sha256 is {got}, expected {expected}")]
    NotPinned { name: String, pinned: String, got: Sha256Digest, expected: Sha256Digest },
    /// The mirror no longer has the pinned package.
    #[error("the mirror has no {package} {version}, which base.lock pins; it has {newest}")]
    Gone { package: String, version: String, newest: String },
    /// Neither file nor cache, and the network is off.
    #[error("{package} {version} is neither given as a file nor in the cache {}", cache.display())]
    Offline { package: String, version: String, option: &'static str, cache: PathBuf },
    /// apt cannot be used here.
    #[error("`{command}` cannot be run: {error}")]
    Spawn { command: String, error: io::Error },
    /// apt failed.
    #[error("`{command}` exited with {status}\n{stderr}")]
    Apt { command: String, status: std::process::ExitStatus, stderr: String },
    /// Nobody says where packages can be kept.
    #[error("there is no place for packages: neither XDG_CACHE_HOME nor HOME is set")]
    NoCache,
    /// No entry of the machine's apt sources is a Debian mirror.
    #[error("this machine's apt sources name no Debian mirror")]
    NoMirror,
    /// Debian's archive keys are missing.
    #[error("no archive keyring at {}", paths.join(" or "))]
    NoKeyring { paths: Vec<&'static str> },
    /// apt knows no such package in the suites asked for.
    #[error("the mirror has no package {package} in {suites}")]
    NoCandidate { package: &'static str, suites: String },
    /// A .deb does not read.
    #[error("{name}: {error}")]
    Deb { name: String, error: DebError },
    /// A file inside a .deb does not decompress.
    #[error("{name} does not decompress: {error}")]
    Decompress { name: String, error: io::Error },
    /// Not a kernel image package.
    #[error("{name} is not a Debian kernel image package: {why}")]
    KernelPackage { name: String, why: &'static str },
    /// A production base needs a kernel that can ask for reports.
    #[error("kernel {release} was built without CONFIG_SEV_GUEST: a guest with it can never attest")]
    NoSevGuest { release: String },
    /// A module the guest needs is not there.
    #[error("kernel {release} has no module `{module}`{}", needed_by.as_ref().map(|n| format!(", which `{n}` needs")).unwrap_or_default())]
    NoModule { module: String, needed_by: Option<String>, release: String },
    /// A module's file has no `.modinfo`.
    #[error("the file of module `{module}` is not a kernel module")]
    ModuleFile { module: String },
    /// Dependencies go in a circle.
    #[error("module `{module}` needs itself")]
    ModuleCycle { module: String },
    /// Not the firmware's package.
    #[error("{name} is not a package of OVMF.amdsev.fd: it has no {path}")]
    NoFirmware { name: String, path: &'static str },
    /// Part of the firmware is missing, or it is another kind of file.
    #[error("firmware {name} is {got} bytes long but holds whole firmware volumes of {volumes} bytes")]
    FirmwareCut { name: String, volumes: usize, got: usize },
    /// The firmware is not one for SEV-SNP.
    #[error("firmware {name}: {error}")]
    Firmware { name: String, error: FirmwareError },
    /// The firmware does not check what it boots.
    #[error("firmware {name} has no measured place for kernel hashes: it would boot any kernel")]
    FirmwareHashes { name: String },
    /// Not a program that can be PID 1.
    #[error("{name} cannot be PID 1: {why}")]
    Init { name: String, why: &'static str },
    /// No PID 1 given or found.
    #[error("no PID 1: there is no {}", path.display())]
    NoInit { path: PathBuf },
    /// The initrd's archive cannot be written.
    #[error(transparent)]
    Initrd(#[from] CpioError),
    /// The initrd does not compress.
    #[error("cannot compress initrd.img: {0}")]
    Compress(io::Error),
    /// A shape cannot be measured.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// An unknown CPU model.
    #[error(transparent)]
    CpuModel(#[from] UnknownCpuModel),
    /// base.json does not read, or would not.
    #[error("{}: {error}", path.display())]
    Document { path: PathBuf, error: DocumentError },
    /// base.json names another VMM than the one this build measures for.
    #[error("base.json is for the VMM `{got}`, this build measures for `qemu`")]
    Vmm { got: String },
    /// What was built differs from the given base.json.
    #[error("the base built here differs from {} in {differences}", path.display())]
    Differs { path: PathBuf, differences: String },
    /// A file of a base is not what its base.json says.
    #[error("{} has sha256 {got} and {got_size} bytes, base.json says {expected} and {size}", path.display())]
    Changed { path: PathBuf, got: Sha256Digest, got_size: u64, expected: Sha256Digest, size: u64 },
    /// base.json does not list a file of every base.
    #[error("{} does not list {name}", path.display())]
    Unlisted { path: PathBuf, name: String },
    /// A launch digest of base.json is wrong.
    #[error("base.json says {said} for {shape}, its files measure to {measured}")]
    WrongDigest { shape: String, said: String, measured: String },
    /// The output exists and is something else.
    #[error("{} exists and holds `{found}`, which is not part of a base", path.display())]
    OutputTaken { path: PathBuf, found: String },
    /// An output without a name, such as `/`.
    #[error("{} is not a path a directory can be created at", path.display())]
    OutputName { path: PathBuf },
}

impl Hint for BaseError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotPinned { .. } | Self::Gone { .. } => {
                "`coffer base lock --update` pins what the mirror has now, for `--lock`; `--unlocked` takes it this once"
            }
            Self::Offline { option, .. } => return Some(format!("give it with `{option} FILE`, or leave `--offline` out")),
            Self::Spawn { .. } => "packages are fetched by apt; elsewhere give them: `--offline --kernel-deb FILE --ovmf FILE`",
            Self::Apt { .. } | Self::NoMirror | Self::NoCandidate { .. } => {
                "without a Debian mirror give the packages: `--offline --kernel-deb FILE --ovmf FILE`"
            }
            Self::NoCache => "name a directory of yours with `--cache DIR`",
            Self::NoKeyring { .. } => "apt install debian-archive-keyring",
            Self::Lock { .. } => "`coffer base lock --update` writes a new one",
            Self::Deb { .. } | Self::Decompress { .. } => "fetch it again",
            Self::KernelPackage { .. } | Self::NoModule { .. } | Self::ModuleFile { .. } | Self::ModuleCycle { .. } => {
                "the kernel is Debian trixie's linux-image-<version>-cloud-amd64 package"
            }
            Self::NoSevGuest { .. } => "take Debian trixie's 6.12 cloud kernel; for a trial without SEV-SNP add `--simulated`",
            Self::NoFirmware { .. } | Self::FirmwareCut { .. } | Self::Firmware { .. } | Self::FirmwareHashes { .. } => {
                "the firmware is the whole OVMF.amdsev.fd, 4 MiB, of Debian's package ovmf-amdsev"
            }
            Self::Init { .. } | Self::NoInit { .. } => "`guest-init/build.sh` makes it; give it with `--init FILE`",
            Self::Document { .. } | Self::Unlisted { .. } => "base.json is written by `coffer base build`; do not edit it",
            Self::Differs { .. } => "same inputs and the same coffer give the same base: compare base.lock, coffer-init and versions",
            Self::Changed { .. } | Self::WrongDigest { .. } => "this is not what was built: build the base again",
            Self::OutputTaken { .. } => "choose another directory with `-o`",
            _ => return None,
        };
        Some(text.to_owned())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::File { .. } | Self::Spawn { .. } | Self::Apt { .. } | Self::Compress(_) | Self::Initrd(_) => Exit::Failed,
            _ => Exit::Input,
        }
    }
}
