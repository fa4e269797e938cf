//! Putting a VM together: from what was prepared to vCPUs that can run.
//!
//! Owns the order of a launch, as the technology wants it, and what is built around the VM: devices and the machine.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use gmem::ByteLen;
use gmem::launch::PageKind;
use gmem::layout;
use gmem_kvm::port::{CallError, KernelVcpu, KernelVm};
use gmem_kvm::vm::{LaunchError, Launching, Vm};

use super::cmdline::platform_cmdline;
use super::machine::{self, Machine};
use super::staged::{Facts, Guest, PlanningError};
use super::wiring::{DeviceMemory, Gsi};
use super::{Prepared, cpuid, sw};
use crate::config::{Guise, RunConfig};
use crate::devices::pipe::BytePipe;
use crate::devices::{Devices, DevicesError, Wiring};
use crate::events::{Event, EventLog};
use crate::firmware::FirmwareImage;

/// What the guest can say on its serial console before it waits for whoever listens.
const CONSOLE_PIPE_BYTES: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("a pipe has some length");

/// A VM's surroundings.
pub(super) struct Assembled<V: KernelVm> {
    pub machine: Arc<Machine<V>>,
    pub devices: Devices<DeviceMemory>,
    pub serial_from_guest: BytePipe,
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

/// What a VM is put together from.
pub(super) struct Order<'a> {
    pub events: &'a EventLog,
    pub config: &'a RunConfig,
    pub prepared: Prepared,
    pub firmware: &'a FirmwareImage<'a>,
}

/// Puts the VM together, and devices and the machine around it. vCPUs go to `vcpus` as they are made, so that teardown
/// gets them whatever fails.
pub(super) fn assemble<V: KernelVm>(
    vm: &mut Vm<V, Launching>,
    vcpus: &mut Vec<V::Vcpu>,
    order: Order<'_>,
) -> Result<Assembled<V>, LaunchError> {
    let (events, config) = (order.events, order.config);
    launch(vm, vcpus, order).and_then(|staging| connect(vm, events, config, staging)).map_err(|error| match error {
        AssemblyError::Launch(error) => error,
        other => LaunchError::Plan { step: "launch", reason: other.to_string() },
    })
}

/// The VM's part; every step is an event. Returns the size of the staging slot.
fn launch<V: KernelVm>(
    vm: &mut Vm<V, Launching>,
    vcpus: &mut Vec<V::Vcpu>,
    order: Order<'_>,
) -> Result<ByteLen, AssemblyError> {
    let Order { events, config, prepared: Prepared { abi_tee, ram, offered, linux, .. }, firmware } = order;
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
    let cmdline = match &linux {
        Some(_) => platform_cmdline(&config.cmdline, config.guise, tsc_khz),
        None => config.cmdline.clone(),
    };
    let facts = Facts { tee: abi_tee, ram, vcpus: config.vcpus, tsc_khz };
    let address_bits = cpuid::address_bits(&offered);
    let launch = sw::launch(Guest { facts, address_bits, firmware, linux, cmdline })?;
    steps.done("plan", Some(launch.to_string()));
    vm.stage(&launch.plan)?;
    let staging = launch.plan.extent(PageKind::Staged).and_then(|range| range.bytes()).unwrap_or_default();
    steps.done("stage", Some(staging.to_string()));
    let states = *launch.plan.vcpus();
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
            .set_cpuid(&cpuid::for_vcpu(&offered, id, config.vcpus, config.guise))
            .and_then(|()| states.state_of(id).map_or(Ok(()), |state| vcpu.set_initial_state(state)));
        vcpus.push(vcpu);
        prepared.map_err(|source| AssemblyError::Vcpu { id, source })?;
    }
    steps.done("vCPUs", Some(config.vcpus.to_string()));
    Ok(staging)
}

/// The devices and the machine, around a VM whose launch is done.
fn connect<V: KernelVm>(
    vm: &Vm<V, Launching>,
    events: &EventLog,
    config: &RunConfig,
    staging: ByteLen,
) -> Result<Assembled<V>, AssemblyError> {
    let serial_from_guest = BytePipe::new(CONSOLE_PIPE_BYTES);
    let line = |number| Arc::new(Gsi { vm: vm.handle(), number });
    let wiring = Wiring {
        serial_irq: line(layout::SERIAL_GSI),
        pci_irq: line(layout::PCI_GSI),
        serial_output: Box::new(serial_from_guest.clone()),
    };
    let mut devices = Devices::new(wiring, Arc::new(DeviceMemory(vm.handle().shared().clone())))?;
    devices.start()?;
    let machine = Machine::new(vm.handle(), Arc::clone(devices.bus()), events.clone(), config.guise, staging);
    Ok(Assembled { machine: Arc::new(machine.map_err(AssemblyError::Threads)?), devices, serial_from_guest })
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
