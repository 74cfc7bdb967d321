//! Crashes while recovering, and while recovering from that, three deep; with readers that stay attached meanwhile.

use std::sync::{Arc, Mutex};

use blobpack::{Durability, Error, Store};

use super::check::{caught, recovers, state_of};
use super::faults::SCRIPT;
use super::medium::{IN_VAIN, Rig, TestMedium};
use super::model::{Contents, Model, Random, run};
use super::power::{Image, MOODS, Power, described};
use super::sequences::{Prepared, options, seed};

/// How deep crashes are nested.
const DEPTH: usize = 3;

/// One that looks at the pack again and again, and must never see an earlier state than before.
struct Watcher {
    reader: Store<TestMedium>,
    states: Vec<Model>,
    contents: Contents,
    /// The number of the state seen last.
    at: usize,
    /// What it saw that it should not.
    wrong: Option<String>,
}

impl Watcher {
    fn new(reader: Store<TestMedium>, states: Vec<Model>, contents: Contents) -> Watcher {
        Watcher { reader, states, contents, at: 0, wrong: None }
    }

    fn look(&mut self, when: &str) {
        if self.wrong.is_some() {
            return;
        }
        // The first look may find in its middle that the writer is dead, and see what the log has from then on.
        let look = || state_of(&self.reader, &self.contents);
        match look().or_else(|_| look()) {
            // It comes between the notice and the mark.
            Err(error) if error.contains(IN_VAIN) => {}
            Err(error) => self.wrong = Some(format!("{when}: {error}")),
            Ok(seen) => match self.states[self.at..].iter().position(|state| *state == seen) {
                Some(further) => self.at += further,
                None => {
                    let allowed = &self.states[self.at..];
                    self.wrong = Some(format!("{when}: it goes back: {}", super::differences(&seen, allowed)));
                }
            },
        }
    }
}

/// Kills a run after `kill` steps, and then the recovery, and the recovery from that; a reader stays attached. Returns
/// how many recoveries were killed before they were done; `None`: the run has not so many steps.
fn killed(prepared: &Prepared, kill: usize, random: &mut Random) -> Result<Option<usize>, String> {
    let options = options(Durability::PowerLoss);
    let error = |error: Error| error.to_string();
    let rig = Rig::new(prepared.disk.directory(), kill as u64);
    rig.set_power(Power::of(&prepared.disk));
    let (mut states, mut contents) = (vec![prepared.model.clone()], prepared.contents.clone());
    let store = rig.open(&options).map_err(error)?;
    let reader = rig.open_read_only().map_err(error)?;
    rig.die_after(kill);
    let mut acknowledged = 0;
    let mut ops = Vec::new();
    for (place, what) in SCRIPT.iter().enumerate() {
        let mut model = states[states.len() - 1].clone();
        let Some(op) = what.op(place, &model, &mut contents) else { continue };
        model.apply(&op);
        ops.push(op);
        states.push(model);
    }
    for op in &ops {
        if run(&store, op).is_err() {
            break;
        }
        acknowledged += 1;
    }
    if !rig.revive() {
        return Ok(None);
    }
    rig.die_after(0);
    drop(store);
    rig.revive();
    states.truncate(acknowledged + 2);
    let watcher = Arc::new(Mutex::new(Watcher::new(reader, states.clone(), contents.clone())));
    let result = |when: &str| {
        let mut watcher = watcher.lock().unwrap();
        watcher.look(when);
        watcher.wrong.take().map_or(Ok(watcher.at), Err)
    };
    let mut seen = result("killed")?;
    let mut deaths = 0;
    for depth in 1..=DEPTH + 1 {
        // What a reader saw, and what was acknowledged, a power cut now must not take back.
        let mood = MOODS[random.below(MOODS.len())];
        let allowed = &states[seen.max(acknowledged)..];
        recovers(&rig.power().cut(random, mood), &options, allowed, &contents)
            .map_err(|error| format!("power cut at depth {depth}, {mood:?}: {error}"))?;
        let look = watcher.clone();
        rig.observe(move || look.lock().unwrap().look("while it recovers"));
        if depth <= DEPTH {
            rig.die_after(random.below(60));
        }
        let store = rig.open(&options);
        rig.stop_observing();
        let died = rig.revive();
        deaths += usize::from(died);
        rig.die_after(0);
        let survivor = match store {
            Ok(store) if !died => Some(store),
            Err(error) if !died => return Err(format!("open at depth {depth}: {error}")),
            _ => None,
        };
        let now = survivor.as_ref().map(|store| state_of(store, &contents)).transpose()?;
        drop(survivor);
        rig.revive();
        seen = result(&format!("after recovery {depth}"))?;
        if let Some(now) = now
            && states[seen..].first() != Some(&now)
        {
            return Err(format!("reader and writer disagree: {}", super::differences(&now, &states[seen..=seen])));
        }
    }
    Ok(Some(deaths))
}

/// The steps of an opening; `None` where it fails.
fn opening(image: &Image, seed: u64) -> Result<Vec<blobpack::medium::Step>, String> {
    let rig = Rig::new(image.directory(), seed);
    let opened = rig.open(&options(Durability::PowerLoss)).map_err(|error| format!("open: {error}"))?;
    let steps = rig.take_steps();
    drop(opened);
    Ok(steps)
}

/// Power cuts in a recovery, and in the recovery from that.
fn cut_again(image: &Image, allowed: &[Model], contents: &Contents, random: &mut Random) -> Result<(), String> {
    let mut image = std::borrow::Cow::Borrowed(image);
    for depth in 1..=DEPTH {
        let steps = opening(&image, random.next())?;
        let cut = random.below(steps.len());
        let mut power = Power::of(&image);
        steps[..cut].iter().for_each(|step| power.make(step));
        power.begin(&steps[cut]);
        let mut next = None;
        power.images(random, 1, |image, mood| {
            next.get_or_insert((image, mood));
        });
        let (cut_off, mood) = next.expect("there is always an image");
        recovers(&cut_off.directory(), &options(Durability::PowerLoss), allowed, contents).map_err(|error| {
            format!("depth {depth}, {mood:?} in step {cut} of {}, {}: {error}", steps.len(), described(&steps[cut]))
        })?;
        image = std::borrow::Cow::Owned(cut_off);
    }
    Ok(())
}

#[test]
fn readers_that_stay_while_writers_die_three_deep_never_go_back() {
    let (prepared, seed) = (Prepared::new(7), seed());
    let mut random = Random(seed ^ 0x7ead);
    let (mut kill, mut runs) = (0, [0; DEPTH + 1]);
    loop {
        let done = caught(|| killed(&prepared, kill, &mut random));
        match done.unwrap_or_else(|error| panic!("BLOBPACK_CRASH_SEED={seed}, killed after {kill} steps: {error}")) {
            Some(deaths) => runs[deaths] += 1,
            None => break,
        }
        kill += 1 + random.below(5);
    }
    eprintln!("runs that were killed up to step {kill}, by how many recoveries were: {runs:?}");
    assert!(runs.iter().sum::<usize>() > 80 && runs[DEPTH] > 20, "{runs:?}");
}

#[test]
fn power_cuts_in_recoveries_three_deep_lose_nothing() {
    let (prepared, seed) = (Prepared::new(7), seed());
    let mut random = Random(seed ^ 0xdeeb);
    let rig = Rig::new(prepared.disk.directory(), 5);
    let (mut model, mut contents) = (prepared.model.clone(), prepared.contents.clone());
    let store = rig.open(&options(Durability::PowerLoss)).unwrap();
    let mut states = vec![(0, vec![model.clone()])];
    for (place, what) in SCRIPT.iter().enumerate() {
        let Some(op) = what.op(place, &model, &mut contents) else { continue };
        let before = model.clone();
        model.apply(&op);
        states.push((rig.step_count(), vec![before, model.clone()]));
        run(&store, &op).unwrap();
        states.push((rig.step_count(), vec![model.clone()]));
    }
    let steps = rig.take_steps();
    drop(store);
    let mut power = Power::of(&prepared.disk);
    for (at, step) in steps.iter().enumerate() {
        power.begin(step);
        let allowed = &states.iter().rfind(|(start, _)| *start <= at).unwrap().1;
        let mut images = Vec::new();
        power.images(&mut random, 2, |image, mood| images.push((image, mood)));
        for (image, mood) in &images {
            let done = caught(|| cut_again(image, allowed, &contents, &mut random));
            done.unwrap_or_else(|error| {
                panic!("BLOBPACK_CRASH_SEED={seed}, {mood:?} in step {at} {}: {error}", described(step))
            });
        }
        power.end(step);
    }
}
