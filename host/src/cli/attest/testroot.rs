//! `tenure attest testroot`: a root of trust for tests, and reports or quotes below it.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use snp::digest::Digest;
use snp::hex;
use snp::policy::GuestPolicy;
use test_root::model::Model;
use test_root::report::Vmpl;
use test_root::tdx::{Statement as TdStatement, TdxRoot, Version};
use test_root::{AnyRoot, Statement, TestRoot};

use super::{ProductName, TeeName, json, print};
use crate::cli::measure::VCPUS_MAX;
use crate::cli::{CliError, Deferred};
use crate::evidence::EvidenceError;
use crate::evidence::tdx::QuoteFileError;
use crate::exit::ExitCode;
use crate::idblock::{DigestSource, IdBlockError, Source};
use crate::output::Output;
use crate::progress::Progress;
use crate::testroot::tdx::{SignedQuote, TdxRootReport};
use crate::testroot::{RootReport, Signed};

/// What can be done with a test root.
#[derive(Debug, Subcommand)]
#[command(after_long_help = crate::cli::help(EXAMPLES))]
pub enum TestRootCommand {
    /// Makes a test root: keys, certificates and a chip, in a directory of its own
    ///
    /// The directory must not be there yet; nothing is written over. Files named .key are private: whoever reads them signs
    /// as this root. ark.der, or of TDX root.der, is what a relying party needs to name to accept what rests on it.
    ///
    /// For SNP three RSA keys of 4096 bits are made of the system's random numbers, which takes some seconds, sometimes a
    /// minute; certificates goes with every report. For TDX it takes no time; the directory collateral has what Intel would
    /// publish about the platform, good for as long as the root.
    #[command(after_long_help = crate::cli::help(
        "tenure attest testroot init root\ntenure attest testroot init root --product turin --json | jq -r .fingerprint\n\
         tenure attest testroot init root --tee tdx"
    ))]
    Init(Deferred<InitArgs>),

    /// Checks a test root, and shows it
    ///
    /// Private files must be private, certificates and what is published must be what these keys make, byte for byte, and
    /// hold today.
    #[command(after_long_help = crate::cli::help(
        "tenure attest testroot show root\ntenure attest testroot show root --json | jq -r .not_after"
    ))]
    Show(Deferred<ShowArgs>),

    /// Signs a report about a guest that has this launch digest, or a quote about one with this MRTD, whether there is such
    /// a guest or not
    ///
    /// It is a report byte for byte as AMD's firmware writes it, by a chip of software, or a quote as Intel's quoting enclave
    /// does. The same arguments give the same bytes.
    #[command(after_long_help = crate::cli::help(
        "tenure attest testroot sign root --mrtd $MRTD --rtmr1 $RTMR1 --rtmr2 $RTMR2 --report-data $DATA --out quote.bin\n\
         tenure attest testroot sign root --launch-digest digests.json --vcpus 2 --report-data $DATA --out report.bin\n\
         tenure attest testroot sign root --launch-digest $DIGEST --report-data $DATA --policy smt,abi=1.55 -o - | sha256sum"
    ))]
    Sign(Deferred<SignArgs>),
}

/// From nothing to a verdict.
const EXAMPLES: &str = "\
tenure attest testroot init root
tenure attest testroot sign root --launch-digest digests.json --report-data $DATA --out report.bin
tenure attest verify --report report.bin --certificates root/certificates \\
    --test-root root/ark.der --allow-test-root genoa --launch-digest digests.json --report-data $DATA";

/// Arguments of `tenure attest testroot init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The directory to make
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// The technology whose evidence it signs
    #[arg(long, value_enum, value_name = "NAME", default_value_t = TeeName::Snp)]
    pub tee: TeeName,

    /// The product whose root it stands in for; of SNP only [default: genoa]
    #[arg(long, value_enum, value_name = "PRODUCT")]
    pub product: Option<ProductName>,

    /// Prints everything as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure attest testroot show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The test root
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Prints everything as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure attest testroot sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The test root
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Which guest.
    #[command(flatten)]
    pub guest: GuestArgs,

    /// What the guest wants to have signed (REPORT_DATA): 128 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = hex::parse::<64>)]
    pub report_data: [u8; 64],

    /// Where the report or quote goes, a file that must not be there yet; - is standard output
    #[arg(short, long, value_name = "FILE|-")]
    pub out: Output,

    /// Shows it as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,

    /// What only reports have.
    #[command(flatten, next_help_heading = "Reports (SNP)")]
    pub of_report: ReportSigned,

    /// What only quotes have.
    #[command(flatten, next_help_heading = "Quotes (TDX)")]
    pub of_quote: QuoteSigned,
}

/// Which guest it is.
#[derive(Debug, Args)]
#[group(id = "guest", required = true, multiple = false)]
pub struct GuestArgs {
    /// The launch digest, for a report: 96 hexadecimal digits, or a file or standard input (-) with what tenure measure snp
    /// printed, with --json or without; a file's name has a . or / in it
    #[arg(long, value_name = "HEX|FILE|-")]
    pub launch_digest: Option<DigestSource>,

    /// MRTD, for a quote: 96 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    pub mrtd: Option<Digest>,
}

/// What else a report says.
#[derive(Debug, Args)]
#[group(id = "of-report", conflicts_with = "mrtd")]
pub struct ReportSigned {
    /// Of launch digests for several numbers of vCPUs, takes that for so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=VCPUS_MAX))]
    pub vcpus: Option<u32>,

    /// What the host said at launch (HOST_DATA): 64 hexadecimal digits [default: zeros]
    #[arg(long, value_name = "HEX", value_parser = hex::parse::<32>)]
    pub host_data: Option<[u8; 32]>,

    /// The guest's policy, as in tenure idblock create
    #[arg(long, value_name = "POLICY", default_value_t)]
    pub policy: GuestPolicy,

    /// The privilege level that asks
    #[arg(long, value_name = "0-3", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=3))]
    pub vmpl: u32,
}

/// What else a quote says.
#[derive(Debug, Args)]
#[group(id = "of-quote", conflicts_with = "launch_digest")]
pub struct QuoteSigned {
    /// RTMR0: 96 hexadecimal digits [default: zeros, as of all of these]
    #[arg(long, value_name = "HEX")]
    pub rtmr0: Option<Digest>,

    /// RTMR1 likewise
    #[arg(long, value_name = "HEX")]
    pub rtmr1: Option<Digest>,

    /// RTMR2 likewise
    #[arg(long, value_name = "HEX")]
    pub rtmr2: Option<Digest>,

    /// RTMR3 likewise
    #[arg(long, value_name = "HEX")]
    pub rtmr3: Option<Digest>,

    /// What the host said of the configuration at launch (MRCONFIGID)
    #[arg(long, value_name = "HEX")]
    pub mrconfigid: Option<Digest>,

    /// Whose the guest is, as the host said at launch (MROWNER)
    #[arg(long, value_name = "HEX")]
    pub mrowner: Option<Digest>,

    /// What the owner configured, as the host said at launch (MROWNERCONFIG)
    #[arg(long, value_name = "HEX")]
    pub mrownerconfig: Option<Digest>,

    /// TDATTRIBUTES: 16 hexadecimal digits, the highest first [default: SEPT_VE_DISABLE alone]
    #[arg(long, value_name = "HEX", value_parser = hex::parse::<8>)]
    pub attributes: Option<[u8; 8]>,

    /// XFAM: 16 hexadecimal digits, the highest first [default: x87, SSE, AVX and AVX-512]
    #[arg(long, value_name = "HEX", value_parser = hex::parse::<8>)]
    pub xfam: Option<[u8; 8]>,

    /// The quote's version: 4 of TDX 1.0, 5 of TDX 1.5 [default: 4]
    #[arg(long, value_name = "4-5", value_parser = clap::value_parser!(u32).range(4..=5))]
    pub quote_version: Option<u32>,
}

impl From<ProductName> for Model {
    fn from(name: ProductName) -> Self {
        match name {
            ProductName::Milan => Self::Milan,
            ProductName::Genoa => Self::Genoa,
            ProductName::Turin => Self::Turin,
        }
    }
}

pub(super) fn testroot(command: TestRootCommand) -> Result<ExitCode, CliError> {
    match command {
        TestRootCommand::Init(args) => init(&args),
        TestRootCommand::Show(args) => {
            let root = AnyRoot::load(&args.dir)?;
            show(&root, &args.dir, None, args.json)
        }
        TestRootCommand::Sign(args) => sign(&args),
    }
}

fn init(args: &InitArgs) -> Result<ExitCode, CliError> {
    let begun = Instant::now();
    let root = match (args.tee, args.product) {
        (TeeName::Tdx, Some(_)) => return Err(EvidenceError::NoProduct.into()),
        (TeeName::Tdx, None) => AnyRoot::Tdx(Box::new(TdxRoot::init(&args.dir)?)),
        (TeeName::Snp, product) => {
            let step = Progress::on_stderr().start("making the first of 3 RSA keys of 4096 bits");
            let root = TestRoot::init(&args.dir, product.unwrap_or(ProductName::Genoa).into(), |made| {
                step.say(&format!("making RSA keys of 4096 bits: {} of {} are made", made.keys, made.of));
            })?;
            step.finish();
            AnyRoot::Snp(Box::new(root))
        }
    };
    show(&root, &args.dir, Some(begun.elapsed()), args.json)
}

fn show(root: &AnyRoot, dir: &Path, took: Option<Duration>, as_json: bool) -> Result<ExitCode, CliError> {
    print(&match root {
        AnyRoot::Snp(root) => {
            let report = RootReport::of(root, dir, took);
            if as_json { json(&report)? } else { report.text() }
        }
        AnyRoot::Tdx(root) => {
            let report = TdxRootReport::of(root, dir, took);
            if as_json { json(&report)? } else { report.text() }
        }
    })?;
    Ok(ExitCode::Success)
}

fn sign(args: &SignArgs) -> Result<ExitCode, CliError> {
    let to_stdout = args.out == Output::Stdout;
    if to_stdout && io::stdout().is_terminal() {
        return Err(CliError::Output(io::Error::other("it is a terminal, and this is binary; give --out a file")));
    }
    if to_stdout && args.json {
        return Err(IdBlockError::OneOutput.into());
    }
    let GuestArgs { launch_digest, mrtd } = &args.guest;
    let input = launch_digest.as_ref().and_then(DigestSource::source).and_then(Source::path);
    args.out.spares(input.map(|path| ("launch-digest", path))).map_err(IdBlockError::from)?;
    args.out.is_new().map_err(IdBlockError::from)?;
    let (bytes, signed) = match (launch_digest, mrtd) {
        (Some(digest), _) => sign_report(digest, args)?,
        (None, Some(mrtd)) => sign_quote(mrtd, args)?,
        (None, None) => unreachable!("one of them is required"),
    };
    args.out.write_binary(&bytes).map_err(IdBlockError::from)?;
    if !to_stdout {
        print(&signed)?;
    }
    Ok(ExitCode::Success)
}

/// A report, and what is to be said of it.
fn sign_report(digest: &DigestSource, args: &SignArgs) -> Result<(Vec<u8>, String), CliError> {
    let ReportSigned { vcpus, host_data, policy, vmpl } = &args.of_report;
    let digest = digest.read(*vcpus)?;
    let report = TestRoot::load(&args.dir)?.sign(&Statement {
        report_data: args.report_data,
        host_data: host_data.unwrap_or_default(),
        policy: policy.to_raw(),
        vmpl: Vmpl::from_number(*vmpl).unwrap_or_default(),
        ..Statement::new(digest.0)
    });
    let from = Source::File(args.dir.clone());
    let signed = Signed::of(&report).map_err(|source| EvidenceError::Report { from, source })?;
    let said = if args.json { json(&signed)? } else { signed.text() };
    Ok((report, said))
}

/// A quote likewise.
fn sign_quote(mrtd: &Digest, args: &SignArgs) -> Result<(Vec<u8>, String), CliError> {
    let of = &args.of_quote;
    let digest = |given: &Option<Digest>| given.as_ref().map_or([0; 48], |digest| digest.0);
    let usual = TdStatement::new(mrtd.0);
    let quote = TdxRoot::load(&args.dir)?.sign(&TdStatement {
        version: if of.quote_version == Some(5) { Version::V5 } else { Version::V4 },
        rtmrs: [&of.rtmr0, &of.rtmr1, &of.rtmr2, &of.rtmr3].map(digest),
        report_data: args.report_data,
        mr_config_id: digest(&of.mrconfigid),
        mr_owner: digest(&of.mrowner),
        mr_owner_config: digest(&of.mrownerconfig),
        attributes: of.attributes.map_or(usual.attributes, u64::from_be_bytes),
        xfam: of.xfam.map_or(usual.xfam, u64::from_be_bytes),
        ..usual
    });
    let from = Source::File(args.dir.clone());
    let malformed = |source| EvidenceError::from(QuoteFileError::Quote { from, source });
    let signed = SignedQuote::of(&quote).map_err(malformed)?;
    let said = if args.json { json(&signed)? } else { signed.text() };
    Ok((quote, said))
}
