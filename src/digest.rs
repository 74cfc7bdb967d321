//! Digests: which algorithms there are, how a digest is written, how one is computed.
//!
//! The hash functions are those of FIPS 180-4, by the `sha2` crate.

use std::fmt;
use std::hash::{Hash, Hasher as StdHasher};
use std::str::FromStr;

use sha2::Digest as _;

use crate::error::{Error, Result};

/// A hash function that blobs can be addressed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// All algorithms, in the order of their digests' lengths.
    pub const ALL: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];

    /// The algorithm of a label such as `sha256`; `None` where it is not supported.
    #[doc(alias = "HashForLabel")]
    #[must_use]
    pub fn from_label(label: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|a| a.label() == label)
    }

    /// The label as digests write it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// The length of a digest, in bytes.
    #[must_use]
    pub const fn digest_bytes(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha384 => 48,
            Algorithm::Sha512 => 64,
        }
    }

    /// The number that stands for it in the file.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Algorithm::Sha256 => 1,
            Algorithm::Sha384 => 2,
            Algorithm::Sha512 => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|a| a.code() == code)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(label: &str) -> Result<Algorithm> {
        Algorithm::from_label(label).ok_or_else(|| Error::UnsupportedAlgorithm { label: label.into() })
    }
}

/// The digest of a blob: an algorithm and its 32, 48 or 64 bytes.
///
/// It is written `sha256:` and lower-case hex digits, and parsed from nothing else.
///
/// ```
/// use blobpack::{Algorithm, Digest};
/// let digest = Digest::of(Algorithm::Sha256, b"hello");
/// assert_eq!(digest.to_string(), "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
/// assert_eq!(digest.to_string().parse::<Digest>()?, digest);
/// # Ok::<(), blobpack::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// Zero beyond the algorithm's length, so that derived comparisons are right.
    bytes: [u8; 64],
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// A digest from its bytes; `None` where their number is not the algorithm's.
    #[must_use]
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Digest> {
        if bytes.len() != algorithm.digest_bytes() {
            return None;
        }
        let mut all = [0; 64];
        all[..bytes.len()].copy_from_slice(bytes);
        Some(Digest { algorithm, bytes: all })
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The bytes: 32, 48 or 64.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_bytes()]
    }

    /// Whether bytes that have the digest `found` are those of this one.
    pub(crate) fn check(&self, found: Digest) -> Result<()> {
        if found == *self {
            return Ok(());
        }
        Err(Error::DigestMismatch { expected: Box::new(*self), found: Box::new(found) })
    }

    /// The digest's bytes, padded with zeros to 64.
    pub(crate) const fn padded(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl Hash for Digest {
    fn hash<H: StdHasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 128];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.as_bytes()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        let hex = std::str::from_utf8(&text[..2 * self.as_bytes().len()]).map_err(|_| fmt::Error)?;
        write!(f, "{}:{hex}", self.algorithm)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest> {
        let invalid = |reason| Error::InvalidDigest { text: text.into(), reason };
        let (label, hex) = text.split_once(':').ok_or_else(|| invalid("no colon after the algorithm's label"))?;
        let algorithm: Algorithm = label.parse()?;
        let foreign = "only the hex digits 0-9 and a-f (lower case) are allowed";
        if hex.len() != 2 * algorithm.digest_bytes() {
            let is_hex = hex.bytes().all(|digit| hex_value(digit).is_some());
            return Err(invalid(if is_hex { "wrong number of hex digits" } else { foreign }));
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = match (hex_value(pair[0]), hex_value(pair[1])) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(invalid(foreign)),
            };
        }
        Ok(Digest { algorithm, bytes })
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(feature = "serde")]
mod with_serde {
    use super::{Algorithm, Digest};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    macro_rules! as_text {
        ($type:ty) => {
            impl Serialize for $type {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(D::Error::custom)
                }
            }
        };
    }
    as_text!(Algorithm);
    as_text!(Digest);
}

/// Computes a digest piece by piece.
#[derive(Clone, Debug)]
pub struct Hasher {
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher that has seen no bytes.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher {
            state: match algorithm {
                Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
                Algorithm::Sha384 => State::Sha384(sha2::Sha384::new()),
                Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
            },
        }
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(s) => s.update(bytes),
            State::Sha384(s) => s.update(bytes),
            State::Sha512(s) => s.update(bytes),
        }
    }

    /// The digest of all bytes so far; the hasher can go on from its clone.
    #[must_use]
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = match self.state {
            State::Sha256(s) => {
                bytes[..32].copy_from_slice(&s.finalize());
                Algorithm::Sha256
            }
            State::Sha384(s) => {
                bytes[..48].copy_from_slice(&s.finalize());
                Algorithm::Sha384
            }
            State::Sha512(s) => {
                bytes.copy_from_slice(&s.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_fips_180() {
        let cases = [
            (Algorithm::Sha256, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                Algorithm::Sha384,
                "sha384:cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
                 8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                Algorithm::Sha512,
                "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
        ];
        for (algorithm, text) in cases {
            assert_eq!(Digest::of(algorithm, b"abc").to_string(), text);
            assert_eq!(text.parse::<Digest>().unwrap(), Digest::of(algorithm, b"abc"));
        }
    }

    #[test]
    fn a_digest_is_parsed_from_one_spelling_only() {
        let good = Digest::of(Algorithm::Sha256, b"").to_string();
        for bad in [
            "",
            "sha256",
            "sha256:",
            &good[1..],
            &good[..good.len() - 1],
            &good.to_uppercase(),
            &good.replace("e3b0", "E3B0"),
            &good.replace("e3b0", "g3b0"),
            &good.replace("sha256", "sha512"),
            &good.replace("sha256", "md5"),
            &format!("{good} "),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }
}
