//! A medium that tests watch and meddle with: each call is recorded as a step, may be seen by an observer, may fail, may
//! be the last of a process that is killed, or may be done in another way than was asked. Random numbers are the same in
//! each run. Below is the simulated directory.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blobpack::format::Offset;
use blobpack::map::Map;
use blobpack::medium::{Action, AtPath, Medium, Sim, SimDirectory, Step};
use blobpack::store::How;
use blobpack::{Error, OpenOptions, Store};

use super::history::{FILE_BYTES_MAX, NAME};
use super::model::Random;
use super::power::{Power, SECTOR};
use super::violations::Violation;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `ENOSPC`, with nothing done.
    Full,
    /// `EIO`. A write has not been done.
    Io,
    /// `EIO`. A write has been done, in the page cache: its sync failed.
    IoWritten,
    /// `EIO`. Of what could not be synced some pages have been read again from the disk since.
    IoReverted,
}

impl Failure {
    fn error(self) -> io::Error {
        match self {
            Failure::Full => io::Error::from_raw_os_error(28),
            Failure::Io | Failure::IoWritten | Failure::IoReverted => io::Error::from_raw_os_error(5),
        }
    }
}

/// What an observer is told that waits for longer than [`WAITS_MAX`].
pub const IN_VAIN: &str = "it waits for the writer";
const WAITS_MAX: u32 = 50;

type Observer = Box<dyn FnMut() + Send>;

#[derive(Default)]
struct State {
    steps: Vec<Step>,
    /// The disk below, for failing syncs.
    power: Option<Power>,
    random: u64,
    /// Calls that may fail so far, the one that fails, and whether it has.
    calls: u64,
    fails: Option<(u64, Failure)>,
    /// After so many steps nothing more is done: the process is dead.
    dies_after: Option<usize>,
    observer: Option<Observer>,
    /// How often the observer has waited, while it looks.
    waits: Option<u32>,
    violation: Option<Violation>,
    /// Steps that a violation holds back.
    held_back: Vec<Step>,
    /// Whether the medium says that it overwrites in place.
    overwrites: bool,
}

/// What all handles on a directory have in common.
#[derive(Clone)]
pub struct Rig {
    pub directory: SimDirectory,
    state: Arc<Mutex<State>>,
}

impl Rig {
    /// A rig on a directory. Runs with one seed are the same.
    pub fn new(directory: SimDirectory, seed: u64) -> Rig {
        Rig { directory, state: Arc::new(Mutex::new(State { random: seed, ..State::default() })) }
    }

    pub fn empty(seed: u64) -> Rig {
        Rig::new(SimDirectory::new(FILE_BYTES_MAX), seed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn create(&self, options: &OpenOptions) -> Result<Store<TestMedium>, Error> {
        let sim = self.directory.create(NAME).map_err(|source| failed("create", source))?;
        let medium = TestMedium::new(sim, self.clone(), true);
        medium.made(Action::Create);
        Ok(options.create_in(medium)?.expect("nothing is at the path"))
    }

    /// `None`: another file is at the path by now.
    pub fn open_handle(
        &self,
        medium: TestMedium,
        options: &OpenOptions,
        how: How,
    ) -> Result<Option<Store<TestMedium>>, Error> {
        options.open_in(medium, how)
    }

    pub fn handle(&self, write: bool) -> Result<TestMedium, Error> {
        let sim = self.directory.open(NAME, write).map_err(|source| failed("open", source))?;
        Ok(TestMedium::new(sim, self.clone(), write))
    }

    pub fn open(&self, options: &OpenOptions) -> Result<Store<TestMedium>, Error> {
        let store = self.open_handle(self.handle(true)?, options, How::Open)?;
        Ok(store.expect("nobody replaces the file meanwhile"))
    }

    pub fn open_read_only(&self) -> Result<Store<TestMedium>, Error> {
        let options = OpenOptions::new().read_only(true);
        Ok(self.open_handle(self.handle(false)?, &options, How::Open)?.expect("a reader takes what is there"))
    }

    /// From here on the medium says that it overwrites in place.
    pub fn overwrite_in_place(&self) {
        self.state().overwrites = true;
    }

    /// The steps so far, taken out.
    pub fn take_steps(&self) -> Vec<Step> {
        std::mem::take(&mut self.state().steps)
    }

    pub fn step_count(&self) -> usize {
        self.state().steps.len()
    }

    /// From here on the disk below is known, so that syncs can fail: it holds what `power` says.
    pub fn set_power(&self, power: Power) {
        self.state().power = Some(power);
    }

    /// What is on the disk below.
    pub fn power(&self) -> Power {
        self.state().power.clone().expect("it was set")
    }

    /// Lets the call after the next `n` that change or sync something fail.
    pub fn fail(&self, n: u64, failure: Failure) {
        let mut state = self.state();
        state.fails = Some((state.calls + n, failure));
    }

    /// Whether the failure is still to come; it is called off.
    pub fn clear_failure(&self) -> bool {
        self.state().fails.take().is_some()
    }

    /// The process is killed after `n` more steps: what it does later has no effect.
    pub fn die_after(&self, n: usize) {
        let mut state = self.state();
        state.dies_after = Some(state.steps.len() + n);
    }

    /// Another process begins; whether the last one had been killed.
    pub fn revive(&self) -> bool {
        let mut state = self.state();
        let limit = state.dies_after.take();
        limit.is_some_and(|limit| state.steps.len() >= limit)
    }

    /// Is called after each step, but for those that it makes itself.
    pub fn observe(&self, observer: impl FnMut() + Send + 'static) {
        self.state().observer = Some(Box::new(observer));
    }

    pub fn stop_observing(&self) {
        self.state().observer = None;
    }

    pub fn violate(&self, violation: Option<Violation>) {
        self.state().violation = violation;
    }
}

fn failed(operation: &'static str, source: io::Error) -> Error {
    Error::Io { operation, path: NAME.into(), source }
}

/// A handle on a file of a [`Rig`].
pub struct TestMedium {
    inner: Sim,
    rig: Rig,
    file: u64,
    /// Readers belong to processes of their own: they are not killed, and no call of theirs fails.
    write: bool,
}

impl TestMedium {
    fn new(inner: Sim, rig: Rig, write: bool) -> TestMedium {
        let file = inner.host().expect("a simulated file has a number")[3] - 1;
        TestMedium { inner, rig, file, write }
    }

    fn violates(&self, violation: Violation) -> bool {
        self.rig.state().violation == Some(violation)
    }

    /// Records a step.
    fn made(&self, action: Action) {
        self.record(Step { file: self.file, action });
    }

    fn record(&self, step: Step) {
        let mut state = self.rig.state();
        if let Some(power) = &mut state.power {
            power.make(&step);
        }
        state.steps.push(step);
        let observer = state.observer.take();
        state.waits = observer.is_some().then_some(0);
        drop(state);
        if let Some(mut observer) = observer {
            observer();
            let mut state = self.rig.state();
            state.waits = None;
            state.observer.get_or_insert(observer);
        }
    }

    /// Counts a call that changes or syncs something: an error where the process is dead, a failure where its turn has
    /// come.
    fn strikes(&self) -> io::Result<Option<Failure>> {
        let mut state = self.rig.state();
        if !self.write {
            return Ok(None);
        }
        if state.dies_after.is_some_and(|limit| state.steps.len() >= limit) {
            return Err(io::Error::other("the process is dead"));
        }
        state.calls += 1;
        let calls = state.calls;
        Ok(state.fails.take_if(|(n, _)| *n < calls).map(|(_, failure)| failure))
    }

    /// Does what changes or syncs something.
    fn act(&self, action: Action) -> io::Result<()> {
        if let Some(failure) = self.strikes()? {
            self.fail(action, failure);
            return Err(failure.error());
        }
        let mut state = self.rig.state();
        let steps = match state.violation {
            Some(violation) => {
                violation.instead_of(Step { file: self.file, action: action.clone() }, &mut state.held_back)
            }
            None => vec![Step { file: self.file, action }],
        };
        drop(state);
        for step in steps {
            self.perform(&step.action)?;
            self.record(step);
        }
        Ok(())
    }

    fn perform(&self, action: &Action) -> io::Result<()> {
        match action {
            Action::Write { offset, bytes, .. } => self.inner.write_at(*offset, &[bytes], false),
            Action::Store { offset, words } => self.inner.store(*offset, words),
            Action::Allocate { offset, length } => self.inner.allocate(*offset, *length),
            Action::Punch { offset, length } => self.inner.punch(*offset, *length),
            Action::Publish { replace, .. } => self.inner.publish(*replace),
            // A name that a violation takes away for a moment.
            Action::Remove { name } => {
                self.rig.directory.remove(name);
                Ok(())
            }
            // Programs see no difference.
            _ => Ok(()),
        }
    }

    /// What a failing call does all the same.
    fn fail(&self, action: Action, failure: Failure) {
        if matches!(failure, Failure::Full | Failure::Io)
            && !matches!(action, Action::SyncRange { .. } | Action::SyncAll)
        {
            return;
        }
        let (at, length) = match action {
            Action::Write { offset, bytes, durable: true } => {
                let length = bytes.len() as u64;
                if self.perform(&Action::Write { offset, bytes: bytes.clone(), durable: false }).is_err() {
                    return;
                }
                self.made(Action::Write { offset, bytes, durable: false });
                (offset.0, length)
            }
            Action::SyncRange { offset, length } => (offset.0, length),
            Action::SyncAll => (0, u64::MAX),
            _ => return,
        };
        let mut state = self.rig.state();
        let State { power: Some(power), random, .. } = &mut *state else { return };
        let clean = power.fail_sync(self.file, at, length);
        if failure != Failure::IoReverted {
            return;
        }
        let mut chance = Random(*random);
        for (sector, versions) in clean {
            let version = &versions[chance.below(versions.len())];
            if chance.below(2) == 0 {
                power.revert(self.file, sector, version.clone());
                let end = self.inner.length().unwrap_or(0);
                let at = sector * SECTOR;
                let count = end.saturating_sub(at).min(SECTOR) as usize;
                self.inner.write_at(Offset(at), &[&version.bytes()[..count]], false).expect("the sector is there");
            }
        }
        *random = chance.next();
    }
}

impl Medium for TestMedium {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn read_at(&self, offset: Offset, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: Offset, pieces: &[&[u8]], durable: bool) -> io::Result<()> {
        self.act(Action::Write { offset, bytes: pieces.concat(), durable })
    }

    fn allocate(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.act(Action::Allocate { offset, length })
    }

    fn punch(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.act(Action::Punch { offset, length })
    }

    fn sync_range(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.act(Action::SyncRange { offset, length })
    }

    fn write_back(&self, _: Offset, _: u64) {}

    fn sync_all(&self) -> io::Result<()> {
        self.act(Action::SyncAll)
    }

    fn store(&self, offset: Offset, words: &[u64]) -> io::Result<()> {
        self.act(Action::Store { offset, words: words.to_vec() })
    }

    fn map(&self, length: u64) -> io::Result<Arc<Map>> {
        self.inner.map(length)
    }

    fn host(&self) -> io::Result<[u64; 4]> {
        self.inner.host()
    }

    fn links(&self) -> io::Result<u64> {
        self.inner.links()
    }

    fn at_path(&self) -> io::Result<AtPath> {
        if self.violates(Violation::PathAlwaysSame) { Ok(AtPath::Same) } else { self.inner.at_path() }
    }

    fn blocks(&self) -> io::Result<u64> {
        self.inner.blocks()
    }

    fn data_after(&self, offset: Offset) -> io::Result<Option<Offset>> {
        if self.violates(Violation::DataNotFound) { Ok(None) } else { self.inner.data_after(offset) }
    }

    fn reopen(&self, write: bool) -> io::Result<TestMedium> {
        Ok(TestMedium::new(self.inner.reopen(write)?, self.rig.clone(), write))
    }

    fn create_beside(&self, path: Option<&Path>) -> io::Result<TestMedium> {
        if let Some(failure) = self.strikes()? {
            return Err(failure.error());
        }
        let medium = TestMedium::new(self.inner.create_beside(path)?, self.rig.clone(), true);
        medium.made(Action::Create);
        Ok(medium)
    }

    fn publish(&self, replace: bool) -> io::Result<()> {
        self.act(Action::Publish { name: self.path().into(), replace })?;
        if self.violates(Violation::NameNotSynced) { Ok(()) } else { self.act(Action::SyncDirectory) }
    }

    fn sync_directory(&self) -> io::Result<()> {
        if self.violates(Violation::DirectoryNotSyncedAtOpen) { Ok(()) } else { self.act(Action::SyncDirectory) }
    }

    fn remove_leftovers(&self) {}

    fn try_lock(&self) -> io::Result<bool> {
        Ok(self.inner.try_lock()? || self.violates(Violation::LockAlwaysGranted))
    }

    fn unlock(&self) {
        self.inner.unlock();
    }

    fn is_locked(&self) -> io::Result<bool> {
        if self.violates(Violation::LockNeverSeen) { Ok(false) } else { self.inner.is_locked() }
    }

    fn set_ready(&self) -> io::Result<()> {
        self.inner.set_ready()
    }

    fn is_ready(&self) -> io::Result<bool> {
        if self.violates(Violation::ReadyAtOnce) { Ok(true) } else { self.inner.is_ready() }
    }

    fn overwrites_in_place(&self) -> bool {
        self.rig.state().overwrites
    }

    /// An observer that waits for the one whom it interrupts would do so in vain.
    fn pause(&self) {
        let mut state = self.rig.state();
        let waits_in_vain = state.waits.as_mut().is_some_and(|waits| {
            *waits += 1;
            *waits > WAITS_MAX
        });
        drop(state);
        if waits_in_vain {
            // A panic that says nothing.
            std::panic::resume_unwind(Box::new(IN_VAIN.to_owned()));
        }
        self.inner.pause();
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.rig.state();
        let mut random = Random(state.random);
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]));
        state.random = random.0;
        Ok(())
    }
}
