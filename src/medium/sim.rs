//! A medium in memory, for tests: it records each step, fails on demand, and replays what it recorded.
//!
//! A [`Step`] carries all that it changed, so that the state after any number of steps can be built again: by
//! [`SimDirectory::replay`] as if each step had reached the disk at once, or, by a test of its own, as a power cut may
//! leave it (see the module's assumptions): sectors of 512 bytes that were not synced old or new each by itself, stored
//! words in any version, lengths and names apart from the bytes. Calls and replays change a directory by the same code.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak, atomic};

use self::file::SimFile;
use super::Medium;
use crate::format::{Offset, to_u64, to_usize};
use crate::sync::{Mutex, MutexGuard, Ordering};

mod file;
mod handle;
mod step;

pub use handle::Sim;
pub use step::{Action, Fault, Step};

/// Boots are told apart over all directories of the process.
static BOOTS: atomic::AtomicU64 = atomic::AtomicU64::new(1);

/// A directory in memory. Clones are the same directory.
#[derive(Clone)]
pub struct SimDirectory(Arc<Mutex<State>>);

struct State {
    /// All files ever made, by number. Those without a name and a handle take no space.
    files: Vec<Weak<SimFile>>,
    names: BTreeMap<PathBuf, Arc<SimFile>>,
    /// How long one file can become, in bytes.
    file_bytes_max: u64,
    /// How many bytes all files may take.
    capacity: u64,
    log: Option<Vec<Step>>,
    /// How many calls succeed before the one that fails.
    fault: Option<(u64, Fault)>,
    boot: u64,
}

impl SimDirectory {
    /// An empty directory, whose files can each become `file_bytes_max` long. Nothing else limits it, nothing is
    /// recorded.
    #[must_use]
    pub fn new(file_bytes_max: u64) -> SimDirectory {
        SimDirectory(Arc::new(Mutex::new(State {
            files: Vec::new(),
            names: BTreeMap::new(),
            file_bytes_max,
            capacity: u64::MAX,
            log: None,
            fault: None,
            boot: BOOTS.fetch_add(1, Ordering::Relaxed),
        })))
    }

    /// What is there after the first `upto` of `steps` when all of them reached the disk. It is another boot, nothing
    /// is locked, and files without a name are gone. `steps` begin where a recording began.
    ///
    /// # Panics
    ///
    /// If the steps do not fit one another, or files are longer than `file_bytes_max`.
    #[must_use]
    pub fn replay(steps: &[Step], upto: usize, file_bytes_max: u64) -> SimDirectory {
        let directory = SimDirectory::new(file_bytes_max);
        let mut state = directory.state();
        let mut files = BTreeMap::new();
        for Step { file: number, action } in &steps[..upto] {
            if matches!(action, Action::Create | Action::Insert { .. }) {
                files.insert(*number, state.add_file(*number, file_bytes_max));
            }
            let file = files.get(number).expect("a recording begins with an insert of each file");
            state.apply(file, action);
        }
        drop(state);
        directory
    }

    /// Begins to record, from nothing: the first steps insert the files that are there. Or ends it.
    pub fn record(&self, on: bool) {
        let mut state = self.state();
        state.log = on.then(|| {
            let files = state.files.iter().filter_map(Weak::upgrade);
            files.map(|file| Step { file: file.number, action: state.insertion(&file) }).collect()
        });
    }

    /// What was recorded so far.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        self.state().log.clone().unwrap_or_default()
    }

    /// How many steps were recorded so far.
    #[must_use]
    pub fn step_count(&self) -> usize {
        self.state().log.as_ref().map_or(0, Vec::len)
    }

    /// Lets one call fail, the one after the next `n` that change or sync something (a publish counts twice). Others go
    /// on as before.
    pub fn fail_step(&self, n: u64, fault: Fault) {
        self.state().fault = Some((n, fault));
    }

    /// Whether a failure is still to come; it is called off.
    pub fn clear_fault(&self) -> bool {
        self.state().fault.take().is_some()
    }

    /// Sets how many bytes all files together may take. What is more is refused as on a full disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// How many bytes all files take.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Which boot of its machine the directory is in, as in [`Medium::host`]. A replay is in one of its own.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.state().boot
    }

    /// Sets the boot: to that of the recorded directory, a replay shows what a kill leaves instead of a power cut.
    pub fn set_boot(&self, boot: u64) {
        self.state().boot = boot;
    }

    /// Opens a file.
    pub fn open(&self, name: impl AsRef<Path>, write: bool) -> io::Result<Sim> {
        let file = self.state().names.get(name.as_ref()).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Sim::new(self.clone(), file, name.as_ref(), write, true))
    }

    /// Makes a new, empty, locked file that is to be published as `name`.
    pub fn create(&self, name: impl AsRef<Path>) -> io::Result<Sim> {
        let file = {
            let mut state = self.state();
            state.strike()?;
            let (number, longest) = (to_u64(state.files.len()), state.file_bytes_max);
            let file = state.add_file(number, longest);
            state.apply_and_log(&file, Action::Create);
            file
        };
        let sim = Sim::new(self.clone(), file, name.as_ref(), true, false);
        sim.try_lock()?;
        Ok(sim)
    }

    /// Puts a file there with any bytes, in the place of what has that name.
    pub fn insert(&self, name: impl AsRef<Path>, bytes: Vec<u8>) {
        let mut state = self.state();
        let (number, longest) = (to_u64(state.files.len()), state.file_bytes_max.max(to_u64(bytes.len())));
        let file = state.add_file(number, longest);
        state.apply_and_log(&file, Action::Insert { names: vec![name.as_ref().into()], bytes });
    }

    /// Lets each read that touches a range of a file fail, as on a disk that has gone bad there. Maps show it as it is:
    /// a load through one can't fail, but ends the process.
    pub fn set_unreadable(&self, name: impl AsRef<Path>, range: Range<u64>) {
        if let Some(file) = self.state().names.get(name.as_ref()) {
            file.set_unreadable(range);
        }
    }

    /// Removes a name; whether it was there. Who has the file open keeps it.
    pub fn remove(&self, name: impl AsRef<Path>) -> bool {
        let mut state = self.state();
        let Some(file) = state.names.get(name.as_ref()).cloned() else { return false };
        state.apply_and_log(&file, Action::Remove { name: name.as_ref().into() });
        true
    }

    /// The bytes of a file; `None` if there is none of that name.
    #[must_use]
    pub fn bytes(&self, name: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.state().names.get(name.as_ref()).map(|file| file.bytes())
    }

    /// All names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with the lock had a test fail; the drop of a handle after that shall not hide it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add_file(&mut self, number: u64, bytes_max: u64) -> Arc<SimFile> {
        let file = Arc::new(SimFile::new(number, bytes_max));
        let index = to_usize(number);
        if self.files.len() <= index {
            self.files.resize_with(index + 1, Weak::new);
        }
        self.files[index] = Arc::downgrade(&file);
        file
    }

    fn used(&self) -> u64 {
        self.files.iter().filter_map(Weak::upgrade).map(|file| file.allocated()).sum()
    }

    fn insertion(&self, file: &Arc<SimFile>) -> Action {
        let names = self.names.iter().filter(|(_, found)| Arc::ptr_eq(found, file)).map(|(name, _)| name.clone());
        Action::Insert { names: names.collect(), bytes: file.bytes() }
    }

    /// Counts a call that can fail, and lets it fail if its turn has come.
    fn strike(&mut self) -> io::Result<()> {
        match &mut self.fault {
            Some((0, fault)) => {
                let error = fault.error();
                self.fault = None;
                Err(error)
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Whether there is room for a range: below the longest file, and on the disk for what of it has no place yet.
    fn has_room(&self, file: &SimFile, offset: Offset, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let end = offset.0.checked_add(length).filter(|&end| end <= file.bytes_max());
        let fits = end.is_some() && self.used().saturating_add(file.missing(offset, length)) <= self.capacity;
        if fits { Ok(()) } else { Err(Fault::Full.error()) }
    }

    /// What a step does. It was found possible before, or was possible when it was recorded.
    fn apply(&mut self, file: &Arc<SimFile>, action: &Action) {
        match action {
            Action::Insert { names, bytes } => {
                file.fill(bytes);
                self.names.extend(names.iter().map(|name| (name.clone(), Arc::clone(file))));
            }
            Action::Write { offset, bytes, .. } => file.write(*offset, bytes),
            Action::Store { offset, words } => file.store(*offset, words),
            Action::Allocate { offset, length } => file.allocate(*offset, *length),
            Action::Punch { offset, length } => file.punch(*offset, *length),
            Action::Publish { name, .. } => drop(self.names.insert(name.clone(), Arc::clone(file))),
            Action::Remove { name } => drop(self.names.remove(name)),
            Action::Create
            | Action::SyncRange { .. }
            | Action::SyncAll
            | Action::SyncDirectory
            | Action::Lock
            | Action::Unlock => {}
        }
    }

    fn apply_and_log(&mut self, file: &Arc<SimFile>, action: Action) {
        self.apply(file, &action);
        if let Some(log) = &mut self.log {
            log.push(Step { file: file.number, action });
        }
    }
}

#[cfg(test)]
mod tests;
