//! Bit rot: whatever bit of a pack is flipped, each answer is right or a named error, and what is lost is named.
//!
//! Here a part of all bits is flipped; `BLOBPACK_ROT=all` flips each.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use blobpack::format::{
    BlobHeader, Frame, FrameHeader, Identity, Kind, Offset, RunDetail, SUPERBLOCKS_AT, header_bytes,
};
use blobpack::medium::{Medium, Sim, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, CompactOptions, Digest, Finding, Recovery, Result, Store};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

mod common;
#[path = "rot/parts.rs"]
mod parts;
#[path = "rot/truth.rs"]
mod truth;
use common::{PACK, content, inserted, open_simulated, simulated, skipped, small};
use parts::{bits, flip, frames, index, is_chunk_place, newest, of_kind, put_superblock, reseal};

use truth::{Truth, fill, is_named};

const FILE_BYTES_MAX: u64 = 8 << 20;

/// One bit out of so many is flipped; `BLOBPACK_ROT` says another number, or `all`.
fn step(in_ci: usize) -> usize {
    match std::env::var("BLOBPACK_ROT") {
        Ok(all) if all == "all" => 1,
        Ok(number) => number.parse().unwrap(),
        Err(_) => in_ci,
    }
}

/// Calls `check` on packs with each of these bits flipped, on two threads. It leaves the pack as it is.
fn with_each_flipped(bytes: &[u8], bits: &[usize], check: impl Fn(usize, &SimDirectory) + Sync) {
    println!("{} bits", bits.len());
    std::thread::scope(|scope| {
        for odd in 0..2 {
            let check = &check;
            scope.spawn(move || {
                let directory = inserted(bytes.to_vec(), FILE_BYTES_MAX);
                let file = directory.open(PACK, true).unwrap();
                for &bit in bits.iter().skip(odd).step_by(2) {
                    let (at, byte) = (Offset(bit as u64 / 8), bytes[bit / 8]);
                    file.write_at(at, &[&[byte ^ 1 << (bit % 8)]], true).unwrap();
                    check(bit, &directory);
                    file.write_at(at, &[&[byte]], true).unwrap();
                }
            });
        }
    });
}

fn copy(directory: &SimDirectory) -> SimDirectory {
    inserted(directory.bytes(PACK).unwrap(), FILE_BYTES_MAX)
}

fn read_only(directory: &SimDirectory) -> Result<Store<Sim>> {
    let medium = directory.open(PACK, false).unwrap();
    Ok(small().read_only(true).open_in(medium, How::Open)?.unwrap())
}

/// What a store says is right or named, and named by a verification too. Returns how many blobs can't be had, and what
/// the verification found.
fn is_right_or_named(store: &Store<Sim>, truths: &[&Truth], context: &str) -> (usize, Vec<Finding>) {
    let mut wrong = Vec::new();
    for truth in truths {
        let answers = match truth.ask(store) {
            Ok(answers) => answers,
            Err(what) => {
                wrong.push(what);
                continue;
            }
        };
        let verified = store.verify().unwrap();
        if verified.damage.is_empty() {
            assert_eq!((&answers.errors[..], answers.missed), (&[][..], 0), "{context}: a verification found nothing");
        }
        for digest in &answers.lost {
            let named = verified.damage.iter().find(|finding| finding.digest == Some(*digest));
            if let Some(named) = named.filter(|finding| finding.what.contains("the bytes")) {
                let referrers: std::collections::BTreeSet<_> = named.referrers.iter().copied().collect();
                assert_eq!(referrers, truth.blobs[digest].referrers, "{context}: {named}");
            }
        }
        return (answers.lost.len(), verified.damage);
    }
    panic!("{context}: {wrong:?}");
}

/// The verbs that look through a whole pack, or at many blobs, answer as the sound store does, or with named errors.
fn is_looked_through(store: &Store<Sim>, sound: &Store<Sim>, truth: &Truth, context: &str) {
    let is_right = |what: &str, answer: Result<bool>| match answer {
        Ok(right) => assert!(right, "{context}: {what}"),
        Err(error) => assert!(is_named(&error), "{context}: {what}: {error}"),
    };
    if let Ok(listed) = store.list().collect::<Result<Vec<_>>>() {
        let rest = store.list_after(&listed[4]).collect::<Result<Vec<_>>>();
        is_right("list_after", rest.map(|rest| rest == listed[5..]));
    }
    let (digests, held): (Vec<_>, Vec<_>) = truth.blobs.iter().unzip();
    let digests: Vec<Digest> = digests.into_iter().copied().collect();
    let reader = store.reader().unwrap();
    let is_it = |(blob, held): (&Option<blobpack::BlobRef<'_>>, &&truth::Held)| {
        blob.as_ref().is_none_or(|blob| blob.len() == held.bytes.len())
    };
    is_right("get_many", reader.get_many(&digests).map(|found| found.iter().zip(&held).all(is_it)));
    let is_same = |one: &dyn std::fmt::Debug, other: &dyn std::fmt::Debug| format!("{one:?}") == format!("{other:?}");
    for digest in &digests {
        is_right("tree", store.tree(digest).map(|tree| is_same(&tree, &sound.tree(digest).unwrap())));
        is_right("why", store.why(digest).map(|why| is_same(&why, &sound.why(digest).unwrap())));
    }
    is_right("usage", store.usage().map(|usage| is_same(&usage, &sound.usage().unwrap())));
    is_right("layout", store.layout().map(|layout| !layout.parts.is_empty()));
}

/// All that can be had of a copy, as `blobpack verify --repair` and a compaction bring it back, and how many commits
/// were cut off for it.
fn brought_back(directory: &SimDirectory, context: &str) -> (Store<Sim>, u64) {
    let directory = copy(directory);
    let mut cut_off = 0;
    let rebuilt = open_simulated(&directory, &small(), How::Rebuild).or_else(|error| {
        assert!(error.is_damage(), "{context}: {error}");
        let recovery = open_simulated(&directory, &small(), How::Repair)?.recovery();
        cut_off = recovery.lost_commits + recovery.dropped_commits;
        open_simulated(&directory, &small(), How::Rebuild)
    });
    let store = rebuilt.or_else(|error| {
        assert!(error.is_damage(), "{context}: {error}");
        let store = open_simulated(&directory, &small(), How::Open)?;
        store.compact()?;
        Ok::<_, blobpack::Error>(store)
    });
    let store = store.unwrap_or_else(|error| panic!("{context}: {error}"));
    let recovery = store.recovery();
    (store, cut_off + recovery.lost_commits + recovery.dropped_commits)
}

/// The bytes of a pack whose writer was killed after `work`.
fn killed(work: impl FnOnce(&Store<Sim>)) -> Vec<u8> {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    work(&store);
    directory.bytes(PACK).unwrap()
}

/// The verbs that read, on a store that was closed: all that is stored is there, or named.
#[test]
fn a_flipped_bit_of_a_closed_store_gives_right_data_or_a_named_error() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    fill(&store);
    let truth = Truth::of(&store);
    assert!(store.index_events().unwrap().splits > 3);
    store.close().unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let kinds: Vec<_> = frames(&bytes).iter().map(|frame| frame.kind).collect();
    for kind in [Kind::Blob, Kind::Commit, Kind::Chunk, Kind::Jump, Kind::Name, Kind::Run] {
        assert!(kinds.contains(&kind), "{kind:?}");
    }
    let sound = read_only(&copy(&directory)).unwrap();
    let bits = bits(&bytes, step(16));
    with_each_flipped(&bytes, &bits, |bit, directory| {
        let context = format!("byte {} bit {}", bit / 8, bit % 8);
        match read_only(directory) {
            Ok(store) => {
                is_right_or_named(&store, &[&truth], &context);
                is_looked_through(&store, &sound, &truth, &context);
            }
            Err(error) => assert!(error.is_damage(), "{context}: {error}"),
        }
        let items = blobpack::inspect_in(directory.open(PACK, false).unwrap()).unwrap().count();
        assert!(items > 3, "{context}");
    });
}

/// The verbs that write: what is repaired, rebuilt and compacted has all that can be had.
#[test]
fn what_a_flipped_bit_leaves_is_brought_back() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    fill(&store);
    let truth = Truth::of(&store);
    store.close().unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let bits = bits(&bytes, step(16));
    with_each_flipped(&bytes, &bits, |bit, directory| {
        let context = format!("byte {} bit {}", bit / 8, bit % 8);
        // Changes are made, or refused with a name, and what was said to be done is there.
        let changed = copy(directory);
        match open_simulated(&changed, &small(), How::Open) {
            Ok(store) => {
                let change = || {
                    let digest = store.put(b"a new blob")?.digest;
                    store.get(&digest)?.verify()?;
                    store.reference(&digest)?;
                    store.reference(&digest)?;
                    let (name, other) = ("a new name".parse().unwrap(), truth.blobs.keys().next().unwrap());
                    store.link(&digest, other)?;
                    store.unlink(&digest, other)?;
                    store.set_name(&name, &digest)?;
                    store.remove_name(&name)?;
                    store.dereference(&digest)
                };
                match change() {
                    Ok(_) => drop(is_right_or_named(&store, &[&truth], &context)),
                    Err(error) => assert!(is_named(&error), "{context}: {error}"),
                }
            }
            Err(error) => assert!(error.is_damage(), "{context}: {error}"),
        }

        let (store, cut_off) = brought_back(directory, &context);
        assert_eq!(cut_off, 0, "{context}: a checkpoint vouches for all");
        let mut truth = truth.clone();
        for lost in store.recovery().lost_names {
            truth.names.retain(|(_, digest)| *digest != lost.digest);
        }
        let (lost, found) = is_right_or_named(&store, &[&truth], &context);
        assert!(found.iter().all(|finding| finding.what.contains("the bytes have")), "{context}: {found:?}");
        assert!(lost <= 1 && lost == found.len(), "{context}: {found:?}");
        match store.compact() {
            Ok(_) => assert!(store.verify().unwrap().damage.is_empty() && lost == 0, "{context}"),
            Err(error) => {
                assert!(is_named(&error) && lost == 1, "{context}: {error}");
                let (left, names) = (store.list().count() - 1, store.names().unwrap().len());
                let left_out = store.compact_with(CompactOptions::new().leave_out_damaged()).unwrap().left_out;
                assert_eq!(left_out[0].digest, found[0].digest, "{context}: {left_out:?}");
                assert!(store.verify().unwrap().damage.is_empty(), "{context}");
                assert_eq!(store.list().count(), left, "{context}");
                assert_eq!(store.names().unwrap().len() + left_out.len() - 1, names, "{context}");
            }
        }
    });
}

/// Of a store that was killed only the newest commit may be gone, and the report says so.
#[test]
fn a_flipped_bit_of_a_killed_store_costs_at_most_the_newest_commit() {
    let mut truths = Vec::new();
    let bytes = killed(|store| {
        fill(store);
        truths.push(Truth::of(store));
        store.put(b"the newest blob").unwrap();
        truths.push(Truth::of(store));
    });
    let [before, all] = &truths[..] else { unreachable!() };
    let bits = bits(&bytes, step(16));
    with_each_flipped(&bytes, &bits, |bit, directory| {
        let context = format!("byte {} bit {}", bit / 8, bit % 8);
        match read_only(directory) {
            Ok(store) => drop(is_right_or_named(&store, &[all, before], &context)),
            Err(error) => assert!(error.is_damage(), "{context}: {error}"),
        }
        let store = match open_simulated(&copy(directory), &small(), How::Open) {
            Ok(store) => store,
            Err(error) => {
                assert!(error.is_damage(), "{context}: {error}");
                // What a repair cuts off is counted, and the rest is right.
                let (store, cut_off) = brought_back(directory, &context);
                if cut_off == 0 && store.recovery().lost_names.is_empty() {
                    assert!(is_right_or_named(&store, &[all], &context).0 <= 1);
                }
                for digest in store.list() {
                    let digest = digest.unwrap();
                    let blob = store.get(&digest).unwrap();
                    // One that was removed later is there again.
                    let is_right = all.blobs.get(&digest).is_none_or(|held| blob.as_bytes() == held.bytes);
                    assert_eq!(is_right, blob.verify().is_ok(), "{context}: {digest}");
                }
                return;
            }
        };
        let dropped = store.recovery().dropped_commits;
        let allowed = [before, all];
        is_right_or_named(&store, &allowed[usize::from(dropped == 0)..], &context);
    });
}

/// A sector that can't be read, wherever it is, is an error that says so from each verb that must survive a bad disk,
/// and what is elsewhere is told all the same.
#[test]
fn an_unreadable_sector_is_a_named_error() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    fill(&store);
    let truth = Truth::of(&store);
    store.close().unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let mut sectors: Vec<u64> = (0..bytes.len() as u64 / 512)
        .filter(|sector| bytes[*sector as usize * 512..][..512].iter().any(|&byte| byte != 0))
        .collect();
    let parts = index(&bytes);
    let at_index = |at: u64| parts.iter().any(|&(part, length)| (part..part + length).contains(&at));
    // Of runs of sectors, which are payloads, some.
    sectors.retain(|sector| *sector < 512 || sector % 3 == 0 || at_index(sector * 512));
    assert!(sectors.len() > 80);
    let indexed = sectors.iter().filter(|sector| at_index(*sector * 512)).count() as u64;
    let mut is_index_opened = 0;
    let io_named = |error: &blobpack::Error| is_named(error) || matches!(error, blobpack::Error::NotAPack { .. });
    let mut named = 0;
    for sector in sectors {
        let context = format!("sector {sector}");
        let bad = sector * 512..sector * 512 + 512;
        let directory = inserted(bytes.clone(), FILE_BYTES_MAX);
        directory.set_unreadable(PACK, bad.clone());
        let items: Vec<_> = blobpack::inspect_in(directory.open(PACK, false).unwrap()).unwrap().collect();
        let told = items.iter().filter(|item| item.kind == "unreadable").count();
        let is_looked_at = sector >= 512 || [0, 128, 256, 384].contains(&sector);
        // The body of a frame is not looked at, but for a commit's and a name's.
        assert!(
            told > 0
                || !is_looked_at
                || items.iter().any(|item| {
                    item.offset < bad.start && bad.end <= item.offset + item.length.next_multiple_of(512)
                }),
            "{context}"
        );
        match read_only(&directory) {
            Ok(store) => {
                is_index_opened += u64::from(at_index(bad.start));
                let damage = store.verify().unwrap().damage;
                named += usize::from(!damage.is_empty());
                for (digest, held) in &truth.blobs {
                    let got = store.get(digest).and_then(|blob| blob.verify());
                    if let Err(error) = &got {
                        // Where the frame's header can't be read nothing tells the digest.
                        let near = |at: u64| at + 128 > bad.start && at < bad.end;
                        let is_it = |finding: &&blobpack::Finding| match finding.digest {
                            Some(other) => other == *digest,
                            None => finding.offset.is_some_and(near),
                        };
                        let finding = damage.iter().find(is_it);
                        let finding = finding.unwrap_or_else(|| panic!("{context}: {error}, {damage:?}"));
                        assert!(
                            io_named(error) && finding.what.contains("os error 5"),
                            "{context}: {error}, {finding}"
                        );
                        assert_eq!(finding.referrers.len(), held.referrers.len());
                    }
                }
            }
            Err(error) => {
                named += 1;
                assert!(io_named(&error), "{context}: {error}");
            }
        }
        match open_simulated(&directory, &small(), How::Rebuild) {
            Ok(store) => {
                let compacted = store.compact();
                let damage = store.verify().unwrap().damage;
                match compacted {
                    Ok(_) => assert!(damage.is_empty(), "{context}: {damage:?}"),
                    Err(error) => assert!(io_named(&error) && !damage.is_empty(), "{context}: {error}: {damage:?}"),
                }
            }
            Err(error) => assert!(io_named(&error), "{context}: {error}"),
        }
    }
    assert!(named > 40, "{named}");
    assert!(
        indexed > 3 && is_index_opened == indexed,
        "a reader of a closed pack opens it: {is_index_opened} of {indexed}"
    );
}

/// A recovery looks at the index of the checkpoint, of which any sector may be unreadable.
#[test]
fn an_unreadable_index_of_a_killed_store_is_a_named_error() {
    let bytes = killed(|store| {
        fill(store);
        store.checkpoint().unwrap();
        // Changes in most segments are left to recovery.
        for digest in all(store) {
            store.reference(&digest).unwrap();
        }
    });
    let parts = index(&bytes);
    let (mut named, mut sectors) = (0, 0);
    for (at, length) in parts {
        for sector in at / 512..(at + length).div_ceil(512) {
            let context = format!("sector {sector}");
            let directory = inserted(bytes.clone(), FILE_BYTES_MAX);
            directory.set_unreadable(PACK, sector * 512..sector * 512 + 512);
            sectors += 1;
            for opened in [read_only(&directory), open_simulated(&directory, &small(), How::Open)] {
                match opened {
                    Ok(_) => assert_ne!(at, newest(&bytes).directory.get(), "{context}"),
                    Err(blobpack::Error::Io { .. }) => named += 1,
                    Err(error) => panic!("{context}: {error}"),
                }
            }
            let store = open_simulated(&directory, &small(), How::Rebuild).unwrap();
            assert!(store.verify().unwrap().damage.is_empty(), "{context}");
        }
    }
    assert!(sectors > 4 && named > 6, "{named} of {}", 2 * sectors);
}

/// Whoever reads a pack knows its marker, and can store a blob in which a whole frame stands at its very place.
#[test]
fn a_frame_in_a_payload_is_not_taken_for_one() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    store.put(&content(1, 100)).unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let tail = frames(&bytes).iter().filter(|frame| frame.kind == Kind::Commit).map(Frame::end).max().unwrap();
    let marker = Identity::read_from_prefix(&bytes).unwrap().0.marker.get();
    let (forged, hidden) = (content(2, 64), Offset(tail.0 + header_bytes(Algorithm::Sha256)));
    let digest = Digest::of(Algorithm::Sha256, &forged);
    let payload = [BlobHeader::new(marker, hidden, &digest, 64).bytes(), &forged].concat();
    store.put(&payload).unwrap();
    let truth = Truth::of(&store);
    let bytes = directory.bytes(PACK).unwrap();
    let there = Frame::parse(&bytes[hidden.0 as usize..][..128], marker, hidden).unwrap();
    assert_eq!(there.digest, Some(digest), "it is a frame to whoever looks there");
    for how in [How::Open, How::Repair, How::Rebuild] {
        let directory = inserted(bytes.clone(), FILE_BYTES_MAX);
        let items = blobpack::inspect_in(directory.open(PACK, false).unwrap()).unwrap();
        assert_eq!(items.filter(|item| item.kind == "blob").count(), 2);
        let store = open_simulated(&directory, &small(), how).unwrap();
        for compacted in [false, true] {
            assert!(store.find(&digest).unwrap().is_none());
            assert_eq!(is_right_or_named(&store, &[&truth], &format!("{how:?} {compacted}")).0, 0);
            store.compact().unwrap();
        }
    }
}

/// `cp` of a pack that is being written: its first part is of one moment, and the rest of a later one.
#[test]
fn a_copy_of_no_one_moment_opens_or_says_that_it_is_damaged() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let mut moments = Vec::new();
    for round in 0..6 {
        let batch: Vec<_> = (0..12).map(|n| store.put(&content(100 * round + n, 700)).unwrap().digest).collect();
        store.link(&batch[0], &batch[1]).unwrap();
        store.dereference(&batch[2]).unwrap();
        moments.push(directory.bytes(PACK).unwrap());
    }
    let (mut opened, mut damaged) = (0, 0);
    for (early, late) in moments.iter().zip(&moments[1..]).chain(moments.iter().zip(&moments[3..])) {
        for cut in (4096..early.len()).step_by(12 << 10) {
            let copy = inserted([&early[..cut], &late[cut..]].concat(), FILE_BYTES_MAX);
            match open_simulated(&copy, &small(), How::Open) {
                Ok(store) => {
                    opened += 1;
                    for blob in store.list() {
                        let told = blob.and_then(|digest| store.get(&digest)?.verify());
                        assert!(told.as_ref().err().is_none_or(is_named), "{cut}: {told:?}");
                    }
                }
                Err(error) => {
                    damaged += 1;
                    assert!(error.is_damage(), "{cut}: {error}");
                }
            }
        }
    }
    assert!(opened > 9 && damaged > 0, "{opened} {damaged}");
}

/// So many blobs of 15,000 bytes: four of them take a chunk.
fn puts(blobs: u64) -> (Vec<u8>, Vec<Digest>) {
    let mut digests = Vec::new();
    let bytes = killed(|store| {
        digests.extend((0..blobs).map(|seed| store.put(&content(seed, 15_000)).unwrap().digest));
    });
    (bytes, digests)
}

fn all(store: &Store<Sim>) -> Vec<Digest> {
    let mut digests: Vec<_> = store.list().map(Result::unwrap).collect();
    digests.sort_unstable();
    digests
}

/// The damaged frame of a chunk was taken for the end of the log, and all commits in it were gone without a word.
#[test]
fn a_damaged_chunk_frame_behind_a_sound_jump_does_not_hide_its_commits() {
    let (bytes, digests) = puts(8);
    let jumps = of_kind(&bytes, Kind::Jump);
    let chunks = of_kind(&bytes, Kind::Chunk);
    assert!(!jumps.is_empty() && chunks.len() == jumps.len() + 1 && chunks.iter().all(|c| is_chunk_place(c.offset.0)));
    for chunk in &chunks[1..] {
        let mut bytes = bytes.clone();
        flip(&mut bytes, (chunk.offset.0 as usize + 40) * 8);
        let commits = frames(&bytes).iter().filter(|f| f.kind == Kind::Commit && f.offset > chunk.offset).count();
        let directory = inserted(bytes, FILE_BYTES_MAX);
        let opened = open_simulated(&directory, &small(), How::Open);
        if commits > 1 {
            assert!(opened.unwrap_err().is_damage());
            let store = open_simulated(&directory, &small(), How::Repair).unwrap();
            let recovery = store.recovery();
            assert_eq!(recovery.lost_commits + recovery.dropped_commits, commits as u64);
            assert_eq!(recovery.lost_blobs.len() + recovery.dropped_blobs.len(), commits);
            assert_eq!(all(&store).len(), 8 - commits);
        } else {
            let store = opened.unwrap();
            assert_eq!((store.recovery().dropped_commits, store.recovery().dropped_blobs), (1, vec![digests[7]]));
        }
    }
}

/// The newest commit, damaged, was dropped without a word.
#[test]
fn a_damaged_newest_commit_is_dropped_with_a_word() {
    let (bytes, digests) = puts(3);
    let commit = *of_kind(&bytes, Kind::Commit).last().unwrap();
    for place in [commit.offset.0, commit.offset.0 + 33, commit.offset.0 + 130] {
        let mut bytes = bytes.clone();
        flip(&mut bytes, place as usize * 8);
        let directory = inserted(bytes, FILE_BYTES_MAX);
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        assert_eq!(all(&store).len(), 2);
        let recovery = store.recovery();
        assert_eq!((recovery.dropped_commits, recovery.dropped_blobs), (1, vec![digests[2]]));
        drop(store);
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        assert_eq!(store.recovery(), Recovery::default());
    }
}

/// Verbs that write dropped it without a word.
#[cfg(feature = "cli")]
#[test]
fn the_tool_tells_of_what_is_dropped_once() {
    let (mut bytes, digests) = puts(3);
    let commit = *of_kind(&bytes, Kind::Commit).last().unwrap();
    flip(&mut bytes, commit.offset.0 as usize * 8);
    let directory = tempfile::tempdir().unwrap();
    let pack = directory.path().join(PACK);
    std::fs::write(&pack, bytes).unwrap();
    for told in [true, false] {
        let (code, said) = survives(&pack, &["ref", &digests[0].to_string()]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(said.contains("dropped 1 commit that the log's end does not hold whole"), told, "{said}");
    }
}

/// The commit that the newest one vouches for was damaged itself, so none was counted, and the tool told of no loss.
#[test]
fn a_damaged_commit_that_only_the_newest_vouches_for_counts_as_lost() {
    let (mut bytes, digests) = puts(3);
    let commits = of_kind(&bytes, Kind::Commit);
    flip(&mut bytes, (commits[1].offset.0 as usize + 33) * 8);
    let directory = inserted(bytes, FILE_BYTES_MAX);
    assert!(open_simulated(&directory, &small(), How::Open).unwrap_err().is_damage());
    let recovery = open_simulated(&directory, &small(), How::Repair).unwrap().recovery();
    assert_eq!((recovery.lost_commits, recovery.dropped_commits), (1, 1));
    assert_eq!((recovery.lost_blobs, recovery.dropped_blobs), (vec![digests[1]], vec![digests[2]]));
}

/// A compaction said that it could not read, and not which blob, as if the disk had failed.
#[test]
fn a_blob_that_was_cut_off_with_the_end_of_the_file_is_damage_and_named() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    store.checkpoint().unwrap();
    let digest = store.put(&content(1, 500_000)).unwrap().digest;
    store.close().unwrap();
    let mut bytes = directory.bytes(PACK).unwrap();
    let payload = of_kind(&bytes, Kind::Blob)[0].offset.0 + 64;
    bytes.truncate(payload as usize + 50_000);
    let store = open_simulated(&inserted(bytes, FILE_BYTES_MAX), &small(), How::Open).unwrap();
    let damage = store.verify().unwrap().damage;
    let what = "the bytes of a blob lie outside the file";
    assert!(damage.iter().any(|found| found.digest == Some(digest) && found.what == what), "{damage:?}");
    match store.compact() {
        Err(blobpack::Error::Damaged(damage)) => assert_eq!((damage.offset, &*damage.what), (payload, what)),
        other => panic!("{other:?}"),
    }
}

/// Superblocks of long ago name an index whose segments others have by now. A repair went by that index alone, and gave
/// up, though the log had everything; or, where a later directory stood in the place of theirs, left a pack that took no
/// commit.
#[test]
fn a_repair_of_a_log_whose_index_is_damaged_too_goes_by_the_log_alone() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let mut old = Vec::new();
    for seed in 0..200 {
        store.put(&content(seed, 100)).unwrap();
        store.checkpoint().unwrap();
        old.push(SUPERBLOCKS_AT.map(|at| directory.bytes(PACK).unwrap()[at.0 as usize..][..512].to_vec()));
    }
    let everything = all(&store);
    store.close().unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    for old in &old[20..150] {
        let mut bytes = bytes.clone();
        for (at, old) in SUPERBLOCKS_AT.iter().zip(old) {
            bytes[at.0 as usize..][..512].copy_from_slice(old);
        }
        let directory = inserted(bytes, FILE_BYTES_MAX);
        assert!(open_simulated(&copy(&directory), &small(), How::Rebuild).unwrap_err().is_damage());
        let store = open_simulated(&directory, &small(), How::Repair).unwrap();
        assert!(all(&store) == everything);
        assert_eq!(store.verify().unwrap().damage, []);
        store.put(b"one more").unwrap();
    }
}

/// Of a torn commit whose first sector was lost the blobs behind it were told of at every opening.
#[test]
fn a_torn_commit_without_its_first_sector_is_reported_once() {
    let mut bytes = killed(|store| {
        store.put(b"first").unwrap();
        let mut batch = store.batch();
        for seed in 0..3 {
            batch.put(&content(seed, 1000)).unwrap();
        }
        batch.commit().unwrap();
    });
    let commits = of_kind(&bytes, Kind::Commit);
    let (tail, torn) = (commits[0].end().0 as usize, commits[1].offset.0 as usize);
    bytes[tail..tail + 64].fill(0);
    bytes[torn..torn + 512].fill(0);
    let directory = inserted(bytes, FILE_BYTES_MAX);
    let store = open_simulated(&directory, &small(), How::Open).unwrap();
    let recovery = store.recovery();
    assert_eq!((recovery.dropped_commits, recovery.dropped_blobs.len(), all(&store).len()), (1, 2, 1));
    drop(store);
    assert_eq!(open_simulated(&directory, &small(), How::Open).unwrap().recovery(), Recovery::default());
}

/// One bit in the version of one copy of the identity, and the pack was said to be of a later version.
#[test]
fn a_version_that_only_one_copy_claims_does_not_count() {
    let (bytes, digests) = puts(1);
    for copy in [0, SUPERBLOCKS_AT[0].0, SUPERBLOCKS_AT[1].0] {
        for bit in 0..size_of::<Identity>() * 8 {
            if bit % 8 != 0 && !(64..96).contains(&bit) {
                continue;
            }
            let mut bytes = bytes.clone();
            flip(&mut bytes, copy as usize * 8 + bit);
            let medium = inserted(bytes, FILE_BYTES_MAX).open(PACK, false).unwrap();
            let store = small().read_only(true).open_in(medium, How::Open).unwrap().unwrap();
            store.get(&digests[0]).unwrap().verify().unwrap();
        }
    }
}

/// New commits were written over what lay behind the break, and large blobs behind it were punched.
#[test]
fn what_a_repair_cuts_off_is_not_written_over() {
    let mut bytes = killed(|store| {
        for seed in 0..3 {
            store.put(&content(seed, 5000)).unwrap();
        }
        store.put(&content(3, 70_000)).unwrap();
        store.put(&content(4, 5000)).unwrap();
    });
    let second = of_kind(&bytes, Kind::Commit)[1].offset.0 as usize;
    flip(&mut bytes, (second + 100) * 8);
    let behind: Vec<_> = of_kind(&bytes, Kind::Blob).into_iter().filter(|f| f.offset.0 as usize > second).collect();
    assert_eq!(behind.len(), 3);
    let directory = inserted(bytes.clone(), FILE_BYTES_MAX);
    assert!(open_simulated(&directory, &small(), How::Open).unwrap_err().is_damage());
    for round in 0..3 {
        let how = if round == 0 { How::Repair } else { How::Open };
        let store = open_simulated(&directory, &small(), how).unwrap();
        for seed in 0..20 {
            store.put(&content(100 + 100 * round + seed, 4000)).unwrap();
        }
        store.put(&content(1000 + round, 80_000)).unwrap();
        store.checkpoint().unwrap();
        assert!(store.verify().unwrap().damage.is_empty());
    }
    let after = directory.bytes(PACK).unwrap();
    for frame in behind {
        let range = frame.offset.0 as usize..frame.end().0 as usize;
        assert!(bytes[range.clone()] == after[range], "{frame:?}");
    }
    let store = open_simulated(&directory, &small(), How::Rebuild).unwrap();
    assert_eq!((store.recovery().lost_commits, all(&store).len()), (0, 1 + 63));
}

/// Where a file was cut off between the ends of its two superblocks the older one counted, and what the log had held
/// behind that was gone without a word.
#[test]
fn a_file_that_was_cut_off_behind_its_older_superblock_is_damaged() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let first = store.put(&content(100, 100_000)).unwrap().digest;
    store.checkpoint().unwrap();
    let older_end = directory.bytes(PACK).unwrap().len();
    for seed in 0..20 {
        store.put(&content(seed, 15_000)).unwrap();
    }
    store.close().unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let mut damaged = 0;
    for length in (older_end..bytes.len()).step_by(10_000) {
        let directory = inserted(bytes[..length].to_vec(), FILE_BYTES_MAX);
        let reader = read_only(&directory);
        let error = match open_simulated(&directory, &small(), How::Open) {
            Ok(store) => {
                assert_eq!((all(&store).len(), reader.unwrap().list().count()), (21, 21), "{length}");
                continue;
            }
            Err(error) => error,
        };
        damaged += 1;
        assert!(error.is_damage() && error.to_string().contains("cut off"), "{error}");
        assert_eq!(reader.unwrap_err().to_string(), error.to_string());
        let store = open_simulated(&directory, &small(), How::Repair).unwrap();
        store.get(&first).unwrap().verify().unwrap();
        store.put(b"goes on").unwrap();
        let kept = all(&store);
        assert_eq!(store.recovery().lost_commits, 1 + 21 - kept.len() as u64);
        store.close().unwrap();
        let store = open_simulated(&directory, &small(), How::Open).unwrap();
        assert_eq!((all(&store), store.verify().unwrap().damage), (kept, Vec::new()));
    }
    assert!(damaged > 10, "{damaged}");
}

/// Nobody could open a file that was shorter than either superblock says, a rebuild neither, though all of its log was
/// there.
#[test]
fn of_a_file_that_was_cut_off_behind_its_log_a_rebuild_keeps_all() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let mut digests = Vec::new();
    for seed in 0..40 {
        digests.push(store.put(&content(seed, if seed == 39 { 70_000 } else { 9_000 })).unwrap().digest);
    }
    // Both checkpoints know of all blobs.
    for _ in 0..2 {
        store.reference(&digests[0]).unwrap();
        store.checkpoint().unwrap();
    }
    store.close().unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let all_frames = frames(&bytes);
    let commits_end = of_kind(&bytes, Kind::Commit).last().unwrap().end().0 as usize;
    let (mut kept, mut refused, mut gone) = (0, 0, 0);
    let near_the_end = [8000, 4000, 100, 1].map(|less| bytes.len() - less);
    for length in (260 << 10..bytes.len()).step_by(9_999).chain(near_the_end) {
        let cut = &bytes[..length];
        let directory = inserted(cut.to_vec(), FILE_BYTES_MAX);
        match open_simulated(&directory, &small(), How::Open) {
            Err(error) => assert!(error.is_damage() && error.to_string().contains("cut off"), "{length}: {error}"),
            Ok(_) => continue,
        }
        assert!(read_only(&directory).is_err());
        for how in [How::Rebuild, How::Repair] {
            let error = open_simulated(&directory, &small().max_bytes(length as u64), how).unwrap_err();
            assert!(matches!(error, blobpack::Error::LimitReached { .. }) || error.is_damage(), "{error}");
        }
        let how = if length % 2 == 0 { How::Rebuild } else { How::Repair };
        let store = match open_simulated(&directory, &small(), how) {
            Ok(store) => store,
            Err(error) => {
                assert!(error.is_damage() && length < commits_end, "{length}: {error}");
                assert!(directory.bytes(PACK).unwrap() == cut, "{length}");
                refused += 1;
                continue;
            }
        };
        assert!(length >= commits_end, "{length}");
        kept += 1;
        assert_eq!(store.recovery().lost_commits, 0);
        store.put(b"goes on").unwrap();
        let large = store.put(&content(100, 80_000)).unwrap().digest;
        let check = |store: &Store<Sim>| {
            let mut lost: Vec<Frame> = Vec::new();
            for digest in &digests {
                let frame = all_frames.iter().find(|frame| frame.digest == Some(*digest)).unwrap();
                let is_there = frame.end().0 <= length as u64;
                assert_eq!(store.get(digest).and_then(|blob| blob.verify()).is_ok(), is_there, "{length}: {frame:?}");
                lost.extend((!is_there).then_some(*frame));
            }
            lost.sort_unstable_by_key(|frame| frame.offset);
            let damage = store.verify().unwrap().damage;
            assert_eq!(damage.len(), lost.len(), "{length}: {damage:?}");
            for (found, frame) in damage.iter().zip(&lost) {
                // The bytes, or all of the frame.
                assert!([frame.offset, frame.body()].map(|at| Some(at.0)).contains(&found.offset), "{length}: {found}");
            }
            store.get(&large).unwrap().verify().unwrap();
            lost.len()
        };
        gone += check(&store);
        store.close().unwrap();
        for how in [How::Open, How::Rebuild] {
            let store = open_simulated(&directory, &small(), how).unwrap();
            assert_eq!(store.stats().unwrap().blobs, 42);
            check(&store);
        }
        let after = directory.bytes(PACK).unwrap();
        for frame in all_frames.iter().filter(|frame| frame.end().0 <= length as u64) {
            let range = frame.offset.0 as usize..frame.end().0 as usize;
            assert!(after[range.clone()] == bytes[range], "{length}: {frame:?}");
        }
        assert!(after.len() > bytes.len());
    }
    assert!(kept > 5 && refused > 5 && gone > 0, "{kept} {refused} {gone}");
}

/// One that finds no room may leave the file as long as it was: what is missing is damage then.
#[test]
fn a_rebuild_of_a_file_that_was_cut_off_that_is_refused_can_be_made_again() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let digests: Vec<_> = (0..20).map(|seed| store.put(&content(seed, 15_000)).unwrap().digest).collect();
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    store.close().unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let length = of_kind(&bytes, Kind::Commit).last().unwrap().end().0 as usize + 1;
    let directory = inserted(bytes[..length].to_vec(), FILE_BYTES_MAX);
    let mut refused = 0;
    let store = loop {
        directory.set_capacity(directory.used() + 4096 * refused);
        match open_simulated(&directory, &small(), How::Rebuild) {
            Ok(store) => break store,
            Err(error) => assert!(matches!(error, blobpack::Error::NoSpace { .. }), "{error}"),
        }
        refused += 1;
        directory.set_capacity(FILE_BYTES_MAX);
        if let Ok(store) = read_only(&directory) {
            let whole = |digest| store.get(digest).and_then(|blob| blob.verify()).is_ok();
            // What of the index was not cut off is sound, and nothing is missed.
            let damage = store.verify().unwrap().damage;
            if digests.iter().all(whole) {
                // A run of the index that began behind the cut may hold nothing that a blob needs.
                let is_run = |found: &blobpack::Finding| {
                    found.what == "no index run where one should be" && found.offset >= Some(length as u64)
                };
                assert!(damage.len() <= 1 && damage.iter().all(is_run), "{damage:?}");
            } else {
                assert!(!damage.is_empty());
            }
            assert!(digests.iter().all(|digest| !matches!(store.find(digest), Ok(None))));
        }
        assert!(directory.bytes(PACK).unwrap()[256 << 10..length] == bytes[256 << 10..length], "{refused}");
    };
    directory.set_capacity(FILE_BYTES_MAX);
    assert!(refused > 1, "{refused}");
    assert_eq!(store.stats().unwrap().blobs, 20);
    assert!(store.verify().unwrap().damage.is_empty());
}

/// Either superblock alone leads to what was written after a cut.
#[test]
fn after_a_cut_one_superblock_can_rot_too() {
    let (mut bytes, _) = puts(3);
    let commit = *of_kind(&bytes, Kind::Commit).last().unwrap();
    flip(&mut bytes, commit.offset.0 as usize * 8);
    let directory = inserted(bytes, FILE_BYTES_MAX);
    let store = open_simulated(&directory, &small(), How::Open).unwrap();
    store.put(b"after the cut").unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    for copy in SUPERBLOCKS_AT {
        let mut bytes = bytes.clone();
        flip(&mut bytes, (copy.0 as usize + 300) * 8);
        let store = open_simulated(&inserted(bytes, FILE_BYTES_MAX), &small(), How::Open).unwrap();
        assert_eq!(all(&store).len(), 3);
    }
}

/// A segment that has another generation than the directory names was said to be busy.
#[test]
fn a_flipped_generation_is_damage_to_the_writer_too() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let digests: Vec<_> = (0..20).map(|seed| store.put(&content(seed, 100)).unwrap().digest).collect();
    store.close().unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let mut damaged = 0;
    for (at, length) in index(&bytes) {
        let is_directory = at == newest(&bytes).directory.get();
        // Of a segment the generation; of the directory each entry's generation and place.
        let bits: Vec<u64> = if is_directory { (0..length * 8).collect() } else { (0..24).collect() };
        for bit in bits.into_iter().step_by(11) {
            let mut bytes = bytes.clone();
            flip(&mut bytes, at as usize * 8 + bit as usize);
            let directory = inserted(bytes, FILE_BYTES_MAX);
            let store = open_simulated(&directory, &small(), How::Open).unwrap();
            for digest in &digests {
                match store.get(digest) {
                    Ok(blob) => blob.verify().unwrap(),
                    Err(error) => {
                        assert!(error.is_damage(), "{at} {bit}: {error}");
                        assert!(store.reference(digest).unwrap_err().is_damage());
                        damaged += 1;
                    }
                }
            }
            assert!(!store.verify().unwrap().damage.is_empty(), "{at} {bit}");
            drop(store);
            let store = open_simulated(&directory, &small(), How::Rebuild).unwrap();
            assert_eq!(all(&store).len(), digests.len());
            assert!(store.verify().unwrap().damage.is_empty());
        }
    }
    // A segment may be empty.
    assert!(damaged > 20);
}

/// A record whose tag had rotted was not found, so its blob was stored once more.
#[test]
fn a_blob_whose_record_has_rotted_is_not_stored_twice() {
    let (directory, store) = simulated(FILE_BYTES_MAX);
    let digests: Vec<_> = (0..12).map(|seed| store.put(&content(seed, 100)).unwrap().digest).collect();
    store.close().unwrap();
    let bytes = directory.bytes(PACK).unwrap();
    let mut refused = 0;
    for (segment, _) in index(&bytes).into_iter().filter(|(at, _)| *at != newest(&bytes).directory.get()) {
        for slot in 1..=4 {
            let at = segment as usize + 64 * slot;
            if bytes[at..at + 8] == [0; 8] {
                continue;
            }
            let mut bytes = bytes.clone();
            flip(&mut bytes, at * 8 + 17);
            let directory = inserted(bytes, FILE_BYTES_MAX);
            let store = open_simulated(&directory, &small(), How::Open).unwrap();
            for seed in 0..12 {
                match store.put(&content(seed, 100)) {
                    Ok(blob) => assert_eq!(blob.ref_count, 2),
                    Err(error) => {
                        assert!(error.is_damage() || matches!(error, blobpack::Error::Poisoned { .. }), "{error}");
                        refused += 1;
                    }
                }
            }
            drop(store);
            let store = open_simulated(&directory, &small(), How::Rebuild).unwrap();
            assert_eq!(all(&store).len(), digests.len());
            assert!(store.verify().unwrap().damage.is_empty());
        }
    }
    assert!(refused >= digests.len());
}

/// A store that looks for a free region gave a forged run all of the disk that it asked for.
#[test]
fn a_forged_run_gets_no_more_of_the_disk_than_the_pack_has() {
    const LONG: u64 = 512 << 20;
    let (directory, store) = simulated(LONG);
    store.put(b"a blob").unwrap();
    store.close().unwrap();
    for holds in [1, 2] {
        let mut bytes = directory.bytes(PACK).unwrap();
        let mut superblock = newest(&bytes);
        let at = Offset(bytes.len() as u64).align_up(4096);
        let region_bytes = if holds == 1 { 4096 } else { LONG - at.0 - 8192 };
        let detail = RunDetail {
            previous: superblock.run,
            region_bytes: U64::new(region_bytes),
            regions: U64::new((LONG - at.0 - 8192) / region_bytes),
            holds: U32::new(holds),
            reserved: U32::ZERO,
        };
        let marker = superblock.identity.marker.get();
        let run = FrameHeader::plain(marker, Kind::Run, at, 0, detail.as_bytes().try_into().unwrap());
        superblock.run = U64::new(at.0);
        superblock.end = U64::new(LONG);
        put_superblock(&mut bytes, superblock);
        let directory = SimDirectory::new(LONG + (8 << 20));
        directory.insert(PACK, bytes);
        let file = directory.open(PACK, true).unwrap();
        file.write_at(at, &[run.as_bytes()], true).unwrap();
        file.write_at(Offset(LONG - 1), &[&[1]], true).unwrap();
        drop(file);
        let used = directory.used();
        if let Ok(store) = read_only(&directory) {
            let _ = store.put(b"another");
        }
        assert!(directory.used() < used + (8 << 20), "{} after {used}", directory.used());
    }
}

/// The same for the last chunk of the log, which is to lie inside the file again after a power cut.
#[test]
fn a_forged_chunk_gets_no_more_of_the_disk_than_a_chunk_needs() {
    let (mut bytes, digests) = puts(6);
    let chunk = of_kind(&bytes, Kind::Chunk).last().unwrap().offset.0 as usize;
    bytes[chunk + 48..chunk + 56].copy_from_slice(&(400_u64 << 20).to_le_bytes());
    reseal(&mut bytes, chunk);
    let directory = inserted(bytes, 512 << 20);
    let used = directory.used();
    let store = open_simulated(&directory, &small(), How::Open).unwrap();
    store.put(b"another").unwrap();
    assert!(directory.used() < used + (4 << 20), "{} after {used}", directory.used());
    drop(store);
    let store = open_simulated(&directory, &small(), How::Open).unwrap();
    assert_eq!(all(&store).len(), digests.len() + 1);
    assert!(store.contains(&Digest::of(Algorithm::Sha256, b"another")).unwrap());
}

/// A record and an old commit were damaged: neither index nor log can be made from the other any more, and the help led
/// from a repair to a compaction and from there to nothing. All blobs but one can be had, and the help says how.
#[cfg(feature = "cli")]
#[test]
fn what_is_left_where_index_and_log_are_damaged_goes_to_a_new_pack_as_the_help_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blobs.pack");
    let store = Store::options().open(&path).unwrap();
    let digests: Vec<Digest> = (0..9).map(|seed| store.put(&content(seed, 1000)).unwrap().digest).collect();
    store.close().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let commit = of_kind(&bytes, Kind::Commit)[4].offset.0 as usize;
    flip(&mut bytes, (commit + 80) * 8);
    let (segment, _) = *index(&bytes).iter().find(|(_, length)| *length > 4000).unwrap();
    let is_used = |slot: &usize| bytes[*slot..][..8].iter().any(|byte| *byte > 0);
    let record = (1..64).map(|slot| segment as usize + 64 * slot).find(is_used).unwrap();
    flip(&mut bytes, (record + 20) * 8);
    std::fs::write(&path, bytes).unwrap();

    for verb in [&["verify", "--repair"][..], &["rebuild"], &["compact"], &["compact", "--leave-out-damaged"]] {
        let (code, said) = survives(&path, verb);
        assert_eq!(code, 4, "{verb:?}: {said}");
        assert_eq!(said.contains("see `blobpack compact --help`"), verb[0] == "verify", "{verb:?}: {said}");
    }
    let shown: Vec<String> = blobpack::inspect(&path).unwrap().map(|item| item.detail).collect();
    let stored = |digest: &&Digest| shown.iter().any(|detail| detail.starts_with(&digest.to_string()));
    assert_eq!(digests.iter().filter(stored).count(), 9);
    let got = digests.iter().filter(|digest| survives(&path, &["get", &digest.to_string()]).0 == 0);
    assert_eq!(got.count(), 8);
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_blobpack")).args(["compact", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("Where index and log are both damaged") && help.contains("`inspect` shows"), "{help}");
}

/// The tool on a real file: what is damaged is named with who links to it, and what can be had is brought back.
#[cfg(feature = "cli")]
#[test]
fn the_tool_names_what_rots_and_what_it_takes_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blobs.pack");
    let store = Store::options().open(&path).unwrap();
    let layer = store.put(&content(1, 1000)).unwrap().digest;
    let manifest = store.put(b"the manifest").unwrap().digest;
    store.link(&layer, &manifest).unwrap();
    store.close().unwrap();
    let sound = std::fs::read(&path).unwrap();
    let blob = of_kind(&sound, Kind::Blob)[0].offset.0 as usize;
    let commit = of_kind(&sound, Kind::Commit)[0].offset.0 as usize;
    let run = |arguments: &[&str]| {
        let tool = std::process::Command::new(env!("CARGO_BIN_EXE_blobpack"))
            .arg(arguments[0])
            .args(&arguments[1..])
            .output()
            .unwrap();
        let said = [tool.stdout, tool.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        (tool.status.code().unwrap(), said)
    };
    let pack = path.to_str().unwrap();
    let (layer, manifest) = (layer.to_string(), manifest.to_string());
    let rot = |byte: usize| {
        let mut bytes = sound.clone();
        flip(&mut bytes, byte * 8 + 3);
        std::fs::write(&path, bytes).unwrap();
    };

    rot(blob + 64 + 500);
    let verbs: [&[&str]; 4] =
        [&["get", pack, &layer], &["verify", pack], &["compact", pack], &["verify", "--repair", pack]];
    for verb in verbs {
        let (code, said) = run(verb);
        assert!(code == 4 && said.contains(&layer), "{verb:?}: {code} {said}");
        assert_eq!(said.contains(&format!("linked to by {manifest}")), verb[0] == "verify", "{verb:?}: {said}");
    }
    assert_eq!(run(&["get", pack, &manifest]).0, 0);

    // The header of a frame: record and bytes tell what it said.
    for verb in [&["rebuild", pack][..], &["verify", "--repair", pack]] {
        rot(blob + 40);
        let (code, said) = run(&["verify", pack]);
        assert!(code == 4 && said.contains(&layer), "{said}");
        let (code, said) = run(verb);
        assert!(code == 0 && said.contains(&format!("restored the header of {layer}")), "{verb:?}: {said}");
        assert_eq!(run(&["verify", pack]).0, 0);
        assert!(std::fs::read(&path).unwrap()[blob..blob + 64] == sound[blob..blob + 64]);
    }

    // A commit that a checkpoint has made superfluous: the log can't be read any more, but the index has it all.
    rot(commit + 70);
    assert_eq!((run(&["verify", pack]).0, run(&["rebuild", pack]).0), (4, 4));
    let (code, said) = run(&["verify", "--repair", pack]);
    assert!(code == 0 && said.contains("made a new log from the index"), "{said}");
    for digest in [&layer, &manifest] {
        assert_eq!(run(&["get", pack, digest]).0, 0);
    }

    // Commits that no checkpoint has: what of them is lost, and what is taken to be torn, was told in silence.
    let store = Store::options().create(false).open(&path).unwrap();
    let digests: Vec<String> = (10..13).map(|n| store.put(&content(n, 1000)).unwrap().digest.to_string()).collect();
    let after_kill = std::fs::read(&path).unwrap();
    store.close().unwrap();
    let copy = directory.path().join("killed.pack");
    for (newest, words) in [(1, &["dropped 1 commit"][..]), (2, &["1 commit lost", "dropped 1 commit"])] {
        let commits = of_kind(&after_kill, Kind::Commit);
        let mut bytes = after_kill.clone();
        flip(&mut bytes, (commits[commits.len() - newest].offset.0 as usize + 33) * 8);
        std::fs::write(&copy, bytes).unwrap();
        let (code, said) = run(&["verify", "--repair", copy.to_str().unwrap()]);
        assert!(code == 0 && words.iter().chain([&&*digests[2]]).all(|word| said.contains(word)), "{said}");
        assert_eq!(said.contains(&digests[1]), newest == 2, "{said}");
    }

    // An index beside, in which nothing can be replayed: of what its rebuild drops nothing was said.
    let mut bytes = after_kill.clone();
    flip(&mut bytes, (of_kind(&after_kill, Kind::Commit).last().unwrap().offset.0 as usize + 33) * 8);
    for head in of_kind(&after_kill, Kind::Run) {
        let start = head.offset.0 as usize + 4096;
        let end = bytes.len().min(start + (64 << 10));
        bytes[start..end].fill(0xa5);
    }
    std::fs::write(&copy, bytes).unwrap();
    assert!(run(&["put", copy.to_str().unwrap(), "/dev/null"]).0 == 4, "it can't be opened");
    let (code, said) = run(&["verify", "--repair", copy.to_str().unwrap()]);
    assert!(code == 0 && said.contains("made the index anew"), "{said}");
    assert_eq!(said.matches("dropped 1 commit").count(), 1, "{said}");
    assert_eq!(said.matches(&digests[2]).count(), 1, "{said}");

    // A commit that a checkpoint has, and a blob: nothing was listed, as a verification after the repair never came.
    let mut bytes = sound.clone();
    flip(&mut bytes, (blob + 64 + 500) * 8);
    flip(&mut bytes, (commit + 70) * 8);
    std::fs::write(&path, bytes).unwrap();
    let list = |arguments: &[&str]| run(&[arguments, &["--json", pack]].concat());
    let (code, said) = list(&["verify"]);
    let listed = said.lines().next().unwrap();
    assert!(code == 4 && listed.contains(&layer), "{said}");
    let (code, said) = list(&["verify", "--repair"]);
    assert!(code == 4 && said.contains("no new log could be made"), "{said}");
    assert_eq!(said.lines().next(), Some(listed));
    assert_eq!(run(&["get", pack, &manifest]).0, 0);
}

/// A file system in a file, whose end is cut off while it is mounted: what lies there can't be read.
#[cfg(feature = "cli")]
struct BadDisk {
    directory: tempfile::TempDir,
    device: Option<String>,
}

#[cfg(feature = "cli")]
impl BadDisk {
    fn call(command: &str, arguments: &[&str]) -> Option<String> {
        let done = std::process::Command::new(command).args(arguments).output().ok()?;
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    fn image(&self) -> std::path::PathBuf {
        self.directory.path().join("image")
    }

    fn mounted(&self) -> std::path::PathBuf {
        self.directory.path().join("mounted")
    }

    /// `None`, with a word, without root or without loop devices.
    fn new() -> Option<BadDisk> {
        let made = BadDisk::made(48 << 20);
        if made.is_none() {
            skipped("a disk that goes bad needs root, losetup and mkfs.ext4");
        }
        made
    }

    fn made(bytes: u64) -> Option<BadDisk> {
        let mut disk = BadDisk { directory: tempfile::tempdir().unwrap(), device: None };
        std::fs::create_dir(disk.mounted()).unwrap();
        std::fs::File::create(disk.image()).unwrap().set_len(bytes).unwrap();
        let image = disk.image();
        BadDisk::call("mkfs.ext4", &["-q", "-O", "^has_journal", image.to_str()?])?;
        disk.device = Some(BadDisk::call("losetup", &["--find", "--show", image.to_str()?])?);
        disk.mount()?;
        Some(disk)
    }

    fn mount(&self) -> Option<()> {
        BadDisk::call("mount", &[self.device.as_ref()?, self.mounted().to_str()?]).map(drop)
    }

    /// Nothing from `needle` on can be read any more.
    fn cut_at(&self, needle: &[u8]) {
        BadDisk::call("umount", &[self.mounted().to_str().unwrap()]).unwrap();
        let bytes = std::fs::read(self.image()).unwrap();
        let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap() as u64;
        std::fs::OpenOptions::new().write(true).open(self.image()).unwrap().set_len(at & !4095).unwrap();
        self.mount().unwrap();
    }
}

#[cfg(feature = "cli")]
impl Drop for BadDisk {
    fn drop(&mut self) {
        BadDisk::call("umount", &[self.mounted().to_str().unwrap()]);
        if let Some(device) = &self.device {
            BadDisk::call("losetup", &["-d", device]);
        }
    }
}

/// Runs the tool on a pack: its exit code, and what it said. It must not end by a signal.
#[cfg(feature = "cli")]
fn survives(path: &std::path::Path, arguments: &[&str]) -> (i32, String) {
    let mut tool = std::process::Command::new(env!("CARGO_BIN_EXE_blobpack"));
    let done = tool.arg(arguments[0]).arg(path).args(&arguments[1..]).output().unwrap();
    let said = [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (done.status.code().unwrap_or_else(|| panic!("{arguments:?}: {:?}", done.status)), said)
}

/// The same on a real disk, where a load through the map would be a signal.
#[cfg(feature = "cli")]
#[test]
fn the_tool_survives_a_disk_that_goes_bad() {
    let Some(disk) = BadDisk::new() else { return };
    let path = disk.mounted().join("blobs.pack");
    let store = Store::options().open(&path).unwrap();
    let manifest = store.put(b"the manifest").unwrap().digest.to_string();
    let bytes = content(1, 8 << 20);
    let layer = store.put(&bytes).unwrap().digest;
    store.link(&layer, &manifest.parse().unwrap()).unwrap();
    store.close().unwrap();
    disk.cut_at(&bytes[4 << 20..][..64]);
    let layer = layer.to_string();
    let run = |arguments: &[&str]| survives(&path, arguments);
    let told = |said: &str| said.contains("Input/output error");
    let (code, said) = run(&["verify"]);
    assert!(code == 4 && told(&said) && said.contains(&layer), "{said}");
    assert!(said.contains(&format!("linked to by {manifest}")), "{said}");
    for verb in [&["get", &layer][..], &["compact"]] {
        let (code, said) = run(verb);
        assert!(code == 1 && told(&said), "{verb:?}: {code} {said}");
    }
    assert_eq!(run(&["get", &manifest]), (0, "the manifest".into()));
    assert_eq!(run(&["inspect"]).0, 0);
    assert_eq!(run(&["rebuild"]).0, 0);
    let (code, said) = run(&["verify", "--repair"]);
    assert!(code == 4 && told(&said), "{said}");
}

/// The same where a writer was killed: whoever opens its pack loads what the log's images belong to.
#[cfg(feature = "cli")]
#[test]
fn the_tool_survives_a_disk_that_goes_bad_under_a_killed_store() {
    let Some(disk) = BadDisk::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blobs.pack");
    let store = Store::options().open(&path).unwrap();
    let mut batch = store.batch();
    let digests: Vec<Digest> = (0..3000).map(|seed| batch.put(&content(seed, 300)).unwrap()).collect();
    batch.commit().unwrap();
    store.checkpoint().unwrap();
    let mut batch = store.batch();
    for digest in digests.iter().step_by(100) {
        batch.reference(digest);
    }
    batch.commit().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let path = disk.mounted().join("blobs.pack");
    std::fs::write(&path, &bytes).unwrap();
    let log_end = of_kind(&bytes, Kind::Commit).iter().map(|commit| commit.end().0).max().unwrap();
    let (segment, _) = index(&bytes).into_iter().find(|&(at, _)| at > log_end).unwrap();
    disk.cut_at(&bytes[segment as usize..][..64]);
    for (verb, code) in [(&["verify"][..], 1), (&["compact"], 1), (&["verify", "--repair"], 0)] {
        let (ended, said) = survives(&path, verb);
        assert_eq!(ended, code, "{verb:?}: {said}");
        assert!(said.contains("Input/output error"), "{verb:?}: {said}");
    }
    for verb in [&["verify"][..], &["rebuild"], &["compact"]] {
        let (ended, said) = survives(&path, verb);
        assert_eq!(ended, 0, "{verb:?}: {said}");
    }
}
