//! Checkpoints, what they are needed for, and pauses.
//!
//! # A checkpoint
//!
//! At a commit boundary the index is frozen, in constant time; commits go on and copy what they touch. Then: sync the
//! regions that are new since the last checkpoint, and the log so far where it may not be durable; *then* write the
//! other superblock, synced. A crash before the last step leaves the old superblock, whose regions were not touched.
//! One that is due by what was committed goes on in a thread of its own, beside further commits; these are slowed down
//! where the next one is due before it has ended, and wait where even that does not do. What a commit would wait for is
//! done before such a one: room for as much as came since the last one is found, as long as the disk has time for that
//! (`medium/disk/room.rs`), and the directory is copied (`index/table/successor.rs`). What grows with its work, lists
//! of segments above all, is handed on and never copied under a lock ([`Pieces`](crate::pieces::Pieces)).
//!
//! A sync takes the right to store from each page by itself, and interrupts all processors each time. Of what is frozen
//! hardly anything is stored into again, so before the sync whole runs of it are mapped anew, for loads: a checkpoint
//! then takes less time, and gets beside it are slowed down less (README, what else was tried).
//!
//! # The first name
//!
//! A blobpack that does not know names would take the first name frame for the log's end, and cut off what follows. So
//! before a batch that sets a name is decided, both superblocks carry [`features::NAMES`] and are durable: two
//! checkpoints, once in the life of a pack. A crash between them, or before the first name, leaves a pack whose flag
//! promises more than it holds, which costs nothing; there is never a name that no superblock announces.

use zerocopy::little_endian::U64;

use super::{Durability, State, Writer, lock};
use crate::error::{Error, Result};
use crate::format::{Offset, PAGE_BYTES, Superblock, directory_bytes, features};
use crate::medium::{Medium, is_full};
use crate::space::{runs, sync_regions};
use crate::superblock::{Superblocks, next_superblock};
use crate::sync::Ordering;

/// Shorter runs are left to the sync, which interrupts the processors but a few times for them.
const PREPARED_BYTES_MIN: u64 = 4 * PAGE_BYTES;

impl<M: Medium> Writer<M> {
    /// Sees to it that both superblocks say that there may be names.
    pub(super) fn announce_names(&self) -> Result<()> {
        let both = |superblocks: &Superblocks| {
            let says = |superblock: &Superblock| superblock.incompatible.get() & features::NAMES != 0;
            says(&superblocks.newest) && superblocks.older.as_ref().is_some_and(says)
        };
        if self.announced.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut superblocks = lock(&self.superblocks);
        while !both(&superblocks) {
            self.checkpoint_unless_poisoned(&mut superblocks, features::NAMES)?;
        }
        self.announced.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether `times` as much was committed since the last checkpoint began as one is due after. Asked after each
    /// commit, without the lock for which others queue.
    pub fn is_checkpoint_due(&self, times: u64) -> bool {
        self.due.load(Ordering::Relaxed) >= times
    }

    /// Counts what was committed since the last checkpoint began.
    pub(super) fn count(&self, state: &mut State, images: u64, bytes: u64) {
        state.images_since_checkpoint += images;
        state.bytes_since_checkpoint += bytes;
        let tuning = &self.settings.tuning;
        let images_due = tuning.checkpoint_images.max(state.counters.records() / 4).max(1);
        let times = match self.settings.durability {
            Durability::PowerLoss => 0,
            Durability::Process => state.bytes_since_checkpoint / tuning.checkpoint_bytes.max(1),
        };
        self.due.store(times.max(state.images_since_checkpoint / images_due), Ordering::Relaxed);
    }

    /// What was committed so far is left to a checkpoint that begins in a moment.
    pub fn count_anew(&self) {
        self.count_from_zero(&mut lock(&self.state));
    }

    fn count_from_zero(&self, state: &mut State) {
        (state.images_since_checkpoint, state.bytes_since_checkpoint) = (0, 0);
        self.count(state, 0, 0);
    }

    /// Makes the index durable as of now, so that nothing before has to be replayed. Of a pack that a compaction has
    /// replaced nothing is needed any more.
    pub fn checkpoint(&self) -> Result<()> {
        self.check()?;
        let mut superblocks = lock(&self.superblocks);
        if lock(&self.state).moved {
            return Ok(());
        }
        self.checkpoint_unless_poisoned(&mut superblocks, 0)
    }

    /// The same, beside further commits, which wait for nothing that can be done before: for room on a disk that it
    /// keeps busy, where as much as came since the last one is found first; and for a copy of the directory.
    pub fn checkpoint_beside_commits(&self) -> Result<()> {
        self.check()?;
        let mut superblocks = lock(&self.superblocks);
        if lock(&self.state).moved {
            return Ok(());
        }
        let end = lock(&self.space).end().0;
        let grown = end.saturating_sub(superblocks.newest.end.get());
        self.medium.reserve(grown.min(self.settings.limit.saturating_sub(end)));
        self.copy_directory().inspect_err(|error| self.poison(error))?;
        let result = self.checkpoint_unless_poisoned(&mut superblocks, 0);
        if result.is_err() {
            self.give_up_copy();
        }
        result
    }

    /// Has the index copy its live directory for the time after the freeze, where there is room for that.
    fn copy_directory(&self) -> Result<()> {
        match self.copy_pieces() {
            // Where all data are written elsewhere each time, a store may find the disk full.
            Err(Error::Io { source, .. }) if is_full(&source) => {
                self.give_up_copy();
                Ok(())
            }
            copied => copied,
        }
    }

    fn copy_pieces(&self) -> Result<()> {
        {
            let mut applied = lock(&self.applied);
            self.check()?;
            applied.table.begin_successor(self.medium.as_ref(), &mut lock(&self.space))?;
        }
        while self.copy_piece()? {
            // Commits wait for the same lock, and are let through.
            self.medium.pause();
        }
        Ok(())
    }

    fn give_up_copy(&self) {
        lock(&self.applied).table.give_up_successor(&mut lock(&self.space));
    }

    fn copy_piece(&self) -> Result<bool> {
        let mut applied = lock(&self.applied);
        self.check()?;
        let mut space = lock(&self.space);
        let mut view = self.source.view();
        if view.outgrown(space.end().0) {
            view = self.source.renew()?;
        }
        applied.table.continue_successor(&view, &mut space)
    }

    fn checkpoint_unless_poisoned(&self, superblocks: &mut Superblocks, features: u64) -> Result<()> {
        let result = self.checkpoint_with(superblocks, features);
        if lock(&self.state).images_since_checkpoint == 0 {
            // Nobody has committed beside it, so that there is no need for room.
            self.medium.give_room_back();
        }
        match &result {
            // Nothing was begun.
            Err(Error::NoSpace { .. } | Error::LimitReached { .. }) | Ok(()) => {}
            Err(error) => self.poison(error),
        }
        result
    }

    /// A checkpoint whose superblock has these incompatible features besides those that it has; with any, also where
    /// nothing has changed since the last one.
    fn checkpoint_with(&self, superblocks: &mut Superblocks, features: u64) -> Result<()> {
        let sequence = superblocks.newest.sequence.get() + 1;
        let (heads, dirty, next) = {
            let mut state = lock(&self.state);
            self.count_from_zero(&mut state);
            let mut applied = lock(&self.applied);
            // A batch may have failed halfway into the index just now.
            self.check()?;
            let mut space = lock(&self.space);
            if applied.tail.at.0 == superblocks.newest.tail.get() && features == 0 {
                applied.table.give_up_successor(&mut space);
                return Ok(());
            }
            // Batches on their way were promised no copies of segments that were new when they were decided, and old
            // from here on.
            let images = state.in_flight.waiting.iter().map(|(_, outcome)| outcome.images.len() as u64).sum();
            let copies = space.copies_of_new(images);
            if images > 0 && space.has_directory() {
                // The directory that they were promised room for may be the one that is frozen now.
                let depth = state.depth_promised.max(applied.table.live().depth);
                space.reserve_directories(self.medium.as_ref(), directory_bytes(depth))?;
            }
            if copies > 0 {
                space.promise(self.medium.as_ref(), copies, 0)?;
                let ticket = state.ticket;
                state.overtaken.push((ticket, copies));
            }
            drop(state);
            let frozen = applied.table.freeze(sequence);
            let heads = space.freeze();
            let mut next = next_superblock(&superblocks.newest, &applied.tail, &space, frozen.live, applied.counters);
            next.incompatible = U64::new(next.incompatible.get() | features);
            applied.table.succeed(&*self.source.view(), &mut space)?;
            (heads, frozen.dirty, next)
        };
        // A new vector: to make one of another thread's memory longer holds that one's allocator up meanwhile.
        let fresh = runs(heads.into_iter().chain(dirty).collect());
        for run in fresh.iter().filter(|run| run.bytes >= PREPARED_BYTES_MIN) {
            self.medium.prepare_sync(run.offset, run.bytes);
        }
        match self.settings.durability {
            Durability::PowerLoss => sync_regions(self.medium.as_ref(), fresh, "sync the index")?,
            // The log as well.
            Durability::Process => self.medium.sync_all().map_err(|e| Error::io("sync", self.medium.path(), e))?,
        }
        superblocks.write(self.medium.as_ref(), next)?;
        // Only now: a commit that names a superblock vouches for it.
        let mut state = lock(&self.state);
        state.sequence = sequence;
        state.durable_upto = state.durable_upto.max(Offset(next.tail.get()));
        drop(state);
        lock(&self.space).release_retired(superblocks.oldest());
        Ok(())
    }

    /// Waits until nothing is on its way, then runs `work` while nothing new can be decided. Where that says `true` the
    /// pack counts as replaced: whoever wants to commit is sent on. Where it was replaced before, nothing is run:
    /// `false`.
    ///
    /// # Errors
    /// Those of `work`; with `alone` also [`Error::InUse`] where writers are open or blobs are staged, and that of a
    /// writer that failed before. Without it whoever looks may go on: what was on its way then stays there for ever.
    pub fn pause_commits(&self, alone: bool, work: impl FnOnce(&Superblocks) -> Result<bool>) -> Result<bool> {
        let superblocks = lock(&self.superblocks);
        let mut state = match self.at_peace() {
            Err(_) if !alone => lock(&self.state),
            state => state?,
        };
        if alone {
            // A checkpoint may have failed while this waited for the locks: what the index in the file is like is not
            // known.
            self.check()?;
        }
        if state.moved {
            return Ok(false);
        }
        let (writers, staged) = (self.open_writers.load(Ordering::Acquire), self.staged.load(Ordering::Acquire));
        if alone && writers + staged > 0 {
            return Err(Error::InUse { path: self.medium.path().into(), writers, staged });
        }
        state.moved = work(&superblocks)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
