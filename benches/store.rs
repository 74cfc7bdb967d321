//! Throughput, call by call: `cargo bench --bench store`.
//!
//! Stores lie in the system's temporary directory; set `TMPDIR` to measure another disk. Where a sync is part of what is measured the
//! disk decides; the others run with `Durability::Process`, so that they measure this library and not the disk.
#![allow(clippy::unwrap_used, reason = "a bench ends with the first error")]

use std::hint::black_box;
use std::io::Write;
use std::time::Duration;

use blobpack::{Algorithm, Digest, Durability, Store};
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};

/// Blobs of a store that is only read.
const BLOBS: u64 = 100_000;
/// Blobs of a store that a bench uses up.
const FEW_BLOBS: u64 = 5_000;
const SMALL_BYTES: usize = 256;
/// Operations of one batch.
const BATCH: u64 = 1_000;

struct Bench {
    directory: tempfile::TempDir,
    made: std::cell::Cell<u64>,
}

impl Bench {
    fn new() -> Bench {
        Bench { directory: tempfile::tempdir().unwrap(), made: std::cell::Cell::new(0) }
    }

    fn store(&self, durability: Durability) -> Store {
        self.made.set(self.made.get() + 1);
        let path = self.directory.path().join(format!("{}.pack", self.made.get()));
        Store::options().durability(durability).open(&path).unwrap()
    }

    fn filled(&self, blobs: u64) -> (Store, Vec<Digest>) {
        let store = self.store(Durability::Process);
        let mut digests = Vec::new();
        for from in (0..blobs).step_by(10_000) {
            let mut batch = store.batch();
            for seed in from..blobs.min(from + 10_000) {
                digests.push(batch.put(&content(seed, SMALL_BYTES)).unwrap());
            }
            batch.commit().unwrap();
        }
        store.checkpoint().unwrap();
        (store, digests)
    }
}

fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; length];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// A walk over `0..count` in an order that no cache foresees.
fn shuffled(count: u64) -> impl Iterator<Item = usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % count).unwrap()
    })
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(1_500));
    group
}

fn put(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = group(criterion, "put");
    let mut seed = 0;
    for (name, length) in [("256_B", SMALL_BYTES), ("4_KiB", 4 << 10)] {
        let store = bench.store(Durability::Process);
        group.throughput(Throughput::Bytes(BATCH * length as u64));
        group.bench_function(format!("batch_of_1000/{name}"), |b| {
            b.iter_batched(
                || {
                    seed += BATCH;
                    (seed..seed + BATCH).map(|seed| content(seed, length)).collect::<Vec<_>>()
                },
                |blobs| {
                    let mut batch = store.batch();
                    for blob in &blobs {
                        batch.put(blob).unwrap();
                    }
                    batch.commit().unwrap()
                },
                BatchSize::LargeInput,
            );
        });
    }
    let store = bench.store(Durability::PowerLoss);
    group.throughput(Throughput::Elements(1));
    group.bench_function("one_durable/256_B", |b| {
        b.iter(|| {
            seed += 1;
            store.put(&content(seed, SMALL_BYTES)).unwrap()
        });
    });
    let store = bench.store(Durability::Process);
    let large = vec![7; 1 << 20];
    group.throughput(Throughput::Bytes(large.len() as u64));
    group.bench_function("streamed/1_MiB", |b| {
        b.iter(|| {
            seed += 1;
            let mut writer = store.writer(Algorithm::Sha256).unwrap();
            writer.write_all(&seed.to_le_bytes()).unwrap();
            writer.write_all(&large).unwrap();
            writer.commit().unwrap()
        });
    });
    group.finish();
}

fn commit(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = group(criterion, "commit");
    for (name, durability) in [("process", Durability::Process), ("power_loss", Durability::PowerLoss)] {
        let store = bench.store(durability);
        let digest = store.put(b"a blob").unwrap().digest;
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("one_reference/{name}"), |b| b.iter(|| store.reference(&digest).unwrap()));
        group.throughput(Throughput::Elements(BATCH));
        group.bench_function(format!("batch_of_1000_references/{name}"), |b| {
            b.iter(|| {
                let mut batch = store.batch();
                for _ in 0..BATCH {
                    batch.reference(&digest);
                }
                batch.commit().unwrap()
            });
        });
    }
    group.finish();
}

fn get(criterion: &mut Criterion) {
    let bench = Bench::new();
    let (store, digests) = bench.filled(BLOBS);
    let unknown: Vec<_> = (0..BLOBS).map(|seed| Digest::of(Algorithm::Sha256, &seed.to_le_bytes())).collect();
    let reader = store.reader().unwrap();
    let mut group = group(criterion, "get");
    group.throughput(Throughput::Elements(1));
    for (name, wanted) in [("hit", &digests), ("miss", &unknown)] {
        let mut order = shuffled(BLOBS);
        group.bench_function(format!("reader/{name}"), |b| {
            b.iter(|| {
                let found = reader.find(&wanted[order.next().unwrap()]).unwrap();
                black_box(found.map(|blob| blob[SMALL_BYTES - 1]))
            });
        });
        group.bench_function(format!("store/{name}"), |b| {
            b.iter(|| {
                let found = store.find(&wanted[order.next().unwrap()]).unwrap();
                black_box(found.map(|blob| blob[SMALL_BYTES - 1]))
            });
        });
    }
    group.finish();
}

fn list(criterion: &mut Criterion) {
    let bench = Bench::new();
    let (store, _) = bench.filled(BLOBS);
    let mut group = group(criterion, "list");
    group.throughput(Throughput::Elements(BLOBS));
    group.bench_function("digests/100000", |b| b.iter(|| store.list().map(Result::unwrap).count()));
    group.bench_function("descriptors/100000", |b| b.iter(|| store.descriptors().map(Result::unwrap).count()));
    group.finish();
}

fn remove(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut group = group(criterion, "remove");
    group.throughput(Throughput::Elements(FEW_BLOBS));
    group.bench_function("batch/5000", |b| {
        b.iter_batched(
            || bench.filled(FEW_BLOBS),
            |(store, digests)| {
                let mut batch = store.batch();
                for digest in &digests {
                    batch.dereference(digest);
                }
                batch.commit().unwrap();
                store
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("cascade/5000", |b| {
        b.iter_batched(
            || {
                let (store, digests) = bench.filled(FEW_BLOBS);
                let root = store.put(b"the root").unwrap().digest;
                let mut batch = store.batch();
                for digest in &digests {
                    batch.link(digest, &root);
                }
                batch.commit().unwrap();
                (store, root)
            },
            |(store, root)| {
                assert_eq!(store.dereference(&root).unwrap().blobs(), FEW_BLOBS + 1);
                store
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn long_operations(criterion: &mut Criterion) {
    let bench = Bench::new();
    let (store, digests) = bench.filled(BLOBS);
    let live_bytes = store.stats().unwrap().live_bytes;
    let mut group = group(criterion, "whole_pack");
    group.throughput(Throughput::Bytes(live_bytes));
    group.bench_function("verify/100000x256_B", |b| {
        b.iter(|| assert!(store.verify().unwrap().damage.is_empty()));
    });
    let mut batch = store.batch();
    for digest in digests.iter().step_by(2) {
        batch.dereference(digest);
    }
    batch.commit().unwrap();
    group.throughput(Throughput::Bytes(store.stats().unwrap().live_bytes));
    group.bench_function("compaction/50000x256_B", |b| b.iter(|| store.compact().unwrap()));
    group.finish();
}

criterion_group!(benches, put, commit, get, list, remove, long_operations);
criterion_main!(benches);
