//! `coffer-attest keys …`, as clap sees it.

use std::path::PathBuf;

use clap::Subcommand;

use super::Access;
use crate::token_keys::{DEFAULT_PUBLICATION_S, MAX_PUBLICATION_S};

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
