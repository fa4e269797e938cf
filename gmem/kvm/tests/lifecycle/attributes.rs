//! Memory attributes: what conversion relies on, asked of the kernel with a guest that looks.

use gmem::ByteLen;
use gmem::PageCount;
use gmem::launch::{Contents, PageKind, Plan, PlannedRegion, Vcpus};
use gmem::layout::RamLayout;
use gmem::ledger::Owner;
use gmem_kvm::port::{KernelGmem, KernelVm, VmType};
use gmem_kvm::vm::Vm;
use vm_memory::{Bytes, GuestAddress};

use crate::guest::{self, DATA, Did, Guest};
use crate::harness::Outcome;
use crate::host::{Host, range};
use crate::raw::{self, Memory, RawSlot};
use crate::slots::{Started, data_slot};

const PAGE: u64 = 1;

/// They belong to frames: a slot's deletion does not touch them, and a new slot there starts out private.
pub(crate) fn outlive_slots(host: &Host) -> Outcome {
    let Started { vm, gmem: _gmem, slot, memory, fd, mut guest } = Started::new(host);
    raw::delete_slot(fd, 0).unwrap();
    RawSlot { gmem: None, ..slot }.set(fd).unwrap();
    assert_eq!(guest.step(), Did::MemoryFault { wanted: Owner::Private, gpa: DATA });
    raw::delete_slot(fd, 0).unwrap();
    slot.set(fd).unwrap();
    assert_eq!(guest.step(), Did::Counted(2));
    assert_eq!(memory.read(0), 0);
    drop((guest, vm));
    Ok(())
}

pub(crate) fn need_no_slot(host: &Host) -> Outcome {
    let vm = host.vm();
    vm.set_owner(range(DATA, PAGE), Owner::Private).unwrap();
    let _gmem = host.gmem(&vm, 16);
    let (slot, memory) = data_slot(host, 16);
    slot.set(raw::newest_vm()).unwrap();
    let mut guest = Guest::new(host, &vm);
    assert_eq!(guest.step(), Did::Counted(1));
    assert_eq!(memory.read(0), 0, "the slot did not start out private");
    drop((guest, vm));
    Ok(())
}

pub(crate) fn private_without_a_file_faults(host: &Host) -> Outcome {
    let vm = host.vm();
    let memory = Memory::anonymous(1);
    RawSlot::plain(0, range(DATA, PAGE), &memory).set(raw::newest_vm()).unwrap();
    vm.set_owner(range(DATA, PAGE), Owner::Private).unwrap();
    let mut guest = Guest::new(host, &vm);
    assert_eq!(guest.step(), Did::MemoryFault { wanted: Owner::Private, gpa: DATA });
    vm.set_owner(range(DATA, PAGE), Owner::Shared).unwrap();
    assert_eq!(guest.step(), Did::Counted(1));
    assert_eq!(memory.read(0), 1);
    drop((guest, vm));
    Ok(())
}

/// Why conversion must discard: the attribute alone frees nothing, and the old contents come back.
pub(crate) fn alone_keep_both_copies(host: &Host) -> Outcome {
    let vm = host.vm();
    let gmem = host.gmem(&vm, 16);
    let (slot, memory) = data_slot(host, 16);
    slot.set(raw::newest_vm()).unwrap();
    let to = |owner| vm.set_owner(range(DATA, PAGE), owner).unwrap();
    to(Owner::Private);
    let mut guest = Guest::new(host, &vm);
    assert_eq!(guest.step(), Did::Counted(1));
    assert_eq!(guest.step(), Did::Counted(2));
    to(Owner::Shared);
    assert_eq!(guest.step(), Did::Counted(1));
    assert_eq!(memory.read(0), 1);
    to(Owner::Private);
    assert_eq!(guest.step(), Did::Counted(3), "the old private copy");
    to(Owner::Shared);
    gmem.discard(PageCount::new(0), PageCount::new(1)).unwrap();
    to(Owner::Private);
    assert_eq!(guest.step(), Did::Counted(1));
    drop((guest, vm));
    Ok(())
}

/// The whole path with a guest that looks: each new owner starts with nothing, and memory use stays flat.
pub(crate) fn to_and_fro_with_a_guest(host: &Host) -> Outcome {
    let ram = RamLayout::new(ByteLen(16 << 20)).unwrap();
    let staging = ram.staging(PageCount::new(5), 40).unwrap();
    let code = staging.gpa().0;
    let mut plan = Plan::new(ram, Vcpus { count: 1, boot: guest::entry(code), application: None });
    let contents = Contents::new(guest::image(code));
    plan.push(PlannedRegion { range: staging, kind: PageKind::Staged, label: "guest".to_owned(), contents }).unwrap();

    let mut vm = Vm::create(&host.kernel, VmType::SwProtected, ram).unwrap();
    vm.add_ram().unwrap();
    vm.mark_ram_private().unwrap();
    vm.stage(&plan).unwrap();
    let vcpu = vm.add_vcpu().unwrap();
    let vm = vm.seal().unwrap();
    let mut guest = Guest::on(vcpu, host, code);
    let handle = vm.handle();
    let assert_resident = |private: u64, shared: u64| {
        let resident = vm.resident();
        // Not every kernel tells.
        assert!(resident.private.is_none_or(|pages| pages.get() == private), "{resident:?}");
        assert_eq!(resident.shared.get(), shared);
    };
    for _ in 0..50 {
        assert_eq!(guest.step(), Did::Counted(1));
        assert_eq!(guest.step(), Did::Counted(2));
        assert_resident(1, 0);
        handle.convert(range(DATA, PAGE), Owner::Shared).unwrap();
        assert_eq!(guest.step(), Did::Counted(1));
        assert_eq!(handle.shared().enter().read_obj::<u8>(GuestAddress(DATA)).unwrap(), 1);
        assert_resident(0, 1);
        handle.convert(range(DATA, PAGE), Owner::Private).unwrap();
    }
    let receipt = vm.teardown(vec![guest.into_vcpu()]);
    assert!(receipt.is_clean() && receipt.pages_before_key(), "{receipt:?}");
    Ok(())
}
