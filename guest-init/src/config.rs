//! The site config: read once from fw_cfg, compared with the HOST_DATA of this guest's own report, then parsed.

use std::fs::File;
use std::io::{self, Read};

use coffer_manifest::{DocumentError, HostData, MAX_DOCUMENT_BYTES, SiteConfig};

use crate::boot::Platform;
use crate::report::{ReportError, ReportSource};

/// Where the module qemu_fw_cfg shows the file `opt/coffer/site.json`.
const FW_CFG_FILE: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/coffer/site.json/raw";

/// REPORT_DATA of the report PID 1 makes for itself at this stage: 64 zero bytes. No challenge hashes to it (bytes 0–47 of
/// any other report are a SHA-384), so this report, which never leaves the guest, could not serve as evidence either.
const SELF_REPORT_DATA: [u8; 64] = [0; 64];

/// The site config is not one this guest may run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The host gave none.
    #[error("cannot read the site config {FW_CFG_FILE}: {0}")]
    Read(#[source] io::Error),
    /// The host gave more than anybody reads.
    #[error("site config is longer than {MAX_DOCUMENT_BYTES} bytes")]
    TooLong,
    /// No report of our own.
    #[error("cannot get this guest's own report: {0}")]
    Report(#[from] ReportError),
    /// The file is not the one this guest was launched for.
    #[error("site config has SHA-256 {file}, this guest was launched with HOST_DATA {launched}")]
    HostData {
        /// SHA-256 of the file.
        file: HostData,
        /// HOST_DATA of the report.
        launched: HostData,
    },
    /// The bytes are not a site config.
    #[error("site config: {0}")]
    Document(#[from] DocumentError),
    /// Made for the other PID 1.
    #[error("site config names root of trust {got}, this guest serves {platform} only")]
    RootOfTrust {
        /// What the config says.
        got: String,
        /// What this binary is for.
        platform: &'static str,
    },
}

/// Reads, compares, parses: in this order, so that nothing parses bytes that were not launched with this guest.
pub fn read<P: Platform>(reports: &mut dyn ReportSource) -> Result<(SiteConfig, HostData), ConfigError> {
    let bytes = read_bounded(File::open(FW_CFG_FILE).map_err(ConfigError::Read)?)?;
    let launched = reports.report(&SELF_REPORT_DATA)?.host_data();
    check::<P>(&bytes, launched)
}

fn read_bounded(file: impl Read) -> Result<Vec<u8>, ConfigError> {
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(ConfigError::Read)?;
    if bytes.len() > MAX_DOCUMENT_BYTES { Err(ConfigError::TooLong) } else { Ok(bytes) }
}

fn check<P: Platform>(bytes: &[u8], launched: HostData) -> Result<(SiteConfig, HostData), ConfigError> {
    let file = SiteConfig::host_data(bytes);
    if file != launched {
        return Err(ConfigError::HostData { file, launched });
    }
    let site = SiteConfig::from_bytes(bytes)?;
    let got = site.root_of_trust.to_string();
    if !P::accepts(&got) {
        return Err(ConfigError::RootOfTrust { got, platform: P::NAME });
    }
    Ok((site, launched))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Test;

    impl Platform for Test {
        const NAME: &'static str = "test";

        fn accepts(root_of_trust: &str) -> bool {
            root_of_trust.starts_with("simulated:")
        }

        fn report_source() -> Result<Box<dyn ReportSource>, ReportError> {
            Err(ReportError::NoSource)
        }
    }

    fn site(root_of_trust: &str) -> Vec<u8> {
        crate::workload::tests::site(root_of_trust).to_bytes().expect("encodes")
    }

    fn simulated() -> String {
        format!("simulated:{}", "0".repeat(64))
    }

    #[test]
    fn a_config_with_its_own_host_data_is_taken() {
        let bytes = site(&simulated());
        let (site, _) = check::<Test>(&bytes, SiteConfig::host_data(&bytes)).expect("matches");
        assert_eq!(site.project.as_str(), "demo");
    }

    #[test]
    fn a_changed_config_is_refused_before_it_is_parsed() {
        let mut bytes = site(&simulated());
        let launched = SiteConfig::host_data(&bytes);
        bytes.push(b' ');
        assert!(matches!(check::<Test>(&bytes, launched), Err(ConfigError::HostData { .. })));
        assert!(matches!(check::<Test>(b"not json", launched), Err(ConfigError::HostData { .. })));
    }

    #[test]
    fn the_other_root_of_trust_is_refused() {
        let bytes = site("amd-sev-snp");
        let error = check::<Test>(&bytes, SiteConfig::host_data(&bytes)).expect_err("production config");
        assert!(error.to_string().contains("amd-sev-snp"), "{error}");
    }

    #[test]
    fn reading_is_bounded() {
        assert!(matches!(read_bounded(io::repeat(b'x')), Err(ConfigError::TooLong)));
    }
}
