//! What is remembered for a while: answered challenges, used admin calls, and the facts behind stock clients' tokens.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use coffer_kbs_policy::EvidenceFacts;
use coffer_protocol::Nonce;
use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, seconds};

/// Tables of what is remembered for a while.
pub(super) const SCHEMA: &str = "
CREATE TABLE spent (token BLOB PRIMARY KEY, forget_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE token_facts (id TEXT PRIMARY KEY, facts TEXT NOT NULL, values_tag TEXT NOT NULL, forget_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Challenges that have been answered, until they expire: each counts once, whatever became of it.
///
/// In memory, and so neither on the disk nor behind an fsync. A crash or a restart forgets them, and raises the epoch before it
/// answers anybody ([`Store::raise_epoch`]); the cookie of every challenge names its epoch, so none of an earlier one can be
/// answered at all. Times are seconds of one monotonic clock, so that a wall clock set back brings none to life again. Two
/// processes that share a cookie key and an epoch would have to share this set too.
///
/// It holds what was answered within the life of one challenge: 32 bytes and some overhead for each.
#[derive(Debug, Default)]
pub struct SpentChallenges(Mutex<Spent>);

#[derive(Debug, Default)]
struct Spent {
    /// By the second in which they expire, which the sealed cookie says and no client can change.
    nonces: BTreeMap<u64, HashSet<[u8; Nonce::LEN]>>,
    /// Everything that expires up to here has been forgotten.
    forgotten: u64,
}

impl SpentChallenges {
    /// Marks a challenge as answered; false if it was already, or has expired.
    pub fn spend(&self, nonce: &Nonce, expires_at: u64, now: u64) -> bool {
        // A panic between two changes leaves a nonce spent or not yet forgotten: the safe side.
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now > spent.forgotten {
            spent.forgotten = now;
            spent.nonces = spent.nonces.split_off(&now.saturating_add(1));
        }
        expires_at > spent.forgotten && spent.nonces.entry(expires_at).or_default().insert(*nonce.as_bytes())
    }

    /// How many are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).nonces.values().map(HashSet::len).sum()
    }
}

impl Store {
    /// Marks `token` as used; false if it was already. `forget_at` (Unix seconds) must lie after the token's own expiry.
    ///
    /// # Errors
    /// See [`StoreError`]; a caller must treat an error as *not redeemed*.
    pub fn spend(&self, kind: &str, token: &[u8], forget_at: u64) -> Result<bool, StoreError> {
        let key = [kind.as_bytes(), b"\0", token].concat();
        let inserted = self
            .db
            .prepare_cached("INSERT INTO spent (token, forget_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute(params![key, seconds(forget_at)])?;
        Ok(inserted == 1)
    }

    /// Keeps what was verified behind a token until the token expires.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn put_facts(&self, token_id: &str, facts: &EvidenceFacts, values_tag: &str, forget_at: u64) -> Result<(), StoreError> {
        self.db.prepare_cached("INSERT INTO token_facts (id, facts, values_tag, forget_at) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            token_id,
            serde_json::to_string(facts)?,
            values_tag,
            seconds(forget_at)
        ])?;
        Ok(())
    }

    /// What was verified behind a token, and under which reference values.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn facts(&self, token_id: &str) -> Result<Option<(EvidenceFacts, String)>, StoreError> {
        let row: Option<(String, String)> = self
            .db
            .prepare_cached("SELECT facts, values_tag FROM token_facts WHERE id = ?1")?
            .query_row([token_id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(row.map(|(facts, tag)| serde_json::from_str(&facts).map(|facts| (facts, tag))).transpose()?)
    }

    /// Drops what can no longer be presented.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn forget(&self, now: u64) -> Result<usize, StoreError> {
        let facts = self.db.execute("DELETE FROM token_facts WHERE forget_at < ?1", [seconds(now)])?;
        Ok(facts + self.db.execute("DELETE FROM spent WHERE forget_at < ?1", [seconds(now)])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_counts_once_and_never_after_it_has_expired() {
        let spent = SpentChallenges::default();
        let nonce = |n| Nonce::new([n; 32]);
        assert!(spent.spend(&nonce(1), 160, 100));
        assert!(!spent.spend(&nonce(1), 160, 100));
        assert!(!spent.spend(&nonce(1), 160, 159));
        assert!(spent.spend(&nonce(2), 160, 159));
        assert_eq!(spent.len(), 2);
        // Forgotten, and refused all the same, even by a clock that runs backwards.
        assert!(!spent.spend(&nonce(1), 160, 160));
        assert_eq!(spent.len(), 0);
        assert!(!spent.spend(&nonce(1), 160, 100));
        assert!(!spent.spend(&nonce(3), 160, 100));
        assert!(spent.spend(&nonce(3), 220, 160));
    }

    #[test]
    fn it_holds_the_challenges_of_one_life_and_no_more() {
        let spent = SpentChallenges::default();
        for now in 0..600_u64 {
            for n in 0..10_u8 {
                let mut bytes = [n; 32];
                bytes[..8].copy_from_slice(&now.to_be_bytes());
                assert!(spent.spend(&Nonce::new(bytes), now + 60, now));
            }
            assert!(spent.len() <= 600, "{} after {now} s", spent.len());
        }
    }
}
