//! Law no-silent-trust: what is done to evidence that is accepted, by hand and one at a time, and why it is refused then.
//!
//! Who collected the vectors also listed the changes that every verifier must notice. This is the list, and where each of
//! them is made; the tests in this file make those of reports that nobody else makes, on every real report that is
//! accepted.
//!
//! | of a report | fails as | where |
//! |---|---|---|
//! | a bit of any signed byte | `report.form` or `report.signature` | here |
//! | a bit of any byte of R or S | `report.signature` | here |
//! | any of the bytes above R and S not zero | `report.signature` | here |
//! | any of the reserved bytes after them | `report.form`: we refuse what others ignore | here |
//! | 1183 or 1185 bytes; version 1, 6, 0xffffffff | `report.form` | here |
//! | another chip's VEK | `report.signature`, `key.chip` | `real.rs` |
//! | ASVK for ASK and back, Genoa's ASK for Milan's | `chain.intermediate`, `key.signature`, `key.product` | `real.rs` |
//! | the VEK's last byte | `key.signature` | here |
//! | a second before or after the VEK's time | `key.validity` | `real.rs` |
//! | a certificate with 50,000 extensions | `key.certificate` | `limits.rs` |
//! | a chip's identifier where a VLEK signed | `reference.chip` | `appraise.rs` |
//! | another product's CRL, one that is over | `chain.revocation.list`, `chain.revocation.validity` | `real.rs` |
//! | a bit of each expected value | `reference.…`, that one | here |
//! | another VMPL | `policy.vmpl` | here |
//! | a floor one above each part | `policy.tcb.…`, that one | here |
//! | no SMT | `policy.smt` | here |
//!
//! | of a quote | fails as | where |
//! |---|---|---|
//! | a bit of header, body, key, QE report and its data, and their signatures | that signature's check | `tdx/mutations.rs` |
//! | types of certification data, lengths, TEE and key types, versions, bodies, trailing bytes | `quote.form` | `tdx/mutations.rs` |
//! | a chain without its root, in another order | `chain.form`, `chain.root`, `chain.intermediate` | `tdx/mutations.rs` |
//! | statements written in another way, signatures exchanged | `tcb-info.signature`, `qe-identity.signature` | `tdx/mutations.rs` |
//! | statements without their chain | `tcb-info.signer`, `qe-identity.signer` | `tdx/mutations.rs` |
//! | lists exchanged | `crl.root.signature`, `crl.pck.signature` | `tdx/mutations.rs` |
//! | a second before the issue, after the next update | `tcb-info.validity`, `qe-identity.validity` | `tdx/mutations.rs` |
//! | FMSPC of another platform | `tcb-info.platform` | `tdx/synthetic.rs`, `tdx/real.rs` |
//! | the debug bit, set and signed, or cleared | `policy.debug`, `quote.signature` | `tdx/appraise.rs`, `tdx/mutations.rs` |
//! | service TDs that no reference value names, now, first or later | `policy.service-td` | `src/tdx/appraise/tests.rs` |
//! | a bit of expected MRTD, RTMRs, REPORT_DATA | `reference.…`, that one | `tdx/mutations.rs` |
//!
//! | of an event log | fails as | where |
//! |---|---|---|
//! | an event left out, twice, in another place; a digest | `log.rtmr…`, that event's | `src/eventlog/tests.rs` |
//! | data under a digest of them | `log.data` | `src/eventlog/tests.rs` |
//! | cut within an event; 0 or 65535 algorithms; 0xffffffff bytes | no log | `src/eventlog/tests.rs` |
//! | 64 KiB of 0xff after it | nothing: the log is over | `src/eventlog/tests.rs` |
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use attest::UnixTime;
use attest::snp::tcb::Tcb;
use attest::snp::{
    Allowance, Anchors, Appraisal, Endorsements, Policy, Product, ReferenceValues, Report, TcbFloor, Verdict, appraise,
    verify,
};
use common::{NOW, vector};

/// Names of what a changed report does not fit to any more, beside its signature.
const FITS: [&str; 10] = [
    "report.signature",
    "report.processor",
    "report.tcb",
    "chain.intermediate",
    "key.certificate",
    "key.chip",
    "key.tcb.boot-loader",
    "key.tcb.tee",
    "key.tcb.snp",
    "key.tcb.microcode",
];
const SIGNED: usize = 0x2a0;
const R: usize = SIGNED;
const S: usize = R + 72;
const NUMBER: usize = 48;
const RESERVED: usize = S + 72;

/// A real report that is accepted, with what endorses it.
struct Real {
    name: &'static str,
    product: Product,
    report: Vec<u8>,
    vek: Vec<u8>,
    intermediate: Vec<u8>,
    now: UnixTime,
}

fn all() -> [Real; 5] {
    let real = |name, product: Product, now| Real {
        name,
        product,
        report: vector(&format!("real/{name}.report")),
        vek: vector(&format!("real/{name}.vek.der")),
        intermediate: {
            let kind = if name.contains("vlek") { "asvk" } else { "ask" };
            vector(&format!("amd/{kind}-{}.der", product.name().to_lowercase()))
        },
        now,
    };
    [
        real("milan-v2-virtee", Product::Milan, NOW),
        real("milan-v3-ms", Product::Milan, NOW),
        real("genoa-v3-ms", Product::Genoa, NOW),
        real("turin-v5-ms", Product::Turin, NOW),
        // 2025-06-01: a provider's key is good for a year.
        real("milan-v3-vlek-trustee", Product::Milan, UnixTime::from_secs(1_748_736_000)),
    ]
}

impl Real {
    fn endorsements(&self) -> Endorsements<'_> {
        let (vek, intermediate) = (Some(&self.vek[..]), Some(&self.intermediate[..]));
        Endorsements { vcek: vek, vlek: vek, intermediate, ..Endorsements::default() }
    }

    /// Why this report is refused in the place of the real one.
    fn rejected(&self, report: &[u8]) -> Vec<&'static str> {
        // What is known of AMD's issuers is not in question here, and takes most of the time.
        let anchors = Anchors::amd().with_known_intermediates();
        common::failed(&verify(report, &self.endorsements(), &anchors, self.now).unwrap_err())
    }

    fn with(&self, change: impl FnOnce(&mut Vec<u8>)) -> Vec<&'static str> {
        let mut report = self.report.clone();
        change(&mut report);
        self.rejected(&report)
    }

    fn judge(&self, policy: &Policy, references: &ReferenceValues) -> Appraisal {
        appraise(&verify(&self.report, &self.endorsements(), &Anchors::amd(), self.now).unwrap(), policy, references)
    }

    /// Under which it is accepted, whatever it is of.
    fn open(&self) -> Policy {
        let report = Report::parse(&self.report).unwrap();
        let mut policy = Policy { products: [(self.product, TcbFloor::default())].into(), ..Policy::default() };
        policy.allow.extend([Allowance::AnyGuest, Allowance::ProvisionalFirmware]);
        policy.vmpl = u8::from(report.bytes()[0x30] > 0);
        policy
    }
}

fn failed(appraisal: &Appraisal) -> Vec<&'static str> {
    appraisal.checks().failed().map(|check| check.id.name()).collect()
}

/// One bit of every third byte of each report, other ones in each.
#[test]
fn no_silent_trust_a_bit_of_what_is_signed() {
    for (number, real) in all().into_iter().enumerate() {
        let mut unreadable = 0;
        for at in (number % 3..SIGNED).step_by(3) {
            let mut changed = real.report.clone();
            changed[at] ^= 1 << ((at + 3 * number) % 8);
            let names = real.rejected(&changed);
            if Report::parse(&changed).is_err() {
                assert_eq!(names, ["report.form"], "{} {at:#x}", real.name);
                unreadable += 1;
            } else {
                assert!(names.contains(&"report.signature"), "{} {at:#x}: {names:?}", real.name);
                let fits = |name: &&str| FITS.contains(name) || *name == "key.tcb.fmc";
                assert!(names.iter().all(fits), "{} {at:#x}: {names:?}", real.name);
            }
        }
        assert!(unreadable < SIGNED / 6, "{}: {unreadable}", real.name);
    }
}

#[test]
fn no_silent_trust_a_bit_of_the_signature() {
    for (number, real) in all().into_iter().enumerate() {
        for at in (R..R + NUMBER).chain(S..S + NUMBER).skip(number % 3).step_by(3) {
            let names = real.with(|report| report[at] ^= 1 << ((at + number) % 8));
            assert_eq!(names, ["report.signature"], "{} {at:#x}", real.name);
        }
        for at in (R + NUMBER..S).chain(S + NUMBER..RESERVED) {
            let names = real.with(|report| report[at] = 1);
            assert_eq!(names, ["report.signature"], "{} {at:#x}", real.name);
        }
        for at in RESERVED..real.report.len() {
            assert_eq!(real.with(|report| report[at] = 0x80), ["report.form"], "{} {at:#x}", real.name);
        }
    }
}

#[test]
fn no_silent_trust_lengths_and_versions() {
    for real in all() {
        assert_eq!(real.with(|report| report.truncate(1183)), ["report.form"]);
        assert_eq!(real.with(|report| report.push(0)), ["report.form"]);
        for version in [1, 6, u32::MAX] {
            let names = real.with(|report| report[..4].copy_from_slice(&version.to_le_bytes()));
            assert_eq!(names, ["report.form"], "version {version}");
        }
    }
}

#[test]
fn no_silent_trust_the_last_byte_of_a_certificate() {
    for mut real in all() {
        *real.vek.last_mut().unwrap() ^= 1;
        assert_eq!(real.rejected(&real.report), ["key.signature"], "{}", real.name);
    }
}

/// A value that is expected, and the check that compares it.
type Value = (&'static str, fn(&mut ReferenceValues) -> &mut [u8]);

/// Every bit of every value that can be expected of a guest.
#[test]
fn no_silent_trust_a_bit_of_what_is_expected() {
    const VALUES: [Value; 5] = [
        ("reference.launch-digest", |it| &mut it.launch_digests[0]),
        ("reference.report-data", |it| it.report_data.as_mut().unwrap()),
        ("reference.host-data", |it| it.host_data.as_mut().unwrap()),
        ("reference.id-key", |it| &mut it.id_keys[0]),
        ("reference.chip", |it| &mut it.chips[0]),
    ];
    for real in all() {
        let report = Report::parse(&real.report).unwrap();
        let verified = verify(&real.report, &real.endorsements(), &Anchors::amd(), real.now).unwrap();
        let good = ReferenceValues {
            launch_digests: vec![*report.measurement()],
            report_data: Some(*report.report_data()),
            host_data: Some(*report.host_data()),
            id_keys: report.id_key().into_iter().copied().collect(),
            author_keys: vec![],
            chips: report.chip().into_iter().copied().collect(),
        };
        let policy = real.open();
        let fails = |references: &ReferenceValues| failed(&appraise(&verified, &policy, references));
        assert_eq!(fails(&good), [""; 0], "{}", real.name);
        for (name, value) in VALUES {
            let mut changed = good.clone();
            // A provider's key names no chip, and not every guest was signed.
            match name {
                "reference.chip" if good.chips.is_empty() => continue,
                "reference.id-key" if good.id_keys.is_empty() => continue,
                _ => {}
            }
            for bit in 0..8 * value(&mut changed).len() {
                value(&mut changed)[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(fails(&changed), [name], "{} bit {bit}", real.name);
                value(&mut changed)[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

/// A floor one above what is there, in each part in turn; what is there is enough.
#[test]
fn no_silent_trust_one_above_each_part() {
    type Part = (&'static str, fn(&mut TcbFloor) -> &mut u8);
    let parts: [Part; 5] = [
        ("fmc", |it| &mut it.fmc),
        ("boot-loader", |it| &mut it.boot_loader),
        ("tee", |it| &mut it.tee),
        ("snp", |it| &mut it.snp),
        ("microcode", |it| &mut it.microcode),
    ];
    for real in all() {
        let report = Report::parse(&real.report).unwrap();
        let [reported, launch] =
            [report.reported_tcb(), report.launch_tcb()].map(|it| it.unpack(real.product).unwrap());
        let lower = |of: fn(&Tcb) -> u8| of(&reported).min(of(&launch));
        let there = TcbFloor {
            fmc: lower(|it| it.fmc.unwrap_or_default()),
            boot_loader: lower(|it| it.boot_loader),
            tee: lower(|it| it.tee),
            snp: lower(|it| it.snp),
            microcode: lower(|it| it.microcode),
        };
        let with = |floor| {
            let policy = Policy { products: [(real.product, floor)].into(), ..real.open() };
            failed(&real.judge(&policy, &ReferenceValues::default()))
        };
        assert_eq!(with(there), [""; 0], "{}", real.name);
        for (name, part) in parts {
            if name == "fmc" && real.product != Product::Turin {
                continue;
            }
            let mut floor = there;
            *part(&mut floor) += 1;
            let names = with(floor);
            let expected = [format!("policy.tcb.{name}"), format!("policy.launch-tcb.{name}")];
            assert!(
                !names.is_empty() && names.iter().all(|found| expected.contains(&(*found).to_owned())),
                "{names:?}"
            );
        }
    }
}

#[test]
fn no_silent_trust_wishes_that_real_guests_do_not_meet() {
    for real in all() {
        let open = real.open();
        assert_eq!(real.judge(&open, &ReferenceValues::default()).verdict(), Verdict::Affirmed, "{}", real.name);
        let mut alone = open.clone();
        alone.allow.remove(&Allowance::Smt);
        assert_eq!(failed(&real.judge(&alone, &ReferenceValues::default())), ["policy.smt"], "{}", real.name);
        // Less privileged than is wanted; more is enough.
        let level = u8::from(open.vmpl == 0);
        let names = failed(&real.judge(&Policy { vmpl: level, ..open }, &ReferenceValues::default()));
        let expected: &[&str] = if level == 0 { &["policy.vmpl"] } else { &[] };
        assert_eq!(names, expected, "{}", real.name);
    }
}
