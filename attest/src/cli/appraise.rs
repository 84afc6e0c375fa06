//! `coffer-attest appraise …`, as clap sees it.

use std::path::PathBuf;

use clap::Args;
use coffer_evidence::{HostData, LaunchDigest, ReportData};

const APPRAISE: &str = "\
Example, a report that somebody asked for with 64 bytes of their own:
  coffer-attest appraise report.bin --vek vcek.der --policy policy.json --report-data 01ab...

Exit codes:
  0  accepted
  1  refused; the last line names the rule
  2  unusable input, or a wrong command line";

/// `appraise`
#[derive(Debug, Args)]
#[command(after_help = APPRAISE)]
pub struct Appraise {
    /// A report (1184 bytes, or their hexadecimal or base64 text), KBS wire JSON, or a captured body of POST /kbs/v0/attest
    pub evidence: PathBuf,
    /// Certificates to use instead of those of the evidence: the VCEK or VLEK, DER, or PEM with what else its chain needs
    #[arg(long, value_name = "FILE")]
    pub vek: Option<PathBuf>,
    /// What REPORT_DATA must be, 128 hexadecimal digits; not compared without it, unless a captured body says it
    #[arg(long, value_name = "HEX")]
    pub report_data: Option<ReportData>,
    /// What HOST_DATA must be, 64 hexadecimal digits: SHA-256 of the site config
    #[arg(long, value_name = "HEX")]
    pub host_data: Option<HostData>,
    /// A launch digest that is allowed, 96 hexadecimal digits; may be repeated
    #[arg(long, value_name = "HEX")]
    pub launch_digest: Vec<LaunchDigest>,
    /// When; now, if not given
    #[arg(long, value_name = "RFC3339")]
    pub at: Option<String>,
    /// A project's policy document, or its reference values alone; nothing is accepted without
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// A revocation list of AMD's, DER or PEM; may be repeated
    #[arg(long, value_name = "FILE")]
    pub crl: Vec<PathBuf>,
    /// A simulator's root certificate; AMD's evidence is then refused
    #[arg(long, value_name = "FILE")]
    pub ark: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
