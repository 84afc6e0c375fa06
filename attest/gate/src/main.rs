//! Relying party in front of a Flower SuperLink: a site's connection passes while its lease is current.
//!
//! A connection goes through `listen` (bounds of `source`), `connection` (TLS and frames) and `admission` (`keys`, `clock`: token →
//! `proof`; `sites`: bounds; `flower`: its node key; `leases`) to `tunnel` or `flower`. What the key service says comes in by `service`
//! and ends leases by `withdrawn`. `control` (`status`, `cut`) and `metrics` look at all of it; `command` starts it, from `config`.
#![forbid(unsafe_code)]

mod admission;
mod attested;
mod cli;
mod clock;
mod command;
mod config;
mod connection;
mod control;
mod failure;
mod flower;
mod frames;
mod gate;
mod keys;
mod layout;
mod leases;
mod listen;
mod metrics;
mod openssh;
mod proof;
mod random;
mod rate;
mod reason;
mod service;
mod sites;
mod socket;
mod source;
mod state;
mod status;
mod tls;
mod tunnel;
mod withdrawn;

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
