//! The prediction of a guest whose firmware is ours: of what `tenure run` with the same settings launches.
//!
//! Owns the way from settings to the prediction, and from a launch to what is told of it. Settings' defaults are the run's
//! ([`Settings`]), and so are the launches ([`SnpLaunches`], [`SwLaunches`]): what stands here cannot drift apart from what
//! is run (law *one-launch*). What a run tells its guest of itself is a prediction as well ([`of_snp`],
//! [`of_sw`]).

use std::path::PathBuf;

use gmem::launch::{Launch, PageKind, PlannedRegion, Unsigned};
use guest_fw::abi::STAGING_MAGIC;
use sha2::{Digest as _, Sha256};
use snp::cpu::CpuModel;
use snp::digest::Digest;
use snp::hex;
use snp::id_block::Identity;
use snp::measure::{self, Step};

use super::{Details, DigestFor, MeasureError, Page, Piece, Prediction};
use crate::config::inputs::Inputs;
use crate::config::snp::Text;
use crate::config::values::{Cmdline, MemorySize, VcpuCount};
use crate::config::{ConfigError, Guise, RunConfig, Settings, Tee};
use crate::firmware;
use crate::run::RunError;
use crate::run::predict::{self, Predicted, SnpLaunches, SwLaunches};

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
}

/// What is measured of a guest in test mode besides.
#[derive(Debug, Clone, Copy)]
pub struct TestMode {
    /// Frequency of its TSC.
    pub tsc_khz: u32,
    /// What it is told to be.
    pub guise: Option<Guise>,
}

impl OurGuest {
    fn settings(self, tee: Tee) -> Settings {
        let Self { kernel, initrd, cmdline, memory } = self;
        Settings { tee: Some(tee), kernel, initrd, cmdline, memory, ..Settings::default() }
    }
}

/// The digests of an SNP `guest` with each of these numbers of vCPUs.
pub fn snp(
    guest: OurGuest,
    cpu: Option<CpuModel>,
    vcpus: &[VcpuCount],
    details: Details,
) -> Result<Prediction, MeasureError> {
    let settings = Settings { vcpu_type: cpu.map(Text), ..guest.settings(Tee::Snp) };
    let config = config(settings)?;
    let inputs = Inputs::open(&config)?;
    let launches = SnpLaunches::read(&config, &inputs).map_err(failed)?;
    let (digests, launch) = each(vcpus, |vcpus| launches.with_vcpus(vcpus))?;
    snp_detailed(&config, &launch, digests, details)
}

/// What an SNP guest is launched as, which comes to this digest: every page of it.
pub fn of_snp(config: &RunConfig, launch: &Launch<Identity>, digest: Digest) -> Result<Prediction, MeasureError> {
    // Of OVMF there is nothing to tell but pages.
    let is_ours = parameters(launch).is_some();
    let prediction = snp_detailed(config, launch, of_one(config, digest), Details { sha256: is_ours, pages: true })?;
    Ok(if is_ours { prediction } else { Prediction { firmware: None, memory_bytes: None, ..prediction } })
}

fn snp_detailed(
    config: &RunConfig,
    launch: &Launch<Identity>,
    digests: Vec<DigestFor>,
    details: Details,
) -> Result<Prediction, MeasureError> {
    let prediction = Prediction {
        vcpu_type: Some(config.snp.vcpu_type.to_string()),
        guest_features: Some(format!("{:#x}", launch.identity.features.0)),
        ..of_any(config, digests)
    };
    detailed(prediction, launch, details, |trace| measure::traced(launch, trace))
}

/// The digests of a `guest` in test mode with each of these numbers of vCPUs: what a test's root will say of it.
pub fn sw(guest: OurGuest, mode: TestMode, vcpus: &[VcpuCount], details: Details) -> Result<Prediction, MeasureError> {
    let config = config(Settings { guise: mode.guise, ..guest.settings(Tee::Sw) })?;
    let inputs = Inputs::open(&config)?;
    let launches = SwLaunches::read(&config, &inputs, mode.tsc_khz).map_err(failed)?;
    let (digests, launch) = each(vcpus, |vcpus| launches.with_vcpus(vcpus))?;
    sw_detailed(of_any(&config, digests), &launch, mode.tsc_khz, details)
}

/// What a guest in test mode was launched as, which comes to this digest: every page of it.
pub fn of_sw(
    config: &RunConfig,
    launch: &Launch<Unsigned>,
    digest: Digest,
    tsc_khz: u32,
) -> Result<Prediction, MeasureError> {
    sw_detailed(of_any(config, of_one(config, digest)), launch, tsc_khz, Details { sha256: true, pages: true })
}

fn sw_detailed(
    prediction: Prediction,
    launch: &Launch<Unsigned>,
    tsc_khz: u32,
    details: Details,
) -> Result<Prediction, MeasureError> {
    let prediction = Prediction { tsc_khz: Some(tsc_khz), ..prediction };
    let trace = |trace: &mut dyn FnMut(&Step<'_>)| predict::sw_traced(launch, trace).map_err(failed);
    detailed(prediction, launch, details, trace)
}

fn config(settings: Settings) -> Result<RunConfig, ConfigError> {
    Ok(settings.resolve()?.run)
}

fn failed(error: RunError) -> MeasureError {
    Box::new(error).into()
}

/// A digest for each number of vCPUs, and the launch of the largest guest: what else is told is of that.
fn each<I>(
    vcpus: &[VcpuCount],
    with_vcpus: impl Fn(VcpuCount) -> Result<Predicted<I>, RunError>,
) -> Result<(Vec<DigestFor>, Launch<I>), MeasureError> {
    let most = vcpus.iter().map(|count| count.get()).max();
    let (mut digests, mut largest) = (Vec::new(), None);
    for &count in vcpus {
        let Predicted { launch, digest } = with_vcpus(count).map_err(failed)?;
        digests.push(DigestFor { vcpus: count.get(), launch_digest: digest.to_string() });
        if Some(count.get()) == most {
            largest = Some(launch);
        }
    }
    let launch = match largest {
        Some(launch) => launch,
        // Nobody asked for a digest: what else is told is of the least guest.
        None => with_vcpus(VcpuCount::ONE).map_err(failed)?.launch,
    };
    Ok((digests, launch))
}

fn of_one(config: &RunConfig, digest: Digest) -> Vec<DigestFor> {
    vec![DigestFor { vcpus: config.vcpus, launch_digest: digest.to_string() }]
}

fn of_any(config: &RunConfig, digests: Vec<DigestFor>) -> Prediction {
    Prediction {
        vmm: "tenure",
        firmware: Some("tenure"),
        memory_bytes: Some(config.memory.0),
        tsc_khz: None,
        vcpu_type: None,
        guest_features: None,
        firmware_sha256: None,
        pieces: None,
        parameters: None,
        digests,
        pages: None,
    }
}

/// With what is told besides.
fn detailed<I, E>(
    mut prediction: Prediction,
    launch: &Launch<I>,
    details: Details,
    traced: impl FnOnce(&mut dyn FnMut(&Step<'_>)) -> Result<Digest, E>,
) -> Result<Prediction, MeasureError>
where
    MeasureError: From<E>,
{
    if details.sha256 {
        let image = firmware::image().map_err(RunError::from).map_err(failed)?;
        prediction.firmware_sha256 = Some(hex::text(&Sha256::digest(image.bytes())));
        prediction.pieces = Some(pieces(launch));
    }
    if details.pages {
        let mut pages = Vec::new();
        traced(&mut |step| pages.push(Page::from(step)))?;
        prediction.parameters = parameters(launch).map(hex::text);
        prediction.pages = Some(pages);
    }
    Ok(prediction)
}

/// What the firmware is told.
fn parameters<I>(launch: &Launch<I>) -> Option<&[u8]> {
    let magic = STAGING_MAGIC.to_le_bytes();
    launch.plan.regions().iter().map(|region| region.contents.bytes()).find(|bytes| bytes.starts_with(&magic))
}

fn pieces<I>(launch: &Launch<I>) -> Vec<Piece> {
    let piece = |region: &PlannedRegion| Piece {
        label: region.label.clone(),
        gpa: format!("{:#014x}", region.range.gpa().0),
        bytes: region.contents.bytes().len(),
        sha256: hex::text(&Sha256::digest(region.contents.bytes())),
    };
    let copied = |region: &&PlannedRegion| region.kind == PageKind::CopiedByGuest;
    launch.plan.regions().iter().filter(copied).map(piece).collect()
}
