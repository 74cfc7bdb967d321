//! A file a blob, under two levels of directories, as git and ostree lay their loose objects out.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use sha2::{Digest as _, Sha256};

use super::{Engine, Key, key, sync_parents};

/// More files at a time than this are made durable by one sync of the whole file system, which is faster than a sync of each.
const SINGLE_SYNCS_MAX: usize = 8;

pub struct Files {
    root: PathBuf,
    made: AtomicU64,
}

impl Files {
    pub fn open(root: &Path) -> Result<Files> {
        let directory = |first: u8| root.join(format!("{first:02x}"));
        // Where the last one is the others are too: an opening has nothing to do then.
        if !directory(255).exists() {
            (0..=255).try_for_each(|first| fs::create_dir_all(directory(first)))?;
        }
        Ok(Files { root: root.into(), made: AtomicU64::new(0) })
    }

    fn path(&self, key: &Key) -> PathBuf {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        self.root.join(&hex[..2]).join(&hex[2..])
    }

    fn temporary(&self) -> PathBuf {
        self.root.join(format!("new-{}", self.made.fetch_add(1, Ordering::Relaxed)))
    }

    fn sync_all(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }
}

impl Engine for Files {
    fn put(&self, blobs: &[&[u8]]) -> Result<()> {
        let few = blobs.len() <= SINGLE_SYNCS_MAX;
        let mut places = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let (temporary, place) = (self.temporary(), self.path(&key(blob)));
            let mut file = File::create_new(&temporary)?;
            file.write_all(blob)?;
            if few {
                file.sync_all()?;
            }
            places.push((temporary, place));
        }
        if !few {
            // The bytes are durable before any of them has its name.
            self.sync_all()?;
        }
        for (temporary, place) in &places {
            fs::rename(temporary, place)?;
        }
        if few { sync_parents(places.iter().map(|(_, place)| place.as_path())) } else { self.sync_all() }
    }

    fn put_stream(&self, source: &mut dyn Read) -> Result<()> {
        let temporary = self.temporary();
        let mut file = File::create_new(&temporary)?;
        let mut hasher = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            let length = source.read(&mut piece)?;
            if length == 0 {
                break;
            }
            hasher.update(&piece[..length]);
            file.write_all(&piece[..length])?;
        }
        file.sync_all()?;
        let place = self.path(&hasher.finalize().into());
        fs::rename(&temporary, &place)?;
        sync_parents([place.as_path()])
    }

    fn get(&self, keys: &[Key], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        for key in keys {
            match fs::read(self.path(key)) {
                Ok(bytes) => see(Some(&bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => see(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn remove(&self, keys: &[Key]) -> Result<()> {
        for key in keys {
            fs::remove_file(self.path(key))?;
        }
        self.sync_all()
    }
}
