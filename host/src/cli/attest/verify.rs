//! `tenure attest verify`: evidence in files, and the one line at the end.
//!
//! Owns what is common to reports ([`report`]) and quotes ([`quote`]): which of both it is, when, and below which root.

use attest::UnixTime;
use clap::{Args, ValueEnum};
use snp::hex;

use super::references::CollateralArgs;
use super::{PresetName, json, print};
use crate::cli::CliError;
use crate::evidence::EvidenceError;
use crate::evidence::verdict::VerdictReport;
use crate::exit::ExitCode;
use crate::idblock::{Source, one_stdin};
use crate::paint::Paint;

mod ear;
mod quote;
mod report;

pub use ear::{EarArgs, EarError, EarFormat};
pub use quote::QuoteArgs;
pub use report::{ProductName, ReportArgs};

/// Arguments of `tenure attest verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// What is judged.
    #[command(flatten)]
    pub what: What,

    /// The policy, TOML or JSON; - is standard input
    #[arg(long, value_name = "FILE|-", conflicts_with = "preset")]
    pub policy: Option<Source>,

    /// A policy by name
    #[arg(long, value_enum, value_name = "NAME", default_value_t = PresetName::Strict)]
    pub preset: PresetName,

    /// What the guest must have had signed (REPORT_DATA): 128 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = hex::parse::<64>)]
    pub report_data: Option<[u8; 64]>,

    /// The moment at which everything must be valid, in UTC [default: now]
    #[arg(long, value_name = "RFC3339")]
    pub now: Option<UnixTime>,

    /// A root for tests, in DER: whatever rests on it is software-test, and nobody vouches for it
    #[arg(long, value_name = "FILE|-", requires = "allow_test_root")]
    pub test_root: Option<Source>,

    /// Accepts the test root in place of this one
    #[arg(long, value_enum, value_name = "ROOT", requires = "test_root")]
    pub allow_test_root: Option<RootName>,

    /// Prints everything as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,

    /// The result, for others.
    #[command(flatten)]
    pub for_others: EarArgs,

    /// What only reports have.
    #[command(flatten, next_help_heading = "Reports (SNP)")]
    pub of_report: ReportArgs,

    /// What Intel publishes about the platform of a quote.
    #[command(flatten, next_help_heading = "Quotes (TDX)")]
    pub of_platform: CollateralArgs,

    /// What only quotes have.
    #[command(flatten, next_help_heading = "Quotes (TDX)")]
    pub of_quote: QuoteArgs,
}

/// Evidence of either technology.
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false)]
pub struct What {
    /// An SNP report, as the firmware wrote it; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub report: Option<Source>,

    /// A TDX quote, as the quoting enclave wrote it; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub quote: Option<Source>,
}

/// Roots that one for tests may stand in place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RootName {
    /// AMD's of Zen 3
    Milan,
    /// AMD's of Zen 4; also Bergamo and Siena
    Genoa,
    /// AMD's of Zen 5
    Turin,
    /// Intel's
    Intel,
}

impl RootName {
    const fn name(self) -> &'static str {
        match self {
            Self::Milan => "milan",
            Self::Genoa => "genoa",
            Self::Turin => "turin",
            Self::Intel => "intel",
        }
    }

    /// The product whose root it is; reports rest on no other.
    pub(super) fn product(self) -> Result<ProductName, EvidenceError> {
        match self {
            Self::Milan => Ok(ProductName::Milan),
            Self::Genoa => Ok(ProductName::Genoa),
            Self::Turin => Ok(ProductName::Turin),
            Self::Intel => {
                let what = "a report rests on milan's, genoa's or turin's";
                Err(EvidenceError::OtherRoot { given: self.name(), what })
            }
        }
    }

    /// That it is Intel's; quotes rest on no other.
    fn intel(self) -> Result<(), EvidenceError> {
        match self {
            Self::Intel => Ok(()),
            _ => Err(EvidenceError::OtherRoot { given: self.name(), what: "a quote rests on intel's" }),
        }
    }
}

pub(super) fn verify(args: &VerifyArgs) -> Result<ExitCode, CliError> {
    let sources = args.sources().chain(args.of_report.sources()).chain(args.of_platform.sources());
    let sources = sources.chain(args.for_others.sources());
    one_stdin(sources).map_err(EvidenceError::from)?;
    match (&args.what.report, &args.what.quote) {
        (Some(_), _) if args.of_platform.are_given() || args.of_quote.are_given() => {
            Err(EvidenceError::OfQuotes.into())
        }
        (Some(report), _) => report::verify(report, args),
        (None, Some(_)) if args.of_report.are_given() => Err(EvidenceError::OfReports.into()),
        (None, Some(quote)) => quote::verify(quote, args),
        (None, None) => unreachable!("one of them is required"),
    }
}

impl VerifyArgs {
    fn sources(&self) -> impl Iterator<Item = (&'static str, &Source)> {
        let What { report, quote } = &self.what;
        let all = [
            ("report", report),
            ("quote", quote),
            ("event-log", &self.of_quote.event_log),
            ("policy", &self.policy),
            ("test-root", &self.test_root),
        ];
        all.into_iter().filter_map(|(what, source)| Some((what, source.as_ref()?)))
    }

    fn show(&self, verdict: &VerdictReport) -> Result<(), CliError> {
        if self.for_others.is_stdout() {
            eprint!("{}", if self.json { json(verdict)? } else { verdict.text(Paint::Plain) + "\n" });
            return Ok(());
        }
        print(&if self.json { json(verdict)? } else { verdict.text(Paint::on_stdout()) + "\n" })
    }
}
