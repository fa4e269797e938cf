//! The `fork` test: processes that work at the same time.

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::process::{Child, Command, ExitCode, Stdio};

/// First argument of a worker process.
pub(crate) const WORKER: &str = "hash";
const DEFAULT_PROCESSES: u64 = 8;
const PROCESSES_MAX: u64 = 256;
/// Blocks of 64 bytes a worker hashes: 4 MiB.
const BLOCKS: u64 = 1 << 16;

/// A worker's whole life: hashes what `seed` says and prints the result.
pub(crate) fn worker(seed: &str) -> ExitCode {
    match seed.parse() {
        Ok(seed) => {
            println!("{}", digest(seed));
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Starts workers, all at once, and compares each result with our own.
pub(super) fn test(processes: Option<u64>) -> anyhow::Result<String> {
    let processes = processes.unwrap_or(DEFAULT_PROCESSES);
    ensure!((1..=PROCESSES_MAX).contains(&processes), "{processes} processes are not 1 to {PROCESSES_MAX}");
    let start = |seed: u64| -> anyhow::Result<Child> {
        Command::new("/proc/self/exe")
            .args([WORKER, &seed.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting worker {seed}"))
    };
    let workers = (0..processes).map(start).collect::<anyhow::Result<Vec<_>>>()?;
    for (seed, worker) in (0..).zip(workers) {
        let output = worker.wait_with_output().with_context(|| format!("waiting for worker {seed}"))?;
        let (got, expected) = (String::from_utf8_lossy(&output.stdout), digest(seed));
        ensure!(
            output.status.success() && got.trim() == expected,
            "worker {seed} ended with {} and said {:?} instead of {expected}",
            output.status,
            got.trim()
        );
    }
    Ok(format!("processes {processes}"))
}

fn digest(seed: u64) -> String {
    let mut hasher = Sha256::new();
    for block in 0..BLOCKS {
        hasher.update([(seed << 32 | block).to_le_bytes(); 8].as_flattened());
    }
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
