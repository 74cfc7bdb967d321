//! Which of the two superblocks counts, and where the next one goes.
//!
//! A superblock comes out of [`Superblocks::read`] only if its checksum, its identity and its geometry hold, whatever
//! the rest of the file says.

use std::path::Path;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Damage, Error, Result};
use crate::format::{
    CHUNK_ALIGN, DEPTH_MAX, FRAME_ALIGN, IDENTITY_AT, Identity, LIVE_AT, LiveWord, MAGIC, Offset, PAGE_BYTES,
    SEQUENCE_MAX, SPACE_AT, SUPERBLOCKS_AT, Superblock, VERSION, features, segment_bytes,
};
use crate::log::{PLAIN_BYTES, Tail};
use crate::medium::Medium;
use crate::record::CountersNow;
use crate::space::{Space, data_bytes_most};

/// The most slots a segment can have: a segment is then a megabyte.
const SLOTS_MAX: u32 = (1 << 14) - 1;

/// The superblocks of a pack that was looked at.
#[derive(Clone, Copy, Debug)]
pub struct Superblocks {
    /// What never changes.
    pub identity: Identity,
    /// The one that counts.
    pub newest: Superblock,
    /// Which slot it stands in.
    pub slot: usize,
    /// The other one, if it is valid.
    pub older: Option<Superblock>,
    /// The other one, if it is newer and would count, were the file as long as it says.
    pub cut_off: Option<Superblock>,
}

impl Superblocks {
    /// Reads identity and superblocks. Any one of the three identities is enough.
    pub fn read<M: Medium>(medium: &M) -> Result<Superblocks> {
        Superblocks::read_of(medium, false)
    }

    /// The same of a file that was cut off, as if it was as long as its superblocks say.
    pub fn read_cut_off<M: Medium>(medium: &M) -> Result<Superblocks> {
        Superblocks::read_of(medium, true)
    }

    fn read_of<M: Medium>(medium: &M, cut_off: bool) -> Result<Superblocks> {
        let not_a_pack = |reason| Error::NotAPack { path: medium.path().into(), reason };
        let length = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
        if length == 0 {
            return Err(not_a_pack("the file is empty"));
        }
        let identity = read::<M, Identity>(medium, IDENTITY_AT, length)?;
        let copies = [
            read::<M, Superblock>(medium, SUPERBLOCKS_AT[0], length)?,
            read::<M, Superblock>(medium, SUPERBLOCKS_AT[1], length)?,
        ];
        // A writer beside this makes the file longer before a superblock says so, and both may be newer than the length
        // above.
        let length = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
        let of_copies = copies.iter().flatten().filter(|copy| copy.is_sealed()).map(|copy| copy.identity);
        let known = identity.into_iter().chain(of_copies).filter(|identity| identity.magic == MAGIC);
        // A newer version may seal its identity in another way, so one whose seal is not known counts where it says so;
        // but not against one that this version has sealed: a single bit can rot.
        let known: Vec<Identity> = known.collect();
        let found = known.iter().find(|identity| identity.is_sealed() && identity.version.get() <= VERSION).copied();
        let newer = known.iter().find(|identity| identity.version.get() > VERSION).filter(|_| found.is_none());
        if let Some(identity) = newer {
            return Err(Error::UnsupportedVersion {
                path: medium.path().into(),
                found: identity.version.get(),
                supported: VERSION,
            });
        }
        let Some(identity) = found else {
            return Err(if copies.iter().flatten().any(|copy| copy.identity.magic == MAGIC) {
                Error::damaged(medium.path(), 0, "the identity and both superblocks are damaged")
            } else {
                not_a_pack("it does not begin with \"blobpack\"")
            });
        };
        let (end, most) = if cut_off { (u64::MAX, u64::MAX) } else { (length, data_bytes_most(medium)?) };
        let sound = |copy: Option<Superblock>| {
            copy.filter(|copy| copy.identity == identity && is_sound(copy, end) && 8 << copy.depth.get() <= most)
        };
        let [a, b] = copies.map(sound);
        let (newest, slot, older) = match (a, b) {
            (Some(a), Some(b)) if b.sequence.get() > a.sequence.get() => (b, 1, Some(a)),
            (Some(a), b) => (a, 0, b),
            (None, Some(b)) => (b, 1, None),
            (None, None) => return Err(none_counts(medium.path(), identity, copies, length)),
        };
        let cut_off = copies[1 - slot].filter(|copy| {
            copy.identity == identity && is_sound(copy, u64::MAX) && copy.sequence.get() > newest.sequence.get()
        });
        Ok(Superblocks { identity, newest, slot, older, cut_off })
    }

    /// The lowest sequence that a superblock in the file has.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.older.map_or(self.newest.sequence.get(), |older| older.sequence.get())
    }

    /// Writes the next superblock over the one that does not count, and waits until it is durable.
    pub fn write<M: Medium>(&mut self, medium: &M, next: Superblock) -> Result<()> {
        let slot = 1 - self.slot;
        let next = next.sealed();
        if next.end != self.newest.end {
            // What was allocated last may not be written yet: a power cut must not take back a length that this one
            // counts on.
            medium
                .sync_range(Offset(next.end.get() - PAGE_BYTES), PAGE_BYTES)
                .map_err(|e| Error::io("sync the length", medium.path(), e))?;
        }
        medium
            .write_at(SUPERBLOCKS_AT[slot], &[next.as_bytes()], true)
            .map_err(|e| Error::io("write a superblock", medium.path(), e))?;
        (self.older, self.newest, self.slot, self.cut_off) = (Some(self.newest), next, slot, None);
        Ok(())
    }

    /// Writes the one that counts again, the same bytes, and waits until it is durable: its writer may have ended
    /// before it was. The next one goes over the other, which until then is all that a power cut is sure to leave.
    ///
    /// Where the log goes on in a chunk that no jump leads to, so does the other one: the recovery that began the chunk
    /// may have ended between the two.
    pub fn settle<M: Medium>(&mut self, medium: &M) -> Result<()> {
        let newest = self.newest;
        medium
            .write_at(SUPERBLOCKS_AT[self.slot], &[newest.as_bytes()], true)
            .map_err(|e| Error::io("write a superblock again", medium.path(), e))?;
        let begins_chunk = newest.tail.get() == newest.chunk.get() + PLAIN_BYTES;
        if begins_chunk && self.older.is_none_or(|older| older.tail != newest.tail) {
            let sequence = U64::new(newest.sequence.get() + 1);
            self.write(medium, Superblock { sequence, ..newest })?;
        }
        Ok(())
    }

    /// Writes the identity again where its copy at the head of the file is damaged.
    pub fn restore_identity<M: Medium>(&self, medium: &M) -> Result<()> {
        let length = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
        if read::<M, Identity>(medium, IDENTITY_AT, length)? == Some(self.identity) {
            return Ok(());
        }
        medium
            .write_at(IDENTITY_AT, &[self.identity.as_bytes()], true)
            .map_err(|e| Error::io("write the identity", medium.path(), e))
    }

    /// Allocates the pages at the head of a new file; what lies between them stays a hole.
    pub fn allocate_heads<M: Medium>(medium: &M) -> std::io::Result<()> {
        [IDENTITY_AT, SUPERBLOCKS_AT[0], SUPERBLOCKS_AT[1], LIVE_AT]
            .into_iter()
            .try_for_each(|at| medium.allocate(at, PAGE_BYTES))
    }

    /// Writes both superblocks of a new file, one after the other in sequence, so that one bad page does not cost it.
    /// Not synced.
    pub fn write_both<M: Medium>(
        medium: &M,
        blank: &Superblock,
        next: impl Fn(&Superblock) -> Superblock,
    ) -> Result<Superblocks> {
        let first = next(blank).sealed();
        let second = next(&first).sealed();
        for (at, superblock) in SUPERBLOCKS_AT.into_iter().zip([first, second]) {
            medium
                .write_at(at, &[superblock.as_bytes()], false)
                .map_err(|e| Error::io("write a superblock", medium.path(), e))?;
        }
        Ok(Superblocks { identity: blank.identity, newest: second, slot: 1, older: Some(first), cut_off: None })
    }

    /// Refuses what this code does not know: features without which nothing can be read, or, for writing, written.
    pub fn check_features<M: Medium>(&self, medium: &M, write: bool) -> Result<()> {
        let unknown = self.newest.incompatible.get() & !features::INCOMPATIBLE
            | if write { self.newest.read_only_compatible.get() } else { 0 };
        if unknown == 0 {
            return Ok(());
        }
        Err(Error::UnsupportedFeature { path: medium.path().into(), flags: unknown })
    }
}

fn read<M: Medium, T: FromBytes + IntoBytes>(medium: &M, at: Offset, length: u64) -> Result<Option<T>> {
    if at.0 + size_of::<T>() as u64 > length {
        return Ok(None);
    }
    let mut value = T::new_zeroed();
    match medium.read_at(at, value.as_mut_bytes()) {
        Ok(()) => Ok(Some(value)),
        // An unreadable sector costs one copy, not the pack.
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(None),
        Err(error) => Err(Error::io("read a superblock", medium.path(), error)),
    }
}

/// Why neither of two superblocks counts: both are damaged, or the file was cut off.
fn none_counts(path: &Path, identity: Identity, copies: [Option<Superblock>; 2], length: u64) -> Error {
    // All that they lack is the rest of the file: nothing that they name lies behind the end that they know.
    let whole = copies.iter().flatten().filter(|copy| copy.identity == identity && is_sound(copy, u64::MAX));
    match whole.map(|copy| copy.end.get()).max() {
        Some(end) => Error::Damaged(Box::new(Damage {
            path: path.into(),
            offset: length,
            what: format!("the file was cut off: it has {length} bytes, and its checkpoint says {end}"),
            remedy: Some("`blobpack rebuild` makes it whole again, if all of its log is there"),
        })),
        None if length < SPACE_AT.0 => Error::damaged(path, length, "the file was cut off"),
        None => Error::damaged(path, SUPERBLOCKS_AT[0].0, "both superblocks are damaged"),
    }
}

/// Checksum and geometry: all positions lie inside the file, aligned and in order.
fn is_sound(copy: &Superblock, length: u64) -> bool {
    let end = copy.end.get();
    let (chunk, chunk_end, tail) = (Offset(copy.chunk.get()), copy.chunk_end.get(), Offset(copy.tail.get()));
    let (directory, depth) = (Offset(copy.directory.get()), copy.depth.get());
    let (slots, commit) = (copy.slots.get(), Offset(copy.commit.get()));
    copy.is_sealed()
        && copy.sequence.get().max(copy.epoch.get()) <= SEQUENCE_MAX
        && end <= length
        && chunk >= SPACE_AT
        && chunk.is_aligned(CHUNK_ALIGN)
        && chunk_end <= end
        && tail.is_aligned(FRAME_ALIGN)
        && tail.0 >= chunk.0 + PLAIN_BYTES
        && tail.0 <= chunk_end
        && commit < tail
        && depth <= DEPTH_MAX
        && (1..=SLOTS_MAX).contains(&slots)
        && segment_bytes(slots) <= end
        && directory >= SPACE_AT
        && directory.is_aligned(PAGE_BYTES)
        && directory.0.checked_add(8 << depth).is_some_and(|directory_end| directory_end <= end)
        && copy.run.get() < end
}

/// A superblock for this state of the pack, with the sequence after `before`'s and its features. Where there are names
/// it says so, whatever that one said: only a forged log has names that no superblock announces.
#[must_use]
pub fn next_superblock(
    before: &Superblock,
    tail: &Tail,
    space: &Space,
    live: LiveWord,
    counters: CountersNow,
) -> Superblock {
    let names = if counters.names > 0 { features::NAMES } else { 0 };
    Superblock {
        sequence: U64::new(before.sequence.get() + 1),
        epoch: U64::new(tail.epoch),
        end: U64::new(space.end().0),
        chunk: U64::new(tail.chunk.0),
        chunk_end: U64::new(tail.chunk_end),
        tail: U64::new(tail.at.0),
        commit: U64::new(tail.commit.0),
        commit_checksum: U32::new(tail.commit_checksum),
        directory: U64::new(live.directory.0),
        depth: U32::new(live.depth),
        run: U64::new(space.run().0),
        incompatible: U64::new(before.incompatible.get() | names),
        counters: counters.into(),
        ..*before
    }
}

#[cfg(test)]
mod tests;
