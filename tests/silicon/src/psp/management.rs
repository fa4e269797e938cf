//! Commands of the whole platform.
//!
//! Specification: 56860, SNP_INIT_EX, SNP_SHUTDOWN_EX, SNP_PLATFORM_STATUS, SNP_COMMIT, SNP_CONFIG, SNP_VLEK_LOAD,
//! SNP_DF_FLUSH, SNP_FEATURE_INFO. Layouts of what /dev/sev passes through: Linux 7.2 source, `include/uapi/linux/psp-sev.h`.

use crate::aead;
use crate::asid::AsidError;
use crate::bytes::{all_zero, put, take, take_u32};
use crate::hardware::Hardware;
use crate::model::{Model, Tcb};
use crate::psp::Psp;
use crate::psp::status::Status;
use crate::rmp::PageState;
use crate::violation::Violation;

/// Whether SNP is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlatformState {
    /// After a reset or a shutdown.
    Uninitialized,
    /// Guests can be made.
    Initialized,
}

/// What SNP_PLATFORM_STATUS tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlatformStatus {
    /// Version of the interface, major and minor.
    pub api: (u8, u8),
    /// Build of the firmware.
    pub build: u8,
    /// The state.
    pub state: PlatformState,
    /// The RMP covers memory.
    pub is_rmp_init: bool,
    /// Memory was checked for aliases.
    pub alias_check_complete: bool,
    /// Reports do not name the chip.
    pub mask_chip_id: bool,
    /// Reports are not signed.
    pub mask_chip_key: bool,
    /// A VLEK is loaded.
    pub vlek_en: bool,
    /// Power cannot be measured.
    pub rapl_disabled: bool,
    /// Ciphertext can be hidden.
    pub ciphertext_hiding_cap: bool,
    /// Ciphertext is hidden.
    pub ciphertext_hiding_en: bool,
    /// Guests with a context.
    pub guest_count: u32,
    /// Versions that run, packed.
    pub current_tcb: [u8; 8],
    /// Versions that reports name, packed.
    pub reported_tcb: [u8; 8],
}

/// What SNP_FEATURE_INFO tells of CPUID 0x80000024: which demands of a policy the firmware knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureInfo {
    /// RAPL can be disabled.
    pub rapl_disable: bool,
    /// Ciphertext can be hidden.
    pub ciphertext_hiding: bool,
    /// AES-256-XTS can be demanded.
    pub aes_256_xts: bool,
    /// CXL can be allowed.
    pub cxl_allow: bool,
}

/// What SNP_CONFIG sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnpConfig {
    /// Versions that reports name, packed; zero for the committed ones.
    pub reported_tcb: [u8; 8],
    /// Reports do not name the chip.
    pub mask_chip_id: bool,
    /// Reports are not signed.
    pub mask_chip_key: bool,
}

/// A loaded VLEK: a key that belongs to a cloud provider, not to a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vlek {
    pub(crate) hashstick: [u8; 32],
    pub(crate) tcb: Tcb,
}

/// The bit of a status that says that SNP_FEATURE_INFO is there.
const FEATURE_INFO: u8 = 3;
/// Bytes of a wrapped VLEK hashstick.
pub const WRAPPED_VLEK_BYTES: usize = 432;
const VLEK_IV: usize = 0x000;
const VLEK_RESERVED: usize = 0x00c;
const VLEK_WRAPPED: usize = 0x010;
const VLEK_TCB: usize = 0x190;
const VLEK_TAG: usize = 0x1a0;

impl PlatformStatus {
    /// The 32 bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        let bit = |set: bool, bit: u8| u8::from(set) << bit;
        let state = match self.state {
            PlatformState::Uninitialized => 0,
            PlatformState::Initialized => 1,
        };
        let rmp = bit(self.is_rmp_init, 0) | bit(self.alias_check_complete, 1);
        let flags = bit(self.mask_chip_id, 0)
            | bit(self.mask_chip_key, 1)
            | bit(self.vlek_en, 2)
            | bit(true, FEATURE_INFO)
            | bit(self.rapl_disabled, 4)
            | bit(self.ciphertext_hiding_cap, 5)
            | bit(self.ciphertext_hiding_en, 6);
        let mut bytes = [0; 32];
        put(&mut bytes, 0, &[self.api.0, self.api.1, state, rmp, self.build]);
        put(&mut bytes, 8, &[flags]);
        put(&mut bytes, 12, &self.guest_count.to_le_bytes());
        put(&mut bytes, 16, &self.current_tcb);
        put(&mut bytes, 24, &self.reported_tcb);
        bytes
    }
}

impl FeatureInfo {
    /// ECX of the function.
    pub fn ecx(&self) -> u32 {
        let flags = [(2, self.rapl_disable), (3, self.ciphertext_hiding), (4, self.aes_256_xts), (5, self.cxl_allow)];
        flags.into_iter().map(|(bit, set)| u32::from(set) << bit).sum()
    }
}

impl SnpConfig {
    /// From 64 bytes; reserved ones must be zero.
    pub fn from_bytes(bytes: &[u8; 64]) -> Result<SnpConfig, Status> {
        let masks = take_u32(bytes, 8);
        if masks > 3 || !all_zero(&bytes[12..]) {
            return Err(Status::InvalidParam);
        }
        Ok(SnpConfig { reported_tcb: take(bytes, 0), mask_chip_id: masks & 1 != 0, mask_chip_key: masks & 2 != 0 })
    }
}

impl Psp {
    /// SNP_INIT: the RMP is initialised and guests can be made.
    pub fn init(&mut self, hw: &mut Hardware) -> Result<(), Status> {
        if self.state == PlatformState::Initialized {
            return Err(Status::InvalidPlatformState);
        }
        hw.rmp.clear();
        self.state = PlatformState::Initialized;
        Ok(())
    }

    /// SNP_SHUTDOWN: guests are gone, and nothing is left of them. Says what of the firmware's pages nobody reclaimed.
    pub fn shutdown(&mut self, hw: &mut Hardware) -> Result<Option<Violation>, Status> {
        if self.state == PlatformState::Uninitialized {
            return Ok(None);
        }
        if hw.asids.needs_df_flush() {
            return Err(Status::DfFlushRequired);
        }
        let bound: Vec<_> = self.guests.values().filter_map(|guest| guest.asid).collect();
        for asid in bound {
            hw.remove_key(asid);
            hw.asids.unbind(asid).map_err(|_| Status::InvalidAsid)?;
        }
        self.guests.clear();
        self.vlek = None;
        self.state = PlatformState::Uninitialized;
        let own = |state| matches!(state, PageState::Firmware | PageState::Context);
        let left = hw.rmp.entries().filter(|(_, entry)| own(entry.state())).count();
        Ok((left > 0).then_some(Violation::FirmwarePagesLeft(left)))
    }

    /// SNP_PLATFORM_STATUS. In any state.
    pub fn platform_status(&self) -> PlatformStatus {
        let config = &self.config;
        PlatformStatus {
            api: config.api,
            build: config.build,
            state: self.state,
            is_rmp_init: self.state == PlatformState::Initialized,
            alias_check_complete: config.alias_check_complete,
            mask_chip_id: self.mask_chip_id,
            mask_chip_key: self.mask_chip_key,
            vlek_en: self.vlek.is_some(),
            rapl_disabled: config.rapl_disabled,
            ciphertext_hiding_cap: config.asids.ciphertext_hiding.is_some(),
            ciphertext_hiding_en: config.asids.ciphertext_hiding.is_some(),
            guest_count: u32::try_from(self.guests.len()).unwrap_or(u32::MAX),
            current_tcb: self.current_tcb.to_bytes(config.model),
            reported_tcb: self.reported_tcb.to_bytes(config.model),
        }
    }

    /// SNP_FEATURE_INFO. In any state.
    pub fn feature_info(&self) -> FeatureInfo {
        let newer = self.config.model != Model::Milan;
        FeatureInfo {
            rapl_disable: newer || self.config.rapl_disabled,
            ciphertext_hiding: self.config.asids.ciphertext_hiding.is_some(),
            aes_256_xts: newer,
            cxl_allow: newer || self.config.cxl,
        }
    }

    /// SNP_COMMIT: what runs can no longer be gone back behind, and reports name it.
    pub fn commit(&mut self) -> Result<(), Status> {
        self.committed_tcb = self.current_tcb;
        self.committed_version = (self.config.api.0, self.config.api.1, self.config.build);
        self.reported_tcb = self.committed_tcb;
        Ok(())
    }

    /// SNP_CONFIG.
    pub fn set_config(&mut self, wanted: SnpConfig) -> Result<(), Status> {
        self.require_init()?;
        let packed = wanted.reported_tcb;
        let tcb = Tcb::from_bytes(self.config.model, packed).ok_or(Status::InvalidParam)?;
        let reported = if packed == [0; 8] { self.committed_tcb } else { tcb };
        if !reported.is_within(self.committed_tcb) {
            return Err(Status::InvalidParam);
        }
        self.reported_tcb = reported;
        self.mask_chip_id = wanted.mask_chip_id;
        self.mask_chip_key = wanted.mask_chip_key;
        Ok(())
    }

    /// SNP_VLEK_LOAD: a provider's key, wrapped for this chip and these versions.
    pub fn vlek_load(&mut self, wrapped: &[u8; WRAPPED_VLEK_BYTES]) -> Result<(), Status> {
        self.require_init()?;
        let tcb = Tcb::from_bytes(self.config.model, take(wrapped, VLEK_TCB)).ok_or(Status::InvalidParam)?;
        if !all_zero(&wrapped[VLEK_RESERVED..VLEK_WRAPPED]) || !tcb.is_within(self.committed_tcb) {
            return Err(Status::InvalidParam);
        }
        let mut plain: [u8; VLEK_TCB - VLEK_WRAPPED] = take(wrapped, VLEK_WRAPPED);
        let key = self.vlek_wrapping_key();
        aead::open(&key, take(wrapped, VLEK_IV), &wrapped[VLEK_TCB..VLEK_TAG], &mut plain, take(wrapped, VLEK_TAG))
            .map_err(|_| Status::BadMeasurement)?;
        self.vlek = Some(Vlek { hashstick: take(&plain, 0), tcb });
        Ok(())
    }

    /// A wrapped VLEK as the provider's key service would issue it for this chip: for tests of SNP_VLEK_LOAD.
    pub fn wrap_vlek(&self, hashstick: [u8; 32], tcb: Tcb) -> [u8; WRAPPED_VLEK_BYTES] {
        let mut wrapped = [0; WRAPPED_VLEK_BYTES];
        put(&mut wrapped, VLEK_IV, &self.seed.derive("VLEK IV", &[&hashstick])[..12]);
        put(&mut wrapped, VLEK_TCB, &tcb.to_bytes(self.config.model));
        let mut sealed = [0; VLEK_TCB - VLEK_WRAPPED];
        put(&mut sealed, 0, &hashstick);
        let key = self.vlek_wrapping_key();
        let tag = aead::seal(&key, take(&wrapped, VLEK_IV), &wrapped[VLEK_TCB..VLEK_TAG], &mut sealed);
        put(&mut wrapped, VLEK_WRAPPED, &sealed);
        put(&mut wrapped, VLEK_TAG, &tag);
        wrapped
    }

    /// SNP_DF_FLUSH.
    pub fn df_flush(&mut self, hw: &mut Hardware) -> Result<(), Status> {
        self.require_init()?;
        hw.asids.df_flush().map_err(|error| match error {
            AsidError::WbinvdRequired(_) => Status::WbinvdRequired,
            _ => Status::InvalidConfig,
        })
    }

    fn vlek_wrapping_key(&self) -> [u8; 32] {
        self.seed.derive("VLEK wrapping", &[])
    }
}
