//! `coffer-attest revoke …` and `coffer-attest revocations …`.

use std::path::Path;

use coffer_token::{Revocation, RevocationList, StatementKind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::offline::{self, Keys};
use super::{say, site, text, write_out};
use crate::cli::{Access, KeySource, RevocationsCommand, Revoke, RevokeKind};
use crate::clock::{rfc3339, unix_now};
use crate::failure::{Exit, Failure, OrFail};
use crate::layout::{Layout, read_bounded};

const REVOCATIONS: &str = "/coffer/v1/revocations";
/// An exported list of a hundred thousand revocations.
const MAX_LIST_BYTES: u64 = 256 << 20;
/// Whose name an import has in the audit log: the operator's, at the machine.
const IMPORTER: &str = "import";

/// Revokes one thing.
///
/// # Errors
/// What the service or this machine says.
pub fn revoke(args: &Revoke) -> Result<(), Failure> {
    let (path, body) = match args.kind {
        RevokeKind::Site => return site::revoke(&args.value, &args.reason, &args.access),
        RevokeKind::Admin => (format!("/coffer/v1/admins/{}/revoke", super::admin::name(&args.value)?), json!({ "reason": args.reason })),
        RevokeKind::Image => (REVOCATIONS.to_owned(), json!({ "kind": "image", "value": args.value, "reason": args.reason })),
        RevokeKind::Chip => (REVOCATIONS.to_owned(), json!({ "kind": "chip", "value": args.value, "reason": args.reason })),
        RevokeKind::Key => (REVOCATIONS.to_owned(), json!({ "kind": "key", "value": args.value, "reason": args.reason })),
    };
    let done: Value = Client::new(&args.access)?.post(&path, body.to_string().as_bytes())?;
    say(args.access.json, &done, |done| format!("revoked {} {}: number {}", text(&done["kind"]), text(&done["value"]), done["number"]));
    Ok(())
}

/// Runs one of `revocations …`.
///
/// # Errors
/// What the service or this machine says.
pub fn run(command: &RevocationsCommand) -> Result<(), Failure> {
    match command {
        RevocationsCommand::List { after, access } => list(*after, access),
        RevocationsCommand::Export { to, access } => export(to.as_deref(), access),
        RevocationsCommand::Verify { file, keys, min, json } => verify(file, keys, *min, *json),
        RevocationsCommand::Import { file, dir, jwks, json } => import(file, dir, jwks.as_deref(), *json),
    }
}

#[derive(Deserialize)]
struct Listed {
    number: u64,
    entries: Vec<Revocation>,
}

fn list(after: u64, access: &Access) -> Result<(), Failure> {
    let client = Client::new(access)?;
    let (mut entries, mut after) = (Vec::new(), after);
    // An answer holds a thousand numbers; those a project's admin is not shown are left out of it.
    let newest = loop {
        let page: Listed = client.get(&format!("{REVOCATIONS}?after={after}"))?;
        entries.extend(page.entries);
        after = after.saturating_add(coffer_token::MAX_REVOCATIONS_PER_LIST as u64);
        if after >= page.number {
            break page.number;
        }
    };
    say(access.json, &json!({ "number": newest, "entries": entries }), |_| entries.iter().map(line).collect::<Vec<_>>().join("\n"));
    Ok(())
}

fn line(entry: &Revocation) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let (name, by, reason) = (or_dash(&entry.name), or_dash(&entry.by), or_dash(&entry.reason));
    format!("{}  {}  {}  {}  {name}  by {by}: {reason}", entry.number, rfc3339(entry.at), entry.kind, entry.value)
}

fn export(to: Option<&Path>, access: &Access) -> Result<(), Failure> {
    let client = Client::new(access)?;
    let (mut lines, mut after) = (String::new(), 0_u64);
    let newest = loop {
        let page: Value = client.get(&format!("{REVOCATIONS}/export?after={after}"))?;
        let list = page["list"].as_str().ok_or_else(|| Failure::new("the service's answer has no list"))?;
        // Only for counting: whoever reads the file checks the signature.
        let stretch = unverified(list).or_fail("cannot read the service's list")?;
        lines.push_str(list);
        lines.push('\n');
        after = stretch.after.saturating_add(stretch.entries.len() as u64);
        if !stretch.has_more() || stretch.entries.is_empty() {
            break stretch.number;
        }
    };
    write_out(to, &lines)?;
    if let Some(to) = to {
        let done = json!({ "number": newest, "file": to.display().to_string() });
        say(access.json, &done, |_| {
            format!("{} holds revocations 1 to {newest}; after a restore: serve --min-revocation {newest}", to.display())
        });
    }
    Ok(())
}

fn unverified(list: &str) -> Result<RevocationList, String> {
    let payload = list.split('.').nth(1).ok_or("it is no compact JWS")?;
    let bytes = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).map_err(|e| e.to_string())?;
    serde_json::from_slice(&bytes).map_err(|e| e.to_string())
}

/// Checked stretches of one list, in order and without a gap.
fn read(file: &Path, keys: &Keys) -> Result<Vec<RevocationList>, Failure> {
    let doing = format!("cannot take {}", file.display());
    let bytes = read_bounded(file, MAX_LIST_BYTES).or_fail(&doing)?;
    let all = std::str::from_utf8(&bytes).or_fail(&doing)?;
    let mut lists: Vec<RevocationList> = Vec::new();
    for line in all.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let list: RevocationList = keys.check(line, StatementKind::Revocations).map_err(|e| {
            let failure = Failure::new(format!("{doing}: {e}"));
            match e {
                coffer_token::StatementError::UnknownKey { .. } => {
                    failure.hint("give the service's public keys of that time with --jwks; `keys export` writes them")
                }
                _ => failure,
            }
        })?;
        list.check_form().or_fail(&doing)?;
        let end = lists.last().map_or(0, |last| last.after + last.entries.len() as u64);
        if list.after != end {
            return Err(Failure::new(format!("{doing}: a stretch starts after {}, the one before it ends at {end}", list.after)));
        }
        if let Some(first) = lists.first().filter(|first| first.iss != list.iss) {
            return Err(Failure::new(format!("{doing}: stretches are of `{}` and `{}`", first.iss, list.iss)));
        }
        lists.push(list);
    }
    match lists.last() {
        None => Err(Failure::new(format!("{doing}: it is empty"))),
        Some(last) if last.has_more() => Err(Failure::new(format!(
            "{doing}: it ends at {}, the list goes up to {}",
            last.after + last.entries.len() as u64,
            last.number
        ))),
        Some(_) => Ok(lists),
    }
}

fn verify(file: &Path, source: &KeySource, min: u64, as_json: bool) -> Result<(), Failure> {
    let lists = read(file, &Keys::from(source)?)?;
    let (first, newest) = (&lists[0], lists.iter().map(|list| list.number).max().unwrap_or(0));
    if newest < min {
        let why = format!("{} goes up to {newest}, expected at least {min}", file.display());
        return Err(Failure::new(why).exit(Exit::Stale));
    }
    let signed_at = lists.iter().map(|list| list.iat).max().unwrap_or(0);
    let result = json!({ "number": newest, "iss": first.iss, "iat": signed_at });
    say(as_json, &result, |_| format!("whole: revocations 1 to {newest} of {}, signed {}", first.iss, rfc3339(signed_at)));
    Ok(())
}

fn import(file: &Path, dir: &Path, jwks: Option<&Path>, as_json: bool) -> Result<(), Failure> {
    let layout = Layout::new(dir);
    let mut store = offline::open(&layout)?;
    let keys = jwks.map_or_else(|| Keys::history(&store), Keys::file)?;
    let lists = read(file, &keys)?;
    let own = offline::issuer(&layout)?;
    if let Some(other) = lists.iter().find(|list| list.iss != own) {
        return Err(Failure::new(format!("{} is of `{}`, this service is `{own}`", file.display(), other.iss)));
    }
    let added = store.import_revocations(&lists, IMPORTER, unix_now()).or_fail(&format!("cannot take over {}", file.display()))?;
    let number = store.revocations().load().number();
    let result = json!({ "added": added, "number": number });
    say(as_json, &result, |_| format!("took over {added}; the database now goes up to revocation {number}"));
    Ok(())
}
