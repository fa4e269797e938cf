//! What an audit says.
//!
//! Owns the report as data. As JSON its keys are only ever added to. Not owned: how it looks to people (`text`).

use super::seen::{Creator, FileId, Holder, How, Identity, Moment, Seen, Unseen, Who};
use super::threads;
use crate::exit::ExitCode;
use gmem_kvm::evidence::Object;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that was seen, and what is wrong with it.
#[derive(Debug, Clone, Serialize)]
pub struct AuditReport {
    /// Version of `tenure`.
    pub version: &'static str,
    /// The kernel's release.
    pub kernel: String,
    /// Whether everything there is could be seen: nothing in `unseen`.
    pub complete: bool,
    /// Processes that were looked at.
    pub processes_looked_at: usize,
    /// Processes of which something could not be read.
    pub processes_hidden: usize,
    /// Processes that hold something that pins a VM.
    pub holders: Vec<HolderReport>,
    /// Every guest_memfd that somebody holds.
    pub memories: Vec<MemoryReport>,
    /// The kernel's own list of VMs, if it could be read.
    pub vms: Option<Vec<VmReport>>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What could not be seen, and why.
    pub unseen: Vec<Unseen>,
}

impl AuditReport {
    /// How the command ends.
    pub fn exit_code(&self) -> ExitCode {
        if self.findings.is_empty() { ExitCode::Success } else { ExitCode::Findings }
    }
}

/// A process that holds something.
#[derive(Debug, Clone, Serialize)]
pub struct HolderReport {
    /// Its number.
    pub pid: u32,
    /// Its command's name.
    pub command: String,
    /// Its command line.
    pub command_line: Option<String>,
    /// Its real user's number.
    pub uid: Option<u32>,
    /// That user's name.
    pub user: Option<String>,
    /// When it started.
    pub since: Option<Moment>,
    /// Its parent.
    pub parent: Option<Who>,
    /// VMs it has open.
    pub vms: usize,
    /// vCPUs it has open.
    pub vcpus: usize,
    /// Threads that were seen to run one.
    pub running: Vec<RunningThread>,
    /// Why more may be running than were seen to.
    pub running_unknown: Option<String>,
    /// What it has open.
    pub descriptors: Vec<DescriptorReport>,
    /// What it has mapped.
    pub mappings: Vec<MappingReport>,
}

/// A thread that runs a vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunningThread {
    /// Its number.
    pub thread: u32,
    /// How that was seen.
    pub how: String,
}

/// A descriptor that pins a VM.
#[derive(Debug, Clone, Serialize)]
pub struct DescriptorReport {
    /// Its number.
    pub fd: u32,
    /// What the kernel calls it.
    pub name: String,
    /// The file, for a guest_memfd.
    pub file: Option<FileId>,
    /// Equal numbers are the same open file; for everything else.
    pub same: Option<usize>,
    /// Whether exec closes it.
    pub close_on_exec: Option<bool>,
}

/// A mapping that pins a VM.
#[derive(Debug, Clone, Serialize)]
pub struct MappingReport {
    /// Where.
    pub addresses: String,
    /// How much of it.
    pub bytes: u64,
    /// What the kernel calls it.
    pub name: String,
    /// The file, for a guest_memfd.
    pub file: Option<FileId>,
}

/// A guest_memfd.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryReport {
    /// Its file.
    pub file: FileId,
    /// Its size; how much of it is allocated is at most that. Without root's rights it is not known if it is only mapped.
    pub bytes: Option<u64>,
    /// How much is allocated, if that was asked for.
    pub allocated_bytes: Option<u64>,
    /// Since when it is there.
    pub created: Option<Moment>,
    /// Whether a guest uses it.
    pub state: State,
    /// What that is concluded from.
    pub state_evidence: Vec<String>,
    /// Who holds it.
    pub held_by: Vec<Holding>,
}

/// Whether a guest uses memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A vCPU of its VM runs.
    Running,
    /// None does.
    NotRunning,
    /// It could not be told.
    Unknown,
}

/// How a process holds a guest_memfd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// The process.
    pub pid: u32,
    /// Its descriptors of it.
    pub descriptors: Vec<u32>,
    /// Its mappings of it.
    pub mappings: Vec<String>,
}

/// A VM, as the kernel lists it.
#[derive(Debug, Clone, Serialize)]
pub struct VmReport {
    /// Its name in debugfs: the thread and the descriptor it was created by and as.
    pub name: String,
    /// When it was created.
    pub created: Option<Moment>,
    /// Its vCPUs.
    pub vcpus: u64,
    /// Exits while it was watched.
    pub exits: Option<u64>,
    /// The process that created it, if it is there.
    pub creator: Option<u32>,
    /// Whether that process still has it open under that number.
    pub creator_holds: Option<bool>,
}

/// How sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// What was read allows no other explanation that we know of.
    Certain,
    /// There is another explanation; the evidence names it.
    Likely,
    /// Something that would decide it could not be read.
    Possible,
}

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Private memory is held, and no vCPU of its VM runs.
    PinnedWithoutVcpu,
    /// A VM is there whose creator is gone or has let it go.
    OrphanVm,
    /// A process holds what is another's.
    Inherited,
    /// A process holds memory of more than one VM.
    SeveralVms,
    /// A program started by this process would inherit it.
    NotCloseOnExec,
}

impl Kind {
    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PinnedWithoutVcpu => "pinned-without-vcpu",
            Self::OrphanVm => "orphan-vm",
            Self::Inherited => "inherited",
            Self::SeveralVms => "several-vms",
            Self::NotCloseOnExec => "not-close-on-exec",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub id: Kind,
    /// How sure it is.
    pub confidence: Confidence,
    /// What it is.
    pub what: String,
    /// The memory it is about, at most.
    pub bytes: Option<u64>,
    /// What it is concluded from.
    pub evidence: Vec<String>,
    /// Whom to ask.
    pub ask: Vec<Ask>,
    /// What helps.
    pub remedy: String,
    /// What it is about, in a form that is the same in the next look.
    #[serde(skip)]
    pub(super) subject: String,
}

/// Somebody to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ask {
    /// The process.
    pub pid: u32,
    /// Its command's name.
    pub command: String,
    /// Its user's name, or number.
    pub user: Option<String>,
    /// When it started.
    pub since: Option<Moment>,
    /// Its parent.
    pub parent: Option<Who>,
}

impl Ask {
    pub(super) fn new(holder: &Holder) -> Self {
        Self {
            pid: holder.who.pid,
            command: holder.who.command.clone(),
            user: user(holder),
            since: holder.started,
            parent: holder.ancestors.first().cloned(),
        }
    }
}

fn user(holder: &Holder) -> Option<String> {
    holder.user.clone().or_else(|| holder.uid.map(|uid| uid.to_string()))
}

/// How many VMs a process has open; copies of a descriptor count once where they could be compared.
pub(super) fn open_vms(holder: &Holder) -> usize {
    let identities: Vec<Identity> = holder.of(Object::Vm).map(|vm| vm.identity).collect();
    let known: BTreeSet<_> = identities.iter().filter(|identity| **identity != Identity::Unknown).collect();
    known.len() + identities.iter().filter(|identity| **identity == Identity::Unknown).count()
}

pub(super) fn holder(holder: &Holder) -> HolderReport {
    let running = holder.vcpus.running.iter().map(|(&thread, how)| RunningThread { thread, how: how.to_string() });
    HolderReport {
        pid: holder.who.pid,
        command: holder.who.command.clone(),
        command_line: holder.command_line.clone(),
        uid: holder.uid,
        user: holder.user.clone(),
        since: holder.started,
        parent: holder.ancestors.first().cloned(),
        vms: open_vms(holder),
        vcpus: threads::vcpus(holder),
        running: running.collect(),
        running_unknown: holder.vcpus.unknown.clone(),
        descriptors: holder.descriptors.iter().map(descriptor).collect(),
        mappings: holder.mappings.iter().map(mapping).collect(),
    }
}

fn descriptor(one: &super::seen::Descriptor) -> DescriptorReport {
    let (file, same) = match one.identity {
        Identity::File(file) => (Some(file), None),
        Identity::Compared(number) => (None, Some(number)),
        Identity::Unknown => (None, None),
    };
    DescriptorReport { fd: one.fd, name: one.name.clone(), file, same, close_on_exec: one.close_on_exec }
}

fn mapping(map: &super::seen::Mapping) -> MappingReport {
    MappingReport {
        addresses: addresses(map),
        bytes: map.end - map.start,
        name: map.name.clone(),
        file: (map.object == Object::GuestMemfd).then_some(map.file),
    }
}

fn addresses(map: &super::seen::Mapping) -> String {
    format!("{:x}-{:x}", map.start, map.end)
}

/// Every guest_memfd with its holders; nothing concluded yet.
pub(super) fn memories(seen: &Seen) -> BTreeMap<FileId, MemoryReport> {
    let mut memories: BTreeMap<FileId, MemoryReport> = BTreeMap::new();
    for holder in seen.holders.values() {
        for file in holder.memories() {
            let memory = memories.entry(file).or_insert_with(|| MemoryReport {
                file,
                bytes: None,
                allocated_bytes: None,
                created: None,
                state: State::Unknown,
                state_evidence: Vec::new(),
                held_by: Vec::new(),
            });
            let open: Vec<_> =
                holder.of(Object::GuestMemfd).filter(|one| one.identity == Identity::File(file)).collect();
            let maps = holder.mappings.iter().filter(|map| map.object == Object::GuestMemfd && map.file == file);
            let mapped: Vec<_> = maps.collect();
            let sizes = open.iter().map(|one| one.bytes).chain(mapped.iter().map(|map| map.bytes));
            let times = open.iter().map(|one| one.created).chain(mapped.iter().map(|map| map.created));
            memory.bytes = memory.bytes.or(sizes.flatten().next());
            memory.created = memory.created.or(times.flatten().next());
            memory.held_by.push(Holding {
                pid: holder.who.pid,
                descriptors: open.iter().map(|one| one.fd).collect(),
                mappings: mapped.into_iter().map(addresses).collect(),
            });
        }
    }
    memories
}

pub(super) fn vms(seen: &Seen) -> Option<Vec<VmReport>> {
    let vm = |vm: &super::seen::KernelVm| {
        let (creator, creator_holds) = match vm.creator {
            Creator::Holds { pid } => (Some(pid), Some(true)),
            Creator::LetGo { pid } => (Some(pid), Some(false)),
            Creator::Hidden { pid } => (Some(pid), None),
            Creator::Gone => (None, Some(false)),
        };
        VmReport {
            name: vm.name.clone(),
            created: vm.created,
            vcpus: vm.vcpus,
            exits: vm.exits,
            creator,
            creator_holds,
        }
    };
    Some(seen.vms.as_ref()?.iter().map(vm).collect())
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InCall { fd } => write!(f, "in KVM_RUN on descriptor {fd}"),
            Self::InGuestMode => f.write_str("in guest mode"),
            Self::ByStack => f.write_str("on a processor, last seen in KVM_RUN by its stack"),
        }
    }
}
