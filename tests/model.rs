//! Random operations on a store, against a plain model: who holds which reference, and nothing else.
//!
//! After each step everything that the store can be asked is compared. The sequences run on the simulated medium with
//! tiny segments, and some on the disk; what is meant to happen on the way (splits, checkpoints, compactions) is
//! asserted to happen.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use blobpack::format::{LARGE_BYTES, PAGE_BYTES, frame_bytes, name_frame_bytes};
use blobpack::medium::{Disk, Medium, Sim, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, Blob, Digest, Error, Removed, Store};
use proptest::prelude::*;

mod common;
use common::{PACK, content, open_simulated, simulated, small};

/// So many different blobs occur.
const NAMES: usize = 14;
/// How long they are: around all that is decided by length.
const SIZES: [usize; NAMES] =
    [0, 1, 63, 64, 65, 1000, 5000, 30, 31, 32, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 150_000];
/// Simulated files become no longer.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Blobs that are held on to meanwhile.
const HELD: usize = 6;

type Name = usize;
/// A name of the store's, by its number.
type Label = usize;
/// So many occur.
const LABELS: usize = 5;

/// The texts of names: short, long, and in the order that a listing must not have by chance.
fn label(label: Label) -> blobpack::Name {
    let text = ["z".into(), "library/alpine:3.20".into(), "ä".repeat(512), "a".repeat(200), "Z z".into()];
    blobpack::Name::new(text[label].clone()).unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Put(Name),
    /// Through a writer, in pieces.
    Stream(Name, Hint),
    Reference(Name),
    Dereference(Name),
    Link(Name, Name),
    Unlink(Name, Name),
    SetName(Label, Name),
    RemoveName(Label),
}

#[derive(Clone, Copy, Debug)]
enum Hint {
    None,
    Exact,
    Short,
    Long,
}

#[derive(Clone, Debug)]
enum Step {
    One(Operation),
    Batch(Vec<Operation>),
    /// Streams that end in nothing.
    Cancel(Name),
    Mismatch(Name),
    Checkpoint,
    Reopen,
    /// The file is copied as it is and the copy goes on.
    Kill,
    Compact,
    Rebuild,
    /// A second handle, for reading only, beside the first or on the copied file.
    ReadBeside,
    ReadKilled,
    Hold(Name),
}

/// Large blobs are dear: they come seldom.
fn name() -> impl Strategy<Value = Name> {
    prop_oneof![16 => 0..10_usize, 1 => 10..NAMES]
}

/// Three blobs, each held by the next alone, so that the last one's end is that of all.
fn chain() -> impl Strategy<Value = Vec<Operation>> {
    use Operation::{Link, Put};
    let of = |(a, b, c)| vec![Put(a), Put(b), Link(a, b), Put(c), Link(b, c)];
    (name(), name(), name()).prop_map(of)
}

fn operation() -> impl Strategy<Value = Operation> {
    let hint = prop_oneof![Just(Hint::None), Just(Hint::Exact), Just(Hint::Short), Just(Hint::Long)];
    prop_oneof![
        6 => name().prop_map(Operation::Put),
        1 => (name(), hint).prop_map(|(name, hint)| Operation::Stream(name, hint)),
        2 => name().prop_map(Operation::Reference),
        3 => name().prop_map(Operation::Dereference),
        6 => (name(), name()).prop_map(|(to, from)| Operation::Link(to, from)),
        2 => (name(), name()).prop_map(|(to, from)| Operation::Unlink(to, from)),
        3 => (0..LABELS, name()).prop_map(|(label, name)| Operation::SetName(label, name)),
        1 => (0..LABELS).prop_map(Operation::RemoveName),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => operation().prop_map(Step::One),
        6 => prop::collection::vec(operation(), 0..12).prop_map(Step::Batch),
        3 => chain().prop_map(Step::Batch),
        1 => name().prop_map(Step::Cancel),
        1 => name().prop_map(Step::Mismatch),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => Just(Step::Compact),
        1 => Just(Step::Rebuild),
        1 => Just(Step::ReadBeside),
        1 => Just(Step::ReadKilled),
        2 => name().prop_map(Step::Hold),
    ]
}

/// The blobs of the test and their digests; two of them in other algorithms.
struct World {
    bytes: Vec<Vec<u8>>,
    digests: Vec<Digest>,
    names: HashMap<Digest, Name>,
}

impl World {
    fn new() -> World {
        let bytes: Vec<_> = SIZES.iter().enumerate().map(|(name, &size)| content(name as u64, size)).collect();
        let digests: Vec<_> = (0..NAMES).map(|name| Digest::of(World::algorithm(name), &bytes[name])).collect();
        let names = digests.iter().enumerate().map(|(name, &digest)| (digest, name)).collect();
        World { bytes, digests, names }
    }

    fn algorithm(name: Name) -> Algorithm {
        Algorithm::ALL[name % 3]
    }

    fn space(name: Name) -> u64 {
        let length = SIZES[name] as u64;
        let lead = if length >= LARGE_BYTES { PAGE_BYTES } else { 0 };
        frame_bytes(World::algorithm(name), length) + lead
    }
}

thread_local! {
    static WORLD: &'static World = Box::leak(Box::new(World::new()));
}

fn world() -> &'static World {
    WORLD.with(|world| *world)
}

/// The references that callers hold, and what a blob links to; and who has which name.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    blobs: BTreeMap<Name, (u64, BTreeSet<Name>)>,
    labels: BTreeMap<Label, Name>,
    dead_bytes: u64,
}

#[derive(Debug, PartialEq)]
enum Refusal {
    NotFound(Name),
    NoSpare {
        name: Name,
        references: u64,
        held: u64,
    },
    Cycle {
        to: Name,
        from: Name,
    },
    NotLinked {
        to: Name,
        from: Name,
    },
    NoSuchName(Label),
    /// In a batch of several.
    At(usize, Box<Refusal>),
}

/// What an operation comes to: references and links of what was stored or referenced, or the names that went.
#[derive(Debug, PartialEq)]
enum Answer {
    Blob { name: Name, references: u64, links: u64 },
    Linked,
    Removed { names: BTreeSet<Name>, bytes: u64 },
}

impl Model {
    fn need(&mut self, name: Name) -> Result<&mut (u64, BTreeSet<Name>), Refusal> {
        self.blobs.get_mut(&name).ok_or(Refusal::NotFound(name))
    }

    fn inbound(&self, name: Name) -> BTreeSet<Name> {
        self.blobs.iter().filter(|(_, (_, links))| links.contains(&name)).map(|(&from, _)| from).collect()
    }

    /// By links and names.
    fn held(&self, name: Name) -> u64 {
        let names = self.labels.values().filter(|&&named| named == name).count();
        (self.inbound(name).len() + names) as u64
    }

    fn references(&self, name: Name) -> u64 {
        self.blobs[&name].0 + self.held(name)
    }

    fn take(&mut self, name: Name) -> Result<(), Refusal> {
        self.need(name)?;
        let (references, held) = (self.references(name), self.held(name));
        let callers = &mut self.need(name)?.0;
        *callers = callers.checked_sub(1).ok_or(Refusal::NoSpare { name, references, held })?;
        Ok(())
    }

    fn reaches(&self, start: Name, goal: Name) -> bool {
        start == goal || self.blobs[&start].1.iter().any(|&next| self.reaches(next, goal))
    }

    /// Until nothing changes: who is held by nobody is gone.
    fn sweep(&mut self) -> Answer {
        let (mut names, mut bytes) = (BTreeSet::new(), 0);
        while let Some(name) = self.blobs.keys().copied().find(|&name| self.blobs[&name].0 == 0 && self.held(name) == 0)
        {
            self.blobs.remove(&name);
            bytes += World::space(name);
            names.insert(name);
        }
        self.dead_bytes += bytes;
        Answer::Removed { names, bytes }
    }

    fn described(&self, name: Name) -> Answer {
        Answer::Blob { name, references: self.references(name), links: self.blobs[&name].1.len() as u64 }
    }

    fn run(&mut self, operation: Operation) -> Result<Answer, Refusal> {
        match operation {
            Operation::Put(name) | Operation::Stream(name, _) => {
                self.blobs.entry(name).or_default().0 += 1;
                Ok(self.described(name))
            }
            Operation::Reference(name) => {
                self.need(name)?.0 += 1;
                Ok(self.described(name))
            }
            Operation::Dereference(name) => {
                self.take(name)?;
                Ok(self.sweep())
            }
            Operation::Link(to, from) => {
                self.need(to)?;
                self.need(from)?;
                self.take(to)?;
                if self.reaches(to, from) {
                    self.need(to)?.0 += 1;
                    return Err(Refusal::Cycle { to, from });
                }
                self.need(from)?.1.insert(to);
                Ok(Answer::Linked)
            }
            Operation::Unlink(to, from) => {
                self.need(to)?;
                if !self.need(from)?.1.remove(&to) {
                    return Err(Refusal::NotLinked { to, from });
                }
                Ok(self.sweep())
            }
            Operation::SetName(label, name) => {
                self.take(name)?;
                self.labels.insert(label, name);
                Ok(self.sweep())
            }
            Operation::RemoveName(number) => {
                self.labels.remove(&number).ok_or(Refusal::NoSuchName(number))?;
                let frame = name_frame_bytes(label(number).as_str().len() as u64);
                self.dead_bytes += frame;
                match self.sweep() {
                    Answer::Removed { names, bytes } => Ok(Answer::Removed { names, bytes: bytes + frame }),
                    other => Ok(other),
                }
            }
        }
    }

    fn batch(&mut self, operations: &[Operation]) -> Result<Vec<Answer>, Refusal> {
        let mut after = self.clone();
        let answers = operations
            .iter()
            .enumerate()
            .map(|(index, &operation)| {
                after.run(operation).map_err(|refusal| match operations.len() {
                    1 => refusal,
                    _ => Refusal::At(index, Box::new(refusal)),
                })
            })
            .collect::<Result<_, _>>()?;
        *self = after;
        Ok(answers)
    }
}

fn refusal(error: Error) -> Refusal {
    let name = |digest: &Digest| world().names[digest];
    match error {
        Error::NotFound { digest } => Refusal::NotFound(name(&digest)),
        Error::NoSpareReference { digest, references, held } => {
            Refusal::NoSpare { name: name(&digest), references, held }
        }
        Error::WouldCycle { to, from } => Refusal::Cycle { to: name(&to), from: name(&from) },
        Error::NotLinked { to, from } => Refusal::NotLinked { to: name(&to), from: name(&from) },
        Error::NoSuchName { name } => Refusal::NoSuchName((0..LABELS).find(|&n| label(n) == name).unwrap()),
        Error::Batch { index, source } => Refusal::At(index, Box::new(refusal(*source))),
        other => panic!("{other}"),
    }
}

fn removed<M: Medium>(removed: &Removed<M>) -> Answer {
    let names: BTreeSet<_> = removed.digests().map(|digest| world().names[&digest.unwrap()]).collect();
    assert_eq!(names.len() as u64, removed.blobs());
    assert_eq!(names.is_empty(), removed.is_empty());
    Answer::Removed { names, bytes: removed.reclaimable_bytes() }
}

fn described(found: &blobpack::Descriptor) -> Answer {
    let name = world().names[&found.digest];
    assert_eq!(found.size, SIZES[name] as u64);
    Answer::Blob { name, references: found.ref_count, links: found.link_count }
}

fn streamed<M: Medium>(store: &Store<M>, name: Name, hint: Hint) -> blobpack::BlobWriter<M> {
    let bytes = &world().bytes[name];
    let length = bytes.len() as u64;
    let mut writer = store.writer(World::algorithm(name)).unwrap();
    writer = match hint {
        Hint::None => writer,
        Hint::Exact => writer.expect_size(length),
        Hint::Short => writer.size_hint(length / 2),
        Hint::Long => writer.size_hint(2 * length + 100_000),
    };
    for piece in bytes.chunks(50_000) {
        writer.write_all(piece).unwrap();
    }
    assert_eq!(writer.digest(), world().digests[name]);
    assert_eq!(writer.written(), length);
    writer
}

fn run_one<M: Medium>(store: &Store<M>, operation: Operation) -> Result<Answer, Refusal> {
    let World { bytes, digests, .. } = world();
    let result = match operation {
        Operation::Put(name) => store.put_with(World::algorithm(name), &bytes[name]).map(|found| described(&found)),
        Operation::Stream(name, hint) => streamed(store, name, hint).commit().map(|found| described(&found)),
        Operation::Reference(name) => store.reference(&digests[name]).map(|found| described(&found)),
        Operation::Dereference(name) => store.dereference(&digests[name]).map(|found| removed(&found)),
        Operation::Link(to, from) => store.link(&digests[to], &digests[from]).map(|()| Answer::Linked),
        Operation::Unlink(to, from) => store.unlink(&digests[to], &digests[from]).map(|found| removed(&found)),
        Operation::SetName(number, name) => store.set_name(&label(number), &digests[name]).map(|found| removed(&found)),
        Operation::RemoveName(number) => store.remove_name(&label(number)).map(|found| removed(&found)),
    };
    result.map_err(refusal)
}

fn run_batch<M: Medium>(store: &Store<M>, operations: &[Operation]) -> Result<Vec<Answer>, Refusal> {
    let World { bytes, digests, .. } = world();
    let mut batch = store.batch();
    for (index, operation) in operations.iter().enumerate() {
        assert_eq!(batch.len(), index);
        match *operation {
            Operation::Put(name) => {
                assert_eq!(batch.put_with(World::algorithm(name), &bytes[name]).unwrap(), digests[name]);
            }
            Operation::Stream(name, hint) => {
                assert_eq!(batch.add(streamed(store, name, hint).stage().unwrap()).unwrap(), digests[name]);
            }
            Operation::Reference(name) => drop(batch.reference(&digests[name])),
            Operation::Dereference(name) => drop(batch.dereference(&digests[name])),
            Operation::Link(to, from) => drop(batch.link(&digests[to], &digests[from])),
            Operation::Unlink(to, from) => drop(batch.unlink(&digests[to], &digests[from])),
            Operation::SetName(number, name) => drop(batch.set_name(&label(number), &digests[name])),
            Operation::RemoveName(number) => drop(batch.remove_name(&label(number))),
        }
    }
    let outcomes = batch.commit().map_err(refusal)?;
    Ok(outcomes.iter().map(answer).collect())
}

fn answer<M: Medium>(outcome: &blobpack::Outcome<M>) -> Answer {
    match outcome {
        blobpack::Outcome::Blob(found) => described(found),
        blobpack::Outcome::Linked => Answer::Linked,
        blobpack::Outcome::Removed(found) => removed(found),
        _ => panic!("an outcome that is unknown here"),
    }
}

/// Where the store is, and how it is opened again.
trait Place {
    type Medium: Medium;
    fn create() -> (Self, Store<Self::Medium>)
    where
        Self: Sized;
    fn open(&self, how: How) -> Store<Self::Medium>;
    fn open_read_only(&self) -> Store<Self::Medium>;
    /// Another place with a copy of the file as it is.
    fn copied(&self) -> Self;
    fn bytes(&self) -> Vec<u8>;
}

impl Place for SimDirectory {
    type Medium = Sim;

    fn create() -> (SimDirectory, Store<Sim>) {
        simulated(FILE_BYTES_MAX)
    }

    fn open(&self, how: How) -> Store<Sim> {
        open_simulated(self, &small(), how).unwrap()
    }

    fn open_read_only(&self) -> Store<Sim> {
        let medium = SimDirectory::open(self, PACK, false).unwrap();
        small().read_only(true).open_in(medium, How::Open).unwrap().unwrap()
    }

    fn copied(&self) -> SimDirectory {
        common::inserted(Place::bytes(self), FILE_BYTES_MAX)
    }

    fn bytes(&self) -> Vec<u8> {
        SimDirectory::bytes(self, PACK).unwrap()
    }
}

struct OnDisk {
    directory: tempfile::TempDir,
}

impl OnDisk {
    fn path(&self) -> PathBuf {
        self.directory.path().join(PACK)
    }
}

impl Place for OnDisk {
    type Medium = Disk;

    fn create() -> (OnDisk, Store) {
        let place = OnDisk { directory: tempfile::tempdir().unwrap() };
        let store = small().create_new(true).open(place.path()).unwrap();
        (place, store)
    }

    fn open(&self, how: How) -> Store {
        let options = small().create(false);
        match how {
            How::Open => options.open(self.path()),
            How::Repair => options.repair(self.path()),
            How::Rebuild => options.rebuild(self.path()),
        }
        .unwrap()
    }

    fn open_read_only(&self) -> Store {
        small().read_only(true).open(self.path()).unwrap()
    }

    fn copied(&self) -> OnDisk {
        let place = OnDisk { directory: tempfile::tempdir().unwrap() };
        std::fs::copy(self.path(), place.path()).unwrap();
        place
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(Path::new(&self.path())).unwrap()
    }
}

/// What the sequences did in all: they have to reach what they are there for.
#[derive(Default)]
struct Seen {
    splits: Cell<u64>,
    doublings: Cell<u64>,
    replayed: Cell<u64>,
    refused_batches: Cell<u64>,
    compactions: Cell<u64>,
    cascades: Cell<u64>,
}

fn count(counter: &Cell<u64>, by: u64) {
    counter.set(counter.get() + by);
}

struct Run<'s, P: Place> {
    place: P,
    store: Option<Store<P::Medium>>,
    model: Model,
    /// The order of the last listing.
    order: Vec<Digest>,
    held: Vec<(Name, Blob<P::Medium>)>,
    commits: u64,
    seen: &'s Seen,
}

impl<'s, P: Place> Run<'s, P> {
    fn new(seen: &'s Seen) -> Run<'s, P> {
        let (place, store) = P::create();
        let model = Model::default();
        Run { place, store: Some(store), model, order: Vec::new(), held: Vec::new(), commits: 0, seen }
    }

    fn store(&self) -> &Store<P::Medium> {
        self.store.as_ref().unwrap()
    }

    fn step(&mut self, step: &Step) {
        let before = self.model.clone();
        match step {
            Step::One(operation) => {
                let answer = self.model.run(*operation);
                if let Ok(Answer::Removed { names, .. }) = &answer {
                    count(&self.seen.cascades, u64::from(names.len() > 1));
                }
                assert_eq!(run_one(self.store(), *operation), answer);
            }
            Step::Batch(operations) => {
                let expected = self.model.batch(operations);
                count(&self.seen.refused_batches, u64::from(expected.is_err() && operations.len() > 1));
                assert_eq!(run_batch(self.store(), operations), expected);
            }
            Step::Cancel(name) => streamed(self.store(), *name, Hint::None).cancel().unwrap(),
            Step::Mismatch(name) => self.mismatch(*name),
            Step::Checkpoint => self.store().checkpoint().unwrap(),
            Step::Reopen => self.reopen(How::Open),
            Step::Rebuild => self.reopen(How::Rebuild),
            Step::Kill => self.kill(),
            Step::Compact => self.compact(),
            Step::ReadBeside => {
                let beside = self.place.open_read_only();
                check(&beside, &self.model, &self.order);
                assert!(matches!(beside.put(b""), Err(Error::ReadOnly { .. })));
            }
            Step::ReadKilled => {
                let copy = self.place.copied();
                let bytes = copy.bytes();
                check(&copy.open_read_only(), &self.model, &self.order);
                assert!(copy.bytes() == bytes, "reading changed the file");
            }
            Step::Hold(name) => {
                if let Some(blob) = self.store().find(&world().digests[*name]).unwrap() {
                    self.held.insert(0, (*name, blob));
                    self.held.truncate(HELD);
                }
            }
        }
        self.check(&before);
    }

    fn mismatch(&self, name: Name) {
        let other = world().digests[(name + 1) % NAMES];
        let mut writer = self.store().writer(World::algorithm(name)).unwrap().expect_digest(other);
        writer.write_all(&world().bytes[name]).unwrap();
        let Err(Error::DigestMismatch { expected, found }) = writer.commit() else { panic!("it was taken") };
        assert_eq!((*expected, *found), (other, world().digests[name]));
    }

    fn leave(&mut self) {
        if let Ok(events) = self.store().index_events() {
            count(&self.seen.splits, events.splits);
            count(&self.seen.doublings, events.doublings);
        }
    }

    fn reopen(&mut self, how: How) {
        self.leave();
        self.store.take().unwrap().close().unwrap();
        self.store = Some(self.place.open(how));
        if how == How::Open {
            assert_eq!(self.store().recovery(), blobpack::Recovery::default(), "a closed pack needs none");
        }
    }

    fn kill(&mut self) {
        self.leave();
        let copy = self.place.copied();
        self.store = Some(copy.open(How::Open));
        self.place = copy;
        let recovery = self.store().recovery();
        count(&self.seen.replayed, recovery.replayed_commits);
        assert_eq!(recovery.dropped_commits, 0);
        assert!(!recovery.lost_superblock);
    }

    fn compact(&mut self) {
        let compacted = self.store().compact().unwrap();
        assert!(!compacted.skipped);
        assert_eq!(compacted.blobs, self.model.blobs.len() as u64);
        assert_eq!(compacted.after_bytes + compacted.freed_bytes, compacted.before_bytes.max(compacted.after_bytes));
        self.model.dead_bytes = 0;
        count(&self.seen.compactions, 1);
    }

    fn check(&mut self, before: &Model) {
        self.order = check(self.store(), &self.model, &self.order);
        for (name, blob) in &self.held {
            assert!(**blob == *world().bytes[*name], "blob {name} changed while it was held");
        }
        let stats = self.store().stats().unwrap();
        let new = stats.commits - self.commits;
        let same = self.model.blobs == before.blobs && self.model.labels == before.labels;
        assert!(new <= 1 && (new == 1 || same), "{new} commits");
        self.commits = stats.commits;
        if new == 0 && self.model.dead_bytes > before.dead_bytes {
            // A batch that removed all that it brought was nothing, and wrote nothing.
            self.model.dead_bytes = before.dead_bytes;
        }
        assert_eq!(stats.dead_bytes, self.model.dead_bytes);
    }
}

/// Compares all that can be asked. Returns the order of the listing, in which what was in the last one has its old
/// order.
fn check<M: Medium>(store: &Store<M>, model: &Model, last: &[Digest]) -> Vec<Digest> {
    let World { bytes, digests, names } = world();
    let order: Vec<Digest> = store.list().map(Result::unwrap).collect();
    let listed: BTreeSet<Name> = order.iter().map(|digest| names[digest]).collect();
    assert_eq!(order.len(), listed.len(), "a digest is listed twice");
    assert!(listed.iter().eq(model.blobs.keys()), "listed: {listed:?}");
    let stayed: Vec<_> = last.iter().filter(|digest| order.contains(digest)).collect();
    assert!(order.iter().filter(|digest| last.contains(digest)).eq(stayed), "the order changed");
    // One resume point a step, another one each time: all of them take longer than everything else here.
    let index = store.stats().unwrap().commits as usize % order.len().max(1);
    if let Some(digest) = order.get(index) {
        assert!(store.list_after(digest).map(Result::unwrap).eq(order[index + 1..].iter().copied()));
    }
    let listed: Vec<_> = store.descriptors().map(Result::unwrap).collect();
    assert!(listed.iter().map(|found| found.digest).eq(order.iter().copied()));

    let reader = store.reader().unwrap();
    let borrowed = reader.get_many(digests).unwrap();
    for name in 0..NAMES {
        let digest = &digests[name];
        assert_eq!(store.contains(digest).unwrap(), model.blobs.contains_key(&name));
        let Some((_, links)) = model.blobs.get(&name) else {
            assert!(borrowed[name].is_none());
            assert!(store.find(digest).unwrap().is_none());
            assert!(matches!(store.get(digest), Err(Error::NotFound { digest: named }) if named == *digest));
            assert!(store.descriptor(digest).unwrap_err().is_not_found());
            assert!(store.links(digest).err().unwrap().is_not_found());
            assert!(store.referrers(digest).err().unwrap().is_not_found());
            continue;
        };
        assert!(*borrowed[name].unwrap() == *bytes[name]);
        let blob = store.get(digest).unwrap();
        assert!(*blob == *bytes[name]);
        let found = store.descriptor(digest).unwrap();
        assert_eq!(blob.descriptor(), found);
        assert!(listed.contains(&found));
        assert_eq!(described(&found), model.described(name));
        let all = |found: blobpack::Links<M>| found.map(|digest| names[&digest.unwrap()]).collect::<Vec<_>>();
        let (out, into) = (all(store.links(digest).unwrap()), all(store.referrers(digest).unwrap()));
        assert_eq!(out.len(), links.len());
        assert_eq!(out.iter().copied().collect::<BTreeSet<_>>(), *links);
        assert_eq!(into.len(), model.inbound(name).len());
        assert_eq!(into.iter().copied().collect::<BTreeSet<_>>(), model.inbound(name));
    }
    let mut named: Vec<_> = model.labels.iter().map(|(&number, &name)| (label(number), digests[name])).collect();
    named.sort();
    assert_eq!(store.names().unwrap(), named);
    for number in 0..LABELS {
        let digest = model.labels.get(&number).map(|&name| digests[name]);
        assert_eq!(store.find_name(&label(number)).unwrap(), digest);
        assert_eq!(reader.find_name(&label(number)).unwrap(), digest);
    }
    let stats = store.stats().unwrap();
    assert_eq!(stats.names, named.len() as u64);
    assert_eq!(stats.blobs, model.blobs.len() as u64);
    assert_eq!(stats.links, model.blobs.values().map(|(_, links)| links.len() as u64).sum::<u64>());
    assert_eq!(stats.live_bytes, model.blobs.keys().map(|&name| SIZES[name] as u64).sum::<u64>());
    assert!((0.0..=1.0).contains(&stats.index_load));
    order
}

fn run<P: Place>(steps: &[Step], seen: &Seen) {
    let mut run = Run::<P>::new(seen);
    for step in steps {
        run.step(step);
    }
    run.leave();
    let verified = run.store().verify().unwrap();
    assert!(verified.damage.is_empty(), "{:?}", verified.damage);
    assert_eq!(verified.blobs, run.model.blobs.len() as u64);
    assert_eq!(verified.names, run.model.labels.len() as u64);
    // What was held has to be held beyond the store.
    drop(run.store.take());
    for (name, blob) in &run.held {
        assert!(**blob == *world().bytes[*name]);
        blob.verify().unwrap();
    }
}

fn config(cases: u32) -> ProptestConfig {
    let persistence = proptest::test_runner::FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

/// Runs so many sequences; what they have to reach in all is checked by the caller.
fn sequences<P: Place>(cases: u32, length: std::ops::Range<usize>) -> Seen {
    let seen = Seen::default();
    more_sequences::<P>(&seen, cases, length);
    seen
}

fn more_sequences<P: Place>(seen: &Seen, cases: u32, length: std::ops::Range<usize>) {
    let mut config = config(cases);
    config.source_file = Some(file!());
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let steps = prop::collection::vec(step(), length);
    if let Err(failure) = runner.run(&steps, |steps| {
        run::<P>(&steps, seen);
        Ok(())
    }) {
        panic!("{failure}\n{runner}");
    }
}

#[test]
fn thousands_of_random_histories_end_as_a_plain_model_says() {
    let seen = sequences::<SimDirectory>(2000, 1..16);
    let counters = [
        ("splits", &seen.splits),
        ("doublings", &seen.doublings),
        ("commits replayed", &seen.replayed),
        ("refused batches", &seen.refused_batches),
        ("compactions", &seen.compactions),
        ("cascades", &seen.cascades),
    ];
    // Two thousand now and then come to fewer than ten of the rarest.
    let mut rounds = 1;
    while rounds < 5 && counters.iter().any(|(_, counter)| counter.get() < 10) {
        more_sequences::<SimDirectory>(&seen, 2000, 1..16);
        rounds += 1;
    }
    for (what, counter) in counters {
        assert!(counter.get() >= 10, "{}: {what}", counter.get());
    }
}

#[test]
fn random_histories_on_the_disk_end_as_a_plain_model_says() {
    let seen = sequences::<OnDisk>(30, 20..40);
    assert!(seen.replayed.get() > 0 && seen.compactions.get() > 0);
}

#[test]
fn long_histories_end_as_a_plain_model_says() {
    sequences::<SimDirectory>(5, 300..500);
}
