//! Lists of revoked certificates in files, as AMD's and Intel's services and caches serve them.
//!
//! Owns the files' forms: DER, PEM, or the hexadecimal digits of DER. What a list says, and whose it is, is [`attest`]'s to
//! find out.

use attest::pem::{self, PemError};
use snp::hex;

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
    let digits = std::str::from_utf8(&bytes).ok().and_then(|text| hex::parse_up_to(text.trim(), bytes.len()).ok());
    Ok(digits.unwrap_or(bytes))
}
