//! Runs the models, all or some, and counts the schedules that were tried.

use std::process::ExitCode;
use std::time::Instant;

use crate::models::{MODELS, Model};
use crate::weaken;

pub fn check(&(name, preemptions, model): &Model) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 20_000;
    let schedules = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = schedules.clone();
    let start = Instant::now();
    builder.check(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    let schedules = schedules.load(std::sync::atomic::Ordering::Relaxed);
    println!("{name}: {schedules} schedules, {:.1?}", start.elapsed());
}

pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--weaken"] => return weaken::all(),
        ["--weakened", file, line, column] => {
            let number = |text: &str| text.parse().expect("a number");
            blobpack::sync::watched::weaken(((*file).to_owned(), number(line), number(column)));
            MODELS.iter().for_each(check);
        }
        names => {
            let wanted: Vec<_> =
                MODELS.iter().filter(|(name, ..)| names.is_empty() || names.iter().any(|n| name.contains(n))).collect();
            assert!(!wanted.is_empty(), "no model has a name like {names:?}");
            wanted.into_iter().for_each(check);
        }
    }
    ExitCode::SUCCESS
}
