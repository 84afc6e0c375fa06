//! A new key file: every envelope opened under the old key and sealed under the new one, all or none.

use rusqlite::params;

use super::{KEY_VERSION, Store, StoreError, keys};
use crate::kek::Kek;

/// Where envelopes lie: the table, and as SQL the name and the version each was sealed for.
const SEALED: &[(&str, &str, &str)] = &[
    ("sealed_keys", "name", "1"),
    ("secrets", "path", "version"),
    ("token_keys", "'service/token-key/' || kid", "1"),
    ("stock_resources", "'stock:' || project || '/' || path", "version"),
];

impl Store {
    /// Seals every secret under `new`, which replaces the key file's; gives how many that were.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing is changed then.
    pub fn rewrap(&mut self, new: Kek) -> Result<u64, StoreError> {
        debug_assert_eq!((KEY_VERSION, keys::KEY_VERSION), (1, 1), "SEALED states them");
        let tx = self.db.transaction()?;
        let mut count = 0;
        for (table, name, version) in SEALED {
            // Some tables let nothing be changed; within this transaction, their guards make way.
            let guards = guards(&tx, table)?;
            for (guard, _) in &guards {
                tx.execute_batch(&format!("DROP TRIGGER {guard}"))?;
            }
            count += reseal(&tx, &self.kek, &new, table, name, version)?;
            for (_, sql) in &guards {
                tx.execute_batch(sql)?;
            }
        }
        tx.commit()?;
        self.kek = new;
        // What the write-ahead log still has of the old envelopes goes as well.
        self.fold_log()?;
        Ok(count)
    }
}

fn reseal(db: &rusqlite::Connection, old: &Kek, new: &Kek, table: &str, name: &str, version: &str) -> Result<u64, StoreError> {
    let mut rows = db.prepare(&format!("SELECT rowid, {name}, {version}, sealed FROM {table} WHERE sealed IS NOT NULL"))?;
    let rows =
        rows.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?, row.get::<_, Vec<u8>>(3)?)))?;
    let mut update = db.prepare(&format!("UPDATE {table} SET sealed = ?2 WHERE rowid = ?1"))?;
    let mut count = 0;
    for row in rows.collect::<Result<Vec<_>, _>>()? {
        let (rowid, name, version, sealed) = row;
        let plain = old.open(&name, version.unsigned_abs(), &sealed)?;
        update.execute(params![rowid, new.seal(&name, version.unsigned_abs(), &plain)?])?;
        count += 1;
    }
    Ok(count)
}

fn guards(db: &rusqlite::Connection, table: &str) -> Result<Vec<(String, String)>, StoreError> {
    let mut statement = db.prepare("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?1")?;
    Ok(statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table that somebody adds and forgets here would be lost with the old key file.
    #[test]
    fn every_sealed_column_there_is_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("db"), Kek::generate().unwrap(), coffer_manifest::RootOfTrust::AmdSevSnp, None).unwrap();
        let mut statement = store
            .db
            .prepare(
                "SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = 'sealed' ORDER BY 1",
            )
            .unwrap();
        let found: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let mut known: Vec<&str> = SEALED.iter().map(|(table, _, _)| *table).collect();
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
