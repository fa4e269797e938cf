//! `tenure attest`: evidence of guests in files, and what is to be said of it.
//!
//! Owns reading it, the two steps of a verdict (verified, then appraised) and the exit code that comes of them. Does not
//! own whether anything holds: that is [`attest`]'s to find out. A policy's file is [`policy`]'s, words and keys of a
//! verdict [`verdict`]'s, what a report says [`claims`]'s.

pub mod claims;
pub mod policy;
pub mod verdict;

use std::time::{SystemTimeError, UNIX_EPOCH};

use attest::anchors::AnchorError;
use attest::check::Fault;
use attest::snp::certificates::TableError;
use attest::snp::{
    Anchors, Appraisal, CertificateTable, Endorsements, Policy, Product, ReferenceValues, Report, ReportError,
    appraise, verify,
};
use attest::{Rejected, UnixTime, Verified};

use crate::exit::ExitCode;
use crate::idblock::{IdBlockError, Source};
use policy::PolicyFileError;

/// More than any report, and than any table or list that a guest has room for.
const MOST: u64 = 1 << 20;

/// Why nothing can be said of evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A file, or a launch digest.
    #[error(transparent)]
    Read(#[from] IdBlockError),
    /// The policy.
    #[error(transparent)]
    Policy(Box<PolicyFileError>),
    /// A test's root that is none.
    #[error("test-root {from}: {source}")]
    TestRoot {
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: AnchorError,
    },
    /// Not a report.
    #[error("report {from}: malformed: {source}")]
    Report {
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: ReportError,
    },
    /// Not a table of certificates.
    #[error("certificates {from}: {source}")]
    Table {
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: TableError,
    },
    /// The time.
    #[error("now: the clock is before 1970: {0}")]
    Clock(#[from] SystemTimeError),
}

impl From<PolicyFileError> for EvidenceError {
    fn from(error: PolicyFileError) -> Self {
        Self::Policy(Box::new(error))
    }
}

impl EvidenceError {
    /// What a command's exit code is because of it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Report { .. } | Self::Table { .. } => ExitCode::EVIDENCE_INVALID,
            Self::Read(_) | Self::Policy(_) | Self::TestRoot { .. } | Self::Clock(_) => ExitCode::Usage,
        }
    }
}

/// Evidence, as it was read.
#[derive(Debug)]
pub struct Evidence {
    report: Vec<u8>,
    table: Option<Vec<u8>>,
    list: Option<Vec<u8>>,
}

impl Evidence {
    /// Reads a report, the table of certificates that goes with it, and a list of revoked ones.
    pub fn read(report: &Source, certificates: Option<&Source>, list: Option<&Source>) -> Result<Self, EvidenceError> {
        let evidence = Self {
            report: report.read("report", MOST)?,
            table: certificates.map(|from| from.read("certificates", MOST)).transpose()?,
            list: list.map(|from| from.read("crl", MOST)).transpose()?,
        };
        if let (Some(from), Some(table)) = (certificates, &evidence.table) {
            CertificateTable::parse(table).map_err(|source| EvidenceError::Table { from: from.clone(), source })?;
        }
        Ok(evidence)
    }

    /// Evidence that came otherwise than in files.
    pub fn of_bytes(report: Vec<u8>, table: Option<Vec<u8>>, list: Option<Vec<u8>>) -> Result<Self, TableError> {
        if let Some(table) = &table {
            CertificateTable::parse(table)?;
        }
        Ok(Self { report, table, list })
    }

    /// The report, if it is one. Nobody has verified it.
    pub fn report(&self) -> Result<Report<'_>, ReportError> {
        Report::parse(&self.report)
    }

    /// What is to be said of it. A list that was given on its own counts, and not the host's.
    pub fn judge(&self, anchors: &Anchors, policy: &Policy, references: &ReferenceValues, now: UnixTime) -> Judged<'_> {
        // That a table is one was checked when it was read.
        let table = self.table.as_deref().and_then(|table| CertificateTable::parse(table).ok());
        let endorsements = table.map(|table| table.endorsements()).unwrap_or_default();
        let endorsements = Endorsements { crl: self.list.as_deref().or(endorsements.crl), ..endorsements };
        match verify(&self.report, &endorsements, anchors, now) {
            Ok(verified) => {
                let appraisal = appraise(&verified, policy, references);
                Judged::Verified(verified, appraisal)
            }
            Err(rejected) => Judged::Rejected(rejected),
        }
    }
}

/// What came of evidence.
#[derive(Debug)]
pub enum Judged<'a> {
    /// It is worth nothing.
    Rejected(Rejected),
    /// It is what it says, and was compared with what is wanted.
    Verified(Verified<Report<'a>>, Appraisal),
}

impl Judged<'_> {
    /// What is wrong, if anything.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Rejected(rejected) => Some(rejected.fault()),
            Self::Verified(_, appraisal) => appraisal.checks().fault(),
        }
    }

    /// What a command's exit code is.
    pub fn exit_code(&self) -> ExitCode {
        match self.fault() {
            None => ExitCode::Success,
            Some(Fault::Evidence) => ExitCode::EVIDENCE_INVALID,
            Some(Fault::Collateral) => ExitCode::COLLATERAL,
            Some(Fault::Revoked) => ExitCode::REVOKED,
            Some(Fault::Unmet) => ExitCode::NOT_MET,
        }
    }
}

/// AMD's roots, and a test's, if somebody asked for one.
pub fn anchors(test: Option<(&Source, Product)>) -> Result<Anchors, EvidenceError> {
    anchors_and_root(test).map(|(anchors, _)| anchors)
}

/// The same, with the test's root as it was read.
pub fn anchors_and_root(test: Option<(&Source, Product)>) -> Result<(Anchors, Option<Vec<u8>>), EvidenceError> {
    let Some((from, product)) = test else { return Ok((Anchors::amd(), None)) };
    let root = from.read("test-root", MOST)?;
    let anchors = Anchors::amd()
        .with_test_root(product, &root)
        .map_err(|source| EvidenceError::TestRoot { from: from.clone(), source })?;
    Ok((anchors, Some(root)))
}

/// The moment of a verdict: now, unless somebody says another.
pub fn moment(said: Option<UnixTime>) -> Result<UnixTime, EvidenceError> {
    match said {
        Some(now) => Ok(now),
        None => Ok(UnixTime::from_secs(UNIX_EPOCH.elapsed()?.as_secs())),
    }
}
