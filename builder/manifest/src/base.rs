//! `base.json`: everything that is measured at launch, and what it measures to.

use std::collections::BTreeMap;

use coffer_evidence::LaunchDigest;
use serde::{Deserialize, Serialize};

use crate::canonical::document_type;
use crate::names::Sha256Digest;

document_type!(BaseType, "coffer/base/v1");

/// A base: firmware, kernel, initrd, command line. Built once, bit-for-bit reproducible, public.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Always `coffer/base/v1`.
    #[serde(rename = "type")]
    pub kind: BaseType,
    /// Counts up when older bases must not be enrolled any more.
    pub base_svn: u32,
    /// Which PID 1 it holds.
    pub root: BaseRoot,
    /// `OVMF.amdsev.fd`, `vmlinuz`, `initrd.img`.
    pub files: BTreeMap<String, BaseFile>,
    /// The kernel command line, without a trailing NUL.
    pub cmdline: String,
    /// Kernel release, as `uname -r` says.
    pub kernel_release: String,
    /// Modules in the initrd, in load order.
    pub modules: Vec<String>,
    /// SHA-256 of the PID 1 in the initrd.
    pub init: Sha256Digest,
    /// The virtual machine monitor the digests are for: `qemu`.
    pub vmm: String,
    /// Every shape it was measured for.
    pub launch_digests: Vec<LaunchShape>,
    /// What this base does not close.
    pub open_risks: OpenRisks,
}

/// The root of trust a base's PID 1 was compiled for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseRoot {
    /// `coffer-init`: reports come from AMD hardware.
    AmdSevSnp,
    /// `coffer-init-simulated`: reports come from the simulator's port.
    Simulated,
}

/// One measured file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseFile {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Sha256Digest,
}

/// A launch shape and its digest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchShape {
    /// QEMU CPU model, for example `EPYC-v4`.
    pub cpu_model: String,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// SEV_FEATURES of the VMSA.
    pub guest_features: u64,
    /// What the AMD secure processor will measure.
    pub digest: LaunchDigest,
}

/// Attacks a base leaves open, each with the state the builder found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRisks {
    /// `unrestricted`: the host's ACPI tables are not measured and their AML runs in ring 0.
    pub aml: String,
}
