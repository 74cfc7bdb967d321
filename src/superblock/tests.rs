//! What of a superblock is believed, and in which order its two places are written.
#![allow(clippy::unwrap_used, reason = "tests")]

use zerocopy::FromZeros;

use super::*;
use crate::format::{BLOB_BYTES_LIMIT, FILE_BYTES_MAX};
use crate::medium::{Action, Fault, Sim, SimDirectory};

const PACK: &str = "blobs.pack";

fn identity(magic: [u8; 8], version: u32) -> Identity {
    Identity { magic, version: U32::new(version), marker: U64::new(99), ..Identity::new_zeroed() }.sealed()
}

/// Each position is as low or as high as it may be in a file of a megabyte.
fn at_the_limits() -> Superblock {
    let (end, tail) = (1 << 20, SPACE_AT.0 + PLAIN_BYTES);
    Superblock {
        identity: identity(MAGIC, VERSION),
        sequence: U64::new(7),
        end: U64::new(end),
        chunk: U64::new(SPACE_AT.0),
        chunk_end: U64::new(end),
        tail: U64::new(tail),
        commit: U64::new(tail - 1),
        slots: U32::new(SLOTS_MAX),
        directory: U64::new(end - PAGE_BYTES),
        depth: U32::new(9),
        run: U64::new(end - 1),
        ..Superblock::new_zeroed()
    }
}

fn changed(superblock: Superblock, change: impl FnOnce(&mut Superblock)) -> Superblock {
    let mut changed = superblock;
    change(&mut changed);
    changed.sealed()
}

/// A file with a head of these parts, `length` long.
fn file(length: usize, identity: Option<Identity>, copies: [Option<Superblock>; 2]) -> (SimDirectory, Sim) {
    let mut bytes = vec![0; length];
    let mut put = |at: Offset, part: &[u8]| {
        let at = crate::format::to_usize(at.0);
        bytes[at..at + part.len()].copy_from_slice(part);
    };
    if let Some(identity) = identity {
        put(IDENTITY_AT, identity.as_bytes());
    }
    for (at, copy) in SUPERBLOCKS_AT.into_iter().zip(copies) {
        if let Some(copy) = copy {
            put(at, copy.as_bytes());
        }
    }
    let directory = SimDirectory::new(4 << 20);
    directory.insert(PACK, bytes);
    let medium = directory.open(PACK, true).unwrap();
    directory.record(true);
    (directory, medium)
}

/// What was done since the file was made.
fn actions(directory: &SimDirectory) -> Vec<Action> {
    directory.steps().into_iter().skip(1).map(|step| step.action).collect()
}

fn written(at: Offset, part: &[u8], durable: bool) -> Action {
    Action::Write { offset: at, bytes: part.to_vec(), durable }
}

#[test]
fn positions_may_reach_their_limits_and_no_further() {
    let sound = at_the_limits().sealed();
    assert!(is_sound(&sound, 1 << 20));
    assert!(is_sound(&sound, 2 << 20));
    assert!(!is_sound(&sound, (1 << 20) - 1), "the file was cut off");
    let highest = changed(sound, |copy| copy.tail = copy.chunk_end);
    assert!(is_sound(&highest, 1 << 20), "a chunk may be full");
    let lowest = changed(sound, |copy| {
        (copy.directory, copy.run, copy.slots) = (U64::new(SPACE_AT.0), U64::new(0), U32::new(1));
    });
    assert!(is_sound(&lowest, 1 << 20));
    let deepest = changed(sound, |copy| {
        (copy.end, copy.depth, copy.directory) = (U64::new(FILE_BYTES_MAX), U32::new(DEPTH_MAX), U64::new(1 << 30));
    });
    assert!(is_sound(&deepest, FILE_BYTES_MAX));
    let last = changed(sound, |copy| (copy.sequence, copy.epoch) = (U64::new(SEQUENCE_MAX), U64::new(SEQUENCE_MAX)));
    assert!(is_sound(&last, 1 << 20));

    type Change = fn(&mut Superblock);
    let changes: [(&str, Change); 19] = [
        ("the sequence can't be counted up", |copy| copy.sequence = U64::new(SEQUENCE_MAX + 1)),
        ("the epoch can't be counted up", |copy| copy.epoch = U64::new(u64::MAX)),
        ("the end lies behind the file", |copy| copy.end += 1),
        ("the chunk lies in the head", |copy| copy.chunk -= CHUNK_ALIGN),
        ("the chunk is not aligned", |copy| {
            copy.chunk += PAGE_BYTES;
            copy.tail += PAGE_BYTES;
        }),
        ("the chunk ends behind the end", |copy| copy.chunk_end += 1),
        ("the tail is not aligned", |copy| copy.tail += 1),
        ("the tail lies in the chunk's own frame", |copy| {
            copy.tail -= FRAME_ALIGN;
            copy.commit = U64::new(0);
        }),
        ("the tail lies behind the chunk", |copy| copy.chunk_end = copy.tail - 1),
        ("the newest commit lies at the tail", |copy| copy.commit = copy.tail),
        ("the newest commit lies behind the tail", |copy| copy.commit = copy.tail + 1),
        ("no slots", |copy| copy.slots = U32::new(0)),
        ("too many slots", |copy| copy.slots += 1),
        ("segments are larger than the file", |copy| {
            copy.end -= PAGE_BYTES;
            copy.chunk_end -= PAGE_BYTES;
            copy.directory -= PAGE_BYTES;
            copy.run -= PAGE_BYTES;
        }),
        ("the directory lies in the head", |copy| copy.directory = U64::new(SPACE_AT.0 - PAGE_BYTES)),
        ("the directory is not aligned", |copy| copy.directory -= 1),
        ("the directory reaches behind the end", |copy| copy.depth += 1),
        ("the directory begins at the end", |copy| copy.directory = copy.end),
        ("the newest run lies at the end", |copy| copy.run = copy.end),
    ];
    for (what, change) in changes {
        assert!(!is_sound(&changed(sound, change), 1 << 20), "{what}");
    }
    let deeper = changed(deepest, |copy| {
        (copy.depth, copy.end) = (U32::new(DEPTH_MAX + 1), U64::new(BLOB_BYTES_LIMIT << 2));
    });
    assert!(!is_sound(&deeper, u64::MAX), "deeper than any directory is");
    assert!(!is_sound(&changed(deepest, |copy| copy.directory = U64::new(u64::MAX - 4095)), FILE_BYTES_MAX));
    let broken = Superblock { checksum: sound.checksum + 1, ..sound };
    assert!(!is_sound(&broken, 1 << 20), "the checksum is wrong");
}

#[test]
fn the_newer_of_two_superblocks_counts_wherever_it_stands() {
    let old = at_the_limits().sealed();
    let new = changed(old, |copy| copy.sequence += 1);
    let whole = Some(old.identity);
    for (copies, slot, older) in [
        ([Some(old), Some(new)], 1, Some(old)),
        ([Some(new), Some(old)], 0, Some(old)),
        ([Some(new), None], 0, None),
        ([None, Some(new)], 1, None),
    ] {
        let found = Superblocks::read(&file(1 << 20, whole, copies).1).unwrap();
        assert_eq!((found.newest, found.slot, found.older, found.identity), (new, slot, older, old.identity));
        assert_eq!(found.oldest(), if older.is_some() { 7 } else { 8 });
        // Any of the three identities is enough.
        assert_eq!(Superblocks::read(&file(1 << 20, None, copies).1).unwrap().newest, new);
    }
    let same = Superblocks::read(&file(1 << 20, whole, [Some(old), Some(old)]).1).unwrap();
    assert_eq!(same.slot, 0, "two of one sequence: the first");
    let stranger = changed(new, |copy| copy.identity = identity(MAGIC, 0));
    let found = Superblocks::read(&file(1 << 20, whole, [Some(old), Some(stranger)]).1).unwrap();
    assert_eq!((found.newest, found.older), (old, None), "a superblock of another pack does not count");
}

#[test]
fn what_is_no_pack_is_told_apart_from_a_damaged_and_from_a_newer_one() {
    let sound = at_the_limits().sealed();
    let broken = Superblock { checksum: sound.checksum + 1, ..sound };
    let text = |length, identity, copies| {
        let error = Superblocks::read(&file(length, identity, copies).1).unwrap_err();
        (error.is_damage(), error.to_string())
    };
    let holds = |found: (bool, String), damage: bool, part: &str| {
        assert!(found.0 == damage && found.1.contains(part), "{found:?}");
    };
    holds(text(0, None, [None, None]), false, "the file is empty");
    holds(text(1 << 20, None, [None, None]), false, "does not begin with");
    let whole = size_of::<Identity>();
    holds(text(whole, Some(sound.identity), [None, None]), true, "cut off");
    holds(text(65_536, Some(sound.identity), [None, None]), true, "cut off");
    holds(text(65_537, Some(sound.identity), [None, None]), true, "offset 65537: the file was cut off");
    let space = usize::try_from(SPACE_AT.0).unwrap();
    holds(text(space - 1, Some(sound.identity), [None, None]), true, "the file was cut off");
    holds(text(space, Some(sound.identity), [None, None]), true, "both superblocks are damaged");
    let told = "offset 1048575: the file was cut off: it has 1048575 bytes, and its checkpoint says 1048576";
    for copies in [[Some(sound), None], [Some(broken), Some(sound)]] {
        holds(text((1 << 20) - 1, Some(sound.identity), copies), true, told);
    }
    // One that would not be believed in a whole file either says nothing about its length.
    let forged = changed(sound, |copy| (copy.end, copy.slots) = (U64::new(2 << 20), U32::new(0)));
    holds(text(1 << 20, Some(sound.identity), [Some(forged), None]), true, "both superblocks are damaged");
    holds(text(1 << 20, Some(sound.identity), [Some(broken), None]), true, "both superblocks are damaged");
    holds(text(1 << 20, None, [Some(broken), None]), true, "the identity and both superblocks");
    let other = identity(*b"blobpics", VERSION);
    holds(text(1 << 20, Some(other), [None, None]), false, "does not begin with");
    let rotten = Identity { checksum: sound.identity.checksum + 1, ..sound.identity };
    holds(text(1 << 20, Some(rotten), [None, None]), false, "does not begin with");
    holds(text(1 << 20, Some(rotten), [Some(broken), None]), true, "the identity and both superblocks");

    let newer = identity(MAGIC, VERSION + 1);
    let unknown_seal = Identity { checksum: newer.checksum + 1, ..newer };
    for newer in [newer, unknown_seal] {
        let error = Superblocks::read(&file(1 << 20, Some(newer), [None, None]).1).unwrap_err();
        let Error::UnsupportedVersion { found, supported, .. } = error else { panic!("{error}") };
        assert_eq!((found, supported), (VERSION + 1, VERSION));
        // A rotten version at the head does not count against a superblock that is whole.
        assert_eq!(Superblocks::read(&file(1 << 20, Some(newer), [Some(sound), None]).1).unwrap().newest, sound);
    }
}

#[test]
fn an_unreadable_sector_costs_one_copy_and_another_error_is_told() {
    let sound = at_the_limits().sealed();
    let (directory, medium) = file(1 << 20, Some(sound.identity), [Some(sound), Some(sound)]);
    directory.set_unreadable(PACK, 0..SUPERBLOCKS_AT[1].0);
    assert_eq!(Superblocks::read(&medium).unwrap().slot, 1);
    // The whole of a part has to lie in the file: what its length takes in and a read doesn't find is no bad sector.
    assert!(read::<_, Superblock>(&medium, Offset((1 << 20) - 512), 1 << 20).unwrap().is_some());
    assert!(read::<_, Superblock>(&medium, Offset((1 << 20) - 511), 1 << 20).unwrap().is_none());
    assert!(matches!(read::<_, Superblock>(&medium, Offset(1 << 20), 2 << 20), Err(Error::Io { .. })));
}

#[test]
fn a_directory_that_the_file_has_no_bytes_for_is_forged() {
    // Sparse, but for its head: 16 MiB and a little are believed of it.
    let directory = SimDirectory::new(64 << 20);
    let medium = directory.create(PACK).unwrap();
    medium.allocate(Offset((64 << 20) - PAGE_BYTES), PAGE_BYTES).unwrap();
    let most = data_bytes_most(&medium).unwrap();
    assert!((16 << 20..32 << 20).contains(&most));
    for (depth, is_believed) in [(21, true), (22, false)] {
        let copy = changed(at_the_limits(), |copy| {
            copy.end = U64::new(64 << 20);
            (copy.depth, copy.directory) = (U32::new(depth), U64::new(16 << 20));
        });
        medium.write_at(SUPERBLOCKS_AT[0], &[copy.as_bytes()], false).unwrap();
        assert_eq!(Superblocks::read(&medium).is_ok(), is_believed, "depth {depth}");
    }
}

#[test]
fn the_next_superblock_goes_over_the_older_one_after_the_length_is_durable() {
    let old = at_the_limits().sealed();
    let new = changed(old, |copy| copy.sequence += 1);
    let (directory, medium) = file(1 << 20, Some(old.identity), [Some(old), Some(new)]);
    let mut superblocks = Superblocks::read(&medium).unwrap();

    let third = changed(new, |copy| copy.sequence += 1);
    let unsealed = Superblock { checksum: U32::new(0), ..third };
    superblocks.write(&medium, unsealed).unwrap();
    assert_eq!(
        actions(&directory),
        [written(SUPERBLOCKS_AT[0], third.as_bytes(), true)],
        "its length was synced before"
    );
    assert_eq!((superblocks.newest, superblocks.slot, superblocks.older), (third, 0, Some(new)));

    let fourth = changed(third, |copy| {
        copy.sequence += 1;
        copy.end += PAGE_BYTES;
    });
    directory.record(true);
    superblocks.write(&medium, fourth).unwrap();
    let length = Action::SyncRange { offset: Offset(1 << 20), length: PAGE_BYTES };
    assert_eq!(actions(&directory), [length, written(SUPERBLOCKS_AT[1], fourth.as_bytes(), true)]);
    assert_eq!((superblocks.newest, superblocks.slot, superblocks.older), (fourth, 1, Some(third)));

    directory.fail_step(0, Fault::Io);
    assert!(superblocks.write(&medium, third).is_err());
    assert_eq!((superblocks.newest, superblocks.slot), (fourth, 1), "what was not written does not count");

    directory.record(true);
    superblocks.settle(&medium).unwrap();
    assert_eq!(actions(&directory), [written(SUPERBLOCKS_AT[1], fourth.as_bytes(), true)]);
}

#[test]
fn the_identity_is_written_again_only_where_it_is_damaged() {
    let sound = at_the_limits().sealed();
    let (directory, medium) = file(1 << 20, Some(sound.identity), [Some(sound), None]);
    Superblocks::read(&medium).unwrap().restore_identity(&medium).unwrap();
    assert_eq!(actions(&directory), []);
    let (directory, medium) = file(1 << 20, None, [Some(sound), None]);
    Superblocks::read(&medium).unwrap().restore_identity(&medium).unwrap();
    assert_eq!(actions(&directory), [written(IDENTITY_AT, sound.identity.as_bytes(), true)]);
}

#[test]
fn a_new_file_gets_two_superblocks_one_after_the_other_and_room_for_its_heads() {
    let directory = SimDirectory::new(64 << 20);
    let medium = directory.create(PACK).unwrap();
    directory.record(true);
    Superblocks::allocate_heads(&medium).unwrap();
    let heads = [IDENTITY_AT, SUPERBLOCKS_AT[0], SUPERBLOCKS_AT[1], LIVE_AT];
    assert_eq!(actions(&directory), heads.map(|offset| Action::Allocate { offset, length: PAGE_BYTES }));

    directory.record(true);
    let next = |before: &Superblock| changed(*before, |copy| copy.sequence += 1);
    let written_now = Superblocks::write_both(&medium, &at_the_limits(), next).unwrap();
    let (first, second) = (next(&at_the_limits()), next(&next(&at_the_limits())));
    assert_eq!((written_now.older, written_now.newest, written_now.slot), (Some(first), second, 1));
    let expected = [(0, first), (1, second)].map(|(slot, copy)| written(SUPERBLOCKS_AT[slot], copy.as_bytes(), false));
    assert_eq!(actions(&directory), expected);
}

#[test]
fn unknown_features_forbid_what_they_say() {
    let refused = |change: fn(&mut Superblock), write| {
        let copy = changed(at_the_limits(), change);
        let (_, medium) = file(1 << 20, Some(copy.identity), [Some(copy), None]);
        match Superblocks::read(&medium).unwrap().check_features(&medium, write) {
            Ok(()) => 0,
            Err(Error::UnsupportedFeature { flags, .. }) => flags,
            Err(error) => panic!("{error}"),
        }
    };
    for write in [false, true] {
        assert_eq!(refused(|copy| copy.compatible = U64::new(4), write), 0);
        assert_eq!(refused(|copy| copy.incompatible = U64::new(features::INCOMPATIBLE), write), 0);
        assert_eq!(refused(|copy| copy.incompatible = U64::new(features::INCOMPATIBLE | 4), write), 4);
        let read_only = |copy: &mut Superblock| copy.read_only_compatible = U64::new(8);
        assert_eq!(refused(read_only, write), if write { 8 } else { 0 });
    }
    let both = |copy: &mut Superblock| (copy.read_only_compatible, copy.incompatible) = (U64::new(12), U64::new(4));
    assert_eq!(refused(both, true), 12);
}

#[test]
fn a_superblock_tells_the_state_of_the_pack_and_announces_names_from_the_first_on() {
    let before = changed(at_the_limits(), |copy| copy.compatible = U64::new(4));
    let tail = Tail {
        epoch: 6,
        chunk: Offset(320 << 10),
        chunk_end: 512 << 10,
        at: Offset(400 << 10),
        commit: Offset(399 << 10),
        commit_checksum: 5,
    };
    let medium = SimDirectory::new(4 << 20).create(PACK).unwrap();
    let mut space = Space::empty(99, 4, u64::MAX);
    space.promise(&medium, 1, 0).unwrap();
    let live = LiveWord { directory: Offset(600 << 10), depth: 3, switches: 0 };
    let next = |before: &Superblock, names| {
        let counters = CountersNow { blobs: 2, names, live_bytes: 7, ..CountersNow::default() };
        let next = next_superblock(before, &tail, &space, live, counters);
        assert_eq!(CountersNow::from(next.counters), counters);
        next
    };
    let plain = next(&before, 0);
    assert_eq!(plain.sequence.get(), before.sequence.get() + 1);
    assert_eq!(Tail::of(&plain), tail);
    assert_eq!((Offset(plain.end.get()), Offset(plain.run.get())), (space.end(), space.run()));
    assert!(space.run() > Offset::NONE && space.end() > SPACE_AT);
    assert_eq!((plain.directory.get(), plain.depth.get()), (600 << 10, 3));
    assert_eq!((plain.slots, plain.identity, plain.compatible), (before.slots, before.identity, before.compatible));
    assert_eq!(plain.incompatible.get(), 0);
    let named = next(&before, 1);
    assert_eq!(named.incompatible.get(), features::NAMES);
    assert_eq!(next(&named, 0).incompatible.get(), features::NAMES, "it keeps what it announced");
    assert_eq!(next(&named, 2).incompatible.get(), features::NAMES);
}

/// Who had asked for the file's length before a writer made it longer took both superblocks for those of a file that
/// was cut off.
#[test]
fn a_file_that_grows_while_its_superblocks_are_read_was_not_cut_off() {
    let sound = changed(at_the_limits(), |superblock| superblock.depth = U32::new(0));
    let (directory, medium) = file(1 << 20, Some(sound.identity), [Some(sound), None]);
    directory.record(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut superblocks = Superblocks::read(&medium).unwrap();
            for sequence in 8..30_000 {
                let (end, more) = (superblocks.newest.end.get(), FRAME_ALIGN);
                medium.allocate(Offset(end), more).unwrap();
                let next = Superblock { sequence: U64::new(sequence), end: U64::new(end + more), ..superblocks.newest };
                superblocks.write(&medium, next).unwrap();
            }
        });
        let beside = directory.open(PACK, false).unwrap();
        let mut newest = 0;
        while !writer.is_finished() {
            let now = Superblocks::read(&beside).unwrap().newest.sequence.get();
            assert!(newest <= now, "{newest} was there before {now}");
            newest = now;
        }
    });
}
