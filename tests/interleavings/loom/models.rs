//! The models: what a writer and one lock-free reader do at the same time, small enough that loom can try everything.
//!
//! Each begins with an index that one thread made, then lets a reader loose beside the writer. A reader makes its
//! lookups one after the other and checks each answer, and that no answer is older than the one before.

use std::sync::Arc;

use blobpack::format::{Offset, live};
use blobpack::index::home::Miss;
use blobpack::log::Tail;
use blobpack::map::Map;
use blobpack::medium::Medium as _;
use blobpack::recovery;
use blobpack::view::View;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::medium::Model as Medium;
use crate::rig::{Content, Writer, at, find, find_fast, find_payload, references, references_fast};

/// A model: its name, the most preemptions that it is tried with where the environment does not say, and itself.
pub type Model = (&'static str, usize, fn());

/// A lookup.
type Find = fn(&View<Medium>, &Content) -> Option<u64>;
/// One that asks for the blob's references.
type Count = fn(&View<Medium>, &Content) -> Option<u32>;

macro_rules! models {
    ($($name:ident: $preemptions:literal,)*) => {
        /// All of them, the cheap ones first.
        pub const MODELS: &[Model] = &[$((stringify!($name), $preemptions, $name),)*];
    };
}

models! {
    bytes_are_stored_in_order: 3,
    a_word_that_is_written_in_part_is_stored_in_order: 3,
    a_word_whose_start_is_written_is_stored_in_order: 3,
    a_new_blob_is_found_with_its_bytes: 3,
    a_new_blob_is_found_on_the_fast_path: 3,
    a_blob_that_comes_back_is_found_at_its_new_place: 3,
    a_blob_that_comes_back_is_found_fast_at_its_new_place: 3,
    a_blob_that_comes_back_is_found_on_the_fast_path: 3,
    who_sees_the_notice_sees_what_was_recovered: 3,
    a_superseded_index_is_not_asked_any_more: 3,
    a_record_is_found_while_its_segment_is_split: 3,
    a_record_is_found_fast_while_its_segment_is_split: 2,
    a_walk_beside_a_split_finds_all_of_it_once: 2,
    a_region_that_is_used_again_hides_nothing: 1,
    a_region_that_is_used_again_hides_nothing_from_the_fast_path: 1,
    a_region_that_is_used_again_hides_nothing_behind_the_end_of_a_segment: 1,
    a_directory_that_is_used_again_hides_nothing: 2,
    a_directory_that_is_used_again_hides_nothing_from_the_fast_path: 2,
    a_directory_that_is_copied_into_hides_nothing: 2,
    a_directory_that_is_copied_into_hides_nothing_from_the_fast_path: 2,
    a_record_is_found_while_its_segment_is_copied: 2,
    counts_are_never_torn: 2,
    counts_are_never_torn_on_the_fast_path: 2,
    counts_do_not_go_back_while_their_segment_is_copied: 1,
    counts_do_not_go_back_on_the_fast_path: 1,
    a_blob_that_comes_back_has_the_counts_of_one_life: 2,
    a_blob_that_comes_back_has_the_counts_of_one_life_on_the_fast_path: 2,
}

/// Runs `reads` beside `writes`.
fn beside(writer: &mut Writer, reads: impl FnOnce(View<Medium>) + Send + 'static, writes: impl FnOnce(&mut Writer)) {
    let view = writer.reader();
    let reader = thread::spawn(move || reads(view));
    writes(writer);
    reader.join().expect("the reader's checks hold");
}

fn bytes_are_stored_in_order() {
    let map = Map::memory(4096);
    map.lay_words(Offset(0), 4096);
    let reader = {
        let map = map.clone();
        thread::spawn(move || {
            let mut bytes = [0; 8];
            map.read_bytes(Offset(8), &mut bytes).expect("it is inside");
            if bytes == [7; 8] {
                assert_eq!(map.word(Offset(0)).expect("it is inside").load(loom::sync::atomic::Ordering::Relaxed), 1);
            }
        })
    };
    map.store_words(Offset(0), &[1]);
    map.write_bytes(Offset(8), &[7; 8]);
    reader.join().expect("the reader's checks hold");
}

/// One byte of a word is stored, and the same byte is read alone: at the end of the word, or at its start.
fn part_of_a_word(at: u64) {
    let map = Map::memory(4096);
    map.lay_words(Offset(0), 4096);
    let reader = {
        let map = map.clone();
        thread::spawn(move || {
            let mut byte = [0];
            map.read_bytes(Offset(at), &mut byte).expect("it is inside");
            if byte == [7] {
                assert_eq!(map.word(Offset(0)).expect("it is inside").load(loom::sync::atomic::Ordering::Relaxed), 1);
            }
        })
    };
    map.store_words(Offset(0), &[1]);
    map.write_bytes(Offset(at), &[7]);
    reader.join().expect("the reader's checks hold");
}

fn a_word_that_is_written_in_part_is_stored_in_order() {
    part_of_a_word(11);
}

fn a_word_whose_start_is_written_is_stored_in_order() {
    part_of_a_word(8);
}

fn a_new_blob_is_found_with_its_bytes() {
    let mut writer = Writer::new();
    let new = Content::new(0, 1, 0, 0);
    let reads = move |view: View<Medium>| {
        let first = find(&view, &new);
        let second = find(&view, &new);
        assert!(second >= first, "it was there");
    };
    beside(&mut writer, reads, |writer| writer.put(&new, 0));
    assert_eq!(find(&writer.reader(), &new), Some(0));
}

fn at_home(view: &View<Medium>, content: &Content) -> bool {
    match find_payload(view, content) {
        Ok(bytes) => {
            assert_eq!(bytes, content.bytes());
            true
        }
        Err(_) => false,
    }
}

fn a_new_blob_is_found_on_the_fast_path() {
    let mut writer = Writer::new();
    let new = Content::new(0, 1, 0, 0);
    let reads = move |view: View<Medium>| {
        let first = at_home(&view, &new);
        let second = at_home(&view, &new);
        assert!(second >= first, "it was there");
    };
    // The reader has the notice that a writer's start leaves.
    beside(&mut writer, reads, |writer| writer.put(&new, 0));
    assert!(at_home(&writer.reader(), &new));
}

fn torn(references: Count) {
    let mut writer = Writer::new();
    let blob = Content::new(0, 1, 0, 0);
    writer.put(&blob, 0);
    let reads = move |view: View<Medium>| {
        let found = references(&view, &blob);
        assert!(found == Some(1) || found == Some(2), "{found:?}");
    };
    beside(&mut writer, reads, |writer| writer.apply(&blob.image(0, 2)));
    assert_eq!(references(&writer.reader(), &blob), Some(2));
}

fn counts_are_never_torn() {
    torn(references);
}

fn counts_are_never_torn_on_the_fast_path() {
    torn(references_fast);
}

/// What is not shown yet is not seen by pieces either: it would be gone at the next look.
fn one_life(references: Count) {
    let mut writer = Writer::new();
    let blob = Content::new(0, 1, 0, 0);
    writer.put(&blob, 0);
    let reads = move |view: View<Medium>| {
        let first = references(&view, &blob);
        assert!(first != Some(2) || find(&view, &blob) == Some(0), "it was there");
    };
    beside(&mut writer, reads, |writer| {
        writer.apply(&blob.removal(0, 1));
        writer.apply(&blob.image(0, 2));
    });
}

fn a_blob_that_comes_back_has_the_counts_of_one_life() {
    one_life(references);
}

fn a_blob_that_comes_back_has_the_counts_of_one_life_on_the_fast_path() {
    one_life(references_fast);
}

/// Its record goes into the slot that the old one had.
fn comes_back(find: Find) {
    let mut writer = Writer::new();
    let blob = Content::new(0, 1, 0, 0);
    writer.put(&blob, 0);
    let reads = move |view: View<Medium>| {
        let first = find(&view, &blob);
        let second = find(&view, &blob);
        assert!(first != Some(1) || second == Some(1), "it was at its new place");
        assert!(first != None || second != Some(0), "it was gone");
    };
    beside(&mut writer, reads, |writer| {
        writer.apply(&blob.removal(0, 1));
        writer.put(&blob, 1);
    });
    assert_eq!(find(&writer.reader(), &blob), Some(1));
}

fn a_blob_that_comes_back_is_found_at_its_new_place() {
    comes_back(find);
}

fn a_blob_that_comes_back_is_found_fast_at_its_new_place() {
    comes_back(find_fast);
}

fn a_blob_that_comes_back_is_found_on_the_fast_path() {
    let mut writer = Writer::new();
    let blob = Content::new(0, 1, 0, 0);
    writer.put(&blob, 0);
    let reads = move |view: View<Medium>| {
        at_home(&view, &blob);
    };
    beside(&mut writer, reads, |writer| {
        writer.apply(&blob.removal(0, 1));
        writer.put(&blob, 1);
    });
    assert!(at_home(&writer.reader(), &blob));
}

/// The first change after a checkpoint copies segment and directory.
fn copied(reads: impl FnOnce(View<Medium>, Content, Content) + Send + 'static) {
    let mut writer = Writer::new();
    let (changes, stays) = (Content::new(0, 1, 0, 0), Content::new(0, 1, 0, 1));
    writer.put(&changes, 0);
    writer.put(&stays, 1);
    writer.checkpoint(1);
    beside(&mut writer, move |view| reads(view, changes, stays), |writer| writer.apply(&changes.image(0, 2)));
    assert_eq!(writer.table.events.copies, 1);
}

fn a_record_is_found_while_its_segment_is_copied() {
    copied(|view, changes, stays| {
        assert_eq!(find(&view, &stays), Some(1));
        assert_eq!(find(&view, &changes), Some(0));
    });
}

fn go_back(references: Count) {
    copied(move |view, changes, _| {
        let first = references(&view, &changes);
        assert!(first == Some(1) || first == Some(2), "{first:?}");
        assert!(references(&view, &changes) >= first, "they went back");
    });
}

fn counts_do_not_go_back_while_their_segment_is_copied() {
    go_back(references);
}

fn counts_do_not_go_back_on_the_fast_path() {
    go_back(references_fast);
}

/// The segment is full: it is split, and the directory doubles.
fn split(find: Find) {
    let mut writer = Writer::new();
    let (low, high, new) = (Content::new(0, 1, 0, 0), Content::new(1, 1, 0, 0), Content::new(1, 1, 0, 1));
    writer.put(&low, 0);
    writer.put(&high, 1);
    let reads = move |view: View<Medium>| {
        assert_eq!(find(&view, &high), Some(1));
        assert_eq!(find(&view, &low), Some(0));
        let first = find(&view, &new);
        assert!(find(&view, &new) >= first, "it was there");
    };
    beside(&mut writer, reads, |writer| writer.put(&new, 2));
    assert_eq!((writer.table.events.splits, writer.table.events.doublings), (1, 1));
}

fn a_record_is_found_while_its_segment_is_split() {
    split(find);
}

fn a_record_is_found_fast_while_its_segment_is_split() {
    split(find_fast);
}

/// The frames of all blobs that a walk finds, sorted.
fn walk(view: &View<Medium>) -> Vec<Offset> {
    let (mut next, mut found) = (Some(0), Vec::new());
    while let Some(tag) = next {
        let (records, after) = view.records_from(tag).expect("the index is sound");
        found.extend(records.iter().map(|record| match record.key() {
            blobpack::record::Key::Blob(id) => id,
            key => panic!("{key:?} was never stored"),
        }));
        next = after;
    }
    found.sort_unstable();
    found
}

fn a_walk_beside_a_split_finds_all_of_it_once() {
    let mut writer = Writer::new();
    let (low, high, new) = (Content::new(0, 1, 0, 0), Content::new(1, 1, 0, 0), Content::new(1, 1, 0, 1));
    writer.put(&low, 0);
    writer.put(&high, 1);
    let reads = move |view: View<Medium>| {
        let found = walk(&view);
        assert!(found == [at(0), at(1)] || found == [at(0), at(1), at(2)], "{found:?}");
    };
    beside(&mut writer, reads, |writer| writer.put(&new, 2));
}

/// What a reader that stopped in the middle of a segment goes on in is another one: `stays` stands in the second slot
/// of the region's first life, behind `goes`, and in the first slot of its second. Or the other way round, where `home`
/// is the second slot.
fn region_used_again(find: Find, home: u32) {
    let mut writer = Writer::new();
    let (goes, stays) = (Content::new(0, 1, home, 0), Content::new(0, 1, home, 1));
    writer.put(&goes, 0);
    writer.put(&stays, 1);
    writer.checkpoint(1);
    let before = writer.segment();
    let reads = move |view: View<Medium>| assert_eq!(find(&view, &stays), Some(1));
    beside(&mut writer, reads, |writer| {
        writer.apply(&goes.removal(0, 1));
        writer.checkpoint(2);
        writer.apply(&stays.image(1, 2));
    });
    assert_eq!(writer.segment(), before, "the region is the one that the reader may be in");
}

fn a_region_that_is_used_again_hides_nothing() {
    region_used_again(find, 0);
}

fn a_region_that_is_used_again_hides_nothing_from_the_fast_path() {
    region_used_again(find_fast, 0);
}

fn a_region_that_is_used_again_hides_nothing_behind_the_end_of_a_segment() {
    region_used_again(find_fast, 1);
}

/// A directory of one entry becomes one of two: who took the live word for the first looks into the wrong half.
fn directory_used_again(find: Find) {
    let mut writer = Writer::new();
    let (low, high, new) = (Content::new(0, 1, 0, 0), Content::new(1, 1, 0, 0), Content::new(0, 1, 0, 1));
    writer.put(&low, 0);
    writer.put(&high, 1);
    writer.checkpoint(1);
    writer.reserve_directories();
    let before = writer.table.live().directory;
    let reads = move |view: View<Medium>| assert_eq!(find(&view, &high), Some(1));
    beside(&mut writer, reads, |writer| {
        writer.apply(&low.image(0, 2));
        writer.checkpoint(2);
        writer.put(&new, 2);
    });
    assert_eq!((writer.table.live().directory, writer.table.live().depth), (before, 1), "it is the one that was");
}

fn a_directory_that_is_used_again_hides_nothing() {
    directory_used_again(find);
}

fn a_directory_that_is_used_again_hides_nothing_from_the_fast_path() {
    directory_used_again(find_fast);
}

/// The same where directories are copied before checkpoints: the one that the reader may be in is copied into.
fn directory_copied_into(find: Find) {
    let mut writer = Writer::new();
    let (low, high, new) = (Content::new(0, 1, 0, 0), Content::new(1, 1, 0, 0), Content::new(0, 1, 0, 1));
    writer.put(&low, 0);
    writer.put(&high, 1);
    writer.checkpoint_with_copy(1);
    let before = writer.table.live().directory;
    let reads = move |view: View<Medium>| assert_eq!(find(&view, &high), Some(1));
    beside(&mut writer, reads, |writer| {
        writer.checkpoint_with_copy(2);
        writer.put(&new, 2);
        // Two free ones are kept, and may be taken before it.
        let mut sequences = 3..8;
        while writer.table.live().directory != before {
            writer.checkpoint_with_copy(sequences.next().expect("it comes free"));
        }
    });
    assert_eq!((writer.table.live().directory, writer.table.live().depth), (before, 1), "it is the one that was");
}

fn a_directory_that_is_copied_into_hides_nothing() {
    directory_copied_into(find);
}

fn a_directory_that_is_copied_into_hides_nothing_from_the_fast_path() {
    directory_copied_into(find_fast);
}

/// A recovery beside a reader of the dead writer: its index first, then the notice.
fn who_sees_the_notice_sees_what_was_recovered() {
    let mut writer = Writer::new();
    let (old, new) = (Content::new(0, 1, 0, 0), Content::new(0, 1, 0, 1));
    writer.put(&old, 0);
    let mut next = writer.succeed();
    let reads = move |view: View<Medium>| {
        let overtaken = !view.is_current();
        assert_eq!(find(&view, &old), Some(0));
        let found = find(&view, &new);
        assert!(found.is_some() || !overtaken, "the notice tells of an index that is not shown yet");
    };
    beside(&mut next, reads, |next| {
        next.put(&new, 1);
        let tail = Tail {
            epoch: 2,
            chunk: Offset::NONE,
            chunk_end: 0,
            at: Offset::NONE,
            commit: Offset::NONE,
            commit_checksum: 0,
        };
        recovery::publish(&mut next.view, &mut next.table, &tail).expect("a model takes every store");
    });
    assert_eq!(find(&next.reader(), &new), Some(1));
}

/// A compaction beside a reader of the old file. The path is what `rename` changes: whoever finds the new file there,
/// where commits go on, has no answer from the old one any more; until then that is the pack.
fn a_superseded_index_is_not_asked_any_more() {
    let (mut old, mut new) = (Writer::new(), Writer::new());
    let (kept, later) = (Content::new(0, 1, 0, 0), Content::new(0, 1, 1, 0));
    old.put(&kept, 0);
    new.put(&kept, 1);
    let moved = Arc::new(AtomicBool::new(false));
    let (path, view_of_new) = (moved.clone(), new.reader());
    let reads = move |view: View<Medium>| {
        let mut last = None;
        for _ in 0..2 {
            let has_moved = path.load(Ordering::Acquire);
            for content in [kept, later] {
                match find_payload(&view, &content) {
                    Ok(bytes) => assert_eq!(bytes, content.bytes()),
                    Err(Miss::Absent) => {}
                    Err(Miss::Unsure) => continue,
                }
                assert!(!has_moved, "the fast path asks the old file");
            }
            let is_current = view.is_current();
            assert!(!(has_moved && is_current), "the old file says that it is the pack");
            let asked = if has_moved { &view_of_new } else { &view };
            let found = find(asked, &later);
            assert!(found >= last, "it was there");
            last = found;
            assert_eq!(find(asked, &kept), Some(u64::from(has_moved)));
        }
    };
    beside(&mut old, reads, |old| {
        old.medium.store(live::NOTICE, &[old.view.notice() | live::SUPERSEDED]).expect("a model takes every store");
        moved.store(true, Ordering::Release);
        new.put(&later, 0);
    });
    assert!(!old.view.is_current());
}
