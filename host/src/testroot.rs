//! `tenure attest testroot`: a root of trust for tests, in words and as JSON.
//!
//! Owns what is said of one, and what to do with it next; of those for quotes [`tdx`] does. Does not own making, loading and
//! signing: that is `test-root`'s.
//! Law no-silent-trust: everything that is said is labelled software-test.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use attest::UnixTime;
use attest::snp::{Report, ReportError};
use serde::Serialize;
use snp::hex;
use test_root::TestRoot;
use test_root::model::{Model, Tcb};
use test_root::root::{ABOUT, ANCHOR, CERTIFICATES, CHIP_KEY, KEYS, LABEL};

use crate::evidence::claims::Claims;

pub mod tdx;

/// A test root.
#[derive(Clone, Debug, Serialize)]
pub struct RootReport {
    /// `software-test`.
    pub label: &'static str,
    /// Where it is.
    pub directory: String,
    /// What it stands in for: `milan`, `genoa` or `turin`.
    pub product: String,
    /// SHA-256 of the root's public key.
    pub fingerprint: String,
    /// Its chip.
    pub chip_id: String,
    /// The versions on it.
    pub tcb: Versions,
    /// When its certificates begin.
    pub not_before: String,
    /// When the first of them ends.
    pub not_after: String,
    /// The anchor, for whoever verifies.
    pub anchor: String,
    /// The table of certificates that goes with every report.
    pub certificates: String,
    /// How long it took to make, if it was made just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// Versions on a chip.
#[derive(Clone, Debug, Serialize)]
pub struct Versions {
    /// Of the FMC; Turin only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fmc: Option<u8>,
    /// Of the boot loader.
    pub boot_loader: u8,
    /// Of the PSP's operating system.
    pub tee: u8,
    /// Of the SNP firmware.
    pub snp: u8,
    /// Of the microcode.
    pub microcode: u8,
}

/// A report that was signed below a test root.
#[derive(Clone, Debug, Serialize)]
pub struct Signed {
    /// `software-test`.
    pub label: &'static str,
    /// Nobody has verified it yet.
    pub verified: bool,
    /// What it says.
    pub report: Claims,
}

impl Signed {
    /// Of a report, as it was signed.
    pub fn of(report: &[u8]) -> Result<Self, ReportError> {
        Ok(Self { label: LABEL, verified: false, report: Claims::of(&Report::parse(report)?, None) })
    }

    /// What it says, with the label in front.
    pub fn text(&self) -> String {
        signed(&self.report.text())
    }
}

/// What was signed, with the label in front.
fn signed(words: &str) -> String {
    format!(
        "{LABEL}: signed below a test root: no hardware vouches for anything\n{words}\nNothing of this was verified: tenure \
         attest verify does that.\n"
    )
}

impl RootReport {
    /// Of the root in this directory, made in this time if it was made just now.
    pub fn of(root: &TestRoot, directory: &Path, took: Option<Duration>) -> Self {
        let place = |name| directory.join(name).display().to_string();
        Self {
            label: LABEL,
            directory: directory.display().to_string(),
            product: name(root.model()),
            fingerprint: root.fingerprint().to_owned(),
            chip_id: hex::text(&root.chip_id()[..root.model().chip_id_bytes()]),
            tcb: Versions::of(root.model(), root.tcb()),
            not_before: moment(root.not_before()),
            not_after: moment(root.not_after()),
            anchor: place(ANCHOR),
            certificates: place(CERTIFICATES),
            seconds: took.map(seconds),
        }
    }

    /// A line for everything, and below them what comes next.
    pub fn text(&self) -> String {
        let Self { directory, product, anchor, certificates, .. } = self;
        let mut text =
            format!("{LABEL}: a root of trust for tests, in software: no hardware vouches for anything below it\n");
        let mut line = |label: &str, words: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{label:<12} {words}");
        };
        line("directory", directory);
        line("stands for", &format!("AMD's root of {product}, where a verifier is told so"));
        line("fingerprint", &format!("{} (SHA-256 of the root's public key)", self.fingerprint));
        line("chip", &self.chip_id);
        line("versions", &self.tcb.text());
        line("holds", &format!("{} to {}", self.not_before, self.not_after));
        line("public", &format!("{ANCHOR}, {CERTIFICATES}, {ABOUT}: for whoever verifies"));
        line("private", &format!("{}, {CHIP_KEY}: whoever reads them signs as this root", KEYS.join(", ")));
        if let Some(seconds) = self.seconds {
            line("made in", &format!("{seconds:.1} s"));
        }
        let policy = match product.as_str() {
            "milan" => " --policy policy.toml",
            _ => "",
        };
        let _ = write!(
            text,
            "\nSign a report, and verify it below this root and no other:\n  \
             tenure attest testroot sign {directory} --launch-digest digests.json --report-data HEX --out report.bin\n  \
             tenure attest verify --report report.bin --certificates {certificates} --test-root {anchor} \
             --allow-test-root {product}{policy} --launch-digest digests.json\n"
        );
        if !policy.is_empty() {
            text += "No policy allows Milan but one that names it: tenure attest policy --help\n";
        }
        text
    }
}

impl Versions {
    fn of(model: Model, tcb: Tcb) -> Self {
        let Tcb { fmc, boot_loader, tee, snp, microcode } = tcb;
        Self { fmc: (model == Model::Turin).then_some(fmc), boot_loader, tee, snp, microcode }
    }

    fn text(&self) -> String {
        let Self { fmc, boot_loader, tee, snp, microcode } = self;
        let fmc = fmc.map(|fmc| format!("fmc {fmc}, ")).unwrap_or_default();
        format!("{fmc}boot-loader {boot_loader}, tee {tee}, snp {snp}, microcode {microcode}")
    }
}

/// In tenths.
fn seconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 10.0).round() / 10.0
}

fn moment(since_1970: Duration) -> String {
    UnixTime::from_secs(since_1970.as_secs()).to_string()
}

/// As it is written on command lines.
fn name(model: Model) -> String {
    model.name().to_lowercase()
}
