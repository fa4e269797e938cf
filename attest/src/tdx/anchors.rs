//! The roots of trust that quotes may rest on.
//!
//! Owns Intel's root and what it signed for every platform, which are part of this crate (`roots/intel`), and that one for
//! tests is another value. Law no-silent-trust: a software root of trust can never pass for hardware.

use core::fmt;

use crate::anchors::{AnchorError, Root};

const INTEL: &[u8] = include_bytes!("../../roots/intel/sgx-root-ca.der");
/// Who issues platforms' certificates, of one processor package and of several, and who signs statements about them.
const KNOWN: [&[u8]; 3] = [
    include_bytes!("../../roots/intel/pck-processor-ca.der"),
    include_bytes!("../../roots/intel/pck-platform-ca.der"),
    include_bytes!("../../roots/intel/tcb-signing-2025.der"),
];

/// The root of trust that a quote rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// Intel's root, which is part of this crate.
    Intel,
    /// A root of somebody's, for tests, that the caller named in place of Intel's. No hardware vouches for anything.
    Test,
}

/// Roots that may be relied on.
pub type Anchors = crate::anchors::Anchors<Anchor>;

impl Anchor {
    /// Whether hardware vouches for the evidence.
    #[must_use]
    pub const fn is_hardware(self) -> bool {
        match self {
            Self::Intel => true,
            Self::Test => false,
        }
    }
}

impl Root for Anchor {
    fn is_hardware(self) -> bool {
        self.is_hardware()
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intel => f.write_str("Intel's root"),
            Self::Test => f.write_str("a TEST root in place of Intel's"),
        }
    }
}

impl Anchors {
    /// Intel's root.
    #[must_use]
    pub fn intel() -> Self {
        Self::embedded([(Anchor::Intel, INTEL)])
    }

    /// These, and that Intel's root, if it is among these, signed the certificates of PCK CAs and of who signs TCB info that
    /// are part of this crate: their signatures are not checked again. Every other certificate's is, and of these
    /// everything else. What was not checked again is said by the checks of these signatures.
    #[must_use]
    pub fn with_known_intermediates(self) -> Self {
        self.with_known(KNOWN.map(|certificate| (Anchor::Intel, certificate)))
    }

    /// These, and a root for tests in place of Intel's. What rests on it is [`Anchor::Test`] for ever.
    pub fn with_test_root(self, certificate: &[u8]) -> Result<Self, AnchorError> {
        self.with_test(Anchor::Test, certificate, [INTEL])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::Certificate;

    /// What is not checked for every quote is checked here.
    #[test]
    fn known_certificates_are_signed_by_intels_root() {
        let root = Certificate::parse(INTEL).unwrap();
        assert!(root.is_signed_by(&root).is_ok());
        let names = ["Intel SGX PCK Processor CA", "Intel SGX PCK Platform CA", "Intel SGX TCB Signing"];
        for (der, name) in KNOWN.into_iter().zip(names) {
            let certificate = Certificate::parse(der).unwrap();
            assert!(certificate.is_signed_by(&root).is_ok() && certificate.issuer() == root.subject(), "{name}");
            assert_eq!(certificate.common_name().as_deref(), Some(name));
            let anchors = Anchors::intel().with_known_intermediates();
            assert_eq!(anchors.knows(der), Some(Anchor::Intel));
            assert_eq!(anchors.knows(&der[..der.len() - 1]), None);
            assert_eq!(Anchors::intel().knows(der), None, "only who asks for it");
            assert_eq!(Anchors::none().with_known_intermediates().knows(der), None, "only below its root");
        }
    }
}
