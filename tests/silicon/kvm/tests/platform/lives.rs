//! Whole lives of a guest, from creation to receipt, in which each call of the port fails in turn: with each errno that
//! Linux has for it, before and after its effect; with slots that cannot be deleted; and with a panic instead.
//!
//! Laws *pages-before-key*, *known-owner* and *no-stale-copy*. The same is done to the other technologies by `tests/faulty`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use gmem::Gpa;
use gmem::launch::Launch;
use gmem::ledger::Owner;
use gmem_kvm::port::{KernelVcpu, VmType};
use gmem_kvm::teardown::Receipt;
use gmem_kvm::testing::errnos;
use gmem_kvm::testing::fault::{Effect, Failure, Faults, Moment, PortCall};
use gmem_kvm::testing::faulty::Faulty;
use gmem_kvm::vm::Vm;
use silicon_kvm::script::{Step, Way};
use silicon_kvm::{Complaint, SiliconKernel};
use snp::id_block::Identity;
use snp::launch::Certificates;
use tenure_silicon::model::Model;

use crate::bed::{assert_refines, drive, identity, kernel, launch_in, ours, pages};

const FREE: u64 = 0x100_0000;

/// A guest that shares, takes back, touches, and has a second vCPU.
fn scripted() -> SiliconKernel {
    let kernel = kernel(Model::Milan);
    let change = |gpa, count, to, way| Step::PageState { range: pages(gpa, count), to, way, works: true };
    let range = pages(FREE, 4);
    kernel.script(
        0,
        [
            Step::Validate(range),
            Step::Write(Gpa(FREE), 0x5ec2e7),
            Step::Rescind(range),
            change(FREE, 4, Owner::Shared, Way::Buffer),
            Step::ExpectShared(Gpa(FREE), 0),
            change(FREE, 2, Owner::Private, Way::Msr),
            Step::WriteShared(Gpa(FREE + 0x10_0000), 1),
            Step::Validate(pages(FREE + 0x20_0000, 2)),
            Step::CreateAp { vcpu: 1, vmsa: Gpa(FREE + 0x20_0000 + 0x1000) },
            Step::Report { secrets: Gpa(guest_fw::abi::SNP_SECRETS), data: [3; 64], certificates: None },
            Step::Terminate(0x100),
        ]
        .into(),
    );
    kernel
}

/// A life, as the host leads it. `None` if no VM came to be.
fn live(kernel: &SiliconKernel, faults: &Arc<Faults>, plan: &Launch<Identity>) -> Option<Receipt> {
    let faulty = Faulty::new(kernel.clone(), Arc::clone(faults));
    let vm = Vm::create(&faulty, VmType::Snp, *plan.plan.ram()).ok()?;
    let (vm, mut vcpus) = match launch_in(&faulty, vm, plan, Certificates::Ours) {
        Ok(running) => running,
        Err((failed, vcpus)) => return Some(failed.teardown(vcpus)),
    };
    let handle = vm.handle();
    for vcpu in &mut vcpus {
        drive(&handle, vcpu, |request| *request.answer = 0);
        // As the host does when it needs a certificate's lock until the firmware was asked, and ahead of a guest's accesses.
        let _ = vcpu.complete_exit();
        let _ = vcpu.prefault(pages(FREE + 0x8000, 2));
    }
    assert_refines(kernel, vm.ledger());
    Some(vm.teardown(vcpus))
}

/// What holds whatever went wrong.
fn judge(kernel: &SiliconKernel, receipt: Option<&Receipt>, what: &str) {
    // A guest may complain of what it was refused; nobody may of pages or keys.
    let complaints: Vec<_> = kernel.complaints();
    let guests = |complaint: &&Complaint| matches!(complaint, Complaint::Guest { .. });
    assert!(complaints.iter().all(|complaint| guests(&complaint)), "{what}: {complaints:?}");
    assert_eq!(kernel.platform().violations(), [], "{what}");
    assert_eq!(kernel.platform().statistics().pages_by_asid, [], "{what}");
    assert!(kernel.is_empty(), "{what}: something is left");
    if let Some(receipt) = receipt {
        assert!(receipt.pages_before_key(), "{what}: {receipt:?}");
        let doubt = receipt.pages.in_doubt.get() > 0 || !receipt.unsettled.doubts.is_empty();
        assert!(receipt.is_clean() != doubt, "{what}: {receipt:?}");
    }
}

/// Every failure there can be in a life with these counts of calls.
fn failures(counts: &Faults) -> impl Iterator<Item = Failure> {
    PortCall::ALL.into_iter().flat_map(|call| {
        let number = 1..=counts.count(call);
        number.flat_map(move |number| {
            let at = Moment { call, number };
            let both = [Effect::Nothing, Effect::Done].into_iter();
            both.flat_map(move |effect| {
                let possible = move |errno: &&rustix::io::Errno| {
                    effect == Effect::Nothing || !errnos::proves_no_effect(call, **errno)
                };
                let errnos = errnos::of(call).iter().filter(possible);
                errnos.map(move |errno| Failure { at, errno: errno.raw_os_error(), effect })
            })
        })
    })
}

#[test]
fn pages_before_key_whatever_call_fails() {
    let plan = ours(2, identity());
    let (calm, counts) = (scripted(), Arc::<Faults>::default());
    let receipt = live(&calm, &counts, &plan);
    judge(&calm, receipt.as_ref(), "nothing fails");
    assert_eq!(calm.complaints(), []);
    let mut tally: BTreeMap<PortCall, u64> = BTreeMap::new();
    for failure in failures(&counts) {
        for slots_stay in [false, true] {
            let kernel = scripted();
            let faults = Arc::new(Faults::new(vec![failure], Vec::new()));
            if slots_stay {
                faults.fail_always(PortCall::DeleteSlot, rustix::io::Errno::INTR.raw_os_error());
            }
            let receipt = live(&kernel, &faults, &plan);
            judge(&kernel, receipt.as_ref(), &format!("{failure}, slots stay: {slots_stay}"));
            *tally.entry(failure.at.call).or_default() += 1;
        }
    }
    for (call, count) in &tally {
        println!("  {:<32} {:<32} failed {count:>4} times", call.name(), call.kernel_name());
    }
    for call in PortCall::SNP.into_iter().chain([PortCall::SetOwner, PortCall::Discard, PortCall::Run]) {
        assert!(tally.contains_key(&call), "{} never failed", call.name());
    }
}

/// A dead VM answers every call with EIO: what is left is to close it, in order.
#[test]
fn pages_before_key_whenever_the_vm_dies() {
    let plan = ours(2, identity());
    let calm = scripted();
    live(&calm, &Arc::default(), &plan);
    for call in 1..=calm.calls() {
        let kernel = scripted();
        kernel.die_at(call);
        let receipt = live(&kernel, &Arc::default(), &plan);
        judge(&kernel, receipt.as_ref(), &format!("dead from call {call}"));
    }
}

#[test]
fn pages_before_key_wherever_it_panics() {
    let plan = ours(2, identity());
    let counts = Arc::<Faults>::default();
    live(&scripted(), &counts, &plan);
    let mut panics = 0;
    for call in PortCall::ALL {
        for number in 1..=counts.count(call) {
            let kernel = scripted();
            let at = Moment { call, number };
            let faults = Arc::new(Faults::new(Vec::new(), vec![at]));
            let ended = catch_unwind(AssertUnwindSafe(|| drop(live(&kernel, &faults, &plan))));
            panics += u32::from(ended.is_err());
            judge(&kernel, None, &format!("panic at {at}"));
        }
    }
    assert!(panics > 30, "only {panics} panics");
}
