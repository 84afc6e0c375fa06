//! `coffer-gate status`.

use super::{asked, unexpected};
use crate::cli;
use crate::failure::{Failure, OrFail};
use crate::operator::{Request, Response};

/// Prints a snapshot of the running gate.
///
/// # Errors
/// If none answers.
pub fn run(args: &cli::Status) -> Result<(), Failure> {
    let Response::Status(status) = asked(&args.dir, &Request::Status)? else { return Err(unexpected()) };
    if args.json {
        println!("{}", serde_json::to_string(&status).or_fail("cannot print")?);
    } else {
        print!("{}", status.text());
    }
    Ok(())
}
