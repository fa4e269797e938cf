//! Slots: what the kernel refuses to bind, and what a binding keeps.

use std::os::fd::RawFd;

use gmem::ledger::Owner;
use gmem_kvm::kvm::{KvmGmem, KvmVm};
use gmem_kvm::port::KernelVm;
use rustix::io::Errno;
use rustix::mm::MapFlags;

use crate::guest::{DATA, Did, Guest};
use crate::harness::Outcome;
use crate::host::{Host, Kind, range};
use crate::raw::{self, Memory, RawSlot};

const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1;
const KVM_MEM_READONLY: u32 = 2;

/// The part the port cannot ask about.
pub(crate) fn bad_bindings(host: &Host) -> Outcome {
    host.asked().bad_bindings();
    let vm = host.vm();
    let _gmem = host.gmem(&vm, 16);
    let (fd, memory) = (raw::newest_vm(), Memory::anonymous(16));
    let file = raw::gmem_descriptors()[0];
    let slot = RawSlot::plain(0, range(0, 1), &memory);
    let refusal = |slot: RawSlot| raw::errno(slot.set(fd));
    let invalid = Errno::INVAL.raw_os_error();
    assert_eq!(refusal(slot.with_gmem(9999, 0)), Errno::BADF.raw_os_error());
    assert_eq!(refusal(slot.with_gmem(fd, 0)), invalid, "a VM is no guest_memfd");
    assert_eq!(refusal(slot.with_gmem(0, 0)), invalid, "/dev/null is no guest_memfd");
    for offset in [1, 512, 4095] {
        assert_eq!(refusal(slot.with_gmem(file, offset)), invalid);
    }
    for extra_flags in [KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, 1 << 20] {
        assert_eq!(refusal(RawSlot { extra_flags, ..slot.with_gmem(file, 0) }), invalid);
    }
    Ok(())
}

/// A slot with a file is made and deleted, never changed: not even into itself.
pub(crate) fn are_not_changed(host: &Host) -> Outcome {
    let vm = host.vm();
    let _gmem = host.gmem(&vm, 16);
    let (fd, file, memory) = (raw::newest_vm(), raw::gmem_descriptors()[0], Memory::anonymous(16));
    let slot = RawSlot::plain(0, range(0x10_0000, 16), &memory).with_gmem(file, 0);
    slot.set(fd).unwrap();
    let invalid = Errno::INVAL.raw_os_error();
    assert_eq!(raw::errno(slot.set(fd)), invalid);
    assert_eq!(raw::errno(RawSlot { range: range(0x20_0000, 16), ..slot }.set(fd)), invalid);
    assert_eq!(raw::errno(RawSlot { extra_flags: KVM_MEM_LOG_DIRTY_PAGES, ..slot }.set(fd)), invalid);
    assert_eq!(raw::errno(RawSlot { gmem: None, ..slot }.set(fd)), invalid);
    raw::delete_slot(fd, 0).unwrap();
    slot.set(fd).unwrap();
    drop(vm);
    Ok(())
}

/// The slot the guest's data is in. A file that can be mapped is what the host maps there; otherwise shared memory.
pub(crate) fn data_slot(host: &Host, pages: usize) -> (RawSlot, Memory) {
    let file = *raw::gmem_descriptors().last().unwrap();
    let memory = match host.kind {
        Kind::Mappable => Memory::of_file(raw::borrow(file), pages, MapFlags::SHARED).unwrap(),
        Kind::Private => Memory::anonymous(pages),
    };
    (RawSlot::plain(0, range(DATA, pages as u64), &memory).with_gmem(file, 0), memory)
}

/// Makes the guest's data private, where there is such a thing.
pub(crate) fn make_private(host: &Host, vm: &KvmVm) {
    if host.kind == Kind::Private {
        vm.set_owner(range(DATA, 1), Owner::Private).unwrap();
    }
}

/// A guest that has counted to one in the pages of a guest_memfd of its own.
pub(crate) struct Started {
    pub vm: KvmVm,
    pub gmem: KvmGmem,
    pub slot: RawSlot,
    pub memory: Memory,
    pub fd: RawFd,
    pub guest: Guest,
}

impl Started {
    pub(crate) fn new(host: &Host) -> Self {
        let vm = host.vm();
        let gmem = host.gmem(&vm, 16);
        let (slot, memory) = data_slot(host, 16);
        let fd = raw::newest_vm();
        slot.set(fd).unwrap();
        make_private(host, &vm);
        let mut guest = Guest::new(host, &vm);
        assert_eq!(guest.step(), Did::Counted(1));
        Self { vm, gmem, slot, memory, fd, guest }
    }
}

/// A slot holds no contents: deleting it loses none, and who binds the pages again finds them.
pub(crate) fn rebind_after_delete_keeps_content(host: &Host) -> Outcome {
    let Started { vm, gmem: _gmem, slot, memory, fd, mut guest } = Started::new(host);
    assert_eq!(guest.step(), Did::Counted(2));
    raw::delete_slot(fd, 0).unwrap();
    slot.set(fd).unwrap();
    assert_eq!(guest.step(), Did::Counted(3));
    // Another slot number is nothing else.
    raw::delete_slot(fd, 0).unwrap();
    RawSlot { id: 9, ..slot }.set(fd).unwrap();
    assert_eq!(guest.step(), Did::Counted(4));
    if host.kind == Kind::Mappable {
        assert_eq!(memory.read(0), 4, "the guest and the host see different pages");
    } else {
        assert_eq!(memory.read(0), 0, "private contents are in shared memory");
    }
    drop((guest, vm));
    Ok(())
}
