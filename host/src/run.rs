//! One guest, from its configuration to its receipt.
//!
//! Owns the path a run takes, readable from top to bottom in [`run`]: files are read and checked, a VM is put together
//! as its [`Launch`](gmem::launch::Launch) says, vCPU threads run until something ends the guest, and teardown closes everything in the order
//! of the law *pages-before-key*, whatever happened before. Generic over the kernel port: what runs here on KVM is what
//! runs in tests on other kernels.

mod assemble;
pub mod certificates;
mod cmdline;
mod cpuid;
mod handed;
mod launch;
mod launch_log;
mod linux;
mod machine;
mod measured;
pub mod predict;
mod prepare;
mod report;
mod snp;
mod snp_exits;
mod staged;
mod sw;
mod test_evidence;
mod threads;
mod wiring;

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use ::snp::ovmf::Ovmf;
use gmem::layout::LayoutError;
use gmem_kvm::port::{CallError, Kernel, KernelVm};
use gmem_kvm::vm::LaunchError;
use guest_fw::abi;
use rustix::event::{PollFd, PollFlags, poll};

use crate::config::inputs::Inputs;
use crate::config::{RunConfig, Tee};
use crate::devices::DeviceCounts;
use crate::devices::virtio::channels::Session;
use crate::events::{Event, EventLog};
use crate::exit::ExitCode;
use crate::firmware::{self, FirmwareError, FirmwareImage};
use crate::report::{GuestOutcome, RunReport};
use crate::stop::{StopReason, StopSignal};
use assemble::{Assembled, Steps};
use launch::{Launched, launch};
use machine::Machine;
use prepare::{Prepared, Technology, prepare};
use threads::{Stopped, VcpuThreads};
use wiring::{Carriers, Consoles};

pub use launch::launch_only;
pub use launch_log::LaunchLogError;
pub use linux::LinuxError;
pub use report::host;
pub use snp::SnpError;
pub use staged::PlanningError;

/// The launch step whose detail is the digest that an SNP guest will have.
pub const PREDICTED: &str = "predict the launch digest";

/// Where a run's output goes and where its input and its end come from.
pub struct Ends {
    /// What happens, for programs.
    pub events: EventLog,
    /// What the guest writes to its serial console.
    pub console_output: Box<dyn Write + Send>,
    /// What it reads from there. Its end is the end of the input or a request to stop.
    pub console_input: Option<Box<dyn Read + Send>>,
    /// What it writes to its virtio-console.
    pub virtio_output: Box<dyn Write + Send>,
    /// What it reads from there. Its end is the end of the input or a request to stop.
    pub virtio_input: Option<Box<dyn Read + Send>>,
    /// Who serves the channels the guest finds; without any there is no device for them.
    pub channels: Vec<ChannelServer>,
    /// A request that the guest end.
    pub stop: StopSignal,
}

/// Who serves a channel of the guest's.
pub struct ChannelServer {
    /// The name the guest finds it by.
    pub channel: &'static str,
    /// Serves one session; the next one waits until it returns. It must return soon once the session has ended, which
    /// the end of the guest is to all of them.
    pub serve: Box<dyn FnMut(&Session) + Send>,
}

impl fmt::Debug for ChannelServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelServer").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ends").field("events", &self.events).field("stop", &self.stop).finish_non_exhaustive()
    }
}

/// Why there is no run to report on: no VM was created.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Kernel or RAM disk.
    #[error(transparent)]
    Linux(#[from] LinuxError),
    /// Size of RAM.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The firmware this program was built with, or `GUEST_FW_ELF`.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// This technology cannot be run yet.
    #[error("tee {tee} is not built yet: this version runs snp, sw and none")]
    NotBuilt {
        /// Which.
        tee: Tee,
    },
    /// What is launched cannot be, or is not what its owner signed.
    #[error(transparent)]
    Snp(#[from] SnpError),
    /// The launch of a guest that is only predicted.
    #[error("plan the launch: {0}")]
    Planning(#[from] PlanningError),
    /// A test's root signs what was measured, and nothing could be.
    #[error("measure the launch: {0}")]
    Measure(#[from] ::snp::measure::MeasureError),
    /// A guest cannot be told what it is launched as.
    #[error(transparent)]
    LaunchLog(#[from] LaunchLogError),
    /// A firmware that starts where nothing is encrypted is ours.
    #[error("OVMF needs tee snp, but tee is {tee}")]
    OvmfNeedsSnp {
        /// Which.
        tee: Tee,
    },
    /// A test's root must not sign what hardware could.
    #[error("test-root needs tee sw, but tee is {tee}")]
    TestRootNeedsSw {
        /// Which.
        tee: Tee,
    },
    /// The guise needs an AMD-type CPU.
    #[error("guise sev needs an AMD-type CPU, whose guests can execute vmmcall as it is")]
    GuiseNeedsAmd,
    /// No room for what this platform's guests must be told.
    #[error(
        "cmdline has {len} bytes, and {with_ours} with what is added for this platform: more than {max}",
        max = abi::CMDLINE_MAX
    )]
    CmdlineTooLong {
        /// Bytes that were given.
        len: usize,
        /// Bytes it would have.
        with_ours: u64,
    },
    /// The kernel refused to create a VM, or to say what it can do.
    #[error(transparent)]
    Kernel(#[from] CallError),
    /// The kernel refused to create a VM, or memory for it.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

impl RunError {
    /// What the command's exit code is.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotBuilt { .. } | Self::GuiseNeedsAmd | Self::Layout(LayoutError::BeyondAddressWidth { .. }) => {
                ExitCode::NotCapable
            }
            Self::Linux(_)
            | Self::Layout(_)
            | Self::Firmware(_)
            | Self::Snp(_)
            | Self::Planning(_)
            | Self::Measure(_)
            | Self::LaunchLog(_)
            | Self::OvmfNeedsSnp { .. }
            | Self::TestRootNeedsSw { .. }
            | Self::CmdlineTooLong { .. } => ExitCode::Usage,
            Self::Kernel(_) | Self::Launch(_) => ExitCode::LaunchFailed,
        }
    }
}

/// The first code in a guest.
#[derive(Debug)]
pub enum Firmware<'a> {
    /// Ours.
    Ours(FirmwareImage<'a>),
    /// OVMF, for SNP guests only. It cannot boot anything here: there are none of the devices it asks what to boot.
    Ovmf(&'a Ovmf),
}

impl<'a> Firmware<'a> {
    /// What `inputs` say, or else ours.
    fn of(inputs: &'a Inputs) -> Result<Self, FirmwareError> {
        inputs.firmware.as_ref().map_or_else(|| firmware::image().map(Self::Ours), |image| Ok(Self::Ovmf(image)))
    }
}

/// Runs a guest until it ends or is asked to, and tears it down. `tee` is what to use: never [`Tee::Auto`].
pub fn run<K: Kernel>(
    kernel: &K,
    tee: Tee,
    config: &RunConfig,
    inputs: &Inputs,
    ends: Ends,
) -> Result<RunReport, RunError> {
    run_with_firmware(kernel, tee, config, inputs, Firmware::of(inputs)?, ends)
}

/// The same with another firmware than the one this program was built with.
pub fn run_with_firmware<K: Kernel>(
    kernel: &K,
    tee: Tee,
    config: &RunConfig,
    inputs: &Inputs,
    firmware: Firmware<'_>,
    mut ends: Ends,
) -> Result<RunReport, RunError> {
    let started = Instant::now();
    let events = ends.events.clone();
    report::started(&events, tee, config);
    let mut steps = Steps::new(&events);
    let mut prepared = prepare(kernel, tee, config, inputs, firmware)?;
    if let Technology::Snp(guest) = &prepared.technology {
        steps.done("plan", Some(guest.launch.to_string()));
        steps.done(PREDICTED, Some(guest.digest.to_string()));
        if config.relying_party.is_some() {
            ends.channels.push(launch_log::server(config, guest)?);
        }
    }
    if let Some(evidence) = prepared.technology.test_evidence() {
        ends.channels.push(evidence.server());
    }
    let mut carriers = Carriers::new(&ends);
    let mut round = Round { number: 0, started };
    loop {
        let report = run_once(kernel, tee, config, &mut prepared, round, &mut carriers, &mut ends);
        let goes_on = report.as_ref().is_ok_and(|report| {
            // Nothing is launched beside what may be left of another guest.
            may_go_on(&prepared.technology, round.number, &ends.stop, &report.outcome) && report.teardown.is_clean()
        });
        if !goes_on {
            // Whoever still waits for input waits on this as well; the outcome is settled.
            ends.stop.request(StopReason::Internal);
            let stuck = carriers.join().err().map(|stuck| stuck.to_string());
            return report.map(|mut report| {
                report.warnings.extend(stuck);
                report
            });
        }
        round = Round { number: round.number + 1, started: Instant::now() };
        events.emit(Event::Relaunch { resets: round.number });
    }
}

/// One VM after the other.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// How often the guest reset itself before.
    number: u32,
    started: Instant,
}

/// Whether a guest with this outcome is launched once more.
fn may_go_on(technology: &Technology<'_>, resets: u32, stop: &StopSignal, outcome: &GuestOutcome) -> bool {
    let allowed = match technology {
        Technology::Staged(_) => false,
        Technology::Snp(guest) => guest.resets.is_none_or(|most| resets < most),
    };
    *outcome == GuestOutcome::Reset && allowed && stop.reason().is_none()
}

/// One VM, from its creation to its receipt.
fn run_once<K: Kernel>(
    kernel: &K,
    tee: Tee,
    config: &RunConfig,
    prepared: &mut Prepared<'_>,
    round: Round,
    carriers: &mut Carriers,
    ends: &mut Ends,
) -> Result<RunReport, RunError> {
    let events = ends.events.clone();
    let place = report::place(config, tee, prepared.vm_type);
    let Launched { vm, assembled, vcpus } = match launch(kernel, config, prepared, carriers.served(), &events)? {
        Ok(launched) => launched,
        Err(failed) => return Ok(failed.teardown(&events, place, round.started.elapsed())),
    };
    let launched = Instant::now();
    let last =
        |outcome: &GuestOutcome, stop: &StopSignal| !may_go_on(&prepared.technology, round.number, stop, outcome);
    let Operated { machine, counts, stopped, ended } = operate(assembled, vcpus, carriers, ends, last);

    let exits = stopped.iter().map(|vcpu| vcpu.as_ref().map(|stopped| stopped.exits.clone()).unwrap_or_default());
    let exits = exits.collect();
    let vcpus = stopped.into_iter().flatten().map(|Stopped { vcpu, .. }| vcpu).collect();
    let receipt = vm.teardown(vcpus);
    let timing = report::timing(launched - round.started, ended - launched, &receipt);
    Ok(report::finished(&events, place, timing, &machine, &counts, exits, &receipt))
}

/// What is left when the guest has ended and nothing of it runs.
struct Operated<V: KernelVm> {
    machine: Arc<Machine<V>>,
    counts: DeviceCounts,
    /// vCPUs in their order; none where a thread panicked.
    stopped: Vec<Option<Stopped<V::Vcpu>>>,
    ended: Instant,
}

/// Lets the guest run until it ends or is asked to, and stops all that runs for it.
fn operate<V: KernelVm>(
    assembled: Assembled<V>,
    vcpus: Vec<V::Vcpu>,
    carriers: &mut Carriers,
    ends: &mut Ends,
    is_last: impl FnOnce(&GuestOutcome, &StopSignal) -> bool,
) -> Operated<V> {
    let Assembled { machine, mut devices, serial_from_guest, channels } = assembled;
    let consoles = Consoles {
        serial: Arc::clone(devices.serial()),
        serial_from_guest: serial_from_guest.clone(),
        virtio_to_guest: devices.console().to_guest(),
        virtio_from_guest: devices.console().from_guest(),
    };
    if let Err(error) = carriers.connect(ends, &consoles, channels) {
        machine.end(GuestOutcome::Crashed { reason: format!("console threads cannot be started: {error}") });
    }
    let threads = match VcpuThreads::start(&machine, vcpus) {
        Ok(threads) => {
            wait_for_the_end(&machine, &ends.stop);
            threads
        }
        Err((error, threads)) => {
            machine.end(GuestOutcome::Crashed { reason: format!("vCPU threads cannot be started: {error}") });
            threads
        }
    };
    // A vCPU that waits for room on the console must not hold up the end.
    serial_from_guest.close();
    let stopped = threads.stop();
    let ended = Instant::now();
    if let Err(error) = devices.stop() {
        machine.warn(error.to_string());
    }
    carriers.disconnect();
    if machine.outcome().is_none_or(|outcome| is_last(&outcome, &ends.stop)) {
        // Whoever still waits for input waits on this as well; the outcome is settled.
        ends.stop.request(StopReason::Internal);
        if let Err(stuck) = carriers.join() {
            machine.warn(stuck.to_string());
        }
    }
    let counts = devices.counts();
    Operated { machine, counts, stopped, ended }
}

/// Returns once the guest has ended or somebody asked for it.
fn wait_for_the_end<V: KernelVm>(machine: &Machine<V>, stop: &StopSignal) {
    while !machine.has_ended() {
        let mut ends = [PollFd::from_borrowed_fd(machine.end_event(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut ends, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                let reason = format!("cannot wait for the guest's end: {error}");
                machine.end(GuestOutcome::Crashed { reason });
            }
        }
        if let Some(by) = stop.reason() {
            machine.end(GuestOutcome::Stopped { by });
        }
    }
}
