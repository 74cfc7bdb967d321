//! Where things were, and where they are in the new file.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::error::Result;
use crate::format::Offset;
use crate::medium::Medium;
use crate::record::{BlobRecord, LinkRecord, NameRecord, Neighbour, Record};
use crate::view::View;

/// The new ids by the old ones.
#[derive(Default)]
pub(super) struct Moves {
    pub(super) blobs: HashMap<Offset, Offset, RandomState>,
    pub(super) names: HashMap<Offset, Offset, RandomState>,
}

impl Moves {
    fn of<M: Medium>(&self, view: &View<M>, id: Offset) -> Result<Offset> {
        if id == Offset::NONE {
            return Ok(id);
        }
        let moved = self.blobs.get(&id).copied();
        moved.ok_or_else(|| view.damaged(id, "a link or a name speaks of a blob that has no record"))
    }

    /// The same for a name.
    fn of_name<M: Medium>(&self, view: &View<M>, id: Offset) -> Result<Offset> {
        if id == Offset::NONE {
            return Ok(id);
        }
        let moved = self.names.get(&id).copied();
        moved.ok_or_else(|| view.damaged(id, "the ring of names leads to a name that has no record"))
    }

    /// The same for what leads to one: names keep their tags.
    fn of_neighbour<M: Medium>(&self, view: &View<M>, place: Neighbour) -> Result<Neighbour> {
        Ok(Neighbour { id: self.of_name(view, place.id)?, ..place })
    }

    /// The record as it is in the new file.
    pub(super) fn moved<M: Medium>(&self, view: &View<M>, record: &Record) -> Result<Record> {
        Ok(match record {
            Record::Blob(blob) => Record::Blob(BlobRecord {
                id: self.of(view, blob.id)?,
                first_out: self.of(view, blob.first_out)?,
                first_in: self.of(view, blob.first_in)?,
                ..*blob
            }),
            Record::Link(link) => {
                let (from, to) = (self.of(view, link.from)?, self.of(view, link.to)?);
                Record::Link(LinkRecord {
                    tag: view.tagger().of_link(from, to),
                    from,
                    to,
                    next_out: self.of(view, link.next_out)?,
                    previous_out: self.of(view, link.previous_out)?,
                    next_in: self.of(view, link.next_in)?,
                    previous_in: self.of(view, link.previous_in)?,
                })
            }
            Record::Name(name) => Record::Name(NameRecord {
                tag: name.tag,
                id: self.of_name(view, name.id)?,
                target: self.of(view, name.target)?,
                next: self.of_neighbour(view, name.next)?,
                previous: self.of_neighbour(view, name.previous)?,
            }),
        })
    }
}
