//! The keyed hash that gives each record its tag, and with it its place in the index and in listings.
//!
//! Content, and so digests, are chosen by strangers: with an unkeyed hash they could fill one bucket (rule R16). The
//! hash is vector multiply-shift (M. Thorup, "High Speed Hashing for Integers and Strings", 2015, section 3.5): with
//! 128-bit coefficients `a` and 32-bit digits `x`, the top 64 bits of `a[0] + Σ a[i]·x[i]` are strongly universal. The
//! digits are the first 16 bytes of a digest (of a name: of its SHA-256), or the two ids of a link, and one more for
//! the kind of record.

use byteorder::{ByteOrder, LittleEndian};

use crate::digest::{Algorithm, Digest};
use crate::format::{Offset, TAG_MIN};

/// The digit that keeps links apart from blobs, whose digit is their algorithm's code.
const LINK: u8 = 0;
/// The digit of names.
const NAME: u8 = 4;

/// The secret of a pack, ready to be used.
#[derive(Clone)]
pub struct Tagger {
    coefficients: [u128; 7],
    /// `a[0] + a[5]·kind`, by kind.
    starts: [u128; 5],
}

impl Tagger {
    /// A tagger with the secret of the pack's identity.
    #[must_use]
    pub fn new(secret: &[u8; 112]) -> Tagger {
        let mut coefficients = [0; 7];
        for (coefficient, bytes) in coefficients.iter_mut().zip(secret.chunks_exact(16)) {
            *coefficient = LittleEndian::read_u128(bytes);
        }
        let [a0, .., a5, _] = coefficients;
        let starts = [0, 1, 2, 3, 4].map(|kind| a0.wrapping_add(a5.wrapping_mul(kind)));
        Tagger { coefficients, starts }
    }

    #[inline]
    fn tag(&self, low: u64, high: u64, kind: u8) -> u64 {
        let [_, a1, a2, a3, a4, ..] = &self.coefficients;
        let sum = self.starts[usize::from(kind)]
            .wrapping_add(a1.wrapping_mul(u128::from(low & 0xffff_ffff)))
            .wrapping_add(a2.wrapping_mul(u128::from(low >> 32)))
            .wrapping_add(a3.wrapping_mul(u128::from(high & 0xffff_ffff)))
            .wrapping_add(a4.wrapping_mul(u128::from(high >> 32)));
        let tag = (sum >> 64) as u64;
        // Two values out of 2^64 stand for something else; moving them costs nothing that can be measured.
        tag.max(TAG_MIN)
    }

    /// The tag of a blob.
    #[must_use]
    #[inline]
    pub fn of_blob(&self, digest: &Digest) -> u64 {
        let bytes = digest.padded();
        self.tag(LittleEndian::read_u64(&bytes[..8]), LittleEndian::read_u64(&bytes[8..16]), digest.algorithm().code())
    }

    /// The tag of a link.
    #[must_use]
    pub fn of_link(&self, from: Offset, to: Offset) -> u64 {
        self.tag(from.0, to.0, LINK)
    }

    /// The tag of a name; of the empty one for the anchor. Names that agree in 16 bytes of their SHA-256 would have one
    /// tag, and none such are known.
    #[must_use]
    pub fn of_name(&self, name: &str) -> u64 {
        let digest = Digest::of(Algorithm::Sha256, name.as_bytes());
        let bytes = digest.padded();
        self.tag(LittleEndian::read_u64(&bytes[..8]), LittleEndian::read_u64(&bytes[8..16]), NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_differ_by_secret_kind_and_order() {
        let mut secret = [0; 112];
        for (at, byte) in secret.iter_mut().enumerate() {
            *byte = u8::try_from(at * 37 % 251).unwrap();
        }
        let tagger = Tagger::new(&secret);
        secret[15] ^= 1;
        let other = Tagger::new(&secret);
        let digest = Digest::of(Algorithm::Sha256, b"x");
        assert_ne!(tagger.of_blob(&digest), other.of_blob(&digest));
        assert_ne!(tagger.of_link(Offset(1), Offset(2)), tagger.of_link(Offset(2), Offset(1)));
        assert_ne!(tagger.of_name("x"), tagger.of_blob(&digest));
        assert_ne!(tagger.of_name("x"), other.of_name("x"));
        assert!(Tagger::new(&[0; 112]).of_blob(&digest) >= TAG_MIN);
    }
}
