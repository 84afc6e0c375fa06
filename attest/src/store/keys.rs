//! Token keys: sealed private halves, public halves for ever, and when each signs.
//!
//! A key's state follows from times alone, so that a restart at any moment finds every key where it was.

use coffer_token::{Jwks, RevocationKind, Signer, Withdrawn};
use rusqlite::{Connection, OptionalExtension, params};
use zeroize::Zeroizing;

use super::audit::{Entry, Event, Subject, append};
use super::revocations::{self, RevocationError};
use super::withdrawals::withdraw;
use super::{Store, StoreError, seconds};
use crate::kek::{Kek, SealError, random};
use crate::token_keys::{KeyRing, MAX_PUBLISHED_KEYS, RingKey};

/// Table of token keys. `sealed` is gone once a key signs no more.
pub(super) const SCHEMA: &str = "
CREATE TABLE token_keys (
  kid        TEXT PRIMARY KEY,
  jwks       TEXT NOT NULL,
  sealed     BLOB,
  made_at    INTEGER NOT NULL,
  signs_from INTEGER NOT NULL,
  leaked_at  INTEGER
) STRICT;
CREATE TRIGGER token_keys_stay BEFORE DELETE ON token_keys
  BEGIN SELECT RAISE(ABORT, 'token keys are never forgotten'); END;
CREATE TRIGGER token_keys_do_not_change BEFORE UPDATE OF kid, jwks, made_at ON token_keys
  BEGIN SELECT RAISE(ABORT, 'a token key never changes'); END;
CREATE TRIGGER leaked_token_keys_stay_leaked BEFORE UPDATE ON token_keys WHEN OLD.leaked_at IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'a leaked token key never changes'); END;
";

/// The code of the withdrawal: no guest is refused for it.
const LEAKED: &str = "token_key_leaked";

/// Envelopes of token keys have one version; a new key has a new name.
pub(super) const KEY_VERSION: u64 = 1;

/// Why the keys stay as they are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Nobody could publish more.
    #[error(
        "{got} token keys are published already, at most {MAX_PUBLISHED_KEYS} can be\nhint: wait until the oldest has left the set: `keys list` says when"
    )]
    TooMany {
        /// How many there are.
        got: usize,
    },
    /// A second rotation before the first one's key signs.
    #[error("token key `{kid}` is published and does not sign before {signs_from}\nhint: it is the next key already")]
    Pending {
        /// Its id.
        kid: String,
        /// Unix seconds.
        signs_from: u64,
    },
    /// No such key.
    #[error("no token key has id `{kid}`")]
    Unknown {
        /// What was asked for.
        kid: String,
    },
    /// Retired once is retired for good.
    #[error("token key `{kid}` was retired at {at}")]
    Retired {
        /// Its id.
        kid: String,
        /// Unix seconds.
        at: u64,
    },
    /// No key from 32 random bytes, a dozen times over.
    #[error("no random bytes make a token key")]
    NoKey,
    /// The revocation that goes with it.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for KeyError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Store(e.into())
    }
}

impl From<SealError> for KeyError {
    fn from(e: SealError) -> Self {
        Self::Store(e.into())
    }
}

impl Store {
    /// Every token key there ever was, as the service signs with them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn token_keys(&self) -> Result<KeyRing, StoreError> {
        let mut statement =
            self.db.prepare("SELECT kid, jwks, sealed, made_at, signs_from, leaked_at FROM token_keys ORDER BY signs_from, rowid")?;
        let mut rows = statement.query([])?;
        let mut keys = Vec::new();
        while let Some(row) = rows.next()? {
            let (kid, jwks, sealed): (String, String, Option<Vec<u8>>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let stamps: (i64, i64, Option<i64>) = (row.get(3)?, row.get(4)?, row.get(5)?);
            let signer = sealed.map(|sealed| self.open_token_key(&kid, &sealed)).transpose()?;
            let public = Jwks::parse(jwks.as_bytes()).map_err(|e| StoreError::TokenKey { kid: kid.clone(), source: e })?;
            keys.push(RingKey {
                kid,
                public,
                signer,
                made_at: stamps.0.unsigned_abs(),
                signs_from: stamps.1.unsigned_abs(),
                leaked_at: stamps.2.map(i64::unsigned_abs),
            });
        }
        Ok(KeyRing::new(keys))
    }

    /// Makes a key that signs from `signs_from` on; how a service gets its first one.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn add_token_key(&mut self, now: u64, signs_from: u64) -> Result<String, KeyError> {
        let tx = self.db.transaction()?;
        let kid = insert(&tx, &self.kek, now, signs_from)?;
        tx.commit()?;
        Ok(kid)
    }

    /// Makes the next key: published at once, signing from `now + delay`. The one before leaves the set by itself.
    ///
    /// # Errors
    /// [`KeyError::Pending`], [`KeyError::TooMany`].
    pub fn rotate_token_key(&mut self, delay_seconds: u64, by: &str, now: u64) -> Result<String, KeyError> {
        let ring = self.token_keys()?;
        if let Some(next) = ring.next(now) {
            return Err(KeyError::Pending { kid: next.kid.clone(), signs_from: next.signs_from });
        }
        let got = ring.published(now).count();
        if got >= MAX_PUBLISHED_KEYS {
            return Err(KeyError::TooMany { got });
        }
        let signs_from = now.saturating_add(delay_seconds);
        let tx = self.db.transaction()?;
        let kid = insert(&tx, &self.kek, now, signs_from)?;
        let detail = format!("token key {kid} is published and signs from {signs_from}");
        append(&tx, self.root_of_trust, Entry::new(now, Event::RotateKey, by, "ok", detail, Subject::default()))?;
        tx.commit()?;
        Ok(kid)
    }

    /// Ends a leaked key at once: its private half is destroyed, its tokens count no more, and the revocation has a number. Where
    /// it was the one that signs, the next one signs from now on, made anew if there is none.
    ///
    /// # Errors
    /// [`KeyError::Unknown`], [`KeyError::Retired`].
    pub fn retire_token_key(&mut self, kid: &str, reason: &str, by: &str, now: u64) -> Result<u64, KeyError> {
        let ring = self.token_keys()?;
        let key = ring.find(kid).ok_or_else(|| KeyError::Unknown { kid: kid.to_owned() })?;
        if let Some(at) = key.leaked_at.or_else(|| ring.left_at(kid).filter(|at| *at <= now)) {
            return Err(KeyError::Retired { kid: kid.to_owned(), at });
        }
        let tx = self.db.transaction()?;
        let new = revocations::New { kind: RevocationKind::TokenKey, value: kid, name: None, reason, by };
        let number = revocations::insert(&tx, self.root_of_trust, &new, now)?;
        mark_leaked(&tx, &self.kek, kid, now)?;
        tx.commit()?;
        self.refresh_revocations()?;
        Ok(number)
    }

    /// Destroys private halves that sign no more.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn forget_old_token_keys(&mut self, now: u64) -> Result<usize, StoreError> {
        let ring = self.token_keys()?;
        let mut gone = 0;
        for key in ring.superseded(now) {
            gone += self.db.execute("UPDATE token_keys SET sealed = NULL WHERE kid = ?1 AND sealed IS NOT NULL", [&key.kid])?;
        }
        Ok(gone)
    }

    fn open_token_key(&self, kid: &str, sealed: &[u8]) -> Result<Signer, StoreError> {
        let plain = self.kek.open(&envelope_name(kid), KEY_VERSION, sealed)?;
        let got = plain.len();
        let bytes = <[u8; 32]>::try_from(plain.as_slice()).map_err(|_| StoreError::SealedLength { name: envelope_name(kid), got })?;
        Signer::from_bytes(&Zeroizing::new(bytes)).map_err(|source| StoreError::TokenKey { kid: kid.to_owned(), source })
    }
}

/// Ends a key within a caller's transaction, and sees to it that one signs at `now`.
pub(super) fn mark_leaked(db: &Connection, kek: &Kek, kid: &str, now: u64) -> Result<(), KeyError> {
    db.execute("UPDATE token_keys SET sealed = NULL, leaked_at = ?2 WHERE kid = ?1 AND leaked_at IS NULL", params![kid, seconds(now)])?;
    withdraw(db, Withdrawn::TokenKey { kid: kid.to_owned() }, LEAKED, now)?;
    // An older key that still covers its last tokens does not sign again: the one that leaked had taken over from it.
    let signs: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM token_keys WHERE leaked_at IS NULL AND sealed IS NOT NULL AND signs_from <= ?2
           AND signs_from >= coalesce((SELECT signs_from FROM token_keys WHERE kid = ?1 AND signs_from <= ?2), 0))",
        params![kid, seconds(now)],
        |row| row.get(0),
    )?;
    if signs {
        return Ok(());
    }
    let next: Option<String> = db
        .query_row(
            "SELECT kid FROM token_keys WHERE leaked_at IS NULL AND sealed IS NOT NULL AND signs_from > ?1 ORDER BY signs_from LIMIT 1",
            [seconds(now)],
            |row| row.get(0),
        )
        .optional()?;
    match next {
        Some(next) => db.execute("UPDATE token_keys SET signs_from = ?2 WHERE kid = ?1", params![next, seconds(now)]).map(|_| ())?,
        None => insert(db, kek, now, now).map(|_| ())?,
    }
    Ok(())
}

fn insert(db: &Connection, kek: &Kek, now: u64, signs_from: u64) -> Result<String, KeyError> {
    let signer = new_signer()?;
    let kid = signer.kid().to_owned();
    let sealed = kek.seal(&envelope_name(&kid), KEY_VERSION, signer.expose().as_slice())?;
    let jwks = signer.jwks().to_bytes().map_err(|source| StoreError::TokenKey { kid: kid.clone(), source })?;
    db.execute(
        "INSERT INTO token_keys (kid, jwks, sealed, made_at, signs_from) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![kid, String::from_utf8_lossy(&jwks), sealed, seconds(now), seconds(signs_from)],
    )?;
    Ok(kid)
}

fn new_signer() -> Result<Signer, KeyError> {
    // One draw in 2^32 is no scalar.
    for _ in 0..12 {
        if let Ok(signer) = Signer::from_bytes(&Zeroizing::new(random()?)) {
            return Ok(signer);
        }
    }
    Err(KeyError::NoKey)
}

/// The name under which a token key is sealed.
pub(super) fn envelope_name(kid: &str) -> String {
    format!("service/token-key/{kid}")
}
