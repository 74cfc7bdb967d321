//! A plain tree of files as one manifest blob (`dir:PATH`): what the manifest says, and what makes it a sound one.
//!
//! The manifest is JSON, of the media type [`TREE_MEDIA_TYPE`]:
//!
//! ```json
//! {"mediaType":"application/vnd.blobpack.tree.v1+json","entries":[
//! {"type":"directory","path":".","mode":"0755"},
//! {"type":"directory","path":"bin","mode":"0755"},
//! {"type":"file","path":"bin/run","mode":"0755","size":5,"digest":"sha256:2cf2…"},
//! {"type":"symlink","path":"run","target":"bin/run"}
//! ]}
//! ```
//!
//! * **Entries** are a `directory`, a `file` or a `symlink`. The first is the tree's own directory, `.`; then come the
//!   names in each directory in the order of their bytes, and behind a directory what is in it. So one tree has one
//!   manifest, byte for byte, and one digest. Anything else, a name twice, a name before its directory, a field that is
//!   not listed here, is refused when it is read.
//! * **path** has its parts between slashes, none of them empty, `.` or `..`. Names are bytes: those that are not
//!   UTF-8, and the percent sign, are written `%` and two upper-case hex digits, in `path` and in `target`, and nothing
//!   else is.
//! * **mode** is the permission bits, `0000` to `0777`. The bits for setuid, setgid and sticky are not kept: they speak
//!   of owners and groups, which a tree does not keep either, and would mean something else where it comes out.
//! * **size** (bytes) and **digest** are those of the file's blob, which the manifest links to. Hard links are files of
//!   their own. Times, owners, extended attributes and holes are not kept.

mod gather;
mod walk;
mod write;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fault::{Fault, ImageFault};

pub use gather::{ImportedTree, check_tree, import_tree};
pub use write::{ExportedTree, export_tree};

/// The media type of a tree's manifest.
pub const TREE_MEDIA_TYPE: &str = "application/vnd.blobpack.tree.v1+json";

/// Directories in directories, at most so deep: each level has an open file while it is walked.
pub(super) const LEVELS_MAX: usize = 200;
/// No manifest is longer, in bytes; the entries of a longer one would not fit into memory.
pub(super) const TREE_BYTES_MAX: u64 = 1 << 30;
/// What comes before the entries, a line each.
pub(super) const HEAD: &str = "{\"mediaType\":\"application/vnd.blobpack.tree.v1+json\",\"entries\":[\n";
/// What comes behind them.
pub(super) const TAIL: &str = "\n]}\n";

/// A tree's directory in the file system: what errors are about.
#[derive(Clone, Copy)]
pub(super) struct At<'a>(pub &'a Path);

impl At<'_> {
    /// Where something is whose path in the tree is known.
    fn path(&self, path: &[u8]) -> PathBuf {
        if matches!(path, b"" | b".") { self.0.into() } else { self.0.join(OsStr::from_bytes(path)) }
    }

    /// Something in the tree is not what it has to be.
    fn fault(&self, path: &[u8], fault: Fault) -> Error {
        self.fault_in(if path == b"." { String::new() } else { escape(path) }, fault)
    }

    fn fault_in(&self, part: String, fault: Fault) -> Error {
        Error::Image(Box::new(ImageFault { location: format!("dir:{}", self.0.display()), part, fault }))
    }

    fn refused(&self, path: &[u8], reason: String) -> Error {
        self.fault(path, Fault::Refused { reason })
    }

    /// The system refused a call.
    fn io<T>(&self, path: &[u8], operation: &'static str, result: rustix::io::Result<T>) -> Result<T> {
        result.map_err(|error| Error::io(operation, &self.path(path), error.into()))
    }
}

/// Permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode(pub u32);

impl Mode {
    /// Those of what a file's status says.
    #[allow(clippy::useless_conversion, reason = "the widths differ between systems")]
    pub fn of(status: &rustix::fs::Stat) -> Mode {
        Mode(u32::from(status.st_mode) & 0o777)
    }

    /// As system calls take them.
    #[allow(clippy::cast_possible_truncation, reason = "nine bits fit into every system's type")]
    pub fn bits(self) -> rustix::fs::Mode {
        rustix::fs::Mode::from_raw_mode(self.0 as rustix::fs::RawMode)
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mode, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_octal = text.len() == 4 && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        let mode = u32::from_str_radix(&text, 8).ok().filter(|&mode| is_octal && mode <= 0o777);
        mode.map(Mode).ok_or_else(|| D::Error::custom(format_args!("{text:?} is no mode from \"0000\" to \"0777\"")))
    }
}

/// Bytes of a path or of a link's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Escaped(pub Vec<u8>);

impl Escaped {
    /// As it stands in a manifest, and in messages.
    pub fn text(&self) -> String {
        escape(&self.0)
    }
}

impl Serialize for Escaped {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Escaped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Escaped, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = unescape(&text);
        bytes.map(Escaped).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not escaped as it has to be")))
    }
}

/// One thing in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Entry {
    /// A directory.
    Directory {
        /// Where it is.
        path: Escaped,
        /// Its permissions.
        mode: Mode,
    },
    /// A file.
    File {
        /// Where it is.
        path: Escaped,
        /// Its permissions.
        mode: Mode,
        /// Its bytes.
        size: u64,
        /// Their digest.
        digest: Digest,
    },
    /// A symbolic link.
    Symlink {
        /// Where it is.
        path: Escaped,
        /// What it says.
        target: Escaped,
    },
}

impl Entry {
    /// Where it is.
    pub fn path(&self) -> &Escaped {
        match self {
            Entry::Directory { path, .. } | Entry::File { path, .. } | Entry::Symlink { path, .. } => path,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    #[serde(rename = "mediaType")]
    media_type: String,
    entries: Vec<Entry>,
}

/// What the media type of some JSON is, if it says so: an image's manifest need not.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
}

/// A manifest whose entries can be made one after another: each one's directory is there before it, no path leads out
/// of the tree, and none is there twice.
#[derive(Debug)]
pub(super) struct Tree {
    /// The permissions of the tree's own directory.
    pub mode: Mode,
    /// All others.
    pub entries: Vec<Entry>,
}

impl Tree {
    /// Reads a manifest and checks it.
    ///
    /// # Errors
    /// The path of the entry that is wrong, or nothing where it is the whole; and why.
    pub fn parse(bytes: &[u8]) -> Result<Tree, (String, Fault)> {
        let mut entries = match serde_json::from_slice::<Manifest>(bytes) {
            Ok(manifest) if manifest.media_type == TREE_MEDIA_TYPE => manifest.entries,
            parsed => return Err((String::new(), not_a_tree(bytes, parsed.err()))),
        };
        let refused = |path: &Escaped, reason: &str| (path.text(), Fault::Refused { reason: reason.into() });
        let root = match entries.first() {
            Some(Entry::Directory { path, mode }) if path.0 == b"." => *mode,
            _ => return Err(refused(&Escaped(b".".into()), "is not the first entry")),
        };
        entries.remove(0);
        // The directories that the entry before is in, with the last name in each.
        let mut open: Vec<(&[u8], &[u8])> = vec![(b"", b"")];
        for entry in &entries {
            let path = entry.path();
            let (directory, name) = split(&path.0).map_err(|reason| refused(path, reason))?;
            while open.last().is_some_and(|(inside, _)| *inside != directory) {
                open.pop();
            }
            let Some((_, last)) = open.last_mut() else {
                return Err(refused(path, "does not stand behind its directory"));
            };
            if !last.is_empty() && *last >= name {
                return Err(refused(path, "is there twice, or not in the order of the names"));
            }
            *last = name;
            match entry {
                Entry::Directory { .. } if open.len() > LEVELS_MAX => {
                    return Err((path.text(), Fault::TooDeep { limit: LEVELS_MAX }));
                }
                Entry::Directory { path, .. } => open.push((&path.0, b"")),
                Entry::Symlink { target, .. } if target.0.is_empty() || target.0.contains(&0) => {
                    return Err(refused(path, "has no target that a link can have"));
                }
                Entry::File { .. } | Entry::Symlink { .. } => {}
            }
        }
        Ok(Tree { mode: root, entries })
    }
}

/// Why some bytes are no manifest. What has another media type has other fields too, which is not what to tell.
fn not_a_tree(bytes: &[u8], error: Option<serde_json::Error>) -> Fault {
    let reason = match (serde_json::from_slice(bytes), error) {
        (Ok(Kind { media_type: None }), _) => "is no tree of files: it has no media type".to_owned(),
        (Ok(Kind { media_type: Some(found) }), _) if found != TREE_MEDIA_TYPE => {
            format!("is no tree of files: its media type is {found:?}, not {TREE_MEDIA_TYPE:?}")
        }
        (_, Some(error)) => return Fault::Json { reason: error.to_string() },
        (_, None) => "is no tree of files".to_owned(),
    };
    Fault::Refused { reason }
}

/// The directory and the name of a path in a tree; the directory is empty for what is right in the tree's own.
pub(super) fn split(path: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let at = path.iter().rposition(|&byte| byte == b'/');
    let (directory, name) = at.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
    match name {
        b"" | b"." | b".." => Err("is no path inside of the tree"),
        _ if at == Some(0) => Err("is no path inside of the tree"),
        _ if name.contains(&0) => Err("has a zero byte in it"),
        _ => Ok((directory, name)),
    }
}

/// Bytes as text: percent signs and what is not UTF-8 become `%` and two hex digits.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '%' => text.push_str("%25"),
                character => text.push(character),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    text
}

/// The bytes that have this text, if any have.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    // Each path has one spelling only, so that no two entries mean the same.
    (escape(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(entries: &[&str]) -> Vec<u8> {
        let root = r#"{"type":"directory","path":".","mode":"0755"}"#;
        let entries: Vec<&str> = std::iter::once(root).chain(entries.iter().copied()).collect();
        format!("{HEAD}{}{TAIL}", entries.join(",\n")).into_bytes()
    }

    fn directory(path: &str) -> String {
        format!(r#"{{"type":"directory","path":"{path}","mode":"0755"}}"#)
    }

    fn symlink(path: &str) -> String {
        format!(r#"{{"type":"symlink","path":"{path}","target":"x"}}"#)
    }

    #[test]
    fn what_is_something_else_is_said_to_be() {
        for (text, reason) in [
            (r#"{"schemaVersion":2,"config":{},"layers":[]}"#, "no tree of files: it has no media type"),
            (r#"{"mediaType":"x/y","manifests":[]}"#, "no tree of files: its media type is \"x/y\""),
            ("no JSON", "not the JSON"),
            (r#"{"mediaType":"application/vnd.blobpack.tree.v1+json","more":[]}"#, "`more`"),
        ] {
            let (part, fault) = Tree::parse(text.as_bytes()).unwrap_err();
            assert!(part.is_empty() && fault.to_string().contains(reason), "{text}: {fault}");
        }
    }

    #[track_caller]
    fn refuses(entries: &[String], part: &str, reason: &str) {
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let (path, fault) = Tree::parse(&manifest(&entries)).unwrap_err();
        assert_eq!(path, part);
        assert!(fault.to_string().contains(reason), "{fault}");
    }

    #[test]
    fn names_of_any_bytes_have_one_spelling() {
        for (bytes, text) in [
            (&b"plain"[..], "plain"),
            (b"100%", "100%25"),
            ("\u{fc}\u{4e00}".as_bytes(), "\u{fc}\u{4e00}"),
            (b"\xff\xfe", "%FF%FE"),
            (b"a\xc3", "a%C3"),
            (b"\xe4\xb8b", "%E4%B8b"),
            (b"line\nend", "line\nend"),
        ] {
            assert_eq!(escape(bytes), text);
            assert_eq!(unescape(text).unwrap(), bytes);
        }
        for text in ["%", "%2", "%41", "%ff", "%+F", "%C3%BC", "a%2", "%25%", "%\u{fc}"] {
            assert_eq!(unescape(text), None, "{text}");
        }
        for byte in 0..=255 {
            assert_eq!(unescape(&escape(&[byte, b'/', byte])).unwrap(), [byte, b'/', byte]);
        }
    }

    #[test]
    fn the_order_of_a_walk_is_the_only_one() {
        let entries =
            [directory("a"), symlink("a/b"), directory("a/c"), symlink("a/c/d"), symlink("a.b"), symlink("b")];
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        assert_eq!(Tree::parse(&manifest(&entries)).unwrap().entries.len(), 6);
        refuses(&[symlink("b"), symlink("a")], "a", "order");
        refuses(&[symlink("a"), symlink("a")], "a", "twice");
        refuses(&[directory("a"), directory("a")], "a", "twice");
        refuses(&[directory("a"), symlink("b"), symlink("a/c")], "a/c", "behind its directory");
        refuses(&[symlink("a/b")], "a/b", "behind its directory");
        // A link is no directory, whatever it leads to.
        refuses(&[symlink("a"), symlink("a/b")], "a/b", "behind its directory");
    }

    #[test]
    fn paths_stay_inside_of_the_tree() {
        for path in ["", "..", "../a", "/", "/a", "a/..", "a/.", "a//b", ".", "./a", "a/", "a\\u0000b"] {
            let shown = path.replace("\\u0000", "\0");
            let (part, _) = Tree::parse(&manifest(&[&directory("a"), &symlink(path)])).unwrap_err();
            assert_eq!(part, shown);
        }
        refuses(&[directory("..")], "..", "inside of the tree");
        refuses(&[directory("/")], "/", "inside of the tree");
    }

    #[test]
    fn a_manifest_is_what_is_documented_and_nothing_else() {
        let bad = [
            "",
            "{}",
            "[]",
            r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","entries":[]}"#,
            r#"{"mediaType":"application/vnd.blobpack.tree.v1+json","entries":[]}"#,
            r#"{"mediaType":"application/vnd.blobpack.tree.v1+json","entries":[],"more":1}"#,
        ];
        for text in bad {
            Tree::parse(text.as_bytes()).unwrap_err();
        }
        for entry in [
            r#"{"type":"fifo","path":"a"}"#,
            r#"{"type":"directory","path":"a"}"#,
            r#"{"type":"directory","path":"a","mode":"4755"}"#,
            r#"{"type":"directory","path":"a","mode":"755"}"#,
            r#"{"type":"directory","path":"a","mode":"+755"}"#,
            r#"{"type":"directory","path":"a","mode":493}"#,
            r#"{"type":"directory","path":"a","mode":"0755","owner":0}"#,
            r#"{"type":"directory","path":"a","path":"b","mode":"0755"}"#,
            r#"{"type":"symlink","path":"a","target":""}"#,
            r#"{"type":"symlink","path":"a","target":"\u0000"}"#,
            r#"{"type":"symlink","path":"a","target":"%"}"#,
            r#"{"type":"file","path":"a","mode":"0644","size":-1,"digest":"sha256:00"}"#,
            r#"{"type":"file","path":"a","mode":"0644","size":1,"digest":"md5:00"}"#,
        ] {
            Tree::parse(&manifest(&[entry])).expect_err(entry);
        }
        let deep: Vec<String> = (1..LEVELS_MAX + 3).map(|level| directory(&vec!["d"; level].join("/"))).collect();
        let (path, fault) = Tree::parse(&manifest(&deep.iter().map(String::as_str).collect::<Vec<_>>())).unwrap_err();
        assert!(matches!(fault, Fault::TooDeep { .. }) && path.len() > LEVELS_MAX, "{path}: {fault}");
    }

    proptest::proptest! {
        /// Whatever is accepted can be made, one entry after another, without leaving the tree.
        #[test]
        fn accepted_entries_have_their_directory_before_them(
            kinds in proptest::collection::vec((proptest::bool::ANY, "[ab./]{1,5}"), 0..8),
            sorted in proptest::bool::ANY,
        ) {
            let mut kinds = kinds;
            if sorted {
                kinds.sort_by(|(_, one), (_, other)| one.cmp(other));
            }
            let entry = |(is_directory, path): &(bool, String)| match is_directory {
                true => directory(path),
                false => symlink(path),
            };
            let entries: Vec<String> = kinds.iter().map(entry).collect();
            let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
            if let Ok(tree) = Tree::parse(&manifest(&entries)) {
                let mut made = std::collections::HashMap::from([(Vec::new(), true)]);
                for entry in &tree.entries {
                    let path = &entry.path().0;
                    assert!(path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
                    let above = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at]);
                    assert_eq!(made.get(above), Some(&true), "{path:?}");
                    assert_eq!(made.insert(path.clone(), matches!(entry, Entry::Directory { .. })), None, "{path:?}");
                }
            }
        }
    }
}
