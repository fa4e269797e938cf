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
    let report = |evidence, from: &Source| {
        Evidence::report(evidence).map_err(|source| EvidenceError::Report { from: from.clone(), source })
    };
    let (a, b) = (report(&a, &args.a)?, report(&b, &args.b)?);
    let found = diff::compare((&Claims::of(&a, None), a.bytes()), (&Claims::of(&b, None), b.bytes()));
    let found = found.map_err(|error| CliError::Output(error.into()))?;
    print(&if args.json { json(&found)? } else { found.text() })?;
    Ok(if found.is_any() { ExitCode::Findings } else { ExitCode::Success })
}
