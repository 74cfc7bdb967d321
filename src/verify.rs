//! Verifying a pack: everything that was written is read again and compared with what it must be.
//!
//! Checked are: both superblocks and the identity; every segment of the index, every record's checksum; every record
//! against the log, in both directions; every blob's frame and digest, read with system calls, so that an unreadable
//! sector is a finding and not a signal; every name's frame; reference counts, the lists of links and the ring of
//! names, walked both ways; the counters. It never stops at the first finding. Not checked: the space between frames,
//! and what commits of the past said that later ones replaced, beyond their checksums.
//!
//! Frames and payloads are read in the order of the file and hashed on all cores, while one of them compares the index
//! with the log first. Of 4 KiB blobs in the page cache hashing takes half of the processor's time, the copies of the
//! system calls a quarter (the map would spare them, but an unreadable sector would end the process), and the
//! comparison with the log, whose index is made anew in memory, a sixth.
//!
//! The pack must stand still meanwhile: on a store that writes, commits wait; beside a writer in another process only
//! what never changes is checked, which [`Verified::partial`] says. Where a writer comes in the middle of it, all is
//! checked again.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::compact::Progress;
use crate::digest::Digest;
use crate::error::{Damage, Error, Result};
use crate::format::{IDENTITY_AT, Identity, Offset, SUPERBLOCKS_AT, Superblock};
use crate::index::probe::Stop;
use crate::log::{Tail, read_name};
use crate::medium::Medium;
use crate::mend::digest_of_bytes;
use crate::name::Name;
use crate::pack::Shared;
use crate::record::{BlobRecord, CountersNow, NameRecord, Record};
use crate::recovery;
use crate::space::Space;
use crate::superblock::Superblocks;
use crate::view::{View, read_vec};

use contents::{Contents, Wrong, read_header};

mod contents;
mod graph;
#[cfg(test)]
mod tests;

/// So often is told how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(20);
/// So often a handle without a writer begins where others keep coming in the middle of it.
const ATTEMPTS: u32 = 4;

/// A piece of damage.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// Where in the file, in bytes, if it has a place.
    pub offset: Option<u64>,
    /// The blob that it concerns, if it concerns one.
    pub digest: Option<Digest>,
    /// The name that it concerns, if it concerns one that can be read.
    pub name: Option<Name>,
    /// What is wrong, in one line.
    pub what: String,
    /// Where a blob can't be had as it is: the blobs that link to it, and are incomplete without it.
    pub referrers: Vec<Digest>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(offset) = self.offset {
            write!(f, "offset {offset}: ")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "{digest}: ")?;
        }
        if let Some(name) = &self.name {
            write!(f, "name {:?}: ", name.as_str())?;
        }
        f.write_str(&self.what)?;
        for (index, referrer) in self.referrers.iter().enumerate() {
            write!(f, "{} {referrer}", if index == 0 { "; linked to by" } else { "," })?;
        }
        Ok(())
    }
}

impl From<Damage> for Finding {
    /// Damage that kept a pack from being opened.
    fn from(damage: Damage) -> Finding {
        let Damage { offset, what, .. } = damage;
        Finding { offset: Some(offset), digest: None, name: None, what, referrers: Vec::new() }
    }
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Verified {
    /// Blobs whose records were read.
    pub blobs: u64,
    /// Links whose records were read.
    pub links: u64,
    /// Names whose records were read.
    pub names: u64,
    /// Payload bytes compared with their digests.
    pub bytes: u64,
    /// All damage. Empty: the pack is sound.
    pub damage: Vec<Finding>,
    /// A writer in another process was at work, or a part of the index can't be read, so index and log, counts and
    /// counters were not compared. Beside a writer a blob whose record moved meanwhile may have been passed over.
    pub partial: bool,
}

/// One verification.
struct Verifier<'a, M: Medium> {
    view: &'a View<M>,
    /// Whether nothing changes the index meanwhile. Where a writer does, the walk may come upon a record again.
    is_still: bool,
    result: Verified,
    /// How many records the index holds, the anchor of the names among them, where all of it could be walked.
    records: Option<u64>,
    blobs: Vec<(BlobRecord, Option<Digest>)>,
    /// From and to, and which lists had it: that of links out, that of links in.
    links: HashMap<(Offset, Offset), [bool; 2], foldhash::fast::RandomState>,
    /// Blobs that can't be had, with the numbers of their findings.
    lost: Vec<(Offset, usize)>,
    /// Whether a part of the index can't be read: then nothing more is looked up in it.
    unreadable: bool,
    /// Names by their ids, with the texts that could be read; the anchor is that with the id `NONE`.
    names: HashMap<Offset, (NameRecord, Option<Name>), foldhash::fast::RandomState>,
}

impl<'a, M: Medium> Verifier<'a, M> {
    fn new(view: &'a View<M>, is_still: bool) -> Verifier<'a, M> {
        Verifier {
            view,
            is_still,
            result: Verified::default(),
            records: Some(0),
            blobs: Vec::new(),
            links: HashMap::default(),
            lost: Vec::new(),
            unreadable: false,
            names: HashMap::default(),
        }
    }

    fn found(&mut self, offset: Option<Offset>, digest: Option<Digest>, what: impl Into<String>) {
        let (offset, what) = (offset.map(|at| at.0), what.into());
        self.result.damage.push(Finding { offset, digest, name: None, what, referrers: Vec::new() });
    }

    /// Something about the name with this id.
    fn found_of_name(&mut self, id: Offset, what: impl Into<String>) {
        let name = self.names.get(&id).and_then(|(_, name)| name.clone());
        let offset = (id != Offset::NONE).then_some(id.0);
        self.result.damage.push(Finding { offset, digest: None, name, what: what.into(), referrers: Vec::new() });
    }

    fn failed(&mut self, error: Error) {
        self.failed_at(None, error);
    }

    fn failed_at(&mut self, at: Option<Offset>, error: Error) {
        match error {
            Error::Damaged(damage) => self.found(Some(Offset(damage.offset)), None, damage.what),
            other => self.found(at, None, other.to_string()),
        }
    }

    /// Identity and superblocks.
    fn heads(&mut self) {
        let medium = self.view.medium().clone();
        let read = |at: Offset, length: usize| read_vec(medium.as_ref(), at, length as u64);
        let identity = read(IDENTITY_AT, size_of::<Identity>());
        let identity = identity.ok().and_then(|bytes| zerocopy::FromBytes::read_from_bytes(&bytes).ok());
        if !identity.is_some_and(|identity: Identity| identity.is_sealed()) {
            self.found(Some(IDENTITY_AT), None, "the identity is damaged; a superblock's copy serves");
        }
        for at in SUPERBLOCKS_AT {
            let copy = read(at, size_of::<Superblock>());
            let copy = copy.ok().and_then(|bytes| zerocopy::FromBytes::read_from_bytes(&bytes).ok());
            if !copy.is_some_and(|copy: Superblock| copy.is_sealed()) {
                self.found(Some(at), None, "a superblock is damaged; the other one serves");
            }
        }
    }

    /// All records of the index, a segment at a time; a damaged one does not end it.
    fn index(&mut self) {
        let view = self.view;
        let walked = view.each_segment(|at, records| {
            if records.is_err() {
                self.records = None;
            }
            match records {
                Ok(records) => {
                    self.records = self.records.map(|so_far| so_far + records.len() as u64);
                    records.iter().for_each(|record| self.record(record));
                }
                Err(Stop::Failed(error) | Stop::Stuck(error)) => {
                    self.unreadable |= !error.is_damage();
                    self.failed_at(Some(at), error);
                }
                Err(Stop::Outgrown | Stop::Busy) => self.found(Some(at), None, "a segment of the index is not there"),
            }
            Ok(())
        });
        if let Err(error) = walked {
            self.unreadable |= !error.is_damage();
            self.failed_at(Some(view.live().directory), error);
        }
        self.blobs.sort_unstable_by_key(|(blob, _)| blob.id);
        if !self.is_still {
            self.blobs.dedup_by_key(|(blob, _)| (blob.id, blob.tag, blob.length));
        }
        self.result.blobs = self.blobs.len() as u64;
    }

    /// No two records are of one frame, nor of one digest.
    fn twice(&mut self) {
        let blobs = std::mem::take(&mut self.blobs);
        for pair in blobs.windows(2).filter(|pair| pair[0].0.id == pair[1].0.id) {
            self.found(Some(pair[1].0.id), pair[1].1, "the blob is there twice");
        }
        // Nearly always the first bytes tell two digests apart.
        let first_bytes =
            |digest: &Digest| digest.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let of =
            |(number, (_, digest)): (usize, &(BlobRecord, Option<Digest>))| Some((first_bytes(&(*digest)?), number));
        let mut order: Vec<(u64, usize)> = blobs.iter().enumerate().filter_map(of).collect();
        let digest = |place: &(u64, usize)| (&blobs[place.1].1, blobs[place.1].0.id);
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| digest(a).cmp(&digest(b))));
        for pair in order.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let ((one, at), (other, again)) = (digest(&pair[0]), digest(&pair[1]));
            if one == other && at != again {
                self.found(Some(again), *other, "the blob is there twice");
            }
        }
        self.blobs = blobs;
    }

    fn record(&mut self, record: &Record) {
        match record {
            Record::Name(name) => self.name(name),
            Record::Link(link) => {
                let is_again = self.links.insert((link.from, link.to), [false; 2]).is_some();
                self.result.links += u64::from(!is_again || self.is_still);
                if is_again && self.is_still {
                    self.found(None, None, format!("the link from {} to {} is there twice", link.from, link.to));
                }
            }
            Record::Blob(blob) => self.blobs.push((*blob, None)),
        }
    }

    fn name(&mut self, record: &NameRecord) {
        let is_anchor = record.id == Offset::NONE;
        let medium = self.view.medium();
        let read = || read_name(medium.as_ref(), self.view.marker(), record.id, medium.length().ok()?).ok()?;
        let text = if is_anchor { None } else { read() };
        let tag = self.view.tagger().of_name(text.as_ref().map_or("", Name::as_str));
        let unreadable = !is_anchor && text.is_none();
        let is_again = self.names.insert(record.id, (*record, text)).is_some();
        if is_again && !self.is_still {
            return;
        }
        self.result.names += u64::from(!is_anchor);
        if is_again {
            self.found_of_name(record.id, "the name is there twice");
        }
        if is_anchor && record.target != Offset::NONE {
            self.found_of_name(record.id, "the anchor of the names speaks of a blob");
        }
        if unreadable {
            self.found_of_name(record.id, "a record speaks of a name here, but there is none, or its text is damaged");
        } else if tag != record.tag {
            self.found_of_name(record.id, "the record has the tag of another name");
        }
    }

    /// The index against one rebuilt from the log alone; in both directions where their counts differ.
    fn against_log(&mut self, superblocks: &Superblocks, tail: &Tail) {
        let log = match recovery::rebuild_in_memory(self.view.medium(), superblocks, tail) {
            Ok(log) => log,
            Err(error) => return self.failed(error),
        };
        let found = self.compare(&log, self.view, "is in the log, but not so in the index");
        // Where all of the log is found in the index, and that holds no more, there is nothing else in it.
        if found.is_none() || found != self.records {
            self.compare(self.view, &log, "is in the index, but not so in the log");
        }
    }

    /// How many records both have, if all of one are in the other.
    fn compare(&mut self, one: &View<M>, other: &View<M>, what: &str) -> Option<u64> {
        let (mut found, mut differs) = (0, false);
        // What is wrong with a segment was found before.
        let walked = one.each_segment(|_, records| {
            for record in records.into_iter().flatten() {
                let there = other.record(record.key(), record.tag());
                if matches!(there, Ok(Some(there)) if there == record) {
                    found += 1;
                } else {
                    differs = true;
                    self.differs(&record, what);
                }
            }
            Ok(())
        });
        if let Err(error) = walked {
            self.failed(error);
            return None;
        }
        (!differs).then_some(found)
    }

    fn differs(&mut self, record: &Record, what: &str) {
        match record {
            Record::Blob(blob) => {
                let digest = read_header(self.view, blob.id).ok().flatten().and_then(|frame| frame.digest);
                self.found(Some(blob.id), digest, format!("the blob's record {what}"));
            }
            Record::Link(link) => {
                self.found(None, None, format!("the link from {} to {} {what}", link.from, link.to));
            }
            Record::Name(NameRecord { id: Offset::NONE, .. }) => {
                self.found(None, None, format!("the anchor of the names {what}"));
            }
            Record::Name(name) => self.found_of_name(name.id, format!("the name's record {what}")),
        }
    }

    /// Every blob's frame and payload, on all cores: one of them does `meanwhile` first. Returns what is wrong with
    /// payloads.
    fn contents(
        &mut self,
        progress: &mut dyn FnMut(Progress),
        meanwhile: impl FnOnce(&mut Self),
    ) -> Vec<(Offset, Offset, Digest, String)> {
        let mut blobs = std::mem::take(&mut self.blobs);
        let contents = Contents::new(self.view, &blobs);
        let cores = contents.threads();
        let mut looked = thread::scope(|scope| {
            let (sender, parts) = mpsc::channel();
            let another = || {
                let (sender, contents) = (sender.clone(), &contents);
                thread::Builder::new().spawn_scoped(scope, move || sender.send(contents.look())).is_ok()
            };
            let all_there = (1..cores).all(|_| another());
            meanwhile(self);
            let none_here = cores > 1 && all_there && another();
            // One core, or no more threads to be had.
            let mut looked = if none_here { Vec::new() } else { contents.look() };
            drop(sender);
            loop {
                match parts.recv_timeout(PROGRESS_EVERY) {
                    Ok(part) => looked.extend(part),
                    Err(RecvTimeoutError::Timeout) => progress(contents.so_far()),
                    Err(RecvTimeoutError::Disconnected) => break looked,
                }
            }
        });
        let end = contents.so_far();
        looked.sort_unstable_by_key(|part| part.first);
        let mut torn = Vec::new();
        for part in looked {
            for ((_, digest), found) in blobs[part.first..].iter_mut().zip(part.digests) {
                *digest = found;
            }
            for (number, what) in part.wrong {
                let (blob, digest) = &blobs[number];
                match what {
                    Wrong::Lost(what) => {
                        self.lost.push((blob.id, self.result.damage.len()));
                        self.found(Some(blob.id), *digest, what);
                    }
                    Wrong::Payload(at, digest, what) => torn.push((blob.id, at, digest, what)),
                }
            }
        }
        self.blobs = blobs;
        self.result.bytes = end.done;
        progress(end);
        torn
    }

    fn torn(&mut self, damage: Vec<(Offset, Offset, Digest, String)>) {
        for (id, payload, digest, what) in damage {
            self.lost.push((id, self.result.damage.len()));
            self.found(Some(payload), Some(digest), what);
        }
    }
}

fn check<M: Medium>(
    view: &View<M>,
    state: Option<(&Superblocks, Tail, CountersNow)>,
    progress: &mut dyn FnMut(Progress),
) -> Verified {
    let mut verifier = Verifier::new(view, state.is_some());
    verifier.heads();
    verifier.index();
    let state = state.filter(|_| !verifier.unreadable);
    let torn = verifier.contents(progress, |verifier| {
        if let Some((superblocks, tail, _)) = &state {
            if let Err(error) = Space::check_runs(view.medium().as_ref(), &superblocks.newest) {
                verifier.failed(error);
            }
            verifier.against_log(superblocks, tail);
        }
    });
    if verifier.is_still {
        verifier.twice();
    }
    match state {
        Some((_, _, counters)) => {
            verifier.graph();
            verifier.counters(&counters);
        }
        None => verifier.result.partial = true,
    }
    verifier.torn(torn);
    verifier.referrers();
    verifier.result
}

/// Reads blobs, which it sorts by their places and gives their digests. Returns what is wrong with those whose bytes
/// can't be had. (The header alone can be made again.)
pub(crate) fn read_blobs<M: Medium>(
    view: &View<M>,
    blobs: &mut Vec<(BlobRecord, Option<Digest>)>,
    progress: &mut dyn FnMut(Progress),
) -> BTreeMap<Offset, Finding> {
    blobs.sort_unstable_by_key(|(blob, _)| blob.id);
    let mut verifier = Verifier { blobs: std::mem::take(blobs), ..Verifier::new(view, true) };
    let torn = verifier.contents(progress, |_| {});
    verifier.torn(torn);
    *blobs = verifier.blobs;
    let is_lost = |id| {
        let found = blobs.binary_search_by_key(&id, |(blob, _)| blob.id);
        found.is_ok_and(|number| digest_of_bytes(view, &blobs[number].0).is_none())
    };
    let lost = verifier.lost.into_iter().filter(|(id, _)| is_lost(*id));
    lost.map(|(id, number)| (id, verifier.result.damage[number].clone())).collect()
}

/// Verifies the pack that is current; see [`Store::verify`](crate::Store::verify).
pub fn verify<M: Medium>(shared: &Shared<M>, progress: &mut dyn FnMut(Progress)) -> Result<Verified> {
    let mut pack = shared.pack();
    while let Ok(writer) = pack.writer() {
        let mut result = Ok(Verified::default());
        // So that whoever is told how far it is can have figures: they need what is learned under the lock of a pause.
        let _ = writer.learn();
        let looked = writer.pause_commits(false, |superblocks| {
            let (counters, tail) = writer.totals();
            let view = pack.source().renew()?;
            let looking = || check(&*view, Some((superblocks, tail, counters)), progress);
            // It calls back. A panic of that goes on once the locks are free: nothing has changed.
            result = catch_unwind(AssertUnwindSafe(looking));
            Ok(false)
        })?;
        if looked {
            return Ok(result.unwrap_or_else(|panic| resume_unwind(panic)));
        }
        // A compaction took this pack's place meanwhile, or does in a moment.
        std::thread::yield_now();
        pack = shared.pack();
    }
    let source = pack.source();
    for attempt in 1..=ATTEMPTS {
        let view = source.current()?.clone();
        source.leave_dead_writer(&view)?;
        let view = source.renew()?;
        let verified = check_view(&view, progress);
        // What a writer changed that came meanwhile, or has left half made, looks like damage. Beside one that goes on
        // hardly anything else was looked at than what never changes.
        let is_true = !view.is_overtaken() && !source.leave_dead_writer(&view)?;
        if is_true || attempt == ATTEMPTS && !view.is_private() {
            return verified;
        }
    }
    Err(Error::Busy { path: source.medium().path().into() })
}

/// Checks what a handle without a writer looks at: all of it where the index is its own.
fn check_view<M: Medium>(view: &View<M>, progress: &mut dyn FnMut(Progress)) -> Result<Verified> {
    if !view.is_private() {
        return Ok(check(view, None, progress));
    }
    let superblocks = Superblocks::read(view.medium().as_ref())?;
    let (tail, counters) = recovery::end_of_log(view.medium().as_ref(), &superblocks)?;
    Ok(check(view, Some((&superblocks, tail, counters)), progress))
}
