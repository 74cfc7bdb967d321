//! Instructions of a get and of a put, counted by valgrind's callgrind: `cargo bench --bench instructions`.
//!
//! The counts are nearly the same from run to run, whatever else the machine does: each pack draws a secret that decides
//! how full each part of its index is. Callgrind knows no SHA instructions, so hashing is counted apart, in software, and
//! is taken off a put.
#![allow(clippy::unwrap_used, reason = "a bench ends with the first error")]

use std::hint::black_box;
use std::process::Command;

use blobpack::{Algorithm, Digest, Durability, Store};

const BLOB_BYTES: usize = 256;
const BATCH: u32 = 1_000;
const BLOBS: u32 = 30_000;

const WORKS: [&str; 6] = ["hash", "put", "get", "get_many", "miss", "owned"];

fn content(seed: u32) -> [u8; BLOB_BYTES] {
    let mut bytes = [0x5a; BLOB_BYTES];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    bytes
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--child") {
        Some(at) => child(&arguments[at + 1]),
        // Only `cargo bench` says this: `cargo test --benches` needs no valgrind, and only sees that it runs.
        None if !arguments.iter().any(|argument| argument == "--bench") => {}
        None => {
            let [hash, put, get, get_many, miss, owned] = WORKS.map(|work| collected(work) / f64::from(BLOBS));
            println!("instructions, a blob of {BLOB_BYTES} bytes");
            println!("  put, in batches of {BATCH}, without hashing  {:>8.0}", put - hash);
            println!("  Reader::get                            {get:>8.0}");
            println!("  Reader::get_many, a hundred at a time  {get_many:>8.0}");
            println!("  Reader::find of an unknown digest      {miss:>8.0}");
            println!("  Store::get                             {owned:>8.0}");
        }
    }
}

/// What callgrind counts of a work on all blobs.
fn collected(work: &str) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*instructions*counted*")
        .arg(std::env::current_exe().unwrap())
        .args(["--child", work])
        .output()
        .expect("valgrind is installed");
    let told = String::from_utf8_lossy(&output.stderr);
    let line = told.lines().find_map(|line| line.split("Collected : ").nth(1));
    line.unwrap_or_else(|| panic!("no count in: {told}")).trim().parse().unwrap()
}

/// What is counted goes through here.
#[inline(never)]
fn counted(work: impl FnOnce()) {
    work();
    black_box(());
}

fn child(work: &str) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().durability(Durability::Process).open(directory.path().join("counted.pack")).unwrap();
    let blobs: Vec<_> = (0..BLOBS).map(content).collect();
    let put = || {
        for blobs in blobs.chunks(BATCH as usize) {
            let mut batch = store.batch();
            for blob in blobs {
                batch.put(blob).unwrap();
            }
            batch.commit().unwrap();
        }
    };
    match work {
        "hash" => {
            return counted(|| {
                for blob in &blobs {
                    black_box(Digest::of(Algorithm::Sha256, blob));
                }
            });
        }
        "put" => return counted(put),
        _ => put(),
    }
    let reader = store.reader().unwrap();
    let digests: Vec<_> = blobs.iter().map(|blob| Digest::of(Algorithm::Sha256, blob)).collect();
    match work {
        "get" => counted(|| {
            digests.iter().for_each(|digest| assert_eq!(reader.get(digest).unwrap()[BLOB_BYTES - 1], 0x5a));
        }),
        "get_many" => counted(|| {
            for digests in digests.chunks(100) {
                let found = reader.get_many(digests).unwrap();
                assert!(found.iter().all(|blob| blob.unwrap()[BLOB_BYTES - 1] == 0x5a));
            }
        }),
        "owned" => counted(|| {
            digests.iter().for_each(|digest| assert_eq!(store.get(digest).unwrap()[BLOB_BYTES - 1], 0x5a));
        }),
        "miss" => {
            let unknown: Vec<_> =
                digests.iter().map(|digest| Digest::of(Algorithm::Sha256, digest.as_bytes())).collect();
            counted(|| unknown.iter().for_each(|digest| assert!(reader.find(digest).unwrap().is_none())));
        }
        _ => panic!("no work is called {work}"),
    }
}
