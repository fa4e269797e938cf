//! Putting a VM together: from what was prepared to vCPUs that can run.
//!
//! Owns the order of a launch, as the technology wants it, and what is built around the VM: devices and the machine.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use ::snp::cpuid_page::Correction;
use gmem::ByteLen;
use gmem::launch::{Launch, PageKind, Plan, Vcpus};
use gmem::layout;
use gmem_kvm::port::{CallError, CpuidEntry, KernelVcpu, KernelVm};
use gmem_kvm::vm::{Failed, LaunchError, Launching, Sealed, Vm};

use super::machine::{self, Machine};
use super::prepare::{self, Prepared, StagedGuest, Technology};
use super::snp::SnpGuest;
use super::snp_exits::SnpService;
use super::staged::{Facts, PlanningError};
use super::test_evidence::TestEvidenceError;
use super::wiring::{DeviceMemory, Gsi};
use super::{PREDICTED, cpuid, sw};
use crate::config::{Guise, RunConfig};
use crate::devices::pipe::BytePipe;
use crate::devices::virtio::channels::Channel;
use crate::devices::{Devices, DevicesError, Wiring};
use crate::events::{Event, EventLog};

/// What the guest can say on its serial console before it waits for whoever listens.
const CONSOLE_PIPE_BYTES: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("a pipe has some length");

/// A VM's surroundings.
pub(super) struct Assembled<V: KernelVm> {
    pub machine: Arc<Machine<V>>,
    pub devices: Devices<DeviceMemory>,
    pub serial_from_guest: BytePipe,
    /// The host's ends of the guest's channels, in the order in which they were asked for.
    pub channels: Vec<Channel>,
}

/// Why a VM that exists was not started.
#[derive(Debug, thiserror::Error)]
enum AssemblyError {
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("plan the launch: {0}")]
    Planning(#[from] PlanningError),
    #[error(transparent)]
    Evidence(#[from] TestEvidenceError),
    #[error("prepare vCPU {id}: {source}")]
    Vcpu { id: u32, source: CallError },
    #[error("build the devices: {0}")]
    Devices(#[from] DevicesError),
    #[error("start the threads: {0}")]
    Threads(std::io::Error),
}

/// What a VM is put together from.
pub(super) struct Order<'a, 'f> {
    pub events: &'a EventLog,
    pub config: &'a RunConfig,
    pub prepared: &'a mut Prepared<'f>,
    /// Names of the channels the guest finds.
    pub channels: &'a [&'static str],
}

/// What a launch leaves for the run.
struct Launched {
    /// Bytes of the staging slot.
    staging: ByteLen,
    /// What the PSP would not have the guest be promised.
    corrections: Vec<Correction>,
}

/// Puts the VM together, and devices and the machine around it. vCPUs go to `vcpus` as they are made, so that teardown
/// gets them whatever fails.
pub(super) fn assemble<V: KernelVm>(
    vm: &mut Vm<V, Launching>,
    vcpus: &mut Vec<V::Vcpu>,
    order: Order<'_, '_>,
) -> Result<Assembled<V>, LaunchError> {
    let Order { events, config, prepared, channels } = order;
    let mut steps = Steps::new(events);
    let Prepared { offered, technology, .. } = prepared;
    let launched = match technology {
        Technology::Staged(guest) => launch_staged(vm, vcpus, &mut steps, config, offered, guest),
        Technology::Snp(guest) => launch_snp(vm, vcpus, &mut steps, config, offered, guest),
    };
    let service = match technology {
        Technology::Staged(_) => None,
        Technology::Snp(guest) => Some(SnpService::new(guest.certificates.clone())),
    };
    launched.and_then(|launched| connect(vm, events, config, channels, launched, service)).map_err(
        |error| match error {
            AssemblyError::Launch(error) => error,
            other => LaunchError::Plan { step: "launch", reason: other.to_string() },
        },
    )
}

/// Ends the launch.
pub(super) fn seal<V: KernelVm>(
    vm: Vm<V, Launching>,
    technology: &Technology<'_>,
) -> Result<Vm<V, Sealed>, Box<Vm<V, Failed>>> {
    match technology {
        Technology::Staged(_) => vm.seal(),
        Technology::Snp(guest) => ::snp::launch::finish(vm, &guest.launch.identity),
    }
}

/// The VM's part if the firmware starts in staging; every step is an event.
fn launch_staged<V: KernelVm>(
    vm: &mut Vm<V, Launching>,
    vcpus: &mut Vec<V::Vcpu>,
    steps: &mut Steps<'_>,
    config: &RunConfig,
    offered: &[CpuidEntry],
    guest: &mut StagedGuest<'_>,
) -> Result<Launched, AssemblyError> {
    let private = vm.has_private_memory();
    vm.add_ram()?;
    steps.done("RAM slots", None);
    if private {
        vm.mark_ram_private()?;
        steps.done("mark RAM private", Some(config.memory.to_string()));
        vm.enable_conversion_requests()?;
    }
    let tsc_khz = vm.tsc_khz()?;
    // Taken, not copied: it is as large as a kernel and its RAM disk, and is launched once.
    let linux = guest.linux.take();
    let cmdline = prepare::guest_cmdline(config, linux.is_some(), tsc_khz);
    let facts = Facts { tee: guest.tee, ram: guest.ram, vcpus: config.vcpus, tsc_khz };
    let image = sw::Image::new(guest.firmware, linux, &cmdline)?;
    let launch = sw::launch(&image, &facts, cpuid::address_bits(offered))?;
    steps.done("plan", Some(launch.to_string()));
    if let Some(evidence) = &guest.evidence {
        let digest = evidence.launching(config, &launch, tsc_khz)?;
        steps.done(PREDICTED, Some(digest));
    }
    let staging = stage(vm, &launch.plan, steps)?;
    let states = *launch.plan.vcpus();
    // The contents are in staging now: a second copy in our memory serves nobody.
    drop((launch, image));
    if config.guise == Guise::Sev {
        vm.trap_msrs(&[machine::MSR_SEV_STATUS])?;
    }
    let cpuid = |id| cpuid::for_vcpu(offered, id, config.vcpus, config.guise);
    add_vcpus(vm, vcpus, steps, &states, cpuid)?;
    Ok(Launched { staging, corrections: Vec::new() })
}

/// The VM's part of an SNP guest, whose launch was planned before; every step is an event.
fn launch_snp<V: KernelVm>(
    vm: &mut Vm<V, Launching>,
    vcpus: &mut Vec<V::Vcpu>,
    steps: &mut Steps<'_>,
    config: &RunConfig,
    offered: &[CpuidEntry],
    guest: &SnpGuest,
) -> Result<Launched, AssemblyError> {
    let Launch { plan, identity } = &guest.launch;
    ::snp::launch::begin(vm, identity, guest.certificate_requests())?;
    steps.done("begin the launch", Some(identity.to_string()));
    vm.add_ram()?;
    steps.done("RAM slots", None);
    vm.mark_ram_private()?;
    steps.done("mark RAM private", Some(config.memory.to_string()));
    vm.enable_conversion_requests()?;
    let staging = stage(vm, plan, steps)?;
    let (mut pages, seen) = (0, cpuid::for_snp_vcpu(offered, 0, config.vcpus));
    let corrections = ::snp::launch::populate(vm, plan, &seen, |region| pages += region.range.pages().get())?;
    steps.done("populate", Some(format!("{pages} pages")));
    let cpuid = |id| {
        let mut entries = cpuid::for_snp_vcpu(offered, id, config.vcpus);
        cpuid::correct(&mut entries, &corrections);
        entries
    };
    add_vcpus(vm, vcpus, steps, plan.vcpus(), cpuid)?;
    Ok(Launched { staging, corrections })
}

/// Puts what the firmware copies into its slot, and says how large that is.
fn stage<V: KernelVm>(vm: &mut Vm<V, Launching>, plan: &Plan, steps: &mut Steps<'_>) -> Result<ByteLen, AssemblyError> {
    vm.stage(plan)?;
    let staging = plan.extent(PageKind::Staged).and_then(|range| range.bytes()).unwrap_or_default();
    steps.done("stage", Some(staging.to_string()));
    Ok(staging)
}

/// The interrupt controller, and after it the vCPUs with what CPUID tells them and what they start with.
fn add_vcpus<V: KernelVm>(
    vm: &mut Vm<V, Launching>,
    vcpus: &mut Vec<V::Vcpu>,
    steps: &mut Steps<'_>,
    states: &Vcpus,
    cpuid: impl Fn(u32) -> Vec<CpuidEntry>,
) -> Result<(), AssemblyError> {
    vm.create_interrupt_controller()?;
    steps.done("interrupt controller", None);
    for id in 0..states.count {
        let mut vcpu = vm.add_vcpu()?;
        let prepared = vcpu
            .set_cpuid(&cpuid(id))
            .and_then(|()| states.state_of(id).map_or(Ok(()), |state| vcpu.set_initial_state(state)));
        vcpus.push(vcpu);
        prepared.map_err(|source| AssemblyError::Vcpu { id, source })?;
    }
    steps.done("vCPUs", Some(states.count.to_string()));
    Ok(())
}

/// The devices and the machine, around a VM whose launch is done.
fn connect<V: KernelVm>(
    vm: &Vm<V, Launching>,
    events: &EventLog,
    config: &RunConfig,
    channels: &[&'static str],
    launched: Launched,
    service: Option<SnpService>,
) -> Result<Assembled<V>, AssemblyError> {
    let serial_from_guest = BytePipe::new(CONSOLE_PIPE_BYTES);
    let line = |number| Arc::new(Gsi { vm: vm.handle(), number });
    let wiring = Wiring {
        serial_irq: line(layout::SERIAL_GSI),
        pci_irq: line(layout::PCI_GSI),
        serial_output: Box::new(serial_from_guest.clone()),
        channels: channels.to_vec(),
    };
    let mut devices = Devices::new(wiring, Arc::new(DeviceMemory(vm.handle().shared().clone())))?;
    devices.start()?;
    let channels = channels.iter().filter_map(|name| devices.channel(name)).collect();
    let (bus, events) = (Arc::clone(devices.bus()), events.clone());
    let machine = Machine::new(vm.handle(), bus, events, config.guise, launched.staging, service);
    let machine = machine.map_err(AssemblyError::Threads)?;
    for correction in launched.corrections {
        tracing::warn!(%correction, "the PSP corrected CPUID");
        machine.warn(format!("the PSP would not promise what CPUID was to say: {correction}"));
    }
    Ok(Assembled { machine: Arc::new(machine), devices, serial_from_guest, channels })
}

/// Tells the event log how long each step took.
pub(super) struct Steps<'a> {
    events: &'a EventLog,
    since: Instant,
}

impl<'a> Steps<'a> {
    pub(super) fn new(events: &'a EventLog) -> Self {
        Self { events, since: Instant::now() }
    }

    pub(super) fn done(&mut self, step: &'static str, detail: Option<String>) {
        let duration_us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::info!(step, duration_us, detail = detail.as_deref().unwrap_or(""), "launch");
        self.events.emit(Event::LaunchStep { step: step.into(), detail, duration_us });
        self.since = Instant::now();
    }
}
