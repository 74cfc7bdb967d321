//! Batches that go to the disk together, and who waits for them: the steps of a commit after it was decided.

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::{AHEAD, Applied, Durability, State, Writer, lock};
use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::format::{FrameHeader, Kind, Offset, live, to_usize};
use crate::graph::Outcome;
use crate::log::Tail;
use crate::medium::Medium;
use crate::sync::{Condvar, Mutex, MutexGuard, Ordering, yield_now};

/// A group is small where it takes no more than this share of a chunk.
const SMALL_SHARE: u64 = 16;
/// A leader lets others run so many times before it writes: where nobody comes that is a fraction of what a sync takes.
const GATHER_YIELDS: usize = 64;
/// Whoever waits looks so often whether its batch is done, and in between lets others run so many times, before it
/// sleeps: to fall asleep and be woken takes longer than a sync of a fast disk. It is processor time that others may
/// want, so it is little. (RocksDB's writers wait so, too: "adaptive yielding" in its `WriteThread`.) Model checkers
/// and unit tests are to see them sleep.
const LOOKS: usize = if cfg!(any(shuttle, test)) { 1 } else { 8 };
const YIELDS_A_LOOK: usize = if cfg!(any(shuttle, test)) { 1 } else { 8 };
/// The space lock is held for so many images at a time.
const APPLY_STEP: usize = 256;

/// A decided batch on its way to the disk.
pub(super) struct Pending {
    pub(super) ticket: u64,
    /// Jump and chunk frames.
    pub(super) heads: Vec<(Offset, FrameHeader)>,
    /// The frames of small blobs and names, and where the new ones among them go.
    pub(super) arena: Arena<u8>,
    pub(super) frames: Vec<(Offset, std::ops::Range<usize>)>,
    pub(super) commit: (Offset, Vec<u8>),
    pub(super) outcome: Arc<Outcome>,
    /// The log behind it.
    pub(super) tail: Tail,
    pub(super) promised: u64,
}

impl State {
    /// Who is to be woken when all up to this ticket is done: those who wait for it, and one more, to lead the batches
    /// that have come since, or to find that the writer was poisoned.
    fn told(&mut self, upto: u64) -> Vec<Arc<Waiter>> {
        let mut told: Vec<_> =
            self.waiting.extract_if(.., |(ticket, _)| *ticket <= upto).map(|(_, waiter)| waiter).collect();
        told.extend(self.waiting.pop().map(|(_, waiter)| waiter));
        told
    }
}

/// Somebody who waits. Each has a condition of its own: whoever waits for the next group sleeps on when one is told.
#[derive(Default)]
pub(super) struct Waiter {
    woken: Mutex<bool>,
    condition: Condvar,
}

impl Waiter {
    fn wait(&self) {
        let mut woken = lock(&self.woken);
        while !*woken {
            woken = self.condition.wait(woken).expect("no thread panics while it holds this lock");
        }
    }

    fn wake(&self) {
        *lock(&self.woken) = true;
        self.condition.notify_one();
    }
}

impl<M: Medium> Writer<M> {
    /// Waits until the batch with this ticket is durable and visible; leads the others if nobody does.
    pub(super) fn wait_for(&self, ticket: u64) -> Result<()> {
        let mut looks = LOOKS;
        // Whoever was told goes on without the lock, for which others queue to decide.
        while self.done.load(Ordering::Acquire) < ticket {
            let mut state = lock(&self.state);
            if self.done.load(Ordering::Acquire) >= ticket {
                break;
            }
            if state.leading && looks > 0 {
                drop(state);
                looks -= 1;
                let waits = |_: &usize| self.done.load(Ordering::Acquire) < ticket;
                (0..YIELDS_A_LOOK).take_while(waits).for_each(|_| yield_now());
            } else if state.leading {
                let waiter = Arc::<Waiter>::default();
                state.waiting.push((ticket, waiter.clone()));
                drop(state);
                waiter.wait();
            } else if let Err(error) = self.check() {
                // The others too wait for what nobody leads any more.
                state.told(u64::MAX).iter().for_each(|waiter| waiter.wake());
                return Err(error);
            } else {
                self.lead(state)?;
            }
        }
        Ok(())
    }

    /// Takes the batches that wait to the disk and into the index, as a group, and tells who waits for them.
    fn lead<'s>(&'s self, mut state: MutexGuard<'s, State>) -> Result<()> {
        state.leading = true;
        state = self.gather(state);
        let group = std::mem::take(&mut state.pending);
        drop(state);
        // A checkpoint may have failed while others came.
        let result = self.check().and_then(|()| self.flush(&group));
        state = lock(&self.state);
        state.leading = false;
        state.callers = group.len() + state.pending.len();
        if let Err(error) = &result {
            self.poison(error);
        } else if let Some(last) = group.last() {
            if self.settings.durability == Durability::PowerLoss {
                state.durable_upto = last.tail.at;
            }
            state.in_flight.forget(last.ticket);
            for (_, segments) in state.overtaken.extract_if(.., |(ticket, _)| *ticket <= last.ticket) {
                lock(&self.space).release(segments);
            }
            // The last of all: whoever waits for it may not take the lock.
            self.done.store(last.ticket, Ordering::Release);
        }
        let told = state.told(self.done.load(Ordering::Acquire));
        // Not under the lock, which those who are awake need for their next batch.
        drop(state);
        told.iter().for_each(|waiter| waiter.wake());
        result
    }

    /// The state once nothing is on its way any more. Whoever asks holds `superblocks`.
    pub(super) fn at_peace(&self) -> Result<MutexGuard<'_, State>> {
        let ticket = {
            let mut state = lock(&self.state);
            state.pausing = true;
            state.ticket
        };
        let result = self.wait_for(ticket);
        let mut state = lock(&self.state);
        state.pausing = false;
        result.map(|()| state)
    }

    /// The state for the next batch to be decided. One that comes while somebody waits until nothing is on its way
    /// stands back: otherwise there would always be something.
    pub(super) fn state_in_turn(&self) -> MutexGuard<'_, State> {
        loop {
            let state = lock(&self.state);
            if !state.pausing {
                return state;
            }
            drop(state);
            // Whoever pauses has this lock until the end.
            drop(lock(&self.superblocks));
        }
    }

    /// Gives those who were told of the last group a moment to come with their next batch, so that one sync serves all.
    fn gather<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        for _ in 0..GATHER_YIELDS {
            if state.pending.len() >= state.callers || self.settings.durability == Durability::Process {
                break;
            }
            drop(state);
            yield_now();
            state = lock(&self.state);
        }
        state
    }

    /// Steps 2 to 4 for a group of batches.
    fn flush(&self, group: &[Pending]) -> Result<()> {
        let durable = self.settings.durability == Durability::PowerLoss;
        let mut pieces: Vec<(Offset, &[u8])> = Vec::new();
        for pending in group {
            pieces.extend(pending.heads.iter().map(|(at, head)| (*at, head.as_bytes())));
            pieces.extend(pending.frames.iter().map(|(at, range)| (*at, &pending.arena[range.clone()])));
            pieces.push((pending.commit.0, &pending.commit.1));
        }
        let ahead = self.room_ahead(group);
        pieces.extend(ahead.as_ref().map(|(at, zeros)| (*at, &zeros[..])));
        pieces.sort_by_key(|(at, _)| *at);
        let follows = |a: &(Offset, &[u8]), b: &(Offset, &[u8])| a.0.0 + a.1.len() as u64 == b.0.0;
        for run in pieces.chunk_by(follows) {
            let bytes: Vec<&[u8]> = run.iter().map(|(_, bytes)| *bytes).collect();
            self.medium
                .write_at(run[0].0, &bytes, durable)
                .map_err(|e| Error::io("write a commit", self.medium.path(), e))?;
        }
        if !durable && self.superblocks.try_lock().is_ok() {
            // What is full begins its way to the disk, so that the next checkpoint has less to wait for. During one the
            // disk is busy, and would keep this waiting.
            let jumps =
                group.iter().flat_map(|pending| &pending.heads).filter(|(_, head)| head.kind == Kind::Jump as u8);
            for (at, _) in jumps {
                let from = at.0.saturating_sub(self.settings.tuning.chunk_bytes);
                self.medium.write_back(Offset(from), at.0 - from);
            }
        }
        let mut applied = lock(&self.applied);
        // A checkpoint may have failed meanwhile: readers have an index without these batches.
        self.check()?;
        for pending in group {
            if let Err(error) = self.apply(&mut applied, pending) {
                // All of them are durable. Before anybody else sees the index that this one leaves:
                if let Some(last) = group.last() {
                    (applied.tail, applied.counters) = (last.tail, last.outcome.counters);
                }
                self.fail(&applied, &error);
                return Err(error);
            }
        }
        if let Some(last) = group.last() {
            self.medium
                .store(live::ACKNOWLEDGED, &[last.tail.at.0])
                .map_err(|e| Error::io("store the acknowledged tail", self.medium.path(), e))?;
        }
        Ok(())
    }

    /// What a small durable group leaves free of the chunk that it begins: zeros, to be written with it.
    ///
    /// A file system notes in its journal that a block was written for the first time, and a synced write waits for
    /// that as well. So the blocks of the small groups to come are all written now, in one call, and each of those
    /// groups waits for its own bytes alone. Large groups write each block once.
    fn room_ahead(&self, group: &[Pending]) -> Option<(Offset, Vec<u8>)> {
        let tail = group.last()?.tail;
        let begins_chunk = group.iter().any(|pending| !pending.heads.is_empty());
        let is_small = tail.at.0 - tail.chunk.0 <= (tail.chunk_end - tail.chunk.0) / SMALL_SHARE;
        let durable = self.settings.durability == Durability::PowerLoss;
        (begins_chunk && is_small && durable && self.medium.overwrites_in_place())
            .then(|| (tail.at, vec![0; to_usize(tail.chunk_end - tail.at.0)]))
    }

    fn apply(&self, applied: &mut Applied, pending: &Pending) -> Result<()> {
        let mut view = self.source.view();
        for images in pending.outcome.images.chunks(APPLY_STEP) {
            let mut space = lock(&self.space);
            if view.outgrown(space.end().0) {
                view = self.source.renew()?;
            }
            for (number, image) in images.iter().enumerate() {
                if let Some(soon) = images.get(number + AHEAD) {
                    view.prefetch_slot(soon.record.tag());
                }
                // A split below may have made the file longer than the view's map.
                if view.outgrown(space.end().0) {
                    view = self.source.renew()?;
                }
                applied.table.apply(&view, &mut space, image)?;
            }
        }
        lock(&self.space).release(pending.promised);
        (applied.tail, applied.counters) = (pending.tail, pending.outcome.counters);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
