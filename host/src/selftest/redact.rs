//! What leaves a machine in a bundle, and what doesn't.
//!
//! Owns taking out what names the machine or its user: the chip's identifier in reports, with which AMD's servers hand out
//! the chip's certificate, and this host's and user's names in text. A report without its identifier has no signature that
//! holds any more; whether it held is among the results.
//!
//! Specification: SEV-SNP Firmware ABI (56860), ATTESTATION_REPORT, `CHIP_ID`.

/// Where a report has the chip's identifier.
const CHIP_ID: std::ops::Range<usize> = 0x1a0..0x1e0;
/// Names shorter than this are in too many words.
const NAME_MIN: usize = 4;

/// Whether a bundle may say whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// It may not.
    Removed,
    /// All of it stays, so that others can verify the reports.
    Kept,
}

/// Takes out what names a machine.
#[derive(Debug, Clone)]
pub(super) struct Redaction {
    identity: Identity,
    /// Text that is replaced, and what it is replaced with.
    names: Vec<(String, &'static str)>,
}

impl Redaction {
    /// Of this machine and user, as far as they have names.
    pub(super) fn of_this_machine(identity: Identity) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self::new(
            identity,
            [(variable("HOME"), "~"), (host, "HOST"), (variable("SUDO_USER"), "USER"), (variable("USER"), "USER")],
        )
    }

    fn new(identity: Identity, names: impl IntoIterator<Item = (String, &'static str)>) -> Self {
        let common = ["root", "localhost", "/root"];
        let names = names.into_iter().filter(|(name, _)| name.len() >= NAME_MIN && !common.contains(&name.as_str()));
        Self { identity, names: names.collect() }
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// What was done, for the bundle's reader.
    pub(super) fn described(&self) -> Vec<&'static str> {
        match self.identity {
            Identity::Kept => Vec::new(),
            Identity::Removed => vec![
                "the chip's identifier in attestation reports is zeros, so their signatures do not hold any more; whether they did is in results.json",
                "this host's name, the user's name and home directory are HOST, USER and ~ in all text",
                "certificates are left out: they name the chip",
            ],
        }
    }

    /// An attestation report.
    pub(super) fn report(&self, report: &[u8]) -> Vec<u8> {
        let mut report = report.to_vec();
        if let (Identity::Removed, Some(chip)) = (self.identity, report.get_mut(CHIP_ID)) {
            chip.fill(0);
        }
        report
    }

    /// Text that others wrote.
    pub(super) fn text(&self, text: &str) -> String {
        match self.identity {
            Identity::Kept => text.to_owned(),
            Identity::Removed => {
                self.names.iter().fold(text.to_owned(), |text, (name, with)| text.replace(name.as_str(), with))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redaction(identity: Identity) -> Redaction {
        let names = [("/home/alice", "~"), ("epyc-17", "HOST"), ("alice", "USER"), ("root", "USER"), ("me", "USER")];
        Redaction::new(identity, names.map(|(name, with)| (name.to_owned(), with)))
    }

    #[test]
    fn names_are_taken_out_of_text() {
        let text = "epyc-17 kernel: alice has /home/alice/certs; some root time";
        let taken = "HOST kernel: USER has ~/certs; some root time";
        assert_eq!(redaction(Identity::Removed).text(text), taken);
        assert_eq!(redaction(Identity::Kept).text(text), text);
    }

    #[test]
    fn the_chip_is_taken_out_of_reports_and_nothing_else() {
        let report: Vec<u8> = (0..0x4a0).map(|at| u8::try_from(at % 251).unwrap() + 1).collect();
        let redacted = redaction(Identity::Removed).report(&report);
        assert_eq!(redacted[CHIP_ID], [0; 64]);
        assert_eq!((&redacted[..0x1a0], &redacted[0x1e0..]), (&report[..0x1a0], &report[0x1e0..]));
        assert_eq!(redaction(Identity::Kept).report(&report), report);
        assert_eq!(redaction(Identity::Removed).report(b"short"), b"short");
    }
}
