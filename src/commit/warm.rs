//! A thread that goes ahead of a large batch, to the pages of the index that this will look at and change.
//!
//! The caller of a large batch mostly waits: for memory, for the disk, and for a fault wherever the system has written
//! a page of the index back since it was last stored into. Another core can take the faults meanwhile, and bring slots
//! and frames nearer. It decides nothing and changes nothing, so it may be late, or not be there at all.
//!
//! In batches of 100,000 blobs of 256 bytes, each synced, where the system had written all pages back before each, the
//! images went into the index in 32 to 36 ms and not 57 to 61; those of 25,000 removals in 31 to 34 and not 45 to 48.

use std::thread;

use super::Writer;
use crate::medium::Medium;
use crate::sync::{AtomicBool, Ordering};

/// Smaller batches are done before a thread is well under way. Unit tests are to see it at work, model checkers have no
/// such threads.
pub(super) const OPERATIONS_MIN: usize = if cfg!(test) { 4 } else { 2048 };

/// So many are looked at before the next step.
const TOGETHER: usize = 16;

impl<M: Medium> Writer<M> {
    /// Does `work`, which will need the records with these tags, in this order.
    pub(super) fn warmed<T>(&self, tags: &[u64], work: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let ahead = || self.go_ahead(tags, &over);
            // Where no thread is to be had it goes without.
            let _ = thread::Builder::new().name("blobpack ahead".into()).spawn_scoped(scope, ahead);
            let result = work();
            over.store(true, Ordering::Relaxed);
            result
        })
    }

    fn go_ahead(&self, tags: &[u64], over: &AtomicBool) {
        let view = self.source.view();
        for tags in tags.chunks(TOGETHER) {
            if over.load(Ordering::Relaxed) {
                return;
            }
            tags.iter().for_each(|&tag| view.prefetch_slot(tag));
            tags.iter().for_each(|&tag| view.prefetch_frame(tag));
            // No checkpoint freezes a segment meanwhile; and nobody is kept waiting for longer than a few faults take.
            if let Ok(applied) = self.applied.try_lock() {
                let segments = tags.iter().filter_map(|&tag| view.born_segment(tag, applied.table.born()));
                segments.for_each(|segment| self.medium.prepare_store(segment));
            }
        }
    }
}

#[cfg(test)]
mod tests;
