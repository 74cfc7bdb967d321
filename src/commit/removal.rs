//! Removals of very many blobs, in bounded memory and all at once.
//!
//! The images of a removal that frees millions of blobs would fill the memory, and so would what is known of them while
//! they are on their way. Such a removal is decided in parts, each against what the parts before have left:
//!
//! 1. Nothing else may be on its way; new commits wait until the end.
//! 2. The index is hidden: as after a checkpoint each first change copies, but readers are not shown the new directory.
//! 3. Each part is one commit frame, written and put into the hidden index. None but the last frame makes the group
//!    valid: a crash before it is durable leaves a log that ends before the group.
//! 4. The last frame is synced, after the others; then the directory is shown. Readers see one switch.
//!
//! Where the disk is full before the end, a record on the way is damaged, or the removal is refused, as another one
//! came first, the parts so far are forgotten, in the index and in the log.

use super::decide::Plan;
use super::{Applied, Done, State, Writer, lock};
use crate::batch::{Operation, Operations};
use crate::commit::{Durability, RESERVED_LOG_BYTES};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{FILE_BYTES_MAX, Offset, PAGE_BYTES, directory_bytes, live, to_u64, to_usize};
use crate::graph::{Changes, Left, Records, Removed};
use crate::log::{CommitFields, encode_part, group_bytes};
use crate::map::Map;
use crate::medium::{Medium, is_full};
use crate::name::Name;
use crate::record::{BlobRecord, CountersNow, Key, LinkRecord, NameRecord, Neighbour, Record};
use crate::view::View;
use zerocopy::IntoBytes;

/// Where the live word of the hidden index is: in memory, behind all that a file can have.
const HIDDEN_AT: Offset = Offset(FILE_BYTES_MAX);

/// What the parts have come to.
struct Parts {
    plan: Plan,
    counters: CountersNow,
    removed: Removed,
    images: u64,
    bytes: u64,
    /// The end of what they have written into the chunk that the log is in.
    written: Offset,
    /// They can't be forgotten any more: the last frame is on its way, or there.
    stay: bool,
}

impl<M: Medium> Writer<M> {
    /// Does the one operation, which gives references up, in parts. `Err`: this pack was replaced by a compaction.
    pub(super) fn remove_in_parts(&self, operations: Operations) -> Result<Result<Vec<Done>, Operations>> {
        let superblocks = lock(&self.superblocks);
        let mut state = self.at_peace()?;
        self.check()?;
        if state.moved {
            return Ok(Err(operations));
        }
        if let Operation::SetName(new) = &operations.list[0]
            && (Hidden { view: &*self.source.renew()? }).name(&new.name)?.is_none()
        {
            // Another caller has removed the name meanwhile: nothing goes, and the name needs a frame.
            drop((state, superblocks));
            return self.commit(operations);
        }
        let mut applied = lock(&self.applied);
        let before = {
            let mut space = lock(&self.space);
            let before = space.clone();
            space.hide();
            before
        };
        let shown = applied.table.hide(superblocks.newest.sequence.get() + 1);
        let plan = Plan { tail: state.tail, heads: Vec::new(), chunks: Vec::new() };
        let (removed, images, bytes, stay) = (Removed::default(), 0, 0, false);
        let written = state.tail.at;
        let mut parts = Parts { plan, counters: state.counters, removed, images, bytes, written, stay };
        let done = self.write_parts(&state, &mut applied, &operations.list[0], &mut parts);
        match &done {
            Ok(()) => (applied.tail, applied.counters) = (parts.plan.tail, parts.counters),
            Err(error) if parts.stay || matches!(error, Error::Io { .. }) => self.fail(&applied, error),
            Err(_) => {
                let mut space = lock(&self.space);
                space.roll_back(before);
                while let Some(chunk) = parts.plan.chunks.pop() {
                    if parts.plan.heads.iter().any(|(at, _)| *at == chunk.offset) {
                        space.give_back(self.medium.as_ref(), chunk);
                    } else {
                        // It was written: nobody else gets its place, where recovery could find what is left of it.
                        let _ = self.medium.punch(chunk.offset, chunk.bytes);
                    }
                }
                applied.table.show_again(shown);
                drop(space);
                self.write_over(&state, &parts).inspect_err(|error| self.fail(&applied, error))?;
            }
        }
        done?;
        // All parts are in the log, as durable as the settings ask: from here on whoever reads has them, in whichever
        // index.
        self.show(&mut applied, &parts).inspect_err(|error| self.fail(&applied, error))?;
        (state.tail, state.counters) = (parts.plan.tail, parts.counters);
        if self.settings.durability == Durability::PowerLoss {
            state.durable_upto = parts.plan.tail.at;
        }
        self.count(&mut state, parts.images, parts.bytes);
        Ok(Ok(vec![Done::Removed(parts.removed)]))
    }

    /// Shows the index with all parts to readers.
    fn show(&self, applied: &mut Applied, parts: &Parts) -> Result<()> {
        let io = |e| Error::io("store into the live page", self.medium.path(), e);
        applied.table.publish(self.source.renew()?.as_ref())?;
        self.medium.store(live::ACKNOWLEDGED, &[parts.plan.tail.at.0]).map_err(io)
    }

    fn write_parts(
        &self,
        state: &State,
        applied: &mut Applied,
        operation: &Operation,
        parts: &mut Parts,
    ) -> Result<()> {
        let memory = Map::memory(PAGE_BYTES);
        let mut view = self.source.renew()?.renewed()?.with_overlay(memory.clone(), HIDDEN_AT, HIDDEN_AT);
        let commits = state.counters.commits.saturating_add(1);
        let mut left: Vec<Left> = Vec::new();
        let durable = self.settings.durability == Durability::PowerLoss;
        for number in 0.. {
            memory.store_words(Offset(0), &[applied.table.live().pack()]).expect("it has a page");
            let hidden = Hidden { view: &view };
            let mut changes = Changes::new(&hidden, parts.counters);
            changes.cut_after(self.settings.tuning.removal_images);
            let mut removed = Removed::default();
            if number == 0 {
                removed = give_up(&mut changes, operation)?;
            }
            while !changes.is_cut()
                && let Some(next) = left.pop()
            {
                removed.add(changes.go_on(next)?);
            }
            left.extend(changes.take_left());
            let outcome = changes.finish();
            parts.counters = CountersNow { commits, ..outcome.counters };
            parts.images += outcome.images.len() as u64;

            let images = outcome.images.len() as u64;
            self.make_room(&mut parts.plan, 0, group_bytes(images, 0) + RESERVED_LOG_BYTES)?;
            let promised = self.reserve_copies(images, applied.table.live().depth)?;
            view = self.long_enough(view)?;
            applied.table.check_copies(&view, &outcome.images)?;
            let fields = CommitFields {
                sequence: state.sequence,
                durable_upto: state.durable_upto,
                counters: parts.counters.into(),
            };
            let at = parts.plan.tail.at;
            let place = (number, left.is_empty());
            let frame = encode_part(view.marker(), &mut parts.plan.tail, &outcome.images, &fields, place);
            parts.bytes += frame.len() as u64;
            parts.stay = left.is_empty();
            let heads = parts.plan.heads.drain(..);
            for (at, bytes) in heads.map(|(at, head)| (at, head.as_bytes().to_vec())).chain([(at, frame)]) {
                self.medium
                    .write_at(at, &[&bytes], durable)
                    .map_err(|e| Error::io("write a commit", self.medium.path(), e))?;
                if at.0 < state.tail.chunk_end {
                    parts.written = Offset(at.0 + to_u64(bytes.len()));
                }
            }
            parts.removed.add_part(&removed, at);
            for image in &outcome.images {
                applied.table.apply(&view, &mut lock(&self.space), image)?;
                view = self.long_enough(view)?;
                memory.store_words(Offset(0), &[applied.table.live().pack()]).expect("it has a page");
            }
            lock(&self.space).release(promised);
            if left.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Writes zeros over the parts that are forgotten. The next commit may be shorter, and recovery would follow a jump
    /// behind it to what others have by then. Where each write takes space a full disk may leave them.
    fn write_over(&self, state: &State, parts: &Parts) -> Result<()> {
        let zeros = vec![0; to_usize(parts.written.0 - state.tail.at.0)];
        if zeros.is_empty() {
            return Ok(());
        }
        let durable = self.settings.durability == Durability::PowerLoss;
        match self.medium.write_at(state.tail.at, &[&zeros], durable) {
            Err(error) if !is_full(&error) => Err(Error::io("write over a commit", self.medium.path(), error)),
            _ => Ok(()),
        }
    }

    /// The view, with a map of all that was allocated.
    fn long_enough(&self, view: View<M>) -> Result<View<M>> {
        if view.outgrown(lock(&self.space).end().0) { view.renewed() } else { Ok(view) }
    }

    /// Reserves the index regions of a part, which changes and removes records and adds none.
    fn reserve_copies(&self, images: u64, depth: u32) -> Result<u64> {
        let mut space = lock(&self.space);
        let copies = space.copies_needed(images);
        space.reserve_directory(self.medium.as_ref(), directory_bytes(depth))?;
        space.promise(self.medium.as_ref(), copies, self.settings.tuning.reserve_segments)?;
        Ok(copies)
    }
}

fn give_up<R: Records>(changes: &mut Changes<'_, R>, operation: &Operation) -> Result<Removed> {
    match operation {
        Operation::Dereference(digest) => changes.dereference(digest),
        Operation::Unlink(to, from) => changes.unlink(to, from),
        Operation::RemoveName(name) => changes.remove_name(name),
        // It is there, so that it needs no frame.
        Operation::SetName(new) => Ok(changes.set_name(&new.name, new.tag, Offset::NONE, &new.digest)?.removed),
        _ => unreachable!("no other operation removes blobs"),
    }
}

/// The records of an index that is not shown. Nobody else changes it.
struct Hidden<'a, M> {
    view: &'a View<M>,
}

impl<M: Medium> Records for Hidden<'_, M> {
    fn blob(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        self.view.blob_record(digest).map_err(|stop| stop.into_error(self.view))
    }

    fn blob_by_id(&self, id: Offset) -> Result<(BlobRecord, Digest)> {
        let digest = self.view.digest_at(id).map_err(|stop| stop.into_error(self.view))?;
        match self.blob(&digest)? {
            Some(blob) if blob.id == id => Ok((blob, digest)),
            _ => Err(self.damaged(id, "a list of links names a blob that has no record")),
        }
    }

    fn link(&self, from: Offset, to: Offset) -> Result<Option<LinkRecord>> {
        let record = self.view.record(Key::Link(from, to), self.link_tag(from, to));
        match record.map_err(|stop| stop.into_error(self.view))? {
            Some(Record::Link(link)) => Ok(Some(link)),
            _ => Ok(None),
        }
    }

    fn link_tag(&self, from: Offset, to: Offset) -> u64 {
        self.view.tagger().of_link(from, to)
    }

    fn name(&self, name: &Name) -> Result<Option<NameRecord>> {
        self.view.name_record(name).map_err(|stop| stop.into_error(self.view))
    }

    fn name_at(&self, place: Neighbour) -> Result<Option<NameRecord>> {
        self.view.ring_record(place).map_err(|stop| stop.into_error(self.view))
    }

    fn anchor_tag(&self) -> u64 {
        self.view.tagger().of_name("")
    }

    fn damaged(&self, at: Offset, what: &str) -> Error {
        self.view.damaged(at, what)
    }
}

#[cfg(test)]
mod tests;
