//! `coffer-attest collateral …`, as clap sees it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use coffer_evidence::Family;

use super::Access;
use crate::collateral::kds::{PUBLIC_CA, PUBLIC_URL};

/// What to do with collateral
#[derive(Debug, Subcommand)]
pub enum CollateralCommand {
    /// Verify and take in certificates (VCEK, VLEK, ASK, ASVK) and revocation lists, DER or PEM
    Import {
        /// Files, or folders such as a Trustee offline store (vcek/<hwid>/…)
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Have the service fetch from its key server: a family's chains and revocation list, or one chip's VCEK
    Fetch {
        /// Processor family: milan, genoa or turin; may be repeated
        #[arg(long = "family", value_name = "FAMILY", required = true)]
        families: Vec<Family>,
        /// Which chip
        #[command(flatten)]
        chip: ChipArgs,
        /// Seconds to wait for the fetches to end
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Show what there is, what is queued, what ends soon
    Status {
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Fetch to files, without a service: for one that makes no outgoing connections
    Download {
        /// Folder for the files
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Processor family: milan, genoa or turin; may be repeated
        #[arg(long = "family", value_name = "FAMILY", required = true)]
        families: Vec<Family>,
        /// Which chip
        #[command(flatten)]
        chip: ChipArgs,
        /// Key server
        #[arg(long, value_name = "https://HOST[:PORT]", default_value = PUBLIC_URL)]
        url: String,
        /// Authorities that may have certified the key server, PEM
        #[arg(long, value_name = "FILE", default_value = PUBLIC_CA)]
        ca: PathBuf,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

/// One chip at a TCB
#[derive(Debug, Args)]
pub struct ChipArgs {
    /// Chip id of a report, or hardware id, in hexadecimal; with --tcb, only its VCEK is fetched
    #[arg(long, value_name = "HEX", requires = "tcb")]
    pub chip: Option<String>,
    /// TCB of the chip: bootloader=N,tee=N,snp=N,microcode=N, on Turin fmc=N too
    #[arg(long, value_name = "TCB", requires = "chip")]
    pub tcb: Option<String>,
}
