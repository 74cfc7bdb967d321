//! The rules of names, and the ring that they stand in.
//!
//! The anchor is a neighbour like any other, so that a name needs no special case at either end. New names go behind
//! the anchor. The anchor comes with the first name and goes with the last. A neighbour is found without its text, so
//! names come and go beside one whose text is damaged.

use super::{Changes, Records, Removal, Removed, Touched};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::{Offset, name_frame_bytes, to_u64};
use crate::name::Name;
use crate::record::{NameRecord, Neighbour};

const TORN: &str = "neighbours in the ring of names disagree";

/// What setting a name came to.
pub struct Named {
    /// What the blob that had the name before took along.
    pub removed: Removed,
    /// Whether the name is new, so that its frame is needed.
    pub is_new: bool,
}

impl<R: Records> Changes<'_, R> {
    /// Moves a reference that the caller holds on a blob into a name, whose frame will stand at `id` if it is new. What
    /// had the name before loses the reference that the name held on it, and may die of that. Where the blob has the
    /// name already, the caller's reference is dropped; nothing can die of that.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoSpareReference`], and those of [`Records`].
    pub fn set_name(&mut self, name: &Name, tag: u64, id: Offset, digest: &Digest) -> Result<Named> {
        let at = self.need(digest)?;
        let named = self.find_name(name)?;
        self.need_spare(at)?;
        self.enter_id(at)?;
        let blob = self.blobs[at].now.id;
        let Some(named) = named else {
            self.add_name(name, NameRecord { id, target: blob, ..NameRecord::anchor(tag) })?;
            self.change_blob(at).held += 1;
            return Ok(Named { removed: Removed::default(), is_new: true });
        };
        let before = self.names[named].now.target;
        if before == blob {
            self.change_blob(at).references -= 1;
            return Ok(Named { removed: Removed::default(), is_new: false });
        }
        self.change_blob(at).held += 1;
        self.change_name(named).target = blob;
        Ok(Named { removed: self.drop_name_reference(before)?, is_new: false })
    }

    /// Removes a name and drops the reference that it held, so that the blob may die, and so on along its links.
    ///
    /// # Errors
    /// [`Error::NoSuchName`], and those of [`Records`].
    pub fn remove_name(&mut self, name: &Name) -> Result<Removed> {
        let Some(at) = self.find_name(name)? else { return Err(Error::NoSuchName { name: name.clone() }) };
        let frame_bytes = name_frame_bytes(to_u64(name.as_str().len()));
        let target = self.take_out(at, frame_bytes)?;
        let mut removed = self.drop_name_reference(target)?;
        removed.frame_bytes = removed.frame_bytes.saturating_add(frame_bytes);
        Ok(removed)
    }

    /// Removes a name whose text can't be read, by its record alone. The reference that it held belongs to a caller
    /// from then on, so that nothing dies of a damage. Its frame counts as the shortest one.
    ///
    /// # Errors
    /// Those of [`Records`]; that there is no such record is damage too.
    pub fn release_name(&mut self, place: Neighbour) -> Result<()> {
        let at = self.need_neighbour(place)?;
        let target = self.take_out(at, name_frame_bytes(1))?;
        let blob = self.need_by_id(target)?;
        self.release_held(blob)
    }

    /// Takes a name out of the ring; returns the id of the blob that it was of.
    fn take_out(&mut self, at: usize, frame_bytes: u64) -> Result<Offset> {
        let name = self.names[at].now;
        let NameRecord { id, target, next, previous, .. } = name;
        let [before, after] = [self.need_neighbour(previous)?, self.need_neighbour(next)?];
        if self.names[before].now.next != name.place() || self.names[after].now.previous != name.place() {
            return Err(self.base.damaged(id, TORN));
        }
        self.change_name(before).next = next;
        self.change_name(after).previous = previous;
        self.bury_name(at);
        if next.is_anchor() && previous.is_anchor() {
            self.bury_name(before);
        }
        self.counters.names = self.counters.names.saturating_sub(1);
        self.counters.dead_bytes = self.counters.dead_bytes.saturating_add(frame_bytes);
        Ok(target)
    }

    /// Drops the reference that a name held on the blob at `target`.
    fn drop_name_reference(&mut self, target: Offset) -> Result<Removed> {
        let at = self.need_by_id(target)?;
        if self.drop_held(at)? { self.remove(at) } else { Ok(Removed::default()) }
    }

    /// Puts a name that does not live yet behind the anchor.
    fn add_name(&mut self, name: &Name, mut record: NameRecord) -> Result<()> {
        let place = Neighbour::anchor(self.base.anchor_tag());
        let anchor = match self.find_neighbour(place)? {
            Some(at) => at,
            None => self.make_anchor(),
        };
        (record.next, record.previous) = (self.names[anchor].now.next, place);
        let after = self.need_neighbour(record.next)?;
        if self.names[after].now.previous != place {
            return Err(self.base.damaged(record.next.id, TORN));
        }
        self.change_name(after).previous = record.place();
        self.change_name(anchor).next = record.place();
        let at = self.take_in_name(Touched { now: record, stored: false, changed: true, removed: false });
        self.names_by_text.insert(name.clone(), at);
        self.counters.names = self.counters.names.saturating_add(1);
        Ok(())
    }

    /// The anchor of an empty ring; perhaps one that died in this batch.
    fn make_anchor(&mut self) -> usize {
        let now = NameRecord::anchor(self.base.anchor_tag());
        if let Some(&at) = self.names_by_id.get(&Offset::NONE) {
            let anchor = &mut self.names[at];
            (anchor.now, anchor.changed, anchor.removed) = (now, true, false);
            return at;
        }
        self.take_in_name(Touched { now, stored: false, changed: true, removed: false })
    }

    fn take_in_name(&mut self, name: Touched<NameRecord>) -> usize {
        let at = self.names.len();
        self.names_by_id.insert(name.now.id, at);
        self.names.push(name);
        at
    }

    /// Where the record of a name stands in `names`, if it lives.
    pub(super) fn find_name(&mut self, name: &Name) -> Result<Option<usize>> {
        if let Some(&at) = self.names_by_text.get(name) {
            return Ok((!self.names[at].removed).then_some(at));
        }
        let Some(now) = self.base.name(name)? else { return Ok(None) };
        if now.id == Offset::NONE || now.target == Offset::NONE {
            return Err(self.base.damaged(now.id, "a name's record has no frame or no blob"));
        }
        // It may have been touched as a neighbour.
        let at = match self.names_by_id.get(&now.id) {
            Some(&at) => at,
            None => self.take_in_name(Touched { now, stored: true, changed: false, removed: false }),
        };
        self.names_by_text.insert(name.clone(), at);
        Ok(Some(at))
    }

    /// Where the record of a name, or of the anchor, stands in `names`, if it lives.
    fn find_neighbour(&mut self, place: Neighbour) -> Result<Option<usize>> {
        if let Some(&at) = self.names_by_id.get(&place.id) {
            return Ok((!self.names[at].removed && self.names[at].now.tag == place.tag).then_some(at));
        }
        let Some(now) = self.base.name_at(place)? else { return Ok(None) };
        if now.place() != place {
            return Err(self.base.damaged(place.id, "a name's record names another frame"));
        }
        Ok(Some(self.take_in_name(Touched { now, stored: true, changed: false, removed: false })))
    }

    /// The same of one that the ring leads to.
    fn need_neighbour(&mut self, place: Neighbour) -> Result<usize> {
        let found = self.find_neighbour(place)?;
        found.ok_or_else(|| self.base.damaged(place.id, "the ring of names leads to a name that is not there"))
    }

    fn change_name(&mut self, at: usize) -> &mut NameRecord {
        let name = &mut self.names[at];
        name.changed = true;
        &mut name.now
    }

    /// Marks a name, or the anchor, as gone.
    fn bury_name(&mut self, at: usize) {
        self.names[at].removed = true;
        self.removals.push(Removal::Name(at));
    }
}
