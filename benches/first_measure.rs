//! Random gets of a million blobs of 256 bytes, beside a hash map in memory, and how fast they are put:
//! `cargo bench --bench first_measure`.
//!
//! The map holds, for each digest, a slice out of one `Vec`. It is measured with its default hasher and with one that takes the
//! digest's first eight bytes, as digests are random already; the faster counts. Store and maps take turns, in rounds, each with the
//! same list of digests, and every get looks at the blob's last byte. Reported are the median round of each, and the median of
//! the rounds' ratios, which is what a noisy machine leaves alone.
#![allow(clippy::unwrap_used, reason = "a bench ends with the first error")]

use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::time::Instant;

use blobpack::{Algorithm, Digest, Durability, Reader, Store};
use hashbrown::HashMap;

const BLOBS: usize = 1_000_000;
const BLOB_BYTES: usize = 256;
const GETS: usize = 1_000_000;
const ROUNDS: usize = 9;

/// Takes the first eight bytes that it is given.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A SHA-256 without the label, hashed as a digest is.
type Key = [u8; 32];

fn main() {
    // What cargo passes to every bench and test is not for this one; `cargo test --benches` only sees that it runs.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let content = contents();
    println!("{BLOBS} blobs of {BLOB_BYTES} B");
    println!();
    println!("bulk put, SHA-256 included          blobs/s");
    let directory = tempfile::tempdir().unwrap();
    let hashing = rate(|| {
        for blob in content.chunks_exact(BLOB_BYTES) {
            black_box(Digest::of(Algorithm::Sha256, blob));
        }
    });
    println!("  hashing alone                  {hashing:>10.0}");
    let mut kept: Option<(Store, Vec<Digest>)> = None;
    for (name, durability) in [("process", Durability::Process), ("power loss", Durability::PowerLoss)] {
        for size in [10_000, 100_000] {
            // The one before gives back its memory and its file first.
            drop(kept.take());
            let path = directory.path().join("measured.pack");
            let _ = std::fs::remove_file(&path);
            let store = Store::options().create_new(true).durability(durability).open(&path).unwrap();
            let mut digests = Vec::with_capacity(BLOBS);
            let puts = rate(|| put(&store, &content, size, &mut digests));
            println!("  batches of {size:>6}, {name:<11}{puts:>10.0}");
            kept = Some((store, digests));
        }
    }
    let (store, digests) = kept.unwrap();
    store.checkpoint().unwrap();
    gets(&store, &digests, &content, "as it was filled");
    store.compact().unwrap();
    gets(&store, &digests, &content, "after a compaction");
}

fn contents() -> Vec<u8> {
    let mut state = 1_u64;
    let mut content = Vec::with_capacity(BLOBS * BLOB_BYTES);
    while content.len() < BLOBS * BLOB_BYTES {
        state = random(state);
        content.extend_from_slice(&state.to_le_bytes());
    }
    content
}

fn random(state: u64) -> u64 {
    // splitmix64 by its increment: every state occurs once.
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn rate(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    #[allow(clippy::cast_precision_loss, reason = "a million is exact")]
    let blobs = BLOBS as f64;
    blobs / begun.elapsed().as_secs_f64()
}

fn put(store: &Store, content: &[u8], size: usize, digests: &mut Vec<Digest>) {
    for part in content.chunks(size * BLOB_BYTES) {
        let mut batch = store.batch();
        for blob in part.chunks_exact(BLOB_BYTES) {
            digests.push(batch.put(blob).unwrap());
        }
        batch.commit().unwrap();
    }
}

/// Nanoseconds of one get, over all that are asked for.
fn time(wanted: &[Digest], mut get: impl FnMut(&Digest) -> u8) -> f64 {
    let begun = Instant::now();
    let mut sum = 0_u64;
    for digest in wanted {
        sum += u64::from(get(digest));
    }
    black_box(sum);
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(wanted.len()).unwrap())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Digests at random places.
fn wanted(mut state: u64, digests: &[Digest]) -> Vec<Digest> {
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        digests[usize::try_from(random(state) % BLOBS as u64).unwrap()]
    };
    std::iter::repeat_with(next).take(GETS).collect()
}

fn key(digest: &Digest) -> &Key {
    digest.as_bytes().first_chunk().unwrap()
}

fn gets(store: &Store, digests: &[Digest], content: &[u8], title: &str) {
    let slices = || digests.iter().map(key).copied().zip(content.chunks_exact(BLOB_BYTES));
    let usual: HashMap<Key, &[u8]> = slices().collect();
    let plain: HashMap<Key, &[u8], BuildHasherDefault<FirstBytes>> = slices().collect();
    let reader: Reader = store.reader().unwrap();
    let mut times = [const { Vec::new() }; 5];
    let mut ratios = Vec::new();
    let last = BLOB_BYTES - 1;
    for round in 0..=ROUNDS as u64 {
        let wanted = wanted(round << 32, digests);
        let unknown: Vec<_> = wanted.iter().map(|digest| Digest::of(Algorithm::Sha256, key(digest))).collect();
        let now = [
            time(&wanted, |digest| reader.get(digest).unwrap()[last]),
            time(&wanted, |digest| usual[key(digest)][last]),
            time(&wanted, |digest| plain[key(digest)][last]),
            time(&wanted, |digest| store.get(digest).unwrap()[last]),
            time(&unknown, |digest| u8::from(reader.find(digest).unwrap().is_some())),
        ];
        // The first round warms up.
        if round > 0 {
            ratios.push(now[0] / now[1].min(now[2]));
            times.iter_mut().zip(now).for_each(|(all, now)| all.push(now));
        }
    }
    let [reader, usual, plain, owned, miss] = times.map(median);
    let stats = store.stats().unwrap();
    println!();
    println!("random get, {title} (index load {:.2})   ns/get", stats.index_load);
    println!("  Reader::get                    {reader:>10.0}");
    println!("  Store::get                     {owned:>10.0}");
    println!("  Reader::find, a miss           {miss:>10.0}");
    println!("  hashbrown, default hasher      {usual:>10.0}");
    println!("  hashbrown, first eight bytes   {plain:>10.0}");
    println!("  Reader::get / faster hashbrown {:>10.2}", median(ratios));
}
