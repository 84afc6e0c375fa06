//! Commands of whoever runs the service: revocations, admins, token keys, the audit log, status.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Access;
use crate::store::Scope;
use crate::token_keys::{DEFAULT_PUBLICATION_S, MAX_PUBLICATION_S};

/// What can be revoked
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RevokeKind {
    /// A site's active config: `<project>/<site>`, or its HOST_DATA
    Site,
    /// A base, on every site: launch digest
    Image,
    /// A processor: CHIP_ID, as audit entries show it
    Chip,
    /// An author key or ID key: SHA-384 digest of the public key
    Key,
    /// An admin: name
    Admin,
}

/// `revoke`
#[derive(Debug, Args)]
pub struct Revoke {
    /// What is revoked
    pub kind: RevokeKind,
    /// Which one
    pub value: String,
    /// Why, for the list and the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Where
    #[command(flatten)]
    pub access: Access,
}

/// What to do with the list of revocations
#[derive(Debug, Subcommand)]
pub enum RevocationsCommand {
    /// List what was ever revoked, by number
    List {
        /// Only what comes after this number
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: u64,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Write the whole list, signed: keep it apart from the database
    Export {
        /// File to write, replaced as a whole; the terminal if absent
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Check an exported list without the service
    Verify {
        /// Exported list
        file: PathBuf,
        /// Whose signature it must have
        #[command(flatten)]
        keys: KeySource,
        /// Refuse a list whose newest number is lower
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        min: u64,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring a restored database up to date from an exported list; the service must not run
    Import {
        /// Exported list
        file: PathBuf,
        /// Folder of the service
        #[arg(long)]
        dir: PathBuf,
        /// Public token keys, as `keys export` wrote them, where the list is signed by a key that the database does not have
        #[arg(long, value_name = "FILE")]
        jwks: Option<PathBuf>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
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

/// What to do with admins
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Make an admin's key on this machine; the service gets its public half only
    NewKey {
        /// File for the private key, 0600; the public half goes to FILE.pub
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Register an admin
    Add {
        /// Name, for the audit log; given once
        name: String,
        /// Public key, PEM
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
        /// What the admin may do; nobody gives a scope they do not have
        #[arg(long, value_name = "SCOPES", value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
        /// The one project the admin may do it in
        #[arg(long, value_name = "PROJECT")]
        project: Option<String>,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Ask for a short bearer token for stock admin tools such as `kbs-client`
    Bearer(super::policy::Bearer),
    /// List every admin there ever was
    List {
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Register an admin with every scope, on the service's own machine while it does not run: when keys were lost or stolen
    Recover {
        /// Name, for the audit log; given once
        name: String,
        /// Public key, PEM
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
        /// Admin to revoke in the same moment; may be repeated
        #[arg(long, value_name = "NAME")]
        revoke: Vec<String>,
        /// Folder of the service
        #[arg(long)]
        dir: PathBuf,
    },
}

/// What to do with the keys that sign tokens
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// List keys, their states and times
    List {
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Make the next key: published at once, signing after a delay
    Rotate {
        /// Seconds until it signs; relying parties cache the set for 60 seconds
        #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_PUBLICATION_S, value_parser = clap::value_parser!(u64).range(..=MAX_PUBLICATION_S))]
        delay: u64,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// End a key that leaked: every token of it dies at once. One that merely grew old retires by itself after `rotate`
    Retire {
        /// Key id
        kid: String,
        /// Yes: now
        #[arg(long, required = true)]
        now: bool,
        /// Why, for the list and the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Write the public halves of all keys that did not leak, to check old lists and audit heads with
    Export {
        /// File to write, replaced as a whole; the terminal if absent
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Seal every secret of the database under a new key file; the service must not run
    Rewrap {
        /// Folder of the service
        #[arg(long)]
        dir: PathBuf,
        /// The new key file, 32 bytes, 0600; made if absent
        #[arg(long, value_name = "FILE")]
        new_kek: Option<PathBuf>,
    },
}

/// What to do with the audit log
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Write the signed head: keep it apart from the database
    Head {
        /// File to write, replaced as a whole; the terminal if absent
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Write entries as JSON lines
    Export {
        /// First entry
        #[arg(long, value_name = "SEQ", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        from: u64,
        /// File to write, replaced as a whole; the terminal if absent
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Check an exported log, or a stopped service's own, for edits, gaps and a missing end
    Verify {
        /// Exported log
        #[arg(required_unless_present = "dir", conflicts_with = "dir")]
        file: Option<PathBuf>,
        /// Folder of the service, which must not run
        #[arg(long)]
        dir: Option<PathBuf>,
        /// A head that was kept: the log must contain it
        #[arg(long, value_name = "FILE")]
        head: Option<PathBuf>,
        /// Public token keys, as `keys export` wrote them, to check the head with; with --dir, the database's own are known
        #[arg(long, value_name = "FILE", requires = "head")]
        jwks: Option<PathBuf>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

/// `status`
#[derive(Debug, Args)]
pub struct Status {
    /// Where
    #[command(flatten)]
    pub access: Access,
}
