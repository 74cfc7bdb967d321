//! What has to hold of a pack that a crash left.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use blobpack::medium::{Medium, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, Digest, OpenOptions, Recovery, Store};

use super::history::{NAME, kind};
use super::medium::Rig;
use super::model::{Contents, Model, Op, Random, run};
use super::power::{Image, Power, described};

/// Describes what went wrong, a panic included.
pub fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

/// All that a store holds, or what is wrong with it.
pub fn state_of<M: Medium>(store: &Store<M>, contents: &Contents) -> Result<Model, String> {
    caught(|| Model::of(store, contents).map_err(|error| error.to_string()))
}

fn is_allowed(found: &Model, allowed: &[Model]) -> Result<(), String> {
    if allowed.contains(found) {
        return Ok(());
    }
    Err(format!("it holds what it should not:\n{}", super::differences(found, allowed)))
}

/// Opens what a crash left: what it holds must be one of `allowed`, its index the one that the log tells of, and
/// another opening must find nothing to do. Returns what it holds.
pub fn recovers(
    directory: &SimDirectory,
    options: &OpenOptions,
    allowed: &[Model],
    contents: &Contents,
) -> Result<Model, String> {
    let open = || {
        let sim = directory.open(NAME, true).map_err(|error| format!("there is no pack: {error}"))?;
        let store = options.open_in(sim, How::Open).map_err(|error| format!("open: {error}"))?;
        store.ok_or("another file is at the path".to_owned())
    };
    caught(|| {
        let store = open()?;
        let found = state_of(&store, contents)?;
        is_allowed(&found, allowed)?;
        let verified = store.verify().map_err(|error| format!("verify: {error}"))?;
        if !verified.damage.is_empty() {
            return Err(format!("verify: {:?}", verified.damage));
        }
        drop(store);
        let store = open().map_err(|error| format!("second time: {error}"))?;
        if store.recovery() != Recovery::default() {
            return Err(format!("the first recovery left something: {:?}", store.recovery()));
        }
        let again = state_of(&store, contents)?;
        is_allowed(&again, std::slice::from_ref(&found)).map_err(|error| format!("second time: {error}"))?;
        Ok(found)
    })
}

/// The same for a reader, which must see what a writer would.
pub fn is_readable(directory: &SimDirectory, allowed: &[Model], contents: &Contents) -> Result<Model, String> {
    caught(|| {
        let sim = directory.open(NAME, false).map_err(|error| format!("there is no pack: {error}"))?;
        let options = OpenOptions::new().read_only(true);
        let reader = options.open_in(sim, How::Open).map_err(|error| format!("read-only: {error}"))?;
        let reader = reader.ok_or("another file is at the path".to_owned())?;
        let seen = state_of(&reader, contents).map_err(|error| format!("read-only: {error}"))?;
        is_allowed(&seen, allowed).map_err(|error| format!("read-only: {error}"))?;
        Ok(seen)
    })
}

/// Operations that a store which holds this takes after a crash.
fn afterwards(found: &Model, contents: &mut Contents) -> Vec<Op> {
    let bytes = Arc::new(b"written after a crash".to_vec());
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    contents.insert(digest, bytes.clone());
    let mut ops = vec![Op::Put(bytes, digest)];
    let digests = found.digests();
    ops.extend(
        digests.iter().take(1).map(|from| Op::Batch(vec![Op::Reference(digest), Op::Link { to: digest, from: *from }])),
    );
    ops.push(Op::Checkpoint);
    ops.extend(digests.iter().rev().take(2).map(|digest| Op::Dereference(*digest)));
    ops
}

/// The store takes writes; a power cut while it recovers, or among those writes, loses nothing of what was
/// acknowledged.
pub fn goes_on(
    image: &Image,
    options: &OpenOptions,
    allowed: &[Model],
    found: &Model,
    contents: &Contents,
    random: &mut Random,
) -> Result<(), String> {
    let mut contents = contents.clone();
    let rig = Rig::new(image.directory(), random.next());
    let mut model = found.clone();
    let mut states = vec![(0, allowed.to_vec())];
    caught(|| {
        let store = rig.open(options).map_err(|error| format!("open: {error}"))?;
        states.push((rig.step_count(), vec![model.clone()]));
        for op in afterwards(found, &mut contents) {
            let before = model.clone();
            let expected = model.apply(&op);
            let result = run(&store, &op);
            if result.is_ok() != expected {
                return Err(format!("{} afterwards: {result:?}", kind(&op)));
            }
            let start = states.last().expect("there is the first").0;
            states.push((start, vec![before, model.clone()]));
            states.push((rig.step_count(), vec![model.clone()]));
        }
        let now = state_of(&store, &contents)?;
        is_allowed(&now, std::slice::from_ref(&model)).map_err(|error| format!("afterwards: {error}"))
    })?;
    let steps = rig.take_steps();
    let mut power = Power::of(image);
    let cuts: Vec<usize> = (0..3).map(|_| random.below(steps.len())).collect();
    for (at, step) in steps.iter().enumerate() {
        power.begin(step);
        if cuts.contains(&at) {
            let (_, allowed) = states.iter().rfind(|(start, _)| *start <= at).expect("the first begins at 0");
            let mut result = Ok(());
            power.images(random, 1, |image, mood| {
                let recovered = recovers(&image.directory(), options, allowed, &contents);
                if let Err(error) = recovered {
                    result = Err(format!("crashed again, {mood:?} in step {at} {}: {error}", described(step)));
                }
            });
            result?;
        }
        power.end(step);
    }
    Ok(())
}
