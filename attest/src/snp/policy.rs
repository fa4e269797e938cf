//! What somebody wants of a guest and of the platform under it, whichever guest it is.
//!
//! Owns the policy, its names and its presets. What is not allowed is refused, so that whoever says nothing gets the
//! strict answer. Does not own which guest is wanted ([`ReferenceValues`](super::ReferenceValues)), nor how people write
//! a policy down.
//!
//! Specification: our own; 56860, "Guest Policy" and "ATTESTATION_REPORT", for what there is to want.

use alloc::collections::{BTreeMap, BTreeSet};
use core::fmt;

use super::{Product, Tcb};
pub use crate::preset::Preset;

/// What a policy may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allowance {
    /// The guest may share a core with another thread.
    Smt,
    /// A migration agent may take the guest elsewhere.
    Migration,
    /// The host may read the guest's memory.
    Debug,
    /// CXL devices and memory may be there.
    Cxl,
    /// The platform may run firmware that it can go back behind.
    ProvisionalFirmware,
    /// Devices may be part of what is trusted (SEV-TIO).
    Tio,
    /// It may be any guest, if nothing says which.
    AnyGuest,
}

/// What a policy may require besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The guest runs on one socket only.
    SingleSocket,
    /// Memory is encrypted with AES-256-XTS.
    Aes256Xts,
    /// The processor's power measurement is off.
    RaplOff,
    /// Ciphertext is hidden from the host.
    CiphertextHiding,
    /// Pages of the guest are not moved or swapped.
    PageSwapOff,
    /// The platform has checked that no two addresses are the same memory.
    AliasCheck,
    /// A key signed the guest's ID block.
    IdKey,
    /// An author's key signed that key.
    AuthorKey,
    /// The chip's own key signed the report, and not a provider's.
    ChipKey,
    /// A list of revoked certificates was looked at.
    RevocationList,
}

impl Allowance {
    /// All there are.
    pub const ALL: [Self; 7] =
        [Self::Smt, Self::Migration, Self::Debug, Self::Cxl, Self::ProvisionalFirmware, Self::Tio, Self::AnyGuest];

    /// Its name, where people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smt => "smt",
            Self::Migration => "migrate",
            Self::Debug => "debug",
            Self::Cxl => "cxl",
            Self::ProvisionalFirmware => "provisional-firmware",
            Self::Tio => "tio",
            Self::AnyGuest => "any-guest",
        }
    }
}

impl Requirement {
    /// All there are.
    pub const ALL: [Self; 10] = [
        Self::SingleSocket,
        Self::Aes256Xts,
        Self::RaplOff,
        Self::CiphertextHiding,
        Self::PageSwapOff,
        Self::AliasCheck,
        Self::IdKey,
        Self::AuthorKey,
        Self::ChipKey,
        Self::RevocationList,
    ];

    /// Its name, where people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SingleSocket => "single-socket",
            Self::Aes256Xts => "aes-256-xts",
            Self::RaplOff => "rapl-off",
            Self::CiphertextHiding => "ciphertext-hiding",
            Self::PageSwapOff => "page-swap-off",
            Self::AliasCheck => "alias-check",
            Self::IdKey => "id-key",
            Self::AuthorKey => "author-key",
            Self::ChipKey => "chip-key",
            Self::RevocationList => "revocation-list",
        }
    }
}

/// Least versions of a platform's parts. Each is a floor of its own: none makes up for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcbFloor {
    /// The FMC: Turin only.
    pub fmc: u8,
    /// Boot loader of the PSP.
    pub boot_loader: u8,
    /// Its operating system.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

impl TcbFloor {
    /// Each part with its floor and its version, if the platform has it; in the order of their names here.
    pub(crate) fn parts(self, tcb: Tcb) -> [(u8, Option<u8>); 5] {
        [
            (self.fmc, tcb.fmc),
            (self.boot_loader, Some(tcb.boot_loader)),
            (self.tee, Some(tcb.tee)),
            (self.snp, Some(tcb.snp)),
            (self.microcode, Some(tcb.microcode)),
        ]
    }
}

/// What is wanted of any guest and its platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The products that are good enough, each from these versions on.
    pub products: BTreeMap<Product, TcbFloor>,
    /// The least number of the list of revoked certificates, by product; 0, or none, asks for nothing.
    pub crls: BTreeMap<Product, u32>,
    /// What may be.
    pub allow: BTreeSet<Allowance>,
    /// What must be besides.
    pub require: BTreeSet<Requirement>,
    /// The least version of reports.
    pub report_version: u32,
    /// The least version of the firmware's ABI, major and minor, that the guest's policy must ask for.
    pub abi: (u8, u8),
    /// The highest VMPL that may ask for the report; 0 has the most rights.
    pub vmpl: u8,
    /// The least security version of the guest, as its ID block says it.
    pub guest_svn: u32,
    /// Mitigations that must be in place, now and when the guest was launched: bits of a report of version 5.
    pub mitigations: u64,
}

impl Policy {
    /// The policy of this name.
    ///
    /// Neither allows Milan: see what a check of the product says of it.
    #[must_use]
    pub fn preset(preset: Preset) -> Self {
        let products = [Product::Genoa, Product::Turin].map(|product| (product, TcbFloor::default()));
        let policy = Self {
            products: products.into(),
            crls: BTreeMap::new(),
            allow: [Allowance::Smt].into(),
            require: BTreeSet::new(),
            report_version: 2,
            abi: (0, 0),
            vmpl: 0,
            guest_svn: 0,
            mitigations: 0,
        };
        match preset {
            Preset::Strict => policy,
            Preset::Hardened => Self {
                require: [Requirement::AliasCheck, Requirement::CiphertextHiding, Requirement::RevocationList].into(),
                // The first that says which processor it is.
                report_version: 3,
                ..policy
            },
        }
    }

    /// Whether this may be.
    #[must_use]
    pub fn allows(&self, what: Allowance) -> bool {
        self.allow.contains(&what)
    }

    /// Whether this must be.
    #[must_use]
    pub fn requires(&self, what: Requirement) -> bool {
        self.require.contains(&what)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::preset(Preset::default())
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
