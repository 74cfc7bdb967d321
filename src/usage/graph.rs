//! Blobs and the links between them, in memory.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Kept;
use crate::compact::for_all_records;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{Offset, to_u64};
use crate::graph::{Side, space_bytes};
use crate::medium::Medium;
use crate::record::{BlobRecord, Key, Record};
use crate::view::View;

/// A blob without its digest, which is in its frame.
#[derive(Clone, Copy)]
pub(super) struct Node {
    pub(super) id: Offset,
    pub(super) size: u64,
    /// See [`space_bytes`].
    pub(super) space: u64,
    references: u32,
    /// Those that neither links nor names hold.
    pub(super) own: u32,
    link_count: u64,
}

impl Node {
    fn of(blob: &BlobRecord) -> Node {
        Node {
            id: blob.id,
            size: blob.length,
            space: space_bytes(blob),
            references: blob.references,
            own: blob.references.saturating_sub(blob.held),
            link_count: blob.out_count,
        }
    }

    /// The blob as callers are told of it.
    pub(super) fn kept<M: Medium>(&self, view: &View<M>, shared: bool) -> Result<Kept> {
        let digest = view.digest_at(self.id).map_err(|stop| stop.into_error(view))?;
        let (ref_count, link_count) = (self.references.into(), self.link_count);
        Ok(Kept { digest, size: self.size, ref_count, link_count, shared })
    }
}

/// Blobs by number, and for each the numbers of its neighbours one way.
#[derive(Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    /// Where the neighbours of each begin in `ends`; one more than there are nodes.
    starts: Vec<usize>,
    ends: Vec<usize>,
}

impl Graph {
    /// All that can be reached from a blob, which is number 0. Links out are in the order in which they were made.
    pub(super) fn reach<M: Medium>(view: &View<M>, digest: &Digest, side: Side) -> Result<Graph> {
        let first = view.blob_record(digest).map_err(|stop| stop.into_error(view))?;
        let first = first.ok_or(Error::NotFound { digest: *digest })?;
        let mut graph = Graph { nodes: vec![Node::of(&first)], starts: vec![0], ends: Vec::new() };
        let mut numbers: HashMap<Offset, usize, RandomState> = HashMap::from_iter([(first.id, 0)]);
        let mut records = vec![first];
        let mut at = 0;
        while let Some(blob) = records.get(at).copied() {
            let from = graph.ends.len();
            for id in neighbours(view, &blob, side)? {
                let number = match numbers.get(&id) {
                    Some(&number) => number,
                    None => {
                        let record = record_of(view, id)?;
                        numbers.insert(id, records.len());
                        graph.nodes.push(Node::of(&record));
                        records.push(record);
                        records.len() - 1
                    }
                };
                graph.ends.push(number);
            }
            // New links go to the head of their list.
            graph.ends[from..].reverse();
            graph.starts.push(graph.ends.len());
            at += 1;
        }
        Ok(graph)
    }

    /// All blobs of the pack and their links out, by id.
    pub(super) fn whole<M: Medium>(view: &View<M>) -> Result<Graph> {
        let (mut nodes, mut links) = (Vec::new(), Vec::new());
        for_all_records(view, |record| {
            match record {
                Record::Blob(blob) => nodes.push(Node::of(blob)),
                Record::Link(link) => links.push((link.from, link.to)),
                Record::Name(_) => {}
            }
            Ok(())
        })?;
        nodes.sort_unstable_by_key(|node| node.id);
        links.sort_unstable();
        let mut graph = Graph { nodes, starts: vec![0], ends: Vec::with_capacity(links.len()) };
        let mut links = links.into_iter().peekable();
        for number in 0..graph.nodes.len() {
            while let Some(&(from, to)) = links.peek().filter(|(from, _)| *from <= graph.nodes[number].id) {
                let end = graph.number(to).filter(|_| from == graph.nodes[number].id);
                graph.ends.push(end.ok_or_else(|| view.damaged(from, "a link between blobs that are not both there"))?);
                links.next();
            }
            graph.starts.push(graph.ends.len());
        }
        match links.next() {
            Some((from, _)) => Err(view.damaged(from, "a link from a blob that is not there")),
            None => Ok(graph),
        }
    }

    /// The number of a blob of a [`whole`](Graph::whole) graph.
    pub(super) fn number(&self, id: Offset) -> Option<usize> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok()
    }

    /// The numbers of a blob's neighbours.
    pub(super) fn next(&self, number: usize) -> &[usize] {
        &self.ends[self.starts[number]..self.starts[number + 1]]
    }

    /// The references of all blobs, to be counted down by [`remove`](Graph::remove).
    pub(super) fn references(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.references).collect()
    }

    /// Lets go of what a dead blob links to, and so on: calls `died` with each blob that has no reference left, the
    /// first one included, and `dropped` with each that lost one.
    pub(super) fn remove(
        &self,
        first: usize,
        left: &mut [u32],
        mut died: impl FnMut(usize),
        mut dropped: impl FnMut(usize),
    ) {
        let mut dying = vec![first];
        while let Some(number) = dying.pop() {
            died(number);
            for &to in self.next(number) {
                // Already dead ones can only be met again in a damaged pack.
                if let Some(fewer) = left[to].checked_sub(1) {
                    left[to] = fewer;
                    dropped(to);
                    if fewer == 0 {
                        dying.push(to);
                    }
                }
            }
        }
    }
}

fn record_of<M: Medium>(view: &View<M>, id: Offset) -> Result<BlobRecord> {
    let stopped = |stop: crate::index::probe::Stop| stop.into_error(view);
    let digest = view.digest_at(id).map_err(stopped)?;
    match view.record(Key::Blob(id), view.tagger().of_blob(&digest)).map_err(stopped)? {
        Some(Record::Blob(blob)) => Ok(blob),
        _ => Err(view.damaged(id, "a link speaks of a blob that has no record")),
    }
}

/// The ids of a blob's neighbours, the newest first. The list is no longer than its count.
fn neighbours<M: Medium>(view: &View<M>, blob: &BlobRecord, side: Side) -> Result<Vec<Offset>> {
    let (mut next, count) = (side.first(blob), side.limit(blob));
    let mut ids = Vec::new();
    while next != Offset::NONE {
        if to_u64(ids.len()) == count {
            return Err(view.damaged(blob.id, "a list of links is longer than its count"));
        }
        ids.push(next);
        let (from, to) = side.ends(blob.id, next);
        let link = view.record(Key::Link(from, to), view.tagger().of_link(from, to));
        next = match link.map_err(|stop| stop.into_error(view))? {
            Some(Record::Link(link)) => side.next(&link),
            _ => return Err(view.damaged(blob.id, "a list of links is broken")),
        };
    }
    Ok(ids)
}
