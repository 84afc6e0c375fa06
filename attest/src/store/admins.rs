//! Admins: public halves, scopes and, for a tenant's, the one project. The service never sees a private key after `init`.
//!
//! Names and keys are given once: a revoked admin stays as a tombstone.

use coffer_manifest::{ProjectName, RootOfTrust};
use coffer_token::RevocationKind;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::audit::{Entry, Event, Subject, append};
use super::revocations::{self, RevocationError, check_reason};
use super::{Store, StoreError, seconds};

/// Table of admins.
pub(super) const SCHEMA: &str = "
CREATE TABLE admins (
  kid        TEXT PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  public     TEXT NOT NULL,
  scopes     TEXT NOT NULL,
  project    TEXT,
  added_at   INTEGER NOT NULL,
  added_by   TEXT NOT NULL,
  revoked_at INTEGER
) STRICT;
CREATE TRIGGER admins_stay BEFORE DELETE ON admins
  BEGIN SELECT RAISE(ABORT, 'admins are never deleted'); END;
CREATE TRIGGER admins_do_not_change BEFORE UPDATE OF kid, name, public, scopes, project, added_at, added_by ON admins
  BEGIN SELECT RAISE(ABORT, 'an admin never changes'); END;
CREATE TRIGGER revoked_admins_stay_revoked BEFORE UPDATE ON admins WHEN OLD.revoked_at IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'a revoked admin never changes'); END;
";

/// What an admin may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Enroll sites
    Enroll,
    /// Revoke sites; for the whole service also images, chips and keys
    Revoke,
    /// List and show sites and revocations
    Read,
    /// Change reference values and rego
    Policy,
    /// Import and fetch certificates and revocation lists of AMD
    Collateral,
    /// Read the audit log
    Audit,
    /// Add and revoke admins
    Admin,
    /// Rotate and retire token keys
    Keys,
}

impl Scope {
    /// Everything there is; what the first admin gets.
    pub const ALL: [Self; 8] =
        [Self::Enroll, Self::Revoke, Self::Read, Self::Policy, Self::Collateral, Self::Audit, Self::Admin, Self::Keys];
}

/// An admin as the service knows one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Admin {
    /// Key id, as in the header of the admin's tokens.
    pub kid: String,
    /// Name, for the audit log.
    pub name: String,
    /// P-384 public key, PEM.
    pub public: String,
    /// What the key may do.
    pub scopes: Vec<Scope>,
    /// The one project it may do that in; the whole service, if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// Unix seconds.
    pub added_at: u64,
    /// Which admin; `init` or `recover` for those that nobody added by a call.
    pub added_by: String,
    /// Unix seconds; from then on for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<u64>,
}

impl Admin {
    /// Whether a project exists, as far as this admin is told.
    #[must_use]
    pub fn sees(&self, project: &ProjectName) -> bool {
        self.project.as_ref().is_none_or(|own| own == project)
    }
}

/// Why there is no new admin, or why the old one stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Names are given once.
    #[error("admin name `{name}` was given already, to {}", if *revoked { "one who is revoked" } else { "one who is active" })]
    NameTaken {
        /// The name.
        name: String,
        /// Whether that one is revoked.
        revoked: bool,
    },
    /// Keys too.
    #[error("key {kid} was registered already, for admin `{name}`")]
    KeyTaken {
        /// Its id.
        kid: String,
        /// Whose it is or was.
        name: String,
    },
    /// A name that does not fit logs and terminals.
    #[error("admin name `{name}` is not 1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`, `@`")]
    Name {
        /// What was given, shortened to 80 characters.
        name: String,
    },
    /// An admin who may do nothing.
    #[error("admin `{name}` gets no scope, expected at least one")]
    NoScope {
        /// The name.
        name: String,
    },
    /// Nobody gives what they do not have.
    #[error("admin `{giver}` cannot give {what}, which they do not have")]
    Grant {
        /// Who wanted to.
        giver: String,
        /// The scope, or the whole service.
        what: String,
    },
    /// No such admin, for this caller.
    #[error("no admin is called `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// Nobody could add admins any more.
    #[error(
        "admin `{name}` is the last with scope `admin` for the whole service\n\
         hint: add a successor with that scope first; on the service's machine `coffer-attest admin recover` adds one in any case"
    )]
    Last {
        /// The name.
        name: String,
    },
    /// The revocation that goes with it.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for AdminError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Store(e.into())
    }
}

const SELECT: &str = "SELECT kid, name, public, scopes, project, added_at, added_by, revoked_at FROM admins";

impl Store {
    /// Registers an admin in the name of `giver`; nobody (`init`, `recover`) may give everything.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub fn add_admin(&mut self, admin: &Admin, giver: Option<&Admin>) -> Result<(), AdminError> {
        check_name(&admin.name)?;
        if let Some(giver) = giver {
            check_grant(giver, admin)?;
        }
        if admin.scopes.is_empty() {
            return Err(AdminError::NoScope { name: admin.name.clone() });
        }
        let tx = self.db.transaction()?;
        insert(&tx, self.root_of_trust, admin)?;
        tx.commit()?;
        Ok(())
    }

    /// The admin with a key id, revoked or not.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn admin(&self, kid: &str) -> Result<Option<Admin>, StoreError> {
        self.db.prepare_cached(&format!("{SELECT} WHERE kid = ?1"))?.query_row([kid], row).optional()?.transpose()
    }

    /// Every admin there ever was, oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn admins(&self) -> Result<Vec<Admin>, StoreError> {
        let mut statement = self.db.prepare(&format!("{SELECT} ORDER BY rowid"))?;
        statement.query_map([], row)?.map(|row| row?).collect()
    }

    /// Revokes an admin for good; gives the revocation's number and the key. Another tenant's admin is unknown to `revoker`.
    ///
    /// # Errors
    /// See [`AdminError`]; [`AdminError::Last`] keeps one admin who can add others.
    pub fn revoke_admin(&mut self, name: &str, reason: &str, revoker: &Admin, now: u64) -> Result<(u64, String), AdminError> {
        check_reason(reason)?;
        let unknown = || AdminError::Unknown { name: name.chars().take(80).collect() };
        let known = by_name(&self.db, name)?.filter(|admin| revoker.project.is_none() || revoker.project == admin.project);
        let admin = known.ok_or_else(unknown)?;
        let tx = self.db.transaction()?;
        let number = revoke(&tx, self.root_of_trust, &admin, reason, &revoker.name, now)?;
        if is_keeper(&admin) && !has_keeper(&tx)? {
            return Err(AdminError::Last { name: admin.name });
        }
        tx.commit()?;
        self.refresh_revocations()?;
        Ok((number, admin.kid))
    }

    /// For who owns the machine: registers an admin with every scope and revokes others, whatever is left then.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub fn recover_admin(&mut self, admin: &Admin, revoke_names: &[String], now: u64) -> Result<(), AdminError> {
        check_name(&admin.name)?;
        let tx = self.db.transaction()?;
        insert(&tx, self.root_of_trust, admin)?;
        for name in revoke_names {
            let old = by_name(&tx, name)?.filter(|old| old.kid != admin.kid).ok_or_else(|| AdminError::Unknown { name: name.clone() })?;
            revoke(&tx, self.root_of_trust, &old, &format!("replaced by `{}` with admin recover", admin.name), &admin.added_by, now)?;
        }
        tx.commit()?;
        self.refresh_revocations()?;
        Ok(())
    }
}

/// Marks an admin of an imported revocation, if this database has one.
pub(super) fn mark_revoked(db: &Connection, kid: &str, at: u64) -> Result<(), StoreError> {
    db.execute("UPDATE admins SET revoked_at = ?2 WHERE kid = ?1 AND revoked_at IS NULL", params![kid, seconds(at)])?;
    Ok(())
}

fn insert(db: &Connection, root_of_trust: RootOfTrust, admin: &Admin) -> Result<(), AdminError> {
    if let Some(other) = by_name(db, &admin.name)? {
        return Err(AdminError::NameTaken { name: other.name, revoked: other.revoked_at.is_some() });
    }
    if revocations::name_is_gone(db, RevocationKind::Admin, &admin.name)? {
        return Err(AdminError::NameTaken { name: admin.name.clone(), revoked: true });
    }
    if let Some(other) = db.query_row(&format!("{SELECT} WHERE kid = ?1"), [&admin.kid], row).optional()?.transpose()? {
        return Err(AdminError::KeyTaken { kid: other.kid, name: other.name });
    }
    if let Some(number) = revocations::number_of(db, RevocationKind::Admin, &admin.kid)? {
        let (kind, value) = (RevocationKind::Admin, admin.kid.clone());
        return Err(RevocationError::Already { kind, value, number }.into());
    }
    db.execute(
        "INSERT INTO admins (kid, name, public, scopes, project, added_at, added_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            admin.kid,
            admin.name,
            admin.public,
            serde_json::to_string(&admin.scopes).map_err(StoreError::from)?,
            admin.project.as_ref().map(ProjectName::as_str),
            seconds(admin.added_at),
            admin.added_by
        ],
    )?;
    let detail = format!("admin `{}` with key {} and scopes {}", admin.name, admin.kid, scope_names(&admin.scopes));
    let subject = Subject { project: admin.project.clone(), ..Subject::default() };
    append(db, root_of_trust, Entry::new(admin.added_at, Event::AddAdmin, &admin.added_by, "ok", detail, subject))?;
    Ok(())
}

fn revoke(db: &Connection, root_of_trust: RootOfTrust, admin: &Admin, reason: &str, by: &str, now: u64) -> Result<u64, AdminError> {
    let new = revocations::New { kind: RevocationKind::Admin, value: &admin.kid, name: Some(&admin.name), reason, by };
    let number = revocations::insert(db, root_of_trust, &new, now)?;
    mark_revoked(db, &admin.kid, now)?;
    Ok(number)
}

/// Nobody gives a scope they do not have, nor anything outside their project.
fn check_grant(giver: &Admin, admin: &Admin) -> Result<(), AdminError> {
    let refuse = |what: String| Err(AdminError::Grant { giver: giver.name.clone(), what });
    if giver.project.is_some() && giver.project != admin.project {
        return refuse(admin.project.as_ref().map_or_else(|| "the whole service".to_owned(), |project| format!("project `{project}`")));
    }
    match admin.scopes.iter().find(|scope| !giver.scopes.contains(scope)) {
        Some(scope) => refuse(format!("scope `{}`", scope_names(&[*scope]))),
        None => Ok(()),
    }
}

/// Whether an admin can add any other.
fn is_keeper(admin: &Admin) -> bool {
    admin.project.is_none() && admin.scopes.contains(&Scope::Admin)
}

fn has_keeper(db: &Connection) -> Result<bool, StoreError> {
    let mut statement = db.prepare(&format!("{SELECT} WHERE revoked_at IS NULL AND project IS NULL"))?;
    for admin in statement.query_map([], row)? {
        if is_keeper(&admin??) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn by_name(db: &Connection, name: &str) -> Result<Option<Admin>, StoreError> {
    db.query_row(&format!("{SELECT} WHERE name = ?1"), [name], row).optional()?.transpose()
}

fn row(row: &Row<'_>) -> rusqlite::Result<Result<Admin, StoreError>> {
    let (scopes, project): (String, Option<String>) = (row.get(3)?, row.get(4)?);
    let (added_at, revoked_at): (i64, Option<i64>) = (row.get(5)?, row.get(7)?);
    let (kid, name, public, added_by) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(6)?);
    let decided = || {
        Ok(Admin {
            kid,
            name,
            public,
            scopes: serde_json::from_str(&scopes)?,
            project: project.map(|project| project.parse()).transpose()?,
            added_at: added_at.unsigned_abs(),
            added_by,
            revoked_at: revoked_at.map(i64::unsigned_abs),
        })
    };
    Ok(decided())
}

/// The name goes into the audit log, lists and a terminal.
///
/// # Errors
/// [`AdminError::Name`].
pub fn check_name(name: &str) -> Result<(), AdminError> {
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b));
    if fits { Ok(()) } else { Err(AdminError::Name { name: name.chars().take(80).collect() }) }
}

/// `enroll,read`.
#[must_use]
pub fn scope_names(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| serde_json::to_string(scope).unwrap_or_default().trim_matches('"').to_owned()).collect::<Vec<_>>().join(",")
}
