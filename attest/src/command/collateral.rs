//! `coffer-attest collateral …`: filling the store of certificates and revocation lists, and looking at it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coffer_evidence::{Certificate, Family, VekExtensions, VekKind};
use serde_json::{Value, json};

use super::client::Client;
use super::text;
use crate::cli::{Access, ChipArgs, CollateralCommand};
use crate::collateral::bundle::{self, BundleError, MAX_FILE_BYTES, StoreName};
use crate::collateral::kds::{Answer, Kds};
use crate::collateral::key::{ChipTcb, Request, tcb_name};
use crate::failure::{Exit, Failure, OrFail};
use crate::layout::write_new;

const COLLATERAL: &str = "/coffer/v1/collateral";

/// Bytes and pieces of one call: well under what the route reads.
const CALL_BYTES: usize = 2 << 20;
const CALL_PIECES: usize = 256;
/// Files looked at below one folder, and how deep; more is another folder than was meant.
const MAX_FILES: usize = 100_000;
const MAX_DEPTH: u32 = 8;
/// How often a waiting `fetch` looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs one of them.
///
/// # Errors
/// What the service or this machine says.
pub fn run(command: &CollateralCommand) -> Result<(), Failure> {
    match command {
        CollateralCommand::Import { files, access } => import(files, access),
        CollateralCommand::Fetch { families, chip, wait, access } => fetch(families, chip, *wait, access),
        CollateralCommand::Status { access } => status(access),
        CollateralCommand::Download { to, families, chip, url, ca, json } => download(to, families, chip, url, ca, *json),
    }
}

/// A piece of a file, or why there is none.
struct Found {
    name: String,
    der: Result<Vec<u8>, String>,
}

fn import(files: &[PathBuf], access: &Access) -> Result<(), Failure> {
    let client = Client::new(access)?;
    let mut found = Vec::new();
    for path in files {
        for file in files_of(path)? {
            found.extend(pieces_of(&file)?);
        }
    }
    // Issuers first: a certificate is taken only if its chain leads to the root.
    found.sort_by_key(|piece| piece.der.as_deref().is_ok_and(is_leaf));
    let mut results = Vec::new();
    let mut call = Vec::new();
    let mut bytes = 0;
    for piece in found {
        match piece.der {
            Err(reason) => results.push(json!({ "name": piece.name, "outcome": "refused", "reason": reason })),
            Ok(der) => {
                if call.len() == CALL_PIECES || bytes + der.len() > CALL_BYTES {
                    send(&client, &mut call, &mut results)?;
                    bytes = 0;
                }
                bytes += der.len();
                call.push(json!({ "name": piece.name, "der": data_encoding::BASE64.encode(&der) }));
            }
        }
    }
    send(&client, &mut call, &mut results)?;
    report_import(access, results)
}

fn send(client: &Client, call: &mut Vec<Value>, results: &mut Vec<Value>) -> Result<(), Failure> {
    if call.is_empty() {
        return Ok(());
    }
    let body = json!({ "pieces": std::mem::take(call) }).to_string();
    let mut answer: Value = client.post(COLLATERAL, body.as_bytes())?;
    if let Some(pieces) = answer["pieces"].as_array_mut() {
        results.append(pieces);
    }
    Ok(())
}

fn report_import(access: &Access, results: Vec<Value>) -> Result<(), Failure> {
    let count = |outcome: &str| results.iter().filter(|piece| piece["outcome"] == outcome).count();
    let (new, known, refused) = (count("new"), count("known"), count("refused"));
    if access.json {
        println!("{}", json!({ "pieces": results }));
    } else {
        for piece in &results {
            let (outcome, name) = (text(&piece["outcome"]), text(&piece["name"]));
            match piece["reason"].as_str() {
                Some(reason) => println!("{outcome:8} {name}: {reason}"),
                None => println!("{outcome:8} {}  ({name})", text(&piece["what"])),
            }
        }
        println!("{new} new, {known} known, {refused} refused");
    }
    match (results.len(), refused) {
        (0, _) => Err(Failure::new("nothing to import: no file named holds anything")),
        (_, 0) => Ok(()),
        (all, refused) => Err(Failure::new(format!("{refused} of {all} pieces were refused, each for the reason above; the others count"))
            .exit(Exit::Refused)),
    }
}

/// Whether it is a VCEK or VLEK, by its own word.
fn is_leaf(der: &[u8]) -> bool {
    Certificate::from_der(der).is_ok_and(|certificate| VekKind::of(&certificate).is_some())
}

/// The file itself, or every file below a folder, in order of their names. Links are not followed.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let doing = format!("cannot read {}", path.display());
    if !fs::metadata(path).or_fail(&doing)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    let mut folders = vec![(path.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let doing = format!("cannot read {}", folder.display());
        for entry in fs::read_dir(&folder).or_fail(&doing)? {
            let entry = entry.or_fail(&doing)?;
            let kind = entry.file_type().or_fail(&doing)?;
            if kind.is_dir() && depth < MAX_DEPTH {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() {
                files.push(entry.path());
            }
            if files.len() + folders.len() > MAX_FILES {
                return Err(Failure::new(format!("{} holds more than {MAX_FILES} files", path.display())).hint("name the folder inside"));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn pieces_of(path: &Path) -> Result<Vec<Found>, Failure> {
    let name = path.display().to_string();
    let doing = format!("cannot read {name}");
    let refused = |reason: String| vec![Found { name: name.clone(), der: Err(reason) }];
    let length = fs::metadata(path).or_fail(&doing)?.len();
    if length > MAX_FILE_BYTES as u64 {
        return Ok(refused(BundleError::TooLarge { got: usize::try_from(length).unwrap_or(usize::MAX) }.to_string()));
    }
    let pieces = match bundle::split(&fs::read(path).or_fail(&doing)?) {
        Ok(pieces) => pieces,
        Err(error) => return Ok(refused(error.to_string())),
    };
    if let (Some(said), [der]) = (store_name(path), pieces.as_slice())
        && let Err(reason) = is_as_named(&said, der)
    {
        return Ok(refused(reason));
    }
    let several = pieces.len() > 1;
    let named = |(number, der)| {
        let name = if several { format!("{name} #{}", number + 1) } else { name.clone() };
        Found { name, der: Ok(der) }
    };
    Ok(pieces.into_iter().enumerate().map(named).collect())
}

/// What a path of a Trustee offline store says.
fn store_name(path: &Path) -> Option<StoreName> {
    let mut parts = path.components().rev().map(|part| part.as_os_str().to_str());
    let (file, chip, store) = (parts.next()??, parts.next()??, parts.next()??);
    StoreName::parse([store, chip, file])
}

/// A certificate under another chip's name is a mistake of whoever filled the store.
fn is_as_named(said: &StoreName, der: &[u8]) -> Result<(), String> {
    let certificate = Certificate::from_der(der).map_err(|e| e.to_string())?;
    let extensions = VekExtensions::of(&certificate).map_err(|e| e.to_string())?;
    let hwid = extensions.hwid.as_ref().map(coffer_evidence::Hwid::as_bytes).unwrap_or_default();
    if hwid != said.hwid {
        let hex = |bytes| data_encoding::HEXLOWER.encode(bytes);
        return Err(format!("is of chip {}, its path says {}", hex(hwid), hex(&said.hwid)));
    }
    match said.tcb {
        Some(tcb) if tcb != extensions.tcb => Err(format!("is for TCB {}, its name says {tcb}", extensions.tcb)),
        _ => Ok(()),
    }
}

/// What was asked for on the command line.
fn requests(families: &[Family], chip: &ChipArgs) -> Result<Vec<Request>, Failure> {
    if families.is_empty() {
        return Err(Failure::new("no family named").hint("--family milan, genoa or turin; `collateral status` has those in use"));
    }
    let mut requests = Vec::new();
    if let (Some(hex), Some(tcb)) = (&chip.chip, &chip.tcb) {
        let [family] = families else {
            return Err(Failure::new(format!("{} families named for one chip", families.len())).hint("name the chip's own"));
        };
        requests.push(Request::Vcek(ChipTcb::parse(*family, hex, tcb).or_fail("no such chip")?));
        return Ok(requests);
    }
    for family in families.iter().copied().collect::<BTreeSet<_>>() {
        requests.extend([Request::Chain(family, VekKind::Vcek), Request::Chain(family, VekKind::Vlek), Request::Crl(family)]);
    }
    Ok(requests)
}

fn fetch(families: &[Family], chip: &ChipArgs, wait: u64, access: &Access) -> Result<(), Failure> {
    let requests = requests(families, chip)?;
    let vceks = requests.iter().filter_map(|request| match request {
        Request::Vcek(key) => Some(json!({ "family": key.family(), "chip": key.chip(), "tcb": key.tcb() })),
        _ => None,
    });
    let vceks: Vec<Value> = vceks.collect();
    let families: Vec<&Family> = if vceks.is_empty() { families.iter().collect() } else { vec![] };
    let client = Client::new(access)?;
    let begun = Instant::now();
    let body = json!({ "families": families, "vceks": vceks }).to_string();
    let answer: Value = client.post(&format!("{COLLATERAL}/fetch"), body.as_bytes())?;
    let asked: Vec<String> = answer["asked"].as_array().into_iter().flatten().map(text).collect();
    loop {
        let status: Value = client.get(COLLATERAL)?;
        let fates: Vec<(&String, Fate)> = asked.iter().map(|what| (what, fate(&status["key_server"], what, begun))).collect();
        let waiting = fates.iter().any(|(_, fate)| matches!(fate, Fate::Waits(_)));
        if !waiting || begun.elapsed() >= Duration::from_secs(wait) {
            return report_fetch(access, &fates);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What became of one wish.
enum Fate {
    Fetched,
    /// With the last failure, if there was one.
    Waits(Option<String>),
    Failed(String),
}

fn fate(server: &Value, what: &str, begun: Instant) -> Fate {
    // The service counts whole seconds; what happened in the second before we asked is not ours, but says the same.
    let since = begun.elapsed().as_secs() + 1;
    let newest = |list: &str| {
        let mut entries = server[list].as_array().into_iter().flatten();
        entries.find(|entry| entry["what"] == what && entry["seconds_ago"].as_u64().is_some_and(|ago| ago <= since)).cloned()
    };
    let failed = newest("errors").map(|entry| text(&entry["why"]));
    let waits = server["waiting"].as_array().into_iter().flatten().any(|waiting| waiting == what);
    match (waits, newest("fetched").is_some(), failed) {
        (true, _, why) => Fate::Waits(why),
        (false, true, _) => Fate::Fetched,
        (false, false, why) => Fate::Failed(why.unwrap_or_else(|| "nothing is known of it; see the service's log".to_owned())),
    }
}

fn report_fetch(access: &Access, fates: &[(&String, Fate)]) -> Result<(), Failure> {
    let rows = fates.iter().map(|(what, fate)| match fate {
        Fate::Fetched => json!({ "what": what, "outcome": "fetched" }),
        Fate::Waits(why) => json!({ "what": what, "outcome": "waiting", "reason": why }),
        Fate::Failed(why) => json!({ "what": what, "outcome": "failed", "reason": why }),
    });
    let rows: Vec<Value> = rows.collect();
    if access.json {
        println!("{}", json!({ "fetched": rows }));
    } else {
        for row in &rows {
            let reason = row["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
            println!("{:8} {}{reason}", text(&row["outcome"]), text(&row["what"]));
        }
    }
    let open = rows.iter().filter(|row| row["outcome"] != "fetched").count();
    if open == 0 {
        return Ok(());
    }
    let failure = Failure::new(format!("{open} of {} were not fetched", rows.len())).exit(Exit::Refused);
    Err(failure.hint("what waits is fetched later by itself; `coffer-attest collateral status` shows it"))
}

fn status(access: &Access) -> Result<(), Failure> {
    let status: Value = Client::new(access)?.get(COLLATERAL)?;
    if access.json {
        println!("{status}");
        return Ok(());
    }
    for family in status["families"].as_array().into_iter().flatten() {
        println!("{}", family_lines(family));
    }
    println!("{}", server_lines(&status["key_server"]));
    for warning in status["warnings"].as_array().into_iter().flatten() {
        println!("warning: {}", text(warning));
    }
    Ok(())
}

fn family_lines(family: &Value) -> String {
    let mut lines = format!("{}: {} VCEKs, {} VLEKs", text(&family["family"]), family["vceks"], family["vleks"]);
    for issuer in family["issuers"].as_array().into_iter().flatten() {
        let (subject, source) = (text(&issuer["subject"]), text(&issuer["source"]));
        lines.push_str(&format!("\n  issuer {subject}, valid until {}, from {source}", text(&issuer["not_after"])));
    }
    let crl = &family["crl"];
    lines.push_str(&match crl.is_null() {
        true => "\n  no CRL".to_owned(),
        false => format!(
            "\n  CRL of {}, next update {}, {} revoked, from {}",
            text(&crl["this_update"]),
            text(&crl["next_update"]),
            crl["revoked"],
            text(&crl["source"])
        ),
    });
    for vek in family["expiring"].as_array().into_iter().flatten() {
        lines.push_str(&format!("\n  expires {}: {}", text(&vek["not_after"]), text(&vek["what"])));
    }
    lines
}

fn server_lines(server: &Value) -> String {
    let Some(url) = server["url"].as_str() else {
        return "key server: off; nothing is fetched ([kds] enabled = false)".to_owned();
    };
    let mut lines = format!("key server: {url}");
    if let Some(seconds) = server["paused_s"].as_u64() {
        lines.push_str(&format!(", left alone for {seconds} s"));
    }
    for what in server["waiting"].as_array().into_iter().flatten() {
        lines.push_str(&format!("\n  waiting: {}", text(what)));
    }
    for error in server["errors"].as_array().into_iter().flatten() {
        lines.push_str(&format!("\n  {} s ago: {}: {}", error["seconds_ago"], text(&error["what"]), text(&error["why"])));
    }
    lines
}

/// Fetches to files, on a machine that reaches the key server, for a service that does not.
fn download(to: &Path, families: &[Family], chip: &ChipArgs, url: &str, ca: &Path, as_json: bool) -> Result<(), Failure> {
    let kds = Kds::new(url, ca).or_fail("cannot use the key server")?;
    let requests = requests(families, chip)?;
    let mut files = Vec::new();
    for request in &requests {
        let bytes = match kds.get(request) {
            Answer::Found(bytes) => bytes,
            Answer::Absent => return Err(unavailable(request, "the server has no such thing")),
            Answer::Throttled(wait) => {
                let wait = wait.map_or_else(|| "a while".to_owned(), |wait| format!("{} s", wait.as_secs()));
                return Err(unavailable(request, &format!("too many requests; try again in {wait}")));
            }
            Answer::Unwell(why) => return Err(unavailable(request, &why)),
        };
        bundle::split(&bytes).or_fail(&format!("{request}: the answer"))?;
        let file = to.join(file_name(request));
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).or_fail(&format!("cannot make {}", folder.display()))?;
        }
        // A newer one takes the place of an older: the folder is a mirror.
        let beside = file.with_extension(format!("partial-{}", std::process::id()));
        write_new(&beside, 0o644, &bytes).or_fail("cannot write")?;
        fs::rename(&beside, &file).or_fail(&format!("cannot write {}", file.display()))?;
        if !as_json {
            println!("{request}: {}", file.display());
        }
        files.push(json!({ "what": request.to_string(), "file": file }));
    }
    if as_json {
        println!("{}", json!({ "files": files }));
    } else {
        println!("next: coffer-attest collateral import {} --dir SERVICE, where it verifies them", to.display());
    }
    Ok(())
}

/// Where it goes: VCEKs as in a Trustee offline store, the rest beside.
fn file_name(request: &Request) -> PathBuf {
    match request {
        Request::Vcek(key) => Path::new("vcek").join(key.chip()).join(format!("{}_vcek.der", tcb_name(&key.tcb()))),
        Request::Chain(family, VekKind::Vcek) => PathBuf::from(format!("{family}-vcek-chain.pem")),
        Request::Chain(family, VekKind::Vlek) => PathBuf::from(format!("{family}-vlek-chain.pem")),
        Request::Crl(family) => PathBuf::from(format!("{family}-crl.der")),
    }
}

fn unavailable(request: &Request, why: &str) -> Failure {
    Failure::new(format!("{request}: {why}")).exit(Exit::Unreachable)
}
