//! The tests a command line can ask for.

mod attest;
mod channel;
mod memory;
mod sleep;
mod virtio;

use super::report::say;
use super::{fork, kernel_log};
use anyhow::{Context, bail};
use std::thread;
use std::time::Duration;
use test_guest::request::{Test, TestKind};

/// Parts of kernel messages that tell of trouble.
const TROUBLE: [&str; 9] = [
    "BUG:",
    // Of a failed check of the kernel's own; elsewhere the word is used for advice to users.
    "WARNING: CPU:",
    "Oops",
    "Kernel panic",
    "detected stall",
    "soft lockup",
    "double fault",
    "general protection fault",
    "blocked for more than",
];

/// Runs one test, reports it, and says whether it passed.
pub(super) fn run(test: &Test) -> bool {
    let name = test.kind.name();
    let result = match test.kind {
        TestKind::Memory => memory::test(test.argument),
        TestKind::Virtio => virtio::test(test.argument),
        TestKind::Channel => channel::test(test.argument),
        TestKind::Sleep => sleep::test(),
        TestKind::Fork => fork::test(test.argument),
        TestKind::Dmesg => dmesg(),
        TestKind::Attest => attest::test(),
        TestKind::Wait => wait(),
        TestKind::Crash => crash(),
        TestKind::Hang => hang(),
    };
    match &result {
        Ok(details) => say(&format!("test {name} ok {details}")),
        Err(error) => say(&format!("test {name} failed: {error:#}")),
    }
    result.is_ok()
}

fn dmesg() -> anyhow::Result<String> {
    let log = kernel_log::lines();
    let is_trouble = |line: &&String| TROUBLE.iter().any(|part| line.contains(part));
    let trouble: Vec<&String> = log.iter().filter(is_trouble).collect();
    for line in &trouble {
        say(&format!("fact trouble {line}"));
    }
    match trouble.len() {
        0 => Ok(format!("lines {}", log.len())),
        count => bail!("{count} lines of {} tell of trouble", log.len()),
    }
}

fn wait() -> anyhow::Result<String> {
    say("fact waiting");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("reading the console")?;
    Ok(format!("line of {} bytes", line.len()))
}

fn crash() -> anyhow::Result<String> {
    std::fs::write("/proc/sysrq-trigger", "c").context("writing to /proc/sysrq-trigger")?;
    bail!("the kernel did not panic")
}

fn hang() -> ! {
    say("fact hanging until killed");
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
