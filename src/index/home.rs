//! The fast path of a lookup.
//!
//! Written for the processor. A lookup waits for two cache lines, one after the other: slot and frame. Many lookups are
//! fast where the next begins while this one waits, for which few instructions may lie between: so there is one bounds
//! check for each line, all misfortunes have the same end, and the unpredictable choice between the first two slots,
//! where nine hits out of ten are, is not a branch.
//!
//! # What a get costs
//!
//! No system call, no copy, and no store to memory that another thread reads: of 3,000 gets callgrind counts 25,771
//! stores (`--cache-sim=yes`), and in the machine code all of the fast path go to the thread's own stack. 206
//! instructions (`cargo bench --bench instructions`), of which 20 are for the tag and 25 compare the frame with the
//! digest. Of cache lines it takes one of the live page, which stays in the processor; one of the directory, 256 KiB
//! for a million records; the slot's and the frame header's, which are waited for; and what the caller reads of the
//! payload. The least that can be is the last two: without an index in between the place of a frame would have to be
//! known.
//!
//! A profile of random gets of a million blobs of 256 bytes has 45 of 100 samples at the slot's first word and 38 at
//! the frame's. As a processor holds some 450 instructions, less than three gets wait at a time; a hash map in memory
//! has a quarter of the instructions and waits for ten. One get in ten goes past the first two slots: nobody foresees
//! that, and what was begun of the next gets is thrown away. Both of the first slots are asked for at once (5 % less
//! time). What was tried and did not pay: four slots in place of the first two (slower by an eighth: it is memory that
//! is short), for unknown digests eight slots at once in place of one after the other up to an empty one, which no
//! branch foresees (slower by a quarter, for the same reason), or the header and the next three slots loaded ahead
//! (nothing), no check of the notice, marker, offset and length (5 % less time), huge pages for the index (a tenth at
//! most, within the noise), and segments of 31, 127 and 255 slots in place of 63: with the first puts take 1.6 times as
//! long and the index is 1.75 times as large, the others are level and their index a tenth larger.
//!
//! Not built: a line of fingerprints in each segment, a byte a slot. In a model of the index alone, of 720,000 random
//! tags in such segments, the search for an unknown one takes 25 ns with it and 120 as here, that for a known one the
//! same; the format would have to change.

use std::hint::select_unpredictable;

use zerocopy::FromBytes;

use crate::digest::{Algorithm, Digest};
use crate::error::Result;
use crate::format::{Entry, FrameHeader, Kind, LiveWord, Offset, PROBES_MAX, TAG_EMPTY, home_slot, live, to_usize};
use crate::index::probe::{Found, Segment, directory_index};
use crate::map::Front;
use crate::medium::Medium;
use crate::sync::{Ordering, Word};
use crate::view::View;

/// So many lookups wait for memory at a time: about as many cache lines as one core of today's processors asks for.
const TOGETHER: usize = 16;

/// Where a search begins.
#[derive(Clone, Copy)]
struct Home {
    tag: u64,
    live: u64,
    entry: Entry,
    /// The number of the first slot.
    slot: u32,
}

/// Where a slot says that a blob is: the frame decides.
#[derive(Clone, Copy)]
struct Hint {
    id: u64,
    length: u64,
}

impl<M: Medium> View<M> {
    /// The payload of a blob with a SHA-256 in one of the first two slots. `None` says nothing.
    #[inline]
    pub fn find_at_home(&self, digest: &Digest) -> Option<&[u8]> {
        let front = self.front()?;
        let home = self.home_of(front, digest)?;
        // The choice between the two waits for the first; the other one comes meanwhile.
        self.prefetch_slots(&home);
        self.payload_at(front, self.look_at_home(front, home)?, digest)
    }

    /// The same for several blobs, each step for all of them before the next: while one waits for its cache line, the
    /// others ask for theirs. `done` is told of each in turn; its first error is the end.
    #[inline]
    pub fn find_many_at_home<'v>(
        &'v self,
        digests: &[Digest],
        mut done: impl FnMut(&Digest, Option<&'v [u8]>) -> Result<()>,
    ) -> Result<()> {
        let Some(front) = self.front() else {
            return digests.iter().try_for_each(|digest| done(digest, None));
        };
        for digests in digests.chunks(TOGETHER) {
            let (mut homes, mut hints) = ([None; TOGETHER], [None; TOGETHER]);
            for (digest, home) in digests.iter().zip(&mut homes) {
                *home = self.home_of(front, digest);
                if let Some(home) = home {
                    self.prefetch_slots(home);
                }
            }
            for (home, hint) in homes.iter().zip(&mut hints) {
                *hint = home.and_then(|home| self.look_at_home(front, home));
                if let Some(hint) = hint {
                    self.prefetch(Offset(hint.id));
                    self.prefetch(Offset(hint.id.wrapping_add(64)));
                }
            }
            for (digest, hint) in digests.iter().zip(hints) {
                done(digest, hint.and_then(|hint| self.payload_at(front, hint, digest)))?;
            }
        }
        Ok(())
    }

    /// Begins to load the slots where the search for this tag begins, and the header of its segment: for those who know
    /// what they will look for soon.
    pub fn prefetch_slot(&self, tag: u64) {
        if let Some(home) = self.front().and_then(|front| self.home_of_tag(front, tag)) {
            self.prefetch_slots(&home);
            self.prefetch(home.entry.segment);
        }
    }

    /// The same of the frame that this slot, which is there by now, leads to.
    pub fn prefetch_frame(&self, tag: u64) {
        let hint = self.front().and_then(|front| self.look_at_home(front, self.home_of_tag(front, tag)?));
        if let Some(hint) = hint {
            self.prefetch(Offset(hint.id));
        }
    }

    /// Begins to load the first two slots.
    #[inline]
    fn prefetch_slots(&self, home: &Home) {
        for slot in [home.slot, self.wrapped(home.slot + 1)] {
            self.prefetch(Offset(8 * line_at(home.entry.segment, slot) as u64));
        }
    }

    /// Where a blob's record is looked for first.
    #[inline]
    fn home_of(&self, front: Front<'_>, digest: &Digest) -> Option<Home> {
        self.home_of_tag(front, self.tagger().of_blob(digest))
    }

    #[inline]
    fn home_of_tag(&self, front: Front<'_>, tag: u64) -> Option<Home> {
        let word = |at: usize| Some(u64::from_le(front.word(at)?.load(Ordering::Acquire)));
        if word(to_usize(live::NOTICE.0 / 8))? != self.settled_notice() {
            return None;
        }
        let live = word(to_usize(live::WORD.0 / 8))?;
        let LiveWord { directory, depth, .. } = LiveWord::unpack(live);
        let entry = Entry::unpack(word(to_usize(directory.0 / 8 + directory_index(tag, depth)))?);
        Some(Home { tag, live, entry, slot: home_slot(tag, self.slots()) })
    }

    /// What the first two slots say of a blob.
    #[inline]
    fn look_at_home(&self, front: Front<'_>, Home { tag, entry, slot, .. }: Home) -> Option<Hint> {
        let first = line_at(entry.segment, slot);
        let second = line_at(entry.segment, self.wrapped(slot + 1));
        // Only a guess at the slot: its words are loaded in order after it.
        let there = u64::from_le(front.word(first)?.load(Ordering::Relaxed));
        hint_of(front.line(select_unpredictable(there == tag, first, second))?, tag)
    }

    /// The same in all slots where the blob may be: where it is, or that it is not there. `None` says nothing.
    ///
    /// It works out anew what the first look knew: few blobs need it, and the first is shorter so.
    #[inline(never)]
    pub fn find_near_home(&self, digest: &Digest) -> Option<Option<Found>> {
        let front = self.front()?;
        let Home { tag, live, entry, slot } = self.home_of(front, digest)?;
        for probe in 0..PROBES_MAX.min(self.slots()) {
            let slot = front.line(line_at(entry.segment, self.wrapped(slot + probe)))?;
            let there = u64::from_le(slot[0].load(Ordering::Acquire));
            if there == TAG_EMPTY {
                break;
            }
            if there == tag {
                let hint = hint_of(slot, tag)?;
                self.payload_at(front, hint, digest)?;
                let id = Offset(hint.id);
                return Some(Some(Found { id, payload: Offset(id.0 + 64), length: hint.length }));
            }
        }
        let segment = Segment { at: entry.segment, entry, live, words: front.line(to_usize(entry.segment.0 / 8))? };
        (segment.is_of(tag) && self.is_settled(&segment)).then_some(None)
    }

    /// The number of a slot, where the first comes after the last.
    #[inline]
    fn wrapped(&self, slot: u32) -> u32 {
        if slot >= self.slots() { slot - self.slots() } else { slot }
    }

    /// The payload behind the frame that a slot speaks of, if that is this blob's.
    #[inline]
    fn payload_at<'v>(&self, front: Front<'v>, Hint { id, length }: Hint, digest: &Digest) -> Option<&'v [u8]> {
        let frame = front.bytes(Offset(id), length.checked_add(64)?)?;
        let (head, payload) = frame.split_first_chunk::<64>()?;
        let head = FrameHeader::ref_from_bytes(head).ok()?;
        let sha256 = Algorithm::Sha256.code();
        let same = head.marker.get() == self.marker()
            && [head.kind, head.algorithm] == [Kind::Blob as u8, sha256]
            && digest.algorithm().code() == sha256
            && head.offset.get() == id
            && head.length.get() == length
            && head.detail == digest.padded()[..32];
        same.then_some(payload)
    }
}

/// Where a slot of a segment is, as the number of its first word.
#[inline]
fn line_at(segment: Offset, slot: u32) -> usize {
    to_usize(segment.0 / 8) + 8 + 8 * slot as usize
}

/// What a slot with this tag says. The tag is loaded once more, and last: of a slot that was emptied and filled again
/// meanwhile it may be that of a record that is not shown yet.
#[inline]
fn hint_of(slot: &[Word; 8], tag: u64) -> Option<Hint> {
    let load = |n: usize| u64::from_le(slot[n].load(Ordering::Acquire));
    let (id, length) = (load(1), load(2));
    (load(0) == tag).then_some(Hint { id, length })
}
