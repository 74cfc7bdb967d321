//! The ring of all names, walked beside a writer.
//!
//! A name that goes while the walk stands on it is found to be gone when the walk wants to go on from it; then the walk
//! goes back to the last name before it that is still there. New names stand at the beginning of the ring, and no name
//! ever comes to stand behind another that is older, so nothing is left out and nothing is seen twice.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::probe::{ATTEMPTS, Answer, Stop};
use crate::format::Offset;
use crate::medium::Medium;
use crate::name::Name;
use crate::record::{Key, NameRecord, Neighbour, Record};
use crate::view::View;

impl<M: Medium> View<M> {
    /// All names with the ids of the blobs that have them, the newest name first. Names that come or go meanwhile may
    /// or may not be among them; all others are.
    ///
    /// `at_rest`: nobody changes the index now, so neighbours that disagree are damage, not a change under way.
    pub fn names(&self, at_rest: bool) -> Answer<Vec<(Name, Offset)>> {
        let at_rest = at_rest || self.is_private();
        let anchor = Neighbour::anchor(self.tagger().of_name(""));
        // The names that the walk came by, the anchor before `found`. What the walk goes back over is gone, and may be
        // there again under another id at the beginning of the ring.
        let mut path = vec![anchor];
        let mut seen: HashSet<Offset, RandomState> = HashSet::default();
        let mut found = Vec::new();
        let mut attempt = 0;
        loop {
            let place = *path.last().unwrap_or(&anchor);
            let Some(here) = self.ring_record(place)? else {
                if place.is_anchor() {
                    return Ok(found);
                }
                path.pop();
                found.pop();
                continue;
            };
            if here.next.is_anchor() {
                if self.ring_record(anchor)?.is_some_and(|anchor| anchor.previous == place) {
                    return Ok(found);
                }
            } else if !seen.contains(&here.next.id)
                && let Some(next) = self.ring_record(here.next)?.filter(|next| next.previous == place)
            {
                found.push((self.name_at(next.id)?, next.target));
                seen.insert(next.id);
                path.push(next.place());
                attempt = 0;
                continue;
            }
            attempt += 1;
            if at_rest && attempt > 1 || attempt == ATTEMPTS {
                let damaged = || self.damaged(place.id, "the ring of names is broken behind this one").into();
                return Err(if at_rest { damaged() } else { Stop::Busy });
            }
            self.wait(attempt);
        }
    }

    /// The record of a name, or of the anchor, by what leads to it; its text is not looked at.
    pub fn ring_record(&self, place: Neighbour) -> Answer<Option<NameRecord>> {
        Ok(self.record(Key::Name(place.id), place.tag)?.and_then(|record| match record {
            Record::Name(name) => Some(name),
            Record::Blob(_) | Record::Link(_) => None,
        }))
    }
}
