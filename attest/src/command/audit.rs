//! `coffer-attest audit …`: the head and the log, to be kept elsewhere and held against the database later.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use coffer_manifest::Sha256Digest;
use coffer_token::{AuditHead, StatementKind};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::audit_chain::{Chain, Kept, MAX_LINE_BYTES};
use super::client::Client;
use super::offline::{self, Keys};
use super::{say, text, write_out};
use crate::cli::{Access, AuditCommand};
use crate::clock::rfc3339;
use crate::failure::{Exit, Failure, OrFail};
use crate::layout::{Layout, read_small};
use crate::store::Store;

const AUDIT: &str = "/coffer/v1/audit";
/// Entries of a stopped service's log that are looked at in one go.
const BATCH: u32 = 1000;

/// Runs one of them.
///
/// # Errors
/// What the service or this machine says.
pub fn run(command: &AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Head { to, access } => head(to.as_deref(), access),
        AuditCommand::Export { from, to, access } => export(*from, to.as_deref(), access),
        AuditCommand::Verify { file, dir, head, jwks, json } => {
            verify(file.as_deref(), dir.as_deref(), head.as_deref(), jwks.as_deref(), *json)
        }
    }
}

fn head(to: Option<&Path>, access: &Access) -> Result<(), Failure> {
    let answer: Value = Client::new(access)?.get(&format!("{AUDIT}/head"))?;
    let statement = text(&answer["head"]);
    match to {
        Some(path) => {
            write_out(Some(path), &format!("{statement}\n"))?;
            say(access.json, &answer, |answer| format!("head {} {}", answer["seq"], text(&answer["digest"])));
        }
        None => say(access.json, &answer, |_| statement.clone()),
    }
    Ok(())
}

#[derive(Deserialize)]
struct Lines {
    lines: Vec<Box<RawValue>>,
    more: bool,
}

fn export(from: u64, to: Option<&Path>, access: &Access) -> Result<(), Failure> {
    let client = Client::new(access)?;
    let (mut all, mut after, mut count) = (String::new(), from.saturating_sub(1), 0_u64);
    loop {
        let page: Lines = client.get(&format!("{AUDIT}?after={after}"))?;
        for line in &page.lines {
            all.push_str(line.get());
            all.push('\n');
        }
        (after, count) = (after.saturating_add(page.lines.len() as u64), count + page.lines.len() as u64);
        if to.is_none() {
            print!("{all}");
            all.clear();
        }
        if !page.more {
            break;
        }
    }
    let Some(path) = to else { return Ok(()) };
    write_out(Some(path), &all)?;
    let done = json!({ "entries": count, "file": path.display().to_string() });
    say(access.json, &done, |_| format!("{count} entries in {}", path.display()));
    Ok(())
}

fn verify(file: Option<&Path>, dir: Option<&Path>, head: Option<&Path>, jwks: Option<&Path>, as_json: bool) -> Result<(), Failure> {
    let store = dir.map(|dir| offline::open(&Layout::new(dir))).transpose()?;
    let kept = head.map(|head| read_head(head, jwks, store.as_ref())).transpose()?;
    let chain = Chain::expecting(kept);
    let (first, last, digest) = match (&store, file) {
        (Some(store), _) => of_store(store, chain)?,
        (None, Some(file)) => of_file(file, chain)?,
        (None, None) => return Err(Failure::new("no log named").hint("give a file, or --dir")),
    };
    let result = json!({ "first": first, "last": last, "digest": digest, "head": kept.map(|(seq, _)| seq) });
    say(as_json, &result, |_| {
        let against = kept.map_or_else(
            || "; a missing end shows only against a kept head: --head".to_owned(),
            |(seq, _)| format!("; contains the kept head, entry {seq}"),
        );
        format!("whole: entries {first} to {last}, {digest}{against}")
    });
    Ok(())
}

/// A kept head, whose signature holds.
///
/// # Errors
/// A file that does not read, keys that are not known.
pub fn read_head(path: &Path, jwks: Option<&Path>, store: Option<&Store>) -> Result<Kept, Failure> {
    let doing = format!("cannot use the head {}", path.display());
    let keys = match (jwks, store) {
        (Some(file), _) => Keys::file(file)?,
        (None, Some(store)) => Keys::history(store)?,
        (None, None) => {
            return Err(Failure::new(format!("{doing}: nothing to check its signature with"))
                .hint("give the service's public keys with --jwks; `keys export` writes them"));
        }
    };
    let bytes = read_small(path).or_fail(&doing)?;
    let head: AuditHead = keys.check(std::str::from_utf8(&bytes).or_fail(&doing)?, StatementKind::AuditHead).map_err(|e| {
        let failure = Failure::new(format!("{doing}: {e}"));
        match e {
            coffer_token::StatementError::UnknownKey { .. } if jwks.is_none() => failure
                .exit(Exit::Stale)
                .hint("a database that does not know the key of its own head is an older copy; restore a newer backup"),
            _ => failure,
        }
    })?;
    tracing::debug!(seq = head.seq, at = %rfc3339(head.at), "kept head");
    Ok((head.seq, Sha256Digest::new(head.digest.0)))
}

fn of_store(store: &Store, mut chain: Chain) -> Result<(u64, u64, Sha256Digest), Failure> {
    let mut after = 0;
    loop {
        let lines = store.audit_lines(after, BATCH).or_fail("cannot read the audit log")?;
        for line in &lines {
            chain.push(line).map_err(Failure::new)?;
        }
        after += lines.len() as u64;
        if lines.len() < BATCH as usize {
            return chain.finish().map_err(Failure::new);
        }
    }
}

fn of_file(path: &Path, mut chain: Chain) -> Result<(u64, u64, Sha256Digest), Failure> {
    let doing = format!("cannot read {}", path.display());
    let broken = |e: super::audit_chain::ChainError| Failure::new(format!("{}: {e}", path.display()));
    let mut reader = BufReader::new(File::open(path).or_fail(&doing)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line).or_fail(&doing)?;
        if read == 0 {
            return chain.finish().map_err(broken);
        }
        if read > MAX_LINE_BYTES {
            return Err(Failure::new(format!("{doing}: a line is longer than {MAX_LINE_BYTES} bytes")));
        }
        let text = std::str::from_utf8(line.trim_ascii()).or_fail(&doing)?;
        if !text.is_empty() {
            chain.push(text).map_err(broken)?;
        }
    }
}
