//! Certificates for what this platform signs: of which authorities, and what they say of its keys.
//!
//! Owns the fixed authorities of each product, whose keys are public (`keys/README.md`), and the choice between them and
//! those that a configuration names. Does not own how certificates are made: that is `test-root`'s, the one signer there is
//! for software.

use std::sync::Arc;
use std::time::Duration;

pub use test_root::chain::{Authority, CertificateTable, ChainError, HwidForm, VekSubject};

use crate::model::Model;
use crate::platform::Platform;
use crate::psp::Psp;
use crate::report::EndorsementKey;

/// When the fixed authorities' certificates begin: 2026-01-01.
pub const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// Why a platform has no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// They cannot be made.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The platform has no such key, for instance because no VLEK is loaded.
    #[error("the platform has no {0:?}")]
    NoKey(EndorsementKey),
    /// Its authorities are another product's.
    #[error("the authorities are {}'s, the platform is a {}", authority.name(), platform.name())]
    Product {
        /// The platform's product.
        platform: Model,
        /// The authorities'.
        authority: Model,
    },
}

/// The fixed authorities of a product.
pub fn authority(model: Model) -> Result<Authority, ChainError> {
    let keys: [&[u8]; 3] = match model {
        Model::Milan => [
            include_bytes!("../keys/milan-ark.key.der"),
            include_bytes!("../keys/milan-ask.key.der"),
            include_bytes!("../keys/milan-asvk.key.der"),
        ],
        Model::Genoa => [
            include_bytes!("../keys/genoa-ark.key.der"),
            include_bytes!("../keys/genoa-ask.key.der"),
            include_bytes!("../keys/genoa-asvk.key.der"),
        ],
        Model::Turin => [
            include_bytes!("../keys/turin-ark.key.der"),
            include_bytes!("../keys/turin-ask.key.der"),
            include_bytes!("../keys/turin-asvk.key.der"),
        ],
    };
    Authority::from_pkcs8(model, keys, EPOCH)
}

impl Psp {
    /// What the certificate of this platform's key has to say, with a provider's name and a beginning to choose.
    pub fn vek_subject(&self, kind: EndorsementKey) -> Result<VekSubject, CertificateError> {
        let key = self.endorsement_key(kind).map_err(|_| CertificateError::NoKey(kind))?;
        Ok(VekSubject {
            kind,
            public_point: key.public_point(),
            tcb: self.reported_tcb,
            chip_id: self.chip_id(),
            hwid_form: HwidForm::default(),
            csp_id: "TEST-CSP".into(),
            not_before: self.config.authority.as_ref().map_or(EPOCH, |authority| authority.not_before()),
        })
    }
}

impl Platform {
    /// The certificates for what this platform signs with this kind of key now.
    pub fn certificates(&self, kind: EndorsementKey) -> Result<CertificateTable, CertificateError> {
        let (config, subject) = self.inspect(|_, psp| (psp.config().clone(), psp.vek_subject(kind)));
        let authority = match config.authority {
            Some(authority) => authority,
            None => Arc::new(authority(config.model)?),
        };
        if authority.model() != config.model {
            return Err(CertificateError::Product { platform: config.model, authority: authority.model() });
        }
        Ok(CertificateTable::issue(&authority, &subject?)?)
    }
}

#[cfg(test)]
mod tests;
