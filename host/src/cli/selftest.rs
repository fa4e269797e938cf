//! `tenure selftest`: guests on this host, what they show, and a bundle of it to send.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use gmem_kvm::kvm::KvmKernel;
use gmem_kvm::probe::DEV_KVM;
use serde::Serialize;

use super::CliError;
use crate::audit::seen::Moment;
use crate::check::facts::Facts;
use crate::check::{CheckReport, report};
use crate::config::values::{MemorySize, VcpuCount};
use crate::config::{LogLevel, Settings, Tee};
use crate::exit::ExitCode;
use crate::output::Output;
use crate::paint::Paint;
use crate::progress::Progress;
use crate::selftest::bundle::{Bundle, Identity};
use crate::selftest::results::Results;
use crate::selftest::{
    self, Bed, DEFAULT_LAUNCHES, DEFAULT_MEMORY, DEFAULT_TIME_LIMIT, DEFAULT_VCPUS, Kept, Plan, Surroundings, Verifier,
    kernel_log,
};
use crate::stop::StopSignal;

/// Arguments of `tenure selftest`.
#[derive(Debug, Args)]
pub struct SelfTestArgs {
    /// What is tested
    #[arg(long, value_enum, value_name = "TEE", default_value_t = SelfTestTee::Auto)]
    pub tee: SelfTestTee,

    /// Packs results, logs, versions and evidence into this file, for somebody else to read
    ///
    /// What names this machine or its user is taken out. Look at what is in it before you send it: tar -tvf FILE.
    #[arg(long, value_name = "FILE.tar.zst")]
    pub bundle: Option<PathBuf>,

    /// Leaves the chip's identifier in the bundle's attestation reports, and adds its certificates, so that others can
    /// verify them
    #[arg(long, requires = "bundle")]
    pub keep_identity: bool,

    /// RAM of each guest, from 16M [default: 256M]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<MemorySize>,

    /// vCPUs of the guest that has several [default: 4, or what the host allows]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub vcpus: Option<VcpuCount>,

    /// How often a guest is launched in turn; more than the host has ASIDs shows that they come back
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_LAUNCHES)]
    pub launches: u32,

    /// Certificates of this chip, for reports of SNP guests: the table of an extended guest request, as for `tenure run`
    #[arg(long, value_name = "FILE")]
    pub snp_certificates: Option<PathBuf>,

    /// Prints everything that was found as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,

    /// How much is logged on standard error
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Warn)]
    pub log: LogLevel,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Found<'a> {
    /// What the host can do.
    host: &'a CheckReport,
    /// None if it cannot run guests of the kind that was asked for.
    results: Option<&'a Results>,
}

/// What can be tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SelfTestTee {
    /// The strongest of the others that this host can do
    Auto,
    /// AMD SEV-SNP
    Snp,
    /// Test mode: private to the guest by attribute, neither encrypted nor attested
    Sw,
}

impl SelfTestTee {
    /// Whether or not a guest could boot: the self-test says how far it comes.
    fn on(self, host: &CheckReport) -> Tee {
        match self {
            Self::Snp => Tee::Snp,
            Self::Sw => Tee::Sw,
            Self::Auto if !host.tees.snp.host_ready && host.tees.sw.usable => Tee::Sw,
            Self::Auto => Tee::Snp,
        }
    }
}

pub(super) fn selftest(args: &SelfTestArgs) -> Result<ExitCode, CliError> {
    super::log::start(args.log);
    let output = args.bundle.clone().map(Output::File);
    if let (Some(output), Some(certificates)) = (&output, &args.snp_certificates) {
        output.spares([("snp-certificates", certificates.as_path())]).map_err(CliError::Bundle)?;
    }
    output.as_ref().map_or(Ok(()), Output::has_a_place).map_err(CliError::Bundle)?;
    let verifier = Verifier::for_hardware(args.snp_certificates.as_deref())?;
    let facts = Facts::gather(Path::new("/"));
    let host = report(&facts);
    let found = match host.launches(args.tee.on(&host)) {
        Ok(choice) => {
            let run = run(args, &host, choice.tee, &verifier)?;
            choice.warnings.iter().for_each(|warning| super::say(&format!("warning: {warning}")));
            Ok(run)
        }
        Err(cannot) => Err(cannot),
    };
    let results = found.as_ref().ok().map(|(results, _)| results);
    print(args, &host, results)?;
    if let (Some(output), Some(path)) = (&output, &args.bundle) {
        let mut bundle = Bundle::new(if args.keep_identity { Identity::Kept } else { Identity::Removed });
        let log = kernel_log::read(Path::new("/dev/kmsg"));
        bundle.add_host(&host, &facts.modules, &log).map_err(json)?;
        if let Ok((results, kept)) = &found {
            bundle.add_results(results, kept).map_err(json)?;
        }
        if let Some(certificates) = verifier.table() {
            bundle.add_certificates(certificates);
        }
        let packed = bundle.pack(Moment::now()).map_err(CliError::Output)?;
        output.write_binary(&packed).map_err(CliError::Bundle)?;
        let (files, path) = (bundle.files().count(), path.display());
        super::say(&format!("`{path}` has {files} files; look at them before you send it: tar -tvf {path}"));
    }
    match found {
        Ok((results, _)) => Ok(results.exit_code()),
        Err(cannot) => Err(cannot.into()),
    }
}

fn json(error: serde_json::Error) -> CliError {
    CliError::Output(error.into())
}

/// Runs guests.
fn run(
    args: &SelfTestArgs,
    host: &CheckReport,
    tee: Tee,
    verifier: &Verifier,
) -> Result<(Results, Vec<Kept>), CliError> {
    let vcpus = match args.vcpus {
        Some(vcpus) => vcpus,
        None => i64::from(DEFAULT_VCPUS.min(host.kvm.max_vcpus).max(1)).try_into()?,
    };
    host.allows_vcpus(vcpus.get())?;
    let memory = Some(args.memory.map_or(MemorySize::new(DEFAULT_MEMORY), Ok)?);
    let settings = Settings { tee: Some(tee), memory, vcpus: Some(vcpus), ..Settings::default() };
    let stop = StopSignal::new().map_err(CliError::Signals)?;
    stop.catch_signals().map_err(CliError::Signals)?;
    let kernel = KvmKernel::open(Path::new(DEV_KVM)).map_err(CliError::Kernel)?;
    let progress = Progress::on_stderr().start("testing");
    let bed = Bed {
        kernel: &kernel,
        look: &|| Surroundings::gather(Path::new("/")),
        random: &random,
        verifier,
        progress: &|what| progress.say(what),
        stop: &stop,
    };
    let found = selftest::run(&bed, &Plan { settings, launches: args.launches, time_limit: DEFAULT_TIME_LIMIT });
    progress.finish();
    Ok(found?)
}

fn random() -> io::Result<[u8; 48]> {
    let mut bytes = [0; 48];
    // Bytes of this length are had at once, or not at all.
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got == bytes.len() { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn print(args: &SelfTestArgs, host: &CheckReport, results: Option<&Results>) -> Result<(), CliError> {
    let text = match (args.json, results) {
        (true, results) => serde_json::to_string_pretty(&Found { host, results }).map_err(json)?,
        (false, Some(results)) => results.text(Paint::on_stdout()),
        // What is missing, and what helps.
        (false, None) => host.to_string(),
    };
    writeln!(io::stdout(), "{text}").map_err(CliError::Output)
}
