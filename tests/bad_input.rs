//! What bad input gets: an error that names the offending value, the right exit code, and a file as it was. Never a
//! panic.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blobpack::format::{FrameHeader, Identity, Kind, Offset, SUPERBLOCKS_AT};
use blobpack::medium::{Fault, SimDirectory};
use blobpack::store::How;
use blobpack::{Algorithm, Digest, Error, Store};
use proptest::prelude::*;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

mod common;
use common::{PACK, content, contents, golden, inserted, open_simulated, simulated, small, unknown, whole};

/// One kind of bad input.
struct Case {
    what: &'static str,
    /// Makes the input in a directory; returns the path to open.
    make: fn(&Path) -> PathBuf,
    /// What the library says to it.
    ask: fn(&Path) -> Option<Error>,
    is: fn(&Error) -> bool,
    /// Part of the message, [filled in](filled).
    says: &'static str,
    /// The tool's arguments, filled in too.
    tool: &'static [&'static str],
    code: i32,
}

const STORED: &[u8] = b"a blob of twenty-one!";

/// A text in which `PATH` stands for the path that was given, `STORED` and `UNKNOWN` for digests.
fn filled(text: &str, path: &Path) -> String {
    let stored = Digest::of(Algorithm::Sha256, STORED);
    let text = text.replace("PATH", path.to_str().unwrap());
    text.replace("STORED", &stored.to_string()).replace("UNKNOWN", &unknown().to_string())
}

/// A sound pack with a blob.
fn pack(directory: &Path) -> PathBuf {
    let path = directory.join("sound.pack");
    let store = Store::options().create_new(true).open(&path).unwrap();
    store.put(STORED).unwrap();
    store.put(&content(1, 100_000)).unwrap();
    store.close().unwrap();
    path
}

fn changed(directory: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let path = pack(directory);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A pack as a later version of blobpack may write it.
fn newer(directory: &Path) -> PathBuf {
    changed(directory, |bytes| {
        for at in [0, SUPERBLOCKS_AT[0].0 as usize, SUPERBLOCKS_AT[1].0 as usize] {
            let place = &mut bytes[at..at + size_of::<Identity>()];
            let mut identity = Identity::read_from_bytes(place).unwrap();
            identity.version = U32::new(77);
            place.copy_from_slice(identity.sealed().as_bytes());
        }
    })
}

fn truncated(directory: &Path, length: usize) -> PathBuf {
    changed(directory, |bytes| bytes.truncate(length))
}

fn open(path: &Path) -> Option<Error> {
    Store::options().create(false).open(path).err()
}

fn parsed(text: &str) -> Option<Error> {
    text.parse::<Digest>().err()
}

const LS: &[&str] = &["ls", "PATH"];

const CASES: &[Case] = &[
    Case {
        what: "a file that is no pack",
        make: |directory| {
            let path = directory.join("letter.txt");
            std::fs::write(&path, "Dear reader,\n".repeat(30_000)).unwrap();
            path
        },
        ask: open,
        is: |error| matches!(error, Error::NotAPack { .. }),
        says: "PATH",
        tool: LS,
        code: 1,
    },
    Case {
        what: "a file of zero length",
        make: |directory| {
            std::fs::write(directory.join("empty"), "").unwrap();
            directory.join("empty")
        },
        ask: open,
        is: |error| matches!(error, Error::NotAPack { reason, .. } if reason.contains("empty")),
        says: "PATH",
        tool: LS,
        code: 1,
    },
    Case {
        what: "a file of zeros",
        make: |directory| {
            std::fs::write(directory.join("zeros"), vec![0; 1 << 20]).unwrap();
            directory.join("zeros")
        },
        ask: open,
        is: |error| matches!(error, Error::NotAPack { .. }),
        says: "PATH",
        tool: &["verify", "PATH"],
        code: 1,
    },
    Case {
        what: "a newer version",
        make: newer,
        ask: open,
        is: |error| matches!(error, Error::UnsupportedVersion { found: 77, supported: 1, .. }),
        says: "77",
        tool: LS,
        code: 1,
    },
    Case {
        what: "a pack cut inside its first line",
        make: |directory| truncated(directory, 7),
        ask: open,
        is: |error| matches!(error, Error::NotAPack { .. }),
        says: "PATH",
        tool: LS,
        code: 1,
    },
    Case {
        what: "a pack cut after its identity",
        make: |directory| truncated(directory, 4096),
        ask: open,
        is: Error::is_damage,
        says: "PATH",
        tool: LS,
        code: 4,
    },
    Case {
        what: "a pack cut inside its superblocks",
        make: |directory| truncated(directory, (64 << 10) + 100),
        ask: open,
        is: Error::is_damage,
        says: "65636: the file was cut off",
        tool: LS,
        code: 4,
    },
    Case {
        what: "a pack cut where its space begins",
        make: |directory| truncated(directory, 256 << 10),
        ask: open,
        is: Error::is_damage,
        says: "cut off: it has",
        tool: LS,
        code: 4,
    },
    Case {
        what: "a pack cut inside its space",
        make: |directory| truncated(directory, 300 << 10),
        ask: open,
        is: Error::is_damage,
        says: "cut off: it has",
        tool: LS,
        code: 4,
    },
    Case {
        what: "a directory without a pack",
        make: Path::to_path_buf,
        ask: open,
        is: |error| matches!(error, Error::NoPack { path } if path.ends_with("blobs.pack")),
        says: "PATH",
        tool: LS,
        code: 1,
    },
    Case {
        what: "a path that leads nowhere",
        make: |directory| directory.join("no such directory").join("pack"),
        ask: open,
        is: |error| matches!(error, Error::NoPack { .. }),
        says: "PATH",
        tool: LS,
        code: 1,
    },
    Case {
        what: "a FIFO",
        make: |directory| {
            let path = directory.join("fifo");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            path
        },
        ask: open,
        is: |error| matches!(error, Error::NotAFile { found: "a FIFO", .. }),
        says: "PATH",
        tool: LS,
        code: 1,
    },
    Case {
        what: "a directory of the pack's name",
        make: |directory| {
            std::fs::create_dir(directory.join("blobs.pack")).unwrap();
            directory.to_path_buf()
        },
        ask: open,
        is: |error| matches!(error, Error::NotAFile { found: "a directory", .. }),
        says: "PATH",
        tool: LS,
        code: 1,
    },
    Case {
        what: "a loop of symbolic links",
        make: |directory| {
            std::os::unix::fs::symlink("one", directory.join("two")).unwrap();
            std::os::unix::fs::symlink("two", directory.join("one")).unwrap();
            directory.join("one")
        },
        ask: open,
        is: |error| matches!(error, Error::Io { source, .. } if source.raw_os_error() == Some(libc::ELOOP)),
        says: "PATH",
        tool: LS,
        code: 1,
    },
    Case {
        what: "a symbolic link that leads nowhere",
        make: |directory| {
            std::os::unix::fs::symlink("nowhere", directory.join("dangling")).unwrap();
            directory.join("dangling")
        },
        ask: open,
        is: |error| matches!(error, Error::NoPack { .. }),
        says: "no pack here",
        tool: LS,
        code: 1,
    },
    Case {
        what: "a digest with an unknown label",
        make: pack,
        ask: |_| parsed("md5:d41d8cd98f00b204e9800998ecf8427e"),
        is: |error| matches!(error, Error::UnsupportedAlgorithm { label } if label == "md5"),
        says: "\"md5\"",
        tool: &["get", "PATH", "md5:d41d8cd98f00b204e9800998ecf8427e"],
        code: 2,
    },
    Case {
        what: "a digest with its label in upper case",
        make: pack,
        ask: |_| parsed("SHA256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
        is: |error| matches!(error, Error::UnsupportedAlgorithm { .. }),
        says: "\"SHA256\"",
        tool: &["get", "PATH", "SHA256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"],
        code: 2,
    },
    Case {
        what: "a digest that is too short for any prefix",
        make: pack,
        ask: |_| parsed("sha256:2cf24"),
        is: |error| matches!(error, Error::InvalidDigest { .. }),
        says: "sha256:2cf24",
        tool: &["stat", "PATH", "sha256:2cf24"],
        code: 2,
    },
    Case {
        what: "a digest that is too long",
        make: pack,
        ask: |_| parsed("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b982400"),
        is: |error| matches!(error, Error::InvalidDigest { reason, .. } if reason.contains("number")),
        says: "938b982400",
        tool: &["deref", "PATH", "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b982400"],
        code: 2,
    },
    Case {
        what: "a digest in upper case",
        make: pack,
        ask: |_| parsed("sha256:2CF24DBA5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
        is: |error| matches!(error, Error::InvalidDigest { reason, .. } if reason.contains("lower case")),
        says: "2CF24DBA",
        tool: &["ref", "PATH", "sha256:2CF24DBA5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"],
        code: 2,
    },
    Case {
        what: "a digest that is not hexadecimal",
        make: pack,
        ask: |_| parsed("sha256:zzf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"),
        is: |error| matches!(error, Error::InvalidDigest { .. }),
        says: "zzf24dba",
        tool: &["get", "PATH", "sha256:zzf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"],
        code: 2,
    },
    Case {
        what: "a digest without a colon",
        make: pack,
        ask: |_| parsed("2cf24dba"),
        is: |error| matches!(error, Error::InvalidDigest { reason, .. } if reason.contains("colon")),
        says: "2cf24dba",
        tool: &["get", "PATH", "2cf24dba"],
        // It may be a name, and there is none.
        code: 3,
    },
    Case {
        what: "an unknown digest",
        make: pack,
        ask: |path| Store::open(path).unwrap().get(&unknown()).err(),
        is: Error::is_not_found,
        says: "UNKNOWN",
        tool: &["get", "PATH", "UNKNOWN"],
        code: 3,
    },
    Case {
        what: "a prefix that nothing begins with",
        make: pack,
        ask: |path| Store::open(path).unwrap().resolve("sha256:0123456789").err(),
        is: |error| matches!(error, Error::InvalidDigest { .. }),
        says: "sha256:0123456789",
        tool: &["get", "PATH", "sha256:0123456789"],
        code: 3,
    },
    Case {
        what: "a range that ends outside",
        make: pack,
        ask: |path| {
            let store = Store::open(path).unwrap();
            let blob = store.get(&Digest::of(Algorithm::Sha256, STORED)).unwrap();
            blob.range(5..22).err()
        },
        is: |error| matches!(error, Error::RangeOutside { start: 5, end: 22, length: 21 }),
        says: "5..22",
        tool: &["get", "PATH", "STORED", "--range", "5..22"],
        code: 1,
    },
    Case {
        what: "a write to a store for reading only",
        make: pack,
        ask: |path| Store::options().read_only(true).open(path).unwrap().put(b"x").err(),
        is: |error| matches!(error, Error::ReadOnly { .. }),
        says: "PATH",
        tool: &[],
        code: 0,
    },
    Case {
        what: "a new pack where there is one",
        make: pack,
        ask: |path| Store::options().create_new(true).open(path).err(),
        is: |error| matches!(error, Error::AlreadyExists { .. }),
        says: "PATH",
        tool: &["compact", "PATH", "--output", "PATH"],
        code: 1,
    },
    Case {
        what: "an expected digest that does not match",
        make: pack,
        ask: |path| {
            let store = Store::open(path).unwrap();
            let mut writer = store.writer(Algorithm::Sha256).unwrap().expect_digest(unknown());
            writer.write_all(b"other bytes").unwrap();
            writer.commit().err()
        },
        is: |error| matches!(error, Error::DigestMismatch { expected, .. } if **expected == unknown()),
        says: "UNKNOWN",
        tool: &[],
        code: 0,
    },
    Case {
        what: "an expected size that does not match",
        make: pack,
        ask: |path| {
            let store = Store::open(path).unwrap();
            let mut writer = store.writer(Algorithm::Sha256).unwrap().expect_size(12345);
            writer.write_all(b"other bytes").unwrap();
            writer.commit().err()
        },
        is: |error| matches!(error, Error::SizeMismatch { expected: 12345, found: 11 }),
        says: "12345",
        tool: &[],
        code: 0,
    },
    Case {
        what: "a limit of bytes that is reached",
        make: pack,
        ask: |path| {
            let store = Store::options().max_bytes(3_000_000).open(path).unwrap();
            let mut writer = store.writer(Algorithm::Sha256).unwrap().size_hint(5_000_000);
            assert!(writer.write_all(&content(9, 5_000_000)).is_err());
            writer.commit().err()
        },
        is: |error| matches!(error, Error::LimitReached { needed, limit: 3_000_000, .. } if *needed > 5_000_000),
        says: "3000000",
        tool: &[],
        code: 0,
    },
    Case {
        what: "a verb that changes what is not there",
        make: pack,
        ask: |path| Store::open(path).unwrap().reference(&unknown()).err(),
        is: Error::is_not_found,
        says: "UNKNOWN",
        tool: &["ref", "PATH", "UNKNOWN"],
        code: 3,
    },
];

/// The bytes of the pack that readers may see change while it is open: the live page. All else must be as it was.
fn without_live_page(mut found: Vec<(PathBuf, Vec<u8>)>) -> Vec<(PathBuf, Vec<u8>)> {
    for (_, bytes) in &mut found {
        if let Some(page) = bytes.get_mut(192 << 10..196 << 10) {
            page.fill(0);
        }
    }
    found
}

#[test]
fn bad_input_gets_an_error_that_names_it_and_changes_nothing() {
    for case in CASES {
        let directory = tempfile::tempdir().unwrap();
        let path = (case.make)(directory.path());
        let files = || contents(directory.path());
        let before = files();
        let is_sound = Store::options().read_only(true).open(&path).is_ok();
        let error = (case.ask)(&path).unwrap_or_else(|| panic!("{}: no error", case.what));
        assert!((case.is)(&error), "{}: {error:?}", case.what);
        let says = filled(case.says, &path);
        let message = error.to_string();
        assert!(message.contains(&says), "{}: {message} does not say {says}", case.what);
        assert!(!message.contains('\n') && !message.ends_with('.'), "{}: {message}", case.what);
        let after = files();
        if is_sound {
            // It could be opened for writing, and its live page says so; all else is as it was.
            assert!(without_live_page(after) == without_live_page(before), "{}: the file has changed", case.what);
        } else {
            assert!(after == before, "{}: the file has changed", case.what);
        }
        tool(case, &path, &files);
    }
}

#[cfg(not(feature = "cli"))]
fn tool(case: &Case, _: &Path, _: &dyn Fn() -> Vec<(PathBuf, Vec<u8>)>) {
    assert!(case.tool.is_empty() || case.code != 0, "{}", case.what);
}

#[cfg(feature = "cli")]
fn tool(case: &Case, path: &Path, files: &dyn Fn() -> Vec<(PathBuf, Vec<u8>)>) {
    if case.tool.is_empty() {
        return;
    }
    let before = files();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_blobpack"));
    command.args(case.tool.iter().map(|argument| filled(argument, path)));
    let output = command.output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(case.code), "{}: {complaint}", case.what);
    assert!(output.stdout.is_empty() || case.code == 4, "{}", case.what);
    assert!(complaint.starts_with("blobpack: "), "{}: {complaint}", case.what);
    assert!(complaint.contains(&filled(case.says, path)), "{}: {complaint}", case.what);
    assert!(without_live_page(files()) == without_live_page(before), "{}: the tool changed the file", case.what);
}

#[cfg(feature = "cli")]
#[test]
fn the_tool_says_that_another_process_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = pack(directory.path());
    let _writer = Store::open(&path).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_blobpack"));
    let output = command.arg("put").arg(&path).arg("/dev/null").output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains(path.to_str().unwrap()) && complaint.contains("locked"), "{complaint}");
}

#[test]
fn a_creation_that_fails_names_the_file() {
    // A sync that failed was told with a blank in the place of the path.
    let directory = SimDirectory::new(32 << 20);
    let mut all_told = Vec::new();
    for fault in [Fault::Io, Fault::Full] {
        for call in 0.. {
            let medium = directory.create(PACK).unwrap();
            directory.fail_step(call, fault);
            let created = Store::options().create_in(medium);
            if directory.clear_fault() {
                break;
            }
            // Some calls a creation can do without.
            if let Err(error) = created {
                all_told.push(error.to_string());
            }
            directory.remove(PACK);
        }
        directory.remove(PACK);
    }
    assert!(all_told.iter().any(|told| told.contains("sync a new pack")), "{all_told:#?}");
    assert!(all_told.iter().all(|told| told.starts_with(&format!("{PACK}: "))), "{all_told:#?}");
}

/// Root may do anything, so the tool runs as somebody else.
#[cfg(feature = "cli")]
#[test]
fn without_permission_the_tool_says_so_and_changes_nothing() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    let directory = tempfile::tempdir().unwrap();
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    set(directory.path(), 0o755);
    // Where this is built may be out of another user's reach.
    let tool = directory.path().join("blobpack");
    std::fs::copy(env!("CARGO_BIN_EXE_blobpack"), &tool).unwrap();
    set(&tool, 0o755);
    let path = pack(directory.path());
    let digest = Digest::of(Algorithm::Sha256, STORED).to_string();
    let before = contents(directory.path());
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&tool);
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let (verb, rest) = arguments.split_first().unwrap();
        command.arg(verb).arg(&path).args(rest).current_dir(directory.path()).output().unwrap()
    };
    for (mode, arguments, code) in [
        (0o000, &["ls"][..], Some(1)),
        (0o000, &["ref", &digest], Some(1)),
        (0o444, &["ls"], Some(0)),
        (0o444, &["verify"], Some(0)),
        (0o444, &["get", &digest], Some(0)),
        (0o444, &["put", "/dev/null"], Some(1)),
        (0o444, &["deref", &digest], Some(1)),
    ] {
        set(&path, mode);
        let output = run(arguments);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), code, "{mode:o} {arguments:?}: {complaint}");
        if code == Some(1) {
            assert!(complaint.contains(path.to_str().unwrap()), "{complaint}");
            assert!(complaint.to_lowercase().contains("permission denied"), "{complaint}");
        }
    }
    set(&path, 0o644);
    assert!(contents(directory.path()) == before);
}

#[test]
fn a_full_disk_is_an_error_that_says_how_much_is_needed_and_nothing_changes() {
    let (directory, store) = simulated(256 << 20);
    let first = store.put(&content(1, 1000)).unwrap();
    for length in [10, 1000, 60_000, 100_000, 3_000_000] {
        directory.set_capacity(u64::MAX);
        let before: Vec<_> = store.descriptors().map(Result::unwrap).collect();
        let mut stored = 0_u64;
        directory.set_capacity(directory.used() + (1 << 20));
        let error = loop {
            match store.put(&content((length as u64) << 32 | stored, length)) {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
        };
        let Error::NoSpace { needed, .. } = &error else { panic!("{error}") };
        assert!(*needed > 0 && error.to_string().contains(&needed.to_string()));
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(store.stats().unwrap().blobs, before.len() as u64 + stored);
        // References go on being given up.
        let kept: Vec<_> = store.list().map(Result::unwrap).filter(|digest| *digest != first.digest).take(20).collect();
        for digest in &kept {
            assert_eq!(store.dereference(digest).unwrap().blobs(), 1, "after {length}");
        }
        assert!(store.get(&first.digest).unwrap().verify().is_ok());
    }
    directory.set_capacity(u64::MAX);
    store.put(b"there is room again").unwrap();
    assert!(store.verify().unwrap().damage.is_empty());
    store.close().unwrap();
    let store = open_simulated(&directory, &small(), How::Open).unwrap();
    assert!(store.verify().unwrap().damage.is_empty());
}

/// A stream of unknown length was refused for the space that it asked for ahead, where its bytes would have fitted.
#[test]
fn a_stream_takes_what_the_disk_has_for_it() {
    let (directory, store) = simulated(256 << 20);
    store.put(&content(1, 1000)).unwrap();
    // From the start; when it grows in place; when it has to move, as another blob stands behind it.
    for (length, before) in [(200_000, 0), (1_500_000, 0), (1_500_000, 500_000)] {
        directory.set_capacity(u64::MAX);
        let bytes = content((length + before) as u64, length);
        let mut writer = store.writer(Algorithm::Sha256).unwrap();
        writer.write_all(&bytes[..before]).unwrap();
        if before > 0 {
            store.put(&content(2, 100_000)).unwrap();
        }
        directory.set_capacity(directory.used() + length as u64 + (256 << 10));
        for piece in bytes[before..].chunks(100_000) {
            writer.write_all(piece).unwrap();
        }
        let stored = writer.commit().unwrap();
        assert_eq!(*store.get(&stored.digest).unwrap(), bytes[..], "{length}, {before} before");
    }
    directory.set_capacity(directory.used() + 100_000);
    let mut writer = store.writer(Algorithm::Sha256).unwrap();
    for bytes in [&content(3, 200_000)[..], b"more"] {
        let error = writer.write_all(bytes).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }
    let error = writer.commit().unwrap_err();
    assert!(matches!(error, Error::NoSpace { needed: 200_000..300_000, .. }), "{error}");
}

/// All that can be asked of a store, with answers of any kind.
fn ask_everything<M: blobpack::medium::Medium>(store: &Store<M>, digests: &[Digest]) {
    // A damaged index may list in circles as far as this test knows; that it ends is part of what is tested.
    let listed: Vec<Digest> = store.list().filter_map(Result::ok).collect();
    for digest in digests.iter().chain(&listed).take(200) {
        if let Ok(Some(blob)) = store.find(digest) {
            let _ = blob.verify();
            let _ = blob.range(0..blob.size().min(10));
        }
        let _ = store.descriptor(digest);
        let _ = store.links(digest).map(|links| links.take(1000).count());
        let _ = store.referrers(digest).map(|links| links.take(1000).count());
    }
    let _ = store.reader().map(|reader| reader.get_many(digests).is_ok());
    let _ = store.stats();
    let _ = store.verify();
}

/// Opens bytes in all ways, asks everything, and writes where that is possible.
fn handle(bytes: &[u8], digests: &[Digest]) {
    const FILE_BYTES_MAX: u64 = 32 << 20;
    for how in [How::Open, How::Repair, How::Rebuild] {
        let directory = inserted(bytes.to_vec(), FILE_BYTES_MAX);
        if let Ok(store) = open_simulated(&directory, &small(), how) {
            ask_everything(&store, digests);
            for digest in digests.iter().take(5) {
                let _ = store.dereference(digest);
                let _ = store.put(digest.as_bytes());
                let _ = store.link(digest, &digests[0]);
                let _ = store.unlink(&digests[0], digest);
            }
            let _ = store.put(&content(1, 70_000));
            let _ = store.checkpoint();
            let _ = store.compact();
            ask_everything(&store, digests);
        }
    }
    let directory = inserted(bytes.to_vec(), FILE_BYTES_MAX);
    let medium = SimDirectory::open(&directory, PACK, false).unwrap();
    if let Ok(Some(store)) = small().read_only(true).open_in(medium, How::Open) {
        ask_everything(&store, digests);
    }
    assert!(directory.bytes(PACK).unwrap() == bytes, "reading has changed the file");
}

/// The golden pack, which has a bit of everything, and the digests in it. It is the same in every run, so that what was
/// found once is found again.
fn rich() -> (Vec<u8>, Vec<Digest>) {
    let bytes = whole(&std::fs::read(golden("v1.pack.sparse")).unwrap());
    let store = open_simulated(&inserted(bytes.clone(), 32 << 20), &small(), How::Open).unwrap();
    (bytes, store.list().map(Result::unwrap).collect())
}

/// A change to a pack's bytes.
#[derive(Clone, Debug)]
enum Mutation {
    /// Bits of a byte that is not zero, by its number among these.
    Flip(usize, u8),
    /// A word of such a place gets a value that is likely to hurt.
    Word(usize, u64),
    Zero(usize, usize),
    Copy(usize, usize, usize),
    Truncate(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let hurtful = prop_oneof![
        Just(u64::MAX),
        Just(0),
        Just(1),
        Just(1 << 46),
        Just(i64::MAX as u64),
        (0..1_u64 << 22).prop_map(|n| n & !63),
        any::<u64>(),
    ];
    prop_oneof![
        3 => (any::<usize>(), 1..=u8::MAX).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        4 => (any::<usize>(), hurtful).prop_map(|(at, value)| Mutation::Word(at, value)),
        1 => (any::<usize>(), 1..5000_usize).prop_map(|(at, length)| Mutation::Zero(at, length)),
        1 => (any::<usize>(), any::<usize>(), 1..300_usize).prop_map(|(from, to, length)| Mutation::Copy(from, to, length)),
        1 => any::<usize>().prop_map(Mutation::Truncate),
    ]
}

fn mutate(bytes: &mut Vec<u8>, used: &[usize], mutation: &Mutation) {
    let place = |n: usize| used[n % used.len()];
    match *mutation {
        Mutation::Flip(n, bits) => {
            if let Some(byte) = bytes.get_mut(place(n)) {
                *byte ^= bits;
            }
        }
        Mutation::Word(n, value) => {
            let at = place(n) & !7;
            if let Some(word) = bytes.get_mut(at..at + 8) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        Mutation::Zero(n, length) => {
            let end = (place(n) + length).min(bytes.len());
            if let Some(range) = bytes.get_mut(place(n)..end) {
                range.fill(0);
            }
        }
        Mutation::Copy(from, to, length) => {
            let (from, to) = (place(from) & !63, place(to) & !63);
            if from + length <= bytes.len() && to + length <= bytes.len() {
                bytes.copy_within(from..from + length, to);
            }
        }
        Mutation::Truncate(n) => bytes.truncate(place(n)),
    }
}

/// What has a checksum of its own.
#[derive(Clone, Copy)]
enum Sealed {
    Identity,
    Superblock,
    Segment,
    Blob,
    Link,
    /// A frame's header, this long.
    Frame(usize),
    /// A commit's body of this length, behind its header.
    Commit(usize),
}

/// Seals what stands at `at` again; whether that changed anything. What does not fit into the bytes any more stays.
fn seal(bytes: &mut [u8], at: usize, what: Sealed) -> bool {
    use blobpack::format::{BlobSlot, LinkSlot, SegmentHeader, Superblock};
    macro_rules! seal_as {
        ($type:ty) => {{
            let Some(place) = bytes.get_mut(at..at + size_of::<$type>()) else { return false };
            let before = <$type>::read_from_bytes(place).unwrap();
            let after = before.sealed();
            place.copy_from_slice(after.as_bytes());
            before.as_bytes() != after.as_bytes()
        }};
    }
    let put = |place: &mut [u8], checksum: u32| {
        let changed = place != checksum.to_le_bytes();
        place.copy_from_slice(&checksum.to_le_bytes());
        changed
    };
    match what {
        Sealed::Identity => seal_as!(Identity),
        Sealed::Superblock => seal_as!(Superblock),
        Sealed::Segment => seal_as!(SegmentHeader),
        Sealed::Blob => seal_as!(BlobSlot),
        Sealed::Link => seal_as!(LinkSlot),
        Sealed::Frame(length) => {
            let Some(place) = bytes.get_mut(at..at + length) else { return false };
            let mut header = place.to_vec();
            header[12..16].fill(0);
            put(&mut place[12..16], crc32fast::hash(&header))
        }
        Sealed::Commit(length) => {
            let Some(body) = bytes.get(at + 64..at + 64 + length) else { return false };
            let checksum = crc32fast::hash(body);
            put(&mut bytes[at + 52..at + 56], checksum)
        }
    }
}

/// All that is sealed in a pack, what lies inside before what it lies in.
fn seals(bytes: &[u8]) -> Vec<(usize, Sealed)> {
    const KIND_COMMIT: u8 = blobpack::format::Kind::Commit as u8;
    let mut found = vec![(0, Sealed::Identity)];
    found.extend(SUPERBLOCKS_AT.map(|at| (at.0 as usize, Sealed::Superblock)));
    let (mut bodies, mut frames) = (Vec::new(), Vec::new());
    let mut copy = bytes.to_vec();
    for at in (256 << 10..bytes.len()).step_by(64) {
        if bytes[at..at + 8] == bytes[32..40] {
            let length = u64::from_le_bytes(bytes[at + 24..at + 32].try_into().unwrap()) as usize;
            if bytes[at + 8] == KIND_COMMIT {
                bodies.push((at, Sealed::Commit(length)));
            }
            frames.push((at, Sealed::Frame(if matches!(bytes[at + 9], 2 | 3) { 128 } else { 64 })));
            continue;
        }
        for what in [Sealed::Segment, Sealed::Blob, Sealed::Link] {
            if seal(&mut copy, at, what) {
                copy[at..at + 64].copy_from_slice(&bytes[at..at + 64]);
            } else {
                found.push((at, what));
                break;
            }
        }
    }
    [found, bodies, frames].concat()
}

struct Rich {
    bytes: Vec<u8>,
    digests: Vec<Digest>,
    /// Where bytes are not zero.
    used: Vec<usize>,
    seals: Vec<(usize, Sealed)>,
}

static RICH: std::sync::LazyLock<Rich> = std::sync::LazyLock::new(|| {
    let (bytes, digests) = rich();
    let used = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect::<Vec<_>>();
    // Payloads are most of the bytes, and the least that can be hurt: of the large ones the beginning counts.
    let inside = |place: usize, start: usize| place >= start + 64 && place < start + 65_536;
    let large = [60, 61].map(|seed| content(seed, 64));
    let starts = large.map(|start| bytes.windows(64).position(|window| window == start).unwrap());
    let used = used.into_iter().filter(|&place| !starts.iter().any(|&start| inside(place, start))).collect();
    let seals = seals(&bytes);
    Rich { bytes, digests, used, seals }
});

#[test]
fn counters_that_overflow_are_no_panic() {
    // Blobs and links were added up for the index's load: 2^64 - 1 and one more.
    for (number, word) in (304..352).step_by(8).enumerate() {
        let mut bytes = RICH.bytes.clone();
        for at in SUPERBLOCKS_AT.map(|at| at.0 as usize) {
            bytes[at + word..at + word + 8].fill(0xff);
        }
        let commits = RICH.seals.iter().filter(|(_, what)| matches!(what, Sealed::Commit(_)));
        commits.for_each(|(at, _)| bytes[at + 64 + 32 + 8 * number..][..8].fill(0xff));
        for &(at, what) in &RICH.seals {
            seal(&mut bytes, at, what);
        }
        handle(&bytes, &RICH.digests);
    }
}

#[test]
fn what_is_sealed_in_a_sound_pack_is_found() {
    let mut bytes = RICH.bytes.clone();
    assert!(RICH.seals.len() > 300, "{} seals", RICH.seals.len());
    for &(at, what) in &RICH.seals {
        assert!(!seal(&mut bytes, at, what), "at {at}");
    }
    handle(&bytes, &RICH.digests);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("BLOBPACK_FULL").is_some() { 5000 } else { 150 },
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_mutated_pack_is_never_a_panic(
        mutations in prop::collection::vec(mutation(), 1..4),
        again in prop_oneof![1 => Just(false), 3 => Just(true)],
    ) {
        let mut bytes = RICH.bytes.clone();
        for mutation in &mutations {
            mutate(&mut bytes, &RICH.used, mutation);
        }
        if again {
            // So that what is behind the checksums is reached.
            for &(at, what) in &RICH.seals {
                seal(&mut bytes, at, what);
            }
        }
        handle(&bytes, &RICH.digests);
    }

    #[test]
    fn random_bytes_are_never_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..5000),
        length in 0..400_000_usize,
        magic in any::<bool>(),
        sealed in any::<bool>(),
    ) {
        if magic {
            let start = bytes.len().min(8);
            bytes[..start].copy_from_slice(&b"blobpack"[..start]);
            bytes.resize(bytes.len().max(length), 0x55);
            if bytes.len() > 12 {
                bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
            }
        }
        if sealed {
            seal(&mut bytes, 0, Sealed::Identity);
            for at in SUPERBLOCKS_AT {
                let copied = bytes.get(..size_of::<Identity>()).map(<[u8]>::to_vec);
                if let (Some(place), Some(identity)) = (bytes.get_mut(at.0 as usize..at.0 as usize + 192), copied) {
                    place.copy_from_slice(&identity);
                }
                seal(&mut bytes, at.0 as usize, Sealed::Superblock);
            }
        }
        handle(&bytes, &[unknown()]);
    }
}

#[test]
fn a_blob_whose_frame_header_fails_its_checksum_is_not_looked_for_for_ever() {
    // A get of such a blob never returned: the lookup found it, and a second, stricter look refused it, again and
    // again.
    let digest = RICH.digests[0];
    let mut bytes = RICH.bytes.clone();
    let at = bytes.windows(32).position(|window| window == &digest.as_bytes()[..32]).unwrap() - 32;
    bytes[at + 12] ^= 1;
    let directory = blobpack::medium::SimDirectory::new(32 << 20);
    directory.insert("blobs.pack", bytes);
    let medium = directory.open("blobs.pack", true).unwrap();
    if let Ok(Some(store)) = Store::options().open_in(medium, blobpack::store::How::Open) {
        // Right bytes or an error, but an end.
        if let Ok(blob) = store.get(&digest) {
            blob.verify().unwrap();
        }
    }
}

#[test]
fn commits_that_claim_the_bytes_of_one_another_are_not_read_again_for_each() {
    // Of a file of 8 MiB an inspection read half a TiB: the body of each header, to the end of the file.
    let directory = tempfile::tempdir().unwrap();
    let path = changed(directory.path(), |bytes| {
        let marker = Identity::read_from_prefix(bytes).unwrap().0.marker.get();
        let end = bytes.len() + (8 << 20);
        for at in (bytes.len()..end).step_by(64) {
            let rest = (end - at - 64) as u64;
            let head = FrameHeader::plain(marker, Kind::Commit, Offset(at as u64), rest, [0; 32]);
            bytes.extend_from_slice(head.as_bytes());
        }
    });
    let begun = Instant::now();
    let items: Vec<_> = blobpack::inspect(&path).unwrap().collect();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(items.iter().filter(|item| item.kind == "commit" && !item.valid).count(), (8 << 20) / 64);
    assert!(items.iter().any(|item| item.kind == "commit" && item.valid), "the pack's own are shown");
}
