//! Reading the index: lock-free lookups, and walks in the order of the tags.

use zerocopy::FromBytes;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{
    Entry, FrameHeader, Kind, LiveWord, Offset, PROBES_MAX, SegmentHeader, TAG_EMPTY, TAG_TOMBSTONE, header_bytes,
    home_slot, to_usize,
};
use crate::medium::Medium;
use crate::name::Name;
use crate::record::{BlobRecord, Image, Key, NameRecord, Record, Words, bytes_of};
use crate::sync::{Ordering, Word, spin_loop};
use crate::view::View;

/// How often a lookup starts over while the index changes under it, before it says so.
pub(super) const ATTEMPTS: u32 = 1000;
/// From this attempt on it waits a little between two.
const PATIENT: u32 = 16;
/// After so many attempts what makes no sense is damage where there may be a writer: one that lost its processor in the
/// middle of a record has had it again by then, as those who look have slept for milliseconds. Under Miri, which takes
/// long for an attempt, nobody writes beside those who meet damage.
const DAMAGE_ATTEMPTS: u32 = if cfg!(miri) { PATIENT } else { 100 };
/// After so many attempts that saw the same directory entry, and a segment that is not the one it names, nothing is
/// under way: in a live directory every entry agrees with its segment, as a region is freed only after the entry was
/// swung.
const UNMOVED_MAX: u32 = 64;

/// What is wrong where an entry leads to another life of a region, or to another region.
pub(super) const OTHER_GENERATION: &str = "a segment has another generation than the index directory names";

/// What is wrong where a removed record's slot looks like the end of a search.
const USED_AND_EMPTY: &str = "a slot that was used has an empty one's tag";

/// Why a lookup has no answer from this view.
#[derive(Debug)]
pub enum Stop {
    /// The file outgrew the view's map: renew the view and ask again.
    Outgrown,
    /// The index kept changing (or its writer died in the middle of a change).
    Busy,
    /// Nothing moves, and what is there contradicts itself: damage, or a writer died in the middle of a change.
    Stuck(Error),
    /// An error to be passed on.
    Failed(Error),
}

impl Stop {
    /// For those who can't ask again.
    pub fn into_error<M: Medium>(self, view: &View<M>) -> Error {
        match self {
            Stop::Failed(error) | Stop::Stuck(error) => error,
            Stop::Outgrown | Stop::Busy => Error::Busy { path: view.medium().path().into() },
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

/// An answer, or why there is none.
pub type Answer<T> = Result<T, Stop>;

/// A blob as a lookup finds it: all that a reader of its bytes needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where its frame stands.
    pub id: Offset,
    /// Where its payload begins.
    pub payload: Offset,
    /// The payload's bytes.
    pub length: u64,
}

/// What a slot turned out to be.
enum Candidate<T> {
    /// What was looked for.
    Hit(T),
    /// Another record with the same tag.
    Other,
    /// It makes no sense: it changed while it was read, or it is damaged. The offset and what is wrong.
    Odd(Offset, &'static str),
}

/// Counts attempts in a row that did not settle although nothing moved between them.
#[derive(Default)]
struct Unmoved {
    last: Option<(u64, Entry)>,
    attempts: u32,
}

impl Unmoved {
    /// Whether that was one too many.
    fn is_stuck(&mut self, segment: &Segment<'_>) -> bool {
        let now = Some((segment.live, segment.entry));
        self.attempts = if self.last == now { self.attempts + 1 } else { 0 };
        self.last = now;
        self.attempts >= UNMOVED_MAX
    }
}

/// A segment as one lookup sees it.
pub(super) struct Segment<'v> {
    pub(super) at: Offset,
    pub(super) entry: Entry,
    pub(super) live: u64,
    pub(super) words: &'v [Word],
}

impl Segment<'_> {
    /// Whether it is in the life that its entry names. A bit that flipped in the entry may lead to a region that holds
    /// what the segment was before.
    #[inline]
    pub(super) fn is_named(&self) -> bool {
        let generation = u64::from_le(self.words[0].load(Ordering::Acquire));
        generation & 0xff_ffff == u64::from(self.entry.generation)
    }

    /// Whether its header says that this tag belongs into it. The header was stored before the entry that led here.
    #[inline]
    pub(super) fn is_of(&self, tag: u64) -> bool {
        let word = |n: usize| u64::from_le(self.words[n].load(Ordering::Relaxed));
        let (prefix, depth) = (word(1), (word(3) & 0xffff_ffff) as u32);
        depth <= 63 && directory_index(prefix, depth) == directory_index(tag, depth)
    }

    #[inline]
    fn slot(&self, number: u32) -> &[Word] {
        let first = 8 * (to_usize(u64::from(number)) + 1);
        &self.words[first..first + 8]
    }

    fn slot_at(&self, number: u32) -> Offset {
        Offset(self.at.0 + 64 * (u64::from(number) + 1))
    }

    /// Damage in a slot that a search from this one on passes.
    fn damage_from(&self, home: u32, slots: u32) -> Option<(Offset, &'static str)> {
        for number in probes(home, slots) {
            let words = load(self.slot(number));
            match words[0] {
                TAG_EMPTY if was_never_used(&words) => break,
                TAG_EMPTY => return Some((self.slot_at(number), USED_AND_EMPTY)),
                TAG_TOMBSTONE => {}
                _ if parse_record(&words).is_some() => {}
                _ => return Some((self.slot_at(number), "a record fails its checksum")),
            }
        }
        None
    }
}

/// The slots where a search looks, in order.
#[inline]
pub(super) fn probes(home: u32, slots: u32) -> impl Iterator<Item = u32> {
    (home..home + PROBES_MAX.min(slots)).map(move |number| if number >= slots { number - slots } else { number })
}

impl<M: Medium> View<M> {
    /// Finds the blob with this digest: one directory entry, on average less than two slots, and the frame's header,
    /// which must agree.
    pub fn find_blob(&self, digest: &Digest) -> Answer<Option<Found>> {
        self.search(self.tagger().of_blob(digest), false, |slot, _| self.check_blob(digest, slot))
    }

    /// The full record of the blob with this digest. That there is none is sure: where it could stand no record is
    /// damaged.
    pub fn blob_record(&self, digest: &Digest) -> Answer<Option<BlobRecord>> {
        self.search(self.tagger().of_blob(digest), true, |slot, at| match self.check_blob(digest, slot) {
            Candidate::Hit(found) => match load_record(slot) {
                Some(Image { record: Record::Blob(blob), .. }) if blob.id == found.id => Candidate::Hit(blob),
                _ => Candidate::Odd(at, "a blob record fails its checksum"),
            },
            Candidate::Other => Candidate::Other,
            Candidate::Odd(at, what) => Candidate::Odd(at, what),
        })
    }

    /// The record of a name. The frame that it speaks of must hold this very text.
    pub fn name_record(&self, name: &Name) -> Answer<Option<NameRecord>> {
        self.search(self.tagger().of_name(name.as_str()), true, |slot, at| {
            let id = Offset(u64::from_le(slot[1].load(Ordering::Acquire)));
            let kind = u64::from_le(slot[7].load(Ordering::Acquire)) >> 32 & 0xff;
            if kind != Kind::Name as u64 || id == Offset::NONE {
                return Candidate::Other;
            }
            match self.name_in_frame(id) {
                Some(text) if text == *name => match load_record(slot) {
                    Some(Image { record: Record::Name(name), .. }) if name.id == id => Candidate::Hit(name),
                    _ => Candidate::Odd(at, "a name's record fails its checksum"),
                },
                Some(_) => Candidate::Other,
                None => Candidate::Odd(id, "the frame here is not the name that its record speaks of"),
            }
        })
    }

    /// The text in the name frame at `id`.
    pub fn name_at(&self, id: Offset) -> Answer<Name> {
        match self.name_in_frame(id) {
            Some(name) => Ok(name),
            None if self.is_outgrown() => Err(Stop::Outgrown),
            None => Err(self.damaged(id, "a record speaks of a name here, but there is none").into()),
        }
    }

    /// The record with this key and tag.
    pub fn record(&self, key: Key, tag: u64) -> Answer<Option<Record>> {
        self.search(tag, true, |slot, at| match load_record(slot) {
            Some(image) if image.record.key() == key => Candidate::Hit(image.record),
            Some(_) => Candidate::Other,
            None => Candidate::Odd(at, "a record fails its checksum"),
        })
    }

    /// The digest in the header of the blob frame at `id`.
    pub fn digest_at(&self, id: Offset) -> Answer<Digest> {
        match self.frame(id).and_then(|frame| frame.digest) {
            Some(digest) => Ok(digest),
            None if self.is_outgrown() => Err(Stop::Outgrown),
            None => Err(self.damaged(id, "a record speaks of a blob frame here, but there is none").into()),
        }
    }

    #[inline]
    fn check_blob(&self, digest: &Digest, slot: &[Word]) -> Candidate<Found> {
        let id = Offset(u64::from_le(slot[1].load(Ordering::Acquire)));
        let length = u64::from_le(slot[2].load(Ordering::Acquire));
        let kind = u64::from_le(slot[7].load(Ordering::Acquire)) >> 32 & 0xff;
        if kind != Kind::Blob as u64 {
            return Candidate::Other;
        }
        let header = header_bytes(digest.algorithm());
        let Some(bytes) = length.checked_add(header).and_then(|all| self.bytes(id, all)) else {
            return Candidate::Odd(id, "a blob lies outside the file");
        };
        let Ok((head, _)) = FrameHeader::ref_from_prefix(bytes) else {
            return Candidate::Odd(id, "a blob lies outside the file");
        };
        let same = head.marker.get() == self.marker()
            && head.kind == Kind::Blob as u8
            && head.algorithm == digest.algorithm().code()
            && head.offset.get() == id.0
            && head.length.get() == length
            && head.detail == digest.padded()[..32]
            && (header == 64 || bytes[64..96] == digest.padded()[32..]);
        if same {
            return Candidate::Hit(Found { id, payload: Offset(id.0 + header), length });
        }
        self.another_blob(id, digest)
    }

    /// A record with the right tag and a frame that is not the blob: of another blob with the same tag, or odd.
    #[cold]
    fn another_blob(&self, id: Offset, digest: &Digest) -> Candidate<Found> {
        match self.frame(id) {
            Some(frame) if frame.kind == Kind::Blob && frame.digest.is_some_and(|other| other != *digest) => {
                Candidate::Other
            }
            _ => Candidate::Odd(id, "the frame here is not the blob that its record speaks of"),
        }
    }

    /// The entry of the directory for a tag, and the words of the segment that it names; `None` where a word makes no
    /// sense, which a change under way or damage can cause.
    #[inline]
    fn segment(&self, tag: u64) -> Answer<Option<Segment<'_>>> {
        let live = self.live_raw();
        let LiveWord { directory, depth, .. } = LiveWord::unpack(live);
        let at = Offset(directory.0 + 8 * directory_index(tag, depth));
        let Some(entry) = self.word(at) else {
            return if self.outgrown(at.0 + 8) { Err(Stop::Outgrown) } else { Ok(None) };
        };
        let entry = Entry::unpack(entry);
        let count = 8 * (to_usize(u64::from(self.slots())) + 1);
        match self.words(entry.segment, count) {
            Some(words) => Ok(Some(Segment { at: entry.segment, entry, live, words })),
            None if self.outgrown(entry.segment.0.saturating_add(8 * count as u64)) => Err(Stop::Outgrown),
            None => Ok(None),
        }
    }

    /// Whether all that was read from the segment belonged to one life of it, and its directory is still live. No fence
    /// is needed: whatever was read of a later life or of another directory was acquired, and brings this with it.
    #[inline]
    fn is_settled(&self, segment: &Segment<'_>) -> bool {
        segment.is_named() && self.live_raw() == segment.live
    }

    /// With `careful` a damaged record on the way is an error where nothing is found: it may be what was looked for.
    /// And what is found counts only in the segment that was meant, as its counts are believed.
    #[inline]
    fn search<T>(
        &self,
        tag: u64,
        careful: bool,
        mut check: impl FnMut(&[Word], Offset) -> Candidate<T>,
    ) -> Answer<Option<T>> {
        let slots = self.slots();
        let (mut odd, mut unmoved) = (None, Unmoved::default());
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                self.wait(attempt);
            }
            let Some(segment) = self.segment(tag)? else {
                // A change under way would be over by now.
                if attempt >= PATIENT {
                    return Err(self.damaged(self.live().directory, "an entry of the index leads nowhere").into());
                }
                continue;
            };
            let home = home_slot(tag, slots);
            odd = None;
            for number in probes(home, slots) {
                let slot = segment.slot(number);
                let there = u64::from_le(slot[0].load(Ordering::Acquire));
                if there == TAG_EMPTY {
                    break;
                }
                if there == tag {
                    match check(slot, segment.slot_at(number)) {
                        // A slot that was emptied and filled again in between may hold words of a record that is
                        // not shown yet: its tag, which is stored last, is not there then.
                        Candidate::Hit(hit)
                            if u64::from_le(slot[0].load(Ordering::Relaxed)) == tag
                                && (!careful || segment.is_named()) =>
                        {
                            return Ok(Some(hit));
                        }
                        Candidate::Hit(_) => odd = Some((segment.slot_at(number), "a slot's tag comes and goes")),
                        Candidate::Other => {}
                        Candidate::Odd(at, what) => odd = Some((at, what)),
                    }
                }
            }
            if careful && odd.is_none() {
                odd = segment.damage_from(home, slots);
            }
            if !segment.is_of(tag) {
                odd = Some((segment.at, "a segment stands where another one belongs"));
            }
            if self.is_settled(&segment) {
                match odd {
                    None => return Ok(None),
                    // A record in the middle of a change looks damaged for a moment; damage stays.
                    // What begins inside the map may end behind it.
                    Some(_) if self.is_outgrown() => return Err(Stop::Outgrown),
                    Some((at, what)) if self.is_damage(attempt) => return Err(self.damaged(at, what).into()),
                    Some(_) => {}
                }
            } else if unmoved.is_stuck(&segment) {
                return Err(self.stuck(&segment));
            }
        }
        Err(match odd {
            Some((at, what)) => self.damaged(at, what).into(),
            None => Stop::Busy,
        })
    }

    /// Whether what makes no sense at this attempt is no change under way.
    fn is_damage(&self, attempt: u32) -> bool {
        attempt >= if self.is_private() { PATIENT } else { DAMAGE_ATTEMPTS }
    }

    /// The segment is not the one that its entry names, and nothing moves. In a view that recovered for itself nobody
    /// else could move anything; in another one the source looks whether there is a writer.
    #[cold]
    fn stuck(&self, segment: &Segment<'_>) -> Stop {
        let error = self.damaged(segment.at, OTHER_GENERATION);
        if self.is_private() { error.into() } else { Stop::Stuck(error) }
    }

    #[cold]
    pub(super) fn wait(&self, attempt: u32) {
        if attempt < PATIENT { spin_loop() } else { self.medium().pause() }
    }

    /// The records with this tag or a higher one in the segment that `tag` belongs to, sorted by tag, and the first tag
    /// of the segment after it. (A walk may come upon the halves of a segment first, and then upon the whole of it: a
    /// split swings one entry of the directory after the other.)
    pub fn records_from(&self, tag: u64) -> Answer<(Vec<Record>, Option<u64>)> {
        let (mut last, mut unmoved) = (None, Unmoved::default());
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                self.wait(attempt);
            }
            let Some(segment) = self.segment(tag)? else {
                // A change under way would be over by now.
                if attempt >= PATIENT {
                    return Err(self.damaged(self.live().directory, "an entry of the index leads nowhere").into());
                }
                continue;
            };
            let read = read_segment(segment.words, tag);
            if !self.is_settled(&segment) {
                if unmoved.is_stuck(&segment) {
                    return Err(self.stuck(&segment));
                }
                continue;
            }
            match read {
                Ok(read) => return Ok(read),
                Err((slot, what)) => last = Some((Offset(segment.at.0 + 64 * slot), what)),
            }
            if self.is_damage(attempt) {
                break;
            }
        }
        Err(match last {
            Some((at, what)) => self.damaged(at, what).into(),
            None => Stop::Busy,
        })
    }
}

/// The number of a tag's entry in a directory of this depth.
#[inline]
#[must_use]
pub const fn directory_index(tag: u64, depth: u32) -> u64 {
    // In two steps, as no number can be shifted by all of its 64 bits.
    tag >> 1 >> (63 - depth)
}

/// The words of a slot, in the machine's byte order. The tag is loaded last: a new record's tag is stored last, so with
/// the tag of one that was there before come no words of one that is not shown yet.
pub fn load(slot: &[Word]) -> Words {
    let mut words = [0; 8];
    for (word, shared) in words.iter_mut().zip(slot).rev() {
        *word = u64::from_le(shared.load(Ordering::Acquire));
    }
    words
}

/// Whether an empty slot is as it was made. One that was used has a tombstone's tag for ever, or a bit of it flipped.
fn was_never_used(words: &Words) -> bool {
    *words == [TAG_EMPTY; 8]
}

pub(super) fn load_record(slot: &[Word]) -> Option<Image> {
    parse_record(&load(slot))
}

fn parse_record(words: &Words) -> Option<Image> {
    Image::parse_words(words).filter(|image| !image.removed)
}

type Walk = (Vec<Record>, Option<u64>);

/// Parses a whole segment; the error is the number of a line (0 for the header) and what is wrong with it.
fn read_segment(words: &[Word], tag: u64) -> Result<Walk, (u64, &'static str)> {
    let header = header(words).ok_or((0, "a segment's header fails its checksum"))?;
    let (prefix, depth) = (header.prefix.get(), header.depth.get());
    if depth > 63 || directory_index(prefix, depth) != directory_index(tag, depth) {
        return Err((0, "a segment stands where another one belongs"));
    }
    let mut records = Vec::new();
    for (number, slot) in words.chunks_exact(8).enumerate().skip(1) {
        let words = load(slot);
        if words[0] == TAG_EMPTY && !was_never_used(&words) {
            return Err((number as u64, USED_AND_EMPTY));
        }
        if words[0] == TAG_EMPTY || words[0] == TAG_TOMBSTONE {
            continue;
        }
        match parse_record(&words) {
            Some(image) if image.record.tag() < tag => {}
            Some(image) => records.push(image.record),
            None => return Err((number as u64, "a record fails its checksum")),
        }
    }
    records.sort_unstable_by_key(|record| (record.tag(), record.key()));
    let next = match depth {
        0 => None,
        _ => ((prefix >> (64 - depth)) + 1).checked_shl(64 - depth).filter(|&next| next > prefix),
    };
    Ok((records, next))
}

/// The header of a segment, if its checksum is right.
pub fn header(words: &[Word]) -> Option<SegmentHeader> {
    let header = SegmentHeader::read_from_bytes(&bytes_of(&load(&words[..8]))).ok()?;
    header.is_sealed().then_some(header)
}

/// Whether a segment, or its header alone, was made after the freeze that `born` stands for.
pub fn is_born(words: &[Word], born: u64) -> bool {
    u64::from_le(words[2].load(Ordering::Relaxed)) == born
}
