//! The commit protocol: from operations to durable, visible state.
//!
//! # The order (rule R1)
//!
//! 1. **Decide**, under the state lock: operations become after-images ([`crate::graph`]), against the index *plus*
//!    what is on its way into it. Space for all that follows is reserved here; a full disk is an error with nothing
//!    changed (R8). The batch gets its place in the log.
//! 2. **Write**: one of the waiting callers, the leader, writes the frames of all that wait: payloads of small blobs,
//!    then the commit frame, contiguous, in one call. Those who were told of the last group are given a moment to come
//!    with their next batch, so that one sync serves all of them and not each half in turn. A crash in here leaves
//!    frames that no commit vouches for, or a commit that fails its checksums: recovery cuts the log there. Nobody was
//!    told anything.
//! 3. **Sync** the range, in the same call (`RWF_DSYNC`). The blobs of extents are synced before step 1, all of a
//!    batch in one go, so a commit never vouches for bytes that are not durable; for the small blobs it carries
//!    checksums (R7). A crash after this: recovery finds the whole commit and applies it. Nobody was told, and that is
//!    allowed: a batch is whole or not there. A small group that begins a chunk of the log writes zeros up to its end
//!    with it, where the file system overwrites in place: those that follow are durable in half the time.
//! 4. **Apply**: the images go into the index, and are visible. A crash here leaves regions that no superblock names;
//!    the log repeats the images.
//! 5. **Tell** the callers, in the order of the log.
//!
//! With [`Durability::Process`] step 3 is left to the next checkpoint.
//!
//! A failure in 2, 3 or 4, in the sync of extents before step 1, or in a checkpoint, poisons the writer (R3): nothing
//! more is written or acknowledged. Reads go on, from an index in memory that is made of the last checkpoint and the
//! log: that in the file may be changed by half, and after a failed sync the system may drop what it had of it.
//!
//! # What a put costs
//!
//! One of 256 bytes in a batch of a thousand takes 6,400 instructions beside its hash (`cargo bench --bench
//! instructions`): 2,300 to change the index, of which half is for records that move when their segment is split; 1,700
//! to decide, most of it to make sure that no record which might be this blob's is damaged; the rest to take bytes in,
//! to lay out frames and for their checksums. There are two copies, into the batch and into the page cache, and one
//! system call a group. One slot is waited for, and loaded ahead while others are decided. The least that can be is the
//! hash, one copy and one slot.
//!
//! # The first name
//!
//! A blobpack that does not know names would take the first name frame for the log's end, and cut off what follows. So
//! before a batch that sets a name is decided, both superblocks carry [`features::NAMES`] and are durable: two
//! checkpoints, once in the life of a pack. A crash between them, or before the first name, leaves a pack whose flag
//! promises more than it holds, which costs nothing; there is never a name that no superblock announces.
//!
//! # A checkpoint (rule R9)
//!
//! At a commit boundary the index is frozen, in constant time; commits go on and copy what they touch. Then: sync the
//! log so far, if it may not be durable; sync the regions that are new since the last checkpoint; *then* write the
//! other superblock, synced. A crash before the last step leaves the old superblock, whose regions were not touched.
//! One that is due by what was committed goes on in a thread of its own, beside further commits; these are
//! slowed down where the next one is due before it has ended, and wait where even that does not do.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use foldhash::fast::RandomState;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::batch::{Large, NewName, Operation, Operations, Small};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{
    BlobHeader, CHUNK_ALIGN, FrameHeader, Kind, Offset, Superblock, align_up, directory_bytes, features, live, to_usize,
};
use crate::graph::{Changes, Outcome, Records, Removed};
use crate::index::room::Room;
use crate::index::table::{Events, Table};
use crate::log::{
    CommitFields, PLAIN_BYTES, Published, Tail, chunk_bytes, encode_group, group_bytes, seal_blob, seal_name,
};
use crate::medium::Medium;
use crate::name::Name;
use crate::record::CountersNow;
use crate::record::{BlobRecord, Key, LinkRecord, NameRecord, Neighbour, Record};
use crate::recovery;
use crate::source::Source;
use crate::space::{Region, Space, sync_regions};
use crate::superblock::{Superblocks, next_superblock};
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, yield_now};
use crate::view::View;

mod removal;

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
/// Chunks are at least this long.
const CHUNK_BYTES_MIN: u64 = 128 << 10;
/// The slots of so many records ahead are prefetched where many are looked up.
const AHEAD: usize = 8;
/// A group is small where it takes no more than this share of a chunk.
const SMALL_SHARE: u64 = 16;
/// A leader lets others run so many times before it writes: where nobody comes that is a fraction of what a sync takes.
const GATHER_YIELDS: usize = 64;
/// The space lock is held for so many images at a time.
const APPLY_STEP: usize = 256;

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
    Blob(Digest, BlobRecord),
    /// A link is there.
    Linked,
    /// References were given up.
    Removed(Removed),
}

/// A decided batch on its way to the disk.
struct Pending {
    ticket: u64,
    /// Jump and chunk frames.
    heads: Vec<(Offset, FrameHeader)>,
    /// The frames of small blobs and names, and where the new ones among them go.
    arena: Vec<u8>,
    frames: Vec<(Offset, std::ops::Range<usize>)>,
    commit: (Offset, Vec<u8>),
    outcome: Arc<Outcome>,
    /// The log behind it.
    tail: Tail,
    promised: u64,
}

/// Records on their way into the index, by key. `None` is one that is going.
#[derive(Default)]
struct InFlight {
    /// Decided and not applied; those before `mapped` are in the maps.
    waiting: Vec<(u64, Arc<Outcome>)>,
    mapped: usize,
    blobs: HashMap<Digest, (u64, Option<BlobRecord>), RandomState>,
    ids: HashMap<Offset, (u64, Digest), RandomState>,
    links: HashMap<(Offset, Offset), (u64, Option<LinkRecord>), RandomState>,
    /// Names and the anchor by their ids; the ids by the names.
    names: HashMap<Offset, (u64, Option<NameRecord>), RandomState>,
    texts: HashMap<Name, (u64, Option<Offset>), RandomState>,
}

impl InFlight {
    /// Puts what waits into the maps. Left until another batch is decided: a single caller never needs it.
    fn map(&mut self) {
        for (ticket, outcome) in &self.waiting[self.mapped..] {
            for (image, digest) in outcome.iter() {
                match (image.record, digest) {
                    (Record::Blob(blob), Some(digest)) => {
                        self.ids.insert(blob.id, (*ticket, *digest));
                        let now = self.blobs.entry(*digest).or_insert((*ticket, None));
                        // A digest that died and came back in one batch has two images: the living one counts.
                        if !image.removed {
                            *now = (*ticket, Some(blob));
                        } else if now.0 != *ticket || now.1.is_none_or(|other| other.id == blob.id) {
                            *now = (*ticket, None);
                        }
                    }
                    (Record::Link(link), _) => {
                        let state = (!image.removed).then_some(link);
                        self.links.insert((link.from, link.to), (*ticket, state));
                    }
                    (Record::Name(name), _) => {
                        self.names.insert(name.id, (*ticket, (!image.removed).then_some(name)));
                    }
                    (Record::Blob(_), None) => {}
                }
            }
            for (name, id) in &outcome.names {
                self.texts.insert(name.clone(), (*ticket, *id));
            }
        }
        self.mapped = self.waiting.len();
    }

    /// Forgets what is in the index now, up to this ticket.
    fn forget(&mut self, upto: u64) {
        let applied = self.waiting.iter().take_while(|(ticket, _)| *ticket <= upto).count();
        for (ticket, outcome) in self.waiting.drain(..applied).take(self.mapped) {
            for (image, digest) in outcome.iter() {
                match (image.record, digest) {
                    (Record::Blob(blob), Some(digest)) => {
                        if self.ids.get(&blob.id).is_some_and(|entry| entry.0 == ticket) {
                            self.ids.remove(&blob.id);
                        }
                        if self.blobs.get(digest).is_some_and(|entry| entry.0 == ticket) {
                            self.blobs.remove(digest);
                        }
                    }
                    (Record::Link(link), _) => {
                        let key = (link.from, link.to);
                        if self.links.get(&key).is_some_and(|entry| entry.0 == ticket) {
                            self.links.remove(&key);
                        }
                    }
                    (Record::Name(name), _) => {
                        if self.names.get(&name.id).is_some_and(|entry| entry.0 == ticket) {
                            self.names.remove(&name.id);
                        }
                    }
                    (Record::Blob(_), None) => {}
                }
            }
            for (name, _) in &outcome.names {
                if self.texts.get(name).is_some_and(|entry| entry.0 == ticket) {
                    self.texts.remove(name);
                }
            }
        }
        self.mapped = self.mapped.saturating_sub(applied);
    }
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

impl State {
    /// Who is to be woken when all up to this ticket is done: those who wait for it, and one more, to lead the batches
    /// that have come since.
    fn told(&mut self, upto: u64) -> Vec<Arc<Waiter>> {
        let mut told: Vec<_> =
            self.waiting.extract_if(.., |(ticket, _)| *ticket <= upto).map(|(_, waiter)| waiter).collect();
        told.extend(self.waiting.pop().map(|(_, waiter)| waiter));
        told
    }
}

/// Somebody who waits. Each has a condition of its own: whoever waits for the next group sleeps on when one is told.
#[derive(Default)]
struct Waiter {
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
/// Locks are taken in this order: `superblocks`, `state`, `applied`, `space`. No lock is held during a sync but
/// `superblocks`, which only checkpoints and compactions take.
pub struct Writer<M: Medium> {
    source: Arc<Source<M>>,
    medium: Arc<M>,
    settings: Settings,
    superblocks: Mutex<Superblocks>,
    applied: Mutex<Applied>,
    space: Mutex<Space>,
    state: Mutex<State>,
    /// The last ticket that was applied. Stored under the state lock.
    done: AtomicU64,
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
            state: Mutex::new(state),
            done: AtomicU64::new(0),
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

    /// Nothing more is written through this handle (rule R3): from now on, whatever this has to wait for.
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
    pub fn commit(&self, mut operations: Operations) -> Result<Result<Vec<Done>, Operations>> {
        self.check()?;
        self.learn()?;
        if operations.sets_names() {
            self.announce_names()?;
        }
        self.sync_extents(&mut operations)?;
        let decided = {
            let mut state = lock(&self.state);
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
        for operation in &mut operations.list {
            if let Operation::Large(large) = operation {
                regions.push(large.extent.region);
                large.synced = true;
            }
        }
        // After a failed sync the kernel may count the pages as clean; what they hold is not known to be on the disk.
        sync_regions(self.medium.as_ref(), regions, "sync a blob").inspect_err(|error| self.poison(error))
    }

    /// Sees to it that both superblocks say that there may be names.
    fn announce_names(&self) -> Result<()> {
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

    /// `None`: the one operation removes so much that it has to be done in parts.
    fn decide(&self, state: &mut State, operations: &mut Operations) -> Result<Option<(u64, Vec<Done>)>> {
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
        let current = Current { state, source: &self.source };
        let mut changes = Changes::new(&current, state.counters);
        let mut decided = Decided { done: Vec::new(), frames: Vec::new(), published: Vec::new() };
        let single = operations.list.len() == 1;
        if single && removals_only {
            changes.cut_after(self.settings.tuning.removal_images);
        }
        let marker = self.source.identity().marker.get();
        let view = self.source.view();
        for (index, operation) in operations.list.iter().enumerate() {
            look_ahead(&view, operations.list.get(index..).unwrap_or_default());
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
        state.bytes_since_checkpoint += smalls + commit.len() as u64;
        state.images_since_checkpoint += images;
        state.ticket += 1;
        state.tail = plan.tail;
        state.counters = outcome.counters;
        let outcome = Arc::new(outcome);
        state.in_flight.waiting.push((state.ticket, outcome.clone()));
        for operation in operations.list.drain(..) {
            // From here on the blob may be durable, whatever happens: its bytes are never given back.
            if let Operation::Large(mut large) = operation
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
    fn make_room(&self, plan: &mut Plan, bytes: u64, more: u64) -> Result<()> {
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
        let mut depth = if state.in_flight.waiting.is_empty() { live.depth } else { state.depth_promised };
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
        let (end, planned) = {
            let space = lock(&self.space);
            (space.end().0, space.usual_growth(images, live.depth))
        };
        let planned = Room { segments: planned.0, depth: planned.1 };
        let mut view = self.source.view();
        if view.outgrown(end) {
            view = self.source.renew()?;
        }
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

    /// Waits until the batch with this ticket is durable and visible; leads the others if nobody does.
    fn wait_for(&self, ticket: u64) -> Result<()> {
        // Whoever was told goes on without the lock, for which others queue to decide.
        while self.done.load(Ordering::Acquire) < ticket {
            let mut state = lock(&self.state);
            if self.done.load(Ordering::Acquire) >= ticket {
                break;
            }
            if let Err(error) = self.check() {
                // The others too wait for what nobody leads any more.
                state.told(u64::MAX).iter().for_each(|waiter| waiter.wake());
                return Err(error);
            }
            if state.leading {
                let waiter = Arc::<Waiter>::default();
                state.waiting.push((ticket, waiter.clone()));
                drop(state);
                waiter.wait();
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
        let result = self.flush(&group);
        state = lock(&self.state);
        state.leading = false;
        state.callers = group.len() + state.pending.len();
        match (&result, group.last()) {
            (Ok(()), Some(last)) => {
                if self.settings.durability == Durability::PowerLoss {
                    state.durable_upto = last.tail.at;
                }
                self.done.store(last.ticket, Ordering::Release);
                state.in_flight.forget(last.ticket);
                for (_, segments) in state.overtaken.extract_if(.., |(ticket, _)| *ticket <= last.ticket) {
                    lock(&self.space).release(segments);
                }
            }
            (Err(error), _) => self.poison(error),
            (Ok(()), None) => {}
        }
        let told = state.told(if result.is_ok() { self.done.load(Ordering::Acquire) } else { u64::MAX });
        // Not under the lock, which those who are awake need for their next batch.
        drop(state);
        told.iter().for_each(|waiter| waiter.wake());
        result
    }

    /// The state once nothing is on its way any more.
    fn at_peace(&self) -> Result<MutexGuard<'_, State>> {
        loop {
            let state = lock(&self.state);
            let ticket = state.ticket;
            if self.done.load(Ordering::Acquire) == ticket {
                return Ok(state);
            }
            drop(state);
            self.wait_for(ticket)?;
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
        if !durable {
            // What is full begins its way to the disk, so that the next checkpoint has less to wait for.
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
        if let (Some(last), true) = (group.last(), durable) {
            self.medium
                .store(live::DURABLE, &[last.tail.at.0])
                .map_err(|e| Error::io("store the durable tail", self.medium.path(), e))?;
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

    /// Whether `times` as much was committed since the last checkpoint began as one is due after.
    pub fn is_checkpoint_due(&self, times: u64) -> bool {
        let state = lock(&self.state);
        let tuning = &self.settings.tuning;
        let records = state.counters.records();
        state.images_since_checkpoint / times >= tuning.checkpoint_images.max(records / 4)
            || state.bytes_since_checkpoint / times >= tuning.checkpoint_bytes
                && self.settings.durability == Durability::Process
    }

    /// What was committed so far is left to a checkpoint that begins in a moment.
    pub fn count_anew(&self) {
        let mut state = lock(&self.state);
        (state.images_since_checkpoint, state.bytes_since_checkpoint) = (0, 0);
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

    fn checkpoint_unless_poisoned(&self, superblocks: &mut Superblocks, features: u64) -> Result<()> {
        let result = self.checkpoint_with(superblocks, features);
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
        let (fresh, next) = {
            let mut state = lock(&self.state);
            (state.images_since_checkpoint, state.bytes_since_checkpoint) = (0, 0);
            let mut applied = lock(&self.applied);
            // A batch may have failed halfway into the index just now.
            self.check()?;
            let mut space = lock(&self.space);
            if applied.tail.at.0 == superblocks.newest.tail.get() && features == 0 {
                return Ok(());
            }
            // Batches on their way were promised no copies of segments that were new when they were decided, and old
            // from here on.
            let images = state.in_flight.waiting.iter().map(|(_, outcome)| outcome.images.len() as u64).sum();
            let copies = space.copies_of_new(images);
            if copies > 0 {
                // The directory that they were promised room for may be the one that is frozen now.
                space.reserve_directories(self.medium.as_ref(), directory_bytes(state.depth_promised))?;
                space.promise(self.medium.as_ref(), copies, 0)?;
                let ticket = state.ticket;
                state.overtaken.push((ticket, copies));
            }
            drop(state);
            let frozen = applied.table.freeze(sequence);
            let mut fresh = space.freeze();
            fresh.extend(frozen.dirty);
            let mut next = next_superblock(&superblocks.newest, &applied.tail, &space, frozen.live, applied.counters);
            next.incompatible = U64::new(next.incompatible.get() | features);
            (fresh, next)
        };
        if self.settings.durability == Durability::Process {
            self.medium.sync_all().map_err(|e| Error::io("sync the log", self.medium.path(), e))?;
        }
        sync_regions(self.medium.as_ref(), fresh, "sync the index")?;
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
    /// Those of `work`; with `alone` also [`Error::InUse`] where writers are open or blobs are staged.
    pub fn pause_commits(&self, alone: bool, work: impl FnOnce(&Superblocks) -> Result<bool>) -> Result<bool> {
        let superblocks = lock(&self.superblocks);
        let mut state = self.at_peace()?;
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

/// Begins to load what the operations some way behind the first of these will look at.
fn look_ahead<M: Medium>(view: &View<M>, operations: &[Operation]) {
    match operations.get(AHEAD) {
        Some(Operation::Small(small)) => view.prefetch_slot(small.tag),
        Some(soon) => {
            if let Some(digest) = soon.stored() {
                view.prefetch_slot(view.tagger().of_blob(digest));
            }
        }
        None => {}
    }
    if let Some(digest) = operations.get(AHEAD / 2).and_then(Operation::stored) {
        view.prefetch_frame(view.tagger().of_blob(digest));
    }
}

/// Where a batch goes in the log; nothing of it holds before the state takes it over.
struct Plan {
    tail: Tail,
    heads: Vec<(Offset, FrameHeader)>,
    chunks: Vec<Region>,
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
                if changes.publish(&small.digest, small.tag, tail.at, small.length)? {
                    self.take_in(small, arena, tail, marker);
                }
                blob_now(changes, &small.digest)?
            }
            Operation::Large(large) => {
                let Large { digest, tag, length, checksum, synced, extent } = large.as_ref();
                if changes.publish(digest, *tag, extent.frame(), *length)? {
                    self.published.push(Published { id: extent.frame(), checksum: *checksum, synced: *synced });
                }
                blob_now(changes, digest)?
            }
            Operation::Reference(digest) => Done::Blob(*digest, changes.reference(digest)?),
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

fn blob_now<R: Records>(changes: &Changes<'_, R>, digest: &Digest) -> Result<Done> {
    let blob = changes.blob(digest)?.ok_or(Error::NotFound { digest: *digest })?;
    Ok(Done::Blob(*digest, blob))
}

/// The records as the next batch finds them.
struct Current<'a, M: Medium> {
    state: &'a State,
    source: &'a Source<M>,
}

impl<M: Medium> Records for Current<'_, M> {
    fn blob(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        match self.state.in_flight.blobs.get(digest) {
            Some((_, blob)) => Ok(*blob),
            None => self.source.ask(|view| view.blob_record(digest)),
        }
    }

    fn blob_by_id(&self, id: Offset) -> Result<(BlobRecord, Digest)> {
        let digest = match self.state.in_flight.ids.get(&id) {
            Some((_, digest)) => *digest,
            None => self.source.ask(|view| view.digest_at(id))?,
        };
        match self.blob(&digest)? {
            Some(blob) if blob.id == id => Ok((blob, digest)),
            _ => Err(self.damaged(id, "a list of links names a blob that has no record")),
        }
    }

    fn link(&self, from: Offset, to: Offset) -> Result<Option<LinkRecord>> {
        if let Some((_, link)) = self.state.in_flight.links.get(&(from, to)) {
            return Ok(*link);
        }
        let tag = self.link_tag(from, to);
        let record = self.source.ask(|view| view.record(Key::Link(from, to), tag))?;
        Ok(record.and_then(|record| match record {
            Record::Link(link) => Some(link),
            Record::Blob(_) | Record::Name(_) => None,
        }))
    }

    fn link_tag(&self, from: Offset, to: Offset) -> u64 {
        self.source.tagger().of_link(from, to)
    }

    fn name(&self, name: &Name) -> Result<Option<NameRecord>> {
        let in_flight = &self.state.in_flight;
        let id = match in_flight.texts.get(name) {
            Some((_, Some(id))) => *id,
            Some((_, None)) => return Ok(None),
            None => match self.source.ask(|view| view.name_record(name))? {
                // Its neighbours, or it itself, may be on their way.
                Some(record) if !in_flight.names.contains_key(&record.id) => return Ok(Some(record)),
                Some(record) => record.id,
                None => return Ok(None),
            },
        };
        self.name_at(Neighbour { id, tag: self.source.tagger().of_name(name.as_str()) })
    }

    fn name_at(&self, place: Neighbour) -> Result<Option<NameRecord>> {
        match self.state.in_flight.names.get(&place.id) {
            Some((_, name)) => Ok(*name),
            None => self.source.ask(|view| view.ring_record(place)),
        }
    }

    fn anchor_tag(&self) -> u64 {
        self.source.tagger().of_name("")
    }

    fn damaged(&self, at: Offset, what: &str) -> Error {
        Error::damaged(self.source.medium().path(), at.0, what)
    }
}

const _: () = assert!(RESERVED_LOG_BYTES + PLAIN_BYTES < CHUNK_BYTES_MIN);

#[cfg(test)]
mod tests;
