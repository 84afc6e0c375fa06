//! `coffer-gate cut`.

use serde_json::json;

use super::{asked, unexpected};
use crate::cli;
use crate::failure::Failure;
use crate::operator::{Request, Response};

/// Keeps a site out, or lets it in again.
///
/// # Errors
/// If no gate answers, or it refuses.
pub fn run(args: &cli::Cut) -> Result<(), Failure> {
    let (site, seconds) = (args.site.clone(), args.time.as_secs());
    let request = if args.lift { Request::Lift { site } } else { Request::Cut { site, seconds } };
    let Response::Done { was } = asked(&args.dir, &request)? else { return Err(unexpected()) };
    let site = &args.site;
    if args.json {
        let done = if args.lift {
            json!({ "lifted": site, "was_out": was })
        } else {
            json!({ "cut": site, "seconds": seconds, "was_leased": was })
        };
        println!("{done}");
        return Ok(());
    }
    match (args.lift, was) {
        (true, true) => println!("{site} may come in again"),
        (true, false) => println!("{site} was not kept out"),
        (false, true) => println!("{site} is cut, and kept out for {seconds} s; --lift lets it in again"),
        (false, false) => println!("{site} had no lease, and is kept out for {seconds} s; --lift lets it in again"),
    }
    Ok(())
}
