//! Frames' headers, for those who look at many in the order of the file: one call reads those that stand near.

use crate::error::{Error, Result};
use crate::format::{Frame, Offset, to_usize};
use crate::medium::Medium;

/// So much is read where the next header can be expected within it. A system call takes about as long as the copy of
/// four times as much.
const AHEAD_BYTES: u64 = 16 << 10;
/// The longest header.
const HEADER_BYTES: u64 = 128;

/// Reads and checks a frame's header; `None` where there is no frame.
pub fn read_frame<M: Medium>(medium: &M, marker: u64, at: Offset, end: u64) -> Result<Option<Frame>> {
    let Some(room) = end.checked_sub(at.0).filter(|&room| room >= 64) else { return Ok(None) };
    let mut head = [0; 128];
    let head = &mut head[..to_usize(room.min(128))];
    medium.read_at(at, head).map_err(|e| Error::io("read a frame", medium.path(), e))?;
    Ok(Frame::parse(head, marker, at))
}

/// What was read of the file last.
pub struct Ahead<'m, M> {
    medium: &'m M,
    start: Offset,
    bytes: Vec<u8>,
    /// Where the last header stood.
    last: Offset,
}

impl<'m, M: Medium> Ahead<'m, M> {
    /// Nothing was read so far.
    pub fn new(medium: &'m M) -> Ahead<'m, M> {
        Ahead { medium, start: Offset::NONE, bytes: Vec::new(), last: Offset::NONE }
    }

    /// The same as [`read_frame`].
    pub fn read_frame(&mut self, marker: u64, at: Offset, end: u64) -> Result<Option<Frame>> {
        let Some(room) = end.checked_sub(at.0).filter(|&room| room >= 64) else { return Ok(None) };
        let is_near = at.0.checked_sub(self.last.0).is_some_and(|step| step < AHEAD_BYTES);
        self.last = at;
        let length = to_usize(room.min(HEADER_BYTES));
        if self.bytes_at(at, length).is_none() {
            self.bytes = vec![0; to_usize(room.min(if is_near { AHEAD_BYTES } else { HEADER_BYTES }))];
            self.start = at;
            if self.medium.read_at(at, &mut self.bytes).is_err() {
                // What can't be read may be a sector behind this header.
                self.bytes.clear();
                return read_frame(self.medium, marker, at, end);
            }
        }
        Ok(self.bytes_at(at, length).and_then(|head| Frame::parse(head, marker, at)))
    }

    fn bytes_at(&self, at: Offset, length: usize) -> Option<&[u8]> {
        let from = to_usize(at.0.checked_sub(self.start.0)?);
        self.bytes.get(from..from.checked_add(length)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::medium::SimDirectory;

    #[test]
    fn more_than_a_header_is_read_only_where_the_one_before_was_near() {
        let medium = SimDirectory::new(1 << 20).create("log").unwrap();
        medium.allocate(Offset(0), 1 << 20).unwrap();
        let mut ahead = Ahead::new(&medium);
        let mut read = |at: u64| {
            assert!(ahead.read_frame(9, Offset(at), 1 << 20).unwrap().is_none());
            (ahead.start.0, ahead.bytes.len() as u64)
        };
        let far = 1 << 19;
        assert_eq!(read(far), (far, HEADER_BYTES));
        let near = far + (16 << 10) - 64;
        assert_eq!(read(near), (near, 16 << 10));
        assert_eq!(read(near + 64), (near, 16 << 10), "it is there");
        let next = near + 64 + (16 << 10);
        assert_eq!(read(next), (next, HEADER_BYTES));
        assert_eq!(read(near), (near, HEADER_BYTES), "it goes back");
    }
}
