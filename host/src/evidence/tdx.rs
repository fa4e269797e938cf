//! Quotes in files, with what Intel publishes about their platforms, and event logs.
//!
//! Owns reading them and the two steps of a verdict. Collateral's files are [`collateral`]'s, what a quote says
//! [`claims`]'s.

pub mod claims;
pub mod collateral;

use attest::UnixTime;
use attest::eventlog::{self, EventLog, EventLogError};
use attest::tdx::{Anchors, Endorsed, Policy, Quote, QuoteError, ReferenceValues, appraise, verify};

use super::{EvidenceError, Judged, MOST};
use crate::idblock::{IdBlockError, Source};
use collateral::{CollateralFileError, CollateralFiles};

/// More than any area for an event log.
const LOG_MOST: u64 = 1 << 24;

/// Why nothing can be said of a quote.
#[derive(Debug, thiserror::Error)]
pub enum QuoteFileError {
    /// Not a quote.
    #[error("quote {from}: malformed: {source}")]
    Quote {
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: QuoteError,
    },
    /// Not an event log.
    #[error("event-log {from}: malformed: {source}")]
    EventLog {
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: EventLogError,
    },
    /// A file.
    #[error(transparent)]
    Read(#[from] IdBlockError),
    /// Not collateral.
    #[error(transparent)]
    Collateral(#[from] CollateralFileError),
}

impl QuoteFileError {
    /// Whether it is about what a guest sent.
    pub(super) const fn is_evidence(&self) -> bool {
        matches!(self, Self::Quote { .. } | Self::EventLog { .. })
    }
}

/// A quote with what goes with it, as it was read.
#[derive(Debug)]
pub struct QuoteEvidence {
    quote: Vec<u8>,
    collateral: CollateralFiles,
    log: Option<Vec<u8>>,
}

impl QuoteEvidence {
    /// Reads a quote and the event log that goes with it.
    pub fn read(quote: &Source, collateral: CollateralFiles, log: Option<&Source>) -> Result<Self, QuoteFileError> {
        let quote = quote.read("quote", MOST)?;
        let log = log.map(|from| from.read("event-log", LOG_MOST)).transpose()?;
        Ok(Self { quote, collateral, log })
    }

    /// Evidence that came otherwise than in files.
    pub const fn of_bytes(quote: Vec<u8>, collateral: CollateralFiles, log: Option<Vec<u8>>) -> Self {
        Self { quote, collateral, log }
    }

    /// The quote, if it is one. Nobody has verified it.
    pub fn quote(&self) -> Result<Quote<'_>, QuoteError> {
        Quote::parse(&self.quote)
    }

    /// The log, if one came along and is one. Nobody has compared it with anything.
    pub fn log(&self) -> Option<Result<EventLog<'_>, EventLogError>> {
        self.log.as_deref().map(EventLog::parse)
    }

    /// What is to be said of it.
    pub fn judge(
        &self,
        anchors: &Anchors,
        policy: &Policy,
        references: &ReferenceValues,
        now: UnixTime,
    ) -> Judged<Endorsed<'_>> {
        match verify(&self.quote, &self.collateral.borrowed(), anchors, now) {
            Ok(verified) => {
                let log = self.log();
                let log = eventlog::check(log.as_ref().map(|log| log.as_ref().map_err(|error| *error)), &verified);
                let appraisal = appraise(&verified, policy, references).with(log);
                Judged::Verified(verified, appraisal)
            }
            Err(rejected) => Judged::Rejected(rejected),
        }
    }
}

/// Intel's root, with what is known that it signed, and a test's, if somebody asked for one.
pub fn anchors(test: Option<&Source>) -> Result<Anchors, EvidenceError> {
    anchors_and_root(test).map(|(anchors, _)| anchors)
}

/// The same, with the test's root as it was read.
pub fn anchors_and_root(test: Option<&Source>) -> Result<(Anchors, Option<Vec<u8>>), EvidenceError> {
    let intel = Anchors::intel().with_known_intermediates();
    let Some(from) = test else { return Ok((intel, None)) };
    let root = from.read("test-root", MOST)?;
    let anchors =
        intel.with_test_root(&root).map_err(|source| EvidenceError::TestRoot { from: from.clone(), source })?;
    Ok((anchors, Some(root)))
}
