//! The commit protocol: from operations to durable, visible state.
//!
//! # The order
//!
//! 1. **Decide**, under the state lock: operations become after-images ([`crate::graph`]), against the index *plus*
//!    what is on its way into it. Space for all that follows is reserved here, and the frozen segments that will be
//!    copied are read: a full disk, and damage there, are errors with nothing changed. The batch gets its place in the
//!    log.
//! 2. **Write**: one of the waiting callers, the leader, writes the frames of all that wait: payloads of small blobs,
//!    then the commit frame, contiguous, in one call. Those who were told of the last group are given a moment to come
//!    with their next batch, so that one sync serves all of them and not each half in turn. A crash in here leaves
//!    frames that no commit vouches for, or a commit that fails its checksums: recovery cuts the log there. Nobody was
//!    told anything.
//! 3. **Sync** the range, in the same call (`RWF_DSYNC`). The blobs of extents are synced before step 1, all of a
//!    batch in one go, so a commit never vouches for bytes that are not durable; for the small blobs it carries
//!    checksums. A crash after this: recovery finds the whole commit and applies it. Nobody was told, and that is
//!    allowed: a batch is whole or not there. A small group that begins a chunk of the log writes zeros up to its end
//!    with it, where the file system overwrites in place: those that follow are durable in half the time.
//! 4. **Apply**: the images go into the index, and are visible. A crash here leaves regions that no superblock names;
//!    the log repeats the images.
//! 5. **Tell** the callers, group after group. Whoever waits lets others run for a moment before it sleeps.
//!
//! With [`Durability::Process`] step 3 is left to the next checkpoint.
//!
//! A failure in 2, 3 or 4, in the sync of extents before step 1, or in a checkpoint, poisons the writer: nothing
//! more is written or acknowledged. Reads go on, from an index in memory that is made of the last checkpoint and the
//! log: that in the file may be changed by half, and after a failed sync the system may drop what it had of it.
//!
//! # What a put costs
//!
//! One of 256 bytes in a batch of a thousand takes 5,000 instructions beside its hash (`cargo bench --bench
//! instructions`). When it took 5,300, these were 2,000 to change the index, of which half is for records that move
//! when their segment is split; 1,200 to decide, half of it to make sure that no record which might be this blob's is
//! damaged; the rest to take bytes in, to lay out frames and for their checksums. There are two copies, into the batch
//! and into the page cache, and one system call a group. One slot is waited for, and loaded ahead while others are
//! decided. The least that can be is the hash, one copy and one slot. Hashes are computed by whoever puts, before any
//! lock is taken.
//!
//! What was tried and did not pay: pages of the index that are made a mebibyte ahead (`MADV_POPULATE_WRITE`) cost as
//! much as one by one, 1.3 µs each; images sorted by their tags before they are put into the index; blobs written to
//! the log while their batch is being filled, which takes a tenth longer for small ones, as those that are stored
//! already have to be searched for twice. Not built: SHA-256 of two blobs at a time, their instructions interleaved,
//! is about 1.3 times as fast as of one after the other, of three 1.5 times; but a tenth of a put of 256 bytes is its
//! hash, no well-kept library does it, and `put` would have to leave its digest open.
//!
//! Step 1 is in `commit/decide.rs`, what is on its way in `in_flight.rs`, steps 2 to 5 in `group.rs`; `checkpoint.rs`
//! and `removal.rs` have what holds the others up for longer; `warm.rs` goes ahead of large batches.

use std::sync::{Arc, OnceLock};

use crate::batch::{Operation, Operations};
use crate::error::{Error, Result};
use crate::extent::Holes;
use crate::format::{Offset, directory_bytes};
use crate::graph::Removed;
use crate::index::table::{Events, Table};
use crate::log::Tail;
use crate::medium::Medium;
use crate::record::{CountersNow, Descriptor};
use crate::recovery;
use crate::source::Source;
use crate::space::{Space, sync_regions};
use crate::superblock::Superblocks;
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering};

use group::{Pending, Waiter};
use in_flight::InFlight;

mod checkpoint;
mod decide;
mod group;
mod in_flight;
mod removal;
mod warm;

/// When a commit is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// After its bytes were synced: it survives a power cut.
    #[default]
    PowerLoss,
    /// After its bytes were written: it survives the end of the process, not a power cut. After one, the last
    /// checkpoint and the valid prefix of the log after it are there.
    Process,
}

/// Sizes that tests make small. Users have no reason to.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Slots a segment, for a new pack.
    pub slots: u32,
    /// Log chunks are at most this long, but for a single larger batch.
    pub chunk_bytes: u64,
    /// A checkpoint is due after so many images, or a quarter of the records where that is more.
    pub checkpoint_images: u64,
    /// A checkpoint is due after so many bytes of log.
    pub checkpoint_bytes: u64,
    /// Segments kept free for dereferences on a full disk.
    pub reserve_segments: u64,
    /// A removal of about so many records and more goes in parts of this size.
    pub removal_images: usize,
}

/// So many dereferences of blobs that link to nothing work when the disk is full.
///
/// What is kept for them is room for so many changed records, so of what changes more at a time fewer work: 16 removals
/// of names (each changes the name, its two neighbours and the blob), 9 unlinks (the link, its up to four neighbours
/// and both blobs). A blob that goes with its links changes these, their neighbours and the blobs that they led to.
/// Mostly several of the records lie together, and more works than is guaranteed.
pub const RESERVED_DEREFERENCES: u64 = 64;
/// The log bytes kept for them: a commit of one image asks for 320, one of four for 512, one of seven for 704.
pub(crate) const RESERVED_LOG_BYTES: u64 = RESERVED_DEREFERENCES * 512;
/// The slots of so many records ahead are prefetched where many are looked up.
const AHEAD: usize = 8;

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            slots: 63,
            chunk_bytes: 1 << 20,
            checkpoint_images: 1_000_000,
            checkpoint_bytes: 256 << 20,
            reserve_segments: RESERVED_DEREFERENCES,
            removal_images: 1 << 16,
        }
    }
}

/// What one operation came to.
pub enum Done {
    /// A blob was stored, or one more reference taken on it.
    Blob(Descriptor),
    /// A link is there.
    Linked,
    /// References were given up.
    Removed(Removed),
}

/// What decides about the next batch.
struct State {
    tail: Tail,
    counters: CountersNow,
    /// All commits below are durable.
    durable_upto: Offset,
    /// Of the newest durable superblock.
    sequence: u64,
    in_flight: InFlight,
    pending: Vec<Pending>,
    /// The last ticket given out.
    ticket: u64,
    /// Those who wait for a ticket.
    waiting: Vec<(u64, Arc<Waiter>)>,
    /// Whether a leader is writing.
    leading: bool,
    /// Somebody who holds `superblocks` waits until nothing is on its way.
    pausing: bool,
    /// How many batches the last group had, and waited when it was durable: so many callers may come again.
    callers: usize,
    /// A compaction has put another pack in place of this one.
    moved: bool,
    images_since_checkpoint: u64,
    bytes_since_checkpoint: u64,
    /// How deep the batches on their way may make the directory.
    depth_promised: u32,
    /// Promised to batches that a checkpoint overtook, up to a ticket: they copy what they were decided not to have to.
    overtaken: Vec<(u64, u64)>,
}

/// The index and the log's state that it has reached.
struct Applied {
    table: Table,
    tail: Tail,
    counters: CountersNow,
}

/// How a writer is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// When commits are acknowledged.
    pub durability: Durability,
    /// Sizes.
    pub tuning: Tuning,
    /// The longest that the file may become.
    pub limit: u64,
}

/// The writing half of an open pack. There is one in all processes.
///
/// Locks are taken in this order: `superblocks`, `state`, `applied`, `space`. A commit holds none of them while it
/// writes and syncs. `superblocks` is that of checkpoints, and of whoever needs the others to stand still: compactions,
/// verifications and removals in parts then hold `state` too until they are done.
pub struct Writer<M: Medium> {
    source: Arc<Source<M>>,
    medium: Arc<M>,
    settings: Settings,
    superblocks: Mutex<Superblocks>,
    applied: Mutex<Applied>,
    space: Mutex<Space>,
    holes: Holes,
    state: Mutex<State>,
    /// The last ticket that was applied, and how many times over a checkpoint is due. Stored under the state lock.
    done: AtomicU64,
    due: AtomicU64,
    learned: AtomicBool,
    /// Whether both superblocks say that there may be names.
    announced: AtomicBool,
    poison: OnceLock<String>,
    /// Open writers, and staged blobs.
    open_writers: AtomicU64,
    staged: AtomicU64,
}

/// What a writer begins with: the end of a recovery.
pub struct Start {
    /// In the file.
    pub superblocks: Superblocks,
    /// The index.
    pub table: Table,
    /// The space.
    pub space: Space,
    /// The log's tail.
    pub tail: Tail,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds this lock: what can fail returns an error")
}

impl<M: Medium> Writer<M> {
    /// A writer of the pack that `source` reads.
    pub fn new(source: Arc<Source<M>>, start: Start, settings: Settings) -> Writer<M> {
        let newest = &start.superblocks.newest;
        let counters = CountersNow::from(newest.counters);
        let state = State {
            tail: start.tail,
            counters,
            durable_upto: start.tail.at,
            sequence: newest.sequence.get(),
            in_flight: InFlight::default(),
            pending: Vec::new(),
            ticket: 0,
            waiting: Vec::new(),
            leading: false,
            pausing: false,
            callers: 1,
            moved: false,
            images_since_checkpoint: 0,
            bytes_since_checkpoint: 0,
            depth_promised: 0,
            overtaken: Vec::new(),
        };
        Writer {
            medium: source.medium(),
            source,
            settings,
            superblocks: Mutex::new(start.superblocks),
            applied: Mutex::new(Applied { table: start.table, tail: start.tail, counters }),
            space: Mutex::new(start.space),
            holes: Holes::default(),
            state: Mutex::new(state),
            done: AtomicU64::new(0),
            due: AtomicU64::new(0),
            learned: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            poison: OnceLock::new(),
            open_writers: AtomicU64::new(0),
            staged: AtomicU64::new(0),
        }
    }

    /// The file.
    pub fn medium(&self) -> &Arc<M> {
        &self.medium
    }

    /// Where its records are read.
    pub fn source(&self) -> &Arc<Source<M>> {
        &self.source
    }

    /// The allocator, for extents.
    pub fn space(&self) -> MutexGuard<'_, Space> {
        lock(&self.space)
    }

    /// Extents that came to nothing.
    pub fn holes(&self) -> &Holes {
        &self.holes
    }

    /// How it was set up.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Does `work` unless a compaction has put another pack in place of this one; none comes meanwhile.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn unless_moved<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let state = lock(&self.state);
        if state.moved { Ok(None) } else { work().map(Some) }
    }

    /// How many writers are open.
    pub fn open_writers(&self) -> &AtomicU64 {
        &self.open_writers
    }

    /// How many staged blobs wait for a batch.
    pub fn staged(&self) -> &AtomicU64 {
        &self.staged
    }

    /// What happened to the index since the pack was opened.
    pub fn events(&self) -> Events {
        lock(&self.applied).table.events
    }

    /// What the pack holds, what waits included; and the log's tail.
    pub fn totals(&self) -> (CountersNow, Tail) {
        let applied = lock(&self.applied);
        (applied.counters, applied.tail)
    }

    /// Puts an image into the index, and not into the log.
    #[cfg(test)]
    pub fn apply_by_hand(&self, image: &crate::record::Image) -> Result<()> {
        let mut applied = lock(&self.applied);
        applied.table.apply(&self.source.view(), &mut lock(&self.space), image)
    }

    /// Looks at the index while nobody puts images into it.
    pub fn at_rest<T>(&self, look: impl FnOnce() -> T) -> T {
        let _applied = lock(&self.applied);
        look()
    }

    /// The error of a writer that failed before.
    pub fn check(&self) -> Result<()> {
        match self.poison.get() {
            Some(reason) => Err(Error::Poisoned { path: self.medium.path().into(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Nothing more is written through this handle: from now on, whatever this has to wait for.
    pub fn poison(&self, error: &Error) {
        // The first failure is the cause; later ones follow from it.
        if self.poison.set(error.to_string()).is_ok() {
            self.fall_back(&lock(&self.applied));
        }
    }

    /// The same, with the lock in hand.
    fn fail(&self, applied: &Applied, error: &Error) {
        if self.poison.set(error.to_string()).is_ok() {
            self.fall_back(applied);
        }
    }

    /// Gives readers an index of the log. All up to the tail in `applied` is durable, or was visible before.
    fn fall_back(&self, applied: &Applied) {
        // Where even the log can't be read, the index in the file is still the better one.
        if let Ok(view) = recovery::view_of_log(&self.medium, applied.tail.at) {
            self.source.fall_back_to(view);
        }
    }

    /// Works out which regions are free, once.
    pub fn learn(&self) -> Result<()> {
        if self.learned.load(Ordering::Acquire) {
            return Ok(());
        }
        let superblocks = lock(&self.superblocks);
        let result = lock(&self.space).learn(self.medium.as_ref(), &superblocks.newest, superblocks.older.as_ref());
        self.learned.store(result.is_ok(), Ordering::Release);
        result
    }

    /// Has what is kept for a full disk to itself, so that references can be given up before anything else was done:
    /// where files share blocks, the pack may be a copy.
    pub fn secure_reserve(&self) -> Result<()> {
        if !self.medium.shares_blocks() {
            return Ok(());
        }
        self.learn()?;
        let mut space = lock(&self.space);
        space.secure_directories(self.medium.as_ref(), directory_bytes(self.source.view().live().depth), 2);
        space.secure_segments(self.medium.as_ref(), self.settings.tuning.reserve_segments)
    }

    /// Does all operations, or none; returns when they are as durable as the settings say. `None`: this pack was
    /// replaced by a compaction, and the operations come back to be done there.
    pub fn commit(&self, operations: Operations) -> Result<Result<Vec<Done>, Operations>> {
        if operations.list.len() < warm::OPERATIONS_MIN {
            return self.commit_now(operations);
        }
        let tagger = self.source.tagger();
        let tags: Vec<u64> = operations.list.iter().filter_map(|operation| operation.tag(tagger)).collect();
        self.warmed(&tags, || self.commit_now(operations))
    }

    /// The same, without a thread that goes ahead.
    fn commit_now(&self, mut operations: Operations) -> Result<Result<Vec<Done>, Operations>> {
        self.check()?;
        self.learn()?;
        if operations.sets_names() {
            self.announce_names()?;
        }
        self.sync_extents(&mut operations)?;
        let decided = {
            let mut state = self.state_in_turn();
            if state.moved {
                return Ok(Err(operations));
            }
            self.decide(&mut state, &mut operations).map_err(|error| (state.ticket, error))
        };
        let decided = match decided {
            Ok(decided) => decided,
            Err((ticket, error)) => {
                // What stood against it may be on its way: nobody is told of that before it is there for all to see.
                self.wait_for(ticket)?;
                return Err(error);
            }
        };
        match decided {
            Some((ticket, done)) => {
                self.wait_for(ticket)?;
                Ok(Ok(done))
            }
            None => self.remove_in_parts(operations),
        }
    }

    /// Makes blobs durable that were streamed into extents: the commit will vouch for their bytes. It is a commit to
    /// this pack, as a staged blob holds off the compaction that would put another one in its place.
    fn sync_extents(&self, operations: &mut Operations) -> Result<()> {
        if self.settings.durability == Durability::Process {
            return Ok(());
        }
        let mut regions = Vec::new();
        for operation in operations.list.iter_mut() {
            if let Operation::Large(large) = operation {
                regions.push(large.extent.region);
                large.synced = true;
            }
        }
        // After a failed sync the kernel may count the pages as clean; what they hold is not known to be on the disk.
        sync_regions(self.medium.as_ref(), regions, "sync a blob").inspect_err(|error| self.poison(error))
    }
}
