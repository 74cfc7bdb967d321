//! What several tests need: contents, copies of files, stores in memory.
#![allow(dead_code, reason = "each test program uses some of this")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::path::{Path, PathBuf};

use blobpack::commit::Tuning;
use blobpack::medium::{Sim, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, Digest, OpenOptions, Result, Store};

/// The name of packs in simulated directories.
pub const PACK: &str = "blobs.pack";

/// Sizes that let a short test see splits, doubled directories, new chunks, checkpoints and removals in parts.
pub fn tuning() -> Tuning {
    Tuning {
        slots: 4,
        chunk_bytes: 64 << 10,
        checkpoint_images: 60,
        checkpoint_bytes: 1 << 20,
        reserve_segments: 4,
        removal_images: 6,
    }
}

/// Options with these sizes.
pub fn small() -> OpenOptions {
    Store::options().tuning(tuning())
}

/// Says that a test does nothing here. The harness shows what `println!` prints of failed tests alone.
pub fn skipped(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}

/// `length` bytes that no other `seed` has.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A digest that nothing in these tests has.
pub fn unknown() -> Digest {
    Digest::of(Algorithm::Sha256, b"nobody stores this")
}

/// A new pack in a new directory in memory.
pub fn simulated(file_bytes_max: u64) -> (SimDirectory, Store<Sim>) {
    let directory = SimDirectory::new(file_bytes_max);
    let store = small().create_in(directory.create(PACK).unwrap()).unwrap().unwrap();
    (directory, store)
}

/// Opens the pack of a directory in memory.
pub fn open_simulated(directory: &SimDirectory, options: &OpenOptions, how: How) -> Result<Store<Sim>> {
    let medium = directory.open(PACK, true).unwrap();
    Ok(options.open_in(medium, how)?.expect("the name leads to the file that it just led to"))
}

/// A directory in memory with these bytes as its pack.
pub fn inserted(bytes: Vec<u8>, file_bytes_max: u64) -> SimDirectory {
    let directory = SimDirectory::new(file_bytes_max);
    directory.insert(PACK, bytes);
    directory
}

/// All names below a directory with their contents, so that two looks can be compared.
pub fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    found.sort();
    found
}

/// A file of `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The bytes that `sparse` in `tests/golden.rs` has left the zeros out of.
pub fn whole(mut sparse: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((head, rest)) = sparse.split_at_checked(16) {
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap()) as usize;
        let (run, rest) = rest.split_at(word(8));
        bytes.resize(word(0), 0);
        bytes.extend_from_slice(run);
        sparse = rest;
    }
    bytes
}
