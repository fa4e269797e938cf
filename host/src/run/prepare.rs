//! What is known, and checked, before a VM exists.
//!
//! Owns which technology a guest is launched with, and what of its launch can be planned without a VM. Whatever is wrong
//! with it is found out here, where nothing has to be torn down.

use std::path::Path;
use std::sync::Arc;

use gmem::PageCount;
use gmem::layout::RamLayout;
use gmem_kvm::port::{CpuidEntry, Kernel, VmType};
use guest_fw::abi;

use super::cmdline::platform_cmdline;
use super::linux::LinuxImage;
use super::snp::{Image, SnpGuest};
use super::test_evidence::TestEvidence;
use super::{Firmware, RunError, cpuid};
use crate::check::facts::CpuFacts;
use crate::config::inputs::Inputs;
use crate::config::{Guise, RunConfig, Tee};
use crate::firmware::FirmwareImage;

/// What is known, and checked, before a VM exists.
pub(super) struct Prepared<'f> {
    pub vm_type: VmType,
    pub ram: RamLayout,
    /// CPUID leaves a guest can be given.
    pub offered: Vec<CpuidEntry>,
    pub technology: Technology<'f>,
}

/// What is launched, and how.
pub(super) enum Technology<'f> {
    /// Our firmware starts in staging, and copies everything from there: `sw` and `none`.
    Staged(Box<StagedGuest<'f>>),
    /// What is launched is measured, and so was planned before.
    Snp(Box<SnpGuest>),
}

/// A guest whose launch is planned once there is a VM, which says how fast its TSC is.
pub(super) struct StagedGuest<'f> {
    /// One of `abi`'s `TEE_*`.
    pub tee: u32,
    pub ram: RamLayout,
    pub firmware: FirmwareImage<'f>,
    pub linux: Option<LinuxImage>,
    /// Who answers its requests for evidence, if anybody.
    pub evidence: Option<Arc<TestEvidence>>,
}

impl Technology<'_> {
    /// Who answers the guest's requests for evidence, if that is not the hardware.
    pub(super) fn test_evidence(&self) -> Option<&Arc<TestEvidence>> {
        match self {
            Self::Staged(guest) => guest.evidence.as_ref(),
            Self::Snp(_) => None,
        }
    }
}

pub(super) fn prepare<'f, K: Kernel>(
    kernel: &K,
    tee: Tee,
    config: &RunConfig,
    inputs: &Inputs,
    firmware: Firmware<'f>,
) -> Result<Prepared<'f>, RunError> {
    let ram = RamLayout::new(config.memory)?;
    let vm_type = match tee {
        Tee::Sw => VmType::SwProtected,
        Tee::None => VmType::Default,
        Tee::Snp => VmType::Snp,
        Tee::Tdx | Tee::Auto => return Err(RunError::NotBuilt { tee }),
    };
    if inputs.test_root.is_some() && tee != Tee::Sw {
        return Err(RunError::TestRootNeedsSw { tee });
    }
    let offered = cpuid::without_emulated(kernel.supported_cpuid()?, &CpuFacts::gather(Path::new("/")));
    if config.guise == Guise::Sev && !cpuid::is_amd_type(&offered) {
        return Err(RunError::GuiseNeedsAmd);
    }
    // Before a VM exists: marking RAM private takes time by the page, and is no use for pages no guest can reach.
    let address_bits = cpuid::address_bits(&offered);
    ram.staging(PageCount::new(1), address_bits)?;
    let linux = read_linux(config, inputs, &ram)?;
    let (ram, technology) = match (tee, firmware) {
        (Tee::Snp, firmware) => {
            let guest = SnpGuest::new(config, inputs, &Image::new(config, firmware, linux)?, address_bits)?;
            (guest.ram(), Technology::Snp(Box::new(guest)))
        }
        (_, Firmware::Ours(firmware)) => {
            let abi_tee = if tee == Tee::Sw { abi::TEE_SW } else { abi::TEE_NONE };
            let evidence = inputs.test_root.clone().map(TestEvidence::below);
            (ram, Technology::Staged(Box::new(StagedGuest { tee: abi_tee, ram, firmware, linux, evidence })))
        }
        (_, Firmware::Ovmf(_)) => return Err(RunError::OvmfNeedsSnp { tee }),
    };
    Ok(Prepared { vm_type, ram, offered, technology })
}

/// The kernel and its RAM disk, if there are any, checked against everything that is known without a VM.
pub(super) fn read_linux(config: &RunConfig, inputs: &Inputs, ram: &RamLayout) -> Result<Option<LinuxImage>, RunError> {
    // The frequency is known once there is a VM; this is as long as the command line can get.
    let cmdline_len = platform_cmdline(&config.cmdline, config.guise, u32::MAX).len() as u64;
    if inputs.kernel.is_some() && cmdline_len > abi::CMDLINE_MAX {
        return Err(RunError::CmdlineTooLong { len: config.cmdline.len(), with_ours: cmdline_len });
    }
    Ok(LinuxImage::read(inputs, cmdline_len, ram)?)
}

/// What the guest finds as its command line: Linux' with what it needs here, or the self-test's options.
pub(super) fn guest_cmdline(config: &RunConfig, is_linux: bool, tsc_khz: u32) -> String {
    if is_linux { platform_cmdline(&config.cmdline, config.guise, tsc_khz) } else { config.cmdline.clone() }
}
