//! What may be used once: challenge nonces and the ids of admin calls.

use rusqlite::params;

use super::{Store, StoreError, seconds};

impl Store {
    /// Marks `token` as used; false if it was already. `forget_at` (Unix seconds) must lie after the token's own expiry.
    ///
    /// # Errors
    /// See [`StoreError`]; a caller must treat an error as *not redeemed*.
    pub fn spend(&self, kind: &str, token: &[u8], forget_at: u64) -> Result<bool, StoreError> {
        let key = [kind.as_bytes(), b"\0", token].concat();
        let inserted = self.db.execute(
            "INSERT INTO spent (token, forget_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![key, seconds(forget_at)],
        )?;
        Ok(inserted == 1)
    }

    /// Drops what can no longer be presented.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn forget_spent(&self, now: u64) -> Result<usize, StoreError> {
        Ok(self.db.execute("DELETE FROM spent WHERE forget_at < ?1", [seconds(now)])?)
    }
}
