//! `tenure audit`: what on this host pins private memory.

use super::{AuditArgs, CliError};
use crate::audit::{Measure, audit as look};
use crate::exit::ExitCode;
use crate::paint::Paint;
use crate::progress::Progress;
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
        report.render(Paint::on_stdout())
    };
    writeln!(io::stdout(), "{text}").map_err(CliError::Output)?;
    Ok(report.exit_code())
}
