//! Relying party in front of a Flower SuperLink: a site's connection passes while its lease is current.
//!
//! A connection goes through `guests` (bounds, TLS, frames) and `admission` (token → proof, bounds of its site, its node key, `leases`)
//! to `guests::tunnel` or `flower`. What the key service says comes in by `service` and ends leases by `leases::withdrawn`. `operator`
//! (`status`, `cut`, metrics) looks at all of it; `command` starts it, from `config`.
#![forbid(unsafe_code)]

mod admission;
mod cli;
mod command;
mod config;
mod failure;
mod flower;
mod gate;
mod guests;
mod layout;
mod leases;
mod operator;
mod random;
mod rate;
mod reason;
mod service;
mod state;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};

fn main() -> ExitCode {
    let done = match &Cli::parse().command {
        Command::Init(args) => command::init::run(args),
        Command::Serve(args) => command::serve::run(args),
        Command::Status(args) => command::status::run(args),
        Command::Cut(args) => command::cut::run(args),
        Command::Reasons => {
            print!("{}", reason::table());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
