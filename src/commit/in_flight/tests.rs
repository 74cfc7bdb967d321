//! What is on its way into the index.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::commit::lock;
use crate::digest::Algorithm;
use crate::medium::SimDirectory;
use crate::record::{CountersNow, Image};
use crate::store::Store;

fn digest(number: u8) -> Digest {
    Digest::of(Algorithm::Sha256, &[number])
}

fn blob(id: u64, references: u32) -> BlobRecord {
    let none = Offset::NONE;
    let algorithm = Algorithm::Sha256;
    let (id, length) = (Offset(id), 5);
    BlobRecord { tag: 9, id, length, algorithm, references, held: 0, first_out: none, first_in: none, out_count: 0 }
}

fn link(from: u64, to: u64) -> LinkRecord {
    let none = Offset::NONE;
    let (from, to) = (Offset(from), Offset(to));
    LinkRecord { tag: 8, from, to, next_out: none, previous_out: none, next_in: none, previous_in: none }
}

fn name(id: u64) -> NameRecord {
    NameRecord { id: Offset(id), target: Offset(64), ..NameRecord::anchor(7) }
}

fn outcome(images: &[(Record, bool)], digests: &[u8], names: &[(&str, Option<u64>)]) -> Arc<Outcome> {
    Arc::new(Outcome {
        images: images.iter().map(|&(record, removed)| Image { record, removed }).collect(),
        digests: digests.iter().map(|&number| digest(number)).collect(),
        names: names.iter().map(|(name, id)| (Name::new(*name).unwrap(), id.map(Offset))).collect(),
        counters: CountersNow::default(),
    })
}

impl InFlight {
    fn sizes(&self) -> [usize; 6] {
        let maps = [self.blobs.len(), self.ids.len(), self.links.len(), self.names.len(), self.texts.len()];
        [self.waiting.len(), maps[0], maps[1], maps[2], maps[3], maps[4]]
    }
}

#[test]
fn the_newest_state_counts_until_it_is_in_the_index() {
    let mut flight = InFlight::default();
    let living = [(Record::Blob(blob(64, 1)), false), (Record::Link(link(64, 128)), false)];
    let first = [living[0], living[1], (Record::Name(name(192)), false)];
    flight.waiting.push((1, outcome(&first, &[1], &[("a", Some(192))])));
    assert_eq!(flight.sizes(), [1, 0, 0, 0, 0, 0], "a single caller never needs the maps");
    flight.map();
    let a = Name::new("a").unwrap();
    let ends = (Offset(64), Offset(128));
    assert_eq!(flight.blobs[&digest(1)], (1, Some(blob(64, 1))));
    assert_eq!((flight.ids[&Offset(64)], flight.links[&ends]), ((1, digest(1)), (1, Some(link(64, 128)))));
    assert_eq!((flight.names[&Offset(192)], flight.texts[&a]), ((1, Some(name(192))), (1, Some(Offset(192)))));

    let second = [
        (Record::Blob(blob(64, 0)), true),
        (Record::Link(link(64, 128)), true),
        (Record::Name(name(192)), true),
        (Record::Blob(blob(256, 1)), false),
    ];
    flight.waiting.push((2, outcome(&second, &[1, 2], &[("a", None)])));
    flight.map();
    let gone = |flight: &InFlight| {
        assert_eq!((flight.blobs[&digest(1)], flight.blobs[&digest(2)]), ((2, None), (2, Some(blob(256, 1)))));
        assert_eq!((flight.ids[&Offset(64)], flight.links[&ends]), ((2, digest(1)), (2, None)));
        assert_eq!((flight.names[&Offset(192)], flight.texts[&a]), ((2, None), (2, None)));
    };
    gone(&flight);
    // The first is in the index. Of what the second has changed nothing is forgotten.
    flight.forget(1);
    gone(&flight);
    assert_eq!((flight.sizes(), flight.mapped), ([1, 2, 2, 1, 1, 1], 1));
    flight.waiting.push((3, outcome(&living, &[1], &[])));
    flight.forget(2);
    assert_eq!((flight.sizes(), flight.mapped), ([1, 0, 0, 0, 0, 0], 0), "the third is not in the maps yet");
    flight.map();
    assert_eq!(flight.sizes(), [1, 1, 1, 1, 0, 0]);
    flight.forget(3);
    assert_eq!((flight.sizes(), flight.mapped), ([0; 6], 0));
}

#[test]
fn a_digest_that_died_and_came_back_lives_whichever_image_comes_first() {
    let images = [(Record::Blob(blob(256, 1)), false), (Record::Blob(blob(64, 0)), true)];
    for order in [[0, 1], [1, 0]] {
        let mut flight = InFlight::default();
        flight.waiting.push((1, outcome(&order.map(|at| images[at]), &[1, 1], &[])));
        flight.map();
        assert_eq!(flight.blobs[&digest(1)], (1, Some(blob(256, 1))));
        // Then it dies.
        flight.waiting.push((2, outcome(&[(Record::Blob(blob(256, 0)), true)], &[1], &[])));
        flight.map();
        assert_eq!(flight.blobs[&digest(1)], (2, None));
    }
    // It lived and died in one batch.
    let mut flight = InFlight::default();
    let born = [(Record::Blob(blob(64, 1)), false), (Record::Blob(blob(64, 0)), true)];
    flight.waiting.push((1, outcome(&born, &[1, 1], &[])));
    flight.map();
    assert_eq!(flight.blobs[&digest(1)], (1, None));
}

#[test]
fn a_name_is_as_the_newest_batch_leaves_it() {
    let store = Store::options().create_in(SimDirectory::new(64 << 20).create("a.pack").unwrap()).unwrap().unwrap();
    let blob = store.put(b"a blob").unwrap().digest;
    let name = Name::new("a").unwrap();
    store.set_name(&name, &blob).unwrap();
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    let mut state = lock(&writer.state);
    let stored = Current::new(&state, writer.source()).name(&name).unwrap().unwrap();
    let changed = NameRecord { target: Offset(64), ..stored };
    assert_ne!(stored, changed);
    // Its neighbour, say, changed in a batch on its way, which did not speak of the name.
    state.in_flight.names.insert(stored.id, (9, Some(changed)));
    assert_eq!(Current::new(&state, writer.source()).name(&name).unwrap(), Some(changed));
    state.in_flight.names.clear();
}
