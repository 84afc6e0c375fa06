//! Whether a record counts at a moment: the one place that says so, for evidence, for what leaves the service and for lists.

use rusqlite::Row;
use serde::Serialize;

/// What became of a record by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "standing")]
pub enum Standing {
    /// May attest.
    Active,
    /// Has a successor, and may attest beside it until the overlap is over.
    Superseded {
        /// Unix seconds.
        overlap_until: u64,
    },
    /// May not, for good.
    Revoked {
        /// Unix seconds.
        revoked_at: u64,
        /// The admin.
        revoked_by: String,
        /// Given reason, or the successor.
        revoked_why: String,
    },
}

/// A site is suspended: none of its records counts, those enrolled meanwhile included, until it is resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suspended {
    /// Unix seconds.
    pub at: u64,
    /// The admin.
    pub by: String,
    /// Given reason.
    pub reason: String,
}

/// A record's own standing, and its site's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stands {
    /// The record's.
    #[serde(flatten)]
    pub standing: Standing,
    /// The site's, where it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspended>,
}

/// The columns that [`Stands::read`] reads, of `sites` joined with `suspensions`.
pub(super) const COLUMNS: &str = "revoked_at, revoked_by, revoked_why, overlap_until, suspensions.at, suspensions.by, suspensions.reason";
/// Where they are.
pub(super) const TABLES: &str = "sites LEFT JOIN suspensions USING (project, site)";

impl Stands {
    /// Whether the record may attest at `now`, Unix seconds.
    #[must_use]
    pub const fn counts(&self, now: u64) -> bool {
        let stands = match &self.standing {
            Standing::Active => true,
            Standing::Superseded { overlap_until } => now < *overlap_until,
            Standing::Revoked { .. } => false,
        };
        stands && self.suspended.is_none()
    }

    /// Reads [`COLUMNS`] from position `from` on.
    pub(super) fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Self> {
        let seconds = |at| row.get::<_, Option<i64>>(from + at).map(|seconds| seconds.map(i64::unsigned_abs));
        let standing = match (seconds(0)?, seconds(3)?) {
            (Some(revoked_at), _) => Standing::Revoked { revoked_at, revoked_by: row.get(from + 1)?, revoked_why: row.get(from + 2)? },
            (None, Some(overlap_until)) => Standing::Superseded { overlap_until },
            (None, None) => Standing::Active,
        };
        let suspended = match seconds(4)? {
            Some(at) => Some(Suspended { at, by: row.get(from + 5)?, reason: row.get(from + 6)? }),
            None => None,
        };
        Ok(Self { standing, suspended })
    }
}
