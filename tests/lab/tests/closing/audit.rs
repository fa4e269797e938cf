//! `tenure audit` on the lab host, where nothing is hidden from it: a kernel as old as guest_memfd is common, private
//! memory, guest mode that others can see, and the kernel's own list of VMs.

use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tenure_lab::{Child, Command, Status, Stdin};

use crate::bench::{Bench, HOLD};
use crate::ends::start_linux;
use test_harness::Verdict;

const SIGTERM: u32 = 15;
const CLEAN: Status = Status::Exited(0);
const FINDINGS: Status = Status::Exited(10);

/// What an audit says, and its exit code.
fn audit(bench: &Bench) -> Result<(Status, Value)> {
    let output = bench.host.run(Command::new("/bin/tenure").args(["audit", "--json"]))?;
    let report = serde_json::from_str(&output.stdout_text())
        .with_context(|| format!("{}\n{}{}", output.status, output.stdout_text(), output.stderr_text()))?;
    Ok((output.status, report))
}

fn findings(report: &Value) -> Vec<(&str, &str, Vec<u64>)> {
    let list = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pids = |finding: &Value| {
        let ask = finding["ask"].as_array().map(Vec::as_slice).unwrap_or_default();
        ask.iter().filter_map(|ask| ask["pid"].as_u64()).collect()
    };
    list.iter().map(|one| (text(&one["id"]), text(&one["confidence"]), pids(one))).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A process that holds part of a VM, until its standard input ends.
struct Holding {
    process: Child,
    pid: u64,
    child: u64,
}

impl Holding {
    fn start(bench: &Bench, arguments: &[&str]) -> Result<Self> {
        let command = Command::new(HOLD).args(arguments.iter().copied()).stdin(Stdin::Stream);
        let mut process = bench.host.spawn(command)?;
        let (stdout, _) = process.take_output();
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(child) = line.trim().strip_prefix("ready ") else { bail!("hold {arguments:?} says {line:?}") };
        Ok(Self { pid: process.pid().into(), child: child.parse()?, process })
    }

    fn end(mut self) -> Result<()> {
        let status = self.process.wait()?;
        ensure!(status == CLEAN, "hold: {status}");
        Ok(())
    }
}

/// A running guest of `tenure` is listed and no finding, and so is a vCPU that never leaves guest mode by itself.
pub(crate) fn running_guests_are_no_finding(bench: &mut Bench) -> Result<Verdict> {
    let vmm = start_linux(bench, "tenure.test=hang")?;
    vmm.wait_for("guest: fact hanging")?;
    let (status, report) = audit(bench)?;
    ensure!(status == CLEAN && report["complete"] == true, "{status} {report:#}");
    let memories = report["memories"].as_array().context("no memories")?;
    ensure!(!memories.is_empty(), "{report:#}");
    for memory in memories {
        ensure!(memory["state"] == "running" && memory["held_by"][0]["pid"] == vmm.pid(), "{report:#}");
    }
    let vms = report["vms"].as_array().context("no VMs")?;
    ensure!(vms.len() == 1 && vms[0]["creator"] == vmm.pid() && vms[0]["creator_holds"] == true, "{report:#}");
    vmm.kill(SIGTERM)?;
    bench.finish(vmm)?.0.check_code(0)?;

    let busy = Holding::start(bench, &["--vcpu", "busy"])?;
    let (status, report) = audit(bench)?;
    let memory = &report["memories"][0];
    ensure!(status == CLEAN && memory["state"] == "running", "{status} {report:#}");
    println!("a busy vCPU: {}", memory["state_evidence"]);
    busy.end()?;
    let (status, report) = audit(bench)?;
    ensure!(status == CLEAN && report["holders"].as_array().is_some_and(Vec::is_empty), "{status} {report:#}");
    Ok(Verdict::Passed)
}

/// What a process inherited of a running guest is found, and what it pins after that guest's process has ended.
pub(crate) fn what_is_inherited_is_found(bench: &mut Bench) -> Result<Verdict> {
    let holding = Holding::start(bench, &["--vcpu", "halted", "--leak", "--child"])?;
    let (status, report) = audit(bench)?;
    let expected = [
        ("inherited", "certain", vec![holding.child, holding.pid]),
        ("not-close-on-exec", "certain", vec![holding.pid]),
    ];
    ensure!(status == FINDINGS && findings(&report) == expected, "{status} {report:#}");
    ensure!(report["memories"][0]["state"] == "running", "{report:#}");
    holding.end()?;

    let holding = Holding::start(bench, &["--leak", "--child", "--leave"])?;
    let (status, report) = audit(bench)?;
    let child = vec![holding.child];
    let expected = [
        ("pinned-without-vcpu", "certain", child.clone()),
        ("orphan-vm", "certain", child.clone()),
        ("not-close-on-exec", "certain", child),
    ];
    ensure!(status == FINDINGS && findings(&report) == expected, "{status} {report:#}");
    ensure!(report["findings"][1]["bytes"] == 4 << 20, "{report:#}");
    holding.end()?;
    Ok(Verdict::Passed)
}

/// A guest that stands still, memory of several VMs, and a VM whose descriptor is gone.
pub(crate) fn what_pins_without_running_is_found(bench: &mut Bench) -> Result<Verdict> {
    type Expected = &'static [(&'static str, &'static str)];
    let cases: [(&[&str], Expected); 3] = [
        (&["--vcpu", "stopped"], &[("pinned-without-vcpu", "likely")]),
        (&["--vms", "2"], &[("pinned-without-vcpu", "certain"), ("several-vms", "likely")]),
        (&["--close-vm"], &[("pinned-without-vcpu", "certain"), ("orphan-vm", "likely")]),
    ];
    for (arguments, expected) in cases {
        let holding = Holding::start(bench, arguments)?;
        let (status, report) = audit(bench)?;
        let found = findings(&report);
        let kinds: Vec<_> = found.iter().map(|(id, confidence, _)| (*id, *confidence)).collect();
        ensure!(status == FINDINGS && kinds == expected, "{arguments:?}: {status} {report:#}");
        ensure!(found.iter().all(|(_, _, ask)| ask == &[holding.pid]), "{arguments:?}: {report:#}");
        holding.end()?;
    }
    Ok(Verdict::Passed)
}
