//! Handles on simulated files: the [`Medium`] itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::file::SimFile;
use super::{Action, Fault, SimDirectory, State};
use crate::format::{Offset, to_u64};
use crate::map::Map;
use crate::medium::{AtPath, Medium};
use crate::sync::{AtomicBool, AtomicU64, Ordering, yield_now};

/// A handle on a file of a [`SimDirectory`].
pub struct Sim {
    directory: SimDirectory,
    file: Arc<SimFile>,
    path: PathBuf,
    write: bool,
    locks: AtomicBool,
    published: AtomicBool,
    pauses: AtomicU64,
    written_back: Mutex<Vec<(Offset, u64)>>,
    reserved: Mutex<Vec<u64>>,
    prepared: Mutex<Vec<Offset>>,
}

impl Sim {
    pub(super) fn new(directory: SimDirectory, file: Arc<SimFile>, name: &Path, write: bool, published: bool) -> Sim {
        let (locks, published) = (AtomicBool::new(false), AtomicBool::new(published));
        let (pauses, written_back) = (AtomicU64::new(0), Mutex::default());
        let (reserved, prepared) = (Mutex::default(), Mutex::default());
        Sim { directory, file, path: name.into(), write, locks, published, pauses, written_back, reserved, prepared }
    }

    /// The directory that the file is in.
    #[must_use]
    pub fn directory(&self) -> &SimDirectory {
        &self.directory
    }

    /// How often a caller has waited.
    #[must_use]
    pub fn pauses(&self) -> u64 {
        self.pauses.load(Ordering::Relaxed)
    }

    /// The ranges whose way to the disk was begun: a hint, which changes nothing here.
    #[must_use]
    pub fn written_back(&self) -> Vec<(Offset, u64)> {
        self.written_back.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many bytes the file was expected to grow by: a hint, which changes nothing here.
    #[must_use]
    pub fn reserved(&self) -> Vec<u64> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where stores were prepared: a hint, which changes nothing here.
    #[must_use]
    pub fn prepared(&self) -> Vec<Offset> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes one step, if `check` finds it possible.
    fn step(&self, action: Action, check: impl FnOnce(&State) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.directory.state();
        state.strike()?;
        check(&state)?;
        state.apply_and_log(&self.file, action);
        Ok(())
    }

    fn writable(&self) -> io::Result<()> {
        if self.write { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl Medium for Sim {
    fn path(&self) -> &Path {
        &self.path
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.length())
    }

    fn read_at(&self, offset: Offset, buffer: &mut [u8]) -> io::Result<()> {
        if self.file.is_bad(offset, to_u64(buffer.len())) {
            return Err(Fault::Io.error());
        }
        let end = offset.0.checked_add(to_u64(buffer.len())).filter(|&end| end <= self.file.length());
        end.and_then(|_| self.file.map().read_bytes(offset, buffer)).ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    fn write_at(&self, offset: Offset, pieces: &[&[u8]], durable: bool) -> io::Result<()> {
        self.writable()?;
        let bytes = pieces.concat();
        let length = to_u64(bytes.len());
        let room = |state: &State| state.has_room(&self.file, offset, length);
        self.step(Action::Write { offset, bytes, durable }, room)
    }

    fn allocate(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.writable()?;
        self.step(Action::Allocate { offset, length }, |state| state.has_room(&self.file, offset, length))
    }

    fn reserve(&self, bytes: u64) {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }

    fn punch(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.writable()?;
        self.step(Action::Punch { offset, length }, |_| Ok(()))
    }

    fn sync_range(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.step(Action::SyncRange { offset, length }, |_| Ok(()))
    }

    fn prepare_store(&self, offset: Offset) {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).push(offset);
    }

    fn write_back(&self, offset: Offset, length: u64) {
        self.written_back.lock().unwrap_or_else(PoisonError::into_inner).push((offset, length));
    }

    fn sync_all(&self) -> io::Result<()> {
        self.step(Action::SyncAll, |_| Ok(()))
    }

    /// A store to what was not allocated, which a full disk turns into `SIGBUS`, is an error here at any time.
    fn store(&self, offset: Offset, words: &[u64]) -> io::Result<()> {
        self.writable()?;
        let length = to_u64(size_of_val(words));
        let end = offset.checked_add(length).filter(|_| offset.is_aligned(8)).ok_or(io::ErrorKind::InvalidInput)?;
        self.step(Action::Store { offset, words: words.to_vec() }, |_| {
            if end.0 > self.file.length() {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else if self.file.missing(offset, length) > 0 {
                Err(io::Error::other(format!("a store at {offset} to a range that is not allocated")))
            } else {
                Ok(())
            }
        })
    }

    fn map(&self, length: u64) -> io::Result<Arc<Map>> {
        if length <= self.file.bytes_max() { Ok(Arc::clone(self.file.map())) } else { Err(Fault::Full.error()) }
    }

    fn host(&self) -> io::Result<[u64; 4]> {
        Ok([1, self.directory.boot(), 1, self.file.number + 1])
    }

    fn links(&self) -> io::Result<u64> {
        Ok(to_u64(self.directory.state().names.values().filter(|file| Arc::ptr_eq(file, &self.file)).count()))
    }

    fn at_path(&self) -> io::Result<AtPath> {
        Ok(match self.directory.state().names.get(&self.path) {
            Some(file) if Arc::ptr_eq(file, &self.file) => AtPath::Same,
            Some(_) => AtPath::Other,
            None => AtPath::Missing,
        })
    }

    fn blocks(&self) -> io::Result<u64> {
        Ok(self.file.allocated())
    }

    fn data_after(&self, offset: Offset) -> io::Result<Option<Offset>> {
        Ok(self.file.data_after(offset))
    }

    fn reopen(&self, write: bool) -> io::Result<Sim> {
        self.directory.open(&self.path, write)
    }

    fn create_beside(&self, path: Option<&Path>) -> io::Result<Sim> {
        self.directory.create(path.unwrap_or(&self.path))
    }

    fn publish(&self, replace: bool) -> io::Result<()> {
        let name = self.path.clone();
        self.step(Action::Publish { name, replace }, |state| {
            if self.published.load(Ordering::Relaxed) {
                Err(io::ErrorKind::InvalidInput.into())
            } else if !replace && state.names.contains_key(&self.path) {
                Err(io::ErrorKind::AlreadyExists.into())
            } else {
                Ok(())
            }
        })?;
        self.published.store(true, Ordering::Relaxed);
        self.step(Action::SyncDirectory, |_| Ok(()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.step(Action::SyncDirectory, |_| Ok(()))
    }

    fn remove_leftovers(&self) {}

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.directory.state();
        if self.locks.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let free = self.file.take_lock();
        if free {
            self.locks.store(true, Ordering::Relaxed);
            state.apply_and_log(&self.file, Action::Lock);
        }
        Ok(free)
    }

    fn unlock(&self) {
        let _state = self.directory.state();
        if self.locks.swap(false, Ordering::Relaxed) {
            self.file.give_lock_back();
        }
    }

    fn is_locked(&self) -> io::Result<bool> {
        Ok(self.file.is_locked())
    }

    fn set_ready(&self) -> io::Result<()> {
        let _state = self.directory.state();
        if !self.locks.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.set_ready();
        Ok(())
    }

    fn is_ready(&self) -> io::Result<bool> {
        Ok(self.file.is_ready())
    }

    fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
        // A fuzzer has one thread, and there is nobody to wait for.
        if !cfg!(fuzzing) {
            yield_now();
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if self.locks.load(Ordering::Relaxed) {
            let mut state = self.directory.state();
            self.file.give_lock_back();
            state.apply_and_log(&self.file, Action::Unlock);
        }
    }
}
