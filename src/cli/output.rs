//! Standard output and standard error.
//!
//! Rust ignores SIGPIPE, so a reader that has seen enough shows as an error of a write. [`Output`] takes it as "nobody
//! listens any more": what a verb changes is still done, what it would print goes nowhere, and a listing can stop
//! early.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::os::unix::ffi::OsStrExt;

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

/// Prints the tool's error line.
pub fn complain(message: &str) {
    note(&format!("blobpack: {message}"));
}

/// Prints a line on standard error, which may be closed. Control characters of file names don't reach the terminal.
pub fn note(message: &str) {
    let mut line = String::with_capacity(message.len() + 1);
    for character in message.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    let _ = io::stderr().write_all(line.as_bytes());
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
