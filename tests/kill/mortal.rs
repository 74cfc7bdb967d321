//! A medium that ends its program, or only its own work, at a point with a name.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use blobpack::format::Offset;
use blobpack::map::Map;
use blobpack::medium::{AtPath, Medium};

/// What a call of the medium does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Write,
    Allocate,
    Punch,
    Sync,
    Store,
    Publish,
    Lock,
}

pub const KINDS: [Kind; 7] =
    [Kind::Write, Kind::Allocate, Kind::Punch, Kind::Sync, Kind::Store, Kind::Publish, Kind::Lock];

/// How far the call has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Before,
    /// Some of the bytes or words are there.
    Half,
    After,
}

pub const PARTS: [Part; 3] = [Part::Before, Part::Half, Part::After];

/// The `n`-th call of a kind from now on.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub kind: Kind,
    pub n: u64,
    pub part: Part,
}

impl Point {
    pub fn to_text(self) -> String {
        let place = |found: Option<usize>| found.unwrap();
        let kind = place(KINDS.iter().position(|kind| *kind == self.kind));
        let part = place(PARTS.iter().position(|part| *part == self.part));
        format!("{kind} {} {part}", self.n)
    }

    pub fn parse(text: &str) -> Point {
        let numbers: Vec<u64> = text.split(' ').map(|word| word.parse().unwrap()).collect();
        Point { kind: KINDS[numbers[0] as usize], n: numbers[1], part: PARTS[numbers[2] as usize] }
    }
}

/// What happens at the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `SIGKILL` to the own process.
    Kill,
    /// This call and all later ones that change something fail.
    Fail,
}

struct Fate {
    point: Point,
    end: End,
    calls: AtomicU64,
}

/// What becomes of media: nothing, until it is decided.
#[derive(Clone, Default)]
pub struct Doom(Arc<OnceLock<Fate>>);

impl Doom {
    /// Decides it. Calls count from here on.
    pub fn set(&self, point: Point, end: End) {
        let fate = Fate { point, end, calls: AtomicU64::new(0) };
        assert!(self.0.set(fate).is_ok(), "a fate is decided once");
    }

    /// Whether the point was reached.
    pub fn is_over(&self) -> bool {
        self.0.get().is_some_and(|fate| fate.calls.load(Ordering::SeqCst) > fate.point.n)
    }
}

/// A medium that may come to an end. All media that it opens or makes share its fate.
pub struct Mortal<M> {
    inner: M,
    doom: Doom,
}

impl<M: Medium> Mortal<M> {
    pub fn new(inner: M, doom: &Doom) -> Mortal<M> {
        Mortal { inner, doom: doom.clone() }
    }

    /// Runs a call; `half` does a part of it.
    fn call<T>(
        &self,
        kind: Kind,
        half: impl FnOnce() -> io::Result<()>,
        whole: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(fate) = self.doom.0.get() else { return whole() };
        if fate.end == End::Fail && self.doom.is_over() {
            return Err(gone());
        }
        if kind != fate.point.kind || fate.calls.fetch_add(1, Ordering::SeqCst) != fate.point.n {
            return whole();
        }
        match fate.point.part {
            Part::Before => {}
            Part::Half => half()?,
            Part::After => drop(whole()?),
        }
        match fate.end {
            End::Fail => Err(gone()),
            End::Kill => {
                let own = rustix::process::getpid();
                rustix::process::kill_process(own, rustix::process::Signal::KILL)?;
                unreachable!("nobody survives this");
            }
        }
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl<M: Medium> Medium for Mortal<M> {
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
        let half = || {
            let bytes = pieces.concat();
            self.inner.write_at(offset, &[&bytes[..bytes.len() / 2]], false)
        };
        self.call(Kind::Write, half, || self.inner.write_at(offset, pieces, durable))
    }

    fn allocate(&self, offset: Offset, length: u64) -> io::Result<()> {
        let half = || self.inner.allocate(offset, length / 2);
        self.call(Kind::Allocate, half, || self.inner.allocate(offset, length))
    }

    fn reserve(&self, bytes: u64) {
        self.inner.reserve(bytes);
    }

    fn give_room_back(&self) {
        self.inner.give_room_back();
    }

    fn make_private(&self, offset: Offset, length: u64) -> io::Result<()> {
        let half = || self.inner.make_private(offset, length / 2);
        self.call(Kind::Allocate, half, || self.inner.make_private(offset, length))
    }

    fn shares_blocks(&self) -> bool {
        self.inner.shares_blocks()
    }

    fn has_background(&self) -> bool {
        self.inner.has_background()
    }

    fn closes_slowly(&self) -> bool {
        self.inner.closes_slowly()
    }

    fn prepare_sync(&self, offset: Offset, length: u64) {
        self.inner.prepare_sync(offset, length);
    }

    fn prepare_store(&self, offset: Offset) {
        self.inner.prepare_store(offset);
    }

    fn file(&self) -> Option<&File> {
        self.inner.file()
    }

    fn punch(&self, offset: Offset, length: u64) -> io::Result<()> {
        let half = || self.inner.punch(offset, length / 2);
        self.call(Kind::Punch, half, || self.inner.punch(offset, length))
    }

    fn sync_range(&self, offset: Offset, length: u64) -> io::Result<()> {
        self.call(Kind::Sync, || Ok(()), || self.inner.sync_range(offset, length))
    }

    fn write_back(&self, offset: Offset, length: u64) {
        self.inner.write_back(offset, length);
    }

    fn sync_all(&self) -> io::Result<()> {
        self.call(Kind::Sync, || Ok(()), || self.inner.sync_all())
    }

    /// A half store has stored half of the words in the order of a whole one, which leaves the first for the end.
    fn store(&self, offset: Offset, words: &[u64]) -> io::Result<()> {
        let half = || {
            let stored = (1..).zip(words.iter().skip(1)).take(words.len() / 2);
            stored.into_iter().try_for_each(|(n, word)| self.inner.store(Offset(offset.0 + 8 * n), &[*word]))
        };
        self.call(Kind::Store, half, || self.inner.store(offset, words))
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
        self.inner.at_path()
    }

    fn blocks(&self) -> io::Result<u64> {
        self.inner.blocks()
    }

    fn data_after(&self, offset: Offset) -> io::Result<Option<Offset>> {
        self.inner.data_after(offset)
    }

    fn reopen(&self, write: bool) -> io::Result<Mortal<M>> {
        Ok(Mortal { inner: self.inner.reopen(write)?, doom: self.doom.clone() })
    }

    fn create_beside(&self, path: Option<&Path>) -> io::Result<Mortal<M>> {
        Ok(Mortal { inner: self.inner.create_beside(path)?, doom: self.doom.clone() })
    }

    fn publish(&self, replace: bool) -> io::Result<()> {
        self.call(Kind::Publish, || Ok(()), || self.inner.publish(replace))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.call(Kind::Sync, || Ok(()), || self.inner.sync_directory())
    }

    fn remove_leftovers(&self) {
        self.inner.remove_leftovers();
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.call(Kind::Lock, || Ok(()), || self.inner.try_lock())
    }

    fn unlock(&self) {
        self.inner.unlock();
    }

    fn is_locked(&self) -> io::Result<bool> {
        self.inner.is_locked()
    }

    fn set_ready(&self) -> io::Result<()> {
        self.call(Kind::Lock, || Ok(()), || self.inner.set_ready())
    }

    fn is_ready(&self) -> io::Result<bool> {
        self.inner.is_ready()
    }

    fn overwrites_in_place(&self) -> bool {
        self.inner.overwrites_in_place()
    }

    fn pause(&self) {
        self.inner.pause();
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.random(bytes)
    }
}
