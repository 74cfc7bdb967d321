//! What a blob keeps.

use super::graph::Graph;
use super::{Amount, Kept};
use crate::digest::Digest;
use crate::error::Result;
use crate::graph::Side;
use crate::medium::Medium;
use crate::pack::Shared;
use crate::still::stand_still;

/// A blob and all that its links lead to; see [`Store::tree`](crate::Store::tree).
pub struct Tree {
    graph: Graph,
    blobs: Vec<Kept>,
    /// Blobs that nothing outside of the tree keeps: they would go if the blob at the top went.
    pub unique: Amount,
    /// Blobs that something outside of the tree keeps too: a name, a reference that a caller holds, another blob.
    pub shared: Amount,
    /// A writer in another process was at work: the tree is that of about now.
    pub moving: bool,
}

/// A line of a [`Tree`] as it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeLine<'t> {
    /// How many links it is away from the top, this way.
    pub depth: usize,
    /// Whether it is the last of what the blob above links to.
    pub is_last: bool,
    /// The blob.
    pub blob: &'t Kept,
    /// It stood in an earlier line, and what it links to there.
    pub is_repeated: bool,
}

/// The lines of a tree; see [`Tree::lines`].
pub struct Lines<'t> {
    tree: &'t Tree,
    drawn: Vec<bool>,
    /// From the top down: a blob, and how many of its links were followed.
    path: Vec<(usize, usize)>,
    begun: bool,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("unique", &self.unique).field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("depth", &self.path.len()).finish_non_exhaustive()
    }
}

impl Tree {
    /// All blobs, each once; the first is that at the top.
    #[must_use]
    pub fn blobs(&self) -> &[Kept] {
        &self.blobs
    }

    /// All links, each once, as positions in [`blobs`](Tree::blobs): from and to.
    pub fn links(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.blobs.len()).flat_map(|from| self.graph.next(from).iter().map(move |&to| (from, to)))
    }

    /// The lines in which it is drawn: a blob, then what it links to, in the order in which the links were made. What a
    /// blob links to is drawn once, so that there are as many lines as links, and one.
    #[must_use]
    pub fn lines(&self) -> Lines<'_> {
        Lines { tree: self, drawn: vec![false; self.blobs.len()], path: Vec::new(), begun: false }
    }
}

impl<'t> Iterator for Lines<'t> {
    type Item = TreeLine<'t>;

    fn next(&mut self) -> Option<TreeLine<'t>> {
        if !std::mem::replace(&mut self.begun, true) {
            return Some(self.line(0, true));
        }
        loop {
            let (from, followed) = self.path.last_mut()?;
            let links = self.tree.graph.next(*from);
            if let Some(&to) = links.get(*followed) {
                *followed += 1;
                let is_last = *followed == links.len();
                return Some(self.line(to, is_last));
            }
            self.path.pop();
        }
    }
}

impl<'t> Lines<'t> {
    fn line(&mut self, number: usize, is_last: bool) -> TreeLine<'t> {
        let depth = self.path.len();
        let is_repeated = std::mem::replace(&mut self.drawn[number], true);
        if !is_repeated {
            self.path.push((number, 0));
        }
        TreeLine { depth, is_last, blob: &self.tree.blobs[number], is_repeated }
    }
}

/// Everything that the blob's links lead to; see [`Store::tree`](crate::Store::tree).
pub fn tree<M: Medium>(shared: &Shared<M>, digest: &Digest) -> Result<Tree> {
    let (mut tree, moving) = stand_still(shared, |sight| {
        let graph = Graph::reach(sight.view, digest, Side::Out)?;
        let mut is_unique = vec![false; graph.nodes.len()];
        graph.remove(0, &mut graph.references(), |number| is_unique[number] = true, |_| {});
        let (mut unique, mut shared, mut blobs) = (Amount::default(), Amount::default(), Vec::new());
        for (node, is_unique) in graph.nodes.iter().zip(is_unique) {
            if is_unique {
                unique.add(node.size, node.space)
            } else {
                shared.add(node.size, node.space)
            }
            blobs.push(node.kept(sight.view, !is_unique)?);
        }
        Ok(Tree { graph, blobs, unique, shared, moving: false })
    })?;
    tree.moving = moving;
    Ok(tree)
}
