//! The roots of trust that reports may rest on.
//!
//! Owns AMD's roots, which are part of this crate (`roots/amd`), and roots for tests, which are only there if the
//! caller gives them. An anchor is a whole certificate: its key decides, never its name, and never that it signed
//! itself. Law no-silent-trust: what came along with a report is no anchor.

use alloc::vec::Vec;

use super::Product;
use crate::anchor::Anchor;
use crate::x509::{Certificate, CertificateError};

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
}

impl Anchors {
    /// No roots at all: nothing can be verified.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// AMD's roots of every product.
    #[must_use]
    pub fn amd() -> Self {
        Self(Product::ALL.map(Self::amd_root).into())
    }

    /// AMD's root of one product.
    #[must_use]
    pub fn amd_of(product: Product) -> Self {
        Self([Self::amd_root(product)].into())
    }

    /// These, and a root for tests in place of this product's. What rests on it is [`Anchor::Test`] for ever.
    pub fn with_test_root(mut self, product: Product, certificate: &[u8]) -> Result<Self, AnchorError> {
        let parsed = Certificate::parse(certificate)?;
        parsed.authority()?;
        parsed.is_signed_by(&parsed).map_err(AnchorError::NotSelfSigned)?;
        self.0.push(Root { anchor: Anchor::Test(product), certificate: certificate.into() });
        Ok(self)
    }

    fn amd_root(product: Product) -> Root {
        let certificate: &[u8] = match product {
            Product::Milan => include_bytes!("../../roots/amd/ark-milan.der"),
            Product::Genoa => include_bytes!("../../roots/amd/ark-genoa.der"),
            Product::Turin => include_bytes!("../../roots/amd/ark-turin.der"),
        };
        Root { anchor: Anchor::Amd(product), certificate: certificate.into() }
    }

    /// Whom each stands for.
    pub fn iter(&self) -> impl Iterator<Item = Anchor> {
        self.0.iter().map(|root| root.anchor)
    }

    /// Each with its certificate. That the embedded ones can be read, a test says.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = (Anchor, Certificate<'_>)> {
        self.0.iter().filter_map(|root| Some((root.anchor, Certificate::parse(&root.certificate).ok()?)))
    }
}
