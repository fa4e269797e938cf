//! What a policy and reference values refuse, and what a verdict claims. The evidence is of real chips, and of the software
//! platform.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::ops::Range;

use attest::UnixTime;
use attest::check::{Fault, Outcome};
use attest::snp::{
    Allowance, Anchors, Appraisal, Endorsements, Policy, Preset, Product, ReferenceValues, Requirement, TcbFloor, Tier,
    Verdict, appraise, verify,
};
use common::silicon::{DATA, Evidence, HOST_DATA};
use common::{NOW, vector};
use proptest::prelude::*;
use tenure_silicon::config::Config;
use tenure_silicon::model::Model;
use tenure_silicon::report::EndorsementKey;

/// Where a report has what the tests forge (firmware ABI specification 56860, "Attestation Report").
const FLAGS: usize = 0x48;
const AUTHOR_KEY_ENABLED: u8 = 1;
const CHIP_ID: Range<usize> = 0x1a0..0x1e0;
const ID_KEY_DIGEST: Range<usize> = 0xe0..0x110;

/// Any guest on any product.
fn open() -> Policy {
    let mut policy =
        Policy { products: Product::ALL.map(|product| (product, TcbFloor::default())).into(), ..Policy::default() };
    policy.allow.insert(Allowance::AnyGuest);
    policy
}

fn judge(evidence: &Evidence, policy: &Policy, references: &ReferenceValues) -> Appraisal {
    let verified = verify(&evidence.report, &evidence.endorsements(), &evidence.anchors(), NOW).unwrap();
    appraise(&verified, policy, references)
}

/// A real report of this name, below AMD's roots.
fn real(name: &str, intermediate: &str, policy: &Policy) -> Appraisal {
    let [report, vek] = ["report", "vek.der"].map(|kind| vector(&format!("real/{name}.{kind}")));
    let intermediate = vector(&format!("amd/{intermediate}.der"));
    let now = if name.contains("vlek") { UnixTime::from_secs(1_748_736_000) } else { NOW };
    let endorsements = Endorsements {
        vcek: Some(&vek),
        vlek: Some(&vek),
        intermediate: Some(&intermediate),
        ..Endorsements::default()
    };
    let verified = verify(&report, &endorsements, &Anchors::amd(), now).unwrap();
    appraise(&verified, policy, &ReferenceValues::default())
}

fn failed(appraisal: &Appraisal) -> Vec<&'static str> {
    appraisal.checks().failed().map(|check| check.id.name()).collect()
}

fn changed(model: Model, change: impl FnOnce(&mut [u8]), policy: &Policy) -> Vec<&'static str> {
    failed(&judge(&Evidence::forged(model, change, |_| {}), policy, &ReferenceValues::default()))
}

/// Law no-silent-trust: whatever passes, a test's root never makes hardware of it.
#[test]
fn no_silent_trust_a_test_root_affirms_nothing() {
    for model in Model::ALL {
        let appraisal = judge(&Evidence::new(model), &open(), &ReferenceValues::default());
        assert_eq!(failed(&appraisal), [""; 0]);
        assert_eq!((appraisal.verdict(), appraisal.tier()), (Verdict::TestPassed, Tier::SoftwareTest));
        assert_eq!(appraisal.tier().to_string(), "software-test");
    }
    let affirmed = real("genoa-v3-ms", "ask-genoa", &open());
    assert_eq!((affirmed.verdict(), affirmed.tier(), failed(&affirmed)), (Verdict::Affirmed, Tier::Hardware, vec![]));
}

/// The strict preset on reports that real chips signed: each is refused for what is wrong with it, and nothing else.
#[test]
fn real_reports_under_the_strict_policy() {
    const MILAN: &str = "policy.product";
    const GUEST: &str = "reference.guest";
    for (name, intermediate, expected) in [
        ("milan-v2-debug-gsg", "ask-milan", &[MILAN, "policy.debug", GUEST][..]),
        ("milan-v2-virtee", "ask-milan", &[MILAN, GUEST]),
        ("milan-v2-trustee", "ask-milan", &[MILAN, "policy.provisional-firmware", GUEST]),
        ("milan-v3-ms", "ask-milan", &[MILAN, GUEST]),
        ("genoa-v3-ms", "ask-genoa", &[GUEST]),
        ("turin-v5-ms", "ask-turin", &[GUEST]),
        ("milan-v3-vlek-trustee", "asvk-milan", &[MILAN, "policy.provisional-firmware", "policy.vmpl", GUEST]),
    ] {
        let appraisal = real(name, intermediate, &Policy::default());
        assert_eq!((failed(&appraisal), appraisal.verdict()), (expected.to_vec(), Verdict::NotMet), "{name}");
        assert_eq!(appraisal.checks().fault(), Some(Fault::Unmet), "{name}");
    }
    let hardened = failed(&real("genoa-v3-ms", "ask-genoa", &Policy::preset(Preset::Hardened)));
    assert!(
        hardened.contains(&"policy.revocation-list") && hardened.contains(&"policy.ciphertext-hiding"),
        "{hardened:?}"
    );
}

/// By how much the firmware's ABI was missed is said, as of every other floor.
#[test]
fn a_floor_under_the_abi_says_what_is_short_of_it() {
    for (abi, shortfall) in [((0, 31), None), ((0, 32), Some("0.31 < 0.32")), ((1, 5), Some("0.31 < 1.5"))] {
        let appraisal = real("genoa-v3-ms", "ask-genoa", &Policy { abi, ..open() });
        let check = appraisal.checks().named("policy.abi").unwrap();
        assert_eq!(check.shortfall.as_deref(), shortfall);
        assert_eq!(check.outcome == Outcome::Failed, shortfall.is_some());
    }
}

/// Pitfall: versions are compared part by part. One above what runs is too much in each of them, and no other part makes up
/// for it; exactly what runs is enough.
#[test]
fn no_silent_trust_floors_by_part_and_product() {
    for model in Model::ALL {
        let product = common::silicon::product(model);
        let fmc = u8::from(model == Model::Turin);
        let runs = TcbFloor { fmc, boot_loader: 9, tee: 0, snp: 23, microcode: 72 };
        let with = |floor| {
            let policy = Policy { products: [(product, floor)].into(), ..open() };
            failed(&judge(&Evidence::new(model), &policy, &ReferenceValues::default()))
        };
        assert_eq!(with(runs), [""; 0]);
        let parts: [(&str, TcbFloor); 4] = [
            ("boot-loader", TcbFloor { boot_loader: 10, ..runs }),
            ("tee", TcbFloor { tee: 1, ..runs }),
            ("snp", TcbFloor { snp: 24, ..runs }),
            ("microcode", TcbFloor { microcode: 73, ..runs }),
        ];
        for (part, floor) in parts {
            assert_eq!(with(floor), [format!("policy.tcb.{part}"), format!("policy.launch-tcb.{part}")], "{model:?}");
        }
        if model == Model::Turin {
            assert_eq!(with(TcbFloor { fmc: 2, ..runs }), ["policy.tcb.fmc", "policy.launch-tcb.fmc"]);
        }
    }
    let text = judge(
        &Evidence::new(Model::Genoa),
        &Policy { products: [(Product::Genoa, TcbFloor { snp: 24, ..TcbFloor::default() })].into(), ..open() },
        &ReferenceValues::default(),
    );
    let check = text.checks().named("policy.tcb.snp").unwrap().to_string();
    assert_eq!(check, "policy.tcb.snp: the SNP firmware version is 23; it must be at least 24");
}

/// Pitfall: the launch has a floor of its own, though all that runs now is new.
#[test]
fn no_silent_trust_an_old_platform_at_launch() {
    let policy = Policy { products: [(Product::Genoa, TcbFloor { snp: 23, ..TcbFloor::default() })].into(), ..open() };
    assert_eq!(changed(Model::Genoa, |report| report[0x1f6] = 22, &policy), ["policy.launch-tcb.snp"]);
}

/// Pitfall: DEBUG and MIGRATE_MA in the guest's policy are enough for refusal, and so is a migration agent's number.
#[test]
fn no_silent_trust_guests_that_are_open_to_their_host() {
    assert_eq!(changed(Model::Genoa, |report| report[0xa] |= 8, &open()), ["policy.debug"]);
    assert_eq!(changed(Model::Genoa, |report| report[0xa] |= 4, &open()), ["policy.migrate"]);
    assert_eq!(changed(Model::Genoa, |report| report[0x160] = 0, &open()), ["policy.migrate"]);
    assert_eq!(changed(Model::Genoa, |report| report[0xa] |= 0x20, &open()), ["policy.cxl"]);
    let mut single = open();
    single.allow.remove(&Allowance::Smt);
    assert_eq!(changed(Model::Genoa, |_| {}, &single), ["policy.smt"]);
    for level in [1, 2, 3] {
        assert_eq!(changed(Model::Genoa, |report| report[0x30] = level, &open()), ["policy.vmpl"]);
    }
    // The host is no VMPL, however high one may be.
    let any = Policy { vmpl: 3, ..open() };
    assert_eq!(changed(Model::Genoa, |report| report[0x30..0x34].fill(0xff), &any), ["policy.vmpl"]);
    let debug = judge(
        &Evidence::forged(Model::Genoa, |report| report[0xa] |= 8, |_| {}),
        &Policy { allow: Allowance::ALL.into(), ..open() },
        &ReferenceValues::default(),
    );
    let check = debug.checks().named("policy.debug").unwrap();
    assert_eq!((&check.outcome, check.advisory.is_some()), (&Outcome::Passed, true), "allowed, and still said");
}

/// Pitfall: provisional firmware can be gone back behind.
#[test]
fn no_silent_trust_provisional_firmware() {
    // Microcode and build that run are newer than what is committed.
    for at in [0x3f, 0x1e8] {
        assert_eq!(
            changed(Model::Genoa, |report| report[at] += 1, &open()),
            ["policy.provisional-firmware"],
            "{at:#x}"
        );
    }
}

/// Pitfall: aliases of memory (BadRAM), ciphertext hiding and the rest are there on demand, each by its own bit.
#[test]
fn no_silent_trust_requirements_that_are_not_met() {
    let with = |requirement, change: fn(&mut [u8])| {
        changed(Model::Genoa, change, &Policy { require: [requirement].into(), ..open() })
    };
    type Case = (Requirement, fn(&mut [u8]), fn(&mut [u8]), &'static str);
    let cases: [Case; 6] = [
        (Requirement::AliasCheck, |it| it[0x40] |= 1 << 5, |it| it[0x40] = !(1 << 5) & 0x3f, "policy.alias-check"),
        (Requirement::CiphertextHiding, |it| it[0x40] |= 1 << 4, |it| it[0x40] = 0x2f, "policy.ciphertext-hiding"),
        (Requirement::RaplOff, |it| it[0x40] |= 1 << 3, |it| it[0x40] = 0x37, "policy.rapl-off"),
        (Requirement::SingleSocket, |it| it[0xa] |= 1 << 4, |_| {}, "policy.single-socket"),
        (Requirement::Aes256Xts, |it| it[0xa] |= 1 << 6, |_| {}, "policy.aes-256-xts"),
        (Requirement::PageSwapOff, |it| it[0xb] |= 1 << 1, |_| {}, "policy.page-swap-off"),
    ];
    for (requirement, meet, miss, name) in cases {
        assert_eq!(with(requirement, meet), [""; 0], "{name}");
        assert_eq!(with(requirement, miss), [name]);
    }
    assert_eq!(with(Requirement::IdKey, |_| {}), ["policy.id-key"]);
    assert_eq!(with(Requirement::IdKey, |it| it[0xe0] = 1), [""; 0]);
    // A digest without the bit that says so proves nothing.
    assert_eq!(with(Requirement::AuthorKey, |it| it[0x110] = 1), ["policy.author-key"]);
    assert_eq!(with(Requirement::AuthorKey, |it| (it[0x110], it[0x48]) = (1, 1)), [""; 0]);
    let vlek = Evidence::of(Config::new(Model::Genoa, [0x5e; 32]), EndorsementKey::Vlek);
    let policy = Policy { require: [Requirement::ChipKey].into(), ..open() };
    assert_eq!(failed(&judge(&vlek, &policy, &ReferenceValues::default())), ["policy.chip-key"]);
}

/// Pitfall: mitigations must have been there at launch as well as now, and old reports don't say.
#[test]
fn no_silent_trust_mitigations() {
    let policy = Policy { mitigations: 3, ..open() };
    assert_eq!(changed(Model::Turin, |_| {}, &policy), [""; 0]);
    for at in [0x1f8, 0x200] {
        assert_eq!(changed(Model::Turin, |report| report[at] = 1, &policy), ["policy.mitigations"], "{at:#x}");
    }
    assert_eq!(changed(Model::Genoa, |_| {}, &policy), ["policy.mitigations"]);
    assert_eq!(changed(Model::Milan, |_| {}, &Policy { report_version: 3, ..open() }), ["policy.report-version"]);
    assert_eq!(changed(Model::Milan, |_| {}, &Policy { guest_svn: 1, ..open() }), ["policy.guest-svn"]);
}

/// Pitfall: what is known about Milan is said whether it is allowed or not, and it is not allowed unless by name.
#[test]
fn no_silent_trust_milan_is_named_or_refused() {
    let references = ReferenceValues::default();
    for (policy, refused) in [(Policy::default(), true), (Policy::preset(Preset::Hardened), true), (open(), false)] {
        let appraisal = judge(&Evidence::new(Model::Milan), &policy, &references);
        let check = appraisal.checks().named("policy.product").unwrap();
        assert_eq!(check.outcome == Outcome::Failed, refused);
        assert!(check.advisory.is_some_and(|advisory| advisory.contains("2605.12990")));
    }
}

/// Pitfall: one bit of what is expected that is another is named, and so is that nothing is expected at all.
#[test]
fn no_silent_trust_reference_values() {
    let evidence = Evidence::forged(Model::Turin, |report| report[ID_KEY_DIGEST].fill(0x1d), |_| {});
    let verified = verify(&evidence.report, &evidence.endorsements(), &evidence.anchors(), NOW).unwrap();
    let report = *verified.evidence();
    let good = ReferenceValues {
        launch_digests: vec![[7; 48], *report.measurement()],
        report_data: Some(DATA),
        host_data: Some(HOST_DATA),
        id_keys: vec![*report.id_key().unwrap()],
        author_keys: vec![],
        chips: vec![*report.chip().unwrap()],
    };
    assert_eq!(judge(&evidence, &Policy::default(), &good).verdict(), Verdict::TestPassed);
    let with = |change: fn(&mut ReferenceValues)| {
        let mut references = good.clone();
        change(&mut references);
        failed(&judge(&evidence, &Policy::default(), &references))
    };
    assert_eq!(with(|it| it.launch_digests[1][47] ^= 1), ["reference.launch-digest"]);
    assert_eq!(with(|it| it.report_data = Some([0; 64])), ["reference.report-data"]);
    assert_eq!(with(|it| it.host_data.as_mut().unwrap()[0] ^= 0x80), ["reference.host-data"]);
    assert_eq!(with(|it| it.id_keys[0][0] ^= 1), ["reference.id-key"]);
    assert_eq!(with(|it| it.chips[0][7] ^= 1), ["reference.chip"]);
    // Zeros are no author's key: nobody signed.
    assert_eq!(with(|it| it.author_keys = vec![[0; 48]]), ["reference.author-key"]);
    assert_eq!(with(|it| *it = ReferenceValues::default()), ["reference.guest"]);
    assert_eq!(failed(&judge(&evidence, &open(), &ReferenceValues::default())), [""; 0]);
    let replay = judge(&evidence, &open(), &ReferenceValues::default());
    assert!(replay.checks().named("reference.report-data").unwrap().advisory.is_some());
}

/// Law no-silent-trust: zeros in a report say that there is no key and no chip, and whoever expects zeros expects nobody. Were
/// they compared, zeros for a key would let in every guest that nobody signed.
#[test]
fn no_silent_trust_zeros_name_nobody() {
    let nobody = |evidence: Evidence, references: ReferenceValues| failed(&judge(&evidence, &open(), &references));
    let id_keys = ReferenceValues { id_keys: vec![[0; 48]], ..ReferenceValues::default() };
    assert_eq!(nobody(Evidence::new(Model::Turin), id_keys), ["reference.id-key"]);

    // The bit says that an author's key signed; the digest is of none.
    let author = Evidence::forged(Model::Turin, |report| report[FLAGS] |= AUTHOR_KEY_ENABLED, |_| {});
    let author_keys = ReferenceValues { author_keys: vec![[0; 48]], ..ReferenceValues::default() };
    assert_eq!(nobody(author, author_keys), ["reference.author-key"]);

    let of_provider = Evidence::of(Config::new(Model::Genoa, [0x5e; 32]), EndorsementKey::Vlek);
    let chips = ReferenceValues { chips: vec![[0; 64]], ..ReferenceValues::default() };
    assert_eq!(nobody(of_provider, chips), ["reference.chip"]);
}

/// Law no-silent-trust: a provider's key is of no chip, so that a report that it signed names none, whatever stands where chips
/// are named: the key's certificate binds none of it.
#[test]
fn no_silent_trust_a_providers_key_names_no_chip() {
    for model in Model::ALL {
        let of_chip = Evidence::new(model);
        let chip: [u8; 64] = of_chip.report[CHIP_ID].try_into().unwrap();
        let references = ReferenceValues { chips: vec![chip], ..ReferenceValues::default() };
        assert_eq!(failed(&judge(&of_chip, &open(), &references)), [""; 0]);

        let says_so = |report: &mut [u8]| report[CHIP_ID].copy_from_slice(&chip);
        let of_provider = Evidence::forged_by(EndorsementKey::Vlek, model, says_so, |_| {});
        let verified = verify(&of_provider.report, &of_provider.endorsements(), &of_provider.anchors(), NOW).unwrap();
        assert_eq!((verified.evidence().chip_id(), verified.evidence().chip()), (&chip, None));
        let appraisal = appraise(&verified, &open(), &references);
        assert_eq!(failed(&appraisal), ["reference.chip"]);
        let check = appraisal.checks().named("reference.chip").unwrap();
        assert_eq!(check.actual, "none: the report names no chip");
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    let floor = || (0..3u8, 0..12u8, 0..2u8, 20..26u8, 70..75u8);
    let floor =
        floor().prop_map(|(fmc, boot_loader, tee, snp, microcode)| TcbFloor { fmc, boot_loader, tee, snp, microcode });
    (
        prop::collection::btree_map(prop::sample::select(&Product::ALL[..]), floor, 0..4),
        prop::collection::btree_set(prop::sample::select(&Allowance::ALL[..]), 0..7),
        prop::collection::btree_set(prop::sample::select(&Requirement::ALL[..]), 0..10),
        (2..6u32, 0..3u8, 0..4u8, 0..2u32, 0..8u64),
    )
        .prop_map(|(products, allow, require, (report_version, minor, vmpl, guest_svn, mitigations))| Policy {
            products,
            crls: [].into(),
            allow,
            require,
            report_version,
            abi: (0, minor),
            vmpl,
            guest_svn,
            mitigations,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// no-silent-trust: allowing more never refuses more, requiring more never refuses less, and the list of checks is
    /// always the same.
    #[test]
    fn no_silent_trust_policies_are_monotonous(
        which in 0..3usize,
        policy in policies(),
        allow in prop::sample::select(&Allowance::ALL[..]),
        require in prop::sample::select(&Requirement::ALL[..]),
    ) {
        let evidence = Evidence::new(Model::ALL[which]);
        let verified = verify(&evidence.report, &evidence.endorsements(), &evidence.anchors(), NOW).unwrap();
        let judge = |policy: &Policy| appraise(&verified, policy, &ReferenceValues::default());
        let names = |appraisal: &Appraisal| appraisal.checks().iter().map(|check| check.id.name()).collect::<Vec<_>>();
        let first = judge(&policy);
        let mut more = policy.clone();
        more.allow.insert(allow);
        let lenient = judge(&more);
        prop_assert!(failed(&lenient).iter().all(|name| failed(&first).contains(name)));
        let mut more = policy.clone();
        more.require.insert(require);
        let strict = judge(&more);
        prop_assert!(failed(&first).iter().all(|name| failed(&strict).contains(name)));
        let mut unique = names(&first);
        unique.sort_unstable();
        unique.dedup();
        prop_assert_eq!(unique.len(), names(&first).len());
        for other in [lenient, strict] {
            prop_assert_eq!(names(&other), names(&first));
            prop_assert_eq!(other.verdict() == Verdict::NotMet, !failed(&other).is_empty());
            prop_assert_ne!(other.verdict(), Verdict::Affirmed);
        }
    }
}
