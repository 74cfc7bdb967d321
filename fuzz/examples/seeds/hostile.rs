//! Packs that somebody has made to hurt: all checksums are right, and nothing that they cover can be believed.

use blobpack::format::{CHUNK_ALIGN, Entry, Frame, Kind, Offset, SPACE_AT, SUPERBLOCKS_AT};

use super::image;

/// A pack's bytes, and what is where.
pub struct Pack {
    pub bytes: Vec<u8>,
    marker: u64,
}

/// Names and bytes of packs made from a sound one.
pub fn packs(sound: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut made = Vec::new();
    let mut make = |name: String, change: &dyn Fn(&mut Pack)| {
        let marker = u64::from_le_bytes(*sound[32..].first_chunk().expect("a pack has a head"));
        let mut pack = Pack { bytes: sound.to_vec(), marker };
        change(&mut pack);
        image::seal(&mut pack.bytes);
        made.push((format!("hostile_{name}"), pack.bytes));
    };
    let most = [("most", u64::MAX), ("aligned", u64::MAX - 63), ("far", (64 << 40) - 4096)];
    let fields = [("end", 232), ("chunk", 240), ("chunk_end", 248), ("tail", 256), ("commit", 264), ("directory", 280)];
    for (value_name, value) in most {
        for (name, at) in fields.into_iter().chain([("run", 296)]) {
            make(format!("superblock_{name}_{value_name}"), &|pack| pack.set_superblocks(at, value));
        }
        // Where the next commit, chunk, region or payload is; how many images, publications, bytes.
        let frames = [
            ("commit_previous", Kind::Commit, 40),
            ("commit_length", Kind::Commit, 24),
            ("commit_images", Kind::Commit, 64 + 16),
            ("commit_published", Kind::Commit, 64 + 24),
            ("commit_durable", Kind::Commit, 64 + 8),
            ("blob_length", Kind::Blob, 24),
            ("chunk_length", Kind::Chunk, 48),
            ("chunk_previous", Kind::Chunk, 40),
            ("jump_target", Kind::Jump, 40),
            ("run_previous", Kind::Run, 32),
            ("run_bytes", Kind::Run, 40),
            ("run_count", Kind::Run, 48),
            ("name_length", Kind::Name, 24),
        ];
        for (name, kind, at) in frames {
            make(format!("{name}_{value_name}"), &|pack| pack.set_frames(kind, at, value));
        }
        for word in 1..7 {
            make(format!("records_{word}_{value_name}"), &|pack| {
                pack.each_record(&|record| put(record, 8 * word, value))
            });
        }
    }
    make("depth".into(), &|pack| pack.set_superblocks(288, 40));
    make("slots".into(), &|pack| {
        SUPERBLOCKS_AT.iter().for_each(|at| put32(&mut pack.bytes, at.0 as usize + 276, 16383))
    });
    make("circle_of_commits".into(), &|pack| {
        for frame in pack.of_kind(Kind::Commit) {
            put(&mut pack.bytes, frame + 40, frame as u64);
        }
    });
    make("circle_of_runs".into(), &|pack| {
        for frame in pack.of_kind(Kind::Run) {
            put(&mut pack.bytes, frame + 32, frame as u64);
        }
    });
    make("circle_of_jumps".into(), &|pack| pack.set_frames(Kind::Jump, 40, SPACE_AT.0));
    // A link whose neighbours are itself; a name likewise.
    make("circles_in_lists".into(), &|pack| {
        pack.each_record(&|record| match record[60] {
            5 => {
                let (from, to) = (get(record, 8), get(record, 16));
                for (at, id) in [(24, to), (32, to), (40, from), (48, from)] {
                    put(record, at, id);
                }
            }
            7 => {
                let (tag, id) = (get(record, 0), get(record, 8));
                for (at, value) in [(24, id), (32, id), (40, tag), (48, tag)] {
                    put(record, at, value);
                }
            }
            _ => {}
        });
    });
    make("counts".into(), &|pack| {
        pack.each_record(&|record| {
            if record[60] == 1 {
                put(record, 24, u64::MAX);
                put(record, 48, u64::MAX);
            }
        });
    });
    make("full_segments".into(), &|pack| {
        for (at, slots) in pack.segments() {
            let full = (1..=slots).find(|slot| get(&pack.bytes, at + 64 * slot) > 1);
            for slot in 1..=slots {
                let from = at + 64 * full.unwrap_or(slot);
                pack.bytes.copy_within(from..from + 64, at + 64 * slot);
            }
        }
    });
    make("one_tag".into(), &|pack| pack.each_record(&|record| put(record, 0, 0x1234_5678_9abc_def0)));
    let places = [
        ("head", 0),
        ("superblock", 64 << 10),
        ("log", SPACE_AT.0),
        ("end", sound.len() as u64 - 4096),
        ("far", 63 << 40),
    ];
    for (name, to) in places {
        make(format!("entries_to_{name}"), &|pack| pack.set_entries(to));
    }
    make("overlapping_extents".into(), &|pack| {
        let first = pack.of_kind(Kind::Blob)[0] as u64;
        pack.each_record(&|record| {
            if record[60] == 1 {
                put(record, 8, first);
                put(record, 16, 1 << 18);
            }
        });
    });
    make("nonsense_in_records".into(), &|pack| {
        pack.each_record(&|record| {
            let mut state = get(record, 0) | 1;
            for word in 1..7 {
                state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ state >> 7;
                put(record, 8 * word, state);
            }
        });
    });
    make("nonsense_in_commits".into(), &|pack| {
        for frame in pack.of_kind(Kind::Commit) {
            let end = frame + 64 + get(&pack.bytes, frame + 24) as usize;
            for (number, byte) in pack.bytes[frame + 64..end].iter_mut().enumerate() {
                *byte = (number * 37) as u8;
            }
        }
    });
    make("frames_in_payloads".into(), &|pack| pack.forge_inside_payloads());
    made
}

impl Pack {
    fn of_kind(&self, kind: Kind) -> Vec<usize> {
        (SPACE_AT.0 as usize..self.bytes.len() - 128)
            .step_by(64)
            .filter(|&at| {
                let frame = Frame::parse(&self.bytes[at..at + 128], self.marker, Offset(at as u64));
                frame.is_some_and(|frame| frame.kind == kind)
            })
            .collect()
    }

    fn set_superblocks(&mut self, at: usize, value: u64) {
        for copy in SUPERBLOCKS_AT {
            let at = copy.0 as usize + at;
            if at % 65536 == 288 { put32(&mut self.bytes, at, value as u32) } else { put(&mut self.bytes, at, value) }
        }
    }

    fn set_frames(&mut self, kind: Kind, field: usize, value: u64) {
        for at in self.of_kind(kind) {
            put(&mut self.bytes, at + field, value);
        }
    }

    /// Each live segment of the newest index, with its slots.
    fn segments(&self) -> Vec<(usize, usize)> {
        let newest = SUPERBLOCKS_AT.map(|at| at.0 as usize).into_iter().max_by_key(|at| get(&self.bytes, at + 192));
        let newest = newest.expect("there are two");
        let (directory, depth) = (get(&self.bytes, newest + 280) as usize, get(&self.bytes, newest + 288) as u32);
        let slots = (get(&self.bytes, newest + 272) >> 32) as usize;
        let entries = (0..1 << depth).map(|index| Entry::unpack(get(&self.bytes, directory + 8 * index)));
        entries.map(|entry| (entry.segment.0 as usize, slots)).collect()
    }

    fn set_entries(&mut self, to: u64) {
        for copy in SUPERBLOCKS_AT {
            let at = copy.0 as usize;
            let (directory, depth) = (get(&self.bytes, at + 280) as usize, get(&self.bytes, at + 288) as u32);
            for index in 0..1 << depth {
                let entry = get(&self.bytes, directory + 8 * index);
                put(&mut self.bytes, directory + 8 * index, ((to / 4096) << 24) | (entry & 0xff_ffff));
            }
        }
    }

    /// The records of the index, and the images in commits.
    fn each_record(&mut self, change: &dyn Fn(&mut [u8])) {
        for (segment, slots) in self.segments() {
            for slot in 1..=slots {
                let at = segment + 64 * slot;
                if get(&self.bytes, at) > 1 {
                    change(&mut self.bytes[at..at + 64]);
                }
            }
        }
        for frame in self.of_kind(Kind::Commit) {
            for image in 0..get(&self.bytes, frame + 80) as usize {
                let at = frame + 192 + 64 * image;
                change(&mut self.bytes[at..at + 64]);
            }
        }
    }

    /// Copies of a commit, a jump and a chunk frame, put right for where they stand, in the middle of payloads.
    fn forge_inside_payloads(&mut self) {
        let kinds = [Kind::Commit, Kind::Jump, Kind::Chunk];
        let models = kinds.map(|kind| self.of_kind(kind).last().copied().map(|at| self.bytes[at..at + 256].to_vec()));
        for blob in self.of_kind(Kind::Blob) {
            let (payload, length) = (blob + 64, get(&self.bytes, blob + 24) as usize);
            let chunk_place = payload.next_multiple_of(CHUNK_ALIGN as usize);
            for (number, model) in models.iter().flatten().enumerate() {
                let at = if number == 2 { chunk_place } else { payload + 64 + 1024 * number };
                if at + 256 <= payload + length {
                    self.bytes[at..at + 256].copy_from_slice(model);
                    put(&mut self.bytes, at + 16, at as u64);
                    put(&mut self.bytes, at + 72, u64::MAX);
                }
            }
        }
    }
}

fn get(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("it lies inside"))
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
