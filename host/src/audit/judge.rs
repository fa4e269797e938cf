//! What follows from what was seen: a pure function, so that hosts nobody has at hand can be tested.
//!
//! Owns whether memory is in use, and the findings. What Linux tells of who owns a guest_memfd is little: not which VM it
//! is of, and only where it lists VMs in debugfs that there still is one. What we know beside is the kernel's own law: a
//! guest_memfd is of a VM of the process that created both (bound-at-birth), only that process can run its vCPUs, and the
//! file keeps the VM. A finding says how sure it is and, where there is another explanation, which.
//!
//! Specification: Linux 7.2 `virt/kvm/guest_memfd.c`, `virt/kvm/kvm_main.c` (`kvm_vcpu_ioctl`: `kvm->mm`).

mod owners;
mod shared;

use super::report::{self, Ask, Confidence, Finding, Holding, Kind, MemoryReport, State};
use super::seen::{Creator, FileId, Holder, KernelVm, Moment, Seen};
use gmem_kvm::evidence::Object;
use std::collections::{BTreeMap, BTreeSet};

/// A host as it was seen, with its memory.
pub(super) struct Host<'a> {
    pub(super) seen: &'a Seen,
    pub(super) memories: BTreeMap<FileId, MemoryReport>,
}

impl<'a> Host<'a> {
    /// Puts memory together, and finds out whether it is in use.
    pub(super) fn new(seen: &'a Seen) -> Self {
        let mut host = Self { seen, memories: report::memories(seen) };
        let states: Vec<_> = host.memories.values().map(|memory| host.state(memory)).collect();
        for (memory, (state, evidence)) in host.memories.values_mut().zip(states) {
            (memory.state, memory.state_evidence) = (state, evidence);
        }
        host
    }

    /// Everything that is wrong.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let inherited = self.inherited();
        let heirs: BTreeSet<u32> =
            inherited.iter().flat_map(|finding| finding.ask.first()).map(|ask| ask.pid).collect();
        let mut findings = self.pinned();
        findings.extend(self.orphans());
        findings.extend(inherited);
        findings.extend(self.several_vms());
        findings.extend(self.not_close_on_exec(&heirs));
        findings
    }

    fn holders(&self, memory: &MemoryReport) -> impl Iterator<Item = (&'a Holder, Holding)> {
        let seen = self.seen;
        memory.held_by.clone().into_iter().filter_map(|holding| Some((seen.holders.get(&holding.pid)?, holding)))
    }

    /// VMs of a process in debugfs.
    fn kernel_vms(&self, pid: u32) -> impl Iterator<Item = &'a KernelVm> {
        let vms = self.seen.vms.as_deref().unwrap_or_default();
        vms.iter().filter(move |vm| match vm.creator {
            Creator::Holds { pid: creator } | Creator::LetGo { pid: creator } => creator == pid,
            Creator::Hidden { .. } | Creator::Gone => false,
        })
    }

    /// How it is known that a process runs vCPUs; empty if it is not.
    fn runs(&self, holder: &Holder) -> Vec<String> {
        let who = &holder.who;
        let threads = holder.vcpus.running.iter().map(|(thread, how)| format!("thread {thread} of {who} is {how}"));
        let exits = self.kernel_vms(who.pid).filter_map(|vm| match vm.exits {
            Some(exits @ 1..) => Some(format!("VM {} of {who} had {exits} exits meanwhile", vm.name)),
            Some(0) | None => None,
        });
        threads.chain(exits).collect()
    }

    /// VMs of a process: those it has open, or those it created and the kernel still has.
    fn vms(&self, holder: &Holder) -> usize {
        report::open_vms(holder).max(self.kernel_vms(holder.who.pid).count())
    }

    fn state(&self, memory: &MemoryReport) -> (State, Vec<String>) {
        let (mut unknown, mut idle) = (Vec::new(), Vec::new());
        for (holder, _) in self.holders(memory) {
            let (runs, who, vms) = (self.runs(holder), &holder.who, self.vms(holder));
            if !runs.is_empty() {
                let running = self.kernel_vms(who.pid).filter(|vm| vm.exits.is_some_and(|exits| exits != 0)).count();
                if vms <= 1 || running >= vms {
                    return (State::Running, runs);
                }
                unknown.extend(runs);
                unknown.push(format!("{who} has {vms} VMs; which of them this memory is of cannot be seen"));
            } else if let Some(why) = &holder.vcpus.unknown {
                unknown.push(format!("{who}: {why}"));
            } else {
                idle.extend(self.idle(holder));
            }
        }
        if unknown.is_empty() { (State::NotRunning, idle) } else { (State::Unknown, unknown) }
    }

    /// Why a process is taken not to run a guest.
    fn idle(&self, holder: &Holder) -> Vec<String> {
        let who = &holder.who;
        if !holder.has_vcpus() {
            return vec![format!("{who} has no vCPU")];
        }
        let samples = holder.vcpus.samples;
        let mut idle = vec![format!("no thread of {who}, which has vCPUs, was in KVM_RUN in {samples} looks")];
        let quiet = self.kernel_vms(who.pid).filter(|vm| vm.exits == Some(0));
        idle.extend(quiet.map(|vm| format!("VM {} of {who} had no exit meanwhile", vm.name)));
        idle
    }

    /// Memory that is held though no vCPU runs: one finding for all that the same processes hold.
    fn pinned(&self) -> Vec<Finding> {
        let mut groups: BTreeMap<Vec<u32>, Vec<&MemoryReport>> = BTreeMap::new();
        for memory in self.memories.values().filter(|memory| memory.state == State::NotRunning) {
            let pids = memory.held_by.iter().map(|holding| holding.pid).collect();
            groups.entry(pids).or_default().push(memory);
        }
        groups.into_iter().map(|(pids, memories)| self.pinned_by(&pids, &memories)).collect()
    }

    fn pinned_by(&self, pids: &[u32], memories: &[&MemoryReport]) -> Finding {
        let holders: Vec<&Holder> = pids.iter().filter_map(|pid| self.seen.holders.get(pid)).collect();
        let mut evidence: Vec<String> = memories.iter().flat_map(|memory| self.held(memory)).collect();
        for holder in &holders {
            evidence.extend(self.idle(holder));
        }
        let paused = holders.iter().any(|holder| holder.has_vcpus());
        let others = self.possible_owners(memories);
        let mut confidence = if paused { Confidence::Likely } else { Confidence::Certain };
        if !others.is_empty() && !paused {
            confidence = Confidence::Likely;
            evidence
                .push(format!("it may be of {}: running, as old, and without memory of its own", others.join(", ")));
        }
        if self.seen.hidden != 0 {
            confidence = confidence.max(Confidence::Likely);
            evidence.push(self.hidden());
        }
        let files: Vec<_> = memories.iter().map(|memory| memory.file.to_string()).collect();
        let names: Vec<_> = holders.iter().map(|holder| holder.who.to_string()).collect();
        Finding {
            id: Kind::PinnedWithoutVcpu,
            confidence,
            what: format!("private memory that no running guest uses is held by {}", names.join(", ")),
            bytes: total(memories.iter().copied()),
            evidence,
            ask: holders.iter().map(|holder| Ask::new(holder)).collect(),
            remedy: if paused {
                "nothing if the guest is paused or being launched; else end the process: memory goes with it".into()
            } else {
                "let the process close and unmap it, or end it: the VM and its key stay until then".into()
            },
            subject: format!("{pids:?} {files:?}"),
        }
    }

    /// What could be the other explanation of anything.
    fn hidden(&self) -> String {
        let who = if self.seen.hidden == 1 { "process" } else { "processes" };
        format!("{} {who} could not be looked at", self.seen.hidden)
    }

    /// Processes that run a guest, hold no guest_memfd and are old enough to have made this one.
    fn possible_owners(&self, memories: &[&MemoryReport]) -> Vec<String> {
        let oldest = memories.iter().filter_map(|memory| memory.created).min();
        let old_enough = |holder: &Holder| match (holder.started, oldest) {
            (Some(Moment(started)), Some(Moment(created))) => started <= created + super::look::SLACK,
            _ => true,
        };
        let others = self.seen.holders.values().filter(|holder| {
            let runs = !self.runs(holder).is_empty() || holder.vcpus.unknown.is_some();
            runs && holder.memories().is_empty() && old_enough(holder)
        });
        others.map(|holder| holder.who.to_string()).collect()
    }

    /// How each process holds it.
    fn held(&self, memory: &MemoryReport) -> Vec<String> {
        let created = memory.created.map_or(String::new(), |created| format!(", there since {created}"));
        let size = memory.bytes.map_or("of unknown size".to_owned(), |bytes| gmem::ByteLen(bytes).to_string());
        let mut lines = vec![format!("guest_memfd {}, {size}{created}", memory.file)];
        lines.extend(self.holders(memory).map(|(holder, holding)| format!("{} {}", holder.who, by(&holding))));
        lines
    }

    /// Descriptors a program started by exec would get.
    fn not_close_on_exec(&self, heirs: &BTreeSet<u32>) -> Vec<Finding> {
        let holders = self.seen.holders.values().filter(|holder| !heirs.contains(&holder.who.pid));
        holders.filter_map(|holder| self.would_leak(holder)).collect()
    }

    fn would_leak(&self, holder: &Holder) -> Option<Finding> {
        let open: Vec<_> = holder.descriptors.iter().filter(|one| one.close_on_exec == Some(false)).collect();
        if open.is_empty() {
            return None;
        }
        let numbers: Vec<u32> = open.iter().map(|one| one.fd).collect();
        let memory: BTreeMap<_, _> =
            open.iter().filter(|one| one.object == Object::GuestMemfd).map(|one| (one.identity, one.bytes)).collect();
        let line = |one: &&super::seen::Descriptor| {
            format!("descriptor {} of {} is {} without FD_CLOEXEC", one.fd, holder.who, one.name)
        };
        Some(Finding {
            id: Kind::NotCloseOnExec,
            confidence: Confidence::Certain,
            what: format!("a program that {} starts inherits its guest, and pins it", holder.who),
            bytes: memory.values().copied().flatten().reduce(u64::saturating_add),
            evidence: open.iter().map(line).collect(),
            ask: vec![Ask::new(holder)],
            remedy: "its VMM should set FD_CLOEXEC as soon as KVM_CREATE_GUEST_MEMFD returns; KVM does not".into(),
            subject: format!("{} {numbers:?}", holder.who.pid),
        })
    }
}

/// How it is held, in words.
fn by(holding: &Holding) -> String {
    let list = |items: Vec<String>, one: &str, more: &str| match &items[..] {
        [] => None,
        [item] => Some(format!("{one} {item}")),
        _ => Some(format!("{more} {}", items.join(", "))),
    };
    let numbers = holding.descriptors.iter().map(u32::to_string).collect();
    let open = list(numbers, "holds it as descriptor", "holds it as descriptors");
    let mapped = list(holding.mappings.clone(), "maps it at", "maps it at");
    [open, mapped].into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

fn total<'a>(memories: impl Iterator<Item = &'a MemoryReport>) -> Option<u64> {
    memories.filter_map(|memory| memory.bytes).reduce(u64::saturating_add)
}
