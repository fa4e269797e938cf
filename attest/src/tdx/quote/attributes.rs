//! TDATTRIBUTES.
//!
//! Owns which bits there are. Which of them a guest should have is its user's to say. Specification: Intel TDX Module
//! ABI, "ATTRIBUTES".

use core::fmt;

const DEBUG: u64 = 1 << 0;
const PROFILING: u64 = 0b111 << 4;
const MIGRATABLE: u64 = 1 << 29;
const SEPT_VE_DISABLE: u64 = 1 << 28;
const PKS: u64 = 1 << 30;
const KEY_LOCKER: u64 = 1 << 31;
const PERFMON: u64 = 1 << 63;
const SERVTD_EXT: u64 = 1 << 17;
/// Bits that are named and don't need a method here: ICSSD, LASS, TPA.
const OTHERS: u64 = 1 << 16 | 1 << 27 | 1 << 62;
const KNOWN: u64 = DEBUG | PROFILING | MIGRATABLE | SEPT_VE_DISABLE | PKS | KEY_LOCKER | PERFMON | SERVTD_EXT | OTHERS;

/// What a guest is, and what it may use, as it was launched.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TdAttributes(u64);

impl TdAttributes {
    pub(super) const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// All of them.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Bits that mean nothing: none may be set.
    #[must_use]
    pub const fn reserved(self) -> u64 {
        self.0 & !KNOWN
    }

    /// Whether the host can debug it: nothing in it is secret.
    #[must_use]
    pub const fn debug(self) -> bool {
        self.0 & DEBUG != 0
    }

    /// Whether the host can profile it.
    #[must_use]
    pub const fn profiling(self) -> bool {
        self.0 & PROFILING != 0
    }

    /// Whether pages that the host takes away stop it, instead of an exception that the host can time.
    #[must_use]
    pub const fn sept_ve_disable(self) -> bool {
        self.0 & SEPT_VE_DISABLE != 0
    }

    /// Whether it can be migrated.
    #[must_use]
    pub const fn migratable(self) -> bool {
        self.0 & MIGRATABLE != 0
    }

    /// Whether service TDs can be bound to it after it was made.
    #[must_use]
    pub const fn service_td_extension(self) -> bool {
        self.0 & SERVTD_EXT != 0
    }

    /// Whether it may use protection keys for supervisor pages.
    #[must_use]
    pub const fn pks(self) -> bool {
        self.0 & PKS != 0
    }

    /// Whether it may use Key Locker.
    #[must_use]
    pub const fn key_locker(self) -> bool {
        self.0 & KEY_LOCKER != 0
    }

    /// Whether it may use performance monitoring.
    #[must_use]
    pub const fn perfmon(self) -> bool {
        self.0 & PERFMON != 0
    }
}

impl fmt::Debug for TdAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TdAttributes({:#x})", self.0)
    }
}
