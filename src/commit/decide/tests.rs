//! How frames and chunks are laid out.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::medium::SimDirectory;
use crate::store::Store;

#[test]
fn frames_that_lie_together_are_written_together() {
    let mut decided = Decided { done: Vec::new(), frames: Vec::new(), published: Vec::new() };
    let none = Offset::NONE;
    let at = Offset(1024);
    let mut tail = Tail { epoch: 1, chunk: none, chunk_end: 1 << 16, at, commit: none, commit_checksum: 0 };
    for (number, frame) in [(1, 0..128), (2, 128..192), (3, 256..320)] {
        decided.place(&frame, number, &mut tail);
    }
    assert_eq!(tail.at, Offset(1024 + 256));
    assert_eq!(decided.frames, [(at, 0..192), (Offset(1024 + 192), 256..320)]);
    let published: Vec<_> = decided.published.iter().map(|new| (new.id.0, new.checksum, new.synced)).collect();
    assert_eq!(published, [(1024, 1, false), (1152, 2, false), (1216, 3, false)]);
}

#[test]
fn a_chunk_begins_when_what_comes_of_a_batch_does_not_fit() {
    let directory = SimDirectory::new(64 << 20);
    let store = Store::options().create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
    let digest = store.put(b"a blob").unwrap().digest;
    let pack = store.shared().pack();
    let chunk = || pack.writer().unwrap().totals().1.chunk;
    let before = chunk();
    let mut batch = store.batch();
    for _ in 0..5000 {
        batch.reference(&digest);
    }
    batch.commit().unwrap();
    assert_eq!((chunk(), store.descriptor(&digest).unwrap().ref_count), (before, 5001), "it is one record");
}

#[test]
fn chunks_are_an_eighth_of_the_file_within_bounds_or_as_long_as_a_batch_needs() {
    let directory = SimDirectory::new(64 << 20);
    let store = Store::options().create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
    let pack = store.shared().pack();
    let chunk = || {
        let (_, tail) = pack.writer().unwrap().totals();
        (tail.chunk, tail.chunk_end - tail.chunk.0)
    };
    // Puts small blobs until another chunk has begun.
    let mut number = 0_u64;
    let mut next = || {
        let (before, _) = chunk();
        while chunk().0 == before {
            store.put(&number.to_le_bytes().repeat(1000)).unwrap();
            number += 1;
        }
        chunk().1
    };
    store.put(b"a blob").unwrap();
    assert_eq!((chunk().1, next()), (128 << 10, 128 << 10));
    // The file's end is at 5 to 7 MiB then.
    store.put(&vec![1; 5 << 20]).unwrap();
    let grown = next();
    assert!((640 << 10..=896 << 10).contains(&grown), "{grown}");
    store.put(&vec![2; 10 << 20]).unwrap();
    assert_eq!(next(), 1 << 20);

    let mut batch = store.batch();
    for number in 0..50_u8 {
        batch.put(&[number; 60_000]).unwrap();
    }
    batch.commit().unwrap();
    let (bytes, needed) = (chunk().1, 50 * 60_000 + 50 * 64);
    assert!(bytes > needed && bytes < needed + (128 << 10), "{bytes}");
}

/// The first change of a segment since a checkpoint copies it. Where a record beside was rotten the batch was durable
/// by then: the writer was at its end, a part of the batch was seen, and nobody could open the pack but by a rebuild.
#[test]
fn a_batch_that_would_copy_a_rotten_record_is_refused_with_nothing_changed() {
    let directory = SimDirectory::new(64 << 20);
    let store = Store::options().create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
    let old: Vec<_> = (0..400_u32).map(|number| store.put(&number.to_le_bytes()).unwrap().digest).collect();
    let pack = store.shared().pack();
    let writer = pack.writer().unwrap();
    let tag = pack.source().tagger().of_blob(&old[0]);
    let segment = pack.source().view().born_segment(tag, lock(&writer.applied).table.born()).unwrap();
    store.checkpoint().unwrap();
    let bytes = directory.bytes("a.pack").unwrap();
    let segment = crate::format::to_usize(segment.0);
    let line = bytes[segment..][..4096].chunks_exact(64).position(|line| line[..8] == tag.to_le_bytes()).unwrap();
    let flip = |bit: u8| {
        let at = segment + 64 * line + 40;
        writer.medium().write_at(Offset(at as u64), &[&[bytes[at] ^ bit]], false).unwrap();
    };
    flip(1);
    let put = || {
        let mut batch = store.batch();
        let new: Vec<_> = (1000..1100_u32).map(|number| batch.put(&number.to_le_bytes()).unwrap()).collect();
        batch.commit().map(drop).map_err(|error| error.is_damage()).map(|()| new)
    };
    let before = writer.totals();
    assert_eq!(put(), Err(true));
    let beside = |digest| store.reference(digest).is_err_and(|error| error.is_damage());
    let refused = old.iter().filter(|digest| beside(digest)).count();
    assert!((1..=63).contains(&refused), "{refused} stand in one segment with it");
    assert_eq!(writer.totals().0.blobs, before.0.blobs);
    let gives_up = old.iter().filter(|digest| store.dereference(digest).is_ok()).count();
    assert_eq!(gives_up, 400 - refused);
    flip(0);
    assert!(put().unwrap().iter().all(|digest| store.contains(digest).unwrap()));
    assert!(store.verify().unwrap().damage.is_empty());
}
