//! `tenure attest verify`: evidence in files, and the one line at the end.

use attest::UnixTime;
use attest::snp::{Product, ReferenceValues};
use clap::{Args, ValueEnum};
use snp::digest::Digest;
use snp::hex::{self, HexError};

use super::{PresetName, chosen, json, print};
use crate::cli::CliError;
use crate::cli::measure::VCPUS_MAX;
use crate::evidence::verdict::VerdictReport;
use crate::evidence::{self, Evidence, EvidenceError};
use crate::exit::ExitCode;
use crate::idblock::{DigestSource, Source, one_stdin};
use crate::paint::Paint;

/// Arguments of `tenure attest verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The report, as the firmware wrote it; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub report: Source,

    /// The table of certificates that comes with an extended report; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub certificates: Option<Source>,

    /// A list of revoked certificates in DER, signed by the product's root; one that the table has is used without this
    #[arg(long, value_name = "FILE|-")]
    pub crl: Option<Source>,

    /// The policy, TOML or JSON; - is standard input
    #[arg(long, value_name = "FILE|-", conflicts_with = "preset")]
    pub policy: Option<Source>,

    /// A policy by name
    #[arg(long, value_enum, value_name = "NAME", default_value_t = PresetName::Strict)]
    pub preset: PresetName,

    /// A launch digest that the guest may have, several if given several times: 96 hexadecimal digits, or a file or
    /// standard input (-) with what tenure measure snp printed, with --json or without; a file's name has a . or / in it
    #[arg(long = "launch-digest", value_name = "HEX|FILE|-")]
    pub launch_digests: Vec<DigestSource>,

    /// Of launch digests for several numbers of vCPUs, takes only that for so many
    #[arg(long, value_name = "N", requires = "launch_digests",
        value_parser = clap::value_parser!(u32).range(1..=VCPUS_MAX))]
    pub vcpus: Option<u32>,

    /// What the guest must have had signed (REPORT_DATA): 128 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = hex::parse::<64>)]
    pub report_data: Option<[u8; 64]>,

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

    /// The moment at which everything must be valid, in UTC [default: now]
    #[arg(long, value_name = "RFC3339")]
    pub now: Option<UnixTime>,

    /// A root for tests, in DER: whatever rests on it is software-test, and nobody vouches for it
    #[arg(long, value_name = "FILE|-", requires = "allow_test_root")]
    pub test_root: Option<Source>,

    /// Accepts the test root in place of this product's
    #[arg(long, value_enum, value_name = "PRODUCT", requires = "test_root")]
    pub allow_test_root: Option<ProductName>,

    /// Prints everything as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// A chip's identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip([u8; 64]);

impl Chip {
    /// The identifier.
    pub const fn id(&self) -> [u8; 64] {
        self.0
    }
}

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

pub(super) fn verify(args: &VerifyArgs) -> Result<ExitCode, CliError> {
    let VerifyArgs { report, certificates, crl, policy, test_root, .. } = args;
    let optional = [("certificates", certificates), ("crl", crl), ("policy", policy), ("test-root", test_root)];
    let optional = optional.into_iter().filter_map(|(what, source)| Some((what, source.as_ref()?)));
    let digests = args.launch_digests.iter().filter_map(|digest| Some(("launch-digest", digest.source()?)));
    one_stdin([("report", report)].into_iter().chain(optional).chain(digests)).map_err(EvidenceError::from)?;

    let policy = chosen(policy.as_ref(), args.preset)?;
    let references = references(args)?;
    let test = test_root.as_ref().zip(args.allow_test_root.map(Product::from));
    let anchors = evidence::anchors(test)?;
    let now = evidence::moment(args.now)?;
    let evidence = Evidence::read(report, certificates.as_ref(), crl.as_ref())?;
    let judged = evidence.judge(&anchors, &policy, &references, now);
    let verdict = VerdictReport::of(&evidence, &judged, now, test.map(|(_, product)| product));
    print(&if args.json { json(&verdict)? } else { verdict.text(Paint::on_stdout()) + "\n" })?;
    Ok(judged.exit_code())
}

fn references(args: &VerifyArgs) -> Result<ReferenceValues, EvidenceError> {
    let mut launch_digests = Vec::new();
    for source in &args.launch_digests {
        launch_digests.extend(source.read_all(args.vcpus)?.into_iter().map(|digest| digest.0));
    }
    Ok(ReferenceValues {
        launch_digests,
        report_data: args.report_data,
        host_data: args.host_data,
        id_keys: args.id_keys.iter().map(|digest| digest.0).collect(),
        author_keys: args.author_keys.iter().map(|digest| digest.0).collect(),
        chips: args.chips.iter().map(|chip| chip.0).collect(),
    })
}
