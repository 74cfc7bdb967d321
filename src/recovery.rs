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
//! Step 1 is `recovery/scan.rs`. A reader without a writer does it and step 3, with the new regions in memory
//! ([`attach`], `recovery/in_memory.rs`); it writes nothing.

use std::sync::Arc;

use zerocopy::little_endian::U64;

use crate::commit::Start;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{
    LARGE_BYTES, LIVE_AT, LiveWord, Offset, PAGE_BYTES, SUPERBLOCKS_AT, Superblock, align_up, live, to_u64, to_usize,
};
use crate::index::table::{Images, Table};
use crate::log::{self, Commit, Tail};
use crate::medium::Medium;
use crate::record::{CountersNow, Image, Record, words_of};
use crate::space::{Region, Space, no_space, sync_regions};
use crate::superblock::{Superblocks, next_superblock};
use crate::view::View;

mod cut_off;
mod in_memory;
mod scan;

pub use in_memory::{attach, end_of_log, look, rebuild_in_memory, view_of_log};
use scan::Scan;

/// Payloads are checked, and the log is written again, in pieces of this size.
const PIECE_BYTES: u64 = 1 << 20;
/// A chunk of the log has no more room than this behind the first commit that it was made for. What claims to have more
/// is forged.
const CHUNK_REST_MAX: u64 = 2 << 20;
/// So many images are put into the index at a time: each segment is then read and written once for all of them. They
/// take 80 MiB.
const IMAGES_AT_ONCE: usize = 1 << 20;
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
    /// Acknowledged commits that damage has cut off. Not 0 only after a repair.
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
    let mut view = View::new(medium.clone(), &superblocks.identity, before.slots.get())?;
    let clean = scan.groups.is_empty() && !scan.residue && scan.report == Recovery::default();
    let mut tail = scan.tail;
    let mut extents = Extents::behind(before.end.get());
    make_private(medium.as_ref(), &tail, file_bytes)?;
    if clean {
        superblocks.settle(medium.as_ref())?;
    }
    let frozen = superblocks.newest.sequence.get();
    let mut table = Table::new(before.slots.get(), live_of(&superblocks), frozen, random(medium.as_ref())?);
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
    match medium.allocate(Offset(file_bytes), needed) {
        // On a full disk a hole does: nothing is written into it.
        Err(error) if length(medium)? < end => Err(no_space(medium, needed, error)),
        _ => Ok(end),
    }
}

/// Gives back what was allocated behind the file's end, most likely because the disk is full: nothing names it before
/// [`finish`], and it would be missing when this is tried again.
fn give_up<M: Medium>(medium: &M, space: &Space, file_bytes: u64) {
    let _ = medium.punch(Offset(file_bytes), space.end().0.saturating_sub(file_bytes));
}

/// Opens a pack for writing whatever acknowledged commits damage has cut off: by the index that the log goes on from,
/// or, where that is damaged too, by what is left of the log, which may have all of it.
pub fn repair<M: Medium>(medium: &Arc<M>, limit: u64) -> Result<(View<M>, Start, Recovery)> {
    let superblocks = Superblocks::read(medium.as_ref());
    // Where a directory stands that came later, by which all is found, a commit would be refused.
    let is_astray = superblocks.is_ok_and(|superblocks| {
        Space::check_runs(medium.as_ref(), &superblocks.newest).is_err_and(|error| error.is_damage())
    });
    let by_index = || open(medium, limit, true);
    let by_log = || rebuild(medium, limit, true);
    match if is_astray { by_log() } else { by_index() } {
        Err(error) if error.is_damage() => {
            if is_astray {
                by_index()
            } else {
                by_log()
            }
        }
        opened => opened,
    }
}

/// Opens a pack and makes its index anew from the log alone.
pub fn rebuild<M: Medium>(medium: &Arc<M>, limit: u64, repair: bool) -> Result<(View<M>, Start, Recovery)> {
    let mut superblocks = cut_off::superblocks(medium.as_ref(), limit)?;
    superblocks.check_features(medium.as_ref(), true)?;
    let mut scan = Scan::run(medium.as_ref(), &superblocks, repair)?;
    let before = superblocks.newest;
    // What was cut off becomes a hole: all that is new comes behind it.
    let is_cut_off = before.end.get() > length(medium.as_ref())?;
    let file_bytes = if is_cut_off { length(medium.as_ref())? } else { whole_pages(medium.as_ref(), limit)? };
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

fn length<M: Medium>(medium: &M) -> Result<u64> {
    medium.length().map_err(|e| Error::io("length", medium.path(), e))
}

/// A number that no other writer's segments have as theirs.
pub fn random<M: Medium>(medium: &M) -> Result<u64> {
    let mut bytes = [0; 8];
    medium.random(&mut bytes).map_err(|e| Error::io("get random bytes", "system".as_ref(), e))?;
    Ok(u64::from_le_bytes(bytes))
}

fn live_of(superblocks: &Superblocks) -> LiveWord {
    let newest = &superblocks.newest;
    LiveWord { directory: Offset(newest.directory.get()), depth: newest.depth.get(), switches: 0 }
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
    let host = host_words(medium.as_ref())?;
    table.continue_switches(view.live().switches.wrapping_add(1));
    table.publish(view)?;
    store(live::ACKNOWLEDGED, &[tail.at.0])?;
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
    // Blobs of a log do not overlap, and those that do are forged: each byte is written once all the same.
    again.sort_unstable();
    let mut done = 0;
    for span in again {
        let mut at = span.offset.0.max(done);
        done = done.max(span.end());
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

#[cfg(test)]
mod open_tests;
#[cfg(test)]
mod tests;
