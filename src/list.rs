//! Listings: of all blobs in the order of their tags, and of the links of one.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::graph::Side;
use crate::index::probe::Answer;
use crate::medium::{Disk, Medium};
use crate::pack::Shared;
use crate::record::{BlobRecord, Descriptor, Key, Record};
use crate::source::Source;
use crate::view::View;

/// All descriptors; see [`Store::descriptors`](crate::Store::descriptors). Holds one segment of the index at a time.
pub struct Descriptors<M: Medium = Disk> {
    shared: Arc<Shared<M>>,
    /// The first tag that was not read yet; `None` at the end.
    next: Option<u64>,
    /// Tag and digest of the one that it begins after.
    after: Option<(u64, Digest)>,
    /// With what is wrong with blobs whose frames do not say what they are, each in its place.
    ready: VecDeque<Result<Descriptor>>,
}

impl<M: Medium> Descriptors<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>, after: Option<Digest>) -> Descriptors<M> {
        let after = after.map(|digest| (shared.source().tagger().of_blob(&digest), digest));
        Descriptors { next: Some(after.map_or(0, |(tag, _)| tag)), after, shared, ready: VecDeque::new() }
    }

    fn fill(&mut self, from: u64) -> Result<()> {
        let source = self.shared.source();
        let mut lost: Vec<(BlobRecord, Error)> = Vec::new();
        let (blobs, next) = loop {
            let asked = Cell::new(None);
            let answer = source.ask(|view| {
                asked.set(None);
                let (records, next) = view.records_from(from)?;
                let mut blobs = Vec::new();
                for record in records {
                    let Record::Blob(blob) = record else { continue };
                    if blob.tag < from || lost.iter().any(|(lost, _)| (lost.id, lost.tag) == (blob.id, blob.tag)) {
                        continue;
                    }
                    asked.set(Some(blob));
                    let digest = view.digest_at(blob.id)?;
                    if view.tagger().of_blob(&digest) != blob.tag {
                        return Err(view.damaged(blob.id, "the record has the tag of another digest").into());
                    }
                    asked.set(None);
                    blobs.push((blob, digest));
                }
                Ok((blobs, next))
            });
            match (answer, asked.take()) {
                (Ok(found), _) => break found,
                (Err(error), Some(blob)) if error.is_damage() => lost.push((blob, error)),
                (Err(error), _) => return Err(error),
            }
        };
        let sound = blobs.iter().map(|(blob, digest)| (blob.tag, Some(*digest), Ok(Descriptor::new(*digest, blob))));
        let lost = lost.into_iter().map(|(blob, error)| (blob.tag, None, Err(error)));
        let mut found: Vec<_> = sound.chain(lost).collect();
        found.sort_by_key(|(tag, digest, _)| (*tag, *digest));
        // One that dies and comes back in one batch has two records for a moment.
        found.dedup_by(|one, other| one.1.is_some() && one.1 == other.1);
        let after = self.after.take().map(|(tag, digest)| (tag, Some(digest)));
        let found = found.into_iter().filter(|(tag, digest, _)| after.is_none_or(|after| (*tag, *digest) > after));
        self.ready.extend(found.map(|(.., descriptor)| descriptor));
        self.next = next;
        Ok(())
    }
}

impl<M: Medium> Iterator for Descriptors<M> {
    type Item = Result<Descriptor>;

    fn next(&mut self) -> Option<Result<Descriptor>> {
        loop {
            if let Some(descriptor) = self.ready.pop_front() {
                return Some(descriptor);
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

/// The links of one blob, in either direction. The last one may go; where others change while it runs it may end early,
/// or give one again. To give up all links of a blob, ask anew until there is none.
pub struct Links<M: Medium = Disk> {
    source: Arc<Source<M>>,
    side: Side,
    digest: Digest,
    /// The one that came last.
    last: Option<Digest>,
    at: Place<M>,
    /// No list is longer: a longer one is damaged.
    left: u64,
}

/// Where a list goes on: offsets in one file, which mean nothing in the one that a compaction puts in its place.
struct Place<M> {
    medium: Arc<M>,
    blob: Offset,
    /// The other end of the last one; `NONE` before the first, to whose front others may come.
    last: Offset,
    /// Of the one before that.
    before: Offset,
    next: Offset,
}

impl<M> Clone for Place<M> {
    fn clone(&self) -> Place<M> {
        Place { medium: self.medium.clone(), ..*self }
    }
}

impl<M: Medium> Links<M> {
    /// What the blob with this digest links to, or what links to it; `None` where it is not stored.
    pub(crate) fn of(source: Arc<Source<M>>, digest: &Digest, side: Side) -> Result<Option<Links<M>>> {
        let begun = source.ask(|view| {
            let Some(blob) = view.blob_record(digest)? else { return Ok(None) };
            let (next, left) = (side.first(&blob), side.limit(&blob));
            let (last, before) = (Offset::NONE, Offset::NONE);
            Ok(Some((Place { medium: view.medium().clone(), blob: blob.id, last, before, next }, left)))
        })?;
        Ok(begun.map(|(at, left)| Links { source, side, digest: *digest, last: None, at, left }))
    }

    /// The next one, and where it goes on from there; `None` at the end.
    fn step(&self) -> Result<Option<(Digest, Place<M>)>> {
        self.source.ask(|view| {
            let Some(place) = self.place_in(view)?.filter(|place| place.next != Offset::NONE) else { return Ok(None) };
            let Some((previous, next)) = self.beside(view, &place, place.next)? else { return Ok(None) };
            let follows = [previous, Offset::NONE].contains(&place.last)
                || previous == place.before
                    // It goes, or is about to: those beside it are told first.
                    && self.beside(view, &place, place.last)?.is_none_or(|beside| beside == (previous, place.next));
            if !follows {
                // It stands elsewhere now, from where the way leads back.
                return Ok(None);
            }
            Ok(Some((view.digest_at(place.next)?, Place { last: place.next, before: previous, next, ..place })))
        })
    }

    /// Where it goes on in this view's file. In another one than before the digests lead there.
    fn place_in(&self, view: &View<M>) -> Answer<Option<Place<M>>> {
        if Arc::ptr_eq(view.medium(), &self.at.medium) {
            return Ok(Some(self.at.clone()));
        }
        let Some(blob) = view.blob_record(&self.digest)? else { return Ok(None) };
        let (medium, none) = (view.medium().clone(), Offset::NONE);
        let next = self.side.first(&blob);
        let mut place = Place { medium, blob: blob.id, last: none, before: none, next };
        if let Some(last) = &self.last {
            let Some(last) = view.blob_record(last)? else { return Ok(None) };
            let beside = self.beside(view, &place, last.id)?;
            (place.before, place.next) = beside.unwrap_or((none, none));
            place.last = last.id;
        }
        Ok(Some(place))
    }

    /// What comes before and after the link with this blob at its other end, if there is such a link.
    fn beside(&self, view: &View<M>, place: &Place<M>, other: Offset) -> Answer<Option<(Offset, Offset)>> {
        let (from, to) = self.side.ends(place.blob, other);
        Ok(match view.record(Key::Link(from, to), view.tagger().of_link(from, to))? {
            Some(Record::Link(link)) => Some((self.side.previous(&link), self.side.next(&link))),
            _ => None,
        })
    }
}

impl<M: Medium> Iterator for Links<M> {
    type Item = Result<Digest>;

    fn next(&mut self) -> Option<Result<Digest>> {
        self.left = self.left.checked_sub(1)?;
        match self.step() {
            Ok(Some((digest, place))) => {
                (self.last, self.at) = (Some(digest), place);
                Some(Ok(digest))
            }
            Ok(None) => {
                self.left = 0;
                None
            }
            Err(error) => {
                self.left = 0;
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::medium::{Sim, SimDirectory};
    use crate::record::Image;
    use crate::store::Store;

    fn store() -> Store<Sim> {
        Store::options().create_in(SimDirectory::new(64 << 20).create("a.pack").unwrap()).unwrap().unwrap()
    }

    /// As while a batch is put into the index in which it died and came back.
    #[test]
    fn a_blob_with_two_records_is_listed_once() {
        let store = store();
        let digest = store.put(b"a blob").unwrap().digest;
        let source = store.shared().source().clone();
        let first = source.view().blob_record(&digest).unwrap().unwrap();
        store.dereference(&digest).unwrap();
        store.put(b"a blob").unwrap();
        let pack = store.shared().pack();
        let image = Image { record: Record::Blob(first), removed: false };
        pack.writer().unwrap().apply_by_hand(&image).unwrap();
        assert_eq!(source.view().records_from(0).unwrap().0.len(), 2);
        assert_eq!(store.list().map(Result::unwrap).collect::<Vec<_>>(), [digest]);
        assert_eq!(store.resolve(&digest.to_string()[..20]).unwrap(), digest);
    }

    #[test]
    fn a_list_that_changes_behind_the_last_link_ends_early_and_gives_none_again() {
        for outward in [true, false] {
            let store = store();
            let [hub, a, b, c] = [b"hub", b"a..", b"b..", b"c.."].map(|bytes| store.put(bytes).unwrap().digest);
            let ends = |other| if outward { (other, hub) } else { (hub, other) };
            for other in [a, b, c] {
                let (to, from) = ends(other);
                if !outward {
                    store.reference(&to).unwrap();
                }
                store.link(&to, &from).unwrap();
            }
            let links = || if outward { store.links(&hub).unwrap() } else { store.referrers(&hub).unwrap() };
            let (mut begun, begun_before) = (links(), links());
            assert_eq!(begun.next().unwrap().unwrap(), c);
            let (to, from) = ends(b);
            let mut batch = store.batch();
            batch.reference(&to).unlink(&to, &from).link(&to, &from);
            batch.commit().unwrap();
            assert!(begun.next().is_none());
            assert_eq!(begun_before.map(Result::unwrap).collect::<Vec<_>>(), [c, a]);
            let now: Vec<_> = links().map(Result::unwrap).collect();
            assert_eq!(now, [b, c, a]);
            // Each may go when it was given.
            for other in links().map(Result::unwrap) {
                let (to, from) = ends(other);
                store.unlink(&to, &from).unwrap();
            }
            assert_eq!(links().count(), 0);
        }
    }
}
