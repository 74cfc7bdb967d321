//! How much the index may have to grow for images that are on their way, known before the first byte of them is
//! written: a disk that is full shall refuse a commit, not end it halfway.
//!
//! What is said here holds in whatever order images come in, and however often a checkpoint copies segments meanwhile.
//! That rests on two properties of linear probing. Which slots it occupies does not depend on the order of the records;
//! so where no run of occupied slots is longer than [`PROBES_MAX`], each record finds a slot in any order. And more
//! records occupy those slots and some more; so an empty slot stays empty while segments are copied, and each record
//! that is new to the segment takes at most one.

use super::probe::{directory_index, header, probes};
use crate::error::Result;
use crate::format::{DEPTH_MAX, Entry, LiveWord, Offset, PROBES_MAX, TAG_EMPTY, TAG_MIN, home_slot, to_usize};
use crate::medium::Medium;
use crate::sync::{Ordering, Word};
use crate::view::View;

/// Of so many images each is looked at, whatever the size of segments.
const FEW: usize = 64;

/// What images may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Segments more than there are.
    pub segments: u64,
    /// The depth of the directory.
    pub depth: u32,
}

/// Tags in buckets of those that agree in their first bits: about as many buckets as tags.
struct Buckets {
    bits: u32,
    starts: Vec<usize>,
    tags: Vec<u64>,
}

impl Buckets {
    fn new(tags: &[u64]) -> Buckets {
        let bits = tags.len().ilog2();
        let bucket = |tag: u64| to_usize(directory_index(tag, bits));
        let mut starts = vec![0; (1 << bits) + 1];
        for &tag in tags {
            starts[bucket(tag)] += 1;
        }
        let mut end = 0;
        for start in &mut starts {
            end += *start;
            *start = end;
        }
        let mut sorted = vec![0; tags.len()];
        for &tag in tags {
            let at = &mut starts[bucket(tag)];
            *at -= 1;
            sorted[*at] = tag;
        }
        Buckets { bits, starts, tags: sorted }
    }

    /// All tags that begin with the first `depth` bits of this one, and perhaps some more.
    fn near(&self, tag: u64, depth: u32) -> &[u64] {
        let spread = self.bits.saturating_sub(depth);
        let first = to_usize(directory_index(tag, self.bits) >> spread << spread);
        &self.tags[self.starts[first]..self.starts[first + (1 << spread)]]
    }
}

impl<M: Medium> View<M> {
    /// The most that images with these tags can need of an index that nobody changes meanwhile; at least `planned`,
    /// which has a deeper directory than there is. `on_the_way` are the tags of all images that will come in, in any
    /// order; only what the first `own` of them need is looked for.
    ///
    /// Where many come into segments of the usual size, what is planned has to do: one that needs more would have to
    /// meet sixteen others near its home in a part of the index where a handful is.
    pub fn room_for(&self, live: LiveWord, on_the_way: &[u64], own: usize, planned: Room) -> Result<Room> {
        if self.slots() >= 2 * PROBES_MAX && on_the_way.len() > FEW {
            return Ok(planned);
        }
        let buckets = Buckets::new(on_the_way);
        let mut crowded = Vec::new();
        for &tag in &on_the_way[..own] {
            let at = Offset(live.directory.0 + 8 * directory_index(tag, live.depth));
            let word = self.word(at).ok_or_else(|| self.damaged(at, "the index directory lies outside the file"))?;
            let segment = Entry::unpack(word).segment;
            let words = self.all_words(segment)?;
            if !self.has_room(words, &buckets, tag) {
                crowded.push((segment, tag));
            }
        }
        crowded.sort_unstable();
        crowded.dedup_by_key(|(segment, _)| *segment);
        let mut room = Room { segments: 0, depth: planned.depth };
        for (segment, tag) in crowded {
            let (parts, depth) = self.split_up(live, segment, &buckets, tag)?;
            room = Room { segments: room.segments + parts - 1, depth: room.depth.max(depth) };
        }
        Ok(Room { segments: room.segments.max(planned.segments), depth: room.depth })
    }

    fn all_words(&self, segment: Offset) -> Result<&[Word]> {
        self.words(segment, 8 * (to_usize(u64::from(self.slots())) + 1))
            .ok_or_else(|| self.damaged(segment, "a segment of the index lies outside the file"))
    }

    /// Whether there is room for a record whatever else comes into its segment. `false` may be wrong.
    fn has_room(&self, words: &[Word], buckets: &Buckets, tag: u64) -> bool {
        let depth = (u64::from_le(words[3].load(Ordering::Relaxed)) & 0xffff_ffff) as u32;
        let others = buckets.near(tag, depth);
        let (slots, home) = (self.slots(), home_slot(tag, self.slots()));
        let mut empty = 0;
        for number in probes(home, slots) {
            let found = u64::from_le(words[8 * (number as usize + 1)].load(Ordering::Relaxed));
            empty += usize::from(found == TAG_EMPTY);
            // It is there already, and nothing else on the way is about it; or all that come in leave one for it.
            if found == tag && others.iter().filter(|&&other| other == tag).count() == 1 || empty >= others.len() {
                return true;
            }
        }
        false
    }

    /// Into how many parts a segment may be split, and how deep the deepest is.
    fn split_up(&self, live: LiveWord, segment: Offset, buckets: &Buckets, tag: u64) -> Result<(u64, u32)> {
        let words = self.all_words(segment)?;
        let header = header(words).ok_or_else(|| self.damaged(segment, "a segment's header fails its checksum"))?;
        let (prefix, depth) = (header.prefix.get(), header.depth.get());
        if depth > live.depth || directory_index(prefix, depth) != directory_index(tag, depth) {
            return Err(self.damaged(segment, "a segment stands where another one belongs"));
        }
        let slots = words.chunks_exact(8).skip(1).map(|slot| u64::from_le(slot[0].load(Ordering::Relaxed)));
        let mut stored: Vec<u64> = slots.filter(|&tag| tag >= TAG_MIN).collect();
        let same = |other: &u64| directory_index(*other, depth) == directory_index(tag, depth);
        let mut coming: Vec<u64> = buckets.near(tag, depth).iter().copied().filter(same).collect();
        stored.sort_unstable();
        coming.sort_unstable();
        let mut tags = stored.clone();
        for alike in coming.chunk_by(|a, b| a == b) {
            let tag = alike[0];
            // A digest that dies and comes back has two records for a while.
            let most = if alike.len() == 1 { 1 } else { 2 };
            let there = stored.partition_point(|&other| other <= tag) - stored.partition_point(|&other| other < tag);
            tags.extend(std::iter::repeat_n(tag, most.max(there) - there));
        }
        // Splits beyond the first are needed only where what is left in one part might not fit.
        let (mut parts, mut deepest) = (0, depth);
        let mut work = vec![(depth, tags)];
        while let Some((depth, tags)) = work.pop() {
            if (depth > header.depth.get() && self.fit_in_any_order(&tags)) || depth == DEPTH_MAX {
                (parts, deepest) = (parts + 1, deepest.max(depth));
            } else {
                let (high, low) = tags.into_iter().partition(|tag| tag & 1 << (63 - depth) != 0);
                work.extend([(depth + 1, low), (depth + 1, high)]);
            }
        }
        Ok((parts, deepest))
    }

    fn fit_in_any_order(&self, tags: &[u64]) -> bool {
        let slots = self.slots();
        if tags.len() <= PROBES_MAX.min(slots) as usize {
            return true;
        }
        tags.len() <= slots as usize && longest_run(&homes(tags.iter().copied(), slots)) <= PROBES_MAX
    }
}

/// How many tags have their home in each slot.
pub(super) fn homes(tags: impl Iterator<Item = u64>, slots: u32) -> Vec<u32> {
    let mut homes = vec![0; slots as usize];
    tags.for_each(|tag| homes[home_slot(tag, slots) as usize] += 1);
    homes
}

/// The longest run of slots that linear probing occupies, where there are not more records than slots.
fn longest_run(homes: &[u32]) -> u32 {
    let (mut carried, mut run, mut longest) = (0, 0, 0);
    // What the last slots carry over comes in again before the first.
    for count in homes.iter().chain(homes) {
        carried += count;
        run = if carried == 0 { 0 } else { run + 1 };
        carried = carried.saturating_sub(1);
        longest = longest.max(run);
    }
    longest
}

/// A slot that linear probing enters from no slot before it, where there are not more records than slots; it may be the
/// one behind the last.
pub(super) fn first_of_run(homes: &[u32]) -> u32 {
    // Behind the place up to which the fewest records had their homes, for its slots, nothing is carried over.
    let (mut more, mut least, mut first) = (0, 0, 0);
    for (number, &count) in (1..).zip(homes) {
        more += i64::from(count) - 1;
        if more < least {
            (least, first) = (more, number);
        }
    }
    first
}
