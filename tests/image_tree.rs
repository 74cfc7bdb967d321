//! Plain trees of files in and out: what goes in comes out equal, nothing is written outside of the target, and what
//! fails leaves nothing behind.
#![cfg(feature = "oci")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use blobpack::image::{ImportedTree, TREE_MEDIA_TYPE, check_tree, export_tree, import_tree};
use blobpack::{Descriptor, Digest, Error, Name, Result, Store};
use common::content;
use tempfile::TempDir;

/// What is at a path: its kind, its permissions unless it is a link, and its bytes or its target.
type Item = (char, u32, Vec<u8>);

/// All that is below a directory.
fn look(directory: &Path) -> BTreeMap<PathBuf, Item> {
    let mut found = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.mode() & 0o7777;
            let item = match () {
                () if metadata.is_symlink() => ('l', 0, fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()),
                () if metadata.is_dir() => ('d', mode, Vec::new()),
                () => ('f', mode, fs::read(&path).unwrap()),
            };
            if metadata.is_dir() {
                todo.push(path.clone());
            }
            found.insert(path.strip_prefix(directory).unwrap().to_owned(), item);
        }
    }
    found
}

/// A directory with a tree to import and a store.
struct Place {
    base: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Place {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("tree")).unwrap();
        let store = Store::open(base.path().join("store.pack")).unwrap();
        Place { base, store }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.base.path().join(name)
    }

    /// Makes a file in the tree, with the directories above it.
    fn file(&self, name: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
        let path = self.path("tree").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self) -> Result<ImportedTree> {
        import_tree(&self.store, &self.path("tree"), None, &mut |_| {})
    }

    fn export(&self, digest: &Digest, name: &str) -> Result<()> {
        export_tree(&self.store, digest, &self.path(name), &mut |_| {}).map(drop)
    }

    /// Stores a manifest with these entries behind the first.
    fn manifest(&self, entries: &[&str]) -> Digest {
        let root = r#"{"type":"directory","path":".","mode":"0755"}"#;
        let entries: Vec<&str> = std::iter::once(root).chain(entries.iter().copied()).collect();
        let text = format!(r#"{{"mediaType":"{TREE_MEDIA_TYPE}","entries":[{}]}}"#, entries.join(","));
        self.store.put(text.as_bytes()).unwrap().digest
    }

    fn blobs(&self) -> Vec<Descriptor> {
        self.store.descriptors().map(Result::unwrap).collect()
    }

    /// The names beside the tree and the pack.
    fn others(&self) -> Vec<String> {
        let names = fs::read_dir(self.base.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| name != "tree" && name != "store.pack").collect()
    }
}

impl Drop for Place {
    /// What can't be written to can't be removed.
    fn drop(&mut self) {
        let locked = look(self.base.path()).into_iter().filter(|(_, (kind, ..))| *kind == 'd');
        locked.for_each(|(path, _)| chmod(self.path(path), 0o700));
    }
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn fault<T: std::fmt::Debug>(result: Result<T>, part: &str, reason: &str) {
    let Err(Error::Image(fault)) = result else { panic!("{result:?} is not about {part}") };
    let text = fault.to_string();
    assert!(fault.part.ends_with(part) && text.contains(reason) && text.starts_with("dir:"), "{text}");
}

/// Everything that a tree keeps.
fn fill(place: &Place) {
    place.file("empty", b"");
    place.file("small", b"hello");
    place.file("same", b"hello");
    let run = place.file("bin/run", b"#!/bin/sh\n");
    chmod(&run, 0o755);
    chmod(place.file("secret", b"s"), 0o600);
    chmod(place.file("read only", b"r"), 0o444);
    place.file("large", &content(1, 300_000));
    place.file("just large", &content(2, 65_536));
    place.file("just small", &content(3, 65_535));
    fs::create_dir_all(place.path("tree/empty directory/another")).unwrap();
    for name in [&b"\xff\xfe"[..], b"100%", b"%25", b"line\nend", "\u{fc}".as_bytes(), b"back\\slash", b"\"quoted\""] {
        place.file(OsStr::from_bytes(name), name);
    }
    place.file(OsStr::from_bytes(b"d\x80/f\x81"), b"x");
    fs::hard_link(run, place.path("tree/hard link")).unwrap();
    for (name, target) in
        [("to file", "small"), ("to directory", "bin"), ("out", "../.."), ("nowhere", "/no/such/file")]
    {
        symlink(target, place.path("tree").join(name)).unwrap();
    }
    symlink(OsStr::from_bytes(b"\xff%"), place.path("tree/odd")).unwrap();
    // A directory that nothing can be made in.
    place.file("locked/inside/file", b"y");
    chmod(place.path("tree/locked/inside"), 0o500);
    chmod(place.path("tree/locked"), 0o511);
}

#[test]
fn a_tree_comes_back_equal() {
    let place = Place::new();
    fill(&place);
    chmod(place.path("tree"), 0o750);
    let imported = place.import().unwrap();
    place.export(&imported.digest, "new").unwrap();
    let tree = look(&place.path("tree"));
    assert!(tree.len() > 25, "{tree:?}");
    assert_eq!(look(&place.path("new")), tree);
    assert_eq!(place.path("new").metadata().unwrap().mode() & 0o7777, 0o750);
    // An empty directory that is there keeps its own permissions.
    fs::create_dir(place.path("there")).unwrap();
    chmod(place.path("there"), 0o700);
    place.export(&imported.digest, "there").unwrap();
    assert_eq!(look(&place.path("there")), tree);
    assert_eq!(place.path("there").metadata().unwrap().mode() & 0o7777, 0o700);
    let mut others = place.others();
    others.sort();
    assert_eq!(others, ["new", "there"]);

    // The other way round: what came out is the same tree.
    let again = import_tree(&place.store, &place.path("new"), None, &mut |_| {}).unwrap();
    assert_eq!((again.digest, again.stored_blobs), (imported.digest, 0));
}

#[test]
fn importing_twice_changes_no_counts() {
    let place = Place::new();
    fill(&place);
    let first = place.import().unwrap();
    assert_eq!((first.stored_blobs, first.stored_bytes), (first.blobs, first.bytes));
    let before = place.blobs();
    assert_eq!(before.len() as u64, first.blobs);
    assert!(before.iter().all(|blob| blob.ref_count == 1), "{before:?}");
    let second = place.import().unwrap();
    assert_eq!((second.digest, second.stored_blobs, second.stored_bytes), (first.digest, 0, 0));
    assert_eq!(place.blobs(), before);

    // With names, the reference is the name's.
    let name: Name = "tree".parse().unwrap();
    for _ in 0..2 {
        import_tree(&place.store, &place.path("tree"), Some(&name), &mut |_| {}).unwrap();
        assert_eq!(place.store.name(&name).unwrap(), first.digest);
        assert_eq!(place.store.descriptor(&first.digest).unwrap().ref_count, 2);
    }
    place.store.dereference(&first.digest).unwrap();
    // One file differs: the rest is shared, and what only the old tree had goes with it.
    place.file("small", b"another");
    let third = import_tree(&place.store, &place.path("tree"), Some(&name), &mut |_| {}).unwrap();
    // The old manifest alone: "same" still has the bytes that "small" had.
    assert_eq!((third.stored_blobs, third.removed_blobs), (2, 1));
    assert_eq!(place.store.remove_name(&name).unwrap().blobs(), third.blobs);
    assert_eq!(place.blobs(), []);
    assert!(place.store.verify().unwrap().damage.is_empty());
}

#[test]
fn the_same_tree_has_the_same_digest_and_the_documented_manifest() {
    let names = ["b", "a/z", "a.b", "a/c/d", "B"];
    let trees = [names.to_vec(), names.into_iter().rev().collect()].map(|names| {
        let place = Place::new();
        for name in names {
            chmod(place.file(name, name.as_bytes()), 0o644);
        }
        symlink("a", place.path("tree/s")).unwrap();
        for directory in ["", "a", "a/c"] {
            chmod(place.path("tree").join(directory), 0o755);
        }
        let digest = place.import().unwrap().digest;
        String::from_utf8(place.store.get(&digest).unwrap().to_vec()).unwrap()
    });
    assert_eq!(trees[0], trees[1]);
    let lines: Vec<&str> = trees[0].lines().collect();
    let expected = [
        r#"{"mediaType":"application/vnd.blobpack.tree.v1+json","entries":["#,
        r#"{"type":"directory","path":".","mode":"0755"},"#,
        r#"{"type":"file","path":"B","mode":"0644","size":1,"digest":"sha256:df7e70e5021544f4834bbee64a9e3789febc4be81470df629cad6ddb03320a5c"},"#,
        r#"{"type":"directory","path":"a","mode":"0755"},"#,
        r#"{"type":"directory","path":"a/c","mode":"0755"},"#,
    ];
    assert_eq!(lines[..5], expected);
    assert_eq!(lines[9..], [r#"{"type":"symlink","path":"s","target":"a"}"#, "]}"]);
}

#[test]
fn setuid_setgid_and_sticky_bits_are_not_kept() {
    let place = Place::new();
    let plain = place.file("f", b"x");
    chmod(&plain, 0o755);
    let without = place.import().unwrap().digest;
    for mode in [0o4755, 0o2755, 0o1755, 0o7755] {
        chmod(&plain, mode);
        assert_eq!(place.import().unwrap().digest, without);
    }
    place.export(&without, "out").unwrap();
    assert_eq!(place.path("out/f").metadata().unwrap().mode() & 0o7777, 0o755);
    let hostile = place.manifest(&[r#"{"type":"directory","path":"d","mode":"2755"}"#]);
    fault(place.export(&hostile, "hostile"), &hostile.to_string(), "mode");
}

#[test]
fn special_files_are_refused_by_name_and_nothing_is_stored() {
    let place = Place::new();
    place.file("a", &content(1, 200_000));
    place.file("b", b"small");
    place.store.put(b"small").unwrap();
    let before = place.blobs();
    let bytes = fs::read(place.path("store.pack")).unwrap();
    let fifo = place.path("tree/z fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    fault(place.import(), "z fifo", "a FIFO");
    assert_eq!(place.blobs(), before);
    fs::remove_file(fifo).unwrap();
    fs::create_dir(place.path("tree/d")).unwrap();
    let _socket = UnixListener::bind(place.path("tree/d/socket")).unwrap();
    fault(place.import(), "d/socket", "a socket");
    assert_eq!(place.blobs(), before);
    fault(import_tree(&place.store, Path::new("/dev/null"), None, &mut |_| {}), "", "no directory");
    fault(import_tree(&place.store, &place.path("tree/b"), None, &mut |_| {}), "", "no directory");
    let missing = import_tree(&place.store, &place.path("missing"), None, &mut |_| {});
    assert!(matches!(missing, Err(Error::Io { .. })), "{missing:?}");
    assert_eq!(place.blobs(), before);
    assert!(fs::read(place.path("store.pack")).unwrap() == bytes, "the pack has changed");

    // A pack that grows while it is read has no end.
    let inside = Store::open(place.path("tree/inside.pack")).unwrap();
    fs::remove_dir_all(place.path("tree/d")).unwrap();
    fault(import_tree(&inside, &place.path("tree"), None, &mut |_| {}), "inside.pack", "the pack itself");
}

/// It was met only where the walk came to it: what comes before it had been stored, and a pack had been created for it.
#[test]
fn a_pack_in_the_tree_is_seen_before_it_is_touched() {
    let place = Place::new();
    place.file("a", &content(1, 700_000));
    let path = place.path("tree/sub/z.pack");
    fs::create_dir(place.path("tree/sub")).unwrap();
    fault(check_tree(&place.path("tree"), &path), "sub/z.pack", "the pack itself");
    fault(check_tree(&place.path("tree"), &place.path("tree")), "blobs.pack", "the pack itself");
    check_tree(&place.path("tree/sub"), &place.path("tree")).unwrap();
    symlink("tree/sub", place.path("link")).unwrap();
    fault(check_tree(&place.path("tree"), &place.path("link/z.pack")), "sub/z.pack", "the pack itself");

    let inside = Store::open(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    fault(import_tree(&inside, &place.path("tree"), None, &mut |_| {}), "sub/z.pack", "the pack itself");
    assert!(fs::read(&path).unwrap() == bytes, "the pack has changed");

    // By another name the walk sees it.
    fs::create_dir(place.path("linked")).unwrap();
    fs::hard_link(&path, place.path("linked/other")).unwrap();
    fault(import_tree(&inside, &place.path("linked"), None, &mut |_| {}), "other", "the pack itself");
}

#[test]
fn what_changes_while_it_is_read_is_an_error_by_name() {
    /// Imports a tree, and does this when its first bytes were read.
    fn import_while(meanwhile: impl Fn(&Path), part: &str) {
        let place = Place::new();
        place.file("a/large", &content(1, 700_000));
        place.file("a/next", b"next");
        place.file("b", b"last");
        let tree = place.path("tree");
        // Clocks are coarse: what was made in this moment can change and keep its times.
        for directory in ["", "a"] {
            File::open(tree.join(directory)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        let mut done = false;
        let imported = import_tree(&place.store, &tree, None, &mut |_| {
            if !std::mem::replace(&mut done, true) {
                meanwhile(&tree);
            }
        });
        fault(imported, part, "changed while it was read");
        assert_eq!(place.blobs(), []);
    }
    let append =
        |tree: &Path| File::options().append(true).open(tree.join("a/large")).unwrap().write_all(b"x").unwrap();
    import_while(append, "a/large");
    let cut = |tree: &Path| File::options().write(true).open(tree.join("a/large")).unwrap().set_len(5).unwrap();
    import_while(cut, "a/large");
    import_while(|tree| fs::remove_file(tree.join("a/next")).unwrap(), "a/next");
    import_while(|tree| fs::write(tree.join("a/new"), b"").unwrap(), "a");
    import_while(|tree| fs::write(tree.join("new"), b"").unwrap(), "");
    import_while(|tree| fs::remove_file(tree.join("b")).unwrap(), "b");
}

/// It was read to its end, which never came as long as somebody wrote as fast.
#[test]
fn a_file_that_grows_is_read_no_further_than_it_was_long() {
    let place = Place::new();
    for bytes in [10, 700_000] {
        let path = place.file("log", &content(1, bytes));
        let mut log = File::options().append(true).open(&path).unwrap();
        let mut read = 0;
        let imported = import_tree(&place.store, &place.path("tree"), None, &mut |done| {
            read = done;
            if done < 16 << 20 {
                log.write_all(&vec![0; 1 << 20]).unwrap();
            }
        });
        fault(imported, "log", "changed while it was read");
        assert!(read < 2 << 20, "{read}");
    }
}

#[test]
fn no_manifest_leads_out_of_the_target() {
    let place = Place::new();
    fs::create_dir(place.path("outside")).unwrap();
    let hello = place.store.put(b"hello").unwrap().digest;
    let outside = place.path("outside");
    let outside = outside.to_str().unwrap();
    let file = |path: &str| format!(r#"{{"type":"file","path":"{path}","mode":"0644","size":5,"digest":"{hello}"}}"#);
    let link = |path: &str, to: &str| format!(r#"{{"type":"symlink","path":"{path}","target":"{to}"}}"#);
    let directory = |path: &str| format!(r#"{{"type":"directory","path":"{path}","mode":"0755"}}"#);
    let hostile = [
        (vec![file("../outside/x")], "../outside/x"),
        (vec![file(&format!("{outside}/x"))], "/outside/x"),
        (vec![directory(".."), file("../x")], ".."),
        (vec![directory("a"), file("a/../../outside/x")], "a/../../outside/x"),
        (vec![link("a", outside), file("a/x")], "a/x"),
        (vec![link("a", outside), directory("a"), file("a/x")], "a"),
        (vec![directory("a"), link("a", outside), file("a/x")], "a"),
        (vec![file("a"), file("a")], "a"),
        (vec![file("b"), file("a")], "a"),
        (vec![file("a\\u0000")], "a\0"),
        (vec![file("%2E%2E/x")], ""),
    ];
    for (entries, part) in hostile {
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let manifest = place.manifest(&entries);
        fault(place.export(&manifest, "out"), part, "");
        assert_eq!(place.others(), ["outside"]);
    }
    for text in ["", "not JSON", r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}"#] {
        let manifest = place.store.put(text.as_bytes()).unwrap().digest;
        fault(place.export(&manifest, "out"), &manifest.to_string(), "");
    }
    let wrong = place.manifest(&[&file("a").replace(":5,", ":6,")]);
    fault(place.export(&wrong, "out"), "a", "6 bytes");
    let missing = place.manifest(&[&file("a").replace(&hello.to_string(), &common::unknown().to_string())]);
    assert!(matches!(place.export(&missing, "out"), Err(Error::NotFound { .. })));
    assert_eq!(place.others(), ["outside"]);
    assert_eq!(look(&place.path("outside")), BTreeMap::new());

    // Links out of the target are made and never followed.
    let sound = place.manifest(&[&link("a", outside), &directory("b"), &file("b/x"), &link("b/y", "/"), &file("c")]);
    place.export(&sound, "out").unwrap();
    assert_eq!(look(&place.path("outside")), BTreeMap::new());
    assert_eq!(look(&place.path("out")).len(), 5);
}

#[test]
fn a_link_that_takes_a_directorys_place_is_not_followed() {
    let place = Place::new();
    place.file("d/1", &content(1, 100_000));
    place.file("d/2", b"two");
    place.file("d/e/3", b"three");
    let digest = place.import().unwrap().digest;
    for name in ["out", "outside"] {
        fs::create_dir(place.path(name)).unwrap();
    }
    let mut done = false;
    let exported = export_tree(&place.store, &digest, &place.path("out"), &mut |_| {
        if !std::mem::replace(&mut done, true) {
            fs::rename(place.path("out/d"), place.path("moved")).unwrap();
            symlink(place.path("outside"), place.path("out/d")).unwrap();
        }
    });
    assert!(matches!(exported, Err(Error::Io { .. })), "{exported:?}");
    assert_eq!(look(&place.path("outside")), BTreeMap::new());
}

#[test]
fn only_new_and_empty_directories_are_targets() {
    let place = Place::new();
    place.file("f", b"x");
    let digest = place.import().unwrap().digest;
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/mine"), b"mine").unwrap();
    fs::write(place.path("file"), b"mine").unwrap();
    symlink("nowhere", place.path("dangling")).unwrap();
    let before = look(place.base.path());
    fault(place.export(&digest, "full"), "", "not empty");
    fault(place.export(&digest, "file"), "", "no directory");
    for name in ["dangling", "missing/new", "file/new"] {
        let exported = place.export(&digest, name);
        assert!(matches!(exported, Err(Error::Io { .. })), "{name}: {exported:?}");
    }
    fault(place.export(&digest, "missing/.."), "", "no path");
    let mut after = look(place.base.path());
    after.retain(|path, _| path != Path::new("store.pack"));
    assert!(after.iter().all(|(path, item)| before.get(path) == Some(item)) && after.len() + 1 == before.len());

    // A link to an empty directory is that directory; a slash behind a name changes nothing.
    fs::create_dir(place.path("empty")).unwrap();
    symlink("empty", place.path("link")).unwrap();
    place.export(&digest, "link").unwrap();
    assert_eq!(fs::read(place.path("empty/f")).unwrap(), b"x");
    place.export(&digest, "slash/").unwrap();
    assert_eq!(fs::read(place.path("slash/f")).unwrap(), b"x");
}

#[test]
fn a_new_target_is_whole_or_not_there() {
    let place = Place::new();
    fill(&place);
    place.file("zz", &content(9, 100_000));
    let digest = place.import().unwrap().digest;
    // At every step of an export there is one directory beside the target, and no target.
    let mut steps = 0;
    export_tree(&place.store, &digest, &place.path("out"), &mut |_| {
        assert_eq!(place.others(), [format!(".out.{}-0.tmp", std::process::id())]);
        steps += 1;
    })
    .unwrap();
    assert!(steps > 10);
    assert_eq!(place.others(), ["out"]);

    // The last file's bytes are damaged: nothing is left, directories that nothing can be removed from included.
    let pack = File::options().read(true).write(true).open(place.path("store.pack")).unwrap();
    let bytes = fs::read(place.path("store.pack")).unwrap();
    let wanted = &content(9, 100_000)[50_000..50_032];
    let at = bytes.windows(32).position(|window| window == wanted).unwrap();
    pack.write_all_at(&[wanted[0] ^ 1], at as u64).unwrap();
    let exported = place.export(&digest, "again");
    assert!(matches!(exported, Err(Error::DigestMismatch { .. })), "{exported:?}");
    assert_eq!(place.others(), ["out"]);
}

#[test]
fn trees_are_as_deep_as_the_limit_and_no_deeper() {
    let place = Place::new();
    let deep = |levels: usize| place.path("tree").join(vec!["d"; levels].join("/"));
    fs::create_dir_all(deep(200)).unwrap();
    let digest = place.import().unwrap().digest;
    place.export(&digest, "out").unwrap();
    assert_eq!(look(&place.path("out")), look(&place.path("tree")));
    fs::create_dir(deep(201)).unwrap();
    fault(place.import(), &vec!["d"; 201].join("/"), "too deep");
}

/// Calls the tool in the place's directory.
#[cfg(feature = "cli")]
fn call(place: &Place, arguments: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_blobpack"));
    let output = command.current_dir(place.base.path()).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[cfg(feature = "cli")]
#[test]
fn the_tool_imports_and_exports_trees() {
    let place = Place::new();
    fill(&place);
    let digest = place.import().unwrap().digest;
    let import = ["import", "other.pack", "dir:tree", "--name", "my tree"];
    let (code, stdout, _) = call(&place, &import);
    assert_eq!((code, stdout), (0, format!("{digest}  my tree\n")));
    let (_, stdout, _) = call(&place, &["import", "other.pack", "dir:tree", "--name", r"an\other"]);
    assert_eq!(stdout, format!("\\{digest}  an\\\\other\n"));
    let (_, stdout, _) = call(&place, &["export", "other.pack", r"an\other", r"dir:an\other"]);
    assert_eq!(stdout, format!("\\{digest}  dir:an\\\\other\n"));
    let (code, json, _) = call(&place, &["import", "other.pack", "dir:tree", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &report["digest"], &report["stored_blobs"]), (0, &digest.to_string().into(), &0.into()));
    assert_eq!(report["media_type"], TREE_MEDIA_TYPE);

    let (code, stdout, _) = call(&place, &["export", "other.pack", "my tree", "dir:with:colon"]);
    assert_eq!((code, stdout), (0, format!("{digest}  dir:with:colon\n")));
    assert_eq!(look(&place.path("with:colon")), look(&place.path("tree")));
    let (code, json, _) = call(&place, &["export", "other.pack", "my tree", "dir:again", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &report["target"]), (0, &"dir:again".into()));

    for (arguments, expected, part) in [
        (&["export", "other.pack", "my tree", "dir:again"][..], 1, "dir:again: is not empty"),
        (&["export", "other.pack", "my tree", "dir:other.pack"], 1, "dir:other.pack: is no directory"),
        (&["export", "other.pack", "nobody", "dir:new"], 3, "nobody"),
        (&["import", "new.pack", "dir:missing"], 1, "missing"),
        (&["import", "new.pack", "dir:other.pack"], 1, "is no directory"),
        (&["import", "new.pack", "dir:"], 2, "no path"),
        (&["import", "new.pack", "dir:."], 1, "dir:.: new.pack: is the pack itself"),
        (&["import", "new.pack", "dir:tree", "--sparse"], 2, "--sparse"),
    ] {
        let (code, stdout, stderr) = call(&place, arguments);
        assert_eq!((code, stdout.as_str()), (expected, ""), "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    }
    assert!(!place.path("new.pack").exists() && !place.path("new").exists());
}
