//! Any bytes as a pack: opened in every way, read, verified, changed, compacted. The worst is an error.

use std::io::Write;

use blobpack::commit::Tuning;
use blobpack::medium::{Sim, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, Digest, OpenOptions, Result, Store};

use super::image;

const PACK: &str = "blobs.pack";
/// So many blobs of a pack are looked at, and so many links of each.
const LOOKED_AT: usize = 200;
/// What a pack may grow by, or a little more.
const GROWTH_MAX: u64 = 1 << 20;

/// The input stands for a file as [`image::decode`] says; two more bits of its first byte choose what is done with it.
#[allow(dead_code, reason = "one body makes its files in another way")]
pub fn run(input: &[u8]) {
    one(image::decode(input), input.first().map_or(0, |head| head >> 2));
}

/// The file that an input stands for, handled in every way.
#[allow(dead_code, reason = "the fuzzer chooses one way")]
pub fn run_in_every_way(input: &[u8]) {
    every(image::decode(input));
}

/// Everything that can be done with a file.
#[allow(dead_code, reason = "the fuzzer chooses one way")]
pub fn every(bytes: Vec<u8>) {
    (0..8).for_each(|way| one(bytes.clone(), way));
}

/// One of eight ways to handle a file, each of them short: a fuzzer lives from many executions.
pub fn one(bytes: Vec<u8>, way: u8) {
    match way % 8 {
        0 => reading(bytes, |store| drop(look(store))),
        1 => reading(bytes, |store| drop(store.verify())),
        2 => writing(bytes, How::Open, |store, _| drop(look(store))),
        3 => writing(bytes, How::Open, changing),
        4 => writing(bytes, How::Open, compacting),
        5 => writing(bytes, How::Repair, |store, _| drop(store.verify())),
        6 => writing(bytes, How::Rebuild, |store, _| drop(look(store))),
        _ => writing(bytes, How::Rebuild, |store, directory| {
            changing(store, directory);
            compacting(store, directory);
        }),
    }
}

fn directory(bytes: Vec<u8>) -> SimDirectory {
    // Files of few different lengths: memory is used again.
    let directory = SimDirectory::new((bytes.len() as u64).next_multiple_of(GROWTH_MAX) + GROWTH_MAX);
    directory.insert(PACK, bytes);
    directory
}

/// With short chunks, early checkpoints and removals in short steps: they come about in a small pack too.
fn options() -> OpenOptions {
    Store::options().tuning(Tuning {
        chunk_bytes: 64 << 10,
        checkpoint_images: 20,
        checkpoint_bytes: 1 << 20,
        reserve_segments: 4,
        removal_images: 6,
        ..Tuning::default()
    })
}

fn open(directory: &SimDirectory, write: bool, how: How) -> Result<Option<Store<Sim>>> {
    let medium = directory.open(PACK, write).expect("it was put there");
    options().read_only(!write).open_in(medium, how)
}

/// The medium refuses every change by a handle that is for reading.
fn reading(bytes: Vec<u8>, ask: impl Fn(&Store<Sim>)) {
    if let Ok(Some(store)) = open(&directory(bytes), false, How::Open) {
        ask(&store);
        assert!(store.put(b"").is_err(), "it is open for reading only");
    }
}

fn writing(bytes: Vec<u8>, how: How, work: impl Fn(&Store<Sim>, &SimDirectory)) {
    let directory = directory(bytes);
    if let Ok(Some(store)) = open(&directory, true, how) {
        work(&store, &directory);
    }
}

/// Changes what can be changed; what was put is there when the file is opened again.
fn changing(store: &Store<Sim>, directory: &SimDirectory) {
    let digests: Vec<Digest> = store.list().take(LOOKED_AT).map_while(Result::ok).collect();
    let Some((digest, content)) = change(store, &digests) else { return };
    let Some(bytes) = directory.bytes(PACK) else { return };
    // As a kill would leave it.
    if let Ok(Some(store)) = open(&self::directory(bytes), false, How::Open)
        && let Ok(Some(blob)) = store.find(&digest)
    {
        assert_eq!(blob.as_bytes(), content);
    }
}

fn compacting(store: &Store<Sim>, _: &SimDirectory) {
    if let Ok(compacted) = store.compact() {
        assert!(!compacted.skipped);
        let listed = store.list().collect::<Result<Vec<_>>>().expect("it was just compacted");
        assert_eq!(listed.len() as u64, compacted.blobs);
        for digest in &listed {
            store.get(digest).expect("it was just compacted").verify().expect("a compaction checks the bytes");
        }
    }
}

/// Asks for everything there is to ask for.
fn look(store: &Store<Sim>) -> Vec<Digest> {
    let _ = (store.uuid(), store.recovery(), store.stats());
    let digests: Vec<Digest> = store.list().take(LOOKED_AT).map_while(Result::ok).collect();
    if let Some(first) = digests.first() {
        assert!(store.list_after(first).take(LOOKED_AT).map_while(Result::ok).all(|digest| digest != *first));
    }
    for digest in &digests {
        let _ = (store.descriptor(digest), store.contains(digest));
        if let Ok(Some(blob)) = store.find(digest) {
            assert_eq!(blob.digest(), *digest);
            assert_eq!(blob.as_bytes().len() as u64, blob.size());
            let sound = blob.verify().is_ok();
            assert_eq!(sound, Digest::of(digest.algorithm(), &blob) == *digest);
            let _ = blob.read_at(&mut [0; 1], blob.size() / 2);
        }
        for links in [store.links(digest), store.referrers(digest)].into_iter().flatten() {
            let _ = links.take(LOOKED_AT).collect::<Result<Vec<_>>>();
        }
    }
    if let Ok(reader) = store.reader() {
        let _ = reader.get_many(&digests);
        let _ = reader.find(&Digest::of(Algorithm::Sha256, b"nobody stores this"));
    }
    let _ = store.descriptors().take(LOOKED_AT).collect::<Result<Vec<_>>>();
    let _ = store.names();
    digests
}

/// Changes what can be changed, and gives back a blob that must be there from then on.
fn change(store: &Store<Sim>, digests: &[Digest]) -> Option<(Digest, &'static [u8])> {
    const CONTENT: &[u8] = b"what the fuzzer has put into the pack, which no seed contains";
    static LARGE: [u8; 65_536] = [7; 65_536];
    for (index, digest) in digests.iter().take(12).enumerate() {
        match index % 4 {
            0 => drop(store.dereference(digest)),
            1 => drop(store.reference(digest)),
            2 => drop(store.link(digest, &digests[0])),
            _ => drop(store.unlink(digest, &digests[1])),
        }
    }
    if let Ok(mut writer) = store.writer(Algorithm::Sha256) {
        let _ = writer.write_all(&LARGE);
        let _ = writer.commit();
    }
    let kept = store.put(CONTENT).ok().map(|stored| (stored.digest, CONTENT));
    if let Some((digest, content)) = kept {
        assert_eq!(store.get(&digest).expect("it was just put").as_bytes(), content);
        if let Some(other) = digests.last() {
            let mut batch = store.batch();
            batch.reference(&digest).link(&digest, other).reference(other);
            let _ = batch.commit();
        }
        if store.checkpoint().is_ok() {
            assert_eq!(store.get(&digest).expect("it was just put").as_bytes(), content);
        }
    }
    kept
}
