//! The library call by call: a promise of the documentation, a test.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::io::{BufRead, Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use blobpack::{Algorithm, CompactOptions, Digest, Durability, Error, Recovery, Store};

mod common;
use common::{content, unknown};

fn assert_send_sync<T: Send + Sync>() {}
fn assert_send<T: Send + 'static>() {}

#[test]
fn handles_go_between_threads() {
    assert_send_sync::<Store>();
    assert_send_sync::<blobpack::Blob>();
    assert_send::<blobpack::Reader>();
    assert_send::<blobpack::BlobWriter>();
    assert_send::<blobpack::Staged>();
    assert_send::<blobpack::Batch>();
    assert_send::<blobpack::List>();
    assert_send_sync::<Error>();
}

#[test]
fn a_put_blob_has_one_reference_and_its_bytes() {
    let store = Store::temporary().unwrap();
    let put = store.put(b"hello").unwrap();
    assert_eq!(put.digest.to_string(), "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    assert_eq!((put.size, put.ref_count, put.link_count), (5, 1, 0));
    assert_eq!(store.descriptor(&put.digest).unwrap(), put);
    let blob = store.get(&put.digest).unwrap();
    assert_eq!(&*blob, b"hello");
    assert_eq!((blob.digest(), blob.size(), blob.ref_count(), blob.link_count()), (put.digest, 5, 1, 0));
    blob.verify().unwrap();
}

#[test]
fn a_blob_put_twice_is_stored_once_and_has_two_references() {
    let store = Store::temporary().unwrap();
    store.put(b"twice").unwrap();
    let bytes = store.stats().unwrap().live_bytes;
    assert_eq!(store.put(b"twice").unwrap().ref_count, 2);
    let stats = store.stats().unwrap();
    assert_eq!((stats.blobs, stats.live_bytes), (1, bytes));
}

#[test]
fn the_same_bytes_under_two_algorithms_are_two_blobs() {
    let store = Store::temporary().unwrap();
    for algorithm in Algorithm::ALL {
        for length in [0, 100, 70_000] {
            let bytes = content(1, length);
            let put = store.put_with(algorithm, &bytes).unwrap();
            assert_eq!(put.digest, Digest::of(algorithm, &bytes));
            assert_eq!(&*store.get(&put.digest).unwrap(), &bytes[..]);
        }
    }
    assert_eq!(store.stats().unwrap().blobs, 9);
}

#[test]
fn what_is_not_stored_is_not_found() {
    let store = Store::temporary().unwrap();
    assert!(store.find(&unknown()).unwrap().is_none());
    assert!(!store.contains(&unknown()).unwrap());
    let errors = [
        store.get(&unknown()).err(),
        store.descriptor(&unknown()).err(),
        store.reference(&unknown()).err(),
        store.dereference(&unknown()).err(),
        store.link(&unknown(), &unknown()).err(),
        store.unlink(&unknown(), &unknown()).err(),
        store.links(&unknown()).err(),
        store.referrers(&unknown()).err(),
        store.reader().unwrap().get(&unknown()).err(),
    ];
    for error in errors {
        let error = error.unwrap();
        assert!(error.is_not_found() && !error.is_damage());
        assert!(error.to_string().contains(&unknown().to_string()));
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);
    }
}

#[test]
fn a_zero_length_blob_is_a_blob() {
    let store = Store::temporary().unwrap();
    let empty = store.put(b"").unwrap();
    assert_eq!(empty.size, 0);
    assert_eq!(store.writer(Algorithm::Sha256).unwrap().commit().unwrap().ref_count, 2);
    let blob = store.get(&empty.digest).unwrap();
    assert!(blob.is_empty());
    blob.verify().unwrap();
    blob.read_at(&mut [], 0).unwrap();
    assert!(store.reader().unwrap().get(&empty.digest).unwrap().is_empty());
    assert!(store.dereference(&empty.digest).unwrap().is_empty());
    assert_eq!(store.dereference(&empty.digest).unwrap().blobs(), 1);
}

#[test]
fn a_writer_takes_any_pieces_and_any_hint() {
    let store = Store::temporary().unwrap();
    for (number, length) in [0_usize, 1, 65_535, 65_536, 65_537, 262_144, 1_200_000, 5_000_000].into_iter().enumerate()
    {
        let hints = [None, Some(length), Some(length / 2), Some(2 * length + 1), Some(0)];
        for (other, hint) in hints.into_iter().enumerate() {
            let bytes = content((10 * number + other) as u64, length);
            let mut writer = store.writer(Algorithm::Sha256).unwrap();
            if let Some(hint) = hint {
                writer = writer.size_hint(hint as u64);
            }
            for piece in bytes.chunks(77_777) {
                writer.write_all(piece).unwrap();
                writer.flush().unwrap();
            }
            assert_eq!(writer.written(), length as u64);
            let digest = writer.digest();
            assert!(length == 0 || !store.contains(&digest).unwrap(), "visible before its commit");
            assert_eq!(writer.commit().unwrap().digest, digest);
            assert!(*store.get(&digest).unwrap() == *bytes, "length {length}, hint {hint:?}");
        }
    }
    assert!(store.verify().unwrap().damage.is_empty());
}

#[test]
fn writers_that_grow_beside_one_another_keep_their_bytes_apart() {
    let store = Store::temporary().unwrap();
    let all: Vec<Vec<u8>> = (0..4).map(|n| content(n, 3_000_000)).collect();
    let mut writers: Vec<_> = all.iter().map(|_| store.writer(Algorithm::Sha256).unwrap()).collect();
    for at in (0..3_000_000).step_by(100_000) {
        for (writer, bytes) in writers.iter_mut().zip(&all) {
            writer.write_all(&bytes[at..at + 100_000]).unwrap();
        }
        store.put(&at.to_le_bytes()).unwrap();
    }
    for (writer, bytes) in writers.into_iter().zip(&all) {
        assert!(*store.get(&writer.commit().unwrap().digest).unwrap() == **bytes);
    }
    assert!(store.verify().unwrap().damage.is_empty());
}

#[test]
fn an_expected_digest_or_size_that_differs_leaves_the_store_untouched() {
    let store = Store::temporary().unwrap();
    for length in [10, 100_000] {
        let commits = store.stats().unwrap().commits;
        let bytes = content(3, length);
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let mut writer = store.writer(Algorithm::Sha256).unwrap().expect_digest(unknown());
        writer.write_all(&bytes).unwrap();
        let error = writer.commit().unwrap_err();
        assert!(
            matches!(&error, Error::DigestMismatch { expected, found } if **expected == unknown() && **found == digest)
        );
        let mut writer = store.writer(Algorithm::Sha256).unwrap().expect_size(5);
        writer.write_all(&bytes).unwrap();
        let Err(Error::SizeMismatch { expected: 5, found }) = writer.commit() else { panic!("it was taken") };
        assert_eq!(found, length as u64);
        let stats = store.stats().unwrap();
        assert_eq!((stats.blobs, stats.commits), (0, commits));

        let mut writer = store.writer(Algorithm::Sha256).unwrap().expect_digest(digest).expect_size(length as u64);
        writer.write_all(&bytes).unwrap();
        writer.commit().unwrap();
        store.dereference(&digest).unwrap();
        store.compact().unwrap();
    }
}

#[test]
fn an_expected_digest_of_another_algorithm_is_a_mismatch() {
    let store = Store::temporary().unwrap();
    let mut writer = store.writer(Algorithm::Sha256).unwrap().expect_digest(Digest::of(Algorithm::Sha512, b"a"));
    writer.write_all(b"a").unwrap();
    assert!(matches!(writer.commit(), Err(Error::DigestMismatch { .. })));
}

#[test]
fn what_is_cancelled_or_dropped_leaves_nothing_and_gives_its_space_back() {
    let store = Store::temporary().unwrap();
    store.put(b"something").unwrap();
    let before = store.stats().unwrap();
    let bytes = content(4, 8 << 20);
    for way in 0..3 {
        let mut writer = store.writer(Algorithm::Sha256).unwrap();
        writer.write_all(&bytes).unwrap();
        match way {
            0 => writer.cancel().unwrap(),
            1 => drop(writer),
            _ => drop(writer.stage().unwrap()),
        }
    }
    let after = store.stats().unwrap();
    assert_eq!((after.blobs, after.live_bytes, after.commits), (before.blobs, before.live_bytes, before.commits));
    assert!(after.disk_bytes < before.disk_bytes + (1 << 20), "{} bytes on the disk", after.disk_bytes);
}

#[test]
fn a_staged_blob_is_visible_with_its_batch_and_not_before() {
    let store = Store::temporary().unwrap();
    for length in [100, 200_000] {
        let mut writer = store.writer(Algorithm::Sha384).unwrap();
        writer.write_all(&content(5, length)).unwrap();
        let staged = writer.stage().unwrap();
        let digest = staged.digest();
        assert_eq!(staged.size(), length as u64);
        let mut batch = store.batch();
        assert!(batch.is_empty());
        assert_eq!(batch.add(staged).unwrap(), digest);
        let parent = batch.put(&length.to_le_bytes()).unwrap();
        batch.link(&digest, &parent);
        assert_eq!(batch.len(), 3);
        assert!(!store.contains(&digest).unwrap());
        assert_eq!(batch.commit().unwrap().len(), 3);
        assert_eq!(store.links(&parent).unwrap().map(Result::unwrap).collect::<Vec<_>>(), [digest]);
        assert_eq!(store.dereference(&parent).unwrap().blobs(), 2);
    }
}

#[test]
fn a_staged_blob_of_another_store_is_refused() {
    let (here, there) = (Store::temporary().unwrap(), Store::temporary().unwrap());
    for length in [10, 100_000] {
        let mut writer = there.writer(Algorithm::Sha256).unwrap();
        writer.write_all(&content(6, length)).unwrap();
        let mut batch = here.batch();
        assert!(matches!(batch.add(writer.stage().unwrap()), Err(Error::ForeignHandle { .. })));
        batch.put(b"goes on").unwrap();
        batch.commit().unwrap();
    }
    assert_eq!(there.stats().unwrap().blobs, 0);
}

#[test]
fn a_batch_that_fails_in_the_middle_does_nothing_and_names_the_operation() {
    let store = Store::temporary().unwrap();
    let kept = store.put(b"kept").unwrap();
    let mut batch = store.batch();
    batch.put(b"new").unwrap();
    batch.put(&content(7, 100_000)).unwrap();
    batch.dereference(&kept.digest);
    batch.reference(&unknown());
    let error = batch.commit().unwrap_err();
    assert!(error.is_not_found());
    let Error::Batch { index: 3, source } = &error else { panic!("{error}") };
    assert!(matches!(**source, Error::NotFound { digest } if digest == unknown()));
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);
    assert_eq!(store.list().map(Result::unwrap).collect::<Vec<_>>(), [kept.digest]);
    assert_eq!(store.descriptor(&kept.digest).unwrap(), kept);
    assert_eq!(store.stats().unwrap().commits, 1);
}

#[test]
fn an_empty_batch_is_no_commit_and_a_dropped_one_does_nothing() {
    let store = Store::temporary().unwrap();
    assert!(store.batch().commit().unwrap().is_empty());
    let mut batch = store.batch();
    batch.put(b"dropped").unwrap();
    batch.put(&content(8, 100_000)).unwrap();
    drop(batch);
    let stats = store.stats().unwrap();
    assert_eq!((stats.blobs, stats.commits), (0, 0));
}

#[test]
fn a_link_moves_the_callers_reference() {
    let store = Store::temporary().unwrap();
    let (layer, manifest) = (store.put(b"layer").unwrap().digest, store.put(b"manifest").unwrap().digest);
    store.link(&layer, &manifest).unwrap();
    assert_eq!(store.descriptor(&layer).unwrap().ref_count, 1);
    assert_eq!(store.descriptor(&manifest).unwrap().link_count, 1);
    assert!(matches!(
        store.dereference(&layer),
        Err(Error::NoSpareReference { digest, references: 1, held: 1 }) if *digest == layer
    ));
    assert!(matches!(store.link(&layer, &manifest), Err(Error::NoSpareReference { .. })));
    // Importing the same again leaves every count right.
    store.put(b"layer").unwrap();
    store.put(b"manifest").unwrap();
    store.link(&layer, &manifest).unwrap();
    assert_eq!(store.descriptor(&layer).unwrap().ref_count, 1);
    assert_eq!(store.descriptor(&manifest).unwrap().ref_count, 2);
    store.dereference(&manifest).unwrap();
    let removed = store.dereference(&manifest).unwrap();
    assert_eq!(removed.digests().map(Result::unwrap).collect::<Vec<_>>(), [manifest, layer]);
    assert!(removed.reclaimable_bytes() >= 2 * 64);
}

#[test]
fn an_unlink_drops_the_reference_and_names_what_is_not_linked() {
    let store = Store::temporary().unwrap();
    let (a, b) = (store.put(b"a").unwrap().digest, store.put(b"b").unwrap().digest);
    let error = store.unlink(&a, &b).unwrap_err();
    assert!(matches!(&error, Error::NotLinked { to, from } if (**to, **from) == (a, b)));
    store.reference(&a).unwrap();
    store.link(&a, &b).unwrap();
    assert!(store.unlink(&a, &b).unwrap().is_empty());
    assert_eq!(store.descriptor(&a).unwrap().ref_count, 1);
    store.link(&a, &b).unwrap();
    assert_eq!(store.unlink(&a, &b).unwrap().digests().map(Result::unwrap).collect::<Vec<_>>(), [a]);
}

#[test]
fn a_link_that_closes_a_cycle_is_refused() {
    let store = Store::temporary().unwrap();
    let all: Vec<_> = (0_u8..4).map(|n| store.put(&[n]).unwrap().digest).collect();
    assert!(matches!(store.link(&all[0], &all[0]), Err(Error::WouldCycle { .. })));
    for pair in all.windows(2) {
        store.link(&pair[0], &pair[1]).unwrap();
    }
    let error = store.link(&all[3], &all[0]).unwrap_err();
    assert!(matches!(&error, Error::WouldCycle { to, from } if (**to, **from) == (all[3], all[0])));
    assert_eq!(store.descriptor(&all[3]).unwrap().ref_count, 1);
    assert_eq!(store.dereference(&all[3]).unwrap().blobs(), 4);
}

#[test]
fn links_are_listed_in_both_directions() {
    let store = Store::temporary().unwrap();
    let hub = store.put(b"hub").unwrap().digest;
    let mut others: Vec<_> = (0_u16..200).map(|n| store.put(&n.to_le_bytes()).unwrap().digest).collect();
    for (number, other) in others.iter().enumerate() {
        if number % 2 == 0 {
            store.link(other, &hub).unwrap();
        } else {
            store.reference(&hub).unwrap();
            store.link(&hub, other).unwrap();
        }
        if number == 99 {
            // Both ways: every link after this one would close a cycle otherwise.
            break;
        }
    }
    others.truncate(100);
    let sorted = |mut digests: Vec<Digest>| {
        digests.sort();
        digests
    };
    let every_second = |first: usize| sorted(others.iter().skip(first).step_by(2).copied().collect());
    assert_eq!(sorted(store.links(&hub).unwrap().map(Result::unwrap).collect()), every_second(0));
    assert_eq!(sorted(store.referrers(&hub).unwrap().map(Result::unwrap).collect()), every_second(1));
}

#[test]
fn a_very_deep_chain_is_freed_at_once() {
    let store = Store::options().durability(Durability::Process);
    let directory = tempfile::tempdir().unwrap();
    let store = store.open(directory.path()).unwrap();
    const DEPTH: u32 = 50_000;
    let mut batch = store.batch();
    let mut below = batch.put(b"bottom").unwrap();
    for n in 1..DEPTH {
        let above = batch.put(&n.to_le_bytes()).unwrap();
        batch.link(&below, &above);
        below = above;
    }
    batch.commit().unwrap();
    let removed = std::thread::Builder::new().stack_size(128 << 10).spawn(move || store.dereference(&below)).unwrap();
    assert_eq!(removed.join().unwrap().unwrap().blobs(), u64::from(DEPTH));
}

#[test]
fn a_blob_outlives_its_removal_a_compaction_and_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let (small, large) = (content(20, 1000), content(21, 300_000));
    let blobs: Vec<_> = [&small, &large].map(|bytes| store.get(&store.put(bytes).unwrap().digest).unwrap()).into();
    for blob in &blobs {
        assert_eq!(store.dereference(&blob.digest()).unwrap().blobs(), 1);
        assert!(!store.contains(&blob.digest()).unwrap());
    }
    store.put(&content(22, 300_000)).unwrap();
    assert!(store.compact().unwrap().freed_bytes > 0);
    store.close().unwrap();
    let again = Store::open(directory.path()).expect("a blob that is held must not hold the lock");
    again.put(&content(23, 300_000)).unwrap();
    again.close().unwrap();
    std::fs::remove_dir_all(directory.path()).unwrap();
    let blobs = std::thread::spawn(move || blobs).join().unwrap();
    for (blob, bytes) in blobs.iter().zip([small, large]) {
        assert!(**blob == *bytes && *blob.clone() == *bytes);
        blob.verify().unwrap();
        let mut read = vec![0; bytes.len()];
        blob.read_at(&mut read, 0).unwrap();
        assert!(read == bytes);
    }
}

#[test]
fn ranges_and_positions_outside_are_refused() {
    let store = Store::temporary().unwrap();
    let bytes = content(30, 100_000);
    let blob = store.get(&store.put(&bytes).unwrap().digest).unwrap();
    for range in [0..0, 0..1, 0..100_000, 99_999..100_000, 100_000..100_000, 4_095..4_097] {
        let expected = &bytes[range.start as usize..range.end as usize];
        assert!(blob.range(range.clone()).unwrap() == expected);
        let mut read = vec![0; expected.len()];
        blob.read_at(&mut read, range.start).unwrap();
        assert!(read == expected);
    }
    #[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    for range in [0..100_001, 100_000..100_001, 5..4, 100_001..100_001, u64::MAX..u64::MAX] {
        let error = blob.range(range.clone()).unwrap_err();
        let named = Error::RangeOutside { start: range.start, end: range.end, length: 100_000 };
        assert_eq!(error.to_string(), named.to_string());
    }
    for (length, at) in [(1, 100_000), (100_001, 0), (1, u64::MAX), (0, 100_001)] {
        assert!(matches!(blob.read_at(&mut vec![0; length], at), Err(Error::RangeOutside { .. })), "{length} at {at}");
    }
}

#[test]
fn an_opened_blob_reads_and_seeks() {
    let store = Store::temporary().unwrap();
    let blob = store.get(&store.put(b"one\ntwo\nthree").unwrap().digest).unwrap();
    let mut open = blob.open();
    let mut line = String::new();
    open.read_line(&mut line).unwrap();
    assert_eq!(line, "one\n");
    open.seek(SeekFrom::End(-5)).unwrap();
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "three");
    let (file, at) = blob.file_range().unwrap();
    let mut bytes = [0; 13];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, at).unwrap();
    assert_eq!(&bytes, b"one\ntwo\nthree");
}

#[test]
fn payloads_stand_where_a_caller_can_cast_them() {
    let store = Store::temporary().unwrap();
    for (length, align) in [(1, 64), (1000, 64), (65_536, 4096), (200_000, 4096)] {
        for algorithm in Algorithm::ALL {
            let digest = store.put_with(algorithm, &content(40, length)).unwrap().digest;
            let at = store.get(&digest).unwrap().as_ptr().addr();
            assert_eq!(at % align, 0, "{algorithm}, {length} bytes");
        }
    }
}

#[test]
fn a_reader_borrows_what_stays_while_the_store_goes_on() {
    let store = Store::temporary().unwrap();
    let bytes = content(50, 1000);
    let digest = store.put(&bytes).unwrap().digest;
    let mut reader = store.reader().unwrap();
    let borrowed = reader.get(&digest).unwrap();
    assert_eq!(borrowed.size(), 1000);
    store.dereference(&digest).unwrap();
    let newer = store.put(b"newer").unwrap().digest;
    store.compact().unwrap();
    assert_eq!(&*reader.get(&newer).unwrap(), b"newer");
    assert!(reader.find(&digest).unwrap().is_none());
    assert!(!reader.contains(&digest).unwrap());
    assert!(*borrowed == *bytes);
    let many = reader.get_many(&[newer, digest, newer]).unwrap();
    assert_eq!(many.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    reader.refresh().unwrap();
    assert_eq!(&*reader.get(&newer).unwrap(), b"newer");
    drop(store);
    assert_eq!(&*reader.get(&newer).unwrap(), b"newer");
}

#[test]
fn old_maps_are_counted_while_somebody_holds_them() {
    let store = Store::temporary().unwrap();
    let digest = store.put(b"held").unwrap().digest;
    let (blob, mut reader) = (store.get(&digest).unwrap(), store.reader().unwrap());
    assert_eq!(store.stats().unwrap().old_maps, 0);
    store.compact().unwrap();
    assert!(store.stats().unwrap().old_maps > 0);
    drop(blob);
    assert!(store.stats().unwrap().old_maps > 0);
    reader.refresh().unwrap();
    assert_eq!(store.stats().unwrap().old_maps, 0);
}

/// A long one is closed by a thread of its own.
#[test]
#[cfg(target_os = "linux")]
fn the_files_before_compactions_are_closed_when_the_store_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("blobs.pack")).unwrap();
    let mut kept = Vec::new();
    for n in 0..3 {
        let digest = store.put(&content(n, 40 << 20)).unwrap().digest;
        kept.push(store.put(&content(n, 2000)).unwrap().digest);
        store.dereference(&digest).unwrap();
        store.compact().unwrap();
        assert_eq!(store.stats().unwrap().old_maps, 0);
    }
    assert!(kept.iter().all(|digest| store.contains(digest).unwrap()));
    drop(store);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let at = directory.path().to_str().unwrap();
    assert_eq!(maps.lines().filter(|map| map.contains(at)).collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn a_listing_goes_on_after_any_digest() {
    let store = Store::temporary().unwrap();
    let mut batch = store.batch();
    for n in 0_u32..500 {
        batch.put(&n.to_le_bytes()).unwrap();
    }
    batch.commit().unwrap();
    let all: Vec<Digest> = store.list().map(Result::unwrap).collect();
    assert_eq!(all.len(), 500);
    for at in [0, 1, 250, 498, 499] {
        assert!(store.list_after(&all[at]).map(Result::unwrap).eq(all[at + 1..].iter().copied()));
    }
    assert!(store.descriptors_after(&all[100]).map(|found| found.unwrap().digest).eq(all[101..].iter().copied()));
    // A digest that is not stored, or no more, marks a place too.
    let rest = store.list_after(&unknown()).map(Result::unwrap).collect::<Vec<_>>();
    assert!(all.ends_with(&rest));
    store.dereference(&all[250]).unwrap();
    assert!(store.list_after(&all[250]).map(Result::unwrap).eq(all[251..].iter().copied()));
    store.compact().unwrap();
    assert!(store.list_after(&all[250]).map(Result::unwrap).eq(all[251..].iter().copied()));
}

#[test]
fn a_listing_sees_all_that_stays_while_others_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().tuning(common::tuning()).open(directory.path()).unwrap();
    let stays: Vec<_> = (0_u32..300).map(|n| store.put(&n.to_le_bytes()).unwrap().digest).collect();
    let mut seen = Vec::new();
    for (number, digest) in store.list().enumerate() {
        seen.push(digest.unwrap());
        let passing = store.put(&(1000 + number as u64).to_le_bytes()).unwrap().digest;
        if number % 2 == 0 {
            store.dereference(&passing).unwrap();
        }
        if number == 150 {
            store.compact().unwrap();
        }
        if number > 5000 {
            break;
        }
    }
    for digest in &stays {
        assert_eq!(seen.iter().filter(|other| *other == digest).count(), 1);
    }
    std::thread::spawn(move || store.list().count()).join().unwrap();
}

#[test]
fn a_prefix_means_the_one_blob_that_begins_so() {
    let store = Store::temporary().unwrap();
    let digest = store.put(b"hello").unwrap().digest;
    let text = digest.to_string();
    for length in [15, 16, 40, text.len()] {
        assert_eq!(store.resolve(&text[..length]).unwrap(), digest);
    }
    assert!(matches!(store.resolve(&text[..14]), Err(Error::InvalidDigest { .. })));
    assert!(matches!(store.resolve("sha256:00000000"), Err(Error::InvalidDigest { .. })));
    assert!(matches!(store.resolve("sha512:2cf24dba"), Err(Error::InvalidDigest { .. })));
    // Labels are lower case: anything else is a name.
    assert!(matches!(store.resolve("SHA256:2cf24dba"), Err(Error::NoSuchName { .. })));
    assert!(matches!(store.resolve("sha256:2CF24DBA"), Err(Error::InvalidDigest { .. })));
    // A whole digest is taken as it is, stored or not.
    assert_eq!(store.resolve(&unknown().to_string()).unwrap(), unknown());
}

#[test]
fn two_blobs_that_begin_alike_are_told_apart() {
    // Found by search: the SHA-256 of these two decimal numbers begin with the same eight digits.
    let store = Store::temporary().unwrap();
    let mut first = std::collections::HashMap::new();
    let pair = (0_u32..).find_map(|n| {
        let digest = Digest::of(Algorithm::Sha256, &n.to_le_bytes());
        first.insert(digest.as_bytes()[..4].to_vec(), n).map(|other| [other, n])
    });
    let digests = pair.unwrap().map(|n| store.put(&n.to_le_bytes()).unwrap().digest);
    let prefix = &digests[0].to_string()[..15];
    let Err(Error::AmbiguousPrefix { prefix: named, first, second }) = store.resolve(prefix) else {
        panic!("{prefix}")
    };
    assert_eq!(named, prefix);
    assert!(digests.contains(&first) && digests.contains(&second) && first != second);
    assert_eq!(store.resolve(&digests[1].to_string()[..30]).unwrap(), digests[1]);
}

#[test]
fn process_durability_survives_the_handle() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().durability(Durability::Process).open(directory.path()).unwrap();
    let digests = [10, 100_000].map(|length| store.put(&content(60, length)).unwrap().digest);
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(store.path(), copy.path().join("blobs.pack")).unwrap();
    store.close().unwrap();
    for directory in [&directory, &copy] {
        let store = Store::open(directory.path()).unwrap();
        assert!(digests.iter().all(|digest| store.get(digest).unwrap().verify().is_ok()));
    }
}

#[test]
fn the_last_handle_leaves_nothing_to_replay() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let other = store.clone();
    store.put(b"first").unwrap();
    store.close().unwrap();
    let digest = other.put(b"second").unwrap().digest;
    drop(other);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.recovery(), Recovery::default());
    assert!(store.contains(&digest).unwrap());
    // What was not checkpointed is replayed, and that is reported.
    store.put(b"third").unwrap();
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(store.path(), copy.path().join("blobs.pack")).unwrap();
    let copied = Store::open(copy.path()).unwrap();
    let recovery = copied.recovery();
    assert_eq!((recovery.replayed_commits, recovery.dropped_commits), (1, 0));
    copied.compact().unwrap();
    assert_eq!(copied.recovery(), recovery, "a compaction opens nothing");
    drop(copied);
    store.checkpoint().unwrap();
    std::fs::copy(store.path(), copy.path().join("blobs.pack")).unwrap();
    assert_eq!(Store::open(copy.path()).unwrap().recovery(), Recovery::default());
}

#[test]
fn a_handle_that_outlives_the_store_keeps_the_pack_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut writer = store.writer(Algorithm::Sha256).unwrap();
    writer.write_all(&content(70, 100_000)).unwrap();
    drop(store);
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "its writer is still at work");
    assert!(!error.to_string().contains("process"), "that is this one: {error}");
    let digest = writer.commit().unwrap().digest;
    let store = Store::open(directory.path()).unwrap();
    store.get(&digest).unwrap().verify().unwrap();

    // What is staged gives its space back when it is dropped: nobody else may own the file then.
    let mut writer = store.writer(Algorithm::Sha256).unwrap();
    writer.write_all(&content(71, 100_000)).unwrap();
    let staged = writer.stage().unwrap();
    drop(store);
    assert!(matches!(Store::open(directory.path()), Err(Error::Locked { .. })), "a staged blob can still be dropped");
    drop(staged);
    assert!(Store::open(directory.path()).unwrap().verify().unwrap().damage.is_empty());
}

#[test]
fn a_store_knows_its_path_and_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.path(), directory.path().canonicalize().unwrap().join("blobs.pack"));
    let uuid = store.uuid();
    store.compact().unwrap();
    assert_eq!(store.uuid(), uuid);
    drop(store);
    assert_eq!(Store::open(directory.path().join("blobs.pack")).unwrap().uuid(), uuid);
    assert_ne!(Store::temporary().unwrap().uuid(), uuid);
}

#[test]
fn a_temporary_store_goes_away_with_its_last_handle() {
    let store = Store::temporary().unwrap();
    let digest = store.put(b"x").unwrap().digest;
    let (path, other) = (store.path(), store.clone());
    drop(store);
    assert!(path.exists() && other.contains(&digest).unwrap());
    drop(other);
    assert!(!path.exists() && !path.parent().unwrap().exists());
}

/// Of two compactions at once the second one went on with the pack that the first had replaced, and put a copy of that in
/// the place of the new one: what was committed in between was gone.
#[test]
fn two_compactions_at_once_keep_what_is_committed_between_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let kept = store.put(&content(1, 1000)).unwrap().digest;
    let (first, begun) = std::sync::mpsc::channel();
    let (second, working) = std::sync::mpsc::channel();
    let (put, is_put) = std::sync::mpsc::channel();
    let moment = std::time::Duration::from_millis(300);
    let other = store.clone();
    let thread = std::thread::spawn(move || {
        begun.recv().unwrap();
        let options = blobpack::CompactOptions::new().progress(move |_| {
            let _ = second.send(());
            // It is put now, which was the fault, or after this compaction, so that this is not answered.
            let _ = is_put.recv_timeout(moment);
        });
        other.compact_with(options).unwrap();
    });
    let options = blobpack::CompactOptions::new().progress(move |_| {
        // The other one takes the pack that is replaced soon, and waits.
        let _ = first.send(());
        std::thread::sleep(moment);
    });
    store.compact_with(options).unwrap();
    working.recv().unwrap();
    let between = store.put(&content(2, 1000)).unwrap().digest;
    let _ = put.send(());
    thread.join().unwrap();
    for store in [store.clone(), Store::options().read_only(true).open(directory.path()).unwrap()] {
        assert_eq!(store.list().count(), 2);
        for digest in [kept, between] {
            store.get(&digest).unwrap().verify().unwrap();
        }
    }
}

#[test]
fn a_new_pack_has_the_mode_that_was_asked_for_and_a_compacted_one_keeps_it() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().mode(0o600).create_new(true).open(directory.path()).unwrap();
    assert_eq!(store.path().metadata().unwrap().mode() & 0o777, 0o600);
    store.compact().unwrap();
    assert_eq!(store.path().metadata().unwrap().mode() & 0o777, 0o600);
    let again = Store::options().create_new(true).open(directory.path());
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
}

#[test]
fn the_limit_of_bytes_is_kept_and_removals_go_on_at_it() {
    const LIMIT: u64 = 4 << 20;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().max_bytes(LIMIT).open(directory.path()).unwrap();
    let mut stored = Vec::new();
    let error = loop {
        match store.put(&content(80 + stored.len() as u64, 100_000)) {
            Ok(put) => stored.push(put.digest),
            Err(error) => break error,
        }
    };
    let Error::LimitReached { needed, limit: LIMIT, .. } = error else { panic!("{error}") };
    assert!(needed > LIMIT && stored.len() > 20);
    assert!(store.path().metadata().unwrap().len() <= LIMIT);
    assert!(stored.iter().all(|digest| store.get(digest).unwrap().verify().is_ok()));
    for digest in &stored {
        assert_eq!(store.dereference(digest).unwrap().blobs(), 1);
    }
    store.compact().unwrap();
    store.put(&content(79, 100_000)).unwrap();
}

/// Who was killed at its limit of bytes was refused with that limit ever after, and nothing said what to do.
#[test]
fn what_was_killed_at_its_limit_of_bytes_opens_with_a_larger_one_and_is_compacted_below_it() {
    let directory = tempfile::tempdir().unwrap();
    let options = Store::options().durability(Durability::Process);
    let store = options.open(directory.path().join("a.pack")).unwrap();
    let stored: Vec<_> = (0..1000).map(|number| store.put(&content(number, 1000)).unwrap().digest).collect();
    // Killed: the file as it is.
    let path = directory.path().join("killed.pack");
    std::fs::copy(store.path(), &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let limited = options.clone().max_bytes(before.len() as u64);
    for _ in 0..2 {
        let error = limited.open(&path).unwrap_err();
        assert!(matches!(error, Error::LimitReached { limit, .. } if limit == before.len() as u64), "{error}");
    }
    let after = std::fs::read(&path).unwrap();
    assert!(after[..before.len()] == before[..] && after[before.len()..].iter().all(|byte| *byte == 0));
    let are_there = |store: &Store, some: &[Digest]| some.iter().all(|d| store.get(d).unwrap().verify().is_ok());
    assert!(are_there(&Store::options().read_only(true).open(&path).unwrap(), &stored));
    let larger = options.open(&path).unwrap();
    assert!(are_there(&larger, &stored));
    let (gone, kept) = stored.split_at(980);
    gone.iter().for_each(|digest| drop(larger.dereference(digest).unwrap()));
    larger.compact().unwrap();
    larger.close().unwrap();
    let store = limited.open(&path).unwrap();
    assert!(are_there(&store, kept));
    store.put(b"one more").unwrap();
    assert!(path.metadata().unwrap().len() <= before.len() as u64);
}

/// Who put a large blob again and again that was there, or cancelled many streams, was at the limit until a compaction
/// came, with hardly anything stored.
#[test]
fn what_came_to_nothing_takes_no_bytes_of_the_limit() {
    const LIMIT: u64 = 16 << 20;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().max_bytes(LIMIT).open(directory.path()).unwrap();
    let large = content(80, 1 << 20);
    let digest = store.put(&large).unwrap().digest;
    for round in 0..40 {
        assert_eq!(store.put(&large).unwrap().ref_count, 2 + round);
        let mut stream = store.writer(Algorithm::Sha256).unwrap();
        stream.write_all(&large).unwrap();
        stream.cancel().unwrap();
        let mut batch = store.batch();
        batch.put(&content(100 + round, 1 << 20)).unwrap();
        drop(batch);
    }
    let others: Vec<_> = (0..3).map(|number| store.put(&content(81 + number, 2 << 20)).unwrap().digest).collect();
    assert!(store.path().metadata().unwrap().len() <= LIMIT);
    let all = || [digest].into_iter().chain(others.iter().copied());
    assert!(all().all(|digest| store.get(&digest).unwrap().verify().is_ok()));
    assert!(store.verify().unwrap().damage.is_empty());
    let path = store.path();
    store.close().unwrap();
    let store = Store::options().rebuild(&path).unwrap();
    assert!(all().all(|digest| store.get(&digest).unwrap().verify().is_ok()));
}

/// A stream that grew at the end of the file met the limit there, whatever lay free before it.
#[test]
fn a_stream_that_meets_the_limit_goes_on_where_another_came_to_nothing() {
    const LIMIT: u64 = 12 << 20;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().max_bytes(LIMIT).open(directory.path()).unwrap();
    // Log and index have room for more from here on.
    store.put(&content(0, 100)).unwrap();
    let mut stream = store.writer(Algorithm::Sha256).unwrap().size_hint(8 << 20);
    stream.write_all(&content(1, 1 << 20)).unwrap();
    stream.cancel().unwrap();
    let bytes = content(2, 5 << 20);
    let mut stream = store.writer(Algorithm::Sha256).unwrap();
    bytes.chunks(100_000).for_each(|piece| stream.write_all(piece).unwrap());
    let digest = stream.commit().unwrap().digest;
    assert!(store.get(&digest).unwrap()[..] == bytes[..]);
    let mut stream = store.writer(Algorithm::Sha256).unwrap();
    let _ = stream.write_all(&content(3, 9 << 20));
    assert!(matches!(stream.commit(), Err(Error::LimitReached { needed, .. }) if needed > LIMIT));
    assert!(store.path().metadata().unwrap().len() <= LIMIT);
    assert_eq!(store.verify().unwrap().damage, []);
}

/// What is wrong with an upload, or what it may not do, was of no kind as an `io::Error`: only its text told it from
/// anything else.
#[test]
fn errors_have_the_kinds_that_the_standard_library_has_for_them() {
    use std::io::ErrorKind;
    fn kind<T: std::fmt::Debug>(result: blobpack::Result<T>) -> ErrorKind {
        std::io::Error::from(result.unwrap_err()).kind()
    }
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().max_bytes(1 << 20).open(directory.path()).unwrap();
    let digest = store.put(b"a blob").unwrap().digest;
    let mut short = store.writer(Algorithm::Sha256).unwrap().expect_size(5);
    short.write_all(b"more than five").unwrap();
    assert_eq!(kind(short.commit()), ErrorKind::InvalidData);
    let mut long = store.writer(Algorithm::Sha256).unwrap();
    assert_eq!(long.write_all(&content(1, 2 << 20)).unwrap_err().kind(), ErrorKind::QuotaExceeded);
    assert_eq!(kind(store.compact()), ErrorKind::ResourceBusy);
    assert_eq!(kind(long.commit()), ErrorKind::QuotaExceeded);
    let reader = Store::options().read_only(true).open(directory.path()).unwrap();
    assert_eq!(kind(reader.dereference(&digest)), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_compaction_refuses_open_writers_and_names_them() {
    let store = Store::temporary().unwrap();
    let writer = store.writer(Algorithm::Sha256).unwrap();
    let staged = store.writer(Algorithm::Sha256).unwrap().stage().unwrap();
    assert!(matches!(store.compact(), Err(Error::InUse { writers: 1, staged: 1, .. })));
    drop(writer);
    let mut batch = store.batch();
    batch.add(staged).unwrap();
    assert!(matches!(store.compact(), Err(Error::InUse { writers: 0, staged: 1, .. })));
    batch.commit().unwrap();
    store.compact().unwrap();
}

#[test]
fn a_compaction_refuses_a_pack_of_several_names() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    std::fs::hard_link(store.path(), directory.path().join("second")).unwrap();
    assert!(matches!(store.compact(), Err(Error::HardLinks { links: 2, .. })));
    std::fs::remove_file(directory.path().join("second")).unwrap();
    store.compact().unwrap();
}

/// A compaction put the pack over another one that had been moved to its path, which was lost, and beside itself where
/// it had been moved away.
#[test]
fn a_compaction_replaces_nothing_that_is_not_the_pack() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let store = Store::open(at("pack")).unwrap();
    store.put(b"a blob").unwrap();
    let other = Store::open(at("other")).unwrap().put(b"another's").unwrap().digest;
    std::fs::rename(at("pack"), at("moved")).unwrap();
    for is_there in [false, true] {
        if is_there {
            std::fs::rename(at("other"), at("pack")).unwrap();
        }
        let error = store.compact().unwrap_err();
        assert!(matches!(&error, Error::Moved { path } if *path == store.path()), "{error}");
        assert_eq!(at("pack").exists(), is_there);
        store.put(b"goes on").unwrap();
    }
    store.compact_with(CompactOptions::new().output(at("copy"))).unwrap();
    assert!(Store::open(at("pack")).unwrap().contains(&other).unwrap());
    std::fs::rename(at("moved"), store.path()).unwrap();
    store.compact().unwrap();
    assert_eq!(store.verify().unwrap().blobs, 2);
    // A link to where it is now is not the pack: it would be replaced, and the pack left behind.
    std::fs::rename(at("pack"), at("moved")).unwrap();
    std::os::unix::fs::symlink(at("moved"), at("pack")).unwrap();
    let error = store.compact().unwrap_err();
    assert!(matches!(&error, Error::Moved { path } if *path == store.path()), "{error}");
    assert!(at("pack").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn a_reader_finds_what_crosses_the_end_of_its_map() {
    // A map is 64 GiB, or a larger power of two, long. A blob that began before its end and ended behind it was damage to
    // a reader that had the file mapped before it grew so far.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pack");
    Store::open(&path).unwrap().close().unwrap();
    // Space is given out from the end of the file; a hole costs nothing.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len((64 << 30) - (64 << 10)).unwrap();
    let store = Store::options().durability(Durability::Process).open(&path).unwrap();
    let other = Store::options().read_only(true).open(&path).unwrap();
    let reader = other.reader().unwrap();
    assert!(!other.contains(&unknown()).unwrap());
    let bytes = content(1, 200_000);
    let digest = store.put(&bytes).unwrap().digest;
    let blob = other.get(&digest).unwrap();
    let (_, at) = blob.file_range().unwrap();
    assert!(at < 64 << 30 && at + blob.size() > 64 << 30, "it begins at {at}");
    assert!(*blob == *bytes && *reader.get(&digest).unwrap() == *bytes);
}

#[test]
fn a_rebuilt_pack_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().tuning(common::tuning()).open(directory.path()).unwrap();
    let digests: Vec<_> = (0_u32..300).map(|n| store.put(&n.to_le_bytes()).unwrap().digest).collect();
    for pair in digests[..200].chunks(2) {
        store.link(&pair[0], &pair[1]).unwrap();
    }
    digests[250..].iter().for_each(|digest| drop(store.dereference(digest).unwrap()));
    let before: Vec<_> = store.descriptors().map(Result::unwrap).collect();
    store.close().unwrap();
    let store = Store::options().rebuild(directory.path()).unwrap();
    assert_eq!(store.descriptors().map(Result::unwrap).collect::<Vec<_>>(), before);
    assert!(store.recovery().replayed_commits >= 400);
    assert!(store.verify().unwrap().damage.is_empty());
}

/// It said that all was well, and had done nothing.
#[test]
fn what_is_open_for_reading_only_is_neither_rebuilt_nor_repaired() {
    let directory = tempfile::tempdir().unwrap();
    Store::open(directory.path()).unwrap().put(b"a blob").unwrap();
    let options = Store::options().read_only(true);
    assert!(matches!(options.rebuild(directory.path()), Err(Error::ReadOnly { .. })));
    assert!(matches!(options.repair(directory.path()), Err(Error::ReadOnly { .. })));
    assert_eq!(options.open(directory.path()).unwrap().list().count(), 1);
}

#[test]
fn a_checkpoint_comes_by_itself_and_a_closed_store_has_none_on_its_way() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pack");
    for durability in [Durability::PowerLoss, Durability::Process] {
        let options = Store::options().tuning(common::tuning()).durability(durability);
        let store = options.open(&path).unwrap();
        let newest = || {
            let sequence = |detail: &str| detail.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
            let items = blobpack::inspect(&path).unwrap();
            items
                .filter(|item| item.kind == "superblock" && item.valid)
                .map(|item| sequence(&item.detail))
                .max()
                .unwrap()
        };
        let before = newest();
        let digests: Vec<_> = (0..200).map(|n| store.put(&content(n, 100)).unwrap().digest).collect();
        let patience = Instant::now() + Duration::from_secs(60);
        while newest() == before {
            assert!(Instant::now() < patience, "nobody made a checkpoint");
            std::thread::sleep(Duration::from_millis(1));
        }
        // What was in the way of the lock would be seen here.
        drop(store);
        let store = options.open(&path).unwrap();
        assert_eq!(store.recovery().replayed_commits, 0);
        assert!(digests.iter().all(|digest| store.contains(digest).unwrap()));
    }
}

#[test]
fn a_callback_that_panics_leaves_the_store_as_it_was() {
    let store = Store::temporary().unwrap();
    let kept = store.put(&content(1, 100_000)).unwrap();
    let panics = |work: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
    let options = || blobpack::CompactOptions::new().progress(|_| panic!("a progress bar's"));
    assert!(panics(&|| drop(store.compact_with(options()))));
    assert!(panics(&|| drop(store.verify_with(&mut |_| panic!("another's")))));
    let after = store.put(b"after").unwrap();
    let verified = store.verify().unwrap();
    assert!(verified.damage.is_empty(), "{:?}", verified.damage);
    store.compact().unwrap();
    assert_eq!(store.list().count(), 2);
    for digest in [kept.digest, after.digest] {
        store.get(&digest).unwrap().verify().unwrap();
    }
}

/// The first figures of a pack that was just opened waited for a lock that the caller had.
#[test]
fn figures_can_be_had_while_a_compaction_or_a_verification_tells_how_far_it_is() {
    let directory = tempfile::tempdir().unwrap();
    Store::open(directory.path()).unwrap().put(b"a blob").unwrap();
    let (told, hear) = std::sync::mpsc::channel();
    let path = directory.path().to_path_buf();
    std::thread::spawn(move || {
        let figures = |store: &Store| store.stats().unwrap().blobs;
        let store = Store::open(&path).unwrap();
        store.verify_with(&mut |_| told.send(figures(&store)).unwrap()).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        // The pack that the first one puts in place is new, too.
        for _ in 0..2 {
            let (asked, told) = (store.clone(), told.clone());
            let options = CompactOptions::new().progress(move |_| told.send(figures(&asked)).unwrap());
            store.compact_with(options).unwrap();
        }
    });
    for _ in 0..3 {
        assert_eq!(hear.recv_timeout(Duration::from_mins(1)).unwrap(), 1);
    }
    assert!(hear.iter().all(|blobs| blobs == 1));
}
