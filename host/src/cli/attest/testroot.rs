//! `tenure attest testroot`: a root of trust for tests, and reports below it.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use snp::hex;
use snp::policy::GuestPolicy;
use test_root::model::Model;
use test_root::report::Vmpl;
use test_root::{Statement, TestRoot};

use super::{ProductName, json, print};
use crate::cli::CliError;
use crate::cli::measure::VCPUS_MAX;
use crate::evidence::EvidenceError;
use crate::exit::ExitCode;
use crate::idblock::{DigestSource, IdBlockError, Source};
use crate::output::Output;
use crate::progress::Progress;
use crate::testroot::{RootReport, Signed};

/// What can be done with a test root.
#[derive(Debug, Subcommand)]
#[command(after_long_help = crate::cli::help(EXAMPLES))]
pub enum TestRootCommand {
    /// Makes a test root: keys, certificates and a chip, in a directory of its own
    ///
    /// Three RSA keys of 4096 bits are made of the system's random numbers, which takes some seconds, sometimes a minute.
    /// The directory must not be there yet; nothing is written over. Files named .key are private: whoever reads them signs
    /// as this root. ark.der is what a relying party needs to name to accept what rests on it, certificates goes with every
    /// report.
    #[command(after_long_help = crate::cli::help(
        "tenure attest testroot init root\ntenure attest testroot init root --product turin --json | jq -r .fingerprint"
    ))]
    Init(InitArgs),

    /// Checks a test root, and shows it
    ///
    /// Private files must be private, certificates must be what these keys make, byte for byte, and hold today.
    #[command(after_long_help = crate::cli::help(
        "tenure attest testroot show root\ntenure attest testroot show root --json | jq -r .not_after"
    ))]
    Show(ShowArgs),

    /// Signs a report about a guest that has this launch digest, whether there is such a guest or not
    ///
    /// It is a report byte for byte as AMD's firmware writes it, by a chip of software. The same arguments give the same
    /// report.
    #[command(after_long_help = crate::cli::help(
        "tenure attest testroot sign root --launch-digest digests.json --vcpus 2 --report-data $DATA --out report.bin\n\
         tenure attest testroot sign root --launch-digest $DIGEST --report-data $DATA --policy smt,abi=1.55 -o - | sha256sum"
    ))]
    Sign(Box<SignArgs>),
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

    /// The product whose root it stands in for
    #[arg(long, value_enum, value_name = "PRODUCT", default_value_t = ProductName::Genoa)]
    pub product: ProductName,

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

    /// The launch digest: 96 hexadecimal digits, or a file or standard input (-) with what tenure measure snp printed, with
    /// --json or without; a file's name has a . or / in it
    #[arg(long, value_name = "HEX|FILE|-")]
    pub launch_digest: DigestSource,

    /// Of launch digests for several numbers of vCPUs, takes that for so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=VCPUS_MAX))]
    pub vcpus: Option<u32>,

    /// What the guest wants to have signed (REPORT_DATA): 128 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = hex::parse::<64>)]
    pub report_data: [u8; 64],

    /// What the host said at launch (HOST_DATA): 64 hexadecimal digits [default: zeros]
    #[arg(long, value_name = "HEX", value_parser = hex::parse::<32>)]
    pub host_data: Option<[u8; 32]>,

    /// The guest's policy, as in tenure idblock create
    #[arg(long, value_name = "POLICY", default_value_t)]
    pub policy: GuestPolicy,

    /// The privilege level that asks
    #[arg(long, value_name = "0-3", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=3))]
    pub vmpl: u32,

    /// Where the report goes; - is standard output
    #[arg(short, long, value_name = "FILE|-")]
    pub out: Output,

    /// Shows the report as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
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
            let root = TestRoot::load(&args.dir)?;
            show(&RootReport::of(&root, &args.dir, None), args.json)
        }
        TestRootCommand::Sign(args) => sign(&args),
    }
}

fn init(args: &InitArgs) -> Result<ExitCode, CliError> {
    let begun = Instant::now();
    let step = Progress::on_stderr().start("making the first of 3 RSA keys of 4096 bits");
    let root = TestRoot::init(&args.dir, args.product.into(), |made| {
        step.say(&format!("making RSA keys of 4096 bits: {} of {} are made", made.keys, made.of));
    })?;
    step.finish();
    show(&RootReport::of(&root, &args.dir, Some(begun.elapsed())), args.json)
}

fn show(report: &RootReport, as_json: bool) -> Result<ExitCode, CliError> {
    print(&if as_json { json(report)? } else { report.text() })?;
    Ok(ExitCode::Success)
}

fn sign(args: &SignArgs) -> Result<ExitCode, CliError> {
    let to_stdout = args.out == Output::Stdout;
    if to_stdout && io::stdout().is_terminal() {
        return Err(CliError::Output(io::Error::other("it is a terminal, and a report is binary; give --out a file")));
    }
    if to_stdout && args.json {
        return Err(IdBlockError::OneOutput.into());
    }
    let input = args.launch_digest.source().and_then(Source::path).map(|path| ("launch-digest", path));
    args.out.spares(input).map_err(IdBlockError::from)?;
    let digest = args.launch_digest.read(args.vcpus)?;
    let root = TestRoot::load(&args.dir)?;
    let report = root.sign(&Statement {
        report_data: args.report_data,
        host_data: args.host_data.unwrap_or_default(),
        policy: args.policy.to_raw(),
        vmpl: Vmpl::from_number(args.vmpl).unwrap_or_default(),
        ..Statement::new(digest.0)
    });
    args.out.write_binary(&report).map_err(IdBlockError::from)?;
    if !to_stdout {
        let from = Source::File(args.dir.clone());
        let signed = Signed::of(&report).map_err(|source| EvidenceError::Report { from, source })?;
        print(&if args.json { json(&signed)? } else { signed.text() })?;
    }
    Ok(ExitCode::Success)
}
