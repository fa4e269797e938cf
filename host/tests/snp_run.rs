//! Whole runs of SNP guests on the software platform: launch, conversions, reports, resets and every way to end.
//!
//! The guests are scripts (`silicon_kvm::script`); the launch, and what it is measured as, are those of our firmware. What
//! the PSP kept is read from the guest's attestation reports, and from what the platform noted.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};

use gmem::layout;
use gmem::ledger::Owner;
use gmem::{ByteLen, GfnRange, Gpa, PageCount};
use gmem_kvm::port::Kernel;
use gmem_kvm::testing::fault::{Effect, Faults, PortCall};
use gmem_kvm::testing::faulty::Faulty;
use guest_fw::abi;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use silicon_kvm::script::{Script, Step, Way};
use silicon_kvm::{Complaint, SiliconKernel};
use snp::digest::Digest;
use snp::id_block::keys::IdKey;
use snp::id_block::{IdAuth, IdBlock, ImageIdentity, SignedBlock};
use snp::ovmf::{Ovmf, SectionKind};
use snp::policy::GuestPolicy;
use tenure::config::inputs::Inputs;
use tenure::config::snp::{DEFAULT_VCPU_TYPE, IdBlockCheck};
use tenure::config::{RunConfig, Settings, Tee};
use tenure::events::{Event, EventLog};
use tenure::exit::ExitCode;
use tenure::report::{GuestOutcome, RunReport};
use tenure::run::certificates::CertificateFile;
use tenure::run::{self, Ends, RunError};
use tenure::stop::StopSignal;
use tenure_silicon::config::Config;
use tenure_silicon::model::Model;
use tenure_silicon::platform::{Event as HardwareEvent, Platform};
use tenure_silicon::report::EndorsementKey;
use tenure_silicon::units::Page;

/// Private RAM that nothing was put into.
const FREE: u64 = 0x80_0000;
/// Of an attestation report (56860, "ATTESTATION_REPORT"): offsets of MEASUREMENT, HOST_DATA and REPORT_DATA.
const MEASUREMENT: usize = 0x90;
const HOST_DATA: usize = 0xc0;
const REPORT_DATA: usize = 0x50;
/// A request to be terminated by our firmware, which cannot be started yet.
const NOT_BUILT: u64 = 0x1_f100;

struct Bed {
    kernel: SiliconKernel,
    config: RunConfig,
    inputs: Inputs,
    console: Console,
}

/// What guests write to their serial consoles.
#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl io::Write for Console {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Ran {
    report: RunReport,
    events: Vec<Event>,
}

impl Bed {
    fn new(vcpus: u32) -> Self {
        let platform = Arc::new(Platform::new(Config::new(Model::Milan, [7; 32])));
        let kernel = SiliconKernel::new(platform).unwrap();
        let settings = Settings {
            tee: Some(Tee::Snp),
            memory: Some("16M".parse().unwrap()),
            vcpus: Some(i64::from(vcpus).try_into().unwrap()),
            vcpu_type: Some("EPYC-Milan".parse().unwrap()),
            ..Settings::default()
        };
        Self { kernel, config: settings.resolve().unwrap().run, inputs: Inputs::default(), console: Console::default() }
    }

    fn script(&self, vcpu: u32, steps: impl IntoIterator<Item = Step>) {
        self.kernel.script(vcpu, Script::from_iter(steps));
    }

    fn try_run(&self) -> (Result<RunReport, RunError>, Vec<Event>) {
        self.try_run_on(&self.kernel)
    }

    fn try_run_on(&self, kernel: &impl Kernel) -> (Result<RunReport, RunError>, Vec<Event>) {
        self.console.0.lock().unwrap().clear();
        let events = EventLog::in_memory();
        let ends = Ends {
            events: events.clone(),
            console_output: Box::new(self.console.clone()),
            console_input: None,
            virtio_output: Box::new(io::sink()),
            virtio_input: None,
            stop: StopSignal::new().unwrap(),
        };
        let report = run::run(kernel, Tee::Snp, &self.config, &self.inputs, ends);
        (report, events.collected().into_iter().map(|timed| timed.event).collect())
    }

    /// Runs the guest. Whatever becomes of it, nothing of it is left, and no rule of the platform was broken.
    fn run(&self) -> Ran {
        let (report, events) = self.try_run();
        let report = report.unwrap();
        assert!(report.teardown.is_clean(), "{:?}", report.teardown);
        assert!(self.kernel.is_empty());
        assert_eq!(self.kernel.platform().violations(), []);
        Ran { report, events }
    }

    /// What the guests' reports say they were measured as.
    fn measured(&self) -> Vec<Digest> {
        let reports = self.kernel.reports();
        reports.iter().map(|reported| Digest(field(&reported.report, MEASUREMENT))).collect()
    }

    /// Every ASID a VM got, in order.
    fn asids(&self) -> Vec<u32> {
        let events = self.kernel.platform().events();
        events
            .into_iter()
            .filter_map(|event| match event {
                HardwareEvent::AsidAllocated(asid) => Some(asid.0),
                _ => None,
            })
            .collect()
    }

    /// Has the guest's owner sign a launch.
    fn sign(&mut self, digest: Digest, policy: GuestPolicy) {
        let pem = include_str!("../../tests/vectors/snp/idblock/id_key_test.pem");
        let key = IdKey::from_pem(pem).unwrap();
        let block = IdBlock::new(digest, policy, ImageIdentity::default());
        let auth = IdAuth::sign(&block, &key, None);
        self.inputs.signed = Some(Box::new(SignedBlock { block, auth }));
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

fn pages(gpa: u64, count: u64) -> GfnRange {
    GfnRange::from_request(Gpa(gpa), PageCount::new(count)).unwrap()
}

fn report(data: u8, certificates: Option<GfnRange>) -> Step {
    Step::Report { secrets: Gpa(abi::SNP_SECRETS), data: [data; 64], certificates }
}

fn change(range: GfnRange, to: Owner, way: Way) -> Step {
    Step::PageState { range, to, way, works: true }
}

/// Resets the machine.
fn reset() -> Step {
    Step::OutByte { port: abi::RESET_PORT, value: abi::RESET_VALUE }
}

/// The launch steps, with what is told of them.
fn steps(events: &[Event]) -> Vec<(String, Option<String>)> {
    let step = |event: &Event| match event {
        Event::LaunchStep { step, detail, .. } => Some((step.to_string(), detail.clone())),
        _ => None,
    };
    events.iter().filter_map(step).collect()
}

fn predicted(events: &[Event]) -> Digest {
    let steps = steps(events);
    let (_, digest) = steps.iter().find(|(step, _)| step == "predict the launch digest").unwrap();
    digest.as_deref().unwrap().parse().unwrap()
}

fn counter(report: &RunReport, name: &str) -> u64 {
    let snp = report.devices.iter().find(|device| device.name == "snp").unwrap();
    snp.counters.iter().find(|(counter, _)| counter == name).unwrap().1
}

/// one-launch: what was told beforehand is what the PSP measured, for any number of vCPUs.
#[test]
fn one_launch_the_digest_is_known_before_the_psp_is_asked() {
    let digests = [1, 2].map(|vcpus| {
        let mut bed = Bed::new(vcpus);
        bed.config.snp.host_data.0 = [0x5a; 32];
        bed.script(0, [report(3, None), Step::Terminate(NOT_BUILT)]);
        let Ran { report, events } = bed.run();
        let reported = bed.kernel.reports();
        assert_eq!(bed.measured(), [predicted(&events)]);
        assert_eq!(field(&reported[0].report, HOST_DATA), [0x5a; 32]);
        assert_eq!(field(&reported[0].report, REPORT_DATA), [3; 64]);
        assert_eq!(bed.kernel.complaints(), []);

        let reason = "tenure's firmware: it cannot be started under SNP yet".to_owned();
        assert_eq!(report.outcome, GuestOutcome::Terminated { set: 0xf, code: 1, reason });
        assert_eq!(report.exit_code(), ExitCode::GuestCrashed);
        let steps = steps(&events);
        let names: Vec<_> = steps.iter().map(|(step, _)| step.as_str()).collect();
        assert_eq!(
            names,
            [
                "plan",
                "predict the launch digest",
                "begin the launch",
                "RAM slots",
                "mark RAM private",
                "stage",
                "populate",
                "interrupt controller",
                "vCPUs"
            ]
        );
        let plan = steps[0].1.as_deref().unwrap();
        for part in
            ["firmware", "secrets", "CPUID", "firmware's parameters", "signed by hardware: guest policy 0x30000"]
        {
            assert!(plan.contains(part), "{plan}");
        }
        predicted(&events)
    });
    assert_ne!(digests[0], digests[1]);
}

/// What vCPUs are given is what the PSP would have the guest believe.
#[test]
fn cpuid_is_corrected_and_said_to_be() {
    let bed = Bed::new(1);
    bed.script(0, [Step::Terminate(0x100)]);
    let Ran { report, .. } = bed.run();
    assert!(report.warnings.iter().any(|warning| warning.contains("leaf 0x1.0x0 ecx")), "{:?}", report.warnings);
}

/// known-owner, no-stale-copy: a guest that converts in all ways finds everything as it should be.
#[test]
fn known_owner_a_guest_converts_in_every_way() {
    let bed = Bed::new(2);
    let (private, shared, vmsa) = (pages(FREE, 4), pages(FREE + 0x1000, 2), Gpa(FREE + 0x9000));
    bed.script(
        0,
        [
            Step::Validate(private),
            Step::Write(Gpa(FREE), 1),
            Step::Write(Gpa(FREE + 0x1000), 2),
            Step::Expect(Gpa(FREE + 0x1000), 2),
            // By the buffer, and back by the MSR, a page at a time.
            Step::Rescind(shared),
            change(shared, Owner::Shared, Way::Buffer),
            Step::ExpectShared(Gpa(FREE + 0x1000), 0),
            Step::WriteShared(Gpa(FREE + 0x1000), 7),
            Step::ExpectShared(Gpa(FREE + 0x1000), 7),
            change(shared, Owner::Private, Way::Msr),
            Step::Validate(shared),
            Step::Write(Gpa(FREE + 0x1000), 8),
            Step::Expect(Gpa(FREE + 0x1000), 8),
            Step::Expect(Gpa(FREE), 1),
            // Without asking: an access says what it takes the page for.
            Step::WriteShared(Gpa(FREE + 0x6000), 3),
            Step::ExpectShared(Gpa(FREE + 0x6000), 3),
            Step::Validate(pages(FREE + 0x6000, 1)),
            Step::Write(Gpa(FREE + 0x6000), 4),
            Step::Expect(Gpa(FREE + 0x6000), 4),
            // What is no RAM cannot be converted.
            Step::PageState { range: pages(1 << 30, 1), to: Owner::Shared, way: Way::Msr, works: false },
            Step::Validate(pages(vmsa.0, 1)),
            Step::CreateAp { vcpu: 1, vmsa },
        ],
    );
    // The other one starts with registers that the first made for it.
    bed.script(1, [report(1, None), Step::Terminate(NOT_BUILT)]);
    let Ran { report, events } = bed.run();
    assert_eq!(bed.kernel.complaints(), []);
    assert!(matches!(report.outcome, GuestOutcome::Terminated { set: 0xf, code: 1, .. }), "{:?}", report.outcome);
    assert_eq!(bed.measured(), [predicted(&events)]);
    let (to_shared, to_private) = (report.memory.to_shared, report.memory.to_private);
    assert_eq!((to_shared.requests, to_shared.pages, to_shared.refused), (2, 3, 1));
    assert_eq!((to_private.requests, to_private.pages, to_private.refused), (3, 3, 0));
    assert_eq!(counter(&report, "implicit conversions"), 2);
    assert_eq!(counter(&report, "pages mapped ahead"), 3);
    assert_eq!(counter(&report, "not mapped ahead"), 0);
}

#[test]
fn every_end_has_a_reason() {
    for (steps, expected) in [
        (vec![Step::TripleFault], "vCPU 0: triple fault (shutdown)"),
        (
            vec![Step::DestroyAp(0), Step::OutByte { port: 0x80, value: 0 }],
            "vCPU 0: it has no valid VMSA: the guest took",
        ),
        (vec![Step::Validate(pages(1 << 30, 1))], "private access to 0x40000000 (4096 bytes), which is not RAM"),
    ] {
        let bed = Bed::new(1);
        bed.script(0, steps);
        let Ran { report, .. } = bed.run();
        let GuestOutcome::Crashed { reason } = report.outcome else { panic!("{:?}", report.outcome) };
        assert!(reason.starts_with(expected), "{reason}");
    }
    let bed = Bed::new(1);
    bed.script(0, [Step::Terminate(0x1_1100)]);
    let reason = "Linux: a change of page state failed".to_owned();
    assert_eq!(bed.run().report.outcome, GuestOutcome::Terminated { set: 1, code: 1, reason });
}

/// The digest of a guest with one vCPU.
fn digest() -> Digest {
    let bed = Bed::new(1);
    bed.script(0, [Step::Terminate(0x100)]);
    predicted(&bed.run().events)
}

/// sealed-is-sealed: what its owner did not sign does not run, whoever finds out.
#[test]
fn sealed_is_sealed_only_what_was_signed_is_launched() {
    let digest = digest();
    let signed = |digest, policy, check| {
        let mut bed = Bed::new(1);
        bed.script(0, [report(0, None), Step::Terminate(NOT_BUILT)]);
        bed.sign(digest, policy);
        bed.config.snp.id_block_check = check;
        bed
    };
    let bed = signed(digest, GuestPolicy::default(), IdBlockCheck::BeforeLaunch);
    assert!(matches!(bed.run().report.outcome, GuestOutcome::Terminated { .. }));
    assert_eq!(bed.measured(), [digest]);

    let other = Digest([1; 48]);
    let policy = "smt,single-socket".parse().unwrap();
    for (digest, policy, why) in [
        (other, GuestPolicy::default(), "snp-id-block: the ID block is for another launch: LD is 0101"),
        (
            digest,
            policy,
            "snp-id-block: the ID block is for another launch: POLICY is 0x130000 in it, and 0x30000 here",
        ),
    ] {
        let early = signed(digest, policy, IdBlockCheck::BeforeLaunch);
        let (report, events) = early.try_run();
        let error = report.unwrap_err();
        assert!(error.to_string().starts_with(why), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert_eq!((steps(&events), early.asids()), (vec![], vec![]));

        let late = signed(digest, policy, IdBlockCheck::ByFirmware);
        let GuestOutcome::NotStarted { reason } = late.run().report.outcome else { panic!("it was started") };
        assert!(reason.contains("finish the launch") && reason.contains("the firmware says"), "{reason}");
        assert_eq!(late.kernel.reports(), []);
    }

    let mut tampered = signed(digest, GuestPolicy::default(), IdBlockCheck::BeforeLaunch);
    if let Some(signed) = &mut tampered.inputs.signed {
        signed.block.image_id = [1; 16];
    }
    assert!(tampered.try_run().0.unwrap_err().to_string().contains("is not the signature of"));
}

/// The platform's certificates in a file, and where a guest has room for so many pages of them.
fn with_certificates(path: &Path, room: u64) -> Bed {
    let mut bed = Bed::new(1);
    let table = bed.kernel.platform().certificates(EndorsementKey::Vcek).unwrap().to_bytes();
    std::fs::write(path, table).unwrap();
    bed.inputs.certificates = Some(Arc::new(CertificateFile::open(path).unwrap()));
    let buffer = pages(FREE, room);
    bed.script(0, [change(buffer, Owner::Shared, Way::Buffer), report(9, Some(buffer)), Step::Terminate(NOT_BUILT)]);
    bed
}

#[test]
fn certificates_are_served_with_a_report() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bed = with_certificates(file.path(), 4);
    // Until the firmware has signed, nobody can make it another key than the certificates are for.
    let (theirs, seen) = (file.reopen().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let look = Arc::clone(&seen);
    bed.kernel.at_request(move || look.lock().unwrap().push(flock(&theirs, FlockOperation::NonBlockingLockExclusive)));
    let Ran { report, .. } = bed.run();
    assert_eq!(*seen.lock().unwrap(), [Err(Errno::WOULDBLOCK)]);
    assert_eq!(bed.kernel.complaints(), []);
    assert_eq!((counter(&report, "certificates served"), counter(&report, "not served")), (1, 0));
    let reports = bed.kernel.reports();
    let got: Vec<u8> = reports[0].certificates.iter().flat_map(|page: &Page| page.iter().copied()).collect();
    let table = std::fs::read(file.path()).unwrap();
    assert_eq!(got[..table.len()], table);
    // Nobody is kept from changing them afterwards.
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
}

/// What a guest hears of certificates it does not get.
fn complaint(bed: &Bed) -> String {
    match bed.kernel.complaints().as_slice() {
        [Complaint::Guest { vcpu: 0, what }] => what.clone(),
        others => panic!("{others:?}"),
    }
}

#[test]
fn certificates_that_do_not_fit_or_are_being_changed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bed = with_certificates(file.path(), 1);
    let needed = std::fs::metadata(file.path()).unwrap().len().div_ceil(4096);
    assert!(needed > 1);
    let Ran { report, .. } = bed.run();
    assert_eq!(complaint(&bed), format!("certificates: errno 28, {needed} pages are needed"));
    assert_eq!((counter(&report, "certificates served"), counter(&report, "not served")), (0, 1));

    let bed = with_certificates(file.path(), 4);
    let theirs = File::open(file.path()).unwrap();
    flock(&theirs, FlockOperation::NonBlockingLockExclusive).unwrap();
    bed.run();
    assert_eq!(complaint(&bed), "certificates: errno 11, 4 pages are needed");
    flock(&theirs, FlockOperation::Unlock).unwrap();

    // no-silent-trust: what was a table when we started need not be one later.
    let bed = with_certificates(file.path(), 4);
    std::fs::write(file.path(), [0xff; 100]).unwrap();
    let Ran { events, .. } = bed.run();
    assert_eq!(complaint(&bed), "certificates: errno 5, 4 pages are needed");
    let refused = |event: &Event| matches!(event, Event::Refused { request, .. } if request == "certificates");
    assert!(events.iter().any(refused));
}

/// shared-only: certificates go nowhere but where the guest shares memory.
#[test]
fn shared_only_certificates_need_shared_memory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bed = with_certificates(file.path(), 4);
    bed.script(0, [report(9, Some(pages(FREE, 4))), Step::Terminate(NOT_BUILT)]);
    bed.run();
    assert_eq!(complaint(&bed), "certificates: errno 5, 4 pages are needed");
}

/// one-launch, pages-before-key: a reset is a new VM with a new key, and the same launch.
#[test]
fn one_launch_a_reset_launches_the_same_again() {
    let mut bed = Bed::new(2);
    bed.config.snp.resets = Some(2);
    let say = Step::OutByte { port: layout::SERIAL_PORT, value: b'x' };
    bed.script(0, [report(0, None), say, reset()]);
    let Ran { report, events } = bed.run();
    assert_eq!(report.outcome, GuestOutcome::Reset);
    assert_eq!(bed.kernel.complaints(), []);
    assert_eq!(bed.measured(), [predicted(&events); 3]);
    // Its consoles stay connected.
    assert_eq!(*bed.console.0.lock().unwrap(), b"xxx");
    let asids = bed.asids();
    assert_eq!(asids.len(), 3);
    assert!(asids[0] != asids[1] && asids[1] != asids[2], "{asids:?}");
    let story: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Teardown { clean, .. } => Some(format!("teardown {clean}")),
            Event::Relaunch { resets } => Some(format!("relaunch {resets}")),
            Event::LaunchStep { step, .. } if step == "begin the launch" => Some("begin".to_owned()),
            _ => None,
        })
        .collect();
    let round = ["begin", "teardown true"];
    assert_eq!(story, [&round[..], &["relaunch 1"], &round, &["relaunch 2"], &round].concat());
}

#[test]
fn a_reset_ends_the_run_if_there_may_be_none() {
    let mut bed = Bed::new(1);
    bed.config.snp.resets = Some(0);
    bed.script(0, [reset()]);
    let Ran { report, events } = bed.run();
    assert_eq!((report.outcome.clone(), report.exit_code()), (GuestOutcome::Reset, ExitCode::Success));
    assert_eq!(bed.asids().len(), 1);
    assert!(!events.iter().any(|event| matches!(event, Event::Relaunch { .. })));
    assert_eq!(report.memory.ram.bytes(), Some(ByteLen(16 << 20)));
}

/// no-silent-trust: a host that cannot is told so in words, and what was begun is torn down.
#[test]
fn no_silent_trust_a_policy_the_platform_cannot_keep() {
    let mut bed = Bed::new(1);
    bed.config.snp.policy = "smt,aes-256-xts".parse().unwrap();
    let GuestOutcome::NotStarted { reason } = bed.run().report.outcome else { panic!("it was started") };
    assert!(reason.starts_with("begin the launch: ") && reason.contains("POLICY_FAILURE"), "{reason}");
}

/// one-launch: OVMF is launched as QEMU would, and measured as `tenure measure snp` says.
#[test]
fn one_launch_ovmf_is_launched_as_predicted() {
    let packed = File::open("../tests/vectors/firmware/OVMF.amdsev.fd.zst").unwrap();
    let mut image = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(packed).unwrap().read_to_end(&mut image).unwrap();
    let mut bed = Bed::new(2);
    bed.config.snp.vcpu_type = DEFAULT_VCPU_TYPE;
    let ovmf = Ovmf::parse(image).unwrap();
    let secrets = ovmf.sections.iter().find(|section| section.kind == SectionKind::Secrets).unwrap();
    let report = Step::Report { secrets: secrets.range.gpa(), data: [0; 64], certificates: None };
    bed.script(0, [report, Step::Terminate(0x100)]);
    bed.inputs.firmware = Some(ovmf);
    let Ran { report, events } = bed.run();
    let reason = "general request".to_owned();
    assert_eq!(report.outcome, GuestOutcome::Terminated { set: 0, code: 0, reason });
    assert_eq!(bed.measured(), [predicted(&events)]);
    assert_eq!(bed.kernel.complaints(), []);
}

/// A guest that shares pages, takes them back, and has itself terminated.
fn converting() -> Bed {
    let bed = Bed::new(1);
    let range = pages(FREE, 2);
    bed.script(
        0,
        [
            change(range, Owner::Shared, Way::Buffer),
            change(range, Owner::Private, Way::Buffer),
            Step::Validate(range),
            Step::Terminate(NOT_BUILT),
        ],
    );
    bed
}

/// Mapping ahead is a matter of speed: whether it works changes nothing for the guest.
#[test]
fn a_guest_does_not_notice_that_nothing_is_mapped_ahead() {
    let bed = converting();
    let faults = Arc::new(Faults::new(Vec::new(), Vec::new()));
    faults.fail_always(PortCall::Prefault, Errno::OPNOTSUPP.raw_os_error());
    let (report, _) = bed.try_run_on(&Faulty::new(bed.kernel.clone(), Arc::clone(&faults)));
    let report = report.unwrap();
    assert!(matches!(report.outcome, GuestOutcome::Terminated { set: 0xf, .. }), "{:?}", report.outcome);
    assert_eq!((counter(&report, "pages mapped ahead"), counter(&report, "not mapped ahead")), (0, 2));
    assert_eq!((faults.struck(), bed.kernel.complaints()), (1, vec![]));
}

/// pages-before-key: whichever call of a run fails, nothing of the guest is left, and no page outlives its key.
#[test]
fn pages_before_key_whichever_call_fails() {
    let counted = converting();
    let none = Arc::new(Faults::new(Vec::new(), Vec::new()));
    assert!(counted.try_run_on(&Faulty::new(counted.kernel.clone(), Arc::clone(&none))).0.is_ok());
    let mut struck = 0;
    for call in PortCall::ALL {
        for (nth, effect) in (1..=none.count(call).min(4)).flat_map(|nth| [(nth, Effect::Nothing), (nth, Effect::Done)])
        {
            let bed = converting();
            let faults = Arc::new(Faults::new(Vec::new(), Vec::new()));
            faults.fail(call, nth, Errno::IO.raw_os_error(), effect);
            let (_, events) = bed.try_run_on(&Faulty::new(bed.kernel.clone(), Arc::clone(&faults)));
            let what = format!("{call:?} {nth} {effect:?}");
            assert!(bed.kernel.is_empty(), "{what}");
            assert_eq!(bed.kernel.platform().violations(), [], "{what}");
            let complaints = bed.kernel.complaints();
            let guests = |complaint: &Complaint| matches!(complaint, Complaint::Guest { .. });
            assert!(complaints.iter().all(guests), "{what}: {complaints:?}");
            // Whoever had an ASID has a receipt.
            let receipt = events.iter().any(|event| matches!(event, Event::Teardown { .. }));
            assert!(receipt || bed.asids().is_empty(), "{what}");
            struck += faults.struck();
        }
    }
    assert!(struck > 20, "{struck}");
}
