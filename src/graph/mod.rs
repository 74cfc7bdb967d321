//! The rules of references, links and names: from an operation and the current records to the records afterwards.
//!
//! Nothing here reads a file, takes a lock or knows of commits; what [`Changes::finish`] returns is stored by dumber
//! code.
//!
//! A blob has references; each belongs to a caller, to one inbound link or to one name (both are `held`), so
//! `references - held` belong to callers. A link is a record of its own and stands in two doubly linked lists, that of
//! what `from` links to and that of what links to `to`. The neighbours in a list are named by the ids of the blobs at
//! their other ends. New links go to the head of both. The names stand in one ring: see `names.rs`.
//!
//! | operation | references | held | refused with, in this order |
//! |---|---|---|---|
//! | publish, reference | +1 | | `NotFound` (reference), `TooManyReferences` |
//! | dereference | -1 | | `NotFound`, `NoSpareReference` |
//! | link, not yet linked | | +1 | `NotFound` (to, then from), `NoSpareReference`, `WouldCycle` |
//! | link, linked already | -1 | | `NotFound` (to, then from), `NoSpareReference` |
//! | unlink | -1 | -1 | `NotFound` (to, then from), `NotLinked` |
//! | set name, another's or nobody's | | +1 | `NotFound`, `NoSpareReference` |
//! | set name, the blob's own already | -1 | | `NotFound`, `NoSpareReference` |
//! | remove name; set name, of who had it | -1 | -1 | `NoSuchName` |
//! | release name, whose text can't be read | | -1 | |
//!
//! (The counts are those of `to` where there are two blobs.) A blob without references is removed, and so is every link
//! out of it, as by unlink.
//!
//! An operation that is refused changes nothing. After any other error (damage, a failed read) the changes may be half
//! made: the whole batch has to be thrown away.
//!
//! What comes from [`Records`] may be damaged: counts and neighbours that contradict one another are an
//! error, and no walk over a list is longer than the count that belongs to it.

mod cascade;
mod cycle;
#[cfg(test)]
mod damage_tests;
mod lists;
#[cfg(test)]
mod model;
mod names;
mod outcome;
#[cfg(test)]
mod part_tests;
#[cfg(test)]
mod tests;

pub use cascade::{Left, Removed, space_bytes};
pub(crate) use lists::Side;
pub use names::Named;
pub use outcome::Outcome;

use std::collections::HashMap;

use byteorder::{ByteOrder, LittleEndian};
use foldhash::fast::RandomState;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::name::Name;
use crate::record::{BlobRecord, CountersNow, LinkRecord, NameRecord, Neighbour};

type Map<K, V> = HashMap<K, V, RandomState>;

/// Where current records come from: the index plus what is on its way into it. The calls fail when what they read is
/// damaged or can't be read.
pub trait Records {
    /// The record of the blob with this digest.
    fn blob(&self, digest: &Digest) -> Result<Option<BlobRecord>>;
    /// The record and the digest of the blob whose frame stands at `id`. That there is none is damage.
    fn blob_by_id(&self, id: Offset) -> Result<(BlobRecord, Digest)>;
    /// The record of a link.
    fn link(&self, from: Offset, to: Offset) -> Result<Option<LinkRecord>>;
    /// The tag that the record of this link has or would have.
    fn link_tag(&self, from: Offset, to: Offset) -> u64;
    /// The record of a name.
    fn name(&self, name: &Name) -> Result<Option<NameRecord>>;
    /// The record of a name, or of the anchor, by what leads to it.
    fn name_at(&self, place: Neighbour) -> Result<Option<NameRecord>>;
    /// The tag that the anchor has or would have.
    fn anchor_tag(&self) -> u64;
    /// The error that says that the record of the blob at `at`, or one that it leads to, is damaged.
    fn damaged(&self, at: Offset, what: &str) -> Error;
}

/// A record that the batch has touched.
struct Touched<T> {
    /// As the batch sees it.
    now: T,
    /// Whether it was there before the batch.
    stored: bool,
    changed: bool,
    removed: bool,
}

/// What died: a position in one of the batch's vectors.
#[derive(Clone, Copy)]
enum Removal {
    Blob(usize),
    Link(usize),
    Name(usize),
    /// It came to nothing: the link was made again, or nobody ever saw it.
    Nothing,
}

/// A blob that was stored, with one reference more, whether it is new or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its record now.
    pub blob: BlobRecord,
    /// Whether it was not there before.
    pub is_new: bool,
}

/// One batch's changes, layered over [`Records`].
pub struct Changes<'r, R: Records> {
    base: &'r R,
    counters: CountersNow,
    blobs: Vec<Touched<BlobRecord>>,
    /// The digests of `blobs`.
    digests: Vec<Digest>,
    links: Vec<Touched<LinkRecord>>,
    /// Positions in `blobs`, by the digests' first words. (A map of whole digests is five times as large, and the time
    /// that a large batch takes here is that of touching new memory.)
    by_word: Map<u64, usize>,
    /// From a position in `blobs` to the one before with the same first word: another digest, or the same that died.
    shadowed: Map<usize, usize>,
    /// Positions in `blobs` of those that were stored before, and of new ones that stand in a list or have a name.
    by_id: Map<Offset, usize>,
    /// Positions in `links`, by from and to.
    by_ends: Map<(Offset, Offset), usize>,
    /// The names that the batch has touched, by text or as neighbours, and the anchor.
    names: Vec<Touched<NameRecord>>,
    /// Positions in `names`, by their ids.
    names_by_id: Map<Offset, usize>,
    /// Positions in `names` of those that were asked for by their text; the newest where one died and came back.
    names_by_text: Map<Name, usize>,
    /// After so many removals a cascade stops, and leaves the rest in `left`.
    removals_max: usize,
    /// The last is to go first.
    left: Vec<Left>,
    /// What died, in that order. Of a link, and of the anchor, that died several times the last entry counts, if it is
    /// dead at the end.
    removals: Vec<Removal>,
}

impl<'r, R: Records> Changes<'r, R> {
    /// No changes yet to what `base` holds, which is `counters`.
    #[must_use]
    pub fn new(base: &'r R, counters: CountersNow) -> Changes<'r, R> {
        Changes {
            base,
            counters,
            blobs: Vec::new(),
            digests: Vec::new(),
            links: Vec::new(),
            by_word: Map::default(),
            shadowed: Map::default(),
            by_id: Map::default(),
            by_ends: Map::default(),
            names: Vec::new(),
            names_by_id: Map::default(),
            names_by_text: Map::default(),
            removals_max: usize::MAX,
            left: Vec::new(),
            removals: Vec::new(),
        }
    }

    /// Makes room for so many blobs more; for a batch of known size.
    pub fn reserve(&mut self, blobs: usize) {
        self.blobs.reserve(blobs);
        self.digests.reserve(blobs);
        self.by_word.reserve(blobs);
    }

    /// The record of a blob as the batch sees it so far.
    ///
    /// # Errors
    /// Those of [`Records`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        match self.position(digest) {
            Some(at) => Ok((!self.blobs[at].removed).then_some(self.blobs[at].now)),
            None => self.base.blob(digest),
        }
    }

    /// Adds a blob with one reference, whose frame will stand at `id`. If the digest is there already, it has one more
    /// reference, and the frame is not needed.
    ///
    /// # Errors
    /// [`Error::TooManyReferences`], and those of [`Records`].
    pub fn publish(&mut self, digest: &Digest, tag: u64, id: Offset, length: u64) -> Result<Stored> {
        if let Some(at) = self.find(digest)? {
            return Ok(Stored { blob: self.add_reference(at)?, is_new: false });
        }
        let blob = BlobRecord {
            tag,
            id,
            length,
            algorithm: digest.algorithm(),
            references: 1,
            held: 0,
            first_out: Offset::NONE,
            first_in: Offset::NONE,
            out_count: 0,
        };
        self.touch(blob, digest, false);
        self.counters.blobs = self.counters.blobs.saturating_add(1);
        self.counters.live_bytes = self.counters.live_bytes.saturating_add(length);
        Ok(Stored { blob, is_new: true })
    }

    /// One more reference, which belongs to the caller.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooManyReferences`], and those of [`Records`].
    pub fn reference(&mut self, digest: &Digest) -> Result<BlobRecord> {
        let at = self.need(digest)?;
        self.add_reference(at)
    }

    /// Drops a reference of the caller's. A blob without references is removed, and so on along its links.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoSpareReference`], and those of [`Records`].
    pub fn dereference(&mut self, digest: &Digest) -> Result<Removed> {
        let at = self.need(digest)?;
        self.need_spare(at)?;
        let blob = self.change_blob(at);
        blob.references -= 1;
        if blob.references == 0 { self.remove(at) } else { Ok(Removed::default()) }
    }

    /// Moves a reference that the caller holds on `to` into `from`, which links to it from then on. Where it does so
    /// already, the caller's reference is dropped; nothing can die of that.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoSpareReference`], [`Error::WouldCycle`], and those of [`Records`].
    pub fn link(&mut self, to: &Digest, from: &Digest) -> Result<()> {
        let (to_at, from_at) = (self.need(to)?, self.need(from)?);
        let (to_id, from_id) = (self.blobs[to_at].now.id, self.blobs[from_at].now.id);
        let linked = self.find_link(from_id, to_id)?.is_some();
        self.need_spare(to_at)?;
        if linked {
            self.change_blob(to_at).references -= 1;
            return Ok(());
        }
        self.enter_id(from_at)?;
        self.enter_id(to_at)?;
        if self.would_cycle(to_id, &self.blobs[from_at].now)? {
            return Err(Error::WouldCycle { to: Box::new(*to), from: Box::new(*from) });
        }
        let link = self.add_link(from_id, to_id);
        self.hook(Side::Out, from_at, link)?;
        self.hook(Side::In, to_at, link)?;
        self.change_blob(to_at).held += 1;
        let from = self.change_blob(from_at);
        from.out_count = from.out_count.saturating_add(1);
        self.counters.links = self.counters.links.saturating_add(1);
        Ok(())
    }

    /// Removes a link and drops the reference that it held, so that `to` may die, and so on along its links.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotLinked`], and those of [`Records`].
    pub fn unlink(&mut self, to: &Digest, from: &Digest) -> Result<Removed> {
        let (to_at, from_at) = (self.need(to)?, self.need(from)?);
        let (to_id, from_id) = (self.blobs[to_at].now.id, self.blobs[from_at].now.id);
        let Some(link) = self.find_link(from_id, to_id)? else {
            return Err(Error::NotLinked { to: Box::new(*to), from: Box::new(*from) });
        };
        self.unhook(Side::Out, from_at, link)?;
        let from = self.change_blob(from_at);
        let Some(left) = from.out_count.checked_sub(1).filter(|&left| left > 0 || from.first_out == Offset::NONE)
        else {
            return Err(self.base.damaged(from_id, "the links out are not as many as counted"));
        };
        from.out_count = left;
        if self.drop_link(link, to_at)? { self.remove(to_at) } else { Ok(Removed::default()) }
    }

    /// Where the blob with this digest stands in `blobs`, if it is there; the newest where it died and came back.
    fn position(&self, digest: &Digest) -> Option<usize> {
        let mut at = *self.by_word.get(&first_word(digest))?;
        while self.digests[at] != *digest {
            at = *self.shadowed.get(&at)?;
        }
        Some(at)
    }

    /// The same, if it lives, wherever it is.
    fn find(&mut self, digest: &Digest) -> Result<Option<usize>> {
        if let Some(at) = self.position(digest) {
            return Ok((!self.blobs[at].removed).then_some(at));
        }
        match self.base.blob(digest)? {
            Some(record) => self.admit(record, digest).map(Some),
            None => Ok(None),
        }
    }

    fn need(&mut self, digest: &Digest) -> Result<usize> {
        self.find(digest)?.ok_or(Error::NotFound { digest: *digest })
    }

    /// Where the blob at `id` stands in `blobs`. A list leads to it, so that it is dead or missing is damage.
    fn need_by_id(&mut self, id: Offset) -> Result<usize> {
        match self.by_id.get(&id) {
            Some(&at) if !self.blobs[at].removed => Ok(at),
            Some(_) => Err(self.base.damaged(id, "a link or a name leads to a removed blob")),
            None => {
                let (record, digest) = self.base.blob_by_id(id)?;
                if record.id != id {
                    return Err(self.base.damaged(id, "the blob's record names another frame"));
                }
                self.admit(record, &digest)
            }
        }
    }

    /// Takes in a record from the base, once its counts are checked.
    fn admit(&mut self, record: BlobRecord, digest: &Digest) -> Result<usize> {
        let counts = record.references > 0 && record.held <= record.references;
        let lists = (record.out_count == 0) == (record.first_out == Offset::NONE)
            && (record.held > 0 || record.first_in == Offset::NONE);
        if !counts || !lists {
            return Err(self.base.damaged(record.id, "the counts of a blob's record contradict one another"));
        }
        if self.position(digest).is_some() {
            return Err(self.base.damaged(record.id, "a blob has two records"));
        }
        let at = self.touch(record, digest, true);
        self.enter_id(at)?;
        Ok(at)
    }

    fn touch(&mut self, record: BlobRecord, digest: &Digest, stored: bool) -> usize {
        let at = self.blobs.len();
        if let Some(before) = self.by_word.insert(first_word(digest), at) {
            self.shadowed.insert(at, before);
        }
        self.blobs.push(Touched { now: record, stored, changed: false, removed: false });
        self.digests.push(*digest);
        at
    }

    /// Lets a blob be found by its id, which has to be its own.
    fn enter_id(&mut self, at: usize) -> Result<()> {
        let id = self.blobs[at].now.id;
        match self.by_id.insert(id, at) {
            Some(other) if other != at => Err(self.base.damaged(id, "a frame has two records")),
            _ => Ok(()),
        }
    }

    fn change_blob(&mut self, at: usize) -> &mut BlobRecord {
        let blob = &mut self.blobs[at];
        blob.changed = true;
        &mut blob.now
    }

    fn add_reference(&mut self, at: usize) -> Result<BlobRecord> {
        let Some(more) = self.blobs[at].now.references.checked_add(1) else {
            return Err(Error::TooManyReferences { digest: Box::new(self.digests[at]), limit: u32::MAX.into() });
        };
        let blob = self.change_blob(at);
        blob.references = more;
        Ok(*blob)
    }

    /// Refuses unless a reference of the blob belongs to a caller.
    fn need_spare(&self, at: usize) -> Result<()> {
        let BlobRecord { references, held, .. } = self.blobs[at].now;
        if references > held {
            return Ok(());
        }
        let digest = Box::new(self.digests[at]);
        Err(Error::NoSpareReference { digest, references: references.into(), held: held.into() })
    }
}

fn first_word(digest: &Digest) -> u64 {
    LittleEndian::read_u64(&digest.padded()[..8])
}
