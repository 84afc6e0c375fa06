//! Instances: which boots of a site were given job tokens, on which processor, with which node key.

use coffer_evidence::{HostData, ReportId};
use coffer_kbs_policy::EvidenceFacts;
use coffer_manifest::{ProjectName, SiteName};
use coffer_token::{Hex, Jkt, RevocationKind, WITHDRAWALS_KEPT_SECONDS, Withdrawn};
use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::value::RawValue;

use super::withdrawals::withdraw;
use super::{Store, StoreError, seconds};

/// Table of instances. REPORT_ID names one: it is random, and the same for all of a guest's life. `keys` are the digests of its author
/// key and ID key, as far as it has any.
pub(super) const SCHEMA: &str = "
CREATE TABLE instances (
  host_data     TEXT NOT NULL,
  instance      TEXT NOT NULL,
  project       TEXT NOT NULL,
  site          TEXT NOT NULL,
  launch_digest TEXT NOT NULL,
  chip_id       TEXT NOT NULL,
  keys          TEXT NOT NULL,
  node_jkt      TEXT,
  node_key      TEXT,
  first_seen    INTEGER NOT NULL,
  last_seen     INTEGER NOT NULL,
  PRIMARY KEY (host_data, instance)
) STRICT;
CREATE INDEX instances_by_site ON instances (project, site);
";

/// Instances of a site that are kept however old they are.
pub const KEPT_INSTANCES: u32 = 16;

/// A node key that evidence bound: its P-384 public key as a JWK, and the thumbprint that tokens have as `node_jkt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundNode {
    /// RFC 7638 thumbprint.
    pub jkt: Jkt,
    /// JSON text.
    pub jwk: String,
}

/// One boot of a site.
#[derive(Debug, Serialize)]
pub struct Instance {
    /// REPORT_ID, 64 hexadecimal digits.
    pub instance: String,
    /// Of which config.
    pub host_data: HostData,
    /// On which processor, 128 hexadecimal digits.
    pub chip_id: String,
    /// Thumbprint of its node key, where it bound one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_jkt: Option<String>,
    /// That key, a JWK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_key: Option<Box<RawValue>>,
    /// When it was given its first job token, Unix seconds.
    pub first_seen: u64,
    /// And its newest.
    pub last_seen: u64,
}

/// Whom an instance belongs to, and when it was given a token.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Project of its record.
    pub project: &'a ProjectName,
    /// Site of its record.
    pub site: &'a SiteName,
    /// What was verified of it.
    pub facts: &'a EvidenceFacts,
    /// The node key it bound, if any.
    pub node: Option<&'a BoundNode>,
    /// Unix seconds: the token's `iat`.
    pub at: u64,
}

impl Store {
    /// Notes that an instance was given a job token.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn saw(&self, seen: &Seen<'_>) -> Result<(), StoreError> {
        let Seen { project, site, facts, node, at } = *seen;
        let (jkt, jwk) = (node.map(|node| node.jkt.to_string()), node.map(|node| &node.jwk));
        let renewed = self
            .db
            .prepare_cached(
                "UPDATE instances SET last_seen = max(last_seen, ?3), node_jkt = ?4, node_key = ?5 WHERE host_data = ?1 AND instance = ?2",
            )?
            .execute(params![facts.host_data(), facts.report_id(), seconds(at), jkt, jwk])?;
        if renewed > 0 {
            return Ok(());
        }
        self.db
            .prepare_cached(
                "INSERT INTO instances (host_data, instance, project, site, launch_digest, chip_id, keys, node_jkt, node_key, first_seen,
                   last_seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10)",
            )?
            .execute(params![
                facts.host_data(),
                facts.report_id(),
                project.as_str(),
                site.as_str(),
                facts.launch_digest(),
                facts.chip_id(),
                facts.key_digests().collect::<Vec<_>>().join(" "),
                jkt,
                jwk,
                seconds(at)
            ])?;
        // Those that a lease may rest on stay in any case.
        let old = seconds(at.saturating_sub(WITHDRAWALS_KEPT_SECONDS));
        self.db
            .prepare_cached(
                "DELETE FROM instances WHERE project = ?1 AND site = ?2 AND last_seen < ?3 AND rowid NOT IN
                   (SELECT rowid FROM instances WHERE project = ?1 AND site = ?2 ORDER BY last_seen DESC LIMIT ?4)",
            )?
            .execute(params![project.as_str(), site.as_str(), old, KEPT_INSTANCES])?;
        Ok(())
    }

    /// The instances of a site that are known, newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn instances(&self, project: &ProjectName, site: &SiteName, limit: u32) -> Result<Vec<Instance>, StoreError> {
        let mut statement = self.db.prepare(
            "SELECT instance, host_data, chip_id, node_jkt, node_key, first_seen, last_seen FROM instances
             WHERE project = ?1 AND site = ?2 ORDER BY last_seen DESC, rowid DESC LIMIT ?3",
        )?;
        let mut rows = statement.query(params![project.as_str(), site.as_str(), limit])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let (host_data, node_key): (String, Option<String>) = (row.get(1)?, row.get(4)?);
            all.push(Instance {
                instance: row.get(0)?,
                host_data: host_data.parse()?,
                chip_id: row.get(2)?,
                node_jkt: row.get(3)?,
                node_key: node_key.map(RawValue::from_string).transpose()?,
                first_seen: row.get::<_, i64>(5)?.unsigned_abs(),
                last_seen: row.get::<_, i64>(6)?.unsigned_abs(),
            });
        }
        Ok(all)
    }
}

/// Withdraws every instance that a lease may rest on and that rests on a chip, an author key or an ID key, within a caller's
/// transaction.
pub(super) fn withdraw_resting_on(db: &Connection, kind: RevocationKind, value: &str, code: &str, now: u64) -> Result<(), StoreError> {
    let which = match kind {
        RevocationKind::Chip => "chip_id = ?1",
        RevocationKind::Key => "instr(keys, ?1) > 0",
        RevocationKind::Image | RevocationKind::Site | RevocationKind::Admin | RevocationKind::TokenKey => return Ok(()),
    };
    let since = seconds(now.saturating_sub(WITHDRAWALS_KEPT_SECONDS));
    let resting: Vec<(String, String)> = {
        let mut statement = db.prepare(&format!("SELECT host_data, instance FROM instances WHERE {which} AND last_seen >= ?2"))?;
        statement.query_map(params![value, since], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?
    };
    for (host_data, instance) in resting {
        let host_data: HostData = host_data.parse()?;
        let instance: ReportId = instance.parse()?;
        let withdrawn = Withdrawn::Instance { host_data: Hex(*host_data.as_bytes()), instance: Hex(*instance.as_bytes()) };
        withdraw(db, withdrawn, code, now)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
