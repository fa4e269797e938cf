//! What `kvm-bindings` 0.14 and `rustix` 1.1 lack of the kernel's user-space interface.
//!
//! Values from Linux 7.2 `include/uapi/linux/{kvm,kvm_para,mman,psp-sev}.h`,
//! `arch/x86/include/uapi/asm/kvm.h` and `arch/x86/entry/syscalls/syscall_64.tbl`.
//! `tests/lab/tests/headers` compares them with the kernel's own headers; new ones belong into `testing::abi`.

use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr};

// `kvm-ioctls` has it for vCPUs only; the number is the same.
ioctl_io_nr!(KVM_GET_TSC_KHZ, kvm_bindings::KVMIO, 0xa3);

/// `KVM_CREATE_GUEST_MEMFD`: the file can be mapped (Linux 6.18).
pub(crate) const GUEST_MEMFD_FLAG_MMAP: u64 = 1 << 0;
/// `KVM_CREATE_GUEST_MEMFD`: its pages start out shared with the host (Linux 6.18).
pub(crate) const GUEST_MEMFD_FLAG_INIT_SHARED: u64 = 1 << 1;
/// The hypercall a guest asks for a conversion with, and its bit in `KVM_CAP_EXIT_HYPERCALL`.
pub(crate) const KVM_HC_MAP_GPA_RANGE: u32 = 12;

/// `KVM_SEV_SNP_ENABLE_REQ_CERTS`, a command of `KVM_MEMORY_ENCRYPT_OP` (Linux 7.0).
pub(crate) const KVM_SEV_SNP_ENABLE_REQ_CERTS: u32 = 103;
/// `KVM_EXIT_SNP_REQ_CERTS` (Linux 7.0).
pub(crate) const KVM_EXIT_SNP_REQ_CERTS: u32 = 43;

/// Its part of `struct kvm_run`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SnpReqCerts {
    pub gpa: u64,
    pub npages: u64,
    pub ret: u64,
}

// `kvm-ioctls` 0.25 has the structure but not the call.
ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, kvm_bindings::KVMIO, 0xd5, kvm_bindings::kvm_pre_fault_memory);

// `kvm-ioctls` has these for VMs and vCPUs; KVM itself takes them too. The kernel writes to what the structure names.
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, kvm_bindings::KVMIO, 0xe2, kvm_bindings::kvm_device_attr);
ioctl_iow_nr!(KVM_HAS_DEVICE_ATTR, kvm_bindings::KVMIO, 0xe3, kvm_bindings::kvm_device_attr);

/// The group of attributes of KVM itself that are about SEV (Linux 6.10).
pub(crate) const KVM_X86_GRP_SEV: u32 = 1;
/// Features that vCPUs of SEV guests can have (Linux 6.10).
pub(crate) const KVM_X86_SEV_VMSA_FEATURES: u32 = 0;
/// Bits that an SNP guest's policy may have (Linux 6.19).
pub(crate) const KVM_X86_SNP_POLICY_BITS: u32 = 1;
/// Whether `KVM_SEV_SNP_ENABLE_REQ_CERTS` is there (Linux 7.0).
pub(crate) const KVM_X86_SEV_SNP_REQ_CERTS: u32 = 2;

// A command of the PSP's device.
ioctl_iowr_nr!(SEV_ISSUE_CMD, b'S' as u32, 0x0, SevIssueCmd);
/// Asks what SNP's firmware is and does (Linux 6.9).
pub(crate) const SNP_PLATFORM_STATUS: u32 = 9;

/// `struct sev_issue_cmd`.
#[repr(C, packed)]
pub(crate) struct SevIssueCmd {
    pub cmd: u32,
    pub data: u64,
    pub error: u32,
}

/// `struct sev_user_data_snp_status`, as it comes.
pub(crate) type SnpStatus = [u8; 32];

/// `cachestat`: how much of a file is in the page cache (Linux 6.5). For a guest_memfd that is all it has allocated;
/// `st_blocks` is always 0 there.
pub(crate) const SYS_CACHESTAT: libc::c_long = 451;

/// `kcmp`: whether two descriptors are one open file (Linux `include/uapi/linux/kcmp.h`).
pub(crate) const KCMP_FILE: libc::c_int = 0;

/// `struct cachestat_range`.
#[repr(C)]
pub(crate) struct CacheStatRange {
    pub offset: u64,
    pub len: u64,
}

/// `struct cachestat`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct CacheStat {
    pub cached_pages: u64,
    pub dirty_pages: u64,
    pub writeback_pages: u64,
    pub evicted_pages: u64,
    pub recently_evicted_pages: u64,
}

const _: () = assert!(size_of::<CacheStatRange>() == 16 && size_of::<CacheStat>() == 40);
