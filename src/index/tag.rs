//! The keyed hash that gives each record its tag, and with it its place in the index and in listings.
//!
//! Content, and so digests, are chosen by strangers: with an unkeyed hash they could fill one bucket. The hash is
//! vector multiply-shift (M. Thorup, "High Speed Hashing for Integers and Strings", 2015, section 3.5): with 128-bit
//! coefficients `a` and digits `x` of up to 64 bits, the top 64 bits of `a[0] + Σ a[i]·x[i]` are strongly universal.
//! The digits are the first 16 bytes of a digest (of a name: of its SHA-256), or the two ids of a link, and one more
//! for the kind of record.
//!
//! The file has coefficients for digits of 32 bits. A pack made today has `a[2] = a[1]·2^32` and `a[4] = a[3]·2^32`,
//! which comes to digits of 64 bits, and to half of the multiplications; a pack from before has others, and works as
//! well, with slower gets.

use std::hint::cold_path;

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
    /// Whether two digits of 64 bits do for four of 32.
    has_wide_digits: bool,
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
        let [a0, a1, a2, a3, a4, a5, _] = coefficients;
        let starts = [0, 1, 2, 3, 4].map(|kind| a0.wrapping_add(a5.wrapping_mul(kind)));
        Tagger { coefficients, has_wide_digits: a2 == a1 << 32 && a4 == a3 << 32, starts }
    }

    /// A pack's secret out of random bytes.
    #[must_use]
    pub fn secret(mut random: [u8; 112]) -> [u8; 112] {
        for odd in [1, 3] {
            let coefficient = LittleEndian::read_u128(&random[16 * odd..]);
            LittleEndian::write_u128(&mut random[16 * (odd + 1)..], coefficient << 32);
        }
        random
    }

    #[inline]
    fn tag(&self, low: u64, high: u64, kind: u8) -> u64 {
        tag_of(if self.has_wide_digits {
            self.sum_of_wide_digits(low, high, kind)
        } else {
            self.sum_of_narrow_digits(low, high, kind)
        })
    }

    #[inline]
    fn sum_of_wide_digits(&self, low: u64, high: u64, kind: u8) -> u128 {
        let [_, a1, _, a3, ..] = &self.coefficients;
        self.starts[usize::from(kind)].wrapping_add(product(a1, low)).wrapping_add(product(a3, high))
    }

    #[cold]
    fn sum_of_narrow_digits(&self, low: u64, high: u64, kind: u8) -> u128 {
        let [_, a1, a2, a3, a4, ..] = &self.coefficients;
        self.starts[usize::from(kind)]
            .wrapping_add(product(a1, low & 0xffff_ffff))
            .wrapping_add(product(a2, low >> 32))
            .wrapping_add(product(a3, high & 0xffff_ffff))
            .wrapping_add(product(a4, high >> 32))
    }

    /// The tag of a blob.
    #[must_use]
    #[inline]
    pub fn of_blob(&self, digest: &Digest) -> u64 {
        let [low, high] = digits(digest);
        self.tag(low, high, digest.algorithm().code())
    }

    /// The tag of a blob with a SHA-256, in fewer instructions, in a pack of wide digits. In one of narrow digits a
    /// value that leads nowhere: [`of_blob`](Tagger::of_blob) is right there.
    #[must_use]
    #[inline]
    pub fn of_sha256_if_wide(&self, digest: &Digest) -> u64 {
        debug_assert_eq!(digest.algorithm(), Algorithm::Sha256);
        let [low, high] = digits(digest);
        tag_of(self.sum_of_wide_digits(low, high, Algorithm::Sha256.code()))
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
        let [low, high] = digits(&Digest::of(Algorithm::Sha256, name.as_bytes()));
        self.tag(low, high, NAME)
    }
}

/// The first 16 bytes.
#[inline]
fn digits(digest: &Digest) -> [u64; 2] {
    let bytes = digest.padded();
    [LittleEndian::read_u64(&bytes[..8]), LittleEndian::read_u64(&bytes[8..16])]
}

/// Two values out of 2^64 stand for something else; moving them costs nothing that can be measured: the branch is
/// foreseen, and what follows need not wait for it.
#[inline]
fn tag_of(sum: u128) -> u64 {
    let tag = (sum >> 64) as u64;
    if tag < TAG_MIN {
        cold_path();
        return TAG_MIN;
    }
    tag
}

fn product(coefficient: &u128, digit: u64) -> u128 {
    coefficient.wrapping_mul(u128::from(digit))
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

    #[test]
    fn wide_digits_are_a_case_of_narrow_ones() {
        let mut random = [0; 112];
        for (at, byte) in random.iter_mut().enumerate() {
            *byte = u8::try_from(at * 89 % 241).unwrap();
        }
        let secret = Tagger::secret(random);
        // Two of the seven coefficients follow from others.
        for kept in [0..32, 48..64, 80..112] {
            assert_eq!(secret[kept.clone()], random[kept]);
        }
        let wide = Tagger::new(&secret);
        let narrow = Tagger { has_wide_digits: false, ..wide.clone() };
        assert!(wide.has_wide_digits && !Tagger::new(&random).has_wide_digits);
        for text in ["", "x", "blob"] {
            let digest = Digest::of(Algorithm::Sha512, text.as_bytes());
            assert_eq!(wide.of_blob(&digest), narrow.of_blob(&digest));
            assert_eq!(wide.of_name(text), narrow.of_name(text));
            let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
            assert_eq!(wide.of_sha256_if_wide(&digest), narrow.of_blob(&digest));
        }
        let (from, to) = (Offset(0x1234_5678_9abc), Offset(u64::MAX));
        assert_eq!(wide.of_link(from, to), narrow.of_link(from, to));
    }
}
