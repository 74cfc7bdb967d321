//! The store in figures.

use crate::error::{Error, Result};
use crate::format::segment_bytes;
use crate::medium::Medium;
use crate::store::Store;

/// What a store holds and takes, counted as of one moment. All counters are kept with every commit, none is worked out
/// by walking the store.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Blobs stored.
    pub blobs: u64,
    /// Links between them.
    pub links: u64,
    /// Names of blobs.
    pub names: u64,
    /// Payload bytes of all blobs.
    pub live_bytes: u64,
    /// Frame bytes of removed blobs and names: a compaction gives back these, and superseded index and log bytes
    /// besides.
    pub dead_bytes: u64,
    /// The file's length in bytes, holes included.
    pub file_bytes: u64,
    /// What the file takes on the disk, in bytes. On ext4 that may be up to 512 MiB more than its length while it is
    /// being written, as room is found ahead.
    pub disk_bytes: u64,
    /// Bytes of the live index: segments and directory.
    pub index_bytes: u64,
    /// Records for each slot of the live segments, between 0 and 1.
    pub index_load: f64,
    /// The live directory has `2^index_depth` entries.
    pub index_depth: u32,
    /// Commits since the store was made.
    pub commits: u64,
    /// Maps of earlier files or lengths that readers or blobs still hold.
    pub old_maps: u64,
}

impl<M: Medium> Store<M> {
    /// The store in figures.
    ///
    /// # Errors
    /// Those of an unreadable file.
    pub fn stats(&self) -> Result<Stats> {
        let source = self.shared().source();
        let (counters, segments, depth) = match self.shared().pack().writer() {
            Ok(writer) => {
                writer.learn()?;
                let segments = writer.space().live_segments();
                (writer.totals().0, segments, source.view().live().depth)
            }
            Err(_) => {
                // The log is ahead of an index that a dead writer has left.
                source.leave_dead_writer(&source.view())?;
                let view = source.current()?;
                let (counters, segments) = crate::recovery::look(&view)?;
                (counters, segments, view.live().depth)
            }
        };
        let medium = source.medium();
        let io = |e| Error::io("look at the file", medium.path(), e);
        let slots = source.view().slots();
        let records = counters.records();
        #[allow(clippy::cast_precision_loss, reason = "a share, for people")]
        let index_load = records as f64 / (segments.max(1) * u64::from(slots)) as f64;
        Ok(Stats {
            blobs: counters.blobs,
            links: counters.links,
            names: counters.names,
            live_bytes: counters.live_bytes,
            dead_bytes: counters.dead_bytes,
            file_bytes: medium.length().map_err(io)?,
            disk_bytes: medium.blocks().map_err(io)?,
            index_bytes: segments * segment_bytes(slots) + (8 << depth),
            index_load,
            index_depth: depth,
            commits: counters.commits,
            old_maps: self.old_maps(),
        })
    }

    /// Counts the maps other than the present one that views in somebody's hands look through.
    fn old_maps(&self) -> u64 {
        let source = self.shared().source();
        let mut different = vec![source.view()];
        for view in self.shared.held_views().into_iter().chain(source.held_views()) {
            if !different.iter().any(|other| other.shares_map(&view)) {
                different.push(view);
            }
        }
        different.len() as u64 - 1
    }
}
