//! Records that contradict one another, each by what is said of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::tests::{Memory, digest, name, set, store};
use super::*;
use crate::record::{Key, Record};

type Change<T> = fn(&mut T);

fn is_damage<T>(result: Result<T>, what: &str) {
    let error = result.err().unwrap_or_else(|| panic!("it should be told: {what}"));
    assert!(error.is_damage() && error.to_string().contains(what), "{what}: {error}");
}

fn changes(memory: &Memory) -> Changes<'_, Memory> {
    Changes::new(memory, memory.counters)
}

fn id(memory: &Memory, name: u64) -> Offset {
    memory.ids[&digest(name)]
}

fn forge(memory: &mut Memory, name: u64, change: impl FnOnce(&mut BlobRecord)) {
    let mut record = memory.record(&digest(name));
    change(&mut record);
    memory.records.insert(Key::Blob(id(memory, name)), Record::Blob(record));
}

fn forge_link(memory: &mut Memory, from: u64, to: u64, change: impl FnOnce(&mut LinkRecord)) {
    let (from, to) = (id(memory, from), id(memory, to));
    let mut record = memory.link(from, to).unwrap().unwrap();
    change(&mut record);
    memory.records.insert(Key::Link(from, to), Record::Link(record));
}

/// One blob with three names; the ring has the newest first.
fn three_names() -> Memory {
    let mut memory = store(1, &[]);
    memory.batch(|changes, next| {
        for number in 0..3 {
            changes.reference(&digest(0)).unwrap();
            set(changes, next, number, 0).unwrap();
        }
    });
    memory
}

fn forge_name(memory: &mut Memory, number: u64, change: impl FnOnce(&mut NameRecord)) {
    let id = memory.names[&name(number)];
    let mut record = memory.name_by_id(id).unwrap();
    change(&mut record);
    memory.records.insert(Key::Name(id), Record::Name(record));
}

#[test]
fn a_blob_has_as_many_references_as_are_held_or_more_and_lists_where_they_are_counted() {
    let cases: [(u64, Change<BlobRecord>); 6] = [
        (2, |blob| blob.references = 0),
        (2, |blob| blob.held = 2),
        (2, |blob| blob.out_count = 1),
        (0, |blob| blob.out_count = 0),
        (0, |blob| blob.first_out = Offset::NONE),
        (1, |blob| blob.held = 0),
    ];
    for (name, change) in cases {
        let mut memory = store(3, &[(0, 1)]);
        changes(&memory).reference(&digest(name)).unwrap();
        forge(&mut memory, name, change);
        is_damage(changes(&memory).reference(&digest(name)), "counts of a blob's record contradict one another");
    }
}

#[test]
fn a_frame_has_one_record() {
    let mut memory = store(2, &[]);
    let first = id(&memory, 0);
    memory.ids.insert(digest(1), first);
    let mut changes = changes(&memory);
    changes.reference(&digest(0)).unwrap();
    is_damage(changes.reference(&digest(1)), "a frame has two records");
}

#[test]
fn a_link_to_a_blob_that_the_batch_has_removed_is_damage() {
    // 1 does not know that 0 links to it.
    let mut memory = store(4, &[(0, 1), (2, 3)]);
    forge(&mut memory, 1, |blob| (blob.held, blob.first_in) = (0, Offset::NONE));
    let removed = || {
        let mut changes = changes(&memory);
        assert_eq!(changes.dereference(&digest(1)).unwrap().blobs(), 1);
        changes
    };
    is_damage(removed().dereference(&digest(0)), "a link or a name leads to a removed blob");
    is_damage(removed().link(&digest(0), &digest(3)), "a link leads to a removed blob");
}

#[test]
fn a_list_that_is_longer_than_counted_is_damage() {
    let mut memory = store(5, &[(0, 1), (0, 2), (3, 4)]);
    changes(&memory).unlink(&digest(1), &digest(0)).unwrap();
    forge(&mut memory, 0, |blob| blob.out_count = 1);
    is_damage(changes(&memory).unlink(&digest(1), &digest(0)), "the links out are not as many as counted");
    is_damage(changes(&memory).dereference(&digest(0)), "the links out are more than counted");
    // The search for a cycle follows them too.
    is_damage(changes(&memory).link(&digest(0), &digest(4)), "neighbours in the list of links out disagree");

    let mut memory = store(3, &[(0, 2), (1, 2)]);
    changes(&memory).unlink(&digest(2), &digest(0)).unwrap();
    forge(&mut memory, 2, |blob| blob.held = 1);
    is_damage(changes(&memory).unlink(&digest(2), &digest(0)), "the links in and names are not as many as counted");
}

#[test]
fn neighbours_in_a_list_that_disagree_are_damage_to_a_search_too() {
    let mut memory = store(5, &[(0, 1), (0, 2), (3, 4)]);
    changes(&memory).link(&digest(0), &digest(4)).unwrap();
    forge_link(&mut memory, 0, 1, |link| link.previous_out = Offset::NONE);
    is_damage(changes(&memory).link(&digest(0), &digest(4)), "neighbours in the list of links out disagree");

    let mut memory = store(5, &[(0, 2), (1, 2), (3, 4)]);
    changes(&memory).link(&digest(3), &digest(2)).unwrap();
    forge_link(&mut memory, 0, 2, |link| link.previous_in = Offset::NONE);
    is_damage(changes(&memory).link(&digest(3), &digest(2)), "neighbours in the list of links in disagree");
}

#[test]
fn a_list_that_leads_to_no_link_is_damage() {
    let mut memory = store(3, &[(0, 2), (1, 2)]);
    let key = Key::Link(id(&memory, 0), id(&memory, 2));
    memory.records.remove(&key);
    is_damage(changes(&memory).dereference(&digest(0)), "the list of links out leads to a link that is not there");
    let unlinked = changes(&memory).unlink(&digest(2), &digest(1));
    is_damage(unlinked, "the list of links in leads to a link that is not there");
}

#[test]
fn a_name_that_either_neighbour_does_not_know_is_damage() {
    let good = three_names();
    changes(&good).remove_name(&name(1)).unwrap();
    let anchor = Neighbour::anchor(good.anchor_tag());
    let mut memory = three_names();
    forge_name(&mut memory, 2, |newer| newer.next = anchor);
    is_damage(changes(&memory).remove_name(&name(1)), "neighbours in the ring of names disagree");
    let mut memory = three_names();
    forge_name(&mut memory, 0, |older| older.previous = anchor);
    is_damage(changes(&memory).remove_name(&name(1)), "neighbours in the ring of names disagree");
}

#[test]
fn a_name_without_a_frame_or_a_blob_is_damage() {
    let cases: [Change<NameRecord>; 2] = [|name| name.id = Offset::NONE, |name| name.target = Offset::NONE];
    for change in cases {
        let mut memory = three_names();
        forge_name(&mut memory, 1, change);
        is_damage(changes(&memory).remove_name(&name(1)), "a name's record has no frame or no blob");
    }
}
