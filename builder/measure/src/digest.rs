//! The launch digest: a SHA-384 chain over every page the AMD secure processor is told about.

use coffer_evidence::LaunchDigest;
use sha2::{Digest, Sha384};

use crate::cpu::CpuModel;
use crate::firmware::{Firmware, Section, SectionKind};
use crate::hashes::{HashTable, HashTablePlaceError};
use crate::{PAGE_BYTES, vmsa};

/// The most vCPUs measured: more than any host has, so that a larger number is a typing error.
pub const MAX_VCPUS: u32 = 4096;

/// Everything besides files that a launch digest depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Who sets up the initial register state.
    pub vmm: Vmm,
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// CPU model; only QEMU puts it into the measurement.
    pub cpu: CpuModel,
    /// SEV_FEATURES of the VMSA: 0x1 is SNP active, what QEMU sets by default.
    pub guest_features: u64,
}

/// Virtual machine monitors whose initial register state is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vmm {
    /// QEMU with KVM.
    Qemu,
    /// Amazon EC2.
    Ec2,
    /// Google Compute Engine.
    Gce,
}

/// Why a launch has no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// Not 1 to [`MAX_VCPUS`].
    #[error("{got} vCPUs cannot be measured, only 1 to {MAX_VCPUS}")]
    Vcpus {
        /// Number asked for.
        got: u32,
    },
    /// A kernel was given, but the firmware has no measured place for its hash.
    #[error("kernel specified but the firmware's SEV metadata has no SNP_KERNEL_HASHES section")]
    NoKernelHashes,
    /// A kernel was given, but the firmware's footer does not say where the hash table goes.
    #[error("kernel specified but the firmware's footer table has no SEV hash table entry")]
    NoHashTableArea,
    /// The SNP_KERNEL_HASHES section is not exactly one page.
    #[error("the firmware's SNP_KERNEL_HASHES section is {got} bytes long, expected {PAGE_BYTES}")]
    KernelHashesSize {
        /// Size in bytes.
        got: u32,
    },
    /// The hash table crosses the end of its page.
    #[error(transparent)]
    HashTablePlace(#[from] HashTablePlaceError),
}

/// The digest the AMD secure processor reports after launching `firmware` with `shape`.
///
/// `kernel` is the hash table QEMU writes for `-kernel` with `kernel-hashes=on`, or `None` without a kernel.
///
/// # Errors
/// See [`MeasureError`].
pub fn measure(firmware: &Firmware, kernel: Option<&HashTable>, shape: &Shape) -> Result<LaunchDigest, MeasureError> {
    if !(1..=MAX_VCPUS).contains(&shape.vcpus) {
        return Err(MeasureError::Vcpus { got: shape.vcpus });
    }
    let sections = firmware.sections();
    if kernel.is_some() && !sections.iter().any(|s| s.kind == SectionKind::KernelHashes) {
        return Err(MeasureError::NoKernelHashes);
    }
    let mut chain = Chain::from(firmware.image_digest());
    for section in sections {
        chain.section(section, firmware, kernel, shape.vmm)?;
    }
    if shape.vmm == Vmm::Ec2 {
        for section in sections.iter().filter(|s| s.kind == SectionKind::Cpuid) {
            chain.unread_page(page_type::CPUID, section.gpa.into());
        }
    }
    chain.vcpu(&vmsa::page(shape, vmsa::BSP_EIP));
    let application_processor = vmsa::page(shape, firmware.reset_eip());
    for _ in 1..shape.vcpus {
        chain.vcpu(&application_processor);
    }
    Ok(chain.0)
}

/// PAGE_TYPE of SNP_LAUNCH_UPDATE. Source: AMD 56860, "SEV Secure Nested Paging Firmware ABI", SNP_LAUNCH_UPDATE.
mod page_type {
    pub const NORMAL: u8 = 1;
    pub const VMSA: u8 = 2;
    pub const ZERO: u8 = 3;
    pub const UNMEASURED: u8 = 4;
    pub const SECRETS: u8 = 5;
    pub const CPUID: u8 = 6;
}

/// Where the RMP records VMSA pages: a page-aligned -1 of which the firmware ABI keeps 48 bits.
const VMSA_GPA: u64 = 0xffff_ffff_f000;

/// The running digest: each page replaces it by the SHA-384 of a PAGE_INFO structure that contains it.
pub(crate) struct Chain(pub(crate) LaunchDigest);

impl Chain {
    pub(crate) fn new() -> Self {
        Self(LaunchDigest::new([0; LaunchDigest::LEN]))
    }

    fn from(digest: LaunchDigest) -> Self {
        Self(digest)
    }

    /// PAGE_INFO, 0x70 bytes. Source: AMD 56860, table "Layout of the PAGE_INFO structure".
    fn update(&mut self, kind: u8, gpa: u64, contents: &[u8; 48]) {
        let next = Sha384::new()
            .chain_update(self.0.as_bytes())
            .chain_update(contents)
            .chain_update(0x70_u16.to_le_bytes())
            .chain_update([kind, 0, 0, 0, 0, 0]) // page type, IMI, VMPL3..VMPL1 permissions, reserved
            .chain_update(gpa.to_le_bytes())
            .finalize();
        self.0 = LaunchDigest::new(next.into());
    }

    /// Pages whose contents count, from `gpa` on. `data` is a multiple of the page size.
    pub(crate) fn normal(&mut self, gpa: u64, data: &[u8]) {
        for (page, at) in data.chunks(PAGE_BYTES).zip((gpa..).step_by(PAGE_BYTES)) {
            self.update(page_type::NORMAL, at, &Sha384::digest(page).into());
        }
    }

    fn vcpu(&mut self, page: &[u8; PAGE_BYTES]) {
        self.update(page_type::VMSA, VMSA_GPA, &Sha384::digest(page).into());
    }

    /// A page whose contents the firmware ABI fixes or fills in.
    fn unread_page(&mut self, kind: u8, gpa: u64) {
        self.update(kind, gpa, &[0; 48]);
    }

    fn unread_range(&mut self, kind: u8, section: &Section) {
        let gpa = u64::from(section.gpa);
        for at in (gpa..gpa + u64::from(section.size)).step_by(PAGE_BYTES) {
            self.unread_page(kind, at);
        }
    }

    fn section(&mut self, section: &Section, firmware: &Firmware, kernel: Option<&HashTable>, vmm: Vmm) -> Result<(), MeasureError> {
        match section.kind {
            SectionKind::SecMem if vmm == Vmm::Gce => self.unread_range(page_type::UNMEASURED, section),
            SectionKind::SecMem | SectionKind::SvsmCaa => self.unread_range(page_type::ZERO, section),
            SectionKind::Secrets => self.unread_page(page_type::SECRETS, section.gpa.into()),
            // EC2 adds the CPUID page after all others.
            SectionKind::Cpuid if vmm == Vmm::Ec2 => {}
            SectionKind::Cpuid => self.unread_page(page_type::CPUID, section.gpa.into()),
            SectionKind::KernelHashes => match kernel {
                None => self.unread_range(page_type::ZERO, section),
                Some(table) => self.hash_table(section, firmware, table)?,
            },
        }
        Ok(())
    }

    fn hash_table(&mut self, section: &Section, firmware: &Firmware, table: &HashTable) -> Result<(), MeasureError> {
        if section.size as usize != PAGE_BYTES {
            return Err(MeasureError::KernelHashesSize { got: section.size });
        }
        let area = firmware.hash_table_area().ok_or(MeasureError::NoHashTableArea)?;
        let page = table.page(area.gpa as usize % PAGE_BYTES)?;
        self.normal(section.gpa.into(), &page);
        Ok(())
    }
}
