//! Law *pages-before-key*: the order in which real descriptors go, what pins a VM, and what a punched hole frees.

use std::panic::{AssertUnwindSafe, catch_unwind};

use gmem::layout::RamLayout;
use gmem::ledger::Owner;
use gmem::{ByteLen, PageCount};
use gmem_kvm::evidence::held_by_this_process;
use gmem_kvm::port::{KernelGmem, KernelVcpu, VmType};
use gmem_kvm::teardown::{Closing, Receipt};
use gmem_kvm::vm::{Launching, Vm};
use rustix::fs::FallocateFlags;
use rustix::mm::MapFlags;
use vm_memory::{Bytes, GuestAddress};

use crate::guest::{DATA, Did, Guest};
use crate::harness::{Outcome, Skip};
use crate::host::{Host, Kind, allocated, range};
use crate::raw::{self, GMEM_NAMES, Memory};
use crate::slots::{Started, data_slot, make_private};
use crate::watched::{Watched, WatchedVcpu, WatchedVm, What};

const VCPUS: usize = 2;

fn assert_nothing_is_held() {
    let held = held_by_this_process();
    assert!(held.is_empty(), "still held: {held:?}");
}

/// A VM with private memory and vCPUs, ready to be sealed.
fn launching(kernel: &Watched<'_>) -> (Vm<WatchedVm, Launching>, Vec<WatchedVcpu>) {
    let ram = RamLayout::new(ByteLen(16 << 20)).unwrap();
    let mut vm = Vm::create(kernel, VmType::SwProtected, ram).unwrap();
    vm.add_ram().unwrap();
    vm.mark_ram_private().unwrap();
    vm.create_interrupt_controller().unwrap();
    let vcpus = (0..VCPUS).map(|_| vm.add_vcpu().unwrap()).collect();
    (vm, vcpus)
}

/// What was held at each step: nothing that should have gone before it, and all that should go after it.
fn assert_order(kernel: &Watched<'_>) {
    let moments = kernel.log.moments();
    let order: Vec<_> = moments.iter().map(|moment| moment.what).filter(|what| *what != What::DeleteSlot).collect();
    assert_eq!(order, [What::CloseGmem, What::CloseVcpu, What::CloseVcpu, What::CloseVm]);
    for moment in &moments {
        assert!(moment.holds_vm(), "the VM went before {:?}", moment.what);
        match moment.what {
            What::DeleteSlot | What::CloseGmem => {
                assert!(moment.holds_gmem());
                // A descriptor and a mapping each.
                assert_eq!(moment.vcpus_held(), 2 * VCPUS);
            }
            What::CloseVcpu => assert!(!moment.holds_gmem(), "a vCPU went before the pages"),
            What::CloseVm => {
                assert!(!moment.holds_gmem(), "the key went before the pages");
                assert_eq!(moment.vcpus_held(), 0, "a vCPU still pins the VM");
            }
        }
    }
}

pub(crate) fn teardown_order(host: &Host) -> Outcome {
    let kernel = Watched::new(host);
    let (vm, vcpus) = launching(&kernel);
    let handle = vm.handle();
    let receipt = vm.seal().unwrap().teardown(vcpus);
    assert!(receipt.is_clean() && receipt.pages_before_key(), "{receipt:?}");
    assert_order(&kernel);
    assert_eq!(kernel.log.moments()[0].what, What::DeleteSlot);
    handle.resident().unwrap_err();
    assert_nothing_is_held();
    Ok(())
}

/// Where nobody calls teardown the pages still go first, whether the vCPUs are dropped before the VM or after it.
pub(crate) fn after_a_panic(host: &Host) -> Outcome {
    for vcpus_outlive_the_vm in [false, true] {
        let kernel = Watched::new(host);
        let (vm, vcpus) = launching(&kernel);
        let handle = vm.handle();
        catch_unwind(AssertUnwindSafe(move || {
            // The last one is dropped first.
            if vcpus_outlive_the_vm {
                let (_vcpus, _vm) = (vcpus, vm);
                panic!("as planned");
            }
            let (_vm, _vcpus) = (vm, vcpus);
            panic!("as planned");
        }))
        .unwrap_err();
        let moments = kernel.log.moments();
        let order: Vec<_> = moments.iter().map(|moment| moment.what).collect();
        if vcpus_outlive_the_vm {
            assert_eq!(order, [What::CloseGmem, What::CloseVm, What::CloseVcpu, What::CloseVcpu]);
        } else {
            assert_eq!(order, [What::CloseVcpu, What::CloseVcpu, What::CloseGmem, What::CloseVm]);
        }
        // What pins the VM last holds no pages.
        assert!(!moments.last().unwrap().holds_gmem());
        assert!(moments.iter().filter(|moment| moment.what == What::CloseVm).all(|moment| !moment.holds_gmem()));
        handle.resident().unwrap_err();
        assert_nothing_is_held();
    }
    Ok(())
}

/// What somebody else holds is on the receipt, and the teardown isn't called clean.
pub(crate) fn evidence_finds_what_is_held(host: &Host) -> Outcome {
    let teardown_holding = |names: &[&str], how_many: usize, hold: &dyn Fn() -> Box<dyn std::any::Any>| {
        let kernel = Watched::new(host);
        let (vm, vcpus) = launching(&kernel);
        let held_on_purpose = hold();
        let receipt = vm.seal().unwrap().teardown(vcpus);
        assert!(!receipt.is_clean());
        let named = |held: &&gmem_kvm::evidence::Held| names.iter().any(|name| held.name.contains(name));
        assert_eq!(receipt.held.iter().filter(named).count(), how_many, "{names:?}: {:?}", receipt.held);
        assert_eq!(receipt.held.len(), how_many, "{:?}", receipt.held);
        drop(held_on_purpose);
        assert_nothing_is_held();
    };
    let duplicate = |fd: i32| Box::new(raw::borrow(fd).try_clone_to_owned().unwrap());
    teardown_holding(&GMEM_NAMES, 1, &|| duplicate(raw::gmem_descriptors()[0]));
    teardown_holding(&["kvm-vm"], 1, &|| duplicate(raw::newest_vm()));
    teardown_holding(&["kvm-vcpu:1"], 1, &|| duplicate(raw::descriptors("kvm-vcpu:1")[0]));
    if host.kind == Kind::Mappable {
        let map = || Memory::of_file(raw::borrow(raw::gmem_descriptors()[0]), 2, MapFlags::SHARED).unwrap();
        teardown_holding(&GMEM_NAMES, 1, &|| Box::new(map()));
    }

    // A vCPU that was not given back: its descriptor and its kvm_run page.
    let kernel = Watched::new(host);
    let (vm, mut vcpus) = launching(&kernel);
    let kept = vcpus.pop().unwrap();
    let receipt = vm.seal().unwrap().teardown(vcpus);
    assert_eq!(receipt.held.len(), 2, "{:?}", receipt.held);
    assert!(receipt.held.iter().all(|held| held.name.contains("kvm-vcpu:1")));
    assert_eq!(receipt.held.iter().filter(|held| held.place.starts_with("fd ")).count(), 1);
    drop(kept);
    assert_nothing_is_held();
    Ok(())
}

/// A VM's descriptor can go first, and nothing else goes with it: the law is ours to keep, not the kernel's.
pub(crate) fn vm_closed_first(host: &Host) -> Outcome {
    let vm = host.vm();
    let gmem = host.gmem(&vm, 16);
    let (slot, memory) = data_slot(host, 16);
    slot.set(raw::newest_vm()).unwrap();
    make_private(host, &vm);
    let mut guest = Guest::new(host, &vm);
    assert_eq!(guest.step(), Did::Counted(1));
    drop(vm);
    assert!(raw::descriptors("kvm-vm").is_empty());
    assert_eq!(guest.step(), Did::Counted(2), "a vCPU keeps its VM");
    // The file can still be filled and punched.
    allocate(8, 4);
    gmem.discard(PageCount::new(8), PageCount::new(4)).unwrap();
    if host.kind == Kind::Mappable {
        assert_eq!(memory.read(0), 2);
    }
    gmem.discard(PageCount::new(0), PageCount::new(1)).unwrap();
    assert_eq!(guest.step(), Did::Counted(1), "a punched page holds nothing");
    drop(guest.into_vcpu());
    drop(memory);
    drop(gmem);
    assert_nothing_is_held();
    Ok(())
}

/// A file can be closed under its slot: the slot holds nothing, its pages are gone at once, and the guest finds out.
pub(crate) fn gmem_closed_first(host: &Host) -> Outcome {
    let Started { vm, gmem, memory, fd, mut guest, .. } = Started::new(host);
    if host.kind == Kind::Mappable {
        // A mapping would keep the file.
        drop(memory);
    }
    drop(gmem);
    assert!(raw::gmem_descriptors().is_empty());
    match (guest.step(), host.kind) {
        (Did::MemoryFault { wanted: Owner::Private, gpa: DATA }, Kind::Private) => {}
        (Did::MemoryFault { .. } | Did::Died(_), Kind::Mappable) => {}
        (other, _) => panic!("the guest has lost its memory, but: {other:?}"),
    }
    raw::delete_slot(fd, 0).unwrap();
    drop(guest.into_vcpu());
    drop(vm);
    assert_nothing_is_held();
    Ok(())
}

/// A real dead VM: an SMI whose save area cannot be written kills it. Every call answers EIO, and teardown closes
/// everything in order all the same.
pub(crate) fn on_a_dead_vm(host: &Host) -> Outcome {
    let kernel = Watched::new(host);
    let (vm, mut vcpus) = launching(&kernel);
    if host.kind == Kind::Mappable {
        // The save area is at 0x3fe00.
        raw::delete_slot(raw::newest_vm(), 0).unwrap();
    }
    raw::system_management_interrupt(raw::descriptors("kvm-vcpu:0")[0])
        .map_err(|error| Skip(format!("this KVM takes no SMI: {error}")))?;
    let run = vcpus[0].run().map(|exit| format!("{exit:?}"));
    match vm.tsc_khz() {
        Err(error) if error.to_string().contains("errno 5") => {}
        other => return Err(Skip(format!("an SMI kills no VM here: {run:?}, {other:?}"))),
    }
    let receipt = vm.teardown(vcpus);
    assert_order(&kernel);
    assert!(receipt.pages_before_key());
    let slots: Vec<_> = receipt.steps.iter().filter(|step| matches!(step.what, Closing::Slot(_))).collect();
    assert!(slots.iter().all(|step| step.problem.as_ref().is_some_and(|why| why.contains("errno 5"))), "{slots:?}");
    assert_eq!(slots.len(), 1);
    assert_nothing_is_held();
    Ok(())
}

/// A mapping of the file keeps it, and with it the VM, when every descriptor is closed.
pub(crate) fn a_mapping_pins(host: &Host) -> Outcome {
    let vm = host.vm();
    let gmem = host.gmem(&vm, 16);
    let memory = Memory::of_file(raw::borrow(raw::gmem_descriptors()[0]), 16, MapFlags::SHARED).unwrap();
    memory.write(0, b"kept");
    drop((gmem, vm));
    assert!(raw::gmem_descriptors().is_empty());
    assert_eq!(memory.read(3), b't');
    assert_eq!(held_by_this_process().len(), 1);
    drop(memory);
    assert_nothing_is_held();
    Ok(())
}

/// Fills pages of the newest file, as a guest's touch would.
fn allocate(first: u64, pages: u64) {
    let file = raw::borrow(*raw::gmem_descriptors().last().unwrap());
    rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, first * 4096, pages * 4096).unwrap();
}

pub(crate) fn punch_frees(host: &Host) -> Outcome {
    let vm = host.vm();
    let gmem = host.gmem(&vm, 64);
    let discard = |first, pages| gmem.discard(PageCount::new(first), PageCount::new(pages));
    assert_eq!(allocated(&gmem)?, 0);
    allocate(4, 3);
    assert_eq!(allocated(&gmem)?, 3);
    discard(5, 1).unwrap();
    assert_eq!(allocated(&gmem)?, 2);
    // Beyond the end there is nothing to free, which is no error.
    discard(6, 1000).unwrap();
    assert_eq!(allocated(&gmem)?, 1);
    discard(0, 64).unwrap();
    assert_eq!(allocated(&gmem)?, 0);
    discard(0, 0).unwrap_err();
    discard(u64::MAX, 1).unwrap_err();
    Ok(())
}

/// The whole path of a conversion over real files: the losing side's pages are freed, both ways.
pub(crate) fn conversion_discards(host: &Host) -> Outcome {
    let kernel = Watched::new(host);
    let (vm, vcpus) = launching(&kernel);
    let handle = vm.handle();
    let private = || vm.resident().private.ok_or_else(|| Skip("this kernel has no cachestat".to_owned()));
    allocate(0x100, 4);
    assert_eq!(private()?.get(), 4);
    let part = range(0x10_1000, 2);
    assert_eq!(handle.convert(part, Owner::Shared).unwrap().changed.get(), 2);
    assert_eq!(private()?.get(), 2);
    handle.shared().enter().write_obj(7u64, GuestAddress(0x10_1000)).unwrap();
    handle.shared().enter().write_obj(7u64, GuestAddress(0x10_0000)).unwrap_err();
    assert_eq!(vm.resident().shared.get(), 1);
    handle.convert(part, Owner::Private).unwrap();
    assert_eq!((vm.resident().shared.get(), private()?.get()), (0, 2));
    handle.shared().enter().write_obj(7u64, GuestAddress(0x10_1000)).unwrap_err();
    let receipt: Receipt = vm.seal().unwrap().teardown(vcpus);
    assert!(receipt.is_clean(), "{receipt:?}");
    assert_eq!(receipt.resident.private, Some(PageCount::new(2)));
    Ok(())
}
