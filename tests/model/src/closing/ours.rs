//! What `tenure` does: from the creation of a VM to the end of its teardown, with a death possible after every step.

use gmem_kvm::teardown::Closing;

use super::{Handle, State, order_of_teardown};
use crate::protocol::Steps;

/// What can be different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// Teardown in the reverse order.
    VmFirst,
    /// The descriptor stays where the kernel put it, which may be below the VM's.
    NotMoved,
    /// Another thread forks before the descriptor is moved.
    Inherited,
    /// The file is mapped, and nobody unmaps it.
    ForgottenMapping,
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    CreateVm,
    CreateGmem,
    Fork,
    MoveGmem,
    CloseFirst,
    Map,
    CreateVcpu,
    MapKvmRun,
    Run,
    Close(Closing),
}

/// The plan.
#[derive(Debug, Clone)]
pub(super) struct Ours {
    tasks: Vec<Task>,
}

/// The VM's descriptor. Numbers below are free ones from before.
const VM: u8 = 10;

impl Ours {
    pub(super) fn new(change: Change) -> Self {
        let mut tasks = vec![Task::CreateVm, Task::CreateGmem];
        if change == Change::Inherited {
            tasks.push(Task::Fork);
        }
        if change != Change::NotMoved {
            tasks.extend([Task::MoveGmem, Task::CloseFirst]);
        }
        if change == Change::ForgottenMapping {
            tasks.push(Task::Map);
        }
        tasks.extend([Task::CreateVcpu, Task::MapKvmRun, Task::Run]);
        let mut order = order_of_teardown();
        if change == Change::VmFirst {
            order.reverse();
        }
        tasks.extend(order.into_iter().map(Task::Close));
        Self { tasks }
    }

    pub(super) fn is_over(&self, s: &State) -> bool {
        s.done == self.tasks.len()
    }

    /// The next task, or death.
    pub(super) fn steps(&self, steps: &mut Steps<'_, State>) {
        const WHO: &str = "VMM";
        steps.add(WHO, "dies", |s| s.is_dying = true);
        let next = |effect: fn(&mut State)| {
            move |s: &mut State| {
                effect(s);
                s.done += 1;
            }
        };
        let s = steps.state();
        let Some(task) = self.tasks.get(s.done) else { return };
        match task {
            Task::CreateVm => steps.add(WHO, "creates a VM: descriptor 10", next(|s| s.get(Handle::Vm, VM))),
            Task::CreateGmem => {
                let moves = self.tasks.contains(&Task::MoveGmem);
                let handle = if moves { Handle::FirstGmem } else { Handle::Gmem };
                for (number, does) in
                    [(11, "creates a guest_memfd: descriptor 11"), (5, "creates a guest_memfd: descriptor 5")]
                {
                    steps.add(WHO, does, |s| {
                        s.get(handle, number);
                        s.done += 1;
                    });
                }
            }
            Task::Fork => steps.add("another thread", "forks and executes a program: the child has the descriptor", {
                next(|s| s.get(Handle::Inherited, 0))
            }),
            Task::MoveGmem => {
                steps.add(WHO, "moves it above the VM's: descriptor 12", next(|s| s.get(Handle::Gmem, 12)))
            }
            Task::CloseFirst => {
                steps.add(WHO, "closes its first descriptor", next(|s| s.drop_handle(Handle::FirstGmem)))
            }
            Task::Map => steps.add(WHO, "maps it", next(|s| s.get(Handle::GmemMapping, 0))),
            Task::CreateVcpu => {
                steps.add(WHO, "creates a vCPU: descriptor 4", next(|s| s.get(Handle::Vcpu, 4)));
                steps.add(WHO, "creates a vCPU: descriptor 20", next(|s| s.get(Handle::Vcpu, 20)));
            }
            Task::MapKvmRun => steps.add(WHO, "maps the vCPU's kvm_run", next(|s| s.get(Handle::KvmRun, 0))),
            Task::Run => steps.add("guest", "runs: the RMP assigns pages to its ASID", next(|s| s.pages[0] = true)),
            Task::Close(Closing::VcpusStopped) => steps.add(WHO, "stops the vCPUs", next(|_| ())),
            Task::Close(Closing::Slot(_)) => steps.add(WHO, "deletes the slots", next(|_| ())),
            Task::Close(Closing::GuestMemfd) => {
                steps.add(WHO, "closes the guest_memfd", next(|s| s.drop_handle(Handle::Gmem)));
            }
            Task::Close(Closing::Vcpus(_)) => Self::close_vcpu(steps),
            Task::Close(Closing::Vm) => steps.add(WHO, "closes the VM", next(|s| s.drop_handle(Handle::Vm))),
        }
    }

    /// The vCPU's descriptor and its mapping, whichever comes first.
    fn close_vcpu(steps: &mut Steps<'_, State>) {
        let s = steps.state();
        for (handle, does) in [(Handle::Vcpu, "closes the vCPU"), (Handle::KvmRun, "unmaps kvm_run")] {
            if s.has(handle) {
                let last = !(s.has(Handle::Vcpu) && s.has(Handle::KvmRun));
                steps.add("VMM", does, |s| {
                    s.drop_handle(handle);
                    s.done += usize::from(last);
                });
            }
        }
    }
}
