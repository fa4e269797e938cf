//! Certificates of a report in files of their own, as AMD serves them, beside the table that a guest gets.
//!
//! Owns the files' forms: DER, or PEM. What the certificates say, and which of them is what, is [`attest`]'s to find out.

use attest::pem::{self, PemError};
use attest::snp::Endorsements;

use super::MOST;
use crate::idblock::{IdBlockError, Source};

/// Certificates in DER.
#[derive(Debug, Default)]
pub struct Certificates {
    key: Option<Vec<u8>>,
    intermediate: Option<Vec<u8>>,
    root: Option<Vec<u8>>,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFileError {
    /// A file.
    #[error(transparent)]
    Read(#[from] IdBlockError),
    /// Something else in PEM.
    #[error("{what} {from}: {source}")]
    Pem {
        /// The setting.
        what: &'static str,
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: PemError,
    },
}

impl Certificates {
    /// Reads the certificate of the key that signed, and the chain: who issued it, and in PEM also the root after that.
    pub fn read(key: Option<&Source>, chain: Option<&Source>) -> Result<Self, CertificateFileError> {
        let key = key.map(|from| read("vek", from, 1)).transpose()?;
        let chain = chain.map(|from| read("chain", from, 2)).transpose()?;
        let mut chain = chain.into_iter().flatten();
        Ok(Self { key: key.and_then(|all| all.into_iter().next()), intermediate: chain.next(), root: chain.next() })
    }

    /// These, and the others for what isn't among them.
    pub(super) fn over<'a>(&'a self, others: Endorsements<'a>) -> Endorsements<'a> {
        // A key's certificate is a chip's or a provider's, as the report says.
        Endorsements {
            vcek: self.key.as_deref().or(others.vcek),
            vlek: self.key.as_deref().or(others.vlek),
            intermediate: self.intermediate.as_deref().or(others.intermediate),
            ark: self.root.as_deref().or(others.ark),
            ..others
        }
    }
}

/// At least one certificate: one in DER, or up to so many in PEM.
fn read(what: &'static str, from: &Source, most: usize) -> Result<Vec<Vec<u8>>, CertificateFileError> {
    let bytes = from.read(what, MOST)?;
    if !pem::is_pem(&bytes) {
        return Ok(vec![bytes]);
    }
    pem::blocks(&bytes, pem::CERTIFICATE, most).map_err(|source| CertificateFileError::Pem {
        what,
        from: from.clone(),
        source,
    })
}
