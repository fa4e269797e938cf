//! Every call of the kernel port fails in turn, in whole runs: with each errno the kernel has for it, before or after
//! taking effect; and the VM dies at each call.
//!
//! Laws *pages-before-key*, *known-owner*, *no-stale-copy* and *no-silent-trust*. Everything above the port is `tenure`'s
//! own code, from the configuration to the receipt; below it is the kernel in memory (`gmem_kvm::testing::fake`), whose
//! guest is a script that checks what it is promised. What must hold after each run is in [`verdict`]. The same faults
//! on the real kernel are injected in the lab (`tests/lab/tests/closing/faults.rs`), where one run takes a hundred times
//! as long.

mod one_run;
mod scenarios;
mod verdict;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use gmem_kvm::testing::errnos;
use gmem_kvm::testing::fault::{Effect, Failure, Moment, PortCall};
use one_run::{Trouble, run};
use scenarios::{ALL, Scenario};
use test_harness::{Case, Verdict};

const CASES: [Case<Tally>; 5] = [
    Case { name: "pages_before_key_whatever_call_fails", run: each_call_fails },
    Case { name: "pages_before_key_whatever_call_fails_and_slots_stay", run: each_call_fails_and_slots_stay },
    Case { name: "pages_before_key_whenever_the_vm_dies", run: the_vm_dies },
    Case { name: "pages_before_key_wherever_a_thread_panics", run: each_call_panics },
    Case { name: "pages_before_key_injected_points", run: Tally::report },
];

fn main() -> ExitCode {
    test_harness::main(&CASES, || Ok(Tally::default()), |_| {})
}

/// How often each call was made to fail.
#[derive(Default)]
struct Tally {
    failures: BTreeMap<PortCall, u64>,
    deaths: u64,
    panics: u64,
    /// Failures with a second one: no slot can be deleted.
    pairs: u64,
    /// Failures that no kernel can answer: an error after an effect, with an errno that proves there was none.
    impossible: u64,
    /// Failures whose call did not come this time: threads decide how often a vCPU is entered.
    not_reached: u64,
}

/// What goes wrong, run for run.
fn each_call_fails(tally: &mut Tally) -> Result<Verdict> {
    for scenario in &ALL {
        let calm = run(scenario, Trouble::None);
        verdict::of_calm_run(scenario, &calm).with_context(|| scenario.name)?;
        for call in PortCall::ALL {
            for number in 1..=calm.faults.count(call) {
                for failure in failures(Moment { call, number }, tally) {
                    let troubled = run(scenario, Trouble::Fails(failure));
                    if troubled.faults.struck() == 0 {
                        tally.not_reached += 1;
                        continue;
                    }
                    *tally.failures.entry(call).or_default() += 1;
                    verdict::of_failure(scenario, &troubled, failure)
                        .with_context(|| format!("{}, {failure}", scenario.name))?;
                }
            }
        }
    }
    Ok(Verdict::Passed)
}

/// Every way in which this call can fail.
fn failures(at: Moment, tally: &mut Tally) -> Vec<Failure> {
    let mut all = Vec::new();
    for errno in errnos::of(at.call) {
        for effect in [Effect::Nothing, Effect::Done] {
            if effect == Effect::Done && errnos::proves_no_effect(at.call, *errno) {
                tally.impossible += 1;
            } else {
                all.push(Failure { at, errno: errno.raw_os_error(), effect });
            }
        }
    }
    all
}

/// The same, and besides no slot can be deleted, neither when the guest is done with staging nor in teardown.
fn each_call_fails_and_slots_stay(tally: &mut Tally) -> Result<Verdict> {
    for scenario in &ALL {
        let calm = run(scenario, Trouble::SlotsStay(None));
        for call in PortCall::ALL.into_iter().filter(|call| *call != PortCall::DeleteSlot) {
            for number in 1..=calm.faults.count(call) {
                for failure in failures(Moment { call, number }, &mut Tally::default()) {
                    tally.pairs += 1;
                    let troubled = run(scenario, Trouble::SlotsStay(Some(failure)));
                    verdict::always(scenario, &troubled)
                        .with_context(|| format!("{}, {failure} and slots stay", scenario.name))?;
                }
            }
        }
    }
    Ok(Verdict::Passed)
}

/// Whichever thread makes a call panics instead.
fn each_call_panics(tally: &mut Tally) -> Result<Verdict> {
    // A thousand messages of panics that were asked for would hide one that was not.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = each_call_panics_quietly(tally);
    std::panic::set_hook(hook);
    result
}

fn each_call_panics_quietly(tally: &mut Tally) -> Result<Verdict> {
    for scenario in &ALL {
        let calm = run(scenario, Trouble::None);
        for call in PortCall::ALL {
            for number in 1..=calm.faults.count(call) {
                let at = Moment { call, number };
                tally.panics += 1;
                let troubled = run(scenario, Trouble::Panics(at));
                verdict::of_panic(scenario, &troubled, at)
                    .with_context(|| format!("{}, panic at {at}", scenario.name))?;
            }
        }
    }
    Ok(Verdict::Passed)
}

/// The VM dies at each call: from then on every call on it answers EIO.
fn the_vm_dies(tally: &mut Tally) -> Result<Verdict> {
    for scenario in &ALL {
        let calm = run(scenario, Trouble::None);
        for call in PortCall::ALL.into_iter().filter(|call| errnos::dies_with_the_vm(*call)) {
            for number in 1..=calm.faults.count(call) {
                let at = Moment { call, number };
                let troubled = run(scenario, Trouble::Dies(at));
                tally.deaths += 1;
                verdict::of_death(scenario, &troubled).with_context(|| format!("{}, dead from {at}", scenario.name))?;
            }
        }
    }
    Ok(Verdict::Passed)
}

impl Tally {
    /// Last: what the others tried, for a person who reads the output. Calls that were never made are named.
    fn report(&mut self) -> Result<Verdict> {
        let failures: u64 = self.failures.values().sum();
        for (call, count) in &self.failures {
            println!("  {:<28} {:<28} failed {count:>5} times", call.name(), call.kernel_name());
        }
        let never: Vec<_> = PortCall::ALL.into_iter().filter(|call| !self.failures.contains_key(call)).collect();
        println!(
            "  in whole runs of {} kinds: {failures} failures, {} of them again while no slot can be",
            ALL.len(),
            self.pairs
        );
        println!("  deleted, {} deaths of the VM, {} panics", self.deaths, self.panics);
        println!("  {} more cannot be: the errno proves that there was no effect", self.impossible);
        println!("  {} were not reached", self.not_reached);
        // These runs have no SNP guests.
        ensure!(never == PortCall::SNP, "never made to fail: {never:?}");
        ensure!(failures >= 1500, "only {failures} failures");
        Ok(Verdict::Passed)
    }
}

/// Pages of RAM.
pub(crate) fn whole(scenario: &Scenario) -> u64 {
    scenario.memory.0 / gmem::PAGE_SIZE
}
