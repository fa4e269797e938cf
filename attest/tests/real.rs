//! Reports that chips signed, with AMD's certificates: what others say of them is what we say. Moments are pinned.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use attest::anchors::AnchorError;
use attest::check::{Fault, Outcome};
use attest::snp::Anchor;
use attest::snp::report::{Requester, SigningKey};
use attest::snp::{Anchors, Endorsements, Policy, Product, ReferenceValues, Report, appraise, verify};
use attest::{Rejected, UnixTime};
use common::{NOW, failed, vector};
use sev::certs::snp::{Certificate, Chain, Verifiable, builtin, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

/// 2025-06-01: a provider's key is good for a year.
const DAYS_OF_THE_VLEK: UnixTime = UnixTime::from_secs(1_748_736_000);

/// A report with its key's certificate, and who issued that.
#[derive(Clone)]
struct Real {
    name: &'static str,
    product: Product,
    report: Vec<u8>,
    vek: Vec<u8>,
    intermediate: Vec<u8>,
    now: UnixTime,
}

fn real(name: &'static str, product: Product, intermediate: &str, now: UnixTime) -> Real {
    let [report, vek] = ["report", "vek.der"].map(|kind| vector(&format!("real/{name}.{kind}")));
    Real { name, product, report, vek, intermediate: vector(&format!("amd/{intermediate}.der")), now }
}

fn milan(name: &'static str) -> Real {
    real(name, Product::Milan, "ask-milan", NOW)
}

fn vlek() -> Real {
    real("milan-v3-vlek-trustee", Product::Milan, "asvk-milan", DAYS_OF_THE_VLEK)
}

fn turin() -> Real {
    real("turin-v5-ms", Product::Turin, "ask-turin", NOW)
}

fn all() -> [Real; 7] {
    [
        milan("milan-v2-debug-gsg"),
        milan("milan-v2-virtee"),
        milan("milan-v2-trustee"),
        milan("milan-v3-ms"),
        real("genoa-v3-ms", Product::Genoa, "ask-genoa", NOW),
        turin(),
        vlek(),
    ]
}

impl Real {
    /// The verdict below AMD's roots, with one certificate that stands for either kind of key.
    fn verdict(&self) -> Result<Anchor, Rejected> {
        self.verified(&Anchors::amd()).map(|(anchor, _)| anchor)
    }

    /// What it rests on below these roots, and what is said of the intermediate certificate's signature.
    fn verified(&self, anchors: &Anchors) -> Result<(Anchor, String), Rejected> {
        let Real { vek, intermediate, .. } = self;
        let endorsements = Endorsements {
            vcek: Some(vek),
            vlek: Some(vek),
            intermediate: Some(intermediate),
            ..Endorsements::default()
        };
        verify(&self.report, &endorsements, anchors, self.now).map(|verified| {
            let signature = verified.checks().named("chain.intermediate.signature").unwrap();
            (verified.anchor(), signature.actual.clone())
        })
    }

    fn rejected(&self) -> Vec<&'static str> {
        failed(&self.verdict().unwrap_err())
    }

    /// What the Rust crate `sev` says of signature and chain; more it does not look at.
    fn sev_accepts(&self) -> bool {
        let der = |bytes: &[u8]| Certificate::from_der(bytes).ok();
        let ark = match self.product {
            Product::Milan => builtin::milan::ark(),
            Product::Genoa => builtin::genoa::ark(),
            Product::Turin => builtin::turin::ark(),
        };
        let (Some(vek), Some(ask)) = (der(&self.vek), der(&self.intermediate)) else { return false };
        let chain = Chain { ca: ca::Chain { ark: ark.unwrap(), ask }, vek };
        AttestationReport::from_bytes(&self.report).is_ok_and(|report| (&chain, &report).verify().is_ok())
    }
}

#[test]
fn every_real_report_is_verified_and_rests_on_its_products_root() {
    for real in all() {
        assert_eq!(real.verdict().unwrap(), Anchor::Amd(real.product), "{}", real.name);
        assert!(real.sev_accepts(), "{}", real.name);
    }
}

#[test]
fn what_reports_say_is_what_others_read_in_them() {
    for Real { name, report: bytes, .. } in all() {
        let (report, theirs) = (Report::parse(&bytes).unwrap(), AttestationReport::from_bytes(&bytes[..]).unwrap());
        assert_eq!((report.version(), report.guest_svn()), (theirs.version, theirs.guest_svn), "{name}");
        assert_eq!(report.policy(), u64::from(theirs.policy));
        assert_eq!((report.family_id(), report.image_id()), (&theirs.family_id, &theirs.image_id));
        let level = u8::try_from(theirs.vmpl).map(Requester::Vmpl);
        assert_eq!(report.requester(), level.unwrap_or(Requester::Host));
        assert_eq!(report.signature_algorithm(), theirs.sig_algo);
        assert_eq!(report.platform_info(), u64::from(theirs.plat_info));
        assert_eq!(report.author_key_enabled(), theirs.key_info.author_key_en());
        assert_eq!(report.mask_chip_key(), theirs.key_info.mask_chip_key());
        let signs = if theirs.key_info.signing_key() == 0 { SigningKey::Vcek } else { SigningKey::Vlek };
        assert_eq!(report.signing_key(), signs);
        assert_eq!(report.report_data(), &theirs.report_data);
        assert_eq!(report.measurement(), &theirs.measurement);
        assert_eq!(report.host_data(), &theirs.host_data);
        assert_eq!(report.id_key_digest(), &theirs.id_key_digest);
        assert_eq!(report.author_key_digest(), &theirs.author_key_digest);
        assert_eq!((report.report_id(), report.report_id_ma()), (&theirs.report_id, &theirs.report_id_ma));
        assert_eq!(report.chip_id(), &theirs.chip_id);
        let processor = report.processor();
        assert_eq!(processor.map(|it| it.family), theirs.cpuid_fam_id);
        assert_eq!(processor.map(|it| it.model), theirs.cpuid_mod_id);
        assert_eq!(processor.map(|it| it.stepping), theirs.cpuid_step);
        assert_eq!(
            report.mitigations().map(|it| (it.launch, it.current)),
            theirs.launch_mit_vector.zip(theirs.current_mit_vector)
        );
        for (ours, theirs) in
            [(report.current_version(), theirs.current), (report.committed_version(), theirs.committed)]
        {
            assert_eq!((ours.major, ours.minor, ours.build), (theirs.major, theirs.minor, theirs.build));
        }
    }
}

#[test]
fn what_reports_say_of_versions_is_what_others_read_in_them() {
    for Real { name, product, report: bytes, .. } in all() {
        let (report, theirs) = (Report::parse(&bytes).unwrap(), AttestationReport::from_bytes(&bytes[..]).unwrap());
        let pairs = [
            (report.current_tcb(), theirs.current_tcb),
            (report.reported_tcb(), theirs.reported_tcb),
            (report.committed_tcb(), theirs.committed_tcb),
            (report.launch_tcb(), theirs.launch_tcb),
        ];
        for (ours, theirs) in pairs {
            let ours = ours.unpack(product).unwrap();
            let ours = (ours.fmc, ours.boot_loader, ours.tee, ours.snp, ours.microcode);
            assert_eq!(ours, (theirs.fmc, theirs.bootloader, theirs.tee, theirs.snp, theirs.microcode), "{name}");
        }
    }
}

/// Roots are not what somebody gave us once: they are those that others rely on.
#[test]
fn amds_roots_are_those_that_others_rely_on() {
    let theirs = [builtin::milan::ark(), builtin::genoa::ark(), builtin::turin::ark()];
    for (product, theirs) in Product::ALL.into_iter().zip(theirs) {
        let name = format!("roots/amd/ark-{}.der", product.name().to_lowercase());
        let ours = std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        assert_eq!(ours, theirs.unwrap().to_der().unwrap());
        assert_eq!(Anchors::amd_of(product).iter().collect::<Vec<_>>(), [Anchor::Amd(product)]);
        // Nothing that rests on it is a test's.
        assert_eq!(Anchors::none().with_test_root(product, &ours).unwrap_err(), AnchorError::Hardware);
    }
}

/// Who knows AMD's intermediate certificates comes to the same verdicts, and says what was not checked again.
#[test]
fn known_intermediates_are_said_to_be_known_and_change_no_verdict() {
    let known = Anchors::amd().with_known_intermediates();
    for real in all() {
        let (anchor, signature) = real.verified(&known).unwrap();
        assert_eq!(anchor, Anchor::Amd(real.product), "{}", real.name);
        assert_eq!(signature, "by it, as is known: the certificate is one that is part of this program");
        assert_eq!(real.verified(&Anchors::amd()).unwrap().1, "by it");
        let late = Real { now: UnixTime::from_secs(4_000_000_000), ..real.clone() };
        assert_eq!(failed(&late.verified(&known).unwrap_err()), late.rejected(), "it ends as any other does");
    }
}

/// no-silent-trust: what is known are bytes. A certificate that differs in one of them is checked as any other, and so is
/// the right one for a root that is not among those to rely on.
#[test]
fn no_silent_trust_a_changed_intermediate_is_not_known() {
    let known = Anchors::amd().with_known_intermediates();
    let good = turin();
    for at in (0..good.intermediate.len()).step_by(23).chain([good.intermediate.len() - 1]) {
        let mut changed = good.clone();
        changed.intermediate[at] ^= 1;
        assert_eq!(failed(&changed.verified(&known).unwrap_err()), changed.rejected(), "{at}");
    }
    let mut signature = good.clone();
    *signature.intermediate.last_mut().unwrap() ^= 1;
    assert_eq!(failed(&signature.verified(&known).unwrap_err()), ["chain.intermediate.signature"]);
    for other in [Anchors::amd_of(Product::Genoa), Anchors::none()] {
        let found = failed(&good.verified(&other.with_known_intermediates()).unwrap_err());
        assert!(found.contains(&"chain.root"), "{found:?}");
    }
    // Of the wrong kind or product it is known, and still not the one that is wanted.
    for (name, expected) in
        [("asvk-turin", &["chain.intermediate", "key.signature"][..]), ("ask-genoa", &["key.signature", "key.product"])]
    {
        let other = Real { intermediate: vector(&format!("amd/{name}.der")), ..good.clone() };
        let found = failed(&other.verified(&known).unwrap_err());
        assert!(expected.iter().all(|id| found.contains(id)), "{name}: {found:?}");
    }
}

/// no-silent-trust: what was changed under its signature, other chips' keys, and issuers of other kinds or products.
#[test]
fn no_silent_trust_real_evidence_that_does_not_belong_together() {
    let good = milan("milan-v2-virtee");
    for at in [0x08, 0x20, 0x50, 0x90, 0xc0, 0xe0, 0x110, 0x140] {
        let mut changed = good.clone();
        changed.report[at] ^= 1;
        assert_eq!((changed.rejected(), changed.sev_accepts()), (vec!["report.signature"], false), "{at:#x}");
    }
    let other_chip = Real { vek: milan("milan-v2-debug-gsg").vek, ..good.clone() };
    assert_eq!(other_chip.rejected()[..2], ["report.signature", "key.chip"]);
    assert!(!other_chip.sev_accepts());
    let asvk = Real { intermediate: vector("amd/asvk-milan.der"), ..good.clone() };
    assert_eq!(asvk.rejected(), ["chain.intermediate", "key.signature"]);
    let ask = Real { intermediate: vector("amd/ask-milan.der"), ..vlek() };
    assert_eq!(ask.rejected(), ["chain.intermediate", "key.signature"]);
    let genoas = Real { intermediate: vector("amd/ask-genoa.der"), ..good };
    assert_eq!(genoas.rejected(), ["key.signature", "key.product"]);
    assert!(!asvk.sev_accepts() && !ask.sev_accepts());
}

/// no-silent-trust: the R and S that are too long are another way to write the same signature, which others take.
#[test]
fn no_silent_trust_a_signature_is_written_in_one_way() {
    for at in [0x2a0 + 48, 0x2a0 + 71, 0x2e8 + 48, 0x2e8 + 71] {
        let mut changed = milan("milan-v2-virtee");
        changed.report[at] = 1;
        assert_eq!(changed.rejected(), ["report.signature"]);
    }
    let mut reserved = milan("milan-v2-virtee");
    reserved.report[0x49f] = 1;
    assert_eq!(reserved.rejected(), ["report.form"]);
}

/// no-silent-trust: a second too early or too late.
#[test]
fn no_silent_trust_moments_outside_of_real_certificates() {
    // 2026-02-05T01:04:33Z to 2033-02-05T01:04:33Z.
    for (seconds, good) in
        [(1_770_253_472, false), (1_770_253_473, true), (1_991_178_273, true), (1_991_178_274, false)]
    {
        let at = Real { now: UnixTime::from_secs(seconds), ..turin() };
        let expected: &[&str] = if good { &[] } else { &["key.validity"] };
        assert_eq!(at.verdict().map_or_else(|rejected| failed(&rejected), |_| Vec::new()), expected, "{seconds}");
    }
    assert_eq!(Real { now: NOW, ..vlek() }.rejected(), ["key.validity"]);
}

/// no-silent-trust: certificates that look like a chip's and that nobody signed, in both forms of a chip's identifier.
#[test]
fn no_silent_trust_certificates_that_amd_did_not_sign() {
    for name in ["invalid-legacy", "invalid-new"] {
        let invalid = Real { vek: vector(&format!("real/{name}.vek.der")), ..milan("milan-v2-virtee") };
        let found = invalid.rejected();
        assert!(found.contains(&"key.signature"), "{name}: {found:?}");
        assert!(!invalid.sev_accepts());
    }
}

/// A verdict ends with the first thing that it rests on: the list, if there is one, else the key's certificate.
#[test]
fn verdicts_end_when_they_say() {
    let list = vector("amd/crl-turin.der");
    let Real { report, vek, intermediate, .. } = turin();
    let verdict = |crl, seconds| {
        let endorsements =
            Endorsements { vcek: Some(&vek), intermediate: Some(&intermediate), crl, ..Endorsements::default() };
        let verdict = verify(&report, &endorsements, &Anchors::amd(), UnixTime::from_secs(seconds));
        verdict.map(|verified| verified.valid_until()).map_err(|rejected| failed(&rejected))
    };
    assert_eq!(verdict(Some(&list[..]), 1_788_220_800), Ok("2026-10-04T00:00:00Z".parse().unwrap()));
    let until = verdict(None, 1_788_220_800).unwrap().as_secs();
    assert_eq!(verdict(None, until), Ok(UnixTime::from_secs(until)));
    assert_eq!(verdict(None, until + 1), Err(vec!["key.validity"]));
}

/// Pitfall: of lists of revoked certificates an older one may be as good as a new one until it ends.
#[test]
fn no_silent_trust_older_lists() {
    let list = vector("amd/crl-turin.der");
    let Real { report, vek, intermediate, .. } = turin();
    let floor = |crl, floor| {
        let endorsements =
            Endorsements { vcek: Some(&vek), intermediate: Some(&intermediate), crl, ..Endorsements::default() };
        let then = UnixTime::from_secs(1_788_220_800);
        let verified = verify(&report, &endorsements, &Anchors::amd(), then).unwrap();
        let policy = Policy { crls: [(Product::Turin, floor), (Product::Milan, 99)].into(), ..Policy::default() };
        let appraisal = appraise(&verified, &policy, &ReferenceValues::default());
        let check = appraisal.checks().named("policy.crl").unwrap();
        (check.outcome.clone(), check.fault)
    };
    assert_eq!(floor(Some(&list[..]), 7).0, Outcome::Passed);
    assert_eq!(floor(Some(&list[..]), 8), (Outcome::Failed, Fault::Unmet));
    assert_eq!(floor(None, 7), (Outcome::Failed, Fault::Collateral));
    assert_eq!(floor(None, 0).0, Outcome::Skipped("the policy has no floor for it".into()));
}

/// AMD's own lists, at a moment at which they hold, a second too early and a second too late.
#[test]
fn no_silent_trust_amds_lists_of_revoked_certificates() {
    let (of_milan, of_turin) = (vector("amd/crl-milan.der"), vector("amd/crl-turin.der"));
    let with = |list: &[u8], seconds| {
        let Real { report, vek, intermediate, .. } = turin();
        let endorsements = Endorsements {
            vcek: Some(&vek),
            intermediate: Some(&intermediate),
            crl: Some(list),
            ..Endorsements::default()
        };
        let verdict = verify(&report, &endorsements, &Anchors::amd(), UnixTime::from_secs(seconds));
        verdict
            .map(|verified| verified.checks().named("chain.revocation.list").unwrap().actual.clone())
            .map_err(|rejected| failed(&rejected))
    };
    // 2026-09-01; the list ends with 2026-10-04T00:00:00Z.
    assert_eq!(with(&of_turin, 1_788_220_800), Ok("its list 0x07 of 0".to_string()));
    assert_eq!(with(&of_turin, 1_791_072_000), Ok("its list 0x07 of 0".to_string()));
    for seconds in [1_791_072_001, 1_780_272_000] {
        assert_eq!(with(&of_turin, seconds), Err(vec!["chain.revocation.validity"]));
    }
    assert_eq!(with(&of_milan, 1_788_220_800), Err(vec!["chain.revocation.list"]));
    for at in (0..of_turin.len()).step_by(7) {
        let mut changed = of_turin.clone();
        changed[at] ^= 1;
        assert_eq!(with(&changed, 1_788_220_800), Err(vec!["chain.revocation.list"]), "{at}");
    }
}
