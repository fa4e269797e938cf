//! `tenure audit`: what on this host pins private memory.

use super::{AuditArgs, CliError};
use crate::audit::{Measure, Paint, audit as look};
use crate::exit::ExitCode;
use crate::progress::Progress;
use rustix::termios::isatty;
use std::io::{self, Write};

pub(super) fn audit(args: &AuditArgs) -> Result<ExitCode, CliError> {
    let progress = Progress::on_stderr().start("looking at every process");
    let measure = if args.measure { Measure::Allocated } else { Measure::Nothing };
    let report = look(measure);
    progress.finish();
    let report = report?;
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(|error| CliError::Output(error.into()))?
    } else {
        report.render(paint())
    };
    writeln!(io::stdout(), "{text}").map_err(CliError::Output)?;
    Ok(report.exit_code())
}

/// Colours on terminals that have them, unless somebody does not want any (no-color.org).
fn paint() -> Paint {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if isatty(io::stdout()) && !is_set("NO_COLOR") && !is_dumb { Paint::Colours } else { Paint::Plain }
}
