//! What a platform is like.

use std::sync::Arc;

use crate::asid::AsidConfig;
use crate::chain::Authority;
use crate::model::{Model, Tcb};

/// Everything that differs from machine to machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// The processor.
    pub model: Model,
    /// Root of all secrets: the same seed gives the same chip.
    pub seed: [u8; 32],
    /// Division of the ASIDs, with ciphertext hiding.
    pub asids: AsidConfig,
    /// 4 KiB pages of memory.
    pub pages: u64,
    /// Version of the firmware's interface, major and minor.
    pub api: (u8, u8),
    /// The firmware's build.
    pub build: u8,
    /// Versions that run.
    pub current_tcb: Tcb,
    /// Versions that cannot be gone back behind.
    pub committed_tcb: Tcb,
    /// The version of reports.
    pub report_version: u32,
    /// SMT is on.
    pub smt: bool,
    /// Sockets.
    pub sockets: u32,
    /// CXL memory is there.
    pub cxl: bool,
    /// Memory is encrypted with AES-256-XTS.
    pub aes_256_xts: bool,
    /// Power cannot be measured.
    pub rapl_disabled: bool,
    /// All memory is encrypted, the host's too.
    pub tsme: bool,
    /// Memory has ECC.
    pub ecc: bool,
    /// No two addresses are the same memory.
    pub alias_check_complete: bool,
    /// Mitigations that are in place, for reports of version 5: a number without meaning here.
    pub mitigations: u64,
    /// The firmware can promise not to move pages.
    pub page_swap_disable: bool,
    /// Who certifies the chip's keys: the product's fixed authorities, whose keys are public, unless others are named.
    pub authority: Option<Arc<Authority>>,
}

impl Config {
    /// A usual machine of this model: 256 MiB, few ASIDs, SMT on.
    pub fn new(model: Model, seed: [u8; 32]) -> Config {
        let tcb = Tcb::usual(model);
        Config {
            model,
            seed,
            asids: AsidConfig { max: 32, min_sev: 17, ciphertext_hiding: None, cpus: 4 },
            pages: 1 << 16,
            api: model.api(),
            build: 40,
            current_tcb: tcb,
            committed_tcb: tcb,
            report_version: model.first_report_version(),
            smt: true,
            sockets: 1,
            cxl: false,
            aes_256_xts: model != Model::Milan,
            rapl_disabled: false,
            tsme: false,
            ecc: true,
            alias_check_complete: true,
            mitigations: 0x3,
            page_swap_disable: model == Model::Turin,
            authority: None,
        }
    }

    /// PLATFORM_INFO of reports.
    pub fn platform_info(&self) -> u64 {
        let flags = [
            self.smt,
            self.tsme,
            self.ecc,
            self.rapl_disabled,
            self.asids.ciphertext_hiding.is_some(),
            self.alias_check_complete,
        ];
        flags.into_iter().enumerate().map(|(bit, set)| u64::from(set) << bit).sum()
    }
}
