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

/// Tables of decisions. No index by project: a dry run reads some ten thousand rows, and every decision would pay for it.
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

#[cfg(test)]
mod tests {
    use coffer_evidence::CertKind;
    use coffer_manifest::RootOfTrust;

    use super::*;
    use crate::kek::Kek;
    use crate::store::{Entry, Event, Subject};

    fn evidence(chip: u8) -> SnpEvidence {
        let mut report = [0; Report::LEN];
        (report[0], report[0x34], report[0x188]) = (3, 1, 0x19);
        let certificates = vec![CertEntry { kind: CertKind::Vcek, data: vec![chip; 1300] }];
        SnpEvidence { report: Report::parse(&report).unwrap(), certificates }
    }

    fn store(dir: &tempfile::TempDir) -> Store {
        let path = dir.path().join("db");
        let store = Store::create(&path, Kek::generate().unwrap(), RootOfTrust::AmdSevSnp, None).unwrap();
        store.db.pragma_update(None, "synchronous", "OFF").unwrap();
        store
    }

    fn entry(n: u32, project: &str, chip: u8) -> Entry {
        let request = TokenRequest { kind: "kbs".to_owned(), bound_key: false, purpose: None };
        let subject = Subject {
            project: Some(project.parse().unwrap()),
            site: Some("site-1".parse().unwrap()),
            host_data: Some(HostData::new([7; 32])),
        };
        Entry::new(u64::from(n), Event::Attest, &format!("{n:016x}"), "ok", String::new(), subject)
            .with_basis(Basis { asked: Asked::Token(request), evidence: Some(evidence(chip)) })
    }

    #[test]
    fn a_decision_comes_back_with_its_evidence_by_project_and_by_id() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        for n in 0..6 {
            store.record(entry(n, if n % 2 == 0 { "even" } else { "odd" }, 1)).unwrap();
        }
        let even: ProjectName = "even".parse().unwrap();
        let ids = |decisions: Vec<Decision>| decisions.iter().map(|decision| decision.at).collect::<Vec<_>>();
        assert_eq!(ids(store.decisions(Some(&even), 2).unwrap()), [4, 2]);
        assert_eq!(ids(store.decisions(None, 3).unwrap()), [5, 4, 3]);
        let again = store.attestation("0000000000000003").unwrap().unwrap();
        assert_eq!((again.evidence, again.code.as_str()), (Some(evidence(1)), "ok"));
        assert_eq!(store.attestation("0000000000000009").unwrap(), None);
        // The basis is beside the log, not in it.
        assert_eq!(store.check_audit().unwrap().0, 6);
    }

    #[test]
    fn the_newest_are_kept_and_certificates_once_for_all_their_reports() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let count = |table: &str| -> u32 { store.db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap() };
        let (kept, every) = (KEPT_DECISIONS, u32::try_from(PRUNE_CERTIFICATES_EVERY).unwrap());
        for n in 0..kept + 2 * every {
            // The first chip's certificates are of rows that will be gone.
            store.record(entry(n, "demo", if n < 10 { 1 } else { 2 })).unwrap();
        }
        assert!((kept..=kept + u32::try_from(PRUNE_EVERY).unwrap()).contains(&count("decisions")), "{}", count("decisions"));
        assert_eq!(count("decision_certificates"), 1);
        assert_eq!(store.decisions(None, 1).unwrap()[0].at, u64::from(kept + 2 * every - 1));
    }

    #[test]
    fn an_entry_whose_basis_cannot_be_kept_is_not_recorded_either() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        store.db.execute_batch("DROP TABLE decision_certificates").unwrap();
        assert!(store.record(entry(1, "demo", 1)).is_err());
        assert_eq!(store.check_audit().unwrap().0, 0, "both or neither");
    }
}
