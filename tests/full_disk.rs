//! Real file systems that are filled to the last block: small ones of each kind, on loop devices.
//!
//! Needs root, mkfs and unshare; prints that it was skipped where it has not got them. All is done in a child with mounts
//! of its own, which go with it however it ends; a signal ends it, and with it the test. `BLOBPACK_FULL=1` fills the disk
//! at each step of the work instead of some, `BLOBPACK_DISK=xfs` takes that kind alone.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blobpack::format::{Offset, SPACE_AT, SUPERBLOCKS_AT};
use blobpack::medium::Medium;
use blobpack::{Algorithm, CompactOptions, Digest, Durability, Error, RESERVED_DEREFERENCES, Result, Store};
use rustix::fs::FallocateFlags;

mod common;
use common::content;

const PLACE: &str = "BLOBPACK_TEST_PLACE";

fn is_full() -> bool {
    std::env::var_os("BLOBPACK_FULL").is_some_and(|value| value == "1")
}

/// A program that is to work; whether it did.
fn call(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let done = output.as_ref().is_ok_and(|output| output.status.success());
    if !done {
        println!("{program} {arguments:?}: {output:?}");
    }
    done
}

/// Kinds of file systems, and what makes one in an image.
const KINDS: [(&str, &[&str]); 4] = [
    ("tmpfs", &[]),
    ("ext4", &["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0"]),
    ("xfs", &["mkfs.xfs", "-q", "-f", "-m", "reflink=1"]),
    ("btrfs", &["mkfs.btrfs", "-q", "-f", "-m", "single"]),
];

/// A mounted file system.
struct Disk {
    at: PathBuf,
    image: PathBuf,
}

impl Disk {
    /// Makes and mounts one of this kind; `None` where that can't be.
    fn new(place: &Path, kind: &str, make: &[&str]) -> Option<Disk> {
        let disk = Disk { at: place.join(kind), image: place.join("image") };
        std::fs::create_dir(&disk.at).unwrap();
        let (at, image) = (disk.at.to_str().unwrap(), disk.image.to_str().unwrap());
        let done = match make {
            [] => call("mount", &["-t", "tmpfs", "-o", "size=24m", "tmpfs", at]),
            [program, options @ ..] => {
                // xfs takes no less.
                let bytes = if kind == "xfs" { 300 << 20 } else { 160 << 20 };
                File::create(&disk.image).unwrap().set_len(bytes).unwrap();
                call(program, &[options, &[image]].concat()) && call("mount", &["-o", "loop", image, at])
            }
        };
        done.then_some(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
        let _ = std::fs::remove_dir(&self.at);
        let _ = std::fs::remove_file(&self.image);
    }
}

/// Takes the rest of a disk; gives it back when it is dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn new(disk: &Path) -> Ballast {
        let path = disk.join("ballast");
        let file = File::create(&path).unwrap();
        let mut end = 0;
        // What is to be written still, and what was given back and is still held, changes what there is.
        for _ in 0..3 {
            rustix::fs::syncfs(&file).unwrap();
            for bytes in [16 << 20, 1 << 20, 64 << 10, 4096] {
                while rustix::fs::fallocate(&file, FallocateFlags::empty(), end, bytes).is_ok() {
                    end += bytes;
                }
            }
            while file.write_all_at(&[7; 4096], end).is_ok() {
                end += 4096;
            }
        }
        Ballast(path)
    }
}

impl Ballast {
    /// Gives so many bytes back.
    fn give(&self, bytes: u64) {
        let file = File::options().write(true).open(&self.0).unwrap();
        let left = file.metadata().unwrap().len().saturating_sub(bytes);
        file.set_len(left).unwrap();
        rustix::fs::syncfs(&file).unwrap();
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
        rustix::fs::syncfs(File::open(self.0.parent().unwrap()).unwrap()).unwrap();
    }
}

/// How the pack came to where it is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Opened, and never closed.
    Open,
    /// Closed and opened again.
    Reopened,
    /// Compacted.
    Compacted,
    /// A copy that shares all its blocks.
    Reflinked,
}

const SINGLES: u64 = 3 * RESERVED_DEREFERENCES;

fn single(n: u64) -> Vec<u8> {
    content(1000 + n, 20 + n as usize)
}

fn of(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// The steps before the disk is full.
const STEPS: u64 = 12;

fn step(store: &Store, n: u64) -> Result<()> {
    match n {
        0 => {
            let mut batch = store.batch();
            for n in 0..SINGLES {
                batch.put(&single(n))?;
            }
            batch.commit().map(drop)
        }
        1 | 7 => store.checkpoint(),
        2 | 8 => {
            let mut batch = store.batch();
            let manifest = batch.put(&content(n, 300))?;
            for layer in 0..5 {
                let layer = batch.put(&content(n << 8 | layer, 500))?;
                batch.link(&layer, &manifest);
            }
            batch.commit().map(drop)
        }
        3 | 9 => {
            let mut writer = store.writer(Algorithm::Sha256)?;
            writer.write_all(&content(n, 200_000)).map_err(|_| ()).unwrap_or_default();
            writer.commit().map(drop)
        }
        4 => store.set_name(&"a-name".parse().unwrap(), &of(&content(2, 300))).map(drop),
        5 | 10 => (0..30).try_for_each(|m| store.put(&content(n << 8 | m, 1500)).map(drop)),
        6 => store.dereference(&of(&content(3, 200_000))).map(drop),
        _ => store.put(b"the last one").map(drop),
    }
}

/// What changes with every operation.
fn state(store: &Store) -> (u64, u64, u64, u64, u64) {
    let stats = store.stats().unwrap();
    (stats.blobs, stats.links, stats.names, stats.live_bytes, stats.commits)
}

/// Does something that may need space; whether there was none. Then nothing has changed, and the error says what is
/// needed.
fn is_refused<T>(store: &Store, work: impl FnOnce(&Store) -> Result<T>) -> bool {
    let before = state(store);
    match work(store) {
        Ok(_) => false,
        Err(Error::NoSpace { needed, .. }) => {
            assert!(needed > 0);
            assert!(state(store) == before);
            true
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// A pack that has come to `steps` in a way, on a disk that is full then.
fn fill(disk: &Path, elsewhere: &Path, way: Way, steps: u64) {
    let directory = disk.join("packs");
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("blobs.pack");
    let open = || Store::options().durability(Durability::PowerLoss).open(&path);
    let mut store = open().unwrap();
    for n in 0..steps {
        step(&store, n).unwrap();
    }
    match way {
        Way::Open => {}
        Way::Reopened => {
            store.close().unwrap();
            store = open().unwrap();
        }
        Way::Compacted => drop(store.compact().unwrap()),
        Way::Reflinked => {
            store.close().unwrap();
            let original = directory.join("original.pack");
            std::fs::rename(&path, &original).unwrap();
            // On btrfs a file that is written in place shares its blocks only with others of that kind.
            call("chattr", &["+C", directory.to_str().unwrap()]);
            let (from, to) = (original.to_str().unwrap(), path.to_str().unwrap());
            assert!(call("cp", &["--reflink=always", from, to]));
            store = open().unwrap();
        }
    }
    let mut all: Vec<Digest> = store.list().map(Result::unwrap).collect();

    let ballast = Ballast::new(disk);
    // Small blobs, until the rest of the log is full.
    let mut more = 0;
    while !is_refused(&store, |store| store.put(&content(1 << 40 | more, 3000))) {
        all.push(of(&content(1 << 40 | more, 3000)));
        more += 1;
        assert!(more < 10_000, "the disk is not full");
    }
    assert!(is_refused(&store, |store| store.put(&content(1 << 41, 400_000))));
    assert!(is_refused(&store, Store::compact));
    is_refused(&store, Store::checkpoint);
    // Nor is there room for a new pack.
    match Store::options().create_new(true).open(directory.join("new.pack")) {
        Err(Error::NoSpace { needed, .. }) => assert!(needed > 0),
        other => panic!("{other:?}"),
    }
    let output = elsewhere.join(format!("{way:?}-{steps}.pack"));
    store.compact_with(CompactOptions::new().output(&output)).unwrap();
    assert_eq!(Store::open(&output).unwrap().list().count(), all.len());
    std::fs::remove_file(&output).unwrap();
    for n in 0..RESERVED_DEREFERENCES {
        if n == RESERVED_DEREFERENCES / 3 {
            // Somebody finds the disk full, and opens the pack to give something up.
            drop(store);
            store = open().unwrap();
        }
        let digest = of(&single(n * 3));
        let removed = store.dereference(&digest).unwrap_or_else(|error| panic!("dereference {n}: {error:?}"));
        assert_eq!(removed.blobs(), 1);
        assert!(!store.contains(&digest).unwrap());
        all.retain(|other| *other != digest);
        for at in 0..3 {
            assert!(store.contains(&all[(n as usize * 31 + at * 7) % all.len()]).unwrap());
        }
    }
    drop(store);
    let reader = Store::options().read_only(true).open(&path).unwrap();
    assert_eq!(reader.list().count(), all.len());
    drop(reader);
    let store = open().unwrap();
    let Err(Error::NoSpace { needed, .. }) = store.compact() else { panic!("there is no room for a copy") };
    // What is asked for is enough, with a little for the file system. btrfs gives what ballast had to other data, but
    // for some time not to names.
    let compact = |store: &Store| match store.compact() {
        Ok(_) => {}
        Err(Error::NoSpace { .. }) if disk.ends_with("btrfs") => {}
        Err(error) => panic!("{error:?}"),
    };
    ballast.give(needed + (1 << 20));
    compact(&store);
    drop(store);

    drop(ballast);
    let store = open().unwrap();
    assert_eq!(store.verify().unwrap().damage, []);
    let mut found: Vec<Digest> = store.list().map(Result::unwrap).collect();
    all.sort_unstable();
    found.sort_unstable();
    assert!(all == found, "{} blobs instead of {}", found.len(), all.len());
    store.put(b"room again").unwrap();
    compact(&store);
}

/// The child's part.
fn fill_all(place: &Path) {
    let mut scenarios = 0;
    for (kind, make) in KINDS {
        if std::env::var("BLOBPACK_DISK").is_ok_and(|only| only != kind) {
            continue;
        }
        let mut ways = vec![Way::Open, Way::Reopened, Way::Compacted];
        if matches!(kind, "xfs" | "btrfs") {
            ways.push(Way::Reflinked);
        }
        for (number, way) in ways.into_iter().enumerate() {
            let some = [vec![STEPS], vec![5], vec![9], vec![1, 10]][number].clone();
            for steps in if is_full() { (1..=STEPS).collect() } else { some } {
                // A new one each time: what was full once may keep space for other uses for a while.
                let Some(disk) = Disk::new(place, kind, make) else {
                    common::skipped(&format!("a full {kind} can't be made or mounted here"));
                    continue;
                };
                println!("{kind}, {way:?}, after {steps} steps");
                fill(&disk.at, place, way, steps);
                scenarios += 1;
            }
        }
    }
    println!("{scenarios} full disks");
    let only = std::env::var("BLOBPACK_DISK").ok();
    let is_known = |only: &String| KINDS.iter().any(|(kind, _)| kind == only);
    assert!(only.as_ref().is_none_or(is_known), "BLOBPACK_DISK={} is no kind of disk here", only.unwrap());
}

/// Does `work` in a child with mounts of its own, and gives it a directory for them.
fn with_own_mounts(work: fn(&Path)) {
    if let Some(place) = std::env::var_os(PLACE) {
        return work(Path::new(&place));
    }
    if !rustix::process::geteuid().is_root() || !call("unshare", &["--mount", "true"]) {
        common::skipped("full disks need root and unshare");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let name = std::thread::current().name().unwrap().to_owned();
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(own).args(["--exact", &name, "--nocapture"]);
    let status = command.env(PLACE, place.path()).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn on_a_full_disk_an_error_says_what_is_needed_and_references_can_be_given_up() {
    with_own_mounts(fill_all);
}

/// The system tells each open file once of a write that the disk failed. Whoever syncs first, the commit that wrote it
/// must be told as well, and the checkpoint that would vouch for it.
#[test]
fn what_the_disk_failed_to_write_is_told_to_commits_and_to_checkpoints() {
    with_own_mounts(fail_writes);
}

/// A long file is closed by a thread of its own, but not where its space is needed.
#[test]
fn a_compaction_gives_the_space_back_before_it_returns_where_there_is_little() {
    with_own_mounts(|place| {
        let disk = Disk { at: place.join("disk"), image: place.join("none") };
        std::fs::create_dir(&disk.at).unwrap();
        if !call("mount", &["-t", "tmpfs", "-o", "size=160m", "tmpfs", disk.at.to_str().unwrap()]) {
            return common::skipped("a small disk needs tmpfs");
        }
        let store = Store::open(disk.at.join("blobs.pack")).unwrap();
        let large = store.put(&content(1, 96 << 20)).unwrap().digest;
        store.dereference(&large).unwrap();
        let compacted = store.compact().unwrap();
        let free = rustix::fs::statvfs(&disk.at).map(|found| found.f_bavail * found.f_frsize).unwrap();
        assert!(compacted.freed_bytes >= 96 << 20 && free >= 140 << 20, "{free} bytes are free after {compacted:?}");
    });
}

/// The file kept the length that a first attempt had found room for, and a second one what it had found below that: all
/// that the disk had left.
#[test]
fn what_does_not_fit_takes_nothing_from_others_however_often_it_is_tried() {
    with_own_mounts(|place| {
        for (kind, make) in KINDS {
            let Some(disk) = Disk::new(place, kind, make) else {
                common::skipped(&format!("a small {kind} can't be made or mounted here"));
                continue;
            };
            let store = Store::open(disk.at.join("blobs.pack")).unwrap();
            store.put(&content(1, 100_000)).unwrap();
            // Made before: btrfs, once it was full, has no room for names for some time.
            let other = File::create(disk.at.join("another's")).unwrap();
            let taken = || store.stats().unwrap().disk_bytes;
            let before = taken();
            for attempt in 1..=3 {
                let mut writer = store.writer(Algorithm::Sha256).unwrap().size_hint(1 << 30);
                assert!(writer.write_all(&content(2, 100_000)).is_err());
                assert!(matches!(writer.commit(), Err(Error::NoSpace { .. })));
                let more = taken().saturating_sub(before);
                assert!(more < 1 << 20, "{kind}: {more} bytes more after attempt {attempt}");
            }
            rustix::fs::syncfs(&other).unwrap();
            let written = other.write_all_at(&content(3, 10 << 20), 0);
            written.unwrap_or_else(|error| panic!("{kind}: {error}"));
            store.put(&content(4, 1 << 20)).unwrap();
            assert_eq!(store.verify().unwrap().damage, []);
        }
    });
}

/// Where blocks are smaller than pages, as on small disks of ext4, what was found for a put that did not fit left a file
/// that did not end with a page, and on a full disk nobody could open it to give something up.
#[test]
fn what_does_not_fit_on_a_disk_of_small_blocks_leaves_a_pack_that_can_be_opened_there() {
    with_own_mounts(|place| {
        let make = ["mkfs.ext4", "-q", "-F", "-b", "1024", "-m", "0"];
        let Some(disk) = Disk::new(place, "ext4", &make) else {
            return common::skipped("a disk of small blocks needs mkfs.ext4 and loop devices");
        };
        let path = disk.at.join("blobs.pack");
        let store = Store::open(&path).unwrap();
        let digests: Vec<Digest> = (0..8).map(|seed| store.put(&content(seed, 1000)).unwrap().digest).collect();
        store.close().unwrap();
        let rest = File::create(disk.at.join("rest")).unwrap();
        let mut rest_bytes = 0;
        let ballast = Ballast::new(&disk.at);
        for (blocks, digest) in (1..=7).zip(&digests) {
            ballast.give(blocks << 10);
            let refused = Store::open(&path).and_then(|store| store.put(&content(100, 3_000_000)));
            assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
            while rest.write_all_at(&[7; 1024], rest_bytes).is_ok() {
                rest_bytes += 1024;
                rustix::fs::syncfs(&rest).unwrap();
            }
            let length = std::fs::metadata(&path).unwrap().len();
            let opened = Store::open(&path);
            let store = opened.unwrap_or_else(|error| panic!("{blocks} blocks, {length} bytes: {error}"));
            assert_eq!(store.dereference(digest).unwrap().blobs(), 1);
            store.close().unwrap();
        }
        // A process that is killed, or an earlier version, may leave such an end.
        let length = std::fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(length + 1024).unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!(store.dereference(&digests[7]).unwrap().blobs(), 1);
        store.close().unwrap();
        drop(ballast);
        let store = Store::open(&path).unwrap();
        store.put(&content(100, 3_000_000)).unwrap();
        assert_eq!((store.list().count(), store.verify().unwrap().damage), (1, Vec::new()));
    });
}

/// The disk is a file on a disk that is full: what has a place in it can be written, and nothing else.
fn fail_writes(place: &Path) {
    const GOOD_BYTES: usize = 6 << 20;
    let Some(outer) = Disk::new(place, "tmpfs", &[]) else { return common::skipped("a disk that fails needs tmpfs") };
    let inner = Disk { at: place.join("inner"), image: outer.at.join("image") };
    std::fs::create_dir(&inner.at).unwrap();
    File::create(&inner.image).unwrap().set_len(16 << 20).unwrap();
    let (at, image) = (inner.at.to_str().unwrap(), inner.image.to_str().unwrap());
    let make = ["-q", "-F", "-b", "4096", "-m", "0", "-O", "^has_journal", image];
    if !call("mkfs.ext4", &make) || !call("mount", &["-o", "loop", image, at]) {
        common::skipped("a disk that fails needs mkfs.ext4 and loop devices");
        return;
    }
    let pack = blobpack::medium::Disk::create(&inner.at.join("pack"), 0o600).unwrap();
    pack.allocate(Offset(0), 8 << 20).unwrap();
    pack.map(8 << 20).unwrap();
    pack.write_at(Offset(0), &[&vec![1; GOOD_BYTES]], false).unwrap();
    rustix::fs::syncfs(File::open(&inner.at).unwrap()).unwrap();
    let _ballast = Ballast::new(&outer.at);
    for (number, good_bytes) in [(0, 4096), (1, GOOD_BYTES / 2)] {
        let good = vec![2; good_bytes];
        let [in_log, superblock] = [SPACE_AT, SUPERBLOCKS_AT[0]];
        pack.write_at(in_log, &[&good], true).unwrap();
        // Behind the others, so that the file system needs no more places for where they are.
        let bad = Offset((GOOD_BYTES + number * 4096) as u64);
        pack.write_at(bad, &[&[3; 4096]], false).unwrap();
        assert!(pack.sync_range(bad, 4096).is_err(), "the disk is full");
        pack.sync_range(in_log, 4096).expect("it was told");
        let told = pack.write_at(in_log, &[&good], true);
        assert!(told.is_err(), "a commit of {good_bytes} bytes is not told of what failed before it");
        pack.write_at(in_log, &[&good], true).expect("it was told");
        assert!(pack.write_at(superblock, &[&[4; 512]], true).is_err(), "a checkpoint is not told");
        let mut there = [0; 512];
        pack.read_at(superblock, &mut there).unwrap();
        assert_eq!(there, [1; 512], "the superblock is written all the same");
        pack.write_at(superblock, &[&there], true).expect("it was told");
    }
}
