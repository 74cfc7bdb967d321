#![cfg(not(miri))]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::medium::contract::keeps_the_contract;

/// More than is reserved in one step.
const STEPS: u64 = 40 << 20;

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    (directory, path)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A new file as on a file system without `O_TMPFILE`.
fn create_with_a_temporary_name(path: &Path) -> Disk {
    let (file, lock, name) = directory::create_named(path, 0o600).unwrap();
    Disk::new(path.into(), file, true, lock, name)
}

#[test]
fn the_disk_keeps_the_contract() {
    let (_directory, path) = directory();
    keeps_the_contract(Disk::create(&path.join("pack"), 0o644).unwrap());
    assert_eq!(names(&path), ["aside", "pack"]);
}

/// The pages that this thread had to wait for so far.
#[cfg(target_os = "linux")]
fn faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // Behind the name, which may hold anything: minor and major faults are the tenth and the twelfth field.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[7].parse::<u64>().unwrap() + fields[9].parse::<u64>().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn a_page_that_is_prepared_has_had_the_fault_of_its_next_store() {
    const PAGES: u64 = 512;
    let (_directory, path) = directory();
    let disk = Disk::create(&path.join("pack"), 0o600).unwrap();
    disk.allocate(Offset(0), PAGES << 12).unwrap();
    disk.map(PAGES << 12).unwrap();
    let pages = || (0..PAGES).map(|page| Offset(page << 12));
    let before = faults();
    pages().for_each(|page| disk.prepare_store(page));
    let prepared = faults();
    pages().for_each(|page| disk.store(page, &[1]).unwrap());
    let (first, then) = (prepared - before, faults() - prepared);
    assert!(disk.shares_blocks() || first > 4 * then, "{first} faults, then {then}");
    disk.store_by_pwrite();
    pages().for_each(|page| disk.prepare_store(page));
    assert!(pages().all(|page| disk.map(1).unwrap().word(page).unwrap().load(Ordering::Relaxed) == 1u64.to_le()));
}

/// Both those that were stored before and those that come while it is prepared.
#[test]
fn words_stay_when_their_sync_is_prepared() {
    const LENGTH: u64 = 1 << 20;
    let (_directory, path) = directory();
    let disk = Disk::create(&path.join("pack"), 0o600).unwrap();
    disk.allocate(Offset(0), LENGTH).unwrap();
    let words: Vec<u64> = (1..=LENGTH / 8).collect();
    disk.store(Offset(0), &words).unwrap();
    let map = disk.map(LENGTH).unwrap();
    std::thread::scope(|scope| {
        let storing = scope.spawn(|| {
            for number in 1..=2000 {
                disk.store(Offset(8 * number), &[number << 32]).unwrap();
            }
        });
        for _ in 0..20 {
            map.prepare_sync(Offset(0), LENGTH);
        }
        while !storing.is_finished() {
            disk.prepare_sync(Offset(0), LENGTH);
        }
    });
    for outside in [Offset(map.length()), Offset(map.length() - 4096), Offset(u64::MAX)] {
        disk.prepare_sync(outside, 8192);
    }
    disk.sync_range(Offset(0), LENGTH).unwrap();
    let mut bytes = vec![0; to_usize(LENGTH)];
    disk.read_at(Offset(0), &mut bytes).unwrap();
    for (number, bytes) in (0..).zip(bytes.as_chunks().0) {
        let expected = if (1..=2000).contains(&number) { number << 32 } else { number + 1 };
        let loaded = map.word(Offset(8 * number)).unwrap().load(Ordering::Acquire);
        assert_eq!((u64::from_le(loaded), u64::from_le_bytes(*bytes)), (expected, expected), "word {number}");
    }
}

#[test]
fn the_disk_keeps_the_contract_on_tmpfs() {
    if let Ok(directory) = tempfile::tempdir_in("/dev/shm") {
        keeps_the_contract(Disk::create(&directory.path().join("pack"), 0o644).unwrap());
    }
}

#[test]
fn the_disk_keeps_the_contract_where_preallocation_is_no_guarantee() {
    let (_directory, path) = directory();
    let disk = Disk::create(&path.join("pack"), 0o644).unwrap();
    assert_eq!(disk.overwrites_in_place(), sys::preallocation_holds(&disk.file));
    disk.store_by_pwrite();
    assert!(!disk.overwrites_in_place(), "the second write would need room");
    keeps_the_contract(disk);
}

#[test]
fn the_disk_keeps_the_contract_without_dsync_writes() {
    let (_directory, path) = directory();
    let disk = Disk::create(&path.join("pack"), 0o644).unwrap();
    disk.syncs_apart.store(true, Ordering::Relaxed);
    keeps_the_contract(disk);
}

#[test]
fn the_disk_keeps_the_contract_without_nameless_files() {
    let (_directory, path) = directory();
    keeps_the_contract(create_with_a_temporary_name(&path.join("pack")));
    assert_eq!(names(&path), ["aside", "pack"]);
}

#[test]
fn a_file_that_was_not_published_leaves_no_name_behind() {
    let (_directory, path) = directory();
    let path = path.join("pack");
    drop(Disk::create(&path, 0o600).unwrap());
    let disk = create_with_a_temporary_name(&path);
    assert_eq!(names(path.parent().unwrap()).len(), 1);
    disk.remove_leftovers();
    assert_eq!(names(path.parent().unwrap()).len(), 1, "nobody takes what is being made");
    drop(disk);
    assert!(names(path.parent().unwrap()).is_empty());
}

#[test]
fn leftovers_are_removed_once_nobody_has_their_lock() {
    let (_directory, path) = directory();
    let disk = Disk::create(&path.join("pack"), 0o600).unwrap();
    disk.publish(false).unwrap();
    let in_work = create_with_a_temporary_name(&path.join("pack"));
    fs::write(path.join(".pack.0123456789abcdef.tmp"), "dead").unwrap();
    fs::hard_link(path.join("pack"), path.join(".pack.1123456789abcdef.tmp")).unwrap();
    let kept = [".pack.0123456789abcde.tmp", ".pack.0123456789abcdeg.tmp", ".other.0123456789abcdef.tmp", "pack.tmp"];
    for name in kept {
        fs::write(path.join(name), "not ours").unwrap();
    }
    symlink("pack", path.join(".pack.2123456789abcdef.tmp")).unwrap();
    assert_eq!(disk.links().unwrap(), 2);
    disk.remove_leftovers();
    assert_eq!(disk.links().unwrap(), 1);
    // Those four, the link, the pack, and the file that is being made.
    assert_eq!(names(&path).len(), 7);
    for name in kept {
        assert!(path.join(name).exists());
    }
    in_work.publish(true).unwrap();
    assert_eq!(disk.at_path().unwrap(), AtPath::Other);
}

#[test]
fn a_symbolic_link_stays_when_the_file_behind_it_is_replaced() {
    let (_directory, path) = directory();
    fs::create_dir(path.join("sub")).unwrap();
    // Nothing is behind the links yet: what they name is made.
    symlink("second", path.join("first")).unwrap();
    symlink("sub/pack", path.join("second")).unwrap();
    let disk = Disk::create(&path.join("first"), 0o600).unwrap();
    assert_eq!(disk.path(), path.join("sub/pack"));
    disk.publish(false).unwrap();
    let opened = Disk::open(&path.join("first"), true).unwrap();
    assert_eq!((opened.path(), opened.at_path().unwrap()), (disk.path(), AtPath::Same));
    opened.create_beside(None).unwrap().publish(true).unwrap();
    assert_eq!(opened.at_path().unwrap(), AtPath::Other);
    assert!(path.join("first").is_symlink() && !path.join("sub/pack").is_symlink());

    symlink("round", path.join("round")).unwrap();
    assert!(Disk::open(&path.join("round"), false).is_err());
    assert!(Disk::create(&path.join("round"), 0o600).is_err());
    assert!(Disk::create(&path.join("none/.."), 0o600).is_err());
    assert_eq!(Disk::create(&path.join("none/pack"), 0o600).err().unwrap().kind(), io::ErrorKind::NotFound);
}

#[test]
fn what_is_no_regular_file_is_named_and_does_not_block() {
    let (_directory, path) = directory();
    rustix::fs::mkfifoat(rustix::fs::CWD, path.join("fifo"), rustix::fs::Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
    let kind = |path: PathBuf, write| Disk::open(&path, write).unwrap().kind().unwrap();
    for write in [false, true] {
        assert_eq!(kind(path.join("fifo"), write), Some("a FIFO"));
        assert_eq!(kind(path.clone(), write), Some("a directory"));
        assert_eq!(kind(path.join("socket"), write), Some("a socket"));
        assert_eq!(kind("/dev/null".into(), write), Some("a device"));
        assert_eq!(Disk::open(&path.join("none"), write).err().unwrap().kind(), io::ErrorKind::NotFound);
    }
    fs::write(path.join("file"), "").unwrap();
    assert_eq!(kind(path.join("file"), true), None);
}

#[test]
fn a_file_has_the_mode_that_was_asked_for_or_that_of_the_one_beside_it() {
    let (_directory, path) = directory();
    let mode = |disk: &Disk| disk.file.metadata().unwrap().mode() & 0o7777;
    for asked in [0o600, 0o400, 0o000, 0o640] {
        let disk = Disk::create(&path.join("pack"), asked).unwrap();
        assert_eq!(mode(&disk), asked);
        assert!(disk.is_locked().unwrap());
        let was_opened = [&disk.for_maps, &disk.for_checkpoints].map(|again| again.get().is_some());
        assert!(was_opened == [true; 2] || asked & 0o600 == 0o600, "its owner may not open it any more");
        let permissions = Permissions::from_mode(0o666);
        disk.file.set_permissions(permissions).unwrap();
        assert_eq!(mode(&disk.create_beside(None).unwrap()), 0o666, "whatever the umask");
    }
}

#[test]
fn a_name_as_long_as_can_be_leaves_room_for_a_temporary_one() {
    let (_directory, path) = directory();
    let path = path.join("n".repeat(255));
    let disk = create_with_a_temporary_name(&path);
    disk.publish(false).unwrap();
    disk.create_beside(None).unwrap().publish(true).unwrap();
    assert_eq!(disk.at_path().unwrap(), AtPath::Other);
}

#[test]
fn one_of_many_creators_wins_and_the_others_learn_of_it() {
    let (_directory, path) = directory();
    let path = path.join("pack");
    let won: usize = std::thread::scope(|scope| {
        let create = |n: u8| {
            let path = &path;
            move || {
                let disk = if n.is_multiple_of(2) {
                    Disk::create(path, 0o600).unwrap()
                } else {
                    create_with_a_temporary_name(path)
                };
                match disk.publish(false) {
                    Ok(()) => 1,
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
                        0
                    }
                }
            }
        };
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(create(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
    assert_eq!(names(path.parent().unwrap()), ["pack"]);
}

#[test]
fn growing_threads_do_not_undo_one_another() {
    let (_directory, path) = directory();
    let disk = Disk::create(&path.join("pack"), 0o600).unwrap();
    std::thread::scope(|scope| {
        for n in 0..8u64 {
            let disk = &disk;
            scope.spawn(move || {
                for round in 0..20 {
                    let at = (round * 8 + n) * 4096;
                    disk.allocate(Offset(at), 4096).unwrap();
                    disk.store(Offset(at), &[at + 1]).unwrap();
                }
            });
        }
    });
    assert_eq!(disk.length().unwrap(), 160 * 4096);
    let map = disk.map(160 * 4096).unwrap();
    for at in (0..160).map(|page| page * 4096) {
        assert_eq!(u64::from_le(map.word(Offset(at)).unwrap().load(Ordering::Acquire)), at + 1);
    }
}

#[test]
fn a_map_made_before_the_file_grew_is_used_on() {
    let (_directory, path) = directory();
    let disk = Disk::create(&path.join("pack"), 0o600).unwrap();
    let first = disk.map(1).unwrap();
    assert!(first.length() >= if sys::address_space_is_limited() { MAP_BYTES_MIN } else { MAP_BYTES_AMPLE });
    disk.allocate(Offset(0), 1 << 20).unwrap();
    assert!(Arc::ptr_eq(&first, &disk.map(1 << 20).unwrap()));
    let longer = disk.map(first.length() + 1).unwrap();
    assert!(longer.length() >= 2 * first.length());
    assert!(disk.map(u64::MAX).is_err() && disk.map(FILE_BYTES_MAX + 1).is_err());
}

#[test]
fn a_hole_is_found_and_skipped() {
    let (_directory, path) = directory();
    let disk = Disk::create(&path.join("pack"), 0o600).unwrap();
    disk.write_at(Offset(8 << 20), &[b"data"], true).unwrap();
    assert_eq!(disk.data_after(Offset(0)).unwrap(), Some(Offset(8 << 20)));
    assert!(disk.blocks().unwrap() < 1 << 20);
}

#[test]
fn this_boot_is_known() {
    let boot = sys::boot_id().unwrap();
    assert!(boot[0] != 0 && boot == sys::boot_id().unwrap());
}

/// Of the log: what stands before it is written as superblocks are.
#[test]
fn a_long_durable_write_and_one_of_many_pieces_go_out_in_parts() {
    let (_directory, path) = directory();
    let disk = Disk::create(&path.join("pack"), 0o600).unwrap();
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (one, other) = bytes.split_at(2_600_003);
    let many: Vec<&[u8]> = bytes[..30_000].chunks(7).collect();
    let few = [one, b"", other];
    let mut at = Offset(SPACE_AT.0 + 12_345);
    for (pieces, length) in [(&few[..], 5_000_000), (&many, 30_000), (&few[..2], 2_600_003), (&many[..1025], 7175)] {
        disk.write_at(at, pieces, true).unwrap();
        let mut found = vec![0; length];
        disk.read_at(at, &mut found).unwrap();
        at.0 += length as u64;
        assert!(found == bytes[..length] && disk.length().unwrap() == at.0, "{} pieces", pieces.len());
    }
}

/// Where the file system is one that searches for room, and has enough.
#[test]
fn room_is_reserved_behind_the_end_and_given_back_with_the_lock() {
    let (_directory, path) = directory();
    let pack = path.join("pack");
    let disk = Disk::create(&pack, 0o600).unwrap();
    disk.publish(false).unwrap();
    disk.allocate(Offset(0), 100_000).unwrap();
    disk.write_at(Offset(99_000), &[&[7; 1000]], false).unwrap();
    if !sys::searches_for_room(&disk.file) || sys::free_bytes(&disk.file).unwrap() < 16 * STEPS {
        return;
    }
    let before = disk.blocks().unwrap();
    disk.reserve(STEPS);
    assert_eq!(disk.length().unwrap(), 100_000, "nothing of the format knows of it");
    assert!(disk.blocks().unwrap() >= before + STEPS);
    disk.allocate(Offset(100_000), 1 << 20).unwrap();
    assert!(disk.blocks().unwrap() < before + STEPS + (1 << 20), "the file grows into it");
    disk.unlock();
    assert_eq!(disk.length().unwrap(), 100_000 + (1 << 20));
    assert!(disk.blocks().unwrap() <= before + (1 << 20) + 8192);
    disk.reserve(STEPS);
    assert!(disk.blocks().unwrap() < before + STEPS, "the lock is another one's");
    let mut bytes = [0; 2000];
    disk.read_at(Offset(99_000), &mut bytes).unwrap();
    assert_eq!((bytes[..1000].to_vec(), bytes[1000..].to_vec()), (vec![7; 1000], vec![0; 1000]));

    // As a process that was killed leaves it.
    sys::reserve(&disk.file, disk.length().unwrap(), STEPS).unwrap();
    let again = Disk::open(&pack, true).unwrap();
    again.give_room_back();
    assert!(again.blocks().unwrap() > STEPS, "the lock is nobody's");
    assert!(again.try_lock().unwrap());
    again.give_room_back();
    assert!(again.blocks().unwrap() < STEPS);
    assert_eq!(again.length().unwrap(), 100_000 + (1 << 20));
    again.reserve(u64::MAX);
    drop(again);
    assert!(disk.blocks().unwrap() < STEPS);
}
