//! The reference for reads: a hash map in memory, with all bytes in one vector.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use anyhow::{Result, bail};
use hashbrown::{DefaultHashBuilder, HashMap};

use super::{Engine, Key};

/// Takes the first eight bytes of what it is given: keys are digests, and so random already.
#[derive(Default)]
pub struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length of a slice comes through here, before its bytes.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Ram<'c, S>(HashMap<Key, &'c [u8], S>);

/// The map with hashbrown's own hasher, and with one that costs nothing.
pub fn ram<'c>(keys: &[Key], contents: &'c [u8], blob_bytes: usize) -> [Box<dyn Engine + 'c>; 2] {
    let entries = || keys.iter().copied().zip(contents.chunks_exact(blob_bytes));
    let usual: HashMap<_, _, DefaultHashBuilder> = entries().collect();
    let plain: HashMap<_, _, BuildHasherDefault<FirstBytes>> = entries().collect();
    [Box::new(Ram(usual)), Box::new(Ram(plain))]
}

impl<S: BuildHasher + Send + Sync> Engine for Ram<'_, S> {
    fn put(&self, _: &[&[u8]]) -> Result<()> {
        bail!("the map in memory is the reference for reads alone")
    }

    fn get(&self, keys: &[Key], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        for key in keys {
            see(self.0.get(key).copied());
        }
        Ok(())
    }

    fn remove(&self, _: &[Key]) -> Result<()> {
        bail!("the map in memory is the reference for reads alone")
    }
}
