//! fjall, with key-value separation: blobs lie in files of their own, beside the tree of keys.

use std::path::Path;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};

use super::{Engine, Key, key};

/// Blocks of keys and blobs are cached up to so many bytes, which is more than the largest work that it takes part in.
const CACHE_BYTES: u64 = 1 << 30;

/// Every batch is persisted with `SyncAll`.
pub struct Fjall {
    database: Database,
    blobs: Keyspace,
}

impl Fjall {
    pub fn open(directory: &Path) -> Result<Fjall> {
        let database = Database::builder(directory).cache_size(CACHE_BYTES).open()?;
        let options = || KeyspaceCreateOptions::default().with_kv_separation(Some(KvSeparationOptions::default()));
        let blobs = database.keyspace("blobs", options)?;
        Ok(Fjall { database, blobs })
    }
}

impl Engine for Fjall {
    fn put(&self, blobs: &[&[u8]]) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for blob in blobs {
            batch.insert(&self.blobs, key(blob), *blob);
        }
        Ok(batch.commit()?)
    }

    fn get(&self, keys: &[Key], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        for key in keys {
            see(self.blobs.get(key)?.as_deref());
        }
        Ok(())
    }

    fn remove(&self, keys: &[Key]) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for key in keys {
            batch.remove(&self.blobs, *key);
        }
        Ok(batch.commit()?)
    }
}
