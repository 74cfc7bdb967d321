//! What the features pull in: the library alone has the core's crates and no others.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The crates that the library itself uses, with all features off.
const CORE: [&str; 13] = [
    "arc-swap",
    "byteorder",
    "crc32fast",
    "elsa",
    "foldhash",
    "fs2",
    "getrandom",
    "libc",
    "memmap2",
    "rustix",
    "sha2",
    "thiserror",
    "zerocopy",
];

/// The names of the crates that a build with these arguments has, so far down.
fn crates(arguments: &[&str]) -> BTreeSet<String> {
    // The crates are there: without them this test would not have been built.
    let fixed = ["tree", "--frozen", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo).args(fixed).arg("--manifest-path").arg(manifest).args(arguments).output().unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty());
    names.filter(|name| *name != "blobpack").map(str::to_owned).collect()
}

/// The features of the manifest but `default`, and the crates that it has as optional ones.
fn manifest() -> (Vec<String>, Vec<String>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    // In a package cargo has written the manifest anew, with a section a dependency, and keeps it as it was beside.
    let as_it_was = std::fs::read_to_string(directory.join("Cargo.toml.orig"));
    let text = as_it_was.or_else(|_| std::fs::read_to_string(directory.join("Cargo.toml"))).unwrap();
    let names = |section: &str, fits: fn(&str) -> bool| {
        let lines = text.lines().skip_while(|line| *line != section).skip(1).take_while(|line| !line.starts_with('['));
        let entries = lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
        entries.filter(|(_, value)| fits(value)).map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let mut features = names("[features]", |_| true);
    features.retain(|feature| feature != "default");
    (features, names("[dependencies]", |value| value.contains("optional = true")))
}

#[test]
fn the_library_alone_has_the_crates_of_the_core_and_no_others() {
    let (_, optional) = manifest();
    assert!(optional.len() > 5, "{optional:?}");
    assert_eq!(crates(&["--no-default-features", "--depth", "1"]), CORE.map(str::to_owned).into());
    let all = crates(&["--no-default-features"]);
    for name in optional {
        assert!(!all.contains(&name), "{name} is there without any feature");
    }
}

#[test]
fn the_small_features_have_one_crate_each() {
    for (feature, expected) in [("bytes", "bytes"), ("serde", "serde")] {
        let with = crates(&["--no-default-features", "--features", feature, "--depth", "1"]);
        let added: Vec<&str> = with.iter().map(String::as_str).filter(|name| !CORE.contains(name)).collect();
        assert_eq!(added, [expected]);
    }
}

#[test]
fn the_features_are_those_that_the_readme_explains() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (features, _) = manifest();
    assert!(features.len() >= 3, "{features:?}");
    let explained = readme.split("`default-features = false`").nth(1).unwrap().split("\n## ").next().unwrap();
    for feature in features {
        assert!(explained.contains(&format!("`{feature}`")), "the README does not explain the feature {feature}");
    }
}
