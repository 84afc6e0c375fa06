//! Revocations: numbered 1, 2, 3, … without gaps, append-only, and every value at most once.

use std::sync::Arc;

use coffer_evidence::{ChipId, HostData, KeyDigest, LaunchDigest};
use coffer_manifest::{Enrollment, RootOfTrust};
use coffer_token::{Hex, Jkt, Revocation, RevocationKind, RevocationList, Withdrawn};
use coffer_verify::Rule;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::admins::mark_revoked;
use super::audit::{Entry, Event, Subject, append};
use super::instances::withdraw_resting_on;
use super::keys::{KeyError, mark_leaked};
use super::sites::close_imported;
use super::withdrawals::withdraw;
use super::{Store, StoreError, seconds};
use crate::reason::Reason;
use crate::revocation::Revocations;

/// Table of revocations.
pub(super) const SCHEMA: &str = "
CREATE TABLE revocations (
  number INTEGER PRIMARY KEY,
  kind   TEXT NOT NULL,
  value  TEXT NOT NULL,
  name   TEXT,
  at     INTEGER NOT NULL,
  by     TEXT,
  reason TEXT,
  UNIQUE (kind, value)
) STRICT;
CREATE INDEX revocations_by_name ON revocations (kind, name);
CREATE TRIGGER revocations_are_append_only_u BEFORE UPDATE ON revocations
  BEGIN SELECT RAISE(ABORT, 'revocations are append-only'); END;
CREATE TRIGGER revocations_are_append_only_d BEFORE DELETE ON revocations
  BEGIN SELECT RAISE(ABORT, 'revocations are append-only'); END;
CREATE TRIGGER revocations_have_no_gap BEFORE INSERT ON revocations
  WHEN NEW.number != (SELECT coalesce(max(number), 0) + 1 FROM revocations)
  BEGIN SELECT RAISE(ABORT, 'revocations are numbered without gaps'); END;
";

/// How the reason begins where a successor's HOST_DATA follows.
pub(super) const SUPERSEDED: &str = "superseded by ";

/// The longest reason, in bytes: one line of text.
pub const MAX_REASON_BYTES: usize = 1000;

/// Why nothing is revoked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// It was already.
    #[error("{kind} `{value}` is revoked already: number {number}")]
    Already {
        /// Of what.
        kind: RevocationKind,
        /// Which.
        value: String,
        /// Of that revocation.
        number: u64,
    },
    /// A value of another form.
    #[error("`{value}` is no {kind}: {expected}")]
    Value {
        /// Of what.
        kind: RevocationKind,
        /// What was given.
        value: String,
        /// What is expected.
        expected: String,
    },
    /// Would hit every masked chip, or every guest without an ID block.
    #[error("{kind} of zeros is what reports show where there is none to name\nhint: a project's reference values can demand one")]
    Zeros {
        /// Of what.
        kind: RevocationKind,
    },
    /// A reason that would write lines of its own into lists and logs.
    #[error("reason has {got} bytes or a control character, expected 1 to {MAX_REASON_BYTES} bytes of one line")]
    Reason {
        /// Its length.
        got: usize,
    },
    /// The words by which this service knows a succession: nobody else writes them.
    #[error("reason begins with `{SUPERSEDED}`, which only an enrollment's `supersedes` writes\nhint: say it in other words")]
    OurWords,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for RevocationError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Store(e.into())
    }
}

/// Why a list is not taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The list starts after what the database has.
    #[error("list starts after number {after}, the database goes up to {have}\nhint: export the list from the beginning")]
    Gap {
        /// Of the list.
        after: u64,
        /// Of the database.
        have: u64,
    },
    /// The same number stands for something else.
    #[error("revocation {number} is of {ours} here and of {theirs} in the list: the two did not come from one service")]
    Fork {
        /// The first number that differs.
        number: u64,
        /// Kind and value in the database.
        ours: String,
        /// Kind and value in the list.
        theirs: String,
    },
    /// A revocation of it.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// A token key of it.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for ImportError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Store(e.into())
    }
}

/// What [`insert`] writes down.
#[derive(Clone, Copy)]
pub(super) struct New<'a> {
    pub(super) kind: RevocationKind,
    pub(super) value: &'a str,
    pub(super) name: Option<&'a str>,
    pub(super) reason: &'a str,
    pub(super) by: &'a str,
}

impl Store {
    /// Revokes an image, a chip, an author key or an ID key for the whole service; gives its number.
    ///
    /// # Errors
    /// See [`RevocationError`].
    pub fn revoke_value(&mut self, kind: RevocationKind, value: &str, reason: &str, by: &str, now: u64) -> Result<u64, RevocationError> {
        let value = canonical(kind, value)?;
        check_reason(reason)?;
        let tx = self.db.transaction()?;
        let number = insert(&tx, self.root_of_trust, &New { kind, value: &value, name: None, reason, by }, now)?;
        withdraw_value(&tx, kind, &value, now)?;
        tx.commit()?;
        self.refresh_revocations()?;
        Ok(number)
    }

    /// Takes over what a signed list of this service, given in stretches, has and this database has not: a restored backup learns what was revoked
    /// since. Gives how many that were.
    ///
    /// # Errors
    /// See [`ImportError`]; nothing is changed then.
    pub fn import_revocations(&mut self, lists: &[RevocationList], by: &str, now: u64) -> Result<u64, ImportError> {
        let have = newest(&self.db)?;
        if let Some(list) = lists.first().filter(|list| list.after > have) {
            return Err(ImportError::Gap { after: list.after, have });
        }
        let tx = self.db.transaction()?;
        let mut added = 0;
        for entry in lists.iter().flat_map(|list| &list.entries) {
            if entry.number <= have {
                check_same(&tx, entry)?;
                continue;
            }
            put(&tx, entry)?;
            match entry.kind {
                RevocationKind::Site => close_imported(&tx, self.root_of_trust, entry, by, now)?,
                RevocationKind::Admin => mark_revoked(&tx, &entry.value, entry.at)?,
                RevocationKind::TokenKey => mark_leaked(&tx, &self.kek, &entry.value, now)?,
                RevocationKind::Image | RevocationKind::Chip | RevocationKind::Key => withdraw_value(&tx, entry.kind, &entry.value, now)?,
            }
            added += 1;
        }
        if added > 0 {
            let detail = format!("imported revocations {} to {}", have + 1, have + added);
            append(&tx, self.root_of_trust, Entry::new(now, Event::Import, by, "ok", detail, Subject::default()))?;
        }
        tx.commit()?;
        self.refresh_revocations()?;
        Ok(added)
    }

    /// Reads the whole list into what requests look at. Called within the lock that the change itself held.
    pub(super) fn refresh_revocations(&mut self) -> Result<(), StoreError> {
        let current = self.revocations.load();
        let mut entries = current.entries().to_vec();
        entries.extend(read(&self.db, current.number())?.into_iter().map(Arc::new));
        self.revocations.replace(Revocations::new(entries));
        Ok(())
    }
}

/// What was given to whoever rests on a revoked image, chip or key, within a caller's transaction.
fn withdraw_value(db: &Connection, kind: RevocationKind, value: &str, now: u64) -> Result<(), StoreError> {
    match kind {
        RevocationKind::Image => {
            let launch_digest = value.parse::<LaunchDigest>()?;
            let image = Withdrawn::Image { launch_digest: Hex(*launch_digest.as_bytes()) };
            withdraw(db, image, Reason::Rule(Rule::LaunchDigestRevoked).code(), now)
        }
        RevocationKind::Chip => withdraw_resting_on(db, kind, value, Reason::Rule(Rule::ChipRevoked).code(), now),
        RevocationKind::Key => withdraw_resting_on(db, kind, value, Reason::Rule(Rule::KeyRevoked).code(), now),
        // A site and a token key where they are closed; an admin holds no lease.
        RevocationKind::Site | RevocationKind::Admin | RevocationKind::TokenKey => Ok(()),
    }
}

/// Everything after a number.
pub(super) fn read(db: &Connection, after: u64) -> Result<Vec<Revocation>, StoreError> {
    let mut statement =
        db.prepare("SELECT number, kind, value, name, at, by, reason FROM revocations WHERE number > ?1 ORDER BY number")?;
    statement.query_map([seconds(after)], row)?.map(|row| row?).collect()
}

fn row(row: &Row<'_>) -> rusqlite::Result<Result<Revocation, StoreError>> {
    let (number, kind, at): (i64, String, i64) = (row.get(0)?, row.get(1)?, row.get(4)?);
    let rest = (row.get(2)?, row.get(3)?, row.get(5)?, row.get(6)?);
    Ok(kind.parse().map_err(|_| StoreError::RevocationKind { kind }).map(|kind| {
        let (value, name, by, reason) = rest;
        Revocation { number: number.unsigned_abs(), kind, value, at: at.unsigned_abs(), name, by, reason }
    }))
}

fn newest(db: &Connection) -> Result<u64, StoreError> {
    let newest: i64 = db.query_row("SELECT coalesce(max(number), 0) FROM revocations", [], |row| row.get(0))?;
    Ok(newest.unsigned_abs())
}

/// The number under which something is revoked already.
pub(super) fn number_of(db: &Connection, kind: RevocationKind, value: &str) -> Result<Option<u64>, StoreError> {
    let number: Option<i64> = db
        .prepare_cached("SELECT number FROM revocations WHERE kind = ?1 AND value = ?2")?
        .query_row([kind.name(), value], |row| row.get(0))
        .optional()?;
    Ok(number.map(i64::unsigned_abs))
}

/// Whether a name was that of something revoked that this database never had: it came with an imported list.
pub(super) fn name_is_gone(db: &Connection, kind: RevocationKind, name: &str) -> Result<bool, StoreError> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM revocations WHERE kind = ?1 AND name = ?2)")?
        .query_row([kind.name(), name], |row| row.get(0))?)
}

/// The newest revocation of a site's configs.
pub(super) struct Gone {
    pub(super) host_data: String,
    reason: Option<String>,
}

impl Gone {
    /// Whether that config was revoked because this very record took its place: after a restore it may be enrolled again.
    pub(super) fn makes_way_for(&self, record: &Enrollment) -> bool {
        let superseded = format!("{SUPERSEDED}{}", record.host_data);
        let named = record.supersedes.is_some_and(|old| old.to_string() == self.host_data);
        named && self.reason.as_ref().is_some_and(|reason| reason.starts_with(&superseded))
    }
}

/// The newest revocation under a name.
pub(super) fn newest_of_name(db: &Connection, kind: RevocationKind, name: &str) -> Result<Option<Gone>, StoreError> {
    Ok(db
        .prepare_cached("SELECT value, reason FROM revocations WHERE kind = ?1 AND name = ?2 ORDER BY number DESC LIMIT 1")?
        .query_row([kind.name(), name], |row| Ok(Gone { host_data: row.get(0)?, reason: row.get(1)? }))
        .optional()?)
}

/// Appends the next revocation and its audit entry within a caller's transaction.
pub(super) fn insert(db: &Connection, root_of_trust: RootOfTrust, new: &New<'_>, now: u64) -> Result<u64, RevocationError> {
    if let Some(number) = number_of(db, new.kind, new.value)? {
        return Err(RevocationError::Already { kind: new.kind, value: new.value.to_owned(), number });
    }
    let entry = numbered(db, new, now)?;
    let detail = format!("revocation {}: {} {}: {}", entry.number, new.kind, new.value, new.reason);
    append(db, root_of_trust, Entry::new(now, Event::Revoke, new.by, "ok", detail, Subject::default()))?;
    Ok(entry.number)
}

/// Appends the next revocation alone: the caller writes the audit entry.
pub(super) fn numbered(db: &Connection, new: &New<'_>, now: u64) -> Result<Revocation, StoreError> {
    let number = newest(db)?.saturating_add(1);
    let (by, reason) = (Some(new.by.to_owned()), Some(new.reason.to_owned()));
    let name = new.name.map(str::to_owned);
    let entry = Revocation { number, kind: new.kind, value: new.value.to_owned(), at: now, name, by, reason };
    put(db, &entry)?;
    Ok(entry)
}

fn put(db: &Connection, entry: &Revocation) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO revocations (number, kind, value, name, at, by, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            seconds(entry.number),
            entry.kind.name(),
            entry.value,
            entry.name.as_deref(),
            seconds(entry.at),
            entry.by.as_deref(),
            entry.reason.as_deref()
        ],
    )?;
    Ok(())
}

fn check_same(db: &Connection, theirs: &Revocation) -> Result<(), ImportError> {
    let ours: (String, String) =
        db.query_row("SELECT kind, value FROM revocations WHERE number = ?1", [seconds(theirs.number)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if ours == (theirs.kind.name().to_owned(), theirs.value.clone()) {
        return Ok(());
    }
    let (ours, theirs, number) = (format!("{} {}", ours.0, ours.1), format!("{} {}", theirs.kind, theirs.value), theirs.number);
    Err(ImportError::Fork { number, ours, theirs })
}

/// The value as reports show it; an upper-case or padded one would never match.
fn canonical(kind: RevocationKind, value: &str) -> Result<String, RevocationError> {
    let refuse = |expected: String| RevocationError::Value { kind, value: value.chars().take(140).collect(), expected };
    let zeros = match kind {
        RevocationKind::Chip => value.parse::<ChipId>().map_err(|e| refuse(e.to_string()))?.as_bytes().iter().all(|b| *b == 0),
        RevocationKind::Key => value.parse::<KeyDigest>().map_err(|e| refuse(e.to_string()))?.as_bytes().iter().all(|b| *b == 0),
        RevocationKind::Image => value.parse::<LaunchDigest>().map_err(|e| refuse(e.to_string()))?.as_bytes().iter().all(|b| *b == 0),
        RevocationKind::Site => value.parse::<HostData>().map(|_| false).map_err(|e| refuse(e.to_string()))?,
        RevocationKind::Admin | RevocationKind::TokenKey => value.parse::<Jkt>().map(|_| false).map_err(|e| refuse(e.to_string()))?,
    };
    if zeros { Err(RevocationError::Zeros { kind }) } else { Ok(value.to_owned()) }
}

/// Reasons end up in lists, logs and terminals; and after a restore a succession is known by its reason.
pub(super) fn check_reason(reason: &str) -> Result<(), RevocationError> {
    if reason.starts_with(SUPERSEDED) {
        return Err(RevocationError::OurWords);
    }
    let fits = (1..=MAX_REASON_BYTES).contains(&reason.len()) && !reason.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(RevocationError::Reason { got: reason.len() }) }
}

#[cfg(test)]
mod tests;
