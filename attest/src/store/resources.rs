//! Resources that stock tools store: sealed, overwritten version by version, never a secret of an enrollment.

use coffer_manifest::ProjectName;
use rusqlite::{OptionalExtension, params};
use zeroize::Zeroizing;

use super::audit::{Entry, Event, Subject, append};
use super::{SecretState, Store, StoreError, seconds};
use crate::policy::StockPath;

/// Table of stock resources. A deleted one keeps its row, so that versions are never given twice.
pub(super) const SCHEMA: &str = "
CREATE TABLE stock_resources (
  project TEXT NOT NULL,
  path    TEXT NOT NULL,
  version INTEGER NOT NULL,
  sealed  BLOB,
  PRIMARY KEY (project, path)
) STRICT;
";

/// What the envelope is sealed for: no enrollment's path begins so.
fn name(project: &ProjectName, path: &StockPath) -> String {
    format!("stock:{project}/{path}")
}

impl Store {
    /// Stores a resource over whatever was there, and records it; the version it has now.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn set_resource(&mut self, project: &ProjectName, path: &StockPath, plain: &[u8], by: &str, now: u64) -> Result<u64, StoreError> {
        let root_of_trust = self.root_of_trust;
        let tx = self.db.transaction()?;
        let old: Option<i64> = tx
            .query_row("SELECT version FROM stock_resources WHERE project = ?1 AND path = ?2", [project.as_str(), path.as_str()], |row| {
                row.get(0)
            })
            .optional()?;
        let version = old.unwrap_or(0).unsigned_abs() + 1;
        let sealed = self.kek.seal(&name(project, path), version, plain)?;
        tx.execute(
            "INSERT INTO stock_resources (project, path, version, sealed) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET version = excluded.version, sealed = excluded.sealed",
            params![project.as_str(), path.as_str(), seconds(version), sealed],
        )?;
        let detail = format!("stock resource {project}/{path} version {version}, {} bytes", plain.len());
        let subject = Subject { project: Some(project.clone()), ..Subject::default() };
        append(&tx, root_of_trust, Entry::new(now, Event::SetResource, by, "ok", detail, subject))?;
        tx.commit()?;
        Ok(version)
    }

    /// Destroys a resource and records it; false, and no entry, if there was none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn delete_resource(&mut self, project: &ProjectName, path: &StockPath, by: &str, now: u64) -> Result<bool, StoreError> {
        let root_of_trust = self.root_of_trust;
        let tx = self.db.transaction()?;
        let deleted = tx.execute(
            "UPDATE stock_resources SET sealed = NULL WHERE project = ?1 AND path = ?2 AND sealed IS NOT NULL",
            [project.as_str(), path.as_str()],
        )?;
        if deleted == 1 {
            let subject = Subject { project: Some(project.clone()), ..Subject::default() };
            let detail = format!("stock resource {project}/{path}");
            append(&tx, root_of_trust, Entry::new(now, Event::DeleteResource, by, "ok", detail, subject))?;
        }
        tx.commit()?;
        Ok(deleted == 1)
    }

    /// Opens a resource.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn resource(&self, project: &ProjectName, path: &StockPath) -> Result<SecretState, StoreError> {
        let row: Option<(i64, Option<Vec<u8>>)> = self
            .db
            .prepare_cached("SELECT version, sealed FROM stock_resources WHERE project = ?1 AND path = ?2")?
            .query_row([project.as_str(), path.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match row {
            Some((version, Some(sealed))) => {
                let plain: Zeroizing<Vec<u8>> = self.kek.open(&name(project, path), version.unsigned_abs(), &sealed)?;
                Ok(SecretState::Present(plain))
            }
            _ => Ok(SecretState::Absent),
        }
    }
}
