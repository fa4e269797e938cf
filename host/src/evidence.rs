//! `tenure attest`: evidence of guests in files, and what is to be said of it.
//!
//! Owns reading reports, the two steps of a verdict (verified, then appraised) and the exit code that comes of them. Does
//! not own whether anything holds: that is [`attest`]'s to find out. Quotes are [`tdx`]'s; certificates in files of their
//! own [`certificates`]', lists of revoked ones [`lists`]'; a policy's file is [`policy`]'s, words and keys of a verdict [`verdict`]'s, what a report says
//! [`claims`]'s, what tokens claim [`trust`]'s, where two of them differ [`diff`]'s, and what one must say of a guest that is launched here
//! [`expected`]'s.

pub mod certificates;
pub mod claims;
pub mod diff;
pub mod expected;
pub mod launch_log;
pub mod lists;
pub mod policy;
pub mod tdx;
pub mod trust;
pub mod verdict;

use std::time::{SystemTimeError, UNIX_EPOCH};

use attest::anchors::AnchorError;
use attest::appraisal::Appraisal;
use attest::check::Fault;
use attest::snp::{Anchors, Endorsements, Policy, Product, ReferenceValues, Report, ReportError, appraise, verify};
use attest::{Rejected, UnixTime, Verified};

use crate::exit::ExitCode;
use crate::idblock::{IdBlockError, Source};
use certificates::{CertificateFileError, Certificates};
use expected::ExpectedError;
use launch_log::LogError;
use lists::ListFileError;
use policy::PolicyFileError;
use tdx::QuoteFileError;

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
    /// What to expect.
    #[error(transparent)]
    Expected(#[from] Box<ExpectedError>),
    /// What to expect, page by page.
    #[error(transparent)]
    Launch(#[from] Box<LogError>),
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
    /// Certificates in files of their own.
    #[error(transparent)]
    Certificates(#[from] CertificateFileError),
    /// A list of revoked ones.
    #[error(transparent)]
    List(#[from] ListFileError),
    /// A quote, or what goes with it.
    #[error(transparent)]
    Quote(Box<QuoteFileError>),
    /// A test's root in place of one that the evidence cannot rest on.
    #[error("allow-test-root {given}: {what}")]
    OtherRoot {
        /// In place of which.
        given: &'static str,
        /// On which it can rest.
        what: &'static str,
    },
    /// What a quote does not have.
    #[error(
        "the arguments certificates, vek, chain, crl, launch-digest, guest, host-data, id-key, author-key and chip are for \
         reports, not for --quote"
    )]
    OfReports,
    /// What no quote depends on.
    #[error("product is AMD's; Intel has one root for all of its platforms")]
    NoProduct,
    /// What a report does not have.
    #[error(
        "the arguments collateral, tcb-info, qe-identity, tcb-signing-chain, root-crl, pck-crl, event-log, mrtd, rtmr0 to \
         rtmr3, mrconfigid, mrowner, mrownerconfig and service-td are for quotes, not for --report"
    )]
    OfQuotes,
    /// The time.
    #[error("now: the clock is before 1970: {0}")]
    Clock(#[from] SystemTimeError),
}

impl From<PolicyFileError> for EvidenceError {
    fn from(error: PolicyFileError) -> Self {
        Self::Policy(Box::new(error))
    }
}

impl From<QuoteFileError> for EvidenceError {
    fn from(error: QuoteFileError) -> Self {
        Self::Quote(Box::new(error))
    }
}

impl EvidenceError {
    /// What a command's exit code is because of it: whoever verifies has chosen everything but the evidence.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Report { .. } => ExitCode::EVIDENCE_INVALID,
            Self::Quote(error) if error.is_evidence() => ExitCode::EVIDENCE_INVALID,
            _ => ExitCode::Usage,
        }
    }
}

/// Evidence, as it was read.
#[derive(Debug)]
pub struct Evidence {
    report: Vec<u8>,
    table: Option<Vec<u8>>,
    files: Certificates,
    list: Option<Vec<u8>>,
}

impl Evidence {
    /// Reads a report, the table of certificates that goes with it, and a list of revoked ones.
    pub fn read(report: &Source, certificates: Option<&Source>, list: Option<&Source>) -> Result<Self, EvidenceError> {
        Ok(Self {
            report: report.read("report", MOST)?,
            table: certificates.map(|from| from.read("certificates", MOST)).transpose()?,
            files: Certificates::default(),
            list: list.map(|from| lists::read("crl", from)).transpose()?,
        })
    }

    /// The same with certificates from files of their own, which count, and not those of the table.
    #[must_use]
    pub fn with_certificates(self, files: Certificates) -> Self {
        Self { files, ..self }
    }

    /// Evidence that came otherwise than in files.
    pub fn of_bytes(report: Vec<u8>, table: Option<Vec<u8>>, list: Option<Vec<u8>>) -> Self {
        Self { report, table, list, files: Certificates::default() }
    }

    /// The report, if it is one. Nobody has verified it.
    pub fn report(&self) -> Result<Report<'_>, ReportError> {
        Report::parse(&self.report)
    }

    /// What is to be said of it. A list that was given on its own counts, and not the host's.
    pub fn judge(
        &self,
        anchors: &Anchors,
        policy: &Policy,
        references: &ReferenceValues,
        now: UnixTime,
    ) -> Judged<Report<'_>> {
        let endorsements = self.table.as_deref().map(Endorsements::of_table).unwrap_or_default();
        let endorsements = self.files.over(endorsements);
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
pub enum Judged<T: attest::Evidence> {
    /// It is worth nothing.
    Rejected(Rejected),
    /// It is what it says, and was compared with what is wanted.
    Verified(Verified<T>, Appraisal<T::Anchor>),
}

impl<T: attest::Evidence> Judged<T> {
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

/// AMD's roots, with what is known that they signed, and a test's, if somebody asked for one.
pub fn anchors(test: Option<(&Source, Product)>) -> Result<Anchors, EvidenceError> {
    anchors_and_root(test).map(|(anchors, _)| anchors)
}

/// The same, with the test's root as it was read.
pub fn anchors_and_root(test: Option<(&Source, Product)>) -> Result<(Anchors, Option<Vec<u8>>), EvidenceError> {
    let amd = Anchors::amd().with_known_intermediates();
    let Some((from, product)) = test else { return Ok((amd, None)) };
    let root = from.read("test-root", MOST)?;
    let anchors =
        amd.with_test_root(product, &root).map_err(|source| EvidenceError::TestRoot { from: from.clone(), source })?;
    Ok((anchors, Some(root)))
}

/// The moment of a verdict: now, unless somebody says another.
pub fn moment(said: Option<UnixTime>) -> Result<UnixTime, EvidenceError> {
    match said {
        Some(now) => Ok(now),
        None => Ok(UnixTime::from_secs(UNIX_EPOCH.elapsed()?.as_secs())),
    }
}
