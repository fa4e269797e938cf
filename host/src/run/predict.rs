//! What a run would launch, found out without a host: nothing is carried out.
//!
//! Owns only the way there. What is planned, and from what, is the run's own (modules `prepare`, `snp` and `sw`; law
//! *one-launch*): the same settings have the same launch, in whatever place its digest is asked for.

use gmem::launch::{Launch, Unsigned};
use gmem::layout::RamLayout;
use guest_fw::abi;
use snp::digest::Digest;
use snp::id_block::Identity;
use snp::measure::Step;

use super::cpuid::ADDRESS_BITS_MAX;
use super::prepare::{guest_cmdline, read_linux};
use super::snp::{Image, SnpGuest};
use super::staged::Facts;
pub(crate) use super::staged::label;
use super::{Firmware, RunError, measured, sw};
use crate::config::inputs::Inputs;
use crate::config::values::VcpuCount;
use crate::config::{RunConfig, Tee};

/// An SNP guest whose files are read: there is a launch for each number of vCPUs.
#[derive(Debug)]
pub struct SnpLaunches<'a> {
    config: &'a RunConfig,
    inputs: &'a Inputs,
    image: Image<'a>,
}

/// A guest in test mode whose files are read.
#[derive(Debug)]
pub struct SwLaunches<'a> {
    image: sw::Image<'a>,
    ram: RamLayout,
    tsc_khz: u32,
}

/// A launch that nobody carries out.
#[derive(Debug)]
pub struct Predicted<I> {
    /// What would be launched.
    pub launch: Launch<I>,
    /// What it would be measured as.
    pub digest: Digest,
}

impl<'a> SnpLaunches<'a> {
    /// Reads and checks the guest's files, and hashes what has to be.
    pub fn read(config: &'a RunConfig, inputs: &'a Inputs) -> Result<Self, RunError> {
        Self::read_with_firmware(config, inputs, Firmware::of(inputs)?)
    }

    /// The same with another firmware than the one this program was built with.
    pub fn read_with_firmware(
        config: &'a RunConfig,
        inputs: &'a Inputs,
        firmware: Firmware<'a>,
    ) -> Result<Self, RunError> {
        let linux = read_linux(config, inputs, &RamLayout::new(config.memory)?)?;
        Ok(Self { config, inputs, image: Image::new(config, firmware, linux)? })
    }

    /// What would be launched with so many vCPUs, whatever number `config` has.
    pub fn with_vcpus(&self, vcpus: VcpuCount) -> Result<Predicted<Identity>, RunError> {
        let config = RunConfig { vcpus: vcpus.get(), ..self.config.clone() };
        // Some host may do it. Where things are, and so the digest, does not depend on which.
        let SnpGuest { launch, digest, .. } = SnpGuest::new(&config, self.inputs, &self.image, ADDRESS_BITS_MAX)?;
        Ok(Predicted { launch, digest })
    }
}

impl<'a> SwLaunches<'a> {
    /// Reads and checks the guest's files, and hashes what has to be. The frequency is the host's: the guest is told it.
    pub fn read(config: &'a RunConfig, inputs: &'a Inputs, tsc_khz: u32) -> Result<Self, RunError> {
        let ram = RamLayout::new(config.memory)?;
        let linux = read_linux(config, inputs, &ram)?;
        let Firmware::Ours(firmware) = Firmware::of(inputs)? else {
            return Err(RunError::OvmfNeedsSnp { tee: Tee::Sw });
        };
        let cmdline = guest_cmdline(config, linux.is_some(), tsc_khz);
        Ok(Self { image: sw::Image::new(firmware, linux, &cmdline)?, ram, tsc_khz })
    }

    /// What would be launched with so many vCPUs.
    pub fn with_vcpus(&self, vcpus: VcpuCount) -> Result<Predicted<Unsigned>, RunError> {
        let facts = Facts { tee: abi::TEE_SW, ram: self.ram, vcpus: vcpus.get(), tsc_khz: self.tsc_khz };
        let launch = sw::launch(&self.image, &facts, ADDRESS_BITS_MAX)?;
        let digest = measured::traced(&launch, |_| {})?;
        Ok(Predicted { launch, digest })
    }
}

/// The digest of a launch in test mode; every page is shown to `trace`.
pub fn sw_traced(launch: &Launch<Unsigned>, trace: impl FnMut(&Step<'_>)) -> Result<Digest, RunError> {
    Ok(measured::traced(launch, trace)?)
}
