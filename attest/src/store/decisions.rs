//! What the newest decisions rested on: enough to ask a new policy about them, and nothing secret.
//!
//! A row belongs to the audit entry of the same number and is written with it. Certificates are kept once for all reports they
//! came with.

use coffer_evidence::{CertEntry, HostData, Report, SnpEvidence, build_cert_table, parse_cert_table};
use coffer_kbs_policy::TokenRequest;
use coffer_manifest::{ProjectName, Sha256Digest, SiteName};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

/// How many audit entries back decisions are kept. 2 KiB each.
pub const KEPT_DECISIONS: u32 = 10_000;
/// Older rows are dropped once in so many entries, so that most entries cost one insert.
const PRUNE_EVERY: i64 = 256;
/// Certificates that no row needs any more are dropped more rarely: it takes a look at every row.
const PRUNE_CERTIFICATES_EVERY: i64 = 16 * PRUNE_EVERY;

/// Tables of decisions.
pub(super) const SCHEMA: &str = "
CREATE TABLE decisions (
  seq          INTEGER PRIMARY KEY,
  at           INTEGER NOT NULL,
  id           TEXT NOT NULL,
  code         TEXT NOT NULL,
  project      TEXT,
  site         TEXT,
  host_data    TEXT NOT NULL,
  asked        TEXT NOT NULL,
  report       BLOB,
  certificates BLOB
) STRICT;
CREATE INDEX decisions_by_project ON decisions (project, seq);
CREATE INDEX decisions_by_id ON decisions (id, seq);
CREATE TABLE decision_certificates (digest BLOB PRIMARY KEY, entries BLOB NOT NULL) STRICT;
";

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Asked {
    /// A token, with evidence of its own.
    Token(TokenRequest),
    /// A secret of the enrollment, after the attestation with this id.
    Release {
        /// `<project>/<site>/<hex>[.<name>]`.
        path: String,
        /// Id of the attestation.
        attestation: String,
    },
    /// A stock resource, after the attestation with this id.
    Stock {
        /// `<project>/<type>/<tag>`.
        path: String,
        /// Id of the attestation.
        attestation: String,
    },
}

/// What a decision rested on, for the audit entry it is written with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// What was asked.
    pub asked: Asked,
    /// The evidence, where the decision was about evidence.
    pub evidence: Option<SnpEvidence>,
}

/// A decision that can be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Number of its audit entry.
    pub seq: i64,
    /// Unix seconds.
    pub at: u64,
    /// What the peer was given.
    pub id: String,
    /// `ok`, or the reason code.
    pub code: String,
    /// Project of the enrollment, if there was one.
    pub project: Option<ProjectName>,
    /// Site of the enrollment, if there was one.
    pub site: Option<SiteName>,
    /// HOST_DATA of the report.
    pub host_data: HostData,
    /// What was asked.
    pub asked: Asked,
    /// The evidence, for a token.
    pub evidence: Option<SnpEvidence>,
}

/// Writes the basis of the audit entry `entry`, within its transaction.
pub(super) fn keep(db: &Connection, entry: &super::Entry, basis: &Basis) -> Result<(), StoreError> {
    let Some(host_data) = entry.host_data else { return Ok(()) };
    let (report, certificates) = match &basis.evidence {
        Some(evidence) => (Some(evidence.report.as_bytes().as_slice()), Some(keep_certificates(db, &evidence.certificates)?)),
        None => (None, None),
    };
    db.prepare_cached(
        "INSERT INTO decisions (seq, at, id, code, project, site, host_data, asked, report, certificates)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        entry.seq,
        super::seconds(entry.at),
        entry.id,
        entry.code,
        entry.project.as_ref().map(ProjectName::as_str),
        entry.site.as_ref().map(SiteName::as_str),
        host_data.to_string(),
        serde_json::to_string(&basis.asked)?,
        report,
        certificates.as_ref().map(Sha256Digest::as_bytes)
    ])?;
    if entry.seq % PRUNE_EVERY == 0 {
        db.execute("DELETE FROM decisions WHERE seq <= ?1", [entry.seq - i64::from(KEPT_DECISIONS)])?;
    }
    if entry.seq % PRUNE_CERTIFICATES_EVERY == 0 {
        db.execute(
            "DELETE FROM decision_certificates WHERE digest NOT IN (SELECT certificates FROM decisions WHERE certificates IS NOT NULL)",
            [],
        )?;
    }
    Ok(())
}

fn keep_certificates(db: &Connection, entries: &[CertEntry]) -> Result<Sha256Digest, StoreError> {
    // A table that cannot be built is one no host could have handed over; such evidence was refused long before.
    let table = build_cert_table(entries).unwrap_or_default();
    let digest = Sha256Digest::of(&table);
    db.prepare_cached("INSERT INTO decision_certificates (digest, entries) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute(params![digest.as_bytes(), table])?;
    Ok(digest)
}

const SELECT: &str = "SELECT seq, at, id, code, d.project, d.site, host_data, asked, report, c.entries
                      FROM decisions AS d LEFT JOIN decision_certificates AS c ON c.digest = d.certificates";

impl Store {
    /// The newest decisions, of one project or of all, newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn decisions(&self, project: Option<&ProjectName>, last: u32) -> Result<Vec<Decision>, StoreError> {
        let sql = format!("{SELECT} WHERE ?1 IS NULL OR d.project = ?1 ORDER BY seq DESC LIMIT ?2");
        let mut statement = self.db.prepare(&sql)?;
        statement.query_map(params![project.map(ProjectName::as_str), last], decision_row)?.map(|row| row?).collect()
    }

    /// The attestation that was given an id, if it is still kept.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn attestation(&self, id: &str) -> Result<Option<Decision>, StoreError> {
        let sql = format!("{SELECT} WHERE id = ?1 AND report IS NOT NULL ORDER BY seq LIMIT 1");
        self.db.query_row(&sql, [id], decision_row).optional()?.transpose()
    }
}

fn decision_row(row: &Row<'_>) -> rusqlite::Result<Result<Decision, StoreError>> {
    let (seq, at, id, code): (i64, i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let (project, site): (Option<String>, Option<String>) = (row.get(4)?, row.get(5)?);
    let (host_data, asked): (String, String) = (row.get(6)?, row.get(7)?);
    let (report, entries): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.get(8)?, row.get(9)?);
    let read = || -> Result<Decision, StoreError> {
        let evidence = report.map(|report| -> Result<SnpEvidence, StoreError> {
            let certificates = match entries.as_deref() {
                None | Some([]) => Vec::new(),
                Some(table) => parse_cert_table(table).map_err(|_| StoreError::Kept { seq })?,
            };
            Ok(SnpEvidence { report: Report::parse(&report).map_err(|_| StoreError::Kept { seq })?, certificates })
        });
        Ok(Decision {
            seq,
            at: at.unsigned_abs(),
            id,
            code,
            project: project.map(|name| name.parse()).transpose()?,
            site: site.map(|name| name.parse()).transpose()?,
            host_data: host_data.parse()?,
            asked: serde_json::from_str(&asked)?,
            evidence: evidence.transpose()?,
        })
    };
    Ok(read())
}
