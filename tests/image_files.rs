//! Layouts and archives on the disk: written whole or not at all, whatever an export before left there; and the verbs.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blobpack::image::{ExportOptions, ImportOptions, Location, Source, export, import};
use blobpack::{Digest, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

mod common;
#[path = "common/images.rs"]
mod images;

use images::{LAYER, Layout, REF_NAME, blob_file, digest, small_image};

/// A pack with the small image in it, and room beside it.
struct Place {
    base: TempDir,
    store: Store,
    layout: Layout,
    image: Digest,
}

impl Place {
    fn new() -> Place {
        let base = tempfile::tempdir().unwrap();
        let store = Store::open(base.path().join("store.pack")).unwrap();
        let (layout, image) = small_image();
        layout.write(&base.path().join("source"));
        let place = Place { store, layout, image: digest(&image), base };
        place.import("oci:source").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// A location whose path is in here.
    fn location(&self, text: &str) -> Location {
        let mut location: Location = text.parse().unwrap();
        location.path = self.base.path().join(&location.path);
        location
    }

    fn import(&self, from: &str) -> blobpack::Result<blobpack::image::Imported> {
        import(&self.store, &Source::open(&self.location(from))?, ImportOptions::new())
    }

    fn export(&self, to: &str) -> blobpack::Result<blobpack::image::Exported> {
        export(&self.store, &self.image, &self.location(to), ExportOptions::new())
    }

    /// That the layout has the small image, every blob of it, and nothing half written.
    fn check(&self, directory: &Path) {
        let files = tree(directory);
        for (name, bytes) in self.layout.files.iter().filter(|(name, _)| name.starts_with("blobs/")) {
            assert!(files.get(name).is_some_and(|found| found.as_ref() == Some(bytes)), "{name}");
        }
        let leftovers: Vec<_> = files.keys().filter(|name| name.contains(".tmp")).collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
        let mut location = self.location("oci:x");
        location.path = directory.into();
        let store = Store::temporary().unwrap();
        let imported = import(&store, &Source::open(&location).unwrap(), ImportOptions::new()).unwrap();
        assert_eq!(imported.digest, self.image);
    }
}

/// Files by name; directories too, without bytes.
type Tree = BTreeMap<String, Option<Vec<u8>>>;

/// All files below a directory.
fn tree(directory: &Path) -> Tree {
    fn walk(base: &Path, at: &Path, found: &mut Tree) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                found.insert(name, None);
                walk(base, &path, found);
            } else {
                found.insert(name, Some(fs::read(&path).unwrap()));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(directory, directory, &mut found);
    found
}

fn write_tree(directory: &Path, files: &Tree) {
    fs::create_dir_all(directory).unwrap();
    for (name, bytes) in files {
        match bytes {
            None => fs::create_dir_all(directory.join(name)).unwrap(),
            Some(bytes) => fs::write(directory.join(name), bytes).unwrap(),
        }
    }
}

fn index_of(directory: &Path) -> Vec<(String, Option<String>)> {
    let index: Value = serde_json::from_slice(&fs::read(directory.join("index.json")).unwrap()).unwrap();
    let entry = |entry: &Value| {
        let name = entry["annotations"][REF_NAME].as_str().map(str::to_owned);
        (entry["digest"].as_str().unwrap().to_owned(), name)
    };
    index["manifests"].as_array().unwrap().iter().map(entry).collect()
}

/// What stands in the directory before each change that an export makes, and after the last: what a kill leaves,
/// whenever it comes.
fn states_of_an_export(place: &Place, directory: &str) -> Vec<(String, Tree)> {
    let path = place.path(directory);
    let states = RefCell::new(Vec::new());
    let options = ExportOptions::new().observe(|step| {
        let state = if path.exists() { tree(&path) } else { BTreeMap::new() };
        states.borrow_mut().push((step.to_owned(), state));
    });
    export(&place.store, &place.image, &place.location(&format!("oci:{directory}:1")), options).unwrap();
    states.into_inner()
}

/// A kill between two steps of an export once left a directory that the next export refused.
#[test]
fn the_next_export_goes_on_from_whatever_a_kill_left() {
    let place = Place::new();
    let states = states_of_an_export(&place, "whole");
    let steps: Vec<&str> = states.iter().map(|(step, _)| &**step).collect();
    assert_eq!((steps[0], *steps.last().unwrap()), ("make the directory", "done"));
    // Each of five blobs, the layout's own two files: made, filled, synced, renamed.
    assert!(steps.len() > 7 * 4, "{steps:?}");
    let whole = tree(&place.path("whole"));
    for (number, (step, state)) in states.iter().enumerate() {
        let directory = format!("killed{number}");
        write_tree(&place.path(&directory), state);
        place.export(&format!("oci:{directory}:1")).unwrap_or_else(|error| panic!("killed before {step}: {error}"));
        place.check(&place.path(&directory));
        assert!(tree(&place.path(&directory)) == whole, "killed before {step}");
    }
    // The same with an image there already, whose entry must survive.
    let mut other = Layout::new();
    let image = other.image("other", &[]);
    other.root(image.clone(), Some("other"));
    other.write(&place.path("with"));
    let states = states_of_an_export(&place, "with");
    let whole = tree(&place.path("with"));
    for (number, (step, state)) in states.iter().enumerate() {
        let directory = place.path(&format!("with{number}"));
        write_tree(&directory, state);
        let has = |name: &str| index_of(&directory).iter().any(|(_, found)| found.as_deref() == Some(name));
        assert!(has("other"), "killed before {step}");
        place.export(&format!("oci:with{number}:1")).unwrap_or_else(|error| panic!("killed before {step}: {error}"));
        assert!(tree(&directory) == whole, "killed before {step}");
        assert!(has("other") && has("1"));
    }
}

#[test]
fn a_directory_is_ours_when_it_is_a_layout_or_empty_or_what_an_export_left() {
    let place = Place::new();
    let hex = "a".repeat(64);
    let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
    for (number, files) in [
        vec![],
        vec![("oci-layout", Some(version))],
        vec![(".blobpack.tmp", Some("half"))],
        vec![("blobs", None)],
        vec![("blobs", None), ("blobs/sha256", None)],
        vec![("blobs", None), ("blobs/sha256", None), ("blobs/sha256/.blobpack.tmp", Some("half"))],
        vec![("oci-layout", Some(version)), ("something", Some("of other tools"))],
        vec![("oci-layout", Some(version)), ("index.json", Some(r#"{"schemaVersion":2,"manifests":null}"#))],
    ]
    .into_iter()
    .enumerate()
    {
        let files = files.into_iter().map(|(name, text)| (name.into(), text.map(|text| text.as_bytes().to_vec())));
        write_tree(&place.path(&format!("ours{number}")), &files.collect());
        place.export(&format!("oci:ours{number}")).unwrap();
        place.check(&place.path(&format!("ours{number}")));
    }
    let blob = format!("blobs/sha256/{hex}");
    for (number, (files, part)) in [
        (vec![("README", Some("mine"))], "README"),
        (vec![("index.json", Some("{}"))], "index.json"),
        (vec![("blobs", Some("a file"))], "blobs"),
        (vec![("blobs", None), ("blobs/x", Some("mine"))], "blobs/x"),
        (vec![("blobs", None), ("blobs/sha256", None), ("blobs/sha256/mine", Some("x"))], "blobs/sha256/mine"),
        (vec![("blobs", None), ("blobs/sha256", None), (&*blob, Some("x")), ("x", None)], "x"),
        (vec![("oci-layout", Some("nonsense"))], "oci-layout"),
        (vec![("oci-layout", Some(r#"{"imageLayoutVersion":"9"}"#))], "oci-layout"),
        (vec![("oci-layout", None)], "oci-layout"),
        (vec![("oci-layout", Some(version)), ("index.json", Some("nonsense"))], "index.json"),
        (vec![("oci-layout", Some(version)), ("index.json", Some(r#"{"manifests":7}"#))], "index.json"),
    ]
    .into_iter()
    .enumerate()
    {
        let files = files.into_iter().map(|(name, text)| (name.into(), text.map(|text| text.as_bytes().to_vec())));
        let (path, files) = (place.path(&format!("foreign{number}")), files.collect());
        write_tree(&path, &files);
        let error = place.export(&format!("oci:foreign{number}")).unwrap_err().to_string();
        assert!(error.contains(&format!("foreign{number}: {part}: ")), "{error}");
        assert!(tree(&path) == files, "{part}");
    }
}

#[test]
fn a_blob_that_is_damaged_in_the_layout_is_written_again() {
    let place = Place::new();
    place.export("oci:out").unwrap();
    let blobs: Vec<String> = place.layout.files.keys().filter(|name| name.starts_with("blobs/")).cloned().collect();
    for blob in &blobs {
        let path = place.path("out").join(blob);
        let mut bytes = fs::read(&path).unwrap();
        match bytes.first_mut() {
            Some(byte) => *byte ^= 1,
            None => bytes.push(0),
        }
        fs::write(&path, bytes).unwrap();
    }
    let exported = place.export("oci:out").unwrap();
    assert_eq!(exported.written_blobs, blobs.len() as u64);
    place.check(&place.path("out"));
    assert_eq!(place.export("oci:out").unwrap().written_blobs, 0);
}

#[test]
fn a_layout_gets_images_in_addition_and_a_name_is_one_images() {
    let place = Place::new();
    let mut other = Layout::new();
    let shared = other.blob(LAYER, &common::content(1, 200_000));
    let image = other.image("other", &[shared]);
    other.root(image.clone(), Some("other:1"));
    other.write(&place.path("out"));
    // What other tools keep there stays.
    let mut index: Value = serde_json::from_slice(&fs::read(place.path("out/index.json")).unwrap()).unwrap();
    index["annotations"] = json!({"x": "y"});
    index["manifests"][0]["annotations"]["x"] = json!("z");
    fs::write(place.path("out/index.json"), index.to_string()).unwrap();

    let (small, other) = (place.image.to_string(), digest(&image).to_string());
    let some = |name: &str| Some(name.to_owned());
    let exported = place.export("oci:out:small:1").unwrap();
    assert_eq!((exported.blobs, exported.written_blobs), (5, 4));
    let both = [(other.clone(), some("other:1")), (small.clone(), some("small:1"))];
    assert_eq!(index_of(&place.path("out")), both);
    place.export("oci:out:small:1").unwrap();
    assert_eq!(index_of(&place.path("out")), both);
    // Without a name it is there already.
    place.export("oci:out").unwrap();
    assert_eq!(index_of(&place.path("out")), both);
    place.export("oci:out:other:1").unwrap();
    let moved = [(other, None), (small.clone(), some("small:1")), (small, some("other:1"))];
    assert_eq!(index_of(&place.path("out")), moved);
    let index: Value = serde_json::from_slice(&fs::read(place.path("out/index.json")).unwrap()).unwrap();
    assert_eq!((&index["annotations"]["x"], &index["manifests"][0]["annotations"]["x"]), (&json!("y"), &json!("z")));
    // One without a name gets the name.
    place.export("oci:new").unwrap();
    place.export("oci:new:a").unwrap();
    assert_eq!(index_of(&place.path("new")), [(place.image.to_string(), some("a"))]);
}

/// The list was read before the blobs were written: what another tool listed in that time, which may be long, was lost.
#[test]
fn what_is_listed_in_a_layout_while_an_export_writes_stays() {
    let place = Place::new();
    let mut other = Layout::new();
    let image = other.image("other", &[]);
    other.root(image.clone(), Some("other:1"));
    let out = place.path("out");
    let options = ExportOptions::new().observe(|step| {
        if step == "make a directory of blobs" {
            other.write(&out);
        }
    });
    export(&place.store, &place.image, &place.location("oci:out:small:1"), options).unwrap();
    let some = |name: &str| Some(name.to_owned());
    let both = [(digest(&image).to_string(), some("other:1")), (place.image.to_string(), some("small:1"))];
    assert_eq!(index_of(&out), both);
}

/// An export wrote a list that was too long for the next one, and for every import.
#[test]
fn a_list_never_grows_longer_than_can_be_read() {
    let place = Place::new();
    place.export("oci:out:a").unwrap();
    let path = place.path("out/index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["annotations"] = json!({"x": ""});
    let room = (4 << 20) - index.to_string().len() - 1;
    index["annotations"]["x"] = json!("x".repeat(room));
    let full = index.to_string();
    fs::write(&path, &full).unwrap();
    // It is refused before anything is written.
    fs::remove_dir_all(place.path("out/blobs")).unwrap();
    let before = tree(&place.path("out"));

    let refused = place.export("oci:out:another").unwrap_err().to_string();
    assert!(refused.contains("index.json: would have ") && refused.ends_with("4194304 are the limit"), "{refused}");
    assert!(tree(&place.path("out")) == before);
    // There already, or with a name that takes another's place, it is no longer than it was.
    place.export("oci:out:a").unwrap();
    place.check(&place.path("out"));
}

/// An entry of the same image once lost all that other tools had said of it when it got its name.
#[test]
fn an_entry_that_gets_a_name_keeps_all_else() {
    let place = Place::new();
    let path = place.path("out/index.json");
    for annotations in [None, Some(json!({"x": "y"}))] {
        place.export("oci:out").unwrap();
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let entry = &mut index["manifests"][0];
        entry["platform"] = json!({"architecture": "arm64", "os": "linux"});
        entry["artifactType"] = json!("x/y");
        if let Some(annotations) = annotations {
            entry["annotations"] = annotations;
        }
        fs::write(&path, index.to_string()).unwrap();

        place.export("oci:out:a").unwrap();
        index["manifests"][0]["annotations"][REF_NAME] = json!("a");
        let found: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(found, index);
        fs::remove_dir_all(place.path("out")).unwrap();
    }
}

/// An image was not found by the name of its export where containerd called another one so.
#[test]
fn an_export_takes_its_name_from_the_image_that_containerd_calls_so() {
    let place = Place::new();
    let mut other = Layout::new();
    let mut image = other.image("other", &[]);
    image["annotations"] = json!({REF_NAME: "3.20", "io.containerd.image.name": "alpine:3.20"});
    other.root(image.clone(), None).write(&place.path("out"));
    place.export("oci:out:alpine:3.20").unwrap();
    let open = |text: &str| Source::open(&place.location(text)).unwrap();
    assert_eq!(open("oci:out:alpine:3.20").digest(), place.image);
    let left = open("oci:out:3.20");
    assert_eq!((left.digest(), left.names()), (digest(&image), &["3.20".to_owned()][..]));
}

#[test]
fn exports_into_one_layout_at_once_follow_one_another() {
    let place = Place::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let place = &place;
            scope.spawn(move || place.export(&format!("oci:shared:{number}")).unwrap());
        }
    });
    let mut names: Vec<String> = index_of(&place.path("shared")).into_iter().map(|(_, name)| name.unwrap()).collect();
    names.sort();
    assert_eq!(names, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let place = &place;
            scope.spawn(move || place.export("oci-archive:shared.tar:a").unwrap());
        }
    });
    place.export("oci-archive:alone.tar:a").unwrap();
    assert!(fs::read(place.path("shared.tar")).unwrap() == fs::read(place.path("alone.tar")).unwrap());
}

/// An export opened what the link led to, whose inode is never that of the link, and tried again without an end.
#[test]
fn a_link_in_the_place_of_the_temporary_file_is_not_followed() {
    let place = Place::new();
    fs::write(place.path("other"), b"somebody's").unwrap();
    for (archive, target) in [("a.tar", "other"), ("b.tar", "nowhere")] {
        std::os::unix::fs::symlink(target, place.path(&format!(".{archive}.blobpack.tmp"))).unwrap();
        let error = place.export(&format!("oci-archive:{archive}")).unwrap_err().to_string();
        assert!(error.contains(&format!(".{archive}.blobpack.tmp")), "{error}");
        assert!(!place.path(archive).exists());
    }
    assert_eq!(fs::read(place.path("other")).unwrap(), b"somebody's");
    assert!(!place.path("nowhere").exists());
}

#[test]
fn an_archive_is_whole_or_what_it_was() {
    let place = Place::new();
    fs::create_dir(place.path("dir")).unwrap();
    fs::write(place.path("dir/out.tar"), b"what was there").unwrap();
    let states = RefCell::new(Vec::new());
    let options =
        ExportOptions::new().observe(|step| states.borrow_mut().push((step.to_owned(), tree(&place.path("dir")))));
    export(&place.store, &place.image, &place.location("oci-archive:dir/out.tar"), options).unwrap();
    let whole = fs::read(place.path("dir/out.tar")).unwrap();
    let states = states.into_inner();
    assert!(states.len() > 8);
    for (number, (step, state)) in states.iter().enumerate() {
        let there = state["out.tar"].as_deref().unwrap();
        assert!(there == b"what was there" || step == "done" && there == whole, "killed before {step}");
        write_tree(&place.path(&format!("killed{number}")), state);
        place.export(&format!("oci-archive:killed{number}/out.tar")).unwrap();
        let after = tree(&place.path(&format!("killed{number}")));
        assert!(after.len() == 1 && after["out.tar"].as_deref() == Some(&*whole), "killed before {step}");
    }
    std::os::unix::fs::symlink("dir/out.tar", place.path("between.tar")).unwrap();
    std::os::unix::fs::symlink("between.tar", place.path("link.tar")).unwrap();
    fs::write(place.path("dir/out.tar"), b"").unwrap();
    for _ in 0..2 {
        place.export("oci-archive:link.tar").unwrap();
        assert!(["link.tar", "between.tar"].into_iter().all(|link| place.path(link).is_symlink()));
        assert!(fs::read(place.path("dir/out.tar")).unwrap() == whole);
        // What it leads to need not be there yet.
        fs::remove_file(place.path("dir/out.tar")).unwrap();
    }
}

/// The temporary file's name was longer than names can be.
#[test]
fn an_archives_name_may_be_as_long_as_names_can_be() {
    let place = Place::new();
    for name in ["n".repeat(255), format!("{}.tar", "ü".repeat(125))] {
        place.export(&format!("oci-archive:{name}")).unwrap();
        assert!(place.path(&name).is_file());
    }
    assert!(tree(place.base.path()).keys().all(|name| !name.contains(".tmp")));
}

#[test]
fn what_is_in_the_way_is_named_and_untouched() {
    let place = Place::new();
    fs::write(place.path("file"), b"mine").unwrap();
    fs::create_dir(place.path("empty")).unwrap();
    for (target, expected) in [
        ("oci:file", "is not a directory"),
        ("oci:file/below", "file/below: "),
        ("oci-archive:empty", "no plain file"),
        ("oci-archive:store.pack", "is the pack itself"),
        ("oci-archive:nowhere/x.tar", "nowhere"),
    ] {
        let before = tree(place.base.path());
        let error = place.export(target).unwrap_err().to_string();
        assert!(error.contains(expected), "{target}: {error}");
        assert!(tree(place.base.path()) == before, "{target}");
    }
    place.store.get(&place.image).unwrap().verify().unwrap();
}

/// The tool, as it is called in the place.
fn call(place: &Place, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blobpack"));
    let output = command.current_dir(place.base.path()).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_verbs_print_digests_and_names_and_json() {
    let place = Place::new();
    let image = place.image.to_string();
    let blobs = place.layout.files.keys().filter(|name| name.starts_with("blobs/")).count();
    let (code, stdout, stderr) = call(&place, &["import", "new.pack", "oci:source"]);
    assert_eq!((code, &*stdout), (0, &*format!("{image}  small:1\n")), "{stderr}");
    assert!(stderr.starts_with(&format!("{blobs} blobs; {blobs} blobs with ")), "{stderr}");
    let (_, stdout, _) = call(&place, &["import", "new.pack", "oci:source", "--json", "--name", "a/b:c"]);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&json["digest"], &json["names"], &json["blobs"]), (&json!(image), &json!(["a/b:c"]), &json!(blobs)));
    assert_eq!((&json["stored_blobs"], &json["missing"], &json["removed_blobs"]), (&json!(0), &json!([]), &json!(0)));

    let (code, stdout, stderr) = call(&place, &["export", "new.pack", "a/b:c", "oci:out"]);
    assert_eq!((code, &*stdout), (0, &*format!("{image}  oci:out\n")), "{stderr}");
    assert_eq!(index_of(&place.path("out")), [(image.clone(), Some("a/b:c".to_owned()))]);
    let (code, stdout, _) = call(&place, &["export", "new.pack", &image[..20], "oci:out:d", "--json"]);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &json["reference"], &json["target"]), (0, &json!("d"), &json!("oci:out:d")));
    assert_eq!((&json["written_blobs"], &json["blobs"]), (&json!(0), &json!(blobs)));
    place.check(&place.path("out"));

    assert_eq!(call(&place, &["export", "new.pack", "a/b:c", "oci-archive:out.tar"]).0, 0);
    let (code, stdout, _) = call(&place, &["export", "new.pack", "a/b:c", "oci-archive:-"]);
    assert!(code == 0 && stdout == String::from_utf8_lossy(&fs::read(place.path("out.tar")).unwrap()));
    let (code, stdout, _) = call(&place, &["import", "third.pack", "oci-archive:out.tar"]);
    assert_eq!((code, stdout), (0, format!("{image}  a/b:c\n")));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_blobpack"));
    command.current_dir(place.base.path()).args(["export", "store.pack", "small:1", "oci-archive:-"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The archive is longer than a pipe takes, so the tool is told.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(0), ""));
}

#[test]
fn the_verbs_refuse_by_name_with_the_exit_codes_of_the_help() {
    let place = Place::new();
    place.store.checkpoint().unwrap();
    let pack = place.path("store.pack");
    let whole = fs::read(&pack).unwrap();
    fs::write(place.path("file"), b"mine").unwrap();
    fs::create_dir(place.path("empty")).unwrap();
    let archive = place.layout.archive();
    fs::write(place.path("cut.tar"), &archive[..archive.len() - 2000]).unwrap();
    fs::copy(&pack, place.path("copy.pack")).unwrap();
    let long = "n".repeat(1025);
    // One with a layer that the pack lacks and whose last byte is another, one that lacks its layer.
    let mut other = Layout::new();
    let layer = other.blob(LAYER, &common::content(9, 300_000));
    let image = other.image("other", std::slice::from_ref(&layer));
    other.root(image, None);
    let file = blob_file(layer["digest"].as_str().unwrap());
    *other.files.get_mut(&file).unwrap().last_mut().unwrap() ^= 1;
    other.write(&place.path("wrong"));
    other.files.remove(&file);
    other.write(&place.path("lacking"));
    let mut misnamed = Layout::new();
    let image = misnamed.image("a", &[]);
    misnamed.root(image, Some("sha256:abc")).write(&place.path("misnamed"));
    let pack_is = |code, arguments: &[&str], expected: &str| {
        let (found, stdout, stderr) = call(&place, arguments);
        assert!(found == code && stderr.contains(expected), "{arguments:?}: {found}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!(fs::read(place.path("copy.pack")).unwrap() == whole, "{arguments:?} changed the pack");
    };
    for (code, arguments, expected) in [
        (1, vec!["import", "copy.pack", "oci:empty"], "oci:empty: index.json: is missing"),
        (1, vec!["import", "copy.pack", "oci:wrong"], "but its bytes have sha256:"),
        (1, vec!["import", "copy.pack", "oci:lacking"], "is missing"),
        (1, vec!["import", "copy.pack", "oci:nowhere"], "nowhere: open an image layout: No such file"),
        (1, vec!["import", "copy.pack", "oci:file"], "oci:file: is not a directory"),
        (1, vec!["import", "copy.pack", "oci-archive:cut.tar"], "oci-archive:cut.tar: "),
        (1, vec!["import", "copy.pack", "oci-archive:empty"], "no plain file"),
        (1, vec!["import", "copy.pack", "oci:source:nobody"], "oci:source: nobody: no such image"),
        (1, vec!["import", "copy.pack", "oci:misnamed"], "oci:misnamed: \"sha256:abc\" is not a name"),
        (2, vec!["import", "copy.pack", "source"], "no scheme"),
        (2, vec!["import", "copy.pack", "docker:source"], "not known"),
        (2, vec!["import", "copy.pack", "oci:source", "--name", ""], "empty"),
        (2, vec!["import", "copy.pack", "oci:source", "--name", &long], "longer than 1024"),
        (2, vec!["export", "copy.pack", "small:1", "out"], "no scheme"),
        (3, vec!["export", "copy.pack", "small:2", "oci:out"], "small:2"),
        (1, vec!["export", "copy.pack", "small:1", "oci:file"], "oci:file: is not a directory"),
        (1, vec!["export", "copy.pack", "small:1", "oci-archive:copy.pack"], "is the pack itself"),
        (2, vec!["export", "copy.pack", "small:1", "oci-archive:-", "--json"], "standard output"),
    ] {
        pack_is(code, &arguments, expected);
    }
    assert!(!place.path("out").exists());
    // What is no image makes no pack.
    for source in ["oci:empty", "oci:wrong", "oci:lacking", "oci:misnamed"] {
        assert_eq!(call(&place, &["import", "none.pack", source]).0, 1);
        assert!(!place.path("none.pack").exists(), "{source}");
    }
}

#[test]
fn a_blob_that_is_damaged_in_the_pack_is_not_let_out() {
    let place = Place::new();
    let image = place.image.to_string();
    assert_eq!(call(&place, &["import", "bad.pack", "oci:source"]).0, 0);
    let pack = place.path("bad.pack");
    let mut bytes = fs::read(&pack).unwrap();
    let layer = common::content(1, 200_000);
    let at = bytes.windows(64).position(|window| window == &layer[1000..1064]).unwrap();
    bytes[at] ^= 1;
    fs::write(&pack, bytes).unwrap();
    for target in ["oci:out", "oci-archive:out.tar"] {
        let (code, _, stderr) = call(&place, &["export", "bad.pack", &image, target]);
        assert!(code == 4 && stderr.contains("but the bytes have"), "{code}: {stderr}");
    }
    assert!(!place.path("out.tar").exists() && !place.path("out/index.json").exists());
    let damaged = Digest::of(blobpack::Algorithm::Sha256, &layer).to_string();
    assert!(!place.path("out").join(blob_file(&damaged)).exists());
    assert!(tree(place.base.path()).keys().all(|name| !name.contains(".tmp")));
}

#[test]
fn a_layout_can_be_made_in_a_directory_that_is_closed_to_who_would_read_it() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    let (tool, closed) = (place.path("tool"), place.path("closed"));
    fs::copy(env!("CARGO_BIN_EXE_blobpack"), &tool).unwrap();
    fs::create_dir(&closed).unwrap();
    let permit = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (path, mode) in [(place.base.path(), 0o755), (&place.path("store.pack"), 0o644), (&tool, 0o755)] {
        permit(path, mode);
    }
    permit(&closed, 0o333);
    let mut command = Command::new(&tool);
    command.current_dir(place.base.path()).args(["export", "store.pack", "small:1", "oci:closed/new"]);
    // No directory is closed to root.
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    permit(&closed, 0o755);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    place.check(&closed.join("new"));
}
