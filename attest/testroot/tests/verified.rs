//! Reports below a test root, judged by those who share no code with it: `attest`, and the crate `sev`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../tests/common/silicon.rs"]
#[expect(dead_code, unreachable_pub, reason = "it is shared with others, who use other parts")]
mod silicon;

use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use attest::snp::report::{Requester, SigningKey};
use attest::snp::{
    Anchor, Anchors, CertificateTable, Policy, Preset, Product, ReferenceValues, Report, Tier, Verdict, appraise,
    verify,
};
use attest::{Rejected, UnixTime};
use proptest::prelude::*;
use sev::certs::snp::{Certificate, Chain, Verifiable as _, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;
use silicon::{Evidence, product};
use tenure_silicon::config::Config;
use test_root::chain::Authority;
use test_root::chip::Seed;
use test_root::model::{Model, Tcb};
use test_root::report::{EndorsementKey, Identity, REPORT_BYTES, SIGNED_BYTES, Vmpl};
use test_root::{Statement, TestRoot};

/// 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// 2026-06-01.
const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);

/// A root, with keys that everybody has: making others takes seconds.
fn root(model: Model) -> &'static TestRoot {
    static ROOTS: [OnceLock<TestRoot>; 3] = [const { OnceLock::new() }; 3];
    let index = Model::ALL.iter().position(|of| *of == model).unwrap();
    ROOTS[index].get_or_init(|| {
        let keys = tenure_silicon::chain::authority(model).unwrap().to_pkcs8().unwrap();
        let authority = Authority::from_pkcs8(model, keys.each_ref().map(|key| &key[..]), EPOCH).unwrap();
        let dir = tempfile::tempdir().unwrap();
        TestRoot::create(&dir.path().join("root"), authority, Seed([0x5e; 32])).unwrap();
        TestRoot::load_at(&dir.path().join("root"), EPOCH).unwrap()
    })
}

/// Below this root, if it is allowed for this product.
fn verified(report: &[u8], table: &[u8], anchors: &Anchors) -> Result<Anchor, Rejected> {
    let table = CertificateTable::parse(table).unwrap();
    verify(report, &table.endorsements(), anchors, NOW).map(|verified| verified.anchor())
}

fn below(root: &TestRoot) -> Anchors {
    Anchors::amd().with_test_root(product(root.model()), root.anchor()).unwrap()
}

fn failed(rejected: &Rejected) -> Vec<&'static str> {
    rejected.checks().failed().map(|check| check.id.name()).collect()
}

/// What `sev` says of signatures and chain; more it does not look at.
fn sev_accepts(report: &[u8], table: &[u8]) -> bool {
    let endorsements = CertificateTable::parse(table).unwrap().endorsements();
    let [ark, ask, vek] =
        [endorsements.ark, endorsements.intermediate, endorsements.vcek].map(|der| Certificate::from_der(der?).ok());
    let (Some(ark), Some(ask), Some(vek)) = (ark, ask, vek) else { return false };
    let chain = Chain { ca: ca::Chain { ark, ask }, vek };
    AttestationReport::from_bytes(report).is_ok_and(|report| (&chain, &report).verify().is_ok())
}

/// A software root of trust can never pass for hardware: only where it is named, and then as a test.
#[test]
fn no_silent_trust_a_test_passes_below_the_named_root_and_nowhere_else() {
    for model in Model::ALL {
        let root = root(model);
        let statement = Statement { report_data: [0xda; 64], ..Statement::new([0x11; 48]) };
        let (report, table) = (root.sign(&statement), root.certificates());
        assert_eq!(verified(&report, table, &below(root)).unwrap(), Anchor::Test(product(model)));
        assert!(sev_accepts(&report, table), "{model:?}");

        // The root that comes along is none, and neither is this one in another product's place, or another root.
        assert_eq!(failed(&verified(&report, table, &Anchors::amd()).unwrap_err()), ["chain.root"]);
        for other in Model::ALL.into_iter().filter(|other| *other != model) {
            let misplaced = Anchors::amd().with_test_root(product(other), root.anchor()).unwrap();
            verified(&report, table, &misplaced).unwrap_err();
            verified(&report, table, &below(self::root(other))).unwrap_err();
        }
    }
}

/// What the strictest policy without a list of revoked ones wants is met, and the verdict is a test's all the same.
#[test]
fn no_silent_trust_the_verdict_is_test_passed_at_best() {
    for model in [Model::Genoa, Model::Turin] {
        let root = root(model);
        let report = root.sign(&Statement { report_data: [0xda; 64], ..Statement::new([0x11; 48]) });
        let table = CertificateTable::parse(root.certificates()).unwrap();
        let verified = verify(&report, &table.endorsements(), &below(root), NOW).unwrap();
        let wanted = |digest| ReferenceValues {
            launch_digests: vec![digest],
            report_data: Some([0xda; 64]),
            chips: vec![root.chip_id()],
            ..ReferenceValues::default()
        };
        let judge = |digest| appraise(&verified, &Policy::preset(Preset::Strict), &wanted(digest));
        assert_eq!((judge([0x11; 48]).verdict(), judge([0x11; 48]).tier()), (Verdict::TestPassed, Tier::SoftwareTest));
        assert_eq!((judge([0x12; 48]).verdict(), judge([0x12; 48]).tier()), (Verdict::NotMet, Tier::SoftwareTest));
    }
}

/// no-silent-trust: a bit of what is signed, of a signature or of a certificate, and nothing is verified.
#[test]
fn no_silent_trust_changed_bytes() {
    let root = root(Model::Genoa);
    let report = root.sign(&Statement::new([0x11; 48]));
    for at in (0..SIGNED_BYTES).step_by(5).chain(SIGNED_BYTES..SIGNED_BYTES + 144).chain([REPORT_BYTES - 1]) {
        let mut changed = report.clone();
        changed[at] ^= 1;
        assert!(verified(&changed, root.certificates(), &below(root)).is_err(), "{at:#x}");
    }
    // Of ASK and VCEK; the ARK that comes along is not what anything rests on.
    let table = root.certificates();
    let offset =
        |row: usize| usize::try_from(u32::from_le_bytes(table[row * 24 + 16..][..4].try_into().unwrap())).unwrap();
    for at in (offset(1)..table.len()).step_by(23).chain([offset(2), table.len() - 1]) {
        let mut changed = table.to_vec();
        changed[at] ^= 1;
        assert!(verified(&report, &changed, &below(root)).is_err(), "{at}");
    }
}

/// The software platform can be put below the same root, and then the same anchor is all that a relying party needs.
#[test]
fn a_software_platform_below_the_same_root() {
    for kind in [EndorsementKey::Vcek, EndorsementKey::Vlek] {
        let root = root(Model::Genoa);
        let authority = Some(Arc::clone(root.authority()));
        let evidence = Evidence::of(Config { authority, ..Config::new(Model::Genoa, [7; 32]) }, kind);
        let table = evidence.certificates.to_bytes();
        assert_eq!(verified(&evidence.report, &table, &below(root)).unwrap(), Anchor::Test(Product::Genoa));
        assert_ne!(evidence.report[0x1a0..0x1e0], root.chip_id(), "another chip");
    }
}

/// The verifier shares no code with the signer: neither is built with the other, but for tests.
#[test]
fn signer_and_verifier_are_strangers() {
    let here = env!("CARGO_MANIFEST_DIR");
    let of = |manifest: &str| {
        let text = fs::read_to_string(format!("{here}/{manifest}")).unwrap();
        let manifest: toml::Table = toml::from_str(&text).unwrap();
        manifest["dependencies"].as_table().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    let (signer, verifier) = (of("Cargo.toml"), of("../Cargo.toml"));
    for ours in ["attest", "snp", "test-root", "tenure-silicon"] {
        assert!(!signer.iter().chain(&verifier).any(|name| name == ours), "{ours}");
    }
}

/// Any statement.
fn statements() -> impl Strategy<Value = Statement> {
    let digest = || any::<[u8; 48]>();
    let identity = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u32>(), digest(), prop::option::of(digest()));
    let identity = identity.prop_map(|(family_id, image_id, guest_svn, id_key_digest, author_key_digest)| Identity {
        family_id,
        image_id,
        guest_svn,
        id_key_digest,
        author_key_digest,
    });
    let level = prop::sample::select(Vmpl::ALL.to_vec());
    let policy = (0..1u64 << 26).prop_map(|policy| policy | 1 << 17);
    let guest = (digest(), prop::option::of(identity), prop::option::of(any::<[u8; 32]>()));
    (guest, any::<[u8; 64]>(), any::<[u8; 32]>(), policy, level).prop_map(
        |((measurement, identity, report_id), report_data, host_data, policy, vmpl)| Statement {
            measurement,
            report_data,
            host_data,
            policy,
            vmpl,
            identity,
            report_id,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is stated is what others read, and is verified below this root.
    #[test]
    fn what_was_stated_is_what_is_read(statement in statements(), model in prop::sample::select(Model::ALL.to_vec())) {
        let root = root(model);
        let bytes = root.sign(&statement);
        prop_assert_eq!(bytes.len(), REPORT_BYTES);
        let anchor = verified(&bytes, root.certificates(), &below(root));
        prop_assert!(anchor.as_ref().is_ok_and(|anchor| !anchor.is_hardware()), "{anchor:?}");
        let report = Report::parse(&bytes).unwrap();
        prop_assert_eq!(report.version(), model.report_version());
        prop_assert_eq!(report.measurement(), &statement.measurement);
        prop_assert_eq!(report.report_data(), &statement.report_data);
        prop_assert_eq!(report.host_data(), &statement.host_data);
        prop_assert_eq!(report.policy(), statement.policy);
        prop_assert_eq!(report.requester(), Requester::Vmpl(u8::try_from(statement.vmpl.number()).unwrap()));
        prop_assert_eq!(report.signing_key(), SigningKey::Vcek);
        prop_assert_eq!(report.chip_id(), &root.chip_id());
        let theirs = AttestationReport::from_bytes(&bytes[..]).unwrap();
        prop_assert_eq!(u64::from(theirs.policy), statement.policy);
        prop_assert_eq!((theirs.measurement, theirs.host_data), (statement.measurement, statement.host_data));
        prop_assert_eq!(theirs.reported_tcb.snp, Tcb::usual(model).snp);
        let identity = statement.identity;
        prop_assert_eq!(theirs.guest_svn, identity.map_or(0, |identity| identity.guest_svn));
        prop_assert_eq!(theirs.id_key_digest, identity.map_or([0; 48], |identity| identity.id_key_digest));
        let author = identity.and_then(|identity| identity.author_key_digest);
        prop_assert_eq!(theirs.key_info.author_key_en(), author.is_some());
        prop_assert_eq!(theirs.author_key_digest, author.unwrap_or([0; 48]));
        prop_assert!(statement.report_id.is_none_or(|id| id == theirs.report_id));
    }
}
