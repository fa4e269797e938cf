//! The command line.
//!
//! Owns the commands of `tenure`, their help, and what each does with the library. Not owned: the settings of a run,
//! which are `config`'s.

pub mod attest;
mod audit;
mod deferred;
pub mod endpoint;
pub mod idblock;
mod log;
pub mod measure;
mod prove;
pub mod run;
pub mod selftest;
pub mod terminal;

use crate::audit::AuditError;
use crate::check::facts::Facts;
use crate::check::{self, NotCapable};
use crate::config::inputs::InputError;
use crate::config::values::ValueError;
use crate::config::{ConfigError, Settings, Summary};
use crate::events::EventLogError;
use crate::evidence::EvidenceError;
use crate::exit::{self, ExitCode};
use crate::idblock::IdBlockError;
use crate::measure::MeasureError;
use crate::output::OutputError;
use crate::prove::ProofError;
use crate::relay::RelayError;
use crate::report::{GuestOutcome, RunReport};
use crate::run::RunError;
use crate::selftest::{EndorsementError, SelfTestError};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::aot::{self, Shell};
pub use deferred::Deferred;
use endpoint::EndpointError;
use gmem_kvm::port::CallError;
use std::io::{self, Write};
use std::panic::{self, UnwindSafe};
use std::path::{Path, PathBuf};
use test_root::TestRootError;

/// A virtual machine monitor for confidential VMs on Linux/KVM
///
/// A page's tenure ends before its key's: memory that is private to a guest belongs to that guest from the moment it
/// exists, and no page outlives what encrypts it.
#[derive(Debug, Parser)]
#[command(name = "tenure", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_long_help = exit::help_table())]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `tenure` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Says what this host can do and, for everything it cannot, why and what helps
    ///
    /// Looks only: nothing is loaded, created or changed. The host is capable if at least one of snp, tdx and sw can be
    /// used; none, which keeps nothing private, does not count.
    #[command(after_long_help = help("tenure check\ntenure check --json | jq .tees.sw"))]
    Check(Deferred<CheckArgs>),

    /// Runs a guest with private memory until it ends
    ///
    /// The guest's serial console is on standard output and standard input, everything else on standard error. When
    /// standard input is a terminal, Ctrl-A x ends the guest. SIGINT, SIGTERM and SIGHUP end it in an orderly way.
    #[command(after_long_help = help(
        "tenure run\n\
         tenure run --kernel bzImage --initrd initrd.img --memory 2G --vcpus 2 --summary\n\
         tenure run --tee sw --guise sev --kernel /boot/vmlinuz --virtio-console unix:console.sock\n\
         tenure run --config guest.toml --memory 4G --events events.jsonl"
    ))]
    Run(Deferred<RunArgs>),

    /// Shows what another process sees of a running guest's memory
    ///
    /// Looks through /proc/PID/maps and /proc/PID/mem, which needs the right to trace that process. No private page may
    /// be mapped there, and the shared alias of RAM may hold nothing but what the guest has shared.
    #[command(after_long_help = help("tenure prove --pid $(pidof tenure)\ntenure prove --pid 1234 --overwrite --json"))]
    Prove(Deferred<ProveArgs>),

    /// Finds what on this host pins private memory, and whom to ask about it
    ///
    /// Looks at every process and at the kernel's own list of VMs, without stopping or changing anything. A finding is a
    /// guest_memfd that is held though no vCPU of its VM runs, a VM that outlived its creator, what a process inherited of
    /// another's guest, a process with memory of several VMs, or a descriptor that would be inherited. Running guests are
    /// listed; they are no finding. Root sees everything; others see their own processes, and are told so.
    #[command(after_long_help = help("tenure audit\ntenure audit --json | jq '.findings[] | {id, confidence, ask}'"))]
    Audit(Deferred<AuditArgs>),

    /// Tests this host with guests of its own, and packs what was seen for somebody else
    ///
    /// Guests are launched with and without an ID block, with one that must be refused, in turn, and with conversions that
    /// the host carries out; ASIDs and memory must come back. What the guest itself cannot do yet is said to be not run. On
    /// a host that cannot, it says what is missing.
    #[command(after_long_help = help(
        "tenure selftest\n\
         tenure selftest --tee snp --bundle OUT.tar.zst\n\
         tenure selftest --tee snp --launches 600 --json | jq .results.totals"
    ))]
    Selftest(Deferred<selftest::SelfTestArgs>),

    /// Predicts what a launch will be measured as
    ///
    /// Needs no host that could launch it: the firmware and the kernel are files, and the rest is said on the command line.
    #[command(subcommand)]
    Measure(measure::Measure),

    /// Makes, signs and shows ID blocks: what the owner of an SNP guest signs of its launch
    ///
    /// An ID block says which launch digest and which policy a guest has. Its authentication is the owner's signature. A
    /// launch that is given both succeeds only with that digest and that policy, and the digests of the owner's keys are
    /// in every attestation report of the guest. A host may still launch anything without them: its reports then show no
    /// such keys.
    #[command(subcommand)]
    Idblock(idblock::IdBlockCommand),

    /// Verifies what a guest's hardware signed of it, and compares that with what is wanted
    #[command(subcommand)]
    Attest(attest::AttestCommand),

    /// Prints completions for a shell
    #[command(after_long_help = help("tenure completions bash > /etc/bash_completion.d/tenure"))]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: CompletionShell,
    },
}

/// Shells we print completions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompletionShell {
    /// GNU bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// Arguments of `tenure check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Prints everything that was found as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure prove`.
#[derive(Debug, Args)]
pub struct ProveArgs {
    /// The process: a `tenure run` with a guest
    #[arg(long, value_name = "PID")]
    pub pid: u32,

    /// Writes over pages of the shared alias that the guest does not share; it must not notice
    #[arg(long)]
    pub overwrite: bool,

    /// Leaves what was written until standard input ends
    #[arg(long)]
    pub hold: bool,

    /// Prints everything that was seen as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Also asks how much of each memory is allocated: copies a descriptor of it for a moment, which pins it as long
    #[arg(long)]
    pub measure: bool,

    /// Prints everything that was found as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Reads settings from this file, TOML with the names of these options as keys; options given here win
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,

    /// Everything else.
    #[command(flatten)]
    pub settings: Settings,
}

fn help(examples: &str) -> String {
    let examples: String = examples.lines().map(|line| format!("  {line}\n")).collect();
    format!("Examples:\n{examples}\n{}", exit::help_table())
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The guest's files.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The host.
    #[error(transparent)]
    NotCapable(#[from] NotCapable),
    /// The events.
    #[error(transparent)]
    Events(#[from] EventLogError),
    /// The virtio-console.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Whom the guest is connected to.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// Signal handlers.
    #[error("signals cannot be caught: {0}")]
    Signals(io::Error),
    /// The terminal or another standard stream.
    #[error("the guest's console cannot be set up: {0}")]
    Console(io::Error),
    /// The process to be looked at.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The host's processes.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// What was to be measured.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// An ID block.
    #[error(transparent)]
    IdBlock(#[from] IdBlockError),
    /// Evidence.
    #[error(transparent)]
    Evidence(Box<EvidenceError>),
    /// A result for others.
    #[error(transparent)]
    Ear(Box<attest::EarError>),
    /// A relying party.
    #[error(transparent)]
    Serve(Box<attest::ServeError>),
    /// What a guest asked of one.
    #[error(transparent)]
    Request(Box<attest::RequestError>),
    /// A test root.
    #[error("test root: {0}")]
    TestRoot(Box<TestRootError>),
    /// Our own output.
    #[error("standard output cannot be written: {0}")]
    Output(io::Error),
    /// A self-test.
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    /// What reports are verified with.
    #[error(transparent)]
    Endorsement(#[from] EndorsementError),
    /// A size.
    #[error("memory: {0}")]
    Memory(#[from] ValueError),
    /// A bundle.
    #[error("{}", .0.of("bundle"))]
    Bundle(OutputError),
    /// KVM, although it was there a moment ago.
    #[error(transparent)]
    Kernel(CallError),
    /// The run, before there was a guest.
    #[error(transparent)]
    Run(RunError),
}

impl From<EvidenceError> for CliError {
    fn from(error: EvidenceError) -> Self {
        Self::Evidence(Box::new(error))
    }
}

impl From<attest::EarError> for CliError {
    fn from(error: attest::EarError) -> Self {
        Self::Ear(Box::new(error))
    }
}

impl From<attest::ServeError> for CliError {
    fn from(error: attest::ServeError) -> Self {
        Self::Serve(Box::new(error))
    }
}

impl From<TestRootError> for CliError {
    fn from(error: TestRootError) -> Self {
        Self::TestRoot(Box::new(error))
    }
}

impl CliError {
    /// What the command's exit code is.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_)
            | Self::Input(_)
            | Self::Events(_)
            | Self::Endpoint(_)
            | Self::Relay(_)
            | Self::Proof(_)
            | Self::Measure(_)
            | Self::IdBlock(_)
            | Self::SelfTest(_)
            | Self::Endorsement(_)
            | Self::TestRoot(_)
            | Self::Memory(_)
            | Self::Bundle(_)
            | Self::Signals(_)
            | Self::Console(_)
            | Self::Ear(_)
            | Self::Serve(_)
            | Self::Output(_) => ExitCode::Usage,
            Self::NotCapable(_) | Self::Kernel(_) | Self::Audit(_) => ExitCode::NotCapable,
            Self::Evidence(error) => error.exit_code(),
            Self::Request(error) => error.exit_code(),
            Self::Run(error) => error.exit_code(),
        }
    }
}

impl Cli {
    /// Does what was asked for.
    pub fn execute(self) -> Result<ExitCode, CliError> {
        match self.command {
            Command::Check(args) => check(&args),
            Command::Run(args) => run::run(args.into_inner()),
            Command::Prove(args) => prove::prove(&args),
            Command::Audit(args) => audit::audit(&args),
            Command::Selftest(args) => selftest::selftest(&args),
            Command::Measure(what) => measure::measure(what),
            Command::Idblock(what) => idblock::idblock(what),
            Command::Attest(what) => attest::attest(what),
            Command::Completions { shell } => completions(shell),
        }
    }
}

fn check(args: &CheckArgs) -> Result<ExitCode, CliError> {
    let report = check::report(&Facts::gather(Path::new("/")));
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(|error| CliError::Output(error.into()))?
    } else {
        report.to_string()
    };
    writeln!(io::stdout(), "{text}").map_err(CliError::Output)?;
    Ok(if report.capable { ExitCode::Success } else { ExitCode::NotCapable })
}

fn completions(shell: CompletionShell) -> Result<ExitCode, CliError> {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    // Straight to standard output it would panic where that is closed.
    let mut script = Vec::new();
    aot::generate(shell, &mut Cli::command(), "tenure", &mut script);
    io::stdout().write_all(&script).map_err(CliError::Output)?;
    Ok(ExitCode::Success)
}

/// Does `command` as a program's last word: says what went wrong and returns the exit code, whatever happens. A panic
/// leaves the terminal as it was found, and an exit code of its own.
pub fn guarded(command: impl FnOnce() -> Result<ExitCode, CliError> + UnwindSafe) -> ExitCode {
    // A panic's message must be readable, and so must the shell's prompt after it.
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        terminal::restore();
        report(panic);
    }));
    match panic::catch_unwind(command) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            say(&format!("error: {error}"));
            error.exit_code()
        }
        Err(_) => {
            // Unwinding has closed what there was to close, but nobody has looked at the result.
            say("error: tenure failed internally; whether teardown was clean is not known");
            ExitCode::TeardownNotClean
        }
    }
}

/// A line for people. Nothing can be done for those who closed standard error.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// What must be said of a run even to those who did not ask for a summary.
fn say_why(report: &RunReport, summary: Summary) {
    match &report.outcome {
        GuestOutcome::NotStarted { reason } => say(&format!("error: the guest was not started: {reason}")),
        GuestOutcome::Crashed { reason } => say(&format!("error: the guest crashed: {reason}")),
        GuestOutcome::FirmwareFault { fault } => say(&format!("error: the firmware gave up: {fault}")),
        GuestOutcome::Terminated { set, code, reason } => {
            say(&format!("error: the guest asked to be terminated: {reason} (reason code {code:#x} of set {set:#x})"));
        }
        GuestOutcome::SelfTest { failed_checks: 1.. } => say("error: the self-test failed"),
        GuestOutcome::Stopped { by } => say(&format!("the guest was stopped by {by}")),
        GuestOutcome::PoweredOff | GuestOutcome::Reset | GuestOutcome::SelfTest { failed_checks: 0 } => {}
    }
    if !report.teardown.is_clean() {
        say("error: teardown was not clean");
        if summary == Summary::Hidden {
            say("--summary and --events have the receipt");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// What completions are made of: that arguments are declared late must not hide a command.
    #[test]
    fn help_knows_commands_of_commands() {
        let mut all = Cli::command();
        all.build();
        for path in
            [&["attest", "verify"][..], &["attest", "testroot", "sign"], &["measure", "diff"], &["idblock", "sign"]]
        {
            let find =
                |from: &clap::Command| path.iter().try_fold(from.clone(), |at, name| at.find_subcommand(name).cloned());
            let command = find(&all).unwrap();
            assert!(command.get_arguments().count() > 2 && command.get_long_about() != command.get_about(), "{path:?}");
            assert!(find(all.find_subcommand("help").unwrap()).is_some(), "{path:?}");
        }
    }

    proptest! {
        /// no-silent-trust: no command line makes us panic, and every refusal has words.
        #[test]
        fn no_silent_trust_any_command_line(
            args in prop::collection::vec(
                prop_oneof![
                    prop::sample::select(vec![
                        "run", "check", "audit", "completions", "bash", "--json", "--tee", "sw", "--memory", "--vcpus", "--cmdline",
                        "--summary", "--summary=false", "--virtio-console", "--log", "--", "-h", "512M", "idblock",
                        "create", "inspect", "--out", "attest", "verify", "--report", "--now", "--family-id", "text:web", "--launch-digest", "--policy",
                    ]).prop_map(str::to_owned),
                    "\\PC{0,8}",
                ],
                0..6,
            ),
        ) {
            let args = std::iter::once("tenure".to_owned()).chain(args);
            if let Err(error) = Cli::try_parse_from(args) {
                prop_assert!(!error.to_string().trim().is_empty());
            }
        }
    }
}
