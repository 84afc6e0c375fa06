//! `coffer-attest audit …`, as clap sees it.

use std::path::PathBuf;

use clap::Subcommand;

use super::Access;

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
