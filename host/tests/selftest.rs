//! The self-test of a host, on the software platform: what passes there, and what is found if something is wrong.
//!
//! Its guests are scripts that play the firmware's self-test: they convert pages, ask for a report and hand it over.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "snp_run/bed.rs"]
#[expect(dead_code, reason = "some of it is for whole runs")]
mod bed;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use attest::UnixTime;
use attest::snp::{Anchor, Anchors, CertificateTable, Product, verify};
use bed::{Bed, FREE, NOT_BUILT, change, pages, report};
use gmem::ledger::Owner;
use gmem::{ByteLen, Gpa, layout};
use gmem_kvm::port::Kernel;
use gmem_kvm::testing::fault::{Faults, PortCall};
use gmem_kvm::testing::faulty::Faulty;
use guest_fw::abi::{Doorbell, EVIDENCE_MAGIC, EVIDENCE_SNP_REPORT, EvidenceHeader};
use rustix::io::Errno;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use silicon_kvm::script::{Step, Way};
use tenure::audit::seen::Moment;
use tenure::config::{Settings, Tee};
use tenure::exit::ExitCode;
use tenure::paint::Paint;
use tenure::selftest::bundle::{Bundle, Identity};
use tenure::selftest::results::{Check, Results, Verdict};
use tenure::selftest::{self, Bed as Host, Kept, Plan, Surroundings, Verifier};
use tenure::stop::{StopReason, StopSignal};
use tenure_silicon::report::EndorsementKey;

/// Bytes of an attestation report.
const REPORT_BYTES: u32 = 0x4a0;

/// Rings the doorbell.
fn ring(command: Doorbell, argument: u64) -> Step {
    Step::Out { port: layout::DOORBELL_PORT, value: command.to_raw(u32::try_from(argument).unwrap()) }
}

fn header(len: u32) -> Vec<u8> {
    use zerocopy::IntoBytes;
    EvidenceHeader { magic: EVIDENCE_MAGIC, kind: EVIDENCE_SNP_REPORT, len }.as_bytes().to_vec()
}

/// A guest that does what the self-test should, and ends it with so many failed checks.
fn guest(failed: u64) -> Vec<Step> {
    let range = pages(FREE, 2);
    vec![
        change(range, Owner::Shared, Way::Buffer),
        change(pages(FREE + 0x1000, 1), Owner::Private, Way::Msr),
        Step::Validate(pages(FREE + 0x1000, 1)),
        report(0, None),
        Step::WriteReport { to: Gpa(FREE), before: header(REPORT_BYTES) },
        ring(Doorbell::Evidence, FREE >> 12),
        ring(Doorbell::SelfTestDone, failed),
    ]
}

/// A platform whose guests do all that.
fn able() -> Bed {
    let bed = Bed::new(1);
    bed.script(0, guest(0));
    bed
}

/// The platform's certificates, and whoever knows its root for what it is.
fn knowing(bed: &Bed) -> Verifier {
    let table = bed.kernel.platform().certificates(EndorsementKey::Vcek).unwrap().to_bytes();
    let ark = CertificateTable::parse(&table).unwrap().endorsements().ark.unwrap().to_vec();
    let anchors = Anchors::amd().with_test_root(Product::Milan, &ark).unwrap();
    Verifier::new(anchors, Some(table)).unwrap()
}

fn ignorant() -> Verifier {
    Verifier::for_hardware(None).unwrap()
}

fn plan() -> Plan {
    let settings = Settings {
        tee: Some(Tee::Snp),
        memory: Some("16M".parse().unwrap()),
        vcpus: Some(2.try_into().unwrap()),
        ..Settings::default()
    };
    Plan { settings, launches: 3, time_limit: Duration::from_secs(60) }
}

/// What the platform itself says of its guests.
fn around(bed: &Bed) -> Surroundings {
    let guests = bed.kernel.platform().snp_platform_status().unwrap().guest_count;
    Surroundings {
        asids_in_use: Some(u64::from(guests)),
        firmware_guests: Some(guests),
        available: Some(ByteLen(1 << 30)),
    }
}

fn test_on(
    kernel: &impl Kernel,
    look: &dyn Fn() -> Surroundings,
    verifier: &Verifier,
    plan: &Plan,
    stop: &StopSignal,
) -> (Results, Vec<Kept>) {
    // Nothing that could be known, but never the same twice.
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let random = || {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&NUMBER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        bytes[47] = 1;
        Ok(bytes)
    };
    let host = Host { kernel, look, random: &random, verifier, progress: &|_| {}, stop };
    selftest::run(&host, plan).unwrap()
}

fn test(bed: &Bed, verifier: &Verifier) -> (Results, Vec<Kept>) {
    let tested = test_on(&bed.kernel, &|| around(bed), verifier, &plan(), &StopSignal::new().unwrap());
    assert!(bed.kernel.is_empty());
    assert_eq!(bed.kernel.platform().violations(), []);
    tested
}

/// Every check of this kind of verdict, as `case check`.
fn ids(results: &Results, kind: fn(&Verdict) -> bool) -> Vec<String> {
    let of = |id: &str, check: &Check| format!("{id} {}", check.id);
    let cases = results.cases.iter();
    cases
        .flat_map(|case| case.checks.iter().filter(|check| kind(&check.verdict)).map(|check| of(case.id, check)))
        .collect()
}

fn failed(results: &Results) -> Vec<String> {
    ids(results, |verdict| matches!(verdict, Verdict::Failed { .. }))
}

fn not_run(results: &Results) -> Vec<String> {
    ids(results, |verdict| matches!(verdict, Verdict::NotRun { .. }))
}

fn said(results: &Results, case: &str, check: &str) -> String {
    let case = results.cases.iter().find(|result| result.id == case).unwrap();
    match &case.checks.iter().find(|result| result.id == check).unwrap().verdict {
        Verdict::Passed { seen } | Verdict::Failed { seen } => seen.clone(),
        Verdict::NotRun { why } => why.clone(),
    }
}

/// On a platform that does everything, everything is checked, and all of it passes.
#[test]
fn everything_passes_where_everything_works() {
    let bed = able();
    let (results, kept) = test(&bed, &knowing(&bed));
    assert_eq!((failed(&results), not_run(&results)), (vec![], vec![]), "{}", results.text(Paint::Plain));
    assert_eq!(results.exit_code(), ExitCode::Success);
    let cases: Vec<_> = results.cases.iter().map(|case| case.id).collect();
    let refused = ["other-digest", "other-policy", "forged-id-block"];
    assert_eq!(cases, [&["guest", "vcpus", "signed"][..], &refused, &["conversions", "again", "host"]].concat());
    // What each of the three is refused with is said in words.
    for (case, status) in refused.into_iter().zip(["BAD_MEASUREMENT", "POLICY_FAILURE", "BAD_SIGNATURE"]) {
        assert!(said(&results, case, "refused").contains(status), "{case}");
    }
    let genuine = said(&results, "signed", "report-signature");
    assert!(genuine.contains("TEST root") && genuine.contains("no hardware vouches for it"), "{genuine}");
    assert_eq!(kept.iter().map(|kept| kept.reports.len()).sum::<usize>(), 3 + 1);
}

/// no-silent-trust: a software root of trust never passes for hardware.
#[test]
fn no_silent_trust_a_test_root_is_not_amds() {
    let (bed, file) = (able(), tempfile::NamedTempFile::new().unwrap());
    std::fs::write(file.path(), knowing(&bed).table().unwrap()).unwrap();
    let (results, _) = test(&bed, &Verifier::for_hardware(Some(file.path())).unwrap());
    let signatures = ["guest", "vcpus", "signed"].map(|case| format!("{case} report-signature"));
    assert_eq!(failed(&results), signatures);
    assert_eq!(results.exit_code(), ExitCode::Findings);
}

/// What the firmware cannot do yet proves nothing; that the secure processor measured what was predicted needs no guest.
#[test]
fn a_firmware_that_asks_to_be_terminated_proves_what_it_can() {
    let bed = Bed::new(1);
    bed.script(0, [Step::Terminate(NOT_BUILT)]);
    let (results, _) = test(&bed, &ignorant());
    assert_eq!(failed(&results), Vec::<String>::new());
    let missing =
        ["guest", "vcpus", "signed"].map(|case| ["guest-self-test", "report"].map(|id| format!("{case} {id}")));
    assert_eq!(not_run(&results), missing.concat());
    assert!(said(&results, "signed", "measured-as-predicted").contains("measured what was predicted"));
    assert!(said(&results, "guest", "guest-self-test").contains("cannot be started under SNP yet"));
    assert_eq!(results.exit_code(), ExitCode::Success);
}

/// no-silent-trust: a report that is not of this guest, or not what the hardware signed, is found out.
#[test]
fn no_silent_trust_reports_that_are_not_this_guests() {
    let first = able();
    let (_, kept) = test(&first, &knowing(&first));
    let genuine = kept[0].reports[0].clone();
    let mut other = genuine.clone();
    other[0x90] ^= 1;
    let fields = ["report-host-data"].as_slice();
    for (report, expected) in [
        (genuine, fields),
        (other, &["report-signature", "report-measurement", "report-host-data"]),
        (vec![7; 0x4a0], &["report"]),
        (vec![0; 5], &["report"]),
    ] {
        let bed = Bed::new(1);
        let len = u32::try_from(report.len()).unwrap();
        let bytes = [header(len), report].concat();
        bed.script(
            0,
            [Step::WriteBytes(Gpa(FREE), bytes), ring(Doorbell::Evidence, FREE >> 12), ring(Doorbell::SelfTestDone, 0)],
        );
        let (results, _) = test(&bed, &knowing(&bed));
        let of_first: Vec<_> = failed(&results).into_iter().filter(|id| id.starts_with("guest ")).collect();
        let expected: Vec<_> = expected.iter().map(|id| format!("guest {id}")).collect();
        assert_eq!(of_first, expected);
        // A digest is the same in every launch; who signed it is not.
        assert_eq!(results.exit_code(), ExitCode::Findings);
    }
}

/// no-silent-trust: evidence that is none is refused, and the run goes on.
#[test]
fn no_silent_trust_evidence_that_is_none() {
    for (bytes, page, why) in [
        (header(0), FREE >> 12, "len is 0: it must be 1 to 16384"),
        (header(0x4001), FREE >> 12, "len is 16385: it must be 1 to 16384"),
        (vec![1; 16], FREE >> 12, "at 0x800000 is no evidence: its first 8 bytes are 0x101010101010101"),
        // The page after it is private.
        (header(0x4000), FREE >> 12, "16384 bytes at 0x800010 are not all shared RAM"),
        (header(1), (FREE >> 12) + 1, "16 bytes at 0x801000 are not all shared RAM"),
        (header(1), 0xff_ffff, "16 bytes at 0xffffff000 are not all shared RAM"),
    ] {
        let bed = Bed::new(1);
        bed.script(
            0,
            [Step::WriteBytes(Gpa(FREE), bytes), ring(Doorbell::Evidence, page), ring(Doorbell::SelfTestDone, 0)],
        );
        let bed::Ran { report, events } = bed.run();
        assert_eq!(report.handed, []);
        let refused = events.iter().find_map(|event| match event {
            tenure::events::Event::Refused { request, reason, .. } if request == "evidence" => Some(reason.clone()),
            _ => None,
        });
        let refused = refused.unwrap_or_else(|| panic!("{why}: it was taken"));
        assert!(refused.starts_with(why), "{refused}");
    }
    // More of it than anybody needs.
    let bed = Bed::new(1);
    let again = std::iter::repeat_n(ring(Doorbell::Evidence, FREE >> 12), 20);
    let first = Step::WriteBytes(Gpa(FREE), header(5));
    bed.script(0, std::iter::once(first).chain(again).chain([ring(Doorbell::SelfTestDone, 0)]));
    assert_eq!(bed.run().report.handed.len(), 16);
}

#[test]
fn what_a_guest_says_of_itself_counts() {
    let bed = Bed::new(1);
    bed.script(0, guest(2));
    let (results, _) = test(&bed, &ignorant());
    assert_eq!(failed(&results), ["guest", "vcpus", "signed"].map(|case| format!("{case} guest-self-test")));
    let bed = Bed::new(1);
    bed.script(0, [Step::TripleFault]);
    let (results, _) = test(&bed, &ignorant());
    assert_eq!(failed(&results), ["guest", "vcpus", "signed"].map(|case| format!("{case} guest-starts")));
}

/// Whatever keeps a launch from its end, the cases that need it fail, and what must be refused does not count as refused
/// for another reason.
#[test]
fn a_launch_that_fails_is_no_refusal() {
    let bed = able();
    let faults = Arc::new(Faults::new(Vec::new(), Vec::new()));
    faults.fail_always(PortCall::SnpLaunchFinish, Errno::IO.raw_os_error());
    let kernel = Faulty::new(bed.kernel.clone(), faults);
    let (results, _) = test_on(&kernel, &|| around(&bed), &ignorant(), &plan(), &StopSignal::new().unwrap());
    let launches = ["guest launch", "vcpus launch", "signed launch"];
    let refused = ["other-digest refused", "other-policy refused", "forged-id-block refused"];
    assert_eq!(failed(&results), [&launches[..], &refused, &["conversions launch", "again launch"]].concat());
    assert!(bed.kernel.is_empty());
}

/// pages-before-key: what is not given back outweighs everything else.
#[test]
fn pages_before_key_an_asid_that_stays_is_found() {
    let (bed, leaked) = (able(), AtomicU64::new(0));
    let look = || {
        let mut seen = around(&bed);
        // One more at every look, as if each guest left one behind.
        seen.asids_in_use = seen.asids_in_use.map(|asids| asids + leaked.fetch_add(1, Ordering::Relaxed));
        seen
    };
    let plan = Plan { launches: 1, ..plan() };
    let mut settings = plan.settings.clone();
    settings.vcpus = Some(1.try_into().unwrap());
    let plan = Plan { settings, ..plan };
    let (results, _) = test_on(&bed.kernel, &look, &ignorant(), &plan, &StopSignal::new().unwrap());
    assert!(failed(&results).iter().all(|id| id.ends_with(" asid")), "{:?}", failed(&results));
    assert_eq!(results.exit_code(), ExitCode::TeardownNotClean);
}

/// Memory that guests keep is found, if it is most of what they had.
#[test]
fn memory_that_stays_is_found() {
    let (bed, looks) = (able(), AtomicU64::new(0));
    let look = || {
        let taken = looks.fetch_add(1, Ordering::Relaxed) * (4 << 20);
        Surroundings { available: Some(ByteLen((1 << 30) - taken)), ..around(&bed) }
    };
    let (results, _) = test_on(&bed.kernel, &look, &ignorant(), &plan(), &StopSignal::new().unwrap());
    assert_eq!(failed(&results), ["host memory"]);
}

#[test]
fn a_host_that_cannot_map_ahead_is_not_to_blame() {
    let bed = able();
    let faults = Arc::new(Faults::new(Vec::new(), Vec::new()));
    faults.fail_always(PortCall::Prefault, Errno::OPNOTSUPP.raw_os_error());
    let kernel = Faulty::new(bed.kernel.clone(), faults);
    let (results, _) = test_on(&kernel, &|| around(&bed), &ignorant(), &plan(), &StopSignal::new().unwrap());
    assert_eq!(failed(&results), Vec::<String>::new());
    assert!(not_run(&results).contains(&"conversions map-ahead".to_owned()));
}

/// A guest that never ends is ended, and one that is not to begin does not.
#[test]
fn guests_have_a_time_limit_and_somebody_may_end_it_all() {
    let bed = Bed::new(1);
    let plan = Plan { time_limit: Duration::from_millis(100), launches: 1, ..plan() };
    let stop = StopSignal::new().unwrap();
    let (results, _) = test_on(&bed.kernel, &|| around(&bed), &ignorant(), &plan, &stop);
    assert!(said(&results, "guest", "guest-starts").contains("TimeLimit"));
    assert!(bed.kernel.is_empty());

    stop.request(StopReason::Interrupt);
    let before = bed.asids().len();
    let (results, _) = test_on(&bed.kernel, &|| around(&bed), &ignorant(), &plan, &stop);
    assert_eq!(failed(&results), Vec::<String>::new());
    assert_eq!(said(&results, "conversions", "launch"), "stopped by SIGINT");
    assert_eq!(bed.asids().len(), before);
}

/// Unpacks a bundle with other people's code.
fn unpacked(packed: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(ruzstd::decoding::StreamingDecoder::new(packed).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().strip_prefix("tenure-selftest").unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, bytes)
    });
    entries.collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A bundle has what was found, and the evidence; it says what was taken out of it, and that is not in it.
#[test]
fn a_bundle_has_the_evidence_and_not_the_machines_name() {
    let bed = able();
    let verifier = knowing(&bed);
    let (results, kept) = test(&bed, &verifier);
    let genuine = &kept[0].reports[0];
    let chip: &[u8] = &genuine[0x1a0..0x1e0];
    assert_ne!(chip, [0; 64]);
    for identity in [Identity::Removed, Identity::Kept] {
        let mut bundle = Bundle::new(identity);
        bundle.add_results(&results, &kept).unwrap();
        bundle.add_certificates(verifier.table().unwrap());
        let files = unpacked(&bundle.pack(Moment(1_795_000_000)).unwrap());
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!((&manifest["format"], &manifest["created"]), (&1.into(), &"2026-11-18T11:06:40Z".into()));
        let listed = manifest["files"].as_array().unwrap();
        assert_eq!(listed.len(), files.len() - 1);
        for listed in listed {
            let bytes = &files[listed["name"].as_str().unwrap()];
            assert_eq!(listed["bytes"], bytes.len());
            assert_eq!(listed["sha256"], snp::hex::text(&Sha256::digest(bytes)));
        }
        let found: Value = serde_json::from_slice(&files["results.json"]).unwrap();
        assert_eq!(found["totals"]["failed"], 0);
        for file in ["events.jsonl", "summary.txt", "report-1.bin"] {
            assert!(files.contains_key(&format!("cases/signed/{file}")), "{file}");
        }
        let report = &files["cases/guest/report-1.bin"];
        let named = files.values().any(|bytes| contains(bytes, chip));
        match identity {
            Identity::Removed => {
                assert!(!named && !files.contains_key("certificates.bin"));
                assert_eq!((&report[..0x1a0], &report[0x1e0..]), (&genuine[..0x1a0], &genuine[0x1e0..]));
                assert_eq!(manifest["redacted"].as_array().unwrap().len(), 3);
            }
            // Whoever gets it can verify it.
            Identity::Kept => {
                let table = CertificateTable::parse(&files["certificates.bin"]).unwrap().endorsements();
                let anchors = Anchors::none().with_test_root(Product::Milan, table.ark.unwrap()).unwrap();
                let now = UnixTime::from_secs(1_795_000_000);
                let verified = verify(report, &table, &anchors, now).unwrap();
                assert_eq!(verified.anchor(), Anchor::Test(Product::Milan));
                assert!(named && manifest["redacted"].as_array().unwrap().is_empty());
            }
        }
    }
}
