//! Launch digests of a base, computed offline: firmware, hash table, vCPU state → the MEASUREMENT of an SNP report; and the ID
//! block that makes the AMD secure processor insist on one.
//!
//! Pure: bytes and keys in, digests and signatures out. Where published tools differ, this crate agrees bit for bit with `sev-snp-measure`.
//!
//! What it does not establish: that a firmware file behaves. Anything with a well-formed footer table has a digest.
#![forbid(unsafe_code)]

mod cpu;
mod digest;
mod firmware;
mod hashes;
mod id_auth;
mod id_block;
mod id_key;
mod vmsa;

pub use coffer_evidence::{GuestPolicy, KeyDigest, LaunchDigest};
pub use cpu::{CPU_MODELS, CpuModel, UnknownCpuModel};
pub use digest::{MAX_VCPUS, MeasureError, Shape, Vmm, measure};
pub use firmware::{Firmware, FirmwareError, HashTableArea, Section, SectionKind};
pub use hashes::{HashTable, HashTablePlaceError};
pub use id_auth::{IdAuth, IdAuthError, IdKeys, Which};
pub use id_block::{IdBlock, IdBlockError};
pub use id_key::{IdKeyError, IdPrivateKey, IdPublicKey};

/// Size of a guest page in bytes: the unit of everything measured.
pub const PAGE_BYTES: usize = 4096;
