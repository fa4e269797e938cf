//! Slots, and their bindings to guest_memfds.
//!
//! Specification: `kvm_set_memory_region` and `kvm_gmem_bind`. Checks are in their order: what a call with two mistakes
//! answers is part of the ABI. A slot with a guest_memfd is made and deleted, never changed. A binding is made with the
//! slot and goes with it; if the file is released first, it is severed, and the slot stays without.

use std::ops::Range;

use super::{FileId, Model, VmId};
use crate::kernel::Quirk;
use crate::op::{Descriptor, GUEST_MEMFD, LOG_DIRTY, MMAP, PAGE, Place, READONLY, Slot, Vm};
use crate::outcome::Errno;

/// Slot numbers end here (`KVM_USER_MEM_SLOTS`).
const SLOTS: u32 = 32764;
/// `KVM_MEM_MAX_NR_PAGES`
const SLOT_PAGES: u64 = (1 << 31) - 1;
/// The first address that no user can have (`TASK_SIZE_MAX`), with four levels of page tables.
const USER_END: u64 = (1 << 47) - PAGE;

/// Where a slot's private pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// From nowhere: it has no guest_memfd.
    None,
    /// From this file, from this page on.
    Bound(FileId, u64),
    /// The file was released.
    Severed,
}

/// `struct kvm_memory_slot`.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemorySlot {
    first: u64,
    pages: u64,
    pub(super) hva: Place,
    flags: u32,
    pub(super) binding: Binding,
    /// Shared faults, too, are answered from the file.
    pub(super) gmem_only: bool,
}

impl MemorySlot {
    pub(super) fn frames(&self) -> Range<u64> {
        self.first..self.first + self.pages
    }

    /// The file and the pages of it that it is bound to.
    pub(super) fn bound(&self) -> Option<(FileId, Range<u64>)> {
        match self.binding {
            Binding::Bound(file, first) => Some((file, first..first + self.pages)),
            Binding::None | Binding::Severed => None,
        }
    }

    /// The page of the slot that holds a frame.
    pub(super) fn page_of(&self, frame: u64) -> u64 {
        frame - self.first
    }

    pub(super) fn is_readonly(&self) -> bool {
        self.flags & READONLY != 0
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn aligned(value: u64) -> bool {
    value.is_multiple_of(PAGE)
}

/// Whether an address can be a user's; nothing need be there.
fn is_user_address(hva: Place, size: u64) -> bool {
    match hva {
        Place::Plain(_, offset) | Place::Map(_, offset) => aligned(offset),
        Place::Raw(address) => aligned(address) && address.checked_add(size).is_some_and(|end| end <= USER_END),
    }
}

impl Model {
    /// `KVM_SET_USER_MEMORY_REGION`: the flags of its time, then the same.
    pub(super) fn set_slot_v1(&mut self, vm: Vm, slot: &Slot) -> Result<(), Errno> {
        self.open_vm(vm)?;
        if slot.flags & !(LOG_DIRTY | READONLY) != 0 {
            return Err(Errno::INVAL);
        }
        self.set_slot(vm, slot)
    }

    /// `KVM_SET_USER_MEMORY_REGION2`.
    pub(super) fn set_slot(&mut self, vm: Vm, slot: &Slot) -> Result<(), Errno> {
        let id = self.open_vm(vm)?;
        let features = self.type_features(id);
        let has_gmem = slot.flags & GUEST_MEMFD != 0;

        // 1. Flags: check_memory_region_flags.
        let mut known = LOG_DIRTY;
        if features.gmem {
            known |= GUEST_MEMFD;
        }
        if has_gmem {
            // Writes by the guest are neither tracked nor refused in private memory.
            known &= !LOG_DIRTY;
        } else {
            known |= READONLY;
        }
        if slot.flags & !known != 0 {
            return Err(Errno::INVAL);
        }

        // 2. Alignment, addresses that wrap. 3. Numbers, size.
        let address_space = slot.id >> 16;
        let refused = !aligned(slot.size)
            || !aligned(slot.gpa)
            || !is_user_address(slot.hva, slot.size)
            || has_gmem && (!aligned(slot.offset) || slot.offset.checked_add(slot.size).is_none())
            || address_space >= features.address_spaces
            || slot.id & 0xffff >= SLOTS
            || slot.gpa.checked_add(slot.size).is_none()
            || slot.size / PAGE > SLOT_PAGES;
        if refused {
            return Err(Errno::INVAL);
        }

        // 4. Size 0 deletes; what else is said counts for nothing.
        if slot.size == 0 {
            self.machines[id].slots.remove(&slot.id).ok_or(Errno::INVAL)?;
            self.slots_changed(id, address_space);
            self.zap_all(id);
            return Ok(());
        }

        // 5. What exists cannot be given a file, nor changed much.
        let new = MemorySlot {
            first: slot.gpa / PAGE,
            pages: slot.size / PAGE,
            hva: slot.hva,
            flags: slot.flags,
            binding: Binding::None,
            gmem_only: false,
        };
        let old = self.machines[id].slots.get(&slot.id).copied();
        if let Some(old) = old {
            if has_gmem {
                return Err(Errno::INVAL);
            }
            let toggled = slot.flags ^ old.flags;
            if old.hva != slot.hva || old.pages != new.pages || toggled & (READONLY | GUEST_MEMFD) != 0 {
                return Err(Errno::INVAL);
            }
            if old.first == new.first {
                // Nothing new, or dirty logging only.
                self.machines[id].slots.insert(slot.id, new);
                if toggled != 0 {
                    self.slots_changed(id, address_space);
                }
                return Ok(());
            }
        }

        // 6. Frames that another slot of this address space has.
        let taken = self.machines[id].slots.iter().any(|(number, other)| {
            *number != slot.id && number >> 16 == address_space && overlap(&other.frames(), &new.frames())
        });
        if taken {
            return Err(Errno::EXIST);
        }

        // 7. to 9. The file.
        let (binding, gmem_only) = if has_gmem { self.bind(id, slot)? } else { (Binding::None, false) };

        // 10. Frames that no guest can have. The binding is undone.
        if slot.gpa + slot.size - 1 > self.kernel.features.last_gpa {
            return Err(Errno::INVAL);
        }
        self.machines[id].slots.insert(slot.id, MemorySlot { binding, gmem_only, ..new });
        self.slots_changed(id, address_space);
        if old.is_some() {
            // It was moved.
            self.zap_all(id);
        }
        Ok(())
    }

    /// A slot is gone from where it was: VMs of type 0 give up all page tables.
    fn zap_all(&mut self, id: VmId) {
        if self.machines[id].vm_type == 0 {
            self.machines[id].zaps += 1;
        }
    }

    /// What was learnt of frames without a slot is out of date.
    fn slots_changed(&mut self, id: VmId, address_space: u32) {
        if address_space == 0 {
            self.machines[id].generation += 1;
        }
    }

    /// `kvm_gmem_bind`: the binding, and whether shared faults go to the file as well.
    fn bind(&self, vm: VmId, slot: &Slot) -> Result<(Binding, bool), Errno> {
        // 7. A descriptor.
        let file = match slot.gmem {
            Descriptor::Bad => return Err(Errno::BADF),
            // 8. Of a guest_memfd.
            Descriptor::Kvm | Descriptor::Null => return Err(Errno::INVAL),
            Descriptor::Vm(other) => return Err(self.open_vm(other).map_or_else(|errno| errno, |_| Errno::INVAL)),
            Descriptor::File(file) => self.open_file(file)?,
        };
        // 8. Of this VM, and long enough.
        let memfd = &self.memfds[file];
        let first = slot.offset / PAGE;
        let pages = first..first + slot.size / PAGE;
        if memfd.vm != vm || pages.end > memfd.pages && !self.wraps(slot) {
            return Err(Errno::INVAL);
        }
        // 9. Pages of it that another slot has.
        let bound = self.machines[vm].slots.values().filter_map(MemorySlot::bound);
        if bound.into_iter().any(|(other, range)| other == file && overlap(&range, &pages)) {
            return Err(if self.kernel.has(Quirk::FileOverlapIsInvalid) { Errno::INVAL } else { Errno::EXIST });
        }
        Ok((Binding::Bound(file, first), memfd.flags & MMAP != 0))
    }

    /// Whether the end of a binding is beyond the largest signed number, and the kernel does not notice.
    fn wraps(&self, slot: &Slot) -> bool {
        let is_signed = |number: u64| i64::try_from(number).is_ok();
        self.kernel.has(Quirk::BindOffsetWraps) && is_signed(slot.offset) && !is_signed(slot.offset + slot.size)
    }

    /// The file is released: every slot that was bound to it stays, without.
    pub(super) fn sever(&mut self, file: FileId) {
        let vm = self.memfds[file].vm;
        for slot in self.machines[vm].slots.values_mut() {
            if matches!(slot.binding, Binding::Bound(other, _) if other == file) {
                slot.binding = Binding::Severed;
            }
        }
    }

    /// The slot that holds a frame, in the address space that a guest sees outside of system management mode.
    pub(super) fn slot_of(&self, vm: VmId, frame: u64) -> Option<MemorySlot> {
        let slots = self.machines[vm].slots.range(..1 << 16);
        slots.map(|(_, slot)| *slot).find(|slot| slot.frames().contains(&frame))
    }
}
