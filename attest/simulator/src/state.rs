//! A simulator's folder: keys, certificates and the machine it pretends to be.
//!
//! | file | contents |
//! |---|---|
//! | `ark.pem`, `ask.pem`, `vcek.pem` | certificates; `ark.pem` is what a verifier is set up with |
//! | `crl.der` | the root's revocation list, which revokes nothing and stays current for as long as the root |
//! | `vcek.key` | the private key that signs reports, PKCS #8 PEM, mode 0600 |
//! | `state.json` | version, family, chip id, TCB |
//!
//! The private keys of ARK and ASK are not kept: this root will never vouch for another processor.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coffer_evidence::{CertificateError, ChipId, Family, TcbVersion, UnixTime, pem_certificates};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::asp::Asp;
use crate::authority::{CA_LIFETIME, Hierarchy, KeyError};
use crate::crl::CrlSpec;
use crate::platform::Platform;
use crate::vcek::Vcek;

/// The version of `state.json` this build writes and reads.
const VERSION: u32 = 1;

/// A simulator's folder cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// There already is something.
    #[error("{} exists already\nhint: choose another folder, or remove it: sites built for its root will then be refused", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `state.json` is not what this build writes.
    #[error("{} is malformed", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// `state.json` has another version.
    #[error("{} has version {got}; this build reads {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        got: u32,
    },
    /// A PEM file does not hold what its name says.
    #[error("{} holds no {label}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        label: &'static str,
    },
    /// A certificate file is damaged.
    #[error("{}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// A key cannot be made or used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    v: u32,
    family: Family,
    chip_id: ChipId,
    tcb: TcbVersion,
}

/// Makes a new simulator in `dir`, which must not exist. A failure leaves nothing.
///
/// # Errors
/// See [`StateError`].
pub fn init(dir: &Path, family: Family, now: UnixTime) -> Result<Asp, StateError> {
    if dir.symlink_metadata().is_ok() {
        return Err(StateError::Exists { path: dir.to_owned() });
    }
    let hierarchy = Hierarchy::generate(family, now)?;
    let asp = Asp::new(&hierarchy, now)?;
    // The root's key is not kept, so this list cannot be renewed.
    let crl = hierarchy.ark.revocation_list(&CrlSpec::empty(1, now, UnixTime(now.0.saturating_add(CA_LIFETIME))))?;
    let beside = dir.with_extension(format!("partial-{}", std::process::id()));
    let write = || -> Result<(), StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&beside).map_err(|source| file_error(&beside, source))?;
        for (name, der) in [("ark.pem", asp.ark()), ("ask.pem", asp.ask()), ("vcek.pem", asp.vcek().certificate())] {
            write_new(&beside.join(name), pem("CERTIFICATE", der), 0o644)?;
        }
        write_new(&beside.join("crl.der"), &crl, 0o644)?;
        write_new(&beside.join("vcek.key"), pem("PRIVATE KEY", asp.vcek().expose_pkcs8()), 0o600)?;
        let Platform { chip_id, tcb, .. } = *asp.platform();
        let state = State { v: VERSION, family, chip_id, tcb };
        let path = beside.join("state.json");
        let json = serde_json::to_string_pretty(&state).map_err(|source| StateError::Json { path: path.clone(), source })?;
        write_new(&path, &(json + "\n"), 0o644)?;
        fs::rename(&beside, dir).map_err(|source| file_error(dir, source))
    };
    let written = write();
    if written.is_err() {
        // The first error is the one worth telling; what is left over holds keys of nothing.
        let _ = fs::remove_dir_all(&beside);
    }
    written.map(|()| asp)
}

/// Takes up the simulator in `dir`.
///
/// # Errors
/// See [`StateError`].
pub fn load(dir: &Path) -> Result<Asp, StateError> {
    let path = dir.join("state.json");
    let text = fs::read(&path).map_err(|source| file_error(&path, source))?;
    let state: State = serde_json::from_slice(&text).map_err(|source| StateError::Json { path: path.clone(), source })?;
    if state.v != VERSION {
        return Err(StateError::Version { path, got: state.v });
    }
    let platform = Platform { tcb: state.tcb, ..Platform::with_chip_id(state.family, state.chip_id) };
    let vcek = Vcek::from_parts(certificate(&dir.join("vcek.pem"))?, private_key(&dir.join("vcek.key"))?)?;
    Ok(Asp::from_parts(platform, certificate(&dir.join("ark.pem"))?, certificate(&dir.join("ask.pem"))?, vcek))
}

/// SHA-256 of a root's DER, 64 lower-case hexadecimal digits: what `root_of_trust` of a simulated site names.
#[must_use]
pub fn ark_digest(der: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(der))
}

fn certificate(path: &Path) -> Result<Vec<u8>, StateError> {
    let text = fs::read(path).map_err(|source| file_error(path, source))?;
    let ders = pem_certificates(&text).map_err(|source| StateError::Certificate { path: path.to_owned(), source })?;
    ders.into_iter().next().ok_or_else(|| StateError::Pem { path: path.to_owned(), label: "certificate" })
}

fn private_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|source| file_error(path, source))?);
    let body = text.split_once("-----BEGIN PRIVATE KEY-----").and_then(|(_, rest)| rest.split_once("-----END PRIVATE KEY-----"));
    let base64: Option<Zeroizing<String>> = body.map(|(body, _)| Zeroizing::new(body.split_whitespace().collect()));
    let key = base64.and_then(|base64| BASE64.decode(base64.as_bytes()).ok());
    key.map(Zeroizing::new).ok_or_else(|| StateError::Pem { path: path.to_owned(), label: "private key" })
}

/// PEM with lines of 64 characters (RFC 7468).
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(BASE64.encode(der));
    let mut text = format!("-----BEGIN {label}-----\n");
    for (i, character) in base64.chars().enumerate() {
        if i > 0 && i % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    Zeroizing::new(text)
}

fn write_new(path: &Path, contents: impl AsRef<[u8]>, mode: u32) -> Result<(), StateError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(contents.as_ref())).map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> StateError {
    StateError::File { path: path.to_owned(), source }
}
