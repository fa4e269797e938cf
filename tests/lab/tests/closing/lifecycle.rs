//! `gmem/kvm`'s lifecycle tests on the lab host's kernel, which has what few machines' kernels have.

use std::path::{Path, PathBuf};
use std::process::{Command as LocalCommand, Stdio};

use anyhow::{Context, Result, ensure};
use tenure_lab::Command;

use crate::bench::{Bench, LIFECYCLE};
use test_harness::Verdict;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Cases that can only be asked with private memory: were all of them skipped, nothing would have been asked.
const AT_LEAST: usize = 20;

/// Builds the lifecycle tests as a static program, beside `program`, which was built by the lab.
pub(crate) fn build(program: &Path) -> Result<PathBuf> {
    let target_dir = program.ancestors().nth(3).context("the lab's programs have no target directory")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = LocalCommand::new(cargo)
        .args(["test", "--no-run", "--release", "--target", TARGET, "--package", "gmem-kvm", "--test", "lifecycle"])
        .args(["--message-format", "json"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env("CARGO_TARGET_DIR", target_dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .stdin(Stdio::null())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "lifecycle: {}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let executable = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    executable.context("cargo did not say where the lifecycle tests are")
}

/// bound-at-birth, pages-before-key, no-stale-copy: what they rest on is so on this kernel.
pub(crate) fn all_pass(bench: &mut Bench) -> Result<Verdict> {
    let output = bench.host.run(Command::new(LIFECYCLE))?;
    let text = output.stdout_text();
    let line = text.lines().rev().find_map(|line| line.strip_prefix("test result: "));
    let line = line.with_context(|| format!("no result: {text}{}", output.stderr_text()))?;
    let count = |word: &str| -> Result<usize> {
        let before = line.split_once(&format!(" {word}")).with_context(|| line.to_owned())?.0;
        let number = before.rsplit([' ', '.']).next().unwrap_or_default();
        number.parse().with_context(|| line.to_owned())
    };
    println!("lifecycle: {line}");
    ensure!(output.status.success() && count("failed")? == 0 && count("passed")? >= AT_LEAST, "{text}");
    Ok(Verdict::Passed)
}

/// The measure itself: a VM closed before its guest_memfd is found in the trace.
pub(crate) fn wrong_order_is_noticed(bench: &mut Bench) -> Result<Verdict> {
    bench.tracer.clear(&bench.host)?;
    let case = "private::pages_before_key_vm_closed_first";
    let output = bench.host.run(Command::new(LIFECYCLE).args(["--exact", case]))?;
    let text = output.stdout_text();
    let skipped = text.lines().find_map(|line| line.split_once(" ... skipped: "));
    if let Some((_, reason)) = skipped {
        return Ok(Verdict::Skipped { reason: reason.to_owned() });
    }
    ensure!(text.contains(&format!("test {case} ... ok")), "{text}{}", output.stderr_text());
    let lives = bench.tracer.read(&bench.host)?;
    let noticed = lives.0.iter().filter(|life| !life.violations.is_empty()).count();
    ensure!(noticed >= 1 && lives.check().is_err(), "nothing was noticed: {lives:?}");
    Ok(Verdict::Passed)
}
