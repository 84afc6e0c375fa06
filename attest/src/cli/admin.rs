//! `coffer-attest admin …`, as clap sees it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use coffer_manifest::ProjectName;
use coffer_token::bearer::BearerScope;

use super::Access;
use crate::store::Scope;

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
    Bearer(Bearer),
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

/// `admin bearer`
#[derive(Debug, Args)]
pub struct Bearer {
    /// The one project it is for
    #[arg(long, value_name = "NAME")]
    pub project: ProjectName,
    /// What it may be used for
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', required = true, value_parser = scope)]
    pub scope: Vec<BearerScope>,
    /// How long it lives, in seconds; at most an hour
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=coffer_token::bearer::MAX_BEARER_SECONDS))]
    pub ttl: u64,
    /// Where
    #[command(flatten)]
    pub access: Access,
}

fn scope(text: &str) -> Result<BearerScope, String> {
    let known = BearerScope::ALL.map(BearerScope::name);
    BearerScope::ALL.into_iter().find(|scope| scope.name() == text).ok_or_else(|| format!("expected one of {}", known.join(", ")))
}
