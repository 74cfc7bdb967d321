//! What a batch comes to, and what it needs: the first step of a commit.

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::group::Pending;
use super::in_flight::Current;
use super::{AHEAD, Done, RESERVED_LOG_BYTES, State, Writer, lock};
use crate::batch::{Large, NewName, Operation, Operations, Small};
use crate::error::{Error, Result};
use crate::format::{BlobHeader, CHUNK_ALIGN, FrameHeader, Offset, align_up, directory_bytes};
use crate::graph::{Changes, Outcome, Records, Removed, Stored};
use crate::index::room::Room;
use crate::log::{
    CommitFields, PLAIN_BYTES, Published, Tail, chunk_bytes, encode_group, group_bytes, seal_blob, seal_name,
};
use crate::medium::Medium;
use crate::record::Descriptor;
use crate::space::Region;
use crate::view::View;

/// Chunks are at least this long.
const CHUNK_BYTES_MIN: u64 = 128 << 10;

impl<M: Medium> Writer<M> {
    /// `None`: the one operation removes so much that it has to be done in parts.
    pub(super) fn decide(&self, state: &mut State, operations: &mut Operations) -> Result<Option<(u64, Vec<Done>)>> {
        state.in_flight.map();
        let removals_only = operations.only_gives_up();
        let mut plan = Plan { tail: state.tail, heads: Vec::new(), chunks: Vec::new() };
        let result = self.plan(state, operations, &mut plan, removals_only);
        // Nothing came of it: what was allocated for it is given back.
        let mut space = lock(&self.space);
        while let Some(chunk) = plan.chunks.pop() {
            space.give_back(self.medium.as_ref(), chunk);
        }
        drop(space);
        result
    }

    fn plan(
        &self,
        state: &mut State,
        operations: &mut Operations,
        plan: &mut Plan,
        removals_only: bool,
    ) -> Result<Option<(u64, Vec<Done>)>> {
        let reserve = if removals_only { 0 } else { RESERVED_LOG_BYTES };
        let smalls = operations.arena.len() as u64;
        if smalls > 0 {
            let count = operations.list.len() as u64;
            self.make_room(plan, smalls, group_bytes(count, count) + reserve)?;
        }
        let current = Current::new(state, &self.source);
        let mut changes = Changes::new(&current, state.counters);
        let count = operations.list.len();
        changes.reserve(count);
        let mut decided =
            Decided { done: Vec::with_capacity(count), frames: Vec::new(), published: Vec::with_capacity(count) };
        let single = operations.list.len() == 1;
        if single && (removals_only || operations.sets_names()) {
            changes.cut_after(self.settings.tuning.removal_images);
        }
        let marker = self.source.identity().marker.get();
        for (index, operation) in operations.list.iter().enumerate() {
            look_ahead(&current.view, operations.list.get(index..).unwrap_or_default());
            decided
                .one(&mut changes, operation, &mut operations.arena, &mut plan.tail, marker)
                .map_err(|error| if single { error } else { Error::Batch { index, source: Box::new(error) } })?;
        }
        if changes.has_left() {
            return Ok(None);
        }
        let outcome = changes.finish();
        if outcome.images.is_empty() {
            return Ok(Some((state.ticket, decided.done)));
        }
        let (images, published) = (outcome.images.len() as u64, decided.published.len() as u64);
        self.make_room(plan, 0, group_bytes(images, published) + reserve)?;
        let promised = self.reserve_index(state, &outcome, removals_only)?;

        let fields = CommitFields {
            sequence: state.sequence,
            durable_upto: state.durable_upto,
            counters: outcome.counters.into(),
        };
        let at = plan.tail.at;
        let commit = encode_group(marker, &mut plan.tail, &outcome.images, &decided.published, &fields);
        state.ticket += 1;
        state.tail = plan.tail;
        state.counters = outcome.counters;
        self.count(state, images, smalls + commit.len() as u64);
        let outcome = Arc::new(outcome);
        state.in_flight.waiting.push((state.ticket, outcome.clone()));
        for operation in operations.list.iter_mut() {
            // From here on the blob may be durable, whatever happens: its bytes are never given back.
            if let Operation::Large(large) = operation
                && decided.published.iter().any(|blob| blob.id == large.extent.frame())
            {
                large.extent.keep();
            }
        }
        plan.chunks.clear();
        state.pending.push(Pending {
            ticket: state.ticket,
            heads: std::mem::take(&mut plan.heads),
            arena: std::mem::take(&mut operations.arena),
            frames: decided.frames,
            commit: (at, commit),
            outcome,
            tail: plan.tail,
            promised,
        });
        Ok(Some((state.ticket, decided.done)))
    }

    /// Sees to it that `bytes` fit into the chunk, with `more` behind them if another chunk is begun anyway; a jump
    /// fits always.
    pub(super) fn make_room(&self, plan: &mut Plan, bytes: u64, more: u64) -> Result<()> {
        let needed = if bytes > 0 { bytes } else { more };
        if plan.tail.room() >= needed {
            return Ok(());
        }
        let mut space = lock(&self.space);
        let longest = self.settings.tuning.chunk_bytes;
        let usual = align_up((space.end().0 / 8).clamp(CHUNK_BYTES_MIN.min(longest), longest), CHUNK_ALIGN);
        let chunk = space.allocate(self.medium.as_ref(), chunk_bytes(bytes + more, usual), CHUNK_ALIGN)?;
        let (jump, head) = plan.tail.jump(self.source.identity().marker.get(), chunk);
        plan.heads.push(jump);
        plan.heads.push(head);
        plan.chunks.push(chunk);
        Ok(())
    }

    /// Reserves index regions for a batch; returns how many segments were promised.
    fn reserve_index(&self, state: &mut State, outcome: &Outcome, removals_only: bool) -> Result<u64> {
        let images = outcome.images.len() as u64;
        // Nobody changes the index meanwhile.
        let applied = lock(&self.applied);
        self.check()?;
        let live = applied.table.live();
        let end = lock(&self.space).end().0;
        let mut view = self.source.view();
        if view.outgrown(end) {
            view = self.source.renew()?;
        }
        applied.table.check_copies(&view, &outcome.images)?;
        // A checkpoint may have made the live one deeper than was promised.
        let promised = if state.in_flight.waiting.is_empty() { 0 } else { state.depth_promised };
        let mut depth = live.depth.max(promised);
        if removals_only {
            let mut space = lock(&self.space);
            // On a full disk the reserve serves; the promise of the exact worst case would ask for more than is kept.
            let copies = images.min(space.copies_needed(images));
            space.reserve_directory(self.medium.as_ref(), directory_bytes(live.depth))?;
            space.promise(self.medium.as_ref(), copies, 0)?;
            state.depth_promised = depth;
            return Ok(copies);
        }
        let waiting = state.in_flight.waiting.iter().flat_map(|(_, outcome)| &outcome.images);
        let tags: Vec<u64> = outcome.images.iter().chain(waiting).map(|image| image.record.tag()).collect();
        let (segments, deepest) = lock(&self.space).usual_growth(images, live.depth);
        let planned = Room { segments, depth: deepest };
        let room = view.room_for(live, &tags, outcome.images.len(), planned)?;
        depth = depth.max(room.depth);

        let mut space = lock(&self.space);
        let needed = space.copies_needed(images) + room.segments;
        space.promise(self.medium.as_ref(), needed, self.settings.tuning.reserve_segments)?;
        if let Err(error) = space.reserve_directories(self.medium.as_ref(), directory_bytes(depth)) {
            space.release(needed);
            return Err(error);
        }
        state.depth_promised = depth;
        Ok(needed)
    }
}

/// Begins to load what the operations some way behind the first of these will look at.
fn look_ahead<M: Medium>(view: &View<M>, operations: &[Operation]) {
    if let Some(tag) = operations.get(AHEAD).and_then(|soon| soon.tag(view.tagger())) {
        view.prefetch_slot(tag);
    }
    if let Some(digest) = operations.get(AHEAD / 2).and_then(Operation::stored) {
        view.prefetch_frame(view.tagger().of_blob(digest));
    }
}

/// Where a batch goes in the log; nothing of it holds before the state takes it over.
pub(super) struct Plan {
    pub(super) tail: Tail,
    pub(super) heads: Vec<(Offset, FrameHeader)>,
    pub(super) chunks: Vec<Region>,
}

/// What the operations so far came to.
struct Decided {
    done: Vec<Done>,
    frames: Vec<(Offset, std::ops::Range<usize>)>,
    published: Vec<Published>,
}

impl Decided {
    fn one<R: Records>(
        &mut self,
        changes: &mut Changes<'_, R>,
        operation: &Operation,
        arena: &mut [u8],
        tail: &mut Tail,
        marker: u64,
    ) -> Result<()> {
        let done = match operation {
            Operation::Small(small) => {
                let Stored { blob, is_new } = changes.publish(&small.digest, small.tag, tail.at, small.length)?;
                if is_new {
                    self.take_in(small, arena, tail, marker);
                }
                Done::Blob(Descriptor::new(small.digest, &blob))
            }
            Operation::Large(large) => {
                let Large { digest, tag, length, checksum, synced, extent } = large.as_ref();
                let Stored { blob, is_new } = changes.publish(digest, *tag, extent.frame(), *length)?;
                if is_new {
                    self.published.push(Published { id: extent.frame(), checksum: *checksum, synced: *synced });
                }
                Done::Blob(Descriptor::new(*digest, &blob))
            }
            Operation::Reference(digest) => Done::Blob(Descriptor::new(*digest, &changes.reference(digest)?)),
            Operation::Dereference(digest) => Done::Removed(changes.dereference(digest)?),
            Operation::Link(to, from) => {
                changes.link(to, from)?;
                Done::Linked
            }
            Operation::Unlink(to, from) => Done::Removed(changes.unlink(to, from)?),
            Operation::SetName(new) => {
                let named = changes.set_name(&new.name, new.tag, tail.at, &new.digest)?;
                if named.is_new {
                    self.take_in_name(new, arena, tail, marker);
                }
                Done::Removed(named.removed)
            }
            Operation::RemoveName(name) => Done::Removed(changes.remove_name(name)?),
            Operation::ReleaseName(place) => {
                changes.release_name(*place)?;
                Done::Removed(Removed::default())
            }
        };
        self.done.push(done);
        Ok(())
    }

    /// Gives a small blob its place at the tail, and its header.
    fn take_in(&mut self, small: &Small, arena: &mut [u8], tail: &mut Tail, marker: u64) {
        let header = BlobHeader::new(marker, tail.at, &small.digest, small.length);
        arena[small.frame.start..][..header.bytes().len()].copy_from_slice(header.bytes());
        let checksum = seal_blob(&header, small.checksum.clone());
        self.place(&small.frame, checksum, tail);
    }

    /// The same for a name.
    fn take_in_name(&mut self, new: &NewName, arena: &mut [u8], tail: &mut Tail, marker: u64) {
        let (header, checksum) = seal_name(marker, tail.at, new.name.as_str());
        arena[new.frame.start..][..size_of::<FrameHeader>()].copy_from_slice(header.as_bytes());
        self.place(&new.frame, checksum, tail);
    }

    fn place(&mut self, frame: &std::ops::Range<usize>, checksum: u32, tail: &mut Tail) {
        self.published.push(Published { id: tail.at, checksum, synced: false });
        match self.frames.last_mut() {
            Some((_, range)) if range.end == frame.start => range.end = frame.end,
            _ => self.frames.push((tail.at, frame.clone())),
        }
        tail.at = Offset(tail.at.0 + frame.len() as u64);
    }
}

const _: () = assert!(RESERVED_LOG_BYTES + PLAIN_BYTES < CHUNK_BYTES_MIN);

#[cfg(test)]
mod tests;
