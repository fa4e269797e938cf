//! One run of `tenure` on the kernel in memory, and all that is seen of it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Result as Caught;

use gmem_kvm::testing::fake::{FakeKernel, errno};
use gmem_kvm::testing::fault::{Failure, Faults, Moment, PortCall};
use gmem_kvm::testing::faulty::Faulty;
use tenure::config::RunConfig;
use tenure::config::inputs::Inputs;
use tenure::config::snp::SnpConfig;
use tenure::config::values::VirtioConsole;
use tenure::events::EventLog;
use tenure::report::RunReport;
use tenure::run::{self, Ends, RunError};
use tenure::stop::StopSignal;

use crate::scenarios::Scenario;

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    None,
    /// A call fails.
    Fails(Failure),
    /// No slot can be deleted, and perhaps a call fails.
    SlotsStay(Option<Failure>),
    /// A thread panics instead of making a call.
    Panics(Moment),
    /// From this call on, the VM is dead.
    Dies(Moment),
}

/// A run that is over.
pub(crate) struct Seen {
    pub kernel: FakeKernel,
    pub faults: Arc<Faults>,
    /// What `tenure` makes of it, unless it panicked.
    pub result: Caught<Result<RunReport, RunError>>,
    /// All events, as the file would have them.
    pub events: String,
}

pub(crate) fn run(scenario: &Scenario, trouble: Trouble) -> Seen {
    let kernel = FakeKernel::default();
    kernel.script(0, (scenario.acts)());
    let (mut failures, mut panics) = (Vec::new(), Vec::new());
    match trouble {
        Trouble::None => {}
        Trouble::Fails(failure) => failures.push(failure),
        Trouble::SlotsStay(failure) => failures.extend(failure),
        Trouble::Panics(at) => panics.push(at),
        Trouble::Dies(at) => die_at(&kernel, at),
    }
    let faults = Arc::new(Faults::new(failures, panics));
    if matches!(trouble, Trouble::SlotsStay(_)) {
        faults.fail_always(PortCall::DeleteSlot, errno::EINTR);
    }
    let config = RunConfig {
        tee: scenario.tee,
        guise: scenario.guise,
        kernel: None,
        initrd: None,
        cmdline: String::new(),
        memory: scenario.memory,
        vcpus: scenario.vcpus,
        virtio_console: VirtioConsole::None,
        relying_party: None,
        test_root: None,
        snp: SnpConfig::default(),
    };
    let inputs = Inputs::default();
    let events = EventLog::in_memory();
    let ends = Ends {
        events: events.clone(),
        console_output: Box::new(io::sink()),
        console_input: None,
        virtio_output: Box::new(io::sink()),
        virtio_input: None,
        channels: Vec::new(),
        stop: StopSignal::new().expect("a pipe"),
    };
    let faulty = Faulty::new(kernel.clone(), Arc::clone(&faults));
    let result = catch_unwind(AssertUnwindSafe(|| run::run(&faulty, scenario.tee, &config, &inputs, ends)));
    let lines =
        events.collected().iter().map(|event| serde_json::to_string(event).expect("an event is JSON")).collect();
    Seen { kernel, faults, result, events: lines }
}

/// Declares the VM dead just before a call. The first VM of a kernel has number 1.
fn die_at(kernel: &FakeKernel, at: Moment) {
    let (count, victim) = (AtomicU64::new(0), kernel.clone());
    kernel.before(at.call, move |_| {
        if count.fetch_add(1, Ordering::SeqCst) + 1 == at.number {
            victim.kill(1);
        }
    });
}
