//! Reports, tables of certificates, and whole evidence.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use attest::snp::certificates::Kind;
use attest::snp::{
    Allowance, Anchor, Anchors, CertificateTable, Endorsements, Policy, Product, ReferenceValues, Report, Requirement,
    TcbFloor, appraise, verify,
};
use attest::{UnixTime, Verified};
use tenure_silicon::chain::{EPOCH, HwidForm, VekSubject, authority};
use tenure_silicon::model::{Model, Tcb};
use tenure_silicon::report::EndorsementKey;
use tenure_silicon::signing::KeyPair;

use crate::script::{Input, change, flip};
use crate::vectors::{NOW, all, vector};

/// 2025-06-01: a provider's key is good for a year.
const DAYS_OF_THE_VLEK: UnixTime = UnixTime::from_secs(1_748_736_000);

/// What is read is what is there.
pub(crate) fn report(input: &[u8]) {
    let Ok(report) = Report::parse(input) else { return };
    assert_eq!(report.bytes(), input);
    assert_eq!(report.signed_bytes(), &input[..0x2a0]);
    assert!((2..=5).contains(&report.version()));
    assert_eq!(report.report_data()[..], input[0x50..0x90]);
    assert_eq!(report.measurement()[..], input[0x90..0xc0]);
    let _ = (report.requester(), report.signing_key(), report.signature(), report.mitigations());
    for product in Product::ALL {
        let tcbs = [report.current_tcb(), report.reported_tcb(), report.committed_tcb(), report.launch_tcb()];
        let _ = tcbs.map(|tcb| tcb.unpack(product).map(|tcb| tcb.to_string()));
    }
    if let Some(processor) = report.processor() {
        let _ = (processor.product(), processor.to_string());
    }
}

pub(crate) fn report_seeds() -> Vec<Vec<u8>> {
    let mut seeds = all("snp/attest/real", ".report");
    seeds.extend(["good-milan-v4", "good-genoa-v5", "pol-author-key"].map(synthetic_report));
    seeds
}

fn synthetic_report(name: &str) -> Vec<u8> {
    vector(&format!("snp/attest/synthetic/{name}.report"))
}

/// Certificates lie where the table says, apart from each other.
pub(crate) fn table(input: &[u8]) {
    let Ok(table) = CertificateTable::parse(input) else { return };
    let mut end = input.as_ptr();
    let mut kinds = Vec::new();
    for (kind, certificate) in table.iter() {
        let range = certificate.as_ptr_range();
        assert!(end <= range.start && range.end <= input.as_ptr_range().end, "{kind}");
        end = range.end;
        assert!(!kinds.contains(&kind), "{kind}");
        assert!(matches!(kind, Kind::Other(_)) || !kind.to_string().is_empty());
        kinds.push(kind);
    }
    let _ = table.endorsements();
}

pub(crate) fn table_seeds() -> Vec<Vec<u8>> {
    let guids: [u128; 3] =
        [0x63da_758d_e664_4564_adc5_f4b9_3be8_accd, 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782, u128::MAX];
    let mut small = Vec::new();
    for (offset, guid) in (96u32..).step_by(4).zip(guids) {
        small.extend(guid.to_be_bytes());
        small.extend([offset.to_le_bytes(), 4u32.to_le_bytes()].concat());
    }
    small.extend([0; 24 + 12]);
    vec![small, vec![0; 24], vector("../../host/tests/cli/attest.in/genoa.table")]
}

/// Good evidence: report, the key's certificate, who issued it, the root that comes along, and a list.
struct Good {
    parts: [Vec<u8>; 5],
    anchor: Anchor,
    now: UnixTime,
}

static GOOD: LazyLock<Vec<Good>> = LazyLock::new(|| {
    let real = [
        ("milan-v3-ms", "ask-milan", Product::Milan, NOW),
        ("genoa-v3-ms", "ask-genoa", Product::Genoa, NOW),
        ("turin-v5-ms", "ask-turin", Product::Turin, NOW),
        ("milan-v3-vlek-trustee", "asvk-milan", Product::Milan, DAYS_OF_THE_VLEK),
    ];
    let real = real.map(|(name, issuer, product, now)| {
        let parts = [
            vector(&format!("snp/attest/real/{name}.report")),
            vector(&format!("snp/attest/real/{name}.vek.der")),
            vector(&format!("snp/attest/amd/{issuer}.der")),
            Vec::new(),
            Vec::new(),
        ];
        Good { parts, anchor: Anchor::Amd(product), now }
    });
    let synthetic = [
        ("good-milan-v3", "ask-milan", Product::Milan),
        ("good-vlek", "asvk-milan", Product::Milan),
        ("good-turin-v5", "ask-turin", Product::Turin),
    ];
    let synthetic = synthetic.map(|(name, issuer, product)| {
        let file = |name: &str| vector(&format!("snp/attest/synthetic/{name}"));
        let of = product.name().to_lowercase();
        let parts = [
            file(&format!("{name}.report")),
            file(&format!("{name}.vek.der")),
            file(&format!("{issuer}.der")),
            file(&format!("ark-{of}.der")),
            file(&format!("crl-{of}-good.der")),
        ];
        Good { parts, anchor: Anchor::Test(product), now: NOW }
    });
    real.into_iter().chain(synthetic).collect()
});

/// AMD's roots, with what is known of their issuers so that an input takes half the time, and those of the synthetic
/// evidence, of whose issuers nothing is.
static ANCHORS: LazyLock<Anchors> = LazyLock::new(|| {
    let amd = Anchors::amd().with_known_intermediates();
    [("milan", Product::Milan), ("turin", Product::Turin)].into_iter().fold(amd, |anchors, (of, product)| {
        anchors.with_test_root(product, &vector(&format!("snp/attest/synthetic/ark-{of}.der"))).unwrap()
    })
});

/// What is verified says what it said, and rests on the root it rested on. A test's root never gives hardware's verdict.
pub(crate) fn evidence(input: &[u8]) {
    let mut input = Input(input);
    let good = input.one_of(&GOOD);
    let (policy, references) = wishes(&mut input, &good.parts[0]);
    let mut parts = good.parts.clone();
    let is_changed = change(&mut parts, &mut input);
    let [report, vek, intermediate, ark, crl] = &parts;
    fn there(part: &[u8]) -> Option<&[u8]> {
        (!part.is_empty()).then_some(part)
    }
    let endorsements = Endorsements {
        vcek: there(vek),
        vlek: there(vek),
        intermediate: there(intermediate),
        ark: there(ark),
        crl: there(crl),
        malformed: None,
    };
    match verify(report, &endorsements, &ANCHORS, good.now) {
        Ok(verified) => {
            assert_eq!(verified.anchor(), good.anchor);
            assert_eq!(verified.evidence().signed_bytes(), &good.parts[0][..0x2a0]);
            assert_eq!((vek, intermediate), (&good.parts[1], &good.parts[2]));
            judge(&verified, &policy, &references);
        }
        Err(rejected) => {
            let text = rejected.to_string();
            assert!(is_changed, "{text}");
            assert!(rejected.checks().iter().any(|check| check.is_fatal()), "{text}");
        }
    }
}

pub(crate) fn evidence_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..7).map(|number| vec![number]).collect();
    for (part, at) in [(0, 0x90), (0, 0x2a0), (1, 100), (1, 700), (2, 300), (3, 80), (4, 40)] {
        seeds.push([vec![4], vec![0; WISHES], flip(part, at, 0)].concat());
    }
    seeds
}

/// Reports that are changed and then signed: nothing stands between an input and what is asked of a guest. Below a root
/// that everybody has the key of.
pub(crate) fn signed(input: &[u8]) {
    let mut input = Input(input);
    let chip = input.one_of(&CHIPS);
    let (policy, references) = wishes(&mut input, &chip.report);
    let mut parts = [chip.report.clone()];
    change(&mut parts, &mut input);
    let [report] = &mut parts;
    report.resize(0x4a0, 0);
    let signature = KEY.sign(&report[..0x2a0]);
    report[0x2a0..0x2a0 + signature.len()].copy_from_slice(&signature);
    let endorsements =
        Endorsements { vcek: Some(&chip.vek), intermediate: Some(&chip.intermediate), ..Endorsements::default() };
    if let Ok(verified) = verify(report, &endorsements, &chip.anchors, NOW) {
        assert!(!verified.anchor().is_hardware());
        judge(&verified, &policy, &references);
    }
}

pub(crate) fn signed_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..3).map(|number| vec![number]).collect();
    for at in [0x8, 0xa, 0x30, 0x38, 0x40, 0x48, 0x180, 0x188, 0x1e0, 0x1f0, 0x1f8] {
        seeds.push([vec![1], vec![0xff; WISHES], flip(0, at, 0)].concat());
    }
    seeds
}

/// A chip in software that has a real report's numbers, and a key of its own.
struct Chip {
    report: Vec<u8>,
    vek: Vec<u8>,
    intermediate: Vec<u8>,
    anchors: Anchors,
}

static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::from_seed([7; 32]));

static CHIPS: LazyLock<Vec<Chip>> = LazyLock::new(|| {
    let models = [(Model::Milan, Product::Milan), (Model::Genoa, Product::Genoa), (Model::Turin, Product::Turin)];
    let reports = ["milan-v3-ms", "genoa-v3-ms", "turin-v5-ms"];
    let chip = |((model, product), report): (_, &str)| {
        let report = vector(&format!("snp/attest/real/{report}.report"));
        let parsed = Report::parse(&report).unwrap();
        let tcb = parsed.reported_tcb().unpack(product).unwrap();
        let subject = VekSubject {
            kind: EndorsementKey::Vcek,
            public_point: KEY.public_point(),
            tcb: Tcb {
                fmc: tcb.fmc.unwrap_or_default(),
                boot_loader: tcb.boot_loader,
                tee: tcb.tee,
                snp: tcb.snp,
                microcode: tcb.microcode,
            },
            chip_id: *parsed.chip_id(),
            hwid_form: HwidForm::Raw,
            csp_id: String::new(),
            not_before: EPOCH,
        };
        let authority = authority(model).unwrap();
        let anchors = Anchors::none().with_test_root(product, &authority.ark().unwrap()).unwrap();
        let intermediate = authority.intermediate(EndorsementKey::Vcek).unwrap();
        Chip { vek: authority.vek(&subject).unwrap(), report, intermediate, anchors }
    };
    models.into_iter().zip(reports).map(chip).collect()
});

/// Bytes of an input that say what is wanted.
const WISHES: usize = 12;

/// A policy and values, as an input says.
fn wishes(input: &mut Input<'_>, report: &[u8]) -> (Policy, ReferenceValues) {
    let [allow, require, more, products, floor, version, major, minor, vmpl, svn, mitigations, values] =
        input.take::<WISHES>().unwrap_or_default();
    let wanted = u16::from_le_bytes([require, more]);
    let chosen = |bits: u16, index: usize| bits >> index & 1 == 1;
    let floor = TcbFloor { fmc: floor & 1, boot_loader: floor & 3, tee: 0, snp: floor, microcode: floor };
    let policy = Policy {
        products: products_of(products, floor),
        // The upper bits, as if they were a list's number.
        crls: Product::ALL.into_iter().map(|product| (product, u32::from(products >> 3))).collect(),
        allow: pick(&Allowance::ALL, |index| chosen(allow.into(), index)),
        require: pick(&Requirement::ALL, |index| chosen(wanted, index)),
        report_version: u32::from(version % 6),
        abi: (major, minor),
        vmpl: vmpl % 4,
        guest_svn: svn.into(),
        mitigations: mitigations.into(),
    };
    let mut references = ReferenceValues::default();
    if let Ok(report) = Report::parse(report) {
        if values & 1 == 1 {
            references.launch_digests.push(*report.measurement());
        }
        references.report_data = (values & 2 == 2).then_some(*report.report_data());
        references.host_data = (values & 4 == 4).then_some([values; 32]);
        if values & 8 == 8 {
            references.id_keys.push(*report.id_key_digest());
            references.author_keys.push([values; 48]);
        }
        if values & 16 == 16 {
            references.chips.push(*report.chip_id());
        }
    }
    (policy, references)
}

fn products_of(bits: u8, floor: TcbFloor) -> std::collections::BTreeMap<Product, TcbFloor> {
    let chosen = Product::ALL.into_iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
    chosen.map(|(_, product)| (product, floor)).collect()
}

fn pick<T: Copy + Ord>(all: &[T], chosen: impl Fn(usize) -> bool) -> BTreeSet<T> {
    all.iter().enumerate().filter(|(index, _)| chosen(*index)).map(|(_, it)| *it).collect()
}

/// Promises of every appraisal, and of a report's.
fn judge(verified: &Verified<Report<'_>>, policy: &Policy, references: &ReferenceValues) {
    let appraisal = appraise(verified, policy, references);
    super::appraisal::judge(&appraisal, verified.anchor());
    let has_failed = appraisal.checks().failed().next().is_some();
    let is_allowed = policy.products.contains_key(&verified.anchor().product());
    assert!(is_allowed || has_failed, "a product that is not allowed");
    let names_nobody = references.id_keys.contains(&[0; 48]) || references.chips.contains(&[0; 64]);
    assert!(!names_nobody || has_failed, "zeros are nobody's, and met");
    assert!(verified.checks().iter().all(|check| !check.to_string().is_empty()));
}
