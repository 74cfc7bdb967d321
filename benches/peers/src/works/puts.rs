//! Bulk puts: hashed, stored in batches, each synced before the next begins.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::Result;
use sha2::{Digest as _, Sha256};

use super::{Opened, Run, check, timed};
use crate::contents::{Contents, stream};
use crate::engines::key;
use crate::report::{Better, Figure, Report};

const MIB: f64 = 1_048_576.0;
/// The floor's plain writes are so long.
const WRITE_BYTES: usize = 1 << 20;
/// What blobpack's log holds of a blob beside its payload: a frame header, and an after-image with the checksum of its bytes.
const LOG_BYTES_A_BLOB: usize = 64 + 64 + 8;
const STREAM_BYTES: u64 = 64 << 20;

/// The least that has to be done: hash, write as many bytes as blobpack's log takes, sync once a batch.
struct Floor {
    file: File,
    at: u64,
    waiting: Vec<u8>,
}

impl Floor {
    fn new(run: &Run) -> Result<Floor> {
        Ok(Floor { file: tempfile::tempfile_in(&run.directory)?, at: 0, waiting: Vec::new() })
    }

    fn put(&mut self, blobs: &[&[u8]]) -> Result<()> {
        let mut image = [0; LOG_BYTES_A_BLOB];
        for blob in blobs {
            image[..32].copy_from_slice(&key(blob));
            self.waiting.extend_from_slice(&image);
            self.waiting.extend_from_slice(blob);
            if self.waiting.len() >= WRITE_BYTES {
                self.write()?;
            }
        }
        self.write()?;
        Ok(self.file.sync_data()?)
    }

    fn put_stream(&mut self, source: &mut dyn Read) -> Result<()> {
        let mut hasher = Sha256::new();
        let mut piece = vec![0; WRITE_BYTES];
        loop {
            let length = source.read(&mut piece)?;
            if length == 0 {
                break;
            }
            hasher.update(&piece[..length]);
            self.waiting.extend_from_slice(&piece[..length]);
            self.write()?;
        }
        self.waiting.write_all(&hasher.finalize())?;
        self.write()?;
        Ok(self.file.sync_data()?)
    }

    fn write(&mut self) -> Result<()> {
        self.file.write_all_at(&self.waiting, self.at)?;
        self.at += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }
}

/// What each took in all, and the floor.
struct Times {
    stores: Vec<(&'static str, Duration)>,
    floor: Duration,
}

impl Times {
    /// In units of work a second, of `done` units in all.
    fn figure(&self, unit: &'static str, done: f64) -> Figure {
        let rate = |time: &Duration| done / time.as_secs_f64();
        let rates: BTreeMap<_, _> = self.stores.iter().map(|(name, time)| (*name, rate(time))).collect();
        let others = rates.iter().filter(|(name, _)| **name != "blobpack").map(|(name, rate)| (*name, *rate));
        Figure::new(unit, Better::Higher, rates["blobpack"]).peers(others).floor(rate(&self.floor))
    }
}

/// Batches in turns: each store and the floor put one, then each the next. `count` is a multiple of `batches`.
fn bulk(run: &Run, stores: &[Opened], count: usize, blob_bytes: usize, batches: usize) -> Result<Times> {
    let mut floor = Floor::new(run)?;
    let mut times =
        Times { stores: stores.iter().map(|store| (store.name, Duration::ZERO)).collect(), floor: Duration::ZERO };
    for batch in 0..batches {
        let contents = Contents::new(batch * count / batches, count / batches, blob_bytes);
        let blobs = contents.blobs();
        for (store, (_, time)) in stores.iter().zip(&mut times.stores) {
            run.settle()?;
            *time += timed(|| store.engine.put(&blobs))?;
        }
        run.settle()?;
        times.floor += timed(|| floor.put(&blobs))?;
        if batch + 1 == batches {
            let keys = contents.keys();
            stores.iter().try_for_each(|store| check(store.engine.as_ref(), &contents, &keys))?;
        }
    }
    Ok(times)
}

/// `put_256`.
pub fn small(run: &Run, report: &mut Report) -> Result<()> {
    let count = run.blobs / 10 * 10;
    report.add("put_256", bulk(run, &run.open_all()?, count, 256, 10)?.figure("blobs/s", count as f64));
    Ok(())
}

/// `put_4k`.
pub fn pages(run: &Run, report: &mut Report) -> Result<()> {
    let count = run.blobs / 100 * 10;
    report.add("put_4k", bulk(run, &run.open_all()?, count, 4096, 10)?.figure("blobs/s", count as f64));
    Ok(())
}

/// `put_1m`.
pub fn large(run: &Run, report: &mut Report) -> Result<()> {
    let count = if run.quick { 64 } else { 512 };
    report.add("put_1m", bulk(run, &run.open_all()?, count, 1 << 20, count / 16)?.figure("MiB/s", count as f64));
    Ok(())
}

/// `put_64m`.
pub fn streamed(run: &Run, report: &mut Report) -> Result<()> {
    let stores = run.open_all()?;
    let count = if run.quick { 1 } else { 8 };
    let mut floor = Floor::new(run)?;
    let mut times =
        Times { stores: stores.iter().map(|store| (store.name, Duration::ZERO)).collect(), floor: Duration::ZERO };
    for number in 0..count {
        // Made before the clock is started, and read as a stream.
        let mut bytes = Vec::new();
        stream(number, STREAM_BYTES).read_to_end(&mut bytes)?;
        for (store, (_, time)) in stores.iter().zip(&mut times.stores) {
            run.settle()?;
            *time += timed(|| store.engine.put_stream(&mut bytes.as_slice()))?;
        }
        run.settle()?;
        times.floor += timed(|| floor.put_stream(&mut bytes.as_slice()))?;
        let mut right = 0;
        for store in &stores {
            store.engine.get(&[key(&bytes)], &mut |found| right += usize::from(found == Some(bytes.as_slice())))?;
        }
        anyhow::ensure!(right == stores.len(), "a store gives other bytes than it was given");
    }
    report.add("put_64m", times.figure("MiB/s", (count * STREAM_BYTES) as f64 / MIB));
    Ok(())
}
