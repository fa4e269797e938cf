//! The kernel that is asked: who it says it is, what it says it can, and how it is known to differ.
//!
//! Owns: the facts by which the model and the reports tell kernels apart. Does not own: how they are found out
//! ([`crate::real`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Who a kernel says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `uname -r`
    pub release: String,
    /// KVM's vendor module: `kvm_amd`, `kvm_intel` or another.
    pub module: String,
    /// The machine it runs on, in the words of whoever started the program.
    pub bed: String,
}

impl Identity {
    /// Major and minor version.
    #[must_use]
    pub fn version(&self) -> (u32, u32) {
        let mut parts = self.release.split(|sign: char| !sign.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// Whether its KVM is one whose source is public.
    #[must_use]
    pub fn is_upstream(&self) -> bool {
        matches!(self.module.as_str(), "kvm_amd" | "kvm_intel")
    }
}

/// What VMs of one type can do, by `KVM_CHECK_EXTENSION` on one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeFeatures {
    /// `KVM_CAP_GUEST_MEMFD`: slots can have one.
    pub gmem: bool,
    /// `KVM_CAP_GUEST_MEMFD_FLAGS`
    pub gmem_flags: u64,
    /// `KVM_CAP_MEMORY_ATTRIBUTES`
    pub attributes: u64,
    /// `KVM_CAP_MULTI_ADDRESS_SPACE`, 1 without.
    pub address_spaces: u32,
}

/// What the kernel says it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// By VM type: those this program knows how to use (0 and 1), if the kernel has them.
    pub types: BTreeMap<u32, TypeFeatures>,
    /// `KVM_CAP_PRE_FAULT_MEMORY`
    pub prefault: bool,
    /// `KVM_SET_MEMORY_ATTRIBUTES` is built in: `KVM_CAP_MEMORY_ATTRIBUTES` of /dev/kvm is not 0.
    pub attributes_ioctl: bool,
    /// `cachestat` works on a guest_memfd.
    pub cachestat: bool,
    /// debugfs shows VMs.
    pub debugfs: bool,
    /// The last address a guest can have.
    pub last_gpa: u64,
    /// `KVM_CHECK_EXTENSION` of /dev/kvm, of those that matter here.
    pub capabilities: BTreeMap<u32, u64>,
    /// The same of a VM, by type.
    pub vm_capabilities: BTreeMap<u32, BTreeMap<u32, u64>>,
}

/// `KVM_CAP_*` that are looked at.
pub const CAPABILITIES: [(u32, &str); 8] = [
    (118, "KVM_CAP_MULTI_ADDRESS_SPACE"),
    (231, "KVM_CAP_USER_MEMORY2"),
    (232, "KVM_CAP_MEMORY_FAULT_INFO"),
    (233, "KVM_CAP_MEMORY_ATTRIBUTES"),
    (234, "KVM_CAP_GUEST_MEMFD"),
    (235, "KVM_CAP_VM_TYPES"),
    (236, "KVM_CAP_PRE_FAULT_MEMORY"),
    (244, "KVM_CAP_GUEST_MEMFD_FLAGS"),
];

impl Features {
    /// What is known of a type; `None` if the kernel does not have it.
    #[must_use]
    pub fn of_type(&self, vm_type: u32) -> Option<TypeFeatures> {
        self.types.get(&vm_type).copied()
    }

    /// A capability of a VM type, or of /dev/kvm.
    #[must_use]
    pub fn capability(&self, vm_type: Option<u32>, number: u32) -> Option<u64> {
        let of = match vm_type {
            None => &self.capabilities,
            Some(vm_type) => self.vm_capabilities.get(&vm_type)?,
        };
        of.get(&number).copied()
    }
}

/// A known difference from Linux 7.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quirk {
    /// Binding pages of a file that another slot has is EINVAL instead of EEXIST.
    FileOverlapIsInvalid,
    /// A guest's access goes through `userspace_addr` even if its slot's guest_memfd can be mapped.
    GuestUsesHostAddresses,
    /// A guest_memfd mapped for execution is ENODEV, as any other of its mappings, instead of EPERM.
    MountAllowsExecution,
    /// A frame without a slot that a guest has accessed stays MMIO when it is made private, until slots change.
    MmioIsRemembered,
    /// Prefaulting never ends on a vCPU that ran before a slot was deleted or moved, until it has run again (VM type 0).
    PrefaultHangsAfterZap,
    /// Offset and size of a binding are added as signed numbers: a sum beyond the largest is taken to fit into any file.
    BindOffsetWraps,
}

impl Quirk {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::FileOverlapIsInvalid,
        Self::GuestUsesHostAddresses,
        Self::MountAllowsExecution,
        Self::MmioIsRemembered,
        Self::PrefaultHangsAfterZap,
        Self::BindOffsetWraps,
    ];

    /// Whether a kernel is known to have it.
    ///
    /// Seen on 6.12, 6.18 and 7.2. Where between two of them a behaviour changed is inferred from when the code did; a
    /// kernel in between may turn out to belong to the other side.
    #[must_use]
    pub fn is_of(self, identity: &Identity) -> bool {
        match self {
            Self::FileOverlapIsInvalid => identity.version() < (7, 0),
            Self::GuestUsesHostAddresses | Self::BindOffsetWraps => identity.module == "kvm_pvm",
            Self::MountAllowsExecution => identity.version() < (6, 18),
            Self::MmioIsRemembered => identity.is_upstream(),
            Self::PrefaultHangsAfterZap => identity.version() < (6, 16),
        }
    }

    /// What the difference is, for people.
    #[must_use]
    pub fn remark(self) -> &'static str {
        match self {
            Self::FileOverlapIsInvalid => {
                "binding pages of a file that another slot has: EINVAL, since a later version EEXIST"
            }
            Self::GuestUsesHostAddresses => {
                "a guest's access goes through userspace_addr even where the slot's guest_memfd can be mapped"
            }
            Self::MountAllowsExecution => "mmap with PROT_EXEC: ENODEV, since a later version EPERM",
            Self::MmioIsRemembered => {
                "a frame without a slot that a guest has accessed stays MMIO after it is made private, until any slot of the \
                 VM changes; after that, private or not, it is a memory fault that says shared, even with a slot and a \
                 guest_memfd: KVM_SET_MEMORY_ATTRIBUTES invalidates what is mapped, which a remembered MMIO address is not"
            }
            Self::PrefaultHangsAfterZap => {
                "KVM_PRE_FAULT_MEMORY loops until a signal on a vCPU that ran before a slot of its VM (type 0) was deleted or \
                 moved and has not run since: obsolete page tables are given up by KVM_RUN only"
            }
            Self::BindOffsetWraps => {
                "offset and size of a binding are added as signed numbers: a slot whose sum is beyond 2^63 is bound far behind \
                 the file's end, to pages that no fallocate can reach"
            }
        }
    }
}

/// A kernel, as the model knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Who it is.
    pub identity: Identity,
    /// What it can.
    pub features: Features,
    /// How it differs.
    pub quirks: BTreeSet<Quirk>,
}

impl Kernel {
    /// A kernel with the quirks it is known to have.
    #[must_use]
    pub fn new(identity: Identity, features: Features) -> Self {
        let quirks = Quirk::ALL.into_iter().filter(|quirk| quirk.is_of(&identity)).collect();
        Self { identity, features, quirks }
    }

    /// Whether it has a quirk.
    #[must_use]
    pub fn has(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }
}
