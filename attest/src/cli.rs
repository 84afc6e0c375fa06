//! The command line: a file of types for each command that has many, named as its room in `command`. Its help is a golden file:
//! `tests/golden/help.txt`.

mod admin;
mod appraise;
mod audit;
mod collateral;
mod keys;
mod policy;
mod revocation;
mod site;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use coffer_manifest::ProjectName;

pub use admin::{AdminCommand, Bearer};
pub use appraise::Appraise;
pub use audit::AuditCommand;
pub use collateral::{ChipArgs, CollateralCommand};
pub use keys::KeysCommand;
pub use policy::{Owner, PolicyCommand};
pub use revocation::{RevocationsCommand, Revoke, RevokeKind};
pub use site::SiteCommand;

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
    /// Enroll, list, show, suspend, resume and revoke sites of a running service
    Site {
        /// What to do
        #[command(subcommand)]
        command: SiteCommand,
    },
    /// What evidence and rego a project asks for: look, change, try, go back, export
    Policy {
        /// What to do
        #[command(subcommand)]
        command: PolicyCommand,
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
    /// Print the part of a gate's settings that is about this service
    GateSettings(GateSettings),
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

/// `reasons`
#[derive(Debug, Args)]
pub struct Reasons {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// `gate-settings`
#[derive(Debug, Args)]
pub struct GateSettings {
    /// The gate's project
    #[arg(long, value_name = "NAME")]
    pub project: ProjectName,
    /// Service folder on this machine; stands for --url and --ca
    #[arg(long, conflicts_with_all = ["url", "tls_name", "ca"], required_unless_present_any = ["url", "ca"])]
    pub dir: Option<PathBuf>,
    /// Address of the service, as the gate will reach it
    #[arg(long, value_name = "https://HOST:PORT", requires = "ca")]
    pub url: Option<String>,
    /// Name in the service's certificate, where it is not the host in --url
    #[arg(long, value_name = "NAME")]
    pub tls_name: Option<String>,
    /// CA certificate of the service, PEM; the gate trusts nothing else
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,
    /// Print it as JSON
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

/// `status`
#[derive(Debug, Args)]
pub struct Status {
    /// Where
    #[command(flatten)]
    pub access: Access,
}

/// How to reach the service
#[derive(Debug, Args)]
pub struct Access {
    /// Service folder on this machine; stands for --url, --ca and --admin-key
    #[arg(long, conflicts_with_all = ["url", "ca", "admin_key"], required_unless_present_any = ["url", "ca", "admin_key"])]
    pub dir: Option<PathBuf>,
    /// Address of the service
    #[arg(long, value_name = "https://HOST:PORT", requires_all = ["ca", "admin_key"])]
    pub url: Option<String>,
    /// Name in the service's certificate, where it is not the host in --url
    #[arg(long, value_name = "NAME", conflicts_with = "dir")]
    pub tls_name: Option<String>,
    /// CA certificate of the service, PEM; nothing else is trusted
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,
    /// Private key of an admin, PEM
    #[arg(long, value_name = "FILE", requires = "url")]
    pub admin_key: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// Where public token keys are
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct KeySource {
    /// Folder of the service, which must not run
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Public token keys, as `keys export` wrote them
    #[arg(long, value_name = "FILE")]
    pub jwks: Option<PathBuf>,
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
        // The error names what is missing, not the other way to say where the service is.
        let missing = parse(&["--url", "u"]).unwrap_err().to_string();
        assert!(missing.contains("--ca") && missing.contains("--admin-key") && !missing.contains("--dir"), "{missing}");
    }
}
