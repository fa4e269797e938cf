//! What the service asks about evidence, and what it is told.
//!
//! Owns the question and the forms of the answer. Whoever brings the answer (`tenure attest serve`) has policy,
//! reference values and roots of trust; the service has none of these.

use std::collections::BTreeSet;

use attest::UnixTime;
use attest::ear::TrustVector;
use attest::snp::Tier;
use kbs_types::Tee;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::evidence::Evidence;
use crate::protocol::resource::ResourceName;

/// Judges evidence.
pub trait Appraiser: Send + Sync + 'static {
    /// Which technologies' evidence it can judge.
    fn judges(&self, tee: Tee) -> bool;

    /// What names everything that its verdicts depend on: policy, reference values, roots. A token says under which it
    /// was given, and is worth nothing under another.
    fn policy_id(&self) -> &str;

    /// What evidence is worth at this moment, if it must have these bytes in it.
    fn appraise(&self, evidence: &Evidence, report_data: &[u8; 64], now: UnixTime) -> Verdict;
}

/// What evidence is worth.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Hardware vouches for it, and it is what is wanted.
    Affirmed(Granted),
    /// It is what is wanted, below a test's root.
    TestPassed(Granted),
    /// It is what it says, and not what is wanted.
    NotMet(Refused),
    /// It is worth nothing.
    Rejected(Refused),
}

/// What a good verdict brings.
#[derive(Clone, Debug)]
pub struct Granted {
    /// What is claimed of it.
    pub vector: TrustVector,
    /// What the evidence says, for the token.
    pub claims: Value,
    /// What may be released.
    pub release: Release,
}

/// What a bad verdict says.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Names of the checks that failed.
    pub failed: Vec<String>,
    /// `software-test`, if a test's root was allowed in this.
    pub label: Option<&'static str>,
}

/// Which resources may be released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Release {
    /// All there are.
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl Release {
    /// Whether this one may be.
    #[must_use]
    pub fn allows(&self, name: &ResourceName) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name.as_str()),
        }
    }
}

impl Verdict {
    /// What vouches for what was granted.
    pub(crate) fn granted(self) -> Result<(Tier, Granted), (&'static str, Refused)> {
        match self {
            Self::Affirmed(granted) => Ok((Tier::Hardware, granted)),
            Self::TestPassed(granted) => Ok((Tier::SoftwareTest, granted)),
            Self::NotMet(refused) => Err(("not-met", refused)),
            Self::Rejected(refused) => Err(("rejected", refused)),
        }
    }
}
