//! What keeps a blob.

use super::Kept;
use super::graph::{Graph, Node};
use super::names::Holder;
use crate::digest::Digest;
use crate::error::Result;
use crate::format::Offset;
use crate::graph::Side;
use crate::medium::Medium;
use crate::name::Name;
use crate::pack::Shared;
use crate::still::stand_still;

/// A blob and all that keeps it alive; see [`Store::why`](crate::Store::why).
pub struct Why {
    graph: Graph,
    blobs: Vec<Kept>,
    holders: Vec<Vec<Holder>>,
    /// How many chains end at each blob.
    counts: Vec<u128>,
    /// A writer in another process was at work: the chains are those of about now.
    pub moving: bool,
}

/// One way in which a blob is kept alive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chain<'w> {
    /// Who holds the first blob.
    pub holder: &'w Holder,
    /// From that to the blob in question: each links to the next.
    pub blobs: Vec<&'w Kept>,
}

/// The chains of a [`Why`], one at a time; see [`Why::chains`].
pub struct Chains<'w> {
    why: &'w Why,
    /// From the blob in question upwards: a blob, and how many of its holders and referrers were told.
    path: Vec<(usize, usize)>,
}

impl std::fmt::Debug for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Why").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Chains<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chains").field("depth", &self.path.len()).finish_non_exhaustive()
    }
}

impl Why {
    /// The blob in question, then all that lead to it, each once.
    #[must_use]
    pub fn blobs(&self) -> &[Kept] {
        &self.blobs
    }

    /// Who holds a blob, by its position in [`blobs`](Why::blobs), other than by a link.
    #[must_use]
    pub fn holders(&self, blob: usize) -> &[Holder] {
        &self.holders[blob]
    }

    /// All links among these blobs, each once, as positions in [`blobs`](Why::blobs): from and to.
    pub fn links(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.blobs.len()).flat_map(|to| self.graph.next(to).iter().map(move |&from| (from, to)))
    }

    /// How many chains there are: 2^128 - 1 where there are more.
    #[must_use]
    pub fn count(&self) -> u128 {
        self.counts[0]
    }

    /// The chains. There may be exponentially many; each costs as much as it is long.
    #[must_use]
    pub fn chains(&self) -> Chains<'_> {
        Chains { why: self, path: vec![(0, 0)] }
    }
}

impl<'w> Iterator for Chains<'w> {
    type Item = Chain<'w>;

    fn next(&mut self) -> Option<Chain<'w>> {
        loop {
            let (blob, told) = self.path.last_mut()?;
            let (holders, above) = (&self.why.holders[*blob], self.why.graph.next(*blob));
            let number = *told;
            *told += 1;
            if let Some(holder) = holders.get(number) {
                let blobs = self.path.iter().rev().map(|&(blob, _)| &self.why.blobs[blob]).collect();
                return Some(Chain { holder, blobs });
            }
            match above.get(number - holders.len()) {
                // In a sound pack there is none without a chain.
                Some(&from) if self.why.counts[from] > 0 => self.path.push((from, 0)),
                Some(_) => {}
                None => {
                    self.path.pop();
                }
            }
        }
    }
}

/// Who holds each blob other than by links: names, sorted, then callers.
fn holders(graph: &Graph, mut names: Vec<(Name, Offset)>) -> Vec<Vec<Holder>> {
    names.sort_unstable_by(|one, other| (one.1, &one.0).cmp(&(other.1, &other.0)));
    let of = |node: &Node| {
        let first = names.partition_point(|(_, target)| *target < node.id);
        let its = names[first..].iter().take_while(|(_, target)| *target == node.id);
        its.map(|(name, _)| Holder::Name(name.clone())).chain(Holder::callers(node.own)).collect()
    };
    graph.nodes.iter().map(of).collect()
}

/// How many chains end at each blob: those of its referrers, and one for each holder of its own. `None` where links run
/// in a circle.
fn counts(graph: &Graph, holders: &[Vec<Holder>]) -> Option<Vec<u128>> {
    let mut counts: Vec<u128> = holders.iter().map(|holders| holders.len() as u128).collect();
    let mut open: Vec<usize> = (0..counts.len()).map(|number| graph.next(number).len()).collect();
    // Of each blob those that it links to: the other way.
    let mut below = vec![Vec::new(); counts.len()];
    for to in 0..counts.len() {
        graph.next(to).iter().for_each(|&from| below[from].push(to));
    }
    let mut ready: Vec<usize> = (0..counts.len()).filter(|&number| open[number] == 0).collect();
    let mut done = 0;
    while let Some(from) = ready.pop() {
        done += 1;
        for &to in &below[from] {
            counts[to] = counts[to].saturating_add(counts[from]);
            open[to] -= 1;
            if open[to] == 0 {
                ready.push(to);
            }
        }
    }
    (done == counts.len()).then_some(counts)
}

/// Everything that keeps the blob alive; see [`Store::why`](crate::Store::why).
pub fn why<M: Medium>(shared: &Shared<M>, digest: &Digest) -> Result<Why> {
    let (mut why, moving) = stand_still(shared, |sight| {
        let view = sight.view;
        let graph = Graph::reach(view, digest, Side::In)?;
        let blobs = graph.nodes.iter().map(|node| node.kept(view, false)).collect::<Result<_>>()?;
        let names = view.names(!sight.is_moving).map_err(|stop| stop.into_error(view))?;
        let holders = holders(&graph, names);
        let counts =
            counts(&graph, &holders).ok_or_else(|| view.damaged(graph.nodes[0].id, "links run in a circle"))?;
        Ok(Why { graph, blobs, holders, counts, moving: false })
    })?;
    why.moving = moving;
    Ok(why)
}
