//! Names: what a text must be like to be one.

use std::fmt;
use std::str::FromStr;

use crate::digest::Algorithm;
use crate::error::{Error, Result};

/// The name of a blob, such as `library/alpine:3.20`: 1 to [`Name::BYTES_MAX`] bytes of UTF-8 without control
/// characters. It does not begin as a digest does, with a supported algorithm's label and a colon, so that wherever
/// both may stand a text is one or the other.
///
/// ```
/// use blobpack::Name;
/// let name: Name = "library/alpine:3.20".parse()?;
/// assert_eq!(name.as_str(), "library/alpine:3.20");
/// assert!("sha256:alpine".parse::<Name>().is_err());
/// # Ok::<(), blobpack::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub struct Name(Box<str>);

impl Name {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 1024;

    /// Checks a text.
    ///
    /// # Errors
    /// [`Error::InvalidName`] says what is wrong with it.
    pub fn new(text: impl Into<Box<str>>) -> Result<Name> {
        let text = text.into();
        match flaw(&text) {
            None => Ok(Name(text)),
            Some(reason) => Err(Error::InvalidName { text: text.into(), reason }),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where a text begins as a digest does, with a supported algorithm's label and a colon: the two sides of that.
    pub(crate) fn digest_like(text: &str) -> Option<(Algorithm, &str)> {
        let (label, hex) = text.split_once(':')?;
        Some((Algorithm::from_label(label)?, hex))
    }
}

fn flaw(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > Name::BYTES_MAX {
        Some("it is longer than 1024 bytes")
    } else if text.chars().any(char::is_control) {
        Some("it has control characters")
    } else if Name::digest_like(text).is_some() {
        Some("it begins as a digest does")
    } else {
        None
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Name> {
        Name::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Name> {
        Name::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_printable_text_that_does_not_begin_as_a_digest() {
        let longest = "ä".repeat(512);
        for text in ["x", "library/alpine:3.20", "a b", "sha256", "sha1:00", "x:sha256:", "ü\u{2028}", &longest] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
        }
        let too_long = "x".repeat(1025);
        let texts = ["", &too_long, "a\nb", "\0", "\u{85}", "sha256:", "sha384:x", "sha512:library/alpine"];
        for text in texts {
            assert!(
                matches!(Name::new(text), Err(Error::InvalidName { text: given, .. }) if given == text),
                "{text:?}"
            );
        }
    }
}
