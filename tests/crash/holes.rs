//! Large blobs that come to nothing: they were there already, were cancelled, or their batch was. Others get their bytes.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use blobpack::medium::{Action, Sim, SimDirectory, Step};
use blobpack::{Algorithm, Digest, Durability, Error, OpenOptions, Staged, Store};

use super::history::{Acknowledged, FILE_BYTES_MAX, History, create, kind, open, open_read_only, options};
use super::medium::{Failure, Rig, TestMedium};
use super::model::{Contents, Generator, Model, Op, Random, run};
use super::power::{MOODS, Power};
use super::{in_parallel, power_cuts, survives};

/// A store, what it should hold, and blobs that are staged for later or for nothing.
struct Run {
    store: Store<Sim>,
    generator: Generator,
    model: Model,
    staged: VecDeque<Staged<Sim>>,
}

impl Run {
    fn large(&mut self) -> Arc<Vec<u8>> {
        let length = 64 << 10 | self.generator.random.below(100_000);
        let start = self.generator.random.next();
        let bytes: Vec<u8> = (0..length as u64).map(|n| (start.wrapping_mul(n / 7 + 3) >> 40) as u8).collect();
        let bytes = Arc::new(bytes);
        self.generator.contents.insert(Digest::of(Algorithm::Sha256, &bytes), Arc::clone(&bytes));
        bytes
    }

    fn stage(&mut self) {
        let bytes = self.large();
        let mut writer = self.store.writer(Algorithm::Sha256).unwrap().size_hint(bytes.len() as u64);
        writer.write_all(&bytes).unwrap();
        self.staged.push_back(writer.stage().unwrap());
    }

    /// Does something; `None` where that changes nothing that anybody sees.
    fn step(&mut self) -> Option<Op> {
        let blobs = self.model.digests();
        let op = match self.generator.random.below(13) {
            0..=2 => {
                let bytes = self.large();
                let digest = Digest::of(Algorithm::Sha256, &bytes);
                Op::Put(bytes, digest)
            }
            3..=5 if !blobs.is_empty() => {
                let large = |digest: &Digest| self.generator.contents[digest].len() >= 64 << 10;
                let blobs: Vec<_> = blobs.iter().copied().filter(large).collect();
                let digest = *self.generator.random.pick(&blobs)?;
                Op::Put(Arc::clone(&self.generator.contents[&digest]), digest)
            }
            6 if !blobs.is_empty() => Op::Dereference(*self.generator.random.pick(&blobs)?),
            7 => {
                let bytes = self.large();
                let mut writer = self.store.writer(Algorithm::Sha256).unwrap().size_hint(200_000);
                writer.write_all(&bytes).unwrap();
                writer.cancel().unwrap();
                return None;
            }
            8 => {
                let mut batch = self.store.batch();
                for _ in 0..2 {
                    batch.put(&self.large().clone()).unwrap();
                }
                if self.generator.random.below(2) == 0 {
                    batch.dereference(&Digest::of(Algorithm::Sha256, b"unknown"));
                    assert!(batch.commit().is_err());
                }
                return None;
            }
            9 => {
                self.stage();
                return None;
            }
            10 => {
                self.staged.pop_front();
                return None;
            }
            11 => {
                let ops = (0..2).map(|_| self.large()).map(|bytes| {
                    let digest = Digest::of(Algorithm::Sha256, &bytes);
                    Op::Put(bytes, digest)
                });
                Op::Batch(ops.collect())
            }
            _ => self.generator.put(),
        };
        Some(op)
    }

    fn go(&mut self, steps: impl Fn() -> usize, count: usize, checkpoint_every: usize) -> Vec<Acknowledged> {
        let mut acknowledged = Vec::new();
        for number in 0..count {
            let start = steps();
            let op = if number % checkpoint_every == checkpoint_every - 1 { Some(Op::Checkpoint) } else { self.step() };
            let op = op.unwrap_or(Op::Reopen);
            let expected = self.model.apply(&op);
            if !matches!(op, Op::Reopen) {
                assert_eq!(run(&self.store, &op).is_ok(), expected, "{}", kind(&op));
            }
            acknowledged.push(Acknowledged { start, end: steps(), op, after: self.model.clone() });
        }
        acknowledged
    }
}

fn record(seed: u64, count: usize, options: &OpenOptions) -> History {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    directory.record(true);
    let store = create(&directory, options).unwrap();
    let created = directory.step_count();
    let mut run = Run { store, generator: Generator::new(seed), model: Model::default(), staged: VecDeque::new() };
    let acknowledged = run.go(|| directory.step_count(), count, 17);
    run.staged.clear();
    assert_eq!(Model::of(&run.store, &run.generator.contents).unwrap(), run.model);
    let events = run.store.index_events().unwrap();
    let steps = directory.steps();
    let again = used_again(&steps);
    eprintln!("seed {seed}: {} steps, {again} times in a hole", steps.len());
    assert!(again > 10, "others get the bytes of what came to nothing");
    History {
        steps,
        boot: directory.boot(),
        created,
        acknowledged,
        contents: run.generator.contents,
        events,
        checkpoints: 0,
        compactions: 0,
    }
}

/// How often what was punched was allocated again.
fn used_again(steps: &[Step]) -> usize {
    let mut holes: Vec<(u64, u64)> = Vec::new();
    let mut again = 0;
    for step in steps {
        match &step.action {
            Action::Punch { offset, length } => holes.push((offset.0, offset.0 + length)),
            Action::Allocate { offset, length } => {
                let is_in = |(from, to): &(u64, u64)| *from < offset.0 + length && offset.0 < *to;
                again += usize::from(holes.iter().any(is_in));
            }
            _ => {}
        }
    }
    again
}

#[test]
fn what_got_the_bytes_of_what_came_to_nothing_survives_power_cuts() {
    for seed in 1..=2 {
        let history = record(seed, 90, &options());
        power_cuts(&history, seed, 9, 1);
    }
}

/// What a power cut may leave without syncs at commits: all since the last checkpoint.
fn states(acknowledged: &[Acknowledged], upto: usize) -> Vec<Model> {
    let mut states = vec![Model::default()];
    for done in acknowledged {
        if done.start > upto {
            break;
        }
        if matches!(done.op, Op::Checkpoint) && done.end <= upto {
            states.clear();
        }
        states.push(done.after.clone());
    }
    states
}

#[test]
fn what_got_such_bytes_is_whole_or_not_there_without_syncs() {
    for seed in 51..=52 {
        let history = record(seed, 90, &options().durability(Durability::Process));
        let starts = vec![0, 1];
        in_parallel(starts, |half| {
            let mut power = Power::default();
            for (upto, step) in history.steps.iter().enumerate() {
                let mut random = Random(seed ^ (upto as u64) << 20);
                if upto >= history.created && upto % 6 == 3 * half {
                    let mut inside = power.clone();
                    inside.begin(step);
                    for number in 0..2 {
                        let mood = MOODS[(upto / 6 + number) % MOODS.len()];
                        let cut = inside.cut(&mut random, mood);
                        let context = format!("seed {seed}, {mood:?} in step {upto} {}", history.at(upto + 1));
                        survives(&cut, &states(&history.acknowledged, upto), &history.contents, &context);
                    }
                }
                power.make(step);
            }
        });
    }
}

/// Killed, opened by another that does the same, and then the power fails.
#[test]
fn what_got_such_bytes_after_a_kill_survives_a_power_cut() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let seed = 61;
        let history = record(seed, 60, &options().durability(durability));
        let kills: Vec<usize> = (history.created + 1..=history.steps.len()).step_by(37).collect();
        in_parallel(kills, |upto| {
            let (mut power, directory) = history.killed(upto);
            let first = directory.step_count();
            let reader = open_read_only(&directory).unwrap();
            let store = open(&directory, &options()).unwrap();
            let opened = directory.step_count();
            let mut generator = Generator::new(upto as u64);
            generator.contents = history.contents.clone();
            let model = Model::of(&store, &history.contents).unwrap();
            let found = model.clone();
            let held: Vec<_> = model.digests().iter().map(|digest| reader.get(digest).unwrap()).collect();
            let mut run = Run { store, generator, model, staged: VecDeque::new() };
            let acknowledged = run.go(|| directory.step_count(), 14, 6);
            for blob in &held {
                assert!(&blob[..] == history.contents[&blob.digest()].as_slice());
            }
            let contents: Contents = run.generator.contents.clone();
            drop(reader);
            let steps = directory.steps();
            let mut random = Random(seed ^ upto as u64);
            for (at, step) in steps.iter().enumerate().skip(first) {
                if at >= opened && random.below(6) == 0 {
                    let mut inside = power.clone();
                    inside.begin(step);
                    let mut allowed = vec![found.clone()];
                    for done in &acknowledged {
                        if at <= done.start {
                            break;
                        }
                        if at >= done.end {
                            allowed.clear();
                        }
                        allowed.push(done.after.clone());
                    }
                    // In the middle of a step both.
                    if let Some(done) = acknowledged.iter().find(|done| done.start <= at && at < done.end) {
                        allowed.push(done.after.clone());
                    }
                    let mood = MOODS[random.below(MOODS.len())];
                    let context = format!("{durability:?}, killed in {upto}, {mood:?} in step {at}");
                    survives(&inside.cut(&mut random, mood), &allowed, &contents, &context);
                }
                power.make(step);
            }
        });
    }
}

/// Large blobs that are put again and again, and others that get their bytes.
fn operations(contents: &mut Contents) -> Vec<Op> {
    let mut put = |number: usize, length: usize| {
        let bytes: Vec<u8> = (0..length).map(|at| (((at / 7 + 3) * (number + 1)) >> 3) as u8).collect();
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let bytes = Arc::new(bytes);
        contents.insert(digest, Arc::clone(&bytes));
        Op::Put(bytes, digest)
    };
    let first = put(0, 150_000);
    let again = || first.clone();
    vec![
        again(),
        again(),
        put(1, 140_000),
        again(),
        again(),
        Op::Batch(vec![put(2, 70_000), again(), put(3, 66_000)]),
        put(4, 66_000),
        Op::Checkpoint,
        again(),
        put(5, 66_000),
    ]
}

/// Does them all while one call fails; returns what may be there then.
fn states_around_a_failure(store: &Store<TestMedium>, operations: &[Op], durability: Durability) -> Vec<Model> {
    let mut states = vec![Model::default()];
    for op in operations {
        let mut after = states.last().unwrap().clone();
        assert!(after.apply(op));
        let result = run(store, op);
        let is_durable = durability == Durability::PowerLoss || matches!(op, Op::Checkpoint);
        if result.is_ok() && is_durable {
            states.clear();
        }
        if result.is_ok() || matches!(store.checkpoint(), Err(Error::Poisoned { .. })) {
            states.push(after);
        }
        if !matches!(result, Ok(()) | Err(Error::NoSpace { .. })) {
            break;
        }
    }
    states
}

#[test]
fn a_failing_call_leaves_what_got_such_bytes() {
    for failure in [Failure::Io, Failure::IoWritten, Failure::IoReverted, Failure::Full] {
        for durability in [Durability::PowerLoss, Durability::Process] {
            if (failure, durability) == (Failure::IoReverted, Durability::Process) {
                // What was never synced, the log as well, may be gone then.
                continue;
            }
            let struck = (0..).take_while(|&n| {
                let rig = Rig::empty(n);
                rig.set_power(Power::default());
                let store = rig.create(&options().durability(durability)).unwrap();
                let mut contents = Contents::new();
                let operations = operations(&mut contents);
                rig.fail(n, failure);
                let states = states_around_a_failure(&store, &operations, durability);
                let struck = !rig.clear_failure();
                let context = format!("call {n}, {failure:?}, {durability:?}");
                let seen = Model::of(&store, &contents).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(states.contains(&seen), "{context}");
                let mood = MOODS[n as usize % MOODS.len()];
                survives(&rig.power().cut(&mut Random(n), mood), &states, &contents, &context);
                struck
            });
            assert!(struck.count() > 80, "{failure:?}, {durability:?}");
        }
    }
}
