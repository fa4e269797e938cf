//! Attestation reports that guests of a self-test hand over, and whether they say what they should.
//!
//! Owns what a report of these guests must say, and where the certificates for it come from. Whether it is genuine is
//! [`attest`]'s to find out; without certificates nobody knows, and that is what is said.

use std::path::Path;
use std::time::{SystemTimeError, UNIX_EPOCH};

use attest::UnixTime;
use attest::snp::report::Requester;
use attest::snp::{Anchors, CertificateTable, Endorsements, Report, certificates, verify};
use snp::digest::Digest;
use snp::hex;
use snp::id_block::KeyDigests;

use super::results::Check;
use crate::config::inputs::InputError;
use crate::run::certificates::{CertificateFile, CertificatesError};

/// What a report of a guest must say.
pub(super) struct Expected {
    pub measurement: Digest,
    pub host_data: [u8; 32],
    pub policy: u64,
    /// None if nobody signed its launch.
    pub keys: Option<KeyDigests>,
}

/// Who knows whether a report is genuine.
#[derive(Debug)]
pub struct Verifier {
    anchors: Anchors,
    /// The chip's certificates, as guests get them with a report.
    table: Option<Vec<u8>>,
    now: UnixTime,
}

/// Why reports cannot be verified as somebody wants it.
#[derive(Debug, thiserror::Error)]
pub enum EndorsementError {
    /// The file.
    #[error(transparent)]
    Input(#[from] InputError),
    /// What is in it, a moment after it was opened.
    #[error("snp-certificates: {0}")]
    Read(#[from] CertificatesError),
    /// What is in it.
    #[error("snp-certificates: {0}")]
    Table(#[from] certificates::TableError),
    /// Certificates are valid for a time.
    #[error("the clock is before 1970: {0}")]
    Clock(#[from] SystemTimeError),
}

impl Verifier {
    /// For reports of hardware, which AMD's roots vouch for and nothing else; with the certificates in this file.
    pub fn for_hardware(certificates: Option<&Path>) -> Result<Self, EndorsementError> {
        let read = |path| -> Result<_, EndorsementError> { Ok(CertificateFile::open(path)?.lock()?.table().to_vec()) };
        Self::new(Anchors::amd(), certificates.map(read).transpose()?)
    }

    /// With these roots and this table of certificates, now.
    pub fn new(anchors: Anchors, table: Option<Vec<u8>>) -> Result<Self, EndorsementError> {
        if let Some(table) = &table {
            CertificateTable::parse(table)?;
        }
        let now = UnixTime::from_secs(UNIX_EPOCH.elapsed()?.as_secs());
        Ok(Self { anchors, table, now })
    }

    /// The table of certificates.
    pub fn table(&self) -> Option<&[u8]> {
        self.table.as_deref()
    }

    /// What is to be said of a guest that handed these over.
    pub(super) fn judge(&self, reports: &[Vec<u8>], expected: &Expected) -> Vec<Check> {
        if reports.is_empty() {
            return vec![Check::not_run("report", "the guest handed over no attestation report")];
        }
        reports.iter().flat_map(|report| self.judge_one(report, expected)).collect()
    }

    fn judge_one(&self, bytes: &[u8], expected: &Expected) -> Vec<Check> {
        let report = match Report::parse(bytes) {
            Ok(report) => report,
            Err(error) => return vec![Check::failed("report", error.to_string())],
        };
        let equal = |id, seen: &[u8], wanted: &[u8]| {
            let text = hex::text(seen);
            if seen == wanted {
                Check::passed(id, text)
            } else {
                Check::failed(id, format!("{text}; it must be {}", hex::text(wanted)))
            }
        };
        let key = |digest: Option<Digest>| digest.map_or([0; 48], |digest| digest.0);
        let (id_key, author_key) = match &expected.keys {
            Some(keys) => (key(Some(keys.id_key)), key(keys.author_key)),
            None => ([0; 48], [0; 48]),
        };
        vec![
            Check::passed("report", format!("version {}", report.version())),
            self.signature(bytes),
            equal("report-measurement", report.measurement(), &expected.measurement.0),
            equal("report-host-data", report.host_data(), &expected.host_data),
            equal("report-policy", &report.policy().to_be_bytes(), &expected.policy.to_be_bytes()),
            equal("report-id-key", report.id_key_digest(), &id_key),
            equal("report-author-key", report.author_key_digest(), &author_key),
            match report.requester() {
                Requester::Vmpl(0) => Check::passed("report-vmpl", "0"),
                Requester::Vmpl(other) => Check::failed("report-vmpl", format!("{other}; it must be 0")),
                Requester::Host => Check::failed("report-vmpl", "the host asked for it, and not the guest"),
            },
        ]
    }

    /// Whether the report is genuine.
    fn signature(&self, bytes: &[u8]) -> Check {
        const ID: &str = "report-signature";
        let Some(table) = self.table() else {
            return Check::not_run(ID, "there are no certificates: give the chip's with --snp-certificates");
        };
        let endorsements = match CertificateTable::parse(table) {
            Ok(table) => table.endorsements(),
            Err(error) => return Check::failed(ID, error.to_string()),
        };
        self.verdict(ID, bytes, &endorsements)
    }

    fn verdict(&self, id: &'static str, bytes: &[u8], endorsements: &Endorsements<'_>) -> Check {
        match verify(bytes, endorsements, &self.anchors, self.now) {
            Ok(verified) => match verified.anchor() {
                anchor if anchor.is_hardware() => Check::passed(id, format!("it holds, and rests on {anchor}")),
                anchor => Check::passed(id, format!("it holds, and rests on {anchor}: no hardware vouches for it")),
            },
            Err(rejected) => Check::failed(id, rejected.to_string()),
        }
    }
}
