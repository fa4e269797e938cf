//! What came of an operation, in words that are the same for a kernel and for the model.

use std::fmt;

/// The answer to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, and there is nothing to say about it.
    Done,
    /// It was done, with this answer.
    Value(u64),
    /// It failed with this errno.
    Failed(Errno),
    /// The access went to no memory: `KVM_EXIT_MMIO`.
    Mmio,
    /// `KVM_EXIT_MEMORY_FAULT`.
    MemoryFault {
        /// What `KVM_RUN` failed with; 0 if it did not.
        errno: Errno,
        /// `KVM_MEMORY_EXIT_FLAG_*`
        flags: u64,
        /// Where.
        gpa: u64,
        /// Bytes.
        size: u64,
    },
    /// The guest or the kernel gave up with another exit reason, and `KVM_RUN` with this errno or 0.
    Exit {
        /// `KVM_EXIT_*`
        reason: u32,
        /// What `KVM_RUN` failed with.
        errno: Errno,
    },
    /// The call did not return in seconds, and was interrupted.
    Hang,
}

/// An errno; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// No error.
    pub const NONE: Self = Self(0);
    /// Input/output error.
    pub const IO: Self = Self(5);
    /// No such device or address.
    pub const NXIO: Self = Self(6);
    /// Bad file descriptor.
    pub const BADF: Self = Self(9);
    /// Bad address.
    pub const FAULT: Self = Self(14);
    /// File exists.
    pub const EXIST: Self = Self(17);
    /// No such device.
    pub const NODEV: Self = Self(19);
    /// Invalid argument.
    pub const INVAL: Self = Self(22);
    /// Inappropriate ioctl.
    pub const NOTTY: Self = Self(25);
    /// File too large.
    pub const FBIG: Self = Self(27);
    /// Illegal seek.
    pub const SPIPE: Self = Self(29);
    /// Operation not supported.
    pub const OPNOTSUPP: Self = Self(95);
    /// Operation not permitted.
    pub const PERM: Self = Self(1);
    /// No such file or directory.
    pub const NOENT: Self = Self(2);
    /// Interrupted system call.
    pub const INTR: Self = Self(4);
}

const NAMES: [(i32, &str); 24] = [
    (1, "EPERM"),
    (2, "ENOENT"),
    (4, "EINTR"),
    (5, "EIO"),
    (6, "ENXIO"),
    (7, "E2BIG"),
    (9, "EBADF"),
    (11, "EAGAIN"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (14, "EFAULT"),
    (16, "EBUSY"),
    (17, "EEXIST"),
    (19, "ENODEV"),
    (22, "EINVAL"),
    (23, "ENFILE"),
    (24, "EMFILE"),
    (25, "ENOTTY"),
    (26, "ETXTBSY"),
    (27, "EFBIG"),
    (29, "ESPIPE"),
    (38, "ENOSYS"),
    (95, "EOPNOTSUPP"),
    (133, "EHWPOISON"),
];

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl From<Result<(), Errno>> for Outcome {
    fn from(result: Result<(), Errno>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(errno) => Self::Failed(errno),
        }
    }
}

impl From<Result<u64, Errno>> for Outcome {
    fn from(result: Result<u64, Errno>) -> Self {
        match result {
            Ok(value) => Self::Value(value),
            Err(errno) => Self::Failed(errno),
        }
    }
}

/// Exit reasons that tests meet.
fn exit_name(reason: u32) -> Option<&'static str> {
    Some(match reason {
        2 => "io",
        3 => "hypercall",
        5 => "hlt",
        8 => "shutdown",
        9 => "fail_entry",
        17 => "internal_error",
        _ => return None,
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = |f: &mut fmt::Formatter<'_>, errno: Errno| {
            if errno == Errno::NONE { Ok(()) } else { write!(f, "{errno} ") }
        };
        match *self {
            Self::Done => f.write_str("ok"),
            Self::Value(value) => write!(f, "ok {value:#x}"),
            Self::Failed(errno) => errno.fmt(f),
            Self::Mmio => f.write_str("mmio"),
            Self::MemoryFault { errno, flags, gpa, size } => {
                failed(f, errno)?;
                write!(f, "memory_fault ")?;
                match flags {
                    0 => f.write_str("0")?,
                    crate::op::PRIVATE => f.write_str("PRIVATE")?,
                    other => write!(f, "{other:#x}")?,
                }
                write!(f, " {gpa:#x} {size:#x}")
            }
            Self::Exit { reason, errno } => {
                failed(f, errno)?;
                match exit_name(reason) {
                    Some(name) => f.write_str(name),
                    None => write!(f, "exit {reason}"),
                }
            }
            Self::Hang => f.write_str("hang"),
        }
    }
}
