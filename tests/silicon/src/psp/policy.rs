//! A guest's policy: what its owner demands of the platform.
//!
//! Owns the bits and whether a platform meets them. Specification: 56860, "Guest policy".

use crate::config::Config;
use crate::psp::status::Status;

/// The policy, as LAUNCH_START takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy(pub u64);

impl Policy {
    /// SMT may be on.
    pub const SMT: u64 = 1 << 16;
    /// Must be one.
    pub const RESERVED_ONE: u64 = 1 << 17;
    /// A migration agent may be associated.
    pub const MIGRATE_MA: u64 = 1 << 18;
    /// The host may debug.
    pub const DEBUG: u64 = 1 << 19;
    /// One socket only.
    pub const SINGLE_SOCKET: u64 = 1 << 20;
    /// CXL devices may be there.
    pub const CXL_ALLOW: u64 = 1 << 21;
    /// Memory must be encrypted with AES-256-XTS.
    pub const MEM_AES_256_XTS: u64 = 1 << 22;
    /// Power must not be measurable.
    pub const RAPL_DIS: u64 = 1 << 23;
    /// The host must not see ciphertext.
    pub const CIPHERTEXT_HIDING: u64 = 1 << 24;
    /// Pages must not be moved or swapped.
    pub const PAGE_SWAP_DISABLE: u64 = 1 << 25;

    const KNOWN: u64 = (1 << 26) - 1;

    /// A usual one: SMT allowed, nothing else asked for.
    pub fn usual() -> Policy {
        Policy(Policy::SMT | Policy::RESERVED_ONE)
    }

    /// Whether all of these bits are set.
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// The least version of the firmware's interface.
    pub fn abi(self) -> (u8, u8) {
        let [minor, major, ..] = self.0.to_le_bytes();
        (major, minor)
    }

    /// Whether a platform meets it.
    pub(crate) fn check(self, platform: &Config) -> Result<(), Status> {
        if self.0 & !Policy::KNOWN != 0 {
            return Err(Status::InvalidParam);
        }
        let demands = [
            (!self.has(Policy::RESERVED_ONE), false),
            (self.abi() > (platform.api.0, platform.api.1), false),
            (!self.has(Policy::SMT), !platform.smt),
            (self.has(Policy::SINGLE_SOCKET), platform.sockets == 1),
            (!self.has(Policy::CXL_ALLOW), !platform.cxl),
            (self.has(Policy::MEM_AES_256_XTS), platform.aes_256_xts),
            (self.has(Policy::RAPL_DIS), platform.rapl_disabled),
            (self.has(Policy::CIPHERTEXT_HIDING), platform.asids.ciphertext_hiding.is_some()),
            (self.has(Policy::PAGE_SWAP_DISABLE), platform.page_swap_disable),
        ];
        let unmet = demands.into_iter().any(|(demanded, met)| demanded && !met);
        if unmet { Err(Status::PolicyFailure) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn each_demand_is_checked_against_what_the_platform_has() {
        let plain = Config::new(Model::Turin, [0; 32]);
        let usual = Policy::usual().0;
        assert_eq!(Policy(usual).check(&plain), Ok(()));
        let check = |policy: u64, change: &dyn Fn(&mut Config)| {
            let mut config = plain.clone();
            change(&mut config);
            Policy(policy).check(&config)
        };
        type Change = &'static dyn Fn(&mut Config);
        let demands: [(u64, Change, Change); 7] = [
            (usual & !Policy::SMT, &|c| c.smt = true, &|c| c.smt = false),
            (usual | Policy::SINGLE_SOCKET, &|c| c.sockets = 2, &|c| c.sockets = 1),
            (usual, &|c| c.cxl = true, &|c| c.cxl = false),
            (usual | Policy::MEM_AES_256_XTS, &|c| c.aes_256_xts = false, &|c| c.aes_256_xts = true),
            (usual | Policy::RAPL_DIS, &|c| c.rapl_disabled = false, &|c| c.rapl_disabled = true),
            (usual | Policy::CIPHERTEXT_HIDING, &|_| (), &|c| c.asids.ciphertext_hiding = Some(4)),
            (usual | Policy::PAGE_SWAP_DISABLE, &|c| c.page_swap_disable = false, &|c| c.page_swap_disable = true),
        ];
        for (policy, without, with) in demands {
            assert_eq!(check(policy, without), Err(Status::PolicyFailure), "{policy:#x}");
            assert_eq!(check(policy, with), Ok(()), "{policy:#x}");
        }
    }

    #[test]
    fn reserved_bits_and_the_abi_are_checked() {
        let config = Config { api: (1, 55), ..Config::new(Model::Milan, [0; 32]) };
        let check = |policy: u64| Policy(policy).check(&config);
        assert_eq!(check(Policy::SMT), Err(Status::PolicyFailure), "bit 17");
        assert_eq!(check(Policy::usual().0 | 1 << 26), Err(Status::InvalidParam));
        assert_eq!(check(Policy::usual().0 | 0x0137), Ok(()));
        assert_eq!(check(Policy::usual().0 | 0x0138), Err(Status::PolicyFailure));
        assert_eq!(check(Policy::usual().0 | 0x0200), Err(Status::PolicyFailure));
    }
}
