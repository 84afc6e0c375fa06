//! `coffer-attest admin …`: keys are made where the admin sits, the service learns public halves.

use std::path::{Path, PathBuf};

use coffer_manifest::ProjectName;
use coffer_token::admin::{AdminKey, AdminSigner};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::client::Client;
use super::{offline, say, text, time};
use crate::cli::{Access, AdminCommand, Bearer};
use crate::clock::{rfc3339, unix_now};
use crate::failure::{Failure, OrFail};
use crate::kek::random;
use crate::layout::{Layout, read_small, write_new};
use crate::store::{Admin, Scope, check_name};

const ADMINS: &str = "/coffer/v1/admins";

/// Runs one of them.
///
/// # Errors
/// What the service or this machine says.
pub fn run(command: &AdminCommand) -> Result<(), Failure> {
    match command {
        AdminCommand::NewKey { file } => new_key(file),
        AdminCommand::Add { name, public_key, scopes, project, access } => add(name, public_key, scopes, project.as_deref(), access),
        AdminCommand::Bearer(args) => bearer(args),
        AdminCommand::List { access } => list(access),
        AdminCommand::Recover { name, public_key, revoke, dir } => recover(name, public_key, revoke, dir),
    }
}

/// A name that can stand in a path.
///
/// # Errors
/// One that no admin has.
pub fn name(name: &str) -> Result<&str, Failure> {
    check_name(name).map_err(Failure::new)?;
    Ok(name)
}

fn new_key(file: &Path) -> Result<(), Failure> {
    let doing = "cannot make a key";
    let key = AdminSigner::from_random(&Zeroizing::new(random().or_fail(doing)?)).or_fail(doing)?;
    let public = key.public();
    let mut public_file = file.as_os_str().to_owned();
    public_file.push(".pub");
    let public_file = PathBuf::from(public_file);
    write_new(file, 0o600, key.expose_pem().or_fail(doing)?.as_bytes()).or_fail(doing)?;
    write_new(&public_file, 0o644, public.to_pem().or_fail(doing)?.as_bytes()).or_fail(doing)?;
    println!("key         {} (0600; it never leaves this machine)", file.display());
    println!("public half {}", public_file.display());
    println!("id          {}", public.id());
    println!("next: an admin runs coffer-attest admin add NAME --public-key {} --scopes SCOPES", public_file.display());
    Ok(())
}

/// The token alone goes to stdout: `kbs-client config --admin-token-file` wants it in a file.
fn bearer(args: &Bearer) -> Result<(), Failure> {
    let body = json!({ "scopes": args.scope, "ttl_seconds": args.ttl });
    let path = format!("/coffer/v1/projects/{}/bearer", args.project);
    let issued: Value = Client::new(&args.access)?.post(&path, body.to_string().as_bytes())?;
    if args.access.json {
        println!("{issued}");
    } else {
        eprintln!(
            "coffer-attest: bearer token {} for project {}, until {}",
            text(&issued["id"]),
            args.project,
            time(&issued["expires_at"])
        );
        println!("{}", text(&issued["token"]));
    }
    Ok(())
}

fn public_key(file: &Path) -> Result<AdminKey, Failure> {
    let doing = format!("cannot use the public key {}", file.display());
    let bytes = read_small(file).or_fail(&doing)?;
    AdminKey::from_pem(std::str::from_utf8(&bytes).or_fail(&doing)?)
        .or_fail(&doing)
        .map_err(|failure| failure.hint("`coffer-attest admin new-key` writes it beside the private key, as FILE.pub"))
}

fn add(name: &str, file: &Path, scopes: &[Scope], project: Option<&str>, access: &Access) -> Result<(), Failure> {
    check_name(name).map_err(Failure::new)?;
    let project: Option<ProjectName> = project.map(str::parse).transpose().or_fail("no such project")?;
    let public_key = public_key(file)?.to_pem().or_fail("cannot use the public key")?;
    let mut body = json!({ "name": name, "public_key": public_key, "scopes": scopes });
    if let Some(project) = project {
        body["project"] = json!(project);
    }
    let done: Value = Client::new(access)?.post(ADMINS, body.to_string().as_bytes())?;
    say(access.json, &done, |done| format!("added {}", line(done)));
    Ok(())
}

fn list(access: &Access) -> Result<(), Failure> {
    let admins: Value = Client::new(access)?.get(ADMINS)?;
    say(access.json, &admins, |admins| admins.as_array().into_iter().flatten().map(line).collect::<Vec<_>>().join("\n"));
    Ok(())
}

fn line(admin: &Value) -> String {
    let scopes = admin["scopes"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(",");
    let place = admin["project"].as_str().map_or_else(|| "whole service".to_owned(), |project| format!("project {project}"));
    let standing = admin["revoked_at"].as_u64().map_or_else(|| "active".to_owned(), |at| format!("revoked {}", rfc3339(at)));
    format!("{}  {standing}  {place}  {scopes}  {}", text(&admin["name"]), text(&admin["kid"]))
}

/// The database is on this machine, and so is the key file: whoever can run this owns the service already.
fn recover(name: &str, file: &Path, revoke: &[String], dir: &Path) -> Result<(), Failure> {
    let key = public_key(file)?;
    let mut store = offline::open(&Layout::new(dir))?;
    let now = unix_now();
    let admin = Admin {
        kid: key.id().to_string(),
        name: name.to_owned(),
        public: key.to_pem().or_fail("cannot use the public key")?,
        scopes: Scope::ALL.to_vec(),
        project: None,
        added_at: now,
        added_by: "recover".to_owned(),
        revoked_at: None,
    };
    store.recover_admin(&admin, revoke, now).or_fail("cannot register the admin")?;
    println!("added {name} with every scope{}", if revoke.is_empty() { String::new() } else { format!("; revoked {}", revoke.join(", ")) });
    Ok(())
}
