//! RocksDB, with blob files.

use std::path::Path;

use anyhow::Result;
use rocksdb::{BlockBasedOptions, Cache, DB, Options, WriteBatch, WriteOptions};

use super::{Engine, Key, key};

const CACHE_BYTES: usize = 1 << 30;

/// Values lie in blob files, keys have a bloom filter and one cache for blocks and blobs, as RocksDB's tuning guide has it for
/// point lookups. Every batch is synced.
pub struct RocksDb(DB);

impl RocksDb {
    pub fn open(directory: &Path) -> Result<RocksDb> {
        let cache = Cache::new_lru_cache(CACHE_BYTES);
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&cache);
        blocks.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.increase_parallelism(2);
        options.set_block_based_table_factory(&blocks);
        options.set_enable_blob_files(true);
        options.set_blob_cache(&cache);
        Ok(RocksDb(DB::open(&options, directory)?))
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.0.write_opt(batch, &options)?)
    }
}

impl Engine for RocksDb {
    fn put(&self, blobs: &[&[u8]]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for blob in blobs {
            batch.put(key(blob), blob);
        }
        self.write(batch)
    }

    fn get(&self, keys: &[Key], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        for key in keys {
            see(self.0.get_pinned(key)?.as_deref());
        }
        Ok(())
    }

    fn remove(&self, keys: &[Key]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for key in keys {
            batch.delete(key);
        }
        self.write(batch)
    }
}
