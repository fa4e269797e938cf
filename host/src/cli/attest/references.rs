//! What a guest is expected to be, as arguments say it (a TDX guest [`quote`]): for `tenure attest verify` and `tenure attest serve` alike.

use std::path::PathBuf;

use attest::snp::ReferenceValues;
use clap::Args;
use snp::digest::Digest;
use snp::hex::{self, HexError};

use crate::cli::measure::VCPUS_MAX;
use crate::evidence::{EvidenceError, expected, launch_log};
use crate::idblock::{DigestSource, Source};
use crate::measure::trace::Trace;

mod quote;

pub use quote::{CollateralArgs, QuoteReferenceArgs};

/// What a configuration says of its guest. Beside it these would allow guests besides that one, or another than that.
const SAID_BY_GUEST: [&str; 4] = ["launch_digests", "host_data", "id_keys", "author_keys"];

/// What an SNP guest is expected to be.
#[derive(Debug, Args)]
pub struct ReferenceArgs {
    /// A launch digest that the guest may have, several if given several times: 96 hexadecimal digits, or a file or
    /// standard input (-) with what tenure measure printed, with --json or without; a file's name has a . or / in it
    #[arg(long = "launch-digest", value_name = "HEX|FILE|-")]
    pub launch_digests: Vec<DigestSource>,

    /// Expects the guest that `tenure run --config FILE` launches and no other: its launch digest, host data and who signed
    /// its ID block, none of which can be given besides
    #[arg(long, value_name = "FILE", conflicts_with_all = SAID_BY_GUEST)]
    pub guest: Option<PathBuf>,

    /// Frequency in kHz of the TSC of the host that launches --guest, if that has tee sw
    // What is required, and conflicts with what is there, is not missed: so each conflicts with the other's.
    #[arg(long, value_name = "N", requires = "guest", conflicts_with_all = SAID_BY_GUEST,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub tsc_khz: Option<u32>,

    /// Of launch digests for several numbers of vCPUs, takes only that for so many
    #[arg(long, value_name = "N", requires = "launch_digests", conflicts_with = "guest",
        value_parser = clap::value_parser!(u32).range(1..=VCPUS_MAX))]
    pub vcpus: Option<u32>,

    /// What the host must have said at launch (HOST_DATA): 64 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = hex::parse::<32>)]
    pub host_data: Option<[u8; 32]>,

    /// Digest of a key that may have signed the guest's ID block, several if given several times: 96 hexadecimal digits
    #[arg(long = "id-key", value_name = "HEX")]
    pub id_keys: Vec<Digest>,

    /// Digest of an author's key that may have signed that key, several if given several times: 96 hexadecimal digits
    #[arg(long = "author-key", value_name = "HEX")]
    pub author_keys: Vec<Digest>,

    /// A chip that the guest may be on, several if given several times: 128 hexadecimal digits
    #[arg(long = "chip", value_name = "HEX")]
    pub chips: Vec<Chip>,
}

/// A chip's identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip([u8; 64]);

impl std::str::FromStr for Chip {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        hex::parse(text).map(Self)
    }
}

impl ReferenceArgs {
    /// Whether anything is expected.
    pub(super) fn are_given(&self) -> bool {
        let Self { launch_digests, guest, tsc_khz: _, vcpus: _, host_data, id_keys, author_keys, chips } = self;
        let listed = [id_keys, author_keys].into_iter().any(|keys| !keys.is_empty());
        listed || !launch_digests.is_empty() || !chips.is_empty() || guest.is_some() || host_data.is_some()
    }

    /// What is read, by the names of its arguments.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&'static str, &Source)> {
        self.launch_digests.iter().filter_map(|digest| Some(("launch-digest", digest.source()?)))
    }

    /// What a report must say, but for the data of whoever asks.
    pub(super) fn values(&self) -> Result<ReferenceValues, EvidenceError> {
        let guest = self.guest.as_ref().map(|guest| expected::of_config(guest, self.tsc_khz));
        let mut expected = guest.transpose().map_err(Box::new)?.unwrap_or_default();
        for source in &self.launch_digests {
            expected.launch_digests.extend(source.read_all(self.vcpus)?.into_iter().map(|digest| digest.0));
        }
        expected.id_keys.extend(self.id_keys.iter().map(|digest| digest.0));
        expected.author_keys.extend(self.author_keys.iter().map(|digest| digest.0));
        Ok(ReferenceValues {
            host_data: self.host_data.or(expected.host_data),
            chips: self.chips.iter().map(|chip| chip.0).collect(),
            ..expected
        })
    }

    /// The launches that are expected, page by page, of those whose file has their pages: what differs from them has a
    /// name.
    pub(super) fn traces(&self) -> Result<Vec<Trace>, EvidenceError> {
        let paths = self.launch_digests.iter().filter_map(|digest| digest.source()?.path());
        let traces = paths.map(launch_log::expected).collect::<Result<Vec<_>, _>>().map_err(Box::new)?;
        Ok(traces.into_iter().flatten().collect())
    }
}
