//! What a host's KVM and its secure processor say of SNP before there is a guest.
//!
//! Owns the device attributes of KVM itself, and the one command of the PSP's device that changes nothing. What the
//! answers mean is `snp`'s. Specification: Linux `Documentation/virt/kvm/api.rst`, `KVM_GET_DEVICE_ATTR`;
//! `include/uapi/linux/psp-sev.h` (7.2).

use std::fs::File;
use std::io;
use std::path::Path;

use kvm_bindings::kvm_device_attr;
use kvm_ioctls::Kvm;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};

use crate::uapi::{self, SevIssueCmd, SnpStatus};

/// An attribute of KVM itself in the group of SEV; none if this kernel does not know it.
pub(crate) fn sev_attribute(kvm: &Kvm, attribute: u32) -> Option<u64> {
    let mut value = 0u64;
    let request = kvm_device_attr {
        flags: 0,
        group: uapi::KVM_X86_GRP_SEV,
        attr: u64::from(attribute),
        addr: (&raw mut value) as u64,
    };
    // SAFETY: the call reads the structure, which lives until it returns, and nothing it names.
    let known = unsafe { ioctl_with_ref(kvm, uapi::KVM_HAS_DEVICE_ATTR(), &request) };
    if known != 0 {
        return None;
    }
    // SAFETY: every attribute of this group is 64 bits, and the call writes them to `value`, which lives until it
    // returns and is not looked at before.
    let got = unsafe { ioctl_with_ref(kvm, uapi::KVM_GET_DEVICE_ATTR(), &request) };
    (got == 0).then_some(value)
}

/// `SNP_PLATFORM_STATUS` of the PSP behind the device at `path`. The kernel wants the device readable for it, no more.
/// The error is the system's, and what the firmware answered.
pub(crate) fn snp_status(path: &Path) -> Result<SnpStatus, (io::Error, Option<u32>)> {
    let psp = File::open(path).map_err(|error| (error, None))?;
    let mut status = [0; size_of::<SnpStatus>()];
    let mut command = SevIssueCmd { cmd: uapi::SNP_PLATFORM_STATUS, data: status.as_mut_ptr() as u64, error: 0 };
    // SAFETY: the structure is the one this call takes; for this command the kernel writes 32 bytes to what it names.
    // Both live until the call returns.
    let result = unsafe { ioctl_with_mut_ref(&psp, uapi::SEV_ISSUE_CMD(), &mut command) };
    if result == 0 {
        return Ok(status);
    }
    let error = io::Error::last_os_error();
    let answered = command.error;
    Err((error, Some(answered).filter(|code| *code != 0)))
}
