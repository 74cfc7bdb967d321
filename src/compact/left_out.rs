//! What a compaction leaves out where it is asked to: blobs whose bytes are damaged and names whose texts are, so that
//! a pack that lost something to its disk can be made whole without it.
//!
//! With a blob go its links and names. The reference that each of them held on another blob becomes a caller's, so that
//! nothing goes but what is lost; lists and ring are joined over the gaps.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use super::{Progress, for_all_records};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::log::read_name;
use crate::medium::Medium;
use crate::name::Name;
use crate::record::{BlobRecord, LinkRecord, NameRecord, Neighbour, Record};
use crate::verify::{Finding, read_blobs};
use crate::view::View;

type Map<K, V> = HashMap<K, V, RandomState>;

/// What is left out; by default nothing.
#[derive(Default)]
pub(super) struct LeftOut {
    blobs: HashSet<Offset, RandomState>,
    links: Map<(Offset, Offset), LinkRecord>,
    names: Map<Offset, NameRecord>,
    /// Whether no name is left, and so no ring.
    without_names: bool,
    /// How many links and names that are left out hold these blobs.
    held: Map<Offset, u32>,
    /// How many links that are left out these blobs have.
    out: Map<Offset, u64>,
    /// How often what is left out may still be stepped past.
    steps: Cell<usize>,
    /// What to tell of each blob and name.
    pub(super) findings: Vec<Finding>,
}

impl LeftOut {
    /// Reads every blob, and finds what can't be copied.
    pub(super) fn find<M: Medium>(view: &View<M>, progress: &mut dyn FnMut(Progress)) -> Result<LeftOut> {
        view.check_index_readable()?;
        let (mut blobs, mut names) = (Vec::new(), Vec::new());
        for_all_records(view, |record| {
            match record {
                Record::Blob(blob) => blobs.push((*blob, None)),
                Record::Name(name) if name.id != Offset::NONE => names.push(*name),
                Record::Name(_) | Record::Link(_) => {}
            }
            Ok(())
        })?;
        let mut lost = read_blobs(view, &mut blobs, progress);
        let digest_of = |id: Offset| blobs.binary_search_by_key(&id, |(blob, _)| blob.id).ok().and_then(|n| blobs[n].1);
        let mut left_out = LeftOut { blobs: lost.keys().copied().collect(), ..LeftOut::default() };
        for name in &names {
            left_out.name(view, name, digest_of(name.target))?;
        }
        left_out.without_names = left_out.names.len() == names.len();
        if !lost.is_empty() {
            for_all_records(view, |record| {
                if let Record::Link(link) = record {
                    left_out.link(link, digest_of(link.from), lost.get_mut(&link.to));
                }
                Ok(())
            })?;
        }
        left_out.findings.splice(..0, lost.into_values());
        Ok(left_out)
    }

    fn name<M: Medium>(&mut self, view: &View<M>, name: &NameRecord, digest: Option<Digest>) -> Result<()> {
        let medium = view.medium().as_ref();
        let end = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
        let is_its = |text: &Name| view.tagger().of_name(text.as_str()) == name.tag;
        let text = read_name(medium, view.marker(), name.id, end).ok().flatten().filter(is_its);
        let what = match (&text, self.blobs.contains(&name.target)) {
            (Some(_), false) => return Ok(()),
            (Some(_), true) => "the blob that has the name is left out",
            (None, _) => "the text of the name is damaged",
        };
        self.names.insert(name.id, *name);
        self.hold_less(name.target);
        let (offset, what) = (Some(name.id.0), what.into());
        self.findings.push(Finding { offset, digest, name: text, what, referrers: Vec::new() });
        Ok(())
    }

    /// A link; the digest of the blob that has it, and what is told of the one that it leads to if that is lost.
    fn link(&mut self, link: &LinkRecord, digest: Option<Digest>, lost: Option<&mut Finding>) {
        if !self.blobs.contains(&link.from) {
            let Some(finding) = lost else { return };
            finding.referrers.extend(digest);
            *self.out.entry(link.from).or_default() += 1;
        }
        self.links.insert((link.from, link.to), *link);
        self.hold_less(link.to);
    }

    fn hold_less(&mut self, blob: Offset) {
        if !self.blobs.contains(&blob) {
            *self.held.entry(blob).or_default() += 1;
        }
    }

    /// Calls `each` with every record of the index that is not left out, as it is without those that are, in the order
    /// of their tags.
    pub(super) fn for_the_others<M: Medium>(
        &self,
        view: &View<M>,
        mut each: impl FnMut(&Record) -> Result<()>,
    ) -> Result<()> {
        if self.findings.is_empty() {
            return for_all_records(view, each);
        }
        self.steps.set(4 * self.links.len() + 2 * self.names.len());
        for_all_records(view, |record| match self.without(view, record)? {
            Some(record) => each(&record),
            None => Ok(()),
        })
    }

    fn without<M: Medium>(&self, view: &View<M>, record: &Record) -> Result<Option<Record>> {
        let damaged = |id: Offset| view.damaged(id, "the blob has more links or names than its record counts");
        Ok(Some(match record {
            Record::Blob(blob) if self.blobs.contains(&blob.id) => return Ok(None),
            Record::Blob(blob) => {
                let held = blob.held.checked_sub(self.held.get(&blob.id).copied().unwrap_or(0));
                let out_count = blob.out_count.checked_sub(self.out.get(&blob.id).copied().unwrap_or(0));
                Record::Blob(BlobRecord {
                    held: held.ok_or_else(|| damaged(blob.id))?,
                    out_count: out_count.ok_or_else(|| damaged(blob.id))?,
                    first_out: self.past_links(view, blob.first_out, |to| (blob.id, to), |link| link.next_out)?,
                    first_in: self.past_links(view, blob.first_in, |from| (from, blob.id), |link| link.next_in)?,
                    ..*blob
                })
            }
            Record::Link(link) if self.links.contains_key(&(link.from, link.to)) => return Ok(None),
            Record::Link(link) => {
                let (out, into) = (|to| (link.from, to), |from| (from, link.to));
                Record::Link(LinkRecord {
                    next_out: self.past_links(view, link.next_out, out, |link| link.next_out)?,
                    previous_out: self.past_links(view, link.previous_out, out, |link| link.previous_out)?,
                    next_in: self.past_links(view, link.next_in, into, |link| link.next_in)?,
                    previous_in: self.past_links(view, link.previous_in, into, |link| link.previous_in)?,
                    ..*link
                })
            }
            Record::Name(name) if self.names.contains_key(&name.id) || self.without_names => return Ok(None),
            Record::Name(name) => Record::Name(NameRecord {
                next: self.past_names(view, name.next, |name| name.next)?,
                previous: self.past_names(view, name.previous, |name| name.previous)?,
                ..*name
            }),
        }))
    }

    /// The first link that stays, from this one on along its list.
    fn past_links<M: Medium>(
        &self,
        view: &View<M>,
        first: Offset,
        ends: impl Fn(Offset) -> (Offset, Offset),
        next: impl Fn(&LinkRecord) -> Offset,
    ) -> Result<Offset> {
        let mut at = first;
        while let Some(link) = self.links.get(&ends(at)) {
            self.step(view, first)?;
            at = next(link);
        }
        Ok(at)
    }

    /// The same for names and their ring.
    fn past_names<M: Medium>(
        &self,
        view: &View<M>,
        first: Neighbour,
        next: impl Fn(&NameRecord) -> Neighbour,
    ) -> Result<Neighbour> {
        let mut at = first;
        while let Some(name) = self.names.get(&at.id) {
            self.step(view, first.id)?;
            at = next(name);
        }
        Ok(at)
    }

    /// Steps past what is left out. In each list that it stands in one record before it does so, and one behind it; in
    /// forged ones any number, which could take for ever.
    fn step<M: Medium>(&self, view: &View<M>, first: Offset) -> Result<()> {
        let left = self.steps.get().checked_sub(1);
        self.steps.set(left.ok_or_else(|| view.damaged(first, "the lists of links or names do not end"))?);
        Ok(())
    }
}
