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
//! A damaged blob ends it with nothing changed, or is left out where that is asked for: see `left_out.rs`.
//!
//! Identity, and with it the order of listings, stays. The old file is not changed but for the flag: readers that have
//! it mapped go on, and move when they look the next time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::commit::{RESERVED_LOG_BYTES, Settings, Start};
use crate::error::{Error, Result};
use crate::estimate;
use crate::format::{
    FILE_BYTES_MAX, IDENTITY_AT, LARGE_BYTES, Offset, PAGE_BYTES, SPACE_AT, Superblock, directory_bytes, features,
    header_bytes, live, to_usize,
};
use crate::index::table::{Builder, Table};
use crate::log::CommitFields;
use crate::medium::{AtPath, Medium, is_full};
use crate::pack::{Pack, Shared};
use crate::record::{Image, Record};
use crate::recovery;
use crate::space::Space;
use crate::superblock::{Superblocks, next_superblock};
use crate::verify::Finding;
use crate::view::View;

mod copy;
mod left_out;
mod log_copy;
mod moves;
mod survey;

use copy::Copying;
use left_out::LeftOut;
use log_copy::LogCopy;
use moves::Moves;
use survey::Survey;
pub(crate) use survey::{for_all_records, large_payload, shape};

/// Images in one snapshot commit.
pub(crate) const SNAPSHOT_IMAGES: usize = 1 << 16;
/// Chunks of the new log.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;
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
    leave_out_damaged: bool,
    progress: Option<Box<dyn FnMut(Progress) + Send>>,
}

impl CompactOptions {
    /// In place, whatever it gives back.
    #[must_use]
    pub fn new() -> CompactOptions {
        CompactOptions::default()
    }

    /// Does nothing where less than this share of what the file takes would be given back, in percent: what
    /// [`compaction_estimate`](crate::Store::compaction_estimate) says. Takes its memory. What is damaged is
    /// [left out](CompactOptions::leave_out_damaged) however little that gives back.
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

    /// Leaves out what is damaged, and would make a compaction fail: blobs whose bytes are not what their digests say,
    /// or can't be read, with all links to and from them and their names; and names whose texts are damaged.
    /// [`Compacted::left_out`] tells of each. A reference that such a link or name held on another blob becomes a
    /// caller's, so that nothing goes with it. Every blob is read twice, and told of twice.
    ///
    /// Without [`output`](CompactOptions::output) the damaged pack is gone afterwards, with what could still be read of
    /// these blobs.
    #[must_use]
    pub fn leave_out_damaged(mut self) -> CompactOptions {
        self.leave_out_damaged = true;
        self
    }

    /// Is told how far it has come. Commits wait meanwhile, so one from in here would wait for ever, and so would a new
    /// writer, and whatever else makes commits wait.
    #[must_use]
    pub fn progress(mut self, told: impl FnMut(Progress) + Send + 'static) -> CompactOptions {
        self.progress = Some(Box::new(told));
        self
    }
}

impl std::fmt::Debug for CompactOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompactOptions")
            .field("min_dead", &self.min_dead)
            .field("output", &self.output)
            .field("leave_out_damaged", &self.leave_out_damaged)
            .finish_non_exhaustive()
    }
}

/// What a compaction came to. Bytes are what the files take on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The blobs and names that were [left out](CompactOptions::leave_out_damaged), with what is wrong with each.
    pub left_out: Vec<Finding>,
}

/// Fills a new medium with what the view shows.
fn fill<M: Medium>(
    view: &View<M>,
    before: &Superblocks,
    (left_out, survey): (&LeftOut, &Survey),
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

    let mut counters = survey.counters;
    let mut images = Vec::with_capacity(SNAPSHOT_IMAGES.min(to_usize(survey.counters.records())));
    let mut links = Vec::new();
    let mut flush = |images: &mut Vec<Image>, log: &mut LogCopy<'_, M>| {
        counters.commits = counters.commits.saturating_add(1);
        let fields = CommitFields { sequence: 1, durable_upto: Offset::NONE, counters: counters.into() };
        let result = log.commit(images, &fields);
        images.clear();
        result
    };
    left_out.for_the_others(view, |record| {
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
    left_out.for_the_others(view, |record| {
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

/// Whether less than so many percent would be given back.
fn gives_too_little<M: Medium>(view: &View<M>, settings: &Settings, before_bytes: u64, percent: u8) -> Result<bool> {
    if percent == 0 {
        return Ok(false);
    }
    let gain = before_bytes.saturating_sub(estimate::after_bytes(view, &settings.tuning)?);
    Ok(u128::from(gain) * 100 < u128::from(before_bytes) * u128::from(percent))
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
    // What somebody else has put at the path is not the pack's to replace.
    let check_place = || match old.at_path().map_err(io("look at the path"))? {
        AtPath::Same => Ok(()),
        AtPath::Missing | AtPath::Other => Err(Error::Moved { path: old.path().into() }),
    };
    let (mut compacted, mut replacement, mut panicked) = (None, None, None);
    // Whoever is told how far it has come may ask for figures, which else wait for the same lock to learn it. A failure
    // is for a commit to tell.
    let _ = writer.learn();
    writer.pause_commits(true, |superblocks| {
        if output.is_none() {
            check_place()?;
        }
        let source = pack.source();
        let view = source.renew()?;
        // It calls back. A panic of that goes on once the locks are free: nothing was replaced yet. Any later one than
        // those of `find` and `fill` leaves them locked for good, as nobody knows then which file is the pack.
        let finding = AssertUnwindSafe(|| match options.leave_out_damaged {
            true => LeftOut::find(&view, told),
            false => Ok(LeftOut::default()),
        });
        let left_out = match catch_unwind(finding) {
            Ok(left_out) => left_out?,
            Err(panic) => {
                panicked = Some(panic);
                return Ok(false);
            }
        };
        let survey = Survey::run(&view, &left_out, writer.totals().0.commits)?;
        // It is neither the pack's nor to be missing for the new file.
        old.give_room_back();
        let before_bytes = old.blocks().map_err(io("look at the file"))?;
        let (slots, depth) = shape(survey.counters.records(), &settings.tuning);
        let need = survey.need(slots, depth, settings.tuning.reserve_segments);
        let is_sound = left_out.findings.is_empty();
        if is_sound && gives_too_little(&view, settings, before_bytes, options.min_dead)? {
            let (after_bytes, left_out) = (before_bytes, Vec::new());
            compacted =
                Some(Compacted { before_bytes, after_bytes, freed_bytes: 0, blobs: 0, skipped: true, left_out });
            return Ok(false);
        }
        let place = output.unwrap_or(old.path());
        let new = Arc::new(old.create_beside(output).map_err(|error| match is_full(&error) {
            true => Error::NoSpace { path: place.into(), needed: need },
            false => Error::io("create the new file", place, error),
        })?);
        let filling = AssertUnwindSafe(|| fill(&view, superblocks, (&left_out, &survey), &new, settings, told));
        let (new_view, start) = match catch_unwind(filling) {
            Ok(filled) => filled?,
            Err(panic) => {
                panicked = Some(panic);
                return Ok(false);
            }
        };
        let after_bytes = new.blocks().map_err(io("look at the new file"))?;
        let freed_bytes = before_bytes.saturating_sub(after_bytes);
        let (blobs, left_out) = (survey.counters.blobs, left_out.findings);
        compacted = Some(Compacted { before_bytes, after_bytes, freed_bytes, blobs, skipped: false, left_out });
        if output.is_some() {
            new.publish(false).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: new.path().into() },
                _ => Error::io("publish", new.path(), error),
            })?;
            return Ok(false);
        }
        check_place()?;
        let notice = view.notice();
        old.store(live::NOTICE, &[notice | live::SUPERSEDED]).map_err(io("store into the live page"))?;
        if let Err(error) = new.publish(true) {
            if old.at_path().is_ok_and(|at| at == AtPath::Same) {
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
        replacement = Some(Pack::writing(new_view, start, pack.recovery().clone(), *settings));
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
