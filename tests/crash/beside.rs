//! Commits that come in while a checkpoint is on its way.

use std::sync::{Arc, Mutex};

use blobpack::Name;
use blobpack::commit::Tuning;

use super::history::{Acknowledged, History, kind, options};
use super::medium::Rig;
use super::model::{Generator, Model, Op, run};

struct Run {
    generator: Generator,
    model: Model,
    acknowledged: Vec<Acknowledged>,
}

/// On a real disk a checkpoint has a thread of its own: here a commit comes after each of its steps.
pub fn commits_beside_checkpoints(seed: u64) -> History {
    let rig = Rig::empty(seed);
    // One that came due inside of another would wait for itself.
    let tuning = Tuning { slots: 4, chunk_bytes: 64 << 10, checkpoint_images: 1 << 30, ..Tuning::default() };
    let store = rig.create(&options().tuning(tuning)).unwrap();
    let created = rig.step_count();
    let run_state = Run { generator: Generator::new(seed), model: Model::default(), acknowledged: Vec::new() };
    let state = Arc::new(Mutex::new(run_state));
    let change = {
        let (store, rig, state) = (store.clone(), rig.clone(), state.clone());
        move |op: Option<Op>| {
            let Run { generator, model, acknowledged } = &mut *state.lock().unwrap();
            let op = op.unwrap_or_else(|| generator.change(&*model));
            let (start, expected) = (rig.step_count(), model.apply(&op));
            assert_eq!(run(&store, &op).is_ok(), expected, "seed {seed}, {}", kind(&op));
            acknowledged.push(Acknowledged { start, end: rig.step_count(), op, after: model.clone() });
        }
    };
    let first = state.lock().unwrap().generator.put();
    let Op::Put(_, digest) = first else { unreachable!("a put is one") };
    change(Some(first));
    // The first name takes two checkpoints for itself.
    change(Some(Op::SetName(Name::new("first").unwrap(), digest)));
    let mut checkpoints = 0;
    for _ in 0..6 {
        (0..8).for_each(|_| change(None));
        let (beside, before) = (change.clone(), state.lock().unwrap().acknowledged.len());
        rig.observe(move || beside(None));
        store.checkpoint().unwrap();
        rig.stop_observing();
        checkpoints += usize::from(state.lock().unwrap().acknowledged.len() > before + 2);
    }
    assert_eq!(checkpoints, 6, "each had several steps");
    let events = store.index_events().unwrap();
    let (steps, boot) = (rig.take_steps(), rig.directory.boot());
    drop((change, store));
    let Run { generator, acknowledged, .. } = Arc::into_inner(state).unwrap().into_inner().unwrap();
    History { steps, boot, created, acknowledged, contents: generator.contents, events, checkpoints, compactions: 0 }
}
