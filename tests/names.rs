//! Names through the public calls: what they hold, what they survive, and what a pack with them says of itself.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use blobpack::commit::{RESERVED_DEREFERENCES, Tuning};
use blobpack::format::{
    CHUNK_ALIGN, FrameHeader, Kind, Offset, SPACE_AT, SUPERBLOCKS_AT, Superblock, checksum_without, features,
};
use blobpack::medium::{Medium, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, Digest, Error, Name, Store};
use zerocopy::{FromBytes, IntoBytes};

mod common;
use common::{PACK, open_simulated, simulated, small};

const FILE_BYTES_MAX: u64 = 64 << 20;

fn name(text: impl std::fmt::Display) -> Name {
    Name::new(text.to_string()).unwrap()
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn sound<M: Medium>(store: &Store<M>, names: u64) {
    let verified = store.verify().unwrap();
    assert!(verified.damage.is_empty(), "{:?}", verified.damage);
    assert_eq!((verified.names, store.stats().unwrap().names), (names, names));
    assert_eq!(store.names().unwrap().len() as u64, names);
}

/// The incompatible features of both superblocks.
fn flags(directory: &SimDirectory) -> [u64; 2] {
    let bytes = directory.bytes(PACK).unwrap();
    SUPERBLOCKS_AT.map(|at| {
        let at = usize::try_from(at.0).unwrap();
        Superblock::read_from_bytes(&bytes[at..at + 512]).unwrap().incompatible.get()
    })
}

#[test]
fn a_name_keeps_a_blob_alive_and_lets_go_of_the_one_before() {
    let store = Store::temporary().unwrap();
    let (old, new) = (store.put(b"old").unwrap().digest, store.put(b"new").unwrap().digest);
    let latest = name("library/alpine:latest");
    assert!(matches!(store.name(&latest), Err(Error::NoSuchName { name }) if name == latest));
    assert!(store.set_name(&latest, &old).unwrap().is_empty());
    assert_eq!((store.name(&latest).unwrap(), store.descriptor(&old).unwrap().ref_count), (old, 1));
    assert!(matches!(store.dereference(&old), Err(Error::NoSpareReference { references: 1, held: 1, .. })));
    let removed = store.set_name(&latest, &new).unwrap();
    assert_eq!(removed.digests().collect::<Result<Vec<_>, _>>().unwrap(), [old]);
    assert_eq!(store.names().unwrap(), [(latest.clone(), new)]);
    sound(&store, 1);
    assert_eq!(store.remove_name(&latest).unwrap().blobs(), 1);
    assert!(store.remove_name(&latest).unwrap_err().is_not_found());
    sound(&store, 0);
}

#[test]
fn setting_what_a_name_holds_already_consumes_the_callers_reference() {
    let store = Store::temporary().unwrap();
    let digest = store.put(b"x").unwrap().digest;
    store.set_name(&name("x"), &digest).unwrap();
    assert!(store.set_name(&name("x"), &digest).is_err());
    store.reference(&digest).unwrap();
    assert!(store.set_name(&name("x"), &digest).unwrap().is_empty());
    assert_eq!(store.descriptor(&digest).unwrap().ref_count, 1);
    sound(&store, 1);
}

#[test]
fn a_batch_sets_and_removes_names_as_a_whole_and_names_the_operation_that_failed() {
    let store = Store::temporary().unwrap();
    let mut batch = store.batch();
    let layer = batch.put(b"layer").unwrap();
    let manifest = batch.put(b"manifest").unwrap();
    batch.link(&layer, &manifest).set_name(&name("b"), &manifest).reference(&manifest).set_name(&name("a"), &manifest);
    batch.commit().unwrap();
    assert_eq!(store.names().unwrap(), [(name("a"), manifest), (name("b"), manifest)]);

    let mut batch = store.batch();
    batch.remove_name(&name("a")).remove_name(&name("nobody"));
    let error = batch.commit().unwrap_err();
    assert!(error.is_not_found() && matches!(error, Error::Batch { index: 1, .. }));
    let mut batch = store.batch();
    batch.remove_name(&name("a")).set_name(&name("c"), &manifest);
    let error = batch.commit().unwrap_err();
    let Error::Batch { index: 1, source } = error else { panic!("{error}") };
    assert!(matches!(*source, Error::NoSpareReference { .. }));
    assert_eq!(store.names().unwrap().len(), 2);

    let mut batch = store.batch();
    batch.remove_name(&name("a")).remove_name(&name("b"));
    let removed: u64 = batch
        .commit()
        .unwrap()
        .iter()
        .map(|done| match done {
            blobpack::Outcome::Removed(removed) => removed.blobs(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!((removed, store.stats().unwrap().blobs), (2, 0));
    sound(&store, 0);
}

#[test]
fn names_survive_a_reopen_a_rebuild_and_a_compaction_and_are_listed_in_their_order() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let texts: Vec<String> = (0..200).map(|n| format!("{}{n}", "ä".repeat(n * 5 % 500))).collect();
    let mut expected = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        let digest = store.put(&number.to_le_bytes()).unwrap().digest;
        store.set_name(&name(text), &digest).unwrap();
        expected.push((name(text), digest));
    }
    for (name, _) in expected.drain(50..70) {
        store.remove_name(&name).unwrap();
    }
    expected.sort();
    assert_eq!(store.names().unwrap(), expected);
    sound(&store, 180);
    store.compact().unwrap();
    assert_eq!(store.names().unwrap(), expected);
    sound(&store, 180);
    store.set_name(&name("later"), &store.put(b"later").unwrap().digest).unwrap();
    expected.push((name("later"), sha256(b"later")));
    expected.sort();
    store.close().unwrap();
    for how in [How::Open, How::Rebuild] {
        let store = open_simulated(&directory, &small(), how).unwrap();
        assert_eq!(store.names().unwrap(), expected);
        sound(&store, 181);
    }
}

#[test]
fn a_reader_beside_the_writer_sees_names_come_move_and_go() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let (one, two) = (store.put(b"one").unwrap().digest, store.put(b"two").unwrap().digest);
    let medium = directory.open(PACK, false).unwrap();
    let other = small().read_only(true).open_in(medium, How::Open).unwrap().unwrap();
    let reader = other.reader().unwrap();
    assert_eq!((reader.find_name(&name("x")).unwrap(), other.names().unwrap()), (None, vec![]));
    store.set_name(&name("x"), &one).unwrap();
    assert_eq!((reader.name(&name("x")).unwrap(), other.name(&name("x")).unwrap()), (one, one));
    store.set_name(&name("x"), &two).unwrap();
    assert_eq!((reader.name(&name("x")).unwrap(), other.names().unwrap()), (two, vec![(name("x"), two)]));
    store.remove_name(&name("x")).unwrap();
    assert!(matches!(reader.name(&name("x")), Err(Error::NoSuchName { .. })));
    assert!(matches!(other.set_name(&name("x"), &two), Err(Error::ReadOnly { .. })));
}

#[test]
fn a_text_is_a_digest_or_a_prefix_where_it_begins_so_and_else_a_name() {
    let store = Store::temporary().unwrap();
    let digest = store.put(b"x").unwrap().digest;
    store.set_name(&name("md5:what"), &digest).unwrap();
    let whole = digest.to_string();
    for text in [&whole, &whole[..20], "md5:what"] {
        assert_eq!(store.resolve(text).unwrap(), digest);
    }
    assert!(matches!(store.resolve("nobody"), Err(Error::NoSuchName { .. })));
    assert!(matches!(store.resolve(""), Err(Error::InvalidName { .. })));
    assert!(matches!(store.resolve("sha256:nobody"), Err(Error::InvalidDigest { .. })));
}

#[test]
fn both_superblocks_announce_names_before_there_is_one_and_until_a_compaction_finds_none() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let digest = store.put(b"x").unwrap().digest;
    store.checkpoint().unwrap();
    assert_eq!(flags(&directory), [0, 0]);
    // Refused, and announced all the same.
    assert!(store.set_name(&name("x"), &sha256(b"y")).is_err());
    assert_eq!(flags(&directory), [features::NAMES; 2]);
    store.set_name(&name("x"), &digest).unwrap();
    store.reference(&digest).unwrap();
    store.remove_name(&name("x")).unwrap();
    store.checkpoint().unwrap();
    store.close().unwrap();
    let store = open_simulated(&directory, &small(), How::Rebuild).unwrap();
    assert_eq!(flags(&directory), [features::NAMES; 2]);
    store.compact().unwrap();
    assert_eq!(flags(&directory), [0, 0]);
    store.set_name(&name("x"), &digest).unwrap();
    assert_eq!(flags(&directory), [features::NAMES; 2]);
    store.compact().unwrap();
    assert_eq!(flags(&directory), [features::NAMES; 2]);
    sound(&store, 1);
}

#[test]
fn a_listing_beside_a_busy_writer_has_every_name_that_stays() {
    const STAY: u64 = 12;
    const ROUNDS: u64 = 150;
    let directory = tempfile::tempdir().unwrap();
    let options = Store::options().durability(blobpack::Durability::Process).tuning(common::tuning());
    let store = options.open(directory.path()).unwrap();
    let digest = store.put(b"what has all names").unwrap().digest;
    let set = |text: String| {
        store.reference(&digest).unwrap();
        store.set_name(&name(text), &digest).unwrap();
    };
    for number in 0..STAY {
        set(format!("stay {number}"));
        set(format!("go {number}"));
    }
    let other = Store::options().read_only(true).open(directory.path()).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let list = |from: &Store| {
        let mut listings = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) || listings == 0 {
            let names = match from.names() {
                Ok(names) => names,
                // Its writer may have been stopped in the middle of a change for longer than a reader waits.
                Err(Error::Busy { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            assert!(names.is_sorted_by(|a, b| a.0 < b.0), "{names:?}");
            let stayed = names.iter().filter(|(name, _)| name.as_str().starts_with("stay")).count() as u64;
            assert_eq!(stayed, STAY, "{names:?}");
            listings += 1;
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| list(&store));
        scope.spawn(|| list(&other));
        for round in 0..ROUNDS {
            store.remove_name(&name(format!("go {}", round % STAY))).unwrap();
            if round % 3 == 0 {
                store.remove_name(&name(format!("go {}", (round + 1) % STAY))).unwrap();
                set(format!("go {}", (round + 1) % STAY));
            }
            set(format!("go {}", round % STAY));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    sound(&store, 2 * STAY);
}

/// The changes that are guaranteed on a full disk touch so many records in all. Nothing is left to luck: each change
/// touches as many as it can, and no checkpoint comes between.
#[test]
fn names_and_links_can_be_given_up_on_a_full_disk() {
    let tuning = Tuning { reserve_segments: RESERVED_DEREFERENCES, checkpoint_images: 1 << 20, ..common::tuning() };
    let texts: Vec<Name> = (0..3 * RESERVED_DEREFERENCES / 4).map(name).collect();
    for spare in 0..12 {
        let directory = SimDirectory::new(FILE_BYTES_MAX);
        let options = Store::options().tuning(tuning);
        let store = options.create_in(directory.create(PACK).unwrap()).unwrap().unwrap();
        let put = |what: &str, number: u64| store.put(format!("{what} {number}").as_bytes()).unwrap().digest;
        for (number, text) in texts.iter().enumerate() {
            store.set_name(text, &put("named", number as u64)).unwrap();
        }
        // In threes that all link to threes, the link from the second to the second has a neighbour on every side.
        let threes = RESERVED_DEREFERENCES / 7;
        for number in 0..3 * threes {
            put("from", number);
            put("to", number);
        }
        for number in 0..3 * threes {
            for to in number / 3 * 3..number / 3 * 3 + 3 {
                let [to, from] = [put("to", to), sha256(format!("from {number}").as_bytes())];
                store.link(&to, &from).unwrap();
            }
        }
        store.checkpoint().unwrap();
        directory.set_capacity(directory.used() + spare * 4096);
        // One may find room where another, that splits a segment, finds none, and what a refusal gave back may do for
        // the next one: it is full when several in a row were refused.
        let (mut stored, mut refused) = (0, 0);
        while refused < 8 {
            match store.put(&common::content(stored, if refused % 2 == 0 { 400 } else { 4000 })) {
                Ok(_) => (stored, refused) = (stored + 1, 0),
                Err(Error::NoSpace { .. }) => (stored, refused) = (stored + 1, refused + 1),
                Err(error) => panic!("{error:?}"),
            }
        }
        if spare % 2 == 0 {
            for text in texts.iter().skip(1).step_by(3) {
                assert_eq!(store.remove_name(text).unwrap().blobs(), 1, "{spare} pages, {text}");
            }
        } else {
            for middle in (1..3 * threes).step_by(3) {
                let [to, from] = ["to", "from"].map(|what| sha256(format!("{what} {middle}").as_bytes()));
                assert!(store.unlink(&to, &from).unwrap().is_empty(), "{spare} pages, {middle}");
            }
        }
        let left = texts.len() as u64 - if spare % 2 == 0 { RESERVED_DEREFERENCES / 4 } else { 0 };
        sound(&store, left);
        drop(store);
        directory.set_capacity(u64::MAX);
        sound(&open_simulated(&directory, &options, How::Open).unwrap(), left);
    }
}

// Damage

const TEXTS: [&str; 3] = ["first name", "second name", "third name"];

/// A pack of three named blobs, closed, after a change to its bytes. The contents of the blobs are the lengths of the
/// names.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> SimDirectory {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    for text in TEXTS {
        store.set_name(&name(text), &store.put(&text.len().to_le_bytes()).unwrap().digest).unwrap();
    }
    store.close().unwrap();
    let mut bytes = directory.bytes(PACK).unwrap();
    change(&mut bytes);
    common::inserted(bytes, FILE_BYTES_MAX)
}

/// Where the frame of a name stands in a pack's bytes.
fn frame_of(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap() - 64
}

#[test]
fn a_damaged_name_is_an_error_that_says_where_and_the_others_come_and_go_beside_it() {
    let bits = [0, 9 * 8, 12 * 8, 24 * 8 + 3, 32 * 8, 64 * 8 + 5].map(|bit| ("second name", bit));
    for (damaged, bit) in bits.into_iter().chain([("first name", 64 * 8), ("third name", 64 * 8)]) {
        let mut at = 0;
        let directory = changed(|bytes| {
            at = frame_of(bytes, damaged);
            bytes[at + bit / 8] ^= 1 << (bit % 8);
        });
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        let offset = |error: Error| match error {
            Error::Damaged(damage) => damage.offset,
            other => panic!("{other}"),
        };
        assert_eq!(offset(store.name(&name(damaged)).unwrap_err()), at as u64);
        assert_eq!(offset(store.names().unwrap_err()), at as u64);
        assert!(store.compact().unwrap_err().is_damage());
        for text in TEXTS.into_iter().filter(|&text| text != damaged) {
            assert_eq!(store.name(&name(text)).unwrap(), sha256(&text.len().to_le_bytes()));
        }
        let verified = store.verify().unwrap();
        assert_eq!(verified.damage.len(), 1, "{:?}", verified.damage);
        assert_eq!(verified.damage[0].offset, Some(at as u64));
        assert_eq!((verified.names, verified.blobs), (3, 2));
        // All others go, and new ones come.
        let other = store.put(b"other").unwrap().digest;
        store.set_name(&name("other"), &other).unwrap();
        for text in TEXTS.into_iter().filter(|&text| text != damaged) {
            store.remove_name(&name(text)).unwrap();
        }
        store.reference(&other).unwrap();
        store.set_name(&name("one more"), &other).unwrap();
        assert!(store.remove_name(&name(damaged)).unwrap_err().is_damage());
        let kept = sha256(&damaged.len().to_le_bytes());
        assert!(matches!(store.dereference(&kept), Err(Error::NoSpareReference { references: 1, held: 1, .. })));
        assert!(store.set_name(&name(damaged), &kept).unwrap_err().is_damage());
        let verified = store.verify().unwrap();
        assert_eq!((verified.damage.len(), verified.names), (1, 3), "{:?}", verified.damage);
    }
}

/// A damaged text could not be repaired: as the newest name it kept all new ones out, and `compact` never worked again.
#[test]
fn a_rebuild_removes_names_whose_texts_are_damaged_and_gives_their_references_to_callers() {
    let subsets: Vec<Vec<&str>> =
        (1..8).map(|set| (0..3).filter(|n| set >> n & 1 == 1).map(|n| TEXTS[n]).collect()).collect();
    for damaged in &subsets {
        let mut places = Vec::new();
        let directory = changed(|bytes| {
            places = damaged.iter().map(|text| frame_of(bytes, text)).collect();
            // Header and text: nothing of the frame is left to go by.
            places.iter().for_each(|&at| bytes[at..at + 128].fill(0xff));
        });
        let store = open_simulated(&directory, &small(), How::Rebuild).unwrap();
        let mut lost: Vec<_> = store.recovery().lost_names.iter().map(|lost| (lost.offset, lost.digest)).collect();
        lost.sort();
        let mut expected: Vec<_> =
            places.iter().zip(damaged).map(|(&at, text)| (at as u64, sha256(&text.len().to_le_bytes()))).collect();
        expected.sort();
        assert_eq!(lost, expected);
        sound(&store, 3 - damaged.len() as u64);
        store.close().unwrap();
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        assert!(store.recovery().lost_names.is_empty());
        store.compact().unwrap();
        for text in TEXTS {
            let digest = sha256(&text.len().to_le_bytes());
            if damaged.contains(&text) {
                assert_eq!(store.find_name(&name(text)).unwrap(), None);
                store.set_name(&name(text), &digest).unwrap();
            }
            assert_eq!(store.name(&name(text)).unwrap(), digest);
        }
        sound(&store, 3);
        // Each reference is held by the name, as before: none was lost, and none made.
        TEXTS.iter().for_each(|text| drop(store.remove_name(&name(text)).unwrap()));
        assert_eq!(store.stats().unwrap().blobs, 0);
    }
}

/// The name records among some lines of a pack's bytes: where each stands, and what it says: id, target, next, previous,
/// and the tags of these two.
fn records(bytes: &[u8], lines: std::ops::Range<usize>) -> Vec<(usize, [u64; 6])> {
    use blobpack::record::{Image, Record};
    let parsed = |at: usize| Image::parse(bytes[at..at + 64].try_into().unwrap()).map(|image| image.record);
    let lines = lines.map(|line| line * 64);
    let record = |at| match parsed(at)? {
        Record::Name(name) => {
            let ids = [name.id, name.target, name.next.id, name.previous.id].map(|id| id.0);
            Some((at, [ids[0], ids[1], ids[2], ids[3], name.next.tag, name.previous.tag]))
        }
        _ => None,
    };
    lines.filter_map(record).collect()
}

/// The lines of the log, and those of the index, where there are also copies out of use. The log of so few commits is in
/// the first chunk.
fn log_and_index(bytes: &[u8]) -> [std::ops::Range<usize>; 2] {
    let [log, index] = [SPACE_AT.0, SPACE_AT.0 + CHUNK_ALIGN].map(|at| usize::try_from(at / 64).unwrap());
    [log..index, index..bytes.len() / 64]
}

/// Puts another value into a field (by its place in `records`) of all copies of a record, with the right checksum.
fn forge(bytes: &mut [u8], record: u64, field: usize, value: u64) {
    let [_, index] = log_and_index(bytes);
    for (at, _) in records(bytes, index).into_iter().filter(|(_, words)| words[0] == record) {
        bytes[at + 8 + 8 * field..at + 16 + 8 * field].copy_from_slice(&value.to_le_bytes());
        let sum = checksum_without(&bytes[at..at + 64], 56);
        bytes[at + 56..at + 60].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn neighbours_and_targets_that_are_wrong_in_the_index_are_found_and_a_rebuild_mends_them() {
    let mut refused = 0;
    let sound_bytes = changed(|_| {}).bytes(PACK).unwrap();
    // In the log the last image of each counts; in the index the last copy may be one that is out of use.
    let [log, _] = log_and_index(&sound_bytes);
    let newest: BTreeMap<u64, [u64; 6]> =
        records(&sound_bytes, log).into_iter().map(|(_, words)| (words[0], words)).collect();
    assert_eq!(newest.len(), 4, "three names and the anchor");
    let cases = newest.keys().flat_map(|&record| (1..6).map(move |field| (record, field)));
    for (record, field) in cases {
        let there = newest.values().map(|words| words[if field < 4 { 0 } else { field }]);
        let mut others: Vec<u64> =
            there.chain([64, 1 << 50]).filter(|&value| value != newest[&record][field]).collect();
        others.dedup();
        for other in others {
            let what = format!("field {field} of {record} is {other}");
            let mut bytes = sound_bytes.clone();
            forge(&mut bytes, record, field, other);
            let directory = common::inserted(bytes, FILE_BYTES_MAX);
            let store = open_simulated(&directory, &small(), How::Open).unwrap();
            assert!(!store.verify().unwrap().damage.is_empty(), "{what}");
            // Every call ends, with what there is or with an error that is one.
            match store.names() {
                Ok(names) => assert!(names.len() <= 3, "{what}"),
                Err(error) => assert!(error.is_damage(), "{what}: {error}"),
            }
            for text in TEXTS {
                if let Err(error) = store.remove_name(&name(text)) {
                    assert!(error.is_damage(), "{what}: {error}");
                    refused += 1;
                }
            }
        }
        let mut bytes = sound_bytes.clone();
        forge(&mut bytes, record, field, 64);
        let directory = common::inserted(bytes, FILE_BYTES_MAX);
        sound(&open_simulated(&directory, &small(), How::Rebuild).unwrap(), 3);
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn a_forged_frame_with_a_text_that_is_no_name_is_damage_and_never_a_name() {
    let too_long = vec![b'x'; 1025];
    let texts: [&[u8]; 8] =
        [b"", b"\0", b"second\nname", b"\xff\xfe", b"sha256:what", b"sha512:", &too_long, "\u{9f}".as_bytes()];
    for text in texts {
        let mut at = 0;
        let directory = changed(|bytes| {
            at = frame_of(bytes, "second name");
            let marker = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let mut detail = [0; 32];
            detail[..4].copy_from_slice(&crc32fast::hash(text).to_le_bytes());
            let head = FrameHeader::plain(marker, Kind::Name, Offset(at as u64), text.len() as u64, detail);
            bytes[at..at + 64].copy_from_slice(head.as_bytes());
            // The longest one writes over what follows, which is damage of its own.
            bytes[at + 64..at + 64 + text.len()].copy_from_slice(text);
        });
        let medium = directory.open(PACK, false).unwrap();
        let Ok(Some(store)) = small().read_only(true).open_in(medium, How::Open) else {
            assert_eq!(text.len(), 1025);
            continue;
        };
        assert!(store.name(&name("second name")).unwrap_err().is_damage(), "{text:?}");
        assert!(store.names().unwrap_err().is_damage(), "{text:?}");
        let verified = store.verify().unwrap();
        assert!(verified.damage.iter().any(|found| found.offset == Some(at as u64)), "{text:?}: {:?}", verified.damage);
    }
}

#[test]
fn whichever_superblock_is_left_announces_the_names() {
    let directory = changed(|_| {});
    assert_eq!(flags(&directory), [features::NAMES; 2]);
    for at in SUPERBLOCKS_AT {
        let mut bytes = directory.bytes(PACK).unwrap();
        bytes[usize::try_from(at.0).unwrap() + 300] ^= 1;
        let left = common::inserted(bytes, FILE_BYTES_MAX);
        let store = open_simulated(&left, &small(), How::Open).unwrap();
        assert_eq!(store.names().unwrap().len(), 3);
    }
}

/// Where the images of the newest commit stand that are of names.
fn newest_images(bytes: &[u8]) -> (usize, Vec<usize>) {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let space = usize::try_from(SPACE_AT.0).unwrap();
    let is_commit = |&at: &usize| bytes[at..at + 8] == bytes[32..40] && bytes[at + 8] == Kind::Commit as u8;
    let commit = (space..space + 65_536).step_by(64).rfind(is_commit).unwrap();
    let images = usize::try_from(word(commit + 64 + 16)).unwrap();
    let is_name = |at: &usize| bytes[at + 60] == Kind::Name as u8;
    (commit, (0..images).map(|number| commit + 64 + 128 + 64 * number).filter(is_name).collect())
}

/// Makes the checksums of an image and of the commit around it right again.
fn seal(bytes: &mut [u8], commit: usize, image: usize) {
    let sum = checksum_without(&bytes[image..image + 64], 56);
    bytes[image + 56..image + 60].copy_from_slice(&sum.to_le_bytes());
    let length = usize::try_from(u64::from_le_bytes(bytes[commit + 24..commit + 32].try_into().unwrap())).unwrap();
    let sum = crc32fast::hash(&bytes[commit + 64..commit + 64 + length]);
    bytes[commit + 52..commit + 56].copy_from_slice(&sum.to_le_bytes());
    let sum = checksum_without(&bytes[commit..commit + 64], 12);
    bytes[commit + 12..commit + 16].copy_from_slice(&sum.to_le_bytes());
}

/// Asks and changes all that has to do with names; every call ends, with a result or with damage.
fn use_names<M: Medium>(store: &Store<M>, what: &str) {
    let fine = |result: Result<(), Error>| match result {
        Err(error) if !error.is_damage() && !error.is_not_found() => {
            assert!(matches!(error, Error::NoSpareReference { .. }), "{what}: {error}");
        }
        _ => {}
    };
    match store.names() {
        Ok(names) => assert!(names.len() <= 4, "{what}"),
        Err(error) => assert!(error.is_damage(), "{what}: {error}"),
    }
    fine(store.compact().map(drop));
    let digest = store.put(b"one more").unwrap().digest;
    for text in TEXTS {
        fine(store.name(&name(text)).map(drop));
        fine(store.set_name(&name(text), &digest).map(drop));
        fine(store.reference(&digest).map(drop));
        fine(store.remove_name(&name(text)).map(drop));
    }
    fine(store.set_name(&name("new"), &digest).map(drop));
    store.verify().unwrap();
}

#[test]
fn a_forged_image_of_a_name_in_the_log_is_found_and_does_no_harm() {
    type Last = fn(&Store<blobpack::medium::Sim>);
    let lasts: [Last; 3] = [
        |store| drop(store.set_name(&name("new"), &sha256(&10_usize.to_le_bytes())).unwrap()),
        |store| drop(store.set_name(&name("second name"), &sha256(&10_usize.to_le_bytes())).unwrap()),
        |store| drop(store.remove_name(&name("second name")).unwrap()),
    ];
    let mut forged = 0;
    for (number, last) in lasts.iter().enumerate() {
        let (directory, store) = simulated(FILE_BYTES_MAX);
        for text in TEXTS {
            store.set_name(&name(text), &store.put(&text.len().to_le_bytes()).unwrap().digest).unwrap();
        }
        store.reference(&sha256(&10_usize.to_le_bytes())).unwrap();
        store.checkpoint().unwrap();
        last(&store);
        let bytes = directory.bytes(PACK).unwrap();
        let names = store.names().unwrap();
        drop(store);
        let (commit, images) = newest_images(&bytes);
        assert!(!images.is_empty());
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        for &image in &images {
            let is_removal = bytes[image + 62] == 1;
            // The tag, then what is in `records`; the flags at last.
            for field in (0..7).map(|field| 8 * field).chain([62]) {
                let there = if field == 62 {
                    vec![word(image + 56) ^ 1 << 48]
                } else {
                    let alike = if matches!(field, 0 | 40 | 48) { vec![0, 40, 48] } else { vec![8, 16, 24, 32] };
                    let found = images.iter().flat_map(|&at| alike.iter().map(move |field| at + field)).map(word);
                    found.chain([0, 1, 64, 1 << 50, commit as u64]).collect()
                };
                let at = if field == 62 { image + 56 } else { image + field };
                let mut values: Vec<u64> = there.into_iter().filter(|&value| value != word(at)).collect();
                values.sort_unstable();
                values.dedup();
                for value in values {
                    let what = format!("commit {number}, image at {image}, field {field}: {value}");
                    let mut bytes = bytes.clone();
                    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
                    seal(&mut bytes, commit, image);
                    forged += 1;
                    let how = [How::Open, How::Rebuild][forged % 2];
                    let directory = common::inserted(bytes, FILE_BYTES_MAX);
                    let medium = directory.open(PACK, false).unwrap();
                    match small().read_only(true).open_in(medium, How::Open) {
                        Ok(store) => {
                            let store = store.unwrap();
                            if store.verify().unwrap().damage.is_empty() {
                                // Of a removal only tag and id count.
                                assert!(is_removal && matches!(field, 16..=48), "{what}");
                                assert_eq!(store.names().unwrap(), names, "{what}");
                            }
                        }
                        Err(error) => assert!(error.is_damage(), "{what}: {error}"),
                    }
                    match open_simulated(&directory, &small(), how) {
                        Ok(store) => use_names(&store, &what),
                        Err(error) => assert!(error.is_damage(), "{what}: {error}"),
                    }
                }
            }
        }
    }
    assert!(forged > 300, "{forged}");
}
