//! What goes over a whole pack.

use std::fs::{self, File};

use anyhow::{Result, ensure};

use super::{Run, timed};
use crate::contents::Contents;
use crate::engines::{Blobpack, Engine, digest_of, key};
use crate::report::{Better, Figure, Report};

const BLOB_BYTES: usize = 4096;
const MIB: f64 = 1_048_576.0;

/// `compact`, `compact_and_close` and `verify`, of 1 GiB of which half is dead.
pub fn rewrite(run: &Run, report: &mut Report) -> Result<()> {
    let count = if run.quick { 16_384 } else { 262_144 };
    let home = run.home()?;
    let blobpack = Blobpack::open(home.path())?;
    let mut live = Vec::new();
    for first in (0..count).step_by(16_384) {
        let contents = Contents::new(first, 16_384, BLOB_BYTES);
        blobpack.put(&contents.blobs())?;
        let keys = contents.keys();
        let dead: Vec<_> = keys.iter().copied().step_by(2).collect();
        blobpack.remove(&dead)?;
        live.extend(contents.bytes.chunks_exact(2 * BLOB_BYTES).flat_map(|pair| &pair[BLOB_BYTES..]).copied());
    }
    run.settle()?;
    let mebibytes = live.len() as f64 / MIB;
    let rate = |time: std::time::Duration| mebibytes / time.as_secs_f64();

    // A plain copy of the live bytes, synced.
    let (from, to) = (home.path().join("live"), home.path().join("copy"));
    fs::write(&from, &live)?;
    run.settle()?;
    let copy = timed(|| {
        fs::copy(&from, &to)?;
        Ok(File::open(&to)?.sync_all()?)
    })?;
    run.settle()?;
    let compaction = timed(|| {
        blobpack.store.compact()?;
        Ok(())
    })?;
    report.add("compact", Figure::new("MiB/s", Better::Higher, rate(compaction)).floor(rate(copy)));
    // The old file is closed by a thread, which ends before the store does.
    let closing = timed(|| {
        drop(blobpack);
        Ok(())
    })?;
    let both = compaction + closing;
    report.add("compact_and_close", Figure::new("MiB/s", Better::Higher, rate(both)).floor(rate(copy)));
    let blobpack = Blobpack::open(home.path())?;

    // All cores hash the same bytes from memory.
    let cores = std::thread::available_parallelism()?.get();
    let hashing = timed(|| {
        let share = live.len().div_ceil(cores).next_multiple_of(BLOB_BYTES);
        std::thread::scope(|scope| {
            for part in live.chunks(share) {
                scope.spawn(|| {
                    part.chunks_exact(BLOB_BYTES).for_each(|blob| {
                        std::hint::black_box(key(blob));
                    })
                });
            }
        });
        Ok(())
    })?;
    let verification = timed(|| {
        let verified = blobpack.store.verify()?;
        ensure!(verified.damage.is_empty(), "a new pack is damaged");
        Ok(())
    })?;
    report.add("verify", Figure::new("MiB/s", Better::Higher, rate(verification)).floor(rate(hashing)));
    Ok(())
}

/// `overhead_bytes`: what the disk holds beyond the payload, a blob of 256 bytes, before and after a compaction.
pub fn overhead(run: &Run, report: &mut Report) -> Result<()> {
    let home = run.home()?;
    let blobpack = Blobpack::open(home.path())?;
    let mut last = None;
    for first in (0..run.blobs).step_by(100_000) {
        let contents = Contents::new(first, 100_000.min(run.blobs - first), 256);
        blobpack.put(&contents.blobs())?;
        last = contents.keys().pop();
    }
    blobpack.store.checkpoint()?;
    let beyond = || -> Result<f64> {
        let bytes = blobpack.store.stats()?.disk_bytes;
        Ok((bytes as f64 - (256 * run.blobs) as f64) / run.blobs as f64)
    };
    report.add("overhead_bytes_before", Figure::new("B/blob", Better::Lower, beyond()?));
    blobpack.store.compact()?;
    ensure!(blobpack.store.contains(&digest_of(&last.expect("there is a blob")))?, "a blob went in a compaction");
    report.add("overhead_bytes", Figure::new("B/blob", Better::Lower, beyond()?));
    Ok(())
}
