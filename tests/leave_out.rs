//! A compaction that leaves out what is damaged, against a model of what has to be left.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::collections::BTreeMap;

use blobpack::format::{BlobSlot, Kind, LinkSlot};
use blobpack::medium::SimDirectory;
use blobpack::store::How;
use blobpack::{Algorithm, CompactOptions, Digest, Error, Finding, Name, Result, Store};
use proptest::prelude::*;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

mod common;
#[path = "rot/parts.rs"]
#[allow(dead_code, reason = "some of it is needed here")]
mod parts;
use common::{PACK, content, inserted, open_simulated, simulated, small};
use parts::of_kind;

const FILE_BYTES_MAX: u64 = 64 << 20;

/// What becomes of a blob on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sound,
    /// The bytes are whole: they say what the header was.
    Header,
    Payload,
    Both,
}

#[derive(Clone, Debug)]
struct Plan {
    /// Of each blob: whether it is large, how many references callers hold, what becomes of it.
    blobs: Vec<(bool, u32, Fate)>,
    /// From the first, the larger number, to the second.
    links: Vec<(usize, usize)>,
    /// Of each name: its blob, and whether its text is damaged.
    names: Vec<(usize, bool)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let fate = prop_oneof![
        3 => Just(Fate::Sound), 1 => Just(Fate::Header), 2 => Just(Fate::Payload), 1 => Just(Fate::Both)
    ];
    let blobs = prop::collection::vec((prop::bool::weighted(0.1), 0..3u32, fate), 1..16);
    let ends = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    let links = prop::collection::vec(ends, 0..40);
    let names = prop::collection::vec((any::<prop::sample::Index>(), prop::bool::weighted(0.3)), 0..8);
    (blobs, links, names).prop_map(|(blobs, links, names)| {
        let count = blobs.len();
        let mut links: Vec<(usize, usize)> = links
            .into_iter()
            .map(|(a, b)| (a.index(count), b.index(count)))
            .filter(|(a, b)| a != b)
            .map(|(a, b)| (a.max(b), a.min(b)))
            .collect();
        let mut seen = Vec::new();
        links.retain(|link| {
            !seen.contains(link) && {
                seen.push(*link);
                true
            }
        });
        Plan { blobs, links, names: names.into_iter().map(|(blob, torn)| (blob.index(count), torn)).collect() }
    })
}

fn bytes_of(number: usize, is_large: bool) -> Vec<u8> {
    content(number as u64, if is_large { 70_000 } else { 20 + 37 * number })
}

fn name_of(number: usize) -> Name {
    format!("name/{number}").parse().unwrap()
}

/// What callers see of a blob: its references, what it links to, what links to it.
type Seen = BTreeMap<Digest, (u64, Vec<Digest>, Vec<Digest>)>;

fn seen<M: blobpack::medium::Medium>(store: &Store<M>) -> Result<Seen> {
    store
        .list()
        .map(|digest| {
            let digest = digest?;
            store.get(&digest)?.verify()?;
            let references = store.descriptor(&digest)?.ref_count;
            Ok((
                digest,
                (
                    references,
                    store.links(&digest)?.collect::<Result<_>>()?,
                    store.referrers(&digest)?.collect::<Result<_>>()?,
                ),
            ))
        })
        .collect()
}

/// Fills a pack, and damages it. Returns it with the digests of the plan's blobs.
fn damaged(plan: &Plan) -> (SimDirectory, Vec<Digest>, Seen) {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let mut digests = Vec::new();
    for (number, (is_large, references, _)) in plan.blobs.iter().enumerate() {
        let digest = store.put(&bytes_of(number, *is_large)).unwrap().digest;
        for _ in 0..*references {
            store.reference(&digest).unwrap();
        }
        digests.push(digest);
    }
    for (from, to) in &plan.links {
        store.reference(&digests[*to]).unwrap();
        store.link(&digests[*to], &digests[*from]).unwrap();
    }
    for (number, (blob, _)) in plan.names.iter().enumerate() {
        store.reference(&digests[*blob]).unwrap();
        store.set_name(&name_of(number), &digests[*blob]).unwrap();
    }
    let before = seen(&store).unwrap();
    store.close().unwrap();
    let mut bytes = directory.bytes(PACK).unwrap();
    for frame in of_kind(&bytes, Kind::Blob) {
        let number = digests.iter().position(|digest| Some(*digest) == frame.digest).unwrap();
        let fate = plan.blobs[number].2;
        if matches!(fate, Fate::Header | Fate::Both) {
            bytes[frame.offset.0 as usize + 20] ^= 1;
        }
        if matches!(fate, Fate::Payload | Fate::Both) {
            bytes[frame.body().0 as usize + 7] ^= 0x80;
        }
    }
    for frame in of_kind(&bytes, Kind::Name) {
        let text = &mut bytes[frame.body().0 as usize..][..frame.length as usize];
        let number: usize = std::str::from_utf8(&text[5..]).unwrap().parse().unwrap();
        text[0] ^= u8::from(plan.names[number].1);
    }
    (inserted(bytes, FILE_BYTES_MAX), digests, before)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_damaged_is_left_out_and_the_rest_is_as_it_was(plan in plan(), times in 1..3) {
        let (directory, digests, before) = damaged(&plan);
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        let is_lost = |number: usize| matches!(plan.blobs[number].2, Fate::Payload | Fate::Both);
        let lost: Vec<Digest> = (0..digests.len()).filter(|n| is_lost(*n)).map(|n| digests[n]).collect();
        let lost_names = plan.names.iter().filter(|(blob, torn)| *torn || is_lost(*blob)).count();

        // A listing has all of them, as errors where the header is lost, and goes on from any.
        let listed: Vec<Option<Digest>> = store.list().map(Result::ok).collect();
        let unknown = plan.blobs.iter().filter(|(.., fate)| matches!(fate, Fate::Header | Fate::Both)).count();
        let errors = listed.iter().filter(|digest| digest.is_none()).count();
        prop_assert_eq!((listed.len(), errors), (digests.len(), unknown));
        for (at, digest) in listed.iter().enumerate() {
            let Some(digest) = digest else { continue };
            let after: Vec<Option<Digest>> = store.list_after(digest).map(Result::ok).collect();
            prop_assert_eq!(&after, &listed[at + 1..]);
        }

        // Unasked it loses nothing.
        let file = directory.bytes(PACK).unwrap();
        if lost.is_empty() && lost_names == 0 {
            prop_assert_eq!(store.compact().unwrap().left_out, []);
        } else {
            prop_assert!(store.compact().unwrap_err().is_damage());
            prop_assert_eq!(directory.bytes(PACK).unwrap(), file);
        }

        let left_out = store.compact_with(CompactOptions::new().leave_out_damaged()).unwrap().left_out;
        let (blobs, names): (Vec<&Finding>, Vec<&Finding>) =
            left_out.iter().partition(|finding| !finding.what.contains("name"));
        prop_assert_eq!((blobs.len(), names.len()), (lost.len(), lost_names), "{:?}", left_out);
        for finding in blobs {
            let Some(digest) = finding.digest else { continue };
            prop_assert!(lost.contains(&digest));
            let mut referrers = before[&digest].2.clone();
            referrers.retain(|referrer| !lost.contains(referrer));
            let mut told = finding.referrers.clone();
            referrers.sort();
            told.sort();
            prop_assert_eq!(told, referrers);
        }

        // The same again has nothing to leave out; the pack is sound, and stays so when it is opened again.
        let mut expected = before;
        expected.retain(|digest, _| !lost.contains(digest));
        for (_, links, referrers) in expected.values_mut() {
            links.retain(|digest| !lost.contains(digest));
            referrers.retain(|digest| !lost.contains(digest));
        }
        let kept: Vec<(Name, Digest)> = plan
            .names
            .iter()
            .enumerate()
            .filter(|(_, (blob, torn))| !torn && !is_lost(*blob))
            .map(|(number, (blob, _))| (name_of(number), digests[*blob]))
            .collect();
        let is_as_expected = |store: &Store<_>| {
            let verified = store.verify().unwrap();
            assert!(verified.damage.is_empty() && !verified.partial, "{verified:?}");
            assert_eq!(seen(store).unwrap(), expected);
            let names = store.names().unwrap();
            let mut kept = kept.clone();
            kept.sort();
            assert_eq!(names, kept);
        };
        is_as_expected(&store);
        for _ in 1..times {
            let again = store.compact_with(CompactOptions::new().leave_out_damaged()).unwrap();
            prop_assert_eq!(again.left_out, []);
            is_as_expected(&store);
        }
        store.close().unwrap();
        let rebuilt = open_simulated(&directory, &small(), How::Rebuild).unwrap();
        is_as_expected(&rebuilt);

        // What was lost can be stored again, and everything can be given up.
        for (number, (is_large, ..)) in plan.blobs.iter().enumerate() {
            rebuilt.put(&bytes_of(number, *is_large)).unwrap();
            prop_assert_eq!(rebuilt.get(&digests[number]).unwrap().verify().ok(), Some(()));
        }
        for (name, _) in kept {
            rebuilt.remove_name(&name).unwrap();
        }
        for digest in &digests {
            loop {
                match rebuilt.dereference(digest) {
                    Ok(_) => {}
                    Err(Error::NotFound { .. } | Error::NoSpareReference { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let mut rest: Vec<Digest> = rebuilt.list().collect::<Result<_>>().unwrap();
        while let Some(digest) = rest.pop() {
            // What its holders held is a caller's now only once they are gone.
            while rebuilt.dereference(&digest).is_ok() {}
        }
        prop_assert!(rebuilt.verify().unwrap().damage.is_empty());
    }
}

#[test]
fn a_file_that_was_cut_off_within_a_blob_is_made_whole_without_it() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let kept = store.put(b"kept").unwrap().digest;
    let lost = store.put_with(Algorithm::Sha512, &content(1, 500_000)).unwrap().digest;
    store.link(&kept, &lost).unwrap();
    store.close().unwrap();
    let mut bytes = directory.bytes(PACK).unwrap();
    let payload = of_kind(&bytes, Kind::Blob).last().unwrap().body().0;
    bytes.truncate(payload as usize + 50_000);
    let directory = inserted(bytes, FILE_BYTES_MAX);
    let store = open_simulated(&directory, &small(), How::Open).unwrap();
    let left_out = store.compact_with(CompactOptions::new().leave_out_damaged()).unwrap().left_out;
    assert_eq!(left_out.iter().map(|finding| finding.digest).collect::<Vec<_>>(), [Some(lost)]);
    assert!(store.verify().unwrap().damage.is_empty());
    // The reference that it held on the other blob belongs to a caller.
    assert_eq!(store.dereference(&kept).unwrap().blobs(), 1);
}

/// Whoever asks both for this and for a share to be given back was told of the damage instead, or of nothing at all.
#[test]
fn what_is_damaged_is_left_out_however_little_that_gives_back() {
    let name = (0, true);
    for (fate, names) in [(Fate::Payload, vec![]), (Fate::Sound, vec![name]), (Fate::Payload, vec![name, (1, false)])] {
        let blobs = vec![(false, 0, fate), (false, 0, Fate::Sound)];
        let lost = usize::from(fate == Fate::Payload) + usize::from(names.contains(&name));
        let (directory, ..) = damaged(&Plan { blobs, links: vec![], names });
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        let compact = || store.compact_with(CompactOptions::new().leave_out_damaged().min_dead(100)).unwrap();
        let compacted = compact();
        assert_eq!((compacted.skipped, compacted.left_out.len()), (false, lost), "{compacted:?}");
        assert!(store.verify().unwrap().damage.is_empty());
        assert!(compact().skipped, "nothing is damaged any more");
    }
}

/// Each of many links leads to the beginning of the same long list of links that are left out. That was walked for each
/// anew: a small pack could take hours.
#[test]
fn no_list_of_what_is_left_out_is_walked_again_and_again() {
    let blobs = (0..41).map(|n| (false, 0, if (20..40).contains(&n) { Fate::Payload } else { Fate::Sound })).collect();
    let links = (0..40).map(|to| (40, to)).collect();
    let (directory, digests, _) = damaged(&Plan { blobs, links, names: vec![] });
    let mut bytes = directory.bytes(PACK).unwrap();
    let ids: Vec<u64> = digests
        .iter()
        .map(|digest| of_kind(&bytes, Kind::Blob).iter().find(|frame| frame.digest == Some(*digest)).unwrap().offset.0)
        .collect();
    let mut forged = 0;
    for (at, length) in parts::index(&bytes) {
        for slot in bytes[at as usize..][..length as usize].chunks_exact_mut(64) {
            let link = LinkSlot::read_from_bytes(slot).unwrap();
            if link.kind == Kind::Link as u8 && link.is_sealed() && ids[..20].contains(&link.to.get()) {
                slot.copy_from_slice(LinkSlot { next_out: U64::new(ids[39]), ..link }.sealed().as_bytes());
                forged += 1;
            }
        }
    }
    assert_eq!(forged, 20);
    let store = open_simulated(&inserted(bytes, FILE_BYTES_MAX), &small(), How::Open).unwrap();
    assert!(store.compact_with(CompactOptions::new().leave_out_damaged()).unwrap_err().is_damage());
}

/// Who links to it was told of no blob whose record is wrong, though nobody can get it.
#[test]
fn a_blob_whose_record_is_wrong_is_left_out_and_told_with_who_links_to_it() {
    let blobs = vec![(false, 0, Fate::Sound), (false, 0, Fate::Sound)];
    let (directory, digests, _) = damaged(&Plan { blobs, links: vec![(1, 0)], names: vec![] });
    let mut bytes = directory.bytes(PACK).unwrap();
    let id = of_kind(&bytes, Kind::Blob).iter().find(|frame| frame.digest == Some(digests[0])).unwrap().offset.0;
    for (at, length) in parts::index(&bytes) {
        for slot in bytes[at as usize..][..length as usize].chunks_exact_mut(64) {
            let blob = BlobSlot::read_from_bytes(slot).unwrap();
            if blob.kind == Kind::Blob as u8 && blob.is_sealed() && blob.offset.get() == id {
                slot.copy_from_slice(BlobSlot { tag: U64::new(blob.tag.get() ^ 1), ..blob }.sealed().as_bytes());
            }
        }
    }
    let store = open_simulated(&inserted(bytes, FILE_BYTES_MAX), &small(), How::Open).unwrap();
    let damage = store.verify().unwrap().damage;
    let found = damage.iter().find(|found| found.what.contains("the tag of another digest")).unwrap();
    assert_eq!((found.digest, &found.referrers[..]), (Some(digests[0]), &digests[1..]));
    let left_out = store.compact_with(CompactOptions::new().leave_out_damaged()).unwrap().left_out;
    assert_eq!(left_out.iter().map(|finding| finding.digest).collect::<Vec<_>>(), [Some(digests[0])]);
    assert!(store.verify().unwrap().damage.is_empty());
}
