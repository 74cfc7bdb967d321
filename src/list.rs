//! Listings: of all blobs in the order of their tags, and of the links of one.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::Result;
use crate::format::Offset;
use crate::medium::{Disk, Medium};
use crate::pack::{Descriptor, Shared};
use crate::record::{BlobRecord, Key, Record};
use crate::source::Source;

/// All descriptors; see [`Store::descriptors`](crate::Store::descriptors). Holds one segment of the index at a time.
pub struct Descriptors<M: Medium = Disk> {
    shared: Arc<Shared<M>>,
    /// The first tag that was not read yet; `None` at the end.
    next: Option<u64>,
    /// Tag and digest of the one that it begins after.
    after: Option<(u64, Digest)>,
    ready: VecDeque<Descriptor>,
}

impl<M: Medium> Descriptors<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>, after: Option<Digest>) -> Descriptors<M> {
        let after = after.map(|digest| (shared.source().tagger().of_blob(&digest), digest));
        Descriptors { next: Some(after.map_or(0, |(tag, _)| tag)), after, shared, ready: VecDeque::new() }
    }

    fn fill(&mut self, from: u64) -> Result<()> {
        let source = self.shared.source();
        let (blobs, next) = source.ask(|view| {
            let (records, next) = view.records_from(from)?;
            let mut blobs = Vec::new();
            for record in records {
                if let Record::Blob(blob) = record
                    && blob.tag >= from
                {
                    blobs.push((blob.tag, view.digest_at(blob.id)?, blob));
                }
            }
            Ok((blobs, next))
        })?;
        let mut blobs = blobs;
        blobs.sort_unstable_by_key(|(tag, digest, _)| (*tag, *digest));
        let after = self.after.take();
        let ready = blobs.iter().filter(|(tag, digest, _)| after.is_none_or(|after| (*tag, *digest) > after));
        self.ready.extend(ready.map(|(_, digest, blob)| Descriptor::new(*digest, blob)));
        self.next = next;
        Ok(())
    }
}

impl<M: Medium> Iterator for Descriptors<M> {
    type Item = Result<Descriptor>;

    fn next(&mut self) -> Option<Result<Descriptor>> {
        loop {
            if let Some(descriptor) = self.ready.pop_front() {
                return Some(Ok(descriptor));
            }
            let from = self.next?;
            if let Err(error) = self.fill(from) {
                // What comes after a damaged segment can't be told from here.
                self.next = None;
                return Some(Err(error));
            }
        }
    }
}

/// All digests; see [`Store::list`](crate::Store::list). Holds one segment of the index at a time.
pub struct List<M: Medium = Disk> {
    inner: Descriptors<M>,
}

impl<M: Medium> List<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>, after: Option<Digest>) -> List<M> {
        List { inner: Descriptors::new(shared, after) }
    }
}

impl<M: Medium> Iterator for List<M> {
    type Item = Result<Digest>;

    fn next(&mut self) -> Option<Result<Digest>> {
        Some(self.inner.next()?.map(|descriptor| descriptor.digest))
    }
}

/// The links of one blob, in either direction. A link that goes while it runs ends it early.
pub struct Links<M: Medium = Disk> {
    source: Arc<Source<M>>,
    blob: Offset,
    outward: bool,
    next: Offset,
    /// No list is longer: a longer one is damaged.
    left: u64,
}

impl<M: Medium> Links<M> {
    pub(crate) fn out_of(source: Arc<Source<M>>, blob: &BlobRecord) -> Links<M> {
        Links { source, blob: blob.id, outward: true, next: blob.first_out, left: blob.out_count }
    }

    pub(crate) fn into(source: Arc<Source<M>>, blob: &BlobRecord) -> Links<M> {
        Links { source, blob: blob.id, outward: false, next: blob.first_in, left: blob.held.into() }
    }

    fn step(&mut self) -> Result<Digest> {
        let other = self.next;
        let (from, to) = if self.outward { (self.blob, other) } else { (other, self.blob) };
        let tag = self.source.tagger().of_link(from, to);
        self.next = match self.source.ask(|view| view.record(Key::Link(from, to), tag))? {
            Some(Record::Link(link)) if self.outward => link.next_out,
            Some(Record::Link(link)) => link.next_in,
            _ => Offset::NONE,
        };
        self.source.ask(|view| view.digest_at(other))
    }
}

impl<M: Medium> Iterator for Links<M> {
    type Item = Result<Digest>;

    fn next(&mut self) -> Option<Result<Digest>> {
        if self.next == Offset::NONE || self.left == 0 {
            return None;
        }
        self.left -= 1;
        let step = self.step();
        if step.is_err() {
            self.next = Offset::NONE;
        }
        Some(step)
    }
}
