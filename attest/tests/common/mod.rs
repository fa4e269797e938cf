//! What tests share: other people's reports, and a software platform's.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

pub mod silicon;

use std::path::Path;

use attest::{Rejected, UnixTime};

/// 2026-06-01.
pub const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);

/// A file of `tests/vectors/snp/attest`.
#[expect(clippy::panic, reason = "a test without its vectors has failed")]
pub fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/snp/attest").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of what failed.
pub fn failed(rejected: &Rejected) -> Vec<&'static str> {
    rejected.checks().failed().map(|check| check.id.name()).collect()
}
