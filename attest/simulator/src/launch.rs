//! A launch: what QEMU will be started with, measured.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use coffer_evidence::{GuestPolicy, HostData, LaunchDigest};
use coffer_measure::{CpuModel, Firmware, FirmwareError, HashTable, HashTableArea, MeasureError, Shape, Vmm, measure};
use sha2::{Digest, Sha256};

use crate::asp::Guest;
use crate::authority::KeyError;
use crate::identity::{IdError, IdPair, Identity};

/// The files and words QEMU gets.
#[derive(Clone, Debug)]
pub struct LaunchFiles {
    /// `-bios`.
    pub ovmf: PathBuf,
    /// `-kernel`.
    pub kernel: PathBuf,
    /// `-initrd`.
    pub initrd: PathBuf,
    /// `-append`, without a trailing NUL.
    pub append: String,
    /// `-smp`.
    pub vcpus: u32,
    /// `-cpu`.
    pub cpu: CpuModel,
    /// SEV_FEATURES of the VMSA.
    pub guest_features: u64,
}

/// A launch that cannot be measured, or that firmware would refuse.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The firmware file is no SEV firmware.
    #[error("{}", path.display())]
    Firmware {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: FirmwareError,
    },
    /// It cannot be measured.
    #[error("launch cannot be measured")]
    Measure(#[from] MeasureError),
    /// The firmware's place for the hash table is missing or too small.
    #[error("firmware {} has {size} bytes for the SEV hash table, {} are needed", path.display(), HashTable::LEN)]
    HashTableArea {
        /// The file.
        path: PathBuf,
        /// How much place there is.
        size: u32,
    },
    /// SNP_LAUNCH_START would fail.
    #[error("guest policy {got} is one firmware refuses: bit 17 must be one, bits 26 to 63 zero")]
    Policy {
        /// The policy.
        got: GuestPolicy,
    },
    /// SNP_LAUNCH_FINISH would fail.
    #[error("ID block refused")]
    Id(#[from] IdError),
    /// No REPORT_ID.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A measured launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What the processor will report.
    pub launch_digest: LaunchDigest,
    table: HashTable,
    area: HashTableArea,
}

impl Launch {
    /// Measures the files. There is no other way to a launch digest.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub fn measure(files: &LaunchFiles) -> Result<Self, LaunchError> {
        let image = fs::read(&files.ovmf).map_err(|source| LaunchError::File { path: files.ovmf.clone(), source })?;
        let firmware = Firmware::parse(&image).map_err(|source| LaunchError::Firmware { path: files.ovmf.clone(), source })?;
        let table = HashTable::new(sha256(&files.kernel)?, sha256(&files.initrd)?, &files.append);
        let shape = Shape { vmm: Vmm::Qemu, vcpus: files.vcpus, cpu: files.cpu, guest_features: files.guest_features };
        let launch_digest = measure(&firmware, Some(&table), &shape)?;
        let area = firmware.hash_table_area();
        match area {
            Some(area) if area.size as usize >= HashTable::LEN => Ok(Self { launch_digest, table, area }),
            _ => Err(LaunchError::HashTableArea { path: files.ovmf.clone(), size: area.map_or(0, |area| area.size) }),
        }
    }

    /// Writes `hashes.bin`, the SEV hash table, and `loader`, `addr=0x…`: where QEMU's loader device must put it.
    ///
    /// # Errors
    /// [`LaunchError::File`].
    pub fn write_hash_table(&self, run_dir: &Path) -> Result<(), LaunchError> {
        write_beside(&run_dir.join("hashes.bin"), &self.table.to_bytes())?;
        write_beside(&run_dir.join("loader"), format!("addr={:#x}\n", self.area.gpa).as_bytes())
    }

    /// SNP_LAUNCH_START and SNP_LAUNCH_FINISH: from here on it is a guest with a REPORT_ID of its own.
    ///
    /// # Errors
    /// [`LaunchError::Policy`] for a policy firmware refuses (AMD 56860, table "Guest Policy Structure"), [`LaunchError::Id`] for an
    /// ID block it refuses, or [`LaunchError::Key`].
    pub fn start(&self, host_data: HostData, policy: GuestPolicy, id: Option<&IdPair>) -> Result<Guest, LaunchError> {
        if policy.0 >> 17 & 1 == 0 || policy.0 >> 26 != 0 {
            return Err(LaunchError::Policy { got: policy });
        }
        let identity = id.map(|pair| Identity::check(pair, self.launch_digest, policy)).transpose()?.unwrap_or_default();
        Ok(Guest { identity, ..Guest::launch(self.launch_digest, host_data, policy)? })
    }
}

fn sha256(path: &Path) -> Result<[u8; 32], LaunchError> {
    let hash = || -> io::Result<[u8; 32]> {
        let mut hasher = HashWriter(Sha256::new());
        io::copy(&mut File::open(path)?, &mut hasher)?;
        Ok(hasher.0.finalize().into())
    };
    hash().map_err(|source| LaunchError::File { path: path.to_owned(), source })
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a file beside its place and renames it, so that nobody reads half of one.
fn write_beside(path: &Path, bytes: &[u8]) -> Result<(), LaunchError> {
    let beside = path.with_extension("partial");
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| LaunchError::File { path: path.to_owned(), source })
}
