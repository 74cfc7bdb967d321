//! Removal in batches.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Run, timed};
use crate::contents::{Contents, mixed};
use crate::engines::Key;
use crate::report::{Better, Figure, Report};

const BATCHES: usize = 10;

/// `remove`: a random quarter of all blobs.
pub fn quarter(run: &Run, report: &mut Report) -> Result<()> {
    let contents = Contents::new(0, run.blobs, 256);
    let mut keys = contents.keys();
    let stores = run.open_all()?;
    for store in &stores {
        contents.blobs().chunks(100_000).try_for_each(|part| store.engine.put(part))?;
    }
    // A shuffle (Fisher and Yates) of those that go to the front.
    let quarter = run.blobs / 4;
    for place in 0..quarter {
        let other = place + (mixed(place as u64) % (keys.len() - place) as u64) as usize;
        keys.swap(place, other);
    }
    let (going, staying) = keys.split_at(quarter);
    let mut times = vec![Duration::ZERO; stores.len()];
    for part in going.chunks(quarter.div_ceil(BATCHES)) {
        for (store, time) in stores.iter().zip(&mut times) {
            run.settle()?;
            *time += timed(|| store.engine.remove(part))?;
        }
    }
    for store in &stores {
        let (mut there, mut gone) = (0, 0);
        let (wanted_gone, wanted_there) = (some(going), some(staying));
        store.engine.get(&wanted_gone, &mut |found| gone += usize::from(found.is_none()))?;
        store.engine.get(&wanted_there, &mut |found| there += usize::from(found.is_some()))?;
        ensure!(gone == wanted_gone.len(), "{}: kept what was to go", store.name);
        ensure!(there == wanted_there.len(), "{}: removed what was to stay", store.name);
    }
    let rates: Vec<_> =
        stores.iter().zip(&times).map(|(store, time)| (store.name, quarter as f64 / time.as_secs_f64())).collect();
    let figure = Figure::new("removals/s", Better::Higher, rates[0].1).peers(rates[1..].iter().copied());
    report.add("remove", figure);
    Ok(())
}

/// A few thousand of these keys, from all of their batches.
fn some(keys: &[Key]) -> Vec<Key> {
    keys.iter().copied().step_by((keys.len() / 5000).max(1)).collect()
}
