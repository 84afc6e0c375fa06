//! `coffer-attest policy …`, as clap sees it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use coffer_manifest::ProjectName;

use super::Access;

/// What to do with policies
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Print the document in force, or an older version of it
    Show {
        /// Whose
        #[command(flatten)]
        owner: Owner,
        /// An older version
        #[arg(long, value_name = "NUMBER")]
        version: Option<u64>,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Put a document into force in place of the version it was made from; prints what gets weaker
    Set {
        /// Document, `coffer/project-policy/v1`
        file: PathBuf,
        /// Whose
        #[command(flatten)]
        owner: Owner,
        /// Version in force that this one replaces; 0 for the first
        #[arg(long, value_name = "NUMBER")]
        replaces: u64,
        /// Why, for the history and the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// List every version: when, by whom, why
    History {
        /// Whose
        #[command(flatten)]
        owner: Owner,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Make the newest decisions again under a document that is not in force, and print those that would come out otherwise
    DryRun {
        /// Document, `coffer/project-policy/v1`
        file: PathBuf,
        /// Whose
        #[command(flatten)]
        owner: Owner,
        /// How many decisions, at most 10000
        #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
        last: u32,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Put the document of an older version into force again, as a new version
    Rollback {
        /// Whose
        #[command(flatten)]
        owner: Owner,
        /// Version whose document comes back
        #[arg(long, value_name = "NUMBER")]
        to: u64,
        /// Version in force that it replaces
        #[arg(long, value_name = "NUMBER")]
        replaces: u64,
        /// Why, for the history and the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Write rego, reference values and resource bindings for another key service
    Export {
        /// For a stock Trustee; what it cannot say is in the README.md beside the files
        #[arg(long, required = true)]
        trustee: bool,
        /// Project
        #[arg(long, value_name = "NAME")]
        project: ProjectName,
        /// Folder to make; must not exist
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Where
        #[command(flatten)]
        access: Access,
    },
}

/// Whose policy
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Owner {
    /// A project's own
    #[arg(long, value_name = "NAME")]
    pub project: Option<ProjectName>,
    /// The service's default, for projects without one of their own
    #[arg(long)]
    pub default: bool,
}
