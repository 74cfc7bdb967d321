//! What every medium does alike.

use std::io;
use std::sync::atomic::Ordering;

use super::{AtPath, Medium};
use crate::format::Offset;

/// `new` is a new, empty, locked file that was not published yet, and nothing has its name.
pub(super) fn keeps_the_contract<M: Medium>(new: M) {
    publishes_once(&new);
    reads_what_was_written(&new);
    stores_words_that_maps_and_reads_see(&new);
    allocates_and_punches(&new);
    a_read_only_handle_changes_nothing(&new);
    has_one_writer(&new);
    is_replaced_by_a_file_made_beside_it(new);
}

fn publishes_once<M: Medium>(file: &M) {
    assert_eq!((file.at_path().unwrap(), file.length().unwrap()), (AtPath::Missing, 0));
    assert_eq!(file.reopen(false).err().unwrap().kind(), io::ErrorKind::NotFound);
    let rival = file.create_beside(None).unwrap();
    file.publish(false).unwrap();
    assert_eq!((file.at_path().unwrap(), file.links().unwrap()), (AtPath::Same, 1));
    assert!(file.publish(false).is_err());
    assert_eq!(rival.publish(false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(rival.at_path().unwrap(), AtPath::Other);
    assert_eq!(file.reopen(false).unwrap().host().unwrap(), file.host().unwrap());
    assert_ne!(rival.host().unwrap(), file.host().unwrap());
}

fn reads_what_was_written<M: Medium>(file: &M) {
    file.write_at(Offset(10), &[b"", b"one", b"", b"two"], false).unwrap();
    file.write_at(Offset(16), &[b"three"], true).unwrap();
    file.write_at(Offset(3), &[], true).unwrap();
    assert_eq!(file.length().unwrap(), 21);
    let mut bytes = [7; 21];
    file.read_at(Offset(0), &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0\0\0\0\0\0\0\0\0\0onetwothree");
    let kind = |offset| file.read_at(Offset(offset), &mut [0; 2]).unwrap_err().kind();
    assert_eq!((kind(20), kind(21), kind(1 << 40)), (io::ErrorKind::UnexpectedEof, kind(20), kind(20)));
    for durable in [false, true] {
        let pieces: Vec<[u8; 3]> = (0..2500u16).map(|n| [n.to_le_bytes()[0], n.to_le_bytes()[1], 9]).collect();
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
        file.write_at(Offset(21), &pieces, durable).unwrap();
        let mut bytes = vec![0; 7500];
        file.read_at(Offset(21), &mut bytes).unwrap();
        assert_eq!(bytes, pieces.concat());
    }
    file.sync_range(Offset(21), 7500).unwrap();
    file.write_back(Offset(21), 7500);
    file.sync_all().unwrap();
}

fn stores_words_that_maps_and_reads_see<M: Medium>(file: &M) {
    let at = 64 << 10;
    assert!(file.store(Offset(at), &[1]).is_err(), "beyond the end");
    let map = file.map(at + 4096).unwrap();
    assert!(map.length() >= at + 4096);
    file.allocate(Offset(at), 4096).unwrap();
    assert!(file.store(Offset(at + 4), &[1]).is_err(), "not aligned");
    file.store(Offset(at + 8), &[0x0807_0605_0403_0201, 2, 3]).unwrap();
    file.store(Offset(at), &[4]).unwrap();
    file.store(Offset(at), &[]).unwrap();
    let words = map.words(Offset(at), 4).unwrap();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le(word.load(Ordering::Acquire))).collect();
    assert_eq!(words, [4, 0x0807_0605_0403_0201, 2, 3]);
    let mut bytes = [0; 9];
    file.read_at(Offset(at + 8), &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 2]);
    file.sync_range(Offset(at + 8), 24).unwrap();
    for near in [at, at + 8, at + 4, at + (1 << 30), u64::MAX] {
        file.prepare_store(Offset(near));
    }
    file.read_at(Offset(at + 8), &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 2]);
    file.write_at(Offset(at + 100), &[b"written"], true).unwrap();
    assert_eq!(map.bytes(Offset(at + 100), 7).unwrap(), b"written");
    let reader = file.reopen(false).unwrap();
    let word = reader.map(1).unwrap().word(Offset(at)).unwrap().load(Ordering::Acquire);
    assert_eq!(u64::from_le(word), 4);
}

fn allocates_and_punches<M: Medium>(file: &M) {
    let (at, length) = (128 << 10, 64 << 10);
    file.allocate(Offset(at), length).unwrap();
    file.allocate(Offset(0), 1).unwrap();
    file.allocate(Offset(1 << 20), 0).unwrap();
    assert_eq!(file.length().unwrap(), at + length);
    assert!(super::is_full(&file.allocate(Offset(u64::MAX - 1), 2).unwrap_err()));
    file.write_at(Offset(at), &[&[5; 8192]], true).unwrap();
    let before = file.blocks().unwrap();
    file.punch(Offset(at), length).unwrap();
    assert_eq!(file.length().unwrap(), at + length);
    assert!(file.blocks().unwrap() < before);
    let mut bytes = [1; 8192];
    file.read_at(Offset(at), &mut bytes).unwrap();
    assert_eq!(bytes, [0; 8192]);
    file.punch(Offset(at), 0).unwrap();
    assert_eq!(file.data_after(Offset(at + length)).unwrap(), None);
    assert_eq!(file.data_after(Offset(12)).unwrap(), Some(Offset(12)));
    assert!(file.data_after(Offset(at)).unwrap().is_none_or(|found| found >= Offset(at)));
}

fn a_read_only_handle_changes_nothing<M: Medium>(file: &M) {
    let reader = file.reopen(false).unwrap();
    reader.map(1).unwrap();
    assert!(reader.store(Offset(0), &[9]).is_err());
    reader.prepare_store(Offset(0));
    assert!(reader.write_at(Offset(0), &[b"no"], false).is_err());
    assert!(reader.write_at(Offset(0), &[b"no"], true).is_err());
    assert!(reader.allocate(Offset(0), 1 << 20).is_err());
    assert!(reader.punch(Offset(0), 4096).is_err());
    reader.sync_range(Offset(0), 21).unwrap();
    let mut bytes = [0; 3];
    reader.read_at(Offset(10), &mut bytes).unwrap();
    assert_eq!(&bytes, b"one");
}

fn has_one_writer<M: Medium>(file: &M) {
    let (second, reader) = (file.reopen(true).unwrap(), file.reopen(false).unwrap());
    assert!(file.try_lock().unwrap(), "a new file is locked, and stays so when it is published");
    assert!(!second.try_lock().unwrap());
    for handle in [file, &second, &reader] {
        assert!(handle.is_locked().unwrap() && !handle.is_ready().unwrap());
    }
    assert!(second.set_ready().is_err(), "only who has the lock marks it");
    file.set_ready().unwrap();
    for handle in [&second, &reader] {
        assert!(handle.is_locked().unwrap() && handle.is_ready().unwrap());
    }
    drop(reader);
    assert!(!second.try_lock().unwrap(), "the end of a probe does not end the lock");
}

fn is_replaced_by_a_file_made_beside_it<M: Medium>(old: M) {
    let watcher = old.reopen(false).unwrap();
    let map = watcher.map(21).unwrap();
    let new = old.create_beside(None).unwrap();
    new.write_at(Offset(0), &[b"new"], true).unwrap();
    assert_eq!(watcher.at_path().unwrap(), AtPath::Same);
    new.publish(true).unwrap();
    assert_eq!((watcher.at_path().unwrap(), new.at_path().unwrap()), (AtPath::Other, AtPath::Same));
    assert_eq!((watcher.links().unwrap(), new.links().unwrap()), (0, 1));
    let followed = watcher.reopen(true).unwrap();
    assert_eq!(followed.length().unwrap(), 3);
    assert!(followed.is_locked().unwrap() && !followed.try_lock().unwrap());
    drop(old);
    assert!(!watcher.is_locked().unwrap(), "each file has its own lock");
    drop(watcher);
    assert_eq!(map.bytes(Offset(10), 3).unwrap(), b"one", "a map outlives name and handles");
    new.set_ready().unwrap();
    assert!(followed.is_ready().unwrap());
    drop(new);
    assert!(!followed.is_locked().unwrap());
    assert!(!followed.is_ready().unwrap(), "the mark goes with the lock");
    assert!(followed.try_lock().unwrap() && followed.is_locked().unwrap());
    followed.remove_leftovers();
    assert_eq!(followed.at_path().unwrap(), AtPath::Same);
    followed.pause();
    let aside = followed.path().with_file_name("aside");
    let beside = followed.create_beside(Some(&aside)).unwrap();
    beside.publish(false).unwrap();
    assert_eq!((beside.path(), beside.at_path().unwrap()), (&*aside, AtPath::Same));
}
