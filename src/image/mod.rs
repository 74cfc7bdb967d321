//! Whole images in and out, through the formats that container tools speak (feature `oci`).
//!
//! A [`Location`] says where an image comes from or goes to: `oci:DIR`, an image layout of the Open Container
//! Initiative; `oci-archive:FILE`, the same in a tar archive, which is also what `docker save` writes since Docker 25;
//! `docker-archive:FILE`, what it wrote before. [`import`] takes one image in, [`export`] writes one out.
//!
//! ```
//! use blobpack::image::{ExportOptions, ImportOptions, Location, Source, export, import};
//! # let directory = tempfile::tempdir()?;
//! # let layout = directory.path().join("layout");
//! # std::fs::create_dir_all(layout.join("blobs/sha256"))?;
//! # let config = b"{}";
//! # let of = |bytes: &[u8]| blobpack::Digest::of(blobpack::Algorithm::Sha256, bytes).to_string();
//! # let write = |bytes: &[u8]| std::fs::write(layout.join("blobs").join(of(bytes).replace(':', "/")), bytes);
//! # write(config)?;
//! # let manifest = format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json",
//! # "digest":"{}","size":2}},"layers":[]}}"#, of(config));
//! # write(manifest.as_bytes())?;
//! # std::fs::write(layout.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":
//! # "application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{},"annotations":
//! # {{"org.opencontainers.image.ref.name":"alpine:3.20"}}}}]}}"#, of(manifest.as_bytes()), manifest.len()))?;
//! # let from = format!("oci:{}", layout.display());
//! # let to = format!("oci-archive:{}", directory.path().join("alpine.tar").display());
//! let store = blobpack::Store::temporary()?;
//! let source = Source::open(&from.parse()?)?; // "oci:layout"
//! let imported = import(&store, &source, ImportOptions::new())?;
//! assert_eq!(imported.names[0].as_str(), "alpine:3.20");
//!
//! export(&store, &imported.digest, &to.parse()?, ExportOptions::new())?; // "oci-archive:alpine.tar"
//! store.remove_name(&imported.names[0])?; // the image goes, and with it what only it kept
//! assert_eq!(store.stats()?.blobs, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What becomes of an image
//!
//! The root is what the layout's `index.json` describes: a manifest, or an index of manifests; one of any other media
//! type is refused. Index to manifests, and manifest to configuration and layers, become links, so that the root keeps
//! everything. The root's name keeps the root. It is the one that the caller asks for; without, the source's own
//! (`io.containerd.image.name`, else `org.opencontainers.image.ref.name`, or a Docker archive's tags), which is never
//! taken away from another image. Where there is no name at all the caller has a reference on the root.
//!
//! * **Whole, or nothing.** Each blob is compared with the digest and the size that its descriptor states, and one
//!   batch commits them with links and names.
//! * **Counts.** Importing an image again changes no count. What is in the pack already, under its digest, is not read
//!   from the source, and need not be there; its size is still compared. Its bytes are taken for what they were when
//!   they were stored ([`Store::verify`](crate::Store::verify) looks); only manifests are compared again.
//! * **What is followed**: indexes in indexes (up to 8 levels), manifests for any platforms, those of Docker's schema
//!   2. Every other media type is a leaf. The `subject` of an artifact is not followed: it may be absent, and does not
//!   belong to the artifact. A manifest that readers could take for different things (two kinds at once, media types
//!   that contradict) is refused.
//! * **What may be absent**: layers that must not be distributed and have `urls`; with
//!   [`sparse`](ImportOptions::sparse), some manifests of an index.
//!
//! # What it costs
//!
//! Each blob that the pack lacks is read twice where it is a manifest, else once, and streams into the pack. ([`check`]
//! reads all of them before, and leaves even the bytes of the pack's file as they are where something is wrong.) Blobs
//! below 64 KiB wait in memory for the commit, as in any [`Batch`](crate::Batch); so does a table of an archive's
//! entries. Manifests have at most 4 MiB. After an error the space of what was streamed is given back to the file
//! system, though the file may stay longer than it was.
//!
//! # What it never does
//!
//! It never unpacks anything into the file system, and never reads outside of the source: entries of archives that are
//! not plain files under the names that such an archive has are refused by name. Nothing that is compressed is
//! decompressed. An export changes no count, and never writes over anything but the archive that it is to write, or a
//! layout's `index.json` and its damaged blobs.

mod archive;
mod docker;
mod export;
mod files;
mod import;
mod layout;
mod location;
mod manifest;
mod plan;
mod source;
pub mod tree;
mod write_archive;

pub use crate::fault::{Fault, ImageFault};
#[doc(hidden)]
pub use archive::ReadAt;
pub use export::{ExportOptions, Exported, export, export_to};
#[doc(hidden)]
pub use files::through_links;
pub use import::{ImportOptions, Imported, check, import};
pub use location::{Location, Place};
pub use source::Source;
pub use tree::{ExportedTree, ImportedTree, TREE_MEDIA_TYPE, check_tree, export_tree, import_tree};
