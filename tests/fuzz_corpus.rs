//! What the fuzzer runs, on the inputs that are committed: seeds, and what it found.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::path::Path;

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

/// Runs a body on all inputs of its target, and says their names: a panic's is the last.
fn on_corpus(target: &str, body: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{target} has no corpus");
    for input in inputs {
        println!("{}", input.display());
        body(&std::fs::read(input).unwrap());
    }
}

#[test]
fn any_bytes_as_a_pack_are_at_worst_an_error() {
    on_corpus("pack_bytes", pack_bytes::run);
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
