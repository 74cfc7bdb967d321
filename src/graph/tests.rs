//! Each rule by name.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use super::*;
use crate::digest::Algorithm;
use crate::format::{LARGE_BYTES, PAGE_BYTES};
use crate::record::{Image, Key, Record};

/// Records in memory, as images leave them.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) records: Map<Key, Record>,
    pub(super) ids: Map<Digest, Offset>,
    pub(super) digests: Map<Offset, Digest>,
    pub(super) names: Map<Name, Offset>,
    pub(super) counters: CountersNow,
    next: u64,
}

impl Records for Memory {
    fn blob(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        self.ids.get(digest).map(|&id| Ok(self.blob_by_id(id)?.0)).transpose()
    }

    fn blob_by_id(&self, id: Offset) -> Result<(BlobRecord, Digest)> {
        match self.records.get(&Key::Blob(id)) {
            Some(Record::Blob(blob)) => Ok((*blob, self.digests[&id])),
            _ => Err(self.damaged(id, "no blob here")),
        }
    }

    fn link(&self, from: Offset, to: Offset) -> Result<Option<LinkRecord>> {
        match self.records.get(&Key::Link(from, to)) {
            Some(Record::Link(link)) => Ok(Some(*link)),
            _ => Ok(None),
        }
    }

    fn link_tag(&self, from: Offset, to: Offset) -> u64 {
        from.0 ^ to.0.rotate_left(32)
    }

    fn name(&self, name: &Name) -> Result<Option<NameRecord>> {
        self.names.get(name).map_or(Ok(None), |&id| Ok(self.name_by_id(id)))
    }

    fn name_at(&self, place: Neighbour) -> Result<Option<NameRecord>> {
        Ok(self.name_by_id(place.id).filter(|name| name.tag == place.tag))
    }

    fn anchor_tag(&self) -> u64 {
        7
    }

    fn damaged(&self, at: Offset, what: &str) -> Error {
        Error::damaged(std::path::Path::new("pack"), at.0, what)
    }
}

impl Memory {
    pub(super) fn name_by_id(&self, id: Offset) -> Option<NameRecord> {
        match self.records.get(&Key::Name(id)) {
            Some(Record::Name(name)) => Some(*name),
            _ => None,
        }
    }

    pub(super) fn batch<T>(&mut self, run: impl FnOnce(&mut Changes<'_, Memory>, &mut u64) -> T) -> (T, Outcome) {
        let mut next = self.next;
        let mut changes = Changes::new(self, self.counters);
        let result = run(&mut changes, &mut next);
        let outcome = changes.finish();
        self.next = next;
        self.apply(&outcome);
        (result, outcome)
    }

    /// Stores images one by one, as a reader may see them, and checks at each that nothing leads to what is not there.
    fn apply(&mut self, outcome: &Outcome) {
        let keys: BTreeSet<Key> = outcome.images.iter().map(|image| image.record.key()).collect();
        assert_eq!(keys.len(), outcome.images.len(), "each record once");
        let mut inbound: Map<Offset, BTreeSet<Offset>> = Map::default();
        for key in self.records.keys() {
            if let Key::Link(from, to) = *key {
                inbound.entry(to).or_default().insert(from);
            }
        }
        let mut position = Map::default();
        for (at, (image, digest)) in outcome.iter().enumerate() {
            let key = image.record.key();
            let was = if image.removed { self.records.remove(&key) } else { self.records.insert(key, image.record) };
            match key {
                Key::Blob(id) if image.removed => {
                    if self.ids.get(digest.unwrap()) == Some(&id) {
                        self.ids.remove(digest.unwrap());
                    }
                    assert!(inbound.get(&id).is_none_or(BTreeSet::is_empty), "parents and links first");
                }
                Key::Blob(id) => {
                    if was.is_none() {
                        position.insert(id, at);
                        self.ids.insert(*digest.unwrap(), id);
                        self.digests.insert(id, *digest.unwrap());
                    }
                }
                Key::Link(from, to) if image.removed => {
                    assert!(was.is_some(), "nobody knew the link");
                    assert!(inbound.get_mut(&to).unwrap().remove(&from));
                }
                Key::Link(from, to) => {
                    assert!(self.records.contains_key(&Key::Blob(from)) && self.records.contains_key(&Key::Blob(to)));
                    inbound.entry(to).or_default().insert(from);
                }
                Key::Name(id) if !image.removed => {
                    self.names_lead_to_blobs();
                    if was.is_some() || id == Offset::NONE {
                        let name = self.name_by_id(id).unwrap();
                        for place in [name.next, name.previous] {
                            assert!(self.name_at(place).unwrap().is_some(), "new names before those beside them");
                        }
                    }
                }
                Key::Name(_) => {}
            }
        }
        for (name, id) in &outcome.names {
            match id {
                Some(id) => drop(self.names.insert(name.clone(), *id)),
                None => drop(self.names.remove(name)),
            }
        }
        self.names_lead_to_blobs();
        for (to, froms) in &inbound {
            for from in froms {
                if let (Some(child), Some(parent)) = (position.get(to), position.get(from)) {
                    assert!(child < parent, "children first");
                }
            }
        }
        self.counters = outcome.counters;
    }

    fn names_lead_to_blobs(&self) {
        for record in self.records.values() {
            if let Record::Name(name) = record
                && name.id != Offset::NONE
            {
                assert!(self.records.contains_key(&Key::Blob(name.target)), "no name of a removed blob");
            }
        }
    }

    /// The names by walking their ring, both ways.
    pub(super) fn ring(&self) -> Vec<NameRecord> {
        let at = |place| self.name_at(place).unwrap().expect("a neighbour is there");
        let anchor = Neighbour::anchor(self.anchor_tag());
        let walk = |step: fn(&NameRecord) -> Neighbour| {
            let mut names = Vec::new();
            let mut place = self.name_at(anchor).unwrap().map_or(anchor, |anchor| step(&anchor));
            while !place.is_anchor() {
                names.push(at(place));
                place = step(&at(place));
            }
            assert_eq!(place, anchor);
            names
        };
        let (forward, mut backward) = (walk(|name| name.next), walk(|name| name.previous));
        backward.reverse();
        assert_eq!(forward, backward);
        assert_eq!(self.records.contains_key(&Key::Name(Offset::NONE)), !forward.is_empty());
        forward
    }

    /// A list by walking it, both ways.
    pub(super) fn list(&self, side: Side, owner: &BlobRecord) -> BTreeSet<Offset> {
        let at = |name| {
            let (from, to) = side.ends(owner.id, name);
            self.link(from, to).unwrap().expect("a neighbour is there")
        };
        let (mut forward, mut name) = (Vec::new(), side.first(owner));
        while name != Offset::NONE {
            forward.push(name);
            name = side.next(&at(name));
        }
        let mut backward = Vec::new();
        name = forward.last().copied().unwrap_or_default();
        while name != Offset::NONE {
            backward.push(name);
            name = side.previous(&at(name));
        }
        backward.reverse();
        assert_eq!(forward, backward);
        let list: BTreeSet<_> = forward.iter().copied().collect();
        assert_eq!(list.len(), forward.len());
        list
    }

    pub(super) fn record(&self, digest: &Digest) -> BlobRecord {
        self.blob(digest).unwrap().unwrap()
    }
}

/// A made-up digest: nothing here looks at payloads. Three each begin with the same word.
pub(super) fn digest(name: u64) -> Digest {
    let algorithm = if name % 4 == 3 { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let mut bytes = [7; 64];
    bytes[..8].copy_from_slice(&(name / 3).to_le_bytes());
    bytes[8..16].copy_from_slice(&name.to_le_bytes());
    Digest::from_bytes(algorithm, &bytes[..algorithm.digest_bytes()]).unwrap()
}

pub(super) fn name(number: u64) -> Name {
    Name::new(format!("name {number}")).unwrap()
}

pub(super) fn set(changes: &mut Changes<'_, Memory>, next: &mut u64, number: u64, blob: u64) -> Result<Named> {
    *next += 128;
    changes.set_name(&name(number), 2000 + number, Offset((256 << 10) + *next), &digest(blob))
}

/// Some are large.
pub(super) const fn length(name: u64) -> u64 {
    if name % 5 == 4 { LARGE_BYTES + name } else { 100 + name }
}

pub(super) fn put(changes: &mut Changes<'_, Memory>, next: &mut u64, name: u64) -> Result<bool> {
    *next += 64;
    let stored = changes.publish(&digest(name), 1000 + name, Offset((256 << 10) + *next), length(name))?;
    assert_eq!(changes.blob(&digest(name))?, Some(stored.blob));
    Ok(stored.is_new)
}

/// A store of blobs with one reference each, and these links (from, to); who is linked to has no reference to spare.
pub(super) fn store(blobs: u64, links: &[(u64, u64)]) -> Memory {
    let mut memory = Memory::default();
    memory.batch(|changes, next| {
        for name in 0..blobs {
            assert!(put(changes, next, name).unwrap());
        }
        let mut linked = BTreeSet::new();
        for &(from, to) in links {
            if !linked.insert(to) {
                changes.reference(&digest(to)).unwrap();
            }
            changes.link(&digest(to), &digest(from)).unwrap();
        }
    });
    memory
}

fn counts(memory: &Memory, name: u64) -> (u32, u32) {
    let record = memory.record(&digest(name));
    (record.references, record.held)
}

#[test]
fn a_blob_put_twice_has_two_references_and_one_record() {
    let mut memory = store(1, &[]);
    let (new, outcome) = memory.batch(|changes, next| put(changes, next, 0).unwrap());
    assert!(!new);
    assert_eq!((outcome.images.len(), counts(&memory, 0)), (1, (2, 0)));
    assert_eq!((memory.counters.blobs, memory.counters.live_bytes, memory.counters.commits), (1, length(0), 2));
}

#[test]
fn a_batch_that_only_looks_has_no_images_and_counts_no_commit() {
    let mut memory = store(2, &[(0, 1)]);
    let before = memory.counters;
    let (_, outcome) = memory.batch(|changes, _| assert!(changes.unlink(&digest(0), &digest(1)).is_err()));
    assert_eq!((outcome.images.len(), memory.counters), (0, before));
}

#[test]
fn a_link_moves_the_callers_reference_and_a_second_one_consumes_it() {
    let mut memory = store(2, &[(0, 1)]);
    assert_eq!(counts(&memory, 1), (1, 1));
    memory.batch(|changes, _| {
        changes.reference(&digest(1)).unwrap();
        changes.link(&digest(1), &digest(0)).unwrap();
    });
    assert_eq!((counts(&memory, 1), memory.counters.links), ((1, 1), 1));
}

#[test]
fn a_reference_that_a_link_holds_can_neither_be_dropped_nor_moved() {
    let mut memory = store(3, &[(0, 1)]);
    memory.batch(|changes, _| {
        let (to, from) = (digest(1), digest(2));
        for refused in [changes.dereference(&to).map(drop), changes.link(&to, &from), changes.link(&to, &digest(0))] {
            assert!(
                matches!(refused, Err(Error::NoSpareReference { digest, references: 1, held: 1 }) if *digest == to)
            );
        }
    });
    assert_eq!(counts(&memory, 1), (1, 1));
}

#[test]
fn what_is_not_there_is_named() {
    let mut memory = store(2, &[]);
    memory.batch(|changes, _| {
        let (there, missing) = (digest(0), digest(9));
        for refused in [
            changes.reference(&missing).map(drop),
            changes.dereference(&missing).map(drop),
            changes.link(&missing, &there),
            changes.link(&there, &missing),
            changes.unlink(&there, &missing).map(drop),
        ] {
            assert!(matches!(refused, Err(Error::NotFound { digest }) if digest == missing));
        }
        let refused = changes.unlink(&there, &digest(1));
        assert!(matches!(refused, Err(Error::NotLinked { to, from }) if (*to, *from) == (there, digest(1))));
    });
}

#[test]
fn a_name_takes_the_callers_reference_and_a_second_time_consumes_it() {
    let mut memory = store(1, &[]);
    let (named, outcome) = memory.batch(|changes, next| set(changes, next, 0, 0).unwrap());
    assert!(named.is_new && named.removed.ids.is_empty());
    assert_eq!((counts(&memory, 0), memory.counters.names, outcome.images.len()), ((1, 1), 1, 3));
    let (named, outcome) = memory.batch(|changes, next| {
        changes.reference(&digest(0)).unwrap();
        set(changes, next, 0, 0).unwrap()
    });
    assert!(!named.is_new);
    // The counts were two and are one: the image is of a blob as it was.
    assert_eq!((counts(&memory, 0), memory.counters.names, outcome.images.len()), ((1, 1), 1, 1));
    assert_eq!(memory.ring().len(), 1);
}

#[test]
fn a_name_that_moves_lets_go_of_what_had_it() {
    // 0 keeps 1.
    let mut memory = store(3, &[(0, 1)]);
    memory.batch(|changes, next| set(changes, next, 5, 0).unwrap());
    let (named, outcome) = memory.batch(|changes, next| set(changes, next, 5, 2).unwrap());
    assert_eq!((named.is_new, named.removed.blobs(), memory.counters.blobs), (false, 2, 1));
    assert_eq!((counts(&memory, 2), memory.counters.names), ((1, 1), 1));
    let position = |found: fn(&Image) -> bool| outcome.images.iter().position(found).unwrap();
    let moved = position(|image| matches!(image.record, Record::Name(_)) && !image.removed);
    assert!(moved < position(|image| image.removed), "the name leads to no removed blob");
}

#[test]
fn what_a_name_holds_can_neither_be_dropped_nor_moved() {
    let mut memory = store(2, &[]);
    memory.batch(|changes, next| set(changes, next, 0, 0).unwrap());
    memory.batch(|changes, next| {
        for refused in [
            changes.dereference(&digest(0)).map(drop),
            changes.link(&digest(0), &digest(1)),
            set(changes, next, 0, 0).map(drop),
            set(changes, next, 1, 0).map(drop),
        ] {
            assert!(matches!(refused, Err(Error::NoSpareReference { references: 1, held: 1, .. })));
        }
        assert!(matches!(set(changes, next, 0, 9), Err(Error::NotFound { .. })));
        let refused = changes.remove_name(&name(1));
        assert!(matches!(refused, Err(Error::NoSuchName { name: given }) if given == name(1)));
    });
    assert_eq!((counts(&memory, 0), counts(&memory, 1), memory.counters.names), ((1, 1), (1, 0), 1));
}

#[test]
fn a_removed_name_takes_along_what_it_alone_kept() {
    let mut memory = store(3, &[(0, 1), (0, 2)]);
    memory.batch(|changes, next| set(changes, next, 0, 0).unwrap());
    let (removed, outcome) = memory.batch(|changes, _| changes.remove_name(&name(0)).unwrap());
    assert_eq!((removed.blobs(), removed.frame_bytes), (3, 3 * 192 + 128));
    assert_eq!((memory.records.len(), memory.counters.names), (0, 0));
    assert_eq!(memory.counters.dead_bytes, removed.frame_bytes);
    assert!(outcome.images.iter().all(|image| image.removed));
}

#[test]
fn names_come_and_go_at_both_ends_of_the_ring_and_in_between() {
    let mut memory = store(1, &[]);
    for removed in [0, 1, 2] {
        memory.batch(|changes, next| {
            for number in 0..3 {
                changes.reference(&digest(0)).unwrap();
                set(changes, next, number, 0).unwrap();
            }
        });
        assert_eq!(memory.ring().len(), 3);
        memory.batch(|changes, _| changes.remove_name(&name(removed)).unwrap());
        assert_eq!((memory.ring().len(), memory.counters.names, counts(&memory, 0)), (2, 2, (3, 2)));
        memory.batch(|changes, _| {
            for number in (0..3).filter(|&number| number != removed) {
                changes.remove_name(&name(number)).unwrap();
            }
        });
        assert_eq!((memory.ring().len(), memory.records.len(), counts(&memory, 0)), (0, 1, (1, 0)));
    }
}

#[test]
fn a_name_that_goes_and_comes_back_in_one_batch_has_a_new_frame_and_the_ring_its_anchor() {
    let mut memory = store(1, &[]);
    memory.batch(|changes, next| set(changes, next, 0, 0).unwrap());
    let old = memory.ring()[0].id;
    let (_, outcome) = memory.batch(|changes, next| {
        changes.reference(&digest(0)).unwrap();
        changes.remove_name(&name(0)).unwrap();
        assert!(set(changes, next, 0, 0).unwrap().is_new);
        changes.reference(&digest(0)).unwrap();
        set(changes, next, 1, 0).unwrap();
        changes.remove_name(&name(1)).unwrap();
    });
    let ring = memory.ring();
    assert_eq!((ring.len(), counts(&memory, 0), memory.counters.names), (1, (1, 1), 1));
    assert_ne!(ring[0].id, old);
    let gone = outcome.images.iter().filter(|image| image.removed).map(|image| image.record.key());
    assert_eq!(gone.filter(|key| *key == Key::Name(old)).count(), 1);
}

#[test]
fn a_name_that_comes_and_goes_in_one_batch_leaves_its_removal_only() {
    let mut memory = store(1, &[]);
    let (_, outcome) = memory.batch(|changes, next| {
        changes.reference(&digest(0)).unwrap();
        set(changes, next, 0, 0).unwrap();
        changes.remove_name(&name(0)).unwrap();
    });
    let images: Vec<_> = outcome.images.iter().map(|image| (image.record.key(), image.removed)).collect();
    let [(Key::Blob(_), false), (Key::Name(id), true)] = images[..] else { panic!("{images:?}") };
    assert_ne!(id, Offset::NONE, "nobody ever saw the anchor");
}

#[test]
fn a_name_that_is_released_gives_its_reference_to_a_caller() {
    let mut memory = store(1, &[]);
    memory.batch(|changes, next| set(changes, next, 0, 0).unwrap());
    let place = memory.ring()[0].place();
    memory.batch(|changes, _| changes.release_name(place).unwrap());
    memory.names.clear();
    assert_eq!((counts(&memory, 0), memory.records.len(), memory.counters.names), ((1, 0), 1, 0));
    assert_eq!(memory.counters.dead_bytes, 128, "the shortest frame");
}

#[test]
fn what_a_batch_looked_at_and_left_as_it_was_has_no_image() {
    let mut memory = store(3, &[]);
    let (_, outcome) = memory.batch(|changes, _| {
        assert!(changes.unlink(&digest(0), &digest(1)).is_err());
        changes.reference(&digest(2)).unwrap();
    });
    assert_eq!((outcome.images.len(), outcome.digests), (1, vec![digest(2)]));
}

#[test]
fn counts_never_wrap() {
    let mut memory = store(1, &[]);
    let mut full = memory.record(&digest(0));
    full.references = u32::MAX;
    memory.records.insert(Key::Blob(full.id), Record::Blob(full));
    memory.batch(|changes, next| {
        for refused in [changes.reference(&digest(0)).map(drop), put(changes, next, 0).map(drop)] {
            assert!(matches!(refused, Err(Error::TooManyReferences { limit: 0xffff_ffff, .. })));
        }
    });
}

#[test]
fn a_cycle_is_refused_whatever_its_length() {
    let mut memory = store(6, &[(0, 1), (1, 2), (2, 3), (0, 4)]);
    memory.batch(|changes, _| {
        for name in 0..6 {
            changes.reference(&digest(name)).unwrap();
        }
        for (to, from) in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3), (0, 4), (5, 5)] {
            let refused = changes.link(&digest(to), &digest(from));
            assert!(matches!(refused, Err(Error::WouldCycle { .. })), "{from} to {to}");
        }
        for (to, from) in [(3, 0), (4, 3), (5, 4)] {
            changes.link(&digest(to), &digest(from)).unwrap();
        }
        changes.reference(&digest(0)).unwrap();
        let refused = changes.link(&digest(0), &digest(5));
        assert!(matches!(refused, Err(Error::WouldCycle { .. })), "the links of this batch count");
    });
}

#[test]
fn a_link_between_two_chains_closes_no_cycle() {
    let mut memory = store(6, &[(0, 1), (1, 2), (3, 4), (4, 5)]);
    memory.batch(|changes, _| changes.link(&digest(3), &digest(2)).unwrap());
    assert_eq!((counts(&memory, 3), memory.counters.links), ((1, 1), 5));
}

#[test]
fn the_last_reference_takes_along_what_it_alone_kept() {
    // 0 keeps 1, and 1 keeps 2 and 3; 3 is kept by 4 as well.
    let mut memory = store(5, &[(0, 1), (1, 2), (1, 3), (4, 3)]);
    let ids = [0, 1, 2].map(|name| memory.record(&digest(name)).id);
    let (removed, outcome) = memory.batch(|changes, _| changes.dereference(&digest(0)).unwrap());
    assert_eq!((&removed.ids[..], removed.blobs(), removed.payload_bytes), (&ids[..], 3, 303));
    assert_eq!(removed.frame_bytes, 3 * 192);
    assert_eq!((counts(&memory, 3), memory.counters.blobs, memory.counters.links), ((1, 1), 2, 1));
    assert_eq!(memory.counters.dead_bytes, removed.frame_bytes);
    let kept = outcome.images.iter().take_while(|image| !image.removed).count();
    assert!(outcome.images[kept..].iter().all(|image| image.removed));
}

#[test]
fn unlinking_drops_the_reference_that_the_link_held() {
    let mut memory = store(3, &[(0, 1), (1, 2)]);
    let (removed, _) = memory.batch(|changes, _| changes.unlink(&digest(1), &digest(0)).unwrap());
    assert_eq!((removed.blobs(), memory.counters.blobs, memory.counters.links), (2, 1, 0));
    assert_eq!(memory.record(&digest(0)).out_count, 0);
}

#[test]
fn what_is_born_and_dies_in_one_batch_leaves_its_removal_only() {
    let mut memory = Memory::default();
    let (_, outcome) = memory.batch(|changes, next| {
        for name in [0, 4] {
            put(changes, next, name).unwrap();
        }
        changes.link(&digest(4), &digest(0)).unwrap();
        changes.dereference(&digest(0)).unwrap();
        assert_eq!(changes.blob(&digest(4)).unwrap(), None);
    });
    assert_eq!(outcome.images.len(), 2);
    assert!(outcome.images.iter().all(|image| image.removed && matches!(image.record, Record::Blob(_))));
    let frames = 192 + (64 + LARGE_BYTES + 64) + PAGE_BYTES;
    assert_eq!(memory.counters, CountersNow { dead_bytes: frames, commits: 1, ..CountersNow::default() });
}

#[test]
fn a_link_that_dies_twice_in_one_batch_is_removed_once_and_after_its_blob() {
    let mut memory = store(2, &[(0, 1)]);
    let [from, to] = [0, 1].map(|name| memory.record(&digest(name)).id);
    let (_, outcome) = memory.batch(|changes, _| {
        changes.reference(&digest(1)).unwrap();
        changes.unlink(&digest(1), &digest(0)).unwrap();
        changes.link(&digest(1), &digest(0)).unwrap();
        changes.dereference(&digest(0)).unwrap();
    });
    let keys: Vec<Key> = outcome.images.iter().map(|image| image.record.key()).collect();
    assert_eq!(keys, [Key::Blob(from), Key::Link(from, to), Key::Blob(to)]);
    assert!(outcome.images.iter().all(|image| image.removed) && memory.records.is_empty());
}

#[test]
fn a_digest_that_dies_and_comes_back_is_a_new_blob() {
    let mut memory = store(1, &[]);
    let old = memory.record(&digest(0)).id;
    let (_, outcome) = memory.batch(|changes, next| {
        changes.dereference(&digest(0)).unwrap();
        assert!(put(changes, next, 0).unwrap());
        assert_ne!(changes.blob(&digest(0)).unwrap().unwrap().id, old);
    });
    assert_eq!(outcome.images.iter().map(|image| image.removed).collect::<Vec<_>>(), [false, true]);
    assert_eq!(outcome.images[1].record.key(), Key::Blob(old));
    assert_ne!(memory.record(&digest(0)).id, old);
}

#[test]
fn new_blobs_come_after_those_that_they_link_to_though_put_before() {
    let mut memory = Memory::default();
    let (_, outcome) = memory.batch(|changes, next| {
        for name in [0, 1, 2, 3] {
            put(changes, next, name).unwrap();
        }
        for (from, to) in [(0, 1), (1, 3), (2, 3)] {
            if from == 2 {
                changes.reference(&digest(to)).unwrap();
            }
            changes.link(&digest(to), &digest(from)).unwrap();
        }
    });
    assert_eq!(outcome.digests, [3, 1, 0, 2].map(digest));
}

#[test]
fn a_long_chain_is_built_and_freed_on_a_small_stack() {
    const LENGTH: u64 = if cfg!(miri) { 40 } else { 100_000 };
    let run = || {
        let mut memory = Memory::default();
        memory.batch(|changes, next| {
            for name in 0..LENGTH {
                put(changes, next, name).unwrap();
            }
            for name in 1..LENGTH {
                changes.link(&digest(name), &digest(name - 1)).unwrap();
            }
        });
        let (found, _) = memory.batch(|changes, _| {
            changes.reference(&digest(0)).unwrap();
            changes.link(&digest(0), &digest(LENGTH - 1))
        });
        assert!(matches!(found, Err(Error::WouldCycle { .. })));
        let (removed, _) = memory.batch(|changes, _| {
            changes.dereference(&digest(0)).unwrap();
            changes.dereference(&digest(0)).unwrap()
        });
        assert_eq!((removed.blobs(), memory.records.len()), (LENGTH, 0));
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}

#[test]
fn records_that_contradict_one_another_are_damage_and_never_a_hang() {
    let links = [(0, 1), (0, 2), (0, 3), (3, 1), (2, 1)];
    let named = || {
        let mut memory = store(5, &links);
        memory.batch(|changes, next| {
            for (number, blob) in [(0, 0), (1, 3), (2, 4)] {
                changes.reference(&digest(blob)).unwrap();
                set(changes, next, number, blob).unwrap();
            }
        });
        memory
    };
    let good = named();
    let mut keys: Vec<Key> = good.records.keys().copied().collect();
    keys.sort();
    let blobs = (0..5).map(|name| good.record(&digest(name)).id);
    let ids: Vec<Offset> = blobs.chain(good.ring().iter().map(|name| name.id)).chain([Offset::NONE]).collect();
    let mut damages = 0;
    let mut try_all = |memory: &mut Memory| {
        let spares = [4, 0, 2].map(digest);
        let mut see = |result: Result<()>| match result {
            Err(error) if error.is_damage() => damages += 1,
            _ => {}
        };
        // What is left half made has to be thrown away: each on changes of its own.
        see(Changes::new(memory, memory.counters).dereference(&digest(0)).map(drop));
        for &(from, to) in &links {
            see(Changes::new(memory, memory.counters).unlink(&digest(to), &digest(from)).map(drop));
        }
        for number in 0..4 {
            see(Changes::new(memory, memory.counters).remove_name(&name(number)).map(drop));
            let mut next = 1 << 20;
            see(set(&mut Changes::new(memory, memory.counters), &mut next, number, 4).map(drop));
        }
        for to in 0..5 {
            for from in spares {
                let mut changes = Changes::new(memory, memory.counters);
                see(changes.reference(&digest(to)).and_then(|_| changes.link(&digest(to), &from)));
                drop(changes.finish());
            }
        }
    };
    for key in keys {
        let record = good.records[&key];
        let mut variants = Vec::new();
        for &id in &ids {
            match record {
                Record::Blob(blob) => {
                    variants.push(Record::Blob(BlobRecord { first_out: id, ..blob }));
                    variants.push(Record::Blob(BlobRecord { first_in: id, ..blob }));
                }
                Record::Link(link) => {
                    variants.push(Record::Link(LinkRecord { next_out: id, ..link }));
                    variants.push(Record::Link(LinkRecord { previous_out: id, ..link }));
                    variants.push(Record::Link(LinkRecord { next_in: id, ..link }));
                    variants.push(Record::Link(LinkRecord { previous_in: id, ..link }));
                }
                Record::Name(name) => {
                    variants.push(Record::Name(NameRecord { id, ..name }));
                    variants.push(Record::Name(NameRecord { target: id, ..name }));
                    let tag = good.name_by_id(id).map_or(name.tag, |other| other.tag);
                    for tag in [tag, tag + 1] {
                        variants.push(Record::Name(NameRecord { next: Neighbour { id, tag }, ..name }));
                        variants.push(Record::Name(NameRecord { previous: Neighbour { id, tag }, ..name }));
                    }
                }
            }
        }
        if let Record::Blob(blob) = record {
            for count in [0, 1, 2, 3, u32::MAX] {
                variants.push(Record::Blob(BlobRecord { references: count, ..blob }));
                variants.push(Record::Blob(BlobRecord { references: count, held: count, ..blob }));
                variants
                    .push(Record::Blob(BlobRecord { out_count: u64::from(count) << 32 | u64::from(count), ..blob }));
            }
        }
        let mut memory = named();
        for variant in variants {
            memory.records.insert(key, variant);
            try_all(&mut memory);
        }
        memory.records.remove(&key);
        if let Key::Link(..) | Key::Name(_) = key {
            try_all(&mut memory);
        }
    }
    assert!(damages > 500, "{damages}");
}
