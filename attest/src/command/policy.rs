//! `coffer-attest policy …`: text for people and `--json` for programs.

use std::fs;
use std::path::Path;

use coffer_manifest::{Enrollment, ProjectName};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::Client;
use super::{text, time};
use crate::cli::{Access, Owner, PolicyCommand};
use crate::failure::{Failure, OrFail};
use crate::layout::{private_folder, read_small, write_new};
use crate::policy::{PolicyDocument, export};

/// Runs one of them.
///
/// # Errors
/// What the service or this machine says.
pub fn run(command: &PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Show { owner, version, access } => show(owner, *version, access),
        PolicyCommand::Set { file, owner, replaces, reason, access } => set(file, owner, *replaces, reason, access),
        PolicyCommand::History { owner, access } => history(owner, access),
        PolicyCommand::DryRun { file, owner, last, access } => dry_run(file, owner, *last, access),
        PolicyCommand::Rollback { owner, to, replaces, reason, access } => rollback(owner, *to, *replaces, reason, access),
        PolicyCommand::Export { trustee: _, project, output, access } => export_trustee(project, output, access),
    }
}

fn path(owner: &Owner) -> String {
    owner.project.as_ref().map_or_else(|| "/coffer/v1/policy".to_owned(), policy_path)
}

fn policy_path(project: &ProjectName) -> String {
    format!("/coffer/v1/projects/{project}/policy")
}

/// The document alone goes to stdout, ready to be edited; where it comes from, to stderr.
fn show(owner: &Owner, version: Option<u64>, access: &Access) -> Result<(), Failure> {
    let path = version.map_or_else(|| path(owner), |version| format!("{}/versions/{version}", path(owner)));
    let shown: Value = Client::new(access)?.get(&path)?;
    if access.json {
        println!("{shown}");
        return Ok(());
    }
    eprintln!("coffer-attest: {}", origin(&shown));
    println!("{}", serde_json::to_string_pretty(&shown["document"]).or_fail("cannot show the document")?);
    Ok(())
}

fn origin(shown: &Value) -> String {
    let version = &shown["version"];
    match shown["source"].as_str() {
        Some("none") => "nobody has set a policy, so all evidence is refused; --replaces 0 sets the first".to_owned(),
        Some("default") if *version == 0 => {
            "the service's default policy, for the project has none of its own; --replaces 0 sets its first".to_owned()
        }
        _ => format!("version {version}, set at {} by {}: {}", time(&shown["set_at"]), text(&shown["set_by"]), text(&shown["reason"])),
    }
}

/// A document and what goes with it, with the document's own bytes.
#[derive(Serialize)]
struct SetCall<'a> {
    replaces: u64,
    reason: &'a str,
    document: &'a RawValue,
}

#[derive(Serialize)]
struct DryRunCall<'a> {
    last: u32,
    document: &'a RawValue,
}

fn document(file: &Path) -> Result<Box<RawValue>, Failure> {
    let doing = format!("cannot read the policy document {}", file.display());
    let bytes = read_small(file).or_fail(&doing)?;
    // Whatever the service would refuse is better said here, before anything is sent.
    PolicyDocument::read(&bytes).or_fail(&doing)?;
    serde_json::from_slice(&bytes).or_fail(&doing)
}

fn set(file: &Path, owner: &Owner, replaces: u64, reason: &str, access: &Access) -> Result<(), Failure> {
    let document = document(file)?;
    let body = serde_json::to_vec(&SetCall { replaces, reason, document: &document }).or_fail("cannot make a request")?;
    let done: Value = Client::new(access)?.post(&path(owner), &body)?;
    say_set(&done, access);
    Ok(())
}

fn rollback(owner: &Owner, to: u64, replaces: u64, reason: &str, access: &Access) -> Result<(), Failure> {
    let body = json!({ "to": to, "replaces": replaces, "reason": reason });
    let done: Value = Client::new(access)?.post(&format!("{}/rollback", path(owner)), body.to_string().as_bytes())?;
    say_set(&done, access);
    Ok(())
}

fn say_set(done: &Value, access: &Access) {
    if access.json {
        println!("{done}");
        return;
    }
    println!("version {} is in force", done["version"]);
    for line in weaker(done) {
        println!("{line}");
    }
}

fn weaker(done: &Value) -> Vec<String> {
    done["weaker"].as_array().into_iter().flatten().map(|line| format!("weaker: {}", text(line))).collect()
}

fn history(owner: &Owner, access: &Access) -> Result<(), Failure> {
    let versions: Value = Client::new(access)?.get(&format!("{}/history", path(owner)))?;
    if access.json {
        println!("{versions}");
        return Ok(());
    }
    for version in versions.as_array().into_iter().flatten() {
        let (at, by, why) = (time(&version["set_at"]), text(&version["set_by"]), text(&version["reason"]));
        println!("{}  {at}  {by}  sha256={}  {why}", version["version"], text(&version["sha256"]));
    }
    Ok(())
}

fn dry_run(file: &Path, owner: &Owner, last: u32, access: &Access) -> Result<(), Failure> {
    let document = document(file)?;
    let body = serde_json::to_vec(&DryRunCall { last, document: &document }).or_fail("cannot make a request")?;
    let run: Value = Client::new(access)?.post(&format!("{}/dry-run", path(owner)), &body)?;
    if access.json {
        println!("{run}");
        return Ok(());
    }
    for line in weaker(&run) {
        println!("{line}");
    }
    let changes = run["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    for change in changes {
        println!("{}", change_line(change));
    }
    println!("{} of {} decisions would come out otherwise; {} left out", changes.len(), run["made_again"], run["left_out"]);
    Ok(())
}

fn change_line(change: &Value) -> String {
    let site = match (change["project"].as_str(), change["site"].as_str()) {
        (Some(project), Some(site)) => format!("{project}/{site}"),
        _ => "(not enrolled)".to_owned(),
    };
    let (before, after) = (text(&change["before"]["code"]), text(&change["after"]["code"]));
    // Of a refusal and an acceptance, the refusal has something to say.
    let why = ["after", "before"].into_iter().find_map(|side| change[side]["detail"].as_str()).unwrap_or_default();
    format!("{}  {site}  {}  {before} -> {after}  {why}", text(&change["id"]), text(&change["asked"]))
}

fn export_trustee(project: &ProjectName, output: &Path, access: &Access) -> Result<(), Failure> {
    let doing = format!("cannot export the policy of {project}");
    let client = Client::new(access)?;
    let shown: Value = client.get(&policy_path(project))?;
    let document = PolicyDocument::parse(shown["document"].to_string().as_bytes()).or_fail(&doing)?;
    let sites: Vec<Value> = client.get("/coffer/v1/sites")?;
    let active = sites.iter().filter(|site| site["standing"] == "active" && site["record"]["project"] == project.as_str());
    let records: Vec<Enrollment> =
        active.map(|site| serde_json::from_value(site["record"].clone())).collect::<Result<_, _>>().or_fail(&doing)?;
    let files = export(project, shown["version"].as_u64().unwrap_or(0), &document, &records).or_fail(&doing)?;
    let folder = crate::layout::NewFolder::begin(output).or_fail(&doing)?;
    let dir = folder.layout().dir().to_owned();
    private_folder(&dir.join("reference-values")).or_fail(&doing)?;
    for file in &files {
        write_new(&dir.join(&file.name), 0o644, file.text.as_bytes()).or_fail(&doing)?;
    }
    let layout = folder.finish().or_fail(&doing)?;
    // Nothing in it is secret.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    for made in [layout.dir().to_owned(), layout.dir().join("reference-values")] {
        fs::set_permissions(&made, fs::Permissions::clone(&readable)).or_fail(&doing)?;
    }
    if access.json {
        let names: Vec<_> = files.iter().map(|file| &file.name).collect();
        println!("{}", json!({ "output": output.display().to_string(), "sites": records.len(), "files": names }));
    } else {
        println!("wrote {} files for {} sites to {}", files.len(), records.len(), output.display());
        println!("next: read {}: it says what a stock Trustee lets pass", output.join("README.md").display());
    }
    Ok(())
}
