//! Images that skopeo and umoci make of real files go into a pack and come out, and skopeo and umoci take what came out.
//! Where they are not installed this prints that it was skipped.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

mod common;
#[path = "common/images.rs"]
mod images;

use images::{INDEX, MANIFEST, REF_NAME, blob_file};

/// A directory in which the tools are called.
struct Place {
    base: TempDir,
}

impl Place {
    /// None where the tools are missing.
    fn new(test: &str) -> Option<Place> {
        for tool in ["skopeo", "umoci"] {
            let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !found.is_ok_and(|status| status.success()) {
                common::skipped(&format!("{test}: {tool} is not installed"));
                return None;
            }
        }
        Some(Place { base: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// A call that is to work; its standard output.
    fn call<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> String {
        let mut command = Command::new(program);
        command.current_dir(self.base.path()).args(arguments).stdin(Stdio::null());
        // Nothing of the user's configuration, and no service of the machine.
        command.env("HOME", self.base.path()).env("XDG_RUNTIME_DIR", self.base.path()).env("TMPDIR", self.base.path());
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    fn blobpack(&self, arguments: &[&str]) -> String {
        self.call(env!("CARGO_BIN_EXE_blobpack"), arguments)
    }

    fn umoci(&self, arguments: &[&str]) -> String {
        self.call("umoci", arguments)
    }

    fn copy(&self, from: &str, to: &str) {
        self.call("skopeo", ["--insecure-policy", "copy", "--quiet", "--all", from, to]);
    }

    /// The digest that skopeo has for an image.
    fn inspect(&self, image: &str) -> String {
        let json: Value = serde_json::from_str(&self.call("skopeo", ["inspect", image])).unwrap();
        json["Digest"].as_str().unwrap().to_owned()
    }

    fn raw(&self, image: &str) -> String {
        self.call("skopeo", ["inspect", "--raw", image])
    }

    /// The layout `made` with `base`, `v1` and `v2` upon one another, `arm` with the layers of `v2`, and `multi`, an
    /// index of `v2` and `arm`. The files are this repository's.
    fn images(&self) {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        self.umoci(&["init", "--layout", "made"]);
        self.umoci(&["new", "--image", "made:base"]);
        for (from, to, files) in [("base", "v1", "src"), ("v1", "v2", "tests")] {
            self.umoci(&["unpack", "--rootless", "--image", &format!("made:{from}"), to]);
            copy_tree(&repository.join(files), &self.path(to).join("rootfs").join(files));
            fs::copy(repository.join("Cargo.toml"), self.path(to).join("rootfs/Cargo.toml")).unwrap();
            let link = self.path(to).join("rootfs").join(format!("link-{to}"));
            std::os::unix::fs::symlink("Cargo.toml", link).unwrap();
            self.umoci(&["repack", "--image", &format!("made:{to}"), to]);
        }
        self.umoci(&["config", "--image", "made:v2", "--tag", "arm", "--architecture", "arm64"]);
        let mut index: Value = serde_json::from_slice(&fs::read(self.path("made/index.json")).unwrap()).unwrap();
        let listed = index["manifests"].as_array_mut().unwrap();
        let of = |name: &str, architecture: &str| {
            let found = listed.iter().find(|entry| entry["annotations"][REF_NAME] == name).unwrap();
            json!({"mediaType": MANIFEST, "digest": found["digest"], "size": found["size"],
                "platform": {"architecture": architecture, "os": "linux"}})
        };
        let manifests = [of("v2", "amd64"), of("arm", "arm64")];
        let multi = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string();
        let digest = blobpack::Digest::of(blobpack::Algorithm::Sha256, multi.as_bytes()).to_string();
        fs::write(self.path("made").join(blob_file(&digest)), &multi).unwrap();
        listed.push(
            json!({"mediaType": INDEX, "digest": digest, "size": multi.len(), "annotations": {REF_NAME: "multi"}}),
        );
        fs::write(self.path("made/index.json"), index.to_string()).unwrap();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_tree(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// What is below a directory: bytes, or where a link leads, and the mode.
fn tree(directory: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![directory.to_path_buf()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let bytes = if metadata.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(directory).unwrap().to_path_buf();
            found.insert(name, (metadata.permissions().mode(), bytes));
        }
    }
    found
}

/// The blobs of a layout, by their files.
fn blobs(layout: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut blobs = tree(&layout.join("blobs"));
    blobs.retain(|name, _| name.components().count() == 2);
    // Modes are the tools' own.
    blobs.values_mut().for_each(|(mode, _)| *mode = 0);
    blobs
}

#[test]
fn what_umoci_and_skopeo_make_comes_out_as_it_went_in() {
    let Some(place) = Place::new("what_umoci_and_skopeo_make_comes_out_as_it_went_in") else { return };
    place.images();
    for image in ["base", "v1", "v2", "multi"] {
        place.blobpack(&["import", "store.pack", &format!("oci:made:{image}"), "--name", image]);
        place.blobpack(&["export", "store.pack", image, "oci:out"]);
        assert_eq!(place.raw(&format!("oci:made:{image}")), place.raw(&format!("oci:out:{image}")), "{image}");
    }
    assert_eq!(blobs(&place.path("made")), blobs(&place.path("out")));
    assert_eq!(place.inspect("oci:out:v2"), place.inspect("oci:made:v2"));
    // The layers are shared: the second image adds a layer, a configuration and a manifest.
    let again = place.blobpack(&["import", "other.pack", "oci:made:v1", "--name", "v1", "--json"]);
    let stored = |text: &str| serde_json::from_str::<Value>(text).unwrap()["stored_blobs"].as_u64().unwrap();
    assert_eq!(stored(&again), 3);
    assert_eq!(stored(&place.blobpack(&["import", "other.pack", "oci:made:v2", "--name", "v2", "--json"])), 3);

    place.copy("oci:out:v2", "oci:copied:v2");
    assert_eq!(place.inspect("oci:copied:v2"), place.inspect("oci:made:v2"));
    place.umoci(&["unpack", "--rootless", "--image", "out:v2", "unpacked"]);
    assert!(tree(&place.path("unpacked/rootfs")) == tree(&place.path("v2/rootfs")));
    assert!(place.path("unpacked/rootfs/tests/image_tools.rs").is_file());
    place.blobpack(&["verify", "store.pack"]);
}

#[test]
fn all_platforms_of_an_index_come_through_skopeo_and_back() {
    let Some(place) = Place::new("all_platforms_of_an_index_come_through_skopeo_and_back") else { return };
    place.images();
    place.copy("oci:made:multi", "oci:first:multi");
    // skopeo leaves the one image out of which others are made for last, and names only that one.
    place.blobpack(&["import", "store.pack", "oci:first:multi"]);
    place.blobpack(&["export", "store.pack", "multi", "oci:second"]);
    assert_eq!(place.raw("oci:made:multi"), place.raw("oci:second:multi"));
    place.copy("oci:second:multi", "oci:third:multi");
    assert_eq!(blobs(&place.path("first")), blobs(&place.path("third")));
    for platform in ["amd64", "arm64"] {
        let config = place.call("skopeo", ["--override-arch", platform, "inspect", "--config", "oci:second:multi"]);
        assert_eq!(serde_json::from_str::<Value>(&config).unwrap()["architecture"], platform);
    }
}

#[test]
fn archives_of_skopeo_are_read_and_those_of_blobpack_are_taken() {
    let Some(place) = Place::new("archives_of_skopeo_are_read_and_those_of_blobpack_are_taken") else { return };
    place.images();
    place.copy("oci:made:v2", "oci-archive:made.tar:v2");
    assert!(place.blobpack(&["import", "store.pack", "oci-archive:made.tar"]).ends_with("  v2\n"));
    place.blobpack(&["export", "store.pack", "v2", "oci-archive:out.tar"]);
    assert_eq!(place.inspect("oci-archive:out.tar"), place.inspect("oci:made:v2"));
    place.copy("oci-archive:out.tar:v2", "oci:copied:v2");
    place.umoci(&["unpack", "--rootless", "--image", "copied:v2", "unpacked"]);
    assert!(tree(&place.path("unpacked/rootfs")) == tree(&place.path("v2/rootfs")));
    // The same as tar makes of a layout.
    place.call("tar", ["-cf", "by-hand.tar", "-C", "copied", "."]);
    place.blobpack(&["import", "other.pack", "oci-archive:by-hand.tar"]);

    place.copy("oci:made:v2", "docker-archive:docker.tar:real/image:1");
    let imported = place.blobpack(&["import", "store.pack", "docker-archive:docker.tar"]);
    assert!(imported.ends_with("  docker.io/real/image:1\n") || imported.ends_with("  real/image:1\n"), "{imported}");
    let name = imported.trim_end().split("  ").nth(1).unwrap();
    place.blobpack(&["export", "store.pack", name, "oci:docker:d"]);
    assert_eq!(place.inspect("oci:docker:d"), imported[..71]);
    place.umoci(&["unpack", "--rootless", "--image", "docker:d", "docker-unpacked"]);
    assert!(tree(&place.path("docker-unpacked/rootfs")) == tree(&place.path("v2/rootfs")));
}
