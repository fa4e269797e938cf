//! What evidence of a guest must say, from what launches it: law *one-launch*.
//!
//! Owns the way from a [`Launch`] to [`ReferenceValues`], and from a configuration of `tenure run` to both. The launch is
//! planned by the run's own code ([`crate::run::predict`]), so what is launched and what is expected cannot drift apart.
//! Does not own the comparison: that is [`attest`]'s.

use std::path::{Path, PathBuf};

use attest::snp::ReferenceValues;
use gmem::launch::Launch;
use snp::id_block::{IdError, Identity};
use snp::measure::{MeasureError, launch_digest};

use crate::config::file::{self, FileError};
use crate::config::inputs::{InputError, Inputs};
use crate::config::values::{ValueError, VcpuCount};
use crate::config::{ConfigError, RunConfig, Tee};
use crate::run::RunError;
use crate::run::predict::{SnpLaunches, SwLaunches};

/// Why it is not known what to expect.
#[derive(Debug, thiserror::Error)]
pub enum ExpectedError {
    /// The configuration's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in it.
    #[error("guest `{}`: {source}", path.display())]
    Config {
        /// The configuration.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The guest's files.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A number of vCPUs that a configuration cannot have.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// Its launch.
    #[error(transparent)]
    Run(#[from] Box<RunError>),
    /// Its measurement.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// What its owner signed.
    #[error("snp-id-block: {0}")]
    IdBlock(#[from] IdError),
    /// Evidence is of one technology.
    #[error("guest `{}`: tee is {tee}, but must be snp or sw: another guest has no report", path.display())]
    NoReport {
        /// The configuration.
        path: PathBuf,
        /// What it says.
        tee: Tee,
    },
    /// A guest in test mode is told how fast the TSC is.
    #[error("guest `{}`: tee is sw, whose launch has the frequency of its host's TSC: give tsc-khz", path.display())]
    NoFrequency {
        /// The configuration.
        path: PathBuf,
    },
    /// Another guest is told nothing of it that is measured.
    #[error("guest `{}`: tee is snp, whose launch has no frequency in it: tsc-khz is for sw", path.display())]
    Frequency {
        /// The configuration.
        path: PathBuf,
    },
}

/// What a report must say of a guest that was launched so.
pub fn of_launch(launch: &Launch<Identity>) -> Result<ReferenceValues, ExpectedError> {
    let Identity { host_data, signed, .. } = &launch.identity;
    let keys = signed.as_ref().map(|signed| signed.auth.verify(&signed.block)).transpose()?;
    Ok(ReferenceValues {
        launch_digests: vec![launch_digest(launch)?.0],
        host_data: Some(*host_data),
        id_keys: keys.iter().map(|keys| keys.id_key.0).collect(),
        author_keys: keys.iter().filter_map(|keys| Some(keys.author_key?.0)).collect(),
        ..ReferenceValues::default()
    })
}

/// What a report must say of the guest that `tenure run --config` launches. One in test mode is told its TSC's frequency.
pub fn of_config(path: &Path, tsc_khz: Option<u32>) -> Result<ReferenceValues, ExpectedError> {
    let resolved = file::read(path)?.resolve();
    let config = resolved.map_err(|source| ExpectedError::Config { path: path.to_owned(), source })?.run;
    let (inputs, vcpus) = (Inputs::open(&config)?, VcpuCount::try_from(i64::from(config.vcpus))?);
    match config.tee {
        Tee::Snp if tsc_khz.is_some() => Err(ExpectedError::Frequency { path: path.to_owned() }),
        Tee::Snp => of_launch(&snp(&config, &inputs, vcpus)?),
        Tee::Sw => {
            let tsc_khz = tsc_khz.ok_or_else(|| ExpectedError::NoFrequency { path: path.to_owned() })?;
            let launches = SwLaunches::read(&config, &inputs, tsc_khz).map_err(Box::new)?;
            let digest = launches.with_vcpus(vcpus).map_err(Box::new)?.digest;
            Ok(ReferenceValues { launch_digests: vec![digest.0], ..ReferenceValues::default() })
        }
        tee => Err(ExpectedError::NoReport { path: path.to_owned(), tee }),
    }
}

fn snp(config: &RunConfig, inputs: &Inputs, vcpus: VcpuCount) -> Result<Launch<Identity>, ExpectedError> {
    let launches = SnpLaunches::read(config, inputs).map_err(Box::new)?;
    Ok(launches.with_vcpus(vcpus).map_err(Box::new)?.launch)
}
