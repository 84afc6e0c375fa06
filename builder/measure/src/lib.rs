//! Launch digests of a base, computed offline: firmware, hash table, vCPU state → the MEASUREMENT of an SNP report.
//!
//! Pure: bytes in, digest out. Where published tools differ, this crate agrees bit for bit with `sev-snp-measure`.
//!
//! What it does not establish: that a firmware file behaves. Anything with a well-formed footer table has a digest.
#![forbid(unsafe_code)]

mod cpu;
mod digest;
mod firmware;
mod hashes;
mod vmsa;

pub use coffer_evidence::LaunchDigest;
pub use cpu::{CPU_MODELS, CpuModel, UnknownCpuModel};
pub use digest::{MAX_VCPUS, MeasureError, Shape, Vmm, measure};
pub use firmware::{Firmware, FirmwareError, HashTableArea, Section, SectionKind};
pub use hashes::{HashTable, HashTablePlaceError};

/// Size of a guest page in bytes: the unit of everything measured.
pub const PAGE_BYTES: usize = 4096;
