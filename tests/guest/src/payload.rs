//! What a guest has on board and cannot read before somebody gives it the key.
//!
//! Owns its form: a nonce of 12 bytes, then the text under AES-256-GCM (NIST SP 800-38D), whose tag ends it. The key is 32
//! bytes, used for one payload only.

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};

/// Where a guest has it.
pub const PATH: &str = "/payload";
/// What its relying party calls the key.
pub const RESOURCE: &str = "default/disk/key";
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

const NONCE_BYTES: usize = 12;

/// Why a payload cannot be made or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// A key of another length.
    #[error("the key has {0} bytes, not {KEY_BYTES}")]
    Key(usize),
    /// Not as long as a nonce.
    #[error("the payload has {0} bytes, too few")]
    Short(usize),
    /// Another key, or the payload was changed.
    #[error("the payload does not open with this key")]
    Sealed,
}

/// Seals a text.
pub fn seal(key: &[u8], nonce: [u8; NONCE_BYTES], text: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let sealed = cipher(key)?.encrypt(&Nonce::from(nonce), text).map_err(|_| PayloadError::Sealed)?;
    Ok([&nonce[..], &sealed].concat())
}

/// Opens it again.
pub fn open(key: &[u8], payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let (nonce, sealed) = payload.split_first_chunk::<NONCE_BYTES>().ok_or(PayloadError::Short(payload.len()))?;
    cipher(key)?.decrypt(&Nonce::from(*nonce), sealed).map_err(|_| PayloadError::Sealed)
}

fn cipher(key: &[u8]) -> Result<Aes256Gcm, PayloadError> {
    Aes256Gcm::new_from_slice(key).map_err(|_| PayloadError::Key(key.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_key_opens_it() {
        let sealed = seal(&[7; 32], [1; 12], b"text").unwrap();
        assert_eq!(open(&[7; 32], &sealed).as_deref(), Ok(&b"text"[..]));
        assert_eq!(open(&[8; 32], &sealed), Err(PayloadError::Sealed));
        assert_eq!(open(&[7; 31], &sealed), Err(PayloadError::Key(31)));
        assert_eq!(open(&[7; 32], &sealed[..11]), Err(PayloadError::Short(11)));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&[7; 32], &changed), Err(PayloadError::Sealed), "byte {at}");
        }
    }
}
