//! The verbs that let people understand a pack: what they print, for people and for scripts.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use blobpack::{Descriptor, Store};
use serde_json::Value;

mod common;
use common::content;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn store(&self) -> Store {
        Store::open(self.path("store.pack")).unwrap()
    }

    fn call(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blobpack"));
        command.current_dir(self.directory.path()).args(arguments).output().unwrap()
    }

    /// A call that works and says nothing on standard error.
    #[track_caller]
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(arguments)).unwrap()
    }

    /// A call that fails with this code and one line, which comes back.
    #[track_caller]
    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{complaint}");
        complaint
    }
}

fn put(store: &Store, seed: u64, size: usize) -> Descriptor {
    store.put(&content(seed, size)).unwrap()
}

/// Blobs that link: an image to a base, which a caller holds too, and to a layer, and another image to that layer.
fn images(place: &Place) -> [String; 4] {
    let store = place.store();
    let mut batch = store.batch();
    let [base, layer, one, two] = [b"base", &b"layer"[..], b"one", b"two"].map(|bytes| batch.put(bytes).unwrap());
    batch.reference(&base);
    batch.reference(&layer);
    batch.link(&base, &layer);
    batch.link(&layer, &one);
    batch.link(&layer, &two);
    batch.commit().unwrap();
    store.close().unwrap();
    [base, layer, one, two].map(|digest| digest.to_string())
}

fn short(digest: &str) -> &str {
    &digest[..7 + 16]
}

/// Three blobs of which one is removed.
fn three(place: &Place) {
    let store = place.store();
    put(&store, 1, 3000);
    let gone = put(&store, 2, 60_000);
    put(&store, 3, 100_000);
    store.dereference(&gone.digest).unwrap();
    store.close().unwrap();
}

#[test]
fn the_map_without_a_terminal_is_letters() {
    let place = Place::new();
    three(&place);
    let expected = "\
store.pack: 2 blobs, 100.59 KiB in a file of 816 KiB; 13.1 % live, 7.2 % dead

        0 HHHH............................................................
   64 KiB HHHH............................................................
  128 KiB HHHH............................................................
  192 KiB HHHH............................................................
  256 KiB LLLxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxc.
  320 KiB ................................................................
  384 KiB iiiiiiiissssssssssssssssssssssssssssssssssssssssssssssssssssssss
  448 KiB ssssiiiiiiiiiiiiiiiissssssssssssssssssssssssssssssssssssssssssss
  512 KiB ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss
  576 KiB ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss
  640 KiB ssssssssssssssssssssssssssssssssssssssssssssssssiiiiiiiiiiiissss
  704 KiB iiiissssLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLL
  768 KiB LLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLL

  H header           16384   2.0 %  identity, superblocks
  L live            109568  13.1 %  stored blobs and names
  x dead             60096   7.2 %  removed blobs and names
  i index            40960   4.9 %  hash table in use
  s spare           294912  35.3 %  index space to be used again
  c log               1280   0.2 %  commits
  . free            312384  37.4 %  holds nothing
  each cell           1024
";
    assert_eq!(place.text(&["map", "store.pack"]), expected);
}

#[test]
fn the_map_as_json_adds_up() {
    let place = Place::new();
    three(&place);
    let map = place.json(&["map", "--json", "store.pack"]);
    let file_bytes = std::fs::metadata(place.path("store.pack")).unwrap().len();
    assert_eq!(map["file_bytes"], file_bytes);
    let sum = |values: &mut dyn Iterator<Item = &Value>| values.map(|value| value.as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum(&mut map["bytes"].as_object().unwrap().values()), file_bytes);
    let parts = map["parts"].as_array().unwrap();
    assert_eq!(sum(&mut parts.iter().map(|part| &part["length"])), file_bytes);
    assert_eq!(map["bytes"]["dead"], 60_096);
    assert_eq!((&map["moving"], &map["damaged_segments"]), (&Value::Bool(false), &Value::from(0)));
}

#[test]
fn the_map_as_a_picture_is_well_formed_and_shows_the_name_as_text() {
    let place = Place::new();
    three(&place);
    let name = "<b>&\"odd\".pack";
    std::fs::rename(place.path("store.pack"), place.path(name)).unwrap();
    for (target, is_page) in [("map.svg", false), ("map.html", true)] {
        assert_eq!(place.text(&["map", name, "-o", target]), "");
        let picture = std::fs::read_to_string(place.path(target)).unwrap();
        assert!(picture.contains("&lt;b&gt;&amp;&quot;odd&quot;.pack") && !picture.contains("<b>"));
        assert!(picture.contains(">live <tspan"), "a legend");
        assert_eq!(picture.starts_with("<!doctype html>"), is_page);
        assert_eq!(picture.contains("<script>"), is_page);
        let svg = &picture[picture.find("<svg").unwrap()..picture.find("</svg>").unwrap()];
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        // The areas of a kind are its bytes: the columns of a row are 256.
        assert!(svg.contains("class=\"dead\" d=\"M"));
    }
}

#[test]
fn a_picture_may_have_a_name_that_is_not_utf8() {
    let place = Place::new();
    three(&place);
    let name = OsStr::from_bytes(b"\xff.svg");
    let mut command = Command::new(env!("CARGO_BIN_EXE_blobpack"));
    let output = command.current_dir(place.directory.path()).args(["map", "store.pack", "-o"]).arg(name).output();
    assert!(output.unwrap().status.success());
    assert!(std::fs::read_to_string(place.directory.path().join(name)).unwrap().starts_with("<svg "));
}

/// A share below a thousandth is `<0.1 %`: an SVG that no program read.
#[test]
fn a_share_that_rounds_to_nothing_leaves_the_picture_well_formed() {
    let place = Place::new();
    let store = place.store();
    store.put(&vec![7; 40 << 20]).unwrap();
    store.close().unwrap();
    place.text(&["map", "store.pack", "-o", "map.svg"]);
    let picture = std::fs::read_to_string(place.path("map.svg")).unwrap();
    assert!(picture.contains("&lt;0.1 %"), "{picture}");
    let is_tag = |(at, _): (usize, &str)| picture[at + 1..].starts_with(|c: char| c.is_ascii_lowercase() || c == '/');
    assert!(picture.match_indices('<').all(is_tag));
}

#[test]
fn a_picture_goes_neither_over_the_pack_nor_to_a_name_that_says_nothing() {
    let place = Place::new();
    three(&place);
    std::fs::rename(place.path("store.pack"), place.path("store.svg")).unwrap();
    let before = std::fs::read(place.path("store.svg")).unwrap();
    let complaint = place.refused(1, &["map", "store.svg", "-o", "store.svg"]);
    assert_eq!(complaint, "blobpack: store.svg: is the pack itself\n");
    assert_eq!(std::fs::read(place.path("store.svg")).unwrap(), before);
    let complaint = place.refused(2, &["map", "store.svg", "-o", "map.png"]);
    assert!(complaint.contains("a picture's name ends in .svg or .html"), "{complaint}");
    assert!(!Path::new(&place.path("map.png")).exists());
}

#[test]
fn the_tree_is_drawn_with_sizes_and_marks() {
    let place = Place::new();
    let [base, layer, one, _] = images(&place);
    let expected = format!(
        "{}  3\n└── {}  5  shared\n    └── {}  4  shared\n\nunique          1 blob               3\n\
         shared         2 blobs               9\n",
        short(&one),
        short(&layer),
        short(&base)
    );
    assert_eq!(place.text(&["tree", "store.pack", &one]), expected);
    let lines = place.text(&["tree", "--json", "store.pack", &one[..20]]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        lines.iter().map(|line| (line["depth"].as_u64().unwrap(), line["digest"].as_str().unwrap())).collect();
    assert_eq!(told, [(0, one.as_str()), (1, &layer), (2, &base)]);
    assert_eq!((&lines[1]["shared"], &lines[1]["repeated"]), (&Value::Bool(true), &Value::Bool(false)));
    let graph = place.text(&["tree", "--dot", "store.pack", &one]);
    assert!(graph.starts_with("digraph blobs {\n") && graph.ends_with("  b0 -> b1;\n  b1 -> b2;\n}\n"), "{graph}");
}

#[test]
fn what_was_drawn_above_is_not_drawn_again() {
    let place = Place::new();
    let store = place.store();
    let mut batch = store.batch();
    let [leaf, left, right, top] = [b"leaf", &b"left"[..], b"right", b"top"].map(|bytes| batch.put(bytes).unwrap());
    batch.reference(&leaf);
    for (to, from) in [(leaf, left), (leaf, right), (left, top), (right, top)] {
        batch.link(&to, &from);
    }
    batch.commit().unwrap();
    store.close().unwrap();
    let [leaf, left, right, top] = [leaf, left, right, top].map(|digest| digest.to_string());
    let expected = format!(
        "{}  3\n├── {}  4\n│   └── {}  4\n└── {}  5\n    └── {}  4  seen above\n\n\
         unique         4 blobs              16\nshared         0 blobs               0\n",
        short(&top),
        short(&left),
        short(&leaf),
        short(&right),
        short(&leaf)
    );
    assert_eq!(place.text(&["tree", "store.pack", &top]), expected);
}

#[test]
fn a_tree_of_many_levels_has_lines_of_bounded_length() {
    let place = Place::new();
    let store = place.store();
    let mut batch = store.batch();
    let digests: Vec<_> = (0..2000_u64).map(|seed| batch.put(&seed.to_le_bytes()).unwrap()).collect();
    for pair in digests.windows(2) {
        batch.link(&pair[0], &pair[1]);
    }
    batch.commit().unwrap();
    store.close().unwrap();
    let tree = place.text(&["tree", "store.pack", &digests[1999].to_string()]);
    assert_eq!(tree.lines().count(), 2000 + 3);
    assert!(tree.lines().all(|line| line.chars().count() < 200));
    assert!(tree.lines().nth(1999).unwrap().starts_with("(1974 levels) "), "{}", tree.lines().nth(1999).unwrap());
}

#[test]
fn why_tells_chains_up_to_its_limit_and_how_many_more() {
    let place = Place::new();
    let [base, layer, one, two] = images(&place);
    let chains = [
        format!("(1 reference) → {}\n", short(&base)),
        format!("(1 reference) → {} → {} → {}\n", short(&one), short(&layer), short(&base)),
        format!("(1 reference) → {} → {} → {}\n", short(&two), short(&layer), short(&base)),
    ];
    assert_eq!(place.text(&["why", "store.pack", &base]), chains.concat());
    let limited = place.text(&["why", "--limit", "1", "store.pack", &base]);
    assert_eq!(limited, format!("{}and 2 chains more (see --limit, --dot)\n", chains[0]));
    assert_eq!(place.text(&["why", "--limit", "0", "store.pack", &one]), "and 1 chain more (see --limit, --dot)\n");
    let lines = place.text(&["why", "--json", "--limit", "2", "store.pack", &base]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], serde_json::json!({"references": 1, "blobs": [base]}));
    assert_eq!(lines[1]["blobs"], serde_json::json!([one, layer, base]));
    assert_eq!(lines[2], serde_json::json!({"chains": 3, "more": 1}));
    let graph = place.text(&["why", "--dot", "store.pack", &base]);
    assert!(graph.contains("  h0_0 [label=\"(1 reference)\""), "{graph}");
    assert_eq!(graph.matches(" -> ").count(), 3 + 3);
}

#[test]
fn names_are_at_the_top_of_chains_and_in_du() {
    let place = Place::new();
    let [base, layer, one, two] = images(&place);
    let store = place.store();
    let [one_digest, two_digest] = [&one, &two].map(|text| text.parse().unwrap());
    store.set_name(&"library/one:1 \"quoted\\".parse().unwrap(), &one_digest).unwrap();
    store.set_name(&"library/two".parse().unwrap(), &two_digest).unwrap();
    store.close().unwrap();
    let chains = format!(
        "library/one:1 \"quoted\\ → {} → {layer}\nlibrary/two → {} → {layer}\n",
        short(&one),
        short(&two),
        layer = short(&layer)
    );
    assert_eq!(place.text(&["why", "store.pack", &layer]), chains);
    let graph = place.text(&["why", "--dot", "store.pack", &layer]);
    assert!(graph.contains(r#"[label="library/one:1 \"quoted\\","#), "{graph}");
    let json = place.text(&["why", "--json", "--limit", "1", "store.pack", &layer]);
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(first, serde_json::json!({"name": "library/one:1 \"quoted\\", "blobs": [one, layer]}));

    let expected = "        unique          shared           frees  name
             3               9             256  library/one:1 \"quoted\\
             3               9             256  library/two
             0               4               0  (without a name)
";
    assert_eq!(place.text(&["du", "store.pack"]), expected);
    let lines = place.text(&["du", "--json", "store.pack"]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[1]["name"], &lines[1]["digest"]), (&Value::from("library/two"), &Value::from(two)));
    assert_eq!(lines[1]["unique"], serde_json::json!({"blobs": 1, "bytes": 3, "reclaimable_bytes": 256}));
    assert_eq!((&lines[2]["references"], &lines[2]["shared"]["blobs"]), (&Value::from(1), &Value::from(1)));
    assert_eq!(
        place.text(&["tree", "store.pack", "library/two"]),
        place.text(&["tree", "store.pack", lines[1]["digest"].as_str().unwrap()])
    );
    assert!(!base.is_empty());
}

#[test]
fn tree_and_why_of_a_blob_that_is_not_there_say_so() {
    let place = Place::new();
    three(&place);
    let absent = common::unknown().to_string();
    for verb in ["tree", "why"] {
        assert_eq!(
            place.refused(3, &[verb, "store.pack", &absent]),
            format!("blobpack: no blob {absent} in the pack\n")
        );
        place.refused(2, &[verb, "--json", "--dot", "store.pack", &absent]);
    }
}

/// What is left was told as no more than there is, beside the JSON that says otherwise.
#[test]
fn stat_says_what_a_compaction_would_leave_where_that_is_more() {
    let place = Place::new();
    place.store().close().unwrap();
    let compaction = &place.json(&["stat", "--json", "store.pack"])["compaction"];
    let (before, after) = (compaction["before_bytes"].as_u64().unwrap(), compaction["after_bytes"].as_u64().unwrap());
    assert!(after > before, "{compaction}");
    let text = place.text(&["stat", "store.pack"]);
    assert!(text.ends_with(&format!("would give back 0 of {before}, 0 %, and leave {after}\n")), "{text}");
}

#[test]
fn stat_tells_shares_and_what_a_compaction_would_give_back() {
    let place = Place::new();
    three(&place);
    let totals = place.json(&["stat", "--json", "store.pack"]);
    let text = place.text(&["stat", "store.pack"]);
    let row = |name: &str| -> Vec<&str> {
        text.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect()
    };
    // Each call asks the file system for itself, so the shares are compared with what the same text says.
    let disk: u64 = row("disk bytes")[2].parse().unwrap();
    assert_eq!(row("disk bytes")[3..], ["100", "%"]);
    for (name, key) in [("live bytes", "live_bytes"), ("dead bytes", "dead_bytes"), ("index bytes", "index_bytes")] {
        let bytes = totals[key].as_u64().unwrap();
        assert_eq!(row(name)[2], bytes.to_string());
        let share: f64 = row(name)[3].parse().unwrap();
        assert!((share - 100.0 * bytes as f64 / disk as f64).abs() < 0.051, "{text}");
    }
    let number = |name: &str| totals["compaction"][name].as_u64().unwrap();
    assert_eq!(number("freed_bytes"), number("before_bytes") - number("after_bytes"));
    let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
    let (freed, before): (u64, u64) = (last[4].parse().unwrap(), last[6].trim_end_matches(',').parse().unwrap());
    assert_eq!((last[..4].join(" ").as_str(), last[5]), ("compaction would give back", "of"));
    assert_eq!(last.last().unwrap().parse::<u64>().unwrap(), before - freed);
    let done = place.json(&["compact", "--json", "store.pack"]);
    assert!(done["freed_bytes"].as_u64().unwrap().abs_diff(freed) <= 64 << 10, "{done} {text}");
}
