//! The `attest` test: what a guest with a secret to get does.

use anyhow::{Context, ensure};
use std::fs;
use std::process::{Command, Stdio};
use test_guest::{flow::TENURE, payload};

const KEY: &str = "/run/key";

/// Asks for the key, opens the payload, and shows what is in it.
pub(super) fn test() -> anyhow::Result<String> {
    let sealed = fs::read(payload::PATH).context(payload::PATH)?;
    let asked = Command::new(TENURE)
        .args(["attest", "request", "--resource", payload::RESOURCE, "--out", KEY])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {TENURE}"))?;
    let said = String::from_utf8_lossy(&asked.stderr);
    ensure!(asked.status.success(), "tenure attest request ended with {}: {}", asked.status, said.trim());
    let key = fs::read(KEY).context(KEY)?;
    let opened = payload::open(&key, &sealed)?;
    Ok(format!("payload {:?}", String::from_utf8_lossy(&opened)))
}
