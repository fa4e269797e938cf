//! What the fake kernel knows of VMs, slots, attributes and guest_memfd, and how calls change it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gmem::GfnRange;
use gmem::ledger::Owner;

use super::errno::{EBADF, EEXIST, EINVAL, EIO};
use super::frames::Frames;
use super::record::{Call, Record};
use super::script::Act;
use crate::backing::Region;
use crate::port::{GmemUse, VmType};

/// Slot numbers end here (`SHRT_MAX - 3`).
const SLOTS: u16 = 32764;
/// A slot has fewer pages than this.
const SLOT_PAGES: u64 = 1 << 31;

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) record: Vec<Record>,
    pub(super) vms: BTreeMap<u32, Machine>,
    pub(super) files: BTreeMap<u32, File>,
    pub(super) scripts: BTreeMap<u32, Vec<Act>>,
    pub(super) complaints: Vec<String>,
    pub(super) last_held: Option<(Frames, u64)>,
    next_id: u32,
}

#[derive(Debug)]
pub(super) struct Machine {
    vm_type: VmType,
    dead: bool,
    descriptor_open: bool,
    vcpus_made: BTreeSet<u32>,
    vcpus_open: usize,
    interrupt_controller: bool,
    pub(super) slots: BTreeMap<u16, MemorySlot>,
    /// Frames with the attribute PRIVATE, slot or not.
    pub(super) private: Frames,
}

#[derive(Debug)]
pub(super) struct MemorySlot {
    pub(super) range: GfnRange,
    pub(super) shared: Arc<Region>,
    pub(super) binding: Binding,
}

/// Where a slot's private pages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    None,
    /// This file, from this page on.
    Bound(u32, u64),
    /// The file was closed under the slot.
    Severed,
}

/// A guest_memfd: it exists until it is released.
#[derive(Debug)]
pub(super) struct File {
    vm: u32,
    size: u64,
    /// What each allocated page holds.
    pub(super) pages: BTreeMap<u64, u64>,
}

impl Model {
    pub(super) fn note(&mut self, call: Call, errno: Option<i32>) {
        let sequence = self.record.len() as u64;
        self.record.push(Record { sequence, call, errno });
    }

    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    fn vm(&mut self, id: u32) -> Result<&mut Machine, i32> {
        self.vms.get_mut(&id).ok_or(EBADF)
    }

    /// The rule common to all calls on a VM and its vCPUs.
    pub(super) fn check_alive(&self, id: u32) -> Result<(), i32> {
        if self.vms.get(&id).is_some_and(|vm| vm.dead) { Err(EIO) } else { Ok(()) }
    }

    pub(super) fn kill(&mut self, id: u32) {
        self.vms.get_mut(&id).expect("a VM that is there").dead = true;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.vms.is_empty() && self.files.is_empty()
    }

    pub(super) fn create_vm(&mut self, vm_type: VmType) -> u32 {
        let id = self.id();
        let machine = Machine {
            vm_type,
            dead: false,
            descriptor_open: true,
            vcpus_made: BTreeSet::new(),
            vcpus_open: 0,
            interrupt_controller: false,
            slots: BTreeMap::new(),
            private: Frames::default(),
        };
        self.vms.insert(id, machine);
        id
    }

    pub(super) fn create_gmem(&mut self, vm: u32, pages: u64, purpose: GmemUse) -> Result<u32, i32> {
        let private = self.vm(vm)?.vm_type.has_private_memory();
        // INIT_SHARED is no flag of a VM with private memory.
        if private && purpose == GmemUse::HostShared {
            return Err(EINVAL);
        }
        if pages == 0 || pages.checked_mul(4096).is_none_or(|bytes| i64::try_from(bytes).is_err()) {
            return Err(EINVAL);
        }
        let id = self.id();
        self.files.insert(id, File { vm, size: pages, pages: BTreeMap::new() });
        Ok(id)
    }

    pub(super) fn create_slot(
        &mut self,
        vm: u32,
        id: u16,
        range: GfnRange,
        shared: Arc<Region>,
        private: Option<(u32, u64)>,
    ) -> Result<(), i32> {
        let pages = range.pages().get();
        if id >= SLOTS || pages >= SLOT_PAGES || self.vm(vm)?.slots.contains_key(&id) {
            return Err(EINVAL);
        }
        if self.vm(vm)?.slots.values().any(|slot| slot.range.overlaps(range)) {
            return Err(EEXIST);
        }
        let binding = match private {
            None => Binding::None,
            Some((file, first)) => {
                let found = self.files.get(&file).ok_or(EBADF)?;
                if found.vm != vm || first.checked_add(pages).is_none_or(|end| end > found.size) {
                    return Err(EINVAL);
                }
                let taken = |slot: &MemorySlot| match slot.binding {
                    Binding::Bound(other, start) if other == file => {
                        start < first + pages && first < start + slot.range.pages().get()
                    }
                    _ => false,
                };
                if self.vm(vm)?.slots.values().any(taken) {
                    return Err(EEXIST);
                }
                Binding::Bound(file, first)
            }
        };
        self.vm(vm)?.slots.insert(id, MemorySlot { range, shared, binding });
        Ok(())
    }

    pub(super) fn delete_slot(&mut self, vm: u32, id: u16) -> Result<(), i32> {
        self.vm(vm)?.slots.remove(&id).map(drop).ok_or(EINVAL)
    }

    /// Attributes are by the frame: they need no slot and outlive one. Nothing is freed or filled.
    pub(super) fn set_owner(&mut self, vm: u32, range: GfnRange, owner: Owner) -> Result<(), i32> {
        let machine = self.vm(vm)?;
        if !machine.vm_type.has_private_memory() {
            return Err(EINVAL);
        }
        match owner {
            Owner::Private => machine.private.insert(range),
            Owner::Shared => machine.private.remove(range),
        };
        Ok(())
    }

    pub(super) fn create_interrupt_controller(&mut self, vm: u32) -> Result<(), i32> {
        let machine = self.vm(vm)?;
        if machine.interrupt_controller {
            return Err(EEXIST);
        }
        if !machine.vcpus_made.is_empty() {
            return Err(EINVAL);
        }
        machine.interrupt_controller = true;
        Ok(())
    }

    pub(super) fn create_vcpu(&mut self, vm: u32, id: u32) -> Result<(), i32> {
        let machine = self.vm(vm)?;
        if !machine.vcpus_made.insert(id) {
            return Err(EEXIST);
        }
        machine.vcpus_open += 1;
        Ok(())
    }

    /// Punching works on the file alone: the VM may be dead or its descriptor closed.
    pub(super) fn discard(&mut self, file: u32, first: u64, pages: u64) -> Result<(), i32> {
        if pages == 0 {
            return Err(EINVAL);
        }
        let end = first.checked_add(pages).ok_or(EINVAL)?;
        self.files.get_mut(&file).ok_or(EBADF)?.pages.retain(|page, _| *page < first || *page >= end);
        Ok(())
    }

    pub(super) fn allocated(&self, file: u32) -> u64 {
        self.files.get(&file).map_or(0, |file| file.pages.len() as u64)
    }

    pub(super) fn close_vm(&mut self, id: u32) {
        self.vms.get_mut(&id).expect("a VM lives as long as its descriptor").descriptor_open = false;
        self.note(Call::CloseVm, None);
        self.destroy_if_unreferenced(id, None);
    }

    pub(super) fn close_vcpu(&mut self, vm: u32, id: u32) {
        self.vms.get_mut(&vm).expect("a VM lives as long as its vCPUs").vcpus_open -= 1;
        self.note(Call::CloseVcpu(id), None);
        self.destroy_if_unreferenced(vm, None);
    }

    /// The kernel's order: slots lose the file, then the file lets go of the VM, and only then are its pages freed.
    pub(super) fn close_gmem(&mut self, id: u32) {
        let vm = self.files[&id].vm;
        let machine = self.vms.get_mut(&vm).expect("a VM lives as long as its files");
        for slot in machine.slots.values_mut() {
            if matches!(slot.binding, Binding::Bound(file, _) if file == id) {
                slot.binding = Binding::Severed;
            }
        }
        self.last_held = Some((machine.private.clone(), self.files[&id].pages.len() as u64));
        self.note(Call::CloseGmem, None);
        self.destroy_if_unreferenced(vm, Some(id));
        let pages = self.files.remove(&id).map_or(0, |file| file.pages.len() as u64);
        self.note(Call::PagesFreed { pages }, None);
    }

    fn destroy_if_unreferenced(&mut self, id: u32, releasing: Option<u32>) {
        let machine = &self.vms[&id];
        let pinned = self.files.iter().any(|(file, state)| state.vm == id && Some(*file) != releasing);
        if !machine.descriptor_open && machine.vcpus_open == 0 && !pinned {
            self.vms.remove(&id);
            self.note(Call::KeyFreed, None);
        }
    }
}
