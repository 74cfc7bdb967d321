//! What a store holds, and whether one with a flipped bit says so.

use std::collections::{BTreeMap, BTreeSet};

use blobpack::medium::Medium;
use blobpack::{Algorithm, Digest, Error, Name, Result, Store};

use super::common::{content, unknown};

/// One blob.
#[derive(Clone, PartialEq, Eq)]
pub struct Held {
    pub bytes: Vec<u8>,
    pub references: u64,
    pub links: BTreeSet<Digest>,
    pub referrers: BTreeSet<Digest>,
}

/// All that a sound store says.
#[derive(Clone, PartialEq, Eq)]
pub struct Truth {
    pub blobs: BTreeMap<Digest, Held>,
    pub names: Vec<(Name, Digest)>,
}

/// What a store with a flipped bit said: all of it right, but for these.
#[derive(Default)]
pub struct Answers {
    /// Named errors.
    pub errors: Vec<String>,
    /// Blobs that could not be had, or whose bytes are others and are named so.
    pub lost: BTreeSet<Digest>,
    /// What a fast lookup, for which the index is a hint, did not find.
    pub missed: usize,
}

/// Whether an error names what is wrong with the file.
pub fn is_named(error: &Error) -> bool {
    matches!(error, Error::Damaged(_) | Error::Io { .. } | Error::DigestMismatch { .. })
}

impl Truth {
    /// Of a sound store.
    pub fn of<M: Medium>(store: &Store<M>) -> Truth {
        let set = |links: blobpack::Links<M>| links.map(Result::unwrap).collect();
        let blobs = store.list().map(|digest| {
            let digest = digest.unwrap();
            let blob = store.get(&digest).unwrap();
            let (links, referrers) = (store.links(&digest).unwrap(), store.referrers(&digest).unwrap());
            let (links, referrers) = (set(links), set(referrers));
            (digest, Held { bytes: blob.to_vec(), references: blob.ref_count(), links, referrers })
        });
        Truth { blobs: blobs.collect(), names: store.names().unwrap() }
    }

    /// Asks a store for everything. The error is an answer that is wrong.
    pub fn ask<M: Medium>(&self, store: &Store<M>) -> Result<Answers, String> {
        let mut answers = Answers::default();
        for (digest, held) in &self.blobs {
            answers.blob(store, digest, held)?;
        }
        let listed: Result<BTreeSet<Digest>> = store.list().collect();
        let all: BTreeSet<Digest> = self.blobs.keys().copied().collect();
        answers.same("list", listed, &all)?;
        answers.same("names", store.names(), &self.names)?;
        for (name, digest) in &self.names {
            answers.same("a name", store.name(name), digest)?;
        }
        answers.same("a stranger", store.find(&unknown()).map(|blob| blob.is_some()), &false)?;
        match store.stats() {
            Ok(stats) if stats.blobs == all.len() as u64 && stats.names == self.names.len() as u64 => {}
            Ok(stats) => return Err(format!("{stats:?} of {} blobs", all.len())),
            Err(error) => answers.named("stats", error)?,
        }
        Ok(answers)
    }
}

impl Answers {
    fn named(&mut self, what: &str, error: Error) -> Result<(), String> {
        if !is_named(&error) {
            return Err(format!("{what}: {error}"));
        }
        self.errors.push(format!("{what}: {error}"));
        Ok(())
    }

    fn same<T: PartialEq>(&mut self, what: &str, found: Result<T>, expected: &T) -> Result<(), String> {
        match found {
            Ok(found) if found == *expected => Ok(()),
            Ok(_) => Err(format!("{what}: a wrong answer")),
            Err(error) => self.named(what, error),
        }
    }

    fn blob<M: Medium>(&mut self, store: &Store<M>, digest: &Digest, held: &Held) -> Result<(), String> {
        let what = |verb: &str| format!("{verb} {digest}");
        match store.get(digest) {
            Ok(blob) => {
                let says = (blob.ref_count(), blob.link_count(), blob.size());
                if says != (held.references, held.links.len() as u64, held.bytes.len() as u64) {
                    return Err(format!("get {digest}: {says:?}"));
                }
                if let Err(error) = blob.verify() {
                    if blob.as_bytes() == held.bytes {
                        return Err(format!("verify {digest}: {error}"));
                    }
                    self.lost.insert(*digest);
                    self.named(&what("bytes of"), error)?;
                } else if blob.as_bytes() != held.bytes {
                    return Err(format!("get {digest}: other bytes, and a verification finds nothing"));
                }
            }
            Err(error) => {
                self.lost.insert(*digest);
                self.named(&what("get"), error)?;
            }
        }
        match store.descriptor(digest).map(|found| (found.ref_count, found.link_count)) {
            Ok(found) if found == (held.references, held.links.len() as u64) => {}
            Ok(found) => return Err(format!("descriptor {digest}: {found:?}")),
            Err(error) => self.named(&what("descriptor"), error)?,
        }
        match store.reader().and_then(|reader| reader.contains(digest)) {
            Ok(true) => {}
            Ok(false) => self.missed += 1,
            Err(error) => self.named(&what("contains"), error)?,
        }
        let links = store.links(digest).and_then(|links| links.collect());
        self.same(&what("links"), links, &held.links)?;
        let referrers = store.referrers(digest).and_then(|links| links.collect());
        self.same(&what("referrers"), referrers, &held.referrers)
    }
}

/// Fills a store with a bit of everything: blobs of every algorithm, in chunks and in an extent of its own, one in the
/// middle of a chunk's end, links, names, removed ones, an index that has split, checkpoints.
pub fn fill<M: Medium>(store: &Store<M>) {
    let mut digests = Vec::new();
    for seed in 0..9 {
        let length = [0, 1, 64, 100, 333, 64, 7, 1000, 20][seed as usize];
        let algorithm = Algorithm::ALL[seed as usize % 3];
        digests.push(store.put_with(algorithm, &content(seed, length)).unwrap().digest);
    }
    let large = store.put(&content(20, 66_000)).unwrap().digest;
    for (to, from) in [(0, 1), (2, 1), (3, 4), (4, 5)] {
        store.link(&digests[to], &digests[from]).unwrap();
    }
    store.link(&large, &digests[1]).unwrap();
    store.checkpoint().unwrap();
    for (text, number) in [("a name", 5), ("library/alpine:3.20", 6), ("gone", 7)] {
        store.set_name(&text.parse().unwrap(), &digests[number]).unwrap();
    }
    store.remove_name(&"gone".parse().unwrap()).unwrap();
    store.reference(&digests[8]).unwrap();
    store.dereference(&digests[8]).unwrap();
    store.dereference(&digests[8]).unwrap();
    for seed in 30..33 {
        let middle = store.put(&content(seed, 25_000)).unwrap().digest;
        store.link(&middle, &digests[6]).unwrap();
    }
    let mut batch = store.batch();
    let (child, parent) = (batch.put(&content(40, 50)).unwrap(), batch.put(&content(41, 51)).unwrap());
    batch.link(&child, &parent);
    batch.commit().unwrap();
}
