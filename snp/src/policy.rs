//! Guest policy: what the owner of a guest allows the platform and the VMM to do. The PSP enforces it, and signs it
//! in every report.
//!
//! Owns the policy's bits and how people write them. Specification: SEV-SNP Firmware ABI (56860), 4.3 "Guest Policy".

use std::fmt;
use std::str::FromStr;

use bitflags::bitflags;

bitflags! {
    /// The policy's flags, by the names of the firmware ABI.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct PolicyFlags: u64 {
        /// `SMT`: the guest may run where simultaneous multithreading is on.
        const SMT = 1 << 16;
        /// Reserved, must be one.
        const MUST_BE_ONE = 1 << 17;
        /// `MIGRATE_MA`: a migration agent may be associated with the guest.
        const MIGRATE_MA = 1 << 18;
        /// `DEBUG`: the host may decrypt the guest's memory.
        const DEBUG = 1 << 19;
        /// `SINGLE_SOCKET`: the guest runs on one socket only.
        const SINGLE_SOCKET = 1 << 20;
        /// `CXL_ALLOW`: CXL devices and memory may be there.
        const CXL_ALLOW = 1 << 21;
        /// `MEM_AES_256_XTS`: memory must be encrypted with AES-256-XTS.
        const MEM_AES_256_XTS = 1 << 22;
        /// `RAPL_DIS`: the processor's power measurement must be off.
        const RAPL_DIS = 1 << 23;
        /// `CIPHERTEXT_HIDING_DRAM`: ciphertext must be hidden from the host.
        const CIPHERTEXT_HIDING = 1 << 24;
        /// `PAGE_SWAP_DISABLE`: pages of the guest are not moved or swapped.
        const PAGE_SWAP_DISABLE = 1 << 25;
    }
}

/// What the owner of a guest allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestPolicy {
    /// Least version of the firmware's ABI: major.
    pub abi_major: u8,
    /// Least version of the firmware's ABI: minor.
    pub abi_minor: u8,
    /// Flags; [`PolicyFlags::MUST_BE_ONE`] is always among them.
    flags: PolicyFlags,
}

/// Why a text or a number is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Neither a name nor a number.
    #[error(
        "{0:?} is no part of a guest policy; there are abi=MAJOR.MINOR, {names}, or a number like 0x30000",
        names = GuestPolicy::names()
    )]
    Unknown(String),
    /// A version that is none.
    #[error("{0:?} is no version of the firmware's ABI; write it like abi=1.55")]
    Version(String),
    /// Reserved bits.
    #[error("guest policy {policy:#x}: bits {reserved:#x} are reserved and must be 0")]
    Reserved {
        /// The number.
        policy: u64,
        /// Its reserved bits.
        reserved: u64,
    },
    /// The reserved bit that is set in every policy.
    #[error("guest policy {0:#x}: bit 17 is reserved and must be 1")]
    MustBeOne(u64),
    /// A number that weakens the guest: one says so by name.
    #[error(
        "guest policy {policy:#x} allows {name}, by which {means}; if that is meant, add {name:?} by name to a \
         policy without it"
    )]
    ByNameOnly {
        /// The number.
        policy: u64,
        /// Which flag.
        name: &'static str,
        /// What it does.
        means: &'static str,
    },
}

/// Flags with their names and what they do, lowest bit first.
const NAMED: [(PolicyFlags, &str, &str); 9] = [
    (PolicyFlags::SMT, "smt", "the guest may share a core with another thread"),
    (PolicyFlags::MIGRATE_MA, "migrate", "a migration agent may take the guest elsewhere"),
    (PolicyFlags::DEBUG, "debug", "the host may read the guest's memory"),
    (PolicyFlags::SINGLE_SOCKET, "single-socket", "the guest runs on one socket only"),
    (PolicyFlags::CXL_ALLOW, "cxl", "CXL devices and memory may be there"),
    (PolicyFlags::MEM_AES_256_XTS, "aes-256-xts", "memory must be encrypted with AES-256-XTS"),
    (PolicyFlags::RAPL_DIS, "rapl-off", "the processor's power measurement must be off"),
    (PolicyFlags::CIPHERTEXT_HIDING, "ciphertext-hiding", "ciphertext must be hidden from the host"),
    (PolicyFlags::PAGE_SWAP_DISABLE, "page-swap-off", "pages of the guest are not moved or swapped"),
];

/// What nobody gets by a number.
const BY_NAME_ONLY: PolicyFlags = PolicyFlags::DEBUG.union(PolicyFlags::MIGRATE_MA);

impl GuestPolicy {
    /// The policy with these flags.
    #[must_use]
    pub const fn new(flags: PolicyFlags) -> Self {
        Self { abi_major: 0, abi_minor: 0, flags: flags.union(PolicyFlags::MUST_BE_ONE) }
    }

    /// As the firmware takes it.
    #[must_use]
    pub const fn to_raw(self) -> u64 {
        self.flags.bits() | (self.abi_major as u64) << 8 | self.abi_minor as u64
    }

    /// Reads what a file or a report has; whatever it allows.
    pub fn from_raw(policy: u64) -> Result<Self, PolicyError> {
        let [abi_minor, abi_major, ..] = policy.to_le_bytes();
        let bits = policy & !0xffff;
        let flags = PolicyFlags::from_bits_truncate(bits);
        if bits != flags.bits() {
            return Err(PolicyError::Reserved { policy, reserved: bits & !flags.bits() });
        }
        if !flags.contains(PolicyFlags::MUST_BE_ONE) {
            return Err(PolicyError::MustBeOne(policy));
        }
        Ok(Self { abi_major, abi_minor, flags })
    }

    /// Its flags.
    #[must_use]
    pub const fn flags(self) -> PolicyFlags {
        self.flags
    }

    /// What its flags mean, by name.
    pub fn described(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        NAMED.into_iter().filter(move |(flag, ..)| self.flags.contains(*flag)).map(|(_, name, means)| (name, means))
    }

    fn names() -> String {
        NAMED.map(|(_, name, _)| name).join(", ")
    }

    fn add(&mut self, part: &str) -> Result<(), PolicyError> {
        if let Some((flag, ..)) = NAMED.iter().find(|(_, name, _)| *name == part) {
            self.flags |= *flag;
            return Ok(());
        }
        if let Some(version) = part.strip_prefix("abi=") {
            let wrong = || PolicyError::Version(version.to_owned());
            let (major, minor) = version.split_once('.').ok_or_else(wrong)?;
            (self.abi_major, self.abi_minor) =
                (major.parse().map_err(|_| wrong())?, minor.parse().map_err(|_| wrong())?);
            return Ok(());
        }
        let number = part.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let number = Self::from_raw(number.ok_or_else(|| PolicyError::Unknown(part.to_owned()))?)?;
        let policy = number.to_raw();
        match NAMED.iter().find(|(flag, ..)| number.flags.intersection(BY_NAME_ONLY).contains(*flag)) {
            Some((_, name, means)) => Err(PolicyError::ByNameOnly { policy, name, means }),
            None => {
                self.flags |= number.flags;
                (self.abi_major, self.abi_minor) = (number.abi_major, number.abi_minor);
                Ok(())
            }
        }
    }
}

impl Default for GuestPolicy {
    /// Multithreading is allowed, as most hosts have it on; nothing else is.
    fn default() -> Self {
        Self::new(PolicyFlags::SMT)
    }
}

impl FromStr for GuestPolicy {
    type Err = PolicyError;

    /// A list of names with commas between them, and `abi=MAJOR.MINOR`, or a number: `smt,single-socket,abi=1.55` or
    /// `0x30000`. What is not named is not allowed.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let mut policy = Self::new(PolicyFlags::empty());
        text.split(',').map(str::trim).try_for_each(|part| policy.add(part))?;
        Ok(policy)
    }
}

impl fmt::Display for GuestPolicy {
    /// As [`FromStr`] takes it, by names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "abi={}.{}", self.abi_major, self.abi_minor)?;
        self.described().try_for_each(|(name, _)| write!(f, ",{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_is_what_qemu_has() {
        assert_eq!(GuestPolicy::default().to_raw(), 0x30000);
        assert_eq!("0x30000".parse(), Ok(GuestPolicy::default()));
        assert_eq!(GuestPolicy::default().to_string(), "abi=0.0,smt");
    }

    /// no-silent-trust: what opens a guest to its host is asked for by name, or not had.
    #[test]
    fn no_silent_trust_debug_only_by_name() {
        let policy: GuestPolicy = "smt,debug,abi=1.55".parse().unwrap();
        assert_eq!(policy.to_raw(), 0x000b_0137);
        assert_eq!("0x30000,debug".parse::<GuestPolicy>().unwrap().to_raw(), 0xb_0000);
        for (number, name) in [("0xb0000", "debug"), ("0x70000", "migrate")] {
            let error = number.parse::<GuestPolicy>().unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    /// no-silent-trust: a policy with a slip in it is no policy.
    #[test]
    fn no_silent_trust_slips() {
        let error = |text: &str| text.parse::<GuestPolicy>().unwrap_err().to_string();
        assert!(error("smt,debgu").contains("\"debgu\""));
        assert!(error("").contains("0x30000"));
        assert!(error("abi=1").contains("abi=1.55"));
        assert!(error("abi=1.256").contains("abi=1.55"));
        assert_eq!(error("0x10000"), "guest policy 0x10000: bit 17 is reserved and must be 1");
        assert_eq!(
            error("0x8000000000020000"),
            "guest policy 0x8000000000020000: bits 0x8000000000000000 are reserved and must be 0"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(flags in 0u64..1 << 10, version in any::<(u8, u8)>()) {
            let policy = GuestPolicy {
                abi_major: version.0,
                abi_minor: version.1,
                ..GuestPolicy::new(PolicyFlags::from_bits_truncate(flags << 16))
            };
            prop_assert_eq!(policy.to_string().parse(), Ok(policy));
            prop_assert_eq!(GuestPolicy::from_raw(policy.to_raw()), Ok(policy));
        }
    }
}
