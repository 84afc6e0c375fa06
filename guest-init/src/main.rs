//! Static PID 1 of a confidential VM whose evidence comes from AMD SEV-SNP hardware.
//!
//! The boot itself, one line per promise, is `boot` in `boot.rs`; this file only says where reports come from.
#![forbid(unsafe_code)]

use coffer_init::report::{self, ReportError, ReportSource};
use coffer_init::{Platform, pid1};

/// An AMD secure processor, through configfs-tsm or `/dev/sev-guest`.
struct Hardware;

impl Platform for Hardware {
    const NAME: &'static str = "amd-sev-snp";

    fn accepts(root_of_trust: &str) -> bool {
        root_of_trust == Self::NAME
    }

    fn report_source() -> Result<Box<dyn ReportSource>, ReportError> {
        report::hardware()
    }
}

fn main() {
    pid1::<Hardware>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hardware_sites_are_accepted() {
        assert!(Hardware::accepts("amd-sev-snp"));
        assert!(!Hardware::accepts(&format!("simulated:{}", "0".repeat(64))));
    }
}
