//! The end of a batch: its changes as images, in an order that readers may see them come in.

use super::{Changes, Records, Removal, Touched};
use crate::digest::Digest;
use crate::format::Offset;
use crate::name::Name;
use crate::record::{CountersNow, Image, NameRecord, Record};

/// What a batch comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The last state of every record that changed, each record once, in the order in which readers may see them come
    /// in: new blobs (after the new blobs that they link to), new links, new names, changed records, and at last what
    /// is gone, parents first.
    ///
    /// A digest that died and came back has two ids: the new blob is among the first images, the old one's removal
    /// among the last. The image of a removed blob has no references and empty lists, that of a removed link is as the
    /// link was.
    pub images: Vec<Image>,
    /// The digests of the blobs among the images, in the same order.
    pub digests: Vec<Digest>,
    /// What became of the names that were asked for: their ids, or `None` where there is no such name any more.
    pub names: Vec<(Name, Option<Offset>)>,
    /// What the pack holds afterwards; where there are images, one more commit is counted.
    pub counters: CountersNow,
}

impl Outcome {
    /// The images, those of blobs with their digests.
    pub fn iter(&self) -> impl Iterator<Item = (&Image, Option<&Digest>)> {
        let mut digests = self.digests.iter();
        self.images.iter().map(move |image| match image.record {
            Record::Blob(_) => (image, digests.next()),
            Record::Link(_) | Record::Name(_) => (image, None),
        })
    }
}

impl<R: Records> Changes<'_, R> {
    /// The records afterwards, and what the pack then holds.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        let mut images = Vec::with_capacity(self.blobs.len() + self.links.len() + self.names.len());
        let kept = |record| Image { record, removed: false };
        let links = || self.links.iter().filter(|link| link.changed && !link.removed);
        let names = || self.names.iter().filter(|name| name.changed && !name.removed);
        // The anchor leads to new names, so it comes after them though it may be new itself.
        let is_new = |name: &&Touched<NameRecord>| !name.stored && name.now.id != Offset::NONE;
        // The blobs in the order of their images.
        let mut order = self.additions();
        images.extend(order.iter().map(|&at| kept(Record::Blob(self.blobs[at].now))));
        images.extend(links().filter(|link| !link.stored).map(|link| kept(Record::Link(link.now))));
        images.extend(names().filter(is_new).map(|name| kept(Record::Name(name.now))));
        for (at, blob) in self.blobs.iter().enumerate() {
            if blob.stored && blob.changed && !blob.removed {
                images.push(kept(Record::Blob(blob.now)));
                order.push(at);
            }
        }
        images.extend(links().filter(|link| link.stored).map(|link| kept(Record::Link(link.now))));
        images.extend(names().filter(|name| !is_new(name)).map(|name| kept(Record::Name(name.now))));
        let asked = self.names_by_text.drain().map(|(name, at)| {
            let named = &self.names[at];
            (name, (!named.removed).then_some(named.now.id))
        });
        let names = asked.collect();
        // Of what was removed several times the last removal counts: what is not the last is found from behind.
        for removal in self.removals.iter_mut().rev() {
            let is_last = match *removal {
                Removal::Link(at) => self.links[at].stored && std::mem::take(&mut self.links[at].removed),
                // A name that came and went in this batch has a frame in the log, as a blob; the anchor has none.
                Removal::Name(at) => {
                    let name = &mut self.names[at];
                    let known = name.stored || name.now.id != Offset::NONE;
                    known && std::mem::take(&mut name.removed)
                }
                Removal::Blob(_) | Removal::Nothing => true,
            };
            if !is_last {
                *removal = Removal::Nothing;
            }
        }
        for removal in &self.removals {
            match *removal {
                // Also a blob of this batch: its frame is in the log, and no rebuild may take it for living.
                Removal::Blob(at) => {
                    images.push(Image { record: Record::Blob(self.blobs[at].now), removed: true });
                    order.push(at);
                }
                Removal::Link(at) => images.push(Image { record: Record::Link(self.links[at].now), removed: true }),
                Removal::Name(at) => images.push(Image { record: Record::Name(self.names[at].now), removed: true }),
                Removal::Nothing => {}
            }
        }
        let as_they_are = order.len() == self.digests.len() && order.is_sorted();
        let digests = if as_they_are { self.digests } else { order.iter().map(|&at| self.digests[at]).collect() };
        if !images.is_empty() {
            self.counters.commits = self.counters.commits.saturating_add(1);
        }
        Outcome { images, digests, names, counters: self.counters }
    }

    /// The living blobs of this batch, each after those that it links to.
    fn additions(&self) -> Vec<usize> {
        let is_addition = |at: usize| !self.blobs[at].stored && !self.blobs[at].removed;
        let all = (0..self.blobs.len()).filter(|&at| is_addition(at));
        if self.links.is_empty() {
            return all.collect();
        }
        let mut order = Vec::new();
        let mut seen = vec![false; self.blobs.len()];
        // A path down from a blob: each with the next blob in its list of links out.
        let mut path = Vec::new();
        for start in all {
            if !std::mem::replace(&mut seen[start], true) {
                path.push((start, self.blobs[start].now.first_out));
            }
            while let Some((at, next)) = path.last_mut() {
                if *next == Offset::NONE {
                    order.push(*at);
                    path.pop();
                    continue;
                }
                let to = *next;
                // Whatever a new blob links to was linked, and so touched, in this batch.
                *next = self.links[self.by_ends[&(self.blobs[*at].now.id, to)]].now.next_out;
                let child = self.by_id[&to];
                if is_addition(child) && !std::mem::replace(&mut seen[child], true) {
                    path.push((child, self.blobs[child].now.first_out));
                }
            }
        }
        order
    }
}
