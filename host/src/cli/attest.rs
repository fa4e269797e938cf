//! `tenure attest`: what a guest's report is worth, and to whom.

use std::io::{self, Write as _};

use attest::snp::{Policy, Preset};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::CliError;
use crate::evidence::claims::Claims;
use crate::evidence::policy::{self, PolicyFile};
use crate::evidence::{Evidence, EvidenceError};
use crate::exit::ExitCode;
use crate::idblock::Source;

mod request;
mod serve;
mod verify;

pub use request::{EvidenceFrom, RequestArgs, RequestError};
pub use serve::{ServeArgs, ServeError};
pub use verify::{Chip, ProductName, VerifyArgs};

/// What can be done with evidence.
#[derive(Debug, Subcommand)]
#[command(after_long_help = super::help(EXAMPLES))]
pub enum AttestCommand {
    /// Verifies an attestation report, and compares it with a policy and with what is expected of the guest
    ///
    /// First whether the report is genuine: signed by a key that certificates lead from to one of AMD's roots, which are
    /// part of this program, at this moment. Then whether it is of a guest and a platform as the policy wants them, and of
    /// the guest that is expected. Every check is listed, those that nobody asked for too; the last line is the verdict.
    /// Nothing is fetched: certificates are a file.
    ///
    /// Without a policy the preset strict holds: no debugging, no migration, VMPL 0, no provisional firmware, Genoa or
    /// Turin, and something that says which guest it must be. tenure attest policy prints it.
    #[command(after_long_help = super::help(
        "tenure attest verify --report report.bin --certificates certificates --launch-digest digests.json --report-data $DATA\n\
         tenure attest verify --report report.bin --certificates certificates --crl crl.der --policy policy.toml --id-key $KEY --json\n\
         tenure attest verify --report report.bin --certificates certificates --test-root ark.der --allow-test-root milan"
    ))]
    Verify(Box<VerifyArgs>),

    /// Shows what a report says, whoever wrote it: nothing is verified
    #[command(after_long_help = super::help(
        "tenure attest show --report report.bin\ntenure attest show --report report.bin --json | jq -r .report.launch_digest"
    ))]
    Show(ShowArgs),

    /// Prints a policy in full: a preset, or what a file comes to
    ///
    /// What is printed is a policy's file. A file may name a preset, whose values hold where it says nothing; keys that are
    /// unknown are errors.
    #[command(after_long_help = super::help(
        "tenure attest policy > policy.toml\ntenure attest policy --preset hardened\ntenure attest policy --policy policy.toml --json"
    ))]
    Policy(PolicyArgs),

    /// Serves secrets to guests that show good evidence, over the KBS protocol of confidential-containers
    ///
    /// A guest gets a challenge, has a report signed with it and its key in it, and gets a token if the report is what
    /// the policy and the reference values want; with it, resources, encrypted to that key. A challenge is good once.
    /// /healthz and /metrics say how the service is. Where it listens is said on standard output; SIGTERM ends it.
    #[command(after_long_help = super::help(
        "tenure attest serve --resources secrets --state /var/lib/tenure --policy policy.toml --launch-digest digests.json\n\
         tenure attest serve --resources secrets --state state --id-key $KEY --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem\n\
         tenure attest serve --resources secrets --state state --launch-digest digests.json --test-root ark.der --allow-test-root milan"
    ))]
    Serve(Box<ServeArgs>),

    /// Gets a secret for this guest: shows its evidence to a relying party that speaks the KBS protocol
    ///
    /// The evidence is bound to a key that is made for this request and never leaves it. Exit code 5 says that the
    /// relying party refuses.
    #[command(after_long_help = super::help(
        "tenure attest request --url https://kbs.example --tls-ca ca.pem --resource default/key/disk --out disk.key\n\
         tenure attest request --channel /dev/hvc1 --resource default/key/disk --evidence test:/dev/hvc2 | cryptsetup open --key-file - /dev/vda disk"
    ))]
    Request(Box<RequestArgs>),
}

/// From a prediction to a verdict.
const EXAMPLES: &str = "\
tenure measure snp --firmware OVMF.amdsev.fd --vcpus 4 --json > digests.json
tenure attest policy > policy.toml
tenure attest verify --report report.bin --certificates certificates --policy policy.toml --launch-digest digests.json";

/// Arguments of `tenure attest show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The report, as the firmware wrote it; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub report: Source,

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

impl From<PresetName> for Policy {
    fn from(name: PresetName) -> Self {
        Self::preset(match name {
            PresetName::Strict => Preset::Strict,
            PresetName::Hardened => Preset::Hardened,
        })
    }
}

/// What a report says, and that nobody has verified it.
#[derive(Serialize)]
struct Shown {
    verified: bool,
    report: Claims,
}

pub(super) fn attest(command: AttestCommand) -> Result<ExitCode, CliError> {
    match command {
        AttestCommand::Verify(args) => verify::verify(&args),
        AttestCommand::Show(args) => show(&args),
        AttestCommand::Policy(args) => print_policy(&args),
        AttestCommand::Serve(args) => serve::serve(&args),
        AttestCommand::Request(args) => request::request(&args),
    }
}

fn show(args: &ShowArgs) -> Result<ExitCode, CliError> {
    let evidence = Evidence::read(&args.report, None, None)?;
    let report = evidence.report().map_err(|source| EvidenceError::Report { from: args.report.clone(), source })?;
    let claims = Claims::of(&report, None);
    let text = if args.json {
        json(&Shown { verified: false, report: claims })?
    } else {
        format!("{}\nNothing of this was verified: tenure attest verify does that.\n", claims.text())
    };
    print(&text)?;
    Ok(ExitCode::Success)
}

fn print_policy(args: &PolicyArgs) -> Result<ExitCode, CliError> {
    let file = PolicyFile::from(&chosen(args.policy.as_ref(), args.preset)?);
    let text = if args.json {
        json(&file)?
    } else {
        toml::to_string(&file).map_err(|error| CliError::Output(io::Error::other(error)))?
    };
    print(&text)?;
    Ok(ExitCode::Success)
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
