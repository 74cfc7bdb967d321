//! The store: what a user holds. Everything here delegates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::{Operation, Operations};
use crate::blob::Blob;
use crate::commit::Done;
use crate::compact::{self, CompactOptions, Compacted, Progress};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::format::LARGE_BYTES;
use crate::graph::Side;
use crate::list::{Descriptors, Links, List};
use crate::medium::{Disk, Medium};
use crate::name::Name;
use crate::names;
use crate::pack::{Shared, described};
use crate::reader::Reader;
use crate::record::BlobRecord;
use crate::recovery::Recovery;
use crate::verify::{self, Verified};
use crate::writer::{BlobWriter, Staged};

mod batch;
#[cfg(all(debug_assertions, not(any(test, loom, shuttle, fuzzing))))]
pub mod instances;
mod look;
mod options;
mod removed;
mod stats;

pub use batch::{Batch, Outcome};
#[doc(hidden)]
pub use options::How;
pub use options::OpenOptions;
pub use removed::Removed;
pub use stats::Stats;

pub use crate::record::Descriptor;

/// A content-addressed blob store in one pack file.
///
/// Handles are cheap to clone and can be used from any thread. A checkpoint that is due is made in a thread of its own,
/// beside whatever is done meanwhile; a batch of thousands has a second one while it is committed. The last handle to
/// be dropped makes a checkpoint too, as [`close`](Store::close) does.
///
/// ```
/// use blobpack::Store;
/// let store = Store::temporary()?;
/// let layer = store.put(b"a layer")?;
/// let manifest = store.put(b"a manifest")?;
/// store.link(&layer.digest, &manifest.digest)?; // the manifest owns the layer's reference now
/// let removed = store.dereference(&manifest.digest)?;
/// assert_eq!(removed.blobs(), 2);
/// # Ok::<(), blobpack::Error>(())
/// ```
#[doc(alias = "NewLocalStore")]
pub struct Store<M: Medium = Disk> {
    shared: Arc<Shared<M>>,
}

impl<M: Medium> Clone for Store<M> {
    fn clone(&self) -> Store<M> {
        Store { shared: self.shared.clone() }
    }
}

impl<M: Medium> std::fmt::Debug for Store<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path()).finish()
    }
}

impl Store {
    /// Opens the pack at `path`, or creates it. A directory means the file `blobs.pack` inside it.
    ///
    /// The open is safe under one condition: no other program changes or truncates the file. blobpack itself never
    /// rewrites committed bytes. Who can't promise it reads with [`Blob::read_at`].
    ///
    /// # Errors
    /// [`Error::Locked`] where it is open for writing already, in another process or in this one; [`Error::NotAPack`],
    /// [`Error::Damaged`] and others for what is no sound pack.
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        OpenOptions::new().open(path)
    }

    /// Ways to open a pack.
    #[must_use]
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// A new store in a temporary directory, which goes away with its last handle. For tests and examples.
    ///
    /// # Errors
    /// Those of creating a file there.
    pub fn temporary() -> Result<Store> {
        options::temporary()
    }
}

impl<M: Medium> Store<M> {
    /// The pack's path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.shared.source().medium().path().to_path_buf()
    }

    /// The store's name for itself: random, made at its creation, and kept by compactions.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.shared.source().identity().uuid
    }

    /// Makes a checkpoint and lets go of this handle. After the last one the next open has nothing to replay. Readers,
    /// lists, batches, writers and staged blobs that live on keep the pack open, and other writers out; blobs don't.
    ///
    /// # Errors
    /// Those of [`checkpoint`](Store::checkpoint). Nothing that was acknowledged is lost then.
    pub fn close(self) -> Result<()> {
        match self.shared.pack().writer() {
            Ok(writer) => writer.checkpoint(),
            // Open for reading only: there is nothing to make durable.
            Err(_) => Ok(()),
        }
    }

    /// Gets a blob.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not stored.
    #[doc(alias = "Get")]
    #[inline]
    pub fn get(&self, digest: &Digest) -> Result<Blob<M>> {
        match self.find(digest)? {
            Some(blob) => Ok(blob),
            None => Err(Error::NotFound { digest: *digest }),
        }
    }

    /// Gets a blob, or `None` where it is not stored.
    ///
    /// # Errors
    /// Those of a damaged or unreadable pack.
    #[inline]
    pub fn find(&self, digest: &Digest) -> Result<Option<Blob<M>>> {
        self.shared.with_source(|source| Blob::find(source, digest))
    }

    /// Whether a blob is stored.
    ///
    /// # Errors
    /// Those of a damaged or unreadable pack.
    pub fn contains(&self, digest: &Digest) -> Result<bool> {
        self.shared.with_source(|source| {
            source.ask(|view| Ok(view.find_near_home(digest).is_some() || view.find_blob(digest)?.is_some()))
        })
    }

    /// What the store knows of a blob.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not stored.
    pub fn descriptor(&self, digest: &Digest) -> Result<Descriptor> {
        Ok(Descriptor::new(*digest, &self.record(digest)?))
    }

    fn record(&self, digest: &Digest) -> Result<BlobRecord> {
        self.shared.source().ask(|view| view.blob_record(digest))?.ok_or(Error::NotFound { digest: *digest })
    }

    /// How many references callers hold on a blob, as far as the pack knows; 0 where it is not stored.
    #[cfg(feature = "oci")]
    pub(crate) fn spare_references(&self, digest: &Digest) -> Result<u32> {
        let record = self.shared.source().ask(|view| view.blob_record(digest))?;
        Ok(record.map_or(0, |blob| blob.references.saturating_sub(blob.held)))
    }

    /// The digest that a text means: a whole digest, or the first 8 or more of its hex digits after the label, or a
    /// name. What begins with the label of a supported algorithm and a colon is one of the first two, everything else
    /// is a name. A prefix is looked for among all blobs.
    ///
    /// # Errors
    /// [`Error::InvalidDigest`] where it begins as a digest and is neither that nor a prefix, or no blob begins so,
    /// [`Error::AmbiguousPrefix`] where several do; [`Error::NoSuchName`], and [`Error::InvalidName`] for what can't be
    /// one.
    pub fn resolve(&self, text: &str) -> Result<Digest> {
        let Some((algorithm, hex)) = Name::digest_like(text) else { return self.name(&text.parse()?) };
        let is_prefix = hex.len() < 2 * algorithm.digest_bytes()
            && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !is_prefix {
            return text.parse();
        }
        if hex.len() < 8 {
            return Err(Error::InvalidDigest { text: text.into(), reason: "it takes at least 8 hex digits" });
        }
        let mut found: Option<Digest> = None;
        for digest in self.list() {
            let digest = digest?;
            if digest.to_string().starts_with(text) {
                if let Some(first) = found {
                    let (first, second) = (Box::new(first), Box::new(digest));
                    return Err(Error::AmbiguousPrefix { prefix: text.into(), first, second });
                }
                found = Some(digest);
            }
        }
        found.ok_or_else(|| Error::InvalidDigest { text: text.into(), reason: "no blob's digest begins so" })
    }

    /// The blob that has a name.
    ///
    /// # Errors
    /// [`Error::NoSuchName`] where none has it.
    pub fn name(&self, name: &Name) -> Result<Digest> {
        self.find_name(name)?.ok_or_else(|| Error::NoSuchName { name: name.clone() })
    }

    /// The blob that has a name, or `None` where none has it.
    ///
    /// # Errors
    /// Those of a damaged or unreadable pack.
    pub fn find_name(&self, name: &Name) -> Result<Option<Digest>> {
        names::find(&self.shared.source(), name)
    }

    /// All names with the blobs that have them, sorted by name. Names that come or go meanwhile may or may not be among
    /// them; all others are. The cost is that of the names; blobs without names are not looked at.
    ///
    /// # Errors
    /// Those of a damaged or unreadable pack.
    pub fn names(&self) -> Result<Vec<(Name, Digest)>> {
        names::all(&self.shared.pack())
    }

    /// A reader: the fastest way to many blobs.
    ///
    /// # Errors
    /// Those of a damaged or unreadable pack.
    pub fn reader(&self) -> Result<Reader<M>> {
        Reader::new(self.shared.clone())
    }

    /// All digests, in an order that does not change while the store lives, compactions included. Blobs that come or go
    /// while it runs may or may not be among them; all others are, once.
    ///
    /// Where the disk has lost what a blob is, its error stands in its place, and others follow. Where it lost what the
    /// index says of many, an error is the end.
    #[doc(alias = "List")]
    pub fn list(&self) -> List<M> {
        List::new(self.shared.clone(), None)
    }

    /// The digests that [`list`](Store::list) gives after this one, whether it is stored or not.
    pub fn list_after(&self, digest: &Digest) -> List<M> {
        List::new(self.shared.clone(), Some(*digest))
    }

    /// All descriptors, in the order of [`list`](Store::list).
    pub fn descriptors(&self) -> Descriptors<M> {
        Descriptors::new(self.shared.clone(), None)
    }

    /// The descriptors after this digest.
    pub fn descriptors_after(&self, digest: &Digest) -> Descriptors<M> {
        Descriptors::new(self.shared.clone(), Some(*digest))
    }

    /// The blobs that this one links to; the newest link comes first.
    /// Changes while it runs may end it early: see [`Links`].
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not stored.
    pub fn links(&self, digest: &Digest) -> Result<Links<M>> {
        self.list_links(digest, Side::Out)
    }

    /// The blobs that link to this one, who keep it alive; the newest link comes first.
    /// Changes while it runs may end it early: see [`Links`].
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not stored.
    pub fn referrers(&self, digest: &Digest) -> Result<Links<M>> {
        self.list_links(digest, Side::In)
    }

    fn list_links(&self, digest: &Digest, side: Side) -> Result<Links<M>> {
        Links::of(self.shared.source(), digest, side)?.ok_or(Error::NotFound { digest: *digest })
    }

    /// Stores a blob under its SHA-256, with one reference; where it is stored already, adds one.
    ///
    /// # Errors
    /// A full disk ([`Error::NoSpace`]), a store open for reading only, and others; nothing is changed then.
    pub fn put(&self, bytes: &[u8]) -> Result<Descriptor> {
        self.put_with(Algorithm::Sha256, bytes)
    }

    /// Stores a blob under its digest by this algorithm.
    ///
    /// # Errors
    /// As for [`put`](Store::put).
    pub fn put_with(&self, algorithm: Algorithm, bytes: &[u8]) -> Result<Descriptor> {
        if bytes.len() as u64 >= LARGE_BYTES {
            return self.shared.commit_staged(Staged::whole(self.shared.clone(), algorithm, bytes)?);
        }
        let pack = self.shared.pack();
        pack.writer()?.check()?;
        let mut operations = Operations::default();
        operations.put(pack.source().tagger(), algorithm, bytes)?;
        described(self.shared.commit(operations)?.1)
    }

    /// A writer for a blob of unknown length. Any number may be open at once.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], and [`Error::Poisoned`] after an earlier failure.
    #[doc(alias = "NewWriter")]
    pub fn writer(&self, algorithm: Algorithm) -> Result<BlobWriter<M>> {
        BlobWriter::new(self.shared.clone(), algorithm)
    }

    /// Adds a reference.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::TooManyReferences`] at 2^32 - 1.
    #[doc(alias = "Ref")]
    pub fn reference(&self, digest: &Digest) -> Result<Descriptor> {
        described(self.shared.commit(Operation::Reference(*digest).into())?.1)
    }

    /// Drops a reference that the caller holds. At zero the blob is removed, and what it links to loses a reference in
    /// turn.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NoSpareReference`] where links and names hold all that there are.
    #[doc(alias = "Deref")]
    pub fn dereference(&self, digest: &Digest) -> Result<Removed<M>> {
        self.give_up(Operation::Dereference(*digest).into())
    }

    /// Does the one operation that gives a reference up.
    fn give_up(&self, operations: Operations) -> Result<Removed<M>> {
        let (pack, done) = self.shared.commit(operations)?;
        match done.into_iter().next() {
            Some(Done::Removed(removed)) => Ok(Removed::new(pack.source().clone(), removed)),
            _ => unreachable!("giving up a reference says what it removed"),
        }
    }

    /// Links: `from` keeps `to` alive from now on. This *moves* a reference on `to` that the caller holds into `from`;
    /// where the two are linked already the caller's reference is consumed all the same.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NoSpareReference`] where links and names hold all references on `to`;
    /// [`Error::WouldCycle`].
    #[doc(alias = "Link")]
    pub fn link(&self, to: &Digest, from: &Digest) -> Result<()> {
        self.shared.commit(Operation::Link(*to, *from).into()).map(drop)
    }

    /// Removes a link, and drops the reference that it held.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotLinked`].
    #[doc(alias = "Unlink")]
    pub fn unlink(&self, to: &Digest, from: &Digest) -> Result<Removed<M>> {
        self.give_up(Operation::Unlink(*to, *from).into())
    }

    /// Gives a blob a name, which keeps it alive from now on. This *moves* a reference on the blob that the caller
    /// holds into the name. What had the name before loses the reference that the name held on it, as by
    /// [`dereference`](Store::dereference): the result says what died of that. Where the blob has the name already the
    /// caller's reference is consumed all the same. A blob can have any number of names.
    ///
    /// ```
    /// use blobpack::{Name, Store};
    /// let store = Store::temporary()?;
    /// let name: Name = "library/alpine:3.20".parse()?;
    /// let old = store.put(b"an image")?.digest;
    /// store.set_name(&name, &old)?;
    /// let new = store.put(b"a newer image")?.digest;
    /// let removed = store.set_name(&name, &new)?;
    /// assert_eq!((removed.blobs(), store.name(&name)?), (1, new));
    /// # Ok::<(), blobpack::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NoSpareReference`] where links and names hold all references on the blob.
    pub fn set_name(&self, name: &Name, digest: &Digest) -> Result<Removed<M>> {
        let mut operations = Operations::default();
        operations.set_name(self.shared.source().tagger(), name, digest);
        self.give_up(operations)
    }

    /// Removes a name, and drops the reference that it held.
    ///
    /// # Errors
    /// [`Error::NoSuchName`].
    pub fn remove_name(&self, name: &Name) -> Result<Removed<M>> {
        self.give_up(Operation::RemoveName(name.clone()).into())
    }

    /// A batch: operations that happen together or not at all, for the price of one sync.
    #[must_use]
    pub fn batch(&self) -> Batch<M> {
        Batch::new(self.shared.clone())
    }

    /// Makes the index durable as of now, so that the next open need not replay what was committed before. Commits are
    /// durable without it (but for [`Durability::Process`](crate::Durability::Process)).
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; those of the disk, after which the handle writes nothing more.
    pub fn checkpoint(&self) -> Result<()> {
        self.shared.pack().writer()?.checkpoint()
    }

    /// What opening the pack replayed and dropped. Opening it for reading only changes nothing, and reports nothing.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.shared.pack().recovery().clone()
    }

    /// Gives back the space of removed blobs: writes what lives into a new file and puts it in the place of the old
    /// one. Readers and blobs that are held go on; commits wait. Each payload is checked against its digest.
    ///
    /// The old file's space is free once no reader, no blob and nothing else that was got before (a batch, a list, what
    /// a removal returned) holds it any more. A long file is closed by a thread, so that may be a moment after this
    /// returns, at the latest when the store is closed; not where the file system has less room left than the file took
    /// up (of quotas nothing is known).
    ///
    /// # Errors
    /// [`Error::InUse`] beside open writers and staged blobs; [`Error::HardLinks`]; [`Error::Moved`];
    /// [`Error::NoSpace`] with what is needed; [`Error::Damaged`] for a payload that does not match its digest. The
    /// pack is as it was then.
    pub fn compact(&self) -> Result<Compacted> {
        self.compact_with(CompactOptions::new())
    }

    /// Compacts in a certain way.
    ///
    /// # Errors
    /// As for [`compact`](Store::compact); [`Error::AlreadyExists`] where the output does.
    pub fn compact_with(&self, options: CompactOptions) -> Result<Compacted> {
        compact::compact(&self.shared, options)
    }

    /// Reads and checks everything; see [`Verified`]. Damage is listed, not an error.
    ///
    /// # Errors
    /// Only what keeps it from looking at all; and [`Error::Busy`] where this handle doesn't write, and in each of
    /// several attempts a writer in another process came in the middle.
    pub fn verify(&self) -> Result<Verified> {
        self.verify_with(&mut |_| {})
    }

    /// Verifies, and tells how far it has come. Commits wait meanwhile, so one from in there would wait for ever, and
    /// so would a new writer, and whatever else makes commits wait.
    ///
    /// # Errors
    /// As for [`verify`](Store::verify).
    pub fn verify_with(&self, progress: &mut dyn FnMut(Progress)) -> Result<Verified> {
        verify::verify(&self.shared, progress)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<M>> {
        &self.shared
    }

    /// How often segments were copied and split and the directory doubled since the pack was opened: for tests that
    /// want to see it happen.
    #[doc(hidden)]
    pub fn index_events(&self) -> Result<crate::index::table::Events> {
        Ok(self.shared.pack().writer()?.events())
    }
}
