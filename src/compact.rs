//! Compaction: a new file with the live blobs alone, in the place of the old one.
//!
//! 1. Nothing may be on its way: no open writer, no staged blob. New commits wait.
//! 2. The need is worked out from the index and stated if the disk can't give it.
//! 3. A new file in the same directory gets the blobs, in the order that they have in the old one, each checked against
//!    its digest; then all records as snapshot commits, so that the new log alone can rebuild the index; then the
//!    index, filled segment by segment; then both superblocks. All of it is synced.
//! 4. The old live page says "superseded", the new file is renamed over the old one, the directory is synced. A crash
//!    before the rename leaves the old pack and a leftover that the next open removes; one after it leaves the new
//!    pack.
//!
//! # Where the time goes
//!
//! Of half a GiB in blobs of 4 KiB, live in a file of one and a quarter, two thirds are spent in the copies, on all
//! cores: more than half of that is hashing, the rest one copy out of the page cache and one into it
//! (`copy_file_range` would save them, but what was hashed would not be what is copied). The last third, on one core,
//! are three walks through the index: for what lives, for the snapshot's images, for the new index. What is checked
//! begins its way to the disk when it is written, a MiB or a large blob at a time, so that where the disk is the limit
//! the hashing costs no time.
//!
//! When the old file is closed the system gives back its pages, and its blocks, of which it may tell the disk (the
//! mount option `discard`): that took two fifths of the whole. It is left to a thread, unless somebody may wait for the
//! space.
//!
//! Identity, and with it the order of listings, stays. The old file is not changed but for the flag: readers that have
//! it mapped go on, and move when they look the next time.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use foldhash::fast::RandomState;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::commit::{RESERVED_LOG_BYTES, Settings, Start, Tuning};
use crate::digest::Algorithm;
use crate::error::{Error, Result};
use crate::format::{
    CHUNK_ALIGN, FILE_BYTES_MAX, IDENTITY_AT, LARGE_BYTES, Offset, PAGE_BYTES, RECORD_BYTES, SPACE_AT, Superblock,
    align_up, directory_bytes, features, header_bytes, live, name_frame_bytes, segment_bytes, to_u64, to_usize,
};
use crate::index::table::{Builder, Table};
use crate::log::{CommitFields, PLAIN_BYTES, Tail, chunk_bytes, encode_group, group_bytes, read_name, seal_name};
use crate::medium::{Medium, is_full};
use crate::name::Name;
use crate::pack::{Pack, Shared};
use crate::record::CountersNow;
use crate::record::{BlobRecord, Image, NameRecord, Neighbour, Record};
use crate::recovery::{self, Recovery};
use crate::space::Space;
use crate::superblock::{Superblocks, next_superblock};
use crate::view::View;

use copy::Copying;

mod copy;

/// Images in one snapshot commit.
pub(crate) const SNAPSHOT_IMAGES: usize = 1 << 16;
/// Chunks of the new log.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;
/// Segments are filled to about this share; above it many records stand far from home.
const LOAD: f64 = 0.68;

/// How far a long operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Payload bytes done.
    pub done: u64,
    /// Payload bytes to be done in all.
    pub total: u64,
}

/// How to compact.
#[derive(Default)]
#[non_exhaustive]
pub struct CompactOptions {
    min_dead: u8,
    output: Option<PathBuf>,
    progress: Option<Box<dyn FnMut(Progress) + Send>>,
}

impl CompactOptions {
    /// In place, whatever it gives back.
    #[must_use]
    pub fn new() -> CompactOptions {
        CompactOptions::default()
    }

    /// Does nothing where less than this share of the file would be given back, in percent.
    #[must_use]
    pub fn min_dead(mut self, percent: u8) -> CompactOptions {
        self.min_dead = percent;
        self
    }

    /// Writes the compacted pack to this new file and leaves the store as it is. Another file system will do.
    #[must_use]
    pub fn output(mut self, path: impl Into<PathBuf>) -> CompactOptions {
        self.output = Some(path.into());
        self
    }

    /// Is told how far it has come. Commits wait meanwhile, so one from in here would wait for ever.
    #[must_use]
    pub fn progress(mut self, told: impl FnMut(Progress) + Send + 'static) -> CompactOptions {
        self.progress = Some(Box::new(told));
        self
    }
}

impl std::fmt::Debug for CompactOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompactOptions").field("min_dead", &self.min_dead).field("output", &self.output).finish()
    }
}

/// What a compaction came to. Bytes are what the files take on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Compacted {
    /// Of the old file.
    pub before_bytes: u64,
    /// Of the new one; of the old one where nothing was done.
    pub after_bytes: u64,
    /// The difference.
    pub freed_bytes: u64,
    /// Blobs copied.
    pub blobs: u64,
    /// Whether nothing was done, because too little would have been given back.
    pub skipped: bool,
}

/// The live blobs, and what they need.
struct Survey {
    /// Sorted by offset.
    blobs: Vec<BlobRecord>,
    /// Ids and texts, sorted by id; without the anchor.
    names: Vec<(Offset, Name)>,
    counters: CountersNow,
    /// Bytes of small frames.
    small_bytes: u64,
    /// Bytes of the large blobs, headers and alignment included.
    extent_bytes: u64,
}

impl Survey {
    fn run<M: Medium>(view: &View<M>, commits: u64) -> Result<Survey> {
        view.check_index_readable()?;
        let mut survey = Survey {
            blobs: Vec::new(),
            names: Vec::new(),
            counters: CountersNow { commits, ..CountersNow::default() },
            small_bytes: 0,
            extent_bytes: 0,
        };
        let end = view.medium().length().map_err(|e| Error::io("length", view.medium().path(), e))?;
        for_all_records(view, |record| {
            match record {
                Record::Link(_) => survey.counters.links += 1,
                Record::Name(NameRecord { id: Offset::NONE, .. }) => {}
                Record::Name(name) => {
                    let text = read_name(view.medium().as_ref(), view.marker(), name.id, end)?
                        .filter(|text| view.tagger().of_name(text.as_str()) == name.tag)
                        .ok_or_else(|| view.damaged(name.id, "a record speaks of a name here, but there is none"))?;
                    survey.counters.names += 1;
                    survey.small_bytes += name_frame_bytes(to_u64(text.as_str().len()));
                    survey.names.push((name.id, text));
                }
                Record::Blob(blob) => {
                    survey.counters.blobs += 1;
                    survey.counters.live_bytes += blob.length;
                    if blob.length >= LARGE_BYTES {
                        // Its place is worked out below, in the order of the file.
                    } else {
                        survey.small_bytes += blob.frame_bytes();
                    }
                    survey.blobs.push(*blob);
                }
            }
            Ok(())
        })?;
        survey.blobs.sort_unstable_by_key(|blob| blob.id);
        survey.names.sort_unstable();
        let end = survey
            .blobs
            .iter()
            .filter(|blob| blob.length >= LARGE_BYTES)
            .fold(0, |end, blob| large_payload(end, blob.algorithm) + blob.length);
        survey.extent_bytes = align_up(end, PAGE_BYTES);
        Ok(survey)
    }

    /// Bytes of the log's frames.
    fn log_bytes(&self) -> u64 {
        let records = self.counters.records();
        let commits = records.div_ceil(SNAPSHOT_IMAGES as u64).max(1);
        self.small_bytes + commits * group_bytes(0, 0) + records * RECORD_BYTES
    }

    /// About how long the new file will be, with what is kept for a full disk.
    fn need(&self, slots: u32, depth: u32, reserve: u64) -> u64 {
        let index = (segment_bytes(slots) << depth) + 2 * directory_bytes(depth) + 2 * PAGE_BYTES;
        let kept = PAGE_BYTES + reserve * segment_bytes(slots) + 2 * (PAGE_BYTES + directory_bytes(depth));
        let log = align_up(self.log_bytes() + RESERVED_LOG_BYTES + 4 * PLAIN_BYTES, CHUNK_ALIGN);
        SPACE_AT.0 + log + self.extent_bytes + index + kept
    }
}

/// Calls `each` with every record of the index, in the order of their tags.
pub(crate) fn for_all_records<M: Medium>(view: &View<M>, mut each: impl FnMut(&Record) -> Result<()>) -> Result<()> {
    let mut next = Some(0);
    while let Some(tag) = next {
        let (records, after) = view.records_from(tag).map_err(|stop| stop.into_error(view))?;
        for record in &records {
            each(record)?;
        }
        next = after;
    }
    Ok(())
}

/// Slots a segment and depth of the directory for so many records: the choice that fills the segments best. With one
/// and with three pages a segment there is always one that is at least half full.
pub(crate) fn shape(records: u64, tuning: &Tuning) -> (u32, u32) {
    let choices = if tuning.slots == Tuning::default().slots { vec![63, 191] } else { vec![tuning.slots] };
    let of = |slots: u32| {
        let mut depth = 0;
        #[allow(clippy::cast_precision_loss, reason = "a load factor")]
        let load = |depth: u32| records as f64 / ((1u64 << depth) as f64 * f64::from(slots));
        while load(depth) > LOAD {
            depth += 1;
        }
        (load(depth), slots, depth)
    };
    let best = choices.into_iter().map(of).max_by(|a, b| a.0.total_cmp(&b.0)).expect("there is a choice");
    // A pack that is small now may grow: segments of one page then waste least.
    if best.2 == 0 { (tuning.slots, of(tuning.slots).2) } else { (best.1, best.2) }
}

/// The new log, chunk by chunk.
struct LogCopy<'a, M: Medium> {
    medium: &'a M,
    space: &'a mut Space,
    marker: u64,
    tail: Tail,
    /// What stands in the chunk before `tail.at`.
    buffer: Vec<u8>,
    start: Offset,
    /// Frame bytes that are still to come.
    left: u64,
}

impl<'a, M: Medium> LogCopy<'a, M> {
    fn new(medium: &'a M, space: &'a mut Space, marker: u64, bytes: u64, epoch: u64) -> Result<LogCopy<'a, M>> {
        let tail = Tail {
            epoch,
            chunk: Offset::NONE,
            chunk_end: 0,
            at: Offset::NONE,
            commit: Offset::NONE,
            commit_checksum: 0,
        };
        let mut log = LogCopy { medium, space, marker, tail, buffer: Vec::new(), start: Offset::NONE, left: bytes };
        let chunk = log.space.allocate(medium, log.next_chunk_bytes(0), CHUNK_ALIGN)?;
        let head = log.tail.begin_chunk(marker, chunk);
        log.start = chunk.offset;
        log.buffer.extend_from_slice(head.as_bytes());
        Ok(log)
    }

    fn next_chunk_bytes(&self, needed: u64) -> u64 {
        chunk_bytes(needed, align_up((self.left + 2 * PLAIN_BYTES).min(CHUNK_BYTES), CHUNK_ALIGN))
    }

    /// Sees to it that the next `bytes` fit into the chunk.
    fn make_room(&mut self, bytes: u64) -> Result<()> {
        if self.tail.room() < bytes {
            let chunk = self.space.allocate(self.medium, self.next_chunk_bytes(bytes), CHUNK_ALIGN)?;
            let ((_, jump), (_, head)) = self.tail.jump(self.marker, chunk);
            self.buffer.extend_from_slice(jump.as_bytes());
            self.flush()?;
            self.start = chunk.offset;
            self.buffer.extend_from_slice(head.as_bytes());
        }
        self.left = self.left.saturating_sub(bytes);
        Ok(())
    }

    /// What stands behind the buffer is written by others.
    fn flush(&mut self) -> Result<()> {
        self.medium
            .write_at(self.start, &[&self.buffer], false)
            .map_err(|e| Error::io("write the new log", self.medium.path(), e))?;
        self.buffer.clear();
        self.start = self.tail.at;
        Ok(())
    }

    /// Gives a small blob's frame its place. Whoever copies the blob writes there.
    fn place(&mut self, bytes: u64) -> Result<Offset> {
        self.make_room(bytes)?;
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        let at = self.tail.at;
        self.tail.at = Offset(at.0 + bytes);
        self.start = self.tail.at;
        Ok(at)
    }

    /// Writes a name's frame; returns where it stands.
    fn name(&mut self, name: &Name) -> Result<Offset> {
        let text = name.as_str();
        let bytes = name_frame_bytes(to_u64(text.len()));
        self.make_room(bytes)?;
        let at = self.tail.at;
        let before = self.buffer.len();
        self.buffer.extend_from_slice(seal_name(self.marker, at, text).0.as_bytes());
        self.buffer.extend_from_slice(text.as_bytes());
        self.buffer.resize(before + to_usize(bytes), 0);
        self.tail.at = Offset(at.0 + bytes);
        Ok(at)
    }

    fn commit(&mut self, images: &[Image], fields: &CommitFields) -> Result<()> {
        self.make_room(group_bytes(images.len() as u64, 0))?;
        let bytes = encode_group(self.marker, &mut self.tail, images, &[], fields);
        self.buffer.extend_from_slice(&bytes);
        Ok(())
    }
}

/// Where the payload of a large blob goes that comes after `end`: on the next page boundary that leaves room for its
/// header.
pub(crate) fn large_payload(end: u64, algorithm: Algorithm) -> u64 {
    align_up(end + header_bytes(algorithm), PAGE_BYTES)
}

/// The new ids by the old ones.
#[derive(Default)]
struct Moves {
    blobs: HashMap<Offset, Offset, RandomState>,
    names: HashMap<Offset, Offset, RandomState>,
}

impl Moves {
    fn of<M: Medium>(&self, view: &View<M>, id: Offset) -> Result<Offset> {
        if id == Offset::NONE {
            return Ok(id);
        }
        let moved = self.blobs.get(&id).copied();
        moved.ok_or_else(|| view.damaged(id, "a link or a name speaks of a blob that has no record"))
    }

    /// The same for a name.
    fn of_name<M: Medium>(&self, view: &View<M>, id: Offset) -> Result<Offset> {
        if id == Offset::NONE {
            return Ok(id);
        }
        let moved = self.names.get(&id).copied();
        moved.ok_or_else(|| view.damaged(id, "the ring of names leads to a name that has no record"))
    }

    /// The same for what leads to one: names keep their tags.
    fn of_neighbour<M: Medium>(&self, view: &View<M>, place: Neighbour) -> Result<Neighbour> {
        Ok(Neighbour { id: self.of_name(view, place.id)?, ..place })
    }

    /// The record as it is in the new file.
    fn moved<M: Medium>(&self, view: &View<M>, record: &Record) -> Result<Record> {
        Ok(match record {
            Record::Blob(blob) => Record::Blob(BlobRecord {
                id: self.of(view, blob.id)?,
                first_out: self.of(view, blob.first_out)?,
                first_in: self.of(view, blob.first_in)?,
                ..*blob
            }),
            Record::Link(link) => {
                let (from, to) = (self.of(view, link.from)?, self.of(view, link.to)?);
                Record::Link(crate::record::LinkRecord {
                    tag: view.tagger().of_link(from, to),
                    from,
                    to,
                    next_out: self.of(view, link.next_out)?,
                    previous_out: self.of(view, link.previous_out)?,
                    next_in: self.of(view, link.next_in)?,
                    previous_in: self.of(view, link.previous_in)?,
                })
            }
            Record::Name(name) => Record::Name(NameRecord {
                tag: name.tag,
                id: self.of_name(view, name.id)?,
                target: self.of(view, name.target)?,
                next: self.of_neighbour(view, name.next)?,
                previous: self.of_neighbour(view, name.previous)?,
            }),
        })
    }
}

/// Fills a new medium with what the view shows.
fn fill<M: Medium>(
    view: &View<M>,
    before: &Superblocks,
    survey: &Survey,
    medium: &Arc<M>,
    settings: &Settings,
    progress: &mut dyn FnMut(Progress),
) -> Result<(View<M>, Start)> {
    let identity = before.identity;
    let marker = identity.marker.get();
    let io = |what: &'static str| move |e| Error::io(what, medium.path(), e);
    let (slots, depth) = shape(survey.counters.records(), &settings.tuning);
    let reserve = settings.tuning.reserve_segments;
    let need = survey.need(slots, depth, reserve);
    // All of it at once: a full disk shows before the first byte is copied.
    let heads = Superblocks::allocate_heads(medium.as_ref());
    heads.and_then(|()| medium.allocate(SPACE_AT, need - SPACE_AT.0)).map_err(|error| match is_full(&error) {
        true => Error::NoSpace { path: medium.path().into(), needed: need },
        false => Error::io("allocate", medium.path(), error),
    })?;
    medium.write_at(IDENTITY_AT, &[identity.as_bytes()], false).map_err(io("write the identity"))?;
    let mut space = Space::empty(marker, slots, FILE_BYTES_MAX);
    space.is_allocated_to(need);
    let epoch = before.newest.epoch.get() + 1;
    let mut places = Vec::with_capacity(survey.blobs.len());

    let mut log = LogCopy::new(medium.as_ref(), &mut space, marker, survey.log_bytes() + RESERVED_LOG_BYTES, epoch)?;
    // The large blobs lie one behind the other; the header of one may stand in the last page of the one before.
    let mut large_end = match survey.extent_bytes {
        0 => 0,
        bytes => log.space.allocate(medium.as_ref(), bytes, PAGE_BYTES)?.offset.0,
    };
    for blob in &survey.blobs {
        let place = if blob.length >= LARGE_BYTES {
            let payload = large_payload(large_end, blob.algorithm);
            large_end = payload + blob.length;
            Offset(payload - header_bytes(blob.algorithm))
        } else {
            log.place(blob.frame_bytes())?
        };
        places.push(place);
    }
    Copying { view, new: medium.as_ref(), blobs: &survey.blobs, places: &places }.run(progress)?;
    let mut moves = Moves::default();
    moves.blobs.extend(survey.blobs.iter().map(|blob| blob.id).zip(places));
    for (id, name) in &survey.names {
        moves.names.insert(*id, log.name(name)?);
    }

    let mut counters = CountersNow { commits: survey.counters.commits, ..survey.counters };
    let mut images = Vec::with_capacity(SNAPSHOT_IMAGES.min(to_usize(survey.counters.records())));
    let mut links = Vec::new();
    let mut flush = |images: &mut Vec<Image>, log: &mut LogCopy<'_, M>| {
        counters.commits = counters.commits.saturating_add(1);
        let fields = CommitFields { sequence: 1, durable_upto: Offset::NONE, counters: counters.into() };
        let result = log.commit(images, &fields);
        images.clear();
        result
    };
    for_all_records(view, |record| {
        let record = moves.moved(view, record)?;
        if let Record::Link(_) = record {
            links.push(record);
        }
        images.push(Image { record, removed: false });
        if images.len() == SNAPSHOT_IMAGES { flush(&mut images, &mut log) } else { Ok(()) }
    })?;
    if !images.is_empty() {
        flush(&mut images, &mut log)?;
    }
    // References can be given up before anything else is done, on a full disk too.
    log.make_room(RESERVED_LOG_BYTES)?;
    log.flush()?;
    let tail = log.tail;

    // Blobs and names keep their tags, so they come in order; links have new ones, as they are made of ids.
    links.sort_unstable_by_key(|link| std::cmp::Reverse(link.tag()));
    let born = recovery::random(medium.as_ref())?;
    let mut builder = Builder::new(medium.as_ref(), &mut space, slots, depth, born)?;
    for_all_records(view, |record| {
        if let Record::Blob(_) | Record::Name(_) = record {
            while links.last().is_some_and(|link| link.tag() <= record.tag()) {
                let link = links.pop().expect("it was just looked at");
                builder.push(medium.as_ref(), &mut space, &link)?;
            }
            builder.push(medium.as_ref(), &mut space, &moves.moved(view, record)?)?;
        }
        Ok(())
    })?;
    while let Some(link) = links.pop() {
        builder.push(medium.as_ref(), &mut space, &link)?;
    }
    let mut table: Table = builder.finish(medium.as_ref(), &mut space)?;
    space.keep_segments(medium.as_ref(), reserve)?;
    space.reserve_directories(medium.as_ref(), directory_bytes(table.live().depth))?;

    let frozen = table.freeze(2);
    // Of former names nothing is left in the new log; the superblocks announce those that there are.
    let incompatible = U64::new(before.newest.incompatible.get() & !features::NAMES);
    let blank = Superblock { sequence: U64::ZERO, slots: U32::new(slots), incompatible, ..before.newest };
    let superblocks = Superblocks::write_both(medium.as_ref(), &blank, |before| {
        next_superblock(before, &tail, &space, frozen.live, counters)
    })?;
    let mut new_view = View::new(medium.clone(), &identity, slots)?;
    recovery::publish(&mut new_view, &mut table, &tail)?;
    medium.sync_all().map_err(io("sync the new file"))?;
    let end = space.end().0;
    let surplus = medium.length().map_err(io("length"))?.saturating_sub(end);
    if surplus > 0 {
        medium.punch(Offset(end), surplus).map_err(io("give space back"))?;
    }
    let mut space = Space::new(&superblocks.newest, settings.limit);
    space.skip_to(medium.length().map_err(io("length"))?);
    Ok((new_view, Start { superblocks, table, space, tail }))
}

/// Compacts the pack that is current; see [`Store::compact`](crate::Store::compact).
pub fn compact<M: Medium>(shared: &Shared<M>, mut options: CompactOptions) -> Result<Compacted> {
    let mut progress = options.progress.take();
    let mut told = |at: Progress| {
        if let Some(progress) = &mut progress {
            progress(at);
        }
    };
    loop {
        if let Some(compacted) = compact_once(shared, &options, &mut told)? {
            return Ok(compacted);
        }
        // Another compaction took the pack's place before this one could begin, or does in a moment.
        std::thread::yield_now();
    }
}

/// Compacts the pack that is current when it begins; `None` where another compaction has replaced it meanwhile.
fn compact_once<M: Medium>(
    shared: &Shared<M>,
    options: &CompactOptions,
    told: &mut dyn FnMut(Progress),
) -> Result<Option<Compacted>> {
    let settings = shared.settings();
    // What the last one gives back may be needed.
    shared.end_closing();
    let pack = shared.pack();
    let writer = pack.writer()?;
    writer.check()?;
    let output = options.output.as_deref();
    let old = writer.medium().clone();
    let io = |what: &'static str| {
        let path = old.path().to_path_buf();
        move |e| Error::io(what, &path, e)
    };
    let links = old.links().map_err(io("look at the file"))?;
    if output.is_none() && links > 1 {
        return Err(Error::HardLinks { path: old.path().into(), links });
    }
    let (mut compacted, mut replacement, mut panicked) = (None, None, None);
    writer.pause_commits(true, |superblocks| {
        let source = pack.source();
        let view = source.renew()?;
        let survey = Survey::run(&view, writer.totals().0.commits)?;
        // It is neither the pack's nor to be missing for the new file.
        old.give_room_back();
        let before_bytes = old.blocks().map_err(io("look at the file"))?;
        let (slots, depth) = shape(survey.counters.records(), &settings.tuning);
        let need = survey.need(slots, depth, settings.tuning.reserve_segments);
        let gain = before_bytes.saturating_sub(need);
        if gain < before_bytes / 100 * u64::from(options.min_dead) {
            let nothing =
                Compacted { before_bytes, after_bytes: before_bytes, freed_bytes: 0, blobs: 0, skipped: true };
            compacted = Some(nothing);
            return Ok(false);
        }
        let place = output.unwrap_or(old.path());
        let new = Arc::new(old.create_beside(output).map_err(|error| match is_full(&error) {
            true => Error::NoSpace { path: place.into(), needed: need },
            false => Error::io("create the new file", place, error),
        })?);
        // It calls back. A panic of that goes on once the locks are free: nothing was replaced yet. Any later one
        // leaves them locked for good, as nobody knows then which file is the pack.
        let filling = AssertUnwindSafe(|| fill(&view, superblocks, &survey, &new, settings, told));
        let (new_view, start) = match catch_unwind(filling) {
            Ok(filled) => filled?,
            Err(panic) => {
                panicked = Some(panic);
                return Ok(false);
            }
        };
        let after_bytes = new.blocks().map_err(io("look at the new file"))?;
        let freed_bytes = before_bytes.saturating_sub(after_bytes);
        let blobs = survey.counters.blobs;
        compacted = Some(Compacted { before_bytes, after_bytes, freed_bytes, blobs, skipped: false });
        if output.is_some() {
            new.publish(false).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: new.path().into() },
                _ => Error::io("publish", new.path(), error),
            })?;
            return Ok(false);
        }
        let notice = view.notice();
        old.store(live::NOTICE, &[notice | live::SUPERSEDED]).map_err(io("store into the live page"))?;
        if let Err(error) = new.publish(true) {
            if old.at_path().is_ok_and(|at| at == crate::medium::AtPath::Same) {
                old.store(live::NOTICE, &[notice]).map_err(io("store into the live page"))?;
                // A name may need space too.
                return Err(match is_full(&error) {
                    true => Error::NoSpace { path: new.path().into(), needed: need },
                    false => Error::io("publish", new.path(), error),
                });
            }
            // The new file has the name, perhaps not for good: which of the two the pack is, only an open can tell.
            let error = Error::io("publish", new.path(), error);
            writer.poison(&error);
            return Err(error);
        }
        replacement = Some(Pack::writing(new_view, start, Recovery::default(), *settings));
        Ok(true)
    })?;
    if let Some(panic) = panicked {
        resume_unwind(panic);
    }
    if let Some(replacement) = replacement {
        // Else the old file would be closed, and its space given back, by this call and not by the thread.
        drop((pack, old));
        shared.replace(replacement);
    }
    Ok(compacted)
}

#[cfg(test)]
mod tests;
