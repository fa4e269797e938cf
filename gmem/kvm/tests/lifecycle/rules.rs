//! The kernel's rules as far as the port can ask about them.
//!
//! Asked of the machine's kernel here, and of the fake kernel of the unit tests there (`gmem/kvm/src/tests`), so that
//! what is proven on the fake is proven on something that keeps the same rules.

use std::sync::Arc;

use gmem::ledger::Owner;
use gmem::{GfnRange, Gpa, PageCount};
use gmem_kvm::backing::Region;
use gmem_kvm::port::{CallError, GmemUse, Kernel, KernelGmem, KernelVm, Slot, SlotId, VmType};
use rustix::io::Errno;

/// A kernel, and the kind of VM to ask it about.
#[derive(Debug)]
pub(crate) struct Asked<'a, K> {
    pub(crate) kernel: &'a K,
    pub(crate) vm_type: VmType,
    pub(crate) gmem_use: GmemUse,
}

fn range(gpa: u64, pages: u64) -> GfnRange {
    GfnRange::from_request(Gpa(gpa), PageCount::new(pages)).unwrap()
}

fn bind<V: KernelVm>(vm: &V, id: u16, gpa: u64, pages: u64, gmem: &V::Gmem, first: u64) -> Result<(), CallError> {
    let range = range(gpa, pages);
    let shared = Arc::new(Region::new("rules", range).unwrap());
    vm.create_slot(Slot { id: SlotId(id), range, shared, private: Some((gmem, PageCount::new(first))) })
}

fn refused<T: std::fmt::Debug>(result: Result<T, CallError>, allowed: &[Errno], what: &str) {
    let error = result.expect_err(what);
    assert!(allowed.contains(&Errno::from_raw_os_error(error.errno)), "{what}: {error}");
}

impl<K: Kernel> Asked<'_, K> {
    fn vm(&self) -> K::Vm {
        self.kernel.create_vm(self.vm_type).unwrap()
    }

    fn gmem(&self, vm: &K::Vm, pages: u64) -> <K::Vm as KernelVm>::Gmem {
        vm.create_gmem(PageCount::new(pages), self.gmem_use).unwrap()
    }

    /// Another VM cannot have a guest_memfd: not beside its own, not after its slots are gone, not after its VM's
    /// descriptor is closed.
    pub(crate) fn foreign_vm_is_refused(&self) {
        let (own, foreign) = (self.vm(), self.vm());
        let gmem = self.gmem(&own, 4);
        let refuses = |when: &str| refused(bind(&foreign, 0, 0, 4, &gmem, 0), &[Errno::INVAL], when);
        refuses("before it is bound");
        bind(&own, 0, 0, 4, &gmem, 0).unwrap();
        refuses("while it is bound");
        own.delete_slot(SlotId(0)).unwrap();
        refuses("after its slots are gone");
        drop(own);
        refuses("after its VM's descriptor is closed");
    }

    pub(crate) fn overlapping_frames(&self) {
        let vm = self.vm();
        let gmem = self.gmem(&vm, 64);
        bind(&vm, 0, 0x10_0000, 16, &gmem, 0).unwrap();
        for (gpa, pages) in [(0x10_0000, 16), (0x10_f000, 2), (0xf_f000, 2), (0x10_4000, 1), (0xf_0000, 48)] {
            refused(bind(&vm, 1, gpa, pages, &gmem, 16), &[Errno::EXIST], "frames overlap");
        }
        // Beside it there is room.
        bind(&vm, 1, 0x11_0000, 16, &gmem, 16).unwrap();
        bind(&vm, 2, 0xf_0000, 16, &gmem, 32).unwrap();
    }

    /// A page of a file has one place. (Linux 6.18 says EINVAL, 7.2 EEXIST.)
    pub(crate) fn overlapping_file_ranges(&self) {
        let vm = self.vm();
        let gmem = self.gmem(&vm, 64);
        bind(&vm, 0, 0x10_0000, 16, &gmem, 8).unwrap();
        for (first, pages) in [(8, 16), (23, 2), (7, 2), (12, 1), (0, 64)] {
            let taken = [Errno::EXIST, Errno::INVAL];
            refused(bind(&vm, 1, 0x100_0000, pages, &gmem, first), &taken, "file ranges overlap");
        }
        bind(&vm, 1, 0x100_0000, 8, &gmem, 0).unwrap();
        bind(&vm, 2, 0x200_0000, 40, &gmem, 24).unwrap();
        // Gone with its slot.
        vm.delete_slot(SlotId(0)).unwrap();
        bind(&vm, 3, 0x300_0000, 16, &gmem, 8).unwrap();
    }

    pub(crate) fn bad_bindings(&self) {
        let vm = self.vm();
        let gmem = self.gmem(&vm, 16);
        let invalid = [Errno::INVAL];
        refused(bind(&vm, 0, 0, 17, &gmem, 0), &invalid, "longer than the file");
        refused(bind(&vm, 0, 0, 2, &gmem, 15), &invalid, "beyond the end");
        refused(bind(&vm, 0, 0, 1, &gmem, 1 << 40), &invalid, "far beyond the end");
        let no_offset = [Errno::INVAL, Errno::OVERFLOW];
        refused(bind(&vm, 0, 0, 1, &gmem, u64::MAX), &no_offset, "an offset that is none");
        refused(bind(&vm, 40_000, 0, 1, &gmem, 0), &invalid, "no such slot");
        refused(vm.delete_slot(SlotId(7)), &invalid, "a slot that isn't there");
        bind(&vm, 0, 0, 16, &gmem, 0).unwrap();
        refused(bind(&vm, 0, 0, 16, &gmem, 0), &invalid, "a slot with a file is never changed");
    }

    /// After its file is closed, a slot is in the way of a new one until it is deleted.
    pub(crate) fn new_file_needs_a_new_slot(&self) {
        let vm = self.vm();
        let first = self.gmem(&vm, 4);
        bind(&vm, 0, 0, 4, &first, 0).unwrap();
        drop(first);
        let second = self.gmem(&vm, 4);
        refused(bind(&vm, 0, 0, 4, &second, 0), &[Errno::INVAL], "the old slot is still there");
        refused(bind(&vm, 1, 0, 4, &second, 0), &[Errno::EXIST], "its frames are taken");
        vm.delete_slot(SlotId(0)).unwrap();
        bind(&vm, 0, 0, 4, &second, 0).unwrap();
    }

    pub(crate) fn sizes(&self) {
        let vm = self.vm();
        for pages in [0, 1 << 51, u64::MAX] {
            vm.create_gmem(PageCount::new(pages), self.gmem_use).unwrap_err();
        }
        if self.vm_type.has_private_memory() {
            // What starts out shared would not be private.
            let started_shared = vm.create_gmem(PageCount::new(1), GmemUse::HostShared);
            refused(started_shared, &[Errno::INVAL], "shared memory of a VM with private memory");
        }
    }

    /// Punching needs only the file, and beyond its end there is nothing to do, which is no error.
    pub(crate) fn punching(&self) {
        let vm = self.vm();
        let gmem = self.gmem(&vm, 16);
        let punch = |first, pages| gmem.discard(PageCount::new(first), PageCount::new(pages));
        punch(0, 16).unwrap();
        punch(8, 1000).unwrap();
        punch(100, 1).unwrap();
        refused(punch(0, 0), &[Errno::INVAL], "nothing");
        refused(punch(u64::MAX, 1), &[Errno::INVAL, Errno::OVERFLOW], "an offset that is none");
        drop(vm);
        punch(0, 16).unwrap();
    }

    /// Attributes need no slot. Without private memory there are none; that is said with one errno or another.
    pub(crate) fn attributes(&self) {
        let vm = self.vm();
        let far = range(1 << 40, 4);
        if self.vm_type.has_private_memory() {
            for owner in [Owner::Private, Owner::Private, Owner::Shared, Owner::Shared] {
                vm.set_owner(far, owner).unwrap();
            }
        } else {
            refused(vm.set_owner(far, Owner::Private), &[Errno::NOTTY, Errno::INVAL], "no private memory");
        }
    }

    /// Each vCPU once, and interrupts before the first of them.
    pub(crate) fn order_of_creation(&self) {
        let vm = self.vm();
        vm.create_interrupt_controller().unwrap();
        refused(vm.create_interrupt_controller(), &[Errno::EXIST], "interrupt controller twice");
        let _first = vm.create_vcpu(0).unwrap();
        refused(vm.create_vcpu(0), &[Errno::EXIST], "vCPU twice");
        let other = self.vm();
        let _vcpu = other.create_vcpu(0).unwrap();
        refused(other.create_interrupt_controller(), &[Errno::INVAL], "interrupt controller after vCPU");
    }
}
