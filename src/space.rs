//! Who owns which bytes.
//!
//! There is one allocator, at the end of the file. Log chunks and extents are given out once (but for extents that came
//! to nothing, which [others](crate::extent::Holes) may have); index regions come in runs and are used again for their
//! own kind, once nothing names them: neither a superblock, nor a checkpoint in progress, nor the live directory. Which
//! regions are free is never stored. The runs form a list in the file; what the two superblocks' directories reach is
//! not free; this is worked out when the first region is needed.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use foldhash::fast::RandomState;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::error::{Error, Result};
use crate::format::{
    FILE_BYTES_MAX, Frame, FrameHeader, Kind, Offset, PAGE_BYTES, RunDetail, SPACE_AT, Superblock, align_up,
    first_generation, segment_bytes, to_usize,
};
use crate::medium::{Medium, is_full};
use crate::pieces::Pieces;
use crate::view::read_vec;

mod calls;
mod directories;
mod fill;
mod hidden;
mod private;
mod reach;

pub use calls::{data_bytes_most, no_space, runs, sync_regions};
pub(crate) use reach::Reach;
use reach::keep_allocated;

/// Runs of segments are at least this many, and then a sixteenth of all that there are, up to 8 MiB: a file system
/// makes room for more with a wait that a caller notices.
const RUN_SEGMENTS_MIN: u64 = 16;
const RUN_SEGMENTS_MAX: u64 = 2 << 10;
/// Regions that were never used take at most this, and as much again as the file has.
const UNUSED_BYTES_MIN: u64 = 1 << 20;
const HOLDS_SEGMENTS: u32 = 1;
const HOLDS_DIRECTORY: u32 = 2;

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    /// Where it begins.
    pub offset: Offset,
    /// How long it is.
    pub bytes: u64,
}

impl Region {
    /// Where it ends.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.0 + self.bytes
    }
}

/// Regions that are free again once their checkpoint is gone. A large removal copies each segment, so a note is short.
#[derive(Clone, Default)]
struct Retired {
    segments: Pieces<Offset>,
    directories: Vec<Region>,
}

/// The allocator of one pack. Its caller holds the space lock.
#[derive(Clone)]
pub struct Space {
    end: u64,
    /// What lies before need not be allocated any more.
    allocated: u64,
    limit: u64,
    marker: u64,
    slots: u32,
    run: Offset,
    /// Whether the free regions of the runs in the file are known yet.
    known: bool,
    /// Free segments, and whether one is new: nobody has ever seen it, so it need not be read to know its generation.
    /// What a change that was rolled back has stored there was not seen either.
    segments: Vec<(Offset, bool)>,
    /// Free segments that come after those. They are none of the new ones.
    released: Pieces<Offset>,
    /// Free directories, and whether one is new.
    directories: Vec<(Region, bool)>,
    /// Regions that checkpoints name, by the sequence of the newest one that does.
    retired: BTreeMap<u64, Retired>,
    /// Segments that were filled with zeros last.
    filled: Range<Offset>,
    /// Free segments that commits on their way may take.
    promised: u64,
    total_segments: u64,
    live_segments: u64,
    /// Live segments that were made since the last freeze.
    fresh_segments: u64,
    /// Heads of runs that no checkpoint has synced yet.
    heads: Vec<Region>,
    /// Regions from before the pack was opened that may share blocks with another file.
    foreign: HashSet<Offset, RandomState>,
    /// Whether a directory was taken since the last freeze: the live one may be stored into.
    has_directory: bool,
    /// Whether a directory was taken since the pack was opened: the live one shares its blocks with no other file.
    owns_directory: bool,
}

impl Space {
    /// The space of a pack whose newest checkpoint is this.
    pub fn new(superblock: &Superblock, limit: u64) -> Space {
        Space {
            end: superblock.end.get(),
            run: Offset(superblock.run.get()),
            known: false,
            live_segments: 0,
            ..Space::empty(superblock.identity.marker.get(), superblock.slots.get(), limit)
        }
    }

    /// The space of a pack that has nothing yet.
    pub fn empty(marker: u64, slots: u32, limit: u64) -> Space {
        Space {
            end: SPACE_AT.0,
            allocated: 0,
            limit,
            marker,
            slots,
            run: Offset::NONE,
            known: true,
            segments: Vec::new(),
            released: Pieces::default(),
            directories: Vec::new(),
            retired: BTreeMap::new(),
            filled: Offset::NONE..Offset::NONE,
            promised: 0,
            total_segments: 0,
            live_segments: 1,
            fresh_segments: 0,
            heads: Vec::new(),
            foreign: HashSet::default(),
            has_directory: false,
            owns_directory: false,
        }
    }

    /// The end of all that was ever given out.
    pub fn end(&self) -> Offset {
        Offset(self.end)
    }

    /// The newest run.
    pub fn run(&self) -> Offset {
        self.run
    }

    /// How many segments are live. Only true once the regions are known.
    pub fn live_segments(&self) -> u64 {
        self.live_segments
    }

    /// All before `end` was allocated at once.
    pub fn is_allocated_to(&mut self, end: u64) {
        self.allocated = end;
    }

    /// Nothing before `end` is given out any more.
    pub fn skip_to(&mut self, end: u64) {
        self.end = self.end.max(align_up(end, PAGE_BYTES));
    }

    /// From here on only new regions are used: for a recovery, which must not touch what readers of a dead writer see.
    /// The live segments are not counted then, so that no copy is expected.
    pub fn forget(&mut self) {
        self.known = true;
    }

    /// New bytes at the end of the file: `length` of them, from a multiple of `align` on. Nothing changes if there is
    /// no room.
    pub fn allocate<M: Medium>(&mut self, medium: &M, length: u64, align: u64) -> Result<Region> {
        let offset = align_up(self.end, align);
        self.grow(medium, offset, length)?;
        Ok(Region { offset: Offset(offset), bytes: length })
    }

    /// Makes a region longer in place, if nothing was given out behind it; says whether it did.
    pub fn extend<M: Medium>(&mut self, medium: &M, region: &mut Region, bytes: u64) -> Result<bool> {
        if align_up(region.end(), PAGE_BYTES) != self.end {
            return Ok(false);
        }
        self.grow(medium, region.end(), bytes - region.bytes)?;
        region.bytes = bytes;
        Ok(true)
    }

    fn grow<M: Medium>(&mut self, medium: &M, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length).filter(|&end| end <= FILE_BYTES_MAX).ok_or(Error::LimitReached {
            path: medium.path().into(),
            needed: offset.saturating_add(length),
            limit: FILE_BYTES_MAX,
        })?;
        if end > self.limit {
            return Err(Error::LimitReached { path: medium.path().into(), needed: end, limit: self.limit });
        }
        if end > self.allocated {
            medium.allocate(Offset(offset), length).map_err(|error| {
                // What was found of the room is given back: nothing is there yet. The file may have become longer, and
                // keeps its length.
                if is_full(&error) {
                    let from = offset.max(self.allocated);
                    let _ = medium.punch(Offset(from), end - from);
                }
                no_space(medium, length, error)
            })?;
        }
        self.end = align_up(end, PAGE_BYTES);
        Ok(())
    }

    /// Gives back an allocation that was never written: whole where it is the newest, else only its blocks.
    pub fn give_back<M: Medium>(&mut self, medium: &M, region: Region) {
        if align_up(region.end(), PAGE_BYTES) == self.end {
            self.end = region.offset.0;
        } else {
            // A file system that can't punch keeps them until a compaction.
            let _ = medium.punch(region.offset, region.bytes);
        }
    }

    /// Promises `count` segments to a commit, beyond those promised already and `reserve` more; makes runs as needed.
    pub fn promise<M: Medium>(&mut self, medium: &M, count: u64, reserve: u64) -> Result<()> {
        let needed = self.promised + count + reserve;
        let missing = self.gather_segments(needed);
        if missing > 0 {
            self.new_segments(medium, missing)?;
        }
        self.secure_segments(medium, needed)?;
        self.promised += count;
        Ok(())
    }

    /// Sees to it that `count` segments more, and no others, can be had without new space.
    pub fn keep_segments<M: Medium>(&mut self, medium: &M, count: u64) -> Result<()> {
        let missing = self.gather_segments(self.promised + count);
        if missing > 0 { self.add_segments(medium, missing) } else { Ok(()) }
    }

    /// Has `count` free segments at hand, those that had to be fetched for that before the others; returns how many are
    /// missing.
    pub fn gather_segments(&mut self, count: u64) -> u64 {
        while (self.segments.len() as u64) < count {
            let piece = self.released.take_piece();
            if piece.is_empty() {
                break;
            }
            self.segments.extend(piece.into_iter().map(|segment| (segment, false)));
        }
        count.saturating_sub(self.segments.len() as u64)
    }

    /// The commit is applied, or came to nothing.
    pub fn release(&mut self, count: u64) {
        self.promised = self.promised.saturating_sub(count);
    }

    /// A free segment, and the generation of its next life: one more than its header has had until now.
    pub fn take_segment<M: Medium>(&mut self, medium: &M) -> Result<(Region, u64)> {
        let bytes = segment_bytes(self.slots);
        if self.gather_segments(1) > 0 {
            self.new_segments(medium, 1)?;
        }
        let (offset, fresh) = self.segments.pop().expect("a run of segments was just made");
        let region = Region { offset, bytes };
        let mut word = [0; 8];
        if !fresh {
            medium
                .read_at(offset, &mut word)
                .map_err(|e| Error::io("read a segment's generation", medium.path(), e))?;
        }
        let before = u64::from_le_bytes(word);
        Ok((region, if before == 0 { first_generation(offset) } else { before.wrapping_add(1) }))
    }

    /// A segment that no checkpoint names is free again.
    pub fn free_segment(&mut self, offset: Offset) {
        self.segments.push((offset, false));
    }

    /// A segment that the checkpoint `sequence`, and perhaps earlier ones, name.
    pub fn retire_segment(&mut self, offset: Offset, sequence: u64) {
        self.retired.entry(sequence).or_default().segments.push(offset);
    }

    /// The older of the two superblocks is `oldest` now: what only earlier ones named is free.
    pub fn release_retired(&mut self, oldest: u64) {
        let held = self.retired.split_off(&oldest);
        for free in std::mem::replace(&mut self.retired, held).into_values() {
            self.released.append(free.segments);
            self.directories.extend(free.directories.into_iter().map(|directory| (directory, false)));
        }
    }

    /// A segment was replaced by `parts` new ones; `fresh` says whether it was made since the last freeze itself.
    pub fn segments_changed(&mut self, parts: u64, fresh: bool) {
        self.live_segments += parts - 1;
        self.fresh_segments = self.fresh_segments + parts - u64::from(fresh);
    }

    /// The index was frozen: all its segments are copied when they are next touched. Returns the heads of new runs,
    /// which the checkpoint has to sync.
    pub fn freeze(&mut self) -> Vec<Region> {
        self.has_directory = false;
        self.fresh_segments = 0;
        std::mem::take(&mut self.heads)
    }

    /// How many segments new records split, and which depth the directory then needs, if the tags are spread as they
    /// should be. In segments of the usual size more splits are so unlikely that the reserve is enough for them.
    #[must_use]
    pub fn usual_growth(&self, images: u64, depth: u32) -> (u64, u32) {
        let splits = 2 * images.div_ceil(u64::from(self.slots / 4).max(1));
        let spread = u64::BITS - (self.live_segments + splits / 2).leading_zeros();
        (splits, depth.max(spread) + 1)
    }

    /// How many segments that are new since the last freeze so many images can touch.
    #[must_use]
    pub fn copies_of_new(&self, images: u64) -> u64 {
        images.min(self.fresh_segments)
    }

    fn new_segments<M: Medium>(&mut self, medium: &M, needed: u64) -> Result<()> {
        let ahead = run_segments(self.total_segments, needed);
        // Where there is no room to work ahead, what is needed may still fit.
        self.add_segments(medium, ahead).or_else(|_| self.add_segments(medium, needed))
    }

    fn add_segments<M: Medium>(&mut self, medium: &M, count: u64) -> Result<()> {
        let bytes = segment_bytes(self.slots);
        let first = self.new_run(medium, bytes, count, HOLDS_SEGMENTS)?;
        self.total_segments += count;
        self.segments.extend((0..count).rev().map(|n| (Offset(first.0 + n * bytes), true)));
        Ok(())
    }

    /// A run of `count` regions; returns the first.
    fn new_run<M: Medium>(&mut self, medium: &M, region_bytes: u64, count: u64, holds: u32) -> Result<Offset> {
        let length = PAGE_BYTES + region_bytes * count;
        let region = self.allocate(medium, length, PAGE_BYTES)?;
        let detail = RunDetail {
            previous: U64::new(self.run.0),
            region_bytes: U64::new(region_bytes),
            regions: U64::new(count),
            holds: U32::new(holds),
            reserved: U32::ZERO,
        };
        let mut bytes = [0; 32];
        bytes.copy_from_slice(detail.as_bytes());
        let frame = FrameHeader::plain(self.marker, Kind::Run, region.offset, 0, bytes);
        medium
            .write_at(region.offset, &[frame.as_bytes()], false)
            .map_err(|e| Error::io("write the head of an index run", medium.path(), e))?;
        self.heads.push(Region { offset: region.offset, bytes: PAGE_BYTES });
        self.run = region.offset;
        Ok(Offset(region.offset.0 + PAGE_BYTES))
    }

    /// Works out which regions are free: those of the runs that neither superblock's directory reaches. What only the
    /// older one reaches is retired under its number.
    pub fn learn<M: Medium>(&mut self, medium: &M, newest: &Superblock, older: Option<&Superblock>) -> Result<()> {
        if self.known {
            return Ok(());
        }
        let (mut segments, mut directories) = self.regions(medium)?;
        segments.sort_unstable();
        let all = segments.iter().copied().chain(directories.iter().map(|region| region.offset));
        // Where files share blocks, what is next is looked after when its turn comes.
        let later = medium.shares_blocks();
        let foreign = if later { all.collect() } else { HashSet::default() };
        let now = Reach::of(medium, newest)?;
        now.check(medium, &segments)?;
        let blocks = medium.blocks().map_err(|e| Error::io("look at the file", medium.path(), e))?;
        self.total_segments = segments.len() as u64;
        self.live_segments = now.segments.len() as u64;
        segments.retain(|segment| now.segments.binary_search(segment).is_err());
        directories.retain(|region| region.offset != now.directory);
        // A copy of a pack has holes where regions were never used. Stores into them must not need space, so they get
        // it now, or stay unused.
        // What asks for more than twice the bytes that the file has, in all, is forged.
        let mut budget = blocks.saturating_mul(2).saturating_add(UNUSED_BYTES_MIN);
        segments.truncate(to_usize(budget / segment_bytes(self.slots)));
        if !later {
            segments = keep_allocated(medium, &segments, segment_bytes(self.slots));
        }
        directories.retain(|region| {
            let within = budget.checked_sub(region.bytes);
            budget = within.unwrap_or(budget);
            within.is_some() && (later || medium.allocate(region.offset, region.bytes).is_ok())
        });
        if let Some(older) = older {
            // What can't be read may name any of them, until the next superblock takes its place.
            let before = Reach::of(medium, older).ok();
            let sequence = older.sequence.get();
            let held = |segment: &Offset| before.as_ref().is_none_or(|b| b.segments.binary_search(segment).is_ok());
            for segment in segments.extract_if(.., |segment| held(segment)) {
                self.retire_segment(segment, sequence);
            }
            let is_its = |region: &Region| before.as_ref().is_none_or(|before| region.offset == before.directory);
            for region in directories.extract_if(.., |region| is_its(region)) {
                self.retire_directory(region, sequence);
            }
        }
        // Those near the start of the file are taken first.
        self.segments.extend(segments.into_iter().rev().map(|segment| (segment, false)));
        self.directories.extend(directories.into_iter().map(|directory| (directory, false)));
        (self.foreign, self.known) = (foreign, true);
        Ok(())
    }

    /// Whether the list of runs is sound, and the newest directory names none but their segments.
    pub fn check_runs<M: Medium>(medium: &M, newest: &Superblock) -> Result<()> {
        let (mut segments, _) = Space::new(newest, u64::MAX).regions(medium)?;
        segments.sort_unstable();
        Reach::of(medium, newest)?.check(medium, &segments)
    }

    /// For a rebuild, which trusts nothing of the old index: where the list of runs is damaged it begins anew, and the
    /// old runs are dead bytes until a compaction.
    pub fn keep_sound_runs<M: Medium>(&mut self, medium: &M) {
        if self.regions(medium).is_err() {
            self.run = Offset::NONE;
        }
    }

    /// All segments and directories of the runs in the file.
    fn regions<M: Medium>(&self, medium: &M) -> Result<(Vec<Offset>, Vec<Region>)> {
        let mut left = data_bytes_most(medium)? / PAGE_BYTES;
        let (mut segments, mut directories) = (Vec::new(), Vec::new());
        let (mut at, mut above) = (self.run, self.end);
        // Each run stands below the one that names it, so the walk ends.
        while at != Offset::NONE {
            let here = at;
            let damaged = |what| Error::damaged(medium.path(), here.0, what);
            let head = read_vec(medium, at, 64).map_err(|e| Error::io("read an index run", medium.path(), e))?;
            let frame = Frame::parse(&head, self.marker, at)
                .filter(|frame| frame.kind == Kind::Run)
                .ok_or_else(|| damaged("no index run where one should be"))?;
            let run: RunDetail = frame.detail();
            let (bytes, count) = (run.region_bytes.get(), run.regions.get());
            let end = bytes.checked_mul(count).and_then(|all| all.checked_add(at.0 + PAGE_BYTES));
            let sound = bytes > 0
                && count <= left
                && bytes % PAGE_BYTES == 0
                && end.is_some_and(|end| end <= above)
                && at >= SPACE_AT;
            left = left.saturating_sub(count);
            let first = at.0 + PAGE_BYTES;
            match run.holds.get() {
                HOLDS_SEGMENTS if sound && bytes == segment_bytes(self.slots) => {
                    segments.extend((0..count).map(|n| Offset(first + n * bytes)));
                }
                HOLDS_DIRECTORY if sound && count == 1 => directories.push(Region { offset: Offset(first), bytes }),
                _ => return Err(damaged("an index run contradicts itself")),
            }
            above = at.0;
            at = Offset(run.previous.get());
            if at.0 >= above {
                return Err(damaged("index runs are linked in a circle"));
            }
        }
        Ok((segments, directories))
    }
}

/// How many segments a new run has where `needed` are needed and there are `total` so far.
#[must_use]
pub fn run_segments(total: u64, needed: u64) -> u64 {
    needed.max((total / 16).clamp(RUN_SEGMENTS_MIN, RUN_SEGMENTS_MAX))
}

#[cfg(test)]
mod tests;
