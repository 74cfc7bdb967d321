//! What dies with the last reference.

use super::lists::Side;
use super::{Changes, Records, Removal};
use crate::error::Result;
use crate::format::{LARGE_BYTES, Offset, PAGE_BYTES, to_u64};
use crate::record::BlobRecord;

/// The bytes of the file that a compaction gives back when this blob is gone: its frame and, where that stands in an
/// extent of its own ([`LARGE_BYTES`] of payload or more), the page that leads up to the payload.
#[must_use]
pub const fn space_bytes(blob: &BlobRecord) -> u64 {
    let lead = if blob.length >= LARGE_BYTES { PAGE_BYTES } else { 0 };
    blob.frame_bytes() + lead
}

/// What an operation removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The blobs that died, parents first. Their frames are still there, and name the digests.
    pub ids: Vec<Offset>,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Bytes of the file that they took (see [`space_bytes`]), and the name that was removed.
    pub frame_bytes: u64,
}

impl Removed {
    /// How many blobs died.
    #[must_use]
    pub fn blobs(&self) -> u64 {
        to_u64(self.ids.len())
    }
}

impl<R: Records> Changes<'_, R> {
    /// Removes a blob that has no references left, its links out, and whatever has no references left then (rule R18:
    /// with a worklist). A blob comes onto the list when its last parent is gone, so parents are removed first.
    pub(super) fn remove(&mut self, first: usize) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut dying = vec![first];
        while let Some(at) = dying.pop() {
            let blob = self.blobs[at].now;
            self.bury(at);
            removed.ids.push(blob.id);
            removed.payload_bytes = removed.payload_bytes.saturating_add(blob.length);
            removed.frame_bytes = removed.frame_bytes.saturating_add(space_bytes(&blob));
            let (mut previous, mut next) = (Offset::NONE, blob.first_out);
            for _ in 0..blob.out_count {
                let link = self.need_link(Side::Out, blob.id, next)?;
                let now = self.links[link].now;
                if now.previous_out != previous {
                    return Err(self.base.damaged(blob.id, Side::Out.torn()));
                }
                let to = self.need_by_id(next)?;
                if self.drop_link(link, to)? {
                    dying.push(to);
                }
                (previous, next) = (next, now.next_out);
            }
            if next != Offset::NONE {
                return Err(self.base.damaged(blob.id, "the links out are more than counted"));
            }
        }
        self.counters.blobs = self.counters.blobs.saturating_sub(removed.blobs());
        self.counters.live_bytes = self.counters.live_bytes.saturating_sub(removed.payload_bytes);
        self.counters.dead_bytes = self.counters.dead_bytes.saturating_add(removed.frame_bytes);
        Ok(removed)
    }

    /// Marks a blob as gone. Its image keeps what tells which blob it was.
    fn bury(&mut self, at: usize) {
        self.removals.push(Removal::Blob(at));
        let blob = &mut self.blobs[at];
        blob.removed = true;
        (blob.now.first_out, blob.now.first_in, blob.now.out_count) = (Offset::NONE, Offset::NONE, 0);
    }

    /// Takes a link, which is out of `from`'s list or whose `from` is gone, out of the list of `to` as well, and drops
    /// its reference: whether that was the last.
    pub(super) fn drop_link(&mut self, link: usize, to: usize) -> Result<bool> {
        self.unhook(Side::In, to, link)?;
        self.links[link].removed = true;
        self.removals.push(Removal::Link(link));
        self.counters.links = self.counters.links.saturating_sub(1);
        self.drop_held(to)
    }

    /// Drops a reference that a link or a name held: whether it was the last.
    pub(super) fn drop_held(&mut self, at: usize) -> Result<bool> {
        self.release_held(at)?;
        let blob = self.change_blob(at);
        blob.references -= 1;
        Ok(blob.references == 0)
    }

    /// Gives a caller the reference that a link or a name held.
    pub(super) fn release_held(&mut self, at: usize) -> Result<()> {
        let blob = self.change_blob(at);
        // Never above the references: that is checked when a record is taken in, and kept up by every operation.
        let Some(held) = blob.held.checked_sub(1).filter(|&held| held > 0 || blob.first_in == Offset::NONE) else {
            let id = blob.id;
            return Err(self.base.damaged(id, "the links in and names are not as many as counted"));
        };
        blob.held = held;
        Ok(())
    }
}
