//! What SNP firmware says of the platform it runs on.
//!
//! Owns the layout of `SNP_PLATFORM_STATUS`. Does not own asking, which is `gmem_kvm::probe`'s, nor what a TCB version
//! means, which is `attest`'s.
//!
//! Specification: SEV-SNP Firmware ABI (56860), 8.3 "SNP_PLATFORM_STATUS".

/// The least firmware ABI that Linux makes SNP guests with: major and minor (`SNP_MIN_API_MAJOR`, `SNP_MIN_API_MINOR`).
pub const LEAST_ABI: (u8, u8) = (1, 51);

/// Whether firmware is ready for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformState {
    /// `UNINIT`.
    Uninitialized,
    /// `INIT`.
    Initialized,
    /// A number that is reserved.
    Other(u8),
}

/// `SNP_PLATFORM_STATUS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlatformStatus {
    /// `API_MAJOR` and `API_MINOR`.
    pub abi: (u8, u8),
    /// `BUILD`.
    pub build: u32,
    /// `STATE`.
    pub state: PlatformState,
    /// `IS_RMP_INIT`.
    pub rmp_initialized: bool,
    /// `ALIAS_CHECK_COMPLETE`: no two addresses are the same memory. Firmware says so since 1.55.
    pub alias_check_complete: bool,
    /// `MASK_CHIP_ID`: reports do not name the chip.
    pub mask_chip_id: bool,
    /// `MASK_CHIP_KEY`: reports are not signed with the chip's key.
    pub mask_chip_key: bool,
    /// `VLEK_EN`: a cloud provider's key is loaded.
    pub vlek_loaded: bool,
    /// `RAPL_DIS`: power cannot be measured.
    pub rapl_disabled: bool,
    /// `CIPHERTEXT_HIDING_DRAM_CAP`.
    pub ciphertext_hiding_capable: bool,
    /// `CIPHERTEXT_HIDING_DRAM_EN`.
    pub ciphertext_hiding_enabled: bool,
    /// `GUEST_COUNT`: guests with a context.
    pub guests: u32,
    /// `CURRENT_TCB`: what runs. Raw, because its layout is the product's.
    pub current_tcb: u64,
    /// `REPORTED_TCB`: what reports say, and keys are made from. Raw.
    pub reported_tcb: u64,
}

impl PlatformState {
    /// For programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uninitialized => "uninitialized",
            Self::Initialized => "initialized",
            Self::Other(_) => "unknown",
        }
    }
}

impl PlatformStatus {
    /// Reads what firmware wrote. Reserved bits are left alone: later firmware gives them meanings.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let [abi_major, abi_minor, state, rmp, ..] = *bytes;
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let flag = |bit: u32| word(8) >> bit & 1 != 0;
        Self {
            abi: (abi_major, abi_minor),
            build: word(4),
            state: match state {
                0 => PlatformState::Uninitialized,
                1 => PlatformState::Initialized,
                other => PlatformState::Other(other),
            },
            rmp_initialized: rmp & 1 != 0,
            alias_check_complete: rmp & 2 != 0,
            mask_chip_id: flag(0),
            mask_chip_key: flag(1),
            vlek_loaded: flag(2),
            rapl_disabled: flag(4),
            ciphertext_hiding_capable: flag(5),
            ciphertext_hiding_enabled: flag(6),
            guests: word(12),
            current_tcb: long(16),
            reported_tcb: long(24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attest::snp::{PackedTcb, Product, Tcb};
    use proptest::prelude::*;
    use sev::Generation;
    use sev::firmware::host::SnpPlatformStatus;
    use sev::parser::ByteParser;

    proptest! {
        /// The crate `sev` reads every status the same, on every product.
        #[test]
        fn a_status_is_what_another_reader_says(bytes: [u8; 32]) {
            let products = [
                (Product::Milan, Generation::Milan, 2..6),
                (Product::Genoa, Generation::Genoa, 2..6),
                (Product::Turin, Generation::Turin, 4..7),
            ];
            for (product, generation, reserved) in products {
                // Nobody would read versions with reserved bytes.
                let mut bytes = bytes;
                reserved.for_each(|at| (bytes[16 + at], bytes[24 + at]) = (0, 0));
                let ours = PlatformStatus::from_bytes(&bytes);
                let theirs = SnpPlatformStatus::from_bytes_with(&bytes, generation).unwrap();
                prop_assert_eq!(ours.abi, theirs.version);
                prop_assert_eq!(ours.build, theirs.build_id);
                prop_assert_eq!(ours.guests, theirs.guest_count);
                prop_assert_eq!(ours.rmp_initialized, theirs.is_rmp_init.is_rmp_init());
                prop_assert_eq!(ours.alias_check_complete, theirs.is_rmp_init.alias_check_complete());
                let policy = theirs.platform_policy;
                prop_assert_eq!(ours.mask_chip_id, policy.mask_chip_id());
                prop_assert_eq!(ours.mask_chip_key, policy.mask_chip_key());
                prop_assert_eq!(ours.vlek_loaded, policy.vlek_en());
                prop_assert_eq!(ours.rapl_disabled, policy.rapl_dis());
                prop_assert_eq!(ours.ciphertext_hiding_capable, policy.ciphertext_hiding_dram_cap());
                prop_assert_eq!(ours.ciphertext_hiding_enabled, policy.ciphertext_hiding_dram_en());
                for (raw, tcb) in [(ours.current_tcb, theirs.platform_tcb_version), (ours.reported_tcb, theirs.reported_tcb_version)] {
                    let read = PackedTcb(raw.to_le_bytes()).unpack(product).unwrap();
                    let expected = Tcb { fmc: tcb.fmc, boot_loader: tcb.bootloader, tee: tcb.tee, snp: tcb.snp, microcode: tcb.microcode };
                    prop_assert_eq!(read, expected);
                }
            }
        }
    }
}
