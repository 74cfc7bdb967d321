//! What names keep, and what references without a name do.

use super::Amount;
use super::graph::Graph;
use crate::digest::Digest;
use crate::error::Result;
use crate::format::{name_frame_bytes, to_u64};
use crate::medium::Medium;
use crate::name::Name;
use crate::pack::Shared;
use crate::still::stand_still;

/// Who holds a blob other than by a link.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holder {
    /// A name.
    Name(Name),
    /// Callers: so many references were taken and not dropped.
    Callers(u32),
}

impl Holder {
    /// Callers, if they hold a reference at all.
    pub(super) fn callers(references: u32) -> Option<Holder> {
        (references > 0).then_some(Holder::Callers(references))
    }
}

/// What one name, or all references without a name, keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Keeps {
    /// What nothing else keeps: what would be removed. Its reclaimable bytes include the name's own.
    pub unique: Amount,
    /// What others keep too.
    pub shared: Amount,
}

/// What a name keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NameUsage {
    /// The name.
    pub name: Name,
    /// The blob that has it.
    pub digest: Digest,
    /// What would go, and what would stay, if the name was removed.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub keeps: Keeps,
}

/// What is kept by whom; see [`Store::usage`](crate::Store::usage).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Usage {
    /// Each name, sorted, as if it was the only one to be removed.
    pub names: Vec<NameUsage>,
    /// What the references that callers hold keep, all together: blobs that would go if all of these were dropped are
    /// unique.
    pub callers: Keeps,
    /// How many such references there are.
    pub caller_references: u64,
    /// All blobs of the pack.
    pub total: Amount,
    /// A writer in another process was at work: the figures are those of about now.
    pub moving: bool,
}

/// Counts of the whole pack that are counted down for one dry run and put back after it.
struct DryRun<'g> {
    graph: &'g Graph,
    left: Vec<u32>,
    /// The dry run that a blob died in last.
    died: Vec<usize>,
    /// The dry run that reached a blob last.
    reached: Vec<usize>,
    run: usize,
}

impl DryRun<'_> {
    fn new(graph: &Graph) -> DryRun<'_> {
        let never = vec![0; graph.nodes.len()];
        DryRun { graph, left: graph.references(), died: never.clone(), reached: never, run: 0 }
    }

    /// What goes and what stays of all that is reached from some blobs, if so many references on each are dropped.
    fn usage(&mut self, roots: &[(usize, u32)]) -> Keeps {
        self.run += 1;
        let (run, nodes) = (self.run, &self.graph.nodes);
        let mut usage = Keeps::default();
        let mut dropped: Vec<(usize, u32)> = Vec::new();
        for &(root, references) in roots {
            let fewer = self.left[root].saturating_sub(references);
            dropped.push((root, self.left[root] - fewer));
            self.left[root] = fewer;
        }
        for &(root, _) in roots {
            // A link from another root may have been its last reference: then it has died with that.
            if self.left[root] == 0 && self.died[root] != run {
                let died = |number: usize| {
                    self.died[number] = run;
                    usage.unique.add(nodes[number].size, nodes[number].space);
                };
                self.graph.remove(root, &mut self.left, died, |number| dropped.push((number, 1)));
            }
        }
        let mut open: Vec<usize> = roots.iter().map(|&(root, _)| root).collect();
        while let Some(number) = open.pop() {
            if std::mem::replace(&mut self.reached[number], run) == run {
                continue;
            }
            if self.died[number] != run {
                usage.shared.add(nodes[number].size, nodes[number].space);
            }
            open.extend(self.graph.next(number));
        }
        dropped.into_iter().for_each(|(number, references)| self.left[number] += references);
        usage
    }
}

const NO_BLOB: &str = "a name speaks of a blob that has no record";

/// Who keeps what; see [`Store::usage`](crate::Store::usage).
pub fn usage<M: Medium>(shared: &Shared<M>) -> Result<Usage> {
    let (mut usage, moving) = stand_still(shared, |sight| {
        let graph = Graph::whole(sight.view)?;
        let mut usage = Usage::default();
        graph.nodes.iter().for_each(|node| usage.total.add(node.size, node.space));
        let own = |(number, node): (usize, &super::graph::Node)| (node.own > 0).then_some((number, node.own));
        let callers: Vec<(usize, u32)> = graph.nodes.iter().enumerate().filter_map(own).collect();
        usage.caller_references = callers.iter().map(|&(_, references)| u64::from(references)).sum();
        let mut dry_run = DryRun::new(&graph);
        usage.callers = dry_run.usage(&callers);
        let names = sight.view.names(!sight.is_moving).map_err(|stop| stop.into_error(sight.view))?;
        for (name, target) in names {
            let number = graph.number(target).ok_or_else(|| sight.view.damaged(target, NO_BLOB))?;
            let mut keeps = dry_run.usage(&[(number, 1)]);
            let own = &mut keeps.unique.reclaimable_bytes;
            *own = own.saturating_add(name_frame_bytes(to_u64(name.as_str().len())));
            let digest = sight.view.digest_at(target).map_err(|stop| stop.into_error(sight.view))?;
            usage.names.push(NameUsage { name, digest, keeps });
        }
        usage.names.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(usage)
    })?;
    usage.moving = moving;
    Ok(usage)
}
