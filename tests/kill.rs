//! Writers that are killed with SIGKILL, at random instants and at points with names, while readers of other processes
//! look on; the next one, which recovers, is killed too.
//!
//! `BLOBPACK_KILLS=10000` asks for more kills than the continuous build makes, `BLOBPACK_SEED` for those of another run.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use blobpack::medium::{Disk, Medium, Sim, SimDirectory};
use blobpack::store::How;
use blobpack::{Digest, Durability, Error, OpenOptions, Store};

mod common;
#[path = "kill/history.rs"]
mod history;
#[path = "kill/mortal.rs"]
mod mortal;
use common::{PACK, content, simulated, small};
use mortal::{Doom, End, KINDS, Kind, Mortal, PARTS, Part, Point};

const ROLE: &str = "BLOBPACK_TEST_ROLE";
const PATH: &str = "BLOBPACK_TEST_PATH";
const POINT: &str = "BLOBPACK_TEST_POINT";
/// Tells a child's answers from what the test harness prints.
const ANSWER: &str = "answer: ";
/// Only a hang takes so long.
const PATIENCE: Duration = Duration::from_mins(5);

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }

    fn point(&mut self, n_end: u64) -> Point {
        let kind = KINDS[self.below(KINDS.len() as u64) as usize];
        // Rare calls have low numbers.
        let n_end = if matches!(kind, Kind::Write | Kind::Store) { n_end } else { n_end.div_ceil(8) };
        Point { kind, n: self.below(n_end), part: PARTS[self.below(3) as usize] }
    }
}

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn answer(text: impl std::fmt::Display) {
    println!("{ANSWER}{text}");
}

fn read_only(path: &Path) -> blobpack::Result<Store> {
    Store::options().read_only(true).open(path)
}

/// Opens or creates the pack in a medium that may die.
fn open_mortal(path: &Path, options: &OpenOptions, doom: &Doom) -> Store<Mortal<Disk>> {
    loop {
        let found = match Disk::open(path, true) {
            Ok(disk) => options.open_in(Mortal::new(disk, doom), How::Open).unwrap(),
            Err(_) => options.create_in(Mortal::new(Disk::create(path, 0o644).unwrap(), doom)).unwrap(),
        };
        if let Some(store) = found {
            return store;
        }
    }
}

/// Goes on with the history, from where it finds it, until it is killed: by others or, with a point, at that.
fn writer(path: &Path) {
    let point = std::env::var(POINT).ok();
    let point = point.as_deref().and_then(|text| text.split_once(": ")).map(|(when, at)| (when, Point::parse(at)));
    let doom = Doom::default();
    let durability = match point {
        Some((_, Point { n, .. })) if n % 4 == 0 => Durability::PowerLoss,
        _ => Durability::Process,
    };
    answer("starting");
    if let Some(("opening", at)) = point {
        doom.set(at, End::Kill);
    }
    let store = open_mortal(path, &small().lock_timeout(PATIENCE).durability(durability), &doom);
    let mut n = history::check_at_rest(&store);
    answer(n);
    if let Some(("writing", at)) = point {
        doom.set(at, End::Kill);
    }
    loop {
        n += 1;
        history::step(&store, n).unwrap();
        answer(n);
    }
}

/// Looks, again and again, and answers with the step that it saw.
fn reader(path: &Path) {
    // What one handle has seen, no handle that is opened later may fall behind.
    let mut seen = 0;
    for handle in 0.. {
        let store = loop {
            match read_only(path) {
                Ok(store) => break store,
                Err(Error::NoPack { .. }) if seen == 0 => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("after step {seen}: {error}"),
            }
        };
        for round in 0..4 << (handle % 6) {
            seen = history::look(&store, seen, round);
            answer(seen);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_child_plays_its_role() {
    let path = std::env::var_os(PATH).unwrap_or_default();
    match std::env::var(ROLE).as_deref() {
        Ok("write") => writer(Path::new(&path)),
        Ok("read") => reader(Path::new(&path)),
        Ok(other) => panic!("{other:?}"),
        Err(_) => {
            // Not a child: one must speak up, or the other tests would say nothing.
            let directory = tempfile::tempdir().unwrap();
            let mut child = spawn("write", &directory.path().join(PACK), None);
            let answers: Vec<String> = answers(&mut child).take(3).collect();
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(answers, ["starting", "0", "1"]);
        }
    }
}

fn spawn(role: &str, path: &Path, point: Option<String>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_child_plays_its_role", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(PATH, path).stdin(Stdio::null()).stdout(Stdio::piped());
    match point {
        Some(point) => command.env(POINT, point),
        None => command.env_remove(POINT),
    };
    command.spawn().unwrap()
}

/// The answers of a child, one by one; what it was saying when it was killed is not one.
fn answers(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    std::iter::from_fn(move || {
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            if let Some((_, answer)) = line.split_once(ANSWER)
                && let Some(whole) = answer.strip_suffix('\n')
            {
                return Some(whole.to_owned());
            }
            line.clear();
        }
        None
    })
}

/// What a reader in another process has told so far.
#[derive(Default)]
struct Told {
    rounds: u64,
    seen: u64,
    ended: bool,
}

/// A reader in another process. Killed when it is dropped.
struct Onlooker {
    child: Child,
    told: Arc<(Mutex<Told>, Condvar)>,
}

impl Onlooker {
    fn new(path: &Path) -> Onlooker {
        let mut child = spawn("read", path, None);
        let answers = answers(&mut child);
        let told = Arc::new((Mutex::new(Told::default()), Condvar::new()));
        let tells = told.clone();
        std::thread::spawn(move || {
            for answer in answers {
                let mut told = tells.0.lock().unwrap();
                (told.rounds, told.seen) = (told.rounds + 1, answer.parse().unwrap());
                tells.1.notify_all();
            }
            tells.0.lock().unwrap().ended = true;
            tells.1.notify_all();
        });
        Onlooker { child, told }
    }

    /// Waits until it has looked once more; returns what it saw.
    fn look(&self) -> u64 {
        let told = self.told.0.lock().unwrap();
        let before = told.rounds;
        // The look that was under way may have begun before this call.
        let waits = |told: &mut Told| !told.ended && told.rounds < before + 2;
        let (told, timeout) = self.told.1.wait_timeout_while(told, PATIENCE, waits).unwrap();
        assert!(!told.ended, "a reader has failed: see above");
        assert!(!timeout.timed_out(), "a reader hangs");
        told.seen
    }
}

impl Drop for Onlooker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a writer and kills it, or lets it run to its point; returns the last step that it has acknowledged.
fn kill_a_writer(path: &Path, random: &mut Random, known: u64) -> u64 {
    let way = random.below(10);
    let point = match way {
        0..3 => Some(format!("opening: {}", random.point(60).to_text())),
        3..6 => Some(format!("writing: {}", random.point(400).to_text())),
        _ => None,
    };
    let patience = match way {
        // To the point, or until enough is enough.
        0..6 => 40,
        // In the middle of its opening.
        6..8 => 1,
        _ => 2 + random.below(20),
    };
    let mut child = spawn("write", path, point);
    let mut answers = answers(&mut child);
    let mut acknowledged = known;
    let mut note = |answer: &str| {
        if let Ok(n) = answer.parse::<u64>() {
            assert!(n == acknowledged || n == acknowledged + 1, "step {n} after step {acknowledged}");
            acknowledged = n;
        }
    };
    answers.by_ref().take(patience as usize).for_each(|answer| note(&answer));
    let pause = Duration::from_micros(random.below(3000));
    std::thread::sleep(pause);
    child.kill().unwrap();
    answers.for_each(|answer| note(&answer));
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "a writer has failed: see above");
    acknowledged
}

#[test]
fn whoever_is_killed_whenever_nothing_acknowledged_is_lost_and_no_reader_is_disturbed() {
    let kills = environment("BLOBPACK_KILLS").unwrap_or(200);
    let seed = environment("BLOBPACK_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("BLOBPACK_SEED={seed} BLOBPACK_KILLS={kills}");
    let mut random = Random(seed | 1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(PACK);
    let mut readers = [Onlooker::new(&path), Onlooker::new(&path)];
    let mut known = 0;
    for kill in 1..=kills {
        // What was acknowledged, and what its reader saw of the step that may have been under way.
        let acknowledged = kill_a_writer(&path, &mut random, known);
        if !path.exists() {
            assert_eq!(acknowledged, 0);
            continue;
        }
        let seen = readers.iter().map(Onlooker::look).max().unwrap().max(acknowledged);
        known = match random.below(4) {
            0 => {
                let store = small().lock_timeout(PATIENCE).open(&path).unwrap();
                let n = history::check_at_rest(&store);
                assert_eq!(store.verify().unwrap().damage, [], "kill {kill}");
                n
            }
            _ => history::check_at_rest(&read_only(&path).unwrap()),
        };
        assert!(known >= seen && known <= acknowledged + 1, "kill {kill}: {acknowledged}, {seen} seen, {known} found");
        if random.below(10) == 0 {
            let number = random.below(2) as usize;
            readers[number] = Onlooker::new(&path);
        }
    }
    println!("{kills} kills, {known} steps");
    assert!(known > kills / 2, "{known} steps in {kills} kills");
}

/// A pack after so many steps, and a writer that dies or fails when it is told to.
fn doomed(upto: u64) -> (SimDirectory, Doom, Store<Mortal<Sim>>) {
    let (directory, store) = simulated(64 << 20);
    (1..=upto).for_each(|n| history::step(&store, n).unwrap());
    drop(store);
    let doom = Doom::default();
    let medium = Mortal::new(directory.open(PACK, true).unwrap(), &doom);
    let store = small().open_in(medium, How::Open).unwrap().unwrap();
    (directory, doom, store)
}

/// A writer that died in the middle of step `n`, after `steps` of a kind of call, on the simulated medium.
fn dead_writer(upto: u64, point: Point) -> (SimDirectory, Store<Sim>, bool) {
    let (directory, doom, store) = doomed(upto);
    let beside = Store::options().read_only(true).open_in(directory.open(PACK, false).unwrap(), How::Open);
    doom.set(point, End::Fail);
    let done = history::step(&store, upto + 1).is_ok();
    drop(store);
    (directory, beside.unwrap().unwrap(), done && !doom.is_over())
}

#[test]
fn what_a_dead_writer_left_half_stored_is_neither_damage_nor_a_miss() {
    // A reader that had attached to the index of a writer met a record in two halves, for ever, and reported damage: it
    // did not look whether anybody was there to finish it.
    let mut stores = 0;
    for n in 0.. {
        let point = Point { kind: Kind::Store, n, part: Part::Half };
        let (_directory, beside, unscathed) = dead_writer(12, point);
        if unscathed {
            break;
        }
        stores += 1;
        let seen = history::look(&beside, 12, 0);
        assert!(seen <= 13);
        assert!(beside.list().all(|digest| digest.is_ok()));
        history::look(&beside, seen, 1);
        beside.usage().unwrap();
    }
    assert!(stores > 10, "{stores} stores");
}

#[test]
fn a_store_opened_beside_a_writer_that_is_still_recovering_does_not_go_back() {
    // The log held a commit that its dead writer had not put into the index. A reader without a writer saw it; the next
    // one, beside a writer that held the lock and had not come so far, was shown the dead writer's index.
    let (directory, _beside, _) = dead_writer(12, Point { kind: Kind::Store, n: 0, part: Part::Before });
    let open = || Store::options().read_only(true).open_in(directory.open(PACK, false).unwrap(), How::Open);
    assert_eq!(history::latest(&open().unwrap().unwrap()).unwrap(), 13);
    let next = directory.open(PACK, true).unwrap();
    assert!(next.try_lock().unwrap());
    let early = open();
    assert!(matches!(early, Err(Error::Busy { .. })), "{:?}", early.map(|store| history::latest(&store.unwrap())));
    drop(next);
    let next = small().open_in(directory.open(PACK, true).unwrap(), How::Open).unwrap().unwrap();
    assert_eq!(history::latest(&open().unwrap().unwrap()).unwrap(), 13);
    drop(next);
}

#[test]
fn a_reader_does_not_miss_what_its_store_has_found_in_a_dead_writers_log() {
    // The store had left the dead writer's index for one of the log. A reader that was there before stayed behind, as
    // nothing in the file had changed: it knew the name by the one and missed the blob in the other, until there was
    // another writer.
    let (_directory, beside, _) = dead_writer(12, Point { kind: Kind::Store, n: 0, part: Part::Before });
    let reader = beside.reader().unwrap();
    assert_eq!(history::latest(&beside).unwrap(), 12);
    beside.stats().unwrap();
    assert_eq!(history::latest(&beside).unwrap(), 13);
    let digest = reader.name(&history::LATEST.parse().unwrap()).unwrap();
    assert!(*reader.get(&digest).unwrap() == *history::image(13).manifest);
    assert!(reader.get_many(&[digest]).unwrap()[0].is_some());
}

/// A verification renews the view. The reader had the one before, and only the last one was told that it was left.
#[test]
fn a_reader_from_before_the_last_view_does_not_miss_what_its_store_has_found_either() {
    let (directory, doom, store) = doomed(12);
    let beside = Store::options().read_only(true).open_in(directory.open(PACK, false).unwrap(), How::Open);
    let beside = beside.unwrap().unwrap();
    let (reader, reader_beside) = (store.reader().unwrap(), beside.reader().unwrap());
    assert_eq!((store.verify().unwrap().damage, beside.verify().unwrap().damage), (vec![], vec![]));
    doom.set(Point { kind: Kind::Store, n: 0, part: Part::Before }, End::Fail);
    history::step(&store, 13).unwrap_err();
    let name = history::LATEST.parse().unwrap();
    assert!(reader.find(&store.name(&name).unwrap()).unwrap().is_some());
    drop((reader, store));
    beside.stats().unwrap();
    assert_eq!(history::latest(&beside).unwrap(), 13);
    assert!(reader_beside.find(&beside.name(&name).unwrap()).unwrap().is_some());
}

#[test]
fn a_reader_does_not_stay_in_an_index_that_a_failed_writer_has_left_half_changed() {
    let mut failures = 0;
    for n in 0.. {
        let (_directory, doom, store) = doomed(12);
        let reader = store.reader().unwrap();
        doom.set(Point { kind: Kind::Store, n, part: Part::Half }, End::Fail);
        let failed = history::step(&store, 13).is_err();
        let listed: Vec<Digest> = store.list().map(Result::unwrap).collect();
        for digest in &listed {
            assert!(*reader.get(digest).unwrap() == *store.get(digest).unwrap(), "after {n} stores");
        }
        if !failed {
            break;
        }
        failures += 1;
    }
    assert!(failures > 10, "{failures} failures");
}

#[test]
fn lists_of_links_go_on_after_a_compaction_in_another_process() {
    // Their elements were named by offsets in the file, which mean something else in the new one.
    let directory = tempfile::tempdir().unwrap();
    let store = small().durability(Durability::Process).open(directory.path()).unwrap();
    let beside = read_only(directory.path()).unwrap();
    let fillers: Vec<Digest> = (100..120).map(|n| store.put(&content(n, 500)).unwrap().digest).collect();
    let mut batch = store.batch();
    let parts: Vec<Digest> = (0..40).map(|n| batch.put(&content(n, 100 + n as usize)).unwrap()).collect();
    let hub = batch.put(b"hub").unwrap();
    for part in &parts[..20] {
        batch.link(part, &hub);
    }
    for part in &parts[20..] {
        batch.reference(&hub);
        batch.link(&hub, part);
    }
    batch.commit().unwrap();
    for (round, filler) in fillers.iter().enumerate() {
        let mut links = beside.links(&hub).unwrap();
        let mut referrers = beside.referrers(&hub).unwrap();
        let mut found: Vec<Digest> = links.by_ref().take(round).map(Result::unwrap).collect();
        let mut keepers: Vec<Digest> = referrers.by_ref().take(round).map(Result::unwrap).collect();
        // All that stands behind it moves.
        store.dereference(filler).unwrap();
        store.compact().unwrap();
        found.extend(links.map(Result::unwrap));
        keepers.extend(referrers.map(Result::unwrap));
        found.reverse();
        keepers.reverse();
        assert!(found == parts[..20] && keepers == parts[20..], "round {round}");
    }
}
