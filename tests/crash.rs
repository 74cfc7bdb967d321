//! Crashes: whatever moment a run stops at, and whatever of the unsynced bytes reaches the disk, the reopened store
//! holds exactly what was acknowledged, or that and the one batch in flight, whole.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests: a failure is a panic, and all sizes are small"
)]

#[path = "crash/beside.rs"]
mod beside;
#[path = "crash/check.rs"]
mod check;
#[path = "crash/compacting.rs"]
mod compacting;
#[path = "crash/decide.rs"]
mod decide;
#[path = "crash/faults.rs"]
mod faults;
#[path = "crash/history.rs"]
mod history;
#[path = "crash/holes.rs"]
mod holes;
#[path = "crash/medium.rs"]
mod medium;
#[path = "crash/model.rs"]
mod model;
#[path = "crash/opening.rs"]
mod opening;
#[path = "crash/power.rs"]
mod power;
#[path = "crash/recovering.rs"]
mod recovering;
#[path = "crash/scenarios.rs"]
mod scenarios;
#[path = "crash/sequences.rs"]
mod sequences;
#[path = "crash/violations.rs"]
mod violations;

use std::collections::BTreeSet;
use std::sync::Arc;

use blobpack::commit::Tuning;
use blobpack::format::{Offset, SUPERBLOCKS_AT};
use blobpack::medium::{Action, Sim, SimDirectory};
use blobpack::store::How;
use blobpack::{Digest, Durability, Error, Recovery, Store};

use history::{FILE_BYTES_MAX, History, NAME, create, kind, open, open_how, open_read_only, options};
use medium::{Failure, Rig};
use model::{Contents, Generator, Model, Op, Random, run};
use power::{MOODS, Power};

/// Runs `check` on all numbers, from two threads.
fn in_parallel(numbers: Vec<usize>, check: impl Fn(usize) + Sync) {
    let half = |odd: usize| {
        for number in numbers.iter().skip(odd).step_by(2) {
            check(*number);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| half(0));
        half(1);
    });
}

/// Opens what a crash left in every way, and goes on with it. Panics, with `context`, where that is not one of
/// `allowed`.
fn survives(directory: &SimDirectory, allowed: &[Model], contents: &Contents, context: &str) {
    let reader = open_read_only(directory).unwrap_or_else(|error| panic!("{context}: read-only: {error}"));
    let seen = Model::of(&reader, contents).unwrap_or_else(|error| panic!("{context}: read-only: {error}"));
    drop(reader);
    assert!(allowed.contains(&seen), "{context}: a reader sees\n{}", differences(&seen, allowed));
    let store = open(directory, &options()).unwrap_or_else(|error| panic!("{context}: {error}"));
    let found = Model::of(&store, contents).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(found == seen, "{context}: reader and writer disagree: {}", differences(&found, &[seen]));
    drop(store);
    let store = open(directory, &options()).unwrap_or_else(|error| panic!("{context}: second recovery: {error}"));
    assert_eq!(store.recovery(), Recovery::default(), "{context}: the first recovery left something to replay");
    goes_on(store, directory, found, contents, context);
}

/// The store takes writes, and has them after another opening.
fn goes_on(store: Store<Sim>, directory: &SimDirectory, found: Model, contents: &Contents, context: &str) {
    let (mut contents, mut model) = (contents.clone(), found);
    let bytes = Arc::new(b"written after a crash".to_vec());
    let digest = Digest::of(blobpack::Algorithm::Sha256, &bytes);
    contents.insert(digest, Arc::clone(&bytes));
    let mut ops = vec![Op::Put(bytes, digest)];
    ops.extend(
        model
            .digests()
            .into_iter()
            .take(3)
            .map(|from| Op::Batch(vec![Op::Reference(digest), Op::Link { to: digest, from }])),
    );
    ops.extend(model.digests().into_iter().take(6).map(Op::Dereference));
    for op in &ops {
        let expected = model.apply(op);
        let result = run(&store, op);
        assert_eq!(result.is_ok(), expected, "{context}: {} afterwards: {result:?}", kind(op));
    }
    drop(store);
    let store = open(directory, &options()).unwrap_or_else(|error| panic!("{context}: reopened: {error}"));
    let again = Model::of(&store, &contents).unwrap_or_else(|error| panic!("{context}: reopened: {error}"));
    assert!(again == model, "{context}: reopened: {}", differences(&again, &[model]));
}

fn differences(found: &Model, expected: &[Model]) -> String {
    let mut text = String::new();
    for expected in expected {
        let keys: BTreeSet<_> = found.blobs.keys().chain(expected.blobs.keys()).collect();
        for key in keys.into_iter().filter(|key| found.blobs.get(key) != expected.blobs.get(key)) {
            text += &format!("{key}: {:?} instead of {:?}\n", found.blobs.get(key), expected.blobs.get(key));
        }
        text += "--\n";
    }
    text
}

#[test]
fn every_prefix_of_a_run_reopens_with_what_was_acknowledged() {
    for seed in 1..=2 {
        // Each pack has a random secret, which decides what falls into one segment: now and then a run of this length
        // splits too few of them. Such a run is recorded anew.
        let enough = |history: &History| {
            let events = history.events;
            events.splits > 5 && events.copies > 10 && events.doublings > 2
        };
        let history = (0..20)
            .map(|_| History::record(seed, 70, &[40, 60], &options()))
            .find(enough)
            .expect("of twenty runs one splits, copies and doubles often enough");
        assert!(history.checkpoints > 0 && history.compactions == 2);
        eprintln!("seed {seed}: {} steps, {:?}", history.steps.len(), history.events);
        let prefixes = (history.created..=history.steps.len()).collect();
        in_parallel(prefixes, |upto| {
            let directory = SimDirectory::replay(&history.steps, upto, FILE_BYTES_MAX);
            if upto % 2 == 0 {
                // A kill: the live page of the dead writer counts.
                directory.set_boot(history.boot);
            }
            let context = format!("seed {seed}, after step {upto} {}", history.at(upto));
            survives(&directory, &history.allowed(upto), &history.contents, &context);
        });
    }
}

#[test]
fn a_creation_that_is_cut_off_leaves_nothing_or_an_empty_pack() {
    let history = History::record(1, 0, &[], &options());
    for upto in 1..=history.steps.len() {
        let directory = SimDirectory::replay(&history.steps, upto, FILE_BYTES_MAX);
        let there = directory.bytes(NAME).is_some();
        assert!(there || upto < history.created);
        if there {
            survives(&directory, &[Model::default()], &Contents::new(), &format!("after step {upto}"));
        }
    }
}

#[test]
fn a_reader_of_what_a_crash_left_changes_nothing() {
    let history = History::record(7, 60, &[40], &options());
    for upto in (history.created..=history.steps.len()).step_by(29) {
        let directory = SimDirectory::replay(&history.steps, upto, FILE_BYTES_MAX);
        directory.record(true);
        let before = directory.step_count();
        let reader = open_read_only(&directory).unwrap();
        let seen = Model::of(&reader, &history.contents).unwrap();
        assert!(history.allowed(upto).contains(&seen));
        drop(reader);
        let steps = directory.steps().split_off(before);
        // It may make durable what it shows.
        assert!(steps.iter().all(|step| step.action == Action::SyncAll), "after step {upto}: {steps:?}");
    }
}

#[test]
fn what_a_reader_without_a_writer_shows_no_power_cut_takes_back() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    directory.record(true);
    let store = create(&directory, &options().durability(Durability::Process)).unwrap();
    store.put(b"in the page cache only").unwrap();
    let steps = directory.steps();
    let killed = SimDirectory::replay(&steps, steps.len(), FILE_BYTES_MAX);
    killed.record(true);
    let first = killed.step_count();
    let mut power = Power::default();
    steps.iter().for_each(|step| power.make(step));
    let is_lost = |power: &Power, number: usize| {
        let cut = power.cut(&mut Random(1 + number as u64), MOODS[number % MOODS.len()]);
        open(&cut, &options()).unwrap().list().count() == 0
    };
    assert!((0..40).any(|number| is_lost(&power, number)), "it was synced before");
    assert_eq!(open_read_only(&killed).unwrap().list().count(), 1);
    killed.steps()[first..].iter().for_each(|step| power.make(step));
    assert!(!(0..40).any(|number| is_lost(&power, number)), "it was shown, and is lost");
}

/// Power cuts in and after each of the steps, `each` of them, of a recorded run.
fn power_cuts(history: &History, seed: u64, every: usize, each: usize) {
    let starts: Vec<usize> = (0..2).collect();
    in_parallel(starts, |half| {
        let mut power = Power::default();
        for (upto, step) in history.steps.iter().enumerate() {
            let cut = upto >= history.created && upto % every == half * every / 2;
            let mut random = Random(seed ^ (upto as u64) << 20);
            if cut {
                let mut inside = power.clone();
                inside.begin(step);
                for number in 0..each {
                    let mood = MOODS[(upto / every + number) % MOODS.len()];
                    let directory = inside.cut(&mut random, mood);
                    let context =
                        format!("seed {seed}, {mood:?} of cut {number} in step {upto} {}", history.at(upto + 1));
                    let mut allowed = history.allowed(upto);
                    allowed.extend(history.allowed(upto + 1));
                    survives(&directory, &allowed, &history.contents, &context);
                }
            }
            power.make(step);
        }
    });
}

#[test]
fn a_power_cut_keeps_what_was_acknowledged_whatever_unsynced_sectors_it_keeps() {
    for seed in 11..=12 {
        let history = History::record(seed, 100, &[70], &options());
        eprintln!("seed {seed}: {} steps, {:?}", history.steps.len(), history.events);
        power_cuts(&history, seed, 6, 1);
    }
}

#[test]
fn a_power_cut_keeps_what_was_acknowledged_beside_a_checkpoint() {
    for seed in 31..=32 {
        let history = beside::commits_beside_checkpoints(seed);
        assert!(history.events.copies > 0, "a commit changes what the checkpoint has frozen");
        eprintln!("seed {seed}: {} steps, {:?}", history.steps.len(), history.events);
        power_cuts(&history, seed, 5, 1);
    }
}

/// A process is killed in the middle of a step, another one opens what is in the page cache, writes on, and then the
/// power fails: what the first had written and not synced is still not durable, unless the second made it so.
#[test]
fn a_power_cut_after_a_kill_keeps_what_the_next_process_acknowledged() {
    let seed = 21;
    let history = History::record(seed, 70, &[50], &options());
    let kills: Vec<usize> = (history.created + 1..=history.steps.len()).step_by(31).collect();
    in_parallel(kills, |upto| {
        let (mut power, directory) = history.killed(upto);
        let first = directory.step_count();
        let mut allowed = history.allowed(upto - 1);
        allowed.extend(history.allowed(upto));
        let mut acknowledged = vec![(first, allowed.clone())];
        let store = open(&directory, &options()).unwrap();
        let mut generator = Generator::new(upto as u64);
        generator.contents = history.contents.clone();
        let mut model = Model::of(&store, &history.contents).unwrap();
        assert!(allowed.contains(&model));
        for number in 0..10 {
            let start = directory.step_count();
            let op = if number % 3 == 1 { Op::Checkpoint } else { generator.change(&model) };
            let before = model.clone();
            let expected = model.apply(&op);
            assert_eq!(run(&store, &op).is_ok(), expected);
            // What the second process found is not promised before its first commit.
            let before = if number == 0 { allowed.clone() } else { vec![before] };
            acknowledged.push((start, before.into_iter().chain([model.clone()]).collect()));
            acknowledged.push((
                directory.step_count(),
                if number == 0 && !expected { allowed.clone() } else { vec![model.clone()] },
            ));
        }
        let steps = directory.steps();
        let mut random = Random(seed ^ upto as u64);
        for (at, step) in steps.iter().enumerate().skip(first) {
            if random.below(9) == 0 {
                let mut inside = power.clone();
                inside.begin(step);
                let mood = MOODS[random.below(MOODS.len())];
                let allowed = &acknowledged.iter().rfind(|(start, _)| *start <= at).unwrap().1;
                let context = format!("seed {seed}, killed in step {upto} {}, {mood:?} in step {at}", history.at(upto));
                survives(&inside.cut(&mut random, mood), allowed, &generator.contents, &context);
            }
            power.make(step);
        }
    });
}

/// Recovery itself is cut off, after each of its steps and with any of its unsynced sectors.
#[test]
fn a_crash_while_recovering_loses_nothing() {
    let seed = 31;
    let history = History::record(seed, 60, &[], &options());
    let crashes: Vec<usize> = (history.created..=history.steps.len()).step_by(41).collect();
    in_parallel(crashes, |upto| {
        let directory = SimDirectory::replay(&history.steps, upto, FILE_BYTES_MAX);
        directory.record(true);
        let first = directory.step_count();
        drop(open(&directory, &options()).unwrap());
        let steps = directory.steps();
        let mut power = Power::default();
        steps[..first].iter().for_each(|step| power.make(step));
        let mut random = Random(seed ^ upto as u64);
        for at in first..steps.len() {
            let context = format!("seed {seed}, after step {upto} {}, recovery's step {at}", history.at(upto));
            if (at - first).is_multiple_of(3) {
                let again = SimDirectory::replay(&steps, at, FILE_BYTES_MAX);
                survives(&again, &history.allowed(upto), &history.contents, &context);
            }
            if (at - first) % 3 == 1 {
                let mut inside = power.clone();
                inside.begin(&steps[at]);
                let mood = MOODS[at % MOODS.len()];
                let context = format!("{context}, {mood:?}");
                survives(&inside.cut(&mut random, mood), &history.allowed(upto), &history.contents, &context);
            }
            power.make(&steps[at]);
        }
    });
}

#[test]
fn a_full_disk_refuses_writes_with_nothing_changed_and_takes_dereferences() {
    for spare in (0..60).step_by(4) {
        let directory = SimDirectory::new(FILE_BYTES_MAX);
        let store = create(&directory, &options()).unwrap();
        let mut generator = Generator::new(spare);
        let mut model = Model::default();
        for _ in 0..90 {
            let op = generator.put();
            assert!(model.apply(&op));
            run(&store, &op).unwrap();
        }
        let single: Vec<Digest> = model.digests().into_iter().filter(|digest| model.blobs[digest].held == 1).collect();
        directory.set_capacity(directory.used() + spare * 4096);
        let mut refused = 0;
        for number in 0..400 {
            let op = if number % 40 == 39 { generator.stream() } else { generator.put() };
            match run(&store, &op) {
                Ok(()) => assert!(model.apply(&op)),
                Err(Error::NoSpace { needed, .. }) => {
                    assert!(needed > 0);
                    refused += 1;
                }
                Err(error) => panic!("{spare} pages, operation {number}, {}: {error}", kind(&op)),
            }
            if refused == 4 {
                break;
            }
        }
        assert_eq!(refused, 4, "{spare} pages do not last");
        assert_eq!(Model::of(&store, &generator.contents).unwrap(), model, "{spare} pages");
        for (number, digest) in single.iter().take(blobpack::commit::RESERVED_DEREFERENCES as usize).enumerate() {
            let op = Op::Dereference(*digest);
            assert!(model.apply(&op));
            run(&store, &op).unwrap_or_else(|error| panic!("{spare} pages, dereference {number}: {error}"));
        }
        assert_eq!(Model::of(&store, &generator.contents).unwrap(), model, "{spare} pages");
        store.close().unwrap();
        let store = open(&directory, &options()).unwrap();
        assert_eq!(Model::of(&store, &generator.contents).unwrap(), model, "{spare} pages");
    }
}

/// A repair kept what came before the damage, and every later open found the commits that it had cut off and refused
/// the pack again.
#[test]
fn a_repaired_log_stays_repaired() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    directory.record(true);
    let store = create(&directory, &options()).unwrap();
    let mut ends = Vec::new();
    for byte in 0..6u8 {
        store.put(&[byte; 100]).unwrap();
        ends.push(directory.step_count());
    }
    let steps = directory.steps();
    let mut bytes = SimDirectory::replay(&steps, ends[5], FILE_BYTES_MAX).bytes(NAME).unwrap();
    let write = steps[ends[1]..ends[2]].iter().find_map(|step| match &step.action {
        Action::Write { offset, bytes, .. } => Some((offset.0 as usize, bytes.len())),
        _ => None,
    });
    let (at, length) = write.unwrap();
    bytes[at + length - 70] ^= 1;
    let damaged = SimDirectory::new(FILE_BYTES_MAX);
    damaged.insert(NAME, bytes);
    assert!(open(&damaged, &options()).unwrap_err().is_damage());
    assert!(open_read_only(&damaged).unwrap_err().is_damage());
    let store = open_how(&damaged, &options(), How::Repair).unwrap();
    assert_eq!(store.list().count(), 2);
    assert!(store.recovery().lost_commits > 0);
    drop(store);
    for round in 0..3u8 {
        assert_eq!(open_read_only(&damaged).unwrap().list().count(), 2 + usize::from(round));
        let store = open(&damaged, &options()).unwrap();
        assert_eq!(store.list().count(), 2 + usize::from(round));
        store.put(&[100 + round; 200]).unwrap();
    }
}

/// A superblock that counts on more than the file has is not believed.
#[test]
fn a_file_that_ends_within_a_page_is_made_whole_before_it_is_changed() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    store.put(b"a blob").unwrap();
    let digest = Digest::of(blobpack::Algorithm::Sha256, b"a blob");
    store.close().unwrap();
    let mut bytes = directory.bytes(NAME).unwrap();
    bytes.extend([7; 100]);
    let longer = SimDirectory::new(FILE_BYTES_MAX);
    longer.insert(NAME, bytes);
    let store = open(&longer, &options()).unwrap();
    // It needs no space.
    store.reference(&digest).unwrap();
    store.close().unwrap();
    assert!(longer.bytes(NAME).unwrap().len().is_multiple_of(4096));
    let store = open(&longer, &options()).unwrap();
    assert_eq!((store.recovery(), store.descriptor(&digest).unwrap().ref_count), (Recovery::default(), 2));
}

/// Its log says that it builds on the first superblock, and so it has to be a first one.
#[test]
fn a_compacted_pack_has_its_own_first_superblocks() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    for byte in 0..3 {
        store.put(&[byte; 10]).unwrap();
        store.checkpoint().unwrap();
    }
    let sequences = || {
        let bytes = directory.bytes(NAME).unwrap();
        SUPERBLOCKS_AT.map(|at| u64::from_le_bytes(bytes[at.0 as usize + 192..][..8].try_into().unwrap()))
    };
    assert_eq!(sequences(), [5, 4]);
    store.compact().unwrap();
    assert_eq!(sequences(), [1, 2]);
    store.put(b"goes on").unwrap();
    store.close().unwrap();
    assert_eq!(sequences(), [3, 2]);
    assert_eq!(open(&directory, &options()).unwrap().list().count(), 4);
}

/// All chunks of the log between its first commits and its last chunk are gone. What is left there says that more was
/// acknowledged, wherever in the file it stands.
#[test]
fn a_late_chunk_is_evidence_though_those_before_it_are_gone() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    store.put(b"the first").unwrap();
    directory.record(true);
    for byte in 0..30u8 {
        store.put(&[byte; 10_000]).unwrap();
    }
    let steps = directory.steps();
    let writes = steps.iter().filter_map(|step| match &step.action {
        Action::Write { offset, bytes, durable: true } if offset.0 > 256 << 10 => Some((offset.0, bytes.len())),
        _ => None,
    });
    let writes: Vec<_> = writes.collect();
    let last = writes[writes.len() - 1].0 & !0xffff;
    let mut bytes = directory.bytes(NAME).unwrap();
    let gone: Vec<_> = writes.iter().filter(|(at, _)| *at < last).collect();
    for (at, length) in &gone {
        bytes[*at as usize..][..*length].fill(0);
    }
    assert!(gone.len() > 20 && gone.len() < writes.len());
    let damaged = SimDirectory::new(FILE_BYTES_MAX);
    damaged.insert(NAME, bytes);
    let error = open(&damaged, &options()).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("later commits are there"), "{error}");
    let store = open_how(&damaged, &options(), How::Repair).unwrap();
    assert_eq!(store.list().count(), 1);
    assert!(store.recovery().lost_commits > 0);
}

/// The commits since are replayed from the older one on.
#[test]
fn a_lost_superblock_is_told() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    store.put(b"before").unwrap();
    store.checkpoint().unwrap();
    store.put(b"after").unwrap();
    let mut bytes = directory.bytes(NAME).unwrap();
    let sequence = |at: &Offset| u64::from_le_bytes(bytes[at.0 as usize + 192..][..8].try_into().unwrap());
    let newest = SUPERBLOCKS_AT.iter().max_by_key(|at| sequence(at)).unwrap().0 as usize;
    bytes[newest..newest + 512].fill(0);
    let damaged = SimDirectory::new(FILE_BYTES_MAX);
    damaged.insert(NAME, bytes);
    let store = open(&damaged, &options()).unwrap();
    assert!(store.recovery().lost_superblock && store.recovery().replayed_commits == 2);
    assert_eq!(store.list().count(), 2);
}

/// No later commit vouches for the newest one. While the machine runs the live page does; after a power cut it may be
/// torn.
#[test]
fn a_damaged_newest_commit_is_damage_only_while_the_machine_runs() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    store.put(b"the first").unwrap();
    store.put(b"the newest").unwrap();
    let mut bytes = directory.bytes(NAME).unwrap();
    let payload = bytes.windows(10).position(|window| window == b"the newest").unwrap();
    bytes[payload] ^= 1;
    let open_after = |boot: Option<u64>| {
        let damaged = SimDirectory::new(FILE_BYTES_MAX);
        damaged.insert(NAME, bytes.clone());
        if let Some(boot) = boot {
            damaged.set_boot(boot);
        }
        open(&damaged, &options())
    };
    let error = open_after(Some(directory.boot())).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("more was acknowledged"), "{error}");
    let store = open_after(None).unwrap();
    assert_eq!((store.list().count(), store.recovery().dropped_commits), (1, 1));
}

/// The sequences of the superblocks that were written since recording began.
fn superblocks_written(directory: &SimDirectory) -> Vec<u64> {
    let sequence = |bytes: &[u8]| u64::from_le_bytes(bytes[192..200].try_into().unwrap());
    let steps = directory.steps();
    let written = steps.iter().filter_map(|step| match &step.action {
        Action::Write { offset, bytes, .. } if SUPERBLOCKS_AT.contains(offset) => Some(sequence(bytes)),
        _ => None,
    });
    written.collect()
}

/// How many puts of 600 bytes it takes until a checkpoint is made, up to 99; they are numbered from `first` on.
fn puts_until_checkpoint(store: &Store<Sim>, directory: &SimDirectory, first: u32) -> u32 {
    directory.record(true);
    for number in 1..99 {
        store.put(&[(first + number).to_le_bytes(); 150].concat()).unwrap();
        if !superblocks_written(directory).is_empty() {
            return number;
        }
    }
    99
}

#[test]
fn checkpoints_come_after_so_many_changes_and_without_syncs_after_so_many_bytes() {
    let with = |durability, checkpoint_images, checkpoint_bytes| {
        let tuning = Tuning { checkpoint_images, checkpoint_bytes, removal_images: 6, ..Tuning::default() };
        let directory = SimDirectory::new(FILE_BYTES_MAX);
        let store = create(&directory, &options().durability(durability).tuning(tuning)).unwrap();
        (directory, store)
    };
    let (directory, store) = with(Durability::PowerLoss, 3, 1 << 30);
    assert_eq!([0, 100].map(|first| puts_until_checkpoint(&store, &directory, first)), [3, 3]);
    // A large pack makes one after a quarter of its records: thirteen of 53.
    let mut batch = store.batch();
    for byte in 0..(40 - 6) {
        batch.put(&[byte; 10]).unwrap();
    }
    batch.commit().unwrap();
    assert_eq!(store.stats().unwrap().blobs, 40);
    assert_eq!(puts_until_checkpoint(&store, &directory, 200), 13);

    // A put of 600 bytes takes 1024 of the log.
    let (directory, store) = with(Durability::Process, 1 << 30, 3 * 1024);
    assert_eq!([0, 100].map(|first| puts_until_checkpoint(&store, &directory, first)), [3, 3]);
    let (directory, store) = with(Durability::PowerLoss, 1 << 30, 3 * 1024);
    assert_eq!(puts_until_checkpoint(&store, &directory, 0), 99, "what is synced need not be synced again");

    // A removal in parts counts with all of them.
    let freed = |durability, images, bytes| {
        let (directory, store) = with(durability, images, bytes);
        let mut batch = store.batch();
        let root = batch.put(b"root").unwrap();
        for byte in 0..20 {
            let leaf = batch.put(&[byte; 10]).unwrap();
            batch.link(&leaf, &root);
        }
        batch.commit().unwrap();
        store.checkpoint().unwrap();
        directory.record(true);
        assert_eq!(store.dereference(&root).unwrap().blobs(), 21);
        superblocks_written(&directory).len()
    };
    assert_eq!(freed(Durability::PowerLoss, 41, 1 << 30), 1, "41 records are gone");
    assert_eq!(freed(Durability::PowerLoss, 1000, 1), 0);
    assert_eq!(freed(Durability::Process, 1000, 41 * 64), 1);
}

/// What a repair or a full disk has left behind the log's end is told from later commits by its epoch.
#[test]
fn each_recovery_each_rebuild_and_each_compaction_begins_an_epoch() {
    let newest = |directory: &SimDirectory| {
        let bytes = directory.bytes(NAME).unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let both = [64 << 10, 128 << 10].map(|at| (word(at + 192), word(at + 200)));
        both.into_iter().max().unwrap().1
    };
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    store.put(b"a blob").unwrap();
    let killed = SimDirectory::new(FILE_BYTES_MAX);
    killed.insert(NAME, directory.bytes(NAME).unwrap());
    let mut epochs = vec![newest(&killed)];
    killed.record(true);
    let store = open(&killed, &options()).unwrap();
    assert!(store.recovery().replayed_commits == 1 && !store.recovery().lost_superblock);
    store.close().unwrap();
    epochs.push(newest(&killed));
    assert_eq!(superblocks_written(&killed), [3], "a creation writes two");
    for how in [How::Rebuild, How::Rebuild] {
        let store = open_how(&killed, &options(), how).unwrap();
        epochs.push(newest(&killed));
        assert_eq!(store.list().count(), 1);
        store.close().unwrap();
    }
    let store = open(&killed, &options()).unwrap();
    store.compact().unwrap();
    epochs.push(newest(&killed));
    assert!(epochs.is_sorted_by(|before, after| before < after), "{epochs:?}");
}

/// Commits since the checkpoint were counted twice.
#[test]
fn a_rebuild_tells_how_many_commits_it_has_replayed() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    store.put(b"before").unwrap();
    store.checkpoint().unwrap();
    store.put(b"after").unwrap();
    let killed = SimDirectory::new(FILE_BYTES_MAX);
    killed.insert(NAME, directory.bytes(NAME).unwrap());
    let found = open_how(&killed, &options(), How::Rebuild).unwrap().recovery();
    assert_eq!((found.replayed_commits, found.replayed_images), (2, 2));
}

/// A reader recovered for itself, and then went on with what it had though another writer had come, gone and come
/// again.
#[test]
fn a_reader_without_a_writer_follows_the_next_ones() {
    let history = History::record(51, 40, &[], &options());
    let directory = SimDirectory::replay(&history.steps, history.steps.len(), FILE_BYTES_MAX);
    let reader = open_read_only(&directory).unwrap();
    let mut generator = Generator::new(52);
    generator.contents = history.contents;
    let mut model = Model::of(&reader, &generator.contents).unwrap();
    for _ in 0..3 {
        let store = open(&directory, &options()).unwrap();
        for number in 0..12 {
            let op = if number % 5 == 4 { Op::Checkpoint } else { generator.change(&model) };
            if model.apply(&op) {
                run(&store, &op).unwrap();
            }
            assert_eq!(Model::of(&reader, &generator.contents).unwrap(), model);
        }
        drop(store);
        assert_eq!(Model::of(&reader, &generator.contents).unwrap(), model);
    }
}

/// A power cut may keep a blob of the newest commit and lose the frame before it. The next recovery reported that blob,
/// and left the log where it was, so that each later one reported it again.
#[test]
fn a_blob_behind_a_tail_that_is_blank_is_reported_once() {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let store = create(&directory, &options()).unwrap();
    store.put(b"the first").unwrap();
    store.close().unwrap();
    let mut bytes = directory.bytes(NAME).unwrap();
    let store = open(&directory, &options()).unwrap();
    let mut batch = store.batch();
    batch.put(&[1; 600]).unwrap();
    let kept = batch.put(&[2; 600]).unwrap();
    batch.commit().unwrap();
    let after = directory.bytes(NAME).unwrap();
    let payload = after.windows(600).position(|window| window == [2; 600]).unwrap();
    bytes[payload - 64..payload + 600].copy_from_slice(&after[payload - 64..payload + 600]);
    let cut = SimDirectory::new(FILE_BYTES_MAX);
    cut.insert(NAME, bytes);
    cut.record(true);
    assert_eq!(open(&cut, &options()).unwrap().recovery().dropped_blobs, [kept]);
    // The log goes on elsewhere, and no jump leads there: both superblocks do.
    assert_eq!(superblocks_written(&cut).len(), 2);
    assert_eq!(open(&cut, &options()).unwrap().recovery(), Recovery::default());
}

/// It has the index to itself, and so has to say that it failed.
#[test]
fn a_failing_call_in_a_removal_in_parts_is_told_and_loses_nothing() {
    let tuning = Tuning { slots: 4, chunk_bytes: 64 << 10, removal_images: 6, ..Tuning::default() };
    for failure in [Failure::Io, Failure::IoWritten, Failure::IoReverted, Failure::Full] {
        let struck = (0..).take_while(|&n| {
            let rig = Rig::empty(n);
            rig.set_power(Power::default());
            let store = rig.create(&options().tuning(tuning)).unwrap();
            let (mut batch, mut contents) = (store.batch(), Contents::new());
            let mut put = |batch: &mut blobpack::Batch<_>, bytes: &[u8]| {
                let digest = batch.put(bytes).unwrap();
                contents.insert(digest, Arc::new(bytes.to_vec()));
                digest
            };
            let root = put(&mut batch, b"root");
            for byte in 0..20 {
                let leaf = put(&mut batch, &[byte; 10]);
                batch.link(&leaf, &root);
            }
            put(&mut batch, b"another");
            batch.commit().unwrap();
            let mut allowed = vec![Model::of(&store, &contents).unwrap()];
            let mut after = allowed[0].clone();
            assert!(after.apply(&Op::Dereference(root)));
            allowed.push(after);
            rig.fail(n, failure);
            let result = store.dereference(&root);
            let struck = !rig.clear_failure();
            let context = format!("call {n}, {failure:?}: {result:?}");
            let seen = Model::of(&store, &contents).unwrap_or_else(|error| panic!("{context}: {error}"));
            if result.is_ok() {
                assert!(seen == allowed[1], "{context}");
                allowed.remove(0);
            } else {
                assert!(struck && allowed.contains(&seen), "{context}");
                // Where nothing was begun the store goes on, else it writes nothing more.
                let goes_on = matches!(result, Err(Error::NoSpace { .. }));
                assert_eq!(goes_on, !matches!(store.checkpoint(), Err(Error::Poisoned { .. })), "{context}");
            }
            let mood = MOODS[n as usize % MOODS.len()];
            survives(&rig.power().cut(&mut Random(n), mood), &allowed, &contents, &context);
            struck
        });
        assert!(struck.count() > 20, "{failure:?}");
    }
}
