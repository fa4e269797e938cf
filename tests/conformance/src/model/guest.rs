//! A guest's access to its memory, and faulting pages in beforehand.
//!
//! Specification: `kvm_mmu_faultin_pfn`, `kvm_gmem_get_pfn`, `kvm_vcpu_pre_fault_memory`. Which copy an access gets is
//! decided by the frame's attribute alone: private ones come from the slot's guest_memfd, shared ones from its
//! `userspace_addr`, or from the guest_memfd too if that one can be mapped. No stale mapping is ever used, so an access is
//! decided by how things stand now.

use super::host::{Access, Page};
use super::slot::{Binding, MemorySlot};
use super::{Model, VmId};
use crate::kernel::Quirk;
use crate::op::{Cpu, PAGE, PRIVATE};
use crate::outcome::{Errno, Outcome};

/// Why a frame has no page.
enum Fault {
    /// No slot: the access is the VMM's to answer.
    NoSlot,
    /// A slot that refuses writes, or none is remembered: it is the VMM's, too.
    Mmio,
    /// `KVM_EXIT_MEMORY_FAULT`, with its flags.
    Memory(u64),
    /// `userspace_addr` names nothing.
    NoHostMemory,
}

impl Model {
    /// A guest's access to a frame.
    fn fault(&mut self, vm: VmId, frame: u64, access: Access) -> Result<Page, Fault> {
        let machine = &self.machines[vm];
        match machine.mmio.get(&frame) {
            Some(generation) if self.kernel.has(Quirk::MmioIsRemembered) => {
                if *generation == machine.generation {
                    return Err(Fault::Mmio);
                }
                // What is remembered is out of date; but that it is remembered makes it an access to shared memory.
                if machine.private.contains(frame) {
                    return Err(Fault::Memory(0));
                }
            }
            _ => {}
        }
        self.fault_in(vm, frame, access)
    }

    /// The page of a frame, allocated if need be, whether or not a guest is at it.
    fn fault_in(&mut self, vm: VmId, frame: u64, access: Access) -> Result<Page, Fault> {
        let found = self.find(vm, frame, access);
        let machine = &mut self.machines[vm];
        match found {
            Ok(_) => drop(machine.mmio.remove(&frame)),
            Err(Fault::NoSlot) => drop(machine.mmio.insert(frame, machine.generation)),
            Err(_) => {}
        }
        found
    }

    fn find(&mut self, vm: VmId, frame: u64, access: Access) -> Result<Page, Fault> {
        let private = self.machines[vm].private.contains(frame);
        let slot = self.slot_of(vm, frame);
        if private {
            // Nothing private has a page elsewhere than in a guest_memfd.
            let slot = slot.ok_or(Fault::Memory(PRIVATE))?;
            return self.page_of_file(&slot, frame).ok_or(Fault::Memory(PRIVATE));
        }
        let slot = slot.ok_or(Fault::NoSlot)?;
        if slot.is_readonly() && access == Access::Write {
            return Err(Fault::Mmio);
        }
        if slot.gmem_only && !self.kernel.has(Quirk::GuestUsesHostAddresses) {
            return self.page_of_file(&slot, frame).ok_or(Fault::Memory(0));
        }
        self.reach(slot.hva.plus(slot.page_of(frame) * PAGE), access).ok_or(Fault::NoHostMemory)
    }

    /// `kvm_gmem_get_pfn`.
    fn page_of_file(&mut self, slot: &MemorySlot, frame: u64) -> Option<Page> {
        let Binding::Bound(file, first) = slot.binding else { return None };
        let page = first + slot.page_of(frame);
        self.memfds[file].allocated.entry(page).or_default();
        Some(Page::File(file, page))
    }

    fn access(&mut self, cpu: Cpu, gpa: u64, access: Access) -> Result<Page, Outcome> {
        let vm = self.enter(cpu).map_err(Outcome::Failed)?;
        self.fault(vm, gpa / PAGE, access).map_err(|fault| match fault {
            Fault::NoSlot | Fault::Mmio => Outcome::Mmio,
            Fault::Memory(flags) => {
                Outcome::MemoryFault { errno: Errno::FAULT, flags, gpa: gpa & !(PAGE - 1), size: PAGE }
            }
            Fault::NoHostMemory if self.kernel.has(Quirk::GuestUsesHostAddresses) => Outcome::Mmio,
            Fault::NoHostMemory => Outcome::Failed(Errno::FAULT),
        })
    }

    pub(super) fn guest_read(&mut self, cpu: Cpu, gpa: u64) -> Outcome {
        match self.access(cpu, gpa, Access::Read) {
            Ok(page) => Outcome::Value(u64::from(self.load(page, gpa % PAGE))),
            Err(outcome) => outcome,
        }
    }

    pub(super) fn guest_write(&mut self, cpu: Cpu, gpa: u64, value: u8) -> Outcome {
        match self.access(cpu, gpa, Access::Write) {
            Ok(page) => {
                self.store(page, gpa % PAGE, value);
                Outcome::Done
            }
            Err(outcome) => outcome,
        }
    }

    /// The vCPU runs: it now uses page tables that are up to date.
    fn enter(&mut self, cpu: Cpu) -> Result<VmId, Errno> {
        let vcpu = self.cpus[cpu.index()].as_mut().ok_or(Errno::BADF)?;
        vcpu.tables = Some(self.machines[vcpu.vm].zaps);
        Ok(vcpu.vm)
    }

    /// `KVM_PRE_FAULT_MEMORY`.
    pub(super) fn prefault(&mut self, cpu: Cpu, gpa: u64, size: u64, flags: u64) -> Outcome {
        if flags != 0 {
            return Outcome::Failed(Errno::INVAL);
        }
        if !gpa.is_multiple_of(PAGE) || !size.is_multiple_of(PAGE) || size == 0 || gpa.checked_add(size).is_none() {
            return Outcome::Failed(Errno::INVAL);
        }
        if self.prefault_hangs(cpu) {
            return Outcome::Hang;
        }
        self.enter(cpu).and_then(|vm| self.prefault_pages(vm, gpa, size)).into()
    }

    /// Whether the vCPU has page tables that were given up, and the kernel does not look.
    pub(super) fn prefault_hangs(&self, cpu: Cpu) -> bool {
        let Some(vcpu) = self.cpus[cpu.index()] else { return false };
        let outdated = vcpu.tables.is_some_and(|tables| tables != self.machines[vcpu.vm].zaps);
        outdated && self.kernel.has(Quirk::PrefaultHangsAfterZap)
    }

    /// The bytes that are left, or why not one page could be had.
    fn prefault_pages(&mut self, vm: VmId, gpa: u64, size: u64) -> Result<u64, Errno> {
        for done in (0..size).step_by(4096) {
            let errno = match self.fault_in(vm, (gpa + done) / PAGE, Access::Read) {
                Ok(_) => continue,
                Err(Fault::NoSlot | Fault::Mmio) => Errno::NOENT,
                Err(Fault::Memory(_) | Fault::NoHostMemory) => Errno::FAULT,
            };
            return if done == 0 { Err(errno) } else { Ok(size - done) };
        }
        Ok(0)
    }
}
