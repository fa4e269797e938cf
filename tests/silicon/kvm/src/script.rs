//! What a scripted guest does, step by step.
//!
//! Owns the steps. A step that needs the VMM ends in an exit; what a guest finds wrong becomes a complaint.

use std::collections::VecDeque;

use gmem::ledger::Owner;
use gmem::{GfnRange, Gpa};
use tenure_silicon::units::Page;

/// A vCPU's steps.
pub type Script = VecDeque<Step>;

/// By which of its two ways a guest asks for a change of page state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The GHCB's MSR: a page at a time.
    Msr,
    /// A buffer in the GHCB; Linux merges entries that adjoin each other.
    Buffer,
}

/// One thing a guest does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Accepts private pages (PVALIDATE).
    Validate(GfnRange),
    /// Gives private pages up (PVALIDATE), before it shares them.
    Rescind(GfnRange),
    /// Writes a number to the beginning of a private page.
    Write(Gpa, u64),
    /// Reads the beginning of a private page, and complains of any other number.
    Expect(Gpa, u64),
    /// Reads the beginning of a private page, and complains of this number: a page that was just accepted holds
    /// whatever decryption makes of it, but nothing that was there before.
    ExpectOther(Gpa, u64),
    /// Writes a number to the beginning of a shared page.
    WriteShared(Gpa, u64),
    /// Reads the beginning of a shared page, and complains of any other number.
    ExpectShared(Gpa, u64),
    /// Writes these bytes to a shared page, and after them the report this vCPU got last.
    WriteReport {
        /// Which page.
        to: Gpa,
        /// What comes first.
        before: Vec<u8>,
    },
    /// Writes these bytes to the beginning of a shared page.
    WriteBytes(Gpa, Vec<u8>),
    /// Asks for pages to be shared or private.
    PageState {
        /// Which.
        range: GfnRange,
        /// Whose they are to be.
        to: Owner,
        /// How it asks.
        way: Way,
        /// Whether that should work.
        works: bool,
    },
    /// Makes a page of registers for another vCPU, and has it start with them (AP creation).
    CreateAp {
        /// Which.
        vcpu: u32,
        /// Where the registers are, private and accepted.
        vmsa: Gpa,
    },
    /// Takes a vCPU's registers away (AP destruction).
    DestroyAp(u32),
    /// Asks for an attestation report, with the secrets page at this address.
    Report {
        /// Secrets page.
        secrets: Gpa,
        /// REPORT_DATA.
        data: [u8; 64],
        /// Where it has room for certificates, if it wants them: shared pages.
        certificates: Option<GfnRange>,
    },
    /// Writes to a port.
    Out {
        /// Which.
        port: u16,
        /// Four bytes.
        value: u32,
    },
    /// Writes a byte to a port.
    OutByte {
        /// Which.
        port: u16,
        /// The byte.
        value: u8,
    },
    /// Asks to be terminated, for this reason (GHCB MSR value).
    Terminate(u64),
    /// Ends in a triple fault.
    TripleFault,
}

/// What a guest got for a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// The report's bytes.
    pub report: Vec<u8>,
    /// What was in its room for certificates.
    pub certificates: Vec<Page>,
}
