//! Writes the packs that a corpus of `pack_fields` stands for, as inputs of `pack_bytes`, which would hardly find past
//! all checksums by itself: `cargo run --release --example packs FROM TO` in `fuzz/`.

use std::path::PathBuf;

#[allow(dead_code, reason = "nothing is decoded here")]
#[path = "../bodies/image.rs"]
mod image;
#[allow(dead_code, reason = "nothing is done with the packs")]
#[path = "../bodies/pack_bytes.rs"]
mod pack_bytes;
#[allow(dead_code, reason = "nothing is done with the packs")]
#[path = "../bodies/pack_fields.rs"]
mod pack_fields;

fn main() -> std::io::Result<()> {
    let mut directories = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(from), Some(to)) = (directories.next(), directories.next()) else {
        eprintln!("usage: packs FROM TO");
        std::process::exit(2);
    };
    std::fs::create_dir_all(&to)?;
    for input in std::fs::read_dir(from)? {
        let input = input?;
        if let Some((&head, changes)) = std::fs::read(input.path())?.split_first() {
            // Both targets have the way in which a pack is handled in the same bits; the others say how it is written.
            let pack = image::encode(head & !(image::RAW | image::SEALED), &pack_fields::changed(head, changes));
            std::fs::write(to.join(format!("fields_{}", input.file_name().display())), pack)?;
        }
    }
    Ok(())
}
