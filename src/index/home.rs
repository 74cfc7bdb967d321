//! The fast path of a lookup: a hit in one of the first two slots.

use std::hint::select_unpredictable;

use zerocopy::FromBytes;

use crate::digest::{Algorithm, Digest};
use crate::error::Result;
use crate::format::{Entry, FrameHeader, Kind, LiveWord, Offset, home_slot, live, to_usize};
use crate::index::probe::directory_index;
use crate::medium::Medium;
use crate::sync::Ordering;
use crate::view::View;

/// So many lookups wait for memory at a time: about as many cache lines as one core of today's processors asks for.
const TOGETHER: usize = 16;

/// The first two slots of a search, as numbers of words from the start of the file.
#[derive(Clone, Copy)]
struct Home {
    tag: u64,
    first: usize,
    second: usize,
}

/// Where a slot says that a blob is: the frame decides.
#[derive(Clone, Copy)]
struct Hint {
    id: u64,
    length: u64,
}

impl<M: Medium> View<M> {
    /// The payload of a blob with a SHA-256 in one of the first two slots: nine hits out of ten. `None` says nothing.
    ///
    /// Written for the processor. A lookup waits for two cache lines, one after the other: slot and frame. Many lookups
    /// are fast where the next begins while this one waits, for which few instructions may lie between: so there is one
    /// bounds check for each line, all misfortunes have the same end, and the unpredictable choice between the slots is
    /// not a branch.
    #[inline]
    pub fn find_at_home(&self, digest: &Digest) -> Option<&[u8]> {
        self.payload_at(self.look_at_home(self.home_of(digest)?)?, digest)
    }

    /// The same for several blobs, each step for all of them before the next: while one waits for its cache line, the
    /// others ask for theirs. `done` is told of each in turn; its first error is the end.
    #[inline]
    pub fn find_many_at_home<'v>(
        &'v self,
        digests: &[Digest],
        mut done: impl FnMut(&Digest, Option<&'v [u8]>) -> Result<()>,
    ) -> Result<()> {
        for digests in digests.chunks(TOGETHER) {
            let (mut homes, mut hints) = ([None; TOGETHER], [None; TOGETHER]);
            for (digest, home) in digests.iter().zip(&mut homes) {
                *home = self.home_of(digest);
                if let Some(home) = home {
                    // The second slot is mostly in the same line, or in the next, which the processor fetches too.
                    self.prefetch(Offset(8 * home.first as u64));
                }
            }
            for (home, hint) in homes.iter().zip(&mut hints) {
                *hint = home.and_then(|home| self.look_at_home(home));
                if let Some(hint) = hint {
                    self.prefetch(Offset(hint.id));
                    self.prefetch(Offset(hint.id.wrapping_add(64)));
                }
            }
            for (digest, hint) in digests.iter().zip(hints) {
                done(digest, hint.and_then(|hint| self.payload_at(hint, digest)))?;
            }
        }
        Ok(())
    }

    /// Where a blob's record is looked for first.
    #[inline]
    fn home_of(&self, digest: &Digest) -> Option<Home> {
        let words = self.file_words()?;
        let word = |at: usize| Some(u64::from_le(words.word(at)?.load(Ordering::Acquire)));
        if word(to_usize(live::NOTICE.0 / 8))? != self.settled_notice() {
            return None;
        }
        let LiveWord { directory, depth, .. } = LiveWord::unpack(word(to_usize(live::WORD.0 / 8))?);
        let tag = self.tagger().of_blob(digest);
        let entry = Entry::unpack(word(to_usize(directory.0 / 8 + directory_index(tag, depth)))?);
        let slots = self.slots();
        let home = home_slot(tag, slots);
        let next = if home + 1 == slots { 0 } else { home + 1 };
        let first_slot = to_usize(entry.segment.0 / 8) + 8;
        Some(Home { tag, first: first_slot + 8 * home as usize, second: first_slot + 8 * next as usize })
    }

    /// What the first two slots say of a blob.
    #[inline]
    fn look_at_home(&self, Home { tag, first, second }: Home) -> Option<Hint> {
        let words = self.file_words()?;
        let word = |at: usize| Some(u64::from_le(words.word(at)?.load(Ordering::Acquire)));
        let slot = words.line(select_unpredictable(word(first)? == tag, first, second))?;
        let load = |n: usize| u64::from_le(slot[n].load(Ordering::Acquire));
        let (id, length) = (load(1), load(2));
        let is_blob = load(7) >> 32 & 0xffff == u64::from(Algorithm::Sha256.code()) << 8 | Kind::Blob as u64;
        (load(0) == tag && is_blob).then_some(Hint { id, length })
    }

    /// The payload behind the frame that a slot speaks of, if that is this blob's.
    #[inline]
    fn payload_at(&self, Hint { id, length }: Hint, digest: &Digest) -> Option<&[u8]> {
        let frame = self.bytes(Offset(id), length.checked_add(64)?)?;
        let (head, payload) = frame.split_first_chunk::<64>()?;
        let head = FrameHeader::ref_from_bytes(head).ok()?;
        let same = head.marker.get() == self.marker()
            && head.kind == Kind::Blob as u8
            && head.algorithm == digest.algorithm().code()
            && digest.algorithm() == Algorithm::Sha256
            && head.offset.get() == id
            && head.length.get() == length
            && head.detail == digest.padded()[..32];
        same.then_some(payload)
    }
}
