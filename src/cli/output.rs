//! Standard output and standard error.
//!
//! Rust ignores SIGPIPE, so a reader that has seen enough shows as an error of a write. [`Output`] takes it as "nobody
//! listens any more": what a verb changes is still done, what it would print goes nowhere, and a listing can stop
//! early.
//!
//! A terminal is for eyes: sizes are `1.50 MiB` there, and colours may be used. Everywhere else, in a pipe, a file and
//! in JSON, a size is an exact number of bytes and there are no colours. See [`Size`] and [`Paint`].

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::os::unix::ffi::OsStrExt;

use clap::builder::styling::{AnsiColor, Style};
use indicatif::HumanBytes;
use serde::Serialize;

use super::failure::Failure;

/// Standard output, buffered.
pub struct Output {
    stream: BufWriter<StdoutLock<'static>>,
    closed: bool,
}

impl Output {
    /// Takes standard output for as long as this lives.
    pub fn new() -> Output {
        Output { stream: BufWriter::with_capacity(64 << 10, io::stdout().lock()), closed: false }
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = if self.closed { Ok(()) } else { self.stream.write_all(bytes) };
        self.outcome(written)
    }

    /// Writes a text, without a line's end.
    pub fn text(&mut self, text: fmt::Arguments<'_>) -> Result<(), Failure> {
        let written = if self.closed { Ok(()) } else { self.stream.write_fmt(text) };
        self.outcome(written)
    }

    /// Writes a line.
    pub fn line(&mut self, line: impl Display) -> Result<(), Failure> {
        self.text(format_args!("{line}\n"))
    }

    /// Writes a line that is one JSON value.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).map_err(|e| Failure::new(format!("writing JSON: {e}")))?;
        self.line(line)
    }

    /// Hands everything to the system. Call it at the end: a drop can't report an error.
    pub fn flush(&mut self) -> Result<(), Failure> {
        let flushed = if self.closed { Ok(()) } else { self.stream.flush() };
        self.outcome(flushed)
    }

    fn outcome(&mut self, outcome: io::Result<()>) -> Result<(), Failure> {
        match outcome {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::new(format!("standard output: {error}"))),
        }
    }
}

/// A size as a stream shows it: `1.50 MiB` on a terminal, a plain number of bytes elsewhere. It pads as a text does.
pub struct Size {
    bytes: u64,
    human: bool,
}

impl Size {
    /// For standard output.
    pub fn on_stdout(bytes: u64) -> Size {
        Size { bytes, human: io::stdout().is_terminal() }
    }
}

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.human { f.pad(&HumanBytes(self.bytes).to_string()) } else { self.bytes.fmt(f) }
    }
}

/// A size in a note: `1.50 MiB` where standard error is a terminal, `1572864 bytes` elsewhere.
pub fn size_note(bytes: u64) -> String {
    if io::stderr().is_terminal() { HumanBytes(bytes).to_string() } else { count(bytes, "byte") }
}

/// Colours, where they belong: on a terminal that knows them, unless `NO_COLOR` is set to anything
/// (<https://no-color.org>).
#[derive(Clone, Copy)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// For this stream.
    pub fn of(stream: &impl IsTerminal) -> Paint {
        Paint { on: stream.is_terminal() && colours_are_welcome() }
    }

    /// Whether there are colours.
    pub fn is_on(self) -> bool {
        self.on
    }

    /// The text in this style, or as it is.
    pub fn paint(self, style: Style, text: impl Display) -> String {
        if self.on { format!("{style}{text}{style:#}") } else { text.to_string() }
    }
}

/// What clap does with colours: the same as [`Paint`]. Left alone it would colour any terminal where `CI` is set.
pub fn help_colours() -> clap::ColorChoice {
    if colours_are_welcome() { clap::ColorChoice::Auto } else { clap::ColorChoice::Never }
}

/// Whether a terminal, if this is one, shows colours and the user has nothing against them.
fn colours_are_welcome() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    !refused && !dumb
}

/// What went wrong, and what is damaged.
pub const BAD: Style = AnsiColor::Red.on_default().bold();

/// Prints the tool's error line.
pub fn complain(message: &str) {
    print_line(&Paint::of(&io::stderr()).paint(BAD, "blobpack:"), &format!(" {message}"));
}

/// Prints a line on standard error, which may be closed. Control characters of file names don't reach the terminal.
pub fn note(message: &str) {
    print_line("", message);
}

fn print_line(painted: &str, message: &str) {
    let line = format!("{painted}{}\n", printable(message));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// A text without the control characters that would reach the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// `DIGEST  NAME` and a line's end, as sha256sum writes it: a name with a line's end or a backslash in it is escaped,
/// and a backslash at the beginning of the line says so.
pub fn checksum_line(digest: impl Display, name: &OsStr) -> Vec<u8> {
    let name = name.as_bytes();
    let mut line = Vec::with_capacity(name.len() + 80);
    if name.iter().any(|byte| matches!(byte, b'\n' | b'\r' | b'\\')) {
        line.push(b'\\');
    }
    line.extend_from_slice(format!("{digest}  ").as_bytes());
    for &byte in name {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\\' => line.extend_from_slice(b"\\\\"),
            _ => line.push(byte),
        }
    }
    line.push(b'\n');
    line
}

/// `1 blob`, `2 blobs`.
pub fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A size for people, wherever it is shown: `1.5 MiB`.
pub fn human(bytes: u64) -> String {
    HumanBytes(bytes).to_string().replace(".00 ", " ")
}

/// An offset for people, exact: in the largest unit that it is a multiple of.
pub fn round_offset(bytes: u64) -> String {
    match (bytes.trailing_zeros() / 10) as usize {
        _ if bytes == 0 => "0".to_owned(),
        unit => format!("{} {}", bytes >> (10 * unit), UNITS[unit]),
    }
}

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A number for people, its digits in threes.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share for people, in percent with one digit behind the point; what is there and rounds to nothing says so.
pub fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".to_owned();
    }
    let thousandths = (u128::from(part) * 2000 / u128::from(whole)).div_ceil(2);
    match thousandths {
        0 => "<0.1 %".to_owned(),
        1000 if part < whole => "99.9 %".to_owned(),
        1000.. => "100 %".to_owned(),
        _ => format!("{}.{} %", thousandths / 10, thousandths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_exact() {
        let of: Vec<String> = [0, 64, 4096, 1152 << 10, 3 << 20, 1 << 63].into_iter().map(round_offset).collect();
        assert_eq!(of, ["0", "64 B", "4 KiB", "1152 KiB", "3 MiB", "8 EiB"]);
    }

    #[test]
    fn digits_stand_in_threes() {
        let of: Vec<String> = [0, 999, 1000, 75_291, 1_234_567].into_iter().map(grouped).collect();
        assert_eq!(of, ["0", "999", "1,000", "75,291", "1,234,567"]);
    }

    #[test]
    fn shares_are_never_more_than_they_are() {
        assert_eq!(percent(0, 7), "0 %");
        assert_eq!(percent(7, 0), "0 %");
        assert_eq!(percent(7, 7), "100 %");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(2, 3), "66.7 %");
        assert_eq!(percent(1, 1 << 60), "<0.1 %");
        assert_eq!(percent((1 << 60) - 1, 1 << 60), "99.9 %");
    }
}
