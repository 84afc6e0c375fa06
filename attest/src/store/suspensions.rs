//! Suspensions: a site that gets nothing for a while. Of the name, so of every config it has or gets, until it is resumed.

use coffer_manifest::{ProjectName, SiteName};
use coffer_token::{Hex, Withdrawn};
use rusqlite::{Connection, OptionalExtension, params};

use super::audit::{Entry, Event, Subject, append};
use super::revocations::{RevocationError, check_reason};
use super::sites::history;
use super::standing::{Standing, Suspended};
use super::withdrawals::withdraw;
use super::{Store, StoreError, seconds};
use crate::clock::rfc3339;
use crate::reason::Reason;

/// Table of suspensions: a row while it lasts. What was is in the audit log.
pub(super) const SCHEMA: &str = "
CREATE TABLE suspensions (
  project TEXT NOT NULL,
  site    TEXT NOT NULL,
  at      INTEGER NOT NULL,
  by      TEXT NOT NULL,
  reason  TEXT NOT NULL,
  PRIMARY KEY (project, site)
) STRICT;
CREATE TRIGGER suspensions_do_not_change BEFORE UPDATE ON suspensions
  BEGIN SELECT RAISE(ABORT, 'a suspension never changes'); END;
";

/// Why a site is neither suspended nor resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuspendError {
    /// No such site, or all of it is revoked.
    #[error("site `{project}/{site}` is not enrolled, or every config of it is revoked")]
    NotActive {
        /// Project.
        project: ProjectName,
        /// Site.
        site: SiteName,
    },
    /// It is suspended.
    #[error("site `{project}/{site}` is suspended since {}, by `{by}`: {reason}", rfc3339(*.at))]
    Already {
        /// Project.
        project: ProjectName,
        /// Site.
        site: SiteName,
        /// Unix seconds.
        at: u64,
        /// The admin.
        by: String,
        /// Given reason.
        reason: String,
    },
    /// It is not.
    #[error("site `{project}/{site}` is not suspended")]
    NotSuspended {
        /// Project.
        project: ProjectName,
        /// Site.
        site: SiteName,
    },
    /// No reason of one line.
    #[error(transparent)]
    Reason(#[from] RevocationError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for SuspendError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Store(e.into())
    }
}

/// Who changes a suspension, why, and when.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The admin.
    pub by: &'a str,
    /// Given reason, one line.
    pub reason: &'a str,
    /// Unix seconds.
    pub now: u64,
}

impl Store {
    /// Suspends a site: nothing is given to any of its configs from here on, and gates are told to end their leases.
    ///
    /// # Errors
    /// See [`SuspendError`].
    pub fn suspend(&mut self, project: &ProjectName, site: &SiteName, change: Change<'_>) -> Result<(), SuspendError> {
        let Change { by, reason, now } = change;
        check_reason(reason)?;
        let tx = self.db.transaction()?;
        let mut configs = history(&tx, project, site)?;
        configs.retain(|config| !matches!(config.stands.standing, Standing::Revoked { .. }));
        if configs.is_empty() {
            return Err(SuspendError::NotActive { project: project.clone(), site: site.clone() });
        }
        if let Some(Suspended { at, by, reason }) = find(&tx, project, site)? {
            return Err(SuspendError::Already { project: project.clone(), site: site.clone(), at, by, reason });
        }
        tx.execute(
            "INSERT INTO suspensions (project, site, at, by, reason) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![project.as_str(), site.as_str(), seconds(now), by, reason],
        )?;
        for config in &configs {
            let host_data = Hex(*config.record.host_data.as_bytes());
            withdraw(&tx, Withdrawn::Site { host_data }, Reason::SiteSuspended.code(), now)?;
        }
        append(&tx, self.root_of_trust, Entry::new(now, Event::Suspend, by, "ok", reason.to_owned(), subject(project, site)))?;
        Ok(tx.commit()?)
    }

    /// Ends a suspension. Guests come back by themselves: tokens of before stay withdrawn.
    ///
    /// # Errors
    /// See [`SuspendError`].
    pub fn resume(&mut self, project: &ProjectName, site: &SiteName, change: Change<'_>) -> Result<(), SuspendError> {
        let Change { by, reason, now } = change;
        check_reason(reason)?;
        let tx = self.db.transaction()?;
        let standing = history(&tx, project, site)?.into_iter().any(|config| !matches!(config.stands.standing, Standing::Revoked { .. }));
        if !standing {
            return Err(SuspendError::NotActive { project: project.clone(), site: site.clone() });
        }
        let ended = tx.execute("DELETE FROM suspensions WHERE project = ?1 AND site = ?2", [project.as_str(), site.as_str()])?;
        if ended == 0 {
            return Err(SuspendError::NotSuspended { project: project.clone(), site: site.clone() });
        }
        append(&tx, self.root_of_trust, Entry::new(now, Event::Resume, by, "ok", reason.to_owned(), subject(project, site)))?;
        Ok(tx.commit()?)
    }

    /// How many sites are suspended that are not revoked.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn suspended_sites(&self) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM suspensions WHERE EXISTS
                   (SELECT 1 FROM sites WHERE sites.project = suspensions.project AND sites.site = suspensions.site AND revoked_at IS NULL)";
        Ok(self.db.query_row(sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
    }
}

fn find(db: &Connection, project: &ProjectName, site: &SiteName) -> Result<Option<Suspended>, StoreError> {
    let sql = "SELECT at, by, reason FROM suspensions WHERE project = ?1 AND site = ?2";
    let found = db.query_row(sql, [project.as_str(), site.as_str()], |row| {
        Ok(Suspended { at: row.get::<_, i64>(0)?.unsigned_abs(), by: row.get(1)?, reason: row.get(2)? })
    });
    Ok(found.optional()?)
}

fn subject(project: &ProjectName, site: &SiteName) -> Subject {
    Subject { project: Some(project.clone()), site: Some(site.clone()), host_data: None }
}

#[cfg(test)]
mod tests;
