//! Reports of the software platform: its root is a test's, and everything that can be wrong with evidence is found by
//! name.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::sync::OnceLock;
use std::time::Duration;

use attest::snp::Anchor;
use attest::snp::report::{Requester, SigningKey};
use attest::snp::{Anchors, CertificateTable, Endorsements, Product, verify};
use attest::{Rejected, UnixTime};
use common::silicon::{DATA, Evidence, HOST_DATA, product};
use common::{NOW, failed};
use tenure_silicon::chain::{HwidForm, authority};
use tenure_silicon::config::Config;
use tenure_silicon::model::{Model, Tcb};
use tenure_silicon::report::EndorsementKey;

type Bump = fn(&mut Tcb);

const KINDS: [EndorsementKey; 2] = [EndorsementKey::Vcek, EndorsementKey::Vlek];

/// Every model with every version of reports and every kind of key.
fn all() -> &'static [Evidence] {
    static ALL: OnceLock<Vec<Evidence>> = OnceLock::new();
    ALL.get_or_init(|| {
        let versions = Model::ALL.into_iter().flat_map(|model| [2, 3, 5].map(|version| (model, version)));
        let of = |(model, report_version)| {
            KINDS.map(|kind| Evidence::of(Config { report_version, ..Config::new(model, [0x5e; 32]) }, kind))
        };
        versions.flat_map(of).collect()
    })
}

fn rejected(evidence: &Evidence) -> Vec<&'static str> {
    with(&evidence.report, &evidence.endorsements(), &evidence.anchors())
}

fn with(report: &[u8], endorsements: &Endorsements<'_>, anchors: &Anchors) -> Vec<&'static str> {
    failed(&why(report, endorsements, anchors))
}

fn why(report: &[u8], endorsements: &Endorsements<'_>, anchors: &Anchors) -> Rejected {
    verify(report, endorsements, anchors, NOW).unwrap_err()
}

/// Law no-silent-trust: a software root of trust can never pass for hardware.
#[test]
fn no_silent_trust_a_software_root_is_a_tests_root_and_never_amds() {
    for evidence in all() {
        let (report, endorsements) = (&evidence.report, evidence.endorsements());
        let product = product(evidence.model);
        for anchors in [evidence.anchors(), Anchors::amd().with_test_root(product, &evidence.certificates.ark).unwrap()]
        {
            let verified = verify(report, &endorsements, &anchors, NOW).unwrap();
            assert_eq!(verified.anchor(), Anchor::Test(product));
            assert!(!verified.anchor().is_hardware() && verified.anchor().to_string().contains("TEST"));
        }
        // The root in the table vouches for nothing: neither for itself nor if it is left out.
        for ark in [endorsements.ark, None] {
            let endorsements = Endorsements { ark, ..endorsements };
            for anchors in [Anchors::amd(), Anchors::none()] {
                assert_eq!(with(report, &endorsements, &anchors), ["chain.root"]);
            }
        }
    }
}

#[test]
fn a_verified_report_says_what_the_platform_signed() {
    for evidence in all() {
        let verified = verify(&evidence.report, &evidence.endorsements(), &evidence.anchors(), NOW).unwrap();
        let report = verified.evidence();
        assert_eq!((report.report_data(), report.host_data()), (&DATA, &HOST_DATA));
        assert_eq!(report.requester(), Requester::Vmpl(0));
        assert_eq!((report.policy(), report.bytes()), (0x3_0000, &evidence.report[..]));
        let kind = match evidence.certificates.kind {
            EndorsementKey::Vcek => SigningKey::Vcek,
            EndorsementKey::Vlek => SigningKey::Vlek,
        };
        assert_eq!(report.signing_key(), kind);
        assert_eq!(report.mitigations().is_some(), report.version() == 5);
        let processor = report.processor().and_then(|processor| processor.product());
        assert_eq!(processor, (report.version() > 2).then(|| product(evidence.model)));
        // What could not be looked at is said.
        let skipped: Vec<_> = verified.checks().skipped().map(|check| check.id.name()).collect();
        assert_eq!(skipped.contains(&"report.processor"), report.version() == 2);
        assert_eq!(skipped.contains(&"key.chip"), kind == SigningKey::Vlek);
        assert!(skipped.contains(&"chain.revocation"));
    }
}

#[test]
fn a_table_gives_the_same_verdict() {
    for evidence in all() {
        let table = evidence.certificates.to_bytes();
        let table = CertificateTable::parse(&table).unwrap();
        assert_eq!(table.endorsements(), evidence.endorsements());
        let verified = verify(&evidence.report, &table.endorsements(), &evidence.anchors(), NOW).unwrap();
        assert_eq!(verified.evidence().bytes(), evidence.report);
    }
}

#[test]
fn no_silent_trust_a_chain_of_another_product() {
    let milan = Evidence::new(Model::Milan);
    // Another seed: the same one would be the same chip with the same key.
    let genoa = Evidence::of(Config::new(Model::Genoa, [1; 32]), EndorsementKey::Vcek);
    let [of_milan, of_genoa] = [milan.endorsements(), genoa.endorsements()];
    // Only the root is another.
    assert_eq!(with(&milan.report, &of_milan, &genoa.anchors()), ["chain.root"]);
    // A root that is trusted for another product.
    let misnamed = Anchors::none().with_test_root(Product::Genoa, &milan.certificates.ark).unwrap();
    assert_eq!(with(&milan.report, &of_milan, &misnamed), ["chain.intermediate", "key.product"]);
    // The intermediate is another's, and so is its root.
    let swapped = Endorsements { intermediate: of_genoa.intermediate, ..of_milan };
    let both = milan.anchors().with_test_root(Product::Genoa, &genoa.certificates.ark).unwrap();
    assert_eq!(with(&milan.report, &swapped, &both), ["chain.ark", "key.signature", "key.product"]);
    // Everything is another's.
    assert_eq!(with(&milan.report, &of_genoa, &both), ["report.signature", "key.chip"]);
}

#[test]
fn no_silent_trust_the_wrong_kind_of_key_or_issuer() {
    let config = Config::new(Model::Genoa, [0x5e; 32]);
    let [vcek, vlek] = KINDS.map(|kind| Evidence::of(config.clone(), kind));
    let [of_vcek, of_vlek] = [vcek.endorsements(), vlek.endorsements()];
    let verdict = |report: &Evidence, endorsements| with(&report.report, &endorsements, &vcek.anchors());
    // A VLEK's report and only a VCEK's certificate, and the other way round.
    assert_eq!(verdict(&vlek, of_vcek), ["chain.intermediate", "key.certificate"]);
    assert_eq!(verdict(&vcek, of_vlek), ["chain.intermediate", "key.certificate"]);
    // The other's certificate in the right place.
    let disguised = Endorsements { vcek: of_vlek.vlek, ..of_vlek };
    let wrong = ["chain.intermediate", "key.certificate", "report.signature", "key.chip"];
    assert_eq!(verdict(&vcek, disguised), wrong);
    // The other's issuer alone.
    let issuer = Endorsements { intermediate: of_vlek.intermediate, ..of_vcek };
    assert_eq!(verdict(&vcek, issuer), ["chain.intermediate", "key.signature"]);
    // The root as the issuer, and the issuer as the key.
    let root = Endorsements { intermediate: of_vcek.ark, ..of_vcek };
    assert_eq!(verdict(&vcek, root), ["chain.intermediate", "key.signature"]);
    let authority = Endorsements { vcek: of_vcek.intermediate, ..of_vcek };
    let found = verdict(&vcek, authority);
    assert!(found.contains(&"key.certificate") && found.contains(&"report.signature"), "{found:?}");
    // A key's certificate as the issuer: it may not issue any.
    let leaf = Endorsements { intermediate: of_vcek.vcek, ..of_vcek };
    assert_eq!(verdict(&vcek, leaf)[..1], ["chain.root"]);
    // Everything at once is no harm: the report says which.
    let both = Endorsements { vlek: of_vlek.vlek, ..of_vcek };
    verify(&vcek.report, &both, &vcek.anchors(), NOW).unwrap();
}

#[test]
fn no_silent_trust_certificates_that_are_missing_or_none() {
    let evidence = Evidence::new(Model::Milan);
    let of = evidence.endorsements();
    let verdict = |endorsements| with(&evidence.report, &endorsements, &evidence.anchors());
    assert_eq!(verdict(Endorsements::default()), ["chain.intermediate", "key.certificate"]);
    assert_eq!(verdict(Endorsements { vcek: None, ..of }), ["key.certificate"]);
    assert_eq!(verdict(Endorsements { intermediate: None, ..of }), ["chain.intermediate"]);
    assert_eq!(verdict(Endorsements { ark: Some(b"no"), ..of }), ["chain.ark"]);
    let mut long = evidence.certificates.vek.clone();
    long.push(0);
    assert_eq!(verdict(Endorsements { vcek: Some(&long), ..of }), ["key.certificate"]);
    let other = authority(Model::Genoa).unwrap().ark().unwrap();
    assert_eq!(verdict(Endorsements { ark: Some(&other), ..of }), ["chain.ark"]);
}

/// The certificate is for this chip, and for the versions that the report names: a newer or older one says so.
#[test]
fn no_silent_trust_certificates_for_other_chips_or_versions() {
    for model in Model::ALL {
        verify_forged(model);
        let bump: [(&str, Bump); 4] = [
            ("key.tcb.boot-loader", |tcb| tcb.boot_loader += 1),
            ("key.tcb.tee", |tcb| tcb.tee += 1),
            ("key.tcb.snp", |tcb| tcb.snp -= 1),
            ("key.tcb.microcode", |tcb| tcb.microcode = 0xd5),
        ];
        for (name, bump) in bump {
            assert_eq!(rejected(&Evidence::forged(model, |_| {}, |subject| bump(&mut subject.tcb))), [name]);
        }
        let chip = Evidence::forged(model, |_| {}, |subject| subject.chip_id[7] ^= 1);
        assert_eq!(rejected(&chip), ["key.chip"]);
        let masked = Evidence::forged(model, |report| report[0x1a0..0x1e0].fill(0), |_| {});
        assert_eq!(rejected(&masked), ["key.chip"]);
    }
    let fmc = Evidence::forged(Model::Turin, |_| {}, |subject| subject.tcb.fmc += 1);
    assert_eq!(rejected(&fmc), ["key.tcb.fmc"]);
    // Turin's identifiers have 8 bytes: more would be something that no certificate speaks of.
    let long = Evidence::forged(Model::Turin, |report| report[0x1a8] = 1, |_| {});
    assert_eq!(rejected(&long), ["key.chip"]);
}

/// Whoever gives the certificate of another product's chip is told what it is.
#[test]
fn no_silent_trust_certificates_for_other_products_chips() {
    let [genoa, turin] = [Model::Genoa, Model::Turin].map(|model| Evidence::forged(model, |_| {}, |_| {}));
    for form in [HwidForm::Raw, HwidForm::OctetString] {
        let keys = [Model::Genoa, Model::Turin].map(|model| Evidence::forged(model, |_| {}, |it| it.hwid_form = form));
        let said = |report: &Evidence, key: &Evidence| {
            let endorsements = Endorsements { vcek: key.endorsements().vcek, ..report.endorsements() };
            let rejected = verify(&report.report, &endorsements, &report.anchors(), NOW).unwrap_err();
            rejected.checks().named("key.chip").unwrap().actual.clone()
        };
        let [of_genoa, of_turin] = &keys;
        assert_eq!(said(&genoa, of_turin), "8 bytes long, as a Turin's, not 64 as a Genoa's");
        assert_eq!(said(&turin, of_genoa), "64 bytes long, as a Milan's or a Genoa's, not 8 as a Turin's");
    }
}

/// What is forged without a difference is verified: so a difference is what is found, elsewhere.
fn verify_forged(model: Model) {
    for form in [HwidForm::Raw, HwidForm::OctetString] {
        let forged = Evidence::forged(model, |_| {}, |subject| subject.hwid_form = form);
        verify(&forged.report, &forged.endorsements(), &forged.anchors(), NOW).unwrap();
    }
}

#[test]
fn no_silent_trust_versions_that_cannot_be() {
    // Microcode: last in every layout. Reported above committed, committed above running, firmware committed above
    // running.
    for (at, expected) in [(0x187, &["key.tcb.microcode", "report.tcb"][..]), (0x1e7, &["report.tcb"])] {
        let forged = Evidence::forged(Model::Genoa, |report| report[at] += 1, |_| {});
        let mut found = rejected(&forged);
        found.sort_unstable();
        assert_eq!(found, expected, "{at:#x}");
    }
    let firmware = Evidence::forged(Model::Genoa, |report| report[0x1ec] += 1, |_| {});
    assert_eq!(rejected(&firmware), ["report.tcb"]);
    // Reserved bytes of a version: where Turin has its microcode's neighbours, and Milan nothing.
    for (model, reserved) in [(Model::Milan, 2), (Model::Genoa, 5), (Model::Turin, 4)] {
        let forged = Evidence::forged(model, |report| report[0x1f0 + reserved] = 1, |_| {});
        assert_eq!(rejected(&forged), ["report.tcb"], "{model:?}");
    }
    // Provisional firmware can be what it is.
    let provisional = Evidence::forged(Model::Milan, |report| report[0x3f] += 1, |_| {});
    verify(&provisional.report, &provisional.endorsements(), &provisional.anchors(), NOW).unwrap();
}

#[test]
fn no_silent_trust_another_processor() {
    for (family, model) in [(0x19, 0x01), (0x1a, 0x02), (0x1b, 0x11), (0x1a, 0x50)] {
        let forged =
            Evidence::forged(Model::Genoa, |report| report[0x188..0x18a].copy_from_slice(&[family, model]), |_| {});
        assert_eq!(rejected(&forged), ["report.processor"]);
    }
}

/// A certificate is good from its first second to its last, and not one more.
#[test]
fn no_silent_trust_moments_outside() {
    let evidence = Evidence::forged(Model::Milan, |_| {}, |subject| subject.not_before += Duration::from_secs(10));
    let at = |seconds: u64| {
        verify(&evidence.report, &evidence.endorsements(), &evidence.anchors(), UnixTime::from_secs(seconds))
            .map_err(|rejected| failed(&rejected))
            .map(|verified| verified.checks().failed().count())
    };
    let epoch = tenure_silicon::chain::EPOCH.as_secs();
    let key_end = epoch + 10 + 7 * 365 * 86_400;
    let end = epoch + 20 * 365 * 86_400;
    let key = Err(vec!["key.validity"]);
    let everything = || {
        let mut all = vec!["chain.root.validity", "chain.intermediate.validity", "key.validity"];
        all.dedup();
        Err(all)
    };
    assert_eq!((at(epoch + 10), at(key_end)), (Ok(0), Ok(0)));
    assert_eq!((at(epoch + 9), at(key_end + 1), at(end)), (key.clone(), key.clone(), key));
    assert_eq!((at(epoch - 1), at(end + 1), at(u64::MAX)), (everything(), everything(), everything()));
}

/// A report that nobody signed, because the platform keeps its key to itself.
#[test]
fn no_silent_trust_reports_that_are_not_signed() {
    let unsigned = Evidence::forged(Model::Milan, |report| report[0x48] = 7 << 2 | 2, |_| {});
    assert_eq!(rejected(&unsigned), ["report.key"]);
}

/// A root is an authority that signed itself: nothing else can be given for one.
#[test]
fn no_silent_trust_test_roots_that_are_none() {
    let evidence = Evidence::new(Model::Milan);
    let error = |der: &[u8]| Anchors::none().with_test_root(Product::Milan, der).unwrap_err().to_string();
    assert_eq!(
        error(&evidence.certificates.intermediate),
        "the test root is not signed by itself: not signed by that key"
    );
    let vek = "the test root is no certificate of an authority: not an authority's: it may not sign certificates";
    assert_eq!(error(&evidence.certificates.vek), vek);
    assert!(error(b"").starts_with("the test root is no certificate of an authority: not a certificate: "));
}

/// What failed is said in words, all of it.
#[test]
fn a_verdict_is_a_text_for_people() {
    let forged = Evidence::forged(Model::Milan, |_| {}, |subject| subject.tcb.snp = 22);
    let rejected = why(&forged.report, &forged.endorsements(), &Anchors::amd());
    assert_eq!(
        rejected.to_string(),
        "evidence is rejected: chain.root: the root that the chain names is CN=TEST ARK-Milan,OU=software not hardware,\
         O=tenure test platform; it must be AMD's root of Milan or AMD's root of Genoa or AMD's root of Turin"
    );
    let rejected = why(&forged.report, &forged.endorsements(), &forged.anchors());
    assert_eq!(
        rejected.to_string(),
        "evidence is rejected: key.tcb.snp: the signing key's SNP firmware version is 22; it must be the report's: 23"
    );
    let passed = rejected.checks().named("chain.root").unwrap().to_string();
    assert_eq!(passed, "chain.root: the root that the chain names is a TEST root in place of Milan's");
    let skipped = rejected.checks().named("chain.revocation").unwrap().to_string();
    assert_eq!(skipped, "chain.revocation: revocation was not checked: there is no list of revoked certificates");
}
