//! What is given out, what comes back, and what is believed of the runs in a file.
#![allow(clippy::unwrap_used, reason = "tests")]

use zerocopy::FromZeros;

use super::reach::keep_allocated;
use super::*;
use crate::format::{CHUNK_ALIGN, Entry, to_u64};
use crate::medium::{Action, Fault, Sim, SimDirectory};

const MARKER: u64 = 99;
const SLOTS: u32 = 4;
/// A segment of so few slots is one page.
const PAGE: u64 = PAGE_BYTES;
const START: u64 = SPACE_AT.0;

fn file() -> (SimDirectory, Sim) {
    let directory = SimDirectory::new(32 << 20);
    let medium = directory.create("blobs.pack").unwrap();
    directory.record(true);
    (directory, medium)
}

fn empty() -> Space {
    Space::empty(MARKER, SLOTS, u64::MAX)
}

/// What was done since the last look.
fn actions(directory: &SimDirectory) -> Vec<Action> {
    let steps = directory.steps().into_iter().map(|step| step.action);
    let actions = steps.filter(|action| !matches!(action, Action::Insert { .. })).collect();
    directory.record(true);
    actions
}

fn allocated(offset: u64, length: u64) -> Action {
    Action::Allocate { offset: Offset(offset), length }
}

fn region(offset: u64, bytes: u64) -> Region {
    Region { offset: Offset(offset), bytes }
}

/// A second try found its room before the end of the file, which was then not given back.
#[test]
fn what_was_found_of_too_little_room_is_given_back() {
    let (directory, medium) = file();
    let mut space = empty();
    let first = space.allocate(&medium, PAGE, PAGE).unwrap();
    let mut punched = |fault, allocated| {
        space.is_allocated_to(allocated);
        directory.record(true);
        directory.fail_step(0, fault);
        space.allocate(&medium, 3 * PAGE, PAGE).unwrap_err();
        assert_eq!(space.end(), Offset(first.end()));
        actions(&directory).into_iter().filter(|action| matches!(action, Action::Punch { .. })).collect::<Vec<_>>()
    };
    let punch = |offset, length| [Action::Punch { offset: Offset(offset), length }];
    assert_eq!(punched(Fault::Full, 0), punch(first.end(), 3 * PAGE));
    assert_eq!(punched(Fault::Full, 0), punch(first.end(), 3 * PAGE));
    assert_eq!(punched(Fault::Full, first.end() + PAGE), punch(first.end() + PAGE, 2 * PAGE), "what was there stays");
    assert_eq!(punched(Fault::Io, 0), []);
}

#[test]
fn space_comes_from_the_end_of_the_file_and_goes_back_there() {
    let (directory, medium) = file();
    let mut space = empty();
    let mut a = space.allocate(&medium, 100, PAGE).unwrap();
    let mut b = space.allocate(&medium, 100, CHUNK_ALIGN).unwrap();
    assert_eq!((a, b), (region(START, 100), region(START + CHUNK_ALIGN, 100)));
    assert_eq!(space.end(), Offset(START + CHUNK_ALIGN + PAGE), "it ends with a page");
    assert_eq!(actions(&directory), [allocated(a.offset.0, 100), allocated(b.offset.0, 100)]);

    assert!(!space.extend(&medium, &mut a, 200).unwrap() && a.bytes == 100, "something lies behind it");
    assert!(space.extend(&medium, &mut b, 5000).unwrap() && b.bytes == 5000);
    assert_eq!(space.end(), Offset(b.offset.0 + 2 * PAGE));
    assert_eq!(actions(&directory), [allocated(b.offset.0 + 100, 4900)]);

    space.give_back(&medium, a);
    assert_eq!(space.end(), Offset(b.offset.0 + 2 * PAGE));
    assert_eq!(
        actions(&directory),
        [Action::Punch { offset: a.offset, length: 100 }],
        "others were given out behind it"
    );
    space.give_back(&medium, b);
    assert_eq!((space.end(), actions(&directory)), (b.offset, vec![]));

    space.skip_to(START);
    assert_eq!(space.end(), b.offset, "it never goes back");
    space.skip_to(b.offset.0 + 1);
    assert_eq!(space.end(), Offset(b.offset.0 + PAGE));
}

#[test]
fn limits_and_a_full_disk_are_told_with_what_is_needed_and_nothing_changes() {
    let (directory, medium) = file();
    let mut space = Space::empty(MARKER, SLOTS, START + 2 * PAGE);
    let limit = |error, expected| {
        let Error::LimitReached { needed, limit, .. } = error else { panic!("{error}") };
        assert_eq!((needed, limit), expected);
    };
    space.allocate(&medium, PAGE, PAGE).unwrap();
    let (end, more) = (space.end(), PAGE + 1);
    limit(space.allocate(&medium, more, PAGE).unwrap_err(), (end.0 + more, START + 2 * PAGE));
    assert_eq!(space.end(), end);
    space.allocate(&medium, PAGE, PAGE).unwrap();
    assert_eq!(space.end(), Offset(START + 2 * PAGE), "up to the limit all can be had");

    let mut space = empty();
    space.is_allocated_to(u64::MAX);
    space.skip_to(FILE_BYTES_MAX - PAGE);
    space.allocate(&medium, PAGE, PAGE).unwrap();
    limit(space.allocate(&medium, 1, PAGE).unwrap_err(), (FILE_BYTES_MAX + 1, FILE_BYTES_MAX));

    let mut space = empty();
    space.is_allocated_to(START + PAGE);
    actions(&directory);
    space.allocate(&medium, PAGE, PAGE).unwrap();
    assert_eq!(actions(&directory), [], "that much was allocated at once");
    space.allocate(&medium, PAGE, PAGE).unwrap();
    assert_eq!(actions(&directory), [allocated(START + PAGE, PAGE)]);
    directory.set_capacity(directory.used());
    let error = space.allocate(&medium, 3 * PAGE, PAGE).unwrap_err();
    assert!(matches!(error, Error::NoSpace { needed, .. } if needed == 3 * PAGE), "{error}");
    assert_eq!(space.end(), Offset(START + 2 * PAGE));
    directory.set_capacity(u64::MAX);
    directory.fail_step(0, Fault::Io);
    assert!(matches!(space.allocate(&medium, PAGE, PAGE), Err(Error::Io { .. })), "not every failure is a full disk");
}

#[test]
fn a_promise_counts_what_was_promised_before() {
    let (_, medium) = file();
    let mut space = empty();
    space.promise(&medium, 3, 2).unwrap();
    assert_eq!((space.segments.len(), space.run()), (16, Offset(START)), "a run is made ahead");
    assert_eq!(space.end(), Offset(START + 17 * PAGE));
    space.promise(&medium, 10, 3).unwrap();
    assert_eq!(space.segments.len(), 16, "all that there are");
    space.promise(&medium, 1, 3).unwrap();
    assert_eq!((space.segments.len(), space.run()), (32, Offset(START + 17 * PAGE)));
    space.release(14);
    space.promise(&medium, 32, 0).unwrap();
    assert_eq!(space.segments.len(), 32, "what was released can be promised again");
    space.promise(&medium, 40, 0).unwrap();
    assert_eq!(space.segments.len(), 72, "what is missing, where that is more than a run has");
    space.release(100);
    space.keep_segments(&medium, 72).unwrap();
    assert_eq!(space.segments.len(), 72);
    space.promise(&medium, 2, 0).unwrap();
    space.keep_segments(&medium, 71).unwrap();
    assert_eq!(space.segments.len(), 73, "no others than those that are missing");
    assert_eq!(space.total_segments, 73);
    let heads = [0, 17, 34, 75].map(|page| region(START + page * PAGE, PAGE));
    assert_eq!(space.freeze(), heads);
    assert_eq!(space.freeze(), []);
}

#[test]
fn where_there_is_no_room_ahead_what_is_needed_may_still_fit() {
    let (_, medium) = file();
    let mut space = Space::empty(MARKER, SLOTS, START + 3 * PAGE);
    assert!(matches!(space.promise(&medium, 3, 0), Err(Error::LimitReached { .. })));
    assert_eq!((space.segments.len(), space.promised, space.end()), (0, 0, SPACE_AT));
    space.promise(&medium, 1, 1).unwrap();
    assert_eq!((space.segments.len(), space.promised), (2, 1));
}

#[test]
fn runs_grow_with_the_index() {
    assert_eq!(run_segments(0, 1), 16);
    assert_eq!(run_segments(0, 1000), 1000);
    assert_eq!(run_segments(800, 1), 50);
    assert_eq!(run_segments(1 << 20, 1), 2048);
}

#[test]
fn a_segment_never_has_a_generation_twice() {
    let (_, medium) = file();
    let mut space = empty();
    let (first, generation) = space.take_segment(&medium).unwrap();
    assert_eq!((first, generation), (region(START + PAGE, PAGE), first_generation(first.offset)));
    let (second, _) = space.take_segment(&medium).unwrap();
    assert_eq!(second, region(START + 2 * PAGE, PAGE), "in the order in which they stand");
    for (word, next) in [(77, 78), (0, generation), (u64::MAX, 0)] {
        medium.write_at(first.offset, &[&u64::to_le_bytes(word)], false).unwrap();
        space.free_segment(first.offset);
        assert_eq!(space.take_segment(&medium).unwrap(), (first, next));
    }
}

#[test]
fn new_segments_are_filled_a_piece_at_a_time_and_never_one_that_was_used() {
    let (directory, medium) = file();
    let mut space = empty();
    let zeros = |first: u64, count: u64| Action::Write {
        offset: Offset(START + first * PAGE),
        bytes: vec![0; to_usize(count * PAGE)],
        durable: false,
    };
    let take = |space: &mut Space| {
        let (segment, _) = space.take_segment(&medium).unwrap();
        directory.record(true);
        space.fill(&medium, segment).unwrap();
        actions(&directory)
    };
    assert_eq!(take(&mut space), [zeros(1, 16)], "the whole run");
    assert!((1..16).all(|_| take(&mut space).is_empty()));
    // Of a long run a part; what was free before it is left as it is.
    space.add_segments(&medium, 20).unwrap();
    let used = space.segments[12].0;
    space.segments[12].1 = false;
    assert_eq!(take(&mut space), [zeros(18, 7)]);
    assert!((1..7).all(|_| take(&mut space).is_empty()));
    assert_eq!(space.take_segment(&medium).unwrap().0.offset, used);
    assert_eq!(take(&mut space), [zeros(26, 12)]);
    // Of a longer one 64 KiB.
    space.add_segments(&medium, 20).unwrap();
    assert_eq!(take(&mut space), [zeros(39, 16)]);
    assert!((1..16).all(|_| take(&mut space).is_empty()));
    assert_eq!(take(&mut space), [zeros(55, 4)]);
    // Segments that do not stand one behind the other.
    space.segments.clear();
    space.segments.extend([60, 59, 90].map(|page| (Offset(START + page * PAGE), true)));
    space.skip_to(START + 100 * PAGE);
    medium.allocate(Offset(START), 100 * PAGE).unwrap();
    assert_eq!(
        [take(&mut space), take(&mut space), take(&mut space)],
        [vec![zeros(90, 1)], vec![zeros(59, 2)], vec![]]
    );
}

#[test]
#[cfg(not(miri))]
fn nothing_is_filled_where_stores_go_by_pwrite() {
    let directory = tempfile::tempdir().unwrap();
    for by_pwrite in [true, false] {
        let medium = crate::medium::Disk::create(&directory.path().join(by_pwrite.to_string()), 0o600).unwrap();
        if by_pwrite {
            medium.store_by_pwrite();
        } else if medium.shares_blocks() {
            continue;
        }
        let mut space = empty();
        let (segment, _) = space.take_segment(&medium).unwrap();
        medium.write_at(segment.offset, &[&[7; 64]], false).unwrap();
        space.fill(&medium, segment).unwrap();
        let mut there = [0; 64];
        medium.read_at(segment.offset, &mut there).unwrap();
        assert_eq!(there, [if by_pwrite { 7 } else { 0 }; 64]);
    }
}

#[test]
fn the_smallest_directory_that_is_large_enough_is_taken() {
    let (_, medium) = file();
    let mut space = empty();
    let [small, middle, large] = [(1, 1), (2, 2), (8, 4)].map(|(at, pages)| region(START + at * PAGE, pages * PAGE));
    space.skip_to(large.end());
    for free in [middle, small, large] {
        space.free_directory(free);
    }
    assert_eq!(space.take_directory(&medium, 2 * PAGE).unwrap(), (middle, false));
    assert_eq!(space.take_directory(&medium, PAGE).unwrap(), (small, false));
    assert_eq!(space.end().0, large.end());
    let made = space.take_directory(&medium, 5 * PAGE).unwrap();
    assert_eq!(made, (region(large.end() + PAGE, 5 * PAGE), true));
    assert_eq!(space.take_directory(&medium, PAGE).unwrap(), (large, false));

    // Those that may share their blocks with another file come last.
    for free in [small, large] {
        space.free_directory(free);
    }
    space.foreign.insert(small.offset);
    assert_eq!(space.take_directory(&medium, PAGE).unwrap(), (large, false));
}

#[test]
fn what_a_superblock_names_is_free_only_when_it_is_gone() {
    let mut space = empty();
    let [a, b, c] = [1, 2, 3].map(|page| Offset(START + page * PAGE));
    space.retire_segment(a, 5);
    space.retire_directory(Region { offset: b, bytes: PAGE }, 6);
    space.retire_segment(c, 7);
    let free = |space: &Space| {
        let released: Vec<Offset> = space.released.clone().into_iter().collect();
        (released, space.directories.len())
    };
    space.release_retired(5);
    assert_eq!(free(&space), (vec![], 0));
    space.release_retired(6);
    assert_eq!(free(&space), (vec![a], 0));
    space.release_retired(7);
    assert_eq!(free(&space), (vec![a], 1));
    space.release_retired(u64::MAX);
    assert_eq!(free(&space), (vec![a, c], 1));
    assert_eq!(space.gather_segments(2), 0);
    assert_eq!(space.segments, [(a, false), (c, false)]);
    assert_eq!((free(&space).0, space.gather_segments(5)), (vec![], 3));
}

#[test]
fn segments_are_counted_since_the_last_freeze() {
    let mut space = empty();
    space.segments_changed(2, false);
    assert_eq!((space.live_segments(), space.copies_of_new(10), space.copies_of_new(1)), (2, 2, 1));
    space.segments_changed(3, true);
    assert_eq!((space.live_segments(), space.copies_of_new(10)), (4, 4));
    space.freeze();
    assert_eq!((space.live_segments(), space.copies_of_new(10)), (4, 0));
}

#[test]
fn images_may_each_copy_a_frozen_segment_and_new_records_split_some() {
    let mut space = empty();
    space.segments_changed(100, false);
    space.freeze();
    (0..40).for_each(|_| space.segments_changed(1, false));
    assert_eq!((space.live_segments(), space.copies_of_new(100)), (100, 40));
    assert_eq!((space.copies_needed(10), space.copies_needed(100)), (14, 64));
    assert_eq!((space.usual_growth(10, 0), space.usual_growth(100, 0)), ((20, 8), (200, 9)));
    space.slots = 64;
    assert_eq!((space.usual_growth(33, 7), space.usual_growth(33, 9)), ((6, 8), (6, 10)));
    // Half of them are told apart by a directory of 7 bits as long as there are fewer than 128.
    assert_eq!((space.usual_growth(432, 0), space.usual_growth(448, 0)), ((54, 8), (56, 9)));
}

#[test]
fn changes_that_are_forgotten_leave_what_was_free_and_what_was_allocated() {
    let (_, medium) = file();
    let mut space = empty();
    space.promise(&medium, 1, 0).unwrap();
    let (directory, _) = space.take_directory(&medium, PAGE).unwrap();
    space.free_directory(directory);
    let before = space.clone();
    space.retire_segment(Offset(START), 1);
    space.take_segment(&medium).unwrap();
    space.take_directory(&medium, PAGE).unwrap();
    space.segments_changed(3, false);
    space.promise(&medium, 30, 0).unwrap();
    let (end, run) = (space.end(), space.run());
    space.roll_back(before.clone());
    assert_eq!((space.end(), space.run()), (end, run), "others may have allocated behind it");
    assert_eq!((&space.segments, &space.directories), (&before.segments, &before.directories));
    assert_eq!((space.retired.len(), space.promised, space.live_segments), (0, 1, 1));
    assert_eq!((space.copies_of_new(9), space.has_directory), (0, false));
    space.segments_changed(2, false);
    space.hide();
    assert_eq!(space.copies_of_new(9), 0, "what is hidden is copied when it is touched");
}

#[test]
fn a_spare_directory_leaves_those_that_were_reserved() {
    let (_, medium) = file();
    let mut space = empty();
    space.reserve_directories(&medium, 2 * PAGE).unwrap();
    let reserved = space.directories.clone();
    let (spare, is_new) = space.take_spare_directory(&medium, PAGE).unwrap();
    assert!(is_new && spare.bytes == PAGE && space.directories == reserved && !space.has_directory);
    space.free_directory(spare);
    assert_eq!(space.take_spare_directory(&medium, PAGE).unwrap(), (spare, false));
    // Where one of the pack's old ones may be another file's too, one more is kept.
    space.free_directory(spare);
    space.foreign.insert(Offset(START));
    let (second, is_new) = space.take_spare_directory(&medium, PAGE).unwrap();
    assert_eq!((second, is_new, space.directories.len()), (spare, false, 3));
    space.has_new_directory();
    assert!(space.has_directory && space.owns_directory);
}

#[test]
fn directories_are_reserved_only_where_there_are_none() {
    let (_, medium) = file();
    let mut space = empty();
    space.reserve_directories(&medium, 2 * PAGE).unwrap();
    assert_eq!(space.directories.len(), 2);
    space.reserve_directories(&medium, 2 * PAGE).unwrap();
    space.reserve_directory(&medium, 2 * PAGE).unwrap();
    assert_eq!(space.directories.len(), 2);
    space.take_directory(&medium, PAGE).unwrap();
    space.reserve_directories(&medium, PAGE).unwrap();
    assert_eq!(space.directories.len(), 2);
    space.reserve_directory(&medium, 3 * PAGE).unwrap();
    assert_eq!(space.directories.len(), 2, "the live one may be stored into");
    space.freeze();
    space.reserve_directory(&medium, 3 * PAGE).unwrap();
    assert_eq!(space.directories.len(), 3, "now it has to be copied, and none is large enough");
    assert_eq!(space.secure_directories(&medium, PAGE, 9), 3);
    assert_eq!(space.secure_directories(&medium, 3 * PAGE, 9), 1);
    assert_eq!(space.secure_directories(&medium, PAGE, 2), 2);
}

/// The live directory is the one from before again, and may share its blocks with another file.
#[test]
fn a_directory_that_was_taken_for_nothing_is_not_the_live_one() {
    let (_, medium) = file();
    let mut space = empty();
    space.foreign.insert(Offset(START));
    let before = space.clone();
    space.hide();
    space.take_directory(&medium, PAGE).unwrap();
    space.roll_back(before);
    space.reserve_directories(&medium, PAGE).unwrap();
    assert_eq!(space.directories.len(), 3);
}

/// A space of 16 segments, and the first of them, which are taken first.
fn sixteen(medium: &Sim) -> (Space, [Offset; 5]) {
    let mut space = empty();
    space.promise(medium, 0, 1).unwrap();
    (space, [1, 2, 3, 4, 5].map(|page| Offset(START + page * PAGE)))
}

#[test]
fn what_may_be_shared_is_made_private_before_it_is_promised() {
    let (directory, medium) = file();
    let (mut space, [a, b, c, d, e]) = sixteen(&medium);
    actions(&directory);
    space.secure_segments(&medium, 16).unwrap();
    assert_eq!(actions(&directory), [], "all are the file's own");
    space.foreign.extend([a, b, d, e]);
    space.secure_segments(&medium, 4).unwrap();
    assert_eq!(actions(&directory), [allocated(a.0, 2 * PAGE), allocated(d.0, PAGE)], "neighbours together");
    assert!(space.foreign.iter().eq([&e]));
    space.secure_segments(&medium, 4).unwrap();
    assert_eq!(actions(&directory), []);

    space.foreign.insert(c);
    directory.fail_step(0, Fault::Io);
    let order = space.segments.clone();
    assert!(matches!(space.secure_segments(&medium, 3), Err(Error::Io { .. })));
    assert_eq!(space.segments, order);
}

#[test]
fn what_can_not_be_made_private_is_taken_last() {
    let (directory, medium) = file();
    let (mut space, [a, b, c, ..]) = sixteen(&medium);
    space.foreign.extend([a, b, c]);
    // It takes space, and there is none.
    medium.punch(b, PAGE).unwrap();
    directory.set_capacity(directory.used());
    space.secure_segments(&medium, 2).unwrap();
    assert_eq!(space.segments.len(), 16);
    let taken = [(); 2].map(|()| space.segments.pop().unwrap().0);
    assert_eq!((taken, space.segments[0].0), ([a, c], b));
    assert!(space.foreign.iter().eq([&b]));

    directory.set_capacity(u64::MAX);
    let (mut space, _) = sixteen(&medium);
    space.segments.drain(..13);
    space.foreign.insert(space.segments[1].0);
    let bad = space.segments[1].0;
    medium.punch(bad, PAGE).unwrap();
    directory.set_capacity(directory.used());
    assert!(matches!(space.secure_segments(&medium, 3), Err(Error::NoSpace { .. })));
    assert_eq!(space.segments.len(), 3, "they stay free, for who needs less");
    assert_eq!(space.segments[0].0, bad);
    space.secure_segments(&medium, 2).unwrap();
}

#[test]
fn regions_that_touch_are_synced_together() {
    let (directory, medium) = file();
    sync_regions(&medium, vec![region(5 * PAGE, PAGE), region(2 * PAGE, PAGE), region(PAGE, PAGE)], "sync").unwrap();
    let synced = |offset, length| Action::SyncRange { offset: Offset(offset), length };
    assert_eq!(actions(&directory), [synced(PAGE, 2 * PAGE), synced(5 * PAGE, PAGE)]);
    assert_eq!(data_bytes_most(&medium).unwrap(), 16 << 20, "nothing is allocated");
    medium.allocate(Offset(0), PAGE).unwrap();
    assert_eq!(data_bytes_most(&medium).unwrap(), (16 << 20) + 64 * PAGE);
}

#[test]
fn segments_that_stand_together_are_allocated_together_and_what_has_no_room_is_left_out() {
    let (directory, medium) = file();
    let at = [100, 101, 102, 200, 300, 301].map(|page| Offset(page * PAGE));
    assert_eq!(keep_allocated(&medium, &at, PAGE), at);
    let runs = [(100, 3), (200, 1), (300, 2)].map(|(page, pages)| allocated(page * PAGE, pages * PAGE));
    assert_eq!(actions(&directory), runs);
    directory.fail_step(1, Fault::Full);
    assert_eq!(keep_allocated(&medium, &at, PAGE), [at[0], at[1], at[2], at[4], at[5]]);
    assert_eq!(keep_allocated(&medium, &[], PAGE), []);
}

/// A pack's index: one run of 16 segments and three directories, of which the newest superblock names the first, the
/// older one the second.
struct Pack {
    medium: Sim,
    directory: SimDirectory,
    segments: Vec<Offset>,
    directories: Vec<Region>,
    newest: Superblock,
    older: Superblock,
}

impl Pack {
    fn new() -> Pack {
        let (directory, medium) = file();
        let mut space = empty();
        let directories = [(); 3].map(|()| space.take_directory(&medium, PAGE).unwrap().0).to_vec();
        space.promise(&medium, 0, 1).unwrap();
        let segments: Vec<Offset> = space.segments.iter().rev().map(|segment| segment.0).collect();
        let newest = Superblock {
            sequence: U64::new(9),
            end: U64::new(space.end().0),
            slots: U32::new(SLOTS),
            run: U64::new(space.run().0),
            directory: U64::new(directories[0].offset.0),
            depth: U32::new(1),
            identity: crate::format::Identity { marker: U64::new(MARKER), ..FromZeros::new_zeroed() },
            ..Superblock::new_zeroed()
        };
        let (sequence, before) = (U64::new(8), U64::new(directories[1].offset.0));
        let older = Superblock { sequence, directory: before, ..newest };
        let pack = Pack { medium, directory, segments, directories, newest, older };
        pack.point(0, [pack.segments[0], pack.segments[1]]);
        pack.point(1, [pack.segments[2], pack.segments[1]]);
        pack
    }

    /// Lets a directory name these segments.
    fn point(&self, number: usize, segments: [Offset; 2]) {
        let words = segments.map(|segment| Entry { segment, generation: 1 }.pack().to_le_bytes());
        self.medium.write_at(self.directories[number].offset, &[&words.concat()], false).unwrap();
    }

    /// Lets a run stand at `at` that says this.
    fn forge(&self, at: u64, previous: u64, region_bytes: u64, regions: u64, holds: u32) {
        let detail = RunDetail {
            previous: U64::new(previous),
            region_bytes: U64::new(region_bytes),
            regions: U64::new(regions),
            holds: U32::new(holds),
            reserved: U32::ZERO,
        };
        let mut bytes = [0; 32];
        bytes.copy_from_slice(detail.as_bytes());
        let head = FrameHeader::plain(MARKER, Kind::Run, Offset(at), 0, bytes);
        self.medium.write_at(Offset(at), &[head.as_bytes()], false).unwrap();
    }

    fn learned(&self, older: Option<&Superblock>) -> Result<Space> {
        let mut space = Space::new(&self.newest, u64::MAX);
        space.learn(&self.medium, &self.newest, older)?;
        Ok(space)
    }

    fn is_damaged(&self, what: &str) {
        for error in [self.learned(None).err(), Space::check_runs(&self.medium, &self.newest).err()] {
            let error = error.unwrap_or_else(|| panic!("it should find: {what}"));
            assert!(error.is_damage() && error.to_string().contains(what), "{what}: {error}");
        }
    }
}

#[test]
fn what_an_unreadable_directory_may_name_is_free_once_its_superblock_is_gone() {
    let pack = Pack::new();
    pack.medium.publish(false).unwrap();
    let make_unreadable = |number: usize| {
        let at = pack.directories[number].offset.0;
        pack.directory.set_unreadable("blobs.pack", at..at + 512);
    };
    make_unreadable(1);
    let mut space = pack.learned(Some(&pack.older)).unwrap();
    assert!(space.segments.is_empty() && space.directories.is_empty());
    space.release_retired(9);
    assert_eq!((space.gather_segments(14), space.segments.len(), space.directories.len()), (0, 14, 2));
    make_unreadable(0);
    assert!(matches!(pack.learned(None), Err(Error::Io { .. })));
}

#[test]
fn what_neither_superblock_reaches_is_free() {
    let pack = Pack::new();
    Space::check_runs(&pack.medium, &pack.newest).unwrap();
    let mut space = pack.learned(Some(&pack.older)).unwrap();
    assert_eq!((space.end().0, space.run().0), (pack.newest.end.get(), pack.newest.run.get()));
    let free = |space: &Space| space.segments.iter().rev().map(|segment| segment.0).collect::<Vec<_>>();
    assert_eq!(free(&space), pack.segments[3..], "those at the start are taken first");
    assert_eq!(space.directories, [(pack.directories[2], false)]);
    assert_eq!(space.live_segments(), 2);
    assert_eq!(space.total_segments, 16);
    space.release_retired(8);
    assert_eq!(free(&space).len(), 13);
    space.release_retired(9);
    assert_eq!((space.gather_segments(14), free(&space).len()), (0, 14));
    assert_eq!(space.directories, [2, 1].map(|number| (pack.directories[number], false)));
    space.learn(&pack.medium, &pack.newest, None).unwrap();
    assert_eq!(free(&space).len(), 14, "what is known is not learned again");

    let alone = pack.learned(None).unwrap();
    assert_eq!((free(&alone), alone.directories.len()), (pack.segments[2..].to_vec(), 2));

    let mut forgotten = Space::new(&pack.newest, u64::MAX);
    forgotten.forget();
    forgotten.learn(&pack.medium, &pack.newest, None).unwrap();
    assert_eq!(free(&forgotten), []);
}

#[test]
fn regions_without_their_place_on_a_full_disk_stay_unused() {
    let pack = Pack::new();
    pack.point(0, [pack.segments[0], pack.segments[8]]);
    for hole in [pack.segments[12], pack.directories[2].offset] {
        pack.medium.punch(hole, PAGE).unwrap();
    }
    pack.directory.set_capacity(pack.directory.used());
    let space = pack.learned(None).unwrap();
    let free: Vec<Offset> = space.segments.iter().rev().map(|segment| segment.0).collect();
    assert_eq!(free, pack.segments[1..8], "a store into the others could need space");
    assert_eq!(space.directories, [(pack.directories[1], false)]);
    pack.directory.set_capacity(u64::MAX);
    let space = pack.learned(None).unwrap();
    assert_eq!((space.segments.len(), space.directories.len()), (14, 2), "now they have got theirs");
}

#[test]
fn more_regions_than_a_file_has_bytes_for_are_forged() {
    let pack = Pack::new();
    let mut space = Space::new(&pack.newest, u64::MAX);
    space.known = true;
    space.keep_segments(&pack.medium, 4000).unwrap();
    let (first, large) = (space.run().0 + PAGE, space.take_directory(&pack.medium, 8 << 20).unwrap().0);
    pack.medium.punch(Offset(first), 4000 * PAGE).unwrap();
    pack.medium.punch(large.offset, large.bytes).unwrap();
    let bytes = pack.medium.blocks().unwrap();
    let newest = Superblock { run: U64::new(space.run().0), end: U64::new(space.end().0), ..pack.newest };
    let mut space = Space::new(&newest, u64::MAX);
    space.learn(&pack.medium, &newest, None).unwrap();
    assert_eq!(to_u64(space.segments.len()), (2 * bytes + (1 << 20)) / PAGE);
    assert!(!space.directories.contains(&(large, false)));
    assert_eq!(space.directories.len(), 2);
}

#[test]
fn a_directory_that_names_no_segment_is_damage() {
    let pack = Pack::new();
    pack.point(0, [pack.segments[0], Offset(pack.segments[15].0 + PAGE)]);
    pack.is_damaged("names what is no segment");
}

#[test]
fn runs_that_contradict_themselves_or_one_another_are_damage() {
    const SEGMENTS: u32 = HOLDS_SEGMENTS;
    const DIRECTORY: u32 = HOLDS_DIRECTORY;
    let pack = Pack::new();
    let run = pack.newest.run.get();
    let before = run - 2 * PAGE;
    let cases = [
        ("regions of no bytes", 0, 1, DIRECTORY),
        ("a part of a page", PAGE + 1, 1, DIRECTORY),
        ("two directories", PAGE, 2, DIRECTORY),
        ("a directory beyond the end", 17 * PAGE, 1, DIRECTORY),
        ("segments of another size", 2 * PAGE, 8, SEGMENTS),
        ("segments beyond the end", PAGE, 17, SEGMENTS),
        ("more than can be counted", PAGE, u64::MAX, SEGMENTS),
        ("nothing known", PAGE, 1, 3),
    ];
    for (what, bytes, count, holds) in cases {
        pack.forge(run, before, bytes, count, holds);
        let error = pack.learned(None).err().unwrap_or_else(|| panic!("{what}"));
        assert!(error.is_damage() && error.to_string().contains("contradicts itself"), "{what}: {error}");
        pack.is_damaged("contradicts itself");
    }
    for previous in [run, run + PAGE] {
        pack.forge(run, previous, PAGE, 16, SEGMENTS);
        pack.is_damaged("in a circle");
    }
    pack.forge(run, before + 64, PAGE, 16, SEGMENTS);
    pack.is_damaged("no index run");
    // The one before reaches into this one.
    pack.forge(run, before, PAGE, 16, SEGMENTS);
    pack.forge(before, 0, 2 * PAGE, 1, DIRECTORY);
    pack.is_damaged("contradicts itself");
    pack.forge(before, 0, PAGE, 1, DIRECTORY);
    let (segments, mut directories) = Space::new(&pack.newest, u64::MAX).regions(&pack.medium).unwrap();
    directories.retain(|region| region.offset.0 == before + PAGE);
    assert_eq!((segments.len(), directories), (16, vec![region(before + PAGE, PAGE)]));
    // In the head of the file.
    pack.forge(before, START - 2 * PAGE, PAGE, 1, DIRECTORY);
    pack.forge(START - 2 * PAGE, 0, PAGE, 1, DIRECTORY);
    pack.is_damaged("contradicts itself");

    let mut space = Space::new(&pack.newest, u64::MAX);
    space.keep_sound_runs(&pack.medium);
    assert_eq!(space.run(), Offset::NONE, "a rebuild begins anew");
    pack.forge(run, 0, PAGE, 16, SEGMENTS);
    let mut space = Space::new(&pack.newest, u64::MAX);
    space.keep_sound_runs(&pack.medium);
    assert_eq!(space.run().0, run);
}

#[test]
fn a_run_of_more_segments_than_the_file_can_have_is_not_counted_out() {
    let pack = Pack::new();
    let run = pack.newest.run.get();
    pack.forge(run, 0, PAGE, 1 << 16, HOLDS_SEGMENTS);
    let newest = Superblock { end: U64::new(1 << 30), ..pack.newest };
    let error = Space::check_runs(&pack.medium, &newest).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("contradicts itself"), "{error}");
}
