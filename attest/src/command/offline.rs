//! The database of a service that does not run.

use std::path::Path;

use coffer_token::{Jwks, StatementError, StatementKind};
use serde::de::DeserializeOwned;

use crate::cli::KeySource;
use crate::config::Config;
use crate::failure::{Failure, OrFail};
use crate::kek::Kek;
use crate::layout::{Layout, read_small};
use crate::store::{ServiceKey, Store, StoreError};

/// Opens it; nobody else has it open until it is dropped.
///
/// # Errors
/// A service that runs, another key file, a damaged database.
pub fn open(layout: &Layout) -> Result<Store, Failure> {
    let kek = Kek::read(&layout.kek()).or_fail("cannot use the key file")?;
    let doing = format!("cannot open {}", layout.database().display());
    let store = Store::open(&layout.database(), kek).map_err(|e| {
        let failure = Failure::new(format!("{doing}: {e}"));
        match e {
            StoreError::InUse => failure.hint("stop the other `coffer-attest serve` of this folder first"),
            _ => failure,
        }
    })?;
    // Every key is sealed alike: one that opens says that this is the key file.
    store.key(ServiceKey::Cookie).map_err(|e| {
        let failure = Failure::new(format!("{doing}: {e}"));
        if layout.next_kek().exists() {
            let (next, kek) = (layout.next_kek(), layout.kek());
            return failure.hint(format!("a `keys rewrap` was cut short: mv {} {}", next.display(), kek.display()));
        }
        failure.hint("is kek.bin the key file of this database? A backup needs the key file of its own time")
    })?;
    Ok(store)
}

/// What may have signed a statement: a file's keys, or all that a database ever had and that did not leak.
pub enum Keys {
    /// Of a file.
    File(Jwks),
    /// Of a database, newest first.
    History(Vec<Jwks>),
}

impl Keys {
    /// Reads what the command line names.
    ///
    /// # Errors
    /// Files that do not read.
    pub fn from(source: &KeySource) -> Result<Self, Failure> {
        match (&source.jwks, &source.dir) {
            (Some(file), _) => Self::file(file),
            (_, Some(dir)) => Self::history(&open(&Layout::new(dir))?),
            (None, None) => Err(Failure::new("no keys named").hint("give --jwks or --dir")),
        }
    }

    /// Reads a key set.
    ///
    /// # Errors
    /// See [`Jwks::parse`].
    pub fn file(path: &Path) -> Result<Self, Failure> {
        let doing = format!("cannot use the keys in {}", path.display());
        Ok(Self::File(Jwks::parse(&read_small(path).or_fail(&doing)?).or_fail(&doing)?))
    }

    /// Every key of a database that did not leak.
    ///
    /// # Errors
    /// The database's.
    pub fn history(store: &Store) -> Result<Self, Failure> {
        let ring = store.token_keys().or_fail("cannot read the token keys")?;
        Ok(Self::History(ring.history().cloned().collect()))
    }

    /// Checks a statement.
    ///
    /// # Errors
    /// See [`StatementError`].
    pub fn check<T: DeserializeOwned>(&self, text: &str, kind: StatementKind) -> Result<T, StatementError> {
        match self {
            Self::File(set) => set.check_statement(text, kind),
            Self::History(sets) => {
                let mut unknown = StatementError::Form;
                for set in sets {
                    match set.check_statement(text, kind) {
                        Err(e @ StatementError::UnknownKey { .. }) => unknown = e,
                        other => return other,
                    }
                }
                Err(unknown)
            }
        }
    }
}

/// The service's own name, for comparing with a statement's `iss`.
///
/// # Errors
/// Settings that do not read.
pub fn issuer(layout: &Layout) -> Result<String, Failure> {
    Ok(Config::read(&layout.config()).or_fail("cannot read the settings")?.issuer)
}
