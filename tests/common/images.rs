//! Images made by hand: layouts in memory, as directories and as archives.
#![allow(dead_code, reason = "each test program uses some of this")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use blobpack::{Algorithm, Digest};
use serde_json::{Value, json};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The file of a blob in a layout.
pub fn blob_file(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// A layout in memory: its files by name.
#[derive(Clone, Default)]
pub struct Layout {
    pub files: BTreeMap<String, Vec<u8>>,
    roots: Vec<Value>,
}

impl std::fmt::Debug for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.files.keys()).finish()
    }
}

impl Layout {
    pub fn new() -> Layout {
        let mut layout = Layout::default();
        layout.files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        layout
    }

    /// A blob; its descriptor.
    pub fn blob_by(&mut self, algorithm: Algorithm, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(algorithm, bytes).to_string();
        self.files.insert(blob_file(&digest), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    pub fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        self.blob_by(Algorithm::Sha256, media_type, bytes)
    }

    pub fn json(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// An image with a configuration of its own.
    pub fn image(&mut self, config: &str, layers: &[Value]) -> Value {
        let config = self.json(CONFIG, &json!({"architecture": config, "os": "linux"}));
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.json(MANIFEST, &manifest)
    }

    pub fn index(&mut self, manifests: &[Value]) -> Value {
        self.json(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
    }

    /// The same files, with no image listed yet.
    pub fn unlisted(&self) -> Layout {
        let mut files = self.files.clone();
        files.remove("index.json");
        Layout { files, roots: Vec::new() }
    }

    /// Lists an image in `index.json`.
    pub fn root(&mut self, mut descriptor: Value, reference: Option<&str>) -> &mut Layout {
        if let Some(reference) = reference {
            descriptor["annotations"] = json!({REF_NAME: reference});
        }
        self.roots.push(descriptor);
        let index = json!({"schemaVersion": 2, "manifests": self.roots});
        self.files.insert("index.json".into(), index.to_string().into_bytes());
        self
    }

    pub fn write(&self, directory: &Path) {
        for (name, bytes) in &self.files {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    pub fn archive(&self) -> Vec<u8> {
        let mut tar = Tar::default();
        for (name, bytes) in &self.files {
            tar.file(name, bytes);
        }
        tar.end()
    }
}

pub fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

/// One platform, one layer that streams, one that waits in memory, one that is empty.
pub fn small_image() -> (Layout, Value) {
    let mut layout = Layout::new();
    let layers = [crate::common::content(1, 200_000), crate::common::content(2, 3_000), Vec::new()];
    let layers: Vec<Value> = layers.iter().map(|bytes| layout.blob(LAYER, bytes)).collect();
    let image = layout.image("amd64", &layers);
    layout.root(image.clone(), Some("small:1"));
    (layout, image)
}

/// An archive, entry by entry, with names that no careful program would write.
#[derive(Default)]
pub struct Tar {
    pub bytes: Vec<u8>,
}

impl Tar {
    pub fn entry(&mut self, name: &str, kind: tar::EntryType, content: &[u8], link: &str) -> &mut Tar {
        let size = content.len() as u64;
        let header = header(name, kind, size, link);
        self.raw(&header, content)
    }

    pub fn raw(&mut self, header: &tar::Header, content: &[u8]) -> &mut Tar {
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// A plain file; a long name as GNU tar writes it.
    pub fn file(&mut self, name: &str, content: &[u8]) -> &mut Tar {
        if name.len() > 100 {
            self.entry("././@LongLink", tar::EntryType::GNULongName, format!("{name}\0").as_bytes(), "");
        }
        self.entry(&name[..name.len().min(100)], tar::EntryType::Regular, content, "")
    }

    pub fn end(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

pub fn header(name: &str, kind: tar::EntryType, size: u64, link: &str) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

/// One pax record, with its own length before it.
pub fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

/// A configuration as Docker writes it, but for its layers.
pub const DOCKER_CONFIG: &str =
    r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":DIFF_IDS}}"#;

/// A Docker archive as Docker before 25 writes it: a layer that occurs twice is a link the second time.
pub fn docker(layers: &[&[u8]], config: &str) -> (Tar, Vec<String>) {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(Algorithm::Sha256, layer).to_string()).collect();
    let mut tar = Tar::default();
    let mut paths: Vec<String> = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let directory = format!("{number:064x}");
        tar.entry(&format!("{directory}/"), tar::EntryType::Directory, b"", "");
        tar.file(&format!("{directory}/VERSION"), b"1.0").file(&format!("{directory}/json"), b"{}");
        let path = format!("{directory}/layer.tar");
        match layers[..number].iter().position(|other| other == layer) {
            Some(first) => tar.entry(&path, tar::EntryType::Symlink, b"", &format!("../{first:064x}/layer.tar")),
            None => tar.file(&path, layer),
        };
        paths.push(path);
    }
    let config = config.replace("DIFF_IDS", &json!(diff_ids).to_string());
    let name = format!("{}.json", &Digest::of(Algorithm::Sha256, config.as_bytes()).to_string()[7..]);
    tar.file(&name, config.as_bytes());
    let image = json!([{"Config": name, "RepoTags": ["a:1", "a:2"], "Layers": paths}]);
    tar.file("manifest.json", image.to_string().as_bytes()).file("repositories", b"{}");
    (tar, diff_ids)
}
