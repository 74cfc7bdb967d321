//! The power cuts themselves.

use super::*;

const NAME: &str = "file";

fn power(bytes: &[u8]) -> Power {
    let mut power = Power::default();
    power.make(&Step { file: 0, action: Action::Insert { names: vec![NAME.into()], bytes: bytes.to_vec() } });
    power
}

fn write(at: u64, bytes: &[u8], durable: bool) -> Step {
    Step { file: 0, action: Action::Write { offset: Offset(at), bytes: bytes.to_vec(), durable } }
}

fn sync(offset: u64, length: u64) -> Step {
    Step { file: 0, action: Action::SyncRange { offset: Offset(offset), length } }
}

/// All images, each as the bytes of the file; `None` where it has no name.
fn all(power: &Power) -> BTreeSet<Option<Vec<u8>>> {
    let (mut found, mut hashes, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
    let whole = power.images(&mut Random(1), 1000, |image, _| {
        hashes.insert(image.hash());
        found.insert(image.directory().bytes(NAME));
        count += 1;
    });
    assert!(whole, "there are few images");
    assert_eq!(hashes.len(), found.len(), "equal images have equal hashes, others have others");
    assert!(count >= found.len());
    found
}

/// The first bytes of the first sectors.
fn firsts(images: &BTreeSet<Option<Vec<u8>>>) -> BTreeSet<Vec<u8>> {
    images.iter().flatten().map(|bytes| bytes.chunks(SECTOR as usize).map(|sector| sector[0]).collect()).collect()
}

fn sets(expected: &[&[u8]]) -> BTreeSet<Vec<u8>> {
    expected.iter().map(|bytes| bytes.to_vec()).collect()
}

#[test]
fn each_unsynced_sector_is_old_or_new_by_itself() {
    let mut power = power(&[1; 1536]);
    power.make(&write(0, &[2; 1024], false));
    assert_eq!(firsts(&all(&power)), sets(&[&[1, 1, 1], &[2, 1, 1], &[1, 2, 1], &[2, 2, 1]]));
    power.make(&sync(512, 512));
    assert_eq!(firsts(&all(&power)), sets(&[&[1, 2, 1], &[2, 2, 1]]), "a ranged sync makes its range durable only");
}

#[test]
fn a_sector_that_was_written_several_times_holds_any_version() {
    let mut power = power(&[1; 512]);
    power.make(&write(0, &[2], false));
    power.make(&write(0, &[3], false));
    assert_eq!(firsts(&all(&power)), sets(&[&[1], &[2], &[3]]));
    power.begin(&write(0, &[4], true));
    assert_eq!(firsts(&all(&power)), sets(&[&[1], &[2], &[3], &[4]]), "the cut came before the sync");
    power.end(&write(0, &[4], true));
    assert_eq!(firsts(&all(&power)), sets(&[&[4]]));
}

#[test]
fn what_was_never_synced_may_be_zeros_and_the_length_is_apart() {
    let mut power = power(&[1; 512]);
    power.make(&write(512, &[2; 512], false));
    power.make(&write(1024, &[3; 512], false));
    let expected: [&[u8]; 7] = [&[1], &[1, 0], &[1, 2], &[1, 0, 0], &[1, 2, 0], &[1, 0, 3], &[1, 2, 3]];
    assert_eq!(firsts(&all(&power)), sets(&expected));
    power.make(&sync(0, 1024));
    assert_eq!(firsts(&all(&power)), sets(&[&[1, 2], &[1, 2, 0], &[1, 2, 3]]), "the length up to the range's end");
    power.make(&Step { file: 0, action: Action::SyncAll });
    assert_eq!(firsts(&all(&power)), sets(&[&[1, 2, 3]]));
}

#[test]
fn stored_words_are_written_back_at_any_moment_the_first_comes_last() {
    let mut power = power(&[0; 512]);
    power.make(&Step { file: 0, action: Action::Store { offset: Offset(0), words: vec![7, 8, 9] } });
    let words = |bytes: &Vec<u8>| [bytes[0], bytes[8], bytes[16]];
    let found: BTreeSet<[u8; 3]> = all(&power).iter().flatten().map(words).collect();
    assert_eq!(found, BTreeSet::from([[0, 0, 0], [0, 8, 0], [0, 8, 9], [7, 8, 9]]));
}

#[test]
fn a_punched_range_is_old_or_zeros() {
    let mut power = power(&[1; 8192]);
    power.make(&Step { file: 0, action: Action::Punch { offset: Offset(4096 + 512 * 6), length: 1024 } });
    let found: BTreeSet<Vec<u8>> = firsts(&all(&power)).iter().map(|bytes| bytes[13..].to_vec()).collect();
    assert_eq!(found, sets(&[&[1, 1, 1], &[1, 0, 1], &[1, 1, 0], &[1, 0, 0]]));
}

#[test]
fn names_are_durable_with_the_directory_whatever_the_bytes_are() {
    let mut power = Power::default();
    power.make(&write(0, &[1; 512], false));
    power.make(&Step { file: 0, action: Action::Publish { name: NAME.into(), replace: false } });
    assert!(all(&power).contains(&None), "no name yet");
    assert!(all(&power).contains(&Some(Vec::new())), "a name of an empty file");
    power.make(&Step { file: 0, action: Action::SyncDirectory });
    assert!(!all(&power).contains(&None));
    assert!(all(&power).contains(&Some(Vec::new())), "the directory says nothing of the bytes");
}

#[test]
fn what_a_failed_sync_should_have_written_no_later_one_writes_unless_it_is_changed_again() {
    let mut power = power(&[1; 1024]);
    power.make(&write(0, &[2; 1024], false));
    let failed = power.fail_sync(0, 0, 1024);
    assert_eq!(failed.len(), 2);
    power.make(&Step { file: 0, action: Action::SyncAll });
    assert_eq!(firsts(&all(&power)), sets(&[&[1, 1], &[2, 1], &[1, 2], &[2, 2]]));
    power.make(&write(0, &[3], false));
    power.make(&Step { file: 0, action: Action::SyncAll });
    assert_eq!(firsts(&all(&power)), sets(&[&[3, 1], &[3, 2]]));
    power.revert(0, 1, failed[1].1[0].clone());
    assert_eq!(power.now().directory().bytes(NAME).unwrap()[512], 1);
    assert_eq!(firsts(&all(&power)), sets(&[&[3, 1]]), "what was not there is not written later");
}

#[test]
fn what_was_read_after_a_failed_sync_may_be_lost_and_nothing_newer_comes() {
    let mut power = power(&[1; 512]);
    power.make(&write(0, &[2; 512], false));
    power.make(&write(0, &[3; 512], false));
    let failed = power.fail_sync(0, 0, 512);
    power.revert(0, 0, failed[0].1[1].clone());
    assert_eq!(firsts(&all(&power)), sets(&[&[1], &[2]]));
}

#[test]
fn many_images_are_drawn_but_all_of_the_last_step_are_had() {
    let mut power = power(&[1; 512 * 40]);
    power.make(&write(0, &[2; 512 * 32], false));
    power.make(&write(512 * 32, &[3; 512 * 3], false));
    let mut found = BTreeSet::new();
    let whole = power.images(&mut Random(1), 8, |image, _| {
        let bytes = image.directory().bytes(NAME).unwrap();
        found.insert([bytes[512 * 32], bytes[512 * 33], bytes[512 * 34]]);
    });
    assert!(!whole);
    assert_eq!(found.len(), 8);
}
