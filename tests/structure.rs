//! The shape of the source: which layer may know which, where `unsafe` may stand, how wide and how long files are.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Imports that go up all the same, and why.
const UPWARDS: &[(&str, &str, &str)] = &[];

/// Where raw memory and raw system calls are.
const UNSAFE: [&str; 3] = ["map/raw.rs", "medium/disk.rs", "medium/disk/"];

/// Files get no longer than this, in lines.
const LINES_MAX: usize = 500;
/// Those that do, and why.
const LONG: &[(&str, &str)] = &[("format.rs", "one file is the format")];

fn sources() -> BTreeMap<String, String> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// The layers, as the table in the crate's documentation has them: a module imports from its own layer and those below.
fn layers() -> BTreeMap<String, usize> {
    let mut found = BTreeMap::from([("main".to_owned(), 8), ("cli".to_owned(), 8)]);
    for row in sources()["lib.rs"].lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells = row.split(" | ");
        let (Some(Ok(layer)), Some(modules)) = (cells.next().map(str::parse), cells.next()) else { continue };
        let names = modules.split('`').skip(1).step_by(2);
        found.extend(names.map(|name| (name.trim_end_matches('/').to_owned(), layer)));
    }
    found
}

/// The text without comments and without what is compiled for tests alone, which may import what it likes.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").filter(|&at| text[at..].contains("mod tests {")).unwrap_or(text.len());
    text[..end].lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The modules of the crate that a text names, by `crate::` or, in the tool, by the library's name.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, start) in text.match_indices("crate::") {
        let rest = &text[at + start.len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let end = |c: char| !c.is_alphanumeric() && c != '_';
            let name = name.trim().split(end).next().unwrap();
            // Lower case: a module, or one of the crate's functions.
            if name.starts_with(char::is_lowercase) {
                found.push(name.to_owned());
            }
        }
    }
    found
}

fn is_for_tests(file: &str) -> bool {
    file.ends_with("tests.rs") || file.ends_with("contract.rs") || file.ends_with("model.rs")
}

#[test]
fn every_module_has_its_layer() {
    let layers = layers();
    for file in sources().keys().filter(|file| *file != "lib.rs") {
        assert!(layers.contains_key(module(file)), "src/{file} is in no layer of the table in lib.rs");
    }
    for name in layers.keys() {
        assert!(sources().keys().any(|file| module(file) == name), "there is no module {name}");
    }
}

#[test]
fn imports_go_only_down() {
    let layers = layers();
    let mut unused: Vec<_> = UPWARDS.iter().map(|(from, to, _)| (*from, *to)).collect();
    let mut wrong = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| *file != "lib.rs" && !is_for_tests(file)) {
        let from = module(file);
        for to in imports(&code(text)) {
            // Where it is no module it is what lib.rs has at its root, which only the tool may use.
            let Some(to_layer) = layers.get(&to) else { continue };
            unused.retain(|pair| *pair != (from, to.as_str()));
            let allowed = UPWARDS.iter().any(|(a, b, _)| (*a, *b) == (from, to.as_str()));
            if *to_layer > layers[from] && !allowed {
                wrong.push(format!("src/{file} imports {to}, from above"));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(unused.is_empty(), "allowed, but not there (any more): {unused:?}");
}

#[test]
fn the_tool_uses_the_public_face_only() {
    const HIDDEN: [&str; 12] =
        ["batch", "commit", "format", "graph", "index", "log", "map", "medium", "record", "source", "space", "view"];
    for (file, text) in sources().iter().filter(|(file, _)| matches!(module(file), "main" | "cli")) {
        for hidden in HIDDEN {
            assert!(!code(text).contains(&format!("blobpack::{hidden}::")), "src/{file} uses blobpack::{hidden}");
        }
    }
}

#[test]
fn unsafe_code_has_an_address() {
    let mut seen = 0;
    for (file, text) in sources() {
        let opted_in = UNSAFE.iter().any(|place| file == *place || place.ends_with('/') && file.starts_with(place));
        let sites =
            code(&text).split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| *word == "unsafe").count();
        assert!(opted_in || sites == 0, "src/{file} holds unsafe code");
        assert!(opted_in || !text.contains("allow(unsafe_code"), "src/{file} opts in to unsafe code");
        seen += sites;
    }
    assert!(seen > 0, "the search finds nothing");
}

#[test]
fn lines_are_at_most_120_wide() {
    let mut wide = Vec::new();
    for (file, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let width = line.chars().count();
            if width > 120 {
                wide.push(format!("src/{file}:{} is {width} wide", number + 1));
            }
        }
    }
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

#[test]
fn files_are_short_or_say_why_not() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        let listed = LONG.iter().any(|(long, _)| *long == file);
        assert!(listed || lines <= LINES_MAX || is_for_tests(&file), "src/{file} has {lines} lines");
    }
}

/// Whether this is what `cargo package` has made of the repository.
fn is_a_package() -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml.orig").exists()
}

#[test]
fn every_promise_has_its_test() {
    let page = &sources()["promises.rs"];
    let promises = page.split("# What is assumed").next().unwrap();
    let mut named = 0;
    for promise in promises.split("//! * ").skip(1) {
        let named_in_code = promise.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::"));
        // A type's name begins with a capital.
        let tests: Vec<_> = named_in_code.filter(|(target, _)| target.starts_with(char::is_lowercase)).collect();
        assert!(!tests.is_empty(), "no test stands behind: {promise}");
        for (target, test) in tests {
            // A package of the crate has neither the fuzzers' corpus nor other packages.
            if ["fuzz_corpus", "interleavings"].contains(&target) && is_a_package() {
                continue;
            }
            assert!(test_sources(target).contains(&format!("fn {test}(")), "tests/{target} has no test {test}");
            named += 1;
        }
    }
    assert!(named > 20, "the search finds {named} tests");
}

/// All that belongs to one target of the tests.
fn test_sources(target: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut found = vec![tests.join(format!("{target}.rs"))];
    for directory in ["", "loom", "shuttle"].map(|inside| tests.join(target).join(inside)) {
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        found.extend(entries.map(|entry| entry.unwrap().path()));
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs") && path.is_file());
    found.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}
