//! What a file holds, frame by frame, for people who want to understand it or what became of it. Nothing is written,
//! nothing is trusted: frames are found by their marker, damaged or not.

use std::collections::VecDeque;
use std::path::Path;

use zerocopy::FromBytes;

use crate::error::{Error, Result};
use crate::format::{
    CHUNK_ALIGN, ChunkDetail, FRAME_ALIGN, Frame, FrameHeader, IDENTITY_AT, Identity, JumpDetail, Kind, LIVE_AT,
    LiveWord, MAGIC, Offset, PAGE_BYTES, RunDetail, SPACE_AT, SUPERBLOCKS_AT, Superblock, live, to_usize,
};
use crate::log::{Commit, read_name};
use crate::medium::{Disk, Medium};

/// Bytes looked through at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// One thing in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Item {
    /// Where it stands, in bytes from the start of the file.
    pub offset: u64,
    /// `identity`, `superblock`, `live`, `chunk`, `blob`, `name`, `commit`, `jump`, `run`, `unknown`, or
    /// `unreadable`: what can't be read at all.
    pub kind: &'static str,
    /// Its bytes, with its header.
    pub length: u64,
    /// Whether its checksums are right (those of its header; of a commit those of its body too).
    pub valid: bool,
    /// What it says.
    pub detail: String,
}

/// The items of a file, in its order; see [`inspect`].
pub struct Inspection<M: Medium = Disk> {
    disk: M,
    length: u64,
    marker: Option<u64>,
    at: u64,
    /// So many bytes of commits are still read. In a log they do not overlap, and those that do are forged.
    budget: u64,
    /// What is told before anything else is looked at.
    ready: VecDeque<Item>,
    piece: Vec<u8>,
    piece_at: u64,
}

/// Looks at the file at `path`, a pack or what was one.
///
/// # Errors
/// [`Error::NotAPack`] where the file is too short to have anything of a pack; where it can't be read at all.
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection> {
    let path = path.as_ref();
    let path = if path.is_dir() { path.join("blobs.pack") } else { path.to_path_buf() };
    let disk = Disk::open(&path, false).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::NoPack { path: path.clone() },
        _ => Error::io("open", &path, error),
    })?;
    if let Some(found) = disk.kind().map_err(|e| Error::io("look at the file", &path, e))? {
        return Err(Error::NotAFile { path, found });
    }
    inspect_in(disk)
}

/// [`inspect`] of an open file.
#[doc(hidden)]
pub fn inspect_in<M: Medium>(disk: M) -> Result<Inspection<M>> {
    let length = disk.length().map_err(|e| Error::io("length", disk.path(), e))?;
    let mut items = VecDeque::new();
    let mut marker = None;
    let identity: Option<Identity> = read(&disk, IDENTITY_AT, &mut items);
    let copies = SUPERBLOCKS_AT.map(|at| read::<Superblock, M>(&disk, at, &mut items));
    if let Some(identity) = identity {
        let valid = identity.magic == MAGIC && identity.is_sealed();
        if valid {
            marker = Some(identity.marker.get());
        }
        let uuid: String = identity.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let detail = format!("version {} uuid {uuid}", identity.version);
        items.push_back(item(IDENTITY_AT, "identity", size_of::<Identity>() as u64, valid, detail));
    }
    for (at, copy) in SUPERBLOCKS_AT.into_iter().zip(copies) {
        let Some(copy) = copy else { continue };
        let valid = copy.identity.magic == MAGIC && copy.is_sealed();
        if valid {
            marker = marker.or(Some(copy.identity.marker.get()));
        }
        let detail = format!(
            "sequence {} epoch {} end {} chunk {}..{} tail {} commit {} directory {} depth {} slots {} run {} \
             blobs {} links {} names {}",
            copy.sequence,
            copy.epoch,
            copy.end,
            copy.chunk,
            copy.chunk_end,
            copy.tail,
            copy.commit,
            copy.directory,
            copy.depth,
            copy.slots,
            copy.run,
            copy.counters.blobs,
            copy.counters.links,
            copy.counters.names,
        );
        items.push_back(item(at, "superblock", size_of::<Superblock>() as u64, valid, detail));
    }
    if let Some(words) = read::<[zerocopy::little_endian::U64; 8], M>(&disk, LIVE_AT, &mut items) {
        let word = |at: Offset| words.get(to_usize((at.0 - LIVE_AT.0) / 8)).map_or(0, |word| word.get());
        let live_word = LiveWord::unpack(word(live::WORD));
        let notice = word(live::NOTICE);
        let detail = format!(
            "directory {} depth {} switches {} writers {} superseded {} acknowledged tail {}",
            live_word.directory,
            live_word.depth,
            live_word.switches,
            notice >> 1,
            notice & live::SUPERSEDED != 0,
            word(live::ACKNOWLEDGED),
        );
        items.push_back(item(LIVE_AT, "live", 64, true, detail));
    }
    if items.is_empty() {
        return Err(Error::NotAPack { path: disk.path().into(), reason: "the file is too short" });
    }
    let (at, budget) = (SPACE_AT.0, length.saturating_mul(2));
    Ok(Inspection { disk, length, marker, at, budget, ready: items, piece: Vec::new(), piece_at: 0 })
}

fn item(offset: Offset, kind: &'static str, length: u64, valid: bool, detail: String) -> Item {
    Item { offset: offset.0, kind, length, valid, detail }
}

/// What stands at `at`; where it can't be read `items` say so.
fn read<T: FromBytes + zerocopy::IntoBytes, M: Medium>(disk: &M, at: Offset, items: &mut VecDeque<Item>) -> Option<T> {
    let mut value = T::new_zeroed();
    match disk.read_at(at, value.as_mut_bytes()) {
        Ok(()) => Some(value),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
        Err(error) => {
            items.push_back(unreadable(at, size_of::<T>() as u64, &error));
            None
        }
    }
}

fn unreadable(at: Offset, length: u64, error: &std::io::Error) -> Item {
    item(at, "unreadable", length, false, error.to_string())
}

impl<M: Medium> Inspection<M> {
    /// The bytes at `at`, up to 128 of them. What can't be read is told of, and zeros stand for it.
    fn head(&mut self) -> Option<[u8; 128]> {
        let inside = self.at >= self.piece_at && self.at + 128 <= self.piece_at + self.piece.len() as u64;
        if !inside {
            let left = self.length.checked_sub(self.at).filter(|&left| left >= 64)?;
            self.piece.clear();
            self.piece.resize(to_usize(left.min(PIECE_BYTES)).next_multiple_of(128), 0);
            let bytes = to_usize(left.min(PIECE_BYTES));
            if self.disk.read_at(Offset(self.at), &mut self.piece[..bytes]).is_err() {
                // Page by page: what can be read is looked at.
                for (number, page) in self.piece[..bytes].chunks_mut(to_usize(PAGE_BYTES)).enumerate() {
                    let at = Offset(self.at + PAGE_BYTES * number as u64);
                    if let Err(error) = self.disk.read_at(at, page) {
                        page.fill(0);
                        self.ready.push_back(unreadable(at, page.len() as u64, &error));
                    }
                }
            }
            self.piece_at = self.at;
        }
        let start = to_usize(self.at - self.piece_at);
        self.piece.get(start..start + 128)?.try_into().ok()
    }

    fn describe(&mut self, frame: &Frame) -> (&'static str, String, bool) {
        match frame.kind {
            Kind::Blob => {
                let digest = frame.digest.map_or_else(String::new, |digest| digest.to_string());
                ("blob", format!("{digest} {} bytes", frame.length), true)
            }
            Kind::Commit if frame.end().0 > self.length => ("commit", "the body goes beyond the file".into(), false),
            Kind::Commit if frame.length > self.budget => {
                ("commit", "the bytes of the body are others' too".into(), false)
            }
            Kind::Commit => match self.commit(frame) {
                Ok(Some(commit)) => {
                    let detail = format!(
                        "epoch {} images {} published {} previous {} durable {} last {}",
                        commit.detail.epoch,
                        commit.body.images,
                        commit.body.published,
                        commit.detail.previous,
                        commit.body.durable_upto,
                        commit.is_last(),
                    );
                    ("commit", detail, true)
                }
                _ => ("commit", "the body fails its checksum".into(), false),
            },
            Kind::Chunk => {
                let chunk: ChunkDetail = frame.detail();
                ("chunk", format!("epoch {} {} bytes previous {}", chunk.epoch, chunk.length, chunk.previous), true)
            }
            Kind::Jump => {
                let jump: JumpDetail = frame.detail();
                ("jump", format!("epoch {} to {}", jump.epoch, jump.target), true)
            }
            Kind::Run => {
                let run: RunDetail = frame.detail();
                let what = if run.holds.get() == 1 { "segments" } else { "directory" };
                let detail =
                    format!("{what}: {} regions of {} bytes, previous {}", run.regions, run.region_bytes, run.previous);
                ("run", detail, true)
            }
            Kind::Name => match read_name(&self.disk, self.marker.unwrap_or(0), frame.offset, self.length) {
                Ok(Some(name)) => ("name", format!("{:?}", name.as_str()), true),
                _ => ("name", "the text fails its checksum, or is no name".into(), false),
            },
            Kind::Link | Kind::Padding => ("unknown", format!("{:?}", frame.kind), true),
        }
    }

    fn commit(&mut self, frame: &Frame) -> Result<Option<Commit>> {
        self.budget -= frame.length;
        Commit::read(&self.disk, self.marker.unwrap_or(0), frame.offset, self.length)
    }
}

impl<M: Medium> Iterator for Inspection<M> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if let Some(head) = self.ready.pop_front() {
            return Some(head);
        }
        let marker = self.marker?;
        // Every step moves on by at least 64 bytes.
        loop {
            let head = self.head()?;
            if let Some(unreadable) = self.ready.pop_front() {
                return Some(unreadable);
            }
            let at = Offset(self.at);
            let looks_like_one =
                FrameHeader::ref_from_prefix(&head).is_ok_and(|(header, _)| header.marker.get() == marker);
            if let Some(frame) = Frame::parse(&head, marker, at) {
                let (kind, detail, valid) = self.describe(&frame);
                let whole = frame.end().0 <= self.length;
                self.at = if whole && valid { frame.end().0 } else { self.at + FRAME_ALIGN };
                return Some(item(at, kind, frame.header_bytes + frame.length, valid && whole, detail));
            }
            if looks_like_one {
                self.at += FRAME_ALIGN;
                return Some(item(at, "unknown", FRAME_ALIGN, false, "a frame whose header fails its checksum".into()));
            }
            self.at += FRAME_ALIGN;
            if self.at.is_multiple_of(CHUNK_ALIGN)
                && let Ok(data) = self.disk.data_after(Offset(self.at))
            {
                // Holes have no frames.
                self.at = data?.0.max(self.at) & !(FRAME_ALIGN - 1);
            }
        }
    }
}
