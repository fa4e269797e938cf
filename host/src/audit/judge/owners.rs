//! VMs nobody owns, and processes that own several.

use super::{Host, by, total};
use crate::audit::report::{Ask, Confidence, Finding, Kind, MemoryReport, open_vms};
use crate::audit::seen::{Creator, FileId, Holder, Identity, KernelVm};
use gmem_kvm::evidence::Object;
use std::collections::BTreeSet;

impl Host<'_> {
    /// VMs in debugfs whose creator is gone, or has let go.
    pub(super) fn orphans(&self) -> Vec<Finding> {
        let vms = self.seen.vms.as_deref().unwrap_or_default();
        vms.iter().filter_map(|vm| self.orphan(vm)).collect()
    }

    fn orphan(&self, vm: &KernelVm) -> Option<Finding> {
        let (mut evidence, mut remedy) = (Vec::new(), "end these processes, or let them close and unmap it");
        let mut confidence = if self.seen.hidden == 0 { Confidence::Certain } else { Confidence::Likely };
        let name = &vm.name;
        let created = vm.created.map_or(String::new(), |created| format!(" since {created}"));
        evidence.push(format!("the kernel has VM {name} with {} vCPUs{created}", vm.vcpus));
        match vm.creator {
            Creator::Holds { .. } | Creator::Hidden { .. } => return None,
            Creator::Gone => evidence.push(format!("thread {}, which created it, is gone", vm.thread)),
            Creator::LetGo { pid } => {
                let creator = self.seen.holders.get(&pid);
                // It may have it under another number, or run it without: a vCPU is enough for that.
                if creator.is_some_and(|creator| self.explains_all(creator) || !self.runs(creator).is_empty()) {
                    return None;
                }
                confidence = confidence.max(Confidence::Likely);
                evidence.push(format!("process {pid}, which created it, has no VM as descriptor {} any more", vm.fd));
                evidence.push("another thread of it may have a descriptor table of its own".into());
            }
        }
        let suspects = self.suspects(vm);
        if self.seen.hidden != 0 {
            evidence.push(self.hidden());
        }
        let strangers = suspects.iter().filter(|suspect| !is_creator(vm, suspect));
        for suspect in strangers {
            evidence.push(format!("{} holds something of a VM it did not create", suspect.who));
        }
        if suspects.is_empty() {
            evidence.push("no process that could be looked at holds anything of a VM that is not accounted for".into());
            remedy = "look for descriptors that are on their way through a socket or registered with io_uring";
        }
        let files: BTreeSet<FileId> = suspects
            .iter()
            .flat_map(|suspect| suspect.memories())
            .filter(|file| !self.is_accounted_for(*file))
            .collect();
        let memories: Vec<&MemoryReport> = files.iter().filter_map(|file| self.memories.get(file)).collect();
        for (memory, holding) in memories.iter().flat_map(|one| one.held_by.iter().map(move |holding| (one, holding))) {
            evidence.push(format!("process {} {}: guest_memfd {}", holding.pid, by(holding), memory.file));
        }
        Some(Finding {
            id: Kind::OrphanVm,
            confidence,
            what: format!("VM {name} has outlived what created it"),
            bytes: total(memories.into_iter()),
            evidence,
            ask: suspects.into_iter().map(Ask::new).collect(),
            remedy: remedy.into(),
            subject: name.clone(),
        })
    }

    /// Whether a process has as many VMs open as it created and the kernel has.
    fn explains_all(&self, holder: &Holder) -> bool {
        open_vms(holder) >= self.kernel_vms(holder.who.pid).count()
    }

    /// Who may hold a VM that its creator does not: all that hold something they did not make, and nobody accounts for.
    fn suspects(&self, vm: &KernelVm) -> Vec<&Holder> {
        let suspect = |holder: &&Holder| {
            let (created, open, files) = (self.kernel_vms(holder.who.pid).count(), open_vms(holder), holder.memories());
            let is_strange = files.is_empty() || files.iter().any(|file| !self.is_accounted_for(*file));
            is_creator(vm, holder) || (created == 0 && is_strange) || open > created
        };
        self.seen.holders.values().filter(suspect).collect()
    }

    /// Whether somebody holds this memory who has a VM open that is its own.
    fn is_accounted_for(&self, file: FileId) -> bool {
        let Some(memory) = self.memories.get(&file) else { return false };
        let has_own = |pid| self.kernel_vms(pid).any(|vm| matches!(vm.creator, Creator::Holds { .. }));
        memory.held_by.iter().any(|holding| has_own(holding.pid))
    }

    /// Processes that hold memory of more than one VM.
    pub(super) fn several_vms(&self) -> Vec<Finding> {
        self.seen.holders.values().filter_map(|holder| self.several(holder)).collect()
    }

    fn several(&self, holder: &Holder) -> Option<Finding> {
        let files = holder.memories();
        if files.len() < 2 {
            return None;
        }
        let who = &holder.who;
        let (confidence, reason) = if open_vms(holder) > 1 {
            let compared = holder.of(Object::Vm).filter(|vm| vm.identity != Identity::Unknown).count() > 1;
            let numbers: Vec<_> = holder.of(Object::Vm).map(|vm| vm.fd.to_string()).collect();
            let numbers = numbers.join(", ");
            if compared {
                (Confidence::Likely, format!("{who} has {} VMs: descriptors {numbers}", open_vms(holder)))
            } else {
                let reason = format!("descriptors {numbers} of {who} are VMs; whether different ones is not known");
                (Confidence::Possible, reason)
            }
        } else if self.kernel_vms(who.pid).count() > 1 {
            let names: Vec<_> = self.kernel_vms(who.pid).map(|vm| vm.name.as_str()).collect();
            (Confidence::Likely, format!("{who} created VMs {}, and the kernel still has them", names.join(", ")))
        } else {
            let owners: BTreeSet<Identity> =
                files.iter().filter_map(|file| self.only_vm_of_others(holder, *file)).collect();
            if owners.len() < 2 {
                return None;
            }
            (Confidence::Likely, format!("others that hold the same memory have {} different VMs", owners.len()))
        };
        let mut evidence = vec![reason];
        let memories: Vec<&MemoryReport> = files.iter().filter_map(|file| self.memories.get(file)).collect();
        evidence.extend(memories.iter().flat_map(|memory| self.held(memory)));
        evidence.push("which memory is of which VM the kernel does not tell".into());
        let numbers: Vec<_> = files.iter().map(FileId::to_string).collect();
        Some(Finding {
            id: Kind::SeveralVms,
            confidence,
            what: format!("{who} holds private memory of more than one VM: one fault, and none of them is confined"),
            bytes: total(memories.into_iter()),
            evidence,
            ask: vec![Ask::new(holder)],
            remedy: "run each VM in a process of its own".into(),
            subject: format!("{} {}", who.pid, numbers.join(" ")),
        })
    }

    /// The VM of everybody else who holds this memory, if there is just one.
    fn only_vm_of_others(&self, holder: &Holder, file: FileId) -> Option<Identity> {
        let others = self.memories.get(&file)?.held_by.iter().filter(|other| other.pid != holder.who.pid);
        let vms: BTreeSet<Identity> = others
            .filter_map(|other| self.seen.holders.get(&other.pid))
            .flat_map(|other| other.of(Object::Vm).map(|vm| vm.identity))
            .collect();
        let only = vms.first().copied()?;
        (vms.len() == 1 && only != Identity::Unknown).then_some(only)
    }
}

fn is_creator(vm: &KernelVm, holder: &Holder) -> bool {
    matches!(vm.creator, Creator::LetGo { pid } if pid == holder.who.pid)
}
