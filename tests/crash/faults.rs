//! Calls that fail: for every one of a run, of an opening and of a creation. The handle acknowledges nothing more, reads
//! go on, and after a reopening and a power cut on top all that was acknowledged is there.

use blobpack::medium::Medium;
use blobpack::{Algorithm, Digest, Durability, Error, Store};

use super::check::{caught, recovers, state_of};
use super::history::kind;
use super::medium::{Failure, Rig};
use super::model::{Contents, Model, Random, run};
use super::power::{MOODS, Power};
use super::sequences::{Kind, Prepared, options};

/// One operation of each kind, several checkpoints, and changes after a compaction.
pub const SCRIPT: [Kind; 24] = [
    Kind::Put,
    Kind::Link,
    Kind::SetName,
    Kind::Grow,
    Kind::Checkpoint,
    Kind::Stream,
    Kind::Dereference,
    Kind::Batch,
    Kind::Checkpoint,
    Kind::Put,
    Kind::Grow,
    Kind::Checkpoint,
    Kind::Unlink,
    Kind::Put,
    Kind::Compact,
    Kind::Put,
    Kind::SetName,
    Kind::Grow,
    Kind::Checkpoint,
    Kind::RemoveName,
    Kind::Reference,
    Kind::PutAgain,
    Kind::Link,
    Kind::Batch,
];

const FAILURES: [Failure; 4] = [Failure::Full, Failure::Io, Failure::IoWritten, Failure::IoReverted];

/// What a power cut leaves holds one of `allowed`, as the disk is now and after another process has opened the pack.
fn cut_and_reopened(rig: &Rig, allowed: &[Model], contents: &Contents, random: &mut Random) -> Result<(), String> {
    let options = options(Durability::PowerLoss);
    let power_cut = |allowed: &[Model], random: &mut Random| -> Result<(), String> {
        let mood = MOODS[random.below(MOODS.len())];
        let directory = rig.power().cut(random, mood);
        recovers(&directory, &options, allowed, contents).map_err(|error| format!("{mood:?}: {error}")).map(drop)
    };
    power_cut(allowed, random)?;
    let store = rig.open(&options).map_err(|error| format!("reopened: {error}"))?;
    let found = state_of(&store, contents).map_err(|error| format!("reopened: {error}"))?;
    if !allowed.contains(&found) {
        return Err(format!("reopened: {}", super::differences(&found, allowed)));
    }
    power_cut(&[found], random).map_err(|error| format!("reopened, then cut, {error}"))
}

/// A handle that failed still shows what is there, as a whole too.
fn looks_go_on<M: Medium>(store: &Store<M>, model: &Model) -> Result<(), String> {
    let looked = |what: &str, error: Error| format!("{what} does not go on: {error}");
    let verified = store.verify().map_err(|error| looked("verify", error))?;
    if !verified.damage.is_empty() || verified.partial || verified.blobs != model.blobs.len() as u64 {
        return Err(format!("verify found {verified:?}"));
    }
    store.layout().map_err(|error| looked("layout", error))?;
    store.compaction_estimate().map_err(|error| looked("compaction_estimate", error))?;
    store.usage().map_err(|error| looked("usage", error))?;
    for digest in model.blobs.keys().take(2) {
        store.tree(digest).map_err(|error| looked("tree", error))?;
        store.why(digest).map_err(|error| looked("why", error))?;
    }
    Ok(())
}

/// Lets the `n`th call of the script fail; `false` if there are not that many.
fn script(prepared: &Prepared, n: u64, failure: Failure) -> Result<bool, String> {
    let rig = Rig::new(prepared.disk.directory(), n);
    rig.set_power(Power::of(&prepared.disk));
    let store = rig.open(&options(Durability::PowerLoss)).map_err(|error| error.to_string())?;
    let (mut model, mut contents) = (prepared.model.clone(), prepared.contents.clone());
    let absent = Digest::of(Algorithm::Sha256, b"absent");
    rig.fail(n, failure);
    // Once the handle is poisoned: what may be there after it.
    let mut poisoned: Option<Vec<Model>> = None;
    for (place, what) in SCRIPT.iter().enumerate() {
        let Some(op) = what.op(place, &model, &mut contents) else { continue };
        let before = model.clone();
        model.apply(&op);
        let result = run(&store, &op);
        let context = format!("operation {place}, {}: {result:?}", kind(&op));
        let seen = state_of(&store, &contents).map_err(|error| format!("{context}: reads do not go on: {error}"))?;
        match (&result, &poisoned) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => return Err(format!("{context}: acknowledged after a failure")),
            (Err(Error::Poisoned { .. }), Some(_)) => model = before,
            (Err(_), Some(_)) => return Err(format!("{context}: another error than that of the failure before")),
            (Err(_), None) => {
                let refuses = store.reference(&absent).is_err_and(|error| !error.is_not_found());
                if seen == model && seen != before {
                    // What is visible is durable, whoever was told.
                    poisoned = Some(vec![model.clone()]);
                    if !refuses {
                        return Err(format!("{context}: refused, and done all the same"));
                    }
                } else {
                    poisoned = refuses.then(|| vec![before.clone(), model]);
                    model = before;
                }
            }
        }
        if seen != model {
            return Err(format!("{context}: {}", super::differences(&seen, &[model])));
        }
    }
    if poisoned.is_some() {
        looks_go_on(&store, &model)?;
    }
    let struck = !rig.clear_failure();
    let mut random = Random(n);
    let allowed = poisoned.unwrap_or_else(|| vec![model]);
    let alive = rig.power().cut(&mut random, MOODS[n as usize % MOODS.len()]);
    recovers(&alive, &options(Durability::PowerLoss), &allowed, &contents).map_err(|error| format!("cut: {error}"))?;
    drop(store);
    cut_and_reopened(&rig, &allowed, &contents, &mut random).map(|()| struck)
}

/// Lets the `n`th call of an opening that has something to recover fail.
fn opening(prepared: &Prepared, n: u64, failure: Failure) -> Result<bool, String> {
    let rig = Rig::new(prepared.disk.directory(), n);
    rig.set_power(Power::of(&prepared.disk));
    let (mut model, mut contents) = (prepared.model.clone(), prepared.contents.clone());
    let store = rig.open(&options(Durability::PowerLoss)).map_err(|error| error.to_string())?;
    for (place, what) in SCRIPT[..4].iter().enumerate() {
        let op = what.op(place, &model, &mut contents).expect("the first ones are possible");
        model.apply(&op);
        run(&store, &op).map_err(|error| error.to_string())?;
    }
    rig.die_after(0);
    drop(store);
    rig.revive();
    rig.fail(n, failure);
    let opened = rig.open(&options(Durability::PowerLoss));
    let struck = !rig.clear_failure();
    if let (true, Ok(_)) = (struck, &opened) {
        // Some failures cost nothing but space.
        let seen = state_of(opened.as_ref().expect("it is open"), &contents)?;
        if seen != model {
            return Err(super::differences(&seen, &[model]));
        }
    }
    drop(opened);
    cut_and_reopened(&rig, &[model], &contents, &mut Random(n)).map(|()| struck)
}

/// Lets the `n`th call of a creation fail: there is no pack then, or an empty one.
fn creation(n: u64, failure: Failure) -> Result<bool, String> {
    let rig = Rig::empty(n);
    rig.set_power(Power::default());
    rig.fail(n, failure);
    let created = rig.create(&options(Durability::PowerLoss)).map_err(|error| error.to_string());
    let struck = !rig.clear_failure();
    if let Err(error) = &created
        && !struck
    {
        return Err(error.clone());
    }
    drop(created);
    if rig.directory.bytes(super::history::NAME).is_some() {
        cut_and_reopened(&rig, &[Model::default()], &Contents::new(), &mut Random(n))
            .or_else(|error| if struck && error.contains("there is no pack") { Ok(()) } else { Err(error) })?;
    }
    Ok(struck)
}

#[test]
fn after_any_failing_call_nothing_acknowledged_is_lost_and_reads_go_on() {
    let prepared = Prepared::new(7);
    let mut counts = Vec::new();
    let all = std::env::var_os("BLOBPACK_FULL").is_some();
    for (number, failure) in FAILURES.into_iter().enumerate() {
        for what in ["the script", "an opening", "a creation"] {
            let check = |n| match what {
                "the script" => script(&prepared, n, failure),
                "an opening" => opening(&prepared, n, failure),
                _ => creation(n, failure),
            };
            // The ones that tell most go through every call, the others through a third of them, each another one.
            let every = if all || matches!(failure, Failure::Io | Failure::IoReverted) { 1 } else { 3 };
            let mut n = number as u64 % every;
            while caught(|| check(n)).unwrap_or_else(|error| panic!("{failure:?} in call {n} of {what}: {error}")) {
                n += every;
            }
            counts.push(n);
        }
    }
    eprintln!("calls that failed, for each kind of failure: {counts:?}");
    assert!(counts.chunks(3).all(|count| count[0] > 200 && count[1] > 15 && count[2] > 10), "{counts:?}");
}
