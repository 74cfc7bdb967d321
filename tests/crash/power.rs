//! What a power cut can leave.
//!
//! Each sector of 512 bytes that was not synced holds any content that it had since it was: that before the first change
//! (zeros where there was none), or that after any of them, where a store through the map makes each word a change of
//! its own. Each sector, each file's length and each name are apart from all others; so is the place of a page that was
//! allocated and not synced. A ranged sync makes its range durable and nothing else. Where the images are few all of
//! them are built, else some are drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blobpack::format::Offset;
use blobpack::medium::{Action, SimDirectory, Step};

use super::decide::{Decider, Exhaustive};
pub use super::decide::{MOODS, Mood};
use super::history::FILE_BYTES_MAX;
use super::model::Random;

pub const SECTOR: u64 = 512;
const PAGE: u64 = 4096;

/// The bytes of a sector, and a hash of them. Zeros are `None`, with the hash 0.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    bytes: Option<Arc<[u8; SECTOR as usize]>>,
    hash: u64,
}

impl Content {
    fn new(bytes: [u8; SECTOR as usize]) -> Content {
        if bytes == [0; SECTOR as usize] {
            return Content::default();
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        Content { bytes: Some(Arc::new(bytes)), hash: hasher.finish() }
    }

    pub fn bytes(&self) -> [u8; SECTOR as usize] {
        self.bytes.as_ref().map_or([0; SECTOR as usize], |bytes| **bytes)
    }
}

/// What an unsynced sector may hold.
#[derive(Clone)]
struct Unsynced {
    /// The durable content first, that of now last.
    versions: Vec<Content>,
    /// Whether a sync writes it. After a sync that failed none does, until it is changed again.
    dirty: bool,
    /// The step that changed it last.
    step: u64,
}

#[derive(Clone, Default)]
struct File {
    /// As programs see it; what is missing is zeros.
    now: BTreeMap<u64, Content>,
    unsynced: BTreeMap<u64, Unsynced>,
    length: u64,
    /// The length that a power cut can't take back.
    synced_length: u64,
    /// Lengths between the two.
    lengths: BTreeSet<u64>,
    /// Pages that have a place on the disk, and those that will have it after a power cut.
    placed: BTreeSet<u64>,
    synced_places: BTreeSet<u64>,
}

impl File {
    fn grow(&mut self, length: u64) {
        if self.length < length {
            self.length = length;
            self.lengths.insert(length);
        }
    }

    fn content(&self, sector: u64) -> Content {
        self.now.get(&sector).cloned().unwrap_or_default()
    }

    fn put(&mut self, sector: u64, content: Content) {
        if content.bytes.is_some() {
            self.now.insert(sector, content);
        } else {
            self.now.remove(&sector);
        }
    }

    /// Changes some bytes of one sector.
    fn change(&mut self, sector: u64, at: usize, bytes: &[u8], step: u64) {
        let before = self.content(sector);
        let mut after = before.bytes();
        after[at..at + bytes.len()].copy_from_slice(bytes);
        let after = Content::new(after);
        if let Some(unsynced) = self.unsynced.get_mut(&sector) {
            (unsynced.dirty, unsynced.step) = (true, step);
            if unsynced.versions.last() != Some(&after) {
                unsynced.versions.push(after.clone());
            }
        } else if before != after {
            self.unsynced.insert(sector, Unsynced { versions: vec![before, after.clone()], dirty: true, step });
        }
        self.put(sector, after);
    }

    fn write(&mut self, at: u64, bytes: &[u8], step: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let here = at + done as u64;
            let inside = (here % SECTOR) as usize;
            let count = (bytes.len() - done).min(SECTOR as usize - inside);
            self.change(here / SECTOR, inside, &bytes[done..done + count], step);
            done += count;
        }
        self.allocate(at, bytes.len() as u64);
    }

    fn allocate(&mut self, at: u64, length: u64) {
        if length > 0 {
            self.placed.extend(at / PAGE..(at + length).div_ceil(PAGE));
            self.grow(at + length);
        }
    }

    fn punch(&mut self, at: u64, length: u64, step: u64) {
        let end = (at + length).min(self.length);
        let there: Vec<u64> = self.now.range(at / SECTOR..end.div_ceil(SECTOR)).map(|(sector, _)| *sector).collect();
        for sector in there {
            let from = at.max(sector * SECTOR);
            let to = end.min((sector + 1) * SECTOR);
            self.change(sector, (from % SECTOR) as usize, &vec![0; (to - from) as usize], step);
        }
        let whole = at.div_ceil(PAGE)..(at + length) / PAGE;
        self.placed.retain(|page| !whole.contains(page));
    }

    fn sync(&mut self, at: u64, length: u64) {
        let end = at.saturating_add(length).min(self.length);
        if at >= end {
            return;
        }
        let inside: Vec<u64> = (self.unsynced.range(at / SECTOR..end.div_ceil(SECTOR)))
            .filter(|(_, unsynced)| unsynced.dirty)
            .map(|(sector, _)| *sector)
            .collect();
        for sector in inside {
            self.unsynced.remove(&sector);
        }
        self.synced_length = self.synced_length.max(end);
        self.lengths.retain(|length| *length > end);
        let pages = at / PAGE..end.div_ceil(PAGE);
        self.synced_places.retain(|page| !pages.contains(page) || self.placed.contains(page));
        self.synced_places.extend(self.placed.range(pages));
    }

    /// The lengths that a power cut may leave, the durable one first.
    fn possible_lengths(&self) -> Vec<u64> {
        let later = self.lengths.iter().copied().filter(|length| *length > self.synced_length);
        std::iter::once(self.synced_length).chain(later).collect()
    }

    fn image(&self, decide: &mut Decider<'_>, step: u64) -> FileImage {
        let mut sectors = self.now.clone();
        for (sector, unsynced) in &self.unsynced {
            let version = &unsynced.versions[decide.one_of(unsynced.versions.len(), unsynced.step == step)];
            if version.bytes.is_some() {
                sectors.insert(*sector, version.clone());
            } else {
                sectors.remove(sector);
            }
        }
        let lengths = self.possible_lengths();
        let chosen = decide.one_of(lengths.len(), true);
        let length = lengths[chosen];
        sectors.split_off(&length.div_ceil(SECTOR));
        let last = length / SECTOR;
        if !length.is_multiple_of(SECTOR)
            && let Some(content) = sectors.get_mut(&last)
        {
            let mut bytes = content.bytes();
            bytes[(length % SECTOR) as usize..].fill(0);
            *content = Content::new(bytes);
        }
        // The place of what was not synced is kept or lost as a whole; it does not change what is read.
        let places = if decide.random.below(2) == 0 { &self.placed } else { &self.synced_places };
        let places = places.range(..length.div_ceil(PAGE)).copied().collect();
        FileImage { sectors, places, length }
    }
}

/// A directory that a power cut can leave.
#[derive(Clone)]
pub struct Image {
    names: BTreeMap<PathBuf, u64>,
    files: BTreeMap<u64, FileImage>,
}

#[derive(Clone)]
struct FileImage {
    sectors: BTreeMap<u64, Content>,
    places: Vec<u64>,
    length: u64,
}

impl Image {
    /// Of names, lengths and bytes.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, number) in &self.names {
            let file = &self.files[number];
            (name, file.length).hash(&mut hasher);
            for (sector, content) in &file.sectors {
                (sector, content.hash).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// The directory, after another boot.
    pub fn directory(&self) -> SimDirectory {
        let mut steps = Vec::new();
        for (number, file) in &self.files {
            let names = self.names.iter().filter(|(_, file)| *file == number).map(|(name, _)| name.clone()).collect();
            let mut push = |action| steps.push(Step { file: *number, action });
            push(Action::Insert { names, bytes: Vec::new() });
            let sectors: Vec<(&u64, &Content)> = file.sectors.iter().collect();
            for run in sectors.chunk_by(|a, b| a.0 + 1 == *b.0) {
                let offset = run[0].0 * SECTOR;
                let mut bytes: Vec<u8> = Vec::with_capacity(run.len() * SECTOR as usize);
                run.iter().for_each(|(_, content)| bytes.extend_from_slice(&content.bytes()));
                bytes.truncate((file.length - offset) as usize);
                push(Action::Write { offset: Offset(offset), bytes, durable: true });
            }
            for run in file.places.chunk_by(|a, b| a + 1 == *b) {
                let (offset, end) = (run[0] * PAGE, (run[run.len() - 1] + 1) * PAGE);
                push(Action::Allocate { offset: Offset(offset), length: end.min(file.length) - offset });
            }
            if file.length > 0 {
                push(Action::Allocate { offset: Offset(file.length - 1), length: 1 });
            }
        }
        SimDirectory::replay(&steps, steps.len(), FILE_BYTES_MAX)
    }
}

/// A step without its bytes, for messages.
pub fn described(step: &Step) -> String {
    match &step.action {
        Action::Write { offset, bytes, durable } => format!("Write {offset} +{} durable: {durable}", bytes.len()),
        Action::Store { offset, words } => format!("Store {offset} +{}", 8 * words.len()),
        action => format!("{action:?}"),
    }
}

/// All files of a directory, with what of them is durable.
#[derive(Clone, Default)]
pub struct Power {
    files: BTreeMap<u64, File>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// What each name that was changed since has led to, that before the first change included.
    changed_names: BTreeMap<PathBuf, Vec<Option<u64>>>,
    /// The steps so far.
    step: u64,
}

impl Power {
    /// A disk that holds just this, all of it durable.
    pub fn of(image: &Image) -> Power {
        let file = |file: &FileImage| {
            let pages = file.sectors.keys().map(|sector| sector * SECTOR / PAGE).chain(file.places.iter().copied());
            let placed: BTreeSet<u64> = pages.chain(file.length.checked_sub(1).map(|last| last / PAGE)).collect();
            File {
                now: file.sectors.clone(),
                length: file.length,
                synced_length: file.length,
                synced_places: placed.clone(),
                placed,
                ..File::default()
            }
        };
        Power {
            files: image.files.iter().map(|(number, image)| (*number, file(image))).collect(),
            names: image.names.clone(),
            durable_names: image.names.clone(),
            ..Power::default()
        }
    }

    /// Makes a step, all of it.
    pub fn make(&mut self, step: &Step) {
        self.begin(step);
        self.end(step);
    }

    /// Makes a step but for its syncs, which the cut came before.
    pub fn begin(&mut self, step: &Step) {
        self.step += 1;
        let now = self.step;
        let file = self.files.entry(step.file).or_default();
        match &step.action {
            Action::Insert { names, bytes } => {
                file.write(0, bytes, now);
                for name in names {
                    self.rename(name, Some(step.file));
                }
            }
            Action::Write { offset, bytes, .. } => file.write(offset.0, bytes, now),
            Action::Store { offset, words } => {
                // The first word comes last; the page may be written back between any two.
                for (number, word) in words.iter().enumerate().skip(1).chain(words.iter().enumerate().take(1)) {
                    let at = offset.0 + 8 * number as u64;
                    file.change(at / SECTOR, (at % SECTOR) as usize, &word.to_le_bytes(), now);
                }
            }
            Action::Allocate { offset, length } => file.allocate(offset.0, *length),
            Action::Punch { offset, length } => file.punch(offset.0, *length, now),
            Action::Publish { name, .. } => self.rename(name, Some(step.file)),
            Action::Remove { name } => self.rename(name, None),
            Action::Create
            | Action::SyncRange { .. }
            | Action::SyncAll
            | Action::SyncDirectory
            | Action::Lock
            | Action::Unlock => {}
        }
    }

    /// The syncs of a step.
    pub fn end(&mut self, step: &Step) {
        let file = self.files.entry(step.file).or_default();
        match &step.action {
            Action::Write { offset, bytes, durable: true } => file.sync(offset.0, bytes.len() as u64),
            Action::SyncRange { offset, length } => file.sync(offset.0, *length),
            Action::SyncAll => file.sync(0, u64::MAX),
            Action::SyncDirectory => self.sync_names(),
            Action::Insert { .. } => {
                file.sync(0, u64::MAX);
                self.sync_names();
            }
            _ => {}
        }
    }

    /// A sync of a range fails: no later one writes what it should have written. Returns the sectors and what each may
    /// hold on the disk.
    pub fn fail_sync(&mut self, file: u64, at: u64, length: u64) -> Vec<(u64, Vec<Content>)> {
        let file = self.files.entry(file).or_default();
        let end = at.saturating_add(length).min(file.length);
        let inside = file.unsynced.range_mut(at / SECTOR..end.div_ceil(SECTOR).max(at / SECTOR));
        let mut failed = Vec::new();
        for (sector, unsynced) in inside {
            if std::mem::take(&mut unsynced.dirty) {
                failed.push((*sector, unsynced.versions.clone()));
            }
        }
        failed
    }

    /// The page cache has read a sector again, after a sync that failed. A power cut may leave older bytes than the disk
    /// gave then, but no newer ones.
    pub fn revert(&mut self, file: u64, sector: u64, content: Content) {
        let file = self.files.entry(file).or_default();
        if let Some(unsynced) = file.unsynced.get_mut(&sector)
            && let Some(at) = unsynced.versions.iter().position(|version| *version == content)
        {
            unsynced.versions.truncate(at + 1);
        }
        file.put(sector, content);
    }

    fn rename(&mut self, name: &Path, file: Option<u64>) {
        let before = self.names.get(name).copied();
        self.changed_names.entry(name.into()).or_insert_with(|| vec![before]).push(file);
        match file {
            Some(file) => self.names.insert(name.into(), file),
            None => self.names.remove(name),
        };
    }

    fn sync_names(&mut self) {
        self.durable_names = self.names.clone();
        self.changed_names.clear();
    }

    /// How many images there are, at most; those about what the last step changed.
    fn counts(&self) -> (u64, u64) {
        let (mut all, mut last) = (1u64, 1u64);
        for versions in self.changed_names.values() {
            all = all.saturating_mul(versions.len() as u64);
            last = last.saturating_mul(versions.len() as u64);
        }
        let reached: BTreeSet<u64> = (self.durable_names.values().copied())
            .chain(self.changed_names.values().flatten().flatten().copied())
            .collect();
        for file in reached.iter().filter_map(|number| self.files.get(number)) {
            for unsynced in file.unsynced.values() {
                let count = unsynced.versions.len() as u64;
                all = all.saturating_mul(count);
                if unsynced.step == self.step {
                    last = last.saturating_mul(count);
                }
            }
            let count = file.possible_lengths().len() as u64;
            (all, last) = (all.saturating_mul(count), last.saturating_mul(count));
        }
        (all, last)
    }

    fn image(&self, decide: &mut Decider<'_>) -> Image {
        let mut names = self.durable_names.clone();
        for (name, versions) in &self.changed_names {
            match versions[decide.one_of(versions.len(), true)] {
                Some(file) => names.insert(name.clone(), file),
                None => names.remove(name),
            };
        }
        let reached: BTreeSet<u64> = names.values().copied().collect();
        let files = reached.into_iter().map(|number| (number, self.files[&number].image(decide, self.step))).collect();
        Image { names, files }
    }

    /// All images, if they are no more than `budget`; else all of what the last step changed, if these are no more; else
    /// as many as `budget`, drawn. Returns whether it was all.
    pub fn images(&self, random: &mut Random, budget: u64, mut each: impl FnMut(Image, Mood)) -> bool {
        let (all, last) = self.counts();
        let exhaustive = match () {
            () if all <= budget => Exhaustive::All,
            () if last <= budget => Exhaustive::OfLastStep,
            () => Exhaustive::None,
        };
        let first = random.below(MOODS.len());
        let mut decide = Decider::new(random, exhaustive);
        for number in 0.. {
            decide.mood = MOODS[(first + number) % MOODS.len()];
            each(self.image(&mut decide), decide.mood);
            let more = decide.turn();
            if exhaustive == Exhaustive::All && !more || exhaustive != Exhaustive::All && number as u64 + 1 >= budget {
                break;
            }
        }
        exhaustive == Exhaustive::All
    }

    /// One of the directories that a power cut can leave.
    pub fn cut(&self, random: &mut Random, mood: Mood) -> SimDirectory {
        let mut decide = Decider::new(random, Exhaustive::None);
        decide.mood = mood;
        self.image(&mut decide).directory()
    }

    /// What programs see, as if it were all durable.
    pub fn now(&self) -> Image {
        let file = |number: &u64| {
            let file = &self.files[number];
            let places = file.placed.iter().copied().collect();
            (*number, FileImage { sectors: file.now.clone(), places, length: file.length })
        };
        Image { names: self.names.clone(), files: self.names.values().map(file).collect() }
    }
}

#[path = "power_tests.rs"]
mod tests;
