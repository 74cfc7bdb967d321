//! What the models have in common: an index with a few records, its writer, and readers beside it.

use std::sync::Arc;

use blobpack::format::{BlobHeader, Entry, Identity, LIVE_AT, MAGIC, Offset, VERSION, home_slot};
use blobpack::index::home::Miss;
use blobpack::index::probe::Found;
use blobpack::index::table::Table;
use blobpack::index::tag::Tagger;
use blobpack::medium::Medium;
use blobpack::record::{BlobRecord, Image, Record};
use blobpack::space::Space;
use blobpack::view::View;
use blobpack::{Algorithm, Digest};
use zerocopy::little_endian::{U32, U64};

use crate::medium::{FILE_BYTES, FRAMES_AT, Model};

/// Slots a segment.
pub const SLOTS: u32 = 2;
const MARKER: u64 = 0x1234_5678_9abc_def1;

fn identity() -> Identity {
    let mut secret = [0; 112];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::try_from(at * 97 % 251).expect("less than 251");
    }
    Identity {
        magic: MAGIC,
        version: U32::new(VERSION),
        checksum: U32::ZERO,
        uuid: [1; 16],
        marker: U64::new(MARKER),
        secret: Tagger::secret(secret),
        reserved: [0; 40],
    }
}

/// A blob, by where its record belongs.
#[derive(Clone, Copy)]
pub struct Content {
    bytes: u64,
    digest: Digest,
    tag: u64,
}

impl Content {
    /// The `nth` content whose tag begins with the `count` bits `bits` and whose home is this slot.
    pub fn new(bits: u64, count: u32, home: u32, nth: usize) -> Content {
        let tagger = Tagger::new(&identity().secret);
        let of = |bytes: u64| {
            let digest = Digest::of(Algorithm::Sha256, &bytes.to_le_bytes());
            Content { bytes, digest, tag: tagger.of_blob(&digest) }
        };
        let fits = |content: &Content| content.tag >> (64 - count) == bits && home_slot(content.tag, SLOTS) == home;
        (0..).map(of).filter(fits).nth(nth).expect("tags are spread, so there is always another")
    }

    pub fn bytes(&self) -> [u8; 8] {
        self.bytes.to_le_bytes()
    }

    /// Its image with its frame at the place `frame`, and so many references, all but one of them held.
    pub fn image(&self, frame: u64, references: u32) -> Image {
        let record = Record::Blob(BlobRecord {
            tag: self.tag,
            id: at(frame),
            length: 8,
            algorithm: Algorithm::Sha256,
            references,
            held: references - 1,
            first_out: Offset::NONE,
            first_in: Offset::NONE,
            out_count: 0,
        });
        Image { record, removed: false }
    }

    pub fn removal(&self, frame: u64, references: u32) -> Image {
        Image { removed: true, ..self.image(frame, references) }
    }
}

/// The position of a frame's place. They stand a page apart.
pub fn at(frame: u64) -> Offset {
    Offset(FRAMES_AT.0 + 4096 * frame)
}

/// The writer's side.
pub struct Writer {
    pub medium: Arc<Model>,
    pub view: View<Model>,
    pub space: Space,
    pub table: Table,
}

impl Writer {
    /// An empty index, shown to readers.
    pub fn new() -> Writer {
        let medium = Arc::new(Model::new());
        medium.store(LIVE_AT, &[0; 8]).expect("a model takes every store");
        let mut space = Space::empty(MARKER, SLOTS, FILE_BYTES);
        let mut table = Table::create(medium.as_ref(), &mut space, SLOTS, 0, 7).expect("a model has room");
        let view = View::new(medium.clone(), &identity(), SLOTS).expect("a model has a map");
        table.publish(&view).expect("a model takes every store");
        Writer { medium, view, space, table }
    }

    /// Writes the blob's frame, as step 2 of a commit.
    pub fn write(&self, content: &Content, frame: u64) {
        let header = BlobHeader::new(MARKER, at(frame), &content.digest, 8);
        let pieces: [&[u8]; 2] = [header.bytes(), &content.bytes.to_le_bytes()];
        self.medium.write_at(at(frame), &pieces, true).expect("a model takes every write");
    }

    /// Puts an image into the index, as step 4 of a commit.
    pub fn apply(&mut self, image: &Image) {
        self.table.apply(&self.view, &mut self.space, image).expect("the index has room");
    }

    /// Writes a blob's frame and puts its record into the index.
    pub fn put(&mut self, content: &Content, frame: u64) {
        self.write(content, frame);
        self.apply(&content.image(frame, 1));
    }

    /// Two free directories, so that one that is freed later is not the next to be taken.
    pub fn reserve_directories(&mut self) {
        self.space.reserve_directories(self.medium.as_ref(), 4096).expect("a model has room");
    }

    /// A checkpoint: what it freezes is not stored into again; what only earlier ones named is free, and taken next.
    pub fn checkpoint(&mut self, sequence: u64) {
        self.table.freeze(sequence);
        self.space.freeze();
        self.space.release_retired(sequence);
        self.space.gather_segments(u64::MAX);
    }

    /// A checkpoint before which the directory was copied, for the time after it.
    pub fn checkpoint_with_copy(&mut self, sequence: u64) {
        self.table.begin_successor(self.medium.as_ref(), &mut self.space).expect("a model has room");
        while self.table.continue_successor(&self.view, &mut self.space).expect("the index is sound") {}
        self.table.freeze(sequence);
        self.space.freeze();
        self.table.succeed(&self.view, &mut self.space).expect("a model takes every store");
        self.space.release_retired(sequence);
    }

    /// The writer after this one, which was killed: what it makes goes into new regions, and is not shown yet.
    pub fn succeed(self) -> Writer {
        let mut space = Space::empty(MARKER, SLOTS, FILE_BYTES);
        space.skip_to(self.space.end().0);
        let table = Table::new(SLOTS, self.table.live(), 1, 1 << 32);
        Writer { space, table, ..self }
    }

    /// The segment of the directory's first entry.
    pub fn segment(&self) -> Offset {
        let entry = self.view.word(self.table.live().directory).expect("a directory has an entry");
        Entry::unpack(entry).segment
    }

    /// A reader in another process.
    pub fn reader(&self) -> View<Model> {
        View::new(self.medium.clone(), &identity(), SLOTS).expect("a model has a map")
    }
}

/// The place of the blob's frame, as a reader finds it, its bytes compared.
pub fn find(view: &View<Model>, content: &Content) -> Option<u64> {
    check(view, content, view.find_blob(&content.digest).expect("the index is sound"))
}

/// A lookup on the fast path, as readers make it.
pub fn find_payload<'v>(view: &'v View<Model>, content: &Content) -> Result<&'v [u8], Miss> {
    view.find_near_home(&content.digest).map_or_else(|| view.find_farther(&content.digest), Ok)
}

/// The same on the fast path, as far as that goes.
pub fn find_fast(view: &View<Model>, content: &Content) -> Option<u64> {
    match find_payload(view, content) {
        Ok(bytes) => {
            assert_eq!(bytes, content.bytes.to_le_bytes());
            let is_there = |place: &u64| {
                let frame = view.bytes(Offset(FRAMES_AT.0 + 4096 * place), 72);
                frame.is_some_and(|frame| std::ptr::eq(frame[64..].as_ptr(), bytes.as_ptr()))
            };
            Some((0..64).find(is_there).expect("the bytes are a frame's"))
        }
        Err(Miss::Absent) => None,
        Err(Miss::Unsure) => find(view, content),
    }
}

fn check(view: &View<Model>, content: &Content, found: Option<Found>) -> Option<u64> {
    let found = found?;
    assert_eq!((found.length, found.payload.0), (8, found.id.0 + 64));
    let frame = view.bytes(found.id, 72).expect("a blob that was found is there");
    assert_eq!(frame[64..], content.bytes.to_le_bytes());
    Some((found.id.0 - FRAMES_AT.0) / 4096)
}

/// The blob's references, as a reader finds them, all but one held.
pub fn references(view: &View<Model>, content: &Content) -> Option<u32> {
    view.blob_record(&content.digest).expect("the index is sound").map(counted)
}

/// The same on the fast path, as far as that goes.
pub fn references_fast(view: &View<Model>, content: &Content) -> Option<u32> {
    view.record_near_home(&content.digest).map(counted).or_else(|| references(view, content))
}

fn counted(blob: BlobRecord) -> u32 {
    assert_eq!(blob.held, blob.references - 1, "the counts are torn");
    blob.references
}
