//! Several processes and many threads on one pack.
//!
//! Children are this very program, run again with a role; they are told what to do line by line, so that nothing has to
//! wait for a time to pass. `BLOBPACK_FULL=1` runs the sizes that take minutes.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use blobpack::{Algorithm, Digest, Durability, Error, Store};

mod common;
use common::{content, contents, small};

const ROLE: &str = "BLOBPACK_TEST_ROLE";
const PATH: &str = "BLOBPACK_TEST_PATH";
/// Tells a child's answers from what the test harness prints.
const ANSWER: &str = "answer: ";

fn is_full() -> bool {
    std::env::var_os("BLOBPACK_FULL").is_some_and(|value| value == "1")
}

/// A process with a role. Killed when it is dropped.
struct Process {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn spawn(role: &str, path: &Path) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_child_plays_its_role", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PATH, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Process { child, commands, answers }
    }

    /// The next answer; `None` when the child has ended.
    fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.answers.read_line(&mut line).unwrap() > 0 {
            if let Some((_, answer)) = line.split_once(ANSWER)
                && let Some(whole) = answer.strip_suffix('\n')
            {
                return Some(whole.to_owned());
            }
            line.clear();
        }
        None
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        self.answer().unwrap_or_else(|| panic!("the child ended instead of an answer to {command:?}"))
    }

    /// Lets it put the blob with this seed and length; it is acknowledged when this returns.
    fn put(&mut self, seed: u64, length: usize) -> Digest {
        self.ask(&format!("put {seed} {length}")).parse().unwrap()
    }

    /// `SIGKILL`.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it come to its end.
    fn finish(mut self) {
        drop(self.commands.take());
        while self.answer().is_some() {}
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already where a test got that far.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(text: impl std::fmt::Display) {
    println!("{ANSWER}{text}");
}

fn obey(store: &Store, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["put", seed, length] => {
            store.put(&content(seed.parse().unwrap(), length.parse().unwrap())).unwrap().digest.to_string()
        }
        ["dereference", digest] => store.dereference(&digest.parse().unwrap()).unwrap().blobs().to_string(),
        ["compact"] => store.compact().unwrap().blobs.to_string(),
        ["checkpoint"] => store.checkpoint().map(|()| "done".to_owned()).unwrap(),
        _ => panic!("{command:?}"),
    }
}

/// A writer that does what it is told, a line at a time.
fn obeying_writer(path: &Path) {
    let store = small().open(path).unwrap();
    answer("open");
    for command in std::io::stdin().lines() {
        answer(obey(&store, &command.unwrap()));
    }
    store.close().unwrap();
}

/// A writer that puts until it is killed, from several threads.
fn flooding_writer(path: &Path) {
    let store = small().open(path).unwrap();
    let base = store.stats().unwrap().commits << 32;
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = store.clone();
            scope.spawn(move || {
                for n in 0.. {
                    let seed = base + (thread << 24) + n;
                    let length = if n % 20 == 0 { 70_000 } else { 100 + n as usize % 900 };
                    let digest = store.put(&content(seed, length)).unwrap().digest;
                    answer(format!("{seed} {length} {digest}"));
                }
            });
        }
    });
}

/// Bytes of memory that belong to this process alone.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

const STREAMS: u64 = 24;
const STREAM_BYTES: u64 = 12 << 20;

/// Many writers in step; answers with the memory that they took at most.
fn streaming_writer(path: &Path) {
    let store = Store::options().durability(Durability::Process).open(path).unwrap();
    store.put(b"whatever is made once is made now").unwrap();
    let piece = content(1, 100_000);
    let before = anonymous_bytes();
    let mut most = before;
    let mut writers: Vec<_> = (0..STREAMS).map(|_| store.writer(Algorithm::Sha256).unwrap()).collect();
    while writers[0].written() < STREAM_BYTES {
        for (number, writer) in writers.iter_mut().enumerate() {
            writer.write_all(&piece[number..]).unwrap();
        }
        most = most.max(anonymous_bytes());
    }
    for writer in writers {
        writer.commit().unwrap();
    }
    answer(most.max(anonymous_bytes()) - before);
}

/// Does something while the process can open `free` files more, and then as many as before.
fn with_descriptors<T>(free: u64, work: impl FnOnce() -> T) -> T {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::os::fd::AsRawFd;
    let before = getrlimit(Resource::Nofile);
    let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(next + free), ..before }).unwrap();
    let done = work();
    setrlimit(Resource::Nofile, before).unwrap();
    done
}

/// A writer that opens and compacts, and has few files left for that.
fn scarce_writer(path: &Path) {
    let mut store = None;
    for command in std::io::stdin().lines() {
        let command = command.unwrap();
        let done = match *command.split(' ').collect::<Vec<_>>() {
            ["open", free] => {
                let opened = with_descriptors(free.parse().unwrap(), || small().open(path));
                opened.map(|opened| store = Some(opened)).map(|()| "done".to_owned())
            }
            ["compact", free] => with_descriptors(free.parse().unwrap(), || store.as_ref().unwrap().compact())
                .map(|compacted| compacted.blobs.to_string()),
            ["close"] => store.take().unwrap().close().map(|()| "done".to_owned()),
            _ => Ok(obey(store.as_ref().unwrap(), &command)),
        };
        answer(done.unwrap_or_else(|error| error.to_string()));
    }
}

#[test]
fn a_child_plays_its_role() {
    match std::env::var(ROLE).as_deref() {
        Ok("obey") => obeying_writer(Path::new(&std::env::var_os(PATH).unwrap())),
        Ok("scarce") => scarce_writer(Path::new(&std::env::var_os(PATH).unwrap())),
        Ok("flood") => flooding_writer(Path::new(&std::env::var_os(PATH).unwrap())),
        Ok("stream") => streaming_writer(Path::new(&std::env::var_os(PATH).unwrap())),
        Ok(other) => panic!("{other:?}"),
        Err(_) => {
            // Not a child: the talk with one must work, or the other tests would say nothing.
            let directory = tempfile::tempdir().unwrap();
            let mut child = Process::spawn("obey", directory.path());
            assert_eq!(child.answer().unwrap(), "open");
            assert_eq!(child.put(1, 10), Digest::of(Algorithm::Sha256, &content(1, 10)));
            child.finish();
        }
    }
}

fn obedient(path: &Path) -> Process {
    let mut child = Process::spawn("obey", path);
    assert_eq!(child.answer().unwrap(), "open");
    child
}

fn read_only(path: &Path) -> Store {
    Store::options().read_only(true).open(path).unwrap()
}

/// How long the blob with this seed is: now and then a large one.
fn length_of(seed: u64) -> usize {
    if seed % 40 == 7 { 90_000 } else { 10 + (seed as usize * 37) % 700 }
}

/// All ways to see that a blob is there, or is not.
fn assert_sees(store: &Store, seed: u64, digest: &Digest) {
    let bytes = content(seed, length_of(seed));
    assert!(*store.get(digest).unwrap() == *bytes, "blob {seed}");
    assert!(*store.reader().unwrap().get(digest).unwrap() == *bytes, "blob {seed}");
    assert_eq!(store.descriptor(digest).unwrap().size, bytes.len() as u64);
}

#[test]
fn a_reader_in_another_process_sees_each_commit_once_it_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = obedient(directory.path());
    let early = read_only(directory.path());
    let reader = early.reader().unwrap();
    for seed in 0..400 {
        let digest = writer.put(seed, length_of(seed));
        assert_sees(&early, seed, &digest);
        assert!(*reader.get(&digest).unwrap() == *content(seed, length_of(seed)));
        if seed % 16 == 0 {
            assert_sees(&read_only(directory.path()), seed, &digest);
        }
        if seed % 3 == 0 {
            assert_eq!(writer.ask(&format!("dereference {digest}")), "1");
            assert!(!early.contains(&digest).unwrap() && reader.find(&digest).unwrap().is_none());
        }
        if seed % 100 == 50 {
            writer.ask("checkpoint");
        }
    }
    assert_eq!(early.list().count(), 266);
    assert_eq!(early.stats().unwrap().blobs, 266);
    writer.finish();
    assert_eq!(early.list().count(), 266);
}

#[test]
fn a_reader_goes_on_after_its_writer_was_killed_and_the_next_one_recovered() {
    let directory = tempfile::tempdir().unwrap();
    let mut all: Vec<(u64, Digest)> = Vec::new();
    let mut writer = obedient(directory.path());
    let reader = read_only(directory.path());
    let mut borrowing = reader.reader().unwrap();
    for round in 0..4 {
        for seed in 100 * round..100 * round + 60 {
            all.push((seed, writer.put(seed, length_of(seed))));
        }
        let held = reader.get(&all[0].1).unwrap();
        writer.kill();
        // Nobody writes now.
        for (seed, digest) in &all {
            assert_sees(&reader, *seed, digest);
            assert!(borrowing.contains(digest).unwrap());
        }
        assert_eq!(reader.list().count(), all.len());
        writer = obedient(directory.path());
        for (seed, digest) in &all {
            assert_sees(&reader, *seed, digest);
            assert!(borrowing.contains(digest).unwrap());
        }
        let seed = 100 * round + 99;
        all.push((seed, writer.put(seed, length_of(seed))));
        assert_sees(&reader, seed, &all.last().unwrap().1);
        borrowing.refresh().unwrap();
        held.verify().unwrap();
    }
    writer.finish();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.recovery(), blobpack::Recovery::default());
    assert!(store.verify().unwrap().damage.is_empty());
}

#[test]
fn a_reader_after_a_kill_sees_all_that_was_acknowledged_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 1..6 {
        let mut writer = Process::spawn("flood", directory.path());
        for _ in 0..40 * round {
            let line = writer.answer().unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let (seed, length): (u64, usize) = (words[0].parse().unwrap(), words[1].parse().unwrap());
            acknowledged.insert(words[2].parse::<Digest>().unwrap(), (seed, length));
        }
        writer.kill();
        let before = contents(directory.path());
        let reader = read_only(directory.path());
        for (digest, (seed, length)) in &acknowledged {
            assert!(*reader.get(digest).unwrap() == *content(*seed, *length));
        }
        assert!(reader.list().count() >= acknowledged.len());
        drop(reader);
        assert!(contents(directory.path()) == before, "the reader changed something");
        let store = Store::open(directory.path()).unwrap();
        assert!(store.recovery().replayed_commits > 0);
        assert!(store.verify().unwrap().damage.is_empty());
        assert!(acknowledged.keys().all(|digest| store.contains(digest).unwrap()));
    }
}

#[test]
fn readers_follow_a_compaction_in_another_process_to_the_new_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = obedient(directory.path());
    let reader = read_only(directory.path());
    let mut borrowing = reader.reader().unwrap();
    let digests: Vec<Digest> = (0..200).map(|seed| writer.put(seed, length_of(seed))).collect();
    let held = reader.get(&digests[7]).unwrap();
    for digest in digests.iter().step_by(2) {
        writer.ask(&format!("dereference {digest}"));
    }
    for round in 0..3_u64 {
        assert_eq!(writer.ask("compact"), (100 + round).to_string());
        let seed = 1000 + round;
        let new = writer.put(seed, length_of(seed));
        // It is in the new file alone.
        assert_sees(&reader, seed, &new);
        assert!(borrowing.contains(&new).unwrap());
        for (number, digest) in digests.iter().enumerate() {
            assert_eq!(reader.contains(digest).unwrap(), number % 2 == 1);
        }
        assert_sees(&reader, 7, &digests[7]);
        assert!(*held == *content(7, length_of(7)));
    }
    borrowing.refresh().unwrap();
    assert_eq!(reader.list().count(), 103);
    writer.kill();
    assert_eq!(reader.list().count(), 103);
    assert_eq!(read_only(directory.path()).list().count(), 103);
}

#[test]
fn a_second_writer_is_turned_away_until_the_first_one_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let first = obedient(directory.path());
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(&error, Error::Locked { path, waited_ms: 0 } if path.ends_with("blobs.pack")), "{error}");
    let error = Store::options().lock_timeout(Duration::from_millis(60)).open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Locked { waited_ms: 60, .. }), "{error}");
    let path = directory.path().to_owned();
    let patient = std::thread::spawn(move || Store::options().lock_timeout(Duration::from_mins(2)).open(path));
    first.finish();
    let store = patient.join().unwrap().unwrap();
    // The lock follows the pack to its new file.
    store.compact().unwrap();
    let here = Store::open(directory.path());
    assert!(matches!(here, Err(Error::Locked { .. })), "the same process is turned away too");
    drop(store);
    obedient(directory.path()).finish();
}

/// More are never needed at a time.
const DESCRIPTORS_MAX: u64 = 16;

/// The new pack was at the path, and the error said that there was none.
#[test]
fn where_no_descriptors_are_left_a_creation_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Process::spawn("scarce", directory.path());
    let mut failed = 0;
    while writer.ask(&format!("open {failed}")) != "done" {
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{failed} descriptors left");
        failed += 1;
        assert!(failed < DESCRIPTORS_MAX);
    }
    assert!(failed > 0);
    writer.finish();
}

/// The new file had the name already when no descriptor was left for the directory: no more writes were taken.
#[test]
fn where_no_descriptors_are_left_a_compaction_leaves_the_store_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Process::spawn("scarce", directory.path());
    assert_eq!(writer.ask("open 100"), "done");
    let mut failed = 0;
    for free in 0..DESCRIPTORS_MAX {
        let digest = writer.put(free, 100);
        let told = writer.ask(&format!("compact {free}"));
        failed += u64::from(told.contains("os error 24"));
        assert!(told.contains("os error 24") || told == (free + 1).to_string(), "{told}");
        assert!(*read_only(directory.path()).get(&digest).unwrap() == *content(free, 100));
    }
    assert!((1..DESCRIPTORS_MAX).contains(&failed));
    writer.finish();
}

/// A writer that found no descriptor left to read the boot's identity with wrote down that it was not known. Readers
/// beside it waited for a better word until they gave up.
#[test]
fn readers_see_a_writer_that_had_no_descriptors_left_when_it_opened() {
    let directory = tempfile::tempdir().unwrap();
    drop(small().open(directory.path()).unwrap());
    let mut writer = Process::spawn("scarce", directory.path());
    let mut failed = 0;
    for free in 0..DESCRIPTORS_MAX {
        let told = writer.ask(&format!("open {free}"));
        if told.contains("os error 24") {
            failed += 1;
            continue;
        }
        assert_eq!(told, "done");
        let digest = writer.put(free, 100);
        assert!(*read_only(directory.path()).get(&digest).unwrap() == *content(free, 100));
        assert_eq!(writer.ask("close"), "done");
    }
    assert!((1..DESCRIPTORS_MAX).contains(&failed));
    writer.finish();
}

#[test]
fn many_streams_beside_small_puts_take_no_more_than_twice_what_is_committed() {
    let (streams, stream_bytes, puts) = if is_full() { (64, 100 << 20, 10_000) } else { (64, 2 << 20, 1_000) };
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let piece = content(1, 1 << 20);
    let committed: Vec<Digest> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..streams)
            .map(|number| {
                let (store, piece) = (&store, &piece);
                scope.spawn(move || {
                    let mut writer = store.writer(Algorithm::Sha256).unwrap();
                    if number % 4 < 2 {
                        writer = writer.size_hint(stream_bytes as u64);
                    }
                    let mut left: usize = stream_bytes;
                    writer.write_all(&u64::to_le_bytes(number)).unwrap();
                    left -= 8;
                    while left > 0 {
                        let part = left.min(150_000 + number as usize);
                        writer.write_all(&piece[..part]).unwrap();
                        left -= part;
                    }
                    if number % 2 == 0 {
                        writer.cancel().unwrap();
                        return None;
                    }
                    Some(writer.commit().unwrap().digest)
                })
            })
            .collect();
        for n in 0..puts {
            store.put(&content(n, 200)).unwrap();
        }
        all.into_iter().filter_map(|stream| stream.join().unwrap()).collect()
    });
    assert_eq!(committed.len(), streams as usize / 2);
    let stats = store.stats().unwrap();
    assert_eq!(stats.blobs, streams / 2 + puts);
    assert_eq!(stats.live_bytes, streams / 2 * stream_bytes as u64 + 200 * puts);
    assert!(stats.disk_bytes <= 2 * stats.live_bytes, "{} for {}", stats.disk_bytes, stats.live_bytes);
    store.compact().unwrap();
    let most = stats.live_bytes + 256 * stats.blobs + 4096 * committed.len() as u64 + (1 << 20);
    let after = store.stats().unwrap().disk_bytes;
    assert!(after <= most, "{after} of at most {most} bytes");
    for digest in &committed {
        store.get(digest).unwrap().verify().unwrap();
    }
}

#[test]
fn a_writer_keeps_little_in_memory_however_long_its_blob() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Process::spawn("stream", directory.path());
    let bytes: u64 = child.answer().unwrap().parse().unwrap();
    child.finish();
    assert!(bytes / STREAMS < 2 << 20, "{} bytes a writer", bytes / STREAMS);
    assert_eq!(read_only(directory.path()).stats().unwrap().blobs, 1 + STREAMS);
}

#[cfg(feature = "cli")]
#[test]
fn what_the_tool_has_printed_when_it_is_killed_is_there_afterwards() {
    const FILES: usize = 2_000;
    let directory = tempfile::tempdir().unwrap();
    let pack = directory.path().join("killed.pack");
    for number in 0..FILES {
        let length = if number % 500 == 77 { 100_000 } else { number % 3_000 };
        std::fs::write(directory.path().join(number.to_string()), content(number as u64, length)).unwrap();
    }
    let kills = if is_full() { 100 } else { 20 };
    let mut cut_off = 0;
    for kill in 0..kills {
        // Each time other files come first, and the end comes after another number of lines.
        let files = (0..FILES).map(|n| ((n + 331 * kill) % FILES).to_string());
        let mut tool = Command::new(env!("CARGO_BIN_EXE_blobpack"))
            .current_dir(directory.path())
            .arg("put")
            .arg(&pack)
            .args(files)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(tool.stdout.take().unwrap());
        let mut printed = Vec::new();
        let enough = kill * 997 % FILES;
        let mut line = String::new();
        while printed.len() < enough && lines.read_line(&mut line).unwrap() > 0 {
            printed.push(std::mem::take(&mut line));
        }
        tool.kill().unwrap();
        while lines.read_line(&mut line).unwrap() > 0 {
            printed.push(std::mem::take(&mut line));
        }
        cut_off += usize::from(!tool.wait().unwrap().success());
        if !pack.exists() {
            assert!(printed.is_empty());
            continue;
        }
        let reader = read_only(&pack);
        for line in printed.iter().filter_map(|line| line.strip_suffix('\n')) {
            let (digest, name) = line.split_once("  ").unwrap();
            let bytes = std::fs::read(directory.path().join(name)).unwrap();
            assert!(*reader.get(&digest.parse().unwrap()).unwrap() == *bytes, "{line}");
        }
        drop(reader);
        let verify = Command::new(env!("CARGO_BIN_EXE_blobpack")).arg("verify").arg(&pack).output().unwrap();
        assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
        assert!(verify.stdout.is_empty());
    }
    assert!(cut_off > kills / 2, "{cut_off} of {kills} were killed before their end");
}
