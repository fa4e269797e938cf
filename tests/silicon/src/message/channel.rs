//! A guest's side of the messages, for tests.
//!
//! Written from the specification apart from the firmware's side: offsets stand here once more, as numbers, so that a
//! mistake in [`crate::message::header`] does not cancel itself.

use aes_gcm::aead::{Aead as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _};

use crate::units::Page;

/// A guest's end, at one privilege level.
#[derive(Clone, Debug)]
pub struct GuestChannel {
    vmpck: u8,
    key: [u8; 32],
    /// Numbers that were used.
    used: u64,
}

/// Why a response was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// It is the response to another request, or an old one.
    #[error("response has number {found}, expected {expected}")]
    Number {
        /// What came.
        found: u64,
        /// What was to come.
        expected: u64,
    },
    /// It is longer than its page.
    #[error("response says it has {0} bytes")]
    Size(usize),
    /// It was changed, or is not the PSP's.
    #[error("response does not authenticate")]
    Unauthentic,
}

impl GuestChannel {
    /// The guest's end for a level, with the key from its secrets page.
    pub fn new(vmpck: u8, key: [u8; 32]) -> GuestChannel {
        GuestChannel { vmpck, key, used: 0 }
    }

    /// A page with a request of this type. Until it is answered, the same number is used again: a guest must then send
    /// the same request, or none.
    pub fn request(&self, kind: u8, payload: &[u8]) -> Page {
        let mut page = [0; 4096];
        let sequence = self.used + 1;
        page[0x20..0x28].copy_from_slice(&sequence.to_le_bytes());
        page[0x30] = 1;
        page[0x31] = 1;
        page[0x32] = 0x60;
        page[0x34] = kind;
        page[0x35] = 1;
        let [low, high, ..] = payload.len().to_le_bytes();
        page[0x36] = low;
        page[0x37] = high;
        page[0x3c] = self.vmpck;
        let sealed = self.cipher().encrypt(&iv(sequence).into(), Payload { msg: payload, aad: &page[0x30..0x60] });
        let sealed = sealed.unwrap_or_default();
        let (text, tag) = sealed.split_at(payload.len().min(sealed.len()));
        page[..tag.len()].copy_from_slice(tag);
        page[0x60..0x60 + text.len()].copy_from_slice(text);
        page
    }

    /// Opens the response to the last request: its type and contents.
    pub fn response(&mut self, page: &Page) -> Result<(u8, Vec<u8>), ResponseError> {
        let expected = self.used + 2;
        let found = crate::bytes::take_u64(page, 0x20);
        if found != expected {
            return Err(ResponseError::Number { found, expected });
        }
        let size = usize::from(page[0x36]) | usize::from(page[0x37]) << 8;
        let text = page.get(0x60..0x60 + size).ok_or(ResponseError::Size(size))?;
        let sealed = [text, &page[..16]].concat();
        let opened = self.cipher().decrypt(&iv(found).into(), Payload { msg: &sealed, aad: &page[0x30..0x60] });
        let opened = opened.map_err(|_| ResponseError::Unauthentic)?;
        self.used = expected;
        Ok((page[0x34], opened))
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&self.key.into())
    }
}

fn iv(sequence: u64) -> [u8; 12] {
    let mut iv = [0; 12];
    iv[..8].copy_from_slice(&sequence.to_le_bytes());
    iv
}
