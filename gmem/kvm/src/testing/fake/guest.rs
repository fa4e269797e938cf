//! The test as the guest: accesses that go where the attribute says, as the CPU's page walk would.

use super::model::{Binding, MemorySlot, Model};
use super::{FakeKernel, Frames};

/// Why a guest's access failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestFault {
    /// No VM any more.
    NoVm,
    /// No slot: an MMIO exit.
    Mmio,
    /// Private, but no file to take the page from: `KVM_RUN` fails with EFAULT.
    NoPrivatePage,
}

/// Where a frame's contents are.
enum Place<'a> {
    Private(u32, u64),
    Shared(&'a MemorySlot, u64),
}

impl Model {
    fn place(&self, vm: u32, gfn: u64) -> Result<Place<'_>, GuestFault> {
        let machine = self.vms.get(&vm).ok_or(GuestFault::NoVm)?;
        let holds = |slot: &&MemorySlot| slot.range.start().number() <= gfn && gfn < slot.range.end_number();
        let slot = machine.slots.values().find(holds).ok_or(GuestFault::Mmio)?;
        let page = gfn - slot.range.start().number();
        if !machine.private.contains(gfn) {
            return Ok(Place::Shared(slot, page * 4096));
        }
        match slot.binding {
            Binding::Bound(file, first) => Ok(Place::Private(file, first + page)),
            Binding::None | Binding::Severed => Err(GuestFault::NoPrivatePage),
        }
    }
}

impl FakeKernel {
    /// The guest writes a number to the beginning of a frame.
    pub fn guest_write(&self, vm: u32, gfn: u64, value: u64) -> Result<(), GuestFault> {
        let mut model = self.model();
        match model.place(vm, gfn)? {
            Place::Shared(slot, offset) => {
                let written = rustix::io::pwrite(slot.shared.file(), &value.to_ne_bytes(), offset).unwrap();
                assert_eq!(written, 8);
            }
            Place::Private(file, page) => {
                model.files.get_mut(&file).unwrap().pages.insert(page, value);
            }
        }
        Ok(())
    }

    /// The guest reads the number at the beginning of a frame. Allocates nothing, unlike a real read.
    pub fn guest_read(&self, vm: u32, gfn: u64) -> Result<u64, GuestFault> {
        let model = self.model();
        match model.place(vm, gfn)? {
            Place::Shared(slot, offset) => {
                let mut value = [0; 8];
                assert_eq!(rustix::io::pread(slot.shared.file(), &mut value, offset).unwrap(), 8);
                Ok(u64::from_ne_bytes(value))
            }
            Place::Private(file, page) => Ok(model.files[&file].pages.get(&page).copied().unwrap_or(0)),
        }
    }

    /// Whether the kernel holds the frame to be private.
    pub fn is_private(&self, vm: u32, gfn: u64) -> bool {
        self.model().vms.get(&vm).is_some_and(|machine| machine.private.contains(gfn))
    }

    /// Every frame the kernel holds to be private.
    pub fn private_frames(&self, vm: u32) -> Frames {
        self.model().vms.get(&vm).map(|machine| machine.private.clone()).unwrap_or_default()
    }

    /// Whether the guest_memfd behind a frame has a page for it, whoever owns the frame.
    pub fn has_private_copy(&self, vm: u32, gfn: u64) -> bool {
        let model = self.model();
        let Some(machine) = model.vms.get(&vm) else { return false };
        machine.slots.values().any(|slot| match slot.binding {
            Binding::Bound(file, first) if (slot.range.start().number()..slot.range.end_number()).contains(&gfn) => {
                model.files[&file].pages.contains_key(&(first + gfn - slot.range.start().number()))
            }
            _ => false,
        })
    }
}
