//! Admins: public halves and scopes. The service never sees a private one after `init`.

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

/// Table of admins.
pub(super) const SCHEMA: &str = "
CREATE TABLE admins (
  kid    TEXT PRIMARY KEY,
  name   TEXT NOT NULL UNIQUE,
  public TEXT NOT NULL,
  scopes TEXT NOT NULL
) STRICT;
";

/// What an admin may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Enroll sites.
    Enroll,
    /// Revoke sites.
    Revoke,
    /// List and show sites.
    Read,
}

impl Scope {
    /// Everything there is; what the first admin gets.
    pub const ALL: [Self; 3] = [Self::Enroll, Self::Revoke, Self::Read];
}

/// An admin as the service knows one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Key id, as in the header of the admin's tokens.
    pub kid: String,
    /// Name, for the audit log.
    pub name: String,
    /// P-384 public key, PEM.
    pub public: String,
    /// What the key may do.
    pub scopes: Vec<Scope>,
}

impl Store {
    /// Registers an admin.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn put_admin(&self, admin: &Admin) -> Result<(), StoreError> {
        self.db.execute(
            "INSERT INTO admins (kid, name, public, scopes) VALUES (?1, ?2, ?3, ?4)",
            params![admin.kid, admin.name, admin.public, serde_json::to_string(&admin.scopes)?],
        )?;
        Ok(())
    }

    /// The admin with a key id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn admin(&self, kid: &str) -> Result<Option<Admin>, StoreError> {
        let row = self
            .db
            .query_row("SELECT name, public, scopes FROM admins WHERE kid = ?1", [kid], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?))
            })
            .optional()?;
        row.map(|(name, public, scopes)| Ok(Admin { kid: kid.to_owned(), name, public, scopes: serde_json::from_str(&scopes)? }))
            .transpose()
    }
}
