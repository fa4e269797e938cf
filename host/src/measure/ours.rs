//! The prediction of a guest whose firmware is ours: of what `tenure run` with the same settings launches.
//!
//! Owns the way from settings to the prediction. Their defaults are the run's ([`Settings`]), and so is the launch
//! ([`SnpLaunches`]): what stands here cannot drift apart from what is run (law *one-launch*).

use std::path::PathBuf;

use gmem::launch::{Launch, PageKind, PlannedRegion};
use sha2::{Digest as _, Sha256};
use snp::cpu::CpuModel;
use snp::hex;
use snp::id_block::Identity;
use snp::measure::traced;

use super::{Details, DigestFor, MeasureError, Page, Piece, SnpPrediction};
use crate::config::inputs::Inputs;
use crate::config::snp::Text;
use crate::config::values::{Cmdline, MemorySize, VcpuCount};
use crate::config::{ConfigError, RunConfig, Settings, Tee};
use crate::firmware;
use crate::run::RunError;
use crate::run::predict::{Predicted, SnpLaunches};

/// What of a run's settings is measured; what is absent has the run's default.
#[derive(Debug, Clone, Default)]
pub struct OurGuest {
    /// A kernel for the firmware to start.
    pub kernel: Option<PathBuf>,
    /// Its RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line, or the self-test's options.
    pub cmdline: Option<Cmdline>,
    /// RAM.
    pub memory: Option<MemorySize>,
    /// Its processor.
    pub cpu: Option<CpuModel>,
}

impl OurGuest {
    fn config(self) -> Result<RunConfig, ConfigError> {
        let Self { kernel, initrd, cmdline, memory, cpu } = self;
        let (tee, vcpu_type) = (Some(Tee::Snp), cpu.map(Text));
        let settings = Settings { tee, kernel, initrd, cmdline, memory, vcpu_type, ..Settings::default() };
        Ok(settings.resolve()?.run)
    }
}

/// The digests of `guest` with each of these numbers of vCPUs.
pub fn snp(guest: OurGuest, vcpus: &[VcpuCount], details: Details) -> Result<SnpPrediction, MeasureError> {
    let config = guest.config()?;
    let inputs = Inputs::open(&config)?;
    let failed = |error: RunError| MeasureError::from(Box::new(error));
    let launches = SnpLaunches::read(&config, &inputs).map_err(failed)?;
    let most = vcpus.iter().map(|count| count.get()).max();
    let (mut digests, mut largest) = (Vec::new(), None);
    for &count in vcpus {
        let Predicted { launch, digest } = launches.with_vcpus(count).map_err(failed)?;
        digests.push(DigestFor { vcpus: count.get(), launch_digest: digest.to_string() });
        if Some(count.get()) == most {
            largest = Some(launch);
        }
    }
    let launch = match largest {
        Some(launch) => launch,
        // Nobody asked for a digest: what else is told is of the least guest.
        None => launches.with_vcpus(VcpuCount::ONE).map_err(failed)?.launch,
    };
    let mut pages = Vec::new();
    if details.pages {
        traced(&launch, |step| pages.push(Page::from(step)))?;
    }
    let sum = || Ok(hex::text(&Sha256::digest(firmware::image()?.bytes())));
    Ok(SnpPrediction {
        vmm: "tenure",
        firmware: Some("tenure"),
        memory_bytes: Some(config.memory.0),
        vcpu_type: config.snp.vcpu_type.to_string(),
        guest_features: format!("{:#x}", launch.identity.features.0),
        firmware_sha256: details.sha256.then(sum).transpose().map_err(failed)?,
        pieces: details.sha256.then(|| pieces(&launch)),
        digests,
        pages: details.pages.then_some(pages),
    })
}

fn pieces(launch: &Launch<Identity>) -> Vec<Piece> {
    let piece = |region: &PlannedRegion| Piece {
        label: region.label.clone(),
        gpa: format!("{:#014x}", region.range.gpa().0),
        bytes: region.contents.bytes().len(),
        sha256: hex::text(&Sha256::digest(region.contents.bytes())),
    };
    let copied = |region: &&PlannedRegion| region.kind == PageKind::CopiedByGuest;
    launch.plan.regions().iter().filter(copied).map(piece).collect()
}
