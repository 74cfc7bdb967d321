//! LMDB, by heed.

use std::path::Path;

use anyhow::Result;
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};

use super::{Engine, Key, key};

/// The map may grow so far. It is address space, not memory.
const MAP_BYTES: usize = 256 << 30;

/// Keys to values in the unnamed database; a writable map, which LMDB's documentation calls the faster way where no stray
/// pointers are feared. Every commit is synced.
pub struct Lmdb {
    env: Env,
    blobs: Database<'static, Bytes, Bytes>,
}

impl Lmdb {
    pub fn open(directory: &Path) -> Result<Lmdb> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES);
        // SAFETY: nothing else touches the files of this directory, and this process opens it once at a time.
        let env = unsafe { options.flags(EnvFlags::WRITE_MAP).open(directory)? };
        let writing = env.write_txn()?;
        let blobs = env
            .create_databases_and_commit(writing, |opener, writing| {
                opener.create_database(writing, None).map(CommitOrAbort::<_, ()>::Commit)
            })?
            .unwrap_commit();
        Ok(Lmdb { env, blobs })
    }
}

impl Engine for Lmdb {
    fn put(&self, blobs: &[&[u8]]) -> Result<()> {
        let mut writing = self.env.write_txn()?;
        for blob in blobs {
            self.blobs.put(&mut writing, &key(blob), blob)?;
        }
        Ok(writing.commit()?)
    }

    fn get(&self, keys: &[Key], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        let reading = self.env.read_txn()?;
        for key in keys {
            see(self.blobs.get(&reading, key)?);
        }
        Ok(())
    }

    fn remove(&self, keys: &[Key]) -> Result<()> {
        let mut writing = self.env.write_txn()?;
        for key in keys {
            self.blobs.delete(&mut writing, key)?;
        }
        Ok(writing.commit()?)
    }
}
