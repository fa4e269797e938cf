//! What a relying party thinks of SNP reports.
//!
//! Owns the wishes of one service about them, and what of a launch differs from those that are expected.

use attest::UnixTime;
use attest::snp::{Allowance, Anchors, Policy, Product, ReferenceValues, Report};
use attest_kbs::appraiser::{Refused, Release, Verdict};
use snp::digest::Digest;

use super::{Parts, verdict};
use crate::evidence::policy::PolicyFile;
use crate::evidence::verdict::VerdictReport;
use crate::evidence::{Evidence, Judged, launch_log, trust};
use crate::measure::trace::Trace;

/// The check that a report is an answer, and to this question.
const REPORT_DATA: &str = "reference.report-data";

/// What is wanted of SNP guests.
#[derive(Debug)]
pub struct SnpWishes {
    /// Roots, those that come of `test` among them.
    pub anchors: Anchors,
    /// A root for tests, if one is allowed.
    pub test: Option<TestRoot>,
    /// What is wanted of any guest.
    pub policy: Policy,
    /// What is known of this one.
    pub references: ReferenceValues,
    /// A list of revoked certificates, which counts before one that a guest sends.
    pub crl: Option<Vec<u8>>,
    /// The expected launches, page by page, as far as they are known so: they change no verdict.
    pub expected: Vec<Trace>,
}

/// A root for tests, in place of a product's.
#[derive(Clone, Debug)]
pub struct TestRoot {
    /// The product.
    pub product: Product,
    /// The root, in DER.
    pub certificate: Vec<u8>,
}

impl SnpWishes {
    pub(super) fn label(&self) -> Option<&'static str> {
        super::label(self.test.is_some())
    }

    /// Whether it is said which guest it must be, or that it may be any; nothing else passes `reference.guest`.
    pub(super) fn name_a_guest(&self) -> bool {
        let ReferenceValues { launch_digests, id_keys, author_keys, .. } = &self.references;
        let named = !launch_digests.is_empty() || !id_keys.is_empty() || !author_keys.is_empty();
        named || self.policy.allows(Allowance::AnyGuest)
    }

    /// All that verdicts depend on but the day.
    pub(super) fn parts(&self, to: &mut Parts) {
        to.add(format!("{:?}", PolicyFile::from(&self.policy)).as_bytes());
        to.add(format!("{:?}", self.references).as_bytes());
        to.add(self.test.as_ref().map(|test| test.product.name()).unwrap_or_default().as_bytes());
        to.add(self.test.as_ref().map(|test| &test.certificate[..]).unwrap_or_default());
        to.add(self.crl.as_deref().unwrap_or_default());
    }

    pub(super) fn appraise(
        &self,
        (report, certificates, launch_log): (&[u8], Option<&[u8]>, Option<&[u8]>),
        report_data: &[u8; 64],
        release: &Release,
        now: UnixTime,
    ) -> Verdict {
        let evidence = Evidence::of_bytes(report.to_vec(), certificates.map(<[u8]>::to_vec), self.crl.clone());
        let references = ReferenceValues { report_data: Some(*report_data), ..self.references.clone() };
        let judged = evidence.judge(&self.anchors, &self.policy, &references, now);
        let said = VerdictReport::of(&evidence, &judged, now, self.test.as_ref().map(|test| test.product));
        let refused = || Refused {
            failed: said.failed.iter().map(|name| (*name).into()).chain(self.differing(&judged, launch_log)).collect(),
            label: said.label,
        };
        match &judged {
            Judged::Rejected(_) => Verdict::Rejected(refused()),
            Judged::Verified(verified, appraisal) => {
                let vector = || trust::of_report(verified, &references);
                let claims = || serde_json::json!({ "tee": "snp", "claims": said.said });
                verdict(appraisal, || (vector(), claims(), release.clone()), refused)
            }
        }
    }

    /// Items of a launch that are not the expected ones, as its log tells: it is believed if the report's digest follows
    /// from it. Whoever only shows somebody else's report is told nothing, and his log not read.
    fn differing(&self, judged: &Judged<Report<'_>>, log: Option<&[u8]>) -> Vec<String> {
        let (Judged::Verified(verified, appraisal), Some(log)) = (judged, log) else { return Vec::new() };
        if appraisal.checks().failed().any(|check| check.id.name() == REPORT_DATA) {
            return Vec::new();
        }
        match launch_log::explain(log, Digest(*verified.evidence().measurement()), &self.expected) {
            Ok(items) => items.into_iter().map(|item| format!("launch: {item}")).collect(),
            Err(error) => vec![format!("launch: not explained: {error}")],
        }
    }
}
