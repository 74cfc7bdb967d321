//! `blobpack map`: the file as a picture over its length.

mod picture;
mod terminal;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};
use serde::Serialize;
use serde_json::{Map as Object, Value};

use blobpack::{Layout, Part, PartKind, Stats};

use super::failure::Failure;
use super::output::{Output, count, grouped, human, note, percent};
use super::pack::{Json, ReadPack};
use super::target::Target;

/// Show what the file is made of, over its length.
///
/// Each cell stands for the same number of bytes, from the start of the file to its end. Live are stored blobs, dead
/// removed ones; index and log are the pack's own; spare index regions are used again; free is what holds nothing.
///
/// Counts: none change.
///
/// Costs: the index and what lies between the stored blobs are read, not their bytes; 24 bytes of memory a blob.
///
/// Never: writes to the pack or waits for who does, leaves half a picture at the path of -o.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack map store.pack
  blobpack map -o map.html store.pack
  blobpack map --json store.pack | jq .bytes

Where standard output is no terminal, or NO_COLOR is set, cells are letters without colour.
--json prints one object: {\"file_bytes\",\"bytes\":{\"header\",\"live\",\"dead\",\"index\",\"spare\",\"log\",\"free\",\
\"unknown\"},\"damaged_segments\",\"moving\",\"parts\":[{\"offset\",\"length\",\"kind\"}]}; the parts are exact.")]
pub struct Map {
    #[command(flatten)]
    pack: ReadPack,
    /// Write a picture to this file: .svg, or .html with the figures on hover
    #[arg(long, short, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(picture_path))]
    output: Option<PathBuf>,
    #[command(flatten)]
    format: Json,
}

/// What a picture is made of.
struct Scene<'a> {
    /// The pack's file name.
    name: String,
    stats: &'a Stats,
    layout: &'a Layout,
}

/// The JSON of a layout.
#[derive(Serialize)]
struct Report<'a> {
    file_bytes: u64,
    bytes: Object<String, Value>,
    damaged_segments: u64,
    moving: bool,
    parts: &'a [Part],
}

fn picture_path(path: PathBuf) -> Result<PathBuf, &'static str> {
    match extension(&path) {
        Some("svg" | "html" | "htm") => Ok(path),
        _ => Err("a picture's name ends in .svg or .html"),
    }
}

fn extension(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}

impl Map {
    /// Draws the map.
    pub fn run(self) -> Result<(), Failure> {
        let store = self.pack.open()?;
        let (stats, layout) = (store.stats()?, store.layout()?);
        let path = store.path();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let scene = Scene { name, stats: &stats, layout: &layout };
        if let Some(target) = &self.output {
            let text = match extension(target) {
                Some("svg") => picture::svg(&scene),
                _ => picture::html(&scene),
            };
            let written = Target::create(target, &path).and_then(|target| {
                let mut file = target.file();
                file.write_all(text.as_bytes())?;
                target.publish()
            });
            written.map_err(|error| Failure::new(format!("{}: {error}", target.display())))?;
        }
        let mut output = Output::new();
        if self.format.json {
            let bytes = PartKind::ALL.iter().map(|&kind| (kind.name().to_owned(), layout.bytes(kind).into())).collect();
            let Layout { file_bytes, damaged_segments, moving, .. } = layout;
            output.json(&Report { file_bytes, bytes, damaged_segments, moving, parts: &layout.parts })?;
        } else if self.output.is_none() {
            terminal::draw(&scene, &mut output)?;
        }
        output.flush()?;
        if layout.damaged_segments > 0 {
            let segments = count(layout.damaged_segments, "segment");
            note(&format!("{segments} of the index can't be read: blobs there are shown as unknown; see `verify`"));
        }
        if layout.moving {
            note("a writer was at work meanwhile: the map is that of about now");
        }
        Ok(())
    }
}

/// What a kind is, for a legend.
fn describe(kind: PartKind) -> &'static str {
    match kind {
        PartKind::Header => "identity, superblocks",
        PartKind::Live => "stored blobs and names",
        PartKind::Dead => "removed blobs and names",
        PartKind::Index => "hash table in use",
        PartKind::Spare => "index space to be used again",
        PartKind::Log => "commits",
        PartKind::Free => "holds nothing",
        _ => "open writers, remnants, damage",
    }
}

/// The kinds that a legend lists: all but what is not there and seldom is.
fn listed(layout: &Layout) -> impl Iterator<Item = (PartKind, u64)> {
    let all = PartKind::ALL.into_iter().map(|kind| (kind, layout.bytes(kind)));
    all.filter(|&(kind, bytes)| bytes > 0 || kind != PartKind::Unknown)
}

/// One line that says how much the pack holds.
fn summary(scene: &Scene<'_>) -> String {
    let (stats, layout) = (scene.stats, scene.layout);
    format!(
        "{} {}, {} in a file of {}; {} live, {} dead",
        grouped(stats.blobs),
        if stats.blobs == 1 { "blob" } else { "blobs" },
        human(stats.live_bytes),
        human(layout.file_bytes),
        percent(layout.bytes(PartKind::Live), layout.file_bytes),
        percent(layout.bytes(PartKind::Dead), layout.file_bytes),
    )
}

/// The bytes of a row: a power of two, so that the offsets at the axis are round, and so many that all fit into `rows`
/// rows.
fn row_bytes(file_bytes: u64, rows: u64) -> u64 {
    file_bytes.div_ceil(rows).next_power_of_two().max(4096)
}
