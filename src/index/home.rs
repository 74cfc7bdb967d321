//! The fast path of a lookup.
//!
//! Written for the processor. A lookup waits for two cache lines, one after the other: slot and frame. Many lookups are
//! fast where the next begins while this one waits, for which few instructions may lie between: so all of it is a part
//! of what asks, and the map is looked at in cache lines, with one bounds check for those that are used together. 19
//! hits out of 20 are in one of the three slots near home; for the others a function of its own goes on. Whether the
//! frame is the blob's is a branch, so that the caller's loads need not wait for the answer.
//!
//! # What a get costs
//!
//! No system call, no copy, and no store to memory that another thread reads: of 30,000 gets callgrind counts some
//! 41,000 stores (`--cache-sim=yes`), and in the machine code all of the fast path go to the thread's own stack. 139
//! instructions (`cargo bench --bench instructions`). Of cache lines it takes one of the live page, which stays in the
//! processor; one of the directory, 256 KiB for a million records; two or three of slots and the frame header's, which
//! are waited for; and what the caller reads of the payload. The least that can be is the last two: without an index in
//! between the place of a frame would have to be known.
//!
//! A profile of random gets of a million blobs of 256 bytes, when two slots were looked at, had 45 of 100 samples at
//! the slot's first word and 38 at the frame's. That is not for want of memory: in a short loop of nothing else the
//! same loads, of a slot and of three lines of the frame that it names, take 21 ns, where one such wait alone takes
//! 166. But a processor of this kind (Zen 5) has 448 instructions on their way at a time, so that few gets wait at a
//! time: one instruction more in each turn of that loop costs 0.6 to 1.6 ns, and some 2 where it waits for the slot. A
//! get took 158 ns with 171 instructions, and takes 130 with 139. It takes 153 where the words of the header are
//! compared one by one, or where the first look is a function of its own. What waits for memory takes one of a few
//! places, of which there are more for vectors. The map in memory takes 43. One get in twenty goes past the first
//! slots: nobody foresees that, and what was begun of the next gets is thrown away.
//!
//! What was tried and did not pay: four slots at once (27 ns more in a loop by hand), each slot only after the one
//! before it (8 ns more), the choice between them by arithmetic (15 ns more), the tag or all of where it looked handed
//! on to `find_farther` (unknown digests take 10 ns less, hits 3 to 12 more), for unknown digests eight slots at once
//! (slower by a quarter), the header and the next three slots loaded ahead (nothing), no check of the notice, marker,
//! offset and length (5 % less time), huge pages for the index or all of the pack (a tenth at most, within the noise),
//! and segments of 31, 127 and 255 slots in place of 63: with the first puts take 1.6 times as long and the index is
//! 1.75 times as large, the others are level and their index a tenth larger.
//!
//! Not built: a line of fingerprints in each segment, a byte a slot. Beside a pack of a million blobs an unknown digest
//! takes 26 ns with such lines in a model, 90 by the loop of `find_in_segment` alone, and 147 as it is; a known one
//! takes 8 % longer with them. Eight bytes a slot, with the frame's place, so that a get needs no record: 101 to 104 ns
//! beside 112 of a plain search, and 40 for an unknown digest. The format would have to change.

use std::hint::select_unpredictable;
use std::mem::offset_of;

use crate::digest::{Algorithm, Digest};
use crate::error::Result;
use crate::format::{
    Entry, FrameHeader, Kind, LIVE_AT, LiveWord, Offset, TAG_EMPTY, home_slot, live, to_u64, to_usize,
};
use crate::index::probe::{Segment, directory_index, is_born, load_record, probes};
use crate::map::{Front, LINE_BYTES, Line, is_same_line};
use crate::medium::Medium;
use crate::record::{BlobRecord, Record};
use crate::sync::Ordering;
use crate::view::{NEAR, View};

/// So many lookups wait for memory at a time: about as many cache lines as one core of today's processors asks for.
const TOGETHER: usize = 16;

/// Kind and algorithm, as the second word of a header has them.
const KIND: u64 = u64::from_le_bytes([Kind::Blob as u8, Algorithm::Sha256.code(), 0, 0, 0, 0, 0, 0]);
const KIND_MASK: u64 = 0xffff;
const _: () = assert!(offset_of!(FrameHeader, kind) == 8 && offset_of!(FrameHeader, algorithm) == 9);
const _: () = assert!(offset_of!(FrameHeader, offset) == 16 && offset_of!(FrameHeader, length) == 24);
const _: () = assert!(offset_of!(FrameHeader, marker) == 0 && offset_of!(FrameHeader, detail) == 32);

/// Where a search begins.
#[derive(Clone, Copy)]
struct Home {
    tag: u64,
    /// The cache line of the segment's header.
    segment: usize,
    /// The cache line before the first slot that is looked at.
    before: usize,
}

/// Where a slot says that a blob is: the frame decides.
#[derive(Clone, Copy)]
struct Hint {
    id: u64,
    length: u64,
}

/// Why the fast path has no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The blob is not stored.
    Absent,
    /// It does not know: [`View::find_blob`] does.
    Unsure,
}

impl<M: Medium> View<M> {
    /// The payload of a blob with a SHA-256 whose record is near its home; of others it knows nothing. A part of what
    /// asks, as each instruction counts.
    #[inline(always)]
    pub fn find_near_home(&self, digest: &Digest) -> Option<&[u8]> {
        if digest.algorithm() != Algorithm::Sha256 {
            return None;
        }
        let front = self.front();
        let home = self.home_of(front, self.tagger().of_sha256_if_wide(digest))?;
        let hint = self.look_near_home(front, &home)?;
        self.payload_at(front, hint, digest)
    }

    /// The record of such a blob, as [`View::blob_record`] finds it: whole, in the segment that was meant, and of a
    /// frame that is the blob's.
    #[inline]
    pub fn record_near_home(&self, digest: &Digest) -> Option<BlobRecord> {
        if digest.algorithm() != Algorithm::Sha256 {
            return None;
        }
        let (front, tag) = (self.front(), self.tagger().of_sha256_if_wide(digest));
        let (live, entry) = self.entry_of(front, tag)?;
        let slot = self.slot_near_home(front, &self.home_in(&entry, tag))?;
        let Record::Blob(blob) = load_record(slot)?.record else { return None };
        let words = front.line(line_of(entry.segment))?;
        // The tag is what was loaded last of the record.
        if blob.tag != tag || !(Segment { at: entry.segment, entry, live, words }).is_named() {
            return None;
        }
        self.payload_at(front, Hint { id: blob.id.0, length: blob.length }, digest).map(|_| blob)
    }

    /// Payloads of several blobs from slots near home, each step for all of them before the next: while one waits for
    /// its cache line, the others ask for theirs. `done` is told of each in turn, `None` says nothing; its first error
    /// is the end.
    #[inline]
    pub fn find_many_near_home<'v>(
        &'v self,
        digests: &[Digest],
        mut done: impl FnMut(&Digest, Option<&'v [u8]>) -> Result<()>,
    ) -> Result<()> {
        let front = self.front();
        for digests in digests.chunks(TOGETHER) {
            let (mut homes, mut hints) = ([None; TOGETHER], [None; TOGETHER]);
            for (digest, home) in digests.iter().zip(&mut homes) {
                if digest.algorithm() == Algorithm::Sha256 {
                    *home = self.home_of(front, self.tagger().of_blob(digest));
                }
                if let Some(home) = home {
                    front.prefetch(line_at(home.before + 1));
                    front.prefetch(line_at(home.before + 2));
                }
            }
            for (home, hint) in homes.iter().zip(&mut hints) {
                *hint = home.and_then(|home| self.look_near_home(front, &home));
                if let Some(hint) = hint {
                    front.prefetch(Offset(hint.id));
                    front.prefetch(Offset(hint.id.wrapping_add(64)));
                }
            }
            for (digest, hint) in digests.iter().zip(hints) {
                done(digest, hint.and_then(|hint| self.payload_at(front, hint, digest)))?;
            }
        }
        Ok(())
    }

    /// Begins to load two slots near the home of this tag, and the header of its segment: for those who know what they
    /// will look for soon.
    pub fn prefetch_slot(&self, tag: u64) {
        let front = self.front();
        if let Some(home) = self.home_of(front, tag) {
            for line in [home.before + 1, home.before + 2, home.segment] {
                front.prefetch(line_at(line));
            }
        }
    }

    /// The same of the frame that this slot, which is there by now, leads to.
    pub fn prefetch_frame(&self, tag: u64) {
        let front = self.front();
        if let Some(home) = self.home_of(front, tag)
            && let Some(hint) = self.look_near_home(front, &home)
        {
            front.prefetch(Offset(hint.id));
        }
    }

    /// The segment for this tag, if stores go there and not into a copy: if it was made after the last freeze, which
    /// `born` stands for. Only a hint.
    pub fn born_segment(&self, tag: u64, born: u64) -> Option<Offset> {
        let front = self.front();
        let (_, entry) = self.entry_of(front, tag)?;
        is_born(front.line(line_of(entry.segment))?, born).then_some(entry.segment)
    }

    /// Where a record is looked for first: from its home on, or in the segment's last slots. What lies behind these is
    /// another segment, perhaps an older copy of this one, with records that were removed since.
    #[inline]
    fn home_of(&self, front: Front<'_>, tag: u64) -> Option<Home> {
        Some(self.home_in(&self.entry_of(front, tag)?.1, tag))
    }

    #[inline]
    fn home_in(&self, entry: &Entry, tag: u64) -> Home {
        let segment = line_of(entry.segment);
        let first = home_slot(tag, self.slots()).min(self.last_near());
        Home { tag, segment, before: segment + first as usize }
    }

    /// The live word, and the directory's entry for a tag.
    #[inline]
    fn entry_of(&self, front: Front<'_>, tag: u64) -> Option<(u64, Entry)> {
        let page = front.line(line_of(LIVE_AT))?;
        if word_in(page, live::NOTICE) != self.settled_notice() {
            return None;
        }
        let live = word_in(page, live::WORD);
        let LiveWord { directory, depth, .. } = LiveWord::unpack(live);
        let entry = front.word(to_usize(directory.0 / 8 + directory_index(tag, depth)))?;
        Some((live, Entry::unpack(u64::from_le(entry.load(Ordering::Acquire)))))
    }

    /// What the slots near home say of a blob. Where a segment has fewer, the others are zeros of the same page.
    ///
    /// It does not end at an empty slot, and the last slots of a segment may stand before the home: a record with the
    /// tag is no other's, wherever it stands.
    #[inline]
    fn look_near_home(&self, front: Front<'_>, home: &Home) -> Option<Hint> {
        hint_of(self.slot_near_home(front, home)?, home.tag)
    }

    /// The slot near home that has the tag, if one has; only a guess.
    #[inline]
    fn slot_near_home<'v>(&self, front: Front<'v>, home: &Home) -> Option<&'v Line> {
        let [_, slots @ ..]: &[Line; NEAR as usize + 1] = front.lines(home.before)?;
        // The slot's words are loaded in order after this. Both tags are loaded before: whether a compiler makes a
        // branch of the choice then took no time.
        let is_in = |slot: usize| u64::from_le(slots[slot][0].load(Ordering::Relaxed)) == home.tag;
        let slot = select_unpredictable(is_in(0), 0, select_unpredictable(is_in(1), 1, 2));
        Some(&slots[slot])
    }

    /// The payload of a blob in whichever slot its record is. It loads anew what the first look knew: few hits come
    /// here, and the first look is shorter so.
    #[inline]
    pub fn find_farther(&self, digest: &Digest) -> Result<&[u8], Miss> {
        if digest.algorithm() != Algorithm::Sha256 {
            return Err(Miss::Unsure);
        }
        let (front, tag) = (self.front(), self.tagger().of_blob(digest));
        let (live, entry) = self.entry_of(front, tag).ok_or(Miss::Unsure)?;
        let (header, first) = (line_of(entry.segment), home_slot(tag, self.slots()));
        let ends_near = first <= self.last_near() && ends_near(front, header + first as usize, tag);
        if !ends_near && let Some(payload) = self.find_in_segment(front, header, tag, digest)? {
            return Ok(payload);
        }
        let words = front.line(header).ok_or(Miss::Unsure)?;
        let segment = Segment { at: entry.segment, entry, live, words };
        // What `is_settled` says, by the front.
        let still_live = || front.line(line_of(LIVE_AT)).is_some_and(|page| word_in(page, live::WORD) == live);
        Err(if segment.is_of(tag) && segment.is_named() && still_live() { Miss::Absent } else { Miss::Unsure })
    }

    /// The payload of a blob, slot by slot. `None` where the search ends with nothing found.
    #[inline(never)]
    fn find_in_segment<'v>(
        &self,
        front: Front<'v>,
        header: usize,
        tag: u64,
        digest: &Digest,
    ) -> Result<Option<&'v [u8]>, Miss> {
        for slot in probes(home_slot(tag, self.slots()), self.slots()) {
            let slot = front.line(header + 1 + slot as usize).ok_or(Miss::Unsure)?;
            let there = u64::from_le(slot[0].load(Ordering::Acquire));
            if there == TAG_EMPTY {
                break;
            }
            if there == tag {
                let payload = hint_of(slot, tag).and_then(|hint| self.payload_at(front, hint, digest));
                return payload.map(Some).ok_or(Miss::Unsure);
            }
        }
        Ok(None)
    }

    /// The payload behind the frame that a slot speaks of, if that is this blob's.
    #[inline]
    fn payload_at<'v>(&self, front: Front<'v>, Hint { id, length }: Hint, digest: &Digest) -> Option<&'v [u8]> {
        let word = |bytes: &[u8; 64], number: usize| u64::from_le_bytes(bytes.as_chunks().0[number]);
        front.payload(Offset(id), length, |header| {
            let [a, b, c, d, e, f, g, h] = std::array::from_fn(|number| word(header, number));
            let [i, j, k, l] = std::array::from_fn(|number| word(digest.padded(), number));
            // Neither flags nor checksum.
            is_same_line([a, b & KIND_MASK, c, d, e, f, g, h], [self.marker(), KIND, id, length, i, j, k, l])
        })
    }
}

/// Whether a search that begins behind this cache line ends at one of the slots near home with nothing found: most for
/// unknown blobs do, and at which of the three nobody foresees. Where a segment has fewer slots the others are zeros of
/// the same page, and all of its slots were looked at.
#[inline]
fn ends_near(front: Front<'_>, before: usize, tag: u64) -> bool {
    let Some([_, slots @ ..]) = front.lines::<{ NEAR as usize + 1 }>(before) else { return false };
    let [a, b, c] = slots.each_ref().map(|slot| u64::from_le(slot[0].load(Ordering::Acquire)));
    let is_any = |tag| (a == tag) | (b == tag) | (c == tag);
    is_any(TAG_EMPTY) & !is_any(tag)
}

/// The number of the cache line at this offset.
#[inline]
fn line_of(offset: Offset) -> usize {
    to_usize(offset.0 / LINE_BYTES)
}

/// The inverse of [`line_of`].
#[inline]
fn line_at(number: usize) -> Offset {
    Offset(LINE_BYTES * to_u64(number))
}

/// A word of the live page.
#[inline]
fn word_in(page: &Line, offset: Offset) -> u64 {
    u64::from_le(page[to_usize((offset.0 - LIVE_AT.0) / 8)].load(Ordering::Acquire))
}

/// What a slot with this tag says. The tag is loaded first, so that no word of an earlier record comes with it, and
/// once more, last: a slot that was emptied and filled again meanwhile may hold words of a record that is not shown
/// yet.
#[inline]
fn hint_of(slot: &Line, tag: u64) -> Option<Hint> {
    let load = |n: usize| u64::from_le(slot[n].load(Ordering::Acquire));
    if load(0) != tag {
        return None;
    }
    let (id, length) = (load(1), load(2));
    (load(0) == tag).then_some(Hint { id, length })
}
