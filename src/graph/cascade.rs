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

/// What a cascade leaves to the next part.
pub enum Left {
    /// A blob that nothing keeps. It has one reference all the same, as if a caller held it.
    Blob(Offset),
    /// Links out of a blob that is gone.
    Links(OutLinks),
}

/// The rest of a blob's list of links out.
pub struct OutLinks {
    from: Offset,
    previous: Offset,
    next: Offset,
    count: u64,
}

/// What an operation removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The blobs that died, parents first. Their frames are still there, and name the digests.
    pub ids: Vec<Offset>,
    /// Commits whose images name further ones, where they are too many to be listed here.
    pub listed_in: Vec<Offset>,
    /// How many these name.
    pub listed: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Bytes of the file that they took (see [`space_bytes`]), and the name that was removed.
    pub frame_bytes: u64,
}

impl Removed {
    /// How many blobs died.
    #[must_use]
    pub fn blobs(&self) -> u64 {
        to_u64(self.ids.len()) + self.listed
    }

    /// Adds what another cascade of the same batch has removed.
    pub fn add(&mut self, other: Removed) {
        self.ids.extend(other.ids);
        self.payload_bytes = self.payload_bytes.saturating_add(other.payload_bytes);
        self.frame_bytes = self.frame_bytes.saturating_add(other.frame_bytes);
    }

    /// Adds what a part has removed, which the commit at this place names.
    pub fn add_part(&mut self, part: &Removed, commit: Offset) {
        self.listed_in.push(commit);
        self.listed += part.blobs();
        self.payload_bytes = self.payload_bytes.saturating_add(part.payload_bytes);
        self.frame_bytes = self.frame_bytes.saturating_add(part.frame_bytes);
    }
}

impl<R: Records> Changes<'_, R> {
    /// Removes a blob that has no references left, its links out, and whatever has no references left then,
    /// with a worklist. A blob comes onto the list when its last parent is gone, so parents are removed first.
    pub(super) fn remove(&mut self, first: usize) -> Result<Removed> {
        self.cascade(vec![first], None)
    }

    fn cascade(&mut self, mut dying: Vec<usize>, begun: Option<OutLinks>) -> Result<Removed> {
        let mut removed = Removed::default();
        let (mut wide, mut rest) = (Vec::new(), Vec::new());
        if let Some(links) = begun {
            wide.extend(self.drop_links(links, &mut dying)?);
        }
        while let Some(at) = dying.pop() {
            let blob = self.blobs[at].now;
            let room = to_u64(self.removals_max.saturating_sub(self.removals.len()));
            // One whose links are too many for a part of its own may as well begin here.
            if room == 0 || room <= blob.out_count && blob.out_count < to_u64(self.removals_max) / 2 {
                self.change_blob(at).references += 1;
                rest.push(Left::Blob(blob.id));
                continue;
            }
            self.bury(at);
            removed.ids.push(blob.id);
            removed.payload_bytes = removed.payload_bytes.saturating_add(blob.length);
            removed.frame_bytes = removed.frame_bytes.saturating_add(space_bytes(&blob));
            let links = OutLinks { from: blob.id, previous: Offset::NONE, next: blob.first_out, count: blob.out_count };
            wide.extend(self.drop_links(links, &mut dying)?);
        }
        // What hangs on a wide blob goes before its further links, so that never much is left.
        self.left.extend(wide.into_iter().map(Left::Links).chain(rest.into_iter().rev()));
        self.counters.blobs = self.counters.blobs.saturating_sub(removed.blobs());
        self.counters.live_bytes = self.counters.live_bytes.saturating_sub(removed.payload_bytes);
        self.counters.dead_bytes = self.counters.dead_bytes.saturating_add(removed.frame_bytes);
        Ok(removed)
    }

    /// Removes the links out of a blob that is gone; what dies of that goes onto the list. Returns those for which this
    /// part has no room.
    fn drop_links(&mut self, mut links: OutLinks, dying: &mut Vec<usize>) -> Result<Option<OutLinks>> {
        while links.count > 0 {
            if self.removals.len() >= self.removals_max {
                return Ok(Some(links));
            }
            let link = self.need_link(Side::Out, links.from, links.next)?;
            let now = self.links[link].now;
            if now.previous_out != links.previous {
                return Err(self.base.damaged(links.from, Side::Out.torn()));
            }
            let to = self.need_by_id(links.next)?;
            if self.drop_link(link, to)? {
                dying.push(to);
            }
            (links.previous, links.next) = (links.next, now.next_out);
            links.count -= 1;
        }
        if links.next != Offset::NONE {
            return Err(self.base.damaged(links.from, "the links out are more than counted"));
        }
        Ok(None)
    }

    /// Lets cascades stop after about so many removals, so that they take bounded memory. Then this batch is a part:
    /// another one has to [go on](Changes::go_on).
    pub fn cut_after(&mut self, removals: usize) {
        self.removals_max = removals.max(2);
    }

    /// Whether a cascade was cut, or the next one would be.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.has_left() || self.removals.len() >= self.removals_max
    }

    /// Whether a cascade was cut.
    #[must_use]
    pub fn has_left(&self) -> bool {
        !self.left.is_empty()
    }

    /// What cascades have left to the next part. The last is to go first.
    pub fn take_left(&mut self) -> Vec<Left> {
        std::mem::take(&mut self.left)
    }

    /// Removes what a part before has left.
    pub fn go_on(&mut self, left: Left) -> Result<Removed> {
        let id = match left {
            Left::Blob(id) => id,
            Left::Links(links) => return self.cascade(Vec::new(), Some(links)),
        };
        let at = self.need_by_id(id)?;
        let blob = self.change_blob(at);
        blob.references -= 1;
        if blob.references == 0 { self.remove(at) } else { Err(self.base.damaged(id, "a dying blob has references")) }
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
