//! Opening: finding the log's end, telling a torn tail from damage, and bringing the index up to it.
//!
//! The steps, and what a crash after each leaves:
//!
//! 1. Choose the superblock; walk the log behind it; check the payloads that no later commit vouches for; look for
//!    evidence that more was acknowledged. Nothing is written.
//! 2. Write the found part of the log again, the same bytes, and sync it: after a kill it may be in the page cache
//!    only. A crash leaves it longer or the same.
//! 3. Apply its images to the checkpoint's index, in new regions from the end of the file. A crash leaves regions that
//!    nothing names.
//! 4. Checkpoint, in a new epoch. From here on a crash finds nothing to replay.
//! 5. Store the live word, then the notice. Readers of the dead writer saw its regions untouched until here, and now
//!    see one switch. Then mark the lock: those who came meanwhile wait for that.
//! 6. Give back what was allocated and never published.
//!
//! # Where the time goes
//!
//! The log is read three times at most, in long pieces: its frames' headers, 16 KiB with a call; each commit when it is
//! found, and once more when it is applied. A million images are then sorted by their tags and put into the index
//! segment by segment: each segment is read once and written once, and its write-out begins at once, so that the
//! checkpoint's sync has little to wait for. Of a million images a third of the processor's time goes into finding the
//! end of the log (half of it checksums), a third into merging and sorting, a fifth into writing segments. Before, each
//! header was a system call, and each image a search in a segment that was not in the processor's cache, on a page that
//! faulted: two and a half times as much in all. The images come from the log in the order of commits, and a stable
//! order within each tag is all that the index can tell (`index/table/merge.rs`), so sorting changes nothing.
//!
//! A reader without a writer does step 1 and 3 with the new regions in memory ([`attach`]); it writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use zerocopy::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

use crate::commit::Start;
use crate::digest::Digest;
use crate::error::{Damage, Error, Result};
use crate::format::{
    CHUNK_ALIGN, FRAME_ALIGN, FrameHeader, Identity, JumpDetail, Kind, LARGE_BYTES, LIVE_AT, NAME_BYTES_MAX, Offset,
    PAGE_BYTES, SPACE_AT, SUPERBLOCKS_AT, Superblock, align_up, live, segment_bytes, to_u64, to_usize,
};
use crate::index::table::{Images, Table};
use crate::log::{self, Commit, Group, Passed, Tail, read_chunk};
use crate::map::Map;
use crate::medium::{Medium, Overlay};
use crate::record::{CountersNow, Image, Record, words_of};
use crate::space::{Region, Space, no_space, sync_regions};
use crate::superblock::{Superblocks, next_superblock};
use crate::sync::Ordering;
use crate::view::View;

/// Payloads are checked, and the log is written again, in pieces of this size.
const PIECE_BYTES: u64 = 1 << 20;
/// A chunk of the log has no more room than this behind the first commit that it was made for. What claims to have more
/// is forged.
const CHUNK_REST_MAX: u64 = 2 << 20;
/// What follows the log's end is looked through in pieces of this size: mostly nothing does.
const LOOK_BYTES: u64 = 4 << 10;
/// So many images are put into the index at a time: each segment is then read and written once for all of them. They
/// take 80 MiB.
const IMAGES_AT_ONCE: usize = 1 << 20;
/// How often a reader looks again while a writer is starting.
const ATTACH_ATTEMPTS: u32 = 50_000;

/// What opening the pack found, replayed and dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Recovery {
    /// Commits after the last checkpoint that were put into the index.
    pub replayed_commits: u64,
    /// Changed records in these.
    pub replayed_images: u64,
    /// Commits behind the log's end that were not complete, or built on one that was not. Nobody was told that they
    /// were done; or with [`Durability::Process`](crate::Durability::Process) the power failed after that.
    pub dropped_commits: u64,
    /// Whether the newest superblock was damaged, so that the older one and the log had to serve.
    pub lost_superblock: bool,
    /// Acknowledged commits that damage has cut off. Not empty only after a repair.
    pub lost_commits: u64,
    /// Blobs that these had stored.
    pub lost_blobs: Vec<Digest>,
    /// Blobs that the dropped commits would have stored, as far as they can be told.
    pub dropped_blobs: Vec<Digest>,
    /// Blobs whose frames' headers were damaged and their bytes whole, and whose headers a rebuild has written again.
    pub restored_blobs: Vec<Digest>,
    /// Names whose texts can't be read any more, and which a rebuild has therefore removed.
    pub lost_names: Vec<LostName>,
}

/// A name whose text was damaged, so that a rebuild has removed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LostName {
    /// Where in the file its frame stood, in bytes.
    pub offset: u64,
    /// The blob that had the name. The reference that the name held on it is a caller's now.
    pub digest: Digest,
}

/// What a look at the log found.
struct Scan {
    marker: u64,
    groups: Vec<Group>,
    chunks: Vec<Passed>,
    from: Tail,
    tail: Tail,
    report: Recovery,
    /// Whether something stands behind the tail: what is written next goes elsewhere.
    residue: bool,
    /// Whether acknowledged commits are among it.
    cut: bool,
}

/// Opens a pack for writing, `medium` being locked.
///
/// # Errors
/// [`Error::Damaged`] where acknowledged commits are cut off by damage, unless `repair` accepts that.
pub fn open<M: Medium>(medium: &Arc<M>, limit: u64, repair: bool) -> Result<(View<M>, Start, Recovery)> {
    let mut superblocks = Superblocks::read(medium.as_ref())?;
    superblocks.check_features(medium.as_ref(), true)?;
    let scan = Scan::run(medium.as_ref(), &superblocks, repair)?;
    let before = superblocks.newest;
    let file_bytes = whole_pages(medium.as_ref(), limit)?;
    let mut space = Space::new(&before, limit);
    space.skip_to(file_bytes);
    let view = View::new(medium.clone(), &superblocks.identity, before.slots.get())?;
    let clean = scan.groups.is_empty() && !scan.residue && scan.report == Recovery::default();
    let mut table =
        Table::new(before.slots.get(), live_of(&superblocks), before.sequence.get(), random(medium.as_ref())?);
    let mut tail = scan.tail;
    let mut view = view;
    let mut extents = Extents::behind(before.end.get());
    make_private(medium.as_ref(), &tail, file_bytes)?;
    if !clean {
        rewrite(medium.as_ref(), &scan, file_bytes)?;
        space.forget();
        let give_up = |space: &Space| give_up(medium.as_ref(), space, file_bytes);
        let replayed = replay(view, &mut table, &mut space, scan.commits(), |image| extents.add(&image.record));
        view = replayed.inspect_err(|_| give_up(&space))?;
        // Commits may build on a superblock that was lost: the next one must come after it.
        let newest = scan.groups.iter().map(|group| group.sequence).fold(before.sequence.get(), u64::max);
        tail.epoch = scan.from.epoch.max(tail.epoch) + 1;
        let moved = scan.go_on(medium.as_ref(), &mut space, &mut tail, file_bytes).inspect_err(|_| give_up(&space))?;
        let counters = scan.counters(&before.counters);
        finish(medium.as_ref(), &mut superblocks, &mut table, &mut space, &tail, (newest, moved), counters)?;
        space = Space::new(&superblocks.newest, limit);
    } else {
        superblocks.settle(medium.as_ref())?;
    }
    publish(&mut view, &mut table, &tail)?;
    give_back(medium.as_ref(), &scan, extents, file_bytes)?;
    Ok((view, Start { superblocks, table, space, tail }, scan.report))
}

/// Sees to it that what is written over on a full disk too needs no space: in a copy of a pack there may be holes
/// there, or blocks that it shares with the original.
fn make_private<M: Medium>(medium: &M, tail: &Tail, file_bytes: u64) -> Result<()> {
    let log = tail.at.0 & !(PAGE_BYTES - 1);
    let end = tail.chunk_end.min(file_bytes).min(log + CHUNK_REST_MAX);
    let [first, second] = SUPERBLOCKS_AT;
    let heads = [first, second, LIVE_AT].map(|at| Region { offset: at, bytes: PAGE_BYTES });
    for region in heads.into_iter().chain([Region { offset: Offset(log), bytes: end.saturating_sub(log) }]) {
        medium.make_private(region.offset, region.bytes).map_err(|e| no_space(medium, region.bytes, e))?;
    }
    Ok(())
}

/// The file's length, once it is whole pages. Space is given out in pages, and a superblock that counts on more than
/// there is would not be believed.
fn whole_pages<M: Medium>(medium: &M, limit: u64) -> Result<u64> {
    let file_bytes = length(medium)?;
    let end = align_up(file_bytes, PAGE_BYTES);
    if end == file_bytes {
        return Ok(file_bytes);
    }
    if end > limit {
        return Err(Error::LimitReached { path: medium.path().into(), needed: end, limit });
    }
    let needed = end - file_bytes;
    medium.allocate(Offset(file_bytes), needed).map_err(|e| no_space(medium, needed, e))?;
    Ok(end)
}

/// Gives back what was allocated behind the file's end, most likely because the disk is full: nothing names it before
/// [`finish`], and it would be missing when this is tried again.
fn give_up<M: Medium>(medium: &M, space: &Space, file_bytes: u64) {
    let _ = medium.punch(Offset(file_bytes), space.end().0.saturating_sub(file_bytes));
}

/// Opens a pack and makes its index anew from the log alone.
pub fn rebuild<M: Medium>(medium: &Arc<M>, limit: u64, repair: bool) -> Result<(View<M>, Start, Recovery)> {
    let mut superblocks = Superblocks::read(medium.as_ref())?;
    superblocks.check_features(medium.as_ref(), true)?;
    let mut scan = Scan::run(medium.as_ref(), &superblocks, repair)?;
    let before = superblocks.newest;
    let file_bytes = whole_pages(medium.as_ref(), limit)?;
    rewrite(medium.as_ref(), &scan, file_bytes)?;
    superblocks.restore_identity(medium.as_ref())?;
    let mut space = Space::new(&before, limit);
    space.skip_to(file_bytes);
    space.keep_sound_runs(medium.as_ref());
    space.forget();
    let mut view = View::new(medium.clone(), &superblocks.identity, before.slots.get())?;
    let (sequence, slots) = (before.sequence.get(), before.slots.get());
    let born = random(medium.as_ref())?;
    let history = log::history(medium.as_ref(), view.marker(), &scan.tail, file_bytes)?;
    let give_up = |space: &Space| give_up(medium.as_ref(), space, file_bytes);
    let created = Table::create(medium.as_ref(), &mut space, slots, sequence, born);
    let mut table = created.inspect_err(|_| give_up(&space))?;
    // A compaction of a pack that holds nothing leaves no commit that says how many there were.
    let mut counters = CountersNow { commits: before.counters.commits.get(), ..CountersNow::default() };
    let mut extents = Extents::behind(before.end.get());
    let commits = history.commits.iter().copied();
    let replayed = replay(view, &mut table, &mut space, commits, |image| extents.add(&image.record));
    view = replayed.inspect_err(|_| give_up(&space))?;
    if let Some(now) = history.counters {
        counters = now.into();
    }
    scan.report.replayed_commits = history.groups;
    scan.report.replayed_images = history.images;
    let newest = scan.groups.iter().map(|group| group.sequence).fold(before.sequence.get(), u64::max);
    let mut tail = scan.tail;
    tail.epoch = scan.from.epoch.max(tail.epoch) + 1;
    let moved = scan.go_on(medium.as_ref(), &mut space, &mut tail, file_bytes).inspect_err(|_| give_up(&space))?;
    finish(medium.as_ref(), &mut superblocks, &mut table, &mut space, &tail, (newest, moved), counters)?;
    publish(&mut view, &mut table, &tail)?;
    give_back(medium.as_ref(), &scan, extents, file_bytes)?;
    let space = Space::new(&superblocks.newest, limit);
    Ok((view, Start { superblocks, table, space, tail }, scan.report))
}

/// A view for a reader: of the writer's index where there is a live one, else of one recovered in memory.
pub fn attach<M: Medium>(medium: Arc<M>) -> Result<(View<M>, Identity)> {
    let mut failed = None;
    for attempt in 0..ATTACH_ATTEMPTS {
        if attempt > 0 {
            medium.pause();
        }
        let superblocks = Superblocks::read(medium.as_ref())?;
        superblocks.check_features(medium.as_ref(), false)?;
        let slots = superblocks.newest.slots.get();
        let view = View::new(medium.clone(), &superblocks.identity, slots)?;
        let io = |e| Error::io("look at the lock", medium.path(), e);
        if medium.is_locked().map_err(io)? {
            if medium.is_ready().map_err(io)? && is_of_this_host(&view)? {
                return Ok((view, superblocks.identity));
            }
            // The writer is still recovering. What the one before has left in the index may be less than what a reader
            // has found in the log meanwhile.
            continue;
        }
        // What is in the page cache only must not be shown and then lost in a power cut.
        medium.sync_all().map_err(|e| Error::io("sync", medium.path(), e))?;
        let notice = view.notice();
        // The superblocks above may be from before a writer that came and went: its checkpoints gave the regions that
        // they name to others. These are of the writer that the notice tells of, or of a later one that will change it.
        let superblocks = Superblocks::read(medium.as_ref())?;
        let recovered = Scan::run(view.medium().as_ref(), &superblocks, false)
            .and_then(|scan| recover_in_memory(view, &superblocks, &scan.groups));
        match recovered {
            Ok(view) if view.file_word(live::NOTICE).unwrap_or(0) == notice => return Ok((view, superblocks.identity)),
            Ok(_) => {}
            // A writer that comes at this moment changes what is read; its notice comes a little later.
            Err(error) if attempt > 2 && failed == Some(notice) => return Err(error),
            Err(_) => failed = Some(notice),
        }
    }
    Err(Error::Busy { path: medium.path().into() })
}

/// A view of what the log holds up to `end`, after the writer failed: the index in the file is not looked at, but for
/// the last checkpoint's.
pub fn view_of_log<M: Medium>(medium: &Arc<M>, end: Offset) -> Result<View<M>> {
    let superblocks = Superblocks::read(medium.as_ref())?;
    let view = View::new(medium.clone(), &superblocks.identity, superblocks.newest.slots.get())?;
    // What is behind `end` may be torn, or not durable.
    let scan = Scan::run(medium.as_ref(), &superblocks, true)?;
    let count = scan.groups.iter().take_while(|group| group.tail.at <= end).count();
    let groups = &scan.groups[..count];
    let reached = groups.last().map_or(scan.from.at, |group| group.tail.at);
    if reached != end {
        return Err(Error::damaged(medium.path(), reached.0, "the log ends before what was acknowledged"));
    }
    recover_in_memory(view, &superblocks, groups)
}

fn recover_in_memory<M: Medium>(view: View<M>, superblocks: &Superblocks, groups: &[Group]) -> Result<View<M>> {
    let medium = view.medium().clone();
    let images = groups.iter().map(|group| group.images).sum();
    let live = live_of(superblocks);
    let (memory, start) = overlay(medium.as_ref(), superblocks, images, live.depth)?;
    let inner = Arc::new(Overlay::new(medium, memory.clone(), start));
    let inner_view = View::new(inner.clone(), &superblocks.identity, superblocks.newest.slots.get())?;
    let mut inner_view = inner_view.with_overlay(memory.clone(), start, start);
    let mut space = Space::new(&superblocks.newest, u64::MAX);
    space.skip_to(start.0 + PAGE_BYTES);
    space.forget();
    let mut table =
        Table::new(superblocks.newest.slots.get(), live, superblocks.newest.sequence.get(), random(inner.as_ref())?);
    let commits = groups.iter().flat_map(|group| group.commits.iter().copied());
    inner_view = replay(inner_view, &mut table, &mut space, commits, |_| {})?;
    table.publish(&inner_view)?;
    Ok(view.with_overlay(memory, start, start))
}

/// An index of the log alone, in memory: what `verify` compares with. The view reads the file, and this index.
pub fn rebuild_in_memory<M: Medium>(medium: &Arc<M>, superblocks: &Superblocks, tail: &Tail) -> Result<View<M>> {
    let file_bytes = length(medium.as_ref())?;
    let marker = superblocks.identity.marker.get();
    let history = log::history(medium.as_ref(), marker, tail, file_bytes)?;
    let slots = superblocks.newest.slots.get();
    let (memory, start) = overlay(medium.as_ref(), superblocks, history.images, 1)?;
    let inner = Arc::new(Overlay::new(medium.clone(), memory.clone(), start));
    let view = View::new(inner.clone(), &superblocks.identity, slots)?;
    let mut view = view.with_overlay(memory.clone(), start, start);
    let mut space = Space::empty(marker, slots, u64::MAX);
    space.skip_to(start.0 + PAGE_BYTES);
    let mut table = Table::create(inner.as_ref(), &mut space, slots, 0, random(inner.as_ref())?)?;
    view = replay(view, &mut table, &mut space, history.commits.iter().copied(), |_| {})?;
    table.publish(&view)?;
    Ok(View::new(medium.clone(), &superblocks.identity, slots)?.with_overlay(memory, start, start))
}

/// What a reader can say of the whole pack: the counters of the newest commit in the log, and the live segments.
pub fn look<M: Medium>(view: &View<M>) -> Result<(CountersNow, u64)> {
    let superblocks = Superblocks::read(view.medium().as_ref())?;
    let scan = Scan::run(view.medium().as_ref(), &superblocks, true)?;
    let live = view.live();
    let entries = view
        .words(live.directory, 1 << live.depth)
        .ok_or_else(|| view.damaged(live.directory, "the index directory lies outside the file"))?;
    let mut segments: Vec<u64> = entries.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    segments.sort_unstable();
    segments.dedup();
    Ok((scan.counters(&superblocks.newest.counters), segments.len() as u64))
}

/// Where the log of a pack that nobody writes to ends, and what the pack holds there.
pub fn end_of_log<M: Medium>(medium: &M, superblocks: &Superblocks) -> Result<(Tail, CountersNow)> {
    let scan = Scan::run(medium, superblocks, false)?;
    Ok((scan.tail, scan.counters(&superblocks.newest.counters)))
}

/// Memory behind the end of the file, for the regions that `images` images can need. It costs what is written into it.
fn overlay<M: Medium>(medium: &M, superblocks: &Superblocks, images: u64, depth: u32) -> Result<(Arc<Map>, Offset)> {
    let start = Offset(length(medium)?.max(superblocks.newest.end.get())).align_up(CHUNK_ALIGN);
    let slots = superblocks.newest.slots.get();
    // Twice what copies and splits take where tags are spread as they should be, plus runs ahead, plus a directory for
    // each depth on the way up.
    let segments = (images.min(1 << depth) + 4 * images.div_ceil(u64::from(slots / 4).max(1)) + 64) * 2;
    let deepest = depth.max(64 - segments.leading_zeros()) + 3;
    let bytes = segments * segment_bytes(slots) + 4 * (8u64 << deepest) + (1 << 20);
    Ok((Map::memory(bytes), start))
}

fn length<M: Medium>(medium: &M) -> Result<u64> {
    medium.length().map_err(|e| Error::io("length", medium.path(), e))
}

/// A number that no other writer's segments have as theirs.
pub fn random<M: Medium>(medium: &M) -> Result<u64> {
    let mut bytes = [0; 8];
    medium.random(&mut bytes).map_err(|e| Error::io("get random bytes", "system".as_ref(), e))?;
    Ok(u64::from_le_bytes(bytes))
}

fn live_of(superblocks: &Superblocks) -> crate::format::LiveWord {
    let newest = &superblocks.newest;
    crate::format::LiveWord { directory: Offset(newest.directory.get()), depth: newest.depth.get(), switches: 0 }
}

fn read_commit<M: Medium>(medium: &M, marker: u64, at: Offset, file_bytes: u64) -> Result<Commit> {
    Commit::read(medium, marker, at, file_bytes)?
        .ok_or_else(|| Error::damaged(medium.path(), at.0, "a commit of the log is damaged"))
}

/// Puts the images of these commits into the index, many at a time; `each` sees every image.
fn replay<M: Medium>(
    mut view: View<M>,
    table: &mut Table,
    space: &mut Space,
    commits: impl Iterator<Item = Offset>,
    mut each: impl FnMut(&Image),
) -> Result<View<M>> {
    let medium = view.medium().clone();
    let file_bytes = length(medium.as_ref())?;
    let mut images = Images::default();
    for at in commits {
        let commit = read_commit(medium.as_ref(), view.marker(), at, file_bytes)?;
        for slot in commit.slots() {
            let image =
                Image::parse(slot).ok_or_else(|| view.damaged(at, "a commit holds an image that makes no sense"))?;
            each(&image);
            images.push(&image, words_of(slot));
            if images.count() == IMAGES_AT_ONCE {
                view = merge(view, table, space, &mut images)?;
            }
        }
    }
    merge(view, table, space, &mut images)
}

fn merge<M: Medium>(mut view: View<M>, table: &mut Table, space: &mut Space, images: &mut Images) -> Result<View<M>> {
    if images.count() == 0 {
        return Ok(view);
    }
    images.sort();
    view.check_directory_readable(table.live())?;
    let mut from = 0;
    while from < images.count() {
        if view.outgrown(space.end().0) {
            view = view.renewed()?;
        }
        from += table.merge(&view, space, images, from)?;
    }
    images.clear();
    Ok(view)
}

/// The checkpoint that ends a recovery. Where the log goes on elsewhere no jump leads there, so both superblocks do.
fn finish<M: Medium>(
    medium: &M,
    superblocks: &mut Superblocks,
    table: &mut Table,
    space: &mut Space,
    tail: &Tail,
    (newest, moved): (u64, bool),
    counters: CountersNow,
) -> Result<()> {
    let last = newest + 1 + u64::from(moved);
    let frozen = table.freeze(last);
    let mut fresh = space.freeze();
    fresh.extend(frozen.dirty);
    let next = next_superblock(&superblocks.newest, tail, space, frozen.live, counters);
    sync_regions(medium, fresh, "sync the index")?;
    for sequence in newest + 1..=last {
        superblocks.write(medium, Superblock { sequence: U64::new(sequence), ..next })?;
    }
    Ok(())
}

/// Shows the index to readers: the word first, then the host (a reader of another boot waits for it), then the notice.
/// At last the lock is marked: who opens the pack from now on need not wait any more.
pub fn publish<M: Medium>(view: &mut View<M>, table: &mut Table, tail: &Tail) -> Result<()> {
    let medium = view.medium().clone();
    let store = |at, words: &[u64]| {
        medium.store(at, words).map_err(|e| Error::io("store into the live page", medium.path(), e))
    };
    table.continue_switches(view.live().switches.wrapping_add(1));
    table.publish(view)?;
    store(live::ACKNOWLEDGED, &[tail.at.0])?;
    let host = host_words(medium.as_ref())?;
    store(live::HOST, &host)?;
    let attached = view.file_word(live::NOTICE).unwrap_or(0) >> 1;
    store(live::NOTICE, &[(attached + 1) << 1])?;
    // A writer that was killed may have left some.
    medium.give_room_back();
    medium.set_ready().map_err(|e| Error::io("mark the lock", medium.path(), e))?;
    *view = view.renewed()?;
    Ok(())
}

/// Boot, device and inode, with their checksum.
fn host_words<M: Medium>(medium: &M) -> Result<[u64; 5]> {
    let [boot0, boot1, device, inode] = medium.host().map_err(|e| Error::io("look at the file", medium.path(), e))?;
    let mut crc = crc32fast::Hasher::new();
    for word in [boot0, boot1, device, inode] {
        crc.update(&word.to_le_bytes());
    }
    Ok([boot0, boot1, device, inode, u64::from(crc.finalize())])
}

/// Whether the live page was written since this machine was booted, for this very file. Without a known boot it never
/// was.
fn is_of_this_host<M: Medium>(view: &View<M>) -> Result<bool> {
    let host = host_words(view.medium().as_ref())?;
    let there = (0..5).map(|n| view.file_word(Offset(live::HOST.0 + 8 * n)).unwrap_or(0));
    Ok(host[..2] != [0, 0] && there.eq(host))
}

/// Writes the part of the log that may be in the page cache only once more, and syncs it.
fn rewrite<M: Medium>(medium: &M, scan: &Scan, file_bytes: u64) -> Result<()> {
    let vouched = scan.vouched();
    let io = |e| Error::io("write the log again", medium.path(), e);
    let log = log::spans(&scan.from, &scan.chunks, &scan.tail).into_iter().map(|span| {
        let from = vouched.0.clamp(span.offset.0, span.end());
        Region { offset: Offset(from), bytes: span.end() - from }
    });
    // A large blob may stand before all of this part of the log: its place is given out when its writer begins.
    let mut again: Vec<Region> = log.collect();
    for group in scan.groups.iter().filter(|group| group.tail.at > vouched) {
        for &at in &group.commits {
            let commit = read_commit(medium, scan.marker, at, file_bytes)?;
            for blob in commit.published().filter(|blob| !blob.synced) {
                let Some(frame) = log::read_frame(medium, scan.marker, blob.id, file_bytes)? else { continue };
                if frame.length >= LARGE_BYTES {
                    again.push(Region { offset: frame.offset, bytes: frame.end().0.min(file_bytes) - frame.offset.0 });
                }
            }
        }
    }
    for span in again {
        let mut at = span.offset.0;
        while at < span.end() {
            let mut piece = vec![0; to_usize(PIECE_BYTES.min(span.end() - at))];
            medium.read_at(Offset(at), &mut piece).map_err(io)?;
            let needed = to_u64(piece.len());
            medium.write_at(Offset(at), &[&piece], true).map_err(|e| no_space(medium, needed, e))?;
            at += piece.len() as u64;
        }
    }
    Ok(())
}

/// The extents behind the end that a checkpoint knew, of large blobs that were published.
struct Extents {
    from: u64,
    published: Vec<Region>,
}

impl Extents {
    fn behind(end: u64) -> Extents {
        Extents { from: end, published: Vec::new() }
    }

    fn add(&mut self, record: &Record) {
        if let Record::Blob(blob) = record
            && blob.length >= LARGE_BYTES
        {
            let start = blob.id.0 & !(PAGE_BYTES - 1);
            let end = align_up(blob.id.0.saturating_add(blob.frame_bytes()), PAGE_BYTES);
            if end > self.from {
                self.published.push(Region { offset: Offset(start), bytes: end - start });
            }
        }
    }
}

/// Punches what was allocated after the checkpoint and is neither a chunk of the log nor a published extent. What
/// damage has cut off stays: it was acknowledged, and somebody may still make sense of it.
fn give_back<M: Medium>(medium: &M, scan: &Scan, extents: Extents, to: u64) -> Result<()> {
    if scan.cut {
        return Ok(());
    }
    let Extents { from, published: mut used } = extents;
    used.extend(scan.chunks.iter().map(|passed| passed.chunk));
    used.sort_unstable();
    used.push(Region { offset: Offset(align_up(to, PAGE_BYTES)), bytes: 0 });
    let mut at = align_up(from, PAGE_BYTES);
    for region in used {
        if region.offset.0 > at && at < to {
            let end = region.offset.0.min(align_up(to, PAGE_BYTES));
            medium.punch(Offset(at), end - at).map_err(|e| Error::io("give space back", medium.path(), e))?;
        }
        at = at.max(region.end());
    }
    Ok(())
}

impl Scan {
    fn run<M: Medium>(medium: &M, superblocks: &Superblocks, repair: bool) -> Result<Scan> {
        let newest = &superblocks.newest;
        let marker = superblocks.identity.marker.get();
        let file_bytes = length(medium)?;
        let from = Tail::of(newest);
        let mut groups: Vec<Group> = Vec::new();
        let (_, chunks) = log::walk(medium, marker, from, file_bytes, |group| {
            groups.push(group);
            Ok(())
        })?;
        let mut scan =
            Scan { marker, groups, chunks, from, tail: from, report: Recovery::default(), residue: false, cut: false };
        scan.cut_at_torn_payload(medium, marker, file_bytes)?;
        let mut damage = None;
        scan.tail = scan.groups.last().map_or(from, |group| group.tail);
        let tail = scan.tail;
        scan.chunks.retain(|passed| passed.chunk.offset <= tail.chunk);
        let sequence = newest.sequence.get();
        if let Some(group) = scan.groups.iter().find(|group| group.sequence > sequence + 1) {
            damage = damage.or(Some((group.commits[0], "this commit builds on a superblock that is not there")));
        }
        scan.report.lost_superblock = scan.groups.iter().any(|group| group.sequence == sequence + 1);
        let evidence = scan.look_for_evidence(medium, marker, newest.end.get(), file_bytes)?;
        damage = damage.or(evidence);
        if damage.is_none() && !repair {
            damage = scan.check_live_page(medium)?;
        }
        match damage {
            Some((at, what)) if !repair => Err(Error::Damaged(Box::new(Damage {
                path: medium.path().into(),
                offset: at.0,
                what: what.into(),
                remedy: Some("`blobpack verify --repair` keeps what comes before"),
            }))),
            _ => {
                scan.cut = damage.is_some();
                scan.report.replayed_commits = scan.groups.len() as u64;
                scan.report.replayed_images = scan.groups.iter().map(|group| group.images).sum();
                Ok(scan)
            }
        }
    }

    /// The commits to replay.
    fn commits(&self) -> impl Iterator<Item = Offset> {
        self.groups.iter().flat_map(|group| group.commits.iter().copied())
    }

    /// Commits below are durable: a later one says so, or the checkpoint.
    fn vouched(&self) -> Offset {
        self.groups.iter().map(|group| group.durable_upto).fold(self.from.at, Offset::max)
    }

    fn counters(&self, before: &crate::format::Counters) -> CountersNow {
        self.groups.last().map_or(*before, |group| group.counters).into()
    }

    /// Where something stands behind the log's end, or its last chunk does not lie inside the file any more (a power
    /// cut takes back the length of what was allocated and not written yet), the log goes on in a new chunk behind all
    /// that there is. Says whether it does. On a full disk it goes on where it ends, if nothing there was acknowledged.
    fn go_on<M: Medium>(&self, medium: &M, space: &mut Space, tail: &mut Tail, file_bytes: u64) -> Result<bool> {
        let is_cut_short = tail.chunk_end > file_bytes;
        if !self.residue && !is_cut_short {
            return Ok(false);
        }
        let chunk = match space.allocate(medium, CHUNK_ALIGN, CHUNK_ALIGN) {
            Ok(chunk) => chunk,
            Err(Error::NoSpace { .. } | Error::LimitReached { .. }) if !self.cut && !is_cut_short => return Ok(false),
            Err(error) => return Err(error),
        };
        let head = tail.begin_chunk(self.marker, chunk);
        medium
            .write_at(chunk.offset, &[head.as_bytes()], true)
            .map_err(|e| Error::io("begin a chunk of the log", medium.path(), e))?;
        Ok(true)
    }

    /// One sync may persist a commit without its blobs: the first group that no later commit vouches for and whose
    /// payloads fail their checksums is the end of the log.
    fn cut_at_torn_payload<M: Medium>(&mut self, medium: &M, marker: u64, file_bytes: u64) -> Result<()> {
        let vouched = self.vouched();
        let mut keep = self.groups.len();
        'groups: for (number, group) in self.groups.iter().enumerate() {
            for &at in group.commits.iter().filter(|&&at| at >= vouched) {
                let commit = read_commit(medium, marker, at, file_bytes)?;
                for blob in commit.published().filter(|blob| !blob.synced) {
                    if payload_checksum(medium, marker, blob.id, file_bytes)? != Some(blob.checksum) {
                        keep = number;
                        break 'groups;
                    }
                }
            }
        }
        // What is cut off is found again, and counted, where the evidence is looked at.
        self.groups.truncate(keep);
        Ok(())
    }

    /// Looks behind the log's end for commits that say that more was durable: in the rest of the chunk, at each
    /// position where a chunk can stand, and where a jump leads that was found so. Nothing found here is ever replayed.
    fn look_for_evidence<M: Medium>(
        &mut self,
        medium: &M,
        marker: u64,
        end: u64,
        file_bytes: u64,
    ) -> Result<Option<(Offset, &'static str)>> {
        let rest = self.tail.chunk_end.min(file_bytes).saturating_sub(self.tail.at.0);
        let head = self.head_behind(medium, rest)?;
        let is_blank = head.as_bytes().iter().all(|byte| *byte == 0);
        let mut places = BTreeMap::from([(self.tail.at.0, self.tail.at.0 + rest)]);
        // A chunk that a commit had been given when the checkpoint was made, and that no commit had reached, lies
        // before the checkpoint's end. Only a jump leads to it, and that leaves something at the tail.
        let from = if is_blank { end } else { end.min(self.tail.chunk_end) };
        let mut at = align_up(from, CHUNK_ALIGN).max(SPACE_AT.0);
        let replayed: Vec<Offset> = self.chunks.iter().map(|passed| passed.chunk.offset).collect();
        let io = |e| Error::io("look for data", medium.path(), e);
        while let Some(data) = if at < file_bytes { medium.data_after(Offset(at)).map_err(io)? } else { None } {
            at = data.0 & !(CHUNK_ALIGN - 1);
            let chunk = read_chunk(medium, marker, Offset(at), file_bytes)?;
            if let Some(chunk) = chunk
                && !replayed.contains(&Offset(at))
            {
                places.insert(at, at.saturating_add(chunk.length.get()).min(file_bytes));
            }
            at += CHUNK_ALIGN;
        }
        let mut found = Behind::default();
        // Chunks that overlap can only be forged; each byte is looked at once all the same.
        let mut seen = 0;
        while let Some((start, end)) = places.pop_first() {
            let targets = found.look(medium, marker, Offset(start.max(seen)), end)?;
            seen = seen.max(end);
            for target in targets.into_iter().filter(|target| (seen..file_bytes).contains(target)) {
                // A jump is durable only with the frame of the chunk that it leads to: if that can't be read it is
                // damaged, or it belongs to the newest commit and was never written.
                let next = places.range(target..).next().map_or(file_bytes, |(next, _)| *next);
                places.entry(target).or_insert(next);
            }
        }
        // What a repair has cut off in place stays where it is; the epoch tells it from what came later.
        found.commits.retain(|commit| commit.detail.epoch.get() >= self.tail.epoch);
        // A torn write may have lost its first sector, and have the next ones.
        let has_frames = !found.commits.is_empty() || !found.blobs.is_empty();
        let looks_like_a_frame = head.marker.get() == marker || head.offset.get() == self.tail.at.0 || has_frames;
        self.residue = !is_blank || has_frames;
        self.tell(medium, marker, &found, looks_like_a_frame, file_bytes)
    }

    /// Reports what was found behind the log's end. What a commit there says was durable was acknowledged.
    fn tell<M: Medium>(
        &mut self,
        medium: &M,
        marker: u64,
        found: &Behind,
        looks_like_a_frame: bool,
        file_bytes: u64,
    ) -> Result<Option<(Offset, &'static str)>> {
        let vouched = found.commits.iter().map(|commit| commit.body.durable_upto.get()).max().unwrap_or(0);
        let damage = vouched > self.tail.at.0;
        let is_lost = |at: Offset| damage && at.0 < vouched;
        let (mut lost, mut dropped) = (BTreeSet::new(), BTreeSet::new());
        let mut put = |at: Offset, digest| if is_lost(at) { lost.insert(digest) } else { dropped.insert(digest) };
        for (at, digest) in &found.blobs {
            put(*at, *digest);
        }
        for commit in &found.commits {
            let counted = u64::from(commit.is_last());
            let count = if is_lost(commit.frame.offset) {
                &mut self.report.lost_commits
            } else {
                &mut self.report.dropped_commits
            };
            *count += counted;
            for blob in commit.published() {
                let frame = log::read_frame(medium, marker, blob.id, file_bytes)?;
                if let Some(digest) = frame.and_then(|frame| frame.digest) {
                    put(commit.frame.offset, digest);
                }
            }
        }
        if found.commits.is_empty() && looks_like_a_frame {
            // A commit that was torn, or is damaged beyond recognition.
            self.report.dropped_commits = 1;
        }
        dropped.retain(|digest| !lost.contains(digest));
        self.report.lost_blobs = lost.into_iter().collect();
        self.report.dropped_blobs = dropped.into_iter().collect();
        Ok(damage.then_some((self.tail.at, "the log breaks off here, but later commits are there")))
    }

    /// The bytes where the next frame would begin.
    fn head_behind<M: Medium>(&self, medium: &M, rest: u64) -> Result<FrameHeader> {
        let mut head = FrameHeader::new_zeroed();
        let bytes = &mut head.as_mut_bytes()[..to_usize(rest.min(64))];
        medium.read_at(self.tail.at, bytes).map_err(|e| Error::io("look behind the log", medium.path(), e))?;
        Ok(head)
    }

    /// The newest commit is vouched for by no later one, and without syncs none is since the last checkpoint. While the
    /// machine runs, the live page's acknowledged tail does it.
    fn check_live_page<M: Medium>(&self, medium: &M) -> Result<Option<(Offset, &'static str)>> {
        let mut words = [0; 48];
        if length(medium)? < live::HOST.0 + 40 {
            return Ok(None);
        }
        let io = |e| Error::io("read the live page", medium.path(), e);
        medium.read_at(live::ACKNOWLEDGED, &mut words).map_err(io)?;
        let words: Vec<u64> = words.chunks_exact(8).map(LittleEndian::read_u64).collect();
        let host = host_words(medium)?;
        let lost = host[..2] != [0, 0] && words[1..] == host && words[0] > self.tail.at.0;
        Ok(lost.then_some((self.tail.at, "the log breaks off here, but more was acknowledged")))
    }
}

/// Frames behind the log's end.
#[derive(Default)]
struct Behind {
    commits: Vec<Commit>,
    blobs: Vec<(Offset, Digest)>,
}

impl Behind {
    /// Takes in all valid frames of commits and blobs between two positions, none of the commits inside another one;
    /// returns where the jumps lead. Bodies are read up to twice the range's length in all: in a log they do not
    /// overlap, and those that do are forged.
    fn look<M: Medium>(&mut self, medium: &M, marker: u64, from: Offset, to: u64) -> Result<Vec<u64>> {
        let mut targets = Vec::new();
        let mut at = from.align_up(FRAME_ALIGN).0;
        let io = |e| Error::io("look for commits", medium.path(), e);
        let mut whole = vec![0; to_usize(LOOK_BYTES)];
        let mut budget = 2 * to.saturating_sub(at);
        let mut behind = Offset::NONE;
        // Holes hold nothing; a forged chunk could claim terabytes of them.
        while let Some(data) = medium.data_after(Offset(at)).map_err(io)?.filter(|data| data.0 + 64 <= to) {
            at = data.0 & !(FRAME_ALIGN - 1);
            let piece = &mut whole[..to_usize(LOOK_BYTES.min(to - at) & !63)];
            medium.read_at(Offset(at), piece).map_err(io)?;
            for number in (0..piece.len()).step_by(64) {
                let here = Offset(at + number as u64);
                if here < behind || piece[number..number + 8] != marker.to_le_bytes() {
                    continue;
                }
                let Some(frame) = log::read_frame(medium, marker, here, to)? else { continue };
                match (frame.kind, frame.digest) {
                    (Kind::Blob, Some(digest)) => self.blobs.push((here, digest)),
                    (Kind::Jump, _) => targets.push(frame.detail::<JumpDetail>().target.get() & !(CHUNK_ALIGN - 1)),
                    (Kind::Commit, _) if frame.length <= budget => {
                        budget -= frame.length;
                        if let Some(commit) = Commit::read(medium, marker, here, to)? {
                            behind = commit.frame.end();
                            self.commits.push(commit);
                        }
                    }
                    _ => {}
                }
            }
            at += piece.len() as u64;
        }
        Ok(targets)
    }
}

/// The CRC-32 over payload and header of the blob or name frame at `at`; `None` where there is none.
pub fn payload_checksum<M: Medium>(medium: &M, marker: u64, at: Offset, file_bytes: u64) -> Result<Option<u32>> {
    let Some(frame) = log::read_frame(medium, marker, at, file_bytes)? else { return Ok(None) };
    let whole = match frame.kind {
        Kind::Blob => true,
        Kind::Name => frame.length <= NAME_BYTES_MAX,
        _ => false,
    };
    if !whole || frame.body().0 + frame.length > file_bytes {
        return Ok(None);
    }
    let mut crc = crc32fast::Hasher::new();
    let mut piece = vec![0; to_usize(PIECE_BYTES.min(frame.length))];
    let (mut from, end) = (frame.body().0, frame.body().0 + frame.length);
    let io = |e| Error::io("read a payload", medium.path(), e);
    while from < end {
        let part = &mut piece[..to_usize(PIECE_BYTES.min(end - from))];
        medium.read_at(Offset(from), part).map_err(io)?;
        crc.update(part);
        from += part.len() as u64;
    }
    let mut header = [0; 128];
    let header = &mut header[..to_usize(frame.header_bytes)];
    medium.read_at(at, header).map_err(io)?;
    crc.update(header);
    Ok(Some(crc.finalize()))
}

#[cfg(test)]
mod open_tests;
#[cfg(test)]
mod scan_tests;
#[cfg(test)]
mod tests;
