//! What a relying party thinks of SNP reports.
//!
//! Owns the wishes of one service about them, and what its tokens claim of one that meets them.

use attest::UnixTime;
use attest::ear::{TrustClaim, TrustVector};
use attest::snp::{Anchors, Policy, Product, ReferenceValues, Report};
use attest_kbs::appraiser::{Refused, Release, Verdict};
use snp::digest::Digest;

use super::{Parts, claimed, rejected, verdict};
use crate::evidence::policy::PolicyFile;
use crate::evidence::verdict::VerdictReport;
use crate::evidence::{Evidence, Judged, launch_log};
use crate::measure::trace::Trace;

/// DEBUG of a guest's policy.
const DEBUG: u64 = 1 << 19;

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
        let Ok(evidence) = evidence else { return rejected("evidence.certificates", self.label()) };
        let references = ReferenceValues { report_data: Some(*report_data), ..self.references.clone() };
        let judged = evidence.judge(&self.anchors, &self.policy, &references, now);
        let said = VerdictReport::of(&evidence, &judged, now, self.test.as_ref().map(|test| test.product));
        let refused = || Refused {
            failed: said.failed.iter().map(|name| (*name).into()).chain(self.differing(&judged, launch_log)).collect(),
            label: said.label,
        };
        match &judged {
            Judged::Rejected(_) => Verdict::Rejected(refused()),
            Judged::Verified(_, appraisal) => {
                let claims = || serde_json::json!({ "tee": "snp", "claims": said.said });
                verdict(appraisal.verdict(), || (self.vector(&judged), claims(), release.clone()), refused)
            }
        }
    }

    /// What is claimed of a report that is what is wanted.
    fn vector(&self, judged: &Judged<Report<'_>>) -> TrustVector {
        let Judged::Verified(verified, _) = judged else { return TrustVector::default() };
        let references = &self.references;
        let is_known = !references.launch_digests.is_empty() || !references.id_keys.is_empty();
        let is_debugged = verified.evidence().policy() & DEBUG != 0;
        TrustVector {
            instance_identity: claimed(!references.chips.is_empty(), TrustClaim::AFFIRMED),
            configuration: TrustClaim::AFFIRMED,
            executables: claimed(is_known, TrustClaim::BOOT_RECOGNISED),
            hardware: if verified.anchor().is_hardware() { TrustClaim::AFFIRMED } else { TrustClaim::UNRECOGNISED },
            runtime_opaque: if is_debugged { TrustClaim::VISIBLE } else { TrustClaim::AFFIRMED },
            ..TrustVector::default()
        }
    }

    /// Items of a launch that are not the expected ones, as its log tells: it is believed if the report's digest follows
    /// from it.
    fn differing(&self, judged: &Judged<Report<'_>>, log: Option<&[u8]>) -> Vec<String> {
        let (Judged::Verified(verified, _), Some(log)) = (judged, log) else { return Vec::new() };
        match launch_log::explain(log, Digest(*verified.evidence().measurement()), &self.expected) {
            Ok(items) => items.into_iter().map(|item| format!("launch: {item}")).collect(),
            Err(error) => vec![format!("launch: not explained: {error}")],
        }
    }
}
