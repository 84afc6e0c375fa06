//! The service's one SQLite file: what it is, its sealed keys, admins, sites, suspensions, withdrawals, spent nonces, audit.
//!
//! One process has it open at a time (exclusive lock). Every secret in it is an envelope of [`Kek`].

mod admins;
mod audit;
mod collateral;
mod decisions;
mod flush;
mod instances;
mod keys;
mod policies;
mod resources;
mod revocations;
mod rewrap;
mod shared;
mod sites;
mod spent;
mod standing;
mod suspensions;
mod withdrawals;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coffer_evidence::BytesError;
use coffer_manifest::{DocumentError, NameError, RootOfTrust};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use zeroize::Zeroizing;

pub use admins::{Admin, AdminError, Scope, check_name, scope_names};
pub use audit::{Entry, Event, Subject};
pub use collateral::{CollateralKind, CollateralRow};
pub use decisions::{Asked, Basis, Decision, KEPT_DECISIONS};
pub use instances::{BoundNode, Instance, Seen};
pub use keys::KeyError;
pub use policies::{NewPolicy, PolicyChange, PolicyOwner, PolicyVersion, SetPolicyError};
pub use revocations::RevocationError;
pub use shared::{Locked, SharedStore};
pub use sites::{EnrollError, RevokeError, SecretState, Site};
pub use standing::{Standing, Stands, Suspended};
pub use suspensions::{Change, SuspendError};
pub use withdrawals::RefusedInstance;

use crate::kek::{Kek, SealError};
use crate::live::Live;
use crate::revocation::Revocations;

/// `PRAGMA user_version` of the schema this build reads and writes.
const SCHEMA_VERSION: i64 = 3;
/// `PRAGMA application_id`: ASCII `CofA`.
const APPLICATION_ID: i64 = 0x436f_6641;
/// How long a start waits for a predecessor that is still shutting down.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Sealed keys are written once, at `init`.
const KEY_VERSION: u64 = 1;

/// The service itself; every other table is stated beside the code that reads it.
const SCHEMA: &str = "
CREATE TABLE service (
  one           INTEGER PRIMARY KEY CHECK (one = 1),
  root_of_trust TEXT NOT NULL,
  ark           BLOB,
  epoch         INTEGER NOT NULL
) STRICT;
CREATE TABLE sealed_keys (name TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
";

/// All tables of schema [`SCHEMA_VERSION`].
const SCHEMAS: &[&str] = &[
    SCHEMA,
    admins::SCHEMA,
    sites::SCHEMA,
    spent::SCHEMA,
    audit::SCHEMA,
    collateral::SCHEMA,
    revocations::SCHEMA,
    keys::SCHEMA,
    policies::SCHEMA,
    decisions::SCHEMA,
    resources::SCHEMA,
    suspensions::SCHEMA,
    withdrawals::SCHEMA,
    instances::SCHEMA,
];

/// The database refuses, or says something this build cannot believe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error("the database is in use by another process")]
    InUse,
    /// SQLite's own error.
    #[error("database: {0}")]
    Sqlite(#[source] rusqlite::Error),
    /// Not a database of this service, or of another version.
    #[error("database has application id {id:#x} and schema {version}; this build reads {APPLICATION_ID:#x} and {SCHEMA_VERSION}")]
    Schema {
        /// `application_id` found.
        id: i64,
        /// `user_version` found.
        version: i64,
    },
    /// Sealing or opening a secret.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A stored record is not what was written.
    #[error("stored record: {0}")]
    Record(#[from] DocumentError),
    /// A stored name is not what was written.
    #[error("stored name: {0}")]
    Name(#[from] NameError),
    /// A stored digest is not what was written.
    #[error("stored value: {0}")]
    Bytes(#[from] BytesError),
    /// A stored JSON text is not what was written.
    #[error("stored JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A sealed key that `init` always writes is not there.
    #[error("sealed key `{name}` is missing")]
    KeyMissing {
        /// Its name.
        name: &'static str,
    },
    /// A token key is not what was written.
    #[error("token key `{kid}`: {source}")]
    TokenKey {
        /// Its id.
        kid: String,
        /// What is wrong.
        source: coffer_token::KeyError,
    },
    /// A sealed key of another length.
    #[error("sealed `{name}` has {got} bytes, expected 32")]
    SealedLength {
        /// Its name.
        name: String,
        /// Its length.
        got: usize,
    },
    /// A stored revocation is not what was written.
    #[error("stored revocation is of kind `{kind}`")]
    RevocationKind {
        /// What was found.
        kind: String,
    },
    /// The write-ahead log cannot be watched over.
    #[error("write-ahead log: {0}")]
    Log(#[source] std::io::Error),
    /// What was recorded may not be on the disk.
    #[error("the disk does not take what was recorded")]
    Flush,
    /// What a decision rested on is not what was written.
    #[error("kept decision {seq} cannot be read")]
    Kept {
        /// Number of its audit entry.
        seq: i64,
    },
    /// The audit log was edited.
    #[error("audit entry {seq} does not follow from the one before it")]
    AuditBroken {
        /// First entry that does not fit.
        seq: i64,
    },
}

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse,
            _ => Self::Sqlite(e),
        }
    }
}

/// A key the service keeps sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKey {
    /// Seals session cookies: AES-256.
    Cookie,
}

impl ServiceKey {
    const fn name(self) -> &'static str {
        match self {
            Self::Cookie => "service/cookie-key",
        }
    }
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    kek: Kek,
    root_of_trust: RootOfTrust,
    revocations: Arc<Live<Revocations>>,
}

impl Store {
    /// Makes the tables in an empty file and fixes the root of trust for good.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn create(path: &Path, kek: Kek, root_of_trust: RootOfTrust, ark: Option<&[u8]>) -> Result<Self, StoreError> {
        let mut db = connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
        let tx = db.transaction()?;
        for schema in SCHEMAS {
            tx.execute_batch(schema)?;
        }
        tx.execute("INSERT INTO service (one, root_of_trust, ark, epoch) VALUES (1, ?1, ?2, 0)", params![root_of_trust.to_string(), ark])?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        tx.commit()?;
        Ok(Self { db, kek, root_of_trust, revocations: Arc::new(Live::new(Revocations::default())) })
    }

    /// Opens a database that [`Self::create`] made.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(path: &Path, kek: Kek) -> Result<Self, StoreError> {
        let db = connect(path, OpenFlags::empty())?;
        let number = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (id, version) = (number("application_id")?, number("user_version")?);
        if (id, version) != (APPLICATION_ID, SCHEMA_VERSION) {
            return Err(StoreError::Schema { id, version });
        }
        let text: String = db.query_row("SELECT root_of_trust FROM service", [], |row| row.get(0))?;
        let revocations = Revocations::new(revocations::read(&db, 0)?.into_iter().map(Arc::new));
        Ok(Self { root_of_trust: text.parse()?, db, kek, revocations: Arc::new(Live::new(revocations)) })
    }

    /// What `init --root-of-trust` said.
    #[must_use]
    pub const fn root_of_trust(&self) -> RootOfTrust {
        self.root_of_trust
    }

    /// Writes what the write-ahead log holds into the database file and empties the log.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn fold_log(&self) -> Result<(), StoreError> {
        Ok(self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    /// What is revoked, as of the last change that was committed.
    #[must_use]
    pub fn revocations(&self) -> Arc<Live<Revocations>> {
        Arc::clone(&self.revocations)
    }

    /// Does several things of one request as one transaction: all or none. `work` may not begin a transaction of its own.
    ///
    /// # Errors
    /// The first of `work`, or of the commit.
    pub fn together<T>(&self, work: impl FnOnce(&Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let tx = self.db.unchecked_transaction()?;
        let done = work(self)?;
        tx.commit()?;
        Ok(done)
    }

    /// The simulator's ARK certificate, DER; none where the root is AMD's.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn ark(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.query_row("SELECT ark FROM service", [], |row| row.get(0))?)
    }

    /// Starts a new epoch: cookies sealed before are refused from now on. It is at least `now` (Unix seconds), so that a
    /// database restored from a backup does not count through epochs that have been used.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn raise_epoch(&self, now: u64) -> Result<u64, StoreError> {
        let epoch: i64 =
            self.db.query_row("UPDATE service SET epoch = max(epoch + 1, ?1) RETURNING epoch", [seconds(now)], |row| row.get(0))?;
        Ok(epoch.unsigned_abs())
    }

    /// Stores one of the service's keys; once only.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn put_key(&self, key: ServiceKey, plain: &[u8]) -> Result<(), StoreError> {
        let sealed = self.kek.seal(key.name(), KEY_VERSION, plain)?;
        self.db.execute("INSERT INTO sealed_keys (name, sealed) VALUES (?1, ?2)", params![key.name(), sealed])?;
        Ok(())
    }

    /// Opens one of the service's keys.
    ///
    /// # Errors
    /// [`StoreError::Seal`] under another key file.
    pub fn key(&self, key: ServiceKey) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let sealed: Option<Vec<u8>> =
            self.db.query_row("SELECT sealed FROM sealed_keys WHERE name = ?1", [key.name()], |row| row.get(0)).optional()?;
        let sealed = sealed.ok_or(StoreError::KeyMissing { name: key.name() })?;
        Ok(self.kek.open(key.name(), KEY_VERSION, &sealed)?)
    }
}

fn connect(path: &Path, extra: OpenFlags) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | extra;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // A release or a refusal is on the disk before the peer hears of it. `SharedStore` keeps that promise for many at once.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", "ON")?;
    db.pragma_update(None, "secure_delete", "ON")?;
    Ok(db)
}

/// Seconds as SQLite keeps them; the year 292 277 026 596 is far enough.
fn seconds(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
