//! The ends a guest can come to while `tenure` works as it should.

use anyhow::{Context, Result, bail, ensure};
use gmem_kvm::evidence::GUEST_MEMFD_NAMES;
use tenure::report::GuestOutcome;
use tenure::stop::StopReason;

use crate::bench::{Bench, linux, self_test};
use crate::trace::Lives;
use crate::vmm::{Ended, Program, Vmm};
use test_harness::Verdict;

const SIGHUP: u32 = 1;
const SIGINT: u32 = 2;
const SIGTERM: u32 = 15;
/// What the test userland says when it waits for ever.
const HANGING: &str = "guest: fact hanging";

/// Starts the default guest.
pub(crate) fn start_linux(bench: &Bench, cmdline: &str) -> Result<Vmm> {
    let arguments = linux(cmdline);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    bench.start(Program::Tenure, &arguments)
}

fn check(ended: &Ended, lives: &Lives, code: u32) -> Result<()> {
    ended.check_code(code)?;
    ended.check_receipt()?;
    ensure!((lives.0.len(), lives.guest_memfds()) == (1, 1), "not one VM with one guest_memfd: {lives:?}");
    Ok(())
}

/// pages-before-key: the guest ends by itself.
pub(crate) fn normal_end(bench: &mut Bench) -> Result<Verdict> {
    let self_test: fn(&Bench) -> Result<Vmm> = |bench| bench.start(Program::Tenure, &self_test());
    let linux: fn(&Bench) -> Result<Vmm> = |bench| start_linux(bench, "tenure.test=memory:8");
    for (start, outcome) in
        [(self_test, GuestOutcome::SelfTest { failed_checks: 0 }), (linux, GuestOutcome::PoweredOff)]
    {
        let (ended, lives) = bench.finish(start(bench)?)?;
        check(&ended, &lives, 0)?;
        ensure!(ended.outcome() == Some(&outcome), "{:?}\n{}", ended.outcome(), ended.said());
    }
    Ok(Verdict::Passed)
}

/// pages-before-key: the guest's kernel panics, and resets the machine.
pub(crate) fn guest_panics(bench: &mut Bench) -> Result<Verdict> {
    let vmm = start_linux(bench, "reboot=k tenure.test=crash")?;
    let (ended, lives) = bench.finish(vmm)?;
    check(&ended, &lives, 0)?;
    // A guest that did not panic would have switched itself off. Its last words say so too, but other processors may
    // write between their letters.
    ensure!(ended.outcome() == Some(&GuestOutcome::Reset), "{:?}\n{}", ended.outcome(), ended.said());
    Ok(Verdict::Passed)
}

/// pages-before-key: the guest's processor gives up.
pub(crate) fn guest_triple_faults(bench: &mut Bench) -> Result<Verdict> {
    let vmm = start_linux(bench, "reboot=t,force tenure.test=dmesg tenure.end=reboot")?;
    let (ended, lives) = bench.finish(vmm)?;
    check(&ended, &lives, 4)?;
    match ended.outcome() {
        Some(GuestOutcome::Crashed { reason }) if reason.contains("triple fault") => Ok(Verdict::Passed),
        other => bail!("{other:?}\n{}", ended.said()),
    }
}

/// pages-before-key: somebody asks for the end, early and late.
pub(crate) fn asked_to_end(bench: &mut Bench) -> Result<Verdict> {
    let signals = [(SIGTERM, StopReason::Terminate), (SIGINT, StopReason::Interrupt), (SIGHUP, StopReason::Hangup)];
    for (signal, by) in signals {
        let vmm = start_linux(bench, "tenure.test=hang")?;
        // One of them while the guest boots.
        if signal != SIGHUP {
            vmm.wait_for(HANGING)?;
        } else {
            wait_for_a_vm(bench, &vmm)?;
        }
        vmm.kill(signal)?;
        // A request is only a request, however often it is made.
        vmm.kill(signal)?;
        let (ended, lives) = bench.finish(vmm)?;
        check(&ended, &lives, 0)?;
        let expected = GuestOutcome::Stopped { by };
        ensure!(ended.outcome() == Some(&expected), "{:?} instead of {expected:?}\n{}", ended.outcome(), ended.said());
    }
    Ok(Verdict::Passed)
}

/// Waits until a run has a guest_memfd.
fn wait_for_a_vm(bench: &Bench, vmm: &Vmm) -> Result<()> {
    let directory = format!("/proc/{}/fd", vmm.pid());
    for _ in 0..1000 {
        if Descriptors::parse(&bench.look(&directory)?).is_ok() {
            return Ok(());
        }
    }
    bail!("the run never had a VM")
}

/// Numbers of the descriptors that matter in the end.
#[derive(Debug)]
struct Descriptors {
    vm: u32,
    gmem: u32,
}

impl Descriptors {
    fn parse(listing: &str) -> Result<Self> {
        let number = |names: &[&str]| {
            let numbers: Vec<&str> = listing
                .lines()
                .filter_map(|line| line.split_once(' '))
                .filter(|(_, name)| names.iter().any(|known| name.contains(known)))
                .map(|(number, _)| number)
                .collect();
            match numbers[..] {
                [number] => number.parse().with_context(|| number.to_owned()),
                _ => bail!("not one of {names:?}: {listing}"),
            }
        };
        Ok(Self { vm: number(&["kvm-vm"])?, gmem: number(&GUEST_MEMFD_NAMES)? })
    }
}

/// bound-at-birth: the numbers of a running VM's descriptors, which decide what a process that is killed lets go of first,
/// and nothing of it for a child.
pub(crate) fn descriptor_numbers(bench: &mut Bench) -> Result<Verdict> {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let vmm = start_linux(bench, "tenure.test=hang")?;
    vmm.wait_for(HANGING)?;
    let listing = bench.look(&format!("/proc/{}/fd", vmm.pid()))?;
    let descriptors = Descriptors::parse(&listing)?;
    ensure!(descriptors.gmem > descriptors.vm, "{descriptors:?}: {listing}");
    for line in listing.lines().filter(|line| line.contains("kvm") || line.contains("guest_memfd")) {
        let number = line.split(' ').next().unwrap_or_default();
        let info = bench.host.read_to_string(&format!("/proc/{}/fdinfo/{number}", vmm.pid()))?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).context("no flags")?;
        let flags = u32::from_str_radix(flags.trim(), 8)?;
        ensure!(flags & O_CLOEXEC != 0, "a child would inherit {line}");
    }
    vmm.kill(SIGTERM)?;
    let (ended, lives) = bench.finish(vmm)?;
    check(&ended, &lives, 0)?;
    Ok(Verdict::Passed)
}

/// pages-before-key: of two VMs at once one is ended, and the other does not notice.
pub(crate) fn two_at_once(bench: &mut Bench) -> Result<Verdict> {
    let other = start_linux(bench, "tenure.test=hang")?;
    other.wait_for(HANGING)?;
    let ended = Vmm::start(&bench.host, Program::Tenure, &self_test())?.wait(&bench.host)?;
    ended.check_code(0)?;
    let between = bench.tracer.read(&bench.host)?;
    let gone: Vec<bool> = between.0.iter().map(|life| life.destroyed).collect();
    ensure!(gone == [false, true], "{between:?}");
    other.kill(SIGTERM)?;
    let (ended, lives) = bench.finish(other)?;
    ended.check_code(0)?;
    ensure!((lives.0.len(), lives.guest_memfds()) == (2, 2), "{lives:?}");
    Ok(Verdict::Passed)
}
