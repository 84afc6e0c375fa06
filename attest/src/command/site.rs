//! `coffer-attest site …`: the admin's commands, text for people and `--json` for programs.

use std::path::Path;

use coffer_evidence::HostData;
use coffer_manifest::EnrollmentFile;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::Client;
use super::{say, text, time};
use crate::cli::{Access, SiteCommand};
use crate::failure::{Failure, OrFail};
use crate::layout::read_private;

const SITES: &str = "/coffer/v1/sites";

/// Runs one of them.
///
/// # Errors
/// What the service or this machine says.
pub fn run(command: &SiteCommand) -> Result<(), Failure> {
    match command {
        SiteCommand::Enroll { file, accept_aml_risk, access } => enroll(file, *accept_aml_risk, access),
        SiteCommand::List { access } => list(access),
        SiteCommand::Show { site, access } => show(site, access),
        SiteCommand::Suspend { site, reason, access } => suspension(site, "suspend", reason, access),
        SiteCommand::Resume { site, reason, access } => suspension(site, "resume", reason, access),
        SiteCommand::Revoke { site, reason, access } => revoke(site, reason, access),
    }
}

/// `POST /coffer/v1/sites`, with the enrollment's own bytes.
#[derive(Serialize)]
struct EnrollCall<'a> {
    accept_aml_risk: bool,
    enrollment: &'a RawValue,
}

fn enroll(file: &Path, accept_aml_risk: bool, access: &Access) -> Result<(), Failure> {
    let doing = format!("cannot read the enrollment {}", file.display());
    let bytes = read_private(file).or_fail(&doing)?;
    let bytes = bytes.trim_ascii();
    EnrollmentFile::from_bytes(bytes).or_fail(&doing)?;
    let enrollment: &RawValue = serde_json::from_slice(bytes).or_fail(&doing)?;
    let body = serde_json::to_vec(&EnrollCall { accept_aml_risk, enrollment }).or_fail(&doing)?;
    let done: Value = Client::new(access)?.post(SITES, &zeroize::Zeroizing::new(body))?;
    say(access.json, &done, |done| format!("enrolled {}/{} {}", text(&done["project"]), text(&done["site"]), text(&done["host_data"])));
    Ok(())
}

fn list(access: &Access) -> Result<(), Failure> {
    let sites: Value = Client::new(access)?.get(SITES)?;
    say(access.json, &sites, |sites| {
        let rows = sites.as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter().map(site_line).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

fn show(site: &str, access: &Access) -> Result<(), Failure> {
    let shown: Value = Client::new(access)?.get(&site_path(site)?)?;
    say(access.json, &shown, |shown| {
        let of = |name: &str| shown[name].as_array().cloned().unwrap_or_default();
        let mut lines: Vec<String> = of("configs").iter().map(config_lines).collect();
        lines.push("instances with job tokens, newest first:".to_owned());
        lines.extend(of("instances").iter().map(instance_line));
        lines.push("decisions, newest first:".to_owned());
        lines.extend(of("decisions").iter().map(decision_line));
        lines.join("\n")
    });
    Ok(())
}

fn suspension(site: &str, verb: &str, reason: &str, access: &Access) -> Result<(), Failure> {
    let body = json!({ "reason": reason }).to_string();
    let done: Value = Client::new(access)?.post(&format!("{}/{verb}", site_path(site)?), body.as_bytes())?;
    let became = if done["suspended"] == true { "suspended" } else { "resumed" };
    say(access.json, &done, |done| format!("{became} {}/{}", text(&done["project"]), text(&done["site"])));
    Ok(())
}

/// Revokes a site's active config.
///
/// # Errors
/// What the service or this machine says.
pub fn revoke(site: &str, reason: &str, access: &Access) -> Result<(), Failure> {
    let client = Client::new(access)?;
    let (name, body) = match site.parse::<HostData>() {
        Ok(host_data) => (name_of(&client, host_data)?, json!({ "host_data": host_data, "reason": reason })),
        Err(_) => (site.to_owned(), json!({ "reason": reason })),
    };
    let done: Value = client.post(&format!("{}/revoke", site_path(&name)?), body.to_string().as_bytes())?;
    say(access.json, &done, |done| format!("revoked {}/{} {}", text(&done["project"]), text(&done["site"]), text(&done["host_data"])));
    Ok(())
}

/// The site a HOST_DATA is enrolled as.
fn name_of(client: &Client, host_data: HostData) -> Result<String, Failure> {
    let sites: Value = client.get(SITES)?;
    let wanted = Value::String(host_data.to_string());
    let mut records = sites.as_array().into_iter().flatten().map(|site| &site["record"]);
    records
        .find(|record| record["host_data"] == wanted)
        .map(|record| format!("{}/{}", text(&record["project"]), text(&record["site"])))
        .ok_or_else(|| Failure::new(format!("HOST_DATA {host_data} is not enrolled")).exit(crate::failure::Exit::Refused))
}

fn site_path(site: &str) -> Result<String, Failure> {
    let refuse = || Failure::new(format!("`{site}` is not `<project>/<site>`"));
    let (project, name) = site.split_once('/').ok_or_else(refuse)?;
    let project: coffer_manifest::ProjectName = project.parse().or_fail("no such site")?;
    let name: coffer_manifest::SiteName = name.parse().or_fail("no such site")?;
    Ok(format!("{SITES}/{project}/{name}"))
}

fn site_line(site: &Value) -> String {
    let record = &site["record"];
    let suspended = if site["suspended"].is_null() { "" } else { ", suspended" };
    let standing = text(&site["standing"]);
    format!("{}/{}  {standing}{suspended}  {}", text(&record["project"]), text(&record["site"]), text(&record["host_data"]))
}

fn config_lines(site: &Value) -> String {
    let record = &site["record"];
    let mut lines = site_line(site);
    let digests = record["launch_digests"].as_array().map_or(0, Vec::len);
    lines.push_str(&format!(
        "\n  role={} site_svn={} base_svn={} launch_digests={digests} aml={} token_expiration={}s",
        text(&record["role"]),
        record["site_svn"],
        record["base_svn"],
        text(&record["open_risks"]["aml"]),
        record["token_expiration"],
    ));
    lines.push_str(&format!("\n  enrolled at={} by={}", time(&site["enrolled_at"]), text(&site["enrolled_by"])));
    if let Some(asked) = asked_of_evidence(record) {
        lines.push_str(&format!("\n  asks {asked}"));
    }
    if site["standing"] == "superseded" {
        lines.push_str(&format!("\n  may run beside its successor until={}", time(&site["overlap_until"])));
    }
    if let Some(suspended) = site.get("suspended") {
        let (at, by, why) = (time(&suspended["at"]), text(&suspended["by"]), text(&suspended["reason"]));
        lines.push_str(&format!("\n  suspended at={at} by={by}: {why}"));
    }
    if site["standing"] == "revoked" {
        let (at, by, why) = (time(&site["revoked_at"]), text(&site["revoked_by"]), text(&site["revoked_why"]));
        lines.push_str(&format!("\n  revoked at={at} by={by}: {why}"));
    }
    lines
}

/// What a record asks of evidence besides its launch digests, if anything.
fn asked_of_evidence(record: &Value) -> Option<String> {
    let names = ["author_key_digest", "minimum_guest_svn", "chip_ids", "tcb_floor"];
    let asked = names.iter().filter(|name| !record[**name].is_null()).map(|name| format!("{name}={}", text(&record[*name])));
    let asked: Vec<_> = asked.collect();
    (!asked.is_empty()).then(|| asked.join(" "))
}

fn instance_line(instance: &Value) -> String {
    let (first, last) = (time(&instance["first_seen"]), time(&instance["last_seen"]));
    let node = instance.get("node_jkt").map_or_else(String::new, |jkt| format!(" node={}", text(jkt)));
    format!("  {} first={first} last={last}{node}", text(&instance["instance"]))
}

fn decision_line(entry: &Value) -> String {
    format!("  {} {} {} {} {}", time(&entry["at"]), text(&entry["event"]), text(&entry["code"]), text(&entry["id"]), text(&entry["detail"]))
}
