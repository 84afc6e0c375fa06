//! `cc_*.yml` and `project.yml` exactly as written. Nothing in here has been checked; `plan` decides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::{Options, Spanned};

use crate::fault::{Fault, SpecError};

/// A spec file longer than this is not one. The longest real one seen is 3 KiB.
const MAX_SPEC_BYTES: u64 = 256 * 1024;

/// One site's file: the fields of NVFLARE's `cc_*.yml`, and ours (`site`, `site_svn`, `kit`, `container`, `retry_for`).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteSpec {
    /// Name of the site, where the file's name does not say it.
    pub site: Option<Spanned<String>>,
    /// Counter of this site's configs.
    pub site_svn: Option<Spanned<u64>>,
    /// `onprem_cvm`.
    pub compute_env: Spanned<String>,
    /// `amd_sev_snp`.
    pub cc_cpu_mechanism: Spanned<String>,
    /// `nvidia_cc`.
    pub cc_gpu_mechanism: Option<Spanned<String>>,
    /// `client`, `server` or `superlink`.
    pub role: Spanned<String>,
    /// GiB.
    pub root_drive_size: Spanned<u64>,
    /// GiB.
    pub applog_drive_size: Spanned<u64>,
    /// GiB.
    pub user_config_drive_size: Spanned<u64>,
    /// GiB.
    pub user_data_drive_size: Spanned<u64>,
    /// What `docker save` wrote, plain or gzip.
    pub docker_archive: Spanned<String>,
    /// Folder name under `/user_config` → directory.
    #[serde(default)]
    pub user_config: BTreeMap<String, Spanned<String>>,
    /// Absolute path in the container → directory.
    #[serde(default)]
    pub kit: BTreeMap<String, Spanned<String>>,
    /// What runs instead of the image's own command.
    pub container: Option<ContainerSpec>,
    /// Host name → address.
    #[serde(default)]
    pub hosts_entries: BTreeMap<String, Spanned<String>>,
    /// Inbound TCP.
    #[serde(default)]
    pub allowed_ports: Vec<Spanned<u64>>,
    /// Outbound TCP.
    #[serde(default)]
    pub allowed_out_ports: Vec<Spanned<u64>>,
    /// NVFLARE token issuers.
    #[serde(default)]
    pub cc_issuers: Vec<IssuerSpec>,
    /// Schedule.
    pub cc_attestation: Option<AttestationSpec>,
    /// The chips this site may run on.
    pub chip_ids: Option<Spanned<Vec<Spanned<String>>>>,
    /// The oldest firmware and microcode this site may run on.
    pub tcb_floor: Option<TcbSpec>,
}

/// `tcb_floor:`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbSpec {
    /// Turin only.
    pub fmc: Option<Spanned<u64>>,
    /// Boot loader of the secure processor.
    pub bootloader: Spanned<u64>,
    /// Its operating system.
    pub tee: Spanned<u64>,
    /// SNP firmware.
    pub snp: Spanned<u64>,
    /// Microcode.
    pub microcode: Spanned<u64>,
}

/// `container:`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Replaces the image's entrypoint and command.
    pub command: Option<Spanned<Vec<Spanned<String>>>>,
    /// Added to the image's environment, or replacing a name in it.
    #[serde(default)]
    pub env: BTreeMap<String, Spanned<String>>,
}

/// One of `cc_issuers:`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSpec {
    /// Component id.
    pub id: Spanned<String>,
    /// Python class path.
    pub path: Spanned<String>,
    /// Constructor arguments.
    #[serde(default)]
    pub args: BTreeMap<String, String>,
    /// Seconds.
    pub token_expiration: Spanned<u64>,
}

/// `cc_attestation:`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationSpec {
    /// Seconds.
    pub check_frequency: Option<Spanned<u64>>,
    /// `stop_job`, `shutdown`, `none`.
    pub failure_action: Option<Spanned<String>>,
    /// Seconds.
    pub retry_for: Option<Spanned<u64>>,
}

/// `project.yml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectSpec {
    /// The federation's name.
    pub name: Spanned<String>,
    /// Where guests attest.
    pub key_service: KeyServiceSpec,
    /// The gate in front of its SuperLink, if it has one.
    pub gate: Option<GateSpec>,
    /// The simulator's ARK certificate, with a simulated base only.
    pub simulator_ark: Option<Spanned<String>>,
    /// What `coffer author-key new` made: with it, bundles have ID blocks and enrollments ask for them.
    pub author_key: Option<Spanned<String>>,
}

/// `key_service:`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyServiceSpec {
    /// `coffer` or `trustee`.
    pub kind: Spanned<String>,
    /// `https://host:port`.
    pub urls: Spanned<Vec<Spanned<String>>>,
    /// Name in the service's certificate.
    pub tls_name: Spanned<String>,
    /// PEM files.
    pub ca: Spanned<Vec<Spanned<String>>>,
}

/// `gate:`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSpec {
    /// `host:port`.
    pub addresses: Spanned<Vec<Spanned<String>>>,
    /// Name in the gate's certificate.
    pub tls_name: Spanned<String>,
    /// PEM files.
    pub ca: Spanned<Vec<Spanned<String>>>,
    /// Where workloads find their server.
    pub workload: WorkloadEndSpec,
    /// Whether the gate must itself be attested.
    #[serde(default)]
    pub attested: bool,
}

/// `gate.workload:`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadEndSpec {
    /// The name by which workloads call their server.
    pub name: Spanned<String>,
    /// On loopback.
    pub port: Spanned<u64>,
}

/// The file a spec came from: names it in errors and resolves its paths.
#[derive(Clone, Debug)]
pub struct Source {
    /// As given on the command line.
    pub file: PathBuf,
}

impl Source {
    /// An error at a value of this file.
    pub fn refuse<T>(&self, at: &Spanned<T>, field: impl Into<String>, fault: Fault) -> SpecError {
        SpecError { file: self.file.clone(), line: at.referenced.line(), field: field.into(), fault }
    }

    /// An error about the whole file.
    pub fn refuse_file(&self, field: impl Into<String>, fault: Fault) -> SpecError {
        SpecError { file: self.file.clone(), line: 1, field: field.into(), fault }
    }

    /// A path written in this file: `~` is the home directory, relative means beside the file.
    pub fn path(&self, at: &Spanned<String>, field: &str) -> Result<PathBuf, SpecError> {
        let text = at.value.as_str();
        if text.is_empty() || text.contains('\0') {
            return Err(self.refuse(at, field, Fault::EmptyPath { got: text.to_owned() }));
        }
        if let Some(rest) = text.strip_prefix('~') {
            let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
            let (Some(home), true) = (home, rest.is_empty() || rest.starts_with('/')) else {
                return Err(self.refuse(at, field, Fault::NoHome { got: text.to_owned() }));
            };
            return Ok(home.join(rest.trim_start_matches('/')));
        }
        Ok(self.file.parent().unwrap_or(Path::new("")).join(text))
    }
}

/// Reads one YAML document. Unknown and repeated keys, merge keys, and more than one document are refused.
///
/// # Errors
/// One [`SpecError`] naming line and field.
pub fn read<T: DeserializeOwned>(source: &Source) -> Result<T, SpecError> {
    let refuse = |fault| source.refuse_file("file", fault);
    let size = std::fs::metadata(&source.file).map_err(|error| refuse(Fault::Unreadable { error: error.to_string() }))?.len();
    if size > MAX_SPEC_BYTES {
        return Err(refuse(Fault::SpecTooLong { got: size, most: MAX_SPEC_BYTES }));
    }
    let text = std::fs::read_to_string(&source.file).map_err(|error| refuse(Fault::Unreadable { error: error.to_string() }))?;
    parse(source, &text)
}

fn parse<T: DeserializeOwned>(source: &Source, text: &str) -> Result<T, SpecError> {
    let options = strict();
    // The first pass finds the path of the field at fault; the library's own error has the position.
    let mut field = String::new();
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |de| {
        serde_path_to_error::deserialize(de).map_err(|error| {
            field = error.path().to_string();
            error.into_inner()
        })
    })
    .map_err(|error| crate::fault::from_yaml(source, text, &field, &error))
}

fn strict() -> Options {
    serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    const GOOD: &str = include_str!("../tests/samples/cc_site-1_local.yml");

    fn source() -> Source {
        Source { file: "cc_site-1.yml".into() }
    }

    #[test]
    fn paths() {
        let source = Source { file: "some/where/cc_a.yml".into() };
        let at = |text: &str| Spanned::new(text.to_owned(), serde_saphyr::Location::UNKNOWN, serde_saphyr::Location::UNKNOWN);
        assert_eq!(source.path(&at("x/y.tar"), "f").expect("relative"), Path::new("some/where/x/y.tar"));
        assert_eq!(source.path(&at("/x"), "f").expect("absolute"), Path::new("/x"));
        for bad in ["", "~other/x", "a\0b"] {
            assert!(source.path(&at(bad), "f").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_without_a_character_is_the_files_fault() {
        let error = parse::<SiteSpec>(&source(), "role: client\n\"\": 1\n").err().expect("an unknown key");
        assert_eq!((error.line, error.field.as_str()), (2, "file"), "{error}");
    }

    proptest! {
        #[test]
        fn reading_is_total(text in "\\PC*") {
            drop(parse::<SiteSpec>(&source(), &text));
            drop(parse::<ProjectSpec>(&source(), &text));
        }

        /// One character changed: a spec, or an error that names a line of the file.
        #[test]
        fn a_changed_character_is_read_or_named(at in any::<proptest::sample::Index>(), new: char) {
            let mut text: Vec<char> = GOOD.chars().collect();
            let at = at.index(text.len());
            text[at] = new;
            let text: String = text.into_iter().collect();
            if let Err(error) = parse::<SiteSpec>(&source(), &text) {
                prop_assert!(error.line >= 1 && error.line <= text.lines().count() as u64 + 1, "{error}");
                prop_assert!(!error.field.is_empty(), "{error}");
            }
        }
    }
}
