//! What a look at the host has seen, before anything is made of it.
//!
//! Owns the facts. Not owned: how they are got (`look`) and what follows from them (`judge`).

use gmem_kvm::evidence::Object;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Which file something is. A guest_memfd has an inode of its own since it exists (Linux 6.8), so that this is the
/// same file in every process. VMs and vCPUs share one inode: that number tells nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// The device, as `stat` has it.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

impl Serialize for FileId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The present, by the system's clock.
    pub fn now() -> Self {
        Self(std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = i64::try_from(self.0).ok().and_then(|at| time::OffsetDateTime::from_unix_timestamp(at).ok());
        let Some(at) = at else { return write!(f, "{} s after 1970", self.0) };
        let (date, (hour, minute, second)) = (at.date(), at.to_hms());
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which open file a descriptor is, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A file with an inode of its own.
    File(FileId),
    /// One that the kernel compared with others of its kind: equal numbers are the same open file.
    Compared(usize),
    /// Not known.
    Unknown,
}

/// A descriptor that pins a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub fd: u32,
    /// What it is.
    pub object: Object,
    /// What the kernel calls it.
    pub name: String,
    /// Which one it is.
    pub identity: Identity,
    /// Its file's size, for a guest_memfd.
    pub bytes: Option<u64>,
    /// Since when there is such a file, for a guest_memfd.
    pub created: Option<Moment>,
    /// Whether a program that is started by exec does not get it.
    pub close_on_exec: Option<bool>,
}

/// A mapping that pins a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
    /// What is mapped.
    pub object: Object,
    /// What the kernel calls it.
    pub name: String,
    /// Its file; tells which one only for a guest_memfd.
    pub file: FileId,
    /// Its file's size, for a guest_memfd, if it could be asked for.
    pub bytes: Option<u64>,
    /// Since when there is such a file, for a guest_memfd, if it could be asked for.
    pub created: Option<Moment>,
}

/// A process, as people know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Who {
    /// Its number.
    pub pid: u32,
    /// Its command's name.
    pub command: String,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pid, self.command)
    }
}

/// How a thread was seen to run a vCPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It waited in `KVM_RUN` on this descriptor.
    InCall {
        /// The vCPU's.
        fd: u32,
    },
    /// It was in guest mode.
    InGuestMode,
    /// It was on a processor, and its kernel stack was one of `KVM_RUN`: what is saved of the stack of a thread that runs
    /// may be old.
    ByStack,
}

/// What a process's vCPUs do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vcpus {
    /// Threads that were seen to run one.
    pub running: BTreeMap<u32, How>,
    /// Why more of them may be running than were seen to.
    pub unknown: Option<String>,
    /// How often was looked.
    pub samples: u32,
}

/// A process that holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who it is.
    pub who: Who,
    /// The thread that shows what it has: the first, or another if that one has ended.
    pub task: u32,
    /// Its command line, if it could be read.
    pub command_line: Option<String>,
    /// Its real user's number.
    pub uid: Option<u32>,
    /// That user's name, if it has one.
    pub user: Option<String>,
    /// When it started, in ticks after boot: with the number that is the process for ever.
    pub started_ticks: u64,
    /// When it started.
    pub started: Option<Moment>,
    /// Its parent, the parent's parent and so on.
    pub ancestors: Vec<Who>,
    /// What it has open.
    pub descriptors: Vec<Descriptor>,
    /// What it has mapped.
    pub mappings: Vec<Mapping>,
    /// What its vCPUs do.
    pub vcpus: Vcpus,
}

impl Holder {
    /// Descriptors of this kind.
    pub fn of(&self, object: Object) -> impl Iterator<Item = &Descriptor> {
        self.descriptors.iter().filter(move |descriptor| descriptor.object == object)
    }

    /// Whether it has a vCPU, open or mapped.
    pub fn has_vcpus(&self) -> bool {
        self.of(Object::Vcpu).next().is_some() || self.mappings.iter().any(|map| map.object == Object::Vcpu)
    }

    /// The guest_memfds it holds, open or mapped.
    pub fn memories(&self) -> BTreeSet<FileId> {
        let open = self.of(Object::GuestMemfd).filter_map(|descriptor| match descriptor.identity {
            Identity::File(file) => Some(file),
            Identity::Compared(_) | Identity::Unknown => None,
        });
        let mapped = self.mappings.iter().filter(|map| map.object == Object::GuestMemfd).map(|map| map.file);
        open.chain(mapped).collect()
    }
}

/// A VM as the kernel lists it in debugfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelVm {
    /// Its directory's name: thread and descriptor it was created by and as.
    pub name: String,
    /// The thread.
    pub thread: u32,
    /// The descriptor.
    pub fd: u32,
    /// When it was created.
    pub created: Option<Moment>,
    /// Its vCPUs.
    pub vcpus: u64,
    /// Exits while it was watched, all vCPUs together; none if that could not be read.
    pub exits: Option<u64>,
    /// What became of its creator.
    pub creator: Creator,
}

/// What became of the process that created a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creator {
    /// It is there, and the descriptor still is a VM's.
    Holds {
        /// The process.
        pid: u32,
    },
    /// It is there, but that descriptor no longer is a VM's.
    LetGo {
        /// The process.
        pid: u32,
    },
    /// It is there, but may not be looked at.
    Hidden {
        /// The process.
        pid: u32,
    },
    /// No thread has that number, or one that started later.
    Gone,
}

/// Something that could not be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
    /// What that means for what was found.
    pub so: String,
    /// What helps, if anything does.
    pub remedy: Option<String>,
}

/// Everything a look has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Processes that were looked at completely.
    pub looked_at: usize,
    /// Processes of which something could not be read.
    pub hidden: usize,
    /// Processes that hold something, by number.
    pub holders: BTreeMap<u32, Holder>,
    /// The kernel's own list of VMs, if it could be read.
    pub vms: Option<Vec<KernelVm>>,
    /// What could not be seen.
    pub unseen: Vec<Unseen>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_in_rfc_3339() {
        assert_eq!(Moment(1_795_160_219).to_string(), "2026-11-20T07:36:59Z");
        assert_eq!(Moment(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Moment(u64::MAX).to_string(), "18446744073709551615 s after 1970");
    }
}
