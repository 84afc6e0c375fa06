//! `coffer`: builds bases and per-site confidential-VM bundles, and says what a bundle holds.
//!
//! One screen: read the command line, do what it asks, print what went wrong once.
#![forbid(unsafe_code)]

mod author_key;
mod base;
mod build;
mod cli;
mod failure;
mod fault;
mod inspect;
mod logs;
mod memory;
mod plan;
mod spec;
mod ui;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("coffer: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
