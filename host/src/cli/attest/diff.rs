//! `tenure attest diff`: where two reports say different things.

use clap::Args;

use super::{json, print};
use crate::cli::CliError;
use crate::evidence::claims::Claims;
use crate::evidence::{Evidence, EvidenceError, diff};
use crate::exit::ExitCode;
use crate::idblock::{Source, one_stdin};

/// Arguments of `tenure attest diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A report, as the firmware wrote it; - is standard input
    #[arg(value_name = "A")]
    pub a: Source,

    /// Another; - is standard input
    #[arg(value_name = "B")]
    pub b: Source,

    /// Prints everything as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

pub(super) fn diff(args: &DiffArgs) -> Result<ExitCode, CliError> {
    one_stdin([("A", &args.a), ("B", &args.b)]).map_err(EvidenceError::from)?;
    let [a, b] = [&args.a, &args.b].map(|from| Evidence::read(from, None, None));
    let (a, b) = (a?, b?);
    let claims = |evidence: &Evidence, from: &Source| -> Result<Claims, EvidenceError> {
        let report = evidence.report().map_err(|source| EvidenceError::Report { from: from.clone(), source })?;
        Ok(Claims::of(&report, None))
    };
    let found = diff::compare(&claims(&a, &args.a)?, &claims(&b, &args.b)?);
    let found = found.map_err(|error| CliError::Output(error.into()))?;
    print(&if args.json { json(&found)? } else { found.text() })?;
    Ok(if found.different.is_empty() { ExitCode::Success } else { ExitCode::Findings })
}
