//! `coffer-attest revoke …` and `coffer-attest revocations …`, as clap sees them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Access, KeySource};

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
