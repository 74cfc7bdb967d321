//! What is wrong with an image outside of the pack: in a layout, an archive, a descriptor.

use crate::digest::Digest;

/// What an image is read from, or written to, is not what it has to be; and where.
#[derive(Debug, thiserror::Error)]
#[error("{location}: {}{fault}", before(part))]
#[non_exhaustive]
pub struct ImageFault {
    /// The image's source or target as it is written, such as `oci:/srv/layout`.
    pub location: String,
    /// The part that is meant: a file, an archive's entry, a blob's digest. Empty where it is the whole.
    pub part: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with a part of an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It is needed and is not there.
    #[error("is missing")]
    Missing,
    /// It is not JSON, or not the JSON that it has to be.
    #[error("is not the JSON that it has to be: {reason}")]
    Json {
        /// Where and why.
        reason: String,
    },
    /// JSON in JSON, or an index in an index, deeper than anybody needs.
    #[error("is nested too deep: {limit} levels are the limit")]
    TooDeep {
        /// The limit, in levels.
        limit: usize,
    },
    /// It is longer than such a part may be.
    #[error("has {size} bytes, and {limit} are the limit")]
    TooLarge {
        /// Its size, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// There are more of them than an image has.
    #[error("has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The bytes have another digest than the image states.
    #[error("should have {expected}, but its bytes have {found}")]
    Digest {
        /// What the image states.
        expected: Box<Digest>,
        /// The digest of the bytes.
        found: Box<Digest>,
    },
    /// It has another size than the image states.
    #[error("should have {expected} bytes, but has {found}")]
    Size {
        /// The size that the image states, in bytes.
        expected: u64,
        /// Its size, in bytes.
        found: u64,
    },
    /// Anything else.
    #[error("{reason}")]
    Refused {
        /// Why it is refused.
        reason: String,
    },
}

fn before(part: &str) -> String {
    if part.is_empty() { String::new() } else { format!("{part}: ") }
}
