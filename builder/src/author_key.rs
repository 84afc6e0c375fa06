//! The author key of a project: `coffer author-key …`, and reading it for a build.
//!
//! It signs ID blocks by way of an ID key that is derived from it. Nothing of the private half is ever printed, put into a bundle,
//! or taken from the command line.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use coffer_manifest::ProjectName;
use coffer_measure::{IdKeyError, IdPrivateKey};
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure, Hint};
use crate::memory;
use crate::ui::Ui;

/// A key file is a few hundred bytes; a longer one is something else.
const MAX_KEY_BYTES: u64 = 16 * 1024;

/// `coffer author-key`.
#[derive(Subcommand)]
pub enum AuthorKeyCommand {
    /// Make a key: ECDSA P-384, PKCS #8 PEM, mode 0600. Prints its digest
    New {
        /// File to make; an existing one is never replaced
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the digests that reports, enrollments and policies name a key by
    Show {
        /// A key that `coffer author-key new` made
        key: PathBuf,
        /// Also print the digest of this project's ID key, which is derived from it
        #[arg(long, value_name = "NAME")]
        project: Option<ProjectName>,
    },
}

/// A key file cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorKeyError {
    /// A new key never replaces anything.
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    /// It cannot be written.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Others may read it.
    #[error("{} has mode {mode:04o}, a private key file must have 0600", path.display())]
    Mode { path: PathBuf, mode: u32 },
    /// It holds something else.
    #[error("{}: {source}", path.display())]
    Key { path: PathBuf, source: IdKeyError },
    /// The kernel gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
}

impl Hint for AuthorKeyError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exists { .. } => "a project keeps its author key: enrollments name it. Give another name for another key".to_owned(),
            Self::Mode { path, .. } => format!("chmod 600 {}; if others could read it, make a new key", path.display()),
            Self::Key { .. } => "make one with `coffer author-key new --out FILE`".to_owned(),
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Exists { .. } | Self::Mode { .. } | Self::Key { .. } => Exit::Input,
            _ => Exit::Failed,
        }
    }
}

/// Does what the command line asks.
///
/// # Errors
/// See [`AuthorKeyError`].
pub fn run(ui: Ui, command: AuthorKeyCommand) -> Result<(), Failure> {
    memory::keep_keys_off_the_disk();
    match command {
        AuthorKeyCommand::New { out } => {
            let key = make(&out)?;
            ui.result(format_args!("author_key_digest {}", key.public().digest()));
            ui.say(format_args!("\n{} signs ID blocks: keep it, back it up, and name it in project.yml:", out.display()));
            ui.say(format_args!("  author_key: {}", out.display()));
        }
        AuthorKeyCommand::Show { key: path, project } => {
            let key = read(&path)?;
            ui.result(format_args!("author_key_digest {}", key.public().digest()));
            if let Some(project) = project {
                let id_key = key.id_key_of(project.as_str()).map_err(|source| AuthorKeyError::Key { path, source })?;
                ui.result(format_args!("id_key_digest     {}", id_key.public().digest()));
            }
        }
    }
    Ok(())
}

/// Makes a key and its file.
fn make(path: &Path) -> Result<IdPrivateKey, AuthorKeyError> {
    let mut random = Zeroizing::new([0; 48]);
    getrandom::fill(&mut random[..]).map_err(AuthorKeyError::Random)?;
    let fail = |source| AuthorKeyError::Key { path: path.to_owned(), source };
    let key = IdPrivateKey::from_scalar(&random).map_err(fail)?;
    let pem = key.expose_pem().map_err(fail)?;
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => AuthorKeyError::Exists { path: path.to_owned() },
        _ => AuthorKeyError::Write { path: path.to_owned(), source },
    })?;
    let written = file.write_all(pem.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|source| {
        // Half a key is no use to anybody, and its name should be free for the next attempt.
        drop(fs::remove_file(path));
        AuthorKeyError::Write { path: path.to_owned(), source }
    })?;
    Ok(key)
}

/// Reads a key that only its owner may read.
///
/// # Errors
/// See [`AuthorKeyError`].
pub fn read(path: &Path) -> Result<IdPrivateKey, AuthorKeyError> {
    let fail = |source| AuthorKeyError::Read { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(fail)?;
    let mode = file.metadata().map_err(fail)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(AuthorKeyError::Mode { path: path.to_owned(), mode });
    }
    let mut pem = Zeroizing::new(String::new());
    match file.take(MAX_KEY_BYTES).read_to_string(&mut pem) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
        read => drop(read.map_err(fail)?),
    }
    IdPrivateKey::from_pem(&pem).map_err(|source| AuthorKeyError::Key { path: path.to_owned(), source })
}
