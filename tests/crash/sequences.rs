//! Every sequence of up to three operations, cut off by a power cut at each step of its last one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blobpack::commit::Tuning;
use blobpack::index::table::Events;
use blobpack::medium::{Action, Step};
use blobpack::{Algorithm, Digest, Durability, Name, OpenOptions};

use super::check::{caught, goes_on, is_readable, recovers};
use super::medium::Rig;
use super::model::{Contents, Model, Op, Random, run};
use super::power::{Image, Power, described};

/// What one operation of a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    PutAgain,
    Stream,
    Link,
    Unlink,
    Reference,
    Dereference,
    Batch,
    Checkpoint,
    Grow,
    Compact,
    SetName,
    RemoveName,
}

pub const KINDS: [Kind; 13] = [
    Kind::Put,
    Kind::PutAgain,
    Kind::Stream,
    Kind::Link,
    Kind::Unlink,
    Kind::Reference,
    Kind::Dereference,
    Kind::Batch,
    Kind::Checkpoint,
    Kind::Grow,
    Kind::Compact,
    Kind::SetName,
    Kind::RemoveName,
];

/// Bytes that no other number and length have, and their digest.
pub fn blob(number: u64, length: usize, contents: &mut Contents) -> Op {
    let mut random = Random(number << 32 | length as u64);
    let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
    let digest = Digest::of(if number % 5 == 4 { Algorithm::Sha512 } else { Algorithm::Sha256 }, &bytes);
    let bytes = Arc::clone(contents.entry(digest).or_insert_with(|| Arc::new(bytes)));
    Op::Put(bytes, digest)
}

fn digest_of(op: &Op) -> Digest {
    match op {
        Op::Put(_, digest) | Op::Stream(_, digest) => *digest,
        _ => unreachable!("only blobs have digests"),
    }
}

impl Kind {
    /// The operation, as the one at `place` of a sequence; `None` where the store holds nothing that it could be about.
    pub fn op(self, place: usize, model: &Model, contents: &mut Contents) -> Option<Op> {
        let held = |digest: &&Digest| model.blobs[*digest].held > 0;
        let number = place as u64;
        let op = match self {
            Kind::Put => blob(100 + number, [90, 1500, 600][place % 3], contents),
            Kind::PutAgain => {
                let digest = *model.blobs.keys().find(held)?;
                Op::Put(contents.get(&digest)?.clone(), digest)
            }
            Kind::Stream => match blob(200 + number, (64 << 10) + 700 * place, contents) {
                Op::Put(bytes, digest) => Op::Stream(bytes, digest),
                _ => unreachable!("it is a put"),
            },
            Kind::Link => {
                let pairs = model.blobs.keys().flat_map(|from| model.blobs.keys().map(move |to| (*to, *from)));
                let possible = |(to, from): &(Digest, Digest)| {
                    let op = Op::Link { to: *to, from: *from };
                    !model.blobs[from].out.contains(to) && model.clone().apply(&op)
                };
                let (to, from) = pairs.into_iter().find(possible)?;
                Op::Link { to, from }
            }
            Kind::Unlink => {
                let (from, entry) = model.blobs.iter().find(|(_, entry)| !entry.out.is_empty())?;
                Op::Unlink { to: *entry.out.first()?, from: *from }
            }
            Kind::Reference => Op::Reference(*model.blobs.keys().nth(place)?),
            Kind::Dereference => {
                // One that takes others with it, as long as there is one.
                let root = |digest: &&Digest| held(digest) && !model.blobs[*digest].out.is_empty();
                Op::Dereference(*model.blobs.keys().find(root).or_else(|| model.blobs.keys().find(held))?)
            }
            Kind::Batch => {
                let put = blob(300 + number, 200, contents);
                let new = digest_of(&put);
                let from = *model.blobs.keys().next()?;
                let gone = *model.blobs.keys().filter(held).find(|digest| **digest != from)?;
                let link = Op::Link { to: new, from };
                Op::Batch(vec![put, Op::Reference(new), link, Op::Dereference(gone)])
            }
            Kind::Checkpoint => Op::Checkpoint,
            Kind::Grow => Op::Batch((0..14).map(|n| blob(400 + 20 * number + n, 20, contents)).collect()),
            Kind::Compact => Op::Compact,
            Kind::SetName => {
                let name = if place == 1 { model.names.keys().next()?.clone() } else { name(place) };
                Op::SetName(name, *model.blobs.keys().rfind(held)?)
            }
            Kind::RemoveName => Op::RemoveName(model.names.keys().next()?.clone()),
        };
        model.clone().apply(&op).then_some(op)
    }
}

fn name(number: usize) -> Name {
    Name::new(format!("name {number}")).expect("it is short and printable")
}

/// Sizes that make a few blobs fill segments, chunks and the directory.
pub fn options(durability: Durability) -> OpenOptions {
    OpenOptions::new().durability(durability).tuning(TUNING)
}

const TUNING: Tuning = Tuning {
    slots: 4,
    chunk_bytes: 64 << 10,
    checkpoint_images: 1000,
    checkpoint_bytes: 1 << 20,
    reserve_segments: 2,
    removal_images: 1 << 16,
};

/// A small store, cleanly closed, in which every operation has something to do.
pub struct Prepared {
    pub disk: Image,
    pub model: Model,
    pub contents: Contents,
}

impl Prepared {
    pub fn new(seed: u64) -> Prepared {
        let rig = Rig::empty(seed);
        let store = rig.create(&options(Durability::PowerLoss)).unwrap();
        let (mut model, mut contents) = (Model::default(), Contents::new());
        let blobs: Vec<Op> = (0..9).map(|n| blob(n, 30 + 130 * n as usize, &mut contents)).collect();
        let digests: Vec<Digest> = blobs.iter().map(digest_of).collect();
        let mut ops = vec![Op::Batch(blobs)];
        // Two chains of three, that go with the first blob of each; the rest are held by nobody but the caller.
        for (from, to) in [(0, 1), (1, 2), (3, 4), (4, 5)] {
            ops.push(Op::Link { to: digests[to], from: digests[from] });
        }
        ops.push(Op::Checkpoint);
        ops.push(Op::Batch(vec![Op::Reference(digests[6]), Op::SetName(name(9), digests[6])]));
        for op in &ops {
            assert!(model.apply(op));
            run(&store, op).unwrap();
        }
        store.close().unwrap();
        let mut power = Power::default();
        rig.take_steps().iter().for_each(|step| power.make(step));
        Prepared { disk: power.now(), model, contents }
    }
}

/// How many images there were, and which states the distinct ones held.
#[derive(Default)]
pub struct Seen {
    images: AtomicU64,
    kills: AtomicU64,
    complete: AtomicU64,
    cuts: AtomicU64,
    /// The most durable writes of a sequence's last operation.
    commits_most: AtomicU64,
    shards: [Mutex<HashMap<u64, u64>>; 16],
    events: Mutex<Events>,
}

impl Seen {
    fn distinct(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().unwrap().len() as u64).sum()
    }
}

fn hash_of(model: &Model) -> u64 {
    let mut hasher = DefaultHasher::new();
    model.hash(&mut hasher);
    hasher.finish()
}

/// One sequence in one pass.
struct Sequence<'a> {
    kinds: &'a [Kind],
    prepared: &'a Prepared,
    durability: Durability,
    /// A removal of so many records is done in parts.
    removal_images: usize,
    seed: u64,
    /// Images drawn for one cut where not all are had.
    budget: u64,
    seen: &'a Seen,
}

impl Sequence<'_> {
    /// Runs it, and checks the images of the cuts in the last operation. `false`: it makes no sense.
    fn check(&self) -> Result<bool, String> {
        let Prepared { disk, model, contents } = self.prepared;
        let (mut model, mut contents) = (model.clone(), contents.clone());
        let tuning = Tuning { removal_images: self.removal_images, ..TUNING };
        let options = options(self.durability).tuning(tuning);
        let directory = disk.directory();
        let boot = directory.boot();
        let rig = Rig::new(directory, 77);
        let store = rig.open(&options).map_err(|error| format!("open: {error}"))?;
        let (mut states, mut start, mut floor) = (vec![model.clone()], rig.step_count(), 0);
        for (place, kind) in self.kinds.iter().enumerate() {
            let Some(op) = kind.op(place, &model, &mut contents) else { return Ok(false) };
            start = rig.step_count();
            model.apply(&op);
            run(&store, &op).map_err(|error| format!("{kind:?}: {error}"))?;
            if place + 1 < self.kinds.len() && matches!(op, Op::Checkpoint | Op::Compact) {
                floor = place + 1;
            }
            states.push(model.clone());
        }
        let events = store.index_events().expect("it is a writer");
        let steps = rig.take_steps();
        drop(store);
        {
            let mut sum = self.seen.events.lock().unwrap();
            sum.copies += events.copies;
            sum.splits += events.splits;
            sum.doublings += events.doublings;
        }
        let commits = steps[start..].iter().filter(|step| matches!(step.action, Action::Write { durable: true, .. }));
        self.seen.commits_most.fetch_max(commits.count() as u64, Ordering::Relaxed);
        let last = self.kinds.len();
        let promised = if self.durability == Durability::Process { floor } else { last - 1 };
        let mut power = Power::of(disk);
        let mut random = Random(self.seed);
        for (at, step) in steps.iter().enumerate() {
            power.begin(step);
            if at >= start {
                self.cut(&power, step, &states[promised..], &contents, &options, &mut random)
                    .map_err(|error| format!("step {at} from {start}, {}: {error}", described(step)))?;
                if last < 3 {
                    self.kill(&power.now(), boot, &states[last - 1..], &contents, &options)
                        .map_err(|error| format!("killed after step {at} {}: {error}", described(step)))?;
                }
            }
            power.end(step);
        }
        // It is acknowledged.
        let durable = self.durability == Durability::PowerLoss
            || matches!(self.kinds[last - 1], Kind::Checkpoint | Kind::Compact);
        let promised = if durable { last } else { floor };
        self.images(&power, self.budget, &states[promised..], &contents, &options, &mut random)
            .map_err(|error| format!("when all was done: {error}"))?;
        self.kill(&power.now(), boot, &states[last..], &contents, &options)
            .map_err(|error| format!("killed when all was done: {error}"))?;
        Ok(true)
    }

    fn cut(
        &self,
        power: &Power,
        step: &Step,
        allowed: &[Model],
        contents: &Contents,
        options: &OpenOptions,
        random: &mut Random,
    ) -> Result<(), String> {
        let budget = match &step.action {
            // Nothing that recovery reads is stored into.
            Action::Store { .. } | Action::Allocate { .. } => self.budget.div_ceil(4),
            _ => self.budget,
        };
        self.images(power, budget, allowed, contents, options, random)
    }

    fn images(
        &self,
        power: &Power,
        budget: u64,
        allowed: &[Model],
        contents: &Contents,
        options: &OpenOptions,
        random: &mut Random,
    ) -> Result<(), String> {
        let hashes: Vec<u64> = allowed.iter().map(hash_of).collect();
        let mut chance = Random(random.next());
        let mut result = Ok(());
        let complete = power.images(random, budget, |image, mood| {
            if result.is_ok() {
                result = self
                    .image(&image, allowed, &hashes, contents, options, &mut chance)
                    .map_err(|error| format!("{mood:?}: {error}"));
            }
        });
        self.seen.cuts.fetch_add(1, Ordering::Relaxed);
        self.seen.complete.fetch_add(u64::from(complete), Ordering::Relaxed);
        result
    }

    fn image(
        &self,
        image: &Image,
        allowed: &[Model],
        hashes: &[u64],
        contents: &Contents,
        options: &OpenOptions,
        random: &mut Random,
    ) -> Result<(), String> {
        self.seen.images.fetch_add(1, Ordering::Relaxed);
        let hash = image.hash();
        let shard = &self.seen.shards[(hash % 16) as usize];
        let known = shard.lock().unwrap().get(&hash).copied();
        if let Some(known) = known {
            let right = hashes.contains(&known);
            return if right { Ok(()) } else { Err("it holds a state of another sequence".into()) };
        }
        let directory = image.directory();
        let found = if hash.is_multiple_of(8) {
            let seen = is_readable(&directory, allowed, contents)?;
            recovers(&directory, options, std::slice::from_ref(&seen), contents)?
        } else {
            recovers(&directory, options, allowed, contents)?
        };
        if hash.is_multiple_of(32) {
            // It goes on with syncs in any case.
            goes_on(image, &self::options(Durability::PowerLoss), allowed, &found, contents, random)?;
        }
        shard.lock().unwrap().insert(hash, hash_of(&found));
        Ok(())
    }

    /// The process is killed; its live page counts.
    fn kill(
        &self,
        image: &Image,
        boot: u64,
        allowed: &[Model],
        contents: &Contents,
        options: &OpenOptions,
    ) -> Result<(), String> {
        self.seen.kills.fetch_add(1, Ordering::Relaxed);
        let directory = image.directory();
        directory.set_boot(boot);
        recovers(&directory, options, allowed, contents).map(drop)
    }
}

/// All sequences of one to three operations.
fn sequences() -> Vec<Vec<Kind>> {
    let longer = |shorter: &Vec<Vec<Kind>>| -> Vec<Vec<Kind>> {
        shorter.iter().flat_map(|begin| KINDS.map(|kind| [begin.as_slice(), &[kind]].concat())).collect()
    };
    let one = longer(&vec![Vec::new()]);
    let two = longer(&one);
    let three = longer(&two);
    [one, two, three].concat()
}

/// The seed that all chances come from, from `BLOBPACK_CRASH_SEED`.
pub fn seed() -> u64 {
    std::env::var("BLOBPACK_CRASH_SEED").map_or(1, |text| text.parse().expect("BLOBPACK_CRASH_SEED is a number"))
}

/// Checks images until there are `wanted` distinct ones, all sequences once at least.
fn survey(durability: Durability, wanted: u64, budget: u64) -> u64 {
    let begun = Instant::now();
    let (seed, seen) = (seed(), Seen::default());
    let prepared = Prepared::new(7);
    let all = sequences();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (mut pass, mut sensible) = (0u64, 0);
    while pass == 0 || seen.distinct() < wanted {
        let (next, done, ended) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let work = || {
                while let Some((number, kinds)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    all.get(number).map(|kinds| (number, kinds))
                } {
                    if pass > 0 && seen.distinct() >= wanted {
                        break;
                    }
                    let seed = Random(seed ^ pass << 40 ^ (number as u64) << 20).next();
                    let removal_images = TUNING.removal_images;
                    let (prepared, seen) = (&prepared, &seen);
                    let sequence = Sequence { kinds, prepared, durability, removal_images, seed, budget, seen };
                    match caught(|| sequence.check()) {
                        Ok(sensible) => _ = done.fetch_add(usize::from(sensible), Ordering::Relaxed),
                        Err(error) => {
                            next.store(all.len(), Ordering::Relaxed);
                            ended.store(true, Ordering::Relaxed);
                            panic!("BLOBPACK_CRASH_SEED={}, pass {pass}, {kinds:?}: {error}", self::seed());
                        }
                    }
                }
                ended.store(true, Ordering::Relaxed);
            };
            (0..threads).for_each(|_| drop(scope.spawn(work)));
            scope.spawn(|| watch(&seen, &ended));
        });
        sensible = sensible.max(done.into_inner());
        pass += 1;
    }
    let (images, distinct) = (seen.images.load(Ordering::Relaxed), seen.distinct());
    let events = *seen.events.lock().unwrap();
    eprintln!(
        "{durability:?}: seed {seed}, {sensible} sequences, {pass} passes, {} cuts ({} of them with all their images), \
         {images} images, {distinct} distinct, {} kills, {events:?}, {:.1} s",
        seen.cuts.load(Ordering::Relaxed),
        seen.complete.load(Ordering::Relaxed),
        seen.kills.load(Ordering::Relaxed),
        begun.elapsed().as_secs_f64(),
    );
    assert!(sensible > 1500 && events.splits > 1000 && events.doublings > 100);
    distinct
}

/// Nothing may hang: ends the process where no image was finished for minutes.
fn watch(seen: &Seen, ended: &AtomicBool) {
    let (mut before, mut since, mut told) = (0, Instant::now(), Instant::now());
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
        let now = seen.images.load(Ordering::Relaxed) + seen.kills.load(Ordering::Relaxed);
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            eprintln!("{now} images so far, {} distinct", seen.distinct());
        }
        if now != before {
            (before, since) = (now, Instant::now());
        } else if since.elapsed() > Duration::from_secs(300) {
            eprintln!("an image hangs");
            std::process::abort();
        }
    }
}

#[test]
fn any_three_operations_survive_every_power_cut() {
    let wanted = std::env::var("BLOBPACK_CRASH_IMAGES").map_or(100_000, |text| text.parse().expect("a number"));
    assert!(survey(Durability::PowerLoss, wanted, 6) >= wanted);
}

#[test]
fn without_syncs_a_power_cut_leaves_the_last_checkpoint_and_a_prefix_and_a_kill_all() {
    survey(Durability::Process, 0, 1);
}

#[test]
fn removals_in_parts_survive_every_power_cut_and_kill() {
    // With parts as small as these everywhere, the sequences above would take four times as long.
    let (prepared, seen) = (Prepared::new(7), Seen::default());
    let removals = sequences().into_iter().filter(|kinds| kinds.last() == Some(&Kind::Dereference));
    let mut sensible = 0;
    for (number, kinds) in removals.enumerate() {
        let seed = Random(seed() ^ (number as u64) << 20).next();
        let (kinds, prepared, seen, durability) = (kinds.as_slice(), &prepared, &seen, Durability::PowerLoss);
        let sequence = Sequence { kinds, prepared, durability, removal_images: 2, seed, budget: 2, seen };
        let checked = caught(|| sequence.check());
        sensible += usize::from(checked.unwrap_or_else(|error| panic!("{kinds:?}: {error}")));
    }
    let (images, most) = (seen.images.into_inner(), seen.commits_most.into_inner());
    eprintln!("{sensible} removals in up to {most} parts, {images} images");
    assert!(sensible > 100 && most > 2, "{sensible}, {most}");
}
