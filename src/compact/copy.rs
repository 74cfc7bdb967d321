//! The copies of a compaction: every live blob to the place that it was given, checked against its digest on the way.
//!
//! Where each blob goes is known before the first is copied, so all cores copy, each another part of the new file: it
//! reads the old frames to where they stand in a buffer, as many with one call as stand one behind the other in both
//! files, hashes them there, puts the new headers into it, and writes it at once. The write-out to the disk begins
//! then. No byte is copied but into the buffer and out of it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use super::Progress;
use crate::blob::{adjoin, digest_by_read};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::format::{BlobHeader, Frame, LARGE_BYTES, Offset, header_bytes, to_usize};
use crate::log::read_frame;
use crate::medium::Medium;
use crate::mend::digest_of_bytes;
use crate::record::BlobRecord;
use crate::view::View;

/// Small blobs are copied in parts of about this size.
const PART_BYTES: u64 = 1 << 20;
/// A thread more is worth so many parts.
const PARTS_A_THREAD: usize = 8;

/// All blobs, in the order of the old file, with their new places.
pub(super) struct Copying<'a, M: Medium> {
    pub(super) view: &'a View<M>,
    pub(super) new: &'a M,
    pub(super) blobs: &'a [BlobRecord],
    pub(super) places: &'a [Offset],
}

impl<M: Medium> Copying<'_, M> {
    pub(super) fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        let total = self.blobs.iter().map(|blob| blob.length).sum();
        let parts = self.parts();
        let (next, done, failed) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
        // Parts are taken in their order and those begun are ended, so that the first failure is always the same one.
        let copy = |told: &mut dyn FnMut(u64)| {
            while !failed.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(part) = parts.get(number) else { break };
                let copied = self.part(part.clone()).map_err(|error| (number, error));
                failed.fetch_or(copied.is_err(), Ordering::Relaxed);
                let bytes: u64 = copied?;
                told(done.fetch_add(bytes, Ordering::Relaxed) + bytes);
            }
            Ok(())
        };
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = cores.min(parts.len() / PARTS_A_THREAD + 1);
        let results: Vec<Result<(), (usize, Error)>> = thread::scope(|scope| {
            let another = || thread::Builder::new().spawn_scoped(scope, || copy(&mut |_| {})).ok();
            // Where no more are to be had, those that are there do it.
            let others: Vec<_> = (1..threads).map_while(|_| another()).collect();
            let this = copy(&mut |done| progress(Progress { done, total }));
            let others = others.into_iter().map(|other| other.join().expect("copying does not panic"));
            std::iter::once(this).chain(others).collect()
        });
        if let Some((_, error)) = results.into_iter().filter_map(Result::err).min_by_key(|(number, _)| *number) {
            return Err(error);
        }
        if threads > 1 {
            progress(Progress { done: total, total });
        }
        Ok(())
    }

    fn is_large(&self, number: usize) -> bool {
        self.blobs[number].length >= LARGE_BYTES
    }

    /// The end of a frame in the new file.
    fn end(&self, number: usize) -> u64 {
        self.places[number].0 + self.blobs[number].frame_bytes()
    }

    /// Ranges of blobs that are copied together: a large one, or small ones that will stand one behind the other.
    fn parts(&self) -> Vec<Range<usize>> {
        let mut parts: Vec<Range<usize>> = Vec::new();
        for number in 0..self.blobs.len() {
            match parts.last_mut() {
                Some(part)
                    if !self.is_large(number)
                        && !self.is_large(number - 1)
                        && self.end(number - 1) == self.places[number].0
                        && self.end(number) - self.places[part.start].0 <= PART_BYTES =>
                {
                    part.end = number + 1;
                }
                _ => parts.push(number..number + 1),
            }
        }
        parts
    }

    /// Copies a part; returns how many bytes of payload it has.
    fn part(&self, part: Range<usize>) -> Result<u64> {
        if self.is_large(part.start) {
            self.large(part.start)?;
            return Ok(self.blobs[part.start].length);
        }
        let (old, start) = (self.view.medium().as_ref(), self.places[part.start].0);
        let mut buffer = vec![0; to_usize(self.end(part.end - 1) - start)];
        let numbers: Vec<usize> = part.clone().collect();
        for run in numbers.chunk_by(|one, other| adjoin(&self.blobs[*one], &self.blobs[*other])) {
            let (first, last) = (run[0], run[run.len() - 1]);
            let run_bytes = &mut buffer[to_usize(self.places[first].0 - start)..to_usize(self.end(last) - start)];
            let is_read = old.read_at(self.blobs[first].id, run_bytes).is_ok();
            for &number in run {
                let frame = to_usize(self.places[number].0 - start)..to_usize(self.end(number) - start);
                self.small(number, &mut buffer[frame], is_read)?;
            }
        }
        let io = |e| Error::io("write the new log", self.new.path(), e);
        self.new.write_at(Offset(start), &[&buffer], false).map_err(io)?;
        if buffer.len() as u64 >= PART_BYTES / 2 {
            self.new.write_back(Offset(start), buffer.len() as u64);
        }
        Ok(self.blobs[part].iter().map(|blob| blob.length).sum())
    }

    /// Makes the new frame of the old one. Where a run can't be read at once, each of its blobs is read for itself, so
    /// that the error names the blob.
    fn small(&self, number: usize, frame: &mut [u8], is_read: bool) -> Result<()> {
        let blob = &self.blobs[number];
        let header = to_usize(header_bytes(blob.algorithm));
        let digest = if is_read {
            self.digest(blob, Ok(Frame::parse(frame, self.view.marker(), blob.id)))?
        } else {
            self.read_digest(blob)?
        };
        let (head, payload) = frame.split_at_mut(header);
        let (payload, padding) = payload.split_at_mut(to_usize(blob.length));
        if is_read {
            let mut hasher = Hasher::new(blob.algorithm);
            hasher.update(payload);
            self.compare(blob, &digest, &hasher.finish())?;
        } else {
            // It is read in one piece, as it is small.
            self.checked_copy(blob, &digest, |piece| {
                payload.copy_from_slice(piece);
                Ok(())
            })?;
        }
        padding.fill(0);
        let new = BlobHeader::new(self.view.marker(), self.places[number], &digest, blob.length);
        head.copy_from_slice(new.bytes());
        Ok(())
    }

    fn large(&self, number: usize) -> Result<()> {
        let (blob, at) = (&self.blobs[number], self.places[number]);
        let digest = self.read_digest(blob)?;
        let io = |e| Error::io("write a blob", self.new.path(), e);
        let mut to = Offset(at.0 + header_bytes(blob.algorithm));
        self.checked_copy(blob, &digest, |piece| {
            self.new.write_at(to, &[piece], false).map_err(io)?;
            to.0 += piece.len() as u64;
            Ok(())
        })?;
        let header = BlobHeader::new(self.view.marker(), at, &digest, blob.length);
        self.new.write_at(at, &[header.bytes()], false).map_err(io)?;
        self.new.write_back(at, blob.frame_bytes());
        Ok(())
    }

    /// The digest in the header of the old frame.
    fn read_digest(&self, blob: &BlobRecord) -> Result<Digest> {
        let old = self.view.medium().as_ref();
        let end = old.length().map_err(|e| Error::io("length", old.path(), e))?;
        self.digest(blob, read_frame(old, self.view.marker(), blob.id, end))
    }

    /// The same of a frame that was read. Where the header is damaged and the bytes are not, these tell it: the new
    /// file gets a header of its own.
    fn digest(&self, blob: &BlobRecord, frame: Result<Option<Frame>>) -> Result<Digest> {
        let found = frame.map(|frame| frame.and_then(|frame| frame.digest));
        if let Ok(Some(digest)) = found
            && self.view.tagger().of_blob(&digest) == blob.tag
        {
            return Ok(digest);
        }
        if let Some(digest) = digest_of_bytes(self.view, blob) {
            return Ok(digest);
        }
        let what = match found? {
            Some(_) => "the record has the tag of another digest",
            None => "a record speaks of a blob frame here, but there is none",
        };
        Err(self.view.damaged(blob.id, what))
    }

    /// Reads a blob with system calls, hands it on in pieces, and compares its digest.
    fn checked_copy(&self, blob: &BlobRecord, digest: &Digest, piece: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let payload = Offset(blob.id.0 + header_bytes(blob.algorithm));
        let found = digest_by_read(self.view.medium().as_ref(), blob.algorithm, payload, blob.length, piece)?;
        self.compare(blob, digest, &found)
    }

    fn compare(&self, blob: &BlobRecord, digest: &Digest, found: &Digest) -> Result<()> {
        if found == digest {
            return Ok(());
        }
        let payload = Offset(blob.id.0 + header_bytes(blob.algorithm));
        Err(self.view.damaged(payload, format!("the bytes of {digest} have the digest {found}")))
    }
}

#[cfg(test)]
mod tests;
