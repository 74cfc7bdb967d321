//! `blobpack export`: an image, or a tree of files, out of the pack.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use blobpack::image::{self, ExportOptions, Location, Place as Kind, TREE_MEDIA_TYPE};
use blobpack::{Digest, Error, Name, Store};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::Serialize;

use super::failure::Failure;
use super::output::{Output, checksum_line, count, note, size_note};
use super::pack::{Json, ReadPack, resolve};
use super::place::Place;
use super::progress;

/// Export an image, or a tree of files.
///
/// TARGET is oci:DIR, an image layout, which is made, or gets the image in addition where it is there; or
/// oci-archive:FILE, a tar archive, which is made or replaced, or is written to standard output where FILE is -. Every
/// blob comes out byte for byte as it came in, and is compared with its digest on the way. In the layout the image is
/// called by what stands after a colon after the path, or else by the name that it is exported by.
///
/// dir:PATH gets a tree of files that was imported from one, with the permissions that it had, whatever the umask. PATH
/// is a new directory, which appears whole or not at all, or an empty one, which is filled where it is. A killed export
/// leaves a directory .NAME.PID-0.tmp beside a new one; remove it.
///
/// Counts: none change.
///
/// Costs: each blob is hashed and written once, and synced; a blob that the layout has already is read and compared
/// instead.
///
/// Never: writes to the pack or waits for who does, touches a directory that is no layout, makes an image visible
/// before all of it is there. What a killed export of an image leaves, the next one goes on from. A tree is never
/// written to a directory with something in it, and nothing outside of PATH, whatever its manifest and its links say.
#[derive(Args)]
#[command(after_help = "\
Examples:
  blobpack export store.pack library/alpine:3.20 oci:exported:3.20
  blobpack export store.pack library/alpine:3.20 oci-archive:alpine.tar
  blobpack export store.pack library/alpine:3.20 oci-archive:- | tar t
  blobpack export store.pack sources dir:copy

Prints `DIGEST  TARGET`; with oci-archive:- nothing but the archive. The same image makes the same archive, byte for \
byte.
--json prints an object: {\"digest\",\"target\",\"reference\",\"media_type\",\"blobs\",\"bytes\",\"written_blobs\",\
\"written_bytes\",\"missing\":[...]}.")]
pub struct Export {
    #[command(flatten)]
    pack: ReadPack,
    /// The image or the tree: its name, or the digest of its manifest or index
    #[arg(value_name = "NAME|DIGEST")]
    image: String,
    /// Where it goes: oci:DIR or oci-archive:FILE, and :NAME for what it is called there; or dir:PATH
    #[arg(value_name = "TARGET", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    target: Place,
    #[command(flatten)]
    format: Json,
}

/// The JSON of an export.
#[derive(Serialize)]
struct Report<'a> {
    digest: Digest,
    target: String,
    reference: Option<&'a str>,
    media_type: &'a str,
    blobs: u64,
    bytes: u64,
    written_blobs: u64,
    written_bytes: u64,
    missing: &'a [Digest],
}

impl Export {
    /// Exports what the name or the digest says.
    pub fn run(self) -> Result<(), Failure> {
        match &self.target {
            Place::Image(location) => self.image(location),
            Place::Tree(path) => self.tree(path),
        }
    }

    fn image(&self, location: &Location) -> Result<(), Failure> {
        let to_stream = location.place == Kind::Archive && location.path.as_os_str() == "-";
        if to_stream && self.format.json {
            let reason = "oci-archive:- writes the archive to standard output, where --json would be";
            return Err(Failure::wrong_usage(reason));
        }
        let (store, digest) = self.open()?;
        let bar = progress::bar("exporting", 0);
        let mut options = ExportOptions::new().progress(|done| progress::follow(&bar, &done));
        // What is no digest was found by its name.
        if self.image.parse::<Name>().is_ok() {
            options = options.reference(&self.image);
        }
        let exported = if to_stream {
            if let Some(reference) = &location.reference {
                options = options.reference(reference);
            }
            image::export_to(&store, &digest, &mut io::stdout().lock(), options)
        } else {
            image::export(&store, &digest, location, options)
        };
        bar.finish_and_clear();
        let exported = match exported {
            // Whoever reads the archive has seen enough.
            Err(Error::Io { source, .. }) if to_stream && source.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            exported => exported?,
        };
        let report = Report {
            digest: exported.digest,
            target: self.target.to_string(),
            reference: exported.reference.as_deref(),
            media_type: &exported.media_type,
            blobs: exported.blobs,
            bytes: exported.bytes,
            written_blobs: exported.written_blobs,
            written_bytes: exported.written_bytes,
            missing: &exported.missing,
        };
        if !to_stream {
            self.print(&report)?;
        }
        let (blobs, written) = (count(exported.blobs, "blob"), count(exported.written_blobs, "blob"));
        note(&format!("{blobs}; {written} with {} had to be written", size_note(exported.written_bytes)));
        if !exported.missing.is_empty() {
            note(&format!("{} not in the pack, and left out", count(exported.missing.len() as u64, "blob")));
        }
        Ok(())
    }

    fn tree(&self, path: &Path) -> Result<(), Failure> {
        let (store, digest) = self.open()?;
        let bar = progress::bar("exporting", 0);
        let exported = image::export_tree(&store, &digest, path, &mut |done| progress::follow(&bar, &done));
        bar.finish_and_clear();
        let exported = exported?;
        self.print(&Report {
            digest: exported.digest,
            target: self.target.to_string(),
            reference: None,
            media_type: TREE_MEDIA_TYPE,
            blobs: exported.blobs,
            bytes: exported.bytes,
            written_blobs: exported.files,
            written_bytes: exported.file_bytes,
            missing: &[],
        })?;
        note(&format!("{} with {}", count(exported.files, "file"), size_note(exported.file_bytes)));
        Ok(())
    }

    fn open(&self) -> Result<(Store, Digest), Failure> {
        let store = self.pack.open()?;
        let digest = resolve(&store, &self.image)?;
        Ok((store, digest))
    }

    fn print(&self, report: &Report<'_>) -> Result<(), Failure> {
        let mut output = Output::new();
        if self.format.json {
            output.json(report)?;
        } else {
            output.bytes(&checksum_line(report.digest, OsStr::new(&report.target)))?;
        }
        output.flush()
    }
}
