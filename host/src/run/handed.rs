//! Attestation evidence that a guest hands to whoever runs it.
//!
//! Owns copying it out of shared memory, and how much of it is kept. What it says is nobody's business here: it is
//! checked, if at all, by whoever reads the run's report. Specification: [`guest_fw::abi::EvidenceHeader`].

use std::sync::{Mutex, PoisonError};

use gmem::PAGE_SIZE;
use gmem_kvm::shared::SharedView;
use guest_fw::abi::{EVIDENCE_MAGIC, EVIDENCE_MAX, EvidenceHeader};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};
use zerocopy::{FromBytes, IntoBytes};

use crate::report::GuestEvidence;

/// Most pieces of evidence that are kept of one guest, which could go on for ever.
const MOST: usize = 16;

/// What a guest handed over so far.
#[derive(Debug, Default)]
pub(super) struct HandedOver(Mutex<Vec<GuestEvidence>>);

/// Why evidence is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    #[error("{len} bytes at {gpa:#x} are not all shared RAM")]
    NotShared { gpa: u64, len: usize },
    #[error("at {gpa:#x} is no evidence: its first 8 bytes are {magic:#x}, and not {EVIDENCE_MAGIC:#x}")]
    Magic { gpa: u64, magic: u64 },
    #[error("len is {len}: it must be 1 to {EVIDENCE_MAX}")]
    Length { len: u32 },
    #[error("{MOST} pieces of evidence were taken already")]
    Enough,
}

impl HandedOver {
    /// Takes a copy of the evidence that begins in this page, and says how many bytes it has.
    pub(super) fn take(&self, memory: &SharedView, page: u32) -> Result<u64, NotTaken> {
        let gpa = u64::from(page) * PAGE_SIZE;
        let mut header = [0; size_of::<EvidenceHeader>()];
        read(memory, gpa, &mut header)?;
        // As many bytes as the structure has, without alignment to ask for: this cannot fail.
        let Ok(EvidenceHeader { magic, kind, len }) = EvidenceHeader::read_from_bytes(&header) else {
            return Err(NotTaken::NotShared { gpa, len: header.len() });
        };
        if magic != EVIDENCE_MAGIC {
            return Err(NotTaken::Magic { gpa, magic });
        }
        if len == 0 || len > EVIDENCE_MAX {
            return Err(NotTaken::Length { len });
        }
        let mut bytes = vec![0; len as usize];
        read(memory, gpa + header.as_bytes().len() as u64, &mut bytes)?;
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= MOST {
            return Err(NotTaken::Enough);
        }
        taken.push(GuestEvidence { kind, bytes });
        Ok(u64::from(len))
    }

    /// All of it.
    pub(super) fn all(&self) -> Vec<GuestEvidence> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Under a guard of its own: the guest may share or unshare what it likes in between.
fn read(memory: &SharedView, gpa: u64, into: &mut [u8]) -> Result<(), NotTaken> {
    let (guard, at, len) = (memory.enter(), GuestAddress(gpa), into.len());
    if !guard.check_range(at, len, Permissions::Read) {
        return Err(NotTaken::NotShared { gpa, len });
    }
    guard.read_slice(into, at).map_err(|_| NotTaken::NotShared { gpa, len })
}
