//! Lookups of blobs and names, by every way that there is: what is found, what is another's, and what is damage.
// Miri has enough to do with the others.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use zerocopy::{FromZeros, IntoBytes};

use super::tests::{identity, index_with};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::format::{
    BlobHeader, Entry, FrameHeader, Identity, Kind, LiveWord, Offset, PROBES_MAX, TAG_EMPTY, home_slot, live, to_u64,
};
use crate::index::home::Miss;
use crate::index::probe::{Found, Stop, directory_index};
use crate::index::table::Table;
use crate::log::seal_name;
use crate::map::Map;
use crate::medium::{Disk, Medium, Sim, SimDirectory};
use crate::name::Name;
use crate::record::{BlobRecord, Image, Key, NameRecord, Neighbour, Record};
use crate::space::Space;
use crate::view::{NEAR, View};

/// Frames stand far behind the index, a page each.
const FRAMES: u64 = 16 << 20;
const PAYLOAD: usize = 21;
const PAYLOAD_BYTES: u64 = PAYLOAD as u64;

struct Pack {
    directory: SimDirectory,
    view: View<Sim>,
    space: Space,
    table: Table,
}

impl Pack {
    fn new(slots: u32) -> Pack {
        Pack::with(slots, &identity())
    }

    fn with(slots: u32, identity: &Identity) -> Pack {
        let directory = SimDirectory::new(64 << 20);
        let (view, space, table) = index_with(&directory, slots, identity);
        view.medium().publish(false).unwrap();
        view.medium().allocate(Offset(FRAMES), 1 << 20).unwrap();
        Pack { directory, view: view.renewed().unwrap(), space, table }
    }

    fn apply(&mut self, record: Record, removed: bool) {
        self.table.apply(&self.view, &mut self.space, &Image { record, removed }).unwrap();
    }

    /// Writes the frame with this number; returns its blob and where it is.
    fn frame(&self, number: u64, algorithm: Algorithm) -> (Digest, Found) {
        let id = Offset(FRAMES + 4096 * number);
        let payload = [u8::try_from(number).unwrap(); PAYLOAD];
        let digest = Digest::of(algorithm, &payload);
        let header = BlobHeader::new(self.view.marker(), id, &digest, PAYLOAD_BYTES);
        self.write(id.0, header.bytes());
        let payload_at = Offset(id.0 + to_u64(header.bytes().len()));
        self.write(payload_at.0, &payload);
        (digest, Found { id, payload: payload_at, length: PAYLOAD_BYTES })
    }

    /// A record that says of the frame at `id` that it is this blob.
    fn record(&self, digest: &Digest, id: Offset) -> BlobRecord {
        let none = Offset::NONE;
        BlobRecord {
            tag: self.view.tagger().of_blob(digest),
            id,
            length: PAYLOAD_BYTES,
            algorithm: digest.algorithm(),
            references: 3,
            held: 0,
            first_out: none,
            first_in: none,
            out_count: 0,
        }
    }

    fn put(&mut self, number: u64, algorithm: Algorithm) -> (Digest, Found) {
        let (digest, found) = self.frame(number, algorithm);
        let record = self.record(&digest, found.id);
        self.apply(Record::Blob(record), false);
        (digest, found)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.view.medium().write_at(Offset(at), &[bytes], false).unwrap();
    }

    /// Where the segment for a tag stands.
    fn segment(&self, tag: u64) -> Offset {
        let live = self.view.live();
        Entry::unpack(self.view.word(Offset(live.directory.0 + 8 * directory_index(tag, live.depth))).unwrap()).segment
    }

    /// How far from its home the record with this tag stands.
    fn distance(&self, tag: u64) -> u32 {
        let (slots, segment) = (self.view.slots(), self.segment(tag));
        let home = home_slot(tag, slots);
        let tag_at = |slot: u32| self.view.word(Offset(segment.0 + 64 * (u64::from(slot) + 1)));
        (0..slots).find(|probe| tag_at((home + probe) % slots) == Some(tag)).unwrap()
    }

    /// Whether the record with this tag stands in one of the slots that are looked at first.
    fn is_near(&self, tag: u64) -> bool {
        let slots = self.view.slots();
        let home = home_slot(tag, slots);
        let first = home.min(slots.saturating_sub(NEAR));
        (first..first + NEAR).contains(&((home + self.distance(tag)) % slots))
    }

    /// A view that recovered for itself, of the same file: it does not wait for anybody before it tells damage.
    fn private(&self) -> View<Sim> {
        let view = self.view.renewed().unwrap();
        view.with_overlay(Map::memory(4096), Offset(1 << 40), live::WORD)
    }
}

/// A lookup on the fast path, as readers make it.
trait FindPayload {
    fn find_payload(&self, digest: &Digest) -> Result<&[u8], Miss>;
}

impl FindPayload for View<Sim> {
    fn find_payload(&self, digest: &Digest) -> Result<&[u8], Miss> {
        self.find_near_home(digest).map_or_else(|| self.find_farther(digest), Ok)
    }
}

/// What the first look says.
fn near_home<'v>(view: &'v View<Sim>, digest: &Digest) -> Option<&'v [u8]> {
    let mut told = None;
    let tell = |_: &Digest, payload| {
        told = payload;
        Ok(())
    };
    view.find_many_near_home(&[*digest], tell).unwrap();
    told
}

fn is_damage<T>(answer: Result<T, Stop>) -> bool {
    matches!(answer, Err(Stop::Failed(Error::Damaged(_))))
}

/// Where the damage is.
fn damage_at<T>(answer: Result<T, Stop>) -> Option<u64> {
    match answer {
        Err(Stop::Failed(Error::Damaged(damage))) => Some(damage.offset),
        _ => None,
    }
}

#[test]
fn every_way_leads_to_the_blobs_that_there_are_and_to_no_others() {
    for slots in [1, 2, 4, 63] {
        let mut pack = Pack::new(slots);
        let blobs: Vec<(Digest, Found)> = (0..100)
            .map(|number| pack.put(number, if number % 9 == 8 { Algorithm::Sha512 } else { Algorithm::Sha256 }))
            .collect();
        let view = &pack.view;
        let mut near = 0;
        for (number, (digest, found)) in blobs.iter().enumerate() {
            let payload = view.bytes(found.payload, found.length).unwrap();
            assert_eq!(payload, [u8::try_from(number).unwrap(); PAYLOAD]);
            assert_eq!(view.find_blob(digest).unwrap(), Some(*found));
            let record = pack.record(digest, found.id);
            assert_eq!(view.blob_record(digest).unwrap(), Some(record));
            assert_eq!(view.digest_at(found.id).unwrap(), *digest);
            let is_short = digest.algorithm() == Algorithm::Sha256;
            let first = (is_short && pack.is_near(record.tag)).then_some(payload);
            assert_eq!(near_home(view, digest), first, "{slots} slots, {} from its home", pack.distance(record.tag));
            assert_eq!(view.find_near_home(digest), first);
            assert_eq!(view.record_near_home(digest), first.map(|_| record));
            assert_eq!(view.find_payload(digest), if is_short { Ok(payload) } else { Err(Miss::Unsure) });
            near += usize::from(first.is_some());
        }
        assert!(near > blobs.len() / 2 && near < blobs.len(), "{near}");
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let mut told = Vec::new();
        let tell = |digest: &Digest, payload| {
            told.push((*digest, payload));
            Ok(())
        };
        view.find_many_near_home(&digests, tell).unwrap();
        assert_eq!(told, digests.iter().map(|digest| (*digest, near_home(view, digest))).collect::<Vec<_>>());
        for number in 0..50_u64 {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha384] {
                let other = Digest::of(algorithm, &number.to_le_bytes());
                assert_eq!(view.find_blob(&other).unwrap(), None);
                assert_eq!(view.blob_record(&other).unwrap(), None);
                assert_eq!(near_home(view, &other), None);
                assert_eq!(view.record_near_home(&other), None);
                let miss = if algorithm == Algorithm::Sha256 { Miss::Absent } else { Miss::Unsure };
                assert_eq!(view.find_payload(&other), Err(miss));
            }
        }
        assert!(is_damage(view.digest_at(Offset(FRAMES + 64))));
    }
}

/// The first look of one lookup takes digits to be wide.
#[test]
fn the_fast_path_finds_what_a_pack_of_narrow_digits_has() {
    let mut narrow = identity();
    narrow.secret[47] ^= 0x55;
    for slots in [1, 2, 4, 63] {
        let mut pack = Pack::with(slots, &narrow);
        let blobs: Vec<(Digest, Found)> = (0..100).map(|number| pack.put(number, Algorithm::Sha256)).collect();
        for (number, (digest, found)) in blobs.iter().enumerate() {
            let payload = [u8::try_from(number).unwrap(); PAYLOAD];
            let first = pack.is_near(pack.record(digest, found.id).tag).then_some(&payload[..]);
            assert_eq!((near_home(&pack.view, digest), pack.view.find_near_home(digest)), (first, None));
            assert_eq!(pack.view.record_near_home(digest), None);
            assert_eq!(pack.view.find_payload(digest), Ok(&payload[..]));
        }
        for number in 0..50_u64 {
            let other = Digest::of(Algorithm::Sha256, &number.to_le_bytes());
            assert_eq!(pack.view.find_payload(&other), Err(Miss::Absent));
        }
    }
}

#[test]
fn a_view_that_recovered_for_itself_has_no_fast_path() {
    let mut pack = Pack::new(63);
    let (digest, found) = pack.put(1, Algorithm::Sha256);
    let view = pack.private();
    assert_eq!(view.find_blob(&digest).unwrap(), Some(found));
    assert_eq!((near_home(&view, &digest), view.find_payload(&digest)), (None, Err(Miss::Unsure)));
    assert_eq!(view.record_near_home(&digest), None);
    let mut told = 0;
    let tell = |_: &Digest, payload: Option<&[u8]>| {
        assert_eq!(payload, None);
        told += 1;
        Ok(())
    };
    view.find_many_near_home(&[digest; 40], tell).unwrap();
    assert_eq!(told, 40);
}

/// The first error that the caller has is the end.
#[test]
fn many_lookups_end_at_an_error() {
    let mut pack = Pack::new(63);
    let (digest, _) = pack.put(1, Algorithm::Sha256);
    let mut told = 0;
    let tell = |_: &Digest, _: Option<&[u8]>| {
        told += 1;
        if told < 20 { Ok(()) } else { Err(pack.view.damaged(Offset(0), "stop")) }
    };
    assert!(pack.view.find_many_near_home(&[digest; 40], tell).is_err());
    assert_eq!(told, 20);
}

/// It is forged, or as improbable as can be.
#[test]
fn a_blob_with_the_tag_of_another_is_passed() {
    let mut pack = Pack::new(63);
    let (wanted, _) = pack.frame(1, Algorithm::Sha256);
    let (_, other) = pack.frame(2, Algorithm::Sha256);
    let (_, longer) = pack.frame(3, Algorithm::Sha512);
    for id in [other.id, longer.id] {
        let record = pack.record(&wanted, id);
        pack.apply(Record::Blob(record), false);
    }
    // A link, too.
    let record = pack.record(&wanted, other.id);
    let (none, tag) = (Offset::NONE, record.tag);
    let (from, to) = (other.id, longer.id);
    let ends = (none, none, none, none);
    let (next_out, previous_out, next_in, previous_in) = ends;
    pack.apply(
        Record::Link(crate::record::LinkRecord { tag, from, to, next_out, previous_out, next_in, previous_in }),
        false,
    );
    assert_eq!(pack.view.find_blob(&wanted).unwrap(), None);
    assert_eq!(pack.view.blob_record(&wanted).unwrap(), None);
    let (wanted, found) = pack.put(1, Algorithm::Sha256);
    assert_eq!(pack.view.find_blob(&wanted).unwrap(), Some(found));
    assert_eq!(pack.view.blob_record(&wanted).unwrap(), Some(pack.record(&wanted, found.id)));
    assert_eq!(
        pack.view.record(Key::Blob(longer.id), tag).unwrap().map(|record| record.key()),
        Some(Key::Blob(longer.id))
    );
    assert_eq!(pack.view.record(Key::Blob(Offset(64)), tag).unwrap(), None);
}

/// The frame decides: where anything of it is not as it should be, the blob is neither there nor missing.
#[test]
fn a_frame_that_is_not_quite_the_blob_is_damage() {
    let fields = [0, 8, 9, 16, 24, 32, 63];
    for (algorithm, bytes) in [(Algorithm::Sha256, &fields[..]), (Algorithm::Sha512, &[64, 95])] {
        for &at in bytes {
            let mut pack = Pack::new(63);
            let (digest, found) = pack.put(1, algorithm);
            let byte = pack.view.bytes(Offset(found.id.0 + at), 1).unwrap()[0];
            pack.write(found.id.0 + at, &[byte ^ 1]);
            let view = pack.private();
            assert!(is_damage(view.find_blob(&digest)), "byte {at}");
            assert!(is_damage(view.blob_record(&digest)), "byte {at}");
            assert!(is_damage(view.digest_at(found.id)), "byte {at}");
            assert_eq!(near_home(&pack.view, &digest), None, "byte {at}");
            assert_eq!(pack.view.record_near_home(&digest), None, "byte {at}");
            assert_eq!(pack.view.find_payload(&digest), Err(Miss::Unsure), "byte {at}");
        }
    }
    // A record that speaks of a blob that is longer than its frame says, or than the file.
    for length in [PAYLOAD_BYTES + 1, 1 << 40] {
        let mut pack = Pack::new(63);
        let (digest, found) = pack.frame(1, Algorithm::Sha256);
        let record = BlobRecord { length, ..pack.record(&digest, found.id) };
        pack.apply(Record::Blob(record), false);
        assert!(is_damage(pack.private().find_blob(&digest)));
        assert_eq!((near_home(&pack.view, &digest), pack.view.find_payload(&digest)), (None, Err(Miss::Unsure)));
    }
}

/// A writer in the middle of a change has time to end it, and nobody waits for one that can't be there.
#[test]
fn what_makes_no_sense_is_looked_at_again_for_a_while_before_it_is_damage() {
    let mut pack = Pack::new(63);
    let (digest, found) = pack.put(1, Algorithm::Sha256);
    pack.write(found.id.0, &[0]);
    let pauses = |view: &View<Sim>, look: &dyn Fn(&View<Sim>)| {
        let before = view.medium().pauses();
        look(view);
        view.medium().pauses() - before
    };
    let find = |view: &View<Sim>| assert!(is_damage(view.find_blob(&digest)));
    assert_eq!((pauses(&pack.view, &find), pauses(&pack.private(), &find)), (85, 1));
    let at = pack.segment(0);
    let header = pack.view.word(Offset(at.0 + 40)).unwrap();
    pack.view.medium().store(Offset(at.0 + 40), &[header ^ 1]).unwrap();
    let walk = |view: &View<Sim>| assert_eq!(damage_at(view.records_from(0)), Some(at.0));
    assert_eq!((pauses(&pack.view, &walk), pauses(&pack.private(), &walk)), (85, 1));
    // An entry that leads out of the file.
    let directory = pack.view.live().directory;
    let entry = Entry::unpack(pack.view.word(directory).unwrap());
    pack.view.medium().store(directory, &[Entry { segment: Offset(1 << 39), ..entry }.pack()]).unwrap();
    let lost = |view: &View<Sim>| {
        assert_eq!(damage_at(view.find_blob(&digest)), Some(directory.0));
        assert_eq!(damage_at(view.records_from(0)), Some(directory.0));
    };
    assert_eq!((pauses(&pack.view, &lost), pauses(&pack.private(), &lost)), (2, 2));
}

/// Its counts would be believed, so the record counts only whole; its bytes are what the frame says.
#[test]
fn a_blob_whose_record_is_damaged_is_found_and_its_record_is_not() {
    let mut pack = Pack::new(63);
    let (digest, found) = pack.put(1, Algorithm::Sha256);
    let tag = pack.view.tagger().of_blob(&digest);
    let at = pack.segment(tag).0 + 64 * (1 + u64::from(home_slot(tag, 63)));
    let references = pack.view.word(Offset(at + 24)).unwrap();
    assert!(pack.view.record_near_home(&digest).is_some() || !pack.is_near(tag));
    pack.view.medium().store(Offset(at + 24), &[references ^ 1]).unwrap();
    assert_eq!(pack.view.record_near_home(&digest), None);
    let view = pack.private();
    assert_eq!(view.find_blob(&digest).unwrap(), Some(found));
    assert_eq!(damage_at(view.blob_record(&digest)), Some(at));
    assert_eq!(damage_at(view.record(Key::Blob(found.id), tag)), Some(at));
    // Neither is it said of another one that it is missing, where the search comes by: it may be what was damaged.
    let home = home_slot(tag, 63);
    let sibling = |passes: bool| {
        let digests = (0..100_000_u64).map(|number| Digest::of(Algorithm::Sha256, &number.to_le_bytes()));
        let mut searched = digests.filter(|digest| {
            let tag = view.tagger().of_blob(digest);
            (home_slot(tag, 63) == home) == passes
        });
        searched.next().unwrap()
    };
    assert_eq!(damage_at(view.blob_record(&sibling(true))), Some(at));
    assert_eq!(view.find_blob(&sibling(true)).unwrap(), None);
    assert_eq!(view.blob_record(&sibling(false)).unwrap(), None);
}

/// A bit that flipped in the directory leads to what the segment was before, or to another one.
#[test]
fn a_record_counts_only_in_the_life_of_its_segment_that_the_directory_names() {
    let mut pack = Pack::new(63);
    let (digest, found) = pack.put(1, Algorithm::Sha256);
    let record = pack.record(&digest, found.id);
    assert_eq!(pack.view.record_near_home(&digest), pack.is_near(record.tag).then_some(record));
    let at = pack.segment(record.tag);
    let generation = pack.view.word(at).unwrap();
    pack.view.medium().store(at, &[generation ^ 1]).unwrap();
    assert_eq!(pack.view.record_near_home(&digest), None);
    assert_eq!(pack.view.find_blob(&digest).unwrap(), Some(found));
}

#[test]
fn a_search_looks_at_as_many_slots_as_records_can_be_away_from_home() {
    let pack = Pack::new(63);
    let digest = pack.frame(1, Algorithm::Sha256).0;
    let tag = pack.view.tagger().of_blob(&digest);
    let home = home_slot(tag, 63);
    let (segment, there) = (pack.segment(tag), Record::Blob(pack.record(&digest, Offset(FRAMES + 4096))));
    let words = Image { record: there, removed: false }.words();
    let other = Digest::of(Algorithm::Sha256, b"other");
    let filler = Record::Blob(BlobRecord { tag: tag ^ 1 << 40, ..pack.record(&other, Offset(FRAMES)) });
    let filler = Image { record: filler, removed: false }.words();
    let slot_at = |probe: u32| Offset(segment.0 + 64 * (1 + u64::from((home + probe) % 63)));
    for probe in 0..=PROBES_MAX {
        pack.view.medium().store(slot_at(probe), &words).unwrap();
        let is_there = probe < PROBES_MAX;
        assert_eq!(pack.view.find_blob(&digest).unwrap().is_some(), is_there, "{probe}");
        assert_eq!(pack.view.find_payload(&digest).is_ok(), is_there, "{probe}");
        assert_eq!(pack.view.record(there.key(), tag).unwrap().is_some(), is_there, "{probe}");
        assert_eq!(near_home(&pack.view, &digest).is_some(), pack.is_near(tag), "{probe}");
        pack.view.medium().store(slot_at(probe), &filler).unwrap();
    }
    // Behind a slot that was never used there is nothing.
    pack.view.medium().store(slot_at(5), &words).unwrap();
    assert!(pack.view.find_blob(&digest).unwrap().is_some());
    pack.view.medium().store(slot_at(0), &[TAG_EMPTY, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(pack.view.find_blob(&digest).unwrap().is_none());
    assert_eq!(pack.view.find_payload(&digest), Err(Miss::Absent));
}

/// A slot near home that is empty says nothing of a record in another one that leads to the wrong frame.
#[test]
fn a_record_near_home_with_the_wrong_frame_is_not_taken_for_none() {
    let pack = Pack::new(63);
    let frames = (0..100).map(|number| pack.frame(number, Algorithm::Sha256));
    let tag_of = |digest: &Digest| pack.view.tagger().of_blob(digest);
    let mut frames = frames.filter(|(digest, _)| home_slot(tag_of(digest), 63) <= 60);
    let ((digest, _), (_, another)) = (frames.next().unwrap(), frames.next().unwrap());
    let words = Image { record: Record::Blob(pack.record(&digest, another.id)), removed: false }.words();
    let home = pack.segment(tag_of(&digest)).0 + 64 * (1 + u64::from(home_slot(tag_of(&digest), 63)));
    for slot in 0..3 {
        assert_eq!(pack.view.find_payload(&digest), Err(Miss::Absent));
        for before in 0..slot {
            pack.view.medium().store(Offset(home + 64 * before), &[3, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        }
        pack.view.medium().store(Offset(home + 64 * slot), &words).unwrap();
        assert_eq!(pack.view.find_payload(&digest), Err(Miss::Unsure), "{slot}");
        for used in 0..=slot {
            pack.view.medium().store(Offset(home + 64 * used), &[0; 8]).unwrap();
        }
    }
}

/// What the fast path says of a blob that is not there counts only in the segment that was meant.
#[test]
fn the_fast_path_says_nothing_of_a_segment_that_moves() {
    let mut pack = Pack::new(63);
    pack.put(1, Algorithm::Sha256);
    let absent = Digest::of(Algorithm::Sha256, b"absent");
    assert_eq!(pack.view.find_payload(&absent), Err(Miss::Absent));
    let segment = pack.segment(0);
    let generation = pack.view.word(segment).unwrap();
    pack.view.medium().store(segment, &[generation + 1]).unwrap();
    assert_eq!(pack.view.find_payload(&absent), Err(Miss::Unsure));
    pack.view.medium().store(segment, &[generation]).unwrap();
    // Depth and prefix of another part.
    let there = pack.view.word(Offset(segment.0 + 24)).unwrap();
    pack.view.medium().store(Offset(segment.0 + 24), &[there | 1]).unwrap();
    let digests = (0..20_u64).map(|number| Digest::of(Algorithm::Sha256, &number.to_le_bytes()));
    let (low, high): (Vec<_>, Vec<_>) = digests.partition(|digest| pack.view.tagger().of_blob(digest) >> 63 == 0);
    assert!(low.iter().all(|digest| pack.view.find_payload(digest) == Err(Miss::Absent)));
    assert!(high.iter().all(|digest| pack.view.find_payload(digest) == Err(Miss::Unsure)));
    let view = pack.private();
    assert!(low.iter().all(|digest| view.find_blob(digest).unwrap().is_none()));
    assert!(high.iter().all(|digest| is_damage(view.find_blob(digest))));
    // A compaction, and another writer.
    for notice in [pack.view.notice() | live::SUPERSEDED, 2] {
        pack.view.medium().store(live::NOTICE, &[notice]).unwrap();
        assert!(low.iter().all(|digest| pack.view.find_payload(digest) == Err(Miss::Unsure)));
    }
}

/// What stands behind a segment is another, perhaps an older copy of it: a record there may have been removed since.
#[test]
fn the_fast_path_ends_with_its_segment() {
    let pack = Pack::new(63);
    // One whose records go on in the first slot, after the last.
    let frames = (0..200).map(|number| pack.frame(number, Algorithm::Sha256));
    let tag_of = |digest: &Digest| pack.view.tagger().of_blob(digest);
    let (digest, found) = frames.into_iter().find(|(digest, _)| home_slot(tag_of(digest), 63) > 60).unwrap();
    let (tag, record) = (tag_of(&digest), Record::Blob(pack.record(&digest, found.id)));
    let words = Image { record, removed: false }.words();
    let behind = Offset(pack.segment(tag).0 + 4096);
    for line in 0..4 {
        pack.view.medium().store(Offset(behind.0 + 64 * line), &words).unwrap();
        assert_eq!(pack.view.find_payload(&digest), Err(Miss::Absent), "{line}");
        assert_eq!(pack.view.find_blob(&digest).unwrap(), None);
    }
    for line in 0..4 {
        pack.view.medium().store(Offset(behind.0 + 64 * line), &[0; 8]).unwrap();
    }
    // The first slot is where it goes on.
    pack.view.medium().store(Offset(behind.0 - 64), &[tag ^ 1 << 40]).unwrap();
    pack.view.medium().store(Offset(behind.0 - 128), &[tag ^ 1 << 40]).unwrap();
    pack.view.medium().store(Offset(pack.segment(tag).0 + 64), &words).unwrap();
    assert_eq!(pack.view.find_blob(&digest).unwrap(), Some(found));
    assert!(pack.view.find_payload(&digest).is_ok());
}

fn put_name(pack: &mut Pack, number: u64, text: &str) -> NameRecord {
    let id = Offset(FRAMES + 4096 * number);
    let (header, _) = seal_name(pack.view.marker(), id, text);
    pack.write(id.0, header.as_bytes());
    pack.write(id.0 + 64, text.as_bytes());
    let anchor = NameRecord::anchor(pack.view.tagger().of_name(text));
    let record = NameRecord { id, target: Offset(FRAMES), ..anchor };
    pack.apply(Record::Name(record), false);
    record
}

#[test]
fn a_name_is_found_by_its_text() {
    let mut pack = Pack::new(63);
    let [here, there] = ["here", "there"].map(|text| Name::new(text).unwrap());
    assert_eq!(pack.view.name_record(&here).unwrap(), None);
    let record = put_name(&mut pack, 1, "here");
    assert_eq!(pack.view.name_record(&here).unwrap(), Some(record));
    assert_eq!(pack.view.name_at(record.id).unwrap(), here);
    assert!(is_damage(pack.view.name_at(Offset(FRAMES))));
    // Another name with its tag, the anchor, and a blob: none of them is it.
    let tag = pack.view.tagger().of_name("there");
    let digest = pack.frame(3, Algorithm::Sha256).0;
    let blob = BlobRecord { tag, ..pack.record(&digest, Offset(FRAMES + 3 * 4096)) };
    for record in
        [Record::Name(NameRecord { tag, ..record }), Record::Name(NameRecord::anchor(tag)), Record::Blob(blob)]
    {
        pack.apply(record, false);
        assert_eq!(pack.view.name_record(&there).unwrap(), None);
    }
    let found = put_name(&mut pack, 2, "there");
    assert_eq!(pack.view.name_record(&there).unwrap(), Some(found));
    // Damage in the text, and in the record.
    pack.write(record.id.0 + 64, b"H");
    assert!(is_damage(pack.private().name_record(&here)));
    pack.write(record.id.0 + 64, b"h");
    assert_eq!(pack.private().name_record(&here).unwrap(), Some(record));
    let slot =
        pack.segment(record.tag).0 + 64 * (1 + u64::from(home_slot(record.tag, 63) + pack.distance(record.tag)) % 63);
    let target = pack.view.word(Offset(slot + 16)).unwrap();
    pack.view.medium().store(Offset(slot + 16), &[target ^ 1]).unwrap();
    assert!(is_damage(pack.private().name_record(&here)));
}

/// Frames of other kinds with sound headers, where a record speaks of a blob or a name.
#[test]
fn a_frame_of_another_kind_is_neither_blob_nor_name() {
    let mut pack = Pack::new(63);
    let (digest, found) = pack.put(1, Algorithm::Sha256);
    let mut detail = [0; 32];
    detail.copy_from_slice(&digest.padded()[..32]);
    let other = FrameHeader::plain(pack.view.marker(), Kind::Chunk, found.id, PAYLOAD_BYTES, detail);
    pack.write(found.id.0, other.as_bytes());
    assert!(is_damage(pack.private().find_blob(&digest)));
    assert_eq!(near_home(&pack.view, &digest), None);
    assert!(is_damage(pack.view.digest_at(found.id)));
    assert!(is_damage(pack.view.name_at(found.id)));
}

/// Makes a ring of these names, the newest first, and their anchor; returns their records.
fn ring(pack: &mut Pack, texts: &[&str]) -> Vec<NameRecord> {
    let anchor = Neighbour::anchor(pack.view.tagger().of_name(""));
    let mut records = vec![NameRecord::anchor(anchor.tag)];
    for (number, text) in (1..).zip(texts) {
        let record = put_name(pack, number, text);
        records.push(NameRecord { target: Offset(64 * number), ..record });
    }
    let count = records.len();
    for number in 0..count {
        let next = records[(number + 1) % count].place();
        let previous = records[(number + count - 1) % count].place();
        records[number] = NameRecord { next, previous, ..records[number] };
        pack.apply(Record::Name(records[number]), false);
    }
    records
}

#[test]
fn the_ring_of_names_is_walked_from_the_newest_to_the_oldest() {
    let mut pack = Pack::new(63);
    assert_eq!(pack.view.names(true).unwrap(), []);
    let texts = ["newest", "middle", "oldest"];
    let records = ring(&mut pack, &texts);
    let expected: Vec<_> = (1..).zip(texts).map(|(n, text)| (Name::new(text).unwrap(), Offset(64 * n))).collect();
    for at_rest in [true, false] {
        assert_eq!(pack.view.names(at_rest).unwrap(), expected);
        assert_eq!(pack.private().names(at_rest).unwrap(), expected);
    }
    for record in &records {
        assert_eq!(pack.view.ring_record(record.place()).unwrap(), Some(*record));
    }
    pack.apply(Record::Name(records[0]), true);
    assert_eq!(pack.view.names(true).unwrap(), [], "nothing leads to them");
}

/// Where nobody changes it, that is damage; where somebody may, it is looked at again for a while.
#[test]
fn a_ring_of_names_that_is_broken_anywhere_is_not_taken_for_a_short_one() {
    for number in 0..4 {
        for is_next in [true, false] {
            let mut pack = Pack::new(63);
            let records = ring(&mut pack, &["newest", "middle", "oldest"]);
            let elsewhere = records[(number + 2) % 4].place();
            let broken = match is_next {
                true => NameRecord { next: elsewhere, ..records[number] },
                false => NameRecord { previous: elsewhere, ..records[number] },
            };
            pack.apply(Record::Name(broken), false);
            let view = pack.private();
            let pauses = view.medium().pauses();
            assert!(is_damage(pack.view.names(true)), "{number}");
            assert!(is_damage(view.names(false)), "{number}");
            assert_eq!(view.medium().pauses(), pauses, "nobody is waited for");
        }
    }
    let mut pack = Pack::new(63);
    let records = ring(&mut pack, &["newest", "oldest"]);
    pack.apply(Record::Name(NameRecord { previous: records[2].place(), ..records[1] }), false);
    let pauses = pack.view.medium().pauses();
    assert!(matches!(pack.view.names(false), Err(Stop::Busy)));
    assert!(pack.view.medium().pauses() > pauses + 900);
    // A text that can't be read is damage, whoever changes names.
    let mut pack = Pack::new(63);
    let records = ring(&mut pack, &["newest", "oldest"]);
    pack.write(records[2].id.0 + 64, b"O");
    assert!(is_damage(pack.view.names(false)));
}

#[test]
fn each_segment_is_looked_at_once_and_one_that_is_damaged_does_not_end_the_walk() {
    for slots in [4, 63] {
        let mut pack = Pack::new(slots);
        let mut tags: Vec<u64> = Vec::new();
        for number in 0..150 {
            let digest = pack.put(number, Algorithm::Sha256).0;
            tags.push(pack.view.tagger().of_blob(&digest));
        }
        tags.sort_unstable();
        let walk = |view: &View<Sim>| {
            let (mut places, mut found, mut failed) = (Vec::new(), Vec::new(), Vec::new());
            let walked = view.each_segment(|at, records| {
                places.push(at);
                match records {
                    Ok(records) => found.extend(records.iter().map(Record::tag)),
                    Err(stop) => failed.push((at, stop.into_error(view))),
                }
                Ok(())
            });
            walked.map(|()| (places, found, failed))
        };
        let (places, found, failed) = walk(&pack.view).unwrap();
        assert!(found == tags && failed.is_empty() && places.len() > 2);
        let mut expected: Vec<Offset> = (0..1 << 12).map(|high| pack.segment(high << 52)).collect();
        expected.dedup();
        assert_eq!(places, expected, "in the order of the tags");
        pack.view.check_index_readable().unwrap();

        let (damaged, last) = (places[1], places[places.len() - 1]);
        let word = pack.view.word(Offset(damaged.0 + 8)).unwrap();
        pack.view.medium().store(Offset(damaged.0 + 8), &[word ^ 1]).unwrap();
        let (all, _, failed) = walk(&pack.private()).unwrap();
        assert_eq!((&all, failed.len(), failed[0].0), (&places, 1, damaged));
        assert!(failed[0].1.is_damage());
        pack.view.check_index_readable().unwrap();
        for at in [last.0, last.0 + 4095] {
            pack.directory.set_unreadable("index", at..at + 1);
            let (all, _, failed) = walk(&pack.private()).unwrap();
            assert_eq!((&all, failed.len(), failed[1].0), (&places, 2, last));
            assert!(matches!(failed[1].1, Error::Io { .. }), "{}", failed[1].1);
            assert!(matches!(pack.private().check_index_readable(), Err(Error::Io { .. })));
        }
        let directory = pack.view.live().directory.0;
        pack.directory.set_unreadable("index", directory..directory + 1);
        assert!(matches!(walk(&pack.private()), Err(Error::Io { .. })));
    }
}

#[test]
fn all_of_a_large_directory_is_read_before_it_is_looked_at() {
    let pack = Pack::new(63);
    let entry = pack.view.word(pack.view.live().directory).unwrap();
    let (directory, depth) = (Offset(32 << 20), 18);
    pack.view.medium().allocate(directory, 8 << depth).unwrap();
    pack.write(directory.0, &entry.to_le_bytes().repeat(1 << depth));
    pack.view.medium().store(live::WORD, &[LiveWord { directory, depth, switches: 1 }.pack()]).unwrap();
    let view = pack.view.renewed().unwrap();
    view.check_index_readable().unwrap();
    let last = directory.0 + (8 << depth) - 1;
    pack.directory.set_unreadable("index", last..last + 1);
    assert!(matches!(view.check_index_readable(), Err(Error::Io { .. })));
}

/// Address space is cheap up to a point. What lies behind it in a file that has become longer is there all the same.
#[test]
fn what_lies_behind_the_map_is_not_taken_for_damage() {
    let directory = tempfile::tempdir().unwrap();
    let medium = Arc::new(Disk::create(&directory.path().join("pack"), 0o600).unwrap());
    medium.allocate(Offset(0), 1 << 20).unwrap();
    // Segments of three pages.
    let view = View::new(medium.clone(), &Identity::new_zeroed(), 191).unwrap();
    let map_bytes = medium.map(0).unwrap().length();
    assert!(is_damage(view.digest_at(Offset(map_bytes))) && is_damage(view.name_at(Offset(map_bytes))));
    medium.file().unwrap().set_len(map_bytes + (1 << 20)).unwrap();
    assert!(matches!(view.digest_at(Offset(map_bytes)), Err(Stop::Outgrown)));
    assert!(matches!(view.name_at(Offset(map_bytes)), Err(Stop::Outgrown)));
    let store = |at: u64, words: &[u64]| medium.store(Offset(at), words).unwrap();
    let lead = |directory, segment| {
        store(live::WORD.0, &[LiveWord { directory: Offset(directory), depth: 0, switches: 0 }.pack()]);
        if directory < map_bytes {
            store(directory, &[Entry { segment: Offset(segment), generation: 0 }.pack()]);
        }
        view.record(Key::Blob(Offset(64)), 77)
    };
    assert!(matches!(lead(map_bytes, 0), Err(Stop::Outgrown)), "the directory");
    assert!(matches!(lead(512 << 10, map_bytes - 4096), Err(Stop::Outgrown)), "the end of a segment");
    assert!(matches!(lead(512 << 10, 768 << 10), Ok(None)));
    store((768 << 10) + 64, &[77, 1, 2, 3, 4, 5, 6, 7]);
    assert!(matches!(lead(512 << 10, 768 << 10), Err(Stop::Outgrown)), "what a record leads to, perhaps");
}
