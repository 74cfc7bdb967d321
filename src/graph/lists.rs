//! The two lists that a link stands in.

use super::{Changes, Records, Touched};
use crate::error::Result;
use crate::format::Offset;
use crate::record::{BlobRecord, LinkRecord};

/// Which of its lists. A list belongs to a blob, its owner; each link in it is named by the id of the blob at its other
/// end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// What the owner links to.
    Out,
    /// What links to the owner.
    In,
}

impl Side {
    /// The ends (from, to) of the link with this name.
    pub(crate) const fn ends(self, owner: Offset, name: Offset) -> (Offset, Offset) {
        match self {
            Side::Out => (owner, name),
            Side::In => (name, owner),
        }
    }

    pub(crate) const fn first(self, owner: &BlobRecord) -> Offset {
        match self {
            Side::Out => owner.first_out,
            Side::In => owner.first_in,
        }
    }

    /// The most links that the owner's list can have.
    pub(crate) fn limit(self, owner: &BlobRecord) -> u64 {
        match self {
            Side::Out => owner.out_count,
            Side::In => owner.held.into(),
        }
    }

    pub(crate) const fn previous(self, link: &LinkRecord) -> Offset {
        match self {
            Side::Out => link.previous_out,
            Side::In => link.previous_in,
        }
    }

    pub(crate) const fn next(self, link: &LinkRecord) -> Offset {
        match self {
            Side::Out => link.next_out,
            Side::In => link.next_in,
        }
    }

    const fn name(self, link: &LinkRecord) -> Offset {
        match self {
            Side::Out => link.to,
            Side::In => link.from,
        }
    }

    const fn first_mut(self, owner: &mut BlobRecord) -> &mut Offset {
        match self {
            Side::Out => &mut owner.first_out,
            Side::In => &mut owner.first_in,
        }
    }

    const fn previous_mut(self, link: &mut LinkRecord) -> &mut Offset {
        match self {
            Side::Out => &mut link.previous_out,
            Side::In => &mut link.previous_in,
        }
    }

    const fn next_mut(self, link: &mut LinkRecord) -> &mut Offset {
        match self {
            Side::Out => &mut link.next_out,
            Side::In => &mut link.next_in,
        }
    }

    const fn missing(self) -> &'static str {
        match self {
            Side::Out => "the list of links out leads to a link that is not there",
            Side::In => "the list of links in leads to a link that is not there",
        }
    }

    pub(super) const fn torn(self) -> &'static str {
        match self {
            Side::Out => "neighbours in the list of links out disagree",
            Side::In => "neighbours in the list of links in disagree",
        }
    }
}

impl<R: Records> Changes<'_, R> {
    /// Where a link stands in `links`, if it lives.
    pub(super) fn find_link(&mut self, from: Offset, to: Offset) -> Result<Option<usize>> {
        if let Some(&at) = self.by_ends.get(&(from, to)) {
            return Ok((!self.links[at].removed).then_some(at));
        }
        let Some(now) = self.base.link(from, to)? else { return Ok(None) };
        if (now.from, now.to) != (from, to) {
            return Err(self.base.damaged(from, "a link's record has other ends"));
        }
        let at = self.links.len();
        self.links.push(Touched { now, stored: true, changed: false, removed: false });
        self.by_ends.insert((from, to), at);
        Ok(Some(at))
    }

    /// Where the link stands that the list leads to.
    pub(super) fn need_link(&mut self, side: Side, owner: Offset, name: Offset) -> Result<usize> {
        let (from, to) = side.ends(owner, name);
        let found = if name == Offset::NONE { None } else { self.find_link(from, to)? };
        found.ok_or_else(|| self.base.damaged(owner, side.missing()))
    }

    /// A link that does not live yet, in no list.
    pub(super) fn add_link(&mut self, from: Offset, to: Offset) -> usize {
        let none = Offset::NONE;
        let tag = self.base.link_tag(from, to);
        let now = LinkRecord { tag, from, to, next_out: none, previous_out: none, next_in: none, previous_in: none };
        if let Some(&at) = self.by_ends.get(&(from, to)) {
            let link = &mut self.links[at];
            (link.now, link.changed, link.removed) = (now, true, false);
            return at;
        }
        let at = self.links.len();
        self.links.push(Touched { now, stored: false, changed: true, removed: false });
        self.by_ends.insert((from, to), at);
        at
    }

    /// Puts a link at the head of its owner's list.
    pub(super) fn hook(&mut self, side: Side, owner: usize, link: usize) -> Result<()> {
        let id = self.blobs[owner].now.id;
        let name = side.name(&self.links[link].now);
        let next = side.first(&self.blobs[owner].now);
        if next != Offset::NONE {
            let neighbour = self.need_link(side, id, next)?;
            self.relink(side, id, Side::previous_mut, neighbour, (Offset::NONE, name))?;
        }
        *side.next_mut(self.change_link(link)) = next;
        *side.first_mut(self.change_blob(owner)) = name;
        Ok(())
    }

    /// Takes a link out of its owner's list.
    pub(super) fn unhook(&mut self, side: Side, owner: usize, link: usize) -> Result<()> {
        let id = self.blobs[owner].now.id;
        let link = self.links[link].now;
        let (name, previous, next) = (side.name(&link), side.previous(&link), side.next(&link));
        if next != Offset::NONE {
            let neighbour = self.need_link(side, id, next)?;
            self.relink(side, id, Side::previous_mut, neighbour, (name, previous))?;
        }
        if previous != Offset::NONE {
            let neighbour = self.need_link(side, id, previous)?;
            return self.relink(side, id, Side::next_mut, neighbour, (name, next));
        }
        if side.first(&self.blobs[owner].now) != name {
            return Err(self.base.damaged(id, side.torn()));
        }
        *side.first_mut(self.change_blob(owner)) = next;
        Ok(())
    }

    /// Changes one pointer of a link from the first value, which it has to have, to the second.
    fn relink(
        &mut self,
        side: Side,
        owner: Offset,
        place: fn(Side, &mut LinkRecord) -> &mut Offset,
        link: usize,
        (old, new): (Offset, Offset),
    ) -> Result<()> {
        let pointer = place(side, self.change_link(link));
        if *pointer != old {
            return Err(self.base.damaged(owner, side.torn()));
        }
        *pointer = new;
        Ok(())
    }

    fn change_link(&mut self, at: usize) -> &mut LinkRecord {
        let link = &mut self.links[at];
        link.changed = true;
        &mut link.now
    }
}
