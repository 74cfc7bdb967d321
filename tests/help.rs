//! The help of the tool, taken at its word: it is complete for every verb that there is, its examples run, and what is
//! made from it (completions, manual pages, the guide) says the same.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blobpack::image::{ImportOptions, Source, import, import_tree};
use blobpack::{Algorithm, Digest, Store};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

mod common;
#[path = "common/images.rs"]
mod images;

const TOOL: &str = env!("CARGO_BIN_EXE_blobpack");

/// What each verb's help says, a paragraph each.
const PROMISES: [&str; 3] = ["Counts: ", "Costs: ", "Never: "];

/// Programs that examples pipe into. Where one is not installed its stand-in passes on what it reads; a pager waits for
/// keys on a terminal, so it always has one.
const STAND_INS: [&str; 4] = ["jq", "less", "xxd", "dot"];

/// What a command prints that is to work. No terminal is there, so nothing is coloured.
fn output_of(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'), "{command:?}:\n{stdout}{stderr}");
    stdout.into_owned()
}

/// The long help, too wide to be wrapped.
fn help(verb: Option<&str>) -> String {
    output_of(Command::new(TOOL).args(verb).arg("--help").env("COLUMNS", "10000"))
}

/// All verbs, as the tool lists them.
fn verbs() -> Vec<String> {
    let help = help(None);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let first_words = listed.map(|line| line.split_whitespace().next().unwrap().to_owned());
    let verbs: Vec<String> = first_words.filter(|verb| verb != "help").collect();
    assert!(verbs.len() > 12, "{help}");
    verbs
}

/// The lines of the examples in a help text, without their indentation.
fn examples(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    lines.take_while(|line| line.starts_with("  ")).map(|line| line.trim_start().to_owned()).collect()
}

/// What the help says before its usage line, a paragraph each.
fn paragraphs(help: &str) -> Vec<&str> {
    help.split("\n\nUsage:").next().unwrap().split("\n\n").collect()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[test]
fn every_verb_says_what_it_does_to_counts_what_it_costs_and_what_it_never_does() {
    let mut missing = Vec::new();
    for verb in verbs() {
        let help = help(Some(&verb));
        let paragraphs = paragraphs(&help);
        for promise in PROMISES {
            let says = paragraphs.iter().filter(|paragraph| paragraph.starts_with(promise)).count();
            if says != 1 {
                missing.push(format!("{verb}: {says} paragraphs that begin with {promise:?}"));
            }
        }
        if !examples(&help).iter().any(|line| line.contains(&format!("blobpack {verb}"))) {
            missing.push(format!("{verb}: no example"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// A directory with all that the examples name, and a `blobpack` on the path.
struct Fixture {
    base: TempDir,
}

impl Fixture {
    /// `store.pack` holds `hello` (sha256:2cf24dba…, with references to spare), to which `test` (sha256:9f86d081…)
    /// links, and the image `library/alpine:3.20`. The same image is in `layout`, another one in
    /// `saved.tar`. The tree `sources` is what is in `src`.
    fn new() -> Fixture {
        let fixture = Fixture { base: tempfile::tempdir().unwrap() };
        for directory in ["bin", "work/src", "elsewhere"] {
            fs::create_dir_all(fixture.path(directory)).unwrap();
        }
        std::os::unix::fs::symlink(TOOL, fixture.path("bin/blobpack")).unwrap();
        fixture.stand_in(|program| program == "less" || !is_installed(program));
        for (name, content) in [
            ("report.pdf", "hello"),
            ("photo.jpg", "test"),
            ("src/main.rs", "fn main() {}\n"),
            ("disk.img", "a disk"),
            ("layer.tar", "a layer"),
            ("manifest.json", "{}"),
        ] {
            fs::write(fixture.path("work").join(name), content).unwrap();
        }
        fixture.fill();
        fixture
    }

    /// Puts stand-ins before some of the programs.
    fn stand_in(&self, for_program: fn(&str) -> bool) {
        for program in STAND_INS.iter().filter(|program| for_program(program)) {
            let path = self.path("bin").join(program);
            fs::write(&path, "#!/bin/sh\nexec cat\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn fill(&self) {
        let store = Store::open(self.path("work/store.pack")).unwrap();
        let [hello, test] = [b"hello", &b"test"[..]].map(|bytes| {
            store.put(bytes).unwrap();
            store.put(bytes).unwrap().digest
        });
        store.reference(&hello).unwrap();
        store.link(&hello, &test).unwrap();
        let (layout, image) = images::small_image();
        layout.unlisted().root(image, Some("3.20")).write(&self.path("work/layout"));
        let source = Source::open(&format!("oci:{}", self.path("work/layout").display()).parse().unwrap()).unwrap();
        let options = ImportOptions::new().name("library/alpine:3.20".parse().unwrap());
        import(&store, &source, options).unwrap();
        let (archive, _) = images::docker(&[b"a layer"], images::DOCKER_CONFIG);
        fs::write(self.path("work/saved.tar"), archive.end()).unwrap();
        import_tree(&store, &self.path("work/src"), Some(&"sources".parse().unwrap()), &mut |_| {}).unwrap();
        store.close().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// Lines that run one after another, as if somebody typed them.
    fn command(&self, lines: &[String]) -> Command {
        let mut path = vec![self.path("bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let script = lines.join("\n");
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).current_dir(self.path("work"));
        command.env("HOME", self.base.path()).env("PATH", std::env::join_paths(path).unwrap());
        command
    }
}

#[test]
fn the_examples_run() {
    let tool = help(None);
    output_of(&mut Fixture::new().command(&examples(&tool)));
    for verb in verbs() {
        let lines = examples(&help(Some(&verb)));
        assert!(!lines.is_empty(), "{verb}");
        let printed = output_of(&mut Fixture::new().command(&lines));
        assert!(!printed.lines().any(|line| line == "null"), "{verb}: a query for what is not there:\n{printed}");
    }
}

/// The guide's chapter on the verbs is made from the help: with `BLOBPACK_WRITE_GUIDE=1` this test writes it.
#[test]
fn the_guide_says_what_the_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide/verbs.md");
    let expected = guide();
    if std::env::var_os("BLOBPACK_WRITE_GUIDE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert!(found == expected, "BLOBPACK_WRITE_GUIDE=1 cargo test --test help writes {} anew", path.display());
}

fn guide() -> String {
    let mut guide = String::from("<!-- Made from the help of the verbs; see tests/help.rs. -->\n");
    for verb in verbs() {
        guide += &format!("\n## `blobpack {verb}`\n\n");
        let help = help(Some(&verb));
        let (promises, says): (Vec<&str>, Vec<&str>) =
            paragraphs(&help).into_iter().partition(|text| PROMISES.iter().any(|promise| text.starts_with(promise)));
        for paragraph in says {
            // The help's first line has no full stop where it is the only sentence.
            let stop = if paragraph.ends_with(['.', ':']) { "" } else { "." };
            guide += &format!("{}{stop}\n\n", markdown(paragraph));
        }
        for promise in promises {
            let (what, text) = promise.split_once(": ").unwrap();
            guide += &format!("* **{what}**: {}\n", markdown(text));
        }
        guide += &format!("\n```sh\n{}\n```\n", examples(&help).join("\n"));
    }
    guide
}

/// Prose as Markdown: options are code, what would be markup is escaped. Code is there already, between backticks.
fn markdown(text: &str) -> String {
    let pieces = text.split('`').enumerate().map(|(n, piece)| match n % 2 {
        0 => piece.split(' ').map(markdown_word).collect::<Vec<_>>().join(" "),
        _ => format!("`{piece}`"),
    });
    pieces.collect()
}

fn markdown_word(word: &str) -> String {
    let option = word.trim_end_matches(['.', ',', ';', ':', ')']);
    if option.len() > 1 && option.starts_with('-') {
        return format!("`{option}`{}", &word[option.len()..]);
    }
    let markup = |c| matches!(c, '<' | '>' | '[' | ']' | '*' | '_' | '\\');
    word.chars().flat_map(|c| markup(c).then_some('\\').into_iter().chain([c])).collect()
}

#[test]
fn the_readme_names_every_verb() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for verb in verbs() {
        let begins = |row: &str| row.strip_prefix(&format!("| `{verb}")).is_some_and(|r| r.starts_with([' ', '`']));
        assert!(readme.lines().any(begins), "no row of the README's table is about {verb}");
    }
}

#[test]
fn completions_know_every_verb_and_option() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = output_of(Command::new(TOOL).args(["completions", shell]));
        for verb in verbs() {
            assert!(script.contains(&verb), "{shell}: {verb}");
            for option in long_options(&help(Some(&verb))) {
                // Fish has the options without their dashes.
                assert!(script.contains(option.trim_start_matches("--")), "{shell}: {verb} {option}");
            }
        }
        if is_installed(shell) {
            let path = directory.path().join(shell);
            fs::write(&path, script).unwrap();
            output_of(Command::new(shell).arg("-n").arg(&path));
        }
    }
    let script = directory.path().join("bash");
    let complete = |words: &[&str]| {
        let ask = r#"source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _blobpack blobpack "${!#}" "${@: -2:1}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let completed = output_of(Command::new("bash").arg("-c").arg(ask).arg(&script).args(words));
        completed.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete(&["blobpack", "der"]), ["deref"]);
    assert_eq!(complete(&["blobpack", "compact", "--min"]), ["--min-dead"]);
    let refused = Command::new(TOOL).args(["completions", "tcsh"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

/// The long options that a help text explains.
fn long_options(help: &str) -> Vec<&str> {
    let explained = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let options = explained.flat_map(|line| line.split([' ', ',', '[', '=']).filter(|word| word.starts_with("--")));
    options.collect()
}

#[test]
fn there_is_a_manual_page_for_every_verb() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("share/man1");
    output_of(Command::new(TOOL).args(["man", "--output"]).arg(&pages));
    let mut expected: Vec<String> = verbs().iter().map(|verb| format!("blobpack-{verb}.1")).collect();
    expected.push("blobpack.1".to_owned());
    expected.sort();
    let mut found: Vec<String> =
        fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, expected);

    assert_eq!(output_of(Command::new(TOOL).arg("man")), fs::read_to_string(pages.join("blobpack.1")).unwrap());
    for verb in verbs() {
        let path = pages.join(format!("blobpack-{verb}.1"));
        let page = fs::read_to_string(&path).unwrap();
        assert_eq!(output_of(Command::new(TOOL).args(["man", &verb])), page);
        assert!(page.is_ascii(), "{verb}: what troff reads without preconv");
        for section in [".TH blobpack-", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS", ".SH EXAMPLES"] {
            assert!(page.lines().any(|line| line.starts_with(section)), "{verb}: {section}");
        }
        if is_installed("groff") {
            the_page_reads_well(&path, &help(Some(&verb)));
        }
    }
    let refused = Command::new(TOOL).args(["man", "frobnicate"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

/// The formatted page has the examples, a line each, and everything that the help promises.
fn the_page_reads_well(path: &Path, help: &str) {
    let mut groff = Command::new("groff");
    let text = output_of(groff.args(["-man", "-Tascii", "-P-cbou", "-rLL=10000n"]).arg(path));
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().map(squeezed).collect();
    for example in examples(help) {
        assert!(lines.contains(&squeezed(&example)), "{example}\nis not in\n{text}");
    }
    let plain = lines.join(" ");
    for promise in paragraphs(help).into_iter().filter(|text| PROMISES.iter().any(|promise| text.starts_with(promise)))
    {
        assert!(plain.contains(&squeezed(promise)), "{promise}\nis not in\n{text}");
    }
}

// On a terminal

/// Runs a command with a terminal as its standard output and error, and gives what is on it then: whether it worked,
/// and the text. `None` where this system has no terminals to give.
fn on_terminal(mut command: Command, environment: &[(&str, &str)]) -> Option<(bool, String)> {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).ok()?;
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let no_controlling = OFlags::NOCTTY.bits().try_into().unwrap();
    let open =
        File::options().read(true).write(true).custom_flags(no_controlling).open(name.to_str().unwrap()).unwrap();
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm-256color").envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(open.try_clone().unwrap()).stderr(open);
    let mut child = command.spawn().unwrap();
    // Its copies of the terminal's other end are to be the only ones.
    drop(command);
    let mut shown = Vec::new();
    // Where nobody has the other end any more a terminal gives an error, not an end of file.
    let _ = File::from(terminal).read_to_end(&mut shown);
    let worked = child.wait().unwrap().success();
    Some((worked, String::from_utf8_lossy(&shown).replace("\r\n", "\n")))
}

fn tool(arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(TOOL);
    command.args(arguments).current_dir(directory);
    command
}

/// Whether a text sets colours or weights: `ESC [ … m`. (A progress bar moves the cursor, which is something else.)
fn is_coloured(text: &str) -> bool {
    text.split("\x1b[")
        .skip(1)
        .any(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'))
}

#[test]
fn colours_are_for_terminals_and_no_color_is_respected() {
    let fixture = Fixture::new();
    let work = fixture.path("work");
    for arguments in [&["--help"][..], &["put", "--help"], &["ls", "missing.pack"], &["frobnicate"]] {
        let Some((_, plain)) = on_terminal(tool(arguments, &work), &[("NO_COLOR", "1")]) else {
            return eprintln!("no terminals here");
        };
        assert!(!plain.contains('\x1b'), "{plain}");
        let (_, coloured) = on_terminal(tool(arguments, &work), &[]).unwrap();
        assert!(is_coloured(&coloured), "{coloured}");
        for also in [&[][..], &[("CI", "true")]] {
            let (_, dumb) = on_terminal(tool(arguments, &work), &[&[("TERM", "dumb")], also].concat()).unwrap();
            assert!(!dumb.contains('\x1b'), "{dumb}");
        }
        let piped = tool(arguments, &work).output().unwrap();
        assert!(!piped.stdout.contains(&0x1b) && !piped.stderr.contains(&0x1b), "{arguments:?}");
    }
    for verb in verbs() {
        let lines = examples(&help(Some(&verb)));
        let fixture = Fixture::new();
        // Other programs have their own opinion of colours.
        fixture.stand_in(|_| true);
        let (worked, shown) = on_terminal(fixture.command(&lines), &[("NO_COLOR", "1")]).unwrap();
        assert!(worked && !is_coloured(&shown), "{verb}: {shown}");
    }
}

#[test]
fn sizes_are_for_eyes_on_a_terminal_and_exact_elsewhere() {
    let fixture = Fixture::new();
    let work = fixture.path("work");
    fs::write(work.join("large"), vec![7; 1_536_000]).unwrap();
    output_of(&mut tool(&["put", "store.pack", "large"], &work));
    let digest = Digest::of(Algorithm::Sha256, &vec![7; 1_536_000]).to_string();
    let calls = [&["ls", "--long", "store.pack"][..], &["stat", "store.pack", &digest]];
    for arguments in calls {
        let piped = output_of(&mut tool(arguments, &work));
        assert!(piped.contains("1536000") && !piped.contains("MiB"), "{piped}");
        let Some((worked, shown)) = on_terminal(tool(arguments, &work), &[]) else {
            return eprintln!("no terminals here");
        };
        assert!(worked && shown.contains("1.46 MiB") && !shown.contains("1536000"), "{shown}");
        let json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let (worked, shown) = on_terminal(tool(&json, &work), &[]).unwrap();
        assert!(worked && shown.contains("1536000") && !shown.contains("MiB"), "{shown}");
    }
    let (_, shown) = on_terminal(tool(&["deref", "store.pack", &digest], &work), &[]).unwrap();
    assert!(shown.contains("removed 1 blob; compaction can free 1.4"), "{shown}");
    let (_, shown) = on_terminal(tool(&["compact", "store.pack"], &work), &[]).unwrap();
    assert!(shown.lines().any(|line| line.starts_with("freed") && line.ends_with("MiB")), "{shown}");
}

/// A bar was drawn before what `put --name` says last, and the line removed in its place.
#[test]
fn no_bar_stands_before_what_put_says_last() {
    let fixture = Fixture::new();
    let call = tool(&["put", "--name", "moved", "store.pack", "report.pdf"], &fixture.path("work"));
    let Some((worked, shown)) = on_terminal(call, &[]) else { return eprintln!("no terminals here") };
    let (before, _) = shown.split_once("removed 0 blobs; compaction").expect("it says what it removed");
    // Behind a line's end, or a movement of the cursor.
    assert!(worked && before.ends_with(['\n', 'K', 'A']), "{shown:?}");
}

/// The thread that ticks was not to be had, and the tool panicked.
#[test]
fn a_spinner_needs_no_thread() {
    use std::os::unix::process::CommandExt;
    let fixture = Fixture::new();
    let copy = fixture.path("tool");
    fs::copy(TOOL, &copy).unwrap();
    let work = fixture.path("work");
    for (path, mode) in
        [(fixture.base.path(), 0o755), (&work, 0o755), (&work.join("store.pack"), 0o644), (&copy, 0o755)]
    {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut limited = Command::new("bash");
    limited.args(["-c", "ulimit -u 1 && exec \"$0\" \"$@\""]).arg(&copy);
    limited.args(["get", "store.pack", "sha256:2cf24dba"]).current_dir(&work);
    // The limit is not for root.
    if rustix::process::geteuid().is_root() {
        limited.uid(65_534).gid(65_534);
    }
    let Some((worked, shown)) = on_terminal(limited, &[]) else { return eprintln!("no terminals here") };
    assert!(worked && shown.ends_with("hello"), "{shown}");
}
