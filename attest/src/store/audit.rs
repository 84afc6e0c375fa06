//! The audit log: append-only, each entry naming the digest of the one before it.
//!
//! A row's `entry` is RFC 8785 JSON; its `digest` is SHA-256 over those bytes. The chain shows edits and gaps; it cannot
//! show that the newest rows were cut off, which is why `serve` logs the head at each start.

use coffer_evidence::HostData;
use coffer_kbs_policy::EvidenceFacts;
use coffer_manifest::{DocumentError, ProjectName, RootOfTrust, Sha256Digest, SiteName, encode};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::decisions::{self, Basis};
use super::{Store, StoreError, seconds};
use crate::reason::Values;

/// Table of the audit log.
pub(super) const SCHEMA: &str = "
CREATE TABLE audit (
  seq     INTEGER PRIMARY KEY,
  entry   TEXT NOT NULL,
  digest  BLOB NOT NULL,
  project TEXT GENERATED ALWAYS AS (json_extract(entry, '$.project')) VIRTUAL,
  site    TEXT GENERATED ALWAYS AS (json_extract(entry, '$.site')) VIRTUAL,
  id      TEXT GENERATED ALWAYS AS (json_extract(entry, '$.id')) VIRTUAL
) STRICT;
CREATE INDEX audit_by_site ON audit (project, site, seq);
CREATE INDEX audit_by_id ON audit (id, seq);
CREATE TRIGGER audit_is_append_only_u BEFORE UPDATE ON audit
  BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER audit_is_append_only_d BEFORE DELETE ON audit
  BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A site was enrolled.
    Enroll,
    /// A site, image, chip, key or admin was revoked, by an admin or by its successor.
    Revoke,
    /// A site was suspended.
    Suspend,
    /// A suspended site was resumed.
    Resume,
    /// Revocations of a signed list were taken over.
    Import,
    /// An admin was added.
    AddAdmin,
    /// The next token key was made.
    RotateKey,
    /// A policy document was put into force.
    Policy,
    /// A stock tool's bearer token was issued.
    IssueBearer,
    /// A stock resource was written.
    SetResource,
    /// A stock resource was destroyed.
    DeleteResource,
    /// Evidence was accepted and a token issued.
    Attest,
    /// A secret was released.
    Release,
    /// Authenticated evidence or an attested session was refused.
    Refuse,
}

/// Whom an entry is about; unknown parts are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Project of the enrollment.
    pub project: Option<ProjectName>,
    /// Site of the enrollment.
    pub site: Option<SiteName>,
    /// HOST_DATA of the report or of the record.
    pub host_data: Option<HostData>,
}

/// One entry, as stored and as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Position, from 1.
    pub seq: i64,
    /// Unix seconds.
    pub at: u64,
    /// What happened.
    pub event: Event,
    /// The id the peer was given, or the admin's name.
    pub id: String,
    /// Reason code; `ok` where nothing was refused.
    pub code: String,
    /// What happened: everything the peer is not told.
    pub detail: String,
    /// What the rule wants, where one was broken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What it got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub got: Option<String>,
    /// Project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// Site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteName>,
    /// HOST_DATA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_data: Option<HostData>,
    /// The service's own.
    pub root_of_trust: RootOfTrust,
    /// Digest of the entry before; zeros for the first.
    pub prev: Sha256Digest,
    /// What the decision rested on; kept beside the log for a while, no part of it.
    #[serde(skip)]
    pub basis: Option<Basis>,
}

impl Entry {
    /// An entry about `subject`; `seq`, `prev` and the root of trust are the store's to fill in.
    #[must_use]
    pub fn new(at: u64, event: Event, id: &str, code: &str, detail: String, subject: Subject) -> Self {
        Self {
            seq: 0,
            at,
            event,
            id: id.to_owned(),
            code: code.to_owned(),
            detail,
            expected: None,
            got: None,
            project: subject.project,
            site: subject.site,
            host_data: subject.host_data,
            root_of_trust: RootOfTrust::AmdSevSnp,
            prev: Sha256Digest::new([0; 32]),
            basis: None,
        }
    }

    /// The same with what the decision rested on, for a later dry run of another policy.
    #[must_use]
    pub fn with_basis(self, basis: Basis) -> Self {
        Self { basis: Some(basis), ..self }
    }

    /// The same with both values of the rule that was broken.
    #[must_use]
    pub fn with_values(mut self, values: Option<Values>) -> Self {
        (self.expected, self.got) = values.map(|values| (values.expected, values.got)).unzip();
        self
    }
}

impl Store {
    /// Appends an entry.
    ///
    /// # Errors
    /// See [`StoreError`]; a caller must not release anything it could not record.
    pub fn record(&self, entry: Entry) -> Result<(), StoreError> {
        append(&self.db, self.root_of_trust, entry)
    }

    /// Appends an entry if `host_data` is enrolled and counts at this very moment; false, and no entry, if it is not.
    ///
    /// The last question before a token or a secret leaves: after a revocation the log shows no release.
    ///
    /// # Errors
    /// See [`StoreError`]; as for [`Self::record`].
    pub fn record_while_active(&self, host_data: &HostData, facts: &EvidenceFacts, entry: Entry) -> Result<bool, StoreError> {
        if self.revocations.load().of_facts(facts).is_some() {
            return Ok(false);
        }
        let active = self.counts(host_data, entry.at)?;
        // Nothing comes between the two statements: one process has the database open, and `&self` is one of its threads.
        if active {
            append(&self.db, self.root_of_trust, entry)?;
        }
        Ok(active)
    }

    /// The newest `limit` entries of a site, newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn entries_of(&self, project: &ProjectName, site: &SiteName, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let mut statement = self.db.prepare("SELECT entry FROM audit WHERE project = ?1 AND site = ?2 ORDER BY seq DESC LIMIT ?3")?;
        let rows = statement.query_map(params![project.as_str(), site.as_str(), limit], |row| row.get::<_, String>(0))?;
        rows.map(|text| Ok(serde_json::from_str(&text?)?)).collect()
    }

    /// What is recorded under an id that a peer was given, oldest first: a refusal, or an attestation and its first `limit` releases.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn entries_under(&self, id: &str, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let mut statement = self.db.prepare("SELECT entry FROM audit WHERE id = ?1 ORDER BY seq LIMIT ?2")?;
        let rows = statement.query_map(params![id, limit], |row| row.get::<_, String>(0))?;
        rows.map(|text| Ok(serde_json::from_str(&text?)?)).collect()
    }

    /// Position and digest of the newest entry; 0 and zeros where there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn audit_head(&self) -> Result<(u64, Sha256Digest), StoreError> {
        let (seq, digest) = newest(&self.db)?;
        Ok((seq.unsigned_abs(), digest))
    }

    /// Entries after a position as lines `{"digest": …, "entry": …}`, where `entry` has the bytes that were digested.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn audit_lines(&self, after: u64, limit: u32) -> Result<Vec<String>, StoreError> {
        let mut statement = self.db.prepare("SELECT entry, lower(hex(digest)) FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
        let rows = statement.query_map(params![seconds(after), limit], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        rows.map(|row| row.map(|(entry, digest)| format!(r#"{{"digest":"{digest}","entry":{entry}}}"#)).map_err(Into::into)).collect()
    }

    /// The digest of one entry.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn audit_digest(&self, seq: u64) -> Result<Option<Sha256Digest>, StoreError> {
        let digest: Option<Vec<u8>> =
            self.db.query_row("SELECT digest FROM audit WHERE seq = ?1", [seconds(seq)], |row| row.get(0)).optional()?;
        Ok(digest.map(|digest| Sha256Digest::try_from(digest.as_slice())).transpose()?)
    }

    /// Walks the whole chain; gives the number of entries and the head.
    ///
    /// # Errors
    /// [`StoreError::AuditBroken`] at the first entry that does not follow.
    pub fn check_audit(&self) -> Result<(i64, Sha256Digest), StoreError> {
        let mut statement = self.db.prepare("SELECT seq, entry, digest FROM audit ORDER BY seq")?;
        let mut rows = statement.query([])?;
        let (mut count, mut head) = (0, Sha256Digest::new([0; 32]));
        while let Some(row) = rows.next()? {
            let (seq, text, digest): (i64, String, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let entry: Entry = serde_json::from_str(&text).map_err(|_| StoreError::AuditBroken { seq })?;
            let own = Sha256Digest::of(text.as_bytes());
            if seq != count + 1 || entry.seq != seq || entry.prev != head || digest != own.as_bytes() {
                return Err(StoreError::AuditBroken { seq });
            }
            (count, head) = (seq, own);
        }
        Ok((count, head))
    }
}

/// Appends within a caller's transaction.
pub(super) fn append(db: &Connection, root_of_trust: RootOfTrust, entry: Entry) -> Result<(), StoreError> {
    let (seq, prev) = newest(db)?;
    let entry = Entry { seq: seq + 1, prev, root_of_trust, ..entry };
    let bytes = encode(&entry)?;
    let digest = Sha256Digest::of(&bytes);
    let text = String::from_utf8(bytes).map_err(|e| DocumentError::Encode(<serde_json::Error as serde::ser::Error>::custom(e)))?;
    let insert = || -> Result<(), StoreError> {
        db.prepare_cached("INSERT INTO audit (seq, entry, digest) VALUES (?1, ?2, ?3)")?.execute(params![
            entry.seq,
            text,
            digest.as_bytes()
        ])?;
        Ok(())
    };
    match &entry.basis {
        Some(basis) => together(db, || insert().and_then(|()| decisions::keep(db, &entry, basis))),
        None => insert(),
    }
}

/// Both or neither, within a caller's transaction or as one.
fn together(db: &Connection, work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    db.prepare_cached("SAVEPOINT entry")?.execute([])?;
    let done = work();
    if done.is_err() {
        db.prepare_cached("ROLLBACK TO entry")?.execute([])?;
    }
    db.prepare_cached("RELEASE entry")?.execute([])?;
    done
}

fn newest(db: &Connection) -> Result<(i64, Sha256Digest), StoreError> {
    let mut newest = db.prepare_cached("SELECT seq, digest FROM audit ORDER BY seq DESC LIMIT 1")?;
    let row = newest.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))?.next().transpose()?;
    Ok(match row {
        Some((seq, digest)) => (seq, Sha256Digest::try_from(digest.as_slice())?),
        None => (0, Sha256Digest::new([0; 32])),
    })
}
