//! `coffer-attest keys …`: the keys that sign tokens, and the key file that seals everything.

use std::fs::{self, File};
use std::path::Path;

use coffer_token::Jwks;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::Client;
use super::{offline, say, text, write_out};
use crate::cli::{Access, KeysCommand};
use crate::clock::rfc3339;
use crate::failure::{Failure, OrFail};
use crate::kek::Kek;
use crate::layout::{Layout, write_new};

const KEYS: &str = "/coffer/v1/keys";
/// A relying party reads sets of 16.
const MAX_EXPORTED: usize = 16;

/// Runs one of them.
///
/// # Errors
/// What the service or this machine says.
pub fn run(command: &KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::List { access } => list(access),
        KeysCommand::Rotate { delay, access } => rotate(*delay, access),
        KeysCommand::Retire { kid, reason, access, .. } => retire(kid, reason, access),
        KeysCommand::Export { to, access } => export(to.as_deref(), access),
        KeysCommand::Rewrap { dir, new_kek } => rewrap(dir, new_kek.as_deref()),
    }
}

fn list(access: &Access) -> Result<(), Failure> {
    let answer: Value = Client::new(access)?.get(KEYS)?;
    say(access.json, &answer["keys"], |keys| keys.as_array().into_iter().flatten().map(line).collect::<Vec<_>>().join("\n"));
    Ok(())
}

fn line(key: &Value) -> String {
    let time = |name: &str| key[name].as_u64().map(rfc3339);
    let until = time("published_until").map_or_else(String::new, |until| format!("  published until {until}"));
    format!("{}  {:<8}  signs from {}{until}", text(&key["kid"]), text(&key["state"]), time("signs_from").unwrap_or_default())
}

fn rotate(delay: u64, access: &Access) -> Result<(), Failure> {
    let body = json!({ "delay_seconds": delay });
    let done: Value = Client::new(access)?.post(&format!("{KEYS}/rotate"), body.to_string().as_bytes())?;
    say(access.json, &done, |done| {
        format!("published {}; it signs from {}", text(&done["kid"]), done["signs_from"].as_u64().map(rfc3339).unwrap_or_default())
    });
    Ok(())
}

fn retire(kid: &str, reason: &str, access: &Access) -> Result<(), Failure> {
    let kid: coffer_token::Jkt = kid.parse().or_fail("no such key")?;
    let body = json!({ "reason": reason });
    let done: Value = Client::new(access)?.post(&format!("{KEYS}/{kid}/retire"), body.to_string().as_bytes())?;
    say(access.json, &done, |done| format!("retired {kid}: revocation {}; guests attest again", done["number"]));
    Ok(())
}

#[derive(Deserialize)]
struct Listed {
    history: Vec<Box<RawValue>>,
}

fn export(to: Option<&Path>, access: &Access) -> Result<(), Failure> {
    let doing = "cannot read the service's keys";
    let listed: Listed = Client::new(access)?.get(KEYS)?;
    let mut sets = Vec::new();
    for set in listed.history.iter().take(MAX_EXPORTED) {
        sets.push(Jwks::parse(set.get().as_bytes()).or_fail(doing)?);
    }
    let bytes = Jwks::union(&sets).and_then(|all| all.to_bytes()).or_fail(doing)?;
    write_out(to, &format!("{}\n", String::from_utf8_lossy(&bytes)))
}

/// The new key file lies beside the old one before anything is sealed under it, and takes its name afterwards: at every moment one
/// of the two opens the database.
fn rewrap(dir: &Path, new_kek: Option<&Path>) -> Result<(), Failure> {
    let layout = Layout::new(dir);
    let doing = "cannot change the key file";
    let mut store = offline::open(&layout)?;
    let new = match new_kek {
        Some(file) => Kek::read(file).or_fail(doing)?,
        None => Kek::generate().or_fail(doing)?,
    };
    // Left by a run that stopped before it changed the database, for the old file has just opened it.
    let _ = fs::remove_file(layout.next_kek());
    write_new(&layout.next_kek(), 0o600, new.expose()).or_fail(doing)?;
    let count = store.rewrap(new).or_fail(doing)?;
    drop(store);
    fs::rename(layout.next_kek(), layout.kek()).or_fail(doing)?;
    File::open(layout.dir()).and_then(|folder| folder.sync_all()).or_fail(doing)?;
    println!("sealed {count} secrets under a new key file; the old one opens nothing here any more");
    println!("next: back up {} apart from the database; old backups still need the old key file", layout.kek().display());
    Ok(())
}
