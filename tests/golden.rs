//! A pack of format version 1 that was written once and for all: what is read from it must never change.
//!
//! `tests/golden/v1.pack.sparse` holds the file without its zeros, `tests/golden/v1.txt` what a listing of it says.
//! Where the format changes on purpose, before a release, `BLOBPACK_WRITE_GOLDEN=1 cargo test --test golden` writes
//! both anew. After a release they stay, and a new version gets files of its own. `v1-names.pack.sparse` and
//! `v1-names.txt` are the same of a pack with names.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write;

use blobpack::medium::{Medium, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, Digest, Durability, Name, Store};

mod common;
use common::{PACK, content, golden, inserted, open_simulated, simulated, small, whole};

const FILE_BYTES_MAX: u64 = 64 << 20;

/// The blobs by number: their algorithm and bytes. Those from 60 on are large.
fn blob(number: u64) -> (Algorithm, Vec<u8>) {
    let length = match number {
        0 => 0,
        1..60 => number as usize * 11,
        _ => 65_536 + number as usize,
    };
    (Algorithm::ALL[number as usize % 3], content(number, length))
}

fn digest(number: u64) -> Digest {
    let (algorithm, bytes) = blob(number);
    Digest::of(algorithm, &bytes)
}

fn put<M: Medium>(store: &Store<M>, number: u64) {
    let (algorithm, bytes) = blob(number);
    store.put_with(algorithm, &bytes).unwrap();
}

/// What is in the pack at last.
fn numbers() -> Vec<u64> {
    (0..50).filter(|number| !(20..30).contains(number)).chain([60]).collect()
}

/// The recipe: small, large and removed blobs, links, several references, an index that has split, and commits behind
/// the last checkpoint.
fn write<M: Medium>(store: &Store<M>) {
    (0..40).for_each(|number| put(store, number));
    put(store, 60);
    put(store, 61);
    for number in 1..10 {
        store.link(&digest(number), &digest(10 + number)).unwrap();
    }
    store.reference(&digest(0)).unwrap();
    for number in (20..29).chain([61]) {
        store.dereference(&digest(number)).unwrap();
    }
    store.checkpoint().unwrap();
    let mut batch = store.batch();
    for number in 40..50 {
        let (algorithm, bytes) = blob(number);
        batch.put_with(algorithm, &bytes).unwrap();
        batch.link(&digest(number), &digest(60));
    }
    batch.dereference(&digest(29));
    batch.commit().unwrap();
    store.reference(&digest(5)).unwrap();
}

/// The text of a name: some take more than one line of the file.
fn name(number: u64) -> Name {
    Name::new(format!("name {number} {}", "ä".repeat(number as usize * 5))).unwrap()
}

/// The recipe with names: new, moved and removed ones, some behind the last checkpoint.
fn write_names<M: Medium>(store: &Store<M>) {
    for number in 1..20 {
        put(store, number);
        store.set_name(&name(number), &digest(number)).unwrap();
    }
    put(store, 30);
    store.link(&digest(30), &digest(3)).unwrap();
    store.remove_name(&name(4)).unwrap();
    store.checkpoint().unwrap();
    put(store, 31);
    store.set_name(&name(1), &digest(31)).unwrap();
    let mut batch = store.batch();
    batch.remove_name(&name(19)).reference(&digest(5)).set_name(&name(20), &digest(5));
    batch.commit().unwrap();
}

/// The runs of lines that are not all zero, each with its offset and length before it; then the whole length.
fn sparse(bytes: &[u8]) -> Vec<u8> {
    const LINE: usize = 64;
    let mut runs: Vec<(usize, &[u8])> = Vec::new();
    for (number, line) in bytes.chunks(LINE).enumerate().filter(|(_, line)| line.iter().any(|&byte| byte != 0)) {
        let at = number * LINE;
        match runs.last_mut() {
            Some((start, run)) if *start + run.len() == at => *run = &bytes[*start..at + line.len()],
            _ => runs.push((at, line)),
        }
    }
    runs.push((bytes.len(), &[]));
    let head = |(at, run): &(usize, &[u8])| [(*at as u64).to_le_bytes(), (run.len() as u64).to_le_bytes()].concat();
    runs.iter().flat_map(|entry| [head(entry), entry.1.to_vec()].concat()).collect()
}

/// A line a blob, in the order of the listing; then the totals.
fn listing<M: Medium>(store: &Store<M>) -> String {
    let mut text = String::new();
    for found in store.descriptors().map(Result::unwrap) {
        let digest = found.digest;
        writeln!(text, "{digest} {} {} {}", found.size, found.ref_count, found.link_count).unwrap();
        let mut links: Vec<_> = store.links(&digest).unwrap().map(|to| to.unwrap().to_string()).collect();
        links.sort();
        links.iter().for_each(|to| writeln!(text, "    {to}").unwrap());
    }
    for (name, digest) in store.names().unwrap() {
        writeln!(text, "{name} = {digest}").unwrap();
    }
    let stats = store.stats().unwrap();
    let totals = [stats.blobs, stats.links, stats.live_bytes, stats.dead_bytes, stats.commits];
    writeln!(text, "{totals:?}").unwrap();
    text
}

fn golden_pack() -> SimDirectory {
    if std::env::var_os("BLOBPACK_WRITE_GOLDEN").is_some() {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            let (directory, store) = simulated(FILE_BYTES_MAX);
            write(&store);
            let events = store.index_events().unwrap();
            assert!(events.splits > 0 && events.doublings > 0);
            std::fs::write(golden("v1.pack.sparse"), sparse(&directory.bytes(PACK).unwrap())).unwrap();
            std::fs::write(golden("v1.txt"), listing(&store)).unwrap();
        });
    }
    inserted(whole(&std::fs::read(golden("v1.pack.sparse")).unwrap()), FILE_BYTES_MAX)
}

fn golden_pack_with_names() -> SimDirectory {
    if std::env::var_os("BLOBPACK_WRITE_GOLDEN").is_some() {
        let (directory, store) = simulated(FILE_BYTES_MAX);
        write_names(&store);
        std::fs::write(golden("v1-names.pack.sparse"), sparse(&directory.bytes(PACK).unwrap())).unwrap();
        std::fs::write(golden("v1-names.txt"), listing(&store)).unwrap();
    }
    inserted(whole(&std::fs::read(golden("v1-names.pack.sparse")).unwrap()), FILE_BYTES_MAX)
}

#[test]
fn a_pack_of_version_1_with_names_is_read_recovered_rebuilt_and_compacted_as_ever() {
    let directory = golden_pack_with_names();
    let expected = std::fs::read_to_string(golden("v1-names.txt")).unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let sound = |store: &Store<blobpack::medium::Sim>| {
        assert_eq!(listing(store), expected);
        assert_eq!(store.name(&name(1)).unwrap(), digest(31));
        assert!(store.find_name(&name(4)).unwrap().is_none() && store.find_name(&name(19)).unwrap().is_none());
        let verified = store.verify().unwrap();
        assert!(verified.damage.is_empty(), "{:?}", verified.damage);
        assert_eq!(verified.names, 18);
    };
    let medium = directory.open(PACK, false).unwrap();
    sound(&small().read_only(true).open_in(medium, How::Open).unwrap().unwrap());
    assert!(directory.bytes(PACK).unwrap() == bytes);
    for how in [How::Open, How::Rebuild] {
        let directory = inserted(bytes.clone(), FILE_BYTES_MAX);
        let store = open_simulated(&directory, &small(), how).unwrap();
        sound(&store);
        store.compact().unwrap();
        // Counts of commits and of dead bytes differ by now; the rest does not.
        assert_eq!(listing(&store).rsplit_once("\n[").unwrap().0, expected.rsplit_once("\n[").unwrap().0);
        let verified = store.verify().unwrap();
        assert!(verified.damage.is_empty(), "{:?}", verified.damage);
    }
}

fn check<M: Medium>(store: &Store<M>) {
    assert_eq!(listing(store), std::fs::read_to_string(golden("v1.txt")).unwrap());
    let expected: BTreeMap<Digest, Vec<u8>> = numbers().into_iter().map(|n| (digest(n), blob(n).1)).collect();
    assert!(store.list().map(Result::unwrap).collect::<std::collections::BTreeSet<_>>().iter().eq(expected.keys()));
    let reader = store.reader().unwrap();
    let many = reader.get_many(&expected.keys().copied().collect::<Vec<_>>()).unwrap();
    for ((digest, bytes), of_many) in expected.iter().zip(many) {
        assert!(*store.get(digest).unwrap() == **bytes);
        assert!(*reader.get(digest).unwrap() == **bytes && *of_many.unwrap() == **bytes);
    }
    for number in (20..30).chain([61]) {
        assert!(!store.contains(&digest(number)).unwrap() && !reader.contains(&digest(number)).unwrap());
    }
    let verified = store.verify().unwrap();
    assert!(verified.damage.is_empty(), "{:?}", verified.damage);
    assert_eq!(verified.blobs, expected.len() as u64);
}

#[test]
fn a_pack_of_version_1_is_read_as_ever() {
    let directory = golden_pack();
    let before = directory.bytes(PACK).unwrap();
    let medium = directory.open(PACK, false).unwrap();
    check(&small().read_only(true).open_in(medium, How::Open).unwrap().unwrap());
    assert!(directory.bytes(PACK).unwrap() == before);
}

#[test]
fn a_pack_of_version_1_is_recovered_rebuilt_and_compacted_as_ever() {
    for how in [How::Open, How::Rebuild] {
        let directory = golden_pack();
        let store = open_simulated(&directory, &small(), how).unwrap();
        check(&store);
        assert!(store.recovery().replayed_commits >= 2);
        store.put(b"written later").unwrap();
        store.compact().unwrap();
        store.dereference(&Digest::of(Algorithm::Sha256, b"written later")).unwrap();
        store.close().unwrap();
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        // Counts of commits and of dead bytes differ by now; the rest does not.
        let (now, then) = (listing(&store), std::fs::read_to_string(golden("v1.txt")).unwrap());
        assert_eq!(now.rsplit_once("\n[").unwrap().0, then.rsplit_once("\n[").unwrap().0);
    }
}

#[test]
fn a_pack_of_version_1_on_the_disk_is_read_as_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v1.pack");
    std::fs::write(&path, golden_pack().bytes(PACK).unwrap()).unwrap();
    check(&Store::options().read_only(true).open(&path).unwrap());
    check(&Store::options().durability(Durability::Process).open(&path).unwrap());
}

#[test]
fn the_recipe_still_makes_what_the_golden_pack_holds() {
    let (_directory, store) = simulated(FILE_BYTES_MAX);
    write(&store);
    let sorted = |text: &str| {
        // The order is another in every pack, and links are listed under their blob.
        let mut blobs: Vec<String> = text.replace("\n    ", " ").lines().map(str::to_owned).collect();
        blobs.sort();
        blobs
    };
    drop(golden_pack());
    assert_eq!(sorted(&listing(&store)), sorted(&std::fs::read_to_string(golden("v1.txt")).unwrap()));
}
