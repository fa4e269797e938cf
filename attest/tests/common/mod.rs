//! What tests share.
#![allow(dead_code, reason = "each test uses a part")]

use std::path::Path;

use attest::Rejected;

/// A file of `tests/vectors/snp/attest`.
pub fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/snp/attest").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of what failed.
pub fn failed(rejected: &Rejected) -> Vec<&'static str> {
    rejected.checks().failed().map(|check| check.id.name()).collect()
}
