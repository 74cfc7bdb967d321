//! A medium without a disk: all handles on it share one map of words that loom watches.

use std::io;
use std::path::Path;
use std::sync::Arc;

use blobpack::format::Offset;
use blobpack::map::Map;
use blobpack::medium::{AtPath, Medium};

/// All files are so long, so that no map is ever outgrown.
pub const FILE_BYTES: u64 = 1 << 20;

/// Before lies the index, which is words; from here on stand frames.
pub const FRAMES_AT: Offset = Offset(0xc_0000);

/// See the module.
pub struct Model(Arc<Map>);

impl Model {
    /// A file of zeros.
    pub fn new() -> Model {
        Model(Map::memory(FILE_BYTES))
    }
}

fn no<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Medium for Model {
    fn path(&self) -> &Path {
        Path::new("model")
    }

    fn length(&self) -> io::Result<u64> {
        Ok(FILE_BYTES)
    }

    /// Of words; frames are read through the map.
    fn read_at(&self, offset: Offset, buffer: &mut [u8]) -> io::Result<()> {
        // A region of the index that nobody has stored into yet is zeros.
        if offset < FRAMES_AT && self.0.word(offset).is_none() {
            buffer.fill(0);
            return Ok(());
        }
        self.0.read_bytes(offset, buffer).ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    fn write_at(&self, offset: Offset, pieces: &[&[u8]], _: bool) -> io::Result<()> {
        let bytes = pieces.concat();
        if offset >= FRAMES_AT {
            self.0.write_frame(offset, &bytes);
        } else if bytes.iter().any(|byte| *byte != 0) {
            self.0.write_words(offset, &bytes);
        } else {
            // Zeros are only ever written to new regions of the index, and so are there already.
            let pages = (offset.0..offset.0 + bytes.len() as u64).step_by(4096);
            assert!(pages.map(Offset).all(|page| self.0.word(page).is_none()), "a region that was used is filled");
        }
        Ok(())
    }

    fn allocate(&self, _: Offset, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn store(&self, offset: Offset, words: &[u64]) -> io::Result<()> {
        self.0.lay_words(offset, 8 * words.len() as u64);
        self.0.store_words(offset, words).ok_or(io::ErrorKind::InvalidInput.into())
    }

    fn map(&self, _: u64) -> io::Result<Arc<Map>> {
        Ok(self.0.clone())
    }

    fn host(&self) -> io::Result<[u64; 4]> {
        Ok([1, 2, 3, 4])
    }

    fn pause(&self) {
        loom::thread::yield_now();
    }

    fn punch(&self, _: Offset, _: u64) -> io::Result<()> {
        no()
    }

    fn sync_range(&self, _: Offset, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_back(&self, _: Offset, _: u64) {}

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn links(&self) -> io::Result<u64> {
        no()
    }

    fn at_path(&self) -> io::Result<AtPath> {
        no()
    }

    fn blocks(&self) -> io::Result<u64> {
        no()
    }

    fn data_after(&self, _: Offset) -> io::Result<Option<Offset>> {
        no()
    }

    fn reopen(&self, _: bool) -> io::Result<Model> {
        no()
    }

    fn create_beside(&self, _: Option<&Path>) -> io::Result<Model> {
        no()
    }

    fn publish(&self, _: bool) -> io::Result<()> {
        no()
    }

    fn sync_directory(&self) -> io::Result<()> {
        no()
    }

    fn remove_leftovers(&self) {}

    fn try_lock(&self) -> io::Result<bool> {
        no()
    }

    fn unlock(&self) {}

    fn is_locked(&self) -> io::Result<bool> {
        no()
    }
}
