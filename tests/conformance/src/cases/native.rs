//! Cases that are programs: with threads, other processes, signals, or the kernel's own trace.

mod processes;
mod running;
pub mod trace;

use super::{Body, Case, Kind, Need, Verdict};
use crate::kernel::Kernel;
use crate::op::{self, Op};
use crate::outcome::Outcome as Answer;
use crate::real::Real;

/// Why a case did not pass.
#[derive(Debug)]
pub enum Failure {
    /// It cannot be asked here.
    Skipped(String),
    /// The kernel does otherwise, and it is known why.
    Differs(String),
    /// The kernel does otherwise.
    Failed(String),
}

/// How a case ended.
pub type Outcome = Result<(), Failure>;

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(()) => Self::Passed,
            Err(Failure::Skipped(reason)) => Self::Skipped { reason },
            Err(Failure::Differs(remark)) => Self::Differs { remark },
            Err(Failure::Failed(detail)) => Self::Failed { detail },
        }
    }
}

/// A failure in words.
fn failed<T>(detail: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Failed(detail.into()))
}

/// Fails unless it is so.
fn ensure(so: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if so { Ok(()) } else { failed(otherwise()) }
}

/// Does what a line says.
fn ask(real: &mut Real, line: &str) -> Result<Answer, Failure> {
    let op: Op = op::parse(line).map_err(|error| Failure::Failed(format!("{line}: {error}")))?;
    real.apply(&op).map_or_else(|| failed(format!("{line}: must not be asked")), Ok)
}

/// Does what lines say, for a kind; all of it must succeed.
fn set_up(real: &mut Real, kind: Kind, lines: &str) -> Outcome {
    for line in super::script::for_kind(lines, kind).lines().filter(|line| !line.trim().is_empty()) {
        let answer = ask(real, line)?;
        ensure(matches!(answer, Answer::Done | Answer::Value(_)), || format!("{line}: {answer}"))?;
    }
    Ok(())
}

/// Does what a line says, and compares.
fn expect(real: &mut Real, line: &str, wanted: &str) -> Outcome {
    let answer = ask(real, line)?;
    ensure(answer.to_string() == wanted, || format!("{line}: {answer}, not {wanted}"))
}

/// A register by its number.
fn register<T>(found: Option<T>) -> Result<T, Failure> {
    found.ok_or_else(|| Failure::Failed("no such register".to_owned()))
}

type Run = fn(&Kernel, Kind) -> Outcome;

/// All of them.
#[must_use]
pub fn cases() -> Vec<Case> {
    use Kind::{Plain, Private, Shared};
    let case = |name: &str, about: &str, from: &str, kinds: &[Kind], needs: &[Need], run: Run| Case {
        name: name.to_owned(),
        about: about.to_owned(),
        from: from.to_owned(),
        kinds: kinds.to_vec(),
        needs: needs.to_vec(),
        body: Body::Native(run),
    };
    vec![
        case(
            "descriptors-on-exec",
            "VM and vCPU are close-on-exec, a guest_memfd is not: a program that is executed pins it",
            "new: CLOEXEC leak",
            &[Shared, Private],
            &[],
            processes::descriptors_on_exec,
        ),
        case(
            "touching-kills",
            "a host that touches what it may not gets SIGBUS",
            "guest_memfd_test",
            &[Shared, Kind::PrivateMmap],
            &[],
            processes::touching_kills,
        ),
        case(
            "another-process",
            "a VM's calls are EIO in any other process; its file can still be filled and punched there",
            "Linux source",
            &[Shared, Private],
            &[],
            processes::another_process,
        ),
        case(
            "dead-vm",
            "a VM that died of a failed SMM entry answers EIO to everything; its file can be punched and closed",
            "Linux source",
            &[Private],
            &[],
            running::dead_vm,
        ),
        case(
            "slots-up-to-the-cap",
            "as many slots as KVM_CAP_NR_MEMSLOTS says, and not one more",
            "set_memory_region_test",
            &[Plain],
            &[],
            running::slots_up_to_the_cap,
        ),
        case(
            "slots-while-running",
            "a slot is deleted and made again under a running guest, which finds its memory or none, never another",
            "set_memory_region_test",
            &[Plain, Private],
            &[],
            running::slots_while_running,
        ),
        case(
            "prefault-while-slots-change",
            "prefaulting while another thread deletes and makes the slot: done, EAGAIN, or no memory",
            "pre_fault_memory_test",
            &[Private],
            &[Need::Prefault],
            running::prefault_while_slots_change,
        ),
        case(
            "no-slots",
            "a vCPU of a VM without any memory: KVM_EXIT_INTERNAL_ERROR",
            "set_memory_region_test",
            &[Plain],
            &[],
            running::no_slots,
        ),
        case(
            "mmio-while-vectoring",
            "an exception whose descriptor is not in memory: KVM_EXIT_INTERNAL_ERROR, suberror 3",
            "set_memory_region_test",
            &[Plain],
            &[],
            running::mmio_while_vectoring,
        ),
        case(
            "pages-after-their-vm",
            "a guest_memfd that is closed last destroys the VM before its pages are freed",
            "claim: inferred from the source of Linux 7.2",
            &[Shared, Private],
            &[Need::Trace],
            trace::pages_after_their_vm,
        ),
        case(
            "death-closes-the-newest-first",
            "a process that is killed releases its highest descriptor first",
            "claim: inferred from the source of Linux 7.2",
            &[Shared, Private],
            &[Need::Trace],
            trace::death_closes_the_newest_first,
        ),
    ]
}
