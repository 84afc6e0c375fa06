//! Policy documents: every version a project ever had, each put in place of the one before it.

use std::fmt;

use coffer_manifest::ProjectName;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use super::audit::{Entry, Event, Subject, append};
use super::{Store, StoreError, seconds};

/// Table of policy documents. The project of the service's default document is the empty text, which no project has.
pub(super) const SCHEMA: &str = "
CREATE TABLE policies (
  project  TEXT NOT NULL,
  version  INTEGER NOT NULL,
  document BLOB NOT NULL,
  set_at   INTEGER NOT NULL,
  set_by   TEXT NOT NULL,
  reason   TEXT NOT NULL,
  PRIMARY KEY (project, version)
) STRICT;
CREATE TRIGGER policy_versions_stay_u BEFORE UPDATE ON policies
  BEGIN SELECT RAISE(ABORT, 'a policy version never changes'); END;
CREATE TRIGGER policy_versions_stay_d BEFORE DELETE ON policies
  BEGIN SELECT RAISE(ABORT, 'policy versions are never deleted'); END;
";

/// Whose document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyOwner {
    /// The service's, for projects without one.
    Default,
    /// A project's own.
    Project(ProjectName),
}

impl PolicyOwner {
    fn key(&self) -> &str {
        match self {
            Self::Default => "",
            Self::Project(project) => project.as_str(),
        }
    }

    fn of_key(key: &str) -> Result<Self, StoreError> {
        Ok(if key.is_empty() { Self::Default } else { Self::Project(key.parse()?) })
    }
}

impl fmt::Display for PolicyOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default policy"),
            Self::Project(project) => write!(f, "the policy of project `{project}`"),
        }
    }
}

/// A stored version. The document's bytes are as they were stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyVersion {
    /// 1, 2, 3, …
    pub version: u64,
    /// `coffer/project-policy/v1`.
    pub document: Vec<u8>,
    /// Who, when, why.
    pub change: PolicyChange,
}

/// Who put a version into force, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyChange {
    /// Unix seconds.
    pub set_at: u64,
    /// The admin; `init` for the document a simulated service starts with.
    pub set_by: String,
    /// Given reason.
    pub reason: String,
}

/// Why a document is not put into force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetPolicyError {
    /// Somebody else was faster, or the caller looked at something else.
    #[error(
        "{owner} is at version {current}, the change is to version {replaces}\nhint: look at `policy show` and make the change to that version"
    )]
    Conflict {
        /// Whose document.
        owner: PolicyOwner,
        /// The version in force; 0 if there is none.
        current: u64,
        /// The version the caller wanted to replace.
        replaces: u64,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What goes into force.
#[derive(Debug)]
pub struct NewPolicy<'a> {
    /// Whose.
    pub owner: &'a PolicyOwner,
    /// The version it replaces; 0 where there is none.
    pub replaces: u64,
    /// The bytes, parsed and tried.
    pub document: &'a [u8],
    /// For the audit log: what gets weaker.
    pub weaker: &'a [String],
    /// Who, when, why.
    pub change: PolicyChange,
}

impl Store {
    /// Puts a document into force in place of the version the caller names, and records it; the version it has now.
    ///
    /// # Errors
    /// See [`SetPolicyError`].
    pub fn set_policy(&mut self, new: &NewPolicy<'_>) -> Result<u64, SetPolicyError> {
        let root_of_trust = self.root_of_trust;
        let tx = self.db.transaction().map_err(StoreError::from)?;
        let current = newest(&tx, new.owner)?.map_or(0, |row| row.version);
        if current != new.replaces {
            return Err(SetPolicyError::Conflict { owner: new.owner.clone(), current, replaces: new.replaces });
        }
        let version = current + 1;
        let PolicyChange { set_at, set_by, reason } = &new.change;
        tx.execute(
            "INSERT INTO policies (project, version, document, set_at, set_by, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![new.owner.key(), seconds(version), new.document, seconds(*set_at), set_by, reason],
        )
        .map_err(StoreError::from)?;
        let digest = coffer_manifest::Sha256Digest::of(new.document);
        let mut detail = format!("{} version {version} sha256={digest}: {reason}", new.owner);
        for line in new.weaker {
            detail.push_str("; weaker: ");
            detail.push_str(line);
        }
        append(&tx, root_of_trust, Entry::new(*set_at, Event::Policy, set_by, "ok", detail, subject(new.owner)))?;
        tx.commit().map_err(StoreError::from)?;
        Ok(version)
    }

    /// The newest document of everybody who has one.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn policies(&self) -> Result<Vec<(PolicyOwner, PolicyVersion)>, StoreError> {
        let sql = "SELECT version, document, set_at, set_by, reason, project FROM policies AS p
                   WHERE version = (SELECT max(version) FROM policies WHERE project = p.project) ORDER BY project";
        let mut statement = self.db.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(5)?, version_row(row)?)))?;
        rows.map(|row| {
            let (key, version) = row?;
            Ok((PolicyOwner::of_key(&key)?, version))
        })
        .collect()
    }

    /// One version.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn policy(&self, owner: &PolicyOwner, version: u64) -> Result<Option<PolicyVersion>, StoreError> {
        let sql = "SELECT version, document, set_at, set_by, reason FROM policies WHERE project = ?1 AND version = ?2";
        Ok(self.db.query_row(sql, params![owner.key(), seconds(version)], version_row).optional()?)
    }

    /// Every version, newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn policy_history(&self, owner: &PolicyOwner) -> Result<Vec<PolicyVersion>, StoreError> {
        let sql = "SELECT version, document, set_at, set_by, reason FROM policies WHERE project = ?1 ORDER BY version DESC";
        let mut statement = self.db.prepare(sql)?;
        statement.query_map([owner.key()], version_row)?.map(|row| Ok(row?)).collect()
    }
}

fn newest(db: &Connection, owner: &PolicyOwner) -> Result<Option<PolicyVersion>, StoreError> {
    let sql = "SELECT version, document, set_at, set_by, reason FROM policies WHERE project = ?1 ORDER BY version DESC LIMIT 1";
    Ok(db.query_row(sql, [owner.key()], version_row).optional()?)
}

fn version_row(row: &Row<'_>) -> rusqlite::Result<PolicyVersion> {
    let change = PolicyChange { set_at: row.get::<_, i64>(2)?.unsigned_abs(), set_by: row.get(3)?, reason: row.get(4)? };
    Ok(PolicyVersion { version: row.get::<_, i64>(0)?.unsigned_abs(), document: row.get(1)?, change })
}

fn subject(owner: &PolicyOwner) -> Subject {
    match owner {
        PolicyOwner::Default => Subject::default(),
        PolicyOwner::Project(project) => Subject { project: Some(project.clone()), ..Subject::default() },
    }
}
