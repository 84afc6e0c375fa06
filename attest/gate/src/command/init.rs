//! `coffer-gate init`: a new gate folder, complete or not there at all.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli;
use crate::config::{Config, Initial, Service};
use crate::failure::{Failure, OrFail};
use crate::guests::tls::{certificates, make_authority};
use crate::layout::{Layout, NewFolder, read_small, write_new};

/// What a settings table on stdin may be long, in bytes.
const MAX_STDIN_BYTES: u64 = 1 << 20;

/// Makes the folder and says what it holds.
///
/// # Errors
/// Whatever keeps the folder from being made; nothing is left then.
pub fn run(args: &cli::Init) -> Result<(), Failure> {
    let (mut service, base) = read_service(&args.service)?;
    let ca = base.join(&service.ca);
    // Makes sure that it is one before it is copied.
    certificates(&ca).or_fail("cannot use the key service's `ca`")?;
    let ca_bytes = read_small(&ca).or_fail("cannot use the key service's `ca`")?;
    service.ca = Layout::service_ca_name().into();
    let initial =
        Initial { name: &args.name, listen: args.listen, check_frequency: args.check_frequency, fleet: &args.fleet, service: &service };
    initial.check("the command line").or_fail("cannot make a gate")?;
    let folder = NewFolder::begin(&args.dir).or_fail("cannot make a gate")?;
    let layout = folder.layout();
    make_authority(&layout, &args.name).or_fail("cannot make the certificates")?;
    write_new(&layout.dir().join(&service.ca), 0o644, &ca_bytes).or_fail("cannot copy the key service's `ca`")?;
    write_new(&layout.config(), 0o600, initial.text().as_bytes()).or_fail("cannot write the settings")?;
    Config::read(&layout.config(), layout.dir()).or_fail("cannot read back the settings")?;
    let layout = folder.finish().or_fail("cannot make a gate")?;
    report(args, &layout, &service);
    Ok(())
}

/// The table, and what its paths are relative to.
fn read_service(from: &Path) -> Result<(Service, PathBuf), Failure> {
    let doing = "cannot read what the key service's `gate-settings` printed";
    let (shown, bytes, base) = if from == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().take(MAX_STDIN_BYTES).read_to_end(&mut bytes).or_fail(doing)?;
        ("stdin".to_owned(), bytes, PathBuf::new())
    } else {
        let base = from.parent().unwrap_or(Path::new("")).to_owned();
        let bytes = read_small(from).or_fail(doing);
        let bytes =
            bytes.map_err(|failure| failure.hint_without(from, "`coffer-attest gate-settings --project NAME … > FILE` makes it"))?;
        (from.display().to_string(), bytes.to_vec(), base)
    };
    let text = std::str::from_utf8(&bytes).or_fail(doing)?;
    Ok((Service::parse(&shown, text).or_fail(doing)?, base))
}

fn report(args: &cli::Init, layout: &Layout, service: &Service) {
    let (dir, config, ca) = (layout.dir().display(), layout.config().display().to_string(), layout.ca().display().to_string());
    if args.json {
        let result = json!({
            "dir": dir.to_string(),
            "config": config,
            "tls_ca": ca,
            "tls_name": args.name,
            "project": service.project,
            "root_of_trust": service.root_of_trust,
        });
        println!("{result}");
        return;
    }
    println!("root of trust  {}", service.root_of_trust);
    println!("settings       {config}");
    println!("CA to pin      {ca} (project.yml: gate.ca)");
    println!("its key        {} (back it up with the folder; sites pin the CA)", layout.ca_key().display());
    println!("next: coffer-gate serve --dir {dir}");
}
