//! One guest, from its configuration to its receipt.
//!
//! Owns the path a run takes, readable from top to bottom in [`run`]: files are read and checked, a VM is put together
//! as its [`Launch`] says, vCPU threads run until something ends the guest, and teardown closes everything in the order
//! of the law *pages-before-key*, whatever happened before. Generic over the kernel port: what runs here on KVM is what
//! runs in tests on other kernels.

mod cpuid;
mod linux;
mod machine;
mod report;
mod sw;
mod threads;
mod wiring;

use std::fmt;
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gmem::launch::{Launch, PageKind};
use gmem::layout::{self, LayoutError, RamLayout};
use gmem::{ByteLen, PageCount};
use gmem_kvm::port::{CallError, CpuidEntry, Kernel, KernelVcpu, KernelVm, VmType};
use gmem_kvm::vm::{LaunchError, Launching, Vm};
use guest_fw::abi;
use rustix::event::{PollFd, PollFlags, poll};

use crate::check::facts::CpuFacts;
use crate::config::inputs::Inputs;
use crate::config::{Guise, RunConfig, Tee};
use crate::devices::pipe::BytePipe;
use crate::devices::{Devices, DevicesError, Wiring};
use crate::events::{Event, EventLog};
use crate::exit::ExitCode;
use crate::firmware::{self, FirmwareError, FirmwareImage};
use crate::report::{GuestOutcome, RunReport, Timing};
use crate::stop::{StopReason, StopSignal};
use machine::Machine;
use threads::{Stopped, VcpuThreads};
use wiring::{Carriers, Consoles, DeviceMemory, Gsi, InputsAndOutputs};

pub use linux::LinuxError;
pub use sw::PlanningError;

/// What the guest can say on its serial console before it waits for whoever listens.
const CONSOLE_PIPE_BYTES: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("a pipe has some length");

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

/// Why a VM that exists was not started.
#[derive(Debug, thiserror::Error)]
enum AssemblyError {
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("plan the launch: {0}")]
    Planning(#[from] PlanningError),
    #[error("prepare vCPU {id}: {source}")]
    Vcpu { id: u32, source: CallError },
    #[error("build the devices: {0}")]
    Devices(#[from] DevicesError),
    #[error("start the threads: {0}")]
    Threads(std::io::Error),
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
    mut ends: Ends,
) -> Result<RunReport, RunError> {
    let started = Instant::now();
    let events = ends.events.clone();
    report::started(&events, tee, config);

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
    let linux = linux::LinuxImage::read(inputs, cmdline_len, &ram)?;

    let mut vm = Vm::create(kernel, vm_type, ram)?;
    let mut vcpus = Vec::new();
    let assembled = assemble(&mut vm, &mut vcpus, &events, config, &offered, |tsc_khz| {
        let mut cmdline = config.cmdline.clone();
        if linux.is_some() {
            cmdline = platform_cmdline(&config.cmdline, config.guise, tsc_khz);
        }
        sw::launch(sw::Guest {
            tee: abi_tee,
            ram,
            vcpus: config.vcpus,
            address_bits: cpuid::address_bits(&offered),
            tsc_khz,
            firmware,
            linux,
            cmdline,
        })
    });
    let serial_from_guest = BytePipe::new(CONSOLE_PIPE_BYTES);
    let parts = assembled.and_then(|staging| {
        let line = |number| Arc::new(Gsi { vm: vm.handle(), number });
        let wiring = Wiring {
            serial_irq: line(layout::SERIAL_GSI),
            pci_irq: line(layout::PCI_GSI),
            serial_output: Box::new(serial_from_guest.clone()),
        };
        let mut devices = Devices::new(wiring, Arc::new(DeviceMemory(vm.handle().shared().clone())))?;
        devices.start()?;
        let machine = Machine::new(vm.handle(), Arc::clone(devices.bus()), events.clone(), config.guise, staging);
        Ok((Arc::new(machine.map_err(AssemblyError::Threads)?), devices))
    });
    let (machine, mut devices) = match parts {
        Ok(parts) => parts,
        Err(error) => {
            let error = match error {
                AssemblyError::Launch(error) => error,
                other => LaunchError::Plan { step: "launch", reason: other.to_string() },
            };
            let failed = vm.fail(error);
            let reason = failed.why().to_string();
            let launch = started.elapsed();
            let receipt = failed.teardown(vcpus);
            return Ok(report::not_started(&events, config, tee, vm_type, reason, launch, &receipt));
        }
    };

    let vm = vm.seal();
    let launched = Instant::now();
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

    let exits = stopped.iter().map(|vcpu| vcpu.as_ref().map(|stopped| stopped.exits.clone()).unwrap_or_default());
    let exits = exits.collect();
    let vcpus = stopped.into_iter().flatten().map(|Stopped { vcpu, .. }| vcpu).collect();
    let receipt = vm.teardown(vcpus);
    let timing = Timing {
        launch: launched - started,
        guest: ended - launched,
        teardown: receipt.steps.last().map_or(Duration::ZERO, |step| step.at),
    };
    Ok(report::finished(&events, config, tee, vm_type, timing, &machine, &devices.counts(), exits, &receipt))
}

/// Puts the VM together; every step is an event. Returns the size of the staging slot.
fn assemble<V: KernelVm>(
    vm: &mut Vm<V, Launching>,
    vcpus: &mut Vec<V::Vcpu>,
    events: &EventLog,
    config: &RunConfig,
    offered: &[CpuidEntry],
    plan: impl FnOnce(u32) -> Result<Launch, PlanningError>,
) -> Result<ByteLen, AssemblyError> {
    let mut steps = Steps { events, since: Instant::now() };
    let private = vm.has_private_memory();
    vm.add_ram()?;
    steps.done("RAM slots", None);
    if private {
        vm.mark_ram_private()?;
        steps.done("mark RAM private", Some(config.memory.to_string()));
        vm.enable_conversion_requests()?;
    }
    let tsc_khz = vm.tsc_khz()?;
    let launch = plan(tsc_khz)?;
    steps.done("plan", Some(launch.to_string()));
    vm.stage(&launch.plan)?;
    let staging = launch.plan.extent(PageKind::Staged).and_then(|range| range.bytes()).unwrap_or_default();
    steps.done("stage", Some(staging.to_string()));
    let boot_state = *launch.plan.boot_state();
    // The contents are in staging now: a second copy in our memory serves nobody.
    drop(launch);
    if config.guise == Guise::Sev {
        vm.trap_msrs(&[machine::MSR_SEV_STATUS])?;
    }
    vm.create_interrupt_controller()?;
    steps.done("interrupt controller", None);
    for id in 0..config.vcpus {
        let mut vcpu = vm.add_vcpu()?;
        let prepared = vcpu
            .set_cpuid(&cpuid::for_vcpu(offered, id, config.vcpus, config.guise))
            .and_then(|()| if id == 0 { vcpu.set_initial_state(&boot_state) } else { Ok(()) });
        vcpus.push(vcpu);
        prepared.map_err(|source| AssemblyError::Vcpu { id, source })?;
    }
    steps.done("vCPUs", Some(config.vcpus.to_string()));
    Ok(staging)
}

/// Tells the event log how long each step took.
struct Steps<'a> {
    events: &'a EventLog,
    since: Instant,
}

impl Steps<'_> {
    fn done(&mut self, step: &'static str, detail: Option<String>) {
        let duration_us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::info!(step, duration_us, detail = detail.as_deref().unwrap_or(""), "launch");
        self.events.emit(Event::LaunchStep { step: step.into(), detail, duration_us });
        self.since = Instant::now();
    }
}

/// The user's command line with what a Linux guest needs on this platform, unless the user says otherwise.
///
/// `noapic`: there is no IOAPIC in the ACPI tables, and Linux would mask the PIC with it. The TSC: there is no timer to
/// calibrate it against with private memory; a guest in the `sev` guise has kvm-clock.
fn platform_cmdline(user: &str, guise: Guise, tsc_khz: u32) -> String {
    let mut words = vec!["noapic".to_owned()];
    if guise == Guise::None && tsc_khz != 0 {
        words.extend([format!("tsc_early_khz={tsc_khz}"), "tsc=reliable".to_owned()]);
    }
    let said = |word: &str| {
        let key = word.split('=').next().unwrap_or(word);
        user.split_ascii_whitespace().any(|other| other.split('=').next() == Some(key))
    };
    words.retain(|word| !said(word));
    words.extend((!user.is_empty()).then(|| user.to_owned()));
    words.join(" ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_is_told_what_this_platform_lacks() {
        let line = |user, guise| platform_cmdline(user, guise, 2_596_100);
        assert_eq!(line("console=ttyS0", Guise::None), "noapic tsc_early_khz=2596100 tsc=reliable console=ttyS0");
        assert_eq!(line("console=ttyS0", Guise::Sev), "noapic console=ttyS0");
        assert_eq!(line("", Guise::Sev), "noapic");
    }

    #[test]
    fn the_user_has_the_last_word() {
        let line = platform_cmdline("tsc=unstable noapic tsc_early_khz=1", Guise::None, 2_596_100);
        assert_eq!(line, "tsc=unstable noapic tsc_early_khz=1");
    }

    /// An old kernel that does not tell the frequency: nothing is made up.
    #[test]
    fn an_unknown_frequency_is_not_told() {
        assert_eq!(platform_cmdline("quiet", Guise::None, 0), "noapic quiet");
    }
}
