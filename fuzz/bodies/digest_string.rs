//! Any text as a digest: there is one spelling of each, and what is refused is named.

use blobpack::{Algorithm, Digest, Error};

/// The input is the text.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match text.parse::<Algorithm>() {
        Ok(algorithm) => assert_eq!(algorithm.to_string(), text),
        Err(error) => assert!(matches!(error, Error::UnsupportedAlgorithm { .. }), "{error}"),
    }
    match text.parse::<Digest>() {
        Ok(digest) => {
            assert_eq!(digest.to_string(), text);
            assert_eq!(digest.as_bytes().len(), digest.algorithm().digest_bytes());
            assert_eq!(Digest::from_bytes(digest.algorithm(), digest.as_bytes()), Some(digest));
            assert!(text[..text.len() - 1].parse::<Digest>().is_err(), "a digit less is no digest");
            assert!(format!("{text}0").parse::<Digest>().is_err(), "a digit more is no digest");
            assert!(text.to_uppercase().parse::<Digest>().is_err(), "upper case is no digest");
        }
        Err(error) => {
            assert!(matches!(error, Error::InvalidDigest { .. } | Error::UnsupportedAlgorithm { .. }), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
