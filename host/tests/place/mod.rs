//! A directory to work in, and what `tenure attest` says there. Each test binary gives it what else it needs.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// A directory, gone when it is not needed any more.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    /// With nothing in it.
    pub(crate) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What is said, on standard output or else on standard error, and the exit code.
    pub(crate) fn attest(&self, args: &[&str]) -> (i32, String) {
        let mut tenure = Command::new(env!("CARGO_BIN_EXE_tenure"));
        let output = tenure.arg("attest").args(args).current_dir(self.0.path()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    /// The same, said in JSON.
    pub(crate) fn json(&self, args: &[&str]) -> (i32, Value) {
        let (code, said) = self.attest(&[args, &["--json"]].concat());
        (code, serde_json::from_str(&said).unwrap_or_else(|error| unreachable!("{error}: {said}")))
    }
}

/// Names of the checks that failed.
pub(crate) fn failed(verdict: &Value) -> Vec<&str> {
    verdict["failed"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}
