//! What a relying party thinks of TDX quotes.
//!
//! Owns the wishes of one service about them. What Intel publishes goes
//! out of date while a service runs, so its files are read again for every quote; nothing that a guest sends stands in for
//! them. Files that cannot be read refuse a quote, and the log says why.

use attest::UnixTime;
use attest::check::Fault;
use attest::tdx::{Allowance, Anchors, Policy, ReferenceValues};
use attest_kbs::appraiser::{Refused, Release, Verdict};

use super::{Parts, rejected, verdict};
use crate::evidence::policy::tdx::TdxOnly;
use crate::evidence::tdx::QuoteEvidence;
use crate::evidence::tdx::collateral::{CollateralFiles, CollateralPlace};
use crate::evidence::verdict::VerdictReport;
use crate::evidence::{Judged, trust};

/// What is wanted of TDX guests.
#[derive(Debug)]
pub struct TdxWishes {
    /// Roots, that of `test` among them.
    pub anchors: Anchors,
    /// A root for tests in place of Intel's, in DER, if one is allowed.
    pub test: Option<Vec<u8>>,
    /// What is wanted of any guest.
    pub policy: Policy,
    /// What is known of this one.
    pub references: ReferenceValues,
    /// Where that is what Intel publishes.
    pub collateral: CollateralPlace,
    /// What was there when the service began.
    pub at_first: CollateralFiles,
}

impl TdxWishes {
    pub(super) fn label(&self) -> Option<&'static str> {
        super::label(self.test.is_some())
    }

    /// Whether it is said which guest it must be, or that it may be any; nothing else passes `reference.guest`.
    pub(super) fn name_a_guest(&self) -> bool {
        !self.references.mr_tds.is_empty() || self.policy.allows(Allowance::AnyGuest)
    }

    /// All that verdicts depend on but the day, and what is published later.
    pub(super) fn parts(&self, to: &mut Parts) {
        to.add(format!("{:?}", TdxOnly::from(&self.policy)).as_bytes());
        to.add(format!("{:?}", self.references).as_bytes());
        to.add(self.test.as_deref().unwrap_or_default());
        to.add(format!("{:?}", self.at_first.borrowed()).as_bytes());
    }

    pub(super) fn appraise(
        &self,
        (quote, event_log): (&[u8], Option<&[u8]>),
        report_data: &[u8; 64],
        release: &Release,
        now: UnixTime,
    ) -> Verdict {
        let collateral = match self.collateral.read() {
            Ok(collateral) => collateral,
            Err(error) => {
                tracing::error!(%error, "no quote can be judged");
                return rejected("collateral.files", self.label());
            }
        };
        let evidence = QuoteEvidence::of_bytes(quote.to_vec(), collateral, event_log.map(<[u8]>::to_vec));
        let references = ReferenceValues { report_data: Some(*report_data), ..self.references.clone() };
        let judged = evidence.judge(&self.anchors, &self.policy, &references, now);
        let said = VerdictReport::of_quote(&evidence, &judged, now, self.label());
        if judged.fault() == Some(Fault::Collateral) {
            tracing::warn!(failed = said.failed.join(", "), "collateral is missing or out of date");
        }
        let refused = || Refused { failed: said.failed.iter().map(|name| (*name).into()).collect(), label: said.label };
        match &judged {
            Judged::Rejected(_) => Verdict::Rejected(refused()),
            Judged::Verified(verified, appraisal) => {
                let vector = || trust::of_quote(verified, &references);
                let claims = || serde_json::json!({ "tee": "tdx", "claims": said.said.without_log() });
                verdict(appraisal, || (vector(), claims(), release.clone()), refused)
            }
        }
    }
}
