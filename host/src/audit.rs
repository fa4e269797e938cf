//! What on this host pins private memory.
//!
//! Owns the audit: a look at every process and at the kernel's own list of VMs ([`seen`]), what follows from it, and the
//! report. It changes nothing, and a finding is what two looks agree on: a process between fork and exec, or a VM that is
//! just being torn down, is not worth anybody's attention. What could not be seen is said, with the reason; nothing is
//! concluded from it.
//!
//! Not owned: what this process itself holds after a teardown (`gmem_kvm::evidence`, where the kernel's names for such
//! things are known).
//!
//! Reading order: `look`, `threads`, `vms` (what is read), [`seen`] (what was seen), `judge` (what follows), [`report`],
//! `text`.

pub mod inspect;
mod judge;
mod look;
mod proc;
pub mod report;
pub mod seen;
mod text;
mod threads;
mod vms;

use gmem::ByteLen;
use inspect::{Inspect, ThisKernel};
use judge::Host;
use look::Look;
use report::AuditReport;
use seen::{Identity, Seen, Unseen};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::paint::Paint;

/// How often threads are looked at, at most, and how long between.
const SAMPLES: u32 = 8;
const INTERVAL: Duration = Duration::from_millis(25);
/// How long something must last to be a finding.
const PATIENCE: Duration = Duration::from_millis(300);

/// Whether to ask how much of each guest_memfd is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Leave every descriptor alone.
    Nothing,
    /// Copy a descriptor of each for a moment. That pins its VM for as long, and should everybody else let go just then,
    /// memory and VM end in this process.
    Allocated,
}

/// Why a host cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// `/proc` cannot be read.
    #[error("`{}`: {source}", path.display())]
    Proc {
        /// What was to be read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `/proc` is something else.
    #[error("`{}` shows no process: procfs is not mounted there", path.display())]
    NoProcesses {
        /// Where it should be.
        path: PathBuf,
    },
}

/// Looks at this host.
pub fn audit(measure: Measure) -> Result<AuditReport, AuditError> {
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    audit_of(Path::new("/"), &ThisKernel, ticks_per_second, measure)
}

/// Looks at the host whose file system begins at `root`.
fn audit_of<K: Inspect>(
    root: &Path,
    kernel: &K,
    ticks_per_second: u64,
    measure: Measure,
) -> Result<AuditReport, AuditError> {
    let look = Look { root, kernel, samples: SAMPLES, interval: INTERVAL, ticks_per_second };
    let first = look.look()?;
    let subjects: BTreeSet<_> = subjects(&first);
    if subjects.is_empty() {
        return Ok(conclude(root, kernel, &first, measure, &subjects));
    }
    kernel.wait(PATIENCE);
    Ok(conclude(root, kernel, &look.look()?, measure, &subjects))
}

type Subject = (report::Kind, String);

fn subjects(seen: &Seen) -> BTreeSet<Subject> {
    Host::new(seen).findings().into_iter().map(|finding| (finding.id, finding.subject)).collect()
}

/// What a look has seen, with those findings that were there before.
fn conclude<K: Inspect>(
    root: &Path,
    kernel: &K,
    seen: &Seen,
    measure: Measure,
    before: &BTreeSet<Subject>,
) -> AuditReport {
    let host = Host::new(seen);
    let mut findings = host.findings();
    findings.retain(|finding| before.contains(&(finding.id, finding.subject.clone())));
    let mut unseen = seen.unseen.clone();
    let mut memories: Vec<_> = host.memories.into_values().collect();
    if measure == Measure::Allocated {
        for memory in &mut memories {
            match allocated(kernel, seen, memory) {
                Ok(ByteLen(bytes)) => memory.allocated_bytes = Some(bytes),
                Err(why) => unseen.push(Unseen {
                    what: format!("how much of guest_memfd {} is allocated", memory.file),
                    why,
                    so: "its size is the most it can be".into(),
                    remedy: None,
                }),
            }
        }
    }
    AuditReport {
        version: env!("CARGO_PKG_VERSION"),
        kernel: look::text(&root.join("proc/sys/kernel/osrelease")).unwrap_or_default().trim().to_owned(),
        complete: unseen.is_empty(),
        processes_looked_at: seen.looked_at,
        processes_hidden: seen.hidden,
        holders: seen.holders.values().map(report::holder).collect(),
        memories,
        vms: report::vms(seen),
        findings,
        unseen,
    }
}

fn allocated<K: Inspect>(kernel: &K, seen: &Seen, memory: &report::MemoryReport) -> Result<ByteLen, String> {
    let mut why = "it is only mapped, and only a descriptor can be asked".to_owned();
    for holder in memory.held_by.iter().filter_map(|holding| seen.holders.get(&holding.pid)) {
        let here = holder.descriptors.iter().find(|one| one.identity == Identity::File(memory.file));
        let Some(descriptor) = here else { continue };
        match kernel.allocated((holder.task, descriptor.fd), memory.file) {
            Ok(bytes) => return Ok(bytes),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests;
