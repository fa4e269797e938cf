//! `tenure prove`: what another process sees of a running guest's memory.

use std::io::{self, Read, Write};

use super::{CliError, ProveArgs};
use crate::exit::ExitCode;
use crate::prove::{Proof, Prover, Tampering};

pub(super) fn prove(args: &ProveArgs) -> Result<ExitCode, CliError> {
    let mut prover = Prover::attach(args.pid)?;
    let tampering = if args.overwrite { Tampering::Overwrite } else { Tampering::None };
    let proof = prover.look(tampering)?;
    let text = if args.json {
        serde_json::to_string(&proof).map_err(|error| CliError::Output(error.into()))?
    } else {
        explain(&proof)
    };
    writeln!(io::stdout(), "{text}").map_err(CliError::Output)?;
    if args.hold {
        // Whoever holds the other end decides when the guest has had its chance to notice.
        let _ = io::stdin().read_to_end(&mut Vec::new());
    }
    prover.restore()?;
    if args.overwrite && !args.json {
        writeln!(io::stdout(), "  what was written has been taken back").map_err(CliError::Output)?;
    }
    Ok(if proof.holds() { ExitCode::Success } else { ExitCode::Findings })
}

fn explain(proof: &Proof) -> String {
    let mark = |good: bool| if good { "ok" } else { "NOT OK" };
    let mapped = proof.private_mappings.len();
    let mut lines = vec![
        format!("  {}: process {} maps {mapped} ranges of private memory", mark(mapped == 0), proof.pid),
        format!(
            "  {}: of {} pages read at RAM's shared alias ({}), {} held anything",
            mark(proof.sampled_nonzero_pages == 0),
            proof.sampled_pages,
            gmem::ByteLen(proof.alias_bytes),
            proof.sampled_nonzero_pages
        ),
        format!("  {} pages of the alias take memory: what the guest has shared", proof.alias_resident_pages),
    ];
    if proof.overwritten_pages != 0 {
        lines.push(format!("  {} pages of the alias were written over; the guest goes on", proof.overwritten_pages));
    }
    lines.extend(proof.private_mappings.iter().map(|line| format!("  private memory mapped: {line}")));
    lines.join("\n")
}
