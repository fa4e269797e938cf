//! ECDSA on P-384 with SHA-384, in the little-endian form of AMD's structures.
//!
//! Owns the conversion: R and S of 72 bytes each, public keys of 1028. Specification: 56860, "ECDSA keys and
//! signatures" (curve 2 is P-384); ID_AUTH and ATTESTATION_REPORT use both.

use p384::ecdsa::signature::{Signer as _, Verifier as _};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use p384::{EncodedPoint, FieldBytes};

use crate::bytes::{all_zero, put, take, take_u32};
use crate::chip::Seed;

/// Bytes of a number on P-384.
const NUMBER: usize = 48;
/// Bytes of its field.
const FIELD: usize = 72;
/// Bytes of R and S.
pub const SIGNATURE_BYTES: usize = 2 * FIELD;
/// Bytes of a public key.
pub const PUBLIC_KEY_BYTES: usize = 1028;
/// The curve's number.
pub const CURVE_P384: u32 = 2;

/// A P-384 key pair.
#[derive(Clone, Debug)]
pub struct KeyPair(SigningKey);

/// Why bytes are no key or signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// Another curve.
    #[error("curve {0} is not P-384 (2)")]
    Curve(u32),
    /// Not a point of the curve, or reserved bytes are set.
    #[error("not a public key")]
    Key,
    /// R or S is out of range, or reserved bytes are set.
    #[error("not a signature")]
    Malformed,
    /// It is of other data, or by another key.
    #[error("the signature is not this key's over this data")]
    Wrong,
}

impl KeyPair {
    /// The key that a seed has under this label.
    pub fn derive(seed: &Seed, label: &str, parts: &[&[u8]]) -> KeyPair {
        // Of 2^384 numbers all but one in 2^190 are keys, so the first attempt is the last.
        let mut attempt = 0u8;
        loop {
            let number = seed.derive_48(label, &[parts, &[&[attempt]]].concat());
            if let Ok(key) = SigningKey::from_bytes(&number.into()) {
                return KeyPair(key);
            }
            attempt = attempt.wrapping_add(1);
        }
    }

    /// A key from bytes: what a guest's owner signs ID blocks with.
    pub fn from_seed(seed: [u8; 32]) -> KeyPair {
        KeyPair::derive(&Seed(seed), "key pair", &[])
    }

    /// The public key as a point, uncompressed (SEC 1).
    pub fn public_point(&self) -> Vec<u8> {
        self.0.verifying_key().to_encoded_point(false).as_bytes().to_vec()
    }

    /// The public key as AMD's structures have it.
    pub fn public_key(&self) -> [u8; PUBLIC_KEY_BYTES] {
        let point = self.0.verifying_key().to_encoded_point(false);
        let mut key = [0; PUBLIC_KEY_BYTES];
        put(&mut key, 0, &CURVE_P384.to_le_bytes());
        for (at, coordinate) in [(4, point.x()), (4 + FIELD, point.y())] {
            put(&mut key, at, &reversed(coordinate.map_or(&[], |number| &number[..])));
        }
        key
    }

    /// Signs.
    pub fn sign(&self, data: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature: Signature = self.0.sign(data);
        let (r, s) = signature.split_bytes();
        let mut field = [0; SIGNATURE_BYTES];
        put(&mut field, 0, &reversed(&r));
        put(&mut field, FIELD, &reversed(&s));
        field
    }
}

/// Checks a signature; `signature` begins with R and S, the rest must be zero.
pub fn verify(key: &[u8; PUBLIC_KEY_BYTES], data: &[u8], signature: &[u8]) -> Result<(), SigningError> {
    let curve = take_u32(key, 0);
    if curve != CURVE_P384 {
        return Err(SigningError::Curve(curve));
    }
    let [x, y] = [4, 4 + FIELD].map(|at| number(key, at).ok_or(SigningError::Key));
    if !all_zero(&key[4 + 2 * FIELD..]) {
        return Err(SigningError::Key);
    }
    let point = EncodedPoint::from_affine_coordinates(&x?, &y?, false);
    let key = VerifyingKey::from_encoded_point(&point).map_err(|_| SigningError::Key)?;
    let [r, s] = [0, FIELD].map(|at| number(signature, at).ok_or(SigningError::Malformed));
    if !signature.get(SIGNATURE_BYTES..).is_some_and(all_zero) {
        return Err(SigningError::Malformed);
    }
    let signature = Signature::from_scalars(r?, s?).map_err(|_| SigningError::Malformed)?;
    key.verify(data, &signature).map_err(|_| SigningError::Wrong)
}

/// A little-endian field as a big-endian number.
fn number(from: &[u8], at: usize) -> Option<FieldBytes> {
    let field: [u8; FIELD] = take(from, at);
    let mut number: [u8; NUMBER] = take(&field, 0);
    number.reverse();
    all_zero(&field[NUMBER..]).then(|| number.into())
}

fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_key_and_one_text() {
        let (key, other) = (KeyPair::from_seed([1; 32]), KeyPair::from_seed([2; 32]));
        let signature = key.sign(b"text");
        assert_eq!(verify(&key.public_key(), b"text", &signature), Ok(()));
        assert_eq!(verify(&key.public_key(), b"test", &signature), Err(SigningError::Wrong));
        assert_eq!(verify(&other.public_key(), b"text", &signature), Err(SigningError::Wrong));
    }

    #[test]
    fn malformed_keys_and_signatures_are_refused() {
        let key = KeyPair::from_seed([1; 32]);
        let (public, signature) = (key.public_key(), key.sign(b"text"));
        let with = |at: usize, byte: u8| {
            let mut changed = public;
            changed[at] = byte;
            verify(&changed, b"text", &signature)
        };
        assert_eq!(with(0, 1), Err(SigningError::Curve(1)));
        assert_eq!(with(4, public[4] ^ 1), Err(SigningError::Key), "no point of the curve");
        assert_eq!(with(1027, 1), Err(SigningError::Key), "reserved");
        assert_eq!(verify(&public, b"text", &[0; SIGNATURE_BYTES]), Err(SigningError::Malformed));
        let mut long = signature;
        long[71] = 1;
        assert_eq!(verify(&public, b"text", &long), Err(SigningError::Malformed));
        assert_eq!(verify(&public, b"text", &signature[..100]), Err(SigningError::Malformed));
    }
}
