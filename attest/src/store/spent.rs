//! What is remembered for a while: used nonces, used admin calls, and the facts behind stock clients' tokens.

use coffer_kbs_policy::EvidenceFacts;
use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, seconds};

/// Tables of what is remembered for a while.
pub(super) const SCHEMA: &str = "
CREATE TABLE spent (token BLOB PRIMARY KEY, forget_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX spent_by_age ON spent (forget_at);
CREATE TABLE token_facts (id TEXT PRIMARY KEY, facts TEXT NOT NULL, forget_at INTEGER NOT NULL) STRICT;
";

impl Store {
    /// Marks `token` as used; false if it was already. `forget_at` (Unix seconds) must lie after the token's own expiry.
    ///
    /// # Errors
    /// See [`StoreError`]; a caller must treat an error as *not redeemed*.
    pub fn spend(&self, kind: &str, token: &[u8], forget_at: u64) -> Result<bool, StoreError> {
        let key = [kind.as_bytes(), b"\0", token].concat();
        let inserted = self
            .db
            .execute("INSERT INTO spent (token, forget_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING", params![key, seconds(forget_at)])?;
        Ok(inserted == 1)
    }

    /// Keeps what was verified behind a token until the token expires.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn put_facts(&self, token_id: &str, facts: &EvidenceFacts, forget_at: u64) -> Result<(), StoreError> {
        self.db.execute(
            "INSERT INTO token_facts (id, facts, forget_at) VALUES (?1, ?2, ?3)",
            params![token_id, serde_json::to_string(facts)?, seconds(forget_at)],
        )?;
        Ok(())
    }

    /// What was verified behind a token.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn facts(&self, token_id: &str) -> Result<Option<EvidenceFacts>, StoreError> {
        let text: Option<String> =
            self.db.query_row("SELECT facts FROM token_facts WHERE id = ?1", [token_id], |row| row.get(0)).optional()?;
        Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
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
