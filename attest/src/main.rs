//! Attestation service: verifier, key broker, token issuer.
#![forbid(unsafe_code)]

mod bounded;
mod cli;
mod clock;
mod collateral;
mod command;
mod config;
mod confine;
mod failure;
mod http;
mod judge;
mod kek;
mod layout;
mod live;
mod memory;
mod net;
mod policy;
mod reason;
mod revocation;
mod session;
mod source;
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
        Command::Init(args) => command::init::run(args),
        Command::Serve(args) => command::serve::run(args),
        Command::Site { command } => command::site::run(command),
        Command::Policy { command } => command::policy::run(command),
        Command::Collateral { command } => command::collateral::run(command),
        Command::Explain(args) => command::explain::run(args),
        Command::GateSettings(args) => command::gate_settings::run(args),
        Command::Appraise(args) => command::appraise::run(args),
        Command::Reasons(args) => reason::print(args),
        Command::Revoke(args) => command::revocation::revoke(args),
        Command::Revocations { command } => command::revocation::run(command),
        Command::Admin { command } => command::admin::run(command),
        Command::Keys { command } => command::keys::run(command),
        Command::Audit { command } => command::audit::run(command),
        Command::Status(args) => command::status::run(args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
