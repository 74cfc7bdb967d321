//! The one door to the disk.
//!
//! Every read-write call on a pack and every store into its mapped index goes through a [`Medium`]. [`Disk`] makes the
//! system calls and costs nothing over them; [`Sim`] keeps files in memory and records each step, so that a test can
//! build the states that a crash could leave.
//!
//! What is assumed of the system: a sync that returned means that the bytes of its range (and the file length and block
//! mapping that are needed to read them) survive a power cut; a sector of 512 bytes that was synced before and is
//! overwritten holds either its old or its new bytes afterwards; a rename is atomic, and durable once the directory was
//! synced.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::format::Offset;
use crate::map::Map;

#[cfg(test)]
mod contract;
mod disk;
mod overlay;
mod sim;

pub use disk::Disk;
pub use overlay::Overlay;
pub use sim::{Action, Fault, Sim, SimDirectory, Step};

/// Whether an error says that there is no more room: on the disk, in the user's quota, or below the longest file.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The directory that a path's last part stands in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What a path leads to, seen from an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtPath {
    /// This very file.
    Same,
    /// Nothing.
    Missing,
    /// Another file: a compaction, or somebody else, has put it there.
    Other,
}

/// An open file that packs live in, with the directory that it stands in.
///
/// Errors are those of the system; callers add path and operation. All calls may come from several threads at once.
pub trait Medium: Send + Sync + Sized + 'static {
    /// The name the file was opened or will be published by.
    fn path(&self) -> &Path;

    /// The file's length now, in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Reads exactly `buffer.len()` bytes; the end of the file inside is an `UnexpectedEof`.
    fn read_at(&self, offset: Offset, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `pieces`, one after another, from `offset` on. With `durable` they are synced when the call
    /// returns.
    fn write_at(&self, offset: Offset, pieces: &[&[u8]], durable: bool) -> io::Result<()>;

    /// Makes sure that `length` bytes from `offset` have their place on the disk and read as what was written there, or
    /// as zeros; the file grows as needed and never shrinks. A full disk is an error (see [`is_full`]); no contents
    /// changed then, though the file may be longer than before.
    fn allocate(&self, offset: Offset, length: u64) -> io::Result<()>;

    /// Finds room for the next `bytes` that the file may grow by, as a hint: for when the disk is too busy to look for
    /// it. The file keeps its length. What is left of it is given back with the lock.
    fn reserve(&self, _bytes: u64) {}

    /// Gives back now what is left of that, by whichever writer. Only the holder of the lock does.
    fn give_room_back(&self) {}

    /// Makes sure that later writes and stores into a range need no space: it is [allocated](Medium::allocate), and
    /// shares no blocks with another file, as a copy of a pack may. On a file system that writes all data elsewhere
    /// each time (btrfs, where a file was not made to be written in place) nothing helps.
    fn make_private(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.allocate(offset, length)
    }

    /// Whether files may share blocks here, so that a range that was allocated may have to be made private.
    fn shares_blocks(&self) -> bool {
        false
    }

    /// Gives the blocks of a range back, where the file system can: it reads as zeros afterwards, else as before. The
    /// file's length stays.
    fn punch(&self, offset: Offset, length: u64) -> io::Result<()>;

    /// Whether work that nobody waits for may go on in a thread of its own. Where runs have to be repeatable it is done
    /// by who came upon it.
    fn has_background(&self) -> bool {
        false
    }

    /// Whether it is worth a thread to close the file where no name leads to it any more: it is long, so the system
    /// takes its time to give back what it held, and there is room without that.
    fn closes_slowly(&self) -> bool {
        false
    }

    /// Prepares a range that was stored into for its sync, as a hint: takes from the system what else it would do page
    /// by page, and stop all processors for.
    fn prepare_sync(&self, _offset: Offset, _length: u64) {}

    /// Prepares the page at `offset` for its next store, as a hint: takes the fault that this would have. Changes
    /// nothing, and may be asked beside stores.
    fn prepare_store(&self, _offset: Offset) {}

    /// Makes a range durable, whether it was written by [`write_at`](Medium::write_at) or [`store`](Medium::store).
    fn sync_range(&self, offset: Offset, length: u64) -> io::Result<()>;

    /// Begins to write a range back, as a hint: a later sync has less to wait for.
    fn write_back(&self, offset: Offset, length: u64);

    /// Makes the whole file durable.
    fn sync_all(&self) -> io::Result<()>;

    /// Stores words into the shared index: all but the first (in ascending order), then the first. A concurrent reader
    /// that loads a word with acquire ordering sees all stores of earlier calls and, of this one, those before that
    /// word. `offset` is a multiple of 8.
    ///
    /// The range was [allocated](Medium::allocate) (and not punched since): a store into a hole is `SIGBUS` when the
    /// disk is full. Where preallocation is no guarantee (anything but ext2/3/4 and tmpfs) the words go by
    /// `pwrite`: then the order holds for the first word only, and a load of another may be torn.
    fn store(&self, offset: Offset, words: &[u64]) -> io::Result<()>;

    /// A map of the file that reaches at least to `length` and as far beyond as is cheap; sees all later changes.
    fn map(&self, length: u64) -> io::Result<Arc<Map>>;

    /// Which machine (by boot), device and inode this file is on: `[boot, boot, device, inode]`. Zeros for the boot
    /// mean that it is not known.
    fn host(&self) -> io::Result<[u64; 4]>;

    /// How many names the file has.
    fn links(&self) -> io::Result<u64>;

    /// What the path leads to. After locking, a writer goes on only with [`AtPath::Same`]; a reader stays with what it
    /// has unless it is [`AtPath::Other`]. To a writer, who would take its place, a link to the file is another one.
    fn at_path(&self) -> io::Result<AtPath>;

    /// Bytes that the file takes up on the disk.
    fn blocks(&self) -> io::Result<u64>;

    /// The first position at or after `offset` that may hold anything but zeros; `None` if there is none before the end
    /// of the file. A hint for skipping holes: it may be too early, never too late.
    fn data_after(&self, offset: Offset) -> io::Result<Option<Offset>>;

    /// The file itself, where there is one: for copies inside the kernel. It is not to be locked.
    fn file(&self) -> Option<&File> {
        None
    }

    /// Opens what is at the path now: for readers that follow a compaction. `write` says whether for writing.
    fn reopen(&self, write: bool) -> io::Result<Self>;

    /// Makes a new, empty, locked file without a published name, with `self`'s mode (and owner, where that is allowed),
    /// in the directory of `path`, or of `self`'s own path where that is `None`. It will be published under that path.
    fn create_beside(&self, path: Option<&Path>) -> io::Result<Self>;

    /// Gives a file from [`create_beside`](Medium::create_beside) its name and syncs the directory; the caller has
    /// synced the file. With `replace` it takes the place of what has that name, atomically; without, `AlreadyExists`
    /// says that there is something.
    fn publish(&self, replace: bool) -> io::Result<()>;

    /// Makes the names in the file's directory durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// Removes what creations and compactions of this path that were cut off have left in its directory. Errors do not
    /// matter.
    fn remove_leftovers(&self);

    /// Tries to take the writer's lock, which stays until `self` is dropped; `false` where another handle has it. A
    /// writer tries again for some milliseconds: [`is_locked`](Medium::is_locked) elsewhere may be in the way for a
    /// moment.
    fn try_lock(&self) -> io::Result<bool>;

    /// Lets go of the lock while the file stays in use for reading: blobs outlive their store.
    fn unlock(&self);

    /// Whether a writer, `self` included, has the lock at this moment.
    fn is_locked(&self) -> io::Result<bool>;

    /// Marks the lock, which `self` has: the live page is its holder's own from now on. The mark goes with the lock.
    fn set_ready(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether the lock is marked. A medium without marks says so always; then a reader that opens while a writer
    /// recovers may be shown what the writer before has left.
    fn is_ready(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Whether what was written can be written again where it is, without room and sooner than the first time.
    fn overwrites_in_place(&self) -> bool {
        false
    }

    /// Waits for a moment: between two attempts of a lookup that met a changing index.
    fn pause(&self);

    /// Random bytes that nobody can guess. Tests put others in their place, so that a run can be had again.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }
}
