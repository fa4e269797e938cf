//! The kernel port on the real KVM.
//!
//! Owns the ioctls, and with them all of this crate's `unsafe`: handing the kernel addresses of our own mappings, and
//! reading the fields of `kvm_run` that `kvm-ioctls` does not decode. Each block says why it is sound.
#![expect(unsafe_code, reason = "KVM takes host addresses and returns unions; see each block")]

mod gmem_fd;
pub mod inspect;
pub(crate) mod platform;
mod sev;
mod vcpu;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use gmem::ledger::Owner;
use gmem::{ByteLen, GfnRange, PageCount};
use kvm_bindings::{
    CpuId, KVM_CAP_EXIT_HYPERCALL, KVM_CAP_X86_USER_SPACE_MSR, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES,
    KVM_MEM_GUEST_MEMFD, KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL,
    KVM_MSR_EXIT_REASON_UNKNOWN, KVM_PIT_SPEAKER_DUMMY, kvm_cpuid_entry2, kvm_create_guest_memfd, kvm_enable_cap,
    kvm_memory_attributes, kvm_pit_config, kvm_userspace_memory_region2,
};
use kvm_ioctls::{Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use vmm_sys_util::ioctl::ioctl;

use crate::backing::Region;
use crate::port::snp::{SnpCommand, SnpUpdate};
use crate::port::{CallError, CpuidEntry, GmemUse, Kernel, KernelVm, Level, Slot, SlotId, VmType};
use crate::uapi;
use crate::vm::lock;

pub use gmem_fd::KvmGmem;
pub use vcpu::KvmVcpu;

/// The host's KVM.
#[derive(Debug)]
pub struct KvmKernel {
    kvm: Kvm,
}

/// A VM of the host's KVM.
pub struct KvmVm {
    // Declared before `kept`: the descriptor closes before what it needs goes away.
    vm: VmFd,
    kept: Arc<Kept>,
}

/// What must outlive a VM's descriptor and those of its vCPUs, which can run after it is closed.
#[derive(Debug)]
struct Kept {
    /// The host mapping behind each slot: what the guest can reach must not become somebody else's memory.
    regions: Mutex<BTreeMap<SlotId, Arc<Region>>>,
    /// The PSP's device, for an SNP VM: the kernel looks it up by its number whenever the guest asks for a report.
    psp: Option<OwnedFd>,
}

impl fmt::Debug for KvmVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmVm").field("fd", &self.vm.as_raw_fd()).finish_non_exhaustive()
    }
}

/// Turns `kvm-ioctls`' error into ours, naming call and argument.
fn failed(call: &'static str, argument: impl fmt::Display) -> impl FnOnce(kvm_ioctls::Error) -> CallError {
    move |error| CallError::new(call, argument, error.errno())
}

fn byte_len(range: GfnRange, call: &'static str) -> Result<ByteLen, CallError> {
    range.bytes().ok_or_else(|| CallError::new(call, range, rustix::io::Errno::OVERFLOW.raw_os_error()))
}

impl KvmKernel {
    /// Opens the KVM device, usually `/dev/kvm`.
    pub fn open(device: &Path) -> Result<Self, CallError> {
        let call = "open";
        let name = device.as_os_str().as_encoded_bytes();
        let path = std::ffi::CString::new(name)
            .map_err(|_| CallError::new(call, device.display(), rustix::io::Errno::INVAL.raw_os_error()))?;
        let kvm = Kvm::new_with_path(path).map_err(failed(call, device.display()))?;
        Ok(Self { kvm })
    }
}

impl Kernel for KvmKernel {
    type Vm = KvmVm;

    fn create_vm(&self, vm_type: VmType) -> Result<KvmVm, CallError> {
        loop {
            match self.kvm.create_vm_with_type(u64::from(vm_type.raw())) {
                // A signal while the kernel sets the VM up: nothing was made.
                Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => {}
                other => {
                    let vm = other.map_err(failed("KVM_CREATE_VM", format_args!("type {}", vm_type.raw())))?;
                    let psp = if vm_type == VmType::Snp { Some(sev::open_psp()?) } else { None };
                    return Ok(KvmVm { vm, kept: Arc::new(Kept { regions: Mutex::default(), psp }) });
                }
            }
        }
    }

    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, CallError> {
        let cpuid =
            self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID", ""))?;
        Ok(cpuid.as_slice().iter().map(from_kvm_cpuid).collect())
    }
}

impl KernelVm for KvmVm {
    type Gmem = KvmGmem;
    type Vcpu = KvmVcpu;

    fn create_gmem(&self, pages: PageCount, purpose: GmemUse) -> Result<KvmGmem, CallError> {
        const CALL: &str = "KVM_CREATE_GUEST_MEMFD";
        let overflow = || CallError::new(CALL, pages, rustix::io::Errno::OVERFLOW.raw_os_error());
        let size = pages.bytes().ok_or_else(overflow)?;
        let flags = match purpose {
            GmemUse::Private => 0,
            GmemUse::HostShared => uapi::GUEST_MEMFD_FLAG_MMAP | uapi::GUEST_MEMFD_FLAG_INIT_SHARED,
        };
        let request = kvm_create_guest_memfd { size: size.0, flags, ..Default::default() };
        let fd = self.vm.create_guest_memfd(request).map_err(failed(CALL, format_args!("{size}, flags {flags:#x}")))?;
        KvmGmem::adopt(fd, self.vm.as_raw_fd())
    }

    fn create_slot(&self, slot: Slot<'_, KvmGmem>) -> Result<(), CallError> {
        const CALL: &str = "KVM_SET_USER_MEMORY_REGION2";
        let len = byte_len(slot.range, CALL)?;
        let mapping = slot.shared.mapping();
        if slot.shared.range() != slot.range || mapping.size() as u64 != len.0 {
            let argument = format_args!("{} at {} with host memory for {}", slot.id, slot.range, slot.shared.range());
            return Err(CallError::new(CALL, argument, rustix::io::Errno::INVAL.raw_os_error()));
        }
        let mut raw = kvm_userspace_memory_region2 {
            slot: u32::from(slot.id.0),
            guest_phys_addr: slot.range.gpa().0,
            memory_size: len.0,
            userspace_addr: mapping.as_ptr() as u64,
            ..Default::default()
        };
        if let Some((gmem, first)) = slot.private {
            let overflow = || CallError::new(CALL, first, rustix::io::Errno::OVERFLOW.raw_os_error());
            raw.flags |= KVM_MEM_GUEST_MEMFD;
            raw.guest_memfd = gmem.raw_for_slot();
            raw.guest_memfd_offset = first.bytes().ok_or_else(overflow)?.0;
        }
        let mut regions = lock(&self.kept.regions);
        // SAFETY: the address and size are those of a live mapping that only volatile accesses go to, and `kept`
        // keeps it alive until the slot is deleted, or the VM and all its vCPUs are closed.
        let result = unsafe { self.vm.set_user_memory_region2(raw) };
        result.map_err(failed(CALL, format_args!("{} at {}", slot.id, slot.range)))?;
        regions.insert(slot.id, slot.shared);
        Ok(())
    }

    fn delete_slot(&self, id: SlotId) -> Result<(), CallError> {
        let raw = kvm_userspace_memory_region2 { slot: u32::from(id.0), ..Default::default() };
        let mut regions = lock(&self.kept.regions);
        // SAFETY: a size of zero deletes the slot and names no memory.
        let result = unsafe { self.vm.set_user_memory_region2(raw) };
        result.map_err(failed("KVM_SET_USER_MEMORY_REGION2", format_args!("delete {id}")))?;
        regions.remove(&id);
        Ok(())
    }

    fn set_owner(&self, range: GfnRange, owner: Owner) -> Result<(), CallError> {
        const CALL: &str = "KVM_SET_MEMORY_ATTRIBUTES";
        let attributes = match owner {
            Owner::Private => u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE),
            Owner::Shared => 0,
        };
        let size = byte_len(range, CALL)?.0;
        let raw = kvm_memory_attributes { address: range.gpa().0, size, attributes, flags: 0 };
        self.vm.set_memory_attributes(raw).map_err(failed(CALL, format_args!("{range} to {owner}")))
    }

    fn enable_conversion_requests(&self) -> Result<(), CallError> {
        self.enable(KVM_CAP_EXIT_HYPERCALL, 1 << uapi::KVM_HC_MAP_GPA_RANGE, "KVM_CAP_EXIT_HYPERCALL")
    }

    fn tsc_khz(&self) -> Result<u32, CallError> {
        // SAFETY: this ioctl takes no argument and touches no memory of ours.
        let khz = unsafe { ioctl(&self.vm, uapi::KVM_GET_TSC_KHZ()) };
        u32::try_from(khz).map_err(|_| {
            let error = std::io::Error::last_os_error();
            CallError::new("KVM_GET_TSC_KHZ", "VM", error.raw_os_error().unwrap_or(0))
        })
    }

    fn trap_msrs(&self, indices: &[u32]) -> Result<(), CallError> {
        let reasons = KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;
        self.enable(KVM_CAP_X86_USER_SPACE_MSR, u64::from(reasons), "KVM_CAP_X86_USER_SPACE_MSR")?;
        // A clear bit in the bitmap means "not allowed in the kernel": it exits to us. The kernel reads whole longs.
        let denied = [0u8; size_of::<u64>()];
        let flags = MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE;
        let range = |&base: &u32| MsrFilterRange { flags, base, msr_count: 1, bitmap: &denied };
        let ranges: Vec<_> = indices.iter().map(range).collect();
        self.vm
            .set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
            .map_err(failed("KVM_X86_SET_MSR_FILTER", format_args!("{indices:x?}")))
    }

    fn create_interrupt_controller(&self) -> Result<(), CallError> {
        self.vm.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP", ""))?;
        // Without the dummy speaker port, reads of 0x61 would come to us for every loop of a PIT calibration.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        self.vm.create_pit2(pit).map_err(failed("KVM_CREATE_PIT2", ""))
    }

    fn set_irq_line(&self, gsi: u32, level: Level) -> Result<(), CallError> {
        let argument = format_args!("GSI {gsi} {level:?}");
        self.vm.set_irq_line(gsi, level == Level::High).map_err(failed("KVM_IRQ_LINE", argument))
    }

    fn create_vcpu(&self, id: u32) -> Result<KvmVcpu, CallError> {
        let fd = self.vm.create_vcpu(u64::from(id)).map_err(failed("KVM_CREATE_VCPU", id))?;
        Ok(KvmVcpu::new(fd, Arc::clone(&self.kept)))
    }

    fn snp(&self, command: SnpCommand<'_>) -> Result<(), CallError> {
        sev::command(&self.vm, self.kept.psp.as_ref(), command)
    }

    fn snp_launch_update(&self, update: &mut SnpUpdate<'_>) -> Result<(), CallError> {
        sev::update(&self.vm, self.kept.psp.as_ref(), update)
    }
}

impl KvmVm {
    fn enable(&self, capability: u32, argument: u64, name: &'static str) -> Result<(), CallError> {
        let request = kvm_enable_cap { cap: capability, args: [argument, 0, 0, 0], ..Default::default() };
        self.vm.enable_cap(&request).map_err(failed("KVM_ENABLE_CAP", format_args!("{name}, {argument:#x}")))
    }
}

fn from_kvm_cpuid(entry: &kvm_cpuid_entry2) -> CpuidEntry {
    CpuidEntry {
        leaf: entry.function,
        subleaf: (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0).then_some(entry.index),
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    }
}

fn to_kvm_cpuid(entries: &[CpuidEntry]) -> Result<CpuId, CallError> {
    let raw: Vec<_> = entries
        .iter()
        .map(|entry| kvm_cpuid_entry2 {
            function: entry.leaf,
            index: entry.subleaf.unwrap_or(0),
            flags: entry.subleaf.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
            ..Default::default()
        })
        .collect();
    let too_many = |_| {
        let argument = format_args!("{} entries", raw.len());
        CallError::new("KVM_SET_CPUID2", argument, rustix::io::Errno::TOOBIG.raw_os_error())
    };
    CpuId::from_entries(&raw).map_err(too_many)
}
