//! Why the tool fails, and with which exit code.

use std::process::ExitCode;

use blobpack::Error;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NO_SUCH_BLOB: u8 = 3;
const DAMAGE: u8 = 4;
const LOCKED: u8 = 5;

/// An exit code, and what to say unless that was said already.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: Option<String>,
}

impl Failure {
    /// Something that is not the library's error went wrong.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { code: FAILED, message: Some(message.into()) }
    }

    /// Some of the files could not be stored; each was named when it happened.
    pub fn reported() -> Failure {
        Failure { code: FAILED, message: None }
    }

    /// The command line was wrong; clap said how.
    pub fn usage() -> Failure {
        Failure { code: USAGE, message: None }
    }

    /// The command line was wrong in a way that clap does not know of.
    pub fn wrong_usage(message: impl Into<String>) -> Failure {
        Failure { code: USAGE, message: Some(message.into()) }
    }

    /// No blob's digest begins with this prefix.
    pub fn no_blob_begins_with(prefix: &str) -> Failure {
        Failure { code: NO_SUCH_BLOB, message: Some(format!("no blob {prefix}… in the pack")) }
    }

    /// Damage was found and listed.
    pub fn damage() -> Failure {
        Failure { code: DAMAGE, message: None }
    }

    /// The same failure, with what it happened to before the message.
    pub fn about(self, subject: &str) -> Failure {
        Failure { message: self.message.map(|message| format!("{subject}: {message}")), ..self }
    }

    /// The line to print, if there is one.
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// What the process exits with.
    pub fn code(&self) -> ExitCode {
        self.code.into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let message = match &error {
            // The library's remedy is an option of its own.
            Error::NoPack { path } => format!("{}: no pack here (put and import create one)", path.display()),
            error => error.to_string(),
        };
        Failure { code: code_of(&error), message: Some(message) }
    }
}

fn code_of(error: &Error) -> u8 {
    match error {
        Error::Batch { source, .. } => code_of(source),
        Error::InvalidDigest { .. } | Error::InvalidName { .. } | Error::UnsupportedAlgorithm { .. } => USAGE,
        Error::InvalidLocation { .. } => USAGE,
        Error::Locked { .. } => LOCKED,
        // The tool expects nothing of what it stores, so a mismatch is always a stored blob that has changed.
        Error::DigestMismatch { .. } | Error::SizeMismatch { .. } => DAMAGE,
        error if error.is_not_found() => NO_SUCH_BLOB,
        error if error.is_damage() => DAMAGE,
        _ => FAILED,
    }
}
