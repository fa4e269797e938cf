//! Signatures on P-256 with SHA-256, as Intel and its platforms sign.
//!
//! Owns whether a key signed something; a quote has nine such signatures to check, and they are most of what that takes.
//! With the feature `ring` that crate computes it, in assembly; otherwise `p256`, which needs nothing but Rust. Which bytes
//! are a key and which a signature, `p256` says in either case. A test compares both.
//!
//! Specification: FIPS 186-5, section 6.4.2.

use p256::ecdsa::{Signature, VerifyingKey};

/// Whether this key signed these bytes.
#[cfg(feature = "ring")]
pub(crate) use by_ring as is_signed;

/// Whether this key signed these bytes.
#[cfg(not(feature = "ring"))]
pub(crate) use by_p256 as is_signed;

#[cfg(any(test, not(feature = "ring")))]
pub(crate) fn by_p256(key: &VerifyingKey, bytes: &[u8], signature: &Signature) -> bool {
    use p256::ecdsa::signature::Verifier as _;

    key.verify(bytes, signature).is_ok()
}

#[cfg(any(test, feature = "ring"))]
pub(crate) fn by_ring(key: &VerifyingKey, bytes: &[u8], signature: &Signature) -> bool {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    let point = key.to_sec1_point(false);
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.as_bytes()).verify(bytes, &signature.to_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer as _;
    use proptest::prelude::*;

    use super::*;

    fn both(key: &VerifyingKey, bytes: &[u8], signature: &Signature) -> bool {
        let found = by_p256(key, bytes, signature);
        assert_eq!(by_ring(key, bytes, signature), found);
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// no-silent-trust: whoever computes it, the same signatures are good, and no others.
        #[test]
        fn no_silent_trust_both_find_the_same(
            secret in prop::array::uniform32(1_u8..),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            bit in 0_usize..512,
        ) {
            let key = SigningKey::from_slice(&secret);
            prop_assume!(key.is_ok());
            let key = key.unwrap();
            let signature: Signature = key.sign(&bytes);
            let public = key.verifying_key();
            prop_assert!(both(public, &bytes, &signature));
            // Of (r, s) and (r, -s) neither is better.
            let (r, s) = signature.split_scalars();
            prop_assert!(both(public, &bytes, &Signature::from_scalars(*r, -*s).unwrap()));
            prop_assert!(!both(public, &[&bytes[..], &[0]].concat(), &signature));
            let mut changed = signature.to_bytes();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(changed) = Signature::from_slice(&changed) {
                prop_assert!(!both(public, &bytes, &changed));
            }
            let other = SigningKey::from_slice(&[9; 32]).unwrap();
            prop_assert!(!both(other.verifying_key(), &bytes, &signature));
        }
    }
}
