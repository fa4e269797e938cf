//! The launch of an SNP guest: planned and measured before anything is asked of the kernel.
//!
//! Owns what is known of such a guest ([`SnpGuest`]): its [`Launch`], which is kept and carried out again after a reset,
//! and the digest it will have. For our own firmware: it, its zeros and its parameters are populated and measured where
//! they belong; the pieces it copies lie in a shared staging slot, which holds nothing that is believed without the
//! SHA-256 that the parameters have of it. How a launch is carried out is [`mod@super::assemble`]'s and
//! [`snp::launch`]'s; who only wants to know of it asks [`super::predict`].

use std::sync::Arc;

use gmem::launch::Launch;
use gmem::layout::RamLayout;
use gmem::{ByteLen, Gpa};
use guest_fw::abi;
use snp::digest::Digest;
use snp::id_block::{IdError, Identity};
use snp::launch::Certificates;
use snp::measure::{self, MeasureError};
use snp::ovmf::Ovmf;
use snp::plan::FlatImage;
use snp::vmsa::SevFeatures;

use super::Firmware;
use super::certificates::CertificateFile;
use super::linux::LinuxImage;
use super::staged::{Facts, Pieces, PlanningError, Slot};
use crate::config::RunConfig;
use crate::config::inputs::Inputs;
use crate::config::snp::IdBlockCheck;
use crate::firmware::FirmwareImage;

/// A measurement may not depend on the host, and the frequency of its TSC would.
const TSC_KHZ: u32 = 0;

/// What is launched, whatever the number of vCPUs: for each number there is a [`SnpGuest`].
#[derive(Debug)]
pub(super) enum Image<'f> {
    /// Ours, and what it copies.
    Ours { firmware: FirmwareImage<'f>, pieces: Pieces },
    /// OVMF.
    Ovmf(&'f Ovmf),
}

/// A guest that can be launched, as often as it resets itself.
#[derive(Debug)]
pub(super) struct SnpGuest {
    pub launch: Launch<Identity>,
    /// What the PSP will have measured.
    pub digest: Digest,
    pub certificates: Option<Arc<CertificateFile>>,
    /// How often it may reset itself, if there is a limit.
    pub resets: Option<u32>,
}

/// Why there is no such guest.
#[derive(Debug, thiserror::Error)]
pub enum SnpError {
    /// The launch.
    #[error("plan the launch: {0}")]
    Planning(#[from] PlanningError),
    /// Its digest.
    #[error("measure the launch: {0}")]
    Measure(#[from] MeasureError),
    /// What its owner signed is not what would be launched, or not signed.
    #[error("snp-id-block: {0}")]
    IdBlock(#[from] IdError),
    /// OVMF is told by its VMM what to boot, and we don't speak its language.
    #[error("a kernel cannot be started by OVMF here: leave it out")]
    OvmfWithKernel,
}

impl<'f> Image<'f> {
    pub(super) fn new(config: &RunConfig, firmware: Firmware<'f>, linux: Option<LinuxImage>) -> Result<Self, SnpError> {
        match firmware {
            Firmware::Ours(firmware) => {
                let cmdline = super::prepare::guest_cmdline(config, linux.is_some(), TSC_KHZ);
                Ok(Self::Ours { firmware, pieces: Pieces::new(linux, &cmdline, 0)? })
            }
            Firmware::Ovmf(_) if linux.is_some() => Err(SnpError::OvmfWithKernel),
            Firmware::Ovmf(image) => Ok(Self::Ovmf(image)),
        }
    }
}

impl SnpGuest {
    /// Plans and measures the guest, and looks whether that is what its owner signed.
    pub(super) fn new(
        config: &RunConfig,
        inputs: &Inputs,
        image: &Image<'_>,
        address_bits: u32,
    ) -> Result<Self, SnpError> {
        let settings = &config.snp;
        let identity = Identity {
            policy: settings.policy,
            features: SevFeatures::SNP,
            host_data: settings.host_data.0,
            signed: inputs.signed.clone(),
            report_key: settings.report_key,
        };
        let shape = snp::plan::Guest { memory: config.memory, vcpus: config.vcpus, cpu: settings.vcpu_type, identity };
        let launch = match image {
            Image::Ours { firmware, pieces } => ours(firmware, pieces, address_bits, shape)?,
            Image::Ovmf(image) => ovmf(image, shape)?,
        };
        let digest = measure::launch_digest(&launch)?;
        if let (Some(signed), IdBlockCheck::BeforeLaunch) = (&inputs.signed, settings.id_block_check) {
            signed.auth.verify(&signed.block)?;
            signed.block.check_launch(digest, settings.policy)?;
        }
        Ok(Self { launch, digest, certificates: inputs.certificates.clone(), resets: settings.resets })
    }

    pub(super) fn ram(&self) -> RamLayout {
        *self.launch.plan.ram()
    }

    /// Who answers requests for certificates.
    pub(super) fn certificate_requests(&self) -> Certificates {
        if self.certificates.is_some() { Certificates::Ours } else { Certificates::None }
    }
}

fn ovmf(image: &Ovmf, shape: snp::plan::Guest) -> Result<Launch<Identity>, PlanningError> {
    Ok(snp::plan::ovmf(image, shape, None)?)
}

/// The launch of our firmware, and of what it is to copy.
fn ours(
    firmware: &FirmwareImage<'_>,
    pieces: &Pieces,
    address_bits: u32,
    shape: snp::plan::Guest,
) -> Result<Launch<Identity>, PlanningError> {
    let ram = RamLayout::new(shape.memory)?;
    let facts = Facts { tee: abi::TEE_SNP, ram, vcpus: shape.vcpus, tsc_khz: TSC_KHZ };
    // A slot has at least a page.
    let len = pieces.end.max(gmem::PAGE_SIZE);
    // Where it is must not depend on the host either; whether the guest can reach it does.
    let staging = ram.staging(ByteLen(len).pages_up(), address_bits)?.gpa().0;
    let slot = Slot { gpa: staging, len, image_offset: 0 };
    let header = firmware.header();
    let image = FlatImage {
        bytes: firmware.bytes(),
        base: Gpa(abi::FW_BASE),
        memory: ByteLen(header.memory_len),
        entry: Gpa(abi::FW_BASE + u64::from(header.entry_flat32)),
        secrets: Gpa(abi::SNP_SECRETS),
        cpuid: Gpa(abi::SNP_CPUID),
        parameters: (Gpa(abi::SNP_PARAMETERS), pieces.header(&facts, slot)),
    };
    let mut launch = snp::plan::flat(image, shape)?;
    pieces.push_to(&mut launch.plan, slot)?;
    Ok(launch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, Tee};
    use guest_fw::abi::StagingHeader;
    use zerocopy::FromBytes;

    /// one-launch: what is measured is the same on every host, so nothing of the host's is in it.
    #[test]
    fn one_launch_nothing_of_the_host_is_measured() {
        let settings = Settings { tee: Some(Tee::Snp), ..Settings::default() };
        let config = settings.resolve().unwrap().run;
        let firmware = Firmware::Ours(crate::firmware::image().unwrap());
        let image = Image::new(&config, firmware, None).unwrap();
        let guest = |bits| SnpGuest::new(&config, &Inputs::default(), &image, bits).unwrap();
        assert_eq!(guest(40).digest, guest(52).digest);
        let SnpGuest { launch, .. } = guest(48);
        let at = |region: &&gmem::launch::PlannedRegion| region.range.gpa().0 == abi::SNP_PARAMETERS;
        let parameters = launch.plan.regions().iter().find(at).unwrap();
        let (header, _) = StagingHeader::read_from_prefix(parameters.contents.bytes()).unwrap();
        assert_eq!((header.tee, header.tsc_khz, header.image_offset), (abi::TEE_SNP, 0, 0));
    }
}
