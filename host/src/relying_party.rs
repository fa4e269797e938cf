//! `tenure attest serve`: what evidence is worth to a relying party, for the service that asks.
//!
//! Owns the policies, reference values and roots of one service (of reports [`report`], of quotes [`quote`]), and their
//! name. Does not own any check ([`attest`]), what tokens claim of evidence ([`crate::evidence::trust`]), nor who may ask
//! for what when ([`attest_kbs::server`]).
//!
//! Law no-silent-trust: with a test's root allowed every refusal is labelled, and what rests on it affirms no hardware.

use attest::UnixTime;
use attest::anchors::Root;
use attest::appraisal::{Appraisal, Verdict as Appraised};
use attest::ear::TrustVector;
use attest_kbs::appraiser::{Appraiser, Granted, Refused, Release, Verdict};
use attest_kbs::protocol::Tee;
use attest_kbs::protocol::evidence::Evidence as Sent;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use snp::hex;

use crate::evidence::verdict::SOFTWARE_TEST;

pub mod quote;
pub mod report;

use quote::TdxWishes;
use report::SnpWishes;

/// What a relying party wants to see.
#[derive(Debug)]
pub struct RelyingParty {
    snp: SnpWishes,
    tdx: Option<TdxWishes>,
    release: Release,
    id: String,
}

impl RelyingParty {
    /// Wants this of guests, and releases that to those which are so. Without wishes about them TDX guests get nothing.
    #[must_use]
    pub fn new(snp: SnpWishes, tdx: Option<TdxWishes>, release: Release) -> Self {
        let id = id(&snp, tdx.as_ref(), &release);
        Self { snp, tdx, release, id }
    }

    /// Says in the log whom nothing can come of, whatever evidence he shows: that is hardly what was meant.
    pub fn warn_of_wishes_that_nobody_meets(&self) {
        let quotes_pass = self.tdx.as_ref().map(TdxWishes::name_a_guest);
        if quotes_pass == Some(false) {
            tracing::warn!(
                "every quote will be refused (reference.guest): give --mrtd, or a policy that allows any-guest"
            );
        }
        // Who has TDX guests in mind need not say anything of others.
        if quotes_pass != Some(true) && !self.snp.name_a_guest() {
            tracing::warn!(
                "every report will be refused (reference.guest): give --launch-digest, --id-key, --author-key or --guest, \
                 or a policy that allows any-guest"
            );
        }
    }
}

impl Appraiser for RelyingParty {
    fn judges(&self, tee: Tee) -> bool {
        match tee {
            Tee::Snp => true,
            Tee::Tdx => self.tdx.is_some(),
            _ => false,
        }
    }

    fn policy_id(&self) -> &str {
        &self.id
    }

    fn appraise(&self, evidence: &Sent, report_data: &[u8; 64], now: UnixTime) -> Verdict {
        let Self { snp, tdx, release, .. } = self;
        match (evidence, tdx) {
            (Sent::Snp { report, certificates, launch_log }, _) => {
                let sent = (&report[..], certificates.as_deref(), launch_log.as_deref());
                snp.appraise(sent, report_data, release, now)
            }
            (Sent::Tdx { quote, event_log }, Some(tdx)) => {
                tdx.appraise((quote, event_log.as_deref()), report_data, release, now)
            }
            (Sent::Tdx { .. }, None) => rejected("evidence.technology", snp.label()),
        }
    }
}

fn rejected(name: &str, label: Option<&'static str>) -> Verdict {
    Verdict::Rejected(Refused { failed: vec![name.into()], label })
}

/// What the service is told of evidence that was verified.
fn verdict<A: Root>(
    appraisal: &Appraisal<A>,
    granted: impl FnOnce() -> (TrustVector, Value, Release),
    refused: impl FnOnce() -> Refused,
) -> Verdict {
    let granted = || {
        let (vector, claims, release) = granted();
        Granted { vector, claims, release, valid_until: appraisal.valid_until() }
    };
    match appraisal.verdict() {
        Appraised::Affirmed => Verdict::Affirmed(granted()),
        Appraised::TestPassed => Verdict::TestPassed(granted()),
        Appraised::NotMet => Verdict::NotMet(refused()),
    }
}

fn label(is_allowed: bool) -> Option<&'static str> {
    is_allowed.then_some(SOFTWARE_TEST)
}

/// What goes into a name, each part with its length.
#[derive(Default)]
struct Parts(Sha256);

impl Parts {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// Names all that verdicts depend on but the day.
fn id(snp: &SnpWishes, tdx: Option<&TdxWishes>, release: &Release) -> String {
    let mut parts = Parts::default();
    snp.parts(&mut parts);
    if let Some(tdx) = tdx {
        parts.add(b"tdx");
        tdx.parts(&mut parts);
    }
    parts.add(format!("{release:?}").as_bytes());
    format!("tenure:sha256:{}", hex::text(&parts.0.finalize()))
}

#[cfg(test)]
mod tests {
    use super::report::TestRoot;
    use super::*;
    use crate::evidence::tdx::collateral::{CollateralFiles, CollateralPlace};
    use crate::idblock::Source;
    use attest::{snp as reports, tdx as quotes};

    fn snp_wishes() -> SnpWishes {
        SnpWishes {
            anchors: reports::Anchors::amd(),
            test: None,
            policy: reports::Policy::default(),
            references: reports::ReferenceValues::default(),
            crl: None,
            expected: Vec::new(),
        }
    }

    fn tdx_wishes() -> TdxWishes {
        TdxWishes {
            anchors: quotes::Anchors::intel(),
            test: None,
            policy: quotes::Policy::default(),
            references: quotes::ReferenceValues::default(),
            collateral: CollateralPlace::Whole(Source::File("collateral".into())),
            at_first: CollateralFiles::default(),
        }
    }

    /// A token of one set of wishes is none of another's.
    #[test]
    fn every_wish_is_in_the_name() {
        let root = |byte| Some(TestRoot { product: reports::Product::Milan, certificate: vec![byte] });
        let digest = reports::ReferenceValues { launch_digests: vec![[1; 48]], ..Default::default() };
        let snp = [
            snp_wishes(),
            SnpWishes { policy: reports::Policy { vmpl: 1, ..Default::default() }, ..snp_wishes() },
            SnpWishes { references: digest, ..snp_wishes() },
            SnpWishes { test: root(1), ..snp_wishes() },
            SnpWishes { test: root(2), ..snp_wishes() },
            SnpWishes { crl: Some(vec![1]), ..snp_wishes() },
        ];
        let rtmr = quotes::ReferenceValues { rtmrs: [vec![], vec![[1; 48]], vec![], vec![]], ..Default::default() };
        let list = serde_json::json!({ "pck_crl": "00" }).to_string();
        let tdx = [
            tdx_wishes(),
            TdxWishes { policy: quotes::Policy { evaluation: 1, ..Default::default() }, ..tdx_wishes() },
            TdxWishes { references: rtmr, ..tdx_wishes() },
            TdxWishes { test: Some(vec![1]), ..tdx_wishes() },
            TdxWishes { at_first: CollateralFiles::parse(&list, &Source::Stdin).unwrap(), ..tdx_wishes() },
        ];
        let only = Release::Only(["a/b/c".to_owned()].into());
        let all = snp.iter().map(|snp| id(snp, None, &Release::All));
        let quotes = tdx.iter().map(|tdx| id(&snp[0], Some(tdx), &Release::All));
        let ids: Vec<_> = all.chain(quotes).chain([id(&snp[0], None, &only)]).collect();
        let different: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        assert_eq!(ids[0], id(&snp_wishes(), None, &Release::All));
    }

    /// What says which guest it must be, and what leaves that open, which refuses all.
    #[test]
    fn who_names_a_guest() {
        assert!(!snp_wishes().name_a_guest() && !tdx_wishes().name_a_guest());
        let chip = reports::ReferenceValues { chips: vec![[1; 64]], ..Default::default() };
        assert!(!SnpWishes { references: chip, ..snp_wishes() }.name_a_guest());
        let key = reports::ReferenceValues { author_keys: vec![[1; 48]], ..Default::default() };
        assert!(SnpWishes { references: key, ..snp_wishes() }.name_a_guest());
        let rtmr = quotes::ReferenceValues { rtmrs: [vec![], vec![[1; 48]], vec![], vec![]], ..Default::default() };
        assert!(!TdxWishes { references: rtmr, ..tdx_wishes() }.name_a_guest());
        let mrtd = quotes::ReferenceValues { mr_tds: vec![[1; 48]], ..Default::default() };
        assert!(TdxWishes { references: mrtd, ..tdx_wishes() }.name_a_guest());
        let mut any = (reports::Policy::default(), quotes::Policy::default());
        any.0.allow.insert(reports::Allowance::AnyGuest);
        any.1.allow.insert(quotes::Allowance::AnyGuest);
        assert!(SnpWishes { policy: any.0, ..snp_wishes() }.name_a_guest());
        assert!(TdxWishes { policy: any.1, ..tdx_wishes() }.name_a_guest());
    }

    /// Nobody's quotes are judged without what Intel publishes.
    #[test]
    fn quotes_are_for_those_who_have_collateral() {
        let without = RelyingParty::new(snp_wishes(), None, Release::All);
        assert!(without.judges(Tee::Snp) && !without.judges(Tee::Tdx) && !without.judges(Tee::Sample));
        let sent = Sent::Tdx { quote: vec![], event_log: None };
        let Verdict::Rejected(refused) = without.appraise(&sent, &[0; 64], UnixTime::from_secs(0)) else {
            unreachable!("no quote is judged")
        };
        assert_eq!((&refused.failed[..], refused.label), (&["evidence.technology".to_owned()][..], None));
        let with = RelyingParty::new(snp_wishes(), Some(tdx_wishes()), Release::All);
        assert!(with.judges(Tee::Snp) && with.judges(Tee::Tdx));
        let Verdict::Rejected(refused) = with.appraise(&sent, &[0; 64], UnixTime::from_secs(0)) else {
            unreachable!("its file is not there")
        };
        assert_eq!(refused.failed, ["collateral.files"]);
    }
}
