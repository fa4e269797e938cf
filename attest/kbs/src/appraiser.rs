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

/// Names that a refusal tells.
const NAMES_MOST: usize = 128;
/// Characters of each.
const NAME_MOST: usize = 256;

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
    /// The last moment of the verdict: what it rests on ends then.
    pub valid_until: UnixTime,
}

/// What a bad verdict says.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Names of the checks that failed.
    pub failed: Vec<String>,
    /// `software-test`, if a test's root was allowed in this.
    pub label: Option<&'static str>,
}

impl Refused {
    /// No longer than anybody reads: names can be of the guest's making, and get into logs.
    pub(crate) fn in_short(mut self) -> Self {
        self.failed.truncate(NAMES_MOST);
        for name in &mut self.failed {
            if let Some((end, _)) = name.char_indices().nth(NAME_MOST) {
                name.truncate(end);
            }
        }
        self
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// no-silent-trust: nobody fills a log with what he calls things.
    #[test]
    fn no_silent_trust_refusals_are_short() {
        let refused = Refused { failed: vec!["ä".repeat(1000); 1000], label: None }.in_short();
        assert_eq!((refused.failed.len(), &refused.failed[0]), (NAMES_MOST, &"ä".repeat(NAME_MOST)));
        let few = Refused { failed: vec!["report.signature".into()], label: None }.in_short();
        assert_eq!(few.failed, ["report.signature"]);
    }
}
