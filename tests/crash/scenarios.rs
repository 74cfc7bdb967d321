//! Runs on a medium that may violate a promise: each says what it has lost, if anything.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use blobpack::format::{Offset, PAGE_BYTES, SPACE_AT, SUPERBLOCKS_AT};
use blobpack::medium::{Action, Step};
use blobpack::store::How;
use blobpack::{Digest, Durability, Error, OpenOptions, Store};

use super::check::{caught, recovers, state_of};
use super::faults::SCRIPT;
use super::history::{NAME, kind};
use super::medium::{IN_VAIN, Rig, TestMedium};
use super::model::{Contents, Model, Op, Random, run};
use super::power::{Power, described};
use super::sequences::{Kind, Prepared, blob, options};
use super::violations::Violation;

type Scenario = fn(&Prepared, Option<Violation>) -> Result<(), String>;

/// All of them, with what they do.
pub const SCENARIOS: [(&str, Scenario); 9] = [
    ("two writers", two_writers),
    ("a file that was replaced", replaced),
    ("damage", damage),
    ("one superblock", one_superblock),
    ("readers beside", readers_beside),
    ("a reader while the next writer recovers", while_recovering),
    ("a creation", creation),
    ("kills and power cuts after them", kills),
    ("power cuts", power_cuts),
];

pub fn check(scenario: Scenario, prepared: &Prepared, violation: Option<Violation>) -> Result<(), String> {
    caught(|| scenario(prepared, violation))
}

fn durable() -> OpenOptions {
    options(Durability::PowerLoss)
}

/// A run of operations, and what had been acknowledged at each step.
struct Run {
    rig: Rig,
    power: Power,
    steps: Vec<Step>,
    /// From each of these steps on one of these states must be there.
    states: Vec<(usize, Vec<Model>)>,
    model: Model,
    contents: Contents,
    _store: Store<TestMedium>,
}

impl Run {
    fn of(prepared: &Prepared, violation: Option<Violation>, script: &[Kind]) -> Result<Run, String> {
        let rig = Rig::new(prepared.disk.directory(), 3);
        rig.violate(violation);
        Run::on(rig, prepared, script.len(), |place, model, contents| script[place].op(place, model, contents))
    }

    fn on(
        rig: Rig,
        prepared: &Prepared,
        length: usize,
        op_at: impl Fn(usize, &Model, &mut Contents) -> Option<Op>,
    ) -> Result<Run, String> {
        let (mut model, mut contents) = (prepared.model.clone(), prepared.contents.clone());
        let store = rig.open(&durable()).map_err(|error| format!("open: {error}"))?;
        let mut states = vec![(0, vec![model.clone()])];
        for place in 0..length {
            let Some(op) = op_at(place, &model, &mut contents) else { continue };
            let before = model.clone();
            model.apply(&op);
            states.push((rig.step_count(), vec![before, model.clone()]));
            run(&store, &op).map_err(|error| format!("operation {place}, {}: {error}", kind(&op)))?;
            states.push((rig.step_count(), vec![model.clone()]));
        }
        let seen = state_of(&store, &contents)?;
        if seen != model {
            return Err(super::differences(&seen, &[model]));
        }
        let steps = rig.take_steps();
        Ok(Run { rig, power: Power::of(&prepared.disk), steps, states, model, contents, _store: store })
    }

    /// What may be there after step `at` was begun.
    fn allowed(&self, at: usize) -> &[Model] {
        &self.states.iter().rfind(|(start, _)| *start <= at).expect("the first begins at 0").1
    }
}

fn power_cuts(prepared: &Prepared, violation: Option<Violation>) -> Result<(), String> {
    cut_power(&Run::of(prepared, violation, &SCRIPT)?)
}

fn cut_power(run: &Run) -> Result<(), String> {
    let (mut power, mut random, mut seen) = (run.power.clone(), Random(5), BTreeSet::new());
    for (at, step) in run.steps.iter().enumerate() {
        power.begin(step);
        let mut result = Ok(());
        power.images(&mut random, 2, |image, mood| {
            if result.is_ok() && seen.insert((image.hash(), run.allowed(at).len())) {
                result = recovers(&image.directory(), &durable(), run.allowed(at), &run.contents)
                    .map_err(|error| format!("{mood:?} in step {at} {}: {error}", described(step)))
                    .map(drop);
            }
        });
        result?;
        power.end(step);
    }
    Ok(())
}

/// The process is killed at a step, the next one goes on, and then the power fails.
fn kills(prepared: &Prepared, violation: Option<Violation>) -> Result<(), String> {
    let script = &SCRIPT[..9];
    let run = Run::of(prepared, violation, script)?;
    let boot = run.rig.directory.boot();
    let mut power = run.power.clone();
    for (at, step) in run.steps.iter().enumerate() {
        power.make(step);
        if at % 7 != 0 {
            continue;
        }
        let context = |error: String| format!("killed after step {at} {}: {error}", described(step));
        let directory = power.now().directory();
        directory.set_boot(boot);
        let rig = Rig::new(directory, at as u64);
        rig.violate(violation);
        rig.set_power(power.clone());
        let store = rig.open(&durable()).map_err(|error| context(error.to_string()))?;
        let mut model = state_of(&store, &run.contents).map_err(context)?;
        if !run.allowed(at).contains(&model) {
            return Err(context(super::differences(&model, run.allowed(at))));
        }
        let mut contents = run.contents.clone();
        let op = Kind::Put.op(40, &model, &mut contents).expect("a put is always possible");
        model.apply(&op);
        super::model::run(&store, &op).map_err(|error| context(error.to_string()))?;
        power_fails(&rig, &[model], &contents, at as u64).map_err(context)?;
    }
    Ok(())
}

fn power_fails(rig: &Rig, allowed: &[Model], contents: &Contents, seed: u64) -> Result<(), String> {
    let mut random = Random(seed);
    for mood in [super::power::Mood::Old, super::power::Mood::Any] {
        let directory = rig.power().cut(&mut random, mood);
        recovers(&directory, &durable(), allowed, contents).map_err(|error| format!("power cut, {mood:?}: {error}"))?;
    }
    Ok(())
}

/// Of a creation that was cut off there is nothing or an empty pack; what the next process acknowledges stays.
fn creation(_: &Prepared, violation: Option<Violation>) -> Result<(), String> {
    let rig = Rig::empty(9);
    rig.violate(violation);
    rig.set_power(Power::default());
    let store = rig.create(&durable()).map_err(|error| error.to_string())?;
    let created = rig.step_count();
    let (mut model, mut contents) = (Model::default(), Contents::new());
    let put = Kind::Put.op(0, &model, &mut contents).expect("a put is always possible");
    model.apply(&put);
    run(&store, &put).map_err(|error| error.to_string())?;
    power_fails(&rig, &[model.clone()], &contents, 1).map_err(|error| format!("created: {error}"))?;
    let steps = rig.take_steps();
    let mut power = Power::default();
    for (at, step) in steps[..created].iter().enumerate() {
        power.make(step);
        let directory = power.now().directory();
        if directory.bytes(NAME).is_none() {
            continue;
        }
        let rig = Rig::new(directory, at as u64);
        rig.violate(violation);
        rig.set_power(power.clone());
        let context = |error: String| format!("the creator was killed after step {at}: {error}");
        let store = rig.open(&durable()).map_err(|error| context(error.to_string()))?;
        run(&store, &put).map_err(|error| context(error.to_string()))?;
        power_fails(&rig, &[model.clone()], &contents, 2).map_err(context)?;
    }
    Ok(())
}

fn two_writers(prepared: &Prepared, violation: Option<Violation>) -> Result<(), String> {
    let rig = Rig::new(prepared.disk.directory(), 3);
    rig.violate(violation);
    let _first = rig.open(&durable()).map_err(|error| error.to_string())?;
    match rig.open(&durable()) {
        Err(Error::Locked { .. }) => Ok(()),
        other => Err(format!("a second writer: {:?}", other.map(drop))),
    }
}

/// A writer has opened the file and waits for the lock; meanwhile a compaction puts another one in its place.
fn replaced(prepared: &Prepared, violation: Option<Violation>) -> Result<(), String> {
    let rig = Rig::new(prepared.disk.directory(), 3);
    rig.violate(violation);
    let waiting = rig.handle(true).map_err(|error| error.to_string())?;
    let first = rig.open(&durable()).map_err(|error| error.to_string())?;
    first.compact().map_err(|error| error.to_string())?;
    drop(first);
    match rig.open_handle(waiting, &durable(), How::Open) {
        Ok(None) => Ok(()),
        other => Err(format!("a file without a name is written to: {:?}", other.map(|store| store.is_some()))),
    }
}

/// A commit before the last one is damaged: that is said, and nothing is cut off in silence.
fn damage(prepared: &Prepared, violation: Option<Violation>) -> Result<(), String> {
    let run = Run::of(prepared, None, &[Kind::Put, Kind::Reference, Kind::Put])?;
    let mut bytes = run.rig.directory.bytes(NAME).expect("the pack is there");
    let commits: Vec<(Offset, usize)> = (run.steps.iter())
        .filter_map(|step| match &step.action {
            Action::Write { offset, bytes, durable: true } if *offset >= SPACE_AT => Some((*offset, bytes.len())),
            _ => None,
        })
        .collect();
    let (at, length) = commits[1];
    bytes[at.0 as usize + length - 70] ^= 1;
    let rig = Rig::empty(4);
    rig.directory.insert(NAME, bytes);
    rig.violate(violation);
    match rig.open(&durable()) {
        Err(error) if error.is_damage() => Ok(()),
        other => Err(format!("damage is passed over: {:?}", other.map(|store| store.recovery()))),
    }
}

/// The newest superblock has rotted: the other one and the log serve.
fn one_superblock(prepared: &Prepared, violation: Option<Violation>) -> Result<(), String> {
    let run = Run::of(prepared, violation, &SCRIPT[..14])?;
    let directory = &run.rig.directory;
    let bytes = directory.bytes(NAME).expect("the pack is there");
    let sequence = |at: Offset| {
        let at = at.0 as usize + 192;
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    };
    let newest = *SUPERBLOCKS_AT.iter().max_by_key(|at| sequence(**at)).expect("there are two");
    let mut bytes = bytes.clone();
    bytes[newest.0 as usize..][..PAGE_BYTES as usize].fill(0);
    let rig = Rig::empty(4);
    rig.directory.insert(NAME, bytes);
    let store = rig.open(&durable()).map_err(|error| format!("open: {error}"))?;
    let found = state_of(&store, &run.contents)?;
    if found == run.model { Ok(()) } else { Err(super::differences(&found, &[run.model])) }
}

/// A reader that was there before the writer sees each commit, sees each record whole at every step, and follows a
/// compaction and the next writer.
fn readers_beside(prepared: &Prepared, violation: Option<Violation>) -> Result<(), String> {
    let rig = Rig::new(prepared.disk.directory(), 3);
    rig.violate(violation);
    let error = |error: Error| error.to_string();
    let reader = rig.open_read_only().map_err(error)?;
    let (mut model, mut contents) = (prepared.model.clone(), prepared.contents.clone());
    let first = state_of(&reader, &contents)?;
    let mut store = rig.open(&durable()).map_err(error)?;
    let second = rig.open_read_only().map_err(error)?;
    let odd = Arc::new(Mutex::new(None));
    for (place, what) in SCRIPT.iter().enumerate() {
        let Some(op) = what.op(place, &model, &mut contents) else { continue };
        let before = model.clone();
        model.apply(&op);
        // At each step of it a blob is there as before or as after.
        let watched: Vec<(Digest, Option<bool>)> = (contents.keys())
            .map(|digest| (*digest, before.blobs.contains_key(digest), model.blobs.contains_key(digest)))
            .map(|(digest, before, after)| (digest, (before == after).then_some(after)))
            .collect();
        let (look, found) = (second.clone(), odd.clone());
        // Nobody has to wait for a record that is being stored, only for a compaction to come to its end.
        let may_wait = *what == Kind::Compact;
        let is_wait = move |error: &String| may_wait && error.contains(IN_VAIN);
        rig.observe(move || {
            for (digest, there) in &watched {
                let seen = caught(|| look.contains(digest).map_err(|error| error.to_string()));
                let right = match &seen {
                    Ok(seen) => there.is_none_or(|there| there == *seen),
                    Err(error) => is_wait(error),
                };
                if !right {
                    found.lock().unwrap().get_or_insert(format!("in the middle of operation {place}: {seen:?}"));
                }
            }
            let list =
                caught(|| look.list().try_for_each(|digest| digest.map(drop)).map_err(|error| error.to_string()));
            if let Some(error) = list.err().filter(|error| !is_wait(error)) {
                found.lock().unwrap().get_or_insert(format!("a list in the middle of operation {place}: {error}"));
            }
        });
        let result = run(&store, &op);
        rig.stop_observing();
        result.map_err(|error| format!("operation {place}, {}: {error}", kind(&op)))?;
        if let Some(odd) = odd.lock().unwrap().take() {
            return Err(odd);
        }
        for reader in [&reader, &second] {
            let seen = state_of(reader, &contents).map_err(|error| format!("beside operation {place}: {error}"))?;
            if seen != model {
                return Err(format!("beside operation {place}: {}", super::differences(&seen, &[model])));
            }
        }
        if place == 10 {
            drop(store);
            store = rig.open(&durable()).map_err(error)?;
        }
    }
    if first == prepared.model { Ok(()) } else { Err("before the writer".into()) }
}

/// A process is killed between a commit and its way into the index. A reader finds the commit in the log; one that comes
/// while the next writer recovers must not be shown less.
fn while_recovering(prepared: &Prepared, violation: Option<Violation>) -> Result<(), String> {
    let run = Run::of(prepared, violation, &SCRIPT[..1])?;
    let is_commit =
        |step: &Step| matches!(step.action, Action::Write { durable: true, offset, .. } if offset >= SPACE_AT);
    let commit = run.steps.iter().position(is_commit).ok_or("nothing was committed")?;
    let mut power = run.power.clone();
    run.steps[..=commit].iter().for_each(|step| power.make(step));
    let directory = power.now().directory();
    directory.set_boot(run.rig.directory.boot());
    let rig = Rig::new(directory, 8);
    rig.violate(violation);
    let reader = rig.open_read_only().map_err(|error| error.to_string())?;
    let before = state_of(&reader, &run.contents)?;
    if before != run.model {
        return Err(super::differences(&before, &[run.model]));
    }
    let odd = Arc::new(Mutex::new(None));
    let (found, other, contents) = (odd.clone(), rig.clone(), run.contents.clone());
    rig.observe(move || {
        let seen = caught(|| {
            let reader = other.open_read_only().map_err(|error| error.to_string())?;
            state_of(&reader, &contents)
        });
        // It is right to wait.
        if seen.as_ref() != Ok(&before) && !seen.as_ref().is_err_and(|error| error.contains(IN_VAIN)) {
            *found.lock().unwrap() = Some(format!("a reader sees {seen:?}"));
        }
    });
    let opened = rig.open(&durable()).map(drop).map_err(|error| error.to_string());
    rig.stop_observing();
    opened?;
    let odd = odd.lock().unwrap().take();
    odd.map_or(Ok(()), Err)
}

#[test]
fn zeros_written_ahead_of_small_commits_are_no_part_of_the_log() {
    let prepared = Prepared::new(1);
    let rig = Rig::new(prepared.disk.directory(), 3);
    rig.overwrite_in_place();
    let run = Run::on(rig, &prepared, 50, |place, _, contents| Some(blob(100 + place as u64, 3000, contents))).unwrap();
    let is_ahead =
        |step: &&Step| matches!(&step.action, Action::Write { bytes, .. } if bytes.ends_with(&[0; 32 << 10]));
    assert!(run.steps.iter().filter(is_ahead).count() > 1, "no chunk was written ahead");
    cut_power(&run).unwrap();
}
