//! Opening: after a clean close, after a kill, and with an index that is made anew.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use blobpack::Store;

use super::{Run, median, timed};
use crate::child;
use crate::contents::Contents;
use crate::engines::{Blobpack, Peer};
use crate::report::{Better, Figure, Report};

const ROUNDS: usize = 9;
/// Blobs of a store that is killed are so long: a million of them are less than a checkpoint waits for.
pub const KILLED_BLOB_BYTES: usize = 64;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The time until a store is open and has given a first blob.
fn opened(peer: &Peer, home: &Path, first: &Contents) -> Result<f64> {
    let key = first.keys()[0];
    let mut found = false;
    let mut kept = None;
    let time = timed(|| {
        let engine = (peer.open)(home)?;
        engine.get(&[key], &mut |blob| found = blob.is_some())?;
        // Closing is not measured.
        kept = Some(engine);
        Ok(())
    })?;
    ensure!(found, "{}: the first blob is not there", peer.name);
    drop(kept);
    Ok(milliseconds(time))
}

/// A clean open of `count` blobs, by each of these.
fn clean(run: &Run, peers: &[Peer], count: usize) -> Result<Figure> {
    let mut homes = Vec::new();
    for peer in peers {
        let store = run.open(peer)?;
        for first in (0..count).step_by(100_000) {
            store.engine.put(&Contents::new(first, 100_000.min(count - first), 256).blobs())?;
        }
        drop(store.engine);
        homes.push(store.home);
    }
    run.settle()?;
    let first = Contents::new(0, 1, 256);
    let mut times = vec![Vec::new(); peers.len()];
    for _ in 0..ROUNDS {
        for ((peer, home), times) in peers.iter().zip(&homes).zip(&mut times) {
            times.push(opened(peer, home.path(), &first)?);
        }
    }
    let medians: Vec<_> = peers.iter().zip(times).map(|(peer, times)| (peer.name, median(times))).collect();
    Ok(Figure::new("ms", Better::Lower, medians[0].1).peers(medians[1..].iter().copied()))
}

/// `open_1m`, `recover_1m` and `rebuild_1m`.
pub fn million(run: &Run, report: &mut Report) -> Result<()> {
    report.add("open_1m", clean(run, &run.peers, run.blobs)?);
    let home = run.home()?;
    // A checkpoint is due after a million records: one less is the most that a kill can leave.
    let records = run.blobs.min(999_000);
    child::start("fill-and-die", home.path(), records)?;
    run.settle()?;
    let mut recovered = None;
    let recovery = timed(|| {
        recovered = Some(Store::open(Blobpack::path(home.path()))?);
        Ok(())
    })?;
    let store = recovered.expect("it was opened");
    let replayed = store.recovery().replayed_images;
    ensure!(replayed == records as u64, "{replayed} records were replayed, not {records}");
    // What it must write and sync: the index of these records.
    let index_bytes = store.stats()?.index_bytes;
    let mut file = tempfile::tempfile_in(&run.directory)?;
    let piece = vec![0x5a; 1 << 20];
    let floor = timed(|| {
        for _ in 0..index_bytes.div_ceil(1 << 20) {
            file.write_all(&piece)?;
        }
        Ok(file.sync_data()?)
    })?;
    report.add("recover_1m", Figure::new("ms", Better::Lower, milliseconds(recovery)).floor(milliseconds(floor)));
    store.close()?;
    rebuild(run, report)
}

/// The index anew from the log, beside reading the file.
fn rebuild(run: &Run, report: &mut Report) -> Result<()> {
    let home = run.home()?;
    let path = Blobpack::path(home.path());
    let store = Blobpack::open(home.path())?;
    for first in (0..run.blobs).step_by(100_000) {
        let blobs = Contents::new(first, 100_000.min(run.blobs - first), 256);
        crate::engines::Engine::put(&store, &blobs.blobs())?;
    }
    let log_bytes = store.store.stats()?.file_bytes - store.store.stats()?.index_bytes;
    drop(store);
    run.settle()?;
    let mut piece = vec![0; 1 << 20];
    let mut file = File::open(&path)?.take(log_bytes);
    let floor = timed(|| {
        while file.read(&mut piece)? > 0 {}
        Ok(())
    })?;
    let time = timed(|| {
        Store::options().rebuild(&path)?;
        Ok(())
    })?;
    report.add("rebuild_1m", Figure::new("ms", Better::Lower, milliseconds(time)).floor(milliseconds(floor)));
    Ok(())
}

/// `open_10m`: blobpack and LMDB.
pub fn many(run: &Run, report: &mut Report) -> Result<()> {
    let peers: Vec<_> = run.peers.iter().copied().filter(|peer| ["blobpack", "lmdb"].contains(&peer.name)).collect();
    report.add("open_10m", clean(run, &peers, run.many)?);
    Ok(())
}
