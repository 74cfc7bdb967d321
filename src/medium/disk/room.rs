//! Room behind the end of the file, found before it is needed.
//!
//! ext4 keeps a map of each group of blocks on the disk, and reads it when it first looks for room in that group. On a
//! disk that a checkpoint keeps busy whoever makes the file grow waits for that, up to a tenth of a second here. So the
//! room that commits are expected to take beside a checkpoint is reserved before. The file keeps its length, so nothing
//! of the format knows of it. What was not used is given back with the lock, before a compaction and after a checkpoint
//! that nobody commits beside; what a killed process has left, when the pack is next opened for writing.

use std::io;
use std::sync::atomic::Ordering;

use super::{Disk, lock, sys};
use crate::format::to_usize;
use crate::medium::Medium;

/// Reserved in steps, as a write to the file waits for each.
const STEP_BYTES: u64 = 16 << 20;
/// The most that is reserved: a little more than what comes between two checkpoints of small blobs that are not synced
/// one by one.
const ROOM_BYTES_MAX: u64 = 512 << 20;
/// Of what the disk has left, one part in so many at most.
const PARTS_OF_FREE: u64 = 8;

impl Disk {
    pub(super) fn reserve_room(&self, bytes: u64) {
        if !sys::searches_for_room(&self.file) {
            return;
        }
        let (Ok(free), Ok(start)) = (sys::free_bytes(&self.file), self.length()) else { return };
        let bytes = bytes.min(ROOM_BYTES_MAX).min(free / PARTS_OF_FREE);
        for at in (0..bytes).step_by(to_usize(STEP_BYTES)) {
            if self.reserve_step(start + at, start + bytes.min(at + STEP_BYTES)).is_err() {
                return;
            }
            // Who makes the file grow waits for the same lock, and is let through.
            self.pause();
        }
    }

    fn reserve_step(&self, from: u64, end: u64) -> io::Result<()> {
        let _alone = lock(&self.allocating);
        // Who has given the lock back has given the room back.
        if !self.lock.is_held() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // What lies before the end by now was allocated, and may be punched.
        let from = from.max(self.length()?);
        if from >= end {
            return Ok(());
        }
        self.has_room.store(true, Ordering::Relaxed);
        sys::reserve(&self.file, from, end - from)
    }

    /// Gives back what is reserved, and what a process that was killed had reserved.
    pub(super) fn give_back_room(&self) {
        let _alone = lock(&self.allocating);
        self.cut_room();
    }

    /// The same, and the lock.
    pub(super) fn give_back_lock(&self) {
        let _alone = lock(&self.allocating);
        self.cut_room();
        self.lock.release();
    }

    fn cut_room(&self) {
        // Without the lock the file may grow by another process.
        if self.lock.is_held() && self.has_room.swap(false, Ordering::Relaxed) && sys::searches_for_room(&self.file) {
            // To set the length that a file has frees the blocks behind it. Where that fails the next writer does it.
            let _ = self.length().and_then(|length| self.file.set_len(length));
        }
    }
}
