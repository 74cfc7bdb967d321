//! The tool from outside: what it prints, what it exits with, and what it leaves on the disk.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use blobpack::{Algorithm, Digest, Store};
use serde_json::Value;
use tempfile::TempDir;

const VERBS: [&str; 19] = [
    "put", "get", "ls", "stat", "ref", "deref", "link", "unlink", "name", "names", "unname", "verify", "compact",
    "rebuild", "inspect", "tree", "why", "du", "map",
];

/// The exit codes that the tool's help promises.
mod code {
    pub const DONE: i32 = 0;
    pub const FAILED: i32 = 1;
    pub const USAGE: i32 = 2;
    pub const NO_SUCH_BLOB: i32 = 3;
    pub const DAMAGE: i32 = 4;
    pub const LOCKED: i32 = 5;
}

/// A directory with a pack, or room for one, and what calls of the tool there need.
struct Place {
    directory: TempDir,
}

/// What a call came to.
struct Called {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pack(&self) -> PathBuf {
        self.path("store.pack")
    }

    /// A file with these bytes, in the directory that the tool is called in.
    fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blobpack"));
        command.current_dir(self.directory.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn call<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Called {
        self.command(arguments).output().unwrap().into()
    }

    /// A call that is to work: its standard output.
    fn text<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        self.call(arguments).expect(code::DONE).text()
    }

    /// A call that is to work and to print one JSON value.
    fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Value {
        serde_json::from_str(&self.text(arguments)).unwrap()
    }

    fn call_with_input<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>, input: &[u8]) -> Called {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A tool that does not read to the end fails the assertions that follow.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap().into()
    }

    /// Stores bytes; their digest.
    fn put(&self, bytes: &[u8]) -> String {
        let put = self.call_with_input(["put", "store.pack"], bytes).expect(code::DONE).text();
        put.strip_suffix("  -\n").unwrap().to_owned()
    }

    /// A pack with a blob `to` that the blob `from` links to; the two digests.
    fn linked(&self) -> (String, String) {
        let (to, from) = (self.put(b"layer"), self.put(b"manifest"));
        self.text(["link", "store.pack", "--to", &to, "--from", &from]);
        (to, from)
    }

    /// The bytes of a blob in the pack's file are changed.
    fn spoil(&self, bytes: &[u8]) {
        let mut file = fs::read(self.pack()).unwrap();
        let at = file.windows(bytes.len()).position(|window| window == bytes).unwrap();
        file[at] ^= 1;
        fs::write(self.pack(), file).unwrap();
    }
}

impl From<Output> for Called {
    fn from(output: Output) -> Called {
        let code = output.status.code().expect("no signal ended it");
        Called { code, stdout: output.stdout, stderr: String::from_utf8(output.stderr).unwrap() }
    }
}

impl Called {
    #[track_caller]
    fn expect(self, code: i32) -> Called {
        assert_eq!(self.code, code, "{}{}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }

    fn text(self) -> String {
        String::from_utf8(self.stdout).unwrap()
    }

    /// Fails with this code, one error line, and nothing on standard output.
    #[track_caller]
    fn refuses(self, code: i32) -> String {
        let called = self.expect(code);
        assert_eq!(String::from_utf8_lossy(&called.stdout), "");
        assert!(called.stderr.starts_with("blobpack: "), "{}", called.stderr);
        assert_eq!(called.stderr.lines().count(), 1, "{}", called.stderr);
        called.stderr
    }
}

fn sha256(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha256, bytes).to_string()
}

/// Bytes without a pattern, the same each time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut noise: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(word).collect();
    noise.truncate(bytes);
    noise
}

#[track_caller]
fn assert_keys(object: &Value, keys: &[&str]) {
    let mut found: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let mut keys = keys.to_vec();
    found.sort_unstable();
    keys.sort_unstable();
    assert_eq!(found, keys);
}

const BLOB_KEYS: [&str; 5] = ["digest", "size", "ref_count", "links", "referrers"];

// Help and usage

#[test]
fn every_verb_explains_itself_with_an_example() {
    let place = Place::new();
    let help = place.text(["--help"]);
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    for verb in VERBS {
        assert!(help.lines().any(|line| line.trim_start().starts_with(verb)), "{verb} in {help}");
        let help = place.text([verb, "--help"]);
        assert!(help.contains("Examples:") && help.contains(&format!("blobpack {verb}")), "{help}");
        assert_eq!(help.contains("--json"), verb != "get", "{help}");
    }
    assert_eq!(place.text(["--version"]), format!("blobpack {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_exits_with_2() {
    let place = Place::new();
    place.put(b"a");
    let calls: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["put"],
        &["ls", "store.pack", "--shiny"],
        &["put", "store.pack", "--algorithm", "md5"],
        &["put", "store.pack", "--name", ""],
        &["put", "store.pack", "--name", "two", "one", "two"],
        &["name", "store.pack", "sha256:x"],
        &["name", "store.pack", "--ref", "x"],
        &["unname", "store.pack", "a\tb"],
        &["put", "store.pack", "--wait", "-1"],
        &["get", "store.pack", "sha256:00000000", "--range", "5"],
        &["get", "store.pack", "sha256:00000000", "--range", "a..b"],
        &["get", "store.pack", "sha256:00000000", "--range", "+1..3"],
        &["compact", "store.pack", "--min-dead", "101"],
        // What is no digest and no name, and what is a prefix but too short.
        &["get", "store.pack", "sha256:nonsense"],
        &["get", "store.pack", ""],
        &["get", "store.pack", "two\nlines"],
        &["stat", "store.pack", "sha256:ABCDEF0123"],
        &["ref", "store.pack", "sha256:1234567"],
    ];
    for call in calls {
        let called = place.call(*call).expect(code::USAGE);
        assert!(!called.stderr.is_empty(), "{call:?}");
        assert!(called.stdout.is_empty(), "{call:?}");
    }
}

/// Digits in upper case were called too few, and too few were not told how many there have to be.
#[test]
fn what_is_wrong_with_a_digest_is_told() {
    let place = Place::new();
    let digest = place.put(b"a");
    let long = format!("{digest}00");
    for (text, reason) in [
        ("sha256:CA978112", "lower case"),
        ("sha256:nonsense", "lower case"),
        ("sha256:ca97811", "at least 8"),
        ("sha256:", "at least 8"),
        (&long, "wrong number"),
    ] {
        let message = place.call(["get", "store.pack", text]).refuses(code::USAGE);
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn only_put_creates_a_pack() {
    let place = Place::new();
    let digest = sha256(b"a");
    for verb in VERBS {
        let arguments: Vec<&str> = match verb {
            "put" => continue,
            "get" | "ref" | "deref" | "tree" | "why" => vec![verb, "store.pack", &digest],
            "link" | "unlink" => vec![verb, "store.pack", "--to", &digest, "--from", &digest],
            "name" => vec![verb, "store.pack", "x", &digest],
            "unname" => vec![verb, "store.pack", "x"],
            _ => vec![verb, "store.pack"],
        };
        let message = place.call(arguments).refuses(code::FAILED);
        assert!(message.contains("store.pack"), "{message}");
        assert!(!place.pack().exists(), "{verb}");
    }
    place.put(b"a");
    assert!(place.pack().exists());
}

#[test]
fn a_file_that_is_no_pack_is_refused_and_left_alone() {
    let place = Place::new();
    place.write("store.pack", b"a letter, not a pack");
    for verb in ["ls", "stat", "put", "compact", "inspect"] {
        let message = place.call([verb, "store.pack"]).refuses(code::FAILED);
        assert!(message.contains("store.pack: not a pack: "), "{message}");
    }
    place.call(["inspect", "--json", "store.pack"]).refuses(code::FAILED);
    assert_eq!(fs::read(place.pack()).unwrap(), b"a letter, not a pack");
}

// put

#[test]
fn put_prints_what_sha256sum_prints() {
    let place = Place::new();
    // More files than a batch has, of all sizes: empty, small, as long as makes it large, larger, odd names.
    let mut names: Vec<Vec<u8>> = (0..1_100).map(|n| format!("file {n}").into_bytes()).collect();
    for (n, name) in names.iter().enumerate() {
        place.write(OsStr::from_bytes(name), format!("content {}", n % 700).as_bytes());
    }
    for bytes in [0, 1, 65_535, 65_536, 65_537, 3_000_000] {
        let name = format!("size {bytes}");
        place.write(&name, &noise(bytes));
        names.push(name.into_bytes());
    }
    for name in [&b"back\\slash"[..], b"line\nend", b"carriage\rreturn", b"-dash", b"\xff\xfe", b" blank ", b"\\\n\r"] {
        place.write(OsStr::from_bytes(name), name);
        names.push(name.to_vec());
    }
    let names: Vec<&OsStr> = names.iter().map(|name| OsStr::from_bytes(name)).collect();
    let arguments = ["put", "store.pack", "--"].map(OsStr::new);
    let put = place.call(arguments.iter().chain(&names)).expect(code::DONE);
    assert_eq!(put.stderr, "");

    let expected = Command::new("sha256sum").current_dir(place.directory.path()).arg("--").args(&names).output();
    let Ok(expected) = expected else { return eprintln!("no sha256sum here") };
    let ours: Vec<Vec<u8>> = put.stdout.split(|&byte| byte == b'\n').map(without_label).collect();
    let theirs: Vec<Vec<u8>> = expected.stdout.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    assert_eq!(ours, theirs);
    assert_eq!(place.text(["ls", "store.pack"]).lines().count(), 700 + 6 + 7);
}

/// A line of `put` as `sha256sum` has it.
fn without_label(line: &[u8]) -> Vec<u8> {
    let (escape, rest) = match line.strip_prefix(b"\\") {
        Some(rest) => (&b"\\"[..], rest),
        None => (&b""[..], line),
    };
    [escape, rest.strip_prefix(b"sha256:").unwrap_or(rest)].concat()
}

#[test]
fn put_takes_standard_input_without_files_and_for_a_dash() {
    let place = Place::new();
    place.write("file", b"in a file");
    let line = |bytes: &[u8], name: &str| format!("{}  {name}\n", sha256(bytes));
    let put = place.call_with_input(["put", "store.pack"], b"piped").expect(code::DONE);
    assert_eq!(put.text(), line(b"piped", "-"));
    let put = place.call_with_input(["put", "store.pack", "file", "-"], b"piped").expect(code::DONE);
    assert_eq!(put.text(), line(b"in a file", "file") + &line(b"piped", "-"));
    // Nothing at all is a blob as well.
    let put = place.call(["put", "store.pack"]).expect(code::DONE);
    assert_eq!(put.text(), line(b"", "-"));
    let large = noise(5_000_000);
    assert_eq!(place.put(&large), sha256(&large));
    assert_eq!(place.call(["get", "store.pack", &sha256(&large)]).expect(code::DONE).stdout, large);
}

/// A stream of unknown length must not collect in memory. Peak memory is the kernel's count of anonymous pages.
#[cfg(target_os = "linux")]
#[test]
fn put_streams_in_constant_memory() {
    let place = Place::new();
    let mut child = place.command(["put", "store.pack"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let piece = noise(1 << 20);
    let mut anonymous_kib_max = 0;
    for _ in 0..128 {
        stdin.write_all(&piece).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        anonymous_kib_max = anonymous_kib_max.max(kib);
    }
    drop(stdin);
    assert!(child.wait_with_output().unwrap().status.success());
    assert!(anonymous_kib_max < 64 << 10, "{anonymous_kib_max} KiB");
}

#[test]
fn put_goes_on_past_what_it_cannot_read() {
    let place = Place::new();
    place.write("good", b"good");
    place.write("better", b"better");
    fs::create_dir(place.path("directory")).unwrap();
    let put = place.call(["put", "store.pack", "good", "missing", "directory", "better"]).expect(code::FAILED);
    assert_eq!(put.stderr.lines().count(), 2, "{}", put.stderr);
    assert!(put.stderr.contains("blobpack: missing: ") && put.stderr.contains("blobpack: directory: "));
    assert_eq!(put.text(), format!("{}  good\n{}  better\n", sha256(b"good"), sha256(b"better")));
}

#[test]
fn put_stores_twice_what_is_there_as_one_more_reference() {
    let place = Place::new();
    place.write("one", b"same");
    place.write("two", b"same");
    let text = place.text(["put", "store.pack", "--json", "one", "two"]);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (line, (name, ref_count)) in lines.iter().zip([("one", 1), ("two", 2)]) {
        assert_keys(line, &["digest", "name", "size", "ref_count"]);
        assert_eq!(line["digest"], sha256(b"same"));
        assert_eq!(line["name"], name);
        assert_eq!(line["size"], 4);
        assert_eq!(line["ref_count"], ref_count);
    }
}

#[test]
fn put_knows_three_algorithms() {
    let place = Place::new();
    for algorithm in Algorithm::ALL {
        let put = ["put", "store.pack", "--algorithm", algorithm.label()];
        let put = place.call_with_input(put, b"x").expect(code::DONE).text();
        let digest = Digest::of(algorithm, b"x").to_string();
        assert_eq!(put, format!("{digest}  -\n"));
        assert_eq!(place.text(["get", "store.pack", &digest]), "x");
    }
}

#[test]
fn a_directory_means_the_pack_inside_it() {
    let place = Place::new();
    fs::create_dir(place.path("directory")).unwrap();
    place.call_with_input(["put", "directory"], b"x").expect(code::DONE);
    assert!(place.path("directory/blobs.pack").is_file());
    assert_eq!(place.text(["ls", "directory"]), sha256(b"x") + "\n");
    assert!(!place.text(["inspect", "directory"]).is_empty());
    // One that is not there was made as a file, which the next call with the same path did not find.
    for missing in ["missing/", "missing/."] {
        place.call_with_input(["put", missing], b"x").refuses(code::FAILED);
        place.call(["compact", "directory", "--output", missing]).refuses(code::FAILED);
        assert!(!place.path("missing").exists());
    }
}

// get

#[test]
fn get_writes_the_blob_to_every_kind_of_target() {
    let place = Place::new();
    for bytes in [noise(0), noise(1000), noise(2_000_000)] {
        let digest = place.put(&bytes);
        let get = ["get", "store.pack", &digest];
        // A pipe.
        assert_eq!(place.call(get).expect(code::DONE).stdout, bytes);
        // A regular file, from its current position on.
        let mut file = File::create(place.path("redirected")).unwrap();
        file.write_all(b"before ").unwrap();
        assert!(place.command(get).stdout(file).status().unwrap().success());
        assert_eq!(fs::read(place.path("redirected")).unwrap(), [b"before ", &bytes[..]].concat());
        // One that is open for appending, which copy_file_range and sendfile refuse.
        let file = File::options().append(true).open(place.path("redirected")).unwrap();
        assert!(place.command(get).stdout(file).status().unwrap().success());
        assert_eq!(fs::read(place.path("redirected")).unwrap(), [b"before ", &bytes[..], &bytes[..]].concat());
        // A file of its own; twice, for there may be one.
        for _ in 0..2 {
            place.call(["get", "store.pack", &digest, "-o", "file"]).expect(code::DONE);
            assert_eq!(fs::read(place.path("file")).unwrap(), bytes);
        }
        place.call(["get", "store.pack", &digest, "-o", "/dev/null"]).expect(code::DONE);
    }
}

#[test]
fn get_of_a_range() {
    let place = Place::new();
    let bytes = noise(200_000);
    let digest = place.put(&bytes);
    let cases = [("0..10", 0..10), ("199990..", 199_990..200_000), ("..3", 0..3), ("..", 0..200_000), ("7..7", 7..7)];
    for (text, range) in cases {
        let get = place.call(["get", "store.pack", &digest, "--range", text]).expect(code::DONE);
        assert_eq!(get.stdout, bytes[range], "{text}");
        place.call(["get", "store.pack", &digest, "--range", text, "-o", "file"]).expect(code::DONE);
        assert_eq!(fs::read(place.path("file")).unwrap(), get.stdout, "{text}");
    }
    let get = place.call(["get", "store.pack", &digest, "-o", "-"]).expect(code::DONE);
    assert!(get.stdout == bytes && !place.path("-").exists());
    for text in ["0..200001", "200001..", "5..4"] {
        let message = place.call(["get", "store.pack", &digest, "--range", text]).refuses(code::FAILED);
        assert!(message.contains("200000"), "{message}");
    }
}

#[test]
fn get_leaves_no_partial_file_and_keeps_the_old_one() {
    let place = Place::new();
    let bytes = noise(100_000);
    let digest = place.put(&bytes);
    place.spoil(&bytes[50_000..50_100]);
    place.write("old", b"old");
    place.call(["get", "store.pack", &digest, "-o", "old"]).refuses(code::DAMAGE);
    place.call(["get", "store.pack", &digest, "-o", "new"]).refuses(code::DAMAGE);
    // Not a byte of a damaged blob goes out, be the range itself sound.
    place.call(["get", "store.pack", &digest]).refuses(code::DAMAGE);
    place.call(["get", "store.pack", &digest, "--range", "0..10"]).refuses(code::DAMAGE);
    let absent = sha256(b"absent");
    place.call(["get", "store.pack", &absent, "-o", "new"]).refuses(code::NO_SUCH_BLOB);
    place.call(["get", "store.pack", &digest, "-o", "no/such/directory"]).expect(code::DAMAGE);
    assert_eq!(fs::read(place.path("old")).unwrap(), b"old");
    let mut left: Vec<_> = fs::read_dir(place.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["old", "store.pack"]);
}

#[test]
fn get_into_a_symbolic_link_writes_what_it_leads_to() {
    let place = Place::new();
    let digest = place.put(b"new");
    place.write("file", b"old");
    std::os::unix::fs::symlink("file", place.path("link")).unwrap();
    place.call(["get", "store.pack", &digest, "-o", "link"]).expect(code::DONE);
    assert!(place.path("link").is_symlink());
    assert_eq!(fs::read(place.path("file")).unwrap(), b"new");
    // What it leads to need not be there yet.
    fs::create_dir(place.path("directory")).unwrap();
    std::os::unix::fs::symlink("directory/file", place.path("dangling")).unwrap();
    place.call(["get", "store.pack", &digest, "-o", "dangling"]).expect(code::DONE);
    assert!(place.path("dangling").is_symlink());
    assert_eq!(fs::read(place.path("directory/file")).unwrap(), b"new");
    // It may be a link as well, which was replaced by the file before.
    for (link, to) in [("one", "two"), ("two", "directory/three"), ("directory/three", "four"), ("round", "round")] {
        std::os::unix::fs::symlink(to, place.path(link)).unwrap();
    }
    place.call(["get", "store.pack", &digest, "-o", "one"]).expect(code::DONE);
    assert!(["one", "two", "directory/three"].into_iter().all(|link| place.path(link).is_symlink()));
    assert_eq!(fs::read(place.path("directory/four")).unwrap(), b"new");
    place.call(["get", "store.pack", &digest, "-o", "round"]).refuses(code::FAILED);
    assert!(place.path("round").is_symlink());
}

/// The absolute path was asked for, which leads through a directory that the process may not enter.
#[test]
fn get_needs_no_way_to_the_directory_that_it_runs_in() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    let digest = place.put(b"hello");
    let tool = place.path("tool");
    fs::copy(env!("CARGO_BIN_EXE_blobpack"), &tool).unwrap();
    let permit = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (path, mode) in [(place.directory.path(), 0o777), (&place.pack(), 0o644), (&tool, 0o755)] {
        permit(path, mode);
    }
    let mut shell = Command::new("sh");
    let script = "mkdir -p closed/open && cd closed/open && chmod 0 .. && ln -s new link && \"$@\" link && \"$@\" new";
    shell.args(["-c", script, "sh"]).arg(&tool).arg("get").arg(place.pack()).args([&digest, "-o"]);
    shell.current_dir(place.directory.path());
    // No directory is closed to root.
    if rustix::process::geteuid().is_root() {
        shell.uid(65_534).gid(65_534);
    }
    let called = shell.output().unwrap();
    permit(&place.path("closed"), 0o755);
    Called::from(called).expect(code::DONE);
    assert!(place.path("closed/open/link").is_symlink());
    assert_eq!(fs::read(place.path("closed/open/new")).unwrap(), b"hello");
}

/// A hidden file with what had been written so far was left behind, for ever.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_get_leaves_nothing() {
    use std::os::unix::fs::OpenOptionsExt;
    let place = Place::new();
    let nameless = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
    if File::options().write(true).custom_flags(nameless).open(place.directory.path()).is_err() {
        return eprintln!("every file has a name here");
    }
    let digest = place.put(&noise(100_000));
    place.write("old", b"old");
    for target in ["old", "new"] {
        // Whoever writes beyond this limit is killed.
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -c 0 && ulimit -f 1 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_blobpack")]);
        limited.args(["get", "store.pack", &digest, "-o", target]).current_dir(place.directory.path());
        assert_eq!(limited.output().unwrap().status.code(), None);
    }
    let mut left: Vec<_> = fs::read_dir(place.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["old", "store.pack"]);
    assert_eq!(fs::read(place.path("old")).unwrap(), b"old");
}

/// Reading the pack while it grows would never end, and a blob in the pack's place would be the end of the others.
#[test]
fn the_pack_is_neither_read_nor_written_as_a_file() {
    let place = Place::new();
    let digest = place.put(&noise(100_000));
    let itself = |stderr: &str| assert!(stderr.contains("is the pack itself"), "{stderr}");
    itself(&place.call(["put", "store.pack", "./store.pack"]).refuses(code::FAILED));
    let stdin = File::open(place.pack()).unwrap();
    itself(&Called::from(place.command(["put", "store.pack"]).stdin(stdin).output().unwrap()).refuses(code::FAILED));
    itself(&place.call(["get", "store.pack", &digest, "-o", "store.pack"]).refuses(code::FAILED));
    assert_eq!(place.text(["ls", "store.pack"]), digest + "\n");
}

// Digests

#[test]
fn a_unique_prefix_does_for_a_digest() {
    let place = Place::new();
    let digest = place.put(b"hello");
    let prefix = &digest[.."sha256:".len() + 8];
    assert_eq!(place.text(["get", "store.pack", prefix]), "hello");
    assert_eq!(place.json(["stat", "store.pack", "--json", prefix])["digest"], digest);
    place.text(["ref", "store.pack", prefix]);
    place.text(["deref", "store.pack", prefix]);
    place.call(["get", "store.pack", "sha256:00000000"]).refuses(code::NO_SUCH_BLOB);
}

#[test]
fn a_blob_that_is_not_there_exits_with_3() {
    let place = Place::new();
    let (there, absent) = (place.put(b"there"), sha256(b"absent"));
    let calls: [&[&str]; 7] = [
        &["get", "store.pack", &absent],
        &["stat", "store.pack", &absent],
        &["ref", "store.pack", &absent],
        &["deref", "store.pack", &absent],
        &["link", "store.pack", "--to", &absent, "--from", &there],
        &["link", "store.pack", "--to", &there, "--from", &absent],
        &["unlink", "store.pack", "--to", &absent, "--from", &there],
    ];
    for call in calls {
        let message = place.call(call).refuses(code::NO_SUCH_BLOB);
        assert!(message.contains(&absent), "{message}");
    }
}

// ls and stat

#[test]
fn ls_lists_in_one_order_and_goes_on_where_it_was_cut_off() {
    let place = Place::new();
    for n in 0..50 {
        place.write(format!("{n}"), format!("{n}").as_bytes());
    }
    let files: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    place.text(["put", "store.pack"].into_iter().chain(files.iter().map(String::as_str)));
    let all = place.text(["ls", "store.pack"]);
    let digests: Vec<&str> = all.lines().collect();
    assert_eq!(digests.len(), 50);
    let rest = place.text(["ls", "store.pack", "--after", digests[19]]);
    assert_eq!(rest.lines().collect::<Vec<_>>(), digests[20..]);

    let long = place.text(["ls", "--long", "store.pack"]);
    let json = place.text(["ls", "--json", "store.pack"]);
    for ((digest, long), json) in digests.iter().zip(long.lines()).zip(json.lines()) {
        let json: Value = serde_json::from_str(json).unwrap();
        assert_keys(&json, &["digest", "size", "ref_count", "link_count"]);
        let columns = ["size", "ref_count", "link_count"].map(|key| json[key].to_string());
        assert_eq!(
            long.split_whitespace().collect::<Vec<_>>(),
            [&[*digest], &columns.each_ref().map(String::as_str)[..]].concat()
        );
        assert_eq!(json["digest"], *digest);
    }
    assert_eq!((long.lines().count(), json.lines().count()), (50, 50));
}

#[test]
fn stat_lists_links_in_the_order_in_which_they_were_made() {
    let place = Place::new();
    let index = place.put(b"index");
    let parts = [b"one", b"two", b"six"].map(|part| place.put(part));
    for part in &parts {
        place.text(["link", "store.pack", "--to", part, "--from", &index]);
    }
    assert_eq!(place.json(["stat", "--json", "store.pack", &index])["links"], serde_json::json!(parts));
    let text = place.text(["stat", "store.pack", &index]);
    let listed: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("links to      ")).collect();
    assert_eq!(listed, parts);
    let tree = place.text(["tree", "store.pack", &index]);
    let at = parts.map(|part| tree.find(&part[..23]).unwrap());
    assert!(at.is_sorted(), "{tree}");
}

#[test]
fn stat_of_the_pack_and_of_a_blob() {
    let place = Place::new();
    let (to, from) = place.linked();
    let totals = place.json(["stat", "--json", "store.pack"]);
    for key in ["blobs", "links", "live_bytes", "dead_bytes", "file_bytes", "index_bytes"] {
        assert!(totals[key].is_u64(), "{key} in {totals}");
    }
    assert_eq!((&totals["blobs"], &totals["links"]), (&2.into(), &1.into()));
    assert_eq!(totals["live_bytes"], "layermanifest".len());
    assert_eq!(totals["file_bytes"], place.pack().metadata().unwrap().len());

    let blob = place.json(["stat", "--json", "store.pack", &from]);
    assert_keys(&blob, &[&BLOB_KEYS[..], &["names"]].concat());
    assert_eq!(blob["links"], serde_json::json!([to]));
    assert_eq!((&blob["referrers"], &blob["names"]), (&serde_json::json!([]), &serde_json::json!([])));
    let blob = place.json(["stat", "--json", "store.pack", &to]);
    assert_eq!((&blob["size"], &blob["ref_count"]), (&5.into(), &1.into()));
    assert_eq!(blob["referrers"], serde_json::json!([from]));

    assert!(place.text(["stat", "store.pack"]).lines().any(|line| line.starts_with("blobs ") && line.ends_with(" 2")));
    let text = place.text(["stat", "store.pack", &to]);
    assert!(text.contains(&to) && text.contains(&format!("linked from   {from}")), "{text}");
    assert!(text.lines().any(|line| line == "of callers    0"), "{text}");

    for _ in 0..4 {
        place.text(["ref", "store.pack", &to]);
    }
    place.text(["name", "store.pack", "the layer", &to]);
    place.text(["name", "store.pack", "a name: 1", &to]);
    place.text(["name", "store.pack", "another's", &from]);
    let blob = place.json(["stat", "--json", "store.pack", "a name: 1"]);
    assert_eq!((&blob["ref_count"], &blob["names"]), (&5.into(), &serde_json::json!(["a name: 1", "the layer"])));
    let lines = place.text(["stat", "store.pack", &to]);
    let lines: Vec<&str> = lines.lines().skip(2).take(4).collect();
    assert_eq!(lines, ["references    5", "of callers    2", "name          a name: 1", "name          the layer"]);
}

// References and links

#[test]
fn references_and_links_keep_blobs_alive() {
    let place = Place::new();
    let (to, from) = place.linked();
    let count = |digest: &str| place.json(["stat", "--json", "store.pack", digest])["ref_count"].clone();

    let blob = place.json(["ref", "--json", "store.pack", &from]);
    assert_keys(&blob, &BLOB_KEYS);
    assert_eq!((&blob["ref_count"], &blob["links"]), (&2.into(), &serde_json::json!([to])));
    let deref = place.json(["deref", "--json", "store.pack", &from]);
    assert_keys(&deref, &["removed", "reclaimable_bytes"]);
    assert_eq!((&deref["removed"], &deref["reclaimable_bytes"]), (&serde_json::json!([]), &0.into()));

    // The link holds the only reference on `to`.
    let message = place.call(["deref", "store.pack", &to]).refuses(code::FAILED);
    assert!(message.contains(&to), "{message}");
    // A cycle could never be freed.
    place.text(["ref", "store.pack", &from]);
    let message = place.call(["link", "store.pack", "--to", &from, "--from", &to]).refuses(code::FAILED);
    assert!(message.contains("cycle"), "{message}");

    // With a reference of ours `to` survives the end of the link.
    place.text(["ref", "store.pack", &to]);
    let blob = place.json(["unlink", "--json", "store.pack", "--to", &to, "--from", &from]);
    assert_keys(&blob, &BLOB_KEYS);
    assert_eq!((&blob["ref_count"], &blob["referrers"]), (&1.into(), &serde_json::json!([])));
    let message = place.call(["unlink", "store.pack", "--to", &to, "--from", &from]).refuses(code::FAILED);
    assert!(message.contains("no link"), "{message}");
    let blob = place.json(["link", "--json", "store.pack", "--to", &to, "--from", &from]);
    assert_keys(&blob, &BLOB_KEYS);
    assert_eq!((&blob["digest"], &blob["referrers"]), (&to.clone().into(), &serde_json::json!([from])));

    // The last reference on `from` takes `to` along.
    assert_eq!(count(&from), 2);
    assert_eq!(place.text(["deref", "store.pack", &from]), "");
    let removed = place.call(["deref", "store.pack", &from]).expect(code::DONE);
    assert!(removed.stderr.starts_with("removed 2 blobs; compaction can free "), "{}", removed.stderr);
    let text = removed.text();
    let mut removed: Vec<&str> = text.lines().collect();
    removed.sort_unstable();
    let mut both = [to.as_str(), &from];
    both.sort_unstable();
    assert_eq!(removed, both);
    assert_eq!(place.text(["ls", "store.pack"]), "");
}

#[test]
fn unlink_of_the_last_reference_removes() {
    let place = Place::new();
    let (to, from) = place.linked();
    let unlinked = place.call(["unlink", "store.pack", "--to", &to, "--from", &from]).expect(code::DONE);
    assert!(unlinked.stderr.starts_with("removed 1 blob;"), "{}", unlinked.stderr);
    assert_eq!(unlinked.text(), format!("{to}\n"));

    let (to, from) = place.linked();
    let blob = place.json(["unlink", "--json", "store.pack", "--to", &to, "--from", &from]);
    assert_keys(&blob, &BLOB_KEYS);
    assert_eq!((&blob["digest"], &blob["ref_count"]), (&to.clone().into(), &0.into()));
    place.call(["get", "store.pack", &to]).refuses(code::NO_SUCH_BLOB);
}

// Names

#[test]
fn a_name_takes_a_reference_and_serves_wherever_a_digest_does() {
    let place = Place::new();
    let digest = place.put(b"an image");
    assert_eq!(place.text(["name", "store.pack", "app:1", &digest]), "");
    assert_eq!(place.text(["name", "store.pack", "app:1"]), format!("{digest}\n"));
    assert_eq!(place.text(["get", "store.pack", "app:1"]), "an image");
    assert_eq!(place.json(["stat", "--json", "store.pack", "app:1"])["digest"], digest);
    assert_eq!(place.json(["stat", "--json", "store.pack"])["names"], 1);
    assert!(place.text(["stat", "store.pack"]).lines().any(|line| line.split_whitespace().eq(["names", "1"])));
    // The name holds the only reference.
    place.call(["deref", "store.pack", "app:1"]).refuses(code::FAILED);
    place.call(["name", "store.pack", "app:latest", "app:1"]).refuses(code::FAILED);
    place.text(["name", "--ref", "store.pack", "app:latest", "app:1"]);
    assert_eq!(place.text(["names", "store.pack"]), format!("{digest}  app:1\n{digest}  app:latest\n"));
    let lines = place.text(["names", "--json", "store.pack"]);
    for (line, name) in lines.lines().zip(["app:1", "app:latest"]) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line, serde_json::json!({ "name": name, "digest": digest }));
    }
    let unnamed = place.json(["unname", "--json", "store.pack", "app:1"]);
    assert_keys(&unnamed, &["removed", "reclaimable_bytes"]);
    assert_eq!(unnamed["removed"], serde_json::json!([]));
    assert_eq!(place.text(["unname", "store.pack", "app:latest"]), format!("{digest}\n"));
    assert_eq!(place.text(["names", "store.pack"]), "");
    for call in
        [&["get", "store.pack", "app:1"][..], &["unname", "store.pack", "app:1"], &["name", "store.pack", "app:1"]]
    {
        let message = place.call(call).refuses(code::NO_SUCH_BLOB);
        assert!(message.contains("app:1"), "{message}");
    }
}

#[test]
fn a_name_that_moves_removes_what_it_alone_kept() {
    let place = Place::new();
    let (to, from) = place.linked();
    place.text(["name", "store.pack", "latest", &from]);
    let new = place.put(b"newer");
    let moved = place.json(["name", "--json", "store.pack", "latest", &new]);
    assert_keys(&moved, &["name", "digest", "removed", "reclaimable_bytes"]);
    assert_eq!((&moved["name"], &moved["digest"]), (&"latest".into(), &new.clone().into()));
    assert_eq!(moved["removed"], serde_json::json!([from, to]));
    let found = place.json(["name", "--json", "store.pack", "latest"]);
    assert_eq!(found, serde_json::json!({ "name": "latest", "digest": new }));
}

#[test]
fn put_names_the_only_file_in_the_same_commit() {
    let place = Place::new();
    place.write("one", b"one");
    place.write("two", &noise(100_000));
    let one = place.json(["put", "--json", "--name", "latest", "store.pack", "one"]);
    assert_eq!((&one["digest"], &one["ref_count"]), (&sha256(b"one").into(), &1.into()));
    // Again: the name holds one reference, whatever it is set to.
    let again = place.json(["put", "--json", "--name", "latest", "store.pack", "one"]);
    assert_eq!(again["ref_count"], 1);
    let two = place.call(["put", "--name", "latest", "store.pack", "two"]).expect(code::DONE);
    assert!(two.stderr.starts_with("removed 1 blob;"), "{}", two.stderr);
    assert_eq!(place.text(["names", "store.pack"]), format!("{}  latest\n", sha256(&noise(100_000))));
    assert_eq!(place.text(["ls", "store.pack"]).lines().count(), 1);
    // What can't be read is not named, and the name keeps what it has.
    place.call(["put", "--name", "latest", "store.pack", "missing"]).refuses(code::FAILED);
    assert_eq!(place.text(["names", "store.pack"]).lines().count(), 1);
    let verified = place.json(["verify", "--json", "store.pack"]);
    assert_eq!(verified["damage"], serde_json::json!([]));
    // What goes wrong with the name is told of the file, not of standard input.
    place.spoil(b"latest");
    let message = place.call(["put", "--name", "latest", "store.pack", "one"]).refuses(code::DAMAGE);
    assert!(message.contains(": one: "), "{message}");
}

// Long operations

#[test]
fn verify_lists_all_damage() {
    let place = Place::new();
    let (one, two) = (noise(100_000), noise(70_000).into_iter().rev().collect::<Vec<u8>>());
    let digests = [place.put(&one), place.put(&two)];
    place.put(b"sound");
    let verified = place.json(["verify", "--json", "store.pack"]);
    assert_keys(&verified, &["blobs", "bytes", "damage"]);
    assert_eq!(verified, serde_json::json!({"blobs": 3, "bytes": 170_005, "damage": []}));
    assert_eq!(place.text(["verify", "store.pack"]), "");

    place.spoil(&one[90_000..90_100]);
    place.spoil(&two[60_000..60_100]);
    let verified = place.call(["verify", "store.pack"]).expect(code::DAMAGE);
    let text = verified.text();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(digests.iter().all(|digest| text.contains(digest)), "{text}");
    let verified = place.call(["verify", "--json", "store.pack"]).expect(code::DAMAGE);
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(verified["damage"].as_array().unwrap().len(), 2);
    for damage in verified["damage"].as_array().unwrap() {
        assert_keys(damage, &["offset", "digest", "name", "what", "referrers"]);
    }
    // Nothing can bring those bytes back, but nothing else is to be lost either.
    place.call(["verify", "--repair", "store.pack"]).expect(code::DAMAGE);
    assert_eq!(place.text(["get", "store.pack", &sha256(b"sound")]), "sound");
}

#[test]
fn compact_leaves_out_what_is_damaged_where_it_is_told_to() {
    let place = Place::new();
    let bytes = noise(100_000);
    let (lost, holder) = (place.put(&bytes), place.put(b"holder"));
    place.text(["link", "store.pack", "--to", &lost, "--from", &holder]);
    let calls = |more: &[&str]| place.call([&["compact", "store.pack", "--output", "sound.pack"], more].concat());
    let compacted = calls(&["--json", "--leave-out-damaged"]).expect(code::DONE).text();
    let compacted: Value = serde_json::from_str(&compacted).unwrap();
    assert_keys(&compacted, &["before_bytes", "after_bytes", "freed_bytes", "left_out"]);
    assert_eq!(compacted["left_out"], serde_json::json!([]));
    fs::remove_file(place.path("sound.pack")).unwrap();

    place.spoil(&bytes[50_000..50_100]);
    let message = calls(&[]).refuses(code::DAMAGE);
    assert!(message.contains(&lost) && !place.path("sound.pack").exists(), "{message}");
    let compacted = calls(&["--leave-out-damaged"]).expect(code::DONE);
    let told = format!("; linked to by {holder}");
    let is_told = |line: &str| line.starts_with("left out: offset ") && line.contains(&lost) && line.ends_with(&told);
    assert!(compacted.stderr.lines().any(is_told), "{}", compacted.stderr);
    assert_eq!(place.text(["ls", "sound.pack"]), format!("{holder}\n"));
    place.text(["verify", "sound.pack"]);
    place.call(["verify", "store.pack"]).expect(code::DAMAGE);

    // What was lost can be stored and linked again.
    assert_eq!(
        place.call_with_input(["put", "sound.pack"], &bytes).expect(code::DONE).text().split(' ').next(),
        Some(&*lost)
    );
    place.text(["link", "sound.pack", "--to", &lost, "--from", &holder]);
    assert_eq!(place.call(["get", "sound.pack", &lost]).expect(code::DONE).stdout, bytes);
}

#[test]
fn verify_says_what_it_did_not_look_at() {
    let place = Place::new();
    place.put(b"hello");
    assert_keys(&place.json(["verify", "--json", "store.pack"]), &["blobs", "bytes", "damage"]);
    let _writer = Store::open(place.pack()).unwrap();
    let verified = place.json(["verify", "--json", "store.pack"]);
    assert_eq!(verified, serde_json::json!({"blobs": 1, "bytes": 5, "damage": [], "partial": true}));
    let note = place.call(["verify", "store.pack"]).expect(code::DONE).stderr;
    assert!(note.contains("counts and index were not compared"), "{note}");
}

#[test]
fn verify_repairs_an_index() {
    let place = Place::new();
    let digest = place.put(b"hello");
    assert_eq!(place.call(["verify", "--repair", "store.pack"]).expect(code::DONE).text(), "");
    let items = place.text(["inspect", "--json", "store.pack"]);
    // The index lies behind the run frames; all of it is lost.
    let runs = items.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|i| i["kind"] == "run");
    let mut file = fs::read(place.pack()).unwrap();
    let mut spoilt = 0;
    for run in runs {
        let start = usize::try_from(run["offset"].as_u64().unwrap()).unwrap() + 4096;
        let end = file.len().min(start + 64 * 1024);
        if start < end {
            file[start..end].fill(0xa5);
            spoilt += 1;
        }
    }
    assert!(spoilt > 0, "{items}");
    fs::write(place.pack(), file).unwrap();
    place.call(["verify", "store.pack"]).expect(code::DAMAGE);
    place.call(["verify", "--repair", "store.pack"]).expect(code::DONE);
    assert_eq!(place.text(["get", "store.pack", &digest]), "hello");
    place.text(["verify", "store.pack"]);
}

#[test]
fn ls_lists_the_others_where_one_blob_can_not_be_told() {
    let place = Place::new();
    let digests: Vec<String> = (0..9).map(|seed| place.put(&[seed; 100])).collect();
    let hex = digests[4].strip_prefix("sha256:").unwrap();
    let raw: Vec<u8> = (0..32).map(|n| u8::from_str_radix(&hex[2 * n..][..2], 16).unwrap()).collect();
    place.spoil(&raw);
    for form in [&["ls", "store.pack"][..], &["ls", "--long", "store.pack"], &["ls", "--json", "store.pack"]] {
        let listed = place.call(form.iter().copied()).expect(code::DAMAGE);
        let lines = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(lines.lines().count(), 8, "{lines}");
        assert!(digests.iter().enumerate().all(|(n, digest)| lines.contains(digest) == (n != 4)), "{lines}");
        assert!(listed.stderr.contains("damaged at offset") && listed.stderr.lines().count() == 1, "{}", listed.stderr);
    }
}

#[test]
fn a_file_that_was_cut_off_is_repaired_as_its_error_says() {
    // Nothing was lost but bytes of the index, and nobody could open it.
    let place = Place::new();
    let digests: Vec<_> = (0..40).map(|seed| place.put(&[seed; 1000])).collect();
    let whole = fs::read(place.pack()).unwrap();
    for verb in [&["rebuild", "store.pack"][..], &["verify", "--repair", "store.pack"]] {
        fs::write(place.pack(), &whole[..400 << 10]).unwrap();
        let refused = place.call(["ls", "store.pack"]).expect(code::DAMAGE).stderr;
        assert!(refused.contains("cut off") && refused.contains("; `blobpack rebuild` makes it whole"), "{refused}");
        place.call(verb.iter().copied()).expect(code::DONE);
        let kept = place.text(["ls", "store.pack"]);
        assert!(digests.iter().all(|digest| kept.contains(digest)), "{kept}");
        assert!(place.call(["verify", "store.pack"]).expect(code::DONE).stderr.contains("40 blobs"));
    }
    // Here the end of the log is gone, and nothing is changed.
    fs::write(place.pack(), &whole[..300_000]).unwrap();
    place.call(["rebuild", "store.pack"]).expect(code::DAMAGE);
    let refused = place.call(["verify", "--repair", "store.pack"]).expect(code::DAMAGE).stderr;
    assert!(!refused.contains("the log is damaged"), "{refused}");
    assert!(fs::read(place.pack()).unwrap() == whole[..300_000]);
}

#[test]
fn verify_repairs_names_whose_texts_are_damaged_by_removing_them_and_says_so() {
    let place = Place::new();
    let (one, two) = (place.put(b"one"), place.put(b"two"));
    place.text(["name", "store.pack", "the first name", &one]);
    place.text(["name", "store.pack", "the second name", &two]);
    let sound = fs::read(place.pack()).unwrap();
    place.spoil(b"the second name");
    let at = sound.windows(15).position(|window| window == b"the second name").unwrap() - 64;
    place.call(["verify", "store.pack"]).expect(code::DAMAGE);
    place.call(["names", "store.pack"]).expect(code::DAMAGE);
    let said = format!("offset {at}: removed a name of {two} whose text is damaged; its reference is a caller's now");
    let spoilt = fs::read(place.pack()).unwrap();
    for (verb, options) in [("verify", vec!["--repair"]), ("rebuild", vec![])] {
        fs::write(place.pack(), &spoilt).unwrap();
        let repaired = place.call([verb, "store.pack"].into_iter().chain(options)).expect(code::DONE);
        assert!(repaired.stderr.contains(&said), "{}", repaired.stderr);
        assert_eq!(place.text(["names", "store.pack"]), format!("{one}  the first name\n"));
        assert_eq!(place.text(["get", "store.pack", &two]), "two");
        place.text(["compact", "store.pack"]);
        place.text(["name", "store.pack", "the second name", &two]);
        place.text(["unname", "store.pack", "the second name"]);
        assert_eq!(place.text(["ls", "store.pack"]), format!("{one}\n"));
    }
}

#[test]
fn compact_gives_the_space_back() {
    let place = Place::new();
    let (dead, live) = (place.put(&noise(3_000_000)), place.put(&noise(100_000)));
    place.text(["deref", "store.pack", &dead]);
    assert!(place.json(["stat", "--json", "store.pack"])["dead_bytes"].as_u64().unwrap() >= 3_000_000);

    // Elsewhere, with the pack left as it is.
    let before = fs::read(place.pack()).unwrap();
    let compacted = place.json(["compact", "--json", "store.pack", "--output", "other.pack"]);
    assert_keys(&compacted, &["before_bytes", "after_bytes", "freed_bytes"]);
    assert_eq!(place.text(["ls", "other.pack"]), format!("{live}\n"));
    assert_eq!(fs::read(place.pack()).unwrap().len(), before.len());

    let message = place.call(["compact", "store.pack", "--output", "nosuch/x"]).refuses(code::FAILED);
    assert!(message.contains("nosuch/x: create the new file: "), "{message}");

    // Too little is dead.
    let kept = place.call(["compact", "store.pack", "--min-dead", "100"]).expect(code::DONE);
    assert!(kept.stderr.contains("not compacted"), "{}", kept.stderr);

    let compacted = place.json(["compact", "--json", "store.pack"]);
    let bytes = |key: &str| compacted[key].as_u64().unwrap();
    assert_eq!(bytes("freed_bytes"), bytes("before_bytes") - bytes("after_bytes"));
    assert!(bytes("freed_bytes") > 2_500_000, "{compacted}");
    assert_eq!(place.call(["get", "store.pack", &live]).expect(code::DONE).stdout, noise(100_000));
    place.text(["verify", "store.pack"]);
    let text = place.text(["compact", "store.pack"]);
    assert_eq!(text.split_whitespace().step_by(2).collect::<Vec<_>>(), ["before", "after", "freed"]);
}

/// A small pack was left as it was where `stat` said that a third would be given back.
#[test]
fn a_compaction_is_worth_what_stat_says() {
    let place = Place::new();
    for number in 0..60_u32 {
        place.put(&number.to_le_bytes());
    }
    let estimate = &place.json(["stat", "--json", "store.pack"])["compaction"];
    let bytes = |key: &str| estimate[key].as_u64().unwrap();
    let percent = bytes("freed_bytes") * 100 / bytes("before_bytes");
    assert!(percent > 10, "{estimate}");
    let compact = |percent: u64| place.call(["compact", "store.pack", "--min-dead", &percent.to_string()]);
    assert!(compact(percent + 2).expect(code::DONE).stderr.contains("not compacted"));
    assert!(!compact(percent - 1).expect(code::DONE).stderr.contains("not compacted"));
}

#[test]
fn rebuild_keeps_everything() {
    let place = Place::new();
    let (to, from) = place.linked();
    let before = place.text(["stat", "--json", "store.pack", &to]);
    let rebuilt = place.json(["rebuild", "--json", "store.pack"]);
    assert_eq!((&rebuilt["blobs"], &rebuilt["links"]), (&2.into(), &1.into()));
    assert_eq!(place.text(["stat", "--json", "store.pack", &to]), before);
    assert!(place.call(["rebuild", "store.pack"]).expect(code::DONE).stderr.contains("2 blobs and 1 link"));
    assert_eq!(place.text(["get", "store.pack", &from]), "manifest");
    place.text(["verify", "store.pack"]);
}

#[test]
fn inspect_shows_frames_writes_nothing_and_survives_damage() {
    let place = Place::new();
    let digest = place.put(b"hello");
    let file = fs::read(place.pack()).unwrap();
    let text = place.text(["inspect", "store.pack"]);
    assert!(text.lines().any(|line| line.contains("blob") && line.contains(&digest)), "{text}");
    for line in place.text(["inspect", "--json", "store.pack"]).lines() {
        let item: Value = serde_json::from_str(line).unwrap();
        assert_keys(&item, &["offset", "kind", "length", "detail", "valid"]);
    }
    assert_eq!(fs::read(place.pack()).unwrap(), file);

    // Every page in turn, and the end cut off.
    for page in (0..file.len()).step_by(64 << 10) {
        let mut spoilt = file.clone();
        spoilt[page..file.len().min(page + 4096)].fill(0xff);
        fs::write(place.pack(), &spoilt).unwrap();
        place.call(["inspect", "store.pack"]).expect(code::DONE);
        fs::write(place.pack(), &file[..page]).unwrap();
        // Of nothing at all there is nothing to show.
        place.call(["inspect", "store.pack"]).expect(if page > 0 { code::DONE } else { code::FAILED });
    }
}

// Other processes

#[test]
fn readers_work_beside_a_writer_and_a_second_writer_exits_with_5() {
    let place = Place::new();
    let digest = place.put(b"hello");
    let writer = Store::open(place.pack()).unwrap();
    writer.put(b"fresh").unwrap();

    assert_eq!(place.text(["get", "store.pack", &digest]), "hello");
    assert_eq!(place.text(["ls", "store.pack"]).lines().count(), 2);
    for call in [["stat", "store.pack"], ["verify", "store.pack"], ["inspect", "store.pack"]] {
        place.text(call);
    }
    let calls: [&[&str]; 6] = [
        &["put", "store.pack"],
        &["ref", "store.pack", &digest],
        &["deref", "store.pack", &digest],
        &["compact", "store.pack"],
        &["rebuild", "store.pack"],
        &["verify", "--repair", "store.pack"],
    ];
    for call in calls {
        let message = place.call(call).refuses(code::LOCKED);
        assert!(message.contains("locked"), "{message}");
    }
    let begin = Instant::now();
    place.call(["ref", "--wait", "0.5", "store.pack", &digest]).refuses(code::LOCKED);
    assert!(begin.elapsed() >= Duration::from_millis(500));

    // Who waits long enough gets it.
    let waiting = place.command(["ref", "--wait", "60", "store.pack", &digest]).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    writer.close().unwrap();
    assert!(waiting.wait_with_output().unwrap().status.success());
    assert_eq!(place.json(["stat", "--json", "store.pack", &digest])["ref_count"], 2);
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let place = Place::new();
    let names: Vec<String> = (0..3_000).map(|n| n.to_string()).collect();
    for name in &names {
        place.write(name, name.as_bytes());
    }
    let large = place.put(&noise(4_000_000));
    let put = ["put", "store.pack"].into_iter().chain(names.iter().map(String::as_str));
    closed_pipe(place.command(put));
    // Nobody saw the lines; the files are stored all the same.
    assert_eq!(place.json(["stat", "--json", "store.pack"])["blobs"], 3_001);
    for call in [
        &["ls", "store.pack"][..],
        &["ls", "--json", "store.pack"],
        &["ls", "--long", "store.pack"],
        &["get", "store.pack", &large],
        &["stat", "store.pack"],
        &["inspect", "store.pack"],
        &["--help"],
    ] {
        closed_pipe(place.command(call));
    }
}

/// Reads a byte and hangs up.
fn closed_pipe(mut command: Command) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let _ = stdout.read(&mut [0]).unwrap();
    drop(stdout);
    let called = Called::from(child.wait_with_output().unwrap()).expect(code::DONE);
    assert_eq!(called.stderr, "", "{command:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_an_error() {
    let place = Place::new();
    let digest = place.put(b"hello");
    let calls: [&[&str]; 6] = [
        &["ls", "store.pack"],
        &["get", "store.pack", &digest],
        &["stat", "store.pack"],
        &["--help"],
        &["put", "--help"],
        &["--version"],
    ];
    for call in calls {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let called = place.command(call).stdout(full).output().unwrap();
        let message = Called::from(called).refuses(code::FAILED);
        assert!(message.contains("standard output"), "{message}");
    }
}

#[test]
fn a_process_with_little_address_space_works_too() {
    let place = Place::new();
    place.write("content", b"a blob");
    for call in [&["put", "store.pack", "content"][..], &["verify", "store.pack"], &["compact", "store.pack"]] {
        for kilobytes in [700_000, 3_000_000] {
            let mut limited = Command::new("sh");
            limited.arg("-c").arg(format!("ulimit -v {kilobytes} && exec \"$0\" \"$@\""));
            limited.arg(env!("CARGO_BIN_EXE_blobpack")).args(call).current_dir(place.directory.path());
            Called::from(limited.output().unwrap()).expect(code::DONE);
        }
    }
}

/// The new file had its name already when no descriptor was left to open the directory with: what had failed was done.
#[test]
fn what_no_descriptor_is_left_for_leaves_all_as_it_was() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    place.write("content", b"a blob");
    let inode = || fs::metadata(place.pack()).map(|found| found.ino()).ok();
    let (mut done, mut refused) = (0, 0);
    for call in [&["put", "store.pack", "content"][..], &["compact", "store.pack"]] {
        for descriptors in 4..24 {
            if call[0] == "put" {
                let _ = fs::remove_file(place.pack());
            }
            let before = inode();
            let mut limited = Command::new("sh");
            limited.arg("-c").arg(format!("ulimit -n {descriptors} && exec \"$0\" \"$@\""));
            limited.arg(env!("CARGO_BIN_EXE_blobpack")).args(call).current_dir(place.directory.path());
            let output = limited.output().unwrap();
            if output.status.success() {
                done += 1;
                continue;
            }
            refused += 1;
            assert_eq!(inode(), before, "{call:?} with {descriptors}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(done > 10 && refused > 2, "{done} {refused}");
    place.text(["verify", "store.pack"]);
}

/// Where no thread was to be had a verification panicked.
#[test]
fn a_process_that_gets_no_threads_works_too() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    for (n, name) in names.iter().enumerate() {
        place.write(name, &noise(if n < 80 { n } else { 70_000 + n }));
    }
    place.text(["put", "store.pack"].into_iter().chain(names.iter().map(String::as_str)));
    let tool = place.path("tool");
    fs::copy(env!("CARGO_BIN_EXE_blobpack"), &tool).unwrap();
    for (path, mode) in [(place.directory.path(), 0o777), (&place.pack(), 0o666), (&tool, 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for call in [&["verify", "store.pack"][..], &["compact", "store.pack"], &["rebuild", "store.pack"]] {
        let mut limited = Command::new("bash");
        limited.args(["-c", "ulimit -u 1 && exec \"$0\" \"$@\""]).arg(&tool).args(call);
        limited.current_dir(place.directory.path());
        // The limit is not for root.
        if rustix::process::geteuid().is_root() {
            limited.uid(65_534).gid(65_534);
        }
        Called::from(limited.output().unwrap()).expect(code::DONE);
    }
}
