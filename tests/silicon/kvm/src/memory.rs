//! Slots, attributes and files, and where a frame's contents are.
//!
//! Specification: Linux 7.2, `kvm_set_memory_region`, `kvm_gmem_bind`, `kvm_vm_ioctl_set_mem_attributes`,
//! `kvm_gmem_fallocate`, `sev_gmem_prepare`.

use std::sync::Arc;

use gmem::ledger::Owner;
use gmem::{Gfn, GfnRange};
use gmem_kvm::backing::Region;
use gmem_kvm::port::GmemUse;
use rustix::io::Errno;
use tenure_silicon::platform::Platform;
use tenure_silicon::rmp::Assignment;
use tenure_silicon::units::{Gpa, PageSize, Pfn};

use crate::host::{Binding, File, Machine, MemorySlot, State, Vmsa};

/// Where a frame's contents are.
pub(crate) enum Place {
    /// In a page of a file.
    Private(u32, u64),
    /// In host memory.
    Shared(Arc<Region>),
}

/// Why a frame has no contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nowhere {
    /// No slot: MMIO if shared.
    NoSlot,
    /// Private, but no file.
    NoFile,
}

impl Machine {
    pub(crate) fn slot_of(&self, gfn: u64) -> Option<&MemorySlot> {
        self.slots.values().find(|slot| slot.range.start().number() <= gfn && gfn < slot.range.end_number())
    }

    /// Where an access of this kind goes.
    pub(crate) fn place(&self, gfn: u64, private: bool) -> Result<Place, Nowhere> {
        let slot = self.slot_of(gfn).ok_or(Nowhere::NoSlot)?;
        if !private {
            return Ok(Place::Shared(Arc::clone(&slot.shared)));
        }
        match slot.binding {
            Binding::Bound(file, first) => Ok(Place::Private(file, first + gfn - slot.range.start().number())),
            Binding::None | Binding::Severed => Err(Nowhere::NoFile),
        }
    }
}

impl State {
    pub(crate) fn vm(&mut self, id: u32) -> Result<&mut Machine, Errno> {
        self.vms.get_mut(&id).ok_or(Errno::BADF)
    }

    pub(crate) fn create_gmem(&mut self, vm: u32, pages: u64, purpose: GmemUse) -> Result<u32, Errno> {
        let private = self.vm(vm)?.vm_type.has_private_memory();
        if (private && purpose == GmemUse::HostShared) || pages == 0 {
            return Err(Errno::INVAL);
        }
        let id = self.id();
        self.files.insert(id, File { vm, size: pages, pages: Default::default() });
        Ok(id)
    }

    pub(crate) fn create_slot(
        &mut self,
        vm: u32,
        id: u16,
        range: GfnRange,
        shared: Arc<Region>,
        private: Option<(u32, u64)>,
    ) -> Result<(), Errno> {
        let pages = range.pages().get();
        if self.vm(vm)?.slots.contains_key(&id) {
            return Err(Errno::INVAL);
        }
        if self.vm(vm)?.slots.values().any(|slot| slot.range.overlaps(range)) {
            return Err(Errno::EXIST);
        }
        let binding = match private {
            None => Binding::None,
            Some((file, first)) => {
                let found = self.files.get(&file).ok_or(Errno::BADF)?;
                if found.vm != vm || first.checked_add(pages).is_none_or(|end| end > found.size) {
                    return Err(Errno::INVAL);
                }
                Binding::Bound(file, first)
            }
        };
        self.vm(vm)?.slots.insert(id, MemorySlot { range, shared, binding });
        Ok(())
    }

    pub(crate) fn set_owner(&mut self, vm: u32, range: GfnRange, owner: Owner) -> Result<(), Errno> {
        let machine = self.vm(vm)?;
        if !machine.vm_type.has_private_memory() {
            return Err(Errno::INVAL);
        }
        match owner {
            Owner::Private => machine.private.insert(range),
            Owner::Shared => machine.private.remove(range),
        };
        Ok(())
    }

    /// Frees pages of a file, whatever becomes of its VM. A vCPU whose registers are among them loses them.
    pub(crate) fn punch(&mut self, platform: &Platform, file: u32, first: u64, pages: u64) -> Result<(), Errno> {
        if pages == 0 {
            return Err(Errno::INVAL);
        }
        let end = first.checked_add(pages).ok_or(Errno::FBIG)?;
        let found = self.files.get_mut(&file).ok_or(Errno::BADF)?;
        let vm = found.vm;
        let gone: Vec<(u64, Pfn)> = found.pages.range(first..end).map(|(page, pfn)| (*page, *pfn)).collect();
        found.pages.retain(|page, _| *page < first || *page >= end);
        for (page, pfn) in gone {
            if let Some(machine) = self.vms.get_mut(&vm) {
                let gfn = machine.slots.values().find_map(|slot| match slot.binding {
                    Binding::Bound(bound, start) if bound == file && start <= page => {
                        Gfn::new(slot.range.start().number() + page - start).filter(|gfn| slot.range.contains(*gfn))
                    }
                    _ => None,
                });
                for vcpu in machine.vcpus.values_mut() {
                    if gfn.is_some_and(|gfn| vcpu.vmsa == Some(Vmsa::Guest(gfn.number()))) {
                        vcpu.vmsa = Some(Vmsa::None);
                    }
                }
            }
            self.free_page(platform, pfn);
        }
        Ok(())
    }

    /// The page behind a private frame, made and assigned if it was not there.
    pub(crate) fn private_page(&mut self, platform: &Platform, vm: u32, gfn: u64) -> Result<Pfn, Nowhere> {
        let machine = self.vms.get(&vm).ok_or(Nowhere::NoSlot)?;
        let Place::Private(file, index) = machine.place(gfn, true)? else { return Err(Nowhere::NoFile) };
        let asid = machine.snp.as_ref().map(|snp| snp.asid);
        let known = self.files.get(&file).and_then(|file| file.pages.get(&index)).copied();
        let pfn = known.unwrap_or_else(|| {
            let pfn = self.take_page();
            // A new page holds nothing.
            let _ = platform.host_write(pfn, &[0; 4096]);
            pfn
        });
        if let Some(found) = self.files.get_mut(&file) {
            found.pages.insert(index, pfn);
        }
        let assigned = platform.rmp_entry(pfn).is_some_and(|entry| entry.assigned);
        if let (Some(asid), false) = (asid, assigned) {
            let entry =
                Assignment { assigned: true, asid, gpa: Gpa(gfn << 12), size: PageSize::Size4K, immutable: false };
            platform.rmpupdate(pfn, entry).map_err(|_| Nowhere::NoFile)?;
        }
        Ok(pfn)
    }
}
