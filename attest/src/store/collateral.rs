//! Certificates and revocation lists, each verified before it came here and verified again at each use.

use coffer_evidence::Family;
use rusqlite::{Row, params};

use super::{Store, StoreError, seconds};

/// `key` is what one piece is looked up by: chip and TCB of a VCEK, CSP id and TCB of a VLEK, digest of an issuer's
/// name, digest of a revocation list.
pub(super) const SCHEMA: &str = "
CREATE TABLE collateral (
  kind     TEXT NOT NULL CHECK (kind IN ('vcek', 'vlek', 'issuer', 'crl')),
  family   TEXT NOT NULL CHECK (family IN ('milan', 'genoa', 'turin')),
  key      TEXT NOT NULL,
  der      BLOB NOT NULL,
  source   TEXT NOT NULL,
  added_at INTEGER NOT NULL,
  PRIMARY KEY (kind, family, key)
) STRICT;
";

/// What a row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CollateralKind {
    /// Certificate of a chip at a TCB.
    Vcek,
    /// Certificate of a cloud provider's key.
    Vlek,
    /// ASK or ASVK.
    Issuer,
    /// A revocation list.
    Crl,
}

impl CollateralKind {
    const ALL: [Self; 4] = [Self::Vcek, Self::Vlek, Self::Issuer, Self::Crl];

    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vcek => "vcek",
            Self::Vlek => "vlek",
            Self::Issuer => "issuer",
            Self::Crl => "crl",
        }
    }
}

/// One piece of collateral.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollateralRow {
    /// What it is.
    pub kind: CollateralKind,
    /// Of which family.
    pub family: Family,
    /// What it is looked up by.
    pub key: String,
    /// The bytes.
    pub der: Vec<u8>,
    /// Where it came from: `import by NAME`, `key server`, `host`.
    pub source: String,
    /// Unix seconds.
    pub added_at: u64,
}

impl Store {
    /// Puts pieces in the place of those with the same keys and takes others out: all or nothing.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn keep_collateral(&mut self, put: &[CollateralRow], drop: &[(CollateralKind, Family, String)]) -> Result<(), StoreError> {
        let tx = self.db.transaction()?;
        for CollateralRow { kind, family, key, der, source, added_at } in put {
            tx.prepare_cached(
                "INSERT INTO collateral (kind, family, key, der, source, added_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (kind, family, key) DO UPDATE SET der = ?4, source = ?5, added_at = ?6",
            )?
            .execute(params![kind.name(), family.to_string(), key, der, source, seconds(*added_at)])?;
        }
        for (kind, family, key) in drop {
            let mut delete = tx.prepare_cached("DELETE FROM collateral WHERE kind = ?1 AND family = ?2 AND key = ?3")?;
            delete.execute(params![kind.name(), family.to_string(), key])?;
        }
        Ok(tx.commit()?)
    }

    /// Everything there is.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn collateral(&self) -> Result<Vec<CollateralRow>, StoreError> {
        let mut statement = self.db.prepare("SELECT kind, family, key, der, source, added_at FROM collateral")?;
        let rows = statement.query_map([], read)?.collect::<Result<Vec<_>, _>>()?;
        // The schema keeps other words out of the first two columns.
        Ok(rows.into_iter().flatten().collect())
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Option<CollateralRow>> {
    let (kind, family): (String, String) = (row.get(0)?, row.get(1)?);
    let kind = CollateralKind::ALL.into_iter().find(|known| known.name() == kind);
    let (Some(kind), Ok(family)) = (kind, family.parse()) else { return Ok(None) };
    let added_at: i64 = row.get(5)?;
    Ok(Some(CollateralRow { kind, family, key: row.get(2)?, der: row.get(3)?, source: row.get(4)?, added_at: added_at.unsigned_abs() }))
}
