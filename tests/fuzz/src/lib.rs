//! What anybody may send us, as fuzzing targets.
//!
//! Owns the list of targets ([`TARGETS`]), each with seeds from `tests/vectors`, words worth trying, and what must hold
//! whatever is sent: no panic, memory in proportion to the input ([`memory`]), and the target's own promises. The same
//! targets are run by libFuzzer (`cargo xtask fuzz`, the program `tenure-fuzz`) and by `tests/plain.rs` over seeds,
//! `regressions` and a few changes. Law no-silent-trust is what they prove.
//!
//! A target more is a line in [`TARGETS`] and a function; an input that was once too much is a file in
//! `regressions/TARGET`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a target that cannot be set up has failed, and so has one that breaks a promise"
)]

use std::fs;
use std::path::{Path, PathBuf};

pub mod memory;
mod script;
mod targets;
mod vectors;

use targets::kbs::{answer, message, service};
use targets::{appraisal, certificates, log, policy, snp, tdx, token};

/// Something that reads what anybody may send.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Reads it; panics if a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the input's language, for a dictionary.
    pub words: &'static [&'static str],
    /// What one input costs.
    pub cost: Cost,
}

/// What one input costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Microseconds: it only reads.
    Reading,
    /// Milliseconds: signatures are checked.
    Signatures,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    reading("snp-report", snp::report, snp::report_seeds, &[]),
    reading("snp-table", snp::table, snp::table_seeds, &[]),
    reading("certificate", certificates::certificate, certificates::certificate_seeds, certificates::WORDS),
    reading("revocation-list", certificates::revocation_list, certificates::list_seeds, certificates::WORDS),
    reading("pem-chain", certificates::pem_chain, certificates::pem_seeds, &["-----BEGIN CERTIFICATE-----\\x0A"]),
    reading("pck-extension", certificates::pck_extension, certificates::pck_seeds, certificates::WORDS),
    reading("tdx-quote", tdx::quote, tdx::quote_seeds, &[]),
    reading("tcb-info", tdx::tcb_info, tdx::tcb_info_seeds, tdx::WORDS),
    reading("qe-identity", tdx::qe_identity, tdx::qe_identity_seeds, tdx::WORDS),
    reading("event-log", log::event_log, log::seeds, &["Spec ID Event03\\x00"]),
    reading("policy", policy::policy, policy::seeds, policy::WORDS),
    reading("ear-claims", token::claims, token::claims_seeds, token::WORDS),
    reading(
        "ear-claims-cbor",
        token::cbor_claims,
        token::cbor_claims_seeds,
        &["\\x19\\x03\\xEC", "\\x3A\\x00\\x01\\x38\\x80"],
    ),
    reading("ear-token-cbor", token::cwt, token::cwt_seeds, &["\\xA1\\x01\\x38\\x22"]),
    reading("ear-token", token::jwt, token::jwt_seeds, &[".", "{\\\"alg\\\":\\\"none\\\"}"]),
    reading("kbs-message", message::message, message::seeds, message::WORDS),
    reading("kbs-answer", answer::answer, answer::seeds, answer::WORDS),
    reading("tdx-appraisal", appraisal::tdx, appraisal::tdx_seeds, &[]),
    Target { words: service::WORDS, ..with_signatures("kbs-service", service::service, service::seeds) },
    with_signatures("snp-evidence", snp::evidence, snp::evidence_seeds),
    with_signatures("snp-signed", snp::signed, snp::signed_seeds),
    with_signatures("tdx-evidence", tdx::evidence, tdx::evidence_seeds),
];

const fn reading(
    name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    words: &'static [&'static str],
) -> Target {
    Target { name, run, seeds, words, cost: Cost::Reading }
}

const fn with_signatures(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds, words: &[], cost: Cost::Signatures }
}

impl Target {
    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Runs it and holds it to its bound of memory.
    pub fn check(&self, input: &[u8]) {
        let most = memory::bound(self.cost, input.len());
        let peak = memory::peak(|| (self.run)(input));
        assert!(
            peak <= most,
            "{}: {peak} bytes were held at once for an input of {}; most is {most}",
            self.name,
            input.len()
        );
    }

    /// Makes what a target makes once, so that no input pays for it.
    pub fn warm_up(&self) {
        for seed in (self.seeds)() {
            (self.run)(&seed);
        }
    }

    /// Inputs that were once too much.
    #[must_use]
    pub fn regressions(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(self.name);
        let files = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
        files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// The longest input worth trying: room for as much again as the longest seed.
    #[must_use]
    pub fn longest(&self) -> usize {
        let longest = (self.seeds)().iter().map(Vec::len).max().unwrap_or_default();
        (2 * longest).clamp(256, 1 << 16)
    }
}
