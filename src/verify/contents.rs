//! What a verification says of each blob: whether its frame is what the record says, and its bytes are what the digest
//! says.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::blob::{adjoin, digest_by_read};
use crate::compact::Progress;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::format::{Frame, LARGE_BYTES, Offset, header_bytes, to_usize};
use crate::log::read_frame;
use crate::medium::Medium;
use crate::mend::digest_of_bytes;
use crate::record::BlobRecord;
use crate::view::View;

/// A thread takes so many blobs at a time: of small ones so many as its cache holds.
const STEP: usize = 32;

/// The blobs to be looked at, in the order of the file, by several threads.
pub(super) struct Contents<'a, M: Medium> {
    view: &'a View<M>,
    blobs: &'a [(BlobRecord, Option<Digest>)],
    next: AtomicUsize,
    done: AtomicU64,
    total: u64,
}

/// Some neighbours, from the blob with this number on.
pub(super) struct Looked {
    pub(super) first: usize,
    pub(super) digests: Vec<Option<Digest>>,
    /// Numbers of blobs, each with something that is wrong with it.
    pub(super) wrong: Vec<(usize, Wrong)>,
}

/// What is wrong with a blob.
pub(super) enum Wrong {
    /// It has no frame, or none that can be read, or one that the record does not agree with.
    Lost(String),
    /// The bytes here are not those of the digest.
    Payload(Offset, Digest, String),
}

/// The header of the frame at `at`.
pub(super) fn read_header<M: Medium>(view: &View<M>, at: Offset) -> Result<Option<Frame>> {
    let medium = view.medium();
    let end = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
    read_frame(medium.as_ref(), view.marker(), at, end)
}

impl<'a, M: Medium> Contents<'a, M> {
    pub(super) fn new(view: &'a View<M>, blobs: &'a [(BlobRecord, Option<Digest>)]) -> Contents<'a, M> {
        let total = blobs.iter().fold(0, |total: u64, (blob, _)| total.saturating_add(blob.length));
        Contents { view, blobs, next: AtomicUsize::new(0), done: AtomicU64::new(0), total }
    }

    /// How many threads it is worth.
    pub(super) fn threads(&self) -> usize {
        match self.blobs.len() / STEP {
            // To ask takes longer than a small pack does.
            0 => 1,
            most => std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(most + 1),
        }
    }

    pub(super) fn so_far(&self) -> Progress {
        Progress { done: self.done.load(Ordering::Relaxed), total: self.total }
    }

    /// Looks at what no other thread has taken until nothing is left.
    pub(super) fn look(&self) -> Vec<Looked> {
        let mut looked = Vec::new();
        let mut buffer = Vec::new();
        loop {
            let first = self.next.fetch_add(STEP, Ordering::Relaxed);
            if first >= self.blobs.len() {
                return looked;
            }
            let blobs = &self.blobs[first..self.blobs.len().min(first + STEP)];
            let mut part = Looked { first, digests: Vec::with_capacity(blobs.len()), wrong: Vec::new() };
            let is_small = |blob: &BlobRecord| blob.length < LARGE_BYTES;
            for run in blobs.chunk_by(|(one, _), (other, _)| is_small(one) && is_small(other) && adjoin(one, other)) {
                self.run(run, &mut buffer, &mut part);
            }
            looked.push(part);
        }
    }

    /// Looks at blobs that stand one behind the other.
    fn run(&self, run: &[(BlobRecord, Option<Digest>)], buffer: &mut Vec<u8>, part: &mut Looked) {
        let is_large = run[0].0.length >= LARGE_BYTES;
        let length = if is_large { 0 } else { run.iter().map(|(blob, _)| blob.frame_bytes()).sum() };
        let length = to_usize(length);
        // Zeroed once, and not anew for each run.
        if buffer.len() < length {
            *buffer = vec![0; length];
        }
        let buffer = &mut buffer[..length];
        // Where they can't be read at once, each is read for itself: that tells what is wrong with which.
        let is_read = self.view.medium().read_at(run[0].0.id, buffer).is_ok();
        let mut frames = if is_read { &*buffer } else { &[] };
        for (blob, _) in run {
            let frame = frames.split_off(..to_usize(blob.frame_bytes()));
            self.blob(blob, frame, part);
        }
    }

    /// Looks at a blob; `bytes` is its frame, if that was read.
    fn blob(&self, blob: &BlobRecord, bytes: Option<&[u8]>, part: &mut Looked) {
        let number = part.first + part.digests.len();
        let frame = bytes.and_then(|bytes| Frame::parse(bytes, self.view.marker(), blob.id));
        let bytes = bytes.filter(|_| frame.is_some_and(|frame| frame.digest.is_some()));
        let read = if bytes.is_some() { Ok(frame) } else { read_header(self.view, blob.id) };
        let digest = match read {
            Ok(Some(Frame { digest: Some(digest), length, .. })) => {
                if length != blob.length {
                    part.wrong.push((number, Wrong::Lost("record and frame disagree on the length".into())));
                }
                if self.view.tagger().of_blob(&digest) != blob.tag {
                    part.wrong.push((number, Wrong::Lost("the record has the tag of another digest".into())));
                }
                Some(digest)
            }
            read => {
                let digest = digest_of_bytes(self.view, blob);
                let none = "a record speaks of a blob frame here, but there is none";
                let what = match (read, digest) {
                    (Err(error), _) => error.to_string(),
                    (Ok(_), Some(_)) => format!("{none}; the bytes are whole, and a rebuild restores it"),
                    (Ok(_), None) => none.into(),
                };
                part.wrong.push((number, Wrong::Lost(what)));
                digest
            }
        };
        if let Some(digest) = digest {
            let payload = Offset(blob.id.0.saturating_add(header_bytes(blob.algorithm)));
            let found = match bytes {
                Some(bytes) => Ok(self.digest_in(bytes, blob, &digest)),
                None => self.digest_by_read(blob, payload, &digest),
            };
            let what = match found {
                Ok(found) if found == digest => None,
                Ok(found) => Some(format!("the bytes have the digest {found}")),
                Err(Error::Damaged(damage)) => Some(damage.what),
                Err(error) => Some(error.to_string()),
            };
            part.wrong.extend(what.map(|what| (number, Wrong::Payload(payload, digest, what))));
        }
        part.digests.push(digest);
    }

    fn digest_in(&self, frame: &[u8], blob: &BlobRecord, digest: &Digest) -> Digest {
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&frame[to_usize(header_bytes(blob.algorithm))..][..to_usize(blob.length)]);
        self.done.fetch_add(blob.length, Ordering::Relaxed);
        hasher.finish()
    }

    fn digest_by_read(&self, blob: &BlobRecord, payload: Offset, digest: &Digest) -> Result<Digest> {
        digest_by_read(self.view.medium().as_ref(), digest.algorithm(), payload, blob.length, |piece| {
            self.done.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(())
        })
    }
}
