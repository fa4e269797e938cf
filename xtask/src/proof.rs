//! The privacy proof during a run: another process looks at the VMM while the guest works.
//!
//! Owns the conversation: the guest says that it waits, `tenure prove` looks and writes over the shared alias of RAM,
//! the guest goes on and verifies its memory, waits once more, and what was written is taken back.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result, bail};

use crate::place::{Place, Running};

/// What the guest says when it waits for a line on its console.
pub(crate) const WAITING: &str = "guest: fact waiting";

/// Answers the guest's waiting until it has waited twice; returns what `tenure prove` printed.
pub(crate) fn take(
    place: &Place,
    tenure: &str,
    vmm: u32,
    waiting: &Receiver<()>,
    console: &mut dyn Write,
) -> Result<String> {
    waiting.recv().context("the guest ended before the privacy proof began")?;
    let arguments = ["prove", "--pid", &vmm.to_string(), "--overwrite", "--hold"].map(str::to_owned);
    let mut prover = place.start(tenure, &arguments)?;
    let mut output = BufReader::new(std::mem::replace(&mut prover.stdout, Box::new(std::io::empty())));
    let mut text = String::new();
    // It prints what it saw once it holds, and says whether everything was taken back at the end.
    if output.read_line(&mut text)? == 0 {
        return Err(failed(prover));
    }
    console.write_all(b"\n").context("the guest's console")?;
    waiting.recv().context("the guest ended while its memory was being written over")?;
    prover.stdin = Box::new(std::io::sink());
    output.read_to_string(&mut text)?;
    let mut problems = String::new();
    prover.stderr.read_to_string(&mut problems)?;
    console.write_all(b"\n").context("the guest's console")?;
    match prover.wait()? {
        0 => Ok(text),
        code => bail!("tenure prove ended with exit code {code}: {text}{problems}"),
    }
}

fn failed(mut prover: Running) -> anyhow::Error {
    let mut problems = String::new();
    let _ = prover.stderr.read_to_string(&mut problems);
    anyhow::anyhow!("tenure prove said nothing; {}", problems.trim_end())
}
