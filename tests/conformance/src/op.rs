//! Operations as data.
//!
//! Owns: what can be asked of the kernel, and of what. Every operation names its objects by register (`v0` a VM, `f0` a
//! guest_memfd, `m0` a mapping of one, `c0` a vCPU), so that a sequence with lines taken out is still a sequence; and it
//! has one line of text (`text`), so that a sequence that found something can be kept, read and replayed. Does not own:
//! what an operation should do ([`crate::model`]) or how it is done ([`crate::real`]).
//!
//! Specification of the calls: Linux `Documentation/virt/kvm/api.rst` and `include/uapi/linux/kvm.h`.

mod text;

pub use text::{ParseError, parse, parse_script};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Bytes of a window of the host's address space.
pub const WINDOW_BYTES: u64 = 4 << 20;
/// From one window's beginning to the next; what is between them is never mapped.
pub const WINDOW_STRIDE: u64 = 2 * WINDOW_BYTES;

/// `KVM_MEM_LOG_DIRTY_PAGES`.
pub const LOG_DIRTY: u32 = 1;
/// `KVM_MEM_READONLY`.
pub const READONLY: u32 = 2;
/// `KVM_MEM_GUEST_MEMFD`.
pub const GUEST_MEMFD: u32 = 4;
/// `GUEST_MEMFD_FLAG_MMAP`.
pub const MMAP: u64 = 1;
/// `GUEST_MEMFD_FLAG_INIT_SHARED`.
pub const INIT_SHARED: u64 = 2;
/// `KVM_MEMORY_ATTRIBUTE_PRIVATE`.
pub const PRIVATE: u64 = 8;
/// `FALLOC_FL_KEEP_SIZE`.
pub const KEEP_SIZE: u32 = 1;
/// `FALLOC_FL_PUNCH_HOLE`.
pub const PUNCH_HOLE: u32 = 2;

/// The one port of the guest, and its slot, which no sequence touches: code and page tables, shared, not guest_memfd.
pub const STUB_SLOT: u32 = 32000;
/// Where that slot is. The guest can name addresses of this gigabyte only.
pub const STUB_GPA: u64 = 0x7000_0000;
/// Where the guest's code ends: what it has is 4 pages.
pub const STUB_BYTES: u64 = 4 * PAGE;
/// The gigabyte the guest can address.
pub const GUEST_GIGABYTE: std::ops::Range<u64> = 0x4000_0000..0x8000_0000;

macro_rules! register {
    ($(#[$about:meta])* $name:ident, $count:literal, $letter:literal) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u8);

        impl $name {
            /// How many there are.
            pub const COUNT: u8 = $count;
            /// Its letter in text.
            pub const LETTER: char = $letter;

            /// The register with this number, if there is one.
            #[must_use]
            pub fn new(number: u8) -> Option<Self> {
                (number < Self::COUNT).then_some(Self(number))
            }

            /// All of them.
            pub fn all() -> impl Iterator<Item = Self> {
                (0..Self::COUNT).map(Self)
            }

            /// Its number.
            #[must_use]
            pub fn index(self) -> usize {
                usize::from(self.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}{}", $letter, self.0)
            }
        }
    };
}

register! {
    /// A register that may hold a VM's descriptor.
    Vm, 3, 'v'
}
register! {
    /// A register that may hold a guest_memfd's descriptor.
    File, 6, 'f'
}
register! {
    /// A window of the address space that a guest_memfd may be mapped into.
    Map, 3, 'm'
}
register! {
    /// A register that may hold a vCPU.
    Cpu, 3, 'c'
}
register! {
    /// A window of the address space with ordinary anonymous memory.
    Plain, 2, 'p'
}

/// A host address: in a window, or a number that is in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In ordinary memory.
    Plain(Plain, u64),
    /// In a window for mappings, whether or not something is mapped there.
    Map(Map, u64),
    /// Elsewhere. The program never has anything at the addresses it uses here.
    Raw(u64),
}

/// What `KVM_SET_USER_MEMORY_REGION2` is given for a guest_memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// What is in a register.
    File(File),
    /// A VM.
    Vm(Vm),
    /// /dev/kvm itself.
    Kvm,
    /// A file of another file system.
    Null,
    /// A number that is no descriptor.
    Bad,
}

/// How a guest_memfd is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// `MAP_SHARED`
    Shared,
    /// `MAP_PRIVATE`
    Private,
}

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// `PROT_READ | PROT_WRITE`
    ReadWrite,
    /// `PROT_READ`
    Read,
    /// `PROT_READ | PROT_EXEC`
    Exec,
}

/// What an ordinary file would take, and a guest_memfd refuses or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `read` of one byte
    Read,
    /// `write` of one byte
    Write,
    /// `pread` of one byte at 0
    Pread,
    /// `pwrite` of one byte at 0
    Pwrite,
    /// `lseek` to 0
    Lseek,
    /// `ftruncate` to one page
    Truncate,
    /// `fchmod` to 0600
    Chmod,
    /// opening it once more by way of /proc/self/fd
    Reopen,
    /// `fstat`: the size in bytes
    Size,
    /// `fstat`: the preferred block size
    BlockSize,
}

/// Advice on a whole mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// `MADV_DONTNEED`
    DontNeed,
    /// `MADV_REMOVE`, a hole by another name
    Remove,
    /// `MADV_COLLAPSE`
    Collapse,
}

/// A slot as `KVM_SET_USER_MEMORY_REGION2` is told; size 0 deletes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Number, with the address space in the upper half.
    pub id: u32,
    /// `KVM_MEM_*`
    pub flags: u32,
    /// Guest physical address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// `userspace_addr`
    pub hva: Place,
    /// The descriptor.
    pub gmem: Descriptor,
    /// Offset in it, in bytes.
    pub offset: u64,
}

/// One thing asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `KVM_CREATE_VM`
    CreateVm {
        /// Where the descriptor goes.
        vm: Vm,
        /// `KVM_X86_*_VM`
        vm_type: u32,
    },
    /// `close` of a VM's descriptor
    CloseVm(Vm),
    /// `KVM_CREATE_GUEST_MEMFD`
    CreateFile {
        /// Where the descriptor goes.
        file: File,
        /// Whose it is.
        vm: Vm,
        /// Bytes.
        size: u64,
        /// `GUEST_MEMFD_FLAG_*`
        flags: u64,
    },
    /// `dup`
    Dup {
        /// What is duplicated.
        from: File,
        /// Where the new descriptor goes.
        to: File,
    },
    /// `close` of a guest_memfd's descriptor
    CloseFile(File),
    /// `KVM_CREATE_VCPU` with the register's number as id, and all the guest needs to run
    CreateCpu {
        /// Where it goes.
        cpu: Cpu,
        /// Whose it is.
        vm: Vm,
    },
    /// `close` of a vCPU's descriptor, and of its `kvm_run` mapping
    CloseCpu(Cpu),
    /// `KVM_SET_USER_MEMORY_REGION2`
    SetSlot {
        /// Of which VM.
        vm: Vm,
        /// What is asked.
        slot: Slot,
    },
    /// `KVM_SET_USER_MEMORY_REGION`, the first version of the call
    SetSlotV1 {
        /// Of which VM.
        vm: Vm,
        /// What is asked; nothing can be said of a guest_memfd.
        slot: Slot,
    },
    /// `KVM_SET_MEMORY_ATTRIBUTES`
    SetAttributes {
        /// Of which VM.
        vm: Vm,
        /// Guest physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// `KVM_MEMORY_ATTRIBUTE_*`
        attributes: u64,
        /// Must be 0.
        flags: u64,
    },
    /// `fallocate`
    Fallocate {
        /// Of which file.
        file: File,
        /// `FALLOC_FL_*`
        mode: u32,
        /// Offset in bytes, as a signed number.
        offset: u64,
        /// Bytes, as a signed number.
        len: u64,
    },
    /// `mmap`, at a window's beginning
    Map {
        /// The window.
        map: Map,
        /// Which file.
        file: File,
        /// Offset in it, in bytes.
        offset: u64,
        /// Bytes.
        len: u64,
        /// How.
        sharing: Sharing,
        /// What for.
        protection: Protection,
    },
    /// `munmap` of the whole mapping
    Unmap(Map),
    /// `madvise` on the whole mapping
    Advise {
        /// Which one.
        map: Map,
        /// What is advised.
        advice: Advice,
    },
    /// Reads a byte of the host's
    HostRead(Place),
    /// Writes one
    HostWrite(Place, u8),
    /// The guest reads a byte
    GuestRead(Cpu, u64),
    /// The guest writes one
    GuestWrite(Cpu, u64, u8),
    /// `KVM_PRE_FAULT_MEMORY`
    Prefault {
        /// On which vCPU.
        cpu: Cpu,
        /// Guest physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// Must be 0.
        flags: u64,
    },
    /// `cachestat`: how many pages the file has allocated
    Pages(File),
    /// Whether the VM that was created in this register last is still there, by debugfs
    Alive(Vm),
    /// `KVM_CHECK_EXTENSION`, on a VM or on /dev/kvm
    Capability {
        /// Of which VM, if any.
        vm: Option<Vm>,
        /// `KVM_CAP_*`
        number: u32,
    },
    /// Something one does with files
    Try(File, Call),
}

impl Op {
    /// What kind of operation it is, for counting.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CreateVm { .. } => "create VM",
            Self::CloseVm(_) => "close VM",
            Self::CreateFile { .. } => "create guest_memfd",
            Self::Dup { .. } => "dup",
            Self::CloseFile(_) => "close guest_memfd",
            Self::CreateCpu { .. } => "create vCPU",
            Self::CloseCpu(_) => "close vCPU",
            Self::SetSlot { slot, .. } if slot.size == 0 => "delete slot",
            Self::SetSlot { .. } => "set slot",
            Self::SetSlotV1 { .. } => "set slot (first version)",
            Self::SetAttributes { .. } => "set attributes",
            Self::Fallocate { mode, .. } if mode & PUNCH_HOLE != 0 => "punch hole",
            Self::Fallocate { .. } => "allocate",
            Self::Map { .. } => "mmap",
            Self::Unmap(_) => "munmap",
            Self::Advise { .. } => "madvise",
            Self::HostRead(_) => "host reads",
            Self::HostWrite(..) => "host writes",
            Self::GuestRead(..) => "guest reads",
            Self::GuestWrite(..) => "guest writes",
            Self::Prefault { .. } => "prefault",
            Self::Pages(_) => "count pages",
            Self::Alive(_) => "VM alive?",
            Self::Capability { .. } => "capability",
            Self::Try(..) => "file call",
        }
    }
}
