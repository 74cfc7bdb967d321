//! Which orderings are needed: each is taken away, and a model has to fail.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use blobpack::sync::watched::{self, Place};

use crate::models::MODELS;

/// Calls (file, the line without spaces around it) that no model needs, and why they stay.
pub const REDUNDANT: &[(&str, &str, &str)] = &[
    (
        "src/index/probe.rs",
        "let length = u64::from_le(slot[2].load(Ordering::Acquire));",
        "the tag was acquired; of a slot that is filled again a stale length does not agree with the frame",
    ),
    (
        "src/index/probe.rs",
        "let generation = u64::from_le(self.words[0].load(Ordering::Acquire));",
        "what it has to be compared with was acquired before",
    ),
];

fn line_of((file, line, _): &Place) -> String {
    let inside = &file[file.rfind("src/").expect("the library's source")..];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(inside);
    let text = std::fs::read_to_string(path).expect("the source that this was built from");
    let line = text.lines().nth(*line as usize - 1).expect("the line that it was built from").trim();
    format!("{inside} | {line}")
}

/// Weakens one place after the other, each in a process of its own.
pub fn all() -> ExitCode {
    MODELS.iter().for_each(crate::run::check);
    let places: BTreeSet<Place> = watched::seen();
    let mut unused: BTreeSet<String> = REDUNDANT.iter().map(|(file, line, _)| format!("{file} | {line}")).collect();
    let mut wrong = 0;
    for place in places {
        let (file, line, column) = &place;
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--weakened", file, &line.to_string(), &column.to_string()])
            .stdin(Stdio::null())
            .output()
            .expect("this program runs");
        let text = line_of(&place);
        let passed = String::from_utf8_lossy(&output.stdout);
        let failed = MODELS.iter().find(|(name, ..)| !passed.contains(&format!("{name}: ")));
        let excuse = REDUNDANT.iter().find(|(file, line, _)| text == format!("{file} | {line}"));
        unused.remove(&text);
        match (output.status.success(), failed, excuse) {
            (false, Some((name, ..)), None) => println!("needed: {text} ({line}:{column}, as {name} says)"),
            (false, Some((name, ..)), Some(_)) => {
                println!("WRONG: {text} ({line}:{column}) is said to be redundant, but {name} needs it");
                wrong += 1;
            }
            (_, _, Some((.., reason))) => println!("redundant: {text} ({line}:{column}): {reason}"),
            (_, _, None) => {
                println!("WRONG: {text} ({line}:{column}): no model needs it");
                wrong += 1;
            }
        }
    }
    for text in unused {
        println!("WRONG: {text} is said to be redundant, but is not there");
        wrong += 1;
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
