//! What more than one process holds.
//!
//! One finding for each process that holds what is another's, with everything of it: whom to ask is the heir.

use super::Host;
use crate::audit::report::{Ask, Confidence, Finding, Kind};
use crate::audit::seen::{FileId, Holder, Identity, Mapping};
use gmem_kvm::evidence::Object;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What one process has of another's.
#[derive(Default)]
struct Inheritance {
    owners: BTreeSet<u32>,
    memory: BTreeSet<FileId>,
    evidence: Vec<String>,
    certain: bool,
}

impl Host<'_> {
    /// Descriptors and mappings that were inherited, or handed over.
    pub(super) fn inherited(&self) -> Vec<Finding> {
        let mut heirs: BTreeMap<u32, Inheritance> = BTreeMap::new();
        for (identity, places) in self.descriptors_in_several() {
            let Some(owner) = self.owner(places.keys()) else { continue };
            let has_it_open =
                |(pid, (numbers, _)): &(&u32, &(Vec<String>, String))| **pid != owner && !numbers.is_empty();
            for (pid, (numbers, name)) in places.iter().filter(has_it_open) {
                let theirs = places.get(&owner).map_or(&[][..], |(numbers, _)| numbers);
                let heir = heirs.entry(*pid).or_default();
                heir.owners.insert(owner);
                heir.certain = true;
                let (file, which) = match identity {
                    Identity::File(file) => (Some(file), format!(" {file}")),
                    Identity::Compared(_) | Identity::Unknown => (None, String::new()),
                };
                heir.memory.extend(file);
                let theirs = match theirs {
                    [] => format!("which process {owner} maps"),
                    _ => format!("the same file as {} of process {owner}", descriptors(theirs)),
                };
                heir.evidence.push(format!("it has {name}{which} as {}: {theirs}", descriptors(numbers)));
            }
        }
        for (file, pids) in self.mapped() {
            let Some(owner) = self.owner(pids.keys()) else { continue };
            for (pid, maps) in pids.iter().filter(|(pid, maps)| **pid != owner && !maps.is_empty()) {
                let heir = heirs.entry(*pid).or_default();
                heir.owners.insert(owner);
                heir.certain = true;
                heir.memory.insert(file);
                heir.evidence.extend(maps.iter().map(|map| {
                    format!("it maps guest_memfd {file}, which process {owner} holds, at {:x}-{:x}", map.start, map.end)
                }));
            }
        }
        for (pid, owner, map) in self.vcpu_mappings() {
            let heir = heirs.entry(pid).or_default();
            heir.owners.insert(owner);
            heir.evidence.push(format!(
                "it maps {} at {:x}-{:x} without having it open, where process {owner} has such a mapping",
                map.name, map.start, map.end
            ));
        }
        heirs.into_iter().filter_map(|(pid, heir)| self.finding(pid, heir)).collect()
    }

    fn finding(&self, pid: u32, heir: Inheritance) -> Option<Finding> {
        let holder = self.seen.holders.get(&pid)?;
        let owners: Vec<&Holder> = heir.owners.iter().filter_map(|pid| self.seen.holders.get(pid)).collect();
        let (mut names, mut evidence) = (Vec::new(), heir.evidence);
        for owner in &owners {
            names.push(owner.who.to_string());
            evidence.push(relation(holder, owner));
        }
        let bytes = heir.memory.iter().filter_map(|file| self.memories.get(file)?.bytes).reduce(u64::saturating_add);
        Some(Finding {
            id: Kind::Inherited,
            confidence: if heir.certain { Confidence::Certain } else { Confidence::Likely },
            what: format!(
                "{} holds what is of the guest of {}, and can keep it after its end",
                holder.who,
                names.join(", ")
            ),
            bytes,
            evidence,
            ask: std::iter::once(holder).chain(owners).map(Ask::new).collect(),
            remedy:
                "end it or let it close and unmap these; its VMM should set FD_CLOEXEC and not fork while a VM exists"
                    .into(),
            subject: format!("{pid} {:?}", heir.owners),
        })
    }

    /// Open files that more than one process holds: their descriptors in each. A guest_memfd counts as held where it is
    /// mapped.
    fn descriptors_in_several(&self) -> BTreeMap<Identity, BTreeMap<u32, (Vec<String>, String)>> {
        let mut places: BTreeMap<Identity, BTreeMap<u32, (Vec<String>, String)>> = BTreeMap::new();
        for (&pid, holder) in &self.seen.holders {
            for one in holder.descriptors.iter().filter(|one| one.identity != Identity::Unknown) {
                let place = places.entry(one.identity).or_default().entry(pid).or_default();
                place.0.push(one.fd.to_string());
                place.1.clone_from(&one.name);
            }
        }
        for (file, holding) in self.memories.values().flat_map(|one| one.held_by.iter().map(|by| (one.file, by))) {
            places.entry(Identity::File(file)).or_default().entry(holding.pid).or_default();
        }
        places.retain(|_, pids| pids.len() > 1);
        places
    }

    /// Memory that more than one process holds: the mappings of each that only maps it, or that has it open and maps it.
    fn mapped(&self) -> BTreeMap<FileId, BTreeMap<u32, Vec<&Mapping>>> {
        let several = self.memories.values().filter(|memory| memory.held_by.len() > 1);
        let mut mapped = BTreeMap::new();
        for memory in several {
            let pids: BTreeMap<u32, Vec<&Mapping>> = memory
                .held_by
                .iter()
                .filter_map(|holding| Some((holding.pid, self.seen.holders.get(&holding.pid)?)))
                .map(|(pid, holder)| {
                    let maps = holder.mappings.iter();
                    (pid, maps.filter(|map| map.object == Object::GuestMemfd && map.file == memory.file).collect())
                })
                .collect();
            mapped.insert(memory.file, pids);
        }
        mapped
    }

    /// Mappings of vCPUs by processes that have none open, at a place where a process has one that does: fork leaves them
    /// where they were. Which vCPU is mapped the kernel does not tell.
    fn vcpu_mappings(&self) -> Vec<(u32, u32, &Mapping)> {
        let vcpu_maps = |holder: &'_ Holder| -> Vec<(u64, String)> {
            let maps = holder.mappings.iter().filter(|map| map.object == Object::Vcpu);
            maps.map(|map| (map.start, map.name.clone())).collect()
        };
        let mut places: BTreeMap<(u64, String), Vec<u32>> = BTreeMap::new();
        for holder in self.seen.holders.values().filter(|holder| holder.of(Object::Vcpu).next().is_some()) {
            for place in vcpu_maps(holder) {
                places.entry(place).or_default().push(holder.who.pid);
            }
        }
        let mut found = Vec::new();
        for holder in self.seen.holders.values().filter(|holder| holder.of(Object::Vcpu).next().is_none()) {
            for map in holder.mappings.iter().filter(|map| map.object == Object::Vcpu) {
                let owners = places.get(&(map.start, map.name.clone()));
                let owner = owners.and_then(|owners| self.owner(owners.iter()));
                found.extend(owner.map(|owner| (holder.who.pid, owner, map)));
            }
        }
        found
    }

    /// Whose something is, of all who hold it: who runs the guest, else who has the VM open, else whose descendants the
    /// others are, else the oldest.
    fn owner<'p>(&self, pids: impl Iterator<Item = &'p u32>) -> Option<u32> {
        let holders: Vec<&Holder> = pids.filter_map(|pid| self.seen.holders.get(pid)).collect();
        let rank = |holder: &&&Holder| {
            let pid = holder.who.pid;
            let heirs = holders.iter().filter(|other| other.ancestors.iter().any(|who| who.pid == pid)).count();
            let is_creator = self.kernel_vms(pid).next().is_some();
            let has_vm = holder.of(Object::Vm).next().is_some();
            (!self.runs(holder).is_empty(), is_creator, has_vm, heirs, Reverse(holder.started_ticks), Reverse(pid))
        };
        holders.iter().max_by_key(rank).map(|holder| holder.who.pid)
    }
}

fn descriptors(numbers: &[String]) -> String {
    format!("{} {}", if numbers.len() == 1 { "descriptor" } else { "descriptors" }, numbers.join(", "))
}

fn relation(heir: &Holder, owner: &Holder) -> String {
    let above = |of: &Holder, who: &Holder| of.ancestors.iter().position(|one| one.pid == who.who.pid);
    match (above(heir, owner), above(owner, heir)) {
        (Some(0), _) => format!("{} is the parent of {}", owner.who, heir.who),
        (Some(_), _) => format!("{} is an ancestor of {}", owner.who, heir.who),
        (None, Some(_)) => format!("{} is a descendant of {}", owner.who, heir.who),
        (None, None) => format!(
            "{} does not descend from {}: handed over through a socket, or a parent between them has ended",
            heir.who, owner.who
        ),
    }
}
