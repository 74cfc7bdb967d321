//! What the fuzzer runs, on the inputs that are committed: seeds, and what it found.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

#[path = "../fuzz/bodies/digest_string.rs"]
mod digest_string;
#[path = "../fuzz/bodies/frame_scan.rs"]
mod frame_scan;
#[path = "../fuzz/bodies/image.rs"]
mod image;
#[cfg(feature = "oci")]
#[path = "../fuzz/bodies/image_source.rs"]
mod image_source;
#[path = "../fuzz/bodies/operations_model.rs"]
mod operations_model;
#[path = "../fuzz/bodies/pack_bytes.rs"]
mod pack_bytes;
#[path = "../fuzz/bodies/pack_fields.rs"]
mod pack_fields;

/// No input takes more memory than this.
const MEMORY_MAX: usize = 256 << 20;
/// Nor more of a processor's time, in all ways together; what other threads do for it is not counted.
const SECONDS_MAX: f64 = 2.0;
/// Nor does it wait so long, on any machine.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Counts the memory that each thread has, and the most that it had.
struct Counting;

thread_local! {
    static MEMORY: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn count(more: usize, less: usize) {
    // A thread that ends gives back what it has without being counted any more.
    let _ = MEMORY.try_with(|memory| {
        let (now, most) = memory.get();
        let now = now.saturating_add(more).saturating_sub(less);
        memory.set((now, most.max(now)));
    });
}

#[allow(unsafe_code, reason = "an allocator that counts")]
// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What something takes of this thread's time.
struct Clock {
    begun: Instant,
    used: f64,
}

impl Clock {
    fn start() -> Clock {
        Clock { begun: Instant::now(), used: Clock::used() }
    }

    fn used() -> f64 {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    }

    fn check(&self, what: &str) {
        let used = Clock::used() - self.used;
        assert!(used < SECONDS_MAX, "{what}: {used:.1} seconds of a processor");
        assert!(self.begun.elapsed() < WAIT_MAX, "{what}: {:?}", self.begun.elapsed());
    }
}

/// Runs a body on all inputs of its target, and says their names: a panic's is the last. None may take long or much.
fn on_corpus(target: &str, body: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{target} has no corpus");
    for input in inputs {
        println!("{}", input.display());
        let bytes = std::fs::read(&input).unwrap();
        MEMORY.set((0, 0));
        let clock = Clock::start();
        body(&bytes);
        let (_, most) = MEMORY.get();
        assert!(most <= MEMORY_MAX, "{}: {most} bytes of memory", input.display());
        clock.check(&input.display().to_string());
    }
}

#[test]
fn any_bytes_as_a_pack_are_at_worst_an_error() {
    on_corpus("pack_bytes", pack_bytes::run_in_every_way);
}

#[test]
fn any_words_of_a_pack_are_at_worst_an_error() {
    on_corpus("pack_fields", pack_fields::run_in_every_way);
}

#[test]
fn any_bytes_are_walked_as_frames_to_their_end() {
    on_corpus("frame_scan", frame_scan::run);
}

#[test]
fn any_text_is_a_digest_in_its_one_spelling_or_none() {
    on_corpus("digest_string", digest_string::run);
}

#[test]
fn any_operations_do_what_a_model_does() {
    on_corpus("operations_model", operations_model::run);
}

#[cfg(feature = "oci")]
#[test]
fn any_archive_is_a_whole_image_or_none() {
    on_corpus("image_source", image_source::run);
}

/// A seed that the format has left behind would be refused at once, and test nothing.
#[test]
fn the_seeds_are_packs_of_this_format() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/pack_bytes");
    for (seed, blobs) in
        [("empty", 0), ("some_blobs", 6), ("tiny_segments", 30), ("checkpointed", 13), ("compacted", 13)]
    {
        for name in [seed.to_owned(), format!("{seed}_sealed")] {
            let directory = blobpack::medium::SimDirectory::new(16 << 20);
            directory.insert("blobs.pack", image::decode(&std::fs::read(corpus.join(&name)).unwrap()));
            let medium = directory.open("blobs.pack", true).unwrap();
            let opened = blobpack::Store::options().open_in(medium, blobpack::store::How::Open);
            let store = opened.unwrap_or_else(|error| panic!("{name}: {error}")).unwrap();
            assert_eq!(store.stats().unwrap().blobs, blobs, "{name}");
            assert_eq!(store.verify().unwrap().damage, [], "{name}");
        }
    }
}

/// Everything is looked for where data is, and what a superblock or a chunk claims to have is not believed.
#[test]
fn a_sparse_file_as_long_as_can_be_costs_neither_time_nor_memory_nor_disk() {
    use blobpack::format::{Kind, SUPERBLOCKS_AT, Superblock};
    use std::os::unix::fs::MetadataExt;
    use zerocopy::{FromBytes, IntoBytes};
    const DISK_MAX: u64 = 64 << 20;
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/pack_bytes");
    // A memory file system takes longer files than others.
    let places = ["/dev/shm".into(), std::env::temp_dir()].into_iter().filter(|place| place.is_dir());
    let places: Vec<_> = places.filter_map(|place| tempfile::tempdir_in(place).ok()).collect();
    for (seed, claims) in [("base_killed_large", false), ("base_killed_large", true), ("base_closed_small", true)] {
        let sound = image::decode(&std::fs::read(corpus.join(seed)).unwrap());
        for place in &places {
            let path = place.path().join("sparse");
            std::fs::write(&path, &sound).unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            let longest = (40..63).rev().map(|shift| (1_u64 << shift) - 4096).find(|&long| file.set_len(long).is_ok());
            let Some(longest) = longest else { continue };
            if claims {
                let mut bytes = sound.clone();
                for at in SUPERBLOCKS_AT.map(|at| at.0 as usize) {
                    let (mut superblock, _) = Superblock::read_from_prefix(&bytes[at..]).unwrap();
                    superblock.end.set(longest);
                    superblock.depth.set(30);
                    bytes[at..at + size_of::<Superblock>()].copy_from_slice(superblock.as_bytes());
                }
                for at in (256 << 10..bytes.len()).step_by(64) {
                    if bytes[at..at + 8] == sound[32..40] && bytes[at + 8] == Kind::Chunk as u8 {
                        bytes[at + 48..at + 56].copy_from_slice(&(longest & !0xffff).to_le_bytes());
                    }
                }
                image::seal(&mut bytes);
                std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
            }
            MEMORY.set((0, 0));
            let clock = Clock::start();
            let used = || std::fs::metadata(&path).unwrap().blocks() * 512;
            let before = used();
            let handled = |opened: blobpack::Result<blobpack::Store>| {
                let Ok(store) = opened else { return };
                let _ = (store.list().count(), store.verify(), store.put(b"one more"), store.stats());
            };
            let options = blobpack::Store::options();
            handled(options.clone().read_only(true).open(&path));
            handled(options.open(&path));
            handled(options.repair(&path));
            handled(options.rebuild(&path));
            assert!(blobpack::inspect(&path).unwrap().count() > 3);
            let (_, most) = MEMORY.get();
            let context = format!("{seed} of {longest} bytes in {}", path.display());
            assert!(most <= MEMORY_MAX, "{context}: {most} bytes of memory");
            assert!(used() < before + DISK_MAX, "{context}: {} bytes of the disk", used());
            clock.check(&context);
            std::fs::remove_file(&path).unwrap();
        }
    }
}
