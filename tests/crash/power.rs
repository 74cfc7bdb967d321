//! What a power cut can leave: each sector of 512 bytes that was not synced holds any version that it had since it was,
//! each name and length an old or a new one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use blobpack::medium::{Action, SimDirectory, Step};

use crate::history::FILE_BYTES_MAX;
use crate::model::Random;

const SECTOR: usize = 512;
type Sector = [u8; SECTOR];

#[derive(Clone, Default)]
struct File {
    /// As programs see it.
    now: Vec<u8>,
    /// The versions of each sector since it was synced, the synced one first. The last is that of `now`.
    unsynced: BTreeMap<usize, Vec<Sector>>,
    /// The length that a power cut can't take back.
    length: usize,
}

impl File {
    fn grow(&mut self, length: usize) {
        if self.now.len() < length {
            self.now.resize(length, 0);
        }
    }

    fn sector(&self, number: usize) -> Sector {
        let mut sector = [0; SECTOR];
        let start = number * SECTOR;
        let end = self.now.len().min(start + SECTOR);
        if start < end {
            sector[..end - start].copy_from_slice(&self.now[start..end]);
        }
        sector
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let sectors = at / SECTOR..(at + bytes.len()).div_ceil(SECTOR);
        for number in sectors.clone() {
            let before = self.sector(number);
            self.unsynced.entry(number).or_insert_with(|| vec![before]);
        }
        self.grow(at + bytes.len());
        self.now[at..at + bytes.len()].copy_from_slice(bytes);
        for number in sectors {
            let after = self.sector(number);
            self.unsynced.get_mut(&number).unwrap().push(after);
        }
    }

    fn sync(&mut self, at: usize, length: usize) {
        let end = at.saturating_add(length).min(self.now.len());
        if at < end {
            let inside: Vec<usize> = self.unsynced.range(at / SECTOR..end.div_ceil(SECTOR)).map(|(n, _)| *n).collect();
            for number in inside {
                self.unsynced.remove(&number);
            }
            self.length = self.length.max(end);
        }
    }

    fn after_cut(&self, random: &mut Random, mood: Mood) -> Vec<u8> {
        let mut bytes = self.now.clone();
        for (&number, versions) in &self.unsynced {
            let last = versions.len() - 1;
            let keep = match mood {
                Mood::Old => 0,
                Mood::New => last,
                Mood::Any => random.below(last + 1),
                Mood::MostlyOld => {
                    if random.below(8) == 0 {
                        random.below(last + 1)
                    } else {
                        0
                    }
                }
                Mood::MostlyNew => {
                    if random.below(8) == 0 {
                        random.below(last + 1)
                    } else {
                        last
                    }
                }
            };
            let start = number * SECTOR;
            let end = bytes.len().min(start + SECTOR);
            bytes[start..end].copy_from_slice(&versions[keep][..end - start]);
        }
        let length = match mood {
            Mood::Old => self.length,
            Mood::New => self.now.len(),
            _ => match random.below(3) {
                0 => self.length,
                1 => self.now.len(),
                _ => self.length + random.below(self.now.len() - self.length + 1),
            },
        };
        bytes.truncate(length);
        bytes
    }
}

/// How much of what was not synced a power cut keeps.
#[derive(Clone, Copy, Debug)]
pub enum Mood {
    Old,
    New,
    Any,
    MostlyOld,
    MostlyNew,
}

pub const MOODS: [Mood; 5] = [Mood::Old, Mood::MostlyOld, Mood::Any, Mood::MostlyNew, Mood::New];

/// All files of a directory, with what of them is durable.
#[derive(Clone, Default)]
pub struct Power {
    files: BTreeMap<u64, File>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
}

impl Power {
    /// Makes a step, all of it.
    pub fn make(&mut self, step: &Step) {
        self.begin(step);
        let file = self.files.entry(step.file).or_default();
        match &step.action {
            Action::Write { offset, bytes, durable: true } => file.sync(offset.0 as usize, bytes.len()),
            Action::SyncRange { offset, length } => file.sync(offset.0 as usize, *length as usize),
            Action::SyncAll => file.sync(0, usize::MAX),
            Action::SyncDirectory => self.durable_names = self.names.clone(),
            Action::Insert { .. } => {
                file.sync(0, usize::MAX);
                self.durable_names = self.names.clone();
            }
            _ => {}
        }
    }

    /// Makes a step but for its syncs, which the cut came before.
    pub fn begin(&mut self, step: &Step) {
        let file = self.files.entry(step.file).or_default();
        match &step.action {
            Action::Insert { names, bytes } => {
                file.write(0, bytes);
                self.names.extend(names.iter().map(|name| (name.clone(), step.file)));
            }
            Action::Write { offset, bytes, .. } => file.write(offset.0 as usize, bytes),
            Action::Store { offset, words } => {
                let at = offset.0 as usize;
                // The first word comes last; the page may be written back between any two.
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                if bytes.len() > 8 {
                    let middle = 8 + (bytes.len() - 8) / 16 * 8;
                    file.write(at + 8, &bytes[8..middle]);
                    file.write(at + middle, &bytes[middle..]);
                }
                if !bytes.is_empty() {
                    file.write(at, &bytes[..8]);
                }
            }
            Action::Allocate { offset, length } => file.grow((offset.0 + length) as usize),
            Action::Punch { offset, length } => {
                let end = ((offset.0 + length) as usize).min(file.now.len());
                if (offset.0 as usize) < end {
                    file.write(offset.0 as usize, &vec![0; end - offset.0 as usize]);
                }
            }
            Action::Publish { name, .. } => drop(self.names.insert(name.clone(), step.file)),
            Action::Remove { name } => drop(self.names.remove(name)),
            Action::Create
            | Action::SyncRange { .. }
            | Action::SyncAll
            | Action::SyncDirectory
            | Action::Lock
            | Action::Unlock => {}
        }
    }

    /// One of the directories that a power cut can leave.
    pub fn cut(&self, random: &mut Random, mood: Mood) -> SimDirectory {
        let names = match mood {
            Mood::Old => &self.durable_names,
            Mood::New => &self.names,
            _ => {
                if random.below(2) == 0 {
                    &self.names
                } else {
                    &self.durable_names
                }
            }
        };
        let directory = SimDirectory::new(FILE_BYTES_MAX);
        for (name, number) in names {
            directory.insert(name, self.files[number].after_cut(random, mood));
        }
        directory
    }
}
