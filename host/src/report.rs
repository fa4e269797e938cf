//! What a run was, as plain data.
//!
//! Owns the record from which the summary, the last events and the exit code are made. Whoever runs a guest fills it
//! in; nothing here measures or decides.

use crate::config::{Guise, Tee};
use crate::exit::ExitCode;
use crate::stop::StopReason;
use gmem::PageCount;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything worth telling about one run.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// Where the guest ran.
    pub place: Place,
    /// How long each part took.
    pub timing: Timing,
    /// The guest's memory, as it was when the guest ended.
    pub memory: MemoryReport,
    /// Exits of each vCPU by reason, in order of vCPU.
    pub exits: Vec<BTreeMap<Cow<'static, str>, u64>>,
    /// What each device counted.
    pub devices: Vec<DeviceReport>,
    /// How the guest ended.
    pub outcome: GuestOutcome,
    /// What firmware answered when it refused the launch, if it was that.
    pub firmware_status: Option<u32>,
    /// Attestation evidence the guest handed over, in order. Nothing of it was checked.
    pub handed: Vec<GuestEvidence>,
    /// What became of its memory and descriptors.
    pub teardown: TeardownReport,
    /// What people should know besides.
    pub warnings: Vec<String>,
}

/// Where a guest ran.
#[derive(Debug, Clone)]
pub struct Place {
    /// The host's kernel, as in `uname -sr`.
    pub host_kernel: String,
    /// The host's CPU.
    pub cpu: String,
    /// What kept memory private; never [`Tee::Auto`].
    pub tee: Tee,
    /// What the guest was told it runs on.
    pub guise: Guise,
    /// The type the VM was created with.
    pub vm_type: u32,
}

/// How long each part of a run took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// From the beginning to the first entry into the guest.
    pub launch: Duration,
    /// From there to the guest's end.
    pub guest: Duration,
    /// From there to the last descriptor closed.
    pub teardown: Duration,
}

/// A guest's memory when it ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryReport {
    /// All of its RAM.
    pub ram: PageCount,
    /// The guest's alone.
    pub private: PageCount,
    /// Shared with the host.
    pub shared: PageCount,
    /// Neither for sure, after a conversion with unknown outcome.
    pub in_doubt: PageCount,
    /// Private pages that exist, which are those the guest touched; none if the kernel doesn't tell.
    pub private_resident: Option<PageCount>,
    /// Shared pages that exist.
    pub shared_resident: PageCount,
    /// Conversions to shared.
    pub to_shared: ConversionCounts,
    /// Conversions to private.
    pub to_private: ConversionCounts,
}

/// Conversions in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversionCounts {
    /// Requests carried out.
    pub requests: u64,
    /// Pages in them.
    pub pages: u64,
    /// Requests refused or failed.
    pub refused: u64,
}

/// What one device counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceReport {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its counters in the order worth reading.
    pub counters: Vec<(Cow<'static, str>, u64)>,
}

/// Attestation evidence as a guest handed it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestEvidence {
    /// What it says it is: one of the `EVIDENCE_*` of [`guest_fw::abi`].
    pub kind: u32,
    /// The evidence.
    pub bytes: Vec<u8>,
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GuestOutcome {
    /// It switched itself off.
    PoweredOff,
    /// It reset itself, and was not launched again after that.
    Reset,
    /// It asked to be terminated, as an SNP guest can.
    Terminated {
        /// Set of reason codes: 0 is the GHCB specification's, 1 Linux', 15 our firmware's.
        set: u8,
        /// Reason code in that set.
        code: u8,
        /// What that means.
        reason: String,
    },
    /// The firmware's self-test came to its end.
    SelfTest {
        /// Checks that failed.
        failed_checks: u32,
    },
    /// It was stopped on request.
    Stopped {
        /// Who asked.
        by: StopReason,
    },
    /// The firmware gave up.
    FirmwareFault {
        /// Why.
        fault: String,
    },
    /// It crashed.
    Crashed {
        /// What the host saw of it.
        reason: String,
    },
    /// It never ran.
    NotStarted {
        /// The launch step that failed, and why.
        reason: String,
    },
}

/// What teardown did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeardownReport {
    /// Pages by their final state.
    pub pages: Vec<PagesInState>,
    /// Discards still owed after the last retry.
    pub debts: Vec<String>,
    /// Pages whose owner nobody knew when they were freed.
    #[serde(default)]
    pub in_doubt_pages: u64,
    /// Why they were in doubt, as far as it is known.
    #[serde(default)]
    pub doubts: Vec<String>,
    /// What was closed, in order.
    pub steps: Vec<ClosingStep>,
    /// Signs that nothing is held any more.
    pub evidence: Vec<Evidence>,
}

/// Pages that ended in one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagesInState {
    /// The state.
    pub state: Cow<'static, str>,
    /// How many.
    pub pages: u64,
}

/// One thing closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingStep {
    /// What.
    pub what: Cow<'static, str>,
    /// When it was over, in microseconds from the beginning of teardown.
    pub done_us: u64,
    /// What went wrong with it, if anything did.
    pub error: Option<String>,
    /// Whether such an error is expected and harmless, as on a VM the kernel declared dead.
    pub severity: Severity,
}

/// How much a failed step matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth writing down.
    Note,
    /// Teardown was not clean.
    Fault,
}

/// One sign that nothing is held any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was looked at.
    pub what: Cow<'static, str>,
    /// What was seen.
    pub verdict: Verdict,
}

/// What a piece of evidence says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Holds,
    /// Not as it should be.
    Fails {
        /// What was seen instead.
        seen: String,
    },
    /// It could not be looked at.
    Unknown {
        /// Why not.
        reason: String,
    },
}

impl TeardownReport {
    /// Whether nothing of the guest is known to be left.
    pub fn is_clean(&self) -> bool {
        self.debts.is_empty()
            && self.in_doubt_pages == 0
            && self.steps.iter().all(|step| step.error.is_none() || step.severity == Severity::Note)
            && self.evidence.iter().all(|evidence| !matches!(evidence.verdict, Verdict::Fails { .. }))
    }
}

impl RunReport {
    /// What the run's exit code is. A teardown that was not clean outweighs how the guest ended.
    pub fn exit_code(&self) -> ExitCode {
        if !self.teardown.is_clean() {
            return ExitCode::TeardownNotClean;
        }
        match self.outcome {
            GuestOutcome::PoweredOff | GuestOutcome::Reset | GuestOutcome::SelfTest { failed_checks: 0 } => {
                ExitCode::Success
            }
            GuestOutcome::Stopped { by: StopReason::Internal | StopReason::TimeLimit } => ExitCode::GuestCrashed,
            GuestOutcome::Stopped { .. } => ExitCode::Success,
            GuestOutcome::SelfTest { .. }
            | GuestOutcome::FirmwareFault { .. }
            | GuestOutcome::Terminated { .. }
            | GuestOutcome::Crashed { .. } => ExitCode::GuestCrashed,
            GuestOutcome::NotStarted { .. } => ExitCode::LaunchFailed,
        }
    }

    /// Exits of all vCPUs together, by reason.
    pub fn exits_by_reason(&self) -> BTreeMap<&str, u64> {
        let mut total = BTreeMap::new();
        for (reason, count) in self.exits.iter().flatten() {
            *total.entry(reason.as_ref()).or_default() += count;
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(error: Option<&str>, severity: Severity) -> ClosingStep {
        ClosingStep { what: "guest_memfd".into(), done_us: 1, error: error.map(str::to_owned), severity }
    }

    /// pages-before-key: every way in which teardown can be less than clean counts.
    #[test]
    fn pages_before_key_nothing_unclean_passes_as_clean() {
        let clean = TeardownReport {
            steps: vec![step(None, Severity::Fault), step(Some("EIO"), Severity::Note)],
            evidence: vec![Evidence { what: "proc".into(), verdict: Verdict::Unknown { reason: "no /proc".into() } }],
            ..TeardownReport::default()
        };
        assert!(clean.is_clean());
        let evidence = Evidence { what: "fds".into(), verdict: Verdict::Fails { seen: "one open".into() } };
        let unclean = [
            TeardownReport { debts: vec!["0x1000+1 pages".into()], ..clean.clone() },
            TeardownReport { in_doubt_pages: 1, ..clean.clone() },
            TeardownReport { steps: vec![step(Some("EBUSY"), Severity::Fault)], ..clean.clone() },
            TeardownReport { evidence: vec![evidence], ..clean },
        ];
        for report in unclean {
            assert!(!report.is_clean(), "{report:?}");
        }
    }
}
