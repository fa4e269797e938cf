//! Verdicts, and what they rest on.
//!
//! Owns [`Verified`], which only verification makes: who has one knows that every check passed, and on which root that
//! rests. Which roots there are is each technology's own.

use core::fmt;

use crate::UnixTime;
use crate::anchors::Root;
use crate::check::{Checks, Fault, Horizon};

/// Something that can be verified.
pub trait Evidence {
    /// The root of trust that it can rest on: hardware's, or one for tests, which is another value.
    type Anchor: Root;
}

/// Evidence of which every check passed.
#[derive(Clone, Debug)]
pub struct Verified<T: Evidence> {
    evidence: T,
    anchor: T::Anchor,
    horizon: Horizon,
    checks: Checks,
}

impl<T: Evidence> Verified<T> {
    /// The verdict that these checks give. Without a root there is nothing to rest on.
    pub(crate) fn judge(
        evidence: T,
        anchor: Option<T::Anchor>,
        horizon: Horizon,
        checks: Checks,
    ) -> Result<Self, Rejected> {
        match anchor {
            Some(anchor) if !checks.iter().any(crate::check::Check::is_fatal) => {
                Ok(Self { evidence, anchor, horizon, checks })
            }
            _ => Err(Rejected { checks }),
        }
    }

    /// The evidence.
    pub const fn evidence(&self) -> &T {
        &self.evidence
    }

    /// What it rests on. Who cares for hardware must look: [`snp::Anchor::is_hardware`](crate::snp::Anchor::is_hardware),
    /// [`tdx::Anchor::is_hardware`](crate::tdx::Anchor::is_hardware).
    pub const fn anchor(&self) -> T::Anchor {
        self.anchor
    }

    /// The last moment at which everything that it rests on is good: certificates, lists of revoked ones, and what else
    /// was published with an end.
    pub const fn valid_until(&self) -> UnixTime {
        self.horizon.until
    }

    /// The number of the list of revoked certificates that was read under this check, if it has one.
    pub(crate) fn list_number(&self, check: &str) -> Option<u64> {
        self.horizon.list_number(check)
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
