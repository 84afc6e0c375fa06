//! `project.yml`, decided: the federation, its key service, and what must have signed a site's evidence.

use std::fs;
use std::path::{Path, PathBuf};

use coffer_manifest::{BaseRoot, Gate, KeyService, KeyServiceKind, ProjectName, RootOfTrust, Sha256Digest};
use data_encoding::BASE64;
use serde_saphyr::Spanned;

use super::gate;
use super::values::{is_host_name, one_of, regular_file};
use crate::author_key::{self, AuthorKeyError};
use crate::build::IdSigner;
use crate::fault::{Fault, SpecError};
use crate::spec::{self, KeyServiceSpec, ProjectSpec, Source};

/// CA certificates a guest trusts for its key service, and for its gate (DESIGN, Site config).
const MAX_CAS: usize = 4;
/// Key service replicas tried in order.
const MAX_URLS: usize = 8;
/// A PEM bundle longer than this holds something else.
const MAX_PEM_BYTES: u64 = 64 * 1024;

/// The project, decided.
#[derive(Debug)]
pub struct Project {
    /// The federation.
    pub name: ProjectName,
    /// Where its guests attest.
    pub key_service: KeyService,
    /// The gate that its clients are behind.
    pub gate: Option<Gate>,
    /// What signs their evidence.
    pub root_of_trust: RootOfTrust,
    /// The directory of `simulator_ark`, with a simulated base: what `launch_vm.sh --simulator-state` wants here.
    pub simulator_state: Option<PathBuf>,
    /// What signs ID blocks, if the project has an author key.
    pub id_signer: Option<IdSigner>,
}

impl Project {
    /// Reads `project.yml` for a base with this root.
    ///
    /// # Errors
    /// The first wrong thing, with file, line and field.
    pub fn read(file: &Path, base: BaseRoot) -> Result<Self, SpecError> {
        let source = Source { file: file.to_owned() };
        let spec: ProjectSpec = spec::read(&source)?;
        let name = spec
            .name
            .value
            .parse()
            .map_err(|error: coffer_manifest::NameError| source.refuse(&spec.name, "name", Fault::Name { error: error.to_string() }))?;
        let root_of_trust = root_of_trust(&source, spec.simulator_ark.as_ref(), base)?;
        let ark = spec.simulator_ark.as_ref().map(|ark| source.path(ark, "simulator_ark")).transpose()?;
        let simulator_state = ark.and_then(|ark| ark.parent().map(Path::to_owned));
        let id_signer = spec.author_key.as_ref().map(|key| id_signer(&source, key, &name)).transpose()?;
        let key_service = key_service(&source, &spec.key_service)?;
        let gate = spec.gate.as_ref().map(|gate| gate::gate(&source, gate, &key_service, &spec.key_service)).transpose()?;
        Ok(Self { name, key_service, gate, root_of_trust, simulator_state, id_signer })
    }
}

fn id_signer(source: &Source, given: &Spanned<String>, project: &ProjectName) -> Result<IdSigner, SpecError> {
    let path = regular_file(source, given, "author_key")?;
    let signer = author_key::read(&path)
        .and_then(|key| IdSigner::new(key, project).map_err(|source| AuthorKeyError::Key { path: path.clone(), source }));
    signer.map_err(|error| {
        let fault = match error {
            AuthorKeyError::Mode { path, mode } => Fault::AuthorKeyMode { path, mode },
            AuthorKeyError::Key { path, source } => Fault::AuthorKey { path, why: source.to_string() },
            other => Fault::Walk { path, error: other.to_string() },
        };
        source.refuse(given, "author_key", fault)
    })
}

fn root_of_trust(source: &Source, ark: Option<&Spanned<String>>, base: BaseRoot) -> Result<RootOfTrust, SpecError> {
    match (base, ark) {
        (BaseRoot::AmdSevSnp, None) => Ok(RootOfTrust::AmdSevSnp),
        (BaseRoot::AmdSevSnp, Some(ark)) => Err(source.refuse(ark, "simulator_ark", Fault::ArkUnwanted)),
        (BaseRoot::Simulated, None) => Err(source.refuse_file("simulator_ark", Fault::ArkMissing)),
        (BaseRoot::Simulated, Some(ark)) => {
            let der = certificates(source, ark, "simulator_ark")?;
            match der.as_slice() {
                [one] => Ok(RootOfTrust::Simulated(Sha256Digest::of(one))),
                more => Err(source.refuse(ark, "simulator_ark", Fault::CaCount { got: more.len(), most: 1 })),
            }
        }
    }
}

fn key_service(source: &Source, spec: &KeyServiceSpec) -> Result<KeyService, SpecError> {
    let kinds = [("coffer", KeyServiceKind::Coffer), ("trustee", KeyServiceKind::Trustee)];
    let kind = one_of(source, &spec.kind, "key_service.kind", &kinds, "`coffer` or `trustee`")?;
    if spec.urls.value.is_empty() {
        return Err(source.refuse(&spec.urls, "key_service.urls", Fault::Empty));
    }
    if let Some(extra) = spec.urls.value.get(MAX_URLS) {
        return Err(source.refuse(extra, "key_service.urls", Fault::TooMany { got: spec.urls.value.len(), most: MAX_URLS }));
    }
    let mut urls = Vec::new();
    for (i, url) in spec.urls.value.iter().enumerate() {
        if !is_service_url(&url.value) {
            let fault = Fault::Url { got: url.value.clone() };
            return Err(source.refuse(url, format!("key_service.urls[{i}]"), fault));
        }
        urls.push(url.value.clone());
    }
    if !is_host_name(&spec.tls_name.value) {
        let fault = Fault::HostName { got: spec.tls_name.value.clone() };
        return Err(source.refuse(&spec.tls_name, "key_service.tls_name", fault));
    }
    let ca = authorities(source, &spec.ca, "key_service.ca")?;
    Ok(KeyService { kind, urls, tls_name: spec.tls_name.value.clone(), ca })
}

/// The certificates of all these PEM files, as a site config has them.
pub(super) fn authorities(source: &Source, files: &Spanned<Vec<Spanned<String>>>, field: &str) -> Result<Vec<String>, SpecError> {
    let mut ca = Vec::new();
    for (i, file) in files.value.iter().enumerate() {
        ca.extend(certificates(source, file, &format!("{field}[{i}]"))?.iter().map(|der| BASE64.encode(der)));
    }
    if !(1..=MAX_CAS).contains(&ca.len()) {
        return Err(source.refuse(files, field, Fault::CaCount { got: ca.len(), most: MAX_CAS }));
    }
    Ok(ca)
}

/// `https://<host>:<port>`. Nothing after the port.
fn is_service_url(text: &str) -> bool {
    text.strip_prefix("https://").is_some_and(is_host_and_port)
}

/// `<host>:<port>`, host being a name, an IPv4 address or a bracketed IPv6 address.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = match v6 {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host),
    };
    named && !port.starts_with('0') && !port.starts_with('+') && port.parse::<u16>().is_ok()
}

/// The DER bytes of each certificate in a PEM file that holds nothing else.
fn certificates(source: &Source, given: &Spanned<String>, field: &str) -> Result<Vec<Vec<u8>>, SpecError> {
    let path = regular_file(source, given, field)?;
    let refuse = |path: PathBuf, why| source.refuse(given, field, Fault::Certificate { path, why });
    let walk = |error: std::io::Error| source.refuse(given, field, Fault::Walk { path: path.clone(), error: error.to_string() });
    if fs::metadata(&path).map_err(walk)?.len() > MAX_PEM_BYTES {
        return Err(refuse(path, "it is longer than 64 KiB"));
    }
    let Ok(text) = String::from_utf8(fs::read(&path).map_err(walk)?) else {
        return Err(refuse(path, "it is not text"));
    };
    pem_certificates(&text).map_err(|why| refuse(path, why))
}

/// PEM (RFC 7468) `CERTIFICATE` blocks; text between them is ignored, any other block is refused.
fn pem_certificates(text: &str) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut found = Vec::new();
    let mut body: Option<String> = None;
    for line in text.lines().map(str::trim) {
        match (&mut body, line) {
            (None, "-----BEGIN CERTIFICATE-----") => body = Some(String::new()),
            (None, line) if line.starts_with("-----BEGIN ") => return Err("it holds something other than certificates"),
            (None, _) => {}
            (Some(base64), "-----END CERTIFICATE-----") => {
                let der = BASE64.decode(base64.as_bytes()).map_err(|_| "its base64 does not decode")?;
                if !is_one_der_sequence(&der) {
                    return Err("it is not one DER sequence");
                }
                found.push(der);
                body = None;
            }
            (Some(base64), line) => base64.push_str(line),
        }
    }
    match (body, found.is_empty()) {
        (Some(_), _) => Err("it ends within a certificate"),
        (None, true) => Err("it holds no certificate"),
        (None, false) => Ok(found),
    }
}

/// Tag SEQUENCE, a definite two- or three-byte length, and exactly that many bytes: no certificate is shorter.
fn is_one_der_sequence(der: &[u8]) -> bool {
    match der {
        [0x30, 0x81, a, rest @ ..] => rest.len() == usize::from(*a),
        [0x30, 0x82, a, b, rest @ ..] => rest.len() == usize::from(u16::from_be_bytes([*a, *b])),
        _ => false,
    }
}
