//! The works, in groups that share their preparations.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::contents::Contents;
use crate::engines::{Engine, Key, Peer};
use crate::report::Report;

mod durable;
mod opens;
pub use opens::KILLED_BLOB_BYTES;
mod puts;
mod reads;
mod removal;
mod tail;
mod whole;

/// What is asked for.
pub struct Run {
    pub quick: bool,
    /// Blobs of the works on a million.
    pub blobs: usize,
    /// Blobs of the works on ten million.
    pub many: usize,
    pub peers: Vec<Peer>,
    pub directory: PathBuf,
}

/// Works that are measured together.
pub struct Group {
    pub works: &'static [&'static str],
    /// Left out of a quick run.
    pub slow: bool,
    pub measure: fn(&Run, &mut Report) -> Result<()>,
}

pub const GROUPS: &[Group] = &[
    Group {
        works: &["get_256_1m", "get_many_256_1m", "miss_256_1m", "get_owned_256_1m", "get_2threads"],
        slow: false,
        measure: reads::small,
    },
    Group { works: &["get_4k_100k"], slow: false, measure: reads::pages },
    Group { works: &["get_256_10m"], slow: true, measure: reads::many },
    Group { works: &["put_256"], slow: false, measure: puts::small },
    Group { works: &["put_4k"], slow: false, measure: puts::pages },
    Group { works: &["put_1m"], slow: false, measure: puts::large },
    Group { works: &["put_64m"], slow: false, measure: puts::streamed },
    Group { works: &["durable_1", "durable_8"], slow: false, measure: durable::puts },
    Group { works: &["durable_ops"], slow: false, measure: durable::operations },
    Group { works: &["remove"], slow: false, measure: removal::quarter },
    Group { works: &["open_1m", "recover_1m", "rebuild_1m"], slow: false, measure: opens::million },
    Group { works: &["open_10m"], slow: true, measure: opens::many },
    Group { works: &["compact", "compact_and_close", "verify"], slow: false, measure: whole::rewrite },
    Group { works: &["overhead_bytes_before", "overhead_bytes"], slow: false, measure: whole::overhead },
    Group { works: &["put_tail"], slow: true, measure: tail::slowest },
    Group { works: &["rss_anon"], slow: true, measure: tail::memory },
];

/// A store and the directory that it is in, which goes with it.
pub struct Opened {
    pub name: &'static str,
    pub engine: Box<dyn Engine>,
    pub home: TempDir,
}

impl Run {
    /// A directory that goes with its handle.
    pub fn home(&self) -> Result<TempDir> {
        Ok(tempfile::tempdir_in(&self.directory)?)
    }

    /// A new store of each peer, blobpack's first.
    pub fn open_all(&self) -> Result<Vec<Opened>> {
        self.peers.iter().map(|peer| self.open(peer)).collect()
    }

    pub fn open(&self, peer: &Peer) -> Result<Opened> {
        let home = self.home()?;
        Ok(Opened { name: peer.name, engine: (peer.open)(home.path())?, home })
    }

    /// Waits until nothing that others have written is on its way to the disk.
    pub fn settle(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.directory)?)?)
    }
}

/// The time that `work` takes.
pub fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Looks at some blobs of a store, every byte.
pub fn check(engine: &dyn Engine, contents: &Contents, keys: &[Key]) -> Result<()> {
    let every = (keys.len() / 1000).max(1);
    for (key, blob) in keys.iter().zip(contents.bytes.chunks_exact(contents.blob_bytes)).step_by(every) {
        let mut right = false;
        engine.get(&[*key], &mut |found| right = found == Some(blob))?;
        ensure!(right, "a store gives other bytes than it was given");
    }
    Ok(())
}
