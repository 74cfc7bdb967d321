//! Single operations, each durable before the next.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;

use super::{Run, check, timed};
use crate::contents::Contents;
use crate::engines::{Blobpack, Engine};
use crate::report::{Better, Figure, Report};

const BLOB_BYTES: usize = 4096;
const ROUNDS: usize = 5;
/// Callers at a time of `durable_8`.
const THREADS: usize = 8;

/// A bare write of 4 KiB that is durable when it returns (`RWF_DSYNC`), into allocated space, one behind the other.
struct BareWrites {
    file: File,
    at: u64,
}

impl BareWrites {
    fn new(run: &Run, writes: usize) -> Result<BareWrites> {
        let file = tempfile::tempfile_in(&run.directory)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, (writes * BLOB_BYTES) as u64)?;
        file.sync_all()?;
        Ok(BareWrites { file, at: 0 })
    }

    fn write(&mut self, count: usize) -> Result<()> {
        let page = [std::io::IoSlice::new(&[0x5a; BLOB_BYTES])];
        for _ in 0..count {
            rustix::io::pwritev2(&self.file, &page, self.at, ReadWriteFlags::DSYNC)?;
            self.at += BLOB_BYTES as u64;
        }
        Ok(())
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// `durable_1` and `durable_8`. Each of the eight makes as many puts as the one alone.
pub fn puts(run: &Run, report: &mut Report) -> Result<()> {
    // Rounds of 300, which took less than a tenth of a second, told less of eight threads (README).
    let each = if run.quick { 40 } else { 1000 };
    let stores = run.open_all()?;
    let mut bare = BareWrites::new(run, ROUNDS * each)?;
    let mut floor = Duration::ZERO;
    let (mut alone, mut together) = (vec![Duration::ZERO; stores.len()], vec![Duration::ZERO; stores.len()]);
    for round in 0..ROUNDS {
        let puts = (1 + THREADS) * each;
        let contents = Contents::new(round * puts, puts, BLOB_BYTES);
        let blobs = contents.blobs();
        let (first, second) = blobs.split_at(each);
        for (number, store) in stores.iter().enumerate() {
            run.settle()?;
            alone[number] += timed(|| first.iter().try_for_each(|blob| store.engine.put(&[blob])))?;
            together[number] += timed(|| by_threads(store.engine.as_ref(), second))?;
        }
        run.settle()?;
        floor += timed(|| bare.write(each))?;
        let keys = contents.keys();
        stores.iter().try_for_each(|store| check(store.engine.as_ref(), &contents, &keys))?;
    }
    let figure = |times: &[Duration], threads: usize| {
        let count = ROUNDS * threads * each;
        let rates: Vec<_> = stores.iter().zip(times).map(|(store, time)| (store.name, rate(count, *time))).collect();
        Figure::new("puts/s", Better::Higher, rates[0].1).peers(rates[1..].iter().copied())
    };
    report.add("durable_1", figure(&alone, 1).floor(rate(ROUNDS * each, floor)));
    report.add("durable_8", figure(&together, THREADS));
    Ok(())
}

/// The blobs one at a time, from eight threads.
fn by_threads(engine: &dyn Engine, blobs: &[&[u8]]) -> Result<()> {
    std::thread::scope(|scope| {
        let share = |blobs: &'_ [&[u8]]| blobs.iter().try_for_each(|blob| engine.put(&[blob]));
        let threads: Vec<_> =
            blobs.chunks(blobs.len().div_ceil(THREADS)).map(|part| scope.spawn(move || share(part))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a panic has been printed"))
    })
}

/// `durable_ops`: reference, dereference and link, a third each.
pub fn operations(run: &Run, report: &mut Report) -> Result<()> {
    let each = if run.quick { 30 } else { 200 };
    let home = run.home()?;
    let blobpack = Blobpack::open(home.path())?;
    let store = &blobpack.store;
    let contents = Contents::new(0, ROUNDS * each + 1, 64);
    blobpack.put(&contents.blobs())?;
    let mut digests: Vec<_> = contents.keys().iter().map(crate::engines::digest_of).collect();
    let from = digests.pop().context("there is one more than are linked")?;
    let mut bare = BareWrites::new(run, 3 * ROUNDS * each)?;
    let (mut time, mut floor) = (Duration::ZERO, Duration::ZERO);
    for part in digests.chunks(each) {
        run.settle()?;
        time += timed(|| {
            for digest in part {
                store.reference(digest)?;
                store.dereference(digest)?;
                store.link(digest, &from)?;
            }
            Ok(())
        })?;
        floor += timed(|| bare.write(3 * part.len()))?;
    }
    let count = 3 * ROUNDS * each;
    report.add("durable_ops", Figure::new("ops/s", Better::Higher, rate(count, time)).floor(rate(count, floor)));
    Ok(())
}
