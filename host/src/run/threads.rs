//! Every thread a run has besides the main one: one for each vCPU.
//!
//! Owns their start, their loop and their end. A vCPU travels into its thread and comes back when the thread ends, so
//! that teardown closes it in its place; if the thread panics, unwinding closes it, which is early but in order (the VM
//! is still open).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use gmem::{GfnRange, PageCount};
use gmem_kvm::port::{Exit, KernelVcpu, KernelVm};
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::machine::{FaultWatch, Machine, Next};
use crate::report::GuestOutcome;

/// Exits of one vCPU by reason.
pub(crate) type ExitCounts = BTreeMap<Cow<'static, str>, u64>;

/// How often a thread that should stop is reminded. A signal that arrives just before the vCPU enters the guest is
/// lost, so one is not enough.
const REMIND_EVERY: Duration = Duration::from_millis(1);

/// Pages that are mapped ahead at once: a signal, or another end of the guest, is heeded between two of them.
const MAP_PIECE: PageCount = PageCount::new(512);

/// What a vCPU's thread leaves behind.
#[derive(Debug)]
pub(crate) struct Stopped<C> {
    pub vcpu: C,
    pub exits: ExitCounts,
}

/// The running vCPUs.
#[derive(Debug)]
pub(crate) struct VcpuThreads<V: KernelVm> {
    threads: Vec<JoinHandle<Stopped<V::Vcpu>>>,
}

/// Ends the run if the thread it lives in panics.
struct PanicGuard<'a, V: KernelVm> {
    machine: &'a Machine<V>,
    id: u32,
}

impl<V: KernelVm> Drop for PanicGuard<'_, V> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.machine.end(GuestOutcome::Crashed { reason: format!("the thread of vCPU {} panicked", self.id) });
        }
    }
}

impl<V: KernelVm> VcpuThreads<V> {
    /// Starts a thread for each vCPU. If one cannot be started, the machine is told to end, and the threads that were
    /// started come back to be stopped.
    pub(crate) fn start(machine: &Arc<Machine<V>>, vcpus: Vec<V::Vcpu>) -> Result<Self, (io::Error, Self)> {
        let mut started = Self { threads: Vec::new() };
        if let Err(error) = catch_reminders() {
            return Err((error, started));
        }
        for (id, vcpu) in (0..).zip(vcpus) {
            let machine = Arc::clone(machine);
            match Builder::new().name(format!("vcpu {id}")).spawn(move || run(id, vcpu, &machine)) {
                Ok(thread) => started.threads.push(thread),
                Err(error) => return Err((error, started)),
            }
        }
        Ok(started)
    }

    /// Waits until every thread has left the guest for good. The machine has ended before this is called.
    pub(crate) fn stop(self) -> Vec<Option<Stopped<V::Vcpu>>> {
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
                // A thread that has just finished cannot be signalled, and need not be.
                let _ = thread.kill(SIGRTMIN());
            }
            std::thread::sleep(REMIND_EVERY);
        }
        self.threads.into_iter().map(|thread| thread.join().ok()).collect()
    }
}

/// Makes the reminder interrupt `KVM_RUN` and do nothing else.
fn catch_reminders() -> io::Result<()> {
    signal_hook::flag::register(SIGRTMIN(), Arc::new(AtomicBool::new(false))).map(drop)
}

fn run<V: KernelVm>(id: u32, mut vcpu: V::Vcpu, machine: &Machine<V>) -> Stopped<V::Vcpu> {
    let _guard = PanicGuard { machine, id };
    let mut exits: Vec<(&'static str, u64)> = Vec::new();
    let mut watch = FaultWatch::default();
    while !machine.has_ended() {
        let next = match vcpu.run() {
            Ok(exit) => {
                count(&mut exits, exit.name());
                handle(id, exit, machine, &mut watch)
            }
            Err(error) => Next::Crash(error.to_string()),
        };
        let crash = match next {
            Next::Enter => None,
            Next::MapAhead(range) => {
                map_ahead(&mut vcpu, range, machine);
                None
            }
            Next::CompleteWith(held) => {
                let completed = vcpu.complete_exit();
                drop(held);
                completed.err().map(|error| error.to_string())
            }
            Next::Crash(what) => Some(what),
        };
        if let Some(what) = crash {
            let place = vcpu.position().map_or_else(String::new, |(rip, cr3)| format!(", at rip={rip} with cr3={cr3}"));
            machine.end(GuestOutcome::Crashed { reason: format!("vCPU {id}: {what}{place}") });
        }
    }
    let mut by_name = ExitCounts::new();
    for (name, count) in exits {
        *by_name.entry(Cow::from(name)).or_default() += count;
    }
    Stopped { vcpu, exits: by_name }
}

/// Counts an exit. There are few reasons, and it is done so often that a map would be noticed. A name that lies in two
/// places is counted in two lines, which the sum by name joins again.
fn count(exits: &mut Vec<(&'static str, u64)>, reason: &'static str) {
    match exits.iter_mut().find(|(seen, _)| std::ptr::eq(*seen, reason)) {
        Some((_, count)) => *count += 1,
        None => exits.push((reason, 1)),
    }
}

/// Maps pages ahead of their use, piece by piece. It is a matter of speed only: what fails is counted, and the guest's own
/// access finds out why.
fn map_ahead<V: KernelVm>(vcpu: &mut V::Vcpu, range: GfnRange, machine: &Machine<V>) {
    for piece in range.pieces(MAP_PIECE) {
        if machine.has_ended() {
            return;
        }
        let done = vcpu.prefault(piece).unwrap_or_default().min(piece.pages());
        machine.mapped_ahead(done, PageCount::new(piece.pages().get() - done.get()));
    }
}

/// Answers an exit, and says what is to be done before the guest is entered again.
fn handle<'m, V: KernelVm>(id: u32, exit: Exit<'_>, machine: &'m Machine<V>, watch: &mut FaultWatch) -> Next<'m> {
    match exit {
        Exit::Port(access) => machine.port(id, access),
        Exit::Hypercall(call) => return machine.hypercall(id, call),
        Exit::MsrRead(msr) => machine.read_msr(id, msr),
        Exit::MsrWrite(msr) => machine.write_msr(id, msr),
        // Nothing is there: no device has memory-mapped registers.
        Exit::MmioRead(gpa, data) => {
            tracing::debug!(vcpu = id, %gpa, len = data.len(), "read where nothing is");
            data.fill(0xff);
        }
        Exit::MmioWrite(gpa, data) => tracing::debug!(vcpu = id, %gpa, ?data, "write where nothing is"),
        Exit::MemoryFault { wanted, gpa, size } => return machine.memory_fault(id, watch, wanted, gpa, size),
        // A vCPU in reset hold or halted waits for others, which is the kernel's to arrange where it has the interrupt
        // controller.
        Exit::Interrupted | Exit::Halted | Exit::ResetHold => {}
        Exit::SnpCertificates(request) => return machine.certificates(id, request),
        Exit::Shutdown => return Next::Crash("triple fault (shutdown)".to_owned()),
        Exit::SystemEvent { kind, data } => return machine.system_event(kind, &data),
        Exit::FailEntry { reason, cpu } => return machine.entry_failed(reason, cpu),
        Exit::InternalError { suberror, data } => {
            return Next::Crash(format!("KVM internal error, suberror {suberror}, data {data:x?}"));
        }
        Exit::Other(reason) => return Next::Crash(format!("exit {reason}, which this VMM does not know")),
    }
    Next::Enter
}
