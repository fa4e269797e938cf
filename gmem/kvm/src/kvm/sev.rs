//! Commands to an SNP VM, and the PSP's device.
//!
//! Owns `KVM_MEMORY_ENCRYPT_OP` for SNP. Specification: Linux `Documentation/virt/kvm/x86/amd-memory-encryption.rst`
//! (7.2) and `arch/x86/include/uapi/asm/kvm.h`, whose structures `kvm-bindings` has; their reserved fields are zero.

use std::os::fd::{AsRawFd, OwnedFd};

use gmem::{PAGE_SIZE, PageCount};
use kvm_bindings::{
    kvm_sev_cmd, kvm_sev_init, kvm_sev_snp_launch_finish, kvm_sev_snp_launch_start, kvm_sev_snp_launch_update,
    sev_cmd_id_KVM_SEV_INIT2, sev_cmd_id_KVM_SEV_SNP_LAUNCH_FINISH, sev_cmd_id_KVM_SEV_SNP_LAUNCH_START,
    sev_cmd_id_KVM_SEV_SNP_LAUNCH_UPDATE,
};
use kvm_ioctls::VmFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::port::CallError;
use crate::port::snp::{AuthorKey, SnpCommand, SnpFinish, SnpPageType, SnpUpdate, Vcek};
use crate::uapi::KVM_SEV_SNP_ENABLE_REQ_CERTS;

/// The PSP's device.
const PSP: &str = "/dev/sev";

/// Opens it. The kernel wants it writable.
pub(super) fn open_psp() -> Result<OwnedFd, CallError> {
    rustix::fs::open(PSP, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| CallError::new("open", PSP, error.raw_os_error()))
}

/// Gives `vm` a command.
pub(super) fn command(vm: &VmFd, psp: Option<&OwnedFd>, command: SnpCommand<'_>) -> Result<(), CallError> {
    let channel = Channel::new(vm, psp, command.name())?;
    match command {
        SnpCommand::Init { vmsa_features } => {
            let mut init = kvm_sev_init { vmsa_features, ..Default::default() };
            channel.issue(sev_cmd_id_KVM_SEV_INIT2, &mut init, format_args!("features {vmsa_features:#x}"))
        }
        SnpCommand::EnableCertificateRequests => {
            let mut nothing = 0u64;
            channel.issue(KVM_SEV_SNP_ENABLE_REQ_CERTS, &mut nothing, "")
        }
        SnpCommand::LaunchStart { policy } => {
            let mut start = kvm_sev_snp_launch_start { policy, ..Default::default() };
            channel.issue(sev_cmd_id_KVM_SEV_SNP_LAUNCH_START, &mut start, format_args!("policy {policy:#x}"))
        }
        SnpCommand::LaunchFinish(finish) => channel.finish(finish),
    }
}

/// Populates pages of `vm`.
pub(super) fn update(vm: &VmFd, psp: Option<&OwnedFd>, update: &mut SnpUpdate<'_>) -> Result<(), CallError> {
    Channel::new(vm, psp, "KVM_SEV_SNP_LAUNCH_UPDATE")?.update(update)
}

/// The way to one VM's PSP.
struct Channel<'a> {
    vm: &'a VmFd,
    psp: &'a OwnedFd,
    name: &'static str,
}

impl<'a> Channel<'a> {
    fn new(vm: &'a VmFd, psp: Option<&'a OwnedFd>, name: &'static str) -> Result<Self, CallError> {
        let psp = psp.ok_or_else(|| CallError::new(name, "not an SNP VM", Errno::NOTTY.raw_os_error()))?;
        Ok(Self { vm, psp, name })
    }

    fn issue<T>(&self, id: u32, data: &mut T, argument: impl std::fmt::Display) -> Result<(), CallError> {
        let sev_fd = u32::try_from(self.psp.as_raw_fd()).unwrap_or(u32::MAX);
        let mut command = kvm_sev_cmd { id, data: (&raw mut *data) as u64, sev_fd, ..Default::default() };
        // `T` is the structure that goes with `id`; what it names in turn is borrowed by the caller until this returns.
        let result = self.vm.encrypt_op_sev(&mut command);
        result.map_err(|error| {
            let firmware = Some(command.error).filter(|status| *status != 0);
            CallError { firmware, ..CallError::new(self.name, argument, error.errno()) }
        })
    }

    fn update(&self, update: &mut SnpUpdate<'_>) -> Result<(), CallError> {
        let SnpUpdate { range, page_type, source, done } = update;
        let argument = format!("{range}, type {}", *page_type as u8);
        let wrong = |errno: Errno| CallError::new(self.name, &argument, errno.raw_os_error());
        let pages = range.pages().get();
        let all = pages.checked_mul(PAGE_SIZE).ok_or_else(|| wrong(Errno::OVERFLOW))?;
        // The kernel reads, and for CPUID values writes, as many pages as it populates.
        if *page_type != SnpPageType::Zero && (source.len() as u64) < pages {
            return Err(wrong(Errno::FAULT));
        }
        let uaddr = if *page_type == SnpPageType::Zero { 0 } else { source.as_mut_ptr() as u64 };
        let mut raw = kvm_sev_snp_launch_update {
            gfn_start: range.start().number(),
            uaddr,
            len: all,
            type_: *page_type as u8,
            ..Default::default()
        };
        let blocked = SignalsBlocked::new();
        let result = self.issue(sev_cmd_id_KVM_SEV_SNP_LAUNCH_UPDATE, &mut raw, &argument);
        drop(blocked);
        *done = PageCount::new(all.saturating_sub(raw.len) / PAGE_SIZE);
        result
    }

    fn finish(&self, finish: &SnpFinish<'_>) -> Result<(), CallError> {
        let mut raw = kvm_sev_snp_launch_finish {
            vcek_disabled: u8::from(finish.vcek == Vcek::Disabled),
            host_data: finish.host_data,
            ..Default::default()
        };
        if let Some(signed) = &finish.signed {
            raw.id_block_en = 1;
            raw.id_block_uaddr = signed.block.as_ptr() as u64;
            raw.id_auth_uaddr = signed.auth.as_ptr() as u64;
            raw.auth_key_en = u8::from(signed.author == AuthorKey::Present);
        }
        let argument = if raw.id_block_en == 1 { "with an ID block" } else { "without an ID block" };
        self.issue(sev_cmd_id_KVM_SEV_SNP_LAUNCH_FINISH, &mut raw, argument)
    }
}

/// All signals are held back from this thread until this is dropped: a call that a signal interrupts before its first
/// page fails with an error that could be anything.
struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    fn new() -> Self {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the function fills the set it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: the first set was just filled, the second is there to be written; both live until the call returns.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: a signal set is plain bits, zeroed above and then filled in.
        let before = unsafe { before.assume_init() };
        Self { before }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set is the one this thread had; nothing is to be written.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}
