//! ECDSA on P-256 with SHA-256, in the forms of quotes, statements and certificates.

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};

use crate::chip::Seed;

/// Bytes of x and y, and of r and s, each big-endian.
pub(super) const PAIR_BYTES: usize = 64;

/// A P-256 key pair.
#[derive(Clone)]
pub(super) struct KeyPair(SigningKey);

impl KeyPair {
    /// The key that a seed has under this label.
    pub(super) fn derive(seed: &Seed, label: &str) -> KeyPair {
        // Of 2^256 numbers all but one in 2^32 are keys, so the first attempt is nearly always the last.
        let mut attempt = 0u8;
        loop {
            if let Ok(key) = SigningKey::from_bytes(&seed.derive(label, &[&[attempt]]).into()) {
                return KeyPair(key);
            }
            attempt = attempt.wrapping_add(1);
        }
    }

    /// The public key as a point, uncompressed (SEC 1).
    pub(super) fn public_point(&self) -> Vec<u8> {
        self.0.verifying_key().to_encoded_point(false).as_bytes().to_vec()
    }

    /// Signs, as r and s. The same data give the same signature (RFC 6979).
    pub(super) fn sign(&self, data: &[u8]) -> [u8; PAIR_BYTES] {
        let signature: Signature = self.0.sign(data);
        signature.to_bytes().into()
    }

    /// Signs, in DER.
    pub(super) fn sign_der(&self, data: &[u8]) -> Vec<u8> {
        let signature: Signature = self.0.sign(data);
        signature.to_der().as_bytes().to_vec()
    }
}
