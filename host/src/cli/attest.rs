//! `tenure attest`: what evidence of a guest is worth, and to whom.

use std::io::{self, Write as _};

use attest::snp::{Policy, Preset};
use attest::tdx;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::{CliError, Deferred};
use crate::evidence::claims::Claims;
use crate::evidence::policy::tdx::TdxOnly;
use crate::evidence::policy::{self, PolicyFile};
use crate::evidence::tdx::claims::{LogClaims, QuoteClaims};
use crate::evidence::tdx::collateral::CollateralFiles;
use crate::evidence::tdx::{QuoteEvidence, QuoteFileError};
use crate::evidence::{Evidence, EvidenceError};
use crate::exit::ExitCode;
use crate::idblock::{Source, one_stdin};

mod diff;
mod references;
mod request;
mod serve;
mod testroot;
mod verify;

pub use diff::DiffArgs;
pub use references::{Chip, CollateralArgs, QuoteReferenceArgs, ReferenceArgs};
pub use request::{EvidenceFrom, RequestArgs, RequestError};
pub use serve::{ServeArgs, ServeError};
pub use testroot::TestRootCommand;
pub use verify::{EarArgs, EarError, EarFormat, ProductName, QuoteArgs, ReportArgs, RootName, VerifyArgs, What};

/// What can be done with evidence.
#[derive(Debug, Subcommand)]
#[command(after_long_help = super::help(EXAMPLES))]
pub enum AttestCommand {
    /// Verifies an SNP report or a TDX quote, and compares it with a policy and with what is expected of the guest
    ///
    /// First whether it is genuine: signed by a key that certificates lead from to one of AMD's roots or to Intel's, which
    /// are part of this program, at this moment. Then whether it is of a guest and a platform as the policy wants them, and
    /// of the guest that is expected. Every check is listed, those that nobody asked for too; the last line is the verdict.
    /// Nothing is fetched: certificates and what Intel publishes are files.
    ///
    /// Without a policy the preset strict holds: no debugging, no migration, and something that says which guest it must be.
    /// Of SNP: VMPL 0, no provisional firmware, Genoa or Turin. Of TDX: a platform that is up to date, no service TDs, no
    /// exceptions for pages that the host takes away. tenure attest policy prints it.
    #[command(after_long_help = super::help(
        "tenure attest verify --report report.bin --certificates certificates --launch-digest digests.json --report-data $DATA\n\
         tenure attest verify --report report.bin --certificates certificates --crl crl.der --policy policy.toml --id-key $KEY --json\n\
         tenure attest verify --report report.bin --certificates certificates --test-root ark.der --allow-test-root milan\n\
         tenure attest verify --quote quote.bin --collateral collateral.json --mrtd $MRTD --report-data $DATA\n\
         tenure attest verify --quote quote.bin --collateral pcs/ --event-log ccel.bin --policy policy.toml --mrtd $MRTD\n\
         tenure attest verify --report report.bin --certificates certificates --id-key $KEY --report-data $DATA --ear result.jwt --ear-key key.pem"
    ))]
    Verify(Deferred<VerifyArgs>),

    /// Shows what a report, a quote or an event log says, whoever wrote it: nothing is verified
    #[command(after_long_help = super::help(
        "tenure attest show --report report.bin\ntenure attest show --report report.bin --json | jq -r .report.launch_digest\n\
         tenure attest show --quote quote.bin --event-log ccel.bin"
    ))]
    Show(Deferred<ShowArgs>),

    /// Shows what two reports say differently, whoever wrote them: nothing is verified
    ///
    /// For instance of a guest before and after an update, or of two platforms: what a policy and reference values have to
    /// be changed in. The exit code is 0 if they say the same, and 10 if not. Where two launches part, tenure measure diff
    /// finds out.
    #[command(after_long_help = super::help(
        "tenure attest diff before.bin after.bin\ntenure attest diff a.bin b.bin --json | jq -r '.different[].claim'"
    ))]
    Diff(Deferred<DiffArgs>),

    /// Prints a policy in full: a preset, or what a file comes to
    ///
    /// What is printed is a policy's file, about reports and quotes or about one of them. A file may name a preset, whose values
    /// hold where it says nothing; keys that are unknown are errors.
    #[command(after_long_help = super::help(
        "tenure attest policy > policy.toml\ntenure attest policy --preset hardened\ntenure attest policy --policy policy.toml --json\n\
         tenure attest policy --tee tdx"
    ))]
    Policy(Deferred<PolicyArgs>),

    /// Makes and shows roots of trust for tests, and signs reports and quotes below them
    ///
    /// A test root stands in for one of AMD's or for Intel's, in software. What rests on it is accepted only by who names
    /// it, is labelled software-test in every output, and vouches for nothing.
    #[command(subcommand)]
    Testroot(TestRootCommand),

    /// Serves secrets to guests that show good evidence, over the KBS protocol of confidential-containers
    ///
    /// A guest gets a challenge, has a report or a quote signed with it and its key in it, and gets a token if that is what
    /// the policy and the reference values want; with it, resources, encrypted to that key. A challenge is good once.
    /// Quotes are judged if there is collateral, which is read again for each of them, so that its files can be exchanged.
    /// /healthz and /metrics say how the service is. Where it listens is said on standard output; SIGTERM ends it.
    #[command(after_long_help = super::help(
        "tenure attest serve --resources secrets --state /var/lib/tenure --policy policy.toml --launch-digest digests.json\n\
         tenure attest serve --resources secrets --state state --id-key $KEY --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem\n\
         tenure attest serve --resources secrets --state state --launch-digest digests.json --test-root ark.der --allow-test-root milan\n\
         tenure attest serve --resources secrets --state state --collateral pcs/ --mrtd $MRTD --rtmr1 $RTMR1 --rtmr2 $RTMR2"
    ))]
    Serve(Deferred<ServeArgs>),

    /// Gets a secret for this guest: shows its evidence to a relying party that speaks the KBS protocol
    ///
    /// The evidence is bound to a key that is made for this request and never leaves it. No answer is waited for longer than
    /// a minute. Exit code 5 says that the relying party refuses, whatever it is that it does not like; 1 that it failed or
    /// was not reached, or that there is no such device for evidence; 2 that the device is there and gives none.
    #[command(after_long_help = super::help(
        "tenure attest request --url https://kbs.example --tls-ca ca.pem --resource default/key/disk --out disk.key\n\
         tenure attest request --channel /dev/hvc1 --resource default/key/disk --evidence test:/dev/hvc2 | cryptsetup open --key-file - /dev/vda disk"
    ))]
    Request(Deferred<RequestArgs>),
}

/// From a prediction to a verdict.
const EXAMPLES: &str = "\
tenure measure snp --firmware OVMF.amdsev.fd --vcpus 4 --json > digests.json
tenure attest policy > policy.toml
tenure attest verify --report report.bin --certificates certificates --policy policy.toml --launch-digest digests.json";

/// Arguments of `tenure attest show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// What is shown.
    #[command(flatten)]
    pub what: What,

    /// The event log of the guest's firmware, beside its quote; - is standard input
    #[arg(long, value_name = "FILE|-", requires = "quote", conflicts_with = "report")]
    pub event_log: Option<Source>,

    /// Prints everything as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure attest policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Checks this file, TOML or JSON, and prints what it comes to; - is standard input
    #[arg(long, value_name = "FILE|-", conflicts_with = "preset")]
    pub policy: Option<Source>,

    /// A policy by name
    #[arg(long, value_enum, value_name = "NAME", default_value_t = PresetName::Strict)]
    pub preset: PresetName,

    /// Of which technology alone: of the other the preset holds then [default: both]
    #[arg(long, value_enum, value_name = "NAME")]
    pub tee: Option<TeeName>,

    /// Prints it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Policies to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PresetName {
    /// What most relying parties need
    Strict,
    /// Also what not every platform can do
    Hardened,
}

/// Technologies that there are policies for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TeeName {
    /// AMD SEV-SNP: reports
    Snp,
    /// Intel TDX: quotes
    Tdx,
}

impl From<PresetName> for Preset {
    fn from(name: PresetName) -> Self {
        match name {
            PresetName::Strict => Self::Strict,
            PresetName::Hardened => Self::Hardened,
        }
    }
}

impl From<PresetName> for Policy {
    fn from(name: PresetName) -> Self {
        Self::preset(name.into())
    }
}

/// What a report says, and that nobody has verified it.
#[derive(Serialize)]
struct ShownReport {
    verified: bool,
    report: Claims,
}

/// What a quote says and what its event log, and that nobody has verified it.
#[derive(Serialize)]
struct ShownQuote {
    verified: bool,
    quote: QuoteClaims,
    event_log: Option<LogClaims>,
}

/// What is said at the end of what was shown.
const UNVERIFIED: &str = "Nothing of this was verified: tenure attest verify does that.";

pub(super) fn attest(command: AttestCommand) -> Result<ExitCode, CliError> {
    match command {
        AttestCommand::Verify(args) => verify::verify(&args),
        AttestCommand::Show(args) => show(&args),
        AttestCommand::Diff(args) => diff::diff(&args),
        AttestCommand::Policy(args) => print_policy(&args),
        AttestCommand::Serve(args) => serve::serve(&args),
        AttestCommand::Request(args) => request::request(&args),
        AttestCommand::Testroot(what) => testroot::testroot(what),
    }
}

fn show(args: &ShowArgs) -> Result<ExitCode, CliError> {
    let sources = [("report", &args.what.report), ("quote", &args.what.quote), ("event-log", &args.event_log)];
    let sources = sources.into_iter().filter_map(|(what, source)| Some((what, source.as_ref()?)));
    one_stdin(sources).map_err(EvidenceError::from)?;
    let text = match (&args.what.report, &args.what.quote) {
        (Some(from), _) => show_report(from, args)?,
        (None, Some(from)) => show_quote(from, args)?,
        (None, None) => unreachable!("one of them is required"),
    };
    print(&text)?;
    Ok(ExitCode::Success)
}

fn show_report(from: &Source, args: &ShowArgs) -> Result<String, CliError> {
    let evidence = Evidence::read(from, None, None)?;
    let report = evidence.report().map_err(|source| EvidenceError::Report { from: from.clone(), source })?;
    let report = Claims::of(&report, None);
    if args.json {
        return json(&ShownReport { verified: false, report });
    }
    Ok(format!("{}\n{UNVERIFIED}\n", report.text()))
}

fn show_quote(from: &Source, args: &ShowArgs) -> Result<String, CliError> {
    let evidence = QuoteEvidence::read(from, CollateralFiles::default(), args.event_log.as_ref());
    let evidence = evidence.map_err(EvidenceError::from)?;
    let malformed = |source| EvidenceError::from(QuoteFileError::Quote { from: from.clone(), source });
    let quote = QuoteClaims::of(&evidence.quote().map_err(malformed)?, None);
    let log = evidence.log().zip(args.event_log.as_ref()).map(|(log, from)| {
        log.map_err(|source| EvidenceError::from(QuoteFileError::EventLog { from: from.clone(), source }))
    });
    let event_log = log.transpose()?.as_ref().map(LogClaims::of);
    if args.json {
        return json(&ShownQuote { verified: false, quote, event_log });
    }
    let log = event_log.map(|log| format!("\n{}", log.text())).unwrap_or_default();
    Ok(format!("{}{log}\n{UNVERIFIED}\n", quote.text()))
}

fn print_policy(args: &PolicyArgs) -> Result<ExitCode, CliError> {
    let preset = args.preset.into();
    let (preset, reports, quotes) = match &args.policy {
        Some(file) => policy::read_all(file).map_err(EvidenceError::from)?,
        None => (preset, Policy::preset(preset), tdx::Policy::preset(preset)),
    };
    let text = match args.tee {
        None => written(&PolicyFile::of(preset, &reports).and_quotes(&quotes), args)?,
        Some(TeeName::Snp) => written(&PolicyFile::of(preset, &reports), args)?,
        Some(TeeName::Tdx) => written(&TdxOnly::of(preset, &quotes), args)?,
    };
    print(&text)?;
    Ok(ExitCode::Success)
}

fn written(file: &impl Serialize, args: &PolicyArgs) -> Result<String, CliError> {
    if args.json {
        json(file)
    } else {
        toml::to_string(file).map_err(|error| CliError::Output(io::Error::other(error)))
    }
}

fn chosen(file: Option<&Source>, preset: PresetName) -> Result<Policy, EvidenceError> {
    Ok(match file {
        Some(file) => policy::read(file)?,
        None => preset.into(),
    })
}

fn json(what: &impl Serialize) -> Result<String, CliError> {
    Ok(serde_json::to_string_pretty(what).map_err(|error| CliError::Output(error.into()))? + "\n")
}

fn print(text: &str) -> Result<(), CliError> {
    io::stdout().write_all(text.as_bytes()).map_err(CliError::Output)
}
