//! What a run reports, put together from what its parts counted.

use std::borrow::Cow;

use gmem::PageCount;
use gmem_kvm::evidence::debugfs::KernelsList;
use gmem_kvm::port::{KernelVm, VmType};
use gmem_kvm::teardown::{Closing, Leaked, Receipt};
use gmem_kvm::vm::LaunchError;
use std::time::Duration;

use super::machine::Machine;
use super::threads::ExitCounts;
use crate::config::{RunConfig, Tee};
use crate::devices::DeviceCounts;
use crate::events::{Event, EventLog};
use crate::report::{
    ClosingStep, ConversionCounts, DeviceReport, Evidence, GuestOutcome, MemoryReport, PagesInState, Place, RunReport,
    Severity, TeardownReport, Timing, Verdict,
};

/// The first event.
pub(super) fn started(events: &EventLog, tee: Tee, config: &RunConfig) {
    events.emit(Event::RunStarted {
        version: env!("CARGO_PKG_VERSION").into(),
        host_kernel: host_kernel(),
        tee,
        guise: config.guise,
        memory_bytes: config.memory.0,
        vcpus: config.vcpus,
    });
}

/// Why a launch failed, as far as that outlives what was launched.
pub(super) struct Refusal {
    reason: String,
    firmware: Option<u32>,
}

impl From<&LaunchError> for Refusal {
    fn from(error: &LaunchError) -> Self {
        Self { reason: error.to_string(), firmware: error.firmware() }
    }
}

/// The report of a VM that was never started.
pub(super) fn not_started(
    events: &EventLog,
    place: Place,
    why: Refusal,
    launch: Duration,
    receipt: &Receipt,
) -> RunReport {
    let report = RunReport {
        place,
        timing: timing(launch, Duration::ZERO, receipt),
        memory: memory(receipt, ConversionCounts::default(), ConversionCounts::default()),
        exits: Vec::new(),
        devices: Vec::new(),
        outcome: GuestOutcome::NotStarted { reason: why.reason },
        firmware_status: why.firmware,
        handed: Vec::new(),
        teardown: teardown(receipt),
        warnings: Vec::new(),
    };
    emit_end(events, &report);
    report
}

/// The report of a run.
pub(super) fn finished<V: KernelVm>(
    events: &EventLog,
    place: Place,
    timing: Timing,
    machine: &Machine<V>,
    counts: &DeviceCounts,
    exits: Vec<ExitCounts>,
    receipt: &Receipt,
) -> RunReport {
    let (to_shared, to_private) = machine.conversions();
    let mut devices = device_reports(counts);
    devices.extend(machine.snp_counts());
    let report = RunReport {
        place,
        timing,
        memory: memory(receipt, to_shared, to_private),
        exits,
        devices,
        outcome: machine.outcome().unwrap_or(GuestOutcome::NotStarted { reason: "it was never entered".into() }),
        firmware_status: None,
        handed: machine.handed(),
        teardown: teardown(receipt),
        warnings: machine.warnings(),
    };
    for (vcpu, counts) in (0..).zip(&report.exits) {
        events.emit(Event::Exits { vcpu, counts: counts.clone() });
    }
    events.emit(Event::Conversions { to_shared, to_private });
    for device in &report.devices {
        events.emit(Event::Device { name: device.name.clone(), counters: device.counters.iter().cloned().collect() });
    }
    emit_end(events, &report);
    report
}

fn device_reports(counts: &DeviceCounts) -> Vec<DeviceReport> {
    let report = |name: &'static str, counters: &[(&'static str, u64)]| DeviceReport {
        name: name.into(),
        counters: counters.iter().map(|(name, count)| ((*name).into(), *count)).collect(),
    };
    let DeviceCounts { bus, serial, console, channels } = counts;
    let mut reports = vec![
        report(
            "ports",
            &[
                ("reads", bus.reads),
                ("writes", bus.writes),
                ("unclaimed reads", bus.unclaimed_reads),
                ("unclaimed writes", bus.unclaimed_writes),
            ],
        ),
        report(
            "serial",
            &[("bytes out", serial.output_bytes), ("bytes in", serial.input_bytes), ("bytes lost", serial.lost_bytes)],
        ),
        report(
            "virtio-console",
            &[
                ("bytes out", console.read_bytes),
                ("bytes in", console.written_bytes),
                ("accesses to shared memory", console.accepted_reads + console.accepted_writes),
                ("refused", console.refused_reads + console.refused_writes + console.refused_rings),
                ("broken rings", console.broken_rings),
                ("interrupts", console.interrupts),
            ],
        ),
    ];
    reports.extend(channels.as_ref().map(|(virtio, channels)| {
        report(
            "channels",
            &[
                ("sessions", channels.sessions),
                ("sessions refused", channels.refused_sessions),
                ("bytes out", virtio.read_bytes),
                ("bytes in", virtio.written_bytes),
                ("refused", virtio.refused_reads + virtio.refused_writes + virtio.refused_rings),
                ("broken rings", virtio.broken_rings),
                ("bad messages", channels.bad_messages),
                ("interrupts", virtio.interrupts),
            ],
        )
    }));
    reports
}

fn emit_end(events: &EventLog, report: &RunReport) {
    events.emit(Event::Memory {
        private_resident_pages: report.memory.private_resident.map(PageCount::get),
        shared_resident_pages: report.memory.shared_resident.get(),
    });
    events.emit(Event::GuestEnded { outcome: report.outcome.clone() });
    events.emit(Event::Teardown { clean: report.teardown.is_clean(), receipt: report.teardown.clone() });
}

/// How long the parts of a run took, the last one as its receipt says.
pub(super) fn timing(launch: Duration, guest: Duration, receipt: &Receipt) -> Timing {
    Timing { launch, guest, teardown: duration(receipt) }
}

/// Where a guest runs.
pub(super) fn place(config: &RunConfig, tee: Tee, vm_type: VmType) -> Place {
    Place { host_kernel: host_kernel(), cpu: host_cpu(), tee, guise: config.guise, vm_type: vm_type.raw() }
}

/// The host's kernel, as in `uname -sr`, and its processor.
pub fn host() -> (String, String) {
    (host_kernel(), host_cpu())
}

fn host_kernel() -> String {
    let name = rustix::system::uname();
    format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy())
}

fn host_cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned())
}

fn memory(receipt: &Receipt, to_shared: ConversionCounts, to_private: ConversionCounts) -> MemoryReport {
    let pages = &receipt.pages;
    MemoryReport {
        ram: pages.total(),
        private: pages.private(),
        shared: pages.shared,
        in_doubt: pages.in_doubt,
        private_resident: receipt.resident.private,
        shared_resident: receipt.resident.shared,
        to_shared,
        to_private,
    }
}

fn duration(receipt: &Receipt) -> Duration {
    receipt.steps.last().map_or(Duration::ZERO, |step| step.at)
}

fn teardown(receipt: &Receipt) -> TeardownReport {
    let pages = receipt.pages.by_state().into_iter().filter(|(_, pages)| pages.get() != 0);
    TeardownReport {
        pages: pages
            .map(|(state, pages)| PagesInState { state: state.to_string().into(), pages: pages.get() })
            .collect(),
        debts: receipt
            .unsettled
            .debts
            .iter()
            .map(|debt| format!("{} copy of {}: {}", debt.side, debt.range, debt.reason))
            .collect(),
        in_doubt_pages: receipt.pages.in_doubt.get(),
        doubts: receipt
            .unsettled
            .doubts
            .iter()
            .map(|doubt| format!("{}, was to become {}: {}", doubt.range, doubt.to, doubt.reason))
            .collect(),
        steps: receipt.steps.iter().map(closing_step).collect(),
        evidence: evidence(receipt),
    }
}

fn closing_step(step: &gmem_kvm::teardown::ClosingStep) -> ClosingStep {
    let what: Cow<'static, str> = match step.what {
        Closing::VcpusStopped => "vCPUs stopped".into(),
        Closing::Slot(id) => format!("slot {id} deleted").into(),
        Closing::GuestMemfd => "guest_memfd closed: pages freed".into(),
        Closing::Vcpus(count) => format!("{count} vCPUs closed").into(),
        Closing::Vm => "VM closed: key free".into(),
    };
    let severity = if matches!(step.what, Closing::Slot(_)) { Severity::Note } else { Severity::Fault };
    let done_us = u64::try_from(step.at.as_micros()).unwrap_or(u64::MAX);
    ClosingStep { what, done_us, error: step.problem.clone(), severity }
}

fn evidence(receipt: &Receipt) -> Vec<Evidence> {
    let order = if receipt.pages_before_key() {
        Verdict::Holds
    } else {
        Verdict::Fails { seen: "the VM was closed before its guest_memfd".to_owned() }
    };
    let held = if receipt.held.is_empty() {
        Verdict::Holds
    } else {
        let list: Vec<_> = receipt.held.iter().map(|held| format!("{} ({})", held.name, held.place)).collect();
        Verdict::Fails { seen: list.join(", ") }
    };
    let list = match &receipt.kernels_list {
        KernelsList::Vms(vms) if vms.is_empty() => Verdict::Holds,
        KernelsList::Vms(vms) => Verdict::Fails { seen: vms.join(", ") },
        KernelsList::Unknown { reason } => Verdict::Unknown { reason: reason.clone() },
    };
    let leaked = match receipt.leaked {
        Leaked::CannotBe => Verdict::Holds,
        Leaked::Unknown => Verdict::Unknown { reason: "the kernel tells only its log".to_owned() },
    };
    vec![
        Evidence { what: "pages were freed before the VM".into(), verdict: order },
        Evidence { what: "no descriptor or mapping of a VM is left in /proc/self".into(), verdict: held },
        Evidence { what: "the kernel lists no VM of this process in debugfs".into(), verdict: list },
        Evidence { what: "the kernel leaked no page".into(), verdict: leaked },
    ]
}
