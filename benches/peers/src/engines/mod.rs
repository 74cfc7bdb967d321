//! The stores that are compared, each behind the same few calls.
//!
//! Each hashes what it is given with SHA-256 inside the call, as a content-addressed store must, uses the settings that its own
//! documentation recommends for such a job, and is durable when a call that stores or removes returns: power cut included,
//! where it can be had at all. The exceptions are said where the engine is.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use sha2::{Digest as _, Sha256};

mod blobpack;
mod cacache;
mod files;
mod fjall;
mod lmdb;
mod ram;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sqlite;

pub use blobpack::{Blobpack, digest_of, in_digests};
pub use ram::ram;

/// The SHA-256 of a blob.
pub type Key = [u8; 32];

/// A store under measurement.
pub trait Engine: Send + Sync {
    /// Hashes and stores all of these in one batch.
    fn put(&self, blobs: &[&[u8]]) -> Result<()>;

    /// Stores one blob that comes as a stream; a store that takes only whole values reads all of it first.
    fn put_stream(&self, source: &mut dyn Read) -> Result<()> {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        self.put(&[&bytes])
    }

    /// Looks each key up and shows what is found; what can be shown without a copy is.
    fn get(&self, keys: &[Key], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()>;

    /// Removes all of these in one batch.
    fn remove(&self, keys: &[Key]) -> Result<()>;
}

/// How to open one.
#[derive(Clone, Copy)]
pub struct Peer {
    /// Its key in the JSON.
    pub name: &'static str,
    /// Opens, or creates, the store in a directory of its own.
    pub open: fn(&Path) -> Result<Box<dyn Engine>>,
}

/// All of them; blobpack comes first.
pub const ALL: &[Peer] = &[
    Peer { name: "blobpack", open: |path| Ok(Box::new(Blobpack::open(path)?)) },
    Peer { name: "lmdb", open: |path| Ok(Box::new(lmdb::Lmdb::open(path)?)) },
    Peer { name: "redb", open: |path| Ok(Box::new(redb::Redb::open(path)?)) },
    Peer { name: "sqlite", open: |path| Ok(Box::new(sqlite::Sqlite::open(path)?)) },
    Peer { name: "fjall", open: |path| Ok(Box::new(fjall::Fjall::open(path)?)) },
    Peer { name: "files", open: |path| Ok(Box::new(files::Files::open(path)?)) },
    Peer { name: "cacache", open: |path| Ok(Box::new(cacache::Cacache::open(path)?)) },
    #[cfg(feature = "rocksdb")]
    Peer { name: "rocksdb", open: |path| Ok(Box::new(rocksdb::RocksDb::open(path)?)) },
];

/// The key of a blob.
pub fn key(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

/// Syncs the directories that these paths stand in, each once.
fn sync_parents<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Result<()> {
    let parents: HashSet<_> = paths.into_iter().filter_map(Path::parent).collect();
    for parent in parents {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}
