//! The records as the next batch finds them: the index, and what is on its way into it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::State;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::graph::{Outcome, Records};
use crate::index::probe::Answer;
use crate::medium::Medium;
use crate::name::Name;
use crate::record::{BlobRecord, Key, LinkRecord, NameRecord, Neighbour, Record};
use crate::source::Source;
use crate::view::View;

/// Records on their way into the index, by key. `None` is one that is going.
#[derive(Default)]
pub(super) struct InFlight {
    /// Decided and not applied; those before `mapped` are in the maps.
    pub(super) waiting: Vec<(u64, Arc<Outcome>)>,
    pub(super) mapped: usize,
    pub(super) blobs: HashMap<Digest, (u64, Option<BlobRecord>), RandomState>,
    pub(super) ids: HashMap<Offset, (u64, Digest), RandomState>,
    pub(super) links: HashMap<(Offset, Offset), (u64, Option<LinkRecord>), RandomState>,
    /// Names and the anchor by their ids; the ids by the names.
    pub(super) names: HashMap<Offset, (u64, Option<NameRecord>), RandomState>,
    pub(super) texts: HashMap<Name, (u64, Option<Offset>), RandomState>,
}

impl InFlight {
    /// Puts what waits into the maps. Left until another batch is decided: a single caller never needs it.
    pub(super) fn map(&mut self) {
        for (ticket, outcome) in &self.waiting[self.mapped..] {
            for (image, digest) in outcome.iter() {
                match (image.record, digest) {
                    (Record::Blob(blob), Some(digest)) => {
                        self.ids.insert(blob.id, (*ticket, *digest));
                        let now = self.blobs.entry(*digest).or_insert((*ticket, None));
                        // A digest that died and came back in one batch has two images: the living one counts.
                        if !image.removed {
                            *now = (*ticket, Some(blob));
                        } else if now.0 != *ticket || now.1.is_none_or(|other| other.id == blob.id) {
                            *now = (*ticket, None);
                        }
                    }
                    (Record::Link(link), _) => {
                        let state = (!image.removed).then_some(link);
                        self.links.insert((link.from, link.to), (*ticket, state));
                    }
                    (Record::Name(name), _) => {
                        self.names.insert(name.id, (*ticket, (!image.removed).then_some(name)));
                    }
                    (Record::Blob(_), None) => {}
                }
            }
            for (name, id) in &outcome.names {
                self.texts.insert(name.clone(), (*ticket, *id));
            }
        }
        self.mapped = self.waiting.len();
    }

    /// Forgets what is in the index now, up to this ticket.
    pub(super) fn forget(&mut self, upto: u64) {
        let applied = self.waiting.iter().take_while(|(ticket, _)| *ticket <= upto).count();
        for (ticket, outcome) in self.waiting.drain(..applied).take(self.mapped) {
            for (image, digest) in outcome.iter() {
                match (image.record, digest) {
                    (Record::Blob(blob), Some(digest)) => {
                        forget_entry(&mut self.ids, &blob.id, ticket);
                        forget_entry(&mut self.blobs, digest, ticket);
                    }
                    (Record::Link(link), _) => forget_entry(&mut self.links, &(link.from, link.to), ticket),
                    (Record::Name(name), _) => forget_entry(&mut self.names, &name.id, ticket),
                    (Record::Blob(_), None) => {}
                }
            }
            for (name, _) in &outcome.names {
                forget_entry(&mut self.texts, name, ticket);
            }
        }
        self.mapped = self.mapped.saturating_sub(applied);
    }
}

/// Removes an entry, unless a later batch has put it there.
fn forget_entry<K: Eq + Hash, V>(entries: &mut HashMap<K, (u64, V), RandomState>, key: &K, ticket: u64) {
    if entries.get(key).is_some_and(|entry| entry.0 == ticket) {
        entries.remove(key);
    }
}

/// The records as the next batch finds them.
pub(super) struct Current<'a, M: Medium> {
    pub(super) state: &'a State,
    pub(super) source: &'a Source<M>,
    /// The source's view when this was made.
    pub(super) view: Arc<View<M>>,
}

impl<'a, M: Medium> Current<'a, M> {
    pub(super) fn new(state: &'a State, source: &'a Source<M>) -> Current<'a, M> {
        Current { state, source, view: source.view() }
    }

    /// Asks the view, which takes no look at whether it is still the newest: nobody overtakes a writer's, and what one
    /// that has failed meanwhile decides comes to nothing. Where it has no answer the source may have another one.
    fn ask<T>(&self, question: impl Fn(&View<M>) -> Answer<T>) -> Result<T> {
        question(&self.view).or_else(|_| self.source.ask(question))
    }
}

impl<M: Medium> Records for Current<'_, M> {
    fn blob(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        match self.state.in_flight.blobs.get(digest) {
            Some((_, blob)) => Ok(*blob),
            None => self.ask(|view| view.blob_record(digest)),
        }
    }

    fn blob_by_id(&self, id: Offset) -> Result<(BlobRecord, Digest)> {
        let digest = match self.state.in_flight.ids.get(&id) {
            Some((_, digest)) => *digest,
            None => self.ask(|view| view.digest_at(id))?,
        };
        match self.blob(&digest)? {
            Some(blob) if blob.id == id => Ok((blob, digest)),
            _ => Err(self.damaged(id, "a list of links names a blob that has no record")),
        }
    }

    fn link(&self, from: Offset, to: Offset) -> Result<Option<LinkRecord>> {
        if let Some((_, link)) = self.state.in_flight.links.get(&(from, to)) {
            return Ok(*link);
        }
        let tag = self.link_tag(from, to);
        match self.ask(|view| view.record(Key::Link(from, to), tag))? {
            Some(Record::Link(link)) => Ok(Some(link)),
            _ => Ok(None),
        }
    }

    fn link_tag(&self, from: Offset, to: Offset) -> u64 {
        self.source.tagger().of_link(from, to)
    }

    fn name(&self, name: &Name) -> Result<Option<NameRecord>> {
        let in_flight = &self.state.in_flight;
        let id = match in_flight.texts.get(name) {
            Some((_, Some(id))) => *id,
            Some((_, None)) => return Ok(None),
            None => match self.ask(|view| view.name_record(name))? {
                // Its neighbours, or it itself, may be on their way.
                Some(record) if !in_flight.names.contains_key(&record.id) => return Ok(Some(record)),
                Some(record) => record.id,
                None => return Ok(None),
            },
        };
        self.name_at(Neighbour { id, tag: self.source.tagger().of_name(name.as_str()) })
    }

    fn name_at(&self, place: Neighbour) -> Result<Option<NameRecord>> {
        match self.state.in_flight.names.get(&place.id) {
            Some((_, name)) => Ok(*name),
            None => self.ask(|view| view.ring_record(place)),
        }
    }

    fn anchor_tag(&self) -> u64 {
        self.source.tagger().of_name("")
    }

    fn damaged(&self, at: Offset, what: &str) -> Error {
        Error::damaged(self.source.medium().path(), at.0, what)
    }
}

#[cfg(test)]
mod tests;
