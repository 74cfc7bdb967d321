//! blobpack itself.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use blobpack::{Algorithm, Digest, Durability, Store};

use super::{Engine, Key};

/// So many digests are made at a time.
const DIGESTS: usize = 1_000;

/// A store. Its gets go through a reader that each call makes, as others begin a transaction.
pub struct Blobpack {
    pub store: Store,
}

impl Blobpack {
    /// The pack in a directory.
    pub fn open(directory: &Path) -> Result<Blobpack> {
        Blobpack::open_with(directory, Durability::PowerLoss)
    }

    /// The same, with another promise.
    pub fn open_with(directory: &Path, durability: Durability) -> Result<Blobpack> {
        let store = Store::options().durability(durability).open(Self::path(directory))?;
        Ok(Blobpack { store })
    }

    /// Where the pack stands.
    pub fn path(directory: &Path) -> PathBuf {
        directory.join("blobs.pack")
    }
}

/// The digest that a key is the bytes of.
pub fn digest_of(key: &Key) -> Digest {
    Digest::from_bytes(Algorithm::Sha256, key).expect("a key has the length of a SHA-256")
}

/// Keys as digests, some at a time. Made one by one between the lookups, each would wait for the stores of its bytes, and
/// no lookup would begin while the one before waits for memory; made all at once, they would be read from memory again.
pub fn in_digests(keys: &[Key], mut work: impl FnMut(&[Digest]) -> Result<()>) -> Result<()> {
    let mut digests = Vec::with_capacity(DIGESTS);
    for keys in keys.chunks(DIGESTS) {
        digests.clear();
        digests.extend(keys.iter().map(digest_of));
        work(&digests)?;
    }
    Ok(())
}

impl Engine for Blobpack {
    fn put(&self, blobs: &[&[u8]]) -> Result<()> {
        let mut batch = self.store.batch();
        for blob in blobs {
            batch.put(blob)?;
        }
        batch.commit()?;
        Ok(())
    }

    fn put_stream(&self, source: &mut dyn Read) -> Result<()> {
        let mut writer = self.store.writer(Algorithm::Sha256)?;
        let mut piece = vec![0; 1 << 20];
        loop {
            let length = source.read(&mut piece)?;
            if length == 0 {
                break;
            }
            std::io::Write::write_all(&mut writer, &piece[..length])?;
        }
        writer.commit()?;
        Ok(())
    }

    fn get(&self, keys: &[Key], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        let reader = self.store.reader()?;
        in_digests(keys, |digests| {
            for digest in digests {
                see(reader.find(digest)?.as_deref());
            }
            Ok(())
        })
    }

    fn remove(&self, keys: &[Key]) -> Result<()> {
        let mut batch = self.store.batch();
        for key in keys {
            batch.dereference(&digest_of(key));
        }
        batch.commit()?;
        Ok(())
    }
}
