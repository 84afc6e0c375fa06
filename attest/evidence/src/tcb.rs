//! TCB_VERSION: eight bytes whose meaning depends on the processor family.

use core::fmt;

use serde::{Deserialize, Serialize};

/// How a TCB_VERSION's eight bytes are laid out (AMD 56860, table TCB_VERSION).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcbLayout {
    /// Milan and Genoa: boot loader, tee, 4 reserved, snp, microcode.
    Legacy,
    /// Turin (CPUID family 1Ah): fmc, boot loader, tee, snp, 3 reserved, microcode.
    Turin,
}

/// Security patch levels of an AMD platform. Larger is newer, component by component; there is no total order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbVersion {
    /// Firmware of the secure processor's FMC. Turin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmc: Option<u8>,
    /// Boot loader of the secure processor.
    pub bootloader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Lowest patch level of all cores.
    pub microcode: u8,
}

impl TcbVersion {
    /// Reads the eight bytes of a report. Reserved bytes are not looked at; the report keeps them.
    #[must_use]
    pub const fn from_bytes(layout: TcbLayout, bytes: [u8; 8]) -> Self {
        match layout {
            TcbLayout::Legacy => Self { fmc: None, bootloader: bytes[0], tee: bytes[1], snp: bytes[6], microcode: bytes[7] },
            TcbLayout::Turin => Self { fmc: Some(bytes[0]), bootloader: bytes[1], tee: bytes[2], snp: bytes[3], microcode: bytes[7] },
        }
    }

    /// The eight bytes of a report, reserved bytes zero. A missing `fmc` is zero in Turin's layout.
    #[must_use]
    pub const fn to_bytes(self, layout: TcbLayout) -> [u8; 8] {
        match layout {
            TcbLayout::Legacy => [self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode],
            TcbLayout::Turin => {
                let fmc = match self.fmc {
                    Some(fmc) => fmc,
                    None => 0,
                };
                [fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode]
            }
        }
    }

    /// Whether every component is at least the floor's. A floor with an `fmc` is not met by a version without one.
    #[must_use]
    pub const fn is_at_least(&self, floor: &Self) -> bool {
        let fmc = match (self.fmc, floor.fmc) {
            (_, None) => true,
            (Some(got), Some(floor)) => got >= floor,
            (None, Some(_)) => false,
        };
        fmc && self.bootloader >= floor.bootloader && self.tee >= floor.tee && self.snp >= floor.snp && self.microcode >= floor.microcode
    }
}

/// `fmc 1, bootloader 3, tee 2, snp 5, microcode 97`, the first only where there is one.
impl fmt::Display for TcbVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fmc) = self.fmc {
            write!(f, "fmc {fmc}, ")?;
        }
        write!(f, "bootloader {}, tee {}, snp {}, microcode {}", self.bootloader, self.tee, self.snp, self.microcode)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layouts_are_those_of_the_specification() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(TcbVersion::from_bytes(TcbLayout::Legacy, bytes), TcbVersion { fmc: None, bootloader: 1, tee: 2, snp: 7, microcode: 8 });
        assert_eq!(
            TcbVersion::from_bytes(TcbLayout::Turin, bytes),
            TcbVersion { fmc: Some(1), bootloader: 2, tee: 3, snp: 4, microcode: 8 }
        );
    }

    #[test]
    fn a_floor_is_met_component_by_component() {
        let floor = TcbVersion { fmc: None, bootloader: 3, tee: 1, snp: 8, microcode: 100 };
        assert!(floor.is_at_least(&floor));
        // Newer in one place does not make up for older in another.
        for low in [
            TcbVersion { bootloader: 2, microcode: 255, ..floor },
            TcbVersion { tee: 0, microcode: 255, ..floor },
            TcbVersion { snp: 7, microcode: 255, ..floor },
            TcbVersion { microcode: 99, snp: 255, ..floor },
        ] {
            assert!(!low.is_at_least(&floor), "{low}");
        }
        let turin = TcbVersion { fmc: Some(2), ..floor };
        assert!(!floor.is_at_least(&turin));
        assert!(!TcbVersion { fmc: Some(1), ..floor }.is_at_least(&turin));
        assert!(TcbVersion { fmc: Some(3), ..floor }.is_at_least(&turin));
    }

    proptest! {
        #[test]
        fn bytes_round_trip(fmc: u8, bootloader: u8, tee: u8, snp: u8, microcode: u8) {
            let legacy = TcbVersion { fmc: None, bootloader, tee, snp, microcode };
            prop_assert_eq!(TcbVersion::from_bytes(TcbLayout::Legacy, legacy.to_bytes(TcbLayout::Legacy)), legacy);
            let turin = TcbVersion { fmc: Some(fmc), ..legacy };
            prop_assert_eq!(TcbVersion::from_bytes(TcbLayout::Turin, turin.to_bytes(TcbLayout::Turin)), turin);
        }
    }
}
