//! Random operations against a plain model: who holds which reference, and nothing else.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::lists::Side;
use super::tests::{Memory, digest, length, name, put, set};
use super::{Changes, Records};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{LARGE_BYTES, PAGE_BYTES, frame_bytes};
use crate::record::CountersNow;

/// Of each name that occurs here.
const NAME_FRAME_BYTES: u64 = 128;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Put(u64),
    Reference(u64),
    Dereference(u64),
    Link(u64, u64),
    Unlink(u64, u64),
    SetName(u64, u64),
    RemoveName(u64),
    ReleaseName(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    const NAMES: u64 = 9;
    prop_oneof![
        4 => (0..NAMES).prop_map(Operation::Put),
        2 => (0..NAMES).prop_map(Operation::Reference),
        3 => (0..NAMES).prop_map(Operation::Dereference),
        6 => (0..NAMES, 0..NAMES).prop_map(|(to, from)| Operation::Link(to, from)),
        2 => (0..NAMES, 0..NAMES).prop_map(|(to, from)| Operation::Unlink(to, from)),
        3 => (0..4u64, 0..NAMES).prop_map(|(name, blob)| Operation::SetName(name, blob)),
        1 => (0..4u64).prop_map(Operation::RemoveName),
        1 => (0..4u64).prop_map(Operation::ReleaseName),
    ]
}

/// The references that callers hold, and what a blob links to.
#[derive(Clone, Default)]
struct Model {
    blobs: BTreeMap<u64, (u64, BTreeSet<u64>)>,
    names: BTreeMap<u64, u64>,
    dead_bytes: u64,
}

#[derive(Debug, PartialEq)]
enum Refusal {
    NotFound(u64),
    NoSpare(u64),
    Cycle,
    NotLinked,
    NoSuchName(u64),
}

impl Model {
    fn need(&mut self, name: u64) -> Result<&mut (u64, BTreeSet<u64>), Refusal> {
        self.blobs.get_mut(&name).ok_or(Refusal::NotFound(name))
    }

    fn take(&mut self, name: u64) -> Result<(), Refusal> {
        let held = &mut self.need(name)?.0;
        *held = held.checked_sub(1).ok_or(Refusal::NoSpare(name))?;
        Ok(())
    }

    fn inbound(&self, name: u64) -> BTreeSet<u64> {
        self.blobs.iter().filter(|(_, (_, links))| links.contains(&name)).map(|(&from, _)| from).collect()
    }

    fn names_of(&self, blob: u64) -> u64 {
        self.names.values().filter(|&&target| target == blob).count() as u64
    }

    fn reaches(&self, start: u64, goal: u64) -> bool {
        start == goal || self.blobs[&start].1.iter().any(|&next| self.reaches(next, goal))
    }

    /// Until nothing changes: who is held by nobody is gone.
    fn sweep(&mut self) -> u64 {
        let mut gone = 0;
        while let Some(name) = self
            .blobs
            .keys()
            .copied()
            .find(|&name| self.blobs[&name].0 == 0 && self.inbound(name).is_empty() && self.names_of(name) == 0)
        {
            self.blobs.remove(&name);
            let lead = if length(name) >= LARGE_BYTES { PAGE_BYTES } else { 0 };
            self.dead_bytes += frame_bytes(digest(name).algorithm(), length(name)) + lead;
            gone += 1;
        }
        gone
    }

    /// How many blobs died, or why not.
    fn run(&mut self, operation: Operation) -> Result<u64, Refusal> {
        match operation {
            Operation::Put(name) => self.blobs.entry(name).or_default().0 += 1,
            Operation::Reference(name) => self.need(name)?.0 += 1,
            Operation::Dereference(name) => self.take(name)?,
            Operation::Link(to, from) => {
                self.need(to)?;
                self.need(from)?;
                self.take(to)?;
                if self.reaches(to, from) {
                    self.need(to)?.0 += 1;
                    return Err(Refusal::Cycle);
                }
                self.need(from)?.1.insert(to);
            }
            Operation::Unlink(to, from) => {
                self.need(to)?;
                if !self.need(from)?.1.remove(&to) {
                    return Err(Refusal::NotLinked);
                }
            }
            Operation::SetName(name, blob) => {
                self.take(blob)?;
                self.names.insert(name, blob);
            }
            Operation::RemoveName(name) => {
                self.names.remove(&name).ok_or(Refusal::NoSuchName(name))?;
                self.dead_bytes += NAME_FRAME_BYTES;
            }
            Operation::ReleaseName(name) => {
                let blob = self.names.remove(&name).ok_or(Refusal::NoSuchName(name))?;
                self.need(blob)?.0 += 1;
                self.dead_bytes += NAME_FRAME_BYTES;
            }
        }
        Ok(self.sweep())
    }

    fn check(&self, memory: &Memory) {
        assert_eq!(memory.ids.len(), self.blobs.len());
        let id = |name: &u64| memory.ids[&digest(*name)];
        for (name, (callers, links)) in &self.blobs {
            let record = memory.record(&digest(*name));
            let inbound = self.inbound(*name);
            let held = inbound.len() as u64 + self.names_of(*name);
            assert_eq!(u64::from(record.references), callers + held);
            assert_eq!(u64::from(record.held), held);
            assert_eq!(record.out_count, links.len() as u64);
            assert_eq!(memory.list(Side::Out, &record), links.iter().map(id).collect());
            assert_eq!(memory.list(Side::In, &record), inbound.iter().map(id).collect());
        }
        let links = self.blobs.values().map(|(_, links)| links.len() as u64).sum();
        let blobs = self.blobs.len() as u64;
        let names = self.names.len() as u64;
        let target = |number: &u64| memory.name(&name(*number)).unwrap().map(|name| name.target);
        assert!(self.names.iter().all(|(number, blob)| target(number) == Some(id(blob))));
        assert_eq!(memory.ring().len() as u64, names);
        assert_eq!(memory.records.len() as u64, blobs + links + names + u64::from(names > 0));
        let live_bytes = self.blobs.keys().map(|&name| length(name)).sum();
        let commits = memory.counters.commits;
        let expected = CountersNow { blobs, links, names, live_bytes, dead_bytes: self.dead_bytes, commits };
        assert_eq!(memory.counters, expected);
    }
}

fn run(changes: &mut Changes<'_, Memory>, next: &mut u64, operation: Operation) -> Result<u64, Refusal> {
    let name_of = |found: &Digest| u64::from(found.as_bytes()[8]);
    let result = match operation {
        Operation::Put(name) => put(changes, next, name).map(|_| 0),
        Operation::Reference(name) => changes.reference(&digest(name)).map(|_| 0),
        Operation::Dereference(name) => changes.dereference(&digest(name)).map(|removed| removed.blobs()),
        Operation::Link(to, from) => changes.link(&digest(to), &digest(from)).map(|()| 0),
        Operation::Unlink(to, from) => changes.unlink(&digest(to), &digest(from)).map(|removed| removed.blobs()),
        Operation::SetName(name, blob) => set(changes, next, name, blob).map(|named| named.removed.blobs()),
        Operation::RemoveName(number) => changes.remove_name(&name(number)).map(|removed| removed.blobs()),
        Operation::ReleaseName(number) => match changes.find_name(&name(number)).unwrap() {
            Some(at) => changes.release_name(changes.names[at].now.place()).map(|()| 0),
            None => Err(Error::NoSuchName { name: name(number) }),
        },
    };
    result.map_err(|error| match error {
        Error::NotFound { digest } => Refusal::NotFound(name_of(&digest)),
        Error::NoSpareReference { digest, .. } => Refusal::NoSpare(name_of(&digest)),
        Error::WouldCycle { .. } => Refusal::Cycle,
        Error::NotLinked { .. } => Refusal::NotLinked,
        Error::NoSuchName { name: given } => Refusal::NoSuchName((0..4).find(|&n| name(n) == given).unwrap()),
        other => panic!("{other}"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 3000 }))]

    #[test]
    fn random_batches_do_what_a_plain_model_does(
        batches in prop::collection::vec(prop::collection::vec(operation(), 1..40), 1..8)
    ) {
        let (mut memory, mut model) = (Memory::default(), Model::default());
        for operations in batches {
            memory.batch(|changes, next| {
                for operation in operations {
                    // A refused operation changes nothing, so the batch goes on here.
                    assert_eq!(run(changes, next, operation), model.run(operation), "{operation:?}");
                }
            });
            model.check(&memory);
        }
    }
}
