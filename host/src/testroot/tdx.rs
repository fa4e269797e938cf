//! A root of trust for tests of TDX guests, in words and as JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use attest::tdx::{Quote, QuoteError};
use serde::Serialize;
use snp::hex;
use test_root::TdxRoot;
use test_root::root::{ABOUT, LABEL};
use test_root::tdx::Dates;
use test_root::tdx::platform::Versions;
use test_root::tdx::root::{ANCHOR, COLLATERAL, KEY};

use super::{moment, seconds, signed};
use crate::evidence::tdx::claims::QuoteClaims;

/// A test root.
#[derive(Clone, Debug, Serialize)]
pub struct TdxRootReport {
    /// `software-test`.
    pub label: &'static str,
    /// Where it is.
    pub directory: String,
    /// Whose root it stands in for: `intel`.
    pub product: &'static str,
    /// SHA-256 of the root's public key.
    pub fingerprint: String,
    /// Its platform's kind.
    pub fmspc: String,
    /// The versions on it.
    pub tcb: Svns,
    /// When its certificates begin, and what is published about its platform.
    pub not_before: String,
    /// When the first of that ends.
    pub not_after: String,
    /// The anchor, for whoever verifies.
    pub anchor: String,
    /// What is published about its platform.
    pub collateral: String,
    /// How long it took to make, if it was made just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// Versions on a platform.
#[derive(Clone, Debug, Serialize)]
pub struct Svns {
    /// TEE_TCB_SVN.
    pub tee_tcb_svn: String,
    /// Of the processor's components.
    pub components: String,
    /// Of the provisioning certification enclave.
    pub pce: u16,
    /// Of the quoting enclave.
    pub qe: u16,
}

/// A quote that was signed below a test root.
#[derive(Clone, Debug, Serialize)]
pub struct SignedQuote {
    /// `software-test`.
    pub label: &'static str,
    /// Nobody has verified it yet.
    pub verified: bool,
    /// What it says.
    pub quote: QuoteClaims,
}

impl TdxRootReport {
    /// Of the root in this directory, made in this time if it was made just now.
    pub fn of(root: &TdxRoot, directory: &Path, took: Option<Duration>) -> Self {
        let place = |name| directory.join(name).display().to_string();
        let Dates { from, to } = root.dates();
        let Versions { components, pce, tee, qe } = root.platform().versions();
        Self {
            label: LABEL,
            directory: directory.display().to_string(),
            product: "intel",
            fingerprint: root.fingerprint().to_owned(),
            fmspc: hex::text(&root.platform().fmspc()),
            tcb: Svns { tee_tcb_svn: hex::text(&tee), components: hex::text(&components), pce, qe },
            not_before: moment(from),
            not_after: moment(to),
            anchor: place(ANCHOR),
            collateral: place(COLLATERAL),
            seconds: took.map(seconds),
        }
    }

    /// A line for everything, and below them what comes next.
    pub fn text(&self) -> String {
        let Self { directory, anchor, collateral, .. } = self;
        let Svns { tee_tcb_svn, components, pce, qe } = &self.tcb;
        let mut text =
            format!("{LABEL}: a root of trust for tests, in software: no hardware vouches for anything below it\n");
        let mut line = |label: &str, words: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{label:<12} {words}");
        };
        line("directory", directory);
        line("stands for", "Intel's root, where a verifier is told so");
        line("fingerprint", &format!("{} (SHA-256 of the root's public key)", self.fingerprint));
        line("fmspc", &self.fmspc);
        line("versions", &format!("tdx {tee_tcb_svn}, sgx {components}, pce {pce}, qe {qe}"));
        line("holds", &format!("{} to {}", self.not_before, self.not_after));
        line("public", &format!("{ANCHOR}, {COLLATERAL}, {ABOUT}: for whoever verifies"));
        line("private", &format!("{KEY}: whoever reads it signs as this root"));
        if let Some(seconds) = self.seconds {
            line("made in", &format!("{seconds:.1} s"));
        }
        let _ = write!(
            text,
            "\nSign a quote, and verify it below this root and no other:\n  \
             tenure attest testroot sign {directory} --mrtd HEX --report-data HEX --out quote.bin\n  \
             tenure attest verify --quote quote.bin --collateral {collateral} --test-root {anchor} \
             --allow-test-root intel --mrtd HEX\n"
        );
        text
    }
}

impl SignedQuote {
    /// Of a quote, as it was signed.
    pub fn of(quote: &[u8]) -> Result<Self, QuoteError> {
        Ok(Self { label: LABEL, verified: false, quote: QuoteClaims::of(&Quote::parse(quote)?, None) })
    }

    /// What it says, with the label in front.
    pub fn text(&self) -> String {
        signed(&self.quote.text())
    }
}
