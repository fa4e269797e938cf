//! How a command ends, as a number.
//!
//! Owns the one table of exit codes: scripts rely on it and every command's `--help` shows it. A code means the same
//! for every command but `attest`, which runs nothing and so has what the other meanings cannot be. Not owned: the words a failure is explained with; those come with the error.
//!
//! Specification: our own; a code once given a meaning keeps it.

use std::sync::LazyLock;

/// What a command's exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// It did what was asked.
    Success = 0,
    /// The command line, a configuration file, or input and output of our own are at fault.
    Usage = 1,
    /// This host cannot do it.
    NotCapable = 2,
    /// The guest was not started.
    LaunchFailed = 3,
    /// The guest ended in a way it did not intend.
    GuestCrashed = 4,
    /// Something of the guest may be left behind.
    TeardownNotClean = 5,
    /// Something is there that should not be, or what should be the same is not.
    Findings = 10,
}

impl ExitCode {
    /// `attest`: evidence is malformed, or a signature, the chain or an event log does not hold.
    pub const EVIDENCE_INVALID: Self = Self::NotCapable;
    /// `attest`: what evidence is verified with is missing or out of date.
    pub const COLLATERAL: Self = Self::LaunchFailed;
    /// `attest`: a certificate was revoked.
    pub const REVOKED: Self = Self::GuestCrashed;
    /// `attest`: the policy or a reference value is not met.
    pub const NOT_MET: Self = Self::TeardownNotClean;

    /// Every code, in order.
    pub const ALL: [Self; 7] = [
        Self::Success,
        Self::Usage,
        Self::NotCapable,
        Self::LaunchFailed,
        Self::GuestCrashed,
        Self::TeardownNotClean,
        Self::Findings,
    ];

    /// The number a shell sees.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, in one line of help.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Success => {
                "did what was asked; attest: everything passed; run: guest ended or was stopped, teardown clean"
            }
            Self::Usage => "usage, configuration, or input/output",
            Self::NotCapable => {
                "audit, check, run, selftest: host or platform not capable; attest: evidence or log not genuine"
            }
            Self::LaunchFailed => "run: launch failed; attest: certificates or lists missing or out of date",
            Self::GuestCrashed => "run: guest crashed; attest: revoked",
            Self::TeardownNotClean => "run, selftest: something of a guest may be left; attest: not what is wanted",
            Self::Findings => {
                "audit, idblock inspect, prove, selftest: findings; measure diff, attest diff: a difference"
            }
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        code.code().into()
    }
}

/// The table as the last paragraph of a `--help`.
pub fn help_table() -> &'static str {
    static TABLE: LazyLock<String> = LazyLock::new(|| {
        let lines = ExitCode::ALL.map(|code| format!("\n  {:<2} {}", code.code(), code.meaning()));
        format!("Exit codes:{}", lines.concat())
    });
    &TABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_published_ones() {
        let codes: Vec<u8> = ExitCode::ALL.iter().map(|code| code.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 10]);
        assert!(help_table().contains("\n  5  run, selftest: something of a guest may be left"));
    }
}
