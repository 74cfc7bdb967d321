//! `blobpack import`: an image, or a tree of files, into the pack.

use std::ffi::OsStr;
use std::path::Path;

use blobpack::image::{self, ImportOptions, Location, Place as Kind, Source, TREE_MEDIA_TYPE};
use blobpack::{Digest, Name, Store};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::Serialize;

use super::failure::Failure;
use super::output::{Output, checksum_line, count, note, size_note};
use super::pack::{Json, WritePack, close};
use super::place::Place;
use super::progress;

/// Import an image, or a tree of files. The pack is created where there is none.
///
/// SOURCE is oci:DIR, an image layout; oci-archive:FILE, the same in a tar archive, as `docker save` writes it since
/// Docker 25; or docker-archive:FILE, as it wrote it before. Of several images in there :NAME after the path, or a
/// digest, chooses one. Every blob is compared with the digest and the size that the image states. Then the whole image
/// is there, or nothing of it. Index, manifests, configuration and layers are linked, so that the root keeps all of
/// them, and the root has a name: --name, or else what the source calls it.
///
/// dir:PATH is a plain tree of files. A manifest (JSON, documented in the library's module image::tree) has path,
/// permissions, size and digest of each file, the empty directories and the symbolic links, and links to the files. The
/// same tree has the same manifest. Owners, times, extended attributes, and the bits for setuid, setgid and sticky are
/// not kept; hard links become files of their own; FIFOs, sockets and devices are refused by name, as is what changes
/// while it is read.
///
/// Counts: the name holds a reference on the root, links hold one on each of the others; without any name you have a
/// reference on the root. Importing the same again changes none. What had the name of --name before loses it, and goes
/// with what only it kept; a name of the source's own is not taken away from another image.
///
/// Costs: each blob that is not stored yet is read and hashed twice, to compare it before the pack is touched and to
/// store it, and written once; one sync in the end. What is stored already is not read. A few MiB of memory, and the
/// blobs below 64 KiB, however long the layers are. Of a tree every file is read once, and what is new and has 64 KiB
/// or more once again.
///
/// Never: unpacks a file, decompresses anything, follows what leads out of an archive, leaves part of an image, changes
/// a byte of the pack for one that is not sound, follows a symbolic link in a tree.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack import store.pack oci:layout
  blobpack import store.pack oci:layout:3.20 --name library/alpine:3.20
  blobpack import store.pack docker-archive:saved.tar --json
  blobpack import store.pack dir:src --name sources

Prints `DIGEST  NAME` a line for each name, escaped as by `names`, or the digest alone. The reference is a layout's \
org.opencontainers.image.ref.name or io.containerd.image.name, or a Docker archive's tag; without one there must be \
one image. The path of an image can't have a colon in it.
--json prints an object: {\"digest\",\"names\":[...],\"media_type\",\"blobs\",\"bytes\",\"stored_blobs\",\
\"stored_bytes\",\"missing\":[...],\"removed_blobs\"}.")]
pub struct Import {
    #[command(flatten)]
    pack: WritePack,
    /// Where it is: oci:DIR, oci-archive:FILE or docker-archive:FILE, and :NAME for one of several images; or dir:PATH
    #[arg(value_name = "SOURCE", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    source: Place,
    /// Give the image this name and no other
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// Take an index without the manifests that the source lacks, as long as one is there
    #[arg(long)]
    sparse: bool,
    #[command(flatten)]
    format: Json,
}

/// The JSON of an import.
#[derive(Serialize)]
struct Report<'a> {
    digest: Digest,
    names: &'a [Name],
    media_type: &'a str,
    blobs: u64,
    bytes: u64,
    stored_blobs: u64,
    stored_bytes: u64,
    missing: &'a [Digest],
    removed_blobs: u64,
}

impl Import {
    /// Imports what is there.
    pub fn run(self) -> Result<(), Failure> {
        match &self.source {
            Place::Image(location) => self.image(location.clone()),
            Place::Tree(_) if self.sparse => Err(Failure::wrong_usage("--sparse is for images; a tree has no index")),
            Place::Tree(path) => self.tree(path),
        }
    }

    fn image(&self, mut location: Location) -> Result<(), Failure> {
        if location.place != Kind::Layout && location.path.as_os_str() == "-" {
            location.path = "/dev/stdin".into();
        }
        // What is no sound image creates no pack, and changes no byte of one that is there.
        let source = Source::open(&location)?;
        let bar = progress::bar("checking", 0);
        let follow = |done| progress::follow(&bar, &done);
        let mut options = ImportOptions::new().sparse(self.sparse).progress(follow);
        if let Some(name) = &self.name {
            options = options.name(name.clone());
        }
        let checked =
            self.pack.read_if_there().and_then(|store| Ok(image::check(store.as_ref(), &source, &mut options)?));
        bar.set_message("importing");
        let imported = checked.and_then(|()| {
            let store = self.pack.open_or_create()?;
            let imported = image::import(&store, &source, options)?;
            Ok((store, imported))
        });
        bar.finish_and_clear();
        let (store, imported) = imported?;
        let report = Report {
            digest: imported.digest,
            names: &imported.names,
            media_type: &imported.media_type,
            blobs: imported.blobs,
            bytes: imported.bytes,
            stored_blobs: imported.stored_blobs,
            stored_bytes: imported.stored_bytes,
            missing: &imported.missing,
            removed_blobs: imported.removed_blobs,
        };
        self.report(&report, store)
    }

    fn tree(&self, path: &Path) -> Result<(), Failure> {
        // What can't be imported creates no pack.
        image::check_tree(path, &self.pack.path)?;
        let store = self.pack.open_or_create()?;
        let spinner = progress::spinner("importing");
        let follow = &mut |done| spinner.set_position(done);
        let imported = image::import_tree(&store, path, self.name.as_ref(), follow);
        spinner.finish_and_clear();
        let imported = imported?;
        let report = Report {
            digest: imported.digest,
            names: self.name.as_slice(),
            media_type: TREE_MEDIA_TYPE,
            blobs: imported.blobs,
            bytes: imported.bytes,
            stored_blobs: imported.stored_blobs,
            stored_bytes: imported.stored_bytes,
            missing: &[],
            removed_blobs: imported.removed_blobs,
        };
        self.report(&report, store)
    }

    fn report(&self, report: &Report<'_>, store: Store) -> Result<(), Failure> {
        let mut output = Output::new();
        if self.format.json {
            output.json(report)?;
        } else if report.names.is_empty() {
            output.line(report.digest)?;
        } else {
            for name in report.names {
                output.bytes(&checksum_line(report.digest, OsStr::new(name.as_str())))?;
            }
        }
        output.flush()?;
        let (blobs, stored) = (count(report.blobs, "blob"), count(report.stored_blobs, "blob"));
        note(&format!("{blobs}; {stored} with {} had to be stored", size_note(report.stored_bytes)));
        if !report.missing.is_empty() {
            note(&format!("{} not there, and left out", count(report.missing.len() as u64, "blob")));
        }
        if report.removed_blobs > 0 {
            note(&format!("the name was another blob's before: {} removed", count(report.removed_blobs, "blob")));
        }
        close(store);
        Ok(())
    }
}
