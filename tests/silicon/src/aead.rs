//! AES-256-GCM, as the firmware uses it.
//!
//! Owns the two operations and nothing of when they are used. Specification: NIST SP 800-38D.

use aes_gcm::aead::AeadInPlace as _;
use aes_gcm::{Aes256Gcm, KeyInit as _};

/// Bytes of an authentication tag.
pub(crate) const TAG_BYTES: usize = 16;

/// A text or what goes with it was changed, or the key is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text does not authenticate")]
pub(crate) struct Unauthentic;

/// Encrypts in place and gives the tag.
pub(crate) fn seal(key: &[u8; 32], iv: [u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
    let sealed = Aes256Gcm::new(&(*key).into()).encrypt_in_place_detached(&iv.into(), aad, text);
    // Fails for texts of 64 GiB and more only.
    sealed.map_or([0; TAG_BYTES], Into::into)
}

/// Decrypts in place, if the tag is right.
pub(crate) fn open(
    key: &[u8; 32],
    iv: [u8; 12],
    aad: &[u8],
    text: &mut [u8],
    tag: [u8; TAG_BYTES],
) -> Result<(), Unauthentic> {
    let cipher = Aes256Gcm::new(&(*key).into());
    cipher.decrypt_in_place_detached(&iv.into(), aad, text, &tag.into()).map_err(|_| Unauthentic)
}
