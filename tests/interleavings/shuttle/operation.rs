//! What threads do to a store, what may come of it, and what the store then holds: said once as calls, once as a model
//! that does one operation after the other.

use std::collections::BTreeMap;

use blobpack::medium::Sim;
use blobpack::{Algorithm, Digest, Error, Store};

/// One of a few blobs, by number.
pub type Blob = u8;

/// How many there are. A link goes from a blob to one with a lower number.
pub const BLOBS: Blob = 4;

/// The bytes of a blob. One is large: it gets an extent before its commit.
pub fn bytes(blob: Blob) -> Vec<u8> {
    vec![blob; if blob == 1 { 70_000 } else { 20 + usize::from(blob) }]
}

/// Its digest.
pub fn digest(blob: Blob) -> Digest {
    Digest::of(Algorithm::Sha256, &bytes(blob))
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Put(Blob),
    Reference(Blob),
    Dereference(Blob),
    Link {
        to: Blob,
        from: Blob,
    },
    Unlink {
        to: Blob,
        from: Blob,
    },
    /// The references, links and bytes of one blob.
    Look(Blob),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// References and links out.
    Is {
        references: u64,
        links: u64,
    },
    Linked,
    /// So many blobs.
    Removed(u64),
    NotFound,
    NotLinked,
    NoSpareReference,
}

impl Operation {
    /// Does it.
    ///
    /// # Panics
    ///
    /// If the store fails in a way that nothing explains, or a blob has other bytes than it should.
    pub fn run(self, store: &Store<Sim>) -> Outcome {
        let result = match self {
            Operation::Put(blob) => store.put(&bytes(blob)).map(described),
            Operation::Reference(blob) => store.reference(&digest(blob)).map(described),
            Operation::Dereference(blob) => {
                store.dereference(&digest(blob)).map(|removed| Outcome::Removed(removed.blobs()))
            }
            Operation::Link { to, from } => store.link(&digest(to), &digest(from)).map(|_| Outcome::Linked),
            Operation::Unlink { to, from } => {
                store.unlink(&digest(to), &digest(from)).map(|removed| Outcome::Removed(removed.blobs()))
            }
            Operation::Look(blob) => store.get(&digest(blob)).map(|found| {
                assert_eq!(found.as_bytes(), bytes(blob));
                Outcome::Is { references: found.ref_count(), links: found.link_count() }
            }),
        };
        result.unwrap_or_else(|error| match error {
            Error::NotFound { .. } => Outcome::NotFound,
            Error::NotLinked { .. } => Outcome::NotLinked,
            Error::NoSpareReference { .. } => Outcome::NoSpareReference,
            other => panic!("{self:?}: {other}"),
        })
    }
}

fn described(descriptor: blobpack::Descriptor) -> Outcome {
    Outcome::Is { references: descriptor.ref_count, links: descriptor.link_count }
}

/// What a store holds, by one operation after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    blobs: BTreeMap<Blob, Entry>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    references: u64,
    /// Of these, those that links hold.
    held: u64,
    /// What it links to.
    links: Vec<Blob>,
}

impl State {
    /// Does an operation.
    pub fn run(&mut self, operation: Operation) -> Outcome {
        match operation {
            Operation::Put(blob) => {
                self.blobs.entry(blob).or_default().references += 1;
                self.look(blob)
            }
            Operation::Reference(blob) => {
                if let Some(entry) = self.blobs.get_mut(&blob) {
                    entry.references += 1;
                }
                self.look(blob)
            }
            Operation::Dereference(blob) => match self.blobs.get(&blob) {
                None => Outcome::NotFound,
                Some(entry) if entry.references == entry.held => Outcome::NoSpareReference,
                Some(_) => Outcome::Removed(self.drop_reference(blob)),
            },
            Operation::Link { to, from } => self.link(to, from),
            Operation::Unlink { to, from } => self.unlink(to, from),
            Operation::Look(blob) => self.look(blob),
        }
    }

    fn look(&self, blob: Blob) -> Outcome {
        self.blobs.get(&blob).map_or(Outcome::NotFound, |entry| Outcome::Is {
            references: entry.references,
            links: entry.links.len() as u64,
        })
    }

    fn link(&mut self, to: Blob, from: Blob) -> Outcome {
        let (Some(target), Some(source)) = (self.blobs.get(&to), self.blobs.get(&from)) else {
            return Outcome::NotFound;
        };
        if target.references == target.held {
            return Outcome::NoSpareReference;
        }
        if source.links.contains(&to) {
            self.drop_reference(to);
        } else {
            self.blobs.get_mut(&from).expect("it is there").links.push(to);
            self.blobs.get_mut(&to).expect("it is there").held += 1;
        }
        Outcome::Linked
    }

    fn unlink(&mut self, to: Blob, from: Blob) -> Outcome {
        if !self.blobs.contains_key(&to) {
            return Outcome::NotFound;
        }
        let Some(source) = self.blobs.get_mut(&from) else { return Outcome::NotFound };
        let Some(at) = source.links.iter().position(|link| *link == to) else { return Outcome::NotLinked };
        source.links.remove(at);
        self.blobs.get_mut(&to).expect("what is linked to is there").held -= 1;
        Outcome::Removed(self.drop_reference(to))
    }

    /// How many blobs that removes.
    fn drop_reference(&mut self, blob: Blob) -> u64 {
        let entry = self.blobs.get_mut(&blob).expect("it is there");
        entry.references -= 1;
        if entry.references > 0 {
            return 0;
        }
        let entry = self.blobs.remove(&blob).expect("it is there");
        let mut removed = 1;
        for to in entry.links {
            self.blobs.get_mut(&to).expect("what is linked to is there").held -= 1;
            removed += self.drop_reference(to);
        }
        removed
    }
}
