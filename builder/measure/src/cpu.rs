//! QEMU's AMD CPU models and the CPUID signature each puts into a VMSA.

use std::fmt;
use std::str::FromStr;

/// A CPU model of QEMU's, by name. Parses only names in [`CPU_MODELS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuModel {
    name: &'static str,
    family: u8,
    model: u8,
    stepping: u8,
}

/// A name that is not in [`CPU_MODELS`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CPU model `{got}` is not one this build can measure; it knows {}", known())]
pub struct UnknownCpuModel {
    /// The name given.
    pub got: String,
}

impl CpuModel {
    /// The name QEMU's `-cpu` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// CPUID Fn0000_0001 EAX: the value QEMU leaves in RDX at reset.
    ///
    /// Source: AMD 25481, "CPUID Specification", Fn0000_0001_EAX. Families above 15 go into the extended field.
    #[must_use]
    pub const fn signature(self) -> u32 {
        let (family_low, family_high) = if self.family > 0xf { (0xf, self.family - 0xf) } else { (self.family, 0) };
        (family_high as u32) << 20
            | ((self.model >> 4) as u32) << 16
            | (family_low as u32) << 8
            | ((self.model & 0xf) as u32) << 4
            | (self.stepping & 0xf) as u32
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for CpuModel {
    type Err = UnknownCpuModel;

    fn from_str(text: &str) -> Result<Self, UnknownCpuModel> {
        let known = CPU_MODELS.iter().find(|m| m.name == text);
        known.copied().ok_or_else(|| UnknownCpuModel { got: text.chars().take(40).collect() })
    }
}

fn known() -> String {
    CPU_MODELS.map(CpuModel::name).join(", ")
}

const fn cpu(name: &'static str, family: u8, model: u8, stepping: u8) -> CpuModel {
    CpuModel { name, family, model, stepping }
}

/// The models with known signatures: QEMU's `builtin_x86_defs` as `sev-snp-measure` 0.0.13 lists them.
pub const CPU_MODELS: [CpuModel; 16] = [
    cpu("EPYC", 23, 1, 2),
    cpu("EPYC-v1", 23, 1, 2),
    cpu("EPYC-v2", 23, 1, 2),
    cpu("EPYC-IBPB", 23, 1, 2),
    cpu("EPYC-v3", 23, 1, 2),
    cpu("EPYC-v4", 23, 1, 2),
    cpu("EPYC-Rome", 23, 49, 0),
    cpu("EPYC-Rome-v1", 23, 49, 0),
    cpu("EPYC-Rome-v2", 23, 49, 0),
    cpu("EPYC-Rome-v3", 23, 49, 0),
    cpu("EPYC-Milan", 25, 1, 1),
    cpu("EPYC-Milan-v1", 25, 1, 1),
    cpu("EPYC-Milan-v2", 25, 1, 1),
    cpu("EPYC-Genoa", 25, 17, 0),
    cpu("EPYC-Genoa-v1", 25, 17, 0),
    cpu("EPYC-Turin", 26, 0, 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_the_published_ones() {
        for (name, signature) in
            [("EPYC-v4", 8_392_466), ("EPYC-Milan-v2", 10_489_617), ("EPYC-Genoa-v1", 10_555_152), ("EPYC-Turin", 11_538_176)]
        {
            assert_eq!(name.parse::<CpuModel>().unwrap().signature(), signature, "{name}");
        }
    }

    #[test]
    fn unknown_models_are_refused_with_the_known_ones() {
        let error = "EPYC-v9".parse::<CpuModel>().unwrap_err().to_string();
        assert!(error.contains("`EPYC-v9`") && error.contains("EPYC-Turin"), "{error}");
    }
}
