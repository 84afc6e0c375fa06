//! `coffer-attest site …`, as clap sees it.

use std::path::PathBuf;

use clap::Subcommand;

use super::Access;

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
    /// Shut a site out until it is resumed: renewals, boots and secrets are refused, gates cut it off
    Suspend {
        /// `<project>/<site>`: all its configs, those enrolled meanwhile included
        site: String,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Where
        #[command(flatten)]
        access: Access,
    },
    /// Let a suspended site in again
    Resume {
        /// `<project>/<site>`
        site: String,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
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
