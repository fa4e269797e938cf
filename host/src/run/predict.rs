//! What a run of an SNP guest would launch, found out without a host: nothing is carried out.
//!
//! Owns only the way there. What is planned, and from what, is the run's own (modules `prepare` and `snp`; law
//! *one-launch*): the same settings have the same launch, in whatever place its digest is asked for.

use gmem::launch::Launch;
use gmem::layout::RamLayout;
use snp::digest::Digest;
use snp::id_block::Identity;

use super::cpuid::ADDRESS_BITS_MAX;
use super::prepare::read_linux;
use super::snp::{Image, SnpGuest};
use super::{Firmware, RunError};
use crate::config::RunConfig;
use crate::config::inputs::Inputs;
use crate::config::values::VcpuCount;

/// An SNP guest whose files are read: there is a launch for each number of vCPUs.
#[derive(Debug)]
pub struct SnpLaunches<'a> {
    config: &'a RunConfig,
    inputs: &'a Inputs,
    image: Image<'a>,
}

/// A launch that nobody carries out.
#[derive(Debug)]
pub struct Predicted {
    /// What would be launched.
    pub launch: Launch<Identity>,
    /// What it would be measured as.
    pub digest: Digest,
}

impl<'a> SnpLaunches<'a> {
    /// Reads and checks the guest's files, and hashes what has to be.
    pub fn read(config: &'a RunConfig, inputs: &'a Inputs) -> Result<Self, RunError> {
        let linux = read_linux(config, inputs, &RamLayout::new(config.memory)?)?;
        Ok(Self { config, inputs, image: Image::new(config, Firmware::of(inputs)?, linux)? })
    }

    /// What would be launched with so many vCPUs, whatever number `config` has.
    pub fn with_vcpus(&self, vcpus: VcpuCount) -> Result<Predicted, RunError> {
        let config = RunConfig { vcpus: vcpus.get(), ..self.config.clone() };
        // Some host may do it. Where things are, and so the digest, does not depend on which.
        let SnpGuest { launch, digest, .. } = SnpGuest::new(&config, self.inputs, &self.image, ADDRESS_BITS_MAX)?;
        Ok(Predicted { launch, digest })
    }
}
