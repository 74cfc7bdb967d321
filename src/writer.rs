//! Blobs of unknown length: they stream into an extent of the pack, which nobody knows of before the commit that
//! publishes it.
//!
//! A writer keeps the first [`LARGE_BYTES`] in memory; a blob that ends before lies in the log with its commit, one
//! write for both. A longer one gets an extent at the end of the file. With a size hint that is exactly as long as
//! needed, and may have the bytes of one that came to nothing: cancelled, or of a blob that was stored already. Without
//! a hint it grows in place while nothing stands behind it; else it moves to one twice as long, so that in all at most
//! twice the bytes are written. Where the disk has no space for that it grows by what is needed, and moves to one a
//! quarter longer, with at most five times the bytes written. At the limit of bytes it has those of one that came to
//! nothing too. What is left over is punched. Written pages are sent to the disk as the stream goes, so that a small
//! commit beside it does not wait for them.

use std::io;
use std::sync::Arc;

use crate::batch::{Large, Operations};
use crate::commit::{Durability, Writer};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::extent::{Extent, GiveBack};
use crate::format::{
    BLOB_BYTES_LIMIT, BlobHeader, LARGE_BYTES, Offset, PAGE_BYTES, align_up, crc, header_bytes, to_usize,
};
use crate::log::seal_blob;
use crate::medium::Medium;
use crate::pack::{Pack, Shared};
use crate::record::Descriptor;
use crate::space::Region;
use crate::sync::{AtomicU64, Ordering, yield_now};

/// The first extent of a stream without a hint.
const FIRST_BYTES: u64 = 1 << 20;
/// An extent that grows in place grows by at most this much at once.
const GROW_BYTES_MAX: u64 = 64 << 20;
/// What is collected before it is written: large writes of the caller pass by.
const BUFFER_BYTES: usize = 256 << 10;
/// After so many bytes, written pages are sent to the disk.
const WRITE_BACK_BYTES: u64 = 8 << 20;
/// Moves copy in pieces of this size.
const COPY_BYTES: usize = 256 << 10;

/// A counter that is one higher while this lives.
struct Counted<M: Medium> {
    pack: Arc<Pack<M>>,
    which: fn(&Writer<M>) -> &AtomicU64,
}

impl<M: Medium> Counted<M> {
    fn new(pack: Arc<Pack<M>>, which: fn(&Writer<M>) -> &AtomicU64) -> Result<Counted<M>> {
        which(pack.writer()?).fetch_add(1, Ordering::AcqRel);
        Ok(Counted { pack, which })
    }

    /// Counts as an open writer of the pack that is current, so that no compaction takes its place before the blob is
    /// committed: its extent would stay behind in the old file.
    fn open(shared: &Shared<M>) -> Result<Counted<M>> {
        loop {
            let pack = shared.pack();
            let writer = pack.writer()?;
            writer.check()?;
            let counted = writer.unless_moved(|| Counted::new(pack.clone(), Writer::open_writers))?;
            match counted {
                Some(counted) => return Ok(counted),
                // A compaction took this pack's place, or does in a moment.
                None => yield_now(),
            }
        }
    }
}

impl<M: Medium> Drop for Counted<M> {
    fn drop(&mut self) {
        if let Ok(writer) = self.pack.writer() {
            (self.which)(writer).fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl<M: Medium> GiveBack for Pack<M> {
    fn give_back(&self, region: Region) {
        if let Ok(writer) = self.writer() {
            // A file system that can't punch keeps the bytes until another extent has them, or a compaction comes.
            let _ = writer.medium().punch(region.offset, region.bytes);
            writer.holes().add(region);
        }
    }
}

/// Writes one blob; see [`Store::writer`](crate::Store::writer).
///
/// Dropping it without [`commit`](BlobWriter::commit) or [`stage`](BlobWriter::stage) cancels it. It keeps less than 2
/// MiB in memory, however long the blob.
///
/// ```
/// use std::io::Write;
/// use blobpack::{Algorithm, Store};
/// let store = Store::temporary()?;
/// let mut writer = store.writer(Algorithm::Sha256)?;
/// writer.write_all(b"hello")?;
/// let descriptor = writer.commit()?;
/// assert_eq!(&*store.get(&descriptor.digest)?, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "NewWriter")]
pub struct BlobWriter<M: Medium = crate::medium::Disk> {
    pack: Arc<Pack<M>>,
    /// Holds off a compaction.
    _counted: Counted<M>,
    hasher: Hasher,
    algorithm: Algorithm,
    checksum: crc32fast::Hasher,
    written: u64,
    /// Not written to the extent yet.
    buffer: Vec<u8>,
    extent: Option<Extent>,
    /// How far the extent was sent to the disk.
    sent: u64,
    hint: Option<u64>,
    expected_digest: Option<Digest>,
    expected_size: Option<u64>,
    failed: Option<Error>,
    shared: Arc<Shared<M>>,
}

impl<M: Medium> BlobWriter<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>, algorithm: Algorithm) -> Result<BlobWriter<M>> {
        let counted = Counted::open(&shared)?;
        Ok(BlobWriter {
            pack: counted.pack.clone(),
            _counted: counted,
            shared,
            hasher: Hasher::new(algorithm),
            algorithm,
            checksum: crc(),
            written: 0,
            buffer: Vec::new(),
            extent: None,
            sent: 0,
            hint: None,
            expected_digest: None,
            expected_size: None,
            failed: None,
        })
    }

    /// Says how long the blob will be, in bytes: then its space is had at once, and exactly, or it fails before much is
    /// written, with [`Error::NoSpace`] or [`Error::LimitReached`]. A blob that is longer after all is moved.
    #[must_use]
    pub fn size_hint(mut self, bytes: u64) -> Self {
        self.hint = Some(bytes);
        self
    }

    /// Says what the digest must be; otherwise [`commit`](BlobWriter::commit) fails with [`Error::DigestMismatch`].
    #[must_use]
    pub fn expect_digest(mut self, digest: Digest) -> Self {
        self.expected_digest = Some(digest);
        self
    }

    /// Says how long the blob must be, in bytes; otherwise [`commit`](BlobWriter::commit) fails with
    /// [`Error::SizeMismatch`]. It serves as a hint too.
    #[must_use]
    pub fn expect_size(mut self, bytes: u64) -> Self {
        self.expected_size = Some(bytes);
        self.hint = Some(bytes);
        self
    }

    /// The digest of what was written so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// How many bytes were written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Stores the blob with one reference, or adds one to it where it is stored already.
    ///
    /// # Errors
    /// The error of a write that failed before; a mismatch with what was expected; a full disk. The store is as it was
    /// then.
    pub fn commit(self) -> Result<Descriptor> {
        let shared = self.shared.clone();
        let staged = self.stage()?;
        shared.commit_staged(staged)
    }

    /// Throws away what was written.
    ///
    /// # Errors
    /// None at present: space that can't be given back now is given back by a compaction.
    #[allow(clippy::unnecessary_wraps, reason = "cancelling is I/O; callers should be ready for its errors")]
    pub fn cancel(self) -> Result<()> {
        drop(self);
        Ok(())
    }

    /// Ends the blob without making it visible, for [`Batch::add`](crate::Batch::add).
    ///
    /// # Errors
    /// As for [`commit`](BlobWriter::commit).
    pub fn stage(mut self) -> Result<Staged<M>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let digest = self.hasher.clone().finish();
        if let Some(expected) = self.expected_size.filter(|&expected| expected != self.written) {
            return Err(Error::SizeMismatch { expected, found: self.written });
        }
        self.expected_digest.map_or(Ok(()), |expected| expected.check(digest))?;
        let content = if self.written < LARGE_BYTES {
            Content::Small(std::mem::take(&mut self.buffer))
        } else {
            Content::Large(Box::new(self.seal(digest)?))
        };
        let counted = Counted::new(self.pack.clone(), Writer::staged)?;
        Ok(Staged { counted, digest, size: self.written, content })
    }

    /// Writes what is left and the header, gives back what was too much, and sends the rest to the disk.
    fn seal(&mut self, digest: Digest) -> Result<Large> {
        self.write_buffer()?;
        let writer = self.pack.writer()?;
        let mut extent = self.extent.take().expect("a blob of this length has an extent: its buffer was written");
        let medium = writer.medium().as_ref();
        let header = BlobHeader::new(self.pack.marker(), extent.frame(), &digest, self.written);
        let io = |what: &'static str| move |e| Error::io(what, medium.path(), e);
        medium.write_at(extent.frame(), &[header.bytes()], false).map_err(io("write a blob's header"))?;
        let used = PAGE_BYTES + align_up(self.written, PAGE_BYTES);
        if used < extent.region.bytes {
            let rest = Region { offset: Offset(extent.region.offset.0 + used), bytes: extent.region.bytes - used };
            extent.region.bytes = used;
            self.pack.give_back(rest);
        }
        if writer.settings().durability == Durability::PowerLoss {
            // The commit syncs the blobs of its batch in one go, and has less to wait for then.
            medium.write_back(extent.frame(), extent.header + self.written);
        }
        Ok(Large {
            digest,
            tag: self.pack.source().tagger().of_blob(&digest),
            length: self.written,
            checksum: seal_blob(&header, self.checksum.clone()),
            synced: false,
            extent,
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let length = self.written.saturating_add(bytes.len() as u64);
        if length >= BLOB_BYTES_LIMIT {
            return Err(Error::TooLarge { length, limit: BLOB_BYTES_LIMIT - 1 });
        }
        self.pack.writer()?.check()?;
        self.hasher.update(bytes);
        self.checksum.update(bytes);
        if self.buffer.len() + bytes.len() <= BUFFER_BYTES {
            self.buffer.extend_from_slice(bytes);
            self.written = length;
            // The blob is large for sure: its space is asked for now, so that a full disk shows early.
            return if length >= LARGE_BYTES && self.extent.is_none() { self.make_room(length, 0) } else { Ok(()) };
        }
        self.write_buffer()?;
        self.write_at(self.written, bytes)?;
        self.written = length;
        Ok(())
    }

    fn write_buffer(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        // The bytes in the buffer are counted as written; those in the extent end where the buffer begins.
        let at = self.written - buffer.len() as u64;
        let result = self.write_at(at, &buffer);
        self.buffer = buffer;
        self.buffer.clear();
        result
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = at + bytes.len() as u64;
        self.make_room(end, at)?;
        let extent = self.extent.as_ref().expect("room was made in an extent");
        let medium = self.pack.writer()?.medium();
        medium
            .write_at(Offset(extent.payload().0 + at), &[bytes], false)
            .map_err(|e| Error::io("write a blob", medium.path(), e))?;
        if end - self.sent >= WRITE_BACK_BYTES {
            medium.write_back(Offset(extent.payload().0 + self.sent), end - self.sent);
            self.sent = end;
        }
        Ok(())
    }

    /// Sees to it that the extent takes `length` payload bytes, of which it has the first `full`.
    fn make_room(&mut self, length: u64, full: u64) -> Result<()> {
        let room = self.extent.as_ref().map_or(0, Extent::room);
        if length <= room {
            return Ok(());
        }
        let hint = self.hint.filter(|&hint| hint >= length && hint < BLOB_BYTES_LIMIT);
        let needed = hint.unwrap_or(length);
        let writer = self.pack.writer()?;
        let medium = writer.medium().as_ref();
        let fill_hole = |bytes| {
            let region = writer.holes().take(bytes)?;
            let allocated = medium.allocate(region.offset, bytes);
            allocated.inspect_err(|_| self.pack.give_back(region)).ok().map(|()| region)
        };
        // At the end it can grow in place, as it may have to where its length is not known.
        let allocate = |bytes| match hint.and_then(|_| fill_hole(bytes)) {
            Some(region) => Ok(region),
            None => match writer.space().allocate(medium, bytes, PAGE_BYTES) {
                Err(error @ Error::LimitReached { .. }) => fill_hole(bytes).ok_or(error),
                allocated => allocated,
            },
        };
        let Some(extent) = &mut self.extent else {
            let region = ahead(needed, hint.unwrap_or(FIRST_BYTES), allocate)?;
            let header = header_bytes(self.algorithm);
            let owner: Arc<dyn GiveBack> = self.pack.clone();
            self.extent = Some(Extent { region, header, owner: Some(owner) });
            return Ok(());
        };
        let extend = |bytes| writer.space().extend(medium, &mut extent.region, bytes);
        let limit = match ahead(needed, hint.unwrap_or(room + room.min(GROW_BYTES_MAX)), extend) {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            // What came to nothing may have room for it elsewhere.
            Err(error @ Error::LimitReached { .. }) => Some(error),
            Err(error) => return Err(error),
        };
        let needed = hint.unwrap_or(length.max(room + room / 4));
        let region = ahead(needed, hint.unwrap_or(2 * room), allocate).map_err(|error| limit.unwrap_or(error))?;
        let moved = Extent { region, header: extent.header, owner: extent.owner.clone() };
        copy(medium, extent.payload(), moved.payload(), full)?;
        self.extent = Some(moved);
        self.sent = 0;
        Ok(())
    }
}

/// Gets an extent of `wanted` payload bytes; where there is no space for that, or it is less, of those that are needed.
fn ahead<T>(needed: u64, wanted: u64, mut get: impl FnMut(u64) -> Result<T>) -> Result<T> {
    let wanted = wanted.max(needed);
    let mut get = |payload| get(PAGE_BYTES + align_up(payload, PAGE_BYTES));
    match get(wanted) {
        Err(Error::NoSpace { .. } | Error::LimitReached { .. }) if wanted > needed => get(needed),
        got => got,
    }
}

/// Copies bytes that were written to an extent to another one.
fn copy<M: Medium>(medium: &M, from: Offset, to: Offset, bytes: u64) -> Result<()> {
    let io = |e| Error::io("move a growing blob", medium.path(), e);
    let mut piece = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < bytes {
        let part = &mut piece[..to_usize((bytes - at).min(COPY_BYTES as u64))];
        medium.read_at(Offset(from.0 + at), part).map_err(io)?;
        medium.write_at(Offset(to.0 + at), &[part], false).map_err(io)?;
        at += part.len() as u64;
    }
    Ok(())
}

impl<M: Medium> io::Write for BlobWriter<M> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed.is_none() {
            // The bytes are hashed then, and perhaps half written: this blob can't be finished.
            self.failed = self.take(bytes).err();
        }
        match &self.failed {
            None => Ok(bytes.len()),
            Some(error) => {
                // Who is told of an interruption tries again, and this stays failed.
                let kind = Some(error.kind()).filter(|&kind| kind != io::ErrorKind::Interrupted);
                // The error itself is what the commit returns.
                Err(io::Error::new(kind.unwrap_or(io::ErrorKind::Other), error.to_string()))
            }
        }
    }

    /// Does nothing: bytes become durable with the commit.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<M: Medium> std::fmt::Debug for BlobWriter<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobWriter").field("algorithm", &self.algorithm).field("written", &self.written).finish()
    }
}

enum Content {
    Small(Vec<u8>),
    Large(Box<Large>),
}

/// A blob that is written and not yet visible; [`Batch::add`](crate::Batch::add) takes it. Dropping it throws it away.
pub struct Staged<M: Medium = crate::medium::Disk> {
    content: Content,
    digest: Digest,
    size: u64,
    counted: Counted<M>,
}

impl<M: Medium> Staged<M> {
    /// A blob whose bytes are all at hand.
    pub(crate) fn whole(shared: Arc<Shared<M>>, algorithm: Algorithm, bytes: &[u8]) -> Result<Staged<M>> {
        let mut writer = BlobWriter::new(shared, algorithm)?.size_hint(bytes.len() as u64);
        // The writer keeps its first error and returns it when it is staged.
        let _ = io::Write::write_all(&mut writer, bytes);
        writer.stage()
    }

    /// The blob's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The blob's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it was staged in this pack.
    pub(crate) fn is_of(&self, pack: &Arc<Pack<M>>) -> bool {
        Arc::ptr_eq(&self.counted.pack, pack)
    }

    /// Adds it to operations. What comes back holds off a compaction until they are committed.
    pub(crate) fn add_to(self, operations: &mut Operations) -> Result<StagedGuard<M>> {
        match self.content {
            Content::Small(bytes) => {
                let tagger = self.counted.pack.source().tagger();
                operations.put_hashed(tagger, self.digest, &bytes)?;
            }
            Content::Large(large) => operations.list.push(crate::batch::Operation::Large(large)),
        }
        Ok(StagedGuard { _counted: self.counted })
    }
}

impl<M: Medium> std::fmt::Debug for Staged<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staged").field("digest", &self.digest).field("size", &self.size).finish()
    }
}

/// Holds off a compaction while a batch has a staged blob.
pub struct StagedGuard<M: Medium> {
    _counted: Counted<M>,
}
