//! Reading a pack that nobody writes to: the end of its log is found, and what its index lacks is put into regions in
//! memory. Nothing is written.

use std::sync::Arc;

use super::scan::Scan;
use super::{host_words, length, live_of, random, replay};
use crate::error::{Error, Result};
use crate::format::{CHUNK_ALIGN, Identity, Offset, PAGE_BYTES, live, segment_bytes};
use crate::index::table::Table;
use crate::log::{self, Group, Tail};
use crate::map::Map;
use crate::medium::{Medium, Overlay};
use crate::record::CountersNow;
use crate::space::Space;
use crate::superblock::Superblocks;
use crate::sync::Ordering;
use crate::view::View;

/// How often a reader looks again while a writer is starting.
const ATTACH_ATTEMPTS: u32 = 50_000;

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

/// Whether the live page was written since this machine was booted, for this very file. Without a known boot it never
/// was.
fn is_of_this_host<M: Medium>(view: &View<M>) -> Result<bool> {
    let host = host_words(view.medium().as_ref())?;
    let there = (0..5).map(|n| view.file_word(Offset(live::HOST.0 + 8 * n)).unwrap_or(0));
    Ok(host[..2] != [0, 0] && there.eq(host))
}

#[cfg(test)]
mod tests;
