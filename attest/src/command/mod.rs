//! What each command does: one file a command, the same names as in `cli`, and what several of them need.

pub mod admin;
pub mod appraise;
pub mod audit;
mod audit_chain;
mod client;
pub mod collateral;
pub mod explain;
pub mod gate_settings;
pub mod init;
pub mod keys;
mod offline;
pub mod policy;
pub mod revocation;
pub mod serve;
pub mod site;
pub mod status;

use std::path::Path;

use serde_json::Value;

use crate::clock::rfc3339;
use crate::failure::{Failure, OrFail};
use crate::layout::replace;

/// Prints a result: JSON for programs, text for people.
fn say(json: bool, value: &Value, as_text: impl FnOnce(&Value) -> String) {
    let text = if json { value.to_string() } else { as_text(value) };
    if !text.is_empty() {
        println!("{text}");
    }
}

/// To a file, replaced as a whole, or to the terminal.
fn write_out(to: Option<&Path>, text: &str) -> Result<(), Failure> {
    match to {
        Some(path) => replace(path, 0o644, text.as_bytes()).or_fail("cannot write the result"),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

/// A member as bare text.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A member that holds Unix seconds, as people read times.
fn time(value: &Value) -> String {
    value.as_u64().map_or_else(|| text(value), rfc3339)
}
