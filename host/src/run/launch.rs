//! From what was prepared to a VM that is sealed, or to the receipt of one that could not be.
//!
//! Owns that what was made of a guest is torn down whatever part of its launch failed, and the launch of a guest that is
//! not to run. What a launch consists of is [`super::assemble`]'s.

use std::time::{Duration, Instant};

use gmem_kvm::port::{Kernel, KernelVm};
use gmem_kvm::vm::{Failed, Sealed, Vm, VmHandle};

use super::assemble::{Assembled, Order, assemble, seal};
use super::prepare::{Prepared, prepare};
use super::report::{self, Refusal};
use super::{Firmware, RunError};
use crate::config::inputs::Inputs;
use crate::config::{RunConfig, Tee};
use crate::events::EventLog;
use crate::firmware;
use crate::report::{Place, RunReport};

/// A guest that can be entered, and what surrounds it.
pub(super) struct Launched<V: KernelVm> {
    pub vm: Vm<V, Sealed>,
    pub assembled: Assembled<V>,
    pub vcpus: Vec<V::Vcpu>,
}

/// A guest that could not be launched, with what was made of it.
pub(super) struct NotLaunched<V: KernelVm> {
    vm: Box<Vm<V, Failed>>,
    vcpus: Vec<V::Vcpu>,
}

/// What came of a launch.
pub(super) type Attempt<V> = Result<Launched<V>, NotLaunched<V>>;

/// A VM, from its creation to its seal. The outer error is that there is none.
pub(super) fn launch<K: Kernel>(
    kernel: &K,
    config: &RunConfig,
    prepared: &mut Prepared<'_>,
    channels: &[&'static str],
    events: &EventLog,
) -> Result<Attempt<K::Vm>, RunError> {
    let mut vm = Vm::create(kernel, prepared.vm_type, prepared.ram)?;
    let mut vcpus = Vec::new();
    let assembled = match assemble(&mut vm, &mut vcpus, Order { events, config, prepared, channels }) {
        Ok(assembled) => assembled,
        Err(error) => return Ok(Err(NotLaunched { vm: Box::new(vm.fail(error)), vcpus })),
    };
    Ok(match seal(vm, &prepared.technology) {
        Ok(vm) => Ok(Launched { vm, assembled, vcpus }),
        Err(vm) => Err(NotLaunched { vm, vcpus }),
    })
}

impl<V: KernelVm> NotLaunched<V> {
    /// Tears it down. It took so long to find out.
    pub(super) fn teardown(self, events: &EventLog, place: Place, launch: Duration) -> RunReport {
        let why = Refusal::from(self.vm.why());
        let receipt = self.vm.teardown(self.vcpus);
        report::not_started(events, place, why, launch, &receipt)
    }
}

/// Launches a guest as [`run`](super::run) does with our firmware, but never enters it: `instead` has it. Then it is torn
/// down. Where the launch failed, there is nothing for `instead` to do.
pub fn launch_only<K: Kernel, T>(
    kernel: &K,
    tee: Tee,
    config: &RunConfig,
    inputs: &Inputs,
    events: &EventLog,
    instead: impl FnOnce(&VmHandle<K::Vm>, &mut [<K::Vm as KernelVm>::Vcpu]) -> T,
) -> Result<(RunReport, Option<T>), RunError> {
    let started = Instant::now();
    report::started(events, tee, config);
    let mut prepared = prepare(kernel, tee, config, inputs, Firmware::Ours(firmware::image()?))?;
    let place = report::place(config, tee, prepared.vm_type);
    let Launched { vm, assembled, mut vcpus } = match launch(kernel, config, &mut prepared, &[], events)? {
        Ok(launched) => launched,
        Err(failed) => return Ok((failed.teardown(events, place, started.elapsed()), None)),
    };
    let launched = Instant::now();
    let done = instead(&vm.handle(), &mut vcpus);
    let ended = Instant::now();
    let Assembled { machine, mut devices, .. } = assembled;
    if let Err(error) = devices.stop() {
        machine.warn(error.to_string());
    }
    let counts = devices.counts();
    let receipt = vm.teardown(vcpus);
    let timing = report::timing(launched - started, ended - launched, &receipt);
    let report = report::finished(events, place, timing, &machine, &counts, Vec::new(), &receipt);
    Ok((report, Some(done)))
}
