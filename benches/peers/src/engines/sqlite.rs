//! SQLite, by rusqlite.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension};

use super::{Engine, Key, key};

/// Write-ahead log, `synchronous = FULL`: every commit is synced. The file is mapped, as SQLite's documentation recommends
/// for reads. A table by row number with a unique index on the key: without row numbers rows should be small.
pub struct Sqlite(Mutex<Connection>);

impl Sqlite {
    pub fn open(directory: &Path) -> Result<Sqlite> {
        let connection = Connection::open(directory.join("blobs.sqlite"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA mmap_size = 68719476736;
             PRAGMA cache_size = -262144;
             CREATE TABLE IF NOT EXISTS blobs (key BLOB NOT NULL UNIQUE, bytes BLOB NOT NULL);",
        )?;
        Ok(Sqlite(Mutex::new(connection)))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Sqlite {
    fn put(&self, blobs: &[&[u8]]) -> Result<()> {
        let mut connection = self.connection();
        let writing = connection.transaction()?;
        {
            let mut insert = writing.prepare_cached("INSERT OR IGNORE INTO blobs (key, bytes) VALUES (?1, ?2)")?;
            for blob in blobs {
                insert.execute((key(blob), blob))?;
            }
        }
        Ok(writing.commit()?)
    }

    fn get(&self, keys: &[Key], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        let connection = self.connection();
        let reading = connection.unchecked_transaction()?;
        let mut select = reading.prepare_cached("SELECT bytes FROM blobs WHERE key = ?1")?;
        for key in keys {
            let found = select
                .query_row([key], |row| {
                    see(Some(row.get_ref(0)?.as_blob()?));
                    Ok(())
                })
                .optional()?;
            if found.is_none() {
                see(None);
            }
        }
        Ok(())
    }

    fn remove(&self, keys: &[Key]) -> Result<()> {
        let mut connection = self.connection();
        let writing = connection.transaction()?;
        {
            let mut delete = writing.prepare_cached("DELETE FROM blobs WHERE key = ?1")?;
            for key in keys {
                delete.execute([key])?;
            }
        }
        Ok(writing.commit()?)
    }
}
