//! What only an SNP guest asks for, and why such a guest ends.
//!
//! Owns the words for a request to be terminated, certificates for reports, and the count of what is done for such
//! guests. Conversions, which every guest asks for, are [`super::machine`]'s.
//!
//! Specification: GHCB (56421), 2.3.1 "GHCB MSR Protocol", termination request; reason codes of Linux guests:
//! Linux 7.2 `arch/x86/include/asm/sev-common.h`; exits: `Documentation/virt/kvm/api.rst`.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gmem::PageCount;
use gmem_kvm::shared::SharedView;
use guest_fw::abi;
use rustix::io::Errno;
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use super::certificates::{CertificateFile, CertificatesError, Locked};
use crate::report::{DeviceReport, GuestOutcome};

/// `KVM_SYSTEM_EVENT_SEV_TERM`.
pub(super) const SYSTEM_EVENT_SEV_TERM: u32 = 6;
/// The reason why a vCPU cannot be entered that has no registers, and what that means.
pub(super) const NO_VMSA: u64 = u64::MAX;
pub(super) const NO_VMSA_EXPLAINED: &str =
    "it has no valid VMSA: the guest took the page with its registers away, or the launch did not end";
/// Reason code set of the GHCB specification.
const SET_GENERAL: u8 = 0;
/// Reason code set of Linux guests.
const SET_LINUX: u8 = 1;

/// What is done for an SNP guest.
#[derive(Debug, Default)]
pub(crate) struct SnpService {
    certificates: Option<Arc<CertificateFile>>,
    implicit: AtomicU64,
    mapped: AtomicU64,
    not_mapped: AtomicU64,
    served: AtomicU64,
    not_served: AtomicU64,
}

/// What is answered to a request for certificates.
#[derive(Debug)]
pub(crate) struct CertificatesAnswer<'a> {
    /// 0 or an errno.
    pub errno: u64,
    /// Pages that are needed, if there is not room enough.
    pub pages: Option<u64>,
    /// Why not, if that is worth telling.
    pub why: Option<String>,
    /// Holds the file as it was read, until the firmware was called.
    pub held: Option<Locked<'a>>,
}

impl SnpService {
    pub(super) fn new(certificates: Option<Arc<CertificateFile>>) -> Self {
        Self { certificates, ..Self::default() }
    }

    /// A guest touched a page in another way than it had asked for.
    pub(super) fn converted_implicitly(&self) {
        self.implicit.fetch_add(1, Ordering::Relaxed);
    }

    /// So many pages could be mapped ahead of their use, and so many could not.
    pub(super) fn mapped_ahead(&self, done: PageCount, not_done: PageCount) {
        self.mapped.fetch_add(done.get(), Ordering::Relaxed);
        self.not_mapped.fetch_add(not_done.get(), Ordering::Relaxed);
    }

    /// What was done.
    pub(super) fn counts(&self) -> DeviceReport {
        let count = |name: &'static str, count: &AtomicU64| (Cow::from(name), count.load(Ordering::Relaxed));
        DeviceReport {
            name: "snp".into(),
            counters: vec![
                count("implicit conversions", &self.implicit),
                count("pages mapped ahead", &self.mapped),
                count("not mapped ahead", &self.not_mapped),
                count("certificates served", &self.served),
                count("not served", &self.not_served),
            ],
        }
    }

    /// Puts the certificates where the guest has room for so many pages of them.
    pub(super) fn certificates(&self, memory: &SharedView, gpa: u64, room: u64) -> CertificatesAnswer<'_> {
        let answer = self.answer(memory, gpa, room);
        let counter = if answer.errno == 0 { &self.served } else { &self.not_served };
        counter.fetch_add(1, Ordering::Relaxed);
        answer
    }

    fn answer(&self, memory: &SharedView, gpa: u64, room: u64) -> CertificatesAnswer<'_> {
        let Some(file) = &self.certificates else {
            return CertificatesAnswer::refused(Errno::IO, "no certificates are configured".to_owned());
        };
        let locked = match file.lock() {
            Ok(locked) => locked,
            Err(CertificatesError::Busy) => {
                return CertificatesAnswer { errno: raw(Errno::AGAIN), pages: None, why: None, held: None };
            }
            Err(error) => return CertificatesAnswer::refused(Errno::IO, error.to_string()),
        };
        let needed = locked.pages();
        if room < needed {
            // A guest that asks without room wants to know how much it takes.
            return CertificatesAnswer { errno: raw(Errno::NOSPC), pages: Some(needed), why: None, held: None };
        }
        match write(memory, gpa, locked.table()) {
            Ok(()) => CertificatesAnswer { errno: 0, pages: None, why: None, held: Some(locked) },
            Err(why) => CertificatesAnswer::refused(Errno::IO, why),
        }
    }
}

/// Under a guard of its own, which is gone before anything waits.
fn write(memory: &SharedView, gpa: u64, table: &[u8]) -> Result<(), String> {
    let guard = memory.enter();
    let at = GuestAddress(gpa);
    if !guard.check_range(at, table.len(), vm_memory::Permissions::Write) {
        return Err(format!("{} bytes at {gpa:#x} are not all shared RAM", table.len()));
    }
    guard.write_slice(table, at).map_err(|error| error.to_string())
}

impl CertificatesAnswer<'_> {
    fn refused(errno: Errno, why: String) -> Self {
        Self { errno: raw(errno), pages: None, why: Some(why), held: None }
    }
}

/// An errno as the kernel takes it in an answer: positive.
pub(super) fn raw(errno: Errno) -> u64 {
    u64::from(errno.raw_os_error().unsigned_abs())
}

/// The end that a guest asked for by this value of the GHCB's MSR.
pub(super) fn termination(request: u64) -> GuestOutcome {
    let [_, set, code, ..] = request.to_le_bytes();
    let set = set >> 4;
    let reason = match reason(set, code) {
        Some(reason) => reason.to_owned(),
        None => "no known reason".to_owned(),
    };
    GuestOutcome::Terminated { set, code, reason }
}

fn reason(set: u8, code: u8) -> Option<&'static str> {
    let reason = match (set, code) {
        (SET_GENERAL, 0) => "general request",
        (SET_GENERAL, 1) => "the range of GHCB protocol versions is not supported",
        (SET_GENERAL, 2) => "features of SNP are missing that the guest needs",
        (SET_LINUX, 0) => "Linux: the GHCB could not be registered",
        (SET_LINUX, 1) => "Linux: a change of page state failed",
        (SET_LINUX, 2) => "Linux: PVALIDATE failed",
        (SET_LINUX, 3) => "Linux: it does not run at VMPL 0",
        (SET_LINUX, 4) => "Linux: the CPUID page is not valid",
        (SET_LINUX, 5) => "Linux: the hypervisor's CPUID failed",
        (SET_LINUX, 6) => "Linux: the secrets page is not valid",
        (SET_LINUX, 7) => "Linux: no SVSM is named in the secrets page, although it is not at VMPL 0",
        (SET_LINUX, 8) => "Linux: an SVSM is named, although it is at VMPL 0",
        (SET_LINUX, 9) => "Linux: the SVSM's calling area is not valid",
        (SET_LINUX, 10) => "Linux: secure TSC could not be set up",
        (SET_LINUX, 11) => "Linux: the SVSM's calling area could not be moved",
        (SET_LINUX, 12) => "Linux: secure AVIC could not be set up",
        (abi::TERMINATION_SET, abi::TERMINATION_NOT_BUILT) => "tenure's firmware: it cannot be started under SNP yet",
        _ => return None,
    };
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn termination_requests_in_words() {
        for (request, expected) in [
            (0x0_0100, (0, 0, "general request")),
            (0x2_0100, (0, 2, "features of SNP are missing that the guest needs")),
            (0x1_1100, (1, 1, "Linux: a change of page state failed")),
            (0x1_f100, (0xf, 1, "tenure's firmware: it cannot be started under SNP yet")),
            (0xff_e100, (0xe, 0xff, "no known reason")),
        ] {
            let (set, code, reason) = expected;
            let reason = reason.to_owned();
            assert_eq!(termination(request), GuestOutcome::Terminated { set, code, reason }, "{request:#x}");
        }
    }
}
