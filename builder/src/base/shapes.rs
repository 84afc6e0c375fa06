//! Which launch shapes a base is measured for, and measuring them.

use coffer_manifest::LaunchShape;
use coffer_measure::{CpuModel, Firmware, HashTable, Shape, Vmm, measure};

use super::error::BaseError;

/// Every base is measured for this model, which every SEV-SNP host can run, ...
const DEFAULT_MODEL: &str = "EPYC-v4";
/// ... with these numbers of vCPUs, ...
const DEFAULT_VCPUS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// ... and SNP active, nothing else: what QEMU sets by default.
const DEFAULT_FEATURES: u64 = 0x1;

/// Shapes asked for on the command line.
#[derive(clap::Args)]
pub struct ShapeArgs {
    /// QEMU CPU model, for example EPYC-Genoa (repeatable)
    #[arg(long = "cpu-model", value_name = "MODEL")]
    models: Vec<CpuModel>,
    /// Number of vCPUs (repeatable)
    #[arg(long, value_name = "N")]
    vcpus: Vec<u32>,
    /// SEV_FEATURES of the VMSA, for example 0x21 (repeatable)
    #[arg(long, value_name = "BITS", value_parser = features)]
    guest_features: Vec<u64>,
}

fn features(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

impl ShapeArgs {
    /// No shape asked for.
    pub const fn none() -> Self {
        Self { models: Vec::new(), vcpus: Vec::new(), guest_features: Vec::new() }
    }

    /// True if no shape was asked for.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty() && self.vcpus.is_empty() && self.guest_features.is_empty()
    }

    /// Every combination asked for; what is left out has its default.
    ///
    /// # Errors
    /// [`BaseError::CpuModel`] never: the default model is a known one.
    pub fn requested(&self) -> Result<Vec<Shape>, BaseError> {
        let or = |given: &[u64], default: &[u64]| if given.is_empty() { default.to_vec() } else { given.to_vec() };
        let models = if self.models.is_empty() { vec![DEFAULT_MODEL.parse()?] } else { self.models.clone() };
        let vcpus = if self.vcpus.is_empty() { DEFAULT_VCPUS.to_vec() } else { self.vcpus.clone() };
        let features = or(&self.guest_features, &[DEFAULT_FEATURES]);
        let mut shapes = Vec::new();
        for &cpu in &models {
            for &guest_features in &features {
                shapes.extend(vcpus.iter().map(|&vcpus| Shape { vmm: Vmm::Qemu, vcpus, cpu, guest_features }));
            }
        }
        Ok(shapes)
    }

    /// The shapes of every base, then those asked for beyond them.
    ///
    /// # Errors
    /// As [`ShapeArgs::requested`].
    pub fn with_defaults(&self) -> Result<Vec<Shape>, BaseError> {
        let mut shapes = Self::none().requested()?;
        for shape in self.requested()? {
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
        Ok(shapes)
    }
}

/// What the AMD secure processor will report for each shape.
///
/// # Errors
/// [`BaseError::Measure`].
pub fn measure_all(firmware: &Firmware, table: &HashTable, shapes: &[Shape]) -> Result<Vec<LaunchShape>, BaseError> {
    let one = |shape: &Shape| {
        Ok(LaunchShape {
            cpu_model: shape.cpu.name().to_owned(),
            vcpus: shape.vcpus,
            guest_features: shape.guest_features,
            digest: measure(firmware, Some(table), shape)?,
        })
    };
    shapes.iter().map(one).collect()
}

/// A shape of base.json, as an argument of `measure`.
///
/// # Errors
/// [`BaseError::CpuModel`].
pub fn of_document(shape: &LaunchShape) -> Result<Shape, BaseError> {
    let LaunchShape { cpu_model, vcpus, guest_features, .. } = shape;
    Ok(Shape { vmm: Vmm::Qemu, vcpus: *vcpus, cpu: cpu_model.parse()?, guest_features: *guest_features })
}

/// One line: model, vCPUs, features.
pub fn describe(shape: &LaunchShape) -> String {
    format!("{} vcpus={} guest-features={:#x}", shape.cpu_model, shape.vcpus, shape.guest_features)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(models: &[&str], vcpus: &[u32], guest_features: &[u64]) -> ShapeArgs {
        let models = models.iter().map(|m| m.parse().unwrap()).collect();
        ShapeArgs { models, vcpus: vcpus.to_vec(), guest_features: guest_features.to_vec() }
    }

    fn named(shapes: &[Shape]) -> Vec<(&str, u32, u64)> {
        shapes.iter().map(|s| (s.cpu.name(), s.vcpus, s.guest_features)).collect()
    }

    #[test]
    fn defaults_are_powers_of_two_and_stay() {
        let defaults = args(&[], &[], &[]).with_defaults().unwrap();
        assert_eq!(named(&defaults), [1, 2, 4, 8, 16, 32, 64].map(|n| ("EPYC-v4", n, 1)));
        let more = args(&["EPYC-Genoa"], &[2, 3], &[]).with_defaults().unwrap();
        assert_eq!(named(&more[7..]), [("EPYC-Genoa", 2, 1), ("EPYC-Genoa", 3, 1)]);
        assert_eq!(args(&["EPYC-v4"], &[2], &[]).with_defaults().unwrap().len(), 7);
    }

    #[test]
    fn requests_are_every_combination() {
        let shapes = args(&["EPYC-v4", "EPYC-Turin"], &[6], &[0x1, 0x21]).requested().unwrap();
        assert_eq!(named(&shapes), [("EPYC-v4", 6, 1), ("EPYC-v4", 6, 0x21), ("EPYC-Turin", 6, 1), ("EPYC-Turin", 6, 0x21)]);
        assert_eq!(features("0x21"), Ok(0x21));
        assert_eq!(features("33"), Ok(33));
        assert!(features("0xq").is_err());
    }
}
