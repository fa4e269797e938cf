//! Law *pages-before-key*: from every stage and on every path, pages are freed before the VM's key, nothing of ours pins
//! either, and the receipt tells the truth.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use gmem::Gpa;
use gmem::ledger::Owner;

use super::{Rig, SMALL, SPLIT, TestVcpu, TestVm, created, launch_steps, position, range};
use crate::convert::ConvertError;
use crate::port::Level;
use crate::teardown::{Closing, Receipt};
use crate::testing::fake::errno::{EINTR, EIO, ENOMEM};
use crate::testing::fake::{Call, FakeKernel, GuestFault};
use crate::testing::fault::{Effect, Faults, PortCall};
use crate::testing::faulty::Faulty;
use crate::vm::{Failed, LaunchError, Vm};

/// The kernel's own record of what was freed when.
fn assert_pages_went_first(kernel: &FakeKernel) {
    let record = kernel.record();
    let key = position(&record, |call| *call == Call::KeyFreed).expect("the VM is still there");
    if let Some(made) = position(&record, |call| matches!(call, Call::CreateGmem { .. }))
        && record[made].errno.is_none()
    {
        let pages = position(&record, |call| matches!(call, Call::PagesFreed { .. })).expect("pages are still there");
        assert!(pages < key, "the key was freed while there were pages");
    }
    assert!(kernel.is_empty(), "something pins a VM or its pages");
}

/// Teardown as the law says: in order, and truthfully reported.
fn assert_in_order(kernel: &FakeKernel, receipt: &Receipt) {
    assert_pages_went_first(kernel);
    assert!(receipt.pages_before_key(), "{receipt:?}");
    let order: Vec<_> = receipt.steps.iter().map(|step| rank(step.what)).collect();
    assert!(order.is_sorted(), "{:?}", receipt.steps);
    let record = kernel.record();
    let closed = |wanted: fn(&Call) -> bool| position(&record, wanted);
    let vm = closed(|call| *call == Call::CloseVm).expect("the VM was never closed");
    let stages = [closed(|call| *call == Call::CloseGmem), closed(|call| matches!(call, Call::CloseVcpu(_))), Some(vm)];
    assert!(stages.iter().flatten().is_sorted(), "{stages:?}");
    assert_eq!(receipt.steps.last().map(|step| step.what), Some(Closing::Vm));
    let reported = receipt.steps.iter().any(|step| step.what == Closing::GuestMemfd);
    assert_eq!(reported, stages[0].is_some(), "the receipt and the kernel differ about the guest_memfd");
}

fn rank(what: Closing) -> u8 {
    match what {
        Closing::VcpusStopped => 0,
        Closing::Slot(_) => 1,
        Closing::GuestMemfd => 2,
        Closing::Vcpus(_) => 3,
        Closing::Vm => 4,
    }
}

/// Launches until a step fails, then gives up as the host does; `None` if none failed.
fn launch_and_fail(kernel: &FakeKernel, faults: &Arc<Faults>) -> Option<(Vm<TestVm, Failed>, Vec<TestVcpu>)> {
    let mut vm = created(kernel, faults, SPLIT);
    let mut vcpus = Vec::new();
    for step in launch_steps() {
        if let Err(error) = step(&mut vm, &mut vcpus) {
            return Some((vm.fail(error), vcpus));
        }
    }
    drop(vcpus);
    drop(vm);
    None
}

/// After each launch step failed.
#[test]
fn pages_before_key_after_each_failed_launch_step() {
    let mut failures = 0;
    for kind in [
        PortCall::CreateGmem,
        PortCall::CreateSlot,
        PortCall::SetOwner,
        PortCall::EnableConversionRequests,
        PortCall::TrapMsrs,
        PortCall::CreateInterruptController,
        PortCall::CreateVcpu,
    ] {
        for nth in 1.. {
            let (kernel, faults) = (FakeKernel::default(), Arc::<Faults>::default());
            faults.fail(kind, nth, ENOMEM, Effect::Nothing);
            let Some((vm, vcpus)) = launch_and_fail(&kernel, &faults) else { break };
            failures += 1;
            assert!(matches!(vm.why(), LaunchError::Kernel { source, .. } if source.errno == ENOMEM), "{}", vm.why());
            let receipt = vm.teardown(vcpus);
            assert!(receipt.is_clean(), "{kind:?} {nth}: {receipt:?}");
            assert_in_order(&kernel, &receipt);
        }
    }
    // One file, two RAM slots and staging, three gigabytes to mark, two capabilities, interrupts, two vCPUs.
    assert_eq!(failures, 1 + 3 + 3 + 1 + 1 + 1 + 2);
}

/// A VM that could not be created leaves nothing.
#[test]
fn pages_before_key_no_vm_at_all() {
    let (kernel, faults) = (FakeKernel::default(), Arc::<Faults>::default());
    faults.fail(PortCall::CreateVm, 1, ENOMEM, Effect::Nothing);
    let ram = gmem::layout::RamLayout::new(SMALL).unwrap();
    let error = Vm::create(&Faulty::new(kernel.clone(), faults), crate::port::VmType::SwProtected, ram).unwrap_err();
    assert!(error.to_string().starts_with("create VM: KVM_CREATE_VM("), "{error}");
    assert!(kernel.is_empty());
}

/// After each launch step that worked, and from every stage.
#[test]
fn pages_before_key_from_every_stage() {
    for done in 0..=launch_steps().len() {
        for sealed in [false, true] {
            let kernel = FakeKernel::default();
            let mut vm = created(&kernel, &Arc::default(), SMALL);
            let mut vcpus = Vec::new();
            launch_steps().iter().take(done).for_each(|step| step(&mut vm, &mut vcpus).unwrap());
            let count = vcpus.len();
            let receipt = if sealed { vm.seal().unwrap().teardown(vcpus) } else { vm.teardown(vcpus) };
            assert!(receipt.is_clean(), "{receipt:?}");
            assert_in_order(&kernel, &receipt);
            assert!(receipt.steps.iter().any(|step| step.what == Closing::Vcpus(count)));
            let slots = receipt.steps.iter().filter(|step| matches!(step.what, Closing::Slot(_))).count();
            assert_eq!(slots, usize::from(done > 0) + usize::from(done > 3), "after {done} steps");
        }
    }
}

/// On a dead VM every call answers EIO: slots stay, the receipt says so, and the rest goes as always.
#[test]
fn pages_before_key_on_a_dead_vm() {
    let rig = Rig::with_ram(SPLIT);
    rig.guest_write(5, 1);
    rig.kernel.kill(rig.id());
    assert!(matches!(rig.handle().convert(range(5, 1), Owner::Shared), Err(ConvertError::Kernel { source, .. })
        if source.errno == EIO));
    let kernel = rig.kernel.clone();
    let receipt = rig.vm.teardown(rig.vcpus);
    assert_in_order(&kernel, &receipt);
    let problems: Vec<_> = receipt.steps.iter().filter(|step| step.problem.is_some()).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    for step in problems {
        assert!(matches!(step.what, Closing::Slot(_)));
        assert!(step.problem.as_ref().unwrap().contains("errno 5"));
    }
    assert!(receipt.is_clean(), "slots of a dead VM are nobody's fault, and hold nothing");
    assert_eq!((receipt.resident.private.unwrap().get(), receipt.pages.in_doubt.get()), (1, 0));
}

/// A live VM that refuses to delete a slot changes nothing about the order.
#[test]
fn pages_before_key_when_slots_cannot_be_deleted() {
    let rig = Rig::new();
    rig.faults.fail_always(PortCall::DeleteSlot, EINTR);
    let kernel = rig.kernel.clone();
    let receipt = rig.vm.teardown(rig.vcpus);
    assert_in_order(&kernel, &receipt);
    assert_eq!(receipt.steps.iter().filter(|step| step.problem.is_some()).count(), 2);
}

/// With handles alive, and busy, in other threads.
#[test]
fn pages_before_key_with_busy_handles() {
    let rig = Rig::new();
    let stop = AtomicBool::new(false);
    let kernel = rig.kernel.clone();
    thread::scope(|scope| {
        let busy: Vec<_> = (0..4u64)
            .map(|number| {
                let (handle, stop) = (rig.handle(), &stop);
                scope.spawn(move || {
                    let mut owner = Owner::Shared;
                    while !stop.load(Ordering::Relaxed) {
                        let _ = handle.convert(range(number * 600, 600), owner);
                        owner = owner.other();
                        handle.set_irq_line(4, Level::High).unwrap();
                        let _ = handle.page_state(Gpa(0));
                        let _ = handle.resident();
                    }
                })
            })
            .collect();
        super::wait_until(|| rig.owner_calls().len() > 20);
        let receipt = rig.vm.teardown(rig.vcpus);
        stop.store(true, Ordering::Relaxed);
        for thread in busy {
            thread.join().unwrap();
        }
        assert!(receipt.is_clean(), "{receipt:?}");
        assert_in_order(&kernel, &receipt);
    });
    assert!(kernel.is_empty());
}

/// What a handle says once the VM is gone.
#[test]
fn pages_before_key_handles_of_a_gone_vm() {
    let rig = Rig::new();
    let (handle, kernel) = (rig.handle(), rig.kernel.clone());
    assert!(rig.vm.teardown(rig.vcpus).is_clean());
    let calls = kernel.record().len();
    assert_eq!(handle.convert(range(0, 1), Owner::Shared), Err(ConvertError::Gone));
    assert_eq!(handle.page_state(Gpa(0)), None);
    assert_eq!(handle.drop_staging(), Ok(false));
    assert_eq!(handle.set_irq_line(4, Level::Low), Ok(()));
    handle.resident().unwrap_err();
    handle.begin_closing();
    assert_eq!(kernel.record().len(), calls, "a call on a VM that is gone");
}

/// Ends a VM by `end` while another thread is inside a call, which comes back only afterwards.
fn with_a_thread_in_a_call(end: impl FnOnce(Rig)) {
    let rig = Rig::new();
    let gate = rig.gate_before(PortCall::SetIrqLine);
    let kernel = rig.kernel.clone();
    thread::scope(|scope| {
        let handle = rig.handle();
        scope.spawn(move || handle.set_irq_line(4, Level::High).unwrap());
        gate.wait_for_arrivals(1);
        end(rig);
        assert!(position(&kernel.record(), |call| matches!(call, Call::PagesFreed { .. })).is_some());
        gate.open();
    });
    assert_pages_went_first(&kernel);
}

/// A thread that never comes back from a call: the pages go all the same, and the receipt says what is still open.
#[test]
fn pages_before_key_with_a_thread_stuck_in_a_call() {
    with_a_thread_in_a_call(|rig| {
        let kernel = rig.kernel.clone();
        let receipt = rig.vm.teardown(rig.vcpus);
        let last = receipt.steps.last().unwrap();
        assert_eq!(last.what, Closing::Vm);
        assert!(last.problem.as_ref().unwrap().contains("1 threads"), "{last:?}");
        assert!(!receipt.is_clean());
        assert!(position(&kernel.record(), |call| *call == Call::KeyFreed).is_none());
    });
}

/// A panic that only drops the VM, before or after its vCPUs: pages first, whoever holds a handle.
#[test]
fn pages_before_key_after_a_panic() {
    let rig = Rig::new();
    let (handle, kernel) = (rig.handle(), rig.kernel.clone());
    rig.guest_write(9, 9);
    catch_unwind(AssertUnwindSafe(move || {
        let _rig = rig;
        panic!("as planned");
    }))
    .unwrap_err();
    assert_pages_went_first(&kernel);
    assert_eq!(handle.convert(range(0, 1), Owner::Shared), Err(ConvertError::Gone));

    // vCPUs that live on in their threads: the key stays until they are gone, the pages don't.
    let rig = Rig::new();
    let (kernel, vcpus, id) = (rig.kernel.clone(), rig.vcpus, rig.vm.core.vm.inner().id());
    drop(rig.vm);
    assert_eq!(kernel.guest_read(id, 9), Err(GuestFault::NoPrivatePage));
    assert!(position(&kernel.record(), |call| matches!(call, Call::PagesFreed { .. })).is_some());
    assert!(position(&kernel.record(), |call| *call == Call::KeyFreed).is_none());
    drop(vcpus);
    assert_pages_went_first(&kernel);
}

/// A panic while another thread is inside a call: the pages do not wait for it.
#[test]
fn pages_before_key_after_a_panic_with_a_thread_inside() {
    with_a_thread_in_a_call(drop);
}

/// A panic while a conversion waits for a guard that stays: it gives up, and so the VM goes.
#[test]
fn pages_before_key_after_a_panic_with_a_waiting_conversion() {
    let rig = Rig::new();
    rig.convert(range(3, 1), Owner::Shared);
    let kernel = rig.kernel.clone();
    let (handle, view) = (rig.handle(), rig.handle());
    let (done, is_done) = mpsc::channel();
    thread::scope(|scope| {
        let _guard = view.shared().enter();
        scope.spawn(move || done.send(handle.convert(range(3, 1), Owner::Private)).unwrap());
        super::wait_until(|| rig.state(3) == gmem::ledger::PageState::ConvertingToPrivate);
        drop(rig);
        assert_eq!(is_done.recv_timeout(super::NEVER).unwrap(), Err(ConvertError::Gone));
    });
    assert_pages_went_first(&kernel);
}

/// The receipt counts pages by their last state, and what the guest took.
#[test]
fn pages_before_key_receipt_counts() {
    let rig = Rig::new();
    rig.convert(range(0x10, 3), Owner::Shared);
    rig.guest_write(0x10, 1);
    (0x100..0x105).for_each(|gfn| rig.guest_write(gfn, gfn));
    rig.faults.fail(PortCall::SetOwner, 1, EINTR, Effect::Nothing);
    rig.handle().convert(range(0x20, 2), Owner::Shared).unwrap_err();
    let receipt = rig.vm.teardown(rig.vcpus);
    assert_eq!((receipt.pages.shared.get(), receipt.pages.in_doubt.get()), (3, 2));
    assert_eq!(receipt.pages.private().get(), 4096 - 5);
    assert_eq!((receipt.resident.private.unwrap().get(), receipt.resident.shared.get()), (5, 1));
    assert_eq!(receipt.resident.staging.get(), 2);
    assert!(!receipt.is_clean());
}

/// Staging can go while the guest runs, once.
#[test]
fn pages_before_key_staging_goes_once() {
    let rig = Rig::new();
    let handle = rig.handle();
    let staged = super::plan(*rig.vm.ledger().ram()).regions()[0].range.start().number();
    assert_eq!(rig.guest_read(staged), 0x5a5a_5a5a_5a5a_5a5a);
    assert_eq!(handle.drop_staging(), Ok(true));
    assert_eq!(handle.drop_staging(), Ok(false));
    assert_eq!(rig.vm.resident().staging.get(), 0);
    assert_eq!(rig.kernel.guest_read(rig.id(), staged), Err(GuestFault::Mmio));
    let receipt = rig.vm.teardown(rig.vcpus);
    assert_eq!(receipt.steps.iter().filter(|step| matches!(step.what, Closing::Slot(_))).count(), 1);
    assert!(receipt.is_clean());
}
