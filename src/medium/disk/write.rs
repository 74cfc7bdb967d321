//! Ways to write: at once, in parts, synced, once more.

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;

use super::{Disk, PIECE_BYTES, sys};
use crate::format::{Offset, PAGE_BYTES, to_u64, to_usize};
use crate::map::Map;
use crate::medium::Medium;

impl Disk {
    pub(super) fn write_again(&self, offset: Offset, length: u64) -> io::Result<()> {
        let mut piece = vec![0; to_usize(length.min(PIECE_BYTES))];
        let end = offset.0 + length;
        for at in (offset.0..end).step_by(piece.len()) {
            let piece = &mut piece[..to_usize((end - at).min(PIECE_BYTES))];
            self.read_at(Offset(at), piece)?;
            self.write_plainly(Offset(at), &[piece])?;
        }
        Ok(())
    }

    pub(super) fn write_plainly(&self, offset: Offset, pieces: &[&[u8]]) -> io::Result<()> {
        sys::write_pieces(&self.file, offset.0, pieces, false)
    }

    /// The first parts are on their way to the disk while the rest is copied; a page that the next part goes on with is
    /// left to that.
    pub(super) fn write_in_parts(&self, offset: Offset, pieces: &[&[u8]]) -> io::Result<()> {
        let whole_pages = |bytes: u64| bytes & !(PAGE_BYTES - 1);
        let mut at = offset;
        for piece in pieces.iter().flat_map(|piece| piece.chunks(to_usize(PIECE_BYTES))) {
            self.write_plainly(at, &[piece])?;
            let (from, end) = (whole_pages(at.0), at.0 + to_u64(piece.len()));
            self.write_back(Offset(from), whole_pages(end) - from);
            at.0 = end;
        }
        Ok(())
    }

    /// Writes and syncs by this open file, which is told of whatever the disk has failed since it was told last.
    pub(super) fn write_synced(&self, file: &File, offset: Offset, pieces: &[&[u8]]) -> io::Result<()> {
        if !self.syncs_apart.load(Ordering::Relaxed) {
            match sys::write_pieces(file, offset.0, pieces, true) {
                Err(error) if sys::is_unsupported(&error) => self.syncs_apart.store(true, Ordering::Relaxed),
                done => return done,
            }
        }
        self.write_plainly(offset, pieces)?;
        file.sync_data()
    }
}

/// Whether the disk failed anything that this open file was not told of yet. To sync a page that nobody changes asks
/// just that.
pub(super) fn check_written(file: &File) -> io::Result<()> {
    match Map::of_file(file, PAGE_BYTES, true) {
        Ok(map) => map.flush(Offset(0), PAGE_BYTES),
        Err(_) => file.sync_data(),
    }
}
