//! What a host's KVM can do, asked without creating a VM.
//!
//! Owns the questions a host check needs answered and their answers as plain data ([`KvmFacts`], and what SNP firmware
//! says of itself). Not owned: what follows from them (`host`'s `check`), and what a created VM says of itself, which can
//! be less.
//!
//! Specification: Linux `Documentation/virt/kvm/api.rst`, `KVM_GET_API_VERSION` and `KVM_CHECK_EXTENSION`; values of
//! each capability in its chapter 7 and 8.

use crate::kvm::platform;
use crate::uapi;
use kvm_bindings as kvm;
use kvm_ioctls::Kvm;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where KVM is.
pub const DEV_KVM: &str = "/dev/kvm";

/// `kvm-bindings` 0.14 does not know it yet; Linux 6.18 brought it.
pub(crate) const KVM_CAP_GUEST_MEMFD_FLAGS: u32 = 244;

/// What KVM answers. A capability that kernel does not know is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvmFacts {
    /// `KVM_GET_API_VERSION`: 12 everywhere since 2007.
    pub api_version: u32,
    /// `KVM_CAP_VM_TYPES`: one bit for each type a VM can be created with.
    pub vm_types: u32,
    /// `KVM_CAP_GUEST_MEMFD`: nonzero if there is guest_memfd.
    pub guest_memfd: u32,
    /// `KVM_CAP_GUEST_MEMFD_FLAGS`: flags a guest_memfd can be created with, before any VM type takes some away.
    pub guest_memfd_flags: u32,
    /// `KVM_CAP_MEMORY_ATTRIBUTES`: attributes a VM of some type can give to memory; bit 3 is private.
    pub memory_attributes: u32,
    /// `KVM_CAP_USER_MEMORY2`: nonzero if memory slots can name a guest_memfd.
    pub user_memory2: u32,
    /// `KVM_CAP_MEMORY_FAULT_INFO`: nonzero if a failed access says where.
    pub memory_fault_info: u32,
    /// `KVM_CAP_EXIT_HYPERCALL`: one bit for each hypercall that can be passed on; bit 12 is `KVM_HC_MAP_GPA_RANGE`.
    pub exit_hypercall: u32,
    /// `KVM_CAP_PRE_FAULT_MEMORY`: nonzero if memory can be mapped ahead of its use.
    pub pre_fault_memory: u32,
    /// `KVM_CAP_IRQCHIP`: nonzero if interrupt controllers can be in the kernel.
    pub irqchip: u32,
    /// `KVM_CAP_X86_USER_SPACE_MSR`: nonzero if accesses to MSRs can be passed on.
    pub user_space_msr: u32,
    /// `KVM_CAP_X86_MSR_FILTER`: nonzero if MSRs can be filtered.
    pub msr_filter: u32,
    /// `KVM_CAP_MAX_VCPUS`: most vCPUs of a VM.
    pub max_vcpus: u32,
    /// `KVM_CAP_NR_MEMSLOTS`: most memory slots of a VM.
    pub memory_slots: u32,
    /// What it says of SEV.
    pub sev: SevFacts,
}

/// What KVM says of SEV, as attributes of its own. What that kernel does not know is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SevFacts {
    /// `KVM_X86_SEV_VMSA_FEATURES`: features that vCPUs can have, as bits of `SEV_FEATURES`.
    pub vmsa_features: Option<u64>,
    /// `KVM_X86_SNP_POLICY_BITS`: bits that an SNP guest's policy may have.
    pub policy_bits: Option<u64>,
    /// `KVM_X86_SEV_SNP_REQ_CERTS`: nonzero if guests' requests for certificates can be passed on.
    pub certificate_requests: Option<u64>,
}

/// Why the PSP does not say what SNP's firmware is and does.
#[derive(Debug, thiserror::Error)]
pub enum PspError {
    /// The firmware would not.
    #[error("SNP_PLATFORM_STATUS: the firmware answers {code:#x} ({source})")]
    Firmware {
        /// Its status.
        code: u32,
        /// What the system says.
        source: io::Error,
    },
    /// The system would not.
    #[error("SNP_PLATFORM_STATUS of {}: {source}", path.display())]
    System {
        /// The device.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

/// Why KVM answers nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no such file.
    #[error("`{}` does not exist", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// The file is there, but nobody behind it.
    #[error("`{}` has no driver behind it: {source}", path.display())]
    NoDriver {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// This user must not use it.
    #[error("`{}` may not be opened: {source}", path.display())]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It cannot be opened for some other reason.
    #[error("`{}` cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something else answers there.
    #[error("`{}` is not KVM: KVM_GET_API_VERSION returns {answer}, not {}", path.display(), kvm::KVM_API_VERSION)]
    NotKvm {
        /// The file.
        path: PathBuf,
        /// What it answers.
        answer: i32,
    },
}

/// Asks the KVM at `path`, usually [`DEV_KVM`].
pub fn probe(path: &Path) -> Result<KvmFacts, ProbeError> {
    let failed = |source| failed_open(path, source);
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    let kvm = Kvm::new_with_path(c_path).map_err(|errno| failed(errno.into()))?;
    let answer = kvm.get_api_version();
    let api_version = match u32::try_from(answer) {
        Ok(version @ kvm::KVM_API_VERSION) => version,
        _ => return Err(ProbeError::NotKvm { path: path.to_owned(), answer }),
    };
    // An error means what 0 means: not there.
    let ask = |capability: u32| u32::try_from(kvm.check_extension_raw(capability.into())).unwrap_or(0);
    Ok(KvmFacts {
        api_version,
        vm_types: ask(kvm::KVM_CAP_VM_TYPES),
        guest_memfd: ask(kvm::KVM_CAP_GUEST_MEMFD),
        guest_memfd_flags: ask(KVM_CAP_GUEST_MEMFD_FLAGS),
        memory_attributes: ask(kvm::KVM_CAP_MEMORY_ATTRIBUTES),
        user_memory2: ask(kvm::KVM_CAP_USER_MEMORY2),
        memory_fault_info: ask(kvm::KVM_CAP_MEMORY_FAULT_INFO),
        exit_hypercall: ask(kvm::KVM_CAP_EXIT_HYPERCALL),
        pre_fault_memory: ask(kvm::KVM_CAP_PRE_FAULT_MEMORY),
        irqchip: ask(kvm::KVM_CAP_IRQCHIP),
        user_space_msr: ask(kvm::KVM_CAP_X86_USER_SPACE_MSR),
        msr_filter: ask(kvm::KVM_CAP_X86_MSR_FILTER),
        max_vcpus: ask(kvm::KVM_CAP_MAX_VCPUS),
        memory_slots: ask(kvm::KVM_CAP_NR_MEMSLOTS),
        sev: SevFacts {
            vmsa_features: platform::sev_attribute(&kvm, uapi::KVM_X86_SEV_VMSA_FEATURES),
            policy_bits: platform::sev_attribute(&kvm, uapi::KVM_X86_SNP_POLICY_BITS),
            certificate_requests: platform::sev_attribute(&kvm, uapi::KVM_X86_SEV_SNP_REQ_CERTS),
        },
    })
}

/// `SNP_PLATFORM_STATUS` as the PSP at `path` answers it, usually `/dev/sev`: the 32 bytes are SNP firmware's.
pub fn snp_status(path: &Path) -> Result<[u8; 32], PspError> {
    platform::snp_status(path).map_err(|(source, firmware)| match firmware {
        Some(code) => PspError::Firmware { code, source },
        None => PspError::System { path: path.to_owned(), source },
    })
}

fn failed_open(path: &Path, source: io::Error) -> ProbeError {
    use rustix::io::Errno;
    let path = path.to_owned();
    match Errno::from_io_error(&source) {
        Some(Errno::NOENT) => ProbeError::Absent { path },
        Some(Errno::NXIO | Errno::NODEV) => ProbeError::NoDriver { path, source },
        Some(Errno::ACCESS | Errno::PERM) => ProbeError::Forbidden { path, source },
        _ => ProbeError::Open { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// no-silent-trust: what is not KVM is told apart, by name.
    #[test]
    fn no_silent_trust_what_is_not_kvm() {
        let message = |path: &str| probe(path.as_ref()).unwrap_err().to_string();
        assert_eq!(message("/nonexistent/kvm"), "`/nonexistent/kvm` does not exist");
        assert_eq!(message("/dev/null"), "`/dev/null` is not KVM: KVM_GET_API_VERSION returns -1, not 12");
        assert!(matches!(probe("/".as_ref()), Err(ProbeError::Open { .. })));
        assert!(message("a\0b").contains("cannot be opened"));
    }

    /// no-silent-trust: nor is what is not the PSP taken for it.
    #[test]
    fn no_silent_trust_what_is_not_the_psp() {
        for path in ["/nonexistent/sev", "/dev/null", "/"] {
            let error = snp_status(path.as_ref()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("SNP_PLATFORM_STATUS of {path}: ")), "{error}");
        }
    }

    #[test]
    fn open_failures_say_what_to_do_about_them() {
        use rustix::io::Errno;
        let of = |errno: Errno| failed_open("/dev/kvm".as_ref(), errno.into());
        assert!(matches!(of(Errno::ACCESS), ProbeError::Forbidden { .. }));
        assert!(matches!(of(Errno::PERM), ProbeError::Forbidden { .. }));
        assert!(matches!(of(Errno::NODEV), ProbeError::NoDriver { .. }));
        assert!(matches!(of(Errno::NXIO), ProbeError::NoDriver { .. }));
    }
}
