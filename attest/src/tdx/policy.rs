//! What somebody wants of a guest and of the platform under it, whichever guest it is.
//!
//! Owns the policy, its names and its presets. What is not allowed is refused, so that whoever says nothing gets the
//! strict answer. Does not own which guest is wanted ([`ReferenceValues`](super::ReferenceValues)), nor how people write
//! a policy down.
//!
//! Specification: our own; Intel TDX Module ABI, "ATTRIBUTES" and "TDREPORT", for what there is to want.

use alloc::collections::BTreeSet;
use alloc::string::String;
use core::fmt;

use super::TcbStatus;
pub use crate::preset::Preset;

/// What a policy may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allowance {
    /// The host may read the guest's memory.
    Debug,
    /// The host may profile the guest.
    Profiling,
    /// The host may have the guest take an exception when it takes a page away.
    SeptVe,
    /// The guest may be taken elsewhere.
    Migration,
    /// Service TDs may be bound to the guest.
    ServiceTd,
    /// The guest may use protection keys for supervisor pages.
    Pks,
    /// The guest may use Key Locker.
    KeyLocker,
    /// The guest may use performance monitoring.
    Perfmon,
    /// It may be any guest, if nothing says which.
    AnyGuest,
}

impl Allowance {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Debug,
        Self::Profiling,
        Self::SeptVe,
        Self::Migration,
        Self::ServiceTd,
        Self::Pks,
        Self::KeyLocker,
        Self::Perfmon,
        Self::AnyGuest,
    ];

    /// Its name, where people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Profiling => "profiling",
            Self::SeptVe => "sept-ve",
            Self::Migration => "migrate",
            Self::ServiceTd => "service-td",
            Self::Pks => "pks",
            Self::KeyLocker => "key-locker",
            Self::Perfmon => "perfmon",
            Self::AnyGuest => "any-guest",
        }
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bits that must have these values, as far as a mask goes. Without a mask nothing is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bits {
    /// The bits that are looked at.
    pub mask: u64,
    /// Their values. Bits outside the mask mean nothing.
    pub value: u64,
}

impl Bits {
    /// No bit at all may be set.
    pub const NONE: Self = Self { mask: u64::MAX, value: 0 };

    /// Whether these are such bits.
    #[must_use]
    pub const fn are(self, bits: u64) -> bool {
        (bits ^ self.value) & self.mask == 0
    }
}

/// What is wanted of any guest and its platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What a platform may be worth, by Intel's word.
    pub statuses: BTreeSet<TcbStatus>,
    /// Security advisories that may concern the platform, by their names.
    pub advisories: BTreeSet<String>,
    /// The least number of the evaluation that the platform's status is from.
    pub evaluation: u32,
    /// The least number of the root's list of revoked certificates; 0 asks for nothing.
    pub root_crl: u32,
    /// The least number of the list of revoked platforms' certificates; 0 asks for nothing. Lists of both of Intel's
    /// issuers, for platforms with one package and with several, are numbered for themselves.
    pub pck_crl: u32,
    /// Kinds of platforms that are good enough; any if none is named.
    pub fmspcs: BTreeSet<[u8; 6]>,
    /// Least versions of TDX components, one by one: TEE_TCB_SVN.
    pub tee_tcb_svn: [u8; 16],
    /// TDX modules that are good enough; any if none is named.
    pub mr_seams: BTreeSet<[u8; 48]>,
    /// Who may have signed the TDX module, zeros for Intel; anybody whom Intel names if none is named.
    pub mr_signer_seams: BTreeSet<[u8; 48]>,
    /// What the TDX module's attributes must be.
    pub seam_attributes: Bits,
    /// What the guest's attributes must be, besides what has a name.
    pub td_attributes: Bits,
    /// Which extended features of the processor the guest must have or not.
    pub xfam: Bits,
    /// What may be.
    pub allow: BTreeSet<Allowance>,
}

impl Policy {
    /// The policy of this name.
    #[must_use]
    pub fn preset(preset: Preset) -> Self {
        let policy = Self {
            statuses: [TcbStatus::UpToDate].into(),
            advisories: BTreeSet::new(),
            evaluation: 0,
            root_crl: 0,
            pck_crl: 0,
            fmspcs: BTreeSet::new(),
            tee_tcb_svn: [0; 16],
            mr_seams: BTreeSet::new(),
            mr_signer_seams: [[0; 48]].into(),
            seam_attributes: Bits::NONE,
            td_attributes: Bits::default(),
            xfam: Bits::default(),
            allow: [Allowance::Pks, Allowance::KeyLocker, Allowance::Perfmon].into(),
        };
        match preset {
            Preset::Strict => policy,
            // Counters of what a guest does are of more use to who looks for its secrets than to most guests.
            Preset::Hardened => Self { allow: [Allowance::Pks].into(), ..policy },
        }
    }

    /// Whether this may be.
    #[must_use]
    pub fn allows(&self, what: Allowance) -> bool {
        self.allow.contains(&what)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::preset(Preset::default())
    }
}
