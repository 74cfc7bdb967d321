//! The store: what a user holds. Everything here delegates.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use crate::batch::Operations;
use crate::blob::Blob;
use crate::commit::{Done, Writer};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::format::LARGE_BYTES;
use crate::graph;
use crate::list::{Descriptors, Links, List};
use crate::medium::{Disk, Medium};
use crate::reader::Reader;
use crate::record::BlobRecord;
use crate::recovery::Recovery;
use crate::source::Source;
use crate::writer::{BlobWriter, Staged};

mod batch;
mod options;
mod stats;

pub use batch::{Batch, Outcome};
#[doc(hidden)]
pub use options::How;
pub use options::OpenOptions;
pub use stats::Stats;

/// One open pack file.
pub struct Pack<M: Medium> {
    source: Arc<Source<M>>,
    writer: Option<Writer<M>>,
    recovery: Recovery,
}

impl<M: Medium> Drop for Pack<M> {
    /// Blobs that are still held keep the file, but not the lock. Writers and staged blobs, which may yet give space back, keep
    /// the pack and with it the lock.
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.medium().unlock();
        }
    }
}

impl<M: Medium> Pack<M> {
    /// The writing half.
    pub(crate) fn writer(&self) -> Result<&Writer<M>> {
        self.writer.as_ref().ok_or_else(|| Error::ReadOnly { path: self.source.medium().path().into() })
    }

    pub(crate) fn source(&self) -> &Arc<Source<M>> {
        &self.source
    }

    pub(crate) fn marker(&self) -> u64 {
        self.source.identity().marker.get()
    }
}

/// What all handles of a store share.
pub struct Shared<M: Medium> {
    pack: ArcSwap<Pack<M>>,
    options: OpenOptions,
    /// Views of files before a compaction that readers may still hold: for statistics.
    old: Mutex<Vec<std::sync::Weak<crate::view::View<M>>>>,
    /// Of a temporary store; removed with it.
    _directory: Option<tempdir::TemporaryDirectory>,
}

impl<M: Medium> Shared<M> {
    pub(crate) fn pack(&self) -> Arc<Pack<M>> {
        self.pack.load_full()
    }

    pub(crate) fn source(&self) -> Arc<Source<M>> {
        self.pack.load().source.clone()
    }

    pub(crate) fn options(&self) -> &OpenOptions {
        &self.options
    }

    /// Puts a compacted pack in place.
    pub(crate) fn replace(&self, pack: Pack<M>) {
        let old = self.pack.swap(Arc::new(pack));
        old.source.medium().unlock();
        let mut views = old.source.held_views();
        views.push(old.source.view());
        drop(old);
        let mut held = self.old.lock().expect("nothing panics under this lock");
        held.retain(|view| view.strong_count() > 0);
        held.extend(views.iter().map(Arc::downgrade));
    }

    /// Commits to the pack that is current, going along with a compaction in between.
    pub(crate) fn commit(&self, mut operations: Operations) -> Result<(Arc<Pack<M>>, Vec<Done>)> {
        loop {
            let pack = self.pack();
            match pack.writer()?.commit(operations)? {
                Ok(done) => return Ok((pack, done)),
                // A compaction took this pack's place between the two lines, or does in a moment.
                Err(back) => operations = back,
            }
            std::thread::yield_now();
        }
    }

    /// Commits one operation.
    fn commit_one(&self, operation: crate::batch::Operation) -> Result<(Arc<Pack<M>>, Done)> {
        let (pack, done) = self.commit(Operations { list: vec![operation], arena: Vec::new() })?;
        Ok((pack, done.into_iter().next().expect("one operation has one result")))
    }

    pub(crate) fn commit_staged(&self, staged: Staged<M>) -> Result<Descriptor> {
        let mut operations = Operations::default();
        let guard = staged.add_to(&mut operations)?;
        let (_, done) = self.commit(operations)?;
        drop(guard);
        described(done)
    }
}

fn described(done: Vec<Done>) -> Result<Descriptor> {
    match done.into_iter().next() {
        Some(Done::Blob(digest, blob)) => Ok(Descriptor::new(digest, &blob)),
        _ => unreachable!("storing a blob, or a reference on it, describes it"),
    }
}

impl<M: Medium> Drop for Shared<M> {
    /// Checkpoints, so that the next open has nothing to replay. Nothing is lost if it can't.
    fn drop(&mut self) {
        if let Some(writer) = &self.pack.load().writer {
            let _ = writer.checkpoint();
        }
    }
}

/// What a store knows of a blob, as of the moment it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Descriptor {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its references: those that callers hold, and one for each blob that links to it.
    pub ref_count: u64,
    /// How many blobs it links to.
    pub link_count: u64,
}

impl Descriptor {
    pub(crate) fn new(digest: Digest, blob: &BlobRecord) -> Descriptor {
        Descriptor { digest, size: blob.length, ref_count: blob.references.into(), link_count: blob.out_count }
    }
}

/// What giving up a reference removed.
pub struct Removed<M: Medium = Disk> {
    source: Arc<Source<M>>,
    what: graph::Removed,
}

impl<M: Medium> Removed<M> {
    pub(crate) fn new(source: Arc<Source<M>>, what: graph::Removed) -> Removed<M> {
        Removed { source, what }
    }

    /// How many blobs: 0 where references remain.
    #[must_use]
    pub fn blobs(&self) -> u64 {
        self.what.blobs()
    }

    /// Whether nothing was removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.what.ids.is_empty()
    }

    /// Bytes of the file that a compaction can give back because of this removal.
    #[must_use]
    pub fn reclaimable_bytes(&self) -> u64 {
        self.what.frame_bytes
    }

    /// The digests, parents before what they linked to, read one by one from the file.
    pub fn digests(&self) -> impl Iterator<Item = Result<Digest>> + '_ {
        self.what.ids.iter().map(|&id| self.source.ask(|view| view.digest_at(id)))
    }
}

impl<M: Medium> std::fmt::Debug for Removed<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Removed")
            .field("blobs", &self.blobs())
            .field("reclaimable_bytes", &self.reclaimable_bytes())
            .finish()
    }
}

/// A content-addressed blob store in one pack file.
///
/// Handles are cheap to clone and can be used from any thread. The last one to be dropped makes a checkpoint, as
/// [`close`](Store::close) does.
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
    /// [`Error::Locked`] where another process writes to it; [`Error::NotAPack`], [`Error::Damaged`] and others for what
    /// is no sound pack.
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

    /// Makes a checkpoint and lets go of this handle. After the last one the next open has nothing to replay.
    ///
    /// # Errors
    /// Those of [`checkpoint`](Store::checkpoint). Nothing that was acknowledged is lost then.
    pub fn close(self) -> Result<()> {
        match &self.shared.pack().writer {
            Some(writer) => writer.checkpoint(),
            None => Ok(()),
        }
    }

    /// Gets a blob.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not stored.
    #[doc(alias = "Get")]
    pub fn get(&self, digest: &Digest) -> Result<Blob<M>> {
        self.find(digest)?.ok_or(Error::NotFound { digest: *digest })
    }

    /// Gets a blob, or `None` where it is not stored.
    ///
    /// # Errors
    /// Those of a damaged or unreadable pack.
    pub fn find(&self, digest: &Digest) -> Result<Option<Blob<M>>> {
        Blob::find(&self.shared.source(), digest)
    }

    /// Whether a blob is stored.
    ///
    /// # Errors
    /// Those of a damaged or unreadable pack.
    pub fn contains(&self, digest: &Digest) -> Result<bool> {
        Ok(self.shared.source().ask(|view| view.find_blob(digest))?.is_some())
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

    /// The digest that a text means: a whole digest, or the first 8 or more of its hex digits after the label.
    /// A prefix is looked for among all blobs.
    ///
    /// # Errors
    /// [`Error::InvalidDigest`] where it is neither or no blob begins so, [`Error::AmbiguousPrefix`] where several do.
    pub fn resolve(&self, text: &str) -> Result<Digest> {
        let (label, hex) = text.split_once(':').unwrap_or((text, ""));
        let algorithm = Algorithm::from_label(label);
        let is_prefix = algorithm.is_some_and(|algorithm| (8..2 * algorithm.digest_bytes()).contains(&hex.len()))
            && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !is_prefix {
            return text.parse();
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

    /// A reader: the fastest way to many blobs.
    ///
    /// # Errors
    /// Those of a damaged or unreadable pack.
    pub fn reader(&self) -> Result<Reader<M>> {
        Reader::new(self.shared.clone())
    }

    /// All digests, in an order that does not change while the store lives, compactions included. Blobs that come or go
    /// while it runs may or may not be among them; all others are, once.
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

    /// The blobs that this one links to.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not stored.
    pub fn links(&self, digest: &Digest) -> Result<Links<M>> {
        let blob = self.record(digest)?;
        Ok(Links::out_of(self.shared.source(), &blob))
    }

    /// The blobs that link to this one: who keeps it alive.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not stored.
    pub fn referrers(&self, digest: &Digest) -> Result<Links<M>> {
        let blob = self.record(digest)?;
        Ok(Links::into(self.shared.source(), &blob))
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
            return self.shared.commit_staged(self.stage(algorithm, bytes)?);
        }
        let pack = self.shared.pack();
        pack.writer()?.check()?;
        let mut operations = Operations::default();
        operations.put(pack.source.tagger(), algorithm, bytes)?;
        described(self.shared.commit(operations)?.1)
    }

    fn stage(&self, algorithm: Algorithm, bytes: &[u8]) -> Result<Staged<M>> {
        let mut writer = self.writer(algorithm)?.size_hint(bytes.len() as u64);
        // The writer keeps its first error and returns it here.
        let _ = std::io::Write::write_all(&mut writer, bytes);
        writer.stage()
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
        let (_, done) = self.shared.commit_one(crate::batch::Operation::Reference(*digest))?;
        described(vec![done])
    }

    /// Drops a reference that the caller holds. At zero the blob is removed, and what it links to loses a reference in turn.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NoSpareReference`] where links hold all that there are.
    #[doc(alias = "Deref")]
    pub fn dereference(&self, digest: &Digest) -> Result<Removed<M>> {
        self.give_up(crate::batch::Operation::Dereference(*digest))
    }

    fn give_up(&self, operation: crate::batch::Operation) -> Result<Removed<M>> {
        match self.shared.commit_one(operation)? {
            (pack, Done::Removed(removed)) => Ok(Removed::new(pack.source.clone(), removed)),
            _ => unreachable!("giving up a reference says what it removed"),
        }
    }

    /// Links: `from` keeps `to` alive from now on. This *moves* a reference on `to` that the caller holds into `from`; where the
    /// two are linked already the caller's reference is consumed all the same.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NoSpareReference`] where links hold all references on `to`; [`Error::WouldCycle`].
    #[doc(alias = "Link")]
    pub fn link(&self, to: &Digest, from: &Digest) -> Result<()> {
        self.shared.commit_one(crate::batch::Operation::Link(*to, *from)).map(drop)
    }

    /// Removes a link, and drops the reference that it held.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotLinked`].
    #[doc(alias = "Unlink")]
    pub fn unlink(&self, to: &Digest, from: &Digest) -> Result<Removed<M>> {
        self.give_up(crate::batch::Operation::Unlink(*to, *from))
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

    /// What opening the pack replayed and dropped.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.shared.pack().recovery.clone()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<M>> {
        &self.shared
    }

    /// How often segments were copied and split and the directory doubled since the pack was opened: for tests that want to
    /// see it happen.
    #[doc(hidden)]
    pub fn index_events(&self) -> Result<crate::index::table::Events> {
        Ok(self.shared.pack().writer()?.events())
    }
}

pub(crate) mod tempdir {
    //! A directory that goes away.

    use std::path::PathBuf;

    /// Removed with its contents when it is dropped.
    pub struct TemporaryDirectory(pub PathBuf);

    impl Drop for TemporaryDirectory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
