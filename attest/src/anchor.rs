//! Verdicts, and what they rest on.
//!
//! Owns [`Verified`], which only verification makes: who has one knows that every check passed, and under which kind of
//! root. Law no-silent-trust: a software root of trust is another value than hardware's, so it can never pass for that.

use core::fmt;

use crate::check::{Checks, Fault};
use crate::snp::Product;

/// The root of trust that evidence rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// AMD's root of this product, which is part of this crate.
    Amd(Product),
    /// A root of somebody's, for tests, that the caller named for a platform like this product. No hardware vouches for
    /// anything.
    Test(Product),
}

impl Anchor {
    /// Whether hardware vouches for the evidence.
    #[must_use]
    pub const fn is_hardware(self) -> bool {
        match self {
            Self::Amd(_) => true,
            Self::Test(_) => false,
        }
    }

    /// The product whose root it is, or for which it stands.
    #[must_use]
    pub const fn product(self) -> Product {
        match self {
            Self::Amd(product) | Self::Test(product) => product,
        }
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amd(product) => write!(f, "AMD's root of {product}"),
            Self::Test(product) => write!(f, "a TEST root in place of {product}'s"),
        }
    }
}

/// Evidence of which every check passed.
#[derive(Clone, Debug)]
pub struct Verified<T> {
    evidence: T,
    anchor: Anchor,
    checks: Checks,
}

impl<T> Verified<T> {
    /// The verdict that these checks give. Without a root there is nothing to rest on.
    pub(crate) fn judge(evidence: T, anchor: Option<Anchor>, checks: Checks) -> Result<Self, Rejected> {
        match anchor {
            Some(anchor) if !checks.iter().any(crate::check::Check::is_fatal) => Ok(Self { evidence, anchor, checks }),
            _ => Err(Rejected { checks }),
        }
    }

    /// The evidence.
    pub const fn evidence(&self) -> &T {
        &self.evidence
    }

    /// What it rests on. Who cares for hardware must look: [`Anchor::is_hardware`].
    pub const fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// What was checked, and what could not be.
    pub const fn checks(&self) -> &Checks {
        &self.checks
    }
}

/// Evidence that is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    checks: Checks,
}

impl Rejected {
    pub(crate) const fn new(checks: Checks) -> Self {
        Self { checks }
    }

    /// What was checked: failures and the rest.
    #[must_use]
    pub const fn checks(&self) -> &Checks {
        &self.checks
    }

    /// What the failures mean together.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.checks.fault().unwrap_or(Fault::Evidence)
    }
}

impl fmt::Display for Rejected {
    /// What failed, joined by semicolons.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("evidence is rejected")?;
        for (index, check) in self.checks.failed().enumerate() {
            write!(f, "{} {check}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl core::error::Error for Rejected {}
