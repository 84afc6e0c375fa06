//! Processor families with SEV-SNP.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::tcb::TcbLayout;

/// A processor family that makes SNP reports. JSON form is lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

/// The text names no family this build knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("processor family `{got}` is not one of milan, genoa, turin")]
pub struct UnknownFamily {
    /// The offending text, shortened to 80 characters.
    pub got: String,
}

/// CPUID_FAM_ID, CPUID_MOD_ID and CPUID_STEP of a report: combined values, extended and base together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cpuid {
    /// Family, for example 0x19.
    pub family: u8,
    /// Model, for example 0x11.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

/// `family 0x19 model 0x11 stepping 1`.
impl fmt::Display for Cpuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "family {:#04x} model {:#04x} stepping {}", self.family, self.model, self.stepping)
    }
}

impl Family {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// The family a CPUID belongs to, if this build knows it.
    ///
    /// Bergamo and Siena (models A0h–AFh) have Genoa's certificate hierarchy.
    #[must_use]
    pub const fn of_cpuid(cpuid: Cpuid) -> Option<Self> {
        match (cpuid.family, cpuid.model) {
            (0x19, 0x00..=0x0F) => Some(Self::Milan),
            (0x19, 0x10..=0x1F | 0xA0..=0xAF) => Some(Self::Genoa),
            (0x1A, 0x00..=0x11) => Some(Self::Turin),
            _ => None,
        }
    }

    /// The family of a VCEK's product name (`Milan-B0`, `Genoa`, `Turin`): the part before a stepping.
    #[must_use]
    pub fn of_product(product: &str) -> Option<Self> {
        let name = product.split_once('-').map_or(product, |(name, _)| name);
        Self::ALL.into_iter().find(|family| family.amd_name() == name)
    }

    /// The name AMD's certificates use: `Milan`, `Genoa`, `Turin`.
    #[must_use]
    pub const fn amd_name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// How this family lays out its TCB versions.
    #[must_use]
    pub const fn tcb_layout(self) -> TcbLayout {
        match self {
            Self::Milan | Self::Genoa => TcbLayout::Legacy,
            Self::Turin => TcbLayout::Turin,
        }
    }

    /// Length in bytes of the hardware id in this family's VCEKs, and of the part of CHIP_ID that is used.
    #[must_use]
    pub const fn hwid_len(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }
}

/// Lower case: `milan`, `genoa`, `turin`.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milan => "milan",
            Self::Genoa => "genoa",
            Self::Turin => "turin",
        })
    }
}

impl FromStr for Family {
    type Err = UnknownFamily;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|family| family.to_string() == text);
        known.ok_or_else(|| UnknownFamily { got: text.chars().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_names_are_exact() {
        assert_eq!(Family::of_product("Milan-B0"), Some(Family::Milan));
        assert_eq!(Family::of_product("Genoa"), Some(Family::Genoa));
        for wrong in ["", "milan", "MilanX", "Venice", "-Milan", " Turin"] {
            assert_eq!(Family::of_product(wrong), None, "{wrong}");
        }
        for family in Family::ALL {
            assert_eq!(family.to_string().parse(), Ok(family));
            assert_eq!(serde_json::to_value(family).unwrap(), family.to_string());
        }
        assert!("Milan".parse::<Family>().is_err());
    }

    #[test]
    fn cpuid_ranges_have_edges() {
        let of = |family, model| Family::of_cpuid(Cpuid { family, model, stepping: 1 });
        assert_eq!(of(0x19, 0x01), Some(Family::Milan));
        assert_eq!(of(0x19, 0x11), Some(Family::Genoa));
        assert_eq!(of(0x19, 0xA0), Some(Family::Genoa));
        assert_eq!(of(0x1A, 0x02), Some(Family::Turin));
        for (family, model) in [(0x17, 0x31), (0x19, 0x20), (0x19, 0x9F), (0x19, 0xB0), (0x1A, 0x12), (0, 0)] {
            assert_eq!(of(family, model), None, "{family:#x} {model:#x}");
        }
    }
}
