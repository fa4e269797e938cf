//! The roots of trust that quotes may rest on.
//!
//! Owns Intel's root, which is part of this crate (`roots/intel`), and that one for tests is another value. Law
//! no-silent-trust: a software root of trust can never pass for hardware.

use core::fmt;

use crate::anchors::{AnchorError, Root};

const INTEL: &[u8] = include_bytes!("../../roots/intel/sgx-root-ca.der");

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

    /// These, and a root for tests in place of Intel's. What rests on it is [`Anchor::Test`] for ever.
    pub fn with_test_root(self, certificate: &[u8]) -> Result<Self, AnchorError> {
        self.with_test(Anchor::Test, certificate, [INTEL])
    }
}
