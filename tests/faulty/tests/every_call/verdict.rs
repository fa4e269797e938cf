//! What must hold after a run, whatever went wrong in it.

use anyhow::{Context, Result, anyhow, bail, ensure};
use gmem_kvm::testing::fake::{Call, FakeKernel};
use gmem_kvm::testing::fault::{Failure, Moment, PortCall};
use tenure::config::Tee;
use tenure::exit::ExitCode;
use tenure::report::{GuestOutcome, RunReport, Severity, Verdict};

use crate::one_run::Seen;
use crate::scenarios::Scenario;
use crate::whole;

/// Nothing goes wrong: the run ends as its script says, with a clean receipt.
pub(crate) fn of_calm_run(scenario: &Scenario, seen: &Seen) -> Result<()> {
    let report = always(scenario, seen)?.context("there was no VM")?;
    ensure!(report.outcome == scenario.outcome, "ended with {:?}", report.outcome);
    ensure!(report.teardown.is_clean(), "not clean: {:?}", report.teardown);
    Ok(())
}

/// One call failed.
pub(crate) fn of_failure(scenario: &Scenario, seen: &Seen, failure: Failure) -> Result<()> {
    let Some(report) = always(scenario, seen)? else {
        let before_the_vm = [PortCall::SupportedCpuid, PortCall::CreateVm].contains(&failure.at.call);
        ensure!(before_the_vm, "no report, although there was a VM");
        return named(failure, &error_of(seen));
    };
    let (outcome, events) = (&report.outcome, &seen.events);
    let ended = *outcome == scenario.outcome;
    match failure.at.call {
        PortCall::SupportedCpuid | PortCall::CreateVm => bail!("there was a VM"),
        PortCall::CreateGmem
        | PortCall::CreateSlot
        | PortCall::EnableConversionRequests
        | PortCall::TscKhz
        | PortCall::TrapMsrs
        | PortCall::CreateInterruptController
        | PortCall::CreateVcpu
        | PortCall::SetCpuid
        | PortCall::SetInitialState
        | PortCall::SnpInit
        | PortCall::SnpEnableCertificateRequests
        | PortCall::SnpLaunchStart
        | PortCall::SnpLaunchUpdate
        | PortCall::SnpLaunchFinish => launch_failed(report, failure),
        // Of the launch, or asked for by the guest.
        PortCall::SetOwner if matches!(outcome, GuestOutcome::NotStarted { .. }) => launch_failed(report, failure),
        PortCall::SetOwner => {
            ensure!(ended, "ended with {outcome:?}");
            named(failure, events)?;
            let doubt = events.contains("\"kind\":\"in_doubt\"");
            ensure!(doubt == (report.memory.in_doubt.get() != 0), "the events and the receipt differ about doubt");
            ensure!(doubt != report.teardown.is_clean(), "doubt {doubt}, and the teardown clean or not");
            Ok(())
        }
        // A copy that could not be discarded at once was discarded later, and the event said so.
        PortCall::Discard => {
            ensure!(ended && report.teardown.is_clean(), "ended with {outcome:?}, {:?}", report.teardown);
            ensure!(events.contains("\"kind\":\"debt\""), "no event told of the debt: {events}");
            Ok(())
        }
        // While the guest runs it is the guest's end: staging would stay. In teardown it is a note.
        PortCall::DeleteSlot => {
            if !ended {
                named(failure, &format!("{outcome:?}"))?;
            }
            let noted = report.teardown.steps.iter().filter_map(|step| step.error.as_deref());
            let noted: String = noted.collect();
            ensure!(!ended || !noted.is_empty(), "nobody tells of the slot");
            if ended {
                named(failure, &noted)?;
            }
            ensure!(report.teardown.is_clean(), "not clean: {:?}", report.teardown);
            Ok(())
        }
        PortCall::Run | PortCall::CompleteExit => {
            let GuestOutcome::Crashed { reason } = outcome else {
                // The other vCPU's thread may have come to its end first.
                ensure!(ended, "ended with {outcome:?}");
                return Ok(());
            };
            ensure!(report.teardown.is_clean(), "not clean: {:?}", report.teardown);
            named(failure, reason)
        }
        // A line that cannot be driven is one interrupt less, a page that is not mapped ahead is mapped later: guests survive
        // both; resident pages are then unknown.
        PortCall::SetIrqLine | PortCall::Prefault => {
            ensure!(ended && report.teardown.is_clean(), "ended with {outcome:?}, {:?}", report.teardown);
            Ok(())
        }
        PortCall::Allocated => {
            ensure!(ended && report.teardown.is_clean(), "ended with {outcome:?}, {:?}", report.teardown);
            ensure!(report.memory.private_resident.is_none(), "a number nobody knows");
            Ok(())
        }
    }
}

/// A thread panicked. Whichever it was, nothing is left, and what can still be told is true.
pub(crate) fn of_panic(scenario: &Scenario, seen: &Seen, at: Moment) -> Result<()> {
    nothing_is_left(seen)?;
    let Ok(result) = &seen.result else {
        // The main thread's: unwinding closed everything, and there is nobody to report.
        return Ok(());
    };
    let report = result.as_ref().map_err(|error| anyhow!("no report: {error}"))?;
    the_receipt_is_true(scenario, seen, report)?;
    match &report.outcome {
        GuestOutcome::Crashed { reason } => {
            ensure!(reason.contains("panicked"), "it crashed for another reason: {reason}");
        }
        // The panic did not come this time, or not before the guest had ended.
        outcome => ensure!(*outcome == scenario.outcome, "ended with {outcome:?} after a panic at {at}"),
    }
    Ok(())
}

/// The VM died in the middle.
pub(crate) fn of_death(scenario: &Scenario, seen: &Seen) -> Result<()> {
    let report = always(scenario, seen)?.context("no report, although there was a VM")?;
    let (outcome, told) = (&report.outcome, "errno 5");
    let reason = match outcome {
        GuestOutcome::NotStarted { reason } | GuestOutcome::Crashed { reason } => reason.as_str(),
        // It died so late that only teardown saw it, or the guest did not mind.
        _ => {
            ensure!(*outcome == scenario.outcome, "ended with {outcome:?}");
            told
        }
    };
    ensure!(reason.contains(told), "the reason does not name the error: {reason}");
    ensure!(report.teardown.is_clean(), "not clean: {:?}", report.teardown);
    let slots = report.teardown.steps.iter().filter(|step| step.what.starts_with("slot"));
    for step in slots {
        ensure!(step.severity == Severity::Note, "{step:?}");
    }
    Ok(())
}

/// What holds after every run: nobody panicked, nothing is left, pages went before the key, and the receipt says what
/// the kernel had. The report, if there was a VM.
pub(crate) fn always<'a>(scenario: &Scenario, seen: &'a Seen) -> Result<Option<&'a RunReport>> {
    let Ok(result) = &seen.result else { bail!("it panicked") };
    ensure!(!seen.events.contains("panicked"), "a thread panicked: {}", seen.events);
    nothing_is_left(seen)?;
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            ensure!(error.exit_code() == ExitCode::LaunchFailed, "{error} has exit code {:?}", error.exit_code());
            return Ok(None);
        }
    };
    the_receipt_is_true(scenario, seen, report)?;
    let expected = match &report.outcome {
        _ if !report.teardown.is_clean() => ExitCode::TeardownNotClean,
        GuestOutcome::NotStarted { .. } => ExitCode::LaunchFailed,
        GuestOutcome::Crashed { .. } | GuestOutcome::SelfTest { failed_checks: 1.. } => ExitCode::GuestCrashed,
        _ => ExitCode::Success,
    };
    ensure!(report.exit_code() == expected, "{:?} has exit code {:?}", report.outcome, report.exit_code());
    Ok(Some(report))
}

fn nothing_is_left(seen: &Seen) -> Result<()> {
    ensure!(seen.kernel.is_empty(), "something of a VM is left in the kernel");
    ensure!(seen.kernel.complaints().is_empty(), "the guest complains: {:?}", seen.kernel.complaints());
    pages_went_first(&seen.kernel)
}

/// By the kernel's own record.
fn pages_went_first(kernel: &FakeKernel) -> Result<()> {
    let record = kernel.record();
    let position = |wanted: fn(&Call) -> bool| record.iter().position(|entry| wanted(&entry.call));
    let pages = position(|call| matches!(call, Call::PagesFreed { .. }));
    let key = position(|call| *call == Call::KeyFreed);
    if let (Some(pages), Some(key)) = (pages, key) {
        ensure!(pages < key, "the key was freed while there were pages");
    }
    Ok(())
}

/// The receipt against what the kernel had when the guest_memfd was closed.
fn the_receipt_is_true(scenario: &Scenario, seen: &Seen, report: &RunReport) -> Result<()> {
    let (memory, teardown) = (&report.memory, &report.teardown);
    ensure!(memory.ram.get() == whole(scenario), "{} of {} pages", memory.ram, whole(scenario));
    let listed: u64 = teardown.pages.iter().map(|state| state.pages).sum();
    ensure!(listed == whole(scenario), "the receipt lists {listed} pages");
    for evidence in &teardown.evidence {
        // The guest_memfd of a launch that failed may never have been there.
        ensure!(!matches!(evidence.verdict, Verdict::Fails { .. }), "{evidence:?}");
    }
    let Some((private, allocated)) = seen.kernel.last_held() else { return Ok(()) };
    ensure!(scenario.tee != Tee::None, "a guest_memfd where there is no privacy");
    if let Some(resident) = memory.private_resident {
        ensure!(resident.get() == allocated, "{resident} resident, and the kernel had {allocated}");
    }
    let (least, most) = (memory.private.get(), memory.private.get() + memory.in_doubt.get());
    let told = private.len();
    let launched = !matches!(report.outcome, GuestOutcome::NotStarted { .. });
    ensure!(told <= most, "the kernel holds {told} pages private, the receipt at most {most}");
    ensure!(!launched || told >= least, "the kernel holds {told} pages private, the receipt at least {least}");
    Ok(())
}

fn launch_failed(report: &RunReport, failure: Failure) -> Result<()> {
    let GuestOutcome::NotStarted { reason } = &report.outcome else { bail!("ended with {:?}", report.outcome) };
    ensure!(report.teardown.is_clean(), "not clean: {:?}", report.teardown);
    let (step, _) = reason.split_once(": ").context("no step in the reason")?;
    ensure!(!step.is_empty() && !step.contains("KVM_"), "no step in `{reason}`");
    named(failure, reason)
}

/// The call, its number and the errno are in what people are told.
fn named(failure: Failure, told: &str) -> Result<()> {
    let (call, at, errno) = (failure.at.call.kernel_name(), failure.at, failure.errno);
    for what in [call.to_owned(), format!("asked for at {at}"), format!("errno {errno}")] {
        ensure!(told.contains(&what), "`{what}` is not in `{told}`");
    }
    Ok(())
}

fn error_of(seen: &Seen) -> String {
    match &seen.result {
        Ok(Err(error)) => error.to_string(),
        _ => String::new(),
    }
}
