//! Changing the index: one image after another goes into its slot; segments are copied, split and rewritten, the
//! directory doubles. The same code serves a commit, a replay and a rebuild.
//!
//! Nothing here decides anything: an image is the whole truth about its record. Nothing here waits for the disk either:
//! the stores become durable with the next checkpoint, and until then the log can repeat them.

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::error::{Error, Result};
use crate::format::{
    DEPTH_MAX, Entry, LiveWord, Offset, SegmentHeader, TAG_EMPTY, TAG_TOMBSTONE, directory_bytes, first_generation,
    home_slot, segment_bytes, to_u64, to_usize,
};
use crate::index::probe::{OTHER_GENERATION, directory_index, header, is_born, load, probes};
use crate::medium::Medium;
use crate::pieces::Pieces;
use crate::record::{Image, Record, Words, words_of};
use crate::space::{Region, Space};
use crate::sync::{Ordering, Word};
use crate::view::View;

mod builder;
mod copies;
mod merge;
mod place;
mod successor;

pub use builder::{Builder, built};
pub use merge::Images;
use place::{Part, halves};
use successor::Successor;

/// Segments that nobody sees yet are written in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;
/// A directory is copied in pieces of this size: memory for all of it at once would take longer than the copy.
const DIRECTORY_PIECE_WORDS: usize = if cfg!(test) { 8 } else { 4096 };

/// The writer's side of the index of one pack. Its caller holds the apply lock.
pub struct Table {
    slots: u32,
    live: LiveWord,
    /// A segment with this in its header was made after the last freeze, by this writer: it may be stored into.
    born: u64,
    /// Whether the live directory may be stored into.
    directory_is_ours: bool,
    /// The bytes of the region that the live directory lies in: it may have been made for a deeper one.
    directory_bytes: u64,
    /// The directory that the next freeze puts in the place of the live one.
    successor: Option<Successor>,
    /// The sequence of the newest checkpoint begun: regions that it froze are retired under this number.
    frozen: u64,
    /// Regions made since the last freeze, to be synced by the next checkpoint.
    dirty: Pieces<Region>,
    /// Whether a new directory is shown to readers at once; a recovery shows only its last one.
    published: bool,
    /// Segments that a recovery or a compaction makes, from an offset on, and that are not written yet.
    unwritten: (Offset, Vec<u8>),
    /// What happened so far, for statistics and for tests that want to see it happen.
    pub events: Events,
}

/// Counts of structural changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Frozen or worn segments copied.
    pub copies: u64,
    /// Segments split.
    pub splits: u64,
    /// Directories doubled.
    pub doublings: u64,
}

/// The index as a checkpoint wants it.
pub struct Frozen {
    /// The directory that is not stored into any more.
    pub live: LiveWord,
    /// What has to be synced before the superblock.
    pub dirty: Pieces<Region>,
}

/// The directory that readers see while another is hidden.
pub struct Shown {
    live: LiveWord,
    directory_bytes: u64,
}

/// A part that has its segment.
struct Placed {
    prefix: u64,
    depth: u32,
    entry: Entry,
}

impl Table {
    /// The writer's side of an index that lies in the file, all of it frozen by the checkpoint `frozen`. `born` is
    /// random.
    pub fn new(slots: u32, live: LiveWord, frozen: u64, born: u64) -> Table {
        Table {
            slots,
            live,
            born,
            directory_is_ours: false,
            directory_bytes: directory_bytes(live.depth),
            successor: None,
            frozen,
            dirty: Pieces::default(),
            published: false,
            unwritten: (Offset::NONE, Vec::new()),
            events: Events::default(),
        }
    }

    /// An index of one empty segment, made in regions of `space`; the caller publishes its live word.
    pub fn create<M: Medium>(medium: &M, space: &mut Space, slots: u32, frozen: u64, born: u64) -> Result<Table> {
        let live = LiveWord { directory: Offset::NONE, depth: 0, switches: 0 };
        let mut table = Table::new(slots, live, frozen, born);
        let part = Part { prefix: 0, depth: 0, slots: vec![[TAG_EMPTY; 8]; to_usize(u64::from(slots))] };
        let entry = table.write_part(medium, space, &part, false)?.entry;
        let (directory, _) = space.take_directory(medium, directory_bytes(0))?;
        table.store(medium, directory.offset, &[entry.pack()])?;
        table.dirty.push(directory);
        table.live.directory = directory.offset;
        table.directory_is_ours = true;
        table.directory_bytes = directory.bytes;
        Ok(table)
    }

    /// The live directory.
    pub fn live(&self) -> LiveWord {
        self.live
    }

    /// Continues the count of switches of an earlier writer, so that its readers notice the change.
    pub fn continue_switches(&mut self, switches: u32) {
        self.live.switches = switches & 0xff_ffff;
    }

    /// Shows the live directory to readers, and from now on each new one.
    pub fn publish<M: Medium>(&mut self, view: &View<M>) -> Result<()> {
        self.published = true;
        self.store(view.medium().as_ref(), view.live_at(), &[self.live.pack()])
    }

    /// Freezes the index in constant time for the checkpoint with this sequence: from now on each first change copies.
    pub fn freeze(&mut self, sequence: u64) -> Frozen {
        self.born = self.born.wrapping_add(1);
        self.directory_is_ours = false;
        self.frozen = sequence;
        Frozen { live: self.live, dirty: std::mem::take(&mut self.dirty) }
    }

    /// From now on changes go into copies that nobody sees before they are [published](Table::publish); `sequence` is
    /// that of no checkpoint so far. Returns the directory that is shown.
    pub fn hide(&mut self, sequence: u64) -> Shown {
        self.born = self.born.wrapping_add(1);
        self.directory_is_ours = false;
        self.published = false;
        self.frozen = sequence;
        Shown { live: self.live, directory_bytes: self.directory_bytes }
    }

    /// Forgets what was changed while it was hidden.
    pub fn show_again(&mut self, Shown { live, directory_bytes }: Shown) {
        self.hide(self.frozen);
        (self.live, self.directory_bytes, self.published) = (live, directory_bytes, true);
    }

    /// Puts an image into its slot. Doing it twice is the same as doing it once.
    pub fn apply<M: Medium>(&mut self, view: &View<M>, space: &mut Space, image: &Image) -> Result<()> {
        let tag = image.record.tag();
        let mut longer = None;
        // Each round copies, splits or doubles; a tag has 64 bits, so it ends.
        for _ in 0..=2 * DEPTH_MAX + 8 {
            let view = longer.as_ref().unwrap_or(view);
            let (index, entry) = self.entry(view, tag)?;
            let words = self.segment(view, entry)?;
            let found = self.find(words, &image.record);
            if image.removed && found.is_err() {
                return Ok(());
            }
            match found {
                _ if !self.is_ours(words) => self.renew(view, space, index, entry)?,
                Ok(number) | Err(Some(number)) => {
                    let (medium, slot) = (view.medium().as_ref(), slot_at(entry.segment, number));
                    return if image.removed {
                        self.store(medium, slot, &[TAG_TOMBSTONE])
                    } else {
                        self.store(medium, slot, &image.words())
                    };
                }
                Err(None) => self.make_room(view, space, index, entry, tag)?,
            }
            // The next round reads what this one has made, which the map may not reach to.
            if view.outgrown(space.end().0) {
                longer = Some(view.renewed()?);
            }
        }
        Err(view.damaged(self.live.directory, "the index cannot take one more record with this tag"))
    }

    fn store<M: Medium>(&self, medium: &M, offset: Offset, words: &[u64]) -> Result<()> {
        medium.store(offset, words).map_err(|e| Error::io("store into the index", medium.path(), e))
    }

    /// The directory's entry for a tag, with its number.
    fn entry<M: Medium>(&self, view: &View<M>, tag: u64) -> Result<(u64, Entry)> {
        let index = directory_index(tag, self.live.depth);
        let at = Offset(self.live.directory.0 + 8 * index);
        let word = view.word(at).ok_or_else(|| view.damaged(at, "the index directory lies outside the file"))?;
        Ok((index, Entry::unpack(word)))
    }

    fn segment<'v, M: Medium>(&self, view: &'v View<M>, entry: Entry) -> Result<&'v [Word]> {
        let words = (view.words(entry.segment, 8 * (to_usize(u64::from(self.slots)) + 1)))
            .ok_or_else(|| view.damaged(entry.segment, "a segment of the index lies outside the file"))?;
        if u64::from_le(words[0].load(Ordering::Relaxed)) & 0xff_ffff != u64::from(entry.generation) {
            return Err(view.damaged(entry.segment, OTHER_GENERATION));
        }
        Ok(words)
    }

    fn is_ours(&self, words: &[Word]) -> bool {
        is_born(words, self.born)
    }

    /// The slots where a record with this tag may stand, in the order of a search.
    fn probes(&self, tag: u64) -> impl Iterator<Item = usize> + use<> {
        probes(home_slot(tag, self.slots), self.slots).map(|number| to_usize(u64::from(number)))
    }

    /// The slot of this record; where it is not there, the first that may take it.
    fn find(&self, words: &[Word], record: &Record) -> Result<usize, Option<usize>> {
        let mut free = None;
        for number in self.probes(record.tag()) {
            let slot = &words[8 * (number + 1)..8 * (number + 2)];
            match u64::from_le(slot[0].load(Ordering::Relaxed)) {
                TAG_EMPTY => return Err(free.or(Some(number))),
                TAG_TOMBSTONE => free = free.or(Some(number)),
                tag if tag == record.tag()
                    && Image::parse_words(&load(slot)).is_some_and(|image| image.record.key() == record.key()) =>
                {
                    return Ok(number);
                }
                // The one in whose place it comes, or a stranger with its tag: a search that has passed what is free
                // before it, and finds it gone, has this one still ahead.
                tag if tag == record.tag() => free = None,
                _ => {}
            }
        }
        Err(free)
    }

    /// The records of a segment, each checked, and its checked header.
    fn read<M: Medium>(&self, view: &View<M>, index: u64, entry: Entry) -> Result<(SegmentHeader, Vec<Words>)> {
        let words = self.segment(view, entry)?;
        let header =
            header(words).ok_or_else(|| view.damaged(entry.segment, "a segment's header fails its checksum"))?;
        let (prefix, depth) = (header.prefix.get(), header.depth.get());
        let belongs = depth <= self.live.depth
            && directory_index(prefix, depth) == if depth == 0 { 0 } else { index >> (self.live.depth - depth) };
        if !belongs || !self.leads_here(view, index, depth, entry)? {
            return Err(view.damaged(entry.segment, "a segment stands where another one belongs"));
        }
        let mut records = Vec::with_capacity(to_usize(u64::from(self.slots)));
        for (number, slot) in words.chunks_exact(8).enumerate().skip(1) {
            let words = load(slot);
            if words[0] == TAG_EMPTY || words[0] == TAG_TOMBSTONE {
                continue;
            }
            // Copying a record that fails its checksum would give the damage a new home; the log can rebuild it.
            let sound = Image::parse_words(&words).is_some_and(|image| {
                !image.removed && directory_index(image.record.tag(), depth) == directory_index(prefix, depth)
            });
            if !sound {
                return Err(view.damaged(slot_at(entry.segment, number - 1), "a record fails its checksum"));
            }
            records.push(words);
        }
        Ok((header, records))
    }

    /// Whether the directory entries that belong to a segment of this depth lead to it, as all of them are changed with
    /// it, and those beside them do not.
    fn leads_here<M: Medium>(&self, view: &View<M>, index: u64, depth: u32, entry: Entry) -> Result<bool> {
        let words = (view.words(self.live.directory, 1 << self.live.depth))
            .ok_or_else(|| view.damaged(self.live.directory, "the index directory lies outside the file"))?;
        let leads = |word: &Word| u64::from_le(word.load(Ordering::Relaxed)) == entry.pack();
        let count = 1 << (self.live.depth - depth);
        let first = to_usize(index) & !(count - 1);
        // Those beside them, if any, belong to the other half of the segment that was split.
        Ok(words[first..first + count].iter().all(leads) && !words.get(first ^ count).is_some_and(leads))
    }

    /// Copies a frozen segment, without its tombstones.
    fn renew<M: Medium>(&mut self, view: &View<M>, space: &mut Space, index: u64, entry: Entry) -> Result<()> {
        let (header, records) = self.read(view, index, entry)?;
        self.events.copies += 1;
        let parts = self.place(records, header.prefix.get(), header.depth.get()).ok_or_else(|| self.crowded(view))?;
        self.replace(view, space, entry, &parts)
    }

    /// Makes room in a segment that may be stored into: without its tombstones where there are many, else by a split.
    fn make_room<M: Medium>(
        &mut self,
        view: &View<M>,
        space: &mut Space,
        index: u64,
        entry: Entry,
        tag: u64,
    ) -> Result<()> {
        let (header, records) = self.read(view, index, entry)?;
        let (prefix, depth) = (header.prefix.get(), header.depth.get());
        if records.len() <= to_usize(u64::from(self.slots)) / 2 {
            let parts = self.place(records.clone(), prefix, depth).ok_or_else(|| self.crowded(view))?;
            let has_room = |part: &Part| self.probes(tag).any(|number| part.slots[number][0] == TAG_EMPTY);
            if parts.iter().all(has_room) {
                self.events.copies += 1;
                return self.replace(view, space, entry, &parts);
            }
        }
        let mut parts = Vec::new();
        for (half, records) in halves(records, prefix, depth) {
            parts.extend(self.place(records, half, depth + 1).ok_or_else(|| self.crowded(view))?);
        }
        self.replace(view, space, entry, &parts)
    }

    fn crowded<M: Medium>(&self, view: &View<M>) -> Error {
        view.damaged(self.live.directory, "too many records with one tag for the index")
    }

    /// Writes the parts into new regions, swings the directory to them and lets go of the old segment.
    fn replace<M: Medium>(&mut self, view: &View<M>, space: &mut Space, old: Entry, parts: &[Part]) -> Result<()> {
        let was_ours = self.is_ours(self.segment(view, old)?);
        let depth = parts.iter().map(|part| part.depth).max().unwrap_or(0);
        self.own_directory(view, space, depth)?;
        let medium = view.medium().as_ref();
        let placed =
            parts.iter().map(|part| self.write_part(medium, space, part, false)).collect::<Result<Vec<Placed>>>()?;
        self.swing(view, space, old, was_ours, &placed)
    }

    /// Swings the directory, which is deep enough, to what has come in the place of a segment, and lets go of that.
    fn swing<M: Medium>(
        &mut self,
        view: &View<M>,
        space: &mut Space,
        old: Entry,
        was_ours: bool,
        placed: &[Placed],
    ) -> Result<()> {
        for part in placed {
            let shift = self.live.depth - part.depth;
            let first = directory_index(part.prefix, part.depth) << shift;
            for index in first..first + (1 << shift) {
                let at = Offset(self.live.directory.0 + 8 * index);
                self.store(view.medium().as_ref(), at, &[part.entry.pack()])?;
                self.store_into_successor(view.medium().as_ref(), index, part.entry.pack())?;
            }
        }
        self.events.splits += placed.len() as u64 - 1;
        space.segments_changed(placed.len() as u64, was_ours);
        let region = Region { offset: old.segment, bytes: segment_bytes(self.slots) };
        if was_ours {
            space.free_segment(region.offset);
        } else {
            space.retire_segment(region.offset, self.frozen);
        }
        Ok(())
    }

    /// Gives a part a region. With `later` it is there only after [`write_out`](Table::write_out), and not stored
    /// through the map, where each page would fault: for those who make many that nobody sees yet.
    fn write_part<M: Medium>(&mut self, medium: &M, space: &mut Space, part: &Part, later: bool) -> Result<Placed> {
        let (region, generation) = space.take_segment(medium)?;
        let header = SegmentHeader {
            generation: U64::new(generation),
            prefix: U64::new(part.prefix),
            born: U64::new(self.born),
            depth: U32::new(part.depth),
            checksum: U32::ZERO,
            reserved: [0; 32],
        }
        .sealed();
        let mut head = [0; 64];
        head.copy_from_slice(header.as_bytes());
        let head = words_of(&head);
        if later {
            let (start, bytes) = &self.unwritten;
            if start.0 + to_u64(bytes.len()) != region.offset.0 || bytes.len() >= PIECE_BYTES {
                self.write_out(medium)?;
                self.unwritten.0 = region.offset;
            }
            let mut segment = vec![0; to_usize(region.bytes)];
            let words = head.iter().chain(part.slots.iter().flatten());
            for (place, word) in segment.as_chunks_mut().0.iter_mut().zip(words) {
                *place = word.to_le_bytes();
            }
            self.unwritten.1.append(&mut segment);
        } else {
            // Its first life, so that no reader can know it.
            if generation == first_generation(region.offset) {
                space.fill(medium, region)?;
            }
            // The generation goes first: a reader that is still in the region's former life sees it move before
            // anything else.
            self.store(medium, region.offset, &[generation])?;
            let mut words = Vec::with_capacity(8 * (part.slots.len() + 1));
            words.extend_from_slice(&head);
            words.extend(part.slots.iter().flatten());
            self.store(medium, region.offset, &words)?;
        }
        self.dirty.push(region);
        let entry = Entry { segment: region.offset, generation: (generation & 0xff_ffff) as u32 };
        Ok(Placed { prefix: part.prefix, depth: part.depth, entry })
    }

    /// Writes what was left for later. A long piece of them begins its way to the disk at once.
    fn write_out<M: Medium>(&mut self, medium: &M) -> Result<()> {
        let (start, bytes) = &mut self.unwritten;
        if bytes.is_empty() {
            return Ok(());
        }
        medium.write_at(*start, &[bytes], false).map_err(|e| Error::io("write the index", medium.path(), e))?;
        if bytes.len() >= PIECE_BYTES {
            medium.write_back(*start, to_u64(bytes.len()));
        }
        bytes.clear();
        Ok(())
    }

    /// Makes the live directory one that may be stored into and has at least this depth.
    fn own_directory<M: Medium>(&mut self, view: &View<M>, space: &mut Space, depth: u32) -> Result<()> {
        if self.directory_is_ours && depth <= self.live.depth {
            return Ok(());
        }
        let medium = view.medium().as_ref();
        self.give_up_successor(space);
        let depth = depth.max(self.live.depth);
        let entries = view
            .words(self.live.directory, 1 << self.live.depth)
            .ok_or_else(|| view.damaged(self.live.directory, "the index directory lies outside the file"))?;
        // Forged tags may ask for a directory of any size: the file has room for it before memory has.
        let (region, is_new) = space.take_directory(medium, directory_bytes(depth))?;
        let copies = 1 << (depth - self.live.depth);
        for (number, piece) in entries.chunks(piece_words(copies)).enumerate() {
            let to = Offset(region.offset.0 + 8 * to_u64(number * piece_words(copies) * copies));
            self.copy_entries(medium, piece, copies, to, is_new)?;
        }
        self.switch_to(view, space, region, depth)
    }

    /// Copies entries of the live directory into another one.
    fn copy_entries<M: Medium>(
        &self,
        medium: &M,
        entries: &[Word],
        copies: usize,
        to: Offset,
        is_new: bool,
    ) -> Result<()> {
        let entries = entries.iter().map(|entry| u64::from_le(entry.load(Ordering::Relaxed)));
        let words: Vec<u64> = entries.flat_map(|entry| std::iter::repeat_n(entry, copies)).collect();
        if !is_new {
            // A reader that is late may look at them.
            return self.store(medium, to, &words);
        }
        // For the reason of `Space::fill`.
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        medium.write_at(to, &[&bytes], false).map_err(|e| Error::io("write the index", medium.path(), e))
    }

    /// Makes a copy of the live directory, which may be deeper, the live one.
    fn switch_to<M: Medium>(&mut self, view: &View<M>, space: &mut Space, region: Region, depth: u32) -> Result<()> {
        let old = Region { offset: self.live.directory, bytes: self.directory_bytes };
        self.dirty.push(region);
        if self.directory_is_ours {
            space.free_directory(old);
        } else {
            space.retire_directory(old, self.frozen);
        }
        self.events.doublings += u64::from(depth - self.live.depth);
        self.live = LiveWord { directory: region.offset, depth, switches: (self.live.switches + 1) & 0xff_ffff };
        self.directory_is_ours = true;
        self.directory_bytes = region.bytes;
        if self.published { self.store(view.medium().as_ref(), view.live_at(), &[self.live.pack()]) } else { Ok(()) }
    }
}

/// So many entries are copied at a time, each so many times.
fn piece_words(copies: usize) -> usize {
    (DIRECTORY_PIECE_WORDS / copies).max(1)
}

fn slot_at(segment: Offset, number: usize) -> Offset {
    Offset(segment.0 + 64 * (number as u64 + 1))
}
