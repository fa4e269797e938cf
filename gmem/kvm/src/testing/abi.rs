//! What this crate believes of the kernel's structures and numbers, as a table.
//!
//! Owns the table: every structure and number that is passed to a kernel for guest memory and for SNP, whether
//! `kvm-bindings` has it or we do, and since which Linux it is there. Does not own the comparison with what a C compiler
//! makes of the kernel's headers: that is `tests/lab/tests/headers`.
//!
//! Specification: Linux 7.2 `include/uapi/linux/{kvm,psp-sev,mman,kcmp}.h` and `arch/x86/include/uapi/asm/kvm.h`; the versions are
//! of the releases in which each name first was there.

use std::mem::{offset_of, size_of};

use kvm_bindings as kvm;

use crate::port::snp::SnpPageType;
use crate::uapi;

/// A release of Linux: major and minor.
pub type Since = (u32, u32);

/// What a belief is about: what one kernel has it has as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// VMs and vCPUs of every kind.
    Vms,
    /// Private memory, and what tells how much of it there is.
    PrivateMemory,
    /// SNP.
    Snp,
    /// What came to SNP later: requests for certificates, and what a policy may have.
    Certificates,
    /// What came to guest_memfd later: files that can be mapped.
    MappableMemory,
}

/// A structure.
#[derive(Debug)]
pub struct Structure {
    /// As C names it.
    pub name: &'static str,
    /// Its part of the table.
    pub subject: Subject,
    /// The first kernel that has it.
    pub since: Since,
    /// Bytes.
    pub size: usize,
    /// Its fields.
    pub fields: Vec<Field>,
}

/// A field of a structure.
#[derive(Debug)]
pub struct Field {
    /// As C names it.
    pub name: &'static str,
    /// Bytes before it.
    pub offset: usize,
    /// Bytes of it; none for those whose size is not ours to believe.
    pub size: Option<usize>,
}

/// A number.
#[derive(Debug)]
pub struct Number {
    /// As C names it.
    pub name: &'static str,
    /// Its part of the table.
    pub subject: Subject,
    /// The first kernel that has it.
    pub since: Since,
    /// Its value.
    pub value: u64,
}

/// Bytes of the field that `of` returns. By value, because there are no references to fields of a packed structure.
fn size_at<T, F: Copy>(_: fn(&T) -> F) -> usize {
    size_of::<F>()
}

/// A structure of Rust with fields of the same names, or `c_name = rust_name`.
macro_rules! structure {
    ($subject:ident, $since:expr, $name:literal, $type:ty, [$($field:tt $(= $rust:ident)?),* $(,)?]) => {
        Structure {
            name: $name,
            subject: Subject::$subject,
            since: $since,
            size: size_of::<$type>(),
            fields: vec![$(structure!(@field $type, $field $(, $rust)?)),*],
        }
    };
    (@field $type:ty, $field:ident) => { structure!(@field $type, $field, $field) };
    (@field $type:ty, $field:tt, $rust:ident) => {
        Field {
            name: stringify!($field),
            offset: offset_of!($type, $rust),
            size: Some(size_at(|value: &$type| value.$rust)),
        }
    };
}

/// Every structure.
pub fn structures() -> Vec<Structure> {
    let mut structures = vec![
        structure!(Vms, (2, 6), "struct kvm_enable_cap", kvm::kvm_enable_cap, [cap, flags, args, pad]),
        structure!(
            Vms,
            (2, 6),
            "struct kvm_cpuid_entry2",
            kvm::kvm_cpuid_entry2,
            [function, index, flags, eax, ebx, ecx, edx, padding]
        ),
        structure!(Vms, (2, 6), "struct kvm_regs", kvm::kvm_regs, [rdx, rdi, rip, rflags]),
        structure!(
            Vms,
            (2, 6),
            "struct kvm_sregs",
            kvm::kvm_sregs,
            [cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt, cr0, cr3, cr4, efer]
        ),
        structure!(Vms, (2, 6), "struct kvm_device_attr", kvm::kvm_device_attr, [flags, group, attr, addr]),
        structure!(PrivateMemory, (6, 5), "struct cachestat_range", uapi::CacheStatRange, [off = offset, len]),
        structure!(
            PrivateMemory,
            (6, 5),
            "struct cachestat",
            uapi::CacheStat,
            [
                nr_cache = cached_pages,
                nr_dirty = dirty_pages,
                nr_writeback = writeback_pages,
                nr_evicted = evicted_pages,
                nr_recently_evicted = recently_evicted_pages
            ]
        ),
        structure!(
            PrivateMemory,
            (6, 8),
            "struct kvm_memory_attributes",
            kvm::kvm_memory_attributes,
            [address, size, attributes, flags]
        ),
        structure!(
            PrivateMemory,
            (6, 8),
            "struct kvm_create_guest_memfd",
            kvm::kvm_create_guest_memfd,
            [size, flags, reserved]
        ),
        structure!(
            PrivateMemory,
            (6, 8),
            "struct kvm_userspace_memory_region2",
            kvm::kvm_userspace_memory_region2,
            [slot, flags, guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset, guest_memfd, pad1, pad2]
        ),
        structure!(
            PrivateMemory,
            (6, 11),
            "struct kvm_pre_fault_memory",
            kvm::kvm_pre_fault_memory,
            [gpa, size, flags, padding]
        ),
        structure!(
            Snp,
            (6, 10),
            "struct kvm_sev_init",
            kvm::kvm_sev_init,
            [vmsa_features, flags, ghcb_version, pad1, pad2]
        ),
        structure!(
            Snp,
            (6, 11),
            "struct kvm_sev_snp_launch_start",
            kvm::kvm_sev_snp_launch_start,
            [policy, gosvw, flags, pad0, pad1]
        ),
        structure!(Snp, (6, 11), "struct kvm_sev_snp_launch_update", kvm::kvm_sev_snp_launch_update, [
            gfn_start, uaddr, len, type = type_, pad0, flags, pad1, pad2
        ]),
        structure!(
            Snp,
            (6, 11),
            "struct kvm_sev_snp_launch_finish",
            kvm::kvm_sev_snp_launch_finish,
            [id_block_uaddr, id_auth_uaddr, id_block_en, auth_key_en, vcek_disabled, host_data, pad0, flags, pad1]
        ),
        structure!(Vms, (4, 16), "struct kvm_sev_cmd", kvm::kvm_sev_cmd, [id, data, error, sev_fd]),
        structure!(Snp, (4, 16), "struct sev_issue_cmd", uapi::SevIssueCmd, [cmd, data, error]),
        Structure {
            name: "struct sev_user_data_snp_status",
            subject: Subject::Snp,
            since: (6, 9),
            size: size_of::<uapi::SnpStatus>(),
            // Where `snp::platform` reads them; bits have no offset in C.
            fields: [
                ("api_major", 0, 1),
                ("api_minor", 1, 1),
                ("state", 2, 1),
                ("build_id", 4, 4),
                ("guest_count", 12, 4),
                ("current_tcb_version", 16, 8),
                ("reported_tcb_version", 24, 8),
            ]
            .map(|(name, offset, size)| Field { name, offset, size: Some(size) })
            .into(),
        },
        structure!(Certificates, (7, 0), "struct kvm_exit_snp_req_certs", uapi::SnpReqCerts, [gpa, npages, ret]),
    ];
    structures.extend(run());
    structures
}

/// What an exit says, by the kernel's names: where it is in `struct kvm_run`, which only grows within its union.
fn run() -> [Structure; 3] {
    macro_rules! arms {
        ($($arm:ident [$($field:tt),*]),*) => {
            [$($(Field {
                name: concat!(stringify!($arm), ".", stringify!($field)),
                offset: offset_of!(kvm::kvm_run, __bindgen_anon_1.$arm.$field),
                size: None,
            }),*),*]
        };
    }
    let part = |subject, since, fields| Structure {
        name: "struct kvm_run",
        subject,
        since,
        size: size_of::<kvm::kvm_run>(),
        fields,
    };
    let mut common = vec![
        Field { name: "immediate_exit", offset: offset_of!(kvm::kvm_run, immediate_exit), size: Some(1) },
        Field { name: "exit_reason", offset: offset_of!(kvm::kvm_run, exit_reason), size: Some(4) },
        Field {
            name: "system_event.type",
            offset: offset_of!(kvm::kvm_run, __bindgen_anon_1.system_event.type_),
            size: Some(4),
        },
        Field {
            name: "system_event.data",
            offset: offset_of!(kvm::kvm_run, __bindgen_anon_1.system_event.__bindgen_anon_1.data),
            size: None,
        },
    ];
    common.extend(arms! {
        io [size, port, count, data_offset],
        mmio [phys_addr, data, len, is_write],
        hypercall [nr, args, ret],
        msr [error, index, data],
        internal [suberror, ndata, data],
        system_event [ndata],
        fail_entry [hardware_entry_failure_reason, cpu]
    });
    let fault = arms! { memory_fault [flags, gpa, size] };
    // `kvm-bindings` lacks this arm: it is read from where the union begins.
    let arm = offset_of!(kvm::kvm_run, __bindgen_anon_1);
    let certificates = [
        ("snp_req_certs.gpa", offset_of!(uapi::SnpReqCerts, gpa)),
        ("snp_req_certs.npages", offset_of!(uapi::SnpReqCerts, npages)),
        ("snp_req_certs.ret", offset_of!(uapi::SnpReqCerts, ret)),
    ]
    .map(|(name, within)| Field { name, offset: arm + within, size: Some(8) });
    [
        part(Subject::Vms, (6, 0), common),
        part(Subject::PrivateMemory, (6, 8), fault.into()),
        part(Subject::Certificates, (7, 0), certificates.into()),
    ]
}

/// Every number.
pub fn numbers() -> Vec<Number> {
    macro_rules! numbers {
        ($($subject:ident $since:tt: $($name:ident = $value:expr),* $(,)?;)*) => {
            vec![$($(Number {
                name: stringify!($name),
                subject: Subject::$subject,
                since: $since,
                value: u64::from($value),
            }),*),*]
        };
    }
    numbers! {
        Vms (2, 6):
            KVM_EXIT_IO = kvm::KVM_EXIT_IO,
            KVM_EXIT_HYPERCALL = kvm::KVM_EXIT_HYPERCALL,
            KVM_EXIT_MMIO = kvm::KVM_EXIT_MMIO,
            KVM_EXIT_SHUTDOWN = kvm::KVM_EXIT_SHUTDOWN,
            KVM_EXIT_FAIL_ENTRY = kvm::KVM_EXIT_FAIL_ENTRY,
            KVM_EXIT_INTERNAL_ERROR = kvm::KVM_EXIT_INTERNAL_ERROR,
            KVM_EXIT_SYSTEM_EVENT = kvm::KVM_EXIT_SYSTEM_EVENT;
        Vms (5, 10):
            KVM_EXIT_X86_RDMSR = kvm::KVM_EXIT_X86_RDMSR,
            KVM_EXIT_X86_WRMSR = kvm::KVM_EXIT_X86_WRMSR,
            KVM_CAP_X86_USER_SPACE_MSR = kvm::KVM_CAP_X86_USER_SPACE_MSR,
            KVM_CAP_X86_MSR_FILTER = kvm::KVM_CAP_X86_MSR_FILTER;
        Vms (5, 14):
            KVM_EXIT_AP_RESET_HOLD = kvm::KVM_EXIT_AP_RESET_HOLD,
            KVM_CAP_EXIT_HYPERCALL = kvm::KVM_CAP_EXIT_HYPERCALL,
            KVM_HC_MAP_GPA_RANGE = uapi::KVM_HC_MAP_GPA_RANGE;
        Vms (6, 0):
            KVM_SYSTEM_EVENT_SEV_TERM = kvm::KVM_SYSTEM_EVENT_SEV_TERM;
        Vms (3, 5):
            KCMP_FILE = uapi::KCMP_FILE.unsigned_abs();
        PrivateMemory (6, 5):
            __NR_cachestat = uapi::SYS_CACHESTAT.unsigned_abs();
        PrivateMemory (6, 8):
            KVM_EXIT_MEMORY_FAULT = kvm::KVM_EXIT_MEMORY_FAULT,
            KVM_MEMORY_EXIT_FLAG_PRIVATE = kvm::KVM_MEMORY_EXIT_FLAG_PRIVATE,
            KVM_MEM_GUEST_MEMFD = kvm::KVM_MEM_GUEST_MEMFD,
            KVM_MEMORY_ATTRIBUTE_PRIVATE = kvm::KVM_MEMORY_ATTRIBUTE_PRIVATE,
            KVM_CAP_USER_MEMORY2 = kvm::KVM_CAP_USER_MEMORY2,
            KVM_CAP_MEMORY_FAULT_INFO = kvm::KVM_CAP_MEMORY_FAULT_INFO,
            KVM_CAP_MEMORY_ATTRIBUTES = kvm::KVM_CAP_MEMORY_ATTRIBUTES,
            KVM_CAP_GUEST_MEMFD = kvm::KVM_CAP_GUEST_MEMFD,
            KVM_CAP_VM_TYPES = kvm::KVM_CAP_VM_TYPES,
            KVM_X86_SW_PROTECTED_VM = crate::port::VmType::SwProtected.raw();
        PrivateMemory (6, 11):
            KVM_CAP_PRE_FAULT_MEMORY = kvm::KVM_CAP_PRE_FAULT_MEMORY,
            KVM_PRE_FAULT_MEMORY = uapi::KVM_PRE_FAULT_MEMORY();
        Vms (2, 6):
            KVM_GET_DEVICE_ATTR = uapi::KVM_GET_DEVICE_ATTR(),
            KVM_HAS_DEVICE_ATTR = uapi::KVM_HAS_DEVICE_ATTR(),
            KVM_GET_TSC_KHZ = uapi::KVM_GET_TSC_KHZ(),
            SEV_ISSUE_CMD = uapi::SEV_ISSUE_CMD();
        Snp (6, 9):
            SNP_PLATFORM_STATUS = uapi::SNP_PLATFORM_STATUS;
        Snp (6, 10):
            KVM_X86_GRP_SEV = uapi::KVM_X86_GRP_SEV,
            KVM_X86_SEV_VMSA_FEATURES = uapi::KVM_X86_SEV_VMSA_FEATURES,
            KVM_SEV_INIT2 = kvm::sev_cmd_id_KVM_SEV_INIT2;
        Snp (6, 11):
            KVM_X86_SNP_VM = crate::port::VmType::Snp.raw(),
            KVM_SEV_SNP_LAUNCH_START = kvm::sev_cmd_id_KVM_SEV_SNP_LAUNCH_START,
            KVM_SEV_SNP_LAUNCH_UPDATE = kvm::sev_cmd_id_KVM_SEV_SNP_LAUNCH_UPDATE,
            KVM_SEV_SNP_LAUNCH_FINISH = kvm::sev_cmd_id_KVM_SEV_SNP_LAUNCH_FINISH,
            KVM_SEV_SNP_PAGE_TYPE_NORMAL = SnpPageType::Normal as u8,
            KVM_SEV_SNP_PAGE_TYPE_ZERO = SnpPageType::Zero as u8,
            KVM_SEV_SNP_PAGE_TYPE_UNMEASURED = SnpPageType::Unmeasured as u8,
            KVM_SEV_SNP_PAGE_TYPE_SECRETS = SnpPageType::Secrets as u8,
            KVM_SEV_SNP_PAGE_TYPE_CPUID = SnpPageType::Cpuid as u8;
        MappableMemory (6, 18):
            GUEST_MEMFD_FLAG_MMAP = uapi::GUEST_MEMFD_FLAG_MMAP,
            GUEST_MEMFD_FLAG_INIT_SHARED = uapi::GUEST_MEMFD_FLAG_INIT_SHARED,
            KVM_CAP_GUEST_MEMFD_FLAGS = crate::probe::KVM_CAP_GUEST_MEMFD_FLAGS;
        Certificates (6, 19):
            KVM_X86_SNP_POLICY_BITS = uapi::KVM_X86_SNP_POLICY_BITS;
        Certificates (7, 0):
            KVM_X86_SEV_SNP_REQ_CERTS = uapi::KVM_X86_SEV_SNP_REQ_CERTS,
            KVM_SEV_SNP_ENABLE_REQ_CERTS = uapi::KVM_SEV_SNP_ENABLE_REQ_CERTS,
            KVM_EXIT_SNP_REQ_CERTS = uapi::KVM_EXIT_SNP_REQ_CERTS;
    }
}
