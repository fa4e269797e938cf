//! Whole runs of SNP guests on the software platform: launch, conversions, reports, resets and every way to end.
//!
//! The launch, and what it is measured as, are those of our firmware. What the PSP kept is read from the guest's
//! attestation reports, and from what the platform noted.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod bed;
mod certificates;
mod faults;
mod flow;
mod predicted;

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use gmem::layout;
use gmem::ledger::Owner;
use gmem::{ByteLen, Gpa};
use silicon_kvm::script::{Step, Way};
use snp::digest::Digest;
use snp::ovmf::{Ovmf, SectionKind};
use snp::policy::GuestPolicy;
use tenure::config::snp::{DEFAULT_VCPU_TYPE, IdBlockCheck};
use tenure::devices::virtio::channels::Session;
use tenure::events::Event;
use tenure::exit::ExitCode;
use tenure::report::GuestOutcome;
use tenure::run::ChannelServer;

use bed::{Bed, FREE, NOT_BUILT, Ran, change, counter, field, pages, predicted, report, reset, steps};

/// Of an attestation report (56860, "ATTESTATION_REPORT"): offsets of HOST_DATA and REPORT_DATA.
const HOST_DATA: usize = 0xc0;
const REPORT_DATA: usize = 0x50;

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
fn pages_before_key_channels_end_with_the_run() {
    let mut bed = Bed::new(1);
    bed.config.snp.resets = Some(1);
    let without = {
        bed.script(0, [reset()]);
        bed.run().report
    };
    assert!(without.devices.iter().all(|device| device.name != "channels"));
    let held = Arc::new(());
    let servers = ["tenure.one", "tenure.two"].map(|channel| {
        let held = Arc::clone(&held);
        let serve = Box::new(move |_: &Session| drop(Arc::clone(&held)));
        ChannelServer { channel, serve }
    });
    bed.servers.lock().unwrap().extend(servers);
    // The same servers serve both VMs; nothing of them is left after the second.
    let with = bed.run().report;
    assert_eq!(with.outcome, GuestOutcome::Reset);
    assert_eq!(with.warnings, without.warnings);
    assert_eq!(Arc::strong_count(&held), 1);
    let channels = with.devices.iter().find(|device| device.name == "channels").unwrap();
    assert!(channels.counters.iter().all(|(_, count)| *count == 0), "{:?}", channels.counters);
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
