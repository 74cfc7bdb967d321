//! A blob that a reader holds: owned, and readable for as long as it is held, whatever happens to the store.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

use arc_swap::Guard;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::format::{Offset, header_bytes, to_usize};
use crate::medium::{Disk, Medium};
use crate::record::{BlobRecord, Descriptor};
use crate::source::Source;
use crate::view::View;

/// How often a lookup starts over because the file was replaced in between.
const RENEWALS: usize = 1000;

/// A stored blob. Its bytes are borrowed from the map of the pack, not copied; it keeps that map, so they stay what
/// they are after the blob was removed, after a compaction, and after the store was closed.
pub struct Blob<M: Medium = Disk> {
    view: Arc<View<M>>,
    /// Where its bytes begin.
    payload: Offset,
    descriptor: Descriptor,
}

impl<M: Medium> Clone for Blob<M> {
    fn clone(&self) -> Blob<M> {
        Blob { view: self.view.clone(), payload: self.payload, descriptor: self.descriptor }
    }
}

impl<M: Medium> std::fmt::Debug for Blob<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Blob").field(&self.descriptor).finish()
    }
}

impl<M: Medium> Blob<M> {
    #[inline]
    pub(crate) fn find(source: &Source<M>, digest: &Digest) -> Result<Option<Blob<M>>> {
        // The view that the record was found in must be the one that the bytes are borrowed from.
        let view = source.current()?;
        match view.record_near_home(digest).and_then(|record| Blob::in_view(&view, digest, &record)) {
            Some(blob) => Ok(Some(blob)),
            None => Blob::find_farther(source, view, digest),
        }
    }

    /// What is not near its home.
    #[inline(never)]
    fn find_farther(source: &Source<M>, view: Guard<Arc<View<M>>>, digest: &Digest) -> Result<Option<Blob<M>>> {
        if !view.is_private() {
            match view.blob_record(digest) {
                Ok(None) => return Ok(None),
                Ok(Some(record)) => {
                    if let Some(blob) = Blob::in_view(&view, digest, &record) {
                        return Ok(Some(blob));
                    }
                }
                // The source knows what to do.
                Err(_) => {}
            }
        }
        drop(view);
        for _ in 0..RENEWALS {
            let Some(record) = source.ask(|view| view.blob_record(digest))? else { return Ok(None) };
            let view = source.view();
            // After a compaction in between the same offset may hold something else. The check is that of the lookup:
            // with a stricter one a damaged frame would be found and refused for ever.
            if view.find_blob(digest).is_ok_and(|now| now.is_some_and(|now| now.id == record.id))
                && let Some(blob) = Blob::in_view(&view, digest, &record)
            {
                return Ok(Some(blob));
            }
            source.renew()?;
        }
        Err(Error::Busy { path: source.medium().path().into() })
    }

    /// The blob of this record, where the view's map goes to its end.
    #[inline]
    fn in_view(view: &Arc<View<M>>, digest: &Digest, record: &BlobRecord) -> Option<Blob<M>> {
        let payload = Offset(record.id.0 + header_bytes(digest.algorithm()));
        view.bytes(payload, record.length)?;
        Some(Blob { view: view.clone(), payload, descriptor: Descriptor::new(*digest, record) })
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.descriptor.digest
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.descriptor.size
    }

    /// Its references when it was got.
    #[must_use]
    pub fn ref_count(&self) -> u64 {
        self.descriptor.ref_count
    }

    /// How many blobs it linked to when it was got.
    #[must_use]
    pub fn link_count(&self) -> u64 {
        self.descriptor.link_count
    }

    /// All of these.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        self.descriptor
    }

    /// Its bytes, as they are stored: nothing is checked, so a disk that lies shows. See [`verify`](Blob::verify).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.view.bytes(self.payload, self.size()).expect("the view covered the blob when it was found")
    }

    /// Some of its bytes.
    ///
    /// # Errors
    /// [`Error::RangeOutside`].
    pub fn range(&self, range: Range<u64>) -> Result<&[u8]> {
        let outside = Error::RangeOutside { start: range.start, end: range.end, length: self.size() };
        if range.start > range.end || range.end > self.size() {
            return Err(outside);
        }
        Ok(&self.as_bytes()[to_usize(range.start)..to_usize(range.end)])
    }

    /// Compares the bytes with the digest. They are read with system calls, so an unreadable sector is an error here
    /// and not a signal; what was verified can then be read through the map.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`]: the bytes were damaged. [`Error::Io`]: they can't be read.
    pub fn verify(&self) -> Result<()> {
        let algorithm = self.digest().algorithm();
        let medium = self.view.medium().as_ref();
        self.digest().check(digest_by_read(medium, algorithm, self.payload, self.size(), |_| Ok(()))?)
    }

    /// Reads exactly `buffer.len()` bytes from position `at` of the blob, with a system call and not through the map:
    /// for those who can't promise that no other program cuts the file.
    ///
    /// # Errors
    /// [`Error::RangeOutside`]; what the system says of an unreadable sector or a file that was cut.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        let length = buffer.len() as u64;
        if at.checked_add(length).is_none_or(|end| end > self.size()) {
            return Err(Error::RangeOutside { start: at, end: at.saturating_add(length), length: self.size() });
        }
        let medium = self.view.medium();
        medium.read_at(Offset(self.payload.0 + at), buffer).map_err(|e| Error::io("read a blob", medium.path(), e))
    }

    /// A reader over the bytes: `Read`, `BufRead` and `Seek`, without copies until it is read.
    #[doc(alias = "Open")]
    #[must_use]
    pub fn open(&self) -> io::Cursor<Blob<M>> {
        io::Cursor::new(self.clone())
    }

    /// The file that holds the bytes, and where: for `copy_file_range` and `sendfile`. The file is for reading only.
    #[must_use]
    pub fn file_range(&self) -> Option<(&File, u64)> {
        self.view.medium().file().map(|file| (file, self.payload.0))
    }
}

impl<M: Medium> Deref for Blob<M> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl<M: Medium> AsRef<[u8]> for Blob<M> {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

#[cfg(feature = "bytes")]
impl<M: Medium> From<Blob<M>> for bytes::Bytes {
    /// Without a copy: the `Bytes` keep the map.
    fn from(blob: Blob<M>) -> bytes::Bytes {
        bytes::Bytes::from_owner(blob)
    }
}

/// Whether the frame of one blob stands right behind that of another one.
pub(crate) fn adjoin(one: &BlobRecord, other: &BlobRecord) -> bool {
    one.id.checked_add(one.frame_bytes()) == Some(other.id)
}

/// Reads a payload with system calls, piece by piece, and computes its digest.
pub(crate) fn digest_by_read<M: Medium>(
    medium: &M,
    algorithm: crate::digest::Algorithm,
    payload: Offset,
    length: u64,
    mut piece: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Digest> {
    const PIECE: u64 = 1 << 20;
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; to_usize(length.min(PIECE))];
    let mut at = 0;
    while at < length {
        let part = &mut buffer[..to_usize((length - at).min(PIECE))];
        medium.read_at(Offset(payload.0 + at), part).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::damaged(medium.path(), payload.0, "the bytes of a blob lie outside the file")
            }
            _ => Error::io("read a payload", medium.path(), error),
        })?;
        hasher.update(part);
        piece(part)?;
        at += part.len() as u64;
    }
    Ok(hasher.finish())
}
