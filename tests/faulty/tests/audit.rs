//! `tenure audit` on this machine's kernel, with processes that do what it should find.
//!
//! Other VMs may come and go on the machine meanwhile: only what is said of our own processes counts. A case that this
//! kernel cannot do is counted as skipped, with the reason.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tenure::audit::report::{AuditReport, Confidence, Finding, Kind, State};
use tenure::audit::{Measure, audit};
use test_harness::{Case, Verdict};

const MIB: u64 = 1 << 20;

const CASES: [Case<()>; 9] = [
    Case { name: "audit_running_guests_are_no_finding", run: running },
    Case { name: "audit_guest_that_does_not_run", run: stopped },
    Case { name: "audit_memory_that_outlives_its_vm", run: vm_closed },
    Case { name: "audit_mapping_that_outlives_its_vm", run: only_mapped },
    Case { name: "audit_inherited_by_a_child", run: inherited },
    Case { name: "audit_left_behind_with_a_child", run: left_behind },
    Case { name: "audit_several_vms", run: several },
    Case { name: "audit_nothing_is_left_of_what_ended", run: ended },
    Case { name: "audit_measures_what_is_allocated", run: measured },
];

fn main() -> ExitCode {
    test_harness::main(&CASES, || Ok(()), |()| ())
}

/// A process that holds what its arguments say, until this is dropped.
struct Holding {
    process: Child,
    child: u32,
    input: Option<ChildStdin>,
}

/// A process that holds something, or why this host's KVM cannot do that.
enum Held {
    Yes(Holding),
    Cannot(String),
}

fn hold(arguments: &[&str]) -> Result<Held> {
    let mut process = Command::new(env!("CARGO_BIN_EXE_hold"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start hold")?;
    let mut line = String::new();
    BufReader::new(process.stdout.take().context("no output")?).read_line(&mut line)?;
    let input = process.stdin.take();
    if let Some(reason) = line.trim().strip_prefix("cannot: ") {
        process.wait()?;
        return Ok(Held::Cannot(reason.to_owned()));
    }
    let Some(child) = line.trim().strip_prefix("ready ") else { bail!("hold says {line:?}") };
    Ok(Held::Yes(Holding { process, child: child.parse()?, input }))
}

impl Holding {
    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn end(&mut self) -> Result<()> {
        self.input = None;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        // Its child sees the same end.
        let _ = self.end();
    }
}

/// Does a case with a process, if this host can have it.
fn with(arguments: &[&str], case: impl FnOnce(&mut Holding) -> Result<()>) -> Result<Verdict> {
    match hold(arguments)? {
        Held::Cannot(reason) => Ok(Verdict::Skipped { reason }),
        Held::Yes(mut holding) => case(&mut holding).map(|()| Verdict::Passed),
    }
}

/// Findings that a process is to be asked about first.
fn about(report: &AuditReport, pid: u32) -> Vec<&Finding> {
    report.findings.iter().filter(|finding| finding.ask.first().is_some_and(|ask| ask.pid == pid)).collect()
}

/// Without VMs the kernel still lists: whether that list can be read is not for us to say.
fn kinds(findings: &[&Finding]) -> Vec<Kind> {
    findings.iter().map(|finding| finding.id).filter(|kind| *kind != Kind::OrphanVm).collect()
}

fn is_orphan(findings: &[&Finding]) -> bool {
    findings.iter().any(|finding| finding.id == Kind::OrphanVm)
}

/// What is said of the memory a process holds: state and size.
fn memories(report: &AuditReport, pid: u32) -> Vec<(State, Option<u64>)> {
    let held = report.memories.iter().filter(|memory| memory.held_by.iter().any(|holding| holding.pid == pid));
    held.map(|memory| (memory.state, memory.bytes)).collect()
}

fn running((): &mut ()) -> Result<Verdict> {
    let halted = with(&["--vcpu", "halted"], |holding| {
        let report = audit(Measure::Nothing)?;
        ensure!(about(&report, holding.pid()).is_empty(), "{:#?}", report.findings);
        ensure!(memories(&report, holding.pid()) == [(State::Running, Some(4 * MIB))], "{:#?}", report.memories);
        let holder = report.holders.iter().find(|holder| holder.pid == holding.pid()).context("not listed")?;
        ensure!((holder.vms, holder.vcpus, holder.running.len()) == (1, 1, 1), "{holder:#?}");
        ensure!(holder.descriptors.iter().all(|one| one.close_on_exec == Some(true)), "{holder:#?}");
        ensure!(holder.command == "hold" && holder.parent.as_ref().map(|who| who.pid) == Some(std::process::id()));
        Ok(())
    })?;
    let Verdict::Passed = halted else { return Ok(halted) };
    with(&["--vcpu", "busy"], |holding| {
        let report = audit(Measure::Nothing)?;
        ensure!(about(&report, holding.pid()).is_empty(), "{:#?}", report.findings);
        // Not every KVM lets others see it.
        let states: Vec<_> = memories(&report, holding.pid()).into_iter().map(|(state, _)| state).collect();
        ensure!(matches!(states[..], [State::Running | State::Unknown]), "{states:?}");
        println!("a busy vCPU is seen as {:?}", states[0]);
        Ok(())
    })
}

fn stopped((): &mut ()) -> Result<Verdict> {
    with(&["--vcpu", "stopped"], |holding| {
        let report = audit(Measure::Nothing)?;
        let findings = about(&report, holding.pid());
        ensure!(kinds(&findings) == [Kind::PinnedWithoutVcpu], "{findings:#?}");
        ensure!(findings[0].confidence == Confidence::Likely && findings[0].bytes == Some(4 * MIB), "{findings:#?}");
        Ok(())
    })
}

fn vm_closed((): &mut ()) -> Result<Verdict> {
    with(&["--close-vm"], |holding| {
        let report = audit(Measure::Nothing)?;
        let findings = about(&report, holding.pid());
        ensure!(kinds(&findings) == [Kind::PinnedWithoutVcpu], "{findings:#?}");
        ensure!(findings[0].bytes == Some(4 * MIB), "{findings:#?}");
        ensure!(report.vms.is_some() == is_orphan(&findings), "{report:#?}");
        Ok(())
    })
}

fn only_mapped((): &mut ()) -> Result<Verdict> {
    with(&["--map", "--close-vm", "--close-memory"], |holding| {
        let report = audit(Measure::Nothing)?;
        let holder = report.holders.iter().find(|holder| holder.pid == holding.pid()).context("not listed")?;
        ensure!(holder.descriptors.is_empty() && holder.mappings.len() == 1, "{holder:#?}");
        let findings = about(&report, holding.pid());
        ensure!(kinds(&findings) == [Kind::PinnedWithoutVcpu], "{findings:#?}");
        ensure!(holder.mappings[0].bytes == 4 * MIB, "{holder:#?}");
        Ok(())
    })
}

fn inherited((): &mut ()) -> Result<Verdict> {
    with(&["--vcpu", "halted", "--leak", "--child"], |holding| {
        let report = audit(Measure::Nothing)?;
        let (heir, owner) = (about(&report, holding.child), about(&report, holding.pid()));
        ensure!(kinds(&heir) == [Kind::Inherited] && kinds(&owner) == [Kind::NotCloseOnExec], "{heir:#?} {owner:#?}");
        ensure!(heir[0].confidence == Confidence::Certain && heir[0].bytes == Some(4 * MIB), "{heir:#?}");
        ensure!(heir[0].ask.len() == 2 && heir[0].ask[1].pid == holding.pid(), "{heir:#?}");
        // One file, by its inode, in both.
        ensure!(memories(&report, holding.child) == [(State::Running, Some(4 * MIB))], "{:#?}", report.memories);
        Ok(())
    })
}

fn left_behind((): &mut ()) -> Result<Verdict> {
    with(&["--leak", "--child", "--leave"], |holding| {
        holding.process.wait()?;
        let report = audit(Measure::Nothing)?;
        let findings = about(&report, holding.child);
        ensure!(kinds(&findings) == [Kind::PinnedWithoutVcpu, Kind::NotCloseOnExec], "{findings:#?}");
        ensure!(report.vms.is_some() == is_orphan(&findings), "{report:#?}");
        Ok(())
    })
}

fn several((): &mut ()) -> Result<Verdict> {
    with(&["--vms", "2", "--vcpu", "halted"], |holding| {
        let report = audit(Measure::Nothing)?;
        let findings = about(&report, holding.pid());
        ensure!(kinds(&findings) == [Kind::SeveralVms] && findings[0].bytes == Some(8 * MIB), "{findings:#?}");
        ensure!(findings[0].confidence != Confidence::Certain, "{findings:#?}");
        Ok(())
    })
}

fn ended((): &mut ()) -> Result<Verdict> {
    with(&["--leak", "--child", "--vms", "2"], |holding| {
        holding.end()?;
        let report = audit(Measure::Nothing)?;
        let ours = [holding.pid(), holding.child];
        ensure!(report.holders.iter().all(|holder| !ours.contains(&holder.pid)), "{:#?}", report.holders);
        ensure!(report.findings.iter().all(|finding| finding.ask.iter().all(|ask| !ours.contains(&ask.pid))));
        Ok(())
    })
}

fn measured((): &mut ()) -> Result<Verdict> {
    with(&["--close-vm"], |holding| {
        let report = audit(Measure::Allocated)?;
        let held = report.memories.iter().find(|memory| memory.held_by.iter().any(|by| by.pid == holding.pid()));
        let memory = held.context("not listed")?;
        // Nobody has touched it. Measuring keeps nothing.
        ensure!(memory.allocated_bytes == Some(0), "{memory:#?} {:#?}", report.unseen);
        let here = gmem_kvm::evidence::held_by_this_process();
        ensure!(here.is_empty(), "{here:?}");
        Ok(())
    })
}
