//! What the slowest call takes, and how much memory a process.

use std::time::{Duration, Instant};

use anyhow::Result;
use blobpack::Durability;

use super::Run;
use crate::child;
use crate::contents::Contents;
use crate::engines::Blobpack;
use crate::report::{Better, Figure, Report};

/// `put_tail`: batches of a hundred, so that a commit is a small part of what it may take, without a sync of its own:
/// the disk's slowest sync is not this library's. Checkpoints, with their syncs, are in it.
pub fn slowest(run: &Run, report: &mut Report) -> Result<()> {
    let home = run.home()?;
    let store = Blobpack::open_with(home.path(), Durability::Process)?.store;
    let (mut put, mut commit) = (Duration::ZERO, Duration::ZERO);
    for first in (0..run.many).step_by(10_000) {
        let contents = Contents::new(first, 10_000, 256);
        for blobs in contents.blobs().chunks(100) {
            let mut batch = store.batch();
            for blob in blobs {
                let begun = Instant::now();
                batch.put(blob)?;
                put = put.max(begun.elapsed());
            }
            let begun = Instant::now();
            batch.commit()?;
            commit = commit.max(begun.elapsed());
        }
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    report.add("put_tail", Figure::new("ms", Better::Lower, milliseconds(put.max(commit))));
    Ok(())
}

/// `rss_anon`: the most anonymous memory of a process that puts, and of one that gets.
pub fn memory(run: &Run, report: &mut Report) -> Result<()> {
    let home = run.home()?;
    let puts: f64 = child::start("put", home.path(), run.many)?.trim().parse()?;
    let gets: f64 = child::start("get", home.path(), run.many)?.trim().parse()?;
    report.add("rss_anon", Figure::new("MiB", Better::Lower, puts.max(gets)));
    Ok(())
}
