//! Real files, as any Linux machine has them: stored, compared with what `sha256sum` says, half of them removed,
//! compacted, verified, and read back byte for byte.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use blobpack::{Algorithm, Digest, Store};

const FILES_MAX: usize = 3000;
const FILE_BYTES_MAX: u64 = 4 << 20;
const TOTAL_BYTES_MAX: u64 = 96 << 20;

/// Readable regular files below some directories, links not followed, in a fixed order.
fn real_files() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut work: Vec<PathBuf> =
        ["/usr/lib", "/usr/include", "/usr/share/doc"].iter().map(PathBuf::from).chain([here]).collect();
    let (mut files, mut total) = (Vec::new(), 0);
    while let Some(directory) = work.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if metadata.is_dir() {
                work.push(entry.path());
            } else if metadata.is_file()
                && metadata.len() <= FILE_BYTES_MAX
                && std::fs::File::open(entry.path()).is_ok()
            {
                total += metadata.len();
                files.push(entry.path());
            }
            if files.len() >= FILES_MAX || total >= TOTAL_BYTES_MAX {
                return files;
            }
        }
    }
    files
}

/// What `sha256sum` says of the files, where there is that program.
fn sums(files: &[PathBuf]) -> Option<Vec<Digest>> {
    let mut digests = Vec::new();
    for part in files.chunks(500) {
        let output = Command::new("sha256sum").args(part).output().ok()?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let hex = line.trim_start_matches('\\').split(' ').next()?;
            digests.push(format!("sha256:{hex}").parse().ok()?);
        }
    }
    (digests.len() == files.len()).then_some(digests)
}

#[test]
fn thousands_of_real_files_come_back_as_they_were() {
    let files = real_files();
    assert!(files.len() > 20, "there are at least the sources of this crate");
    let store = Store::temporary().unwrap();
    let mut digests = Vec::new();
    for part in files.chunks(300) {
        let mut batch = store.batch();
        for file in part {
            let bytes = std::fs::read(file).unwrap();
            // Every third one streams, whatever its size.
            digests.push(if digests.len() % 3 == 0 {
                let mut writer = store.writer(Algorithm::Sha256).unwrap();
                writer.write_all(&bytes).unwrap();
                batch.add(writer.stage().unwrap()).unwrap()
            } else {
                batch.put(&bytes).unwrap()
            });
        }
        batch.commit().unwrap();
    }
    match sums(&files) {
        Some(sums) => assert_eq!(digests, sums),
        None => println!("no sha256sum here: not compared"),
    }
    let mut references: HashMap<Digest, u64> = HashMap::new();
    for digest in &digests {
        *references.entry(*digest).or_default() += 1;
    }
    let mut batch = store.batch();
    for digest in digests.iter().step_by(2) {
        batch.dereference(digest);
        *references.get_mut(digest).unwrap() -= 1;
    }
    batch.commit().unwrap();
    let dead = store.stats().unwrap().dead_bytes;
    let compacted = store.compact().unwrap();
    assert!(compacted.freed_bytes + (1 << 20) >= dead, "{compacted:?} of {dead}");
    let verified = store.verify().unwrap();
    assert_eq!(verified.damage, []);
    let stats = store.stats().unwrap();
    let large = store.descriptors().filter(|blob| blob.as_ref().unwrap().size >= 64 << 10).count() as u64;
    let most = stats.live_bytes + 256 * stats.blobs + 4096 * large + (1 << 20);
    assert!(stats.file_bytes <= most, "{} bytes, at most {most}", stats.file_bytes);
    for (file, digest) in files.iter().zip(&digests) {
        match store.find(digest).unwrap() {
            Some(blob) => {
                assert_eq!(blob.ref_count(), references[digest]);
                assert!(*blob == *std::fs::read(file).unwrap(), "{} came back as something else", file.display());
            }
            None => assert_eq!(references[digest], 0, "{} is lost", file.display()),
        }
    }
}
