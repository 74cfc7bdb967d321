//! redb.

use std::path::Path;

use anyhow::Result;
use redb::{Database, ReadableDatabase, TableDefinition};

use super::{Engine, Key, key};

const BLOBS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("blobs");

/// One table with fixed-size keys, redb's default cache (1 GiB) and durability: a commit is synced.
pub struct Redb(Database);

impl Redb {
    pub fn open(directory: &Path) -> Result<Redb> {
        let path = directory.join("blobs.redb");
        let is_new = !path.exists();
        let database = Database::create(path)?;
        // Its table, which a database that is there has: a commit is synced, and would count as a part of an opening.
        if is_new {
            let writing = database.begin_write()?;
            writing.open_table(BLOBS)?;
            writing.commit()?;
        }
        Ok(Redb(database))
    }
}

impl Engine for Redb {
    fn put(&self, blobs: &[&[u8]]) -> Result<()> {
        let writing = self.0.begin_write()?;
        let mut table = writing.open_table(BLOBS)?;
        for blob in blobs {
            table.insert(&key(blob), *blob)?;
        }
        drop(table);
        Ok(writing.commit()?)
    }

    fn get(&self, keys: &[Key], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        let table = self.0.begin_read()?.open_table(BLOBS)?;
        for key in keys {
            see(table.get(key)?.as_ref().map(|value| value.value()));
        }
        Ok(())
    }

    fn remove(&self, keys: &[Key]) -> Result<()> {
        let writing = self.0.begin_write()?;
        let mut table = writing.open_table(BLOBS)?;
        for key in keys {
            table.remove(key)?;
        }
        drop(table);
        Ok(writing.commit()?)
    }
}
