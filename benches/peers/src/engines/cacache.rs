//! cacache: a cache on the disk by content, a file a blob.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use cacache::{Algorithm, Integrity, WriteOpts};

use super::{Engine, Key};

/// It never syncs. So that it is as durable as the others, each batch ends with a sync of the file system.
pub struct Cacache(PathBuf);

impl Cacache {
    pub fn open(directory: &Path) -> Result<Cacache> {
        Ok(Cacache(directory.into()))
    }

    fn sync(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.0)?)?)
    }
}

fn integrity(key: &Key) -> Result<Integrity> {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Integrity::from_hex(hex, Algorithm::Sha256)?)
}

impl Engine for Cacache {
    fn put(&self, blobs: &[&[u8]]) -> Result<()> {
        for blob in blobs {
            cacache::write_hash_sync_with_algo(Algorithm::Sha256, &self.0, blob)?;
        }
        self.sync()
    }

    fn put_stream(&self, source: &mut dyn Read) -> Result<()> {
        let mut writer = WriteOpts::new().algorithm(Algorithm::Sha256).open_hash_sync(&self.0)?;
        let mut piece = vec![0; 1 << 20];
        loop {
            let length = source.read(&mut piece)?;
            if length == 0 {
                break;
            }
            writer.write_all(&piece[..length])?;
        }
        writer.commit()?;
        self.sync()
    }

    fn get(&self, keys: &[Key], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        for key in keys {
            let integrity = integrity(key)?;
            if cacache::exists_sync(&self.0, &integrity) {
                see(Some(&cacache::read_hash_sync(&self.0, &integrity)?));
            } else {
                see(None);
            }
        }
        Ok(())
    }

    fn remove(&self, keys: &[Key]) -> Result<()> {
        for key in keys {
            cacache::remove_hash_sync(&self.0, &integrity(key)?)?;
        }
        self.sync()
    }
}
