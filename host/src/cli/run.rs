//! `tenure run`: everything around a guest that is for the people and programs outside.
//!
//! In this order: settings are checked, files opened, the host is looked at, outputs opened, and only then is anything
//! asked of the kernel. The terminal is given back before anything is said about how it went.

use super::endpoint::Endpoint;
use super::terminal::{self, ConsoleInput, RawMode, Stdin};
use super::{CliError, RunArgs};
use crate::check::facts::Facts;
use crate::check::report;
use crate::config::inputs::Inputs;
use crate::config::values::VirtioConsole;
use crate::config::{Config, OutputConfig, Summary, file};
use crate::events::EventLog;
use crate::exit::ExitCode;
use crate::progress::{EndsWithOutput, Progress};
use crate::relay::{Peer, RELYING_PARTY, Relay, RelayError};
use crate::report::RunReport;
use crate::run::{Ends, run as run_guest};
use crate::stop::StopSignal;
use crate::summary::{self, Style};
use gmem_kvm::kvm::KvmKernel;
use gmem_kvm::port::{CallError, Kernel};
use gmem_kvm::probe::DEV_KVM;
use rustix::termios::isatty;
use std::io::{self, Read};
use std::path::Path;

pub(super) fn run(args: RunArgs) -> Result<ExitCode, CliError> {
    run_on(args, KvmKernel::open)
}

/// `tenure run` on the kernel that `open` makes of a device: what a test puts in between sees the very same run.
pub fn run_on<K: Kernel>(
    args: RunArgs,
    open: impl FnOnce(&Path) -> Result<K, CallError>,
) -> Result<ExitCode, CliError> {
    let settings = match &args.config {
        Some(path) => args.settings.over(file::read(path).map_err(crate::config::ConfigError::from)?),
        None => args.settings,
    };
    let Config { run: config, output } = settings.resolve()?;
    super::log::start(output.log);
    let inputs = Inputs::open(&config)?;
    let host = report(&Facts::gather(Path::new("/")));
    let choice = host.choose(config.tee, config.guise)?;
    host.allows_vcpus(config.vcpus)?;
    for warning in &choice.warnings {
        super::say(&format!("warning: {warning}"));
    }

    let stop = StopSignal::new().map_err(CliError::Signals)?;
    stop.catch_signals().map_err(CliError::Signals)?;
    let events = match &output.events {
        Some(path) => EventLog::create(path)?,
        None => EventLog::off(),
    };
    let relying_party = config.relying_party.as_ref().map(|address| {
        let peer = Peer::look_up("relying-party", address)?;
        Ok::<_, RelayError>(Relay::new(RELYING_PARTY, peer, events.clone()).into_server())
    });
    let relying_party = relying_party.transpose()?;
    let stdin = Stdin::kind();
    let virtio_console = Endpoint::open(&config.virtio_console, stdin, &stop)?;
    let console_input = match config.virtio_console {
        VirtioConsole::Stdio => None,
        _ => ConsoleInput::stdin(stdin, &stop).map_err(CliError::Console)?,
    };
    let progress = Progress::on_stderr().start("launching the guest");
    let console_output = terminal::unbuffered_stdout().map_err(CliError::Console)?;
    let ends = Ends {
        events: events.clone(),
        console_output: Box::new(EndsWithOutput::new(progress.clone(), console_output)),
        console_input: console_input.map(|input| Box::new(input) as Box<dyn Read + Send>),
        virtio_output: virtio_console.output,
        virtio_input: virtio_console.input,
        channels: relying_party.into_iter().collect(),
        stop,
    };

    let kernel = open(Path::new(DEV_KVM)).map_err(CliError::Kernel)?;
    let raw_mode = (stdin == Stdin::Terminal).then(enter_raw_mode).transpose()?;
    let result = run_guest(&kernel, choice.tee, &config, &inputs, ends);
    drop(raw_mode);
    progress.finish();
    tell(result.map_err(CliError::Run), choice.warnings, &output, &events)
}

fn enter_raw_mode() -> Result<RawMode, CliError> {
    super::say(terminal::HINT);
    RawMode::enter().map_err(CliError::Console)
}

/// Says how it went, everywhere it is to be said.
fn tell(
    result: Result<RunReport, CliError>,
    warnings: Vec<String>,
    output: &OutputConfig,
    events: &EventLog,
) -> Result<ExitCode, CliError> {
    let events_written = events.finish();
    if let Err(lost) = &events_written {
        super::say(&format!("warning: {lost}"));
    }
    let mut report = result?;
    report.warnings.extend(warnings);
    report.warnings.extend(events_written.as_ref().err().map(ToString::to_string));
    let code = report.exit_code();
    if output.summary == Summary::Shown {
        let style = if isatty(io::stderr()) { Style::Boxes } else { Style::Plain };
        super::say(summary::render(&report, style).trim_end());
    }
    super::say_why(&report, output.summary);
    // What was asked for has not been done if its events are missing.
    Ok(if code == ExitCode::Success && events_written.is_err() { ExitCode::Usage } else { code })
}
