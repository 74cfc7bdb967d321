//! What records say of each other: counts, lists of links, the ring of names.

use std::collections::HashMap;

use super::Verifier;
use crate::format::Offset;
use crate::graph::Side;
use crate::medium::Medium;
use crate::record::{BlobRecord, CountersNow, Key, NameRecord, Neighbour, Record};

impl<M: Medium> Verifier<'_, M> {
    /// Counts and lists of every blob.
    pub(super) fn graph(&mut self) {
        let blobs = std::mem::take(&mut self.blobs);
        let mut named = self.ring();
        for (blob, digest) in &blobs {
            let names = named.remove(&blob.id).unwrap_or(0);
            if blob.references < blob.held || blob.references == 0 {
                let what = format!("{} references, of which links and names hold {}", blob.references, blob.held);
                self.found(Some(blob.id), *digest, what);
            }
            for side in [Side::Out, Side::In] {
                if let Err(what) = self.list(blob, side, names) {
                    self.found(Some(blob.id), *digest, what);
                }
            }
        }
        let left = self.links.iter().filter(|(_, listed)| **listed != [true; 2]);
        let mut left: Vec<((Offset, Offset), [bool; 2])> = left.map(|(link, listed)| (*link, *listed)).collect();
        left.sort_unstable();
        for ((from, to), [is_out, is_in]) in left {
            let where_not = match (is_out, is_in) {
                (true, _) => "not on the list of links in",
                (_, true) => "not on the list of links out",
                _ => "on neither of its lists",
            };
            self.found(None, None, format!("the link from {from} to {to} is {where_not}"));
        }
        let mut astray: Vec<Offset> = named.into_keys().collect();
        astray.sort_unstable();
        for id in astray {
            self.found(Some(id), None, "a name is of a blob that has no record");
        }
        self.blobs = blobs;
    }

    /// Walks the ring of names both ways; each step uses up a name. Returns how many names each blob has.
    fn ring(&mut self) -> HashMap<Offset, u64> {
        for onward in [true, false] {
            let which = if onward { "the ring of names" } else { "the ring of names, walked back," };
            let mut left: HashMap<Offset, NameRecord> = self.names.iter().map(|(id, (name, _))| (*id, *name)).collect();
            let anchor = left.remove(&Offset::NONE);
            let mut at = anchor;
            if at.is_none() && !left.is_empty() {
                self.found(None, None, "there are names, but the anchor of their ring is not there");
                break;
            }
            while let Some(here) = at {
                let (next, back): (_, fn(&NameRecord) -> Neighbour) =
                    if onward { (here.next, |name| name.previous) } else { (here.previous, |name| name.next) };
                at = left.remove(&next.id);
                let tag = if next.is_anchor() { anchor.map(|anchor| anchor.tag) } else { at.map(|there| there.tag) };
                if at.is_none() && !next.is_anchor() {
                    self.found_of_name(here.id, format!("{which} is broken behind this one, at {}", next.id));
                } else if tag != Some(next.tag) {
                    self.found_of_name(here.id, format!("{which} is broken behind this one: it has another tag"));
                } else if at.is_some_and(|there| back(&there) != here.place()) {
                    self.found_of_name(next.id, format!("{which} does not lead back from this one"));
                }
            }
            let mut left: Vec<Offset> = left.into_keys().collect();
            left.sort_unstable();
            for id in left {
                self.found_of_name(id, format!("{which} does not lead to this one"));
            }
        }
        let mut named = HashMap::new();
        for (name, _) in self.names.values().filter(|(name, _)| name.id != Offset::NONE) {
            *named.entry(name.target).or_insert(0) += 1;
        }
        named
    }

    /// Walks a list; the number of steps is bounded by the count that the blob has.
    fn list(&mut self, blob: &BlobRecord, side: Side, names: u64) -> Result<(), String> {
        let (name, names) = match side {
            Side::Out => ("the list of links out", 0),
            Side::In => ("the list of links in", names),
        };
        let held = side.limit(blob);
        let Some(count) = held.checked_sub(names) else {
            return Err(format!("links and names hold {held} references, but it has {names} names"));
        };
        let mut next = side.first(blob);
        let mut previous = Offset::NONE;
        for _ in 0..count {
            let (from, to) = side.ends(blob.id, next);
            let tag = self.view.tagger().of_link(from, to);
            let Ok(Some(Record::Link(link))) = self.view.record(Key::Link(from, to), tag) else {
                return Err(format!("{name} is broken at {next}"));
            };
            if side.previous(&link) != previous {
                return Err(format!("{name} does not run back from {next}"));
            }
            if let Some(listed) = self.links.get_mut(&(from, to)) {
                listed[side as usize] = true;
            }
            (previous, next) = (next, side.next(&link));
        }
        if next == Offset::NONE { Ok(()) } else { Err(format!("{name} is longer than its count of {count}")) }
    }

    pub(super) fn counters(&mut self, counters: &CountersNow) {
        let live_bytes: u64 = self.blobs.iter().map(|(blob, _)| blob.length).sum();
        let pairs = [
            ("blobs", counters.blobs, self.result.blobs),
            ("links", counters.links, self.result.links),
            ("names", counters.names, self.result.names),
            ("payload bytes", counters.live_bytes, live_bytes),
        ];
        for (what, counted, there) in pairs {
            if counted != there {
                self.found(None, None, format!("the pack counts {counted} {what}, but there are {there}"));
            }
        }
    }

    /// Says of each blob that can't be had which others link to it.
    pub(super) fn referrers(&mut self) {
        let lost: HashMap<Offset, usize> = std::mem::take(&mut self.lost).into_iter().collect();
        if lost.is_empty() {
            return;
        }
        let mut links: Vec<(Offset, Offset)> = self.links.keys().copied().collect();
        links.sort_unstable();
        for (from, to) in links {
            let Some(finding) = lost.get(&to).and_then(|number| self.result.damage.get_mut(*number)) else { continue };
            let referrer = self.blobs.binary_search_by_key(&from, |(blob, _)| blob.id);
            finding.referrers.extend(referrer.ok().and_then(|number| self.blobs[number].1));
        }
    }
}
