//! Attestation service: verifier, key broker, token issuer.
#![forbid(unsafe_code)]

mod bounded;
mod appraise;
mod cli;
mod client;
mod clock;
mod collateral;
mod collateral_cli;
mod config;
mod confine;
mod explain;
mod failure;
mod http;
mod init;
mod judge;
mod kek;
mod layout;
mod live;
mod memory;
mod net;
mod operate;
mod policy;
mod reason;
mod revocation;
mod serve;
mod session;
mod site;
mod store;
mod tls;
mod token_keys;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};
use failure::OrFail;

fn main() -> ExitCode {
    if confine::is_worker() {
        return confine::be_worker();
    }
    confine::start();
    let cli = Cli::parse();
    let done = memory::keep_private().or_fail("cannot turn off core dumps").and_then(|()| match &cli.command {
        Command::Init(args) => init::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Site { command } => site::run(command),
        Command::Policy { command } => policy::command::run(command),
        Command::Collateral { command } => collateral_cli::run(command),
        Command::Explain(args) => explain::run(args),
        Command::Appraise(args) => appraise::run(args),
        Command::Reasons(args) => reason::print(args),
        Command::Revoke(args) => operate::revocation::revoke(args),
        Command::Revocations { command } => operate::revocation::run(command),
        Command::Admin { command } => operate::admin::run(command),
        Command::Keys { command } => operate::keys::run(command),
        Command::Audit { command } => operate::audit::run(command),
        Command::Status(args) => operate::status::run(args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
