//! Lists of revoked certificates in files, as AMD's and Intel's services and caches serve them.
//!
//! Owns the files' forms: DER, PEM, or the hexadecimal digits of DER. What a list says, and whose it is, is [`attest`]'s to
//! find out.

use attest::pem::{self, PemError};

use crate::idblock::{IdBlockError, Source};

/// More than any list.
const MOST: u64 = 1 << 24;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum ListFileError {
    /// A file.
    #[error(transparent)]
    Read(#[from] IdBlockError),
    /// Something else in PEM.
    #[error("{what} {from}: no list of revoked certificates in PEM: {source}")]
    Pem {
        /// The setting.
        what: &'static str,
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: PemError,
    },
}

/// A list in DER, whichever form it has in its file.
pub fn read(what: &'static str, from: &Source) -> Result<Vec<u8>, ListFileError> {
    let bytes = from.read(what, MOST)?;
    if pem::is_pem(&bytes) {
        let one = |blocks: Vec<Vec<u8>>| {
            let found = blocks.len();
            blocks.into_iter().next().ok_or(PemError::Count { found, wanted: 1 })
        };
        let list = pem::blocks(&bytes, pem::CRL, 1).and_then(one);
        return list.map_err(|source| ListFileError::Pem { what, from: from.clone(), source });
    }
    // DER is no text: its second byte is no digit.
    let digits = std::str::from_utf8(&bytes).ok().and_then(|text| unhex(text.trim()));
    Ok(digits.unwrap_or(bytes))
}

/// Bytes of pairs of hexadecimal digits.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let byte = |[high, low]: [u8; 2]| {
        let [high, low] = [high, low].map(|digit| char::from(digit).to_digit(16));
        u8::try_from(high? << 4 | low?).ok()
    };
    pairs.iter().copied().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_in_pairs() {
        assert_eq!(unhex("0aFf"), Some(vec![0x0a, 0xff]));
        assert_eq!(unhex(""), Some(vec![]));
        for text in ["0", "0g", "+0", "é"] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }
}
