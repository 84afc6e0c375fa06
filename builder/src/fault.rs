//! What can be wrong with a `cc_*.yml` or a `project.yml`: one variant per rule, each with both values. A flat table.

use std::path::PathBuf;

use serde_saphyr::Error as YamlError;

use crate::failure::{Exit, Hint};
use crate::spec::Source;

/// One wrong thing in one file.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {}", file.display(), on_one_line(&format!("{field}: {fault}")))]
pub struct SpecError {
    /// As given on the command line.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: u64,
    /// Path of the field, for example `cc_attestation.check_frequency`.
    pub field: String,
    /// What is wrong.
    pub fault: Fault,
}

impl Hint for SpecError {
    fn hint(&self) -> Option<String> {
        self.fault.hint(&self.field)
    }

    fn exit(&self) -> Exit {
        Exit::Input
    }
}

/// Keys and values of a file may hold any characters; those that would break the line, or move a terminal's cursor, are escaped.
fn on_one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    })
}

/// The rules.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    #[error("cannot be read: {error}")]
    Unreadable { error: String },
    #[error("is {got} bytes long, at most {most} are read")]
    SpecTooLong { got: u64, most: u64 },
    #[error("is not YAML: {error}")]
    Yaml { error: String },
    #[error("holds more than one YAML document")]
    Documents,
    #[error("merge keys (`<<`) are not read")]
    MergeKey,
    #[error("is empty")]
    EmptyFile,
    #[error("the key `{key}` is given twice")]
    Repeated { key: String },
    #[error("unknown key `{got}`, expected one of {expected}")]
    UnknownKey { got: String, expected: String },
    #[error("the key `{key}` is missing")]
    Missing { key: String },
    #[error("got `{got}`, expected {expected}")]
    WrongType { got: String, expected: String },
    #[error("got `{got}`, expected {expected}")]
    NotOneOf { got: String, expected: &'static str },
    #[error("got `{got}`, this build makes only `onprem_cvm`")]
    ComputeEnv { got: String },
    #[error("got `{got}`, this build knows only `amd_sev_snp`")]
    CpuMechanism { got: String },
    #[error("got {got}{unit}, expected {least} to {most}{unit}")]
    OutOfRange { got: u64, least: u64, most: u64, unit: &'static str },
    #[error("got port {got}, expected 1 to 65535")]
    Port { got: u64 },
    #[error("port {got} is listed twice")]
    PortTwice { got: u64 },
    #[error("got {got} entries, expected at most {most}")]
    TooMany { got: usize, most: usize },
    #[error("got {expiration} s, which is not less than check_frequency, {frequency} s")]
    ExpirationTooLong { expiration: u64, frequency: u64 },
    #[error("`{got}` is not a path")]
    EmptyPath { got: String },
    #[error("`{got}` cannot be expanded: only `~` and `~/…` are, and only where HOME is set")]
    NoHome { got: String },
    #[error("no such file: {}", path.display())]
    NoFile { path: PathBuf },
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("no such directory: {}", path.display())]
    NoDirectory { path: PathBuf },
    #[error("{} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("`{got}` is not a folder name: 1 to 63 of A-Z, a-z, 0-9, `.`, `_` and `-`, not starting with a dot")]
    FolderName { got: String },
    #[error("{} holds a private key ({found}), and user_config is not encrypted", path.display())]
    PrivateKey { path: PathBuf, found: &'static str },
    #[error("the name of {} is not UTF-8", path.display())]
    FileName { path: PathBuf },
    #[error("{} is neither a regular file nor a directory", path.display())]
    SpecialFile { path: PathBuf },
    #[error("{}: {error}", path.display())]
    Walk { path: PathBuf, error: String },
    #[error("`{got}` is not an absolute, plain path in the container: no `.`, `..` or `//`, no trailing `/`")]
    KitPath { got: String },
    #[error("`{got}` lies in `{taken}`, which the guest itself provides")]
    KitPathTaken { got: String, taken: &'static str },
    #[error("`{got}` lies inside `{outer}`, another kit")]
    KitNested { got: String, outer: String },
    #[error("kits hold {got} bytes, at most {most} fit")]
    KitTooLarge { got: u64, most: u64 },
    #[error("`{got}` is not a host name")]
    HostName { got: String },
    #[error("`{got}` is not an IP address")]
    Address { got: String },
    #[error("`{got}` is not the name of an environment variable")]
    EnvName { got: String },
    #[error("holds a NUL byte or is longer than {most} bytes")]
    Text { most: usize },
    #[error("has no elements")]
    Empty,
    #[error("the first element is empty")]
    EmptyProgram,
    #[error("{error}")]
    Name { error: String },
    #[error("the file's name `{got}` does not say which site this is: it is not `cc_<site>.yml`")]
    NoSiteName { got: String },
    #[error("site `{site}` is also described by {}", other.display())]
    SiteTwice { site: String, other: PathBuf },
    #[error("`{got}` is not `https://<host>:<port>`")]
    Url { got: String },
    #[error("`{got}` is not `<host>:<port>`")]
    HostAndPort { got: String },
    #[error("got `{got}`, a gate takes only the job tokens of `coffer`")]
    GateNeedsCoffer { got: String },
    #[error("got `{got}`, but the name is project.yml's gate.workload.name and means 127.0.0.1")]
    GateName { got: String },
    #[error("got port {got}, which is project.yml's gate.workload.port on the guest's loopback")]
    GatePort { got: u64 },
    #[error("got {got} certificates, expected 1 to {most}")]
    CaCount { got: usize, most: usize },
    #[error("{} is not a PEM certificate: {why}", path.display())]
    Certificate { path: PathBuf, why: &'static str },
    #[error("{} is not an author key: {why}", path.display())]
    AuthorKey { path: PathBuf, why: String },
    #[error("{} has mode {mode:04o}, a private key file must have 0600", path.display())]
    AuthorKeyMode { path: PathBuf, mode: u32 },
    #[error("`{got}` is not a chip id: 128 lower-case hexadecimal digits")]
    ChipId { got: String },
    #[error("is zero, which is what reports say where the chip is hidden")]
    ChipHidden,
    #[error("is listed twice")]
    ChipTwice,
    #[error("the base is simulated, but no `simulator_ark` is given")]
    ArkMissing,
    #[error("`simulator_ark` is given, but the base's root of trust is amd-sev-snp")]
    ArkUnwanted,
}

impl Fault {
    /// What the reader can do about it.
    fn hint(&self, field: &str) -> Option<String> {
        let text = match self {
            Self::UnknownKey { got, expected } => return near(got, expected),
            Self::Missing { key } if field.starts_with("gate") => return Some(missing_of_gate(key).to_owned()),
            Self::Missing { key } => return Some(missing(key).to_owned()),
            Self::WrongType { .. } if field.ends_with("_drive_size") => "drive sizes are whole GiB, for example 30",
            Self::WrongType { .. } if field.starts_with("allowed_") => "ports are a list, one `- 8002` per line",
            Self::WrongType { .. } if field.ends_with("command") => {
                "give the program and its arguments as a list: `command: [python3, -m, flwr]`"
            }
            Self::WrongType { .. } if field == "gate.addresses" => "a list, even of one: `addresses: [gate.example.org:9443]`",
            Self::WrongType { .. } if field == "gate.attested" => {
                "true for a gate that runs in a confidential VM itself; leave it out else"
            }
            Self::WrongType { .. } => "builder/README.md shows each field with an example",
            Self::NotOneOf { .. } if field == "role" => {
                "a participant that trains is a client; the aggregator is a superlink in a Flower federation, else a server"
            }
            Self::NotOneOf { .. } if field.ends_with("failure_action") => "leave it out for `stop_job`",
            Self::NotOneOf { .. } if field.starts_with("cc_gpu") => "leave it out for a site without a confidential GPU",
            Self::NotOneOf { .. } => "`coffer` is this project's coffer-attest, `trustee` a stock Trustee",
            Self::Unreadable { .. } if field == "file" => "give the path of a cc_<site>.yml; `--project FILE` names another project.yml",
            Self::SpecTooLong { .. } => "a cc_*.yml is a few kilobytes; is this one an archive?",
            Self::Yaml { .. } => "keys of one level start in the same column; use spaces, not tabs",
            Self::Documents => "write one site, or one project, per file",
            Self::MergeKey => "write the values out",
            Self::EmptyFile => "builder/README.md shows what belongs into it",
            Self::FileName { .. } => "rename it",
            Self::Repeated { .. } => "keep one of them: later keys do not override earlier ones",
            Self::ComputeEnv { .. } => {
                "cloud and container environments are provisioned by NVFLARE itself; write `compute_env: onprem_cvm`"
            }
            Self::CpuMechanism { .. } => "write `cc_cpu_mechanism: amd_sev_snp`; Intel TDX is not supported",
            Self::OutOfRange { unit: " GiB", .. } => {
                "drive sizes are whole GiB; the root drive is sparse and costs only what the container fills"
            }
            Self::OutOfRange { .. } if field.starts_with("tcb_floor") => {
                "security patch levels are single bytes; the site's own are in its attestation report, REPORTED_TCB"
            }
            Self::OutOfRange { .. } if field == "gate.workload.port" => "the port the workload dials, for Flower's Fleet API 9092",
            Self::OutOfRange { unit: "", .. } => "it counts up: 1 for a site's first config",
            Self::OutOfRange { .. } if field.ends_with("retry_for") => {
                "how long a guest tries to reach its key service before it powers off; leave it out for 300"
            }
            Self::OutOfRange { .. } | Self::ExpirationTooLong { .. } => {
                "a site renews after ⅔ of token_expiration and is out after check_frequency: try 100 and 120"
            }
            Self::Port { .. } => "each port is one number; ranges are not supported",
            Self::PortTwice { .. } => "list each port once",
            Self::TooMany { .. } if field == "chip_ids" => "let the project's policy list the chips, or leave `chip_ids` out",
            Self::TooMany { .. } => "site.json is limited to 64 KiB",
            Self::NoHome { .. } => "write the absolute path",
            Self::EmptyPath { .. } => "paths are absolute, relative to the yml file, or start with `~/`",
            Self::NoFile { .. } if field == "docker_archive" => {
                "make one with `docker save IMAGE | gzip > app.tar.gz`; relative paths are relative to the yml file"
            }
            Self::NoFile { .. } if field == "author_key" => {
                "make one with `coffer author-key new --out FILE`; relative paths are relative to the yml file"
            }
            Self::NoFile { .. } | Self::NoDirectory { .. } => "relative paths are relative to the yml file",
            Self::NotAFile { .. } if field == "author_key" => "give the file that `coffer author-key new` made",
            Self::NotAFile { .. } if field.contains("ca[") => "give the file that `init` wrote: D/tls/ca.pem",
            Self::NotAFile { .. } => "give the archive that `docker save` wrote, not a directory",
            Self::NotADirectory { .. } => "give the directory; all files in it are taken",
            Self::FolderName { .. } => "the key names a folder under /user_config",
            Self::PrivateKey { .. } => {
                "move it to `kit: {<path in the container>: <dir>}`: the kit is sealed and opened only in attested memory"
            }
            Self::SpecialFile { .. } => "copy what a link points to; leave sockets, pipes and devices out",
            Self::KitPath { .. } => "for example `kit: {/opt/flower/keys: ./kit}`",
            Self::KitPathTaken { .. } => "choose another path, for example /opt/kit",
            Self::KitNested { .. } => "merge the two directories into one kit",
            Self::KitTooLarge { .. } => "a kit is for keys, certificates and settings; put data into the container or on user_data",
            Self::HostName { .. } if field == "gate.workload.name" => {
                "the name in the SuperLink's own certificate, which workloads call it by: `superlink.demo.test`"
            }
            Self::HostName { .. } if field.ends_with("tls_name") => "the name that `init` was given: certificates are compared with it",
            Self::HostName { .. } => "for example `server1: 10.176.200.152`",
            Self::Address { .. } => "write an IPv4 or IPv6 address; names are resolved in the guest only through this table and DNS",
            Self::EnvName { .. } => "letters, digits and `_`, not starting with a digit",
            Self::Empty if field == "chip_ids" => "leave `chip_ids` out to let the site run on any chip",
            Self::Empty if field == "gate.addresses" => "at least one: `addresses: [gate.example.org:9443]`",
            Self::Empty if field.ends_with("urls") => "at least one: `urls: [https://attest.example.org:8999]`",
            Self::Empty | Self::EmptyProgram => {
                "give the program and its arguments: `command: [python3, -m, flwr]`; leave `command` out for the image's own"
            }
            Self::NoSiteName { .. } => "add `site: <name>` to the file, or rename it",
            Self::Name { .. } => "the name is part of a resource path and of file names",
            Self::SiteTwice { .. } => "each site has one file and one name; `site:` overrides the name the file gives",
            Self::Url { .. } => "the port is part of it, a path is not: `https://attest.example.org:8999`",
            Self::HostAndPort { .. } => "the port is part of it, `https://` is not: `gate.example.org:9443`",
            Self::GateNeedsCoffer { .. } => "write `kind: coffer`, or leave `gate` out",
            Self::GateName { .. } => "remove the line: workloads reach that server through the gate, and only through it",
            Self::GatePort { .. } => "remove it, or give the gate another workload.port: nothing else can listen on it in the guest",
            Self::CaCount { .. } if field.starts_with("gate.") => "guests trust these CAs for the gate and nothing else",
            Self::CaCount { .. } => "guests trust these CAs for the key service and nothing else",
            Self::Certificate { .. } if field.starts_with("gate.") => "`coffer-gate init` writes the file to give here: D/tls/ca.pem",
            Self::Certificate { .. } => "`coffer-attest init` writes the file to give here: D/tls/ca.pem",
            Self::AuthorKey { .. } => "`coffer author-key new --out FILE` makes one",
            Self::AuthorKeyMode { .. } => "chmod 600 it; if others could read it, make a new one with `coffer author-key new`",
            Self::ChipId { .. } => "CHIP_ID of the machine's attestation report, all 64 bytes; on Turin 8 bytes and zeros",
            Self::ChipHidden => "a site whose reports hide the chip cannot be bound to one: leave `chip_ids` out",
            Self::ChipTwice => "list each chip once",
            Self::ArkMissing => "add `simulator_ark: sim/ark.pem` (made by `coffer-simulator init sim`), or use a production base",
            Self::ArkUnwanted => "remove it, or use a base made with `coffer base build --simulated`",
            Self::Text { .. } => "put long values into a file of the kit",
            Self::Unreadable { .. } | Self::Walk { .. } => "check the path and its permissions",
        };
        Some(text.to_owned())
    }
}

fn missing(key: &str) -> &'static str {
    match key {
        "compute_env" => "add `compute_env: onprem_cvm`",
        "cc_cpu_mechanism" => "add `cc_cpu_mechanism: amd_sev_snp`",
        "role" => "add `role: client` (or `superlink`, `server`)",
        "docker_archive" => "add `docker_archive: app.tar.gz`, what `docker save IMAGE | gzip` wrote",
        "name" => "add `name: <federation>`",
        "bootloader" | "tee" | "snp" | "microcode" => {
            "a tcb_floor names all four levels: `{bootloader: 9, tee: 0, snp: 21, microcode: 72}`"
        }
        "token_expiration" => "add `token_expiration: 100` (seconds, less than check_frequency)",
        key if key.ends_with("_drive_size") => "all four drive sizes are given in GiB, for example 30 for the root and 1 for the others",
        _ => "builder/README.md lists the fields of this file",
    }
}

fn missing_of_gate(key: &str) -> &'static str {
    match key {
        "addresses" => "add `addresses: [gate.example.org:9443]`, where `coffer-gate serve` listens",
        "ca" => "add `ca: [gate.pem]`; `coffer-gate init` writes it: D/tls/ca.pem",
        "tls_name" => "add `tls_name: gate.demo.test`, what `coffer-gate init --name` was given",
        _ => "add `workload: {name: superlink.demo.test, port: 9092}`: where workloads find their server",
    }
}

/// The known key closest to a mistyped one, if it is close; some keys of NVFLARE get their own answer.
fn near(got: &str, expected: &str) -> Option<String> {
    match got {
        "host_entries" => return Some("NVFLARE's documents use both names; the key is `hosts_entries`".into()),
        "class_allow_list" => {
            return Some("NVFLARE's provisioner writes it into the startup kit's resources.json; seal that with `kit:`".into());
        }
        "cvm_image_name" => return Some("no program reads it; remove it".into()),
        _ => {}
    }
    let listed = "builder/README.md lists the fields of this file; nothing is ignored";
    let best = expected.split(", ").map(|key| key.trim_matches('`')).min_by_key(|key| distance(got, key))?;
    let close = distance(got, best) <= got.len().max(3) / 3 || best.starts_with(got);
    Some(if close { format!("did you mean `{best}`?") } else { listed.to_owned() })
}

/// Levenshtein distance, over bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

/// Names line, field and both values of what the YAML library found.
pub fn from_yaml(source: &Source, text: &str, field: &str, error: &YamlError) -> SpecError {
    let error = error.without_snippet();
    let at = error.location();
    let line = at.map_or(1, |at| at.line()).max(1);
    let given = at.map_or_else(String::new, |at| token(text, at));
    let (own, fault) = match error {
        YamlError::DuplicateMappingKey { key, .. } => {
            let key = key.clone().unwrap_or(given);
            (Some(key.clone()), Fault::Repeated { key })
        }
        YamlError::SerdeUnknownField { field, expected, .. } => {
            let expected = expected.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            (Some(field.clone()), Fault::UnknownKey { got: field.clone(), expected })
        }
        YamlError::SerdeMissingField { field, .. } => (Some((*field).to_owned()), Fault::Missing { key: (*field).to_owned() }),
        YamlError::InvalidScalar { ty, .. } => (None, Fault::WrongType { got: given, expected: expectation(ty).to_owned() }),
        YamlError::SerdeInvalidType { unexpected, expected, .. } | YamlError::SerdeInvalidValue { unexpected, expected, .. } => {
            (None, Fault::WrongType { got: unexpected.clone(), expected: expected.clone() })
        }
        YamlError::Unexpected { expected, .. } => (None, Fault::WrongType { got: given, expected: expectation(expected).to_owned() }),
        YamlError::InvalidBooleanStrict { .. } => (None, Fault::WrongType { got: given, expected: expectation("bool").to_owned() }),
        YamlError::NullIntoString { .. } => (None, Fault::WrongType { got: "nothing".into(), expected: "text".into() }),
        YamlError::MultipleDocuments { .. } => (None, Fault::Documents),
        YamlError::MergeKeyNotAllowed { .. } => (None, Fault::MergeKey),
        YamlError::Eof { .. } => (None, Fault::EmptyFile),
        other => (None, Fault::Yaml { error: first_line(&other.to_string()) }),
    };
    // `?` stands for a key that had not been read yet.
    let parent = field.replace('?', "").replace("..", ".");
    let parent = parent.trim_matches('.').trim_end_matches(".value");
    let field = match own {
        None if parent.is_empty() => "file".to_owned(),
        None => parent.to_owned(),
        Some(key) if parent.is_empty() || parent == key || parent.ends_with(&format!(".{key}")) => {
            if parent.is_empty() {
                key
            } else {
                parent.to_owned()
            }
        }
        Some(key) => format!("{parent}.{key}"),
    };
    // YAML has keys without a character.
    let field = if field.is_empty() { "file".to_owned() } else { field };
    SpecError { file: source.file.clone(), line, field, fault }
}

/// The YAML text at a position, shortened to one line.
fn token(text: &str, at: serde_saphyr::Location) -> String {
    let start = at.span().byte_offset().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let long = at.span().byte_len().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let rest = text.get(start..).unwrap_or_default();
    let cut = rest.get(..long).filter(|t| !t.is_empty()).unwrap_or(rest);
    first_line(cut)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().chars().take(80).collect()
}

fn expectation(ty: &'static str) -> &'static str {
    match ty {
        "bool" => "true or false",
        "sequence start" => "a list",
        "mapping start" => "keys with values",
        "string scalar" => "a single value",
        "u64" => "a whole number, 0 or more",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_the_file_holds() {
        let fault = Fault::UnknownKey { got: "a\nb\u{1b}[2J".into(), expected: "`é`".into() };
        let error = SpecError { file: "cc_a.yml".into(), line: 3, field: "kit.\u{85}".into(), fault };
        assert_eq!(error.to_string(), r"cc_a.yml:3: kit.\u{85}: unknown key `a\nb\u{1b}[2J`, expected one of `é`");
    }
}
