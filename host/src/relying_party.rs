//! `tenure attest serve`: what evidence is worth to a relying party, for the service that asks.
//!
//! Owns the policy, reference values and roots of one service, and what its tokens claim of a report that meets them.
//! Does not own any check ([`attest`]), nor who may ask for what when ([`attest_kbs::server`]).
//!
//! Law no-silent-trust: with a test's root allowed every refusal is labelled, and what rests on it affirms no hardware.

use attest::UnixTime;
use attest::appraisal::Verdict as Appraised;
use attest::ear::{TrustClaim, TrustVector};
use attest::snp::{Anchors, Policy, Product, ReferenceValues, Report};
use attest_kbs::appraiser::{Appraiser, Granted, Refused, Release, Verdict};
use attest_kbs::protocol::Tee;
use attest_kbs::protocol::evidence::Evidence as Sent;
use sha2::{Digest as _, Sha256};
use snp::digest::Digest;
use snp::hex;

use crate::evidence::policy::PolicyFile;
use crate::evidence::verdict::VerdictReport;
use crate::evidence::{Evidence, Judged, launch_log};
use crate::measure::trace::Trace;

/// DEBUG of a guest's policy.
const DEBUG: u64 = 1 << 19;

/// What a relying party wants to see.
#[derive(Debug)]
pub struct RelyingParty {
    anchors: Anchors,
    policy: Policy,
    references: ReferenceValues,
    crl: Option<Vec<u8>>,
    test: Option<Product>,
    release: Release,
    /// The expected launches, page by page, as far as they are known so: they change no verdict.
    expected: Vec<Trace>,
    id: String,
}

/// A root for tests, in place of a product's.
#[derive(Clone, Debug)]
pub struct TestRoot {
    /// The product.
    pub product: Product,
    /// The root, in DER.
    pub certificate: Vec<u8>,
}

impl RelyingParty {
    /// Wants this of guests, and releases that to those which are so. `anchors` are those that come of `test`.
    pub fn new(
        anchors: Anchors,
        test: Option<&TestRoot>,
        policy: Policy,
        references: ReferenceValues,
        crl: Option<Vec<u8>>,
        release: Release,
    ) -> Self {
        let id = id(&policy, &references, test, crl.as_deref(), &release);
        Self {
            anchors,
            policy,
            references,
            crl,
            test: test.map(|test| test.product),
            release,
            expected: Vec::new(),
            id,
        }
    }

    /// Names what differs from these launches, if it is another one.
    #[must_use]
    pub fn expecting(self, expected: Vec<Trace>) -> Self {
        Self { expected, ..self }
    }

    /// What is claimed of a report that is what is wanted.
    fn vector(&self, judged: &Judged<Report<'_>>) -> TrustVector {
        let Judged::Verified(verified, _) = judged else { return TrustVector::default() };
        let references = &self.references;
        let claimed = |is_so, claim| if is_so { claim } else { TrustClaim::NONE };
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
    fn differing(&self, judged: &Judged<Report<'_>>, log: &Option<Vec<u8>>) -> Vec<String> {
        let (Judged::Verified(verified, _), Some(log)) = (judged, log) else { return Vec::new() };
        match launch_log::explain(log, Digest(*verified.evidence().measurement()), &self.expected) {
            Ok(items) => items.into_iter().map(|item| format!("launch: {item}")).collect(),
            Err(error) => vec![format!("launch: not explained: {error}")],
        }
    }

    fn label(&self) -> Option<&'static str> {
        self.test.map(|_| "software-test")
    }
}

impl Appraiser for RelyingParty {
    fn judges(&self, tee: Tee) -> bool {
        tee == Tee::Snp
    }

    fn policy_id(&self) -> &str {
        &self.id
    }

    fn appraise(&self, evidence: &Sent, report_data: &[u8; 64], now: UnixTime) -> Verdict {
        let malformed = |name: &str| Refused { failed: vec![name.into()], label: self.label() };
        let Sent::Snp { report, certificates, launch_log } = evidence else {
            return Verdict::Rejected(malformed("evidence.technology"));
        };
        let evidence = match Evidence::of_bytes(report.clone(), certificates.clone(), self.crl.clone()) {
            Ok(evidence) => evidence,
            Err(_) => return Verdict::Rejected(malformed("evidence.certificates")),
        };
        let references = ReferenceValues { report_data: Some(*report_data), ..self.references.clone() };
        let judged = evidence.judge(&self.anchors, &self.policy, &references, now);
        let said = VerdictReport::of(&evidence, &judged, now, self.test);
        let refused = || Refused {
            failed: said.failed.iter().map(|name| (*name).into()).chain(self.differing(&judged, launch_log)).collect(),
            label: said.label,
        };
        let Judged::Verified(_, appraisal) = &judged else { return Verdict::Rejected(refused()) };
        let granted = || Granted {
            vector: self.vector(&judged),
            claims: serde_json::json!({ "tee": "snp", "claims": said.said }),
            release: self.release.clone(),
        };
        match appraisal.verdict() {
            Appraised::Affirmed => Verdict::Affirmed(granted()),
            Appraised::TestPassed => Verdict::TestPassed(granted()),
            Appraised::NotMet => Verdict::NotMet(refused()),
        }
    }
}

/// Names all that verdicts depend on but the day.
fn id(
    policy: &Policy,
    references: &ReferenceValues,
    test: Option<&TestRoot>,
    crl: Option<&[u8]>,
    release: &Release,
) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    // Their fields in full, by name.
    part(format!("{:?}", PolicyFile::from(policy)).as_bytes());
    part(format!("{references:?}").as_bytes());
    part(test.map(|test| test.product.name()).unwrap_or_default().as_bytes());
    part(test.map(|test| &test.certificate[..]).unwrap_or_default());
    part(crl.unwrap_or_default());
    part(format!("{release:?}").as_bytes());
    format!("tenure:sha256:{}", hex::text(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token of one set of wishes is none of another's.
    #[test]
    fn every_wish_is_in_the_name() {
        let root = |byte| TestRoot { product: Product::Milan, certificate: vec![byte] };
        let (policy, none) = (Policy::default(), ReferenceValues::default());
        let digest = ReferenceValues { launch_digests: vec![[1; 48]], ..none.clone() };
        let strict = Policy { vmpl: 1, ..Policy::default() };
        let only = Release::Only(["a/b/c".to_owned()].into());
        let ids = [
            id(&policy, &none, None, None, &Release::All),
            id(&strict, &none, None, None, &Release::All),
            id(&policy, &digest, None, None, &Release::All),
            id(&policy, &none, Some(&root(1)), None, &Release::All),
            id(&policy, &none, Some(&root(2)), None, &Release::All),
            id(&policy, &none, None, Some(&[1]), &Release::All),
            id(&policy, &none, None, None, &only),
        ];
        let different: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        assert_eq!(ids[0], id(&policy, &none, None, None, &Release::All));
    }
}
