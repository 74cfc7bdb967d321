//! What a verification without a writer of its own makes of what other handles do.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::medium::{Sim, SimDirectory};
use crate::store::{How, Store};

fn written() -> (SimDirectory, Store<Sim>) {
    let directory = SimDirectory::new(64 << 20);
    let store = Store::options().create_in(directory.create("a.pack").unwrap()).unwrap().unwrap();
    (directory, store)
}

fn read_only(directory: &SimDirectory) -> Store<Sim> {
    let medium = directory.open("a.pack", false).unwrap();
    Store::options().read_only(true).open_in(medium, How::Open).unwrap().unwrap()
}

/// It went on to say that a writer was at work, and compared neither index nor counts.
#[test]
fn a_handle_that_was_opened_beside_a_writer_verifies_all_once_that_one_is_gone() {
    let (directory, store) = written();
    store.put(b"a blob").unwrap();
    let reader = read_only(&directory);
    assert!(reader.verify().unwrap().partial);
    store.close().unwrap();
    let verified = reader.verify().unwrap();
    assert_eq!((verified.blobs, verified.partial, verified.damage), (1, false, Vec::new()));
}

/// Nothing was found where only the list of links out lacked the link: that one was walked, but not remembered.
#[test]
fn a_link_that_is_on_one_of_its_lists_only_is_found() {
    let (_directory, store) = written();
    let (to, from) = (store.put(b"to").unwrap().digest, store.put(b"from").unwrap().digest);
    store.link(&to, &from).unwrap();
    let view = store.shared().pack().source().view();
    let cases = [
        ([true, true], None),
        ([false, true], Some("is not on the list of links out")),
        ([true, false], Some("is not on the list of links in")),
        ([false, false], Some("is on neither of its lists")),
    ];
    for ([is_out, is_in], expected) in cases {
        let mut verifier = Verifier::new(&*view, true);
        verifier.index();
        for (blob, _) in &mut verifier.blobs {
            if !is_out && blob.out_count == 1 {
                (blob.first_out, blob.out_count) = (Offset::NONE, 0);
            }
            if !is_in && blob.held == 1 {
                (blob.first_in, blob.held) = (Offset::NONE, 0);
            }
        }
        verifier.graph();
        let found: Vec<String> = verifier.result.damage.into_iter().map(|found| found.what).collect();
        assert_eq!(found.len(), usize::from(expected.is_some()), "{found:?}");
        assert!(expected.is_none_or(|expected| found[0].ends_with(expected)), "{found:?}");
    }
}

/// Beside a writer that moved segments about, blobs, links and names were there twice.
#[test]
fn what_a_walk_beside_a_writer_comes_upon_again_is_no_finding_and_counts_once() {
    let (_directory, store) = written();
    let (to, from) = (store.put(b"to").unwrap().digest, store.put(b"from").unwrap().digest);
    store.link(&to, &from).unwrap();
    store.set_name(&"a name".parse().unwrap(), &from).unwrap();
    let view = store.shared().pack().source().view();
    for is_still in [false, true] {
        let mut verifier = Verifier::new(&*view, is_still);
        // As after a split in between.
        (0..2).for_each(|_| verifier.index());
        verifier.contents(&mut |_| {}, |_| {});
        if is_still {
            verifier.twice();
        }
        let Verified { blobs, links, names, bytes, damage, .. } = verifier.result;
        let times = if is_still { 2 } else { 1 };
        assert_eq!((blobs, links, names, bytes), (2 * times, times, times, 6 * times));
        let found = damage.iter().filter(|found| found.what.ends_with("is there twice"));
        // Two blobs, a link, a name and the anchor.
        assert_eq!((found.count(), damage.len()), if is_still { (5, 5) } else { (0, 0) });
    }
}

/// What the writer had changed was found as damage, by the thousand in a larger pack, or not noticed.
#[test]
fn a_verification_that_a_writer_overtakes_begins_anew_and_gives_up_after_a_few_times() {
    let (directory, store) = written();
    let mut batch = store.batch();
    let digests: Vec<Digest> = (0..200_u8).map(|n| batch.put(&[n; 100]).unwrap()).collect();
    for pair in digests.chunks(2) {
        batch.link(&pair[0], &pair[1]);
    }
    batch.commit().unwrap();
    store.close().unwrap();
    // Another process, as far as the reader knows.
    let write = |unlinks: bool| {
        let medium = directory.open("a.pack", true).unwrap();
        let other = Store::options().open_in(medium, How::Open).unwrap().unwrap();
        let mut batch = other.batch();
        for pair in digests.chunks(2) {
            batch.reference(&pair[0]);
            if unlinks {
                batch.unlink(&pair[0], &pair[1]);
            }
        }
        batch.commit().unwrap();
        other.close().unwrap();
    };
    let reader = read_only(&directory);
    let mut is_first = true;
    let once = &mut |_| {
        if std::mem::take(&mut is_first) {
            write(true);
        }
    };
    let verified = reader.verify_with(once).unwrap();
    assert_eq!((verified.blobs, verified.links, verified.partial), (200, 0, false));
    assert_eq!(verified.damage, Vec::new());
    let always = reader.verify_with(&mut |_| write(false));
    assert!(matches!(always, Err(Error::Busy { .. })), "{always:?}");
    assert_eq!(reader.verify().unwrap().damage, Vec::new());
}
