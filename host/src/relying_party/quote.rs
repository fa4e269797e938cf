//! What a relying party thinks of TDX quotes.
//!
//! Owns the wishes of one service about them, and what its tokens claim of one that meets them. What Intel publishes goes
//! out of date while a service runs, so its files are read again for every quote; nothing that a guest sends stands in for
//! them. Files that cannot be read refuse a quote, and the log says why.

use attest::UnixTime;
use attest::check::Fault;
use attest::ear::{TrustClaim, TrustVector};
use attest::tdx::{Anchors, Endorsed, Policy, ReferenceValues, TcbStatus};
use attest_kbs::appraiser::{Refused, Release, Verdict};

use super::{Parts, claimed, rejected, verdict};
use crate::evidence::Judged;
use crate::evidence::policy::tdx::TdxOnly;
use crate::evidence::tdx::QuoteEvidence;
use crate::evidence::tdx::collateral::{CollateralFiles, CollateralPlace};
use crate::evidence::verdict::VerdictReport;

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
        let Ok(evidence) = evidence else { return rejected("evidence.event-log", self.label()) };
        let references = ReferenceValues { report_data: Some(*report_data), ..self.references.clone() };
        let judged = evidence.judge(&self.anchors, &self.policy, &references, now);
        let said = VerdictReport::of_quote(&evidence, &judged, now, self.label());
        if judged.fault() == Some(Fault::Collateral) {
            tracing::warn!(failed = said.failed.join(", "), "collateral is missing or out of date");
        }
        let refused = || Refused { failed: said.failed.iter().map(|name| (*name).into()).collect(), label: said.label };
        match &judged {
            Judged::Rejected(_) => Verdict::Rejected(refused()),
            Judged::Verified(_, appraisal) => {
                let claims = || serde_json::json!({ "tee": "tdx", "claims": said.said });
                verdict(appraisal.verdict(), || (self.vector(&judged), claims(), release.clone()), refused)
            }
        }
    }

    /// What is claimed of a quote that is what is wanted. No quote names a machine.
    fn vector(&self, judged: &Judged<Endorsed<'_>>) -> TrustVector {
        let Judged::Verified(verified, _) = judged else { return TrustVector::default() };
        let (endorsed, references) = (verified.evidence(), &self.references);
        // MRTD is of the firmware alone: what that loaded, and what was loaded then, is in the two others.
        let [_, loaded, then, _] = &references.rtmrs;
        let is_known = ![&references.mr_tds, loaded, then].into_iter().any(Vec::is_empty);
        let platform = endorsed.platform();
        let is_good = platform.status == TcbStatus::UpToDate && platform.advisories.is_empty();
        TrustVector {
            configuration: TrustClaim::AFFIRMED,
            executables: claimed(is_known, TrustClaim::BOOT_RECOGNISED),
            hardware: match (verified.anchor().is_hardware(), is_good) {
                (true, true) => TrustClaim::AFFIRMED,
                (true, false) => TrustClaim::VULNERABLE,
                (false, _) => TrustClaim::UNRECOGNISED,
            },
            runtime_opaque: if endorsed.quote().td_attributes().debug() {
                TrustClaim::VISIBLE
            } else {
                TrustClaim::AFFIRMED
            },
            ..TrustVector::default()
        }
    }
}
