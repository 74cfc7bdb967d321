//! The public batch.

use std::sync::Arc;

use crate::batch::{Operation, Operations};
use crate::commit::Done;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::format::LARGE_BYTES;
use crate::medium::{Disk, Medium};
use crate::name::Name;
use crate::pack::{Pack, Shared};
use crate::record::Descriptor;
use crate::store::Removed;
use crate::writer::{Staged, StagedGuard};

/// Operations that happen together or not at all.
///
/// Later operations see what earlier ones did. Dropping it without [`commit`](Batch::commit) does nothing. Small blobs
/// wait in memory, of which the store keeps up to 64 MiB for its next batch; blobs of 64 KiB and more wait in the pack.
/// What a batch removes takes half a KiB of memory a blob until it is committed; by itself a removal takes little.
///
/// ```
/// use blobpack::Store;
/// let store = Store::temporary()?;
/// let mut batch = store.batch();
/// let layer = batch.put(b"a layer")?;
/// let manifest = batch.put(b"a manifest")?;
/// batch.link(&layer, &manifest);
/// batch.commit()?;
/// assert_eq!(store.descriptor(&manifest)?.link_count, 1);
/// # Ok::<(), blobpack::Error>(())
/// ```
pub struct Batch<M: Medium = Disk> {
    pack: Arc<Pack<M>>,
    operations: Operations,
    staged: Vec<StagedGuard<M>>,
    shared: Arc<Shared<M>>,
}

/// What one operation of a batch came to.
#[non_exhaustive]
pub enum Outcome<M: Medium = Disk> {
    /// A blob was stored or referenced.
    Blob(Descriptor),
    /// A link is there.
    Linked,
    /// A reference was given up, or moved into a name.
    Removed(Removed<M>),
}

impl<M: Medium> Batch<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>) -> Batch<M> {
        Batch { pack: shared.pack(), operations: shared.operations(), shared, staged: Vec::new() }
    }

    /// Stores a blob under its SHA-256, with one reference; where it is stored already, adds one. Returns its digest.
    ///
    /// # Errors
    /// For a blob of 64 KiB or more those of writing it. The batch can go on without it.
    pub fn put(&mut self, bytes: &[u8]) -> Result<Digest> {
        self.put_with(Algorithm::Sha256, bytes)
    }

    /// Stores a blob under its digest by this algorithm.
    ///
    /// # Errors
    /// As for [`put`](Batch::put).
    pub fn put_with(&mut self, algorithm: Algorithm, bytes: &[u8]) -> Result<Digest> {
        if (bytes.len() as u64) < LARGE_BYTES {
            return self.operations.put(self.pack.source().tagger(), algorithm, bytes);
        }
        self.add(Staged::whole(self.shared.clone(), algorithm, bytes)?)
    }

    /// Stores a blob that a writer has [staged](crate::BlobWriter::stage). Returns its digest.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`] for one of another store.
    pub fn add(&mut self, staged: Staged<M>) -> Result<Digest> {
        // The staged blob itself holds off a compaction, so the store's pack is the one it was written to, or never
        // was.
        if !staged.is_of(&self.shared.pack()) {
            return Err(Error::ForeignHandle { what: "the staged blob" });
        }
        let digest = staged.digest();
        self.staged.push(staged.add_to(&mut self.operations)?);
        Ok(digest)
    }

    /// Adds a reference; see [`Store::reference`](crate::Store::reference).
    pub fn reference(&mut self, digest: &Digest) -> &mut Self {
        self.push(Operation::Reference(*digest))
    }

    /// Drops a reference; see [`Store::dereference`](crate::Store::dereference).
    pub fn dereference(&mut self, digest: &Digest) -> &mut Self {
        self.push(Operation::Dereference(*digest))
    }

    /// Links; see [`Store::link`](crate::Store::link).
    pub fn link(&mut self, to: &Digest, from: &Digest) -> &mut Self {
        self.push(Operation::Link(*to, *from))
    }

    /// Unlinks; see [`Store::unlink`](crate::Store::unlink).
    pub fn unlink(&mut self, to: &Digest, from: &Digest) -> &mut Self {
        self.push(Operation::Unlink(*to, *from))
    }

    /// Gives a blob a name; see [`Store::set_name`](crate::Store::set_name).
    pub fn set_name(&mut self, name: &Name, digest: &Digest) -> &mut Self {
        self.operations.set_name(self.pack.source().tagger(), name, digest);
        self
    }

    /// Removes a name; see [`Store::remove_name`](crate::Store::remove_name).
    pub fn remove_name(&mut self, name: &Name) -> &mut Self {
        self.push(Operation::RemoveName(name.clone()))
    }

    fn push(&mut self, operation: Operation) -> &mut Self {
        self.operations.list.push(operation);
        self
    }

    /// How many operations it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.list.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.list.is_empty()
    }

    /// Does all operations, or none. Returns what each came to, in their order.
    ///
    /// # Errors
    /// [`Error::Batch`] names the first operation that can't be done (a batch of one: its error as it is); nothing
    /// happened then. Errors of the disk as for [`Store::put`](crate::Store::put).
    pub fn commit(self) -> Result<Vec<Outcome<M>>> {
        let (pack, done) = self.shared.commit(self.operations)?;
        drop(self.staged);
        let outcome = |done| match done {
            Done::Blob(descriptor) => Outcome::Blob(descriptor),
            Done::Linked => Outcome::Linked,
            Done::Removed(removed) => Outcome::Removed(Removed::new(pack.source().clone(), removed)),
        };
        Ok(done.into_iter().map(outcome).collect())
    }
}

impl<M: Medium> std::fmt::Debug for Outcome<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Blob(descriptor) => f.debug_tuple("Blob").field(descriptor).finish(),
            Outcome::Linked => f.write_str("Linked"),
            Outcome::Removed(removed) => f.debug_tuple("Removed").field(removed).finish(),
        }
    }
}

impl<M: Medium> std::fmt::Debug for Batch<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("operations", &self.len()).finish()
    }
}
