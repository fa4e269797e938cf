//! The roots of trust that quotes may rest on.
//!
//! Owns Intel's root, which is part of this crate (`roots/intel`), and roots for tests, which are only there if the
//! caller gives them. An anchor is a whole certificate: its key decides, never its name, and never that it signed
//! itself. Law no-silent-trust: what came along with a quote or with collateral is no anchor.

use alloc::vec::Vec;

use crate::anchor::Anchor;
use crate::x509::{Certificate, CertificateError};

const INTEL: &[u8] = include_bytes!("../../roots/intel/sgx-root-ca.der");

/// Roots that may be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors(Vec<Root>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Root {
    anchor: Anchor,
    certificate: Vec<u8>,
}

/// Why a certificate is no root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// No certificate.
    #[error("the test root is no certificate of an authority: {0}")]
    Certificate(#[from] CertificateError),
    /// It did not sign itself, so it is no root.
    #[error("the test root is not signed by itself: {0}")]
    NotSelfSigned(CertificateError),
    /// It is Intel's, and nothing that rests on it is a test's.
    #[error("the test root is Intel's own")]
    Intel,
}

impl Anchors {
    /// No roots at all: nothing can be verified.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Intel's root.
    #[must_use]
    pub fn intel() -> Self {
        Self([Root { anchor: Anchor::Intel, certificate: INTEL.into() }].into())
    }

    /// These, and a root for tests in place of Intel's. What rests on it is [`Anchor::TestTdx`] for ever.
    pub fn with_test_root(mut self, certificate: &[u8]) -> Result<Self, AnchorError> {
        let parsed = Certificate::parse(certificate)?;
        parsed.authority()?;
        parsed.is_signed_by(&parsed).map_err(AnchorError::NotSelfSigned)?;
        if Certificate::parse(INTEL)?.key() == parsed.key() {
            return Err(AnchorError::Intel);
        }
        self.0.push(Root { anchor: Anchor::TestTdx, certificate: certificate.into() });
        Ok(self)
    }

    /// Whom each stands for.
    pub fn iter(&self) -> impl Iterator<Item = Anchor> {
        self.0.iter().map(|root| root.anchor)
    }

    /// Each with its certificate. That the embedded one can be read, a test says.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = (Anchor, Certificate<'_>)> {
        self.0.iter().filter_map(|root| Some((root.anchor, Certificate::parse(&root.certificate).ok()?)))
    }
}
