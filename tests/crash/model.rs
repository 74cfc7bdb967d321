//! A store as plain maps: what each operation should do, and whether a real store agrees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blobpack::medium::Medium;
use blobpack::{Algorithm, Digest, Error, Name, Store};

/// Random numbers that a printed seed brings back (SplitMix64, Steele, Lea and Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { Some(&from[self.below(from.len())]) }
    }
}

/// The bytes of every blob that a test ever stored.
pub type Contents = BTreeMap<Digest, Arc<Vec<u8>>>;

/// One blob as a caller can see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry {
    pub bytes: u64,
    /// References that callers hold.
    pub held: u64,
    pub out: BTreeSet<Digest>,
    pub into: BTreeSet<Digest>,
}

/// All that a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Model {
    pub blobs: BTreeMap<Digest, Entry>,
    pub names: BTreeMap<Name, Digest>,
}

#[derive(Clone, Debug)]
pub enum Op {
    Put(Arc<Vec<u8>>, Digest),
    Stream(Arc<Vec<u8>>, Digest),
    Reference(Digest),
    Dereference(Digest),
    Link { to: Digest, from: Digest },
    Unlink { to: Digest, from: Digest },
    SetName(Name, Digest),
    RemoveName(Name),
    Batch(Vec<Op>),
    Checkpoint,
    Compact,
    Reopen,
}

impl Model {
    /// Does the operation; `false`, with nothing changed, where a store refuses it.
    pub fn apply(&mut self, op: &Op) -> bool {
        let mut after = self.clone();
        let done = after.try_apply(op);
        if done {
            *self = after;
        }
        done
    }

    fn try_apply(&mut self, op: &Op) -> bool {
        match op {
            Op::Put(bytes, digest) | Op::Stream(bytes, digest) => {
                let entry = self.blobs.entry(*digest).or_default();
                entry.bytes = bytes.len() as u64;
                entry.held += 1;
                true
            }
            Op::Reference(digest) => self.blobs.get_mut(digest).map(|entry| entry.held += 1).is_some(),
            Op::Dereference(digest) => {
                let Some(entry) = self.blobs.get_mut(digest).filter(|entry| entry.held > 0) else { return false };
                entry.held -= 1;
                self.remove_if_dead(*digest);
                true
            }
            Op::Link { to, from } => {
                if !self.blobs.contains_key(from) || self.blobs.get(to).is_none_or(|entry| entry.held == 0) {
                    return false;
                }
                if !self.blobs[from].out.contains(to) && self.reaches(*to, *from) {
                    return false;
                }
                self.blobs.get_mut(to).unwrap().held -= 1;
                self.blobs.get_mut(to).unwrap().into.insert(*from);
                self.blobs.get_mut(from).unwrap().out.insert(*to);
                true
            }
            Op::Unlink { to, from } => {
                if !self.blobs.get_mut(from).is_some_and(|entry| entry.out.remove(to)) {
                    return false;
                }
                self.blobs.get_mut(to).unwrap().into.remove(from);
                self.remove_if_dead(*to);
                true
            }
            Op::SetName(name, digest) => {
                let Some(entry) = self.blobs.get_mut(digest).filter(|entry| entry.held > 0) else { return false };
                entry.held -= 1;
                if let Some(before) = self.names.insert(name.clone(), *digest) {
                    self.remove_if_dead(before);
                }
                true
            }
            Op::RemoveName(name) => self.names.remove(name).map(|digest| self.remove_if_dead(digest)).is_some(),
            Op::Batch(ops) => ops.iter().all(|op| self.try_apply(op)),
            Op::Checkpoint | Op::Compact | Op::Reopen => true,
        }
    }

    fn remove_if_dead(&mut self, digest: Digest) {
        let mut work = vec![digest];
        while let Some(digest) = work.pop() {
            let named = self.names.values().any(|named| *named == digest);
            if self.blobs[&digest].held == 0 && self.blobs[&digest].into.is_empty() && !named {
                for to in self.blobs.remove(&digest).unwrap().out {
                    self.blobs.get_mut(&to).unwrap().into.remove(&digest);
                    work.push(to);
                }
            }
        }
    }

    fn reaches(&self, start: Digest, end: Digest) -> bool {
        let (mut work, mut seen) = (vec![start], BTreeSet::new());
        while let Some(digest) = work.pop() {
            if digest == end {
                return true;
            }
            if seen.insert(digest) {
                work.extend(&self.blobs[&digest].out);
            }
        }
        false
    }

    pub fn digests(&self) -> Vec<Digest> {
        self.blobs.keys().copied().collect()
    }

    /// What a store holds, every blob's bytes compared with what was put under its digest.
    pub fn of<M: Medium>(store: &Store<M>, contents: &Contents) -> Result<Model, Error> {
        let mut model = Model { names: store.names()?.into_iter().collect(), ..Model::default() };
        for digest in store.list() {
            let digest = digest?;
            let blob = store.get(&digest)?;
            assert!(&blob[..] == contents[&digest].as_slice(), "{digest} has other bytes than were put");
            let out: BTreeSet<Digest> = store.links(&digest)?.collect::<Result<_, _>>()?;
            let into: BTreeSet<Digest> = store.referrers(&digest)?.collect::<Result<_, _>>()?;
            let found = store.descriptor(&digest)?;
            assert_eq!((found.size, found.link_count), (blob.len() as u64, out.len() as u64));
            let names = model.names.values().filter(|named| **named == digest).count();
            let held = found.ref_count.checked_sub((into.len() + names) as u64);
            let held = held.expect("links and names hold references that are counted");
            let before = model.blobs.insert(digest, Entry { bytes: found.size, held, out, into });
            assert!(before.is_none(), "{digest} is listed twice");
        }
        for (name, digest) in &model.names {
            assert_eq!(store.find_name(name)?, Some(*digest), "{name} is listed and not found");
            assert!(model.blobs.contains_key(digest), "{name} is of a blob that is not there");
        }
        let stats = store.stats()?;
        let links: usize = model.blobs.values().map(|entry| entry.out.len()).sum();
        let bytes: u64 = model.blobs.values().map(|entry| entry.bytes).sum();
        assert_eq!(
            (stats.blobs, stats.links, stats.names, stats.live_bytes),
            (model.blobs.len() as u64, links as u64, model.names.len() as u64, bytes),
            "the counters agree with what is listed"
        );
        for digest in contents.keys().filter(|digest| !model.blobs.contains_key(digest)) {
            assert!(!store.contains(digest)?, "{digest} is found but not listed");
        }
        Ok(model)
    }
}

/// Does an operation on a store. Reopening is the caller's.
pub fn run<M: Medium>(store: &Store<M>, op: &Op) -> Result<(), Error> {
    match op {
        Op::Put(bytes, digest) => store.put_with(digest.algorithm(), bytes).map(drop),
        Op::Stream(bytes, digest) => {
            let mut writer = store.writer(digest.algorithm())?;
            for piece in bytes.chunks(48 << 10) {
                // The writer keeps its first error for the commit.
                let _ = std::io::Write::write_all(&mut writer, piece);
            }
            writer.commit().map(drop)
        }
        Op::Reference(digest) => store.reference(digest).map(drop),
        Op::Dereference(digest) => store.dereference(digest).map(drop),
        Op::Link { to, from } => store.link(to, from),
        Op::Unlink { to, from } => store.unlink(to, from).map(drop),
        Op::SetName(name, digest) => store.set_name(name, digest).map(drop),
        Op::RemoveName(name) => store.remove_name(name).map(drop),
        Op::Batch(ops) => {
            let mut batch = store.batch();
            for op in ops {
                match op {
                    Op::Put(bytes, digest) | Op::Stream(bytes, digest) => {
                        batch.put_with(digest.algorithm(), bytes)?;
                    }
                    Op::Reference(digest) => drop(batch.reference(digest)),
                    Op::Dereference(digest) => drop(batch.dereference(digest)),
                    Op::Link { to, from } => drop(batch.link(to, from)),
                    Op::Unlink { to, from } => drop(batch.unlink(to, from)),
                    Op::SetName(name, digest) => drop(batch.set_name(name, digest)),
                    Op::RemoveName(name) => drop(batch.remove_name(name)),
                    Op::Batch(_) | Op::Checkpoint | Op::Compact | Op::Reopen => unreachable!("not part of a batch"),
                }
            }
            batch.commit().map(drop)
        }
        Op::Checkpoint => store.checkpoint(),
        Op::Compact => store.compact().map(drop),
        Op::Reopen => unreachable!("the caller reopens"),
    }
}

/// Makes up operations that mostly make sense for a model.
pub struct Generator {
    pub random: Random,
    pub contents: Contents,
    pub stream_bytes: usize,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator { random: Random(seed), contents: Contents::new(), stream_bytes: 64 << 10 }
    }

    fn content(&mut self, length: usize) -> (Arc<Vec<u8>>, Digest) {
        let algorithm = match self.random.below(8) {
            0 => Algorithm::Sha384,
            1 => Algorithm::Sha512,
            _ => Algorithm::Sha256,
        };
        let start = self.random.next();
        let bytes: Vec<u8> = (0..length as u64).map(|n| (start.wrapping_mul(n / 7 + 3) >> 40) as u8).collect();
        let bytes = Arc::new(bytes);
        let digest = Digest::of(algorithm, &bytes);
        self.contents.insert(digest, Arc::clone(&bytes));
        (bytes, digest)
    }

    pub fn put(&mut self) -> Op {
        let length = match self.random.below(10) {
            0 => 0,
            1..=6 => self.random.below(300),
            7 | 8 => self.random.below(3000),
            _ => self.random.below(20_000),
        };
        let (bytes, digest) = self.content(length);
        Op::Put(bytes, digest)
    }

    pub fn stream(&mut self) -> Op {
        let length = self.stream_bytes + self.random.below(20_000);
        let (bytes, digest) = self.content(length);
        Op::Stream(bytes, digest)
    }

    /// One of a few names, some of them long.
    fn name(&mut self) -> Name {
        let number = self.random.below(6);
        Name::new(format!("{number}{}", "-".repeat(number * number * 40))).expect("it is printable and short enough")
    }

    /// One operation that changes the model, or is refused.
    pub fn change(&mut self, model: &Model) -> Op {
        let blobs = model.digests();
        let pick = |random: &mut Random| *random.pick(&blobs).expect("there are blobs");
        let kind = if blobs.len() < 3 { 0 } else { self.random.below(100) };
        match kind {
            0..=39 => self.put(),
            40..=41 => self.stream(),
            42..=47 => {
                let digest = pick(&mut self.random);
                Op::Put(Arc::clone(&self.contents[&digest]), digest)
            }
            48..=55 => Op::Reference(pick(&mut self.random)),
            56..=67 => Op::Dereference(pick(&mut self.random)),
            68..=71 => Op::SetName(self.name(), pick(&mut self.random)),
            72..=73 => Op::RemoveName(self.name()),
            74..=85 => Op::Link { to: pick(&mut self.random), from: pick(&mut self.random) },
            86..=91 => {
                let from = pick(&mut self.random);
                let linked: Vec<Digest> = model.blobs[&from].out.iter().copied().collect();
                let to = self.random.pick(&linked).copied().unwrap_or(from);
                Op::Unlink { to, from }
            }
            _ => {
                let mut inner = model.clone();
                let mut ops = Vec::new();
                for _ in 0..2 + self.random.below(10) {
                    let op = self.change(&inner);
                    // A batch that fails does nothing; one in some is meant to.
                    if !matches!(op, Op::Batch(_)) && (inner.apply(&op) || self.random.below(12) == 0) {
                        ops.push(op);
                    }
                }
                Op::Batch(ops)
            }
        }
    }

    pub fn next(&mut self, model: &Model) -> Op {
        match self.random.below(100) {
            0..=2 => Op::Checkpoint,
            3..=4 => Op::Reopen,
            _ => self.change(model),
        }
    }
}
