//! Whether a link would close a cycle.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::lists::Side;
use super::{Changes, Records};
use crate::error::Result;
use crate::format::Offset;
use crate::record::{BlobRecord, LinkRecord};

impl<R: Records> Changes<'_, R> {
    /// Whether `from` can be reached from `to`, or is `to`.
    ///
    /// Nothing reaches a blob without inbound links, so building bottom-up costs O(1) a link. Else two searches, down
    /// from `to` and up from `from`, go on in turns, one link each; either answer is final, so the shorter one sets the
    /// cost.
    pub(super) fn would_cycle(&self, to: Offset, from: &BlobRecord) -> Result<bool> {
        if to == from.id {
            return Ok(true);
        }
        if from.first_in == Offset::NONE {
            return Ok(false);
        }
        let mut down = Search::new(Side::Out, to, from.id);
        let mut up = Search::new(Side::In, from.id, to);
        loop {
            if let Some(found) = down.step(self)? {
                return Ok(found);
            }
            if let Some(found) = up.step(self)? {
                return Ok(found);
            }
        }
    }

    /// The record of a blob that a list leads to, which the batch does not touch.
    fn peek_blob(&self, id: Offset) -> Result<BlobRecord> {
        match self.by_id.get(&id) {
            Some(&at) if !self.blobs[at].removed => Ok(self.blobs[at].now),
            Some(_) => Err(self.base.damaged(id, "a link leads to a removed blob")),
            None => Ok(self.base.blob_by_id(id)?.0),
        }
    }

    fn peek_link(&self, from: Offset, to: Offset) -> Result<Option<LinkRecord>> {
        match self.by_ends.get(&(from, to)) {
            Some(&at) => Ok((!self.links[at].removed).then_some(self.links[at].now)),
            None => self.base.link(from, to),
        }
    }
}

/// A search along all lists of one side, a link at a time.
struct Search {
    side: Side,
    goal: Offset,
    seen: HashSet<Offset, RandomState>,
    /// Blobs whose lists are still to be walked.
    todo: Vec<Offset>,
    /// The blob whose list is being walked,
    owner: Offset,
    /// the neighbours that the walk is between,
    previous: Offset,
    next: Offset,
    /// and how many more links the list can have.
    left: u64,
}

impl Search {
    fn new(side: Side, start: Offset, goal: Offset) -> Search {
        let none = Offset::NONE;
        let seen = HashSet::from_iter([start]);
        Search { side, goal, seen, todo: vec![start], owner: none, previous: none, next: none, left: 0 }
    }

    /// One link further: `true` at the goal, `false` when there is nothing left. Every blob is walked once, and a list
    /// no further than its count, so the search ends whatever the records say.
    fn step<R: Records>(&mut self, changes: &Changes<'_, R>) -> Result<Option<bool>> {
        let side = self.side;
        if self.next == Offset::NONE {
            let Some(id) = self.todo.pop() else { return Ok(Some(false)) };
            let blob = changes.peek_blob(id)?;
            (self.owner, self.previous, self.next, self.left) =
                (id, Offset::NONE, side.first(&blob), side.limit(&blob));
            return Ok(None);
        }
        let name = self.next;
        let (from, to) = side.ends(self.owner, name);
        let link = changes.peek_link(from, to)?;
        let agrees = |link: &LinkRecord| self.left > 0 && side.previous(link) == self.previous;
        let Some(link) = link.filter(agrees) else { return Err(changes.base.damaged(self.owner, side.torn())) };
        if name == self.goal {
            return Ok(Some(true));
        }
        if self.seen.insert(name) {
            self.todo.push(name);
        }
        (self.previous, self.next, self.left) = (name, side.next(&link), self.left - 1);
        Ok(None)
    }
}
