//! Writes the seeds of the corpus: `cargo run --example seeds` in `fuzz/`. They have to be made anew when the format changes.

use std::path::Path;

use blobpack::commit::Tuning;
use blobpack::medium::{Sim, SimDirectory};
use blobpack::{Algorithm, Store};

mod hostile;
#[allow(dead_code, reason = "nothing is decoded here")]
#[path = "../../bodies/image.rs"]
mod image;

const PACK: &str = "blobs.pack";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let packs = [
        ("empty", pack(63, |_| Ok(()))?),
        ("some_blobs", pack(63, |store| fill(store, 6))?),
        ("tiny_segments", pack(4, |store| fill(store, 30))?),
        (
            "checkpointed",
            pack(4, |store| {
                fill(store, 12)?;
                store.checkpoint()?;
                store.put(b"after the checkpoint")?;
                Ok(())
            })?,
        ),
        (
            "compacted",
            pack(4, |store| {
                fill(store, 12)?;
                store.dereference(&store.put(b"gone")?.digest)?;
                store.compact()?;
                store.put(b"after the compaction")?;
                Ok(())
            })?,
        ),
    ];
    for (name, bytes) in &packs {
        for target in ["pack_bytes", "frame_scan"] {
            seed(target, name, &image::encode(0, bytes))?;
            seed(target, &format!("{name}_sealed"), &image::encode(image::SEALED, bytes))?;
        }
        // The head of the file alone, as it is.
        let mut cut = vec![image::RAW];
        cut.extend(&bytes[..192]);
        seed("pack_bytes", &format!("{name}_cut"), &cut)?;
    }
    seed("pack_bytes", "nothing", &[image::RAW])?;
    for large in [false, true] {
        let size = if large { "large" } else { "small" };
        let [killed, closed] = base(large)?;
        for (name, bytes) in [("killed", &killed), ("closed", &closed)] {
            seed("pack_bytes", &format!("base_{name}_{size}"), &image::encode(0, bytes))?;
        }
        if large {
            // What only the log says hurts where there is something to replay.
            for (name, bytes) in hostile::packs(&killed) {
                seed("pack_bytes", &name, &image::encode(0, &bytes))?;
            }
        }
    }
    for number in 0..16_u8 {
        let changes: Vec<u8> =
            (0..33_u8).map(|n| number.wrapping_mul(29).wrapping_add(n.wrapping_mul(7 * number + 1))).collect();
        seed("pack_fields", &number.to_string(), &[&[number], &changes[..11 * (usize::from(number) % 4)]].concat())?;
    }
    for algorithm in Algorithm::ALL {
        seed("digest_string", algorithm.label(), blobpack::Digest::of(algorithm, b"hello").to_string().as_bytes())?;
    }
    seed("digest_string", "label", b"sha256")?;
    seed("digest_string", "short", b"sha256:2cf24dba")?;
    seed("digest_string", "upper_case", format!("sha256:{}", "A".repeat(64)).as_bytes())?;
    seed("digest_string", "unknown", b"md5:d41d8cd98f00b204e9800998ecf8427e")?;
    seed("operations_model", "chain", &chain())?;
    seed("operations_model", "everything", &everything())?;
    Ok(())
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join(name), bytes)
}

/// The file after some work, as a kill would leave it.
fn pack(slots: u32, work: impl Fn(&Store<Sim>) -> blobpack::Result<()>) -> blobpack::Result<Vec<u8>> {
    let directory = SimDirectory::new(16 << 20);
    let medium = directory.create(PACK).expect("memory takes a file");
    let options =
        Store::options().tuning(Tuning { slots, chunk_bytes: 64 << 10, reserve_segments: 4, ..Tuning::default() });
    let store = options.create_in(medium)?.expect("nobody else makes one");
    work(&store)?;
    let mut bytes = directory.bytes(PACK).expect("it is there");
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used.next_multiple_of(64 << 10));
    assert!(bytes.len() <= image::BYTES_MAX);
    Ok(bytes)
}

/// A small pack with a bit of everything, as a kill would leave it, and closed.
fn base(large: bool) -> blobpack::Result<[Vec<u8>; 2]> {
    let directory = SimDirectory::new(16 << 20);
    let medium = directory.create(PACK).expect("memory takes a file");
    let tuning = Tuning { slots: 4, chunk_bytes: 64 << 10, reserve_segments: 4, ..Tuning::default() };
    let store = Store::options().tuning(tuning).create_in(medium)?.expect("nobody else makes one");
    let mut digests = Vec::new();
    for index in 0..7_u8 {
        let content = vec![index; 40 * usize::from(index)];
        digests.push(store.put_with(Algorithm::ALL[usize::from(index) % 3], &content)?.digest);
    }
    for (to, from) in [(0, 1), (1, 2), (3, 2), (2, 4)] {
        store.link(&digests[to], &digests[from])?;
    }
    store.set_name(&"a name".parse()?, &digests[4])?;
    store.checkpoint()?;
    store.set_name(&"another".parse()?, &digests[5])?;
    let mut batch = store.batch();
    let (child, parent) = (batch.put(b"child")?, batch.put(b"parent")?);
    batch.link(&child, &parent);
    batch.dereference(&digests[6]);
    batch.commit()?;
    if large {
        // Mostly zeros, which an input leaves out.
        for (number, length) in [(5, 66_000), (6, 40_000), (7, 40_000)] {
            let mut content = vec![0; length];
            (content[0], content[length - 1]) = (number, number);
            store.put(&content)?;
        }
    }
    let killed = directory.bytes(PACK).expect("it is there");
    store.close()?;
    Ok([killed, directory.bytes(PACK).expect("it is there")])
}

/// Blobs of all algorithms, links between them, references, a removal.
fn fill(store: &Store<Sim>, blobs: usize) -> blobpack::Result<()> {
    let mut before = None;
    for index in 0..blobs {
        let blob = store.put_with(Algorithm::ALL[index % 3], format!("blob {index}").as_bytes())?.digest;
        if let Some(before) = before.replace(blob)
            && index % 2 == 1
        {
            store.reference(&before)?;
            store.link(&before, &blob)?;
        }
    }
    let mut batch = store.batch();
    let (child, parent) = (batch.put(b"child")?, batch.put(b"parent")?);
    batch.link(&child, &parent);
    batch.commit()?;
    store.dereference(&parent)?;
    Ok(())
}

/// A chain of blobs that falls with its head.
fn chain() -> Vec<u8> {
    let mut steps = Vec::new();
    for name in 0..12 {
        steps.extend([0, name, 0]);
        if name > 0 {
            steps.extend([8, name - 1, name]);
        }
    }
    steps.extend([11, 0, 0, 5, 11, 0, 14, 0, 0]);
    steps
}

/// Each kind of step, several times, with batches that are done and some that are refused.
fn everything() -> Vec<u8> {
    (0..150_u8).flat_map(|step| [step.wrapping_mul(7), step.wrapping_mul(5), step.wrapping_mul(11)]).collect()
}
