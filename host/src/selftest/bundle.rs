//! What the first owner of a machine sends: results and evidence, in one file.
//!
//! Owns which files a bundle has, and its form: a tar archive, compressed with Zstandard. What must not leave a machine is
//! taken out first (module `redact`). Does not own what was found.
//!
//! Specification: POSIX.1-2017, `pax`, "ustar Interchange Format"; RFC 8878 (Zstandard).

use std::collections::BTreeMap;
use std::io;

use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use snp::hex;

use super::guest::Kept;
use super::redact::Redaction;
use super::results::Results;
use crate::audit::seen::Moment;
use crate::check::CheckReport;
use crate::check::facts::Parameters;

pub use super::redact::Identity;

/// The folder that everything is in.
const FOLDER: &str = "tenure-selftest";
/// Raised when a reader must know.
const FORMAT: u32 = 1;

const README: &str = "\
A bundle of `tenure selftest`: what guests on one host did, and what is behind that.

manifest.json      what is in here, and what was taken out
results.json       every check of every case: passed, failed, or not run
results.txt        the same for people
host.json          what `tenure check` says of the host
modules.json       KVM's modules with their parameters
certificates.bin   the table of certificates, if the machine may be named
kernel-log.txt     what the kernel logged about SEV and KVM, if it could be read
cases/CASE/        events.jsonl: all that happened; summary.txt: the screen about it;
                   console.txt: what the guest said; report-N.bin: attestation reports
";

/// A bundle, before it is packed.
#[derive(Debug)]
pub struct Bundle {
    redaction: Redaction,
    files: BTreeMap<String, Vec<u8>>,
}

#[derive(Serialize)]
struct Manifest<'a> {
    format: u32,
    tenure: &'static str,
    created: Moment,
    redacted: Vec<&'static str>,
    files: Vec<ManifestFile<'a>>,
}

#[derive(Serialize)]
struct ManifestFile<'a> {
    name: &'a str,
    bytes: usize,
    sha256: String,
}

impl Bundle {
    /// A bundle of nothing yet.
    pub fn new(identity: Identity) -> Self {
        let files = BTreeMap::from([("README.txt".to_owned(), README.as_bytes().to_vec())]);
        Self { redaction: Redaction::of_this_machine(identity), files }
    }

    /// What is known of the host.
    pub fn add_host(
        &mut self,
        check: &CheckReport,
        modules: &BTreeMap<String, Parameters>,
        kernel_log: &str,
    ) -> Result<(), serde_json::Error> {
        self.add_text("host.json", &serde_json::to_string_pretty(check)?);
        self.add_text("modules.json", &serde_json::to_string_pretty(modules)?);
        self.add_text("kernel-log.txt", kernel_log);
        Ok(())
    }

    /// What was found, and what was kept of the cases.
    pub fn add_results(&mut self, results: &Results, kept: &[Kept]) -> Result<(), serde_json::Error> {
        self.add_text("results.json", &serde_json::to_string_pretty(results)?);
        self.add_text("results.txt", &results.text(crate::paint::Paint::Plain));
        for case in kept {
            let name = |file: &str| format!("cases/{}/{file}", case.case);
            let events: Result<Vec<_>, _> = case.events.iter().map(serde_json::to_string).collect();
            self.add_text(&name("events.jsonl"), &events?.iter().map(|line| format!("{line}\n")).collect::<String>());
            self.add_text(&name("summary.txt"), &case.summary);
            self.add_text(&name("console.txt"), &String::from_utf8_lossy(&case.console));
            for (number, report) in (1..).zip(&case.reports) {
                let report = self.redaction.report(report);
                self.files.insert(name(&format!("report-{number}.bin")), report);
            }
        }
        Ok(())
    }

    /// Certificates that reports are verified with, unless they must not leave: they name the chip.
    pub fn add_certificates(&mut self, table: &[u8]) {
        if self.redaction.identity() == Identity::Kept {
            self.files.insert("certificates.bin".to_owned(), table.to_vec());
        }
    }

    /// Text without anything in it is left out.
    fn add_text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.files.insert(name.to_owned(), self.redaction.text(text).into_bytes());
        }
    }

    /// The names of its files with their sizes, in order.
    pub fn files(&self) -> impl Iterator<Item = (&str, usize)> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.len()))
    }

    /// Packs it, as of this moment.
    pub fn pack(&self, created: Moment) -> io::Result<Vec<u8>> {
        let files = self.files.iter().map(|(name, bytes)| ManifestFile {
            name,
            bytes: bytes.len(),
            sha256: hex::text(&Sha256::digest(bytes)),
        });
        let manifest = Manifest {
            format: FORMAT,
            tenure: env!("CARGO_PKG_VERSION"),
            created,
            redacted: self.redaction.described(),
            files: files.collect(),
        };
        let manifest = serde_json::to_vec_pretty(&manifest)?;
        let mut archive = tar::Builder::new(Vec::new());
        let all = std::iter::once(("manifest.json", &manifest));
        for (name, bytes) in all.chain(self.files.iter().map(|(name, bytes)| (name.as_str(), bytes))) {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(created.0);
            archive.append_data(&mut header, format!("{FOLDER}/{name}"), bytes.as_slice())?;
        }
        Ok(compress_to_vec(archive.into_inner()?.as_slice(), CompressionLevel::Fastest))
    }
}
