//! The machine this processor pretends to be in.

use coffer_evidence::{ChipId, Cpuid, Family, FirmwareVersion, TcbVersion};
use ring::rand::{SecureRandom, SystemRandom};

use crate::authority::KeyError;

/// What stays the same from report to report. The values of a family are those of real machines of 2026.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Platform {
    /// Processor family.
    pub family: Family,
    /// Its CPUID.
    pub cpuid: Cpuid,
    /// Version of the reports its firmware makes.
    pub report_version: u32,
    /// Which chip; Turin uses the first 8 bytes.
    pub chip_id: ChipId,
    /// Reported, committed, current and launch TCB alike.
    pub tcb: TcbVersion,
    /// Version of its SNP firmware.
    pub firmware: FirmwareVersion,
    /// PLATFORM_INFO: SMT on, ECC in use, alias check complete.
    pub platform_info: u64,
    /// Mitigation vector, launch and current alike; reported from version 5.
    pub mitigations: u64,
}

impl Platform {
    /// A machine of this family with a chip id of its own.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn random(family: Family) -> Result<Self, KeyError> {
        let mut chip_id = [0; ChipId::LEN];
        SystemRandom::new().fill(&mut chip_id[..family.hwid_len()]).map_err(|_| KeyError::Random)?;
        Ok(Self::with_chip_id(family, ChipId::new(chip_id)))
    }

    /// A machine of this family with this chip id.
    #[must_use]
    pub const fn with_chip_id(family: Family, chip_id: ChipId) -> Self {
        let (cpuid, report_version, tcb, firmware) = match family {
            Family::Milan => (
                Cpuid { family: 0x19, model: 0x01, stepping: 1 },
                3,
                TcbVersion { fmc: None, bootloader: 4, tee: 0, snp: 24, microcode: 219 },
                FirmwareVersion { major: 1, minor: 55, build: 29 },
            ),
            Family::Genoa => (
                Cpuid { family: 0x19, model: 0x11, stepping: 1 },
                3,
                TcbVersion { fmc: None, bootloader: 10, tee: 0, snp: 23, microcode: 84 },
                FirmwareVersion { major: 1, minor: 55, build: 40 },
            ),
            Family::Turin => (
                Cpuid { family: 0x1A, model: 0x02, stepping: 1 },
                5,
                TcbVersion { fmc: Some(1), bootloader: 3, tee: 2, snp: 5, microcode: 97 },
                FirmwareVersion { major: 1, minor: 58, build: 3 },
            ),
        };
        Self { family, cpuid, report_version, chip_id, tcb, firmware, platform_info: 0x25, mitigations: 63 }
    }

    /// The part of the chip id its VCEK names: 8 bytes on Turin, else 64.
    #[must_use]
    pub fn hwid(&self) -> &[u8] {
        &self.chip_id.as_bytes()[..self.family.hwid_len()]
    }
}
