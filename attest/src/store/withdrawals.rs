//! Withdrawals: what gates are told to end at once, for as long as a lease can last. Each is written in the transaction of what
//! causes it; the database numbers them and gives no number twice.
//!
//! One thing is withdrawn by one row: a newer row covers whatever the older one did, so there are no more of them than there are
//! sites, instances, images and keys.

use coffer_evidence::{HostData, ReportId};
use coffer_token::{Hex, MAX_WITHDRAWALS_PER_LIST, Version1, WITHDRAWALS_KEPT_SECONDS, Withdrawal, WithdrawalList, Withdrawn};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::audit::{Entry, append};
use super::{Store, StoreError, seconds};

/// Table of withdrawals.
pub(super) const SCHEMA: &str = "
CREATE TABLE withdrawals (
  number    INTEGER PRIMARY KEY AUTOINCREMENT,
  at        INTEGER NOT NULL,
  made_at   INTEGER NOT NULL,
  code      TEXT NOT NULL,
  withdrawn TEXT NOT NULL UNIQUE,
  stranger  INTEGER NOT NULL CHECK (stranger IN (0, 1))
) STRICT;
CREATE TRIGGER withdrawals_do_not_change BEFORE UPDATE ON withdrawals
  BEGIN SELECT RAISE(ABORT, 'a withdrawal never changes'); END;
";

/// Refused instances kept at most that this service never gave a token. Whoever owns a processor starts as many as they like; no
/// lease of this service's rests on one, so the oldest give way.
pub const MAX_STRANGERS: u32 = 200;

/// The newest number ever given; 0 where none was.
const NEWEST: &str = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'withdrawals'), 0)";

/// An instance whose evidence is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedInstance {
    /// Of its report.
    pub host_data: HostData,
    /// REPORT_ID of its report.
    pub instance: ReportId,
}

impl Store {
    /// The newest number ever given; 0 where none was.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn newest_withdrawal(&self) -> Result<u64, StoreError> {
        let newest: i64 = self.db.prepare_cached(NEWEST)?.query_row([], |row| row.get(0))?;
        Ok(newest.unsigned_abs())
    }

    /// What comes after a number, as much as one list carries.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn withdrawals(&self, iss: &str, epoch: u64, after: u64, now: u64) -> Result<WithdrawalList, StoreError> {
        let sql = "SELECT number, at, code, withdrawn FROM withdrawals WHERE number > ?1 ORDER BY number LIMIT ?2";
        let limit = i64::try_from(MAX_WITHDRAWALS_PER_LIST).unwrap_or(i64::MAX);
        let mut statement = self.db.prepare_cached(sql)?;
        let entries = statement.query_map([seconds(after), limit], withdrawal)?.map(|row| row?).collect::<Result<_, StoreError>>()?;
        let number = self.newest_withdrawal()?;
        Ok(WithdrawalList { v: Version1, iss: iss.to_owned(), epoch, iat: now, number, after, entries })
    }

    /// Records a refusal of authentic evidence, and withdraws what its instance was given before.
    ///
    /// # Errors
    /// See [`StoreError`]; both or neither.
    pub fn record_refusal(&self, entry: Entry, refused: Option<RefusedInstance>) -> Result<(), StoreError> {
        let (now, code) = (entry.at, entry.code.clone());
        self.together(|store| {
            append(&store.db, store.root_of_trust, entry)?;
            refused.map_or(Ok(()), |refused| withdraw_refused(&store.db, refused, &code, now))
        })
    }

    /// Drops what no lease can rest on any more.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn forget_withdrawals(&self, now: u64) -> Result<usize, StoreError> {
        Ok(self.db.execute("DELETE FROM withdrawals WHERE made_at < ?1", [seconds(now.saturating_sub(WITHDRAWALS_KEPT_SECONDS))])?)
    }
}

fn withdrawal(row: &Row<'_>) -> rusqlite::Result<Result<Withdrawal, StoreError>> {
    let (number, at, code, withdrawn): (i64, i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    Ok(serde_json::from_str(&withdrawn).map_err(StoreError::from).map(|withdrawn| Withdrawal {
        number: number.unsigned_abs(),
        at: at.unsigned_abs(),
        code,
        withdrawn,
    }))
}

/// Withdraws within a caller's transaction.
///
/// It covers every token that was given, also where the clock was ahead when it was and has been set back since.
pub(super) fn withdraw(db: &Connection, withdrawn: Withdrawn, code: &str, now: u64) -> Result<(), StoreError> {
    let newest_token = match &withdrawn {
        Withdrawn::Site { host_data } => newest_token(db, "host_data = ?1", [host_data.to_string()])?,
        Withdrawn::Instance { host_data, instance } => token_of(db, host_data, instance)?,
        Withdrawn::Image { launch_digest } => newest_token(db, "launch_digest = ?1", [launch_digest.to_string()])?,
        // Whoever has the key writes what time they like into a token.
        Withdrawn::TokenKey { .. } => Some(now.saturating_add(WITHDRAWALS_KEPT_SECONDS)),
    };
    put(db, &withdrawn, code, now, newest_token.unwrap_or(0), false)
}

/// The newest `iat` of the tokens that some instances were given.
fn newest_token<const N: usize>(db: &Connection, which: &str, values: [String; N]) -> Result<Option<u64>, StoreError> {
    let sql = format!("SELECT max(last_seen) FROM instances WHERE {which}");
    let newest: Option<i64> = db.prepare_cached(&sql)?.query_row(params_from_iter(values), |row| row.get(0))?;
    Ok(newest.map(i64::unsigned_abs))
}

/// The newest `iat` of the tokens that one instance was given.
fn token_of(db: &Connection, host_data: &Hex<32>, instance: &Hex<32>) -> Result<Option<u64>, StoreError> {
    newest_token(db, "host_data = ?1 AND instance = ?2", [host_data.to_string(), instance.to_string()])
}

/// Withdraws what a refused instance was given, unless that is done already.
fn withdraw_refused(db: &Connection, refused: RefusedInstance, code: &str, now: u64) -> Result<(), StoreError> {
    let (host_data, instance) = (Hex(*refused.host_data.as_bytes()), Hex(*refused.instance.as_bytes()));
    let newest_token = token_of(db, &host_data, &instance)?;
    let withdrawn = Withdrawn::Instance { host_data, instance };
    let text = serde_json::to_string(&withdrawn)?;
    let there = db.prepare_cached("SELECT at FROM withdrawals WHERE withdrawn = ?1")?.query_row([&text], |row| row.get::<_, i64>(0));
    if there.optional()?.is_some_and(|at| at.unsigned_abs() >= newest_token.unwrap_or(0)) {
        return Ok(());
    }
    put(db, &withdrawn, code, now, newest_token.unwrap_or(0), newest_token.is_none())?;
    db.prepare_cached(
        "DELETE FROM withdrawals WHERE stranger = 1 AND number <=
           (SELECT number FROM withdrawals WHERE stranger = 1 ORDER BY number DESC LIMIT 1 OFFSET ?1)",
    )?
    .execute([MAX_STRANGERS])?;
    Ok(())
}

fn put(db: &Connection, withdrawn: &Withdrawn, code: &str, now: u64, newest_token: u64, stranger: bool) -> Result<(), StoreError> {
    let text = serde_json::to_string(withdrawn)?;
    db.prepare_cached("DELETE FROM withdrawals WHERE withdrawn = ?1")?.execute([&text])?;
    db.prepare_cached("INSERT INTO withdrawals (at, made_at, code, withdrawn, stranger) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        seconds(now.max(newest_token)),
        seconds(now),
        code,
        text,
        stranger
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests;
