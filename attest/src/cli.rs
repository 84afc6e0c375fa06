//! The command line. Its help is a golden file: `tests/golden/help.txt`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use coffer_evidence::{HostData, LaunchDigest, ReportData};
use coffer_evidence::Family;

use crate::collateral::kds::{PUBLIC_CA, PUBLIC_URL};

mod operate;
pub mod policy;

pub use operate::{AdminCommand, AuditCommand, KeySource, KeysCommand, RevocationsCommand, Revoke, RevokeKind, Status};

const EXAMPLE: &str = "\
Example, on a machine without SEV-SNP:
  coffer-simulator init sim
  coffer-attest init --dir service --root-of-trust simulated:sim/ark.pem --tls-name attest.demo.test
  coffer-attest serve --dir service --listen 127.0.0.1:8999 &
  coffer-attest site enroll out/enroll/site-1.json --accept-aml-risk --dir service

Exit codes:
  0  done
  1  something on this machine: a file, a key, the database
  2  wrong command line
  3  the service refused
  4  the service was not reached, or is not the one that is pinned
  5  the database is older than what `serve` was told to expect";

/// Attestation service: judges evidence, releases secrets, issues tokens
#[derive(Debug, Parser)]
#[command(name = "coffer-attest", version, after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new service folder: settings, database, keys, certificates
    Init(Init),
    /// Run the service
    Serve(Serve),
    /// Enroll, list, show and revoke sites of a running service
    Site {
        /// What to do
        #[command(subcommand)]
        command: SiteCommand,
    },
    /// What evidence and rego a project asks for: look, change, try, go back, export
    Policy {
        /// What to do
        #[command(subcommand)]
        command: policy::PolicyCommand,
    },
    /// Fill the store of AMD's certificates and revocation lists, and look at it
    Collateral {
        /// What to do
        #[command(subcommand)]
        command: CollateralCommand,
    },
    /// Revoke a site, an image, a chip, a key or an admin for good, from the next call on
    Revoke(Revoke),
    /// The numbered list of revocations: list, export, verify, import
    Revocations {
        /// What to do
        #[command(subcommand)]
        command: RevocationsCommand,
    },
    /// Who may call what
    Admin {
        /// What to do
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Keys that sign tokens, and the key file that seals secrets
    Keys {
        /// What to do
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// The audit log: signed head, export, verification
    Audit {
        /// What to do
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Uptime, refusals by code, audit head, newest revocation, token keys
    Status(Status),
    /// Explain a refusal or an attestation: the rule, both values, where to change it
    Explain(Explain),
    /// Appraise evidence from a file: every check with its verdict, no service needed
    Appraise(Appraise),
    /// Print every code a peer can be told, its meaning and its remedy
    #[command(hide = true)]
    Reasons(Reasons),
}

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// Folder to make; must not exist
    #[arg(long)]
    pub dir: PathBuf,
    /// What must have signed evidence: `amd-sev-snp`, or `simulated:` and a simulator's ARK certificate
    #[arg(long, value_name = "amd-sev-snp|simulated:ARK.pem")]
    pub root_of_trust: String,
    /// DNS name in the server certificate, which site configs name as `tls_name`
    #[arg(long, value_name = "NAME")]
    pub tls_name: String,
    /// Name of the first admin
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub admin: String,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// Folder that `init` made
    #[arg(long)]
    pub dir: PathBuf,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Refuse to serve a database whose newest revocation has a lower number: it is a restored backup
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub min_revocation: u64,
    /// Refuse to serve a database whose audit log lacks this head, which `audit head` wrote
    #[arg(long, value_name = "FILE")]
    pub audit_head: Option<PathBuf>,
    /// Print what is listened on as JSON
    #[arg(long)]
    pub json: bool,
}

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

/// `reasons`
#[derive(Debug, Args)]
pub struct Reasons {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// `explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// The id beside the reason code, or the `jti` of a token
    pub id: String,
    /// Where
    #[command(flatten)]
    pub access: Access,
}

/// What to do with sites
#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// Enroll a site from the enroll/<site>.json of `coffer build`
    Enroll {
        /// Enrollment file
        file: PathBuf,
        /// Accept that the base leaves the host's ACPI tables unrestricted
        #[arg(long)]
        accept_aml_risk: bool,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// List every site ever enrolled
    List {
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Show a site's record, history and last decisions
    Show {
        /// `<project>/<site>`
        site: String,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Revoke a site for good: its next challenge, renewal and boot are refused
    Revoke {
        /// `<project>/<site>`, which means all its configs, or one config's HOST_DATA
        site: String,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Where
        #[command(flatten)]
        access: Access,
    },
}

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

/// How to reach the service
#[derive(Debug, Args)]
pub struct Access {
    /// Service folder on this machine; stands for --url, --ca and --admin-key
    #[arg(long, conflicts_with_all = ["url", "ca", "admin_key"], required_unless_present_all = ["url", "ca", "admin_key"])]
    pub dir: Option<PathBuf>,
    /// Address of the service
    #[arg(long, value_name = "https://HOST:PORT")]
    pub url: Option<String>,
    /// Name in the service's certificate, where it is not the host in --url
    #[arg(long, value_name = "NAME", conflicts_with = "dir")]
    pub tls_name: Option<String>,
    /// CA certificate of the service, PEM; nothing else is trusted
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Private key of an admin, PEM
    #[arg(long, value_name = "FILE")]
    pub admin_key: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_whole_help_is_the_golden_file() {
        let mut text = String::new();
        let mut command = Cli::command();
        command.build();
        let mut stack = vec![command];
        while let Some(mut command) = stack.pop() {
            let help = command.render_long_help();
            text.push_str(&format!("$ {} --help\n{help}\n", command.get_bin_name().unwrap_or("coffer-attest")));
            let mut subcommands: Vec<_> = command.get_subcommands().filter(|c| c.get_name() != "help").cloned().collect();
            subcommands.reverse();
            stack.extend(subcommands);
        }
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
        if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, golden, "run BLESS=1 cargo test and review the diff");
    }

    #[test]
    fn access_is_a_folder_or_all_three() {
        let parse = |rest: &[&str]| Cli::try_parse_from([&["coffer-attest", "site", "list"], rest].concat());
        assert!(parse(&["--dir", "d"]).is_ok());
        assert!(parse(&["--url", "u", "--ca", "c", "--admin-key", "k", "--json"]).is_ok());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--url", "u", "--ca", "c"]).is_err());
        assert!(parse(&["--dir", "d", "--url", "u"]).is_err());
    }
}
