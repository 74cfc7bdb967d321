//! Any bytes as a pack: opened in every way, read, verified, changed, compacted. The worst is an error.

use std::io::Write;

use blobpack::medium::{Sim, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, Digest, OpenOptions, Result, Store};

use super::image;

const PACK: &str = "blobs.pack";
/// So many blobs of a pack are looked at, and so many links of each.
const LOOKED_AT: usize = 200;
/// What the pack may become.
const FILE_BYTES_MAX: u64 = 12 << 20;

/// The input stands for a file as [`image::decode`] says.
pub fn run(input: &[u8]) {
    let bytes = image::decode(input);
    reading(&bytes);
    for how in [How::Open, How::Repair, How::Rebuild] {
        writing(&bytes, how);
    }
}

fn directory(bytes: &[u8]) -> SimDirectory {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    directory.insert(PACK, bytes.to_vec());
    directory
}

fn open(directory: &SimDirectory, options: &OpenOptions, write: bool, how: How) -> Result<Option<Store<Sim>>> {
    let medium = directory.open(PACK, write).expect("it was put there");
    options.clone().max_bytes(FILE_BYTES_MAX).open_in(medium, how)
}

fn reading(bytes: &[u8]) {
    let directory = directory(bytes);
    if let Ok(Some(store)) = open(&directory, &Store::options().read_only(true), false, How::Open) {
        look(&store);
        assert!(store.put(b"").is_err(), "it is open for reading only");
    }
    assert!(directory.bytes(PACK).is_some_and(|after| after == bytes), "reading changed the file");
}

fn writing(bytes: &[u8], how: How) {
    let directory = directory(bytes);
    let Ok(Some(store)) = open(&directory, &Store::options(), true, how) else { return };
    let digests = look(&store);
    let kept = change(&store, &digests);
    if let Ok(compacted) = store.compact() {
        assert!(!compacted.skipped);
        if let Some((digest, content)) = kept {
            assert_eq!(store.get(&digest).expect("it was just compacted").as_bytes(), content);
        }
        look(&store);
    }
    drop(store);
    if let (Ok(Some(store)), Some((digest, content))) = (open(&directory, &Store::options(), true, How::Open), kept)
        && let Ok(Some(blob)) = store.find(&digest)
    {
        assert_eq!(blob.as_bytes(), content);
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
    let _ = store.verify();
    digests
}

/// Changes what can be changed, and gives back a blob that must be there from then on.
fn change(store: &Store<Sim>, digests: &[Digest]) -> Option<(Digest, &'static [u8])> {
    const CONTENT: &[u8] = b"what the fuzzer has put into the pack, which no seed contains";
    static LARGE: [u8; 70_000] = [7; 70_000];
    for (index, digest) in digests.iter().take(12).enumerate() {
        match index % 4 {
            0 => drop(store.dereference(digest)),
            1 => drop(store.reference(digest)),
            2 => drop(store.link(digest, &digests[0])),
            _ => drop(store.unlink(digest, &digests[1])),
        }
    }
    if let Ok(mut writer) = store.writer(Algorithm::Sha384) {
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
