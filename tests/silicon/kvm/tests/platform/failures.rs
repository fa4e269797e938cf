//! Law *pages-before-key* on every path: each firmware command fails once, at each step the launch can fail, and
//! whoever drops what in whatever order.

use gmem_kvm::port::{Kernel, VmType};
use gmem_kvm::testing::fault::{Effect, Faults, PortCall};
use gmem_kvm::testing::faulty::Faulty;
use gmem_kvm::vm::Vm;
use silicon_kvm::script::Step;
use silicon_kvm::{Complaint, SiliconKernel};
use snp::launch::Certificates;
use std::sync::Arc;
use tenure_silicon::model::Model;
use tenure_silicon::platform::Fault;
use tenure_silicon::psp::{Command, Status};

use crate::bed::{assert_gone, drive_all, identity, kernel, launch, ours, ovmf, pages, run, script, tear_down};

/// Each command of a launch fails, in turn, at each of its calls: the launch ends with an error that names the
/// status, and nothing is left.
#[test]
fn pages_before_key_when_firmware_fails() {
    let mut failures = 0;
    for command in [
        Command::SnpPlatformStatus,
        Command::SnpGctxCreate,
        Command::SnpLaunchStart,
        Command::SnpActivate,
        Command::SnpLaunchUpdate,
        Command::SnpLaunchFinish,
    ] {
        // The first calls of each, and then some: a launch adds about eighty pages.
        for nth in [1, 2, 3, 20, 30, 60, 90] {
            let kernel = kernel(Model::Milan);
            // Linux hides a failure behind the pages that went well before it; asked again, it shows.
            for nth in [nth, nth + 1] {
                kernel.platform().plant(Fault::Command { command: Some(command), nth, status: Status::ResourceLimit });
            }
            let Err((failed, vcpus)) = launch(&kernel, &ours(2, identity()), Certificates::None) else { break };
            failures += 1;
            let why = failed.why().to_string();
            let said = why.contains("RESOURCE_LIMIT") || command == Command::SnpGctxCreate;
            assert!(said, "{command:?} {nth}: {why}");
            let receipt = failed.teardown(vcpus);
            assert!(receipt.is_clean() && receipt.pages_before_key(), "{command:?} {nth}: {receipt:?}");
            assert_gone(&kernel);
        }
    }
    // Each command once, and one of the first pages, the zeros, the parameters and the registers.
    assert_eq!(failures, 5 + 6);
}

/// A failure that went away: Linux says that all went well up to there, the rest is asked for again, and the digest
/// is what it would have been.
#[test]
fn one_launch_a_failure_that_passes_changes_nothing() {
    let (kernel, plan) = (kernel(Model::Milan), ours(2, identity()));
    let fault = Fault::Command { command: Some(Command::SnpLaunchUpdate), nth: 20, status: Status::ResourceLimit };
    kernel.platform().plant(fault);
    let guest = run(&kernel, &plan);
    assert_eq!(kernel.digest(kernel.vms()[0]), Some(snp::measure::launch_digest(&plan).unwrap().0));
    tear_down(&kernel, guest);
}

/// A signal is pending when pages are populated: the kernel hides it, and is asked again.
#[test]
fn one_launch_an_interrupted_update_is_repeated() {
    let (kernel, plan) = (kernel(Model::Milan), ours(1, identity()));
    kernel.interrupt_next_update();
    let guest = run(&kernel, &plan);
    assert_eq!(kernel.digest(kernel.vms()[0]), Some(snp::measure::launch_digest(&plan).unwrap().0));
    tear_down(&kernel, guest);
}

/// Every port call of a launch fails, before and after its effect.
#[test]
fn pages_before_key_when_a_call_fails() {
    const EIO: i32 = 5;
    for call in [
        PortCall::SnpInit,
        PortCall::SnpEnableCertificateRequests,
        PortCall::SnpLaunchStart,
        PortCall::SnpLaunchUpdate,
        PortCall::SnpLaunchFinish,
        PortCall::CreateGmem,
        PortCall::CreateSlot,
        PortCall::SetOwner,
        PortCall::CreateVcpu,
    ] {
        for effect in [Effect::Nothing, Effect::Done] {
            for nth in 1..4 {
                let (kernel, faults) = (kernel(Model::Milan), Arc::<Faults>::default());
                // A call that fails for good: LAUNCH_UPDATE is asked again when nothing says why.
                for again in nth..nth + 4 {
                    faults.fail(call, again, EIO, effect);
                }
                let faulty = Faulty::new(kernel.clone(), Arc::clone(&faults));
                match launch(&faulty, &ours(2, identity()), Certificates::Ours) {
                    Err((failed, vcpus)) => {
                        let receipt = failed.teardown(vcpus);
                        assert!(receipt.is_clean(), "{call:?} {effect:?} {nth}: {receipt:?}");
                    }
                    // It is called less often than that.
                    Ok((vm, vcpus)) => drop(vm.teardown(vcpus)),
                }
                assert_gone(&kernel);
            }
        }
    }
}

/// A page that firmware does not give back is lost, and said to be: never given to somebody else.
#[test]
fn pages_before_key_a_page_the_firmware_keeps_is_leaked() {
    let kernel = kernel(Model::Milan);
    let plant = |command, nth, status| kernel.platform().plant(Fault::Command { command: Some(command), nth, status });
    plant(Command::SnpLaunchUpdate, 3, Status::InvalidPageState);
    plant(Command::SnpPageReclaim, 1, Status::InvalidPageState);
    let Err((failed, vcpus)) = launch(&kernel, &ours(1, identity()), Certificates::None) else { panic!("launched") };
    drop(failed.teardown(vcpus));
    assert!(!kernel.is_empty(), "a page is missing");
    assert_eq!(kernel.platform().violations(), []);
}

/// An ASID whose guest firmware does not let go of is leaked, not given out again.
#[test]
fn pages_before_key_an_asid_the_firmware_keeps_is_leaked() {
    let kernel = kernel(Model::Milan);
    let fault = Fault::Command { command: Some(Command::SnpDecommission), nth: 1, status: Status::HardwarePlatform };
    kernel.platform().plant(fault);
    let first = run(&kernel, &ours(1, identity()));
    let leaked = kernel.asid(kernel.vms()[0]);
    drop(first.0.teardown(first.1));
    // As many as there are, and so a recycling in between.
    for _ in 0..20 {
        let guest = run(&kernel, &ours(1, identity()));
        assert_ne!(kernel.asid(kernel.vms()[0]), leaked);
        drop(guest.0.teardown(guest.1));
    }
    assert_eq!(kernel.platform().violations(), []);
    assert_eq!(kernel.complaints(), []);
}

/// Guest after guest on few ASIDs: each gets one, all pages and keys come back, digests repeat.
#[test]
fn pages_before_key_guest_after_guest() {
    let kernel = kernel(Model::Turin);
    let plan = ovmf(2, identity());
    let mut asids = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let mut guest = run(&kernel, &plan);
        asids.extend(kernel.asid(kernel.vms()[0]));
        drive_all(&kernel, &mut guest);
        tear_down(&kernel, guest);
    }
    assert_eq!(asids.len(), 16, "all ASIDs that are for SNP were used");
}

/// A panic, a crash: dropped without teardown, in the order fields drop.
#[test]
fn pages_before_key_dropped() {
    let kernel = kernel(Model::Milan);
    script(&kernel, 0, [Step::Validate(pages(0x100_0000, 600)), Step::TripleFault]);
    let mut guest = run(&kernel, &ours(3, identity()));
    drive_all(&kernel, &mut guest);
    drop(guest);
    assert_gone(&kernel);
    let half = Vm::create(&kernel, VmType::Snp, *ours(1, identity()).plan.ram()).unwrap();
    drop(half);
    assert_gone(&kernel);
}

/// The check can fail: with the guest_memfd closed last, the platform sees pages outlive the key. No API of ours can do
/// that, so the test does it with the port itself.
#[test]
fn pages_before_key_the_wrong_order_is_seen() {
    use gmem_kvm::port::snp::{SnpCommand, SnpPageType, SnpUpdate};
    use gmem_kvm::port::{GmemUse, KernelVm, Slot, SlotId};
    let kernel: SiliconKernel = kernel(Model::Milan);
    let range = pages(0, 16);
    let vm = kernel.create_vm(VmType::Snp).unwrap();
    vm.snp(SnpCommand::Init { vmsa_features: 0 }).unwrap();
    vm.snp(SnpCommand::LaunchStart { policy: 0x30000 }).unwrap();
    let gmem = vm.create_gmem(range.pages(), GmemUse::Private).unwrap();
    let shared = Arc::new(gmem_kvm::backing::Region::new("test", range).unwrap());
    let private = Some((&gmem, gmem::PageCount::new(0)));
    vm.create_slot(Slot { id: SlotId(0), range, shared, private }).unwrap();
    vm.set_owner(range, gmem::ledger::Owner::Private).unwrap();
    let (page_type, done) = (SnpPageType::Zero, gmem::PageCount::default());
    vm.snp_launch_update(&mut SnpUpdate { range, page_type, source: &mut [], done }).unwrap();
    drop(vm);
    drop(gmem);
    let complaints = kernel.complaints();
    assert!(matches!(complaints[..], [Complaint::KeyBeforePages { pages: 16, .. }]), "{complaints:?}");
}
