use std::sync::atomic::Ordering;

use super::*;
use crate::format::Offset;
use crate::medium::contract::keeps_the_contract;
use crate::medium::{AtPath, is_full};

const LONGEST: u64 = 1 << 18;

/// A directory with a published, unlocked file `pack` of 8 KiB.
fn with_a_file() -> (SimDirectory, Sim) {
    let directory = SimDirectory::new(LONGEST);
    let new = directory.create("pack").unwrap();
    new.allocate(Offset(0), 8192).unwrap();
    new.publish(false).unwrap();
    drop(new);
    let file = directory.open("pack", true).unwrap();
    (directory, file)
}

#[test]
fn the_simulation_keeps_the_contract() {
    keeps_the_contract(SimDirectory::new(LONGEST).create("pack").unwrap());
}

#[test]
fn any_prefix_of_the_steps_can_be_replayed() {
    let directory = SimDirectory::new(LONGEST);
    directory.insert("there", b"before the recording".to_vec());
    directory.record(true);
    let file = directory.create("pack").unwrap();
    file.write_at(Offset(5), &[b"hello ", b"world"], true).unwrap();
    let unnamed = SimDirectory::replay(&directory.steps(), directory.step_count(), LONGEST);
    assert_eq!(unnamed.names(), [PathBuf::from("there")]);
    assert_eq!(unnamed.used(), 4096, "a file without a name is gone");

    let calls: [&dyn Fn() -> io::Result<()>; 10] = [
        &|| file.publish(false),
        &|| file.allocate(Offset(8192), 8192),
        &|| file.store(Offset(8200), &[1, 2, 3]),
        &|| file.write_at(Offset(0), &[b"again"], false),
        &|| file.sync_range(Offset(0), 16),
        &|| file.punch(Offset(8192), 4096),
        &|| file.sync_all(),
        &|| {
            directory.remove("there");
            Ok(())
        },
        &|| file.write_at(Offset(30), &[b"tail"], true),
        &|| {
            directory.insert("pack", b"another".to_vec());
            Ok(())
        },
    ];
    let state = |directory: &SimDirectory| (directory.names(), directory.bytes("pack"), directory.bytes("there"));
    let mut states = Vec::new();
    for call in calls {
        call().unwrap();
        states.push((directory.step_count(), state(&directory), directory.used()));
    }
    let steps = directory.steps();
    for (upto, expected, used) in &states {
        let replayed = SimDirectory::replay(&steps, *upto, LONGEST);
        assert_eq!(state(&replayed), *expected, "after {upto} steps");
        // At last the first `pack` has no name, but a handle.
        assert!(replayed.used() == *used || *upto == steps.len(), "after {upto} steps");
    }
    directory.record(false);
    file.write_at(Offset(0), &[b"unseen"], false).unwrap();
    assert!(directory.steps().is_empty());
}

#[test]
fn a_replay_has_the_file_numbers_of_the_recording_but_neither_its_locks_nor_its_boot() {
    let (directory, file) = with_a_file();
    assert!(file.try_lock().unwrap());
    directory.record(true);
    let beside = file.create_beside(None).unwrap();
    beside.write_at(Offset(0), &[b"compacted"], true).unwrap();
    beside.publish(true).unwrap();
    let steps = directory.steps();
    let names = |step: &Step| match &step.action {
        Action::Insert { names, .. } => names.len(),
        _ => 0,
    };
    assert_eq!(names(&steps[0]), 1);
    for upto in 1..=steps.len() {
        let replayed = SimDirectory::replay(&steps, upto, LONGEST);
        let found = replayed.open("pack", true).unwrap();
        assert!(!found.is_locked().unwrap());
        let [_, boot, _, number] = found.host().unwrap();
        assert_ne!(boot, directory.boot());
        let published = steps[..upto].iter().any(|step| matches!(step.action, Action::Publish { .. }));
        let expected = if published { &beside } else { &file };
        assert_eq!(number, expected.host().unwrap()[3]);
        replayed.set_boot(directory.boot());
        assert_eq!(found.host().unwrap(), expected.host().unwrap());
        assert_ne!(replayed.create("next").unwrap().host().unwrap(), found.host().unwrap());
    }
}

#[test]
fn a_failing_step_does_nothing_and_only_once() {
    let (directory, file) = with_a_file();
    directory.record(true);
    directory.fail_step(1, Fault::Io);
    file.write_at(Offset(0), &[b"first"], true).unwrap();
    let error = file.write_at(Offset(0), &[b"other"], true).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(!directory.clear_fault(), "it has struck");
    assert_eq!(&directory.bytes("pack").unwrap()[..5], b"first");
    assert_eq!(directory.step_count(), 2);
    file.store(Offset(0), &[1]).unwrap();
    directory.fail_step(0, Fault::Full);
    assert!(is_full(&file.allocate(Offset(0), 1).unwrap_err()));
    directory.fail_step(1, Fault::Io);
    let beside = file.create_beside(None).unwrap();
    assert!(beside.publish(true).is_err());
    assert_eq!(file.at_path().unwrap(), AtPath::Same);
    directory.fail_step(1, Fault::Io);
    assert!(beside.publish(true).is_err(), "named, but the directory was not synced");
    assert_eq!(file.at_path().unwrap(), AtPath::Other);
    directory.fail_step(9, Fault::Io);
    assert!(directory.clear_fault());
}

#[test]
fn a_full_disk_refuses_what_has_no_place_yet() {
    let (directory, file) = with_a_file();
    directory.set_capacity(directory.used() + 4096);
    assert!(is_full(&file.allocate(Offset(8192), 8192).unwrap_err()));
    assert!(is_full(&file.write_at(Offset(8000), &[&[1; 5000]], false).unwrap_err()));
    assert_eq!(file.length().unwrap(), 8192);
    file.write_at(Offset(4000), &[&[1; 5000]], false).unwrap();
    assert_eq!(directory.used(), 3 * 4096);
    file.store(Offset(0), &[1]).unwrap();
    assert!(is_full(&file.write_at(Offset(20_000), &[b"1"], false).unwrap_err()));
    file.punch(Offset(100), 8000).unwrap();
    assert_eq!(directory.used(), 3 * 4096, "no page lies inside the range whole");
    file.punch(Offset(0), 4096).unwrap();
    file.write_at(Offset(20_000), &[b"1"], false).unwrap();
    directory.set_capacity(u64::MAX);
    assert!(is_full(&file.allocate(Offset(0), LONGEST + 1).unwrap_err()));
    let beside = file.create_beside(None).unwrap();
    beside.write_at(Offset(0), &[b"1"], false).unwrap();
    let used = directory.used();
    drop(beside);
    assert_eq!(directory.used(), used - 4096, "a file without name and handle takes nothing");
}

#[test]
fn a_store_to_what_was_not_allocated_is_an_error() {
    let (_directory, file) = with_a_file();
    file.store(Offset(4096), &[1]).unwrap();
    file.punch(Offset(4096), 4096).unwrap();
    assert!(file.store(Offset(4096), &[1]).is_err());
    file.allocate(Offset(4096), 1).unwrap();
    file.store(Offset(4096), &[1]).unwrap();
}

#[test]
fn any_bytes_can_be_put_there_and_opened() {
    let directory = SimDirectory::new(16);
    directory.insert("long", vec![7; 100]);
    directory.insert("empty", vec![]);
    let long = directory.open("long", true).unwrap();
    let mut bytes = [0; 100];
    long.read_at(Offset(0), &mut bytes).unwrap();
    assert_eq!(bytes, [7; 100]);
    long.store(Offset(88), &[1]).unwrap();
    assert_eq!(directory.open("empty", false).unwrap().length().unwrap(), 0);
    assert!(directory.open("none", false).is_err());
    assert!(directory.remove("long") && !directory.remove("long"));
    long.read_at(Offset(0), &mut bytes).unwrap();
}

#[test]
fn a_reader_sees_stores_in_their_order() {
    let (_directory, file) = with_a_file();
    let map = file.map(8192).unwrap();
    let word = |offset| u64::from_le(map.word(Offset(offset)).unwrap().load(Ordering::Acquire));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..50 {
                file.store(Offset(64), &[n, n, n]).unwrap();
            }
        });
        let mut last = 0;
        while last < 49 {
            let (first, second, third) = (word(64), word(72), word(80));
            assert!(first <= third && third <= word(72), "{first} {second} {third}");
            assert!(last <= first);
            last = first;
            std::thread::yield_now();
        }
    });
}
