//! `tenure attest verify --report`: what is asked of SNP guests.

use attest::snp::{Product, ReferenceValues};
use clap::{Args, ValueEnum};
use snp::digest::Digest;
use snp::hex::{self, HexError};

use super::{RootName, VerifyArgs};
use crate::cli::CliError;
use crate::cli::attest::chosen;
use crate::cli::measure::VCPUS_MAX;
use crate::evidence::certificates::Certificates;
use crate::evidence::verdict::VerdictReport;
use crate::evidence::{self, Evidence, EvidenceError};
use crate::exit::ExitCode;
use crate::idblock::{DigestSource, Source};

/// What only reports have.
#[derive(Debug, Args)]
#[group(id = "of-report", conflicts_with = "quote")]
pub struct ReportArgs {
    /// The table of certificates that comes with an extended report; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub certificates: Option<Source>,

    /// The certificate of the key that signed, VCEK or VLEK, DER or PEM; counts before the table's
    #[arg(long, value_name = "FILE|-")]
    pub vek: Option<Source>,

    /// Who issued it, ASK or ASVK, DER or PEM; in PEM also the root after that, as AMD serves cert_chain
    #[arg(long, value_name = "FILE|-")]
    pub chain: Option<Source>,

    /// A list of revoked certificates in DER, signed by the product's root; one that the table has is used without this
    #[arg(long, value_name = "FILE|-")]
    pub crl: Option<Source>,

    /// A launch digest that the guest may have, several if given several times: 96 hexadecimal digits, or a file or
    /// standard input (-) with what tenure measure snp printed, with --json or without; a file's name has a . or / in it
    #[arg(long = "launch-digest", value_name = "HEX|FILE|-")]
    pub launch_digests: Vec<DigestSource>,

    /// Of launch digests for several numbers of vCPUs, takes only that for so many
    #[arg(long, value_name = "N", requires = "launch_digests",
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

/// Products with a root of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProductName {
    /// Zen 3
    Milan,
    /// Zen 4; also Bergamo and Siena
    Genoa,
    /// Zen 5
    Turin,
}

impl From<ProductName> for Product {
    fn from(name: ProductName) -> Self {
        match name {
            ProductName::Milan => Self::Milan,
            ProductName::Genoa => Self::Genoa,
            ProductName::Turin => Self::Turin,
        }
    }
}

impl ReportArgs {
    pub(super) fn sources(&self) -> impl Iterator<Item = (&'static str, &Source)> {
        let Self { certificates, vek, chain, crl, .. } = self;
        let all = [("certificates", certificates), ("vek", vek), ("chain", chain), ("crl", crl)];
        let digests = self.launch_digests.iter().filter_map(|digest| Some(("launch-digest", digest.source()?)));
        all.into_iter().filter_map(|(what, source)| Some((what, source.as_ref()?))).chain(digests)
    }
}

pub(super) fn verify(report: &Source, args: &VerifyArgs) -> Result<ExitCode, CliError> {
    let ReportArgs { certificates, vek, chain, crl, .. } = &args.of_report;
    let policy = chosen(args.policy.as_ref(), args.preset)?;
    let references = references(args)?;
    let product = args.allow_test_root.map(RootName::product).transpose()?.map(Product::from);
    let anchors = evidence::anchors(args.test_root.as_ref().zip(product))?;
    let now = evidence::moment(args.now)?;
    let files = Certificates::read(vek.as_ref(), chain.as_ref()).map_err(EvidenceError::from)?;
    let evidence = Evidence::read(report, certificates.as_ref(), crl.as_ref())?.with_certificates(files);
    let judged = evidence.judge(&anchors, &policy, &references, now);
    args.show(&VerdictReport::of(&evidence, &judged, now, product))?;
    Ok(judged.exit_code())
}

fn references(args: &VerifyArgs) -> Result<ReferenceValues, EvidenceError> {
    let ReportArgs { vcpus, host_data, id_keys, author_keys, chips, .. } = &args.of_report;
    let mut launch_digests = Vec::new();
    for source in &args.of_report.launch_digests {
        launch_digests.extend(source.read_all(*vcpus)?.into_iter().map(|digest| digest.0));
    }
    Ok(ReferenceValues {
        launch_digests,
        report_data: args.report_data,
        host_data: *host_data,
        id_keys: id_keys.iter().map(|digest| digest.0).collect(),
        author_keys: author_keys.iter().map(|digest| digest.0).collect(),
        chips: chips.iter().map(|chip| chip.0).collect(),
    })
}
