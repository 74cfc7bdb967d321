//! What `docker save` wrote before Docker 25, and what skopeo still writes as `docker-archive`: `manifest.json` names
//! for each image a configuration and the layers' tar files.
//!
//! It states no digests of its files. The configuration does: `rootfs.diff_ids` are the digests of the uncompressed
//! layers, in order, and these files are uncompressed. So each layer is checked against its `diff_id`, and the
//! configuration against its own name where that is a digest. The manifest that is made names the very same bytes, by
//! the types of OCI, and is the same for the same image each time.
//!
//! A layer that is a link to another one (Docker before 25 writes such for layers that occur twice) is that other one,
//! as long as the link stays inside of the archive.

use std::collections::HashMap;

use oci_spec::image::{Descriptor, ImageManifest, ImageManifestBuilder, MediaType, SCHEMA_VERSION};
use serde::Deserialize;

use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::image::archive::Entry;
use crate::image::files::Files;
use crate::image::location::Location;
use crate::image::manifest::{MANIFEST_BYTES_MAX, Reference, parse};
use crate::image::source::{Candidate, Elsewhere, Source, is_blob};

/// The file that says which images there are.
pub const MANIFEST: &str = "manifest.json";
/// The configurations of all images, those that several name once for each, have together no more bytes: each is read
/// to say which images there are.
const CONFIGS_BYTES_MAX: u64 = 64 << 20;

/// One image of `manifest.json`.
#[derive(Deserialize)]
struct Image {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Option<Vec<String>>,
}

/// What is needed of a configuration.
#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

/// What may be in such an archive.
pub fn expected(name: &str, entry: &Entry) -> Result<(), &'static str> {
    let parts: Vec<&str> = name.split('/').collect();
    match (&*parts, entry) {
        (["blobs", _, ..], Entry::Symlink(_) | Entry::Hardlink(_)) => Err("it is a link among the blobs"),
        ([_] | ["blobs", _], Entry::Directory) => Ok(()),
        (["blobs", algorithm, encoded], _) => is_blob(algorithm, encoded),
        ([MANIFEST | "repositories" | "oci-layout" | "index.json"], Entry::File { .. }) => Ok(()),
        ([_, "layer.tar"], _) => Ok(()),
        ([_, "json" | "VERSION"], Entry::File { .. }) => Ok(()),
        ([file], _) if file.ends_with(".tar") => Ok(()),
        ([file], Entry::File { .. }) if file.ends_with(".json") || file.starts_with("sha256:") => Ok(()),
        _ => Err("it is none of the entries of a Docker archive"),
    }
}

/// Makes a manifest for each image and chooses one.
pub fn open(files: Files, location: &Location) -> Result<Source> {
    let bytes = files.read(MANIFEST, MANIFEST_BYTES_MAX)?;
    let bytes = bytes.ok_or_else(|| files.blame.fault(MANIFEST, Fault::Missing))?;
    let images: Vec<Image> = parse(&bytes).map_err(|fault| files.blame.fault(MANIFEST, fault))?;
    let (mut found, mut elsewhere, mut left) = (Vec::new(), HashMap::new(), CONFIGS_BYTES_MAX);
    for image in images {
        let size = files.size(&image.config)?.unwrap_or_default();
        left = left.checked_sub(size).ok_or_else(|| {
            let reason = format!("names configurations with more than {CONFIGS_BYTES_MAX} bytes together");
            files.blame.refused(MANIFEST, &reason)
        })?;
        let root = made(&files, &image, &mut elsewhere)?;
        match image.tags.filter(|tags| !tags.is_empty()) {
            // A candidate a tag, so that the one that is asked for is the only name.
            Some(tags) => found.extend(tags.into_iter().map(|tag| Candidate {
                root: root.clone(),
                called: vec![tag.clone()],
                name: Some(tag),
            })),
            None => found.push(Candidate { root, called: Vec::new(), name: None }),
        }
    }
    Source::choose(files, elsewhere, found, location.reference.as_deref())
}

/// Makes the manifest of an image, and says where its blobs are.
fn made(files: &Files, image: &Image, elsewhere: &mut HashMap<Digest, Elsewhere>) -> Result<Reference> {
    let name = &*image.config;
    let config = files.read(name, MANIFEST_BYTES_MAX)?.ok_or_else(|| files.blame.fault(name, Fault::Missing))?;
    let digest = Digest::of(Algorithm::Sha256, &config);
    if let Some(expected) = digest_in(name).filter(|&expected| expected != digest) {
        let fault = Fault::Digest { expected: Box::new(expected), found: Box::new(digest) };
        return Err(files.blame.fault(name, fault));
    }
    let parsed: Config = parse(&config).map_err(|fault| files.blame.fault(name, fault))?;
    let diff_ids = parsed.rootfs.diff_ids.unwrap_or_default();
    let layers = image.layers.as_deref().unwrap_or_default();
    if diff_ids.len() != layers.len() {
        let reason = format!("names {} layers, and {MANIFEST} names {}", diff_ids.len(), layers.len());
        return Err(files.blame.refused(name, &reason));
    }
    let mut named = Vec::new();
    for (diff_id, layer) in diff_ids.iter().zip(layers) {
        let refuse = |reason: String| files.blame.refused(name, &reason);
        let digest: Digest = diff_id.parse().map_err(|error: Error| refuse(error.to_string()))?;
        let size = files.size(layer)?.ok_or_else(|| files.blame.fault(layer, Fault::Missing))?;
        elsewhere.insert(digest, Elsewhere::File(layer.clone()));
        named.push(descriptor(MediaType::ImageLayer, &digest, size));
    }
    let described = descriptor(MediaType::ImageConfig, &digest, config.len() as u64);
    elsewhere.insert(digest, Elsewhere::File(name.to_owned()));
    let bytes = bytes_of(described, named);
    let (digest, size) = (Digest::of(Algorithm::Sha256, &bytes), bytes.len() as u64);
    elsewhere.insert(digest, Elsewhere::Made(bytes));
    Ok(Reference { digest, size, media_type: MediaType::ImageManifest.to_string(), optional: false })
}

fn descriptor(media_type: MediaType, digest: &Digest, size: u64) -> Descriptor {
    let digest: oci_spec::image::Digest = digest.to_string().parse().expect("both write digests alike");
    Descriptor::new(media_type, size, digest)
}

fn bytes_of(config: Descriptor, layers: Vec<Descriptor>) -> Vec<u8> {
    let manifest: ImageManifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build()
        .expect("all that is required is set");
    serde_json::to_vec(&manifest).expect("a manifest without maps is written in the order of its fields")
}

/// The digest that a configuration's name states: `HEX.json`, `sha256:HEX` or `blobs/sha256/HEX`.
fn digest_in(name: &str) -> Option<Digest> {
    let hex = name.strip_suffix(".json").unwrap_or(name);
    let hex = hex.strip_prefix("sha256:").or_else(|| hex.strip_prefix("blobs/sha256/")).unwrap_or(hex);
    format!("sha256:{hex}").parse().ok()
}
