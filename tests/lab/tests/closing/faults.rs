//! Calls of the kernel that fail, and panics in their place: at each step of a launch, while the guest runs, in teardown.

use anyhow::{Context, Result, ensure};
use tenure::report::{GuestOutcome, Verdict as Evidence};

use crate::bench::{Bench, self_test};
use crate::vmm::{Ended, Program};
use test_harness::Verdict;

/// Every call a launch makes, in order, with the error that is plausible there. `trap_msrs` belongs to the `sev` guise.
const LAUNCH: [&str; 15] = [
    "supported_cpuid=ENOMEM",
    "create_vm=ENOMEM",
    "create_gmem=EMFILE",
    "create_slot:1=EEXIST",
    "set_owner:1=ENOMEM",
    "enable_conversion_requests=EINVAL",
    "tsc_khz=EIO",
    "create_slot:2=ENOMEM",
    "trap_msrs=EINVAL",
    "create_interrupt_controller=EEXIST",
    "create_vcpu:1=ENOMEM",
    "set_cpuid:1=EINVAL",
    "set_initial_state:1=EINVAL",
    "create_vcpu:2=EMFILE",
    "set_cpuid:2=EINVAL",
];
/// Exit code of a run whose teardown was not clean.
const NOT_CLEAN: u32 = 5;
/// Of these, the ones before there is a VM.
const BEFORE_THE_VM: [&str; 2] = ["supported_cpuid=ENOMEM", "create_vm=ENOMEM"];

fn run(bench: &Bench, faults: &[&str], option: &str) -> Result<(Ended, usize)> {
    let mut arguments: Vec<&str> = faults.iter().flat_map(|fault| [option, fault]).collect();
    arguments.extend(self_test());
    if faults.iter().any(|fault| fault.starts_with("trap_msrs")) {
        arguments.extend(["--guise", "sev"]);
    }
    let vmm = bench.start(Program::Faulty, &arguments)?;
    let (ended, lives) = bench.finish(vmm)?;
    Ok((ended, lives.0.len()))
}

/// pages-before-key: whatever step of the launch fails, all that was made is closed in order, and the error names the call.
pub(crate) fn launch_fails(bench: &mut Bench) -> Result<Verdict> {
    for fault in LAUNCH {
        let (ended, vms) = run(bench, &[fault], "--fail").context(fault)?;
        let check = || -> Result<()> {
            ended.check_code(3)?;
            let (call, _) = fault.split_once([':', '=']).context("a fault")?;
            ensure!(ended.messages.contains(&format!("failure asked for at {call}:")), "{}", ended.said());
            if BEFORE_THE_VM.contains(&fault) {
                ensure!(vms == 0, "there was a VM");
                return Ok(());
            }
            ensure!(vms == 1, "there were {vms} VMs");
            ensure!(matches!(ended.outcome(), Some(GuestOutcome::NotStarted { .. })), "{:?}", ended.outcome());
            ended.check_receipt()
        };
        check().context(fault)?;
    }
    Ok(Verdict::Passed)
}

/// pages-before-key: calls that fail while the guest runs and in teardown. `0`: the run does without.
pub(crate) fn running_fails(bench: &mut Bench) -> Result<Verdict> {
    let cases: [(&[&str], u32); 11] = [
        (&["allocated=EIO"], 0),
        (&["run:1=EFAULT"], 4),
        (&["run:30=EIO"], 4),
        // The guest says that staging can go; it goes in teardown.
        (&["delete_slot:1=EIO"], 4),
        // A slot that cannot be deleted keeps no page.
        (&["delete_slot:2=EIO"], 0),
        // As on a VM the kernel declared dead.
        (&["run:30=EIO", "delete_slot:1=EIO", "delete_slot:2=EIO"], 4),
        // Conversions: refused, and done with a copy that is discarded later.
        (&["set_owner:2=ENOMEM"], 4),
        (&["discard:1=EIO"], 0),
        (&["discard:1=done,EIO"], 0),
        // Nobody knows what the kernel did, whether it did or not: in doubt until the end, which is then not clean.
        (&["set_owner:2=EINTR"], NOT_CLEAN),
        (&["set_owner:2=done,EINTR"], NOT_CLEAN),
    ];
    for (faults, code) in cases {
        let check = || -> Result<()> {
            let (ended, vms) = run(bench, faults, "--fail")?;
            ended.check_code(code)?;
            ensure!(vms == 1, "there were {vms} VMs");
            if code != NOT_CLEAN {
                return ended.check_receipt();
            }
            // One request, whichever vCPU's it was, with the reason; everything else is as it should be.
            let receipt = ended.receipt().context("no receipt")?;
            ensure!(receipt.in_doubt_pages != 0 && receipt.doubts.len() == 1, "{receipt:?}");
            ensure!(receipt.doubts[0].contains("failure asked for"), "{receipt:?}");
            let evidence = receipt.evidence.iter().all(|evidence| evidence.verdict == Evidence::Holds);
            ensure!(evidence && receipt.debts.is_empty(), "{receipt:?}");
            Ok(())
        };
        check().with_context(|| faults.join(" "))?;
    }
    Ok(Verdict::Passed)
}

/// pages-before-key: a vCPU's thread panics, with another in the guest; teardown is as ever.
pub(crate) fn vcpu_thread_panics(bench: &mut Bench) -> Result<Verdict> {
    for fault in ["run:1", "run:2", "run:40", "delete_slot:1"] {
        let check = || -> Result<()> {
            let (ended, vms) = run(bench, &[fault], "--panic")?;
            ended.check_code(4)?;
            ensure!(vms == 1, "there were {vms} VMs");
            ensure!(ended.messages.contains(&format!("panic asked for at {fault}")), "{}", ended.said());
            let told = matches!(ended.outcome(), Some(GuestOutcome::Crashed { reason }) if reason.contains("panicked"));
            ensure!(told, "{:?}", ended.outcome());
            ended.check_receipt()
        };
        check().context(fault)?;
    }
    Ok(Verdict::Passed)
}

/// pages-before-key: the main thread panics, in each step of the launch and in teardown; unwinding closes in order.
pub(crate) fn main_thread_panics(bench: &mut Bench) -> Result<Verdict> {
    let launch = LAUNCH.map(|fault| fault.split_once('=').map_or(fault, |(moment, _)| moment));
    for fault in launch.into_iter().chain(["allocated", "delete_slot:2"]) {
        let check = || -> Result<()> {
            let (ended, _) = run(bench, &[fault], "--panic")?;
            ended.check_code(5)?;
            ensure!(ended.messages.contains("panic asked for at"), "{}", ended.said());
            ensure!(ended.receipt().is_none(), "a receipt by somebody who panicked: {:?}", ended.receipt());
            Ok(())
        };
        check().context(fault)?;
    }
    Ok(Verdict::Passed)
}
