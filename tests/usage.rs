//! What keeps what: trees, chains and usage, against a plain model and against what removals really do.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use blobpack::store::How;
use blobpack::{Amount, Digest, Durability, Error, Holder, Name, PartKind, Store};
use proptest::prelude::*;

mod common;
use common::{content, golden, inserted, open_simulated, small, unknown, whole};

/// Blobs by number; each may link to those with lower numbers.
#[derive(Clone, Debug, Default)]
struct Model {
    callers: Vec<u32>,
    /// How many of these are moved into names.
    named: Vec<u32>,
    links: Vec<BTreeSet<usize>>,
}

impl Model {
    fn inbound(&self, blob: usize) -> Vec<usize> {
        (0..self.links.len()).filter(|&from| self.links[from].contains(&blob)).collect()
    }

    /// What is left once these references are gone, and `gone` with all that it links to.
    fn survivors(&self, callers: &[u32], gone: Option<usize>) -> BTreeSet<usize> {
        let mut alive = BTreeSet::new();
        let mut open: Vec<usize> = (0..callers.len()).filter(|&blob| callers[blob] > 0 && Some(blob) != gone).collect();
        while let Some(blob) = open.pop() {
            if alive.insert(blob) {
                open.extend(self.links[blob].iter().filter(|&&to| Some(to) != gone));
            }
        }
        alive
    }

    fn reached(&self, from: &[usize]) -> BTreeSet<usize> {
        let (mut reached, mut open) = (BTreeSet::new(), from.to_vec());
        while let Some(blob) = open.pop() {
            if reached.insert(blob) {
                open.extend(&self.links[blob]);
            }
        }
        reached
    }

    /// Names, and callers with what is left to them.
    fn holders(&self, blob: usize) -> Vec<Holder> {
        let left = self.callers[blob] - self.named[blob];
        let names = (0..self.named[blob]).map(|number| Holder::Name(name(blob, number)));
        names.chain((left > 0).then_some(Holder::Callers(left))).collect()
    }

    /// All chains that end at a blob, each from its holder down.
    fn chains(&self, blob: usize) -> Vec<Vec<usize>> {
        let mut chains = if self.callers[blob] > 0 { vec![vec![blob]] } else { vec![] };
        for from in self.inbound(blob) {
            for mut chain in self.chains(from) {
                chain.push(blob);
                chains.push(chain);
            }
        }
        chains
    }
}

fn size(blob: usize) -> usize {
    if blob % 7 == 3 { 65_536 + blob } else { 10 * blob }
}

fn name(blob: usize, number: u32) -> Name {
    format!("blob {blob}: name {number}").parse().unwrap()
}

/// A model and a store that holds the same.
fn build(model: &Model) -> (Store, Vec<Digest>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pack");
    let store = small().durability(Durability::Process).open(path).unwrap();
    let mut batch = store.batch();
    let digests: Vec<Digest> =
        (0..model.links.len()).map(|blob| batch.put(&content(blob as u64, size(blob))).unwrap()).collect();
    for (from, links) in model.links.iter().enumerate() {
        for &to in links {
            batch.reference(&digests[to]);
            batch.link(&digests[to], &digests[from]);
        }
    }
    for (blob, &callers) in model.callers.iter().enumerate() {
        for _ in 0..callers {
            batch.reference(&digests[blob]);
        }
    }
    for (blob, &named) in model.named.iter().enumerate() {
        for number in 0..named {
            batch.set_name(&name(blob, number), &digests[blob]);
        }
    }
    // From the top down: what nobody keeps goes at once, and was not to be there.
    for digest in digests.iter().rev() {
        batch.dereference(digest);
    }
    batch.commit().unwrap();
    (store, digests)
}

fn model() -> impl Strategy<Value = Model> {
    let links = prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 1..14);
    let counts = || prop::collection::vec(0_u32..3, 14);
    (links, counts(), counts()).prop_map(|(links, callers, named)| {
        let links: Vec<BTreeSet<usize>> = links
            .iter()
            .enumerate()
            .map(|(from, links)| links.iter().filter(|_| from > 0).map(|link| link.index(from)).collect())
            .collect();
        let mut model = Model { callers: callers[..links.len()].to_vec(), named: Vec::new(), links };
        // Who is kept by nobody is kept by a caller.
        for blob in 0..model.links.len() {
            if model.inbound(blob).is_empty() {
                model.callers[blob] = model.callers[blob].max(1);
            }
        }
        model.named = model.callers.iter().zip(named).map(|(&callers, named)| named.min(callers)).collect();
        model
    })
}

fn sizes(blobs: &BTreeSet<usize>) -> (u64, u64) {
    (blobs.len() as u64, blobs.iter().map(|&blob| size(blob) as u64).sum())
}

fn told(amount: Amount) -> (u64, u64) {
    (amount.blobs, amount.bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn trees_chains_and_usage_are_those_of_a_plain_model(model in model()) {
        let (store, digests) = build(&model);
        let number: BTreeMap<Digest, usize> = digests.iter().enumerate().map(|(at, &digest)| (digest, at)).collect();
        for (blob, digest) in digests.iter().enumerate() {
            let tree = store.tree(digest).unwrap();
            let reached = model.reached(&[blob]);
            let survivors = model.survivors(&model.callers, Some(blob));
            let unique: BTreeSet<usize> = reached.difference(&survivors).copied().collect();
            let shared: BTreeSet<usize> = reached.intersection(&survivors).copied().collect();
            prop_assert_eq!(told(tree.unique), sizes(&unique));
            prop_assert_eq!(told(tree.shared), sizes(&shared));
            let marked = tree.blobs().iter().filter(|kept| kept.shared).map(|kept| number[&kept.digest]).collect();
            prop_assert_eq!(shared, marked);
            let links: BTreeSet<_> =
                tree.links().map(|(a, b)| (tree.blobs()[a].digest, tree.blobs()[b].digest)).collect();
            let expected = reached.iter().flat_map(|&a| model.links[a].iter().map(move |&b| (a, b)));
            prop_assert_eq!(&links, &expected.map(|(a, b)| (digests[a], digests[b])).collect());
            prop_assert_eq!(tree.lines().count(), links.len() + 1);
            prop_assert_eq!(tree.lines().filter(|line| !line.is_repeated).count(), reached.len());

            let why = store.why(digest).unwrap();
            let chains: BTreeSet<(String, Vec<usize>)> = why
                .chains()
                .map(|chain| {
                    let blobs = chain.blobs.iter().map(|kept| number[&kept.digest]).collect();
                    (format!("{:?}", chain.holder), blobs)
                })
                .collect();
            let mut expected = BTreeSet::new();
            for chain in model.chains(blob) {
                for holder in model.holders(chain[0]) {
                    expected.insert((format!("{holder:?}"), chain.clone()));
                }
            }
            prop_assert_eq!(why.count(), expected.len() as u128);
            prop_assert_eq!(why.chains().count(), expected.len());
            prop_assert_eq!(chains, expected);
        }
    }

    #[test]
    fn what_usage_says_would_go_goes(model in model()) {
        let usage = build(&model).0.usage().unwrap();
        prop_assert_eq!(told(usage.total), sizes(&(0..model.links.len()).collect()));
        let own = |blob: usize| model.callers[blob] - model.named[blob];
        let references: u32 = (0..model.links.len()).map(own).sum();
        prop_assert_eq!(usage.caller_references, u64::from(references));
        // Each name on a store of its own, as if it was the only one to go.
        for named in usage.names.iter().take(4) {
            let (store, digests) = build(&model);
            let blob = digests.iter().position(|&digest| digest == named.digest).unwrap();
            let reached = model.reached(&[blob]);
            let before = store.stats().unwrap();
            let removed = store.remove_name(&named.name).unwrap();
            let after = store.stats().unwrap();
            let gone = (before.blobs - after.blobs, before.live_bytes - after.live_bytes);
            prop_assert_eq!(told(named.keeps.unique), gone);
            prop_assert_eq!(named.keeps.unique.blobs, removed.blobs());
            prop_assert_eq!(named.keeps.unique.reclaimable_bytes, removed.reclaimable_bytes());
            prop_assert_eq!(after.dead_bytes - before.dead_bytes, removed.reclaimable_bytes());
            let (blobs, bytes) = sizes(&reached);
            prop_assert_eq!(told(named.keeps.shared), (blobs - gone.0, bytes - gone.1));
        }
        prop_assert_eq!(usage.names.len() as u32, model.named.iter().sum::<u32>());
        let (store, digests) = build(&model);
        let before = store.stats().unwrap();
        let mut batch = store.batch();
        for (blob, digest) in digests.iter().enumerate() {
            for _ in 0..own(blob) {
                batch.dereference(digest);
            }
        }
        batch.commit().unwrap();
        let after = store.stats().unwrap();
        let unique = usage.callers.unique;
        prop_assert_eq!(unique.reclaimable_bytes, after.dead_bytes - before.dead_bytes);
        prop_assert_eq!(told(unique), (before.blobs - after.blobs, before.live_bytes - after.live_bytes));
    }
}

/// `width` blobs on each of `levels` levels, each linked to all of the level below.
fn ladder(levels: usize, width: usize) -> Model {
    let links = |blob: usize| match blob / width {
        0 => BTreeSet::new(),
        level => ((level - 1) * width..level * width).collect(),
    };
    let mut model =
        Model { callers: vec![0; levels * width], named: Vec::new(), links: (0..levels * width).map(links).collect() };
    model.callers[(levels - 1) * width..].fill(1);
    model
}

#[test]
fn exponentially_many_paths_cost_no_more_than_the_links_they_are_made_of() {
    let model = ladder(200, 2);
    let (store, digests) = build(&model);
    let top = digests[399];
    let tree = store.tree(&top).unwrap();
    assert_eq!(tree.lines().count(), 2 * 2 * 198 + 2 + 1);
    assert_eq!((tree.unique.blobs, tree.shared.blobs), (1, 398));
    let why = store.why(&digests[0]).unwrap();
    assert_eq!(why.count(), u128::MAX);
    assert_eq!(why.links().count(), 2 * 2 * 198 + 2);
    let chains: Vec<_> = why.chains().take(1000).collect();
    assert_eq!(chains.len(), 1000);
    assert!(chains.iter().all(|chain| chain.blobs.len() == 200));
    let few = store.why(&digests[2 * 99]).unwrap();
    assert_eq!(few.count(), 1 << 101 >> 1);
}

#[test]
fn a_long_chain_needs_no_deep_stack() {
    let length = 30_000;
    let store = Store::temporary().unwrap();
    let mut batch = store.batch();
    let digests: Vec<Digest> = (0..length as u64).map(|seed| batch.put(&seed.to_le_bytes()).unwrap()).collect();
    for pair in digests.windows(2) {
        batch.link(&pair[0], &pair[1]);
    }
    batch.commit().unwrap();
    let look = move || {
        let tree = store.tree(&digests[length - 1]).unwrap();
        assert_eq!((tree.unique.blobs, tree.shared.blobs), (length as u64, 0));
        assert_eq!(tree.lines().map(|line| line.depth).max(), Some(length - 1));
        let why = store.why(&digests[0]).unwrap();
        assert_eq!(why.count(), 1);
        assert_eq!(why.chains().next().unwrap().blobs.len(), length);
        assert_eq!(store.usage().unwrap().callers.unique.blobs, length as u64);
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(look).unwrap().join().unwrap();
}

#[test]
fn what_is_not_stored_is_not_found() {
    let store = Store::temporary().unwrap();
    assert!(matches!(store.tree(&unknown()), Err(Error::NotFound { .. })));
    assert!(matches!(store.why(&unknown()), Err(Error::NotFound { .. })));
    let usage = store.usage().unwrap();
    assert_eq!((usage.total.blobs, usage.caller_references), (0, 0));
}

#[test]
fn a_reader_beside_a_writer_sees_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pack");
    let store = Store::open(&path).unwrap();
    let mut batch = store.batch();
    let [base, layer, image] = [b"base", &b"layer"[..], b"image"].map(|bytes| batch.put(bytes).unwrap());
    batch.reference(&base);
    batch.link(&base, &image);
    batch.link(&layer, &image);
    batch.commit().unwrap();
    let reader = Store::options().read_only(true).open(&path).unwrap();
    for store in [&store, &reader] {
        let tree = store.tree(&image).unwrap();
        let lines: Vec<_> = tree.lines().map(|line| (line.depth, line.is_last, line.blob.digest)).collect();
        assert_eq!(lines, [(0, true, image), (1, false, base), (1, true, layer)]);
        assert!(!tree.moving);
        assert_eq!(store.why(&base).unwrap().count(), 2);
        let usage = store.usage().unwrap();
        assert_eq!((usage.callers.unique.blobs, usage.caller_references), (3, 2));
    }
}

#[test]
fn a_damaged_record_is_a_named_error_for_all_that_need_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pack");
    let store = Store::options().create_new(true).open(&path).unwrap();
    let mut batch = store.batch();
    let [base, image] = [b"the base", &b"the image"[..]].map(|bytes| batch.put(bytes).unwrap());
    batch.link(&base, &image);
    batch.commit().unwrap();
    store.checkpoint().unwrap();
    let regions: Vec<_> = store.layout().unwrap().parts;
    drop(store);
    // The counts of every blob record of the index.
    let mut bytes = std::fs::read(&path).unwrap();
    for part in regions.iter().filter(|part| matches!(part.kind, PartKind::Index | PartKind::Spare)) {
        for at in (part.offset as usize..(part.offset + part.length) as usize).step_by(64) {
            if matches!(bytes[at + 16..at + 24], [8 | 9, 0, 0, 0, 0, 0, 0, 0]) && bytes[at + 60] == 1 {
                bytes[at + 24] ^= 1;
            }
        }
    }
    std::fs::write(&path, bytes).unwrap();
    let store = Store::options().read_only(true).open(&path).unwrap();
    for error in
        [store.tree(&image).err(), store.why(&base).err(), store.usage().err(), store.compaction_estimate().err()]
    {
        assert!(error.as_ref().is_some_and(Error::is_damage), "{error:?}");
    }
}

#[test]
fn damage_anywhere_is_a_named_error_or_no_matter() {
    let bytes = whole(&std::fs::read(golden("v1.pack.sparse")).unwrap());
    let sound = open_simulated(&inserted(bytes.clone(), 1 << 30), &small(), How::Open).unwrap();
    let digests: Vec<Digest> = sound.list().map(|digest| digest.unwrap()).collect();
    for at in (0..bytes.len()).step_by(2003).filter(|&at| bytes[at] != 0) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        let Ok(store) = open_simulated(&inserted(changed, 1 << 30), &small(), How::Open) else { continue };
        let check = |error: Option<Error>| {
            if let Some(error) = error {
                assert!(error.is_damage() || error.is_not_found(), "{at}: {error}");
            }
        };
        check(store.usage().err());
        check(store.compaction_estimate().err());
        for digest in digests.iter().take(5) {
            check(store.tree(digest).err());
            check(store.why(digest).err());
        }
    }
}
