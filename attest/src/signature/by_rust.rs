//! By crates that need nothing but Rust.

use p256::ecdsa::signature::Verifier as _;
use rsa::{Pss, RsaPublicKey};
use sha2::{Digest as _, Sha384};

/// As many bytes of salt as the hash has.
const SALT_BYTES: usize = 48;

/// With SHA-384, as AMD's authorities sign certificates and lists.
pub(crate) fn rsa_pss(key: &RsaPublicKey, bytes: &[u8], signature: &[u8]) -> bool {
    let scheme = Pss::new_with_salt::<rsa::sha2::Sha384>(SALT_BYTES);
    key.verify(scheme, &Sha384::digest(bytes), signature).is_ok()
}

/// A key on P-256.
pub(crate) type P256Key = p256::ecdsa::VerifyingKey;

/// With SHA-256, as Intel and its platforms sign everything.
pub(crate) fn ecdsa_p256(key: &P256Key, bytes: &[u8], signature: &p256::ecdsa::Signature) -> bool {
    key.verify(bytes, signature).is_ok()
}

/// With SHA-384, as AMD's chips sign reports.
pub(crate) fn ecdsa_p384(key: &p384::ecdsa::VerifyingKey, bytes: &[u8], signature: &p384::ecdsa::Signature) -> bool {
    key.verify(bytes, signature).is_ok()
}
