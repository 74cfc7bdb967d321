//! Manifests and indexes: which blobs they name. Types of the OCI image specification 1.1 and of Docker's image
//! manifest version 2, schema 2, by the `oci-spec` crate.

use oci_spec::image::{Descriptor as OciDescriptor, MediaType};
use serde::Deserialize;

use crate::digest::Digest;
use crate::fault::Fault;

/// A manifest or an index is no longer: the limit of the common registries.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// JSON is nested no deeper.
const JSON_DEPTH_MAX: usize = 64;

const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// What names other blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A list of manifests and indexes.
    Index,
    /// A configuration and layers.
    Manifest,
    /// A list of blobs, which specification 1.1 had before its release.
    Artifact,
}

impl Kind {
    /// The kind of a media type; none for what is a leaf.
    pub fn of(media_type: &str) -> Option<Kind> {
        match MediaType::from(media_type) {
            MediaType::ImageIndex => Some(Kind::Index),
            MediaType::ImageManifest => Some(Kind::Manifest),
            MediaType::ArtifactManifest => Some(Kind::Artifact),
            MediaType::Other(other) if other == DOCKER_INDEX => Some(Kind::Index),
            MediaType::Other(other) if other == DOCKER_MANIFEST => Some(Kind::Manifest),
            _ => None,
        }
    }
}

/// One blob that something names.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Its digest.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
    /// What it is.
    pub media_type: String,
    /// Whether layouts may leave it out: a layer that may not be distributed and says where else it is to be had.
    pub optional: bool,
}

impl Reference {
    /// Takes a descriptor over, if its digest is one that can be computed.
    pub fn new(descriptor: &OciDescriptor) -> Result<Reference, Fault> {
        let text = descriptor.digest().as_ref();
        let digest = text.parse().map_err(|error: crate::error::Error| Fault::Refused { reason: error.to_string() })?;
        let media_type = descriptor.media_type().to_string();
        let elsewhere = descriptor.urls().as_ref().is_some_and(|urls| !urls.is_empty());
        let optional = elsewhere && (media_type == DOCKER_FOREIGN || media_type.contains(".layer.nondistributable."));
        Ok(Reference { digest, size: descriptor.size(), media_type, optional })
    }
}

/// The fields that decide, of all kinds in one: so a text that is two kinds at once shows.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    media_type: Option<String>,
    config: Option<OciDescriptor>,
    layers: Option<Vec<OciDescriptor>>,
    manifests: Option<Vec<OciDescriptor>>,
    blobs: Option<Vec<OciDescriptor>>,
}

impl Envelope {
    fn parse(bytes: &[u8]) -> Result<Envelope, Fault> {
        // A list of five would be taken for the five fields.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(Fault::Json { reason: "not an object".into() });
        }
        parse(bytes)
    }

    /// What it is by its fields. Readers that disagree on that would see different images under one digest
    /// (CVE-2021-41190).
    fn kind(&self) -> Result<Kind, Fault> {
        let is_manifest = self.config.is_some() || self.layers.is_some();
        let kind = match (self.manifests.is_some(), is_manifest, self.blobs.is_some()) {
            (true, false, false) => Kind::Index,
            (false, true, false) => Kind::Manifest,
            (false, false, true) => Kind::Artifact,
            // A Go program writes an empty list as null.
            (false, false, false) => match self.media_type.as_deref().and_then(Kind::of) {
                Some(kind) if kind != Kind::Manifest => kind,
                _ => return Err(refused("is neither an image's manifest nor an index")),
            },
            _ => return Err(refused("is an index and a manifest at once")),
        };
        match self.media_type.as_deref().map(Kind::of) {
            Some(stated) if stated != Some(kind) => Err(refused("its media type and its fields disagree")),
            _ => Ok(kind),
        }
    }
}

fn refused(reason: &str) -> Fault {
    Fault::Refused { reason: reason.into() }
}

/// Reads JSON that is not nested too deep.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Fault> {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if deepest > JSON_DEPTH_MAX {
        return Err(Fault::TooDeep { limit: JSON_DEPTH_MAX });
    }
    serde_json::from_slice(bytes).map_err(|error| Fault::Json { reason: error.to_string() })
}

/// What a manifest or index that its descriptor calls `kind` names, in its order. Its `subject` is not among that: it
/// says what the artifact is about, and may be absent.
pub fn references(kind: Kind, bytes: &[u8]) -> Result<Vec<Reference>, Fault> {
    let envelope = Envelope::parse(bytes)?;
    if envelope.kind()? != kind {
        return Err(refused("is of another kind than its descriptor says"));
    }
    if kind == Kind::Manifest && envelope.config.is_none() {
        return Err(refused("is a manifest without a configuration"));
    }
    let lists = [envelope.layers, envelope.manifests, envelope.blobs];
    let named = envelope.config.iter().chain(lists.iter().flatten().flatten());
    named.map(Reference::new).collect()
}

/// What the root of an image is, by its bytes alone: its media type.
pub fn media_type(bytes: &[u8]) -> Result<String, Fault> {
    let envelope = Envelope::parse(bytes)?;
    let kind = envelope.kind()?;
    Ok(envelope.media_type.unwrap_or_else(|| match kind {
        Kind::Index => MediaType::ImageIndex.to_string(),
        Kind::Manifest => MediaType::ImageManifest.to_string(),
        Kind::Artifact => MediaType::ArtifactManifest.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(digest: char) -> String {
        let digest = digest.to_string().repeat(64);
        format!(r#"{{"mediaType":"x/y","digest":"sha256:{digest}","size":3}}"#)
    }

    #[test]
    fn what_is_named_comes_in_order_and_the_subject_not_at_all() {
        let (a, b, c) = (descriptor('a'), descriptor('b'), descriptor('c'));
        let text = format!(r#"{{"schemaVersion":2,"config":{a},"layers":[{b},{b}],"subject":{c}}}"#);
        let found = references(Kind::Manifest, text.as_bytes()).unwrap();
        let digits: Vec<_> = found.iter().map(|reference| reference.digest.to_string()[7..8].to_owned()).collect();
        assert_eq!(digits, ["a", "b", "b"]);
        assert_eq!(media_type(text.as_bytes()).unwrap(), MediaType::ImageManifest.to_string());
    }

    #[test]
    fn empty_lists_are_fine_however_they_are_written() {
        let config = descriptor('a');
        for layers in ["[]", "null"] {
            let text = format!(r#"{{"config":{config},"layers":{layers}}}"#);
            assert_eq!(references(Kind::Manifest, text.as_bytes()).unwrap().len(), 1);
        }
        let index = r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}"#;
        assert!(references(Kind::Index, index.as_bytes()).unwrap().is_empty());
    }

    #[test]
    fn what_is_two_things_at_once_or_none_is_refused() {
        let a = descriptor('a');
        let index = MediaType::ImageIndex;
        for (kind, text, part) in [
            (Kind::Index, format!(r#"{{"manifests":[],"layers":[{a}]}}"#), "at once"),
            (Kind::Manifest, format!(r#"{{"mediaType":"{index}","config":{a},"layers":[]}}"#), "disagree"),
            (Kind::Manifest, r#"{"manifests":[]}"#.to_owned(), "another kind"),
            (Kind::Manifest, r#"{"layers":[]}"#.to_owned(), "without a configuration"),
            (Kind::Manifest, "{}".to_owned(), "neither"),
            (Kind::Manifest, "[]".to_owned(), "JSON"),
            (Kind::Manifest, r#"{"config":1}"#.to_owned(), "JSON"),
            (Kind::Manifest, format!(r#"{{"config":{a},"config":{a}}}"#), "duplicate field"),
            (Kind::Index, r#"{"manifests":[{"mediaType":"x","digest":"md5:0","size":1}]}"#.to_owned(), "md5"),
            (Kind::Index, r#"{"manifests":[{"mediaType":"x","digest":"sha256:0","size":1}]}"#.to_owned(), "digest"),
            (Kind::Index, r#"{"manifests":[{"mediaType":"x","digest":"../../x","size":1}]}"#.to_owned(), "digest"),
        ] {
            let fault = references(kind, text.as_bytes()).unwrap_err().to_string();
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }

    #[test]
    fn depth_counts_outside_of_strings_alone() {
        let nested = |depth| format!(r#"{{"manifests":[],"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(references(Kind::Index, nested(JSON_DEPTH_MAX - 1).as_bytes()).is_ok());
        let fault = references(Kind::Index, nested(JSON_DEPTH_MAX).as_bytes()).unwrap_err();
        assert!(matches!(fault, Fault::TooDeep { .. }), "{fault}");
        let quoted = format!(r#"{{"manifests":[],"x":"\"{}"}}"#, "[".repeat(1000));
        assert!(references(Kind::Index, quoted.as_bytes()).is_ok());
        assert!(references(Kind::Index, "[".repeat(1 << 20).as_bytes()).is_err());
    }
}
