//! The guest on the least VMM there can be: KVM's primitives and nothing else.
//!
//! What it leaves out is what `tenure` adds: no ledger, no devices that could be touching a page, no serialisation, no
//! check of what the guest asks, one thread. What it does for a conversion is what any VMM must: set the attribute, free
//! the losing side's page. Everything else is as `tenure` has it: VM type, one guest_memfd, one memfd behind RAM's
//! shared side, interrupt controller in the kernel.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use gmem::{ByteLen, PAGE_SIZE, layout};
use kvm_bindings::{
    KVM_CAP_EXIT_HYPERCALL, KVM_MAX_CPUID_ENTRIES, KVM_MEM_GUEST_MEMFD, KVM_MEMORY_ATTRIBUTE_PRIVATE,
    KVM_X86_SW_PROTECTED_VM, kvm_create_guest_memfd, kvm_enable_cap, kvm_memory_attributes, kvm_regs, kvm_segment,
    kvm_userspace_memory_region2,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};
use x86::controlregs::{Cr0, Cr4};

use crate::stub::{self, REPORT_BYTES, Work};

/// The guest's RAM.
pub(crate) const RAM: ByteLen = ByteLen(64 << 20);
/// Shared memory for the code and the page tables, below 4 GiB.
const STAGING: u64 = 1 << 30;
const STAGING_BYTES: u64 = 64 << 10;
const TABLES: u64 = 0x1000;
const KVM_HC_MAP_GPA_RANGE: u64 = 12;
const ENCRYPTED: u64 = 1 << 4;

/// Memory of this process and the file it is of.
struct Memory {
    file: Arc<std::fs::File>,
    mapping: MmapRegion,
}

impl Memory {
    fn new(bytes: u64) -> Result<Self> {
        let file = std::fs::File::from(memfd_create("floor", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, bytes)?;
        let offset = FileOffset::new(file, 0);
        let file = Arc::clone(offset.arc());
        let mapping = MmapRegion::from_file(offset, usize::try_from(bytes)?)?;
        Ok(Self { file, mapping })
    }
}

/// Runs the guest; returns its report.
pub(crate) fn run(work: Work) -> Result<u64> {
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm_with_type(u64::from(KVM_X86_SW_PROTECTED_VM))?;
    let gmem = vm.create_guest_memfd(kvm_create_guest_memfd { size: RAM.0, ..Default::default() })?;
    #[expect(unsafe_code, reason = "the kernel returns a bare number")]
    // SAFETY: the descriptor was just made by this call, and nobody else owns it.
    let gmem = unsafe { OwnedFd::from_raw_fd(gmem) };
    let (ram, staging) = (Memory::new(RAM.0)?, Memory::new(STAGING_BYTES)?);
    add_slot(&vm, 0, 0, &ram, Some(&gmem))?;
    add_slot(&vm, 1, STAGING, &staging, None)?;
    set_owner(&vm, 0, RAM.0, true)?;
    let cap = kvm_enable_cap {
        cap: KVM_CAP_EXIT_HYPERCALL,
        args: [1 << KVM_HC_MAP_GPA_RANGE, 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&cap)?;
    vm.create_irq_chip()?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    start_at(&vcpu, &staging, &stub::code(work))?;

    let mut report = Vec::new();
    loop {
        match vcpu.run()? {
            VcpuExit::Hypercall(call) => {
                ensure!(call.nr == KVM_HC_MAP_GPA_RANGE, "hypercall {}", call.nr);
                let (gpa, bytes) = (call.args[0], call.args[1] * PAGE_SIZE);
                let private = call.args[2] & ENCRYPTED != 0;
                *call.ret = 0;
                set_owner(&vm, gpa, bytes, private)?;
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                match private {
                    true => fallocate(&*ram.file, punch, gpa, bytes)?,
                    false => fallocate(&gmem, punch, gpa, bytes)?,
                }
            }
            VcpuExit::IoOut(layout::SERIAL_PORT, data) => report.extend_from_slice(data),
            VcpuExit::IoOut(layout::DOORBELL_PORT, _) => break,
            other => bail!("exit {other:?}"),
        }
    }
    let report: [u8; REPORT_BYTES] = report.as_slice().try_into().context("the guest's report")?;
    Ok(u64::from_le_bytes(report))
}

fn add_slot(vm: &VmFd, slot: u32, gpa: u64, memory: &Memory, gmem: Option<&OwnedFd>) -> Result<()> {
    let mut region = kvm_userspace_memory_region2 {
        slot,
        guest_phys_addr: gpa,
        memory_size: memory.mapping.size() as u64,
        userspace_addr: memory.mapping.as_ptr() as u64,
        ..Default::default()
    };
    if let Some(gmem) = gmem {
        region.flags = KVM_MEM_GUEST_MEMFD;
        region.guest_memfd = u32::try_from(gmem.as_raw_fd())?;
    }
    #[expect(unsafe_code, reason = "the kernel is given an address of ours")]
    // SAFETY: address and size are those of a mapping that lives as long as the guest can run: until `run` returns.
    let added = unsafe { vm.set_user_memory_region2(region) };
    Ok(added?)
}

fn set_owner(vm: &VmFd, address: u64, size: u64, private: bool) -> Result<()> {
    let attributes = if private { u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE) } else { 0 };
    Ok(vm.set_memory_attributes(kvm_memory_attributes { address, size, attributes, flags: 0 })?)
}

/// Puts code and page tables into staging, and the vCPU into 64-bit mode at the code.
fn start_at(vcpu: &VcpuFd, staging: &Memory, code: &[u8]) -> Result<()> {
    let memory = staging.mapping.as_volatile_slice();
    memory.write_slice(code, 0)?;
    // One to one: a PML4, a PDPT, and directories of 2 MiB pages for 4 GiB.
    let table = |number: u64| STAGING + TABLES + number * PAGE_SIZE;
    let mut entries = vec![(0u64, 0u64, table(1) | 0b11)];
    for gigabyte in 0..4 {
        entries.push((1, gigabyte, table(2 + gigabyte) | 0b11));
        entries.extend((0..512).map(|entry| (2 + gigabyte, entry, (gigabyte << 30 | entry << 21) | 0b1110_0011)));
    }
    for (number, entry, value) in entries {
        let offset = usize::try_from(table(number) - STAGING + entry * 8)?;
        memory.write_obj(value, offset)?;
    }
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs = kvm_segment { selector: 0x10, type_: 0b1011, l: 1, ..flat };
    let data = kvm_segment { selector: 0x18, type_: 0b0011, db: 1, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    let cr0 = Cr0::CR0_PROTECTED_MODE | Cr0::CR0_EXTENSION_TYPE | Cr0::CR0_ENABLE_PAGING;
    (sregs.cr0, sregs.cr3, sregs.cr4) = (cr0.bits() as u64, table(0), Cr4::CR4_ENABLE_PAE.bits() as u64);
    sregs.efer = 1 << 8 | 1 << 10;
    vcpu.set_sregs(&sregs)?;
    Ok(vcpu.set_regs(&kvm_regs { rip: STAGING, rflags: 2, ..Default::default() })?)
}
