//! The errnos the kernel has for each call of the port.
//!
//! Specification: Linux 7.2, `Documentation/virt/kvm/api.rst` and the functions named at each call.

use rustix::io::Errno;

use super::fault::PortCall;

/// What the kernel can answer.
pub const fn of(call: PortCall) -> &'static [Errno] {
    match call {
        // `kvm_dev_ioctl_create_vm`; EBUSY: virtualisation cannot be enabled.
        PortCall::CreateVm => &[Errno::INVAL, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::BUSY],
        PortCall::SupportedCpuid => &[Errno::TOOBIG, Errno::NOMEM, Errno::FAULT],
        // `kvm_gmem_create`; EPERM: a security module's veto.
        PortCall::CreateGmem => {
            &[Errno::INVAL, Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOENT, Errno::PERM, Errno::IO]
        }
        // `kvm_set_memory_region`, `kvm_gmem_bind`.
        PortCall::CreateSlot => &[Errno::INVAL, Errno::EXIST, Errno::BADF, Errno::NOMEM, Errno::IO, Errno::FAULT],
        PortCall::DeleteSlot => &[Errno::INVAL, Errno::NOMEM, Errno::IO, Errno::FAULT],
        // `kvm_vm_ioctl_set_mem_attributes`; the last two are none of its own: what an unknown errno means.
        PortCall::SetOwner => &[Errno::INVAL, Errno::NOMEM, Errno::IO, Errno::FAULT, Errno::INTR, Errno::AGAIN],
        PortCall::EnableConversionRequests => &[Errno::INVAL, Errno::IO, Errno::FAULT],
        PortCall::TscKhz => &[Errno::INVAL, Errno::IO],
        PortCall::TrapMsrs => &[Errno::INVAL, Errno::NOMEM, Errno::IO, Errno::FAULT],
        PortCall::CreateInterruptController => &[Errno::INVAL, Errno::EXIST, Errno::NOMEM, Errno::IO],
        PortCall::SetIrqLine => &[Errno::INVAL, Errno::NXIO, Errno::IO, Errno::FAULT],
        PortCall::CreateVcpu => {
            &[Errno::INVAL, Errno::EXIST, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::BUSY, Errno::IO]
        }
        // `kvm_gmem_fallocate` and what the VFS checks before it.
        PortCall::Discard => &[Errno::INVAL, Errno::BADF, Errno::INTR, Errno::IO, Errno::NOMEM],
        PortCall::Allocated => &[Errno::BADF, Errno::FAULT, Errno::OPNOTSUPP, Errno::NOSYS],
        // `sev_guest_init`, `snp_launch_start`, `snp_launch_update`, `snp_launch_finish`.
        PortCall::SnpInit => {
            &[Errno::INVAL, Errno::BUSY, Errno::NOTTY, Errno::IO, Errno::NOMEM, Errno::PERM, Errno::FAULT]
        }
        PortCall::SnpEnableCertificateRequests => &[Errno::INVAL, Errno::NOTTY, Errno::IO],
        PortCall::SnpLaunchStart => &[Errno::NOTTY, Errno::INVAL, Errno::IO, Errno::BADF, Errno::NOMEM, Errno::FAULT],
        PortCall::SnpLaunchUpdate => &[Errno::INVAL, Errno::IO, Errno::NOTTY, Errno::FAULT],
        PortCall::SnpLaunchFinish => &[Errno::INVAL, Errno::BUSY, Errno::IO, Errno::NOMEM, Errno::BADF, Errno::FAULT],
        // `kvm_vcpu_pre_fault_memory`.
        PortCall::Prefault => {
            &[Errno::INVAL, Errno::OPNOTSUPP, Errno::NOENT, Errno::FAULT, Errno::AGAIN, Errno::INTR, Errno::IO]
        }
        PortCall::SetCpuid => &[Errno::INVAL, Errno::TOOBIG, Errno::NOMEM, Errno::FAULT, Errno::IO],
        PortCall::SetInitialState => &[Errno::INVAL, Errno::NOMEM, Errno::FAULT, Errno::IO],
        // `kvm_arch_vcpu_ioctl_run`, and what `kvm_gmem_get_pfn` adds.
        PortCall::Run | PortCall::CompleteExit => {
            &[Errno::INVAL, Errno::FAULT, Errno::IO, Errno::NOMEM, Errno::NOENT, Errno::BADF, Errno::HWPOISON]
        }
    }
}

/// Whether this errno says that nothing was done: an error after the effect would be a kernel that lies.
///
/// Attributes: all errors are returned before the first one is stored. What becomes of a page rests on that.
pub fn proves_no_effect(call: PortCall, errno: Errno) -> bool {
    let unknown = [Errno::INTR, Errno::AGAIN];
    call == PortCall::SetOwner && !unknown.contains(&errno)
}

/// Whether this is a call on a VM or vCPU, which a dead VM answers with EIO.
pub const fn dies_with_the_vm(call: PortCall) -> bool {
    !matches!(
        call,
        PortCall::CreateVm
            | PortCall::SupportedCpuid
            | PortCall::Discard
            | PortCall::Allocated
            | PortCall::SetCpuid
            | PortCall::SetInitialState
            | PortCall::CompleteExit
    )
}
