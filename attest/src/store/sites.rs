//! Enrollments: create-only records, tombstones that stay, and the secrets that belong to them.

use std::fmt;

use coffer_evidence::HostData;
use coffer_manifest::{
    Enrollment, EnrollmentFile, MAX_OVERLAP_SECONDS, ProjectName, ResourcePath, RootOfTrust, SecretName, SiteName, decode, encode,
};
use coffer_token::{Hex, MAX_LIFETIME_SECONDS, Revocation, RevocationKind, Withdrawn};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use zeroize::Zeroizing;

use super::audit::{Entry, Event, Subject, append};
use super::revocations::{self, RevocationError, SUPERSEDED, check_reason};
use super::standing::{COLUMNS, Standing, Stands, TABLES};
use super::withdrawals::withdraw;
use super::{Store, StoreError, seconds};
use crate::reason::Reason;

/// Tables of enrollments and their secrets.
pub(super) const SCHEMA: &str = "
CREATE TABLE sites (
  host_data     TEXT PRIMARY KEY,
  project       TEXT NOT NULL,
  site          TEXT NOT NULL,
  root_of_trust TEXT NOT NULL,
  record        BLOB NOT NULL,
  enrolled_at   INTEGER NOT NULL,
  enrolled_by   TEXT NOT NULL,
  overlap_until INTEGER,
  revoked_at    INTEGER,
  revoked_by    TEXT,
  revoked_why   TEXT
) STRICT;
CREATE UNIQUE INDEX one_active_config_per_site ON sites (project, site) WHERE revoked_at IS NULL AND overlap_until IS NULL;
CREATE INDEX overlaps ON sites (overlap_until) WHERE revoked_at IS NULL AND overlap_until IS NOT NULL;
CREATE TRIGGER tombstones_stay BEFORE DELETE ON sites
  BEGIN SELECT RAISE(ABORT, 'sites are never deleted'); END;
CREATE TRIGGER revocation_stays BEFORE UPDATE ON sites WHEN OLD.revoked_at IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'a revoked site never changes'); END;
CREATE TRIGGER records_stay BEFORE UPDATE OF host_data, project, site, root_of_trust, record ON sites
  BEGIN SELECT RAISE(ABORT, 'an enrollment never changes'); END;
CREATE TRIGGER overlaps_stay BEFORE UPDATE OF overlap_until ON sites WHEN OLD.overlap_until IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'an overlap is set once'); END;
CREATE TABLE secrets (
  path      TEXT NOT NULL,
  version   INTEGER NOT NULL,
  host_data TEXT NOT NULL REFERENCES sites (host_data),
  sealed    BLOB NOT NULL,
  PRIMARY KEY (path, version)
) STRICT;
CREATE TRIGGER secrets_stay BEFORE UPDATE ON secrets
  BEGIN SELECT RAISE(ABORT, 'secrets are create-only'); END;
";

/// More bases than a site can sensibly have: every vCPU count of a few releases.
const MAX_LAUNCH_DIGESTS: usize = 256;
/// A path is written once; versions are for a later format.
const SECRET_VERSION: u32 = 1;
/// What `open_risks.aml` must say for an enrollment to need nobody's word.
const AML_RESTRICTED: &str = "restricted";

/// Why a site is not enrolled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollError {
    /// The name was given once, to a site that may be gone: it is never given again.
    #[error("site `{project}/{site}` is enrolled already with HOST_DATA {existing}{}", if *revoked { ", revoked" } else { "" })]
    NameTaken {
        /// Project.
        project: ProjectName,
        /// Site.
        site: SiteName,
        /// The newest HOST_DATA under this name.
        existing: HostData,
        /// Whether that one is revoked.
        revoked: bool,
    },
    /// The same site config again.
    #[error("HOST_DATA {host_data} is enrolled already")]
    HostDataTaken {
        /// The value.
        host_data: HostData,
    },
    /// For another service.
    #[error("enrollment is for root of trust `{got}`, this service's is `{expected}`")]
    RootOfTrust {
        /// In the file.
        got: RootOfTrust,
        /// The service's.
        expected: RootOfTrust,
    },
    /// The base leaves AML open and nobody has accepted it.
    #[error("the base's open risk `aml` is `{got}`, only `{AML_RESTRICTED}` is enrolled without the operator's word")]
    AmlRisk {
        /// What the base says.
        got: String,
    },
    /// Names nothing that can be superseded.
    #[error("enrollment supersedes {old}, which is not the active config of `{project}/{site}`")]
    Supersedes {
        /// HOST_DATA to be superseded.
        old: HostData,
        /// Project.
        project: ProjectName,
        /// Site.
        site: SiteName,
    },
    /// An older config in place of a newer one.
    #[error("site_svn {got} is lower than {active} of the config it supersedes")]
    SiteSvn {
        /// In the file.
        got: u32,
        /// Enrolled now.
        active: u32,
    },
    /// A number no site can have.
    #[error("{field} is {got}, expected {expected}")]
    Field {
        /// Which member.
        field: &'static str,
        /// Its value.
        got: usize,
        /// What is accepted.
        expected: &'static str,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EnrollError {
    /// The reason for the caller.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NameTaken { .. } => Reason::NameTaken,
            Self::HostDataTaken { .. } => Reason::HostDataTaken,
            Self::RootOfTrust { .. } => Reason::OtherRootOfTrust,
            Self::AmlRisk { .. } => Reason::AmlRisk,
            Self::Supersedes { .. } => Reason::Supersedes,
            Self::SiteSvn { .. } => Reason::SiteSvn,
            Self::Field { .. } => Reason::Record,
            Self::Store(_) => Reason::Internal,
        }
    }
}

impl From<rusqlite::Error> for EnrollError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Store(e.into())
    }
}

/// Why nothing is revoked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// No such site, or none that is active.
    #[error("site `{project}/{site}` has no active config to revoke")]
    NotActive {
        /// Project.
        project: ProjectName,
        /// Site.
        site: SiteName,
    },
    /// The caller named another config than the active one.
    #[error("site `{project}/{site}` is active with HOST_DATA {active}, not {asked}")]
    OtherConfig {
        /// Project.
        project: ProjectName,
        /// Site.
        site: SiteName,
        /// What is active.
        active: HostData,
        /// What was asked for.
        asked: HostData,
    },
    /// No reason of one line.
    #[error(transparent)]
    Reason(#[from] RevocationError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A row: the record and its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Site {
    /// As enrolled.
    pub record: Enrollment,
    /// Unix seconds.
    pub enrolled_at: u64,
    /// The admin.
    pub enrolled_by: String,
    /// Whether it still counts.
    #[serde(flatten)]
    pub stands: Stands,
}

/// A secret, if there is one.
pub enum SecretState {
    /// The raw bytes.
    Present(Zeroizing<Vec<u8>>),
    /// The record has none of that name.
    Absent,
}

impl fmt::Debug for SecretState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present(secret) => write!(f, "Present(<{} bytes redacted>)", secret.len()),
            Self::Absent => f.write_str("Absent"),
        }
    }
}

impl Store {
    /// Enrolls a site and revokes the config it supersedes, or begins their overlap, in one transaction.
    ///
    /// # Errors
    /// See [`EnrollError`].
    pub fn enroll(&mut self, file: &EnrollmentFile, accept_aml_risk: bool, by: &str, now: u64) -> Result<(), EnrollError> {
        let record = &file.record;
        check_record(record, self.root_of_trust, accept_aml_risk)?;
        let tx = self.db.transaction()?;
        let place = check_place(&tx, record)?;
        match (place, record.supersedes, record.overlap_seconds) {
            (Place::AfterKnown, Some(old), Some(seconds)) => begin_overlap(&tx, old, now.saturating_add(seconds.into()))?,
            (Place::AfterKnown, Some(old), None) => {
                close(&tx, self.root_of_trust, record, old, by, &format!("{SUPERSEDED}{}", record.host_data), now)?;
            }
            _ => {}
        }
        tx.execute(
            "INSERT INTO sites (host_data, project, site, root_of_trust, record, enrolled_at, enrolled_by)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                record.host_data.to_string(),
                record.project.as_str(),
                record.site.as_str(),
                record.root_of_trust.to_string(),
                encode(record).map_err(StoreError::from)?,
                seconds(now),
                by
            ],
        )?;
        let put = |secret: SecretName, plain: &[u8]| -> Result<(), EnrollError> {
            let path = path_of(record, secret).to_string();
            let sealed = self.kek.seal(&path, u64::from(SECRET_VERSION), plain).map_err(StoreError::from)?;
            tx.execute(
                "INSERT INTO secrets (path, version, host_data, sealed) VALUES (?1, ?2, ?3, ?4)",
                params![path, SECRET_VERSION, record.host_data.to_string(), sealed],
            )?;
            Ok(())
        };
        put(SecretName::Root, file.secrets.root.expose())?;
        if let Some(kit) = &file.secrets.kit {
            put(SecretName::Kit, kit.expose())?;
        }
        let detail = format!(
            "launch_digests={} site_svn={} base_svn={} aml={} accept_aml_risk={accept_aml_risk}{}",
            record.launch_digests.len(),
            record.site_svn,
            record.base_svn,
            record.open_risks.aml,
            succession(place, record)
        );
        append(&tx, self.root_of_trust, Entry::new(now, Event::Enroll, by, "ok", detail, subject(record)))?;
        tx.commit()?;
        if record.supersedes.is_some() {
            self.refresh_revocations()?;
        }
        Ok(())
    }

    /// Whether a record counts at `now`, Unix seconds, as the database has it; false where there is none.
    pub(super) fn counts(&self, host_data: &HostData, now: u64) -> Result<bool, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE host_data = ?1");
        let stands = self.db.prepare_cached(&sql)?.query_row([host_data.to_string()], |row| Stands::read(row, 0)).optional()?;
        Ok(stands.is_some_and(|stands| stands.counts(now)))
    }

    /// The record of a HOST_DATA, revoked or not.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn site(&self, host_data: &HostData) -> Result<Option<Site>, StoreError> {
        let sql = select_sites("WHERE host_data = ?1");
        self.db.prepare_cached(&sql)?.query_row([host_data.to_string()], site_row).optional()?.transpose()
    }

    /// Every record ever enrolled, by project, site and age.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn sites(&self) -> Result<Vec<Site>, StoreError> {
        let mut statement = self.db.prepare(&select_sites("ORDER BY project, site, enrolled_at, sites.rowid"))?;
        statement.query_map([], site_row)?.map(|row| row?).collect()
    }

    /// Every record a site ever had, newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn history(&self, project: &ProjectName, site: &SiteName) -> Result<Vec<Site>, StoreError> {
        history(&self.db, project, site)
    }

    /// Revokes every config of a site that still counts, or the one asked for, and destroys their sealed secrets; the records stay.
    /// Gives the newest of them.
    ///
    /// # Errors
    /// See [`RevokeError`].
    pub fn revoke(
        &mut self,
        project: &ProjectName,
        site: &SiteName,
        asked: Option<HostData>,
        by: &str,
        why: &str,
        now: u64,
    ) -> Result<HostData, RevokeError> {
        check_reason(why)?;
        let tx = self.db.transaction().map_err(StoreError::from)?;
        let mut standing = history(&tx, project, site)?;
        standing.retain(|row| !matches!(row.stands.standing, Standing::Revoked { .. }));
        let Some(newest) = standing.first().map(|row| row.record.host_data) else {
            return Err(RevokeError::NotActive { project: project.clone(), site: site.clone() });
        };
        if let Some(asked) = asked {
            standing.retain(|row| row.record.host_data == asked);
            if standing.is_empty() {
                return Err(RevokeError::OtherConfig { project: project.clone(), site: site.clone(), active: newest, asked });
            }
        }
        for row in &standing {
            close(&tx, self.root_of_trust, &row.record, row.record.host_data, by, why, now)?;
        }
        tx.commit().map_err(StoreError::from)?;
        self.refresh_revocations()?;
        Ok(asked.unwrap_or(newest))
    }

    /// Revokes every superseded config whose overlap is over, and destroys its sealed secrets; gives how many. It had stopped
    /// counting at that very second: this only writes it down.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn end_overlaps(&mut self, now: u64) -> Result<usize, StoreError> {
        let sql = select_sites("WHERE revoked_at IS NULL AND overlap_until <= ?1 ORDER BY sites.rowid");
        let over: Vec<Site> = {
            let mut statement = self.db.prepare_cached(&sql)?;
            statement.query_map([seconds(now)], site_row)?.map(|row| row?).collect::<Result<_, StoreError>>()?
        };
        if over.is_empty() {
            return Ok(0);
        }
        let tx = self.db.transaction()?;
        for row in &over {
            let (old, names) = (row.record.host_data, (&row.record.project, &row.record.site));
            let successor = history(&tx, names.0, names.1)?.into_iter().find(|next| next.record.supersedes == Some(old));
            let (by, next) = successor.map_or_else(
                || (row.enrolled_by.clone(), "its successor".to_owned()),
                |next| (next.enrolled_by, next.record.host_data.to_string()),
            );
            close(&tx, self.root_of_trust, &row.record, old, &by, &format!("{SUPERSEDED}{next}, the overlap is over"), now)?;
        }
        tx.commit()?;
        self.refresh_revocations()?;
        Ok(over.len())
    }

    /// Opens a secret.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn secret(&self, path: &ResourcePath) -> Result<SecretState, StoreError> {
        let text = path.to_string();
        let sealed: Option<Vec<u8>> = self
            .db
            .prepare_cached("SELECT sealed FROM secrets WHERE path = ?1 AND version = ?2")?
            .query_row(params![text, SECRET_VERSION], |row| row.get(0))
            .optional()?;
        match sealed {
            None => Ok(SecretState::Absent),
            Some(sealed) => Ok(SecretState::Present(self.kek.open(&text, u64::from(SECRET_VERSION), &sealed)?)),
        }
    }
}

/// Every query for records; `which` says of which, in what order.
fn select_sites(which: &str) -> String {
    format!("SELECT record, enrolled_at, enrolled_by, {COLUMNS} FROM {TABLES} {which}")
}

/// The part of an enrollment that needs no look at what is enrolled.
fn check_record(record: &Enrollment, root_of_trust: RootOfTrust, accept_aml_risk: bool) -> Result<(), EnrollError> {
    if record.root_of_trust != root_of_trust {
        return Err(EnrollError::RootOfTrust { got: record.root_of_trust, expected: root_of_trust });
    }
    if !(1..=MAX_LAUNCH_DIGESTS).contains(&record.launch_digests.len()) {
        let got = record.launch_digests.len();
        return Err(EnrollError::Field { field: "number of launch_digests", got, expected: "1 to 256" });
    }
    if !(1..=MAX_LIFETIME_SECONDS).contains(&record.token_expiration.into()) {
        let got = record.token_expiration as usize;
        return Err(EnrollError::Field { field: "token_expiration", got, expected: "1 to 600 seconds" });
    }
    match record.overlap_seconds {
        Some(got) if record.supersedes.is_none() || !(1..=MAX_OVERLAP_SECONDS).contains(&got) => {
            let expected = "1 to 2592000 (30 days), in a record that supersedes another";
            return Err(EnrollError::Field { field: "overlap_seconds", got: got as usize, expected });
        }
        _ => {}
    }
    if record.open_risks.aml != AML_RESTRICTED && !accept_aml_risk {
        return Err(EnrollError::AmlRisk { got: record.open_risks.aml.clone() });
    }
    Ok(())
}

/// Where a record stands in its site's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The name's first.
    First,
    /// Follows the active config.
    AfterKnown,
    /// The name's first at this service, following one of another: how an admin's backup comes to a new service.
    AfterUnknown,
    /// Follows a config that was revoked to make way for this very record, which an older copy of the database never had.
    AfterImported,
}

/// Names are given once; only the active config of the same name can be superseded, or one that this service never had: a name
/// without any record is as free for a later config as for a first.
fn check_place(db: &Connection, record: &Enrollment) -> Result<Place, EnrollError> {
    // An imported list may know what this database never had.
    if enrolled(db, &record.host_data)? || revocations::number_of(db, RevocationKind::Site, &record.host_data.to_string())?.is_some() {
        return Err(EnrollError::HostDataTaken { host_data: record.host_data });
    }
    let newest = history(db, &record.project, &record.site)?.into_iter().next();
    let (project, site) = (record.project.clone(), record.site.clone());
    let gone = revocations::newest_of_name(db, RevocationKind::Site, &format!("{project}/{site}"))?;
    match (newest, record.supersedes) {
        // An imported list may know names that this database never had; the successor of the last config may still come back.
        (None, _) if gone.as_ref().is_some_and(|gone| !gone.makes_way_for(record)) => {
            let existing = gone.map_or(Ok(record.host_data), |gone| gone.host_data.parse()).map_err(StoreError::from)?;
            Err(EnrollError::NameTaken { project, site, existing, revoked: true })
        }
        (None, None) => Ok(Place::First),
        (None, Some(old)) if !enrolled(db, &old)? => Ok(Place::AfterUnknown),
        (Some(row), Some(old)) if row.record.host_data == old && gone.is_some_and(|gone| gone.makes_way_for(record)) => {
            Ok(Place::AfterImported)
        }
        (Some(row), Some(old)) if row.stands.standing == Standing::Active && row.record.host_data == old => {
            if record.site_svn < row.record.site_svn {
                return Err(EnrollError::SiteSvn { got: record.site_svn, active: row.record.site_svn });
            }
            Ok(Place::AfterKnown)
        }
        (_, Some(old)) => Err(EnrollError::Supersedes { old, project, site }),
        (Some(row), None) => {
            let revoked = matches!(row.stands.standing, Standing::Revoked { .. });
            Err(EnrollError::NameTaken { project, site, existing: row.record.host_data, revoked })
        }
    }
}

/// What the audit log says of a record's predecessor.
fn succession(place: Place, record: &Enrollment) -> String {
    match (place, record.supersedes, record.overlap_seconds) {
        (_, None, _) | (Place::First, ..) => String::new(),
        (Place::AfterKnown, Some(old), None) => format!(" supersedes={old}"),
        (Place::AfterKnown, Some(old), Some(seconds)) => format!(" supersedes={old} overlap={seconds}s"),
        (Place::AfterImported, Some(old), _) => format!(" supersedes={old}, revoked before the restore"),
        (Place::AfterUnknown, Some(old), _) => format!(" supersedes={old}, which was never enrolled here"),
    }
}

fn enrolled(db: &Connection, host_data: &HostData) -> Result<bool, StoreError> {
    Ok(db.query_row("SELECT EXISTS (SELECT 1 FROM sites WHERE host_data = ?1)", [host_data.to_string()], |row| row.get(0))?)
}

/// From here on a record counts until a moment only. Its secrets stay as long.
fn begin_overlap(db: &Connection, old: HostData, until: u64) -> Result<(), StoreError> {
    db.execute("UPDATE sites SET overlap_until = ?2 WHERE host_data = ?1", params![old.to_string(), seconds(until)])?;
    Ok(())
}

pub(super) fn history(db: &Connection, project: &ProjectName, site: &SiteName) -> Result<Vec<Site>, StoreError> {
    let sql = select_sites("WHERE project = ?1 AND site = ?2 ORDER BY sites.rowid DESC");
    let mut statement = db.prepare_cached(&sql)?;
    statement.query_map([project.as_str(), site.as_str()], site_row)?.map(|row| row?).collect()
}

/// Revokes one record and destroys its secrets.
fn close(
    db: &Connection,
    root_of_trust: RootOfTrust,
    record: &Enrollment,
    host_data: HostData,
    by: &str,
    why: &str,
    now: u64,
) -> Result<(), StoreError> {
    db.execute(
        "UPDATE sites SET revoked_at = ?2, revoked_by = ?3, revoked_why = ?4 WHERE host_data = ?1",
        params![host_data.to_string(), seconds(now), by, why],
    )?;
    db.execute("DELETE FROM secrets WHERE host_data = ?1", [host_data.to_string()])?;
    let (value, name) = (host_data.to_string(), format!("{}/{}", record.project, record.site));
    let new = revocations::New { kind: RevocationKind::Site, value: &value, name: Some(&name), reason: why, by };
    revocations::numbered(db, &new, now)?;
    withdraw(db, Withdrawn::Site { host_data: Hex(*host_data.as_bytes()) }, Reason::Revoked.code(), now)?;
    let subject = Subject { host_data: Some(host_data), ..subject(record) };
    append(db, root_of_trust, Entry::new(now, Event::Revoke, by, "ok", why.to_owned(), subject))
}

/// Revokes a record of an imported revocation, if this database has it and it is active: whoever revoked it has numbered it.
pub(super) fn close_imported(
    db: &Connection,
    root_of_trust: RootOfTrust,
    revocation: &Revocation,
    by: &str,
    now: u64,
) -> Result<(), StoreError> {
    let sql = select_sites("WHERE host_data = ?1 AND revoked_at IS NULL");
    let Some(active) = db.query_row(&sql, [&revocation.value], site_row).optional()?.transpose()? else { return Ok(()) };
    let (who, why) = (revocation.by.as_deref().unwrap_or(by), revocation.reason.as_deref().unwrap_or("revoked before the restore"));
    db.execute(
        "UPDATE sites SET revoked_at = ?2, revoked_by = ?3, revoked_why = ?4 WHERE host_data = ?1",
        params![revocation.value, seconds(revocation.at), who, why],
    )?;
    db.execute("DELETE FROM secrets WHERE host_data = ?1", [&revocation.value])?;
    let host_data = Hex(*active.record.host_data.as_bytes());
    withdraw(db, Withdrawn::Site { host_data }, Reason::Revoked.code(), now)?;
    append(db, root_of_trust, Entry::new(now, Event::Revoke, by, "ok", why.to_owned(), subject(&active.record)))
}

fn site_row(row: &Row<'_>) -> rusqlite::Result<Result<Site, StoreError>> {
    let bytes: Vec<u8> = row.get(0)?;
    let (enrolled_at, enrolled_by): (i64, String) = (row.get(1)?, row.get(2)?);
    let stands = Stands::read(row, 3)?;
    Ok(decode(&bytes).map(|record| Site { record, enrolled_at: enrolled_at.unsigned_abs(), enrolled_by, stands }).map_err(StoreError::from))
}

fn path_of(record: &Enrollment, secret: SecretName) -> ResourcePath {
    ResourcePath { project: record.project.clone(), site: record.site.clone(), host_data: record.host_data, secret }
}

pub(super) fn subject(record: &Enrollment) -> Subject {
    Subject { project: Some(record.project.clone()), site: Some(record.site.clone()), host_data: Some(record.host_data) }
}
