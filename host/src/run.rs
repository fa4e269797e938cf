//! One guest, from its configuration to its receipt.
//!
//! Owns the path a run takes, readable from top to bottom in [`run`]: files are read and checked, a VM is put together
//! as its [`Launch`](gmem::launch::Launch) says, vCPU threads run until something ends the guest, and teardown closes everything in the order
//! of the law *pages-before-key*, whatever happened before. Generic over the kernel port: what runs here on KVM is what
//! runs in tests on other kernels.

mod assemble;
mod cmdline;
mod cpuid;
mod linux;
mod machine;
mod report;
mod staged;
mod sw;
mod threads;
mod wiring;

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gmem::PageCount;
use gmem::layout::{LayoutError, RamLayout};
use gmem_kvm::port::{CallError, CpuidEntry, Kernel, KernelVm, VmType};
use gmem_kvm::vm::{LaunchError, Vm};
use guest_fw::abi;
use rustix::event::{PollFd, PollFlags, poll};

use crate::check::facts::CpuFacts;
use crate::config::inputs::Inputs;
use crate::config::{Guise, RunConfig, Tee};
use crate::devices::DeviceCounts;
use crate::events::EventLog;
use crate::exit::ExitCode;
use crate::firmware::{self, FirmwareError, FirmwareImage};
use crate::report::{GuestOutcome, RunReport, Timing};
use crate::stop::{StopReason, StopSignal};
use assemble::{Assembled, Order, assemble};
use cmdline::platform_cmdline;
use linux::LinuxImage;
use machine::Machine;
use threads::{Stopped, VcpuThreads};
use wiring::{Carriers, Consoles, InputsAndOutputs};

pub use linux::LinuxError;
pub use staged::PlanningError;

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
    /// A request that the guest end.
    pub stop: StopSignal,
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
    #[error("tee {tee} is not built yet: this version runs sw and none")]
    NotBuilt {
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
            Self::Linux(_) | Self::Layout(_) | Self::Firmware(_) | Self::CmdlineTooLong { .. } => ExitCode::Usage,
            Self::Kernel(_) | Self::Launch(_) => ExitCode::LaunchFailed,
        }
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
    run_with_firmware(kernel, tee, config, inputs, &firmware::image()?, ends)
}

/// The same with another firmware than the one this program was built with.
pub fn run_with_firmware<K: Kernel>(
    kernel: &K,
    tee: Tee,
    config: &RunConfig,
    inputs: &Inputs,
    firmware: &FirmwareImage<'_>,
    ends: Ends,
) -> Result<RunReport, RunError> {
    let started = Instant::now();
    let events = ends.events.clone();
    report::started(&events, tee, config);
    let prepared = prepare(kernel, tee, config, inputs)?;
    let vm_type = prepared.vm_type;

    let mut vm = Vm::create(kernel, vm_type, prepared.ram)?;
    let mut vcpus = Vec::new();
    let order = Order { events: &events, config, prepared, firmware };
    let assembled = assemble(&mut vm, &mut vcpus, order);
    let sealed = match assembled {
        Ok(assembled) => vm.seal().map(|vm| (vm, assembled)),
        Err(error) => Err(Box::new(vm.fail(error))),
    };
    let (vm, assembled) = match sealed {
        Ok(sealed) => sealed,
        Err(failed) => {
            let reason = failed.why().to_string();
            let launch = started.elapsed();
            let receipt = failed.teardown(vcpus);
            return Ok(report::not_started(&events, config, tee, vm_type, reason, launch, &receipt));
        }
    };
    let launched = Instant::now();
    let Operated { machine, counts, stopped, ended } = operate(assembled, vcpus, ends);

    let exits = stopped.iter().map(|vcpu| vcpu.as_ref().map(|stopped| stopped.exits.clone()).unwrap_or_default());
    let exits = exits.collect();
    let vcpus = stopped.into_iter().flatten().map(|Stopped { vcpu, .. }| vcpu).collect();
    let receipt = vm.teardown(vcpus);
    let timing = Timing {
        launch: launched - started,
        guest: ended - launched,
        teardown: receipt.steps.last().map_or(Duration::ZERO, |step| step.at),
    };
    Ok(report::finished(&events, config, tee, vm_type, timing, &machine, &counts, exits, &receipt))
}

/// What is known, and checked, before a VM exists.
struct Prepared {
    vm_type: VmType,
    abi_tee: u32,
    ram: RamLayout,
    /// CPUID leaves a guest can be given.
    offered: Vec<CpuidEntry>,
    linux: Option<LinuxImage>,
}

fn prepare<K: Kernel>(kernel: &K, tee: Tee, config: &RunConfig, inputs: &Inputs) -> Result<Prepared, RunError> {
    let ram = RamLayout::new(config.memory)?;
    let (vm_type, abi_tee) = match tee {
        Tee::Sw => (VmType::SwProtected, abi::TEE_SW),
        Tee::None => (VmType::Default, abi::TEE_NONE),
        Tee::Snp | Tee::Tdx | Tee::Auto => return Err(RunError::NotBuilt { tee }),
    };
    let offered = cpuid::without_emulated(kernel.supported_cpuid()?, &CpuFacts::gather(Path::new("/")));
    if config.guise == Guise::Sev && !cpuid::is_amd_type(&offered) {
        return Err(RunError::GuiseNeedsAmd);
    }
    // Before a VM exists: marking RAM private takes time by the page, and is no use for pages no guest can reach.
    ram.staging(PageCount::new(1), cpuid::address_bits(&offered))?;
    // The frequency is known once there is a VM; this is as long as the command line can get.
    let cmdline_len = platform_cmdline(&config.cmdline, config.guise, u32::MAX).len() as u64;
    if inputs.kernel.is_some() && cmdline_len > abi::CMDLINE_MAX {
        return Err(RunError::CmdlineTooLong { len: config.cmdline.len(), with_ours: cmdline_len });
    }
    let linux = LinuxImage::read(inputs, cmdline_len, &ram)?;
    Ok(Prepared { vm_type, abi_tee, ram, offered, linux })
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
fn operate<V: KernelVm>(assembled: Assembled<V>, vcpus: Vec<V::Vcpu>, mut ends: Ends) -> Operated<V> {
    let Assembled { machine, mut devices, serial_from_guest } = assembled;
    let consoles = Consoles {
        serial: Arc::clone(devices.serial()),
        serial_from_guest: serial_from_guest.clone(),
        virtio_to_guest: devices.console().to_guest(),
        virtio_from_guest: devices.console().from_guest(),
    };
    let mut carriers = Carriers::default();
    if let Err(error) = carriers.start(InputsAndOutputs::take_from(&mut ends), &consoles) {
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
    // Whoever still waits for input waits on this as well; the outcome is settled.
    ends.stop.request(StopReason::Internal);
    if let Err(stuck) = carriers.join() {
        machine.warn(stuck.to_string());
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
