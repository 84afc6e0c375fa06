//! `coffer-attest status`.

use serde_json::Value;

use super::client::Client;
use super::{say, text};
use crate::cli::Status;
use crate::clock::rfc3339;
use crate::failure::Failure;

/// Asks the service and prints.
///
/// # Errors
/// What the service or this machine says.
pub fn run(args: &Status) -> Result<(), Failure> {
    let status: Value = Client::new(&args.access)?.get("/coffer/v1/status")?;
    say(args.access.json, &status, render);
    Ok(())
}

fn render(status: &Value) -> String {
    let mut lines = vec![
        format!("version        {}", text(&status["version"])),
        format!("root of trust  {}", text(&status["root_of_trust"])),
        format!("issuer         {}", text(&status["issuer"])),
        format!("running since  {}", status["started_at"].as_u64().map(rfc3339).unwrap_or_default()),
        format!("audit head     {} {}", status["audit"]["seq"], text(&status["audit"]["digest"])),
        format!("revocations    {}", status["revocation"]),
        format!("withdrawals    {} ({} wait for the next)", status["withdrawal"], status["waiting"]),
        format!("suspended      {}", status["suspended"]),
    ];
    for key in status["token_keys"].as_array().into_iter().flatten() {
        lines.push(format!("token key      {} {}", text(&key["kid"]), text(&key["state"])));
    }
    for (code, count) in status["refusals"].as_object().into_iter().flatten() {
        lines.push(format!("refused        {count:>8}  {code}"));
    }
    lines.join("\n")
}
