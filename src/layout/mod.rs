//! What each byte of a pack is for: the file as a list of parts, and as cells for a picture.
//!
//! Where the index knows, it decides: stored blobs and the regions that the live index or a superblock names. What lies
//! between is looked through frame by frame, so that removed blobs, the log and what is empty are told apart without
//! trusting anything. Every byte of the file is in exactly one part, whatever the file holds.

mod claims;
mod sweep;

use crate::error::{Error, Result};
use crate::format::{Offset, to_u64};
use crate::medium::Medium;
use crate::pack::Shared;
use crate::still::{Sight, stand_still};
use claims::Claims;
use sweep::Sweep;

/// What bytes of a pack are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum PartKind {
    /// Identity, superblocks and live page.
    Header,
    /// Frames of stored blobs and of names: header, payload, and what aligns them.
    Live,
    /// Frames of removed blobs and names, and of blobs that no commit published: a compaction gives them back.
    Dead,
    /// Index regions that the live index or one of the two superblocks names.
    Index,
    /// Index regions that wait to be used (again).
    Spare,
    /// The log's own frames: commits, heads of chunks, jumps. A compaction replaces all commits by one snapshot.
    Log,
    /// Nothing: holes, what was given back, and space that the log goes on in.
    Free,
    /// Bytes that nothing explains: of a writer that is still open, of a crash, or damage.
    Unknown,
}

impl PartKind {
    /// How many kinds there are.
    const COUNT: usize = 8;

    /// All of them, in the order in which reports list them.
    pub const ALL: [PartKind; PartKind::COUNT] = [
        PartKind::Header,
        PartKind::Live,
        PartKind::Dead,
        PartKind::Index,
        PartKind::Spare,
        PartKind::Log,
        PartKind::Free,
        PartKind::Unknown,
    ];

    /// Its name: one word, lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PartKind::Header => "header",
            PartKind::Live => "live",
            PartKind::Dead => "dead",
            PartKind::Index => "index",
            PartKind::Spare => "spare",
            PartKind::Log => "log",
            PartKind::Free => "free",
            PartKind::Unknown => "unknown",
        }
    }
}

/// A part of the file, as long as it can be: its neighbours are of other kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Part {
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// How many bytes it has; never 0.
    pub length: u64,
    /// What they are for.
    pub kind: PartKind,
}

/// A stretch of the file in a picture of it, with the bytes of each kind inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cell {
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
    bytes: [u64; PartKind::COUNT],
}

impl Cell {
    /// How many of its bytes are of this kind. All kinds together are its length.
    #[must_use]
    pub const fn bytes(&self, kind: PartKind) -> u64 {
        self.bytes[kind as usize]
    }
}

/// The layout of a pack file; see [`Store::layout`](crate::Store::layout).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Layout {
    /// The file's length, in bytes.
    pub file_bytes: u64,
    /// All of the file, in its order, without gaps.
    pub parts: Vec<Part>,
    /// Segments of the index that can't be read. Blobs whose records are in these are shown as [`PartKind::Unknown`].
    pub damaged_segments: u64,
    /// A writer in another process was at work: the layout is that of about now, and what was being written may be in
    /// a part of the wrong kind.
    pub moving: bool,
}

impl Layout {
    /// How many bytes of the file are of this kind. All kinds together are the file's length.
    #[must_use]
    pub fn bytes(&self, kind: PartKind) -> u64 {
        self.parts.iter().filter(|part| part.kind == kind).map(|part| part.length).sum()
    }

    /// The file in `count` cells of the same length (but for one byte), fewer where it has fewer bytes.
    #[must_use]
    pub fn cells(&self, count: usize) -> Vec<Cell> {
        let count = to_u64(count).min(self.file_bytes);
        self.divided(count, |number| scale(self.file_bytes, number, count))
    }

    /// The file in cells of `length` bytes (of 1, where that is 0); the last may be shorter.
    #[must_use]
    pub fn cells_of(&self, length: u64) -> Vec<Cell> {
        let length = length.max(1);
        self.divided(self.file_bytes.div_ceil(length), |number| number.saturating_mul(length).min(self.file_bytes))
    }

    /// Cells between boundaries that grow, from 0 to the file's length.
    fn divided(&self, count: u64, boundary: impl Fn(u64) -> u64) -> Vec<Cell> {
        let mut cells = Vec::new();
        let mut parts = self.parts.iter().peekable();
        for number in 0..count {
            let (from, to) = (boundary(number), boundary(number + 1));
            let mut bytes = [0; PartKind::COUNT];
            while let Some(part) = parts.peek() {
                let end = part.offset + part.length;
                bytes[part.kind as usize] += end.min(to) - part.offset.max(from);
                if end > to {
                    break;
                }
                parts.next();
            }
            cells.push(Cell { offset: from, length: to - from, bytes });
        }
        cells
    }
}

/// `whole * part / parts`, without a detour over 64 bits.
fn scale(whole: u64, part: u64, parts: u64) -> u64 {
    let scaled = u128::from(whole) * u128::from(part) / u128::from(parts);
    u64::try_from(scaled).expect("no part is larger than the whole")
}

/// Puts parts one behind the other, those of one kind together.
#[derive(Default)]
struct Parts {
    list: Vec<Part>,
    end: u64,
}

impl Parts {
    /// Everything from the end of the last part to `end`.
    fn push(&mut self, kind: PartKind, end: u64) {
        if end <= self.end {
            return;
        }
        let length = end - self.end;
        match self.list.last_mut() {
            Some(last) if last.kind == kind => last.length += length,
            _ => self.list.push(Part { offset: self.end, length, kind }),
        }
        self.end = end;
    }
}

/// The layout of the pack that is current; see [`Store::layout`](crate::Store::layout).
pub fn layout<M: Medium>(shared: &Shared<M>) -> Result<Layout> {
    let (mut layout, moved) = stand_still(shared, of)?;
    layout.moving |= moved;
    Ok(layout)
}

fn of<M: Medium>(sight: &Sight<'_, M>) -> Result<Layout> {
    let medium = sight.view.medium();
    // What is beyond came later.
    let file_bytes = medium.length().map_err(|e| Error::io("length", medium.path(), e))?;
    let claims = Claims::gather(sight, file_bytes)?;
    let mut sweep = Sweep::new(sight, file_bytes, &claims);
    for (number, claim) in claims.list.iter().enumerate() {
        sweep.gap(claim.start, claim.is_large.then_some(claim.kind))?;
        let next = claims.list.get(number + 1).map_or(file_bytes, |next| next.start);
        sweep.claim(claim, next);
    }
    sweep.gap(file_bytes, None)?;
    let damaged_segments = to_u64(claims.lost.len());
    Ok(Layout { file_bytes, parts: sweep.finish(), damaged_segments, moving: false })
}

/// The page that an offset lies in.
const fn page_of(offset: u64) -> u64 {
    offset & !(crate::format::PAGE_BYTES - 1)
}

/// A frame's place, as a record tells of it: `None` where it can't be.
fn frame_place(id: Offset, frame_bytes: u64, file_bytes: u64) -> Option<(u64, u64)> {
    use crate::format::{FRAME_ALIGN, SPACE_AT};
    let end = id.checked_add(frame_bytes)?.0;
    (id >= SPACE_AT && id.is_aligned(FRAME_ALIGN) && end <= file_bytes).then_some((id.0, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(parts: &[(PartKind, u64)]) -> Layout {
        let mut all = Parts::default();
        for (kind, length) in parts {
            all.push(*kind, all.end + length);
        }
        Layout { file_bytes: all.end, parts: all.list, damaged_segments: 0, moving: false }
    }

    #[test]
    fn parts_of_one_kind_that_touch_are_one_part() {
        let layout = layout(&[(PartKind::Live, 10), (PartKind::Live, 5), (PartKind::Free, 0), (PartKind::Dead, 1)]);
        assert_eq!(layout.parts.len(), 2);
        assert_eq!(layout.parts[0], Part { offset: 0, length: 15, kind: PartKind::Live });
        assert_eq!(layout.parts[1], Part { offset: 15, length: 1, kind: PartKind::Dead });
    }

    #[test]
    fn cells_share_out_every_byte_once() {
        let layout =
            layout(&[(PartKind::Header, 7), (PartKind::Live, 100), (PartKind::Dead, 1), (PartKind::Free, 1000)]);
        for count in [1, 2, 3, 7, 100, 1107, 1108, 5000] {
            let cells = layout.cells(count);
            assert_eq!(cells.len(), count.min(1108));
            let mut at = 0;
            for cell in &cells {
                assert_eq!(cell.offset, at);
                assert_eq!(PartKind::ALL.iter().map(|&kind| cell.bytes(kind)).sum::<u64>(), cell.length);
                at += cell.length;
            }
            assert_eq!(at, layout.file_bytes);
            for kind in PartKind::ALL {
                assert_eq!(cells.iter().map(|cell| cell.bytes(kind)).sum::<u64>(), layout.bytes(kind));
            }
        }
        assert!(layout.cells(0).is_empty());
        let lengths: Vec<u64> = layout.cells_of(500).iter().map(|cell| cell.length).collect();
        assert_eq!(lengths, [500, 500, 108]);
        assert_eq!(layout.cells_of(0).len(), 1108);
    }

    #[test]
    fn kinds_stand_where_their_numbers_say() {
        for (number, kind) in PartKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }
}
