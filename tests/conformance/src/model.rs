//! The reference model: what Linux answers, as a pure value.
//!
//! Owns: virtual machines, slots, guest_memfds and their pages, bindings, attributes, mappings, and who keeps whom alive;
//! one function per operation, with the checks in the kernel's documented order. It is written from the ABI, not from
//! anybody's implementation of it: Linux `virt/kvm/kvm_main.c` (`kvm_set_memory_region`,
//! `kvm_vm_ioctl_set_mem_attributes`, `kvm_vcpu_pre_fault_memory`), `virt/kvm/guest_memfd.c`, `mm/mmap.c`, `fs/open.c`
//! (`vfs_fallocate`) and `Documentation/virt/kvm/api.rst`, as of 7.2. Where a kernel is known to differ, the difference
//! is a named [`Quirk`](crate::kernel::Quirk) and nothing else. Does not own: timing, memory pressure, signals, locks.
//!
//! Everything is indexed by what it is, never by a descriptor: registers say what descriptors name.

mod attributes;
mod file;
mod frames;
mod guest;
mod host;
mod slot;
mod vm;

use std::collections::{BTreeMap, BTreeSet};

use crate::kernel::{Kernel, TypeFeatures};
use crate::op::{
    Cpu, File, GUEST_GIGABYTE, Map, Op, PAGE, Place, Plain, STUB_BYTES, STUB_GPA, STUB_SLOT, Slot, Vm, WINDOW_BYTES,
    WINDOW_STRIDE,
};
use crate::outcome::{Errno, Outcome};

pub use frames::Frames;
use host::Mapping;
use slot::MemorySlot;

/// A VM that once was made.
type VmId = usize;
/// A guest_memfd that once was made.
type FileId = usize;

/// Bytes that were written to a page; all others are 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Contents(BTreeMap<u64, u8>);

impl Contents {
    fn read(&self, offset: u64) -> u8 {
        self.0.get(&offset).copied().unwrap_or(0)
    }

    fn write(&mut self, offset: u64, value: u8) {
        self.0.insert(offset, value);
    }
}

/// `struct kvm_vcpu`.
#[derive(Clone, Copy, Debug)]
struct Vcpu {
    vm: VmId,
    /// How often all page tables were given up when it last looked; `None` if it never ran.
    tables: Option<u64>,
}

/// `struct kvm`.
#[derive(Clone, Debug)]
struct Machine {
    vm_type: u32,
    /// Its descriptor, its vCPUs', and its guest_memfds. At 0 it is destroyed.
    references: usize,
    slots: BTreeMap<u32, MemorySlot>,
    /// Frames with the attribute PRIVATE, slot or not.
    private: Frames,
    /// How often slots were changed.
    generation: u64,
    /// Frames that were found to have no slot, and at which generation. See
    /// [`Quirk::MmioIsRemembered`](crate::kernel::Quirk).
    mmio: BTreeMap<u64, u64>,
    /// How often all page tables of the guest's memory were given up. See
    /// [`Quirk::PrefaultHangsAfterZap`](crate::kernel::Quirk).
    zaps: u64,
    /// vCPU numbers stay taken when the descriptor is closed.
    cpus_made: BTreeSet<Cpu>,
}

/// A guest_memfd: file and inode in one, as there is no way to have two files of one inode.
#[derive(Clone, Debug)]
struct Memfd {
    /// Whose it is, for life.
    vm: VmId,
    pages: u64,
    flags: u64,
    /// Descriptors and mappings. At 0 it is released.
    references: usize,
    /// Pages that are allocated; those that were never touched hold zeros.
    allocated: BTreeMap<u64, Contents>,
}

/// Everything there is.
#[derive(Clone, Debug)]
pub struct Model {
    kernel: Kernel,
    machines: Vec<Machine>,
    memfds: Vec<Memfd>,
    vms: [Option<VmId>; Vm::COUNT as usize],
    /// The VM that a register held last.
    last_vms: [Option<VmId>; Vm::COUNT as usize],
    files: [Option<FileId>; File::COUNT as usize],
    cpus: [Option<Vcpu>; Cpu::COUNT as usize],
    maps: [Option<Mapping>; Map::COUNT as usize],
    plain: [BTreeMap<u64, Contents>; Plain::COUNT as usize],
}

impl Model {
    /// A kernel with nothing in it.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            machines: Vec::new(),
            memfds: Vec::new(),
            vms: Default::default(),
            last_vms: Default::default(),
            files: Default::default(),
            cpus: Default::default(),
            maps: Default::default(),
            plain: Default::default(),
        }
    }

    /// The kernel it is a model of.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Whether an operation can be asked at all: registers that something goes into must be empty, those that are closed
    /// must not, and nothing may touch the guest's own slot. An operation on an empty register can be asked: it is one
    /// on a descriptor that was closed.
    #[must_use]
    pub fn applicable(&self, op: &Op) -> bool {
        match *op {
            Op::CreateVm { vm, .. } => self.vms[vm.index()].is_none(),
            Op::CloseVm(vm) => self.vms[vm.index()].is_some(),
            Op::CreateFile { file, .. } => self.files[file.index()].is_none(),
            Op::Dup { to, .. } => self.files[to.index()].is_none(),
            Op::CloseFile(file) => self.files[file.index()].is_some(),
            Op::CreateCpu { cpu, .. } => self.cpus[cpu.index()].is_none(),
            Op::CloseCpu(cpu) => self.cpus[cpu.index()].is_some(),
            Op::SetSlot { slot, .. } | Op::SetSlotV1 { slot, .. } => slot.id != STUB_SLOT && is_harmless(&slot),
            Op::HostRead(place) | Op::HostWrite(place, _) => is_ours(place, 1),
            Op::Map { map, offset, len, .. } => {
                self.maps[map.index()].is_none() && offset < MOST_OFFSET && len <= WINDOW_BYTES
            }
            Op::Unmap(map) | Op::Advise { map, .. } => self.maps[map.index()].is_some(),
            Op::GuestRead(cpu, gpa) | Op::GuestWrite(cpu, gpa, _) => {
                let stub = STUB_GPA..STUB_GPA + STUB_BYTES;
                self.cpus[cpu.index()].is_some() && GUEST_GIGABYTE.contains(&gpa) && !stub.contains(&gpa)
            }
            Op::Prefault { cpu, gpa, .. } => {
                self.cpus[cpu.index()].is_some() && self.kernel.features.prefault && gpa < MOST_PREFAULT
            }
            Op::Pages(_) => self.kernel.features.cachestat,
            Op::Alive(vm) => self.kernel.features.debugfs && self.last_vms[vm.index()].is_some(),
            Op::SetAttributes { gpa, size, .. } => {
                size <= MOST_ATTRIBUTES || size % PAGE != 0 || gpa.checked_add(size).is_none()
            }
            Op::Fallocate { len, .. } => len <= MOST_ALLOCATED || i64::try_from(len).is_err(),
            Op::Capability { .. } | Op::Try(..) => true,
        }
    }

    /// What the kernel answers, and what there is afterwards.
    pub fn apply(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::CreateVm { vm, vm_type } => self.create_vm(vm, vm_type).into(),
            Op::CloseVm(vm) => self.close_vm(vm).into(),
            Op::CreateFile { file, vm, size, flags } => self.create_file(file, vm, size, flags).into(),
            Op::Dup { from, to } => self.dup(from, to).into(),
            Op::CloseFile(file) => self.close_file(file).into(),
            Op::CreateCpu { cpu, vm } => self.create_cpu(cpu, vm).into(),
            Op::CloseCpu(cpu) => self.close_cpu(cpu).into(),
            Op::SetSlot { vm, slot } => self.set_slot(vm, &slot).into(),
            Op::SetSlotV1 { vm, slot } => self.set_slot_v1(vm, &slot).into(),
            Op::SetAttributes { vm, gpa, size, attributes, flags } => {
                self.set_attributes(vm, gpa, size, attributes, flags).into()
            }
            Op::Fallocate { file, mode, offset, len } => self.fallocate(file, mode, offset, len).into(),
            Op::Map { map, file, offset, len, sharing, protection } => {
                self.map(map, file, offset, len, sharing, protection).into()
            }
            Op::Unmap(map) => self.unmap(map).into(),
            Op::Advise { map, advice } => self.advise(map, advice).into(),
            Op::HostRead(place) => self.host_read(place).into(),
            Op::HostWrite(place, value) => self.host_write(place, value).into(),
            Op::GuestRead(cpu, gpa) => self.guest_read(cpu, gpa),
            Op::GuestWrite(cpu, gpa, value) => self.guest_write(cpu, gpa, value),
            Op::Prefault { cpu, gpa, size, flags } => self.prefault(cpu, gpa, size, flags),
            Op::Pages(file) => self.allocated(file).into(),
            Op::Alive(vm) => self.alive(vm),
            Op::Capability { vm, number } => self.capability(vm, number).into(),
            Op::Try(file, call) => self.try_call(file, call).into(),
        }
    }

    /// Whether an operation is known not to come back until it is interrupted.
    #[must_use]
    pub fn hangs(&self, op: &Op) -> bool {
        matches!(op, Op::Prefault { cpu, .. } if self.prefault_hangs(*cpu))
    }

    /// Whether a register holds a VM's descriptor.
    #[must_use]
    pub fn is_open_vm(&self, vm: Vm) -> bool {
        self.vms[vm.index()].is_some()
    }

    /// The size in pages of the guest_memfd in a register, and whether it belongs to this VM.
    #[must_use]
    pub fn file_of(&self, file: File, vm: Vm) -> Option<(u64, bool)> {
        let memfd = &self.memfds[self.files[file.index()]?];
        Some((memfd.pages, self.vms[vm.index()] == Some(memfd.vm)))
    }

    /// Whether a register holds a vCPU.
    #[must_use]
    pub fn is_open_cpu(&self, cpu: Cpu) -> bool {
        self.cpus[cpu.index()].is_some()
    }

    /// Numbers and first and last addresses of a VM's slots.
    #[must_use]
    pub fn slots_of(&self, vm: Vm) -> Vec<(u32, u64, u64)> {
        let Some(id) = self.vms[vm.index()] else { return Vec::new() };
        self.slots_of_machine(id)
    }

    /// The same of a vCPU's VM.
    #[must_use]
    pub fn slots_of_cpu(&self, cpu: Cpu) -> Vec<(u32, u64, u64)> {
        let Some(vcpu) = self.cpus[cpu.index()] else { return Vec::new() };
        self.slots_of_machine(vcpu.vm)
    }

    fn slots_of_machine(&self, id: VmId) -> Vec<(u32, u64, u64)> {
        let ends = |(number, slot): (&u32, &MemorySlot)| {
            let frames = slot.frames();
            (*number, frames.start * PAGE, frames.end * PAGE - 1)
        };
        self.machines[id].slots.iter().map(ends).collect()
    }

    /// Whether something is mapped in a window.
    #[must_use]
    pub fn is_mapped(&self, map: Map) -> bool {
        self.maps[map.index()].is_some()
    }

    /// The VM whose descriptor is in a register.
    fn open_vm(&self, vm: Vm) -> Result<VmId, Errno> {
        self.vms[vm.index()].ok_or(Errno::BADF)
    }

    /// The guest_memfd whose descriptor is in a register.
    fn open_file(&self, file: File) -> Result<FileId, Errno> {
        self.files[file.index()].ok_or(Errno::BADF)
    }

    /// What is known of VMs of this one's type.
    fn type_features(&self, vm: VmId) -> TypeFeatures {
        self.kernel.features.of_type(self.machines[vm].vm_type).unwrap_or_default()
    }

    /// Statements that hold at every moment; the first that does not is named.
    pub fn check_invariants(&self) -> Result<(), String> {
        for (id, machine) in self.machines.iter().enumerate() {
            let files = self.memfds.iter().filter(|file| file.vm == id && file.references > 0).count();
            if machine.references < files {
                return Err(format!("VM {id} has {} references, but {files} guest_memfds", machine.references));
            }
            let mut bound = Vec::new();
            for (number, slot) in &machine.slots {
                let Some((file, pages)) = slot.bound() else { continue };
                if self.memfds[file].references == 0 {
                    return Err(format!("slot {number:#x} of VM {id} is bound to a released guest_memfd"));
                }
                if self.memfds[file].vm != id {
                    return Err(format!("slot {number:#x} of VM {id} is bound to another VM's guest_memfd"));
                }
                if bound.iter().any(|(other, range): &(FileId, std::ops::Range<u64>)| {
                    *other == file && range.start < pages.end && pages.start < range.end
                }) {
                    return Err(format!("two slots of VM {id} are bound to the same pages"));
                }
                bound.push((file, pages));
            }
        }
        Ok(())
    }
}

/// More would keep the kernel busy for long: it stores an entry per frame and looks for no signal.
const MOST_ATTRIBUTES: u64 = 16 << 20;
/// More would fill the machine's memory, were there a file so large.
const MOST_ALLOCATED: u64 = 1 << 30;
/// Offsets of mappings whose pages have numbers.
const MOST_OFFSET: u64 = 1 << 40;
/// Addresses that every processor's guests can have.
const MOST_PREFAULT: u64 = 1 << 36;
/// Sizes from here on are refused, whatever else is said.
const REFUSED_SIZE: u64 = 1 << 44;

/// Whether the guest's own slot stays, and no guest gets at this program's memory or makes the kernel allocate much.
fn is_harmless(slot: &Slot) -> bool {
    if !slot.size.is_multiple_of(PAGE) || slot.size >= REFUSED_SIZE {
        return true;
    }
    let end = slot.gpa.saturating_add(slot.size);
    (end <= STUB_GPA || slot.gpa >= STUB_GPA + STUB_BYTES) && is_ours(slot.hva, slot.size)
}

/// Whether these bytes are in a window or where no process has memory.
fn is_ours(place: Place, size: u64) -> bool {
    match place {
        Place::Plain(_, offset) | Place::Map(_, offset) => {
            offset.checked_add(size).is_some_and(|end| end <= WINDOW_STRIDE)
        }
        // The first pages, and the upper half.
        Place::Raw(address) => address.saturating_add(size) <= 1 << 16 || address >= 1 << 47,
    }
}
