//! Any operations, against a model: who holds which reference, what links to what, and who has which name.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use blobpack::commit::Tuning;
use blobpack::medium::{Sim, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, Digest, Error, Name, OpenOptions, Store};

const PACK: &str = "blobs.pack";
const FILE_BYTES_MAX: u64 = 8 << 20;
/// So many different blobs occur.
const NAMES: usize = 12;
/// So many different names of blobs occur.
const LABELS: usize = 4;
/// An input has no more operations.
const OPERATIONS_MAX: usize = 80;
/// All is looked at after so many, and after everything that makes a new index.
const CHECKED_AFTER: usize = 12;
/// The one large blob.
const LARGE_BYTES: usize = 66_000;

static CONTENTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| (0..NAMES).map(content).collect());
static DIGESTS: LazyLock<Vec<Digest>> =
    LazyLock::new(|| (0..NAMES).map(|name| Digest::of(algorithm(name), &CONTENTS[name])).collect());
/// The names, in their order.
static TEXTS: LazyLock<Vec<Name>> = LazyLock::new(|| (0..LABELS).map(text).collect());

/// What callers hold of each blob, and the links from one to another.
#[derive(Clone, Default)]
struct Model {
    held: [u64; NAMES],
    links: BTreeSet<(usize, usize)>,
    labels: [Option<usize>; LABELS],
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Put(usize),
    Reference(usize),
    Dereference(usize),
    Link { to: usize, from: usize },
    Unlink { to: usize, from: usize },
    SetName { label: usize, to: usize },
    RemoveName(usize),
}

impl Model {
    fn inbound(&self, name: usize) -> u64 {
        self.links.iter().filter(|(_, to)| *to == name).count() as u64
    }

    fn references(&self, name: usize) -> u64 {
        let named = self.labels.iter().filter(|label| **label == Some(name)).count() as u64;
        self.held[name] + self.inbound(name) + named
    }

    fn reaches(&self, start: usize, goal: usize) -> bool {
        start == goal || self.links.iter().any(|&(from, to)| from == start && self.reaches(to, goal))
    }

    /// Until nothing changes: what is gone gives up what it linked to.
    fn sweep(&mut self) {
        while let Some(&link) = self.links.iter().find(|(from, _)| self.references(*from) == 0) {
            self.links.remove(&link);
        }
    }

    /// Whether it can be done; it is then.
    fn run(&mut self, operation: Operation) -> bool {
        match operation {
            Operation::Put(name) => self.held[name] += 1,
            Operation::Reference(name) if self.references(name) > 0 => self.held[name] += 1,
            Operation::Dereference(name) if self.held[name] > 0 => {
                self.held[name] -= 1;
                self.sweep();
            }
            Operation::Link { to, from } => {
                if self.held[to] == 0 || self.references(from) == 0 || self.reaches(to, from) {
                    return false;
                }
                self.held[to] -= 1;
                self.links.insert((from, to));
            }
            Operation::Unlink { to, from } if self.links.remove(&(from, to)) => self.sweep(),
            Operation::SetName { label, to } if self.held[to] > 0 => {
                self.held[to] -= 1;
                self.labels[label] = Some(to);
                self.sweep();
            }
            Operation::RemoveName(label) if self.labels[label].take().is_some() => self.sweep(),
            _ => return false,
        }
        true
    }
}

struct Run {
    directory: SimDirectory,
    store: Option<Store<Sim>>,
    model: Model,
}

/// Every operation is three bytes: what, to which blob, and another blob.
pub fn run(input: &[u8]) {
    let directory = SimDirectory::new(FILE_BYTES_MAX);
    let medium = directory.create(PACK).expect("memory takes a file");
    let store = options().create_in(medium).expect("there is room").expect("nobody else makes one");
    let mut run = Run { directory, store: Some(store), model: Model::default() };
    let mut steps = input.chunks_exact(3).take(OPERATIONS_MAX);
    let mut unchecked = 0;
    while let Some(step) = steps.next() {
        unchecked += 1;
        if (10..15).contains(&(step[0] % 16)) {
            unchecked = CHECKED_AFTER;
        }
        match step[0] % 16 {
            10 => run.store().checkpoint().expect("memory takes it"),
            11 => run.reopen(How::Open),
            12 => run.reopen(How::Rebuild),
            13 => run.kill(),
            14 => drop(run.store().compact().expect("memory takes it")),
            15 => {
                let batch: Vec<_> = steps.by_ref().take(usize::from(step[1] % 8)).map(operation).collect();
                run.batch(&batch);
            }
            _ => run.batch(&[operation(step)]),
        }
        if unchecked >= CHECKED_AFTER {
            run.check();
            unchecked = 0;
        }
    }
    run.check();
    let verified = run.store().verify().expect("memory can be read");
    assert!(verified.damage.is_empty(), "{:?}", verified.damage);
}

fn options() -> OpenOptions {
    Store::options().max_bytes(FILE_BYTES_MAX).tuning(Tuning {
        slots: 4,
        chunk_bytes: 64 << 10,
        checkpoint_images: 40,
        checkpoint_bytes: 1 << 20,
        reserve_segments: 4,
        removal_images: 6,
    })
}

/// The large blob's is the fastest.
fn algorithm(name: usize) -> Algorithm {
    Algorithm::ALL[(NAMES - 1 - name) % 3]
}

fn content(name: usize) -> Vec<u8> {
    let length = if name == NAMES - 1 { LARGE_BYTES } else { name * 37 };
    (0..length).map(|at| (at * (name + 1)).to_le_bytes()[0]).collect()
}

/// They grow, to hundreds of bytes.
fn text(label: usize) -> Name {
    Name::new(format!("{label}{}", "x".repeat(9_usize.pow(label as u32)))).expect("it is short enough")
}

fn operation(step: &[u8]) -> Operation {
    let (to, from) = (usize::from(step[1]) % NAMES, usize::from(step[2]) % NAMES);
    match step[0] % 16 {
        0..=3 => Operation::Put(to),
        4 => Operation::Reference(to),
        5 | 6 => Operation::Dereference(to),
        7 => Operation::Unlink { to, from },
        8 if step[2] >= 128 => Operation::SetName { label: usize::from(step[2]) % LABELS, to },
        9 if step[2] >= 192 => Operation::RemoveName(to % LABELS),
        _ => Operation::Link { to, from },
    }
}

impl Run {
    fn store(&self) -> &Store<Sim> {
        self.store.as_ref().expect("it is only taken to be opened again")
    }

    fn batch(&mut self, operations: &[Operation]) {
        let mut batch = self.store().batch();
        for operation in operations {
            match *operation {
                Operation::Put(name) => {
                    let digest = batch.put_with(algorithm(name), &CONTENTS[name]).expect("memory takes it");
                    assert_eq!(digest, DIGESTS[name]);
                }
                Operation::Reference(name) => drop(batch.reference(&DIGESTS[name])),
                Operation::Dereference(name) => drop(batch.dereference(&DIGESTS[name])),
                Operation::Link { to, from } => drop(batch.link(&DIGESTS[to], &DIGESTS[from])),
                Operation::Unlink { to, from } => drop(batch.unlink(&DIGESTS[to], &DIGESTS[from])),
                Operation::SetName { label, to } => drop(batch.set_name(&TEXTS[label], &DIGESTS[to])),
                Operation::RemoveName(label) => drop(batch.remove_name(&TEXTS[label])),
            }
        }
        let mut after = self.model.clone();
        let refused = operations.iter().position(|&operation| !after.run(operation));
        match (batch.commit(), refused) {
            (Ok(outcomes), None) => {
                assert_eq!(outcomes.len(), operations.len());
                self.model = after;
            }
            (Err(Error::Batch { index, .. }), Some(at)) => assert_eq!(index, at),
            (Err(error), Some(0)) if operations.len() == 1 => assert!(refusal(&error), "{error}"),
            (result, refused) => panic!("{result:?}, but {refused:?} of {operations:?} is to be refused"),
        }
    }

    fn reopen(&mut self, how: How) {
        self.store = None;
        let medium = self.directory.open(PACK, true).expect("it is there");
        self.store = options().open_in(medium, how).expect("it is sound");
    }

    /// What is in the file at this moment is opened in its place.
    fn kill(&mut self) {
        let bytes = self.directory.bytes(PACK).expect("it is there");
        self.directory = SimDirectory::new(FILE_BYTES_MAX);
        self.directory.insert(PACK, bytes);
        self.reopen(How::Open);
    }

    fn check(&self) {
        let mut blobs = 0;
        for (name, digest) in DIGESTS.iter().enumerate() {
            let found = self.store().find(digest).expect("it is sound");
            let references = self.model.references(name);
            blobs += u64::from(references > 0);
            assert_eq!(found.is_some(), references > 0);
            let Some(blob) = found else { continue };
            assert_eq!(blob.ref_count(), references);
            assert!(blob.as_bytes() == CONTENTS[name]);
            let links: BTreeSet<_> = self.store().links(digest).expect("it is there").map(Result::unwrap).collect();
            let expected = self.model.links.iter().filter(|(from, _)| *from == name);
            assert_eq!(links, expected.map(|&(_, to)| DIGESTS[to]).collect());
            assert_eq!(blob.link_count(), links.len() as u64);
        }
        let named = self.model.labels.iter().enumerate();
        let named: Vec<_> = named.filter_map(|(label, to)| Some((TEXTS[label].clone(), DIGESTS[(*to)?]))).collect();
        assert_eq!(self.store().names().expect("it is sound"), named);
        for (label, to) in self.model.labels.iter().enumerate() {
            let found = self.store().find_name(&TEXTS[label]).expect("it is sound");
            assert_eq!(found, to.map(|to| DIGESTS[to]));
        }
        let stats = self.store().stats().expect("it is sound");
        let expected = (blobs, self.model.links.len() as u64, named.len() as u64);
        assert_eq!((stats.blobs, stats.links, stats.names), expected);
        assert_eq!(self.store().list().map(Result::unwrap).count() as u64, blobs);
    }
}

fn refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::NoSpareReference { .. }
            | Error::WouldCycle { .. }
            | Error::NotLinked { .. }
            | Error::NoSuchName { .. }
    )
}
