//! The roots of trust that evidence may rest on.
//!
//! Owns the set of them, and what a root for tests must be. An anchor is a whole certificate: its key decides, never its
//! name, and never that it signed itself. Law no-silent-trust: what came along with evidence is no anchor. Which roots there
//! are is each technology's own ([`crate::snp::Anchor`], [`crate::tdx::Anchor`]).
//!
//! Certificates that a root signed can be known, too: whoever brings one of them, byte for byte, is spared the check of
//! a signature that a test has checked. Nothing rests on them that would not rest on their root.

use alloc::vec::Vec;
use core::fmt;

use crate::x509::{Certificate, CertificateError};

/// What is found of the signature of a certificate that is known.
pub(crate) const KNOWN: &str = "by it, as is known: the certificate is one that is part of this program";

/// A root of trust: a vendor's, or one for tests, which is another value.
pub trait Root: Copy + fmt::Debug + fmt::Display {
    /// Whether hardware vouches for what rests on it.
    fn is_hardware(self) -> bool;
}

/// Roots that may be relied on, each with whom it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors<A> {
    roots: Vec<(A, Vec<u8>)>,
    /// What some of them signed.
    known: Vec<(A, &'static [u8])>,
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
    /// It is a vendor's, and nothing that rests on it is a test's.
    #[error("the test root is hardware's own")]
    Hardware,
}

impl<A: Copy> Anchors<A> {
    /// No roots at all: nothing can be verified.
    #[must_use]
    pub const fn none() -> Self {
        Self { roots: Vec::new(), known: Vec::new() }
    }

    /// Roots that are part of this crate.
    pub(crate) fn embedded(roots: impl IntoIterator<Item = (A, &'static [u8])>) -> Self {
        let roots = roots.into_iter().map(|(anchor, certificate)| (anchor, certificate.into())).collect();
        Self { roots, known: Vec::new() }
    }

    /// These, and certificates that are part of this crate: those of them count whose root is among these.
    pub(crate) fn with_known(mut self, certificates: impl IntoIterator<Item = (A, &'static [u8])>) -> Self
    where
        A: PartialEq,
    {
        let roots = &self.roots;
        let is_there = |anchor: &A| roots.iter().any(|(of, _)| of == anchor);
        self.known = certificates.into_iter().filter(|(anchor, _)| is_there(anchor)).collect();
        self
    }

    /// Whose root is known to have signed this certificate. Of nothing else than the very bytes is that known.
    pub(crate) fn knows(&self, certificate: &[u8]) -> Option<A> {
        self.known.iter().find(|(_, known)| *known == certificate).map(|(anchor, _)| *anchor)
    }

    /// These, and a root for tests. Whatever rests on it rests on `anchor`.
    pub(crate) fn with_test(
        mut self,
        anchor: A,
        certificate: &[u8],
        hardware: impl IntoIterator<Item = &'static [u8]>,
    ) -> Result<Self, AnchorError> {
        let parsed = Certificate::parse(certificate)?;
        parsed.authority()?;
        parsed.is_signed_by(&parsed).map_err(AnchorError::NotSelfSigned)?;
        for vendors in hardware {
            if Certificate::parse(vendors)?.key() == parsed.key() {
                return Err(AnchorError::Hardware);
            }
        }
        self.roots.push((anchor, certificate.into()));
        Ok(self)
    }

    /// Whom each stands for.
    pub fn iter(&self) -> impl Iterator<Item = A> {
        self.roots.iter().map(|(anchor, _)| *anchor)
    }

    /// Each with its certificate. That the embedded ones can be read, a test says.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = (A, Certificate<'_>)> {
        self.roots.iter().filter_map(|(anchor, certificate)| Some((*anchor, Certificate::parse(certificate).ok()?)))
    }
}
